//! What a process is: capabilities, keyring, scheduling, limits, names; and execve(2).

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CStr, CString, c_char, c_int, c_ulong};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets the effective, permitted and inheritable sets of this thread, a bit for each capability number.
///
/// # Errors
/// `EPERM` where a set has what the thread may not have (capset(2)).
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> nix::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let data = [0, 32].map(|shift| CapabilityData {
        effective: low_half(effective >> shift),
        permitted: low_half(permitted >> shift),
        inheritable: low_half(inheritable >> shift),
    });
    // SAFETY: version 3 takes two data elements; both structures outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The permitted set of this thread.
///
/// # Errors
/// The errno of capget(2).
pub fn permitted_capabilities() -> nix::Result<u64> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 fills two data elements; both structures outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// The low 32 bits.
fn low_half(bits: u64) -> u32 {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Whether `capability` is in the bounding set.
///
/// # Errors
/// `EINVAL` for a number that this kernel does not know (PR_CAPBSET_READ(2const)).
pub fn bounding_has(capability: u8) -> nix::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, c_ulong::from(capability), 0).map(|has| has == 1)
}

/// Takes `capability` out of the bounding set.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP (PR_CAPBSET_DROP(2const)).
pub fn bounding_drop(capability: u8) -> nix::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0).map(drop)
}

/// Empties the ambient set.
///
/// # Errors
/// The errno of prctl(2).
pub fn ambient_clear() -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned()), 0).map(drop)
}

/// Puts `capability` into the ambient set.
///
/// # Errors
/// `EPERM` where it is not both permitted and inheritable (PR_CAP_AMBIENT(2const)).
pub fn ambient_raise(capability: u8) -> nix::Result<()> {
    let raise = c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.cast_unsigned());
    prctl(libc::PR_CAP_AMBIENT, raise, c_ulong::from(capability)).map(drop)
}

/// Sets the securebits (capabilities(7)).
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn set_securebits(bits: u32) -> nix::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, c_ulong::from(bits), 0).map(drop)
}

/// The securebits.
///
/// # Errors
/// The errno of prctl(2).
pub fn securebits() -> nix::Result<u32> {
    prctl(libc::PR_GET_SECUREBITS, 0, 0).map(c_int::cast_unsigned)
}

fn prctl(option: c_int, first: c_ulong, second: c_ulong) -> nix::Result<c_int> {
    // SAFETY: the options used above take integers only.
    Errno::result(unsafe { libc::prctl(option, first, second, 0 as c_ulong, 0 as c_ulong) })
}

/// A new anonymous session keyring, empty, instead of the caller's (row C10).
///
/// # Errors
/// `ENOSYS` where the kernel has no keys, `EDQUOT` where the user has too many (keyctl(2)).
pub fn new_session_keyring() -> nix::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; nothing is read.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>()) };
    Errno::result(result).map(drop)
}

/// setdomainname(2).
///
/// # Errors
/// The errno of setdomainname(2).
pub fn set_domainname(name: &str) -> nix::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// personality(2).
///
/// # Errors
/// `EINVAL` for one that the kernel cannot set.
pub fn set_personality(personality: u32) -> nix::Result<()> {
    // SAFETY: one integer.
    Errno::result(unsafe { libc::personality(c_ulong::from(personality)) }).map(drop)
}

