//! The child's part: the root tree and the mounts are attached, by fd to fd.
//!
//! No path of the host is used here, but for what a new file system names as its own source. A target is resolved, or
//! made, inside the container's root and is then only an fd, so that what is changed in the image or in a shared
//! volume meanwhile does not move the mount (rows A1, A2).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::fchdir;

use crate::error::{Context as _, Error, Result};
use crate::namespaces::MOUNT;
use crate::sys::clone;
use crate::sys::fd::set_security_label;
use crate::sys::mount::{
    Change, FsContext, attr, clone_tree, clone_tree_of, move_mount, move_mount_at, namespace_of, propagation,
    set_attributes,
};
use crate::sys::path::{
    append, make_file_in_root, mkdir_all_in_root, open_given, open_in_root, open_in_root_no_links, open_own,
    stat,
};
use crate::sys::procfs;

use super::options::{Options, Scope};
use super::plan::{CgroupV1, CgroupsFrom, Kind, MountNamespace, PlannedMount, RootfsPlan};
use super::sources::{MountSources, Source};
use super::{Below, Rootfs, copyup};

/// Directories that are made for mount points.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

impl<'a> Rootfs<'a> {
    /// Step 2: makes the mount namespace of the root tree alone, where that will do; or, in a copy of the host's, makes all that was
    /// copied a slave (so that neither mounts nor the unmounting of the old root reach the host, row A14) and attaches the root tree.
    ///
    /// Sets the umask to 0, so that device nodes and mount points get their exact modes.
    ///
    /// # Errors
    /// The errno of mount_setattr(2) or move_mount(2); in a joined namespace, of opening the rootfs there.
    pub fn attach(plan: &'a RootfsPlan, bundle: &Path, sources: MountSources) -> Result<Self> {
        nix::sys::stat::umask(Mode::empty());
        let MountSources { root, mounts, null, devices } = sources;
        let (root, on) = match plan.namespace {
            MountNamespace::New => match stand_alone(plan, &root)? {
                Some(root) => (root, Below::Nothing),
                None => attach_root(plan, bundle, root)?,
            },
            MountNamespace::Inherited => (root, Below::ItsPath),
            // The parent's fd belongs to the parent's namespace, where no mount of the joined one can be attached.
            MountNamespace::Joined => {
                (open_rootfs(plan, bundle).context(|| "/root/path: open the rootfs")?, Below::ItsPath)
            }
        };
        let has_copies = mounts.iter().any(|source| matches!(source, Source::Tree { .. }));
        let mounts = plan.mounts.iter().zip(mounts).peekable();
        let read_only_later = Vec::new();
        let label = match &plan.label {
            Some(label) if takes_labels(label)? => Some(label.as_str()),
            _ => None,
        };
        Ok(Self {
            plan,
            root,
            on,
            covered_roots: 0,
            mounts,
            label,
            has_copies,
            null,
            devices,
            read_only_later,
        })
    }

    /// The container's root directory, `O_PATH`.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Step 3: the mounts, in the order of the config, up to the first that shows the container's cgroup.
    ///
    /// # Errors
    /// `mount TYPE on DEST: ` and what went wrong.
    pub fn mount_before_cgroup(&mut self) -> Result<()> {
        while let Some((mount, source)) = self.mounts.next_if(|(mount, _)| !mount.shows_cgroup()) {
            self.mount_one(mount, source)?;
        }
        Ok(())
    }

    /// The rest of step 3: the process is in its cgroup.
    ///
    /// # Errors
    /// `mount TYPE on DEST: ` and what went wrong.
    pub fn mount_rest(&mut self) -> Result<()> {
        while let Some((mount, source)) = self.mounts.next() {
            self.mount_one(mount, source)?;
        }
        if self.has_copies { self.put_in_order() } else { Ok(()) }
    }

