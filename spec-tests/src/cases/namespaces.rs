//! config-linux.md, namespaces, and what belongs to them: host name, domain name, sysctl, id maps.

use std::fs;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx, Ran};
use crate::inside::report;
use crate::{ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "namespaces_new",
        "config-linux.md, namespaces: each listed type is new, no other is",
        namespaces_new,
    ),
    Case::new(
        "namespaces_none",
        "config-linux.md, namespaces: types that are not listed are the host's",
        none,
    ),
    Case::new("namespaces_by_path", "config-linux.md, namespaces: path joins an existing one", by_path),
    Case::new(
        "namespace_of_wrong_type",
        "config-linux.md, namespaces: the runtime MUST generate an error if path is of another type",
        wrong_type,
    ),
    Case::new(
        "namespace_twice",
        "config-linux.md, namespaces: a duplicated type MUST generate an error",
        twice,
    ),
    Case::new("f8_namespace_path", "security.md F8: a path that is no namespace is an error, quickly", f8),
    Case::new("namespace_cgroup", "config-linux.md, namespaces: cgroup: the own cgroup is the root", cgroup),
    Case::new("namespace_network", "config-linux.md, namespaces: network: only the loopback device", network),
    Case::new("loopback_is_up", "config-linux.md, namespaces: in a new network namespace lo is up", loopback),
    Case::new("namespace_pid", "config-linux.md, namespaces: pid: the process is 1 and sees no other", pid),
    Case::new(
        "namespace_pid_joined",
        "config-linux.md, namespaces: pid by path: the processes see each other",
        joined,
    ),
    Case::new("hostname", "config.md, hostname: set in the container, the host's is untouched", hostname),
    Case::new(
        "domainname",
        "config.md, domainname: set in the container, the host's is untouched",
        domainname,
    ),
    Case::new(
        "hostname_needs_uts",
        "config.md, hostname: without a uts namespace it is an error",
        hostname_needs_uts,
    ),
    Case::new("sysctl", "config-linux.md, sysctl: values are set in the container's namespaces only", sysctl),
    Case::new(
        "b6_sysctl_of_the_host",
        "security.md B6: keys that are not of an own namespace are refused",
        b6,
    ),
    Case::new(
        "b6_sysctl_of_the_host_by_path",
        "security.md B6: a namespace by path that is the host's gives no right to its keys",
        b6_by_path,
    ),
    Case::new("b7_sysctl_traversal", "security.md B7: a key cannot leave its prefix", b7),
    Case::new(
        "user_namespace",
        "config-linux.md, user namespace mappings: ids are mapped as configured",
        user,
    ),
    Case::new(
        "user_namespace_without_maps",
        "config-linux.md: a new user namespace without maps is an error",
        no_maps,
    ),
    Case::new(
        "namespaces_of_two_containers",
        "config-linux.md, namespaces: two containers share no new namespace",
        two,
    ),
];

