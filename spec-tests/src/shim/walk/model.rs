//! One client of the walk: what it asks next, and what it must be told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use skeg_proto::task as api;
use skeg_proto::types::Status;

use crate::failure::Outcome;
use crate::shim::client::{Answer, Client, Refusal};
use crate::shim::{KILLED, Place, any};
use crate::{ensure, ensure_eq};

const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const FAILED_PRECONDITION: i32 = 9;

/// Where the container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    None,
    Created,
    Running,
    Paused,
    Stopped(u32),
}

/// Where an exec stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exec {
    /// Added, with the status that it ends with by itself, if it does.
    Added(Option<u32>),
    Running,
    Ended(u32),
}

/// A client, its container as it should be, and what it has asked.
pub struct Walker<'p> {
    place: &'p Place,
    socket: PathBuf,
    client: Option<Client>,
    id: String,
    number: usize,
    clients: usize,
    random: u64,
    life: Life,
    pid: u32,
    execs: BTreeMap<String, Exec>,
    next_exec: usize,
    /// Calls by their method.
    pub calls: BTreeMap<&'static str, usize>,
    /// How many were refused, as they should be.
    pub refusals: usize,
    /// Processes that have ended: container, process, status.
    pub ends: Vec<(String, String, u32)>,
    /// The last calls, for messages.
    last: Vec<String>,
}

impl<'p> Walker<'p> {
    /// A client before its first call.
    pub fn new(
        place: &'p Place,
        socket: PathBuf,
        id: String,
        number: usize,
        clients: usize,
        seed: u64,
    ) -> Self {
        let random = (seed << 16 | number as u64) ^ 0x9e37_79b9_7f4a_7c15;
        Self {
            place,
            socket,
            client: None,
            id,
            number,
            clients,
            random,
            life: Life::None,
            pid: 0,
            execs: BTreeMap::new(),
            next_exec: 0,
            calls: BTreeMap::new(),
            refusals: 0,
            ends: Vec::new(),
            last: Vec::new(),
        }
    }

    /// What it has done last, and what it believes.
    pub fn story(&self) -> String {
        format!("client {} ({:?}, {:?}) after {}", self.number, self.life, self.execs, self.last.join(", "))
    }

    /// Asks for anything until `end`, then takes its container away.
    pub fn walk(&mut self, end: Instant) -> Outcome {
        while Instant::now() < end {
            self.step()?;
        }
        self.execs.retain(|_, exec| *exec == Exec::Running);
        if !matches!(self.life, Life::None | Life::Created | Life::Stopped(_)) {
            self.end_init(true)?;
        }
        self.delete()?;
        self.client = None;
        Ok(())
    }

