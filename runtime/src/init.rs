//! The child's half of create: an ordered checklist that ends in execve.
//!
//! It begins as a copy of the runtime's memory and descriptors, in the namespaces that the clone made, and it must not
//! return into the runtime's code: every way out is execve or `_exit`. What fails is reported once, over the channel
//! until the runtime has said `Proceed`, and through the gate to `start` after that.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
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
use crate::namespaces::{CGROUP, NETWORK, OpenNamespace, PID, TIME, USER};
use crate::plan::{Fork, Plan};
use crate::process::{self, Program, Security, limits_of, set_limits};
use crate::rootfs::sources::MountSources;
use crate::rootfs::{self, Rootfs};
use crate::state::{State, Status};
use crate::sync::{Channel, Message};
use crate::sys::clone::{self, Cloned, clone_process, exit_now};
use crate::sys::fd::{close_all_but, mark_cloexec_from, set_inheritable_range};
use crate::sys::path::{mkdir_all_in_root, open_given, open_in_root};
use crate::sys::procfs::Procfs;
use crate::sys::{process as sys, seccomp};
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
    /// The bundle's path: the working directory of hooks that run on the host's files.
    pub bundle: &'a Path,
    /// The namespaces to join.
    pub namespaces: Vec<OpenNamespace>,
    /// What the runtime opened of the host's file systems, where it has the right to.
    pub sources: Option<MountSources>,
    /// Where to wait for `start`; none for `run`.
    pub gate: Option<Gate>,
    /// Where the master of the terminal goes; none without a terminal.
    pub console: Option<OwnedFd>,
    /// A procfs of the runtime's own namespaces, where something is to be written to one.
    pub procfs: Option<Procfs>,
    /// The runtime's procfs as it is mounted, where a user namespace is joined.
    pub hosts_procfs: Option<Procfs>,
    /// Whether setgroups(2) is allowed; of a user namespace that is joined, known once it is.
    pub may_set_groups: bool,
    /// Its place in resctrl.
    pub rdt: Option<rdt::Entry>,
    /// A session keyring of its own.
    pub new_keyring: bool,
    /// How many descriptors from 3 on the program gets.
    pub handed_on: u32,
    /// How many of them are sockets that it is told of (`LISTEN_FDS`, sd_listen_fds(3)).
    pub listen_fds: u32,
}

/// Runs the checklist.
pub fn run(init: Init<'_>, cgroup: &CgroupEntry, channel: Channel) -> ! {
    let status = match init.become_container(cgroup, channel) {
        Ok(never) => match never {},
        Err(Failed::ToRuntime(channel, error)) => report(&error, |message| drop(channel.send(message))),
        Err(Failed::ToStart(gate, error)) => report(&error, |message| gate.tell(message)),
    };
    exit_now(status)
}

/// Tells whoever listens, and gives the exit status of a process that could not become the container's.
fn report(error: &Error, tell: impl FnOnce(&Message)) -> u8 {
    tell(&Message::Error(error.clone()));
    1
}

/// Nothing: execve does not return.
enum Never {}

/// What failed, and who is to hear of it.
enum Failed {
    /// The runtime still waits.
    ToRuntime(Channel, Error),
    /// The runtime has returned; `start` waits.
    ToStart(Gate, Error),
}

impl Init<'_> {
    fn become_container(
        mut self,
        cgroup: &CgroupEntry,
        channel: Channel,
    ) -> std::result::Result<Never, Failed> {
        let program = match self.prepare(cgroup, &channel) {
            Ok(program) => program,
            Err(error) => return Err(Failed::ToRuntime(channel, error)),
        };
        let Some(gate) = self.gate.take() else {
            let error = self.execute(&program, |message| drop(channel.send(message)));
            return Err(Failed::ToRuntime(channel, error));
        };
        // Nobody is at the other end any more once `create` has returned.
        let error = match gate.wait() {
            Ok(()) => self.execute(&program, |message| gate.tell(message)),
            Err(error) => error,
        };
        Err(Failed::ToStart(gate, error))
    }

    /// Everything up to the gate.
    fn prepare(&mut self, cgroup: &CgroupEntry, channel: &Channel) -> Result<Program> {
        die_with_parent()?;
        nix::unistd::setsid().context(|| "make a session")?;
        cgroup.enter_self()?;
        self.rdt.as_ref().map_or(Ok(()), rdt::Entry::enter_self)?;
        process::reset_affinity();
        self.enter_namespaces(channel)?;
        if self.plan.namespaces.is_new(NETWORK) {
            bring_loopback_up()?;
        }
        let terminal = self.make_root(channel)?;
        self.set_names()?;
        match terminal {
            Some(peer) => console::take_terminal(peer, Uid::from_raw(self.process.user().uid()))?,
            None => console::give_pipes_to(Uid::from_raw(self.process.user().uid()))?,
        }
        // Before the filter, which may be a profile that is older than close_range(2).
        let mut keep = vec![channel.descriptor()];
        keep.extend(self.gate.as_ref().map(Gate::descriptors).into_iter().flatten());
        keep.extend(self.procfs.as_ref().map(|procfs| procfs.as_fd().as_raw_fd()));
        close_host_descriptors(self.handed_on, &keep)?;
        let listener = process::apply_process_security(&self.security())?;
        self.procfs = None;
        let program = Program::find(self.process, &listen_variables(self.listen_fds))?;
        hand_over_listener(channel, listener)?;
        wait_to_proceed(channel)?;
        Ok(program)
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
        if self.plan.stages.unshare != 0 {
            clone::unshare(self.plan.stages.unshare).context(|| "make namespaces")?;
        }
        if namespaces.is_new(CGROUP) {
            clone::unshare(CGROUP).context(|| "make a cgroup namespace")?;
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
    fn make_root(&mut self, channel: &Channel) -> Result<Option<OwnedFd>> {
        let spec_hooks = self.spec.hooks().as_ref();
        let sources = match self.sources.take() {
            Some(sources) => sources,
            None => self.open_sources()?,
        };
        let mut rootfs = Rootfs::attach(&self.plan.rootfs, self.bundle, sources)?;
        rootfs.mount()?;
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
        if self.plan.stages.fork == Some(Fork::AfterPivot) {
            if !self.plan.stages.unshare_user {
                self.join_pid_namespace()?;
            }
            go_on_as_sibling(channel, 0)?;
        }
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

    fn security(&self) -> Security<'_> {
        Security {
            process: self.process,
            linux: self.spec.linux().as_ref(),
            seccomp: self.plan.seccomp.as_ref(),
            new_keyring: self.new_keyring,
            procfs: self.procfs.as_ref(),
            may_set_groups: self.may_set_groups,
        }
    }

    /// startContainer hooks, then the program; returns only to say what failed.
    fn execute(&self, program: &Program, tell: impl Fn(&Message)) -> Error {
        let hooks = self.spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref());
        if let Some(hooks) = hooks {
            let ran = self
                .hook_state(Status::Created)
                .and_then(|state| hooks::run(Kind::StartContainer, hooks, &state, None));
            if let Err(error) = ran {
                return error;
            }
        }
        leave(&self.security(), self.handed_on, program, || tell(&Message::Executing))
    }

    /// In the container's PID namespace, where these hooks run, the init process has the number that it sees.
    fn hook_state(&self, status: Status) -> Result<Vec<u8>> {
        let mut state = self.state.clone();
        state.pid = Pid::this().as_raw();
        state.to_hooks(status)
    }
}

