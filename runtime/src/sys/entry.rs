//! The entry point of the program, in place of the standard library's: that reads `/proc/self/maps` to find the stack's guard
//! page and sets handlers that name a stack overflow, 17 system calls of each command (security.md's rules need neither: the kernel
//! ends a process that overflows its stack). What a program that is started by others does need of it is here.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;

/// The C library calls this. `std::env` has the arguments too where that is glibc, and not where it is musl.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    fill_standard_descriptors();
    ignore_broken_pipes();
    // Without its own name.
    let arguments: Vec<OsString> = (1..usize::try_from(argc).unwrap_or(0))
        // SAFETY: execve(2) gives a program so many strings, each with a NUL at its end, that stay.
        .map(|index| OsStr::from_bytes(unsafe { CStr::from_ptr(*argv.add(index)) }.to_bytes()).to_owned())
        .collect();
    let status = crate::command(&arguments);
    // As the standard library does at its end: what a reader that has gone will never see is no failure.
    let _ = std::io::stdout().flush();
    status
}

/// Opens `/dev/null` for each of descriptors 0 to 2 that the caller closed: the next file that is opened would be taken for it,
/// a message to standard error go into it (CVE-2002-0572 is an example). Without `/dev/null` there is no safe way on.
fn fill_standard_descriptors() {
    let mut descriptors = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the array has three elements and outlives the call, which does not wait.
    while Errno::result(unsafe { libc::poll(descriptors.as_mut_ptr(), 3, 0) }) == Err(Errno::EINTR) {}
    for closed in descriptors.iter().filter(|descriptor| descriptor.revents & libc::POLLNVAL != 0) {
        // SAFETY: the path is a C string. The lowest free descriptor is the one that was found closed, and stays open.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } != closed.fd {
            std::process::abort();
        }
    }
}

/// A write to a pipe whose reader has gone fails with EPIPE and does not end the process. execve(2) is preceded by a reset.
fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is no handler whose code would matter.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
