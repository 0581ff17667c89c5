//! The start gate: where a created container waits for `start`, and how `start` learns what became of execve.
//!
//! Two FIFOs of the state directory. The init process has both open for reading and writing, so that neither ever
//! shows an end of file while it lives, and it lets go of both at execve (they are close-on-exec):
//! * `start.fifo`: `start` opens it for writing without blocking (`ENXIO`: nobody waits any more), unlinks it (one of
//!   two starters wins) and writes one byte;
//! * `started.fifo`: the init process writes a message of [`crate::sync`] where a step fails, or that execve comes
//!   next; the end of file after that is success. Peers lose these errors: their `start` has long returned.
//!
//! A seccomp profile may deny execve, and then the write that would say so, or kill the process at either. Where there is one, the
//! process is looked at after the end of file ([`has_executed`]).
//!
//! The container cannot reach either: they are in no mount namespace of its own, and gone from its descriptors
//! before its program runs (row C13).

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;
use skeg_init::channel::NAME;

use crate::error::{Context as _, Error, Result};
use crate::state::{ContainerDir, GATE, GATE_CREATING, STARTED};
use crate::sync::{self, Message};
use crate::sys::fd::{read_to_end, write_all};
use crate::sys::pid;
use crate::sys::procfs::Procfs;

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
        Ok(Self { start: dir.open_fifo(GATE_CREATING)?, started: dir.open_fifo(STARTED)? })
    }

    /// What the init process is told of it.
    pub fn instruction(&self) -> skeg_init::instructions::Gate {
        skeg_init::instructions::Gate { start: self.start.as_raw_fd(), started: self.started.as_raw_fd() }
    }

    /// The descriptors, which go through its execve.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.start.as_fd(), self.started.as_fd()]
    }
}

/// What tells others that a container is being created that has no gate, until [`set_running`].
///
/// # Errors
/// What making it said.
pub fn set_creating(dir: &ContainerDir) -> Result<()> {
    dir.make_fifo(GATE_CREATING)
}

/// The transition from creating to running, without a gate in between.
///
/// # Errors
/// The errno of unlinkat(2).
pub fn set_running(dir: &ContainerDir) -> Result<()> {
    dir.unlink(GATE_CREATING).context(|| "take down the start gate")
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
        // Opened before the byte is written, so that none of what the init process writes is lost. Without waiting for its end: the
        // init process may have died since, or have executed its program for another starter.
        let started = dir.open(STARTED, OFlag::O_RDONLY | OFlag::O_NONBLOCK).context(what)?;
        match dir.unlink(GATE) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::from_errno("take down the start gate", errno)),
        }
        fcntl(&started, FcntlArg::F_SETFL(OFlag::empty())).context(what)?;
        Ok(Some(Self { gate, started }))
    }

    /// Lets the init process `pid` go on, and returns when execve has succeeded.
    ///
    /// # Errors
    /// What the init process reported, or that it has died before execve.
    pub fn go(self, init: Option<Pid>) -> Result<()> {
        write_all(&self.gate, b"0").context(|| "open the start gate for the init process")?;
        drop(self.gate);
        let said = read_to_end(&self.started, 2 * libc::PIPE_BUF).context(|| "wait for the init process")?;
        match (outcome(&said)?, init) {
            (Outcome::Unsaid, Some(pid)) if !has_executed(pid) => {
                Err(Error::new(format!("{DIED}, and without a reason ({BY_PROFILE})")))
            }
            _ => Ok(()),
        }
    }
}

const DIED: &str = "the init process has died before it executed the container's program";

/// The usual reason why it could not say what happened.
pub const BY_PROFILE: &str = "a seccomp profile that denies it write, exit or execve does that";

/// What the bytes of `started.fifo` mean where they are no error.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The program has been executed.
    Executed,
    /// It has, or a filter kept the process from saying that it has not.
    Unsaid,
}

