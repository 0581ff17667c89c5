//! Runtime options of a container: runc's own, or a TOML document with the same names (runtimeoptions.v1).

use std::path::Path;

use serde::{Deserialize, Serialize};
use skeg_proto::Message as _;
use skeg_proto::types::Any;

use crate::error::{Context as _, Error, Result};
use crate::path;

/// The runtime where the options name none.
const DEFAULT_BINARY: &str = "skeg";
/// The runtime's state root where the options name none; a directory per namespace below it.
const DEFAULT_ROOT: &str = "/run/containerd/skeg";
/// The longest options document.
const LIMIT: usize = 1 << 20;

/// What the manager may set for the runtime of a container. Kept in the bundle for `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Binary of the runtime: absolute, or a name that is looked up in the shim's PATH.
    #[serde(alias = "BinaryName")]
    pub binary_name: String,
    /// State root of the runtime, without the namespace.
    #[serde(alias = "Root")]
    pub root: String,
    /// Whether the runtime asks systemd for cgroups.
    #[serde(alias = "SystemdCgroup")]
    pub systemd_cgroup: bool,
    /// `--no-pivot`.
    #[serde(alias = "NoPivotRoot")]
    pub no_pivot_root: bool,
    /// `--no-new-keyring`.
    #[serde(alias = "NoNewKeyring")]
    pub no_new_keyring: bool,
    /// An existing cgroup for the shim itself.
    #[serde(alias = "ShimCgroup")]
    pub shim_cgroup: String,
    /// Owner of the container's stdio (the host's uid).
    #[serde(alias = "IoUid")]
    pub io_uid: u32,
    /// Group of the container's stdio (the host's gid).
    #[serde(alias = "IoGid")]
    pub io_gid: u32,
    /// Of checkpoints, which are not supported yet; accepted because managers set them always.
    #[serde(alias = "CriuPath")]
    pub criu_path: String,
    /// As `criu_path`.
    #[serde(alias = "CriuImagePath")]
    pub criu_image_path: String,
    /// As `criu_path`.
    #[serde(alias = "CriuWorkPath")]
    pub criu_work_path: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary_name: DEFAULT_BINARY.to_owned(),
            root: DEFAULT_ROOT.to_owned(),
            systemd_cgroup: false,
            no_pivot_root: false,
            no_new_keyring: false,
            shim_cgroup: String::new(),
            io_uid: 0,
            io_gid: 0,
            criu_path: String::new(),
            criu_image_path: String::new(),
            criu_work_path: String::new(),
        }
    }
}

impl Options {
    /// The options in `any`; the defaults where there are none.
    ///
    /// # Errors
    /// A type that is not known, a document that cannot be read, a path that is not absolute.
    pub fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let options = match name {
            "containerd.runc.v1.Options" => Self::from_runc(&any.value)?,
            "runtimeoptions.v1.Options" => Self::from_toml_options(&any.value)?,
            other => {
                return Err(Error::invalid(format!(
                    "options of type {other:?}: must be containerd.runc.v1.Options or runtimeoptions.v1.Options"
                )));
            }
        };
        path::check_absolute("option root", &options.root)?;
        Ok(options)
    }

    fn from_runc(value: &[u8]) -> Result<Self> {
        let runc = skeg_proto::options::Options::parse_from_bytes(value)
            .map_err(|error| Error::invalid(format!("decode the runtime options: {error}")))?;
        let or = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
        Ok(Self {
            binary_name: or(runc.binary_name, DEFAULT_BINARY),
            root: or(runc.root, DEFAULT_ROOT),
            systemd_cgroup: runc.systemd_cgroup,
            no_pivot_root: runc.no_pivot_root,
            no_new_keyring: runc.no_new_keyring,
            shim_cgroup: runc.shim_cgroup,
            io_uid: runc.io_uid,
            io_gid: runc.io_gid,
            criu_path: runc.criu_path,
            criu_image_path: runc.criu_image_path,
            criu_work_path: runc.criu_work_path,
        })
    }

    fn from_toml_options(value: &[u8]) -> Result<Self> {
        let options = skeg_proto::options::RuntimeOptions::parse_from_bytes(value)
            .map_err(|error| Error::invalid(format!("decode the runtime options: {error}")))?;
        let (source, body) = if !options.config_body.is_empty() {
            ("the runtime options".to_owned(), options.config_body)
        } else if !options.config_path.is_empty() {
            let file = path::check_absolute("option config_path", &options.config_path)?;
            let body = path::read(&file, LIMIT).context(|| format!("read {}", file.display()))?;
            (options.config_path, body)
        } else {
            return Ok(Self::default());
        };
        let text = std::str::from_utf8(&body).map_err(|_| Error::invalid(format!("{source}: not UTF-8")))?;
        let mut parsed: Self =
            toml::from_str(text).map_err(|error| Error::invalid(format!("{source}: {}", error.message())))?;
        let defaults = Self::default();
        if parsed.binary_name.is_empty() {
            parsed.binary_name = defaults.binary_name;
        }
        if parsed.root.is_empty() {
            parsed.root = defaults.root;
        }
        Ok(parsed)
    }

    /// The state root of the runtime for a namespace.
    pub fn runtime_root(&self, namespace: &str) -> std::path::PathBuf {
        path::child(Path::new(&self.root), namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, message: &impl skeg_proto::Message) -> Any {
        let value = message.write_to_bytes().unwrap();
        Any { type_url: type_url.into(), value, ..Any::default() }
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
        assert_eq!(Options::from_any(Some(&Any::new())).unwrap(), Options::default());
    }

    #[test]
    fn options_of_runc_and_of_a_toml_document_say_the_same() {
        let runc = skeg_proto::options::Options {
            binary_name: "/usr/sbin/runc".into(),
            systemd_cgroup: true,
            io_uid: 7,
            ..Default::default()
        };
        let from_runc = Options::from_any(Some(&any("containerd.runc.v1.Options", &runc))).unwrap();
        for body in [
            "BinaryName = \"/usr/sbin/runc\"\nSystemdCgroup = true\nIoUid = 7\n",
            "binary_name = '/usr/sbin/runc'\nsystemd_cgroup = true\nio_uid = 7\nroot = ''\n",
        ] {
            let toml = skeg_proto::options::RuntimeOptions { config_body: body.into(), ..Default::default() };
            let url = "types.containerd.io/runtimeoptions.v1.Options";
            assert_eq!(Options::from_any(Some(&any(url, &toml))).unwrap(), from_runc);
        }
        assert_eq!(from_runc.root, DEFAULT_ROOT);
    }

    /// security.md I14: paths in options are absolute.
    #[test]
    fn i14_bad_options_are_errors() {
        let relative = skeg_proto::options::Options { root: "run/x".into(), ..Default::default() };
        assert!(Options::from_any(Some(&any("containerd.runc.v1.Options", &relative))).is_err());
        let unknown =
            skeg_proto::options::RuntimeOptions { config_body: "Nonsense = 1".into(), ..Default::default() };
        assert!(Options::from_any(Some(&any("runtimeoptions.v1.Options", &unknown))).is_err());
        assert!(Options::from_any(Some(&any("some.other.Options", &relative))).is_err());
        let path = skeg_proto::options::RuntimeOptions { config_path: "x.toml".into(), ..Default::default() };
        assert!(Options::from_any(Some(&any("runtimeoptions.v1.Options", &path))).is_err());
    }
}