    /// Since Linux 6.8 mountinfo lists mounts by age and no longer as they were attached, and the bind sources are older
    /// than all else. A copy of the whole tree has the order of the config. Those who look for mounts in that order
    /// (config.md, mounts: "in the listed order") get it; it is given up where it would cost more than one copy: the config
    /// covers `/`, or a descriptor of a mount is still needed.
    fn put_in_order(&mut self) -> Result<()> {
        if self.plan.namespace != MountNamespace::New
            || self.plan.no_pivot
            || self.covered_roots > 0
            || !self.read_only_later.is_empty()
        {
            return Ok(());
        }
        self.set_unbindable(propagation::PRIVATE)?;
        let copy = clone_tree_of(&self.root, true).context(|| "copy the tree of mounts")?;
        move_mount(&copy, &self.root).context(|| "attach the copy of the tree of mounts")?;
        self.root = copy;
        self.covered_roots += 1;
        self.set_unbindable(propagation::UNBINDABLE)
    }

    /// Gives the mounts that are to be unbindable another propagation, or that one: as such they would not be copied.
    fn set_unbindable(&self, value: u64) -> Result<()> {
        for mount in &self.plan.mounts {
            let Some((scope, propagation::UNBINDABLE)) = mount.options.propagation.last() else { continue };
            let change = Change { propagation: value, recursive: *scope == Scope::Tree, ..Change::default() };
            open_in_root(&self.root, &mount.destination, OFlag::O_PATH)
                .and_then(|found| set_attributes(&found, change))
                .context(|| format!("/mounts/{}/options: change the propagation", mount.index))?;
        }
        Ok(())
    }

    fn mount_one(&mut self, mount: &PlannedMount, source: Source) -> Result<()> {
        self.mount_source(mount, source).map_err(|error| error.context(mount.what()))
    }

    fn mount_source(&mut self, mount: &PlannedMount, source: Source) -> Result<()> {
        match (&mount.kind, source) {
            (Kind::FileSystem { .. }, Source::Tree { mount: tree, .. }) => {
                let target = self.target_without_links(&mount.destination)?;
                self.attach_at(&mount.destination, tree, &target)
            }
            (Kind::FileSystem { fs_type, source }, _) => {
                self.mount_file_system(mount, fs_type, source.as_deref())
            }
            (Kind::Bind { .. }, Source::Tree { mount: tree, is_directory }) => {
                let target = self.target(&mount.destination, is_directory)?;
                // move_mount(2) would say EINVAL or ENOTDIR, depending on the kernel. Docker knows by ENOTDIR's words to ask
                // whether a file was meant to be mounted on a directory, unless EISDIR's ("is a directory") are there too:
                // those are a program that is one (moby, translateContainerdStartErr).
                if !is_directory && is_directory_fd(&target)? {
                    let what = "a file cannot be mounted on a directory";
                    return Err(Error::from_errno(what, Errno::ENOTDIR));
                }
                self.attach_at(&mount.destination, tree, &target)
            }
            (Kind::CgroupV1 { hierarchies, from }, source) => {
                let bound = match source {
                    Source::Cgroups(trees) => trees,
                    Source::Tree { .. } | Source::None => Vec::new(),
                };
                self.mount_cgroups(mount, hierarchies, *from, bound)
            }
            (Kind::Remount, _) => self.remount(mount),
            (Kind::Bind { .. }, _) => Err(Error::new("its source was not opened")),
        }
    }

    /// A new instance of a file system.
    fn mount_file_system(&mut self, mount: &PlannedMount, fs_type: &str, source: Option<&str>) -> Result<()> {
        let options = &mount.options;
        let is_tmpfs = fs_type == "tmpfs";
        let mode = if is_tmpfs { self.mode_below(mount)? } else { None };
        let target = match fs_type {
            "proc" | "sysfs" => self.target_without_links(&mount.destination)?,
            _ => self.target(&mount.destination, true)?,
        };
        // Mount points and device nodes have yet to be made in these, so that read-only waits until the end.
        let delayed =
            options.is_read_only() && (is_tmpfs || mount.destination == Path::new(super::devices::DEV));
        let kind = (fs_type, source);
        let tree = new_file_system(mount, kind, delayed, self.label, mode.as_deref())?;
        if options.copy_up && is_tmpfs {
            copyup::copy(&target, &tree)?;
        }
        if delayed {
            self.attach_read_only_later(&mount.destination, tree, &target)
        } else {
            self.attach_at(&mount.destination, tree, &target)
        }
    }

