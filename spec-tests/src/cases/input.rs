//! security.md G and peers.md A1: ids, flags, configurations and state that are wrong; errors and logs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Call, Ctx, Ran};
use crate::{ensure, ensure_eq, leftovers, sys};

pub const CASES: &[Case] = &[
    Case::new(
        "version",
        "peers.md A1.1: --version has lines that managers parse, and nothing on stderr",
        version,
    ),
    Case::new("help", "peers.md A1.2: --help of every command exits 0", help),
    Case::new("unknown_command", "peers.md A1.4: an unknown command or flag is an error", unknown_command),
    Case::new("features", "features.md: JSON on standard output, not a byte on standard error", features),
    Case::new("features_fields", "features.md: what the runtime can do", features_fields),
    Case::new(
        "spec_writes_default",
        "peers.md A1.2: spec writes the default configuration, and never over one",
        spec,
    ),
    Case::new("json_log", "peers.md A1.4: one JSON object with level, msg and time for a failure", json_log),
    Case::new("g9_log_injection", "security.md G9: control characters make no further log line", g9),
    Case::new("g10_log_is_appended", "security.md G10: the log is appended to, never truncated", g10),
    Case::new("g1_ids", "security.md G1: ids that are paths or worse are refused by every command", g1)
        .limit(120),
    Case::new("g1_good_ids", "security.md G1: letters, digits and _ + - . are an id", g1_good),
    Case::new("g2_state_root", "security.md G2: a new state root is for its owner only", g2),
    Case::new("g2_foreign_state_root", "security.md G2: a state root of others is refused", g2_foreign),
    Case::new("g3_state_tampered", "security.md G3: damaged state is an error of that id only", g3)
        .limit(120),
    Case::new(
        "g3_largest_configuration",
        "security.md G3: what a configuration of any size made can be found and ended again",
        g3_largest,
    )
    .limit(120),
    Case::new("g5_hostile_config", "security.md G5: a hostile config.json is one error, quickly", g5)
        .limit(120),
    Case::new("g5_nul_in_strings", "security.md G5: NUL in a string is an error", g5_nul),
    Case::new("g6_config_values", "config.md: values that are invalid MUST generate an error", g6).limit(120),
    Case::new("g6_unknown_properties", "config.md: unknown properties MUST be ignored", unknown_properties),
    Case::new(
        "oci_version",
        "config.md: ociVersion MUST be a version that the runtime supports",
        oci_version,
    ),
    Case::new("g8_annotations", "security.md G8: annotations of any runtime change nothing", g8),
    Case::new("bundle_missing", "config.md: a bundle without config.json is an error", bundle_missing),
    Case::new("create_in_cwd", "peers.md A1.2: without --bundle the working directory is the bundle", in_cwd),
    Case::new("list_of_missing_root", "peers.md A1.4: list of a root that does not exist", list_missing),
    Case::new(
        "checkpoint_and_restore",
        "peers.md A1.3: podman's probes of checkpoint and restore",
        checkpoint,
    ),
    Case::new(
        "kill_bad_signals",
        "peers.md A1.2: numbers and names that are no signals are errors",
        bad_signals,
    ),
    Case::new("global_flags", "peers.md A1.1: the global flags that managers pass", global_flags),
    Case::new(
        "without_privileges",
        "peers.md B 46: a user without privileges is told what a container of a user needs",
        without_privileges,
    ),
];

fn version(ctx: &Ctx) -> Outcome {
    let ran = ctx.bare_call(["--version"]).run()?.ok()?;
    let text = ran.stdout();
    for start in ["commit: ", "spec: 1."] {
        ensure!(
            text.lines().any(|line| line.starts_with(start)),
            "no line starts with {start:?} in {text:?}"
        );
    }
    ensure!(text.lines().next().is_some_and(|line| line.contains(" version ")), "first line of {text:?}");
    ensure_eq!(ran.stderr(), "", "standard error");
    ensure_eq!(ctx.bare_call(["-v"]).run()?.ok()?.stdout(), text, "-v");
    Ok(())
}

const COMMANDS: [&str; 14] = [
    "create", "start", "state", "kill", "delete", "run", "exec", "list", "ps", "pause", "resume", "update",
    "events", "spec",
];

fn help(ctx: &Ctx) -> Outcome {
    ctx.bare_call(["--help"]).run()?.ok()?;
    for command in COMMANDS {
        let ran = ctx.bare_call([command, "--help"]).run()?.ok()?;
        ensure!(ran.stdout().contains(command), "help of {command}: {:?}", ran.stdout());
    }
    Ok(())
}

