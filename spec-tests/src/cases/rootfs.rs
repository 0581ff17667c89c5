//! config.md, root and mounts, and config-linux.md, masked and read-only paths, devices and propagation: what the
//! process sees of files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Bundle, Ctx, Ran};
use crate::{ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "root_readonly",
        "config.md, root: readonly makes the root file system read-only",
        root_readonly,
    ),
    Case::new(
        "root_writable",
        "config.md, root: without readonly the root file system is writable",
        root_writable,
    ),
    Case::new("root_path", "config.md, root: path is absolute or relative to the bundle", root_path),
    Case::new("root_missing", "config.md, root: a directory MUST exist at the path", root_missing),
    Case::new("root_is_all", "config.md, root: the process sees nothing of the host's root", root_is_all),
    Case::new(
        "mounts_in_order",
        "config.md, mounts: the runtime MUST mount entries in the listed order",
        in_order,
    ),
    Case::new("mount_destination_made", "config.md, mounts: missing destinations are made", destination_made),
    Case::new(
        "mount_bind_file",
        "config.md, mounts: a file is bound on a file, also where none was",
        bind_file,
    ),
    Case::new("mount_bind_readonly", "config.md, mounts: ro of a bind mount is applied", bind_readonly),
    Case::new(
        "mount_bind_not_recursive",
        "config.md, mounts: bind is not recursive, rbind is",
        bind_recursion,
    ),
    Case::new("mount_rro", "config.md, mounts: rro makes mounts below read-only too", mount_rro),
    Case::new("mount_options", "config.md, mounts: the options of the table are applied", mount_options),
    Case::new("mount_inverse_options", "config.md, mounts: later options undo earlier ones", inverse_options),
    Case::new(
        "mount_tmpfs_data",
        "config.md, mounts: options that are no flags go to the file system",
        tmpfs_data,
    ),
    Case::new(
        "mount_relative_source",
        "config.md, mounts: a relative bind source is in the bundle",
        relative_source,
    ),
    Case::new("mount_missing_source", "config.md, mounts: a missing bind source is an error", missing_source),
    Case::new(
        "mount_unknown_type",
        "config.md, mounts: a type that the kernel lacks is an error",
        unknown_type,
    ),
    Case::new("mount_overlay", "config.md, mounts: overlay mounts", mount_overlay),
    Case::new(
        "mount_default_types",
        "config-linux.md, default filesystems: proc, sysfs, devpts, shm",
        default_types,
    ),
    Case::new(
        "mount_cgroup_readonly",
        "security.md A17: the cgroup mount is read-only when asked",
        cgroup_readonly,
    ),
    Case::new(
        "f1_no_release_agent",
        "security.md F1: no release_agent of a hierarchy's root is visible",
        release_agent,
    ),
    Case::new("masked_paths", "config-linux.md, maskedPaths: the paths cannot be read", masked_paths),
    Case::new("b4_masks_are_readonly", "security.md B4: masked paths cannot be written", masks_readonly),
    Case::new("readonly_paths", "config-linux.md, readonlyPaths: the paths are read-only", readonly_paths),
    Case::new(
        "b11_kernel_helpers",
        "security.md B11: no usermode-helper file of the kernel is writable",
        b11,
    ),
    Case::new(
        "default_devices",
        "config-linux.md, default devices: null zero full random urandom tty",
        devices,
    ),
    Case::new(
        "default_links",
        "runtime-linux.md, dev symbolic links: fd stdin stdout stderr, and ptmx",
        links,
    ),
    Case::new(
        "configured_device",
        "config-linux.md, devices: node with type, numbers, mode and owner",
        device,
    ),
    Case::new(
        "configured_device_twice",
        "config-linux.md, devices: a file at the path that is not the device is an error",
        device_over_file,
    ),
    Case::new(
        "propagation_default",
        "config-linux.md, rootfsPropagation: nothing leaks from the container",
        no_leak,
    ),
    Case::new(
        "propagation_modes",
        "config-linux.md, rootfsPropagation: the mode is that of the config",
        modes,
    )
    .sacrificial(),
    Case::new("propagation_unbindable", "config-linux.md, rootfsPropagation: unbindable", unbindable)
        .sacrificial(),
    Case::new("propagation_slave", "config-linux.md, rootfsPropagation: slave lets host mounts in", slave)
        .sacrificial(),
    Case::new(
        "mount_propagation_option",
        "config.md, mounts: rshared, rslave, rprivate of a bind",
        bind_propagation,
    )
    .sacrificial(),
    Case::new(
        "a14_no_mount_namespace_change",
        "security.md A14: a whole life changes no mount of the host",
        a14,
    )
    .sacrificial(),
    Case::new(
        "a14_without_a_mount_namespace",
        "security.md A14: a container without a mount namespace of its own changes no mount of the host",
        a14_without_a_namespace,
    )
    .sacrificial(),
];

