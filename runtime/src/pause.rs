//! `skeg pause` and `skeg resume`.

use crate::cgroup::Cgroup;
use crate::error::{CONTAINER_NOT_RUNNING, Error, Result};
use crate::state::{Container, Status};

/// Stops every process of the container.
///
/// # Errors
/// [`CONTAINER_NOT_RUNNING`] where it is neither created nor running, a paused one included (runc's words); a freezer
/// that does not do it.
pub fn pause(container: &Container) -> Result<()> {
    let cgroup = Cgroup::open(&container.state.cgroup);
    match container.status()? {
        Status::Created | Status::Running if !cgroup.is_frozen()? => cgroup.freeze(),
        _ => Err(Error::new(CONTAINER_NOT_RUNNING)),
    }
}

/// Lets them run again.
///
/// # Errors
/// The container is not paused; the kernel refuses.
pub fn resume(container: &Container) -> Result<()> {
    let cgroup = Cgroup::open(&container.state.cgroup);
    match container.status()? {
        Status::Created | Status::Running | Status::Paused if cgroup.is_frozen()? => cgroup.thaw(),
        // runc's words.
        _ => Err(Error::new("container not paused")),
    }
}
