//! Fixture T9: the same bundles under two runtimes; what the probe sees is compared key by key, and each difference
//! that may be stands below with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx};
use crate::inside::report;
use crate::leftovers;
use crate::options::Options;
use crate::{ensure, probe, runner};

/// Differences that may be: (the bundle or `*`, the beginning of the key, the reason).
#[rustfmt::skip]
const ALLOWED: &[(&str, &str, &str)] = &[
    ("*", "/keyringSerial", "the serial number of a new keyring is the kernel's choice"),
    ("*", "/keyring", "runc names the session keyring after the container; an anonymous one cannot be joined by name (C10)"),
    ("*", "/fds/", "skeg hands the caller's descriptors on; runc copies through pipes"),
    ("*", "/mounts/~1proc~1acpi/", "skeg's mask of a directory has more restrictions: nosuid, nodev, noexec, no room (B4)"),
    ("*", "/mounts/~1sys~1firmware/", "skeg's mask of a directory has more restrictions: nosuid, nodev, noexec, no room (B4)"),
    ("*", "/mounts/~1proc~1keys/", "skeg masks files with a device that the image cannot replace (B3)"),
    ("*", "/mounts/~1proc~1timer_list/", "skeg masks files with a device that the image cannot replace (B3)"),
    ("*", "/mounts/~1sys~1fs~1cgroup/options", "read-only as asked; runc leaves the tmpfs around the hierarchies writable (A17)"),
    ("*", "/mounts/~1sys~1fs~1cgroup/writable", "read-only as asked; runc leaves the tmpfs around the hierarchies writable (A17)"),
    ("cgroup-namespace", "/mounts/~1sys~1fs~1cgroup~1systemd/source", "a mount's source is a name without meaning here"),
];

/// Runs the comparison; whether there is no difference that is not allowed.
pub fn run(options: &Options, other: &Path) -> Outcome<bool> {
    let probe = probe::locate()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let tag = format!("spectests-{}", std::process::id());
    let base = leftovers::base_dir().join(&tag);
    let (mut passed, mut failed) = (0, 0);
    let mut reports = BTreeMap::new();
    for runtime in [&options.runtime, &other.to_path_buf()] {
        let runtime = fs::canonicalize(runtime).during(runtime.display())?;
        let kind = runner::runtime_kind(&runtime)?;
        let ctx = Ctx::new(&runtime, &kind, &base.join(&kind), &tag, &probe, 1)?;
        for (name, change) in VARIANTS {
            if !options.filter.is_empty() && !options.filter.iter().any(|text| name.contains(text.as_str())) {
                continue;
            }
            let mut bundle = ctx.bundle()?;
            // The same id and the same cgroup under both, so that they need no allowance.
            let id = format!("{tag}-{name}");
            bundle.set("/linux/cgroupsPath", json!(format!("/{id}")));
            bundle.id = id;
            change(&mut bundle);
            let report =
                bundle.run_json(&ctx).unwrap_or_else(|failure| json!({"failure": format!("{failure:?}")}));
            // The directories of the two runs differ in their last part only.
            let text = report.to_string().replace(&ctx.dir.display().to_string(), "/DIR");
            reports.entry(*name).or_insert_with(Vec::new).push(serde_json::from_str(&text)?);
        }
        let _refused = ctx.delete_all();
    }
    leftovers::clean(&base, &tag);
    leftovers::remove_tree(&base);
    let mut notes: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, pair) in &reports {
        let [first, second] = pair.as_slice() else { continue };
        let (ours, theirs) = (flat(first), flat(second));
        let mut clean = true;
        for key in ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key))) {
            let (left, right) = (ours.get(key), theirs.get(key));
            if left == right {
                continue;
            }
            let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "absent".to_owned());
            if let Some(reason) = allowance(name, key) {
                *notes.entry(reason).or_default() += 1;
            } else {
                println!("DIFF  {name}: {key}: {} | {}", show(left), show(right));
                clean = false;
            }
        }
        println!("{}  {name}", if clean { "ok  " } else { "FAIL" });
        if clean { passed += 1 } else { failed += 1 }
    }
    for (reason, count) in notes {
        println!("note  {count} keys: {reason}");
    }
    ensure!(passed + failed > 0, "no bundle matches the filter");
    println!("{passed} passed, {failed} failed, 0 skipped");
    Ok(failed == 0)
}

fn allowance(bundle: &str, key: &str) -> Option<&'static str> {
    ALLOWED
        .iter()
        .find(|(name, start, _)| (*name == "*" || *name == bundle) && key.starts_with(start))
        .map(|(_, _, reason)| *reason)
}

