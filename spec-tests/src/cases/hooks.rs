//! config.md, POSIX-platform hooks.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx, Ran};
use crate::inside::report;
use crate::{ensure, ensure_eq, leftovers};

pub const CASES: &[Case] = &[
    Case::new("hooks_order", "runtime.md, lifecycle: hooks of all six kinds are called in order", order),
    Case::new("hooks_state", "config.md, hooks: the state MUST be passed over stdin", state),
    Case::new(
        "hooks_namespaces",
        "config.md, hooks: each kind runs in the namespaces that the table says",
        spaces,
    ),
    Case::new("hooks_environment", "config.md, hooks: env and args are those of the entry", environment),
    Case::new(
        "hooks_failing_before",
        "runtime.md: a failing hook before the start stops and destroys",
        failing_before,
    ),
    Case::new(
        "hooks_failing_start",
        "runtime.md: a failing startContainer hook generates an error",
        failing_start,
    ),
    Case::new(
        "hooks_failing_after",
        "runtime.md: a failing poststop hook is logged and ignored",
        failing_after,
    ),
    Case::new(
        "hooks_failing_poststart",
        "runtime.md 1.3: a failing poststart hook generates an error and ends the container; before 1.3 it is logged",
        failing_poststart,
    ),
    Case::new("hooks_error_text", "peers.md B 32: the error names the hook and what it wrote", error_text),
    Case::new("h3_timeout", "security.md H3: a hook over its timeout is killed with its children", timeout),
    Case::new("h3_ignores_stdin", "security.md H3: a hook that reads nothing blocks nobody", ignores_stdin),
    Case::new("hooks_missing_program", "config.md, hooks: a path that is no program is an error", missing),
    Case::new("hooks_relative_path", "config.md, hooks: path MUST be absolute", relative),
    Case::new("hooks_timeout_zero", "config.md, hooks: timeout MUST be greater than zero", zero),
    Case::new(
        "h1_environment",
        "security.md H1: hooks have neither the container's env nor its rootfs as cwd",
        h1,
    ),
    Case::new("h4_descriptors", "security.md H4: a hook has the three standard descriptors and no other", h4),
    Case::new(
        "hooks_poststop_without_start",
        "runtime.md: poststop hooks run on delete, also of what never ran",
        poststop,
    ),
    Case::new("hooks_many", "config.md, hooks: entries MUST be called in the listed order", many),
];

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

struct Hooked {
    bundle: Bundle,
    log: PathBuf,
}

/// A bundle whose hooks write to a log that the container can reach too.
fn hooked(ctx: &Ctx) -> Outcome<Hooked> {
    let mut bundle = ctx.bundle()?;
    let dir = ctx.path("log");
    fs::create_dir(&dir)?;
    bundle.mount("/log", "bind", &dir.display().to_string(), &["bind"]);
    Ok(Hooked { bundle, log: dir.join("log") })
}

impl Hooked {
    fn add(&mut self, ctx: &Ctx, kind: &str, plan: &Value) -> &mut Self {
        self.add_with(ctx, kind, plan, &json!({}))
    }

    fn add_with(&mut self, ctx: &Ctx, kind: &str, plan: &Value, more: &Value) -> &mut Self {
        let inside = kind == "startContainer";
        let path = if inside { json!("/probe") } else { json!(ctx.probe) };
        let log = if inside { json!("/log/log") } else { json!(self.log) };
        let mut plan = plan.clone();
        if plan["name"].is_null() {
            plan["name"] = json!(kind);
        }
        let mut entry = json!({"path": path, "args": ["probe", "hook", log, plan.to_string()]});
        for (key, value) in more.as_object().into_iter().flatten() {
            entry[key] = value.clone();
        }
        self.bundle.push(&format!("/hooks/{kind}"), entry);
        self
    }

