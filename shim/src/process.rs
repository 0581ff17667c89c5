//! One process of a container: its init process or one that was added by exec.

use std::cell::{Cell, RefCell};

use nix::errno::Errno;
use skeg_proto::types::Status;
use tokio::sync::{Mutex, Notify};

use crate::error::{Code, Context as _, Error, Result};
use crate::reap::{Exit, PidFd};
use crate::stdio::{Paths, Streams};
use crate::sys;

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// An exec that has not been started.
    Added,
    /// An init process that waits for `start`.
    Created,
    /// It runs.
    Running,
    /// Its container is paused.
    Paused,
    /// It has ended and has been waited for.
    Ended(Exit),
}

impl State {
    /// The status of the task API.
    pub fn status(self) -> Status {
        match self {
            Self::Added | Self::Created => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Paused => Status::PAUSED,
            Self::Ended(_) => Status::STOPPED,
        }
    }
}

/// A process.
pub struct Process {
    /// Empty for the init process.
    pub exec_id: String,
    /// Its streams as the manager named them.
    pub paths: Paths,
    /// Process JSON of an exec, until it is started.
    pub spec: RefCell<Vec<u8>>,
    /// Held while it is started: its end is told after its start.
    pub starting: Mutex<()>,
    state: Cell<State>,
    /// Its pid and the pidfd that signals go by; nothing before it is made.
    identity: RefCell<Option<(i32, PidFd)>>,
    streams: RefCell<Option<Streams>>,
    ended: Notify,
}

impl Process {
    /// A process that is to be made.
    pub fn new(exec_id: &str, paths: Paths, spec: Vec<u8>) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            paths,
            spec: RefCell::new(spec),
            starting: Mutex::new(()),
            state: Cell::new(State::Added),
            identity: RefCell::new(None),
            streams: RefCell::new(None),
            ended: Notify::new(),
        }
    }

    /// The runtime has made it.
    pub fn made(&self, pid: i32, pidfd: PidFd, streams: Streams, state: State) {
        self.identity.replace(Some((pid, pidfd)));
        self.streams.replace(Some(streams));
        self.state.set(state);
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Moves on; an end is final.
    pub fn set_state(&self, state: State) {
        if !matches!(self.state.get(), State::Ended(_)) {
            self.state.set(state);
        }
    }

    /// Its pid; 0 before it is made.
    pub fn pid(&self) -> u32 {
        let pid = self.identity.borrow().as_ref().map_or(0, |(pid, _)| *pid);
        u32::try_from(pid).unwrap_or(0)
    }

    /// It has been waited for: tells everyone who waits, and lets its output run dry.
    pub fn end(&self, exit: Exit) {
        self.state.set(State::Ended(exit));
        if let Some(streams) = self.streams.borrow().as_ref() {
            streams.process_ended();
        }
        self.ended.notify_waiters();
    }

    /// Waits for its end.
    pub async fn exit(&self) -> Exit {
        loop {
            if let State::Ended(exit) = self.state.get() {
                return exit;
            }
            self.ended.notified().await;
        }
    }

    /// Sends it a signal, by its pidfd.
    ///
    /// # Errors
    /// `NotFound` once it has ended, `FailedPrecondition` before it is made, `InvalidArgument` for a bad number.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let finished = || Error::new(Code::NotFound, "process already finished");
        if let State::Ended(_) = self.state.get() {
            return Err(finished());
        }
        let Some((_, pidfd)) = self.identity.borrow().clone() else {
            return Err(Error::new(Code::FailedPrecondition, "process not created"));
        };
        match sys::pidfd_send_signal(&*pidfd, signal) {
            Err(Errno::ESRCH) => Err(finished()),
            Err(Errno::EINVAL) => Err(Error::invalid(format!("signal {signal}: not a signal"))),
            other => other.context(|| format!("send signal {signal}")),
        }
    }

    /// `CloseIO` for standard input.
    pub fn close_stdin(&self) {
        if let Some(streams) = self.streams.borrow().as_ref() {
            streams.close_stdin();
        }
    }

    /// `ResizePty`. Without a terminal, or after the end, there is nothing to do: a resize may cross the exit.
    ///
    /// # Errors
    /// What the ioctl failed with.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match self.streams.borrow().as_ref() {
            Some(streams) => streams.resize(columns, rows),
            None => Ok(()),
        }
    }

    /// It is deleted: lets go of its streams once what it has written is delivered.
    pub async fn deliver(&self) {
        let streams = self.streams.borrow_mut().take();
        if let Some(streams) = streams {
            streams.deliver(&self.paths).await;
        }
    }

    /// It is deleted: lets go of its streams.
    pub fn close(&self) {
        if let Some(streams) = self.streams.borrow_mut().take() {
            streams.close();
        }
    }
}
