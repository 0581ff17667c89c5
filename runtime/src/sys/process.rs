//! What a process is: capabilities, keyring, scheduling, limits, names; and execve(2).

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{c_int, c_ulong};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::resource::Resource;
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

/// setdomainname(2).
///
/// # Errors
/// The errno of setdomainname(2).
pub fn set_domainname(name: &str) -> nix::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// prlimit(2): a soft and a hard limit of process `pid`, which must be a child that has not been waited for, or of this
/// process for 0.
///
/// # Errors
/// `EPERM` for raising a hard limit without CAP_SYS_RESOURCE, `EINVAL` for soft above hard.
pub fn set_limit(pid: Pid, resource: Resource, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is a full rlimit64 that outlives the call; no old one is asked for.
    Errno::result(unsafe {
        libc::prlimit64(pid.as_raw(), resource as _, &raw const limit, std::ptr::null_mut())
    })
    .map(drop)
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
    unsafe { get_interface_flags(fd, &raw mut request) }?;
    // SAFETY: SIOCGIFFLAGS filled the flags member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::EINVAL)?;
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: as above.
    unsafe { set_interface_flags(fd, &raw const request) }.map(drop)
}

nix::ioctl_read_bad!(
    /// The flags of the interface of this name (netdevice(7)).
    get_interface_flags, libc::SIOCGIFFLAGS, libc::ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Sets the flags of the interface of this name (netdevice(7)).
    set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq
);
