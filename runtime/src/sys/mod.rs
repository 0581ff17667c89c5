//! Every system call that skeg makes by itself, and all of its `unsafe` code: one call a wrapper.

pub mod bpf;
pub mod clone;
pub mod fd;
pub mod mount;
pub mod netlink;
pub mod path;
pub mod pid;
pub mod posix_spawn;
pub mod process;
pub mod procfs;
pub mod seal;
pub mod seccomp;
pub mod tty;
