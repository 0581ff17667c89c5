//! Where a container's cgroup is: found again, opened, entered.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use crate::cgroup::apply::READ_LIMIT;
use crate::cgroup::systemd::Unit;
use crate::error::{Context as _, Error, Result};
use crate::sync::Channel;
use crate::sys::path::{append, open_given, open_own, read_own, write_own};

/// A directory that is read, written below and handed to clone3(2) and bpf(2).
pub(super) const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

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
    /// The unit that it is, where systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

/// A container's cgroup in every hierarchy. Empty where it has none; every operation is then a no-op or says so.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) v1: Vec<Group>,
    pub(super) v2: Option<Group>,
    pub(super) unit: Option<Unit>,
}

/// The cgroup in one hierarchy, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Group {
    pub at: GroupPath,
    dir: OnceCell<OwnedFd>,
    /// The directory that it is in.
    above: OnceCell<OwnedFd>,
}

impl Group {
    pub fn new(at: GroupPath) -> Self {
        Self { at, dir: OnceCell::new(), above: OnceCell::new() }
    }

    /// With both directories open, as they have just been made or found.
    pub fn opened(at: GroupPath, above: OwnedFd, dir: OwnedFd) -> Self {
        Self { at, dir: OnceCell::from(dir), above: OnceCell::from(above) }
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
    pub fn above(&self) -> nix::Result<(BorrowedFd<'_>, &OsStr)> {
        let name = self.at.path.file_name().ok_or(Errno::EINVAL)?;
        if self.above.get().is_none() {
            let mount = open_mount(&self.at)?;
            let above = match self.at.path.parent() {
                Some(above) if !above.as_os_str().is_empty() => {
                    open_own(mount, above, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?
                }
                _ => mount,
            };
            let _ = self.above.set(above);
        }
        Ok((self.above.get().map(AsFd::as_fd).ok_or(Errno::EBADF)?, name))
    }

    /// Whether this v1 hierarchy has `controller`.
    pub fn has(&self, controller: &str) -> bool {
        self.at.controllers.iter().any(|name| name == controller)
    }
}

/// The mount point of a hierarchy, checked to be a cgroup file system of its version.
pub(super) fn open_mount(at: &GroupPath) -> nix::Result<OwnedFd> {
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
    /// The rest of the cgroup is made while the process is under way: the runtime says when, and sends the `tasks` files
    /// then, or has moved the process itself.
    pub later: bool,
}

impl CgroupEntry {
    /// For a process that systemd moves into its cgroup.
    pub fn by_systemd() -> Self {
        Self { v2_dir: None, v1_tasks: Vec::new(), later: true }
    }

    /// Brings the calling process into its cgroup.
    ///
    /// # Errors
    /// The kernel refuses, as with a cpuset without CPUs; the runtime has ended.
    pub fn enter(&self, channel: &Channel) -> Result<()> {
        if self.later { enter_all(&channel.receive_placed()?) } else { enter_all(&self.v1_tasks) }
    }
}

/// Moves the calling process into every v1 cgroup. It must have no other threads.
///
/// `0` in `tasks` is the one way into a v1 cgroup that does not wait for an RCU grace period: moving another
/// process, or a thread group by `cgroup.procs`, takes cgroup_threadgroup_rwsem for writing (kernel/cgroup/cgroup.c).
fn enter_all(tasks: &[OwnedFd]) -> Result<()> {
    for tasks in tasks {
        match nix::unistd::write(tasks, b"0") {
            Ok(_) => {}
            Err(errno) => return Err(Error::from_errno("enter a cgroup: write 0 to tasks", errno)),
        }
    }
    Ok(())
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

    /// The one in the v2 hierarchy.
    pub(super) fn in_v2(&self) -> &Path {
        self.v2.as_ref().unwrap_or(&self.all)
    }

    fn below(&self, group: &Group) -> &Path {
        if group.at.controllers.is_empty() {
            return self.in_v2();
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
                // runc's words.
                return Err(Error::new(format!("--cgroup: {text} is not a sub cgroup path")));
            }
        }
    }
    Ok(path)
}

fn procs_of(below: &Path) -> PathBuf {
    let mut file = below.to_path_buf();
    append(&mut file, "cgroup.procs");
    file
}

/// In runc's words, with the file that it writes to.
fn adding(group: &Group, file: &Path) -> String {
    let mut path = group.at.full();
    append(&mut path, file);
    format!("error adding pid of the process to cgroups: {}", path.display())
}

impl Cgroup {
    /// The cgroup that [`Self::paths`] was taken of. Nothing is opened yet.
    pub fn open(paths: &CgroupPaths) -> Self {
        let group = |at: &GroupPath| Group::new(at.clone());
        let unit = paths.unit.clone();
        Self { v1: paths.v1.iter().map(group).collect(), v2: paths.v2.as_ref().map(group), unit }
    }

    /// What finds it again.
    pub fn paths(&self) -> CgroupPaths {
        CgroupPaths {
            v1: self.v1.iter().map(|group| group.at.clone()).collect(),
            v2: self.v2.as_ref().map(|group| group.at.clone()),
            unit: self.unit.clone(),
        }
    }

    /// Whether the container has no cgroup of its own in any hierarchy.
    pub fn is_none(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    /// Whether it is a unit of systemd's.
    pub fn is_unit(&self) -> bool {
        self.unit.is_some()
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
        let is_known = |name: &str| self.v1.iter().any(|group| group.has(name));
        if let Some((name, _)) = sub.by_controller.iter().find(|(name, _)| !is_known(name)) {
            // runc's words.
            return Err(Error::new(format!("--cgroup: unknown controller {name}")));
        }
        let mut v1_tasks = Vec::with_capacity(self.v1.len());
        for group in &self.v1 {
            let below = sub.below(group);
            let mut file = below.to_path_buf();
            // A caller who names a sub-cgroup is told of the file that runc writes to, and it may as well be that one: the
            // grace period that `tasks` spares is of no account there.
            append(&mut file, if below.as_os_str().is_empty() { "tasks" } else { "cgroup.procs" });
            let open = || open_own(group.dir()?, &file, OFlag::O_WRONLY, Mode::empty());
            v1_tasks.push(open().context(|| adding(group, &file))?);
        }
        let v2_dir = match &self.v2 {
            None => None,
            Some(group) => {
                let below = sub.below(group);
                let from = if below.as_os_str().is_empty() { Path::new(".") } else { below };
                let open = || open_own(group.dir()?, from, DIRECTORY, Mode::empty());
                Some(open().context(|| adding(group, &procs_of(below)))?)
            }
        };
        Ok(CgroupEntry { v2_dir, v1_tasks, later: false })
    }

    /// What was being done, for when the kernel does not let a process into the v2 cgroup.
    pub fn entry_refused(&self, sub: &SubCgroups) -> String {
        let adding_to = |group: &Group| adding(group, &procs_of(sub.below(group)));
        self.v2.as_ref().map_or_else(|| "clone the process".to_owned(), adding_to)
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
