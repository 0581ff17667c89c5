//! What a shim publishes, taken as containerd takes it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use skeg_proto::Message;
use skeg_proto::events::{ForwardRequest, TaskExit};
use skeg_proto::ttrpc::{Request, Response, RpcStatus};

use crate::failure::{During, Outcome};
use crate::shim::client::{read_frame, write_frame};

/// Container, process ("" is never one: the init process has the container's id), exit status.
type Exit = (String, String, u32);

/// The exits that have been told, each with how often.
#[derive(Default, Clone)]
pub struct Exits(Arc<Mutex<BTreeMap<Exit, usize>>>);

impl Exits {
    /// Takes events at `socket` from now on.
    pub fn listen(socket: &Path) -> Outcome<Self> {
        let listener = UnixListener::bind(socket).during("bind the socket for events")?;
        let exits = Self::default();
        let taken = exits.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = taken.clone();
                std::thread::spawn(move || taken.serve(stream));
            }
        });
        Ok(exits)
    }

    /// All of them, by what they tell.
    pub fn all(&self) -> BTreeMap<Exit, usize> {
        self.0.lock().map(|exits| exits.clone()).unwrap_or_default()
    }

    fn serve(&self, mut stream: UnixStream) {
        while let Ok((number, payload)) = read_frame(&mut stream) {
            self.take(&payload);
            let answer = Response { status: Some(RpcStatus::new()).into(), ..Response::default() };
            let answer = answer.write_to_bytes().unwrap_or_default();
            if write_frame(&mut stream, number, 2, &answer).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }

    fn take(&self, payload: &[u8]) -> Option<()> {
        let request = Request::parse_from_bytes(payload).ok()?;
        let envelope = ForwardRequest::parse_from_bytes(&request.payload).ok()?.envelope;
        if envelope.topic == "/tasks/exit" {
            let exit = TaskExit::parse_from_bytes(&envelope.event.value).ok()?;
            let told = (exit.container_id, exit.id, exit.exit_status);
            *self.0.lock().ok()?.entry(told).or_default() += 1;
        }
        Some(())
    }
}