fn unknown_command(ctx: &Ctx) -> Outcome {
    ctx.bare_call(["frobnicate"]).run()?.fails()?;
    for command in COMMANDS {
        let ran = ctx.call([command, "--no-such-flag", "x"]).run()?;
        ensure!(
            ran.status != 0 && ran.status < 128 || ran.status == 255,
            "{command}: exit status {}",
            ran.status
        );
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        ensure!(said.contains("no-such-flag"), "{command}: {said:?} does not name the flag");
    }
    Ok(())
}

fn features(ctx: &Ctx) -> Outcome {
    let ran = ctx.bare_call(["features"]).run()?.ok()?;
    ensure_eq!(ran.stderr(), "", "standard error");
    let found = ran.json()?;
    for key in ["ociVersionMin", "ociVersionMax"] {
        ensure!(found[key].as_str().is_some_and(|text| text.starts_with("1.")), "{key} is {}", found[key]);
    }
    Ok(())
}

fn features_fields(ctx: &Ctx) -> Outcome {
    let found = ctx.bare_call(["features"]).run()?.ok()?.json()?;
    let has = |pointer: &str, name: &str| {
        found.pointer(pointer).and_then(Value::as_array).is_some_and(|list| list.contains(&json!(name)))
    };
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        ensure!(has("/hooks", hook), "hook {hook} is missing");
    }
    for option in ["ro", "rbind", "nosuid", "rro", "rprivate"] {
        ensure!(has("/mountOptions", option), "mount option {option} is missing");
    }
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
        ensure!(has("/linux/namespaces", namespace), "namespace {namespace} is missing");
    }
    ensure!(has("/linux/capabilities", "CAP_KILL"), "CAP_KILL is missing");
    ensure!(has("/linux/seccomp/actions", "SCMP_ACT_ERRNO"), "SCMP_ACT_ERRNO is missing");
    ensure_eq!(found.pointer("/linux/cgroup/v1"), Some(&json!(true)), "cgroup v1");
    Ok(())
}

fn spec(ctx: &Ctx) -> Outcome {
    let dir = ctx.path("dir");
    fs::create_dir(&dir)?;
    let call = || ctx.bare_call(["spec"]).cwd(&dir);
    call().run()?.ok()?;
    let mut written: Value = serde_json::from_slice(&fs::read(dir.join("config.json"))?)?;
    let mut expected = crate::config::default_config();
    // The version is the runtime's own, and so are the default host name and what later kernels taught to mask.
    for value in [&mut written, &mut expected] {
        value["ociVersion"] = json!("");
        value["hostname"] = json!("");
        value["linux"]["maskedPaths"] = json!([]);
        if let Some(list) = value.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
            list.retain(|namespace| namespace["type"] != "cgroup");
        }
    }
    ensure_eq!(written, expected, "the configuration");
    call().run()?.exits(1)?.fails_in_one_line()?;
    ctx.bare_call(["spec", "--bundle"]).arg(ctx.path("nowhere")).run()?.exits(1)?.fails()?;
    Ok(())
}

fn json_log(ctx: &Ctx) -> Outcome {
    let log = ctx.path("log");
    let call = ctx.bare_call(["--log"]).arg(&log).args(["--log-format", "json", "--root"]).arg(&ctx.root);
    call.args(["state", "nobody"]).run()?.exits(1)?.says("container does not exist")?;
    let text = fs::read_to_string(&log)?;
    ensure_eq!(text.lines().count(), 1, "lines of {text:?}");
    let entry: Value = serde_json::from_str(text.trim()).during(&text)?;
    ensure_eq!(entry["level"], json!("error"), "level");
    ensure!(
        entry["msg"].as_str().unwrap_or_default().contains("container does not exist"),
        "msg {}",
        entry["msg"]
    );
    let time = entry["time"].as_str().unwrap_or_default();
    ensure!(time.contains('T') && time.len() >= 20, "time {time:?}");
    Ok(())
}

