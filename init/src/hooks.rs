//! startContainer hooks: run by the process that becomes the container's, after `start` and before execve (runtime.md,
//! lifecycle, step 7; config.md, "POSIX-platform Hooks").
//!
//! What a hook gets is what the runtime's own hooks get (its `hooks.rs`): the environment is exactly `hook.env`, the
//! descriptors are 0 to 2 (the state on stdin, stdout and stderr captured), all signals are at their default, the
//! session is its own. Its path resolves in the container, and it has the rights of the container's process.

use core::fmt::Write as _;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::channel::Channel;
use crate::diagnose::reason;
use crate::error::{Context as _, Errno, Error, Result};
use crate::instructions::Hook;
use crate::security::text;
use crate::sys::{self, Ended, Fd, Forked};

/// How much of the end of a hook's stdout and stderr, in bytes, is kept for the error (peers.md, row 32).
const KEPT_OUTPUT: usize = 4096;

/// Runs the hooks one after the other, each with the state on its stdin: `state` with this process's number between its two
/// parts, since in the container's PID namespace, where they run, the process has the number that it sees itself.
///
/// # Errors
/// The first failure; the hooks after it do not run. The text names index and path of the hook, how it ended, after what
/// time, and the end of what it wrote.
pub fn run(hooks: &[Hook<'_>], state: [&[u8]; 2]) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    sys::set_broken_pipes_ignored(true);
    let state = [state[0], format!("{}", sys::pid()).as_bytes(), state[1]].concat();
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &state).map_err(|mut error| {
            // The second phrase is that of runc 1.1, the first that of today: users and tests look for either.
            let hook = format!("error running hook: {}", text(hook.path));
            error.what = format!("error running startContainer hook #{index}: {hook}: {}", error.what);
            error
        })?;
    }
    sys::set_broken_pipes_ignored(false);
    Ok(())
}

fn run_one(hook: &Hook<'_>, state: &[u8]) -> Result<()> {
    if !hook.path.to_bytes().starts_with(b"/") {
        return Err(Error::new("the path of a hook must be absolute"));
    }
    let started = sys::milliseconds();
    // A time that the clock cannot hold never comes.
    let deadline = match hook.timeout {
        Some(0) => return Err(Error::new("timeout 0: must be greater than zero")),
        seconds => seconds.and_then(|seconds| seconds.checked_mul(1000)?.checked_add(started)),
    };
    let mut process = Process::start(hook, state)?;
    let in_time = process.attend(deadline)?;
    if !in_time {
        // Its number is its group's (it leads a session of its own), and is not free before the wait below.
        sys::kill_group(process.pid);
    }
    let end = sys::wait(process.pid).context(|| "wait for it")?;
    process.stdout.take();
    process.stderr.take();
    if in_time && end == Ended::Exited(0) {
        process.close();
        return Ok(());
    }
    let mut said = match end {
        // runc's words.
        _ if !in_time => {
            format!("hook ran past specified timeout of {}.0s", hook.timeout.unwrap_or_default())
        }
        Ended::Exited(status) => format!("exit status {status}"),
        Ended::Signaled(libc::SIGSYS) => "bad system call: killed by SIGSYS (seccomp)".into(),
        Ended::Signaled(signal) => format!("killed by signal {signal}"),
    };
    let time = sys::milliseconds().saturating_sub(started);
    let _ = write!(said, " after {}.{:03} s", time / 1000, time % 1000);
    process.describe_output(&mut said);
    process.close();
    Err(Error::new(said))
}

/// A hook that runs.
struct Process<'a> {
    pid: i32,
    pidfd: Fd,
    /// Our end of its stdin, until all of the state is written or the hook has closed its end.
    stdin: Option<Fd>,
    /// What of the state is still to be written.
    state: &'a [u8],
    stdout: Output,
    stderr: Output,
}

impl<'a> Process<'a> {
    fn start(hook: &Hook<'_>, state: &'a [u8]) -> Result<Self> {
        let pipe = || sys::pipe().context(|| "make a pipe");
        let ((their_stdin, stdin), (stdout, their_stdout), (stderr, their_stderr)) =
            (pipe()?, pipe()?, pipe()?);
        // An end of file there says that execve has succeeded.
        let (executed, their_executed) = pipe()?;
        for ours in [stdin, stdout, stderr] {
            sys::set_nonblocking(ours).context(|| "set a pipe non-blocking")?;
        }
        let pid = match sys::fork(false).context(|| "fork")? {
            Forked::Parent(pid) => pid,
            Forked::Child => {
                let errno = become_hook(hook, [their_stdin, their_stdout, their_stderr]);
                let _ = Channel(their_executed).send(&errno.0.to_ne_bytes());
                sys::exit(1)
            }
        };
        [their_stdin, their_stdout, their_stderr, their_executed].into_iter().for_each(sys::close);
        let mut errno = [0; 4];
        let failed = sys::read(executed, &mut errno) == Ok(errno.len());
        sys::close(executed);
        if failed {
            [stdin, stdout, stderr].into_iter().for_each(sys::close);
            let _ = sys::wait(pid);
            let errno = Errno(i32::from_ne_bytes(errno));
            return Err(Error::from_errno("exec", errno).because(reason(hook.path, errno)));
        }
        let pidfd = sys::open_pidfd(pid).context(|| "open a pidfd")?;
        let [stdout, stderr] = [stdout, stderr].map(Output::new);
        Ok(Self { pid, pidfd, stdin: Some(stdin), state, stdout, stderr })
    }

