//! security.md A and B: image roots, volumes and procfs trees that lie (fixture T2), in a host that may be damaged
//! (fixture T1).

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::ForkResult;
use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Call, Ctx, Ran};
use crate::sacrificial::CANARY;
use crate::{ensure, ensure_eq, sys};

pub const CASES: &[Case] = &[
    Case::new(
        "a1_mount_through_volume",
        "security.md A1: a mount below a symlink of a shared volume lands inside or nowhere",
        a1_mount_through_volume,
    )
    .sacrificial(),
    Case::new(
        "a1_rename_race",
        "security.md A1: a directory that is swapped for a symlink meanwhile",
        a1_rename_race,
    )
    .sacrificial()
    .alone()
    .limit(120),
    Case::new(
        "a2_hostile_mountpoints",
        "security.md A2 (matrix): every mount destination as every kind of file changes nothing of the host",
        a2_hostile_mountpoints,
    )
    .sacrificial()
    .limit(300),
    Case::new(
        "a2_missing_mountpoint",
        "security.md A2: a mountpoint below a symlink is not made on the host",
        a2_missing,
    )
    .sacrificial(),
    Case::new(
        "a3_dev_symlink",
        "security.md A3: /dev as a symlink: no device is made on the host",
        a3_dev_symlink,
    )
    .sacrificial()
    .limit(120),
    Case::new(
        "a4_proc_and_sys",
        "security.md A4: proc and sysfs mount on a real directory or not at all",
        a4,
    )
    .sacrificial(),
    Case::new(
        "a5_own_mount_namespace",
        "security.md A5: the mount namespace has no mount of the host, seen from its top too",
        a5_top,
    ),
    Case::new(
        "a5_no_host_below_proc",
        "security.md A5: nothing of the host is under the container's /proc",
        a5,
    ),
    Case::new(
        "a6_mounts_inside_proc",
        "security.md A6: mounts inside /proc are refused but for a few files",
        a6,
    ),
    Case::new("a9_readonly_holds", "security.md A9: read-only holds with a hostile /proc in the image", a9)
        .sacrificial(),
    Case::new("a13_cwd", "security.md A13: no working directory outside of the container", a13)
        .sacrificial()
        .limit(120),
    Case::new(
        "a15_option_injection",
        "security.md A15: a comma inside an option's value makes no further option",
        a15,
    ),
    Case::new("a16_planted_in_state", "security.md A16: delete removes only what the runtime made", a16)
        .sacrificial(),
    Case::new(
        "b1_fake_proc_label",
        "security.md B1: no label is written to a fake /proc, and none is skipped",
        b1,
    )
    .sacrificial(),
    Case::new("b2_decoys_in_proc", "security.md B2: writes to procfs go to the real one", b2).sacrificial(),
    Case::new("b3_dev_null", "security.md B3: masks hold or fail with any /dev/null of the image", b3)
        .sacrificial()
        .limit(120),
    Case::new(
        "b3_masks_share_no_inode",
        "security.md B3: what masks a file is no inode of the host that the container can change",
        b3_masks_share_no_inode,
    )
    .sacrificial(),
    Case::new(
        "d1_terminal_paths",
        "security.md D1, D2: a terminal with any /dev/pts, ptmx, console of the image",
        d1,
    )
    .sacrificial()
    .limit(120),
    Case::new(
        "d6_device_through_symlink",
        "security.md D6: a configured device is not made through a symlink",
        d6,
    )
    .sacrificial(),
    Case::new(
        "c9_hostile_passwd",
        "security.md C9: /etc/passwd and group of any kind block or exhaust nothing",
        c9,
    )
    .sacrificial()
    .limit(120),
];

/// What a name in the image may be instead of what is expected there.
const KINDS: [&str; 11] = [
    "absolute symlink",
    "relative symlink",
    "file symlink",
    "dangling symlink",
    "loop",
    "descriptor symlink",
    "file",
    "fifo",
    "socket",
    "device",
    "directory",
];

