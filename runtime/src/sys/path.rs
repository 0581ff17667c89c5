//! The one path module (ARCHITECTURE.md, invariant 1): paths go in with the directory they belong to, an fd comes out.
//!
//! Three kinds of path, three sets of rules, all by openat2(2) with no fallback where it is missing:
//! * in a **root file system** (image controlled): `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`;
//! * in a tree that **skeg owns** (state, cgroup): `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`;
//! * **given by the manager** (bundle, root.path, mount sources, log, pid file): opened once, plainly.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag};

use crate::error::{Context as _, Error, Result};
use crate::sys::fd::{read_to_end, write_all};

/// How often an openat2 that answers EAGAIN (a rename or mount elsewhere during the walk) is tried again: the
/// kernel says so when it cannot exclude an escape (openat2(2)); row A11 wants an end to it.
const EAGAIN_RETRIES: u32 = 128;

const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
const OWN_TREE: u64 =
    libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;

/// openat2(2), close-on-exec, EINTR and a bounded number of EAGAIN tried again.
///
/// `mode` counts only with `O_CREAT`; it is masked by the umask.
///
/// # Errors
/// The errno of openat2(2); `ENOSYS` before Linux 5.6; `EINVAL` for a NUL in `path`.
pub fn openat2(
    dir: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlag,
    mode: Mode,
    resolve: u64,
) -> nix::Result<OwnedFd> {
    let path = c_path(path.as_ref())?;
    // SAFETY: open_how is plain integers; all zero is its documented neutral value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | OFlag::O_CLOEXEC).bits().cast_unsigned());
    how.mode = if flags.contains(OFlag::O_CREAT) { u64::from(mode.bits()) } else { 0 };
    how.resolve = resolve;
    let mut tries = 0;
    loop {
        // SAFETY: `path` is NUL-terminated, `how` is a full open_how of the size given; both outlive the call.
        let raw = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_fd().as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match Errno::result(raw) {
            Ok(raw) => {
                let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
                // SAFETY: the kernel has just made this descriptor for us.
                return Ok(unsafe { OwnedFd::from_raw_fd(raw) });
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if tries < EAGAIN_RETRIES => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// Opens `path` as if `root` were `/`: absolute links and `..` stay inside, magic links are refused.
///
/// # Errors
/// The errno of openat2(2); `ELOOP` for a magic link.
pub fn open_in_root(root: impl AsFd, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
    openat2(root, path, flags, Mode::empty(), IN_ROOT)
}

/// The same, but any symbolic link on the way is an error (`ELOOP`): for mount points of proc and sysfs (row A4).
///
/// # Errors
/// The errno of openat2(2).
pub fn open_in_root_no_links(root: impl AsFd, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
    openat2(root, path, flags, Mode::empty(), IN_ROOT | libc::RESOLVE_NO_SYMLINKS)
}

/// Opens `path` in a tree that skeg owns: no links, no `..` above `dir`, no other mount.
///
/// # Errors
/// The errno of openat2(2).
pub fn open_own(dir: impl AsFd, path: impl AsRef<Path>, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    openat2(dir, path, flags, mode, OWN_TREE)
}

/// Opens the directory that `dir` is in, in the same mount. Whether it is the one meant is the caller's to see: `dir` may have been
/// moved.
///
/// # Errors
/// The errno of openat2(2); `EXDEV` at the top of the mount.
pub fn open_above(dir: impl AsFd, flags: OFlag) -> nix::Result<OwnedFd> {
    openat2(dir, "..", flags, Mode::empty(), OWN_TREE & !libc::RESOLVE_BENEATH)
}

/// Opens a path that the manager gave (bundle, root.path, mount source, log file): followed as it is, once.
///
/// # Errors
/// The errno of openat2(2).
pub fn open_given(path: impl AsRef<Path>, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    openat2(nix::fcntl::AT_FDCWD, path, flags, mode, 0)
}

/// Opens a path that the manager gave, relative to a directory that is already open.
///
/// # Errors
/// The errno of openat2(2).
pub fn open_given_at(
    dir: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    openat2(dir, path, flags, mode, 0)
}

/// Makes the directories of `path` that are missing, each one by the fd of the one above (row A2), and returns the
/// last one, opened `O_PATH`. Links on the way are followed inside `root`; one that leads to nothing yet has its target
/// made, so that a mount on `/etc/resolv.conf -> ../run/resolv.conf` lands where readers of the link will look.
///
/// # Errors
/// Which component could not be made or opened, and why.
pub fn mkdir_all_in_root(root: impl AsFd, path: &Path, mode: Mode) -> Result<OwnedFd> {
    make_in_root(root.as_fd(), path, SFlag::S_IFDIR, mode, &mut MOST_LINKS.clone())
}

/// Makes the empty file `path` in `root` where it is missing, its directories too, and returns it opened `O_PATH`.
/// mknodat makes it: unlike `O_CREAT` it never follows a last link (row A2).
///
/// # Errors
/// Which step failed, and why.
pub fn make_file_in_root(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(0o644);
    make_in_root(root.as_fd(), path, SFlag::S_IFREG, mode, &mut MOST_LINKS.clone())
}

/// How many links to nothing are followed, as many as the kernel follows links (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// Opens `path`, after what of it is missing has been made. Every call is about one name in a directory that openat2 has just found
/// inside `root`, so a name that is exchanged meanwhile makes it fail or land elsewhere in the root, never outside.
///
/// Only links to nothing are followed by recursion, of which there are [`MOST_LINKS`]: an image that has long ones in a chain could
/// exhaust the stack otherwise.
fn make_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: SFlag,
    mode: Mode,
    links: &mut u32,
) -> Result<OwnedFd> {
    let mut missing = Vec::new();
    let mut reached = Err(Error::from_errno(format!("make {}", path.display()), Errno::ENOENT));
    for part in path.ancestors() {
        // What is above a relative path of one component is the root.
        let part = if part.as_os_str().is_empty() { Path::new("/") } else { part };
        let flags = if missing.is_empty() { flags_of(kind) } else { flags_of(SFlag::S_IFDIR) };
        match open_in_root(root, part, flags) {
            Err(Errno::ENOENT) => missing.push(part),
            found => {
                reached = found.context(|| format!("open {}", path.display()));
                break;
            }
        }
    }
    let mut reached = reached?;
    while let Some(part) = missing.pop() {
        let last = missing.is_empty();
        let (kind, mode) =
            if last { (kind, mode) } else { (SFlag::S_IFDIR, Mode::from_bits_truncate(0o755)) };
        reached = make_one(root, &reached, part, (kind, mode), links)?;
    }
    Ok(reached)
}

fn flags_of(kind: SFlag) -> OFlag {
    if kind == SFlag::S_IFDIR { OFlag::O_PATH | OFlag::O_DIRECTORY } else { OFlag::O_PATH }
}

/// Makes the last component of `path` in `dir`, the directory of what is before it, and opens it.
fn make_one(
    root: BorrowedFd<'_>,
    dir: &OwnedFd,
    path: &Path,
    (kind, mode): (SFlag, Mode),
    links: &mut u32,
) -> Result<OwnedFd> {
    let what = |doing: &'static str| move || format!("{doing} {}", path.display());
    let flags = flags_of(kind);
    // Behind `..` there is nothing to make: it exists as soon as what is before it does.
    let Some(name) = path.file_name() else { return open_in_root(root, path, flags).context(what("open")) };
    let made = match kind {
        SFlag::S_IFDIR => nix::sys::stat::mkdirat(dir, name, mode),
        _ => nix::sys::stat::mknodat(dir, name, kind, mode, 0),
    };
    match made {
        Ok(()) => {
            open_own(dir, Path::new(name), flags | OFlag::O_NOFOLLOW, Mode::empty()).context(what("open"))
        }
        // It is a link to nothing, or somebody made it meanwhile.
        Err(Errno::EEXIST) => match nix::fcntl::readlinkat(dir, name) {
            Ok(target) if *links > 0 => {
                *links -= 1;
                let mut followed = path.parent().unwrap_or(Path::new("/")).to_owned();
                append(&mut followed, target);
                make_in_root(root, &followed, kind, mode, links)
            }
            Ok(_) => Err(Error::from_errno(what("open")(), Errno::ELOOP)),
            Err(_) => open_in_root(root, path, flags).context(what("open")),
        },
        Err(errno) => Err(Error::from_errno(what("make")(), errno)),
    }
}

/// `path/name`, for the text of paths; nothing is opened.
#[allow(clippy::disallowed_methods, reason = "the path module")]
pub fn append(path: &mut std::path::PathBuf, name: impl AsRef<Path>) {
    path.push(name);
}

/// `dir/name`, where `name` is one plain component: never absolute, never empty, never `..` (row A16).
///
/// # Errors
/// A name that is not one plain component.
#[allow(clippy::disallowed_methods, reason = "the path module")]
pub fn child(dir: &Path, name: &str) -> Result<std::path::PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::new(format!("{name:?}: not a file name")));
    }
    Ok(dir.join(name))
}

