//! `skeg create`: the story of how a container comes to life.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::{Process, Spec};

use crate::bundle::{self, Bundle};
use crate::cgroup::{self, Cgroup, CgroupPaths, CgroupPlan, Hierarchies};
use crate::cli::CreateOptions;
use crate::console;
use crate::error::{Context as _, Error, Result};
use crate::gate::{self, Gate};
use crate::hooks::{self, Kind};
use crate::init::{self, Init};
use crate::log::{self, Level, Log};
use crate::namespaces::{self, OpenNamespace, PID, TIME, USER};
use crate::plan::{self, Plan};
use crate::rootfs;
use crate::security::lsm;
use crate::spawn::{Attendance, Side, Spawned, attend};
use crate::state::{ContainerDir, Lock, State, StateRoot, Status};
use crate::sync::Message;
use crate::sys::fd::send_with_fds;
use crate::sys::path::replace_given;
use crate::sys::process::permitted_capabilities;
use crate::sys::procfs::Procfs;
use crate::{notify_socket, rdt, sysctl};

/// What every command has from the flags before it.
#[derive(Debug, Clone)]
pub struct Global {
    /// The state root.
    pub root: PathBuf,
    /// Who makes cgroups, and whether without rights.
    pub cgroup: cgroup::Options,
    /// How many descriptors from 3 on the caller hands on (`--preserve-fds` and `LISTEN_FDS`).
    pub handed_on: u32,
    /// How many of them are sockets that the program is told of.
    pub listen_fds: u32,
    /// The service manager's socket, where there is one.
    pub notify_socket: Option<OsString>,
}

/// Where the terminal of a container goes.
#[derive(Debug)]
pub enum Terminal {
    /// To the manager's console socket.
    Socket,
    /// To the foreground half of this command, by this end of a socket pair.
    Foreground(OwnedFd),
}

/// A container that is ready to be started, and not yet let go.
#[derive(Debug)]
pub struct Created {
    /// The configuration.
    pub spec: Spec,
    /// Its state directory.
    pub dir: ContainerDir,
    /// What is recorded.
    pub state: State,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its process.
    pub init: Spawned,
    /// Held until it is created, and what tells others that it is being created.
    pub lock: Option<Lock>,
}

/// `skeg create`.
///
/// # Errors
/// What was being done, and why it failed; nothing is left behind.
pub fn create(global: &Global, options: &CreateOptions, log: &mut Log) -> Result<()> {
    let created = prepare(global, options, Some(Terminal::Socket), true, log)?;
    let finish = || -> Result<()> {
        announce(&created.init, options)?;
        gate::set_created(&created.dir)?;
        created.init.answer(&Message::Proceed)
    };
    finish().inspect_err(|_| created.undo(log))
}

/// Everything up to the point where the init process waits: for `start` behind the gate, or, without one, for `run`.
///
/// Decides first, acts then, and takes back what it did where a later step fails.
///
/// # Errors
/// What was being done, and why it failed; nothing is left behind.
pub fn prepare(
    global: &Global,
    options: &CreateOptions,
    terminal: Option<Terminal>,
    with_gate: bool,
    log: &mut Log,
) -> Result<Created> {
    let decided = decide(global, options, log)?;
    let console = open_console(&decided.process, options, terminal)?;
    let joins = namespaces::open(&decided.plan.namespaces)?;
    sysctl::check_joined(&decided.plan.sysctls, &joins)?;
    let mut making = Making::begin(global, &decided, options)?;
    match making.make(global, options, &decided, Opened { console, joins, with_gate }) {
        Ok(()) => making.made(decided.spec),
        Err(error) => {
            making.undo(&decided.spec, log);
            Err(error)
        }
    }
}

/// What is known before anything is touched.
#[derive(Debug)]
struct Decided {
    bundle: Bundle,
    /// The text of config.json, for the state directory.
    text: Vec<u8>,
    spec: Spec,
    process: Process,
    cgroup: CgroupPlan,
    plan: Plan,
    rdt: Option<rdt::Group>,
}

