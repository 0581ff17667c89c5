//! Time namespace offsets (config-linux.md, timeOffsets; time_namespaces(7)).
//!
//! unshare(2) makes the namespace for children only, and its offsets can be written until the first process enters it.
//! The runtime writes them: in a user namespace the init process may not open its own `timens_offsets`, which belongs to
//! the host's root while it is not dumpable. setns(2) then brings that very process in, so that no second fork is needed.

use std::collections::HashMap;
use std::fmt::Write as _;

use nix::fcntl::OFlag;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxTimeOffset;

use crate::error::{Context as _, Result};
use crate::namespaces::TIME;
use crate::sys::clone;
use crate::sys::procfs::Procfs;

/// The text that `timens_offsets` takes: a line `CLOCK SECONDS NANOSECONDS` for each clock.
pub fn offsets_text(offsets: &HashMap<String, LinuxTimeOffset>) -> String {
    let mut lines: Vec<String> = offsets
        .iter()
        .map(|(clock, offset)| {
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {seconds} {nanoseconds}")
        })
        .collect();
    lines.sort();
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

/// Init process: makes the namespace for its children.
///
/// # Errors
/// The errno of unshare(2).
pub fn unshare() -> Result<()> {
    clone::unshare(TIME).context(|| "make a time namespace")
}

/// Runtime: writes the offsets of the namespace that process `pid` has made.
///
/// # Errors
/// What the kernel said to them.
pub fn write_offsets(procfs: &Procfs, pid: Pid, offsets: &str) -> Result<()> {
    procfs
        .write(format!("{pid}/timens_offsets"), offsets.as_bytes())
        .context(|| format!("/linux/timeOffsets: set {:?}", offsets.trim_end()))
}

/// Init process: enters the namespace that it has made.
///
/// # Errors
/// The errno of setns(2).
pub fn enter(procfs: &Procfs) -> Result<()> {
    let namespace = procfs
        .open_own_magic_link("ns/time_for_children", OFlag::O_RDONLY)
        .context(|| "open the new time namespace")?;
    clone::join(&namespace, TIME).context(|| "enter the new time namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_lines_of_three_fields() {
        let offsets = serde_json::from_str(r#"{"monotonic":{"secs":-5},"boottime":{"secs":7,"nanosecs":9}}"#);
        assert_eq!(offsets_text(&offsets.unwrap()), "boottime 7 9\nmonotonic -5 0\n");
    }
}
