//! Namespaces to make and to join (config-linux.md, namespaces).

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::error::{Context as _, Error, Result};
use crate::sys::clone::{self, NEWTIME};
use crate::sys::path::{open_given, stat};
use crate::sys::procfs::Procfs;

/// `CLONE_NEWCGROUP`.
pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// `CLONE_NEWIPC`.
pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
/// `CLONE_NEWNET`.
pub const NETWORK: u64 = libc::CLONE_NEWNET as u64;
/// `CLONE_NEWNS`.
pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
/// `CLONE_NEWPID`.
pub const PID: u64 = libc::CLONE_NEWPID as u64;
/// `CLONE_NEWTIME`.
pub const TIME: u64 = NEWTIME;
/// `CLONE_NEWUSER`.
pub const USER: u64 = libc::CLONE_NEWUSER as u64;
/// `CLONE_NEWUTS`.
pub const UTS: u64 = libc::CLONE_NEWUTS as u64;

/// The name that config.json has for a namespace type.
pub fn name(kind: u64) -> &'static str {
    match kind {
        CGROUP => "cgroup",
        IPC => "ipc",
        NETWORK => "network",
        MOUNT => "mount",
        PID => "pid",
        TIME => "time",
        USER => "user",
        UTS => "uts",
        _ => "unknown",
    }
}

/// The name that `/proc/PID/ns` has for a namespace type.
fn file_name(kind: u64) -> &'static str {
    match kind {
        NETWORK => "net",
        MOUNT => "mnt",
        other => name(other),
    }
}

/// The `CLONE_NEW*` bit of a namespace type.
pub fn kind_of(namespace: LinuxNamespaceType) -> u64 {
    match namespace {
        LinuxNamespaceType::Cgroup => CGROUP,
        LinuxNamespaceType::Ipc => IPC,
        LinuxNamespaceType::Network => NETWORK,
        LinuxNamespaceType::Mount => MOUNT,
        LinuxNamespaceType::Pid => PID,
        LinuxNamespaceType::Time => TIME,
        LinuxNamespaceType::User => USER,
        LinuxNamespaceType::Uts => UTS,
    }
}

/// A namespace to join by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Its `CLONE_NEW*` bit.
    pub kind: u64,
    /// `/linux/namespaces/N/path`.
    pub path: PathBuf,
    /// N.
    index: usize,
}

#[cfg(test)]
impl Join {
    /// For tests that look at types only.
    pub fn for_test(kind: u64) -> Self {
        Self { kind, path: PathBuf::new(), index: 0 }
    }
}

/// Which namespaces a container has of its own, and which it joins. Those in neither are the runtime's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Types to make: `CLONE_NEW*` bits.
    pub new: u64,
    /// Those to join.
    pub joins: Vec<Join>,
}

impl NamespacePlan {
    /// Reads `/linux/namespaces`.
    ///
    /// # Errors
    /// A type that is there twice (config-linux.md: MUST).
    pub fn new(namespaces: &[LinuxNamespace]) -> Result<Self> {
        let mut plan = Self::default();
        for (index, namespace) in namespaces.iter().enumerate() {
            let kind = kind_of(namespace.typ());
            if plan.has(kind) {
                let name = name(kind);
                return Err(Error::new(format!("/linux/namespaces/{index}/type: {name:?}: is there twice")));
            }
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => {
                    plan.joins.push(Join { kind, path: path.clone(), index });
                }
                _ => plan.new |= kind,
            }
        }
        Ok(plan)
    }

    /// Whether the container has a namespace of this type that is not simply the runtime's.
    pub fn has(&self, kind: u64) -> bool {
        self.is_new(kind) || self.joins(kind)
    }

    /// Whether the container gets a new namespace of this type.
    pub fn is_new(&self, kind: u64) -> bool {
        self.new & kind != 0
    }

    /// Whether the container joins a namespace of this type.
    pub fn joins(&self, kind: u64) -> bool {
        self.joins.iter().any(|join| join.kind == kind)
    }

    /// All types of which [`NamespacePlan::has`] is true.
    pub fn all(&self) -> u64 {
        self.joins.iter().fold(self.new, |all, join| all | join.kind)
    }
}

/// A namespace that is open, to be joined.
#[derive(Debug)]
pub struct OpenNamespace {
    /// Its `CLONE_NEW*` bit.
    pub kind: u64,
    fd: OwnedFd,
}

