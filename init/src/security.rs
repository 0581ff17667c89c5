//! What a process is given before execve: labels, keyring, scheduling, filter, working directory, ids, capabilities.
//!
//! [`set_labels`] and [`apply`] serve the init process and every exec process (ARCHITECTURE.md, invariant 3). Their order is fixed:
//!
//! 1. AppArmor and SELinux labels, that of keys too, while the process may still write its attributes, and before it is seen in
//!    the container
//! 2. session keyring
//! 3. no_new_privs
//! 4. scheduler, I/O priority, personality, memory policy
//! 5. working directory, first try: with the rights of root in the container, and before a filter that may know no getcwd
//! 6. seccomp, where no_new_privs is not asked for: loading then takes CAP_SYS_ADMIN
//! 7. bounding set, groups, gid, uid
//! 8. working directory, second try: with the rights of the user (an NFS home, say)
//! 9. effective, permitted, inheritable and ambient capabilities
//! 10. umask; the parent-death signal again, which a change of ids takes away
//!
//! With no_new_privs, seccomp is loaded as the last thing before execve (row E8), so that a profile need allow nothing
//! but execve itself; with a listener, whose fd has to be handed on, at the end of the above. A listener is handed over at
//! once: any later call of this process may be one that waits for the agent's answer.

use core::ffi::CStr;

use alloc::format;
use alloc::string::{String, ToString as _};

use crate::become_process::{die_with_parent, late_filter};
use crate::error::{Context as _, Errno, Error, Result};
use crate::instructions::{Capabilities, Filter, Instructions};
use crate::sys::{self, Fd};

/// Makes this process what the instructions ask for, in the module's order. A seccomp listener goes to `hand_over`.
///
/// # Errors
/// Which step failed, and why: none is skipped.
pub fn apply(
    instructions: &Instructions<'_>,
    may_set_groups: bool,
    hand_over: impl Fn(Fd) -> Result<()>,
) -> Result<()> {
    if instructions.new_keyring {
        new_keyring()?;
    }
    if instructions.no_new_privs {
        sys::control(libc::PR_SET_NO_NEW_PRIVS, 1, 0).context(|| "set no_new_privs")?;
    }
    set_scheduling(instructions)?;
    sys::set_personality(instructions.personality).context(|| "set the personality")?;
    if let Some(policy) = &instructions.memory_policy {
        sys::set_memory_policy(policy.mode, &policy.nodes).context(|| text(policy.what))?;
    }
    let cwd = instructions.cwd;
    let arrived = sys::change_directory(cwd).is_ok();
    if arrived {
        check_working_directory(cwd)?;
    }
    if let Some(filter) = instructions.filter.filter(|_| !instructions.no_new_privs) {
        load(&filter)?.map_or(Ok(()), &hand_over)?;
    }
    limit_bounding(instructions.capabilities.bounding)?;
    sys::control(libc::PR_SET_KEEPCAPS, 1, 0).context(|| "keep the capabilities over the change of ids")?;
    change_ids(instructions, may_set_groups)?;
    if !arrived {
        sys::change_directory(cwd).context(|| format!("enter the working directory {}", text(cwd)))?;
        check_working_directory(cwd)?;
    }
    sys::control(libc::PR_SET_KEEPCAPS, 0, 0).context(|| "stop keeping the capabilities")?;
    set_capabilities(instructions.capabilities)?;
    sys::set_umask(instructions.umask);
    die_with_parent()?;
    if let Some(filter) = instructions.filter.filter(|_| instructions.no_new_privs)
        && late_filter(instructions).is_none()
    {
        load(&filter)?.map_or(Ok(()), &hand_over)?;
    }
    Ok(())
}

