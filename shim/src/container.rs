//! A container: how it is made, what is done to it, how its end is told.

mod exec;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use skeg_proto::task::CreateTaskRequest;
use skeg_proto::types::{Any, Mount, ProcessInfo};
use skeg_proto::{Message as _, MessageField, events as event};
use tokio::sync::Mutex;

use crate::config::Config;
use crate::error::{Code, Context as _, Error, Result};
use crate::log;
use crate::oom::OomWatch;
use crate::options::Options;
use crate::path;
use crate::pod_files;
use crate::process::{Process, State};
use crate::reap::{self, Exit, PidFd};
use crate::record::{self, Init};
use crate::rootfs;
use crate::runtime::{Inputs, Runtime, anonymous_file};
use crate::service::Shim;
use crate::stats::Cgroup;
use crate::stdio::{self, Owner, Paths, Prepared};

/// How long the processes that an init process leaves behind may take to be killed.
const KILL_ALL_LIMIT: Duration = Duration::from_secs(2);

/// A container that the runtime has made.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle as the manager named it.
    pub bundle: PathBuf,
    /// Its init process.
    pub init: Rc<Process>,
    bundle_dir: OwnedFd,
    shim: Rc<Shim>,
    runtime: Runtime,
    options: Options,
    mounts: Vec<Mount>,
    own_pid_namespace: bool,
    execs: RefCell<HashMap<String, Rc<Process>>>,
    /// Start, pause, resume, update and delete take turns; kill, exec and the rest do not wait for them.
    turn: Mutex<()>,
    deleted: Cell<bool>,
    cgroup: Option<Rc<Cgroup>>,
    oom: RefCell<Option<OomWatch>>,
    /// Whether its events go out: it is a task, not a pod's sandbox.
    is_task: bool,
}

/// What a container is made from.
pub struct Recipe<'a> {
    /// The request of the manager, or one like it.
    pub request: &'a CreateTaskRequest,
    /// The runtime and how to call it.
    pub options: Options,
    /// Whether it is a task, whose events the manager waits for.
    pub is_task: bool,
}

/// A process that a runtime call has left with us.
struct Newborn {
    pid: i32,
    pidfd: PidFd,
    streams: stdio::Streams,
}

impl Container {
    /// Makes a container: mounts, streams, `runtime create`.
    ///
    /// # Errors
    /// What failed; nothing of the container is left then.
    pub async fn create(shim: &Rc<Shim>, recipe: Recipe<'_>, deadline: Option<Instant>) -> Result<Rc<Self>> {
        let Recipe { request, options, is_task } = recipe;
        if !request.checkpoint.is_empty() {
            return Err(Error::new(Code::Unimplemented, "restore from a checkpoint is not supported"));
        }
        let bundle = path::check_absolute("bundle", &request.bundle)?;
        let bundle_dir = path::open_dir(&bundle).context(|| format!("open bundle {}", bundle.display()))?;
        let sandbox = shim.sandbox.borrow().clone();
        if let Some(files) = sandbox.as_ref().filter(|_| is_task).and_then(|sandbox| sandbox.files()) {
            pod_files::mount_into(&bundle_dir, files)?;
        }
        let config = Config::load(&bundle_dir)?;
        let config = config.ok_or_else(|| Error::invalid("config.json: is missing"))?;
        let runtime = Runtime::new(&options, &shim.namespace, shim.debug, &shim.reaper)?;
        record::write_options(&bundle_dir, &options)?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let init = Rc::new(Process::new("", paths, Vec::new()));
        let mut container = Self {
            id: request.id.clone(),
            bundle,
            init,
            bundle_dir,
            shim: Rc::clone(shim),
            runtime,
            options,
            mounts: request.rootfs.clone(),
            own_pid_namespace: config.has_own_pid_namespace(),
            execs: RefCell::default(),
            turn: Mutex::new(()),
            deleted: Cell::new(false),
            cgroup: None,
            oom: RefCell::new(None),
            is_task,
        };
        let newborn = match container.create_init(!config.has_label(), deadline).await {
            Ok(newborn) => newborn,
            Err(error) => {
                container.abandon().await;
                return Err(error);
            }
        };
        match Cgroup::of(newborn.pid) {
            Ok(cgroup) => container.cgroup = cgroup.map(Rc::new),
            Err(error) => log::warn(format_args!("container {}: {error}", container.id)),
        }
        if let Err(error) = Init::alive(newborn.pid).write(&container.bundle_dir) {
            log::error(format_args!("container {}: {error}", container.id));
        }
        let container = Rc::new(container);
        container.watch_oom();
        container.init.made(newborn.pid, Rc::clone(&newborn.pidfd), newborn.streams, State::Created);
        container.watch(&container.init, newborn.pid, newborn.pidfd);
        Ok(container)
    }

