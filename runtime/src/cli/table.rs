//! The table of commands and flags: what is parsed, what `--help` prints, and what man pages and completions are
//! made from. The names are runc's, because managers pass them; the words are our own.

use std::fmt::Write as _;

use super::flags::{Flag, Kind, Matches, Order};
use super::{Command, build};
use crate::error::Result;

/// One command of skeg.
#[derive(Debug)]
pub struct Syntax {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for the list of commands.
    pub summary: &'static str,
    /// What follows the flags in the usage line.
    pub arguments: &'static str,
    /// The paragraphs of `--help`.
    pub description: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
    /// The least number of arguments.
    pub min: usize,
    /// The greatest number of arguments; none for no limit.
    pub max: Option<usize>,
    /// Where flags may stand.
    pub order: Order,
    /// Makes the command of what was found.
    pub build: fn(&Matches<'_>) -> Result<Command>,
}

const fn flag(kind: Kind, name: &'static str, short: &'static str, help: &'static str) -> Flag {
    Flag { name, short, kind, help, hidden: false }
}

const fn switch(name: &'static str, short: &'static str, help: &'static str) -> Flag {
    flag(Kind::Bool, name, short, help)
}

const fn text(name: &'static str, short: &'static str, help: &'static str) -> Flag {
    flag(Kind::Text, name, short, help)
}

const fn hidden(kind: Kind, name: &'static str, short: &'static str) -> Flag {
    Flag { name, short, kind, help: "", hidden: true }
}

const BUNDLE: Flag =
    text("bundle", "b", "directory with config.json and the root file system (default: \".\")");
const CONSOLE_SOCKET: Flag =
    text("console-socket", "", "AF_UNIX socket that receives the master side of the pseudoterminal");
const PID_FILE: Flag = text("pid-file", "", "file that receives the process id");
const PIDFD_SOCKET: Flag = text("pidfd-socket", "", "AF_UNIX socket that receives a pidfd of the process");
const NO_PIVOT: Flag = switch("no-pivot", "", "enter the root file system without pivot_root (ramdisks)");
const NO_NEW_KEYRING: Flag = switch("no-new-keyring", "", "keep the session keyring of the caller");
const PRESERVE_FDS: Flag = flag(
    Kind::Int,
    "preserve-fds",
    "",
    "hand on N descriptors from 3 on, after those of $LISTEN_FDS (default: 0)",
);
const DETACH: Flag = switch("detach", "d", "return when the process runs");
const NO_SUBREAPER: Flag = switch("no-subreaper", "", "do not adopt orphans of the container");
const FORMAT: Flag = text("format", "f", "table or json (default: \"table\")");
const IMAGE_PATH: Flag = text("image-path", "", "directory of the criu image files");
const WORK_PATH: Flag = text("work-path", "", "directory of criu's work files and logs");
const TCP_ESTABLISHED: Flag = switch("tcp-established", "", "include open TCP connections");
const EXT_UNIX_SK: Flag = switch("ext-unix-sk", "", "allow unix sockets with a peer outside");
const SHELL_JOB: Flag = switch("shell-job", "", "allow jobs of a shell outside");
const LAZY_PAGES: Flag = switch("lazy-pages", "", "bring memory in on demand (userfaultfd)");
const FILE_LOCKS: Flag = switch("file-locks", "", "include file locks");
const CGROUPS_MODE: Flag =
    text("manage-cgroups-mode", "", "soft, full, strict or ignore (default: \"soft\")");
const EMPTY_NS: Flag = flag(Kind::List, "empty-ns", "", "make this namespace, but leave it empty");
const AUTO_DEDUP: Flag = switch("auto-dedup", "", "drop memory pages that a later image has");
const LINK_REMAP: Flag = switch("link-remap", "", "remap links of deleted files");
const TCP_SKIP_IN_FLIGHT: Flag = switch("tcp-skip-in-flight", "", "leave out TCP connections in the making");

/// The flags of skeg itself.
pub static GLOBAL: &[Flag] = &[
    switch("debug", "", "log everything (as --log-level debug)"),
    text("log", "", "file that the log is added to (default: standard error)"),
    text("log-format", "", "text or json (default: \"text\")"),
    text("log-level", "", "error, warning, info or debug (default: warning in text, error in json)"),
    text(
        "root",
        "",
        "directory of the containers' state (default: \"/run/skeg\", or \"$XDG_RUNTIME_DIR/skeg\" for a user)",
    ),
    switch("systemd-cgroup", "", "let systemd make the cgroups; cgroupsPath is then \"slice:prefix:name\""),
    text("cgroup-manager", "", "cgroupfs, systemd or disabled (default: \"cgroupfs\")"),
    text("rootless", "", "go on where cgroups may not be changed: true, false or auto (default: \"auto\")"),
    // containerd 1.x passes its criu_path option; it means something only to checkpoint and restore.
    hidden(Kind::Text, "criu", ""),
    switch("version", "v", "print the version"),
];

const ID_ARGUMENT: &str = "<container-id>";
const NEW_CONTAINER: &str = "The id names the container in all later commands; no other container of the same\n\
    root directory may have it. The bundle is a directory with config.json, which says what to run and how it is\n\
    isolated, and a root file system. \"skeg spec\" writes a config.json to start from.";

/// All commands, in the order of `--help`.
pub static COMMANDS: &[Syntax] = &[
    Syntax {
        name: "checkpoint",
        summary: "save the state of a running container with criu (not supported yet)",
        arguments: ID_ARGUMENT,
        description: "Takes runc's flags, and says that it is not supported yet.",
        flags: &[
            IMAGE_PATH,
            WORK_PATH,
            text("parent-path", "", "directory of the image files of the pre-dump before"),
            switch("leave-running", "", "do not stop the container"),
            TCP_ESTABLISHED,
            TCP_SKIP_IN_FLIGHT,
            LINK_REMAP,
            EXT_UNIX_SK,
            SHELL_JOB,
            LAZY_PAGES,
            flag(
                Kind::Int,
                "status-fd",
                "",
                "descriptor that gets a byte when lazy pages are served (default: -1)",
            ),
            text("page-server", "", "ADDRESS:PORT of the page server"),
            FILE_LOCKS,
            switch("pre-dump", "", "save memory only and leave the container running"),
            CGROUPS_MODE,
            EMPTY_NS,
            AUTO_DEDUP,
        ],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::checkpoint,
    },
    Syntax {
        name: "create",
        summary: "make a container from a bundle; its program waits for start",
        arguments: ID_ARGUMENT,
        description: NEW_CONTAINER,
        flags: &[
            BUNDLE,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            // Some callers share one set of options between create and run; create always detaches.
            hidden(Kind::Bool, "detach", "d"),
        ],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::create,
    },
    Syntax {
        name: "delete",
        summary: "remove what a stopped container left: state, cgroups",
        arguments: ID_ARGUMENT,
        description: "The container must have stopped, unless --force is given. With --force an id that does not\n\
            exist is no error.",
        flags: &[switch("force", "f", "kill the container first")],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::delete,
    },
    Syntax {
        name: "events",
        summary: "print statistics and out-of-memory events of a container as JSON",
        arguments: ID_ARGUMENT,
        description: "One line of JSON for each event, until the container stops.",
        flags: &[
            flag(Kind::Duration, "interval", "", "time between two statistics (default: 5s)"),
            switch("stats", "", "print the statistics once"),
        ],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::events,
    },
    Syntax {
        name: "exec",
        summary: "run one more process in a container",
        arguments: "<container-id> <command> [arguments...] || --process process.json <container-id>",
        description: "The process gets the isolation, the capabilities and the limits of the container. Where\n\
            --process names a file, everything is taken from that file.\n\nExits with the status of the process, or\n\
            with 255 where it could not be run.",
        flags: &[
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            text("cwd", "", "working directory in the container"),
            flag(Kind::List, "env", "e", "NAME=value for the environment; may be repeated"),
            switch("tty", "t", "give the process a pseudoterminal"),
            text("user", "u", "<uid>[:<gid>], numbers only"),
            flag(Kind::List, "additional-gids", "g", "one more group, a number; may be repeated"),
            text("process", "p", "file with the process object of a config.json"),
            DETACH,
            PID_FILE,
            text("process-label", "", "SELinux label of the process"),
            text("apparmor", "", "AppArmor profile of the process"),
            switch("no-new-privs", "", "set no_new_privs"),
            flag(Kind::List, "cap", "c", "one more capability; may be repeated"),
            PRESERVE_FDS,
            flag(
                Kind::List,
                "cgroup",
                "",
                "run in this cgroup below the container's: [<controller>[,...]:]<path>",
            ),
            switch("ignore-paused", "", "allow it in a paused container"),
            hidden(Kind::Bool, "no-subreaper", ""),
        ],
        min: 1,
        max: None,
        order: Order::FlagsFirst,
        build: build::exec,
    },
    Syntax {
        name: "features",
        summary: "print what skeg supports, as JSON",
        arguments: "",
        description: "The features document of the OCI runtime specification.",
        flags: &[],
        min: 0,
        max: Some(0),
        order: Order::Anywhere,
        build: |_| Ok(Command::Features),
    },
    Syntax {
        name: "kill",
        summary: "send a signal to a container (default: SIGTERM)",
        arguments: "<container-id> [signal]",
        description: "The signal is a number or a name, with or without SIG: 9, KILL, SIGKILL, RTMIN+1. It goes to\n\
            the init process of the container.",
        // runc has deprecated --all, and managers still pass it.
        flags: &[hidden(Kind::Bool, "all", "a")],
        min: 1,
        max: Some(2),
        order: Order::Anywhere,
        build: build::kill,
    },
    Syntax {
        name: "list",
        summary: "list the containers of the root directory",
        arguments: "",
        description: "Another root directory is named by the global flag --root.",
        flags: &[FORMAT, switch("quiet", "q", "print ids only")],
        min: 0,
        max: Some(0),
        order: Order::Anywhere,
        build: build::list,
    },
    Syntax {
        name: "pause",
        summary: "freeze all processes of a container",
        arguments: ID_ARGUMENT,
        description: "\"skeg resume\" lets them go on.",
        flags: &[],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::pause,
    },
    Syntax {
        name: "ps",
        summary: "list the processes of a container",
        arguments: "<container-id> [ps options]",
        description: "As a table, this is the output of ps(1) with the options given (default: -ef), for the\n\
            processes of the container; as json, an array of process ids.",
        flags: &[FORMAT],
        min: 1,
        max: None,
        order: Order::FlagsFirst,
        build: build::ps,
    },
    Syntax {
        name: "restore",
        summary: "make a container from a checkpoint (not supported yet)",
        arguments: ID_ARGUMENT,
        description: "Takes runc's flags, and says that it is not supported yet.",
        flags: &[
            CONSOLE_SOCKET,
            IMAGE_PATH,
            WORK_PATH,
            TCP_ESTABLISHED,
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            CGROUPS_MODE,
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            EMPTY_NS,
            AUTO_DEDUP,
            LAZY_PAGES,
            text("lsm-profile", "", "LSM profile to use: TYPE:NAME"),
            text("lsm-mount-context", "", "LSM mount context to use"),
        ],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::restore,
    },
    Syntax {
        name: "resume",
        summary: "let the processes of a paused container go on",
        arguments: ID_ARGUMENT,
        description: "The counterpart of \"skeg pause\".",
        flags: &[],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::resume,
    },
    Syntax {
        name: "run",
        summary: "create and start a container, and remove it after its end",
        arguments: ID_ARGUMENT,
        description: NEW_CONTAINER,
        flags: &[
            BUNDLE,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            DETACH,
            switch("keep", "", "do not remove the container after its end"),
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
        ],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::run,
    },
    Syntax {
        name: "spec",
        summary: "write a config.json to start from",
        arguments: "",
        description: "It runs \"sh\" of the directory rootfs beside it; edit process.args for another program. An\n\
            existing config.json is not touched.",
        flags: &[
            BUNDLE,
            switch("rootless", "", "for a user without privileges: user namespace, no new network"),
        ],
        min: 0,
        max: Some(0),
        order: Order::Anywhere,
        build: build::spec,
    },
    Syntax {
        name: "start",
        summary: "run the program of a created container",
        arguments: ID_ARGUMENT,
        description: "Fails where the program could not be executed, and says why.",
        flags: &[],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::start,
    },
    Syntax {
        name: "state",
        summary: "print the state of a container as JSON",
        arguments: ID_ARGUMENT,
        description: "The state of the OCI runtime specification, with rootfs, created and owner added.",
        flags: &[],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::state,
    },
    Syntax {
        name: "update",
        summary: "change the resource limits of a container",
        arguments: ID_ARGUMENT,
        description: "With --resources, the linux.resources object of a config.json is read and the other flags do\n\
            not count. What is not named stays as it is.",
        flags: &[
            text("resources", "r", "file with the resources, or - for standard input"),
            text("blkio-weight", "", "block IO weight, 10 to 1000"),
            text("cpu-period", "", "period of --cpu-quota in microseconds"),
            text("cpu-quota", "", "CPU time of a period in microseconds, -1 for no limit"),
            text("cpu-burst", "", "CPU time that may be saved up, in microseconds"),
            text("cpu-share", "", "CPU shares, 2 to 262144"),
            text("cpu-rt-period", "", "period of --cpu-rt-runtime in microseconds"),
            text("cpu-rt-runtime", "", "realtime CPU time of a period in microseconds"),
            text("cpu-idle", "", "1 for SCHED_IDLE, 0 for not"),
            text("cpuset-cpus", "", "CPUs to use, as 0-3,7"),
            text("cpuset-mems", "", "memory nodes to use, as 0-1"),
            text("memory", "", "memory limit in bytes, with k, m, g for powers of 1024, -1 for none"),
            text("memory-reservation", "", "soft memory limit in bytes"),
            text("memory-swap", "", "limit of memory and swap together in bytes, -1 for none"),
            text("pids-limit", "", "number of processes, -1 for no limit"),
            text("l3-cache-schema", "", "Intel RDT L3 cache schema"),
            text("mem-bw-schema", "", "Intel RDT memory bandwidth schema"),
            // Linux has no kernel memory limits any more (since 5.16); old callers still pass them.
            hidden(Kind::Text, "kernel-memory", ""),
            hidden(Kind::Text, "kernel-memory-tcp", ""),
        ],
        min: 1,
        max: Some(1),
        order: Order::Anywhere,
        build: build::update,
    },
];

/// The command of that name.
pub fn find(name: &[u8]) -> Option<&'static Syntax> {
    COMMANDS.iter().find(|command| command.name.as_bytes() == name)
}

