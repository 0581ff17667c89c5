//! What to do about cgroups, decided before anything is done: where the container goes and what is written there.

use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};

use crate::cgroup::apply::Write;
use crate::cgroup::devices::Policy;
use crate::cgroup::place::{CgroupPaths, GroupPath};
use crate::cgroup::systemd::UnitPlan;
use crate::cgroup::systemd::properties::{of_devices, of_writes, oom_policy, round_quota};
use crate::cgroup::{Hierarchies, Hierarchy, v1, v2};
use crate::error::{Error, Result};
use crate::sys::path::{append, clean};

/// Where the resources are in config.json, for errors.
pub(super) const RESOURCES: &str = "/linux/resources";

/// Who makes the cgroup (`--cgroup-manager`, `--systemd-cgroup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manager {
    /// skeg, in the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd, as a scope.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What the command line says about cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Who makes the cgroup.
    pub manager: Manager,
    /// Without root on the host: with no `cgroupsPath` and no limits asked for, a cgroup that cannot be made is done
    /// without, and device rules, which a user namespace makes moot, may fail (as runc does).
    pub rootless: bool,
}

/// The cgroup of one container, decided but not made. Empty for [`Manager::Disabled`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupPlan {
    pub(super) v1: Vec<GroupPlan>,
    pub(super) v2: Option<GroupPlan>,
    pub(super) rootless: bool,
    /// Whether a cgroup that may not be made is done without.
    pub(super) optional: bool,
    /// Who gets the v2 cgroup, as numbered on the host.
    pub(super) owner: Option<Uid>,
    /// The scope that systemd makes of it.
    pub(super) unit: Option<UnitPlan>,
    /// Where the container stays without a cgroup of its own; known where it mounts cgroup file systems.
    caller: CgroupPaths,
}

impl CgroupPlan {
    /// Where the container goes.
    pub fn paths(&self) -> CgroupPaths {
        CgroupPaths {
            v1: self.v1.iter().map(|group| group.at.clone()).collect(),
            v2: self.v2.as_ref().map(|group| group.at.clone()),
            unit: self.unit.as_ref().map(|plan| plan.unit.clone()),
        }
    }

    /// Whether the runtime itself makes it, and with all rights.
    pub fn is_made_by_runtime(&self) -> bool {
        self.unit.is_none() && !(self.v1.is_empty() && self.v2.is_none()) && !self.rootless
    }

    /// Whether systemd makes it, around the container's process, in v1 hierarchies too.
    pub fn is_v1_scope(&self) -> bool {
        self.unit.is_some() && !self.v1.is_empty()
    }

    /// What a cgroup mount of the container shows.
    pub fn shown(&self) -> CgroupPaths {
        if self.v1.is_empty() && self.v2.is_none() { self.caller.clone() } else { self.paths() }
    }
}

/// One hierarchy's part of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupPlan {
    pub at: GroupPath,
    /// Limits.
    pub writes: Vec<Write>,
    /// Device rules: writes on v1, a program on v2.
    pub devices: Devices,
    /// v2: the controllers that have to be enabled for the writes; on a pure v2 host all that there are will be.
    pub controllers: Vec<String>,
}

/// How the device rules of a hierarchy are put into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Devices {
    /// They are another hierarchy's matter.
    Elsewhere,
    /// By these writes (v1).
    Writes(Vec<Write>),
    /// By an eBPF program (v2).
    Program(Policy),
}

/// Whether [`plan`] needs to know the caller's own cgroup: `cgroupsPath` is absent or relative, or the container stays
/// where the caller is.
pub fn needs_own_cgroup(spec: &Spec, manager: Manager) -> bool {
    match manager {
        Manager::Disabled => true,
        Manager::Cgroupfs => !cgroups_path(spec).starts_with('/'),
        Manager::Systemd => false,
    }
}

fn cgroups_path(spec: &Spec) -> &str {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    path.and_then(Path::to_str).unwrap_or_default()
}

