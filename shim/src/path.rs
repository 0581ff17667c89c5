//! The shim's one module for files and paths: own files go by the fd of their directory and never through a link.

#![allow(clippy::disallowed_methods, reason = "the path module")]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::UnlinkatFlags;

use crate::error::{Context as _, Error, Result};

/// Room for what is usually read.
const USUAL_SIZE: usize = 16 << 10;
/// The longest id: file names are made of it, with a suffix.
const ID_LIMIT: usize = 240;

/// An id that is one plain file name: `[A-Za-z0-9_+.-]+`, not `.` or `..` (security.md G1, I5).
///
/// # Errors
/// `InvalidArgument` with what the id is for, and the id.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+.-".contains(c);
    if id.is_empty() || id.len() > ID_LIMIT || id == "." || id == ".." || !id.chars().all(plain) {
        return Err(Error::invalid(format!(
            "{what} {id:?}: must be 1 to {ID_LIMIT} of the characters A-Z a-z 0-9 _ + . -, and not . or .."
        )));
    }
    Ok(())
}

/// An absolute path without `..`: what a manager may name (bundle, log file, logger).
///
/// # Errors
/// `InvalidArgument` with what the path is for, and the path.
pub fn check_absolute(what: &str, path: &str) -> Result<PathBuf> {
    let path_buf = PathBuf::from(path);
    let plain = path_buf.components().all(|part| !matches!(part, Component::ParentDir));
    if !path_buf.is_absolute() || !plain || path.contains('\0') {
        return Err(Error::invalid(format!("{what} {path:?}: must be an absolute path without ..")));
    }
    Ok(path_buf)
}

/// `dir/name`, where `name` is one plain component.
pub fn child(dir: &Path, name: &str) -> PathBuf {
    debug_assert!(!name.contains('/'));
    dir.join(name)
}

/// openat2(2) in a directory that belongs to the shim: nothing above it, no link, no other mount.
fn open_own(dir: impl AsFd, name: &str, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
    nix::fcntl::openat2(dir, name, how)
}

/// A directory that the manager or this program names, opened `O_PATH` and never through a last link.
///
/// # Errors
/// The errno of openat2(2).
pub fn open_dir(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat2(AT_FDCWD, path, OpenHow::new().flags(flags))
}

