//! The foreground half of `run` and `exec`: the caller's signals and the caller's terminal are for the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{
    OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, getpgrp, isatty, tcgetpgrp};

use crate::error::{Context as _, Result};
use crate::notify_socket::Forwarder;
use crate::sys::{fd, pid, tty};

/// `run` and `exec` in the foreground: signals for skeg are for the container, and so is the caller's terminal.
///
/// From [`Foreground::new`] on until it is dropped, signals wait in a descriptor instead of acting on skeg.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
    before: SigSet,
    master: Option<OwnedFd>,
    notifications: Option<Forwarder>,
}

impl Foreground {
    /// Takes the signals. To be called before the container's process may run, so that none is lost.
    ///
    /// # Errors
    /// The errno of signalfd(2).
    pub fn new() -> Result<Self> {
        let mut taken = SigSet::all();
        // The child's end comes by its pidfd, SIGPIPE is about our own writes, and what a fault of our own raises
        // must not wait.
        for own in [
            Signal::SIGCHLD,
            Signal::SIGPIPE,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            taken.remove(own);
        }
        let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "take signals by a descriptor")?;
        let before =
            taken.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).context(|| "block signals")?;
        Ok(Self { signals, before, master: None, notifications: None })
    }

    /// Takes the master of the container's terminal and gives it the size of the caller's, before the container's
    /// process may write to it.
    ///
    /// # Errors
    /// The errno of a terminal call on `master`.
    pub fn attach(&mut self, master: OwnedFd) -> Result<()> {
        let what = || "set up the terminal";
        match callers_terminal() {
            Some(terminal) => copy_size(terminal, &master),
            None => {
                // The lines of a pipe or file end with \n alone, as they do without a terminal in between.
                let mut settings = tcgetattr(&master).context(what)?;
                settings.output_flags.remove(OutputFlags::ONLCR);
                tcsetattr(&master, SetArg::TCSANOW, &settings).context(what)?;
            }
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(what)?;
        self.master = Some(master);
        Ok(())
    }

    /// Passes on what the container tells the service manager, whose main process this one is.
    pub fn forward_notifications(&mut self, forwarder: Forwarder) {
        self.notifications = Some(forwarder);
    }

    /// Passes signals and terminal on until the process of `pidfd`, a child of ours, has ended and all that it wrote is
    /// written; its exit status, or 128 and the number of the signal that ended it.
    ///
    /// # Errors
    /// The errno of a call on our own descriptors. The caller's terminal has its old settings in any case.
    pub fn wait(mut self, pidfd: impl AsFd) -> Result<i32> {
        let relay = self.master.take().map(Relay::new).transpose()?;
        let terminal = relay.as_ref().and_then(|_| callers_terminal()).map(RawMode);
        let notifications = self.notifications.take();
        let mut session = Session {
            pidfd: pidfd.as_fd(),
            signals: &self.signals,
            terminal,
            relay,
            notifications,
            ended: false,
        };
        session.take_foreground();
        while session.turn()? {}
        drop(session);
        pid::wait_child(pidfd).context(|| "wait for the container's process")
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // Nothing can be done about a failure, which could only be a bad argument.
        let _ = self.before.thread_set_mask();
    }
}

/// The terminal that skeg was called from: stdin, or one of the other two where stdin is none.
fn callers_terminal() -> Option<BorrowedFd<'static>> {
    (0..=2).filter_map(|number| fd::inherited(number).ok()).find(|fd| isatty(fd) == Ok(true))
}

/// Gives `master` the size of `terminal`; one that has none keeps the size that it has.
fn copy_size(terminal: impl AsFd, master: impl AsFd) {
    if let Ok(size) = tty::window_size(terminal)
        && size.ws_row != 0
        && size.ws_col != 0
    {
        // A master that is gone is found by the next read.
        let _ = tty::set_window_size(master, &size);
    }
}