fn results(ctx: &Ctx, bundle: &mut Bundle, actions: Value) -> Outcome<Vec<Value>> {
    bundle.actions(&actions);
    Ok(bundle.run_json(ctx)?.as_array().cloned().unwrap_or_default())
}

fn mount_at<'v>(report: &'v Value, target: &str) -> Outcome<&'v Value> {
    let mounts = report["mounts"].as_array().during("mounts")?;
    mounts.iter().rfind(|mount| mount["target"] == target).during(format!("a mount at {target}"))
}

fn has_option(mount: &Value, option: &str) -> bool {
    mount["options"].as_str().unwrap_or_default().split(',').any(|found| found == option)
}

fn root_readonly(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let found =
        results(ctx, &mut bundle, json!([["create", "/new"], ["remount-rw", "/"], ["create", "/new"]]))?;
    ensure_eq!(found[0], json!({"errno": "EROFS"}), "file in the root");
    ensure_eq!(found[2], json!({"errno": "EROFS"}), "file in the root after an attempt to remount it");
    ensure!(!bundle.rootfs().join("new").exists(), "the file is there on the host");
    Ok(())
}

fn root_writable(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/root/readonly", json!(false));
    let found = results(ctx, &mut bundle, json!([["create", "/new"]]))?;
    ensure_eq!(found[0], json!({"ok": null}), "file in the root");
    ensure!(bundle.rootfs().join("new").exists(), "the file is not there on the host");
    Ok(())
}

fn root_path(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::create_dir(bundle.dir.join("sub"))?;
    fs::rename(bundle.rootfs(), bundle.dir.join("sub/root"))?;
    for path in [json!("sub/root"), json!(bundle.dir.join("sub/root")), json!("./sub/../sub/root")] {
        bundle.set("/root/path", path);
        bundle.run_json(ctx)?;
    }
    Ok(())
}

fn root_missing(ctx: &Ctx) -> Outcome {
    for path in [json!("nowhere"), json!("config.json"), json!("")] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/root/path", path.clone());
        bundle.run(ctx)?.exits(1).and_then(Ran::fails_in_one_line).during(format!("root.path {path}"))?;
    }
    Ok(())
}

fn root_is_all(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let found = results(ctx, &mut bundle, json!([["list", "/"], ["list", "/.."], ["list", "/proc/1/root"]]))?;
    let expected = json!({"ok": ["dev", "probe", "proc", "sys"]});
    ensure_eq!(found[0], expected, "the root");
    ensure_eq!(found[1], expected, "the root's parent");
    let report = ctx.bundle()?.run_json(ctx)?;
    for mount in report["mounts"].as_array().into_iter().flatten() {
        let target = mount["target"].as_str().unwrap_or_default();
        let ours = ["/", "/proc", "/dev", "/sys"].contains(&target)
            || target.starts_with("/proc/")
            || target.starts_with("/dev/")
            || target.starts_with("/sys/");
        ensure!(ours, "a mount of the host is visible: {target}");
    }
    Ok(())
}

