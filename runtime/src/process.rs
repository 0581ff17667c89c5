//! What a process is given before execve, for the init process and exec processes alike: the `process` object of the
//! configuration as instructions for the sealed program, which follows them (`init/src/security.rs`).

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;
use oci_spec::runtime::{
    Hook, IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, PosixRlimit, PosixRlimitType, Process, Scheduler,
};
use skeg_init::instructions::{self, Gate, Instructions};

use crate::error::{Context as _, Error, Result};
use crate::security::caps;
use crate::security::lsm;
use crate::security::seccomp::Filter;
use crate::sys::process as sys;

/// The umask of a process whose configuration names none (runc's).
const DEFAULT_UMASK: u32 = 0o022;

/// What a process gets that its `process` object does not say.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// `/linux`, for personality and memory policy.
    pub linux: Option<&'a Linux>,
    /// The compiled `/linux/seccomp`.
    pub filter: Option<&'a Filter>,
    /// The socket to the runtime.
    pub channel: RawFd,
    /// Where to wait for `start`; none for `run` and `exec`.
    pub gate: Option<Gate>,
    /// A procfs that was opened in the runtime's own namespaces, where a label is asked for.
    pub procfs: Option<RawFd>,
    /// A session keyring of its own (not with `--no-new-keyring`).
    pub new_keyring: bool,
    /// Whether it will have said that it is ready.
    pub said_ready: bool,
    /// A second process is to go on: the one that is in the PID namespace that was joined.
    pub fork: bool,
    /// Its standard input will be a terminal of the container's.
    pub terminal: bool,
    /// How many descriptors from 3 on the program gets.
    pub handed_on: u32,
    /// How many of them are sockets that it is told of (`LISTEN_FDS`, sd_listen_fds(3)).
    pub listen_fds: u32,
    /// startContainer hooks.
    pub hooks: &'a [Hook],
    /// The state for them, up to the number of the process and behind it.
    pub state: [&'a [u8]; 2],
}

/// The instructions for the sealed program.
///
/// # Errors
/// A value that cannot be honoured, with its JSON pointer; a NUL in a string.
pub fn instructions(process: &Process, around: &Surroundings<'_>) -> Result<Vec<u8>> {
    let (args, env) = (c_strings(process.args().as_deref())?, c_strings(process.env().as_deref())?);
    let cwd = c_string(process.cwd().as_os_str().as_bytes())?;
    let apparmor = lsm::apparmor_value(process)?;
    let selinux = lsm::selinux_label(process).map(|label| c_string(label.as_bytes())).transpose()?;
    let scheduler = process.scheduler().as_ref().map(scheduler_attributes).unwrap_or_default();
    let personality = around.linux.and_then(|linux| linux.personality().as_ref());
    let policy = around.linux.and_then(|linux| linux.memory_policy().as_ref());
    let policy = policy.map(PreparedPolicy::new).transpose()?;
    let program = around.filter.map(|filter| program_bytes(&filter.program)).unwrap_or_default();
    let filter = around.filter.map(|filter| instructions::Filter {
        program: &program,
        flags: filter.flags,
        notifies: filter.uses_notify,
    });
    let hooks = around.hooks.iter().map(PreparedHook::new).collect::<Result<Vec<_>>>()?;
    let limits = limits_of(process);
    let said = limits.iter().enumerate().map(said_of_limit).collect::<Result<Vec<_>>>()?;
    let user = process.user();
    let all = Instructions {
        channel: around.channel,
        gate: around.gate,
        procfs: around.procfs,
        handed_on: around.handed_on,
        listen_fds: around.listen_fds,
        said_ready: around.said_ready,
        fork: around.fork,
        terminal: around.terminal,
        new_keyring: around.new_keyring,
        no_new_privs: process.no_new_privileges() == Some(true),
        apparmor: apparmor.as_deref(),
        selinux: selinux.as_deref(),
        scheduler: &scheduler,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        personality: personality_bits(personality)?,
        memory_policy: policy.as_ref().map(PreparedPolicy::instruction),
        filter,
        cwd: &cwd,
        capabilities: caps::sets(process.capabilities().as_ref()),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(DEFAULT_UMASK),
        limits: limits.iter().zip(&said).map(|(limit, what)| limit_instruction(limit, what)).collect(),
        hooks: hooks.iter().map(PreparedHook::instruction).collect(),
        state: around.state,
        args: references(&args),
        env: references(&env),
    };
    Ok(all.encode())
}

