//! The child's half of create: an ordered checklist that ends in the sealed program.
//!
//! It begins as a copy of the runtime's memory and descriptors, in the namespaces that the clone made, and it must not
//! return into the runtime's code: every way out is execve or `_exit`. It makes what takes a whole runtime to make:
//! namespaces, the root file system, the terminal. All that is the process's own (ids, capabilities, filter, waiting for
//! `start`) is done by the sealed program that it executes then (`init/src/become_process.rs`), so that nobody in the
//! container ever sees a process that runs from the host's file (rows C1, C2): until then this process is alone in a new
//! PID namespace, or in none of the container's. What fails is reported once, over the channel.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid};
use oci_spec::runtime::{Hooks, Process, Spec};

use crate::cgroup::CgroupEntry;
use crate::console;
use crate::error::{Context as _, Error, Result};
use crate::gate::Gate;
use crate::hooks::{self, Kind};
use crate::namespaces::{CGROUP, MOUNT, NETWORK, OpenNamespace, PID, TIME, USER};
use crate::plan::{Fork, Plan};
use crate::process;
use crate::rootfs::sources::MountSources;
use crate::rootfs::{self, Rootfs};
use crate::state::{State, Status};
use crate::sync::{Channel, Message};
use crate::sys::clone::{self, Cloned, clone_process, exit_now};
use crate::sys::path::{mkdir_all_in_root, open_given, open_in_root};
use crate::sys::process as sys;
use crate::sys::procfs::Procfs;
use crate::sys::seal::SealedProgram;
use crate::{net_devices, rdt, sysctl, timens, userns};

/// All that the init process has of the runtime.
#[derive(Debug)]
pub struct Init<'a> {
    /// The configuration.
    pub spec: &'a Spec,
    /// `/process`.
    pub process: &'a Process,
    /// What was decided.
    pub plan: &'a Plan,
    /// The state as the runtime knew it before the clone, for hooks.
    pub state: &'a State,
    /// What this process becomes.
    pub program: &'a SealedProgram,
    /// The bundle's path: the working directory of hooks that run on the host's files.
    pub bundle: &'a Path,
    /// The namespaces to join.
    pub namespaces: Vec<OpenNamespace>,
    /// What the runtime opened of the host's file systems, where it has the right to.
    pub sources: Option<MountSources>,
    /// Where the sealed program waits for `start`; none for `run`.
    pub gate: Option<Gate>,
    /// Where the master of the terminal goes; none without a terminal.
    pub console: Option<OwnedFd>,
    /// A procfs of the runtime's own namespaces, where something is to be written to one.
    pub procfs: Option<Procfs>,
    /// The runtime's procfs as it is mounted, where a user namespace is joined.
    pub hosts_procfs: Option<Procfs>,
    /// Whether it says that it is ready before the sealed program does its part.
    pub says_ready: bool,
    /// Whether setgroups(2) is allowed; of a user namespace that is joined, known once it is.
    pub may_set_groups: bool,
    /// Its place in resctrl.
    pub rdt: Option<rdt::Entry>,
}

/// Runs the checklist.
pub fn run(mut init: Init<'_>, cgroup: &CgroupEntry, channel: &Channel) -> ! {
    let error = match init.prepare(cgroup, channel) {
        Ok(()) => init.go_on_sealed(channel),
        Err(error) => error,
    };
    let _ = channel.send(&Message::Error(error));
    exit_now(1)
}

