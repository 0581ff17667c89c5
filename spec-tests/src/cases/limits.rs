//! config-linux.md, cgroups and resources: the limits are set, and they bite.

use std::time::Duration;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Ctx, Ran, eventually};
use crate::{cgroups, config, ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "cgroups_path",
        "config-linux.md, cgroupsPath: the process is in this cgroup of every hierarchy",
        path,
    ),
    Case::new(
        "cgroups_path_derived",
        "config-linux.md, cgroupsPath: without it a cgroup of its own is made",
        derived,
    ),
    Case::new("cgroups_path_nested", "config-linux.md, cgroupsPath: missing parents are made", nested),
    Case::new("f2_cgroups_path", "security.md F2: a path cannot leave the hierarchy", f2),
    Case::new(
        "memory_limit",
        "config-linux.md, memory: limit: more is an OOM kill, and it can be seen",
        memory,
    )
    .alone(),
    Case::new("memory_values", "config-linux.md, memory: limit, reservation and swap are set", memory_values),
    Case::new("pids_limit", "config-linux.md, pids: no more processes than the limit", pids),
    Case::new("cpu_quota", "config-linux.md, cpu: quota and period throttle", cpu_quota).alone(),
    Case::new("cpu_values", "config-linux.md, cpu: shares, quota, period, cpus and mems are set", cpu_values),
    Case::new("blkio_values", "config-linux.md, blockIO: a throttle is set", blkio),
    Case::new("device_access", "config-linux.md, devices: access is as the rules say", device_access),
    Case::new("d7_device_list", "security.md D7: the list of allowed devices is exactly the rules'", d7),
    Case::new("resources_invalid", "config-linux.md: a value that the kernel refuses is an error", invalid),
    Case::new("update_resources", "peers.md A1.2: update changes limits, by flags and from JSON", update),
    Case::new("d8_update_keeps_devices", "security.md D8: update never widens access to devices", d8),
    Case::new("events_stats", "peers.md A1.3: events --stats prints type, id and data", events),
    Case::new(
        "nested",
        "config-linux.md, cgroups: a container with a cgroup namespace and rights runs a container of its own",
        nested_run,
    ),
    Case::new("f11_tiny_memory_limit", "security.md F11: a limit too small to start leaves nothing", f11),
    Case::new(
        "f15_foreign_process",
        "security.md F15: a process of others in the cgroup is not killed",
        |ctx| f15(ctx, ""),
    ),
    Case::new(
        "f15_foreign_process_below",
        "security.md F15: a process of others in a cgroup below it is not killed",
        |ctx| f15(ctx, "below"),
    ),
];

fn path(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    let bundle = ctx.bundle()?;
    let expected = format!("/{}", bundle.id);
    for path in cgroups::paths(&bundle.run_json(ctx)?)? {
        ensure_eq!(path, expected, "cgroup");
    }
    ensure_eq!(cgroups::containing(&bundle.id)?, Vec::<std::path::PathBuf>::new(), "cgroups after the run");
    Ok(())
}

fn derived(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.remove("/linux/cgroupsPath").probe(["sleep"]);
    let container = bundle.start(ctx)?;
    for path in cgroups::paths(&container.exec_report(&[])?)? {
        ensure!(path.contains(&bundle.id), "{path} has nothing of the id");
    }
    Ok(())
}

