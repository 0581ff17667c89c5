//! Rows of security.md that are rules about order or about what is never done: seen in the recorded system calls
//! (fixture T7), under the tracer, or from inside.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome, skip};
use crate::harness::{Bundle, Ctx, Ran, eventually};
use crate::recorder::{Event, positions, record};
use crate::tracer::{self, Fault};
use crate::{cgroups, ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "a11_no_resolver_but_openat2",
        "security.md A11: without openat2, or with one that never answers, create is an error and opens nothing instead",
        a11,
    ),
    Case::new(
        "a18_links_of_joint_hierarchies",
        "security.md A18: they are made by the descriptor of the tmpfs that holds them, by plain names",
        a18,
    )
    .alone(),
    Case::new(
        "b9_procfs_of_a_joined_namespace",
        "security.md B9: exec works where a PID namespace was joined and the image has no /proc",
        b9,
    ),
    Case::new(
        "c6_exec_of_a_changed_record",
        "security.md C6: exec refuses a record with another start time, and joins nothing",
        c6,
    ),
    Case::new(
        "e8_where_the_filter_is_loaded",
        "security.md E8: last of all with no_new_privs, before the capabilities go without it",
        e8,
    ),
    Case::new(
        "e8_minimal_profile",
        "security.md E8: with no_new_privs a profile need not allow more than the program's own calls and execve",
        e8_minimal,
    ),
    Case::new("e10_int80", "security.md E10: int 0x80 does not go round the filter, listed or not", e10),
    Case::new("e19_no_file_of_the_image_is_written", "security.md E19: whatever HOME and env are", e19),
    Case::new("g15_the_bundle_is_opened_once", "security.md G15: its path is in one call only", g15),
    Case::new(
        "h8_no_variable_changes_anything",
        "security.md H8: the caller's environment changes nothing",
        h8,
    ),
];

fn a11(ctx: &Ctx) -> Outcome {
    for errno in [Errno::ENOSYS, Errno::EAGAIN] {
        let bundle = ctx.bundle()?;
        bundle.write()?;
        let errors = ctx.path("errors");
        let mut command = Command::new(&ctx.runtime);
        command.arg("--root").arg(&ctx.root).args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&errors)?);
        let traced = tracer::run_without(command, libc::SYS_openat2, Fault::Fail(errno))?;
        let said = fs::read_to_string(&errors)?;
        ensure!(traced.status != 0 && traced.status < 128, "{errno}: exit status {}: {said}", traced.status);
        ensure_eq!(said.trim().lines().count(), 1, "{errno}: lines of {said:?}");
        ensure!(cgroups::containing(&bundle.id)?.is_empty(), "{errno}: a cgroup was left");
        ensure!(!ctx.root.join(&bundle.id).exists(), "{errno}: a state directory was left");
    }
    Ok(())
}

/// A version 1 hierarchy of two controllers that nobody has mounted, in this case's own mount namespace.
struct Joint<'c>(&'c Path);

impl<'c> Joint<'c> {
    const CONTROLLERS: &'static str = "net_cls,net_prio";

    fn mount(at: &'c Path) -> Outcome<Self> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        fs::create_dir_all(at)?;
        match mount(Some("cgroup"), at, Some("cgroup"), MsFlags::empty(), Some(Self::CONTROLLERS)) {
            Ok(()) => Ok(Self(at)),
            Err(errno) => skip(format!("no hierarchy of {} can be mounted here: {errno}", Self::CONTROLLERS)),
        }
    }

    /// The number of the hierarchy (0: none is mounted), or of the cgroups in it.
    fn count(column: usize) -> Outcome<usize> {
        let counts = fs::read_to_string("/proc/cgroups")?;
        let line = counts.lines().find_map(|line| line.strip_prefix("net_cls\t")).during("net_cls")?;
        Ok(line.split('\t').nth(column).during("a column")?.parse()?)
    }
}

impl Drop for Joint<'_> {
    fn drop(&mut self) {
        // One that is unmounted with cgroups in it stays, and whoever mounts one of the two after us finds it busy. They go in the
        // background, and it does.
        let wait = |what, column, count| {
            eventually(what, Duration::from_secs(20), || Ok((Self::count(column)? == count).then_some(())))
        };
        let _empty = wait("an empty hierarchy", 1, 1);
        let _unmounted = umount2(self.0, MntFlags::empty());
        let _gone = wait("no hierarchy", 0, 0);
    }
}

