//! exec: every flag, and that an exec process is as confined as the init process.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome, skip};
use crate::harness::{Bundle, Container, Ctx, eventually};
use crate::inside::report::capability_mask;
use crate::{cgroups, ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new("exec_exit_status", "peers.md A1.2: exec exits as its process did", exit_status),
    Case::new(
        "exec_namespaces",
        "peers.md A1.2: an exec process is in all namespaces of the container",
        namespaces,
    ),
    Case::new("exec_cgroup", "security.md C8: an exec process is in the container's cgroup", cgroup),
    Case::new("c7_parity", "security.md C7: an exec process has what the init process has", c7_parity),
    Case::new(
        "c7_slow_parent",
        "security.md C7: an exec process has its oomScoreAdj however slow the runtime is",
        slow_parent,
    ),
    Case::new(
        "exec_process_file",
        "peers.md A1.3: exec --process takes the process from a file",
        process_file,
    ),
    Case::new("exec_env", "peers.md A1.2: exec --env adds to the environment", env),
    Case::new("exec_cwd", "peers.md A1.2: exec --cwd", cwd),
    Case::new("exec_user", "peers.md A1.2: exec --user uid and uid:gid", user),
    Case::new(
        "e3_exec_user",
        "security.md E3: exec --user takes numbers only, never falls back to 0",
        e3_user,
    ),
    Case::new("exec_additional_gids", "peers.md A1.2: exec --additional-gids", additional_gids),
    Case::new(
        "e1_exec_cap",
        "security.md E1: exec --cap adds to bounding, effective and permitted only",
        e1_cap,
    ),
    Case::new("exec_no_new_privs", "peers.md A1.2: exec --no-new-privs", no_new_privs),
    Case::new("exec_detached", "peers.md A1.2: exec --detach returns, and --pid-file has the pid", detached),
    Case::new("exec_stdin", "peers.md A1.2: exec passes standard input", stdin),
    Case::new(
        "exec_missing_program",
        "peers.md A1.3: exec of a missing program says so and exits 255",
        missing,
    ),
    Case::new(
        "exec_in_stopped",
        "peers.md A1.3: exec in a stopped container says container not running",
        stopped,
    ),
    Case::new("exec_in_paused", "peers.md A1.2: exec in a paused container is an error", paused),
    Case::new("exec_in_created", "peers.md A1.2: exec in a created container", created),
    Case::new("exec_without_command", "peers.md A1.2: exec without a command is an error", no_command),
    Case::new("exec_many", "peers.md B 1: 50 execs in a row, each with its exit status", many).limit(120),
    Case::new("exec_rlimits", "security.md E16: rlimits hold for exec processes too", rlimits),
    Case::new(
        "exec_killed_with_the_container",
        "runtime.md: exec processes end with the container",
        ends_with_it,
    ),
    Case::new(
        "exec_signal_status",
        "peers.md A1.2: exec exits with 128 and the signal's number",
        signal_status,
    ),
    Case::new(
        "c8_exec_cgroup",
        "security.md C8: exec --cgroup cannot leave the container's cgroup",
        c8_exec_cgroup,
    ),
    Case::new(
        "exec_cgroup_named",
        "runc-exec(8), --cgroup: the process is in the cgroup that is named or is not started; without one it may be beside the init process",
        exec_cgroup_named,
    ),
];

fn sleeper(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn exit_status(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    for status in [0, 1, 42, 255] {
        container.exec(&["exit", &status.to_string()])?.exits(status)?;
    }
    Ok(())
}

fn signal_status(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.exec(&["exit-by-signal", "9"])?.exits(137)?;
    container.exec(&["exit-by-signal", "15"])?.exits(143)?;
    Ok(())
}

/// The report of an init process, and a container of the same bundle that goes on running.
fn init_report<'c>(ctx: &'c Ctx, bundle: &mut Bundle) -> Outcome<(Container<'c>, Value)> {
    let report = bundle.run_json(ctx)?;
    bundle.probe(["sleep"]);
    Ok((bundle.start(ctx)?, report))
}

