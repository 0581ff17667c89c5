//! What skeg's own commands cost, in counts that do not depend on the machine's speed: system calls and instructions of the
//! runtime and of the process that becomes the container's, and peak resident memory. A bound is what it takes today on a hybrid
//! machine, whose ten hierarchies cost the most, and a tenth more; of instructions a quarter more, since the C library has other copy
//! loops for other processors. Who needs more says so here. Of the memory most is the program's own text, of which the kernel maps
//! what is around each page that is touched (Linux 6.18: whole folios of its page cache), so that what the commands execute lies
//! together (`make text-order`); how large the folios are depends on the machine's memory, which is worth some hundred KiB.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Case;
use crate::failure::{During, Failure, Outcome};
use crate::harness::{Bundle, Ctx};
use crate::tracer::{self, Fault};
use crate::{ensure, ensure_eq, runner};

pub const CASES: &[Case] = &[
    Case::new("cost_calls", "peers.md B 15: commands take no more system calls than they did", calls),
    Case::new("cost_create", "peers.md B 15: create takes no more instructions than it did", |ctx| {
        instructions(ctx, &["create"])
    })
    .limit(STEPPING),
    Case::new("cost_exec", "peers.md B 15: exec takes no more instructions than it did", |ctx| {
        instructions(ctx, &["exec"])
    })
    .limit(STEPPING),
    Case::new("cost_run", "peers.md B 15: run takes no more instructions than it did", |ctx| {
        instructions(ctx, &["run"])
    })
    .limit(STEPPING),
    Case::new(
        "cost_short_commands",
        "peers.md B 15: other commands take no more instructions than they did",
        |ctx| instructions(ctx, &["start", "state", "list", "kill", "delete", "features"]),
    )
    .limit(STEPPING),
    Case::new("cost_memory", "peers.md B 14: commands take no more memory than they did", memory),
];

/// Seconds for instructions that are counted one by one: a million takes half a minute on a machine that does nothing else.
const STEPPING: u64 = 900;

/// What one command may cost.
struct Bound {
    name: &'static str,
    calls: usize,
    /// In thousands.
    instructions: u64,
    /// Of peak memory; none where the container's program counts.
    kib: Option<u64>,
}

const fn bound(name: &'static str, calls: usize, instructions: u64, kib: Option<u64>) -> Bound {
    Bound { name, calls, instructions, kib }
}

const BOUNDS: [Bound; 9] = [
    bound("create", 715, 1210, Some(2400)),
    bound("start", 115, 205, Some(2400)),
    bound("exec", 420, 530, None),
    bound("state", 92, 195, Some(2400)),
    bound("list", 92, 222, Some(2400)),
    bound("kill", 92, 192, Some(2400)),
    bound("delete", 140, 240, Some(2400)),
    bound("run", 800, 1250, None),
    bound("features", 30, 485, Some(2400)),
];

/// Calls `measure` with each command in turn, of a container in the state that the command takes.
fn each(ctx: &Ctx, mut measure: impl FnMut(&Bound, Command) -> Outcome) -> Outcome {
    if runner::runtime_kind(&ctx.runtime)? != "skeg" {
        return Err(Failure::Skipped("the bounds are skeg's".to_owned()));
    }
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]).write()?;
    for bound in &BOUNDS {
        if bound.name == "run" {
            bundle.probe(["true"]).write()?;
        }
        measure(bound, command(ctx, &bundle, bound.name)?)?;
        if bound.name == "kill" {
            let stopped = || ctx.call(["state", &bundle.id]).run()?.json();
            crate::harness::eventually(
                "the end of the container",
                std::time::Duration::from_secs(30),
                || Ok((stopped()?["status"] == "stopped").then_some(())),
            )?;
        }
    }
    Ok(())
}

fn command(ctx: &Ctx, bundle: &Bundle, name: &str) -> Outcome<Command> {
    let dir = bundle.dir.display().to_string();
    let id = &*bundle.id;
    let words: &[&str] = match name {
        "create" | "run" => &[name, "--bundle", &dir, id],
        "exec" => &[name, id, "/probe", "true"],
        "list" | "features" => &[name],
        "kill" => &[name, id, "KILL"],
        _ => &[name, id],
    };
    let mut command = Command::new(&ctx.runtime);
    command.arg("--root").arg(&ctx.root).args(words).stdin(Stdio::null());
    command.stdout(fs::File::create(ctx.path("output"))?).stderr(fs::File::create(ctx.path("errors"))?);
    Ok(command)
}

fn said(ctx: &Ctx) -> String {
    fs::read_to_string(ctx.path("errors")).unwrap_or_default()
}

fn calls(ctx: &Ctx) -> Outcome {
    each(ctx, |&Bound { name, calls: most, .. }, command| {
        let traced = tracer::run(command, 0, Fault::Kill).during(name)?;
        ensure_eq!(traced.status, 0, "status of {name}: {}", said(ctx));
        println!("{name}: {} system calls", traced.calls);
        ensure!(traced.calls <= most, "{name}: {} system calls, {most} at the most", traced.calls);
        Ok(())
    })
}

/// Of what is executed one at a time alone: that takes half a minute for `run`, and a case has its limit.
fn instructions(ctx: &Ctx, measured: &[&str]) -> Outcome {
    each(ctx, |&Bound { name, instructions: most, .. }, mut command| {
        if !measured.contains(&name) {
            ensure!(command.status().during(name)?.success(), "{name}: {}", said(ctx));
            return Ok(());
        }
        // The C library reads the whole environment, and copies by an instruction that counts for each byte where it thinks that
        // the processor is fast at it: both differ from machine to machine.
        command.env_clear().env("GLIBC_TUNABLES", PLAIN_COPIES);
        let traced = tracer::run_by_instructions(command).during(name)?;
        ensure_eq!(traced.status, 0, "status of {name}: {}", said(ctx));
        let thousands = traced.instructions.div_ceil(1000);
        println!("{name}: {thousands} thousand instructions");
        ensure!(thousands <= most, "{name}: {thousands} thousand instructions, {most} at the most");
        Ok(())
    })
}

const PLAIN_COPIES: &str =
    "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// By time(1), so that the command's memory does not begin with that of this process.
fn memory(ctx: &Ctx) -> Outcome {
    if !Path::new("/usr/bin/time").exists() {
        return Err(Failure::Skipped("time is not installed".to_owned()));
    }
    let report = ctx.path("time");
    each(ctx, |&Bound { name, kib: most, .. }, command| {
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%M", "-o"]).arg(&report).arg(command.get_program()).args(command.get_args());
        timed.stdin(Stdio::null()).stdout(fs::File::create(ctx.path("output"))?);
        let status = timed.stderr(fs::File::create(ctx.path("errors"))?).status().during(name)?;
        ensure!(status.success(), "{name}: {status}: {}", said(ctx));
        let peak: u64 = fs::read_to_string(&report)?.trim().parse().during("the report of time(1)")?;
        println!("{name}: {peak} KiB");
        if let Some(most) = most {
            ensure!(peak <= most, "{name}: {peak} KiB at its peak, {most} at the most");
        }
        Ok(())
    })
}
