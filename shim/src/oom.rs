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
use crate::log;
use crate::path;
use crate::stats::Cgroup;
use crate::sys;

/// The kills of a container that have been told, and the task that waits for more.
pub struct OomWatch {
    counter: Rc<Counter>,
    task: Option<JoinHandle<()>>,
}

impl Drop for OomWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl OomWatch {
    /// Calls `tell` after each kill from now on, until it is dropped or the cgroup is gone. Where no watch can be set
    /// up, the look at the end (`take`) is all there is.
    pub fn new(cgroup: &Rc<Cgroup>, tell: impl Fn() + 'static) -> Self {
        let told = Cell::new(cgroup.oom_kills().unwrap_or(0));
        let counter = Rc::new(Counter { cgroup: Rc::clone(cgroup), told });
        let task = match counter.watch(tell) {
            Ok(task) => Some(task),
            Err(error) => {
                log::warn(format_args!("no OOM events: {error}"));
                None
            }
        };
        Self { counter, task }
    }

    /// Whether there are kills that have not been told; they are from now on.
    pub fn take(&self) -> bool {
        self.counter.take()
    }
}

struct Counter {
    cgroup: Rc<Cgroup>,
    told: Cell<u64>,
}

impl Counter {
    fn take(&self) -> bool {
        let kills = self.cgroup.oom_kills().unwrap_or(0);
        kills > self.told.replace(kills.max(self.told.get()))
    }

    fn watch(self: &Rc<Self>, tell: impl Fn() + 'static) -> Result<JoinHandle<()>> {
        let fd = if self.cgroup.is_unified() { self.inotify()? } else { self.eventfd()? };
        let fd = sys::watch(fd, Interest::READABLE).context(|| "watch for OOM")?;
        let counter = Rc::clone(self);
        Ok(tokio::task::spawn_local(async move {
            loop {
                let Ok(mut ready) = fd.readable().await else { return };
                let mut events = [0; 4096];
                while nix::unistd::read(fd.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
                ready.clear_ready();
                if counter.cgroup.oom_kills().is_none() {
                    return;
                }
                if counter.take() {
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
