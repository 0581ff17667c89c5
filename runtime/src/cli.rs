//! The command line: argv in, a [`Command`] out, nothing done. The names, the order, the words of the errors and the
//! exit statuses are runc's, because managers know no others; `command` says what comes out, `table` holds the
//! commands, `flags` the grammar, `build` and `values` what becomes of flags and arguments.

mod build;
mod command;
pub mod flags;
pub mod table;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use flags::Order;

pub use self::command::{
    CgroupManager, Command, CreateOptions, ExecOptions, GlobalOptions, Invocation, ListFormat, PsFormat,
    RunOptions, UpdateOptions, UsageError, User,
};
use crate::error::{Error, Result};
use crate::log::{Format, Level};

/// The version of skeg.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The newest version of the OCI runtime specification that skeg implements.
pub const SPEC_VERSION: &str = "1.3.0";

/// The commit that skeg was built from, where the build set `SKEG_COMMIT`.
pub const COMMIT: &str = match option_env!("SKEG_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

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
mod tests;
