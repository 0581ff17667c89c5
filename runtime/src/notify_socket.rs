//! `NOTIFY_SOCKET`: a service in a container tells the service manager of the host that it is ready (sd_notify(3)).
//!
//! The manager's own socket stays out of the container. `create` binds a directory of the container's state to
//! `/run/notify`; `start` (or `run`) listens there before the program runs, and passes on what a service may say of
//! itself. What names processes or descriptors (`MAINPID`, `FDSTORE`, `BARRIER` and others) is not passed on: the main
//! process is added here, as the host numbers it. Names, places and the wait for readiness are runc's.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::TimeVal;
use nix::unistd::{Pid, fchdir, pipe2};
use oci_spec::runtime::{MountBuilder, Spec};

use crate::error::{Context as _, Error, Result};
use crate::state::{ContainerDir, NOTIFY, NOTIFY_SOCKET};
use crate::sys::fd::send_with_fds;
use crate::sys::path::{append, open_given};

/// The name of the variable, on the host and in the container.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// Where the directory is in the container.
const IN_CONTAINER: &str = "/run/notify";

/// What a service may say of itself (sd_notify(3)).
const PASSED_ON: [&str; 8] = [
    "READY",
    "RELOADING",
    "STOPPING",
    "MONOTONIC_USEC",
    "STATUS",
    "ERRNO",
    "WATCHDOG",
    "EXTEND_TIMEOUT_USEC",
];

/// The most that is read of a message; systemd takes no longer one (`NOTIFY_BUFFER_MAX`).
const MESSAGE_LIMIT: usize = 4096;

/// How long the service manager may take to have room for a message, and then to have read all of them.
const TIMEOUT_SECONDS: u16 = 10;

/// Adds the mount and the variable to the configuration of container `id` of the state root `root`.
///
/// # Errors
/// What finding the working directory said, where `root` is relative.
pub fn add_to(spec: &mut Spec, root: &Path, id: &str) -> Result<()> {
    let mut source = if root.is_absolute() {
        PathBuf::new()
    } else {
        std::env::current_dir().context(|| "find the working directory")?
    };
    for part in [root, Path::new(id), Path::new(NOTIFY)] {
        append(&mut source, part);
    }
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default().destination(IN_CONTAINER).source(source).options(options).build();
    let mount = mount.map_err(|error| Error::new(format!("{VARIABLE}: {error}")))?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let variable = format!("{VARIABLE}={IN_CONTAINER}/{NOTIFY_SOCKET}");
        process.env_mut().get_or_insert_default().push(variable);
    }
    Ok(())
}

/// The container's socket and a connection to the manager's.
#[derive(Debug)]
pub struct Forwarder {
    socket: OwnedFd,
    manager: OwnedFd,
}

impl Forwarder {
    /// Listens for the container and connects to the manager's socket. `None` where the container was created without
    /// the variable, and so has no directory for it.
    ///
    /// # Errors
    /// What binding or connecting said.
    pub fn open(dir: &ContainerDir, manager: &OsStr) -> Result<Option<Self>> {
        let Some(directory) = dir.open_notify()? else { return Ok(None) };
        Ok(Some(Self { socket: listen(&directory)?, manager: connect_to(manager)? }))
    }

    /// Passes one message of the container on; `main` is its main process for the manager. Whether it is ready now.
    ///
    /// # Errors
    /// What receiving or sending said.
    pub fn forward(&self, main: Pid) -> Result<bool> {
        // No room for descriptors: the kernel closes those that come along, which is all that BARRIER=1 waits for.
        let mut buffer = [0; MESSAGE_LIMIT];
        let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            other => other.context(|| "receive from the container's notify socket")?,
        };
        let Some((message, ready)) = passed_on(buffer.get(..length).unwrap_or_default(), main) else {
            return Ok(false);
        };
        self.send(&message, &[])?;
        if ready {
            self.wait_until_read()?;
        }
        Ok(ready)
    }

    /// Passes messages on until the container is ready or its init process has ended.
    ///
    /// # Errors
    /// Those of [`Forwarder::forward`].
    pub fn forward_until_ready(&self, init: &OwnedFd, main: Pid) -> Result<()> {
        loop {
            let mut fds =
                [PollFd::new(self.as_fd(), PollFlags::POLLIN), PollFd::new(init.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context(|| "wait for the container to be ready")?,
            };
            let [message, end] = fds.map(|fd| fd.any().unwrap_or(false));
            // What was sent last counts, and comes first.
            if (message && self.forward(main)?) || (!message && end) {
                return Ok(());
            }
        }
    }

    /// The manager looks up who sent a message when it reads it, and this process may end soon (sd_notify_barrier(3)).
    /// One that does not know this message closes the pipe at once; one that does not read at all is not waited for.
    fn wait_until_read(&self) -> Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")?;
        self.send(b"BARRIER=1", &[writer.as_fd()])?;
        drop(writer);
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, TIMEOUT_SECONDS * 1000);
        Ok(())
    }

    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        send_with_fds(&self.manager, message, fds).context(|| "send to the manager's notify socket")
    }
}

