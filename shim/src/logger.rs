//! Logging binaries (`binary://` and `binary-v2://`): programs of the manager that take a container's output.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::timeout;

use crate::error::{Context as _, Error, Result};
use crate::path;
use crate::stdio::{Owner, pipe};
use crate::sys;

/// How long a logging binary may take to say that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// A logging binary.
#[derive(Debug, PartialEq, Eq)]
pub struct Logger {
    /// Its absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Whether only a byte on its third pipe says that it is ready (`binary-v2`); otherwise the end of that pipe does too,
    /// so that one that has failed is not noticed.
    pub says_ready: bool,
}

impl Logger {
    /// Starts it as containerd defines logging binaries (standard output on 3, error on 4, ready on 5, two variables) and
    /// returns the ends for the container.
    ///
    /// # Errors
    /// What starting it failed with; that it did not say in time that it is ready, or at all.
    pub async fn start(&self, owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd)> {
        let c_string = |text: &[u8]| {
            CString::new(text).map_err(|_| Error::invalid("a logging binary's argument: contains a NUL"))
        };
        let file = c_string(self.program.as_os_str().as_bytes())?;
        let mut words = vec![file.clone()];
        for argument in &self.arguments {
            words.push(c_string(argument.as_bytes())?);
        }
        let environment = [
            c_string(format!("CONTAINER_ID={}", owner.id).as_bytes())?,
            c_string(format!("CONTAINER_NAMESPACE={}", owner.namespace).as_bytes())?,
        ];
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        let (ready_read, ready_write) = pipe()?;
        // Above the numbers that they are placed at.
        let above = |fd: &OwnedFd| -> Result<AboveTargets> { AboveTargets::new(fd) };
        let (out, err, ready) = (above(&out_read)?, above(&err_read)?, above(&ready_write)?);
        let null = path::null_device().context(|| "open /dev/null")?;
        let child = sys::spawn(&sys::Program {
            path: &file,
            arguments: &words,
            environment: &environment,
            stdio: [null.as_fd(); 3],
            placed: &[(out.0.as_fd(), 3), (err.0.as_fd(), 4), (ready.0.as_fd(), 5)],
            dies_with_us: false,
            new_session: false,
        })
        .context(|| format!("start logging binary {}", self.program.display()))?;
        drop((out, err, ready, ready_write));
        owner.reaper.know(child.pid);
        let (reaper, pid) = (Rc::clone(owner.reaper), child.pid);
        let pidfd = Rc::new(child.pidfd);
        let watched = Rc::clone(&pidfd);
        tokio::task::spawn_local(async move {
            let _ = reaper.wait(pid, &*watched).await;
        });
        let said = match timeout(READY_LIMIT, self.first_byte(ready_read)).await {
            Ok(said) => said?,
            Err(_) => Some(format!("not ready after {} s", READY_LIMIT.as_secs())),
        };
        match said {
            None => Ok((out_write, err_write)),
            Some(reason) => {
                let _ = sys::pidfd_send_signal(&*pidfd, libc::SIGKILL);
                Err(Error::other(format!("logging binary {}: {reason}", self.program.display())))
            }
        }
    }

    /// Waits until it is ready; the reason where it will not be.
    async fn first_byte(&self, pipe: OwnedFd) -> Result<Option<String>> {
        let pipe = sys::watch(pipe, Interest::READABLE).context(|| "watch a logging binary")?;
        let _ready = pipe.readable().await.context(|| "watch a logging binary")?;
        // Readable: this does not block.
        let mut byte = [0];
        let ended = nix::unistd::read(pipe.get_ref(), &mut byte).unwrap_or(0) == 0;
        Ok((ended && self.says_ready).then(|| "ended before it was ready".to_owned()))
    }
}

/// A duplicate with a number above those that a logging binary finds its descriptors at.
struct AboveTargets(OwnedFd);

impl AboveTargets {
    fn new(fd: &OwnedFd) -> Result<Self> {
        let mut low = Vec::new();
        loop {
            let copy = fd.try_clone().context(|| "duplicate a pipe")?;
            if copy.as_raw_fd() > 5 {
                return Ok(Self(copy));
            }
            low.push(copy);
        }
    }
}
