//! Stops a runtime at each of its system calls, in all of its processes, and at one of them kills the process that makes
//! it, or lets it fail (ptrace(2)). Counts its instructions, too.
//!
//! Counted is every call from the first execve on, whichever process makes it, until a process becomes the container's
//! program. One counter for all: the order of two processes may differ from run to run, so that a sweep does not see each
//! order, but it sees each call.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_long;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use crate::failure::{During, Failure, Outcome};
use crate::harness::note_end;
use crate::sys::{self, ptrace};
use crate::{ensure, leftovers};

/// How long a command may take under the tracer, in seconds.
const LIMIT: u32 = 20;
/// The same where each of its instructions stops it, of which there are a million: each takes 30 microseconds on a virtual
/// machine, which has to leave its host for it.
const STEPPING_LIMIT: u32 = 900;
/// How long its processes may take to be let go, in seconds.
const RELEASE_LIMIT: u32 = 10;

/// What happens at the call that is meant.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// SIGKILL before the call is made.
    Kill,
    /// The call is not made, and returns this errno.
    Fail(Errno),
    /// Something else happens first, and then the call is made.
    Meanwhile(fn(&Path)),
}

/// Whose calls count, of a command that lives long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The command's own.
    Command,
    /// Those of the processes that it starts.
    Children,
}

/// Which part of a command that lives long is meant: calls count while it is `armed`.
#[derive(Debug, Clone)]
pub struct Focus {
    /// Whether they count now.
    pub armed: Arc<AtomicBool>,
    /// Whose.
    pub whose: Whose,
}

/// What came of a command.
#[derive(Debug, Default)]
pub struct Traced {
    /// Its exit status, or 128 and the number of the signal that ended it.
    pub status: i32,
    /// Calls that were counted, up to the one that was meant.
    pub calls: usize,
    /// The call that was met: its name.
    pub met: Option<String>,
    /// Instructions outside the kernel, where they were counted.
    pub instructions: u64,
}

/// A process under the tracer.
#[derive(Debug, Default, Clone, Copy)]
struct Tracee {
    /// Its first stop has been seen.
    begun: bool,
    /// It has become the container's program.
    is_program: bool,
    /// It is about to return from the call that is meant to fail.
    failing: bool,
}

/// Which calls are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The call of this number in the order of all, counted from 1; none for 0.
    Place(usize),
    /// Every call of this kind.
    Kind(c_long),
    /// The call of this number among those of these kinds.
    Among(usize, &'static [c_long]),
    /// Each call.
    Every,
    /// None: instructions are counted.
    Instruction,
}

struct Tracer {
    main: Pid,
    tracees: BTreeMap<Pid, Tracee>,
    at: At,
    fault: Fault,
    focus: Option<Focus>,
    /// Of what happens meanwhile.
    place: PathBuf,
    found: Traced,
    done: bool,
}

/// Runs `command` and does `fault` at its call number `at`, counted from 1; at none for 0. Calls that cannot be made to fail
/// in a way that the kernel would are passed over: the fault meets the next that can.
pub fn run(command: Command, at: usize, fault: Fault) -> Outcome<Traced> {
    follow(command, At::Place(at), fault, None, Path::new(""))
}

/// As [`run`], of the part that is in focus alone.
pub fn run_focused(command: Command, at: usize, fault: Fault, focus: Focus) -> Outcome<Traced> {
    follow(command, At::Place(at), fault, Some(focus), Path::new(""))
}

/// Runs `command` and does `fault` at each call of one kind.
pub fn run_without(command: Command, kind: c_long, fault: Fault) -> Outcome<Traced> {
    follow(command, At::Kind(kind), fault, None, Path::new(""))
}

/// Runs `command`; before its call number `at` among those of `kinds`, `act` is done with `place`.
pub fn run_meanwhile(
    command: Command,
    at: usize,
    kinds: &'static [c_long],
    act: fn(&Path),
    place: &Path,
) -> Outcome<Traced> {
    follow(command, At::Among(at, kinds), Fault::Meanwhile(act), None, place)
}

/// Runs `command`; before each of its calls, `act` is done with `place`.
pub fn run_beside_every_call(command: Command, act: fn(&Path), place: &Path) -> Outcome<Traced> {
    follow(command, At::Every, Fault::Meanwhile(act), None, place)
}

