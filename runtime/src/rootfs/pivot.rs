//! The container's root becomes the root of the process, and the host's mounts go.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::error::{Context as _, Error, Result};
use crate::sys::mount::{
    Change, detach, detach_here, move_mount, pivot_to_working_directory, propagation, set_attributes,
};
use crate::sys::path::open_given;
use crate::sys::procfs::Procfs;

use super::mask::empty_directory;
use super::mounts::set_read_only;
use super::options::Scope;
use super::plan::MountNamespace;
use super::{Below, Rootfs};

impl Rootfs<'_> {
    /// Step 5: `/` and the working directory become the container's root.
    ///
    /// pivot_root(2) with the working directory as both arguments puts the old root on top of the new one, from where
    /// it is taken off at once: no directory is needed for it and no path is looked up. All mounts of the host go with
    /// it. In a mount namespace that is not the container's own it is chroot(2) instead; in one that was made of the root tree
    /// alone only what the config has covered `/` with is left.
    ///
    /// # Errors
    /// The errno of pivot_root(2), umount2(2) or chroot(2).
    pub fn pivot(&mut self) -> Result<()> {
        nix::unistd::fchdir(&self.root).context(|| "change to the rootfs")?;
        if self.plan.namespace != MountNamespace::New {
            return nix::unistd::chroot(".").context(|| "chroot to the rootfs");
        }
        if self.on == Below::Nothing && self.covered_roots == 0 {
            return Ok(());
        }
        match pivot_to_working_directory() {
            Ok(()) => {}
            Err(Errno::EINVAL) if self.plan.no_pivot => return self.leave_old_root(),
            Err(Errno::EINVAL) => {
                return Err(Error::from_errno(
                    "pivot_root (where the host's root is the initial ramfs, use --no-pivot)",
                    Errno::EINVAL,
                ));
            }
            Err(errno) => return Err(Error::from_errno("pivot_root", errno)),
        }
        // The old root carries what the config has covered by a mount on `/`: the topmost comes off first.
        let roots = match self.on {
            Below::OldRoot => self.covered_roots + 1,
            Below::ItsPath => 1,
            Below::Nothing => self.covered_roots,
        };
        for _ in 0..roots {
            detach_here().context(|| "unmount the old root")?;
        }
        Ok(())
    }

    /// `--no-pivot` where pivot_root(2) cannot be used because the root is the initial ramfs: the container's root
    /// covers it, and every mount of the host on it is unmounted, so that nothing comes to light when the
    /// container unmounts its own (row A5). One that a user namespace has locked is covered instead. What stays below
    /// is the ramfs alone, which only a container with CAP_SYS_ADMIN over its mount namespace could uncover.
    fn leave_old_root(&self) -> Result<()> {
        let what = || "leave the old root";
        let procfs = Procfs::processes()?;
        let old = open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).context(what)?;
        if self.on != Below::OldRoot {
            move_mount(&self.root, &old).context(what)?;
        }
        let old = procfs.mount_id(&old).context(what)?;
        let ours = procfs.mount_id(&self.root).context(what)?;
        // A mount that is stacked on another one comes off first; the next round finds what it covered.
        loop {
            let table = procfs.read_self("mountinfo").context(what)?;
            let mut unmounted = false;
            for (_, path) in mounts_on(&table, old).iter().filter(|(id, _)| *id != ours) {
                unmounted |= detach_or_cover(path)?;
            }
            if !unmounted {
                return nix::unistd::chroot(".").context(|| "chroot to the rootfs");
            }
        }
    }

    /// Step 7: what waited for the root file system to be complete: read-only mounts, the read-only root and the
    /// propagation of `/`. Each is set on an fd that was held from the beginning, and looked at afterwards (row A9).
    ///
    /// # Errors
    /// The errno of mount_setattr(2), `EROFS` where the mount is not read-only afterwards.
    pub fn finish(&mut self) -> Result<()> {
        for (destination, mount) in std::mem::take(&mut self.read_only_later) {
            set_read_only(&mount).context(|| format!("make {} read-only", destination.display()))?;
        }
        if self.plan.read_only {
            set_read_only(&self.root).context(|| "/root/readonly: make the rootfs read-only")?;
        }
        self.set_root_propagation()
    }

    fn set_root_propagation(&self) -> Result<()> {
        let Some((scope, value)) = self.plan.propagation else { return Ok(()) };
        if self.plan.namespace != MountNamespace::New || value == propagation::PRIVATE {
            return Ok(());
        }
        let change = Change { propagation: value, recursive: scope == Scope::Tree, ..Change::default() };
        set_attributes(&self.root, change).context(|| "/linux/rootfsPropagation")
    }
}

/// Unmounts `path` with all below it: true; where that is refused, because a user namespace has locked it, covers it.
fn detach_or_cover(path: &Path) -> Result<bool> {
    let what = || format!("unmount {}", path.display());
    match detach(path) {
        Ok(()) => return Ok(true),
        Err(Errno::EINVAL | Errno::EPERM) => {}
        Err(errno) => return Err(Error::from_errno(what(), errno)),
    }
    let target = open_given(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).context(what)?;
    move_mount(empty_directory()?, target).context(what)?;
    Ok(false)
}

/// The mounts whose parent is the mount `parent`: id and mount point, later ones first (proc_pid_mountinfo(5)).
fn mounts_on(table: &[u8], parent: u64) -> Vec<(u64, PathBuf)> {
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let mut mounts: Vec<_> = table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let (id, above) = (number(fields.next()?)?, number(fields.next()?)?);
            let point = unescape(fields.nth(2)?);
            (above == parent).then(|| (id, PathBuf::from(OsString::from_vec(point))))
        })
        .collect();
    mounts.reverse();
    mounts
}

/// The mount point of the first file system of this type.
pub(crate) fn mount_point_of_type(table: &[u8], fs_type: &str) -> Option<PathBuf> {
    table.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let point = fields.nth(4)?;
        // Optional fields end in a hyphen; the type follows.
        let found = fields.skip_while(|field| *field != b"-").nth(1)?;
        (found == fs_type.as_bytes()).then(|| PathBuf::from(OsString::from_vec(unescape(point))))
    })
}

/// `\040` and its like stand for space, tab, newline and backslash in mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let code =
            after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                text.push(escaped);
                rest = &after[3..];
            }
            None => {
                text.push(byte);
                rest = after;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_by_parent() {
        let table = b"22 27 0:21 / /proc rw - proc proc rw\n23 22 0:9 / /proc/x rw - x x rw\n\
            24 27 0:6 / /a\\040b\\134c rw shared:1 - tmpfs t rw\n";
        let expected = [(24, PathBuf::from("/a b\\c")), (22, PathBuf::from("/proc"))];
        assert_eq!(mounts_on(table, 27), expected);
        assert_eq!(mount_point_of_type(table, "tmpfs"), Some(PathBuf::from("/a b\\c")));
        assert_eq!(mount_point_of_type(table, "rw"), None);
    }
}
