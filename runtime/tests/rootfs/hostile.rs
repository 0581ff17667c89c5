//! Images and neighbours that put something else where a mount belongs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use skeg::rootfs::plan::Facts;
use skeg::sys::clone::{Cloned, clone_process};
use skeg::sys::pid;

use crate::support::{
    Container, HOST, KINDS, NEW_MOUNT, bundle, canary, chown_to_mapped, config_with, default_config, facts,
    fresh_host, make_hostile, rootfs_dir, run, run_beside_canaries, snapshot,
};

/// A config that uses the image's own /dev, binds files and directories, and wants a terminal.
fn busy_config() -> Value {
    let bind = |destination: &str, source: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "ro"]});
    let mut config = config_with(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["ptmxmode=0666"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        bind("/etc/passwd", "/etc/passwd"),
        bind("/etc/mtab/x", "/etc"),
        {"destination": "/tmp", "type": "tmpfs", "source": "tmp", "options": ["tmpcopyup"]},
    ]));
    config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/etc/hosts", "/dev/null"]);
    config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/etc/group"]);
    config
}

/// security.md A1 to A4, B3, D1, D2, T2: whatever the image has where something is to be mounted or made, the host stays
/// as it was, the set-up ends, and it either worked inside or says what is wrong.
pub fn hostile_matrix() {
    const NAMES: [&str; 19] = [
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
        "etc/group",
        "etc/hosts",
        "etc/mtab",
        "tmp",
        "tmp/x",
        "tmp/x/y",
    ];
    let probe = || format!("{:?}", fs::read_to_string("/proc/timer_list").map_err(|error| error.kind()));
    let (mut worked, mut refused) = (0, 0);
    for (config, terminal) in [(default_config(), true), (busy_config(), true), (busy_config(), false)] {
        for name in NAMES {
            for kind in KINDS {
                fresh_host();
                make_hostile(&rootfs_dir().join(name), kind);
                let config = config.clone();
                let container = Container { config, facts: facts(), after_open: || {}, terminal, probe };
                match run_beside_canaries(container) {
                    // Row B3: what is masked reads empty, whatever the image has as dev/null.
                    Ok(text) => {
                        assert_eq!(text, "Ok(\"\")", "{name}: {kind}");
                        worked += 1;
                    }
                    Err(text) => {
                        assert!(text.contains(": ") && text.len() < 400, "{name}: {kind}: {text:?}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(worked > 300 && refused > 50, "{worked} worked, {refused} were refused");
}

/// security.md A1, A2, T3: a component of mount points is exchanged all the time, as a container with a shared volume can.
pub fn swapped_component() {
    let good = rootfs_dir().join("a");
    let link = rootfs_dir().join("b");
    fs::create_dir(&good).unwrap();
    symlink(canary().join("dir"), &link).unwrap();
    let Cloned::Parent { pidfd, .. } = clone_process(0, None, false).unwrap() else {
        loop {
            let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &good, nix::fcntl::AT_FDCWD, &link, flags).unwrap();
        }
    };
    let bind = |destination: &str, source: &str| json!({"destination": destination, "type": "bind", "source": source});
    let mounts = json!([
        bind("/a/b/c", "/etc/passwd"),
        bind("/a/d/e/f", "/etc"),
        {"destination": "/a/t", "type": "tmpfs", "source": "t"},
        {"destination": "/a/t/u/v", "type": "tmpfs", "source": "t"},
    ]);
    for _ in 0..200 {
        let probe = String::new;
        let outcome = run_beside_canaries(Container {
            config: config_with(mounts.clone()),
            facts: facts(),
            after_open: || {},
            terminal: false,
            probe,
        });
        if let Err(text) = outcome {
            assert!(text.starts_with("mount "), "{text}");
        }
        for entry in fs::read_dir(rootfs_dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                let _ = fs::remove_dir_all(path.join("b"));
            }
        }
    }
    pid::send_signal(&pidfd, Signal::SIGKILL as i32).unwrap();
    pid::wait_child(&pidfd).unwrap();
}

/// security.md A4 (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867).
pub fn proc_and_sys_on_links() {
    for name in ["proc", "sys"] {
        for kind in KINDS {
            fresh_host();
            make_hostile(&rootfs_dir().join(name), kind);
            let outcome = run(default_config(), String::new);
            if kind == "directory" {
                assert_eq!(outcome, Ok(String::new()));
                continue;
            }
            let fs_type = if name == "sys" { "sysfs" } else { "proc" };
            let text = outcome.unwrap_err();
            let begins = text.starts_with(&format!("mount {fs_type} on /{name}: "));
            assert!(begins && text.contains("the destination is"), "{kind}: {text}");
        }
        // Nor behind a link of the image.
        fresh_host();
        fs::create_dir(rootfs_dir().join("real")).unwrap();
        symlink("real", rootfs_dir().join("link")).unwrap();
        let text = run(
            config_with(json!([{"destination": "/link/p", "type": "proc", "source": "proc"}])),
            String::new,
        );
        assert!(text.unwrap_err().contains("symbolic link"));
    }
}

/// security.md A5: what the container uncovers is the image's own, with pivot_root and with --no-pivot.
pub fn no_host_mount_is_left_below() {
    let probe = || {
        let mut text = String::new();
        while nix::mount::umount2("/proc", nix::mount::MntFlags::MNT_DETACH).is_ok() {
            text += "unmounted ";
        }
        let names: Vec<_> = fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        text + &names.join(" ")
    };
    fs::create_dir(rootfs_dir().join("proc")).unwrap();
    fs::write(rootfs_dir().join("proc/image"), "").unwrap();
    let proc_only = || config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    for no_pivot in [false, true] {
        let facts = Facts { no_pivot, ..facts() };
        let config = proc_only();
        let container = Container { config, facts, after_open: || {}, terminal: false, probe };
        assert_eq!(run_beside_canaries(container).unwrap(), "unmounted image");
    }
    // A root that pivot_root(2) refuses, as it does the initial ramfs: one on a shared mount outside of the chroot.
    let none: Option<&str> = None;
    mount(none, HOST, none, MsFlags::MS_SHARED, none).unwrap();
    let host = Path::new(HOST).join("ramfs");
    fs::create_dir(&host).unwrap();
    mount(Some("ramfs"), &host, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    for name in ["dev", "proc", "tmp"] {
        fs::create_dir(host.join(name)).unwrap();
        let recursive_bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&Path::new("/").join(name)), &host.join(name), none, recursive_bind, none).unwrap();
    }
    for name in ["data", "a b", "data"] {
        fs::create_dir_all(host.join(name)).unwrap();
        mount(Some("data"), &host.join(name), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    }
    nix::unistd::chroot(&host).unwrap();
    nix::unistd::chdir("/").unwrap();
    // Every mount of the namespace that the container's root reaches, which with chroot(2) is not all there is: those
    // that were on the old root would be listed by their names on it.
    let list = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().map(|line| line.split(' ').nth(4).unwrap()).collect::<Vec<_>>().join(" ")
    };
    for (probe, expected) in [(probe as fn() -> String, "unmounted image"), (list, "/ /proc")] {
        for no_pivot in [false, true] {
            let facts = Facts { no_pivot, ..facts() };
            let container =
                Container { config: proc_only(), facts, after_open: || {}, terminal: false, probe };
            match container.run() {
                Ok(text) if no_pivot => assert_eq!(text, expected),
                outcome => assert!(
                    outcome.as_ref().is_err_and(|text| text.contains("use --no-pivot")),
                    "{outcome:?}"
                ),
            }
        }
    }
    let mut config = proc_only();
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    let facts_without_pivot = || Facts { no_pivot: true, ..facts() };
    let container =
        Container { config, facts: facts_without_pivot(), after_open: || {}, terminal: false, probe: list };
    assert_eq!(container.run().unwrap(), "/ /proc /hooked");
    // Out of the chroot, by the umount of the container's root and the root of its namespace: the old root is bare.
    let uncover = || {
        let namespace = fs::File::open("/proc/self/ns/mnt").unwrap();
        nix::mount::umount2("/", nix::mount::MntFlags::MNT_DETACH).unwrap();
        skeg::sys::clone::join(&namespace, NEW_MOUNT).unwrap();
        let ramfs = Path::new(HOST).join("ramfs");
        let count = |name: &str| fs::read_dir(ramfs.join(name)).map_or(0, Iterator::count);
        format!("{} {} {} {}", count(""), count("proc"), count("dev"), count("data"))
    };
    let container = Container {
        config: proc_only(),
        facts: facts_without_pivot(),
        after_open: || {},
        terminal: false,
        probe: uncover,
    };
    assert_eq!(container.run().unwrap(), "5 0 0 0");
}

/// security.md A6: not through a link of the image either, and on the whole of /proc only a procfs.
pub fn nothing_into_proc() {
    symlink("/proc/sys", rootfs_dir().join("link")).unwrap();
    let mut mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/link/kernel", "type": "bind", "source": canary().join("dir")},
    ]);
    let text = run(config_with(mounts.clone()), String::new).unwrap_err();
    assert!(text.ends_with("on /link/kernel: the destination is a link into procfs"), "{text}");
    for (source, works) in [("/proc", true), ("/etc", false), ("/proc/sys", false)] {
        mounts[1] = json!({"destination": "/proc", "type": "bind", "source": source, "options": ["rbind"]});
        let outcome = run(config_with(mounts.clone()), String::new);
        assert_eq!(outcome.is_ok(), works, "{source}: {outcome:?}");
    }
    mounts[1] = json!({"destination": "/proc/uptime", "type": "bind", "source": canary().join("file")});
    let uptime = || fs::read_to_string("/proc/uptime").unwrap();
    assert_eq!(run(config_with(mounts), uptime).unwrap(), "canary");
}

/// security.md A6: where devices are bound, because they cannot be made, no link of the image leads them into procfs.
pub fn no_device_into_proc() {
    let mut config = config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}, {"type": "pid"}]);
    fs::create_dir(rootfs_dir().join("dev")).unwrap();
    let link = rootfs_dir().join("dev/full");
    chown_to_mapped(&rootfs_dir());
    chown_to_mapped(&rootfs_dir().join("dev"));
    assert_eq!(run(config.clone(), String::new), Ok(String::new()));
    fs::remove_file(&link).unwrap();
    symlink("/proc/uptime", link).unwrap();
    let text = run(config, String::new).unwrap_err();
    assert_eq!(text, "make device /dev/full: the destination is in procfs");
}