    /// xorshift64.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 11).unwrap_or(0) % limit
    }

    fn tell(&mut self, method: &'static str, request: &impl skeg_proto::Message) -> Answer<()> {
        self.call::<skeg_proto::types::Empty>(method, request).map(drop)
    }

    fn call<R: skeg_proto::Message>(
        &mut self,
        method: &'static str,
        request: &impl skeg_proto::Message,
    ) -> Answer<R> {
        *self.calls.entry(method).or_default() += 1;
        if self.last.len() > 12 {
            self.last.remove(0);
        }
        self.last.push(method.to_owned());
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(&self.socket)?),
        };
        client.call(method, request)
    }

    /// Compares an answer with the code that it should have, 0 for success.
    fn expect<T>(&mut self, what: &str, answer: Answer<T>, code: i32) -> Outcome<Option<T>> {
        let (given, text, value) = match answer {
            Ok(value) => (0, String::new(), Some(value)),
            Err(Refusal::Code(code, text)) => (code, text, None),
            Err(broken @ Refusal::Broken(_)) => return Err(broken.into()),
        };
        ensure!(given == code, "{what}: code {given} ({text}), expected {code}");
        self.refusals += usize::from(code != 0);
        Ok(value)
    }

    /// The code for what needs a container that is there.
    fn if_there(&self) -> i32 {
        if self.life == Life::None { NOT_FOUND } else { 0 }
    }

    /// The code for what needs it in one of these states.
    fn if_in(&self, states: &[Life]) -> i32 {
        match self.life {
            Life::None => NOT_FOUND,
            life if states.contains(&life) => 0,
            _ => FAILED_PRECONDITION,
        }
    }

    fn step(&mut self) -> Outcome {
        // As often as not the next step of a life, so that most lives are full ones.
        match (self.life, self.below(2)) {
            (Life::None, 0) => return self.create(),
            (Life::Created, 0) => return self.start(),
            (Life::Stopped(_), 0) => return self.delete(),
            _ => {}
        }
        match self.below(20) {
            0 | 1 => self.create(),
            2 | 3 => self.start(),
            4 => self.kill(),
            5 => self.switch("Pause", Life::Running, Life::Paused),
            6 | 7 => self.switch("Resume", Life::Paused, Life::Running),
            8 => self.update(),
            9 => self.ask(),
            10 => self.add_exec(),
            11..=13 => self.start_exec(),
            14 => self.kill_exec(),
            15 => self.delete_exec(),
            16 => self.touch_streams(),
            17 if self.below(4) == 0 => self.delete(),
            18 => self.look_at_another(),
            19 if self.below(4) == 0 => {
                self.client = None;
                Ok(())
            }
            _ => self.state(),
        }
    }

    fn create(&mut self) -> Outcome {
        let code = if self.life == Life::None { 0 } else { ALREADY_EXISTS };
        if code == 0 {
            self.place.make_bundle(&self.id, "shim", &["sleep"])?;
        }
        let request = self.place.create_request(&self.id)?;
        let answer = self.call::<api::CreateTaskResponse>("Create", &request);
        if let Some(created) = self.expect("create", answer, code)? {
            (self.life, self.pid) = (Life::Created, created.pid);
            ensure!(created.pid > 0, "a container without a pid");
        }
        Ok(())
    }

    fn start(&mut self) -> Outcome {
        let request = api::StartRequest { id: self.id.clone(), ..Default::default() };
        let code = self.if_in(&[Life::Created]);
        let answer = self.call::<api::StartResponse>("Start", &request);
        if let Some(started) = self.expect("start", answer, code)? {
            ensure_eq!(started.pid, self.pid, "the pid that start tells");
            self.life = Life::Running;
        }
        Ok(())
    }

    fn kill_request(&self, exec_id: &str, signal: u32, all: bool) -> api::KillRequest {
        api::KillRequest { id: self.id.clone(), exec_id: exec_id.into(), signal, all, ..Default::default() }
    }

    fn kill(&mut self) -> Outcome {
        match (self.life, self.below(4)) {
            (Life::None | Life::Stopped(_), _) => {
                let request = self.kill_request("", 9, false);
                let answer = self.tell("Kill", &request);
                self.expect("kill", answer, NOT_FOUND).map(drop)
            }
            // A signal that it lives through.
            (Life::Running, 0) => {
                let request = self.kill_request("", 0, false);
                let answer = self.tell("Kill", &request);
                self.expect("kill 0", answer, 0).map(drop)
            }
            (_, 1) => self.end_init(true),
            _ => self.end_init(false),
        }
    }

    /// Ends the init process, and with it all execs, and waits for each.
    fn end_init(&mut self, all: bool) -> Outcome {
        let request = self.kill_request("", 9, all);
        let answer = self.tell("Kill", &request);
        self.expect("kill", answer, 0)?;
        self.wait("", KILLED)?;
        self.life = Life::Stopped(KILLED);
        self.ends.push((self.id.clone(), self.id.clone(), KILLED));
        let running: Vec<String> =
            self.execs.iter().filter(|(_, exec)| **exec == Exec::Running).map(|(id, _)| id.clone()).collect();
        for exec in running {
            self.wait(&exec, KILLED)?;
            self.exec_ended(&exec, KILLED);
        }
        Ok(())
    }

    fn exec_ended(&mut self, exec: &str, status: u32) {
        self.ends.push((self.id.clone(), exec.to_owned(), status));
        self.execs.insert(exec.to_owned(), Exec::Ended(status));
    }

    fn wait(&mut self, exec_id: &str, status: u32) -> Outcome {
        let request = api::WaitRequest { id: self.id.clone(), exec_id: exec_id.into(), ..Default::default() };
        let answer = self.call::<api::WaitResponse>("Wait", &request);
        if let Some(ended) = self.expect("wait", answer, 0)? {
            ensure_eq!(ended.exit_status, status, "the status that wait tells of {exec_id:?}");
        }
        Ok(())
    }

    fn switch(&mut self, method: &'static str, from: Life, to: Life) -> Outcome {
        let code = self.if_in(&[from]);
        let answer = if method == "Pause" {
            self.tell(method, &api::PauseRequest { id: self.id.clone(), ..Default::default() })
        } else {
            self.tell(method, &api::ResumeRequest { id: self.id.clone(), ..Default::default() })
        };
        self.expect(method, answer, code)?;
        if code == 0 {
            self.life = to;
        }
        Ok(())
    }

    fn update(&mut self) -> Outcome {
        let code = self.if_in(&[Life::Created, Life::Running, Life::Paused]);
        let limit = 50 + self.below(50);
        let resources = serde_json::to_vec(&json!({"pids": {"limit": limit}}))?;
        let resources = any("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", resources);
        let request = api::UpdateTaskRequest { id: self.id.clone(), resources, ..Default::default() };
        let answer = self.tell("Update", &request);
        self.expect("update", answer, code).map(drop)
    }

    /// What changes nothing.
    fn ask(&mut self) -> Outcome {
        let code = self.if_there();
        if self.below(2) == 0 {
            let request = api::StatsRequest { id: self.id.clone(), ..Default::default() };
            let answer = self.call::<api::StatsResponse>("Stats", &request);
            return self.expect("stats", answer, code).map(drop);
        }
        let request = api::PidsRequest { id: self.id.clone(), ..Default::default() };
        let answer = self.call::<api::PidsResponse>("Pids", &request);
        if let Some(answer) = self.expect("pids", answer, code)?
            && !matches!(self.life, Life::Stopped(_))
        {
            let running = 1 + self.execs.values().filter(|exec| **exec == Exec::Running).count();
            ensure!(
                answer.processes.iter().any(|process| process.pid == self.pid),
                "pids without the init process"
            );
            ensure_eq!(answer.processes.len(), running, "processes");
        }
        Ok(())
    }

    fn state(&mut self) -> Outcome {
        let request = api::StateRequest { id: self.id.clone(), ..Default::default() };
        let code = self.if_there();
        let answer = self.call::<api::StateResponse>("State", &request);
        if let Some(state) = self.expect("state", answer, code)? {
            let (status, exit) = match self.life {
                Life::Running => (Status::RUNNING, 0),
                Life::Paused => (Status::PAUSED, 0),
                Life::Stopped(exit) => (Status::STOPPED, exit),
                Life::None | Life::Created => (Status::CREATED, 0),
            };
            ensure_eq!((state.status.enum_value(), state.exit_status), (Ok(status), exit), "state");
            ensure_eq!((state.pid, state.id), (self.pid, self.id.clone()), "who the state is of");
        }
        let Some((exec_id, exec)) = self.any_exec() else { return Ok(()) };
        let request = api::StateRequest { id: self.id.clone(), exec_id, ..Default::default() };
        let answer = self.call::<api::StateResponse>("State", &request);
        if let Some(state) = self.expect("state of an exec", answer, 0)? {
            let wanted = match exec {
                Exec::Added(_) => (Status::CREATED, 0),
                Exec::Running => (Status::RUNNING, 0),
                Exec::Ended(exit) => (Status::STOPPED, exit),
            };
            ensure_eq!(
                (state.status.enum_value(), state.exit_status),
                (Ok(wanted.0), wanted.1),
                "state of an exec"
            );
        }
        Ok(())
    }

    fn any_exec(&mut self) -> Option<(String, Exec)> {
        let count = self.execs.len();
        let at = if count == 0 { 0 } else { self.below(count) };
        self.execs.iter().nth(at).map(|(id, exec)| (id.clone(), *exec))
    }

    fn add_exec(&mut self) -> Outcome {
        let known = self.any_exec().filter(|_| self.random.is_multiple_of(8));
        let code = match self.life {
            Life::None => NOT_FOUND,
            Life::Stopped(_) => FAILED_PRECONDITION,
            _ if known.is_some() => ALREADY_EXISTS,
            _ => 0,
        };
        self.next_exec += 1;
        let exec_id = known.map_or_else(|| format!("e{}", self.next_exec), |(id, _)| id);
        let status = [None, Some(0), Some(3)][self.below(3)];
        let status_text = status.unwrap_or(0).to_string();
        let words = if status.is_some() { vec!["exit", &status_text] } else { vec!["sleep"] };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.clone(),
            terminal: self.below(3) == 0,
            spec: self.place.process(&words)?,
            ..Default::default()
        };
        let answer = self.tell("Exec", &request);
        self.expect("exec", answer, code)?;
        if code == 0 {
            self.execs.insert(exec_id, Exec::Added(status));
        }
        Ok(())
    }

    fn start_exec(&mut self) -> Outcome {
        let Some((exec_id, exec)) = self.any_exec() else { return self.add_exec() };
        // Of what a runtime does with an exec in a container that does not run, the task API says nothing.
        let code = match (exec, self.life) {
            (Exec::Running | Exec::Ended(_), _) | (_, Life::Paused) => FAILED_PRECONDITION,
            (_, Life::Running) => 0,
            _ => return self.state(),
        };
        let request =
            api::StartRequest { id: self.id.clone(), exec_id: exec_id.clone(), ..Default::default() };
        let answer = self.call::<api::StartResponse>("Start", &request);
        self.expect("start of an exec", answer, code)?;
        match exec {
            Exec::Added(_) if code != 0 => {}
            Exec::Added(Some(status)) => {
                self.wait(&exec_id, status)?;
                self.exec_ended(&exec_id, status);
            }
            Exec::Added(None) => {
                self.execs.insert(exec_id, Exec::Running);
            }
            _ => {}
        }
        Ok(())
    }

    fn kill_exec(&mut self) -> Outcome {
        let Some((exec_id, exec)) = self.any_exec() else { return self.kill() };
        // What is frozen ends only when it thaws.
        if self.life == Life::Paused {
            return self.switch("Resume", Life::Paused, Life::Running);
        }
        let code = match exec {
            Exec::Added(_) => FAILED_PRECONDITION,
            Exec::Running => 0,
            Exec::Ended(_) => NOT_FOUND,
        };
        let request = self.kill_request(&exec_id, 9, false);
        let answer = self.tell("Kill", &request);
        self.expect("kill of an exec", answer, code)?;
        if code == 0 {
            self.wait(&exec_id, KILLED)?;
            self.exec_ended(&exec_id, KILLED);
        }
        Ok(())
    }

    fn delete_exec(&mut self) -> Outcome {
        let Some((exec_id, exec)) = self.any_exec() else { return self.state() };
        let code = if exec == Exec::Running { FAILED_PRECONDITION } else { 0 };
        let request =
            api::DeleteRequest { id: self.id.clone(), exec_id: exec_id.clone(), ..Default::default() };
        let answer = self.call::<api::DeleteResponse>("Delete", &request);
        if let Some(deleted) = self.expect("delete of an exec", answer, code)? {
            let status = if let Exec::Ended(status) = exec { status } else { 0 };
            ensure_eq!(deleted.exit_status, status, "the status that the deletion of an exec tells");
            self.execs.remove(&exec_id);
        }
        Ok(())
    }

    fn touch_streams(&mut self) -> Outcome {
        let exec_id =
            self.any_exec().map(|(id, _)| id).filter(|_| self.random.is_multiple_of(2)).unwrap_or_default();
        let code = self.if_there();
        let (id, width, height) = (self.id.clone(), 80 + u32::try_from(self.number % 100)?, 25);
        let answer = if self.below(2) == 0 {
            let request = api::ResizePtyRequest { id, exec_id, width, height, ..Default::default() };
            self.tell("ResizePty", &request)
        } else {
            self.tell("CloseIO", &api::CloseIORequest { id, exec_id, stdin: true, ..Default::default() })
        };
        self.expect("resize or close", answer, code).map(drop)
    }

    fn delete(&mut self) -> Outcome {
        let code = self.if_in(&[Life::Created, Life::Stopped(KILLED)]);
        let request = api::DeleteRequest { id: self.id.clone(), ..Default::default() };
        let answer = self.call::<api::DeleteResponse>("Delete", &request);
        if let Some(deleted) = self.expect("delete", answer, code)? {
            let status = match self.life {
                Life::Stopped(status) => status,
                _ => {
                    self.ends.push((self.id.clone(), self.id.clone(), KILLED));
                    KILLED
                }
            };
            ensure_eq!((deleted.exit_status, deleted.pid), (status, self.pid), "what the deletion tells");
            self.place.remove_bundle(&self.id);
            ensure!(!self.place.bundle(&self.id).exists(), "something is mounted in the bundle");
            self.life = Life::None;
            self.execs.clear();
        }
        Ok(())
    }

    /// Somebody else's container may be there or not.
    fn look_at_another(&mut self) -> Outcome {
        let other = format!("{}-{}", self.place.tag, self.below(self.clients));
        let answer = match self.below(3) {
            0 => self
                .call::<api::StateResponse>("State", &api::StateRequest { id: other, ..Default::default() })
                .map(drop),
            1 => self
                .call::<api::PidsResponse>("Pids", &api::PidsRequest { id: other, ..Default::default() })
                .map(drop),
            _ => self
                .call::<api::ConnectResponse>(
                    "Connect",
                    &api::ConnectRequest { id: other, ..Default::default() },
                )
                .map(drop),
        };
        match answer {
            Ok(()) => Ok(()),
            Err(Refusal::Code(NOT_FOUND, _)) => {
                self.refusals += 1;
                Ok(())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}
