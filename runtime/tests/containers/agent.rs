//! The receiving end of a seccomp listener: seccomp_unotify(2).

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::sys::answer_next;

/// Answers the next system call that waits with `errno`; its number and the process that made it.
pub fn refuse_next(listener: &OwnedFd, errno: Errno) -> (i32, u32) {
    answer_next(listener, -(errno as i32), 0).unwrap()
}

/// Lets every system call pass that waits, until nobody is left that could make one; their numbers.
pub fn let_all_pass(listener: &OwnedFd) -> Vec<i32> {
    // SECCOMP_USER_NOTIF_FLAG_CONTINUE of linux/seccomp.h.
    std::iter::from_fn(|| answer_next(listener, 0, 1).ok()).map(|(number, _)| number).collect()
}
