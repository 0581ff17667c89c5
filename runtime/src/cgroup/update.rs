//! New limits for a cgroup that is in use.

use nix::errno::Errno;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::cgroup::apply::{Write, apply};
use crate::cgroup::place::{Cgroup, Group};
use crate::cgroup::plan::{invalid, limits};
use crate::cgroup::systemd::Manager;
use crate::cgroup::systemd::properties::{is_overruled, of_writes, round_quota};
use crate::error::{Context as _, Error, Result};
use crate::sys::path::write_own;

/// Resources of an update are a document of their own, so that its pointers start at its root.
const BASE: &str = "";

impl Cgroup {
    /// Sets the limits that `resources` name and leaves all others as they are. Where one is refused, those set before
    /// it are set back.
    ///
    /// Device rules are left alone whatever `resources` say, as in runc: an update never widens what a container may
    /// open (security.md D8).
    ///
    /// # Errors
    /// A value that cannot be had, with its JSON pointer in `resources`; the file that refused it, and why.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        if self.is_none() {
            return Err(Error::new("the container has no cgroup of its own"));
        }
        let mut resources = resources.clone();
        let v1_with = |name: &str| self.v1.iter().position(|group| group.has(name));
        if let Some(group) = &self.v2 {
            let what = || format!("read limits of {}", group.at.full().display());
            if let (None, Some(cpu)) = (v1_with("cpu"), resources.cpu_mut()) {
                complete_cpu(cpu, |file| current(group, file)).context(what)?;
            }
            if let (None, Some(memory)) = (v1_with("memory"), resources.memory_mut()) {
                check_usage(group, memory)?;
                complete_memory(memory, |file| current(group, file)).context(what)?;
            }
        }
        let limits = limits(&resources, self.v1.len(), &v1_with, self.v2.is_some(), BASE)?;
        let manager = self.unit.as_ref().map(|unit| Manager::connect(unit.user)).transpose()?;
        let mut properties = Vec::new();
        let groups = self.v1.iter().zip(limits.v1).chain(self.v2.iter().zip([limits.v2]));
        let mut before: Vec<Saved<'_>> = Vec::new();
        let mut overruled = Vec::new();
        for (group, mut writes) in groups.filter(|(_, writes)| !writes.is_empty()) {
            let now = |file: &str| group.now(file);
            if manager.is_some() {
                round_quota(&mut writes, &now);
            }
            let full = || format!("cgroup {}", group.at.full().display());
            let dir = group.dir().context(full)?;
            if group.at.controllers.is_empty() && !self.v1.is_empty() {
                group.enable(&limits.v2_controllers).context(full)?;
            }
            before.push(Saved { group, values: present(group, &writes) });
            if let Err(error) = apply(dir, &writes, BASE) {
                before.iter().rev().for_each(Saved::restore);
                return Err(error.context(full()));
            }
            if let Some(manager) = &manager {
                properties.extend(of_writes(&writes, manager.instance.version, &now));
                writes.retain(is_overruled);
                overruled.push((dir, writes));
            }
        }
        self.tell_unit(manager, &properties)
            .and_then(|()| overruled.iter().try_for_each(|(dir, writes)| apply(*dir, writes, BASE)))
            .inspect_err(|_| before.iter().rev().for_each(Saved::restore))
    }
}

/// What stood in the files of one group before they were written.
struct Saved<'a> {
    group: &'a Group,
    values: Vec<(String, Vec<u8>)>,
}

impl Saved<'_> {
    /// Writes it back, the last file first, so that limits that depend on each other pass through the states that they
    /// came from; what is refused in that order is tried once more at the end.
    fn restore(&self) {
        let write = |file: &str, value: &[u8]| -> nix::Result<()> {
            let dir = self.group.dir()?;
            let mut lines = value.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).peekable();
            if lines.peek().is_none() {
                // An empty cpuset list is set by a line without a number.
                return write_own(dir, file, b"\n");
            }
            lines.try_for_each(|line| write_own(dir, file, line))
        };
        let refused: Vec<_> =
            self.values.iter().rev().filter(|(file, value)| write(file, value).is_err()).collect();
        for (file, value) in refused {
            // Nothing better is left than the error that the caller reports.
            let _ = write(file, value);
        }
    }
}

/// What stands in the files that are about to be written. One that is not there, or cannot be read, is not set back.
fn present(group: &Group, writes: &[Write]) -> Vec<(String, Vec<u8>)> {
    let mut values: Vec<(String, Vec<u8>)> = Vec::with_capacity(writes.len());
    for write in writes {
        if values.iter().any(|(file, _)| *file == *write.file) {
            continue;
        }
        if let Ok(value) = group.read(&write.file) {
            values.push((write.file.clone().into_owned(), value));
        }
    }
    values
}

