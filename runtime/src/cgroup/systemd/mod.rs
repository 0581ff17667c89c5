//! The systemd cgroup driver: a container is a transient scope of systemd's, in a slice (runc's `docs/systemd.md`).
//!
//! The scope is started with the container's process, which waits meanwhile; limits are unit properties, and are written to
//! the files as well: what systemd cannot express is there too, and what it writes again is the same. Delegation
//! (`Delegate=`) makes the cgroup skeg's to write to, and what is below it the container's.

mod annotations;
mod bus;
pub(super) mod properties;
mod value;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::systemd::bus::{Address, Bus};
use crate::cgroup::systemd::properties::Property;
use crate::cgroup::systemd::value::{Reader, Value};
use crate::error::{Context as _, Error, Result};
use crate::sys::path::{append, open_given, stat};

/// What systemd as PID 1 makes early at boot, and nobody else does (sd_booted(3)).
const BOOTED_WITH_SYSTEMD: &str = "/run/systemd/system";

/// The system manager's own socket: whoever is root to it owns it.
const PRIVATE_SOCKET: &str = "/run/systemd/private";

/// The slice of a container that names none, for the system's and for a user's instance, as in runc.
const DEFAULT_SLICE: [&str; 2] = ["system.slice", "user.slice"];

/// The start of a scope's name where `cgroupsPath` gives none.
const DEFAULT_PREFIX: &str = "skeg";

/// The longest name of a unit (`UNIT_NAME_MAX`), which names a directory too.
const NAME_LIMIT: usize = 255;

