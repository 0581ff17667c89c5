//! Decides the root file system from the configuration, without a side effect.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxIdMapping, LinuxNamespaceType, Mount, Root, Spec};

use crate::error::{Error, Result};
use crate::sys::mount::propagation;
use crate::sys::path::clean;
use crate::sys::procfs;

use super::devices::{self, Device};
use super::options::{Options, Scope};

/// The mount namespace that the container's mounts are made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountNamespace {
    /// One of the container's own.
    New,
    /// An existing one, joined by path.
    Joined,
    /// The caller's.
    Inherited,
}

/// What the plan has to know beside the config.
#[derive(Debug, Default)]
pub struct Facts {
    /// `--no-pivot`: see [`Rootfs::pivot`].
    pub no_pivot: bool,
    /// The cgroup file systems of this host; only looked at where the config has a mount of type cgroup.
    pub cgroups: CgroupMounts,
    /// The runtime makes a cgroup for the container, by itself and with all rights.
    pub makes_cgroup: bool,
    /// It is in the host's user namespace.
    pub hosts_user_namespace: bool,
}

/// The cgroup file systems of the host and where the container is in them.
#[derive(Debug, Default, Clone)]
pub struct CgroupMounts {
    /// The v1 hierarchies; empty on a pure v2 host.
    pub v1: Vec<CgroupV1>,
    /// Where the v2 hierarchy is mounted (`/sys/fs/cgroup`, on a hybrid host `/sys/fs/cgroup/unified`).
    pub v2: Option<PathBuf>,
}

/// One mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupV1 {
    /// The name of its mount point: `memory`, `cpu,cpuacct`, `systemd`.
    pub name: String,
    /// The mount options that select it: controllers, or `name=systemd`; separated by commas.
    pub selector: String,
    /// The directory of the container's own cgroup on the host: it is bound where the container has no cgroup
    /// namespace of its own.
    pub container: PathBuf,
}

/// Everything about the root file system, decided.
#[derive(Debug)]
pub struct RootfsPlan {
    /// `root.path` as configured: absolute or relative to the bundle.
    pub root: PathBuf,
    /// Where the mounts are made.
    pub namespace: MountNamespace,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// The init process makes the mount namespace, and needs nothing of the host's in it.
    pub stands_alone: bool,
    /// There are hooks that run before the pivot, which look for the container's root at the path of the rootfs.
    pub hooks_see_rootfs: bool,
    /// `root.readonly`.
    pub read_only: bool,
    /// What the copies of the host's mounts (the root tree and the bind sources) are made before anything else.
    pub inherited: Inherited,
    /// The propagation of the container's `/` at the end, and whether of all mounts below it too.
    pub propagation: Option<(Scope, u64)>,
    /// The mounts, in the order of the config.
    pub mounts: Vec<PlannedMount>,
    /// The device nodes to make; none where the config binds something on `/dev`, which then is left as it is.
    pub devices: Option<Vec<Device>>,
    /// Bind the host's devices: mknod(2) is not allowed in a user namespace.
    pub bind_devices: bool,
    /// `linux.maskedPaths`.
    pub masked_paths: Vec<PathBuf>,
    /// `linux.readonlyPaths`.
    pub readonly_paths: Vec<PathBuf>,
    /// `linux.mountLabel`, for file systems that carry a SELinux context.
    pub label: Option<String>,
}

/// What mounts that were copied from the host keep of their peer groups there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// The root tree, a [`propagation`] value: never `SHARED`, because a "shared" rootfs is a new peer group and not
    /// the host's (config-linux.md, "Rootfs Mount Propagation").
    pub root: u64,
    /// The bind sources; 0 keeps them in the host's peer groups, for `rootfsPropagation: shared`.
    pub sources: u64,
}

/// One entry of `mounts`.
#[derive(Debug)]
pub struct PlannedMount {
    /// Its index in the config, for error pointers.
    pub index: usize,
    /// Where: absolute, without `.` and `..`.
    pub destination: PathBuf,
    /// What.
    pub kind: Kind,
    /// How.
    pub options: Options,
}

