//! The receiving end of a seccomp listener: seccomp_unotify(2).

#![allow(unsafe_code, reason = "ioctl(2) has no safe form")]

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

/// Answers the next system call that waits with `errno`; its number and the process that made it.
pub fn refuse_next(listener: &OwnedFd, errno: Errno) -> (i32, u32) {
    answer_next(listener, -(errno as i32), 0).unwrap()
}

/// Lets every system call pass that waits, until nobody is left that could make one; their numbers.
pub fn let_all_pass(listener: &OwnedFd) -> Vec<i32> {
    // SECCOMP_USER_NOTIF_FLAG_CONTINUE of linux/seccomp.h.
    std::iter::from_fn(|| answer_next(listener, 0, 1).ok()).map(|(number, _)| number).collect()
}

fn answer_next(listener: &OwnedFd, error: i32, flags: u32) -> nix::Result<(i32, u32)> {
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
