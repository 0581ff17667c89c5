//! The systemd cgroup driver: so far only its paths, so that what cannot be done is said, not guessed.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::sys::path::open_given;

/// What systemd as PID 1 makes early at boot, and nobody else does (sd_booted(3)).
const BOOTED_WITH_SYSTEMD: &str = "/run/systemd/system";

/// A `cgroupsPath` in systemd's form, `slice:prefix:name` (runc's `docs/systemd.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPath<'a> {
    /// The slice that the unit goes into; empty for the default one.
    pub slice: &'a str,
    /// The start of the scope's name; may be empty.
    pub prefix: &'a str,
    /// The rest of it: `PREFIX-NAME.scope`, or the name itself where it ends in `.slice`.
    pub name: &'a str,
}

impl<'a> UnitPath<'a> {
    /// Takes `slice:prefix:name` apart; none where `path` has another form.
    pub fn parse(path: &'a str) -> Option<Self> {
        let mut parts = path.split(':');
        let unit = Self { slice: parts.next()?, prefix: parts.next()?, name: parts.next()? };
        let is_plain = |part: &str| !part.contains('/') && !part.chars().any(char::is_control);
        let plain = [unit.slice, unit.prefix, unit.name].into_iter().all(is_plain);
        (parts.next().is_none() && !unit.name.is_empty() && plain).then_some(unit)
    }
}

/// Why `--systemd-cgroup` cannot be had for `cgroups_path` on this host.
///
/// # Errors
/// Always: a path of the wrong form, a host without systemd, or that this build has no driver for it.
pub fn refuse(cgroups_path: &str) -> Result<()> {
    if !cgroups_path.is_empty() && UnitPath::parse(cgroups_path).is_none() {
        return Err(Error::new(format!(
            "/linux/cgroupsPath: {cgroups_path:?}: must be \"slice:prefix:name\" with --systemd-cgroup"
        )));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_given(BOOTED_WITH_SYSTEMD, flags, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Error::new(format!(
            "--systemd-cgroup: systemd is not running as PID 1 on this host (no {BOOTED_WITH_SYSTEMD}): leave the option \
             out to use the cgroup file system"
        ))),
        Err(errno) => Err(Error::from_errno(format!("open {BOOTED_WITH_SYSTEMD}"), errno)),
        Ok(_) => Err(Error::new("--systemd-cgroup: this build does not drive systemd: leave the option out")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_paths_have_three_plain_parts() {
        let unit = UnitPath::parse("system.slice:skeg:web").unwrap();
        assert_eq!((unit.slice, unit.prefix, unit.name), ("system.slice", "skeg", "web"));
        assert!(UnitPath::parse(":skeg:web").is_some() && UnitPath::parse("::web").is_some());
        for path in ["", "/web", "a:b", "a:b:", "a:b:c:d", "a/b:c:d", "a:b:c\nd"] {
            assert_eq!(UnitPath::parse(path), None, "{path:?}");
        }
    }

    /// design.md rule 4.7: what was asked for and cannot be had is an error that says so.
    #[test]
    fn the_driver_is_refused_with_its_reason() {
        let form = refuse("/web").unwrap_err().to_string();
        assert!(form.starts_with("/linux/cgroupsPath: \"/web\": must be"), "{form}");
        assert!(refuse("s:p:n").unwrap_err().to_string().starts_with("--systemd-cgroup: "));
    }
}
