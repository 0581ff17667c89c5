//! What the entries of `mounts` mean.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::support::{
    Container, HOST, canary, config_with, default_config, facts, is_unified, mounts, rootfs_dir, run,
    run_beside_canaries, write_error,
};

/// config.md "Mounts", config-linux.md "Default Devices", "/dev symbolic links", "Masked Paths", "Readonly Paths".
pub fn default_config_mounts_as_runc_does() {
    let probe = || {
        let mut text = mounts().join("\n");
        for name in ["null", "zero", "full", "random", "urandom", "tty", "pts/ptmx"] {
            let found = fs::metadata(Path::new("/dev").join(name)).unwrap();
            write!(text, "\n{name} {:o} {:x} {}", found.mode(), found.rdev(), found.uid()).unwrap();
        }
        for name in ["fd", "stdin", "stdout", "stderr", "ptmx"] {
            let target = fs::read_link(Path::new("/dev").join(name)).unwrap();
            write!(text, "\n{name} -> {}", target.display()).unwrap();
        }
        for path in
            ["/", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/firmware"]
        {
            if Path::new(path).exists() {
                write!(text, "\nwrite {path} {}", write_error(path)).unwrap();
            }
        }
        write!(text, "\ntimer_list {:?}", fs::read_to_string("/proc/timer_list").unwrap()).unwrap();
        text
    };
    let text = run(default_config(), probe).unwrap();
    let hierarchies: &[&str] = if is_unified() {
        &["/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime cgroup2 cgroup2"]
    } else {
        &[
            "/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tmpfs tmpfs",
            "/sys/fs/cgroup/pids ro,nosuid,nodev,noexec,relatime cgroup cgroup",
            "/sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime cgroup cgroup",
            "write /sys/fs/cgroup/pids EROFS: Read-only file system",
        ]
    };
    let expected = [
        "/ ro,relatime tmpfs host",
        "/proc rw,relatime proc proc",
        "/dev rw,nosuid tmpfs tmpfs",
        "/dev/pts rw,nosuid,noexec,relatime devpts devpts",
        "/dev/shm rw,nosuid,nodev,noexec,relatime tmpfs shm",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime mqueue mqueue",
        "/sys ro,nosuid,nodev,noexec,relatime sysfs sysfs",
        "/proc/sys ro,relatime proc proc",
        "/sys/firmware ro,nosuid,nodev,noexec,relatime tmpfs tmpfs",
        "null 20666 103 0",
        "zero 20666 105 0",
        "full 20666 107 0",
        "random 20666 108 0",
        "urandom 20666 109 0",
        "tty 20666 500 0",
        "pts/ptmx 20666 502 0",
        "fd -> /proc/self/fd",
        "stdin -> /proc/self/fd/0",
        "stdout -> /proc/self/fd/1",
        "stderr -> /proc/self/fd/2",
        "ptmx -> pts/ptmx",
        "write / EROFS: Read-only file system",
        "write /sys EROFS: Read-only file system",
        "write /sys/fs/cgroup EROFS: Read-only file system",
        "write /sys/firmware EROFS: Read-only file system",
        "timer_list \"\"",
    ];
    for line in expected.iter().chain(hierarchies) {
        assert!(text.lines().any(|found| found == *line), "{line}\nis not in\n{text}");
    }
    // Nothing of the host is left: 1 root, 7 mounts, 2 hierarchies, and what the machine has of masked and read-only paths.
    assert!(mounts_of(&text) <= 10 + 15, "{text}");
    assert!(!text.contains("ext4") && !text.contains(HOST), "{text}");
}

fn mounts_of(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with('/')).count()
}