    /// Feeds the hook and takes what it writes until it has ended: true; or the deadline is over: false.
    fn attend(&mut self, deadline: Option<u64>) -> Result<bool> {
        loop {
            self.feed();
            let left = deadline.map(|deadline| deadline.saturating_sub(sys::milliseconds()));
            if left == Some(0) {
                return Ok(false);
            }
            // A negative descriptor is none (poll(2)).
            let watch = |fd: Option<Fd>, events| libc::pollfd { fd: fd.unwrap_or(-1), events, revents: 0 };
            let mut fds = [
                watch(Some(self.pidfd), libc::POLLIN),
                watch(self.stdin, libc::POLLOUT),
                watch(self.stdout.pipe, libc::POLLIN),
                watch(self.stderr.pipe, libc::POLLIN),
            ];
            sys::poll(&mut fds, left).context(|| "wait for it")?;
            let ended = fds[0].revents != 0;
            self.stdout.take();
            self.stderr.take();
            if ended {
                return Ok(true);
            }
        }
    }

    /// Writes as much of the state as goes without waiting. A hook that does not read it is no error: many do not.
    fn feed(&mut self) {
        while let Some(stdin) = self.stdin {
            match sys::write(stdin, self.state) {
                Ok(written) => self.state = self.state.get(written..).unwrap_or_default(),
                Err(Errno(libc::EAGAIN)) => return,
                Err(Errno(libc::EINTR)) => continue,
                Err(_) => self.state = &[],
            }
            if self.state.is_empty() {
                sys::close(stdin);
                self.stdin = None;
            }
        }
    }

    /// Adds the end of stderr to an error's text; of stdout where the hook wrote nothing else.
    fn describe_output(&self, said: &mut String) {
        for (name, output) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            let end = output.end_in_one_line();
            if !end.is_empty() {
                let _ = write!(said, ", {name}: {end}");
                return;
            }
        }
    }

    fn close(&self) {
        let pipes = [self.stdin, self.stdout.pipe, self.stderr.pipe];
        pipes.into_iter().flatten().chain([self.pidfd]).for_each(sys::close);
    }
}

/// The child's half: a session, descriptors and signals of its own. Returns only to say why it failed.
fn become_hook(hook: &Hook<'_>, stdio: [Fd; 3]) -> Errno {
    let prepare = || {
        sys::new_session()?;
        for (target, fd) in (0..).zip(stdio) {
            sys::place_at(fd, target)?;
        }
        sys::mark_cloexec_from(3)?;
        sys::reset_signals()
    };
    match prepare() {
        Ok(()) => sys::execute(hook.path, &hook.args, &hook.env),
        Err(errno) => errno,
    }
}

/// One of a hook's output pipes, and the end of what came through it.
struct Output {
    /// Until the last writer has closed its end.
    pipe: Option<Fd>,
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    fn new(pipe: Fd) -> Self {
        Self { pipe: Some(pipe), kept: Vec::with_capacity(2 * KEPT_OUTPUT), cut: false }
    }

    /// Takes what the pipe holds now, at most a pipe's usual content, so that a hook that never stops writing cannot
    /// keep this process from looking at the clock. Never grows, since memory is not given back.
    fn take(&mut self) {
        const TURNS: usize = 16;
        let mut chunk = [0; KEPT_OUTPUT];
        for _ in 0..TURNS {
            let Some(pipe) = self.pipe else { return };
            match sys::read(pipe, &mut chunk) {
                Ok(count @ 1..) => {
                    let excess = (self.kept.len() + count).saturating_sub(KEPT_OUTPUT);
                    self.cut |= excess > 0;
                    self.kept.drain(..excess.min(self.kept.len()));
                    self.kept.extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Err(Errno(libc::EAGAIN)) => return,
                Ok(_) | Err(_) => {
                    sys::close(pipe);
                    self.pipe = None;
                }
            }
        }
    }

    /// What was kept, in one line: an error is one line, and a log line cannot be forged (security.md G9).
    fn end_in_one_line(&self) -> String {
        let text = String::from_utf8_lossy(self.kept.trim_ascii_end());
        let mut line = String::with_capacity(text.len());
        if self.cut {
            line.push_str("... ");
        }
        for char in text.chars() {
            match char {
                char if char.is_control() => line.extend(char.escape_default()),
                char => line.push(char),
            }
        }
        line
    }
}
