//! The only protocol between the runtime and the process that becomes the container.
//!
//! One SEQPACKET pair, so that a message is whole or absent. Whoever reads an end of file knows that the other side
//! has died (or, for the runtime, that execve closed the init process's end). Only read(2) and write(2) are used: when
//! the listener is announced, the profile is in force already and need not allow more.
//!
//! | from | message | meaning |
//! |---|---|---|
//! | init | `Forked` | a second process goes on (its pid in the runtime's PID namespace); this one ends |
//! | runtime | `Adopted` | it is known; the second process may speak |
//! | init | `NeedsMaps` | it is in its user namespace and waits for the id maps |
//! | runtime | `Mapped` | the id maps are written |
//! | init | `RootfsMounted` | mounts are made, nothing is pivoted: host-side hooks may run |
//! | runtime | `HooksDone` | they have run |
//! | init | `SeccompListener` | the number of the listener for the profile's agent, which the runtime takes by pidfd |
//! | runtime | `ListenerSent` | it has been handed on |
//! | helper | `Mounted` | a mount of another PID namespace comes with this message ([`crate::rootfs::joined_proc`]) |
//! | init | `Ready` | everything is set but the limits; it waits |
//! | runtime | `Proceed` | recorded, limits are set: to the gate, or (run, exec) straight to execve |
//! | init | `Executing` | the next call is execve: an end of file from here on means success |
//! | init | `Error` + text | this step failed; it ends |

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::error::{Context as _, Error, Result};
use crate::sys::fd::write_all;

/// The longest message: an error text is cut to fit.
pub const MESSAGE_LIMIT: usize = 4096;

/// One message; the tag is its first byte.
#[derive(Debug)]
pub enum Message {
    /// A second process goes on under this pid.
    Forked(Pid),
    /// The second process is known.
    Adopted,
    /// The id maps are wanted.
    NeedsMaps,
    /// The id maps are written.
    Mapped,
    /// Mounts are made, nothing is pivoted.
    RootfsMounted,
    /// Host-side hooks have run.
    HooksDone,
    /// The seccomp listener, by its number in the sender.
    SeccompListener(RawFd),
    /// The seccomp listener has been handed on.
    ListenerSent,
    /// The mount comes with it.
    Mounted,
    /// Everything is set but the limits.
    Ready,
    /// On to the gate or to execve.
    Proceed,
    /// The next call is execve.
    Executing,
    /// A step failed.
    Error(Error),
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// The two ends, both close-on-exec.
    ///
    /// # Errors
    /// The errno of socketpair(2).
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context(|| "make the socket pair to the init process")?;
        Ok((Self(a), Self(b)))
    }

    /// The descriptor, to be kept when all others are closed.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other side has died.
    pub fn send(&self, message: &Message) -> Result<()> {
        // One message a write: the socket keeps boundaries.
        write_all(&self.0, &encode(message)).context(|| "send to the other side of the container's creation")
    }

    /// The next message; `None` at the end: the other side has died or executed its program.
    ///
    /// # Errors
    /// A message that is none of ours.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0; MESSAGE_LIMIT];
        let length = loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Err(Errno::EINTR) => {}
                // The other side died with a message of ours unread.
                Err(Errno::ECONNRESET) => return Ok(None),
                other => {
                    break other.context(|| "receive from the other side of the container's creation")?;
                }
            }
        };
        match buffer.get(..length) {
            None | Some([]) => Ok(None),
            Some(bytes) => decode(bytes).map(Some).ok_or_else(|| {
                Error::new("the other side of the container's creation sent an unknown message")
            }),
        }
    }

    /// The next message, where an end means that the runtime was killed.
    ///
    /// # Errors
    /// The runtime has ended; a message that is none of ours.
    pub fn receive_or_end(&self) -> Result<Message> {
        self.receive()?.ok_or_else(|| Error::new("the runtime has ended"))
    }
}

/// First bytes.
mod tag {
    pub const FORKED: u8 = b'F';
    pub const ADOPTED: u8 = b'A';
    pub const NEEDS_MAPS: u8 = b'n';
    pub const MAPPED: u8 = b'm';
    pub const ROOTFS_MOUNTED: u8 = b'r';
    pub const HOOKS_DONE: u8 = b'h';
    pub const SECCOMP_LISTENER: u8 = b's';
    pub const LISTENER_SENT: u8 = b'l';
    pub const MOUNTED: u8 = b'M';
    pub const READY: u8 = b'R';
    pub const PROCEED: u8 = b'P';
    pub const EXECUTING: u8 = b'X';
    pub const ERROR: u8 = b'E';
}

