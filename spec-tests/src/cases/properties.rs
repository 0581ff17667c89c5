//! What config.md, config-linux.md and features.md demand of single properties and no other file has: every mount
//! option, values that MUST be errors, idmapped mounts, network devices, seccomp agents, and what `features` announces.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome, skip};
use crate::harness::{Bundle, Ctx, Ran};
use crate::{cgroups, ensure, ensure_eq, sys};

pub const CASES: &[Case] = &[
    Case::new(
        "mount_option_names",
        "config.md, Linux mount options: every option that runtimes MUST implement is one",
        option_names,
    ),
    Case::new(
        "mount_destination_relative",
        "config.md, mounts: a relative destination MUST be interpreted as relative to /",
        relative_destination,
    ),
    Case::new(
        "invalid_values",
        "config.md, valid values: runtimes MUST generate an error when invalid values are encountered",
        invalid_values,
    ),
    Case::new(
        "console_size_without_terminal",
        "config.md, process: consoleSize MUST be ignored if terminal is false or unset",
        console_size,
    ),
    Case::new(
        "capabilities_warned_of",
        "config.md, capabilities: what cannot be granted MUST be logged as a warning, which changes nothing else",
        capabilities_warned_of,
    ),
    Case::new(
        "operations_without_id",
        "runtime.md, operations: MUST generate an error if not provided the container ID",
        operations_without_id,
    ),
    Case::new(
        "delete_keeps_what_it_did_not_make",
        "runtime.md, delete: resources that were not created by this container MUST NOT be deleted",
        delete_keeps,
    ),
    Case::new(
        "device_of_every_type",
        "config-linux.md, devices: c, u, b and p, of which p needs no numbers",
        devices,
    ),
    Case::new(
        "idmapped_mount",
        "config.md, mount options: uidMappings and gidMappings of an idmap mount MUST be used for it",
        idmapped,
    ),
    Case::new(
        "net_device",
        "config-linux.md, network devices: moved, with its addresses, set up, not moved back",
        net_device,
    ),
    Case::new(
        "net_device_name_taken",
        "config-linux.md, network devices: a name that exists MUST generate an error, a template not",
        net_device_name,
    ),
    Case::new(
        "unified_keys",
        "config-linux.md, unified: unknown keys are written, keys of an absent controller MUST be an error",
        unified,
    ),
    Case::new(
        "check_before_update",
        "config-linux.md, memory: a limit below the usage MUST be rejected with checkBeforeUpdate",
        check_before_update,
    ),
    Case::new(
        "intel_rdt_without_resctrl",
        "config-linux.md, intelRdt: without a mounted resctrl the runtime MUST generate an error",
        intel_rdt,
    ),
    Case::new(
        "seccomp_agent",
        "config-linux.md, seccomp: one container process state per connection, the descriptor beside it",
        agent,
    ),
    Case::new(
        "seccomp_agent_missing",
        "config-linux.md, seccomp: if sending to listenerPath fails, the runtime MUST generate an error",
        agent_missing,
    ),
    Case::new(
        "features_hold",
        "features.md: what features announces MUST be accepted in config.json",
        features_hold,
    ),
];

/// config.md, Linux mount options: the names marked MUST, those of file systems and those of bind mounts.
const FILESYSTEM_OPTIONS: [&str; 28] = [
    "async",
    "atime",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "relatime",
    "ro",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "shared",
    "slave",
];
const BIND_OPTIONS: [&str; 8] =
    ["private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable"];

