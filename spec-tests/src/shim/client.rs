//! A ttrpc client: several calls at a time on one connection, each answer by its stream.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use skeg_proto::Message;
use skeg_proto::ttrpc::{Request, Response};
use skeg_proto::types::Empty;

use crate::failure::Failure;

/// The service of the task API.
pub const SERVICE: &str = "containerd.task.v2.Task";
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The shim said no, by a code of gRPC.
    Code(i32, String),
    /// The connection is gone, or nothing comes.
    Broken(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(format!("{refusal:?}"))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// What a call gives back.
pub type Answer<T> = Result<T, Refusal>;

/// One connection.
pub struct Client {
    stream: UnixStream,
    next: u32,
    /// Answers that were not waited for when they came.
    early: BTreeMap<u32, Response>,
}

impl Client {
    /// Connects to a shim.
    pub fn connect(socket: &Path) -> Answer<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self { stream, next: 1, early: BTreeMap::new() })
    }

    /// Makes a call and waits for its answer.
    pub fn call<R: Message>(&mut self, method: &str, request: &impl Message) -> Answer<R> {
        let stream = self.send(method, request)?;
        self.receive(stream)
    }

    /// The same where the answer is empty.
    pub fn tell(&mut self, method: &str, request: &impl Message) -> Answer<()> {
        self.call::<Empty>(method, request).map(drop)
    }

    /// Makes a call; its answer comes by the stream.
    pub fn send(&mut self, method: &str, request: &impl Message) -> Answer<u32> {
        let stream = self.next;
        self.next = stream.wrapping_add(2);
        let payload = encode(request)?;
        let request =
            Request { service: SERVICE.into(), method: method.into(), payload, ..Request::default() };
        write_frame(&mut self.stream, stream, 1, &encode(&request)?)?;
        Ok(stream)
    }

    /// Waits for the answer on a stream.
    pub fn receive<R: Message>(&mut self, stream: u32) -> Answer<R> {
        loop {
            if let Some(response) = self.early.remove(&stream) {
                return match response.status.code {
                    0 => decode(&response.payload),
                    code => Err(Refusal::Code(code, response.status.message.clone())),
                };
            }
            let (of, payload) = read_frame(&mut self.stream)?;
            self.early.insert(of, decode(&payload)?);
        }
    }
}

/// A message as bytes.
pub fn encode(message: &impl Message) -> Answer<Vec<u8>> {
    message.write_to_bytes().map_err(|error| Refusal::Broken(error.to_string()))
}

/// Bytes as a message.
pub fn decode<R: Message>(bytes: &[u8]) -> Answer<R> {
    R::parse_from_bytes(bytes).map_err(|error| Refusal::Broken(error.to_string()))
}

/// Writes one frame: length, stream, kind (1 asks, 2 answers), flags.
pub fn write_frame(to: &mut impl Write, stream: u32, kind: u8, payload: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(10 + payload.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, 0]);
    frame.extend_from_slice(payload);
    to.write_all(&frame)
}

/// Reads one frame: its stream and its payload.
pub fn read_frame(from: &mut impl Read) -> std::io::Result<(u32, Vec<u8>)> {
    let mut header = [0; 10];
    from.read_exact(&mut header)?;
    let [l0, l1, l2, l3, s0, s1, s2, s3, ..] = header;
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(0);
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok((u32::from_be_bytes([s0, s1, s2, s3]), payload))
}
