//! `skeg features`: what this program supports, whatever the host does (features.md, features-linux.md).
//!
//! containerd, CRI-O and dockerd read it and turn features on by it, so that it says no more than is true: its lists
//! are the tables that the other modules work by, or are tried out against them by the tests below. CRI-O reads
//! standard error together with it, so that not a byte may be written there.

use std::collections::HashMap;

use oci_spec::runtime::{
    Apparmor, Arch, Cgroup, Features, IDMap, IntelRdt, LinuxFeature, LinuxNamespaceType, LinuxSeccompAction,
    MemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, MountExtensions, NetDevices, Seccomp, Selinux,
};
use serde_json::Value;

use crate::cli::{COMMIT, SPEC_VERSION, VERSION};
use crate::error::{Error, Result};
use crate::rootfs::options;
use crate::sys::seccomp::has_flags;

/// The oldest version of the specification that skeg reads.
const OLDEST_VERSION: &str = "1.0.0";

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [LinuxNamespaceType; 8] = [
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Time,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];

const ACTIONS: [LinuxSeccompAction; 9] = [
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActNotify,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActTrap,
];

const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Names that a profile may have; those of other machines are accepted and need no code.
const ARCHITECTURES: [Arch; 18] = [
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchLoongarch64,
    Arch::ScmpArchMips,
    Arch::ScmpArchMips64,
    Arch::ScmpArchMips64n32,
    Arch::ScmpArchMipsel,
    Arch::ScmpArchMipsel64,
    Arch::ScmpArchMipsel64n32,
    Arch::ScmpArchPpc,
    Arch::ScmpArchPpc64,
    Arch::ScmpArchPpc64le,
    Arch::ScmpArchRiscv64,
    Arch::ScmpArchS390,
    Arch::ScmpArchS390x,
    Arch::ScmpArchX32,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
];

/// Flags, with what seccomp(2) takes to be asked for them: the kernel knows `WAIT_KILLABLE_RECV` only with a listener.
const FLAGS: [(&str, libc::c_ulong); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC),
    (
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ),
];

/// Modes and flags of set_mempolicy(2).
const MEMORY_POLICIES: [MemoryPolicyModeType; 7] = [
    MemoryPolicyModeType::MpolDefault,
    MemoryPolicyModeType::MpolBind,
    MemoryPolicyModeType::MpolInterleave,
    MemoryPolicyModeType::MpolWeightedInterleave,
    MemoryPolicyModeType::MpolPreferred,
    MemoryPolicyModeType::MpolPreferredMany,
    MemoryPolicyModeType::MpolLocal,
];
const MEMORY_POLICY_FLAGS: [MemoryPolicyFlagType; 3] = [
    MemoryPolicyFlagType::MpolFNumaBalancing,
    MemoryPolicyFlagType::MpolFRelativeNodes,
    MemoryPolicyFlagType::MpolFStaticNodes,
];

/// The features document, as `skeg features` prints it.
///
/// # Errors
/// None in practice: the document is made of plain text and lists.
pub fn document() -> Result<String> {
    let whole = || -> serde_json::Result<String> {
        let mut document = serde_json::to_value(features())?;
        remove_nulls(&mut document);
        serde_json::to_string_pretty(&document)
    };
    whole()
        .map(|text| text + "\n")
        .map_err(|error| Error::new(format!("write the features document: {error}")))
}

fn features() -> Features {
    let mut features = Features::default();
    features
        .set_oci_version_min(OLDEST_VERSION.to_owned())
        .set_oci_version_max(SPEC_VERSION.to_owned())
        .set_hooks(Some(strings(HOOKS)))
        .set_mount_options(Some(options::TABLE.iter().map(|&(name, _)| name.to_owned()).collect()))
        .set_linux(Some(linux()))
        .set_annotations(Some(HashMap::from([
            ("run.oci.skeg.version".to_owned(), VERSION.to_owned()),
            ("run.oci.skeg.commit".to_owned(), COMMIT.to_owned()),
            // The name by which callers ask for it; checkpoint and restore say that they are not supported yet.
            ("org.opencontainers.runc.checkpoint.enabled".to_owned(), "false".to_owned()),
        ])))
        // With --systemd-cgroup these are properties of the scope, limits among them (row G8).
        .set_potentially_unsafe_config_annotations(Some(vec!["org.systemd.property.".to_owned()]));
    features
}

