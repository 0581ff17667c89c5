//! ioctl(2) on a seccomp listener: seccomp_unotify(2).

#![allow(unsafe_code, reason = "ioctl(2) has no safe form")]

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

/// Answers the next system call that waits with `error` and `flags` of `struct seccomp_notif_resp`; its number and the process that
/// made it.
pub fn answer_next(listener: &OwnedFd, error: i32, flags: u32) -> nix::Result<(i32, u32)> {
    // SAFETY: both structures are plain integers, and all zero is what the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the structure has the kernel's size and outlives the call.
    let received =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
    Errno::result(received)?;
    let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
    // SAFETY: as above.
    let sent =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    Errno::result(sent)?;
    Ok((call.data.nr, call.pid))
}