fn in_order(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let source = ctx.path("source");
    fs::create_dir(&source)?;
    fs::write(source.join("file"), "")?;
    let source = source.display().to_string();
    bundle.mount("/top", "tmpfs", "tmpfs", &[]).mount("/top/below", "bind", &source, &["rbind"]);
    let found = results(ctx, &mut bundle, json!([["list", "/top"], ["list", "/top/below"]]))?;
    ensure_eq!(found[0], json!({"ok": ["below"]}), "the first mount");
    ensure_eq!(found[1], json!({"ok": ["file"]}), "the second mount, inside the first");
    bundle.unmount("/top").mount("/top", "tmpfs", "tmpfs", &[]);
    let found = results(ctx, &mut bundle, json!([["list", "/top"]]))?;
    ensure_eq!(found[0], json!({"ok": []}), "the later mount hides the earlier");
    Ok(())
}

fn destination_made(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("/a/b/c", "tmpfs", "tmpfs", &["mode=0711"]);
    let found = results(ctx, &mut bundle, json!([["describe", "/a/b"], ["describe", "/a/b/c"]]))?;
    ensure_eq!(found[0]["ok"]["mode"], json!("0755"), "mode of the directory on the way");
    ensure_eq!(found[1]["ok"]["mode"], json!("0711"), "mode of the mount");
    Ok(())
}

fn bind_file(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let source = ctx.path("file");
    fs::write(&source, "from the host")?;
    let source = source.display().to_string();
    fs::write(bundle.rootfs().join("there"), "of the image")?;
    bundle.mount("/there", "bind", &source, &["bind"]).mount("/deep/missing", "bind", &source, &["bind"]);
    let found = results(ctx, &mut bundle, json!([["read", "/there"], ["read", "/deep/missing"]]))?;
    ensure_eq!(found, [json!({"ok": "from the host"}), json!({"ok": "from the host"})], "contents");
    ensure_eq!(
        fs::read_to_string(bundle.rootfs().join("there"))?,
        "of the image",
        "the file below the mount"
    );
    Ok(())
}

fn bind_readonly(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let source = ctx.path("source");
    fs::create_dir(&source)?;
    let text = source.display().to_string();
    bundle.mount("/ro", "bind", &text, &["rbind", "ro"]).mount("/rw", "bind", &text, &["rbind", "rw"]);
    let found = results(ctx, &mut bundle, json!([["create", "/ro/x"], ["create", "/rw/x"]]))?;
    ensure_eq!(found, [json!({"errno": "EROFS"}), json!({"ok": null})], "writes");
    Ok(())
}

/// A bundle with a source directory that has a tmpfs below it; the case must unmount it.
fn with_submount(ctx: &Ctx) -> Outcome<(Bundle, String)> {
    let bundle = ctx.bundle()?;
    let source = bundle.dir.join("source");
    fs::create_dir_all(source.join("below"))?;
    nix::mount::mount(
        Some("tmpfs"),
        &source.join("below"),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )?;
    fs::write(source.join("below/file"), "")?;
    Ok((bundle, source.display().to_string()))
}

fn bind_recursion(ctx: &Ctx) -> Outcome {
    let (mut bundle, source) = with_submount(ctx)?;
    bundle.mount("/plain", "bind", &source, &["bind"]).mount("/recursive", "bind", &source, &["rbind"]);
    let found = results(ctx, &mut bundle, json!([["list", "/plain/below"], ["list", "/recursive/below"]]));
    nix::mount::umount(format!("{source}/below").as_str())?;
    ensure_eq!(found?, [json!({"ok": []}), json!({"ok": ["file"]})], "what is below");
    Ok(())
}

fn mount_rro(ctx: &Ctx) -> Outcome {
    let (mut bundle, source) = with_submount(ctx)?;
    bundle.mount("/ro", "bind", &source, &["rbind", "ro"]).mount("/rro", "bind", &source, &["rbind", "rro"]);
    let found = results(
        ctx,
        &mut bundle,
        json!([["create", "/ro/below/x"], ["create", "/rro/below/y"], ["create", "/rro/z"]]),
    );
    nix::mount::umount(format!("{source}/below").as_str())?;
    let found = found?;
    ensure_eq!(found[0], json!({"ok": null}), "ro does not reach mounts below");
    ensure_eq!(found[1..], [json!({"errno": "EROFS"}), json!({"errno": "EROFS"})], "rro");
    Ok(())
}

