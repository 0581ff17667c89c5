//! The random walk: many clients at a time ask one shim for anything, in any order, and each answer is compared with a model of
//! the task API. Each client has a container of its own, so that what it is told depends on what it has asked alone; of the
//! others' containers it only asks. At the end every process has been told to have ended once, with its status, and the shim
//! is as large as before.

mod model;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use skeg_proto::task as api;

use crate::failure::{During, Failure, Outcome, exit_status};
use crate::harness::{Ctx, eventually};
use crate::shim::client::Client;
use crate::shim::events::Exits;
use crate::shim::{Place, told};
use crate::{ensure, ensure_eq};
use model::Walker;

const USAGE: &str =
    "usage: spec-tests shim-walk --shim PATH --runtime PATH [--seconds N] [--clients N] [--seed N]";
/// What the shim may grow by, in KiB.
const GROWTH: u64 = 2048;

/// `shim-walk`; the exit status.
pub fn run(arguments: &[String]) -> i32 {
    exit_status(walk(arguments).map(|()| true))
}

fn walk(arguments: &[String]) -> Outcome {
    let asked = told(arguments, USAGE)?;
    let mut seed = 0;
    fs::File::open("/dev/urandom")?.read_exact(std::slice::from_mut(&mut seed))?;
    let (mut seconds, mut clients, mut seed) = (20, 64, u64::from(seed));
    for (name, value) in asked.more {
        match name {
            "--seconds" => seconds = value.parse()?,
            "--clients" => clients = value.parse()?,
            "--seed" => seed = value.parse()?,
            _ => return Err(Failure::new(USAGE)),
        }
    }
    println!("{clients} clients for {seconds} s, seed {seed}");
    let (ctx, place) = Place::new(&asked.shim, &asked.runtime, &format!("walk-{}", std::process::id()))?;
    let outcome = walk_in(&place, seconds, clients, seed).and_then(|()| is_clean(&ctx, &place));
    place.clean();
    outcome
}

/// What of the shim must not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    threads: usize,
    descriptors: usize,
    kib: u64,
}

impl Size {
    fn of(pid: Pid) -> Outcome<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        Ok(Self {
            threads: fs::read_dir(format!("/proc/{pid}/task"))?.count(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            kib: kib.during("VmRSS")?.parse()?,
        })
    }
}

fn walk_in(place: &Place, seconds: u64, clients: usize, seed: u64) -> Outcome {
    const SHIM: &str = "shim";
    place.make_bundle(SHIM, SHIM, &[])?;
    let events = place.dir.join("events.sock");
    let (mut command, listener) = place.serve(SHIM, &events)?;
    let mut shim = command.spawn()?;
    drop(listener);
    let exits = Exits::listen(&events)?;
    let pid = Pid::from_raw(shim.id().try_into()?);
    let walkers: Vec<Mutex<Walker>> = (0..clients)
        .map(|number| {
            let id = format!("{}-{number}", place.tag);
            Mutex::new(Walker::new(place, place.socket(SHIM), id, number, clients, seed))
        })
        .collect();
    let begin = Instant::now();
    // The first part makes the shim as large as it gets.
    part(&walkers, begin + Duration::from_secs(seconds.div_ceil(4)))?;
    let before = settled(pid)?;
    part(&walkers, begin + Duration::from_secs(seconds))?;
    let after = settled(pid)?;
    let mut wanted = BTreeMap::new();
    let (mut calls, mut refusals) = (BTreeMap::<&str, usize>::new(), 0);
    for walker in &walkers {
        let walker = walker.lock().map_err(|_| Failure::new("a walker has panicked"))?;
        walker.calls.iter().for_each(|(method, count)| *calls.entry(method).or_default() += count);
        refusals += walker.refusals;
        for end in &walker.ends {
            *wanted.entry(end.clone()).or_default() += 1;
        }
    }
    let told = eventually("every exit told", Duration::from_secs(20), || {
        let told = exits.all();
        Ok((told.values().sum::<usize>() >= wanted.values().sum::<usize>()).then_some(told))
    })?;
    let wrong: Vec<_> = wanted.iter().filter(|(end, count)| told.get(end) != Some(count)).collect();
    ensure!(wrong.is_empty(), "exits that were not told so often: {wrong:?}");
    ensure_eq!(told.len(), wanted.len(), "exits of their kind");
    println!(
        "{} calls, {refusals} of them refused as they should be: {calls:?}",
        calls.values().sum::<usize>()
    );
    println!("{} exits, each told once; {before:?}, then {after:?}", wanted.values().sum::<usize>());
    ensure_eq!(
        (before.threads, before.descriptors),
        (after.threads, after.descriptors),
        "threads, descriptors"
    );
    ensure!(after.kib < before.kib + GROWTH, "the shim grew from {} to {} KiB", before.kib, after.kib);
    let mut client = Client::connect(&place.socket(SHIM))?;
    client.tell("Shutdown", &api::ShutdownRequest { id: SHIM.into(), now: true, ..Default::default() })?;
    drop(client);
    let limit = Duration::from_secs(30);
    let status = eventually("the end of the shim", limit, || Ok(shim.try_wait()?))?;
    ensure!(status.success(), "the shim ended with {status}");
    place.remove_bundle(SHIM);
    Ok(())
}

/// Everyone walks until `end`, then takes away what it has.
fn part(walkers: &[Mutex<Walker<'_>>], end: Instant) -> Outcome {
    std::thread::scope(|scope| {
        let threads: Vec<_> = walkers
            .iter()
            .map(|walker| {
                scope.spawn(move || {
                    let mut walker = walker.lock().map_err(|_| Failure::new("a walker has panicked"))?;
                    let outcome = walker.walk(end);
                    outcome.map_err(|failure| failure.during(walker.story()))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| Failure::new("a walker has panicked")).and_then(|outcome| outcome)
        })
    })
}

/// The size once nothing is under way.
fn settled(pid: Pid) -> Outcome<Size> {
    let mut last = Size::of(pid)?;
    eventually("a shim that stays as it is", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(500));
        let now = Size::of(pid)?;
        let same = now == last;
        last = now;
        Ok(same.then_some(now))
    })
}

/// Nothing of it all is left: no process, cgroup, mount, state.
fn is_clean(ctx: &Ctx, place: &Place) -> Outcome {
    let left = crate::leftovers::of_case(ctx)?;
    let left: Vec<_> = left.iter().filter(|thing| !thing.ends_with(super::NAMESPACE)).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let states = fs::read_dir(place.states())?.count();
    ensure_eq!(states, 0, "state directories");
    Ok(())
}
