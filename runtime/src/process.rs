//! What a process is given before execve: limits, groups, ids, capabilities, working directory, environment.
//!
//! [`apply_process_security`] serves the init process and every exec process (design rule 12). Its order is fixed:
//!
//! 1. session keyring
//! 2. AppArmor and SELinux labels, while the process may still write its attributes
//! 3. no_new_privs
//! 4. scheduler, I/O priority, personality, memory policy
//! 5. seccomp, where no_new_privs is not asked for: loading then takes CAP_SYS_ADMIN
//! 6. working directory, first try: with the rights of root in the container
//! 7. bounding set, groups, gid, uid
//! 8. working directory, second try: with the rights of the user (an NFS home, say)
//! 9. effective, permitted, inheritable and ambient capabilities
//! 10. umask; the parent-death signal again, which a change of ids takes away
//!
//! With no_new_privs, seccomp is loaded by the caller as the last thing before execve (row E8), so that a profile
//! need allow nothing but execve itself; with a listener, whose fd has to be handed on, at the end of the above.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::Pid;
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimit,
    PosixRlimitType, Process, Scheduler,
};

use crate::diagnose;
use crate::error::{Context as _, Error, Result};
use crate::security::caps::CapabilitySets;
use crate::security::lsm;
use crate::security::seccomp::Filter;
use crate::sys::fd::read_to_end;
use crate::sys::path::{open_in_root, stat};
use crate::sys::process::{self as sys, SchedulerAttributes};
use crate::sys::procfs::Procfs;
use crate::sys::seccomp;

/// The umask of a process whose configuration names none (runc's).
const DEFAULT_UMASK: u32 = 0o022;
/// The most that is read of the container's /etc/passwd (row C9).
const PASSWD_LIMIT: usize = 1 << 20;

/// What a process gets that its `process` object does not say.
#[derive(Debug, Clone, Copy)]
pub struct Security<'a> {
    /// The `process` object.
    pub process: &'a Process,
    /// `/linux`, for personality and memory policy.
    pub linux: Option<&'a Linux>,
    /// The compiled `/linux/seccomp`.
    pub seccomp: Option<&'a Filter>,
    /// A session keyring of its own (not with `--no-new-keyring`).
    pub new_keyring: bool,
    /// A procfs that was opened in the runtime's own namespaces, where a label is asked for.
    pub procfs: Option<&'a Procfs>,
    /// Whether setgroups(2) is allowed: not in a user namespace that an unprivileged user mapped.
    pub may_set_groups: bool,
}

impl Security<'_> {
    fn no_new_privileges(&self) -> bool {
        self.process.no_new_privileges() == Some(true)
    }

    /// The filter that is to be loaded right before execve.
    pub fn late_filter(&self) -> Option<&Filter> {
        self.seccomp.filter(|filter| self.no_new_privileges() && !filter.uses_notify)
    }
}

/// Makes this process what the configuration asks for, in the module's order. Returns the seccomp listener, if any.
///
/// # Errors
/// Which step failed, and why: none is skipped.
pub fn apply_process_security(security: &Security<'_>) -> Result<Option<OwnedFd>> {
    let process = security.process;
    if security.new_keyring {
        new_keyring()?;
    }
    lsm::set_exec_labels(
        security.procfs,
        process.apparmor_profile().as_deref(),
        process.selinux_label().as_deref(),
    )?;
    if security.no_new_privileges() {
        prctl::set_no_new_privs().context(|| "set no_new_privs")?;
    }
    set_scheduling(process)?;
    let personality = security.linux.and_then(|linux| linux.personality().as_ref());
    sys::set_personality(personality_bits(personality)?).context(|| "set the personality")?;
    if let Some(policy) = security.linux.and_then(|linux| linux.memory_policy().as_ref()) {
        set_memory_policy(policy)?;
    }
    let mut listener = None;
    if let Some(filter) = security.seccomp.filter(|_| !security.no_new_privileges()) {
        listener = seccomp::load(&filter.program, filter.flags).context(|| "load the seccomp filter")?;
    }
    let arrived = enter_working_directory(process.cwd()).is_ok();
    let capabilities = CapabilitySets::new(process.capabilities().as_ref());
    if sys::securebits().context(|| "read the securebits")? != 0 {
        sys::set_securebits(0).context(|| "clear the securebits")?;
    }
    capabilities.limit_bounding()?;
    prctl::set_keepcaps(true).context(|| "keep the capabilities over the change of ids")?;
    change_ids(security)?;
    if !arrived {
        enter_working_directory(process.cwd())?;
    }
    check_working_directory(process.cwd())?;
    prctl::set_keepcaps(false).context(|| "stop keeping the capabilities")?;
    capabilities.apply()?;
    let umask = process.user().umask().unwrap_or(DEFAULT_UMASK);
    nix::sys::stat::umask(Mode::from_bits_truncate(umask));
    prctl::set_pdeathsig(Signal::SIGKILL).context(|| "set the parent-death signal")?;
    if let Some(filter) = security.seccomp.filter(|filter| security.no_new_privileges() && filter.uses_notify)
    {
        listener = seccomp::load(&filter.program, filter.flags).context(|| "load the seccomp filter")?;
    }
    Ok(listener)
}