/// Runs `command` and does `fault` at its call number `at` among those of `kinds`.
pub fn run_among(command: Command, at: usize, kinds: &'static [c_long], fault: Fault) -> Outcome<Traced> {
    follow(command, At::Among(at, kinds), fault, None, Path::new(""))
}

/// Runs `command` and counts the instructions of its processes outside the kernel, until one becomes the container's program.
/// One after the other (`PTRACE_SINGLESTEP`): no counter of the processor is needed, and what the kernel or another process does
/// meanwhile does not count.
pub fn run_by_instructions(command: Command) -> Outcome<Traced> {
    // The two take turns, and do so four times as fast where neither has to wake another processor up.
    let (this_thread, mut here) = (Pid::from_raw(0), CpuSet::new());
    here.set(sched_getcpu()?)?;
    let everywhere = sched_getaffinity(this_thread)?;
    sched_setaffinity(this_thread, &here)?;
    let found = follow(command, At::Instruction, Fault::Kill, None, Path::new(""));
    sched_setaffinity(this_thread, &everywhere)?;
    found
}

fn follow(mut command: Command, at: At, fault: Fault, focus: Option<Focus>, place: &Path) -> Outcome<Traced> {
    sys::traced_by_parent(&mut command);
    let child = command.spawn().during("start the command")?;
    let main = Pid::from_raw(child.id().try_into()?);
    let tracees = BTreeMap::from([(main, Tracee { begun: true, ..Tracee::default() })]);
    let mut tracer = Tracer {
        main,
        tracees,
        at,
        fault,
        focus,
        place: place.to_owned(),
        found: Traced::default(),
        done: false,
    };
    let first = waitpid(main, None)?;
    ensure!(matches!(first, WaitStatus::Stopped(..)), "the command does not stop for the tracer: {first:?}");
    ptrace::set_options(main)?;
    tracer.resume(main, 0)?;
    sys::interrupt_after(if at == At::Instruction { STEPPING_LIMIT } else { LIMIT })?;
    let outcome = tracer.follow();
    sys::interrupt_after(RELEASE_LIMIT)?;
    tracer.release();
    sys::interrupt_after(0)?;
    outcome.map(|()| tracer.found)
}

impl Tracer {
    /// Until the command itself has ended.
    fn follow(&mut self) -> Outcome {
        while let Some((pid, status)) = sys::wait_any()? {
            if self.event(pid, status)? {
                return Ok(());
            }
        }
        let line = leftovers::command_line(self.main);
        let _gone = sys::send_signal(self.main, libc::SIGKILL);
        let met = self.found.met.clone().unwrap_or_default();
        Err(Failure::new(format!("the command hangs after {met}: {line}")))
    }

