//! A D-Bus connection to one service manager: method calls one after the other, each with a deadline.
//!
//! A library would be the rule. This is a few hundred lines for a reason: what there is either runs an executor and
//! threads of its own (zbus), or is C (libdbus), or authenticates with the user id as the caller's own user namespace has
//! it and reads the answer without a deadline (rustbus), so that of it no more than the layout of values could be used.
//!
//! The manager's private socket is tried first, as systemctl does: no broker stands in between, which matters where
//! containers are made by the hundred.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::systemd::value::{Reader, Value, pad, put_signature};
use crate::console::connect_socket;
use crate::error::{Context as _, Error, Result};
use crate::sys::fd::write_all;
use crate::sys::path::append;

/// How long an answer may take: libdbus's default.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// How long a job may take to start or stop a unit, as in runc.
const JOB_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest message that is read; what the manager has to say to us has a few hundred bytes.
const MESSAGE_LIMIT: usize = 1 << 20;

/// How long the lines of the authentication may be together.
const HANDSHAKE_LIMIT: usize = 4096;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_NAME: &str = "org.freedesktop.systemd1";
const BUS: &str = "org.freedesktop.DBus";

/// Which end of a system call a message is.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Header fields (D-Bus specification, "Header Fields").
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SIGNATURE: u8 = 8;
}

/// Why a call has no result.
#[derive(Debug)]
pub enum Fault {
    /// The manager refuses: the error's D-Bus name, and its text.
    Refused {
        /// As in `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// For people.
        text: String,
    },
    /// There is no answer, or none that makes sense.
    Lost(Error),
}

impl Fault {
    /// Whether the manager refused with this name.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused { name, text } if text.is_empty() => Self::new(name),
            Fault::Refused { text, .. } => Self::new(text),
            Fault::Lost(error) => error,
        }
    }
}

/// Where a manager can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The socket.
    pub path: PathBuf,
    /// Whether the manager itself is at the other end, not a bus.
    pub private: bool,
}

impl Address {
    /// The system manager's sockets in the order in which they are tried.
    pub fn system() -> Vec<Self> {
        vec![
            Self { path: "/run/systemd/private".into(), private: true },
            Self { path: "/run/dbus/system_bus_socket".into(), private: false },
        ]
    }

    /// Those of the user's own manager, from `XDG_RUNTIME_DIR` and `DBUS_SESSION_BUS_ADDRESS`.
    pub fn user(runtime_dir: Option<OsString>, session_bus: Option<OsString>) -> Vec<Self> {
        let mut found = Vec::new();
        if let Some(dir) = runtime_dir.filter(|dir| !dir.is_empty()) {
            for (name, private) in [("systemd/private", true), ("bus", false)] {
                let mut path = PathBuf::from(&dir);
                append(&mut path, name);
                found.push(Self { path, private });
            }
        }
        // `unix:path=PATH,guid=...;...`: the first address counts.
        let text = session_bus.map(OsString::into_vec).unwrap_or_default();
        let first = text.split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default();
        if let Some(path) = first.strip_prefix(b"unix:path=") {
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            if !found.iter().any(|address| address.path == path) {
                found.push(Self { path, private: false });
            }
        }
        found
    }
}

/// One connection.
#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    path: PathBuf,
    private: bool,
    serial: u32,
    unread: Vec<u8>,
    /// Jobs that have ended: the job's path and its result.
    ended: Vec<(String, String)>,
}

/// What is of interest in a message.
#[derive(Debug, Default)]
struct Received {
    kind: u8,
    reply_to: u32,
    name: String,
    member: String,
    body: Vec<u8>,
}

impl Bus {
    /// Connects to the first of `addresses` that is there.
    ///
    /// # Errors
    /// `ENOENT` and the like where none is; what the handshake said.
    pub fn connect(addresses: &[Address]) -> Result<Self> {
        let mut last = None;
        for address in addresses {
            match connect_socket(&address.path) {
                Ok(socket) => return Self::shake_hands(socket, address),
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| Error::from_errno("connect to systemd", Errno::ENOENT)))
    }