fn c_string(text: &[u8]) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new("/process: a string contains a NUL"))
}

fn c_strings(texts: Option<&[String]>) -> Result<Vec<CString>> {
    texts.unwrap_or_default().iter().map(|text| c_string(text.as_bytes())).collect()
}

fn references(texts: &[CString]) -> Vec<&CStr> {
    texts.iter().map(CString::as_c_str).collect()
}

/// A hook whose strings the kernel can take.
struct PreparedHook {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    timeout: Option<u64>,
}

impl PreparedHook {
    fn new(hook: &Hook) -> Result<Self> {
        let path = c_string(hook.path().as_os_str().as_bytes())?;
        let args = match hook.args().as_deref() {
            None | Some([]) => vec![path.clone()],
            args => c_strings(args)?,
        };
        // One that is not positive is refused by the validation of config.json, and by the program.
        let timeout = hook.timeout().map(|seconds| u64::try_from(seconds).unwrap_or(0));
        Ok(Self { path, args, env: c_strings(hook.env().as_deref())?, timeout })
    }

    fn instruction(&self) -> instructions::Hook<'_> {
        let (args, env) = (references(&self.args), references(&self.env));
        instructions::Hook { path: &self.path, args, env, timeout: self.timeout }
    }
}

/// The program as the kernel takes it (`struct sock_filter` of linux/filter.h).
pub fn program_bytes(program: &[seccompiler::sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    bytes
}

fn said_of_limit((index, limit): (usize, &PosixRlimit)) -> Result<CString> {
    let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
    c_string(format!("/process/rlimits/{index}: set {name} to {soft}:{hard}").as_bytes())
}

fn limit_instruction<'a>(limit: &PosixRlimit, what: &'a CStr) -> instructions::Limit<'a> {
    instructions::Limit {
        resource: resource(limit.typ()) as u32,
        soft: limit.soft(),
        hard: limit.hard(),
        what,
    }
}

/// config.md, scheduler, to sched_setattr(2).
fn scheduler_attributes(scheduler: &Scheduler) -> Vec<u8> {
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
    // `struct sched_attr`, version 0 (linux/sched/types.h): size, policy, flags, nice, priority, runtime, deadline, period.
    let priority = u32::try_from(scheduler.priority().unwrap_or(0)).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(48);
    bytes.extend_from_slice(&48_u32.to_ne_bytes());
    bytes.extend_from_slice(&u32::to_ne_bytes(policy));
    bytes.extend_from_slice(&u64::to_ne_bytes(flags));
    bytes.extend_from_slice(&scheduler.nice().unwrap_or(0).to_ne_bytes());
    bytes.extend_from_slice(&priority.to_ne_bytes());
    for time in [scheduler.runtime(), scheduler.deadline(), scheduler.period()] {
        bytes.extend_from_slice(&time.unwrap_or(0).to_ne_bytes());
    }
    bytes
}

/// config.md, ioPriority, to ioprio_set(2): class and level in one number.
fn io_priority(priority: &LinuxIOPriority) -> Result<u32> {
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let class: u32 = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok(class << IOPRIO_CLASS_SHIFT | level),
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

/// The memory policy of the program (config-linux.md, memoryPolicy).
struct PreparedPolicy {
    mode: i32,
    nodes: Vec<u64>,
    what: CString,
}

impl PreparedPolicy {
    fn new(policy: &LinuxMemoryPolicy) -> Result<Self> {
        let (mode, nodes) = memory_policy(policy)?;
        let list = policy.nodes().as_deref().unwrap_or_default();
        let what = format!("/linux/memoryPolicy: set {} for nodes {list:?}", policy.mode());
        Ok(Self { mode, nodes, what: c_string(what.as_bytes())? })
    }

    fn instruction(&self) -> instructions::MemoryPolicy<'_> {
        instructions::MemoryPolicy { mode: self.mode, nodes: self.nodes.clone(), what: &self.what }
    }
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
        let (soft, hard) = getrlimit(resource(limit.typ())).context(|| "read the limits")?;
        if limit.hard() > hard {
            sys::set_limit(pid, resource(limit.typ()), soft, limit.hard()).context(|| {
                format!("/process/rlimits/{index}/hard: raise {} to {}", limit.typ(), limit.hard())
            })?;
        }
    }
    Ok(())
}

fn resource(limit: PosixRlimitType) -> Resource {
    match limit {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
