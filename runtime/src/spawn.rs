//! The parent's half of create: clone, id maps, hooks, limits.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::unistd::Pid;
use oci_spec::runtime::{PosixRlimit, Process, Spec};

use crate::error::{Context as _, Error, Result};
use crate::hooks::{self, Kind};
use crate::net_devices;
use crate::plan::Plan;
use crate::process::{limits_of, raise_hard_limits};
use crate::security::notify;
use crate::state::{ContainerDir, State, Status};
use crate::sync::{Channel, Message};
use crate::sys::clone::{Cloned, clone_process};
use crate::sys::pid;
use crate::sys::procfs::{self, Procfs};
use crate::timens;

/// A process that becomes the container's, or one in it, as its parent sees it.
#[derive(Debug)]
pub struct Spawned {
    /// Its number; it is our child and not waited for, so that the number stays its own.
    pub pid: Pid,
    /// The same for good.
    pub pidfd: OwnedFd,
    channel: Channel,
}

/// Which of the two processes goes on after [`Spawned::clone`].
#[derive(Debug)]
pub enum Side {
    /// The runtime.
    Parent(Spawned),
    /// The process that becomes the container's, with its end of the channel. It must not return into the runtime's
    /// code: it goes on in [`crate::init::run`] or in exec's own half.
    Child(Channel),
}

/// What it asks of its parent that is not the same for the init process and for an exec process.
#[derive(Debug)]
pub enum Request {
    /// Another process goes on in its place and waits for `Adopted`.
    Forked,
    /// Its id maps are wanted.
    NeedsMaps,
    /// Its mounts are made: host-side hooks may run.
    RootfsMounted,
    /// Its seccomp listener is to be handed on.
    SeccompListener(OwnedFd),
    /// It is ready.
    Ready,
}

/// What the parent has to know while it attends to the init process.
#[derive(Debug)]
pub struct Attendance<'a> {
    /// The configuration.
    pub spec: &'a Spec,
    /// `/process`.
    pub process: &'a Process,
    /// What was decided.
    pub plan: &'a Plan,
    /// Where the state is recorded.
    pub dir: &'a ContainerDir,
}

