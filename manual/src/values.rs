//! What the flags take, for the completions: the table of the command line knows text and numbers only.

use skeg::cli::flags::{Flag, Kind};

/// What may follow a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Nothing: a switch.
    None,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// The path of a file or socket.
    File,
    /// The path of a directory.
    Directory,
    /// Anything that cannot be guessed.
    Free,
}

/// The flags with more than free text behind them, by their long names.
const KNOWN: &[(&str, Value)] = &[
    ("bundle", Value::Directory),
    ("cgroup-manager", Value::OneOf(&["cgroupfs", "systemd", "disabled"])),
    ("console-socket", Value::File),
    ("empty-ns", Value::OneOf(&["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"])),
    ("format", Value::OneOf(&["table", "json"])),
    ("image-path", Value::Directory),
    ("log", Value::File),
    ("log-format", Value::OneOf(&["text", "json"])),
    ("log-level", Value::OneOf(&["error", "warning", "info", "debug"])),
    ("manage-cgroups-mode", Value::OneOf(&["soft", "full", "strict", "ignore"])),
    ("parent-path", Value::Directory),
    ("pid-file", Value::File),
    ("pidfd-socket", Value::File),
    ("process", Value::File),
    ("resources", Value::File),
    ("root", Value::Directory),
    ("rootless", Value::OneOf(&["true", "false", "auto"])),
    ("work-path", Value::Directory),
];

/// What may follow `flag`.
pub fn of(flag: &Flag) -> Value {
    if flag.kind == Kind::Bool {
        return Value::None;
    }
    KNOWN.iter().find(|(name, _)| *name == flag.name).map_or(Value::Free, |(_, value)| *value)
}

/// The signals that completions offer for `kill`.
pub const SIGNALS: &[&str] = &["TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT", "WINCH"];

#[cfg(test)]
mod tests {
    use super::*;
    use skeg::cli::table::{COMMANDS, GLOBAL};

    fn all_flags() -> impl Iterator<Item = &'static Flag> {
        GLOBAL.iter().chain(COMMANDS.iter().flat_map(|command| command.flags))
    }

    #[test]
    fn every_known_flag_exists_and_takes_a_value() {
        for (name, _) in KNOWN {
            let flag = all_flags().find(|flag| flag.name == *name);
            assert!(flag.is_some_and(|flag| flag.kind != Kind::Bool), "{name}");
        }
    }

    /// The words that are offered are those that the help names.
    #[test]
    fn the_help_names_the_words() {
        for flag in all_flags().filter(|flag| !flag.hidden && flag.name != "empty-ns") {
            if let Value::OneOf(words) = of(flag) {
                assert!(words.iter().all(|word| flag.help.contains(word)), "--{}: {}", flag.name, flag.help);
            }
        }
    }
}
