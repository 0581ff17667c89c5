//! The kill sweep: each of the commands that change something is killed at every N-th system call that it makes, from the
//! first to the last, in whichever of its processes; after each, one `delete --force` (or the same command again) brings the
//! host back to where it was, and a container beside it has not noticed. The same with a call that fails, with each errno that
//! the kernel may return: one error line, a status that is not 0, and nothing left; or the command has done all of its work, as a
//! look from inside shows. Where only every N-th call is met, the errnos take turns.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::failure::{During, Failure, Outcome, exit_status};
use crate::harness::{Bundle, Ctx, eventually, reap_dead};
use crate::host::{Bystander, GRACE, Host, View};
use crate::tracer::{self, Fault, Traced};
use crate::{cgroups, ensure, ensure_eq, leftovers, probe, runner, sys};

const USAGE: &str = "usage: spec-tests sweep --runtime PATH [--every N] [--command NAME] [--fault kill|errno|ERRNO] [--from N] [--to N]";
/// How long a call that no fault meets may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// What calls are let fail with, each where the kernel may return it (the tracer knows). The first is one that nearly every call
/// may have.
const ERRNOS: [Errno; 8] = [
    Errno::ENOMEM,
    Errno::EPERM,
    Errno::EAGAIN,
    Errno::EINTR,
    Errno::ENOSYS,
    Errno::EIO,
    Errno::ENOSPC,
    Errno::EMFILE,
];

/// The commands, in the order of a container's life.
const COMMANDS: [&str; 6] = ["create", "start", "exec", "update", "run", "delete"];

/// `sweep`; the exit status.
pub fn run(arguments: &[String]) -> i32 {
    exit_status(parse(arguments).and_then(|options| sweep(&options)))
}

struct Options {
    runtime: PathBuf,
    every: usize,
    /// The first and the last call.
    from: usize,
    to: usize,
    commands: Vec<&'static str>,
    faults: Vec<Fault>,
    /// The errnos take turns, so that a sample of the calls meets them all.
    in_turn: bool,
}

fn parse(arguments: &[String]) -> Outcome<Options> {
    let mut options = Options {
        runtime: PathBuf::new(),
        every: 1,
        from: 1,
        to: usize::MAX,
        commands: COMMANDS.to_vec(),
        faults: [Fault::Kill].into_iter().chain(ERRNOS.map(Fault::Fail)).collect(),
        in_turn: true,
    };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(Failure::new(USAGE)) };
        match (name.as_str(), value.as_str()) {
            ("--runtime", path) => options.runtime = fs::canonicalize(path).during(path)?,
            ("--every", number) => options.every = number.parse::<usize>()?.max(1),
            ("--command", name) => {
                options.commands.retain(|command| *command == name);
                ensure!(!options.commands.is_empty(), "--command: {name:?} is none of {COMMANDS:?}");
            }
            ("--from", number) => options.from = number.parse::<usize>()?.max(1),
            ("--to", number) => options.to = number.parse()?,
            ("--fault", "kill") => options.faults = vec![Fault::Kill],
            ("--fault", "errno") => options.faults = ERRNOS.map(Fault::Fail).to_vec(),
            ("--fault", name) => {
                let known = ERRNOS.into_iter().find(|errno| format!("{errno:?}") == name);
                let known =
                    known.during(format!("--fault: {name:?} is neither kill nor one of {ERRNOS:?}"))?;
                options.faults = vec![Fault::Fail(known)];
                options.in_turn = false;
            }
            _ => return Err(Failure::new(USAGE)),
        }
    }
    ensure!(!options.runtime.as_os_str().is_empty(), "{USAGE}");
    options.in_turn &= options.every > 1;
    if options.in_turn {
        // One of them stands for all.
        options.faults.retain(|fault| !matches!(fault, Fault::Fail(errno) if *errno != ERRNOS[0]));
    }
    Ok(options)
}

#[derive(Default)]
struct Totals {
    calls: usize,
    kills: usize,
    errnos: usize,
    tolerated: usize,
    failures: usize,
}

