//! Mount, user and other namespaces, propagation, hooks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use skeg::sys::clone::{Cloned, clone_process};
use skeg::sys::pid;

use crate::support::{
    Container, HOST, NEW_MOUNT, NEW_USER, canary, chown_to_mapped, config_with, default_config, facts,
    fresh_host, is_unified, mounts, rootfs_dir, run, run_beside_canaries,
};

/// security.md A14, on a host whose mounts are shared.
pub fn host_propagation() {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_SHARED | MsFlags::MS_REC, none).unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bind = json!({"destination": "/data", "type": "bind", "source": canary(), "options": ["rbind"]});
    // The propagation of /, of the bind without an option, and of a mount below it.
    let probe = || {
        let none: Option<&str> = None;
        mount(Some("x"), "/data/dir", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let line = |point: &str| {
            let found = mounts().into_iter().find(|line| line.starts_with(&format!("{point} "))).unwrap();
            let fields: Vec<&str> =
                found.split(' ').skip(4).map(|field| field.split(':').next().unwrap()).collect();
            format!("{point}={}", fields.join("+"))
        };
        [line("/"), line("/data")].join(" ")
    };
    for (value, expected) in [
        ("", "/=master /data=master"),
        ("slave", "/=master /data=master"),
        ("rslave", "/=master /data=master"),
        ("private", "/= /data="),
        ("rprivate", "/= /data="),
        ("unbindable", "/=unbindable /data="),
        ("runbindable", "/=unbindable /data=unbindable"),
    ] {
        let mut config =
            config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"}, bind]));
        config["linux"]["rootfsPropagation"] = json!(value);
        assert_eq!(run(config, probe).as_deref(), Ok(expected), "{value}");
        assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap(), "{value}");
    }
    // The options of the mount itself; shared with the host only where both say so.
    for (root, option, expected) in [
        ("", "rprivate", "/=master /data="),
        ("", "rshared", "/=master /data=shared+master"),
        ("shared", "rprivate", "/=shared /data="),
        ("rshared", "rslave", "/=shared /data=shared+master"),
    ] {
        let mut bind = bind.clone();
        bind["options"] = json!(["rbind", option]);
        let mut config =
            config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"}, bind]));
        config["linux"]["rootfsPropagation"] = json!(root);
        assert_eq!(run(config, probe).as_deref(), Ok(expected), "{root} {option}");
        assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap(), "{root} {option}");
    }
    // A volume that is to be shared with the host is: a mount below it appears there, and nothing else.
    let mut bind = bind.clone();
    bind["options"] = json!(["rbind", "rshared"]);
    let mut config = config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"}, bind]));
    config["linux"]["rootfsPropagation"] = json!("shared");
    assert_eq!(run(config, probe).as_deref(), Ok("/=shared /data=shared"));
    let after = mounts().len();
    assert_eq!(after, before.lines().count() + 1);
}

/// security.md B12, and devices in a user namespace: bound, not made.
pub fn host_sys_in_user_namespace() {
    let mut config = default_config();
    config["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "user"}, {"type": "pid"}, {"type": "ipc"}]);
    let probe = || {
        let writable: Vec<_> = mounts()
            .into_iter()
            .filter(|line| line.starts_with("/sys ") || line.starts_with("/sys/"))
            .filter(|line| !line.split(' ').nth(1).unwrap().starts_with("ro,"))
            .collect();
        let below = mounts().iter().filter(|line| line.starts_with("/sys/")).count();
        let null = fs::metadata("/dev/null").unwrap();
        fs::write("/dev/null", "x").unwrap();
        // Each hierarchy of version 1 is a mount.
        let least = if is_unified() { 1 } else { 9 };
        format!("{} {writable:?} {:x} {}", below >= least, null.rdev(), fs::metadata("/dev").unwrap().uid())
    };
    chown_to_mapped(&rootfs_dir());
    assert_eq!(run(config.clone(), probe).unwrap(), "true [] 103 0");
    // With a network namespace of its own the container gets a sysfs of its own.
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "network"}));
    let own = || mounts().into_iter().find(|line| line.starts_with("/sys ")).unwrap();
    assert_eq!(run(config, own).unwrap(), "/sys ro,nosuid,nodev,noexec,relatime sysfs sysfs");
}

