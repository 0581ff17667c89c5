//! Decide everything about a container before any side effect (pure).
//!
//! What is decided here is only looked at afterwards. A configuration that cannot be honoured fails before there is a
//! state directory, a cgroup or a process to take back.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::cgroup::CgroupPaths;
use crate::error::{Error, Result};
use crate::namespaces::{IPC, MOUNT, NETWORK, NamespacePlan, PID, TIME, USER, UTS};
use crate::rootfs::{self, RootfsPlan};
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
        let stages = Stages::new(&namespaces);
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
            rootfs: rootfs::plan(spec, facts)?,
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
pub fn facts(no_pivot: bool, cgroup: &CgroupPaths) -> rootfs::Facts {
    let v1 = cgroup.v1.iter().map(|group| rootfs::CgroupV1 {
        name: group.mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        selector: group.controllers.join(","),
        container: group.full(),
    });
    let v2 = cgroup.v2.as_ref().map(|group| group.mount.clone());
    rootfs::Facts { no_pivot, cgroups: rootfs::CgroupMounts { v1: v1.collect(), v2 } }
}

/// The absolute path of the root file system, as `state` reports it.
pub fn rootfs_path(bundle: &std::path::Path, root: &std::path::Path) -> PathBuf {
    let mut path = bundle.to_owned();
    crate::sys::path::append(&mut path, root);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::{CGROUP, Join};

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
