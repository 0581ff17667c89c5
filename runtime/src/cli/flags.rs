//! The grammar of Go's `flag` package, as urfave/cli v1 (runc's) uses it.
//!
//! containerd, conmon, podman, CRI-O and buildah were written against it: `-flag` is `--flag`, `--flag=value` and
//! `--flag value` are the same, a boolean takes a value only with `=`, short flags do not bundle, and the errors have
//! fixed words that some of them look for. No argv crate of the ecosystem speaks it (they give `-no-subreaper` to ten
//! short flags), hence these lines.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `=true`, `=false` and the other words of Go's `strconv.ParseBool`.
    Bool,
    /// Any text; the last one given counts.
    Text,
    /// Any text, as often as wanted. Commas are not separators.
    List,
    /// A decimal number in the range of i64.
    Int,
    /// A time in Go's notation (`5s`, `1m30s`, `1.5h`).
    Duration,
}

/// One flag of a command, or of skeg itself.
#[derive(Debug)]
pub struct Flag {
    /// The long name, without dashes.
    pub name: &'static str,
    /// The one-letter name, or nothing.
    pub short: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// One line for `--help`.
    pub help: &'static str,
    /// Accepted, but not shown in `--help`: obsolete, or of no effect and passed by some manager.
    pub hidden: bool,
}

/// `--help`, which every command has.
const HELP: Flag = Flag { name: "help", short: "h", kind: Kind::Bool, help: "", hidden: true };

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Parsing ends at the first argument that is no flag: `exec` and `ps`, whose arguments belong to a program.
    FlagsFirst,
    /// Known flags may follow the arguments (`delete ID --force`): runc's urfave/cli moves them to the front. What
    /// is not known there is an argument (`kill ID -9`).
    Anywhere,
}

/// What was given on the command line.
#[derive(Debug, Default)]
pub struct Matches<'a> {
    flags: Vec<(&'static Flag, &'a OsStr)>,
    /// The arguments that are no flags, in order.
    pub arguments: Vec<&'a OsStr>,
}

impl<'a> Matches<'a> {
    /// The last value of the flag `name`.
    pub fn value(&self, name: &str) -> Option<&'a OsStr> {
        self.flags.iter().rev().find(|(flag, _)| flag.name == name).map(|(_, value)| *value)
    }

    /// Whether the boolean flag `name` is on.
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name).and_then(parse_bool).unwrap_or(false)
    }

    /// Whether `--help` was asked for.
    pub fn wants_help(&self) -> bool {
        self.is_set(HELP.name)
    }

    /// The value of `name` as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The value of `name` as text.
    ///
    /// # Errors
    /// A value that is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, String> {
        self.value(name).map(|value| utf8(name, value)).transpose()
    }

    /// All values of `name`, in order.
    ///
    /// # Errors
    /// A value that is not UTF-8.
    pub fn list(&self, name: &str) -> Result<Vec<String>, String> {
        let given = self.flags.iter().filter(|(flag, _)| flag.name == name);
        given.map(|(_, value)| utf8(name, value)).collect()
    }

    /// The value of the [`Kind::Int`] flag `name`.
    ///
    /// # Errors
    /// None in practice: the value was checked when it was read.
    pub fn int(&self, name: &str) -> Result<Option<i64>, String> {
        self.value(name).map(|value| parse_int(name, value)).transpose()
    }

    /// The value of the [`Kind::Duration`] flag `name`.
    ///
    /// # Errors
    /// None in practice: the value was checked when it was read.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, String> {
        self.value(name).map(|value| parse_duration(name, value)).transpose()
    }
}

fn utf8(name: &str, value: &OsStr) -> Result<String, String> {
    value
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("invalid value {value:?} for flag -{name}: not UTF-8"))
}

