//! The command line: argv in, a [`Command`] out, nothing done. The names, the order, the words of the errors and the
//! exit statuses are runc's, because managers know no others; `table` holds the commands, `flags` the grammar.

mod build;
pub mod flags;
pub mod table;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use flags::Order;

use crate::error::{Error, Result};
use crate::log::{Format, Level};
use crate::state::ContainerId;

/// The version of skeg.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The newest version of the OCI runtime specification that skeg implements.
pub const SPEC_VERSION: &str = "1.3.0";

/// The commit that skeg was built from, where the build set `SKEG_COMMIT`.
pub const COMMIT: &str = match option_env!("SKEG_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

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
    /// `--root`; [`default_root`] where it is not given.
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

impl User {
    /// Reads `<uid>[:<gid>]`.
    ///
    /// # Errors
    /// Anything but decimal numbers from 0 to 4294967294 without sign, blank or leading zero.
    pub fn parse(text: &str) -> Result<Self> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        let number = |text| parse_id_number("user", text);
        Ok(Self { uid: number(uid)?, gid: gid.map(number).transpose()? })
    }
}

/// A user or group id; never 4294967295, which setuid(2) and chown(2) take for "leave as it is".
fn parse_id_number(flag: &str, text: &str) -> Result<u32> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|c| c.is_ascii_digit()));
    let number = if canonical { text.parse::<u32>().ok().filter(|&id| id != u32::MAX) } else { None };
    number.ok_or_else(|| {
        Error::new(format!("invalid value {text:?} for flag -{flag}: must be a number from 0 to 4294967294"))
    })
}

/// A signal by number (0 to 64) or name, `SIG` optional, in any case.
fn parse_signal(text: &OsStr) -> Result<i32> {
    let unknown = || Error::new(format!("unknown signal {text:?}"));
    let name = text.to_str().ok_or_else(unknown)?.to_ascii_uppercase();
    let max = libc::SIGRTMAX();
    if let Ok(number) = name.parse::<i32>() {
        return if (0..=max).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text[1..].parse::<i32>().ok() };
    let realtime = if let Some(rest) =
        name.strip_prefix("RTMIN").filter(|rest| rest.is_empty() || rest.starts_with('+'))
    {
        offset(rest).map(|n| libc::SIGRTMIN().saturating_add(n))
    } else if let Some(rest) =
        name.strip_prefix("RTMAX").filter(|rest| rest.is_empty() || rest.starts_with('-'))
    {
        offset(rest).map(|n| max.saturating_sub(n))
    } else {
        // The second names of signal(7).
        let name = match name {
            "CLD" => "CHLD",
            "IOT" => "ABRT",
            "POLL" => "IO",
            other => other,
        };
        return nix::sys::signal::Signal::from_str(&format!("SIG{name}"))
            .map(|signal| signal as i32)
            .map_err(|_| unknown());
    };
    realtime.filter(|n| (libc::SIGRTMIN()..=max).contains(n)).ok_or_else(unknown)
}

/// Reads the command line, without the program's own name.
///
/// # Errors
/// Everything that is wrong with it; nothing has been done or looked at yet.
pub fn parse(args: &[OsString]) -> std::result::Result<Invocation, UsageError> {
    let mut global = GlobalOptions::default();
    let found = match flags::parse(table::GLOBAL, args, Order::FlagsFirst) {
        Ok(found) => found,
        Err(words) => {
            let help = format!("Incorrect Usage. {words}\n\n{}", table::skeg_help(VERSION));
            return Err(UsageError { global, error: Error::new(words), help });
        }
    };
    if found.wants_help() {
        return Ok(Invocation { global, command: Command::Print(table::skeg_help(VERSION)) });
    }
    if found.is_set("version") {
        return Ok(Invocation { global, command: Command::Print(version_text()) });
    }
    let read = read_global(&found, &mut global).map(|()| found.arguments);
    let result = read.map_err(|error| (error, String::new())).and_then(|arguments| {
        let rest = &args[args.len() - arguments.len()..];
        match rest.split_first() {
            None => Ok(Command::Print(table::skeg_help(VERSION))),
            Some((name, rest)) => parse_command(name, rest),
        }
    });
    match result {
        Ok(command) => Ok(Invocation { global, command }),
        Err((error, help)) => Err(UsageError { global, error, help }),
    }
}