/// A kernel without keys, or a user whose quota is used up (many containers of one user), is no reason not to run:
/// the caller's keyring is then still not the container's where it cannot be joined by name (runc tolerates ENOSYS).
fn new_keyring() -> Result<()> {
    match sys::new_session_keyring() {
        Err(Errno::ENOSYS) => Ok(()),
        other => other.context(|| "make a session keyring"),
    }
}

fn change_ids(security: &Security<'_>) -> Result<()> {
    let user = security.process.user();
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    let groups = match (security.may_set_groups, groups) {
        (true, groups) => Some(groups),
        (false, []) => None,
        (false, _) => {
            return Err(Error::new(
                "/process/user/additionalGids: cannot be set in a user namespace where setgroups is denied",
            ));
        }
    };
    let (uid, gid) = (user.uid(), user.gid());
    sys::set_ids(uid, gid, groups).context(|| format!("become user {uid} and group {gid}"))
}

fn enter_working_directory(cwd: &Path) -> Result<()> {
    nix::unistd::chdir(cwd).context(|| format!("enter the working directory {}", cwd.display()))
}

/// A directory that leads out of the container's root shows as unreachable (CVE-2024-21626; getcwd(3)).
fn check_working_directory(cwd: &Path) -> Result<()> {
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(Errno::ENOENT) => {
            Err(Error::new(format!("working directory {} is outside of the container", cwd.display())))
        }
        Err(errno) => Err(Error::from_errno("read the working directory", errno)),
    }
}

fn set_scheduling(process: &Process) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        sys::set_scheduler(scheduler_attributes(scheduler)).map_err(|errno| {
            let error = Error::from_errno("/process/scheduler: set", errno);
            match (errno, scheduler.policy()) {
                // sched_group_set_rt_runtime: on cgroup v1 a new cgroup has no time for such processes.
                (Errno::EPERM, LinuxSchedulerPolicy::SchedFifo | LinuxSchedulerPolicy::SchedRr) => {
                    error.because("does /linux/resources/cpu/realtimeRuntime give its cgroup any?")
                }
                _ => error,
            }
        })?;
    }
    if let Some(priority) = process.io_priority() {
        let (class, level) = io_priority(priority)?;
        sys::set_io_priority(class, level).context(|| "/process/ioPriority: set")?;
    }
    Ok(())
}

/// config.md, scheduler, to sched_setattr(2).
fn scheduler_attributes(scheduler: &Scheduler) -> SchedulerAttributes {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    SchedulerAttributes {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(scheduler.priority().unwrap_or(0)).unwrap_or(u32::MAX),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedulerAttributes::default()
    }
}

/// config.md, ioPriority, to ioprio_set(2): class and level.
fn io_priority(priority: &LinuxIOPriority) -> Result<(u16, u16)> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => {
            Err(Error::new(format!("/process/ioPriority/priority: {}: must be 0 to 7", priority.priority())))
        }
    }
}

