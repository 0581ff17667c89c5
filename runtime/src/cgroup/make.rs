//! How a container's cgroup comes to be: its directories, its limits, and what is taken back where that fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, Uid, fchown, fchownat};

use crate::cgroup::apply::{READ_LIMIT, apply};
use crate::cgroup::control::count_processes;
use crate::cgroup::place::{Cgroup, DIRECTORY, Group, GroupPath, open_mount};
use crate::cgroup::plan::{CgroupPlan, Devices, GroupPlan, RESOURCES};
use crate::cgroup::scope::admit;
use crate::error::{Context as _, Error, Result};
use crate::sys::bpf;
use crate::sys::fd::read_to_end;
use crate::sys::path::{append, open_given, open_own, read_own, remove_dir, write_own};

/// As the kernel's own tools make them.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// Which files of a cgroup may be given to a user (`cgroup_delegate` attribute of `kernel/cgroup/cgroup.c`, Linux 4.15).
const DELEGATED_FILES: &str = "/sys/kernel/cgroup/delegate";

impl Cgroup {
    /// Makes the cgroup and puts its limits into force. What was made is removed again on failure.
    ///
    /// A cgroup that is there already is taken over, but not with processes inside, nor frozen, as in runc since 1.2:
    /// the container's end would be theirs (security.md F15).
    ///
    /// # Errors
    /// Which cgroup could not be made or which limit not be set, and why.
    pub fn create(plan: &CgroupPlan) -> Result<Self> {
        Made::or_nothing(|made| {
            let mut cgroup = Self::born_in(plan, made)?;
            cgroup.complete(plan, made).map(|()| cgroup)
        })
    }

    /// The part of it that a process is born in, without its limits; [`Self::finish`] does the rest.
    ///
    /// # Errors
    /// As for [`Self::create`].
    pub fn begin(plan: &CgroupPlan) -> Result<Self> {
        Made::or_nothing(|made| Self::born_in(plan, made))
    }

    /// Sets the limits of what [`Self::begin`] made, and makes the part of it that a process enters.
    ///
    /// # Errors
    /// As for [`Self::create`]. What [`Self::begin`] made stays.
    pub fn finish(&mut self, plan: &CgroupPlan) -> Result<()> {
        Made::or_nothing(|made| self.complete(plan, made))
    }

    /// The same for the process that systemd has started the scope with. What is there of it when this fails goes with the
    /// scope's own.
    ///
    /// # Errors
    /// As for [`Self::create`]; systemd put the process elsewhere.
    pub(super) fn around(plan: &CgroupPlan, resident: Pid) -> Result<Self> {
        let mut made = Made::default();
        let mut make = |planned| make_limited(plan, planned, &mut made, Some(resident));
        let v1 = plan.v1.iter().filter_map(|planned| make(planned).transpose()).collect::<Result<_>>()?;
        let v2 = plan.v2.as_ref().map(make).transpose()?.flatten();
        Ok(Self { v1, v2, unit: plan.unit.as_ref().map(|plan| plan.unit.clone()) })
    }

    fn born_in(plan: &CgroupPlan, made: &mut Made) -> Result<Self> {
        let v2 = plan.v2.as_ref().map(|planned| make_group(plan, planned, made, None)).transpose()?.flatten();
        Ok(Self { v1: Vec::new(), v2, unit: plan.unit.as_ref().map(|plan| plan.unit.clone()) })
    }

    fn complete(&mut self, plan: &CgroupPlan, made: &mut Made) -> Result<()> {
        if let (Some(group), Some(planned)) = (&self.v2, &plan.v2) {
            set_limits(plan, planned, group)?;
        }
        let make = |planned| make_limited(plan, planned, made, None).transpose();
        self.v1 = plan.v1.iter().filter_map(make).collect::<Result<_>>()?;
        Ok(())
    }
}

impl Group {
    /// Enables controllers on the way to a v2 cgroup of a hybrid host, where only those are on that its limits needed when
    /// it was made. What the kernel refuses shows when a limit's file is missing.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn enable(&self, controllers: &[String]) -> nix::Result<()> {
        let mut dir = open_mount(&self.at)?;
        for part in self.at.path.components() {
            enable_controllers(&dir, controllers);
            dir = open_own(&dir, Path::new(part.as_os_str()), DIRECTORY, Mode::empty())?;
        }
        Ok(())
    }
}

