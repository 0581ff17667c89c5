//! The life of cgroups on this host's real hierarchies, and on a pure v2 view of it (`spec-tests/vm/v2only`).

#![allow(clippy::disallowed_methods, reason = "test code looks at the machine from outside the path module")]

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::*;
use crate::sync::Channel;
use crate::sys::clone::{Cloned, clone_process, exit_now};
use crate::sys::pid;
use crate::sys::procfs::Procfs;

const MIB: i64 = 1 << 20;

pub(super) fn host() -> Hierarchies {
    Hierarchies::detect(&Procfs::processes().unwrap(), true).unwrap()
}

/// The v1 hierarchies alone, as on a host without cgroup v2.
pub(super) fn v1_only() -> Hierarchies {
    Hierarchies { v2: None, ..host() }
}

/// The v2 hierarchy alone, wherever this host has it.
pub(super) fn v2_only() -> Hierarchies {
    Hierarchies { v1: Vec::new(), ..host() }
}

/// A path of our own; on the pure v2 view another one, for it shows the same hierarchy.
pub(super) fn place(name: &str) -> String {
    let view = if host().is_pure_v2() { "pure-" } else { "" };
    format!("/cgroup-{view}{name}")
}

fn spec(path: &str, resources: serde_json::Value) -> Spec {
    let json =
        serde_json::json!({"ociVersion": "1.2.0", "linux": {"cgroupsPath": path, "resources": resources}});
    serde_json::from_value(json).unwrap()
}

/// A cgroup that is removed with all that is in it, whatever becomes of the test.
pub(super) struct Guarded {
    pub cgroup: Option<Cgroup>,
    children: Vec<Child>,
}

struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl std::ops::Deref for Guarded {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        self.cgroup.as_ref().unwrap()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            let _ = cgroup.thaw();
            let _ = cgroup.kill_all();
            for child in self.children.drain(..) {
                let _ = pid::wait_child(&child.pidfd);
            }
            cgroup.destroy().unwrap();
        }
        restore_controllers();
    }
}

/// Held by the test that needs a controller at the top to stay enabled.
static TOP: Mutex<()> = Mutex::new(());

/// What the tests of v2 alone enable at the top of the hierarchy would keep a v1 one from being mounted later.
/// Left undone while [`TOP`] is held, and to the other process where this one has the pure v2 view.
fn restore_controllers() {
    static BEFORE: OnceLock<String> = OnceLock::new();
    let host = host();
    let (false, Some(v2), Ok(_guard)) = (host.is_pure_v2(), &host.v2, TOP.try_lock()) else { return };
    let control = v2.mount_point.join("cgroup.subtree_control");
    let now = std::fs::read_to_string(&control).unwrap();
    let before = BEFORE.get_or_init(|| now.clone());
    for name in now.split_whitespace().filter(|name| !before.split_whitespace().any(|one| one == *name)) {
        // Busy while a test beside this one uses it, which then comes here too.
        let _ = std::fs::write(&control, format!("-{name}"));
    }
}

pub(super) fn create(
    hierarchies: &Hierarchies,
    path: &str,
    resources: serde_json::Value,
) -> crate::error::Result<Guarded> {
    restore_controllers();
    let plan = plan(&spec(path, resources), "cgroup-id", Options::default(), hierarchies)?;
    Ok(Guarded { cgroup: Some(Cgroup::create(&plan)?), children: Vec::new() })
}

impl Guarded {
    /// Runs `script` by bash inside.
    pub fn run(&mut self, script: &str) -> Pid {
        self.run_below(script, &SubCgroups::default())
    }