/// Makes `name` in the rootfs be of a kind; whatever was there is gone.
fn plant(bundle: &Bundle, name: &str, kind: &str) -> Outcome {
    let path = bundle.rootfs().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(&path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(&path)?,
        Ok(_) => fs::remove_file(&path)?,
        Err(_) => {}
    }
    match kind {
        "absolute symlink" => symlink(CANARY, &path)?,
        "relative symlink" => symlink(format!("{}{CANARY}", "../".repeat(30).trim_end_matches('/')), &path)?,
        "file symlink" => symlink(format!("{CANARY}/file"), &path)?,
        "dangling symlink" => symlink(format!("{CANARY}/new"), &path)?,
        "loop" => symlink(path.file_name().unwrap_or_default(), &path)?,
        "descriptor symlink" => symlink("/proc/self/fd/7", &path)?,
        "file" => fs::write(&path, "of the image")?,
        "fifo" => nix::unistd::mkfifo(&path, Mode::S_IRWXU)?,
        "socket" => drop(UnixListener::bind(&path)?),
        "device" => mknod(&path, SFlag::S_IFCHR, Mode::S_IRWXU, libc::makedev(1, 5))?,
        _ => fs::create_dir(&path)?,
    }
    Ok(())
}

/// What the canaries are like now.
pub(super) fn canaries() -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(CANARY).to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let text = crate::inside::report::describe(&path);
            let content = if path.is_file() { fs::read_to_string(&path)? } else { String::new() };
            found.push(format!("{} {text} {content}", path.display()));
            if fs::symlink_metadata(&path)?.is_dir() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Runs in bounded time; success or a clear error, and the canaries as before.
fn harmless(ctx: &Ctx, call: Call, what: &str, before: &[String]) -> Outcome<Ran> {
    let ran = call.limit(Duration::from_secs(10) * ctx.patience).run().during(what)?;
    ensure_eq!(canaries()?, before, "canaries after {what}");
    if ran.status == 0 { Ok(ran) } else { ran.fails().during(what) }
}

fn a2_hostile_mountpoints(ctx: &Ctx) -> Outcome {
    let names = [
        "proc",
        "sys",
        "dev",
        "dev/pts",
        "dev/shm",
        "dev/mqueue",
        "dev/null",
        "dev/console",
        "dev/ptmx",
        "dev/fd",
        "dev/stdin",
        "etc",
        "etc/passwd",
        "tmp",
        "data",
        "data/below",
    ];
    let source = ctx.path("volume");
    fs::create_dir(&source)?;
    let before = canaries()?;
    for name in names {
        for kind in KINDS {
            let mut bundle = ctx.bundle()?;
            bundle.mount("/data/below", "bind", &source.display().to_string(), &["bind"]);
            bundle.mount("/tmp", "tmpfs", "tmpfs", &[]).probe(["true"]);
            plant(&bundle, name, kind)?;
            harmless(ctx, bundle.run_call(ctx, &[])?, &format!("{name} as {kind}"), &before)?;
        }
    }
    Ok(())
}

fn a1_mount_through_volume(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for target in [CANARY, "../../../../../../canary", "/proc/self/root/canary"] {
        let volume = ctx.path("volume");
        fs::create_dir(&volume)?;
        symlink(target, volume.join("link"))?;
        let mut bundle = ctx.bundle()?;
        bundle.mount("/volume", "bind", &volume.display().to_string(), &["rbind"]);
        bundle.mount("/volume/link/below", "tmpfs", "tmpfs", &[]);
        bundle.mount("/volume/link", "tmpfs", "tmpfs", &[]).probe(["true"]);
        harmless(ctx, bundle.run_call(ctx, &[])?, &format!("a volume with a link to {target}"), &before)?;
    }
    Ok(())
}

fn a1_rename_race(ctx: &Ctx) -> Outcome {
    let volume = ctx.path("volume");
    fs::create_dir_all(volume.join("dir/below"))?;
    symlink(CANARY, volume.join("link"))?;
    let before = canaries()?;
    let ForkResult::Parent { child } = sys::fork()? else {
        // The adversary: another container that has the volume too.
        loop {
            let _swapped = renameat2(
                AT_FDCWD,
                &volume.join("dir"),
                AT_FDCWD,
                &volume.join("link"),
                RenameFlags::RENAME_EXCHANGE,
            );
        }
    };
    let outcome = (0..60).try_for_each(|_| {
        let mut bundle = ctx.bundle()?;
        bundle.mount("/volume", "bind", &volume.display().to_string(), &["rbind"]);
        bundle.mount("/volume/dir/below", "tmpfs", "tmpfs", &[]);
        bundle.mount("/volume/dir/made/new", "tmpfs", "tmpfs", &[]).probe(["true"]);
        harmless(ctx, bundle.run_call(ctx, &[])?, "a swap", &before).map(drop)
    });
    sys::send_signal(child, libc::SIGKILL)?;
    crate::harness::reap_dead();
    outcome
}

