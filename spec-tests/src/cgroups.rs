//! The cgroup hierarchies of this machine, by whatever version each controller has.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};
use serde_json::Value;

use crate::failure::{During, Outcome, skip};
use crate::harness::{eventually, reap_dead};
use crate::{ensure, sys};

/// How the scopes of cases begin, where systemd makes the cgroups.
pub const SCOPE_PREFIX: &str = "spec";

/// One mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// 1 or 2.
    pub version: u8,
    /// The controllers of a version 1 hierarchy (or its name), those available in a version 2 one.
    pub controllers: Vec<String>,
}

/// Every hierarchy that is mounted.
pub fn hierarchies() -> Outcome<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in text.lines() {
        let Some(mount) = crate::inside::report::mount_line(line) else { continue };
        let target = PathBuf::from(mount["target"].as_str().unwrap_or_default());
        // A bind mount of a part of a hierarchy is not the hierarchy, and one that another mount covers is out of reach.
        if mount["root"] != "/" || !is_on_top(&target, mount["device"].as_str().unwrap_or_default()) {
            continue;
        }
        match mount["type"].as_str() {
            Some("cgroup") => {
                let options = mount["superOptions"].as_str().unwrap_or_default();
                let controllers = options.split(',').skip(1).map(str::to_owned).collect();
                found.push(Hierarchy { mount: target, version: 1, controllers });
            }
            Some("cgroup2") => {
                let text = fs::read_to_string(target.join("cgroup.controllers")).unwrap_or_default();
                let controllers = text.split_whitespace().map(str::to_owned).collect();
                found.push(Hierarchy { mount: target, version: 2, controllers });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Whether what is reached at a mount point is this file system (its `major:minor` of mountinfo).
fn is_on_top(target: &Path, device: &str) -> bool {
    fs::metadata(target)
        .is_ok_and(|found| format!("{}:{}", libc::major(found.dev()), libc::minor(found.dev())) == device)
}

/// The hierarchy that has a controller; a machine without it cannot show the case.
pub fn with_controller(controller: &str) -> Outcome<Hierarchy> {
    match find(controller)? {
        Some(hierarchy) => Ok(hierarchy),
        None => skip(format!("no cgroup hierarchy here has the controller {controller}")),
    }
}

/// The hierarchy that has a controller, if one has.
pub fn find(controller: &str) -> Outcome<Option<Hierarchy>> {
    let mut found = hierarchies()?.into_iter();
    Ok(found.find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller)))
}

/// Ends the case as not showable where one of the controllers is in no hierarchy.
pub fn need(controllers: &[&str]) -> Outcome {
    controllers.iter().try_for_each(|name| with_controller(name).map(drop))
}

/// The hierarchy in which processes are looked up: that of pids on version 1, the only one on version 2.
pub fn of_processes() -> Outcome<Hierarchy> {
    match find("pids")? {
        Some(hierarchy) => Ok(hierarchy),
        None => hierarchies()?.into_iter().find(|hierarchy| hierarchy.version == 2).during("a hierarchy"),
    }
}

/// Where a container's cgroup is in a hierarchy: at the path, or as a scope that has it as its name.
pub fn directory(hierarchy: &Hierarchy, cgroup: &str) -> PathBuf {
    let name = cgroup.trim_start_matches('/');
    let path = hierarchy.mount.join(name);
    let scope = hierarchy.mount.join(format!("system.slice/{SCOPE_PREFIX}-{name}.scope"));
    if !path.exists() && scope.exists() { scope } else { path }
}

/// Whether the path of a process's cgroup is that of the container `id`, or of a scope for it.
pub fn is_of(path: &str, id: &str) -> bool {
    path.ends_with(&format!("/{id}")) || path.ends_with(&format!("/{SCOPE_PREFIX}-{id}.scope"))
}

/// The host pids in a cgroup.
pub fn processes(cgroup: &str) -> Outcome<Vec<String>> {
    let path = directory(&of_processes()?, cgroup).join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        // systemd removes the cgroup of a scope with its last process.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.during(format!("read {}", path.display()))?,
    };
    Ok(text.lines().map(str::to_owned).collect())
}