    fn run_below(&mut self, script: &str, sub: &SubCgroups) -> Pid {
        let entry = self.entry_below(sub).unwrap();
        let argv = ["bash", "-c", script].map(|text| CString::new(text).unwrap());
        let (_ours, theirs) = Channel::pair().unwrap();
        match clone_process(0, entry.v2_dir.as_ref().map(|dir| dir.as_fd()), false).unwrap() {
            Cloned::Child => {
                if entry.enter(&theirs).is_ok() {
                    let _ = nix::unistd::execv(c"/bin/bash", &argv);
                }
                exit_now(99)
            }
            Cloned::Parent { pid, pidfd } => {
                self.children.push(Child { pid, pidfd });
                pid
            }
        }
    }

    pub fn wait(&mut self, pid: Pid) -> i32 {
        let at = self.children.iter().position(|child| child.pid == pid).unwrap();
        pid::wait_child(&self.children.remove(at).pidfd).unwrap()
    }

    fn file(&self, controller: &str, name: &str) -> String {
        let group = self.v1.iter().find(|group| group.has(controller)).or(self.v2.as_ref()).unwrap();
        String::from_utf8(group.read(name).unwrap()).unwrap().trim().to_owned()
    }
}

/// Whether this controller is to be had, in either version.
fn has(hierarchies: &Hierarchies, controller: &str) -> bool {
    let in_v2 = |v2: &Hierarchy| {
        let there = std::fs::read_to_string(v2.mount_point.join("cgroup.controllers")).unwrap();
        there.split_whitespace().any(|name| name == controller)
    };
    hierarchies.v1_with(controller).is_some() || hierarchies.v2.as_ref().is_some_and(in_v2)
}

pub(super) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The directories of the cgroup at `path` in every hierarchy.
pub(super) fn directories(path: &str) -> Vec<PathBuf> {
    let host = host();
    let all = host.v1.iter().chain(&host.v2).map(|one| one.mount_point.join(path.trim_start_matches('/')));
    all.filter(|dir| dir.exists()).collect()
}

fn state_of(pid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

/// security.md F6: the process is in the container's cgroup in every hierarchy; then its whole life.
fn lives(hierarchies: &Hierarchies, path: &str) {
    let before = directories(path);
    assert!(before.is_empty(), "{before:?}");
    let mut cgroup = create(hierarchies, path, serde_json::json!({})).unwrap();
    assert!(cgroup.is_empty().unwrap());
    let child = cgroup.run("sleep 1000 & sleep 1000 & wait");
    eventually("three processes", || cgroup.pids(true).unwrap().len() == 3);
    let places = std::fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
    let groups = cgroup.v1.iter().chain(&cgroup.v2);
    let inside = places.lines().filter(|line| line.ends_with(&format!(":{path}"))).count();
    assert_eq!(inside, groups.count(), "{places}");
    assert!(!cgroup.is_empty().unwrap() && cgroup.pids(false).unwrap().contains(&child));

    // A later command finds it by its saved paths.
    let json = serde_json::to_string(&cgroup.paths()).unwrap();
    let later = Cgroup::open(&serde_json::from_str(&json).unwrap());
    assert_eq!(later.pids(true).unwrap(), cgroup.pids(true).unwrap());

    assert!(!later.is_frozen().unwrap());
    later.freeze().unwrap();
    assert!(later.is_frozen().unwrap());
    later.signal_all(libc::SIGTERM).unwrap();
    assert!(later.is_frozen().unwrap(), "a paused container stays paused after a signal");
    if cgroup.v2.is_none() {
        // v2's freezer lets a fatal signal end a process at once, v1's keeps it until the thaw.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(later.pids(true).unwrap().len(), 3);
    }
    later.thaw().unwrap();
    assert!(!later.is_frozen().unwrap());
    eventually("SIGTERM ends them", || later.is_empty().unwrap());
    assert_eq!(cgroup.wait(child), 128 + libc::SIGTERM);

    // Killed while frozen, with sub-cgroups of its own.
    let child = cgroup.run("sleep 1000 & wait");
    eventually("two processes", || cgroup.pids(true).unwrap().len() == 2);
    for group in cgroup.v1.iter().chain(&cgroup.v2) {
        let dir = group.at.full();
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
    }
    later.freeze().unwrap();
    later.kill_all().unwrap();
    assert!(later.is_empty().unwrap());
    assert_eq!(cgroup.wait(child), 128 + libc::SIGKILL);
    later.destroy().unwrap();
    assert!(directories(path).is_empty());
    // Gone: nothing of it is an error.
    let gone = Cgroup::open(&cgroup.paths());
    assert!(gone.is_empty().unwrap() && !gone.is_frozen().unwrap() && gone.pids(true).unwrap().is_empty());
    gone.kill_all().unwrap();
    gone.destroy().unwrap();
}

#[test]
fn f6_life_on_this_host() {
    lives(&host(), &place("life"));
}

#[test]
fn f6_life_on_v1_alone() {
    if !host().is_pure_v2() {
        lives(&v1_only(), &place("life-v1"));
    }
}

#[test]
fn f6_life_on_v2_alone() {
    lives(&v2_only(), &place("life-v2"));
}

/// security.md F14: what the kernel has is what was asked for.
#[test]
fn f14_limits_read_back_exactly() {
    let host = host();
    if host.is_pure_v2() {
        return;
    }
    let resources = serde_json::json!({
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB, "swappiness": 7},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 1000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
    });
    let cgroup = create(&host, &place("limits"), resources).unwrap();
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "7"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "33"),
    ] {
        assert_eq!(cgroup.file(controller, file), value, "{file}");
    }
}

