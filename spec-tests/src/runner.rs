//! Runs the cases: each in a process of its own with a deadline, several at a time, and prints what came of them.
//!
//! A case that fails is run once more at the end, with nothing beside it, and both are told: what a busy machine does to a case is
//! told apart from what the runtime does so.

use std::cmp::Reverse;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cases::{self, Case, Host};
use crate::failure::{During, Failure, Outcome};
use crate::harness::Ctx;
use crate::leftovers::{self, Snapshot};
use crate::options::{Format, Options};
use crate::{deviations, ensure, probe, sacrificial, sys};

/// The first argument of the process of one case.
pub const CASE_ROLE: &str = "case";

/// Runs the selected cases; whether all went well.
pub fn run(options: &Options) -> Outcome<bool> {
    let runtime = fs::canonicalize(&options.runtime).during(options.runtime.display())?;
    let kind = runtime_kind(&runtime)?;
    let probe = probe::locate()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let tag = format!("spectests-{}", std::process::id());
    let base = leftovers::base_dir().join(&tag);
    fs::create_dir_all(&base)?;
    let selected: Vec<&'static Case> = cases::all().filter(|case| matches(case, options)).collect();
    ensure!(!selected.is_empty(), "no case matches the filter");

    let before = Snapshot::take()?;
    let mut suite = Suite {
        options,
        runtime,
        kind,
        probe,
        tag: tag.clone(),
        base: base.clone(),
        report: Report::new(options.format, selected.len()),
        failed_once: Vec::new(),
    };
    suite.run_all(&selected)?;
    suite.run_again(selected.len())?;
    let left = leftovers::of_run(&before, &tag, options.alone, options.patience)?;
    suite.report.leftovers(&left);
    if !options.keep {
        leftovers::remove_tree(&base);
        let _only_when_empty = fs::remove_dir(leftovers::base_dir());
    }
    Ok(suite.report.close())
}

fn matches(case: &Case, options: &Options) -> bool {
    // The sacrificial host has no systemd.
    if options.systemd && case.host == Host::Sacrificial {
        return false;
    }
    if options.exclude.iter().any(|text| case.name.contains(text.as_str())) {
        return false;
    }
    let says = |text: &String| case.name.contains(text.as_str()) || case.checks.contains(text.as_str());
    options.filter.is_empty() || options.filter.iter().any(says)
}

/// The first word of what `--version` prints: the family of a runtime.
pub fn runtime_kind(runtime: &Path) -> Outcome<String> {
    let output =
        Command::new(runtime).arg("--version").stdin(Stdio::null()).output().during(runtime.display())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let file = runtime.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let first = text.split_whitespace().next().unwrap_or_default();
    // A runtime may answer in another's words so that callers can parse it; its file name decides then.
    Ok(if ["skeg", "runc", "crun", "youki"].contains(&file.as_str()) { file } else { first.to_owned() })
}

struct Suite<'o> {
    options: &'o Options,
    runtime: PathBuf,
    kind: String,
    probe: PathBuf,
    tag: String,
    base: PathBuf,
    report: Report,
    /// The cases that have failed, and what they said: they have a second time coming.
    failed_once: Vec<(&'static Case, String)>,
}

struct Job {
    case: &'static Case,
    child: Child,
    pidfd: OwnedFd,
    started: Instant,
    tag: String,
    dir: PathBuf,
}

