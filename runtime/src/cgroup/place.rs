//! The directories of a container's cgroup: made, found again, entered, removed.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{Uid, fchown, fchownat};
use serde::{Deserialize, Serialize};

use crate::cgroup::apply::{READ_LIMIT, apply};
use crate::cgroup::plan::{CgroupPlan, Devices, GroupPlan, RESOURCES};
use crate::error::{Context as _, Error, Result};
use crate::sys::bpf;
use crate::sys::fd::read_to_end;
use crate::sys::path::{append, open_given, open_own, read_own, remove_dir, write_own};

/// As the kernel's own tools make them.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// A directory that is read, written below and handed to clone3(2) and bpf(2).
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// Which files of a cgroup may be given to a user (`cgroup_delegate` attribute of `kernel/cgroup/cgroup.c`, Linux 4.15).
const DELEGATED_FILES: &str = "/sys/kernel/cgroup/delegate";

/// The place of a container in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPath {
    /// v1: the controllers of the hierarchy; v2: empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// The mount point of the hierarchy.
    pub mount: PathBuf,
    /// The cgroup, relative to the mount point.
    pub path: PathBuf,
}

impl GroupPath {
    /// The whole path, for texts.
    pub fn full(&self) -> PathBuf {
        let mut full = self.mount.clone();
        append(&mut full, &self.path);
        full
    }
}

/// Where a container's cgroup is: the part of its state by which a later command finds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CgroupPaths {
    /// In the v1 hierarchies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub v1: Vec<GroupPath>,
    /// In the v2 hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v2: Option<GroupPath>,
}

/// A container's cgroup in every hierarchy. Empty where it has none; every operation is then a no-op or says so.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) v1: Vec<Group>,
    pub(super) v2: Option<Group>,
}

/// The cgroup in one hierarchy, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Group {
    pub at: GroupPath,
    dir: OnceCell<OwnedFd>,
}

impl Group {
    fn new(at: GroupPath, dir: Option<OwnedFd>) -> Self {
        let cell = OnceCell::new();
        if let Some(dir) = dir {
            // A new cell takes its first value.
            let _ = cell.set(dir);
        }
        Self { at, dir: cell }
    }

    /// Its directory.
    ///
    /// # Errors
    /// `ENOENT` where the cgroup has gone; `EXDEV` where the mount point is no cgroup file system.
    pub fn dir(&self) -> nix::Result<BorrowedFd<'_>> {
        if self.dir.get().is_none() {
            let dir = open_own(open_mount(&self.at)?, &self.at.path, DIRECTORY, Mode::empty())?;
            let _ = self.dir.set(dir);
        }
        self.dir.get().map(AsFd::as_fd).ok_or(Errno::EBADF)
    }

    /// Reads a file of the cgroup.
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2).
    pub fn read(&self, name: &str) -> nix::Result<Vec<u8>> {
        read_own(self.dir()?, name, READ_LIMIT)
    }

    /// Writes a file of the cgroup.
    ///
    /// # Errors
    /// The errno of openat2(2) or write(2).
    pub fn write(&self, name: &str, value: &str) -> nix::Result<()> {
        write_own(self.dir()?, name, value.as_bytes())
    }

    /// The directory that it is in, and its name there.
    ///
    /// # Errors
    /// The errno of openat2(2).
    pub fn above(&self) -> nix::Result<(OwnedFd, &OsStr)> {
        let name = self.at.path.file_name().ok_or(Errno::EINVAL)?;
        let mount = open_mount(&self.at)?;
        match self.at.path.parent() {
            Some(above) if !above.as_os_str().is_empty() => {
                Ok((open_own(mount, above, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?, name))
            }
            _ => Ok((mount, name)),
        }
    }

    /// Whether this v1 hierarchy has `controller`.
    pub fn has(&self, controller: &str) -> bool {
        self.at.controllers.iter().any(|name| name == controller)
    }
}