/// security.md A7, A12: what is exchanged after the first touch has no effect.
pub fn sources_are_opened_once() {
    let host = Path::new(HOST);
    fs::create_dir(host.join("good")).unwrap();
    fs::write(host.join("good/name"), "good").unwrap();
    fs::write(rootfs_dir().join("name"), "root").unwrap();
    symlink(host.join("good"), host.join("source")).unwrap();
    symlink(rootfs_dir(), bundle().join("linked")).unwrap();
    let mut config =
        config_with(json!([{"destination": "/data", "type": "bind", "source": host.join("source")}]));
    config["root"]["path"] = json!("linked");
    let after_open = || {
        for link in [Path::new(HOST).join("source"), bundle().join("linked")] {
            fs::remove_file(&link).unwrap();
            symlink(canary(), link).unwrap();
        }
    };
    let probe = || fs::read_to_string("/data/name").unwrap() + &fs::read_to_string("/name").unwrap();
    let text = run_beside_canaries(Container { config, facts: facts(), after_open, terminal: false, probe });
    assert_eq!(text.unwrap(), "goodroot");
}

/// security.md A19.
pub fn tmpcopyup() {
    let image = rootfs_dir().join("data");
    fs::create_dir_all(image.join("dir/below")).unwrap();
    fs::write(image.join("dir/below/file"), "text").unwrap();
    fs::set_permissions(image.join("dir/below/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    nix::unistd::chown(&image.join("dir"), Some(7.into()), Some(8.into())).unwrap();
    make_hostile(&image.join("link"), "link to the canary directory");
    make_hostile(&image.join("fifo"), "fifo");
    make_hostile(&image.join("device"), "other device");
    let expected = snapshot(&image).replace(image.to_str().unwrap(), "");
    let options = json!(["tmpcopyup", "size=4m"]);
    let copy_up =
        || config_with(json!([{"destination": "/data", "type": "tmpfs", "source": "t", "options": options}]));
    let probe = || snapshot(Path::new("/data")).replace("/data", "");
    assert_eq!(run(copy_up(), probe).unwrap(), expected);
    // Too many files, too deep, too large: an error, in bounded time.
    fs::write(image.join("large"), vec![0; 5 << 20]).unwrap();
    assert!(run(copy_up(), probe).unwrap_err().ends_with("large: copy: no space left on device"));
    fs::remove_file(image.join("large")).unwrap();
    let mut deep = image.join("deep");
    for _ in 0..70 {
        deep = deep.join("d");
    }
    fs::create_dir_all(&deep).unwrap();
    assert!(run(copy_up(), probe).unwrap_err().ends_with("directories too deep are not copied"));
    fs::remove_dir_all(image.join("deep")).unwrap();
    for index in 0..65_537 {
        fs::write(image.join(format!("{index}")), "").unwrap();
    }
    assert!(run(copy_up(), probe).unwrap_err().ends_with("more than 65536 files are not copied"));
}
