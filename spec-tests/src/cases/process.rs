//! config.md and config-linux.md, process: what the container's process is and has.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx, Ran};
use crate::inside::report::capability_mask;
use crate::{ensure, ensure_eq, sys};

pub const CASES: &[Case] = &[
    Case::new("process_args", "config.md, process: args is the argument vector, untouched", process_args),
    Case::new("process_env", "config.md, process: env is the environment, in its order", process_env),
    Case::new("process_cwd", "config.md, process: cwd is the working directory", process_cwd),
    Case::new(
        "process_cwd_relative",
        "config.md, process: cwd MUST be an absolute path",
        process_cwd_relative,
    ),
    Case::new("process_args_empty", "config.md, process: one entry of args is required", process_args_empty),
    Case::new(
        "process_path_lookup",
        "config.md, process: args is looked up in the container's PATH",
        path_lookup,
    ),
    Case::new(
        "e21_no_lookup_on_the_host",
        "security.md E21: a program of the host that is not in the rootfs is not found",
        no_lookup_on_the_host,
    ),
    Case::new(
        "process_not_executable",
        "peers.md A1.3: a program without the executable bit is a permission denied",
        process_not_executable,
    ),
    Case::new(
        "process_missing_interpreter",
        "peers.md B 29: a script whose interpreter is missing says no such file or directory",
        process_missing_interpreter,
    ),
    Case::new(
        "process_format_error",
        "peers.md B 29: a file that is no program says exec format error",
        format_error,
    ),
    Case::new("process_user", "config.md, user: uid and gid are those of the process", process_user),
    Case::new(
        "process_user_keeps_no_capabilities",
        "config-linux.md, capabilities: a user that is not root has exactly the configured sets",
        user_capabilities,
    ),
    Case::new("e4_groups", "security.md E4: the supplementary groups are exactly additionalGids", e4_groups),
    Case::new(
        "e15_umask",
        "security.md E15: the umask is config's or 0022, whatever the caller's was",
        e15_umask,
    ),
    Case::new(
        "e15_modes_of_own_files",
        "security.md E15 and G2: state files have their modes whatever the caller's umask was",
        e15_modes,
    ),
    Case::new(
        "process_rlimits",
        "config.md, rlimits: soft and hard limits are as configured",
        process_rlimits,
    ),
    Case::new(
        "process_rlimits_twice",
        "config.md, rlimits: duplicated types MUST generate an error",
        process_rlimits_twice,
    ),
    Case::new(
        "process_rlimits_unknown",
        "config.md, rlimits: a type that cannot be mapped to the kernel MUST generate an error",
        process_rlimits_unknown,
    ),
    Case::new(
        "e1_capability_sets",
        "security.md E1: the five sets are exactly as in config",
        e1_capability_sets,
    ),
    Case::new(
        "e1_no_capabilities",
        "security.md E1: a process without capabilities has none",
        e1_no_capabilities,
    ),
    Case::new(
        "e2_ambient_of_the_caller",
        "security.md E2: ambient and inheritable capabilities of the caller do not reach the process",
        e2_ambient_of_the_caller,
    ),
    Case::new(
        "e2_unknown_and_ungrantable",
        "security.md E2: capabilities that are unknown or cannot be granted are left out, never widened",
        e2_unknown_and_ungrantable,
    ),
    Case::new("process_no_new_privileges", "config.md, process: noNewPrivileges is set as configured", nnp),
    Case::new("process_oom_score_adj", "config.md, process: oomScoreAdj is set as configured", oom_score_adj),
    Case::new(
        "process_oom_score_adj_range",
        "config.md, process: an oomScoreAdj outside of -1000 to 1000 is an error",
        oom_score_adj_range,
    ),
    Case::new(
        "process_oom_score_adj_unset",
        "config.md, process: without oomScoreAdj the runtime MUST NOT change the value",
        oom_score_adj_unset,
    ),
    Case::new(
        "e17_signals",
        "security.md E17: no signal is blocked or ignored, whatever the caller's were",
        e17_signals,
    ),
    Case::new(
        "e17_created_signals",
        "security.md E17: a created container hears the signals that it is sent, whatever the caller blocked or ignored",
        e17_created_signals,
    ),
    Case::new("e9_securebits", "security.md E9: securebits are cleared", securebits),
    Case::new(
        "e18_personality",
        "security.md E18: ADDR_NO_RANDOMIZE of the caller is not inherited",
        e18_personality,
    ),
    Case::new(
        "process_personality",
        "config-linux.md, personality: the domain is set as configured",
        personality,
    ),
    Case::new("c10_keyring", "security.md C10: the session keyring is a new one", c10_keyring),
    Case::new("process_session", "peers.md A1.3, conmon: the process leads a session of its own", session),
    Case::new(
        "process_stdin",
        "runtime.md, create: the process has the standard descriptors of the caller",
        stdin,
    ),
    Case::new(
        "e3_user_numbers",
        "security.md E3: a user id that is no u32 below 2^32-1 is an error, never 0",
        e3_user_numbers,
    ),
    Case::new(
        "e20_environment",
        "security.md E20: an entry of env without a name or = is an error",
        e20_environment,
    ),
    Case::new("process_io_priority", "config-linux.md, ioPriority: class and priority are set", io_priority),
    Case::new("process_scheduler", "config-linux.md, scheduler: the policy is set as configured", scheduler),
];