fn sweep(options: &Options) -> Outcome<bool> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let tag = format!("sweep-{}", std::process::id());
    let dir = leftovers::base_dir().join(&tag);
    let kind = runner::runtime_kind(&options.runtime)?;
    let ctx = Ctx::new(&options.runtime, &kind, &dir, &tag, &probe::locate()?, 1)?;
    let mut totals = Totals::default();
    let outcome = sweep_all(&ctx, options, &mut totals);
    ctx.delete_all();
    leftovers::clean(&dir, &tag);
    leftovers::remove_tree(&dir);
    outcome?;
    println!(
        "{} calls swept: {} kills, {} errnos, of which {} tolerated; {} passed, {} failed",
        totals.calls,
        totals.kills,
        totals.errnos,
        totals.tolerated,
        (totals.kills + totals.errnos).saturating_sub(totals.failures),
        totals.failures
    );
    Ok(totals.failures == 0)
}

fn sweep_all(ctx: &Ctx, options: &Options, totals: &mut Totals) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let neighbour = Bystander::start(ctx, &bundle)?;
    neighbour.container.wait_output("ready")?;
    for command in &options.commands {
        for fault in &options.faults {
            let before = totals.failures;
            let mut subject = Subject::new(ctx, command)?;
            let all = subject.count()?;
            let met = sweep_calls(&mut subject, &neighbour, options, *fault, all, totals).during(command)?;
            totals.calls += all;
            subject.end()?;
            let what = match fault {
                Fault::Fail(_) if options.in_turn => "an errno in turn".to_owned(),
                other => format!("{other:?}"),
            };
            println!(
                "{command}: {all} calls, {met} met, every {} of those that can be, with {what}: {} failures",
                options.every,
                totals.failures - before
            );
        }
    }
    Ok(())
}

/// How many calls met their fault.
fn sweep_calls(
    subject: &mut Subject,
    neighbour: &Bystander,
    options: &Options,
    fault: Fault,
    all: usize,
    totals: &mut Totals,
) -> Outcome<usize> {
    let mut errnos = ERRNOS.into_iter().cycle();
    let mut met = 0;
    let mut at = options.from;
    while at <= all.min(options.to) {
        let fault = match (fault, errnos.next()) {
            (Fault::Fail(_), Some(errno)) if options.in_turn => Fault::Fail(errno),
            (fault, _) => fault,
        };
        if sweep_one(subject, neighbour, fault, at, totals)? {
            met += 1;
        } else if !options.in_turn {
            break;
        }
        at += options.every;
    }
    Ok(met)
}

fn view(ctx: &Ctx) -> View {
    View {
        cgroups: cgroups::at_the_top,
        tag: ctx.tag.clone(),
        dir: ctx.dir.clone(),
        places: vec![ctx.root.clone(), ctx.dir.clone()],
    }
}

/// One fault and what came of it; false where there is no such call any more.
fn sweep_one(
    subject: &mut Subject,
    neighbour: &Bystander,
    fault: Fault,
    at: usize,
    totals: &mut Totals,
) -> Outcome<bool> {
    subject.prepare()?;
    let before = Host::look(view(subject.ctx))?;
    let traced = subject.traced(at, fault);
    let (met, outcome) = match traced {
        Ok(traced) => {
            let Some(met) = traced.met.clone() else { return subject.tidy().map(|()| false) };
            (met, subject.judge(&traced, fault, &before))
        }
        Err(error) => ("a call that nothing came back from".to_owned(), Err(error)),
    };
    match fault {
        Fault::Kill => totals.kills += 1,
        _ => totals.errnos += 1,
    }
    match outcome.and_then(|tolerated| neighbour.is_untouched().map(|()| tolerated)) {
        Ok(tolerated) => totals.tolerated += usize::from(tolerated),
        Err(Failure::Failed(text) | Failure::Skipped(text)) => {
            totals.failures += 1;
            println!("FAIL {}: {fault:?} at call {at}, {met}: {text}", subject.command);
        }
    }
    subject.tidy().map(|()| true)
}

