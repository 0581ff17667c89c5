//! `skeg exec`: another process in a container that runs.
//!
//! A first process enters the cgroup and joins the namespaces of the init process, and becomes the sealed program; the child
//! of that, which is in the PID namespace, gets its security from the same function as the init process (row C7) and
//! becomes the container's program. So no process of ours that is seen from inside runs from the host's file (row C4).

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, Uid};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxCapabilitiesBuilder, Process, Spec};

use crate::bundle;
use crate::cgroup::{Cgroup, CgroupEntry, SubCgroups};
use crate::cli::ExecOptions;
use crate::console::{self, Console};
use crate::create::Global;
use crate::error::{Context as _, Error, Result};
use crate::foreground::Foreground;
use crate::init::die_with_parent;
use crate::log::Log;
use crate::namespaces::{MOUNT, PID, USER};
use crate::process::{self, Surroundings, limits_of};
use crate::security::seccomp::{self, Filter};
use crate::security::{caps, lsm, notify};
use crate::spawn::{Request, Spawned};
use crate::state::{Container, Status};
use crate::sync::{Channel, Message};
use crate::sys::clone::{self, Cloned, clone_process, exit_now};
use crate::sys::path::open_given;
use crate::sys::process as sys;
use crate::sys::procfs::Procfs;
use crate::sys::seal::SealedProgram;
use crate::{rdt, userns};

/// What the exec process has of the runtime.
struct Exec<'a> {
    process: &'a Process,
    /// What this process becomes.
    program: &'a SealedProgram,
    /// The init process, whose namespaces are joined.
    init: OwnedFd,
    /// `CLONE_NEW*` bits of the namespaces that the container does not share with the runtime.
    namespaces: u64,
    /// The root directory of a container without a mount namespace of its own.
    root: Option<OwnedFd>,
    console: Option<OwnedFd>,
    procfs: Option<Procfs>,
    /// The runtime's procfs, where a user namespace is joined.
    hosts_procfs: Option<Procfs>,
    /// Whether setgroups(2) is allowed: known once the user namespace is joined.
    may_set_groups: bool,
    rdt: Option<rdt::Entry>,
}

/// Runs a process in the container and waits for it, unless detached. Returns the exit status.
///
/// # Errors
/// A container that does not run; what could not be done, and why.
pub fn exec(global: &Global, options: &ExecOptions, log: &mut Log) -> Result<i32> {
    let container = Container::load(&global.root, &options.id)?;
    check_status(&container, options)?;
    let init = container.init()?.ok_or_else(|| Error::new("cannot exec in a stopped container"))?;
    let config = bundle::parse_config(container.dir.read_config()?)?;
    let spec = &config.value;
    let process = exec_process(spec, options, log)?;
    bundle::validate_process(&process, if options.process.is_some() { "" } else { "/process" })?;
    let filter = compile_filter(spec)?;
    let cgroup = Cgroup::open(&container.state.cgroup);
    let groups: Vec<&str> = options.cgroups.iter().map(String::as_str).collect();
    let sub_groups = SubCgroups::parse(&groups)?;
    let mut entry = cgroup.entry_below(&sub_groups)?;
    let mut foreground = if options.detach { None } else { Some(Foreground::new()?) };
    let Console { theirs: console, ours: master } =
        console::open(&process, options.console_socket.as_deref(), !options.detach)?;
    let (ours, theirs) = Channel::pair()?;
    let procfs = lsm::wants_labels(&process).then(Procfs::processes).transpose()?;
    let surroundings = Surroundings {
        linux: spec.linux().as_ref(),
        filter: filter.as_ref(),
        channel: theirs.descriptor(),
        procfs: procfs.as_ref().map(|procfs| procfs.as_fd().as_raw_fd()),
        new_keyring: true,
        fork: container.state.namespaces & PID != 0,
        terminal: console.is_some(),
        handed_on: global.handed_on,
        listen_fds: global.listen_fds,
        ..Surroundings::default()
    };
    let exec = Exec {
        process: &process,
        program: &SealedProgram::new(process::instructions(&process, &surroundings)?)?,
        root: open_root(&container)?,
        init,
        namespaces: container.state.namespaces,
        console,
        procfs,
        hosts_procfs: (container.state.namespaces & USER != 0).then(Procfs::mounted).transpose()?,
        may_set_groups: !global.cgroup.rootless || userns::here_may_set_groups()?,
        rdt: container.state.rdt.as_ref().map(rdt::Group::entry).transpose()?,
    };
    // On cgroup v2 the new process is in its cgroup from the beginning, so that the runtime itself has to be there first.
    if let Some(cpus) = process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_ref())
    {
        process::set_affinity(cpus)?;
    }
    let mut spawned = match clone_into(&cgroup, &sub_groups, !groups.is_empty(), &container, &mut entry)? {
        Cloned::Child => run(exec, &entry, &theirs),
        Cloned::Parent { pid, pidfd } => Spawned::new(pid, pidfd, ours),
    };
    drop(theirs);
    let mut start = || -> Result<()> {
        if entry.later {
            cgroup.attach(&sub_groups, spawned.pid)?;
            spawned.place(&[])?;
        }
        attend(&mut spawned, &process, spec, &container)?;
        if let (Some(foreground), Some(master)) = (&mut foreground, &master) {
            foreground.attach(console::receive_master(master)?)?;
        }
        spawned.announce(options.pid_file.as_deref(), options.pidfd_socket.as_deref())?;
        spawned.answer(&Message::Proceed)?;
        spawned.wait_for_execve()
    };
    start().inspect_err(|_| spawned.destroy())?;
    log.debug(|| format!("process {} is executed", spawned.pid));
    match foreground {
        Some(foreground) => foreground.wait(&spawned.pidfd),
        None => Ok(0),
    }
}

