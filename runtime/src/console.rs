//! Pseudo terminals: the pair in the container, the console socket, and the caller's terminal in the foreground.
//!
//! The pair is made in the container's own devpts and its peer is opened by its master, never by a name that the image
//! could have put a link at (security.md D1, CVE-2025-52565). The master leaves the container over a socket: the
//! manager's `--console-socket`, or, for `run` and `exec` in the foreground, one end of a [`socket_pair`]; the code on
//! the container's side is the same.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::stat::{Mode, SFlag, major, minor};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::sys::termios::{
    OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::sys::time::TimeVal;
use nix::unistd::{Gid, Pid, Uid, fchdir, getpgrp, isatty, tcgetpgrp};
use oci_spec::runtime::Box as Size;

use crate::error::{Context as _, Error, Result};
use crate::notify_socket::Forwarder;
use crate::sys::path::{open_given, open_in_root_no_links, stat};
use crate::sys::{fd, pid, tty};

/// How long a manager may take to have room for a connection and for the message with the master (security.md D5).
const SOCKET_TIMEOUT_SECONDS: i64 = 10;

/// What goes with the master: the name that runc sends. containerd and conmon log it at the most.
const MASTER_NAME: &[u8] = b"/dev/ptmx";

/// A pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The side of the manager or of the foreground process.
    pub master: OwnedFd,
    /// The side of the container's process.
    pub peer: OwnedFd,
}

/// Makes a pair in the devpts that is mounted on `dev/pts` of `root`.
///
/// # Errors
/// No devpts there (row D1: file system, device number and inode of `ptmx` are checked), or no pair left.
pub fn open_pty(root: impl AsFd) -> Result<Pty> {
    /// devpts gives its root inode 1 and its ptmx inode 2 (`mknod_ptmx` in fs/devpts/inode.c).
    const PTMX_INODE: u64 = 2;
    const PTMX_DEVICE: (u64, u64) = (5, 2);
    let what = || "open /dev/pts/ptmx for the terminal";
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    // A link on the way, or a device of the image's own, is refused before anything is opened for use: opening a device can act.
    let found =
        open_in_root_no_links(&root, "dev/pts/ptmx", OFlag::O_PATH | OFlag::O_NOFOLLOW).context(what)?;
    let is_ptmx = |file: &OwnedFd| -> Result<bool> {
        let stat = stat(file).context(what)?;
        Ok(fstatfs(file).context(what)?.filesystem_type() == DEVPTS_SUPER_MAGIC
            && SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR
            && (major(stat.st_rdev), minor(stat.st_rdev)) == PTMX_DEVICE
            && stat.st_ino == PTMX_INODE)
    };
    if !is_ptmx(&found)? {
        return Err(Error::new(format!("{}: it is not the ptmx of a devpts", what())));
    }
    let master = open_in_root_no_links(&root, "dev/pts/ptmx", flags).context(what)?;
    if !is_ptmx(&master)? {
        return Err(Error::new(format!("{}: it is not the ptmx of a devpts", what())));
    }
    tty::unlock(&master).context(|| "unlock the terminal")?;
    let peer = tty::open_peer(&master).context(|| "open the terminal of the container")?;
    Ok(Pty { master, peer })
}