fn decide(global: &Global, options: &CreateOptions, log: &mut Log) -> Result<Decided> {
    let bundle = Bundle::open(&options.bundle)?;
    let config = bundle::load(&bundle)?;
    config.warnings.iter().for_each(|warning| log.warn(warning.as_str()));
    bundle::validate(&config.value)?.into_iter().for_each(|warning| log.warn(warning));
    if log.takes(Level::Debug) {
        let unknown = config.unknown_properties();
        unknown.iter().for_each(|pointer| log.debug(|| format!("{pointer}: unknown property, ignored")));
    }
    let (mut spec, text) = (config.value, config.text);
    if global.notify_socket.is_some() {
        notify_socket::add_to(&mut spec, &global.root, options.id.as_str())?;
    }
    let process = spec.process().clone().ok_or_else(|| Error::new("/process: must be given"))?;
    let hierarchies =
        Hierarchies::detect(&Procfs::mounted()?, cgroup::needs_own_cgroup(&spec, global.cgroup.manager))?;
    let cgroup = cgroup::plan(&spec, options.id.as_str(), global.cgroup, &hierarchies)?;
    let plan = Plan::new(&spec, plan::facts(options.no_pivot, &cgroup.shown()))?;
    for name in plan.unknown_system_calls() {
        log.debug(|| format!("/linux/seccomp/syscalls: {name:?}: no such system call, ignored"));
    }
    let rdt = rdt::Group::of(&spec, options.id.as_str())?;
    Ok(Decided { bundle, text, spec, process, cgroup, plan, rdt })
}

/// What is opened before the container has a directory, and given to the init process.
#[derive(Debug)]
struct Opened {
    console: Option<OwnedFd>,
    joins: Vec<OpenNamespace>,
    with_gate: bool,
}

/// A container that is being made: what has to be taken back if that fails.
#[derive(Debug)]
struct Making {
    dir: ContainerDir,
    lock: Lock,
    state: State,
    cgroup: Option<Cgroup>,
    init: Option<Spawned>,
}

impl Making {
    fn begin(global: &Global, decided: &Decided, options: &CreateOptions) -> Result<Self> {
        let dir = StateRoot::open_or_create(&global.root)?.create(&options.id)?;
        let lock = dir.lock()?;
        let mut state = first_state(&decided.spec, &decided.bundle, &dir, &decided.cgroup.paths());
        state.rdt.clone_from(&decided.rdt);
        state.own_pid_namespace = decided.plan.namespaces.is_new(PID);
        Ok(Self { dir, lock, state, cgroup: None, init: None })
    }

    /// Record, cgroup, sources, gate, clone, and whatever the init process asks for until it is ready.
    fn make(
        &mut self,
        global: &Global,
        options: &CreateOptions,
        decided: &Decided,
        opened: Opened,
    ) -> Result<()> {
        let Decided { spec, process, plan, bundle, .. } = decided;
        self.dir.write_config(&decided.text)?;
        self.dir.write_state(&self.state)?;
        if global.notify_socket.is_some() {
            self.dir.make_notify()?;
        }
        let cgroup = self.cgroup.insert(Cgroup::create(&decided.cgroup)?);
        // Without rights some of them may not have been made.
        self.state.cgroup = cgroup.paths();
        self.state.rdt.as_ref().map_or(Ok(()), |group| group.make(spec))?;
        let open_sources = || rootfs::open_sources(&plan.rootfs, bundle.dir(), &opened.joins);
        let sources = opens_sources(plan)?.then(open_sources).transpose()?;
        let gate = Gate::make(&self.dir)?;
        let entry = cgroup.entry()?;
        let init = Init {
            spec,
            process,
            plan,
            state: &self.state,
            bundle: bundle.path(),
            sources,
            gate: opened.with_gate.then_some(gate),
            namespaces: opened.joins,
            console: opened.console,
            procfs: open_procfs(plan, process)?,
            hosts_procfs: plan.namespaces.joins(USER).then(Procfs::mounted).transpose()?,
            may_set_groups: plan.may_set_groups,
            rdt: self.state.rdt.as_ref().map(rdt::Group::entry).transpose()?,
            new_keyring: !options.no_new_keyring,
            handed_on: global.handed_on,
            listen_fds: global.listen_fds,
        };
        let v2_dir = entry.v2_dir.as_ref().map(AsFd::as_fd);
        let spawned = match Spawned::clone(plan.stages.first_clone, v2_dir)? {
            Side::Child(channel) => init::run(init, &entry, channel),
            Side::Parent(spawned) => spawned,
        };
        drop(init);
        let to = Attendance { spec, process, plan, dir: &self.dir };
        attend(self.init.insert(spawned), &to, &mut self.state)
    }

    fn made(self, spec: Spec) -> Result<Created> {
        let Self { dir, lock, state, cgroup, init } = self;
        let init = init.ok_or_else(|| Error::new("no init process has been made"))?;
        Ok(Created { spec, dir, state, cgroup, init, lock: Some(lock) })
    }

    fn undo(self, spec: &Spec, log: &mut Log) {
        undo(self.dir, &self.state, self.cgroup, self.init, spec, log);
    }
}

impl Created {
    /// Takes all of it back.
    pub fn undo(self, log: &mut Log) {
        undo(self.dir, &self.state, self.cgroup, Some(self.init), &self.spec, log);
    }
}

