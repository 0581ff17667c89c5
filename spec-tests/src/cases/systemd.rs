//! `--systemd-cgroup`: a container is a scope of systemd's (runc's docs/systemd.md), and stays what it is whatever an
//! administrator does with systemd. On a run without that option these are skipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome, skip};
use crate::harness::{Bundle, Container, Ctx};
use crate::{cgroups, ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "systemd_scope",
        "peers.md A2, cgroupsPath slice:prefix:name: a scope in a slice that need not exist, gone after delete",
        scope,
    ),
    Case::new(
        "systemd_default_scope",
        "peers.md A2, cgroupsPath: without it a scope of its own",
        default_scope,
    ),
    Case::new(
        "systemd_path_refused",
        "peers.md A2, cgroupsPath: another form is an error that names it",
        path_refused,
    ),
    Case::new(
        "systemd_reload_changes_nothing",
        "peers.md B 41: daemon-reload and set-property of something else change no limit",
        reload_changes_nothing,
    )
    .alone(),
    Case::new(
        "systemd_reload_keeps_devices",
        "peers.md B 38: daemon-reload and set-property change no right to a device",
        reload_keeps_devices,
    )
    .alone(),
    Case::new(
        "systemd_update_stays",
        "peers.md B 41: what update sets outlives daemon-reload, and the unit shows it",
        update_stays,
    )
    .alone(),
    Case::new(
        "systemd_update_is_last",
        "peers.md B 41: what update sets is in the files, though systemd writes them too when it is told",
        update_is_last,
    ),
    Case::new("systemd_annotations", "peers.md A1.2: org.systemd.property.* are properties", annotations),
    Case::new(
        "systemd_unit_exists",
        "peers.md B 39: a unit that runs is an error and left alone, one that has failed is in nobody's way",
        unit_exists,
    ),
    Case::new(
        "systemd_leftover_refused",
        "security.md F15: a cgroup where the scope is to be, with processes of others or frozen, is an error at once",
        leftover_refused,
    ),
    Case::new("systemd_stop", "systemctl stop ends the container, whose delete is none the worse", stopped),
];

/// `systemctl` with arguments; its output.
fn systemctl(ctx: &Ctx, arguments: &[&str]) -> Outcome<String> {
    if !ctx.systemd {
        return skip("not a run with --systemd-cgroup");
    }
    Ok(ctx.program(Path::new("/usr/bin/systemctl")).args(arguments).run()?.ok()?.stdout())
}

fn property(ctx: &Ctx, unit: &str, name: &str) -> Outcome<String> {
    Ok(systemctl(ctx, &["show", "--value", "-p", name, unit])?.trim().to_owned())
}

/// A change of the unit and a reload, as an administrator makes them; asked again until systemd has carried it out.
fn disturb(ctx: &Ctx, unit: &str) -> Outcome {
    systemctl(ctx, &["daemon-reload"])?;
    systemctl(ctx, &["set-property", "--runtime", unit, "Description=disturbed", "CPUWeight=123"])?;
    systemctl(ctx, &["daemon-reload"])?;
    // What systemd has queued it does before it answers the next call.
    ensure_eq!(property(ctx, unit, "CPUWeight")?, "123", "CPUWeight");
    systemctl(ctx, &["set-property", "--runtime", unit, "CPUWeight=124"])?;
    property(ctx, unit, "CPUWeight").map(drop)
}

fn unit_of(bundle: &Bundle) -> String {
    format!("{}-{}.scope", cgroups::SCOPE_PREFIX, bundle.id)
}