/// Decides where the container `id` goes and what is written there.
///
/// # Errors
/// A value of `/linux/cgroupsPath` or `/linux/resources` that cannot be had, with its JSON pointer.
pub fn plan(spec: &Spec, id: &str, options: Options, hierarchies: &Hierarchies) -> Result<CgroupPlan> {
    let none = LinuxResources::default();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).unwrap_or(&none);
    let path = cgroups_path(spec);
    let v1_with = |name: &str| hierarchies.v1_with(name);
    if options.manager == Manager::Disabled {
        return disabled(spec, resources, hierarchies);
    }
    let instance = hierarchies.systemd.as_ref();
    let mut unit = match instance {
        Some(instance) => Some(UnitPlan::new(instance, path, id, spec.annotations().as_ref())?),
        None => None,
    };
    let place = match &unit {
        Some(unit) => Place::Absolute(unit.path.clone()),
        None => Place::new(path, id)?,
    };
    let mut limits = limits(resources, hierarchies.v1.len(), &v1_with, hierarchies.v2.is_some(), RESOURCES)?;
    let asked = limits.v1.iter().any(|writes| !writes.is_empty()) || !limits.v2.is_empty();
    let policy = Policy::new(resources.devices().as_deref().unwrap_or_default())?;
    let devices_v1 = hierarchies.v1_with("devices");
    if devices_v1.is_none() && hierarchies.v2.is_none() && !options.rootless {
        return Err(Error::new("no cgroup hierarchy with device control is mounted on this host"));
    }
    if let (Some(unit), Some(instance)) = (&mut unit, instance) {
        // A user's instance has no right to device rules, nor would they change what the user may open.
        if !instance.user {
            unit.properties.extend(of_devices(&policy, devices_v1.is_some())?);
        }
        for writes in limits.v1.iter_mut().chain([&mut limits.v2]) {
            round_quota(writes, &|_| None);
            unit.properties.extend(of_writes(writes, instance.version, &|_| None));
            unit.properties.extend(oom_policy(writes, instance.version));
        }
    }

    let mut v1_groups = Vec::with_capacity(hierarchies.v1.len());
    for (index, (hierarchy, writes)) in hierarchies.v1.iter().zip(limits.v1).enumerate() {
        let devices = match devices_v1 {
            Some(with) if with == index => Devices::Writes(policy.v1_writes(RESOURCES)?),
            _ => Devices::Elsewhere,
        };
        let at = place.in_hierarchy(hierarchy, false)?;
        v1_groups.push(GroupPlan { at, writes, devices, controllers: Vec::new() });
    }
    let v2_group = match &hierarchies.v2 {
        Some(hierarchy) => {
            let devices = if devices_v1.is_some() { Devices::Elsewhere } else { Devices::Program(policy) };
            let at = place.in_hierarchy(hierarchy, hierarchies.is_pure_v2())?;
            Some(GroupPlan { at, writes: limits.v2, devices, controllers: limits.v2_controllers })
        }
        None => None,
    };
    let optional = options.rootless && path.is_empty() && !asked;
    Ok(CgroupPlan {
        v1: v1_groups,
        v2: v2_group,
        rootless: options.rootless,
        optional,
        owner: owner(spec),
        unit,
        ..CgroupPlan::default()
    })
}

/// The user that the cgroup is given to (security.md F12): only that of a container with a user and a cgroup namespace of
/// its own and a writable cgroup mount, which could do nothing with it otherwise.
fn owner(spec: &Spec) -> Option<Uid> {
    let linux = spec.linux().as_ref()?;
    let is_new = |kind: LinuxNamespaceType| {
        let namespaces = linux.namespaces().iter().flatten();
        namespaces.clone().any(|namespace| namespace.typ() == kind && namespace.path().is_none())
    };
    let mut mounts = spec.mounts().iter().flatten();
    let writable = mounts.any(|mount| {
        let read_only = |option: &String| matches!(option.as_str(), "ro" | "rro");
        mount.typ().as_deref() == Some("cgroup") && !mount.options().iter().flatten().any(read_only)
    });
    if !writable || !is_new(LinuxNamespaceType::User) || !is_new(LinuxNamespaceType::Cgroup) {
        return None;
    }
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    linux.uid_mappings().iter().flatten().find_map(|map| {
        let offset = uid.checked_sub(map.container_id()).filter(|&offset| offset < map.size())?;
        map.host_id().checked_add(offset).map(Uid::from_raw)
    })
}

