//! security.md C: what a container can reach of the runtime's own processes, in the created state and on exec.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use super::Case;
use crate::auditor::audit;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx};
use crate::{cgroups, ensure, ensure_eq, sys, tracer};

pub const CASES: &[Case] = &[
    Case::new(
        "c1_executable_of_created",
        "security.md C1: the executable of a created init is sealed, or on a read-only mount",
        c1,
    ),
    Case::new(
        "c1_write_from_a_neighbour",
        "security.md C1: the executable cannot be written, neither while it runs nor after (CVE-2019-5736)",
        c1_write,
    )
    .sacrificial(),
    Case::new(
        "c2_mappings_of_created",
        "security.md C2: no page of the host's binary is mapped in a created init",
        c2,
    ),
    Case::new(
        "c3_descriptors_of_created",
        "security.md C3: a created init holds no directory or file of the host",
        c3,
    ),
    Case::new("c4_not_dumpable", "security.md C4: a created init cannot be dumped", c4),
    Case::new(
        "c4_neighbour_sees_nothing",
        "security.md C4: a neighbour in the pid namespace reads nothing of it",
        c4_reads,
    ),
    Case::new(
        "c4_paused_exec",
        "security.md C4, T4: at none of its calls an exec process shows anything of the host inside the container",
        c4_paused,
    )
    .limit(300),
    Case::new("c11_no_core_file", "security.md C11: SIGQUIT to a created init leaves no core file", c11),
    Case::new(
        "c12_environment_of_created",
        "security.md C12: a created init has nothing of its caller's environment",
        c12,
    ),
    Case::new("c13_state_root_unseen", "security.md C13: the container sees nothing of the state root", c13),
    Case::new(
        "f6_cgroup_of_created",
        "security.md F6: a created init is in its cgroup of every hierarchy",
        f6,
    ),
    Case::new("f7_recycled_pid", "security.md F7: a recycled pid is not signalled", f7).sacrificial(),
    Case::new("e5_setgroups", "security.md E5: without privilege setgroups is denied, and said so", e5),
];