/// security.md F14 on v2, where there are controllers: in the guest of `spec-tests/vm`.
#[test]
fn f14_limits_read_back_exactly_on_v2() {
    let host = host();
    if !host.is_pure_v2() || !has(&host, "memory") {
        return;
    }
    let limits = serde_json::json!({
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 1000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
        "blockIO": {"weight": 100},
        "unified": {"memory.high": "50331648", "cgroup.max.depth": "7"},
    });
    let cgroup = create(&host, &place("limits/deep"), limits).unwrap();
    let read = |file: &str| String::from_utf8(cgroup.v2.as_ref().unwrap().read(file).unwrap()).unwrap();
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("memory.high", "50331648"),
        ("cgroup.max.depth", "7"),
        ("cpu.weight", "59"),
        ("cpu.max", "20000 50000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "33"),
    ] {
        assert_eq!(read(file).trim(), value, "{file}");
    }
    // Older kernels show cpu.max.burst in milliseconds.
    assert!(matches!(read("cpu.max.burst").trim(), "1000" | "1"));
    let weight = |file: &str| cgroup.v2.as_ref().unwrap().read(file);
    match weight("io.bfq.weight") {
        Ok(text) => assert_eq!(text, b"default 100\n"),
        Err(_) => assert_eq!(weight("io.weight").unwrap(), b"default 910\n"),
    }

    cgroup.update(&resources(serde_json::json!({"memory": {"limit": -1}}))).unwrap();
    assert_eq!((read("memory.max").trim(), read("memory.swap.max").trim()), ("max", "max"));
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.memory.usage.limit, stats.pids.limit), (u64::MAX, 33));
    assert!(stats.memory.raw.contains_key("anon") && !stats.memory.event_count.contains_key("oom_kill"));
    drop(cgroup);
    std::fs::remove_dir(host.v2.unwrap().mount_point.join(place("limits").trim_start_matches('/'))).unwrap();
}

/// runtime.md, resources: the limit on processes bites.
#[test]
fn pids_limit_bites() {
    let host = host();
    if !has(&host, "pids") {
        return;
    }
    let mut cgroup = create(&host, &place("pids"), serde_json::json!({"pids": {"limit": 5}})).unwrap();
    let child = cgroup.run("exec sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>/dev/null; exit 7'");
    let status = cgroup.wait(child);
    assert_eq!(status, 2, "sh: Cannot fork");
    assert_eq!(cgroup.pids(true).unwrap().len(), 4);
}

