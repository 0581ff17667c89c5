//! The bundle: its directory, opened once, and its config.json, read and checked before anything is done.
//!
//! `validate` holds the rules; this file gets from bytes to a [`Spec`], whoever wrote the bytes (row G5):
//! * a regular file of at most [`CONFIG_LIMIT`] bytes, opened without waiting for the other end of a FIFO;
//! * one JSON value and nothing after it; nesting to serde_json's limit of 128, and unknown properties of any depth
//!   are skipped without recursion;
//! * a property that occurs twice in an object of the specification is an error; in a map of free keys
//!   (annotations, sysctl) the last one counts, as with Go's encoding/json;
//! * numbers are integers in the range of their type: `1.0`, `-1` for an id and 2^32 are errors;
//! * no string holds a NUL, since most of them become C strings.
//!
//! Unknown properties are ignored, as the specification says (config.md, extensibility), and can be listed (`unknown`);
//! known ones with a value
//! that is not valid are errors. Each error names the JSON pointer, the value and what is allowed.

mod pointer;
mod shape;
pub mod sysctl;
mod unknown;
mod validate;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag};
use oci_spec::runtime::{Capability, Process, Spec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Context as _, Error, Result};
use crate::log::{Level, Log};
use crate::sys::fd::read_to_end;
use crate::sys::path::{append, open_given, open_given_at, stat};
use crate::sys::procfs::names_own_descriptor;
use unknown::Known;

pub use unknown::RESOURCES;
pub use validate::{validate, validate_process, validate_resources};

/// The most that is read of a config.json or process.json, in bytes.
pub const CONFIG_LIMIT: usize = 16 << 20;

/// The name of the configuration in its bundle.
pub const CONFIG: &str = "config.json";

/// A bundle: a directory with a config.json.
#[derive(Debug)]
pub struct Bundle {
    dir: OwnedFd,
    path: PathBuf,
}

impl Bundle {
    /// Opens the directory of a bundle.
    ///
    /// # Errors
    /// It is missing, or no directory.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("open bundle {}", path.display());
        let dir = open_given(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).context(what)?;
        let mut absolute =
            if path.is_absolute() { PathBuf::new() } else { std::env::current_dir().context(what)? };
        append(&mut absolute, path);
        // Without the `.` of the default; `..` stays, for what it means depends on links.
        Ok(Self { dir, path: absolute.components().collect() })
    }

    /// The directory, opened `O_PATH`: relative paths of the configuration start here.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The absolute path of the directory, for the state and for messages; nothing is opened by it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A configuration as it was read.
#[derive(Debug)]
pub struct Loaded<T> {
    /// What it says: thousands of bytes, so that each move on the stack would be another page.
    pub value: Box<T>,
    /// The text of the file.
    pub text: Vec<u8>,
    /// What the specification wants logged as a warning: names of capabilities that nobody knows.
    warnings: Vec<String>,
    known: Known,
}

impl<T> Loaded<T> {
    /// Hands what has to be warned of to the log.
    pub fn warn(&self, log: &mut Log) {
        self.warnings.iter().for_each(|warning| log.warn(warning.as_str()));
        // Another reading of the file: only where it is wanted.
        if log.takes(Level::Warning) {
            for pointer in self.unknown_properties() {
                log.warn(format!("{pointer}: unknown property, ignored"));
            }
        }
    }

    /// Properties of the file that the specification does not know, one JSON pointer each.
    pub(crate) fn unknown_properties(&self) -> Vec<String> {
        self.known.unknown_in(&self.text)
    }
}

/// Reads the config.json of a bundle. It is not validated yet.
///
/// # Errors
/// The file is missing, no regular file, too long, no JSON, or not of the specification's types.
pub fn load(bundle: &Bundle) -> Result<Loaded<Spec>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match open_given_at(bundle.dir(), CONFIG, flags, Mode::empty()) {
        // runc's words.
        Err(Errno::ENOENT) => return Err(Error::new("JSON specification file config.json not found")),
        other => other.context(|| format!("open {CONFIG}"))?,
    };
    parse(CONFIG, "/process", unknown::SPEC, read_limited(&file, CONFIG)?)
}

/// Reads the process object of `exec --process`. It is not validated yet. A descriptor that the caller hands on may be a
/// pipe: the caller writes to it.
///
/// # Errors
/// Those of [`load`].
pub fn load_process(path: &Path) -> Result<Loaded<Process>> {
    let name = path.display().to_string();
    let from_caller = names_own_descriptor(path);
    let mut flags = OFlag::O_RDONLY | OFlag::O_NOCTTY;
    flags.set(OFlag::O_NONBLOCK, !from_caller);
    let file = open_given(path, flags, Mode::empty()).context(|| format!("open {name}"))?;
    let text = if from_caller {
        read_to_end(&file, CONFIG_LIMIT).context(|| format!("read {name}"))?
    } else {
        read_limited(&file, &name)?
    };
    parse(&name, "", unknown::PROCESS, text)
}

/// Reads a configuration that skeg has stored itself.
///
/// # Errors
/// It is no JSON, or not of the specification's types.
pub fn parse_config(text: Vec<u8>) -> Result<Loaded<Spec>> {
    parse(CONFIG, "/process", unknown::SPEC, text)
}

