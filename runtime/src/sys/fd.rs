//! File descriptors: read and write in bounds, duplicate, close in ranges, pass over sockets.

#![allow(unsafe_code, reason = "the system call module")]

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::error::{Context as _, Error, Result};

/// `CLOSE_RANGE_CLOEXEC` of `linux/close_range.h`: mark instead of close (Linux 5.11).
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Reads `fd` from where it stands to its end, but at most `limit` bytes: one byte more is an error (`EFBIG`).
///
/// # Errors
/// The errno of read(2), or `EFBIG`.
pub fn read_to_end(fd: impl AsFd, limit: usize) -> nix::Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match nix::unistd::read(&fd, &mut chunk) {
            Ok(0) => return Ok(data),
            Ok(n) if data.len() + n > limit => return Err(Errno::EFBIG),
            Ok(n) => data.extend_from_slice(&chunk[..n]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Writes all of `data`, in more than one call where the kernel takes less.
///
/// # Errors
/// The errno of write(2); `EIO` where the kernel takes nothing.
pub fn write_all(fd: impl AsFd, mut data: &[u8]) -> nix::Result<()> {
    while !data.is_empty() {
        match nix::unistd::write(&fd, data) {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => data = &data[n..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A duplicate of `fd` at number `at_least` or above, close-on-exec.
///
/// # Errors
/// The errno of fcntl(2), `F_DUPFD_CLOEXEC`.
pub fn duplicate(fd: impl AsFd, at_least: RawFd) -> nix::Result<OwnedFd> {
    let raw = fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(at_least))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes `target` refer to what `fd` refers to and stay open across execve: for 0, 1 and 2 and for handed-on fds.
///
/// # Errors
/// The errno of dup3(2) or fcntl(2).
pub fn place_at(fd: impl AsFd, target: RawFd) -> nix::Result<()> {
    if fd.as_fd().as_raw_fd() == target {
        return set_inheritable(fd.as_fd());
    }
    // SAFETY: dup2 reads no memory; whoever owned `target` gives it up (0 to 2 belong to nobody's OwnedFd).
    Errno::result(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) }).map(drop)
}

/// Clears close-on-exec on `fd`.
///
/// # Errors
/// The errno of fcntl(2).
pub fn set_inheritable(fd: BorrowedFd<'_>) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
}

/// Gives an open file an SELinux label (`security.selinux`, setxattr(2)).
///
/// # Errors
/// `EOPNOTSUPP` for a file system that keeps no labels, or a kernel that does not run SELinux; `EINVAL` for a label
/// that its policy does not have.
pub fn set_security_label(fd: impl AsFd, label: &str) -> nix::Result<()> {
    let name = c"security.selinux";
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the name ends in NUL, the pointer and the length are those of one text; the kernel copies both.
    let set = unsafe { libc::fsetxattr(fd, name.as_ptr(), label.as_ptr().cast(), label.len(), 0) };
    Errno::result(set).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec, those included that skeg does not know of.
///
/// # Errors
/// The errno of close_range(2); `EINVAL` before Linux 5.11.
pub fn mark_cloexec_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: the call takes three integers and marks descriptors.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first.cast_unsigned(), u32::MAX >> 1, CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(result).map(drop)
}

/// Whether `fd` is open in this process.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads no memory and changes nothing; a number that is not open gives EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// A descriptor that the caller of skeg left open for it (`--preserve-fds`, `LISTEN_FDS`, `_LIBCONTAINER`-free).
///
/// # Errors
/// `EBADF` where it is not open.
pub fn inherited(fd: RawFd) -> nix::Result<BorrowedFd<'static>> {
    if fd < 0 || !is_open(fd) {
        return Err(Errno::EBADF);
    }
    // SAFETY: it is open, and nothing in skeg owns descriptors that the caller of skeg left open.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Checks that the caller left `count` descriptors from `first` on open, before skeg opens any of its own (row D10).
///
/// # Errors
/// Which one is not open.
pub fn check_inherited(first: RawFd, count: u32) -> Result<()> {
    let last = i64::from(first) + i64::from(count);
    for fd in i64::from(first)..last {
        if !RawFd::try_from(fd).is_ok_and(is_open) {
            return Err(Error::new(format!("cannot hand {count} descriptors on: {fd} is not open")));
        }
    }
    Ok(())
}

/// Sends `data` and, with it, `fds` as SCM_RIGHTS.
///
/// # Errors
/// The errno of sendmsg(2).
pub fn send_with_fds(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let iov = [IoSlice::new(data)];
    loop {
        match sendmsg::<()>(socket.as_fd().as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// The most descriptors that come with a message: one for each v1 hierarchy, of which Linux has at most 16 with a
/// controller (`CGROUP_SUBSYS_COUNT`), and some with a name alone.
const MOST_RECEIVED: usize = 64;

/// Receives one message into `buffer`, with the descriptors that come with it, all close-on-exec.
///
/// # Errors
/// The errno of recvmsg(2), or a message that did not fit.
pub fn receive_with_fds(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; MOST_RECEIVED]);
    let mut iov = [std::io::IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &mut iov,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(Errno::EINTR) => {}
            other => break other.context(|| "receive from a socket")?,
        }
    };
    let mut fds = Vec::new();
    for part in message.cmsgs().context(|| "receive from a socket")? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just installed these descriptors for this message alone.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Error::new("receive from a socket: the message is too long"));
    }
    Ok((message.bytes, fds))
}
