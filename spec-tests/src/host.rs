//! What a command is not to touch, and what it may change for a while: a container beside it, and the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpid};

use crate::failure::{Failure, Outcome};
use crate::harness::{Bundle, Container, Ctx, reap_dead};
use crate::{ensure_eq, leftovers};

/// How long what is on its way out may take.
pub const GRACE: Duration = Duration::from_secs(5);

/// A container that must not notice anything.
pub struct Bystander<'c> {
    /// The container.
    pub container: Container<'c>,
    pid: Pid,
}

impl<'c> Bystander<'c> {
    /// Starts the container of this bundle.
    pub fn start(ctx: &'c Ctx, bundle: &Bundle) -> Outcome<Self> {
        let container = bundle.start(ctx)?;
        Ok(Self { pid: container.pid()?, container })
    }

    /// Whether it runs as before.
    pub fn is_untouched(&self) -> Outcome {
        ensure_eq!(self.container.status()?, "running", "status of the container beside it");
        ensure_eq!(self.container.pid()?, self.pid, "pid of the container beside it");
        Ok(())
    }
}

/// Where to look. Other tests of the machine make things too.
#[derive(Debug)]
pub struct View {
    /// What gives the cgroups that are ours.
    pub cgroups: fn(&str) -> Outcome<Vec<PathBuf>>,
    /// What their names have in them.
    pub tag: String,
    /// What is in every path of a mount of ours.
    pub dir: PathBuf,
    /// Directories in which an entry counts.
    pub places: Vec<PathBuf>,
}

/// The processes, cgroups, mounts and files that there are.
#[derive(Debug)]
pub struct Host {
    view: View,
    things: BTreeSet<String>,
}

impl Host {
    /// Looks.
    pub fn look(view: View) -> Outcome<Self> {
        Ok(Self { things: things(&view)?, view })
    }

    /// Waits until the host is as it was.
    pub fn is_back(&self) -> Outcome {
        let end = Instant::now() + GRACE;
        loop {
            let now = things(&self.view)?;
            if now == self.things {
                return Ok(());
            }
            if Instant::now() > end {
                let left: Vec<&String> = now.difference(&self.things).collect();
                let gone: Vec<&String> = self.things.difference(&now).collect();
                return Err(Failure::new(format!("left behind: {left:?}; gone: {gone:?}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn things(view: &View) -> Outcome<BTreeSet<String>> {
    reap_dead();
    let mut things = BTreeSet::new();
    for pid in leftovers::children_of(getpid()) {
        things.insert(format!("process {pid} ({})", leftovers::command_line(pid)));
    }
    for path in (view.cgroups)(&view.tag)? {
        things.insert(format!("cgroup {}", path.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let ours = view.dir.to_string_lossy().into_owned();
    things.extend(mounts.lines().filter(|line| line.contains(&ours)).map(|line| format!("mount {line}")));
    for place in &view.places {
        for entry in fs::read_dir(place)?.flatten() {
            things.insert(format!("entry {}", entry.path().display()));
        }
    }
    Ok(things)
}