/// security.md A9 (CVE-2026-115521): every kind of read-only mount, with an image that imitates /proc/self/fd.
pub fn read_only_means_read_only() {
    fs::create_dir_all(rootfs_dir().join("proc/self/fd")).unwrap();
    for fd in 3..20 {
        symlink(canary().join("dir"), rootfs_dir().join(format!("proc/self/fd/{fd}"))).unwrap();
    }
    let source = Path::new(HOST).join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    let none: Option<&str> = None;
    mount(Some("below"), &source.join("below"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let bind = |destination: &str, options: Value| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    let mut config = config_with(json!([
        {"destination": "/dev", "type": "tmpfs", "source": "d", "options": ["ro", "mode=755"]},
        {"destination": "/dev/made", "type": "tmpfs", "source": "t", "options": ["rro"]},
        {"destination": "/tmpfs", "type": "tmpfs", "source": "t", "options": ["rw", "ro"]},
        {"destination": "/writable", "type": "tmpfs", "source": "t", "options": ["ro", "rw"]},
        bind("/bind", json!(["ro"])),
        bind("/rbind", json!(["rbind", "ro"])),
        bind("/rro", json!(["rbind", "rro"])),
        bind("/again", json!(["rbind", "rro", "rrw"])),
    ]));
    config["root"]["readonly"] = json!(true);
    let probe = || {
        const PATHS: [&str; 11] = [
            "/",
            "/dev",
            "/dev/made",
            "/tmpfs",
            "/writable",
            "/bind",
            "/rbind",
            "/rbind/below",
            "/rro",
            "/rro/below",
            "/again/below",
        ];
        PATHS.map(|path| format!("{path} {}", &write_error(path)[..5])).join(", ")
    };
    let text =
        run_beside_canaries(Container { config, facts: facts(), after_open: || {}, terminal: false, probe });
    assert_eq!(
        text.unwrap(),
        "/ EROFS, /dev EROFS, /dev/made EROFS, /tmpfs EROFS, /writable writa, /bind EROFS, /rbind EROFS, \
         /rbind/below writa, /rro EROFS, /rro/below EROFS, /again/below writa"
    );
}

/// security.md A10: a mount point that is missing in a read-only bind source is not made there.
pub fn nothing_made_in_read_only_source() {
    let data = |options: Value| {
        json!([
            {"destination": "/data", "type": "bind", "source": canary(), "options": options},
            {"destination": "/data/new/deep", "type": "tmpfs", "source": "t"},
        ])
    };
    for options in [json!(["ro"]), json!(["rbind", "rro"])] {
        let config = config_with(data(options));
        let probe = String::new;
        let container = Container { config, facts: facts(), after_open: || {}, terminal: false, probe };
        let text = run_beside_canaries(container).unwrap_err();
        assert_eq!(text, "mount tmpfs on /data/new/deep: make /data/new: read-only file system");
    }
    // In a writable one it is, as the config asks.
    assert_eq!(run(config_with(data(json!([]))), String::new), Ok(String::new()));
    assert!(canary().join("new/deep").is_dir());
}

/// security.md A15.
pub fn one_option_is_one_parameter() {
    let tmpfs = |option: &str| {
        config_with(json!([{"destination": "/t", "type": "tmpfs", "source": "t", "options": [option]}]))
    };
    for option in ["size=1m,mode=0777", "mode=0777,uid=7", "size", "siz=1m", "mode=9"] {
        let text = run(tmpfs(option), String::new).unwrap_err();
        assert!(text.starts_with(&format!("mount tmpfs on /t: option {option}: ")), "{text}");
        assert!(text.ends_with("invalid argument"), "{text}");
    }
    let probe = || format!("{:o}", fs::metadata("/t").unwrap().mode());
    assert_eq!(run(tmpfs("mode=0711"), probe).unwrap(), "40711");
    // Without a mode the directory below lends its own, and where there was none tmpfs has 1777.
    fs::remove_dir(rootfs_dir().join("t")).unwrap();
    assert_eq!(run(tmpfs("size=1m"), probe).unwrap(), "41777");
    fs::set_permissions(rootfs_dir().join("t"), fs::Permissions::from_mode(0o1750)).unwrap();
    assert_eq!(run(tmpfs("size=1m"), probe).unwrap(), "41750");
}

/// security.md A17 (CVE-2023-25809), F1: with and without a cgroup namespace, v1 and v2.
pub fn cgroup_mounts() {
    let own = format!("rootfs-{}", std::process::id());
    let names: &[&str] = if is_unified() { &[""] } else { &["pids", "systemd", "unified"] };
    let dirs: Vec<_> = names.iter().map(|name| Path::new("/sys/fs/cgroup").join(name).join(&own)).collect();
    for dir in &dirs {
        fs::create_dir(dir).unwrap();
    }
    let facts = |v1: bool| {
        let mut facts = facts();
        for hierarchy in &mut facts.cgroups.v1 {
            hierarchy.container = hierarchy.container.join(format!("rootfs-{}", std::process::id()));
        }
        if !v1 {
            facts.cgroups.v1.clear();
        }
        facts
    };
    let probe = || {
        let mut text = String::new();
        for dir in ["/c", "/c/pids", "/c/systemd"] {
            if Path::new(dir).exists() {
                let made = fs::create_dir(Path::new(dir).join("made"));
                let _ = fs::remove_dir(Path::new(dir).join("made"));
                let release_agent = Path::new(dir).join("release_agent").exists();
                write!(text, "{dir} {:?} {release_agent} ", made.map_err(|error| error.kind())).unwrap();
            }
        }
        text
    };
    let mut outcomes = Vec::new();
    for (v1, namespaces, option) in [
        (true, "pid", "ro"),
        (true, "cgroup", "ro"),
        (true, "pid", "rw"),
        (false, "pid", "ro"),
        (false, "cgroup", "ro"),
    ] {
        if v1 && is_unified() {
            continue;
        }
        let mut config = config_with(
            json!([{"destination": "/c", "type": "cgroup", "source": "cgroup", "options": [option]}]),
        );
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": namespaces}]);
        let container = Container { config, facts: facts(v1), after_open: || {}, terminal: false, probe };
        outcomes.push((v1, namespaces, option, container.run()));
    }
    for dir in &dirs {
        fs::remove_dir(dir).unwrap();
    }
    for (v1, namespaces, option, outcome) in outcomes {
        let text = outcome.unwrap();
        let refused = text.matches("Err(ReadOnlyFilesystem)").count();
        match (v1, option) {
            (true, "ro") => assert_eq!(refused, 3, "{namespaces}: {text}"),
            (true, _) => assert_eq!(refused, 0, "{namespaces}: {text}"),
            (false, _) => assert_eq!(refused, 1, "{namespaces}: {text}"),
        }
        // F1: without a cgroup namespace the container's own cgroup is what is bound, not the hierarchy's root.
        if v1 && namespaces == "pid" {
            assert!(!text.contains("true"), "{namespaces}: {text}");
        }
    }
}

/// security.md A20; config.md "Mounts", idmap.
pub fn id_mapped_bind() {
    let ids = json!([{"containerID": 0, "hostID": 70000, "size": 100}]);
    let bind = |options: Value| {
        let mut config = config_with(
            json!([{"destination": "/data", "type": "bind", "source": canary(), "options": options,
            "uidMappings": ids, "gidMappings": ids}]),
        );
        config["mounts"].as_array_mut().unwrap().push(json!({"destination": "/proc", "type": "proc"}));
        config
    };
    let probe = || {
        let open: Vec<_> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("user:"))
            .collect();
        format!("{} {}", fs::metadata("/data/file").unwrap().uid(), open.len())
    };
    assert_eq!(run(bind(json!(["idmap", "ro"])), probe).unwrap(), "70000 0");
    assert_eq!(run(bind(json!(["rbind", "ridmap"])), probe).unwrap(), "70000 0");
}

/// config.md, "Mounts": a bind without options keeps the flags of its source, one with options has exactly those.
pub fn bind_flags() {
    let none: Option<&str> = None;
    let source = Path::new(HOST).join("source");
    fs::create_dir(&source).unwrap();
    mount(
        Some("s"),
        &source,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME,
        none,
    )
    .unwrap();
    fs::create_dir(source.join("below")).unwrap();
    mount(Some("b"), &source.join("below"), Some("tmpfs"), MsFlags::MS_NODEV, none).unwrap();
    let probe = || {
        let found: Vec<_> = mounts()
            .into_iter()
            .filter(|line| line.starts_with("/data"))
            .map(|line| line.split(' ').nth(1).unwrap().to_owned())
            .collect();
        found.join(" ")
    };
    for (options, expected) in [
        (json!(["bind"]), "rw,nosuid,noexec,noatime"),
        (json!(["rbind", "rprivate"]), "rw,nosuid,noexec,noatime rw,nodev,relatime"),
        (json!(["bind", "ro"]), "ro,noatime"),
        (json!(["rbind", "rw"]), "rw,noatime rw,nodev,relatime"),
        (json!(["bind", "nodev", "relatime"]), "rw,nodev,relatime"),
        (json!(["bind", "strictatime", "nodiratime"]), "rw,nodiratime"),
        (json!(["rbind", "rnosuid", "rnoatime"]), "rw,nosuid,noexec,noatime rw,nosuid,nodev,noatime"),
        (json!(["rbind", "ro", "rnosymfollow"]), "ro,noatime,nosymfollow rw,nodev,relatime,nosymfollow"),
        (json!(["rbind", "rexec", "rdev", "sync"]), "rw,nosuid,noatime rw,relatime"),
    ] {
        let config = config_with(json!([
            {"destination": "/proc", "type": "proc"},
            {"destination": "/data", "type": "none", "source": source, "options": options},
        ]));
        assert_eq!(run(config, probe).unwrap(), expected, "{options}");
    }
}

/// config.md, "Mounts": files, missing destinations, links in the image.
pub fn bind_of_files_and_links() {
    fs::create_dir(rootfs_dir().join("etc")).unwrap();
    symlink("../run/resolve/stub", rootfs_dir().join("etc/resolv.conf")).unwrap();
    symlink("/elsewhere/../etc", rootfs_dir().join("abs")).unwrap();
    let bind = |destination: &str, source: PathBuf| json!({"destination": destination, "type": "bind", "source": source});
    let probe = || {
        ["/etc/resolv.conf", "/run/resolve/stub", "/made/by/us", "/etc/d/file", "/etc/e"]
            .map(|path| fs::read_to_string(path).unwrap_or_else(|error| error.kind().to_string()))
            .join(" ")
    };
    let mounts = json!([
        // A link to nothing has its target made, inside the root.
        bind("/etc/resolv.conf", canary().join("file")),
        bind("made/by/us", canary().join("file")),
        bind("/abs/d", canary()),
        // Relative to the bundle.
        bind("/abs/e", PathBuf::from("../canary/file")),
    ]);
    let config = config_with(mounts);
    let container = Container { config, facts: facts(), after_open: || {}, terminal: false, probe };
    assert_eq!(run_beside_canaries(container).unwrap(), "canary canary canary canary canary");
    assert_eq!(fs::metadata(rootfs_dir().join("run/resolve/stub")).unwrap().mode(), 0o100_644);
    assert_eq!(fs::metadata(rootfs_dir().join("run/resolve")).unwrap().mode(), 0o40_755);
}

pub fn remount() {
    let config = config_with(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["size=1m"]},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["remount", "size=2m", "nosuid", "ro"]},
        {"destination": "/proc", "type": "proc", "options": ["remount", "bind", "noexec"]},
    ]));
    let probe = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = |point: &str| {
            let fields: Vec<&str> =
                table.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|f| f[4] == point).unwrap();
            format!("{} {}", fields[5], fields.last().unwrap())
        };
        format!("{}, {}", line("/t"), line("/proc"))
    };
    let text = run(config, probe).unwrap();
    assert!(text.starts_with("ro,nosuid,relatime rw,size=2048k"), "{text}");
    assert!(text.contains(", rw,noexec,relatime "), "{text}");
}