    /// EXTERNAL without an identity: the other side takes the socket's credentials. A user id would have to be the one of
    /// the other side's user namespace.
    fn shake_hands(socket: OwnedFd, address: &Address) -> Result<Self> {
        let mut bus = Self {
            socket,
            path: address.path.clone(),
            private: address.private,
            serial: 0,
            unread: Vec::new(),
            ended: Vec::new(),
        };
        write_all(&bus.socket, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n").context(|| bus.what())?;
        let deadline = Instant::now() + CALL_TIMEOUT;
        while !bus.handshake_is_done()? {
            bus.read_more(deadline)?;
        }
        if !bus.private {
            // Their answers are not waited for: what they are for would fail with a better error.
            bus.send(BUS, "/org/freedesktop/DBus", BUS, "Hello", &[])?;
            let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
            bus.send(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", &[Value::Text(rule)])?;
            bus.send(MANAGER_NAME, MANAGER_PATH, MANAGER, "Subscribe", &[])?;
        }
        Ok(bus)
    }

    fn what(&self) -> String {
        format!("talk to systemd over {}", self.path.display())
    }

    fn wrong(&self, why: &str) -> Error {
        Error::new(why).context(self.what())
    }

    /// `DATA`, then `OK` and the server's id.
    fn handshake_is_done(&mut self) -> Result<bool> {
        let mut lines = 0;
        let mut end = 0;
        while let Some(length) =
            self.unread.get(end..).unwrap_or_default().windows(2).position(|two| two == b"\r\n")
        {
            let line = self.unread.get(end..end + length).unwrap_or_default();
            end += length + 2;
            lines += 1;
            match lines {
                1 if line.starts_with(b"DATA") => {}
                2 if line.starts_with(b"OK") => {
                    self.unread.drain(..end);
                    return Ok(true);
                }
                _ => return Err(self.wrong("it does not accept this user")),
            }
        }
        if self.unread.len() > HANDSHAKE_LIMIT {
            return Err(self.wrong("it does not speak D-Bus"));
        }
        Ok(false)
    }

    /// Calls a method of the manager; the body of its answer.
    ///
    /// # Errors
    /// The manager refuses; no answer in time.
    pub fn call(&mut self, member: &str, arguments: &[Value]) -> std::result::Result<Vec<u8>, Fault> {
        let serial =
            self.send(MANAGER_NAME, MANAGER_PATH, MANAGER, member, arguments).map_err(Fault::Lost)?;
        self.answer(serial)
    }

    /// Text properties of the manager, asked for at once.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub fn properties(&mut self, names: [&str; 2]) -> Result<[String; 2]> {
        let interface = "org.freedesktop.DBus.Properties";
        let ask = |bus: &mut Self, name: &str| {
            let arguments = [Value::text(MANAGER), Value::text(name)];
            bus.send(MANAGER_NAME, MANAGER_PATH, interface, "Get", &arguments)
        };
        let serials = [ask(self, names[0])?, ask(self, names[1])?];
        let mut take = |serial| -> Result<String> {
            let body = self.answer(serial)?;
            let mut reader = Reader::new(&body);
            let text =
                reader.signature().and_then(|signature| if signature == "s" { reader.text() } else { None });
            text.ok_or_else(|| self.wrong("a property has another type than it should"))
        };
        Ok([take(serials[0])?, take(serials[1])?])
    }

    /// Waits until the job at `path` has ended; its result, `done` where all went well.
    ///
    /// # Errors
    /// It takes too long, or the connection ends.
    pub fn wait_for_job(&mut self, path: &str) -> Result<String> {
        let deadline = Instant::now() + JOB_TIMEOUT;
        loop {
            if let Some(index) = self.ended.iter().position(|(job, _)| job == path) {
                return Ok(self.ended.swap_remove(index).1);
            }
            self.receive(deadline)?;
        }
    }

    fn answer(&mut self, serial: u32) -> std::result::Result<Vec<u8>, Fault> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            let message = self.receive(deadline).map_err(Fault::Lost)?;
            match message.kind {
                METHOD_RETURN if message.reply_to == serial => return Ok(message.body),
                ERROR if message.reply_to == serial => {
                    let text = Reader::new(&message.body).text().unwrap_or_default();
                    return Err(Fault::Refused { name: message.name, text });
                }
                _ => {}
            }
        }
    }

    fn send(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        arguments: &[Value],
    ) -> Result<u32> {
        self.serial += 1;
        let destination = if self.private { "" } else { destination };
        let message = encode(self.serial, destination, path, interface, member, arguments);
        write_all(&self.socket, &message).context(|| self.what())?;
        Ok(self.serial)
    }

    /// The next message. Jobs that have ended are remembered: their signal may come before the answer that names them.
    fn receive(&mut self, deadline: Instant) -> Result<Received> {
        loop {
            if let Some((message, length)) = decode(&self.unread).map_err(|why| self.wrong(why))? {
                self.unread.drain(..length);
                if message.kind == SIGNAL && message.member == "JobRemoved" {
                    let mut reader = Reader::new(&message.body);
                    let ended = |reader: &mut Reader<'_>| {
                        let (_id, path, _unit) = (reader.number()?, reader.text()?, reader.text()?);
                        Some((path, reader.text()?))
                    };
                    self.ended.extend(ended(&mut reader));
                }
                return Ok(message);
            }
            self.read_more(deadline)?;
        }
    }

    fn read_more(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Err(Error::from_errno(self.what(), Errno::ETIMEDOUT)),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Error::from_errno(self.what(), errno)),
        }
        let mut chunk = [0; 4096];
        match nix::unistd::read(&self.socket, &mut chunk) {
            Ok(0) => Err(self.wrong("it has closed the connection")),
            Ok(length) => {
                self.unread.extend_from_slice(chunk.get(..length).unwrap_or_default());
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::from_errno(self.what(), errno)),
        }
    }
}

