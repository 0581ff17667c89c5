//! A container's cgroup as a scope of systemd's: started around its process, given limits, kept in step with its unit.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::cgroup::apply::{READ_LIMIT, Write};
use crate::cgroup::make::refuse_leftover;
use crate::cgroup::place::{Cgroup, Group, SubCgroups};
use crate::cgroup::plan::CgroupPlan;
use crate::cgroup::systemd::Manager;
use crate::cgroup::systemd::properties::{Property, of_writes};
use crate::error::{Context as _, Error, Result};
use crate::sys::path::{read_own, write_own};

impl Cgroup {
    /// Starts the container's scope with the process inside. What it returns has no limits of its own yet: that is
    /// [`Self::take_over`]'s, so that a failure there finds something to take back.
    ///
    /// # Errors
    /// What systemd said; its cgroup is there already, and in use or frozen. Nothing is left then.
    pub fn start_scope(plan: &CgroupPlan, manager: &mut Manager, pid: Pid) -> Result<Self> {
        let unit = plan.unit.as_ref().ok_or_else(|| Error::new("no scope was planned"))?;
        plan.v1.iter().chain(&plan.v2).try_for_each(|planned| refuse_leftover(&planned.at))?;
        manager.start(unit, pid)?;
        Ok(Self::open(&plan.paths()))
    }

    /// Writes the limits into the scope's cgroup, and makes it in those hierarchies that systemd does not manage.
    ///
    /// # Errors
    /// Which limit could not be set, and why; systemd put the process elsewhere.
    pub fn take_over(&mut self, plan: &CgroupPlan, manager: &mut Manager, pid: Pid) -> Result<()> {
        *self = Self::around(plan, pid)?;
        let version = manager.instance.version;
        let mut late = Vec::new();
        for (group, planned) in self.v1.iter().chain(&self.v2).zip(plan.v1.iter().chain(&plan.v2)) {
            // The weights of devices: by which file is known only now.
            let io: Vec<Write> =
                planned.writes.iter().filter(|write| write.file == "io.bfq.weight").cloned().collect();
            late.extend(of_writes(&io, version, &|file| group.now(file)));
        }
        match &self.unit {
            Some(unit) if !late.is_empty() => manager.set(unit, &late),
            _ => Ok(()),
        }
    }

    /// Moves a process into the scope, for an `exec` that may not do so itself (rootless, from outside of what the user's
    /// own systemd manages).
    ///
    /// # Errors
    /// systemd refuses, or there is no scope.
    pub fn attach(&self, sub: &SubCgroups, pid: Pid) -> Result<()> {
        let unit = self.unit.as_ref().ok_or_else(|| Error::new("the container is no unit of systemd's"))?;
        Manager::connect(unit.user)?.attach(unit, sub.in_v2(), pid)
    }

    /// Tells the unit of new limits, after they were written.
    ///
    /// # Errors
    /// systemd refuses.
    pub(super) fn tell_unit(&self, manager: Option<Manager>, properties: &[Property]) -> Result<()> {
        match (&self.unit, manager) {
            (Some(unit), Some(mut manager)) if !properties.is_empty() => manager.set(unit, properties),
            _ => Ok(()),
        }
    }

    /// Ends the unit. Its processes have gone, and by then systemd mostly has noticed.
    ///
    /// # Errors
    /// systemd refuses, or cannot be reached.
    pub(super) fn stop_unit(&self) -> Result<()> {
        self.unit.as_ref().map_or(Ok(()), |unit| Manager::connect(unit.user)?.stop(unit))
    }
}

impl Group {
    /// What stands in a file; none where there is no such file.
    pub(super) fn now(&self, file: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read(file).ok()?).into_owned())
    }
}

/// Puts the process into a cgroup beside the one that systemd put it in; `is_systemds`: checks that it did.
pub(super) fn admit(dir: BorrowedFd<'_>, pid: Pid, is_systemds: bool) -> Result<()> {
    let what = || "move the container's process into it";
    let inside = read_own(dir, "cgroup.procs", READ_LIMIT).context(what)?;
    let wanted = pid.to_string();
    if inside.split(|&byte| byte == b'\n').any(|line| line == wanted.as_bytes()) {
        return Ok(());
    }
    if is_systemds {
        return Err(Error::from_errno("systemd did not put the container's process there", Errno::ESRCH));
    }
    write_own(dir, "cgroup.procs", wanted.as_bytes()).context(what)
}