impl Init<'_> {
    /// Everything up to the sealed program.
    fn prepare(&mut self, cgroup: &CgroupEntry, channel: &Channel) -> Result<()> {
        die_with_parent()?;
        nix::unistd::setsid().context(|| "make a session")?;
        if !self.plan.cgroup_later {
            enter_cgroup(cgroup, channel)?;
        }
        self.rdt.as_ref().map_or(Ok(()), rdt::Entry::enter_self)?;
        self.enter_namespaces(channel)?;
        if self.plan.namespaces.is_new(NETWORK) {
            bring_loopback_up()?;
        }
        let terminal = self.make_root(cgroup, channel)?;
        self.set_names()?;
        let owner = Uid::from_raw(self.process.user().uid());
        match terminal {
            Some(peer) => console::use_terminal(&peer, owner)?,
            None => console::give_pipes_to(owner)?,
        }
        if self.plan.stages.fork == Some(Fork::AfterPivot) && !self.plan.stages.unshare_user {
            // The sealed program's child will be in it, which alone its members see.
            self.join_pid_namespace()?;
        }
        Ok(())
    }

    /// Executes the sealed program; returns only to say why not.
    fn go_on_sealed(&self, channel: &Channel) -> Error {
        let gate = self.gate.iter().flat_map(Gate::descriptors);
        let procfs = self.procfs.iter().map(AsFd::as_fd);
        if self.says_ready
            && let Err(error) = channel.send(&Message::Ready)
        {
            return error;
        }
        let keep: Vec<_> = gate.chain(procfs).chain([channel.as_fd()]).collect();
        self.program.execute(&keep, self.may_set_groups)
    }

    /// Joins what exists and makes what the clone could not make, in the order that the plan's stages ask for.
    fn enter_namespaces(&mut self, channel: &Channel) -> Result<()> {
        let plan = self.plan;
        let namespaces = &plan.namespaces;
        for namespace in self.namespaces.iter().filter(|namespace| namespace.kind != PID) {
            namespace.join()?;
        }
        if namespaces.joins(USER) {
            if let Some(procfs) = &self.hosts_procfs {
                self.may_set_groups = userns::may_set_groups(procfs)?;
            }
            self.become_root_of_namespace()?;
        }
        if let Some(Fork::BeforeRootfs(kinds)) = self.plan.stages.fork {
            go_on_as_sibling(channel, kinds)?;
        }
        if self.plan.stages.unshare_user {
            // Only a child will be in the PID namespace: none of its members sees this process (row C5).
            self.join_pid_namespace()?;
            clone::unshare(USER).context(|| "make a user namespace")?;
        }
        if namespaces.is_new(TIME) {
            timens::unshare()?;
        }
        if namespaces.is_new(USER) || namespaces.is_new(TIME) {
            channel.send(&Message::NeedsMaps)?;
            match channel.receive_or_end()? {
                Message::Mapped => {}
                other => return Err(unexpected(&other)),
            }
        }
        if namespaces.is_new(USER) {
            self.become_root_of_namespace()?;
        }
        // A mount namespace that stands alone is made of the root tree, with it.
        let alone = if plan.rootfs.stands_alone { MOUNT } else { 0 };
        if plan.stages.unshare & !alone != 0 {
            clone::unshare(plan.stages.unshare & !alone).context(|| "make namespaces")?;
        }
        if namespaces.is_new(CGROUP) && !plan.cgroup_later {
            make_cgroup_namespace()?;
        }
        if let (true, Some(procfs)) = (namespaces.is_new(TIME), &self.procfs) {
            timens::enter(procfs)?;
        }
        Ok(())
    }

    /// Root of the user namespace, and not to be looked into by those who are in it already (row C4): a change of ids
    /// may have made the process dumpable.
    fn become_root_of_namespace(&self) -> Result<()> {
        let groups = self.may_set_groups.then_some(&[][..]);
        sys::set_ids(0, 0, groups).context(|| "become root in the user namespace")?;
        prctl::set_dumpable(false).context(|| "stop being dumpable")?;
        die_with_parent()
    }

    /// The root file system, from the first mount to the last mask. Returns the peer of the terminal.
    fn make_root(&mut self, cgroup: &CgroupEntry, channel: &Channel) -> Result<Option<OwnedFd>> {
        let spec_hooks = self.spec.hooks().as_ref();
        let sources = match self.sources.take() {
            Some(sources) => sources,
            None => self.open_sources()?,
        };
        let mut rootfs = Rootfs::attach(&self.plan.rootfs, self.bundle, sources)?;
        rootfs.mount_before_cgroup()?;
        if self.plan.cgroup_later {
            enter_cgroup(cgroup, channel)?;
            make_cgroup_namespace()?;
        }
        rootfs.mount_rest()?;
        rootfs.make_devices()?;
        if spec_hooks.is_some_and(runs_on_host) || net_devices::of(self.spec).is_some() {
            channel.send(&Message::RootfsMounted)?;
            match channel.receive_or_end()? {
                Message::HooksDone => {}
                other => return Err(unexpected(&other)),
            }
        }
        if let Some(hooks) = spec_hooks.and_then(|hooks| hooks.create_container().as_deref()) {
            let state = self.hook_state(Status::Creating)?;
            hooks::run(Kind::CreateContainer, hooks, &state, Some(self.bundle))?;
        }
        rootfs.pivot()?;
        let terminal = self.make_terminal(&rootfs)?;
        make_working_directory(&rootfs, self.process.cwd())?;
        rootfs.finish()?;
        if let Some(procfs) = &self.procfs {
            sysctl::apply(&self.plan.sysctls, procfs)?;
        }
        rootfs.protect_paths()?;
        Ok(terminal)
    }

    /// The bundle's directory by its path, since a descriptor of the runtime's belongs to another mount namespace.
    fn open_sources(&self) -> Result<MountSources> {
        let bundle = open_given(self.bundle, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
            .context(|| format!("open bundle {}", self.bundle.display()))?;
        rootfs::open_sources(&self.plan.rootfs, bundle.as_fd(), &self.namespaces)
    }

    fn join_pid_namespace(&self) -> Result<()> {
        let mut namespaces = self.namespaces.iter();
        namespaces.find(|namespace| namespace.kind == PID).map_or(Ok(()), OpenNamespace::join)
    }

    /// The terminal comes from the container's own devpts; its master goes to the manager or to our foreground half.
    fn make_terminal(&mut self, rootfs: &Rootfs<'_>) -> Result<Option<OwnedFd>> {
        let Some(socket) = self.console.take() else { return Ok(None) };
        let pty = console::open_pty(rootfs.root())?;
        if let Some(size) = self.process.console_size() {
            console::set_size(&pty.master, &size)?;
        }
        rootfs.bind_console(&pty.peer)?;
        console::send_master(&socket, &pty.master)?;
        Ok(Some(pty.peer))
    }

    fn set_names(&self) -> Result<()> {
        if let Some(hostname) = self.spec.hostname() {
            nix::unistd::sethostname(hostname).context(|| format!("/hostname: set {hostname:?}"))?;
        }
        if let Some(domainname) = self.spec.domainname() {
            sys::set_domainname(domainname).context(|| format!("/domainname: set {domainname:?}"))?;
        }
        Ok(())
    }

    /// In the container's PID namespace, where these hooks run, the init process has the number that it sees.
    fn hook_state(&self, status: Status) -> Result<Vec<u8>> {
        let mut state = self.state.clone();
        state.pid = Pid::this().as_raw();
        state.to_hooks(status)
    }
}

