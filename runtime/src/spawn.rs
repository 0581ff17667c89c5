//! The parent's half of create: clone, id maps, hooks, limits.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};

use crate::error::{Context as _, Error, Result};
use crate::hooks::{self, Kind};
use crate::init::{self, Init};
use crate::plan::Plan;
use crate::process::set_limits;
use crate::security::notify;
use crate::state::{ContainerDir, State, Status};
use crate::sync::{Channel, Message};
use crate::sys::clone::{Cloned, clone_process};
use crate::sys::pid;
use crate::sys::procfs::{self, Procfs};
use crate::timens;

/// The process that becomes the container, as its parent sees it.
#[derive(Debug)]
pub struct InitProcess {
    /// Its number; it is our child and not waited for, so that the number stays its own.
    pub pid: Pid,
    /// The same for good.
    pub pidfd: OwnedFd,
    channel: Channel,
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

impl InitProcess {
    /// Clones. The child goes on in [`init::run`] and never comes back here.
    ///
    /// # Errors
    /// The errno of clone3(2).
    pub fn spawn(channel: Channel, init: Init<'_>) -> Result<Self> {
        let cgroup = init.cgroup.as_ref().and_then(|entry| entry.v2_dir.as_ref()).map(AsFd::as_fd);
        match clone_process(init.plan.stages.first_clone, cgroup, false) {
            Ok(Cloned::Parent { pid, pidfd }) => Ok(Self { pid, pidfd, channel }),
            Ok(Cloned::Child) => {
                drop(channel);
                init::run(init)
            }
            Err(errno) => Err(Error::from_errno("clone the init process", errno)),
        }
    }

    /// Answers the init process until it is ready: everything is set, and it waits for [`InitProcess::proceed`].
    ///
    /// # Errors
    /// What the init process reported, or what failed here.
    pub fn attend(&mut self, to: &Attendance<'_>, state: &mut State) -> Result<()> {
        self.adjust_oom_score(to.process)?;
        loop {
            match self.channel.receive()? {
                Some(Message::Forked(pid)) => self.replace(pid)?,
                Some(Message::NeedsMaps) => {
                    self.write_maps(to.plan)?;
                    self.channel.send(&Message::Mapped)?;
                }
                Some(Message::RootfsMounted) => {
                    self.record(to.dir, state)?;
                    run_host_hooks(to.spec, state)?;
                    self.channel.send(&Message::HooksDone)?;
                }
                Some(Message::SeccompListener(listener)) => {
                    self.record(to.dir, state)?;
                    notify::hand_over(to.spec, state, &listener)?;
                    self.channel.send(&Message::ListenerSent)?;
                }
                Some(Message::Ready) => {
                    self.record(to.dir, state)?;
                    return set_limits(self.pid, to.process.rlimits().as_deref().unwrap_or_default());
                }
                Some(Message::Error(error)) => return Err(error),
                Some(other) => {
                    return Err(Error::new(format!("the init process sent {other:?} out of turn")));
                }
                None => return Err(self.death()),
            }
        }
    }

    /// Lets the init process go on to the gate.
    ///
    /// # Errors
    /// It has died.
    pub fn proceed(&self) -> Result<()> {
        self.channel.send(&Message::Proceed)
    }

    /// Waits until execve has succeeded; for `run`, where there is no gate.
    ///
    /// # Errors
    /// What the init process reported, or that it has died before execve.
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
        let pidfd = pid::open(second).context(|| "open the init process")?;
        waitpid(self.pid, None).context(|| "wait for the first stage of the init process")?;
        self.pid = second;
        self.pidfd = pidfd;
        Ok(())
    }

    fn write_maps(&self, plan: &Plan) -> Result<()> {
        let procfs = Procfs::processes()?;
        if let Some(maps) = &plan.id_maps {
            maps.write(&procfs, self.pid)?;
        }
        if plan.time_offsets.is_empty() {
            return Ok(());
        }
        timens::write_offsets(&procfs, self.pid, &plan.time_offsets)
    }

    /// By the parent: lowering it takes CAP_SYS_RESOURCE in the host's user namespace.
    fn adjust_oom_score(&self, process: &Process) -> Result<()> {
        let Some(score) = process.oom_score_adj() else { return Ok(()) };
        Procfs::processes()?
            .write(format!("{}/oom_score_adj", self.pid), score.to_string().as_bytes())
            .context(|| format!("/process/oomScoreAdj: set {score}"))
    }

    /// Records the init process, so that later commands find it and it alone.
    fn record(&self, dir: &ContainerDir, state: &mut State) -> Result<()> {
        if state.pid == self.pid.as_raw() {
            return Ok(());
        }
        let what = || "record the init process";
        let procfs = Procfs::mounted()?;
        state.pid = self.pid.as_raw();
        state.start_time = pid::start_time(&procfs, self.pid).context(what)?.0;
        state.boot_id = procfs::boot_id(&procfs).context(what)?;
        dir.write_state(state)
    }

    /// Why it said nothing more.
    fn death(&self) -> Error {
        match pid::wait_child(&self.pidfd) {
            Ok(status) if status == 128 + libc::SIGKILL => Error::new(
                "the init process was killed before it was ready (out of memory, where the memory limit is small)",
            ),
            Ok(status) => {
                Error::new(format!("the init process ended with status {status} before it was ready"))
            }
            Err(errno) => Error::from_errno("wait for the init process", errno),
        }
    }
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
