//! `maskedPaths` and `readonlyPaths`: after the pivot, by fd.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;

use crate::error::{Context as _, Error, Result};
use crate::sys::mount::{Change, FsContext, attr, clone_tree_of, move_mount, set_attributes};
use crate::sys::path::{open_in_root, stat};

use super::Rootfs;

impl Rootfs<'_> {
    /// Step 8: `readonlyPaths` and then `maskedPaths`. A path that does not exist is skipped (`ENOENT`, `ENOTDIR`);
    /// anything else that fails is an error (row B4).
    ///
    /// Consumes the last fds of the root file system.
    ///
    /// # Errors
    /// Which path could not be covered, and why.
    pub fn protect_paths(mut self) -> Result<()> {
        for path in &self.plan.readonly_paths {
            self.make_read_only(path).context(|| format!("/linux/readonlyPaths: {}", path.display()))?;
        }
        let mut masks = Masks { file: Mask::from(self.null.take()), directory: Mask::from(None) };
        for path in &self.plan.masked_paths {
            if let Some(target) = self.existing(path).context(|| mask_text(path))? {
                masks.cover(&target).map_err(|error| error.context(mask_text(path)))?;
            }
        }
        Ok(())
    }

    /// A read-only copy of the path and of every mount below it on top of it; all other flags stay (row B5).
    fn make_read_only(&self, path: &Path) -> nix::Result<()> {
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let copy = clone_tree_of(&target, true)?;
        set_attributes(&copy, Change { set: attr::RDONLY, recursive: true, ..Change::default() })?;
        move_mount(&copy, &target)
    }

    fn existing(&self, path: &Path) -> nix::Result<Option<OwnedFd>> {
        match open_in_root(&self.root, path, OFlag::O_PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn mask_text(path: &Path) -> String {
    format!("/linux/maskedPaths: {}", path.display())
}

/// What covers masked paths: one device node for all files and one empty file system for all directories.
struct Masks {
    /// The host's `/dev/null`, which the parent checked (row B3).
    file: Mask,
    /// An empty read-only tmpfs with room for nothing.
    directory: Mask,
}

/// A mount that covers several paths: itself the first one, copies of it the others. (A copy of a detached mount can
/// be made only since Linux 6.15; of an attached one, always.)
enum Mask {
    Unused(Option<OwnedFd>),
    Attached(OwnedFd),
}

impl Mask {
    fn from(mount: Option<OwnedFd>) -> Self {
        Self::Unused(mount)
    }

    fn cover(&mut self, target: &OwnedFd, make: fn() -> Result<OwnedFd>) -> Result<()> {
        match self {
            Self::Attached(mount) => {
                let copy = clone_tree_of(&*mount, false).context(|| "copy the mask")?;
                move_mount(copy, target).context(|| "attach the mask")
            }
            Self::Unused(mount) => {
                let mount = mount.take().map_or_else(make, Ok)?;
                move_mount(&mount, target).context(|| "attach the mask")?;
                *self = Self::Attached(mount);
                Ok(())
            }
        }
    }
}

impl Masks {
    fn cover(&mut self, target: &OwnedFd) -> Result<()> {
        let found = stat(target).context(|| "stat")?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            self.directory.cover(target, empty_directory)
        } else {
            self.file.cover(target, || Err(Error::new("/dev/null was not opened")))
        }
    }
}

/// A read-only tmpfs with one block, one inode and nothing in it, detached.
pub(super) fn empty_directory() -> Result<OwnedFd> {
    let make = || {
        let context = FsContext::open("tmpfs")?;
        context.set("source", "tmpfs")?;
        context.set("nr_blocks", "1")?;
        context.set("nr_inodes", "1")?;
        context.set("mode", "755")?;
        context.set_flag("ro")?;
        context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
    };
    make().context(|| "make an empty file system")
}