/// The mount point of a hierarchy, checked to be a cgroup file system of its version (design rule 7).
fn open_mount(at: &GroupPath) -> nix::Result<OwnedFd> {
    let mount = open_given(&at.mount, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
    let magic = if at.controllers.is_empty() { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
    if fstatfs(&mount)?.filesystem_type() == magic { Ok(mount) } else { Err(Errno::EXDEV) }
}

/// How the init process or an exec process gets into the cgroup.
#[derive(Debug)]
pub struct CgroupEntry {
    /// For `CLONE_INTO_CGROUP`; there on a hybrid host too.
    pub v2_dir: Option<OwnedFd>,
    /// The `tasks` file of each v1 hierarchy, open for writing.
    pub v1_tasks: Vec<OwnedFd>,
}

impl CgroupEntry {
    /// Moves the calling process into every v1 cgroup. It must have no other threads.
    ///
    /// `0` in `tasks` is the one way into a v1 cgroup that does not wait for an RCU grace period: moving another
    /// process, or a thread group by `cgroup.procs`, takes cgroup_threadgroup_rwsem for writing (design.md section 3).
    ///
    /// # Errors
    /// The kernel refuses, as with a cpuset without CPUs.
    pub fn enter_self(&self) -> Result<()> {
        for tasks in &self.v1_tasks {
            match nix::unistd::write(tasks, b"0") {
                Ok(_) => {}
                Err(errno) => return Err(Error::from_errno("enter a cgroup: write 0 to tasks", errno)),
            }
        }
        Ok(())
    }
}

/// The sub-cgroups that `exec --cgroup` names: one for all hierarchies or one for some controllers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubCgroups {
    all: PathBuf,
    /// For the v2 hierarchy, in place of `all`.
    v2: Option<PathBuf>,
    by_controller: Vec<(String, PathBuf)>,
}

impl SubCgroups {
    /// Takes the values of `--cgroup`, `[CONTROLLER[,CONTROLLER...]:]PATH` (runc-exec(8)).
    ///
    /// # Errors
    /// A path that leads out of the container's cgroup, a controller named twice, a second path for all.
    pub fn parse(values: &[&str]) -> Result<Self> {
        let mut parsed = Self::default();
        for value in values {
            let wrong = |why: &str| Error::new(format!("--cgroup {value:?}: {why}"));
            let Some((controllers, path)) = value.split_once(':') else {
                if values.len() > 1 {
                    return Err(wrong("a path without controllers must be the only --cgroup"));
                }
                parsed.all = sub_path(value)?;
                continue;
            };
            let path = sub_path(path)?;
            for controller in controllers.split(',') {
                if controller.is_empty() {
                    return Err(wrong("a controller has no name"));
                }
                if parsed.by_controller.iter().any(|(name, _)| name == controller) {
                    return Err(wrong("a controller is named more than once"));
                }
                parsed.by_controller.push((controller.to_owned(), path.clone()));
            }
        }
        Ok(parsed)
    }

    fn below(&self, group: &Group) -> &Path {
        if group.at.controllers.is_empty() {
            return self.v2.as_ref().unwrap_or(&self.all);
        }
        let named = self.by_controller.iter().find(|(name, _)| group.has(name));
        named.map_or(&self.all, |(_, path)| path)
    }
}

/// A path below the container's cgroup: `/` is the cgroup itself, anything else is relative and goes only down
/// (security.md C8: by component, never by text).
fn sub_path(text: &str) -> Result<PathBuf> {
    if text == "/" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => append(&mut path, name),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(format!("--cgroup {text:?}: is not a sub-cgroup of the container's")));
            }
        }
    }
    Ok(path)
}

impl Cgroup {
    /// Makes the cgroup and puts its limits into force. What was made is removed again on failure.
    ///
    /// A cgroup that is there already is taken over, but not with processes inside, nor frozen, as in runc since 1.2:
    /// the container's end would be theirs (security.md F15).
    ///
    /// # Errors
    /// Which cgroup could not be made or which limit not be set, and why.
    pub fn create(plan: &CgroupPlan) -> Result<Self> {
        let mut made = Made::default();
        let result = Self::create_groups(plan, &mut made);
        if result.is_err() {
            made.undo();
        }
        result
    }