fn a2_missing(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    let file = ctx.path("file");
    fs::write(&file, "")?;
    let file = file.display().to_string();
    for kind in ["absolute symlink", "relative symlink"] {
        for (destination, file_kind) in [("/a/b/c", true), ("/a/new", false), ("/x/../a/b/../c/d", true)] {
            let mut bundle = ctx.bundle()?;
            plant(&bundle, "a", kind)?;
            if file_kind {
                bundle.mount(destination, "bind", &file, &["bind"]);
            } else {
                bundle.mount(destination, "tmpfs", "tmpfs", &[]);
            }
            bundle.probe(["true"]);
            harmless(ctx, bundle.run_call(ctx, &[])?, &format!("{destination} below {kind}"), &before)?;
        }
    }
    Ok(())
}

fn a3_dev_symlink(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for (name, dropped) in [
        ("dev", vec!["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]),
        ("dev/pts", vec!["/dev", "/dev/pts"]),
        ("dev/shm", vec!["/dev", "/dev/shm"]),
        ("dev/fd", vec!["/dev"]),
        ("dev/ptmx", vec!["/dev"]),
        ("dev/null", vec!["/dev"]),
    ] {
        for kind in KINDS {
            let mut bundle = ctx.bundle()?;
            for mount in &dropped {
                bundle.unmount(mount);
            }
            bundle.set("/root/readonly", json!(false)).probe(["true"]);
            bundle
                .push("/linux/devices", json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}));
            plant(&bundle, name, kind)?;
            harmless(
                ctx,
                bundle.run_call(ctx, &[])?,
                &format!("{name} as {kind}, nothing mounted there"),
                &before,
            )?;
        }
    }
    Ok(())
}

fn a4(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for name in ["proc", "sys"] {
        for kind in KINDS.into_iter().filter(|kind| *kind != "directory") {
            let mut bundle = ctx.bundle()?;
            bundle.probe(["echo", "ran"]);
            plant(&bundle, name, kind)?;
            let ran = harmless(ctx, bundle.run_call(ctx, &[])?, &format!("/{name} as {kind}"), &before)?;
            ensure!(ran.status != 0, "/{name} as {kind} was accepted");
            ensure!(!ran.stdout().contains("ran"), "/{name} as {kind}: the program ran");
            ran.says(&format!("/{name}"))?;
        }
    }
    // A symlink to another directory of the image is no real directory either.
    let mut bundle = ctx.bundle()?;
    fs::create_dir(bundle.rootfs().join("elsewhere"))?;
    symlink("elsewhere", bundle.rootfs().join("proc"))?;
    bundle.probe(["true"]);
    bundle.run(ctx)?.exits(1)?.fails()?;
    Ok(())
}

fn a5(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::create_dir(bundle.rootfs().join("proc"))?;
    fs::write(bundle.rootfs().join("proc/of-the-image"), "")?;
    bundle.privileged_by(&["CAP_SYS_ADMIN"]);
    let mut actions = vec![json!(["umount", "/proc"]); 12];
    actions.push(json!(["list", "/proc"]));
    bundle.actions(&Value::Array(actions));
    for flags in [&[][..], &["--no-pivot"][..]] {
        let ran = bundle.run_call(ctx, flags)?.run()?;
        if flags.is_empty() || ran.status == 0 {
            let found = ran.ok()?.json()?;
            ensure_eq!(
                found[12],
                json!({"ok": ["of-the-image"]}),
                "what is below /proc with flags {flags:?}"
            );
        }
    }
    Ok(())
}

