//! ttrpc: frames, a server for unary calls, and the client that events go out with.
//!
//! A frame is ten bytes (length, stream, type, flags; big endian) and a protobuf message. The server is written here
//! because the shim asks more of it than a library does: the peer's uid is checked at accept (security.md I1), a frame
//! is bounded before it is read (I6), and a fault in one call answers that call and touches nothing else (I15).

use std::cell::Cell;
use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use skeg_proto::Message as _;
use skeg_proto::ttrpc::{Request, Response, RpcStatus};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify};

use crate::error::{Code, Context as _, Error, Result};
use crate::log;

/// The longest payload that ttrpc allows.
const PAYLOAD_LIMIT: usize = 4 << 20;
/// The pause while the kernel is short of memory.
const SHORTAGE: Duration = Duration::from_millis(10);
const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// One call: `method` of `service`, and until when its caller waits.
pub struct Call {
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// The encoded request message.
    pub payload: Vec<u8>,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
}

/// What keeps a shim alive besides its tasks: connections that stand open, and a bell for every change of either.
#[derive(Default)]
pub struct Connections {
    open: Cell<usize>,
    bell: Notify,
    closing: Notify,
}

impl Connections {
    /// Connections that stand open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Rings the bell.
    pub fn ring(&self) {
        self.bell.notify_waiters();
    }

    /// Closes them all: containerd waits for that before it goes on.
    pub fn close(&self) {
        self.closing.notify_waiters();
    }

    /// Resolves at the next ring.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

struct Counted(Rc<Connections>);

impl Counted {
    fn new(connections: &Rc<Connections>) -> Self {
        connections.open.set(connections.open.get() + 1);
        connections.ring();
        Self(Rc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ring();
    }
}

/// Accepts connections of our own uid and of root for ever; each call runs `handler` in a task of its own.
pub async fn serve<H, F>(listener: UnixListener, connections: Rc<Connections>, handler: H)
where
    H: Fn(Call) -> F + Clone + 'static,
    F: Future<Output = Result<Vec<u8>>> + 'static,
{
    let own = nix::unistd::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::error(format_args!("accept: {error}"));
                // Out of descriptors: without a pause this would be a busy loop.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
            _ => {
                log::warn(format_args!("a connection of another user was refused"));
                continue;
            }
        }
        let (counted, handler) = (Counted::new(&connections), handler.clone());
        tokio::task::spawn_local(async move {
            serve_connection(stream, handler, &counted.0).await;
            drop(counted);
        });
    }
}

async fn serve_connection<H, F>(stream: UnixStream, handler: H, connections: &Connections)
where
    H: Fn(Call) -> F + Clone + 'static,
    F: Future<Output = Result<Vec<u8>>> + 'static,
{
    let connection = Rc::new(Connection { stream, writing: Mutex::new(()) });
    loop {
        let frame = tokio::select! {
            frame = read_frame(&connection.stream) => frame,
            () = connections.closing.notified() => break,
        };
        let Ok(frame) = frame else { break };
        // Streams are not offered; what belongs to one is dropped.
        if frame.kind != REQUEST {
            continue;
        }
        let (connection, handler) = (Rc::clone(&connection), handler.clone());
        tokio::task::spawn_local(async move {
            let result = match decode(frame.payload) {
                Ok(call) => Guarded(Box::pin(handler(call))).await,
                Err(error) => Err(error),
            };
            // A caller that has gone away needs no answer; one that has not must not wait for it.
            if connection.send(frame.stream, RESPONSE, &encode(result)).await.is_err() {
                connection.close();
            }
        });
    }
    // Calls that still wait hold on to the socket; its other end is to know all the same.
    connection.close();
}

/// Whether the kernel was short of memory for a moment: to take that for the end of the connection would look like the death
/// of the shim.
async fn passes(error: &std::io::Error) -> bool {
    let short = matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS));
    if short {
        tokio::time::sleep(SHORTAGE).await;
    }
    short || error.kind() == ErrorKind::Interrupted
}

