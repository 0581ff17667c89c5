//! `tmpcopyup`: a new tmpfs gets what the image has at its mount point.
//!
//! The walk goes by fd, follows no link, opens nothing but directories and regular files, and is bounded in count and
//! depth; the size of the tmpfs bounds the bytes (row A19). Types, owners and modes are kept; hard links become files
//! of their own, and neither extended attributes nor mounts below the directory are copied.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::sendfile::sendfile;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::error::{Context as _, Error, Result};
use crate::sys::path::{open_own, stat};

/// The most files, directories and links that are copied.
const MOST_ENTRIES: u32 = 65_536;
/// The deepest directory that is copied.
const DEEPEST: u32 = 64;

/// Copies what is in the directory `from` into `to`, the root of a tmpfs that is not attached yet.
///
/// # Errors
/// Which file could not be copied, or that there are too many.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut left = MOST_ENTRIES;
    let read = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let from = open_own(from, ".", read, Mode::empty()).context(|| "tmpcopyup: open the directory")?;
    let found = stat(&from).context(|| "tmpcopyup: stat the directory")?;
    copy_directory(from, to, DEEPEST, &mut left).map_err(|error| error.context("tmpcopyup"))?;
    own(to, c"", &found, AtFlags::AT_EMPTY_PATH).context(|| "tmpcopyup: chown the directory")
}

fn copy_directory(from: OwnedFd, to: &OwnedFd, depth: u32, left: &mut u32) -> Result<()> {
    let mut dir = Dir::from_fd(from).context(|| "read a directory")?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.context(|| "read a directory")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| Error::new(format!("more than {MOST_ENTRIES} files are not copied")))?;
            names.push(name.to_owned());
        }
    }
    for name in names {
        copy_entry(&dir, to, &name, depth, left).map_err(|error| error.context(name.to_string_lossy()))?;
    }
    Ok(())
}

fn copy_entry(from: &Dir, to: &OwnedFd, name: &CStr, depth: u32, left: &mut u32) -> Result<()> {
    let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "stat")?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let mode = Mode::from_bits_truncate(found.st_mode & 0o7777);
    match kind {
        SFlag::S_IFDIR => copy_subdirectory(from, to, name, depth, left),
        SFlag::S_IFREG => copy_file(from, to, name),
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name).context(|| "read a link")?;
            symlinkat(target.as_os_str(), to, name).context(|| "make a link")?;
            own(to, name, &found, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "chown")
        }
        _ => {
            mknodat(to, name, kind, mode, found.st_rdev).context(|| "mknod")?;
            own(to, name, &found, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "chown")
        }
    }
}

fn copy_subdirectory(from: &Dir, to: &OwnedFd, name: &CStr, depth: u32, left: &mut u32) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(|| Error::new("directories too deep are not copied"))?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let source = match open_own(from, path(name), flags, Mode::empty()) {
        Err(Errno::EXDEV) => return Ok(()),
        other => other.context(|| "open")?,
    };
    let found = stat(&source).context(|| "stat")?;
    mkdirat(to, name, Mode::S_IRWXU).context(|| "make a directory")?;
    let copy = open_own(to, path(name), flags, Mode::empty()).context(|| "open")?;
    copy_directory(source, &copy, depth, left)?;
    finish(&copy, &found)
}

/// `O_NONBLOCK`, so that a FIFO that took the file's place cannot block; what was opened is looked at again.
fn copy_file(from: &Dir, to: &OwnedFd, name: &CStr) -> Result<()> {
    let source = match open_own(from, path(name), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()) {
        Err(Errno::EXDEV) => return Ok(()),
        other => other.context(|| "open")?,
    };
    let found = stat(&source).context(|| "stat")?;
    if found.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::new("was replaced while it was copied"));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let copy = open_own(to, path(name), flags, Mode::S_IRUSR).context(|| "make")?;
    let mut rest = u64::try_from(found.st_size).unwrap_or(0);
    while rest > 0 {
        // Linux moves at most 0x7ffff000 bytes in a call (sendfile(2)).
        let count = usize::try_from(rest.min(0x7fff_f000)).unwrap_or(0);
        match sendfile(&copy, &source, None, count) {
            Ok(0) => break,
            Ok(copied) => rest = rest.saturating_sub(copied as u64),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from_errno("copy", errno)),
        }
    }
    finish(&copy, &found)
}

/// The owner first: chown(2) takes set-id bits away.
fn finish(copy: &OwnedFd, found: &FileStat) -> Result<()> {
    own(copy, c"", found, AtFlags::AT_EMPTY_PATH).context(|| "chown")?;
    fchmod(copy, Mode::from_bits_truncate(found.st_mode & 0o7777)).context(|| "chmod")
}

fn own(dir: impl AsFd, name: &CStr, found: &FileStat, flags: AtFlags) -> nix::Result<()> {
    fchownat(dir, name, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)), flags)
}

fn path(name: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