/// Reads a regular file of at most [`CONFIG_LIMIT`] bytes, with two calls of read(2) where its size is what it says.
fn read_limited(file: &OwnedFd, name: &str) -> Result<Vec<u8>> {
    let what = || format!("read {name}");
    let status = stat(file).context(what)?;
    if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Error::new(format!("{name}: not a regular file")));
    }
    let too_long = || Error::new(format!("{name}: longer than {CONFIG_LIMIT} bytes"));
    let size = usize::try_from(status.st_size).map_err(|_| too_long())?;
    if size > CONFIG_LIMIT {
        return Err(too_long());
    }
    let mut text = vec![0; size + 1];
    let mut length = 0;
    loop {
        match nix::unistd::read(file, &mut text[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        }
        if length > CONFIG_LIMIT {
            return Err(too_long());
        }
        if length == text.len() {
            text.resize(CONFIG_LIMIT.min(length * 2) + 1, 0);
        }
    }
    text.truncate(length);
    Ok(text)
}

/// Reads JSON of one of the specification's types; `process` is where a process object would be in it, `known` what it may
/// have.
///
/// # Errors
/// It is no JSON, or not of that type; with the JSON pointer and the name of the file.
pub(crate) fn parse<T: DeserializeOwned + Serialize>(
    name: &str,
    process: &str,
    known: Known,
    text: Vec<u8>,
) -> Result<Loaded<T>> {
    // A NUL can only be written with a backslash, which most configurations do without.
    if text.contains(&b'\\')
        && let Some(pointer) = pointer::of_nul(&text)
    {
        return Err(Error::new(format!("{}: must not contain NUL", shown(&pointer))));
    }
    let (value, text, warnings) = match serde_json::from_slice::<Box<T>>(&text) {
        Ok(value) => (value, text, Vec::new()),
        Err(error) => match repair(process, &text) {
            Some((text, warnings)) => match serde_json::from_slice(&text) {
                Ok(value) => (value, text, warnings),
                Err(error) => return Err(explain(name, &text, &error)),
            },
            None => return Err(explain(name, &text, &error)),
        },
    };
    match shape::array_for_object(&text, &*value) {
        Some(pointer) => Err(Error::new(format!("{}: an array: must be an object", shown(&pointer)))),
        None => Ok(Loaded { value, text, warnings, known }),
    }
}

/// The text with those values replaced that the types of oci-spec refuse although the specification does not; none
/// where there are none. This runs only where the text could not be read as it is.
///
/// * Capabilities that nobody knows: "MUST be logged as a warning", "SHOULD NOT fail" (config.md, linux process).
/// * A process without `user`, which the schema of the specification does not ask for: root.
/// * `SCHED_FLAG_RESET_ON_FORK` and `SCHED_FLAG_DL_OVERRUN`, which oci-spec 0.10 spells `SCHED_RESET_ON_FORK` and
///   `SCHED_FLAG_D_L_OVERRUN`.
fn repair(process: &str, text: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
    let mut document: Value = serde_json::from_slice(text).ok()?;
    let mut warnings = Vec::new();
    let mut changed = false;
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        let pointer = format!("{process}/capabilities/{set}");
        let Some(Value::Array(names)) = document.pointer_mut(&pointer) else { continue };
        names.retain(|name| {
            let known = !name.is_string() || serde_json::from_value::<Capability>(name.clone()).is_ok();
            if !known {
                warnings.push(format!("{pointer}: {name}: unknown capability, not granted"));
            }
            known
        });
    }
    if let Some(Value::Object(process)) = document.pointer_mut(process)
        && !process.contains_key("user")
    {
        process.insert("user".to_owned(), serde_json::json!({"uid": 0, "gid": 0}));
        changed = true;
    }
    if let Some(Value::Array(flags)) = document.pointer_mut(&format!("{process}/scheduler/flags")) {
        for flag in flags {
            let spelled = match flag.as_str() {
                Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
                Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
                _ => continue,
            };
            *flag = Value::from(spelled);
            changed = true;
        }
    }
    let text = serde_json::to_vec(&document).ok()?;
    (changed || !warnings.is_empty()).then_some((text, warnings))
}

/// Whether a configuration of this `ociVersion` was written for version 1.0 of the specification.
pub fn follows_1_0(version: &str) -> bool {
    version.starts_with("1.0.")
}

/// serde_json's error with a JSON pointer in place of line and column, in the form of all our errors.
fn explain(name: &str, text: &[u8], error: &serde_json::Error) -> Error {
    let words = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let words = words.strip_suffix(&position).unwrap_or(&words);
    if !error.is_data() {
        return Error::new(format!("{name}: line {}, column {}: {words}", error.line(), error.column()));
    }
    let line = text.split_inclusive(|&c| c == b'\n').take(error.line().saturating_sub(1));
    let offset = line.map(<[u8]>::len).sum::<usize>() + error.column();
    let pointer = pointer::at(text, offset);
    let Some((value, wanted)) = words.split_once(", expected ") else {
        // Of the whole document: which one it is says more.
        let place = if pointer.is_empty() { name } else { &pointer };
        return Error::new(format!("{place}: {words}"));
    };
    let value = match value.split_once('`').and_then(|(_, rest)| rest.strip_suffix('`')) {
        Some(variant) if value.starts_with("unknown variant") => format!("{variant:?}"),
        _ => value.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ").to_owned(),
    };
    Error::new(format!("{}: {value}: must be {wanted}", shown(&pointer)))
}

/// The pointer of the whole document is the empty string, which nobody would see.
fn shown(pointer: &str) -> &str {
    if pointer.is_empty() { "/" } else { pointer }
}

#[cfg(test)]
mod tests;
