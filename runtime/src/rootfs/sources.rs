//! The parent's part: whatever comes from the host is opened once, before anything of the container runs.
//!
//! A bind source is copied with open_tree(2) in the one system call that its path occurs in (row A7); attributes, id
//! mapping and propagation are set on the detached copy (rows A8, A9), which the child attaches by fd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor};

use crate::error::{Context as _, Error, Result};
use crate::sys::mount::{Change, attr, clone_tree, propagation, set_attributes};
use crate::sys::path::{open_given_at, stat};
use crate::sys::procfs;

use super::devices::Device;
use super::options::{Attributes, Scope};
use super::plan::{CgroupsFrom, IdMapping, Kind, MountNamespace, PlannedMount, RootfsPlan};

/// What the parent opened for the child.
#[derive(Debug)]
pub struct MountSources {
    /// The rootfs: with a mount namespace of the container's own a detached copy of its tree of mounts.
    pub(super) root: OwnedFd,
    /// One entry for each planned mount.
    pub(super) mounts: Vec<Source>,
    /// A detached copy of the host's `/dev/null`, for masked paths.
    pub(super) null: Option<OwnedFd>,
    /// Detached copies of the host's devices, in the order of the plan; empty where they are made by mknod(2).
    pub(super) devices: Vec<OwnedFd>,
}

/// The source of one planned mount.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing of the host.
    None,
    /// A detached copy.
    Tree {
        /// Its fd.
        mount: OwnedFd,
        /// A directory, or else a single file.
        is_directory: bool,
    },
    /// One detached copy for each v1 hierarchy.
    Cgroups(Vec<OwnedFd>),
}

/// Opens what `plan` needs of the host. Relative paths are relative to `bundle`; `user_namespace` makes (or opens) the
/// user namespace for an id mapping, whose fd is closed again before this function returns (row A20).
///
/// # Errors
/// Which source could not be opened or changed, and why.
pub fn open(
    plan: &RootfsPlan,
    bundle: BorrowedFd<'_>,
    user_namespace: &mut dyn FnMut(&IdMapping) -> Result<OwnedFd>,
) -> Result<MountSources> {
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        let source =
            open_source(plan, mount, bundle, user_namespace).map_err(|error| error.context(mount.what()))?;
        mounts.push(source);
    }
    let null = if plan.masked_paths.is_empty() { None } else { Some(open_device(&Device::null(), true)?) };
    let mut devices = Vec::new();
    if plan.bind_devices {
        for device in plan.devices.iter().flatten().filter(|device| device.kind != SFlag::S_IFIFO) {
            devices.push(open_device(device, false)?);
        }
    }
    Ok(MountSources { root: open_root(plan, bundle)?, mounts, null, devices })
}

/// The rootfs, opened once (row A12): a link in `root.path` is followed here and never again.
fn open_root(plan: &RootfsPlan, bundle: BorrowedFd<'_>) -> Result<OwnedFd> {
    let what = || format!("/root/path: open {}", plan.root.display());
    if plan.namespace != MountNamespace::New {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        return open_given_at(bundle, &plan.root, flags, Mode::empty()).context(what);
    }
    let root = clone_tree(bundle, &plan.root, true).context(what)?;
    if !is_directory(&root).context(what)? {
        return Err(Error::from_errno(what(), Errno::ENOTDIR));
    }
    let change = Change { propagation: plan.inherited.root, recursive: true, ..Change::default() };
    set_attributes(&root, change).context(what)?;
    Ok(root)
}

fn open_source(
    plan: &RootfsPlan,
    mount: &PlannedMount,
    bundle: BorrowedFd<'_>,
    user_namespace: &mut dyn FnMut(&IdMapping) -> Result<OwnedFd>,
) -> Result<Source> {
    match &mount.kind {
        Kind::FileSystem { .. }
        | Kind::Remount
        | Kind::CgroupV1 { from: CgroupsFrom::Namespace | CgroupsFrom::Later, .. } => Ok(Source::None),
        Kind::Bind { source, recursive, id_map } => {
            let tree = clone_tree(bundle, source, *recursive)
                .context(|| format!("/mounts/{}/source: open {}", mount.index, source.display()))?;
            if mount.destination == Path::new(procfs::MOUNT_POINT)
                && !procfs::is_root(&tree).context(|| "stat the source")?
            {
                return Err(Error::new(format!(
                    "/mounts/{}/source: {}: only a procfs can be mounted here",
                    mount.index,
                    source.display()
                )));
            }
            let owner = match id_map {
                Some(id_map) => Some((user_namespace(&id_map.mapping)?, id_map.recursive)),
                None => None,
            };
            let id_map = owner.as_ref().map(|(fd, recursive)| (fd.as_fd(), *recursive));
            apply_bind(&tree, mount, *recursive, plan.inherited.sources, id_map)?;
            let is_directory = is_directory(&tree).context(|| "stat the source")?;
            Ok(Source::Tree { mount: tree, is_directory })
        }
        Kind::CgroupV1 { hierarchies, from: CgroupsFrom::Host } => hierarchies
            .iter()
            .map(|hierarchy| {
                let path = &hierarchy.container;
                let tree = match (clone_tree(bundle, path, false), path.parent()) {
                    // Rootless, where no cgroup could be made, the container is in its caller's, one above.
                    (Err(Errno::ENOENT), Some(above)) => clone_tree(bundle, above, false),
                    (tree, _) => tree,
                };
                let tree = tree.context(|| format!("open {}", path.display()))?;
                apply_bind(&tree, mount, false, plan.inherited.sources, None)?;
                Ok(tree)
            })
            .collect::<Result<_>>()
            .map(Source::Cgroups),
    }
}

