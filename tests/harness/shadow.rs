//! Shadow requests and their answers, seen from a client.

use serde_json::{Value, json};

use super::{
    client::Client,
    packet::{Ack, Message},
    server::Server,
    wire::{self, Protocol, Publish, V5, prop},
};

/// A client that follows the answers of one shadow and sends it requests, each with a token of its own.
pub struct Requester {
    pub client: Client,
    /// The prefix `P` of the shadow's topics.
    pub prefix: String,
    tokens: u64,
    name: String,
    /// Where answers go that are for this client alone.
    response_topic: Option<String>,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub accepted: bool,
    /// The body of `accepted` or `rejected`.
    pub body: Value,
    /// The PUBACK.
    pub ack: Ack,
}

impl Requester {
    /// Connects a client and has it follow the answers of the shadow at `prefix`.
    pub fn new(server: &Server, protocol: Protocol, client_id: &str, prefix: &str) -> Self {
        Self::over(Client::connect(server, protocol, client_id), client_id, prefix)
    }

    /// Has a connected client follow the answers of the shadow at `prefix`.
    pub fn over(mut client: Client, name: &str, prefix: &str) -> Self {
        client.subscribe(&[(&format!("{prefix}/+/accepted"), 1), (&format!("{prefix}/+/rejected"), 1)]);
        Self { client, prefix: prefix.to_owned(), tokens: 0, name: name.to_owned(), response_topic: None }
    }

    /// Connects an MQTT 5 client that has its answers sent to a topic of its own and hears no one else's.
    pub fn private(server: &Server, client_id: &str, prefix: &str) -> Self {
        let topic = format!("reply/{client_id}");
        let mut client = Client::connect(server, V5, client_id);
        client.subscribe(&[(&topic, 1)]);
        let (prefix, name) = (prefix.to_owned(), client_id.to_owned());
        Self { client, prefix, tokens: 0, name, response_topic: Some(topic) }
    }

    /// Sends a request at QoS 1 and waits for its answer and its PUBACK.
    pub fn request(&mut self, operation: &str, body: Value) -> Answer {
        self.request_with(operation, body, &[])
    }

    /// As [`Requester::request`], with user properties of MQTT 5.
    pub fn request_with(&mut self, operation: &str, mut body: Value, user: &[(&str, &str)]) -> Answer {
        self.tokens += 1;
        let token = format!("{}-{}", self.name, self.tokens);
        body["clientToken"] = json!(token);
        let mut publish = Publish::new(&format!("{}/{operation}", self.prefix), body.to_string());
        if let Some(topic) = &self.response_topic {
            publish = publish.property(prop::RESPONSE_TOPIC, wire::Value::Text(topic.clone()));
        }
        for (name, value) in user {
            publish = publish.property(prop::USER, wire::Value::Pair((*name).to_owned(), (*value).to_owned()));
        }
        let id = self.client.next_id();
        self.client.send(publish.encode(self.client.protocol, 1, id));
        loop {
            let message = self.client.message();
            let heard = message.json();
            if heard["clientToken"] == json!(token) && self.is_answer(&message, &publish.topic) {
                let accepted = heard.get("code").is_none();
                return Answer { accepted, body: heard, ack: self.client.puback(id) };
            }
        }
    }

    fn is_answer(&self, message: &Message, request_topic: &str) -> bool {
        match &self.response_topic {
            Some(topic) => message.topic == *topic,
            None => {
                let outcome = if message.json().get("code").is_none() { "accepted" } else { "rejected" };
                message.topic == format!("{request_topic}/{outcome}")
            }
        }
    }

    /// An update that must be accepted.
    pub fn update(&mut self, body: Value) -> Value {
        self.accepted("update", body)
    }

    /// The document, which must exist.
    pub fn get(&mut self) -> Value {
        self.accepted("get", json!({}))
    }

    /// A request that must be accepted; over MQTT 5 its PUBACK says so too.
    pub fn accepted(&mut self, operation: &str, body: Value) -> Value {
        let answer = self.request(operation, body.clone());
        assert!(answer.accepted, "{operation} {body} was rejected: {answer:?}");
        assert_eq!(answer.ack.code, 0, "{operation} {body}: {answer:?}");
        answer.body
    }

    /// A request that must be rejected with this code and error.
    pub fn rejected(&mut self, operation: &str, body: Value, code: u64, error: &str) -> Answer {
        let answer = self.request(operation, body.clone());
        assert!(!answer.accepted, "{operation} {body} was accepted: {answer:?}");
        assert_eq!((&answer.body["code"], &answer.body["error"]), (&json!(code), &json!(error)), "{operation} {body}");
        answer
    }
}

/// The version in a message.
pub fn version(body: &Value) -> u64 {
    body["version"].as_u64().unwrap_or_else(|| panic!("no version in {body}"))
}

/// The version a `documents` message is of.
pub fn documents_version(message: &Message) -> u64 {
    version(&message.json()["current"])
}