fn a18(ctx: &Ctx) -> Outcome {
    ctx.needs_cgroup_paths()?;
    if cgroups::hierarchies()?.iter().all(|hierarchy| hierarchy.version == 2) {
        return skip("no cgroup v1 here");
    }
    // Where a system has it: by this name it is in the container too.
    let at = ctx.path("hierarchies").join(Joint::CONTROLLERS);
    let _joint = Joint::mount(&at)?;
    let mut bundle = ctx.bundle()?;
    let links = ["net_cls", "net_prio"].map(|name| json!(["readlink", format!("/sys/fs/cgroup/{name}")]));
    bundle.actions(&json!(links));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found, json!([{"ok": Joint::CONTROLLERS}, {"ok": Joint::CONTROLLERS}]), "the links");
    let dir = bundle.dir.display().to_string();
    let (ran, events) = record(ctx, &["run", "--bundle", &dir, &bundle.id], "")?;
    ran.ok()?;
    let made: Vec<&Event> = events
        .iter()
        .filter(|event| event.name == "symlinkat" && event.arguments.contains(Joint::CONTROLLERS))
        .collect();
    ensure_eq!(made.len(), 2, "calls that make a link");
    for event in made {
        let plain = ["\"net_cls\"", "\"net_prio\""].iter().any(|name| event.arguments.ends_with(name));
        ensure!(plain && !event.arguments.contains("AT_FDCWD"), "symlinkat({})", event.arguments);
    }
    ensure!(!events.iter().any(|event| event.name == "symlink"), "a link is made by path");
    Ok(())
}

fn sleeper(ctx: &Ctx) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    Ok(bundle)
}

fn b9(ctx: &Ctx) -> Outcome {
    let holder = sleeper(ctx)?.start(ctx)?;
    holder.wait_output("ready")?;
    let mut bundle = sleeper(ctx)?;
    let path = format!("/proc/{}/ns/pid", holder.pid()?);
    bundle.without_namespace("pid").push("/linux/namespaces", json!({"type": "pid", "path": path}));
    bundle.unmount("/proc").set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    bundle.set("/process/user", json!({"uid": 5, "gid": 6, "additionalGids": [7]}));
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    let found = container.exec_actions(&json!([["list", "/proc"], ["report"]]))?;
    ensure!(found[0]["errno"] == "ENOENT" || found[0]["ok"] == json!([]), "/proc is {}", found[0]);
    let report = &found[1]["ok"];
    ensure_eq!((&report["uid"], &report["gid"]), (&json!(5), &json!(6)), "user and group");
    Ok(())
}

/// state.json with the start time of the init process changed, under either runtime's name for it.
fn change_start_time(value: &mut Value) -> bool {
    let Value::Object(map) = value else { return false };
    for (key, value) in map.iter_mut() {
        if ["start_time", "init_process_start"].contains(&key.as_str()) {
            *value = json!(value.as_u64().unwrap_or(0) + 1);
            return true;
        }
        if change_start_time(value) {
            return true;
        }
    }
    false
}

fn c6(ctx: &Ctx) -> Outcome {
    let container = sleeper(ctx)?.start(ctx)?;
    container.wait_output("ready")?;
    let pid = container.pid()?;
    let file = ctx.root.join(&container.id).join("state.json");
    let sound = fs::read(&file).during("state.json")?;
    let mut state: Value = serde_json::from_slice(&sound)?;
    ensure!(change_start_time(&mut state), "state.json has no start time");
    fs::write(&file, state.to_string())?;
    let (ran, events) = record(ctx, &["exec", &container.id, "/probe", "true"], "")?;
    ran.fails()?;
    ensure!(positions(&events, "setns(").is_empty(), "a namespace was joined");
    container.kill("KILL")?.fails()?;
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the process with another start time was killed");
    fs::write(&file, sound)?;
    container.exec(&["true"])?.ok().map(drop)
}

/// The calls of the process that becomes the container's, up to its execve.
fn of_the_init(ctx: &Ctx, no_new_privileges: bool) -> Outcome<Vec<Event>> {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).probe(["true"]);
    bundle.set("/process/user", json!({"uid": 5, "gid": 6}));
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    let (ran, events) = record(ctx, &["run", "--bundle", &dir, &bundle.id], "")?;
    ran.ok()?;
    let program =
        events.iter().rfind(|event| event.name == "execve" && event.arguments.contains("\"/probe\""));
    let pid = program.during("the program's execve")?.pid;
    Ok(events.into_iter().filter(|event| event.pid == pid).collect())
}

fn e8(ctx: &Ctx) -> Outcome {
    let events = of_the_init(ctx, true)?;
    let last = |start: &str| positions(&events, start).last().copied().during(start.to_owned());
    let filter = last("seccomp(SECCOMP_SET_MODE_FILTER")?;
    ensure!(
        last("prctl(PR_SET_NO_NEW_PRIVS")? < filter && last("capset(")? < filter,
        "the filter is not last"
    );
    let after: Vec<&str> = events[filter + 1..].iter().map(|event| event.name.as_str()).collect();
    // What a profile has to allow beside the program's own: reporting, and execve.
    let expected =
        ["write", "sendto", "sendmsg", "close", "close_range", "prctl", "execve", "execveat", "prlimit64"];
    let strange: Vec<&&str> = after.iter().filter(|name| !expected.contains(name)).collect();
    ensure!(strange.is_empty(), "between the filter and execve: {after:?}");
    let events = of_the_init(ctx, false)?;
    let last = |start: &str| positions(&events, start).last().copied().during(start.to_owned());
    ensure!(
        last("seccomp(SECCOMP_SET_MODE_FILTER")? < last("capset(")?,
        "capabilities go before the filter is loaded"
    );
    ensure!(positions(&events, "prctl(PR_SET_NO_NEW_PRIVS").is_empty(), "no_new_privs was not asked for");
    Ok(())
}

