//! All `unsafe` code of the library: a system call a wrapper, without a C library.

#![allow(unsafe_code, reason = "the system call module")]

use core::ffi::{CStr, c_char, c_int, c_long};
use core::ptr;

use alloc::vec::Vec;

use crate::error::Errno;

/// The result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

/// The kernel's answers from here on are errnos (include/linux/err.h, MAX_ERRNO).
const ERRNOS: usize = usize::MAX - 4094;

/// A descriptor of this process. It is not owned: the program ends by execve, before which all are close-on-exec.
pub type Fd = c_int;

/// # Safety
/// What the system call reads and writes through its arguments must be there, and stay there as long as the call needs.
unsafe fn syscall(number: c_long, arguments: [usize; 6]) -> Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    let result: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers are those of the system call convention (syscall(2)); the caller vouches for the arguments.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
            in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    if result >= ERRNOS {
        // At most 4095.
        return Err(Errno(i32::try_from(result.wrapping_neg()).unwrap_or(libc::EIO)));
    }
    Ok(result)
}

/// A call whose arguments are all numbers.
fn call(number: c_long, arguments: [usize; 3]) -> Result<usize> {
    let [a, b, c] = arguments;
    // SAFETY: the callers below give numbers only.
    unsafe { syscall(number, [a, b, c, 0, 0, 0]) }
}

/// A signed number as a register holds it.
fn signed(number: c_int) -> usize {
    usize::from_ne_bytes(i64::from(number).to_ne_bytes())
}

/// What a call that returns an int returned.
fn int(result: usize) -> c_int {
    i32::try_from(result).unwrap_or(c_int::MAX)
}

/// _exit(2). Where a seccomp filter refuses that, the one thread ends; where it refuses that too, by an illegal instruction
/// (SIGILL, aarch64: SIGTRAP), which no filter sees: otherwise a profile without `exit_group` would keep it here for ever.
pub fn exit(status: c_int) -> ! {
    for number in [libc::SYS_exit_group, libc::SYS_exit] {
        let _ = call(number, [signed(status), 0, 0]);
    }
    // SAFETY: it traps and does nothing else.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("ud2", options(noreturn, nomem, nostack))
    }
    // SAFETY: it traps and does nothing else.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("brk #1", options(noreturn, nomem, nostack))
    }
}

/// getpid(2).
pub fn pid() -> c_int {
    call(libc::SYS_getpid, [0; 3]).map_or(0, int)
}

/// read(2), tried again after a signal.
///
/// # Errors
/// The errno of read(2).
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: pointer and length describe `buffer`, which outlives the call.
        let result = unsafe {
            syscall(
                libc::SYS_read,
                [signed(fd), buffer.as_mut_ptr().expose_provenance(), buffer.len(), 0, 0, 0],
            )
        };
        if result != Err(Errno(libc::EINTR)) {
            return result;
        }
    }
}

/// write(2), once.
///
/// # Errors
/// The errno of write(2).
pub fn write(fd: Fd, data: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length describe `data`, which outlives the call.
    unsafe { syscall(libc::SYS_write, [signed(fd), data.as_ptr().expose_provenance(), data.len(), 0, 0, 0]) }
}

/// pread(2) of up to `length` bytes.
///
/// # Errors
/// The errno of pread(2).
pub fn read_at(fd: Fd, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = alloc::vec![0; length];
    let at = usize::try_from(offset).map_err(|_| Errno(libc::EFBIG))?;
    // SAFETY: pointer and length describe `bytes`, which outlives the call.
    let count = unsafe {
        syscall(libc::SYS_pread64, [signed(fd), bytes.as_mut_ptr().expose_provenance(), length, at, 0, 0])
    }?;
    bytes.truncate(count);
    Ok(bytes)
}

/// close(2).
pub fn close(fd: Fd) {
    let _ = call(libc::SYS_close, [signed(fd), 0, 0]);
}

