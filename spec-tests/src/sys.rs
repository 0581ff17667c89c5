//! The only unsafe code of this crate: raw system calls, fork, what a child does between fork and execve, and the
//! C entry point.
//!
//! The crate has a C `main` because the probe must see what the runtime left behind: the standard library's own
//! start-up ignores SIGPIPE, opens /dev/null on closed standard descriptors and installs fault handlers, all of
//! which are things that the probe reports.
#![allow(unsafe_code, reason = "the one module of this crate for raw system calls")]

use std::ffi::{CString, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

/// The C entry point; the standard library reads the arguments from its own `.init_array` entry.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const std::ffi::c_char) -> c_int {
    crate::entry()
}

/// fork(2). The caller must have one thread only, as every process of this program has.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the program never starts a thread, so the child may go on with any code.
    unsafe { nix::unistd::fork() }
}

/// `_exit(2)`: ends the process without running destructors, for forked children.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(status) }
}

/// pidfd_open(2).
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Any system call by its number with plain integer arguments, for probing filters: only numbers whose arguments
/// are no pointers, or null ones, are passed by the cases.
pub fn raw_syscall(number: c_long, arguments: [c_long; 3]) -> nix::Result<c_long> {
    // SAFETY: arguments are integers or null; the calls used by the cases touch no memory of ours.
    Errno::result(unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], 0, 0, 0) })
}

/// prctl(2) getters that take no pointer (`PR_GET_SECUREBITS`, `PR_CAPBSET_READ` and the like).
pub fn prctl_get(option: c_int, argument: libc::c_ulong) -> nix::Result<c_int> {
    // SAFETY: getters that take integers only.
    Errno::result(unsafe { libc::prctl(option, argument, 0, 0, 0) })
}

/// The serial number of the session keyring (`KEYCTL_GET_KEYRING_ID`, without creating one).
pub fn session_keyring() -> nix::Result<c_long> {
    const KEYCTL_GET_KEYRING_ID: c_long = 0;
    const KEY_SPEC_SESSION_KEYRING: c_long = -3;
    // SAFETY: integers only.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
    })
}

