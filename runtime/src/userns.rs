//! User namespaces: id maps and setgroups (user_namespaces(7)).

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use oci_spec::runtime::{LinuxIdMapping, Spec};

use crate::error::{Context as _, Error, Result};
use crate::namespaces::USER;
use crate::rootfs::plan::IdMapping;
use crate::sys::clone::{Cloned, clone_process};
use crate::sys::fd::read_to_end;
use crate::sys::posix_spawn::{Program, spawn};
use crate::sys::procfs::Procfs;

/// Whether this process was started in a user namespace other than the host's: that one maps all ids to themselves, which none
/// that is made later can say of itself without the host's root (user_namespaces(7)). No, where it cannot be told. It is looked
/// up once.
pub fn is_nested() -> bool {
    static NESTED: OnceLock<bool> = OnceLock::new();
    *NESTED.get_or_init(look_at_own_map)
}

fn look_at_own_map() -> bool {
    let map = Procfs::mounted().and_then(|procfs| procfs.read_self("uid_map").context(|| "read the uid_map"));
    map.is_ok_and(|map| {
        !map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).eq([
            &b"0"[..],
            b"0",
            b"4294967295",
        ])
    })
}

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
        let linux = spec.linux().as_ref();
        Self {
            uid: lines(linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default()),
            gid: lines(linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default()),
        }
    }

    /// Whether both maps are there: without them nobody in the namespace has an id.
    pub fn is_complete(&self) -> bool {
        !self.uid.is_empty() && !self.gid.is_empty()
    }

    /// Whether setgroups(2) will be allowed in the namespace: not where an unprivileged user maps its own group, since
    /// the kernel then wants it denied (CVE-2014-8989).
    pub fn allow_setgroups(&self) -> bool {
        nix::unistd::geteuid().is_root() || !is_own(&self.gid, nix::unistd::getegid().as_raw())
    }

    /// Writes the maps of the user namespace of process `pid`, our child.
    ///
    /// A privileged runtime writes them itself. Others may map their own ids only, one line each, with setgroups
    /// denied first; for more, the set-user-id helpers newuidmap and newgidmap are asked.
    ///
    /// # Errors
    /// What writing said, or why the helper refused.
    pub fn write(&self, procfs: &Procfs, pid: Pid) -> Result<()> {
        let privileged = nix::unistd::geteuid().is_root();
        if privileged || is_own(&self.uid, nix::unistd::geteuid().as_raw()) {
            write_map(procfs, pid, "uid_map", &self.uid)?;
        } else {
            run_helper("newuidmap", pid, &self.uid)?;
        }
        if self.allow_setgroups() && !privileged {
            return run_helper("newgidmap", pid, &self.gid);
        }
        if !privileged {
            procfs
                .write(format!("{pid}/setgroups"), b"deny")
                .context(|| "deny setgroups in the user namespace")?;
        }
        write_map(procfs, pid, "gid_map", &self.gid)
    }
}

/// Whether setgroups(2) is allowed in the user namespace that this process has joined (user_namespaces(7)). `procfs` is
/// that of the PID namespace that it is in.
///
/// # Errors
/// What reading `/proc/self/setgroups` said.
pub fn may_set_groups(procfs: &Procfs) -> Result<bool> {
    let text =
        procfs.read_self("setgroups").context(|| "read whether the user namespace allows setgroups")?;
    Ok(text.trim_ascii() != b"deny")
}

/// Whether setgroups(2) is allowed in the user namespace of the runtime, which those that are made in it inherit
/// (user_namespaces(7)).
///
/// # Errors
/// What opening the procfs of `/proc` or reading `/proc/self/setgroups` said.
pub fn here_may_set_groups() -> Result<bool> {
    Procfs::mounted().and_then(|procfs| may_set_groups(&procfs))
}

/// A user namespace for an id-mapped mount: the one that the container joins, or a new one with the mapping, which lives
/// as long as the descriptor.
///
/// # Errors
/// What making or opening it said.
pub fn for_mapping(mapping: &IdMapping) -> Result<OwnedFd> {
    let what = || "make a user namespace for an id-mapped mount";
    let (uid, gid) = match mapping {
        IdMapping::Joined(path) => {
            return crate::sys::path::open_given(path, OFlag::O_RDONLY, Mode::empty())
                .context(|| format!("open user namespace {}", path.display()));
        }
        IdMapping::Maps { uid, gid } => (uid, gid),
    };
    let maps = IdMaps { uid: lines(uid), gid: lines(gid) };
    // The namespace needs a process to be made by; it waits until it is killed and runs nothing.
    let (pid, pidfd) = match clone_process(USER, None, false).context(what)? {
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
        Cloned::Child => {
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            loop {
                nix::unistd::pause();
            }
        }
    };
    let open = || -> Result<OwnedFd> {
        let procfs = Procfs::processes()?;
        maps.write(&procfs, pid)?;
        procfs.open_magic_link(pid, "ns/user", OFlag::O_RDONLY).context(what)
    };
    let namespace = open();
    let _ = crate::sys::pid::send_signal(&pidfd, libc::SIGKILL);
    let _ = crate::sys::pid::wait_child(&pidfd);
    namespace
}

fn lines(mappings: &[LinuxIdMapping]) -> Vec<[u32; 3]> {
    mappings.iter().map(|mapping| [mapping.container_id(), mapping.host_id(), mapping.size()]).collect()
}

/// Whether the map is of this id alone.
fn is_own(map: &[[u32; 3]], id: u32) -> bool {
    matches!(map, [[_, host, 1]] if *host == id)
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

/// The most that is kept of what a helper says.
const HELPER_OUTPUT: usize = 4096;

/// Runs a helper of the shadow package, from where the distributions put it and not from PATH, with numbers as its only
/// arguments and nothing in its environment (row E7).
fn run_helper(name: &str, pid: Pid, map: &[[u32; 3]]) -> Result<()> {
    let what = || format!("run {name}");
    let mut arguments = vec![name.to_owned(), pid.to_string()];
    arguments.extend(map.iter().flatten().map(u32::to_string));
    let line = arguments.join(" ");
    let c_string = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
    let arguments =
        arguments.iter().map(|text| c_string(text)).collect::<nix::Result<Vec<_>>>().context(what)?;
    let null = crate::sys::path::open_given("/dev/null", OFlag::O_RDWR, Mode::empty()).context(what)?;
    let (output, end) = pipe2(OFlag::O_CLOEXEC).context(what)?;
    let start = |directory: &str| {
        let path = c_string(&format!("{directory}/{name}"))?;
        let stdio = [null.as_fd(), end.as_fd(), end.as_fd()];
        spawn(&Program { path: &path, args: &arguments, env: &[], cwd: None, stdio })
    };
    let helper = match start("/usr/bin") {
        Err(Errno::ENOENT) => start("/bin"),
        other => other,
    }
    .context(what)?;
    drop(end);
    let said = read_to_end(&output, HELPER_OUTPUT).unwrap_or_default();
    match waitpid(helper, None).context(what)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ => Err(Error::new(format!("{line}: {}", String::from_utf8_lossy(said.trim_ascii())))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md E5: a map of one's own group needs setgroups denied, a longer one goes through the helper.
    #[test]
    fn e5_own_maps_are_one_line_of_size_one() {
        assert!(is_own(&[[0, 1000, 1]], 1000));
        assert!(!is_own(&[[0, 1000, 1]], 1001));
        assert!(!is_own(&[[0, 1000, 2]], 1000));
        assert!(!is_own(&[[0, 1000, 1], [1, 100_000, 65_535]], 1000));
    }
}