/// What is mounted.
#[derive(Debug, PartialEq)]
pub enum Kind {
    /// A new instance of a file system.
    FileSystem {
        /// Its type.
        fs_type: String,
        /// The source string, where the config has one.
        source: Option<String>,
    },
    /// A copy of a mount of the host, or of a part of it.
    Bind {
        /// Absolute, or relative to the bundle.
        source: PathBuf,
        /// With the mounts below it.
        recursive: bool,
        /// The id mapping of the copy.
        id_map: Option<IdMap>,
    },
    /// A tmpfs with one directory for each v1 hierarchy.
    CgroupV1 {
        /// The hierarchies.
        hierarchies: Vec<CgroupV1>,
        /// Where they come from.
        from: CgroupsFrom,
    },
    /// A change of the mount that is at the destination.
    Remount,
}

/// How a container gets its view of the v1 hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupsFrom {
    /// It has no cgroup namespace: its cgroups are bound from the host's mounts, by the runtime.
    Host,
    /// It has a new cgroup namespace: its cgroups, which are the root there, are bound from the host's mounts by the init
    /// process. That shows what a new mount shows, and is cheaper.
    Later,
    /// They are mounted anew inside the cgroup namespace: in a user namespace, to which the host's mounts are locked, or
    /// where the namespace is not the container's own, or the host's mounts are not in sight.
    Namespace,
}

/// The id mapping of a mount.
#[derive(Debug, Clone, PartialEq)]
pub struct IdMap {
    /// The user namespace that has the mapping.
    pub mapping: IdMapping,
    /// The mounts below are mapped too.
    pub recursive: bool,
}

/// A user namespace, by what it maps or by path.
#[derive(Debug, Clone, PartialEq)]
pub enum IdMapping {
    /// `uid_map` and `gid_map` of a user namespace to be made for the purpose.
    Maps {
        /// The user ids.
        uid: Vec<LinuxIdMapping>,
        /// The group ids.
        gid: Vec<LinuxIdMapping>,
    },
    /// The user namespace that the container joins.
    Joined(PathBuf),
}

impl RootfsPlan {
    /// Whether a mount namespace of the root tree alone will do: nothing of the host's is looked for in it. Not in a user
    /// namespace, where procfs and sysfs can be mounted only where others are in sight (`mount_too_revealing`).
    pub fn can_stand_alone(&self, facts: &Facts) -> bool {
        let from_host =
            |mount: &PlannedMount| matches!(mount.kind, Kind::CgroupV1 { from: CgroupsFrom::Later, .. });
        facts.hosts_user_namespace
            && self.namespace == MountNamespace::New
            && !self.no_pivot
            && !self.hooks_see_rootfs
            && !self.mounts.iter().any(from_host)
    }
}

impl PlannedMount {
    /// Whether it shows the cgroup of the process that mounts it.
    pub(super) fn shows_cgroup(&self) -> bool {
        match &self.kind {
            Kind::FileSystem { fs_type, .. } => fs_type == "cgroup2",
            Kind::CgroupV1 { from, .. } => *from != CgroupsFrom::Host,
            Kind::Bind { .. } | Kind::Remount => false,
        }
    }

    /// `mount TYPE on DEST`, the beginning of every error about it.
    pub fn what(&self) -> String {
        let what = match &self.kind {
            Kind::FileSystem { fs_type, .. } => fs_type.clone(),
            Kind::Bind { source, .. } => source.display().to_string(),
            Kind::CgroupV1 { .. } => "cgroup".to_owned(),
            Kind::Remount => return format!("remount {}", self.destination.display()),
        };
        format!("mount {what} on {}", self.destination.display())
    }
}

