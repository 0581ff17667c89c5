//! config.md, selinuxLabel, and config-linux.md, mountLabel, on a host where SELinux enforces the policy of
//! `vm/guest/selinux.conf`; on any other these are skipped. The policy is the kernel's alone: no case loads one.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{Outcome, skip};
use crate::harness::{Bundle, Ctx};
use crate::{ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "selinux_confines",
        "security.md B1 and config.md, selinuxLabel: the process, its exec processes and its keys have the label",
        confines,
    ),
    Case::new(
        "selinux_mount_label",
        "config-linux.md, mountLabel: every file system that is made for the container has the label",
        mount_label,
    ),
    Case::new(
        "selinux_unknown",
        "security.md B1: a label that the policy does not have is an error",
        unknown,
    ),
    Case::new(
        "mount_label_without_selinux",
        "config-linux.md, mountLabel: where SELinux does not run, no file system has labels, and none of them is an error",
        without_selinux,
    ),
];

const FIRST: &str = "system_u:system_r:spec_container_t:s0:c1,c2";
const SECOND: &str = "system_u:system_r:spec_container_t:s0:c1";
/// Of files that the container may write, and of those that it may not.
const OPEN: &str = "system_u:object_r:spec_container_t:s0:c1,c2";
const SECRET: &str = "system_u:object_r:spec_secret_t:s0";

fn bundle(ctx: &Ctx, label: &str, mount_label: &str) -> Outcome<Bundle> {
    let enforces = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text == "1");
    // The kernel takes no context here that its policy does not have.
    if !enforces || fs::write(Path::new("/sys/fs/selinux/context"), SECRET).is_err() {
        return skip("SELinux does not enforce the policy of vm/guest/selinux.conf here");
    }
    let mut bundle = ctx.bundle()?;
    bundle.set("/process/selinuxLabel", json!(label)).set("/linux/mountLabel", json!(mount_label));
    bundle.mount("/data", "tmpfs", "tmpfs", &[]);
    Ok(bundle)
}

/// What a process tells of its label, and a file that it tries to make.
fn attempts(file: &str) -> Value {
    json!([["read", "/proc/self/attr/current"], ["create", file]])
}

fn shown(label: &str) -> Value {
    json!({"ok": format!("{label}\0")})
}

fn confines(ctx: &Ctx) -> Outcome {
    for no_new_privileges in [true, false] {
        let mut bundle = bundle(ctx, FIRST, OPEN)?;
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).actions(&attempts("/data/x"));
        let found = bundle.run_json(ctx)?;
        ensure_eq!(found, json!([shown(FIRST), {"ok": null}]), "noNewPrivileges {no_new_privileges}");
    }
    let mut bundle = bundle(ctx, FIRST, OPEN)?;
    let container = bundle.probe(["sleep"]).start(ctx)?;
    ensure_eq!(container.exec_actions(&attempts("/data/y"))?[0], shown(FIRST), "exec");
    let ran =
        container.exec_call(&["--process-label", SECOND], &["actions", &attempts("/data/z").to_string()]);
    ensure_eq!(ran.run()?.ok()?.json()?[0], shown(SECOND), "exec --process-label");
    // The policy lets it see no key but those of its own domain.
    let keyring = container.exec_report(&[])?["keyring"].clone();
    ensure!(keyring.is_string(), "the session keyring of an exec process is {keyring}");
    container.exec_call(&["--process-label", "a:b:c:s0"], &["true"]).run()?.fails_in_one_line()?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")
}

fn mount_label(ctx: &Ctx) -> Outcome {
    let mut bundle = bundle(ctx, FIRST, SECRET)?;
    bundle.actions(&json!([["create", "/data/x"], ["create", "/dev/shm/x"]]));
    let refused = json!({"errno": "EACCES"});
    ensure_eq!(bundle.run_json(ctx)?, json!([refused, refused]), "writing files of a label that may not be");
    bundle.probe(["report"]);
    let report = bundle.run_json(ctx)?;
    for target in ["/data", "/dev", "/dev/pts", "/dev/shm"] {
        let mounts = report["mounts"].as_array().into_iter().flatten();
        let mut options =
            mounts.filter(|mount| mount["target"] == target).map(|mount| &mount["superOptions"]);
        let options = options.next().and_then(Value::as_str).unwrap_or_default();
        ensure!(options.contains(&format!("context={SECRET}")), "{target}: {options}");
    }
    Ok(())
}

fn unknown(ctx: &Ctx) -> Outcome {
    for label in ["nonsense", "system_u:system_r:no_such_t:s0", "system_u:system_r:spec_container_t:s0:c99"] {
        let mut bundle = bundle(ctx, label, OPEN)?;
        bundle.probe(["echo", "ran"]);
        let ran = bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
        ensure!(!ran.stdout().contains("ran"), "the program ran without its confinement");
        let mut bundle = self::bundle(ctx, FIRST, label)?;
        bundle.probe(["echo", "ran"]).run(ctx)?.exits(1)?.fails_in_one_line()?;
    }
    Ok(())
}

/// Of the file systems of the default config some keep their parameters as text, in some kernels (devpts up to Linux 6.12), and
/// would take the label for one of theirs.
fn without_selinux(ctx: &Ctx) -> Outcome {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return skip("SELinux runs here");
    }
    for label in [OPEN, SECRET] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/linux/mountLabel", json!(label)).probe(["echo", "ran"]);
        ensure_eq!(bundle.run(ctx)?.ok()?.stdout(), "ran", "{label}");
    }
    Ok(())
}