/// One hierarchy's cgroup with its limits.
fn make_limited(
    plan: &CgroupPlan,
    planned: &GroupPlan,
    made: &mut Made,
    resident: Option<Pid>,
) -> Result<Option<Group>> {
    let group = make_group(plan, planned, made, resident)?;
    if let Some(group) = &group {
        set_limits(plan, planned, group)?;
    }
    Ok(group)
}

/// One hierarchy's cgroup, without limits; none where it is done without. `resident`: the process that systemd has started
/// the scope with, which belongs into every hierarchy.
fn make_group(
    plan: &CgroupPlan,
    planned: &GroupPlan,
    made: &mut Made,
    resident: Option<Pid>,
) -> Result<Option<Group>> {
    let is_v2 = planned.at.controllers.is_empty();
    let enable = if is_v2 { Some((planned.controllers.as_slice(), plan.v1.is_empty())) } else { None };
    let group = match make_directories(&planned.at, enable, made, resident.is_none()) {
        // runc's ErrRootless: no path and no limits were asked for, so the caller's own cgroup will do.
        Err(error) if plan.optional && is_denied(&error) => return Ok(None),
        Err(error) if plan.rootless && is_denied(&error) => {
            return Err(error.context("rootless: a cgroup is needed for cgroupsPath and for limits"));
        }
        other => other?,
    };
    if let Some(pid) = resident {
        let is_systemds = if is_v2 { plan.v1.is_empty() } else { planned.at.controllers == ["name=systemd"] };
        let what = || format!("cgroup {}", group.at.full().display());
        admit(group.dir().context(what)?, pid, is_systemds).context(what)?;
    }
    Ok(Some(group))
}