fn mount_options(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let table = [
        ("ro", "ro"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("relatime", "relatime"),
        ("sync", ""),
        ("dirsync", ""),
    ];
    for (option, _) in table {
        bundle.mount(&format!("/{option}"), "tmpfs", "tmpfs", &[option]);
    }
    bundle.mount("/strictatime", "tmpfs", "tmpfs", &["strictatime"]);
    let report = bundle.run_json(ctx)?;
    for (option, expected) in table {
        let mount = mount_at(&report, &format!("/{option}"))?;
        if expected.is_empty() {
            let options = mount["superOptions"].as_str().unwrap_or_default();
            ensure!(options.split(',').any(|found| found == option), "{option} is missing in {options}");
        } else {
            ensure!(has_option(mount, expected), "{expected} is missing in {}", mount["options"]);
        }
    }
    let strict = mount_at(&report, "/strictatime")?;
    ensure!(
        !has_option(strict, "relatime") && !has_option(strict, "noatime"),
        "strictatime: {}",
        strict["options"]
    );
    Ok(())
}

fn inverse_options(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount(
        "/undone",
        "tmpfs",
        "tmpfs",
        &["ro", "nosuid", "nodev", "noexec", "rw", "suid", "dev", "exec"],
    );
    bundle.mount("/redone", "tmpfs", "tmpfs", &["rw", "suid", "ro", "nosuid"]);
    let report = bundle.run_json(ctx)?;
    let undone = mount_at(&report, "/undone")?;
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        ensure!(!has_option(undone, option), "{option} stayed in {}", undone["options"]);
    }
    let redone = mount_at(&report, "/redone")?;
    ensure!(has_option(redone, "ro") && has_option(redone, "nosuid"), "options {}", redone["options"]);
    Ok(())
}

fn tmpfs_data(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("/data", "tmpfs", "tmpfs", &["nosuid", "size=1024k", "mode=0710", "uid=7", "nr_inodes=50"]);
    bundle.actions(&json!([["describe", "/data"], ["report"]]));
    let found = bundle.run_json(ctx)?;
    ensure_eq!(found[0]["ok"]["mode"], json!("0710"), "mode");
    ensure_eq!(found[0]["ok"]["uid"], json!(7), "uid");
    let options = mount_at(&found[1]["ok"], "/data")?["superOptions"].as_str().unwrap_or_default().to_owned();
    ensure!(
        options.contains("size=1024k") && options.contains("nr_inodes=50"),
        "options of the tmpfs: {options}"
    );
    Ok(())
}

fn relative_source(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::create_dir(bundle.dir.join("data"))?;
    fs::write(bundle.dir.join("data/file"), "")?;
    bundle.mount("/data", "bind", "data", &["bind"]);
    let found = results(ctx, &mut bundle, json!([["list", "/data"]]))?;
    ensure_eq!(found[0], json!({"ok": ["file"]}), "what is bound");
    Ok(())
}

fn missing_source(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("/data", "bind", "/no/such/source", &["bind"]);
    bundle
        .run(ctx)?
        .exits(1)?
        .fails_in_one_line()?
        .says("/no/such/source")?
        .says("no such file or directory")?;
    Ok(())
}

fn unknown_type(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.mount("/data", "nosuchfs", "none", &[]);
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("no such device")?;
    Ok(())
}

fn mount_overlay(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    for dir in ["lower", "upper", "work"] {
        fs::create_dir(bundle.dir.join(dir))?;
    }
    fs::write(bundle.dir.join("lower/file"), "lower")?;
    let option = |key: &str, dir: &str| format!("{key}={}", bundle.dir.join(dir).display());
    let options = [option("lowerdir", "lower"), option("upperdir", "upper"), option("workdir", "work")];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    bundle.mount("/merged", "overlay", "overlay", &options);
    let found = results(ctx, &mut bundle, json!([["read", "/merged/file"], ["create", "/merged/new"]]))?;
    ensure_eq!(found, [json!({"ok": "lower"}), json!({"ok": null})], "overlay");
    ensure!(bundle.dir.join("upper/new").exists(), "the new file is not in the upper directory");
    Ok(())
}