/// The settings of the caller's terminal before raw mode, while it is in raw mode. Static, so that the panic hook finds
/// them: a panic aborts and runs no destructor.
static SAVED_SETTINGS: Mutex<Option<(BorrowedFd<'static>, Termios)>> = Mutex::new(None);

/// The caller's terminal; raw between `enter` and `leave`, never after it is dropped.
#[derive(Debug)]
struct RawMode(BorrowedFd<'static>);

impl RawMode {
    /// Whether this process may change the terminal and read from it: it is in the terminal's foreground, or the
    /// terminal is not our session's and knows no foreground of ours.
    fn in_foreground(&self) -> bool {
        tcgetpgrp(self.0).map_or(true, |group| group == getpgrp())
    }

    /// Every key goes to the container as it is: the container's own terminal makes lines, signals and echo of them.
    fn enter(&self) {
        let Ok(settings) = tcgetattr(self.0) else { return };
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        if let Ok(mut saved) = SAVED_SETTINGS.lock()
            && saved.is_none()
        {
            *saved = Some((self.0, settings));
            drop(saved);
            restore_on_panic();
            let _ = tcsetattr(self.0, SetArg::TCSADRAIN, &raw);
        }
    }

    fn leave(&self) {
        restore_settings();
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.leave();
    }
}

fn restore_settings() {
    if let Ok(mut saved) = SAVED_SETTINGS.lock()
        && let Some((terminal, settings)) = saved.take()
    {
        // Not TCSADRAIN: it waits for ever where the terminal's output is stopped.
        let _ = tcsetattr(terminal, SetArg::TCSANOW, &settings);
    }
}

fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(std::boxed::Box::new(move |info| {
            restore_settings();
            report(info);
        }));
    });
}

/// What [`Foreground::wait`] works with.
struct Session<'a> {
    pidfd: BorrowedFd<'a>,
    signals: &'a SignalFd,
    terminal: Option<RawMode>,
    relay: Option<Relay>,
    notifications: Option<Forwarder>,
    /// The process has ended, and what it wrote is still to be written.
    ended: bool,
}

/// How much is read after the process has ended, in bytes: more than a terminal holds (640 KiB: `TTYB_DEFAULT_MEM_LIMIT`
/// in drivers/tty/tty_buffer.c), so that all of its output is written however slowly it is taken, and an end to what others
/// write that hold the terminal open.
const MOST_AFTER_THE_END: usize = 1 << 20;

