//! A procfs of the PID namespace that the container joins.
//!
//! A procfs shows the PID namespace of the process that opens it, and only children of a process that has joined a
//! namespace are in it. So it is opened before the clone by the sealed program, whose child is in that namespace and has
//! nothing to show to its members (`init/src/procfs.rs`; rows C1, C5). What is opened is then configured and mounted here.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::error::{Context as _, Error, Result};
use crate::init::die_with_parent;
use crate::namespaces::{MOUNT, OpenNamespace, PID, USER};
use crate::sync::{self, Message};
use crate::sys::clone::{self, Cloned, clone_process, exit_now};
use crate::sys::fd::{receive_with_fds, send_with_fds};
use crate::sys::mount::FsContext;
use crate::sys::pid;
use crate::sys::seal::SealedProgram;

use super::mounts::configure;
use super::plan::{self, Kind, PlannedMount, RootfsPlan};
use super::sources::{MountSources, Source};

/// Makes every procfs of the plan and adds it to `sources`. `namespaces` are those that the container joins.
///
/// # Errors
/// Which mount could not be made, and why.
pub fn open(plan: &RootfsPlan, sources: &mut MountSources, namespaces: &[OpenNamespace]) -> Result<()> {
    for (mount, source) in plan.mounts.iter().zip(&mut sources.mounts) {
        if !plan::is_file_system(&mount.kind, "proc") {
            continue;
        }
        let is_root = nix::unistd::geteuid().is_root();
        let make = if is_root { make } else { make_in_pod };
        let made = make(mount, &sources.root, namespaces);
        let mount = made.map_err(|error| error.context(mount.what()))?;
        *source = Source::Tree { mount, is_directory: true };
    }
    Ok(())
}

/// A user has the rights in the user namespace of the pod alone, and there only over a mount namespace that belongs to it:
/// a process of its own makes the mount.
fn make_in_pod(mount: &PlannedMount, root: &OwnedFd, namespaces: &[OpenNamespace]) -> Result<OwnedFd> {
    receive_from(|socket| {
        let made = join(namespaces, USER)
            .and_then(|()| clone::unshare(MOUNT).context(|| "make a mount namespace"))
            .and_then(|()| make(mount, root, namespaces));
        // The runtime that does not hear it has ended.
        let _ = match made {
            Ok(tree) => send_with_fds(socket, &sync::encode(&Message::Mounted), &[tree.as_fd()]),
            Err(error) => send_with_fds(socket, &sync::encode(&Message::Error(error)), &[]),
        };
    })
}

fn make(mount: &PlannedMount, root: &OwnedFd, namespaces: &[OpenNamespace]) -> Result<OwnedFd> {
    let source = match &mount.kind {
        Kind::FileSystem { source, .. } => source.as_deref(),
        _ => None,
    };
    let context = receive_from(|socket| {
        let error = open_in_namespace(socket, root, namespaces);
        let _ = send_with_fds(socket, &sync::encode(&Message::Error(error)), &[]);
    })?;
    configure(&FsContext::received(context), mount, ("proc", source), false, None, None)
}

/// Goes on as the sealed program, with the container's root, in the PID namespace; returns only to say why not.
fn open_in_namespace(socket: BorrowedFd<'_>, root: &OwnedFd, namespaces: &[OpenNamespace]) -> Error {
    let prepare = || {
        let program = SealedProgram::new(skeg_init::procfs::encode(socket.as_raw_fd()).to_vec())?;
        // What its child shows as its root and its working directory.
        nix::unistd::fchdir(root).and_then(|()| nix::unistd::chroot(".")).context(|| "enter the rootfs")?;
        join(namespaces, PID).map(|()| program)
    };
    match prepare() {
        Ok(program) => program.execute(&[socket], false),
        Err(error) => error,
    }
}

/// Clones a process that runs `work`, and receives the descriptor that it sends over the socket.
fn receive_from(work: impl FnOnce(BorrowedFd<'_>)) -> Result<OwnedFd> {
    let what = || "start a process for a procfs";
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context(what)?;
    let pidfd = match clone_process(0, None, false).context(what)? {
        Cloned::Child => {
            if die_with_parent().is_ok() {
                work(theirs.as_fd());
            }
            exit_now(0)
        }
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let mut buffer = [0; sync::MESSAGE_LIMIT];
    let received = receive_with_fds(&ours, &mut buffer);
    pid::wait_child(&pidfd).context(|| "wait for the process in the PID namespace")?;
    let (length, mut fds) = received?;
    match (buffer.get(..length).and_then(sync::decode), fds.pop()) {
        (Some(Message::Mounted), Some(fd)) => Ok(fd),
        (Some(Message::Error(error)), _) => Err(error),
        // A member of the namespace may kill it.
        _ => Err(Error::new("the process in the PID namespace has ended early")),
    }
}

fn join(namespaces: &[OpenNamespace], kind: u64) -> Result<()> {
    namespaces.iter().filter(|namespace| namespace.kind == kind).try_for_each(OpenNamespace::join)
}
