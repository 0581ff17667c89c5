//! Real mounts as root: every case runs in a mount namespace of its own, on a tmpfs that stands for the host, with
//! canaries beside the bundle. Cases fork, so this binary is its own, single-threaded harness.
//!
//! `cargo test -p skeg --test rootfs [NAME]` runs the cases whose name contains NAME.

#![allow(clippy::disallowed_methods, reason = "test code looks at files by name, inside its own namespaces")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use skeg::error::{Error, Result};
use skeg::rootfs::{self, CgroupMounts, CgroupV1, Facts, IdMapping, Rootfs, RootfsPlan, sources};
use skeg::sys::clone::{Cloned, clone_process, exit_now};
use skeg::sys::pid;

/// A case: its name, which has the row or section that it is for, and what it does.
type Case = (&'static str, fn());

const CASES: &[Case] = &[("default_config_mounts_as_runc_does", default_config_mounts_as_runc_does)];

/// Where the tmpfs that stands for the host is mounted.
const HOST: &str = "/tmp/rootfs-host";
/// How long a case may take.
const CASE_LIMIT_MS: u16 = 60_000;
/// How long the set-up of one container may take.
const CONTAINER_LIMIT_MS: u16 = 5_000;

const NEW_MOUNT: u64 = 0x2_0000;

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut failed = 0;
    for (name, case) in CASES {
        if !filter.is_empty() && !filter.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let outcome = fork_case(*case);
        let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let verdict = match outcome {
            Ok(()) if before == after => "ok".to_owned(),
            Ok(()) => "FAILED: the machine's mounts changed".to_owned(),
            Err(text) => format!("FAILED: {text}"),
        };
        failed += usize::from(verdict != "ok");
        println!("test {name} ... {verdict}");
    }
    let _ = fs::remove_dir(HOST);
    assert_eq!(failed, 0, "cases failed");
}