fn nested(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    let mut bundle = ctx.bundle()?;
    let path = format!("/{}-parent/child", bundle.id);
    bundle.set("/linux/cgroupsPath", json!(path)).probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let found = cgroups::paths(&container.exec_report(&[])?)?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")?;
    container.delete()?.ok()?;
    let left = cgroups::containing(&path)?;
    // The parent may be shared by others and stays; this case made it.
    for parent in cgroups::containing(&format!("{}-parent", bundle.id))? {
        std::fs::remove_dir(parent)?;
    }
    ensure!(found.iter().all(|own| *own == path), "the cgroups are {found:?}");
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

fn f2(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    for path in ["/../../{}", "../../../{}", "/a/../../{}"] {
        let mut bundle = ctx.bundle()?;
        let path = path.replace("{}", &bundle.id);
        bundle.set("/linux/cgroupsPath", json!(path)).probe(["sleep"]);
        // Refused, or kept below the mount point: one or the other.
        let created = bundle.create_call(ctx, &[])?.run()?;
        if created.status == 0 {
            let groups = cgroups::containing(&bundle.id)?;
            ensure!(!groups.is_empty(), "{path}: no cgroup below a mount point");
        } else {
            created.fails_in_one_line()?;
        }
    }
    Ok(())
}

fn memory(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/memory", json!({"limit": 64 << 20, "swap": 64 << 20}));
    bundle.actions(&json!([["occupy", (32 << 20).to_string()]]));
    ensure_eq!(bundle.run_json(ctx)?, json!([{"ok": null}]), "half of the limit");
    bundle.actions(&json!([["occupy", (128 << 20).to_string()]]));
    let container = bundle.create(ctx)?;
    let pid = container.pid()?;
    container.start()?.ok()?;
    ensure_eq!(container.wait_exit(pid)?, 137, "exit status of twice the limit");
    if ctx.systemd {
        // Nothing is left to look at: systemd removes the cgroup with its last process.
        return Ok(());
    }
    let events = cgroups::read(&bundle.id, "memory", "memory.oom_control", "memory.events")?;
    ensure!(events.lines().any(|line| line == "oom_kill 1"), "no OOM kill is counted: {events:?}");
    Ok(())
}

fn memory_values(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory"])?;
    let mut bundle = ctx.bundle()?;
    bundle
        .set("/linux/resources/memory", json!({"limit": 64 << 20, "reservation": 32 << 20}))
        .probe(["sleep"]);
    let _container = bundle.create(ctx)?;
    let limit = cgroups::read(&bundle.id, "memory", "memory.limit_in_bytes", "memory.max")?;
    ensure_eq!(limit, (64 << 20).to_string(), "limit");
    let soft = cgroups::read(&bundle.id, "memory", "memory.soft_limit_in_bytes", "memory.low")?;
    ensure_eq!(soft, (32 << 20).to_string(), "reservation");
    Ok(())
}

fn pids(ctx: &Ctx) -> Outcome {
    cgroups::need(&["pids"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/pids", json!({"limit": 10})).actions(&json!([["fork", "50"]]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found[0]["ok"], json!({"made": 9, "refusal": "EAGAIN"}), "children");
    Ok(())
}

fn cpu_quota(ctx: &Ctx) -> Outcome {
    cgroups::need(&["cpu"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/cpu", json!({"quota": 20_000, "period": 100_000})).probe(["burn", "600000"]);
    let container = bundle.start(ctx)?;
    // Not the time that it had of a processor, which a busy or an emulated machine gives in large pieces.
    eventually("the process is throttled", Duration::from_secs(30) * ctx.patience, || {
        let stat = cgroups::read(&bundle.id, "cpu", "cpu.stat", "cpu.stat")?;
        let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(throttled.filter(|count| *count != "0").map(drop))
    })?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")
}

fn cpu_values(ctx: &Ctx) -> Outcome {
    cgroups::need(&["cpu", "cpuset"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set(
        "/linux/resources/cpu",
        json!({"shares": 512, "quota": 30_000, "period": 60_000, "cpus": "0", "mems": "0"}),
    );
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    if cgroups::with_controller("cpu")?.version == 1 {
        ensure_eq!(cgroups::read(&bundle.id, "cpu", "cpu.shares", "")?, "512", "shares");
        ensure_eq!(cgroups::read(&bundle.id, "cpu", "cpu.cfs_quota_us", "")?, "30000", "quota");
        ensure_eq!(cgroups::read(&bundle.id, "cpu", "cpu.cfs_period_us", "")?, "60000", "period");
    } else {
        ensure_eq!(cgroups::read(&bundle.id, "cpu", "", "cpu.max")?, "30000 60000", "quota and period");
    }
    ensure_eq!(cgroups::read(&bundle.id, "cpuset", "cpuset.cpus", "cpuset.cpus")?, "0", "cpus");
    ensure_eq!(container.exec_report(&[])?["cpusAllowed"], json!("0"), "processors of an exec process");
    Ok(())
}

fn blkio(ctx: &Ctx) -> Outcome {
    let name = if cgroups::find("blkio")?.is_some() { "blkio" } else { "io" };
    cgroups::need(&[name])?;
    let root = std::fs::metadata("/")?;
    let device = std::os::unix::fs::MetadataExt::dev(&root);
    let (major, minor) = (libc::major(device), libc::minor(device));
    if !std::path::Path::new(&format!("/sys/dev/block/{major}:{minor}/queue")).exists() {
        return crate::failure::skip("the root file system is on no whole block device");
    }
    let mut bundle = ctx.bundle()?;
    let throttle = json!([{"major": major, "minor": minor, "rate": 1_048_576}]);
    bundle.set("/linux/resources/blockIO", json!({"throttleReadBpsDevice": throttle})).probe(["sleep"]);
    let _container = bundle.create(ctx)?;
    let found = cgroups::read(&bundle.id, name, "blkio.throttle.read_bps_device", "io.max")?;
    ensure!(found.contains("1048576"), "throttle {found:?}");
    Ok(())
}

fn device_access(ctx: &Ctx) -> Outcome {
    // FUSE's device (10:229) may be opened by anyone whom the rules let through.
    let open = |rules: Value| -> Outcome<Value> {
        let mut bundle = ctx.bundle()?;
        bundle.privileged_by(&["CAP_MKNOD"]).set("/root/readonly", json!(false));
        bundle.set("/linux/resources/devices", rules);
        bundle.push("/linux/devices", json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}));
        bundle.actions(&json!([
            ["open", "/dev/null", "rw"],
            ["open", "/dev/fuse", "r"],
            ["open", "/dev/fuse", "rw"],
            ["mknod", "/made", "c", "10", "229"],
            ["open", "/made", "rw"]
        ]));
        bundle.run_json(ctx)
    };
    let (done, refused) = (json!({"ok": null}), json!({"errno": "EPERM"}));
    let none = open(json!([{"allow": false, "access": "rwm"}]))?;
    ensure_eq!(none[0], done, "a default device");
    ensure_eq!(none[1], refused, "a device without a rule");
    ensure_eq!(none[4], refused, "a device without a rule, made inside");
    let read = open(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}
    ]))?;
    ensure_eq!(read[1], done, "a device that may be read");
    ensure_eq!(read[2], refused, "a device that may not be written");
    Ok(())
}

fn device_list(id: &str) -> Outcome<Vec<String>> {
    let text = cgroups::read(id, "devices", "devices.list", "")?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn d7(ctx: &Ctx) -> Outcome {
    // What runc allows beside the rules: the default devices, ptys and ptmx, the console, and mknod of anything.
    let mut standard: Vec<String> = [
        "b *:* m",
        "c *:* m",
        "c 10:200 rwm",
        "c 136:* rwm",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
    ]
    .map(str::to_owned)
    .to_vec();
    standard.retain(|rule| !rule.starts_with("c 10:200"));
    for rules in [json!([{"allow": false, "access": "rwm"}]), json!([]), Value::Null] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/linux/resources/devices", rules.clone()).probe(["sleep"]);
        let _container = bundle.create(ctx).during(&rules)?;
        let mut found = device_list(&bundle.id)?;
        found.retain(|rule| !rule.starts_with("c 10:200"));
        ensure_eq!(found, standard, "devices.list with rules {rules}");
    }
    Ok(())
}

fn invalid(ctx: &Ctx) -> Outcome {
    cgroups::need(&["cpu", "cpuset"])?;
    for (pointer, value) in [
        ("/linux/resources/cpu", json!({"cpus": "4000"})),
        ("/linux/resources/cpu", json!({"quota": 1, "period": 1})),
        ("/linux/resources/memory", json!({"limit": "much"})),
    ] {
        let mut bundle = ctx.bundle()?;
        bundle.set(pointer, value.clone());
        bundle.run(ctx)?.exits(1).and_then(Ran::fails_in_one_line).during(format!("{pointer} {value}"))?;
    }
    Ok(())
}

fn update(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory", "pids", "cpu"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/memory", json!({"limit": 64 << 20})).probe(["sleep"]);
    let _container = bundle.start(ctx)?;
    ctx.call(["update", "--memory", "33554432", "--pids-limit", "7", &bundle.id]).run()?.ok()?;
    let limit = || cgroups::read(&bundle.id, "memory", "memory.limit_in_bytes", "memory.max");
    ensure_eq!(limit()?, "33554432", "memory by flag");
    ensure_eq!(cgroups::read(&bundle.id, "pids", "pids.max", "pids.max")?, "7", "pids by flag");
    let resources = json!({"memory": {"limit": 50_331_648}, "cpu": {"shares": 300}});
    ctx.call(["update", "--resources", "-", &bundle.id]).stdin(&resources.to_string())?.run()?.ok()?;
    ensure_eq!(limit()?, "50331648", "memory from JSON");
    ensure_eq!(
        cgroups::read(&bundle.id, "pids", "pids.max", "pids.max")?,
        "7",
        "pids, which the JSON does not name"
    );
    ctx.call(["update", "--resources", "-", &bundle.id]).stdin("{nonsense")?.run()?.exits(1)?.fails()?;
    ctx.call(["update", "--memory", "much", &bundle.id]).run()?.fails()?;
    ctx.call(["update", "--memory", "1", &ctx.id()]).run()?.fails()?.says("does not exist")?;
    Ok(())
}

fn d8(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory"])?;
    let mut bundle = ctx.bundle()?;
    bundle.privileged_by(&["CAP_MKNOD"]).set("/root/readonly", json!(false)).probe(["sleep"]);
    let container = bundle.start(ctx)?;
    // FUSE's device (10:229), which no rule lets through.
    container.exec_actions(&json!([["mknod", "/made", "c", "10", "229"]]))?;
    let access = || -> Outcome<(Value, Option<Vec<String>>)> {
        let list = match cgroups::find("devices")? {
            Some(_) => Some(device_list(&bundle.id)?),
            None => None,
        };
        Ok((container.exec_actions(&json!([["open", "/made", "rw"], ["open", "/dev/null", "rw"]]))?, list))
    };
    let before = access()?;
    ensure_eq!(
        before.0,
        json!([{"errno": "EPERM"}, {"ok": null}]),
        "a device without a rule, and a default one"
    );
    ctx.call(["update", "--memory", "67108864", &bundle.id]).run()?.ok()?;
    ensure_eq!(access()?, before, "access to devices after update --memory");
    let all = json!({"devices": [{"allow": true, "access": "rwm"}]});
    ctx.call(["update", "--resources", "-", &bundle.id]).stdin(&all.to_string())?.run()?;
    ensure_eq!(access()?, before, "access to devices after an update that allows all");
    Ok(())
}

fn events(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory", "pids", "cpu"])?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let ran = ctx.call(["events", "--stats", &container.id]).run()?.ok()?;
    let found = ran.json()?;
    // Who follows the events knows a kill by that word.
    ensure!(!ran.stdout().contains("oom"), "nothing was killed: {found}");
    ensure_eq!(found["type"], json!("stats"), "type");
    ensure_eq!(found["id"], json!(container.id), "id");
    // A thread of a runtime's second stage may be on its way out while the program runs (seen with runc).
    let pids = found["data"]["pids"]["current"].as_u64();
    ensure!(pids.is_some_and(|pids| (1..=2).contains(&pids)), "pids are {}", found["data"]["pids"]);
    ensure!(
        found["data"]["memory"]["usage"]["usage"].as_u64().unwrap_or(0) > 0,
        "memory is {}",
        found["data"]["memory"]
    );
    ensure!(found["data"]["cpu"]["usage"]["total"].as_u64().is_some(), "cpu is {}", found["data"]["cpu"]);
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")?;
    for options in [&["--stats"][..], &[]] {
        let call = ctx.call(["events"]).args(options).arg(&container.id);
        call.run()?.exits(1)?.fails_in_one_line()?.says("is not running")?;
    }
    Ok(())
}

/// The runtime in a container: it is started by itself and gives its container a cgroup below its own.
fn nested_run(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let inner = bundle.rootfs().join("inner");
    std::fs::create_dir_all(inner.join("rootfs"))?;
    crate::harness::place_probe(&ctx.probe, &inner.join("rootfs"))?;
    std::fs::copy(&ctx.runtime, bundle.rootfs().join("runtime"))?;
    let mut config = bundle.config.clone();
    config::set(&mut config, "/linux/cgroupsPath", json!("/inner"));
    config::set(&mut config, "/process/args", json!(["/probe", "report"]));
    std::fs::write(inner.join("config.json"), config.to_string())?;

    let all = [
        "CAP_SYS_ADMIN",
        "CAP_MKNOD",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_ADMIN",
        "CAP_SYS_CHROOT",
        "CAP_SYS_PTRACE",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
        "CAP_NET_BIND_SERVICE",
    ];
    bundle.privileged_by(&all).set("/root/readonly", json!(false));
    bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    bundle.unmount("/sys/fs/cgroup");
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "rw"]);
    bundle
        .set("/process/args", json!(["/runtime", "--root", "/state", "run", "--bundle", "/inner", "inner"]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found["pid"], json!(1), "pid of the inner container");
    // On a hybrid host a cgroup mount shows the hierarchies of v1 only, and of v2 there is nothing to go into.
    let mut paths = cgroups::paths(&found)?;
    paths.retain(|path| path != "/");
    ensure!(
        !paths.is_empty() && paths.iter().all(|path| path.ends_with("/inner")),
        "the inner container's cgroups are {paths:?}"
    );
    Ok(())
}