/// The command itself, or the error and the help to print with it.
fn parse_command(name: &OsStr, args: &[OsString]) -> std::result::Result<Command, (Error, String)> {
    // Status and words of urfave/cli, which takes an unknown command for a question about it.
    let no_topic = |name: &OsStr| {
        let words = format!("No help topic for '{}'", name.to_string_lossy());
        (Error::new(words).with_exit_status(3), String::new())
    };
    let find = |name: &OsStr| table::find(name.as_encoded_bytes()).ok_or_else(|| no_topic(name));
    if name == "help" || name == "h" {
        return match args.first() {
            None => Ok(Command::Print(table::skeg_help(VERSION))),
            Some(topic) => find(topic).map(|command| Command::Print(table::command_help(command))),
        };
    }
    let command = find(name)?;
    let found = flags::parse(command.flags, args, command.order).map_err(|words| {
        let help = format!("Incorrect Usage: {words}\n\n{}", table::command_help(command));
        (Error::new(words), help)
    })?;
    if found.wants_help() {
        return Ok(Command::Print(table::command_help(command)));
    }
    if let Some(wanted) = wrong_count(command, found.arguments.len()) {
        let help = format!("Incorrect Usage.\n\n{}", table::command_help(command));
        return Err((Error::new(format!("skeg: {:?} requires {wanted} argument(s)", command.name)), help));
    }
    (command.build)(&found).map_err(|error| (error, String::new()))
}

/// What the command requires, where `count` arguments are too few or too many.
fn wrong_count(command: &table::Syntax, count: usize) -> Option<String> {
    match command.max {
        Some(max) if max == command.min && count != max => Some(format!("exactly {max}")),
        _ if count < command.min => Some(format!("a minimum of {}", command.min)),
        Some(max) if count > max => Some(format!("a maximum of {max}")),
        _ => None,
    }
}

