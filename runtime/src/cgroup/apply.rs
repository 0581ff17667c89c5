//! Writes to cgroup files: one value to one file, in the order planned, with the reason when the kernel refuses.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::sys::path::{open_own, read_own};

/// The most that is read of a file with limits or statistics; `io.stat` of a node with many disks is the largest.
pub const READ_LIMIT: usize = 1 << 20;

/// What a file that does not exist means for a [`Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The limit cannot be set: an error.
    Fails,
    /// What is asked for holds anyway, as with no swap on a host without swap accounting.
    Holds,
    /// Another file takes the same limit (`io.weight` where there is no `io.bfq.weight`): its name and the value there.
    Use(Cow<'static, str>, String),
}

/// One value for one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file's name.
    pub file: Cow<'static, str>,
    /// What is written, in one write(2).
    pub value: String,
    /// Where in the resources it comes from (`memory/limit`), for the error.
    pub source: Cow<'static, str>,
    /// What to do where the file is missing.
    pub missing: Missing,
    /// Depends on another write of the same list (a limit below its peak, a quota within its period): refused with
    /// EINVAL, it is tried again after all others.
    pub again: bool,
}

impl Write {
    /// A plain write whose file must exist.
    pub fn new(file: impl Into<Cow<'static, str>>, value: impl Into<String>, source: &'static str) -> Self {
        Self {
            file: file.into(),
            value: value.into(),
            source: source.into(),
            missing: Missing::Fails,
            again: false,
        }
    }

    /// The same with an index or key of its own in the source.
    pub fn of(mut self, source: String) -> Self {
        self.source = source.into();
        self
    }

    /// The same with another answer to a missing file.
    pub fn if_missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    /// The same, tried again after the others where it was refused.
    pub fn or_again(mut self) -> Self {
        self.again = true;
        self
    }
}

/// Writes the lot in order; `base` is what stands before each [`Write::source`] in an error.
///
/// # Errors
/// The first write that the kernel refused, and why as far as can be told.
pub fn apply(dir: BorrowedFd<'_>, writes: &[Write], base: &str) -> Result<()> {
    // Rules of one list go to one file, often ten in a row: it is opened once.
    let mut open: Option<(&str, OwnedFd)> = None;
    let mut put_off = Vec::new();
    for write in writes {
        match one(dir, write, &mut open) {
            Err(Errno::EINVAL) if write.again => put_off.push(write),
            result => result.map_err(|errno| refused(dir, write, base, errno))?,
        }
    }
    for write in put_off {
        one(dir, write, &mut open).map_err(|errno| refused(dir, write, base, errno))?;
    }
    Ok(())
}

fn one<'a>(dir: BorrowedFd<'_>, write: &'a Write, open: &mut Option<(&'a str, OwnedFd)>) -> nix::Result<()> {
    let name = &*write.file;
    match open {
        Some((file, fd)) if *file == name => return put(fd, &write.value),
        _ => {}
    }
    let file = match open_own(dir, name, OFlag::O_WRONLY, Mode::empty()) {
        Err(Errno::ENOENT) => match &write.missing {
            Missing::Fails => return Err(Errno::ENOENT),
            Missing::Holds => return Ok(()),
            Missing::Use(other, value) => {
                return put(open_own(dir, &**other, OFlag::O_WRONLY, Mode::empty())?, value);
            }
        },
        other => other?,
    };
    let result = put(&file, &write.value);
    *open = Some((name, file));
    result
}

/// One write(2): a cgroup file takes one value per call.
fn put(file: impl AsFd, value: &str) -> nix::Result<()> {
    loop {
        match nix::unistd::write(&file, value.as_bytes()) {
            Ok(n) if n == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The error for a refused write: file, value, the kernel's word, and what usually is behind it.
fn refused(dir: BorrowedFd<'_>, write: &Write, base: &str, errno: Errno) -> Error {
    let Write { file, value, source, .. } = write;
    let why = match errno {
        Errno::EBUSY | Errno::EINVAL if file.starts_with("memory.") => memory_in_use(dir),
        Errno::ENOENT => Some(missing_why(file, source.starts_with("unified/"))),
        _ => None,
    };
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    Error::from_errno(format!("{base}/{source}: write {value:?} to {file}{why}"), errno)
}

/// What the cgroup uses now: a limit below it is the common reason for a refusal.
fn memory_in_use(dir: BorrowedFd<'_>) -> Option<String> {
    let read = |name| Some(String::from_utf8_lossy(&read_own(dir, name, READ_LIMIT).ok()?).trim().to_owned());
    let usage = read("memory.usage_in_bytes").or_else(|| read("memory.current"))?;
    let limit = read("memory.limit_in_bytes").or_else(|| read("memory.max"))?;
    Some(match read("memory.memsw.limit_in_bytes") {
        Some(total) => format!("current usage {usage}, limit {limit}, memory+swap limit {total}"),
        None => format!("current usage {usage}, limit {limit}"),
    })
}

/// Why there is no such file. For `unified`, whose keys anybody may make up, in the words of runc and crun.
fn missing_why(file: &str, unified: bool) -> String {
    let controller = file.split('.').next().unwrap_or(file);
    match controller {
        _ if unified => {
            format!(
                "invalid configuration: the requested cgroup controller `{controller}` is not available or has no such file"
            )
        }
        "hugetlb" => "this host has no huge pages of that size, or no hugetlb controller here".to_owned(),
        _ => format!(
            "this kernel has no such file, or the {controller} controller is not enabled here, as where a cgroup above has \
             processes of its own"
        ),
    }
}
