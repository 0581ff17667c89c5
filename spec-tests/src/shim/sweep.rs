//! The kill sweep of the shim: it is killed at every N-th system call that it makes while it creates, starts and deletes a
//! container, runs a process in it and sees it end; and so, in turn, is the runtime below it. After the shim's death containerd's
//! `delete` brings the host back and tells the true exit code where it had been told or recorded; after a call's death the same
//! request, or the deletion, goes well. The same with calls of the shim that fail, and with a `delete` that is killed itself.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use skeg_proto::task as api;

use crate::failure::{During, Failure, Outcome, exit_status};
use crate::harness::{Ctx, reap_dead};
use crate::host::{Host, View};
use crate::shim::client::{Answer, Client, Refusal};
use crate::shim::{KILLED, Place, told};
use crate::tracer::{self, Fault, Focus, Whose};
use crate::{cgroups, ensure, leftovers};

const USAGE: &str =
    "usage: spec-tests shim-sweep --shim PATH --runtime PATH [--every N] [--step NAME] [--from N] [--to N]";
/// What the request is about, in the order of a container's life; `end` is from its start to the record of its exit.
const STEPS: [&str; 5] = ["create", "start", "exec", "end", "delete"];
/// What the container of `end` and `delete` ends with.
const STATUS: u32 = 7;
/// containerd's status for an end that nobody has seen.
const UNSEEN: u32 = 255;
/// An errno that nearly every call may have.
const ERRNO: Errno = Errno::ENOMEM;

struct Options {
    every: usize,
    from: usize,
    to: usize,
    steps: Vec<&'static str>,
}

/// `shim-sweep`; the exit status.
pub fn run(arguments: &[String]) -> i32 {
    exit_status(sweep(arguments))
}

fn sweep(arguments: &[String]) -> Outcome<bool> {
    let asked = told(arguments, USAGE)?;
    let mut options = Options { every: 1, from: 1, to: usize::MAX, steps: STEPS.to_vec() };
    options.steps.push("cleanup");
    for (name, value) in asked.more {
        match name {
            "--every" => options.every = value.parse::<usize>()?.max(1),
            "--from" => options.from = value.parse::<usize>()?.max(1),
            "--to" => options.to = value.parse()?,
            "--step" => options.steps.retain(|step| *step == value),
            _ => return Err(Failure::new(USAGE)),
        }
    }
    ensure!(!options.steps.is_empty(), "{USAGE}");
    let (ctx, place) = Place::new(&asked.shim, &asked.runtime, &format!("shimsweep-{}", std::process::id()))?;
    let mut sweep = Sweep { ctx, place, calls: 0, faults: 0, failures: 0, number: 0 };
    let outcome = options.steps.iter().try_for_each(|step| sweep.step(step, &options));
    sweep.place.clean();
    outcome?;
    println!(
        "{} calls swept: {} faults, {} failed, nothing left by the others",
        sweep.calls, sweep.faults, sweep.failures
    );
    Ok(sweep.failures == 0)
}

struct Sweep {
    ctx: Ctx,
    place: Place,
    calls: usize,
    faults: usize,
    failures: usize,
    number: usize,
}

/// What the client has been told.
#[derive(Debug, Default)]
struct Told {
    /// What kept the steps before from going well.
    early: Option<String>,
    /// The answer to the request that is swept.
    answer: Option<Answer<()>>,
    /// The status that the end of the container was told with.
    status: Option<u32>,
    /// Whether the shim outlived it all.
    lives: bool,
    /// What went wrong afterwards, where the shim still lived.
    later: Option<String>,
}

impl Sweep {
    fn step(&mut self, step: &'static str, options: &Options) -> Outcome {
        let kinds = [
            (Whose::Command, Fault::Kill),
            (Whose::Children, Fault::Kill),
            (Whose::Command, Fault::Fail(ERRNO)),
        ];
        for (whose, fault) in kinds {
            // The clean-up is a program of its own, all of whose processes count alike.
            if step == "cleanup" && whose == Whose::Children {
                continue;
            }
            let failures = self.failures;
            let (all, outcome) = self.once(step, whose, fault, 0);
            outcome.during(format!("{step} without a fault"))?;
            let mut at = options.from;
            while at <= all.min(options.to) {
                let (_, outcome) = self.once(step, whose, fault, at);
                self.faults += 1;
                if let Err(Failure::Failed(text) | Failure::Skipped(text)) = outcome {
                    self.failures += 1;
                    println!("FAIL {step}, {whose:?}, {fault:?} at call {at}: {text}");
                }
                at += options.every;
            }
            self.calls += all;
            println!("{step}, {whose:?}, {fault:?}: {all} calls, {} failures", self.failures - failures);
        }
        Ok(())
    }

    /// One life of a shim with one fault, or none for 0: the calls that were counted, and whether all was well.
    /// What a container and its shim may change.
    fn view(&self) -> View {
        let Place { dir, .. } = &self.place;
        View {
            cgroups: cgroups::containing,
            tag: self.ctx.tag.clone(),
            dir: dir.clone(),
            places: vec![self.place.states(), dir.join("s"), dir.clone()],
        }
    }

