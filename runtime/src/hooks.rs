//! OCI hooks (runtime-spec config.md, "POSIX-platform Hooks"; security.md H1 to H4).
//!
//! What a hook gets is the same for all kinds, and nothing of it is inherited: the environment is exactly
//! `hook.env`, the descriptors are 0 to 2 (the state on stdin, stdout and stderr captured), all signals are at their
//! default, the session is its own.
//!
//! Where each kind runs. `path` is resolved by the execve of the process that calls [`run`]:
//!
//! | kind | called by | `path` resolves in | namespaces | working directory | a failure |
//! |---|---|---|---|---|---|
//! | prestart, createRuntime | `create`, after the namespaces and before pivot_root | the runtime's | the runtime's | the bundle | fails `create` |
//! | createContainer | init, before pivot_root | the host's tree, which init still sees | the container's | the bundle | fails `create` |
//! | startContainer | the sealed program (`init/src/hooks.rs`), after `start`, before execve, under the seccomp filter | the container | the container's | `process.cwd` | fails `start` |
//! | poststart | `start` | the runtime's | the runtime's | the bundle | ends the container, before 1.3 a warning |
//! | poststop | `delete` | the runtime's | the runtime's | the bundle | a warning |
//!
//! The specification says nothing about the working directory. Other runtimes run createContainer hooks in the root
//! file system, which lets the image feed them files (CVE-2025-23266); here every hook that runs host programs gets the
//! bundle, whose content is the manager's. It is given by its path and not by a descriptor, so that a createContainer hook stands
//! in the mount namespace that it was started in.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, pipe2};
use oci_spec::runtime::Hook;

use crate::diagnose;
use crate::error::{Context as _, Error, Result};
use crate::sys::path::c_path;
use crate::sys::pid;
use crate::sys::posix_spawn::{Program, spawn};

/// How much of the end of a hook's stdout and stderr, in bytes, is kept for the error (peers.md, row 32).
const KEPT_OUTPUT: usize = 4096;

/// The kinds of hooks of config.md that the runtime's own programs run: all but startContainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `hooks.prestart` (deprecated by the specification, and used).
    Prestart,
    /// `hooks.createRuntime`.
    CreateRuntime,
    /// `hooks.createContainer`.
    CreateContainer,
    /// `hooks.poststart`.
    Poststart {
        /// Whether a failure ends the container: since version 1.3 of the specification (runtime.md, lifecycle, step 9).
        fatal: bool,
    },
    /// `hooks.poststop`.
    Poststop,
}

impl Kind {
    /// The property's name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::Poststart { .. } => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// runtime.md, lifecycle: a failure is logged, and the rest goes on as if the hook had succeeded.
    fn failure_is_warning(self) -> bool {
        matches!(self, Self::Poststart { fatal: false } | Self::Poststop)
    }
}

/// Runs `hooks` one after the other in the order given, each with `state` (the container's state as JSON) on its stdin
/// and in the directory `cwd` (the caller's own where there is none).
///
/// Returns the failures of kinds whose failures are warnings.
///
/// # Errors
/// The first failure of any other kind; the hooks after it do not run. The text names kind, index and path of the hook,
/// how it ended, after what time, and the end of what it wrote.
pub fn run(kind: Kind, hooks: &[Hook], state: &[u8], cwd: Option<&Path>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        // The second phrase is that of runc 1.1, the first that of today: users and tests look for either.
        let what = || {
            let path = hook.path().display();
            format!("error running {} hook #{index}: error running hook: {path}", kind.name())
        };
        match run_one(hook, state, cwd).context(what) {
            Err(error) if kind.failure_is_warning() => warnings.push(error.to_string()),
            other => other?,
        }
    }
    Ok(warnings)
}

