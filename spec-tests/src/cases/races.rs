//! security.md T3 and T4: the race injector. A directory of the image or of a shared volume is exchanged for a link to the
//! canaries exactly before the N-th call that looks at paths, for each N: no chance, no speed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use super::Case;
use super::hostile::canaries;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx};
use crate::sacrificial::CANARY;
use crate::tracer::{self, Fault, Traced};
use crate::{ensure, ensure_eq, leftovers};

pub const CASES: &[Case] = &[
    Case::new(
        "a1_a2_exchange_at_every_call",
        "security.md A1, A2, A6, A13, A16, B3, D6, T3: a directory exchanged for a link before each call in turn",
        image,
    )
    .sacrificial()
    .limit(600)
    .alone(),
    Case::new(
        "a7_a12_source_exchanged_at_every_call",
        "security.md A7, A12, T3: the source of a bind mount and the rootfs exchanged before each call in turn",
        sources,
    )
    .sacrificial()
    .limit(600)
    .alone(),
    Case::new(
        "b4_refused_mounts",
        "security.md B4, B5, T3: a mount that is refused while a container is made is an error, or nothing is missing",
        refused_mounts,
    )
    .limit(300),
];

/// The calls that look at a path or attach something at one.
const KINDS: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fchownat,
    libc::SYS_fchmodat,
    libc::SYS_chdir,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_execve,
];

/// The pair that is exchanged: `thing` is what belongs there, `other` a link to elsewhere.
fn exchange(dir: &Path) {
    let (thing, other) = (dir.join("thing"), dir.join("other"));
    let _exchanged = renameat2(AT_FDCWD, &thing, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE);
}

/// Each call in turn in a long run of the suite, every seventh in a short one.
fn turns(ctx: &Ctx) -> impl Iterator<Item = usize> {
    (1..).step_by(if ctx.soak >= 1000 { 1 } else { 7 })
}

/// Puts `thing` and `other` into a directory, afresh.
fn lay_out(dir: &Path) -> Outcome {
    for name in ["thing", "other"] {
        let path = dir.join(name);
        if path.is_symlink() {
            fs::remove_file(&path)?;
        } else if path.exists() {
            fs::remove_dir_all(&path)?;
        }
    }
    fs::create_dir_all(dir.join("thing/there"))?;
    fs::write(dir.join("thing/file"), "of the image")?;
    symlink(CANARY, dir.join("other"))?;
    Ok(())
}

fn run_at(ctx: &Ctx, bundle: &Bundle, at: usize, place: &Path, output: &Path) -> Outcome<Traced> {
    let mut command = Command::new(&ctx.runtime);
    command.arg("--root").arg(&ctx.root).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    command.stdin(Stdio::null()).stdout(fs::File::create(output)?).stderr(Stdio::null());
    tracer::run_meanwhile(command, at, KINDS, exchange, place)
}

