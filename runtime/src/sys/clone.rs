//! clone3(2), setns(2), unshare(2): new processes and namespaces.

#![allow(unsafe_code, reason = "the system call module")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// `CLONE_NEWTIME` of `linux/sched.h` (Linux 5.6).
pub const NEWTIME: u64 = 0x80;
/// `CLONE_INTO_CGROUP` of `linux/sched.h` (Linux 5.7).
const INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_PIDFD` of `linux/sched.h`.
const PIDFD: u64 = 0x1000;
/// `CLONE_PARENT` of `linux/sched.h`.
const PARENT: u64 = 0x8000;

/// Which of the two processes goes on after [`clone_process`].
#[derive(Debug)]
pub enum Cloned {
    /// The caller: the new process and a descriptor of it.
    Parent {
        /// Its id as the caller's PID namespace numbers it.
        pid: Pid,
        /// A pidfd of it, close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// clone3(2) with fork's meaning: the child has a copy of the caller's memory and goes on where the caller stood.
///
/// `namespaces` are the `CLONE_NEW*` bits; with `cgroup` the child is born in that cgroup v2 directory; with `sibling`
/// it becomes a child of the caller's parent, which then can wait for it.
///
/// The caller must be single-threaded, so that the child finds every lock of the allocator free.
///
/// # Errors
/// The errno of clone3(2).
pub fn clone_process(namespaces: u64, cgroup: Option<BorrowedFd<'_>>, sibling: bool) -> nix::Result<Cloned> {
    let mut raw_pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers; all zero is its documented neutral value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | PIDFD;
    args.pidfd = (&raw mut raw_pidfd).expose_provenance() as u64;
    if sibling {
        // The exit signal of a CLONE_PARENT child is its parent's own; the field must be 0.
        args.flags |= PARENT;
    } else {
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    }
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is a full clone_args of the size given; without CLONE_VM and with no stack the child runs on its
    // own copy of this stack; `raw_pidfd` outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match i32::try_from(Errno::result(result)?).map_err(|_| Errno::EOVERFLOW)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: CLONE_PIDFD stored a new descriptor here before the call returned.
            let pidfd = unsafe { OwnedFd::from_raw_fd(raw_pidfd) };
            Ok(Cloned::Parent { pid: Pid::from_raw(pid), pidfd })
        }
    }
}

/// setns(2): joins the namespace (or, for a pidfd, the namespaces) of the given types.
///
/// # Errors
/// The errno of setns(2).
pub fn join(namespace: impl AsFd, types: u64) -> nix::Result<()> {
    let types = i32::try_from(types).map_err(|_| Errno::EINVAL)?;
    // SAFETY: two integers.
    Errno::result(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), types) }).map(drop)
}

/// unshare(2): new namespaces of the given types for this process (for PID and time: for its children).
///
/// # Errors
/// The errno of unshare(2).
pub fn unshare(types: u64) -> nix::Result<()> {
    let types = i32::try_from(types).map_err(|_| Errno::EINVAL)?;
    nix::sched::unshare(CloneFlags::from_bits_retain(types))
}

/// Ends this process at once: no destructor, no buffered output. For the child half, which shares its parent's code.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(i32::from(status)) }
}

/// The type of the namespace that `fd` refers to, as its `CLONE_NEW*` bit (`NS_GET_NSTYPE`, ioctl_ns(2)).
///
/// # Errors
/// `ENOTTY` where `fd` is not a namespace.
pub fn namespace_type(fd: impl AsFd) -> nix::Result<u64> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    let result = Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) })?;
    Ok(u64::from(result.cast_unsigned()))
}
