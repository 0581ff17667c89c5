//! The states and operations of runtime.md.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Container, Ctx, eventually};
use crate::{cgroups, ensure, ensure_eq, leftovers};

pub const CASES: &[Case] = &[
    Case::new(
        "state_of_created",
        "runtime.md, state: the state of a container whose process was created and not started is created",
        state_of_created,
    ),
    Case::new(
        "state_fields",
        "runtime.md, state: ociVersion, id, status, pid, bundle and annotations are as in the schema",
        state_fields,
    ),
    Case::new(
        "state_of_missing",
        "runtime.md, state: querying a container that does not exist MUST generate an error",
        state_of_missing,
    ),
    Case::new(
        "create_without_id",
        "runtime.md, create: an error MUST be generated if the id is not provided",
        create_without_id,
    ),
    Case::new(
        "create_twice",
        "runtime.md, create: if the id is not unique, an error MUST be generated and no container created",
        create_twice,
    ),
    Case::new(
        "create_does_not_run_the_program",
        "runtime.md, create: the user-specified program MUST NOT be run at this time",
        create_does_not_run_the_program,
    ),
    Case::new(
        "g4_configuration_is_read_once",
        "runtime.md, create, and security.md G4: changes made to config.json after create have no effect",
        create_uses_the_configuration_once,
    ),
    Case::new(
        "create_failure_leaves_nothing",
        "runtime.md, create: if a property cannot be applied, an error MUST be generated and no container created",
        create_failure_leaves_nothing,
    ),
    Case::new(
        "start_runs_the_program",
        "runtime.md, start: this operation MUST run the user-specified program as specified by process",
        start_runs_the_program,
    ),
    Case::new(
        "start_twice",
        "runtime.md, start: starting a container that is not created MUST have no effect and generate an error",
        start_twice,
    ),
    Case::new(
        "start_of_stopped",
        "runtime.md, start: starting a stopped container MUST generate an error",
        start_of_stopped,
    ),
    Case::new(
        "start_without_process",
        "runtime.md, start: this operation MUST generate an error if process was not set",
        start_without_process,
    ),
    Case::new(
        "start_reports_a_missing_program",
        "runtime.md, start: the runtime MUST generate an error if it cannot run the program",
        start_reports_a_missing_program,
    ),
    Case::new(
        "kill_sends_signals",
        "runtime.md, kill: this operation MUST send the specified signal to the container process",
        kill_sends_signals,
    ),
    Case::new(
        "kill_of_created",
        "runtime.md, kill: a created container can be sent a signal",
        kill_of_created,
    ),
    Case::new(
        "kill_of_stopped",
        "runtime.md, kill: a signal to a container that is neither created nor running MUST generate an error",
        kill_of_stopped,
    ),
    Case::new(
        "kill_all_reaches_every_process",
        "peers.md A1.2: kill --all reaches every process of the container",
        kill_all_reaches_every_process,
    ),
    Case::new(
        "delete_of_running",
        "runtime.md, delete: deleting a container that is not stopped MUST have no effect and generate an error",
        delete_of_running,
    ),
    Case::new(
        "delete_of_created",
        "peers.md A1.2: delete of a created container whose program never ran kills and removes it, as managers expect",
        delete_of_created,
    ),
    Case::new(
        "delete_undoes_create",
        "runtime.md, delete: deleting a container MUST delete the resources that were created during create",
        delete_undoes_create,
    ),
    Case::new(
        "delete_frees_the_id",
        "runtime.md, delete: once a container is deleted its id MAY be used by a subsequent container",
        delete_frees_the_id,
    ),
    Case::new(
        "delete_force",
        "peers.md A1.2: delete --force kills what runs, and is content with an id that does not exist",
        delete_force,
    ),
    Case::new(
        "pause_and_resume",
        "peers.md A1.2: pause stops every process, resume lets them go on, and state says paused in between",
        pause_and_resume,
    ),
    Case::new(
        "kill_by_real_time_name",
        "peers.md A1.2: kill takes the names of real-time signals",
        kill_by_real_time_name,
    ),
    Case::new("table_of_created", "runtime.md: every operation on a created container", table_of_created),
    Case::new("table_of_running", "runtime.md: every operation on a running container", table_of_running),
    Case::new("table_of_paused", "runtime.md: every operation on a paused container", table_of_paused),
    Case::new("table_of_stopped", "runtime.md: every operation on a stopped container", table_of_stopped),
    Case::new(
        "table_of_missing",
        "runtime.md: every operation on an id that does not exist",
        table_of_missing,
    ),
    Case::new(
        "state_while_creating",
        "runtime.md, state: creating: the container is being created; it cannot be started, and is not lost",
        state_while_creating,
    ),
    Case::new(
        "create_race",
        "security.md G7: of 50 creates of one id at the same time exactly one succeeds",
        create_race,
    )
    .limit(120)
    .alone(),
    Case::new(
        "start_race",
        "security.md G14: of 10 starts of one container at the same time exactly one succeeds",
        start_race,
    )
    .alone(),
    Case::new(
        "list_shows_containers",
        "peers.md A1.2: list shows every container of the root",
        list_shows_containers,
    ),
    Case::new(
        "ps_shows_processes",
        "peers.md A1.2: ps --format json is an array of host pids",
        ps_shows_processes,
    ),
    Case::new(
        "run_gives_the_exit_status",
        "peers.md A1.2: run exits as the container's process did",
        run_exit_status,
    ),
    Case::new("run_detached", "peers.md A1.2: run --detach returns when the program runs", run_detached),
    Case::new("run_keep", "peers.md A1.2: run --keep does not delete the container", run_keep),
    Case::new(
        "init_becomes_the_callers_child",
        "peers.md A1.3, buildah: after create the init process is a child of whoever reaps for the caller",
        init_becomes_the_callers_child,
    ),
    Case::new(
        "exit_of_the_namespace",
        "runtime.md, lifecycle: the container's state is stopped when the container process exits",
        exit_of_the_namespace,
    ),
];