/// Decides the root file system of `spec`.
///
/// # Errors
/// A value that cannot be honoured, with its JSON pointer.
pub fn plan(spec: &Spec, facts: &Facts) -> Result<RootfsPlan> {
    let nothing = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&nothing);
    let namespaces = Namespaces::of(linux);
    let root = spec.root().as_ref().ok_or_else(|| Error::new("/root: must be given"))?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::new("/root/path: must not be empty"));
    }
    let (inherited, root_propagation) = root_propagation(linux.rootfs_propagation().as_deref())?;
    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        mounts.push(plan_mount(index, mount, linux, &namespaces, facts)?);
    }
    let dev = Path::new("/dev");
    let dev_is_bound =
        mounts.iter().any(|mount| matches!(mount.kind, Kind::Bind { .. }) && mount.destination == dev);
    let masked_paths = protected(linux.masked_paths().as_deref(), "maskedPaths", &namespaces)?;
    let readonly_paths = protected(linux.readonly_paths().as_deref(), "readonlyPaths", &namespaces)?;
    Ok(RootfsPlan {
        root: root.path().clone(),
        namespace: namespaces.mount,
        no_pivot: facts.no_pivot,
        stands_alone: false,
        hooks_see_rootfs: hooks_before_pivot(spec),
        read_only: read_only(root, &namespaces)?,
        inherited,
        propagation: root_propagation,
        mounts,
        devices: if dev_is_bound { None } else { Some(devices::plan(linux.devices().as_deref())?) },
        bind_devices: namespaces.user,
        masked_paths,
        readonly_paths,
        label: linux.mount_label().clone().filter(|label| !label.is_empty()),
    })
}

/// `root.readonly`: an attribute of a mount, and so never without a mount namespace of the container's own. There the root file
/// system is a directory, or a mount of the host's.
fn read_only(root: &Root, namespaces: &Namespaces) -> Result<bool> {
    let asked = root.readonly() == Some(true);
    if asked && namespaces.mount == MountNamespace::Inherited {
        return Err(Error::new("/root/readonly: true: needs a mount namespace"));
    }
    Ok(asked)
}

/// Hooks that run when the mounts are there and the root is still the host's (config.md, "POSIX-platform Hooks"). Those
/// of the container's namespace may mount below the path of the rootfs, others enter that namespace to do so.
fn hooks_before_pivot(spec: &Spec) -> bool {
    let any = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    spec.hooks().as_ref().is_some_and(|hooks| {
        // Deprecated, and still what managers use.
        #[allow(deprecated, reason = "configs have them")]
        let prestart = any(hooks.prestart());
        prestart || any(hooks.create_runtime()) || any(hooks.create_container())
    })
}

/// The namespaces that matter to mounts.
struct Namespaces {
    mount: MountNamespace,
    /// A user namespace other than the caller's.
    user: bool,
    /// A network namespace that belongs to the container's user namespace, as far as can be told: a new one, or one that
    /// is joined like it.
    own_network: bool,
    /// A cgroup namespace other than the caller's.
    cgroup: bool,
    /// And a new one: its root is the container's cgroup.
    own_cgroup: bool,
    user_path: Option<PathBuf>,
}

impl Namespaces {
    fn of(linux: &Linux) -> Self {
        let find = |wanted| linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == wanted);
        let user = find(LinuxNamespaceType::User);
        let user_path = user.and_then(|namespace| namespace.path().clone());
        let cgroup = find(LinuxNamespaceType::Cgroup);
        Self {
            mount: match find(LinuxNamespaceType::Mount).map(|namespace| namespace.path()) {
                None => MountNamespace::Inherited,
                Some(None) => MountNamespace::New,
                Some(Some(_)) => MountNamespace::Joined,
            },
            user: user.is_some(),
            own_network: find(LinuxNamespaceType::Network)
                .is_some_and(|network| network.path().is_none() || user_path.is_some()),
            cgroup: cgroup.is_some(),
            own_cgroup: cgroup.is_some_and(|namespace| namespace.path().is_none()),
            user_path,
        }
    }
}

