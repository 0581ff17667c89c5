//! Decide everything about a container before any side effect (pure).
//!
//! What is decided here is only looked at afterwards. A configuration that cannot be honoured fails before there is a
//! state directory, a cgroup or a process to take back.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::cgroup::CgroupPlan;
use crate::error::{Error, Result};
use crate::namespaces::{CGROUP, IPC, MOUNT, NETWORK, NamespacePlan, PID, TIME, USER, UTS};
use crate::rootfs::plan::{self as rootfs, RootfsPlan};
use crate::security::seccomp::{self, Filter};
use crate::sysctl::{self, Sysctl};
use crate::timens;
use crate::userns::IdMaps;

/// What a container will be.
#[derive(Debug)]
pub struct Plan {
    /// Namespaces to make and to join.
    pub namespaces: NamespacePlan,
    /// The steps by which the init process gets into them.
    pub stages: Stages,
    /// The id maps of a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// What `timens_offsets` of a new time namespace takes.
    pub time_offsets: String,
    /// The root file system.
    pub rootfs: RootfsPlan,
    /// The compiled seccomp profile.
    pub seccomp: Option<Filter>,
    /// Kernel parameters.
    pub sysctls: Vec<Sysctl>,
    /// Whether setgroups(2) will be allowed.
    pub may_set_groups: bool,
    /// The init process mounts what does not depend on its cgroup while the runtime sets the limits and makes the cgroup in
    /// the v1 hierarchies, which takes as long as all other steps together. It enters its cgroup, and makes its cgroup
    /// namespace, when it comes to a mount that shows them, and before the first hook at the latest.
    pub cgroup_later: bool,
}

/// How many processes it takes, and which makes which namespaces.
///
/// One process is enough in the common case. A second one is forked where the kernel leaves no other way:
/// * [`Fork::BeforeRootfs`]: namespaces of the host's are joined with the runtime's rights and a user namespace is
///   made after that; or a user namespace is joined and the new PID namespace is to belong to it;
/// * [`Fork::AfterPivot`]: an existing PID namespace is joined, which only a child is in, and its members are not to see
///   a process with the host's root (row C5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// `CLONE_NEW*` bits of the clone by the runtime.
    pub first_clone: u64,
    /// The second process, if any.
    pub fork: Option<Fork>,
    /// `CLONE_NEW*` bits that the init process unshares once its user namespace is there, in place of the clone: what is
    /// made then belongs to that user namespace and has owners who are mapped in it.
    pub unshare: u64,
    /// The init process makes the user namespace by unshare(2), after setns(2) to an existing PID namespace, to which it
    /// has no right afterwards.
    pub unshare_user: bool,
}

/// When a second process is forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// After the joins, with these `CLONE_NEW*` bits.
    BeforeRootfs(u64),
    /// After the root file system is entered.
    AfterPivot,
}

/// What a clone can make. Not the cgroup namespace, whose root would be the runtime's own cgroup, and not the time
/// namespace, whose offsets are written before anyone is in it.
const CLONED: u64 = IPC | MOUNT | NETWORK | PID | UTS;

impl Stages {
    /// Decides the steps.
    pub fn new(namespaces: &NamespacePlan) -> Self {
        let cloned = namespaces.new & CLONED;
        let new_pid = namespaces.new & PID;
        let after_pivot = namespaces.joins(PID).then_some(Fork::AfterPivot);
        let later = Self { first_clone: 0, fork: after_pivot, unshare: cloned & !PID, unshare_user: false };
        if namespaces.is_new(USER) {
            let with_user = USER | new_pid;
            if namespaces.joins(PID) {
                return Self { unshare_user: true, ..later };
            }
            if namespaces.joins.is_empty() {
                return Self { first_clone: with_user, ..later };
            }
            return Self { fork: Some(Fork::BeforeRootfs(with_user)), ..later };
        }
        if namespaces.joins(USER) {
            let fork = (new_pid != 0).then_some(Fork::BeforeRootfs(new_pid)).or(after_pivot);
            return Self { fork, ..later };
        }
        Self { first_clone: cloned, unshare: 0, ..later }
    }

    /// Whether one process makes all namespaces, with the rights of the runtime.
    fn are_simple(&self) -> bool {
        self.fork.is_none() && self.unshare == 0 && !self.unshare_user
    }

    /// The same with all that can wait left to the init process, so that the runtime can go on.
    fn made_by_init(self) -> Self {
        Self { first_clone: self.first_clone & PID, unshare: self.first_clone & !PID, ..self }
    }
}

