//! What is recorded of a container, and the status that is derived from it. `dir.rs` has the directories.
//!
//! `ROOT/ID/` holds what skeg knows of one container, and each transition is one directory operation:
//!
//! | operation | status from then on |
//! |---|---|
//! | `mkdir ROOT/ID` | creating |
//! | `rename start.fifo.new start.fifo` | created |
//! | `unlink start.fifo` (the winner is the only starter) | running |
//! | `rmdir ROOT/ID` | gone |
//!
//! Nothing says "stopped" or "paused": that is read from the process (pid, start time, boot id) and from the freezer
//! each time, so that no crash can leave a wrong status behind. Files are opened from the directory's fd, without
//! following a link.

mod dir;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Hooks, State as OciState};
use serde::{Deserialize, Serialize};

pub use self::dir::{
    ContainerDir, FILE_LIMIT, GATE, GATE_CREATING, Lock, NOTIFY, NOTIFY_SOCKET, STARTED, StateRoot,
};
use crate::cgroup::{Cgroup, CgroupPaths};
use crate::error::{CONTAINER_DOES_NOT_EXIST, Context as _, Error, Result};
use crate::rdt;
use crate::sys::pid;
use crate::sys::procfs::{self, Procfs};

/// The longest container id: it names directories (NAME_MAX).
const ID_LIMIT: usize = 255;