fn g9(ctx: &Ctx) -> Outcome {
    let evil = "x\n{\"level\":\"error\",\"msg\":\"forged\",\"time\":\"now\"}\n\u{1b}[31m\"";
    for format in ["json", "text"] {
        let log = ctx.path("log");
        let mut bundle = ctx.bundle()?;
        bundle.mount(&format!("/{evil}"), "bind", &format!("/nowhere/{evil}"), &["bind"]);
        bundle.push("/process/env", json!("CANARY=very-secret"));
        bundle.write()?;
        let call = ctx.bare_call(["--log"]).arg(&log).args(["--log-format", format, "--root"]).arg(&ctx.root);
        let ran = call.args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).run()?;
        ran.exits(1)?.fails()?;
        let text = fs::read_to_string(&log)?;
        ensure!(!text.contains('\u{1b}'), "{format}: a raw escape in {text:?}");
        ensure!(!text.contains("very-secret"), "{format}: the environment is in {text:?}");
        for line in text.lines() {
            ensure!(
                !line.starts_with("{\"level\":\"error\",\"msg\":\"forged\""),
                "{format}: a forged line in {text:?}"
            );
            if format == "json" {
                serde_json::from_str::<Value>(line).during(line)?;
            }
        }
    }
    Ok(())
}

fn g10(ctx: &Ctx) -> Outcome {
    let log = ctx.path("log");
    fs::write(&log, "what was there\n")?;
    for _ in 0..2 {
        let call = ctx.bare_call(["--log"]).arg(&log).args(["--log-format", "json", "--root"]).arg(&ctx.root);
        call.args(["state", "nobody"]).run()?.exits(1)?;
    }
    let text = fs::read_to_string(&log)?;
    ensure!(text.starts_with("what was there\n"), "the log is {text:?}");
    ensure_eq!(text.lines().count(), 3, "lines of the log");
    Ok(())
}

const BAD_IDS: [&str; 12] =
    ["", ".", "..", "../x", "a/b", "/a", "a b", "a\nb", "a\u{1b}b", "é", "a:b", "../../../../../../etc"];

fn g1(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    bundle.write()?;
    fs::create_dir_all(ctx.dir.join("x"))?;
    let long = "x".repeat(4096);
    for id in BAD_IDS.into_iter().chain([long.as_str()]) {
        for command in ["create", "run"] {
            let ran = ctx.call([command, "--bundle"]).arg(&bundle.dir).arg(id).run()?;
            ran.exits(1)?.fails().during(format!("{command} {id:?}"))?;
        }
        for command in
            ["start", "state", "kill", "delete", "pause", "resume", "ps", "exec", "events", "update"]
        {
            let mut call = ctx.call([command, id]);
            if command == "exec" {
                call = call.arg("/probe");
            }
            let ran = call.run()?;
            ensure!(ran.status != 0, "{command} {id:?} succeeded");
        }
        if id != "." && !id.is_empty() {
            let ran = ctx.call(["delete", "--force", id]).run()?;
            ensure!(ran.status == 0 || !ran.stderr().is_empty(), "delete --force {id:?}");
        }
    }
    ensure!(ctx.dir.join("x").is_dir() && ctx.root.is_dir(), "a directory beside the state root is gone");
    ensure_eq!(fs::read_dir(&ctx.root)?.count(), 0, "entries of the state root");
    Ok(())
}

fn g1_good(ctx: &Ctx) -> Outcome {
    for suffix in ["_x", "-x.y", "+1", "UPPER", ".hidden"] {
        let mut bundle = ctx.bundle()?;
        let id = format!("{}{suffix}", bundle.id);
        if ctx.systemd && suffix.contains('+') {
            // No character of a unit's name.
            continue;
        }
        bundle.set("/linux/cgroupsPath", json!(ctx.cgroups_path(&id))).probe(["true"]);
        bundle.id = id;
        bundle.run(ctx)?.ok()?;
    }
    Ok(())
}

