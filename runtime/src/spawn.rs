//! The parent's half of create: clone, id maps, hooks, limits.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{PosixRlimit, Process, Spec};

use crate::bundle;
use crate::console;
use crate::error::{Context as _, Error, Result};
use crate::gate::{self, BY_PROFILE};
use crate::hooks::{self, Kind};
use crate::net_devices;
use crate::plan::Plan;
use crate::process::{limits_of, raise_hard_limits};
use crate::security::notify;
use crate::state::{ContainerDir, State, Status};
use crate::sync::{Channel, Message};
use crate::sys::fd::send_with_fds;
use crate::sys::path::replace_given;
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
    /// It is the second process already.
    replaced: bool,
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
    /// A process that has just been cloned, with our end of the channel to it.
    pub fn new(pid: Pid, pidfd: OwnedFd, channel: Channel) -> Self {
        Self { pid, pidfd, channel, replaced: false }
    }

    /// The next request, or what it reported, or how it died.
    ///
    /// # Errors
    /// It failed.
    pub fn next_request(&mut self) -> Result<Request> {
        match self.channel.receive_from(&self.pidfd)? {
            Some(Message::Forked(pid)) => self.replace(pid).map(|()| Request::Forked),
            Some(Message::NeedsMaps) => Ok(Request::NeedsMaps),
            Some(Message::RootfsMounted) => Ok(Request::RootfsMounted),
            Some(Message::SeccompListener(number)) => pid::take_fd(&self.pidfd, number)
                .context(|| "take the seccomp listener")
                .map(Request::SeccompListener),
            Some(Message::Ready) => Ok(Request::Ready),
            Some(Message::Error(error)) => Err(error),
            Some(other) => Err(Error::new(format!("the container's process sent {other:?} out of turn"))),
            None => Err(self.death("it was ready")),
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// What it reported before it ended; it has died.
    pub fn answer(&self, message: &Message) -> Result<()> {
        self.channel.send(message).map_err(|failed| match failed.errno() {
            // It has gone, and may have said why.
            Some(Errno::EPIPE | Errno::ECONNRESET) => match self.channel.receive_from(&self.pidfd) {
                Ok(Some(Message::Error(told))) => told,
                _ => failed,
            },
            // It waits, and has nothing to say.
            _ => failed,
        })
    }

    /// Tells it that its cgroup is made, and by which files to enter it.
    ///
    /// # Errors
    /// It has died.
    pub fn place(&self, tasks: &[OwnedFd]) -> Result<()> {
        let tasks: Vec<_> = tasks.iter().map(AsFd::as_fd).collect();
        self.channel.send_placed(&tasks)
    }

    /// Tells the manager of it: its number in the file at `pid_file`, its pidfd over the socket at `pidfd_socket`.
    ///
    /// # Errors
    /// What writing, connecting or sending said.
    pub fn announce(&self, pid_file: Option<&Path>, pidfd_socket: Option<&Path>) -> Result<()> {
        if let Some(path) = pid_file {
            replace_given(path, self.pid.to_string().as_bytes())
                .context(|| format!("write the pid file {}", path.display()))?;
        }
        if let Some(path) = pidfd_socket {
            let socket = console::connect_socket(path)?;
            send_with_fds(&socket, b"pidfd", &[self.pidfd.as_fd()])
                .context(|| format!("send the pidfd over {}", path.display()))?;
        }
        Ok(())
    }

    /// Waits until execve has succeeded; for `run` and `exec`, where there is no gate.
    ///
    /// # Errors
    /// What it reported, or that it has died before execve.
    pub fn wait_for_execve(&self) -> Result<()> {
        // Whether a filter may keep it from saying more.
        let mut announced = None;
        loop {
            match self.channel.receive_from(&self.pidfd)? {
                Some(Message::Executing { filtered }) => announced = Some(filtered),
                Some(Message::Error(error)) => return Err(error),
                None => {
                    return match announced {
                        Some(false) => Ok(()),
                        Some(true) if gate::has_executed(self.pid) => Ok(()),
                        Some(true) => Err(self.death("it executed its program")),
                        None => Err(self.death("it was ready")),
                    };
                }
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
    ///
    /// There is one at the most, and it is looked at whether it is ours: once it is in the container's PID namespace, others in
    /// there may be able to trace it and to say something in its name (row C4), and what is said here is whom we signal.
    fn replace(&mut self, second: Pid) -> Result<()> {
        let what = || "open the second process of the container's creation";
        let pidfd = pid::open(second).context(what)?;
        if self.replaced || !pid::is_child(&pidfd).context(what)? {
            return Err(Error::new(format!("the container's process named {second}, which is not its own")));
        }
        self.replaced = true;
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

    /// Why it said nothing more, having died before what `then` says.
    fn death(&self, then: &str) -> Error {
        match pid::wait_child(&self.pidfd) {
            Ok(status) if status == 128 + libc::SIGKILL => Error::new(format!(
                "the container's process was killed before {then} (by the kernel, where the memory limit is too small for it \
                 to start)"
            )),
            Ok(status) if status == 128 + libc::SIGSYS => Error::new(format!(
                "the container's process was killed by SIGSYS before {then} (its seccomp profile does that to execve, or to \
                 what comes before it)"
            )),
            Ok(status) => Error::new(format!(
                "the container's process ended with status {status} before {then} and without a reason ({BY_PROFILE})"
            )),
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
    // While it is at work itself.
    record(init, to.dir, state)?;
    loop {
        match init.next_request()? {
            Request::Forked => {
                adjust(init)?;
                record(init, to.dir, state)?;
                init.answer(&Message::Adopted)?;
            }
            Request::NeedsMaps => {
                write_maps(init, to.plan)?;
                init.answer(&Message::Mapped)?;
            }
            Request::RootfsMounted => {
                if let Some(devices) = net_devices::of(to.spec) {
                    net_devices::give(devices, init.pid)?;
                }
                run_host_hooks(to.spec, state)?;
                init.answer(&Message::HooksDone)?;
            }
            Request::SeccompListener(listener) => {
                notify::hand_over(to.spec, state, init.pid, &listener)?;
                init.answer(&Message::ListenerSent)?;
            }
            Request::Ready => return Ok(()),
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
    // runtime-spec 1.0, runtime.md, lifecycle: prestart hooks run when the container is created; later versions let them
    // run while it is being created.
    let prestart = if bundle::follows_1_0(spec.version()) { Status::Created } else { Status::Creating };
    let kinds = [
        (Kind::Prestart, all.prestart(), prestart),
        (Kind::CreateRuntime, all.create_runtime(), Status::Creating),
    ];
    for (kind, hooks, status) in kinds {
        let hooks = hooks.as_deref().unwrap_or_default();
        hooks::run(kind, hooks, &state.to_hooks(status)?, Some(&state.bundle))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests start processes")]

    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        (child, pid)
    }

    /// security.md C4: whoever can speak in the name of the container's process cannot have another process adopted, and so
    /// signalled, in its place.
    #[test]
    fn c4_only_a_child_is_adopted_and_only_once() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (mut first, pid) = sleeper();
        let mut spawned = Spawned::new(pid, pid::open(pid).unwrap(), ours);
        theirs.send(&Message::Forked(Pid::parent())).unwrap();
        let error = spawned.next_request().err().unwrap().to_string();
        assert!(error.ends_with("which is not its own"), "{error}");
        assert_eq!(spawned.pid, pid);
        let (mut second, next) = sleeper();
        first.kill().unwrap();
        theirs.send(&Message::Forked(next)).unwrap();
        assert!(matches!(spawned.next_request(), Ok(Request::Forked)));
        assert_eq!(spawned.pid, next);
        let (mut third, another) = sleeper();
        theirs.send(&Message::Forked(another)).unwrap();
        assert!(spawned.next_request().is_err() && spawned.pid == next);
        for child in [&mut first, &mut second, &mut third] {
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}
