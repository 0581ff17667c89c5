//! Calls of the runtime binary: its command lines, and what it said when it failed.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Code, Context as _, Error, Result};
use crate::options::Options;
use crate::path;
use crate::reap::Reaper;
use crate::sys;

/// What of the shim's environment a runtime sees (security.md I12): where programs are, where rootless state and the
/// user's bus are, and the trace context.
const ENVIRONMENT: [&str; 8] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "TRACEPARENT",
    "TRACESTATE",
    "RUST_BACKTRACE",
];
/// The end of a log that is read for the reason of a failure.
const LOG_LIMIT: u64 = 64 * 1024;
/// The longest reason that is handed on.
const REASON_LIMIT: usize = 4096;

/// One line of the environment for a child, by the allow-list.
pub fn environment() -> Vec<CString> {
    ENVIRONMENT
        .iter()
        .filter_map(|name| {
            let mut line = name.as_bytes().to_vec();
            line.push(b'=');
            line.extend_from_slice(std::env::var_os(name)?.as_bytes());
            CString::new(line).ok()
        })
        .collect()
}

/// A runtime as a container uses it.
pub struct Runtime {
    binary: CString,
    /// The flags before the command but for `--log`.
    global: Vec<CString>,
    reaper: Rc<Reaper>,
}

/// Standard input, output and error of a call that makes a process of a container.
pub type Stdio<'a> = [BorrowedFd<'a>; 3];

/// What a call works with besides its arguments.
#[derive(Default)]
pub struct Inputs<'a> {
    /// Stdio of the container's process; without it, standard input is empty and output is kept for the error.
    pub stdio: Option<Stdio<'a>>,
    /// Standard input alone.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output alone.
    pub output: Option<BorrowedFd<'a>>,
    /// When the caller gives up; the call is killed then.
    pub deadline: Option<Instant>,
}

/// `text` as an argument.
fn argument(text: impl AsRef<OsStr>) -> Result<CString> {
    let text = text.as_ref();
    CString::new(text.as_bytes()).map_err(|_| Error::invalid(format!("{text:?}: contains a NUL")))
}

/// An anonymous file that a runtime reads or writes; `data` is in it, and it is read from its start.
///
/// # Errors
/// The errno of memfd_create(2) or write(2).
pub fn anonymous_file(name: &str, data: &[u8]) -> Result<OwnedFd> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC).context(|| "memfd_create")?;
    let mut rest = data;
    while !rest.is_empty() {
        let written = nix::unistd::write(&file, rest).context(|| format!("write {name}"))?;
        rest = &rest[written..];
    }
    if !data.is_empty() {
        nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekSet).context(|| format!("rewind {name}"))?;
    }
    Ok(file)
}

/// A path to what a descriptor of this process refers to. By our own pid, so that a runtime can open it too without
/// inheriting the descriptor (security.md I12; runtimes close what they do not know).
pub fn descriptor_path(fd: impl AsFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_fd().as_raw_fd())
}

impl Runtime {
    /// The runtime that `options` name, for the containers of `namespace`.
    ///
    /// # Errors
    /// A binary that is not found (security.md I14).
    pub fn new(options: &Options, namespace: &str, debug: bool, reaper: &Rc<Reaper>) -> Result<Self> {
        let search = std::env::var("PATH").unwrap_or_default();
        let binary = path::find_program(&options.binary_name, &search)?;
        let mut global = vec![argument("--root")?, argument(options.runtime_root(namespace))?];
        if debug {
            global.push(argument("--debug")?);
        }
        if options.systemd_cgroup {
            global.push(argument("--systemd-cgroup")?);
        }
        Ok(Self { binary: argument(binary)?, global, reaper: Rc::clone(reaper) })
    }

