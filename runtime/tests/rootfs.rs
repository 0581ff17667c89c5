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
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use skeg::error::{Error, Result};
use skeg::rootfs::{self, CgroupMounts, CgroupV1, Facts, IdMapping, Rootfs, RootfsPlan, sources};
use skeg::sys::clone::{Cloned, clone_process, exit_now};
use skeg::sys::path::open_in_root_no_links;
use skeg::sys::{pid, tty};

/// A case: its name, which has the row or section that it is for, and what it does.
type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("default_config_mounts_as_runc_does", default_config_mounts_as_runc_does),
    ("a1_a2_a3_a4_b3_d2_hostile_rootfs_never_reaches_the_host", hostile_matrix),
    ("a1_a2_swapped_component_never_reaches_the_host", swapped_component),
    ("a4_proc_and_sys_are_refused_on_anything_but_a_directory", proc_and_sys_on_links),
    ("a5_no_host_mount_is_left_below", no_host_mount_is_left_below),
    ("a6_nothing_is_mounted_into_proc", nothing_into_proc),
    ("a7_a12_sources_are_opened_once", sources_are_opened_once),
    ("a9_read_only_means_read_only", read_only_means_read_only),
    ("a10_nothing_is_made_in_a_read_only_source", nothing_made_in_read_only_source),
    ("a14_host_propagation_is_never_changed", host_propagation),
    ("a15_one_option_is_one_parameter", one_option_is_one_parameter),
    ("a17_f1_cgroup_mounts_are_read_only_when_asked", cgroup_mounts),
    ("a19_tmpcopyup_copies_without_following", tmpcopyup),
    ("a20_id_mapped_bind", id_mapped_bind),
    ("b4_b5_masked_and_readonly_paths", masked_and_readonly_paths),
    ("b3_b4_masks_do_not_change_the_hosts_null", masks_of_files),
    ("b12_host_sys_in_a_user_namespace", host_sys_in_user_namespace),
    ("d2_d11_console_and_devpts_are_the_containers_own", console_and_devpts),
    ("d6_devices_are_what_was_asked_for", devices_are_what_was_asked),
    ("bind_flags_follow_the_options", bind_flags),
    ("bind_of_files_and_links", bind_of_files_and_links),
    ("remount_changes_what_is_there", remount),
    ("mount_on_the_root", mount_on_the_root),
    ("overlay_layers", overlay_layers),
    ("without_mount_namespace", without_mount_namespace),
    ("hooks_before_the_pivot_mount_by_path", hooks_mount_by_path),
    ("joined_mount_namespace", joined_mount_namespace),
    ("inside_a_user_namespace_devices_are_bound_and_locked_flags_stay", inside_a_user_namespace),
    ("errors_name_the_mount_and_the_reason", errors_name_the_mount),
];

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

/// A config with nothing but these mounts.
fn config_with(mounts: Value) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "mount"}]}
    })
}

/// Whether this host has cgroup v2 alone.
fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn facts() -> Facts {
    if is_unified() {
        let cgroups = CgroupMounts { v1: Vec::new(), v2: Some(PathBuf::from("/sys/fs/cgroup")) };
        return Facts { cgroups, ..Facts::default() };
    }
    let v1 = |name: &str, selector: &str| CgroupV1 {
        name: name.to_owned(),
        selector: selector.to_owned(),
        container: Path::new("/sys/fs/cgroup").join(name),
    };
    let cgroups = CgroupMounts {
        v1: vec![v1("pids", "pids"), v1("systemd", "name=systemd")],
        v2: Some(PathBuf::from("/sys/fs/cgroup/unified")),
    };
    Facts { cgroups, ..Facts::default() }
}

/// One container: what it is made from, and what is done at which point.
struct Container {
    config: Value,
    facts: Facts,
    /// Runs in the parent when the sources are open.
    after_open: fn(),
    terminal: bool,
    /// Runs inside at the end; its text is the result.
    probe: fn() -> String,
}

/// Sets a container's root file system up and runs `probe` inside; its text, or the error of the set-up.
fn run(config: Value, probe: fn() -> String) -> Outcome {
    Container { config, facts: facts(), after_open: || {}, terminal: false, probe }.run()
}

type Outcome = std::result::Result<String, String>;

const NEW_USER: u64 = 0x1000_0000;
const NEW_PID: u64 = 0x2000_0000;

impl Container {
    fn namespaces(&self) -> u64 {
        const NEW: [(&str, u64); 7] = [
            ("mount", NEW_MOUNT),
            ("cgroup", 0x200_0000),
            ("uts", 0x400_0000),
            ("ipc", 0x800_0000),
            ("user", NEW_USER),
            ("pid", NEW_PID),
            ("network", 0x4000_0000),
        ];
        let list = self.config["linux"]["namespaces"].as_array().unwrap();
        NEW.iter()
            .filter(|(name, _)| list.iter().any(|found| found["type"] == *name))
            .map(|(_, bit)| bit)
            .sum()
    }

