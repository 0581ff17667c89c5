//! Terminal ioctls that the nix crate has no functions for: ioctl_tty(2).

#![allow(unsafe_code, reason = "the system call module")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Opens the other side of a pseudo terminal by its master, whatever its name leads to (`TIOCGPTPEER`, Linux 4.13), as
/// nobody's controlling terminal.
///
/// # Errors
/// `EIO` where the pair is locked or of another mount of devpts, `ENOTTY` where `master` is no master.
pub fn open_peer(master: impl AsFd) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    let raw = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let raw = Errno::result(raw)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Lets the other side be opened (`TIOCSPTLCK` with 0).
///
/// # Errors
/// `ENOTTY` where `master` is no master.
pub fn unlock(master: impl AsFd) -> nix::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the argument points to an int that outlives the call.
    let result = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) };
    Errno::result(result).map(drop)
}

/// The number of the pair in its devpts (`TIOCGPTN`).
///
/// # Errors
/// `ENOTTY` where `master` is no master.
pub fn pty_number(master: impl AsFd) -> nix::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the argument points to an unsigned int that outlives the call.
    let result = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    Errno::result(result).map(|_| number)
}

/// Rows and columns, in characters (`TIOCGWINSZ`).
///
/// # Errors
/// `ENOTTY`.
pub fn window_size(terminal: impl AsFd) -> nix::Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the argument points to a winsize that outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(result).map(|_| size)
}

/// Sets the size of either side (`TIOCSWINSZ`); a change sends SIGWINCH to the foreground process group.
///
/// # Errors
/// `ENOTTY`.
pub fn set_window_size(terminal: impl AsFd, size: &libc::winsize) -> nix::Result<()> {
    // SAFETY: the argument points to a winsize that outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) };
    Errno::result(result).map(drop)
}
