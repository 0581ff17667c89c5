//! The program that containers can see as `/proc/PID/exe` is a sealed copy in memory, never the file on the host.
//!
//! A container that can open the runtime's own file may write to it (CVE-2019-5736) or poison its page cache
//! (CVE-2022-0847). The copy is made and executed once, first thing, by the commands that create a process in a
//! container; it costs one extra execve. It is made before any cgroup is entered, so that nobody's limit pays.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CString, OsString, c_char};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;

use crate::error::{Context as _, Result};
use crate::sys::procfs::own_program;

/// `MFD_EXEC` of `linux/memfd.h` (Linux 6.3): needed where `vm.memfd_noexec` is set, unknown before.
const MFD_EXEC: u32 = 0x10;
/// `F_SEAL_EXEC` of `linux/fcntl.h` (Linux 6.3).
const F_SEAL_EXEC: i32 = 0x20;

/// Nothing can be written, grown or cut any more, and no seal can be taken off.
const SEALED: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// The variables that the commands which make processes look at. Nothing else of the caller's environment goes into the
/// copy, whose memory the init process begins with: `/proc/PID/environ` would show it (row C12).
const VARIABLES: [&str; 5] =
    ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];

/// Goes on as a sealed copy of this program, with the same arguments and those [`VARIABLES`] that are set; returns where
/// this already is one.
///
/// # Errors
/// Which step failed, and why.
pub fn ensure_sealed() -> Result<()> {
    let program = own_program().context(|| "open the runtime's own program")?;
    if is_sealed(&program) {
        return Ok(());
    }
    let copy = sealed_copy(&program).context(|| "make a sealed copy of the runtime's own program")?;
    drop(program);
    Err(execute(&copy)).context(|| "execute the sealed copy of the runtime's own program")
}

fn is_sealed(program: impl AsFd) -> bool {
    fcntl(program, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SEALED))
}

fn sealed_copy(program: impl AsFd) -> nix::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = match memfd_create(c"skeg", flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(c"skeg", flags)?,
        other => other?,
    };
    let size = usize::try_from(nix::sys::stat::fstat(program.as_fd())?.st_size).map_err(|_| Errno::EFBIG)?;
    let mut copied = 0;
    while copied < size {
        match sendfile(&copy, program.as_fd(), None, size - copied) {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => copied += n,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Not known before Linux 6.3, and no more than a nicety: write access is what the other seals take.
    let _ = fcntl(&copy, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(F_SEAL_EXEC)));
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALED))?;
    Ok(copy)
}

/// execveat(2) of an fd with this process's own arguments; returns only to say why it failed.
fn execute(program: &OwnedFd) -> Errno {
    let arguments: Vec<CString> = std::env::args_os().filter_map(c_string).collect();
    let environment: Vec<CString> = VARIABLES
        .iter()
        .filter_map(|name| {
            let mut entry = OsString::from(name);
            entry.push("=");
            entry.push(std::env::var_os(name)?);
            c_string(entry)
        })
        .collect();
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    // SAFETY: the path is a C string literal; both arrays end in null, and their strings outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(result).err().unwrap_or(Errno::EIO)
}

/// What the kernel gave us cannot contain a NUL.
fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md C1: the copy cannot be written, not even by its maker.
    #[test]
    fn c1_copy_is_sealed_against_writing() {
        let source = memfd_create(c"source", MFdFlags::MFD_CLOEXEC).unwrap();
        crate::sys::fd::write_all(&source, b"#!program").unwrap();
        nix::unistd::lseek(&source, 0, nix::unistd::Whence::SeekSet).unwrap();
        assert!(!is_sealed(&source));
        let copy = sealed_copy(&source).unwrap();
        assert!(is_sealed(&copy));
        assert_eq!(nix::unistd::write(&copy, b"x").unwrap_err(), Errno::EPERM);
        assert_eq!(nix::unistd::ftruncate(&copy, 0).unwrap_err(), Errno::EPERM);
    }
}