fn run_one(hook: &Hook, state: &[u8], cwd: Option<&Path>) -> Result<()> {
    if !hook.path().is_absolute() {
        return Err(Error::new("the path of a hook must be absolute"));
    }
    let started = Instant::now();
    let deadline = match hook.timeout() {
        None => None,
        // A time that the clock cannot hold never comes.
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..) => started.checked_add(Duration::from_secs(seconds)),
            _ => return Err(Error::new(format!("timeout {seconds}: must be greater than zero"))),
        },
    };
    let mut process = Process::start(hook, state, cwd)?;
    let in_time = process.attend(deadline)?;
    if !in_time {
        process.kill_group();
    }
    let end = process.end()?;
    if in_time && end == WaitStatus::Exited(process.pid, 0) {
        return Ok(());
    }
    let mut text = match end {
        // runc's words.
        _ if !in_time => {
            format!("hook ran past specified timeout of {}.0s", hook.timeout().unwrap_or_default())
        }
        WaitStatus::Exited(_, status) => format!("exit status {status}"),
        WaitStatus::Signaled(_, Signal::SIGSYS, _) => "bad system call: killed by SIGSYS (seccomp)".into(),
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        other => format!("ended as {other:?}"),
    };
    let _ = write!(text, " after {:.3} s", started.elapsed().as_secs_f64());
    process.describe_output(&mut text);
    Err(Error::new(text))
}

/// A hook that runs.
struct Process<'a> {
    pid: Pid,
    pidfd: OwnedFd,
    /// Our end of its stdin, until all of the state is written or the hook has closed its end.
    stdin: Option<OwnedFd>,
    /// What of the state is still to be written.
    state: &'a [u8],
    stdout: Output,
    stderr: Output,
}

impl<'a> Process<'a> {
    fn start(hook: &Hook, state: &'a [u8], cwd: Option<&Path>) -> Result<Self> {
        let path = c_path(hook.path()).context(|| "path")?;
        let args = match hook.args().as_deref() {
            None | Some([]) => vec![path.clone()],
            Some(args) => c_strings(args).context(|| "args")?,
        };
        let env = c_strings(hook.env().as_deref().unwrap_or_default()).context(|| "env")?;
        let cwd = cwd.map(c_path).transpose().context(|| "working directory")?;
        let (their_stdin, stdin) = pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")?;
        let (stdout, their_stdout) = pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")?;
        let (stderr, their_stderr) = pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")?;
        for ours in [&stdin, &stdout, &stderr] {
            let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
            nix::fcntl::fcntl(ours, flags).context(|| "set a pipe non-blocking")?;
        }
        let stdio = [their_stdin.as_fd(), their_stdout.as_fd(), their_stderr.as_fd()];
        let program = Program { path: &path, args: &args, env: &env, cwd: cwd.as_deref(), stdio };
        let pid = spawn(&program).map_err(|errno| diagnose::failed("exec", hook.path(), errno))?;
        Ok(Self {
            pid,
            // The number cannot go to another process before `end` has waited for this one.
            pidfd: pid::open(pid).context(|| "open a pidfd")?,
            stdin: Some(stdin),
            state,
            stdout: Output::new(stdout),
            stderr: Output::new(stderr),
        })
    }

    /// Feeds the hook and takes what it writes until it has ended: true; or the deadline is over: false.
    fn attend(&mut self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            self.feed();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            let mut fds = vec![PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
            fds.extend([&self.stdout, &self.stderr].into_iter().filter_map(Output::poll_fd));
            match poll(&mut fds, poll_timeout(left)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::from_errno("wait for it", errno)),
            }
            let ended = fds[0].any().unwrap_or(false);
            self.stdout.take();
            self.stderr.take();
            if ended {
                return Ok(true);
            }
        }
    }

    /// Writes as much of the state as goes without waiting. A hook that does not read it is no error: many do not.
    fn feed(&mut self) {
        while let Some(stdin) = &self.stdin {
            match write_without_sigpipe(stdin.as_fd(), self.state) {
                Ok(written) => {
                    self.state = self.state.get(written..).unwrap_or_default();
                    if self.state.is_empty() {
                        self.stdin = None;
                    }
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.stdin = None,
            }
        }
    }

    /// Kills the hook and what it started, as far as that stayed in its process group.
    fn kill_group(&self) {
        // Its number is its group's (it leads a session of its own), and is not free before `end`. ESRCH cannot be
        // helped by anything.
        let _ = kill(Pid::from_raw(-self.pid.as_raw()), Signal::SIGKILL);
    }

    /// Waits for the end of the process itself; processes that it left behind are not waited for.
    fn end(&mut self) -> Result<WaitStatus> {
        let status = loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Err(Errno::EINTR) => {}
                other => break other.context(|| "wait for it")?,
            }
        };
        self.stdout.take();
        self.stderr.take();
        Ok(status)
    }

    /// Adds the end of stderr to an error's text; of stdout where the hook wrote nothing else.
    fn describe_output(&self, text: &mut String) {
        for (name, output) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            let end = output.end_in_one_line();
            if !end.is_empty() {
                let _ = write!(text, ", {name}: {end}");
                return;
            }
        }
    }
}

