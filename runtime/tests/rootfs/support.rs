//! A container of these cases: its configuration, its making, and what is seen of it and of the host.

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
use skeg::rootfs::plan::{self, CgroupMounts, CgroupV1, Facts, IdMapping, RootfsPlan};
use skeg::rootfs::{Rootfs, sources};
use skeg::sys::clone::{Cloned, clone_process, exit_now};
use skeg::sys::path::open_in_root_no_links;
use skeg::sys::{pid, tty};

/// Where the tmpfs that stands for the host is mounted.
pub const HOST: &str = "/tmp/rootfs-host";
/// How long a case may take.
pub const CASE_LIMIT_MS: u16 = 60_000;
/// How long the set-up of one container may take.
pub const CONTAINER_LIMIT_MS: u16 = 5_000;

pub const NEW_MOUNT: u64 = 0x2_0000;

/// Empties [`HOST`] and makes the canaries and an empty rootfs.
pub fn fresh_host() {
    for entry in fs::read_dir(HOST).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    fs::create_dir_all(canary().join("dir")).unwrap();
    fs::write(canary().join("file"), "canary").unwrap();
    fs::create_dir_all(rootfs_dir()).unwrap();
}

pub fn wait(pidfd: &OwnedFd, limit_ms: u16) -> std::result::Result<(), String> {
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

pub fn canary() -> PathBuf {
    Path::new(HOST).join("canary")
}

pub fn bundle() -> PathBuf {
    Path::new(HOST).join("bundle")
}

pub fn rootfs_dir() -> PathBuf {
    bundle().join("rootfs")
}

/// The config that `runc spec` writes, in what concerns the root file system.
pub fn default_config() -> Value {
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
pub fn config_with(mounts: Value) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "mount"}]}
    })
}

/// Whether this host has cgroup v2 alone.
pub fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

pub fn facts() -> Facts {
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
pub struct Container {
    pub config: Value,
    pub facts: Facts,
    /// Runs in the parent when the sources are open.
    pub after_open: fn(),
    pub terminal: bool,
    /// Runs inside at the end; its text is the result.
    pub probe: fn() -> String,
}

/// Sets a container's root file system up and runs `probe` inside; its text, or the error of the set-up.
pub fn run(config: Value, probe: fn() -> String) -> Outcome {
    Container { config, facts: facts(), after_open: || {}, terminal: false, probe }.run()
}

pub type Outcome = std::result::Result<String, String>;

pub const NEW_USER: u64 = 0x1000_0000;
pub const NEW_PID: u64 = 0x2000_0000;

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

    pub fn run(self) -> Outcome {
        let namespaces = self.namespaces();
        let list = self.config["linux"]["namespaces"].as_array().unwrap();
        let joined: Vec<fs::File> = list
            .iter()
            .filter_map(|found| found["path"].as_str())
            .map(|path| fs::File::open(path).unwrap())
            .collect();
        let spec: Spec = serde_json::from_value(self.config).unwrap();
        let plan = plan::plan(&spec, &self.facts).map_err(|error| error.to_string())?;
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

pub fn map_ids(child: i32, map: &str) {
    for name in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{child}/{name}"), map).unwrap();
    }
}

/// A user namespace with the mapping, held by its fd alone.
pub fn user_namespace(mapping: &IdMapping) -> OwnedFd {
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

pub fn set_up(plan: &RootfsPlan, opened: sources::MountSources, terminal: bool) -> Result<()> {
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
pub fn run_beside_canaries(container: Container) -> Outcome {
    let before = (snapshot(&canary()), mounts());
    let outcome = container.run();
    assert_eq!(before, (snapshot(&canary()), mounts()), "the host changed: {outcome:?}");
    outcome
}

/// Every path below `dir`: type, mode, owner, number and content.
pub fn snapshot(dir: &Path) -> String {
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
pub fn write_error(dir: &str) -> String {
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
pub fn mounts() -> Vec<String> {
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

/// The things that an image can have where a mount or a device belongs.
pub const KINDS: [&str; 11] = [
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

pub fn make_hostile(path: &Path, kind: &str) {
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

pub fn chown_to_mapped(path: &Path) {
    nix::unistd::chown(path, Some(100_000.into()), Some(100_000.into())).unwrap();
    fs::set_permissions(HOST, fs::Permissions::from_mode(0o755)).unwrap();
}