fn f11(ctx: &Ctx) -> Outcome {
    cgroups::need(&["memory"])?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/resources/memory", json!({"limit": 65_536, "swap": 65_536}));
    // A scope is started around a process that was charged to another cgroup: it is the program that finds no room.
    let call = if ctx.systemd { bundle.run_call(ctx, &[])? } else { bundle.create_call(ctx, &[])? };
    call.limit(Duration::from_secs(15) * ctx.patience).run()?.fails()?;
    let left = crate::leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

/// A process of somebody else in the container's cgroup, or in one below it.
fn f15(ctx: &Ctx, below: &str) -> Outcome {
    ctx.needs_cgroup_paths()?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    let mut planted = Vec::new();
    for hierarchy in cgroups::hierarchies()? {
        let group = hierarchy.mount.join(&bundle.id);
        if hierarchy.version == 2
            || hierarchy.controllers.iter().any(|name| name == "pids" || name == "freezer")
        {
            std::fs::create_dir_all(group.join(below))?;
            planted.push(group);
        }
    }
    let stranger = ctx.program(&ctx.probe).args(["probe", "sleep"]).spawn()?;
    for group in &planted {
        std::fs::write(group.join(below).join("cgroup.procs"), stranger.pid().to_string())?;
    }
    let ran = bundle.run(ctx);
    let _deleted = ctx.call(["delete", "--force", &bundle.id]).run();
    let lives = stranger.lives();
    crate::sys::send_signal(stranger.pid(), libc::SIGKILL)?;
    stranger.wait()?;
    for group in planted {
        let _removed = std::fs::remove_dir(group.join(below)).and_then(|()| std::fs::remove_dir(group));
    }
    ensure!(lives, "a process that was in the cgroup before was killed");
    ran?;
    Ok(())
}