/// What `linux.rootfsPropagation` means for the copies of the host's mounts, and for `/` at the end.
fn root_propagation(value: Option<&str>) -> Result<(Inherited, Option<(Scope, u64)>)> {
    use propagation::{PRIVATE, SHARED, SLAVE, UNBINDABLE};
    let slave = Inherited { root: SLAVE, sources: SLAVE };
    let private = Inherited { root: PRIVATE, sources: PRIVATE };
    let shared = Inherited { root: PRIVATE, sources: 0 };
    // The copies are slaves or private with all below them even where the name has no `r`: a copied mount that stayed
    // shared would carry the container's mounts to the host.
    Ok(match value.unwrap_or_default() {
        "" => (slave, None),
        "slave" => (slave, Some((Scope::Top, SLAVE))),
        "rslave" => (slave, Some((Scope::Tree, SLAVE))),
        "private" => (private, Some((Scope::Top, PRIVATE))),
        "rprivate" => (private, Some((Scope::Tree, PRIVATE))),
        "shared" => (shared, Some((Scope::Top, SHARED))),
        "rshared" => (shared, Some((Scope::Tree, SHARED))),
        "unbindable" => (private, Some((Scope::Top, UNBINDABLE))),
        "runbindable" => (private, Some((Scope::Tree, UNBINDABLE))),
        other => {
            return Err(Error::new(format!(
                "/linux/rootfsPropagation: {other:?}: must be one of shared, slave, private, unbindable, or one of \
                 them with an r in front"
            )));
        }
    })
}

fn plan_mount(
    index: usize,
    mount: &Mount,
    linux: &Linux,
    namespaces: &Namespaces,
    facts: &Facts,
) -> Result<PlannedMount> {
    let destination = mount.destination();
    if destination.as_os_str().is_empty() {
        return Err(Error::new(format!("/mounts/{index}/destination: must not be empty")));
    }
    // A relative destination is relative to `/` (config.md, "Mounts").
    let destination = clean(destination);
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let fs_type = mount.typ().as_deref().unwrap_or_default();
    let kind = if options.remount {
        Kind::Remount
    } else if options.bind.is_some() || fs_type == "bind" {
        plan_bind(index, mount, &options, linux, namespaces)?
    } else if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() || options.id_map.is_some() {
        return Err(Error::new(format!("/mounts/{index}: only a bind mount can have an id mapping")));
    } else {
        plan_file_system(index, mount, fs_type, namespaces, facts)?
    };
    let mut planned = PlannedMount { index, destination, kind, options };
    if namespaces.user && !namespaces.own_network && is_file_system(&planned.kind, "sysfs") {
        bind_host_sys(&mut planned);
    }
    check_below_proc(&planned)?;
    Ok(planned)
}

pub(super) fn is_file_system(kind: &Kind, wanted: &str) -> bool {
    matches!(kind, Kind::FileSystem { fs_type, .. } if fs_type == wanted)
}

fn plan_bind(
    index: usize,
    mount: &Mount,
    options: &Options,
    linux: &Linux,
    namespaces: &Namespaces,
) -> Result<Kind> {
    let source = mount.source().clone().unwrap_or_default();
    if source.as_os_str().is_empty() {
        return Err(Error::new(format!("/mounts/{index}/source: must be given for a bind mount")));
    }
    // A word may be a misspelt flag, and crun has `idmap=` as an option: both would be missed. Any other value can only be
    // meant for a file system; it has been warned of.
    let counts = |(key, value): &&(String, Option<String>)| {
        value.is_none() || matches!(key.as_str(), "idmap" | "ridmap")
    };
    if let Some((key, _)) = options.parameters.iter().find(counts) {
        return Err(Error::new(format!(
            "/mounts/{index}/options: {key:?}: a bind mount takes no options of a file system"
        )));
    }
    let id_map = plan_id_map(index, mount, options, linux, namespaces)?;
    Ok(Kind::Bind { source, recursive: options.bind == Some(Scope::Tree), id_map })
}

