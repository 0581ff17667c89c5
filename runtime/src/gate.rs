//! The start gate: where a created container waits for `start`, and how `start` learns what became of execve.
//!
//! Two FIFOs of the state directory. The init process has both open for reading and writing, so that neither ever
//! shows an end of file while it lives, and it lets go of both at execve (they are close-on-exec):
//! * `start.fifo`: `start` opens it for writing without blocking (`ENXIO`: nobody waits any more), unlinks it (one of
//!   two starters wins) and writes one byte;
//! * `started.fifo`: the init process writes a message of [`crate::sync`] where a step fails, or that execve comes
//!   next; the end of file after that is success. Peers lose these errors: their `start` has long returned.
//!
//! The container cannot reach either: they are in no mount namespace of its own, and gone from its descriptors
//! before its program runs (row C13).

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Context as _, Error, Result};
use crate::state::{ContainerDir, GATE, GATE_CREATING, STARTED};
use crate::sync::{self, Message};
use crate::sys::fd::{read_to_end, write_all};

/// The init process's ends.
#[derive(Debug)]
pub struct Gate {
    start: OwnedFd,
    started: OwnedFd,
}

impl Gate {
    /// Makes both FIFOs. The gate stands under a name that `start` does not look for until [`set_created`].
    ///
    /// # Errors
    /// What making them said.
    pub fn make(dir: &ContainerDir) -> Result<Self> {
        Ok(Self { start: dir.make_fifo(GATE_CREATING)?, started: dir.make_fifo(STARTED)? })
    }

    /// The descriptors, to be kept when all others are closed.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.start.as_raw_fd(), self.started.as_raw_fd()]
    }

    /// Waits for `start`'s byte.
    ///
    /// # Errors
    /// The errno of read(2).
    pub fn wait(&self) -> Result<()> {
        let mut byte = [0];
        loop {
            match nix::unistd::read(&self.start, &mut byte) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).context(|| "wait for start"),
            }
        }
    }

    /// Tells `start` what comes next. Nobody may be there to hear it, which changes nothing.
    pub fn tell(&self, message: &Message) {
        // The pipe is empty and holds more than a message (PIPE_BUF): this cannot block.
        let _ = write_all(&self.started, &sync::encode(message));
    }
}

/// The transition from creating to created.
///
/// # Errors
/// The errno of renameat(2).
pub fn set_created(dir: &ContainerDir) -> Result<()> {
    dir.rename(GATE_CREATING, GATE).context(|| "put up the start gate")
}

/// What `start` holds between winning and knowing.
#[derive(Debug)]
pub struct Starter {
    gate: OwnedFd,
    started: OwnedFd,
}

impl Starter {
    /// The transition from created to running: the winner of this call is the only starter.
    ///
    /// Returns `None` where the container has been started before, or its init process waits no more.
    ///
    /// # Errors
    /// The errno of openat2(2) or unlinkat(2).
    pub fn win(dir: &ContainerDir) -> Result<Option<Self>> {
        let what = || "open the start gate";
        let gate = match dir.open(GATE, OFlag::O_WRONLY | OFlag::O_NONBLOCK) {
            Ok(gate) => gate,
            Err(Errno::ENOENT | Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        };
        // Opened before the byte is written: the init process still holds its end, so that this does not block, and
        // none of what it writes is lost.
        let started = dir.open(STARTED, OFlag::O_RDONLY).context(what)?;
        match dir.unlink(GATE) {
            Ok(()) => Ok(Some(Self { gate, started })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::from_errno("take down the start gate", errno)),
        }
    }

    /// Lets the init process go on, and returns when execve has succeeded.
    ///
    /// # Errors
    /// What the init process reported, or that it has died before execve.
    pub fn go(self) -> Result<()> {
        write_all(&self.gate, b"0").context(|| "open the start gate for the init process")?;
        drop(self.gate);
        outcome(&read_to_end(&self.started, 2 * libc::PIPE_BUF).context(|| "wait for the init process")?)
    }
}

/// What the bytes of `started.fifo` say: `Executing` alone is success, an error may follow it.
fn outcome(bytes: &[u8]) -> Result<()> {
    let executing = sync::encode(&Message::Executing);
    let (announced, rest) = match bytes.strip_prefix(executing.as_slice()) {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    match sync::decode(rest) {
        Some(Message::Error(error)) => Err(error),
        _ if announced && rest.is_empty() => Ok(()),
        _ => Err(Error::new("the init process has died before it executed the container's program")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_alone_is_success() {
        let executing = sync::encode(&Message::Executing);
        let error = sync::encode(&Message::Error(Error::new("exec /x: exec format error")));
        assert!(outcome(&executing).is_ok());
        assert_eq!(outcome(&error).unwrap_err().to_string(), "exec /x: exec format error");
        let both = [executing, error].concat();
        assert_eq!(outcome(&both).unwrap_err().to_string(), "exec /x: exec format error");
        assert!(outcome(b"").unwrap_err().to_string().contains("has died"));
    }
}
