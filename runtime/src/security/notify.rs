//! Seccomp notification: the listener goes to the agent that the profile names (config-linux.md, seccomp,
//! listenerPath and "The Container Process State").

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;
use oci_spec::runtime::{ContainerProcessState, ContainerProcessStateBuilder, LinuxSeccomp, Spec};

use crate::console::connect_socket;
use crate::error::{Context as _, Error, Result};
use crate::state::{State, Status};
use crate::sys::fd::send_with_fds;

/// The name by which the fd is announced (config-linux.md: `seccompFd`).
const SECCOMP_FD: &str = "seccompFd";

/// Connects to the agent and sends it the state of process `pid`, the init process or an exec process of the container,
/// with the listener.
///
/// # Errors
/// No `listenerPath`, or nobody who listens there.
pub fn hand_over(spec: &Spec, state: &State, pid: Pid, listener: &OwnedFd) -> Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let path = profile.and_then(|profile| profile.listener_path().as_ref()).ok_or_else(|| {
        Error::new("/linux/seccomp/listenerPath: must be given with the action SCMP_ACT_NOTIFY")
    })?;
    let message = serde_json::to_vec(&process_state(profile, state, pid)?)
        .map_err(|error| Error::new(format!("describe the process to the seccomp agent: {error}")))?;
    let socket = connect_socket(path)
        .context(|| "/linux/seccomp/listenerPath: failed to connect with seccomp agent")?;
    send_with_fds(&socket, &message, &[listener.as_fd()])
        .context(|| format!("/linux/seccomp/listenerPath: send to {}", path.display()))
}

fn process_state(profile: Option<&LinuxSeccomp>, state: &State, pid: Pid) -> Result<ContainerProcessState> {
    let is_init = state.pid == pid.as_raw();
    let status = if is_init { Status::Creating } else { Status::Running };
    let metadata = profile.and_then(|profile| profile.listener_metadata().clone()).unwrap_or_default();
    ContainerProcessStateBuilder::default()
        .version(state.oci_version.clone())
        .fds(vec![SECCOMP_FD.to_owned()])
        .pid(pid.as_raw())
        .metadata(metadata)
        .state(state.to_oci(status)?)
        .build()
        .map_err(|error| Error::new(format!("describe the process to the seccomp agent: {error}")))
}