fn decode(payload: Result<Vec<u8>>) -> Result<Call> {
    let request = Request::parse_from_bytes(&payload?)
        .map_err(|error| Error::invalid(format!("decode the request: {error}")))?;
    let timeout = u64::try_from(request.timeout_nano).ok().filter(|nanos| *nanos > 0);
    Ok(Call {
        service: request.service,
        method: request.method,
        payload: request.payload,
        deadline: timeout.map(|nanos| Instant::now() + Duration::from_nanos(nanos)),
    })
}

fn encode(result: Result<Vec<u8>>) -> Vec<u8> {
    let mut response = Response::new();
    match result {
        Ok(payload) => {
            response.payload = payload;
            // Clients of ttrpc 1.0 (containerd 1.6) read the code of an absent status.
            response.status = Some(RpcStatus::new()).into();
        }
        Err(error) => {
            let status =
                RpcStatus { code: error.code() as i32, message: error.to_string(), ..Default::default() };
            response.status = Some(status).into();
        }
    }
    response.write_to_bytes().unwrap_or_default()
}

/// A call whose panic is an `Internal` error (security.md I15).
struct Guarded<F>(Pin<Box<F>>);

impl<F: Future<Output = Result<Vec<u8>>>> Future for Guarded<F> {
    type Output = Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(fault) => {
                let text = fault
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| fault.downcast_ref::<&str>().copied())
                    .unwrap_or("no text");
                log::error(format_args!("fault in a call: {text}"));
                Poll::Ready(Err(Error::new(Code::Internal, format!("fault in the shim: {text}"))))
            }
        }
    }
}

struct Frame {
    stream: u32,
    kind: u8,
    /// An error for a payload that was too long and has been skipped.
    payload: Result<Vec<u8>>,
}

struct Connection {
    stream: UnixStream,
    /// Frames of calls that end together must not mix.
    writing: Mutex<()>,
}

