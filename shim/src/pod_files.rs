//! The files of a pod that the shim has made: name, hosts and resolver. containerd's CRI server leaves them to whoever makes the
//! pod, so that containers get them by mounts that are added to their config.json.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde_json::{Map, Value, json};
use skeg_proto::pod::PodSandboxConfig;

use crate::error::{Context as _, Error, Result};
use crate::path;

/// Names in the sandbox's bundle, and where containers find them.
const FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];
/// The longest file that is taken from the host.
const LIMIT: usize = 1 << 20;
/// The longest config.json.
const CONFIG_LIMIT: usize = 16 << 20;

/// Writes the files of a pod into its bundle. What the pod does not say is as on the host; what the host does not have is left out.
///
/// # Errors
/// What writing failed with.
pub fn write(bundle: &OwnedFd, pod: &PodSandboxConfig) -> Result<()> {
    let of_host = |file: &str| path::read(Path::new(file), LIMIT).ok();
    let name = if pod.hostname.is_empty() { of_host("/proc/sys/kernel/hostname") } else { None };
    let contents = [
        name.or_else(|| Some(format!("{}\n", pod.hostname).into_bytes())),
        of_host("/etc/hosts"),
        resolver(pod).or_else(|| of_host("/etc/resolv.conf")),
    ];
    for ((name, _), content) in FILES.into_iter().zip(contents) {
        if let Some(content) = content {
            path::write_public_in(bundle, name, &content).context(|| format!("write {name}"))?;
        }
    }
    Ok(())
}

/// resolv.conf(5) as the pod asks for it; nothing where it asks for nothing.
fn resolver(pod: &PodSandboxConfig) -> Option<Vec<u8>> {
    let dns = pod.dns_config.as_ref()?;
    let line = |word: &str, values: &[String]| match values {
        [] => String::new(),
        values => format!("{word} {}\n", values.join(" ")),
    };
    let servers: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let text = line("search", &dns.searches) + &servers + &line("options", &dns.options);
    (!text.is_empty()).then(|| text.into_bytes())
}

/// Adds mounts of the files in `pod`, the sandbox's bundle, to the config.json of a container, but for what it mounts itself.
///
/// # Errors
/// What reading, decoding or writing failed with.
pub fn mount_into(bundle: impl AsFd, pod: &Path) -> Result<()> {
    let json = path::read_in(&bundle, "config.json", CONFIG_LIMIT).context(|| "read config.json")?;
    let mut config: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|error| Error::invalid(format!("config.json: {error}")))?;
    let pod_dir = path::open_dir(pod).context(|| format!("open bundle {}", pod.display()))?;
    let read_only = config.get("root").and_then(|root| root.get("readonly")) == Some(&Value::Bool(true));
    let mounts = config.entry("mounts").or_insert_with(|| json!([]));
    let mounts =
        mounts.as_array_mut().ok_or_else(|| Error::invalid("config.json: /mounts: must be an array"))?;
    for (name, destination) in FILES {
        let is_there = path::stat_in(&pod_dir, name).context(|| format!("stat {name}"))?.is_some();
        let is_mounted = mounts.iter().any(|mount| {
            mount.get("destination").and_then(Value::as_str).map(|at| at.trim_end_matches('/'))
                == Some(destination)
        });
        if is_there && !is_mounted {
            let source = path::child(pod, name);
            mounts.push(json!({
                "destination": destination,
                "type": "bind",
                "source": source.to_string_lossy(),
                "options": ["rbind", "rprivate", if read_only { "ro" } else { "rw" }],
            }));
        }
    }
    let json =
        serde_json::to_vec(&config).map_err(|error| Error::other(format!("encode config.json: {error}")))?;
    path::write_in(&bundle, "config.json", &json).context(|| "write config.json")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_container_gets_the_files_of_its_pod() {
        let dir = std::env::temp_dir().join(format!("shim-pod-{}", std::process::id()));
        for name in ["pod", "container"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let mut pod = PodSandboxConfig { hostname: "web".into(), ..Default::default() };
        let dns = pod.dns_config.mut_or_insert_default();
        dns.servers = vec!["10.0.0.10".into(), "10.0.0.11".into()];
        dns.searches = vec!["svc.local".into(), "local".into()];
        dns.options = vec!["ndots:5".into()];
        write(&path::open_dir(&dir.join("pod")).unwrap(), &pod).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join("pod").join(name)).unwrap();
        assert_eq!(read("hostname"), "web\n");
        let resolver =
            "search svc.local local\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n";
        assert_eq!(read("resolv.conf"), resolver);
        let mode = std::fs::metadata(dir.join("pod/resolv.conf")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "whoever the container's user is");
        let config =
            r#"{"root":{"readonly":true},"mounts":[{"destination":"/etc/hosts/"}],"x":18446744073709551615}"#;
        std::fs::write(dir.join("container/config.json"), config).unwrap();
        let container = path::open_dir(&dir.join("container")).unwrap();
        mount_into(&container, &dir.join("pod")).unwrap();
        mount_into(&container, &dir.join("pod")).unwrap();
        let config: Value =
            serde_json::from_slice(&std::fs::read(dir.join("container/config.json")).unwrap()).unwrap();
        let mounts = config["mounts"].as_array().unwrap();
        let at: Vec<&str> = mounts.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert_eq!(at, ["/etc/hosts/", "/etc/hostname", "/etc/resolv.conf"]);
        assert_eq!(mounts[1]["options"], json!(["rbind", "rprivate", "ro"]));
        assert_eq!(config["x"], u64::MAX, "what is not ours stays as it is");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_pod_that_says_nothing_resolves_as_the_host_does() {
        assert_eq!(resolver(&PodSandboxConfig::new()), None);
    }
}