/// A container id: letters, digits, `_`, `+`, `-` and `.`, at most 255 of them. The first is a letter, a digit or
/// `_`, which keeps out `.`, `..`, hidden files and what looks like a flag (row G1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks an id before anything is done with it.
    ///
    /// # Errors
    /// What an id may consist of.
    pub fn parse(id: &str) -> Result<Self> {
        if id.is_empty() {
            // runc's words.
            return Err(Error::new("container id cannot be empty"));
        }
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let allowed = |byte: u8| first(byte) || matches!(byte, b'+' | b'-' | b'.');
        if id.len() > ID_LIMIT || !first(id.as_bytes()[0]) || !id.bytes().all(allowed) {
            let shown: String = id.chars().take(64).collect();
            return Err(Error::new(format!(
                "invalid container ID format: {shown:?}: must be 1 to {ID_LIMIT} of [a-zA-Z0-9_+.-] and begin with \
                 a letter, a digit or `_`"
            )));
        }
        Ok(Self(id.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The status of a container (runtime.md, state; `paused` is runc's addition that managers know).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its `create` has not ended.
    Creating,
    /// It waits for `start`.
    Created,
    /// Its process runs.
    Running,
    /// Its process runs, and its cgroup is frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    /// The word that `state` and `list` print.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `create` records and later commands read. The bundle is not read again (row G4).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// `ociVersion` of the configuration.
    pub oci_version: String,
    /// The container's id, again: a directory that was renamed by hand is noticed.
    pub id: String,
    /// The init process, as the runtime's PID namespace numbers it; 0 before there is one.
    pub pid: i32,
    /// When the init process started: clock ticks after boot.
    pub start_time: u64,
    /// The boot that `pid` and `start_time` belong to.
    pub boot_id: String,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When `create` made the container (RFC 3339).
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    /// The configuration's annotations.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
    /// The types of the namespaces that the container has of its own or has joined: `CLONE_NEW*` bits.
    pub namespaces: u64,
    /// Whether it has a PID namespace of its own, whose other processes end with the init process.
    #[serde(default)]
    pub own_pid_namespace: bool,
    /// Its cgroups; empty where it has none of its own.
    pub cgroup: CgroupPaths,
    /// Where it is in resctrl, if it asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<rdt::Group>,
    /// Hooks that later commands run.
    pub hooks: Option<Hooks>,
}

impl State {
    /// Reads the record of the container `id`.
    ///
    /// # Errors
    /// It is torn, of another container, or has a pid that is none (row G3).
    pub fn parse(json: &[u8], id: &str) -> Result<Self> {
        let state: Self = serde_json::from_slice(json).map_err(|error| Error::new(error.to_string()))?;
        if state.id != id {
            return Err(Error::new(format!("it is that of container {:?}", state.id)));
        }
        if state.pid < 0 {
            return Err(Error::new(format!("/pid: {}: must be a process id", state.pid)));
        }
        Ok(state)
    }

    /// The state as the specification has it (runtime.md, state), for hooks and seccomp agents: without the pid once the
    /// container is stopped.
    ///
    /// # Errors
    /// None in practice: the builder has a default for everything.
    pub fn to_oci(&self, status: Status) -> Result<OciState> {
        let oci = match status {
            Status::Creating => ContainerState::Creating,
            Status::Created => ContainerState::Created,
            Status::Running | Status::Paused => ContainerState::Running,
            Status::Stopped => ContainerState::Stopped,
        };
        let mut state = OciState::default();
        state
            .set_version(self.oci_version.clone())
            .set_id(self.id.clone())
            .set_status(oci)
            .set_pid((status != Status::Stopped && self.pid > 0).then_some(self.pid))
            .set_bundle(self.bundle.clone())
            .set_annotations((!self.annotations.is_empty()).then(|| self.annotations.clone()));
        Ok(state)
    }

    /// The same as JSON, for a hook's stdin.
    ///
    /// # Errors
    /// None in practice: there is nothing in it that JSON cannot hold.
    pub fn to_hooks(&self, status: Status) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.to_oci(status)?)
            .map_err(|error| Error::new(format!("describe the container to a hook: {error}")))
    }
}

impl State {
    /// The same for the status created, up to the number of the process and behind it: the process that runs startContainer
    /// hooks puts its own there, as it is numbered in the container's PID namespace.
    ///
    /// # Errors
    /// None that a valid configuration leads to.
    pub fn to_hooks_without_pid(&self) -> Result<[Vec<u8>; 2]> {
        /// No process has it; no string of the state looks like it, in which quotes are escaped.
        const PLACE: &str = "\"pid\":2147483647";
        let mut state = self.clone();
        state.pid = i32::MAX;
        let text = state.to_hooks(Status::Created)?;
        let at = text.windows(PLACE.len()).position(|window| window == PLACE.as_bytes());
        let at = at.ok_or_else(|| Error::new("describe the container to a hook: it has no pid"))?;
        let (first, rest) = text.split_at(at + "\"pid\":".len());
        Ok([first.to_vec(), rest.get("2147483647".len()..).unwrap_or_default().to_vec()])
    }
}

/// A container that has a recorded state.
#[derive(Debug)]
pub struct Container {
    /// Its state directory.
    pub dir: ContainerDir,
    /// What `create` recorded.
    pub state: State,
}

impl Container {
    /// Loads the container `id` of the state root at `root`.
    ///
    /// # Errors
    /// [`CONTAINER_DOES_NOT_EXIST`], also while `create` has recorded nothing; a state that cannot be read.
    pub fn load(root: &Path, id: &ContainerId) -> Result<Self> {
        let root = StateRoot::open(root)?.ok_or_else(|| Error::new(CONTAINER_DOES_NOT_EXIST))?;
        let dir = root.container(id)?;
        let state = dir.read_state()?.ok_or_else(|| Error::new(CONTAINER_DOES_NOT_EXIST))?;
        Ok(Self { dir, state })
    }

    /// The init process, where it is still the one that `create` made: opened by number first, then compared with the
    /// recorded start time and boot, so that a number that was given away again is never taken for it (row F7).
    ///
    /// # Errors
    /// What opening or reading said, but for a process that has gone: `None`.
    pub fn init(&self) -> Result<Option<OwnedFd>> {
        let what = || format!("look for the init process of container {}", self.dir.id());
        if self.state.pid == 0 {
            return Ok(None);
        }
        let number = Pid::from_raw(self.state.pid);
        let pidfd = match pid::open(number) {
            Ok(pidfd) => pidfd,
            Err(Errno::ESRCH) => return Ok(None),
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        };
        let procfs = Procfs::mounted().context(what)?;
        match pid::start_time(&procfs, number) {
            Ok((start_time, true)) if start_time == self.state.start_time => {}
            Ok(_) | Err(Errno::ENOENT | Errno::ESRCH) => return Ok(None),
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        }
        Ok((procfs::boot_id(&procfs).context(what)? == self.state.boot_id).then_some(pidfd))
    }

    /// The status now.
    ///
    /// # Errors
    /// What looking at the process or the freezer said.
    pub fn status(&self) -> Result<Status> {
        if self.init()?.is_none() {
            let unborn = self.state.pid == 0 && self.dir.is_being_created()?;
            return Ok(if unborn { Status::Creating } else { Status::Stopped });
        }
        if self.dir.has(GATE_CREATING) {
            return Ok(Status::Creating);
        }
        let created = self.dir.has(GATE);
        let frozen = Cgroup::open(&self.state.cgroup)
            .is_frozen()
            .context(|| format!("read the freezer of container {}", self.dir.id()))?;
        Ok(match (frozen, created) {
            // runc's order: a created container can be paused too.
            (true, _) => Status::Paused,
            (false, true) => Status::Created,
            (false, false) => Status::Running,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md G1.
    #[test]
    fn g1_ids() {
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "+a",
            "../x",
            "/",
            "a/b",
            "a b",
            "a\nb",
            "a\0",
            "ä",
            &"x".repeat(4096),
        ] {
            assert!(ContainerId::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "web-1", "a.b_c+d", "_x", "0", &"x".repeat(255)] {
            assert!(ContainerId::parse(good).is_ok(), "{good:?}");
        }
    }
}
