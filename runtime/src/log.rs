//! The log: one line an event, in runc's two formats, to a file or to standard error.
//!
//! Who reads it decides its shape:
//! * **containerd** (go-runc) takes the last JSON record with `level` `error` as the reason of a failure.
//! * **podman** reads the whole file as one JSON object `{level, msg, time}`. So a failure is exactly one record, and
//!   in JSON nothing but errors is written unless `--log-level` or `--debug` asks for more; warnings that were held
//!   back stand in the record of the failure as `"warnings"`.
//! * **conmon** takes the first bytes of standard error as the reason. So the bare reason is the first line there,
//!   with or without a log file, and it has no time in it (kubelet compares messages). runc prints it bare with
//!   `--log` and dressed as a log line without; those who look into it look for parts of it.
//!
//! Rows G9 and G10: whatever stands in a message is escaped, so that an event is one line always; the file is
//! opened for appending and never truncated. Messages name no values of environment variables.

use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::Serialize as _;

use crate::error::{Context as _, Error, Result};
use crate::sys::fd::write_all;
use crate::sys::path::open_given;

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`.
    Json,
}

/// How much weight an event has; a log takes its own level and what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The command failed.
    Error,
    /// Something was asked for that could not be done, and the specification says to go on.
    Warning,
    /// A step of interest to the operator.
    Info,
    /// Everything else.
    Debug,
}

impl Level {
    /// The level of that name, as runc's and crun's logs have them.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "error" => Some(Self::Error),
            "warning" | "warn" => Some(Self::Warning),
            "info" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// The log of one command.
#[derive(Debug)]
pub struct Log {
    /// None for standard error.
    file: Option<OwnedFd>,
    format: Format,
    level: Level,
    /// Warnings that wait for the end of the command: its failure comes first.
    held: Vec<String>,
}

impl Log {
    /// Opens the log; without a path it is standard error.
    ///
    /// `level` is [`Level::Warning`] in text and [`Level::Error`] in JSON where it is none.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(path: Option<&Path>, format: Format, level: Option<Level>) -> Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOCTTY;
        let file = path
            .map(|path| {
                open_given(path, flags, Mode::from_bits_truncate(0o644))
                    .context(|| format!("open log file {}", path.display()))
            })
            .transpose()?;
        Ok(Self { file, format, ..Self::stderr(level.unwrap_or(default_level(format))) })
    }

    /// A text log on standard error, for what goes wrong before there is another.
    pub fn stderr(level: Level) -> Self {
        Self { file: None, format: Format::Text, level, held: Vec::new() }
    }

    /// Whether events of `level` are written: ask before an expensive message is made.
    pub fn takes(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Writes a debug event; `message` runs only where it is wanted.
    pub fn debug<D: std::fmt::Display>(&self, message: impl FnOnce() -> D) {
        if self.takes(Level::Debug) {
            self.write(Level::Debug, &message().to_string(), &[]);
        }
    }

    /// Takes a warning; it is written by [`Log::flush`], or goes with the error of [`Log::failure`].
    pub fn warn(&mut self, message: impl Into<String>) {
        self.held.push(message.into());
    }

    /// Writes the warnings held back, where the level wants them: the command has succeeded, or another program is
    /// about to own standard error.
    pub fn flush(&mut self) {
        for message in std::mem::take(&mut self.held) {
            if self.takes(Level::Warning) {
                self.write(Level::Warning, &message, &[]);
            }
        }
    }

    /// Reports the failure of the command: the reason as the first line of standard error, one record in the log
    /// file, and the warnings that were held back with it.
    pub fn failure(&mut self, error: &Error) {
        let text = error.to_string();
        let json = self.format == Format::Json;
        let held = if json { std::mem::take(&mut self.held) } else { Vec::new() };
        if self.file.is_some() || !json {
            to_stderr(&format!("{}\n", one_line(&text)));
        }
        if self.file.is_some() || json {
            self.write(Level::Error, &text, &held);
        }
        self.flush();
    }

    /// A log that cannot be written to does not stop the command.
    fn write(&self, level: Level, message: &str, warnings: &[String]) {
        let line = match self.format {
            Format::Text => text_line(level, message, SystemTime::now()),
            Format::Json => json_line(level, message, warnings, SystemTime::now()),
        };
        match &self.file {
            Some(file) => {
                let _ = write_all(file, line.as_bytes());
            }
            None => to_stderr(&line),
        }
    }
}

fn default_level(format: Format) -> Level {
    match format {
        Format::Text => Level::Warning,
        Format::Json => Level::Error,
    }
}

/// Writes a line to standard error in one call; there is nowhere to report a failure to.
fn to_stderr(line: &str) {
    let _ = write_all(std::io::stderr().as_fd(), line.as_bytes());
}

/// The text with its control characters escaped: one line, and nothing that a terminal acts on.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// logrus's text format. `Debug` quotes as it does: `\"`, `\n`, and every character that cannot be printed.
fn text_line(level: Level, message: &str, time: SystemTime) -> String {
    format!("time=\"{}\" level={} msg={message:?}\n", rfc3339(time), level.name())
}