/// Every leaf by its JSON pointer, with what differs from run to run made equal.
fn flat(report: &Value) -> BTreeMap<String, String> {
    let mut report = report.clone();
    let host = report::namespaces();
    if let Some(spaces) = report["namespaces"].as_object_mut() {
        for (kind, value) in spaces {
            *value = json!(if *value == host[kind.as_str()] { "the host's" } else { "its own" });
        }
    }
    // Mounts are known by their target; device numbers of new mounts are the kernel's choice, and so are the numbers
    // of peer groups.
    let mut mounts = serde_json::Map::new();
    for mount in report["mounts"].as_array().into_iter().flatten() {
        let mut mount = mount.clone();
        mount["device"] = Value::Null;
        let words = mount["propagation"].as_str().unwrap_or_default().split(' ');
        mount["propagation"] = json!(words.map(|word| word.split(':').next()).collect::<Vec<_>>());
        for key in ["options", "superOptions"] {
            let mut words: Vec<&str> = mount[key].as_str().unwrap_or_default().split(',').collect();
            words.sort_unstable();
            mount[key] = json!(words.join(","));
        }
        mounts.insert(mount["target"].as_str().unwrap_or_default().replace('/', "~1"), mount);
    }
    report["mounts"] = Value::Object(mounts);
    // Of pipes and files only the kind can be equal.
    if let Some(fds) = report["fds"].as_object_mut() {
        for target in fds.values_mut() {
            let text = target.as_str().unwrap_or_default();
            *target = json!(text.split([':', '[']).next().unwrap_or_default().replace("/tmp/", "file "));
            if target.as_str().is_some_and(|text| text.starts_with("file ")) {
                *target = json!("pipe");
            }
        }
    }
    let mut leaves = BTreeMap::new();
    collect(&report, String::new(), &mut leaves);
    leaves
}

fn collect(value: &Value, pointer: String, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| collect(value, format!("{pointer}/{key}"), leaves));
        }
        Value::Array(items) if !items.is_empty() => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| collect(value, format!("{pointer}/{index}"), leaves));
        }
        leaf => {
            leaves.insert(pointer, leaf.to_string());
        }
    }
}

/// A bundle's name and how it differs from the default one.
type Variant = (&'static str, fn(&mut Bundle));

const VARIANTS: &[Variant] = &[
    ("default", |_| {}),
    ("containerd", |bundle| {
        let own = bundle.config["linux"]["cgroupsPath"].clone();
        bundle.config =
            serde_json::from_str(include_str!("../data/containerd-config.json")).unwrap_or_default();
        bundle.set("/linux/cgroupsPath", own).probe(["report"]);
    }),
    ("user", |bundle| {
        bundle.set("/process/user", json!({"uid": 1000, "gid": 100, "additionalGids": [5, 6]}));
    }),
    ("umask", |bundle| {
        bundle.set("/process/user/umask", json!(0o077));
    }),
    ("capabilities", |bundle| {
        let names: &[&str] = &["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_SETUID"];
        let sets: [(&str, &[&str]); 5] =
            ["bounding", "effective", "permitted", "inheritable", "ambient"].map(|set| (set, names));
        bundle.capabilities(&sets);
    }),
    ("writable", |bundle| {
        bundle.set("/root/readonly", json!(false)).set("/process/noNewPrivileges", json!(false));
    }),
    ("rlimits", |bundle| {
        bundle.set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 8_388_608}
            ]),
        );
    }),
    ("mounts", |bundle| {
        bundle.mount("/a", "tmpfs", "tmpfs", &["nosuid", "nodev", "size=1m"]).mount(
            "/a/b",
            "tmpfs",
            "none",
            &["ro"],
        );
        bundle.mount("/sys2", "sysfs", "sysfs", &["ro"]).mount(
            "/own",
            "bind",
            "/usr/share",
            &["rbind", "rslave", "ro", "noexec"],
        );
    }),
    ("sysctl", |bundle| {
        bundle.set("/linux/sysctl", json!({"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}));
    }),
    ("devices", |bundle| {
        bundle.push(
            "/linux/devices",
            json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 1, "gid": 2}),
        );
    }),
    ("seccomp", |bundle| {
        bundle.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}),
        );
    }),
    ("cgroup-namespace", |bundle| {
        bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    }),
    ("host-namespaces", |bundle| {
        bundle.remove("/hostname");
        bundle.set("/linux/namespaces", json!([{"type": "mount"}, {"type": "pid"}]));
    }),
    ("resources", |bundle| {
        bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
        bundle.set("/linux/resources/pids", json!({"limit": 20})).set("/process/oomScoreAdj", json!(100));
    }),
    ("propagation", |bundle| {
        bundle.set("/linux/rootfsPropagation", json!("rslave"));
    }),
    ("nothing", |bundle| {
        bundle.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
        bundle
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]))
            .remove("/process/capabilities");
        bundle.set("/root/readonly", json!(false));
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t9_every_allowance_has_a_bundle_and_a_reason() {
        for (name, key, reason) in ALLOWED {
            assert!(*name == "*" || VARIANTS.iter().any(|(variant, _)| variant == name), "no bundle {name}");
            assert!(key.starts_with('/') && reason.len() > 10, "{name} {key}");
        }
    }

    #[test]
    fn t9_leaves_are_named_by_pointer() {
        let leaves = flat(&json!({"a": {"b": [1, 2]}, "mounts": [{"target": "/x", "options": "b,a"}]}));
        assert_eq!(leaves.get("/a/b/1").map(String::as_str), Some("2"));
        assert_eq!(leaves.get("/mounts/~1x/options").map(String::as_str), Some("\"a,b\""));
    }
}