/// openat2(2), close-on-exec, from `dir` (`AT_FDCWD` for plain paths) with `RESOLVE_*` flags; a bounded number of EAGAIN
/// is tried again (row A11).
///
/// # Errors
/// The errno of openat2(2).
pub fn open(dir: Fd, path: &CStr, flags: c_int, resolve: u64) -> Result<Fd> {
    // SAFETY: open_how is plain integers; all zero is its documented neutral value.
    let mut how: libc::open_how = unsafe { core::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.resolve = resolve;
    let size = size_of::<libc::open_how>();
    let mut tries = 0;
    loop {
        let arguments = [
            signed(dir),
            path.as_ptr().expose_provenance(),
            (&raw const how).expose_provenance(),
            size,
            0,
            0,
        ];
        // SAFETY: the path is NUL-terminated, `how` has the size that is said, and both outlive the call.
        match unsafe { syscall(libc::SYS_openat2, arguments) } {
            Err(Errno(libc::EAGAIN | libc::EINTR)) if tries < 128 => tries += 1,
            result => return result.map(int),
        }
    }
}

/// fstat(2).
///
/// # Errors
/// The errno of fstat(2).
pub fn stat(fd: Fd) -> Result<libc::stat> {
    // SAFETY: stat is plain data; all zero is valid.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the structure is the kernel's on both architectures, and outlives the call.
    unsafe { syscall(libc::SYS_fstat, [signed(fd), (&raw mut stat).expose_provenance(), 0, 0, 0, 0]) }?;
    Ok(stat)
}

/// stat(2), following links.
///
/// # Errors
/// The errno of stat(2).
pub fn stat_path(path: &CStr) -> Result<libc::stat> {
    // SAFETY: stat is plain data; all zero is valid.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    let arguments = [
        signed(libc::AT_FDCWD),
        path.as_ptr().expose_provenance(),
        (&raw mut stat).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: the path is NUL-terminated, the structure is the kernel's, and both outlive the call.
    unsafe { syscall(libc::SYS_newfstatat, arguments) }?;
    Ok(stat)
}

/// faccessat2(2) with the effective ids: whether `path` may be executed.
///
/// # Errors
/// The errno of faccessat2(2); `ENOSYS` or `EPERM` also where a filter does not know it.
pub fn may_execute(path: &CStr) -> Result<()> {
    let flags = signed(libc::AT_EACCESS);
    let arguments =
        [signed(libc::AT_FDCWD), path.as_ptr().expose_provenance(), signed(libc::X_OK), flags, 0, 0];
    // SAFETY: the path is NUL-terminated and outlives the call.
    unsafe { syscall(libc::SYS_faccessat2, arguments) }.map(drop)
}

/// Whether the file lies on a file system that is mounted noexec.
pub fn is_noexec(fd: Fd) -> bool {
    /// `struct statfs` of `asm-generic/statfs.h` on 64 bits: 15 words, of which this one is `f_flags`.
    const FLAGS: usize = 10;
    let mut fs = [0_u64; 15];
    let arguments = [signed(fd), fs.as_mut_ptr().expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the structure has the kernel's size, and outlives the call.
    unsafe { syscall(libc::SYS_fstatfs, arguments) }.is_ok() && fs[FLAGS] & libc::ST_NOEXEC != 0
}

/// readlink(2).
///
/// # Errors
/// The errno of readlink(2).
pub fn read_link(path: &CStr) -> Result<Vec<u8>> {
    let mut target = alloc::vec![0; 4096];
    let arguments = [
        signed(libc::AT_FDCWD),
        path.as_ptr().expose_provenance(),
        target.as_mut_ptr().expose_provenance(),
        target.len(),
        0,
        0,
    ];
    // SAFETY: the path is NUL-terminated; pointer and length describe `target`; both outlive the call.
    let length = unsafe { syscall(libc::SYS_readlinkat, arguments) }?;
    target.truncate(length);
    Ok(target)
}

/// The effective user and group.
pub fn effective_ids() -> (u32, u32) {
    let get = |number| call(number, [0; 3]).ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX);
    (get(libc::SYS_geteuid), get(libc::SYS_getegid))
}

/// chdir(2).
///
/// # Errors
/// The errno of chdir(2).
pub fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    unsafe { syscall(libc::SYS_chdir, [path.as_ptr().expose_provenance(), 0, 0, 0, 0, 0]) }.map(drop)
}

/// Whether getcwd(2) gives an absolute path: one that leads out of the root shows as `(unreachable)`.
///
/// # Errors
/// The errno of getcwd(2).
pub fn working_directory_is_inside() -> Result<bool> {
    let mut path = [0_u8; 4096];
    // SAFETY: pointer and length describe `path`, which outlives the call.
    unsafe { syscall(libc::SYS_getcwd, [path.as_mut_ptr().expose_provenance(), path.len(), 0, 0, 0, 0]) }?;
    Ok(path[0] == b'/')
}