pub fn mount_on_the_root() {
    let source = Path::new(HOST).join("other");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("name"), "other").unwrap();
    let mut config = config_with(json!([
        {"destination": "/", "type": "bind", "source": source},
        {"destination": "/proc", "type": "proc", "source": "proc"},
    ]));
    config["root"]["readonly"] = json!(true);
    let probe =
        || format!("{} {} {}", fs::read_to_string("/name").unwrap(), write_error("/"), mounts().len());
    assert_eq!(run(config, probe).unwrap(), "other EROFS: Read-only file system 2");
}

/// security.md A15: layers with the separators of overlay's option string in their names. The long one goes another way
/// before Linux 6.13 (the guest of make vm-test).
pub fn overlay_layers() {
    let host = Path::new(HOST);
    let long = "l".repeat(200);
    for name in ["a:b", "c,d", "up", "work", &long, &format!("{long}/{long}")] {
        fs::create_dir(host.join(name)).unwrap();
        fs::write(host.join(name).join(format!("in-{}", &name[..1])), "").unwrap();
    }
    let (upper, work) = (format!("upperdir={HOST}/up"), format!("workdir={HOST}/work"));
    let overlay = |lower: String| {
        config_with(
            json!([{"destination": "/o", "type": "overlay", "source": "overlay", "options": [lower, upper, work]}]),
        )
    };
    let probe = || {
        let mut names: Vec<_> = fs::read_dir("/o")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.join(" ") + " " + &write_error("/o")
    };
    let lower = format!("lowerdir={HOST}/a\\:b:{HOST}/c,d");
    assert_eq!(run(overlay(lower), probe).unwrap(), "in-a in-c in-u writable");
    let lower = format!("lowerdir={HOST}/{long}/{long}:{HOST}/c,d");
    assert_eq!(run(overlay(lower), probe).unwrap(), "in-c in-l in-u writable");
    let text = run(overlay(format!("lowerdir={HOST}/none")), probe).unwrap_err();
    assert!(text.starts_with("mount overlay on /o: option lowerdir+="), "{text}");
}