/// config.md, "Mounts": mappings of the mount, or else, with `idmap`, those of the container's user namespace.
fn plan_id_map(
    index: usize,
    mount: &Mount,
    options: &Options,
    linux: &Linux,
    namespaces: &Namespaces,
) -> Result<Option<IdMap>> {
    let recursive = options.id_map == Some(Scope::Tree);
    let mapping = match (mount.uid_mappings(), mount.gid_mappings()) {
        (Some(uid), Some(gid)) => IdMapping::Maps { uid: uid.clone(), gid: gid.clone() },
        (None, None) if options.id_map.is_none() => return Ok(None),
        (None, None) => match (&namespaces.user_path, linux.uid_mappings(), linux.gid_mappings()) {
            (Some(path), _, _) => IdMapping::Joined(path.clone()),
            (None, Some(uid), Some(gid)) if namespaces.user => {
                IdMapping::Maps { uid: uid.clone(), gid: gid.clone() }
            }
            _ => {
                return Err(Error::new(format!(
                    "/mounts/{index}/options: idmap needs uidMappings and gidMappings, or a user namespace"
                )));
            }
        },
        _ => {
            return Err(Error::new(format!(
                "/mounts/{index}: uidMappings and gidMappings must be given together"
            )));
        }
    };
    Ok(Some(IdMap { mapping, recursive }))
}

fn plan_file_system(
    index: usize,
    mount: &Mount,
    fs_type: &str,
    namespaces: &Namespaces,
    facts: &Facts,
) -> Result<Kind> {
    if fs_type.is_empty() {
        return Err(Error::new(format!("/mounts/{index}/type: must be given")));
    }
    let source = match mount.source() {
        None => None,
        Some(source) => Some(
            source
                .to_str()
                .ok_or_else(|| Error::new(format!("/mounts/{index}/source: must be UTF-8")))?
                .to_owned(),
        ),
    };
    let cgroups = &facts.cgroups;
    match fs_type {
        "cgroup" if !cgroups.v1.is_empty() => {
            let from = match namespaces.cgroup {
                false => CgroupsFrom::Host,
                true if namespaces.own_cgroup
                    && !namespaces.user
                    && namespaces.mount == MountNamespace::New =>
                {
                    CgroupsFrom::Later
                }
                true => CgroupsFrom::Namespace,
            };
            Ok(Kind::CgroupV1 { hierarchies: cgroups.v1.clone(), from })
        }
        // A new cgroup2 mount outside a cgroup namespace of the container's own would reset the options of the whole
        // host's hierarchy, so there the existing mount is bound.
        "cgroup" | "cgroup2" if !namespaces.cgroup => match &cgroups.v2 {
            Some(mount_point) => {
                Ok(Kind::Bind { source: mount_point.clone(), recursive: false, id_map: None })
            }
            None => {
                Err(Error::new(format!("/mounts/{index}: no cgroup v2 file system is mounted on this host")))
            }
        },
        "cgroup" | "cgroup2" => Ok(Kind::FileSystem { fs_type: "cgroup2".to_owned(), source }),
        _ => Ok(Kind::FileSystem { fs_type: fs_type.to_owned(), source }),
    }
}

/// sysfs shows the network namespace that it was mounted in, and only the owner of that may mount it. A container with
/// a user namespace but the host's network gets a copy of the host's `/sys`, read-only with all below it (row B12).
fn bind_host_sys(planned: &mut PlannedMount) {
    planned.kind = Kind::Bind { source: PathBuf::from("/sys"), recursive: true, id_map: None };
    let read_only = ["rro", "rnosuid", "rnodev", "rnoexec"].map(str::to_owned);
    planned.options.tree = planned.options.tree.merged(&Options::parse(&read_only).tree);
}

/// Row A6: nothing may hide or fake a part of procfs, but for files that only inform. The whole of it may be another
/// procfs; that a bind source is one is checked on its fd.
fn check_below_proc(planned: &PlannedMount) -> Result<()> {
    const ALLOWED: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    ];
    let Ok(below) = planned.destination.strip_prefix(procfs::MOUNT_POINT) else { return Ok(()) };
    let allowed = if below.as_os_str().is_empty() {
        matches!(planned.kind, Kind::Bind { .. } | Kind::Remount) || is_file_system(&planned.kind, "proc")
    } else {
        ALLOWED.iter().any(|name| below == Path::new(name))
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(format!(
        "/mounts/{}/destination: {:?}: inside {} only single files that inform can be mounted ({}), and on it only a \
         procfs",
        planned.index,
        planned.destination,
        procfs::MOUNT_POINT,
        ALLOWED.join(", ")
    )))
}