/// security.md A14: no propagation is touched; the container gets a root by chroot, as it gets no namespace.
pub fn without_mount_namespace() {
    let mut bare = config_with(json!([]));
    bare["linux"]["namespaces"] = json!([{"type": "pid"}]);
    fs::write(rootfs_dir().join("name"), "root").unwrap();
    let probe = || format!("{} {}", fs::read_to_string("/name").unwrap(), Path::new("/dev/null").exists());
    let config = bare.clone();
    let container = Container { config, facts: facts(), after_open: || {}, terminal: false, probe };
    assert_eq!(run_beside_canaries(container).unwrap(), "root true");
    let mut read_only = bare.clone();
    read_only["root"]["readonly"] = json!(true);
    assert_eq!(run(read_only, probe).unwrap_err(), "/root/readonly: true: needs a mount namespace");
    bare["linux"]["maskedPaths"] = json!(["/x"]);
    assert_eq!(run(bare, probe).unwrap_err(), "/linux/maskedPaths: needs a mount namespace");
}

/// config.md, "POSIX-platform Hooks": createContainer hooks run in the container's mount namespace before the pivot and
/// find the container's root, with its mounts, at the path of the rootfs.
pub fn hooks_mount_by_path() {
    for name in ["prestart", "createRuntime", "createContainer"] {
        let mut config = config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
        config["hooks"] = json!({name: [{"path": "/bin/true"}]});
        let probe = || fs::read_to_string("/hooked/file").unwrap() + &format!(" {}", mounts().len());
        let container = Container { config, facts: facts(), after_open: || {}, terminal: false, probe };
        assert_eq!(run_beside_canaries(container).unwrap(), "canary 3");
        // With something mounted on the root.
        let mut config = config_with(json!([
            {"destination": "/", "type": "tmpfs", "source": "t"},
            {"destination": "/", "type": "tmpfs", "source": "t", "options": ["ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ]));
        config["hooks"] = json!({name: [{"path": "/bin/true"}]});
        let container = Container { config, facts: facts(), after_open: || {}, terminal: false, probe };
        assert_eq!(run_beside_canaries(container).unwrap(), "canary 3");
        fresh_host();
    }
}

/// A mount namespace that others are in as well keeps its root: the container's mounts are below the rootfs in it.
pub fn joined_mount_namespace() {
    let Cloned::Parent { pidfd, pid } = clone_process(NEW_MOUNT, None, false).unwrap() else {
        loop {
            nix::unistd::pause();
        }
    };
    fs::write(rootfs_dir().join("name"), "root").unwrap();
    let mut joined = config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": canary(), "options": ["ro"]}]));
    joined["linux"]["namespaces"] =
        json!([{"type": "pid"}, {"type": "mount", "path": format!("/proc/{pid}/ns/mnt")}]);
    joined["linux"]["maskedPaths"] = json!(["/proc/timer_list"]);
    let probe = || {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        format!("{} {} {:?}", read("/name"), read("/data/file"), read("/proc/timer_list"))
    };
    let container = Container { config: joined, facts: facts(), after_open: || {}, terminal: false, probe };
    assert_eq!(run_beside_canaries(container).unwrap(), "root canary \"\"");
    let inside = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(inside.matches("/bundle/rootfs/proc ").count(), 1, "{inside}");
    pid::send_signal(&pidfd, Signal::SIGKILL as i32).unwrap();
    pid::wait_child(&pidfd).unwrap();
}

/// As a caller that is root of a user namespace only: mknod(2) is refused, and flags that the host has set are locked.
pub fn inside_a_user_namespace() {
    let none: Option<&str> = None;
    let source = Path::new(HOST).join("source");
    fs::create_dir(&source).unwrap();
    mount(Some("s"), &source, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, none).unwrap();
    skeg::sys::clone::unshare(NEW_USER | NEW_MOUNT).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    for name in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/self/{name}"), "0 0 1").unwrap();
    }
    let bind = |options: Value| {
        config_with(json!([{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": source, "options": options}]))
    };
    let probe = || {
        let line = mounts().into_iter().find(|line| line.starts_with("/data ")).unwrap();
        format!("{} {:x}", line.split(' ').nth(1).unwrap(), fs::metadata("/dev/full").unwrap().rdev())
    };
    assert_eq!(run(bind(json!(["ro"])), probe).unwrap(), "ro,nosuid,nodev,relatime 107");
    let text = run(bind(json!(["ro", "suid"])), probe).unwrap_err();
    assert!(text.ends_with("/mounts/1/options: operation not permitted"), "{text}");
}
