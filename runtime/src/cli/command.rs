//! What a command line can ask for: the commands and their options.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::log::{Format, Level};
use crate::state::ContainerId;

/// What the command line asks for.
#[derive(Debug)]
pub struct Invocation {
    /// The flags before the command.
    pub global: GlobalOptions,
    /// The command.
    pub command: Command,
}

/// A command line that cannot be followed.
#[derive(Debug)]
pub struct UsageError {
    /// What was understood before the mistake: it says where the error is logged.
    pub global: GlobalOptions,
    /// The mistake, with its exit status where that is not 1.
    pub error: Error,
    /// Text for standard output (runc prints the help there); may be empty.
    pub help: String,
}

/// The flags before the command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GlobalOptions {
    /// `--root`; [`super::default_root`] where it is not given.
    pub root: Option<PathBuf>,
    /// `--log`; standard error where it is not given.
    pub log: Option<PathBuf>,
    /// `--log-format`.
    pub log_format: Format,
    /// `--log-level` or `--debug`; the format's own default where it is not given.
    pub log_level: Option<Level>,
    /// `--cgroup-manager` or `--systemd-cgroup`.
    pub cgroup_manager: CgroupManager,
    /// `--rootless`; none for auto.
    pub rootless: Option<bool>,
}

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// skeg, in the cgroup file systems.
    #[default]
    Cgroupfs,
    /// systemd, asked over D-Bus; `cgroupsPath` is `slice:prefix:name`.
    Systemd,
    /// Nobody: the container stays in the cgroup of the caller.
    Disabled,
}

/// One command with its options.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print this text to standard output: help or version.
    Print(String),
    /// `checkpoint`.
    Checkpoint(ContainerId),
    /// `create`.
    Create(CreateOptions),
    /// `delete`.
    Delete {
        /// The container.
        id: ContainerId,
        /// Kill it first; an unknown id is no error.
        force: bool,
    },
    /// `events`.
    Events {
        /// The container.
        id: ContainerId,
        /// Print the statistics once.
        stats: bool,
        /// The time between two statistics, never zero.
        interval: Duration,
    },
    /// `exec`.
    Exec(Box<ExecOptions>),
    /// `features`.
    Features,
    /// `kill`.
    Kill {
        /// The container.
        id: ContainerId,
        /// The number of the signal, 0 to 64; 0 only asks whether the process is there.
        signal: i32,
        /// `--all`, deprecated: every process of the container.
        all: bool,
    },
    /// `list`.
    List {
        /// How to print.
        format: ListFormat,
    },
    /// `pause`.
    Pause(ContainerId),
    /// `ps`.
    Ps {
        /// The container.
        id: ContainerId,
        /// How to print.
        format: PsFormat,
    },
    /// `restore`.
    Restore(ContainerId),
    /// `resume`.
    Resume(ContainerId),
    /// `run`.
    Run(RunOptions),
    /// `spec`.
    Spec {
        /// The directory that gets config.json; the working directory where not given.
        bundle: Option<PathBuf>,
        /// For a user without privileges.
        rootless: bool,
    },
    /// `start`.
    Start(ContainerId),
    /// `state`.
    State(ContainerId),
    /// `update`.
    Update(Box<UpdateOptions>),
}

/// How `list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFormat {
    /// Columns.
    Table,
    /// A JSON array.
    Json,
    /// Ids only, one a line.
    Quiet,
}

/// How `ps` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PsFormat {
    /// The output of ps(1) with these options.
    Table(Vec<OsString>),
    /// A JSON array of process ids.
    Json,
}

/// The options of `create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// The id that the container gets.
    pub id: ContainerId,
    /// The bundle; `.` where not given.
    pub bundle: PathBuf,
    /// Socket for the master side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// Socket for a pidfd of the init process.
    pub pidfd_socket: Option<PathBuf>,
    /// File for the pid of the init process.
    pub pid_file: Option<PathBuf>,
    /// No pivot_root.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// How many descriptors after 2 (and those of `LISTEN_FDS`) the process gets.
    pub preserve_fds: u32,
}

/// The options of `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// What `create` takes as well.
    pub create: CreateOptions,
    /// Return when the program runs.
    pub detach: bool,
    /// Do not remove the container after its end.
    pub keep: bool,
    /// Do not adopt orphans of the container.
    pub no_subreaper: bool,
}

/// The options of `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// The container.
    pub id: ContainerId,
    /// The program and its arguments; empty only with `process`.
    pub args: Vec<String>,
    /// File with the process object; nothing else of the process counts then.
    pub process: Option<PathBuf>,
    /// Socket for the master side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// Socket for a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// File for the pid of the process.
    pub pid_file: Option<PathBuf>,
    /// Return when the process runs.
    pub detach: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Its working directory.
    pub cwd: Option<PathBuf>,
    /// `NAME=value` entries to add, not checked yet.
    pub env: Vec<String>,
    /// Its user.
    pub user: Option<User>,
    /// Its further groups.
    pub additional_gids: Vec<u32>,
    /// Names of capabilities to add, not checked yet.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privs: bool,
    /// SELinux label.
    pub process_label: Option<String>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// How many descriptors after 2 (and those of `LISTEN_FDS`) the process gets.
    pub preserve_fds: u32,
    /// `[<controller>[,...]:]<path>` below the container's cgroup, not checked yet.
    pub cgroups: Vec<String>,
    /// Allow it in a paused container.
    pub ignore_paused: bool,
}

/// The options of `update`: the values as they were given, for the cgroup code to convert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateOptions {
    /// The container.
    pub id: ContainerId,
    /// File with the resources, `-` for standard input; the other values do not count then.
    pub resources: Option<PathBuf>,
    /// Block IO weight.
    pub blkio_weight: Option<String>,
    /// CFS period in microseconds.
    pub cpu_period: Option<String>,
    /// CFS quota in microseconds.
    pub cpu_quota: Option<String>,
    /// CFS burst in microseconds.
    pub cpu_burst: Option<String>,
    /// CPU shares.
    pub cpu_share: Option<String>,
    /// Realtime period in microseconds.
    pub cpu_rt_period: Option<String>,
    /// Realtime runtime in microseconds.
    pub cpu_rt_runtime: Option<String>,
    /// SCHED_IDLE.
    pub cpu_idle: Option<String>,
    /// CPUs.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Memory limit in bytes, with a unit perhaps.
    pub memory: Option<String>,
    /// Soft memory limit.
    pub memory_reservation: Option<String>,
    /// Limit of memory and swap together.
    pub memory_swap: Option<String>,
    /// Number of processes.
    pub pids_limit: Option<String>,
    /// Intel RDT L3 cache schema.
    pub l3_cache_schema: Option<String>,
    /// Intel RDT memory bandwidth schema.
    pub mem_bw_schema: Option<String>,
    /// One of the kernel memory limits was given, which Linux does not have any more: worth a warning.
    pub kernel_memory: bool,
}

/// `--user`: numbers only, for the runtime knows no user names (row E3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id, where given.
    pub gid: Option<u32>,
}