/// The description of a key (`KEYCTL_DESCRIBE`): `type;uid;gid;permissions;description`.
pub fn describe_key(serial: c_long) -> nix::Result<String> {
    const KEYCTL_DESCRIBE: c_long = 6;
    let mut buffer = [0u8; 256];
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`.
    let length = Errno::result(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, serial, buffer.as_mut_ptr(), buffer.len())
    })?;
    let length = usize::try_from(length).unwrap_or(0).min(buffer.len()).saturating_sub(1);
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether a descriptor number is open in this process.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only asks about the number.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// How a signal is dealt with: `'d'`efault, `'i'`gnored or `'c'`aught; `None` for numbers that are no signals.
pub fn disposition(signal: c_int) -> Option<char> {
    // SAFETY: a zeroed sigaction is a valid out-parameter; no new action is set.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `action` is ours; the new action is null.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0 {
        return None;
    }
    Some(match action.sa_sigaction {
        libc::SIG_DFL => 'd',
        libc::SIG_IGN => 'i',
        _ => 'c',
    })
}

/// The numbers of the signals that are blocked.
pub fn blocked_signals() -> Vec<c_int> {
    // SAFETY: a zeroed set is a valid out-parameter; with a null new set nothing changes.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: `set` was filled by the kernel and the number is in range.
    (1..=64).filter(|signal| unsafe { libc::sigismember(&raw const set, *signal) } == 1).collect()
}

/// Blocks `signals` and returns a descriptor that reads them (signalfd(2)).
pub fn signal_fd(signals: &[c_int]) -> nix::Result<OwnedFd> {
    // SAFETY: sigemptyset fills the set; each number comes from the caller and is checked by sigaddset.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            Errno::result(libc::sigaddset(&raw mut set, *signal))?;
        }
        Errno::result(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        Errno::result(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC))?
    };
    // SAFETY: the kernel just returned this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal by number (real-time ones included).
pub fn send_signal(pid: Pid, signal: c_int) -> nix::Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// The terminal's size in columns and rows (`TIOCGWINSZ`).
pub fn terminal_size(fd: BorrowedFd<'_>) -> nix::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a winsize that the kernel fills.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_col, size.ws_row))
}

/// Sets the terminal's size (`TIOCSWINSZ`); the foreground process group gets SIGWINCH.
pub fn set_terminal_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a valid winsize that the kernel reads.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Pushes one byte into a terminal's input (`TIOCSTI`).
pub fn push_terminal_input(fd: BorrowedFd<'_>, byte: u8) -> nix::Result<()> {
    // SAFETY: the kernel reads one byte from the pointer.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSTI, &raw const byte) }).map(drop)
}

/// A descriptor that is known to be a pty's master.
pub fn pty_master(fd: OwnedFd) -> nix::Result<nix::pty::PtyMaster> {
    // SAFETY: the caller made the descriptor as a master; ownership goes over.
    Ok(unsafe { nix::pty::PtyMaster::from_owned_fd(fd) })
}

/// Waits for one descriptor that was sent over a connected socket (`SCM_RIGHTS`), with the message beside it.
pub fn receive_fd(socket: BorrowedFd<'_>) -> nix::Result<(Vec<u8>, OwnedFd)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    let mut data = [0u8; 4096];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let (length, received) = {
        let mut parts = [std::io::IoSliceMut::new(&mut data)];
        let message = recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut received = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                received = fds.first().copied();
            }
        }
        (message.bytes, received)
    };
    let fd = received.ok_or(Errno::ENOMSG)?;
    // SAFETY: the kernel installed this descriptor for us with the message.
    Ok((data[..length].to_vec(), unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What a child does between fork and execve, in the order of the fields.
#[derive(Default, Clone)]
pub struct ChildSetup {
    /// Descriptors to hand on: (ours, the number that the child sees).
    pub fds: Vec<(RawFd, RawFd)>,
    /// Descriptors to close.
    pub close: Vec<RawFd>,
    /// The file mode creation mask.
    pub umask: Option<libc::mode_t>,
    /// Supplementary groups.
    pub groups: Option<Vec<libc::gid_t>>,
    /// Blocks and ignores every signal that can be.
    pub deaf: bool,
    /// A session of its own, with descriptor 0 as its controlling terminal.
    pub terminal: bool,
    /// Securebits (capabilities(7)).
    pub securebits: Option<libc::c_ulong>,
    /// A soft limit of open files (the hard one stays).
    pub open_files: Option<u64>,
    /// A soft limit of core files without bound (the hard one stays).
    pub core_files: bool,
    /// `ADDR_NO_RANDOMIZE`, as `setarch -R` sets it.
    pub fixed_addresses: bool,
    /// Capabilities to raise in the inheritable and ambient sets.
    pub ambient: Vec<u32>,
    /// Another user and group, without supplementary groups.
    pub uid: Option<(libc::uid_t, libc::gid_t)>,
}

/// Makes `command` do `setup` in its child.
pub fn prepare(command: &mut Command, setup: ChildSetup) {
    // SAFETY: the program has one thread, so no lock can be held by another at the time of the fork, and what runs
    // here are system calls on data that was made before it.
    unsafe {
        command.pre_exec(move || apply(&setup).map_err(std::io::Error::from));
    }
}

fn apply(setup: &ChildSetup) -> nix::Result<()> {
    // First out of the way of each other, then into place: a target may be another's source.
    let mut moved = Vec::with_capacity(setup.fds.len());
    for (ours, wanted) in &setup.fds {
        // SAFETY: plain integers; F_DUPFD makes a new descriptor above the range that cases ask for.
        let high = Errno::result(unsafe { libc::fcntl(*ours, libc::F_DUPFD_CLOEXEC, 600) })?;
        moved.push((high, *wanted));
    }
    for (high, wanted) in moved {
        // SAFETY: plain integers; the target is what the case asked for.
        Errno::result(unsafe { libc::dup2(high, wanted) })?;
    }
    for fd in &setup.close {
        // SAFETY: the case asked for this descriptor to be closed in the child.
        unsafe { libc::close(*fd) };
    }
    if let Some(mask) = setup.umask {
        // SAFETY: integers only.
        unsafe { libc::umask(mask) };
    }
    if let Some(groups) = &setup.groups {
        // SAFETY: the pointer and the length belong to one vector.
        Errno::result(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    }
    if setup.terminal {
        nix::unistd::setsid()?;
        // SAFETY: descriptor 0 is the terminal that the caller put there; no pointer.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    }
    if let Some(bits) = setup.securebits {
        // SAFETY: integers only.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) })?;
    }
    if let Some(limit) = setup.open_files {
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, hard)?;
    }
    if setup.core_files {
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE)?;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, hard, hard)?;
    }
    if setup.fixed_addresses {
        // SAFETY: integers only.
        Errno::result(unsafe { libc::personality(0x0004_0000) })?;
    }
    if !setup.ambient.is_empty() {
        raise_ambient(&setup.ambient)?;
    }
    if let Some((uid, gid)) = setup.uid {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setgid(gid.into())?;
        nix::unistd::setuid(uid.into())?;
    }
    if setup.deaf {
        make_deaf();
    }
    Ok(())
}

fn make_deaf() {
    // SAFETY: dispositions and the mask of this process only; failures (KILL, STOP) are of no interest.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn raise_ambient(capabilities: &[u32]) -> nix::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    const PR_CAP_AMBIENT: c_int = 47;
    const PR_CAP_AMBIENT_RAISE: libc::c_ulong = 2;
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: header and data have the layout of version 3 (linux/capability.h).
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    for capability in capabilities {
        let word = usize::from(*capability >= 32);
        data[word].inheritable |= 1 << (capability % 32);
    }
    // SAFETY: as above; capset reads both.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    for capability in capabilities {
        // SAFETY: integers only.
        Errno::result(unsafe {
            libc::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(*capability), 0, 0)
        })?;
    }
    Ok(())
}

/// Allocates and touches `bytes` of anonymous memory, page by page, and keeps it.
pub fn occupy(bytes: usize) -> nix::Result<()> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    for offset in (0..bytes).step_by(4096) {
        // SAFETY: inside the mapping made above.
        unsafe { *start.cast::<u8>().add(offset) = 1 };
    }
    Ok(())
}

/// The seals of a memory file (`F_GET_SEALS`), or an error for other files.
pub fn seals(fd: BorrowedFd<'_>) -> nix::Result<c_int> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GET_SEALS)
}

/// A descriptor of an epoll instance, as a kind of object that a runtime must not hand on.
pub fn epoll_fd() -> nix::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = Errno::result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: the kernel just returned this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds a key to the session keyring of this process, as a secret that containers must not see.
pub fn add_session_key(name: &str) -> nix::Result<c_long> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
    const KEY_SPEC_SESSION_KEYRING: c_long = -3;
    let kind = CString::new("user").map_err(|_| Errno::EINVAL)?;
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a null name asks for an anonymous session keyring.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_void>())
    })?;
    // SAFETY: both strings end in NUL and outlive the call; the payload is six bytes.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            name.as_ptr(),
            b"canary".as_ptr(),
            6usize,
            KEY_SPEC_SESSION_KEYRING,
        )
    })
}

/// A system call of the 32-bit table without arguments, by its interrupt.
#[cfg(target_arch = "x86_64")]
pub fn int80(number: u32) -> nix::Result<i32> {
    let mut result = number;
    // SAFETY: the kernel reads registers only; rbx, which the compiler keeps to itself, is set and put back around the call,
    // and the call clears r8 to r11 (entry_64_compat.S).
    unsafe {
        std::arch::asm!(
            "mov {kept}, rbx",
            "xor ebx, ebx",
            "int 0x80",
            "mov rbx, {kept}",
            kept = out(reg) _,
            inout("eax") result,
            in("ecx") 0,
            in("edx") 0,
            in("esi") 0,
            in("edi") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match result.cast_signed() {
        error @ -4095..=-1 => Err(Errno::from_raw(-error)),
        value => Ok(value),
    }
}

/// A system call of the 32-bit table, which this machine has not.
#[cfg(not(target_arch = "x86_64"))]
pub fn int80(_number: u32) -> nix::Result<i32> {
    Err(Errno::ENOSYS)
}

/// Makes the child of `command` stop for this process at its execve.
pub fn traced_by_parent(command: &mut Command) {
    // SAFETY: one system call between fork and execve, on integers.
    unsafe {
        command.pre_exec(|| {
            let none = std::ptr::null_mut::<libc::c_void>();
            Errno::result(libc::ptrace(libc::PTRACE_TRACEME, 0, none, none)).map(drop).map_err(Into::into)
        });
    }
}

/// Lets blocking calls of this process end with EINTR after so many seconds and each second from then on; 0 takes that back.
pub fn interrupt_after(seconds: u32) -> nix::Result<()> {
    extern "C" fn nothing(_signal: c_int) {}
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(nothing),
        nix::sys::signal::SaFlags::empty(),
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGALRM, &action) }?;
    let at = |seconds: u32| libc::timeval { tv_sec: seconds.into(), tv_usec: 0 };
    let timer = libc::itimerval { it_interval: at(1), it_value: at(seconds) };
    // SAFETY: the kernel reads one structure, and writes none where the third argument is null.
    Errno::result(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) })
        .map(drop)
}

/// The next change of any child or tracee: its pid and wait(2)'s status. None where there is no child any more, or the time
/// of [`interrupt_after`] is over.
pub fn wait_any() -> nix::Result<Option<(Pid, c_int)>> {
    let mut status = 0;
    // SAFETY: the status is ours for the length of the call.
    match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) }) {
        Err(Errno::ECHILD | Errno::EINTR) => Ok(None),
        pid => pid.map(|pid| Some((Pid::from_raw(pid), status))),
    }
}

/// ptrace(2), as far as a tracer of system calls needs it; every tracee is stopped.
pub mod ptrace {
    use super::{Errno, Pid, c_int, c_long};

    fn request(request: libc::c_uint, pid: Pid, data: c_long) -> nix::Result<()> {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests take an integer as data, and no address.
        Errno::result(unsafe { libc::ptrace(request, pid.as_raw(), none, data) }).map(drop)
    }

    /// Follows children and marks the stops at calls; the tracees end with the tracer.
    pub fn set_options(pid: Pid) -> nix::Result<()> {
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SETOPTIONS, pid, options.into())
    }

    /// Goes on to the next entry to or end of a call, with a signal or 0.
    pub fn to_next_call(pid: Pid, signal: c_int) -> nix::Result<()> {
        request(libc::PTRACE_SYSCALL, pid, signal.into())
    }

    /// Goes on for one instruction; a system call is one.
    pub fn to_next_instruction(pid: Pid, signal: c_int) -> nix::Result<()> {
        request(libc::PTRACE_SINGLESTEP, pid, signal.into())
    }

    /// Goes on to the next event.
    pub fn go_on(pid: Pid, signal: c_int) -> nix::Result<()> {
        request(libc::PTRACE_CONT, pid, signal.into())
    }

    /// Lets it go, with a signal or 0.
    pub fn detach(pid: Pid, signal: c_int) -> nix::Result<()> {
        request(libc::PTRACE_DETACH, pid, signal.into())
    }

    /// The number of the call that it is about to make; none at the end of one.
    pub fn call_at_entry(pid: Pid) -> nix::Result<Option<c_long>> {
        // SAFETY: all-zero is a value of this structure of integers.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::ptrace_syscall_info>();
        // SAFETY: the kernel writes at most `size` bytes to the structure, which is ours.
        let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid.as_raw(), size, &raw mut info) };
        Errno::result(got)?;
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(None);
        }
        // SAFETY: `op` says that this member is the one that was written.
        let number = unsafe { info.u.entry.nr };
        Ok(c_long::try_from(number).ok())
    }

    #[cfg(target_arch = "x86_64")]
    fn change(pid: Pid, change: impl FnOnce(&mut libc::user_regs_struct)) -> nix::Result<()> {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: all-zero is a value of this structure of integers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one structure of this type, which is ours.
        Errno::result(unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid.as_raw(), none, &raw mut registers) })?;
        change(&mut registers);
        // SAFETY: the kernel reads one structure of this type.
        Errno::result(unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid.as_raw(), none, &raw mut registers) })
            .map(drop)
    }

    /// At the entry: no call is made.
    #[cfg(target_arch = "x86_64")]
    pub fn skip_call(pid: Pid) -> nix::Result<()> {
        change(pid, |registers| registers.orig_rax = u64::MAX)
    }

    /// At the end: what the call returns.
    #[cfg(target_arch = "x86_64")]
    pub fn set_result(pid: Pid, result: i64) -> nix::Result<()> {
        change(pid, |registers| registers.rax = result.cast_unsigned())
    }

    /// At the entry: no call is made.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn skip_call(_pid: Pid) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }

    /// At the end: what the call returns.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn set_result(_pid: Pid, _result: i64) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }
}