    /// Runs `command`.
    ///
    /// # Errors
    /// `runtime COMMAND: ` and the last error of the runtime's log.
    pub async fn call<A: AsRef<OsStr>>(&self, command: &[A], inputs: Inputs<'_>) -> Result<()> {
        // The log of this call alone, so that the reason of a failure is never another call's.
        let log = anonymous_file("runtime-log", b"")?;
        // Standard error goes there too, and must not write over the records.
        nix::fcntl::fcntl(&log, FcntlArg::F_SETFL(OFlag::O_APPEND)).context(|| "fcntl")?;
        let null = match (inputs.stdio, inputs.stdin) {
            (None, None) => Some(path::null_device().context(|| "open /dev/null")?),
            _ => None,
        };
        let stdin = inputs.stdin.or(null.as_ref().map(OwnedFd::as_fd)).unwrap_or(log.as_fd());
        let own = [stdin, inputs.output.unwrap_or(log.as_fd()), log.as_fd()];
        let arguments = self.arguments(command, &log)?;
        let child = sys::spawn(&sys::Program {
            path: &self.binary,
            arguments: &arguments,
            environment: &environment(),
            stdio: inputs.stdio.unwrap_or(own),
            placed: &[],
            dies_with_us: true,
            new_session: false,
        })
        .context(|| format!("start {}", self.binary.to_string_lossy()))?;
        self.reaper.know(child.pid);
        let wait = self.reaper.wait(child.pid, &child.pidfd);
        let exit = match inputs.deadline {
            None => wait.await?,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), wait).await {
                Ok(exit) => exit?,
                Err(_) => return Err(self.give_up(child).await),
            },
        };
        if exit.status == 0 {
            return Ok(());
        }
        let reason = reason(&read_from_start(&log).unwrap_or_default());
        let reason = reason.unwrap_or_else(|| match exit.status {
            status @ 129.. => format!("killed by signal {}", status - 128),
            status => format!("exit status {status}"),
        });
        Err(Error::other(reason))
    }

    /// Kills a call whose caller has gone, and reaps it in its own time: it may hang in the kernel.
    async fn give_up(&self, child: sys::Child) -> Error {
        let _ = sys::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
        let reaper = Rc::clone(&self.reaper);
        tokio::task::spawn_local(async move {
            let _ = reaper.wait(child.pid, &child.pidfd).await;
        });
        Error::new(Code::DeadlineExceeded, "the runtime did not finish in time")
    }

    fn arguments<A: AsRef<OsStr>>(&self, command: &[A], log: &OwnedFd) -> Result<Vec<CString>> {
        let mut arguments = Vec::with_capacity(1 + self.global.len() + 4 + command.len());
        arguments.push(self.binary.clone());
        arguments.extend_from_slice(&self.global);
        for flag in ["--log", &descriptor_path(log), "--log-format", "json"] {
            arguments.push(argument(flag)?);
        }
        for part in command {
            arguments.push(argument(part)?);
        }
        Ok(arguments)
    }

    /// The features document of the runtime, or nothing where it has none to show.
    pub async fn features(&self) -> Option<Vec<u8>> {
        let output = anonymous_file("runtime-output", b"").ok()?;
        let inputs = Inputs { output: Some(output.as_fd()), ..Inputs::default() };
        self.call(&["features"], inputs).await.ok()?;
        read_from_start(&output).ok().filter(|json| !json.is_empty())
    }
}

/// The last `LOG_LIMIT` bytes of an anonymous file.
fn read_from_start(file: &OwnedFd) -> nix::Result<Vec<u8>> {
    let size = nix::sys::stat::fstat(file)?.st_size;
    let limit = i64::try_from(LOG_LIMIT).unwrap_or(i64::MAX);
    nix::unistd::lseek(file, (size - limit).max(0), nix::unistd::Whence::SeekSet)?;
    path::read_to_end(file.try_clone().map_err(|_| nix::errno::Errno::EMFILE)?, usize::MAX - 1)
}

/// What the runtime said: the last JSON record of level error (peers.md A1.3), else the last line of anything else.
fn reason(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    let recorded = text.lines().rev().find_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_error = matches!(record.get("level")?.as_str()?, "error" | "fatal");
        is_error.then(|| record.get("msg")?.as_str().map(str::to_owned)).flatten()
    });
    let spoken = || text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    let mut reason = recorded.or_else(spoken)?;
    if reason.len() > REASON_LIMIT {
        let end = (0..=REASON_LIMIT).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(end);
    }
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// peers.md A1.3: the last record of level error is the reason.
    #[test]
    fn the_reason_is_the_last_error_record() {
        let log = b"{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n\
            {\"level\":\"error\",\"msg\":\"container does not exist\",\"time\":\"t\"}\nplain words\n";
        assert_eq!(reason(log).unwrap(), "container does not exist");
        assert_eq!(reason(b"one\n  two words \n\n").unwrap(), "two words");
        assert_eq!(reason(b""), None);
        // peers.md 33: a reason is bounded.
        assert!(reason("ä".repeat(5000).as_bytes()).unwrap().len() <= REASON_LIMIT);
    }

    /// security.md I12: nothing but the allow-list reaches the runtime.
    #[test]
    fn i12_the_environment_is_an_allow_list() {
        let names: Vec<String> = environment()
            .iter()
            .map(|line| line.to_string_lossy().split('=').next().unwrap().to_owned())
            .collect();
        assert!(names.contains(&"PATH".to_owned()));
        assert!(names.iter().all(|name| ENVIRONMENT.contains(&name.as_str())), "{names:?}");
    }
}