    /// The mode of a tmpfs whose options have none: the directory that it covers lends its own, where there is one (as
    /// runc does).
    fn mode_below(&self, mount: &PlannedMount) -> Result<Option<String>> {
        if mount.options.parameters.iter().any(|(key, _)| key == "mode") {
            return Ok(None);
        }
        match open_in_root(&self.root, &mount.destination, OFlag::O_PATH) {
            Err(Errno::ENOENT) => Ok(None),
            found => {
                let found =
                    stat(found.context(|| "open the destination")?).context(|| "stat the destination")?;
                Ok(Some(format!("{:o}", found.st_mode & 0o7777)))
            }
        }
    }

    /// A tmpfs with one directory for each hierarchy, as every v1 system has it at `/sys/fs/cgroup`.
    fn mount_cgroups(
        &mut self,
        mount: &PlannedMount,
        hierarchies: &[CgroupV1],
        from: CgroupsFrom,
        bound: Vec<OwnedFd>,
    ) -> Result<()> {
        let secure = attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let read_only = mount.options.is_read_only();
        let target = self.target(&mount.destination, true)?;
        let context = FsContext::open("tmpfs").context(|| "tmpfs")?;
        set_parameter(&context, "source", Some("tmpfs"))?;
        set_parameter(&context, "mode", Some("755"))?;
        let tmpfs = create(&context, secure)?;
        set_propagation(&tmpfs, &mount.options)?;
        move_mount(&tmpfs, &target).context(|| "attach")?;
        let attributes = if read_only { secure | attr::RDONLY } else { secure };
        let mut bound = bound.into_iter();
        for hierarchy in hierarchies {
            let what = || format!("hierarchy {}", hierarchy.name);
            let name = hierarchy.name.as_str();
            nix::sys::stat::mkdirat(&tmpfs, name, DIRECTORY_MODE).context(what)?;
            let tree = match from {
                CgroupsFrom::Host => bound.next().ok_or_else(|| Error::new("it was not opened")),
                CgroupsFrom::Later => bound_cgroup_v1(&hierarchy.container, attributes),
                CgroupsFrom::Namespace => new_cgroup_v1(&hierarchy.selector, attributes),
            };
            let tree = tree.map_err(|error| error.context(what()))?;
            move_mount_at(&tree, &tmpfs, name).context(what)?;
            // `cpu -> cpu,cpuacct`, by the fd of the tmpfs (row A18).
            if name.contains(',') {
                for controller in name.split(',') {
                    link(name, &tmpfs, controller).context(what)?;
                }
            }
        }
        if read_only {
            set_read_only(&tmpfs).context(|| "make it read-only")?;
        }
        Ok(())
    }

    /// mount(8)'s `remount`: the mount that is at the destination gets the attributes, and its file system the
    /// parameters, that the options name.
    fn remount(&mut self, mount: &PlannedMount) -> Result<()> {
        let options = &mount.options;
        let target = open_in_root(&self.root, &mount.destination, OFlag::O_PATH)
            .context(|| format!("/mounts/{}/destination", mount.index))?;
        if options.bind.is_none() && !(options.superblock.is_empty() && options.parameters.is_empty()) {
            let context = FsContext::pick(&target).context(|| "configure its file system")?;
            for name in &options.superblock {
                set_parameter(&context, name, None)?;
            }
            for (key, value) in &options.parameters {
                set_parameter(&context, key, value.as_deref())?;
            }
            context.reconfigure().map_err(|errno| refused(&context, "configure its file system", errno))?;
        }
        for (attributes, recursive) in [(options.top, false), (options.tree, true)] {
            if !attributes.is_empty() {
                let (set, clear) = (attributes.set(), attributes.clear());
                set_attributes(&target, Change { set, clear, recursive, ..Change::default() }).map_err(
                    |errno| match errno {
                        Errno::EINVAL => Error::from_errno("is it a mount point?", errno),
                        _ => Error::from_errno("set its attributes", errno),
                    },
                )?;
            }
        }
        set_propagation(&target, options)
    }

