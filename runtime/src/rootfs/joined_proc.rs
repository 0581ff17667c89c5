//! A procfs of the PID namespace that the container joins.
//!
//! A procfs shows the PID namespace of the process that makes it, and the container's process joins an existing one only
//! after it has left the host's root (row C5). So the mount is made before the clone, by a process that has nothing to
//! show to the members of that namespace: its root is the container's, it holds one socket and it is not dumpable.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::error::{Context as _, Error, Result};
use crate::init::die_with_parent;
use crate::namespaces::{MOUNT, OpenNamespace, PID, USER};
use crate::sync::{self, Message};
use crate::sys::clone::{self, Cloned, clone_process, exit_now};
use crate::sys::fd::{close_all_but, receive_with_fds, send_with_fds};
use crate::sys::pid;

use super::mounts::new_file_system;
use super::sources::{MountSources, Source};
use super::{Kind, PlannedMount, RootfsPlan};

/// Makes every procfs of the plan and adds it to `sources`. `namespaces` are those that the container joins.
///
/// # Errors
/// Which mount could not be made, and why.
pub fn open(plan: &RootfsPlan, sources: &mut MountSources, namespaces: &[OpenNamespace]) -> Result<()> {
    for (mount, source) in plan.mounts.iter().zip(&mut sources.mounts) {
        if !super::is_file_system(&mount.kind, "proc") {
            continue;
        }
        let tree = receive_from_helper(mount, &sources.root, namespaces)
            .map_err(|error| error.context(mount.what()))?;
        *source = Source::Tree { mount: tree, is_directory: true };
    }
    Ok(())
}

fn receive_from_helper(
    mount: &PlannedMount,
    root: &OwnedFd,
    namespaces: &[OpenNamespace],
) -> Result<OwnedFd> {
    let what = || "start a process in the PID namespace";
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context(what)?;
    let pidfd = match clone_process(0, None, false).context(what)? {
        Cloned::Child => help(mount, root, namespaces, &theirs),
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let mut buffer = [0; sync::MESSAGE_LIMIT];
    let received = receive_with_fds(&ours, &mut buffer);
    pid::wait_child(&pidfd).context(|| "wait for the process in the PID namespace")?;
    let (length, mut fds) = received?;
    match (buffer.get(..length).and_then(sync::decode), fds.pop()) {
        (Some(Message::Mounted), Some(tree)) => Ok(tree),
        (Some(Message::Error(error)), _) => Err(error),
        // A member of the namespace may kill it.
        _ => Err(Error::new("the process in the PID namespace has ended early")),
    }
}

/// The helper: it enters the namespaces, which for the PID namespace takes a child.
fn help(mount: &PlannedMount, root: &OwnedFd, namespaces: &[OpenNamespace], socket: &OwnedFd) -> ! {
    let enter = || -> Result<()> {
        die_with_parent()?;
        prctl::set_dumpable(false).context(|| "stop being dumpable")?;
        // Root may do all of this as it is; a user has the rights in the user namespace of the pod alone, and there only
        // over a mount namespace that belongs to it.
        if !nix::unistd::geteuid().is_root() {
            join(namespaces, USER)?;
            clone::unshare(MOUNT).context(|| "make a mount namespace")?;
        }
        nix::unistd::fchdir(root).and_then(|()| nix::unistd::chroot(".")).context(|| "enter the rootfs")?;
        join(namespaces, PID)?;
        close_all_but(0, &mut [socket.as_raw_fd()]).context(|| "close descriptors")
    };
    let forked = enter().and_then(|()| match clone_process(0, None, false) {
        // Nobody can be added to a PID namespace whose init process has ended (pid_namespaces(7)).
        Err(Errno::ENOMEM) => Err(Error::from_errno("fork (has its init process ended?)", Errno::ENOMEM)),
        other => other.context(|| "fork"),
    });
    match forked {
        Ok(Cloned::Child) => {
            let made = die_with_parent().and_then(|()| make(mount));
            match made {
                Ok(tree) => {
                    let message = sync::encode(&Message::Mounted);
                    let _ = send_with_fds(socket, &message, &[tree.as_fd()]);
                }
                Err(error) => report(socket, error),
            }
        }
        Ok(Cloned::Parent { pidfd, .. }) => drop(pid::wait_child(&pidfd)),
        Err(error) => report(socket, error),
    }
    exit_now(0)
}

fn join(namespaces: &[OpenNamespace], kind: u64) -> Result<()> {
    namespaces.iter().filter(|namespace| namespace.kind == kind).try_for_each(OpenNamespace::join)
}

fn make(mount: &PlannedMount) -> Result<OwnedFd> {
    let source = match &mount.kind {
        Kind::FileSystem { source, .. } => source.as_deref(),
        _ => None,
    };
    new_file_system(mount, ("proc", source), false, None, None)
}

fn report(socket: &OwnedFd, error: Error) {
    // The runtime that does not hear it has ended.
    let _ = send_with_fds(socket, &sync::encode(&Message::Error(error)), &[]);
}