/// Clones the process into its cgroup; `entry` becomes the way in that was found. `named`: the caller has named the cgroup, and
/// gets that one or none.
fn clone_into(
    cgroup: &Cgroup,
    sub_groups: &SubCgroups,
    named: bool,
    container: &Container,
    entry: &mut CgroupEntry,
) -> Result<Cloned> {
    let v2_dir = entry.v2_dir.as_ref().map(AsFd::as_fd);
    let cloned = match clone_process(0, v2_dir, false) {
        // v2's "no internal process" rule: the container, an init system perhaps, has sub-cgroups with controllers.
        Err(Errno::EBUSY) if !named => {
            let cgroups = Procfs::mounted()?.read_of(Pid::from_raw(container.state.pid), "cgroup");
            *entry = cgroup.entry_beside(&cgroups.context(|| "read the cgroup of the init process")?)?;
            clone_process(0, entry.v2_dir.as_ref().map(AsFd::as_fd), false)
        }
        // Rootless, from a cgroup that is not below one of the user's: systemd may move it there.
        Err(Errno::EACCES) if cgroup.is_unit() => {
            *entry = CgroupEntry::by_systemd();
            clone_process(0, None, false)
        }
        other => other,
    };
    let refused = matches!(cloned, Err(Errno::EBUSY));
    let what = || if refused { cgroup.entry_refused(sub_groups) } else { "clone the process".to_owned() };
    cloned.context(what)
}

fn check_status(container: &Container, options: &ExecOptions) -> Result<()> {
    match container.status()? {
        Status::Stopped | Status::Creating => Err(Error::new("cannot exec in a stopped container")),
        Status::Paused if !options.ignore_paused => {
            Err(Error::new("cannot exec in a paused container (use --ignore-paused to override)"))
        }
        _ => Ok(()),
    }
}

/// The process object: a file of the manager's, or the container's own with what the flags change (runc-exec(8)).
fn exec_process(spec: &Spec, options: &ExecOptions, log: &mut Log) -> Result<Process> {
    if let Some(path) = &options.process {
        let loaded = bundle::load_process(path)?;
        loaded.warn(log);
        return Ok(*loaded.value);
    }
    let mut process = spec.process().clone().ok_or_else(|| Error::new("/process: must be given"))?;
    process.set_args(Some(options.args.clone())).set_terminal(Some(options.tty));
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(options.env.iter().cloned());
    process.set_env(Some(env));
    let mut user = process.user().clone();
    if let Some(wanted) = options.user {
        user.set_uid(wanted.uid);
        user.set_gid(wanted.gid.unwrap_or(user.gid()));
    }
    if !options.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&options.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    if !options.capabilities.is_empty() {
        process.set_capabilities(Some(add_capabilities(
            process.capabilities().as_ref(),
            &options.capabilities,
            log,
        )?));
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    Ok(process)
}

/// `--cap`: into the bounding, effective and permitted sets, never the inheritable one (row E1, CVE-2022-29162).
fn add_capabilities(
    own: Option<&LinuxCapabilities>,
    names: &[String],
    log: &mut Log,
) -> Result<LinuxCapabilities> {
    let none = Capabilities::new();
    let mut added = Capabilities::new();
    for name in names {
        match caps::parse(name) {
            Some(capability) => drop(added.insert(capability)),
            None => log.warn(format!("--cap {name:?}: no such capability, ignored")),
        }
    }
    let with =
        |set: Option<&Capabilities>| set.unwrap_or(&none).union(&added).copied().collect::<Capabilities>();
    let own_set =
        |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| own.and_then(|own| get(own).as_ref());
    LinuxCapabilitiesBuilder::default()
        .bounding(with(own_set(LinuxCapabilities::bounding)))
        .effective(with(own_set(LinuxCapabilities::effective)))
        .permitted(with(own_set(LinuxCapabilities::permitted)))
        .inheritable(own_set(LinuxCapabilities::inheritable).cloned().unwrap_or_default())
        .ambient(own_set(LinuxCapabilities::ambient).cloned().unwrap_or_default())
        .build()
        .map_err(|error| Error::new(format!("--cap: {error}")))
}

fn compile_filter(spec: &Spec) -> Result<Option<Filter>> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.filter(|profile| !seccomp::allows_all(profile)).map(seccomp::compile).transpose()
}