/// The directory `name` of `dir`, made (0700) where it is missing, opened `O_PATH`; a link in its place is an error.
///
/// # Errors
/// The errno of mkdirat(2) or openat2(2).
pub fn make_dir_in(dir: impl AsFd, name: &str) -> nix::Result<OwnedFd> {
    match nix::sys::stat::mkdirat(&dir, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_own(dir, name, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
}

/// Makes the directory `name` in `dir`, which others may search: a container's root, whatever its user is.
///
/// # Errors
/// The errno of mkdirat(2) or fchmodat(2).
pub fn make_root_in(dir: impl AsFd, name: &str) -> nix::Result<()> {
    make_dir_in(&dir, name)?;
    let mode = Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH;
    nix::sys::stat::fchmodat(dir, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
}

/// The directory `path` below `dir`, reached without links and without leaving `dir`; other mounts may be crossed,
/// because mounts are made on top of each other.
///
/// # Errors
/// The errno of openat2(2); `ELOOP` for a link.
pub fn open_mount_target(dir: impl AsFd, path: &str) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    nix::fcntl::openat2(dir, path, how)
}

/// Reads `name` of an own directory whole, but at most `limit` bytes.
///
/// # Errors
/// The errno of openat2(2) or read(2); `EFBIG`.
pub fn read_in(dir: impl AsFd, name: &str, limit: usize) -> nix::Result<Vec<u8>> {
    read_to_end(open_own(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?, limit)
}

/// Reads a file of the host (a kernel file, a configuration) whole, but at most `limit` bytes.
///
/// # Errors
/// The errno of open(2) or read(2); `EFBIG`.
pub fn read(path: &Path, limit: usize) -> nix::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    read_to_end(nix::fcntl::open(path, flags, Mode::empty())?, limit)
}

/// Reads from where `fd` stands to its end, but at most `limit` bytes.
///
/// # Errors
/// The errno of read(2); `EFBIG`.
pub fn read_to_end(fd: OwnedFd, limit: usize) -> nix::Result<Vec<u8>> {
    // Most of what is read is small, kernel files above all: one read and one that finds the end.
    let mut data = Vec::with_capacity(limit.min(USUAL_SIZE));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let result = std::fs::File::from(fd).take(bound).read_to_end(&mut data);
    result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    if data.len() > limit { Err(Errno::EFBIG) } else { Ok(data) }
}

/// Puts `data` in place of the file `name` of an own directory, mode 0600, in one step (temporary file and rename).
///
/// # Errors
/// The errno of the call that failed.
pub fn write_in(dir: impl AsFd, name: &str, data: &[u8]) -> nix::Result<()> {
    let temporary = format!(".{name}.tmp");
    let _ = remove_in(&dir, &temporary);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = open_own(&dir, &temporary, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    std::fs::File::from(file)
        .write_all(data)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    nix::fcntl::renameat(&dir, temporary.as_str(), &dir, name)
}

/// As `write_in`, but for everybody to read (0644): files that containers get.
///
/// # Errors
/// The errno of the call that failed.
pub fn write_public_in(dir: impl AsFd, name: &str, data: &[u8]) -> nix::Result<()> {
    write_in(&dir, name, data)?;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
    nix::sys::stat::fchmodat(dir, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
}

/// Writes `value` in one write(2) to an existing kernel file.
///
/// # Errors
/// The errno of open(2) or write(2).
pub fn write_kernel_file(path: &Path, value: &[u8]) -> nix::Result<()> {
    let file = nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(file, value).map(drop)
}

/// Removes the file `name` of `dir`, never what a link points to; already gone is fine.
///
/// # Errors
/// The errno of unlinkat(2) but `ENOENT`.
pub fn remove_in(dir: impl AsFd, name: &str) -> nix::Result<()> {
    match nix::unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// The names in a directory of the kernel (cgroups), directories only, at most `limit`.
///
/// # Errors
/// What reading the directory failed with.
pub fn directories_in(path: &Path, limit: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
        if found.len() == limit {
            break;
        }
    }
    Ok(found)
}

/// A directory for sockets: made 0700 where it is missing; ours, a real directory, and nobody else's to write or to
/// search (security.md I1 to I3).
///
/// # Errors
/// What is wrong with it.
pub fn private_dir(path: &Path) -> Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).context(|| format!("make directory {}", parent.display()))?;
    }
    match nix::unistd::mkdir(path, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno).context(|| format!("make directory {}", path.display())),
    }
    let dir = open_dir(path).context(|| format!("open directory {}", path.display()))?;
    let stat = nix::sys::stat::fstat(&dir).context(|| format!("stat {}", path.display()))?;
    let mode = Mode::from_bits_truncate(stat.st_mode);
    if stat.st_uid != nix::unistd::geteuid().as_raw() || mode.intersects(Mode::S_IWGRP | Mode::S_IWOTH) {
        return Err(Error::other(format!(
            "{}: owned by uid {} with mode {:03o}: must be ours alone",
            path.display(),
            stat.st_uid,
            mode.bits()
        )));
    }
    if mode.intersects(Mode::S_IRWXG | Mode::S_IRWXO) || !mode.contains(Mode::S_IRWXU) {
        // The directory that was looked at, whatever the name leads to by now.
        nix::sys::stat::fchmodat(&dir, ".", Mode::S_IRWXU, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .context(|| format!("chmod {}", path.display()))?;
    }
    Ok(dir)
}

/// What stands at `name` in `dir`, a link not followed; nothing where there is nothing.
///
/// # Errors
/// The errno of fstatat(2) but `ENOENT`.
pub fn stat_in(dir: impl AsFd, name: &str) -> nix::Result<Option<FileStat>> {
    match nix::sys::stat::fstatat(dir, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether a stat is that of such a file.
pub fn is_type(stat: &FileStat, wanted: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == wanted
}

/// One end of a FIFO, never blocking and never through a last link.
///
/// # Errors
/// `ENXIO` for a write end without a reader; `EINVAL` for something that is no FIFO (security.md I10).
pub fn open_fifo(path: &Path, end: OFlag) -> nix::Result<OwnedFd> {
    let flags = end | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let fd = nix::fcntl::open(path, flags, Mode::empty())?;
    if is_type(&nix::sys::stat::fstat(&fd)?, SFlag::S_IFIFO) { Ok(fd) } else { Err(Errno::EINVAL) }
}

/// A log file to append to, made 0644 where it is missing, its directory 0711; a link or a device is an error.
///
/// # Errors
/// The errno of the call that failed; `EINVAL` for something that is no regular file.
pub fn open_log_file(path: &Path) -> nix::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).create(parent);
        made.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
    let fd = nix::fcntl::open(path, flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, mode)?;
    if is_type(&nix::sys::stat::fstat(&fd)?, SFlag::S_IFREG) { Ok(fd) } else { Err(Errno::EINVAL) }
}

/// `/dev/null` for reading and writing.
///
/// # Errors
/// The errno of open(2).
pub fn null_device() -> nix::Result<OwnedFd> {
    nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

/// The absolute path of a program: itself where it is absolute, else the first executable of that name in `path`
/// (a `PATH`). A relative path with a `/` in it is refused (security.md I14).
///
/// # Errors
/// Where it was looked for.
pub fn find_program(name: &str, path: &str) -> Result<PathBuf> {
    if name.starts_with('/') {
        return check_absolute("runtime binary", name);
    }
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(Error::invalid(format!(
            "runtime binary {name:?}: must be an absolute path or a plain name"
        )));
    }
    path.split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| Path::new(dir).join(name))
        .find(|file| std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0))
        .ok_or_else(|| {
            Error::new(crate::error::Code::NotFound, format!("runtime binary {name:?}: not in PATH {path}"))
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A fresh directory of this test's own, removed with the value.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shim-path-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// security.md I5: ids become file names.
    #[test]
    fn i5_ids_are_plain_file_names() {
        for id in ["a", "0123-web_1.x+y", &"a".repeat(240)] {
            assert!(check_id("container id", id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "../x", "a/b", "a b", "a\n", "ä", &"a".repeat(241)] {
            let error = check_id("exec id", id).unwrap_err();
            assert_eq!(error.code(), crate::error::Code::InvalidArgument, "{id}");
        }
    }

    /// security.md I2: a socket directory that somebody else may write to is refused; a readable one is closed.
    #[test]
    fn i2_a_socket_directory_is_ours_alone() {
        let scratch = Scratch::new("i02");
        let dir = scratch.0.join("s");
        private_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        private_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private_dir(&dir).unwrap_err().to_string().contains("must be ours alone"));
        if nix::unistd::geteuid().is_root() {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&dir, Some(1000), Some(1000)).unwrap();
            assert!(private_dir(&dir).is_err());
        }
        let link = scratch.0.join("link");
        symlink("/tmp", &link).unwrap();
        assert!(private_dir(&link).is_err());
    }

    /// security.md I10: only a FIFO is opened as one, and opening never blocks.
    #[test]
    fn i10_only_a_fifo_is_a_fifo() {
        let scratch = Scratch::new("i10");
        let fifo = scratch.0.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert_eq!(open_fifo(&fifo, OFlag::O_WRONLY).unwrap_err(), Errno::ENXIO);
        let _reader = open_fifo(&fifo, OFlag::O_RDONLY).unwrap();
        open_fifo(&fifo, OFlag::O_WRONLY).unwrap();
        let file = scratch.0.join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(open_fifo(&file, OFlag::O_RDONLY).unwrap_err(), Errno::EINVAL);
        let link = scratch.0.join("link");
        symlink(&fifo, &link).unwrap();
        assert_eq!(open_fifo(&link, OFlag::O_RDONLY).unwrap_err(), Errno::ELOOP);
    }

    /// security.md I14: a relative runtime name is looked up in the shim's own PATH and nowhere else.
    #[test]
    fn i14_a_relative_runtime_is_found_in_path_only() {
        let scratch = Scratch::new("i14");
        let file = scratch.0.join("shim-test-runtime");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("relative:/nonexistent:{}", scratch.0.display());
        assert_eq!(find_program("shim-test-runtime", &path).unwrap(), file);
        for name in ["./shim-test-runtime", "sub/shim-test-runtime", "", "../runc"] {
            assert!(find_program(name, &path).is_err(), "{name}");
        }
        assert!(find_program("shim-test-runtime", "/nonexistent").is_err());
        assert!(find_program("/usr/bin/../bin/env", &path).is_err());
    }

    /// security.md I4: files are 0600 whatever the umask is, and a link in their place is not followed.
    #[test]
    fn i4_own_files_are_ours_alone() {
        let scratch = Scratch::new("i04");
        let dir = open_dir(&scratch.0).unwrap();
        let canary = scratch.0.join("canary");
        std::fs::write(&canary, "untouched").unwrap();
        symlink(&canary, scratch.0.join("record")).unwrap();
        symlink(&canary, scratch.0.join(".record.tmp")).unwrap();
        write_in(&dir, "record", b"new").unwrap();
        assert_eq!(std::fs::read(&canary).unwrap(), b"untouched");
        assert_eq!(read_in(&dir, "record", 10).unwrap(), b"new");
        assert_eq!(std::fs::metadata(scratch.0.join("record")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_in(&dir, "record", 2).unwrap_err(), Errno::EFBIG);
    }
}