/// setns(2) to one's own mount namespace goes to the topmost mount on its root (fs/namespace.c, mntns_install): what an
/// old root that was never taken off would be.
fn a5_top(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.privileged_by(&["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
    bundle.actions(&json!([["read", "/proc/self/mountinfo"], ["join", "/proc/self/ns/mnt"], ["list", "/"]]));
    for flags in [&[][..], &["--no-pivot"][..]] {
        let found = bundle.run_call(ctx, flags)?.run()?.ok()?.json()?;
        let own = ["/", "/proc", "/dev", "/sys"];
        let table = found[0]["ok"].as_str().unwrap_or_default();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let foreign: Vec<&str> = targets
            .filter(|target| {
                !own.iter()
                    .any(|mine| target == mine || *mine != "/" && target.starts_with(&format!("{mine}/")))
            })
            .collect();
        ensure!(foreign.is_empty() && !table.is_empty(), "mounts of the host, flags {flags:?}: {foreign:?}");
        ensure_eq!(found[1], json!({"ok": null}), "setns, flags {flags:?}");
        let top = found[2]["ok"].to_string();
        ensure!(top.contains("\"probe\""), "the top of the mount namespace, flags {flags:?}: {top}");
    }
    Ok(())
}

fn a6(ctx: &Ctx) -> Outcome {
    let file = ctx.path("file");
    fs::write(&file, "fake")?;
    let file = file.display().to_string();
    let table = [
        ("/proc/cpuinfo", true),
        ("/proc/meminfo", true),
        ("/proc/uptime", true),
        ("/proc/self", false),
        ("/proc/sys/kernel/core_pattern", false),
        ("/proc/../proc/version", false),
        ("//proc//version", false),
        ("/proc/./version", false),
        ("/proc/cpuinfo/../version", false),
    ];
    for (destination, accepted) in table {
        let mut bundle = ctx.bundle()?;
        bundle.mount(destination, "bind", &file, &["bind"]).probe(["true"]);
        let ran = bundle.run(ctx)?;
        if accepted {
            ran.ok().during(destination)?;
        } else {
            ran.exits(1).and_then(Ran::fails).during(destination)?;
        }
    }
    let mut bundle = ctx.bundle()?;
    let dir = ctx.path("dir");
    fs::create_dir(&dir)?;
    bundle.mount("/proc", "bind", &dir.display().to_string(), &["rbind"]).probe(["true"]);
    bundle.run(ctx)?.exits(1).and_then(Ran::fails).during("a directory over /proc")?;
    Ok(())
}

fn a9(ctx: &Ctx) -> Outcome {
    let source = ctx.path("volume");
    fs::create_dir(&source)?;
    let mut bundle = ctx.bundle()?;
    // A tree in the image that answers where /proc/self/fd is looked for.
    fs::create_dir_all(bundle.rootfs().join("proc/self/fd"))?;
    for number in 0..20 {
        symlink("/elsewhere", bundle.rootfs().join(format!("proc/self/fd/{number}")))?;
    }
    fs::create_dir(bundle.rootfs().join("elsewhere"))?;
    bundle.unmount("/proc").set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    bundle.mount("/ro", "bind", &source.display().to_string(), &["rbind", "ro"]);
    bundle.mount("/tmpfs", "tmpfs", "tmpfs", &["ro"]);
    bundle.actions(&json!([
        ["create", "/x"],
        ["create", "/ro/x"],
        ["create", "/tmpfs/x"],
        ["create", "/sys/x"]
    ]));
    let ran = bundle.run(ctx)?;
    if ran.status != 0 {
        ran.fails_in_one_line()?;
        return Ok(());
    }
    let found = ran.json()?;
    for index in 0..3 {
        ensure_eq!(found[index], json!({"errno": "EROFS"}), "write number {index}");
    }
    Ok(())
}

fn a13(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    let up = format!("/{}canary", "../".repeat(40));
    let mut table =
        vec![up, "/link".to_owned(), "/link/new".to_owned(), "/file".to_owned(), "/missing/dir".to_owned()];
    table.extend((3..12).map(|number| format!("/proc/self/fd/{number}")));
    table.push("/proc/1/cwd".to_owned());
    for cwd in table {
        let mut bundle = ctx.bundle()?;
        symlink(CANARY, bundle.rootfs().join("link"))?;
        fs::write(bundle.rootfs().join("file"), "")?;
        bundle.set("/process/cwd", json!(cwd)).set("/process/user", json!({"uid": 5, "gid": 5}));
        let what = format!("cwd {cwd}");
        let ran = harmless(ctx, bundle.run_call(ctx, &[])?, &what, &before)?;
        inside(&ran, &what)?;
        let mut running = ctx.bundle()?;
        symlink(CANARY, running.rootfs().join("link"))?;
        running.probe(["sleep"]);
        let container = running.start(ctx)?;
        let what = format!("exec --cwd {cwd}");
        let ran = harmless(ctx, container.exec_call(&["--cwd", &cwd], &["report"]), &what, &before)?;
        inside(&ran, &what)?;
        container.kill("KILL")?.ok()?;
    }
    Ok(())
}

fn inside(ran: &Ran, what: &str) -> Outcome {
    if ran.status == 0 {
        let cwd = ran.json()?["cwd"].as_str().unwrap_or_default().to_owned();
        ensure!(
            cwd.starts_with('/') && !cwd.contains("unreachable"),
            "{what}: the working directory is {cwd}"
        );
    }
    Ok(())
}

fn a15(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("/data", "tmpfs", "tmpfs", &["nosuid", "size=1m,mode=0777,uid=5"]);
    bundle.actions(&json!([["describe", "/data"]]));
    let ran = bundle.run(ctx)?;
    if ran.status == 0 {
        let found = ran.json()?;
        ensure!(found[0]["ok"]["uid"] == 0, "an option inside another's value was applied: {}", found[0]);
    }
    Ok(())
}

fn a16(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let dir = ctx.root.join(&container.id);
    ensure!(dir.is_dir(), "the state of a container is not in the directory of its id");
    symlink(CANARY, dir.join("planted-link"))?;
    fs::create_dir(dir.join("planted-mount"))?;
    mount(Some(CANARY), &dir.join("planted-mount"), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let before = canaries()?;
    let _whatever = ctx.call(["delete", "--force", &container.id]).run()?;
    let after = canaries()?;
    let _unmounted = umount(&dir.join("planted-mount"));
    let _gone = fs::remove_dir(dir.join("planted-mount"));
    let _gone = fs::remove_file(dir.join("planted-link"));
    let _gone = fs::remove_dir_all(&dir);
    ensure_eq!(after, before, "canaries");
    Ok(())
}

fn b1(ctx: &Ctx) -> Outcome {
    for key in ["apparmorProfile", "selinuxLabel"] {
        let mut bundle = ctx.bundle()?;
        let fakes = [
            "proc/self/attr/exec",
            "proc/self/attr/current",
            "proc/thread-self/attr/exec",
            "proc/self/attr/apparmor/exec",
        ];
        for fake in fakes {
            let path = bundle.rootfs().join(fake);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs::write(path, "")?;
        }
        bundle.unmount("/proc").set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
        bundle.set("/root/readonly", json!(false));
        bundle.set(&format!("/process/{key}"), json!("some_u:some_r:some_t:s0")).probe(["true"]);
        let ran = bundle.run(ctx)?;
        for fake in fakes {
            ensure_eq!(fs::read_to_string(bundle.rootfs().join(fake))?, "", "{fake} with {key}");
        }
        // No module of this kernel can apply it, and a control that cannot be applied is an error.
        if !Path::new("/sys/fs/selinux/enforce").exists()
            && !Path::new("/sys/kernel/security/apparmor").exists()
        {
            ran.exits(1).and_then(Ran::fails).during(key)?;
        }
    }
    Ok(())
}

fn b2(ctx: &Ctx) -> Outcome {
    // A file of a namespace's own is another one for the container: it takes the directory to be met by it.
    let targets =
        [("/proc/sys/net", "ipv4/ip_forward"), ("/proc/sys/kernel/msgmax", ""), ("/proc/self/setgroups", "")];
    let mut decoys = Vec::new();
    for (target, file) in targets {
        let thing = ctx.path("decoy");
        let decoy = if file.is_empty() { thing.clone() } else { thing.join(file) };
        fs::create_dir_all(decoy.parent().during("a directory")?)?;
        fs::write(&decoy, "decoy")?;
        mount(Some(&thing), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).during(target)?;
        decoys.push((target, decoy));
    }
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}));
    let ran = bundle.run(ctx);
    for (target, _) in &decoys {
        umount(*target)?;
    }
    for (target, decoy) in &decoys {
        ensure_eq!(fs::read_to_string(decoy)?, "decoy", "the decoy over {target}");
    }
    let found = ran?.ok()?.json()?["sysctls"].clone();
    ensure_eq!(found["net/ipv4/ip_forward"], json!("1"), "ip_forward");
    ensure_eq!(found["kernel/msgmax"], json!("4096"), "msgmax");
    Ok(())
}