fn default_types(ctx: &Ctx) -> Outcome {
    let report = ctx.bundle()?.run_json(ctx)?;
    let table = [
        ("/proc", "proc", "rw"),
        ("/dev", "tmpfs", "nosuid"),
        ("/dev/pts", "devpts", "noexec"),
        ("/dev/shm", "tmpfs", "nodev"),
        ("/dev/mqueue", "mqueue", "nodev"),
        ("/sys", "sysfs", "ro"),
    ];
    for (target, kind, option) in table {
        let mount = mount_at(&report, target)?;
        ensure_eq!(mount["type"], json!(kind), "type of {target}");
        ensure!(has_option(mount, option), "{option} is missing in {} of {target}", mount["options"]);
    }
    let devpts = mount_at(&report, "/dev/pts")?["superOptions"].as_str().unwrap_or_default().to_owned();
    for option in ["gid=5", "mode=620", "ptmxmode=666"] {
        ensure!(devpts.contains(option), "{option} is missing in {devpts}");
    }
    Ok(())
}

fn cgroup_readonly(ctx: &Ctx) -> Outcome {
    for own_namespace in [false, true] {
        let mut bundle = ctx.bundle()?;
        if own_namespace {
            bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        }
        // Of the whole hierarchy's root, which is 0555, the mode would be the reason otherwise.
        let report = bundle.privileged_by(&["CAP_DAC_OVERRIDE"]).run_json(ctx)?;
        let mut found = 0;
        for mount in report["mounts"].as_array().into_iter().flatten() {
            if ["cgroup", "cgroup2"].iter().any(|kind| mount["type"] == *kind) {
                found += 1;
                ensure!(has_option(mount, "ro"), "{} is mounted {}", mount["target"], mount["options"]);
                ensure_eq!(mount["writable"], json!("EROFS"), "a write to {}", mount["target"]);
            }
        }
        ensure!(found > 0, "no cgroup file system is mounted");
    }
    Ok(())
}

fn release_agent(ctx: &Ctx) -> Outcome {
    let report = ctx.bundle()?.run_json(ctx)?;
    let mut actions = Vec::new();
    for mount in report["mounts"].as_array().into_iter().flatten() {
        if mount["type"] == "cgroup" {
            let target = mount["target"].as_str().unwrap_or_default();
            actions.push(json!(["open", format!("{target}/release_agent"), "r"]));
            actions.push(json!(["mkdir", format!("{target}/made")]));
        }
    }
    let mut bundle = ctx.bundle()?;
    for pair in results(ctx, &mut bundle, Value::Array(actions))?.chunks(2) {
        ensure_eq!(pair[0], json!({"errno": "ENOENT"}), "release_agent");
        ensure_eq!(pair[1], json!({"errno": "EROFS"}), "mkdir in the hierarchy");
    }
    Ok(())
}

fn masked_paths(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::write(bundle.rootfs().join("secret"), "secret")?;
    fs::create_dir(bundle.rootfs().join("vault"))?;
    fs::write(bundle.rootfs().join("vault/secret"), "secret")?;
    for path in ["/secret", "/vault", "/no/such/path"] {
        bundle.push("/linux/maskedPaths", json!(path));
    }
    let actions = json!([
        ["read", "/secret"],
        ["list", "/vault"],
        ["read", "/proc/keys"],
        ["read", "/proc/timer_list"]
    ]);
    let found = results(ctx, &mut bundle, actions)?;
    ensure_eq!(found[0], json!({"ok": ""}), "a masked file");
    ensure_eq!(found[1], json!({"ok": []}), "a masked directory");
    ensure_eq!(found[2..], [json!({"ok": ""}), json!({"ok": ""})], "masked files of /proc");
    Ok(())
}