fn linux() -> LinuxFeature {
    let mut cgroup = Cgroup::default();
    cgroup
        .set_v1(Some(true))
        .set_v2(Some(true))
        .set_systemd(Some(true))
        .set_systemd_user(Some(true))
        .set_rdma(Some(true));
    let (mut apparmor, mut selinux) = (Apparmor::default(), Selinux::default());
    apparmor.set_enabled(Some(true));
    selinux.set_enabled(Some(true));
    let mut intel_rdt = IntelRdt::default();
    intel_rdt.set_enabled(Some(true)).set_schemata(Some(true)).set_monitoring(Some(true));
    let mut memory_policy = MemoryPolicy::default();
    memory_policy
        .set_modes(Some(MEMORY_POLICIES.iter().map(ToString::to_string).collect()))
        .set_flags(Some(MEMORY_POLICY_FLAGS.iter().map(ToString::to_string).collect()));
    let mut net_devices = NetDevices::default();
    net_devices.set_enabled(Some(true));
    let mut idmap = IDMap::default();
    idmap.set_enabled(Some(true));
    let mut mount_extensions = MountExtensions::default();
    mount_extensions.set_idmap(Some(idmap));
    let mut linux = LinuxFeature::default();
    linux
        .set_namespaces(Some(NAMESPACES.to_vec()))
        .set_capabilities(Some(capabilities()))
        .set_cgroup(Some(cgroup))
        .set_seccomp(Some(seccomp()))
        .set_apparmor(Some(apparmor))
        .set_selinux(Some(selinux))
        .set_intel_rdt(Some(intel_rdt))
        .set_memory_policy(Some(memory_policy))
        .set_mount_extensions(Some(mount_extensions))
        .set_net_devices(Some(net_devices));
    linux
}

fn seccomp() -> Seccomp {
    let mut seccomp = Seccomp::default();
    seccomp
        .set_enabled(Some(true))
        .set_actions(Some(ACTIONS.to_vec()))
        .set_operators(Some(strings(OPERATORS)))
        .set_archs(Some(ARCHITECTURES.to_vec()))
        .set_known_flags(Some(FLAGS.iter().map(|&(name, _)| name.to_owned()).collect()))
        .set_supported_flags(Some(
            FLAGS.iter().filter(|&&(_, flags)| has_flags(flags)).map(|&(name, _)| name.to_owned()).collect(),
        ));
    seccomp
}

/// In the order of their numbers, as capabilities(7) and runc have them.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_unstable_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn strings<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

