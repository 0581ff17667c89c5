//! Errors: what was being done to what, once.
//!
//! An error is one line of text for a person, built from the inside out: the failing call gives the errno, each
//! caller may put what it was doing in front (`mount proc on /proc: permission denied`). Phrases that managers look
//! for are constants, so that a golden test can hold them.

use std::fmt;

use nix::errno::Errno;

/// What callers of `start`, `state`, `kill`, `delete` and `exec` look for when an id is unknown (runc's words).
pub const CONTAINER_DOES_NOT_EXIST: &str = "container does not exist";
/// What callers of `exec`, `pause`, `kill` and `ps` look for when the init process is gone.
pub const CONTAINER_NOT_RUNNING: &str = "container not running";
/// What `create` and `run` say when the id is taken.
pub const CONTAINER_EXISTS: &str = "container with given ID already exists";

/// The result of anything in skeg that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One failure: its line of text, the errno at its bottom where there was one, and the exit status it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    text: String,
    errno: Option<Errno>,
    exit_status: Option<u8>,
}

impl Error {
    /// An error that no system call stands behind.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), errno: None, exit_status: None }
    }

    /// `what: errno text`.
    pub fn from_errno(what: impl fmt::Display, errno: Errno) -> Self {
        Self { text: format!("{what}: {}", errno_text(errno)), errno: Some(errno), exit_status: None }
    }

    /// An error as the sealed program reports it: an errno of 0 and an empty reason are none. A number without a name, which the
    /// kernel's own ones have (524, `ENOTSUPP` of `include/linux/errno.h`), is in the text alone.
    pub fn from_parts(what: impl Into<String> + fmt::Display, errno: i32, why: &str) -> Self {
        let error = match (errno, Errno::from_raw(errno)) {
            (0, _) => Self::new(what),
            (number, Errno::UnknownErrno) => Self::new(format!("{what}: unknown error {number}")),
            (_, errno) => Self::from_errno(what, errno),
        };
        if why.is_empty() { error } else { error.because(why) }
    }

    /// An error whose text is complete and whose errno is known: one that another process reported.
    pub fn with_text(text: impl Into<String>, errno: Errno) -> Self {
        Self { text: text.into(), errno: Some(errno), exit_status: None }
    }

    /// The errno at the bottom of this error.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// The exit status that this error asks for instead of the command's own (1, or 255 for `exec`).
    pub fn exit_status(&self) -> Option<u8> {
        self.exit_status
    }

    /// The same error with an exit status of its own.
    #[must_use]
    pub fn with_exit_status(mut self, status: u8) -> Self {
        self.exit_status = Some(status);
        self
    }

    /// The same error with the reason behind it in parentheses at its end.
    #[must_use]
    pub fn because(mut self, reason: impl fmt::Display) -> Self {
        self.text = format!("{} ({reason})", self.text);
        self
    }

    /// The same error with `what: ` in front.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl From<skeg_init::error::Error> for Error {
    fn from(error: skeg_init::error::Error) -> Self {
        Self::from_parts(
            error.what,
            error.errno.map_or(0, |errno| errno.0),
            error.why.as_deref().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// glibc's text for an errno in lower case, as Go programs print it and as managers match it (`permission denied`, `no such
/// file or directory`), whichever C library skeg is linked with.
pub fn errno_text(errno: Errno) -> String {
    let text = match errno {
        // nix has dropped its number.
        Errno::UnknownErrno => "unknown error",
        // Those for which nix has other words.
        Errno::EIO => "Input/output error",
        Errno::EBADF => "Bad file descriptor",
        Errno::EAGAIN => "Resource temporarily unavailable",
        Errno::ENOMEM => "Cannot allocate memory",
        Errno::EXDEV => "Invalid cross-device link",
        Errno::ENFILE => "Too many open files in system",
        Errno::ENOTTY => "Inappropriate ioctl for device",
        Errno::EDOM => "Numerical argument out of domain",
        Errno::ERANGE => "Numerical result out of range",
        Errno::EDEADLK => "Resource deadlock avoided",
        Errno::ENOLCK => "No locks available",
        Errno::ELOOP => "Too many levels of symbolic links",
        Errno::ENOSTR => "Device not a stream",
        Errno::ENODATA => "No data available",
        Errno::ETIME => "Timer expired",
        Errno::ENOSR => "Out of streams resources",
        Errno::EREMOTE => "Object is remote",
        Errno::ENOLINK => "Link has been severed",
        Errno::EMULTIHOP => "Multihop attempted",
        Errno::EBADMSG => "Bad message",
        Errno::EOVERFLOW => "Value too large for defined data type",
        Errno::EOPNOTSUPP => "Operation not supported",
        Errno::EILSEQ => "Invalid or incomplete multibyte or wide character",
        Errno::ENETRESET => "Network dropped connection on reset",
        Errno::ESTALE => "Stale file handle",
        Errno::EDQUOT => "Disk quota exceeded",
        Errno::EOWNERDEAD => "Owner died",
        other => other.desc(),
    };
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        // "RPC version wrong" and the like keep their capitals.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// Says what was being done when a call failed.
pub trait Context<T> {
    /// Puts `what()` in front of the failure; `what` runs only on failure.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| Error::from_errno(what(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(raw) => Error::from_errno(what(), Errno::from_raw(raw)),
            None => Error::new(format!("{}: {error}", what())),
        })
    }
}

impl<T> Context<T> for Result<T> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_built_from_the_inside_out() {
        let inner: std::result::Result<(), Errno> = Err(Errno::EACCES);
        let error = inner.context(|| "mount proc on /proc").context(|| "create web").unwrap_err();
        assert_eq!(error.to_string(), "create web: mount proc on /proc: permission denied");
        assert_eq!(error.errno(), Some(Errno::EACCES));
    }

    /// peers.md A1.3: the phrases that podman and containerd match.
    #[test]
    fn errno_texts_are_those_that_managers_match() {
        assert_eq!(errno_text(Errno::ENOENT), "no such file or directory");
        assert_eq!(errno_text(Errno::EPERM), "operation not permitted");
        assert_eq!(errno_text(Errno::ENOEXEC), "exec format error");
        assert_eq!(errno_text(Errno::ESRCH), "no such process");
        assert_eq!(errno_text(Errno::ERANGE), "numerical result out of range");
        assert_eq!(errno_text(Errno::ENOMEM), "cannot allocate memory");
        assert_eq!(errno_text(Errno::from_raw(524)), "unknown error");
    }

    #[test]
    fn errno_texts_are_those_of_glibc() {
        let known = (1..=133).map(Errno::from_raw).filter(|errno| *errno != Errno::UnknownErrno);
        let other: Vec<(Errno, String)> = known
            .map(|errno| (errno, std::io::Error::from(errno).to_string()))
            .filter(|(errno, text)| {
                let text = text.split(" (os error ").next().unwrap_or_default();
                !errno_text(*errno).eq_ignore_ascii_case(text)
            })
            .collect();
        assert_eq!(other, []);
    }
}