/// One of a hook's output pipes, and the end of what came through it.
struct Output {
    /// Until the last writer has closed its end.
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), kept: Vec::new(), cut: false }
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        self.pipe.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
    }

    /// Takes what the pipe holds now, at most a pipe's usual content, so that a hook that never stops writing cannot
    /// keep the caller from looking at the clock.
    fn take(&mut self) {
        const TURNS: usize = 16;
        let mut chunk = [0; KEPT_OUTPUT];
        for _ in 0..TURNS {
            let Some(pipe) = &self.pipe else { return };
            match nix::unistd::read(pipe, &mut chunk) {
                Ok(count @ 1..) => {
                    let excess = (self.kept.len() + count).saturating_sub(KEPT_OUTPUT);
                    self.cut |= excess > 0;
                    self.kept.drain(..excess.min(self.kept.len()));
                    self.kept.extend_from_slice(&chunk[..count]);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }

    /// What was kept, in one line: an error is one line, and a log line cannot be forged (security.md G9).
    fn end_in_one_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let mut line = String::with_capacity(text.len());
        if self.cut {
            line.push_str("... ");
        }
        for char in text.trim_ascii_end().chars() {
            match char {
                char if char.is_control() => line.extend(char.escape_default()),
                char => line.push(char),
            }
        }
        line
    }
}

/// write(2) to a pipe whose reader may be gone: EPIPE, and never a SIGPIPE, whatever this process does with that signal
/// (init has it at its default by the time of startContainer).
fn write_without_sigpipe(pipe: BorrowedFd<'_>, data: &[u8]) -> nix::Result<usize> {
    let sigpipe = SigSet::from(Signal::SIGPIPE);
    let before = sigpipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = nix::unistd::write(pipe, data);
    if result == Err(Errno::EPIPE) && !before.contains(Signal::SIGPIPE) {
        // It is pending now, even where it is ignored (a blocked signal is kept), so this returns at once.
        sigpipe.wait()?;
    }
    before.thread_set_mask()?;
    result
}

/// The time for poll(2), rounded up to its milliseconds so that the last one is not spent in a busy loop.
fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    match left {
        None => PollTimeout::NONE,
        Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
    }
}