impl Plan {
    /// Decides. `facts` is what the root file system has to know of the host.
    ///
    /// # Errors
    /// A value that cannot be honoured, with its JSON pointer.
    pub fn new(spec: &Spec, facts: rootfs::Facts) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let namespaces =
            NamespacePlan::new(linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default())?;
        let id_maps = namespaces.is_new(USER).then(|| IdMaps::new(spec));
        if id_maps.as_ref().is_some_and(|maps| !maps.is_complete()) {
            return Err(Error::new(
                "/linux/uidMappings and /linux/gidMappings: must be given with a new user namespace",
            ));
        }
        let mut stages = Stages::new(&namespaces);
        let mut rootfs = rootfs::plan(spec, &facts)?;
        // A time namespace is one more thing to wait for the runtime for. What tmpcopyup copies is memory that the container's
        // own limit has to pay for.
        let cgroup_later = facts.makes_cgroup
            && stages.are_simple()
            && !namespaces.is_new(TIME)
            && namespaces.is_new(MOUNT)
            && namespaces.is_new(CGROUP)
            && !rootfs.mounts.iter().any(|mount| mount.options.copy_up);
        if cgroup_later {
            stages = stages.made_by_init();
            rootfs.stands_alone = rootfs.can_stand_alone(&facts);
        }
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_deref());
        if stages.unshare_user && hooks.is_some_and(|hooks| !hooks.is_empty()) {
            // They would run in that PID namespace, with the host's root for its members to see (row C5).
            return Err(Error::new(
                "/hooks/createContainer: cannot run where a PID namespace is joined and a user namespace is new",
            ));
        }
        let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
        let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
        let sysctls = linux.and_then(|linux| linux.sysctl().as_ref());
        Ok(Self {
            may_set_groups: id_maps.as_ref().is_none_or(IdMaps::allow_setgroups),
            time_offsets: match offsets {
                Some(offsets) if namespaces.is_new(TIME) => timens::offsets_text(offsets),
                _ => String::new(),
            },
            rootfs,
            cgroup_later,
            seccomp: seccomp
                .filter(|profile| !seccomp::allows_all(profile))
                .map(seccomp::compile)
                .transpose()?,
            sysctls: sysctls.map(sysctl::plan).transpose()?.unwrap_or_default(),
            stages,
            namespaces,
            id_maps,
        })
    }

    /// The system calls of the seccomp profile that this architecture does not have. Profiles of engines name those of
    /// all architectures, so that this is of interest to who looks for it, as in runc.
    pub fn unknown_system_calls(&self) -> &[String] {
        self.seccomp.as_ref().map_or(&[], |filter| &filter.unknown_names)
    }
}

/// What the root file system has to know of the host: where the cgroup hierarchies are mounted and where the container
/// is in them.
pub fn facts(no_pivot: bool, plan: &CgroupPlan) -> rootfs::Facts {
    let cgroup = plan.shown();
    let v1 = cgroup.v1.iter().map(|group| rootfs::CgroupV1 {
        name: group.mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        selector: group.controllers.join(","),
        container: group.full(),
    });
    let v2 = cgroup.v2.as_ref().map(|group| group.mount.clone());
    let cgroups = rootfs::CgroupMounts { v1: v1.collect(), v2 };
    let hosts_user_namespace = !crate::userns::is_nested();
    rootfs::Facts { no_pivot, cgroups, makes_cgroup: plan.is_made_by_runtime(), hosts_user_namespace }
}