    /// The mount point of a mount: resolved in the root, made where it is missing.
    fn target(&self, destination: &Path, is_directory: bool) -> Result<OwnedFd> {
        let target = if is_directory {
            mkdir_all_in_root(&self.root, destination, DIRECTORY_MODE)
        } else {
            make_file_in_root(&self.root, destination)
        };
        let target = target.map_err(|error| match error.errno() {
            Some(Errno::ENOTDIR) if is_directory => error.context("the destination is no directory"),
            _ => error,
        })?;
        // The plan has refused destinations in procfs by name; this one gets there through a link of the image.
        if !destination.starts_with(procfs::MOUNT_POINT)
            && procfs::is_procfs(&target).context(|| "statfs the destination")?
        {
            return Err(Error::new("the destination is a link into procfs"));
        }
        Ok(target)
    }

    /// The same for proc and sysfs: a real directory, and no link on the way to it (row A4).
    fn target_without_links(&self, destination: &Path) -> Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut target = open_in_root_no_links(&self.root, destination, flags);
        if target.as_ref().err() == Some(&Errno::ENOENT) {
            mkdir_all_in_root(&self.root, destination, DIRECTORY_MODE)?;
            target = open_in_root_no_links(&self.root, destination, flags);
        }
        target.map_err(|errno| match errno {
            Errno::ELOOP => Error::from_errno(
                "must be mounted on ordinary directory: the destination is, or is behind, a symbolic link",
                errno,
            ),
            Errno::ENOTDIR => Error::from_errno("the destination is no directory", errno),
            _ => Error::from_errno("open the destination", errno),
        })
    }

    fn attach_at(&mut self, destination: &Path, tree: OwnedFd, target: &OwnedFd) -> Result<()> {
        move_mount(&tree, target).context(|| "attach")?;
        if destination == Path::new("/") {
            self.root = tree;
            self.covered_roots += 1;
        }
        Ok(())
    }

    fn attach_read_only_later(&mut self, destination: &Path, tree: OwnedFd, target: &OwnedFd) -> Result<()> {
        if destination == Path::new("/") {
            self.root = clone_fd(&tree)?;
            self.covered_roots += 1;
        }
        move_mount(&tree, target).context(|| "attach")?;
        self.read_only_later.push((PathBuf::from(destination), tree));
        Ok(())
    }
}

/// Makes the mount namespace of the root tree alone, where the plan has it so and the kernel can (Linux 7.0): the host's mounts,
/// which may be thousands, are neither copied nor unmounted again. Returns the root in it; none in a copy of the host's mount
/// namespace, which is made where the other is not to be had.
fn stand_alone(plan: &RootfsPlan, root: &OwnedFd) -> Result<Option<OwnedFd>> {
    if !plan.stands_alone {
        return Ok(None);
    }
    let Ok(namespace) = namespace_of(root) else {
        clone::unshare(MOUNT).context(|| "make namespaces")?;
        return Ok(None);
    };
    clone::join(&namespace, MOUNT).context(|| "join the mount namespace of the rootfs")?;
    let root = open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty());
    root.context(|| "open the root").map(Some)
}