/// What the bytes of `started.fifo` say: `Executing` alone is success, an error may follow it.
fn outcome(bytes: &[u8]) -> Result<Outcome> {
    let announcement =
        [(false, Outcome::Executed), (true, Outcome::Unsaid)].into_iter().find_map(|(filtered, outcome)| {
            let announced = sync::encode(&Message::Executing { filtered });
            Some((outcome, bytes.strip_prefix(announced.as_slice())?))
        });
    let rest = announcement.as_ref().map_or(bytes, |(_, rest)| *rest);
    match (sync::decode(rest), announcement) {
        (Some(Message::Error(error)), _) => Err(error),
        (_, Some((outcome, []))) => Ok(outcome),
        _ => Err(Error::new(DIED)),
    }
}

/// Whether a process that has closed its end of the channel has executed the container's program, rather than ended.
///
/// Both close it: execve past the point from which nothing but a fatal signal brings it back (`fs/exec.c`, `begin_new_exec`), the
/// end of a process after it is marked as ending (`kernel/exit.c`, `do_exit`). So one that is not ending has executed; one that is
/// has ended under the name of the sealed program ([`skeg_init::channel::NAME`]) if it has not. Of a process whose parent has
/// waited for it already nothing is known but that it ended, and its parent knows how. Where it cannot be looked at, it has: most have.
pub fn has_executed(pid: Pid) -> bool {
    let Ok(procfs) = Procfs::mounted() else { return true };
    if !pid::is_ending(&procfs, pid).unwrap_or(false) {
        return true;
    }
    // The one that it ends under: its name changes no more.
    procfs.read_of(pid, "comm").map_or(true, |name| name.trim_ascii_end() != NAME.to_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests start processes and threads, and make directories")]

    use std::io::Read as _;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;
    use crate::state::{ContainerId, StateRoot};

    /// ARCHITECTURE.md, invariant 9: a starter that has opened the gate, and comes second, finds nobody at the other FIFO any more.
    #[test]
    fn a_starter_that_comes_too_late_does_not_wait() {
        let path = std::env::temp_dir().join(format!("gate-{}", std::process::id()));
        let root = StateRoot::open_or_create(&path).unwrap();
        let dir = root.create(&ContainerId::parse("late").unwrap()).unwrap();
        let Gate { start, started } = Gate::make(&dir).unwrap();
        set_created(&dir).unwrap();
        drop(started);
        let (sender, receiver) = std::sync::mpsc::channel();
        let late =
            std::thread::spawn(move || sender.send(Starter::win(&dir).map(|starter| starter.is_some())));
        let won = receiver.recv_timeout(Duration::from_secs(10)).expect("it waits for ever");
        assert!(won.unwrap());
        late.join().unwrap().unwrap();
        drop(start);
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// What is found out of a shell that runs `script`, as soon as it has closed its output.
    fn looked_at(script: &str) -> bool {
        let mut shell = Command::new("/bin/sh");
        let mut child =
            shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        let found = has_executed(Pid::from_raw(child.id().try_into().unwrap()));
        drop(child.stdin.take());
        child.wait().unwrap();
        found
    }

    /// The kernel closes descriptors before the new name is there (execve), and after the process is marked as ending (exit):
    /// what is asked at that moment needs no waiting.
    #[test]
    fn a_process_that_ends_before_execve_is_told_from_one_that_executes() {
        let named = format!("printf {} >/proc/$$/comm", NAME.to_str().unwrap());
        for _ in 0..50 {
            assert!(!looked_at(&format!("{named}; kill -SYS $$")), "ended under the name");
        }
        assert!(looked_at(&format!("{named}; exec >/dev/null; read line")), "goes on under the name");
        assert!(looked_at("exit 1"), "ended under another name");
    }

    #[test]
    fn an_announcement_alone_is_success() {
        let executing = sync::encode(&Message::Executing { filtered: false });
        let error = sync::encode(&Message::Error(Error::new("exec /x: exec format error")));
        assert_eq!(outcome(&executing).unwrap(), Outcome::Executed);
        assert_eq!(outcome(&sync::encode(&Message::Executing { filtered: true })).unwrap(), Outcome::Unsaid);
        assert_eq!(outcome(&error).unwrap_err().to_string(), "exec /x: exec format error");
        let both = [executing, error].concat();
        assert_eq!(outcome(&both).unwrap_err().to_string(), "exec /x: exec format error");
        assert!(outcome(b"").unwrap_err().to_string().contains("has died"));
    }
}
