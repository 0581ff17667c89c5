//! The copies that stand between a process and its manager, by splice(2).

use std::cell::Cell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::CHUNK;
use crate::error::{Context as _, Result};
use crate::log;
use crate::sys;

/// Bytes a copy to a file.
const FILE_CHUNK: usize = 32 * 1024;
/// Splices before other tasks get their turn.
const TURN: usize = 4;

/// How far the end of a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Copy as it comes.
    Open,
    /// Copy what is there, then stop.
    Drain,
    /// Stop.
    Abort,
}

/// A copy that waits for its process to be made.
pub(super) struct Copy {
    pub(super) from: OwnedFd,
    pub(super) to: Sink,
}

pub(super) enum Sink {
    /// A pipe, a FIFO, or a terminal that a pipe is copied to.
    Splice(OwnedFd),
    /// A regular file, or `/dev/null`.
    File(OwnedFd),
}

impl Copy {
    pub(super) fn start(self, phase: &watch::Sender<Phase>, running: &Rc<Cell<usize>>) -> Result<()> {
        let from = sys::watch(self.from, Interest::READABLE).context(|| "watch a stream")?;
        let to = match self.to {
            Sink::File(file) => Destination::File(file),
            Sink::Splice(fd) => {
                Destination::Splice(sys::watch(fd, Interest::WRITABLE).context(|| "watch a stream")?)
            }
        };
        let phase = phase.subscribe();
        let counted = Running::new(running);
        tokio::task::spawn_local(async move {
            let result = copy(&from, &to, phase).await;
            drop((from, to, counted));
            if let Err(errno) = result {
                log::warn(format_args!("copy of a stream: {errno}"));
            }
        });
        Ok(())
    }
}

struct Running(Rc<Cell<usize>>);