fn sleeper(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn stopped(ctx: &Ctx) -> Outcome<Container<'_>> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    let container = bundle.start(ctx)?;
    container.wait_for("stopped")?;
    Ok(container)
}

fn state_of_created(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    ensure_eq!(container.status()?, "created", "status");
    Ok(())
}

fn state_fields(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.set("/annotations", json!({"com.example.key": "value", "empty": ""}));
    let container = bundle.create(ctx)?;
    let state = container.state()?;
    let version = state["ociVersion"].as_str().unwrap_or_default();
    ensure!(version.starts_with("1."), "ociVersion is {version:?}");
    ensure_eq!(state["id"], json!(bundle.id), "id");
    ensure_eq!(state["bundle"], json!(bundle.dir), "bundle");
    ensure_eq!(state["annotations"], json!({"com.example.key": "value", "empty": ""}), "annotations");
    let pid = state["pid"].as_i64().unwrap_or_default();
    ensure!(pid > 1 && Path::new(&format!("/proc/{pid}")).exists(), "pid {pid} is no process of the host");
    ensure_eq!(state["rootfs"], json!(bundle.rootfs()), "rootfs");
    let created = state["created"].as_str().unwrap_or_default();
    ensure!(created.len() >= 20 && created.ends_with('Z') && created.contains('T'), "created is {created:?}");
    Ok(())
}

fn state_of_missing(ctx: &Ctx) -> Outcome {
    ctx.call(["state", &ctx.id()]).run()?.exits(1)?.fails_in_one_line()?.says("container does not exist")?;
    Ok(())
}

fn create_without_id(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    bundle.write()?;
    ctx.call(["create", "--bundle"]).arg(&bundle.dir).run()?.fails()?;
    Ok(())
}

