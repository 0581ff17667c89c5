//! The only protocol between the runtime and the process that becomes the container.
//!
//! One SEQPACKET pair, so that a message is whole or absent. Whoever reads an end of file knows that the other side
//! has died (or, for the runtime, that execve closed the init process's end). From the listener's announcement on only
//! read(2) and write(2) are used: the profile is in force by then and need not allow more.
//!
//! | from | message | meaning |
//! |---|---|---|
//! | init | `Forked` | a second process goes on (its pid in the runtime's PID namespace); this one ends |
//! | runtime | `Adopted` | it is known; the second process may speak |
//! | runtime | `Placed` | its cgroup is made; with the message come the `tasks` files to enter by, none where systemd has put it there |
//! | init | `NeedsMaps` | it is in its user namespace and waits for the id maps |
//! | runtime | `Mapped` | the id maps are written |
//! | init | `RootfsMounted` | mounts are made, nothing is pivoted: host-side hooks may run |
//! | runtime | `HooksDone` | they have run |
//! | init | `SeccompListener` | the number of the listener for the profile's agent, which the runtime takes by pidfd |
//! | runtime | `ListenerSent` | it has been handed on |
//! | helper | `Mounted` | a mount of another PID namespace comes with this message ([`crate::rootfs::joined_proc`]) |
//! | init | `Ready` | everything is set but the limits; it waits; from `run` as soon as the root file system is there, and it goes on |
//! | runtime | `Proceed` | recorded, limits are set: to the gate, or (run, exec) straight to execve |
//! | init | `Executing` | the next call is execve: an end of file from here on means success, but where a filter is in force ([`crate::gate`]) |
//! | init | `Error` + text | this step failed; it ends |
//!
//! "init" is first a process of the runtime's own (`init.rs`, `exec.rs`) and then, from the same pid, the sealed program
//! that it executes, which says what it has to say in `init/src/channel.rs`: the tags that it uses are defined there.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::error::{Context as _, Error, Result};
use crate::sys::fd::{receive_with_fds, send_with_fds, write_all};

pub use skeg_init::channel::MESSAGE_LIMIT;

/// One message; the tag is its first byte.
#[derive(Debug)]
pub enum Message {
    /// A second process goes on under this pid.
    Forked(Pid),
    /// The second process is known.
    Adopted,
    /// Its cgroup is made.
    Placed,
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
    Executing {
        /// A seccomp filter may keep it from saying more.
        filtered: bool,
    },
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

    /// Its number, which goes through execve.
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

