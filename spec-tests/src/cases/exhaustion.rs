//! What there is too little of: room and inodes in the state root, descriptors, processes, memory; and containers that use up all
//! that they get. Each time: an error in one line or success, nothing left, and a container beside it that has not noticed.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Call, Ctx, Ran, eventually, reap_dead};
use crate::host::Bystander;
use crate::{cgroups, ensure, ensure_eq, leftovers};

pub const CASES: &[Case] = &[
    Case::new(
        "exhausted_disk",
        "runtime.md, Errors: a state root without room: an error, and nothing is left",
        |ctx| state_root(ctx, |amount| format!("size={}", amount * 4096)),
    ),
    Case::new(
        "exhausted_inodes",
        "runtime.md, Errors: a state root without inodes: an error, and nothing is left",
        |ctx| state_root(ctx, |amount| format!("nr_inodes={}", amount + 1)),
    ),
    Case::new(
        "exhausted_descriptors",
        "runtime.md, Errors: RLIMIT_NOFILE at every value: an error or a container, and nothing is left",
        descriptors,
    )
    .limit(120),
    Case::new(
        "exhausted_processes",
        "runtime.md, Errors: a pids cgroup that is full: an error, and nothing is left",
        processes,
    ),
    Case::new(
        "exhausted_memory",
        "runtime.md, Errors: a memory cgroup of any size: an error, or killed and cleared by delete --force",
        memory,
    )
    .limit(120),
    Case::new("f10_fork_bomb", "security.md F10: a fork bomb inside ends with its container", fork_bomb),
    Case::new(
        "f10_deep_cgroups",
        "security.md F10: cgroups in each other, more than there are descriptors: their processes are seen, and all of it goes",
        deep_cgroups,
    )
    .alone(),
    Case::new(
        "full_pipes",
        "security.md F10: a container whose output nobody reads can be ended",
        full_pipes,
    ),
    Case::new(
        "full_terminal",
        "runtime.md, Errors: a terminal whose output nobody reads takes no memory, and its container can be ended",
        full_terminal,
    ),
    Case::new(
        "load_many",
        "runtime.md, Query State and Delete: many containers at a time are listed, and deleted one by one",
        many,
    )
    .alone()
    .limit(900),
];

fn bystander(ctx: &Ctx) -> Outcome<Bystander<'_>> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Bystander::start(ctx, &bundle)
}

/// One error line, or success; whether it was success.
fn judged(ran: Ran, what: &str) -> Outcome<bool> {
    if ran.status == 0 { Ok(true) } else { ran.fails_in_one_line().during(what).map(|_| false) }
}

/// No cgroup of the container, no process but the bystander's and those of the harness.
fn nothing_left(bundle: &Bundle, what: &str) -> Outcome {
    eventually("no cgroup left", Duration::from_secs(60), || {
        reap_dead();
        Ok(cgroups::at_the_top(&bundle.id)?.is_empty().then_some(()))
    })
    .during(what)
}

fn state_root(ctx: &Ctx, option: fn(u32) -> String) -> Outcome {
    let bystander = bystander(ctx)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let root = ctx.path("small");
    fs::create_dir(&root)?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]).write()?;
    let (mut failed, mut made) = (0, 0);
    for amount in 1..=24 {
        let option = option(amount);
        let what = format!("tmpfs with {option}");
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(&*format!("mode=0700,{option}")))?;
        let call = |words: &[&str]| ctx.bare_call(["--root"]).arg(&root).args(words).run();
        let dir = bundle.dir.display().to_string();
        if judged(call(&["create", "--bundle", &dir, &bundle.id])?, &what)? {
            made += 1;
            // What is full by now must not keep it from ending.
            judged(call(&["start", &bundle.id])?, &what)?;
            call(&["delete", "--force", &bundle.id])?.ok().during(&what)?;
        } else {
            failed += 1;
        }
        let left: Vec<_> = fs::read_dir(&root)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "{what}: left behind: {left:?}");
        nothing_left(&bundle, &what)?;
        umount2(&root, MntFlags::MNT_DETACH)?;
    }
    ensure!(failed > 0 && made > 0, "{failed} failed, {made} were made");
    bystander.is_untouched()
}

fn descriptors(ctx: &Ctx) -> Outcome {
    let bystander = bystander(ctx)?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    let (mut failed, mut made) = (0, 0);
    for limit in 3..=72 {
        let what = format!("{limit} descriptors");
        let limited = |call: Call| call.setup(|setup| setup.open_files = Some(limit)).run();
        if judged(limited(bundle.create_call(ctx, &[])?)?, &what)? {
            made += 1;
            judged(limited(ctx.call(["start", &bundle.id]))?, &what)?;
            judged(limited(ctx.call(["exec", &*bystander.container.id, "/probe", "true"]))?, &what)?;
            judged(limited(ctx.call(["delete", "--force", &bundle.id]))?, &what)?;
            ctx.call(["delete", "--force", &bundle.id]).run()?.ok().during(&what)?;
        } else {
            failed += 1;
        }
        ensure!(!ctx.root.join(&bundle.id).exists(), "{what}: its state is left");
        nothing_left(&bundle, &what)?;
    }
    ensure!(failed > 0 && made > 0, "{failed} failed, {made} were made");
    bystander.is_untouched()
}

