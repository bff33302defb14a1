//! A client that updates shadows, with conditions, with idempotency keys and without, and moves to another node when its own fails.

use std::{
    collections::HashMap,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::fleet::{Fleet, Process, Publication, SHARED_DEVICES};
use crate::harness::{
    DEADLINE, Seed,
    client::{Client, Received},
    cluster::NODES,
    packet::{Message, Packet},
    shadow::version,
    wire::{self, Connect, Properties, Publish, V5, prop},
};

/// An update of a leaf that only one writer writes, with a value that it uses once.
#[derive(Clone, Debug)]
pub struct Update {
    pub device: String,
    pub path: String,
    pub value: u64,
    pub expected: Option<u64>,
    pub sent: Instant,
    pub answered: Instant,
    pub outcome: Outcome,
    /// The process to which it was sent last; `None` if it was sent to none.
    pub process: Option<Process>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted(u64),
    /// The condition was not met: the shadow had this version.
    Conflict(u64),
    Refused(String),
    /// Applied once or not at all.
    Unknown,
}

pub struct Writer<'a> {
    fleet: &'a Fleet,
    number: usize,
    node: usize,
    client: Option<Client>,
    /// The process to which it has connected last.
    process: Option<Process>,
    random: Seed,
    value: u64,
    /// The newest version of each device that it was answered.
    known: HashMap<String, u64>,
    /// How long it waits for an answer.
    patience: Duration,
}

/// The lost connection of a writer.
struct Lost;

impl<'a> Writer<'a> {
    pub fn new(fleet: &'a Fleet, number: usize, seed: u64) -> Self {
        let patience = Duration::from_secs(if number.is_multiple_of(2) { 3 } else { 60 });
        let random = Seed(seed << 8 | number as u64);
        let (node, known) = (number % NODES, HashMap::new());
        Self { fleet, number, node, client: None, process: None, random, value: 0, known, patience }
    }

    pub fn run(mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        while !self.fleet.do_writers_end() {
            match self.random.below(8) {
                0 => self.publish_retained(),
                1 => updates.push(self.update_with_key()),
                kind => {
                    let device = self.fleet.shared_device(self.random.below(SHARED_DEVICES as u64) as usize);
                    let expected = if kind < 5 { self.known.get(&device).copied() } else { None };
                    updates.push(self.update(&device, expected, None));
                }
            }
            sleep(Duration::from_millis(5 + self.random.below(30)));
        }
        updates
    }