/// logrus's JSON format.
fn json_line(level: Level, message: &str, warnings: &[String], time: SystemTime) -> String {
    let mut line = format!("{{\"level\":\"{}\",\"msg\":", level.name());
    push_json(&mut line, message);
    for (index, warning) in warnings.iter().enumerate() {
        line.push_str(if index == 0 { ",\"warnings\":[" } else { "," });
        push_json(&mut line, warning);
    }
    if !warnings.is_empty() {
        line.push(']');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(line, ",\"time\":\"{}\"}}", rfc3339(time));
    line
}

fn push_json(line: &mut String, text: &str) {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    let mut serializer = serde_json::Serializer::new(&mut quoted);
    // A str into a Vec cannot fail, and JSON is UTF-8.
    if text.serialize(&mut serializer).is_ok() {
        line.push_str(&String::from_utf8_lossy(&quoted));
    }
}

/// The time in UTC as RFC 3339 has it, with nanoseconds: `2026-11-21T01:46:57.000000000Z`.
///
/// The date is counted from 1 March of the year 0, which puts the leap day last in its year (a 400-year era has
/// 146097 days); a crate for times would be many times as large as these lines.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanoseconds) = (since.as_secs(), since.subsec_nanos());
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let days = day + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{nanoseconds:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests use scratch files")]

    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    /// Compared with date(1): `date -u -d @N +%FT%TZ`.
    #[test]
    fn times_are_rfc3339() {
        let table = [
            (0, "1970-01-01T00:00:00.000000001Z"),
            (951_782_399, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, "2000-02-29T00:00:00.000000001Z"),
            (951_868_800, "2000-03-01T00:00:00.000000001Z"),
            (1_795_226_817, "2026-11-21T02:06:57.000000001Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000001Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000001Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(rfc3339(at(seconds, 1)), text);
        }
    }

    /// A log file of its own for a test.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skeg-log-{}-{name}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self(path)
        }

        fn lines(&self) -> Vec<String> {
            std::fs::read_to_string(&self.0).unwrap().lines().map(str::to_owned).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// peers.md A1.4 and A1.3: exactly one JSON object for a failure, whatever was warned of before.
    #[test]
    fn a_failure_is_one_json_object() {
        let file = Scratch::new("one");
        let mut log = Log::open(Some(&file.0), Format::Json, None).unwrap();
        log.debug(|| "not wanted");
        log.warn("first");
        log.warn("second");
        log.failure(&Error::new("container does not exist"));
        log.flush();
        let whole = std::fs::read_to_string(&file.0).unwrap();
        let object: serde_json::Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(object["level"], "error");
        assert_eq!(object["msg"], "container does not exist");
        assert_eq!(object["warnings"], serde_json::json!(["first", "second"]));
        assert_eq!(object["time"].as_str().unwrap().len(), "2026-11-21T01:46:57.000000000Z".len());
        assert_eq!(whole.matches('\n').count(), 1);
    }

    /// A success leaves a JSON log empty by default; a level that was asked for holds.
    #[test]
    fn warnings_are_written_where_wanted() {
        for (format, level, lines) in [
            (Format::Json, None, 0),
            (Format::Json, Some(Level::Warning), 1),
            (Format::Text, None, 1),
            (Format::Text, Some(Level::Error), 0),
            (Format::Text, Some(Level::Debug), 2),
        ] {
            let file = Scratch::new(&format!("level-{format:?}-{level:?}"));
            let mut log = Log::open(Some(&file.0), format, level).unwrap();
            log.debug(|| "step");
            log.warn("watch out");
            log.flush();
            assert_eq!(file.lines().len(), lines, "{format:?} {level:?}");
        }
    }

    /// security.md G9: whatever stands in a message, an event is one line.
    #[test]
    fn g9_messages_cannot_forge_lines() {
        let hostile = "a\n{\"level\":\"error\",\"msg\":\"forged\"}\r\x1b[31m\u{85}\u{2028}\"\\ level=info\0";
        let json = json_line(Level::Error, hostile, &[hostile.to_owned()], at(0, 0));
        assert_eq!(json.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["msg"], hostile);
        assert_eq!(object["warnings"][0], hostile);
        for line in [text_line(Level::Warning, hostile, at(0, 0)), one_line(hostile) + "\n"] {
            assert_eq!(line.lines().count(), 1);
            assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
        }
    }

    /// security.md G10: what stands in the file stays.
    #[test]
    fn g10_the_file_is_appended_to() {
        let file = Scratch::new("append");
        std::fs::write(&file.0, "before\n").unwrap();
        let mut log = Log::open(Some(&file.0), Format::Text, None).unwrap();
        log.warn("after");
        log.flush();
        let lines = file.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (2, "before"));
        assert!(lines[1].ends_with("level=warning msg=\"after\""), "{}", lines[1]);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error() {
        let error = Log::open(Some(Path::new("/nonexistent/log")), Format::Text, None).unwrap_err();
        assert_eq!(error.to_string(), "open log file /nonexistent/log: no such file or directory");
    }
}