/// Each N in turn until there is no N-th call any more.
fn sweep(ctx: &Ctx, bundle: &Bundle, place: &Path, check: impl Fn(&str, i32) -> Outcome) -> Outcome {
    let before = canaries()?;
    let output = ctx.path("output");
    let mut exchanged = 0;
    for at in turns(ctx) {
        lay_out(place)?;
        let traced = run_at(ctx, bundle, at, place, &output)?;
        let Some(met) = traced.met else { break };
        exchanged += 1;
        let what = format!("exchanged before call {at}, {met}");
        ensure!(traced.status < 128, "{what}: ended by a signal");
        if ctx.root.join(&bundle.id).exists() {
            ctx.call(["delete", "--force", &bundle.id]).run()?.ok().during(&what)?;
        }
        let printed = fs::read_to_string(&output).unwrap_or_default();
        ensure!(!printed.contains("canary"), "{what}: the program sees a canary: {printed}");
        check(&printed, traced.status).during(&what)?;
        ensure_eq!(canaries()?, before, "{what}: canaries");
    }
    ensure!(exchanged > 10, "only {exchanged} calls were met");
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

fn image(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let file = ctx.path("file");
    fs::write(&file, "bound")?;
    let file = file.display().to_string();
    bundle.set("/root/readonly", json!(false));
    bundle.mount("/thing/made/deep", "tmpfs", "tmpfs", &[]).mount("/thing/there", "tmpfs", "tmpfs", &["ro"]);
    bundle.mount("/thing/new", "bind", &file, &["bind"]);
    bundle.push("/linux/devices", json!({"path": "/thing/device", "type": "c", "major": 1, "minor": 3}));
    bundle
        .push("/linux/maskedPaths", json!("/thing/file"))
        .push("/linux/readonlyPaths", json!("/thing/there"));
    bundle.set("/process/cwd", json!("/thing/work"));
    bundle.actions(&json!([["list", "/thing"], ["list", "."]]));
    bundle.write()?;
    let rootfs = bundle.rootfs();
    sweep(ctx, &bundle, &rootfs, |_, _| Ok(()))
}

/// What attaches, copies or changes a mount.
const MOUNTS: &[libc::c_long] = &[libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_mount_setattr];

fn refused_mounts(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::write(bundle.rootfs().join("secret"), "secret")?;
    fs::create_dir(bundle.rootfs().join("dir"))?;
    fs::write(bundle.rootfs().join("dir/secret"), "secret")?;
    bundle.set("/root/readonly", json!(false));
    for path in ["/secret", "/dir"] {
        bundle.push("/linux/maskedPaths", json!(path));
    }
    let actions =
        json!([["read", "/secret"], ["list", "/dir"], ["open", "/proc/sys/kernel/core_pattern", "w"]]);
    bundle.actions(&actions).write()?;
    let output = ctx.path("output");
    let run = |at: usize| -> Outcome<(Traced, String)> {
        let mut command = Command::new(&ctx.runtime);
        command.arg("--root").arg(&ctx.root).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        command.stdin(Stdio::null()).stdout(fs::File::create(&output)?).stderr(Stdio::null());
        let traced = tracer::run_among(command, at, MOUNTS, Fault::Fail(Errno::EPERM))?;
        Ok((traced, fs::read_to_string(&output)?.trim().to_owned()))
    };
    let (sound, wanted) = run(0)?;
    ensure_eq!(
        (sound.status, &*wanted),
        (0, r#"[{"ok":""},{"ok":[]},{"errno":"EROFS"}]"#),
        "without a fault"
    );
    for at in 1..=sound.calls {
        let (traced, printed) = run(at)?;
        let what = format!("refused: call {at}, {}", traced.met.unwrap_or_default());
        ensure!(traced.status < 128, "{what}: ended by a signal");
        ensure!(printed.is_empty() || printed == wanted, "{what}: the program runs and sees {printed}");
    }
    Ok(())
}

fn sources(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let volume = ctx.path("volume");
    fs::create_dir(&volume)?;
    let source = volume.join("thing").display().to_string();
    bundle.mount("/bound", "bind", &source, &["rbind", "ro"]);
    bundle.actions(&json!([["read", "/bound/file"], ["create", "/bound/written"]]));
    bundle.write()?;
    // The manager names the source: one look at it, before or after the exchange, is all that there may be. Then it is either
    // the directory or what the link leads to, as a whole, and read-only.
    let output = ctx.path("output");
    let before = canaries()?;
    for at in turns(ctx) {
        lay_out(&volume)?;
        let traced = run_at(ctx, &bundle, at, &volume, &output)?;
        let Some(met) = traced.met else { break };
        let what = format!("exchanged before call {at}, {met}");
        if ctx.root.join(&bundle.id).exists() {
            ctx.call(["delete", "--force", &bundle.id]).run()?.ok().during(&what)?;
        }
        let printed = fs::read_to_string(&output).unwrap_or_default();
        if traced.status == 0 {
            ensure!(
                printed.contains("of the image") || printed.contains("canary"),
                "{what}: the mount is neither: {printed}"
            );
            ensure!(printed.contains("EROFS"), "{what}: the mount is writable: {printed}");
        }
        ensure_eq!(canaries()?, before, "{what}: canaries");
    }
    Ok(())
}
