//! The rules about system calls that the catalogue's path rows rest on (fixture T7).

use serde_json::json;

use super::Case;
use crate::failure::Outcome;
use crate::harness::{Bundle, Ctx};
use crate::recorder::{self, Event, record};
use crate::{ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "t7_no_paths_into_rootfs",
        "security.md T7 (1, 5): after the rootfs is open, no path of the host leads in",
        t7_paths,
    ),
    Case::new(
        "t7_opens_are_confined",
        "security.md T7 (2): opens in the rootfs are by openat2, confined",
        t7_opens,
    ),
    Case::new("t7_cloexec", "security.md T7 (3): every descriptor is made with close-on-exec", t7_cloexec),
    Case::new("t7_proc_writes", "security.md T7 (4): no write to procfs by a path of the host", t7_proc),
    Case::new(
        "c4_dumpable_before_joining",
        "security.md C4: exec is not dumpable before it joins anything",
        c4_order,
    ),
    Case::new(
        "a7_sources_opened_once",
        "security.md A7: a mount's source occurs in one call only",
        a7_sources,
    ),
    Case::new(
        "c16_environment_ignored",
        "security.md C16: no library or locale is opened, whatever the environment",
        c16,
    ),
    Case::new(
        "g1_before_any_access",
        "security.md G1: a bad id is refused before any file is touched",
        g1_first,
    ),
];

/// A bundle that exercises what has to do with paths.
fn bundle(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    let source = bundle.dir.join("volume");
    std::fs::create_dir(&source)?;
    bundle.mount("/data/below", "bind", &source.display().to_string(), &["rbind", "ro"]);
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    bundle.push("/linux/devices", json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}));
    bundle.probe(["sleep"]);
    Ok(bundle)
}

/// What run, exec and delete do; strace goes on as long as the container's processes do, so a run of something short
/// stands for create and start.
fn life(ctx: &Ctx, bundle: &Bundle) -> Outcome<Vec<Event>> {
    let mut events = run_once(ctx, bundle)?;
    let _container = bundle.start(ctx)?;
    for arguments in [&["exec", &bundle.id, "/probe", "true"][..], &["delete", "--force", &bundle.id]] {
        let (ran, more) = record(ctx, arguments, "")?;
        ran.ok()?;
        events.extend(more);
    }
    Ok(events)
}

fn run_once(ctx: &Ctx, bundle: &Bundle) -> Outcome<Vec<Event>> {
    let mut short = bundle.clone();
    short.probe(["true"]).write()?;
    let dir = short.dir.display().to_string();
    let (ran, events) = record(ctx, &["run", "--bundle", &dir, &short.id], "")?;
    ran.ok()?;
    Ok(events)
}

fn none(violations: &[String], what: &str) -> Outcome {
    let shown = violations.iter().take(5).map(|line| line.chars().take(200).collect::<String>());
    ensure!(violations.is_empty(), "{} {what}: {}", violations.len(), shown.collect::<Vec<_>>().join("; "));
    Ok(())
}

/// Rules about what happens in a rootfs hold where none is opened, and say nothing then.
fn opens_its_rootfs(events: &[Event], bundle: &Bundle) -> Outcome {
    let rootfs = bundle.rootfs().display().to_string();
    ensure!(recorder::opening(events, &rootfs).is_some(), "no call opens {rootfs}");
    Ok(())
}

fn t7_paths(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    let events = life(ctx, &bundle)?;
    opens_its_rootfs(&events, &bundle)?;
    none(
        &recorder::paths_into_rootfs(&events, &bundle.rootfs().display().to_string()),
        "calls by a path of the host",
    )
}

fn t7_opens(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    let events = life(ctx, &bundle)?;
    opens_its_rootfs(&events, &bundle)?;
    none(
        &recorder::opens_in_rootfs(&events, &bundle.rootfs().display().to_string()),
        "opens that are not confined",
    )
}

fn t7_cloexec(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    none(&recorder::without_cloexec(&life(ctx, &bundle)?), "descriptors without close-on-exec")
}

fn t7_proc(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    none(&recorder::writes_to_host_proc(&life(ctx, &bundle)?), "writes to procfs by path")
}

fn c4_order(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    let _container = bundle.start(ctx)?;
    let (ran, events) = record(ctx, &["exec", &bundle.id, "/probe", "true"], "")?;
    ran.ok()?;
    let joined = recorder::positions(&events, "setns(");
    let dumpable = recorder::positions(&events, "prctl(PR_SET_DUMPABLE, ");
    ensure!(!joined.is_empty(), "exec joined no namespace");
    let first = dumpable.iter().find(|index| !events[**index].arguments.contains("SUID_DUMP_USER"));
    ensure!(first.is_some_and(|first| *first < joined[0]), "setns at {joined:?}, prctl at {dumpable:?}");
    Ok(())
}

fn a7_sources(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    let events = run_once(ctx, &bundle)?;
    let source = format!("\"{}/volume\"", bundle.dir.display());
    let touching = events.iter().filter(|event| event.arguments.contains(&source) && event.name != "read");
    ensure_eq!(touching.count(), 1, "calls with the source's path");
    Ok(())
}

fn c16(ctx: &Ctx) -> Outcome {
    let bundle = bundle(ctx)?;
    let events = life(ctx, &bundle)?;
    let files = ["/lib/", "/lib64/", "ld.so", "locale", "nsswitch", "gconv", "localtime"];
    let opened = events.iter().filter(|event| event.name.starts_with("open"));
    let found: Vec<String> = opened
        .filter(|event| files.iter().any(|file| event.arguments.contains(file)))
        .map(|event| event.arguments.clone())
        .collect();
    none(&found, "opens of libraries or locales")
}

fn g1_first(ctx: &Ctx) -> Outcome {
    let secret = ctx.root.display().to_string();
    for command in ["state", "start", "delete"] {
        let (ran, events) = record(ctx, &[command, "../x"], "")?;
        ran.fails()?;
        let touched: Vec<String> = events
            .iter()
            .filter(|event| {
                event.name != "execve" && event.name != "write" && event.arguments.contains(&secret)
            })
            .map(|event| event.arguments.clone())
            .collect();
        none(&touched, &format!("accesses by {command}"))?;
    }
    Ok(())
}