    /// Whether the command has ended with it.
    fn event(&mut self, pid: Pid, status: i32) -> Outcome<bool> {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            let code = code_of(status);
            self.tracees.remove(&pid);
            note_end(pid, code);
            if pid == self.main {
                self.found.status = code;
                return Ok(true);
            }
            return Ok(false);
        }
        let signal = libc::WSTOPSIG(status);
        let resumed = if status >> 16 != 0 {
            if status >> 16 == libc::PTRACE_EVENT_EXEC {
                self.look_at_program(pid);
            }
            self.resume(pid, 0)
        } else if signal == libc::SIGTRAP | 0x80 {
            self.call(pid)
        } else if signal == libc::SIGTRAP && self.at == At::Instruction {
            self.found.instructions += 1;
            self.resume(pid, 0)
        } else {
            let tracee = self.tracees.entry(pid).or_default();
            // A new tracee stops once with SIGSTOP, which is nobody's signal.
            let begins = !tracee.begun && signal == libc::SIGSTOP;
            tracee.begun = true;
            self.resume(pid, if begins { 0 } else { signal })
        };
        match resumed {
            // It has been killed while it was stopped.
            Ok(()) | Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno).during(format!("resume {pid}")),
        }
    }

    fn look_at_program(&mut self, pid: Pid) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "probe" {
            self.tracees.entry(pid).or_default().is_program = true;
        }
    }

    fn resume(&self, pid: Pid, signal: i32) -> nix::Result<()> {
        let tracee = self.tracees.get(&pid).copied().unwrap_or_default();
        if (self.done || tracee.is_program) && !tracee.failing {
            ptrace::go_on(pid, signal)
        } else if self.at == At::Instruction {
            ptrace::to_next_instruction(pid, signal)
        } else {
            ptrace::to_next_call(pid, signal)
        }
    }

    /// A stop at the entry to a call or at its end.
    fn call(&mut self, pid: Pid) -> nix::Result<()> {
        let tracee = self.tracees.entry(pid).or_default();
        if tracee.failing {
            tracee.failing = false;
            if let Fault::Fail(errno) = self.fault {
                ptrace::set_result(pid, -(errno as i64))?;
            }
            return self.resume(pid, 0);
        }
        if self.done || tracee.is_program || !self.is_in_focus(pid) {
            return self.resume(pid, 0);
        }
        let Some(number) = ptrace::call_at_entry(pid)? else { return self.resume(pid, 0) };
        let can_fail = match self.at {
            At::Among(_, kinds) => kinds.contains(&number),
            _ => match self.fault {
                Fault::Fail(errno) => !CANNOT_FAIL.contains(&number) && may_return(number, errno),
                Fault::Kill | Fault::Meanwhile(_) => true,
            },
        };
        self.found.calls += usize::from(can_fail);
        let is_meant = match self.at {
            At::Place(place) | At::Among(place, _) => place != 0 && self.found.calls == place && can_fail,
            At::Kind(kind) => kind == number,
            At::Every => true,
            At::Instruction => false,
        };
        if !is_meant {
            return self.resume(pid, 0);
        }
        let who = if pid == self.main { "the command" } else { "its child" };
        self.found.met = Some(format!("{} of {who}", name_of(number)));
        self.done = !matches!(self.at, At::Kind(_) | At::Every);
        match self.fault {
            Fault::Kill => sys::send_signal(pid, libc::SIGKILL),
            Fault::Meanwhile(act) => {
                act(&self.place);
                self.resume(pid, 0)
            }
            Fault::Fail(_) => {
                ptrace::skip_call(pid)?;
                self.tracees.entry(pid).or_default().failing = true;
                self.resume(pid, 0)
            }
        }
    }

    fn is_in_focus(&self, pid: Pid) -> bool {
        self.focus.as_ref().is_none_or(|focus| {
            let own = pid == self.main;
            focus.armed.load(Ordering::SeqCst) && own == (focus.whose == Whose::Command)
        })
    }

    /// Lets go of what is still traced: it is stopped first, as ptrace(2) wants. What was forked a moment ago may not have
    /// told of itself yet, so that the kernel is asked, not the list.
    fn release(&mut self) {
        self.tracees.clear();
        loop {
            let traced = traced_by(getpid());
            if traced.is_empty() {
                return;
            }
            for pid in traced {
                let _asked = sys::send_signal(pid, libc::SIGSTOP);
            }
            let Ok(Some((pid, status))) = sys::wait_any() else { return };
            if libc::WIFSTOPPED(status) {
                // Signals of its own are delivered, ours are not.
                let signal = libc::WSTOPSIG(status);
                let none = status >> 16 != 0 || [libc::SIGTRAP | 0x80, libc::SIGSTOP].contains(&signal);
                let _gone = ptrace::detach(pid, if none { 0 } else { signal });
                // One that was asked to stop twice goes on.
                let _gone = sys::send_signal(pid, libc::SIGCONT);
            } else {
                note_end(pid, code_of(status));
            }
        }
    }
}

/// The processes that a process traces (proc(5), status).
fn traced_by(tracer: Pid) -> Vec<Pid> {
    let wanted = format!("TracerPid:\t{tracer}");
    let traced = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == wanted)
    };
    leftovers::processes().into_iter().filter(traced).collect()
}

