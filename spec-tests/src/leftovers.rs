//! What a case or a run left behind: processes, mounts, cgroups, state, network interfaces and namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::unistd::{Pid, getpid};

use crate::failure::Outcome;
use crate::harness::{Ctx, reap_dead};
use crate::{cgroups, sys};

/// How long processes that are on their way out may take.
const GRACE: Duration = Duration::from_secs(20);

/// What this case has left behind, one line each; called by the process that reaps everything of the case.
pub fn of_case(ctx: &Ctx) -> Outcome<Vec<String>> {
    let end = Instant::now() + GRACE * ctx.patience;
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

/// Every process that is in view.
pub fn processes() -> Vec<Pid> {
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

/// Everything on the machine that a run could leave behind: what tells a thing apart, and how it is described.
#[derive(Default)]
pub struct Snapshot {
    things: BTreeMap<String, String>,
}

impl Snapshot {
    /// Takes it.
    pub fn take() -> Outcome<Self> {
        let mut things = BTreeMap::new();
        for pid in processes() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> =
                stat.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
            // Kernel threads are children of 2 and come and go; the start time makes a pid unmistakable.
            if fields.len() > 20 && fields[1] != "2" && pid != getpid() {
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                let groups = groups.replace('\n', " ");
                // A process that was there before may have called execve or have moved since.
                let identity = format!("process {pid} since {}", fields[19]);
                let said = format!("{identity}: {} [{groups}]", command_line(pid));
                things.insert(identity, said);
            }
        }
        let mut add = |thing: String| things.insert(thing.clone(), thing);
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            add(format!("mount {line}"));
        }
        for path in cgroups::containing("")? {
            add(format!("cgroup {}", path.display()));
        }
        for dir in
            ["/run/skeg", "/run/runc", "/run/crun", "/run/netns", "/sys/class/net", "/dev/shm", "/dev/mqueue"]
        {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                add(format!("entry {}", entry.path().display()));
            }
        }
        Ok(Self { things })
    }

    /// What is there now and was not there before; only what carries the tag, unless the machine is ours alone.
    fn new_since(&self, before: &Self, tag: &str, alone: bool) -> Vec<String> {
        let new = self.things.iter().filter(|(identity, _)| !before.things.contains_key(*identity));
        let is_ours = |said: &&String| said.contains(tag) || (alone && !is_systemds_own(said));
        new.map(|(_, said)| said).filter(is_ours).cloned().collect()
    }
}

/// A service that is systemd's own: one that comes to no turn for minutes on a busy machine is ended by its watchdog and started anew
/// (`WatchdogSec=` of systemd-journald.service).
fn is_systemds_own(said: &str) -> bool {
    said.contains("[0::/system.slice/systemd-") || said.contains(" /run/credentials/systemd-")
}

/// What is there and was not there before, once what is on its way out has had its time.
pub fn of_run(before: &Snapshot, tag: &str, alone: bool, patience: u32) -> Outcome<Vec<String>> {
    let end = Instant::now() + GRACE * patience;
    loop {
        reap_dead();
        let left = Snapshot::take()?.new_since(before, tag, alone);
        if left.is_empty() || Instant::now() > end {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(20));
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_was_there_before_is_not_left_behind_whatever_it_has_become() -> Outcome {
        let mut other = Command::new("sh")
            .args(["-c", "read line; exec sleep 1000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let name = |pid: u32| format!("process {pid} since ");
        let pid = Pid::from_raw(other.id().try_into()?);
        let before = Snapshot::take()?;
        let mut later = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn()?;
        if let Some(mut stdin) = other.stdin.take() {
            stdin.write_all(b"\n")?;
        }
        let has_called = || Ok(command_line(pid).starts_with("sleep").then_some(()));
        let called = crate::harness::eventually("execve", Duration::from_secs(60), has_called);
        let left = Snapshot::take()?.new_since(&before, "", true);
        for child in [&mut other, &mut later] {
            child.kill()?;
            child.wait()?;
        }
        called?;
        crate::ensure!(
            left.iter().any(|said| said.starts_with(&name(later.id()))),
            "the later one: {left:?}"
        );
        crate::ensure!(!left.iter().any(|said| said.starts_with(&name(other.id()))), "the other: {left:?}");
        Ok(())
    }

    #[test]
    fn what_systemd_starts_anew_is_its_own() {
        let journald = "process 9 since 3: /usr/lib/systemd/systemd-journald [0::/system.slice/systemd-journald.service ]";
        assert!(is_systemds_own(journald));
        assert!(is_systemds_own(
            "mount 124 31 0:44 / /run/credentials/systemd-journald.service ro shared:18 - tmpfs tmpfs rw"
        ));
        assert!(!is_systemds_own("process 9 since 3: sleep 9 [0::/system.slice/spec-spectests-1-0.scope ]"));
        assert!(!is_systemds_own("mount 124 31 0:44 / /run/skeg/x rw shared:18 - tmpfs tmpfs rw"));
    }
}