/// How often a scope is asked for: a unit of that name which has failed is in the way until it is reset.
const TRIES: u32 = 2;

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A `cgroupsPath` in systemd's form, `slice:prefix:name` (runc's `docs/systemd.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPath<'a> {
    /// The slice that the unit goes into; empty for the default one.
    pub slice: &'a str,
    /// The start of the scope's name; may be empty.
    pub prefix: &'a str,
    /// The rest of it.
    pub name: &'a str,
}

impl<'a> UnitPath<'a> {
    /// Takes `slice:prefix:name` apart; none where `path` has another form.
    pub fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.split(':');
        let unit = Self { slice: parts.next()?, prefix: parts.next()?, name: parts.next()? };
        let is_plain = |part: &str| !part.contains('/') && !part.chars().any(char::is_control);
        let plain = [unit.slice, unit.prefix, unit.name].into_iter().all(is_plain);
        (parts.next().is_none() && !unit.name.is_empty() && plain).then_some(unit)
    }

    /// The name of the scope, `PREFIX-NAME.scope` as in runc.
    fn unit_name(&self) -> std::result::Result<String, &'static str> {
        if self.name.ends_with(".slice") {
            return Err("a container is a scope, and cannot be a slice");
        }
        let name = format!("{}-{}.scope", self.prefix, self.name);
        // VALID_CHARS of systemd's unit-name.c.
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\');
        if name.len() > NAME_LIMIT || !name.chars().all(valid) {
            return Err("a unit's name has at most 255 of [a-zA-Z0-9:_.\\-]");
        }
        Ok(name)
    }
}

/// Where a slice is: `a-b.slice` is in `a.slice` (systemd.slice(5)), and `-.slice` is the top.
fn expand_slice(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::new();
    if stem == "-" {
        return Some(path);
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '.' | '\\');
    let mut reached = String::new();
    for part in stem.split('-') {
        if part.is_empty() || !part.chars().all(valid) {
            return None;
        }
        if !reached.is_empty() {
            reached.push('-');
        }
        reached.push_str(part);
        append(&mut path, format!("{reached}.slice"));
    }
    (slice.len() <= NAME_LIMIT).then_some(path)
}

/// A unit of a container that exists: the part of its state by which a later command finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Whether it is one of the user's own instance of systemd.
    #[serde(default)]
    pub user: bool,
}

/// A scope, decided but not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitPlan {
    pub unit: Unit,
    pub slice: String,
    /// Its cgroup, counted from the top of each hierarchy.
    pub path: PathBuf,
    pub properties: Vec<Property>,
}

impl UnitPlan {
    /// The scope of container `id`.
    ///
    /// # Errors
    /// A `cgroups_path` that names no scope; an annotation that is no property.
    pub fn new(
        instance: &Instance,
        cgroups_path: &str,
        id: &str,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self> {
        let wrong = |why: &str| Error::new(format!("/linux/cgroupsPath: {cgroups_path:?}: {why}"));
        let at = match cgroups_path {
            "" => UnitPath { slice: "", prefix: DEFAULT_PREFIX, name: id },
            path => UnitPath::parse(path)
                .ok_or_else(|| wrong("must be \"slice:prefix:name\" with --systemd-cgroup"))?,
        };
        let slice = if at.slice.is_empty() { DEFAULT_SLICE[usize::from(instance.user)] } else { at.slice };
        let name = at.unit_name().map_err(wrong)?;
        let below = expand_slice(slice).ok_or_else(|| {
            wrong(&format!("{slice:?}: must be a slice's name such as \"machine.slice\" or \"a-b.slice\""))
        })?;
        let mut path = instance.root.strip_prefix("/").unwrap_or(&instance.root).to_path_buf();
        append(&mut path, below);
        append(&mut path, &name);
        let mut properties = vec![
            Property::new("Description", Value::text(format!("skeg container {id}"))),
            Property::new("Slice", Value::text(slice)),
            Property::new("Delegate", Value::Bool(true)),
            // Not ordered before the shutdown of what a container needs, which would end it first.
            Property::new("DefaultDependencies", Value::Bool(false)),
            // One that has failed is not kept, so that its name can be had again.
            Property::new("CollectMode", Value::text("inactive-or-failed")),
        ];
        let accounting = ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"];
        properties.extend(accounting.map(|name| Property::new(name, Value::Bool(true))));
        properties.extend(annotations.map(annotations::properties).transpose()?.unwrap_or_default());
        Ok(Self { unit: Unit { name, user: instance.user }, slice: slice.to_owned(), path, properties })
    }
}

/// What is known of a running instance of systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The cgroup of its slices, `/` for the system's.
    pub root: PathBuf,
    /// Its version, such as 257.
    pub version: u32,
    /// Whether it is the user's own.
    pub user: bool,
}

/// An instance of systemd, connected.
#[derive(Debug)]
pub struct Manager {
    /// What is known of it.
    pub instance: Instance,
    bus: Bus,
}

impl Manager {
    /// The instance that makes the caller's containers: the system's for its root, otherwise the user's own.
    ///
    /// # Errors
    /// This host, or this user, has none; it does not answer.
    pub fn of_caller(rootless: bool) -> Result<Self> {
        Self::connect(rootless || !owns_system_manager())
    }

    /// # Errors
    /// As for [`Self::of_caller`].
    pub fn connect(user: bool) -> Result<Self> {
        let mut bus = if user { connect_user() } else { connect_system() }?;
        let [root, version] = bus.properties(["ControlGroup", "Version"])?;
        // `257.8-1`, `v258~rc1`
        let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let version = digits.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or_default();
        let root = PathBuf::from(if root.is_empty() { "/" } else { root.as_str() });
        Ok(Self { instance: Instance { root, version, user }, bus })
    }

    /// Starts the scope with the process inside, and waits until it is there.
    ///
    /// # Errors
    /// systemd refuses, as when a unit of that name runs already; the job fails or takes too long.
    pub(super) fn start(&mut self, plan: &UnitPlan, pid: Pid) -> Result<()> {
        let name = &plan.unit.name;
        let what = || format!("start {name} in {}", plan.slice);
        let pid = u32::try_from(pid.as_raw()).unwrap_or_default();
        let pids = Property::new("PIDs", Value::Array("u".to_owned(), vec![Value::U32(pid)]));
        let properties: Vec<_> = plan.properties.iter().chain([&pids]).map(on_bus).collect();
        let arguments = [
            Value::text(name),
            Value::text("replace"),
            Value::Array("(sv)".to_owned(), properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        for left in (0..TRIES).rev() {
            match self.bus.call("StartTransientUnit", &arguments) {
                Ok(job) => return self.finish(&job).context(what),
                Err(fault) if left > 0 && fault.is(UNIT_EXISTS) => {
                    // runc#3780: one that has failed goes by this; one that runs stays, and is the error of the next try.
                    let _ = self.bus.call("ResetFailedUnit", &[Value::text(name)]);
                }
                Err(fault) => return Err(Error::from(fault).context(what())),
            }
        }
        Ok(())
    }

    /// Stops the unit; one that has gone was what was wanted.
    ///
    /// # Errors
    /// systemd refuses; the job fails or takes too long.
    pub(super) fn stop(&mut self, unit: &Unit) -> Result<()> {
        let what = || format!("stop {}", unit.name);
        match self.bus.call("StopUnit", &[Value::text(&unit.name), Value::text("replace")]) {
            Ok(job) => self.finish(&job).context(what),
            Err(fault) if fault.is(NO_SUCH_UNIT) => Ok(()),
            Err(fault) => Err(Error::from(fault).context(what())),
        }
    }

    /// Sets properties of a unit that runs, until it ends, and waits until systemd has written them to the files.
    ///
    /// # Errors
    /// systemd refuses.
    pub(super) fn set(&mut self, unit: &Unit, properties: &[Property]) -> Result<()> {
        let properties = properties.iter().map(on_bus).collect();
        let arguments =
            [Value::text(&unit.name), Value::Bool(true), Value::Array("(sv)".to_owned(), properties)];
        let mut set = self.bus.call("SetUnitProperties", &arguments);
        if set.is_ok() {
            // It answers before it writes, and writes before it reads the next call (`manager_loop`).
            set = self.bus.call("GetUnit", &[Value::text(&unit.name)]);
        }
        set.map(drop).map_err(Error::from).context(|| format!("set properties of {}", unit.name))
    }

    /// Moves a process into the unit's cgroup, or `below` it: for a caller who may write to that cgroup, but not to the one
    /// above it and its own.
    ///
    /// # Errors
    /// systemd refuses.
    pub(super) fn attach(&mut self, unit: &Unit, below: &Path, pid: Pid) -> Result<()> {
        let mut path = PathBuf::from("/");
        append(&mut path, below);
        let pid = u32::try_from(pid.as_raw()).unwrap_or_default();
        let arguments = [
            Value::text(&unit.name),
            Value::text(path.to_string_lossy()),
            Value::Array("u".to_owned(), vec![Value::U32(pid)]),
        ];
        let attached = self.bus.call("AttachProcessesToUnit", &arguments).map_err(Error::from);
        attached.map(drop).context(|| format!("move process {pid} into {}", unit.name))
    }

    /// Waits for the job that an answer names.
    fn finish(&mut self, answer: &[u8]) -> Result<()> {
        let job = Reader::new(answer).text().ok_or_else(|| Error::new("systemd named no job"))?;
        match self.bus.wait_for_job(&job)?.as_str() {
            "done" => Ok(()),
            // done, canceled, timeout, failed, dependency, skipped (org.freedesktop.systemd1(5)).
            other => Err(Error::new(format!("systemd's job ended with {other:?}"))),
        }
    }
}

/// `(sv)`
fn on_bus(property: &Property) -> Value {
    Value::Struct(vec![Value::text(&property.name), Value::Variant(Box::new(property.value.clone()))])
}

/// Whether the caller is the system manager's root. In a user namespace that is not a container with a systemd of its own
/// (rootless engines) root is a user, and the socket is somebody else's.
fn owns_system_manager() -> bool {
    let socket = open_given(PRIVATE_SOCKET, OFlag::O_PATH, Mode::empty());
    match socket.and_then(stat) {
        Ok(stat) => stat.st_uid == nix::unistd::geteuid().as_raw(),
        // The system's error says what is missing.
        Err(_) => true,
    }
}

fn connect_system() -> Result<Bus> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_given(BOOTED_WITH_SYSTEMD, flags, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Error::new(format!(
            "--systemd-cgroup: systemd is not running as PID 1 on this host (no {BOOTED_WITH_SYSTEMD}): leave the option \
             out to use the cgroup file system"
        ))),
        Err(errno) => Err(Error::from_errno(format!("open {BOOTED_WITH_SYSTEMD}"), errno)),
        Ok(_) => Bus::connect(&Address::system()).context(|| "--systemd-cgroup"),
    }
}

/// peers.md B 34: which bus, which variable, what to do.
fn connect_user() -> Result<Bus> {
    let addresses =
        Address::user(std::env::var_os("XDG_RUNTIME_DIR"), std::env::var_os("DBUS_SESSION_BUS_ADDRESS"));
    if addresses.is_empty() {
        return Err(Error::new(
            "--systemd-cgroup: without root the user's own systemd makes the cgroups, and neither XDG_RUNTIME_DIR nor \
             DBUS_SESSION_BUS_ADDRESS says where it is: set XDG_RUNTIME_DIR=/run/user/UID, and start it with \
             `loginctl enable-linger` where there is no session",
        ));
    }
    Bus::connect(&addresses)
        .context(|| "--systemd-cgroup: the user's own systemd (start it with `loginctl enable-linger`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(user: bool) -> Instance {
        let root = if user { "/user.slice/user-1000.slice/user@1000.service" } else { "/" };
        Instance { root: root.into(), version: 257, user }
    }

    fn placed(path: &str, user: bool) -> std::result::Result<String, String> {
        match UnitPlan::new(&instance(user), path, "web", None) {
            Ok(plan) => Ok(plan.path.display().to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn unit_paths_have_three_plain_parts() {
        let unit = UnitPath::parse("system.slice:skeg:web").unwrap();
        assert_eq!((unit.slice, unit.prefix, unit.name), ("system.slice", "skeg", "web"));
        assert!(UnitPath::parse(":skeg:web").is_some() && UnitPath::parse("::web").is_some());
        for path in ["", "/web", "a:b", "a:b:", "a:b:c:d", "a/b:c:d", "a:b:c\nd"] {
            assert_eq!(UnitPath::parse(path), None, "{path:?}");
        }
    }

    /// peers.md A2, cgroupsPath; runc's `ExpandSlice` and its defaults.
    #[test]
    fn scopes_are_where_systemd_puts_them() {
        for (path, user, expected) in [
            ("", false, "system.slice/skeg-web.scope"),
            (":cri:web", false, "system.slice/cri-web.scope"),
            ("-.slice:cri:web", false, "cri-web.scope"),
            ("machine.slice::web", false, "machine.slice/-web.scope"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:0a",
                false,
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-0a.scope",
            ),
            ("", true, "user.slice/user-1000.slice/user@1000.service/user.slice/skeg-web.scope"),
        ] {
            assert_eq!(placed(path, user).as_deref(), Ok(expected), "{path:?}");
        }
    }

    /// security.md F2: a path of the config leads to no other cgroup than the one that it names.
    #[test]
    fn f2_names_that_systemd_does_not_take_are_errors() {
        for path in [
            "/web",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "a-.slice:p:n",
            ".slice:p:n",
            "a:p:n",
            "...slice/x:p:n",
            "a.slice:p:x.slice",
            "a.slice:p:b+c",
            "a.slice:p q:n",
            "a@b.slice:p:n",
        ] {
            let error = placed(path, false).unwrap_err();
            assert!(error.starts_with("/linux/cgroupsPath: "), "{path}: {error}");
        }
        assert!(placed(&format!(":p:{}", "n".repeat(250)), false).is_err());
    }

    #[test]
    fn annotations_come_after_what_they_change() {
        let annotations = HashMap::from([("org.systemd.property.Delegate".to_owned(), "false".to_owned())]);
        let plan = UnitPlan::new(&instance(false), "", "web", Some(&annotations)).unwrap();
        let delegate: Vec<_> = plan
            .properties
            .iter()
            .filter(|one| one.name == "Delegate")
            .map(|one| one.value.clone())
            .collect();
        assert_eq!(delegate, [Value::Bool(true), Value::Bool(false)], "the last one counts");
    }
}
