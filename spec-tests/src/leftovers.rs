//! What a case or a run left behind: processes, mounts, cgroups, state, network interfaces and namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::unistd::{Pid, getpid};

use crate::failure::Outcome;
use crate::harness::{Ctx, reap_dead};
use crate::{cgroups, sys};

/// How long processes that are on their way out may take.
const GRACE: Duration = Duration::from_secs(3);

/// What this case has left behind, one line each; called by the process that reaps everything of the case.
pub fn of_case(ctx: &Ctx) -> Outcome<Vec<String>> {
    let end = Instant::now() + GRACE;
    loop {
        reap_dead();
        let found = look(&ctx.dir, &ctx.root, &ctx.tag)?;
        if found.is_empty() || Instant::now() > end {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn look(dir: &Path, root: &Path, tag: &str) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for pid in children_of(getpid()) {
        found.push(format!("process {pid} ({})", command_line(pid)));
    }
    for path in cgroups::containing(tag)? {
        found.push(format!("cgroup {}", path.display()));
    }
    for target in mounts_under(&[&dir.to_string_lossy(), tag])? {
        found.push(format!("mount {target}"));
    }
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        found.push(format!("state {}", entry.path().display()));
    }
    Ok(found)
}

/// Removes by force what carries the tag or lies under the directory.
pub fn clean(dir: &Path, tag: &str) {
    for attempt in 0..100 {
        let children = children_of(getpid());
        if children.is_empty() {
            break;
        }
        for pid in children {
            let _gone = sys::send_signal(pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2 * attempt));
        reap_dead();
    }
    clean_named(dir, tag);
}

/// As `clean`, but kills only the processes that are in cgroups of the tag.
pub fn clean_named(dir: &Path, tag: &str) {
    for attempt in 0..50 {
        let groups = cgroups::containing(tag).unwrap_or_default();
        if groups.is_empty() {
            break;
        }
        for group in &groups {
            let _thawed = fs::write(group.join("freezer.state"), "THAWED");
            for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
                let _gone = sys::send_signal(Pid::from_raw(pid.parse().unwrap_or(0)), libc::SIGKILL);
            }
            let _removed = fs::remove_dir(group);
        }
        std::thread::sleep(Duration::from_millis(2 * attempt));
        reap_dead();
    }
    for target in mounts_under(&[&dir.to_string_lossy(), tag]).unwrap_or_default().iter().rev() {
        let _unmounted = umount2(target.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

/// The direct children of a process.
pub fn children_of(parent: Pid) -> Vec<Pid> {
    let is_child = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may contain anything; the parent is the second field after it.
        stat.rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1))
            .is_some_and(|text| text == parent.to_string())
    };
    processes().into_iter().filter(is_child).collect()
}

fn processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).map(Pid::from_raw).collect()
}

/// A process's command line, or its name where that is empty.
pub fn command_line(pid: Pid) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\0', " ").trim().to_owned();
    if text.is_empty() {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
    } else {
        text
    }
}

fn mounts_under(texts: &[&str]) -> Outcome<Vec<String>> {
    let info = fs::read_to_string("/proc/self/mountinfo")?;
    let targets = info.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(targets.filter(|target| texts.iter().any(|text| target.contains(text))).map(str::to_owned).collect())
}

/// Everything on the machine that a run could leave behind.
#[derive(Default)]
pub struct Snapshot {
    things: BTreeSet<String>,
}

impl Snapshot {
    /// Takes it.
    pub fn take() -> Outcome<Self> {
        let mut things = BTreeSet::new();
        for pid in processes() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> =
                stat.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
            // Kernel threads are children of 2 and come and go; the start time makes a pid unmistakable.
            if fields.len() > 20 && fields[1] != "2" && pid != getpid() {
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                let groups = groups.replace('\n', " ");
                things.insert(format!(
                    "process {pid} since {}: {} [{groups}]",
                    fields[19],
                    command_line(pid)
                ));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            things.insert(format!("mount {line}"));
        }
        for path in cgroups::containing("")? {
            things.insert(format!("cgroup {}", path.display()));
        }
        for dir in
            ["/run/skeg", "/run/runc", "/run/crun", "/run/netns", "/sys/class/net", "/dev/shm", "/dev/mqueue"]
        {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                things.insert(format!("entry {}", entry.path().display()));
            }
        }
        Ok(Self { things })
    }

    /// What is there now and was not there before; only what carries the tag, unless the machine is ours alone.
    pub fn new_since(&self, before: &Self, tag: &str, alone: bool) -> Vec<String> {
        self.things.difference(&before.things).filter(|thing| alone || thing.contains(tag)).cloned().collect()
    }
}

/// Removes a directory tree that holds no mounts.
pub fn remove_tree(dir: &Path) {
    let _removed = fs::remove_dir_all(dir);
}

/// The directory below which every run has its own.
pub fn base_dir() -> PathBuf {
    std::env::temp_dir().join("spec-tests")
}