impl Suite<'_> {
    fn run_all(&mut self, selected: &[&'static Case]) -> Outcome {
        let mut jobs: Vec<Job> = Vec::new();
        // Cases that measure time or load the machine come last, one at a time; those that may take long begin first.
        let (alone, mut together): (Vec<&'static Case>, Vec<&'static Case>) =
            selected.iter().copied().partition(|case| case.alone);
        together.sort_by_key(|case| Reverse(case.limit));
        for (number, case) in together.into_iter().chain(alone).enumerate() {
            let limit = if case.alone { 1 } else { self.options.jobs };
            while jobs.len() >= limit {
                self.collect(&mut jobs)?;
            }
            jobs.push(self.begin(case, number)?);
        }
        while !jobs.is_empty() {
            self.collect(&mut jobs)?;
        }
        Ok(())
    }

    /// What has failed, once more, one at a time; `number` is the first that no case has had.
    fn run_again(&mut self, number: usize) -> Outcome {
        for (number, (case, first)) in (number..).zip(std::mem::take(&mut self.failed_once)) {
            let job = self.begin(case, number)?;
            let (_, outcome, took) = self.wait_for(&mut vec![job])?.remove(0);
            self.report.second(&self.kind, case, outcome, &first, took);
        }
        Ok(())
    }

    /// What a runtime is known not to do it is not waited for as long as the machine's slowness would ask for.
    fn limit(&self, case: &Case) -> Duration {
        let is_known = deviations::reason(&self.kind, case.name).is_some();
        case.limit * if is_known { 1 } else { self.options.patience }
    }

    fn begin(&self, case: &'static Case, number: usize) -> Outcome<Job> {
        let tag = format!("{}-{number}", self.tag);
        let dir = self.base.join(number.to_string());
        fs::create_dir_all(&dir)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(CASE_ROLE)
            .arg(case.name)
            .args([&self.runtime, &dir, &self.probe])
            .args([&self.kind, &tag, &self.options.soak.to_string(), &self.options.patience.to_string()])
            .arg(self.options.systemd.to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.join("result"))?)
            .stderr(fs::File::create(dir.join("messages"))?)
            .spawn()?;
        let pidfd = sys::pidfd_open(Pid::from_raw(child.id().try_into()?))?;
        Ok(Job { case, child, pidfd, started: Instant::now(), tag, dir })
    }

    /// Waits until at least one job has ended or is over its time; a failure that nobody knows of is kept for the second time.
    fn collect(&mut self, jobs: &mut Vec<Job>) -> Outcome {
        for (case, outcome, took) in self.wait_for(jobs)? {
            match outcome {
                Err(Failure::Failed(text)) if deviations::reason(&self.kind, case.name).is_none() => {
                    self.failed_once.push((case, text));
                }
                outcome => self.report.case(&self.kind, case, outcome, took),
            }
        }
        Ok(())
    }

    /// Waits until at least one job has ended or is over its time: what came of those, and how long they took.
    fn wait_for(&self, jobs: &mut Vec<Job>) -> Outcome<Vec<(&'static Case, Outcome, Duration)>> {
        let now = Instant::now();
        let next =
            jobs.iter().map(|job| (job.started + self.limit(job.case)).saturating_duration_since(now)).min();
        let timeout = PollTimeout::try_from(next.unwrap_or_default() + Duration::from_millis(1));
        let mut waits: Vec<PollFd> =
            jobs.iter().map(|job| PollFd::new(job.pidfd.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut waits, timeout.unwrap_or(PollTimeout::MAX))?;
        let ended: Vec<bool> = waits.iter().map(|wait| wait.any().unwrap_or(false)).collect();
        let (mut kept, mut done) = (Vec::new(), Vec::new());
        for (mut job, ended) in jobs.drain(..).zip(ended) {
            let late = job.started.elapsed() >= self.limit(job.case);
            if !ended && !late {
                kept.push(job);
                continue;
            }
            if !ended {
                job.child.kill()?;
            }
            job.child.wait()?;
            let outcome = if ended {
                read_result(&job.dir)
            } else {
                Err(Failure::new(format!("not done after {:?}", self.limit(job.case))))
            };
            leftovers::clean_named(&job.dir, &job.tag);
            if !(self.options.keep && outcome.is_err()) {
                leftovers::remove_tree(&job.dir);
            }
            done.push((job.case, outcome, job.started.elapsed()));
        }
        *jobs = kept;
        Ok(done)
    }
}

fn read_result(dir: &Path) -> Outcome {
    let text = fs::read_to_string(dir.join("result")).unwrap_or_default();
    let last = text.lines().last().unwrap_or_default();
    let value: Value = serde_json::from_str(last).unwrap_or_default();
    let said = value["text"].as_str().unwrap_or_default().to_owned();
    match value["result"].as_str() {
        Some("ok") => Ok(()),
        Some("skipped") => Err(Failure::Skipped(said)),
        Some("failed") => Err(Failure::Failed(said)),
        _ => {
            let messages = fs::read_to_string(dir.join("messages")).unwrap_or_default();
            Err(Failure::Failed(format!("the case's process ended without a result: {text} {messages}")))
        }
    }
}

/// The process of one case: runs it, then looks for what it left behind.
pub fn case_process(arguments: &[String]) -> i32 {
    let outcome = case_outcome(arguments);
    let value = match outcome {
        Ok(()) => json!({"result": "ok"}),
        Err(Failure::Skipped(text)) => json!({"result": "skipped", "text": text}),
        Err(Failure::Failed(text)) => json!({"result": "failed", "text": text}),
    };
    println!("{value}");
    0
}