fn sleeper(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn c1(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    let pid = container.pid()?;
    let found = audit(pid)?;
    let file = fs::File::open(format!("/proc/{pid}/exe"))?;
    if found.executable_name.contains("memfd:") {
        // F_SEAL_SEAL, SHRINK, GROW and WRITE (fcntl(2)).
        let seals = sys::seals(file.as_fd()).during("seals of the executable")?;
        ensure_eq!(seals & 0xf, 0xf, "seals of the executable");
    } else {
        let flags = nix::sys::statvfs::fstatvfs(&file)?.flags();
        ensure!(
            flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
            "the executable {} is neither a sealed memory file nor on a read-only mount",
            found.executable_name
        );
    }
    Ok(())
}

/// A running container and a created one in the same pid namespace; the pid of the created init as its neighbour
/// sees it, and what the neighbour got from trying `actions` with `{}` for that pid.
fn neighbours(ctx: &Ctx, capabilities: &[&str], actions: &[&[&str]]) -> Outcome<Vec<Value>> {
    let mut holder = sleeper(ctx)?;
    holder.privileged_by(capabilities);
    let holder = holder.start(ctx)?;
    holder.wait_output("ready")?;
    let mut bundle = sleeper(ctx)?;
    // With no capability more, so that nothing but its own doing keeps the neighbour off.
    bundle.privileged_by(capabilities);
    let path = format!("/proc/{}/ns/pid", holder.pid()?);
    bundle.without_namespace("pid").push("/linux/namespaces", json!({"type": "pid", "path": path}));
    let created = bundle.create(ctx)?;
    let status = fs::read_to_string(format!("/proc/{}/status", created.pid()?))?;
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")).during("NSpid")?;
    let inner = inner.split_whitespace().last().during("the inner pid")?.to_owned();
    let actions: Vec<Vec<String>> =
        actions.iter().map(|action| action.iter().map(|word| word.replace("{}", &inner)).collect()).collect();
    let found = holder.exec_actions(&json!(actions))?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

fn c1_write(ctx: &Ctx) -> Outcome {
    let before = fs::read(&ctx.runtime)?;
    let found = neighbours(ctx, &["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"], &[&["open", "/proc/{}/exe", "w"]])?;
    ensure!(found[0].get("errno").is_some(), "the executable could be opened for writing: {}", found[0]);
    // A descriptor of before serves to open the file again when nothing executes it any more, which the kernel would refuse.
    let created = sleeper(ctx)?.create(ctx)?;
    let held = fs::File::open(format!("/proc/{}/exe", created.pid()?))?;
    created.start()?.ok()?;
    created.wait_output("ready")?;
    let again = fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", held.as_raw_fd()));
    let written = again.and_then(|file| file.write_at(b"\x7f", 0));
    ensure!(written.is_err(), "the executable could be written when the program had taken its place");
    ensure!(fs::read(&ctx.runtime)? == before, "the runtime's binary has changed");
    Ok(())
}

fn c2(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.create(ctx)?;
    for name in audit(container.pid()?)?.mapped {
        ensure!(name.contains("memfd:"), "{name} is mapped");
    }
    Ok(())
}

fn c3(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    let call = bundle.create_call(ctx, &[])?;
    let directory = fs::File::open("/")?;
    let pairs = (10..20).map(|number| (directory.as_raw_fd(), number)).collect();
    call.setup(|setup| setup.fds = pairs).run()?.ok()?;
    let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
    let pid = nix::unistd::Pid::from_raw(state["pid"].as_i64().unwrap_or(0).try_into()?);
    for (number, (target, kind)) in audit(pid)?.descriptors {
        let allowed =
            number < 3 || !["directory", "file", "block device"].contains(&kind) || target.contains("memfd:");
        ensure!(allowed, "descriptor {number} is the {kind} {target}");
    }
    Ok(())
}

fn c4(ctx: &Ctx) -> Outcome {
    let mut bundle = sleeper(ctx)?;
    // The owner of /proc/PID is the process's user unless it cannot be dumped.
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let container = bundle.create(ctx)?;
    ensure_eq!(audit(container.pid()?)?.owner, 0, "owner of /proc/PID/fd");
    Ok(())
}

fn c4_reads(ctx: &Ctx) -> Outcome {
    let actions: &[&[&str]] = &[
        &["readlink", "/proc/{}/fd/0"],
        &["readlink", "/proc/{}/root"],
        &["readlink", "/proc/{}/cwd"],
        &["open", "/proc/{}/mem", "r"],
        &["readlink", "/proc/{}/exe"],
        &["read", "/proc/{}/environ"],
    ];
    for (action, result) in actions.iter().zip(neighbours(ctx, &["CAP_KILL"], actions)?) {
        let refused =
            result["errno"] == "EACCES" || result["errno"] == "EPERM" || result == json!({"ok": ""});
        ensure!(refused, "{} {} gave {result}", action[0], action[1]);
    }
    Ok(())
}

/// How long the container may take to answer.
const ANSWER_LIMIT: u16 = 20_000;

/// Asks the container what it sees, and keeps the answer. Called by the tracer, with the process of `exec` stopped before a call.
fn ask(dir: &std::path::Path) {
    use std::io::{BufRead, Write};
    let answered = || -> Outcome {
        let open = |name: &str| fs::OpenOptions::new().read(true).write(true).open(dir.join(name));
        open("ask")?.write_all(b"\n")?;
        let answer = open("answer")?;
        let mut waits = [nix::poll::PollFd::new(answer.as_fd(), nix::poll::PollFlags::POLLIN)];
        ensure!(nix::poll::poll(&mut waits, ANSWER_LIMIT)? > 0, "no answer");
        let mut line = String::new();
        std::io::BufReader::new(answer).read_line(&mut line)?;
        let mut seen = fs::OpenOptions::new().create(true).append(true).open(dir.join("seen"))?;
        Ok(seen.write_all(line.as_bytes())?)
    };
    // What has no answer is missed in the count of answers.
    let _missed = answered();
}

fn c4_paused(ctx: &Ctx) -> Outcome {
    // A label has the runtime open a procfs; where no module takes it, exec fails on the way.
    for (capabilities, label) in
        [(&["CAP_KILL"][..], ""), (&["CAP_SYS_PTRACE"], ""), (&["CAP_SYS_PTRACE"], "x")]
    {
        let mut bundle = ctx.bundle()?;
        let dir = ctx.path("questions");
        fs::create_dir(&dir)?;
        for name in ["ask", "answer"] {
            nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU)?;
        }
        bundle.mount("/questions", "bind", &dir.display().to_string(), &["bind"]);
        bundle.privileged_by(capabilities).probe(["watch", "/questions"]);
        let container = bundle.start(ctx)?;
        container.wait_output("ready")?;
        let mut exec = std::process::Command::new(&ctx.runtime);
        exec.arg("--root").arg(&ctx.root).arg("exec");
        if !label.is_empty() {
            exec.args(["--apparmor", label]);
        }
        exec.args([&*bundle.id, "/probe", "true"]);
        let quiet = || fs::File::create(ctx.path("exec")).map(std::process::Stdio::from);
        exec.stdin(std::process::Stdio::null()).stdout(quiet()?).stderr(quiet()?);
        let traced = tracer::run_beside_every_call(exec, ask, &dir)?;
        ensure!(
            !label.is_empty() || traced.status == 0,
            "exec under the tracer: exit status {}",
            traced.status
        );
        let seen = fs::read_to_string(dir.join("seen"))?;
        ensure_eq!(seen.lines().count(), traced.calls, "answers, one for each call");
        let mut met = 0;
        for line in seen.lines() {
            let found: Value = serde_json::from_str(line)?;
            for process in found.as_array().into_iter().flatten().filter(|one| one["name"] != "probe") {
                met += 1;
                shows_nothing(process, capabilities == ["CAP_SYS_PTRACE"])?;
            }
        }
        ensure!(!label.is_empty() || met > 0, "the exec process was never seen inside");
    }
    Ok(())
}

/// What a process of the runtime may show to a container that may trace it, or may not.
fn shows_nothing(process: &Value, may_trace: bool) -> Outcome {
    let descriptors = process["fds"]["ok"].as_object().cloned().unwrap_or_default();
    if !may_trace {
        for key in ["root", "cwd", "exe", "environ", "mem"] {
            ensure!(process[key].get("error").is_some(), "{key} can be looked at: {process}");
        }
        // Which numbers there are is no secret to the user of the same number.
        ensure!(descriptors.values().all(|one| one["link"] == ""), "descriptors of {process}");
        return Ok(());
    }
    if process["fds"].get("error").is_some() {
        // It has ended meanwhile.
        return Ok(());
    }
    for key in ["root", "cwd"] {
        ensure_eq!(process[key]["ok"], json!(true), "whether the {key} is the container's root: {process}");
    }
    ensure_eq!(process["environ"]["ok"], json!(0), "bytes of the environment of {process}");
    let program = process["exe"]["ok"].as_str().unwrap_or_default();
    ensure!(program.contains("memfd:"), "the program of {process}");
    for (number, descriptor) in descriptors {
        let link = descriptor["link"].as_str().unwrap_or_default();
        let anonymous =
            ["socket:", "pipe:", "anon_inode:", "/memfd:"].iter().any(|kind| link.starts_with(kind));
        let fine = anonymous || descriptor["isRoot"] == true || number.parse::<u8>()? < 3;
        ensure!(fine, "descriptor {number} of {process}");
    }
    Ok(())
}

fn c11(ctx: &Ctx) -> Outcome {
    // The first process of a PID namespace ignores the signal, and a core file needs a directory that can be written to.
    let mut bundle = sleeper(ctx)?;
    bundle.without_namespace("pid").set("/root/readonly", json!(false));
    let cwd = ctx.path("cwd");
    fs::create_dir(&cwd)?;
    let call = bundle.create_call(ctx, &[])?.cwd(&cwd);
    call.setup(|setup| setup.core_files = true).run()?.ok()?;
    ctx.call(["kill", &bundle.id, "QUIT"]).run()?.ok()?;
    // A second signal would cut the core file off.
    crate::harness::eventually(
        "the end by SIGQUIT",
        std::time::Duration::from_secs(10) * ctx.patience,
        || {
            let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
            Ok((state["status"] == "stopped").then_some(()))
        },
    )?;
    for dir in [cwd, bundle.dir.clone(), bundle.rootfs()] {
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with("core"), "{name} in {}", dir.display());
        }
    }
    Ok(())
}

