//! Out-of-memory kills: how many there were, and to be told of the next one.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;

use crate::cgroup::control::value_of;
use crate::cgroup::place::{Cgroup, Group};
use crate::error::{Context as _, Error, Result};
use crate::sys::path::open_own;

/// v1 tells when memory has run out, a moment before the kill is done and counted (`mem_cgroup_oom`): how often and how
/// long is waited for the count.
const SETTLE_TRIES: u32 = 20;
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// What [`Watch::wait`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A process of the container was killed for want of memory.
    Oom,
    /// The last process has left, or the cgroup has gone.
    End,
    /// Nothing until the time was over.
    Nothing,
}

/// Tells of out-of-memory kills and of the end of a cgroup.
#[derive(Debug)]
pub struct Watch<'a> {
    cgroup: &'a Cgroup,
    /// v1's notification: an eventfd that the kernel adds to at every event, and once more at the removal.
    v1: Option<EventFd>,
    /// v2's `memory.events`, which wakes its pollers.
    v2: Option<OwnedFd>,
    /// v2's `cgroup.events`, the same.
    populated: Option<OwnedFd>,
    /// The kills that have been told of.
    told: u64,
}

impl Cgroup {
    /// How many processes of the cgroup and those below it were killed for want of memory so far. 0 where there is no
    /// memory controller.
    ///
    /// # Errors
    /// The errno of the read; `ENOENT` or `ENODEV` where the cgroup has gone.
    pub fn oom_kill_count(&self) -> Result<u64> {
        let (group, file) = match (self.v1_memory(), &self.v2) {
            (Some(group), _) => (group, "memory.oom_control"),
            (None, Some(group)) => (group, "memory.events"),
            (None, None) => return Ok(0),
        };
        let what = || format!("read {file} of {}", group.at.full().display());
        group.dir().context(what)?;
        match group.read(file) {
            Ok(text) => Ok(value_of(&text, "oom_kill").unwrap_or(0)),
            // v2's file is there only with the controller; v1's as long as the cgroup.
            Err(Errno::ENOENT) if self.v1_memory().is_none() => Ok(0),
            Err(errno) => Err(Error::from_errno(what(), errno)),
        }
    }

    fn v1_memory(&self) -> Option<&Group> {
        self.v1.iter().find(|group| group.has("memory"))
    }

    /// Starts to watch.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch_oom(&self) -> Result<Watch<'_>> {
        let what = || "watch the container's memory";
        let v1 = self.v1_memory().map(register_v1).transpose().context(what)?;
        let open = |file: &str| -> nix::Result<Option<OwnedFd>> {
            let Some(group) = &self.v2 else { return Ok(None) };
            match open_own(group.dir()?, file, OFlag::O_RDONLY, Mode::empty()) {
                Ok(file) => Ok(Some(file)),
                Err(Errno::ENOENT) => Ok(None),
                Err(errno) => Err(errno),
            }
        };
        let v2 = if v1.is_none() { open("memory.events").context(what)? } else { None };
        let populated = open("cgroup.events").context(what)?;
        Ok(Watch { cgroup: self, v1, v2, populated, told: self.oom_kill_count()? })
    }
}

/// `cgroup.event_control` takes an eventfd and the file to be told about (cgroup-v1/memory.rst, "OOM Control").
fn register_v1(group: &Group) -> nix::Result<EventFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let file = open_own(group.dir()?, "memory.oom_control", OFlag::O_RDONLY, Mode::empty())?;
    group.write("cgroup.event_control", &format!("{} {}", event.as_raw_fd(), file.as_raw_fd()))?;
    Ok(event)
}

impl Watch<'_> {
    /// Waits for a kill or the end, at most `timeout`.
    ///
    /// # Errors
    /// The errno of poll(2) or of a read.
    pub fn wait(&mut self, timeout: Duration) -> Result<Seen> {
        if let Some(seen) = self.look()? {
            return Ok(seen);
        }
        let fds: Vec<BorrowedFd<'_>> = [
            self.v1.as_ref().map(|fd| fd.as_fd()),
            self.v2.as_ref().map(|fd| fd.as_fd()),
            self.populated.as_ref().map(|fd| fd.as_fd()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN | PollFlags::POLLPRI)).collect();
        // The two cgroup files are always readable; only POLLPRI says that they changed.
        let first = usize::from(self.v1.is_some());
        for file in polled.iter_mut().skip(first) {
            file.set_events(PollFlags::POLLPRI);
        }
        match poll(&mut polled, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from_errno("wait for an event of the container", errno)),
        }
        // Empties the eventfd; EAGAIN where it was not the one that woke us.
        let ran_out = self.v1.as_ref().is_some_and(|event| event.read().is_ok());
        let mut tries = if ran_out { SETTLE_TRIES } else { 1 };
        loop {
            tries -= 1;
            match self.look()? {
                Some(seen) => return Ok(seen),
                None if tries == 0 => return Ok(Seen::Nothing),
                None => std::thread::sleep(SETTLE_PAUSE),
            }
        }
    }

    /// What has happened that was not told of yet.
    fn look(&mut self) -> Result<Option<Seen>> {
        let count = match self.cgroup.oom_kill_count() {
            Ok(count) => count,
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                return Ok(Some(Seen::End));
            }
            Err(error) => return Err(error),
        };
        if count > self.told {
            self.told += 1;
            return Ok(Some(Seen::Oom));
        }
        // The files have to be read for the next poll to wait.
        for file in [&self.v2, &self.populated].into_iter().flatten() {
            let mut buffer = [0; 512];
            let text = match nix::sys::uio::pread(file, &mut buffer, 0) {
                Ok(length) => &buffer[..length],
                Err(Errno::ENODEV) => return Ok(Some(Seen::End)),
                Err(errno) => return Err(Error::from_errno("read the container's events", errno)),
            };
            if value_of(text, "populated") == Some(0) {
                return Ok(Some(Seen::End));
            }
        }
        Ok(None)
    }
}
