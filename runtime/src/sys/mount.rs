//! The mount API of Linux 5.2 to 5.12: mounts are made, changed and moved by fd, never by name.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

use nix::errno::Errno;

use crate::sys::path::c_path;

/// Mount attributes as `mount_setattr(2)` and `fsmount(2)` take them (`linux/mount.h`).
pub mod attr {
    /// Read only.
    pub const RDONLY: u64 = 0x0000_0001;
    /// Set-user-id bits and file capabilities have no effect.
    pub const NOSUID: u64 = 0x0000_0002;
    /// No device access.
    pub const NODEV: u64 = 0x0000_0004;
    /// No program execution.
    pub const NOEXEC: u64 = 0x0000_0008;
    /// The field of the access time setting: it is a value (0 relatime), not bits to be or-ed.
    pub const ATIME: u64 = 0x0000_0070;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x0000_0010;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x0000_0020;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = 0x0000_0080;
    /// The mount's ids are mapped by a user namespace.
    pub const IDMAP: u64 = 0x0010_0000;
    /// Symbolic links are not followed (Linux 5.14).
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// Propagation types of mount_setattr(2) (`MS_*` of `linux/mount.h`).
pub mod propagation {
    /// Nothing goes in or out, and the mount cannot be bound.
    pub const UNBINDABLE: u64 = 1 << 17;
    /// Nothing goes in or out.
    pub const PRIVATE: u64 = 1 << 18;
    /// Events come in.
    pub const SLAVE: u64 = 1 << 19;
    /// Events go both ways.
    pub const SHARED: u64 = 1 << 20;
}

const OPEN_TREE_CLONE: c_uint = 1;
/// Linux 7.0.
const OPEN_TREE_NAMESPACE: c_uint = 2;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC.cast_unsigned();
const AT_EMPTY_PATH: c_uint = libc::AT_EMPTY_PATH.cast_unsigned();
const AT_RECURSIVE: c_uint = 0x8000;
const AT_NO_AUTOMOUNT: c_uint = libc::AT_NO_AUTOMOUNT.cast_unsigned();
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSPICK_CLOEXEC: c_uint = 1;
const FSPICK_EMPTY_PATH: c_uint = 8;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FD: c_uint = 5;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: c_uint = 7;

/// `struct mount_attr` of `linux/mount.h`, version 0 (32 bytes).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What to change on a mount, or on a tree of mounts.
#[derive(Debug, Default, Clone, Copy)]
pub struct Change<'a> {
    /// Attributes to set ([`attr`]). An access time value needs [`attr::ATIME`] in `clear`, which is added here.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// One of [`propagation`], or 0 to leave it.
    pub propagation: u64,
    /// The user namespace for [`attr::IDMAP`].
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// The whole tree of mounts, all or none of them.
    pub recursive: bool,
}