fn c12(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    bundle.create_call(ctx, &[])?.env("SPEC_TESTS_CANARY", "secret").run()?.ok()?;
    let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
    let pid = nix::unistd::Pid::from_raw(state["pid"].as_i64().unwrap_or(0).try_into()?);
    let environment = audit(pid)?.environment;
    ensure!(
        !environment.contains("SPEC_TESTS_CANARY"),
        "the caller's environment is there, {} bytes of it",
        environment.len()
    );
    Ok(())
}

fn c13(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let root = ctx.root.display().to_string();
    bundle.actions(&json!([["list", root]]));
    ensure_eq!(bundle.run_json(ctx)?[0], json!({"errno": "ENOENT"}), "the state root");
    Ok(())
}

fn f6(ctx: &Ctx) -> Outcome {
    let bundle = sleeper(ctx)?;
    let container = bundle.create(ctx)?;
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()?))?;
    for path in cgroups::paths(&json!({"cgroup": text.lines().collect::<Vec<_>>()}))? {
        ensure!(crate::cgroups::is_of(&path, &bundle.id), "{path} is not the container's cgroup");
    }
    Ok(())
}

/// In a pid namespace of its own (the fixture's) the next pid can be chosen.
fn f7(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.wait_output("ready")?;
    let pid = container.pid()?;
    sys::send_signal(pid, libc::SIGKILL)?;
    container.wait_exit(pid)?;
    fs::write("/proc/sys/kernel/ns_last_pid", (pid.as_raw() - 1).to_string())
        .during("choose the next pid")?;
    let decoy = ctx.program(&ctx.probe).args(["probe", "sleep"]).spawn()?;
    let recycled = decoy.pid() == pid;
    if recycled {
        ensure_eq!(container.status()?, "stopped", "status");
        container.kill("KILL")?.fails()?;
        container.exec(&["true"])?.fails()?;
        container.delete()?.ok()?;
    }
    let lives = decoy.lives();
    sys::send_signal(decoy.pid(), libc::SIGKILL)?;
    decoy.wait()?;
    ensure!(lives, "a process with the recycled pid was killed");
    if recycled { Ok(()) } else { crate::failure::skip("the pid could not be chosen") }
}