/// Reads `args` (without the program's or command's own name).
///
/// # Errors
/// One line in Go's words: `flag provided but not defined: -x`, `flag needs an argument: -x`, `bad flag syntax: ---x`,
/// `invalid value "x" for flag -y: parse error`, `Cannot use two forms of the same flag: b bundle`.
pub fn parse<'a>(flags: &'static [Flag], args: &'a [OsString], order: Order) -> Result<Matches<'a>, String> {
    let mut found = Matches::default();
    let mut forms: Vec<(&'static Flag, bool)> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let after_argument = !found.arguments.is_empty();
        if arg == "--" {
            if after_argument {
                found.arguments.push(arg);
            }
            break;
        }
        let bytes = arg.as_bytes();
        if bytes.len() < 2 || bytes[0] != b'-' {
            found.arguments.push(arg);
            if order == Order::FlagsFirst {
                break;
            }
            continue;
        }
        let (name, inline) = split(bytes);
        let Some((flag, long)) = lookup(flags, name) else {
            if after_argument {
                found.arguments.push(arg);
                continue;
            }
            return Err(match name.first() {
                None | Some(b'-' | b'=') => format!("bad flag syntax: {}", arg.to_string_lossy()),
                Some(_) => format!("flag provided but not defined: -{}", String::from_utf8_lossy(name)),
            });
        };
        let shown = if long { flag.name } else { flag.short };
        let value = match (inline, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => OsStr::new("true"),
            (None, _) => rest.next().ok_or_else(|| format!("flag needs an argument: -{shown}"))?,
        };
        check_value(flag, shown, value)?;
        // Lists may mix them: each entry counts, so that there is nothing to be in doubt about.
        let one_value = flag.kind != Kind::List;
        if one_value && forms.iter().any(|(other, other_long)| other.name == flag.name && *other_long != long)
        {
            return Err(format!("Cannot use two forms of the same flag: {} {}", flag.short, flag.name));
        }
        forms.push((flag, long));
        found.flags.push((flag, value));
    }
    found.arguments.extend(rest.map(OsString::as_os_str));
    Ok(found)
}

/// `-name` or `--name`, with or without `=value`, taken apart.
fn split(arg: &[u8]) -> (&[u8], Option<&OsStr>) {
    let name = arg.strip_prefix(b"--").or_else(|| arg.strip_prefix(b"-")).unwrap_or(arg);
    match name.iter().position(|&c| c == b'=') {
        Some(0) | None => (name, None),
        Some(at) => (&name[..at], Some(OsStr::from_bytes(&name[at + 1..]))),
    }
}

/// The flag of that name, and whether it was the long one.
fn lookup(flags: &'static [Flag], name: &[u8]) -> Option<(&'static Flag, bool)> {
    let named =
        |flag: &&Flag| flag.name.as_bytes() == name || (!name.is_empty() && flag.short.as_bytes() == name);
    let flag = flags.iter().find(named).or_else(|| Some(&HELP).filter(named))?;
    Some((flag, flag.name.as_bytes() == name))
}

fn check_value(flag: &Flag, shown: &str, value: &OsStr) -> Result<(), String> {
    match flag.kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Bool => match parse_bool(value) {
            Some(_) => Ok(()),
            None => Err(format!("invalid boolean value {value:?} for -{shown}: parse error")),
        },
        Kind::Int => parse_int(shown, value).map(drop),
        Kind::Duration => parse_duration(shown, value).map(drop),
    }
}

/// Go's `strconv.ParseBool`.
fn parse_bool(value: &OsStr) -> Option<bool> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}

fn parse_int(name: &str, value: &OsStr) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let parsed = value.to_str().map(str::parse::<i64>);
    let reason = match parsed {
        Some(Ok(number)) => return Ok(number),
        Some(Err(error)) if matches!(error.kind(), PosOverflow | NegOverflow) => "value out of range",
        _ => "parse error",
    };
    Err(format!("invalid value {value:?} for flag -{name}: {reason}"))
}

/// Go's `time.ParseDuration`, without negative times.
fn parse_duration(name: &str, value: &OsStr) -> Result<Duration, String> {
    value
        .to_str()
        .and_then(duration_of)
        .ok_or_else(|| format!("invalid value {value:?} for flag -{name}: parse error"))
}

