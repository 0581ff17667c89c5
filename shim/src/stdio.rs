//! Standard streams of a process.
//!
//! Where nothing has to be in between, the container gets the manager's FIFO itself: no copy, no wake-up of the shim,
//! and output goes on when the shim dies. The shim then holds only the other end: a read end of an output FIFO, so that
//! a restart of the reader is no SIGPIPE, and a write end of the input FIFO until `CloseIO`, so that a restart of the
//! writer is no end of file.
//!
//! A copy (by splice(2), no memory of ours) stands in between for terminals, for log files (a container that held a
//! host file could truncate it or change its mode), under an LSM label (policies tell the shim's pipes from files of the
//! host), and for exec, whose output must end soon after the process even if something that it started keeps it open.

mod console;
mod copy;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{Gid, Uid};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::console::ConsoleSocket;
use self::copy::{Copy, Phase, Sink, polled};
use crate::error::{Context as _, Error, Result};
use crate::path;
use crate::reap::Reaper;
use crate::stream_uri::{Scheme, fifo_path, scheme};
use crate::sys;

/// How long a new process waits for the manager to open its end of an output FIFO.
const READER_LIMIT: Duration = Duration::from_secs(2);
/// How long output that is still open is copied after its process has ended (security.md I8).
const AFTER_EXIT: Duration = Duration::from_millis(500);
/// How long after that a reader may take to accept what has been read.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Bytes a splice(2), and the capacity that output pipes and FIFOs are given: with the usual 64 KiB a writer and a reader stop
/// and wake each other four times as often. Pages are taken as they are filled.
const CHUNK: usize = 256 * 1024;
/// The streams of a process as the task API names them; empty means none.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// FIFO to read from.
    pub stdin: String,
    /// FIFO, `file://` or `binary://` to write to.
    pub stdout: String,
    /// As `stdout`.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// What streams are opened for.
pub struct Owner<'a> {
    /// containerd namespace, for logging binaries.
    pub namespace: &'a str,
    /// Container id, for logging binaries.
    pub id: &'a str,
    /// Owner of the streams on the host.
    pub uid: u32,
    /// Group of the streams on the host.
    pub gid: u32,
    /// Whether the container may get the manager's FIFOs themselves.
    pub direct: bool,
    /// For logging binaries, which are children of the shim.
    pub reaper: &'a Rc<Reaper>,
    /// Directory for console sockets.
    pub socket_dir: &'a Path,
}

/// Where output goes.
enum Target {
    /// Nowhere.
    Null,
    /// A FIFO: its write end and the read end that is held.
    Fifo(OwnedFd, OwnedFd),
    /// A log file.
    File(OwnedFd),
    /// The write end of a logging binary's pipe.
    Logger(OwnedFd),
}

/// Streams that are opened, before their process is made.
pub struct Prepared {
    /// Standard input, output and error for the runtime; nothing with a terminal.
    child: Option<[OwnedFd; 3]>,
    console: Option<ConsoleSocket>,
    copies: Vec<Copy>,
    held: Vec<OwnedFd>,
    stdin_writer: Option<OwnedFd>,
    /// With a terminal: what its master is copied from and to.
    terminal: Option<(Option<OwnedFd>, Target)>,
}

/// Streams of a process that lives.
pub struct Streams {
    phase: watch::Sender<Phase>,
    running: Rc<Cell<usize>>,
    held: RefCell<Vec<OwnedFd>>,
    stdin_writer: RefCell<Option<OwnedFd>>,
    console: Option<OwnedFd>,
}

/// Opens the streams that `paths` name.
///
/// # Errors
/// `InvalidArgument` for a scheme that is not known or a path that is not absolute; what opening failed with.
pub async fn open(paths: &Paths, owner: &Owner<'_>) -> Result<Prepared> {
    let (stdout, stderr) = open_outputs(paths, owner).await?;
    let mut held = Vec::new();
    let mut stdin_writer = None;
    let stdin = match fifo_path("stdin", &paths.stdin)? {
        None => None,
        Some(fifo) => {
            let opened =
                |end| path::open_fifo(&fifo, end).context(|| format!("open stdin {}", fifo.display()));
            let read = opened(OFlag::O_RDONLY)?;
            stdin_writer = Some(opened(OFlag::O_WRONLY)?);
            Some(read)
        }
    };
    if paths.terminal {
        let console = Some(ConsoleSocket::new(owner.socket_dir)?);
        let terminal = Some((stdin, stdout));
        return Ok(Prepared { child: None, console, copies: Vec::new(), held, stdin_writer, terminal });
    }
    let mut copies = Vec::new();
    let child_in = match stdin {
        None => path::null_device().context(|| "open /dev/null")?,
        Some(fifo) if owner.direct => {
            hand_over(&fifo, owner)?;
            fifo
        }
        Some(fifo) => {
            let (read, write) = pipe()?;
            hand_over(&read, owner)?;
            set_nonblocking(&write, true)?;
            copies.push(Copy { from: fifo, to: Sink::Splice(write) });
            read
        }
    };
    let child_out = child_output(stdout, owner, &mut copies, &mut held)?;
    let child_err = child_output(stderr, owner, &mut copies, &mut held)?;
    let child = Some([child_in, child_out, child_err]);
    Ok(Prepared { child, console: None, copies, held, stdin_writer, terminal: None })
}

