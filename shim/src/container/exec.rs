//! Processes that are added to a container: `Exec`, and `Start` and `Delete` of one.

use std::rc::Rc;
use std::time::Instant;

use skeg_proto::events as event;
use skeg_proto::task::ExecProcessRequest;

use super::{Container, wrong_state};
use crate::error::{Code, Error, Result};
use crate::path;
use crate::process::{Process, State};
use crate::reap::Exit;
use crate::runtime::{anonymous_file, descriptor_path};
use crate::stdio::{self, Paths};

impl Container {
    /// Runs the exec in the container, and returns its pid.
    pub(super) async fn start_exec(
        self: &Rc<Self>,
        process: &Rc<Process>,
        deadline: Option<Instant>,
    ) -> Result<u32> {
        let _starting = process.starting.lock().await;
        if process.state() != State::Added {
            return Err(wrong_state("start", process.state()));
        }
        if self.init.state() == State::Paused {
            return Err(Error::new(Code::FailedPrecondition, "cannot exec in a paused container"));
        }
        let spec = anonymous_file("process.json", &process.spec.borrow())?;
        let prepared = stdio::open(&process.paths, &self.owner(false)).await?;
        let pid_file = format!("{}.exec.pid", process.exec_id);
        let pid_path = path::child(&self.bundle, &pid_file);
        let spec_path = descriptor_path(&spec);
        let mut command: Vec<&std::ffi::OsStr> = vec!["exec".as_ref(), "--process".as_ref()];
        command.extend([
            spec_path.as_ref(),
            "--detach".as_ref(),
            "--pid-file".as_ref(),
            pid_path.as_os_str(),
        ]);
        if let Some(socket) = prepared.console_socket() {
            command.extend(["--console-socket".as_ref(), socket.as_os_str()]);
        }
        let command: Vec<_> = command.into_iter().map(std::ffi::OsStr::to_owned).collect();
        let newborn = self.give_birth(command, prepared, &pid_file, deadline).await;
        let _ = path::remove_in(&self.bundle_dir, &pid_file);
        let newborn = match newborn {
            Ok(newborn) => newborn,
            Err(error) => {
                // containerd deletes it now; until then it has ended without ever having run.
                process.end(Exit::now(255));
                return Err(error.context("OCI runtime exec failed"));
            }
        };
        process.spec.take();
        process.made(newborn.pid, Rc::clone(&newborn.pidfd), newborn.streams, State::Running);
        let pid = process.pid();
        let started = event::TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: process.exec_id.clone(),
            pid,
            ..Default::default()
        };
        self.publish("/tasks/exec-started", "TaskExecStarted", &started);
        self.watch(process, newborn.pid, newborn.pidfd);
        Ok(pid)
    }

    /// Adds an exec.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a specification that is no JSON object.
    pub fn add_exec(&self, request: ExecProcessRequest) -> Result<()> {
        if let State::Ended(_) = self.init.state() {
            return Err(Error::new(Code::FailedPrecondition, "cannot exec in a stopped container"));
        }
        if self.execs.borrow().contains_key(&request.exec_id) {
            return Err(Error::new(Code::AlreadyExists, format!("process {} exists", request.exec_id)));
        }
        let spec = request.spec.unwrap_or_default().value;
        let spec: serde_json::Result<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_slice(&spec);
        let mut spec = spec.map_err(|error| Error::invalid(format!("process specification: {error}")))?;
        spec.insert("terminal".to_owned(), request.terminal.into());
        let spec = serde_json::to_vec(&spec).map_err(|error| Error::other(format!("encode: {error}")))?;
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let process = Rc::new(Process::new(&request.exec_id, paths, spec));
        let added = event::TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: request.exec_id.clone(),
            ..Default::default()
        };
        self.execs.borrow_mut().insert(request.exec_id, process);
        self.publish("/tasks/exec-added", "TaskExecAdded", &added);
        Ok(())
    }

    /// Deletes an exec that does not run; returns its pid and end.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(u32, Exit)> {
        let process = self.process(exec_id)?;
        let exit = match process.state() {
            State::Ended(exit) => exit,
            State::Added => Exit { status: 0, seconds: 0, nanos: 0 },
            state => return Err(wrong_state("delete", state)),
        };
        process.deliver().await;
        // Another caller may have deleted it meanwhile, and added one of the same id.
        let mut execs = self.execs.borrow_mut();
        if execs.get(exec_id).is_some_and(|found| Rc::ptr_eq(found, &process)) {
            execs.remove(exec_id);
        }
        Ok((process.pid(), exit))
    }
}
