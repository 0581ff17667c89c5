//! Events to containerd: one queue, one task, one connection. An event is tried again in its place until it is taken,
//! so that order is kept and an exit is never lost while containerd restarts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use skeg_proto::events::ForwardRequest;
use skeg_proto::types::{Any, Envelope};
use skeg_proto::{Message, MessageField};
use tokio::sync::Notify;

use crate::log;
use crate::reap::Exit;
use crate::server::{CallError, Client};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// Events kept while containerd does not take them (security.md I16); the oldest that is not an exit goes first.
const QUEUE_LIMIT: usize = 4096;
/// How long one delivery may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(5);
/// The first pause after a failed delivery; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often an event that containerd itself refuses is tried.
const REFUSALS: u32 = 5;
/// The topic of the events that are kept longest.
const EXIT_TOPIC: &str = "/tasks/exit";

/// The queue; nothing is queued where there is nobody to tell.
pub struct Events {
    namespace: String,
    address: Option<String>,
    queue: RefCell<VecDeque<Envelope>>,
    added: Notify,
    taken: Notify,
    hurry: Notify,
    hurried: Cell<bool>,
}

impl Events {
    /// A queue for the events of `namespace` to the ttrpc server at `address`, if there is one.
    pub fn new(namespace: &str, address: Option<String>) -> Rc<Self> {
        Rc::new(Self {
            namespace: namespace.to_owned(),
            address: address.filter(|address| !address.is_empty()),
            queue: RefCell::default(),
            added: Notify::new(),
            taken: Notify::new(),
            hurry: Notify::new(),
            hurried: Cell::new(false),
        })
    }

    /// Queues `event`, the message `containerd.events.NAME`, under `topic`.
    pub fn publish<M: Message>(&self, topic: &str, name: &str, event: &M) {
        if self.address.is_none() {
            return;
        }
        let value = event.write_to_bytes().unwrap_or_default();
        let any = Any { type_url: format!("containerd.events.{name}"), value, ..Any::default() };
        let envelope = Envelope {
            timestamp: MessageField::some(Exit::now(0).timestamp()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= QUEUE_LIMIT {
            // The first one may be on its way.
            let victim = (1..queue.len()).find(|at| queue[*at].topic != EXIT_TOPIC).unwrap_or(1);
            if let Some(dropped) = queue.remove(victim) {
                log::error(format_args!("too many undelivered events: dropped one of {}", dropped.topic));
            }
        }
        queue.push_back(envelope);
        self.added.notify_one();
    }

    /// Delivers events as they come, for ever.
    pub async fn deliver(self: Rc<Self>) {
        let Some(address) = self.address.clone() else { return };
        let mut client = None;
        let mut pause = FIRST_PAUSE;
        let mut refusals = 0;
        loop {
            // The event stays in the queue while it is on its way: exactly one task takes events out.
            let Some(envelope) = self.queue.borrow().front().cloned() else {
                self.taken.notify_waiters();
                self.added.notified().await;
                continue;
            };
            match self.forward(&address, &mut client, envelope).await {
                Ok(()) => {
                    self.queue.borrow_mut().pop_front();
                    (pause, refusals) = (FIRST_PAUSE, 0);
                    continue;
                }
                Err(CallError::Broken) => client = None,
                Err(CallError::Refused(text)) => {
                    refusals += 1;
                    if refusals == REFUSALS {
                        log::error(format_args!("containerd refused an event: {text}"));
                        self.queue.borrow_mut().pop_front();
                        refusals = 0;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.hurry.notified() => {}
            }
            // The last events of a shim are delivered while containerd comes up: it may have asked the shim to end
            // before it takes events.
            pause = if self.hurried.get() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        }
    }

    async fn forward(
        &self,
        address: &str,
        client: &mut Option<Client>,
        envelope: Envelope,
    ) -> std::result::Result<(), CallError> {
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        let payload = request.write_to_bytes().unwrap_or_default();
        let delivery = async {
            if client.is_none() {
                *client = Some(Client::connect(address).await.map_err(|_| CallError::Broken)?);
            }
            match client {
                Some(client) => client.call(SERVICE, "Forward", payload).await,
                None => Err(CallError::Broken),
            }
        };
        tokio::time::timeout(DELIVERY_LIMIT, delivery).await.unwrap_or(Err(CallError::Broken))
    }

    /// Waits until everything is delivered, but at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        self.hurried.set(true);
        self.hurry.notify_waiters();
        let empty = async {
            while !self.queue.borrow().is_empty() {
                self.taken.notified().await;
            }
        };
        let _ = tokio::time::timeout(limit, empty).await;
    }
}

#[cfg(test)]
mod tests {
    use skeg_proto::events::TaskExit;

    use super::*;

    /// security.md I16: the queue is bounded, and exits are the last to go.
    #[test]
    fn i16_the_queue_is_bounded_and_keeps_exits() {
        let events = Events::new("test", Some("/nonexistent".into()));
        events.publish(EXIT_TOPIC, "TaskExit", &TaskExit::new());
        for _ in 0..QUEUE_LIMIT + 10 {
            events.publish("/tasks/start", "TaskStart", &TaskExit::new());
        }
        assert_eq!(events.queue.borrow().len(), QUEUE_LIMIT);
        assert_eq!(events.queue.borrow()[0].topic, EXIT_TOPIC);
    }

    /// peers.md B2: the last exit is told although containerd asks the shim to end before it takes events.
    #[test]
    fn the_last_events_are_delivered_when_containerd_comes_back() {
        let path = crate::path::child(&std::env::temp_dir(), &format!("shim-events-{}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let events = Events::new("test", Some(path.to_str().unwrap().to_owned()));
            tokio::task::spawn_local(Rc::clone(&events).deliver());
            events.publish(EXIT_TOPIC, "TaskExit", &TaskExit::new());
            // Long enough for the pauses to have grown beyond a second.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let taken = Rc::new(Cell::new(0));
            let count = Rc::clone(&taken);
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            tokio::task::spawn_local(crate::server::serve(listener, Rc::default(), move |_| {
                count.set(count.get() + 1);
                async { Ok(Vec::new()) }
            }));
            let begin = std::time::Instant::now();
            events.flush(Duration::from_secs(10)).await;
            assert_eq!(taken.get(), 1);
            assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        });
        nix::unistd::unlink(&path).unwrap();
    }

    /// peers.md A3.5: without a publisher (CRI-O) nothing is kept.
    #[test]
    fn no_publisher_means_no_queue() {
        let events = Events::new("test", Some(String::new()));
        events.publish(EXIT_TOPIC, "TaskExit", &TaskExit::new());
        assert!(events.queue.borrow().is_empty());
    }
}
