//! `skeg start`.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use crate::error::{CONTAINER_DOES_NOT_EXIST, Error, Result};
use crate::gate::Starter;
use crate::hooks::{self, Kind};
use crate::log::Log;
use crate::notify_socket::Forwarder;
use crate::state::{Container, ContainerDir, State, Status};

/// What `start` says of a container that has been started before (runc's words, as `start` twice is matched by tests).
const NOT_CREATED: &str = "cannot start a container that has";

/// Lets the init process of a created container execute its program, and returns when it has; with the socket of a
/// service manager, when the program says that it is ready.
///
/// # Errors
/// A container that is not created; what the init process reported of startContainer hooks or of execve.
pub fn start(container: &Container, notify_socket: Option<&OsStr>, log: &mut Log) -> Result<()> {
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
    starter.go()?;
    run_poststart_hooks(&container.state, log)?;
    if let (Some(forwarder), Some(init)) = (forwarder, init) {
        forward_until_ready(&forwarder, &init, Pid::from_raw(container.state.pid), log);
    }
    Ok(())
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

/// poststart hooks: after the program runs, in the runtime's namespaces; a failure is a warning (runtime.md, lifecycle).
///
/// # Errors
/// The state cannot be described to them.
pub fn run_poststart_hooks(state: &State, log: &mut Log) -> Result<()> {
    let hooks = state.hooks.as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
    if hooks.is_empty() {
        return Ok(());
    }
    let json = state.to_hooks(Status::Running)?;
    for warning in hooks::run(Kind::Poststart, hooks, &json, Some(&state.bundle))? {
        log.warn(warning);
    }
    Ok(())
}
