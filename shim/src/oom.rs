//! Out-of-memory kills: an eventfd on cgroup v1, inotify on v2, and one look more when the container ends, because
//! the kill that ended it may not have been told yet.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use tokio::io::Interest;
use tokio::task::JoinHandle;

use crate::error::{Context as _, Error, Result};
use crate::path;
use crate::stats::Cgroup;
use crate::sys;

/// The kills of a container that have been told.
pub struct OomWatch {
    cgroup: Rc<Cgroup>,
    told: Cell<u64>,
}

impl OomWatch {
    /// Counts from now on.
    pub fn new(cgroup: &Rc<Cgroup>) -> Rc<Self> {
        let told = Cell::new(cgroup.oom_kills().unwrap_or(0));
        Rc::new(Self { cgroup: Rc::clone(cgroup), told })
    }

    /// Whether there are kills that have not been told; they are from now on.
    pub fn take(&self) -> bool {
        let kills = self.cgroup.oom_kills().unwrap_or(0);
        kills > self.told.replace(kills.max(self.told.get()))
    }

    /// Calls `tell` after each kill until the task is aborted or the cgroup is gone.
    ///
    /// # Errors
    /// What setting up the watch failed with.
    pub fn watch(self: &Rc<Self>, tell: impl Fn() + 'static) -> Result<JoinHandle<()>> {
        let fd = if self.cgroup.is_unified() { self.inotify()? } else { self.eventfd()? };
        let fd = sys::watch(fd, Interest::READABLE).context(|| "watch for OOM")?;
        let watch = Rc::clone(self);
        Ok(tokio::task::spawn_local(async move {
            loop {
                let Ok(mut ready) = fd.readable().await else { return };
                let mut events = [0; 4096];
                while nix::unistd::read(fd.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
                ready.clear_ready();
                if watch.cgroup.oom_kills().is_none() {
                    return;
                }
                if watch.take() {
                    tell();
                }
            }
        }))
    }

    fn inotify(&self) -> Result<OwnedFd> {
        let dir = self.cgroup.directory("").ok_or_else(|| Error::other("no cgroup"))?;
        let file = path::child(&dir, "memory.events");
        let name =
            CString::new(file.as_os_str().as_bytes()).map_err(|_| Error::other("a NUL in a cgroup"))?;
        sys::watch_modifications(&name).context(|| format!("watch {}", file.display()))
    }

    /// Documentation/admin-guide/cgroup-v1/memory.rst, 9: eventfd and control file into cgroup.event_control.
    fn eventfd(&self) -> Result<OwnedFd> {
        let dir = self.cgroup.directory("memory").ok_or_else(|| Error::other("no memory cgroup"))?;
        let open = |name| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            nix::fcntl::open(&path::child(&dir, name), flags, Mode::empty())
                .context(|| format!("open {}/{name}", dir.display()))
        };
        let control = open("memory.oom_control")?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = EventFd::from_value_and_flags(0, flags).context(|| "eventfd")?;
        let request = format!("{} {}", eventfd.as_raw_fd(), control.as_raw_fd());
        let file = path::child(&dir, "cgroup.event_control");
        path::write_kernel_file(&file, request.as_bytes()).context(|| format!("write {}", file.display()))?;
        Ok(OwnedFd::from(eventfd))
    }
}
