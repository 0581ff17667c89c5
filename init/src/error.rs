//! What failed: said by its parts, since the texts of the errnos are the runtime's.

use alloc::string::String;

/// The result of anything here that can fail.
pub type Result<T> = core::result::Result<T, Error>;

/// An errno as the kernel gives it, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// One failure: `what: text of errno (why)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What was being done to what.
    pub what: String,
    /// What the kernel said, where it was asked.
    pub errno: Option<Errno>,
    /// The reason behind it, where it is known.
    pub why: Option<String>,
}

impl Error {
    /// A failure that no system call stands behind.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), errno: None, why: None }
    }

    /// A system call that failed.
    pub fn from_errno(what: impl Into<String>, errno: Errno) -> Self {
        Self { what: what.into(), errno: Some(errno), why: None }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(mut self, why: Option<String>) -> Self {
        self.why = why;
        self
    }
}

/// Says what was being done when a call failed.
pub trait Context<T> {
    /// Names what was being done; `what` runs only on failure.
    ///
    /// # Errors
    /// The failure, named.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for core::result::Result<T, Errno> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::from_errno(what(), errno))
    }
}