fn namespaces(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
    let container = bundle.start(ctx)?;
    let pid = container.pid()?;
    let found = container.exec_report(&[])?;
    for (kind, own) in found["namespaces"].as_object().into_iter().flatten() {
        let expected = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
        ensure_eq!(*own, json!(expected), "{kind} namespace");
    }
    Ok(())
}

fn cgroup(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    let container = bundle.start(ctx)?;
    for path in cgroups::paths(&container.exec_report(&[])?)? {
        ensure!(cgroups::is_of(&path, &bundle.id), "{path} is not the container's cgroup");
    }
    Ok(())
}

fn c7_parity(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]});
    bundle.set("/linux/seccomp", seccomp);
    bundle.set("/process/user", json!({"uid": 12, "gid": 34, "umask": 0o027, "additionalGids": [56]}));
    bundle.set("/process/oomScoreAdj", json!(321)).push("/process/env", json!("HOME=/"));
    let (container, init) = init_report(ctx, &mut bundle)?;
    let by_file = ctx.path("process.json");
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["/probe", "report"]);
    fs::write(&by_file, process.to_string())?;
    let file = ctx.call(["exec", "--process"]).arg(&by_file).arg(&container.id).run()?.ok()?.json()?;
    let flags = container.exec_report(&[])?;
    let keys = [
        "uid",
        "euid",
        "gid",
        "egid",
        "groups",
        "capabilities",
        "securebits",
        "noNewPrivileges",
        "seccomp",
        "umask",
        "rlimits",
        "personalityBits",
        "cwd",
        "signals",
        "env",
        "oomScoreAdj",
        "cgroup",
        "hostname",
        "timerSlack",
        "controllingTerminal",
        "dumpable",
    ];
    for key in keys {
        ensure_eq!(file[key], init[key], "{key} of exec --process");
        // What exec takes from the configuration of the init process when it is given a command only.
        ensure_eq!(flags[key], init[key], "{key} of exec");
    }
    let numbers =
        |report: &Value| report["fds"].as_object().map(|fds| fds.keys().cloned().collect::<Vec<_>>());
    ensure_eq!(numbers(&file), numbers(&init), "descriptors of exec --process");
    Ok(())
}

/// The runtime is held up where the process that it has just cloned runs ahead of it.
fn slow_parent(ctx: &Ctx) -> Outcome {
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() {
        return skip("strace is not installed");
    }
    let mut bundle = sleeper(ctx)?;
    bundle.set("/process/oomScoreAdj", json!(321));
    let container = bundle.start(ctx)?;
    let slow = [
        "-f",
        "-qq",
        "-e",
        "trace=clone3",
        "-e",
        "inject=clone3:delay_exit=500000:when=1",
        "-o",
        "/dev/null",
    ];
    let call = ctx.program(strace).args(slow).arg("--").arg(&ctx.runtime).arg("--root").arg(&ctx.root);
    let found = call.args(["exec", &container.id, "/probe", "report"]).run()?.ok()?.json()?;
    ensure_eq!(found["oomScoreAdj"], json!("321"), "oomScoreAdj");
    Ok(())
}

fn process_file(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let path = ctx.path("process.json");
    let process = json!({
        "args": ["/probe", "report"], "cwd": "/proc", "env": ["A=1"], "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
        "capabilities": {"bounding": ["CAP_KILL"]}, "noNewPrivileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]
    });
    fs::write(&path, process.to_string())?;
    let found = ctx.call(["exec", "--process"]).arg(&path).arg(&container.id).run()?.ok()?.json()?;
    ensure_eq!(found["cwd"], json!("/proc"), "cwd");
    ensure_eq!(found["env"][0], json!("A=1"), "env");
    ensure_eq!(json!([found["uid"], found["gid"], found["groups"]]), json!([5, 6, [7]]), "ids");
    ensure_eq!(found["capabilities"]["bounding"], json!(capability_mask(&["CAP_KILL"])), "bounding set");
    ensure_eq!(found["rlimits"]["RLIMIT_NOFILE"], json!([100, 100]), "rlimit");
    fs::write(&path, "{nonsense")?;
    ctx.call(["exec", "--process"]).arg(&path).arg(&container.id).run()?.fails_in_one_line()?;
    Ok(())
}