fn g2(ctx: &Ctx) -> Outcome {
    let root = ctx.path("new/root");
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    bundle.write()?;
    let call =
        ctx.bare_call(["--root"]).arg(&root).args(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    call.setup(|setup| setup.umask = Some(0)).run()?.ok()?;
    let mode = fs::metadata(&root)?.permissions().mode() & 0o7777;
    ctx.bare_call(["--root"]).arg(&root).args(["delete", "--force", &bundle.id]).run()?.ok()?;
    ensure_eq!(mode, 0o700, "mode of the state root (decimal)");
    Ok(())
}

fn g2_foreign(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    bundle.write()?;
    let foreign = ctx.path("foreign");
    fs::create_dir(&foreign)?;
    nix::unistd::chown(&foreign, Some(1000.into()), None)?;
    let open = ctx.path("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    for root in [foreign, open] {
        let call = ctx
            .bare_call(["--root"])
            .arg(&root)
            .args(["create", "--bundle"])
            .arg(&bundle.dir)
            .arg(&bundle.id);
        let ran = call.run()?;
        let data = fs::metadata(&root)?;
        let refused = ran.status != 0;
        if !refused {
            ctx.bare_call(["--root"]).arg(&root).args(["delete", "--force", &bundle.id]).run()?.ok()?;
        }
        let made_safe =
            data.permissions().mode() & 0o022 == 0 && std::os::unix::fs::MetadataExt::uid(&data) == 0;
        ensure!(refused || made_safe, "{} was used as it is", root.display());
    }
    Ok(())
}

fn g3_largest(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    // What a record has beside the annotations is then more than what the configuration has.
    for pointer in [
        "/mounts",
        "/hostname",
        "/process/env",
        "/process/capabilities",
        "/process/rlimits",
        "/linux/maskedPaths",
        "/linux/readonlyPaths",
        "/linux/resources",
        "/linux/seccomp",
    ] {
        bundle.remove(pointer);
    }
    bundle.write()?;
    let file = bundle.dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
    for size in [15 << 20, (16 << 20) - 1000, 16 << 20] {
        config["annotations"] = json!({"a": ""});
        let room = size - serde_json::to_vec(&config)?.len();
        config["annotations"]["a"] = json!("x".repeat(room));
        fs::write(&file, serde_json::to_vec(&config)?)?;
        let created = ctx.call(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).run()?;
        if created.status == 0 {
            for words in [&["start"][..], &["state"], &["delete", "--force"]] {
                ctx.call(words).arg(&bundle.id).run()?.ok().during(format!("{words:?} with {size} bytes"))?;
            }
        }
        let left = leftovers::of_case(ctx)?;
        ensure!(left.is_empty(), "{size} bytes: left behind: {}", left.join("; "));
    }
    Ok(())
}

fn g3(ctx: &Ctx) -> Outcome {
    let mut good = ctx.bundle()?;
    good.probe(["sleep"]);
    let good = good.create(ctx)?;
    type Mutation = (&'static str, fn(&[u8]) -> Vec<u8>);
    let mutations: [Mutation; 8] = [
        ("empty", |_| Vec::new()),
        ("half", |content| content[..content.len() / 2].to_vec()),
        ("garbage", |_| b"\xff\xfe garbage".to_vec()),
        ("array", |_| b"[]".to_vec()),
        ("null", |_| b"null".to_vec()),
        ("deep", |_| b"[".repeat(100_000)),
        ("huge", |_| vec![b' '; 64 << 20]),
        ("appended", |content| [content, b"trailing"].concat()),
    ];
    for (name, mutate) in mutations {
        let mut bundle = ctx.bundle()?;
        bundle.probe(["sleep"]);
        let container = bundle.create(ctx)?;
        let pid = container.pid()?;
        for entry in fs::read_dir(ctx.root.join(&container.id))? {
            let path = entry?.path();
            if fs::symlink_metadata(&path)?.is_file() {
                fs::write(&path, mutate(&fs::read(&path)?))?;
            }
        }
        for command in ["state", "kill", "pause", "ps", "start"] {
            let ran =
                ctx.call([command, &container.id]).limit(Duration::from_secs(10) * ctx.patience).run()?;
            let what = format!("{command} with state that is {name}");
            ensure!(
                ran.status < 128 || ran.status == 255,
                "{what}: exit status {}: {}",
                ran.status,
                ran.stderr()
            );
            ensure!(!ran.stderr().contains("panicked"), "{what}: {}", ran.stderr());
        }
        for format in ["--format=table", "--format=json", "-q"] {
            let list = ctx.call(["list", format]).run()?;
            ensure!(list.status == 0, "list {format} with state that is {name}: {}", list.stderr());
            ensure!(
                list.stdout().contains(&good.id),
                "list {format} with state that is {name} does not show the good container"
            );
        }
        ctx.call(["delete", "--force", &container.id]).run()?;
        let _gone = sys::send_signal(pid, libc::SIGKILL);
        let _gone = fs::remove_dir_all(ctx.root.join(&container.id));
        leftovers::clean_named(&bundle.dir, &bundle.id);
    }
    ensure_eq!(good.status()?, "created", "status of the good container");
    Ok(())
}

fn raw(ctx: &Ctx, content: &[u8], what: &str) -> Outcome {
    let bundle = ctx.bundle()?;
    fs::write(bundle.dir.join("config.json"), content)?;
    let call = ctx.call(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    let ran = call.limit(Duration::from_secs(10) * ctx.patience).run()?;
    ran.exits(1).and_then(Ran::fails_in_one_line).during(what)?;
    ensure_eq!(fs::read_dir(&ctx.root)?.count(), 0, "entries of the state root after {what}");
    Ok(())
}

fn g5(ctx: &Ctx) -> Outcome {
    raw(ctx, b"", "an empty file")?;
    raw(ctx, b"{", "half an object")?;
    raw(ctx, b"[]", "an array")?;
    raw(ctx, b"null", "null")?;
    raw(ctx, b"{\"ociVersion\": \"1.0.0\xff\"}", "invalid UTF-8")?;
    raw(ctx, &[b"{\"a\":".repeat(100_000), b"1".to_vec()].concat(), "deep nesting")?;
    let good = serde_json::to_vec(&ctx.bundle()?.config)?;
    raw(ctx, &[&good[..], b" trailing"].concat(), "trailing text")?;
    raw(ctx, &[&good[..good.len() - 1], b", \"x\": \""].concat(), "an open string")?;
    let bundle = ctx.bundle()?;
    let path = bundle.dir.join("config.json");
    fs::File::create(&path)?.set_len(1 << 30)?;
    let call = || {
        let call = ctx.call(["create", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        call.limit(Duration::from_secs(10) * ctx.patience).run()?.exits(1)?.fails()
    };
    call().during("a file of 1 GiB")?;
    fs::remove_file(&path)?;
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
    call().during("a FIFO")?;
    fs::remove_file(&path)?;
    fs::create_dir(&path)?;
    call().during("a directory")?;
    fs::remove_dir(&path)?;
    symlink("config.json", &path)?;
    call().during("a symlink to itself")?;
    Ok(())
}

fn g5_nul(ctx: &Ctx) -> Outcome {
    for pointer in [
        "/process/args/0",
        "/process/cwd",
        "/hostname",
        "/mounts/0/destination",
        "/mounts/0/source",
        "/root/path",
        "/linux/maskedPaths/0",
        "/linux/cgroupsPath",
    ] {
        let mut bundle = ctx.bundle()?;
        bundle.set(pointer, json!("/x\0y"));
        let ran = bundle.create_call(ctx, &[])?.run()?;
        ran.exits(1).and_then(Ran::fails).during(pointer)?;
    }
    Ok(())
}

fn g6(ctx: &Ctx) -> Outcome {
    let table = [
        ("/process/rlimits/0/soft", json!(-1)),
        ("/process/rlimits/0/hard", json!("x")),
        ("/process/terminal", json!("yes")),
        ("/process/args", json!("sh")),
        ("/process/capabilities", json!([])),
        ("/mounts/0/destination", json!(5)),
        ("/mounts", json!({})),
        ("/linux/namespaces/0/type", json!("nonsense")),
        ("/linux/resources/pids/limit", json!("many")),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}])),
        ("/linux/seccomp", json!({"defaultAction": 5})),
        ("/hooks", json!([])),
        ("/hostname", json!(7)),
        ("/root", json!("rootfs")),
    ];
    for (pointer, value) in table {
        let mut bundle = ctx.bundle()?;
        bundle.set(pointer, value.clone());
        let what = format!("{pointer} = {value}");
        let ran = bundle.create_call(ctx, &[])?.run()?;
        ran.exits(1).and_then(Ran::fails_in_one_line).during(&what)?;
        ctx.call(["state", &bundle.id]).run()?.fails().during(&what)?;
    }
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

fn unknown_properties(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    for pointer in ["/unknown", "/process/unknown", "/linux/unknown", "/mounts/0/unknown", "/root/unknown"] {
        bundle.set(pointer, json!({"deep": [1, 2, {"x": null}]}));
    }
    bundle.run_json(ctx)?;
    Ok(())
}

fn oci_version(ctx: &Ctx) -> Outcome {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.0"] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/ociVersion", json!(version)).probe(["true"]);
        bundle.run(ctx)?.ok().during(version)?;
    }
    Ok(())
}