/// On `/`, or, where hooks are to find it there, on the path of the rootfs. That path is looked up for the mount point
/// alone: what is attached, and what becomes the root, is the tree that the parent opened (row A12). Returns it, and which of the
/// two it is.
fn attach_root(plan: &RootfsPlan, bundle: &Path, root: OwnedFd) -> Result<(OwnedFd, Below)> {
    let old =
        open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).context(|| "open the old root")?;
    let change = Change { propagation: propagation::SLAVE, recursive: true, ..Change::default() };
    set_attributes(&old, change).context(|| "make the old root a slave")?;
    let found = if plan.hooks_see_rootfs { open_rootfs(plan, bundle) } else { Err(Errno::EACCES) };
    let (point, on) = match found {
        // Root of a user namespace may not be allowed to walk there.
        Err(Errno::EACCES) => (old, Below::OldRoot),
        found => (found.context(|| "/root/path: open the rootfs")?, Below::ItsPath),
    };
    move_mount(&root, &point).context(|| "mount the rootfs")?;
    Ok((root, on))
}

fn open_rootfs(plan: &RootfsPlan, bundle: &Path) -> nix::Result<OwnedFd> {
    let mut path = bundle.to_owned();
    append(&mut path, &plan.root);
    open_given(&path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
}

fn is_directory_fd(fd: &OwnedFd) -> Result<bool> {
    Ok(stat(fd).context(|| "stat the destination")?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn clone_fd(fd: &OwnedFd) -> Result<OwnedFd> {
    crate::sys::fd::duplicate(fd, 3).context(|| "duplicate a descriptor")
}

/// A new, detached instance of the file system `kind` (type and source) with the options of `mount`; writable for now
/// where `delayed`. `label` is its SELinux context, `mode` that of its root directory.
pub(super) fn new_file_system(
    mount: &PlannedMount,
    (fs_type, source): (&str, Option<&str>),
    delayed: bool,
    label: Option<&str>,
    mode: Option<&str>,
) -> Result<OwnedFd> {
    let context = FsContext::open(fs_type).map_err(|errno| unknown_type(fs_type, errno))?;
    configure(&context, mount, (fs_type, source), delayed, label, mode)
}

/// The same with a context that is open already.
pub(super) fn configure(
    context: &FsContext,
    mount: &PlannedMount,
    (fs_type, source): (&str, Option<&str>),
    delayed: bool,
    label: Option<&str>,
    mode: Option<&str>,
) -> Result<OwnedFd> {
    let options = &mount.options;
    let attributes = options.top.merged(&options.tree).set();
    if let Some(source) = source {
        set_parameter(context, "source", Some(source))?;
    }
    for name in &options.superblock {
        match context.set_flag(name) {
            // The other flags are the VFS's own, this one is each file system's (fs/fs_context.c): mount(2) has a bit for it
            // that those without a change counter do not look at, and fsconfig(2) has none.
            Err(Errno::EINVAL) if *name == "iversion" => {}
            set => set.map_err(|errno| refused(context, &format!("option {name}"), errno))?,
        }
    }
    // The superblock too, without which a read-only block device could not be mounted. Not for cgroup2, whose
    // superblock is the host's.
    if options.is_read_only() && !delayed && fs_type != "cgroup2" {
        set_parameter(context, "ro", None)?;
    }
    if let Some(label) = label
        && !matches!(fs_type, "proc" | "sysfs" | "cgroup2" | "mqueue")
    {
        set_parameter(context, "context", Some(label))?;
    }
    if let Some(mode) = mode {
        set_parameter(context, "mode", Some(mode))?;
    }
    if fs_type == "overlay" {
        set_overlay_parameters(context, options)?;
    } else {
        for (key, value) in &options.parameters {
            set_parameter(context, key, value.as_deref())?;
        }
    }
    let now = if delayed { attributes & !attr::RDONLY } else { attributes };
    let tree = create(context, now)?;
    // The instance is the IPC namespace's, which labelled it as it was made: it takes a label for its root alone.
    if let (Some(label), "mqueue") = (label, fs_type) {
        label_root(&tree, label)?;
    }
    set_propagation(&tree, options)?;
    Ok(tree)
}

/// Whether SELinux runs: nobody else knows the parameter, and a kernel that does not run it has no use for labels. A tmpfs is asked:
/// a file system that keeps its parameters as text (`legacy_parse_param` in fs/fs_context.c; devpts up to Linux 6.12) takes any, or
/// has words of its own for what it does not take.
///
/// # Errors
/// SELinux does not take this one.
fn takes_labels(label: &str) -> Result<bool> {
    let context = FsContext::open("tmpfs").context(|| "tmpfs")?;
    match set_parameter(&context, "context", Some(label)) {
        Err(error)
            if error.errno() == Some(Errno::EINVAL) && error.to_string().contains("Unknown parameter") =>
        {
            Ok(false)
        }
        result => result.map(|()| true).map_err(|error| error.context("/linux/mountLabel")),
    }
}

/// The file system has no extended attributes but those of security modules.
fn label_root(tree: &OwnedFd, label: &str) -> Result<()> {
    let root = open_own(tree, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
        .context(|| "open its root")?;
    set_security_label(&root, label).context(|| format!("label {label}"))
}

fn bound_cgroup_v1(container: &Path, set: u64) -> Result<OwnedFd> {
    let what = || format!("open {}", container.display());
    let tree = clone_tree(nix::fcntl::AT_FDCWD, container, false).context(what)?;
    let change = Change { set, propagation: propagation::PRIVATE, ..Change::default() };
    set_attributes(&tree, change).context(what)?;
    Ok(tree)
}

fn new_cgroup_v1(selector: &str, attributes: u64) -> Result<OwnedFd> {
    let context = FsContext::open("cgroup").context(|| "cgroup")?;
    set_parameter(&context, "source", Some("cgroup"))?;
    for option in selector.split(',') {
        match option.split_once('=') {
            Some((key, value)) => set_parameter(&context, key, Some(value))?,
            None => set_parameter(&context, option, None)?,
        }
    }
    create(&context, attributes)
}

fn unknown_type(fs_type: &str, errno: Errno) -> Error {
    match errno {
        Errno::ENODEV => Error::from_errno(format!("this kernel has no file system {fs_type}"), errno),
        _ => Error::from_errno("fsopen", errno),
    }
}

/// One parameter in one call (row A15). fsconfig(2) takes values of at most 255 bytes.
fn set_parameter(context: &FsContext, key: &str, value: Option<&str>) -> Result<()> {
    let result = match value {
        Some(value) => context.set(key, value),
        None => context.set_flag(key),
    };
    result.map_err(|errno| {
        let what = match value {
            Some(value) => format!("option {key}={value}"),
            None => format!("option {key}"),
        };
        refused(context, &what, errno)
    })
}

/// `what: errno (what the kernel logged about it)`.
fn refused(context: &FsContext, what: &str, errno: Errno) -> Error {
    let log = context.log();
    if log.is_empty() {
        Error::from_errno(what, errno)
    } else {
        Error::from_errno(format!("{what}: {log}"), errno)
    }
}

fn create(context: &FsContext, attributes: u64) -> Result<OwnedFd> {
    context.mount(attributes).map_err(|errno| {
        let log = context.log();
        if log.is_empty() { Error::from_errno("fsmount", errno) } else { Error::from_errno(log, errno) }
    })
}

/// overlay: each lower layer a parameter of its own (`lowerdir+`, Linux 6.5), so that a path needs no escapes. Where
/// the kernel does not know that, the one string as it was given, whose escapes overlay reads itself.
fn set_overlay_parameters(context: &FsContext, options: &Options) -> Result<()> {
    for (key, value) in &options.parameters {
        match (key.as_str(), value) {
            ("lowerdir", Some(value)) => set_lower_layers(context, value)?,
            (key @ ("upperdir" | "workdir"), Some(value)) => set_layer(context, key, value)?,
            (key, value) => set_parameter(context, key, value.as_deref())?,
        }
    }
    Ok(())
}

fn set_lower_layers(context: &FsContext, value: &str) -> Result<()> {
    for (index, (key, layer)) in lower_layers(value).iter().enumerate() {
        match set_layer(context, key, layer) {
            Err(error) if index == 0 && error.errno() == Some(Errno::EINVAL) => {
                return set_parameter(context, "lowerdir", Some(value)).map_err(|_| error);
            }
            other => other?,
        }
    }
    Ok(())
}

/// A layer that is longer than a value may be goes as an fd. Before Linux 6.13 overlay takes none, and fsconfig(2) has
/// EBADF for an `O_PATH` one.
fn set_layer(context: &FsContext, key: &str, path: &str) -> Result<()> {
    const LONGEST_VALUE: usize = 255;
    if path.len() <= LONGEST_VALUE {
        return set_parameter(context, key, Some(path));
    }
    let what = || format!("option {key}={path}");
    let layer = open_given(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).context(what)?;
    let set = match context.set_fd(key, &layer) {
        Err(Errno::EBADF) => set_from_within(context, key, &layer),
        other => other,
    };
    set.map_err(|errno| refused(context, &what(), errno))
}

/// Overlay looks a layer up when it is set (Linux 6.5), so that a working directory can stand for its path.
fn set_from_within(context: &FsContext, key: &str, layer: &OwnedFd) -> nix::Result<()> {
    let before = open_given(".", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
    fchdir(layer)?;
    let set = context.set(key, ".");
    fchdir(&before)?;
    set
}

/// The layers of `lowerdir=`: separated by `:`, with `\` as escape; those after `::` hold data only (Linux 6.5,
/// Documentation/filesystems/overlayfs.rst).
fn lower_layers(value: &str) -> Vec<(&'static str, String)> {
    let mut layers = vec![("lowerdir+", String::new())];
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        let layer = layers.last_mut();
        match (character, layer) {
            ('\\', Some((_, layer))) => layer.extend(characters.next()),
            (':', _) => {
                let data_only = characters.next_if_eq(&':').is_some();
                layers.push((if data_only { "datadir+" } else { "lowerdir+" }, String::new()));
            }
            (other, Some((_, layer))) => layer.push(other),
            (_, None) => {}
        }
    }
    layers
}

fn set_propagation(mount: &OwnedFd, options: &Options) -> Result<()> {
    for (scope, value) in &options.propagation {
        let change = Change { propagation: *value, recursive: *scope == Scope::Tree, ..Change::default() };
        set_attributes(mount, change).context(|| "set its propagation")?;
    }
    Ok(())
}

/// Makes the mount behind `mount` read-only and looks whether it is (row A9).
pub(super) fn set_read_only(mount: &OwnedFd) -> nix::Result<()> {
    set_attributes(mount, Change { set: attr::RDONLY, ..Change::default() })?;
    let flags = nix::sys::statvfs::fstatvfs(mount)?.flags();
    if flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) { Ok(()) } else { Err(Errno::EROFS) }
}

/// A symbolic link `dir/name` to `target`; what is there already stays.
pub(super) fn link(target: &str, dir: impl AsFd, name: &str) -> nix::Result<()> {
    match nix::unistd::symlinkat(target, dir, name) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md A15: colons and commas in a layer's path are escaped in one string, and need no escape as layers.
    #[test]
    fn a15_lower_layers_are_separated_and_unescaped() {
        let layers = |value| {
            lower_layers(value).into_iter().map(|(key, layer)| format!("{key}{layer}")).collect::<Vec<_>>()
        };
        assert_eq!(layers("/a"), ["lowerdir+/a"]);
        assert_eq!(layers("/a:/b,c=d"), ["lowerdir+/a", "lowerdir+/b,c=d"]);
        assert_eq!(layers("/a\\:b:/c\\\\"), ["lowerdir+/a:b", "lowerdir+/c\\"]);
        assert_eq!(layers("/a::/data::/more"), ["lowerdir+/a", "datadir+/data", "datadir+/more"]);
    }
}