/// `skeg COMMAND --help`.
pub fn command_help(command: &Syntax) -> String {
    let mut help =
        format!("NAME:\n   skeg {} - {}\n\nUSAGE:\n   skeg {}", command.name, command.summary, command.name);
    let has_options = command.flags.iter().any(|flag| !flag.hidden);
    for part in [if has_options { "[command options]" } else { "" }, command.arguments] {
        if !part.is_empty() {
            help.extend([" ", part]);
        }
    }
    help.push_str("\n\nDESCRIPTION:\n");
    for line in command.description.lines() {
        help.extend(["   ", line, "\n"]);
    }
    if has_options {
        help.push_str("\nOPTIONS:\n");
        write_flags(&mut help, command.flags);
    }
    help
}

/// `skeg --help`.
pub fn skeg_help(version: &str) -> String {
    let mut help = String::from(
        "NAME:\n   skeg - low-level OCI container runtime\n\n\
         USAGE:\n   skeg [global options] command [command options] [arguments...]\n\nVERSION:\n   ",
    );
    help.extend([version, "\n\nCOMMANDS:\n"]);
    let width = COMMANDS.iter().map(|command| command.name.len()).max().unwrap_or(0);
    for command in COMMANDS {
        // Writing to a String cannot fail.
        let _ = writeln!(help, "   {:width$}  {}", command.name, command.summary);
    }
    help.push_str("\nGLOBAL OPTIONS:\n");
    write_flags(&mut help, GLOBAL);
    help
}

fn write_flags(help: &mut String, flags: &[Flag]) {
    let form = |flag: &Flag| {
        let value = if flag.kind == Kind::Bool { "" } else { " value" };
        match flag.short {
            "" => format!("--{}{value}", flag.name),
            short => format!("--{}{value}, -{short}{value}", flag.name),
        }
    };
    let shown: Vec<_> = flags
        .iter()
        .filter(|flag| !flag.hidden)
        .map(|flag| (form(flag), flag.help))
        .chain([("--help, -h".to_owned(), "show help")])
        .collect();
    let width = shown.iter().map(|(form, _)| form.len()).max().unwrap_or(0);
    for (form, text) in shown {
        // Writing to a String cannot fail.
        let _ = writeln!(help, "   {form:width$}  {text}");
    }
}