    /// Sends a message and descriptors with it, for [`Self::receive_placed`].
    ///
    /// # Errors
    /// The other side has died.
    pub fn send_placed(&self, tasks: &[BorrowedFd<'_>]) -> Result<()> {
        send_with_fds(&self.0, &encode(&Message::Placed), tasks)
            .context(|| "send to the other side of the container's creation")
    }

    /// Waits for `Placed`, and returns what came with it.
    ///
    /// # Errors
    /// The runtime has ended, or sent another message.
    pub fn receive_placed(&self) -> Result<Vec<OwnedFd>> {
        let mut buffer = [0; MESSAGE_LIMIT];
        let (length, tasks) = receive_with_fds(&self.0, &mut buffer)?;
        match buffer.get(..length).and_then(decode) {
            Some(Message::Placed) => Ok(tasks),
            Some(other) => Err(Error::new(format!("the runtime sent {other:?} out of turn"))),
            None => Err(Error::new("the runtime has ended")),
        }
    }

    /// The next message; `None` at the end: the other side has died or executed its program.
    ///
    /// # Errors
    /// A message that is none of ours.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0; MESSAGE_LIMIT];
        let length = loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                // ECONNRESET: the other side died with a message of ours unread. That comes before what it said last, and once
                // (net/core/datagram.c, `__skb_try_recv_datagram`: `sock_error` before the queue).
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
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

    /// The next message of the process behind `pidfd`; `None` where it has ended, too. A process that it has just forked, and has
    /// not told of, may hold the other end of the channel open for ever.
    ///
    /// # Errors
    /// Those of [`Self::receive`].
    pub fn receive_from(&self, pidfd: impl AsFd) -> Result<Option<Message>> {
        let what = || "wait for the other side of the container's creation";
        let is_readable = |waits: &[PollFd; 1]| waits[0].any().unwrap_or(true);
        loop {
            let mut waits =
                [PollFd::new(self.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waits, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context(what)?,
            };
            let [channel, _] = waits;
            let mut again = [channel];
            // What it sent before its end may have come between the looks at the two.
            if !is_readable(&again) {
                poll(&mut again, PollTimeout::ZERO).context(what)?;
            }
            return if is_readable(&again) { self.receive() } else { Ok(None) };
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

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// First bytes of the messages that the sealed program does not know.
mod tag {
    pub use skeg_init::channel::tag::*;

    pub const PLACED: u8 = b'p';
    pub const NEEDS_MAPS: u8 = b'n';
    pub const MAPPED: u8 = b'm';
    pub const ROOTFS_MOUNTED: u8 = b'r';
    pub const HOOKS_DONE: u8 = b'h';
    pub const ERROR: u8 = b'E';
}

/// The bytes of a message. An error is its tag, its errno, its exit status (each 0 for none, as i32) and its text.
pub fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::Forked(pid) => [&[tag::FORKED][..], &pid.as_raw().to_ne_bytes()].concat(),
        Message::Adopted => vec![tag::ADOPTED],
        Message::Placed => vec![tag::PLACED],
        Message::NeedsMaps => vec![tag::NEEDS_MAPS],
        Message::Mapped => vec![tag::MAPPED],
        Message::RootfsMounted => vec![tag::ROOTFS_MOUNTED],
        Message::HooksDone => vec![tag::HOOKS_DONE],
        Message::SeccompListener(fd) => [&[tag::SECCOMP_LISTENER][..], &fd.to_ne_bytes()].concat(),
        Message::ListenerSent => vec![tag::LISTENER_SENT],
        Message::Mounted => vec![tag::MOUNTED],
        Message::Ready => vec![tag::READY],
        Message::Proceed => vec![tag::PROCEED],
        Message::Executing { filtered } => vec![tag::EXECUTING, u8::from(*filtered)],
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
        tag::PLACED => Some(Message::Placed),
        tag::NEEDS_MAPS => Some(Message::NeedsMaps),
        tag::MAPPED => Some(Message::Mapped),
        tag::ROOTFS_MOUNTED => Some(Message::RootfsMounted),
        tag::HOOKS_DONE => Some(Message::HooksDone),
        tag::SECCOMP_LISTENER => number(rest).map(Message::SeccompListener),
        tag::LISTENER_SENT => Some(Message::ListenerSent),
        tag::MOUNTED => Some(Message::Mounted),
        tag::READY => Some(Message::Ready),
        tag::PROCEED => Some(Message::Proceed),
        tag::EXECUTING => match rest {
            [filtered @ (0 | 1)] => Some(Message::Executing { filtered: *filtered == 1 }),
            _ => None,
        },
        tag::FAILED => {
            let (what, errno, why) = skeg_init::channel::decode_error(rest)?;
            Some(Message::Error(Error::from_parts(what, errno, &why)))
        }
        tag::ERROR => {
            let errno = number(rest.get(..4)?)?;
            let status = number(rest.get(4..8)?)?;
            let text = String::from_utf8_lossy(rest.get(8..)?);
            let error = match Errno::from_raw(errno) {
                Errno::UnknownErrno => Error::new(text),
                errno => Error::with_text(text, errno),
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

    /// `run` sends `Proceed` to a process that does not wait for it and may have failed by then (errors say what and why).
    #[test]
    fn an_error_is_heard_of_a_process_that_did_not_hear_us() {
        let (ours, theirs) = Channel::pair().unwrap();
        let error = Error::from_errno("apply SELinux label", Errno::EINVAL);
        theirs.send(&Message::Error(error.clone())).unwrap();
        ours.send(&Message::Proceed).unwrap();
        drop(theirs);
        let Some(Message::Error(received)) = ours.receive().unwrap() else { panic!("no error") };
        assert_eq!(received, error);
        assert!(ours.receive().unwrap().is_none());
    }

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

    /// An errno without a name is none, and never "success".
    #[test]
    fn an_unknown_errno_is_in_the_text_alone() {
        let Some(Message::Error(error)) = decode(b"E\x02\x10\0\0\x02\0\0\0text") else { panic!("no error") };
        assert_eq!((error.errno(), error.exit_status(), &*error.to_string()), (None, Some(2), "text"));
        let failed = [&[tag::FAILED][..], &524i32.to_ne_bytes(), &4u16.to_ne_bytes(), b"load"].concat();
        let Some(Message::Error(error)) = decode(&failed) else { panic!("no error") };
        assert_eq!((error.errno(), &*error.to_string()), (None, "load: unknown error 524"));
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