fn option_names(ctx: &Ctx) -> Outcome {
    let source = ctx.path("source");
    fs::create_dir(&source)?;
    let source = source.display().to_string();
    let mut bundle = ctx.bundle()?;
    for option in FILESYSTEM_OPTIONS {
        bundle.mount(&format!("/fs/{option}"), "tmpfs", "tmpfs", &[option]);
    }
    for option in BIND_OPTIONS {
        bundle.mount(&format!("/bind/{option}"), "bind", &source, &["bind", option]);
    }
    bundle.mount("/bind/rbind", "bind", &source, &["rbind"]);
    bundle.mount("/fs/ro", "tmpfs", "tmpfs", &["remount", "rw"]);
    bundle.actions(&json!([["list", "/fs"], ["list", "/bind"], ["report"]]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found[0]["ok"].as_array().map(Vec::len), Some(FILESYSTEM_OPTIONS.len()), "mounts");
    ensure_eq!(found[1]["ok"].as_array().map(Vec::len), Some(BIND_OPTIONS.len() + 1), "bind mounts");
    Ok(())
}

fn relative_destination(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("relative/place", "tmpfs", "tmpfs", &["mode=0711"]);
    bundle.set("/process/cwd", json!("/proc")).actions(&json!([["describe", "/relative/place"]]));
    ensure_eq!(bundle.run_json(ctx)?[0]["ok"]["mode"], json!("0711"), "mode of the mount");
    Ok(())
}

/// What each row breaks, the JSON pointer, the value.
fn invalid_rows() -> Vec<(&'static str, &'static str, Value)> {
    let profile = |more: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            profile[key] = value.clone();
        }
        profile
    };
    let rule = |more: Value| profile(json!({ "syscalls": [more] }));
    vec![
        ("ociVersion is SemVer", "/ociVersion", json!("one")),
        ("ociVersion is of this major version", "/ociVersion", json!("2.0.0")),
        ("a namespace path is absolute", "/linux/namespaces/1", json!({"type": "network", "path": "ns/net"})),
        ("masked paths are absolute", "/linux/maskedPaths/0", json!("proc/acpi")),
        ("read-only paths are absolute", "/linux/readonlyPaths/0", json!("proc/bus")),
        ("annotation keys are not empty", "/annotations", json!({"": "value"})),
        ("annotation values are strings", "/annotations", json!({"key": 1})),
        ("annotations are a map", "/annotations", json!(["key"])),
        ("uidMappings come with gidMappings", "/mounts/7", idmap_entry(&["bind", "idmap"], true, false)),
        ("gidMappings come with uidMappings", "/mounts/7", idmap_entry(&["bind", "idmap"], false, true)),
        ("idmap needs a mapping", "/mounts/7", idmap_entry(&["bind", "idmap"], false, false)),
        ("ridmap needs a mapping", "/mounts/7", idmap_entry(&["rbind", "ridmap"], false, false)),
        (
            "burst is no larger than quota",
            "/linux/resources/cpu",
            json!({"quota": 1000, "period": 100_000, "burst": 2000}),
        ),
        (
            "a weight device has a weight",
            "/linux/resources/blockIO",
            json!({"weightDevice": [{"major": 8, "minor": 0}]}),
        ),
        ("an rdma device has a limit", "/linux/resources/rdma", json!({"mlx5_1": {}})),
        ("a rule has a name", "/linux/seccomp", rule(json!({"names": [], "action": "SCMP_ACT_ERRNO"}))),
        (
            "errnoRet goes with an action that takes one",
            "/linux/seccomp",
            rule(json!({"names": ["getpgid"], "action": "SCMP_ACT_KILL", "errnoRet": 5})),
        ),
        (
            "defaultErrnoRet goes with an action that takes one",
            "/linux/seccomp",
            profile(json!({"defaultErrnoRet": 5})),
        ),
        (
            "listenerMetadata goes with listenerPath",
            "/linux/seccomp",
            profile(json!({"listenerMetadata": "x"})),
        ),
        ("the personality's domain is known", "/linux/personality", json!({"domain": "SOLARIS"})),
        (
            "an I/O priority is 0 to 7",
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
        ),
        ("a scheduling policy is known", "/process/scheduler", json!({"policy": "SCHED_NONE"})),
        ("memBwSchema starts with MB:", "/linux/intelRdt", json!({"memBwSchema": "L3:0=f"})),
        ("a memory policy is known", "/linux/memoryPolicy", json!({"mode": "MPOL_NONE"})),
    ]
}

fn idmap_entry(options: &[&str], uids: bool, gids: bool) -> Value {
    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mut mount = json!({"destination": "/mapped", "type": "bind", "source": "/tmp", "options": options});
    if uids {
        mount["uidMappings"] = mapping.clone();
    }
    if gids {
        mount["gidMappings"] = mapping;
    }
    mount
}