/// security.md F10: a fork bomb is gone in less than five seconds, by cgroup.kill and by v1's freezer.
fn kills_fork_bomb(hierarchies: &Hierarchies, path: &str) {
    let limit = 150;
    let mut all = hierarchies.clone();
    // Only with a limit on processes may a bomb be lit at all: a second cgroup gives it where `hierarchies` cannot.
    let host = host();
    match host.v1_with("pids") {
        Some(pids) if all.v1_with("pids").is_none() => all.v1.push(host.v1[pids].clone()),
        _ if has(&all, "pids") => {}
        _ => return,
    }
    let mut cgroup = create(&all, path, serde_json::json!({"pids": {"limit": limit}})).unwrap();
    cgroup.run("exec perl -e 'fork while 1'");
    eventually("many processes", || cgroup.pids(true).unwrap().len() > 100);
    let start = Instant::now();
    cgroup.kill_all().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(cgroup.is_empty().unwrap());
}

#[test]
fn f10_fork_bomb_dies_on_this_host() {
    kills_fork_bomb(&host(), &place("bomb"));
}

#[test]
fn f10_fork_bomb_dies_on_v1_alone() {
    kills_fork_bomb(&v1_only(), &place("bomb-v1"));
}

/// security.md F15: somebody else's processes are never in a container's cgroup.
#[test]
fn f15_cgroup_in_use_is_refused_and_left_alone() {
    let mut stranger = create(&host(), &place("used"), serde_json::json!({})).unwrap();
    let child = stranger.run("sleep 1000");
    let error = create(&host(), &place("used"), serde_json::json!({})).err().unwrap().to_string();
    assert!(error.ends_with("container's cgroup is not empty: 1 process(es) found"), "{error}");
    assert!(!matches!(state_of(child), 'Z' | 'X'));
    // Empty it may be taken over; a frozen one not.
    stranger.kill_all().unwrap();
    stranger.wait(child);
    let plan = plan(&spec(&place("used"), serde_json::json!({})), "x", Options::default(), &host()).unwrap();
    drop(Cgroup::create(&plan).unwrap());
    stranger.freeze().unwrap();
    let error = Cgroup::create(&plan).err().unwrap().to_string();
    assert!(error.ends_with("container's cgroup unexpectedly frozen"), "{error}");
}