/// Runs `case` in a process with a mount namespace of its own and a tmpfs on [`HOST`].
fn fork_case(case: fn()) -> std::result::Result<(), String> {
    std::io::stdout().flush().unwrap();
    match clone_process(NEW_MOUNT, None, false).unwrap() {
        Cloned::Child => {
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
            fs::create_dir_all(HOST).unwrap();
            mount(Some("host"), HOST, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            fresh_host();
            case();
            std::io::stdout().flush().unwrap();
            exit_now(0);
        }
        Cloned::Parent { pidfd, .. } => wait(&pidfd, CASE_LIMIT_MS),
    }
}

/// Empties [`HOST`] and makes the canaries and an empty rootfs.
fn fresh_host() {
    for entry in fs::read_dir(HOST).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    fs::create_dir_all(canary().join("dir")).unwrap();
    fs::write(canary().join("file"), "canary").unwrap();
    fs::create_dir_all(rootfs_dir()).unwrap();
}

fn wait(pidfd: &OwnedFd, limit_ms: u16) -> std::result::Result<(), String> {
    let ended = pid::wait_for_end(pidfd, PollTimeout::from(limit_ms)).unwrap();
    if !ended {
        pid::send_signal(pidfd, Signal::SIGKILL as i32).unwrap();
    }
    match (pid::wait_child(pidfd).unwrap(), ended) {
        (_, false) => Err("took too long".to_owned()),
        (0, true) => Ok(()),
        (status, true) => Err(format!("exit status {status}")),
    }
}

fn canary() -> PathBuf {
    Path::new(HOST).join("canary")
}

fn bundle() -> PathBuf {
    Path::new(HOST).join("bundle")
}

fn rootfs_dir() -> PathBuf {
    bundle().join("rootfs")
}

/// The config that `runc spec` writes, in what concerns the root file system.
fn default_config() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

fn facts() -> Facts {
    let v1 = |name: &str, selector: &str| CgroupV1 {
        name: name.to_owned(),
        selector: selector.to_owned(),
        container: Path::new("/sys/fs/cgroup").join(name),
    };
    let cgroups = CgroupMounts {
        v1: vec![v1("pids", "pids"), v1("systemd", "name=systemd")],
        v2: Some(PathBuf::from("/sys/fs/cgroup/unified")),
    };
    Facts { no_pivot: false, cgroups }
}

/// Sets a container's root file system up and runs `probe` inside; its text, or the error of the set-up.
fn run(config: Value, probe: fn() -> String) -> std::result::Result<String, String> {
    run_with(config, facts(), probe)
}

fn run_with(config: Value, facts: Facts, probe: fn() -> String) -> std::result::Result<String, String> {
    const NEW: [(&str, u64); 6] = [
        ("mount", NEW_MOUNT),
        ("cgroup", 0x200_0000),
        ("uts", 0x400_0000),
        ("ipc", 0x800_0000),
        ("pid", 0x2000_0000),
        ("network", 0x4000_0000),
    ];
    let wanted = |name: &str| {
        let list = config["linux"]["namespaces"].as_array();
        list.is_some_and(|list| list.iter().any(|namespace| namespace["type"] == name))
    };
    let namespaces = NEW.iter().filter(|(name, _)| wanted(name)).map(|(_, bit)| bit).sum();
    let spec: Spec = serde_json::from_value(config).unwrap();
    let plan = rootfs::plan(&spec, facts).map_err(|error| error.to_string())?;
    let bundle_fd = fs::File::open(bundle()).unwrap();
    let mut no_user_namespace =
        |_: &IdMapping| -> Result<OwnedFd> { Err(Error::new("no user namespace here")) };
    let opened =
        sources::open(&plan, bundle_fd.as_fd(), &mut no_user_namespace).map_err(|error| error.to_string())?;
    drop(bundle_fd);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    match clone_process(namespaces, None, false).unwrap() {
        Cloned::Child => {
            drop(reader);
            match set_up(&plan, opened) {
                Ok(()) => write!(writer, "+{}", probe()).unwrap(),
                Err(error) => write!(writer, "-{error}").unwrap(),
            }
            exit_now(0);
        }
        Cloned::Parent { pidfd, .. } => {
            drop((writer, opened));
            wait(&pidfd, CONTAINER_LIMIT_MS)?;
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            match text.split_at_checked(1) {
                Some(("+", text)) => Ok(text.to_owned()),
                Some(("-", text)) => Err(text.to_owned()),
                _ => Err("the child said nothing".to_owned()),
            }
        }
    }
}

fn set_up(plan: &RootfsPlan, opened: sources::MountSources) -> Result<()> {
    let mut rootfs = Rootfs::attach(plan, &bundle(), opened)?;
    rootfs.mount()?;
    rootfs.make_devices()?;
    rootfs.pivot()?;
    rootfs.finish()?;
    rootfs.protect_paths()
}

/// Mount point, options, type, source and propagation of every line of mountinfo.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap();
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let propagation = left[6..].join(" ");
            format!("{} {} {} {} {propagation}", left[4], left[5], right[0], right[1]).trim().to_owned()
        })
        .collect()
}

fn default_config_mounts_as_runc_does() {
    let probe = || {
        let mut text = mounts().join("\n");
        for name in ["null", "zero", "full", "random", "urandom", "tty", "pts/ptmx"] {
            let found = fs::metadata(Path::new("/dev").join(name)).unwrap();
            write!(text, "\n{name} {:o} {:x}", found.mode(), found.rdev()).unwrap();
        }
        for name in ["fd", "stdin", "stdout", "stderr", "ptmx"] {
            let target = fs::read_link(Path::new("/dev").join(name)).unwrap();
            write!(text, "\n{name} -> {}", target.display()).unwrap();
        }
        for path in
            ["/", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/firmware"]
        {
            let error = fs::create_dir(Path::new(path).join("x")).unwrap_err();
            write!(text, "\n{path}: {error}").unwrap();
        }
        write!(text, "\n{:?}", fs::read_to_string("/proc/timer_list").unwrap()).unwrap();
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        for fd in fds {
            let path = fd.unwrap().path();
            if let Ok(target) = fs::read_link(&path) {
                write!(text, "\n{} {}", path.display(), target.display()).unwrap();
            }
        }
        text
    };
    let text = run(default_config(), probe).unwrap();
    println!("{text}");
}