fn g8(ctx: &Ctx) -> Outcome {
    let plain = ctx.bundle()?.run_json(ctx)?;
    let mut bundle = ctx.bundle()?;
    bundle.set(
        "/annotations",
        json!({
            "run.oci.keep_original_groups": "1", "run.oci.seccomp.receiver": "/x", "run.oci.handler": "krun",
            "run.oci.systemd.subgroup": "x", "run.oci.delegate-cgroup": "x", "io.kubernetes.cri-o.Devices": "/dev/sda",
            "org.criu.config": "/etc/passwd", "run.oci.hooks.stdout": "/tmp/x", "run.oci.mount_context_type": "context"
        }),
    );
    let noted = bundle.run_json(ctx)?;
    for key in ["groups", "capabilities", "seccomp", "noNewPrivileges", "uidMap"] {
        ensure_eq!(noted[key], plain[key], "{key}");
    }
    // These have numbers that differ from run to run.
    for key in ["fds", "devices", "env"] {
        let strip = |value: &Value| value.to_string().replace(char::is_numeric, "#");
        ensure_eq!(strip(&noted[key]), strip(&plain[key]), "{key}");
    }
    Ok(())
}

fn bundle_missing(ctx: &Ctx) -> Outcome {
    let id = ctx.id();
    let empty = ctx.path("empty");
    fs::create_dir(&empty)?;
    for dir in [empty, ctx.path("nowhere")] {
        let call = ctx.call(["create", "--bundle"]).arg(&dir).arg(&id);
        call.run()?.exits(1)?.fails_in_one_line()?;
    }
    Ok(())
}