/// peers.md B 43: a cgroup that takes no processes is refused with the reason, below a threaded one and as one itself.
#[test]
fn threaded_cgroups_are_refused() {
    let Some(v2) = host().v2 else { return };
    let top = v2.mount_point.join(place("threaded").trim_start_matches('/'));
    let threaded = top.join("threads");
    std::fs::create_dir_all(&threaded).unwrap();
    std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    let refused = |below: &str| {
        let path = place(&format!("threaded/threads{below}"));
        create(&v2_only(), &path, serde_json::json!({}))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let (below, itself) = (refused("/below"), refused(""));
    for path in [&threaded, &top] {
        std::fs::remove_dir(path).unwrap();
    }
    assert!(below.contains("\"domain invalid\"): choose a cgroupsPath outside of it"), "{below}");
    assert!(itself.ends_with("takes no processes, only threads (cgroup.type is \"threaded\")"), "{itself}");
}

/// runtime.md, create: a failure leaves nothing, and says which value of which file the kernel refused.
#[test]
fn failed_create_leaves_no_cgroup() {
    let host = host();
    if host.is_pure_v2() {
        return;
    }
    let resources = serde_json::json!({"cpu": {"cpus": "4000"}});
    let error = create(&host, &place("fails/deep/er"), resources).err().unwrap().to_string();
    let start = "cgroup /sys/fs/cgroup/cpuset/cgroup-fails/deep/er: /linux/resources/cpu/cpus: write \"4000\" to cpuset.cpus: ";
    assert!(error.starts_with(start), "{error}");
    assert_eq!(directories(&place("fails")), Vec::<PathBuf>::new());
}

/// security.md D7: default deny, and exactly the rules of the config.
#[test]
fn d7_devices_list_is_exact() {
    let host = host();
    if host.v1_with("devices").is_none() {
        return;
    }
    let defaults = "c *:* m\nb *:* m\nc 1:3 rwm\nc 1:8 rwm\nc 1:7 rwm\nc 5:0 rwm\nc 1:5 rwm\nc 1:9 rwm\nc 136:* rwm\nc 5:2 rwm";
    let deny = serde_json::json!({"allow": false, "access": "rwm"});
    let fuse = serde_json::json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
    let all = serde_json::json!({"allow": true, "access": "rwm"});
    let disk = serde_json::json!({"allow": false, "type": "b", "major": 8, "minor": 0, "access": "rwm"});
    let fuse_list = format!("c 10:229 rw\n{defaults}");
    for (name, rules, expected) in [
        ("none", vec![], defaults),
        ("deny", vec![&deny], defaults),
        ("fuse", vec![&deny, &fuse], fuse_list.as_str()),
        ("all", vec![&all, &disk], "a *:* rwm"),
    ] {
        let path = place(&format!("devices-{name}"));
        let mut cgroup = create(&host, &path, serde_json::json!({"devices": rules})).unwrap();
        assert_eq!(cgroup.file("devices", "devices.list"), expected, "{name}");
        assert_eq!(open_disk(&mut cgroup, &path), 1, "{name}: a disk that was denied opens");
    }
}

/// Status of opening 8:0 for reading inside, by a node made outside (in /dev, for /tmp may be mounted nodev): 1 for EPERM, 2 for anything else.
fn open_disk(cgroup: &mut Guarded, name: &str) -> i32 {
    let node = format!("/dev/skeg-test{}", name.replace('/', "-"));
    let _ = std::fs::remove_file(&node);
    assert!(Command::new("mknod").args([&node, "b", "8", "0"]).status().unwrap().success());
    let script = format!("(: < {node}) 2>&1 | grep -q 'Operation not permitted' && exit 1; exit 2");
    let child = cgroup.run(&script);
    let status = cgroup.wait(child);
    std::fs::remove_file(node).unwrap();
    status
}

/// security.md D7 on v2: the program denies what is not allowed, and allows the default devices.
#[test]
fn d7_program_decides_on_v2() {
    let deny = serde_json::json!({"devices": [{"allow": false, "access": "rwm"}]});
    let mut cgroup = create(&v2_only(), &place("bpf"), deny.clone()).unwrap();
    assert_eq!(open_disk(&mut cgroup, &place("bpf")), 1);
    let child =
        cgroup.run("exec 2>/dev/null; echo x > /dev/null && head -c1 /dev/zero > /dev/null && echo > /dev/full; test $? = 1");
    assert_eq!(cgroup.wait(child), 0);
    // The same cgroup again: the old program makes room for the new one.
    let all = serde_json::json!({"devices": [{"allow": true, "access": "rwm"}]});
    for (resources, status) in [(deny, 1), (all, 2)] {
        let plan = plan(&spec(&place("bpf"), resources), "x", Options::default(), &v2_only()).unwrap();
        drop(Cgroup::create(&plan).unwrap());
        let programs = crate::sys::bpf::device_programs(cgroup.v2.as_ref().unwrap().dir().unwrap()).unwrap();
        assert_eq!(programs.len(), 1);
        assert_eq!(open_disk(&mut cgroup, &place("bpf")), status);
    }
}

/// security.md C8: an exec process goes into the container's cgroup or below it, nowhere else.
#[test]
fn c8_sub_cgroups_go_only_down() {
    for bad in ["../x", "/abs", "a/../../b", "..", "x:../y", ":a", "a:b,", "cpu:a"] {
        let values = if bad == "cpu:a" { vec![bad, "cpu:b"] } else { vec![bad] };
        let result = SubCgroups::parse(&values);
        assert_eq!(result.is_err(), bad != "a:b,", "{bad}: {result:?}");
    }
    assert!(SubCgroups::parse(&["a", "b"]).is_err());

    let mut sibling = create(&host(), &place("sub-other"), serde_json::json!({})).unwrap();
    let mut cgroup = create(&host(), &place("sub"), serde_json::json!({})).unwrap();
    assert!(cgroup.entry_below(&SubCgroups::parse(&["-other"]).unwrap()).is_err());
    for group in cgroup.v1.iter().chain(&cgroup.v2) {
        std::fs::create_dir(group.at.full().join("in")).unwrap();
        if group.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                std::fs::copy(group.at.full().join(file), group.at.full().join("in").join(file)).unwrap();
            }
        }
    }
    let child = cgroup.run_below("sleep 1000", &SubCgroups::parse(&["in"]).unwrap());
    eventually("inside", || cgroup.pids(true).unwrap() == [child]);
    let places = std::fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
    assert!(
        places.lines().filter(|line| line.ends_with(&format!(":{}/in", place("sub")))).count() >= 1,
        "{places}"
    );
    assert!(cgroup.pids(false).unwrap().is_empty());
    assert!(cgroup.entry_below(&SubCgroups::parse(&["/"]).unwrap()).is_ok());
    let _ = &mut sibling;
}