    async fn create_init(&self, direct: bool, deadline: Option<Instant>) -> Result<Newborn> {
        rootfs::mount(&self.bundle_dir, &self.mounts)?;
        let prepared = stdio::open(&self.init.paths, &self.owner(direct)).await?;
        let pid_file = path::child(&self.bundle, "init.pid");
        let mut command: Vec<&std::ffi::OsStr> = vec!["create".as_ref(), "--bundle".as_ref()];
        command.extend([self.bundle.as_os_str(), "--pid-file".as_ref(), pid_file.as_os_str()]);
        if let Some(socket) = prepared.console_socket() {
            command.extend(["--console-socket".as_ref(), socket.as_os_str()]);
        }
        if self.options.no_pivot_root {
            command.push("--no-pivot".as_ref());
        }
        if self.options.no_new_keyring {
            command.push("--no-new-keyring".as_ref());
        }
        let command: Vec<_> = command.into_iter().map(std::ffi::OsStr::to_owned).collect();
        self.give_birth(command, prepared, "init.pid", deadline).await.context(|| "OCI runtime create failed")
    }

    /// Runs a command that makes a process, and takes charge of the process.
    async fn give_birth(
        &self,
        mut command: Vec<std::ffi::OsString>,
        prepared: Prepared,
        pid_file: &str,
        deadline: Option<Instant>,
    ) -> Result<Newborn> {
        command.push(self.id.clone().into());
        let _birth = self.shim.reaper.birth();
        let inputs = Inputs { stdio: prepared.child(), deadline, ..Inputs::default() };
        self.runtime.call(&command, inputs).await?;
        let text = path::read_in(&self.bundle_dir, pid_file, 64).context(|| format!("read {pid_file}"))?;
        let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        let pid: i32 = pid.ok_or_else(|| Error::other(format!("{pid_file}: not a pid")))?;
        // From here on its pid cannot become another's: the zombie would be ours.
        if !reap::is_child(pid) {
            return Err(Error::other(format!("process {pid} is not a child of the shim")));
        }
        let pidfd = crate::sys::pidfd_open(pid).context(|| format!("pidfd_open {pid}"))?;
        match prepared.begin() {
            Ok(streams) => {
                self.shim.reaper.know(pid);
                Ok(Newborn { pid, pidfd: Rc::new(pidfd), streams })
            }
            Err(error) => {
                // Nobody will ever ask for it: the sweep takes it.
                let _ = crate::sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
                Err(error)
            }
        }
    }