/// Standard output and error. A file or a logging binary takes both, as in containerd's own shim.
async fn open_outputs(paths: &Paths, owner: &Owner<'_>) -> Result<(Target, Target)> {
    match scheme("stdout", &paths.stdout)? {
        Scheme::Binary(logger) => {
            let (out, err) = logger.start(owner).await?;
            Ok((Target::Logger(out), Target::Logger(err)))
        }
        Scheme::File(file) => {
            let opened = || path::open_log_file(&file).context(|| format!("open log {}", file.display()));
            Ok((Target::File(opened()?), Target::File(opened()?)))
        }
        Scheme::None | Scheme::Fifo(_) => {
            let stdout = open_output("stdout", &paths.stdout).await?;
            // A terminal has one output.
            let stderr =
                if paths.terminal { Target::Null } else { open_output("stderr", &paths.stderr).await? };
            Ok((stdout, stderr))
        }
    }
}

async fn open_output(what: &str, uri: &str) -> Result<Target> {
    match scheme(what, uri)? {
        Scheme::None => Ok(Target::Null),
        Scheme::File(file) => {
            let file = path::open_log_file(&file).context(|| format!("open {what} {}", file.display()))?;
            Ok(Target::File(file))
        }
        Scheme::Fifo(fifo) => {
            let (write, read) =
                open_output_fifo(&fifo).await.context(|| format!("open {what} {}", fifo.display()))?;
            Ok(Target::Fifo(write, read))
        }
        Scheme::Binary(_) => {
            Err(Error::invalid(format!("{what} {uri:?}: a logging binary goes with stdout")))
        }
    }
}

/// The write end of an output FIFO, once its reader is there, and a read end to hold. Where no reader comes, the
/// output stays in the FIFO: a manager that never reads must not hang the container's creation.
async fn open_output_fifo(fifo: &Path) -> nix::Result<(OwnedFd, OwnedFd)> {
    let mut pause = Duration::from_micros(500);
    let mut waited = Duration::ZERO;
    let write = loop {
        match path::open_fifo(fifo, OFlag::O_WRONLY) {
            Ok(write) => break Some(write),
            Err(Errno::ENXIO) if waited < READER_LIMIT => {
                sleep(pause).await;
                waited += pause;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(Errno::ENXIO) => break None,
            Err(errno) => return Err(errno),
        }
    };
    let read = path::open_fifo(fifo, OFlag::O_RDONLY)?;
    let write = match write {
        Some(write) => write,
        None => path::open_fifo(fifo, OFlag::O_WRONLY)?,
    };
    widen(&write);
    Ok((write, read))
}

/// The descriptor that the container gets for an output, with the copy and the held end that belong to it.
fn child_output(
    target: Target,
    owner: &Owner<'_>,
    copies: &mut Vec<Copy>,
    held: &mut Vec<OwnedFd>,
) -> Result<OwnedFd> {
    let to = match target {
        Target::Null => return path::null_device().context(|| "open /dev/null"),
        Target::Logger(write) => {
            hand_over(&write, owner)?;
            return Ok(write);
        }
        Target::Fifo(write, read) => {
            held.push(read);
            if owner.direct {
                hand_over(&write, owner)?;
                return Ok(write);
            }
            Sink::Splice(write)
        }
        Target::File(file) => Sink::File(file),
    };
    let (read, write) = pipe()?;
    widen(&write);
    hand_over(&write, owner)?;
    copies.push(Copy { from: read, to });
    Ok(write)
}

/// Where the user may not have so much, the usual capacity does.
fn widen(pipe: &OwnedFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(i32::try_from(CHUNK).unwrap_or(i32::MAX)));
}

/// Makes a descriptor fit for a container: blocking, and owned as asked, so that `/dev/stdout` can be opened.
fn hand_over(fd: &OwnedFd, owner: &Owner<'_>) -> Result<()> {
    set_nonblocking(fd, false)?;
    if owner.uid != 0 || owner.gid != 0 {
        nix::unistd::fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
            .context(|| "fchown stdio")?;
    }
    Ok(())
}

/// A pipe, close-on-exec.
///
/// # Errors
/// The errno of pipe2(2).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")
}

fn set_nonblocking(fd: &OwnedFd, on: bool) -> Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).context(|| "fcntl")?);
    let mut wanted = flags;
    wanted.set(OFlag::O_NONBLOCK, on);
    if wanted != flags {
        fcntl(fd, FcntlArg::F_SETFL(wanted)).context(|| "fcntl")?;
    }
    Ok(())
}

