//! The security of a process: capabilities, labels, seccomp.

pub mod caps;
pub mod lsm;
pub mod notify;
pub mod seccomp;
pub mod syscalls;
