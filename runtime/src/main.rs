//! The `skeg` binary: read the command line, run one command, print one error.

#![no_main]

#[path = "sys/allocator.rs"]
mod allocator;
#[path = "sys/entry.rs"]
mod entry;

use std::ffi::OsString;
use std::io::Write as _;

use nix::sys::prctl;
use nix::sys::stat::Mode;
use skeg::cgroup::{self, Cgroup, Manager};
use skeg::cli::{self, CgroupManager, Command, GlobalOptions, Invocation};
use skeg::create::{self, Global};
use skeg::error::{Context as _, Error, Result};
use skeg::log::{Level, Log};
use skeg::state::{Container, Status};
use skeg::state_cmd::{self, ContainerStatus};
use skeg::sys::{fd, process};
use skeg::{
    delete, events, exec, features, kill, list, notify_socket, pause, ps, run, spec, start, update, userns,
};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator::new();

/// What runc returns for a failed command.
const FAILURE: u8 = 1;
/// What runc returns for a failed `exec`, which otherwise returns the status of the program.
const EXEC_FAILURE: u8 = 255;

/// One command, from the arguments of this process; returns the exit status.
fn command(arguments: &[OsString]) -> i32 {
    let invocation = match cli::parse(arguments) {
        Ok(invocation) => invocation,
        Err(usage) => {
            print(&usage.help);
            // Where the log cannot be opened, there is standard error.
            let mut log = open_log(&usage.global).unwrap_or_else(|_| Log::stderr(Level::Warning));
            return fail(&mut log, &usage.error, FAILURE);
        }
    };
    let failure = if matches!(invocation.command, Command::Exec(_)) { EXEC_FAILURE } else { FAILURE };
    let mut log = match open_log(&invocation.global) {
        Ok(log) => log,
        Err(error) => return fail(&mut Log::stderr(Level::Warning), &error, failure),
    };
    match dispatch(&invocation, &mut log) {
        Ok(status) => {
            log.flush();
            u8::try_from(status).unwrap_or(failure).into()
        }
        Err(error) => fail(&mut log, &error, failure),
    }
}

fn open_log(global: &GlobalOptions) -> Result<Log> {
    Log::open(global.log.as_deref(), global.log_format, global.log_level)
}

fn fail(log: &mut Log, error: &Error, status: u8) -> i32 {
    log.failure(error);
    error.exit_status().unwrap_or(status).into()
}

fn print(text: &str) {
    // A reader that has gone does not make the command fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Runs the command; returns the exit status.
fn dispatch(invocation: &Invocation, log: &mut Log) -> Result<i32> {
    // Our own files have explicit modes; hooks get a sane one (row E15).
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    process::expect_children();
    let options = &invocation.global;
    log.debug(|| format!("skeg {}, state root {}", cli::VERSION, root(options).display()));
    match &invocation.command {
        Command::Print(text) => print(text),
        Command::Create(create) => {
            let global = enter_containers(options, create.preserve_fds)?;
            create::create(&global, create, log)?;
        }
        Command::Run(run) => {
            let global = enter_containers(options, run.create.preserve_fds)?;
            return run::run(&global, run, log);
        }
        Command::Exec(exec) => {
            let global = enter_containers(options, exec.preserve_fds)?;
            return exec::exec(&global, exec, log);
        }
        Command::Start(id) => start::start(
            Container::load(&root(options), id)?,
            notify_socket::from_environment().as_deref(),
            log,
        )?,
        Command::Kill { id, signal, all } => {
            kill::kill(&Container::load(&root(options), id)?, *signal, *all)?
        }
        Command::Delete { id, force } => delete::delete(&root(options), id, *force, log)?,
        Command::Checkpoint(_) => return Err(Error::new("checkpoint is not supported yet")),
        Command::Restore(_) => return Err(Error::new("restore is not supported yet")),
        Command::State(id) => {
            let container = Container::load(&root(options), id)?;
            print(&state_cmd::text(&ContainerStatus::new(&container, container.status()?))?);
        }
        Command::List { format } => print(&list::list(&root(options), *format, log)?),
        Command::Events { id, stats, interval } => {
            let container = Container::load(&root(options), id)?;
            if container.status()? == Status::Stopped {
                // runc's words.
                return Err(Error::new(format!("container with id {id} is not running")));
            }
            let cgroup = Cgroup::open(&container.state.cgroup);
            if *stats {
                events::print_stats(&cgroup, id.as_str())?;
            } else {
                events::follow(&cgroup, id.as_str(), *interval)?;
            }
        }
        Command::Features => print(&features::document()?),
        Command::Spec { bundle, rootless } => spec::write(bundle.as_deref(), *rootless)?,
        Command::Pause(id) => pause::pause(&Container::load(&root(options), id)?)?,
        Command::Resume(id) => pause::resume(&Container::load(&root(options), id)?)?,
        Command::Update(update) => {
            update::update(&Container::load(&root(options), &update.id)?, update, log)?;
        }
        Command::Ps { id, format } => ps::ps(&Container::load(&root(options), id)?, format)?,
    }
    Ok(0)
}

fn root(options: &GlobalOptions) -> std::path::PathBuf {
    if let Some(root) = &options.root {
        return root.clone();
    }
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
    // podman and buildah of a user call us as root of a user namespace that they made, with the user's name.
    let is_root = nix::unistd::geteuid().is_root()
        && (std::env::var_os("USER").is_some_and(|user| user == "root") || !userns::is_nested());
    cli::default_root(is_root, runtime_dir.as_deref())
}

/// What comes before any process of a container: nothing of the caller's leaks in, nobody inside can look at us.
fn enter_containers(options: &GlobalOptions, preserve_fds: u32) -> Result<Global> {
    let variable = std::env::var_os;
    let own = std::process::id();
    let listen_fds =
        cli::listen_fds(variable("LISTEN_FDS").as_deref(), variable("LISTEN_PID").as_deref(), own)?;
    let handed_on = preserve_fds.saturating_add(listen_fds);
    fd::check_inherited(3, handed_on)?;
    let first_own = i32::try_from(handed_on).ok().and_then(|count| count.checked_add(3));
    let first_own = first_own.ok_or_else(|| Error::new(format!("cannot hand {handed_on} descriptors on")))?;
    fd::mark_cloexec_from(first_own).context(|| "close the caller's descriptors")?;
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        // An unprivileged runtime has to open its child's uid_map, which is root's where the child is not dumpable.
        prctl::set_dumpable(false).context(|| "stop being dumpable")?;
    }
    let manager = match options.cgroup_manager {
        CgroupManager::Cgroupfs => Manager::Cgroupfs,
        CgroupManager::Systemd => Manager::Systemd,
        CgroupManager::Disabled => Manager::Disabled,
    };
    // Root of a user namespace may have been given cgroups, or not: it goes on where it may not change them.
    let rootless = options.rootless.unwrap_or_else(|| !is_root || userns::is_nested());
    let cgroup = cgroup::Options { manager, rootless };
    Ok(Global {
        root: root(options),
        cgroup,
        handed_on,
        listen_fds,
        notify_socket: notify_socket::from_environment(),
    })
}