/// Errors that mean "you may not", rootless (runc's isIgnorableError).
fn is_denied(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

/// Puts the limits and device rules of one hierarchy into force, and gives the cgroup to whom it belongs.
fn set_limits(plan: &CgroupPlan, planned: &GroupPlan, group: &Group) -> Result<()> {
    let what = || format!("cgroup {}", group.at.full().display());
    let dir = group.dir().context(what)?;
    apply(dir, &planned.writes, RESOURCES).context(what)?;
    let devices = match &planned.devices {
        Devices::Elsewhere => Ok(()),
        Devices::Writes(writes) => apply(dir, writes, RESOURCES),
        Devices::Program(policy) => attach_program(dir, &policy.program()),
    };
    match devices {
        // A user namespace cannot make device nodes, and cannot set rules about them either.
        Err(error) if plan.rootless && is_denied(&error) => {}
        other => other.context(what)?,
    }
    match plan.owner {
        Some(owner) if group.at.controllers.is_empty() => delegate(dir, owner, DELEGATED_FILES)
            .context(|| format!("give cgroup {} to the container", group.at.full().display())),
        _ => Ok(()),
    }
}

/// Gives the cgroup to the container's user, so that it can make sub-cgroups: the directory and those files that the
/// kernel says are safe to give away (cgroup-v2.rst, "Model of Delegation"); `list` is where it says so.
fn delegate(dir: BorrowedFd<'_>, owner: Uid, list: &str) -> nix::Result<()> {
    let listed = match open_given(list, OFlag::O_RDONLY, Mode::empty()) {
        Ok(file) => read_to_end(file, READ_LIMIT)?,
        Err(Errno::ENOENT) => b"cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n".to_vec(),
        Err(errno) => return Err(errno),
    };
    fchown(dir, Some(owner), None)?;
    for name in String::from_utf8_lossy(&listed).lines().filter(|name| !name.contains('/')) {
        match open_own(dir, name, OFlag::O_PATH, Mode::empty()) {
            Ok(file) => fchownat(file, "", Some(owner), None, AtFlags::AT_EMPTY_PATH)?,
            // A file of a controller that is not enabled here.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes `program` the cgroup's only device program.
fn attach_program(dir: BorrowedFd<'_>, program: &[bpf::Insn]) -> Result<()> {
    let what = || "set the device rules";
    let program = bpf::load_device_program(program).context(what)?;
    let there = bpf::device_programs(dir).context(what)?;
    let mut old = Vec::with_capacity(there.len());
    for id in there {
        old.push(bpf::program_by_id(id).context(what)?);
    }
    match old.as_slice() {
        [one] => bpf::attach_device_program(dir, &program, Some(one)).context(what),
        several => {
            // All attached programs have to allow, so that there is no moment with less than the new rules.
            bpf::attach_device_program(dir, &program, None).context(what)?;
            several.iter().try_for_each(|old| bpf::detach_device_program(dir, old)).context(what)
        }
    }
}

/// The directories made so far, for a rollback.
#[derive(Default)]
struct Made(Vec<GroupPath>);

impl Made {
    /// What `make` made, or, where it fails, nothing of it.
    fn or_nothing<T>(make: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mut made = Self::default();
        // What it has opened is closed by now: those may be the last descriptors that there are.
        make(&mut made).inspect_err(|_| made.undo())
    }

    /// Removes them, the last one first. What fails to go (someone else's cgroup is inside by now) stays.
    fn undo(&mut self) {
        while let Some(at) = self.0.pop() {
            let group = Group::new(at);
            if let Ok((above, name)) = group.above() {
                let _ = remove_dir(above, name);
            }
        }
    }
}

/// Makes the directories of one group from the mount point down, each by the fd of the one above.
///
/// `enable` (v2): the controllers that are needed, and whether all others are enabled too. `alone`: nobody may be inside.
fn make_directories(
    at: &GroupPath,
    enable: Option<(&[String], bool)>,
    made: &mut Made,
    alone: bool,
) -> Result<Group> {
    let what = |path: &Path| format!("make cgroup {}", path.display());
    let mut reached = at.mount.clone();
    let mut below = PathBuf::new();
    let mut above = None;
    let mut dir = open_mount(at).context(|| what(&at.mount))?;
    let wanted = match enable {
        Some((needed, all)) => wanted_controllers(&dir, needed, all).context(|| what(&at.mount))?,
        None => Vec::new(),
    };
    let is_cpuset = at.controllers.iter().any(|name| name == "cpuset");
    let mut existed = false;
    for part in at.path.components() {
        let Component::Normal(name) = part else { continue };
        enable_controllers(&dir, &wanted);
        append(&mut reached, name);
        append(&mut below, name);
        existed = match mkdirat(&dir, name, DIRECTORY_MODE) {
            Err(Errno::EEXIST) => true,
            result => result.map(|()| false).context(|| what(&reached))?,
        };
        if !existed {
            made.0.push(GroupPath { path: below.clone(), ..at.clone() });
        }
        let next = open_own(&dir, name, DIRECTORY, Mode::empty()).context(|| what(&reached))?;
        if is_cpuset {
            inherit_cpuset(&dir, &next, existed).context(|| what(&reached))?;
        }
        above = Some(std::mem::replace(&mut dir, next));
    }
    let above = above.ok_or_else(|| Error::from_errno(what(&reached), Errno::EINVAL))?;
    if enable.is_some() {
        refuse_threaded(&dir).context(|| format!("cgroup {}", reached.display()))?;
    }
    if existed && alone {
        refuse_in_use(dir.as_fd()).context(|| format!("cgroup {}", reached.display()))?;
    }
    Ok(Group::opened(at.clone(), above, dir))
}

/// The controllers that go into each `cgroup.subtree_control` on the way: all that the hierarchy has, as runc does, for
/// the sake of statistics, or only those that carry limits (hybrid, where most are v1's).
fn wanted_controllers(mount: &OwnedFd, needed: &[String], all: bool) -> nix::Result<Vec<String>> {
    if !all {
        return Ok(needed.to_vec());
    }
    let there = read_own(mount, "cgroup.controllers", READ_LIMIT)?;
    Ok(String::from_utf8_lossy(&there).split_ascii_whitespace().map(str::to_owned).collect())
}

/// Enables what is not yet enabled for the children of `dir`. What the kernel refuses (a controller that is not
/// delegated, processes inside) shows when a limit's file is missing, with a better error than here.
fn enable_controllers(dir: &OwnedFd, wanted: &[String]) {
    if wanted.is_empty() {
        return;
    }
    let enabled = read_own(dir, "cgroup.subtree_control", READ_LIMIT).unwrap_or_default();
    let enabled = String::from_utf8_lossy(&enabled);
    let missing: Vec<String> = wanted
        .iter()
        .filter(|name| !enabled.split_ascii_whitespace().any(|one| one == name.as_str()))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return;
    }
    // Where processes are inside, as in a container that runs skeg itself, enabling those that are for threads too would
    // make this a threaded domain, below which no process can be (cgroup-v2.rst, "Threads"): all stay off then. The top of
    // the hierarchy has no type, and may have processes.
    let is_top = matches!(read_own(dir, "cgroup.type", READ_LIMIT), Err(Errno::ENOENT));
    if !is_top && read_own(dir, "cgroup.procs", READ_LIMIT).map_or(true, |procs| !procs.is_empty()) {
        return;
    }
    if write_own(dir, "cgroup.subtree_control", missing.join(" ").as_bytes()).is_ok() {
        return;
    }
    // One that cannot be had must not keep the others away.
    for one in missing {
        let _ = write_own(dir, "cgroup.subtree_control", one.as_bytes());
    }
}

/// A new v1 cpuset has no CPUs and no memory nodes, and nobody can enter it: it gets those of the one above.
fn inherit_cpuset(above: &OwnedFd, dir: &OwnedFd, existed: bool) -> nix::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !existed || read_own(dir, file, READ_LIMIT)?.trim_ascii().is_empty() {
            write_own(dir, file, read_own(above, file, READ_LIMIT)?.trim_ascii())?;
        }
    }
    Ok(())
}

/// Refuses a v2 cgroup that takes no processes, only threads of those that are in a threaded subtree already
/// (cgroup-v2.rst, "Threads"): the kernel would say "operation not supported" to the first process.
fn refuse_threaded(dir: &OwnedFd) -> Result<()> {
    let kind = read_own(dir, "cgroup.type", READ_LIMIT).context(|| "read cgroup.type")?;
    match kind.trim_ascii() {
        b"domain" | b"domain threaded" => Ok(()),
        b"domain invalid" => Err(Error::new(
            "is in a threaded subtree and takes no processes (cgroup.type is \"domain invalid\"): choose a cgroupsPath \
             outside of it",
        )),
        other => Err(Error::new(format!(
            "takes no processes, only threads (cgroup.type is {:?})",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// Refuses a cgroup that others use, or one below it: all that is inside ends with the container.
fn refuse_in_use(dir: BorrowedFd<'_>) -> Result<()> {
    let count = count_processes(dir).context(|| "count the processes")?;
    if count > 0 {
        return Err(Error::new(format!("container's cgroup is not empty: {count} process(es) found")));
    }
    let frozen = |file: &str, word: &[u8]| {
        read_own(dir, file, READ_LIMIT).is_ok_and(|state| state.trim_ascii() == word)
    };
    if frozen("cgroup.freeze", b"1") || frozen("freezer.state", b"FROZEN") {
        return Err(Error::new("container's cgroup unexpectedly frozen"));
    }
    Ok(())
}

/// The same for a cgroup that systemd is to make: where it is there already, systemd takes it as it is, and in one that is
/// frozen the container's process would never come to its start.
pub(super) fn refuse_leftover(at: &GroupPath) -> Result<()> {
    let group = Group::new(at.clone());
    let refused = match group.dir() {
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::from_errno("open it", errno)),
        Ok(dir) => refuse_in_use(dir),
    };
    refused.context(|| format!("cgroup {}", at.full().display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests use scratch files")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// config-linux.md, cgroup ownership: listed files that do not exist are no failure, no other file is given away, and
    /// without the kernel's list there is the specification's.
    #[test]
    fn f12_what_is_given_away() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let scratch = std::env::temp_dir().join(format!("skeg-delegate-{}", std::process::id()));
        let group = scratch.join("group");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(scratch.join("list"), "cgroup.procs\ncgroup.other\n../list\n").unwrap();
        for name in ["cgroup.procs", "cgroup.threads", "memory.max"] {
            std::fs::write(group.join(name), "").unwrap();
        }
        let dir = std::fs::File::open(&group).unwrap();
        let owner = |name: &str| std::fs::metadata(group.join(name)).unwrap().uid();
        delegate(dir.as_fd(), Uid::from_raw(7), &scratch.join("list").display().to_string()).unwrap();
        let owners = [".", "cgroup.procs", "cgroup.threads", "memory.max", "../list"].map(owner);
        assert_eq!(owners, [7, 7, 0, 0, 0]);
        delegate(dir.as_fd(), Uid::from_raw(8), "/nonexistent/list").unwrap();
        assert_eq!([".", "cgroup.procs", "cgroup.threads", "memory.max"].map(owner), [8, 8, 8, 0]);
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