fn invalid_values(ctx: &Ctx) -> Outcome {
    for (what, pointer, value) in invalid_rows() {
        let mut bundle = ctx.bundle()?;
        bundle.set(pointer, value);
        let ran = bundle.create_call(ctx, &[])?.run()?;
        ran.exits(1).and_then(Ran::fails_in_one_line).during(what)?;
        ctx.call(["state", &bundle.id]).run()?.fails().during(what)?;
    }
    Ok(())
}

fn console_size(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/consoleSize", json!({"width": 123, "height": 45}));
    ensure_eq!(bundle.run_json(ctx)?["stdinIsTerminal"], json!(false), "a terminal");
    bundle.remove("/process/terminal");
    ensure_eq!(bundle.run_json(ctx)?["stdinIsTerminal"], json!(false), "a terminal");
    Ok(())
}

fn capabilities_warned_of(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    // Version 1.0 wants an error for them.
    bundle.set("/ociVersion", json!("1.2.0")).privileged_by(&["CAP_KILL", "CAP_NO_SUCH_THING"]);
    bundle.write()?;
    let log = ctx.path("log");
    let ran = ctx.call(["--log"]).arg(&log).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    ran.run()?.ok()?.json()?;
    let text = fs::read_to_string(&log)?;
    let line = text.lines().find(|line| line.contains("CAP_NO_SUCH_THING")).unwrap_or_default();
    ensure!(line.contains("level=warning"), "no warning names the capability: {text:?}");
    Ok(())
}

fn operations_without_id(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    bundle.write()?;
    for operation in ["state", "create", "start", "kill", "delete"] {
        ctx.call([operation]).cwd(&bundle.dir).run()?.fails().during(operation)?;
    }
    Ok(())
}