fn read_global(found: &flags::Matches<'_>, global: &mut GlobalOptions) -> Result<()> {
    let text = |name| found.text(name).map_err(Error::new);
    let given = |name| found.path(name).filter(|path| !path.as_os_str().is_empty());
    // The log comes first: it is where the errors of the others go.
    global.log = given("log");
    global.log_format = match text("log-format")?.as_deref() {
        None | Some("" | "text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => return Err(Error::new(format!("invalid log-format: {other}"))),
    };
    global.log_level = match text("log-level")?.as_deref() {
        None => None,
        Some(name) => Some(Level::parse(name).ok_or_else(|| {
            Error::new(format!("invalid log-level: {name}: must be error, warning, info or debug"))
        })?),
    };
    if found.is_set("debug") {
        global.log_level = Some(Level::Debug);
    }
    global.root = given("root");
    global.cgroup_manager = match (text("cgroup-manager")?.as_deref(), found.is_set("systemd-cgroup")) {
        (None, false) | (Some("cgroupfs"), false) => CgroupManager::Cgroupfs,
        (None | Some("systemd"), true) | (Some("systemd"), false) => CgroupManager::Systemd,
        (Some("disabled"), false) => CgroupManager::Disabled,
        (Some(name @ ("cgroupfs" | "disabled")), true) => {
            return Err(Error::new(format!("--systemd-cgroup contradicts --cgroup-manager {name}")));
        }
        (Some(other), _) => {
            return Err(Error::new(format!(
                "invalid cgroup-manager: {other}: must be cgroupfs, systemd or disabled"
            )));
        }
    };
    global.rootless = match text("rootless")?.as_deref() {
        None | Some("auto") => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => {
            return Err(Error::new(format!(
                "invalid value {other:?} for flag -rootless: must be true, false or auto"
            )));
        }
    };
    Ok(())
}

/// What `--version` prints: three lines and no more.
///
/// Three, because go-runc before 1.1 refuses anything else; it takes what follows `version ` and the `: `. dockerd
/// takes every line with the word "version" for the version and `commit:` for the commit.
pub fn version_text() -> String {
    format!("skeg version {VERSION}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}\n")
}

/// The root directory where `--root` is not given: `/run/skeg`, or `$XDG_RUNTIME_DIR/skeg` for a user that is not
/// root (as runc has it).
pub fn default_root(is_root: bool, runtime_dir: Option<&OsStr>) -> PathBuf {
    match runtime_dir {
        Some(dir) if !is_root && !dir.is_empty() => {
            let mut path = PathBuf::from(dir);
            crate::sys::path::append(&mut path, "skeg");
            path
        }
        _ => PathBuf::from("/run/skeg"),
    }
}

/// How many descriptors systemd-style socket activation hands over (sd_listen_fds(3)): `LISTEN_FDS`, where
/// `LISTEN_PID` is absent or is this process.
///
/// # Errors
/// A `LISTEN_FDS` that is no plain number (row D10).
pub fn listen_fds(fds: Option<&OsStr>, pid: Option<&OsStr>, own_pid: u32) -> Result<u32> {
    let Some(fds) = fds.filter(|fds| !fds.is_empty()) else { return Ok(0) };
    if pid.is_some_and(|pid| pid.to_str() != Some(own_pid.to_string().as_str())) {
        return Ok(0);
    }
    let number = fds
        .to_str()
        .filter(|text| text.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::new(format!("LISTEN_FDS={}: must be a number", fds.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn argv(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn command(line: &str) -> Command {
        match parse(&argv(line)) {
            Ok(invocation) => invocation.command,
            Err(usage) => panic!("{line}: {}", usage.error),
        }
    }

    fn failure(line: &str) -> UsageError {
        match parse(&argv(line)) {
            Ok(invocation) => panic!("{line}: {:?}", invocation.command),
            Err(usage) => usage,
        }
    }

    /// peers.md A1.3: what containerd's shim runs.
    #[test]
    fn containerd_argv() {
        let line = "--root /run/containerd/runc/k8s.io --debug --log /b/log.json --log-format json --systemd-cgroup \
                    --rootless=false create --bundle /b --pid-file /b/init.pid --console-socket /s \
                    --pidfd-socket /p --no-pivot --no-new-keyring --detach --preserve-fds 3 web-1";
        let invocation = parse(&argv(line)).unwrap();
        assert_eq!(
            invocation.global,
            GlobalOptions {
                root: Some("/run/containerd/runc/k8s.io".into()),
                log: Some("/b/log.json".into()),
                log_format: Format::Json,
                log_level: Some(Level::Debug),
                cgroup_manager: CgroupManager::Systemd,
                rootless: Some(false),
            }
        );
        let Command::Create(options) = invocation.command else { panic!("{line}") };
        assert_eq!(
            options,
            CreateOptions {
                id: ContainerId::parse("web-1").unwrap(),
                bundle: "/b".into(),
                console_socket: Some("/s".into()),
                pidfd_socket: Some("/p".into()),
                pid_file: Some("/b/init.pid".into()),
                no_pivot: true,
                no_new_keyring: true,
                preserve_fds: 3,
            }
        );
        for line in [
            "exec --process /tmp/runc-process1 --console-socket /s --detach --pid-file /b/e.pid web",
            "kill --all web 9",
            "kill web 15",
            "delete --force web",
            "ps --format json web",
            "list --format=json",
            "events --stats web",
            "events --interval=5s web",
            "update --resources=- web",
            "update --resources - web",
            "checkpoint --image-path /i --work-path /w --parent-path /p --tcp-established --ext-unix-sk --shell-job \
             --page-server 1.2.3.4:5 --file-locks --manage-cgroups-mode soft --empty-ns network --empty-ns ipc \
             --lazy-pages --status-fd 3 --leave-running web",
            "checkpoint --pre-dump web",
            "restore --image-path /i --work-path /w --detach --pid-file /p --console-socket /s --no-pivot \
             -no-subreaper --bundle /b web",
            "--criu /usr/sbin/criu state web",
            "features",
        ] {
            command(line);
        }
    }

    /// peers.md A1.3: conmon for podman and CRI-O, podman itself, CRI-O itself, buildah.
    #[test]
    fn other_managers_argv() {
        for line in [
            "--systemd-cgroup --log-format=json --log /run/oci-log create --bundle /b --pid-file /p web",
            "--cgroup-manager disabled create --bundle /b --pid-file /p --no-new-keyring web",
            "exec --pid-file /p --process /f --detach web",
            "restore --bundle /b --pid-file /p --detach --image-path /i --work-path /b --tcp-established \
             --file-locks --lsm-mount-context= --lsm-profile=selinux:x web",
            "--root /r --systemd-cgroup start web",
            "--root /r kill web TERM",
            "--root /r kill -a web 9",
            "--root /r update --resources - web",
            "--root /r exec --process /f web",
            "checkpoint --file-locks --image-path /i --work-path /w --leave-running web",
            "kill web",
            "delete web",
            "pause web",
            "resume web",
        ] {
            command(line);
        }
        let json = parse(&argv("--log-format=json --log /run/oci-log state web")).unwrap().global;
        assert_eq!((json.log_format, json.log), (Format::Json, Some("/run/oci-log".into())));
    }

    /// peers.md A1.3: podman's two probes for checkpoint support.
    #[test]
    fn podman_probes() {
        let Command::Print(help) = command("checkpoint --help") else { panic!("no help") };
        assert!(help.contains("--image-path value"));
        let usage = failure("restore --lsm-mount-context");
        assert_eq!(usage.error.to_string(), "flag needs an argument: -lsm-mount-context");
        assert!(
            usage.help.starts_with("Incorrect Usage: flag needs an argument: -lsm-mount-context\n\nNAME:\n")
        );
        assert_eq!(usage.error.exit_status(), None);
    }

    /// What Debian's runc 1.1.5 printed for the same mistakes, its name aside.
    #[test]
    fn mistakes_have_the_words_and_statuses_of_runc() {
        for (line, words, status) in [
            ("nosuch", "No help topic for 'nosuch'", Some(3)),
            ("help nosuch", "No help topic for 'nosuch'", Some(3)),
            ("-", "No help topic for '-'", Some(3)),
            ("--nosuch", "flag provided but not defined: -nosuch", None),
            ("state --nosuch a", "flag provided but not defined: -nosuch", None),
            ("state", "skeg: \"state\" requires exactly 1 argument(s)", None),
            ("state a b", "skeg: \"state\" requires exactly 1 argument(s)", None),
            ("features x", "skeg: \"features\" requires exactly 0 argument(s)", None),
            ("list -- x", "skeg: \"list\" requires exactly 0 argument(s)", None),
            ("kill", "skeg: \"kill\" requires a minimum of 1 argument(s)", None),
            ("kill x 9 9", "skeg: \"kill\" requires a maximum of 2 argument(s)", None),
            ("exec", "skeg: \"exec\" requires a minimum of 1 argument(s)", None),
            ("exec x", "exec failed: process args cannot be empty", Some(255)),
            (
                "create --preserve-fds abc x",
                "invalid value \"abc\" for flag -preserve-fds: parse error",
                None,
            ),
            ("create --no-pivot=maybe x", "invalid boolean value \"maybe\" for -no-pivot: parse error", None),
            ("--log-format=xml state x", "invalid log-format: xml", None),
            ("kill x BOGUS", "unknown signal \"BOGUS\"", None),
            ("list --format xml", "invalid format option: must be table or json", None),
            ("events --interval=0s x", "duration interval must be greater than 0", None),
        ] {
            let usage = failure(line);
            assert_eq!(
                (usage.error.to_string().as_str(), usage.error.exit_status()),
                (words, status),
                "{line}"
            );
        }
    }

    /// The log options count even where the command is wrong: containerd reads the reason from its log file.
    #[test]
    fn a_usage_error_knows_where_the_log_is() {
        let usage = failure("--log /l --log-format json state");
        assert_eq!((usage.global.log, usage.global.log_format), (Some("/l".into()), Format::Json));
    }

    /// security.md G1: every command that takes an id refuses a bad one before it does anything.
    #[test]
    fn g1_every_command_checks_the_id() {
        let with_id = table::COMMANDS.iter().filter(|command| command.min == 1);
        let mut count = 0;
        for syntax in with_id {
            for id in ["../x", "/", ".", "..", "a/b", "a\nb", &"x".repeat(4096), ""] {
                let mut args = vec![OsString::from(syntax.name), OsString::from(id)];
                if syntax.name == "exec" {
                    args.push("ls".into());
                }
                let usage = parse(&args).unwrap_err();
                assert!(usage.error.to_string().contains("container"), "{}: {}", syntax.name, usage.error);
            }
            count += 1;
        }
        assert_eq!(count, 14);
        assert_eq!(failure("exec ../x ls").error.exit_status(), Some(255));
    }

    /// security.md E3: `exec --user` takes plain numbers, and nothing else becomes an id.
    #[test]
    fn e3_user_table() {
        for text in [
            "",
            ":",
            "1:",
            ":1",
            "-1",
            "+1",
            "01",
            " 1",
            "1 ",
            "4294967295",
            "4294967296",
            "1e3",
            "root",
            "0x1",
            "1:2:3",
            "1:-1",
            "1.0",
            "\u{661}",
        ] {
            assert!(User::parse(text).is_err(), "{text:?}");
            let args: Vec<OsString> = ["exec", "--user", text, "x", "id"].map(OsString::from).to_vec();
            assert_eq!(parse(&args).unwrap_err().error.exit_status(), Some(255), "{text:?}");
        }
        assert_eq!(User::parse("0").unwrap(), User { uid: 0, gid: None });
        assert_eq!(
            User::parse("2147483648:4294967294").unwrap(),
            User { uid: 2_147_483_648, gid: Some(4_294_967_294) }
        );
        let Command::Exec(options) = command("exec -u 1:2 -g 3 --additional-gids=4 x id") else {
            panic!("exec")
        };
        assert_eq!(options.user, Some(User { uid: 1, gid: Some(2) }));
        assert!(failure("exec --additional-gids -1 x id").error.to_string().contains("additional-gids"));
    }

    /// peers.md A1.2: number, name, name with SIG; `kill -l` has SIGRTMIN at 34 and SIGRTMAX at 64.
    #[test]
    fn signals() {
        let table = [
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+1", 35),
            ("RTMAX-1", 63),
            ("rtmax", 64),
            ("IOT", 6),
            ("CLD", 17),
            ("POLL", 29),
            ("WINCH", 28),
            ("PWR", 30),
            ("SYS", 31),
        ];
        for (text, number) in table {
            assert_eq!(parse_signal(OsStr::new(text)).unwrap(), number, "{text}");
        }
        for text in [
            "",
            "SIG",
            "-1",
            "65",
            "BOGUS",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX+1",
            "RTMIN+",
            "RTMIN+x",
            "SIGSIGKILL",
            "9 ",
            "99999999999",
        ] {
            assert!(parse_signal(OsStr::new(text)).is_err(), "{text:?}");
        }
        assert_eq!(
            command("kill x"),
            Command::Kill { id: ContainerId::parse("x").unwrap(), signal: 15, all: false }
        );
        assert_eq!(
            command("kill -a x RTMIN+2"),
            Command::Kill { id: ContainerId::parse("x").unwrap(), signal: 36, all: true }
        );
    }

    /// Every flag of every command changes what comes out: none is parsed and then forgotten, but for those that are
    /// documented to have no effect.
    #[test]
    fn every_flag_arrives() {
        let without_effect = ["checkpoint", "restore"];
        let obsolete = [("create", "detach"), ("exec", "no-subreaper"), ("list", "quiet")];
        for syntax in table::COMMANDS.iter().filter(|syntax| !without_effect.contains(&syntax.name)) {
            let base: Vec<OsString> = match syntax.min {
                0 => vec![],
                _ if syntax.name == "exec" => vec!["x".into(), "ls".into()],
                _ => vec!["x".into()],
            };
            let run = |extra: &[OsString]| {
                let args = [&[OsString::from(syntax.name)], extra, &base].concat();
                parse(&args).map(|invocation| invocation.command).map_err(|usage| usage.error)
            };
            let plain = run(&[]).unwrap();
            for flag in syntax.flags.iter().filter(|flag| !obsolete.contains(&(syntax.name, flag.name))) {
                let value = match (flag.kind, flag.name) {
                    (flags::Kind::Bool, _) => "",
                    (flags::Kind::Duration, _) => "=7s",
                    (_, "format") => "=json",
                    _ => "=7",
                };
                for name in [format!("--{}{value}", flag.name), format!("-{}{value}", flag.short)] {
                    if name.trim_start_matches('-').trim_end_matches(value).is_empty() {
                        continue;
                    }
                    assert_ne!(run(&[name.clone().into()]).unwrap(), plain, "{} {name}", syntax.name);
                }
            }
        }
    }

    /// Names occur once, and every command has its help.
    #[test]
    fn the_table_is_sound() {
        for syntax in table::COMMANDS {
            let mut names: Vec<_> = syntax
                .flags
                .iter()
                .flat_map(|flag| [flag.name, flag.short])
                .filter(|name| !name.is_empty())
                .collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", syntax.name);
            assert!(syntax.flags.iter().all(|flag| flag.hidden == flag.help.is_empty()), "{}", syntax.name);
            let Command::Print(help) = command(&format!("{} --help", syntax.name)) else {
                panic!("{}", syntax.name)
            };
            assert!(help.starts_with(&format!(
                "NAME:\n   skeg {} - {}\n\nUSAGE:\n   skeg {}",
                syntax.name, syntax.summary, syntax.name
            )));
            assert!(help.contains("\n\nDESCRIPTION:\n   "), "{help}");
            assert!(help.lines().all(|line| line.len() <= 130), "{help}");
            assert_eq!(command(&format!("help {}", syntax.name)), Command::Print(help));
        }
        for line in ["", "help", "h", "--help", "-h", "--help list"] {
            let Command::Print(help) = command(line) else { panic!("{line}") };
            assert!(help.contains("GLOBAL OPTIONS:\n   --debug"), "{help}");
        }
    }

    /// go-runc before 1.1: three lines, one "version " in the first, one ": " in the others. dockerd: no other line
    /// with "version". runc's own test: `spec: N.N.N`.
    #[test]
    fn version_has_three_lines_that_managers_parse() {
        for line in ["--version", "-v", "--version list", "--root /r --version"] {
            let Command::Print(text) = command(line) else { panic!("{line}") };
            let lines: Vec<_> = text.trim().split('\n').collect();
            assert_eq!(lines.len(), 3);
            assert_eq!(lines[0].split("version ").collect::<Vec<_>>(), ["skeg ", VERSION]);
            assert_eq!(lines[1].split(": ").collect::<Vec<_>>(), ["commit", COMMIT]);
            assert_eq!(lines[2].split(": ").collect::<Vec<_>>(), ["spec", SPEC_VERSION]);
            assert!(!lines[1..].iter().any(|line| line.contains("version")));
        }
    }

    #[test]
    fn cgroup_managers_and_rootless() {
        for (line, manager) in [
            ("list", CgroupManager::Cgroupfs),
            ("--systemd-cgroup list", CgroupManager::Systemd),
            ("--systemd-cgroup=false list", CgroupManager::Cgroupfs),
            ("--cgroup-manager systemd list", CgroupManager::Systemd),
            ("--cgroup-manager=disabled list", CgroupManager::Disabled),
        ] {
            assert_eq!(parse(&argv(line)).unwrap().global.cgroup_manager, manager, "{line}");
        }
        for line in [
            "--cgroup-manager x list",
            "--systemd-cgroup --cgroup-manager cgroupfs list",
            "--rootless=maybe list",
        ] {
            failure(line);
        }
        assert_eq!(parse(&argv("--rootless auto list")).unwrap().global.rootless, None);
        assert_eq!(parse(&argv("--rootless=true list")).unwrap().global.rootless, Some(true));
    }

    #[test]
    fn root_directory_of_a_user() {
        let run = Some(OsStr::new("/run/user/7"));
        assert_eq!(default_root(true, run), PathBuf::from("/run/skeg"));
        assert_eq!(default_root(false, run), PathBuf::from("/run/user/7/skeg"));
        assert_eq!(default_root(false, None), PathBuf::from("/run/skeg"));
        assert_eq!(default_root(false, Some(OsStr::new(""))), PathBuf::from("/run/skeg"));
    }

    /// security.md D10: the counts of descriptors.
    #[test]
    fn d10_counts_of_descriptors() {
        for value in ["-1", "1048577", "4294967296", "3x", "0x3", ""] {
            assert!(
                parse(&["create".into(), "--preserve-fds".into(), value.into(), "x".into()]).is_err(),
                "{value:?}"
            );
        }
        let fds =
            |value: &str, pid: Option<&str>| listen_fds(Some(OsStr::new(value)), pid.map(OsStr::new), 42);
        for value in ["-1", "+1", "4294967296", "3x", " 3"] {
            assert!(fds(value, None).is_err(), "{value:?}");
        }
        assert_eq!(fds("3", None).unwrap(), 3);
        assert_eq!(fds("3", Some("42")).unwrap(), 3);
        assert_eq!(fds("3", Some("43")).unwrap(), 0);
        assert_eq!(fds("", None).unwrap(), 0);
        assert_eq!(listen_fds(None, None, 42).unwrap(), 0);
        assert!(listen_fds(Some(OsStr::from_bytes(b"\xff")), None, 42).is_err());
    }

    /// What follows the id belongs to the program, whatever it looks like.
    #[test]
    fn exec_and_ps_leave_the_arguments_alone() {
        let Command::Exec(options) =
            command("exec -t --cwd /w -e A=1 --env B=2,3 -c CAP_KILL web ls -l --env C=3 -- -h")
        else {
            panic!("exec")
        };
        assert_eq!(options.args, ["ls", "-l", "--env", "C=3", "--", "-h"]);
        assert_eq!(
            (options.env.as_slice(), options.tty),
            (&["A=1".to_owned(), "B=2,3".to_owned()][..], true)
        );
        assert_eq!(options.cwd, Some("/w".into()));
        let Command::Ps { format: PsFormat::Table(arguments), .. } = command("ps web -o pid --format x")
        else {
            panic!("ps")
        };
        assert_eq!(arguments, ["-o", "pid", "--format", "x"]);
        assert_eq!(
            command("delete web --force"),
            Command::Delete { id: ContainerId::parse("web").unwrap(), force: true }
        );
    }
}
