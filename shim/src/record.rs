//! What outlives the shim in a bundle: how to reach the runtime, and how the init process stands. `delete` reads both
//! after a shim was killed, so that containerd is told the true exit status and not an invented one.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::error::{Context as _, Error, Result};
use crate::options::Options;
use crate::path;
use crate::reap::Exit;

const OPTIONS: &str = "shim-options.json";
const INIT: &str = "init-state";
/// The longest record.
const LIMIT: usize = 1 << 20;
/// The status of a process that was killed by SIGKILL.
pub const KILLED: u32 = 137;
/// containerd's status for an end that nobody has seen.
const UNKNOWN: u32 = 255;

/// Keeps the options of a container.
///
/// # Errors
/// What writing failed with.
pub fn write_options(bundle: impl AsFd, options: &Options) -> Result<()> {
    let json =
        serde_json::to_vec(options).map_err(|error| Error::other(format!("encode options: {error}")))?;
    path::write_in(bundle, OPTIONS, &json).context(|| format!("write {OPTIONS}"))
}

/// The options of a container; nothing where it never came to a call of the runtime.
///
/// # Errors
/// What reading or decoding failed with.
pub fn read_options(bundle: impl AsFd) -> Result<Option<Options>> {
    let json = match path::read_in(bundle, OPTIONS, LIMIT) {
        Err(Errno::ENOENT) => return Ok(None),
        json => json.context(|| format!("read {OPTIONS}"))?,
    };
    let options = serde_json::from_slice(&json);
    options.map(Some).map_err(|error| Error::other(format!("{OPTIONS}: {error}")))
}

/// How the init process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Made, with its pid and start time (ticks since boot).
    Alive(i32, u64),
    /// Ended, with its pid.
    Ended(i32, Exit),
    /// Ended, and deleted with everything that belonged to it.
    Deleted(i32, Exit),
}

impl Init {
    /// The record for a process that has just been made.
    pub fn alive(pid: i32) -> Self {
        Self::Alive(pid, start_time(pid).unwrap_or(0))
    }

    /// Puts the record in place of an older one.
    ///
    /// # Errors
    /// What writing failed with.
    pub fn write(&self, bundle: impl AsFd) -> Result<()> {
        let line = match self {
            Self::Alive(pid, start) => format!("alive {pid} {start}\n"),
            Self::Ended(pid, exit) => {
                format!("ended {pid} {} {} {}\n", exit.status, exit.seconds, exit.nanos)
            }
            Self::Deleted(pid, exit) => {
                format!("deleted {pid} {} {} {}\n", exit.status, exit.seconds, exit.nanos)
            }
        };
        path::write_in(bundle, INIT, line.as_bytes()).context(|| format!("write {INIT}"))
    }

    /// The record of a bundle.
    pub fn read(bundle: impl AsFd) -> Option<Self> {
        let bytes = path::read_in(bundle, INIT, LIMIT).ok()?;
        let mut words = std::str::from_utf8(&bytes).ok()?.split_whitespace();
        match (words.next()?, words.next()?.parse().ok()?) {
            ("alive", pid) => Some(Self::Alive(pid, words.next()?.parse().ok()?)),
            (word @ ("ended" | "deleted"), pid) => {
                let status = words.next()?.parse().ok()?;
                let seconds = words.next()?.parse().ok()?;
                let exit = Exit { status, seconds, nanos: words.next()?.parse().ok()? };
                Some(if word == "ended" { Self::Ended(pid, exit) } else { Self::Deleted(pid, exit) })
            }
            _ => None,
        }
    }

    /// The pid and the end to tell for a container that is about to be killed, as the record has it: its own end, or
    /// SIGKILL where it still runs, or "unknown" where it ended while nobody was looking.
    pub fn last_words(record: Option<Self>) -> (i32, Exit) {
        match record {
            Some(Self::Ended(pid, exit) | Self::Deleted(pid, exit)) => (pid, exit),
            Some(Self::Alive(pid, start)) if start_time(pid) == Some(start) => (pid, Exit::now(KILLED)),
            Some(Self::Alive(pid, _)) => (pid, Exit::now(UNKNOWN)),
            None => (0, Exit::now(KILLED)),
        }
    }
}

/// When a process that is no zombie was started, in ticks since boot: fields 3 and 22 of /proc/PID/stat.
fn start_time(pid: i32) -> Option<u64> {
    let stat = path::read(Path::new(&format!("/proc/{pid}/stat")), LIMIT).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let dir = std::env::temp_dir().join(format!("shim-record-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let bundle = path::open_dir(&dir).unwrap();
        assert_eq!(Init::read(&bundle), None);
        assert_eq!(read_options(&bundle), Ok(None));
        let exit = Exit { status: 143, seconds: 1_700_000_000, nanos: 5 };
        Init::Ended(42, exit).write(&bundle).unwrap();
        assert_eq!(Init::read(&bundle), Some(Init::Ended(42, exit)));
        Init::Deleted(42, exit).write(&bundle).unwrap();
        assert_eq!(Init::read(&bundle), Some(Init::Deleted(42, exit)));
        let options = Options { root: "/run/other".into(), systemd_cgroup: true, ..Options::default() };
        write_options(&bundle, &options).unwrap();
        assert_eq!(read_options(&bundle), Ok(Some(options)));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// peers.md B7: the true end, not an invented 137.
    #[test]
    fn the_end_that_is_told_is_the_true_one() {
        let own = i32::try_from(std::process::id()).unwrap();
        let exit = Exit { status: 3, seconds: 1, nanos: 2 };
        assert_eq!(Init::last_words(Some(Init::Ended(7, exit))), (7, exit));
        assert_eq!(Init::last_words(Some(Init::alive(own))).1.status, KILLED);
        // The same pid with another start time is another process.
        assert_eq!(Init::last_words(Some(Init::Alive(own, 1))).1.status, UNKNOWN);
        assert_eq!(Init::last_words(None).1.status, KILLED);
    }
}
