//! `skeg create`: the story of how a container comes to life. [`prepare`] tells it; what it calls stands below it in that order,
//! and [`undo`] takes all of it back.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::bundle::{self, Bundle};
use crate::cgroup::systemd::Manager;
use crate::cgroup::{self, Cgroup, CgroupEntry, CgroupPaths, CgroupPlan, Hierarchies};
use crate::cli::CreateOptions;
use crate::console;
use crate::delete;
use crate::error::{Context as _, Error, Result};
use crate::gate::{self, Gate};
use crate::init::{self, Init};
use crate::log::{self, Log};
use crate::namespaces::{self, OpenNamespace, PID, TIME, USER};
use crate::plan::{self, Fork, Plan};
use crate::process::{self, Surroundings};
use crate::rootfs::{self, sources::MountSources};
use crate::security::lsm;
use crate::spawn::{Attendance, Spawned, attend};
use crate::state::{ContainerDir, Lock, State, StateRoot};
use crate::sync::{Channel, Message};
use crate::sys::clone::{Cloned, clone_process};
use crate::sys::process::permitted_capabilities;
use crate::sys::procfs::Procfs;
use crate::sys::seal::SealedProgram;
use crate::{notify_socket, rdt, sysctl, userns};

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

/// A container that is ready to be started, and not yet let go.
#[derive(Debug)]
pub struct Created {
    /// Its state directory.
    pub dir: ContainerDir,
    /// What is recorded.
    pub state: State,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its process.
    pub init: Spawned,
    /// Where its terminal comes from, for a command in the foreground.
    pub terminal: Option<OwnedFd>,
    /// Held until it is created, and what tells others that it is being created.
    pub lock: Option<Lock>,
}

/// `skeg create`.
///
/// # Errors
/// What was being done, and why it failed; nothing is left behind.
pub fn create(global: &Global, options: &CreateOptions, log: &mut Log) -> Result<()> {
    let created = prepare(global, options, Start::ByCommand, log)?;
    let finish = || -> Result<()> {
        created.init.announce(options.pid_file.as_deref(), options.pidfd_socket.as_deref())?;
        gate::set_created(&created.dir)?;
        created.init.answer(&Message::Proceed)
    };
    finish().inspect_err(|_| created.undo(log))
}

/// Who starts the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `start`: the init process waits for it behind the gate.
    ByCommand,
    /// This command, `run`, which then returns.
    Now,
    /// This command, which stays in the foreground: it takes a terminal that no `--console-socket` takes.
    InForeground,
}

/// Everything up to the point where the init process waits to be started.
///
/// # Errors
/// What was being done, and why it failed; nothing is left behind.
pub fn prepare(global: &Global, options: &CreateOptions, start: Start, log: &mut Log) -> Result<Created> {
    // Decide. Nothing is touched.
    let mut decided = decide(global, options, log)?;
    log.debug(|| format!("bundle {}: decided", decided.bundle.path().display()));
    let (mut inherited, terminal) = Inherited::open(&decided, start)?;
    // Act. `making` has what has to be taken back where a later step fails.
    let mut making = Making::begin(&decided)?;
    let make = || -> Result<()> {
        making.record(&decided)?;
        let entry = making.make_cgroup(&decided)?;
        making.make_rdt_group(&decided)?;
        inherited.sources = open_sources(&decided, &inherited.joins)?;
        inherited.gate = making.make_gate(start)?;
        inherited.procfs = open_procfs(&decided)?;
        let (ours, theirs) = Channel::pair()?;
        let program = sealed_program(&decided, &making.state, &inherited, &theirs)?;
        // Where the process waits for its cgroup, that is soon enough, and it is under way meanwhile.
        let waits = entry.later;
        if !waits {
            program.fill()?;
        }
        making.init = Some(spawn(&decided, &making.state, inherited, &program, entry, (ours, theirs))?);
        if waits {
            program.fill()?;
        }
        making.record_rest(&decided, start)?;
        making.finish_cgroup(&mut decided)?;
        making.attend(&decided)
    };
    match make() {
        Ok(()) => {
            log.debug(|| making.told());
            making.made(terminal)
        }
        Err(error) => {
            log.debug(|| "taking back what was made");
            making.undo(log);
            Err(error)
        }
    }
}

/// What is known before anything is touched.
#[derive(Debug)]
struct Decided<'a> {
    global: &'a Global,
    options: &'a CreateOptions,
    bundle: Bundle,
    /// The text of config.json, for the state directory.
    text: Vec<u8>,
    spec: Box<Spec>,
    process: Process,
    cgroup: CgroupPlan,
    /// Connected, where it makes the cgroup.
    systemd: Option<Manager>,
    plan: Plan,
    rdt: Option<rdt::Group>,
}

