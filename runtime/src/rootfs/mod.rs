//! The root file system: mounts, devices, pivot, masks.
//!
//! [`plan::plan`] decides everything from the config, without a side effect. Then:
//!
//! | step | who | function | fds that stay open after it |
//! |---|---|---|---|
//! | 1 | parent, before the clone | [`open_sources`] | the root tree, one detached mount per bind source, `/dev/null`, host devices: [`sources::MountSources`] |
//! | 2 | child, in its mount namespace, or making it | [`Rootfs::attach`] | the same; the fd of the host's root is closed again |
//! | 3 | child | [`Rootfs::mount_before_cgroup`], [`Rootfs::mount_rest`] | the container's root; a tmpfs that becomes read-only later; `/dev/null`; devices |
//! | 4 | child | [`Rootfs::make_devices`] | the container's root; a tmpfs that becomes read-only later; `/dev/null` |
//! | 5 | child, after the createContainer hooks | [`Rootfs::pivot`] | the same; the host's mounts are gone from the namespace |
//! | 6 | child, with a terminal | [`Rootfs::bind_console`] | the same |
//! | 7 | child | [`Rootfs::finish`] | the container's root; `/dev/null` |
//! | 8 | child, after the sysctls are written | [`Rootfs::protect_paths`] | none |
//!
//! All of them are close-on-exec. The parent drops its [`sources::MountSources`] after the clone; the child's copy
//! goes into [`Rootfs`]. A caller without `CAP_SYS_ADMIN` over its mount namespace calls [`open_sources`] in the
//! child instead, where open_tree(2) is allowed.
//!
//! Decisions that the specification leaves open:
//! * The rootfs and every bind source are copied (`OPEN_TREE_CLONE`) from the caller's mount namespace and attached by
//!   fd. The rootfs tree is attached on `/` of the private namespace: pivot_root(2) needs a mount point below the old
//!   root, and that one exists whatever the path of the rootfs is, so the path is never needed a second time. Only
//!   where the config has hooks that run before the pivot is it attached on its path, where they look for it.
//! * Where the kernel can make a mount namespace of one tree (Linux 7.0), and nothing of the host is looked for in it, the root tree
//!   becomes one: the process is in its root after step 2, and step 5 only takes off what the config has covered `/` with.
//! * Nothing of the host is reachable for writing through a mount point that has to be made: a bind source that is
//!   read only is so before it is attached, and making a mount point in it fails with `EROFS` (row A10).
//! * Destinations are cleaned as text (`..` stops at `/`) and then resolved inside the root. Links in the image are
//!   followed inside the root, but for proc and sysfs, where any link is an error (row A4).
//! * Without a mount namespace of its own the container gets its mounts in the one it runs in, as the config asks, and
//!   chroot(2) instead of pivot_root(2); propagation is then never changed (row A14).

pub mod copyup;
pub mod devices;
pub mod joined_proc;
pub mod mask;
pub mod mounts;
pub mod options;
pub mod pivot;
pub mod plan;
pub mod sources;

use std::iter::{Peekable, Zip};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::{slice, vec};

use crate::error::Result;
use crate::namespaces::{OpenNamespace, PID};
use crate::userns;

use self::plan::{PlannedMount, RootfsPlan};
use self::sources::MountSources;

/// What the root tree is attached on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    /// The host's root, in a copy of the host's mount namespace.
    OldRoot,
    /// The path of the rootfs there.
    ItsPath,
    /// Nothing of the host's: the mount namespace was made of the tree, which is the root already.
    Nothing,
}

type Mounts<'a> = Peekable<Zip<slice::Iter<'a, PlannedMount>, vec::IntoIter<sources::Source>>>;

/// The root file system while the child makes it. The steps are its methods, in the order of the module's table.
#[derive(Debug)]
pub struct Rootfs<'a> {
    plan: &'a RootfsPlan,
    /// The container's root directory, `O_PATH`.
    root: OwnedFd,
    /// What the root tree is attached on.
    on: Below,
    /// How many roots lie below it, because the config mounts something on `/`.
    covered_roots: u32,
    /// What is yet to be mounted, with what the parent opened for it.
    mounts: Mounts<'a>,
    /// The SELinux context of new file systems, where SELinux runs.
    label: Option<&'a str>,
    /// Some of it is a copy of a mount of the host.
    has_copies: bool,
    /// The host's `/dev/null`, for masked paths.
    null: Option<OwnedFd>,
    /// The host's devices, where they are bound; [`Rootfs::make_devices`] uses them up.
    devices: Vec<OwnedFd>,
    /// Mounts that become read-only in [`Rootfs::finish`], because something has yet to be made in them.
    read_only_later: Vec<(PathBuf, OwnedFd)>,
}

/// Step 1: opens what the plan needs of the host, relative to `bundle`; `namespaces` are those that the container joins.
///
/// # Errors
/// What could not be opened or made, and why.
pub fn open_sources(
    plan: &RootfsPlan,
    bundle: BorrowedFd<'_>,
    namespaces: &[OpenNamespace],
) -> Result<MountSources> {
    let mut sources = sources::open(plan, bundle, &mut userns::for_mapping)?;
    if namespaces.iter().any(|namespace| namespace.kind == PID) {
        joined_proc::open(plan, &mut sources, namespaces)?;
    }
    Ok(sources)
}
