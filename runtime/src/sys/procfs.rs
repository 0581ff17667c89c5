//! The one procfs module (ARCHITECTURE.md, invariant 2): a private, detached instance of procfs, reached by fd.
//!
//! No path of the form `/proc/…` is ever opened by name, so that nothing mounted over it can take a write
//! (CVE-2019-16884, CVE-2025-52881). The instance is made by `fsopen("proc")` in the PID namespace of the caller.
//! Files are opened below it with `RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS`; only the few functions
//! that are about a magic link follow one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::error::{Context as _, Error, Result};
use crate::sys::fd::read_to_end;
use crate::sys::mount::{FsContext, attr};
use crate::sys::path::openat2;

/// Beneath the handle, through no magic link, onto no other mount.
const STRICT: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;

/// The most that is read of any file of procfs: mountinfo of a very busy node is a few MiB.
const READ_LIMIT: usize = 64 << 20;

/// Where a container's procfs belongs (config-linux.md, "Default Filesystems").
pub const MOUNT_POINT: &str = "/proc";
/// The links of `/dev` into procfs, by name and target (config-linux.md, "/dev symbolic links").
pub const STDIO_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// The target of the link `/dev/core`, where the kernel has it.
pub const CORE: &str = "/proc/kcore";

/// Whether the kernel has [`CORE`]. Only looked at, never opened.
pub fn has_core() -> bool {
    nix::unistd::access(CORE, nix::unistd::AccessFlags::F_OK).is_ok()
}