/// A text of the configuration in an error.
pub fn text(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// A kernel without keys is no reason not to run (runc tolerates ENOSYS).
fn new_keyring() -> Result<()> {
    match sys::new_session_keyring() {
        Err(Errno(libc::ENOSYS)) => Ok(()),
        other => other.context(|| "make a session keyring"),
    }
}

/// Labels that execve will put on the process. A label that was asked for and cannot be set is an error: a container
/// without its confinement never starts (row B1). The writes go to a private procfs, by the attribute's own name for each
/// module, so that a decoy over `/proc` cannot take them (CVE-2019-16884, CVE-2025-52881).
///
/// Keys that are made before the process has its own label would have the runtime's, which a policy lets no container use.
/// execve takes that setting back (security/selinux/hooks.c, `selinux_bprm_creds_for_exec`).
///
/// # Errors
/// Which label could not be set, and why.
pub fn set_labels(instructions: &Instructions<'_>) -> Result<()> {
    // The file `attr/exec` is shared, and another module's where both are active.
    let apparmor = instructions.apparmor.map(|value| ("AppArmor profile", c"self/attr/apparmor/exec", value));
    let selinux = instructions.selinux.map(|value| ("SELinux label", c"self/attr/exec", value));
    let keys = instructions.selinux.filter(|_| instructions.new_keyring);
    let keys = keys.map(|value| ("SELinux label of keys", c"self/attr/keycreate", value));
    [keys, apparmor, selinux]
        .into_iter()
        .flatten()
        .try_for_each(|(what, file, value)| write_label(instructions, what, file, value))
}

fn write_label(instructions: &Instructions<'_>, what: &str, file: &CStr, value: &CStr) -> Result<()> {
    let name = text(value);
    let name = name.strip_prefix("exec ").unwrap_or(&name);
    let procfs = instructions.procfs.ok_or_else(|| Error::new("set a label: no procfs has been opened"))?;
    write_attribute(procfs, file, value.to_bytes())
        .map_err(|(step, errno)| Error::from_errno(format!("apply {what} {name:?}: {step}"), errno))
}

fn write_attribute(procfs: Fd, file: &CStr, value: &[u8]) -> core::result::Result<(), (&'static str, Errno)> {
    // The kernel answers EINVAL for a label when no module is there to understand it.
    let explain = |errno| match errno {
        Errno(libc::EINVAL | libc::ENOENT) => {
            ("the security module is not active on this host or does not know the label", errno)
        }
        errno => ("write the attribute", errno),
    };
    let strict = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
    let file = sys::open(procfs, file, libc::O_WRONLY, strict).map_err(explain)?;
    let written = sys::write(file, value).map_err(explain);
    sys::close(file);
    match written? {
        count if count == value.len() => Ok(()),
        _ => Err(explain(Errno(libc::EIO))),
    }
}

fn set_scheduling(instructions: &Instructions<'_>) -> Result<()> {
    /// `policy` of `struct sched_attr`: SCHED_FIFO and SCHED_RR.
    const REAL_TIME: [u32; 2] = [1, 2];
    if !instructions.scheduler.is_empty() {
        sys::set_scheduler(instructions.scheduler).map_err(|errno| {
            let policy = instructions.scheduler.get(4..8).and_then(|bytes| bytes.try_into().ok());
            let policy = policy.map(u32::from_ne_bytes);
            // sched_group_set_rt_runtime: on cgroup v1 a new cgroup has no time for such processes.
            let why = (errno == Errno(libc::EPERM)
                && policy.is_some_and(|policy| REAL_TIME.contains(&policy)))
            .then(|| "does /linux/resources/cpu/realtimeRuntime give its cgroup any?".to_string());
            Error::from_errno("/process/scheduler: set", errno).because(why)
        })?;
    }
    if let Some(value) = instructions.io_priority {
        sys::set_io_priority(value).context(|| "/process/ioPriority: set")?;
    }
    Ok(())
}

/// Loads a filter; gives its listener.
///
/// # Errors
/// The errno of seccomp(2).
pub fn load(filter: &Filter<'_>) -> Result<Option<Fd>> {
    sys::load_filter(filter.program, filter.flags).context(|| "load the seccomp filter")
}

fn change_ids(instructions: &Instructions<'_>, may_set_groups: bool) -> Result<()> {
    let Instructions { uid, gid, groups, .. } = instructions;
    let groups = match (may_set_groups, groups.as_slice()) {
        (true, groups) => Some(groups),
        (false, []) => None,
        (false, _) => {
            return Err(Error::new(
                "/process/user/additionalGids: cannot be set in a user namespace where setgroups is denied",
            ));
        }
    };
    sys::set_ids(*uid, *gid, groups).context(|| format!("become user {uid} and group {gid}"))
}

/// A directory that leads out of the container's root shows as unreachable (CVE-2024-21626; getcwd(3)).
fn check_working_directory(cwd: &CStr) -> Result<()> {
    match sys::working_directory_is_inside() {
        Ok(true) => Ok(()),
        Ok(false) | Err(Errno(libc::ENOENT)) => {
            Err(Error::new(format!("working directory {} is outside of the container", text(cwd))))
        }
        Err(errno) => Err(Error::from_errno("read the working directory", errno)),
    }
}

/// Takes everything out of the bounding set that is not in `wanted`. Needs CAP_SETPCAP, and so comes before the ids.
fn limit_bounding(wanted: u64) -> Result<()> {
    for capability in (0..64).filter(|capability| wanted >> capability & 1 == 0) {
        match sys::control(libc::PR_CAPBSET_DROP, capability, 0) {
            // The numbers end here.
            Err(Errno(libc::EINVAL)) => break,
            // Without the right to take anything out, what is not in there need not be.
            Err(Errno(libc::EPERM)) if sys::control(libc::PR_CAPBSET_READ, capability, 0) == Ok(0) => {}
            other => {
                other.context(|| format!("drop capability {capability} from the bounding set"))?;
            }
        }
    }
    Ok(())
}

/// Sets the other four sets to exactly these, the ambient one included: nothing of the caller's stays (row E2).
fn set_capabilities(asked: Capabilities) -> Result<()> {
    let own = sys::permitted_capabilities().context(|| "read the capabilities")?;
    let sets = within(asked, own);
    sys::control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)
        .context(|| "clear the ambient capabilities")?;
    sys::set_capabilities(sets.effective, sets.permitted, sets.inheritable)
        .context(|| "set the capabilities")?;
    for capability in (0..64).filter(|capability| sets.ambient >> capability & 1 == 1) {
        sys::control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability)
            .context(|| format!("make capability {capability} ambient"))?;
    }
    Ok(())
}