fn create_twice(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    let container = bundle.create(ctx)?;
    let pid = container.pid()?;
    let mut other = sleeper(ctx)?;
    other.id.clone_from(&bundle.id);
    other.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?;
    ensure_eq!(container.pid()?, pid, "the first container's pid");
    ensure_eq!(container.status()?, "created", "the first container's status");
    Ok(())
}

fn create_does_not_run_the_program(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["echo", "ran"]);
    let container = bundle.create(ctx)?;
    std::thread::sleep(Duration::from_millis(200));
    ensure_eq!(container.created.stdout(), "", "output of the program before start");
    container.start()?.ok()?;
    container.wait_output("ran")?;
    Ok(())
}

fn create_uses_the_configuration_once(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["echo", "first"]);
    let container = bundle.create(ctx)?;
    bundle.probe(["echo", "second"]).set("/process/capabilities/bounding", json!(["CAP_SYS_ADMIN"]));
    bundle.write()?;
    container.start()?.ok()?;
    container.wait_for("stopped")?;
    ensure_eq!(container.created.stdout(), "first", "output");
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    bundle.push("/process/env", json!("EDITED=1")).write()?;
    let env = container.exec_report(&[])?["env"].to_string();
    ensure!(!env.contains("EDITED"), "exec takes its environment from the edited file: {env}");
    Ok(())
}

fn create_failure_leaves_nothing(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("/somewhere", "bind", "/does/not/exist", &["bind"]);
    bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?.says("/does/not/exist")?;
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "a failed create left behind: {}", left.join("; "));
    ctx.call(["state", &bundle.id]).run()?.fails()?;
    Ok(())
}

fn start_runs_the_program(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["args", "a b", "", "c"]);
    let container = bundle.start(ctx)?;
    let output = container.wait_output("}")?;
    ensure!(output.contains(r#"["args","a b","","c"]"#), "arguments are {output}");
    Ok(())
}

fn start_twice(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.wait_output("ready")?;
    let pid = container.pid()?;
    container.start()?.exits(1)?.fails_in_one_line()?;
    ensure_eq!(container.status()?, "running", "status");
    ensure_eq!(container.pid()?, pid, "pid");
    Ok(())
}

fn start_of_stopped(ctx: &Ctx) -> Outcome {
    let container = stopped(ctx)?;
    container.start()?.exits(1)?.fails_in_one_line()?;
    ensure_eq!(container.status()?, "stopped", "status");
    Ok(())
}

fn start_without_process(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.remove("/process");
    let created = bundle.create_call(ctx, &[])?.run()?;
    if created.status == 0 {
        ctx.call(["start", &bundle.id]).run()?.fails()?;
    } else {
        created.fails_in_one_line()?;
    }
    Ok(())
}

fn start_reports_a_missing_program(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/args", json!(["/no/such/program"]));
    let created = bundle.create_call(ctx, &[])?.run()?;
    let ran = if created.status == 0 { ctx.call(["start", &bundle.id]).run()? } else { created };
    ran.exits(1)?.fails_in_one_line()?.says("no such file or directory")?;
    Ok(())
}

fn kill_sends_signals(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["trap"]);
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    for (spelling, number) in [("HUP", 1), ("SIGINT", 2), ("15", 15), ("USR1", 10), ("37", 37)] {
        container.kill(spelling)?.ok()?;
        container.wait_output(&format!("signal {number}"))?;
    }
    container.call("kill", &[])?.ok().during("kill without a signal")?;
    eventually("a second SIGTERM", Duration::from_secs(60), || {
        Ok((container.created.stdout().matches("signal 15").count() == 2).then_some(()))
    })?;
    let pid = container.pid()?;
    container.kill("USR2")?.ok()?;
    ensure_eq!(container.wait_exit(pid)?, 7, "exit status");
    container.kill("NOSUCHSIGNAL")?.fails()?;
    Ok(())
}