fn masks_readonly(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::create_dir(bundle.rootfs().join("vault"))?;
    fs::write(bundle.rootfs().join("secret"), "secret")?;
    bundle.set("/root/readonly", json!(false)).push("/linux/maskedPaths", json!("/vault"));
    bundle.push("/linux/maskedPaths", json!("/secret"));
    let found = results(
        ctx,
        &mut bundle,
        json!([["create", "/vault/x"], ["write", "/secret", "x"], ["read", "/secret"]]),
    )?;
    ensure_eq!(found[0], json!({"errno": "EROFS"}), "a file in a masked directory");
    ensure_eq!(found[2], json!({"ok": ""}), "a masked file after a write");
    ensure_eq!(fs::read_to_string(bundle.rootfs().join("secret"))?, "secret", "the file below the mask");
    Ok(())
}

fn readonly_paths(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::create_dir(bundle.rootfs().join("fixed"))?;
    fs::write(bundle.rootfs().join("file"), "")?;
    bundle.set("/root/readonly", json!(false));
    for path in ["/fixed", "/file", "/no/such/path"] {
        bundle.push("/linux/readonlyPaths", json!(path));
    }
    let actions = json!([
        ["create", "/fixed/x"],
        ["open", "/file", "w"],
        ["write", "/proc/sys/kernel/msgmax", "1"],
        ["create", "/elsewhere"]
    ]);
    let found = results(ctx, &mut bundle, actions)?;
    let refused = json!({"errno": "EROFS"});
    ensure_eq!(found[..3], [refused.clone(), refused.clone(), refused], "writes");
    ensure_eq!(found[3], json!({"ok": null}), "a write elsewhere");
    Ok(())
}

fn b11(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sysrq-trigger",
        "/proc/sys/fs/binfmt_misc/register",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/release_agent",
        "/proc/irq/default_smp_affinity",
    ];
    let actions: Value = files.iter().map(|file| json!(["open", file, "w"])).collect();
    for (file, result) in files.iter().zip(results(ctx, &mut bundle, actions)?) {
        let refused = ["EROFS", "EACCES", "ENOENT"].iter().any(|errno| result["errno"] == *errno);
        ensure!(refused, "{file} could be opened for writing: {result}");
    }
    Ok(())
}

fn devices(ctx: &Ctx) -> Outcome {
    let report = ctx.bundle()?.run_json(ctx)?;
    let table = [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ];
    for (name, device) in table {
        let found = &report["devices"][name];
        ensure_eq!(found["type"], json!("character device"), "/dev/{name}");
        ensure_eq!(found["device"], json!(device), "/dev/{name}");
        ensure_eq!(found["mode"], json!("0666"), "mode of /dev/{name}");
        ensure_eq!(found["uid"], json!(0), "owner of /dev/{name}");
    }
    let mut bundle = ctx.bundle()?;
    let actions = json!([
        ["open", "/dev/null", "rw"],
        ["open", "/dev/zero", "r"],
        ["open", "/dev/urandom", "r"],
        ["open", "/dev/full", "w"]
    ]);
    for result in results(ctx, &mut bundle, actions)? {
        ensure_eq!(result, json!({"ok": null}), "open of a default device");
    }
    Ok(())
}

fn links(ctx: &Ctx) -> Outcome {
    let report = ctx.bundle()?.run_json(ctx)?;
    let table = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, link) in table {
        ensure_eq!(report["devices"][name]["link"], json!(link), "/dev/{name}");
    }
    Ok(())
}

fn device(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.push(
        "/linux/devices",
        json!({"path": "/dev/deep/made", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}),
    );
    bundle.push("/linux/devices", json!({"path": "/dev/block", "type": "b", "major": 7, "minor": 200}));
    bundle.push("/linux/devices", json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600}));
    let actions =
        json!([["describe", "/dev/deep/made"], ["describe", "/dev/block"], ["describe", "/dev/pipe"]]);
    let found = results(ctx, &mut bundle, actions)?;
    let expected = json!({"type": "character device", "device": "1:5", "mode": "0640", "uid": 3, "gid": 4});
    ensure_eq!(found[0]["ok"], expected, "the character device");
    ensure_eq!(found[1]["ok"]["device"], json!("7:200"), "the block device");
    ensure_eq!(found[2]["ok"]["type"], json!("fifo"), "the fifo");
    Ok(())
}