/// A command that is swept, and the container that it is about.
struct Subject<'c> {
    ctx: &'c Ctx,
    command: &'static str,
    bundle: Bundle,
    /// For commands that need one; the same for all calls of those that leave it as it is.
    lives: bool,
    /// What the container's program reports where no call fails.
    sound: Value,
    errors: PathBuf,
    output: PathBuf,
}

impl<'c> Subject<'c> {
    fn new(ctx: &'c Ctx, command: &'static str) -> Outcome<Self> {
        let mut bundle = ctx.bundle()?;
        match command {
            "create" | "start" | "run" => bundle.probe(["report"]),
            _ => bundle.probe(["sleep"]),
        };
        bundle.set("/linux/resources/pids", json!({"limit": 100}));
        bundle.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}),
        );
        bundle.write()?;
        let (errors, output) = (ctx.path("errors"), ctx.path("output"));
        let mut subject = Self { ctx, command, bundle, lives: false, sound: Value::Null, errors, output };
        if command == "create" || command == "start" {
            // What a container looks like where nothing fails.
            subject.runtime(&["create", "--bundle", &subject.dir(), &subject.id()])?.ok()?;
            subject.runtime(&["start", &subject.id()])?.ok()?;
            subject.sound = subject.report()?;
            subject.remove()?;
        }
        Ok(subject)
    }

    fn id(&self) -> String {
        self.bundle.id.clone()
    }

    fn dir(&self) -> String {
        self.bundle.dir.display().to_string()
    }

    fn stays(&self) -> bool {
        ["exec", "update"].contains(&self.command)
    }

    /// A call of the runtime, plain; its output goes where that of the traced one goes.
    fn runtime(&self, words: &[&str]) -> Outcome<Plain> {
        let mut child = self.bare(words)?.spawn().during(words.join(" "))?;
        let pid = Pid::from_raw(child.id().try_into()?);
        let end = sys::pidfd_open(pid)?;
        let limit = PollTimeout::try_from(CALL_LIMIT)?;
        if poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], limit)? == 0 {
            let waits = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            child.kill()?;
            child.wait()?;
            return Err(Failure::new(format!("{}: hangs in {waits}", words.join(" "))));
        }
        let status = child.wait()?;
        reap_dead();
        Ok(Plain { words: words.join(" "), code: status.code(), text: self.said() })
    }

    fn bare(&self, words: &[&str]) -> Outcome<Command> {
        let mut command = Command::new(&self.ctx.runtime);
        command.arg("--root").arg(&self.ctx.root).args(words).stdin(Stdio::null());
        command.stdout(fs::File::create(&self.output)?).stderr(fs::File::create(&self.errors)?);
        Ok(command)
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.errors).unwrap_or_default()).trim().to_owned()
    }

    /// The container in the state that the command finds it in.
    fn prepare(&mut self) -> Outcome {
        match self.command {
            "create" | "run" => {}
            "start" => self.runtime(&["create", "--bundle", &self.dir(), &self.id()])?.ok()?,
            "delete" => {
                self.runtime(&["create", "--bundle", &self.dir(), &self.id()])?.ok()?;
                self.runtime(&["start", &self.id()])?.ok()?;
                self.runtime(&["kill", &self.id(), "KILL"])?.ok()?;
                self.wait_for("stopped")?;
            }
            _ if self.lives => {}
            _ => {
                self.runtime(&["create", "--bundle", &self.dir(), &self.id()])?.ok()?;
                self.runtime(&["start", &self.id()])?.ok()?;
                self.lives = true;
            }
        }
        Ok(())
    }

    fn words(&self) -> Vec<String> {
        let words: Vec<&str> = match self.command {
            "create" | "run" => vec![self.command, "--bundle", ""],
            "exec" => vec!["exec"],
            "update" => vec!["update", "--pids-limit", "50"],
            other => vec![other],
        };
        let mut words: Vec<String> = words
            .into_iter()
            .map(|word| if word.is_empty() { self.dir() } else { word.to_owned() })
            .collect();
        words.push(self.id());
        if self.command == "exec" {
            words.extend(["/probe".to_owned(), "true".to_owned()]);
        }
        words
    }

    fn traced(&self, at: usize, fault: Fault) -> Outcome<Traced> {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        tracer::run(self.bare(&words)?, at, fault)
    }

    /// How many calls the command makes where none fails.
    fn count(&mut self) -> Outcome<usize> {
        self.prepare()?;
        let traced = self.traced(0, Fault::Kill)?;
        ensure_eq!(traced.status, 0, "{} under the tracer: {}", self.command, self.said());
        self.tidy()?;
        Ok(traced.calls)
    }

    /// Whether what is there now is what should be; true where the command did its work in spite of the fault.
    fn judge(&mut self, traced: &Traced, fault: Fault, before: &Host) -> Outcome<bool> {
        if matches!(fault, Fault::Kill) {
            return self.after_kill(before).map(|()| false);
        }
        let said = self.said();
        if traced.status == 0 {
            self.is_sound().during("it succeeded all the same")?;
            return Ok(true);
        }
        ensure!(traced.status < 128 || traced.status == 255, "exit status {}: {said}", traced.status);
        ensure_eq!(said.lines().count(), 1, "lines of the error {said:?}");
        ensure!(!said.contains("panicked"), "{said}");
        match self.command {
            // Where the program has run and the removal is what failed, it takes another one.
            "run" if self.printed().is_some() => self.after_kill(before).during(&said)?,
            "create" | "run" => before.is_back().during(&said)?,
            "start" | "delete" => self.after_kill(before).during(&said)?,
            _ => self.still_runs().during(&said)?,
        }
        Ok(false)
    }

    /// After a kill: one command brings everything back.
    fn after_kill(&mut self, before: &Host) -> Outcome {
        match self.command {
            "create" | "run" => {
                self.no_orphan()?;
                self.runtime(&["delete", "--force", &self.id()])?.ok()?;
                before.is_back()
            }
            "start" | "delete" => {
                self.runtime(&["delete", "--force", &self.id()])?.ok()?;
                self.nothing_left()
            }
            _ => {
                let words = self.words();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.runtime(&words)?.ok()?;
                self.still_runs()
            }
        }
    }

    /// A process ends with the command that makes it a container's (security.md C14), unless it is one by then.
    fn no_orphan(&self) -> Outcome {
        eventually("the end of a process whose runtime was killed", GRACE, || {
            reap_dead();
            let lives = cgroups::at_the_top(&self.id())?
                .iter()
                .any(|group| fs::read(group.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty()));
            let made = || self.status().is_ok_and(|status| ["created", "running"].contains(&status.as_str()));
            Ok((!lives || made()).then_some(()))
        })
    }

    /// The work of the command is done, all of it.
    fn is_sound(&mut self) -> Outcome {
        match self.command {
            "create" => {
                let started = self.runtime(&["start", &self.id()])?;
                // The call may be that on which the init process waits for `start`, after all the work of create: it has died
                // since, as any process may.
                if started.code != Some(0) && self.status()? == "stopped" {
                    self.remove()?;
                    return self.nothing_left();
                }
                started.ok()?;
                let found = self.report()?;
                differences(&self.sound, &found)
            }
            "start" => {
                let found = self.report()?;
                differences(&self.sound, &found)
            }
            "update" => {
                if cgroups::find("pids")?.is_some() {
                    ensure_eq!(cgroups::read(&self.id(), "pids", "pids.max", "pids.max")?, "50", "the limit");
                }
                self.still_runs()
            }
            "exec" => self.still_runs(),
            "run" | "delete" => self.nothing_left(),
            _ => Ok(()),
        }
    }

    /// What the container's program printed.
    fn report(&self) -> Outcome<Value> {
        eventually("the container's report", GRACE, || Ok(self.printed()))
    }

    /// The same, if it has printed it.
    fn printed(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(&self.output).unwrap_or_default()).ok()
    }

    /// The container lives, alone in its cgroup.
    fn still_runs(&self) -> Outcome {
        ensure_eq!(self.status()?, "running", "status");
        eventually("one process in the cgroup", GRACE, || {
            reap_dead();
            Ok((cgroups::processes(&self.id())?.len() == 1).then_some(()))
        })?;
        let mut groups = cgroups::at_the_top(&self.id())?;
        groups.retain(|group| !group.ends_with(self.id()));
        ensure!(groups.is_empty(), "cgroups below the container's: {groups:?}");
        Ok(())
    }

    fn nothing_left(&self) -> Outcome {
        eventually("nothing left of the container", GRACE, || {
            reap_dead();
            let groups = cgroups::at_the_top(&self.id())?;
            let state = self.ctx.root.join(self.id());
            Ok((groups.is_empty() && !state.exists()).then_some(()))
        })
    }

    fn status(&self) -> Outcome<String> {
        reap_dead();
        self.runtime(&["state", &self.id()])?.ok()?;
        let state: Value = serde_json::from_slice(&fs::read(&self.output)?)?;
        Ok(state["status"].as_str().unwrap_or_default().to_owned())
    }

    fn wait_for(&self, status: &str) -> Outcome {
        eventually(&format!("status {status}"), GRACE, || Ok((self.status()? == status).then_some(())))
    }

    fn remove(&mut self) -> Outcome {
        self.lives = false;
        self.runtime(&["delete", "--force", &self.id()])?.ok()?;
        reap_dead();
        Ok(())
    }

    /// Before the next one.
    fn tidy(&mut self) -> Outcome {
        let runs = self.stays() && self.still_runs().is_ok();
        if runs { Ok(()) } else { self.remove() }
    }

    fn end(&mut self) -> Outcome {
        self.remove()
    }
}