/// The call from inside a cgroup.
fn from_cgroup(ctx: &Ctx, group: &Path, words: &[&str]) -> Call {
    let script = r#"echo 0 >"$1" && shift && exec "$@""#;
    let call = ctx.program(Path::new("/bin/sh")).args(["-c", script, "sh"]).arg(group.join("cgroup.procs"));
    call.arg(&ctx.runtime).arg("--root").arg(&ctx.root).args(words)
}

/// A cgroup of the case's own, gone with it.
struct Group(std::path::PathBuf);

impl Group {
    fn new(ctx: &Ctx, controller: &str) -> Outcome<(Self, cgroups::Hierarchy)> {
        let hierarchy = cgroups::with_controller(controller)?;
        if hierarchy.version == 2 {
            // Where it is enabled already it is written in vain.
            let _enabled =
                fs::write(hierarchy.mount.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let path = hierarchy.mount.join(format!("{}-{controller}", ctx.tag));
        fs::create_dir(&path)?;
        Ok((Self(path), hierarchy))
    }

    fn set(&self, hierarchy: &cgroups::Hierarchy, v1: &str, v2: &str, value: u64) -> Outcome {
        let file = self.0.join(if hierarchy.version == 1 { v1 } else { v2 });
        fs::write(&file, value.to_string()).during(file.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
    }
}

fn processes(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    let bystander = bystander(ctx)?;
    let (group, hierarchy) = Group::new(ctx, "pids")?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]).write()?;
    let dir = bundle.dir.display().to_string();
    let mut failed = 0;
    for limit in 1..=4 {
        let what = format!("{limit} processes");
        group.set(&hierarchy, "pids.max", "pids.max", limit)?;
        for words in [
            &["run", "--bundle", &*dir, &*bundle.id][..],
            &["exec", &bystander.container.id, "/probe", "true"],
        ] {
            let made = judged(from_cgroup(ctx, &group.0, words).run()?, &what)?;
            failed += usize::from(!made);
            ensure!(!ctx.root.join(&bundle.id).exists(), "{what}: its state is left");
            nothing_left(&bundle, &what)?;
        }
    }
    // On v2 the container's processes are born in its own cgroup (CLONE_INTO_CGROUP) and count there alone.
    ensure!(failed > 0 || hierarchy.version == 2, "one process was enough");
    bystander.is_untouched()
}

fn memory(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    let bystander = bystander(ctx)?;
    let (group, hierarchy) = Group::new(ctx, "memory")?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]).write()?;
    let dir = bundle.dir.display().to_string();
    let (mut failed, mut made) = (0, 0);
    for kilobytes in [128, 256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 16_384] {
        let what = format!("{kilobytes} KiB");
        group.set(&hierarchy, "memory.limit_in_bytes", "memory.max", kilobytes * 1024)?;
        let ran = from_cgroup(ctx, &group.0, &["create", "--bundle", &dir, &bundle.id]).run()?;
        // The kernel may have killed it, which cannot be told then: what it has done is cleared by one command.
        let killed = ran.status == 128 + libc::SIGKILL;
        let is_made = !killed && judged(ran, &what)?;
        made += usize::from(is_made);
        failed += usize::from(!is_made);
        if killed || is_made {
            ctx.call(["delete", "--force", &bundle.id]).run()?.ok().during(&what)?;
        }
        ensure!(!ctx.root.join(&bundle.id).exists(), "{what}: its state is left");
        nothing_left(&bundle, &what)?;
    }
    ensure!(failed > 0 && made > 0, "{failed} failed, {made} were made");
    bystander.is_untouched()
}

fn fork_bomb(ctx: &Ctx) -> Outcome {
    cgroups::need(&["pids"])?;
    let bystander = bystander(ctx)?;
    for own_namespace in [true, false] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/linux/resources/pids", json!({"limit": 60})).probe(["bomb"]);
        if !own_namespace {
            // Its processes do not end with the first of them.
            bundle.without_namespace("pid");
        }
        let container = bundle.start(ctx)?;
        container.wait_output("ready")?;
        eventually("many processes", Duration::from_secs(20) * ctx.patience, || {
            Ok((cgroups::processes(&bundle.id)?.len() > 50).then_some(()))
        })?;
        ctx.call(["delete", "--force", &bundle.id]).run()?.ok()?;
        nothing_left(&bundle, "the fork bomb")?;
    }
    bystander.is_untouched()
}