fn sleeper(ctx: &Ctx) -> Outcome<Bundle> {
    // Skips.
    systemctl(ctx, &["--version"])?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn scope(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    // One more part each, of which none is there yet. A `-` would be one more.
    let name = bundle.id.replace('-', "_");
    let slice = format!("{name}-inner.slice");
    bundle.set("/linux/cgroupsPath", json!(format!("{slice}:pre:{}", bundle.id)));
    let unit = format!("pre-{}.scope", bundle.id);
    let container = bundle.start(ctx)?;
    let expected = format!("/{name}.slice/{slice}/{unit}");
    for path in cgroups::paths(&container.exec_report(&[])?)? {
        ensure_eq!(path, expected, "cgroup of an exec process");
    }
    for (name, value) in
        [("Slice", &*slice), ("Delegate", "yes"), ("ActiveState", "active"), ("Transient", "yes")]
    {
        ensure_eq!(property(ctx, &unit, name)?, value, "property {name}");
    }
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")?;
    container.delete()?.ok()?;
    ensure_eq!(property(ctx, &unit, "LoadState")?, "not-found", "the unit after delete");
    let left = cgroups::containing(&unit)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    // Its slices stay, for others may be in them; this case made them.
    systemctl(ctx, &["stop", &format!("{name}.slice")]).map(drop)
}

fn default_scope(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.remove("/linux/cgroupsPath");
    let container = bundle.start(ctx)?;
    for path in cgroups::paths(&container.exec_report(&[])?)? {
        ensure!(path.starts_with("/system.slice/") && path.contains(&bundle.id), "cgroup {path}");
    }
    Ok(())
}

fn path_refused(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    for path in ["/x", "a:b", "x--y.slice:p:n", "x:p:n", "a.slice:p:n.slice", "a.slice:p:n/m"] {
        bundle.set("/linux/cgroupsPath", json!(path));
        let ran = bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line().during(path)?;
        ran.says("cgroupsPath")?;
    }
    Ok(())
}

/// Every file of the container's cgroup with a limit in it.
fn limits(id: &str) -> Outcome<BTreeMap<PathBuf, String>> {
    const COUNTERS: [&str; 11] = [
        ".stat",
        ".stat.local",
        ".current",
        ".peak",
        ".pressure",
        ".events",
        ".events.local",
        ".procs",
        ".threads",
        ".numa_stat",
        ".weight",
    ];
    let mut found = BTreeMap::new();
    for hierarchy in cgroups::hierarchies()? {
        for entry in fs::read_dir(cgroups::directory(&hierarchy, id)).during("read the cgroup")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // What the kernel counts, and cpu.weight, which this case changes.
            let counts = COUNTERS.iter().any(|end| name.ends_with(end)) && name != "io.weight";
            let is_limit = path.is_file() && !counts && !name.contains("usage") && name != "cpu.weight.nice";
            if let (true, Ok(text)) = (is_limit, fs::read_to_string(&path)) {
                found.insert(path, text);
            }
        }
    }
    Ok(found)
}

fn many_limits() -> Value {
    json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 12_345, "period": 50_000, "cpus": "0", "mems": "0", "burst": 1000},
        "pids": {"limit": 77}
    })
}

fn has_limits(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = sleeper(ctx)?;
    cgroups::need(&["memory", "cpu", "cpuset", "pids"])?;
    bundle.set("/linux/resources", many_limits());
    if cgroups::with_controller("memory")?.version == 2 {
        bundle.set(
            "/linux/resources/unified",
            json!({"memory.high": "60817408", "memory.oom.group": "1", "cgroup.max.depth": "7", "memory.swap.high": "8388608"}),
        );
    }
    if cgroups::find("blkio")?.is_none() {
        // v1's file is there only with the scheduler that it is for.
        bundle.set("/linux/resources/blockIO", json!({"weight": 300}));
    }
    Ok(bundle)
}

fn reload_changes_nothing(ctx: &Ctx) -> Outcome {
    let bundle = has_limits(ctx)?;
    let _container = bundle.start(ctx)?;
    let before = limits(&bundle.id)?;
    ensure!(before.len() > 10, "files {before:?}");
    let text = |name: &str| {
        let file = before.iter().find(|(path, _)| path.ends_with(name));
        file.map(|(_, text)| text.trim().to_owned()).unwrap_or_default()
    };
    if cgroups::with_controller("cpu")?.version == 2 {
        ensure_eq!(text("cpu.max"), "12500 50000", "a quota is raised to a whole percent");
    }
    if cgroups::with_controller("memory")?.version == 2 {
        ensure_eq!(text("memory.oom.group"), "1", "memory.oom.group");
        ensure_eq!(text("memory.high"), "60817408", "memory.high");
    }
    disturb(ctx, &unit_of(&bundle))?;
    let after = limits(&bundle.id)?;
    for (path, text) in &before {
        ensure_eq!(after.get(path).map(|text| text.trim()), Some(text.trim()), "{}", path.display());
    }
    Ok(())
}