/// The bytes of a message. An error is its tag, its errno, its exit status (each 0 for none, as i32) and its text.
pub fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::Forked(pid) => [&[tag::FORKED][..], &pid.as_raw().to_ne_bytes()].concat(),
        Message::Adopted => vec![tag::ADOPTED],
        Message::NeedsMaps => vec![tag::NEEDS_MAPS],
        Message::Mapped => vec![tag::MAPPED],
        Message::RootfsMounted => vec![tag::ROOTFS_MOUNTED],
        Message::HooksDone => vec![tag::HOOKS_DONE],
        Message::SeccompListener(fd) => [&[tag::SECCOMP_LISTENER][..], &fd.to_ne_bytes()].concat(),
        Message::ListenerSent => vec![tag::LISTENER_SENT],
        Message::Mounted => vec![tag::MOUNTED],
        Message::Ready => vec![tag::READY],
        Message::Proceed => vec![tag::PROCEED],
        Message::Executing => vec![tag::EXECUTING],
        Message::Error(error) => {
            let errno = error.errno().map_or(0, |errno| errno as i32);
            let status = i32::from(error.exit_status().unwrap_or(0));
            let mut bytes = vec![tag::ERROR];
            bytes.extend_from_slice(&errno.to_ne_bytes());
            bytes.extend_from_slice(&status.to_ne_bytes());
            bytes.extend_from_slice(error.to_string().as_bytes());
            bytes.truncate(MESSAGE_LIMIT);
            bytes
        }
    }
}

/// The message of these bytes; `None` for anything that [`encode`] does not make.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let (&first, rest) = bytes.split_first()?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(i32::from_ne_bytes);
    match first {
        tag::FORKED => number(rest).map(|pid| Message::Forked(Pid::from_raw(pid))),
        tag::ADOPTED => Some(Message::Adopted),
        tag::NEEDS_MAPS => Some(Message::NeedsMaps),
        tag::MAPPED => Some(Message::Mapped),
        tag::ROOTFS_MOUNTED => Some(Message::RootfsMounted),
        tag::HOOKS_DONE => Some(Message::HooksDone),
        tag::SECCOMP_LISTENER => number(rest).map(Message::SeccompListener),
        tag::LISTENER_SENT => Some(Message::ListenerSent),
        tag::MOUNTED => Some(Message::Mounted),
        tag::READY => Some(Message::Ready),
        tag::PROCEED => Some(Message::Proceed),
        tag::EXECUTING => Some(Message::Executing),
        tag::ERROR => {
            let errno = number(rest.get(..4)?)?;
            let status = number(rest.get(4..8)?)?;
            let text = String::from_utf8_lossy(rest.get(8..)?);
            let error = match errno {
                0 => Error::new(text),
                errno => Error::with_text(text, Errno::from_raw(errno)),
            };
            Some(Message::Error(match u8::try_from(status) {
                Ok(status) if status > 0 => error.with_exit_status(status),
                _ => error,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_with_its_errno_and_status() {
        let (ours, theirs) = Channel::pair().unwrap();
        let error = Error::from_errno("mount proc on /proc", Errno::EPERM).with_exit_status(126);
        theirs.send(&Message::Error(error.clone())).unwrap();
        drop(theirs);
        let Some(Message::Error(received)) = ours.receive().unwrap() else { panic!("no error") };
        assert_eq!(received, error);
        assert!(ours.receive().unwrap().is_none());
    }

    /// peers.md B 33: a long text is cut, never a blocked pipe.
    #[test]
    fn a_long_error_is_cut() {
        let (ours, theirs) = Channel::pair().unwrap();
        theirs.send(&Message::Error(Error::new("x".repeat(1 << 20)))).unwrap();
        let Some(Message::Error(received)) = ours.receive().unwrap() else { panic!("no error") };
        assert!(received.to_string().len() < MESSAGE_LIMIT);
    }

    #[test]
    fn unknown_bytes_are_no_message() {
        assert!(decode(b"").is_none());
        assert!(decode(b"?").is_none());
        assert!(decode(b"F12").is_none());
        assert!(decode(b"E123").is_none());
        assert!(decode(b"s").is_none());
    }
}