    fn once(&mut self, step: &'static str, whose: Whose, fault: Fault, at: usize) -> (usize, Outcome) {
        self.number += 1;
        let id = format!("{}-{}", self.place.tag, self.number);
        let mut calls = 0;
        let outcome = self.life(&id, step, whose, fault, at, &mut calls);
        // Whatever is left is nobody else's trouble.
        leftovers::clean_named(&self.place.bundle(&id), &id);
        self.place.remove_bundle(&id);
        let _gone = fs::remove_dir_all(self.place.states().join(&id));
        (calls, outcome)
    }

    fn life(
        &self,
        id: &str,
        step: &'static str,
        whose: Whose,
        fault: Fault,
        at: usize,
        calls: &mut usize,
    ) -> Outcome {
        let before = Host::look(self.view())?;
        let words: &[&str] = if ["end", "delete"].contains(&step) { &["exit", "7"] } else { &["sleep"] };
        self.place.make_bundle(id, id, words)?;
        let (command, listener) = self.place.serve(id, Path::new(""))?;
        let armed = Arc::new(AtomicBool::new(false));
        let focus = Focus { armed: Arc::clone(&armed), whose };
        let place = &self.place;
        let (traced, told) = std::thread::scope(|scope| {
            let driver = scope.spawn(|| drive(place, id, step, &armed, listener));
            // The clean-up is swept once the shim is dead: at the end of `drive`.
            let at_this = if step == "cleanup" { 0 } else { at };
            let traced = tracer::run_focused(command, at_this, fault, focus);
            (traced, driver.join())
        });
        let told = told.map_err(|_| Failure::new("the client has panicked"))?;
        let traced = traced.map_err(|failure| failure.during(format!("{told:?}")))?;
        *calls = traced.calls;
        let met = traced.met.clone().unwrap_or_default();
        ensure!(told.early.is_none(), "before the fault: {told:?}");
        let judged = if step == "cleanup" {
            self.sweep_cleanup(id, fault, at, calls)
        } else if told.lives {
            ensure!(told.later.is_none(), "{met}: {told:?}");
            ensure!(at > 0 || matches!(told.answer, Some(Ok(()))), "{told:?}");
            Ok(())
        } else {
            self.after_death(id, step, &told)
        };
        judged.during(&met)?;
        self.place.remove_bundle(id);
        let _gone = fs::remove_file(self.place.socket(id));
        before.is_back().during(format!("{met}, {told:?}"))
    }

    /// The shim is dead: containerd calls `delete`, and is told how the container ended.
    fn after_death(&self, id: &str, step: &str, told: &Told) -> Outcome {
        reap_dead();
        let status = self.place.clean_up(&self.ctx, id)?;
        let may_be: &[u32] = match (step, told.status) {
            // What has been told or is on record is not taken back.
            (_, Some(_)) | ("delete", _) => &[STATUS],
            ("end", None) => &[STATUS, KILLED, UNSEEN],
            _ => &[KILLED],
        };
        ensure!(may_be.contains(&status), "delete tells status {status}, not {may_be:?}: {told:?}");
        ensure!(!self.place.socket(id).exists(), "the socket of the dead shim is still there");
        Ok(())
    }

    /// A `delete` that meets a fault, and another one.
    fn sweep_cleanup(&self, id: &str, fault: Fault, at: usize, calls: &mut usize) -> Outcome {
        reap_dead();
        let mut command = self.place.cleanup_command(id);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let traced = tracer::run(command, at, fault)?;
        *calls = traced.calls;
        let met = traced.met.unwrap_or_default();
        reap_dead();
        let status = self.place.clean_up(&self.ctx, id).during(&met)?;
        // One that could not look at the process, or not keep what it has seen, says so by its own status.
        let may_be: &[u32] = if matches!(fault, Fault::Kill) { &[KILLED] } else { &[KILLED, UNSEEN] };
        ensure!(may_be.contains(&status), "the second delete tells status {status} after {met}");
        Ok(())
    }
}

/// The client's half of a shim's life.
fn drive(place: &Place, id: &str, step: &str, armed: &AtomicBool, listener: UnixListener) -> Told {
    // The alarm of the tracer is not for this thread.
    let mut alarm = nix::sys::signal::SigSet::empty();
    alarm.add(nix::sys::signal::Signal::SIGALRM);
    let _blocked = alarm.thread_block();
    let mut told = Told::default();
    let mut driver = match Client::connect(&place.socket(id)) {
        Ok(client) => Driver { place, id, client },
        Err(refusal) => return Told { early: Some(format!("{refusal:?}")), ..told },
    };
    let approached = driver.pid().and_then(|_| {
        drop(listener);
        driver.approach(step, &mut told)
    });
    if let Err(refusal) = approached {
        told.early = Some(format!("{refusal:?}"));
    } else {
        armed.store(true, Ordering::SeqCst);
        let answer = driver.request(step, &mut told);
        armed.store(false, Ordering::SeqCst);
        // A connection may break because the shim is dead, or because a call of it on the connection failed.
        told.lives = match &answer {
            Err(Refusal::Broken(_)) => driver.reconnects(),
            _ => true,
        };
        let failed = answer.is_err();
        told.answer = Some(answer);
        if told.lives && step != "cleanup" {
            match driver.leave(step, failed, &mut told) {
                Ok(()) => {}
                // The fault has come late, and the shim is dead after all.
                Err(Refusal::Broken(text)) => {
                    told.lives = driver.reconnects();
                    told.later = told.lives.then_some(text);
                }
                Err(refusal) => told.later = Some(format!("{refusal:?}")),
            }
        }
    }
    if step == "cleanup" || told.early.is_some() || told.later.is_some() {
        driver.kill_shim();
    }
    told
}