fn b3(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for kind in KINDS {
        let mut bundle = ctx.bundle()?;
        bundle.unmount("/dev").set("/root/readonly", json!(false));
        fs::write(bundle.rootfs().join("secret"), "secret")?;
        bundle.push("/linux/maskedPaths", json!("/secret"));
        plant(&bundle, "dev/null", kind)?;
        bundle.actions(&json!([
            ["read", "/secret"],
            ["write", "/secret", "x"],
            ["read", "/secret"],
            ["read", "/proc/timer_list"]
        ]));
        let ran = harmless(ctx, bundle.run_call(ctx, &[])?, &format!("/dev/null as {kind}"), &before)?;
        if ran.status == 0 {
            let found = ran.json()?;
            for index in [0, 2, 3] {
                ensure_eq!(found[index], json!({"ok": ""}), "read number {index} with /dev/null as {kind}");
            }
        }
        ensure_eq!(fs::read_to_string(bundle.rootfs().join("secret"))?, "secret", "the masked file, {kind}");
    }
    Ok(())
}

fn b3_masks_share_no_inode(ctx: &Ctx) -> Outcome {
    // The fixture sees a change of the host's /dev.
    let mut bundle = ctx.bundle()?;
    bundle.privileged_by(&["CAP_FOWNER", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    let mut actions = Vec::new();
    for path in ["/proc/keys", "/proc/timer_list", "/dev/null", "/dev/zero", "/dev/console"] {
        actions.push(json!(["chmod", path, "0600"]));
        actions.push(json!(["chown", path, "7", "7"]));
    }
    bundle.actions(&Value::Array(actions));
    bundle.run_json(ctx)?;
    Ok(())
}

fn d1(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for name in ["dev/console", "dev/ptmx", "dev/pts"] {
        for kind in KINDS {
            let mut bundle = ctx.bundle()?;
            bundle.unmount("/dev").set("/root/readonly", json!(false)).set("/process/terminal", json!(true));
            if name != "dev/pts" {
                bundle.unmount("/dev/pts");
                bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"]);
            }
            plant(&bundle, name, kind)?;
            bundle.probe(["report"]);
            let what = format!("a terminal with /{name} as {kind}");
            let call = bundle.run_call(ctx, &[])?.limit(Duration::from_secs(10) * ctx.patience);
            let (mut terminal, running) = crate::terminal::Terminal::run(call, 80, 24)?;
            let shown = terminal.read_to_end().during(&what)?;
            running.wait().during(&what)?;
            ensure_eq!(canaries()?, before, "canaries after {what}");
            let line = shown.lines().find(|line| line.starts_with('{')).unwrap_or("{}").to_owned();
            let report: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(device) = report["console"].as_str() {
                ensure!(device.starts_with("136:"), "{what}: /dev/console is {device}");
            }
        }
    }
    Ok(())
}

fn d6(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for (name, kind) in
        [("made", "absolute symlink"), ("made", "dangling symlink"), ("dir", "absolute symlink")]
    {
        let mut bundle = ctx.bundle()?;
        plant(&bundle, name, kind)?;
        let path = if name == "dir" { "/dir/device" } else { "/made" };
        bundle.set("/root/readonly", json!(false)).probe(["true"]);
        bundle.push(
            "/linux/devices",
            json!({"path": path, "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 9, "gid": 9}),
        );
        harmless(ctx, bundle.run_call(ctx, &[])?, &format!("a device at {path}, {kind}"), &before)?;
    }
    Ok(())
}

fn c9(ctx: &Ctx) -> Outcome {
    let before = canaries()?;
    for name in ["etc/passwd", "etc/group"] {
        for kind in KINDS.into_iter().chain(["sparse", "long line"]) {
            let mut bundle = ctx.bundle()?;
            match kind {
                "sparse" => {
                    plant(&bundle, name, "file")?;
                    fs::OpenOptions::new().write(true).open(bundle.rootfs().join(name))?.set_len(1 << 28)?;
                }
                "long line" => {
                    plant(&bundle, name, "file")?;
                    fs::write(bundle.rootfs().join(name), "x".repeat(10 << 20))?;
                }
                kind => plant(&bundle, name, kind)?,
            }
            bundle.probe(["sleep"]);
            let what = format!("/{name} as {kind}");
            let ran = harmless(ctx, bundle.run_call(ctx, &["--detach"])?, &what, &before)?;
            if ran.status == 0 {
                harmless(
                    ctx,
                    ctx.call(["exec", &bundle.id, "/probe", "true"]),
                    &format!("exec with {what}"),
                    &before,
                )?;
                ctx.call(["delete", "--force", &bundle.id]).run()?.ok()?;
            }
        }
    }
    Ok(())
}