/// A property that is null means "unknown" as one that is absent does; runc leaves them out.
fn remove_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(remove_nulls);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bundle::{parse_config, validate};
    use crate::security::seccomp::compile;

    fn printed() -> Value {
        serde_json::from_str(&document().unwrap()).unwrap()
    }

    fn names(value: &Value) -> Vec<&str> {
        value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    }

    /// What CRI-O, containerd and dockerd look at (peers.md A1.3).
    #[test]
    fn what_managers_look_at() {
        let printed = printed();
        assert_eq!(printed["ociVersionMin"], "1.0.0");
        assert_eq!(printed["ociVersionMax"], SPEC_VERSION);
        assert_eq!(printed["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        let options = names(&printed["mountOptions"]);
        for option in ["ro", "rro", "bind", "rbind", "rprivate", "tmpcopyup", "nosymfollow"] {
            assert!(options.contains(&option), "{option}");
        }
        assert!(!document().unwrap().contains("null"));
    }

    /// A configuration with `linux` merged into a minimal one, read and validated.
    fn accepts(linux: Value) -> std::result::Result<(), String> {
        let config = json!({
            "ociVersion": "1.3.0",
            "root": {"path": "rootfs"},
            "linux": linux
        });
        let loaded = parse_config(config.to_string().into_bytes()).map_err(|error| error.to_string())?;
        validate(&loaded.value).map(drop).map_err(|error| error.to_string())
    }

    /// Every namespace, hook and version that is named can be written into a configuration.
    #[test]
    fn names_are_accepted_in_a_configuration() {
        let printed = printed();
        let mappings = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        for kind in names(&printed["linux"]["namespaces"]) {
            let mut linux = json!({"namespaces": [{"type": kind}]});
            if kind == "user" {
                linux["uidMappings"] = mappings.clone();
                linux["gidMappings"] = mappings.clone();
            }
            accepts(linux).unwrap();
        }
        assert_eq!(names(&printed["linux"]["namespaces"]).len(), 8);
        for mode in names(&printed["linux"]["memoryPolicy"]["modes"]) {
            for flag in names(&printed["linux"]["memoryPolicy"]["flags"]) {
                let nodes = if ["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode) { "" } else { "0" };
                accepts(json!({"memoryPolicy": {"mode": mode, "nodes": nodes, "flags": [flag]}})).unwrap();
            }
        }
        for version in ["ociVersionMin", "ociVersionMax"] {
            let config = json!({"ociVersion": printed[version], "root": {"path": "rootfs"}});
            validate(&parse_config(config.to_string().into_bytes()).unwrap().value).unwrap();
        }
        for hook in names(&printed["hooks"]) {
            let config =
                json!({"ociVersion": "1.0.0", "root": {"path": "r"}, "hooks": {hook: [{"path": "/h"}]}});
            let loaded = parse_config(config.to_string().into_bytes()).unwrap();
            assert!(loaded.unknown_properties().is_empty(), "{hook}");
        }
        assert_eq!(printed["linux"]["capabilities"].as_array().unwrap().len(), 41);
        assert_eq!(printed["linux"]["capabilities"][40], "CAP_CHECKPOINT_RESTORE");
    }

    /// Every action, operator, architecture and flag that is named compiles.
    #[test]
    fn seccomp_names_compile() {
        let printed = printed();
        let seccomp = &printed["linux"]["seccomp"];
        let try_profile =
            |profile: Value| compile(&serde_json::from_value(profile).unwrap()).map(drop).unwrap();
        for action in names(&seccomp["actions"]) {
            let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": action}]});
            if action == "SCMP_ACT_NOTIFY" {
                profile["listenerPath"] = json!("/s");
            }
            try_profile(profile);
        }
        for operator in names(&seccomp["operators"]) {
            let arg = json!({"index": 0, "value": 1, "valueTwo": 1, "op": operator});
            let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [arg]});
            try_profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        }
        try_profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": seccomp["archs"]}));
        for flag in names(&seccomp["knownFlags"]) {
            try_profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag]}));
        }
        // Linux 5.19 and later have them all.
        assert_eq!(seccomp["supportedFlags"], seccomp["knownFlags"]);
    }

    /// security.md G6: what is said not to be supported is refused in a configuration, and the other way round.
    #[test]
    fn g6_what_is_not_supported_is_refused() {
        let printed = printed();
        let network = json!([{"type": "network"}]);
        for (property, enabled, linux) in [
            (
                "netDevices",
                &printed["linux"]["netDevices"]["enabled"],
                json!({"namespaces": network, "netDevices": {"eth0": {}}}),
            ),
            ("intelRdt", &printed["linux"]["intelRdt"]["enabled"], json!({"intelRdt": {}})),
        ] {
            assert_eq!(accepts(linux).is_ok(), enabled == true, "{property}");
        }
        let modes = printed["linux"]["memoryPolicy"]["modes"].as_array().unwrap();
        assert_eq!(accepts(json!({"memoryPolicy": {"mode": "MPOL_LOCAL"}})).is_ok(), !modes.is_empty());
    }
}