fn resources(json: serde_json::Value) -> oci_spec::runtime::LinuxResources {
    serde_json::from_value(json).unwrap()
}

/// peers.md A1.2 update: each limit changes alone, up and down, whatever the order that the kernel wants.
#[test]
fn update_changes_what_it_names() {
    let host = host();
    if host.is_pure_v2() {
        return;
    }
    let limits = serde_json::json!({
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB}, "cpu": {"quota": 20000, "period": 50000}, "pids": {"limit": 9},
    });
    let cgroup = create(&host, &place("update"), limits).unwrap();
    let memory = |cgroup: &Guarded| {
        (cgroup.file("memory", "memory.limit_in_bytes"), cgroup.file("memory", "memory.memsw.limit_in_bytes"))
    };
    for (limit, swap) in [(256, 512), (32, 48), (300, 300), (20, 1024)] {
        cgroup
            .update(&resources(serde_json::json!({"memory": {"limit": limit * MIB, "swap": swap * MIB}})))
            .unwrap();
        assert_eq!(memory(&cgroup), ((limit * MIB).to_string(), (swap * MIB).to_string()));
    }
    cgroup.update(&resources(serde_json::json!({"memory": {"limit": -1}}))).unwrap();
    assert_eq!(memory(&cgroup), ("9223372036854771712".into(), "9223372036854771712".into()));
    assert_eq!(cgroup.file("cpu", "cpu.cfs_quota_us"), "20000");
    cgroup
        .update(&resources(serde_json::json!({"cpu": {"quota": 5000, "period": 10000}, "pids": {}})))
        .unwrap();
    assert_eq!(cgroup.file("cpu", "cpu.cfs_period_us"), "10000");
    assert_eq!(cgroup.file("pids", "pids.max"), "9");
}

/// peers.md row 41: all or nothing.
#[test]
fn refused_update_sets_back_what_it_had_set() {
    let host = host();
    if host.is_pure_v2() {
        return;
    }
    let cgroup = create(
        &host,
        &place("rollback"),
        serde_json::json!({"memory": {"limit": 64 * MIB}, "pids": {"limit": 9}}),
    )
    .unwrap();
    let update = serde_json::json!({
        "memory": {"limit": 32 * MIB}, "pids": {"limit": 5}, "cpu": {"shares": 77, "cpus": "4000"},
    });
    let text = cgroup.update(&resources(update)).unwrap_err().to_string();
    assert!(text.contains(": /cpu/cpus: write \"4000\" to cpuset.cpus: "), "{text}");
    assert_eq!(cgroup.file("memory", "memory.limit_in_bytes"), (64 * MIB).to_string());
    assert_eq!(cgroup.file("pids", "pids.max"), "9");
    assert_eq!(cgroup.file("cpu", "cpu.shares"), "1024");
}

