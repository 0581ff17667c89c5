//! `skeg kill`.

use crate::cgroup::Cgroup;
use crate::error::{CONTAINER_NOT_RUNNING, Context as _, Error, Result};
use crate::state::Container;
use crate::sys::pid;

/// Sends `signal` to the init process; with `all`, or where the container shares its PID namespace and the signal is
/// SIGKILL, to every process of its cgroup.
///
/// # Errors
/// [`CONTAINER_NOT_RUNNING`] where the init process has ended; what sending said.
pub fn kill(container: &Container, signal: i32, all: bool) -> Result<()> {
    let cgroup = Cgroup::open(&container.state.cgroup);
    let init = container.init()?;
    if all && !cgroup.is_none() {
        // runc: the processes of a stopped container without a PID namespace of its own can still be reached.
        return if signal == libc::SIGKILL { cgroup.kill_all() } else { cgroup.signal_all(signal) };
    }
    let Some(init) = init else { return Err(Error::new(CONTAINER_NOT_RUNNING)) };
    let id = container.dir.id();
    if signal == libc::SIGKILL && !container.state.own_pid_namespace && !cgroup.is_none() {
        // No PID namespace dies with its init process, joined or the host's: the others would stay (row F16).
        return cgroup.kill_all().context(|| format!("kill container {id}"));
    }
    match pid::send_signal(&init, signal) {
        Err(nix::errno::Errno::ESRCH) => return Err(Error::new(CONTAINER_NOT_RUNNING)),
        other => other.context(|| format!("send signal {signal} to container {id}"))?,
    }
    if signal == libc::SIGKILL && cgroup.is_frozen()? {
        // A frozen process of cgroup v1 dies only once it is thawed.
        cgroup.thaw()?;
    }
    Ok(())
}