fn decide<'a>(global: &'a Global, options: &'a CreateOptions, log: &mut Log) -> Result<Decided<'a>> {
    let bundle = Bundle::open(&options.bundle)?;
    let config = bundle::load(&bundle)?;
    config.warn(log);
    bundle::validate(&config.value)?.into_iter().for_each(|warning| log.warn(warning));
    let (mut spec, text) = (config.value, config.text);
    if global.notify_socket.is_some() {
        notify_socket::add_to(&mut spec, &global.root, options.id.as_str())?;
    }
    let process = spec.process().clone().ok_or_else(|| Error::new("/process: must be given"))?;
    check_rights(&spec)?;
    let mut hierarchies =
        Hierarchies::detect(&Procfs::mounted()?, cgroup::needs_own_cgroup(&spec, global.cgroup.manager))?;
    let by_systemd = global.cgroup.manager == cgroup::Manager::Systemd;
    let systemd = by_systemd.then(|| Manager::of_caller(global.cgroup.rootless)).transpose()?;
    hierarchies.systemd = systemd.as_ref().map(|manager| manager.instance.clone());
    let cgroup = cgroup::plan(&spec, options.id.as_str(), global.cgroup, &hierarchies)?;
    let plan = Plan::new(&spec, plan::facts(options.no_pivot, &cgroup))?;
    for name in plan.unknown_system_calls() {
        log.debug(|| format!("/linux/seccomp/syscalls: {name:?}: no such system call, ignored"));
    }
    let rdt = rdt::Group::of(&spec, options.id.as_str())?;
    Ok(Decided { global, options, bundle, text, spec, process, cgroup, systemd, plan, rdt })
}

/// Namespaces are made by those who have the right to, and by anyone together with a user namespace: the first thing that a user
/// without privileges meets.
fn check_rights(spec: &Spec) -> Result<()> {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let has_user = namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User);
    if has_user || nix::unistd::geteuid().is_root() || has_sys_admin()? {
        return Ok(());
    }
    // runc's words.
    Err(Error::new("rootless container requires user namespaces: /linux/namespaces has none")
        .because("skeg spec --rootless writes a configuration for a user without privileges"))
}

fn has_sys_admin() -> Result<bool> {
    let permitted = permitted_capabilities().context(|| "read the capabilities")?;
    Ok(permitted & 1 << caps::Capability::CAP_SYS_ADMIN.index() != 0)
}

/// The descriptors that are opened for the init process.
#[derive(Debug)]
struct Inherited {
    /// Where the master of its terminal goes.
    console: Option<OwnedFd>,
    /// The namespaces to join.
    joins: Vec<OpenNamespace>,
    /// The host's file systems that it mounts.
    sources: Option<MountSources>,
    gate: Option<Gate>,
    procfs: Option<Procfs>,
}

impl Inherited {
    /// What can be opened before the container has a directory; and our own end of the terminal's way, which is not for the init process.
    fn open(decided: &Decided<'_>, start: Start) -> Result<(Self, Option<OwnedFd>)> {
        let socket = decided.options.console_socket.as_deref();
        let console = console::open(&decided.process, socket, start == Start::InForeground)?;
        let joins = namespaces::open(&decided.plan.namespaces)?;
        sysctl::check_joined(&decided.plan.sysctls, &joins)?;
        let inherited = Self { console: console.theirs, joins, sources: None, gate: None, procfs: None };
        Ok((inherited, console.ours))
    }
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
    /// Makes the state directory: from here on the id is taken.
    fn begin(decided: &Decided<'_>) -> Result<Self> {
        let dir = StateRoot::open_or_create(&decided.global.root)?.create(&decided.options.id)?;
        let lock = dir.lock().inspect_err(|_| drop(dir.remove()))?;
        let state = first_state(decided, &dir);
        Ok(Self { dir, lock, state, cgroup: None, init: None })
    }

    /// What `delete` needs to clear up after a `create` that was killed.
    fn record(&self, decided: &Decided<'_>) -> Result<()> {
        self.dir.write_state(&self.state)?;
        if decided.global.notify_socket.is_some() { self.dir.make_notify() } else { Ok(()) }
    }

    /// The cgroup with its limits, and how the init process enters it; [`Self::finish_cgroup`] makes the rest, or all of it.
    fn make_cgroup(&mut self, decided: &Decided<'_>) -> Result<CgroupEntry> {
        if decided.systemd.is_some() {
            return Ok(CgroupEntry::by_systemd());
        }
        if decided.plan.cgroup_later {
            let cgroup = self.cgroup.insert(Cgroup::begin(&decided.cgroup)?);
            return Ok(CgroupEntry { later: true, ..cgroup.entry()? });
        }
        let cgroup = self.cgroup.insert(Cgroup::create(&decided.cgroup)?);
        // Without rights some of them may not have been made.
        self.state.cgroup = cgroup.paths();
        cgroup.entry()
    }