fn e8_minimal(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_KILL_PROCESS",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": [
                "execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlinkat",
                "readlink", "getrandom", "mprotect", "mmap", "munmap", "madvise", "poll", "ppoll", "rt_sigaction",
                "rt_sigprocmask", "sigaltstack", "exit_group", "newfstatat", "fcntl", "write", "gettid", "sched_getaffinity",
                "uname", "futex", "close"
            ], "action": "SCMP_ACT_ALLOW"}]
        }),
    );
    bundle.run(ctx)?.ok().map(drop)
}

/// `getpgid` as the 32-bit table of x86 numbers it (arch/x86/entry/syscalls/syscall_32.tbl).
const GETPGID_32: &str = "132";

fn e10(ctx: &Ctx) -> Outcome {
    if !cfg!(target_arch = "x86_64") {
        return crate::failure::skip("int 0x80 is x86's");
    }
    let profile = |architectures: Value| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures,
            "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]
        })
    };
    let mut bundle = ctx.bundle()?;
    bundle.actions(&json!([["int80", GETPGID_32]]));
    let found = bundle.run_json(ctx)?;
    ensure!(found[0].get("ok").is_some(), "without a filter: {}", found[0]);
    bundle.set("/linux/seccomp", profile(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found[0], json!({"errno": "EADDRNOTAVAIL"}), "with the architecture in the profile");
    bundle.set("/linux/seccomp", profile(json!(["SCMP_ARCH_X86_64"])));
    let ran = bundle.run(ctx)?;
    // SIGSYS is 31.
    ensure_eq!(ran.status, 128 + 31, "exit status without the architecture in the profile");
    Ok(())
}

/// Every file below a directory with its size and contents.
fn contents(dir: &Path) -> Outcome<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)?.flatten() {
        let path = entry.path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.insert(name, Vec::new());
            found.extend(contents(&path)?);
        } else {
            found.insert(name, fs::read(&path)?);
        }
    }
    Ok(found)
}

fn e19(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    // Mount points are made where they are missing: they are there already.
    for dir in ["proc", "dev", "sys", "etc"] {
        fs::create_dir(bundle.rootfs().join(dir))?;
    }
    fs::write(bundle.rootfs().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    fs::write(bundle.rootfs().join("etc/group"), "root:x:0:\n")?;
    bundle.set("/root/readonly", json!(false)).set("/process/user", json!({"uid": 1234, "gid": 4321}));
    bundle.push("/process/env", json!("HOME=/x\nevil::0:0::/:/bin/sh")).probe(["true"]);
    let before = contents(&bundle.rootfs())?;
    bundle.run(ctx)?.ok()?;
    ensure!(before == contents(&bundle.rootfs())?, "files of the image have changed");
    Ok(())
}

fn g15(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]).write()?;
    let dir = bundle.dir.display().to_string();
    let (ran, events) = record(ctx, &["run", "--bundle", &dir, &bundle.id], "")?;
    ran.ok()?;
    let quoted = [format!("\"{dir}\""), format!("\"{dir}/")];
    let named = events.iter().filter(|event| !["execve", "read", "write"].contains(&event.name.as_str()));
    let named: Vec<String> = named
        .filter(|event| quoted.iter().any(|path| event.arguments.contains(path)))
        .map(|event| event.name.clone())
        .collect();
    ensure_eq!(named.len(), 1, "calls with the bundle's path, {:?} among them", named.iter().take(5));
    Ok(())
}

fn h8(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    let plain = bundle.run_json(ctx)?;
    let mut call = bundle.run_call(ctx, &[])?;
    for name in [
        "SKEG_DEBUG",
        "SKEG_NO_SECCOMP",
        "SKEG_NO_PIVOT",
        "RUNC_DMZ",
        "_LIBCONTAINER_INITTYPE",
        "_LIBCONTAINER_INITPIPE",
        "_LIBCONTAINER_LOGLEVEL",
        "_CONTAINERS_USERNS_CONFIGURED",
        "CRUN_DISABLE",
        "RUST_LOG",
        "RUST_BACKTRACE",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "GODEBUG",
        "MALLOC_CHECK_",
        "TMPDIR",
        "HOME",
        "container",
    ] {
        call = call.env(name, "1");
    }
    let ran: Ran = call.run()?.ok()?;
    let odd = ran.json()?;
    for key in [
        "capabilities",
        "seccomp",
        "noNewPrivileges",
        "env",
        "groups",
        "umask",
        "rlimits",
        "fds",
        "cwd",
        "securebits",
    ] {
        let strip = |value: &Value| value.to_string().replace(char::is_numeric, "#");
        ensure_eq!(strip(&odd[key]), strip(&plain[key]), "{key}");
    }
    ensure_eq!(ran.stderr(), "", "standard error");
    Ok(())
}