/// The byte order of this machine, as the first byte of a message has it.
const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

/// A method call. Without a destination the other side is the service itself.
fn encode(
    serial: u32,
    destination: &str,
    path: &str,
    interface: &str,
    member: &str,
    arguments: &[Value],
) -> Vec<u8> {
    let mut body = Vec::new();
    arguments.iter().for_each(|argument| argument.put(&mut body));
    let signature: String = arguments.iter().map(Value::signature).collect();
    let mut out = vec![ENDIAN, METHOD_CALL, 0, 1];
    Value::U32(u32::try_from(body.len()).unwrap_or(u32::MAX)).put(&mut out);
    Value::U32(serial).put(&mut out);
    let length_at = out.len();
    Value::U32(0).put(&mut out);
    let fields_at = out.len();
    for (code, kind, text) in [
        (field::PATH, "o", path),
        (field::INTERFACE, "s", interface),
        (field::MEMBER, "s", member),
        (field::DESTINATION, "s", destination),
    ] {
        if text.is_empty() {
            continue;
        }
        pad(&mut out, 8);
        out.push(code);
        put_signature(&mut out, kind);
        Value::text(text).put(&mut out);
    }
    if !signature.is_empty() {
        pad(&mut out, 8);
        out.push(field::SIGNATURE);
        put_signature(&mut out, "g");
        put_signature(&mut out, &signature);
    }
    let length = u32::try_from(out.len() - fields_at).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(length_at..length_at + 4) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
    pad(&mut out, 8);
    out.extend(body);
    out
}

/// The first message of `data` and how many bytes it has; `None` where it is not all there.
fn decode(data: &[u8]) -> std::result::Result<Option<(Received, usize)>, &'static str> {
    const FIXED: usize = 16;
    let Some(fixed) = data.get(..FIXED) else { return Ok(None) };
    if fixed.first() != Some(&ENDIAN) {
        return Err("its messages have another byte order");
    }
    let mut reader = Reader::new(fixed);
    let mut received = Received { kind: fixed.get(1).copied().unwrap_or_default(), ..Received::default() };
    let (_start, body_length, _serial, fields) =
        (reader.number(), reader.number(), reader.number(), reader.number());
    let size = |number: Option<u32>| usize::try_from(number.unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
    let fields_end = FIXED.saturating_add(size(fields));
    let body_at = fields_end.saturating_add(7) / 8 * 8;
    let end = body_at.saturating_add(size(body_length));
    if end > MESSAGE_LIMIT {
        return Err("a message of it is too long");
    }
    let Some(message) = data.get(..end) else { return Ok(None) };
    take_fields(message, FIXED, fields_end, &mut received).ok_or("a message of it cannot be read")?;
    received.body = message.get(body_at..).unwrap_or_default().to_vec();
    Ok(Some((received, end)))
}