fn env(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let found = container.exec_report(&["--env", "A=1", "--env", "B=2"])?;
    let list: Vec<&str> = found["env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for entry in ["A=1", "B=2", "TERM=xterm"] {
        ensure!(list.contains(&entry), "{entry} is missing in {list:?}");
    }
    Ok(())
}

fn cwd(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    ensure_eq!(container.exec_report(&["--cwd", "/proc/sys"])?["cwd"], json!("/proc/sys"), "cwd");
    Ok(())
}

fn user(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let found = container.exec_report(&["--user", "1000:100"])?;
    ensure_eq!(json!([found["uid"], found["gid"]]), json!([1000, 100]), "ids of 1000:100");
    let found = container.exec_report(&["-u", "1000"])?;
    ensure_eq!(found["uid"], json!(1000), "uid of 1000");
    Ok(())
}

fn e3_user(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    // An image that names a user "1" with uid 0.
    fs::create_dir(bundle.rootfs().join("etc"))?;
    fs::write(bundle.rootfs().join("etc/passwd"), "1:x:0:0::/:/probe\nroot:x:0:0::/:/probe\n")?;
    let container = bundle.start(ctx)?;
    ensure_eq!(container.exec_report(&["--user", "1"])?["uid"], json!(1), "uid of the user number 1");
    for user in [":", ":1", "-1", "+1x", " 1", "1 ", "4294967295", "4294967296", "1e3", "root", "1:", "1:x"] {
        let ran = container.exec_call(&["--user", user], &["report"]).run()?;
        ensure!(ran.status != 0, "--user {user:?} ran as {}", ran.json()?["uid"]);
        ran.fails()?;
    }
    Ok(())
}

fn additional_gids(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let found = container.exec_report(&["-g", "100", "-g", "200"])?;
    ensure_eq!(found["groups"], json!([100, 200]), "groups");
    Ok(())
}

fn e1_cap(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.privileged_by(&["CAP_KILL"]);
    let container = bundle.start(ctx)?;
    let found = container.exec_report(&["-c", "CAP_CHOWN", "-c", "CAP_NET_RAW"])?["capabilities"].clone();
    let three = json!(capability_mask(&["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"]));
    for set in ["bounding", "permitted", "effective"] {
        ensure_eq!(found[set], three, "{set} set");
    }
    for set in ["inheritable", "ambient"] {
        ensure_eq!(found[set], json!(capability_mask(&[])), "{set} set");
    }
    Ok(())
}

fn no_new_privs(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.set("/process/noNewPrivileges", json!(false));
    let container = bundle.start(ctx)?;
    ensure_eq!(container.exec_report(&[])?["noNewPrivileges"], json!(0), "without the flag");
    ensure_eq!(container.exec_report(&["--no-new-privs"])?["noNewPrivileges"], json!(1), "with the flag");
    Ok(())
}

fn detached(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let file = ctx.path("pid");
    let flag = file.display().to_string();
    container.exec_call(&["--detach", "--pid-file", &flag], &["sleep"]).run()?.ok()?;
    let pid = fs::read_to_string(&file).during("the pid file")?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).during("the process of the pid file")?;
    ensure_eq!(command, "/probe\0sleep\0", "command line");
    Ok(())
}

fn stdin(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let ran = container.exec_call(&[], &["cat"]).stdin("through exec")?.run()?.ok()?;
    ensure_eq!(ran.stdout(), "through exec", "output");
    Ok(())
}

fn missing(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    let ran = ctx.call(["exec", &container.id, "/no/such/program"]).run()?;
    ran.exits(255)?.fails_in_one_line()?.says("no such file or directory")?;
    let ran = ctx.call(["exec", &container.id, "nosuchprogram"]).run()?;
    ran.exits(255)?.fails_in_one_line()?.says("executable file not found in $PATH")?;
    Ok(())
}

