//! Names that come from outside and become file names, cgroup names and log text: one rule for all of them (row G1).

use std::ffi::OsStr;
use std::fmt;

use crate::error::{Error, Result};

/// The longest id: one file name (`NAME_MAX`, linux/limits.h), since each container is one directory of the root.
pub const MAX_LENGTH: usize = 255;

/// Checks an id: 1 to [`MAX_LENGTH`] bytes of `A-Z a-z 0-9 _ + . -`, the first one a letter, a digit or `_`.
///
/// runc takes the same characters; the rule for the first one keeps out `.`, `..`, hidden files and whatever looks
/// like a flag. `what` says whose id it is, as in runc's words: `container`, `exec`.
///
/// # Errors
/// An id that breaks the rule, shown in full where it is short.
pub fn check(what: &str, id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::new(format!("{what} id cannot be empty")));
    }
    let first = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let rest = |c: u8| first(c) || matches!(c, b'+' | b'.' | b'-');
    let bytes = id.as_bytes();
    if bytes.len() <= MAX_LENGTH && first(bytes[0]) && bytes.iter().all(|&c| rest(c)) {
        return Ok(());
    }
    let shown: String = id.chars().take(64).collect();
    Err(Error::new(format!(
        "invalid {what} ID format: {shown:?}: must be 1 to {MAX_LENGTH} of A-Z a-z 0-9 _ + . -, \
         beginning with a letter, a digit or _"
    )))
}

/// The id of a container, checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// Takes an id that passes [`check`].
    ///
    /// # Errors
    /// Those of [`check`].
    pub fn parse(id: &str) -> Result<Self> {
        check("container", id).map(|()| Self(id.to_owned()))
    }

    /// The same for an argument of the command line, which need not be UTF-8.
    ///
    /// # Errors
    /// Those of [`check`].
    pub fn from_argument(id: &OsStr) -> Result<Self> {
        Self::parse(&id.to_string_lossy())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for ContainerId {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    /// security.md G1: the table of ids.
    #[test]
    fn g1_id_table() {
        for good in ["a", "A.b", "9", "_x", "web-1", "a+b", "a..b", &"x".repeat(255)] {
            assert_eq!(ContainerId::parse(good).unwrap().as_str(), good);
        }
        let bad = [
            "",
            ".",
            "..",
            "../x",
            "/",
            "a/b",
            "/etc",
            "-a",
            "--force",
            ".a",
            "+a",
            "a b",
            "a\nb",
            "a\0b",
            "a\x1b[0m",
            "é",
            "a,b",
            "a:b",
            "a%b",
            " a",
            &"x".repeat(256),
            &"x".repeat(4096),
        ];
        for id in bad {
            let error = ContainerId::parse(id).unwrap_err().to_string();
            assert!(!error.contains(['\n', '\x1b', '\0']), "{error:?}");
            assert!(error.len() < 300, "{error:?}");
        }
    }

    /// runc's words, which callers may look for.
    #[test]
    fn words_are_those_of_runc() {
        assert_eq!(ContainerId::parse("").unwrap_err().to_string(), "container id cannot be empty");
        assert!(
            ContainerId::parse("../x").unwrap_err().to_string().starts_with("invalid container ID format")
        );
        assert!(check("exec", "/").unwrap_err().to_string().starts_with("invalid exec ID format"));
    }

    /// security.md G1: bytes that are not UTF-8 never pass as something else.
    #[test]
    fn g1_not_utf8_is_refused() {
        assert!(ContainerId::from_argument(OsStr::from_bytes(b"a\xff")).is_err());
    }
}