/// Sets `process.consoleSize` on either side.
///
/// # Errors
/// A height or width that no terminal can have.
pub fn set_size(terminal: impl AsFd, size: &Size) -> Result<()> {
    let number = |name: &str, value: u64| {
        u16::try_from(value).map_err(|_| {
            Error::new(format!("/process/consoleSize/{name}: {value}: must be at most {}", u16::MAX))
        })
    };
    let size = libc::winsize {
        ws_row: number("height", size.height())?,
        ws_col: number("width", size.width())?,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tty::set_window_size(terminal, &size).context(|| "set the size of the terminal")
}

/// Gives the terminal to the user and makes it standard input, output and error. It becomes the controlling one by the
/// process that goes on, which may be another one in a session of its own (`init/src/become_process.rs`).
///
/// # Errors
/// The errno of fchown(2) or dup2(2).
pub fn use_terminal(peer: &OwnedFd, owner: Uid) -> Result<()> {
    // `peer` comes from TIOCGPTPEER, so that this is a pty and nothing else (row D3).
    nix::unistd::fchown(peer, Some(owner), None::<Gid>).context(|| "give the terminal to the user")?;
    for target in 0..=2 {
        fd::place_at(peer, target).context(|| "set stdin, stdout and stderr to the terminal")?;
    }
    Ok(())
}

/// Makes the user the owner of those of 0, 1 and 2 that are pipes, so that a program can open them anew by
/// `/dev/stdout` (images that log there count on it, and runc does the same). Never a device, a file or a socket: they
/// may be the host's and shared (row D3, CVE-2026-88265).
///
/// # Errors
/// The errno of fstat(2) or fchown(2), but for a pipe whose owner may not be changed.
pub fn give_pipes_to(owner: Uid) -> Result<()> {
    let what = || "give stdin, stdout and stderr to the user";
    for number in 0..=2 {
        let Ok(pipe) = fd::inherited(number) else { continue };
        let is = stat(pipe).context(what)?;
        if SFlag::from_bits_truncate(is.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO
            || is.st_uid == owner.as_raw()
        {
            continue;
        }
        match nix::unistd::fchown(pipe, Some(owner), None::<Gid>) {
            // Not ours to give, or not mapped in the user namespace.
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        }
    }
    Ok(())
}

/// Connects to a socket of the manager's (console, pidfd, seccomp agent), once. A path longer than an address can hold is reached by its directory.
///
/// Must be called before the clone: it may change the working directory for the time of the call.
///
/// # Errors
/// The errno of connect(2); `resource temporarily unavailable` where the receiver has taken no connection for 10 s.
pub fn connect_socket(path: &Path) -> Result<OwnedFd> {
    connect_within(path, SOCKET_TIMEOUT_SECONDS)
}

fn connect_within(path: &Path, seconds: i64) -> Result<OwnedFd> {
    let what = || format!("connect to socket {}", path.display());
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context(what)?;
    // connect(2) to a full backlog and sendmsg(2) to a full queue both wait for this long (unix_stream_connect).
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, 0)).context(what)?;
    let connect_to = |path: &Path| loop {
        match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
            // A Unix socket is not connected by an interrupted call.
            Err(Errno::EINTR) => {}
            other => return other,
        }
    };
    match (connect_to(path), path.parent(), path.file_name()) {
        (Err(Errno::ENAMETOOLONG), Some(parent), Some(name)) => {
            let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let here = open_given(".", directory, Mode::empty()).context(what)?;
            let there = open_given(parent, directory, Mode::empty()).context(what)?;
            fchdir(&there).context(what)?;
            let result = connect_to(Path::new(name));
            fchdir(&here).context(|| "return to the working directory")?;
            result.context(what)?;
        }
        (result, ..) => result.context(what)?,
    }
    Ok(socket)
}

/// The two ends of what stands for a console socket in the foreground: ours, and the container's.
///
/// # Errors
/// The errno of socketpair(2).
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .context(|| "make a socket pair for the terminal")
}

/// Sends `master` to the manager, or to our own foreground half. The caller drops it afterwards.
///
/// # Errors
/// The errno of sendmsg(2).
pub fn send_master(socket: impl AsFd, master: impl AsFd) -> Result<()> {
    fd::send_with_fds(socket, MASTER_NAME, &[master.as_fd()])
        .context(|| "send the terminal over the console socket")
}