/// The exit status, or 128 and the number of the signal.
fn code_of(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// Whether the kernel may return this errno for this call; any call may have ENOMEM, EPERM (of a security module or a filter) and
/// ENOSYS (of an older kernel or a filter).
fn may_return(number: c_long, errno: Errno) -> bool {
    // poll(2) itself has neither, and the standard library aborts before `main` where its own, on 0 to 2, fails so. Where mknod is
    // not permitted the host's device is bound: a container, but not the same one.
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_poll && matches!(errno, Errno::EPERM | Errno::ENOSYS) {
        return false;
    }
    if number == libc::SYS_mknodat && errno == Errno::EPERM {
        return false;
    }
    let kinds: &[&[c_long]] = match errno {
        Errno::EAGAIN => &[MAKES_PROCESS, &[libc::SYS_openat2, libc::SYS_setresuid, libc::SYS_setuid]],
        Errno::EINTR => &[WAITS],
        Errno::EIO => &[READS_OR_WRITES, LOOKS_UP],
        Errno::ENOSPC => &[
            MAKES_ENTRY,
            MAKES_PROCESS,
            &[
                libc::SYS_write,
                libc::SYS_unshare,
                libc::SYS_fsmount,
                libc::SYS_open_tree,
                libc::SYS_move_mount,
            ],
        ],
        Errno::EMFILE => &[MAKES_DESCRIPTOR],
        _ => return true,
    };
    kinds.iter().any(|kind| kind.contains(&number))
}

const MAKES_PROCESS: &[c_long] = &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_execve, libc::SYS_execveat];
const WAITS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_flock,
    libc::SYS_connect,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_nanosleep,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];
const READS_OR_WRITES: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_copy_file_range,
    libc::SYS_ftruncate,
];
const LOOKS_UP: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fchownat,
    libc::SYS_open_tree,
    libc::SYS_chdir,
    libc::SYS_execve,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
];
const MAKES_ENTRY: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
];
const MAKES_DESCRIPTOR: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsmount,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_accept4,
    libc::SYS_pipe2,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_memfd_create,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_epoll_create1,
    libc::SYS_signalfd4,
    libc::SYS_eventfd2,
    libc::SYS_inotify_init1,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_seccomp,
    libc::SYS_bpf,
];

/// Calls that the kernel never lets fail, or whose failure the C library and the allocator turn into an abort, whatever the
/// program is (`brk` and its kin); and `close`, whose descriptor is gone even where it fails.
const CANNOT_FAIL: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_close,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_umask,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_uname,
];

macro_rules! names {
    ($($name:ident)+) => { &[$((stringify!($name), libc::$name)),+] };
}

/// The calls that a runtime makes, for messages.
const NAMES: &[(&str, c_long)] = names!(
    SYS_read SYS_write SYS_openat SYS_openat2 SYS_fstat SYS_newfstatat SYS_statx SYS_lseek SYS_ioctl SYS_pread64
    SYS_ppoll SYS_pipe2 SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_ftruncate SYS_getcwd SYS_chdir SYS_fchdir
    SYS_renameat2 SYS_mkdirat SYS_unlinkat SYS_symlinkat
    SYS_readlinkat SYS_mknodat SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_statfs SYS_fstatfs SYS_mount SYS_umount2
    SYS_pivot_root SYS_prctl SYS_setns SYS_unshare SYS_clone SYS_clone3 SYS_execve SYS_execveat SYS_wait4
    SYS_waitid SYS_kill SYS_pidfd_open SYS_pidfd_send_signal SYS_memfd_create SYS_copy_file_range SYS_splice
    SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_move_mount SYS_open_tree SYS_mount_setattr SYS_close_range SYS_socket
    SYS_socketpair SYS_connect SYS_bind SYS_listen SYS_accept4 SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_setsockopt
    SYS_getsockopt SYS_seccomp SYS_bpf SYS_keyctl SYS_setgroups SYS_setresuid SYS_setresgid SYS_setuid SYS_setgid SYS_capset
    SYS_capget SYS_setsid SYS_sethostname SYS_setdomainname SYS_prlimit64 SYS_sched_setaffinity
    SYS_sched_getaffinity SYS_sched_setattr SYS_ioprio_set SYS_set_mempolicy SYS_personality SYS_getdents64
    SYS_faccessat SYS_faccessat2 SYS_inotify_init1 SYS_inotify_add_watch SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_signalfd4 SYS_eventfd2 SYS_timerfd_create SYS_timerfd_settime SYS_nanosleep SYS_getsid SYS_getpgid
    SYS_sysinfo SYS_fadvise64 SYS_fsync SYS_utimensat SYS_linkat SYS_pwrite64 SYS_writev SYS_readv SYS_name_to_handle_at
);

fn name_of(number: c_long) -> String {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    let name = known.and_then(|(name, _)| name.strip_prefix("SYS_")).map(str::to_owned);
    let known = CANNOT_FAIL.contains(&number).then(|| format!("a harmless call ({number})"));
    name.or(known).unwrap_or_else(|| format!("call {number}"))
}