struct Driver<'a> {
    place: &'a Place,
    id: &'a str,
    client: Client,
}

impl Driver<'_> {
    fn create(&mut self) -> Answer<()> {
        let request = self.place.create_request(self.id);
        let request = request.map_err(|failure| Refusal::Broken(format!("{failure:?}")))?;
        self.client.call::<api::CreateTaskResponse>("Create", &request).map(drop)
    }

    fn start(&mut self, exec_id: &str) -> Answer<()> {
        let request = api::StartRequest { id: self.id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.client.call::<api::StartResponse>("Start", &request).map(drop)
    }

    fn exec(&mut self, exec_id: &str) -> Answer<()> {
        let spec = self.place.process(&["exit", "3"]);
        let spec = spec.map_err(|failure| Refusal::Broken(format!("{failure:?}")))?;
        let request = api::ExecProcessRequest {
            id: self.id.into(),
            exec_id: exec_id.into(),
            spec,
            ..Default::default()
        };
        self.client.tell("Exec", &request)?;
        self.start(exec_id)?;
        self.wait(exec_id)?;
        self.delete(exec_id).map(drop)
    }

    fn wait(&mut self, exec_id: &str) -> Answer<u32> {
        let request = api::WaitRequest { id: self.id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.client.call::<api::WaitResponse>("Wait", &request).map(|ended| ended.exit_status)
    }

    fn delete(&mut self, exec_id: &str) -> Answer<u32> {
        let request =
            api::DeleteRequest { id: self.id.into(), exec_id: exec_id.into(), ..Default::default() };
        self.client.call::<api::DeleteResponse>("Delete", &request).map(|deleted| deleted.exit_status)
    }

    /// What comes before the step.
    fn approach(&mut self, step: &str, told: &mut Told) -> Answer<()> {
        if step == "create" {
            return Ok(());
        }
        self.create()?;
        if ["exec", "delete", "cleanup"].contains(&step) {
            self.start("")?;
        }
        if step == "delete" {
            told.status = Some(self.wait("")?);
        }
        Ok(())
    }

    fn request(&mut self, step: &str, told: &mut Told) -> Answer<()> {
        match step {
            "create" => self.create(),
            "start" => self.start(""),
            "exec" => self.exec("e1"),
            "end" => {
                self.start("")?;
                told.status = Some(self.wait("")?);
                Ok(())
            }
            "delete" => self.delete("").map(drop),
            _ => Ok(()),
        }
    }

    /// The shim lives: what was asked for works the second time, and everything can be taken away.
    fn leave(&mut self, step: &str, failed: bool, told: &mut Told) -> Answer<()> {
        match step {
            "create" if failed => self.create()?,
            "exec" if failed => self.exec("e2")?,
            _ => {}
        }
        let gone = step == "delete" && !failed;
        if !gone {
            let kill = api::KillRequest { id: self.id.into(), signal: 9, all: true, ..Default::default() };
            match self.client.tell("Kill", &kill) {
                Err(Refusal::Code(5, _)) | Ok(()) => {}
                other => other?,
            }
            let _status = self.wait("")?;
            match self.delete("") {
                // The one that failed had come far enough.
                Err(Refusal::Code(5, _)) if step == "delete" => {}
                Ok(status) if told.status.is_some_and(|told| told != status) => {
                    told.later = Some(format!("the deletion tells {status}"));
                }
                other => drop(other?),
            }
        }
        let shutdown = api::ShutdownRequest { id: self.id.into(), now: true, ..Default::default() };
        self.client.tell("Shutdown", &shutdown)
    }

    /// The shim's pid, which it tells itself.
    fn pid(&mut self) -> Answer<i32> {
        let request = api::ConnectRequest { id: self.id.into(), ..Default::default() };
        let connected = self.client.call::<api::ConnectResponse>("Connect", &request)?;
        Ok(i32::try_from(connected.shim_pid).unwrap_or(0))
    }

    fn reconnects(&mut self) -> bool {
        let again = Client::connect(&self.place.socket(self.id));
        again.is_ok_and(|client| {
            self.client = client;
            self.pid().is_ok()
        })
    }

    fn kill_shim(&mut self) {
        if let Some(pid) = self.pid().ok().filter(|pid| *pid > 0) {
            let _gone = crate::sys::send_signal(nix::unistd::Pid::from_raw(pid), libc::SIGKILL);
        }
    }
}