impl AsFd for Forwarder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The message for the manager, and whether it says that the service is ready; `None` where nothing is left of it.
fn passed_on(message: &[u8], main: Pid) -> Option<(Vec<u8>, bool)> {
    let mut kept = Vec::with_capacity(message.len());
    let mut ready = false;
    for line in message.split(|&byte| byte == b'\n') {
        let key = line.split(|&byte| byte == b'=').next().unwrap_or_default();
        if key.len() == line.len() || !PASSED_ON.iter().any(|passed| passed.as_bytes() == key) {
            continue;
        }
        if line == b"READY=1" {
            ready = true;
            kept.extend_from_slice(format!("MAINPID={main}\n").as_bytes());
        }
        kept.extend_from_slice(line);
        kept.push(b'\n');
    }
    (!kept.is_empty()).then_some((kept, ready))
}

/// A socket in the directory that every user of the container may write to. Bound by its name alone, with the directory
/// as the working directory, so that no path is walked and none is too long.
fn listen(directory: &OwnedFd) -> Result<OwnedFd> {
    let what = || "listen on the container's notify socket";
    let socket = datagram_socket().context(what)?;
    let address = UnixAddr::new(NOTIFY_SOCKET).context(what)?;
    let here = open_given(".", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).context(what)?;
    fchdir(directory).context(what)?;
    let mask = umask(Mode::empty());
    let bound = bind(socket.as_raw_fd(), &address);
    umask(mask);
    fchdir(&here).context(|| "return to the working directory")?;
    bound.context(what)?;
    Ok(socket)
}

fn connect_to(manager: &OsStr) -> Result<OwnedFd> {
    let what = || format!("connect to {VARIABLE} {manager:?}");
    let socket = datagram_socket().context(what)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(i64::from(TIMEOUT_SECONDS), 0)).context(what)?;
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name),
        [b'/', ..] => UnixAddr::new(Path::new(manager)),
        _ => return Err(Error::new(format!("{}: must be an absolute path or begin with @", what()))),
    };
    connect(socket.as_raw_fd(), &address.context(what)?).context(what)?;
    Ok(socket)
}

fn datagram_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

/// The manager's socket as the environment has it.
pub fn from_environment() -> Option<OsString> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sd_notify(3): the lines that a service may send of itself, and no other.
    #[test]
    fn a_container_speaks_of_itself_only() {
        let pass = |message: &[u8]| {
            passed_on(message, Pid::from_raw(7))
                .map(|(text, ready)| (String::from_utf8(text).unwrap(), ready))
        };
        assert_eq!(pass(b"READY=1"), Some(("MAINPID=7\nREADY=1\n".to_owned(), true)));
        let all = b"STATUS=a=b\nMAINPID=1\nREADY=1\nFDSTORE=1\nBARRIER=1\nX=1\nREADY";
        assert_eq!(pass(all), Some(("STATUS=a=b\nMAINPID=7\nREADY=1\n".to_owned(), true)));
        assert_eq!(pass(b"WATCHDOG=1\n\n"), Some(("WATCHDOG=1\n".to_owned(), false)));
        assert_eq!(pass(b"READY=0").map(|(_, ready)| ready), Some(false));
        for none in [&b""[..], b"MAINPID=1", b"READY", b"\xff=1", b"READYX=1"] {
            assert_eq!(pass(none), None, "{none:?}");
        }
    }
}