fn device_over_file(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    fs::write(bundle.rootfs().join("thing"), "a file")?;
    bundle.push("/linux/devices", json!({"path": "/thing", "type": "c", "major": 1, "minor": 5}));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?.says("/thing")?;
    Ok(())
}

fn no_leak(ctx: &Ctx) -> Outcome {
    let before = fs::read_to_string("/proc/self/mountinfo")?;
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let container = bundle.start(ctx)?;
    let dir = ctx.dir.display().to_string();
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let new = text.lines().filter(|line| line.contains(&dir) && !before.contains(*line)).count();
    ensure_eq!(new, 0, "mounts of the container on the host");
    container.kill("KILL")?.ok()?;
    Ok(())
}

fn modes(ctx: &Ctx) -> Outcome {
    for (mode, expected) in [("private", ""), ("rprivate", ""), ("slave", "master:"), ("rslave", "master:")] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/linux/rootfsPropagation", json!(mode));
        let report = bundle.run_json(ctx).during(mode)?;
        let found = mount_at(&report, "/")?["propagation"].as_str().unwrap_or_default().to_owned();
        ensure!(found.contains(expected) && !found.contains("shared:"), "{mode}: propagation {found:?}");
        ensure!(!expected.is_empty() || found.is_empty(), "{mode}: propagation {found:?}");
    }
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/rootfsPropagation", json!("sideways"));
    bundle.run(ctx)?.exits(1)?.fails_in_one_line()?;
    Ok(())
}

fn unbindable(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/rootfsPropagation", json!("unbindable"));
    let report = bundle.run_json(ctx)?;
    let found = mount_at(&report, "/")?["propagation"].clone();
    ensure_eq!(found, json!("unbindable"), "propagation");
    Ok(())
}

fn slave(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/rootfsPropagation", json!("rslave")).probe(["sleep"]);
    let shared = ctx.path("shared");
    fs::create_dir(&shared)?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755))?;
    bundle.mount("/shared", "bind", &shared.display().to_string(), &["rbind", "rslave"]);
    let container = bundle.start(ctx)?;
    container.wait_output("ready")?;
    let below = shared.join("below");
    fs::create_dir(&below)?;
    let none = None::<&str>;
    nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), none)?;
    fs::write(below.join("file"), "")?;
    let found = container.exec_actions(&json!([["list", "/shared/below"]]));
    nix::mount::umount(&below)?;
    ensure_eq!(found?[0], json!({"ok": ["file"]}), "a later mount of the host");
    Ok(())
}

fn bind_propagation(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    let source = ctx.path("source");
    fs::create_dir(&source)?;
    let source = source.display().to_string();
    for option in ["rprivate", "rslave", "rshared"] {
        bundle.mount(&format!("/{option}"), "bind", &source, &["rbind", option]);
    }
    let report = bundle.run_json(ctx)?;
    let of = |target: &str| -> Outcome<String> {
        Ok(mount_at(&report, target)?["propagation"].as_str().unwrap_or_default().to_owned())
    };
    ensure_eq!(of("/rprivate")?, "", "rprivate");
    ensure!(of("/rslave")?.starts_with("master:"), "rslave is {}", of("/rslave")?);
    ensure!(of("/rshared")?.starts_with("shared:"), "rshared is {}", of("/rshared")?);
    Ok(())
}

fn a14(ctx: &Ctx) -> Outcome {
    // The fixture compares the mount table, its optional fields included.
    for propagation in ["", "private", "slave", "rslave"] {
        let mut bundle = ctx.bundle()?;
        if !propagation.is_empty() {
            bundle.set("/linux/rootfsPropagation", json!(propagation));
        }
        bundle.mount("/made", "tmpfs", "tmpfs", &[]).probe(["true"]);
        bundle.run(ctx)?.ok()?;
    }
    Ok(())
}

/// The fixture compares the mount table here, too.
fn a14_without_a_namespace(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.without_namespace("mount").set("/mounts", json!([])).set("/root/readonly", json!(false));
    bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([])).probe(["true"]);
    bundle.run(ctx)?.ok().map(drop)
}