/// A limit that the kernel refuses because of what is in use says so.
#[test]
fn refused_memory_limit_says_what_is_in_use() {
    let host = host();
    if host.v1_with("memory").is_none() {
        return;
    }
    let mut cgroup = create(&host, &place("in-use"), serde_json::json!({})).unwrap();
    cgroup.run("exec perl -e '$x = q(a) x (16 << 20); sleep 1000'");
    eventually("memory in use", || cgroup.stats().unwrap().memory.usage.usage > 16 << 20);
    let text =
        cgroup.update(&resources(serde_json::json!({"memory": {"limit": MIB}}))).unwrap_err().to_string();
    assert!(
        text.contains("/memory/limit: write \"1048576\" to memory.limit_in_bytes (current usage "),
        "{text}"
    );
    assert!(text.ends_with("): device or resource busy"), "{text}");
}

/// security.md D8: no update opens a device.
#[test]
fn d8_update_never_changes_device_rules() {
    let host = host();
    if host.v1_with("devices").is_none() {
        return;
    }
    let cgroup = create(&host, &place("d8"), serde_json::json!({})).unwrap();
    let before = cgroup.file("devices", "devices.list");
    for json in [
        serde_json::json!({"devices": [{"allow": true, "access": "rwm"}]}),
        serde_json::json!({"devices": [], "memory": {"limit": 64 * MIB}}),
        serde_json::json!({"cpu": {"shares": 5}}),
        serde_json::json!({"pids": {"limit": 5}}),
    ] {
        cgroup.update(&resources(json)).unwrap();
        assert_eq!(cgroup.file("devices", "devices.list"), before);
    }
}

/// runtime.md, events: a kill for want of memory is told of and counted, and so is the end.
fn tells_of_oom(hierarchies: &Hierarchies, path: &str) {
    if !has(hierarchies, "memory") {
        return;
    }
    let limit = serde_json::json!({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}});
    let mut cgroup = create(hierarchies, path, limit).unwrap();
    let later = Cgroup::open(&cgroup.paths());
    assert_eq!(later.oom_kill_count().unwrap(), 0);
    let mut watch = later.watch_oom().unwrap();
    let start = Instant::now();
    let child = cgroup.run("exec 2>/dev/null; perl -e '$x = q(a) x (64 << 20)'; sleep 1000");
    // Until the process is inside the cgroup is empty, which is its end as well.
    eventually("told", || watch.wait(Duration::from_secs(4)).unwrap() == Seen::Oom);
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(later.oom_kill_count().unwrap(), 1);
    assert_eq!(watch.wait(Duration::from_millis(20)).unwrap(), Seen::Nothing);
    cgroup.kill_all().unwrap();
    cgroup.wait(child);
    cgroup.cgroup.take().unwrap().destroy().unwrap();
    assert_eq!(watch.wait(Duration::from_secs(4)).unwrap(), Seen::End);
    assert!(cgroup.children.is_empty());
}

#[test]
fn f11_oom_is_told_on_this_host() {
    tells_of_oom(&host(), &place("oom"));
}

#[test]
fn f11_oom_is_told_on_v1_alone() {
    tells_of_oom(&v1_only(), &place("oom-v1"));
}