fn kill_by_real_time_name(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["trap"]);
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    for (spelling, number) in [("SIGRTMIN+3", 37), ("RTMIN", 34), ("RTMAX", 64), ("RTMAX-1", 63)] {
        container.kill(spelling)?.ok()?;
        container.wait_output(&format!("signal {number}"))?;
    }
    Ok(())
}

fn kill_of_created(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")
}

fn kill_of_stopped(ctx: &Ctx) -> Outcome {
    let container = stopped(ctx)?;
    container.kill("TERM")?.exits(1)?.fails_in_one_line()?.says("container not running")?;
    Ok(())
}

fn kill_all_reaches_every_process(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["orphan"]).without_namespace("pid");
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    eventually("two processes", Duration::from_secs(60), || {
        Ok((cgroups::processes(&bundle.id)?.len() == 2).then_some(()))
    })?;
    ctx.call(["kill", "--all", &bundle.id, "KILL"]).run()?.ok()?;
    eventually("an empty cgroup", Duration::from_secs(60), || {
        crate::harness::reap_dead();
        Ok(cgroups::processes(&bundle.id)?.is_empty().then_some(()))
    })
}

fn delete_of_running(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let pid = container.pid()?;
    container.delete()?.exits(1)?.fails_in_one_line()?;
    ensure_eq!(container.status()?, "running", "status");
    ensure_eq!(container.pid()?, pid, "pid");
    Ok(())
}

fn delete_of_created(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    container.delete()?.ok()?;
    container.call("state", &[])?.fails()?;
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "delete left behind: {}", left.join("; "));
    Ok(())
}

fn delete_undoes_create(ctx: &Ctx) -> Outcome {
    let container = stopped(ctx)?;
    container.delete()?.ok()?;
    container.call("state", &[])?.exits(1)?.says("container does not exist")?;
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "delete left behind: {}", left.join("; "));
    container.delete()?.exits(1)?.fails_in_one_line()?.says("container does not exist")?;
    Ok(())
}

fn delete_frees_the_id(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    for _ in 0..3 {
        let container = bundle.start(ctx)?;
        container.wait_for("stopped")?;
        container.delete()?.ok()?;
    }
    Ok(())
}

fn delete_force(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.call("delete", &[]).and_then(crate::harness::Ran::fails)?;
    ctx.call(["delete", "--force", &container.id]).run()?.ok()?;
    container.call("state", &[])?.fails()?;
    let gone = ctx.call(["delete", "--force", &container.id]).run()?.ok()?;
    ensure_eq!(gone.stdout(), "", "output of delete --force of a missing container");
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "delete --force left behind: {}", left.join("; "));
    Ok(())
}

fn pause_and_resume(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["trap"]);
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    container.call("pause", &[])?.ok()?;
    ensure_eq!(container.status()?, "paused", "status after pause");
    container.kill("USR1")?.ok()?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(!container.created.stdout().contains("signal"), "a paused process went on");
    container.call("resume", &[])?.ok()?;
    ensure_eq!(container.status()?, "running", "status after resume");
    container.wait_output("signal 10")?;
    Ok(())
}

/// Runs one row of the table: an operation and whether it must succeed, in this order.
fn row(ctx: &Ctx, container: &Container<'_>, status: &str, operations: &[(&str, bool)]) -> Outcome {
    for (operation, succeeds) in operations {
        let what = format!("{operation} of a {status} container");
        let id = &*container.id;
        let ran = match *operation {
            "create" => ctx.call(["create", "--bundle"]).arg(&container.dir).arg(id).run(),
            "exec" => container.exec(&["true"]),
            "kill" => container.kill("CONT"),
            other => container.call(other, &[]),
        };
        let ran = ran.during(&what)?;
        if *succeeds {
            ran.ok().during(&what)?;
        } else {
            ran.fails_in_one_line().during(&what)?;
        }
        if status != "missing" {
            ensure_eq!(container.status()?, status, "status after {what}");
        }
    }
    Ok(())
}