fn take_fields(message: &[u8], start: usize, end: usize, received: &mut Received) -> Option<()> {
    let mut reader = Reader::new(message.get(..end)?);
    (0..start).try_for_each(|_| reader.byte().map(drop))?;
    while reader.at() < end {
        reader.align(8);
        let code = reader.byte()?;
        let (mut text, mut number) = (String::new(), 0);
        match reader.signature()?.as_str() {
            "s" | "o" => text = reader.text()?,
            "g" => text = reader.signature()?,
            "u" => number = reader.number()?,
            _ => return None,
        }
        match code {
            field::REPLY_SERIAL => received.reply_to = number,
            field::ERROR_NAME => received.name = text,
            field::MEMBER => received.member = text,
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    /// A message of the other side: the same layout with another type and other fields.
    fn message(kind: u8, fields: &[(u8, Value)], body: &[Value]) -> Vec<u8> {
        let mut content = Vec::new();
        body.iter().for_each(|value| value.put(&mut content));
        let mut out = vec![ENDIAN, kind, 0, 1];
        out.extend(u32::try_from(content.len()).unwrap().to_ne_bytes());
        out.extend(1_u32.to_ne_bytes());
        let mut list = vec![0; 16];
        for (code, value) in fields {
            pad(&mut list, 8);
            list.push(*code);
            put_signature(&mut list, &value.signature());
            value.put(&mut list);
        }
        out.extend(u32::try_from(list.len() - 16).unwrap().to_ne_bytes());
        out.extend(&list[16..]);
        pad(&mut out, 8);
        out.extend(content);
        out
    }

    /// A connection after its handshake, and what the other side has said.
    fn bus(said: &[u8]) -> (Bus, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        write_all(&theirs, b"DATA\r\nOK 0123\r\n").unwrap();
        write_all(&theirs, said).unwrap();
        (Bus::shake_hands(ours, &Address { path: "/x".into(), private: true }).unwrap(), theirs)
    }

    #[test]
    fn the_end_of_a_job_may_come_before_the_answer_that_names_it() {
        let removed = message(
            SIGNAL,
            &[(field::MEMBER, Value::text("JobRemoved"))],
            &[Value::U32(7), Value::text("/job/7"), Value::text("a.scope"), Value::text("done")],
        );
        let reply = message(METHOD_RETURN, &[(field::REPLY_SERIAL, Value::U32(1))], &[Value::text("/job/7")]);
        let (mut bus, theirs) = bus(&[removed, reply].concat());
        let body = bus.call("StartTransientUnit", &[Value::text("a.scope")]).unwrap();
        assert_eq!(Reader::new(&body).text().as_deref(), Some("/job/7"));
        assert_eq!(bus.wait_for_job("/job/7").unwrap(), "done");
        let mut sent = [0; 512];
        let length = nix::unistd::read(&theirs, &mut sent).unwrap();
        assert!(sent[..length].starts_with(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"));
        let call = &sent[length - 8..length];
        assert_eq!(&call[4..], b"ope\0", "the body ends the message");
    }

    #[test]
    fn errors_have_their_name_and_text() {
        let fields = [
            (field::ERROR_NAME, Value::text("org.freedesktop.systemd1.UnitExists")),
            (field::REPLY_SERIAL, Value::U32(1)),
        ];
        let (mut bus, _theirs) = bus(&message(ERROR, &fields, &[Value::text("Unit a.scope exists.")]));
        let fault = bus.call("StartTransientUnit", &[]).unwrap_err();
        assert!(fault.is("org.freedesktop.systemd1.UnitExists"));
        assert_eq!(Error::from(fault).to_string(), "Unit a.scope exists.");
    }

    /// peers.md B 40: an end of the connection is an error, not a wait.
    #[test]
    fn an_end_in_the_middle_is_an_error() {
        let (mut bus, theirs) = bus(&message(METHOD_RETURN, &[], &[])[..9]);
        drop(theirs);
        let error = Error::from(bus.call("Reload", &[]).unwrap_err()).to_string();
        assert!(error.starts_with("talk to systemd over /x: "), "{error}");
    }

    #[test]
    fn messages_that_make_no_sense_are_refused() {
        let good = message(METHOD_RETURN, &[(field::REPLY_SERIAL, Value::U32(1))], &[]);
        for (at, byte) in [(0, b'?'), (4 + 3, 0xff), (12 + 3, 0xff), (17, 9), (18, b'z')] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(decode(&bad).is_err(), "byte {at}");
        }
        assert!(decode(&good[..good.len() - 1]).unwrap().is_none());
    }

    #[test]
    fn addresses_of_the_users_manager() {
        let addresses = |dir: Option<&str>, bus: Option<&str>| {
            let found = Address::user(dir.map(Into::into), bus.map(Into::into));
            found.into_iter().map(|one| (one.path.display().to_string(), one.private)).collect::<Vec<_>>()
        };
        let of_dir = [("/r/systemd/private".to_owned(), true), ("/r/bus".to_owned(), false)];
        assert_eq!(addresses(Some("/r"), None), of_dir);
        assert_eq!(addresses(Some("/r"), Some("unix:path=/r/bus")), of_dir);
        assert_eq!(addresses(None, Some("unix:path=/b,guid=1;unix:path=/c")), [("/b".to_owned(), false)]);
        assert_eq!(addresses(None, Some("tcp:host=x")), []);
        assert_eq!(addresses(Some(""), None), []);
    }
}