impl Session<'_> {
    /// Waits for something to happen and acts on it; false when all is done.
    fn turn(&mut self) -> Result<bool> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !self.ended {
            fds.push(PollFd::new(self.pidfd, PollFlags::POLLIN));
        }
        let notified = self.notifications.as_ref().map(|forwarder| {
            fds.push(PollFd::new(forwarder.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let own = fds.len();
        if let Some(relay) = &self.relay {
            fds.extend(relay.poll_fds());
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(true),
            other => other.context(|| "wait for the container's process")?,
        };
        let happened: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if happened[0] && !self.pass_signals()? {
            return Ok(false);
        }
        if !self.ended && happened[1] {
            self.ended = true;
            if let Some(relay) = &mut self.relay {
                // Its output is complete now: read(2) on a master first has the kernel hand over what was written
                // (`tty_buffer_flush_work` in n_tty_read).
                relay.readable = true;
                relay.still_read = MOST_AFTER_THE_END;
            }
        }
        if let (Some(true), Some(forwarder)) = (notified.map(|index| happened[index]), &self.notifications)
            && forwarder.forward(Pid::this()).is_err()
        {
            // The service manager is gone, and the container is not.
            self.notifications = None;
        }
        if let Some(relay) = &mut self.relay
            && !relay.go_on(&happened[own..])?
        {
            // The caller's terminal or pipe is gone: closing the master hangs up the container's.
            self.relay = None;
        }
        Ok(!self.ended || self.relay.as_ref().is_some_and(|relay| !relay.output.is_empty()))
    }

    /// Acts on the signals that wait; false where the caller wants skeg itself to end.
    fn pass_signals(&mut self) -> Result<bool> {
        while let Some(info) = self.signals.read_signal().context(|| "read a signal")? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if self.ended && matches!(number, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) {
                return Ok(false);
            }
            match (number, &self.terminal) {
                (libc::SIGWINCH, Some(_)) => self.resize(),
                (libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU, Some(_)) => self.stop(number),
                (libc::SIGCONT, Some(_)) => self.take_foreground(),
                _ => {
                    // ESRCH: it has ended, which the next turn finds.
                    let _ = pid::send_signal(self.pidfd, number);
                    if number == libc::SIGTSTP {
                        self.stop(number);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Stops skeg as its caller's job control asks for, with the caller's settings on the terminal meanwhile.
    fn stop(&mut self, number: i32) {
        let Ok(signal) = Signal::try_from(number) else { return };
        if let Some(terminal) = &self.terminal {
            terminal.leave();
        }
        // The signal acts when it is unblocked: it stops this process, unless it is ignored or nobody could ever
        // continue the process (an orphaned process group; setpgid(2)). The next line runs after SIGCONT.
        let only = SigSet::from(signal);
        let _ = raise(signal).and_then(|()| only.thread_unblock()).and_then(|()| only.thread_block());
        if self.terminal.is_some() {
            self.enter_foreground();
        }
    }

    /// Raw mode, if this process is in the foreground of its terminal; else waits in the background until it is, as every
    /// program that works on a terminal does.
    fn take_foreground(&mut self) {
        match &self.terminal {
            Some(terminal) if !terminal.in_foreground() => self.stop(libc::SIGTTOU),
            _ => self.enter_foreground(),
        }
    }

    fn enter_foreground(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        let in_foreground = terminal.in_foreground();
        if in_foreground {
            terminal.enter();
        }
        if let Some(relay) = &mut self.relay {
            relay.may_read = in_foreground;
        }
        self.resize();
    }

    fn resize(&self) {
        if let (Some(terminal), Some(relay)) = (&self.terminal, &self.relay) {
            copy_size(terminal.0, &relay.master);
        }
    }
}

/// Bytes on their way: at most as many as a pipe takes without waiting once poll(2) says that it takes any (pipe(7),
/// `PIPE_BUF`), since the caller's descriptors are blocking and not ours to change.
#[derive(Debug)]
struct Buffer {
    bytes: [u8; 4096],
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: [0; 4096], start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads into the empty buffer.
    fn fill(&mut self, from: impl AsFd) -> nix::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.end = nix::unistd::read(from, &mut self.bytes)?;
        Ok(self.end)
    }

    /// Writes what there is, or a part of it.
    fn flush(&mut self, to: impl AsFd) -> nix::Result<()> {
        self.start += nix::unistd::write(to, &self.bytes[self.start..self.end])?;
        Ok(())
    }
}

/// The copying between the caller's stdin and stdout and the container's terminal. It does not use splice(2): between a
/// terminal and anything else that needs a pipe in between and so two calls where read and write are two as well.
#[derive(Debug)]
struct Relay {
    master: OwnedFd,
    /// Holds the master edge-triggered. A master whose other side is closed is always ready for poll(2), but the container's
    /// process may open that side again at any time: an init that makes /dev/console its own does.
    edges: Epoll,
    readable: bool,
    /// How many bytes of output are still of interest.
    still_read: usize,
    writable: bool,
    stdin: Option<BorrowedFd<'static>>,
    stdin_is_terminal: bool,
    /// Whether stdin may be read: not while skeg is in the background of its terminal.
    may_read: bool,
    stdout: BorrowedFd<'static>,
    input: Buffer,
    output: Buffer,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self> {
        let what = || "set up the terminal";
        let edges = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(what)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        edges.add(&master, EpollEvent::new(interest, 0)).context(what)?;
        let stdin = fd::inherited(0).ok();
        Ok(Self {
            master,
            edges,
            readable: true,
            still_read: usize::MAX,
            writable: true,
            stdin,
            stdin_is_terminal: stdin.is_some_and(|fd| isatty(fd) == Ok(true)),
            may_read: true,
            stdout: fd::inherited(1).context(|| "stdout")?,
            input: Buffer::new(),
            output: Buffer::new(),
        })
    }

    /// What to wait for: the terminal, stdin where there is room for more, stdout where there is something for it. Always
    /// three, as [`Self::go_on`] expects them.
    fn poll_fds(&self) -> [PollFd<'_>; 3] {
        let when = |condition: bool, flags: PollFlags| if condition { flags } else { PollFlags::empty() };
        let reads = self.stdin.is_some() && self.may_read && self.input.is_empty();
        // Without a wish a descriptor is still polled for its end, which would then be always ready: the epoll
        // descriptor, which has no end, stands in its place.
        let or_edges = |condition: bool, fd: BorrowedFd<'static>, flags: PollFlags| {
            if condition {
                PollFd::new(fd, flags)
            } else {
                PollFd::new(self.edges.0.as_fd(), PollFlags::empty())
            }
        };
        [
            PollFd::new(self.edges.0.as_fd(), PollFlags::POLLIN),
            or_edges(reads, self.stdin.unwrap_or(self.stdout), when(reads, PollFlags::POLLIN)),
            or_edges(!self.output.is_empty(), self.stdout, PollFlags::POLLOUT),
        ]
    }

    /// Copies what can be copied without waiting; false where the caller's side is gone.
    fn go_on(&mut self, happened: &[bool]) -> Result<bool> {
        let &[edge, stdin, stdout] = happened else { return Ok(true) };
        if edge {
            let mut events = [EpollEvent::empty()];
            self.edges.wait(&mut events, EpollTimeout::ZERO).context(|| "wait for the terminal")?;
            (self.readable, self.writable) = (true, true);
        }
        if stdin && !self.read_input() {
            return Ok(false);
        }
        self.write_input();
        if stdout && !self.write_output() {
            return Ok(false);
        }
        self.read_output();
        Ok(true)
    }

    /// Takes input from stdin; false where the caller's terminal is gone.
    fn read_input(&mut self) -> bool {
        let Some(stdin) = self.stdin else { return true };
        match self.input.fill(stdin) {
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => return true,
            // A terminal in raw mode has no end of file: it is hung up.
            _ if self.stdin_is_terminal => return false,
            Ok(0) | Err(_) => {}
        }
        // The end of a file or pipe becomes what a person would type for it.
        self.stdin = None;
        if let Ok(settings) = tcgetattr(&self.master) {
            self.input.bytes[0] = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
            self.input.end = 1;
        }
        true
    }

    fn write_input(&mut self) {
        while self.writable && !self.input.is_empty() {
            match self.input.flush(&self.master) {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.writable = false,
                // Nobody reads it any more.
                Err(_) => self.input = Buffer::new(),
            }
        }
    }

    fn read_output(&mut self) {
        while self.readable && self.output.is_empty() && self.still_read > 0 {
            match self.output.fill(&self.master) {
                Ok(count @ 1..) => self.still_read = self.still_read.saturating_sub(count),
                Err(Errno::EINTR) => {}
                // EAGAIN: none at the moment. EIO: nobody has the other side open at the moment.
                Ok(0) | Err(_) => self.readable = false,
            }
        }
    }

    /// Writes output to stdout; false where nobody takes it any more.
    fn write_output(&mut self) -> bool {
        matches!(self.output.flush(self.stdout), Ok(()) | Err(Errno::EAGAIN | Errno::EINTR))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test starts a thread")]

    use nix::sys::termios::LocalFlags;

    use super::*;

    /// config.md, process, terminal: raw mode ends on every way out: dropped, and by a panic, which aborts without dropping anything.
    #[test]
    fn raw_mode_ends_in_a_panic_too() {
        let pty = Box::leak(Box::new(nix::pty::openpty(None, None).unwrap()));
        let is_raw = || !tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON);
        let terminal = RawMode(pty.slave.as_fd());
        terminal.enter();
        assert!(is_raw());
        drop(terminal);
        assert!(!is_raw());
        let terminal = RawMode(pty.slave.as_fd());
        terminal.enter();
        assert!(is_raw());
        // What runs in the thread is the panic hook, and no destructor of `terminal`.
        std::thread::spawn(|| panic!("as a mistake in skeg would")).join().unwrap_err();
        assert!(!is_raw());
    }
}