fn opens(container: &Container<'_>) -> Outcome<Value> {
    container.exec_actions(&json!([
        ["open", "/dev/null", "rw"],
        ["open", "/dev/fuse", "r"],
        ["open", "/dev/fuse", "rw"],
        ["open", "/made", "r"]
    ]))
}

fn reload_keeps_devices(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.privileged_by(&["CAP_MKNOD"]).set("/root/readonly", json!(false));
    // FUSE's device (10:229) may be read; /dev/kmsg (1:11) may not, whatever it is called.
    bundle.push("/linux/devices", json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}));
    bundle.set(
        "/linux/resources/devices",
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}
        ]),
    );
    let container = bundle.start(ctx)?;
    container.exec_actions(&json!([["mknod", "/made", "c", "1", "11"]]))?;
    let before = opens(&container)?;
    let (done, refused) = (json!({"ok": null}), json!({"errno": "EPERM"}));
    ensure_eq!(before, json!([done, done, refused, refused]), "before");
    disturb(ctx, &unit_of(&bundle))?;
    ensure_eq!(opens(&container)?, before, "after daemon-reload and set-property");
    // An administrator who allows a device by systemd does not widen what the configuration allows (row D8).
    systemctl(ctx, &["set-property", "--runtime", &unit_of(&bundle), "DeviceAllow=/dev/kmsg rw"])?;
    property(ctx, &unit_of(&bundle), "DeviceAllow")?;
    if cgroups::find("devices")?.is_none() {
        ensure_eq!(opens(&container)?, before, "after set-property DeviceAllow");
    }
    Ok(())
}