impl Spawned {
    /// Clones with `namespaces` into `cgroup`. Returns twice, as fork(2) does.
    ///
    /// # Errors
    /// The errno of clone3(2).
    pub fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
        let (ours, theirs) = Channel::pair()?;
        match clone_process(namespaces, cgroup, false).context(|| "clone the process")? {
            Cloned::Parent { pid, pidfd } => Ok(Side::Parent(Self { pid, pidfd, channel: ours })),
            Cloned::Child => Ok(Side::Child(theirs)),
        }
    }

    /// The next request, or what it reported, or how it died.
    ///
    /// # Errors
    /// It failed.
    pub fn next_request(&mut self) -> Result<Request> {
        match self.channel.receive()? {
            Some(Message::Forked(pid)) => self.replace(pid).map(|()| Request::Forked),
            Some(Message::NeedsMaps) => Ok(Request::NeedsMaps),
            Some(Message::RootfsMounted) => Ok(Request::RootfsMounted),
            Some(Message::SeccompListener(number)) => pid::take_fd(&self.pidfd, number)
                .context(|| "take the seccomp listener")
                .map(Request::SeccompListener),
            Some(Message::Ready) => Ok(Request::Ready),
            Some(Message::Error(error)) => Err(error),
            Some(other) => Err(Error::new(format!("the container's process sent {other:?} out of turn"))),
            None => Err(self.death()),
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// It has died.
    pub fn answer(&self, message: &Message) -> Result<()> {
        self.channel.send(message)
    }

    /// Waits until execve has succeeded; for `run` and `exec`, where there is no gate.
    ///
    /// # Errors
    /// What it reported, or that it has died before execve.
    pub fn wait_for_execve(&self) -> Result<()> {
        let mut announced = false;
        loop {
            match self.channel.receive()? {
                Some(Message::Executing) => announced = true,
                Some(Message::Error(error)) => return Err(error),
                None if announced => return Ok(()),
                None => return Err(self.death()),
                Some(other) => {
                    return Err(Error::new(format!("the init process sent {other:?} out of turn")));
                }
            }
        }
    }

    /// Ends it, whatever it does, and takes its exit status so that nothing is left.
    pub fn destroy(&self) {
        let _ = pid::send_signal(&self.pidfd, libc::SIGKILL);
        let _ = pid::wait_child(&self.pidfd);
    }

    /// A second process goes on: it is our child too (CLONE_PARENT), and the first one has ended or is about to.
    fn replace(&mut self, second: Pid) -> Result<()> {
        let pidfd = pid::open(second).context(|| "open the process")?;
        pid::wait_child(&self.pidfd).context(|| "wait for the first stage of the process")?;
        self.pid = second;
        self.pidfd = pidfd;
        Ok(())
    }

    /// Sets its `oom_score_adj` (-1000 to 1000) and raises its hard limits. By the parent: lowering the one and raising
    /// the others takes CAP_SYS_RESOURCE in the host's user namespace. Once more after [`Request::Forked`]: the second
    /// process has what the first one had when it forked, which may have been before the first call.
    ///
    /// # Errors
    /// What could not be set, and why.
    pub fn adjust(&self, oom_score: Option<i32>, limits: &[PosixRlimit]) -> Result<()> {
        if let Some(score) = oom_score {
            self.adjust_oom_score(&Procfs::processes()?, score)
                .context(|| format!("/process/oomScoreAdj: set {score}"))?;
        }
        raise_hard_limits(self.pid, limits)
    }

    /// Not written where it stands already: the file of a process that is not dumpable is root's alone (proc(5)).
    fn adjust_oom_score(&self, procfs: &Procfs, score: i32) -> nix::Result<()> {
        let (path, wanted) = (format!("{}/oom_score_adj", self.pid), score.to_string());
        if procfs.read(&path)?.trim_ascii_end() != wanted.as_bytes() {
            procfs.write(&path, wanted.as_bytes())?;
        }
        Ok(())
    }

    /// Why it said nothing more.
    fn death(&self) -> Error {
        match pid::wait_child(&self.pidfd) {
            Ok(status) if status == 128 + libc::SIGKILL => Error::new(
                "the container's process was killed before it was ready (by the kernel, where the memory limit is small)",
            ),
            Ok(status) => {
                Error::new(format!("the container's process ended with status {status} before it was ready"))
            }
            Err(errno) => Error::from_errno("wait for the init process", errno),
        }
    }
}

/// Answers the init process until it is ready: everything is set, and it waits for `Proceed`.
///
/// # Errors
/// What the init process reported, or what failed here.
pub fn attend(init: &mut Spawned, to: &Attendance<'_>, state: &mut State) -> Result<()> {
    let adjust = |init: &Spawned| init.adjust(to.process.oom_score_adj(), limits_of(to.process));
    adjust(init)?;
    loop {
        match init.next_request()? {
            Request::Forked => {
                adjust(init)?;
                init.answer(&Message::Adopted)?;
            }
            Request::NeedsMaps => {
                write_maps(init, to.plan)?;
                init.answer(&Message::Mapped)?;
            }
            Request::RootfsMounted => {
                record(init, to.dir, state)?;
                if let Some(devices) = net_devices::of(to.spec) {
                    net_devices::give(devices, init.pid)?;
                }
                run_host_hooks(to.spec, state)?;
                init.answer(&Message::HooksDone)?;
            }
            Request::SeccompListener(listener) => {
                record(init, to.dir, state)?;
                notify::hand_over(to.spec, state, init.pid, &listener)?;
                init.answer(&Message::ListenerSent)?;
            }
            Request::Ready => return record(init, to.dir, state),
        }
    }
}

/// The id maps of its user namespace and the offsets of its time namespace.
fn write_maps(init: &Spawned, plan: &Plan) -> Result<()> {
    let procfs = Procfs::processes()?;
    if let Some(maps) = &plan.id_maps {
        maps.write(&procfs, init.pid)?;
    }
    if plan.time_offsets.is_empty() {
        return Ok(());
    }
    timens::write_offsets(&procfs, init.pid, &plan.time_offsets)
}

/// Records the init process, so that later commands find it and it alone.
fn record(init: &Spawned, dir: &ContainerDir, state: &mut State) -> Result<()> {
    if state.pid == init.pid.as_raw() {
        return Ok(());
    }
    let what = || "record the init process";
    let procfs = Procfs::mounted()?;
    state.pid = init.pid.as_raw();
    state.start_time = pid::start_time(&procfs, init.pid).context(what)?.0;
    state.boot_id = procfs::boot_id(&procfs).context(what)?;
    dir.write_state(state)
}

/// prestart and createRuntime hooks: in the runtime's namespaces, when the container's are there (runtime.md, lifecycle).
fn run_host_hooks(spec: &Spec, state: &State) -> Result<()> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    let json = state.to_hooks(Status::Creating)?;
    let kinds = [(Kind::Prestart, all.prestart()), (Kind::CreateRuntime, all.create_runtime())];
    for (kind, hooks) in kinds {
        hooks::run(kind, hooks.as_deref().unwrap_or_default(), &json, Some(&state.bundle))?;
    }
    Ok(())
}