/// Brings this process into its cgroup, and lets it run on all the CPUs that it has there.
fn enter_cgroup(cgroup: &CgroupEntry, channel: &Channel) -> Result<()> {
    cgroup.enter(channel)?;
    process::reset_affinity();
    Ok(())
}

fn make_cgroup_namespace() -> Result<()> {
    clone::unshare(CGROUP).context(|| "make a cgroup namespace")
}

/// Whether any hook runs in the runtime's namespaces while the container is being created.
fn runs_on_host(hooks: &Hooks) -> bool {
    [hooks.prestart(), hooks.create_runtime()]
        .iter()
        .any(|hooks| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty()))
}

/// Goes on as another process, in new namespaces of these `CLONE_NEW*` bits, whose parent is the runtime as well.
fn go_on_as_sibling(channel: &Channel, kinds: u64) -> Result<()> {
    match clone_process(kinds, None, true).context(|| "fork")? {
        Cloned::Parent { pid, .. } => {
            channel.send(&Message::Forked(pid))?;
            exit_now(0)
        }
        Cloned::Child => {
            die_with_parent()?;
            nix::unistd::setsid().context(|| "make a session")?;
            // What this process says must not overtake the message above.
            match channel.receive_or_end()? {
                Message::Adopted => Ok(()),
                other => Err(unexpected(&other)),
            }
        }
    }
}

/// A runtime that is killed leaves no half-made container behind. The parent may have died before the call: then the
/// channel's end of file ends this process at the next message.
///
/// # Errors
/// The errno of prctl(2).
pub fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context(|| "set the parent-death signal")
}

/// A new network namespace has `lo`, and it is down (network_namespaces(7)).
fn bring_loopback_up() -> Result<()> {
    let what = || "bring the loopback interface up";
    let socket =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).context(what)?;
    sys::bring_loopback_up(&socket).context(what)
}

/// A working directory that the image does not have is made, as runc does, while the root can still be written to. What
/// is there is not touched (row A13).
fn make_working_directory(rootfs: &Rootfs<'_>, cwd: &Path) -> Result<()> {
    if cwd == Path::new("/") || open_in_root(rootfs.root(), cwd, OFlag::O_PATH).is_ok() {
        return Ok(());
    }
    // A directory that cannot be made is an error when it is entered, which says more.
    let _ = mkdir_all_in_root(rootfs.root(), cwd, Mode::from_bits_truncate(0o755));
    Ok(())
}

fn unexpected(message: &Message) -> Error {
    Error::new(format!("the runtime sent {message:?} out of turn"))
}