fn stopped(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    let container = bundle.start(ctx)?;
    container.wait_for("stopped")?;
    container.exec(&["true"])?.exits(255)?.fails_in_one_line()?;
    Ok(())
}

fn paused(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.call("pause", &[])?.ok()?;
    container.exec(&["true"])?.exits(255)?.fails_in_one_line()?;
    container.call("resume", &[])?.ok()?;
    Ok(())
}

fn created(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    container.exec(&["true"])?.ok()?;
    ensure_eq!(container.status()?, "created", "status");
    Ok(())
}

fn no_command(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    ctx.call(["exec", &container.id]).run()?.fails()?;
    ctx.call(["exec"]).run()?.fails()?;
    Ok(())
}

fn many(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    for number in 0..50 {
        container.exec(&["exit", &number.to_string()])?.exits(number)?;
    }
    Ok(())
}

fn rlimits(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 101}]));
    let container = bundle.start(ctx)?;
    ensure_eq!(container.exec_report(&[])?["rlimits"]["RLIMIT_NOFILE"], json!([99, 101]), "rlimit");
    Ok(())
}

fn ends_with_it(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    let container = bundle.start(ctx)?;
    container.exec_call(&["--detach"], &["sleep"]).run()?.ok()?;
    ensure_eq!(cgroups::processes(&bundle.id)?.len(), 2, "processes");
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")?;
    eventually("no process", std::time::Duration::from_secs(60), || {
        crate::harness::reap_dead();
        Ok(cgroups::processes(&bundle.id)?.is_empty().then_some(()))
    })
}

fn c8_exec_cgroup(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    let bundle = sleeper(ctx)?;
    let container = bundle.start(ctx)?;
    let planted = format!("{}bc", bundle.id);
    let sibling = cgroups::of_processes()?.mount.join(&planted);
    fs::create_dir(&sibling)?;
    let mut outcome = Ok(());
    for path in ["../x", "a/../../x", &format!("../{planted}"), "/../.."] {
        let ran = container.exec_call(&["--cgroup", path], &["report"]).run()?;
        if ran.status == 0 {
            let outside = cgroups::paths(&ran.json()?)?.into_iter().find(|path| {
                !path.ends_with(&format!("/{}", bundle.id)) && !path.contains(&format!("/{}/", bundle.id))
            });
            if let Some(outside) = outside {
                outcome = Err(crate::failure::Failure::new(format!("--cgroup {path} led to {outside}")));
            }
        }
    }
    fs::remove_dir(&sibling)?;
    outcome
}

/// v2's "no internal process" rule keeps everybody out of a cgroup whose sub-cgroups have controllers.
fn exec_cgroup_named(ctx: &Ctx) -> Outcome {
    let hierarchy = cgroups::of_processes()?;
    if hierarchy.version != 2 {
        return skip("processes are in a cgroup of version 1");
    }
    let bundle = sleeper(ctx)?;
    let container = bundle.start(ctx)?;
    let group = cgroups::directory(&hierarchy, &bundle.id);
    if !fs::read_to_string(group.join("cgroup.controllers"))?.contains("memory") {
        return skip("the container's cgroup has no memory controller");
    }
    fs::create_dir(group.join("sub"))?;
    fs::write(group.join("sub/cgroup.procs"), container.pid()?.to_string())?;
    fs::write(group.join("cgroup.subtree_control"), "+memory")?;
    let in_sub = |options: &[&str]| -> Outcome {
        let paths = cgroups::paths(&container.exec_call(options, &["report"]).run()?.ok()?.json()?)?;
        ensure!(paths.iter().all(|path| path.ends_with("/sub")), "{options:?}: {paths:?}");
        Ok(())
    };
    in_sub(&[])?;
    in_sub(&["--cgroup", "sub"])?;
    for (path, file) in [("/", "/cgroup.procs"), ("none", "/none/cgroup.procs")] {
        let ran = container.exec_call(&["--cgroup", path], &["report"]).run()?.fails_in_one_line()?;
        ran.says(" adding pid ")?.says(" to cgroups")?.says(file)?;
    }
    Ok(())
}