    fn make_gate(&self, start: Start) -> Result<Option<Gate>> {
        (start == Start::ByCommand).then(|| Gate::make(&self.dir)).transpose()
    }

    /// What is of interest to others once there is a process on record, and not before.
    fn record_rest(&self, decided: &Decided<'_>, start: Start) -> Result<()> {
        if start != Start::ByCommand {
            gate::set_creating(&self.dir)?;
        }
        self.dir.write_config(&decided.text)
    }

    fn make_rdt_group(&self, decided: &Decided<'_>) -> Result<()> {
        self.state.rdt.as_ref().map_or(Ok(()), |group| group.make(&decided.spec))
    }

    /// What is made of the cgroup while the init process is under way: all of it by systemd, which takes the process into it;
    /// or the limits, and the v1 hierarchies, which the process enters itself.
    fn finish_cgroup(&mut self, decided: &mut Decided<'_>) -> Result<()> {
        let Some(init) = &self.init else { return Ok(()) };
        if let Some(systemd) = &mut decided.systemd {
            let cgroup = Cgroup::start_scope(&decided.cgroup, systemd, init.pid)?;
            self.cgroup.insert(cgroup).take_over(&decided.cgroup, systemd, init.pid)?;
            return init.place(&[]);
        }
        if let (true, Some(cgroup)) = (decided.plan.cgroup_later, &mut self.cgroup) {
            cgroup.finish(&decided.cgroup)?;
            self.state.cgroup = cgroup.paths();
            // A process that has failed meanwhile is no longer there to take it; what it said before is received next.
            let _ = init.place(&cgroup.entry()?.v1_tasks);
        }
        Ok(())
    }

    /// Whatever the init process asks for until it is ready.
    fn attend(&mut self, decided: &Decided<'_>) -> Result<()> {
        let Decided { spec, process, plan, .. } = decided;
        let to = Attendance { spec, process, plan, dir: &self.dir };
        self.init.as_mut().map_or(Ok(()), |init| attend(init, &to, &mut self.state))
    }

    /// What a person who looks for a container looks at.
    fn told(&self) -> String {
        let pid = self.init.as_ref().map_or(0, |init| init.pid.as_raw());
        let CgroupPaths { v1, v2, .. } = &self.state.cgroup;
        let groups: Vec<String> =
            v1.iter().chain(v2).map(|group| group.full().display().to_string()).collect();
        format!("init process {pid} is ready, its cgroups: {}", groups.join(" "))
    }

    fn made(self, terminal: Option<OwnedFd>) -> Result<Created> {
        let Self { dir, lock, state, cgroup, init } = self;
        let init = init.ok_or_else(|| Error::new("no init process has been made"))?;
        Ok(Created { dir, state, cgroup, init, terminal, lock: Some(lock) })
    }

    fn undo(self, log: &mut Log) {
        undo(self.dir, &self.state, self.cgroup, self.init, log);
    }
}

/// What is known before there is a process: enough for `delete` to find the cgroup of a `create` that was killed.
fn first_state(decided: &Decided<'_>, dir: &ContainerDir) -> State {
    let Decided { bundle, spec, .. } = decided;
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
        cgroup: decided.cgroup.paths(),
        rdt: decided.rdt.clone(),
        own_pid_namespace: decided.plan.namespaces.is_new(PID),
        hooks: spec.hooks().clone(),
    }
}

/// The host's file systems, where the runtime opens them. With cgroup v1 and no cgroup namespace the container's cgroup itself is
/// mounted; a scope of systemd's is not there yet, so that the init process opens it later.
fn open_sources(decided: &Decided<'_>, joins: &[OpenNamespace]) -> Result<Option<MountSources>> {
    if decided.cgroup.is_v1_scope() || !may_copy_mounts(&decided.plan)? {
        return Ok(None);
    }
    rootfs::open_sources(&decided.plan.rootfs, decided.bundle.dir(), joins).map(Some)
}

/// Whether the runtime has the right to copy mounts in its mount namespace. Without it (rootless) the init process does
/// so in its own, where its user namespace gives it that right; what it can open is what the user can.
fn may_copy_mounts(plan: &Plan) -> Result<bool> {
    if plan.namespaces.has(USER) { has_sys_admin() } else { Ok(true) }
}

/// A procfs for what the init process writes there; none where it writes nothing.
fn open_procfs(decided: &Decided<'_>) -> Result<Option<Procfs>> {
    let Decided { plan, process, .. } = decided;
    if !plan.sysctls.is_empty() {
        return Procfs::whole().map(Some);
    }
    let needed = lsm::wants_labels(process) || plan.namespaces.is_new(TIME);
    needed.then(Procfs::processes).transpose()
}