    fn create_groups(plan: &CgroupPlan, made: &mut Made) -> Result<Self> {
        let mut cgroup = Self { v1: Vec::with_capacity(plan.v1.len()), v2: None };
        for group in plan.v1.iter().chain(&plan.v2) {
            let is_v2 = group.at.controllers.is_empty();
            let enable = if is_v2 { Some((group.controllers.as_slice(), plan.v1.is_empty())) } else { None };
            let dir = match make_group(&group.at, enable, made) {
                // runc's ErrRootless: no path and no limits were asked for, so the caller's own cgroup will do.
                Err(error) if plan.optional && is_denied(&error) => continue,
                Err(error) if plan.rootless && is_denied(&error) => {
                    return Err(error.context("rootless: a cgroup is needed for cgroupsPath and for limits"));
                }
                other => other?,
            };
            set_limits(group, dir.as_fd(), plan.rootless)?;
            if let (true, Some(owner)) = (is_v2, plan.owner) {
                delegate(dir.as_fd(), owner)
                    .context(|| format!("give cgroup {} to the container", group.at.full().display()))?;
            }
            let group = Group::new(group.at.clone(), Some(dir));
            if is_v2 {
                cgroup.v2 = Some(group);
            } else {
                cgroup.v1.push(group);
            }
        }
        Ok(cgroup)
    }

    /// The cgroup that [`Self::paths`] was taken of. Nothing is opened yet.
    pub fn open(paths: &CgroupPaths) -> Self {
        let group = |at: &GroupPath| Group::new(at.clone(), None);
        Self { v1: paths.v1.iter().map(group).collect(), v2: paths.v2.as_ref().map(group) }
    }

    /// What finds it again.
    pub fn paths(&self) -> CgroupPaths {
        CgroupPaths {
            v1: self.v1.iter().map(|group| group.at.clone()).collect(),
            v2: self.v2.as_ref().map(|group| group.at.clone()),
        }
    }

