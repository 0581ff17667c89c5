//! What the shim itself needs of config.json.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use serde::Deserialize;

use crate::error::{Context as _, Error, Result};
use crate::path;

/// The longest config.json.
const CONFIG_LIMIT: usize = 16 << 20;
/// What the shim itself needs of config.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Annotations, for grouping.
    pub annotations: HashMap<String, String>,
    linux: Linux,
    process: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Labels {
    selinux_label: String,
    apparmor_profile: String,
}

impl Config {
    /// Reads the config.json of a bundle, if it has one.
    ///
    /// # Errors
    /// What reading or decoding failed with.
    pub fn load(bundle: &OwnedFd) -> Result<Option<Self>> {
        let json = match path::read_in(bundle, "config.json", CONFIG_LIMIT) {
            Err(Errno::ENOENT) => return Ok(None),
            json => json.context(|| "read config.json")?,
        };
        let config = serde_json::from_slice(&json);
        config.map(Some).map_err(|error| Error::invalid(format!("config.json: {error}")))
    }

    /// Whether the end of the init process ends all others: it has a PID namespace of its own.
    pub fn has_own_pid_namespace(&self) -> bool {
        self.linux.namespaces.iter().any(|namespace| namespace.kind == "pid" && namespace.path.is_empty())
    }

    /// Whether a security module looks at the files that the container writes to.
    pub fn has_label(&self) -> bool {
        let profile = self.process.apparmor_profile.as_str();
        !self.process.selinux_label.is_empty() || !(profile.is_empty() || profile == "unconfined")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_shim_takes_from_a_config() {
        let config = |json: &str| serde_json::from_str::<Config>(json).unwrap();
        let own = config(r#"{"linux":{"namespaces":[{"type":"pid"}]},"process":{"args":["sh"]}}"#);
        assert!(own.has_own_pid_namespace() && !own.has_label());
        let pod = config(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#);
        assert!(!pod.has_own_pid_namespace());
        assert!(!config("{}").has_own_pid_namespace());
        assert!(config(r#"{"process":{"selinuxLabel":"a:b:c:s0"}}"#).has_label());
        assert!(config(r#"{"process":{"apparmorProfile":"docker-default"}}"#).has_label());
        assert!(!config(r#"{"process":{"apparmorProfile":"unconfined"}}"#).has_label());
    }
}
