//! Devices, terminals, masked and read-only paths.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::support::{
    Container, HOST, KINDS, config_with, default_config, facts, fresh_host, make_hostile, mounts, rootfs_dir,
    run, run_beside_canaries, write_error,
};

/// security.md B4, B5.
pub fn masked_and_readonly_paths() {
    let none: Option<&str> = None;
    let source = Path::new(HOST).join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    mount(Some("below"), &source.join("below"), Some("tmpfs"), MsFlags::MS_NOSUID, none).unwrap();
    fs::create_dir(rootfs_dir().join("secret")).unwrap();
    fs::write(rootfs_dir().join("secret/file"), "x").unwrap();
    fs::write(rootfs_dir().join("file"), "x").unwrap();
    fs::create_dir(rootfs_dir().join("secret2")).unwrap();
    symlink("/secret2", rootfs_dir().join("link")).unwrap();
    let mut config = config_with(json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "nodev"]},
    ]));
    config["linux"]["maskedPaths"] =
        json!(["/secret", "/file", "/missing", "/file/x", "/link", "/secret/", "/proc/timer_list"]);
    config["linux"]["readonlyPaths"] = json!(["/data", "/proc/sys", "/missing/x", "/file/y"]);
    let probe = || {
        let listed = |path: &str| fs::read_dir(path).unwrap().count();
        let flags = |path: &str| {
            let line = mounts().into_iter().rfind(|line| line.starts_with(&format!("{path} "))).unwrap();
            line.split(' ').nth(1).unwrap().to_owned()
        };
        [
            format!("{} {}", listed("/secret"), listed("/secret2")),
            format!(
                "{:?}{:?}",
                fs::read_to_string("/file").unwrap(),
                fs::read_to_string("/proc/timer_list").unwrap()
            ),
            write_error("/secret"),
            write_error("/data"),
            write_error("/data/below"),
            flags("/data"),
            flags("/data/below"),
            flags("/proc/sys"),
        ]
        .join("\n")
    };
    let expected = "0 0\n\"\"\"\"\nEROFS: Read-only file system\nEROFS: Read-only file system\n\
        EROFS: Read-only file system\nro,nodev,relatime\nro,nosuid,relatime\nro,nosuid,nodev,noexec,relatime";
    assert_eq!(run(config.clone(), probe).unwrap(), expected);
    // Anything but a missing path is an error.
    symlink("loop", rootfs_dir().join("loop")).unwrap();
    for name in ["maskedPaths", "readonlyPaths"] {
        let mut config = config.clone();
        config["linux"][name] = json!(["/loop"]);
        let text = run(config, probe).unwrap_err();
        assert!(text.starts_with(&format!("/linux/{name}: /loop: ")), "{text}");
    }
}

/// security.md B3, B4: what covers a masked file is the host's own node, which root in the container must not give
/// another mode or owner; what is written to it goes where it goes with a node of one's own.
pub fn masks_of_files() {
    fs::write(rootfs_dir().join("first"), "x").unwrap();
    fs::write(rootfs_dir().join("second"), "x").unwrap();
    let mut config = config_with(json!([]));
    config["linux"]["maskedPaths"] = json!(["/first", "/second"]);
    let probe = || {
        let attempts = |path: &str| {
            // The mode that it has: this must not do harm where it works.
            let mode = fs::set_permissions(path, fs::Permissions::from_mode(0o666));
            let owner = std::os::unix::fs::chown(path, Some(0), None);
            let [mode, owner] = [mode, owner].map(|done| done.unwrap_err().kind());
            format!("{mode:?} {owner:?} {:?}", fs::write(path, "x").is_ok())
        };
        format!("{} {}", attempts("/first"), attempts("/second"))
    };
    let expected = "ReadOnlyFilesystem ReadOnlyFilesystem true";
    assert_eq!(run(config, probe).unwrap(), format!("{expected} {expected}"));
}