fn table_of_created(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    row(ctx, &container, "created", &[("state", true), ("create", false), ("resume", false), ("kill", true)])
}

fn table_of_running(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let operations = [
        ("state", true),
        ("create", false),
        ("start", false),
        ("resume", false),
        ("kill", true),
        ("exec", true),
        ("ps", true),
        ("delete", false),
    ];
    row(ctx, &container, "running", &operations)
}

fn table_of_paused(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.call("pause", &[])?.ok()?;
    let operations = [
        ("state", true),
        ("create", false),
        ("start", false),
        ("exec", false),
        ("kill", true),
        ("ps", true),
        ("delete", false),
    ];
    row(ctx, &container, "paused", &operations)?;
    container.call("resume", &[])?.ok()?;
    Ok(())
}

fn table_of_stopped(ctx: &Ctx) -> Outcome {
    let container = stopped(ctx)?;
    let operations = [
        ("state", true),
        ("create", false),
        ("start", false),
        ("kill", false),
        ("exec", false),
        ("pause", false),
        ("resume", false),
    ];
    row(ctx, &container, "stopped", &operations)
}

fn table_of_missing(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    ctx.call(["delete", "--force", &container.id]).run()?.ok()?;
    let operations = [
        ("state", false),
        ("start", false),
        ("kill", false),
        ("exec", false),
        ("pause", false),
        ("resume", false),
        ("delete", false),
    ];
    row(ctx, &container, "missing", &operations)
}

