//! User namespaces: id maps and setgroups (user_namespaces(7)).

use std::fmt::Write as _;

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxIdMapping, Spec};

use crate::error::{Context as _, Error, Result};
use crate::sys::posix_spawn;
use crate::sys::procfs::Procfs;

/// The id maps of a new user namespace, as the kernel reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Lines of `uid_map`.
    uid: Vec<[u32; 3]>,
    /// Lines of `gid_map`.
    gid: Vec<[u32; 3]>,
}

impl IdMaps {
    /// Reads `/linux/uidMappings` and `/linux/gidMappings`.
    pub fn new(spec: &Spec) -> Self {
        let lines = |mappings: Option<&Vec<LinuxIdMapping>>| {
            mappings
                .into_iter()
                .flatten()
                .map(|mapping| [mapping.container_id(), mapping.host_id(), mapping.size()])
                .collect()
        };
        let linux = spec.linux().as_ref();
        Self {
            uid: lines(linux.and_then(|linux| linux.uid_mappings().as_ref())),
            gid: lines(linux.and_then(|linux| linux.gid_mappings().as_ref())),
        }
    }

    /// Whether both maps are there: without them nobody in the namespace has an id.
    pub fn is_complete(&self) -> bool {
        !self.uid.is_empty() && !self.gid.is_empty()
    }

    /// Writes the maps of the user namespace of process `pid`, our child.
    ///
    /// A privileged runtime writes them itself. Others may map their own ids only, one line each, with setgroups
    /// denied first (CVE-2014-8989); for more, the set-user-id helpers newuidmap and newgidmap are asked.
    ///
    /// # Errors
    /// What writing said, or why the helper refused.
    pub fn write(&self, pid: Pid) -> Result<()> {
        let procfs = Procfs::processes()?;
        let privileged = nix::unistd::geteuid().is_root();
        let own = |map: &[[u32; 3]], id: u32| matches!(map, [[_, host, 1]] if *host == id);
        if privileged || own(&self.uid, nix::unistd::geteuid().as_raw()) {
            write_map(&procfs, pid, "uid_map", &self.uid)?;
        } else {
            run_helper("newuidmap", pid, &self.uid)?;
        }
        if privileged {
            return write_map(&procfs, pid, "gid_map", &self.gid);
        }
        if own(&self.gid, nix::unistd::getegid().as_raw()) {
            procfs
                .write(format!("{pid}/setgroups"), b"deny")
                .context(|| "deny setgroups in the user namespace")?;
            return write_map(&procfs, pid, "gid_map", &self.gid);
        }
        run_helper("newgidmap", pid, &self.gid)
    }
}

/// All lines in one write(2): the kernel takes a map once.
fn write_map(procfs: &Procfs, pid: Pid, name: &str, map: &[[u32; 3]]) -> Result<()> {
    let mut text = String::new();
    for [container, host, size] in map {
        let _ = writeln!(text, "{container} {host} {size}");
    }
    procfs
        .write(format!("{pid}/{name}"), text.as_bytes())
        .context(|| format!("write the {name} {:?} of the user namespace", text.trim_end()))
}

/// Runs a helper of the shadow package with numbers as its only arguments and nothing in its environment (row E7).
fn run_helper(name: &str, pid: Pid, map: &[[u32; 3]]) -> Result<()> {
    let arguments: Vec<String> =
        std::iter::once(pid.as_raw().to_string()).chain(map.iter().flatten().map(u32::to_string)).collect();
    let output = posix_spawn::run_to_end(&["/usr/bin/", "/bin/"], name, &arguments)?;
    match output {
        None => Ok(()),
        Some(reason) => Err(Error::new(format!("{name} {}: {reason}", arguments.join(" ")))),
    }
}
