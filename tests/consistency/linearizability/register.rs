//! A shadow as a register: `reported.value` is what was written last.

use serde_json::{Value, json};

use crate::harness::{
    self,
    linearizability::{Answer, Ask, EMPTY, Register},
    server::Server,
    wire::{self, Publish, V5, prop},
};

/// A connection that reads and writes one register.
pub(crate) struct Client<'a> {
    server: &'a Server,
    device: String,
    number: usize,
    /// Connections it had: each has a client id of its own, so that none ends another.
    connections: u64,
    connection: harness::client::Client,
    tokens: u64,
}

impl<'a> Client<'a> {
    pub(crate) fn connect(server: &'a Server, device: &str, number: usize) -> Self {
        let connection = open(server, device, number, 0);
        Self { server, device: device.to_owned(), number, connections: 0, connection, tokens: 0 }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, ask: Ask) -> Answer {
        self.tokens += 1;
        let token = self.tokens.to_string();
        let publish = self.request(ask, &token);
        let id = self.connection.next_id();
        self.connection.send(publish.encode(V5, 1, id));
        let reply = loop {
            let reply = self.connection.message().json();
            if reply["clientToken"] == json!(token) {
                break reply;
            }
        };
        // The acknowledgement, which comes later, is not waited for: the answer is when the reply is there.
        answer(ask, &reply)
    }

    /// Asks, and cuts the connection `pings` round trips of another one later; nothing is known of the answer.
    pub(crate) fn cut(&mut self, ask: Ask, pings: u64) -> Answer {
        let publish = self.request(ask, "cut");
        let id = self.connection.next_id();
        self.connections += 1;
        let mut next = open(self.server, &self.device, self.number, self.connections);
        self.connection.send(publish.encode(V5, 1, id));
        (0..pings).for_each(|_| next.ping());
        std::mem::replace(&mut self.connection, next).drop_connection();
        Answer::Unknown
    }

    fn request(&self, ask: Ask, token: &str) -> Publish {
        let (verb, mut body) = match ask {
            Ask::Get => ("get", json!({})),
            Ask::Swap { expected, value } => {
                ("update", json!({"state": {"reported": {"value": value}}, "version": expected}))
            }
            Ask::Put { .. } => unreachable!("a client expects a version"),
        };
        body["clientToken"] = json!(token);
        let topic = format!("shadow/{}/{verb}", self.device);
        let reply = wire::Value::Text(reply_topic(&self.device, self.number));
        Publish::new(&topic, body.to_string()).property(prop::RESPONSE_TOPIC, reply)
    }
}

fn open(server: &Server, device: &str, number: usize, connection: u64) -> harness::client::Client {
    let id = format!("{device}-{number}-{connection}");
    let mut client = harness::client::Client::connect(server, V5, &id);
    client.subscribe(&[(&reply_topic(device, number), 1)]);
    client
}

fn reply_topic(device: &str, number: usize) -> String {
    format!("reply/{device}/{number}")
}

/// Returns the answer in `reply`.
fn answer(ask: Ask, reply: &Value) -> Answer {
    let version = || reply["version"].as_u64().unwrap_or_else(|| panic!("no version in {reply}"));
    match (ask, reply["code"].as_u64()) {
        (Ask::Get, None) => {
            let value = reply["state"]["reported"]["value"].as_u64();
            Answer::Got(Register { version: version(), value: value.unwrap_or_else(|| panic!("no value in {reply}")) })
        }
        (Ask::Get, Some(404)) => Answer::Got(EMPTY),
        (Ask::Put { .. } | Ask::Swap { .. }, None) => Answer::Written(version()),
        (Ask::Swap { .. }, Some(409)) => Answer::Refused(version()),
        (_, Some(_)) => panic!("{ask:?} was answered {reply}"),
    }
}