fn update_stays(ctx: &Ctx) -> Outcome {
    let bundle = has_limits(ctx)?;
    let _container = bundle.start(ctx)?;
    let mut resources = json!({
        "memory": {"limit": 50_331_648, "swap": 58_720_256, "reservation": 1_048_576},
        "cpu": {"quota": 33_333, "period": 100_000, "cpus": "0-1"},
        "pids": {"limit": 55}
    });
    if cgroups::find("blkio")?.is_none() {
        resources["blockIO"] = json!({"weight": 500});
    }
    ctx.call(["update", "--resources", "-", &bundle.id]).stdin(&resources.to_string())?.run()?.ok()?;
    let unit = unit_of(&bundle);
    let shown = |name: &str| property(ctx, &unit, name);
    ensure_eq!(shown("TasksMax")?, "55", "TasksMax");
    ensure_eq!(shown("CPUQuotaPerSecUSec")?, "340ms", "CPUQuotaPerSecUSec");
    if cgroups::with_controller("memory")?.version == 2 {
        ensure_eq!(shown("MemoryMax")?, "50331648", "MemoryMax");
        ensure_eq!(shown("MemorySwapMax")?, "8388608", "MemorySwapMax");
    }
    if cgroups::with_controller("cpuset")?.version == 2 {
        ensure_eq!(shown("AllowedCPUs")?, "0-1", "AllowedCPUs");
    }
    let before = limits(&bundle.id)?;
    disturb(ctx, &unit)?;
    let after = limits(&bundle.id)?;
    for (path, text) in &before {
        ensure_eq!(after.get(path).map(|text| text.trim()), Some(text.trim()), "{}", path.display());
    }
    let quota = cgroups::read(&bundle.id, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    ensure!(quota.starts_with("34000"), "quota {quota}");
    Ok(())
}

fn update_is_last(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    cgroups::need(&["memory", "cpu"])?;
    bundle.set("/linux/resources", json!({"cpu": {"period": 1_000_000}}));
    let _container = bundle.start(ctx)?;
    let period = || -> Outcome<String> {
        // What systemd has queued it does before it answers the next call.
        property(ctx, &unit_of(&bundle), "CPUQuotaPeriodUSec")?;
        let text = cgroups::read(&bundle.id, "cpu", "cpu.cfs_period_us", "cpu.max")?;
        Ok(text.split(' ').next_back().unwrap_or_default().trim().to_owned())
    };
    let update = |resources: Value| -> Outcome {
        let text = resources.to_string();
        ctx.call(["update", "--resources", "-", &bundle.id]).stdin(&text)?.run()?.ok().map(drop)
    };
    ensure_eq!(period()?, "1000000", "a period without a quota");
    update(json!({"cpu": {"period": 50_000}}))?;
    ensure_eq!(period()?, "50000", "the same, updated");
    if cgroups::with_controller("memory")?.version == 2 {
        update(json!({"memory": {"limit": 64 << 20}, "unified": {"memory.oom.group": "1"}}))?;
        property(ctx, &unit_of(&bundle), "MemoryMax")?;
        ensure_eq!(cgroups::read(&bundle.id, "memory", "", "memory.oom.group")?, "1", "memory.oom.group");
    }
    Ok(())
}

fn annotations(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    let prefix = "org.systemd.property.";
    let values = json!({
        format!("{prefix}TimeoutStopUSec"): "uint64 7000000",
        format!("{prefix}Description"): "'of an annotation'",
        format!("{prefix}CollectMode"): "'inactive'"
    });
    bundle.set("/annotations", values);
    let _container = bundle.start(ctx)?;
    let unit = unit_of(&bundle);
    for (name, value) in
        [("TimeoutStopUSec", "7s"), ("Description", "of an annotation"), ("CollectMode", "inactive")]
    {
        ensure_eq!(property(ctx, &unit, name)?, value, "property {name}");
    }
    for (name, value) in [("TimeoutStopUSec", "'x"), ("N0", "1"), ("NoSuchProperty", "true")] {
        let mut bundle = sleeper(ctx)?;
        bundle.set("/annotations", json!({format!("{prefix}{name}"): value}));
        let ran = bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line();
        ran.during(format!("{name} {value}"))?;
    }
    Ok(())
}

fn unit_exists(ctx: &Ctx) -> Outcome {
    let first = sleeper(ctx)?;
    let container = first.start(ctx)?;
    // A second container that wants the unit of the first one.
    let mut second = sleeper(ctx)?;
    second.set("/linux/cgroupsPath", first.config["linux"]["cgroupsPath"].clone());
    second.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?.says(&unit_of(&first))?;
    ensure_eq!(container.status()?, "running", "the first container");
    // One that has failed stays loaded where nothing collects it.
    let third = sleeper(ctx)?;
    let unit = unit_of(&third);
    let run = Path::new("/usr/bin/systemd-run");
    let options = [
        "--scope",
        "--collect",
        "-p",
        "RuntimeMaxSec=1",
        "-p",
        "CollectMode=inactive",
        "-p",
        "TimeoutStopSec=1",
    ];
    let ran = ctx.program(run).args(options).arg(format!("--unit={unit}")).args(["sleep", "600"]).run()?;
    drop(ran);
    ensure_eq!(property(ctx, &unit, "ActiveState")?, "failed", "what is in the way");
    let container = third.start(ctx)?;
    ensure_eq!(container.status()?, "running", "status");
    Ok(())
}

fn leftover_refused(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    let hierarchy = cgroups::of_processes()?;
    let there = hierarchy.mount.join(format!("system.slice/{}", unit_of(&bundle)));
    let refused = |why: &str| -> Outcome {
        let call = bundle.create_call(ctx, &[])?.limit(Duration::from_secs(30) * ctx.patience);
        call.run()?.exits(1)?.fails_in_one_line()?.says(why).map(drop)
    };
    fs::create_dir(&there).during(there.display())?;
    let mut other = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn()?;
    let in_use = fs::write(there.join("cgroup.procs"), other.id().to_string())
        .during("move a process")
        .and_then(|()| refused("not empty"));
    other.kill()?;
    other.wait()?;
    let frozen = if hierarchy.version == 2 {
        fs::write(there.join("cgroup.freeze"), "1").during("freeze").and_then(|()| refused("frozen"))
    } else {
        Ok(())
    };
    let removed = fs::remove_dir(&there).during(there.display());
    in_use?;
    frozen?;
    removed?;
    // Nothing of the two is in the way.
    bundle.start(ctx).map(drop)
}

fn stopped(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.set("/annotations", json!({"org.systemd.property.TimeoutStopSec": "1"}));
    let container = bundle.start(ctx)?;
    systemctl(ctx, &["stop", &unit_of(&bundle)])?;
    container.wait_for("stopped")?;
    container.delete()?.ok()?;
    Ok(())
}
