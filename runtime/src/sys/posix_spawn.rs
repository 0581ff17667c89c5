//! posix_spawn(3): another program beside this process, without a copy of this process's page tables (the C library
//! uses `CLONE_VFORK | CLONE_VM`), and with the errno of a failed execve as its result.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::fd::mark_cloexec_from;

/// `POSIX_SPAWN_SETSID` of `spawn.h`.
const NEW_SESSION: libc::c_short = libc::POSIX_SPAWN_SETSID;
/// `POSIX_SPAWN_SETSIGDEF` of `spawn.h`, which the libc crate declares wider than the call takes it.
const SET_DEFAULT_SIGNALS: libc::c_short = 0x04;
/// `POSIX_SPAWN_SETSIGMASK` of `spawn.h`, likewise.
const SET_SIGNAL_MASK: libc::c_short = 0x08;

/// What is to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file; taken as it is, never looked up in PATH.
    pub path: &'a CStr,
    /// argv, its name included.
    pub args: &'a [CString],
    /// The whole environment.
    pub env: &'a [CString],
    /// Its working directory; the caller's where there is none.
    pub cwd: Option<&'a CStr>,
    /// Its descriptors 0, 1 and 2: it gets no others.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// Starts `program` in a session of its own, with all signals at their default and none blocked.
///
/// # Errors
/// What the C library or execve(2) said; `ENOENT` also for a missing working directory.
pub fn spawn(program: &Program<'_>) -> nix::Result<Pid> {
    // Not a file action (addclosefrom_np(3)), which musl has not. What a container inherits, it has by now, or gets by clone.
    mark_cloexec_from(3)?;
    let mut actions = FileActions::new()?;
    for (target, fd) in (0..).zip(&program.stdio) {
        actions.dup2(fd.as_raw_fd(), target)?;
    }
    if let Some(cwd) = program.cwd {
        actions.chdir(cwd)?;
    }
    let mut attributes = Attributes::new()?;
    attributes.flags(NEW_SESSION | SET_DEFAULT_SIGNALS | SET_SIGNAL_MASK)?;
    attributes.default_signals(&every_signal())?;
    attributes.blocked_signals(&SigSet::empty())?;
    let args = pointers(program.args);
    let env = pointers(program.env);
    let mut pid: libc::pid_t = 0;
    // SAFETY: the objects are initialised, the strings are NUL-terminated, both vectors end in a null pointer and all
    // of them outlive the call.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr(),
            env.as_ptr(),
        )
    })?;
    Ok(Pid::from_raw(pid))
}

/// All 64, also 32 and 33, which the C library keeps to itself, leaves out of sigfillset(3) and has the new program ignore if
/// they are not asked for here.
fn every_signal() -> libc::sigset_t {
    // SAFETY: a sigset_t is an array of integers in which each bit is a signal.
    unsafe { std::mem::transmute([u8::MAX; size_of::<libc::sigset_t>()]) }
}

/// A null-terminated vector as execve(2) takes it; it borrows from `strings`.
fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// These functions return the error number and do not set `errno`.
fn check(result: libc::c_int) -> nix::Result<()> {
    match result {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> nix::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises the object that it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised; the C library keeps no pointer to it, so that it may move.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup2(&mut self, fd: RawFd, target: RawFd) -> nix::Result<()> {
        // SAFETY: the object is initialised; the rest are integers.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd, target) })
    }

    fn chdir(&mut self, path: &CStr) -> nix::Result<()> {
        // SAFETY: the object is initialised; the path is NUL-terminated, and the call copies it.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, path.as_ptr()) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: `new` initialised it, and this is its last use.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> nix::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises the object that it is given.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised; the C library keeps no pointer to it, so that it may move.
        Ok(Self(unsafe { attributes.assume_init() }))
    }

    fn flags(&mut self, flags: libc::c_short) -> nix::Result<()> {
        // SAFETY: the object is initialised; the rest is an integer.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut self.0, flags) })
    }

    fn default_signals(&mut self, signals: &libc::sigset_t) -> nix::Result<()> {
        // SAFETY: the object is initialised; the call copies the set.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut self.0, signals) })
    }

    fn blocked_signals(&mut self, signals: &SigSet) -> nix::Result<()> {
        // SAFETY: the object is initialised; the call copies the set.
        check(unsafe { libc::posix_spawnattr_setsigmask(&raw mut self.0, signals.as_ref()) })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: `new` initialised it, and this is its last use.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