/// prctl(2) with numbers.
///
/// # Errors
/// The errno of prctl(2).
pub fn control(option: c_int, first: c_int, second: c_int) -> Result<c_int> {
    call(libc::SYS_prctl, [signed(option), signed(first), signed(second)]).map(int)
}

/// `PR_SET_NAME`: up to 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: the name is NUL-terminated and outlives the call.
    let _ = unsafe {
        syscall(libc::SYS_prctl, [signed(libc::PR_SET_NAME), name.as_ptr().expose_provenance(), 0, 0, 0, 0])
    };
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl CapabilityHeader {
    /// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`, for this thread.
    const OWN: Self = Self { version: 0x2008_0522, pid: 0 };
}

/// The permitted set of this thread.
///
/// # Errors
/// The errno of capget(2).
pub fn permitted_capabilities() -> Result<u64> {
    let (header, mut data) = (CapabilityHeader::OWN, [CapabilityData::default(); 2]);
    let arguments =
        [(&raw const header).expose_provenance(), data.as_mut_ptr().expose_provenance(), 0, 0, 0, 0];
    // SAFETY: version 3 fills two data elements; both structures outlive the call.
    unsafe { syscall(libc::SYS_capget, arguments) }?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// capset(2): the effective, permitted and inheritable sets, a bit for each number.
///
/// # Errors
/// `EPERM` where a set has what the thread may not have.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let half = |bits: u64, shift: u32| u32::try_from(bits >> shift & u64::from(u32::MAX)).unwrap_or(0);
    let data = [0, 32].map(|shift| CapabilityData {
        effective: half(effective, shift),
        permitted: half(permitted, shift),
        inheritable: half(inheritable, shift),
    });
    let header = CapabilityHeader::OWN;
    let arguments = [(&raw const header).expose_provenance(), data.as_ptr().expose_provenance(), 0, 0, 0, 0];
    // SAFETY: version 3 takes two data elements; both structures outlive the call.
    unsafe { syscall(libc::SYS_capset, arguments) }.map(drop)
}

/// A new anonymous session keyring, empty, instead of the caller's (row C10).
///
/// # Errors
/// `ENOSYS` where the kernel has no keys, `EDQUOT` where the user has too many (keyctl(2)).
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    call(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0, 0]).map(drop)
}

/// personality(2).
///
/// # Errors
/// `EINVAL` for one that the kernel cannot set.
pub fn set_personality(personality: u32) -> Result<()> {
    let personality = usize::try_from(personality).map_err(|_| Errno(libc::EINVAL))?;
    call(libc::SYS_personality, [personality, 0, 0]).map(drop)
}

/// sched_setattr(2) on this process; `attributes` is a `struct sched_attr`, its size first.
///
/// # Errors
/// The errno of sched_setattr(2).
pub fn set_scheduler(attributes: &[u8]) -> Result<()> {
    const VERSION_0: usize = 48;
    if attributes.len() != VERSION_0 {
        return Err(Errno(libc::E2BIG));
    }
    // SAFETY: the structure has the 48 bytes of its version 0 and outlives the call.
    unsafe { syscall(libc::SYS_sched_setattr, [0, attributes.as_ptr().expose_provenance(), 0, 0, 0, 0]) }
        .map(drop)
}

/// ioprio_set(2) on this process: class and level in one number.
///
/// # Errors
/// The errno of ioprio_set(2).
pub fn set_io_priority(value: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    let value = usize::try_from(value).map_err(|_| Errno(libc::EINVAL))?;
    call(libc::SYS_ioprio_set, [IOPRIO_WHO_PROCESS, 0, value]).map(drop)
}

/// set_mempolicy(2): mode with its flags, and a mask of memory nodes, 64 an element.
///
/// # Errors
/// `EINVAL` for a mode that does not go with nodes or flags, or nodes of which none is allowed; `ENOSYS` without NUMA.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    // One more than the number of bits: the kernel takes one off (mm/mempolicy.c, get_nodes).
    let (mask, count) =
        if nodes.is_empty() { (0, 0) } else { (nodes.as_ptr().expose_provenance(), nodes.len() * 64 + 1) };
    // SAFETY: the mask is null with a count of 0, or has that many bits and outlives the call.
    unsafe { syscall(libc::SYS_set_mempolicy, [signed(mode), mask, count, 0, 0, 0]) }.map(drop)
}