/// Receives what [`send_master`] sent. The sender's end must not be open in this process, so that a container that
/// ended before it sent is the end of the stream, and no wait.
///
/// # Errors
/// The end of the stream, or something that is not one master.
pub fn receive_master(socket: impl AsFd) -> Result<OwnedFd> {
    let mut name = [0; 4096];
    let (_, fds) =
        fd::receive_with_fds(socket, &mut name).context(|| "receive the terminal of the container")?;
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([master]) if tty::pty_number(&master).is_ok() => Ok(master),
        _ => Err(Error::new("receive the terminal of the container: it sent none")),
    }
}

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
    #![allow(clippy::disallowed_methods, reason = "tests make their own files and threads")]

    use std::fs;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use nix::sys::termios::LocalFlags;
    use oci_spec::runtime::BoxBuilder;

    use super::*;

    /// A directory of its own for one test, removed at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hooks-console-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("dev/pts")).unwrap();
            Self(dir)
        }

        fn root(&self) -> OwnedFd {
            open_given(&self.0, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn host_pty() -> Pty {
        open_pty(open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap()).unwrap()
    }

    #[test]
    fn the_two_sides_belong_together() {
        let pty = host_pty();
        nix::unistd::write(&pty.peer, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&pty.master, &mut byte), Ok(1));
        assert_eq!(&byte, b"x");
        let peer = stat(&pty.peer).unwrap();
        assert_eq!(fstatfs(&pty.peer).unwrap().filesystem_type(), DEVPTS_SUPER_MAGIC);
        assert_eq!(minor(peer.st_rdev), u64::from(tty::pty_number(&pty.master).unwrap()));
    }

    /// security.md D1: nothing that an image can have at dev/pts/ptmx is taken for the ptmx of a devpts.
    #[test]
    fn d1_only_the_ptmx_of_a_devpts() {
        let dir = Dir::new("ptmx");
        let ptmx = dir.0.join("dev/pts/ptmx");
        let refused = |what: &str| {
            let error = open_pty(dir.root()).unwrap_err().to_string();
            assert!(error.starts_with("open /dev/pts/ptmx for the terminal: "), "{what}: {error}");
        };
        refused("nothing");
        fs::write(&ptmx, "").unwrap();
        refused("a file");
        fs::remove_file(&ptmx).unwrap();
        std::os::unix::fs::symlink("/dev/pts/ptmx", &ptmx).unwrap();
        refused("a link");
        fs::remove_file(&ptmx).unwrap();
        nix::unistd::mkfifo(&ptmx, Mode::S_IRWXU).unwrap();
        refused("a FIFO");
        fs::remove_file(&ptmx).unwrap();
        let device = nix::sys::stat::makedev(5, 2);
        if nix::sys::stat::mknod(&ptmx, SFlag::S_IFCHR, Mode::S_IRWXU, device).is_ok() {
            refused("a device node 5:2 outside a devpts");
        }
        fs::remove_dir_all(dir.0.join("dev/pts")).unwrap();
        std::os::unix::fs::symlink("/dev/pts", dir.0.join("dev/pts")).unwrap();
        refused("a link for the directory");
    }

    /// security.md D5: paths around and beyond the 107 bytes of a socket address.
    #[test]
    fn d5_long_socket_paths() {
        let dir = Dir::new("long");
        let here = std::env::current_dir().unwrap();
        for length in [107, 108, 200, 1000] {
            let name = "socket";
            let mut path = dir.0.clone();
            loop {
                // What is still to be filled with directories, their slashes included.
                match length - path.as_os_str().len() - name.len() - 1 {
                    0 => break,
                    left @ 2..=100 => path.push("d".repeat(left - 1)),
                    _ => path.push("d".repeat(50)),
                }
            }
            fs::create_dir_all(&path).unwrap();
            // A listener's address has the same limit: it is bound by a short link to the directory.
            let link = dir.0.join("l");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let listener = UnixListener::bind(link.join(name)).unwrap();
            fs::remove_file(&link).unwrap();
            path.push(name);
            assert_eq!(path.as_os_str().len(), length);
            connect_socket(&path).unwrap();
            listener.accept().unwrap();
            assert_eq!(std::env::current_dir().unwrap(), here);
        }
    }

    /// security.md D5: what is no listening socket is an error.
    #[test]
    fn d5_not_a_socket() {
        let dir = Dir::new("file");
        let path = dir.0.join("file");
        let missing = connect_socket(&path).unwrap_err();
        assert_eq!(missing.errno(), Some(Errno::ENOENT));
        fs::write(&path, "").unwrap();
        let error = connect_socket(&path).unwrap_err().to_string();
        assert_eq!(error, format!("connect to socket {}: connection refused", path.display()));
        let long = dir.0.join("n".repeat(200));
        assert_eq!(connect_socket(&long).unwrap_err().errno(), Some(Errno::ENAMETOOLONG));
    }

    /// security.md D5: a receiver that takes no connection any more costs bounded time.
    #[test]
    fn d5_receiver_that_hangs() {
        let dir = Dir::new("hang");
        let path = dir.0.join("socket");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let _waiting = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        let started = std::time::Instant::now();
        let error = connect_within(&path, 1).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EAGAIN), "{error}");
        // The kernel counts in its ticks; the upper bound is for a busy machine.
        let waited = started.elapsed().as_secs_f64();
        assert!((0.9..8.0).contains(&waited), "{waited} s");
    }

    /// The message is what containerd and conmon expect: the master, close-on-exec, and a name.
    #[test]
    fn the_master_goes_over_the_socket() {
        let (ours, theirs) = socket_pair().unwrap();
        let pty = host_pty();
        send_master(&theirs, &pty.master).unwrap();
        drop(theirs);
        let master = receive_master(&ours).unwrap();
        assert_eq!(tty::pty_number(&master), tty::pty_number(&pty.master));
        assert!(receive_master(&ours).is_err(), "the end of the stream is no terminal");
        let (ours, theirs) = socket_pair().unwrap();
        fd::send_with_fds(&theirs, b"x", &[ours.as_fd()]).unwrap();
        assert!(receive_master(&ours).is_err(), "a socket is no terminal");
    }

    /// security.md D12: the numbers of a terminal's size are 16 bits wide; what is greater is an error that names the value.
    #[test]
    fn d12_console_size() {
        let pty = host_pty();
        let size = |height, width| BoxBuilder::default().height(height).width(width).build().unwrap();
        set_size(&pty.master, &size(50_u64, 65535_u64)).unwrap();
        let now = tty::window_size(&pty.peer).unwrap();
        assert_eq!((now.ws_row, now.ws_col), (50, 65535));
        let error = set_size(&pty.master, &size(65536_u64, 1_u64)).unwrap_err().to_string();
        assert_eq!(error, "/process/consoleSize/height: 65536: must be at most 65535");
        let error = set_size(&pty.master, &size(1_u64, u64::MAX)).unwrap_err().to_string();
        assert_eq!(error, format!("/process/consoleSize/width: {}: must be at most 65535", u64::MAX));
    }

    /// config.md, process, terminal: raw mode ends on every way out: dropped, and by a panic, which aborts without dropping anything.
    #[test]
    fn raw_mode_ends_in_a_panic_too() {
        let pty = Box::leak(Box::new(host_pty()));
        let is_raw = || !tcgetattr(&pty.peer).unwrap().local_flags.contains(LocalFlags::ICANON);
        let terminal = RawMode(pty.peer.as_fd());
        terminal.enter();
        assert!(is_raw());
        drop(terminal);
        assert!(!is_raw());
        let terminal = RawMode(pty.peer.as_fd());
        terminal.enter();
        assert!(is_raw());
        // What runs in the thread is the panic hook, and no destructor of `terminal`.
        std::thread::spawn(|| panic!("as a mistake in skeg would")).join().unwrap_err();
        assert!(!is_raw());
    }
}
