//! The container's root becomes the root of the process, and the host's mounts go.

use nix::errno::Errno;

use crate::error::{Context as _, Error, Result};
use crate::sys::mount::{Change, detach_here, pivot_to_working_directory, propagation, set_attributes};

use super::mounts::set_read_only;
use super::options::Scope;
use super::{MountNamespace, Rootfs};

impl Rootfs<'_> {
    /// Step 5: `/` and the working directory become the container's root.
    ///
    /// pivot_root(2) with the working directory as both arguments puts the old root on top of the new one, from where
    /// it is taken off at once: no directory is needed for it and no path is looked up. All mounts of the host go with
    /// it. In a mount namespace that is not the container's own it is chroot(2) instead.
    ///
    /// # Errors
    /// The errno of pivot_root(2), umount2(2) or chroot(2).
    pub fn pivot(&mut self) -> Result<()> {
        nix::unistd::fchdir(&self.root).context(|| "change to the rootfs")?;
        if self.plan.namespace != MountNamespace::New {
            return nix::unistd::chroot(".").context(|| "chroot to the rootfs");
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
        detach_here().context(|| "unmount the old root")
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