/// setgroups(2), setresgid(2) and setresuid(2), in the order in which each is still allowed.
///
/// # Errors
/// The errno of the call that failed.
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<()> {
    let number = |id: u32| usize::try_from(id).map_err(|_| Errno(libc::EINVAL));
    if let Some(groups) = groups {
        // SAFETY: pointer and length describe `groups`, which outlives the call.
        unsafe {
            syscall(libc::SYS_setgroups, [groups.len(), groups.as_ptr().expose_provenance(), 0, 0, 0, 0])
        }?;
    }
    call(libc::SYS_setresgid, [number(gid)?; 3])?;
    call(libc::SYS_setresuid, [number(uid)?; 3]).map(drop)
}

/// umask(2).
pub fn set_umask(mask: u32) {
    let _ = call(libc::SYS_umask, [usize::try_from(mask & 0o777).unwrap_or(0o022), 0, 0]);
}

/// seccomp(2): loads `program`, `sock_filter` structures one behind the other; gives the listener where `flags` asks
/// for one.
///
/// # Errors
/// The errno of seccomp(2); `EBUSY` where a thread has another filter.
pub fn load_filter(program: &[u8], flags: u64) -> Result<Option<Fd>> {
    let length =
        u16::try_from(program.len() / size_of::<libc::sock_filter>()).map_err(|_| Errno(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let flags = usize::try_from(flags).map_err(|_| Errno(libc::EINVAL))?;
    let operation = usize::try_from(libc::SECCOMP_SET_MODE_FILTER).unwrap_or(1);
    // SAFETY: the program has that many instructions; the kernel only reads it, copies each, and asks for no alignment
    // of it (copy_from_user). Both outlive the call.
    let result = unsafe {
        syscall(libc::SYS_seccomp, [operation, flags, (&raw const filter).expose_provenance(), 0, 0, 0])
    }?;
    if flags & usize::try_from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap_or(0) != 0 {
        return Ok(Some(int(result)));
    }
    // With TSYNC a positive result is a thread that could not be synchronized; there is no other.
    if result == 0 { Ok(None) } else { Err(Errno(libc::EBUSY)) }
}

/// Every signal at its default action and none blocked: what the caller ignored or blocked would be inherited (row E17).
///
/// # Errors
/// The errno of rt_sigprocmask(2).
pub fn reset_signals() -> Result<()> {
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            set_action(signal, libc::SIG_DFL);
        }
    }
    let none: u64 = 0;
    let arguments =
        [signed(libc::SIG_SETMASK), (&raw const none).expose_provenance(), 0, size_of::<u64>(), 0, 0];
    // SAFETY: the mask has the 8 bytes that are said and outlives the call.
    unsafe { syscall(libc::SYS_rt_sigprocmask, arguments) }.map(drop)
}

/// Whether SIGPIPE is ignored, so that a write to a pipe whose reader is gone is an errno, or at its default action.
pub fn set_broken_pipes_ignored(ignored: bool) {
    set_action(libc::SIGPIPE, if ignored { libc::SIG_IGN } else { libc::SIG_DFL });
}

fn set_action(signal: c_int, handler: usize) {
    /// `struct sigaction` as rt_sigaction(2) takes it (`asm-generic/signal.h`).
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: usize,
        restorer: usize,
        mask: u64,
    }
    let action = Action { handler, flags: 0, restorer: 0, mask: 0 };
    let arguments = [signed(signal), (&raw const action).expose_provenance(), 0, size_of::<u64>(), 0, 0];
    // SAFETY: the structure is the kernel's own layout and outlives the call; neither action runs code.
    let _ = unsafe { syscall(libc::SYS_rt_sigaction, arguments) };
}

/// setsid(2).
///
/// # Errors
/// `EPERM` where the process leads a group already.
pub fn new_session() -> Result<()> {
    call(libc::SYS_setsid, [0; 3]).map(drop)
}