fn case_outcome(arguments: &[String]) -> Outcome {
    let [name, runtime, dir, probe, kind, tag, soak, patience, systemd] = arguments else {
        return Err(Failure::new("the process of a case takes nine arguments"));
    };
    let case = cases::all().find(|case| case.name == name).during("the case")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let dir = Path::new(dir);
    let ctx = Ctx::new(Path::new(runtime), kind, dir, tag, Path::new(probe), soak.parse()?)?
        .patient(patience.parse()?)
        .by_systemd(systemd.parse()?);
    let outcome = match case.host {
        Host::Real => (case.run)(&ctx),
        Host::Sacrificial => sacrificial::run(case, &ctx),
    };
    let refused = ctx.delete_all();
    let mut left = leftovers::of_case(&ctx)?;
    if !left.is_empty() {
        left.extend(refused);
    }
    leftovers::clean(dir, tag);
    outcome?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

/// Counts and prints.
struct Report {
    format: Format,
    passed: usize,
    failed: usize,
    skipped: usize,
    number: usize,
    /// Of those that passed, how many did so the second time.
    second: usize,
    elements: Vec<String>,
    /// The names of what failed, which the end repeats: of a long output some keep only that.
    failures: Vec<&'static str>,
}

impl Report {
    fn new(format: Format, count: usize) -> Self {
        if format == Format::Tap {
            println!("TAP version 13\n1..{count}");
        }
        Self {
            format,
            passed: 0,
            failed: 0,
            skipped: 0,
            number: 0,
            second: 0,
            elements: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// What came of a case that had failed with `first`.
    fn second(&mut self, kind: &str, case: &'static Case, outcome: Outcome, first: &str, took: Duration) {
        let told = match &outcome {
            Ok(()) => {
                self.second += 1;
                "it went well the second time"
            }
            Err(_) => "it was run once more",
        };
        let line = format!("# {}: {told}; the first time: {first}", case.name);
        if self.format == Format::Junit {
            eprintln!("{line}")
        } else {
            println!("{line}")
        }
        self.case(kind, case, outcome, took);
    }

    fn case(&mut self, kind: &str, case: &'static Case, outcome: Outcome, took: Duration) {
        let known = deviations::reason(kind, case.name);
        let (word, note) = match (outcome, known) {
            (Ok(()), None) => ("ok", String::new()),
            (Ok(()), Some(_)) => ("ok", "passes although it is listed as a known deviation".to_owned()),
            (Err(Failure::Skipped(text)), _) => ("skip", text),
            (Err(Failure::Failed(_)), Some(reason)) => ("skip", format!("known deviation: {reason}")),
            (Err(Failure::Failed(text)), None) => ("FAIL", text),
        };
        self.number += 1;
        match word {
            "ok" => self.passed += 1,
            "skip" => self.skipped += 1,
            _ => {
                self.failed += 1;
                self.failures.push(case.name);
            }
        }
        match self.format {
            Format::Text => {
                println!("{word:<4} {:>6} ms  {}: {}", took.as_millis(), case.name, case.checks);
                if !note.is_empty() {
                    println!("               {note}");
                }
            }
            Format::Tap => self.tap(word, case, &note),
            Format::Junit => self.elements.push(junit(word, case, &note, took)),
        }
        let _flushed = std::io::stdout().flush();
    }

    fn tap(&self, word: &str, case: &Case, note: &str) {
        let line = format!("{} - {}: {}", self.number, case.name, case.checks);
        match word {
            "ok" => println!("ok {line}"),
            "skip" => println!("ok {line} # SKIP {note}"),
            _ => println!("not ok {line}\n  ---\n  message: {}\n  ...", json!(note)),
        }
    }

    fn leftovers(&mut self, left: &[String]) {
        if !left.is_empty() {
            self.failed += 1;
            self.failures.push("left behind");
            for thing in left {
                println!("# left behind: {thing}");
            }
        }
    }

    fn close(&self) -> bool {
        if self.format == Format::Junit {
            println!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"spec-tests\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n{}\n</testsuite>",
                self.number,
                self.failed,
                self.skipped,
                self.elements.join("\n")
            );
        }
        let second =
            if self.second == 0 { String::new() } else { format!(", {} the second time", self.second) };
        let line =
            format!("{} passed{second}, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.format == Format::Text && !self.failures.is_empty() {
            println!("failed: {}", self.failures.join(", "));
        }
        match self.format {
            Format::Text => println!("{line}"),
            Format::Tap => println!("# {line}"),
            Format::Junit => eprintln!("{line}"),
        }
        self.failed == 0
    }
}

fn junit(word: &str, case: &Case, note: &str, took: Duration) -> String {
    let escape = |text: &str| {
        text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
    };
    let head = format!(
        "  <testcase name=\"{}\" classname=\"{}\" time=\"{:.3}\"",
        escape(case.checks),
        case.name,
        took.as_secs_f64()
    );
    match word {
        "ok" => format!("{head}/>"),
        "skip" => format!("{head}><skipped message=\"{}\"/></testcase>", escape(note)),
        _ => format!("{head}><failure message=\"{}\"/></testcase>", escape(note)),
    }
}
