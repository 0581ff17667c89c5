//! The task API: one set of methods under the names of both versions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use skeg_proto::task as api;
use skeg_proto::types::Empty;
use skeg_proto::{Message, MessageField, events as event};
use tokio::sync::Notify;

use crate::container::{Container, Recipe};
use crate::error::{Code, Error, Result};
use crate::events::Events;
use crate::options::Options;
use crate::path::check_id;
use crate::process::State;
use crate::reap::Reaper;
use crate::sandbox::{self, Sandbox};
use crate::server::{Call, Connections};

const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";
const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// Everything that one shim process holds.
pub struct Shim {
    /// containerd namespace.
    pub namespace: String,
    /// Whether runtimes log at level debug.
    pub debug: bool,
    /// Where its sockets are: its own, and those for consoles.
    pub socket_dir: PathBuf,
    /// Its children.
    pub reaper: Rc<Reaper>,
    /// Its way to containerd.
    pub events: Rc<Events>,
    /// Its clients, and the bell for anything that may leave it without work.
    pub connections: Rc<Connections>,
    /// Rung to end it.
    pub quit: Notify,
    /// Its containers; nothing for one that is being made.
    containers: RefCell<HashMap<String, Option<Rc<Container>>>>,
    /// The pod's sandbox, where the manager has asked this shim for one.
    pub sandbox: RefCell<Option<Rc<Sandbox>>>,
    /// Whether that is being made: there is one, whatever its id.
    pub is_making_sandbox: Cell<bool>,
}

/// The place of a container that is being made; given up where it is dropped.
struct Place<'a> {
    shim: &'a Shim,
    id: &'a str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut containers = self.shim.containers.borrow_mut();
        if let Some(None) = containers.get(self.id) {
            containers.remove(self.id);
        }
        self.shim.connections.ring();
    }
}

/// Decodes a request.
///
/// # Errors
/// `InvalidArgument`.
pub fn parse<M: Message>(payload: &[u8]) -> Result<M> {
    M::parse_from_bytes(payload).map_err(|error| Error::invalid(format!("decode the request: {error}")))
}

/// Encodes an answer.
///
/// # Errors
/// `Internal`.
pub fn answer(message: &impl Message) -> Result<Vec<u8>> {
    message
        .write_to_bytes()
        .map_err(|error| Error::new(Code::Internal, format!("encode the answer: {error}")))
}

fn empty() -> Result<Vec<u8>> {
    answer(&Empty::new())
}

impl Shim {
    /// A shim without containers.
    pub fn new(namespace: &str, debug: bool, socket_dir: PathBuf, events: Rc<Events>) -> Rc<Self> {
        Rc::new(Self {
            namespace: namespace.to_owned(),
            debug,
            socket_dir,
            reaper: Rc::default(),
            events,
            connections: Rc::default(),
            quit: Notify::new(),
            containers: RefCell::default(),
            sandbox: RefCell::default(),
            is_making_sandbox: Cell::default(),
        })
    }

    /// Whether there is no container, not even one that is being made.
    pub fn is_empty(&self) -> bool {
        self.containers.borrow().is_empty()
    }

    fn container(&self, id: &str) -> Result<Rc<Container>> {
        check_id("container id", id)?;
        let found = self.containers.borrow().get(id).cloned().flatten();
        found.ok_or_else(|| Error::new(Code::NotFound, format!("container {id} does not exist")))
    }

    /// A container, and the id of one of its processes checked.
    fn container_of(&self, id: &str, exec_id: &str) -> Result<Rc<Container>> {
        if !exec_id.is_empty() {
            check_id("exec id", exec_id)?;
        }
        self.container(id)
    }

    /// Answers one call. The branches that wait long are small, those that are large are boxed.
    ///
    /// # Errors
    /// `Unimplemented` for what is not there; else the method's own.
    pub async fn answer(self: Rc<Self>, call: Call) -> Result<Vec<u8>> {
        match call.service.as_str() {
            TASK_V2 | TASK_V3 => self.answer_task(&call).await,
            SANDBOX => Box::pin(sandbox::answer(&self, &call)).await,
            other => Err(Error::new(Code::Unimplemented, format!("service {other}"))),
        }
    }

    async fn answer_task(self: &Rc<Self>, call: &Call) -> Result<Vec<u8>> {
        let (payload, deadline) = (call.payload.as_slice(), call.deadline);
        match call.method.as_str() {
            "State" => self.state(&parse(payload)?),
            "Create" => Box::pin(self.create(parse(payload)?, deadline)).await,
            "Start" => {
                let request: api::StartRequest = parse(payload)?;
                let container = self.container_of(&request.id, &request.exec_id)?;
                let pid = Box::pin(container.start(&request.exec_id, deadline)).await?;
                answer(&api::StartResponse { pid, ..Default::default() })
            }
            "Delete" => Box::pin(self.delete(parse(payload)?, deadline)).await,
            "Pids" => {
                let request: api::PidsRequest = parse(payload)?;
                let processes = self.container(&request.id)?.processes();
                answer(&api::PidsResponse { processes, ..Default::default() })
            }
            "Pause" => {
                let request: api::PauseRequest = parse(payload)?;
                Box::pin(self.container(&request.id)?.pause(deadline)).await?;
                empty()
            }
            "Resume" => {
                let request: api::ResumeRequest = parse(payload)?;
                Box::pin(self.container(&request.id)?.resume(deadline)).await?;
                empty()
            }
            "Checkpoint" => Err(Error::new(Code::Unimplemented, "checkpoint is not supported")),
            "Kill" => {
                let request: api::KillRequest = parse(payload)?;
                let container = self.container_of(&request.id, &request.exec_id)?;
                let signal = i32::try_from(request.signal);
                let signal = signal.map_err(|_| Error::invalid(format!("signal {}", request.signal)))?;
                Box::pin(container.kill(&request.exec_id, signal, request.all, deadline)).await?;
                empty()
            }
            "Exec" => {
                let request: api::ExecProcessRequest = parse(payload)?;
                check_id("exec id", &request.exec_id)?;
                self.container(&request.id)?.add_exec(request)?;
                empty()
            }
            "Update" => {
                let request: api::UpdateTaskRequest = parse(payload)?;
                let resources = &request.resources.value;
                Box::pin(self.container(&request.id)?.update(resources, deadline)).await?;
                empty()
            }
            "Wait" => self.wait(&parse(payload)?).await,
            _ => self.answer_quick_task(call),
        }
    }