/// Whether the init process says that it is ready before it executes the sealed program: the runtime records it and answers while the
/// process does the rest, so that neither waits for the other. Not where the runtime has more to do for it until then, and not
/// behind a gate: what fails before that is told by `create`.
fn is_ready_early(plan: &Plan, gate: Option<&Gate>) -> bool {
    let notifies = plan.seccomp.as_ref().is_some_and(|filter| filter.uses_notify);
    gate.is_none() && plan.stages.fork != Some(Fork::AfterPivot) && !notifies
}

/// The program that the init process becomes, with all that the configuration gives it; not written yet.
fn sealed_program(
    decided: &Decided<'_>,
    state: &State,
    inherited: &Inherited,
    channel: &Channel,
) -> Result<SealedProgram> {
    let Decided { global, options, spec, process, plan, .. } = decided;
    let hooks =
        spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref()).unwrap_or_default();
    let state = if hooks.is_empty() { Default::default() } else { state.to_hooks_without_pid()? };
    let surroundings = Surroundings {
        linux: spec.linux().as_ref(),
        filter: plan.seccomp.as_ref(),
        channel: channel.descriptor(),
        gate: inherited.gate.as_ref().map(Gate::instruction),
        procfs: inherited.procfs.as_ref().map(|procfs| procfs.as_fd().as_raw_fd()),
        new_keyring: !options.no_new_keyring,
        said_ready: is_ready_early(plan, inherited.gate.as_ref()),
        fork: plan.stages.fork == Some(Fork::AfterPivot),
        terminal: inherited.console.is_some(),
        handed_on: global.handed_on,
        listen_fds: global.listen_fds,
        hooks,
        state: [&state[0], &state[1]],
    };
    SealedProgram::empty(process::instructions(process, &surroundings)?)
}

/// Clones the process that becomes the container's. Both ends of the channel to it are given: it keeps the second.
fn spawn(
    decided: &Decided<'_>,
    state: &State,
    inherited: Inherited,
    program: &SealedProgram,
    entry: CgroupEntry,
    (ours, theirs): (Channel, Channel),
) -> Result<Spawned> {
    let Decided { global, spec, process, plan, bundle, .. } = decided;
    let Inherited { console, joins, sources, gate, procfs } = inherited;
    let init = Init {
        spec,
        process,
        plan,
        state,
        program,
        bundle: bundle.path(),
        says_ready: is_ready_early(plan, gate.as_ref()),
        namespaces: joins,
        sources,
        gate,
        console,
        procfs,
        hosts_procfs: plan.namespaces.joins(USER).then(Procfs::mounted).transpose()?,
        may_set_groups: plan.may_set_groups && (!global.cgroup.rootless || userns::here_may_set_groups()?),
        rdt: state.rdt.as_ref().map(rdt::Group::entry).transpose()?,
    };
    let v2_dir = entry.v2_dir.as_ref().map(AsFd::as_fd);
    let cloned = clone_process(plan.stages.first_clone, v2_dir, false);
    match cloned.context(|| "clone the process")? {
        Cloned::Child => init::run(init, &entry, &theirs),
        Cloned::Parent { pid, pidfd } => Ok(Spawned::new(pid, pidfd, ours)),
    }
}

impl Created {
    /// Takes all of it back.
    pub fn undo(self, log: &mut Log) {
        undo(self.dir, &self.state, self.cgroup, Some(self.init), log);
    }
}

/// In the reverse order of making. What cannot be taken back is a warning beside the error that led here.
fn undo(dir: ContainerDir, state: &State, cgroup: Option<Cgroup>, init: Option<Spawned>, log: &mut Log) {
    let had_process = init.is_some();
    // Its descriptors are free after that, of which there may be no others left.
    if let Some(init) = init {
        init.destroy();
    }
    if let Some(cgroup) = cgroup {
        // Without a process nobody is inside, and removing takes no further descriptor.
        let ended = if had_process { cgroup.kill_all() } else { Ok(()) };
        if let Err(error) = ended.and_then(|()| cgroup.destroy()) {
            log.warn(error.to_string());
        }
    }
    if let Some(Err(error)) = state.rdt.as_ref().map(rdt::Group::remove) {
        log.warn(error.to_string());
    }
    // runtime.md, lifecycle: a container that fails after its environment was made is destroyed like any other.
    if had_process && let Err(error) = delete::run_poststop_hooks(state, log) {
        log.warn(error.to_string());
    }
    if let Err(error) = dir.remove() {
        log.warn(error.to_string());
    }
}