    fn owner(&self, direct: bool) -> Owner<'_> {
        Owner {
            namespace: &self.shim.namespace,
            id: &self.id,
            uid: self.options.io_uid,
            gid: self.options.io_gid,
            direct,
            reaper: &self.shim.reaper,
            socket_dir: &self.shim.socket_dir,
        }
    }

    /// Takes away what a failed creation has left.
    async fn abandon(&self) {
        let _ = self.runtime.call(&["delete", "--force", &self.id], Inputs::default()).await;
        if let Err(error) = rootfs::unmount(&self.bundle_dir, &self.mounts) {
            log::error(format_args!("container {}: {error}", self.id));
        }
    }

    fn watch_oom(self: &Rc<Self>) {
        let Some(cgroup) = &self.cgroup else { return };
        let weak = Rc::downgrade(self);
        let tell = move || {
            if let Some(container) = weak.upgrade() {
                container.tell_oom();
            }
        };
        self.oom.replace(Some(OomWatch::new(cgroup, tell)));
    }

    fn publish(&self, topic: &str, name: &str, event: &impl skeg_proto::Message) {
        if self.is_task {
            self.shim.events.publish(topic, name, event);
        }
    }

    fn tell_oom(&self) {
        let oom = event::TaskOOM { container_id: self.id.clone(), ..Default::default() };
        self.publish("/tasks/oom", "TaskOOM", &oom);
    }

    /// Tells the end of a process once it has come, and once its start has been told.
    fn watch(self: &Rc<Self>, process: &Rc<Process>, pid: i32, pidfd: PidFd) {
        let (container, process) = (Rc::clone(self), Rc::clone(process));
        tokio::task::spawn_local(async move {
            let exit = container.shim.reaper.wait(pid, &*pidfd).await.unwrap_or_else(|error| {
                log::error(format_args!("container {}: {error}", container.id));
                Exit::now(255)
            });
            if process.exec_id.is_empty() {
                container.init_ended(pid, exit).await;
            }
            let _starting = process.starting.lock().await;
            process.end(exit);
            let id = if process.exec_id.is_empty() { &container.id } else { &process.exec_id };
            let told = event::TaskExit {
                container_id: container.id.clone(),
                id: id.clone(),
                pid: process.pid(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.timestamp()),
                ..Default::default()
            };
            container.publish("/tasks/exit", "TaskExit", &told);
        });
    }

    /// What comes between the end of the init process and its telling: the record on disk, what it left behind in a PID
    /// namespace that is not its own, the reason.
    async fn init_ended(&self, pid: i32, exit: Exit) {
        if let Err(error) = Init::Ended(pid, exit).write(&self.bundle_dir) {
            log::error(format_args!("container {}: {error}", self.id));
        }
        if !self.own_pid_namespace {
            let deadline = Some(Instant::now() + KILL_ALL_LIMIT);
            let inputs = Inputs { deadline, ..Inputs::default() };
            let _ = self.runtime.call(&["kill", "--all", &self.id, "9"], inputs).await;
        }
        if self.oom.take().is_some_and(|oom| oom.take()) {
            self.tell_oom();
        }
    }

    /// The init process, or an exec.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn process(&self, exec_id: &str) -> Result<Rc<Process>> {
        if exec_id.is_empty() {
            return Ok(Rc::clone(&self.init));
        }
        let found = self.execs.borrow().get(exec_id).cloned();
        found.ok_or_else(|| Error::new(Code::NotFound, format!("process {exec_id} does not exist")))
    }

    /// Starts the init process or an exec, and returns its pid.
    ///
    /// # Errors
    /// `FailedPrecondition` where it is not in a state for that; what the runtime said.
    pub async fn start(self: &Rc<Self>, exec_id: &str, deadline: Option<Instant>) -> Result<u32> {
        let process = self.process(exec_id)?;
        if !exec_id.is_empty() {
            return self.start_exec(&process, deadline).await;
        }
        let _turn = self.turn.lock().await;
        let _starting = process.starting.lock().await;
        if process.state() != State::Created {
            return Err(wrong_state("start", process.state()));
        }
        let inputs = Inputs { deadline, ..Inputs::default() };
        self.runtime.call(&["start", &self.id], inputs).await.context(|| "OCI runtime start failed")?;
        process.set_state(State::Running);
        let pid = process.pid();
        let started = event::TaskStart { container_id: self.id.clone(), pid, ..Default::default() };
        self.publish("/tasks/start", "TaskStart", &started);
        Ok(pid)
    }

    /// Deletes the container, which must not run; returns the init process's pid and end.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs; what the runtime said.
    pub async fn delete(&self, deadline: Option<Instant>) -> Result<(u32, Exit)> {
        let _turn = self.turn.lock().await;
        if self.deleted.get() {
            return Err(Error::new(Code::NotFound, format!("container {} does not exist", self.id)));
        }
        match self.init.state() {
            State::Ended(_) => {}
            State::Created | State::Added => match self.init.signal(libc::SIGKILL) {
                Err(error) if error.code() != Code::NotFound => return Err(error),
                _ => {}
            },
            state => return Err(wrong_state("delete", state)),
        }
        let exit = self.init.exit().await;
        let inputs = Inputs { deadline, ..Inputs::default() };
        match self.runtime.call(&["delete", &self.id], inputs).await {
            Err(error) if !error.to_string().contains("does not exist") => {
                return Err(error.context("OCI runtime delete failed"));
            }
            _ => {}
        }
        // It is not deleted before this is done: who asks again finds the runtime's part done.
        rootfs::unmount(&self.bundle_dir, &self.mounts)?;
        let pid = i32::try_from(self.init.pid()).unwrap_or(0);
        if let Err(error) = Init::Deleted(pid, exit).write(&self.bundle_dir) {
            log::error(format_args!("container {}: {error}", self.id));
        }
        self.deleted.set(true);
        self.init.close();
        for exec in self.execs.take().into_values() {
            exec.close();
        }
        let pid = self.init.pid();
        let deleted = event::TaskDelete {
            container_id: self.id.clone(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.timestamp()),
            ..Default::default()
        };
        self.publish("/tasks/delete", "TaskDelete", &deleted);
        Ok((pid, exit))
    }

    /// Sends a signal to a process, or to all.
    ///
    /// # Errors
    /// `NotFound` where there is nothing to send it to.
    pub async fn kill(&self, exec_id: &str, signal: i32, all: bool, deadline: Option<Instant>) -> Result<()> {
        let process = self.process(exec_id)?;
        // The kernel keeps signals of a frozen cgroup v1 until it thaws; runtimes thaw it for SIGKILL.
        let frozen = process.state() == State::Paused && signal == libc::SIGKILL;
        if !exec_id.is_empty() || !(all || frozen) {
            return process.signal(signal);
        }
        let number = signal.to_string();
        let mut command = vec!["kill"];
        if all {
            command.push("--all");
        }
        command.extend([self.id.as_str(), number.as_str()]);
        let inputs = Inputs { deadline, ..Inputs::default() };
        self.runtime.call(&command, inputs).await.map(drop).map_err(|error| {
            let text = error.to_string();
            let gone =
                ["does not exist", "container not running", "process already finished", "no such process"];
            if gone.iter().any(|words| text.contains(words)) {
                Error::new(Code::NotFound, "process already finished")
            } else {
                error
            }
        })
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// `FailedPrecondition` where it does not run; what the runtime said.
    pub async fn pause(&self, deadline: Option<Instant>) -> Result<()> {
        self.switch("pause", State::Running, State::Paused, deadline).await?;
        let paused = event::TaskPaused { container_id: self.id.clone(), ..Default::default() };
        self.publish("/tasks/paused", "TaskPaused", &paused);
        Ok(())
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// `FailedPrecondition` where it is not paused; what the runtime said.
    pub async fn resume(&self, deadline: Option<Instant>) -> Result<()> {
        self.switch("resume", State::Paused, State::Running, deadline).await?;
        let resumed = event::TaskResumed { container_id: self.id.clone(), ..Default::default() };
        self.publish("/tasks/resumed", "TaskResumed", &resumed);
        Ok(())
    }

    async fn switch(&self, verb: &str, from: State, to: State, deadline: Option<Instant>) -> Result<()> {
        let _turn = self.turn.lock().await;
        if self.init.state() != from {
            return Err(wrong_state(verb, self.init.state()));
        }
        let inputs = Inputs { deadline, ..Inputs::default() };
        self.runtime
            .call(&[verb, &self.id], inputs)
            .await
            .context(|| format!("OCI runtime {verb} failed"))?;
        self.init.set_state(to);
        Ok(())
    }

    /// Changes the limits to `resources` (LinuxResources as JSON).
    ///
    /// # Errors
    /// `FailedPrecondition` once it has ended; what the runtime said.
    pub async fn update(&self, resources: &[u8], deadline: Option<Instant>) -> Result<()> {
        let _turn = self.turn.lock().await;
        if let State::Ended(_) = self.init.state() {
            return Err(wrong_state("update", self.init.state()));
        }
        let json = anonymous_file("resources.json", resources)?;
        let inputs = Inputs { stdin: Some(json.as_fd()), deadline, ..Inputs::default() };
        let command = ["update", "--resources=-", self.id.as_str()];
        self.runtime.call(&command, inputs).await.map(drop).context(|| "OCI runtime update failed")
    }

    /// Every process of the container; those that were added by exec with their exec id.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        let execs: HashMap<u32, String> = self
            .execs
            .borrow()
            .values()
            .filter(|exec| !matches!(exec.state(), State::Ended(_) | State::Added))
            .map(|exec| (exec.pid(), exec.exec_id.clone()))
            .collect();
        let mut pids = self.cgroup.as_ref().map(|cgroup| cgroup.processes()).unwrap_or_default();
        if pids.is_empty() && !matches!(self.init.state(), State::Ended(_)) {
            pids.push(self.init.pid());
            pids.extend(execs.keys());
        }
        pids.into_iter()
            .map(|pid| {
                let details = execs.get(&pid).map(|exec_id| {
                    let details = skeg_proto::options::ProcessDetails {
                        exec_id: exec_id.clone(),
                        ..Default::default()
                    };
                    let value = details.write_to_bytes().unwrap_or_default();
                    Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value, ..Any::default() }
                });
                ProcessInfo { pid, info: details.into(), ..Default::default() }
            })
            .collect()
    }

    /// The metrics of its cgroup.
    ///
    /// # Errors
    /// `NotFound` for a container without one.
    pub fn metrics(&self) -> Result<Any> {
        let cgroup = self.cgroup.as_ref();
        let cgroup =
            cgroup.ok_or_else(|| Error::new(Code::NotFound, "the container has no cgroup of its own"))?;
        Ok(cgroup.metrics())
    }

    /// The pid of a running init process; 0 otherwise.
    pub fn task_pid(&self) -> u32 {
        self.init.pid()
    }
}

fn wrong_state(verb: &str, state: State) -> Error {
    let state = match state {
        State::Added | State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Ended(_) => "stopped",
    };
    Error::new(Code::FailedPrecondition, format!("cannot {verb} a {state} process"))
}