fn sleeper(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn relations(report: &Value) -> Vec<String> {
    let host = report::namespaces();
    let own = report["namespaces"].as_object().into_iter().flatten();
    own.filter(|(kind, value)| host[kind.as_str()] != **value).map(|(kind, _)| kind.clone()).collect()
}

fn namespaces_new(ctx: &Ctx) -> Outcome {
    ensure_eq!(
        relations(&ctx.bundle()?.run_json(ctx)?),
        ["ipc", "mnt", "net", "pid", "uts"],
        "new namespaces"
    );
    let mut bundle = ctx.bundle()?;
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    let found = relations(&bundle.run_json(ctx)?);
    ensure_eq!(found, ["cgroup", "ipc", "mnt", "net", "pid", "uts"], "new namespaces");
    Ok(())
}

fn none(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.remove("/hostname").set("/linux/namespaces", json!([{"type": "mount"}]));
    // A new sysfs needs a network namespace of one's own only in a user namespace; this is the real root.
    ensure_eq!(relations(&bundle.run_json(ctx)?), ["mnt"], "new namespaces");
    Ok(())
}

fn by_path(ctx: &Ctx) -> Outcome {
    let holder = sleeper(ctx)?.start(ctx)?;
    let pid = holder.pid()?;
    let mut bundle = ctx.bundle()?;
    let kinds = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    bundle.remove("/hostname").set("/linux/namespaces", json!([{"type": "mount"}, {"type": "pid"}]));
    for (kind, file) in kinds {
        bundle.push("/linux/namespaces", json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    }
    let found = bundle.run_json(ctx)?;
    for (_, file) in kinds {
        let expected = fs::read_link(format!("/proc/{pid}/ns/{file}"))?;
        ensure_eq!(found["namespaces"][file], json!(expected), "{file} namespace");
    }
    ensure_eq!(found["hostname"], json!("runc"), "host name of the joined namespace");
    Ok(())
}

fn wrong_type(ctx: &Ctx) -> Outcome {
    let holder = sleeper(ctx)?.start(ctx)?;
    let mut bundle = ctx.bundle()?;
    bundle.without_namespace("network");
    let path = format!("/proc/{}/ns/ipc", holder.pid()?);
    bundle.push("/linux/namespaces", json!({"type": "network", "path": path}));
    bundle.run(ctx)?.exits(1)?.fails()?;
    Ok(())
}

fn twice(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/linux/namespaces", json!({"type": "ipc"}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn f8(ctx: &Ctx) -> Outcome {
    let fifo = ctx.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let paths =
        [json!(fifo), json!("/no/such/namespace"), json!("/etc/passwd"), json!("/proc"), json!("relative")];
    for path in paths {
        let mut bundle = ctx.bundle()?;
        bundle.without_namespace("ipc").push("/linux/namespaces", json!({"type": "ipc", "path": path}));
        let call = bundle.run_call(ctx, &[])?.limit(std::time::Duration::from_secs(3) * ctx.patience);
        call.run()?.exits(1).and_then(Ran::fails_in_one_line).during(format!("path {path}"))?;
    }
    Ok(())
}

fn cgroup(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    let found = bundle.run_json(ctx)?;
    for line in found["cgroup"].as_array().into_iter().flatten() {
        let line = line.as_str().unwrap_or_default();
        ensure!(line.ends_with(":/"), "{line} is not the root of the namespace");
    }
    Ok(())
}

fn network(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.actions(&json!([["list", "/sys/class/net"]]));
    ensure_eq!(bundle.run_json(ctx)?[0], json!({"ok": ["lo"]}), "network devices");
    Ok(())
}

fn loopback(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.actions(&json!([["read", "/sys/class/net/lo/flags"]]));
    let flags = bundle.run_json(ctx)?[0]["ok"].as_str().unwrap_or_default().trim().to_owned();
    let bits = u32::from_str_radix(flags.trim_start_matches("0x"), 16).during(flags)?;
    ensure!(bits & 1 == 1, "lo is down: flags {bits:#x}");
    Ok(())
}

fn pid(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.actions(&json!([["list", "/proc"], ["report"]]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found[1]["ok"]["pid"], json!(1), "pid");
    let names = found[0]["ok"].as_array().cloned().unwrap_or_default();
    let processes: Vec<&str> =
        names.iter().filter_map(Value::as_str).filter(|name| name.parse::<u32>().is_ok()).collect();
    ensure_eq!(processes, ["1"], "processes in /proc");
    Ok(())
}

fn joined(ctx: &Ctx) -> Outcome {
    let holder = sleeper(ctx)?.start(ctx)?;
    let mut bundle = ctx.bundle()?;
    let path = format!("/proc/{}/ns/pid", holder.pid()?);
    bundle.without_namespace("pid").push("/linux/namespaces", json!({"type": "pid", "path": path}));
    bundle.actions(&json!([["report"], ["kill", "1", "0"]]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(relations(&found[0]["ok"]), ["ipc", "mnt", "net", "pid", "uts"], "namespaces");
    ensure!(found[0]["ok"]["pid"].as_i64().unwrap_or(1) > 1, "pid {}", found[0]["ok"]["pid"]);
    ensure_eq!(found[1], json!({"ok": null}), "signal 0 to the other container's init process");
    Ok(())
}

fn hostname(ctx: &Ctx) -> Outcome {
    let before = nix::unistd::gethostname()?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/hostname", json!("a.name-of-its-own"));
    ensure_eq!(bundle.run_json(ctx)?["hostname"], json!("a.name-of-its-own"), "host name");
    ensure_eq!(nix::unistd::gethostname()?, before, "host name of the host");
    Ok(())
}

fn domainname(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/domainname", json!("example.test"));
    ensure_eq!(bundle.run_json(ctx)?["domainname"], json!("example.test"), "domain name");
    Ok(())
}

fn hostname_needs_uts(ctx: &Ctx) -> Outcome {
    let before = nix::unistd::gethostname()?;
    let mut bundle = ctx.bundle()?;
    bundle.without_namespace("uts");
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    ensure_eq!(nix::unistd::gethostname()?, before, "host name of the host");
    Ok(())
}

fn sysctl(ctx: &Ctx) -> Outcome {
    let before = fs::read_to_string("/proc/sys/kernel/msgmax")?;
    let mut bundle = ctx.bundle()?;
    let values = json!({
        "kernel.msgmax": "4096", "fs.mqueue.msg_max": "7", "net.ipv4.ip_forward": "1", "net.core.somaxconn": "99"
    });
    bundle.set("/linux/sysctl", values);
    let found = bundle.run_json(ctx)?["sysctls"].clone();
    let table = [
        ("kernel/msgmax", "4096"),
        ("fs/mqueue/msg_max", "7"),
        ("net/ipv4/ip_forward", "1"),
        ("net/core/somaxconn", "99"),
    ];
    for (key, value) in table {
        ensure_eq!(found[key], json!(value), "{key}");
    }
    ensure_eq!(fs::read_to_string("/proc/sys/kernel/msgmax")?, before, "kernel.msgmax of the host");
    Ok(())
}

fn b6(ctx: &Ctx) -> Outcome {
    let host =
        |key: &str| fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).unwrap_or_default();
    let table = [
        ("kernel.core_pattern", "", "|/x"),
        ("vm.swappiness", "", "1"),
        ("fs.file-max", "", "99999"),
        ("kernel.msgmax", "ipc", "4096"),
        ("net.ipv4.ip_forward", "network", "1"),
        ("kernel.hostname", "", "x"),
    ];
    for (key, dropped, value) in table {
        let before = host(key);
        let mut bundle = ctx.bundle()?;
        bundle.without_namespace(dropped).set("/linux/sysctl", json!({ key: value }));
        let ran = bundle.run(ctx)?;
        let after = host(key);
        put_back(&key.replace('.', "/"), &before)?;
        ran.exits(1).and_then(Ran::fails_in_one_line).during(format!("{key} without {dropped:?}"))?;
        ensure_eq!(after, before, "{key} of the host");
    }
    Ok(())
}

fn b6_by_path(ctx: &Ctx) -> Outcome {
    let before = fs::read_to_string("/proc/sys/kernel/msgmax")?;
    let mut bundle = ctx.bundle()?;
    bundle.without_namespace("ipc");
    bundle.push(
        "/linux/namespaces",
        json!({"type": "ipc", "path": format!("/proc/{}/ns/ipc", std::process::id())}),
    );
    bundle.set("/linux/sysctl", json!({"kernel.msgmax": before.trim()}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

/// A runtime that has set a parameter of the host fails; the host is not to suffer from it.
fn put_back(parameter: &str, value: &str) -> Outcome {
    let file = format!("/proc/sys/{parameter}");
    if fs::read_to_string(&file).is_ok_and(|now| now != value) {
        fs::write(file, value)?;
    }
    Ok(())
}

fn b7(ctx: &Ctx) -> Outcome {
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let keys = [
        "net/../kernel/core_pattern",
        "net.ipv4.../kernel/core_pattern",
        "net/ipv4/../../kernel/core_pattern",
        "net",
        "",
    ];
    for key in keys {
        let mut bundle = ctx.bundle()?;
        bundle.set("/linux/sysctl", json!({ key: "canary" }));
        let ran = bundle.run(ctx)?;
        let after = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
        put_back("kernel/core_pattern", &before)?;
        ensure_eq!(after, before, "core_pattern after {key:?}");
        ran.exits(1).and_then(Ran::fails_in_one_line).during(format!("key {key:?}"))?;
    }
    Ok(())
}

fn user(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]));
    bundle.set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 200_000, "size": 1000}]));
    // The mapped root must be able to reach the rootfs.
    for dir in [ctx.dir.clone(), bundle.dir.clone(), bundle.rootfs()] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    }
    let own = |path: &std::path::Path| nix::unistd::chown(path, Some(100_000.into()), Some(200_000.into()));
    own(&bundle.rootfs())?;
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found["uid"], json!(0), "uid inside");
    ensure_eq!(found["uidMap"], json!(["0 100000 1000"]), "uid map");
    ensure_eq!(found["gidMap"], json!(["0 200000 1000"]), "gid map");
    ensure!(relations(&found).contains(&"user".to_owned()), "the user namespace is the host's");
    Ok(())
}

fn no_maps(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn two(ctx: &Ctx) -> Outcome {
    let first = sleeper(ctx)?.start(ctx)?.exec_report(&[])?;
    let second = sleeper(ctx)?.start(ctx)?.exec_report(&[])?;
    for kind in ["ipc", "mnt", "net", "pid", "uts"] {
        ensure!(first["namespaces"][kind] != second["namespaces"][kind], "{kind} is shared");
    }
    Ok(())
}