/// A file system that is being configured (fsopen(2)).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// fsopen(2): a new instance of file system type `fs_type`.
    ///
    /// # Errors
    /// The errno of fsopen(2); `ENODEV` for an unknown type.
    pub fn open(fs_type: &str) -> nix::Result<Self> {
        let name = c_string(fs_type)?;
        // SAFETY: `name` is NUL-terminated and outlives the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// One that another process opened: it is of the namespaces that that process was in.
    pub fn received(context: OwnedFd) -> Self {
        Self(context)
    }

    /// fspick(2): the file system that `mount` shows, to be reconfigured.
    ///
    /// # Errors
    /// The errno of fspick(2).
    pub fn pick(mount: impl AsFd) -> nix::Result<Self> {
        let fd = mount.as_fd().as_raw_fd();
        // SAFETY: the path is the empty C string; the fd is open while borrowed.
        owned(unsafe {
            libc::syscall(libc::SYS_fspick, fd, c"".as_ptr(), FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
        })
        .map(Self)
    }

    /// One parameter with a value. The value is one value whatever it contains: nothing is split (row A15).
    ///
    /// # Errors
    /// The errno of fsconfig(2).
    pub fn set(&self, key: &str, value: &str) -> nix::Result<()> {
        let (key, value) = (c_string(key)?, c_string(value)?);
        self.config(FSCONFIG_SET_STRING, Some(&key), Some(&value), 0)
    }

    /// One parameter without a value.
    ///
    /// # Errors
    /// The errno of fsconfig(2).
    pub fn set_flag(&self, key: &str) -> nix::Result<()> {
        self.config(FSCONFIG_SET_FLAG, Some(&c_string(key)?), None, 0)
    }

    /// One parameter whose value is an fd.
    ///
    /// # Errors
    /// The errno of fsconfig(2).
    pub fn set_fd(&self, key: &str, fd: impl AsFd) -> nix::Result<()> {
        self.config(FSCONFIG_SET_FD, Some(&c_string(key)?), None, fd.as_fd().as_raw_fd())
    }

    /// Makes the superblock, and the detached mount with `attributes` ([`attr`]) of it.
    ///
    /// # Errors
    /// The errno of fsconfig(2) or fsmount(2).
    pub fn mount(&self, attributes: u64) -> nix::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, None, None, 0)?;
        let attributes = c_uint::try_from(attributes).map_err(|_| Errno::EINVAL)?;
        // SAFETY: three integers.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    /// Applies the parameters to the file system that [`FsContext::pick`] took.
    ///
    /// # Errors
    /// The errno of fsconfig(2).
    pub fn reconfigure(&self) -> nix::Result<()> {
        self.config(FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    }

    /// What the kernel logged about this context: the reason behind a bare `EINVAL`. Empty where it said nothing.
    pub fn log(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(n) = nix::unistd::read(&self.0, &mut buffer) {
            if n == 0 || lines.len() == 8 {
                break;
            }
            // Each message is "e text", "w text" or "i text" (Documentation/filesystems/mount_api.rst).
            lines.push(String::from_utf8_lossy(buffer[..n].get(2..).unwrap_or_default()).trim().to_owned());
        }
        lines.join("; ")
    }

    fn config(
        &self,
        command: c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
        aux: c_int,
    ) -> nix::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(ptr::null::<c_char>(), CStr::as_ptr);
        // SAFETY: key and value are null or NUL-terminated and outlive the call; aux is an integer.
        let result = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(key), pointer(value), aux)
        };
        Errno::result(result).map(drop)
    }
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of the mount at `path` (a path that the manager gave,
/// relative to `dir`), with the mounts below it where `recursive`. The last component may be a link.
///
/// # Errors
/// The errno of open_tree(2).
pub fn clone_tree(dir: impl AsFd, path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT | recursion(recursive);
    open_tree(dir.as_fd(), &c_path(path)?, flags)
}

/// The same of what `fd` refers to, a directory or a single file.
///
/// # Errors
/// The errno of open_tree(2).
pub fn clone_tree_of(fd: impl AsFd, recursive: bool) -> nix::Result<OwnedFd> {
    open_tree(fd.as_fd(), c"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | recursion(recursive))
}

/// A new mount namespace (Linux 7.0), which has a copy of what `fd` refers to as its root, with all mounts below it, and no
/// copy of any other mount of this one: to be joined by setns(2), which makes it the root of the process too.
///
/// # Errors
/// The errno of open_tree(2); `EINVAL` of a kernel that does not know it.
pub fn namespace_of(fd: impl AsFd) -> nix::Result<OwnedFd> {
    open_tree(fd.as_fd(), c"", OPEN_TREE_NAMESPACE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE)
}

fn recursion(recursive: bool) -> c_uint {
    if recursive { AT_RECURSIVE } else { 0 }
}

fn open_tree(dir: BorrowedFd<'_>, path: &CStr, flags: c_uint) -> nix::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated and outlives the call; the fd is open while borrowed.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches the detached (or moves the attached) mount `mount` on the directory or file that `target` refers to.
///
/// # Errors
/// The errno of move_mount(2).
pub fn move_mount(mount: impl AsFd, target: impl AsFd) -> nix::Result<()> {
    attach(mount.as_fd(), target.as_fd(), c"", MOVE_MOUNT_T_EMPTY_PATH)
}

/// The same on `name` in a directory where nobody else can have put anything.
///
/// # Errors
/// The errno of move_mount(2).
pub fn move_mount_at(mount: impl AsFd, dir: impl AsFd, name: &str) -> nix::Result<()> {
    attach(mount.as_fd(), dir.as_fd(), &c_path(Path::new(name))?, 0)
}

fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr, flags: c_uint) -> nix::Result<()> {
    // SAFETY: both paths are NUL-terminated and outlive the call; both fds are open while borrowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | flags,
        )
    };
    Errno::result(result).map(drop)
}

/// mount_setattr(2) on what `mount` refers to (the root of a mount, attached or detached).
///
/// # Errors
/// The errno of mount_setattr(2).
pub fn set_attributes(mount: impl AsFd, change: Change<'_>) -> nix::Result<()> {
    let user_namespace = match change.user_namespace {
        Some(fd) => u64::try_from(fd.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        None => 0,
    };
    let atime = if change.set & attr::ATIME != 0 { attr::ATIME } else { 0 };
    let attributes = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear | atime,
        propagation: change.propagation,
        userns_fd: user_namespace,
    };
    // SAFETY: the path is the empty C string, `attributes` is a full mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            AT_EMPTY_PATH | recursion(change.recursive),
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// `pivot_root(".", ".")`: the working directory becomes the root, and the old root is mounted on top of it, to be
/// taken off with [`detach_here`] (pivot_root(2), "pivot_root(".", ".")").
///
/// # Errors
/// The errno of pivot_root(2).
pub fn pivot_to_working_directory() -> nix::Result<()> {
    // SAFETY: both paths are C string literals.
    Errno::result(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// `umount2(".", MNT_DETACH)`: takes the topmost mount off the working directory.
///
/// # Errors
/// The errno of umount2(2).
pub fn detach_here() -> nix::Result<()> {
    // SAFETY: the path is a C string literal.
    Errno::result(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// `umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)`: for what the host mounted, in a mount namespace of our own.
///
/// # Errors
/// The errno of umount2(2); `EINVAL` for a mount that a user namespace has locked.
pub fn detach(path: &Path) -> nix::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` is NUL-terminated and outlives the call.
    Errno::result(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }).map(drop)
}

fn c_string(text: &str) -> nix::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// The fd that a system call has just returned.
fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let raw = c_int::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