impl Running {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

enum Destination {
    Splice(AsyncFd<OwnedFd>),
    File(OwnedFd),
}

/// Copies until the source ends, the destination goes away, or `phase` says so.
async fn copy(
    from: &AsyncFd<OwnedFd>,
    to: &Destination,
    mut phase: watch::Receiver<Phase>,
) -> nix::Result<()> {
    let mut turns = 0;
    loop {
        let moved = match to {
            Destination::Splice(to) => sys::splice(from.get_ref(), to.get_ref(), CHUNK),
            Destination::File(file) => move_to_file(from.get_ref(), file),
        };
        match moved {
            // Zero is also what a FIFO says before its first writer.
            Ok(0) if !is_hung_up(from.get_ref()) => {}
            // EIO is how a terminal says that its last slave is closed.
            Ok(0) | Err(Errno::EIO | Errno::EPIPE) => return Ok(()),
            Ok(_) => {
                turns += 1;
                if turns % TURN == 0 {
                    // Who never stops writing is cut off as well.
                    if *phase.borrow() == Phase::Abort {
                        return Ok(());
                    }
                    tokio::task::yield_now().await;
                }
                continue;
            }
            Err(Errno::EAGAIN) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let now = *phase.borrow_and_update();
        if now == Phase::Abort {
            return Ok(());
        }
        // Which end is it? The event loop tells changes only: to forget that an end is ready while it still is would be
        // to wait for ever.
        let empty = !has_input(from.get_ref());
        if empty && now == Phase::Drain {
            return Ok(());
        }
        let full = match to {
            Destination::Splice(to) if !empty => {
                (!polled(to.get_ref(), PollFlags::POLLOUT).contains(PollFlags::POLLOUT)).then_some(to)
            }
            _ => None,
        };
        let waited = async {
            match full {
                Some(to) => to.writable().await.map(|mut ready| ready.clear_ready()),
                None if empty => from.readable().await.map(|mut ready| ready.clear_ready()),
                // One of them has become ready meanwhile.
                None => {
                    tokio::task::yield_now().await;
                    Ok(())
                }
            }
        };
        tokio::select! {
            ready = waited => ready.map_err(|_| Errno::EIO)?,
            changed = phase.changed() => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

/// Reads what is there, at most one buffer, and writes all of it to a file.
fn move_to_file(from: &OwnedFd, to: &OwnedFd) -> nix::Result<usize> {
    let mut buffer = [0; FILE_CHUNK];
    // The source may be a blocking pipe.
    if !has_input(from) {
        return if is_hung_up(from) { Ok(0) } else { Err(Errno::EAGAIN) };
    }
    let read = nix::unistd::read(from, &mut buffer)?;
    let mut rest = &buffer[..read];
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(read)
}

/// What poll(2) says of `wanted`, and of errors and hang-ups, at once.
pub(super) fn polled(fd: &OwnedFd, wanted: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(fd.as_fd(), wanted)];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(_) => polled[0].revents().unwrap_or(PollFlags::empty()),
        Err(_) => PollFlags::empty(),
    }
}

fn has_input(fd: &OwnedFd) -> bool {
    polled(fd, PollFlags::POLLIN).contains(PollFlags::POLLIN)
}

fn is_hung_up(fd: &OwnedFd) -> bool {
    polled(fd, PollFlags::POLLIN).intersects(PollFlags::POLLHUP | PollFlags::POLLERR)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::pipe;
    use super::*;

    /// security.md I8: bytes equal through pipes whose two ends stop and go at their own pace. (An end that was forgotten
    /// while it was ready made a copy hang after some hundred megabytes.)
    #[test]
    fn i8_a_copy_of_256_mib_loses_nothing_and_never_hangs() {
        const TOTAL: usize = 256 << 20;
        let (source_read, source_write) = pipe().unwrap();
        let (sink_read, sink_write) = pipe().unwrap();
        let writer = start_thread(move || {
            let mut sent = 0_usize;
            while sent < TOTAL {
                // Odd sizes, so that pages are partly filled.
                let chunk = vec![u8::try_from(sent % 251).unwrap(); (sent % 7919 + 1).min(TOTAL - sent)];
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    rest = &rest[nix::unistd::write(&source_write, rest).unwrap()..];
                }
                sent += chunk.len();
            }
        });
        let reader = start_thread(move || {
            let (mut got, mut buffer) = (0_usize, vec![0; 5000]);
            loop {
                match nix::unistd::read(&sink_read, &mut buffer).unwrap() {
                    0 => return assert_eq!(got, TOTAL),
                    read => got += read,
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let from = sys::watch(source_read, Interest::READABLE).unwrap();
            let to = Destination::Splice(sys::watch(sink_write, Interest::WRITABLE).unwrap());
            let (_phase, receiver) = watch::channel(Phase::Open);
            timeout(Duration::from_secs(60), copy(&from, &to, receiver))
                .await
                .expect("the copy hangs")
                .unwrap();
        });
        writer.join().unwrap();
        reader.join().unwrap();
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own threads")]
    fn start_thread(work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
        std::thread::spawn(work)
    }

    /// security.md I8: what a child keeps open is cut off after the drain; what was written before arrives.
    #[test]
    fn i8_a_drain_ends_although_the_source_stays_open() {
        let (source_read, source_write) = pipe().unwrap();
        let (sink_read, sink_write) = pipe().unwrap();
        nix::unistd::write(&source_write, b"last words").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let from = sys::watch(source_read, Interest::READABLE).unwrap();
            let to = Destination::Splice(sys::watch(sink_write, Interest::WRITABLE).unwrap());
            let (_phase, receiver) = watch::channel(Phase::Drain);
            timeout(Duration::from_secs(5), copy(&from, &to, receiver)).await.expect("no end").unwrap();
        });
        let mut buffer = [0; 64];
        assert_eq!(nix::unistd::read(&sink_read, &mut buffer).unwrap(), 10);
        drop(source_write);
    }

    /// security.md I8: a copy whose time is over ends although there is always more to copy.
    #[test]
    fn i8_a_source_that_never_runs_dry_is_cut_off() {
        const FILLED: usize = 1 << 20;
        let (source_read, source_write) = pipe().unwrap();
        nix::fcntl::fcntl(&source_write, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        assert_eq!(nix::unistd::write(&source_write, &vec![b'x'; FILLED]).unwrap(), FILLED);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let from = sys::watch(source_read, Interest::READABLE).unwrap();
            let to = Destination::File(crate::path::null_device().unwrap());
            let (_phase, receiver) = watch::channel(Phase::Abort);
            copy(&from, &to, receiver).await.unwrap();
        });
        // Its reader has gone with the copy, and not because it was empty.
        assert!(sys::unread(&source_write).unwrap() > FILLED / 2);
    }
}