/// Propagation, attributes and id mapping of a bind mount, on the detached copy, in as few calls as they need.
fn apply_bind(
    tree: &OwnedFd,
    mount: &PlannedMount,
    recursive: bool,
    inherited: u64,
    id_map: Option<(BorrowedFd<'_>, bool)>,
) -> Result<()> {
    let options = &mount.options;
    let mut changes = Changes { single_mount: !recursive, list: Vec::new() };
    if inherited != 0 {
        changes.push(Change { propagation: inherited, recursive: true, ..Change::default() });
    }
    for (scope, value) in &options.propagation {
        let recursive = *scope == Scope::Tree;
        changes.push(Change { propagation: *value, recursive, ..Change::default() });
    }
    if let Some((fd, recursive)) = id_map {
        changes.push(Change { set: attr::IDMAP, user_namespace: Some(fd), recursive, ..Change::default() });
    }
    if !options.top.is_empty() {
        let (set, clear) = (options.top.set(), options.top.clear_all_others());
        changes.push(Change { set, clear, ..Change::default() });
    }
    if !options.tree.is_empty() {
        let (set, clear) = (options.tree.set(), options.tree.clear());
        changes.push(Change { set, clear, recursive: true, ..Change::default() });
    }
    for change in changes.list {
        change_bind(tree, change, &options.top).context(|| format!("/mounts/{}/options", mount.index))?;
    }
    Ok(())
}

/// In a user namespace the flags that the host set may be locked: clearing one gives EPERM. Then those that the config
/// did not ask to clear are kept (runc's rule); one that it did ask to clear stays an error.
fn change_bind(tree: &OwnedFd, change: Change<'_>, top: &Attributes) -> nix::Result<()> {
    match set_attributes(tree, change) {
        Err(Errno::EPERM) if change.clear & !top.clear() != 0 => {
            set_attributes(tree, Change { clear: change.clear & top.clear(), ..change })
        }
        other => other,
    }
}

/// Changes in order, neighbours merged where one mount_setattr(2) does the work of both.
struct Changes<'a> {
    /// Recursive or not is the same then.
    single_mount: bool,
    list: Vec<Change<'a>>,
}

impl<'a> Changes<'a> {
    fn push(&mut self, mut change: Change<'a>) {
        change.recursive &= !self.single_mount;
        if let Some(last) = self.list.last_mut()
            && last.recursive == change.recursive
            && replaces(last.propagation, change.propagation)
        {
            last.clear = (last.clear & !change.set) | change.clear;
            last.set = (last.set & !change.clear) | change.set;
            last.propagation |= change.propagation;
            if change.propagation != 0 {
                last.propagation = change.propagation;
            }
            last.user_namespace = last.user_namespace.or(change.user_namespace);
            return;
        }
        self.list.push(change);
    }
}

/// Whether setting `second` alone ends as setting `first` and then `second`: not for shared after slave, which is both.
fn replaces(first: u64, second: u64) -> bool {
    first == 0
        || second == 0
        || first == second
        || second & (propagation::PRIVATE | propagation::UNBINDABLE) != 0
}

/// A detached, private copy of a device of the host, checked on the very fd that will be bound.
pub(super) fn open_device(device: &Device, mask: bool) -> Result<OwnedFd> {
    let path = device.path.display();
    let what = || format!("bind the host's device {path}");
    let mount = clone_tree(nix::fcntl::AT_FDCWD, &device.path, false).context(what)?;
    let found = stat(&mount).context(what)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != device.kind
        || found.st_rdev != makedev(device.major, device.minor)
    {
        return Err(Error::new(format!(
            "bind the host's device {path}: it is no {}:{} but mode {:o}, {}:{}",
            device.major,
            device.minor,
            found.st_mode,
            major(found.st_rdev),
            minor(found.st_rdev)
        )));
    }
    // Read-only: a device can be written to all the same, but the host's inode not be given another mode or owner.
    let set = if mask { attr::RDONLY | attr::NOSUID | attr::NOEXEC } else { 0 };
    let change = Change { set, propagation: propagation::PRIVATE, ..Change::default() };
    set_attributes(&mount, change).context(what)?;
    Ok(mount)
}

fn is_directory(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(stat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(single_mount: bool, pushed: &[(u64, u64, u64, bool)]) -> Vec<(u64, u64, u64, bool)> {
        let mut changes = Changes { single_mount, list: Vec::new() };
        for &(set, clear, propagation, recursive) in pushed {
            changes.push(Change { set, clear, propagation, recursive, user_namespace: None });
        }
        changes.list.iter().map(|c| (c.set, c.clear, c.propagation, c.recursive)).collect()
    }

    /// One call does the work of two wherever the result is the same, and only there.
    #[test]
    fn changes_are_merged_where_that_changes_nothing() {
        use propagation::{PRIVATE, SHARED, SLAVE};
        let ro = attr::RDONLY;
        assert_eq!(
            changes(true, &[(0, 0, SLAVE, true), (0, 0, PRIVATE, true), (ro, 2, 0, false)]),
            [(ro, 2, PRIVATE, false)]
        );
        assert_eq!(changes(true, &[(0, 0, SLAVE, true), (0, 0, SHARED, false)]).len(), 2);
        assert_eq!(
            changes(false, &[(0, 0, SLAVE, true), (ro, 0, 0, false)]),
            [(0, 0, SLAVE, true), (ro, 0, 0, false)]
        );
        assert_eq!(changes(false, &[(0, 0, SLAVE, true), (ro, 0, 0, true)]), [(ro, 0, SLAVE, true)]);
        // The later of two opposite changes holds.
        assert_eq!(changes(true, &[(ro, 0, 0, false), (0, ro, 0, true)]), [(0, ro, 0, false)]);
    }
}