fn duration_of(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { name: "bundle", short: "b", kind: Kind::Text, help: "", hidden: false },
        Flag { name: "force", short: "f", kind: Kind::Bool, help: "", hidden: false },
        Flag { name: "no-subreaper", short: "", kind: Kind::Bool, help: "", hidden: false },
        Flag { name: "env", short: "e", kind: Kind::List, help: "", hidden: false },
        Flag { name: "number", short: "n", kind: Kind::Int, help: "", hidden: false },
        Flag { name: "interval", short: "", kind: Kind::Duration, help: "", hidden: false },
    ];

    fn args(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    /// The flags and arguments as text, or the error.
    fn run(list: &[&str], order: Order) -> Result<(Vec<String>, Vec<String>), String> {
        let args = args(list);
        let found = parse(FLAGS, &args, order)?;
        let text = |value: &OsStr| value.to_string_lossy().into_owned();
        Ok((
            found.flags.iter().map(|(flag, value)| format!("{}={}", flag.name, text(value))).collect(),
            found.arguments.iter().map(|value| text(value)).collect(),
        ))
    }

    /// peers.md A1.3, traps: one dash is two dashes, and the forms of a value.
    #[test]
    fn one_dash_is_two_dashes() {
        for form in
            [&["-bundle", "/b", "x"][..], &["--bundle=/b", "x"], &["-b=/b", "x"], &["-b", "/b", "--", "x"]]
        {
            let (flags, arguments) = run(form, Order::FlagsFirst).unwrap();
            assert_eq!((flags, arguments), (vec!["bundle=/b".to_owned()], vec!["x".to_owned()]), "{form:?}");
        }
        assert_eq!(run(&["-no-subreaper", "x"], Order::Anywhere).unwrap().0, ["no-subreaper=true"]);
        assert_eq!(run(&["--force=false", "x"], Order::Anywhere).unwrap().0, ["force=false"]);
        assert_eq!(
            run(&["--bundle", "-x", "--bundle="], Order::Anywhere).unwrap().0,
            ["bundle=-x", "bundle="]
        );
    }

    /// `exec ID ls -l`: what follows belongs to the program, `--` included.
    #[test]
    fn flags_first_stops_at_the_first_argument() {
        let (flags, arguments) = run(&["-f", "id", "ls", "-f", "--", "-x"], Order::FlagsFirst).unwrap();
        assert_eq!((flags.len(), arguments), (1, args_text(&["id", "ls", "-f", "--", "-x"])));
    }

    fn args_text(list: &[&str]) -> Vec<String> {
        list.iter().map(|&arg| arg.to_owned()).collect()
    }

    /// `delete ID --force`, `kill ID -9`: as runc's commands other than exec and ps take them.
    #[test]
    fn anywhere_takes_known_flags_after_arguments() {
        assert_eq!(
            run(&["id", "--force", "-b", "/b", "-9"], Order::Anywhere).unwrap(),
            (args_text(&["force=true", "bundle=/b"]), args_text(&["id", "-9"]))
        );
        assert_eq!(run(&["id", "--", "-f"], Order::Anywhere).unwrap().1, ["id", "--", "-f"]);
        assert_eq!(run(&["-", "-f"], Order::Anywhere).unwrap().1, ["-"]);
    }

    /// peers.md A1.3: the words of Go's flag package; podman's probe looks for `flag needs an argument`.
    #[test]
    fn errors_have_the_words_of_go() {
        let table = [
            (&["--nosuch"][..], "flag provided but not defined: -nosuch"),
            (&["-qf"], "flag provided but not defined: -qf"),
            (&["--bundle"], "flag needs an argument: -bundle"),
            (&["-b"], "flag needs an argument: -b"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["-=x"], "bad flag syntax: -=x"),
            (&["--force=maybe"], "invalid boolean value \"maybe\" for -force: parse error"),
            (&["-f="], "invalid boolean value \"\" for -f: parse error"),
            (&["--number", "abc"], "invalid value \"abc\" for flag -number: parse error"),
            (
                &["-n", "9999999999999999999999"],
                "invalid value \"9999999999999999999999\" for flag -n: value out of range",
            ),
            (&["--interval=5"], "invalid value \"5\" for flag -interval: parse error"),
            (&["--interval="], "invalid value \"\" for flag -interval: parse error"),
            (&["--interval=-5s"], "invalid value \"-5s\" for flag -interval: parse error"),
            (&["--bundle", "a", "-b", "b"], "Cannot use two forms of the same flag: b bundle"),
        ];
        for (list, words) in table {
            assert_eq!(run(list, Order::Anywhere).unwrap_err(), words);
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        let table = [
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("100ms", 100),
            ("0", 0),
            ("0s", 0),
            (".5s", 500),
        ];
        for (text, milliseconds) in table {
            assert_eq!(duration_of(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "5", "5x", "1s5", "..s", "1e3s", "99999999999999999999999h", "5 s"] {
            assert_eq!(duration_of(text), None, "{text}");
        }
    }

    #[test]
    fn lists_keep_their_order_and_commas() {
        let args = args(&["--env", "A=1,2", "-e=B=2"]);
        assert_eq!(parse(FLAGS, &args[..2], Order::Anywhere).unwrap().list("env").unwrap(), ["A=1,2"]);
        assert_eq!(parse(FLAGS, &args[2..], Order::Anywhere).unwrap().list("env").unwrap(), ["B=2"]);
    }
}