/// Without a mount namespace of its own the container's root is a chroot that setns(2) does not bring along.
fn open_root(container: &Container) -> Result<Option<OwnedFd>> {
    if container.state.namespaces & MOUNT != 0 {
        return Ok(None);
    }
    Procfs::processes()?
        .open_magic_link(Pid::from_raw(container.state.pid), "root", OFlag::O_PATH | OFlag::O_DIRECTORY)
        .context(|| "open the root of the init process")
        .map(Some)
}

fn attend(spawned: &mut Spawned, process: &Process, spec: &Spec, container: &Container) -> Result<()> {
    let score = process.oom_score_adj().or_else(|| spec.process().as_ref()?.oom_score_adj());
    spawned.adjust(score, limits_of(process))?;
    loop {
        match spawned.next_request()? {
            Request::Forked => {
                spawned.adjust(score, limits_of(process))?;
                spawned.answer(&Message::Adopted)?;
            }
            Request::SeccompListener(listener) => {
                notify::hand_over(spec, &container.state, spawned.pid, &listener)?;
                spawned.answer(&Message::ListenerSent)?;
            }
            Request::Ready => return Ok(()),
            other => return Err(Error::new(format!("the exec process sent {other:?} out of turn"))),
        }
    }
}

/// The child's half.
fn run(mut exec: Exec<'_>, cgroup: &CgroupEntry, channel: &Channel) -> ! {
    let error = match exec.prepare(cgroup, channel) {
        Ok(()) => {
            let procfs = exec.procfs.iter().map(AsFd::as_fd);
            let keep: Vec<_> = procfs.chain([channel.as_fd()]).collect();
            exec.program.execute(&keep, exec.may_set_groups)
        }
        Err(error) => error,
    };
    let _ = channel.send(&Message::Error(error));
    exit_now(1)
}

impl Exec<'_> {
    fn prepare(&mut self, cgroup: &CgroupEntry, channel: &Channel) -> Result<()> {
        die_with_parent()?;
        cgroup.enter(channel)?;
        self.rdt.as_ref().map_or(Ok(()), rdt::Entry::enter_self)?;
        let affinity = self.process.exec_cpu_affinity().as_ref();
        match affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref()) {
            Some(cpus) => process::set_affinity(cpus)?,
            // config.md, execCPUAffinity: otherwise those of the cgroup.
            None => process::reset_affinity(),
        }
        // conmon kills by process group.
        nix::unistd::setsid().context(|| "make a session")?;
        self.join()?;
        let terminal = self.make_terminal()?;
        let owner = Uid::from_raw(self.process.user().uid());
        match terminal {
            Some(peer) => console::use_terminal(&peer, owner),
            None => console::give_pipes_to(owner),
        }
    }

    /// The namespaces of the init process as it is in them now, by its pidfd. In the PID namespace only children of this
    /// process are, so that it is not seen from inside.
    fn join(&mut self) -> Result<()> {
        if self.namespaces != 0 {
            // In one call, so that each is joined with the runtime's own rights: its user namespace may have none over a
            // PID namespace that the container has joined itself.
            clone::join(&self.init, self.namespaces).context(|| "join the namespaces of the container")?;
        }
        if let Some(root) = self.root.take() {
            nix::unistd::fchdir(&root)
                .and_then(|()| nix::unistd::chroot("."))
                .context(|| "enter the root")?;
        }
        if self.namespaces & USER != 0 {
            if let Some(procfs) = &self.hosts_procfs {
                self.may_set_groups = userns::may_set_groups(procfs)?;
            }
            sys::set_ids(0, 0, None).context(|| "become root in the user namespace")?;
            prctl::set_dumpable(false).context(|| "stop being dumpable")?;
            die_with_parent()?;
        }
        Ok(())
    }

    fn make_terminal(&mut self) -> Result<Option<OwnedFd>> {
        let Some(socket) = self.console.take() else { return Ok(None) };
        let root = open_given(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
            .context(|| "open the root")?;
        let pty = console::open_pty(&root)?;
        if let Some(size) = self.process.console_size() {
            console::set_size(&pty.master, &size)?;
        }
        console::send_master(&socket, &pty.master)?;
        Ok(Some(pty.peer))
    }
}
