//! Errors of the task API: one line of text and the gRPC code that containerd acts on.

use std::fmt;

use nix::errno::Errno;

/// The result of anything in the shim that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// The gRPC codes in use (google.rpc.Code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The request itself is wrong.
    InvalidArgument = 3,
    /// The caller's time is up.
    DeadlineExceeded = 4,
    /// No such container, process or running process.
    NotFound = 5,
    /// The id is taken.
    AlreadyExists = 6,
    /// A frame that is too long.
    ResourceExhausted = 8,
    /// The process is not in a state that allows it.
    FailedPrecondition = 9,
    /// A method or option that is not there.
    Unimplemented = 12,
    /// A fault of the shim itself.
    Internal = 13,
    /// Everything else: what the runtime or the kernel said.
    Unknown = 2,
}

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Code,
    text: String,
}

impl Error {
    /// An error with a code that the caller acts on.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// `InvalidArgument`.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, text)
    }

    /// `Unknown`: a failure that no caller acts on but by telling it.
    pub fn other(text: impl Into<String>) -> Self {
        Self::new(Code::Unknown, text)
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The same error with `what: ` in front.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Says what was being done when a call failed.
pub trait Context<T> {
    /// Puts `what()` in front of the failure; `what` runs only on failure.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for nix::Result<T> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| Error::other(format!("{}: {}", what(), errno_text(errno))))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(raw) => Error::other(format!("{}: {}", what(), errno_text(Errno::from_raw(raw)))),
            None => Error::other(format!("{}: {error}", what())),
        })
    }
}

impl<T> Context<T> for Result<T> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

/// The C library's text for an errno in lower case, as the Go programs around it print it.
fn errno_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        // "RPC version wrong" and the like keep their capitals.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}