/// Whether any hook runs in the runtime's namespaces while the container is being created.
fn runs_on_host(hooks: &Hooks) -> bool {
    [hooks.prestart(), hooks.create_runtime()]
        .iter()
        .any(|hooks| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty()))
}

/// Goes on as another process, in new namespaces of these `CLONE_NEW*` bits and in the PID namespace that was joined,
/// whose parent is the runtime as well.
///
/// # Errors
/// The errno of clone3(2) or setsid(2).
pub fn go_on_as_sibling(channel: &Channel, kinds: u64) -> Result<()> {
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

/// Gives the seccomp listener, if any, to the runtime, and waits until it has been handed on.
///
/// # Errors
/// The runtime has ended.
pub fn hand_over_listener(channel: &Channel, listener: Option<OwnedFd>) -> Result<()> {
    let Some(listener) = listener else { return Ok(()) };
    channel.send(&Message::SeccompListener(listener.as_raw_fd()))?;
    match channel.receive_or_end()? {
        Message::ListenerSent => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Says that all is set, and waits. From here on the runtime's end is no reason to end (it returns after `create`), but
/// only once it has said so.
///
/// # Errors
/// The runtime has ended.
pub fn wait_to_proceed(channel: &Channel) -> Result<()> {
    prctl::set_pdeathsig(None::<Signal>).context(|| "clear the parent-death signal")?;
    channel.send(&Message::Ready)?;
    match channel.receive_or_end()? {
        Message::Proceed => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// The very last steps, the same for the init process and an exec process: descriptors, signals, limits, the
/// announcement, and the filter that nothing but execve has to pass. Returns only to say what failed.
pub fn leave(security: &Security<'_>, handed_on: u32, program: &Program, announce: impl FnOnce()) -> Error {
    let prepare = || -> Result<()> {
        match mark_cloexec_from(3) {
            // A filter that is in force already may not allow it; what is open has been close-on-exec since it was opened.
            Err(_) if security.seccomp.is_some() && security.late_filter().is_none() => {}
            result => result.context(|| "close descriptors")?,
        }
        set_inheritable_range(3, handed_on).context(|| "hand descriptors on")?;
        sys::reset_signals().context(|| "reset the signals")?;
        set_limits(limits_of(security.process))
    };
    if let Err(error) = prepare() {
        return error;
    }
    announce();
    if let Some(filter) = security.late_filter()
        && let Err(error) = seccomp::load(&filter.program, filter.flags).context(|| "load the seccomp filter")
    {
        return error;
    }
    program.execute()
}

/// Closes what the runtime had open: cgroups, the state directory, the bundle. From here on the process holds the
/// standard descriptors, those that are handed on, and `keep`, which are close-on-exec (rows A10, C3).
///
/// # Errors
/// The errno of close_range(2).
pub fn close_host_descriptors(handed_on: u32, keep: &[RawFd]) -> Result<()> {
    let first = RawFd::try_from(handed_on).ok().and_then(|count| count.checked_add(3)).unwrap_or(RawFd::MAX);
    close_all_but(first, &mut keep.to_vec()).context(|| "close the runtime's descriptors")
}

/// What sd_listen_fds(3) looks for: the sockets are meant for the process with this number.
pub fn listen_variables(count: u32) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    vec![format!("LISTEN_FDS={count}"), format!("LISTEN_PID={}", Pid::this())]
}

fn unexpected(message: &Message) -> Error {
    Error::new(format!("the runtime sent {message:?} out of turn"))
}
