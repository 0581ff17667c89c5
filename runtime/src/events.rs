//! `skeg events`: statistics and out-of-memory events as lines of JSON.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::Serialize;

use crate::cgroup::{Cgroup, Seen, Stats};
use crate::error::{Context as _, Error, Result};
use crate::sys::fd::write_all;

/// One line of the output, as runc's.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

/// Prints the statistics of the container `id` once.
///
/// # Errors
/// They cannot be read or printed.
pub fn print_stats(cgroup: &Cgroup, id: &str) -> Result<()> {
    print(&Event { kind: "stats", id, data: Some(&cgroup.stats()?) })
}

/// Prints the statistics every `interval` and out-of-memory kills as they happen, until the container's last process
/// has ended.
///
/// # Errors
/// They cannot be read or printed.
pub fn follow(cgroup: &Cgroup, id: &str, interval: Duration) -> Result<()> {
    let mut watch = cgroup.watch_oom()?;
    let mut next = Instant::now() + interval;
    loop {
        match watch.wait(next.saturating_duration_since(Instant::now()))? {
            Seen::Oom => print(&Event { kind: "oom", id, data: None })?,
            Seen::End => return Ok(()),
            Seen::Nothing if Instant::now() < next => {}
            Seen::Nothing => {
                next += interval;
                match cgroup.stats() {
                    Ok(stats) => print(&Event { kind: "stats", id, data: Some(&stats) })?,
                    // Removed between the look and the read.
                    Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

fn print(event: &Event<'_>) -> Result<()> {
    let mut line =
        serde_json::to_vec(event).map_err(|error| Error::new(format!("print an event: {error}")))?;
    line.push(b'\n');
    write_all(std::io::stdout(), &line).context(|| "print an event")
}