/// `TIOCSCTTY`: makes the terminal the controlling one of this session.
///
/// # Errors
/// The errno of ioctl(2).
pub fn take_controlling_terminal(fd: Fd) -> Result<()> {
    let request = usize::try_from(libc::TIOCSCTTY).map_err(|_| Errno(libc::EINVAL))?;
    call(libc::SYS_ioctl, [signed(fd), request, 0]).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// The errno of close_range(2).
pub fn mark_cloexec_from(first: Fd) -> Result<()> {
    let flags = usize::try_from(libc::CLOSE_RANGE_CLOEXEC).map_err(|_| Errno(libc::EINVAL))?;
    call(libc::SYS_close_range, [signed(first), usize::try_from(u32::MAX).unwrap_or(0), flags]).map(drop)
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The errno of close_range(2).
pub fn close_from(first: Fd) -> Result<()> {
    call(libc::SYS_close_range, [signed(first), usize::try_from(u32::MAX).unwrap_or(0), 0]).map(drop)
}

/// dup3(2) without flags: `target` stays open across execve.
///
/// # Errors
/// The errno of dup3(2).
pub fn place_at(fd: Fd, target: Fd) -> Result<()> {
    call(libc::SYS_dup3, [signed(fd), signed(target), 0]).map(drop)
}

/// prlimit(2) on this process.
///
/// # Errors
/// `EPERM` for raising a hard limit without CAP_SYS_RESOURCE, `EINVAL` for soft above hard.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let resource = usize::try_from(resource).map_err(|_| Errno(libc::EINVAL))?;
    // SAFETY: the new limit is a full rlimit64 that outlives the call; no old one is asked for.
    unsafe { syscall(libc::SYS_prlimit64, [0, resource, (&raw const limit).expose_provenance(), 0, 0, 0]) }
        .map(drop)
}

/// Which of the two processes goes on after [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// The caller, with the number of the new process.
    Parent(c_int),
    /// The new process.
    Child,
}

/// clone(2) with fork's meaning; with `sibling` the new process is a child of the caller's parent. Not clone3(2), which
/// profiles answer with ENOSYS, since a filter cannot see its flags.
///
/// # Errors
/// The errno of clone(2).
pub fn fork(sibling: bool) -> Result<Forked> {
    let flags = if sibling { libc::CLONE_PARENT } else { 0 } | libc::SIGCHLD;
    // Without CLONE_VM and a stack the child runs on its own copy of this one. Flags and stack come first on both
    // architectures, and the rest is not looked at.
    match call(libc::SYS_clone, [signed(flags), 0, 0])? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(int(pid))),
    }
}

/// execve(2); `arguments` and `environment` end in null pointers. Returns only to say why it failed.
pub fn execute(path: &CStr, arguments: &[&CStr], environment: &[&CStr]) -> Errno {
    let pointers = |strings: &[&CStr]| -> Vec<*const c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    let arguments = [
        path.as_ptr().expose_provenance(),
        argv.as_ptr().expose_provenance(),
        envp.as_ptr().expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: all strings end in NUL, both arrays in null, and all outlive the call.
    unsafe { syscall(libc::SYS_execve, arguments) }.err().unwrap_or(Errno(libc::EIO))
}

/// pipe2(2): the reading and the writing end, both close-on-exec.
///
/// # Errors
/// The errno of pipe2(2).
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends: [c_int; 2] = [-1; 2];
    let flags = signed(libc::O_CLOEXEC);
    // SAFETY: the kernel fills two ints, which outlive the call.
    unsafe { syscall(libc::SYS_pipe2, [ends.as_mut_ptr().expose_provenance(), flags, 0, 0, 0, 0]) }?;
    Ok((ends[0], ends[1]))
}

/// Makes reads or writes of a pipe answer `EAGAIN` instead of waiting.
///
/// # Errors
/// The errno of fcntl(2).
pub fn set_nonblocking(fd: Fd) -> Result<()> {
    call(libc::SYS_fcntl, [signed(fd), signed(libc::F_SETFL), signed(libc::O_NONBLOCK)]).map(drop)
}

/// pidfd_open(2) of a child that has not been waited for.
///
/// # Errors
/// The errno of pidfd_open(2).
pub fn open_pidfd(pid: c_int) -> Result<Fd> {
    call(libc::SYS_pidfd_open, [signed(pid), 0, 0]).map(int)
}