/// The absolute path of the root file system, as `state` reports it.
pub fn rootfs_path(bundle: &std::path::Path, root: &std::path::Path) -> PathBuf {
    let mut path = bundle.to_owned();
    crate::sys::path::append(&mut path, root);
    path
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::namespaces::Join;

    fn stages(new: u64, joins: &[u64]) -> Stages {
        let joins = joins.iter().map(|&kind| Join::for_test(kind)).collect();
        Stages::new(&NamespacePlan { new, joins })
    }

    #[test]
    fn one_clone_in_the_common_case() {
        let common = stages(PID | NETWORK | IPC | UTS | MOUNT | CGROUP | TIME, &[]);
        assert_eq!(
            common,
            Stages {
                first_clone: PID | NETWORK | IPC | UTS | MOUNT,
                fork: None,
                unshare: 0,
                unshare_user: false
            }
        );
        let pod = stages(PID | MOUNT | CGROUP, &[NETWORK, IPC, UTS]);
        assert_eq!(pod, Stages { first_clone: PID | MOUNT, fork: None, unshare: 0, unshare_user: false });
    }

    /// ARCHITECTURE.md, "Two processes work side by side": only where nothing that the process does before it enters its cgroup
    /// depends on that, or is its limit's to pay for.
    #[test]
    fn the_cgroup_is_made_beside_the_process_where_nothing_depends_on_it() {
        let plan = |makes_cgroup: bool, namespaces: &[&str], options: &[&str]| {
            let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
            let spec = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"},
                "mounts": [{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}],
                "linux": {"namespaces": namespaces, "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
                    "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}});
            let facts = rootfs::Facts { makes_cgroup, ..rootfs::Facts::default() };
            let plan = Plan::new(&serde_json::from_value(spec).unwrap(), facts).unwrap();
            (plan.cgroup_later, plan.stages.first_clone, plan.stages.unshare)
        };
        let usual = ["pid", "mount", "network", "cgroup"];
        assert_eq!(plan(true, &usual, &[]), (true, PID, MOUNT | NETWORK));
        let first = (false, PID | MOUNT | NETWORK, 0);
        assert_eq!(plan(false, &usual, &[]), first, "systemd makes it, or nobody");
        assert_eq!(plan(true, &usual, &["tmpcopyup"]), first, "memory that the limit pays for");
        assert_eq!(
            plan(true, &["pid", "mount", "network", "cgroup", "time"], &[]),
            first,
            "offsets come first"
        );
        assert_eq!(
            plan(true, &["pid", "mount", "network"], &[]),
            first,
            "the host's cgroups are bound before"
        );
        assert!(
            !plan(true, &["user", "pid", "mount", "cgroup"], &[]).0,
            "root of a user namespace cannot enter"
        );
    }

    /// ARCHITECTURE.md, "No copy of the host's mounts": only where nothing of the host is looked for in the mount namespace, and by
    /// an init process that makes it.
    #[test]
    fn a_mount_namespace_stands_alone_where_nothing_of_the_host_is_needed() {
        let facts =
            || rootfs::Facts { makes_cgroup: true, hosts_user_namespace: true, ..rootfs::Facts::default() };
        let plan = |facts: rootfs::Facts, mount: &str, hook: &str| {
            let spec = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "hooks": {hook: [{"path": "/bin/true"}]},
                "mounts": [{"destination": "/t", "type": mount, "source": mount}],
                "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]}});
            Plan::new(&serde_json::from_value(spec).unwrap(), facts).unwrap().rootfs.stands_alone
        };
        assert!(plan(facts(), "tmpfs", "poststart"));
        for hook in ["prestart", "createRuntime", "createContainer"] {
            assert!(!plan(facts(), "tmpfs", hook), "{hook} looks for the host's files");
        }
        let no_pivot = rootfs::Facts { no_pivot: true, ..facts() };
        assert!(!plan(no_pivot, "tmpfs", "poststart"), "--no-pivot");
        let nested = rootfs::Facts { hosts_user_namespace: false, ..facts() };
        assert!(!plan(nested, "tmpfs", "poststart"), "procfs needs another in sight");
        let by_systemd = rootfs::Facts { makes_cgroup: false, ..facts() };
        assert!(!plan(by_systemd, "tmpfs", "poststart"), "the clone makes the namespaces");
        let memory = rootfs::CgroupV1 {
            name: "memory".to_owned(),
            selector: "memory".to_owned(),
            container: PathBuf::from("/sys/fs/cgroup/memory/x"),
        };
        let v1 = rootfs::Facts { cgroups: rootfs::CgroupMounts { v1: vec![memory], v2: None }, ..facts() };
        assert!(!plan(v1, "cgroup", "poststart"), "the host's cgroups are bound");
    }

    #[test]
    fn a_new_user_namespace_owns_what_is_made_after_its_maps() {
        let user = stages(USER | PID | NETWORK | MOUNT, &[]);
        let by_hand = |first_clone, fork, unshare| Stages { first_clone, fork, unshare, unshare_user: false };
        assert_eq!(user, by_hand(USER | PID, None, NETWORK | MOUNT));
        let with_hosts_network = stages(USER | PID | MOUNT, &[NETWORK]);
        let fork = Some(Fork::BeforeRootfs(USER | PID));
        assert_eq!(with_hosts_network, by_hand(0, fork, MOUNT));
        let joined = stages(PID | MOUNT, &[USER, NETWORK]);
        assert_eq!(joined, by_hand(0, Some(Fork::BeforeRootfs(PID)), MOUNT));
        let joined_pid = stages(USER | MOUNT, &[PID, NETWORK]);
        assert_eq!(joined_pid, Stages { unshare_user: true, ..by_hand(0, Some(Fork::AfterPivot), MOUNT) });
    }

    /// security.md C5: an existing PID namespace is joined after pivot.
    #[test]
    fn c5_a_pid_namespace_is_joined_after_pivot() {
        assert_eq!(stages(MOUNT, &[PID]).fork, Some(Fork::AfterPivot));
    }
}