/// A call that has ended.
struct Plain {
    words: String,
    code: Option<i32>,
    text: String,
}

impl Plain {
    fn ok(&self) -> Outcome {
        ensure!(self.code == Some(0), "{}: exit status {:?}: {}", self.words, self.code, self.text);
        Ok(())
    }
}

/// What the program is given must be the same, whichever call has failed on the way and been forgiven.
fn differences(sound: &Value, found: &Value) -> Outcome {
    const COMPARED: [&str; 20] = [
        "uid",
        "gid",
        "groups",
        "capabilities",
        "securebits",
        "noNewPrivileges",
        "seccomp",
        "umask",
        "rlimits",
        "personality",
        "cwd",
        "signals",
        "env",
        "oomScoreAdj",
        "hostname",
        "sysctls",
        "setgroups",
        "uidMap",
        "gidMap",
        "scheduler",
    ];
    for key in COMPARED {
        ensure_eq!(found[key], sound[key], "{key}");
    }
    // Other tests of the machine mount hierarchies meanwhile, which every process is in then.
    let groups = |report: &Value| -> BTreeSet<String> {
        let lines = report["cgroup"].as_array().into_iter().flatten().filter_map(Value::as_str);
        lines
            .filter(|line| !line.ends_with(":/"))
            .filter_map(|line| line.split_once(':'))
            .map(|(_, line)| line.to_owned())
            .collect()
    };
    ensure_eq!(groups(found), groups(sound), "cgroups");
    let mounts = |report: &Value| -> BTreeSet<String> {
        let list = report["mounts"].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|mount| format!("{} {} {}", mount["target"], mount["type"], mount["options"]))
            .collect()
    };
    let (there, wanted) = (mounts(found), mounts(sound));
    ensure!(there == wanted, "mounts: {:?}", there.symmetric_difference(&wanted).collect::<Vec<_>>());
    let numbers = |report: &Value| -> Vec<String> {
        report["fds"].as_object().into_iter().flatten().map(|(number, _)| number.clone()).collect()
    };
    ensure_eq!(numbers(found), numbers(sound), "descriptors");
    Ok(())
}