fn in_cwd(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]).write()?;
    ctx.call(["create", &bundle.id]).cwd(&bundle.dir).run()?.ok()?;
    let state = ctx.call(["state", &bundle.id]).run()?.ok()?.json()?;
    ensure_eq!(state["bundle"], json!(bundle.dir), "bundle");
    let relative = ctx.bundle()?;
    relative.write()?;
    let name = relative.dir.file_name().unwrap_or_default();
    ctx.call(["run", "--bundle"]).arg(name).arg(&relative.id).cwd(&ctx.dir).run()?.ok()?;
    Ok(())
}

fn list_missing(ctx: &Ctx) -> Outcome {
    let ran = ctx.bare_call(["--root"]).arg(ctx.path("nowhere")).args(["list", "-q"]).run()?.ok()?;
    ensure_eq!(ran.stdout(), "", "list");
    Ok(())
}

fn checkpoint(ctx: &Ctx) -> Outcome {
    ctx.bare_call(["checkpoint", "--help"]).run()?.ok()?;
    let ran = ctx.bare_call(["restore", "--lsm-mount-context"]).run()?;
    ensure!(ran.status != 0, "restore --lsm-mount-context without a value succeeded");
    let said = format!("{}{}", ran.stdout(), ran.stderr());
    ensure!(said.contains("flag needs an argument"), "it says {said:?}");
    Ok(())
}

fn bad_signals(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    for signal in ["NOSUCH", "SIG", "SIGSIG", "-5", "9x", "4096"] {
        container.kill(signal)?.fails().during(format!("signal {signal:?}"))?;
    }
    ensure_eq!(container.status()?, "running", "status");
    Ok(())
}

fn global_flags(ctx: &Ctx) -> Outcome {
    let mut bundle: Bundle = ctx.bundle()?;
    bundle.probe(["true"]).write()?;
    let log = ctx.path("log");
    let call = ctx.bare_call(["--root"]).arg(&ctx.root).arg("--debug").arg("--log").arg(&log);
    let call = call.args(["--log-format", "text", "--rootless", "auto", "run", "-b"]).arg(&bundle.dir);
    call.args(["--no-new-keyring", "--no-pivot", "-no-subreaper"]).arg(&bundle.id).run()?.ok()?;
    let told = fs::read_to_string(&log).during("read the log")?;
    ensure!(told.lines().filter(|line| line.contains("level=debug")).count() > 2, "--debug tells {told:?}");
    Ok(())
}

fn without_privileges(ctx: &Ctx) -> Outcome {
    let bundle = ctx.bundle()?;
    bundle.write()?;
    let (foreign, own) = (ctx.path("foreign"), ctx.path("own"));
    fs::create_dir(&foreign)?;
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700))?;
    fs::create_dir(&own)?;
    chown(&own, Some(1000), Some(1000))?;
    for dir in [&ctx.dir, &bundle.dir, &bundle.rootfs()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    let as_user =
        |root: &Path| ctx.bare_call(["--root"]).arg(root).setup(|setup| setup.uid = Some((1000, 1000)));
    let refused = |call: Call| call.run()?.exits(1)?.fails_in_one_line();
    refused(as_user(&foreign).arg("list"))?.says("permission denied")?;
    let run = as_user(&own).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    refused(run)?.says("rootless container requires user namespaces")?;
    ensure!(fs::read_dir(&own)?.next().is_none(), "something is left in the state root");
    Ok(())
}