/// Cuts the sets down to what this process can give, as config.md asks: capabilities that cannot be granted are no
/// error (the result is fewer rights). The kernel wants effective within permitted and ambient within both permitted
/// and inheritable.
fn within(asked: Capabilities, own: u64) -> Capabilities {
    let permitted = asked.permitted & own;
    let inheritable = asked.inheritable & own;
    Capabilities {
        bounding: asked.bounding,
        effective: asked.effective & permitted,
        inheritable,
        permitted,
        ambient: asked.ambient & permitted & inheritable,
    }
}

/// Sets the resource limits of this process. Last, because a low limit on files or memory would break the set-up itself.
///
/// # Errors
/// Which limit could not be set, and why.
pub fn set_limits(instructions: &Instructions<'_>) -> Result<()> {
    instructions.limits.iter().try_for_each(|limit| {
        sys::set_limit(limit.resource, limit.soft, limit.hard).context(|| text(limit.what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md E1: an ambient capability is inheritable and permitted; never more than the process has.
    #[test]
    fn e1_sets_are_those_of_the_configuration_and_never_more() {
        let asked = Capabilities {
            bounding: 0b111,
            effective: 0b110,
            inheritable: 0b010,
            permitted: 0b110,
            ambient: 0b110,
        };
        let granted = within(asked, 0b011);
        assert_eq!(granted.permitted, 0b010);
        assert_eq!(granted.effective, 0b010);
        assert_eq!(granted.ambient, 0b010);
        assert_eq!(within(asked, u64::MAX).ambient, 0b010);
    }
}