fn delete_keeps(ctx: &Ctx) -> Outcome {
    let mut holder = ctx.bundle()?;
    holder.probe(["sleep"]);
    let holder = holder.start(ctx)?;
    holder.wait_output("ready")?;
    let mut bundle = ctx.bundle()?;
    let volume = ctx.path("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "kept")?;
    let space = json!({"type": "network", "path": format!("/proc/{}/ns/net", holder.pid()?)});
    bundle.without_namespace("network").push("/linux/namespaces", space);
    bundle.mount("/volume", "bind", &volume.display().to_string(), &["bind"]).probe(["true"]);
    let container = bundle.start(ctx)?;
    container.wait_for("stopped")?;
    container.delete()?.ok()?;
    ensure_eq!(fs::read_to_string(volume.join("file"))?, "kept", "a file of a volume");
    ensure!(bundle.rootfs().join("probe").exists() && bundle.dir.join("config.json").exists(), "the bundle");
    ensure_eq!(holder.status()?, "running", "status of the container whose namespace was joined");
    let found = holder.exec_actions(&json!([["list", "/sys/class/net"]]))?;
    ensure_eq!(found[0], json!({"ok": ["lo"]}), "network devices of the joined namespace");
    Ok(())
}

fn devices(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set(
        "/linux/devices",
        json!([
            {"path": "/dev/one", "type": "c", "major": 1, "minor": 5},
            {"path": "/dev/two", "type": "u", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/three", "type": "b", "major": 7, "minor": 200},
            {"path": "/dev/four", "type": "p"}
        ]),
    );
    let paths = ["/dev/one", "/dev/two", "/dev/three", "/dev/four"];
    bundle.actions(&paths.iter().map(|path| json!(["describe", path])).collect());
    let found = bundle.run_json(ctx)?;
    for (index, kind) in ["character device", "character device", "block device", "fifo"].iter().enumerate() {
        ensure_eq!(found[index]["ok"]["type"], json!(kind), "type of {}", paths[index]);
    }
    ensure_eq!(found[1]["ok"]["mode"], json!("0640"), "mode of {}", paths[1]);
    Ok(())
}

fn idmapped(ctx: &Ctx) -> Outcome {
    let source = ctx.path("source");
    fs::create_dir_all(source.join("below"))?;
    fs::write(source.join("file"), "")?;
    nix::unistd::chown(&source.join("file"), Some(1234.into()), Some(4321.into()))?;
    for option in ["idmap", "ridmap"] {
        let mut bundle = ctx.bundle()?;
        bundle.push(
            "/mounts",
            json!({
                "destination": "/mapped", "type": "bind", "source": source, "options": ["rbind", option],
                "uidMappings": [{"containerID": 1234, "hostID": 55, "size": 1}],
                "gidMappings": [{"containerID": 4321, "hostID": 66, "size": 1}]
            }),
        );
        bundle.actions(&json!([["describe", "/mapped/file"]]));
        let found = bundle.run_json(ctx)?;
        ensure_eq!(found[0]["ok"]["uid"], json!(55), "owner through {option}");
        ensure_eq!(found[0]["ok"]["gid"], json!(66), "group through {option}");
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Outcome {
    let made = Command::new("ip").args(arguments).output().during("ip")?;
    if !made.status.success() {
        return skip(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&made.stderr)));
    }
    Ok(())
}

/// One end of a pair of devices of the host, removed with this value.
struct Device(String);

impl Device {
    fn new(ctx: &Ctx) -> Outcome<Self> {
        let tail = ctx.id();
        let number: String = tail.chars().filter(char::is_ascii_digit).collect();
        let name = format!("st{}", &number[number.len().saturating_sub(10)..]);
        ip(&["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}p")])?;
        Ok(Self(name))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

fn net_device(ctx: &Ctx) -> Outcome {
    let device = Device::new(ctx)?;
    ip(&["addr", "add", "10.99.1.2/24", "dev", &device.0])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/netDevices", json!({ &device.0: {"name": "inside"} }));
    bundle.actions(&json!([
        ["list", "/sys/class/net"],
        ["read", "/sys/class/net/inside/flags"],
        ["read", "/proc/net/fib_trie"]
    ]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found[0], json!({"ok": ["inside", "lo"]}), "network devices");
    let flags = found[1]["ok"].as_str().unwrap_or_default().trim().trim_start_matches("0x").to_owned();
    let flags = u32::from_str_radix(&flags, 16).during(format!("flags {}", found[1]))?;
    ensure!(flags & libc::IFF_UP.unsigned_abs() != 0, "the device is not up: {flags:#x}");
    ensure!(found[2]["ok"].as_str().unwrap_or_default().contains("10.99.1.2"), "its address is gone");
    // "During the network namespace deletion" it ends with it: nobody moves it back.
    ensure!(
        !std::path::Path::new("/sys/class/net").join(&device.0).exists(),
        "the device is back on the host"
    );
    Ok(())
}

fn net_device_name(ctx: &Ctx) -> Outcome {
    let device = Device::new(ctx)?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/netDevices", json!({ &device.0: {"name": "lo"} }));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    ensure!(std::path::Path::new("/sys/class/net").join(&device.0).exists(), "the device has gone");
    bundle.set("/linux/netDevices", json!({ &device.0: {"name": "net%d"} }));
    bundle.actions(&json!([["list", "/sys/class/net"]]));
    ensure_eq!(bundle.run_json(ctx)?[0], json!({"ok": ["lo", "net0"]}), "network devices");
    Ok(())
}

fn unified(ctx: &Ctx) -> Outcome {
    let unified = cgroups::hierarchies()?.into_iter().find(|hierarchy| hierarchy.version == 2);
    let Some(unified) = unified else { return skip("no cgroup v2 hierarchy here") };
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/unified", json!({"nosuch.max": "1"}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    // A file of the core, which no property of the specification stands for.
    bundle.set("/linux/resources/unified", json!({"cgroup.max.depth": "3"})).probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let path = cgroups::directory(&unified, &container.id).join("cgroup.max.depth");
    let depth = fs::read_to_string(path)?;
    ensure_eq!(depth.trim(), "3", "cgroup.max.depth");
    Ok(())
}

fn check_before_update(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/memory", json!({"limit": 256 << 20}));
    bundle.actions(&json!([["hold", (32 << 20).to_string()], ["say", "ready"], ["sleep", "86400000"]]));
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    let document = json!({"memory": {"limit": 4 << 20, "checkBeforeUpdate": true}}).to_string();
    let update = ctx.call(["update", "--resources", "-", &container.id]).stdin(&document)?;
    update.run()?.exits(1)?.fails_in_one_line()?;
    let limit = cgroups::read(&container.id, "memory", "memory.limit_in_bytes", "memory.max")?;
    ensure_eq!(limit, (256 << 20).to_string(), "limit");
    ensure_eq!(container.status()?, "running", "status");
    Ok(())
}

fn intel_rdt(ctx: &Ctx) -> Outcome {
    if fs::read_to_string("/proc/self/mountinfo")?.contains(" - resctrl ") {
        return skip("resctrl is mounted here");
    }
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/intelRdt", json!({"closID": "class"}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("resctrl")?;
    Ok(())
}

fn watched(ctx: &Ctx, listener: &str) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    let rule = json!({"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"});
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule],
            "listenerPath": listener, "listenerMetadata": "opaque {\"data\"}"
        }),
    );
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn agent(ctx: &Ctx) -> Outcome {
    let path = ctx.path("agent");
    let listener = UnixListener::bind(&path)?;
    let bundle = watched(ctx, &path.display().to_string())?;
    let container = bundle.start(ctx)?;
    let (mut connection, _) = listener.accept()?;
    let (mut text, descriptor) = sys::receive_fd(connection.as_fd())?;
    connection.read_to_end(&mut text).during("the connection is closed after one state")?;
    let state: Value = serde_json::from_slice(&text).during("the container process state")?;
    ensure_eq!(state["fds"], json!(["seccompFd"]), "names of the descriptors");
    ensure_eq!(state["metadata"], json!("opaque {\"data\"}"), "metadata");
    ensure_eq!(state["pid"], json!(container.pid()?.as_raw()), "pid");
    ensure!(state["ociVersion"].is_string(), "ociVersion is {}", state["ociVersion"]);
    ensure_eq!(state["state"]["id"], json!(container.id), "id in the state");
    ensure_eq!(state["state"]["bundle"], json!(container.dir), "bundle in the state");
    let target = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor)))?;
    ensure!(target.to_string_lossy().contains("seccomp notify"), "the descriptor is {}", target.display());
    Ok(())
}