/// The bits for personality(2). Without a configuration the plain one: what the caller of skeg had, such as no
/// address randomisation, is not inherited (row E18).
fn personality_bits(personality: Option<&LinuxPersonality>) -> Result<u32> {
    let Some(personality) = personality else { return Ok(0) };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        // config-linux.md, personality: "flags ... currently no flag values are supported".
        return Err(Error::new("/linux/personality/flags: no flag is defined by the specification"));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// Restricts this process to a list of CPUs (`0-3,7`; config.md, execCPUAffinity).
///
/// # Errors
/// Text that is no such list; CPUs of which none is there.
pub fn set_affinity(list: &str) -> Result<()> {
    let mask = list_mask(list).ok_or_else(|| {
        Error::new(format!("/process/execCPUAffinity: {list:?}: must be a list of CPUs like 0-3,7"))
    })?;
    sys::set_cpu_affinity(&mask).context(|| format!("/process/execCPUAffinity: run on CPUs {list:?}"))
}

/// Lets this process run on every CPU that its cgroup has: where the caller of skeg was bound to some, the container is
/// not. The kernel takes the CPUs of the mask that are there and in the cpuset; a host that forbids it keeps what it has.
pub fn reset_affinity() {
    let _ = sys::set_cpu_affinity(&[u64::MAX; (HIGHEST_NUMBER + 1) / 64]);
}

/// The memory policy of this process and of the program that it executes (config-linux.md, memoryPolicy).
fn set_memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let (mode, nodes) = memory_policy(policy)?;
    sys::set_memory_policy(mode, &nodes).context(|| {
        format!(
            "/linux/memoryPolicy: set {} for nodes {:?}",
            policy.mode(),
            policy.nodes().as_deref().unwrap_or_default()
        )
    })
}

/// Mode with flags and node mask for set_mempolicy(2) (`linux/mempolicy.h`).
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>)> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        }
    });
    let list = policy.nodes().as_deref().unwrap_or_default();
    let nodes = if list.is_empty() { Some(Vec::new()) } else { list_mask(list) };
    let nodes = nodes.ok_or_else(|| {
        Error::new(format!("/linux/memoryPolicy/nodes: {list:?}: must be a list of nodes like 0-3,7"))
    })?;
    Ok((mode | flags, nodes))
}

/// The highest number of a CPU or a memory node: `NR_CPUS` is 8192 at its highest, `MAX_NUMNODES` 1024.
const HIGHEST_NUMBER: usize = 8191;

/// The bits of a list of CPUs or memory nodes, 64 an element.
fn list_mask(list: &str) -> Option<Vec<u64>> {
    let mut mask = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > HIGHEST_NUMBER {
            return None;
        }
        mask.resize(mask.len().max(last / 64 + 1), 0_u64);
        for number in first..=last {
            *mask.get_mut(number / 64)? |= 1 << (number % 64);
        }
    }
    Some(mask)
}

/// `/process/rlimits`.
pub fn limits_of(process: &Process) -> &[PosixRlimit] {
    process.rlimits().as_deref().unwrap_or_default()
}

/// Raises the hard limits of the process `pid`, our child that has not been waited for and has not changed its ids,
/// where the configuration asks for more than it inherited. By the runtime, because that takes CAP_SYS_RESOURCE in the
/// host's user namespace; first, because it can break nothing.
///
/// # Errors
/// Which limit could not be raised, and why.
pub fn raise_hard_limits(pid: Pid, limits: &[PosixRlimit]) -> Result<()> {
    for (index, limit) in limits.iter().enumerate() {
        let (soft, hard) = sys::limit(resource(limit.typ())).context(|| "read the limits")?;
        if limit.hard() > hard {
            sys::set_limit(pid, resource(limit.typ()), soft, limit.hard()).context(|| {
                format!("/process/rlimits/{index}/hard: raise {} to {}", limit.typ(), limit.hard())
            })?;
        }
    }
    Ok(())
}

/// Sets the resource limits of this process. Last, because a low limit on files or memory would break the set-up itself.
///
/// # Errors
/// Which limit could not be set, and why.
pub fn set_limits(limits: &[PosixRlimit]) -> Result<()> {
    const THIS_PROCESS: Pid = Pid::from_raw(0);
    for (index, limit) in limits.iter().enumerate() {
        let (soft, hard) = (limit.soft(), limit.hard());
        sys::set_limit(THIS_PROCESS, resource(limit.typ()), soft, hard)
            .context(|| format!("/process/rlimits/{index}: set {} to {soft}:{hard}", limit.typ()))?;
    }
    Ok(())
}