    /// The methods that never wait.
    fn answer_quick_task(&self, call: &Call) -> Result<Vec<u8>> {
        let payload = call.payload.as_slice();
        match call.method.as_str() {
            "ResizePty" => {
                let request: api::ResizePtyRequest = parse(payload)?;
                let process = self.container_of(&request.id, &request.exec_id)?.process(&request.exec_id)?;
                let size = |value: u32| {
                    u16::try_from(value).map_err(|_| Error::invalid(format!("terminal size {value}")))
                };
                process.resize(size(request.width)?, size(request.height)?)?;
                empty()
            }
            "CloseIO" => {
                let request: api::CloseIORequest = parse(payload)?;
                let process = self.container_of(&request.id, &request.exec_id)?.process(&request.exec_id)?;
                if request.stdin {
                    process.close_stdin();
                }
                empty()
            }
            "Stats" => {
                let request: api::StatsRequest = parse(payload)?;
                let stats = MessageField::some(self.container(&request.id)?.metrics()?);
                answer(&api::StatsResponse { stats, ..Default::default() })
            }
            "Connect" => {
                let request: api::ConnectRequest = parse(payload)?;
                let task_pid = self.container(&request.id).map_or(0, |container| container.task_pid());
                let version = env!("CARGO_PKG_VERSION").to_owned();
                let shim_pid = std::process::id();
                answer(&api::ConnectResponse { shim_pid, task_pid, version, ..Default::default() })
            }
            "Shutdown" => {
                let request: api::ShutdownRequest = parse(payload)?;
                if self.is_empty() || request.now {
                    self.quit.notify_one();
                }
                empty()
            }
            other => Err(Error::new(Code::Unimplemented, format!("method {other}"))),
        }
    }

    /// Makes a container and keeps it under its id.
    ///
    /// # Errors
    /// `AlreadyExists`; what making it failed with.
    pub async fn add(
        self: &Rc<Self>,
        recipe: Recipe<'_>,
        deadline: Option<std::time::Instant>,
    ) -> Result<Rc<Container>> {
        let id = recipe.request.id.as_str();
        check_id("container id", id)?;
        {
            let mut containers = self.containers.borrow_mut();
            if containers.contains_key(id) {
                return Err(Error::new(Code::AlreadyExists, format!("container {id} exists")));
            }
            containers.insert(id.to_owned(), None);
        }
        let _place = Place { shim: self, id };
        let container = Container::create(self, recipe, deadline).await?;
        self.containers.borrow_mut().insert(id.to_owned(), Some(Rc::clone(&container)));
        Ok(container)
    }

    /// Lets go of a container that has been deleted.
    pub fn forget(&self, id: &str) {
        self.containers.borrow_mut().remove(id);
        self.connections.ring();
    }

    /// Every container that has been made.
    pub fn all(&self) -> Vec<Rc<Container>> {
        self.containers.borrow().values().flatten().cloned().collect()
    }

    async fn create(
        self: &Rc<Self>,
        request: api::CreateTaskRequest,
        deadline: Option<std::time::Instant>,
    ) -> Result<Vec<u8>> {
        let options = Options::from_any(request.options.as_ref())?;
        let container = self.add(Recipe { request: &request, options, is_task: true }, deadline).await?;
        let pid = container.init.pid();
        let io = event::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let created = event::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(io),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        };
        self.events.publish("/tasks/create", "TaskCreate", &created);
        answer(&api::CreateTaskResponse { pid, ..Default::default() })
    }

    async fn delete(
        &self,
        request: api::DeleteRequest,
        deadline: Option<std::time::Instant>,
    ) -> Result<Vec<u8>> {
        let container = self.container_of(&request.id, &request.exec_id)?;
        let (pid, exit) = if request.exec_id.is_empty() {
            let deleted = container.delete(deadline).await?;
            self.forget(&request.id);
            deleted
        } else {
            container.delete_exec(&request.exec_id).await?
        };
        answer(&api::DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.timestamp()),
            ..Default::default()
        })
    }

    async fn wait(&self, request: &api::WaitRequest) -> Result<Vec<u8>> {
        let process = self.container_of(&request.id, &request.exec_id)?.process(&request.exec_id)?;
        let exit = process.exit().await;
        answer(&api::WaitResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(exit.timestamp()),
            ..Default::default()
        })
    }

    fn state(&self, request: &api::StateRequest) -> Result<Vec<u8>> {
        let container = self.container_of(&request.id, &request.exec_id)?;
        let process = container.process(&request.exec_id)?;
        let state = process.state();
        let (exit_status, exited_at) = match state {
            State::Ended(exit) => (exit.status, MessageField::some(exit.timestamp())),
            _ => (0, MessageField::none()),
        };
        answer(&api::StateResponse {
            id: container.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid(),
            status: state.status().into(),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status,
            exited_at,
            exec_id: process.exec_id.clone(),
            ..Default::default()
        })
    }
}