/// As a container can make them that has a cgroup mount to write to.
fn deep_cgroups(ctx: &Ctx) -> Outcome {
    /// More than RLIMIT_NOFILE is as a rule; a few hundred take a second.
    const LEVELS: usize = 1100;
    ctx.needs_cgroup_paths()?;
    let mut hierarchies = vec![cgroups::of_processes()?];
    if hierarchies[0].version == 1 {
        hierarchies.extend(cgroups::hierarchies()?.into_iter().find(|hierarchy| hierarchy.version == 2));
    }
    let mut bundle = ctx.bundle()?;
    // With one they would end with the first of them.
    bundle.without_namespace("pid").probe(["sleep"]);
    let container = bundle.start(ctx)?;
    container.exec_call(&["--detach"], &["sleep"]).run()?.ok()?;
    let inside = cgroups::processes(&bundle.id)?;
    ensure_eq!(inside.len(), 2, "processes");
    let mut pits = Vec::new();
    for hierarchy in &hierarchies {
        let pit = cgroups::Pit::dig(&cgroups::directory(hierarchy, &bundle.id), LEVELS)?;
        inside.iter().try_for_each(|pid| pit.take(pid))?;
        pits.push(pit);
    }
    let listed = ctx.call(["ps", "--format", "json", &bundle.id]).run()?.ok()?.json()?;
    let listed: Vec<String> = listed.as_array().during("a list")?.iter().map(ToString::to_string).collect();
    ensure_eq!(listed, inside, "what ps lists");
    container.call("pause", &[])?.ok()?;
    ensure_eq!(container.status()?, "paused", "status");
    ctx.call(["delete", "--force", &bundle.id]).run()?.ok()?;
    let left = cgroups::at_the_top(&bundle.id)?;
    ensure!(left.is_empty(), "left behind: {} cgroups, {:?} on top", left.len(), left.last());
    Ok(())
}

/// A pipe whose reading end nobody reads, as standard output of a call; what has to stay open until the call is made.
fn into_pipe(call: Call) -> Outcome<(Call, OwnedFd, [OwnedFd; 2])> {
    let (reader, writer) = std::io::pipe()?;
    let theirs: [OwnedFd; 2] = [fs::File::open("/dev/null")?.into(), writer.into()];
    let pairs = theirs.iter().map(AsRawFd::as_raw_fd).zip(0..).collect();
    let call = call.own_stdio().setup(|setup| setup.fds = pairs);
    Ok((call, reader.into(), theirs))
}

/// A pipe into which no more goes.
fn wait_until_full(writer: &OwnedFd, ctx: &Ctx) -> Outcome {
    eventually("a full pipe", Duration::from_secs(20) * ctx.patience, || {
        let mut waits = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
        Ok((poll(&mut waits, PollTimeout::ZERO)? == 0).then_some(()))
    })
}

fn full_pipes(ctx: &Ctx) -> Outcome {
    let bystander = bystander(ctx)?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["flood"]);
    let (call, _reader, [_null, writer]) = into_pipe(bundle.create_call(ctx, &[])?)?;
    call.run()?.ok()?;
    ctx.call(["start", &bundle.id]).run()?.ok()?;
    wait_until_full(&writer, ctx)?;
    for words in [&["state"][..], &["pause"], &["resume"], &["delete", "--force"]] {
        ctx.call(words).arg(&bundle.id).run()?.ok()?;
    }
    nothing_left(&bundle, "the full pipe")?;
    bystander.is_untouched()
}

fn full_terminal(ctx: &Ctx) -> Outcome {
    /// What `run` may have in memory, in KiB: it is 3 MiB without any output.
    const MOST: u64 = 16 << 10;
    let bystander = bystander(ctx)?;
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/terminal", json!(true)).probe(["flood"]);
    let (call, reader, [_null, writer]) = into_pipe(bundle.run_call(ctx, &[])?)?;
    let running = call.limit(Duration::from_secs(60) * ctx.patience).spawn()?;
    wait_until_full(&writer, ctx)?;
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid()))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).during("VmRSS")?;
    let resident: u64 = resident.split_whitespace().next().during("a number")?.parse()?;
    ensure!(resident < MOST, "the runtime holds {resident} KiB");
    ctx.call(["kill", &bundle.id, "KILL"]).run()?.ok()?;
    drop(reader);
    running.wait()?.exits(128 + libc::SIGKILL)?;
    nothing_left(&bundle, "the full terminal")?;
    bystander.is_untouched()
}

fn many(ctx: &Ctx) -> Outcome {
    // A thousand of them with --soak 10000.
    let count = (ctx.soak / 10).clamp(10, 1000);
    let mut bundles = Vec::with_capacity(count);
    for _ in 0..count {
        let mut bundle = ctx.bundle()?;
        bundle.probe(["sleep"]);
        bundle.create(ctx)?;
        bundles.push(bundle);
    }
    let listed = ctx.call(["list", "--format", "json"]).run()?.ok()?.json()?;
    let created = listed.as_array().into_iter().flatten().filter(|one| one["status"] == "created");
    ensure_eq!(created.count(), count, "containers in the list");
    for bundle in &bundles {
        ctx.call(["delete", "--force", &bundle.id]).run()?.ok()?;
        reap_dead();
    }
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}