/// Without a cgroup there are no limits: asking for one is an error. Device rules alone are not: every default config
/// has them, and without a cgroup it is capabilities that keep mknod away.
fn disabled(spec: &Spec, resources: &LinuxResources, hierarchies: &Hierarchies) -> Result<CgroupPlan> {
    let wanted = limits(resources, 0, &|_| None, true, RESOURCES)?;
    if let Some(write) = wanted.v2.first() {
        return Err(Error::new(format!(
            "{RESOURCES}/{}: no limit can be set with --cgroup-manager disabled",
            write.source
        )));
    }
    let mut mounts = spec.mounts().iter().flatten();
    if !mounts.any(|mount| matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))) {
        return Ok(CgroupPlan::default());
    }
    let own = |hierarchy: &Hierarchy| -> Result<GroupPath> {
        Ok(GroupPath {
            controllers: hierarchy.controllers.clone(),
            mount: hierarchy.mount_point.clone(),
            path: hierarchy.own()?.to_path_buf(),
        })
    };
    let v1 = hierarchies.v1.iter().map(own).collect::<Result<_>>()?;
    let v2 = hierarchies.v2.as_ref().map(own).transpose()?;
    Ok(CgroupPlan { caller: CgroupPaths { v1, v2, unit: None }, ..CgroupPlan::default() })
}

/// Where below the mount point of a hierarchy the container goes.
enum Place {
    /// Counted from the mount point.
    Absolute(PathBuf),
    /// Counted from the caller's own cgroup.
    Relative(PathBuf),
}

impl Place {
    /// An absolute `cgroupsPath` is relative to the root of each hierarchy, another one to the caller's own cgroup; none
    /// is the container's id. `..` stops at the top, as in runc: it never leads out (security.md F2).
    fn new(path: &str, id: &str) -> Result<Self> {
        if path.chars().any(char::is_control) {
            return Err(Error::new(format!(
                "/linux/cgroupsPath: {path:?}: must not contain control characters"
            )));
        }
        let cleaned = clean(Path::new(if path.is_empty() { id } else { path }));
        let relative = cleaned.strip_prefix("/").unwrap_or(&cleaned).to_path_buf();
        if relative.as_os_str().is_empty() {
            return Err(Error::new(format!(
                "/linux/cgroupsPath: {path:?}: must name a cgroup, not the top of the hierarchy"
            )));
        }
        Ok(if path.starts_with('/') { Self::Absolute(relative) } else { Self::Relative(relative) })
    }

    /// On a pure v2 host relative paths count from the parent of the caller's cgroup: a v2 cgroup with processes inside
    /// cannot enable controllers for those below it (cgroup-v2.rst, "No Internal Process Constraint").
    fn in_hierarchy(&self, hierarchy: &Hierarchy, beside_caller: bool) -> Result<GroupPath> {
        let path = match self {
            Self::Absolute(path) => path.clone(),
            Self::Relative(path) => {
                let own = hierarchy.own()?;
                let start = if beside_caller { own.parent().unwrap_or(own) } else { own };
                let mut full = start.to_path_buf();
                append(&mut full, path);
                full
            }
        };
        Ok(GroupPath {
            controllers: hierarchy.controllers.clone(),
            mount: hierarchy.mount_point.clone(),
            path,
        })
    }
}

/// The limits of a container, sorted to where they are written.
pub(super) struct Limits {
    /// For each v1 hierarchy.
    pub v1: Vec<Vec<Write>>,
    /// For the v2 one.
    pub v2: Vec<Write>,
    /// What has to be enabled there.
    pub v2_controllers: Vec<String>,
}

/// Turns one part of the resources into writes; the first argument is the JSON pointer of the resources.
type Convert = fn(&str, &LinuxResources, &mut Vec<Write>) -> Result<()>;

/// A controller under its two names and its conversion for each version.
struct Controller {
    v1: &'static str,
    v2: &'static str,
    to_v1: Convert,
    to_v2: Convert,
}

/// In the order in which runc sets them.
const CONTROLLERS: [Controller; 9] = [
    Controller { v1: "cpuset", v2: "cpuset", to_v1: v1::cpuset, to_v2: v2::cpuset },
    Controller { v1: "memory", v2: "memory", to_v1: v1::memory, to_v2: v2::memory },
    Controller { v1: "cpu", v2: "cpu", to_v1: v1::cpu, to_v2: v2::cpu },
    Controller { v1: "pids", v2: "pids", to_v1: v1::pids, to_v2: v2::pids },
    Controller { v1: "blkio", v2: "io", to_v1: v1::blkio, to_v2: v2::io },
    Controller { v1: "hugetlb", v2: "hugetlb", to_v1: v1::hugetlb, to_v2: v2::hugetlb },
    Controller { v1: "rdma", v2: "rdma", to_v1: v1::rdma, to_v2: v1::rdma },
    Controller { v1: "net_cls", v2: "", to_v1: v1::net_cls, to_v2: v2::no_net_cls },
    Controller { v1: "net_prio", v2: "", to_v1: v1::net_prio, to_v2: v2::no_net_prio },
];