/// ppoll(2): waits for `milliseconds`, for ever without; a signal ends the wait like an event.
///
/// # Errors
/// The errno of ppoll(2).
pub fn poll(fds: &mut [libc::pollfd], milliseconds: Option<u64>) -> Result<()> {
    let time = milliseconds.map(|milliseconds| libc::timespec {
        tv_sec: i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(milliseconds % 1000 * 1_000_000).unwrap_or(0),
    });
    let time = time.as_ref().map_or(0, |time| ptr::from_ref(time).expose_provenance());
    let arguments = [fds.as_mut_ptr().expose_provenance(), fds.len(), time, 0, 0, 0];
    // SAFETY: pointer and length describe `fds`; the time is null or a timespec; all outlive the call.
    match unsafe { syscall(libc::SYS_ppoll, arguments) } {
        Ok(_) | Err(Errno(libc::EINTR)) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(c_int),
    /// By this signal.
    Signaled(c_int),
}

/// wait4(2) for one child.
///
/// # Errors
/// The errno of wait4(2).
pub fn wait(pid: c_int) -> Result<Ended> {
    let mut status: c_int = 0;
    loop {
        let arguments = [signed(pid), (&raw mut status).expose_provenance(), 0, 0, 0, 0];
        // SAFETY: the kernel fills one int, which outlives the call.
        match unsafe { syscall(libc::SYS_wait4, arguments) } {
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
            Ok(_) if libc::WIFSIGNALED(status) => return Ok(Ended::Signaled(libc::WTERMSIG(status))),
            Ok(_) => return Ok(Ended::Exited(libc::WEXITSTATUS(status))),
        }
    }
}

/// SIGKILL to the process group that the child `leader` leads, which has not been waited for.
pub fn kill_group(leader: c_int) {
    let _ = call(libc::SYS_kill, [signed(-leader), signed(libc::SIGKILL), 0]);
}

/// Milliseconds of CLOCK_MONOTONIC.
pub fn milliseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let arguments = [signed(libc::CLOCK_MONOTONIC), (&raw mut time).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel fills one timespec, which outlives the call.
    let _ = unsafe { syscall(libc::SYS_clock_gettime, arguments) };
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

/// fsopen(2), close-on-exec.
///
/// # Errors
/// The errno of fsopen(2).
pub fn open_file_system(kind: &CStr) -> Result<Fd> {
    const FSOPEN_CLOEXEC: usize = 1;
    // SAFETY: the name is NUL-terminated and outlives the call.
    unsafe { syscall(libc::SYS_fsopen, [kind.as_ptr().expose_provenance(), FSOPEN_CLOEXEC, 0, 0, 0, 0]) }
        .map(int)
}

/// sendmsg(2) with one descriptor (unix(7), SCM_RIGHTS).
///
/// # Errors
/// The errno of sendmsg(2).
pub fn send_with_fd(socket: Fd, data: &[u8], fd: Fd) -> Result<()> {
    /// A control message with one int (cmsg(3)), padded to a word.
    #[repr(C)]
    struct Rights {
        length: usize,
        level: c_int,
        kind: c_int,
        fd: c_int,
        padding: c_int,
    }
    let length = core::mem::offset_of!(Rights, padding);
    let mut rights = Rights { length, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, fd, padding: 0 };
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: msghdr is plain data; all zero is valid.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = (&raw mut rights).cast();
    // Of other types in other C libraries, with zeroes behind it in musl's: what the kernel reads is the same.
    message.msg_controllen = size_of::<Rights>() as _;
    let arguments = [signed(socket), (&raw const message).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the message describes `data` and `rights`, which the kernel only reads; all outlive the call.
    unsafe { syscall(libc::SYS_sendmsg, arguments) }.map(drop)
}

/// mmap(2) of `length` bytes of `fd` from `offset` (a multiple of the page size) on, to be read for as long as the
/// program runs.
///
/// # Errors
/// The errno of mmap(2).
pub fn map_file(fd: Fd, offset: usize, length: usize) -> Result<&'static [u8]> {
    let (protection, flags) = (signed(libc::PROT_READ), signed(libc::MAP_PRIVATE));
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { syscall(libc::SYS_mmap, [0, length, protection, flags, signed(fd), offset]) }?;
    // SAFETY: the mapping has that length, is never undone, and its file is sealed against change.
    Ok(unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(address), length) })
}

/// New memory of at least `length` bytes, page-aligned; none where there is no more.
pub fn map_memory(length: usize) -> Option<*mut u8> {
    let flags = signed(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let protection = signed(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { syscall(libc::SYS_mmap, [0, length, protection, flags, signed(-1), 0]) };
    address.ok().map(ptr::with_exposed_provenance_mut)
}