/// peers.md A1.3, `events --stats`: what was used is in the numbers.
#[test]
fn statistics_count_what_was_used() {
    let host = host();
    let mut cgroup = create(&host, &place("stats"), serde_json::json!({})).unwrap();
    let child = cgroup.run("for ((i = 0; i < 30000; i++)); do :; done; sleep 1000");
    eventually("CPU time", || cgroup.stats().unwrap().cpu.usage.total > 10_000_000);
    let stats = cgroup.stats().unwrap();
    assert!(stats.pids.current >= 1);
    if host.v1_with("memory").is_some() {
        assert!(stats.memory.usage.usage > 0 && stats.memory.raw.contains_key("rss"));
        assert!(stats.cpu.usage.percpu.len() > 1 && !stats.cpuset.cpus.is_empty());
    }
    if Path::new("/proc/pressure/cpu").exists() && host.v2.is_some() {
        assert!(stats.cpu.psi.is_some());
    }
    cgroup.kill_all().unwrap();
    cgroup.wait(child);
    let gone = Cgroup::open(&cgroup.paths());
    cgroup.cgroup.take().unwrap().destroy().unwrap();
    assert!(gone.stats().is_err());
}

/// security.md C8: where the container's own sub-cgroups keep others out of its cgroup, exec goes to where init is.
#[test]
fn c8_exec_goes_beside_init() {
    let mut cgroup = create(&v2_only(), &place("beside"), serde_json::json!({})).unwrap();
    let child = cgroup.run("sleep 1000");
    let dir = cgroup.v2.as_ref().unwrap().at.full();
    std::fs::create_dir(dir.join("init")).unwrap();
    std::fs::write(dir.join("init/cgroup.procs"), child.to_string()).unwrap();
    let places = std::fs::read(format!("/proc/{child}/cgroup")).unwrap();
    let entry = cgroup.entry_beside(&places).unwrap();
    let (inside, init) = (entry.v2_dir.unwrap(), std::fs::metadata(dir.join("init")).unwrap());
    assert_eq!(crate::sys::path::stat(&inside).unwrap().st_ino, std::os::unix::fs::MetadataExt::ino(&init));
    let sibling = format!("0::{}-other/x\n", place("beside"));
    assert!(cgroup.entry_beside(sibling.as_bytes()).is_err());
}

/// ARCHITECTURE.md, invariant 6: the limit of a controller that only v2 has on a hybrid host is set there.
#[test]
fn hugepage_limit_goes_where_the_controller_is() {
    let host = host();
    let v2 = host.v2.as_ref().unwrap();
    let controllers = std::fs::read_to_string(v2.mount_point.join("cgroup.controllers")).unwrap();
    if host.v1_with("hugetlb").is_some() || !controllers.contains("hugetlb") {
        return;
    }
    restore_controllers();
    let top = TOP.lock().unwrap();
    let limit = serde_json::json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]});
    let cgroup = create(&host, &place("huge/pages"), limit).unwrap();
    let file = |name: &str| String::from_utf8(cgroup.v2.as_ref().unwrap().read(name).unwrap()).unwrap();
    assert_eq!(file("hugetlb.2MB.max"), "4194304\n");
    assert_eq!(file("hugetlb.2MB.rsvd.max"), "4194304\n");
    let keys: Vec<_> = cgroup.stats().unwrap().hugetlb.into_keys().collect();
    assert!(keys.contains(&"2MB".to_owned()), "{keys:?}");
    drop(cgroup);
    for dir in directories(&place("huge")) {
        std::fs::remove_dir(dir).unwrap();
    }
    let limit = serde_json::json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]});
    let text = create(&host, &place("huge3"), limit).err().unwrap().to_string();
    drop(top);
    restore_controllers();
    assert!(
        text.contains(
            "/hugepageLimits/0: write \"1\" to hugetlb.3MB.max (this host has no huge pages of that size"
        ),
        "{text}"
    );
}

/// All of the above on a pure v2 host, as far as it applies there: this test program again, by v2only.
#[test]
fn everything_on_pure_v2() {
    if host().is_pure_v2() {
        return;
    }
    restore_controllers();
    let top = TOP.lock().unwrap();
    let v2only = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec-tests/vm/v2only");
    let output = Command::new(v2only)
        .arg(std::env::current_exe().unwrap())
        .args(["cgroup::tests", "--test-threads=1"])
        .output()
        .unwrap();
    drop(top);
    restore_controllers();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("f6_life_on_this_host ... ok"), "{text}");
}