/// Sorts the limits by hierarchy: a controller that is mounted as v1 takes v1's values, any other one v2's.
pub(super) fn limits(
    resources: &LinuxResources,
    v1_count: usize,
    v1_with: &dyn Fn(&str) -> Option<usize>,
    has_v2: bool,
    base: &str,
) -> Result<Limits> {
    let mut limits = Limits { v1: vec![Vec::new(); v1_count], v2: Vec::new(), v2_controllers: Vec::new() };
    for controller in &CONTROLLERS {
        if let Some(writes) = v1_with(controller.v1).and_then(|index| limits.v1.get_mut(index)) {
            (controller.to_v1)(base, resources, writes)?;
            continue;
        }
        let before = limits.v2.len();
        (controller.to_v2)(base, resources, &mut limits.v2)?;
        match limits.v2.get(before) {
            None => {}
            Some(_) if has_v2 => limits.v2_controllers.push(controller.v2.to_owned()),
            Some(write) => {
                return Err(Error::new(format!(
                    "{base}/{}: this host has no {} cgroup controller",
                    write.source, controller.v1
                )));
            }
        }
    }
    let before = limits.v2.len();
    v2::unified(base, resources, &mut limits.v2)?;
    for write in limits.v2.get(before..).unwrap_or_default() {
        if !has_v2 {
            return Err(Error::new(format!("{base}/unified: cgroup v2 only, and this host has cgroup v1")));
        }
        match write.file.split_once('.') {
            Some((controller, _)) if controller != "cgroup" => {
                limits.v2_controllers.push(controller.to_owned())
            }
            _ => {}
        }
    }
    Ok(limits)
}