/// Paths of `maskedPaths` or `readonlyPaths`: mounts, and so never without a mount namespace of the container's own.
fn protected(paths: Option<&[String]>, name: &str, namespaces: &Namespaces) -> Result<Vec<PathBuf>> {
    let paths = paths.unwrap_or_default();
    if !paths.is_empty() && namespaces.mount == MountNamespace::Inherited {
        return Err(Error::new(format!("/linux/{name}: needs a mount namespace")));
    }
    paths
        .iter()
        .enumerate()
        .map(|(index, path)| match path.starts_with('/') {
            true => Ok(clean(Path::new(path))),
            false => Err(Error::new(format!("/linux/{name}/{index}: {path:?}: must be an absolute path"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan_of(mounts: &Value, linux: Value) -> Result<RootfsPlan> {
        plan_with(mounts, linux, Facts::default())
    }

    fn plan_with(mounts: &Value, linux: Value, facts: Facts) -> Result<RootfsPlan> {
        let spec =
            json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "mounts": mounts, "linux": linux});
        plan(&serde_json::from_value(spec).unwrap(), &facts)
    }

    fn namespaces(names: &[&str]) -> Value {
        json!({"namespaces": names.iter().map(|name| json!({"type": name})).collect::<Vec<_>>()})
    }

    fn error_of(mounts: Value, linux: Value) -> String {
        plan_of(&mounts, linux).unwrap_err().to_string()
    }

    /// security.md A6: cleaned destinations inside procfs, with what may be mounted there.
    #[test]
    fn a6_only_files_that_inform_are_mounted_inside_proc() {
        let bind = |destination: &str| {
            let mounts = json!([{"destination": destination, "type": "bind", "source": "/x"}]);
            plan_of(&mounts, namespaces(&["mount"])).is_ok()
        };
        for allowed in ["/proc/cpuinfo", "/proc/../proc/stat", "//proc//meminfo", "proc/uptime", "/proc"] {
            assert!(bind(allowed), "{allowed}");
        }
        for refused in [
            "/proc/self",
            "/proc/../proc/x",
            "//proc//self",
            "/proc/./sys",
            "/x/../proc/1",
            "proc/sys/kernel",
            "/proc/cpuinfo/x",
            "/proc/sys/kernel/core_pattern",
        ] {
            assert!(!bind(refused), "{refused}");
        }
        for (fs_type, allowed) in [("proc", true), ("tmpfs", false), ("sysfs", false)] {
            let mounts = json!([{"destination": "/proc/", "type": fs_type, "source": "x"}]);
            assert_eq!(plan_of(&mounts, namespaces(&["mount"])).is_ok(), allowed, "{fs_type}");
        }
        // A name that only begins like it is another directory.
        assert!(bind("/process/x"));
    }

    /// config-linux.md, "Rootfs Mount Propagation"; security.md A14: never in a peer group of the host.
    #[test]
    fn a14_rootfs_is_never_in_a_peer_group_of_the_host() {
        use propagation::{PRIVATE, SHARED, SLAVE, UNBINDABLE};
        let of = |value: &str| {
            let plan = plan_of(&json!([]), json!({"rootfsPropagation": value})).unwrap();
            (plan.inherited.root, plan.inherited.sources, plan.propagation)
        };
        assert_eq!(of(""), (SLAVE, SLAVE, None));
        assert_eq!(of("slave"), (SLAVE, SLAVE, Some((Scope::Top, SLAVE))));
        assert_eq!(of("rprivate"), (PRIVATE, PRIVATE, Some((Scope::Tree, PRIVATE))));
        assert_eq!(of("shared"), (PRIVATE, 0, Some((Scope::Top, SHARED))));
        assert_eq!(of("runbindable"), (PRIVATE, PRIVATE, Some((Scope::Tree, UNBINDABLE))));
        let error = error_of(json!([]), json!({"rootfsPropagation": "global"}));
        assert!(error.starts_with("/linux/rootfsPropagation: \"global\": must be one of"), "{error}");
    }

    /// security.md F1: cgroup2 is mounted anew only inside a cgroup namespace of the container's own.
    #[test]
    fn cgroup2_is_mounted_anew_only_in_an_own_cgroup_namespace() {
        let facts = || Facts {
            cgroups: CgroupMounts { v1: Vec::new(), v2: Some(PathBuf::from("/sys/fs/cgroup")) },
            ..Facts::default()
        };
        for fs_type in ["cgroup", "cgroup2"] {
            let mounts = json!([{"destination": "/sys/fs/cgroup", "type": fs_type, "source": "cgroup"}]);
            let own = plan_with(&mounts, namespaces(&["mount", "cgroup"]), facts()).unwrap();
            assert!(is_file_system(&own.mounts[0].kind, "cgroup2"), "{fs_type}");
            let shared = plan_with(&mounts, namespaces(&["mount"]), facts()).unwrap();
            let source = PathBuf::from("/sys/fs/cgroup");
            assert_eq!(shared.mounts[0].kind, Kind::Bind { source, recursive: false, id_map: None });
        }
        let mounts = json!([{"destination": "/c", "type": "cgroup"}]);
        assert!(error_of(mounts, namespaces(&["mount"])).starts_with("/mounts/0: no cgroup v2"));
    }

    /// security.md B12: the host's /sys, which a user namespace without a network of its own gets, is read-only with
    /// everything below it.
    #[test]
    fn b12_host_sys_is_bound_read_only_with_all_below() {
        let mounts = json!([{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["rw"]}]);
        for (names, bound) in [
            (&["mount", "user"][..], true),
            (&["mount", "user", "network"], false),
            (&["mount"], false),
            (&["mount", "network"], false),
        ] {
            let plan = plan_of(&mounts, namespaces(names)).unwrap();
            let planned = &plan.mounts[0];
            assert_eq!(matches!(planned.kind, Kind::Bind { recursive: true, .. }), bound, "{names:?}");
            assert_eq!(planned.options.tree.set() & crate::sys::mount::attr::RDONLY != 0, bound, "{names:?}");
        }
    }

    /// A bad value is named by its pointer.
    #[test]
    fn bad_values_are_named_by_their_pointer() {
        let mount = || namespaces(&["mount"]);
        let bind = |more: Value| {
            let mut bind = json!({"destination": "/a", "type": "bind", "source": "/x"});
            bind.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            error_of(json!([{"destination": "/p", "type": "proc"}, bind]), mount())
        };
        assert!(bind(json!({"options": ["ro", "nosuidd"]})).starts_with("/mounts/1/options: \"nosuidd\""));
        assert!(bind(json!({"source": ""})).starts_with("/mounts/1/source: must be given"));
        assert!(bind(json!({"options": ["idmap"]})).starts_with("/mounts/1/options: idmap needs"));
        assert!(bind(json!({"uidMappings": []})).starts_with("/mounts/1: uidMappings and gidMappings"));
        assert!(bind(json!({"destination": ""})).starts_with("/mounts/1/destination: must not be empty"));
        let no_type = json!([{"destination": "/a"}]);
        assert!(error_of(no_type, mount()).starts_with("/mounts/0/type: must be given"));
        let relative = json!({"namespaces": [{"type": "mount"}], "maskedPaths": ["/a", "b"]});
        assert!(error_of(json!([]), relative).starts_with("/linux/maskedPaths/1: \"b\": must be"));
        assert_eq!(
            error_of(json!([]), json!({"readonlyPaths": ["/a"]})),
            "/linux/readonlyPaths: needs a mount namespace"
        );
    }

    /// A `/dev` that the config binds stays as it is: no nodes, no links.
    #[test]
    fn bound_dev_is_left_alone() {
        let dev = |fs_type: &str| {
            let mounts = json!([{"destination": "/dev/", "type": fs_type, "source": "/dev"}]);
            plan_of(&mounts, namespaces(&["mount"])).unwrap().devices
        };
        assert_eq!(dev("bind"), None);
        assert_eq!(dev("tmpfs").map(|devices| devices.len()), Some(6));
    }
}
