//! `skeg spec`: a config.json to start from.
//!
//! The text is kept as it is written, so that its properties stand in the order in which a person wants to edit them;
//! serializing the specification's types would sort them and bring the code for all of them into the program.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::bundle::CONFIG;
use crate::error::{Context as _, Error, Result};
use crate::sys::fd::write_all;
use crate::sys::path::{open_given, open_given_at};

/// The configuration for root on a host with cgroup v1.
const ROOT: &str = include_str!("spec/config.json");

const NETWORK_NAMESPACE: &str = "\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n";
const MOUNT_NAMESPACE: &str = "\t\t\t{\n\t\t\t\t\"type\": \"mount\"\n\t\t\t}";
const DEVPTS_GROUP: &str = ",\n\t\t\t\t\"gid=5\"";
const SYSFS: &str = "\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\",\n\t\t\t\"options\": [\n";
const SYSFS_BOUND: &str =
    "\"type\": \"none\",\n\t\t\t\"source\": \"/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",\n";
const RESOURCES: &str = "\t\t\"resources\": {\n\t\t\t\"devices\": [\n\t\t\t\t{\n\t\t\t\t\t\"allow\": false,\n\t\t\t\t\t\"access\": \"rwm\"\n\t\t\t\t}\n\t\t\t]\n\t\t},\n";

/// Writes a config.json into `bundle`, or into the working directory.
///
/// # Errors
/// There is one already, or it cannot be made.
pub fn write(bundle: Option<&Path>, rootless: bool) -> Result<()> {
    let dir: Option<OwnedFd> = bundle
        .map(|path| {
            open_given(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
                .context(|| format!("open bundle {}", path.display()))
        })
        .transpose()?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    // As any file that a user makes: the umask decides.
    let mode = Mode::from_bits_truncate(0o666);
    let made = match &dir {
        Some(dir) => open_given_at(dir, CONFIG, flags, mode),
        None => open_given_at(AT_FDCWD, CONFIG, flags, mode),
    };
    let file = match made {
        // runc's words.
        Err(Errno::EEXIST) => return Err(Error::new(format!("File {CONFIG} exists. Remove it first"))),
        other => other.context(|| format!("make {CONFIG}"))?,
    };
    let owner = rootless.then(|| (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    // config-linux.md leaves the cgroup namespace open. On a host with cgroup v2 only it costs nothing and hides
    // the host's tree (runc decides likewise).
    let pure_v2 =
        statfs("/sys/fs/cgroup").is_ok_and(|status| status.filesystem_type() == CGROUP2_SUPER_MAGIC);
    write_all(file, text(owner, pure_v2).as_bytes()).context(|| format!("write {CONFIG}"))
}

/// The text: for the user and group `owner` without privileges, or for root; with a cgroup namespace or without.
fn text(owner: Option<(u32, u32)>, cgroup_namespace: bool) -> String {
    let mut namespaces = MOUNT_NAMESPACE.to_owned();
    if cgroup_namespace {
        namespaces.push_str(&format!(",\n{}", MOUNT_NAMESPACE.replace("mount", "cgroup")));
    }
    let Some((uid, gid)) = owner else { return ROOT.replace(MOUNT_NAMESPACE, &namespaces) };
    namespaces.push_str(&format!(",\n{}", MOUNT_NAMESPACE.replace("mount", "user")));
    let mapping = |name: &str, id: u32| {
        format!(
            "\t\t\"{name}\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n"
        )
    };
    // A user may not make a network namespace's sysfs without the namespace, use group 5, or set limits by default.
    ROOT.replace(MOUNT_NAMESPACE, &namespaces)
        .replace(NETWORK_NAMESPACE, "")
        .replace(DEVPTS_GROUP, "")
        .replace(SYSFS, SYSFS_BOUND)
        .replace(RESOURCES, &(mapping("uidMappings", uid) + &mapping("gidMappings", gid)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests run runc and make bundles")]

    use std::path::PathBuf;
    use std::process::Command;

    use oci_spec::runtime::Spec;
    use serde_json::Value;

    use super::*;
    use crate::bundle::{parse_config, validate};
    use crate::cli::SPEC_VERSION;

    /// A directory of its own for a test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skeg-spec-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn all_texts() -> [String; 4] {
        [text(None, false), text(None, true), text(Some((7, 8)), false), text(Some((7, 8)), true)]
    }

    /// Each replacement has found its place once, and the result keeps our own rules.
    #[test]
    fn every_text_is_a_valid_configuration() {
        for part in [NETWORK_NAMESPACE, MOUNT_NAMESPACE, DEVPTS_GROUP, SYSFS, RESOURCES] {
            assert_eq!(ROOT.matches(part).count(), 1, "{part}");
        }
        for text in all_texts() {
            let loaded = parse_config(text.clone().into_bytes()).unwrap();
            assert_eq!(loaded.unknown_properties(), Vec::<String>::new());
            assert_eq!(validate(&loaded.value).unwrap(), Vec::<String>::new());
            assert_eq!(loaded.value.version(), SPEC_VERSION);
        }
        let spec: Spec = serde_json::from_str(&text(Some((7, 8)), true)).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 7);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 8);
        let kinds: Vec<_> =
            linux.namespaces().as_ref().unwrap().iter().map(|n| n.typ().to_string()).collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mnt", "cgroup", "user"]);
    }

    /// Equal to what Debian's runc 1.1.5 writes, but for
    /// * `ociVersion`: 1.3.0, which is what skeg implements; runc 1.1.5 has 1.0.2-dev;
    /// * `hostname`: each its own name.
    #[test]
    fn content_is_that_of_runc() {
        for (name, rootless) in [("root", false), ("rootless", true)] {
            let theirs = Scratch::new(&format!("runc-{name}"));
            let mut command = Command::new("runc");
            command.args(["spec", "-b"]).arg(&theirs.0).args(rootless.then_some("--rootless"));
            match command.status() {
                Ok(status) => assert!(status.success()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    eprintln!("skipped: runc is not installed");
                    return;
                }
                Err(error) => panic!("runc: {error}"),
            }
            let ours = Scratch::new(&format!("skeg-{name}"));
            write(Some(&ours.0), rootless).unwrap();
            let read = |scratch: &Scratch| -> Value {
                serde_json::from_slice(&std::fs::read(scratch.0.join(CONFIG)).unwrap()).unwrap()
            };
            let (mut theirs, ours) = (read(&theirs), read(&ours));
            theirs["ociVersion"] = SPEC_VERSION.into();
            theirs["hostname"] = "skeg".into();
            assert_eq!(ours, theirs, "{name}");
        }
    }

    /// runc's words, and the file is left alone.
    #[test]
    fn an_existing_file_is_left_alone() {
        let scratch = Scratch::new("exists");
        std::fs::write(scratch.0.join(CONFIG), "mine").unwrap();
        let error = write(Some(&scratch.0), false).unwrap_err();
        assert_eq!(error.to_string(), "File config.json exists. Remove it first");
        assert_eq!(std::fs::read(scratch.0.join(CONFIG)).unwrap(), b"mine");
        let error = write(Some(Path::new("/nonexistent")), false).unwrap_err();
        assert_eq!(error.to_string(), "open bundle /nonexistent: no such file or directory");
    }
}