/// getrlimit(2): the soft and the hard limit of this process.
///
/// # Errors
/// `EINVAL` for an unknown resource.
pub fn limit(resource: u32) -> nix::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is given; the old one goes to a full rlimit64 that outlives the call.
    Errno::result(unsafe { libc::prlimit64(0, resource, std::ptr::null(), &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// prlimit(2): a soft and a hard limit of process `pid`, which must be a child that has not been waited for, or of this
/// process for 0.
///
/// # Errors
/// `EPERM` for raising a hard limit without CAP_SYS_RESOURCE, `EINVAL` for soft above hard.
pub fn set_limit(pid: Pid, resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is a full rlimit64 that outlives the call; no old one is asked for.
    Errno::result(unsafe { libc::prlimit64(pid.as_raw(), resource, &raw const limit, std::ptr::null_mut()) })
        .map(drop)
}

/// sched_setattr(2) of `linux/sched/types.h`, version 0 (48 bytes).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct SchedulerAttributes {
    /// Size of this structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for the normal policies.
    pub nice: i32,
    /// 1 to 99, for the real-time policies.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
}

/// sched_setattr(2) on this process.
///
/// # Errors
/// The errno of sched_setattr(2).
pub fn set_scheduler(mut attributes: SchedulerAttributes) -> nix::Result<()> {
    attributes.size = 48;
    // SAFETY: the structure has the size that it says and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// ioprio_set(2) on this process: class 1 (real time), 2 (best effort) or 3 (idle), priority 0 to 7.
///
/// # Errors
/// The errno of ioprio_set(2).
pub fn set_io_priority(class: u16, priority: u16) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = u32::from(class) << IOPRIO_CLASS_SHIFT | u32::from(priority);
    // SAFETY: three integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// Restricts this process to the CPUs whose bits are set; `mask` is 64 CPUs an element, CPU 0 in the lowest bit.
///
/// # Errors
/// `EINVAL` where no such CPU is there (sched_setaffinity(2)).
pub fn set_cpu_affinity(mask: &[u64]) -> nix::Result<()> {
    // SAFETY: pointer and size describe `mask`, which outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) })
        .map(drop)
}

/// set_mempolicy(2) for this thread: `mode` with its flags, and the memory nodes whose bits are set in `nodes`, 64 an
/// element, node 0 in the lowest bit.
///
/// # Errors
/// `EINVAL` for a mode that does not go with the nodes or flags, or nodes of which none is allowed; `ENOSYS` where the
/// kernel has no NUMA support.
pub fn set_memory_policy(mode: c_int, nodes: &[u64]) -> nix::Result<()> {
    // One more than the number of bits: the kernel takes one off (mm/mempolicy.c, get_nodes).
    let count = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask is null with a count of 0, or has that many bits and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, count) }).map(drop)
}

/// setgroups(2), setresgid(2) and setresuid(2), in the order in which each is still allowed.
///
/// # Errors
/// The errno of the call that failed.
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> nix::Result<()> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length describe `groups`, which outlives the call. The raw calls change this thread
        // alone; it is the only one.
        Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: three integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: three integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Every signal at its default action and none blocked. Rust itself ignores SIGPIPE, and what the caller ignored or
/// blocked would be inherited too (row E17).
///
/// # Errors
/// The errno of rt_sigprocmask(2).
pub fn reset_signals() -> nix::Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        let mut action = KernelSigaction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
        // SAFETY: the structure is the kernel's own layout; the default action runs no code of ours. The raw call is
        // needed for 32 and 33, which glibc keeps for itself.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw mut action, std::ptr::null_mut::<u8>(), 8);
        }
    }
    let none: u64 = 0;
    // SAFETY: the mask has the 8 bytes that are said and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u8>(),
            8,
        )
    };
    Errno::result(result).map(drop)
}

/// SIGCHLD at its default action: a caller that ignores it would have our children reaped before we wait for them
/// (sigaction(2)).
pub fn expect_children() {
    let action = KernelSigaction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    // SAFETY: the structure is the kernel's own layout; the default action runs no code of ours.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGCHLD,
            &raw const action,
            std::ptr::null_mut::<u8>(),
            8,
        );
    }
}

/// `struct sigaction` as rt_sigaction(2) takes it (`asm-generic/signal.h`).
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// execve(2); returns only to say why it failed.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: the path and all strings are NUL-terminated, both arrays end in null, and all outlive the call.
    let result = unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::result(result).err().unwrap_or(Errno::EIO)
}

/// The array that execve(2) takes.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Sets the flags of network interface `lo` so that it is up.
///
/// # Errors
/// The errno of ioctl(2), `SIOCGIFFLAGS` or `SIOCSIFFLAGS` (netdevice(7)).
pub fn bring_loopback_up(socket: impl AsFd) -> nix::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: ifreq is plain data; all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: `request` is a full ifreq with a NUL-terminated name and outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: SIOCGIFFLAGS filled the flags member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::EINVAL)?;
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: as above.
    Errno::result(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_capability_set() {
        assert_eq!(low_half(0x1_ffff_fffe), 0xffff_fffe);
        assert_eq!(low_half(0x1_0000_0000 >> 32), 1);
    }

    #[test]
    fn an_unknown_capability_is_einval() {
        assert_eq!(bounding_has(63), Err(Errno::EINVAL));
        assert!(bounding_has(0).is_ok());
    }
}