impl Connection {
    async fn send(&self, stream: u32, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| ErrorKind::InvalidData)?;
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[kind, 0]);
        frame.extend_from_slice(payload);
        let _turn = self.writing.lock().await;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) if passes(&error).await => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn close(&self) {
        let _ = nix::sys::socket::shutdown(self.stream.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

async fn read_exact(stream: &UnixStream, mut into: &mut [u8]) -> std::io::Result<()> {
    while !into.is_empty() {
        match stream.try_read(into) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => into = &mut into[read..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) if passes(&error).await => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read_frame(stream: &UnixStream) -> std::io::Result<Frame> {
    let mut header = [0; HEADER];
    read_exact(stream, &mut header).await?;
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = header;
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).map_err(|_| ErrorKind::InvalidData)?;
    let stream_id = u32::from_be_bytes([s0, s1, s2, s3]);
    let payload = if length <= PAYLOAD_LIMIT {
        let mut payload = vec![0; length];
        read_exact(stream, &mut payload).await?;
        Ok(payload)
    } else {
        // Closing the connection instead would look like the death of the shim.
        skip(stream, length).await?;
        Err(Error::new(
            Code::ResourceExhausted,
            format!("message of {length} bytes: at most {PAYLOAD_LIMIT} are allowed"),
        ))
    };
    Ok(Frame { stream: stream_id, kind, payload })
}

async fn skip(stream: &UnixStream, mut length: usize) -> std::io::Result<()> {
    let mut chunk = vec![0; 4096];
    while length > 0 {
        let part = length.min(chunk.len());
        read_exact(stream, &mut chunk[..part]).await?;
        length -= part;
    }
    Ok(())
}

/// A client that makes one call at a time.
pub struct Client {
    connection: Connection,
    next_stream: Cell<u32>,
}

impl Client {
    /// Connects to a path socket; `address` may carry the prefix `unix://`.
    ///
    /// # Errors
    /// What connect(2) failed with.
    pub async fn connect(address: &str) -> Result<Self> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let stream = UnixStream::connect(path).await.context(|| format!("connect to {path}"))?;
        Ok(Self { connection: Connection { stream, writing: Mutex::new(()) }, next_stream: Cell::new(1) })
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// A broken connection, or what the server answered (`refused` is true then).
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
    ) -> std::result::Result<(), CallError> {
        let stream = self.next_stream.get();
        // Streams of a client are odd.
        self.next_stream.set(stream.wrapping_add(2));
        let request =
            Request { service: service.into(), method: method.into(), payload, ..Request::default() };
        let bytes = request.write_to_bytes().unwrap_or_default();
        self.connection.send(stream, REQUEST, &bytes).await.map_err(|_| CallError::Broken)?;
        loop {
            let frame = read_frame(&self.connection.stream).await.map_err(|_| CallError::Broken)?;
            if frame.stream != stream || frame.kind != RESPONSE {
                continue;
            }
            let payload = frame.payload.map_err(|_| CallError::Broken)?;
            let response = Response::parse_from_bytes(&payload).map_err(|_| CallError::Broken)?;
            return match response.status.as_ref() {
                Some(status) if status.code != 0 => Err(CallError::Refused(status.message.clone())),
                _ => Ok(()),
            };
        }
    }
}

/// Why a call of `Client` failed.
pub enum CallError {
    /// The connection is of no use any more.
    Broken,
    /// The server answered with an error.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not answered by then has been lost: a task that panics leaves its connection open, and silent.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A server with `handler` on one end and a client on the other, on one thread.
    fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Client, UnixStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let pair = || UnixStream::pair().unwrap();
            let (raw_client, raw_server) = pair();
            let (client, server) = pair();
            for stream in [server, raw_server] {
                tokio::task::spawn_local(async move {
                    let handler = |call: Call| async move {
                        assert!(call.method != "Fault", "this call has a fault");
                        Ok(call.payload)
                    };
                    serve_connection(stream, handler, &Connections::default()).await;
                });
            }
            let connection = Connection { stream: client, writing: Mutex::new(()) };
            let test = test(Client { connection, next_stream: Cell::new(1) }, raw_client);
            tokio::time::timeout(LIMIT, test).await.expect("an answer within the limit");
        });
    }

    /// security.md I15: a fault in one call is that call's error; the connection and other calls go on.
    #[test]
    fn i15_a_fault_in_one_call_leaves_the_others_alone() {
        with_server(|client, _| async move {
            let Err(CallError::Refused(text)) = client.call("s", "Fault", Vec::new()).await else {
                panic!("the fault was not told");
            };
            assert!(text.contains("this call has a fault"), "{text}");
            assert!(client.call("s", "Good", Vec::new()).await.is_ok());
        });
    }

    /// security.md I6: a frame beyond 4 MiB is an error of its call, is not held in memory, and ends nothing.
    #[test]
    fn i6_an_oversized_frame_is_an_error() {
        with_server(|client, _| async move {
            let Err(CallError::Refused(text)) = client.call("s", "m", vec![0; PAYLOAD_LIMIT + 1]).await
            else {
                panic!("the frame was taken");
            };
            assert!(text.contains("at most 4194304"), "{text}");
            assert!(client.call("s", "Good", vec![0; PAYLOAD_LIMIT / 2]).await.is_ok());
        });
    }

    /// security.md I6 (RUSTSEC-2024-0437): deeply nested unknown groups are an error, not a stack overflow.
    #[test]
    fn i6_nested_groups_are_an_error() {
        // Field 15, wire type 3 (start group), 100 000 times.
        let nested = vec![0x7b; 100_000];
        assert!(Request::parse_from_bytes(&nested).is_err());
        with_server(|_, raw| async move {
            let mut frame = Vec::new();
            frame.extend_from_slice(&u32::try_from(nested.len()).unwrap().to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 1, REQUEST, 0]);
            frame.extend_from_slice(&nested);
            let connection = Connection { stream: raw, writing: Mutex::new(()) };
            let mut rest = &frame[..];
            while !rest.is_empty() {
                connection.stream.writable().await.unwrap();
                if let Ok(written) = connection.stream.try_write(rest) {
                    rest = &rest[written..];
                }
            }
            let answer = read_frame(&connection.stream).await.unwrap();
            let response = Response::parse_from_bytes(&answer.payload.unwrap()).unwrap();
            assert_eq!(response.status.code, Code::InvalidArgument as i32);
        });
    }
}