fn state_while_creating(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    let log = ctx.path("hooks");
    bundle.set(
        "/hooks/createRuntime",
        json!([{ "path": ctx.probe, "args": ["probe", "hook", log, r#"{"name":"slow","sleep":2}"#] }]),
    );
    let running = bundle.create_call(ctx, &[])?.spawn()?;
    eventually("the hook", Duration::from_secs(60), || Ok(log.exists().then_some(())))?;
    let state = ctx.call(["state", &bundle.id]).run()?;
    if state.status == 0 {
        let status = state.json()?["status"].as_str().unwrap_or_default().to_owned();
        ensure!(status == "creating", "status while hooks of create run is {status:?}");
    }
    ctx.call(["start", &bundle.id]).run()?.fails()?;
    running.wait()?.ok()?;
    ctx.call(["start", &bundle.id]).run()?.ok()?;
    Ok(())
}

fn create_race(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    bundle.write()?;
    let calls =
        (0..50).map(|_| bundle.create_call(ctx, &[])?.limit(Duration::from_secs(100) * ctx.patience).spawn());
    let calls = calls.collect::<Outcome<Vec<_>>>()?;
    let mut succeeded = 0;
    for call in calls {
        let ran = call.wait()?;
        if ran.status == 0 {
            succeeded += 1;
        } else {
            ran.exits(1)?.fails_in_one_line()?;
        }
    }
    ensure_eq!(succeeded, 1, "creates that succeeded");
    ctx.call(["start", &bundle.id]).run()?.ok()?;
    ctx.call(["kill", &bundle.id, "KILL"]).run()?.ok()?;
    Ok(())
}

fn start_race(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    let calls = (0..10)
        .map(|_| ctx.call(["start", &container.id]).limit(Duration::from_secs(5) * ctx.patience).spawn())
        .collect::<Outcome<Vec<_>>>()?;
    let mut succeeded = 0;
    for call in calls {
        let ran = call.wait()?;
        if ran.status == 0 {
            succeeded += 1;
        } else {
            ran.exits(1)?.fails_in_one_line()?;
        }
    }
    ensure_eq!(succeeded, 1, "starts that succeeded");
    ensure_eq!(container.status()?, "running", "status");
    Ok(())
}

fn list_shows_containers(ctx: &Ctx) -> Outcome {
    let first = sleeper(ctx)?.create(ctx)?;
    let second = stopped(ctx)?;
    let list = ctx.call(["list", "--format", "json"]).run()?.ok()?.json()?;
    let entry = |id: &str| list.as_array().into_iter().flatten().find(|entry| entry["id"] == id).cloned();
    let one = entry(&first.id).during("the created container in the list")?;
    ensure_eq!(one["status"], json!("created"), "status of the created container");
    ensure_eq!(one["bundle"], json!(first.dir), "bundle");
    ensure_eq!(one["owner"], json!("root"), "owner");
    let two = entry(&second.id).during("the stopped container in the list")?;
    ensure_eq!(two["status"], json!("stopped"), "status of the stopped container");
    ensure_eq!(two["pid"], json!(0), "pid of the stopped container");
    let quiet = ctx.call(["list", "-q"]).run()?.ok()?.stdout();
    let mut ids: Vec<&str> = quiet.lines().collect();
    ids.sort_unstable();
    ensure_eq!(ids, [&*first.id, &*second.id], "list -q");
    let table = ctx.call(["list"]).run()?.ok()?.stdout();
    let head = table.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    ensure_eq!(head, "ID PID STATUS BUNDLE CREATED OWNER", "heading of the table");
    Ok(())
}

fn ps_shows_processes(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["orphan"]);
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    let pids = container_ps(ctx, &container)?;
    let init = i64::from(container.pid()?.as_raw());
    ensure!(pids.contains(&init), "{pids:?} does not hold the init process {init}");
    ensure_eq!(pids.len(), 2, "processes {pids:?}");
    Ok(())
}

fn container_ps(ctx: &Ctx, container: &Container<'_>) -> Outcome<Vec<i64>> {
    let value = ctx.call(["ps", "--format", "json", &container.id]).run()?.ok()?.json()?;
    Ok(value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_i64).collect())
}

fn run_exit_status(ctx: &Ctx) -> Outcome {
    for (arguments, status) in [(vec!["exit", "0"], 0), (vec!["exit", "3"], 3), (vec!["exit", "255"], 255)] {
        let mut bundle = ctx.bundle()?;
        bundle.probe(arguments);
        bundle.run(ctx)?.exits(status)?;
        ctx.call(["state", &bundle.id]).run()?.fails().during("state after run")?;
    }
    // The init process of a pid namespace cannot kill itself, so this one shares the host's.
    let mut bundle = ctx.bundle()?;
    bundle.probe(["exit-by-signal", "9"]).without_namespace("pid");
    bundle.run(ctx)?.exits(137)?;
    Ok(())
}

fn run_detached(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    bundle.run_call(ctx, &["--detach"])?.run()?.ok()?;
    let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
    ensure_eq!(state["status"], json!("running"), "status");
    Ok(())
}

fn run_keep(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["exit", "3"]);
    let keep = bundle.run_call(ctx, &["--keep"])?.run()?;
    if keep.stderr().contains("flag provided but not defined") {
        return crate::failure::skip("run has no --keep here");
    }
    keep.exits(3)?;
    let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
    ensure_eq!(state["status"], json!("stopped"), "status");
    ctx.call(["delete", &bundle.id]).run()?.ok()?;
    Ok(())
}

fn init_becomes_the_callers_child(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    let children = leftovers::children_of(nix::unistd::getpid());
    ensure_eq!(children, [container.pid()?], "children of the caller after create");
    Ok(())
}

fn exit_of_the_namespace(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["exit", "42"]);
    let container = bundle.create(ctx)?;
    let pid = container.pid()?;
    container.start()?.ok()?;
    // Not reaped yet: the zombie still has its pid and the container is stopped all the same.
    container.wait_for("stopped")?;
    ensure_eq!(container.state()?["pid"], json!(0), "pid of a stopped container");
    ensure_eq!(container.wait_exit(pid)?, 42, "exit status");
    ensure_eq!(container.status()?, "stopped", "status after the init process was reaped");
    Ok(())
}