fn c_strings(strings: &[String]) -> nix::Result<Vec<CString>> {
    strings.iter().map(|string| c_path(Path::new(string))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at files of their own")]

    use std::path::PathBuf;

    use super::*;

    /// A hook that runs `script` under a shell, with `json` for its other properties.
    fn shell(script: &str, timeout: Option<i64>, env: &[&str]) -> Hook {
        let mut hook = Hook::default();
        hook.set_path(PathBuf::from("/bin/sh"));
        hook.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
        hook.set_env(Some(env.iter().map(ToString::to_string).collect()));
        hook.set_timeout(timeout);
        hook
    }

    /// What a failing hook reports of its stderr.
    fn stderr_of(hook: Hook, state: &[u8], cwd: Option<&Path>) -> String {
        let error = run(Kind::CreateRuntime, &[hook], state, cwd).unwrap_err().to_string();
        error.split_once("stderr: ").unwrap_or_else(|| panic!("{error}")).1.to_owned()
    }

    /// config.md, Hooks: the state is passed on stdin.
    #[test]
    fn the_state_arrives_on_stdin_whole() {
        let state = "x".repeat(1 << 20);
        assert_eq!(
            stderr_of(shell("/usr/bin/wc -c >&2; exit 1", None, &[]), state.as_bytes(), None),
            "1048576"
        );
    }

    /// security.md H1: the environment is hook.env and nothing of ours; the directory is the one asked for.
    #[test]
    fn h1_environment_is_exactly_that_of_the_hook() {
        let mut hook = shell("", None, &["A=1", "LD_X=2"]);
        hook.set_path(PathBuf::from("/usr/bin/env"));
        hook.set_args(Some(vec!["env".into(), "sh".into(), "-c".into(), "/usr/bin/env >&2; exit 1".into()]));
        hook.set_env(Some(vec!["A=1".into(), "PATH=/bin".into()]));
        let said = stderr_of(hook, b"{}", Some(Path::new("/usr")));
        let mut lines: Vec<_> = said.split("\\n").filter(|line| !line.starts_with("_=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["A=1", "PATH=/bin", "PWD=/usr"]);
        let mut bare =
            shell("/usr/bin/tr '\\0' '\\n' < /proc/$$/environ >&2; echo end >&2; exit 1", None, &[]);
        bare.set_env(None);
        assert_eq!(stderr_of(bare, b"{}", None), "end");
    }

    /// security.md H2: a relative path is an error, whatever PATH says.
    #[test]
    fn h2_relative_path_is_an_error() {
        let mut hook = shell("true", None, &[]);
        hook.set_path(PathBuf::from("true"));
        let error = run(Kind::Prestart, &[hook], b"{}", None).unwrap_err().to_string();
        assert_eq!(
            error,
            "error running prestart hook #0: error running hook: true: the path of a hook must be absolute"
        );
    }

    /// security.md H3: the time is over for the hook and for all that it started; the error comes at once.
    #[test]
    fn h3_timeout_kills_the_process_group() {
        let started = Instant::now();
        let script = "sleep 60 & echo $! >&2; wait";
        let error =
            run(Kind::CreateContainer, &[shell(script, Some(1), &[])], b"{}", None).unwrap_err().to_string();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(
            error.contains("createContainer hook #0: error running hook: /bin/sh: hook ran past specified timeout of 1.0s"),
            "{error}"
        );
        let child: i32 = error.rsplit_once(' ').unwrap().1.parse().unwrap();
        let gone = (0..100).any(|_| {
            let result = kill(Pid::from_raw(child), None);
            // It stays a zombie until whoever inherited it waits for it.
            let stat =
                pid::start_time(&crate::sys::procfs::Procfs::processes().unwrap(), Pid::from_raw(child));
            std::thread::sleep(Duration::from_millis(10));
            result.is_err() || !stat.is_ok_and(|(_, runs)| runs)
        });
        assert!(gone, "process {child} of the hook still runs");
    }

    /// security.md H3: a hook that does not read its stdin holds nothing up, however long the state is.
    #[test]
    fn h3_hook_that_ignores_a_long_state() {
        let state = vec![b'x'; 1 << 20];
        for script in ["exit 0", "exec <&-; sleep 0.1", "sleep 0.1"] {
            run(Kind::CreateRuntime, &[shell(script, Some(5), &[])], &state, None).unwrap();
        }
    }

    /// security.md H3: a program that a hook leaves behind with its stderr open is not waited for.
    #[test]
    fn h3_hook_that_leaves_a_daemon() {
        let started = Instant::now();
        run(Kind::CreateRuntime, &[shell("sleep 3 & exit 0", None, &[])], b"{}", None).unwrap();
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    /// security.md H4: descriptors 0 to 2 only, signals at their default, none blocked, a session of its own.
    #[test]
    fn h4_nothing_is_inherited() {
        let leak = pipe2(OFlag::empty()).unwrap();
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGUSR1);
        blocked.thread_block().unwrap();
        let script = "cd /proc/self/fd; for fd in *; do test $fd -gt 2 -a -e $fd && ls -l $fd >&2; done
            grep -E 'Sig(Blk|Ign):' /proc/self/status >&2
            read -r _ _ _ _ _ session _ < /proc/$$/stat; test $session = $$ || echo session $session >&2; exit 1";
        let said = stderr_of(shell(script, None, &["PATH=/bin:/usr/bin"]), b"{}", None);
        blocked.thread_unblock().unwrap();
        drop(leak);
        assert_eq!(said, "SigBlk:\\t0000000000000000\\nSigIgn:\\t0000000000000000");
    }

    /// peers.md, row 32: kind, index, path, exit status or signal, time taken, the end of stderr; in one line, in bounds.
    #[test]
    fn errors_say_what_happened_in_one_line() {
        let good = shell("true", None, &[]);
        let script = "i=0; while test $i -lt 9000; do echo $i >&2; i=$((i+1)); done; printf 'last\\033[1m\\nline\\n' >&2; exit 3";
        let bad = shell(script, None, &[]);
        let error = run(Kind::CreateRuntime, &[good, bad], b"{}", None).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "error running createRuntime hook #1: error running hook: /bin/sh: exit status 3 after "
            ),
            "{error}"
        );
        assert!(error.ends_with("\\n8999\\nlast\\u{1b}[1m\\nline"), "{error}");
        assert!(error.len() > KEPT_OUTPUT && error.len() < 2 * KEPT_OUTPUT, "{}", error.len());
        let killed = run(Kind::CreateRuntime, &[shell("kill -9 $$", None, &[])], b"{}", None).unwrap_err();
        assert!(killed.to_string().contains(": killed by SIGKILL after "), "{killed}");
        let mut missing = shell("", None, &[]);
        missing.set_path(PathBuf::from("/nowhere/hook"));
        let error = run(Kind::CreateRuntime, &[missing], b"{}", None).unwrap_err().to_string();
        assert_eq!(
            error,
            "error running createRuntime hook #0: error running hook: /nowhere/hook: exec: no such file or directory"
        );
    }

    /// config.md, Hooks: in the order given, and the first failure ends it; Poststart and Poststop: a failure is a warning, and
    /// the rest runs.
    #[test]
    fn failures_of_poststart_and_poststop_are_warnings() {
        let marker = format!("{}/hooks-order-{}", std::env::temp_dir().display(), Pid::this());
        let mark = |text: &str, status| shell(&format!("echo {text} >> {marker}; exit {status}"), None, &[]);
        let hooks = [mark("one", 0), mark("two", 1), mark("three", 0)];
        for (kind, stops) in [
            (Kind::Poststart { fatal: false }, false),
            (Kind::Poststop, false),
            (Kind::CreateContainer, true),
            (Kind::Poststart { fatal: true }, true),
        ] {
            match run(kind, &hooks, b"{}", None) {
                Ok(warnings) => {
                    assert!(!stops);
                    assert_eq!(warnings.len(), 1);
                    assert!(warnings[0].contains(&format!("{} hook #1", kind.name())), "{warnings:?}");
                }
                Err(error) => assert!(stops, "{error}"),
            }
        }
        let order = std::fs::read_to_string(&marker).unwrap();
        assert_eq!(order, "one\ntwo\nthree\none\ntwo\nthree\none\ntwo\none\ntwo\n");
        std::fs::remove_file(&marker).unwrap();
    }

    /// security.md H3: EPIPE is no SIGPIPE, even where that signal is at its default as in init, and none stays pending.
    #[test]
    fn h3_no_sigpipe() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        drop(reader);
        assert_eq!(write_without_sigpipe(writer.as_fd(), b"x"), Err(Errno::EPIPE));
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE));
    }
}
