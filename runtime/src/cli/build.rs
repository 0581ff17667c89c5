//! From flags and arguments to a [`Command`]: one function for each command of the table.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::Matches;
use super::values::{parse_id_number, parse_signal};
use super::{Command, CreateOptions, ExecOptions, ListFormat, PsFormat, RunOptions, UpdateOptions, User};
use crate::error::{Error, Result};
use crate::state::ContainerId;

/// The most descriptors that `--preserve-fds` may name: a process cannot have more (proc_sys_fs(5), `nr_open`, by
/// default 1048576).
const MAX_PRESERVED_FDS: u32 = 1 << 20;

fn id(found: &Matches<'_>) -> Result<ContainerId> {
    // Bytes that are not UTF-8 become U+FFFD, which no id may have.
    ContainerId::parse(&found.arguments.first().map(|id| id.to_string_lossy()).unwrap_or_default())
}

fn preserve_fds(found: &Matches<'_>) -> Result<u32> {
    let number = found.int("preserve-fds").map_err(Error::new)?.unwrap_or(0);
    u32::try_from(number).ok().filter(|&n| n <= MAX_PRESERVED_FDS).ok_or_else(|| {
        Error::new(format!(
            "invalid value \"{number}\" for flag -preserve-fds: must be 0 to {MAX_PRESERVED_FDS}"
        ))
    })
}

fn create_options(found: &Matches<'_>) -> Result<CreateOptions> {
    Ok(CreateOptions {
        id: id(found)?,
        bundle: found
            .path("bundle")
            .filter(|path| !path.as_os_str().is_empty())
            .unwrap_or_else(|| PathBuf::from(".")),
        console_socket: given(found, "console-socket"),
        pidfd_socket: given(found, "pidfd-socket"),
        pid_file: given(found, "pid-file"),
        no_pivot: found.is_set("no-pivot"),
        no_new_keyring: found.is_set("no-new-keyring"),
        preserve_fds: preserve_fds(found)?,
    })
}

/// A path that is set and not empty: Go programs pass an empty string for "none".
fn given(found: &Matches<'_>, name: &str) -> Option<PathBuf> {
    found.path(name).filter(|path| !path.as_os_str().is_empty())
}

/// The same for text.
fn given_text(found: &Matches<'_>, name: &str) -> Result<Option<String>> {
    Ok(found.text(name).map_err(Error::new)?.filter(|text| !text.is_empty()))
}

pub(super) fn create(found: &Matches<'_>) -> Result<Command> {
    create_options(found).map(Command::Create)
}

pub(super) fn run(found: &Matches<'_>) -> Result<Command> {
    Ok(Command::Run(RunOptions {
        create: create_options(found)?,
        detach: found.is_set("detach"),
        keep: found.is_set("keep"),
        no_subreaper: found.is_set("no-subreaper"),
    }))
}

pub(super) fn start(found: &Matches<'_>) -> Result<Command> {
    id(found).map(Command::Start)
}

pub(super) fn state(found: &Matches<'_>) -> Result<Command> {
    id(found).map(Command::State)
}

pub(super) fn pause(found: &Matches<'_>) -> Result<Command> {
    id(found).map(Command::Pause)
}

pub(super) fn resume(found: &Matches<'_>) -> Result<Command> {
    id(found).map(Command::Resume)
}

pub(super) fn checkpoint(found: &Matches<'_>) -> Result<Command> {
    id(found).map(Command::Checkpoint)
}

pub(super) fn restore(found: &Matches<'_>) -> Result<Command> {
    id(found).map(Command::Restore)
}

pub(super) fn kill(found: &Matches<'_>) -> Result<Command> {
    let signal = match found.arguments.get(1) {
        Some(signal) => parse_signal(signal)?,
        None => libc::SIGTERM,
    };
    Ok(Command::Kill { id: id(found)?, signal, all: found.is_set("all") })
}

pub(super) fn delete(found: &Matches<'_>) -> Result<Command> {
    Ok(Command::Delete { id: id(found)?, force: found.is_set("force") })
}

pub(super) fn list(found: &Matches<'_>) -> Result<Command> {
    let format = match format(found)? {
        Format::Table if found.is_set("quiet") => ListFormat::Quiet,
        Format::Table => ListFormat::Table,
        Format::Json if found.is_set("quiet") => ListFormat::Quiet,
        Format::Json => ListFormat::Json,
    };
    Ok(Command::List { format })
}

