//! A client of one shadow that hears all its events, with the time taken out of them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    packet::Ack,
    server::Server,
    wire::{Protocol, Publish},
};

/// A client that subscribed as the SDKs do.
pub(crate) struct Thing {
    pub(crate) client: Client,
    pub(crate) prefix: String,
}

/// An event: the end of its topic, and its payload.
pub(crate) type Event = (String, Value);

impl Thing {
    /// Connects and follows the shadow at `prefix`, in whichever dialect that is: seven topics in one SUBSCRIBE.
    pub(crate) fn new(server: &Server, protocol: Protocol, client_id: &str, prefix: &str) -> Self {
        let mut client = Client::connect(server, protocol, client_id);
        let filters = EVENTS.map(|event| format!("{prefix}/{event}"));
        client.subscribe(&filters.each_ref().map(|filter| (filter.as_str(), 1)));
        Self { client, prefix: prefix.to_owned() }
    }

    /// Sends a request at QoS 1.
    pub(crate) fn send(&mut self, operation: &str, payload: impl AsRef<[u8]>) -> u16 {
        let id = self.client.next_id();
        let message = Publish::new(&format!("{}/{operation}", self.prefix), payload);
        self.client.send(message.encode(self.client.protocol, 1, id));
        id
    }

    /// Sends a request and gathers what it causes, up to its reply; then waits for the PUBACK.
    pub(crate) fn request(&mut self, operation: &str, payload: impl AsRef<[u8]>) -> (Vec<Event>, Ack) {
        let id = self.send(operation, payload);
        let events = self.reply();
        (events, self.client.puback(id))
    }

    /// The events up to the next accepted or rejected.
    pub(crate) fn reply(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let (name, payload) = self.event();
            let is_last = name.ends_with("/accepted") || name.ends_with("/rejected");
            events.push((name, payload));
            if is_last {
                return events;
            }
        }
    }

    /// The next event.
    pub(crate) fn event(&mut self) -> Event {
        let message = self.client.message();
        let name = message.topic.strip_prefix(&format!("{}/", self.prefix)).expect("an event of this shadow");
        (name.to_owned(), timeless(message.json()))
    }
}

/// `value` with every `"timestamp"`, which must be of about now, as `"T"`.
pub(crate) fn timeless(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let member = |(key, value): (String, Value)| match (key.as_str(), value.as_u64()) {
                ("timestamp", Some(time)) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                    assert!(time <= now + 5 && time + 600 > now, "{time} is not about {now}");
                    (key, json!("T"))
                }
                _ => (key, timeless(value)),
            };
            Value::Object(members.into_iter().map(member).collect())
        }
        Value::Array(elements) => elements.into_iter().map(timeless).collect(),
        other => other,
    }
}

const EVENTS: [&str; 7] = [
    "update/delta",
    "update/documents",
    "update/accepted",
    "update/rejected",
    "get/+",
    "delete/accepted",
    "delete/rejected",
];