    /// Whether the container has no cgroup of its own in any hierarchy.
    pub fn is_none(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    /// The way in for the init process, or for an exec process.
    ///
    /// # Errors
    /// The cgroup has gone.
    pub fn entry(&self) -> Result<CgroupEntry> {
        self.entry_below(&SubCgroups::default())
    }

    /// The way into sub-cgroups, for `exec --cgroup`.
    ///
    /// # Errors
    /// There is no such sub-cgroup.
    pub fn entry_below(&self, sub: &SubCgroups) -> Result<CgroupEntry> {
        let what = |group: &Group, below: &Path| {
            let mut path = group.at.full();
            append(&mut path, below);
            format!("open cgroup {}", path.display())
        };
        let mut v1_tasks = Vec::with_capacity(self.v1.len());
        for group in &self.v1 {
            let mut file = sub.below(group).to_path_buf();
            append(&mut file, "tasks");
            let open = || open_own(group.dir()?, &file, OFlag::O_WRONLY, Mode::empty());
            v1_tasks.push(open().context(|| what(group, &file))?);
        }
        let v2_dir = match &self.v2 {
            None => None,
            Some(group) => {
                let below = sub.below(group);
                let from = if below.as_os_str().is_empty() { Path::new(".") } else { below };
                let open = || open_own(group.dir()?, from, DIRECTORY, Mode::empty());
                Some(open().context(|| what(group, below))?)
            }
        };
        Ok(CgroupEntry { v2_dir, v1_tasks })
    }

    /// The way in beside the init process, given its `/proc/PID/cgroup`: for when [`Self::entry`] is refused with `EBUSY`
    /// because the container has moved its processes into sub-cgroups of its own and enabled controllers for them (v2's
    /// "No Internal Process Constraint"; an init system does so).
    ///
    /// # Errors
    /// The init process is not in the container's cgroup (security.md C8: compared by component), or that has gone.
    pub fn entry_beside(&self, init_cgroups: &[u8]) -> Result<CgroupEntry> {
        let mut sub = SubCgroups::default();
        if let Some(group) = &self.v2 {
            let text = String::from_utf8_lossy(init_cgroups);
            let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let below = Path::new(path).strip_prefix(&group.at.path).map_err(|_| {
                Error::new(format!(
                    "the init process is in cgroup /{path}, outside of {}",
                    group.at.full().display()
                ))
            })?;
            sub.v2 = Some(below.to_path_buf());
        }
        self.entry_below(&sub)
    }
}

/// Errors that mean "you may not", rootless (runc's isIgnorableError).
fn is_denied(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

/// Puts the limits and device rules of one hierarchy into force.
fn set_limits(group: &GroupPlan, dir: BorrowedFd<'_>, rootless: bool) -> Result<()> {
    let full = || group.at.full().display().to_string();
    apply(dir, &group.writes, RESOURCES).context(|| format!("cgroup {}", full()))?;
    let devices = match &group.devices {
        Devices::Elsewhere => Ok(()),
        Devices::Writes(writes) => apply(dir, writes, RESOURCES),
        Devices::Program(policy) => attach_program(dir, &policy.program()),
    };
    match devices {
        // A user namespace cannot make device nodes, and cannot set rules about them either.
        Err(error) if rootless && is_denied(&error) => Ok(()),
        other => other.context(|| format!("cgroup {}", full())),
    }
}

/// Gives the cgroup to the container's user, so that it can make sub-cgroups: the directory and those files that the
/// kernel says are safe to give away (cgroup-v2.rst, "Model of Delegation").
fn delegate(dir: BorrowedFd<'_>, owner: Uid) -> nix::Result<()> {
    let listed = match open_given(DELEGATED_FILES, OFlag::O_RDONLY, Mode::empty()) {
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

/// The directories made so far, for a rollback: the directory above and the name.
#[derive(Default)]
struct Made(Vec<(OwnedFd, PathBuf)>);

impl Made {
    /// Removes them, the last one first. What fails to go (someone else's cgroup is inside by now) stays.
    fn undo(self) {
        for (above, name) in self.0.iter().rev() {
            let _ = remove_dir(above, name);
        }
    }
}

/// Makes the directories of one group from the mount point down, each by the fd of the one above.
///
/// `enable` (v2): the controllers that are needed, and whether all others are enabled too.
fn make_group(at: &GroupPath, enable: Option<(&[String], bool)>, made: &mut Made) -> Result<OwnedFd> {
    let what = |path: &Path| format!("make cgroup {}", path.display());
    let mut reached = at.mount.clone();
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
        existed = make_directory(&dir, name, made).context(|| what(&reached))?;
        let next = open_own(&dir, name, DIRECTORY, Mode::empty()).context(|| what(&reached))?;
        if is_cpuset {
            inherit_cpuset(&dir, &next, existed).context(|| what(&reached))?;
        }
        dir = next;
    }
    if existed {
        refuse_in_use(&dir).context(|| format!("cgroup {}", reached.display()))?;
    }
    Ok(dir)
}

/// Whether it was there already.
fn make_directory(above: &OwnedFd, name: &OsStr, made: &mut Made) -> nix::Result<bool> {
    match mkdirat(above, name, DIRECTORY_MODE) {
        Ok(()) => {
            made.0.push((above.try_clone().map_err(|_| Errno::EMFILE)?, name.into()));
            Ok(false)
        }
        Err(Errno::EEXIST) => Ok(true),
        Err(errno) => Err(errno),
    }
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
    if missing.is_empty() || write_own(dir, "cgroup.subtree_control", missing.join(" ").as_bytes()).is_ok() {
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

/// Refuses a cgroup that others use.
fn refuse_in_use(dir: &OwnedFd) -> Result<()> {
    let procs = read_own(dir, "cgroup.procs", READ_LIMIT).context(|| "read cgroup.procs")?;
    let count = procs.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
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
