//! config.md, apparmorProfile, on a host where AppArmor confines. What a host without it does is the other part of row
//! B1 (`hostile.rs`).

use std::path::Path;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{Outcome, skip};
use crate::harness::{Bundle, Ctx};
use crate::{ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "b1_apparmor_confines",
        "security.md B1 and config.md, apparmorProfile: the process is confined by the profile",
        confines,
    ),
    Case::new(
        "b1_apparmor_of_exec",
        "security.md B1 and peers.md A1.2: exec has the container's profile, or that of --apparmor",
        of_exec,
    ),
    Case::new(
        "b1_apparmor_unknown",
        "security.md B1: a profile that the kernel does not know is an error",
        unknown,
    ),
];

/// A profile that allows everything but one file, in the kernel for as long as this lives.
struct Profile<'c> {
    ctx: &'c Ctx,
    name: String,
    text: String,
}

impl<'c> Profile<'c> {
    fn load(ctx: &'c Ctx, forbidden: &str) -> Outcome<Self> {
        if !Path::new("/sys/kernel/security/apparmor/.load").exists() {
            return skip("AppArmor is not active here");
        }
        let name = ctx.id();
        // A rootfs that is no mount of this namespace gives paths that are not connected to the root.
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{
                file, capability, network, mount, umount, pivot_root, signal, ptrace, unix, dbus,
                deny {forbidden} rw,
            }}"
        );
        let profile = Self { ctx, name, text };
        profile.parse("--replace")?;
        Ok(profile)
    }

    fn parse(&self, operation: &str) -> Outcome {
        let parser = Path::new("/usr/sbin/apparmor_parser");
        if !parser.exists() {
            return skip("apparmor_parser is not installed");
        }
        self.ctx.program(parser).args([operation, "--skip-cache"]).stdin(&self.text)?.run()?.ok()?;
        Ok(())
    }
}

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        let _removed = self.parse("--remove");
    }
}

/// What a process tells of its confinement: its label, and two files that it tries to write.
fn attempts() -> Value {
    json!([["read", "/proc/self/attr/apparmor/current"], ["write", "/first", "x"], ["write", "/second", "x"]])
}

fn confined_by(profile: &Profile<'_>, first: Value, second: Value) -> Value {
    json!([{"ok": format!("{} (enforce)\n", profile.name)}, first, second])
}

fn done() -> Value {
    json!({"ok": null})
}

fn denied() -> Value {
    json!({"errno": "EACCES"})
}

fn bundle(ctx: &Ctx, profile: &str) -> Outcome<Bundle> {
    let mut bundle = ctx.bundle()?;
    for name in ["first", "second"] {
        std::fs::write(bundle.rootfs().join(name), "")?;
    }
    bundle.set("/root/readonly", json!(false)).set("/process/apparmorProfile", json!(profile));
    Ok(bundle)
}

fn confines(ctx: &Ctx) -> Outcome {
    let profile = Profile::load(ctx, "/first")?;
    let mut bundle = bundle(ctx, &profile.name)?;
    for no_new_privileges in [true, false] {
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).actions(&attempts());
        let found = bundle.run_json(ctx)?;
        let expected = confined_by(&profile, denied(), done());
        ensure_eq!(found, expected, "noNewPrivileges {no_new_privileges}");
    }
    Ok(())
}

fn of_exec(ctx: &Ctx) -> Outcome {
    let own = Profile::load(ctx, "/first")?;
    let other = Profile::load(ctx, "/second")?;
    let mut bundle = bundle(ctx, &own.name)?;
    let container = bundle.probe(["sleep"]).start(ctx)?;
    let found = container.exec_actions(&attempts())?;
    ensure_eq!(found, confined_by(&own, denied(), done()), "exec");
    let flags = ["--apparmor", &other.name];
    let found = container.exec_call(&flags, &["actions", &attempts().to_string()]).run()?.ok()?.json()?;
    ensure_eq!(found, confined_by(&other, done(), denied()), "exec --apparmor");
    let ran = container.exec_call(&["--apparmor", "no-such-profile"], &["true"]).run()?;
    ran.fails_in_one_line()?;
    container.kill("KILL")?.ok()?;
    container.wait_for("stopped")
}

fn unknown(ctx: &Ctx) -> Outcome {
    // Skips where AppArmor is not active.
    let _active = Profile::load(ctx, "/first")?;
    let mut bundle = bundle(ctx, "no-such-profile")?;
    bundle.probe(["echo", "ran"]);
    let ran = bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    ensure!(!ran.stdout().contains("ran"), "the program ran without its confinement");
    Ok(())
}
