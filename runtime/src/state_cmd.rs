//! `skeg state`: what is printed about a container.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::state::{Container, Status};

/// What `state` and `list` print about a container: the state of runtime.md, and with it what runc adds and managers
/// read (`rootfs`, `created`, `owner`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerStatus<'a> {
    /// `ociVersion` of the container's configuration.
    #[serde(rename = "ociVersion")]
    pub oci_version: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its init process in the runtime's PID namespace; 0 where there is none any more.
    pub pid: i32,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: &'static str,
    /// The absolute path of its bundle.
    pub bundle: &'a Path,
    /// The absolute path of its root file system.
    pub rootfs: &'a Path,
    /// When it was created (RFC 3339).
    pub created: &'a str,
    /// The annotations of its configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<&'a str, &'a str>,
    /// Who created it: [`owner_name`].
    pub owner: String,
}

impl<'a> ContainerStatus<'a> {
    /// What there is to say of `container`, whose status is `status`.
    pub fn new(container: &'a Container, status: Status) -> Self {
        let state = &container.state;
        Self {
            oci_version: &state.oci_version,
            id: &state.id,
            pid: if status == Status::Stopped { 0 } else { state.pid },
            status: status.as_str(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: state
                .annotations
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
            owner: owner_name(state.owner),
        }
    }
}

/// The user as runc writes one that it finds no name for; root always has its name. Other names are not looked up:
/// that would take NSS, and with it libraries (row H5).
pub fn owner_name(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("#{uid}") }
}

/// What `skeg state` prints: indented JSON.
///
/// # Errors
/// A path that is not UTF-8.
pub fn text(status: &ContainerStatus<'_>) -> Result<String> {
    serde_json::to_string_pretty(status).map(|text| text + "\n").map_err(|error| not_json(status.id, &error))
}

/// The error for a status that JSON cannot hold.
pub(crate) fn not_json(id: &str, error: &serde_json::Error) -> Error {
    Error::new(format!("print the state of container {id}: {error}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    /// A container as it might be.
    pub(crate) fn example() -> ContainerStatus<'static> {
        ContainerStatus {
            oci_version: "1.0.2-dev",
            id: "web",
            pid: 28013,
            status: "created",
            bundle: Path::new("/tmp/cli/rb"),
            rootfs: Path::new("/tmp/cli/rb/rootfs"),
            created: "2026-11-21T02:26:49.440597107Z",
            annotations: BTreeMap::from([("b", "2"), ("a", "1")]),
            owner: owner_name(0),
        }
    }

    /// runtime.md, state; the layout is that of runc 1.1.5, which leaves the owner empty here.
    #[test]
    fn state_is_printed_as_runc_prints_it() {
        let printed = text(&example()).unwrap();
        let expected = r##"{
  "ociVersion": "1.0.2-dev",
  "id": "web",
  "pid": 28013,
  "status": "created",
  "bundle": "/tmp/cli/rb",
  "rootfs": "/tmp/cli/rb/rootfs",
  "created": "2026-11-21T02:26:49.440597107Z",
  "annotations": {
    "a": "1",
    "b": "2"
  },
  "owner": "root"
}
"##;
        assert_eq!(printed, expected);
        let plain = ContainerStatus { annotations: BTreeMap::new(), ..example() };
        assert!(!text(&plain).unwrap().contains("annotations"));
        assert_eq!(owner_name(1000), "#1000");
    }

    #[test]
    fn a_path_that_json_cannot_hold_is_an_error() {
        let status = ContainerStatus { bundle: Path::new(OsStr::from_bytes(b"/\xff")), ..example() };
        let error = text(&status).unwrap_err().to_string();
        assert!(error.starts_with("print the state of container web: "), "{error}");
    }
}