/// The error for a value that cannot be had.
pub(super) fn invalid(base: &str, source: &str, value: impl std::fmt::Debug, allowed: &str) -> Error {
    Error::new(format!("{base}/{source}: {value:?}: {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBuilder, LinuxMemoryBuilder, LinuxResourcesBuilder, MountBuilder, SpecBuilder,
    };

    fn hierarchies(unified: bool) -> Hierarchies {
        let mountinfo: &[u8] = if unified {
            b"1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        } else {
            b"1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
              2 0 0:2 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
              3 0 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        };
        let mut found = Hierarchies::from_mountinfo(mountinfo, &|_| None);
        found.place_caller(b"1:memory:/user/one\n2:devices:/\n0::/user/two\n");
        found
    }

    fn spec(path: &str, memory: Option<i64>) -> Spec {
        let mut resources = LinuxResourcesBuilder::default();
        if let Some(limit) = memory {
            resources = resources.memory(LinuxMemoryBuilder::default().limit(limit).build().unwrap());
        }
        let mut linux = LinuxBuilder::default().resources(resources.build().unwrap());
        if !path.is_empty() {
            linux = linux.cgroups_path(path);
        }
        SpecBuilder::default().linux(linux.build().unwrap()).build().unwrap()
    }

    fn paths(path: &str, unified: bool) -> Vec<String> {
        let plan = plan(&spec(path, None), "web", Options::default(), &hierarchies(unified)).unwrap();
        let groups = plan.v1.iter().chain(&plan.v2);
        groups.map(|group| format!("{} {}", group.at.mount.display(), group.at.path.display())).collect()
    }

    /// peers.md A2 cgroupsPath, as runc: absolute, relative, absent.
    #[test]
    fn paths_count_from_the_top_or_from_the_caller() {
        let fs = "/sys/fs/cgroup";
        let expected = [
            format!("{fs}/memory user/one/web"),
            format!("{fs}/devices web"),
            format!("{fs}/unified user/two/web"),
        ];
        assert_eq!(paths("", false), expected);
        assert_eq!(paths("web", false), expected);
        assert_eq!(paths("/pod/web", false)[0], format!("{fs}/memory pod/web"));
        assert_eq!(paths("", true), [format!("{fs} user/web")]);
        assert_eq!(paths("/pod/web", true), [format!("{fs} pod/web")]);
    }

    /// security.md F2: a path never leads out of the hierarchy, and never to its top.
    #[test]
    fn f2_paths_stay_below_the_mount_point() {
        assert_eq!(paths("/../../pod/./x//web", true), ["/sys/fs/cgroup pod/x/web"]);
        assert_eq!(paths("a/../../b", true), ["/sys/fs/cgroup user/b"]);
        for path in ["/", "/..", "..", "/a/..", "a\nb", "/a\0"] {
            let result = plan(&spec(path, None), "web", Options::default(), &hierarchies(true));
            let text = result.unwrap_err().to_string();
            assert!(text.starts_with("/linux/cgroupsPath: "), "{path:?}: {text}");
        }
    }

    /// podman run --cgroups=disabled, which mounts cgroup file systems all the same.
    #[test]
    fn without_a_cgroup_mounts_show_the_callers() {
        let options = Options { manager: Manager::Disabled, ..Options::default() };
        let mut spec = spec("", None);
        spec.set_mounts(None);
        let plan_of = |spec: &Spec| plan(spec, "web", options, &hierarchies(false)).unwrap();
        assert_eq!(plan_of(&spec).shown(), CgroupPaths::default());
        let mount = MountBuilder::default().destination("/sys/fs/cgroup").typ("cgroup").build().unwrap();
        spec.set_mounts(Some(vec![mount]));
        let plan = plan_of(&spec);
        assert_eq!(plan.paths(), CgroupPaths::default());
        let shown: Vec<PathBuf> = plan.shown().v1.iter().map(GroupPath::full).collect();
        let expected = ["/sys/fs/cgroup/memory/user/one", "/sys/fs/cgroup/devices"].map(PathBuf::from);
        assert_eq!(shown, expected);
    }

    #[test]
    fn limits_go_to_the_version_that_has_the_controller() {
        let hybrid = plan(&spec("/web", Some(4096)), "web", Options::default(), &hierarchies(false)).unwrap();
        assert_eq!(hybrid.v1[0].writes[0].file, "memory.limit_in_bytes");
        assert!(hybrid.v2.unwrap().writes.is_empty());
        let pure = plan(&spec("/web", Some(4096)), "web", Options::default(), &hierarchies(true)).unwrap();
        assert_eq!(pure.v2.unwrap().writes[0].file, "memory.max");
    }

    /// security.md F12: the cgroup is given away only where the container's own namespaces and a writable mount ask for it.
    #[test]
    fn f12_owner_is_the_mapped_user_of_a_writable_mount() {
        let spec = |namespaces: &[&str], option: &str, uid: u32| -> Spec {
            let namespaces: Vec<_> =
                namespaces.iter().map(|kind| serde_json::json!({"type": kind})).collect();
            let json = serde_json::json!({
                "ociVersion": "1.2.0",
                "process": {"user": {"uid": uid, "gid": 0}, "cwd": "/"},
                "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid", option]}],
                "linux": {"namespaces": namespaces, "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]},
            });
            serde_json::from_value(json).unwrap()
        };
        let both = ["user", "cgroup"];
        assert_eq!(owner(&spec(&both, "rw", 0)), Some(Uid::from_raw(1000)));
        assert_eq!(owner(&spec(&both, "rw", 9)), Some(Uid::from_raw(1009)));
        for refused in [
            spec(&both, "ro", 0),
            spec(&["user"], "rw", 0),
            spec(&["cgroup"], "rw", 0),
            spec(&both, "rw", 10),
        ] {
            assert_eq!(owner(&refused), None);
        }
    }

    #[test]
    fn without_a_cgroup_a_limit_is_an_error_and_device_rules_are_not() {
        let options = Options { manager: Manager::Disabled, rootless: false };
        let nothing = plan(&spec("", None), "web", options, &hierarchies(true)).unwrap();
        assert_eq!(nothing.paths(), CgroupPaths::default());
        let text = plan(&spec("", Some(4096)), "web", options, &hierarchies(true)).unwrap_err().to_string();
        assert_eq!(text, "/linux/resources/memory/limit: no limit can be set with --cgroup-manager disabled");
    }
}
