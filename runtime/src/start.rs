//! `skeg start`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::stat::{SFlag, major};
use nix::unistd::Pid;

use crate::delete;
use crate::error::{CONTAINER_DOES_NOT_EXIST, Error, Result};
use crate::gate::Starter;
use crate::hooks::{self, Kind};
use crate::log::Log;
use crate::notify_socket::Forwarder;
use crate::state::{Container, ContainerDir, State, Status};
use crate::sys::path::stat;
use crate::sys::{pid, tty};

/// What `start` says of a container that has been started before (runc's words, as `start` twice is matched by tests).
const NOT_CREATED: &str = "cannot start a container that has";

/// What the log is told once the program runs.
pub const EXECUTED: &str = "the program is executed";

/// How often the size of a terminal is looked for, a millisecond apart. Peers take longer than this to start a container.
const SIZE_TRIES: u32 = 20;

/// Lets the init process of a created container execute its program, and returns when it has; with the socket of a
/// service manager, when the program says that it is ready.
///
/// # Errors
/// A container that is not created; what the init process reported of startContainer hooks or of execve; a poststart hook
/// that failed, where that ends the container.
pub fn start(container: Container, notify_socket: Option<&OsStr>, log: &mut Log) -> Result<()> {
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return Err(Error::new(format!("{NOT_CREATED} stopped"))),
        Status::Creating => return Err(Error::new(CONTAINER_DOES_NOT_EXIST)),
        Status::Running | Status::Paused => {
            return Err(Error::new("cannot start an already running container"));
        }
    }
    // Somebody else may have won, or the process have died, since the status was read.
    let starter = Starter::win(&container.dir)?
        .ok_or_else(|| Error::new("cannot start an already running container"))?;
    let init = container.init()?;
    let forwarder = open_notify_socket(&container.dir, notify_socket, log);
    if let Some(terminal) = init.as_ref().and_then(|init| pid::take_fd(init, libc::STDIN_FILENO).ok()) {
        await_size(&terminal, || std::thread::sleep(Duration::from_millis(1)));
    }
    starter.go(init.as_ref().map(|_| Pid::from_raw(container.state.pid)))?;
    log.debug(|| EXECUTED);
    if let Err(error) = run_poststart_hooks(&container.state, log) {
        // "continue the lifecycle at step 12": it is destroyed (runtime.md, lifecycle).
        if let Err(error) = delete::end_and_destroy(container, log) {
            log.warn(error.to_string());
        }
        return Err(error);
    }
    if let (Some(forwarder), Some(init)) = (forwarder, init) {
        forward_until_ready(&forwarder, &init, Pid::from_raw(container.state.pid), log);
    }
    Ok(())
}

/// Waits a little for the size of a terminal that has none: podman tells it while it calls `start`, and a program that asks
/// first thing (`stty size`, a pager) counts on it. Nothing depends on its coming.
fn await_size(terminal: impl AsFd, mut pause: impl FnMut()) {
    /// The peers of pseudo terminals (`UNIX98_PTY_SLAVE_MAJOR`, eight of them, in include/uapi/linux/major.h).
    const PTY: std::ops::RangeInclusive<u64> = 136..=143;
    // Whatever else a manager has put there is not asked.
    let is_pty = stat(&terminal).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR
            && PTY.contains(&major(stat.st_rdev))
    });
    let mut tries = if is_pty { SIZE_TRIES } else { 0 };
    while tries > 0 && tty::window_size(&terminal).is_ok_and(|size| (size.ws_row, size.ws_col) == (0, 0)) {
        pause();
        tries -= 1;
    }
}

/// The forwarder for a service manager's socket. Without one the container runs as well: the manager sees that it is not
/// told, and the reason is a warning.
pub fn open_notify_socket(
    dir: &ContainerDir,
    notify_socket: Option<&OsStr>,
    log: &mut Log,
) -> Option<Forwarder> {
    Forwarder::open(dir, notify_socket?).unwrap_or_else(|error| {
        log.warn(error.to_string());
        None
    })
}

/// Waits for readiness; a manager that cannot be told is a warning.
pub fn forward_until_ready(forwarder: &Forwarder, init: &OwnedFd, main: Pid, log: &mut Log) {
    if let Err(error) = forwarder.forward_until_ready(init, main) {
        log.warn(error.to_string());
    }
}

/// poststart hooks: after the program runs, in the runtime's namespaces.
///
/// # Errors
/// The state cannot be described to them; a hook failed, and the configuration is of a version for which that ends the
/// container.
pub fn run_poststart_hooks(state: &State, log: &mut Log) -> Result<()> {
    let hooks = state.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
    if hooks.is_empty() {
        return Ok(());
    }
    let json = state.to_hooks(Status::Running)?;
    let kind = Kind::Poststart { fatal: poststart_is_fatal(&state.oci_version) };
    for warning in hooks::run(kind, hooks, &json, Some(&state.bundle))? {
        log.warn(warning);
    }
    Ok(())
}

/// Until 1.2 of the specification "the runtime MUST log a warning", since 1.3 it "MUST generate an error, stop the
/// container" (runtime.md, lifecycle, step 9): what counts is the version that the configuration was written for.
fn poststart_is_fatal(version: &str) -> bool {
    let minor = version.strip_prefix("1.").and_then(|rest| rest.split(['.', '-', '+']).next());
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_none_or(|minor| minor >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(terminal: impl AsFd, mut at: impl FnMut(u32)) -> u32 {
        let mut count = 0;
        await_size(terminal, || {
            count += 1;
            at(count);
        });
        count
    }

    /// peers.md A1.3, podman: it sends the size of the terminal beside `start`.
    #[test]
    fn a_terminal_without_a_size_is_waited_for_and_nothing_else() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        assert_eq!(pauses(&pair.slave, |_| ()), SIZE_TRIES, "it never comes");
        let comes = |count| {
            if count == 3 {
                tty::set_window_size(&pair.master, &size).unwrap();
            }
        };
        assert_eq!(pauses(&pair.slave, comes), 3, "it comes");
        assert_eq!(pauses(&pair.slave, |_| ()), 0, "it is there");
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(pauses(&reader, |_| ()), 0, "no terminal");
    }

    #[test]
    fn the_version_says_what_a_failing_poststart_hook_means() {
        for version in ["1.0.0", "1.0.2-dev", "1.2.1", "1.2.1+dev"] {
            assert!(!poststart_is_fatal(version), "{version}");
        }
        for version in ["1.3.0", "1.3.0-rc.1", "1.10.0"] {
            assert!(poststart_is_fatal(version), "{version}");
        }
    }
}