/// A limit of a v2 file: -1 for `max`, none where there is no such file.
fn current(group: &Group, file: &str) -> nix::Result<Option<i64>> {
    let text = match group.read(file) {
        Err(Errno::ENOENT) => return Ok(None),
        other => other?,
    };
    let first = text.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    match std::str::from_utf8(first) {
        Ok("max") => Ok(Some(-1)),
        Ok(number) => Ok(number.parse().ok()),
        Err(_) => Ok(None),
    }
}

/// `cpu.max` takes quota and period in one line: a period alone goes with the quota that is there.
fn complete_cpu(cpu: &mut LinuxCpu, now: impl Fn(&str) -> nix::Result<Option<i64>>) -> nix::Result<()> {
    let is_set = |value: Option<i64>| value.is_some_and(|value| value != 0);
    if cpu.period().is_some_and(|period| period != 0) && !is_set(cpu.quota()) {
        cpu.set_quota(now("cpu.max")?);
    }
    Ok(())
}

/// v2 counts swap alone, the runtime spec memory and swap together: a new total needs the limit that is there, and where
/// the limit alone is changed the total stays, as on v1. No swap stays no swap.
fn complete_memory(
    memory: &mut LinuxMemory,
    now: impl Fn(&str) -> nix::Result<Option<i64>>,
) -> nix::Result<()> {
    let limit = memory.limit().filter(|&limit| limit != 0);
    let total = memory.swap().filter(|&total| total != 0);
    match (limit, total) {
        (None, Some(_)) => {
            memory.set_limit(now("memory.max")?);
        }
        (Some(1..), None) => {
            let both = (now("memory.max")?, now("memory.swap.max")?);
            if let (Some(limit @ 0..), Some(swap @ 1..)) = both {
                memory.set_swap(limit.checked_add(swap));
            }
        }
        _ => {}
    }
    Ok(())
}

/// `checkBeforeUpdate`: refuses a limit below what is in use, which v2 would enforce by killing.
fn check_usage(group: &Group, memory: &LinuxMemory) -> Result<()> {
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    // As in runc the check is a courtesy: where the usage is not known there is none.
    let Ok(Some(usage)) = current(group, "memory.current") else { return Ok(()) };
    for (source, limit) in [("memory/swap", memory.swap()), ("memory/limit", memory.limit())] {
        if let Some(limit) = limit.filter(|&limit| limit > 0 && limit <= usage) {
            return Err(invalid(BASE, source, limit, &format!("is not above the memory in use, {usage}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_after(json: &str, limit_now: i64, swap_now: Option<i64>) -> (Option<i64>, Option<i64>) {
        let mut memory: LinuxMemory = serde_json::from_str(json).unwrap();
        let now = |file: &str| Ok(if file == "memory.max" { Some(limit_now) } else { swap_now });
        complete_memory(&mut memory, now).unwrap();
        (memory.limit(), memory.swap())
    }

    /// peers.md row 41, as runc with its saved config: a total stays when the limit changes, and the other way round.
    #[test]
    fn v2_memory_is_completed_by_what_is_there() {
        assert_eq!(memory_after(r#"{"limit":100}"#, 64, Some(64)), (Some(100), Some(128)));
        assert_eq!(memory_after(r#"{"limit":100}"#, 64, Some(0)), (Some(100), None), "no swap stays no swap");
        assert_eq!(memory_after(r#"{"limit":100}"#, 64, Some(-1)), (Some(100), None));
        assert_eq!(memory_after(r#"{"limit":100}"#, -1, Some(64)), (Some(100), None));
        assert_eq!(memory_after(r#"{"limit":100}"#, 64, None), (Some(100), None), "no swap accounting");
        assert_eq!(memory_after(r#"{"limit":-1}"#, 64, Some(64)), (Some(-1), None));
        assert_eq!(memory_after(r#"{"swap":200}"#, 64, Some(64)), (Some(64), Some(200)));
        assert_eq!(memory_after(r#"{"limit":9,"swap":10}"#, 64, Some(64)), (Some(9), Some(10)));
        assert_eq!(memory_after(r#"{"limit":0,"swap":0}"#, 64, Some(64)), (Some(0), Some(0)));
    }

    #[test]
    fn v2_period_goes_with_the_quota_that_is_there() {
        for (json, quota) in [
            (r#"{"period":5}"#, Some(20_000)),
            (r#"{"period":5,"quota":7}"#, Some(7)),
            (r#"{"quota":7}"#, Some(7)),
            (r#"{"shares":7}"#, None),
        ] {
            let mut cpu: LinuxCpu = serde_json::from_str(json).unwrap();
            complete_cpu(&mut cpu, |_| Ok(Some(20_000))).unwrap();
            assert_eq!(cpu.quota(), quota, "{json}");
        }
    }
}
