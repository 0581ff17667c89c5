//! `skeg delete`.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::error::{CONTAINER_DOES_NOT_EXIST, Error, Result};
use crate::hooks::{self, Kind};
use crate::log::Log;
use crate::rdt;
use crate::state::{Container, ContainerDir, ContainerId, State, StateRoot, Status};
use crate::sys::pid;

/// How long a killed init process may take to end, or our own process to leave the cgroup of a killed `create`.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// What opening and reading a state file ends with when it is none that skeg has written: too large, a link, a directory.
const NEVER_A_STATE: [Errno; 3] = [Errno::EFBIG, Errno::ELOOP, Errno::EISDIR];
/// After how many milliseconds it is looked for in a frozen cgroup that is not the container's.
const FROZEN_ELSEWHERE: u16 = 500;

/// Removes a container that has ended or was never started; with `force` any, and no container is no error.
///
/// # Errors
/// [`CONTAINER_DOES_NOT_EXIST`]; a container that runs; what could not be removed.
pub fn delete(root: &Path, id: &ContainerId, force: bool, log: &mut Log) -> Result<()> {
    let dir = match find(root, id) {
        Err(error) if force && error.to_string() == CONTAINER_DOES_NOT_EXIST => return Ok(()),
        other => other?,
    };
    let lock = match dir.lock() {
        Err(error) if force && error.to_string() == CONTAINER_DOES_NOT_EXIST => return Ok(()),
        other => other?,
    };
    let state = match dir.read_state() {
        Ok(Some(state)) => state,
        // `create` was killed before it had made anything else.
        Ok(None) => return dir.remove(),
        // One that cannot be read for now is still its own: without it nobody would find the processes.
        Err(error) if force && error.errno().is_none_or(|errno| NEVER_A_STATE.contains(&errno)) => {
            log.warn(format!("{error}: its processes and cgroups, if any, are left alone"));
            return dir.remove();
        }
        Err(error) => return Err(error),
    };
    let container = Container { dir, state };
    match container.status()? {
        Status::Stopped => {}
        Status::Created | Status::Creating => end(&container)?,
        Status::Running | Status::Paused if force => end(&container)?,
        status => {
            // runc's words.
            return Err(Error::new(format!("cannot delete container {id} that is not stopped: {status}")));
        }
    }
    let cgroup = Cgroup::open(&container.state.cgroup);
    let removed = destroy(container, cgroup, log);
    drop(lock);
    removed
}

fn find(root: &Path, id: &ContainerId) -> Result<ContainerDir> {
    StateRoot::open(root)?.ok_or_else(|| Error::new(CONTAINER_DOES_NOT_EXIST))?.container(id)
}

/// Ends a container whatever it does, and removes it.
///
/// # Errors
/// It does not end; what could not be removed.
pub fn end_and_destroy(container: Container, log: &mut Log) -> Result<()> {
    let lock = container.dir.lock()?;
    end(&container)?;
    let cgroup = Cgroup::open(&container.state.cgroup);
    let removed = destroy(container, cgroup, log);
    drop(lock);
    removed
}

/// Kills the init process and waits for its end.
fn end(container: &Container) -> Result<()> {
    let Some(init) = container.init()? else { return Ok(()) };
    let what = |errno| Error::from_errno(format!("kill container {}", container.dir.id()), errno);
    match pid::send_signal(&init, libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(what(errno)),
    }
    let cgroup = Cgroup::open(&container.state.cgroup);
    if cgroup.is_frozen()? {
        cgroup.thaw()?;
    }
    if pid::wait_for_end(&init, PollTimeout::from(FROZEN_ELSEWHERE)).map_err(what)? {
        return Ok(());
    }
    cgroup.take_back(Pid::from_raw(container.state.pid))?;
    let timeout = PollTimeout::try_from(END_TIMEOUT).unwrap_or(PollTimeout::MAX);
    if pid::wait_for_end(&init, timeout).map_err(what)? {
        return Ok(());
    }
    Err(Error::new(format!("container {}: its init process does not end after SIGKILL", container.dir.id())))
}

/// Removes what a killed `create` left that had no process yet.
fn remove_unborn(dir: &ContainerDir, cgroup: Cgroup, log: &mut Log) -> Result<()> {
    let deadline = Instant::now() + END_TIMEOUT;
    while !cgroup.is_empty()? {
        if Instant::now() > deadline {
            log.warn(format!("container {}: its cgroup is in use by others and stays", dir.id()));
            return dir.remove();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    cgroup.destroy()?;
    dir.remove()
}

/// Removes what `create` made of a container whose init process has ended: remaining processes, cgroups, the state
/// directory; then runs the poststop hooks, whose failures are warnings (runtime.md, lifecycle).
///
/// # Errors
/// What could not be removed.
pub fn destroy(container: Container, cgroup: Cgroup, log: &mut Log) -> Result<()> {
    let Container { dir, state } = container;
    if state.pid == 0 {
        // `create` was killed before it recorded a process; ours, if any, dies with it. The cgroup may never have been
        // made: who is at that path is then somebody else, and is neither killed nor disturbed.
        return remove_unborn(&dir, cgroup, log);
    }
    if !cgroup.remove_if_empty() {
        // Without a PID namespace of its own, processes outlive their init process (row F16).
        cgroup.kill_all()?;
        cgroup.destroy()?;
    }
    state.rdt.as_ref().map_or(Ok(()), rdt::Group::remove)?;
    dir.remove()?;
    log.debug(|| "its processes, cgroups and state directory are gone");
    run_poststop_hooks(&state, log)
}

/// poststop hooks: in the runtime's namespaces, after the end of the container. A failure is a warning.
///
/// # Errors
/// The state cannot be described to them.
pub fn run_poststop_hooks(state: &State, log: &mut Log) -> Result<()> {
    let hooks = state.hooks.as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default();
    if hooks.is_empty() {
        return Ok(());
    }
    let json = state.to_hooks(Status::Stopped)?;
    for warning in hooks::run(Kind::Poststop, hooks, &json, Some(&state.bundle))? {
        log.warn(warning);
    }
    Ok(())
}
