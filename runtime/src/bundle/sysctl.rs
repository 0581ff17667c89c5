//! Sysctl keys (rows B6 to B8): which of them belong to a namespace, and where they stand below `/proc/sys`.

use crate::error::{Error, Result};
use crate::namespaces::{IPC, NETWORK, UTS};

/// The System V IPC parameters that are an IPC namespace's own (ipc_namespaces(7)).
const SYSTEM_V_IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// A key that may be set: one of a namespace's own parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlKey {
    /// The path below `/proc/sys`, made of plain components: to be opened beneath it.
    pub path: String,
    /// The `CLONE_NEW*` bit of the namespace type that it belongs to. Setting it takes a namespace of that type that
    /// is not the host's: a new one, or a joined one that has been compared with the host's.
    pub namespace: u64,
}

impl SysctlKey {
    /// Reads a key as sysctl(8) does: where the first separator is a dot, dots separate and a slash stands for a dot
    /// (`net.ipv4.conf.eth0/1.mtu`); where it is a slash, slashes separate.
    ///
    /// # Errors
    /// What is wrong with the key, to follow its name: a component that is none, or a parameter that belongs to the
    /// whole host.
    pub fn parse(key: &str) -> Result<Self> {
        let path = match key.find(['.', '/']) {
            Some(at) if key.as_bytes()[at] == b'.' => key
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
            _ => key.to_owned(),
        };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.chars().any(char::is_control) {
            return Err(Error::new("must be a parameter of /proc/sys"));
        }
        let namespace = if SYSTEM_V_IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            IPC
        } else if path.starts_with("net/") {
            NETWORK
        } else if path == "kernel/domainname" {
            UTS
        } else if path == "kernel/hostname" {
            return Err(Error::new("must be set by /hostname"));
        } else {
            return Err(Error::new(
                "must belong to a namespace: kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.*, net.* or kernel.domainname",
            ));
        };
        Ok(Self { path, namespace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md B7: dots and slashes, and no way out of the prefix.
    #[test]
    fn b7_keys_are_normalised_once() {
        for (key, path, namespace) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward", NETWORK),
            ("net/ipv4/conf/eth0.100/mtu", "net/ipv4/conf/eth0.100/mtu", NETWORK),
            ("net.ipv4.conf.eth0/100.mtu", "net/ipv4/conf/eth0.100/mtu", NETWORK),
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced", IPC),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max", IPC),
            ("kernel.domainname", "kernel/domainname", UTS),
        ] {
            assert_eq!(
                SysctlKey::parse(key).unwrap(),
                SysctlKey { path: path.to_owned(), namespace },
                "{key}"
            );
        }
        for key in [
            "",
            ".",
            "/",
            "net",
            "net.",
            "net/",
            "net//core",
            "net..core",
            "/net/core",
            "net/../kernel/core_pattern",
            "net.ipv4./.core",
            "net.//.x",
            "net/./x",
            "fs.mqueue.",
            "net.a\nb",
            "network.x",
            "net\0.x",
        ] {
            assert!(SysctlKey::parse(key).is_err(), "{key:?}");
        }
    }

    /// security.md B6 and B8: what belongs to the host, and the hostname, which has its own property.
    #[test]
    fn b6_b8_host_parameters_are_refused() {
        for key in [
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.pid_max",
            "kernel.ns_last_pid",
            "user.max_user_namespaces",
            "fs.file-max",
            "kernel.msgmax.x",
            "kernel.hostname",
            "kernel/hostname",
            "kernel.sem2",
            "dev.cdrom.info",
        ] {
            assert!(SysctlKey::parse(key).is_err(), "{key}");
        }
    }

    /// security.md B7: random keys never leave the prefix that they were accepted for.
    #[test]
    fn b7_random_keys_stay_inside() {
        let parts =
            ["net", "ipv4", "..", ".", "/", "", "kernel", "sem", "fs", "mqueue", "a", "\0", "domainname"];
        let mut seed: usize = 7;
        for _ in 0..20_000 {
            let mut key = String::new();
            for _ in 0..5 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                key.push_str(parts[(seed >> 33) % parts.len()]);
                key.push(if seed >> 60 & 1 == 0 { '.' } else { '/' });
            }
            if let Ok(found) = SysctlKey::parse(key.trim_end_matches(['.', '/'])) {
                assert!(
                    found
                        .path
                        .split('/')
                        .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0')),
                    "{key:?}"
                );
                assert!(
                    ["net/", "fs/mqueue/", "kernel/"].iter().any(|prefix| found.path.starts_with(prefix)),
                    "{key:?}"
                );
            }
        }
    }
}