impl OpenNamespace {
    /// Whether it is the runtime's own: what belongs to it is the host's (row B6).
    ///
    /// # Errors
    /// The errno of the calls that compare them.
    pub fn is_own(&self, procfs: &Procfs) -> Result<bool> {
        let what = || format!("compare the {} namespace with the runtime's", name(self.kind));
        let own = procfs
            .open_own_magic_link(&format!("ns/{}", file_name(self.kind)), OFlag::O_RDONLY)
            .context(what)?;
        let (own, this) = (stat(&own).context(what)?, stat(&self.fd).context(what)?);
        Ok((own.st_dev, own.st_ino) == (this.st_dev, this.st_ino))
    }

    /// setns(2).
    ///
    /// # Errors
    /// What setns(2) said.
    pub fn join(&self) -> Result<()> {
        clone::join(&self.fd, self.kind).context(|| format!("join the {} namespace", name(self.kind)))
    }
}

/// Opens every namespace that is to be joined, before any is, in the order in which they are joined: PID last, since a
/// member of it can watch us (row C5). Root joins the user namespace after the others, which need not belong to it, and
/// anybody else before them, since it is where his rights come from.
///
/// # Errors
/// A path that is no namespace of the type it stands for (row F8); a FIFO is refused without waiting for it.
pub fn open(plan: &NamespacePlan) -> Result<Vec<OpenNamespace>> {
    let mut open = Vec::with_capacity(plan.joins.len());
    for join in &plan.joins {
        let what = || format!("/linux/namespaces/{}/path: {:?}", join.index, join.path);
        let fd = open_given(&join.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).context(what)?;
        match clone::namespace_type(fd.as_fd()) {
            Ok(kind) if kind == join.kind => open.push(OpenNamespace { kind, fd }),
            Ok(kind) => {
                let (is, wanted) = (name(kind), name(join.kind));
                return Err(Error::new(format!("{}: is a {is} namespace, not a {wanted} namespace", what())));
            }
            Err(_) => return Err(Error::new(format!("{}: is not a namespace", what()))),
        }
    }
    let user_first = !nix::unistd::geteuid().is_root();
    open.sort_by_key(|namespace| match namespace.kind {
        USER if user_first => 0,
        USER => 2,
        PID => 3,
        _ => 1,
    });
    Ok(open)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxNamespaceBuilder;

    use super::*;

    fn namespace(typ: LinuxNamespaceType, path: Option<&str>) -> LinuxNamespace {
        let builder = LinuxNamespaceBuilder::default().typ(typ);
        match path {
            Some(path) => builder.path(path).build().unwrap(),
            None => builder.build().unwrap(),
        }
    }

    /// config-linux.md: "The runtime MUST generate an error" for duplicates.
    #[test]
    fn a_type_that_is_there_twice_is_refused() {
        let twice =
            [namespace(LinuxNamespaceType::Pid, None), namespace(LinuxNamespaceType::Pid, Some("/x"))];
        let error = NamespacePlan::new(&twice).unwrap_err();
        assert_eq!(error.to_string(), "/linux/namespaces/1/type: \"pid\": is there twice");
    }

    /// security.md F8: what is joined is a namespace of the right type.
    #[test]
    fn f8_paths_are_checked() {
        let network = |path| {
            let plan = NamespacePlan::new(&[namespace(LinuxNamespaceType::Network, Some(path))]).unwrap();
            open(&plan).map(drop)
        };
        assert!(network("/proc/self/ns/net").is_ok());
        let wrong = network("/proc/self/ns/uts").unwrap_err().to_string();
        assert!(wrong.ends_with("is a uts namespace, not a network namespace"), "{wrong}");
        assert!(network("/dev/null").unwrap_err().to_string().ends_with("is not a namespace"));
        assert!(network("/nowhere").unwrap_err().to_string().ends_with("no such file or directory"));
    }

    #[test]
    fn the_user_namespace_is_joined_where_the_rights_are_and_the_pid_namespace_last() {
        let plan = NamespacePlan::new(&[
            namespace(LinuxNamespaceType::Pid, Some("/proc/self/ns/pid")),
            namespace(LinuxNamespaceType::Uts, Some("/proc/self/ns/uts")),
            namespace(LinuxNamespaceType::User, Some("/proc/self/ns/user")),
        ])
        .unwrap();
        let kinds: Vec<u64> = open(&plan).unwrap().iter().map(|namespace| namespace.kind).collect();
        let root = nix::unistd::geteuid().is_root();
        assert_eq!(kinds, if root { [UTS, USER, PID] } else { [USER, UTS, PID] });
    }
}
