//! What this program says to the runtime, and to `start` over the gate: the messages of the runtime's `sync.rs`, where their
//! table is.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Context as _, Error, Result};
use crate::sys::{self, Fd};

/// The name of a process (comm of proc_pid_comm(5)) while it runs this program, by which it is known when it can say nothing more.
pub const NAME: &core::ffi::CStr = c"skeg-init";

/// The longest message.
pub const MESSAGE_LIMIT: usize = 4096;

/// First bytes of the messages that this program sends or receives.
pub mod tag {
    /// A second process goes on: its number in the runtime's PID namespace, four bytes.
    pub const FORKED: u8 = b'F';
    /// It is known.
    pub const ADOPTED: u8 = b'A';
    /// A file system comes with this message ([`crate::procfs`]).
    pub const MOUNTED: u8 = b'M';
    /// The seccomp listener: its number in the sender, four bytes.
    pub const SECCOMP_LISTENER: u8 = b's';
    /// It has been handed on.
    pub const LISTENER_SENT: u8 = b'l';
    /// All is set; the process waits.
    pub const READY: u8 = b'R';
    /// On to the gate or to execve.
    pub const PROCEED: u8 = b'P';
    /// The next call is execve; one byte says whether a seccomp filter may keep this process from saying more (1).
    pub const EXECUTING: u8 = b'X';
    /// A step failed: errno, length of what, what, why ([`super::encode_error`]).
    pub const FAILED: u8 = b'f';
}

/// A failure as bytes: the tag, the errno (0 for none) in four, the length of `what` in two, `what`, and `why` to the end,
/// cut to [`MESSAGE_LIMIT`].
pub fn encode_error(error: &Error) -> Vec<u8> {
    let mut what = error.what.as_bytes();
    let most = MESSAGE_LIMIT - 7;
    what = what.get(..most).unwrap_or(what);
    let mut bytes = Vec::with_capacity(MESSAGE_LIMIT);
    bytes.push(tag::FAILED);
    bytes.extend_from_slice(&error.errno.map_or(0, |errno| errno.0).to_ne_bytes());
    bytes.extend_from_slice(&u16::try_from(what.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend_from_slice(what);
    bytes.extend_from_slice(error.why.as_deref().unwrap_or_default().as_bytes());
    bytes.truncate(MESSAGE_LIMIT);
    bytes
}

/// What [`encode_error`] made, without its tag: `(what, errno or 0, why)`.
pub fn decode_error(bytes: &[u8]) -> Option<(String, i32, String)> {
    let errno = i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = usize::from(u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(bytes.get(6..6 + length)?), errno, text(bytes.get(6 + length..)?)))
}

/// The socket to the runtime, or the FIFO to `start`.
#[derive(Debug, Clone, Copy)]
pub struct Channel(pub Fd);

impl Channel {
    /// Sends a message.
    ///
    /// # Errors
    /// The other side has died.
    pub fn send(self, message: &[u8]) -> Result<()> {
        sys::write(self.0, message).map(drop).context(|| "send to the other side of the container's creation")
    }

    /// Says that the next call is execve. Nobody may be there to hear it, which changes nothing.
    pub fn announce(self, filtered: bool) {
        let _ = self.send(&[tag::EXECUTING, u8::from(filtered)]);
    }

    /// Says what failed, likewise.
    pub fn fail(self, error: &Error) {
        let _ = self.send(&encode_error(error));
    }

    /// Waits for the message of this tag.
    ///
    /// # Errors
    /// The runtime has ended; another message.
    pub fn expect(self, tag: u8) -> Result<()> {
        let mut message = [0; 16];
        let length = sys::read(self.0, &mut message)
            .context(|| "receive from the other side of the container's creation")?;
        match message.get(..length) {
            Some([first, ..]) if *first == tag => Ok(()),
            Some([_, ..]) => Err(Error::new("the runtime sent a message out of turn")),
            _ => Err(Error::new("the runtime has ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errno;
    use std::string::ToString as _;

    #[test]
    fn an_error_crosses_by_its_parts_and_is_cut() {
        let error = Error::from_errno("exec /x", Errno(2)).because(Some("no loader".to_string()));
        let bytes = encode_error(&error);
        assert_eq!(decode_error(&bytes[1..]), Some(("exec /x".to_string(), 2, "no loader".to_string())));
        let long = Error::new("x".repeat(1 << 20));
        let bytes = encode_error(&long);
        assert_eq!(bytes.len(), MESSAGE_LIMIT);
        assert_eq!(decode_error(&bytes[1..]).map(|(what, ..)| what.len()), Some(MESSAGE_LIMIT - 7));
        assert_eq!(decode_error(b"123"), None);
    }
}