/// getrlimit(2) numbers.
fn resource(limit: PosixRlimitType) -> u32 {
    match limit {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// A program, its arguments and its environment, ready for execve.
#[derive(Debug)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Looks the program up, inside the container and with the rights of its user (row E21), and makes its environment
    /// complete: `HOME` from the container's own /etc/passwd where the configuration gives none (runc does, and images
    /// count on it), and `extra` entries.
    ///
    /// # Errors
    /// A program that cannot be found, with the reason; a NUL in a string.
    pub fn find(process: &Process, extra: &[String]) -> Result<Self> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let name = arguments.first().ok_or_else(|| Error::new("/process/args: must name a program"))?;
        let configured = process.env().as_deref().unwrap_or_default();
        let path_variable = configured.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let path = diagnose::find_executable(name, path_variable)?;
        let c_string =
            |text: &[u8]| CString::new(text).map_err(|_| Error::new("/process: a string contains a NUL"));
        let mut environment = Vec::with_capacity(configured.len() + extra.len() + 1);
        for entry in without_duplicates(configured, extra) {
            environment.push(c_string(entry.as_bytes())?);
        }
        if !configured.iter().any(|entry| entry.starts_with("HOME=")) {
            environment.push(c_string(&[b"HOME=", home(process.user().uid()).as_slice()].concat())?);
        }
        Ok(Self {
            path: c_string(path.as_os_str().as_bytes())?,
            arguments: arguments
                .iter()
                .map(|argument| c_string(argument.as_bytes()))
                .collect::<Result<_>>()?,
            environment,
        })
    }

    /// execve(2); returns only to say why it failed, with the reason behind the errno.
    pub fn execute(&self) -> Error {
        let errno = sys::execute(&self.path, &self.arguments, &self.environment);
        let path = Path::new(OsStr::from_bytes(self.path.as_bytes()));
        diagnose::failed(format!("exec {}", path.display()), path, errno)
    }
}

/// Of entries with the same name the last one, in its place: what a shell that assigns them one by one ends up with,
/// and what runc passes on.
fn without_duplicates<'a>(configured: &'a [String], extra: &'a [String]) -> Vec<&'a str> {
    let mut seen = HashSet::with_capacity(configured.len() + extra.len());
    let name = |entry: &'a str| entry.split_once('=').map_or(entry, |(name, _)| name);
    let mut kept: Vec<&str> = configured
        .iter()
        .chain(extra)
        .rev()
        .map(String::as_str)
        .filter(|entry| seen.insert(name(entry)))
        .collect();
    kept.reverse();
    kept
}

/// The home directory that the container's /etc/passwd has for `uid`, `/` where it has none. The file is the image's:
/// only a regular file is read, without blocking, and no more than 1 MiB of it (row C9).
fn home(uid: u32) -> Vec<u8> {
    let read = || -> nix::Result<Vec<u8>> {
        let here = crate::sys::path::open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        let file =
            open_in_root(here.as_fd(), "/etc/passwd", OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        match SFlag::from_bits_truncate(stat(&file)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => read_to_end(&file, PASSWD_LIMIT),
            _ => Err(Errno::EINVAL),
        }
    };
    read().ok().and_then(|passwd| home_of(&passwd, uid)).unwrap_or_else(|| b"/".to_vec())
}

/// The sixth field of the first line whose third is `uid` (passwd(5)).
fn home_of(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    let wanted = uid.to_string();
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (id == wanted.as_bytes() && !home.is_empty()).then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md C9, E3: a uid is compared as text of a number, and a user named like a number is not it.
    #[test]
    fn c9_home_is_that_of_the_uid() {
        let passwd =
            b"1:x:0:0::/wrong:\nbroken\nroot:x:0:0:root:/root:/bin/sh\na:x:1000:1000::/home/a:/bin/sh\n";
        assert_eq!(home_of(passwd, 1000).as_deref(), Some(&b"/home/a"[..]));
        assert_eq!(home_of(passwd, 0).as_deref(), Some(&b"/wrong"[..]));
        assert_eq!(home_of(passwd, 1), None);
    }

    #[test]
    fn the_last_of_two_entries_of_a_name_counts() {
        let configured = ["A=1".to_owned(), "B=2".to_owned(), "A=3".to_owned()];
        assert_eq!(without_duplicates(&configured, &["B=4".to_owned()]), ["A=3", "B=4"]);
    }

    #[test]
    fn cpu_lists_are_ranges_and_numbers() {
        assert_eq!(list_mask("0-3,7"), Some(vec![0b1000_1111]));
        assert_eq!(list_mask("64"), Some(vec![0, 1]));
        for bad in ["", "a", "3-1", "-1", "1,,2", "8192", "0-99999999999"] {
            assert_eq!(list_mask(bad), None, "{bad:?}");
        }
    }

    /// security.md E18: nothing of the caller's personality stays.
    #[test]
    fn e18_personality_is_plain_unless_configured() {
        assert_eq!(personality_bits(None).unwrap(), 0);
        let linux32: LinuxPersonality = serde_json::from_str(r#"{"domain":"LINUX32"}"#).unwrap();
        assert_eq!(personality_bits(Some(&linux32)).unwrap(), 8);
    }
}