pub(super) fn ps(found: &Matches<'_>) -> Result<Command> {
    let id = id(found)?;
    let format = match format(found)? {
        Format::Table => PsFormat::Table(found.arguments[1..].iter().map(Into::into).collect()),
        Format::Json => PsFormat::Json,
    };
    Ok(Command::Ps { id, format })
}

enum Format {
    Table,
    Json,
}

fn format(found: &Matches<'_>) -> Result<Format> {
    match found.value("format").and_then(OsStr::to_str) {
        Some("json") => Ok(Format::Json),
        Some("table") => Ok(Format::Table),
        Some(_) => Err(Error::new("invalid format option: must be table or json")),
        None => Ok(Format::Table),
    }
}

pub(super) fn exec(found: &Matches<'_>) -> Result<Command> {
    // Callers of exec tell its own failures from the process's by the status (runc: 255).
    let options = exec_options(found);
    options
        .map(|options| Command::Exec(Box::new(options)))
        .map_err(|error| error.context("exec failed").with_exit_status(255))
}

fn exec_options(found: &Matches<'_>) -> Result<ExecOptions> {
    let id = id(found)?;
    let process = given(found, "process");
    let args = found.arguments[1..]
        .iter()
        .map(|arg| {
            arg.to_str().map(str::to_owned).ok_or_else(|| Error::new(format!("argument {arg:?}: not UTF-8")))
        })
        .collect::<Result<Vec<_>>>()?;
    if process.is_none() && args.is_empty() {
        return Err(Error::new("process args cannot be empty"));
    }
    let list = |name| found.list(name).map_err(Error::new);
    Ok(ExecOptions {
        id,
        args,
        process,
        console_socket: given(found, "console-socket"),
        pidfd_socket: given(found, "pidfd-socket"),
        pid_file: given(found, "pid-file"),
        detach: found.is_set("detach"),
        tty: found.is_set("tty"),
        cwd: given(found, "cwd"),
        env: list("env")?,
        user: given_user(found)?,
        additional_gids: list("additional-gids")?
            .iter()
            .map(|gid| parse_id_number("additional-gids", gid))
            .collect::<Result<_>>()?,
        capabilities: list("cap")?,
        no_new_privs: found.is_set("no-new-privs"),
        process_label: given_text(found, "process-label")?,
        apparmor: given_text(found, "apparmor")?,
        preserve_fds: preserve_fds(found)?,
        cgroups: list("cgroup")?,
        ignore_paused: found.is_set("ignore-paused"),
    })
}

/// `--user`: absent, or two numbers (row E3: an empty value is an error, not root).
fn given_user(found: &Matches<'_>) -> Result<Option<User>> {
    found.text("user").map_err(Error::new)?.map(|text| User::parse(&text)).transpose()
}

pub(super) fn events(found: &Matches<'_>) -> Result<Command> {
    let interval = found.duration("interval").map_err(Error::new)?.unwrap_or(Duration::from_secs(5));
    if interval.is_zero() {
        return Err(Error::new("duration interval must be greater than 0"));
    }
    Ok(Command::Events { id: id(found)?, stats: found.is_set("stats"), interval })
}

pub(super) fn spec(found: &Matches<'_>) -> Result<Command> {
    Ok(Command::Spec { bundle: given(found, "bundle"), rootless: found.is_set("rootless") })
}

pub(super) fn update(found: &Matches<'_>) -> Result<Command> {
    let text = |name| given_text(found, name);
    Ok(Command::Update(Box::new(UpdateOptions {
        id: id(found)?,
        resources: given(found, "resources"),
        blkio_weight: text("blkio-weight")?,
        cpu_period: text("cpu-period")?,
        cpu_quota: text("cpu-quota")?,
        cpu_burst: text("cpu-burst")?,
        cpu_share: text("cpu-share")?,
        cpu_rt_period: text("cpu-rt-period")?,
        cpu_rt_runtime: text("cpu-rt-runtime")?,
        cpu_idle: text("cpu-idle")?,
        cpuset_cpus: text("cpuset-cpus")?,
        cpuset_mems: text("cpuset-mems")?,
        memory: text("memory")?,
        memory_reservation: text("memory-reservation")?,
        memory_swap: text("memory-swap")?,
        pids_limit: text("pids-limit")?,
        l3_cache_schema: text("l3-cache-schema")?,
        mem_bw_schema: text("mem-bw-schema")?,
        kernel_memory: found.value("kernel-memory").is_some() || found.value("kernel-memory-tcp").is_some(),
    })))
}
