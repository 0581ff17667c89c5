//! Ends of processes. Every process that the shim knows has a pidfd and is waited for through it alone; a zombie keeps
//! its pid until then, so that a pid is never mistaken for a recycled one. SIGCHLD is only the hint to look for
//! orphans that the kernel has handed to this subreaper.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use skeg_proto::types::Timestamp;
use tokio::io::Interest;

use crate::error::{Context as _, Result};
use crate::log;
use crate::sys;

/// How often a process is looked at that cannot be watched.
const UNWATCHED: Duration = Duration::from_millis(50);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 and the number of the signal that killed it.
    pub status: u32,
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanos: i32,
}

impl Exit {
    /// `status`, now.
    pub fn now(status: u32) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            status,
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        }
    }

    /// The time as the task API has it.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp { seconds: self.seconds, nanos: self.nanos, ..Timestamp::default() }
    }
}

/// The exit status of a wait result; nothing for a process that has not ended.
fn status_of(result: WaitStatus) -> Option<u32> {
    match result {
        WaitStatus::Exited(_, code) => Some(code.unsigned_abs() & 0xff),
        WaitStatus::Signaled(_, signal, _) => Some(128 + (signal as i32).unsigned_abs()),
        _ => None,
    }
}

/// The processes that the shim waits for, and the search for those that nobody waits for.
#[derive(Default)]
pub struct Reaper {
    known: RefCell<HashSet<i32>>,
    births: Cell<usize>,
}

/// While it lives, a runtime call may leave a new child with us whose pid we do not know yet.
pub struct Birth(Rc<Reaper>);

impl Drop for Birth {
    fn drop(&mut self) {
        self.0.births.set(self.0.births.get() - 1);
        self.0.sweep();
    }
}

impl Reaper {
    /// Announces a runtime call that leaves a child behind (create, exec).
    pub fn birth(self: &Rc<Self>) -> Birth {
        self.births.set(self.births.get() + 1);
        Birth(Rc::clone(self))
    }

    /// Takes charge of a child: it stays a zombie until `wait` has been called for it.
    pub fn know(&self, pid: i32) {
        self.known.borrow_mut().insert(pid);
    }

    /// Waits until the child behind `pidfd` has ended, and reaps it. Where the kernel has no memory to watch it, or the user no more
    /// watches (epoll(7), `max_user_watches`), it is looked at now and then: one that is given up stays a zombie for ever, and its PID
    /// namespace does not end before it.
    ///
    /// # Errors
    /// What polling or waitid(2) failed with.
    pub async fn wait(&self, pid: i32, pidfd: impl AsFd) -> Result<Exit> {
        let borrowed = pidfd.as_fd();
        let mut watched = None;
        let exit = loop {
            match waitid(Id::PIDFd(borrowed), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
                Ok(result) => {
                    if let Some(status) = status_of(result) {
                        break Ok(Exit::now(status));
                    }
                }
                Err(Errno::EINTR) => continue,
                Err(errno) => break Err(errno).context(|| format!("wait for process {pid}")),
            }
            if watched.is_none() {
                watched = sys::watch_borrowed(borrowed, Interest::READABLE).ok();
            }
            let Some(watched) = &watched else {
                tokio::time::sleep(UNWATCHED).await;
                continue;
            };
            match watched.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => break Err(error).context(|| format!("watch process {pid}")),
            }
        };
        self.known.borrow_mut().remove(&pid);
        self.sweep();
        exit
    }

    /// Reaps orphans: zombies that nobody has asked for. Not while a birth is under way, since one of them may be the
    /// init process that we are about to be told of.
    pub fn sweep(&self) {
        while self.births.get() == 0 {
            let any = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let Ok(result) = waitid(Id::All, any) else { return };
            let Some(pid) = result.pid() else { return };
            if self.known.borrow().contains(&pid.as_raw()) {
                // Its own watcher reaps it and looks further then.
                return;
            }
            if waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err() {
                return;
            }
        }
    }
}

/// Whether `pid` is a child of this process that nobody has waited for.
pub fn is_child(pid: i32) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid)), look).is_ok()
}

/// The signals that reach the shim through a descriptor.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks SIGCHLD, SIGTERM and SIGINT and takes them by signalfd(2).
    ///
    /// # Errors
    /// The errno of the call that failed.
    pub fn take() -> Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block().context(|| "block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&mask, flags).map(Self).context(|| "signalfd")
    }

    /// Sweeps at every SIGCHLD; returns at SIGTERM and SIGINT.
    pub async fn serve(&self, reaper: &Reaper) {
        let Ok(watched) = sys::watch_borrowed(self.0.as_fd(), Interest::READABLE) else { return };
        loop {
            let Ok(mut ready) = watched.readable().await else { return };
            let mut orphans = false;
            loop {
                match self.0.read_signal() {
                    Ok(Some(info)) if info.ssi_signo == Signal::SIGCHLD as u32 => orphans = true,
                    Ok(Some(_)) => return,
                    Ok(None) => break,
                    Err(Errno::EINTR) => {}
                    Err(errno) => {
                        // To end for that would be to leave containers without a shim.
                        log::error(format_args!("read signals: {errno}"));
                        orphans = true;
                        break;
                    }
                }
            }
            ready.clear_ready();
            if orphans {
                reaper.sweep();
            }
        }
    }
}

/// A pidfd of a child that stands for it as long as it lives.
pub type PidFd = Rc<OwnedFd>;