pub fn errors_name_the_mount() {
    // Where SELinux does not run, files have no labels that a mount could set (runc's reading, and podman's default).
    let mut labelled = config_with(json!([{"destination": "/t", "type": "tmpfs", "source": "t"}]));
    labelled["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        assert_eq!(run(labelled, String::new), Ok(String::new()));
    }
    fs::create_dir(rootfs_dir().join("dir")).unwrap();
    fs::write(rootfs_dir().join("file"), "").unwrap();
    for (mount, expected) in [
        (
            json!({"destination": "/x", "type": "bind", "source": "/no/such"}),
            "mount /no/such on /x: /mounts/1/source: open /no/such: no such file or directory",
        ),
        (
            json!({"destination": "/x", "type": "nofs", "source": "x"}),
            "mount nofs on /x: this kernel has no file system nofs: no such device",
        ),
        (
            json!({"destination": "/file", "type": "bind", "source": "/etc"}),
            "mount /etc on /file: the destination is no directory: open /file: not a directory",
        ),
        (
            json!({"destination": "/dir", "type": "bind", "source": "/etc/passwd"}),
            "mount /etc/passwd on /dir: a file cannot be mounted on a directory: not a directory",
        ),
        (
            json!({"destination": "/dir", "type": "bind", "source": "/etc", "options": ["remount", "ro"]}),
            "remount /dir: is it a mount point?: invalid argument",
        ),
        (
            json!({"destination": "/file/x", "type": "tmpfs"}),
            "mount tmpfs on /file/x: open the destination: not a directory",
        ),
    ] {
        let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"}, mount]);
        assert_eq!(run(config_with(mounts), String::new).unwrap_err(), expected);
    }
    let mut missing = config_with(json!([]));
    missing["root"]["path"] = json!("nowhere");
    assert_eq!(run(missing, String::new).unwrap_err(), "/root/path: open nowhere: no such file or directory");
}