impl Prepared {
    /// The streams for the runtime call, where there is no terminal.
    pub fn child(&self) -> Option<[BorrowedFd<'_>; 3]> {
        self.child.as_ref().map(|fds| [fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()])
    }

    /// What `--console-socket` is to be.
    pub fn console_socket(&self) -> Option<&Path> {
        self.console.as_ref().map(|console| console.path.as_path())
    }

    /// Closes the container's ends and starts the copies: the runtime has made the process.
    ///
    /// # Errors
    /// A console that the runtime has not sent; what setting up a copy failed with.
    pub fn begin(mut self) -> Result<Streams> {
        drop(self.child.take());
        let mut terminal_console = None;
        if let (Some(socket), Some((stdin, stdout))) = (self.console.take(), self.terminal.take()) {
            let master = socket.receive()?;
            set_nonblocking(&master, true)?;
            let duplicate = || master.try_clone().context(|| "duplicate a console");
            if let Some(from) = stdin {
                self.copies.push(Copy { from, to: Sink::Splice(duplicate()?) });
            }
            let to = match stdout {
                Target::Null => Sink::File(path::null_device().context(|| "open /dev/null")?),
                Target::File(file) => Sink::File(file),
                Target::Logger(write) => {
                    set_nonblocking(&write, true)?;
                    Sink::Splice(write)
                }
                Target::Fifo(write, read) => {
                    self.held.push(read);
                    Sink::Splice(write)
                }
            };
            self.copies.push(Copy { from: duplicate()?, to });
            terminal_console = Some(master);
        }
        let (phase, _) = watch::channel(Phase::Open);
        let running = Rc::new(Cell::new(0));
        for copy in self.copies {
            copy.start(&phase, &running)?;
        }
        Ok(Streams {
            phase,
            running,
            held: RefCell::new(self.held),
            stdin_writer: RefCell::new(self.stdin_writer),
            console: terminal_console,
        })
    }
}

impl Streams {
    /// `CloseIO`: the input ends once the manager has closed its end too.
    pub fn close_stdin(&self) {
        self.stdin_writer.borrow_mut().take();
    }

    /// Sets the size of the terminal, where there is one.
    ///
    /// # Errors
    /// What the ioctl failed with.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.console {
            Some(console) => {
                sys::set_terminal_size(console, columns, rows).context(|| "set the size of the terminal")
            }
            None => Ok(()),
        }
    }

    /// The process has ended: what others keep open is copied for a little longer, then cut off.
    pub fn process_ended(&self) {
        self.close_stdin();
        if self.running.get() > 0 {
            let (phase, running) = (self.phase.clone(), Rc::clone(&self.running));
            tokio::task::spawn_local(async move {
                sleep(AFTER_EXIT).await;
                finish(&phase, &running).await;
            });
        }
    }

    /// The process is deleted, and its caller reads no more after the answer (ctr of containerd 2): waits until what has been
    /// written is with its reader, but at most `DRAIN_LIMIT`. What others keep open is cut off (security.md I8).
    pub async fn deliver(&self, paths: &Paths) {
        self.close_stdin();
        self.held.borrow_mut().clear();
        self.phase.send_replace(Phase::Drain);
        let delivered = async {
            if self.running.get() > 0 {
                self.phase.closed().await;
            }
            taken(paths).await;
        };
        let _ = timeout(DRAIN_LIMIT, delivered).await;
        self.phase.send_replace(Phase::Abort);
    }

    /// The process is deleted: what has been written is delivered in the background, nothing waits for it.
    pub fn close(&self) {
        self.close_stdin();
        self.held.borrow_mut().clear();
        if self.running.get() > 0 {
            let (phase, running) = (self.phase.clone(), Rc::clone(&self.running));
            tokio::task::spawn_local(async move { finish(&phase, &running).await });
        }
    }
}

/// Waits until the readers of the FIFOs among `paths` have taken what is in them, or have gone.
async fn taken(paths: &Paths) {
    for (what, uri) in [("stdout", &paths.stdout), ("stderr", &paths.stderr)] {
        let Ok(Scheme::Fifo(fifo)) = scheme(what, uri) else { continue };
        // Without a reader there is nothing to open.
        let Ok(write) = path::open_fifo(&fifo, OFlag::O_WRONLY) else { continue };
        let mut pause = Duration::from_millis(1);
        while sys::unread(&write).is_ok_and(|bytes| bytes > 0)
            && !polled(&write, PollFlags::POLLOUT).contains(PollFlags::POLLERR)
        {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

async fn finish(phase: &watch::Sender<Phase>, running: &Cell<usize>) {
    if running.get() == 0 {
        return;
    }
    phase.send_if_modified(|phase| {
        let first = *phase == Phase::Open;
        if first {
            *phase = Phase::Drain;
        }
        first
    });
    // Copies that end by themselves drop their receivers, which ends the wait at once.
    let _ = timeout(DRAIN_LIMIT, phase.closed()).await;
    phase.send_replace(Phase::Abort);
}