fn process_args(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["args", "a b", "", "--flag", "日本", "\n"]);
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found["args"], json!(["args", "a b", "", "--flag", "日本", "\n"]), "args");
    Ok(())
}

fn process_env(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/env", json!(["B=2", "A=1", "EMPTY=", "HOME=/h", "WITH==", "X=a b\nc"]));
    let found = bundle.run_call(ctx, &[])?.env("CANARY", "secret").run()?.ok()?.json()?;
    ensure_eq!(found["env"], json!(["B=2", "A=1", "EMPTY=", "HOME=/h", "WITH==", "X=a b\nc"]), "environment");
    Ok(())
}

fn process_cwd(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/cwd", json!("/proc/sys"));
    ensure_eq!(bundle.run_json(ctx)?["cwd"], json!("/proc/sys"), "working directory");
    fs::create_dir_all(bundle.rootfs().join("some/where"))?;
    bundle.set("/process/cwd", json!("/some/where"));
    ensure_eq!(bundle.run_json(ctx)?["cwd"], json!("/some/where"), "working directory");
    Ok(())
}

fn process_cwd_relative(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/cwd", json!("proc"));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn process_args_empty(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/args", json!([]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn path_lookup(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let bin = bundle.rootfs().join("deep/bin");
    fs::create_dir_all(&bin)?;
    fs::rename(bundle.rootfs().join("probe"), bin.join("probe"))?;
    bundle.set("/process/env", json!(["PATH=/nowhere:/deep/bin"]));
    bundle.set("/process/args", json!(["probe", "true"]));
    bundle.run(ctx)?.ok()?;
    bundle.set("/process/env", json!(["PATH=/nowhere"]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("executable file not found in $PATH")?;
    Ok(())
}

fn no_lookup_on_the_host(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/args", json!(["ls"]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("executable file not found in $PATH")?;
    Ok(())
}

fn plant(bundle: &Bundle, name: &str, content: &str, mode: u32) -> Outcome {
    let path = bundle.rootfs().join(name);
    fs::write(&path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn process_not_executable(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    plant(&bundle, "plain", "text", 0o644)?;
    bundle.set("/process/args", json!(["/plain"]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("permission denied")?;
    Ok(())
}

fn process_missing_interpreter(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    plant(&bundle, "script", "#!/bin/missing\n", 0o755)?;
    bundle.set("/process/args", json!(["/script"]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("no such file or directory")?;
    Ok(())
}

fn format_error(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    plant(&bundle, "text", "just text\n", 0o755)?;
    bundle.set("/process/args", json!(["/text"]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("exec format error")?;
    Ok(())
}

fn process_user(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/user", json!({"uid": 1234, "gid": 5678}));
    let found = bundle.run_json(ctx)?;
    for (key, value) in [("uid", 1234), ("euid", 1234), ("gid", 5678), ("egid", 5678)] {
        ensure_eq!(found[key], json!(value), "{key}");
    }
    Ok(())
}

fn user_capabilities(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/user", json!({"uid": 1234, "gid": 5678}));
    bundle.capabilities(&[
        ("bounding", &["CAP_KILL"]),
        ("permitted", &["CAP_KILL"]),
        ("effective", &["CAP_KILL"]),
    ]);
    let found = bundle.run_json(ctx)?;
    // Without an ambient set an execve by a user that is not root empties permitted and effective (capabilities(7)).
    expect_sets(&found, &["CAP_KILL"], &[], &[], &[], &[])?;
    let all: (&str, &[&str]) = ("ambient", &["CAP_KILL"]);
    let sets: [(&str, &[&str]); 5] =
        [("bounding", all.1), ("permitted", all.1), ("effective", all.1), ("inheritable", all.1), all];
    bundle.capabilities(&sets);
    let found = bundle.run_json(ctx)?;
    expect_sets(&found, &["CAP_KILL"], &["CAP_KILL"], &["CAP_KILL"], &["CAP_KILL"], &["CAP_KILL"])
}

/// Compares the five sets: bounding, permitted, effective, inheritable, ambient.
fn expect_sets(
    found: &Value,
    bnd: &[&str],
    prm: &[&str],
    eff: &[&str],
    inh: &[&str],
    amb: &[&str],
) -> Outcome {
    let sets =
        [("bounding", bnd), ("permitted", prm), ("effective", eff), ("inheritable", inh), ("ambient", amb)];
    for (set, names) in sets {
        ensure_eq!(found["capabilities"][set], json!(capability_mask(names)), "{set} set");
    }
    Ok(())
}

fn e4_groups(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let caller = |bundle: &Bundle| -> Outcome<Value> {
        let call = bundle.run_call(ctx, &[])?.setup(|setup| setup.groups = Some(vec![4, 27, 999]));
        call.run()?.ok()?.json()
    };
    ensure_eq!(caller(&bundle)?["groups"], json!([]), "groups without additionalGids");
    bundle.set("/process/user", json!({"uid": 5, "gid": 5, "additionalGids": [100, 65534]}));
    ensure_eq!(caller(&bundle)?["groups"], json!([100, 65534]), "groups with additionalGids");
    Ok(())
}

fn e15_umask(ctx: &Ctx) -> Outcome {
    for mask in [0, 0o777] {
        let mut bundle = ctx.bundle()?;
        let run = |bundle: &Bundle| -> Outcome<Value> {
            bundle.run_call(ctx, &[])?.setup(|setup| setup.umask = Some(mask)).run()?.ok()?.json()
        };
        ensure_eq!(run(&bundle)?["umask"], json!("0022"), "umask without process.user.umask");
        bundle.set("/process/user/umask", json!(0o027));
        ensure_eq!(run(&bundle)?["umask"], json!("0027"), "umask with process.user.umask");
    }
    Ok(())
}

fn e15_modes(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let root = ctx.path("root");
    bundle.write()?;
    let call = ctx
        .bare_call(["--root"])
        .arg(&root)
        .args(["create", "--bundle"])
        .arg(&bundle.dir)
        .arg(&bundle.id)
        .setup(|setup| setup.umask = Some(0));
    call.run()?.ok()?;
    let check = || -> Outcome {
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            let mode = fs::symlink_metadata(&dir)?.permissions().mode() & 0o7777;
            // The container's own directory may let its group through: only "others" and writers matter.
            ensure!(mode & 0o027 == 0 || dir != root, "{} has mode {mode:o}", dir.display());
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                let data = fs::symlink_metadata(&path)?;
                let mode = data.permissions().mode() & 0o7777;
                ensure!(mode & 0o022 == 0, "{} is writable by others: mode {mode:o}", path.display());
                if data.is_dir() {
                    dirs.push(path);
                }
            }
        }
        Ok(())
    };
    let checked = check();
    ctx.bare_call(["--root"]).arg(&root).args(["delete", "--force", &bundle.id]).run()?.ok()?;
    checked
}

fn process_rlimits(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let limits = [("RLIMIT_NOFILE", 512, 1000), ("RLIMIT_CORE", 0, 0), ("RLIMIT_FSIZE", 1 << 20, 1 << 30)];
    let entries = limits.map(|(kind, soft, hard)| json!({"type": kind, "soft": soft, "hard": hard}));
    bundle.set("/process/rlimits", json!(entries));
    let found = bundle.run_json(ctx)?;
    for (kind, soft, hard) in limits {
        ensure_eq!(found["rlimits"][kind], json!([soft, hard]), "{kind}");
    }
    Ok(())
}

fn process_rlimits_twice(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/process/rlimits", json!({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 10}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("RLIMIT_NOFILE")?;
    Ok(())
}

fn process_rlimits_unknown(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NONSENSE", "soft": 10, "hard": 10}]));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("RLIMIT_NONSENSE")?;
    Ok(())
}

fn e1_capability_sets(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let (three, two, one): (&[&str], &[&str], &[&str]) =
        (&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], &["CAP_CHOWN", "CAP_KILL"], &["CAP_CHOWN"]);
    bundle.capabilities(&[("bounding", three), ("permitted", three), ("effective", three)]);
    expect_sets(&bundle.run_json(ctx)?, three, three, three, &[], &[])?;
    bundle.set("/process/user", json!({"uid": 7, "gid": 7}));
    bundle.capabilities(&[
        ("bounding", three),
        ("permitted", two),
        ("effective", two),
        ("inheritable", two),
        ("ambient", one),
    ]);
    // For a user that is not root, permitted and effective after execve are the ambient set (capabilities(7)).
    expect_sets(&bundle.run_json(ctx)?, three, one, one, two, one)
}

fn e1_no_capabilities(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.capabilities(&[]);
    expect_sets(&bundle.run_json(ctx)?, &[], &[], &[], &[], &[])?;
    bundle.remove("/process/capabilities");
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found["capabilities"]["inheritable"], json!(capability_mask(&[])), "inheritable set");
    ensure_eq!(found["capabilities"]["ambient"], json!(capability_mask(&[])), "ambient set");
    Ok(())
}

fn e2_ambient_of_the_caller(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.privileged_by(&["CAP_KILL"]);
    // CAP_NET_RAW (13) and CAP_KILL (5).
    let call = bundle.run_call(ctx, &[])?.setup(|setup| setup.ambient = vec![5, 13]);
    expect_sets(&call.run()?.ok()?.json()?, &["CAP_KILL"], &["CAP_KILL"], &["CAP_KILL"], &[], &[])
}

fn e2_unknown_and_ungrantable(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    // Version 1.0 wants an error for them.
    bundle.set("/ociVersion", json!("1.2.0")).privileged_by(&["CAP_KILL", "CAP_NO_SUCH_THING"]);
    expect_sets(&bundle.run_json(ctx)?, &["CAP_KILL"], &["CAP_KILL"], &["CAP_KILL"], &[], &[])?;
    // CAP_SYS_RESOURCE (24); a caller that lacks it cannot grant it.
    if sys::prctl_get(libc::PR_CAPBSET_READ, 24)? == 0 {
        bundle.privileged_by(&["CAP_KILL", "CAP_SYS_RESOURCE"]);
        expect_sets(&bundle.run_json(ctx)?, &["CAP_KILL"], &["CAP_KILL"], &["CAP_KILL"], &[], &[])?;
    }
    Ok(())
}

fn nnp(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    ensure_eq!(bundle.run_json(ctx)?["noNewPrivileges"], json!(1), "with noNewPrivileges");
    bundle.set("/process/noNewPrivileges", json!(false));
    ensure_eq!(bundle.run_json(ctx)?["noNewPrivileges"], json!(0), "without noNewPrivileges");
    Ok(())
}

fn oom_score_adj(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/oomScoreAdj", json!(777));
    ensure_eq!(bundle.run_json(ctx)?["oomScoreAdj"], json!("777"), "oom_score_adj");
    Ok(())
}

fn oom_score_adj_range(ctx: &Ctx) -> Outcome {
    for value in [1001, -1001] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/process/oomScoreAdj", json!(value));
        bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    }
    Ok(())
}

fn oom_score_adj_unset(ctx: &Ctx) -> Outcome {
    let own = fs::read_to_string("/proc/self/oom_score_adj")?;
    ensure_eq!(ctx.bundle()?.run_json(ctx)?["oomScoreAdj"], json!(own.trim()), "oom_score_adj");
    Ok(())
}

fn e17_created_signals(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    // The first process of a PID namespace ignores them by itself (pid_namespaces(7)).
    bundle.probe(["sleep"]).without_namespace("pid");
    bundle.create_call(ctx, &[])?.setup(|setup| setup.deaf = true).run()?.ok()?;
    ctx.call(["kill", &bundle.id, "QUIT"]).run()?.ok()?;
    let limit = std::time::Duration::from_secs(10) * ctx.patience;
    crate::harness::eventually("the end by SIGQUIT", limit, || {
        let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
        Ok((state["status"] == "stopped").then_some(()))
    })
}

fn e17_signals(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    let created = bundle.create_call(ctx, &[])?.setup(|setup| setup.deaf = true).run()?.ok()?;
    ctx.call(["start", &bundle.id]).setup(|setup| setup.deaf = true).run()?.ok()?;
    let report = crate::harness::eventually("the report", std::time::Duration::from_secs(60), || {
        Ok(created.json().ok())
    })?;
    let none = json!({"blocked": [], "ignored": [], "caught": []});
    ensure_eq!(report["signals"], none, "signals of the container's process");
    let mut sleeper = ctx.bundle()?;
    sleeper.probe(["sleep"]);
    let container = sleeper.start(ctx)?;
    let ran = container.exec_call(&[], &["report"]).setup(|setup| setup.deaf = true).run()?.ok()?;
    ensure_eq!(ran.json()?["signals"], none, "signals of an exec process");
    Ok(())
}

fn securebits(ctx: &Ctx) -> Outcome {
    // Of capabilities(7): SECBIT_NO_SETUID_FIXUP, which has nothing to do with execve and so is not in its way.
    for of_caller in [None, Some(1 << 2)] {
        let call = ctx.bundle()?.run_call(ctx, &[])?.setup(|setup| setup.securebits = of_caller);
        let report = call.run()?.ok()?.json()?;
        ensure_eq!(report["securebits"], json!(0), "securebits, where the caller has {of_caller:?}");
    }
    Ok(())
}

fn e18_personality(ctx: &Ctx) -> Outcome {
    let call = ctx.bundle()?.run_call(ctx, &[])?.setup(|setup| setup.fixed_addresses = true);
    ensure_eq!(call.run()?.ok()?.json()?["personalityBits"], json!(0), "personality");
    Ok(())
}

fn personality(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
    ensure_eq!(bundle.run_json(ctx)?["personalityBits"], json!(8), "personality with LINUX32");
    bundle.set("/linux/personality", json!({"domain": "NONSENSE"}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn c10_keyring(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    sys::add_session_key("spec-tests-canary").during("add a key to the caller's session keyring")?;
    let own = json!(sys::session_keyring()?);
    let found = bundle.run_json(ctx)?;
    ensure!(found["keyringSerial"] != own, "the container has its caller's session keyring");
    let kept = bundle.run_call(ctx, &["--no-new-keyring"])?.run()?.ok()?.json()?;
    ensure_eq!(kept["keyringSerial"], own, "keyring with --no-new-keyring");
    Ok(())
}

fn session(ctx: &Ctx) -> Outcome {
    let found = ctx.bundle()?.run_json(ctx)?;
    ensure_eq!(found["session"], found["pid"], "session of the init process");
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let found = bundle.start(ctx)?.exec_report(&[])?;
    ensure_eq!(found["session"], found["pid"], "session of an exec process");
    ensure_eq!(found["controllingTerminal"], json!(false), "controlling terminal");
    Ok(())
}

fn stdin(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["cat"]);
    let ran = bundle.run_call(ctx, &[])?.stdin("through and through")?.run()?.ok()?;
    ensure_eq!(ran.stdout(), "through and through", "output");
    Ok(())
}

fn e3_user_numbers(ctx: &Ctx) -> Outcome {
    for (pointer, value) in [
        ("/process/user/uid", json!(-1)),
        ("/process/user/uid", json!(4_294_967_296_u64)),
        ("/process/user/uid", json!(1.5)),
        ("/process/user/uid", json!("0")),
        ("/process/user/gid", json!(-1)),
        ("/process/user/gid", json!(4_294_967_296_u64)),
        ("/process/user/additionalGids", json!([-1])),
    ] {
        let mut bundle = ctx.bundle()?;
        bundle.set(pointer, value.clone());
        let ran = bundle.run(ctx)?;
        ran.exits(1).and_then(Ran::fails_in_one_line).during(format!("{pointer} = {value}"))?;
    }
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/user", json!({"uid": 2_147_483_648_u32, "gid": 4_294_967_294_u32}));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found["uid"], json!(2_147_483_648_u32), "uid above i32");
    ensure_eq!(found["gid"], json!(4_294_967_294_u32), "the largest gid");
    Ok(())
}

fn e20_environment(ctx: &Ctx) -> Outcome {
    for entry in ["NAME", "=value", "A\0B=1"] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/process/env", json!([entry]));
        let ran = bundle.run_call(ctx, &[])?.env("NAME", "secret of the host").run()?;
        ran.exits(1).and_then(Ran::fails).during(format!("env entry {entry:?}"))?;
    }
    Ok(())
}

fn io_priority(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
    // class 2 in the bits from 13 up (ioprio_set(2)).
    ensure_eq!(bundle.run_json(ctx)?["ioPriority"], json!((2 << 13) | 6), "io priority");
    Ok(())
}

fn scheduler(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 3}));
    ensure_eq!(bundle.run_json(ctx)?["scheduler"], json!(libc::SCHED_BATCH), "scheduling policy");
    Ok(())
}