/// In the reverse order of making. What cannot be taken back is a warning beside the error that led here.
fn undo(
    dir: ContainerDir,
    state: &State,
    cgroup: Option<Cgroup>,
    init: Option<Spawned>,
    spec: &Spec,
    log: &mut Log,
) {
    if let Some(init) = &init {
        init.destroy();
    }
    if let Some(cgroup) = cgroup
        && let Err(error) = cgroup.kill_all().and_then(|()| cgroup.destroy())
    {
        log.warn(error.to_string());
    }
    if let Some(Err(error)) = state.rdt.as_ref().map(rdt::Group::remove) {
        log.warn(error.to_string());
    }
    // runtime.md, lifecycle: a container that fails after its environment was made is destroyed like any other.
    let poststop = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default();
    if let (Some(_), false) = (&init, poststop.is_empty()) {
        let ran = state
            .to_hooks(Status::Stopped)
            .and_then(|json| hooks::run(Kind::Poststop, poststop, &json, Some(&state.bundle)));
        match ran {
            Ok(warnings) => warnings.into_iter().for_each(|warning| log.warn(warning)),
            Err(error) => log.warn(error.to_string()),
        }
    }
    if let Err(error) = dir.remove() {
        log.warn(error.to_string());
    }
}

/// Tells the manager of the process: pid file and pidfd.
///
/// # Errors
/// What writing or sending said.
pub fn announce(init: &Spawned, options: &CreateOptions) -> Result<()> {
    if let Some(path) = &options.pid_file {
        replace_given(path, init.pid.to_string().as_bytes())
            .context(|| format!("write the pid file {}", path.display()))?;
    }
    if let Some(path) = &options.pidfd_socket {
        send_pidfd(path, &init.pidfd)?;
    }
    Ok(())
}

/// Sends a pidfd over the socket at `path` (`--pidfd-socket`).
///
/// # Errors
/// What connecting or sending said.
pub fn send_pidfd(path: &std::path::Path, pidfd: &OwnedFd) -> Result<()> {
    let socket = console::connect_socket(path)?;
    send_with_fds(&socket, b"pidfd", &[pidfd.as_fd()])
        .context(|| format!("send the pidfd over {}", path.display()))
}

/// Where the master of the terminal will go. A terminal needs somebody who takes it, and a socket needs a terminal.
fn open_console(
    process: &Process,
    options: &CreateOptions,
    terminal: Option<Terminal>,
) -> Result<Option<OwnedFd>> {
    match (process.terminal() == Some(true), &options.console_socket, terminal) {
        (true, Some(path), _) => console::connect_socket(path).map(Some),
        (true, None, Some(Terminal::Foreground(socket))) => Ok(Some(socket)),
        // runc's words.
        (true, None, _) => {
            Err(Error::new("cannot allocate tty if runc will detach without setting console socket"))
        }
        (false, Some(_), _) => {
            Err(Error::new("cannot use console socket if runc will not detach or allocate tty"))
        }
        (false, None, _) => Ok(None),
    }
}

/// Whether the runtime has the right to copy mounts in its mount namespace. Without it (rootless) the init process does
/// so in its own, where its user namespace gives it that right; what it can open is what the user can.
fn opens_sources(plan: &Plan) -> Result<bool> {
    let has_right = || {
        let permitted = permitted_capabilities().context(|| "read the capabilities")?;
        Ok(permitted & 1 << caps::Capability::CAP_SYS_ADMIN.index() != 0)
    };
    if plan.namespaces.has(USER) { has_right() } else { Ok(true) }
}

/// A procfs for what the init process writes there; none where it writes nothing.
fn open_procfs(plan: &Plan, process: &Process) -> Result<Option<Procfs>> {
    if !plan.sysctls.is_empty() {
        return Procfs::whole().map(Some);
    }
    let needed = lsm::wants_labels(process) || plan.namespaces.is_new(TIME);
    needed.then(Procfs::processes).transpose()
}

/// What is known before there is a process: enough for `delete` to find the cgroup of a `create` that was killed.
fn first_state(spec: &Spec, bundle: &Bundle, dir: &ContainerDir, cgroup: &CgroupPaths) -> State {
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    State {
        oci_version: spec.version().clone(),
        id: dir.id().to_string(),
        pid: 0,
        start_time: 0,
        boot_id: String::new(),
        bundle: bundle.path().to_owned(),
        rootfs: plan::rootfs_path(bundle.path(), &root),
        created: log::rfc3339(SystemTime::now()),
        owner: nix::unistd::geteuid().as_raw(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        namespaces: namespaces.iter().fold(0, |all, one| all | namespaces::kind_of(one.typ())),
        cgroup: cgroup.clone(),
        rdt: None,
        own_pid_namespace: false,
        hooks: spec.hooks().clone(),
    }
}