/// Path text without `.`, doubled `/` and `..` (which stop at `/`): for comparing destinations, not for opening.
pub fn clean(path: &Path) -> std::path::PathBuf {
    let mut cleaned = std::path::PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => append(&mut cleaned, name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// Reads the file `name` of a tree that skeg owns, or of a kernel file system, whole, at most `limit` bytes.
///
/// # Errors
/// The errno of openat2(2) or read(2); `EFBIG`.
pub fn read_own(dir: impl AsFd, name: impl AsRef<Path>, limit: usize) -> nix::Result<Vec<u8>> {
    read_to_end(open_own(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?, limit)
}

/// Writes `value` in one write(2) to the existing file `name`: kernel files take a value per call.
///
/// # Errors
/// The errno of openat2(2) or write(2); `EIO` for a short write.
pub fn write_own(dir: impl AsFd, name: impl AsRef<Path>, value: &[u8]) -> nix::Result<()> {
    let file = open_own(dir, name, OFlag::O_WRONLY, Mode::empty())?;
    loop {
        match nix::unistd::write(&file, value) {
            Ok(n) if n == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Puts a file with mode 0644 at a path that the manager gave: written aside and renamed, so that a reader sees all of
/// it or none, and a link in its place is replaced, never followed (row G10).
///
/// # Errors
/// The errno of the call that failed.
pub fn replace_given(path: &Path, data: &[u8]) -> nix::Result<()> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = open_given(parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}", nix::unistd::Pid::this()));
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let mode = Mode::from_bits_truncate(0o644);
    // One component, so that the rules for our own trees hold whatever the directory is.
    let file = open_own(&dir, Path::new(&aside), flags, mode)?;
    let written = nix::sys::stat::fchmod(&file, mode)
        .and_then(|()| write_all(&file, data))
        .and_then(|()| nix::fcntl::renameat(&dir, aside.as_os_str(), &dir, name));
    if written.is_err() {
        let _ = remove_file(&dir, Path::new(&aside));
    }
    written
}

/// fstat(2).
///
/// # Errors
/// The errno of fstat(2).
pub fn stat(fd: impl AsFd) -> nix::Result<FileStat> {
    nix::sys::stat::fstat(fd)
}

/// Removes the directory `name` of `dir`; already gone is fine.
///
/// # Errors
/// The errno of unlinkat(2) but `ENOENT`.
pub fn remove_dir(dir: impl AsFd, name: impl AsRef<Path>) -> nix::Result<()> {
    absent_is_fine(nix::unistd::unlinkat(dir, name.as_ref(), nix::unistd::UnlinkatFlags::RemoveDir))
}

/// Removes the file `name` of `dir`, never what a link points to; already gone is fine.
///
/// # Errors
/// The errno of unlinkat(2) but `ENOENT`.
pub fn remove_file(dir: impl AsFd, name: impl AsRef<Path>) -> nix::Result<()> {
    absent_is_fine(nix::unistd::unlinkat(dir, name.as_ref(), nix::unistd::UnlinkatFlags::NoRemoveDir))
}

fn absent_is_fine(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// A path as a C string; a NUL inside is `EINVAL`.
pub(crate) fn c_path(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_stops_at_the_root() {
        assert_eq!(clean(Path::new("/a/./b//../c")), Path::new("/a/c"));
        assert_eq!(clean(Path::new("../../proc/../proc/sys")), Path::new("/proc/sys"));
    }

    /// security.md A16: an absolute or empty component never replaces the directory it is joined to.
    #[test]
    fn a16_child_takes_one_plain_component() {
        for name in ["", ".", "..", "/etc", "a/b", "a\0b"] {
            assert!(child(Path::new("/run/skeg"), name).is_err(), "{name:?}");
        }
        assert_eq!(child(Path::new("/run/skeg"), "web").unwrap(), Path::new("/run/skeg/web"));
    }

    /// security.md A2: what is missing is made inside the root, whatever the links of the image say, and the fd that
    /// comes back is that of what was made.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "test code")]
    fn a2_missing_components_are_made_inside_the_root() {
        use std::os::unix::fs::symlink;
        let base = std::env::temp_dir().join(format!("rootfs-path-{}", std::process::id()));
        let root = base.join("root");
        std::fs::create_dir_all(root.join("dir")).unwrap();
        symlink("/made/here", root.join("absolute")).unwrap();
        symlink("../../outside", root.join("dir/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("absolute/chained", root.join("chain")).unwrap();
        let fd = open_given(&root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        let mode = Mode::from_bits_truncate(0o755);
        for (asked, made) in [
            ("/absolute/x", "made/here/x"),
            ("dir/up/y", "outside/y"),
            ("/chain", "made/here/chained"),
            ("a/b/../c", "a/c"),
        ] {
            let result = mkdir_all_in_root(&fd, Path::new(asked), mode);
            let found = std::fs::metadata(root.join(made)).unwrap();
            assert_eq!(
                stat(result.unwrap()).unwrap().st_ino,
                std::os::unix::fs::MetadataExt::ino(&found),
                "{asked}"
            );
        }
        let file = make_file_in_root(&fd, Path::new("/dir/up/file")).unwrap();
        assert_eq!(stat(file).unwrap().st_mode & libc::S_IFMT, libc::S_IFREG);
        assert!(root.join("outside/file").is_file() && !base.join("outside").exists());
        let error = mkdir_all_in_root(&fd, Path::new("/loop/x"), mode).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ELOOP));
        std::fs::remove_dir_all(base).unwrap();
    }

    /// security.md A2, G12: an image with long links to nothing, each of them the beginning of the next, neither exhausts the stack nor
    /// leads anywhere but into the root.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "test code")]
    fn a2_long_links_to_nothing_are_followed_without_recursion() {
        let base = std::env::temp_dir().join(format!("rootfs-links-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        for link in 0..4 {
            let target = format!("link{}{}", link + 1, "/x".repeat(2000));
            std::os::unix::fs::symlink(target, base.join(format!("link{link}"))).unwrap();
        }
        let fd = open_given(&base, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        let made = mkdir_all_in_root(&fd, Path::new("/link0/here"), Mode::from_bits_truncate(0o755));
        assert_eq!(stat(made.unwrap()).unwrap().st_mode & libc::S_IFMT, libc::S_IFDIR);
        assert!(base.join("link4/x/x").is_dir());
        // Deeper than what the standard library removes with a descriptor each.
        assert!(std::process::Command::new("rm").arg("-rf").arg(&base).status().unwrap().success());
    }
}