    fn entries(&self) -> Outcome<Vec<Value>> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).during("a line of the log")).collect()
    }

    fn names(&self) -> Outcome<Vec<String>> {
        Ok(self
            .entries()?
            .iter()
            .map(|entry| entry["name"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    fn entry(&self, name: &str) -> Outcome<Value> {
        self.entries()?
            .into_iter()
            .find(|entry| entry["name"] == name)
            .during(format!("a log entry of {name}"))
    }
}

fn all_kinds(ctx: &Ctx) -> Outcome<Hooked> {
    let mut hooked = hooked(ctx)?;
    for kind in KINDS {
        hooked.add(ctx, kind, &json!({}));
    }
    Ok(hooked)
}

fn order(ctx: &Ctx) -> Outcome {
    let mut hooked = all_kinds(ctx)?;
    hooked.bundle.probe(["true"]);
    let container = hooked.bundle.create(ctx)?;
    ensure_eq!(hooked.names()?, ["prestart", "createRuntime", "createContainer"], "hooks of create");
    container.start()?.ok()?;
    container.wait_for("stopped")?;
    ensure_eq!(hooked.names()?[3..], ["startContainer", "poststart"], "hooks of start");
    container.delete()?.ok()?;
    ensure_eq!(hooked.names()?[5..], ["poststop"], "hooks of delete");
    Ok(())
}

fn state(ctx: &Ctx) -> Outcome {
    let mut hooked = all_kinds(ctx)?;
    hooked.bundle.set("/ociVersion", json!("1.2.0"));
    hooked.bundle.set("/annotations", json!({"key": "value"})).probe(["sleep"]);
    let container = hooked.bundle.create(ctx)?;
    let pid = container.pid()?;
    container.start()?.ok()?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")?;
    container.delete()?.ok()?;
    let table = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    for (name, status) in table {
        let state = hooked.entry(name)?["state"].clone();
        ensure_eq!(state["id"], json!(container.id), "id in {name}");
        ensure_eq!(state["status"], json!(status), "status in {name}");
        ensure_eq!(state["bundle"], json!(container.dir), "bundle in {name}");
        ensure_eq!(state["annotations"], json!({"key": "value"}), "annotations in {name}");
        ensure!(state["ociVersion"].is_string(), "ociVersion in {name} is {}", state["ociVersion"]);
        let seen = state["pid"].as_i64().unwrap_or(0);
        match name {
            // runtime.md, state: for hooks in the container's namespaces it is the pid that is seen there.
            "createContainer" | "startContainer" => ensure_eq!(seen, 1, "pid in {name}"),
            "poststop" => {}
            _ => ensure_eq!(seen, i64::from(pid.as_raw()), "pid in {name}"),
        }
    }
    Ok(())
}

fn spaces(ctx: &Ctx) -> Outcome {
    let mut hooked = all_kinds(ctx)?;
    hooked.bundle.probe(["true"]);
    hooked.bundle.run(ctx)?.ok()?;
    let host = report::namespaces();
    for kind in KINDS {
        let own = hooked.entry(kind)?["namespaces"].clone();
        let inside = ["createContainer", "startContainer"].contains(&kind);
        for space in ["mnt", "net", "uts", "ipc"] {
            let different = own[space] != host[space];
            ensure!(
                different == inside,
                "{kind}: {space} namespace {}, the host's is {}",
                own[space],
                host[space]
            );
        }
    }
    Ok(())
}

fn environment(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    let more = json!({"env": ["ONE=1", "TWO=2"]});
    for kind in KINDS {
        hooked.add_with(ctx, kind, &json!({}), &more);
    }
    hooked.bundle.probe(["true"]);
    hooked.bundle.run_call(ctx, &[])?.env("CANARY", "x").run()?.ok()?;
    for kind in KINDS {
        ensure_eq!(hooked.entry(kind)?["env"], json!(["ONE=1", "TWO=2"]), "env of {kind}");
    }
    Ok(())
}

fn failing_before(ctx: &Ctx) -> Outcome {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut hooked = hooked(ctx)?;
        hooked.add(ctx, kind, &json!({"exit": 3})).add(ctx, "poststop", &json!({}));
        hooked.bundle.create_call(ctx, &[])?.run()?.exits(1).and_then(Ran::fails).during(kind)?;
        ctx.call(["state", &hooked.bundle.id]).run()?.fails().during(kind)?;
        let left = leftovers::of_case(ctx)?;
        ensure!(left.is_empty(), "{kind}: left behind: {}", left.join("; "));
        ensure!(
            hooked.names()?.contains(&"poststop".to_owned()),
            "{kind}: poststop was not called: {:?}",
            hooked.names()?
        );
    }
    Ok(())
}

fn failing_start(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.add(ctx, "startContainer", &json!({"exit": 3}));
    hooked.bundle.probe(["echo", "ran"]);
    let container = hooked.bundle.create(ctx)?;
    container.start()?.exits(1)?.fails_in_one_line()?;
    ensure!(!container.created.stdout().contains("ran"), "the program ran all the same");
    container.wait_for("stopped")
}

fn failing_after(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.add(ctx, "poststop", &json!({"exit": 3, "name": "first"})).add(
        ctx,
        "poststop",
        &json!({"name": "second"}),
    );
    hooked.bundle.probe(["true"]);
    let container = hooked.bundle.start(ctx)?;
    container.wait_for("stopped")?;
    container.delete()?.ok()?;
    ensure_eq!(hooked.names()?, ["first", "second"], "poststop hooks");
    container.call("state", &[])?.fails()?;
    Ok(())
}

fn failing_poststart(ctx: &Ctx) -> Outcome {
    for (version, fatal) in [("1.3.0", true), ("1.2.1", false)] {
        let mut hooked = hooked(ctx)?;
        hooked.add(ctx, "poststart", &json!({"exit": 3})).add(ctx, "poststop", &json!({}));
        hooked.bundle.set("/ociVersion", json!(version)).probe(["sleep"]);
        let container = hooked.bundle.create(ctx)?;
        let pid = container.pid()?;
        let started = container.start()?;
        if fatal {
            started.exits(1)?.fails_in_one_line()?.says("poststart")?;
            ensure_eq!(container.wait_exit(pid)?, 137, "exit status");
            container.call("delete", &["--force"])?.ok()?;
            ensure!(hooked.names()?.contains(&"poststop".to_owned()), "hooks {:?}", hooked.names()?);
        } else {
            started.ok()?;
            ensure_eq!(container.status()?, "running", "status with {version}");
        }
    }
    Ok(())
}

fn error_text(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.add(ctx, "createRuntime", &json!({"exit": 3, "stderr": "no room for lunch"}));
    let ran = hooked.bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?;
    ran.says("exit status 3")?.says("no room for lunch")?;
    Ok(())
}

fn timeout(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.add_with(ctx, "createRuntime", &json!({"sleep": 30, "child": true}), &json!({"timeout": 1}));
    let start = Instant::now();
    let call = hooked.bundle.create_call(ctx, &[])?.limit(Duration::from_secs(7) * ctx.patience);
    call.run()?.exits(1)?.fails_in_one_line()?;
    ensure!(start.elapsed() < Duration::from_secs(5) * ctx.patience, "create took {:?}", start.elapsed());
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

fn ignores_stdin(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.bundle.set("/annotations", json!({"large": "x".repeat(1 << 20)})).probe(["true"]);
    for kind in KINDS {
        hooked.add(ctx, kind, &json!({"ignoreStdin": true}));
    }
    hooked.bundle.run(ctx)?.ok()?;
    ensure_eq!(hooked.names()?.len(), KINDS.len(), "hooks that ran");
    Ok(())
}

fn missing(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/hooks/createRuntime", json!({"path": "/no/such/hook"}));
    bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?.says("/no/such/hook")?;
    Ok(())
}

fn relative(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push("/hooks/createRuntime", json!({"path": "bin/true"}));
    bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn zero(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.add_with(ctx, "createRuntime", &json!({}), &json!({"timeout": 0}));
    hooked.bundle.create_call(ctx, &[])?.run()?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn h1(ctx: &Ctx) -> Outcome {
    let mut hooked = all_kinds(ctx)?;
    hooked.bundle.push("/process/env", json!("LD_PRELOAD=/x")).probe(["true"]);
    hooked.bundle.run(ctx)?.ok()?;
    let rootfs = hooked.bundle.rootfs().display().to_string();
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let entry = hooked.entry(kind)?;
        let count = entry["env"].as_array().map_or(0, Vec::len);
        ensure_eq!(count, 0, "entries of the environment of {kind}");
        let cwd = entry["cwd"].as_str().unwrap_or_default();
        ensure!(!cwd.starts_with(&rootfs), "cwd of {kind} is {cwd}");
    }
    Ok(())
}

fn h4(ctx: &Ctx) -> Outcome {
    let mut hooked = all_kinds(ctx)?;
    hooked.bundle.probe(["true"]);
    hooked.bundle.run(ctx)?.ok()?;
    for kind in KINDS {
        let entry = hooked.entry(kind)?;
        let numbers: Vec<&String> =
            entry["fds"].as_object().into_iter().flatten().map(|(number, _)| number).collect();
        ensure_eq!(numbers, ["0", "1", "2"], "descriptors of {kind} {}", entry["fds"]);
        ensure_eq!(
            entry["signals"],
            json!({"blocked": [], "ignored": [], "caught": []}),
            "signals of {kind}"
        );
    }
    Ok(())
}

fn poststop(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    hooked.add(ctx, "poststop", &json!({}));
    let container = hooked.bundle.create(ctx)?;
    ctx.call(["delete", "--force", &container.id]).run()?.ok()?;
    ensure_eq!(hooked.names()?, ["poststop"], "hooks");
    Ok(())
}

fn many(ctx: &Ctx) -> Outcome {
    let mut hooked = hooked(ctx)?;
    let names: Vec<String> = (0..20).map(|number| format!("hook {number}")).collect();
    for name in &names {
        hooked.add(ctx, "createRuntime", &json!({ "name": name }));
    }
    hooked.bundle.probe(["true"]);
    hooked.bundle.run(ctx)?.ok()?;
    ensure_eq!(hooked.names()?, names, "hooks");
    Ok(())
}