/// The paths of /proc/PID/cgroup in a report of the probe, of the hierarchies that are mounted on this host.
pub fn paths(report: &Value) -> Outcome<Vec<String>> {
    let mounted = hierarchies()?;
    let is_mounted = |controllers: &str| {
        mounted.iter().any(|hierarchy| match hierarchy.version {
            1 => controllers.split(',').all(|name| hierarchy.controllers.iter().any(|other| other == name)),
            _ => controllers.is_empty(),
        })
    };
    let mut found = Vec::new();
    for line in report["cgroup"].as_array().during("the report's cgroups")? {
        let mut fields = line.as_str().unwrap_or_default().splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if is_mounted(controllers) {
            found.push(path.to_owned());
        }
    }
    ensure!(!found.is_empty(), "no cgroup of a mounted hierarchy in {}", report["cgroup"]);
    Ok(found)
}

/// The file of a cgroup under the name that its version has for it, trimmed.
pub fn read(cgroup: &str, controller: &str, v1: &str, v2: &str) -> Outcome<String> {
    let hierarchy = with_controller(controller)?;
    let name = if hierarchy.version == 1 { v1 } else { v2 };
    let path = directory(&hierarchy, cgroup).join(name);
    Ok(fs::read_to_string(&path).during(format!("read {}", path.display()))?.trim().to_owned())
}

/// The cgroups at the top of the hierarchies whose name begins with `text`, and all in them; quicker than [`containing`]
/// where others have many.
pub fn at_the_top(text: &str) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy.mount).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(text) {
                collect(&entry.path(), "", &mut found);
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Every cgroup directory, in all hierarchies, whose path contains `text`, children first.
pub fn containing(text: &str) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        collect(&hierarchy.mount, text, &mut found);
    }
    Ok(found)
}

fn collect(dir: &Path, text: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            collect(&path, text, found);
            if path.to_string_lossy().contains(text) {
                found.push(path);
            }
        }
    }
}

/// Cgroups in each other below one, with names as long as can be, so that neither paths nor a descriptor for each level reach the
/// last. They go with the value, and the processes in the last of them.
pub struct Pit {
    top: OwnedFd,
    last: OwnedFd,
}

impl Pit {
    const NAME: &str = match str::from_utf8(&[b'd'; 255]) {
        Ok(name) => name,
        Err(_) => "",
    };

    /// Makes it so many levels deep.
    pub fn dig(cgroup: &Path, levels: usize) -> Outcome<Self> {
        let top: OwnedFd = fs::File::open(cgroup)?.into();
        let mut last = top.try_clone()?;
        for level in 0..levels {
            mkdirat(&last, Self::NAME, Mode::from_bits_truncate(0o755)).during(format!("level {level}"))?;
            last = enter(&last, Self::NAME)?;
        }
        Ok(Self { top, last })
    }

    /// Puts a process into the last of them.
    pub fn take(&self, pid: &str) -> Outcome {
        let procs = openat(&self.last, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(fs::File::from(procs).write_all(pid.as_bytes())?)
    }

    fn kill(&self) -> Outcome<bool> {
        let procs = openat(&self.last, "cgroup.procs", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(procs).read_to_string(&mut text)?;
        for pid in text.lines() {
            sys::send_signal(Pid::from_raw(pid.parse()?), libc::SIGKILL)?;
        }
        reap_dead();
        Ok(text.is_empty())
    }

    fn fill(&self) -> Outcome {
        let mut at = self.top.try_clone()?;
        let mut levels = 0;
        while let Ok(below) = enter(&at, Self::NAME) {
            (at, levels) = (below, levels + 1);
        }
        for _ in 0..levels {
            at = enter(&at, "..")?;
            unlinkat(&at, Self::NAME, UnlinkatFlags::RemoveDir)?;
        }
        Ok(())
    }
}

impl Drop for Pit {
    fn drop(&mut self) {
        // Where the runtime has removed it, as it should, there is nobody to kill and nothing to remove.
        let _empty = eventually("nobody in it", Duration::from_secs(10), || {
            Ok(self.kill().unwrap_or(true).then_some(()))
        });
        let _filled = self.fill();
    }
}

fn enter(dir: &OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}