fn e5(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let home = ctx.path("home");
    fs::create_dir(&home)?;
    let to_user = |path: &std::path::Path| nix::unistd::chown(path, Some(1000.into()), Some(1000.into()));
    // Everything on the way and in the bundle must be reachable for the user.
    for dir in [&ctx.dir, &bundle.dir, &bundle.rootfs(), &home] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    for dir in [&bundle.dir, &bundle.rootfs(), &home] {
        to_user(dir)?;
    }
    bundle.remove("/linux/cgroupsPath").remove("/linux/resources").unmount("/sys").unmount("/sys/fs/cgroup");
    bundle.unmount("/dev/pts").mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance"]);
    bundle.without_namespace("network").push("/linux/namespaces", json!({"type": "user"}));
    for kind in ["uid", "gid"] {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        bundle.set(&format!("/linux/{kind}Mappings"), map);
    }
    bundle.write()?;
    let call = |bundle: &Bundle| {
        ctx.bare_call(["--root"])
            .arg(home.join("state"))
            .args(["run", "--bundle"])
            .arg(&bundle.dir)
            .arg(&bundle.id)
            .env("XDG_RUNTIME_DIR", &home)
            .setup(|setup| setup.uid = Some((1000, 1000)))
    };
    let found = call(&bundle).run()?.ok()?.json()?;
    ensure_eq!(found["setgroups"], json!("deny"), "setgroups");
    ensure_eq!(found["uidMap"], json!(["0 1000 1"]), "uid map");
    bundle.set("/process/user/additionalGids", json!([5]));
    bundle.write()?;
    call(&bundle).run()?.exits(1)?.fails()?;
    Ok(())
}