    /// The last update of each device.
    pub fn close<'d>(mut self, devices: impl IntoIterator<Item = &'d str>) -> Vec<Update> {
        self.patience = *DEADLINE;
        let updates: Vec<_> = devices.into_iter().map(|device| self.update(device, None, None)).collect();
        for update in &updates {
            assert!(matches!(update.outcome, Outcome::Accepted(_)), "{update:?}");
        }
        updates
    }

    /// An update that is sent again until its outcome is known.
    fn update_with_key(&mut self) -> Update {
        let device = self.fleet.own_device(self.number);
        let key = format!("key-{}-{}", self.number, self.value);
        let mut update = self.update(&device, None, Some(&key));
        let (deadline, sent, value) = (Instant::now() + *DEADLINE, update.sent, update.value);
        while !matches!(update.outcome, Outcome::Accepted(_)) && Instant::now() < deadline {
            sleep(Duration::from_millis(50));
            self.value = value;
            update = Update { sent, ..self.update(&device, None, Some(&key)) };
        }
        assert!(matches!(update.outcome, Outcome::Accepted(_)), "{update:?}");
        update
    }

    fn update(&mut self, device: &str, expected: Option<u64>, key: Option<&str>) -> Update {
        let (value, leaf) = (self.value, format!("w{}", self.number));
        self.value += 1;
        let mut body = json!({"state": {"desired": {&leaf: value}}, "clientToken": format!("{leaf}-{value}")});
        let members = body.as_object_mut().unwrap();
        members.extend(expected.map(|version| ("version".to_owned(), json!(version))));
        members.extend(key.map(|key| ("idempotencyKey".to_owned(), json!(key))));
        // A connection is there before the time of the update begins.
        while self.client.is_none() && !self.fleet.is_ending() {
            self.connect();
        }
        let sent = Instant::now();
        let outcome =
            self.exchange(device, &body).map_or(Outcome::Unknown, |answer| self.outcome(device, &answer, sent));
        if outcome == Outcome::Unknown {
            self.leave();
        }
        let path = format!("/desired/{leaf}");
        let (device, process, answered) = (device.to_owned(), self.process, Instant::now());
        Update { device, path, value, expected, sent, answered, outcome, process }
    }

    fn outcome(&mut self, device: &str, answer: &Value, sent: Instant) -> Outcome {
        match (answer["code"].as_u64(), answer["error"].as_str()) {
            (None, _) => {
                self.fleet.accepted(self.number, sent);
                self.known.insert(device.to_owned(), version(answer));
                Outcome::Accepted(version(answer))
            }
            (Some(409), _) => {
                self.known.insert(device.to_owned(), version(answer));
                Outcome::Conflict(version(answer))
            }
            (Some(500), Some("outcome-unknown")) => Outcome::Unknown,
            (Some(503), _) => Outcome::Refused(answer["message"].to_string()),
            _ => panic!("seed {}: {answer}", self.fleet.seed),
        }
    }

    /// Sends an update and waits for its answer.
    fn exchange(&mut self, device: &str, body: &Value) -> Result<Value, Lost> {
        let topic = self.reply_topic();
        let publish = Publish::new(&format!("shadow/{device}/update"), body.to_string())
            .property(prop::RESPONSE_TOPIC, wire::Value::Text(topic));
        let id = self.send(&publish)?;
        let mut answer = None;
        let deadline = Instant::now() + self.patience;
        loop {
            match self.receive(deadline)? {
                Packet::PubAck(ack) if ack.id == id && answer.is_some() => return answer.ok_or(Lost),
                Packet::PubAck(ack) if ack.id == id => panic!("{ack:?} before the answer to {body}"),
                Packet::Publish(message) => answer = self.take(&message, body).or(answer),
                _ => {}
            }
        }
    }

    fn take(&mut self, message: &Message, body: &Value) -> Option<Value> {
        if let Some(client) = &mut self.client {
            let _ = client.try_send(wire::ack(0x40, message.id));
        }
        let answer = message.json();
        (answer["clientToken"] == body["clientToken"]).then_some(answer)
    }

    fn publish_retained(&mut self) {
        let topics = self.fleet.retained_topics();
        let topic = topics[self.random.below(topics.len() as u64) as usize].clone();
        let payload = format!("{}-{}", self.number, self.value);
        self.value += 1;
        let sent = Instant::now();
        let ack = self.acknowledged(&Publish::new(&topic, &payload).retain());
        let publication = Publication {
            topic,
            payload,
            sent,
            acknowledged: ack.as_ref().ok().filter(|code| **code < 0x80).map(|_| Instant::now()),
            is_refused: ack.as_ref().is_ok_and(|code| *code >= 0x80),
        };
        self.fleet.published.lock().unwrap().push(publication);
        if ack.is_err() {
            self.leave();
        }
    }

    fn acknowledged(&mut self, publish: &Publish) -> Result<u8, Lost> {
        let id = self.send(publish)?;
        let deadline = Instant::now() + self.patience;
        loop {
            if let Packet::PubAck(ack) = self.receive(deadline)?
                && ack.id == id
            {
                return Ok(ack.code);
            }
        }
    }

    fn send(&mut self, publish: &Publish) -> Result<u16, Lost> {
        let client = self.client.as_mut().ok_or(Lost)?;
        let id = client.next_id();
        client.try_send(publish.encode(V5, 1, id)).map_err(|_| Lost)?;
        Ok(id)
    }

    fn receive(&mut self, deadline: Instant) -> Result<Packet, Lost> {
        let client = self.client.as_mut().ok_or(Lost)?;
        match client.recv_within(deadline.saturating_duration_since(Instant::now())) {
            Received::Packet(Packet::Disconnect { .. }) | Received::Closed | Received::Late => Err(Lost),
            Received::Packet(packet) => Ok(packet),
        }
    }

    fn reply_topic(&self) -> String {
        format!("reply/{}/{}", self.fleet.seed, self.number)
    }

    /// Connects to the present node, or chooses the next.
    fn connect(&mut self) {
        if self.try_connect().is_err() {
            self.leave();
            sleep(Duration::from_millis(50));
        }
    }

    fn try_connect(&mut self) -> Result<(), Lost> {
        let client_id = format!("writer-{}-{}", self.fleet.seed, self.number);
        let process = self.fleet.process(self.node);
        let mut client = Client::try_to(process.mqtt, V5).map_err(|_| Lost)?;
        client.try_send(Connect::new(V5, &client_id).encode()).map_err(|_| Lost)?;
        let id = client.next_id();
        let subscribe = wire::subscribe(V5, id, &[(&self.reply_topic(), 1)], &Properties::none());
        client.try_send(subscribe).map_err(|_| Lost)?;
        (self.client, self.process) = (Some(client), Some(process));
        let deadline = Instant::now() + self.patience.min(Duration::from_secs(5));
        loop {
            match self.receive(deadline)? {
                Packet::ConnAck { code, .. } if code >= 0x80 => return Err(Lost),
                Packet::SubAck { .. } => return Ok(()),
                _ => {}
            }
        }
    }

    /// Leaves the node for another.
    fn leave(&mut self) {
        self.client = None;
        self.node = (self.node + 1) % NODES;
    }
}