    fn run(self) -> Outcome {
        let namespaces = self.namespaces();
        let list = self.config["linux"]["namespaces"].as_array().unwrap();
        let joined: Vec<fs::File> = list
            .iter()
            .filter_map(|found| found["path"].as_str())
            .map(|path| fs::File::open(path).unwrap())
            .collect();
        let spec: Spec = serde_json::from_value(self.config).unwrap();
        let plan = rootfs::plan(&spec, &self.facts).map_err(|error| error.to_string())?;
        let bundle_fd = fs::File::open(bundle()).unwrap();
        let opened = sources::open(&plan, bundle_fd.as_fd(), &mut |mapping| Ok(user_namespace(mapping)))
            .map_err(|error| error.to_string())?;
        drop(bundle_fd);
        (self.after_open)();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let (mut mapped_reader, mut mapped_writer) = std::io::pipe().unwrap();
        let user = namespaces & NEW_USER != 0;
        let first = if user { NEW_USER | NEW_PID } else { namespaces };
        match clone_process(first, None, false).unwrap() {
            Cloned::Child => {
                drop((reader, mapped_writer));
                if user {
                    mapped_reader.read_exact(&mut [0]).unwrap();
                    nix::unistd::setgid(0.into()).unwrap();
                    nix::unistd::setuid(0.into()).unwrap();
                    skeg::sys::clone::unshare(namespaces & !first).unwrap();
                }
                for namespace in joined {
                    skeg::sys::clone::join(namespace, 0).unwrap();
                }
                match set_up(&plan, opened, self.terminal) {
                    Ok(()) => write!(writer, "+{}", (self.probe)()).unwrap(),
                    Err(error) => write!(writer, "-{error}").unwrap(),
                }
                exit_now(0);
            }
            Cloned::Parent { pidfd, pid: child } => {
                drop((writer, opened, mapped_reader));
                if user {
                    map_ids(child.as_raw(), "0 100000 65536");
                    mapped_writer.write_all(&[1]).unwrap();
                }
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
}

fn map_ids(child: i32, map: &str) {
    for name in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{child}/{name}"), map).unwrap();
    }
}

/// A user namespace with the mapping, held by its fd alone.
fn user_namespace(mapping: &IdMapping) -> OwnedFd {
    let IdMapping::Maps { uid, .. } = mapping else { panic!("no path is tested here") };
    let (mut reader, writer) = std::io::pipe().unwrap();
    match clone_process(NEW_USER, None, false).unwrap() {
        Cloned::Child => {
            drop(writer);
            let _ = reader.read(&mut [0]);
            exit_now(0);
        }
        Cloned::Parent { pidfd, pid } => {
            let line = format!("{} {} {}", uid[0].container_id(), uid[0].host_id(), uid[0].size());
            map_ids(pid.as_raw(), &line);
            let fd = fs::File::open(format!("/proc/{pid}/ns/user")).unwrap();
            drop((reader, writer));
            wait(&pidfd, CONTAINER_LIMIT_MS).unwrap();
            fd.into()
        }
    }
}

fn set_up(plan: &RootfsPlan, opened: sources::MountSources, terminal: bool) -> Result<()> {
    let mut rootfs = Rootfs::attach(plan, &bundle(), opened)?;
    rootfs.mount_before_cgroup()?;
    rootfs.mount_rest()?;
    rootfs.make_devices()?;
    if plan.hooks_see_rootfs {
        // As a hook in the container's mount namespace does it.
        let none: Option<&str> = None;
        assert!(rootfs_dir().join("proc/1").exists());
        fs::create_dir_all(rootfs_dir().join("hooked")).unwrap();
        mount(Some(&canary()), &rootfs_dir().join("hooked"), none, MsFlags::MS_BIND, none).unwrap();
    }
    rootfs.pivot()?;
    if terminal {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
        let master = open_in_root_no_links(rootfs.root(), "dev/pts/ptmx", flags)
            .map_err(|errno| Error::from_errno("open ptmx", errno))?;
        tty::unlock(&master).unwrap();
        rootfs.bind_console(&tty::open_peer(&master).unwrap())?;
    }
    rootfs.finish()?;
    rootfs.protect_paths()
}

/// Runs the container and checks that neither the canaries nor the mounts of the host changed.
fn run_beside_canaries(container: Container) -> Outcome {
    let before = (snapshot(&canary()), mounts());
    let outcome = container.run();
    assert_eq!(before, (snapshot(&canary()), mounts()), "the host changed: {outcome:?}");
    outcome
}

/// Every path below `dir`: type, mode, owner, number and content.
fn snapshot(dir: &Path) -> String {
    let mut text = String::new();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let found = fs::symlink_metadata(&path).unwrap();
        let (mode, uid, gid, rdev) = (found.mode(), found.uid(), found.gid(), found.rdev());
        let content = if found.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        writeln!(text, "{} {mode:o} {uid} {gid} {rdev:x} {content:?}", path.display()).unwrap();
        if found.is_dir() {
            text += &snapshot(&path);
        }
    }
    text
}

/// The errno of making a file in `dir`, or nothing where that works.
fn write_error(dir: &str) -> String {
    let path = Path::new(dir).join("written");
    match fs::write(&path, "x") {
        Ok(()) => {
            fs::remove_file(path).unwrap();
            "writable".to_owned()
        }
        Err(error) => nix::errno::Errno::from_raw(error.raw_os_error().unwrap()).to_string(),
    }
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

/// config.md "Mounts", config-linux.md "Default Devices", "/dev symbolic links", "Masked Paths", "Readonly Paths".
fn default_config_mounts_as_runc_does() {
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

/// The things that an image can have where a mount or a device belongs.
const KINDS: [&str; 11] = [
    "link to the canary directory",
    "link to the canary file",
    "relative link",
    "link to a new name beside the canary",
    "loop",
    "magic link",
    "file",
    "fifo",
    "socket",
    "other device",
    "directory",
];

fn make_hostile(path: &Path, kind: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = Mode::from_bits_truncate(0o666);
    match kind {
        "link to the canary directory" => symlink(canary().join("dir"), path).unwrap(),
        "link to the canary file" => symlink(canary().join("file"), path).unwrap(),
        "relative link" => symlink(format!("{}{}/dir", "../".repeat(12), canary().display()), path).unwrap(),
        "link to a new name beside the canary" => symlink(canary().join("new"), path).unwrap(),
        "loop" => symlink(path.file_name().unwrap(), path).unwrap(),
        "magic link" => symlink("/proc/self/fd/0", path).unwrap(),
        "file" => fs::write(path, "image").unwrap(),
        "fifo" => mknod(path, SFlag::S_IFIFO, mode, 0).unwrap(),
        "socket" => mknod(path, SFlag::S_IFSOCK, mode, 0).unwrap(),
        "other device" => mknod(path, SFlag::S_IFCHR, mode, makedev(1, 5)).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        other => panic!("{other}"),
    }
}

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
fn hostile_matrix() {
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
fn swapped_component() {
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
fn proc_and_sys_on_links() {
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
fn no_host_mount_is_left_below() {
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
fn nothing_into_proc() {
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

/// security.md A7, A12: what is exchanged after the first touch has no effect.
fn sources_are_opened_once() {
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

/// security.md A9 (CVE-2026-115521): every kind of read-only mount, with an image that imitates /proc/self/fd.
fn read_only_means_read_only() {
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
fn nothing_made_in_read_only_source() {
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

/// security.md A14, on a host whose mounts are shared.
fn host_propagation() {
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

/// security.md A15.
fn one_option_is_one_parameter() {
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
fn cgroup_mounts() {
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

/// security.md A19.
fn tmpcopyup() {
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

/// security.md A20; config.md "Mounts", idmap.
fn id_mapped_bind() {
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

/// security.md B4, B5.
fn masked_and_readonly_paths() {
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
fn masks_of_files() {
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

/// security.md B12, and devices in a user namespace: bound, not made.
fn host_sys_in_user_namespace() {
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

fn chown_to_mapped(path: &Path) {
    nix::unistd::chown(path, Some(100_000.into()), Some(100_000.into())).unwrap();
    fs::set_permissions(HOST, fs::Permissions::from_mode(0o755)).unwrap();
}

/// security.md D1, D2, D11.
fn console_and_devpts() {
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
fn devices_are_what_was_asked() {
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

/// config.md, "Mounts": a bind without options keeps the flags of its source, one with options has exactly those.
fn bind_flags() {
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
fn bind_of_files_and_links() {
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

fn remount() {
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

fn mount_on_the_root() {
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
fn overlay_layers() {
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

/// security.md A14: no propagation is touched; the container gets a root by chroot, as it gets no namespace.
fn without_mount_namespace() {
    let mut bare = config_with(json!([]));
    bare["linux"]["namespaces"] = json!([{"type": "pid"}]);
    fs::write(rootfs_dir().join("name"), "root").unwrap();
    let probe = || format!("{} {}", fs::read_to_string("/name").unwrap(), Path::new("/dev/null").exists());
    let config = bare.clone();
    let container = Container { config, facts: facts(), after_open: || {}, terminal: false, probe };
    assert_eq!(run_beside_canaries(container).unwrap(), "root true");
    bare["linux"]["maskedPaths"] = json!(["/x"]);
    assert_eq!(run(bare, probe).unwrap_err(), "/linux/maskedPaths: needs a mount namespace");
}

/// config.md, "POSIX-platform Hooks": createContainer hooks run in the container's mount namespace before the pivot and
/// find the container's root, with its mounts, at the path of the rootfs.
fn hooks_mount_by_path() {
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
fn joined_mount_namespace() {
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
fn inside_a_user_namespace() {
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

fn errors_name_the_mount() {
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
            "mount /etc/passwd on /dir: the destination is a directory and the source is not: not a directory",
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