fn agent_missing(ctx: &Ctx) -> Outcome {
    let path = ctx.path("nobody");
    watched(ctx, &path.display().to_string())?.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn features_hold(ctx: &Ctx) -> Outcome {
    let found = ctx.bare_call(["features"]).run()?.ok()?.json()?;
    let list = |pointer: &str| {
        let names = found.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        names.into_iter().filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    known_properties(&found)?;
    let (min, max) = (&found["ociVersionMin"], &found["ociVersionMax"]);
    ensure!(version(min) <= version(max), "ociVersionMin {min} is more than ociVersionMax {max}");
    let create = |what: &str, change: &dyn Fn(&mut Bundle)| -> Outcome {
        let mut bundle = ctx.bundle()?;
        change(&mut bundle);
        let created = bundle.create_call(ctx, &[])?.run()?;
        created.ok().during(what)?;
        ctx.call(["delete", "--force", &bundle.id]).run()?.ok().map(drop)
    };
    let set = |bundle: &mut Bundle, pointer: &str, value: Value| {
        bundle.set(pointer, value);
    };
    for value in [min, max] {
        create(&value.to_string(), &|bundle| set(bundle, "/ociVersion", value.clone()))?;
    }
    for hook in list("/hooks") {
        let entry = json!([{"path": ctx.probe, "args": ["probe", "true"]}]);
        create(&hook, &|bundle| set(bundle, &format!("/hooks/{hook}"), entry.clone()))?;
    }
    create("capabilities", &|bundle| {
        let names = list("/linux/capabilities");
        bundle.set("/process/capabilities/bounding", json!(names));
    })?;
    create("namespaces", &|bundle| {
        let kinds = list("/linux/namespaces").into_iter().filter(|kind| kind != "user");
        bundle.set("/linux/namespaces", kinds.map(|kind| json!({ "type": kind })).collect());
    })?;
    let source = ctx.path("source");
    fs::create_dir(&source)?;
    create("mount options", &|bundle| all_mount_options(bundle, &source, &list("/mountOptions")))?;
    seccomp_features(&create, &list)
}

/// Every option of the list on a mount of its own, with what it needs beside it. `source` is a directory in which nothing is
/// mounted: a recursive mapping of ids asks it of every file system below, and some have none (9p, overlay).
fn all_mount_options(bundle: &mut Bundle, source: &Path, names: &[String]) {
    for name in names {
        let target = format!("/options/{name}");
        match name.as_str() {
            "bind" | "rbind" => bundle.mount(&target, "bind", &source.to_string_lossy(), &[name]),
            // It changes the mount that is there already.
            "remount" => {
                bundle.mount(&target, "tmpfs", "tmpfs", &[]).mount(&target, "tmpfs", "tmpfs", &["remount"])
            }
            "idmap" | "ridmap" => bundle.push(
                "/mounts",
                json!({
                    "destination": target, "type": "bind", "source": source, "options": ["rbind", name],
                    "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                    "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]
                }),
            ),
            _ => bundle.mount(&target, "tmpfs", "tmpfs", &[name]),
        };
    }
}

/// What a case does to a bundle before it is created.
type Change<'a> = &'a dyn Fn(&mut Bundle);

fn seccomp_features(
    create: &dyn Fn(&str, Change<'_>) -> Outcome,
    list: &dyn Fn(&str) -> Vec<String>,
) -> Outcome {
    let profile = |bundle: &mut Bundle, rule: Value, more: (&str, Value)| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        profile[more.0] = more.1;
        bundle.set("/linux/seccomp", profile);
    };
    let rule = |action: &str| json!({"names": ["getpgid"], "action": action});
    for action in list("/linux/seccomp/actions").into_iter().filter(|action| action != "SCMP_ACT_NOTIFY") {
        create(&action, &|bundle| profile(bundle, rule(&action), ("flags", json!([]))))?;
    }
    for op in list("/linux/seccomp/operators") {
        let mut rule = rule("SCMP_ACT_ERRNO");
        rule["args"] = json!([{"index": 0, "value": 1, "valueTwo": 1, "op": op}]);
        create(&op, &|bundle| profile(bundle, rule.clone(), ("flags", json!([]))))?;
    }
    let archs = json!(list("/linux/seccomp/archs"));
    create("archs", &|bundle| profile(bundle, rule("SCMP_ACT_ERRNO"), ("architectures", archs.clone())))?;
    let plain: Vec<String> = list("/linux/seccomp/supportedFlags")
        .into_iter()
        // seccomp(2): only with a listener.
        .filter(|flag| flag != "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
        .collect();
    create("flags", &|bundle| profile(bundle, rule("SCMP_ACT_ERRNO"), ("flags", json!(plain))))
}

/// The numbers of a version, for comparison.
fn version(text: &Value) -> Vec<u32> {
    let core = text.as_str().unwrap_or_default().split(['-', '+']).next().unwrap_or_default();
    core.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// features.md: no properties but those of the specification.
fn known_properties(found: &Value) -> Outcome {
    let known: &[(&str, &[&str])] = &[
        (
            "",
            &[
                "ociVersionMin",
                "ociVersionMax",
                "hooks",
                "mountOptions",
                "linux",
                "annotations",
                "potentiallyUnsafeConfigAnnotations",
            ],
        ),
        (
            "/linux",
            &[
                "namespaces",
                "capabilities",
                "cgroup",
                "seccomp",
                "apparmor",
                "selinux",
                "intelRdt",
                "memoryPolicy",
                "mountExtensions",
                "netDevices",
            ],
        ),
        ("/linux/cgroup", &["v1", "v2", "systemd", "systemdUser", "rdma"]),
        ("/linux/seccomp", &["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"]),
        ("/linux/intelRdt", &["enabled", "schemata", "monitoring"]),
        ("/linux/mountExtensions", &["idmap"]),
        ("/linux/memoryPolicy", &["modes", "flags"]),
    ];
    for (pointer, names) in known {
        for (key, value) in found.pointer(pointer).and_then(Value::as_object).into_iter().flatten() {
            ensure!(names.contains(&key.as_str()), "{pointer}/{key} is no property of the specification");
            ensure!(!value.is_null() || *pointer != "/linux/seccomp", "{pointer}/{key} is null");
        }
    }
    let annotations = found["annotations"].as_object().into_iter().flatten();
    for (key, value) in annotations {
        ensure!(!key.is_empty() && value.is_string(), "annotation {key:?} is {value}");
    }
    Ok(())
}