/// Whether `fd` is on a procfs.
///
/// # Errors
/// The errno of fstatfs(2).
pub fn is_procfs(fd: impl AsFd) -> nix::Result<bool> {
    Ok(nix::sys::statfs::fstatfs(fd)?.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Whether `fd` is the root of a procfs: by file system magic and inode 1, which only a procfs root has.
///
/// # Errors
/// The errno of fstatfs(2) or fstat(2).
pub fn is_root(fd: impl AsFd) -> nix::Result<bool> {
    /// `PROC_ROOT_INO` of `linux/proc_fs.h`.
    const PROC_ROOT_INODE: u64 = 1;
    Ok(is_procfs(fd.as_fd())? && nix::sys::stat::fstat(fd)?.st_ino == PROC_ROOT_INODE)
}

/// A private procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// A new instance that shows processes only (`subset=pid`): all that is needed but for sysctls.
    ///
    /// # Errors
    /// What fsopen(2), fsconfig(2) or fsmount(2) said.
    pub fn processes() -> Result<Self> {
        Self::open(true)
    }

    /// A new instance with everything, for sysctls.
    ///
    /// # Errors
    /// What fsopen(2), fsconfig(2) or fsmount(2) said.
    pub fn whole() -> Result<Self> {
        Self::open(false)
    }

    fn open(processes_only: bool) -> Result<Self> {
        let make = || {
            let context = FsContext::open("proc")?;
            if processes_only {
                context.set("subset", "pid")?;
            }
            context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)
        };
        match make() {
            Ok(fd) => Ok(Self(fd)),
            // Without CAP_SYS_ADMIN over the PID namespace (rootless, before the user namespace is there) no instance
            // can be made; the process's own view is then all that it could attack.
            Err(Errno::EPERM) => Self::mounted(),
            Err(errno) => Err(Error::from_errno("open a private procfs", errno)),
        }
    }

    /// The procfs that is mounted on `/proc`, checked to be one: file system magic and inode 1, which only a procfs
    /// root has. For reading what the host says of processes; a file that something is mounted over is an error
    /// (`RESOLVE_NO_XDEV`), not a decoy. Making an instance of our own costs a superblock.
    ///
    /// # Errors
    /// What opening or examining it said.
    pub fn mounted() -> Result<Self> {
        /// `PROC_ROOT_INO` of `linux/proc_fs.h`.
        const PROC_ROOT_INODE: u64 = 1;
        let what = || "open the mounted procfs";
        let fd = openat2(nix::fcntl::AT_FDCWD, "/proc", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty(), 0)
            .context(what)?;
        let magic = nix::sys::statfs::fstatfs(&fd).context(what)?.filesystem_type();
        let inode = nix::sys::stat::fstat(&fd).context(what)?.st_ino;
        if magic != nix::sys::statfs::PROC_SUPER_MAGIC || inode != PROC_ROOT_INODE {
            return Err(Error::new("open the mounted procfs: /proc is not a procfs"));
        }
        Ok(Self(fd))
    }

    /// Opens `path`, relative to the root of procfs, with `flags`.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
        openat2(&self.0, path, flags, Mode::empty(), STRICT)
    }

    /// Reads a file of procfs, whole.
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2).
    pub fn read(&self, path: impl AsRef<Path>) -> nix::Result<Vec<u8>> {
        read_to_end(self.open_file(path, OFlag::O_RDONLY)?, READ_LIMIT)
    }

    /// Writes `value` in one write(2).
    ///
    /// # Errors
    /// The errno of openat2(2) or write(2).
    pub fn write(&self, path: impl AsRef<Path>, value: &[u8]) -> nix::Result<()> {
        let file = self.open_file(path, OFlag::O_WRONLY)?;
        match nix::unistd::write(&file, value)? {
            n if n == value.len() => Ok(()),
            _ => Err(Errno::EIO),
        }
    }

    /// A file of the calling process, such as `mountinfo`. By the link `self` of this instance, so that it works from
    /// another PID namespace too; the link is an ordinary one (proc_self(5)).
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2).
    pub fn read_self(&self, name: &str) -> nix::Result<Vec<u8>> {
        self.read(format!("self/{name}"))
    }

    /// Writes `value` in one write(2) to a file of the calling process.
    ///
    /// # Errors
    /// The errno of openat2(2) or write(2).
    pub fn write_self(&self, name: &str, value: &[u8]) -> nix::Result<()> {
        self.write(format!("self/{name}"), value)
    }

    /// The id of the mount that `fd` is on (proc_pid_fdinfo(5)), as mountinfo has it.
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2).
    pub fn mount_id(&self, fd: impl AsFd) -> nix::Result<u64> {
        let text = self.read_self(&format!("fdinfo/{}", fd.as_fd().as_raw_fd()))?;
        let text = String::from_utf8_lossy(&text);
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        id.and_then(|id| id.trim().parse().ok()).ok_or(Errno::EBADMSG)
    }

    /// A file of process `pid`, as this PID namespace numbers it.
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2).
    pub fn read_of(&self, pid: Pid, name: &str) -> nix::Result<Vec<u8>> {
        self.read(format!("{pid}/{name}"))
    }

    /// Opens what a magic link of process `pid` refers to (`ns/net`, `root`): the one place where a magic link is
    /// followed on purpose.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn open_magic_link(&self, pid: Pid, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        openat2(&self.0, format!("{pid}/{name}"), flags, Mode::empty(), 0)
    }

    /// The same of the calling process.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn open_own_magic_link(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        openat2(&self.0, format!("self/{name}"), flags, Mode::empty(), 0)
    }

    /// Opens the object behind an `O_PATH` fd of this process anew with `flags`.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn reopen(&self, fd: impl AsFd, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_own_magic_link(&format!("fd/{}", fd.as_fd().as_raw_fd()), flags)
    }
}

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The random id of this boot: pids and start times mean nothing in another one (proc_sys_kernel(5)).
///
/// # Errors
/// The errno of openat2(2) or read(2).
pub fn boot_id(procfs: &Procfs) -> nix::Result<String> {
    let text = procfs.read("sys/kernel/random/boot_id")?;
    Ok(String::from_utf8_lossy(text.trim_ascii()).into_owned())
}

/// Whether `path` names a descriptor of whoever opens it, by the names that shells give (`<(...)`).
pub fn names_own_descriptor(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md B2: the handle is a procfs of its own, not what is mounted on /proc.
    #[test]
    fn b2_private_instance_shows_this_process() {
        let procfs = Procfs::processes().unwrap();
        let magic = nix::sys::statfs::fstatfs(&procfs).unwrap().filesystem_type();
        assert_eq!(magic, nix::sys::statfs::PROC_SUPER_MAGIC);
        let status = procfs.read_self("status").unwrap();
        assert!(String::from_utf8_lossy(&status).contains(&format!("Pid:\t{}\n", Pid::this())));
        // subset=pid: no sysctls behind this handle.
        assert_eq!(procfs.read("sys/kernel/hostname").unwrap_err(), Errno::ENOENT);
    }

    #[test]
    fn b2_magic_links_are_refused_where_they_are_not_meant() {
        let procfs = Procfs::processes().unwrap();
        let path = format!("{}/root", Pid::this());
        assert_eq!(procfs.open_file(path, OFlag::O_PATH | OFlag::O_DIRECTORY).unwrap_err(), Errno::ELOOP);
    }
}
