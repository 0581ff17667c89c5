//! The socket over which the runtime sends the master of a terminal.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Result};
use crate::path;
use crate::sys;

/// A listening socket for one console, removed with the value.
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    pub(super) path: PathBuf,
}

impl ConsoleSocket {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        thread_local! {
            static COUNT: Cell<u64> = const { Cell::new(0) };
        }
        let count = COUNT.with(|count| {
            count.set(count.get() + 1);
            count.get()
        });
        // In a directory that only we may search, so that nobody else connects (security.md I1).
        let path = path::child(dir, &format!("console-{}-{count}", std::process::id()));
        let listener = UnixListener::bind(&path).context(|| format!("bind {}", path.display()))?;
        listener.set_nonblocking(true).context(|| "console socket")?;
        Ok(Self { listener, path })
    }

    /// The master that the runtime has sent before it returned.
    pub(super) fn receive(&self) -> Result<OwnedFd> {
        let (socket, _) = self.listener.accept().context(|| "the runtime has sent no console")?;
        sys::receive_fd(&socket).context(|| "the runtime has sent no console")
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = nix::unistd::unlink(&self.path);
    }
}