/// security.md D1, D2, D11.
pub fn console_and_devpts() {
    let probe = || {
        let console = fs::metadata("/dev/console").unwrap();
        let names: Vec<_> = fs::read_dir("/dev/pts")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let line = mounts().into_iter().find(|line| line.starts_with("/dev/console ")).unwrap();
        format!("{:o} {:x} {} {line}", console.mode(), console.rdev() & !0xff, names.len())
    };
    let run = |config| {
        run_beside_canaries(Container { config, facts: facts(), after_open: || {}, terminal: true, probe })
    };
    let expected = "20620 8800 1 /dev/console rw,nosuid,noexec,relatime devpts devpts";
    assert_eq!(run(default_config()).unwrap(), expected);
    // In the image's own /dev: a link in its place is refused, and what it points to is not made.
    let mut own_dev = config_with(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["ptmxmode=0666"]},
    ]));
    own_dev["root"]["readonly"] = json!(false);
    for kind in ["link to a new name beside the canary", "link to the canary file", "loop"] {
        fresh_host();
        make_hostile(&rootfs_dir().join("dev/console"), kind);
        let text = run(own_dev.clone()).unwrap_err();
        assert!(text.starts_with("mount the terminal on /dev/console: "), "{kind}: {text}");
    }
    // One that leads to a file of the image's own is no better.
    fresh_host();
    fs::create_dir_all(rootfs_dir().join("dev")).unwrap();
    fs::write(rootfs_dir().join("elsewhere"), "").unwrap();
    std::os::unix::fs::symlink("/elsewhere", rootfs_dir().join("dev/console")).unwrap();
    let text = run(own_dev.clone()).unwrap_err();
    assert!(text.starts_with("mount the terminal on /dev/console: "), "{text}");
    fresh_host();
    make_hostile(&rootfs_dir().join("dev/console"), "file");
    assert!(run(own_dev).is_ok());
}

/// security.md D6; config-linux.md "Devices".
pub fn devices_are_what_was_asked() {
    let devices = json!([
        {"path": "/dev/other", "type": "c", "major": 1, "minor": 5, "fileMode": 0o2640, "uid": 7, "gid": 8},
        {"path": "/somewhere/deep/block", "type": "b", "major": 7, "minor": 200},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622, "gid": 9},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
    ]);
    let with_devices = || {
        let mut config = config_with(json!([]));
        config["linux"]["devices"] = devices.clone();
        config
    };
    let probe = || {
        ["dev/other", "somewhere/deep/block", "dev/pipe", "dev/null", "dev/full"]
            .map(|name| {
                let found = fs::symlink_metadata(Path::new("/").join(name)).unwrap();
                format!("{:o} {:x} {} {}", found.mode(), found.rdev(), found.uid(), found.gid())
            })
            .join(", ")
    };
    let expected = "22640 105 7 8, 60666 7c8 0 0, 10622 0 0 9, 20600 103 0 0, 20666 107 0 0";
    assert_eq!(run(with_devices(), probe).unwrap(), expected);
    // Again in the same root: what is there matches and stays.
    assert_eq!(run(with_devices(), probe).unwrap(), expected);
    for kind in KINDS {
        fresh_host();
        make_hostile(&rootfs_dir().join("dev/null"), kind);
        let container =
            Container { config: with_devices(), facts: facts(), after_open: || {}, terminal: false, probe };
        let text = run_beside_canaries(container).unwrap_err();
        assert!(text.starts_with("make device /dev/null: there is something else"), "{kind}: {text}");
    }
    // A directory with the set-group-id bit does not lend its group.
    fresh_host();
    fs::create_dir(rootfs_dir().join("dev")).unwrap();
    nix::unistd::chown(&rootfs_dir().join("dev"), None, Some(5.into())).unwrap();
    fs::set_permissions(rootfs_dir().join("dev"), fs::Permissions::from_mode(0o2755)).unwrap();
    assert_eq!(run(with_devices(), probe).unwrap(), expected);
}
