//! Sends operations to a server one after the other, ends and starts it in between, and compares with the model.
//!
//! MQTT 5 principals have their answers sent to a topic of their own; MQTT 3.1.1 ones subscribe around each request, as
//! SDKs do. One more client, the ear, hears every event of every shadow in both dialects.

use serde_json::{Value, json};

use super::{
    compare::{compare, failed, is_now, remembers},
    conflicts,
    operations::{Operation, Operations, PRINCIPALS, SHADOWS, What, full_name, prefix},
    reference::{Outcome, Request, Shadow},
    shapes::{Event, View},
    trace::{Counts, Trace},
};
use crate::harness::{
    client::Client,
    packet::{Ack, Packet},
    server::{Server, UNLIMITED},
    wire::{self, Publish, V4, V5, prop},
};

pub(crate) struct Driver {
    server: Server,
    operations: Operations,
    shadows: Vec<Shadow>,
    clients: Vec<Client>,
    ear: Client,
    counts: Counts,
    trace: Trace,
}

impl Driver {
    pub(crate) fn new(seed: u64) -> Self {
        let server = Server::with(UNLIMITED);
        let (clients, ear) = connect(&server);
        let shadows = SHADOWS.iter().map(|_| Shadow::new()).collect();
        let trace = Trace::new(seed);
        let (operations, counts) = (Operations::new(seed), Counts::default());
        Self { server, operations, shadows, clients, ear, counts, trace }
    }

    pub(crate) fn run(mut self, steps: u64) {
        for step in 1..=steps {
            self.trace.step = step;
            match self.operations.seed.below(1_000) {
                0..4 => self.stop(),
                4..10 => self.kill(),
                _ => {
                    let operation = self.operations.next(&self.shadows);
                    self.step(&operation);
                }
            }
        }
        self.stop();
        let versions: Vec<u64> = self.shadows.iter().map(Shadow::version).collect();
        println!("{steps} steps to versions {versions:?}: {:?}", self.counts);
    }

    fn stop(&mut self) {
        self.trace.add("SIGTERM".to_owned());
        self.silent();
        self.server.stop();
        self.counts.stops += 1;
        self.restart();
        self.get_all();
    }

    /// Kills the server while an update is under way: it is there whole or not at all, and sent again it is done once.
    fn kill(&mut self) {
        self.silent();
        let operation = self.operations.unanswered(&self.shadows);
        self.trace.add(format!("SIGKILL after {operation}"));
        let What::Change(request) = &operation.what else { panic!("no update") };
        self.send(&operation, 1);
        let promised = self.operations.chance(40);
        if promised {
            self.clients[operation.principal].puback(1);
        } else {
            // A while that is no time: as long as some pings of another client take.
            (0..self.operations.seed.below(100)).for_each(|_| self.ear.ping());
        }
        self.server.kill();
        self.counts.kills += 1;
        self.restart();
        let before = self.shadows[operation.shadow].version();
        let mut updated = self.shadows[operation.shadow].clone();
        updated.apply(request, 0);
        let (code, body) = self.get(operation.shadow);
        let found = code.is_none() && body["version"] == json!(updated.version());
        assert!(found || !promised || updated.version() == before, "{operation} was promised, and now there is {body}");
        if found && updated.version() != before {
            updated.history.last_mut().unwrap().timestamp = body["timestamp"].as_u64().unwrap();
            self.shadows[operation.shadow] = updated;
            self.counts.survived += 1;
        }
        self.get_all();
        self.step(&operation);
    }

    fn restart(&mut self) {
        self.server.restart();
        (self.clients, self.ear) = connect(&self.server);
    }

    /// Every shadow is as the model has it.
    fn get_all(&mut self) {
        for shadow in 0..SHADOWS.len() {
            for aws in [false, true] {
                self.step(&Operation::new(shadow, 0, aws, "get", json!({}), None, What::Get));
            }
        }
    }

    /// The code of the refusal, if it is one, and the body.
    fn get(&mut self, shadow: usize) -> (Option<u64>, Value) {
        let operation = Operation::new(shadow, 0, false, "get", json!({}), None, What::Get);
        let body = self.ask(&operation).0;
        let outcome = if body.get("code").is_some() { "rejected" } else { "accepted" };
        for aws in [false, true] {
            assert_eq!(self.ear.message().topic, format!("{}/get/{outcome}", prefix(shadow, aws)));
        }
        (body["code"].as_u64(), body)
    }

    /// The ear has heard nothing that nobody asked about.
    fn silent(&mut self) {
        self.ear.send(wire::PINGREQ);
        let next = self.ear.recv();
        assert_eq!(next, Packet::PingResp, "an event too many");
    }

    /// Sends an operation and compares all it causes.
    fn step(&mut self, operation: &Operation) {
        self.trace.add(operation.to_string());
        let (reply, ack) = self.ask(operation);
        let now = reply["timestamp"].as_u64().unwrap_or_else(|| panic!("no timestamp in {reply}"));
        let (public, expected) = match &operation.what {
            What::Get => self.expect_get(operation, now),
            What::Invalid(code, error, message) => {
                self.counts.invalid += 1;
                let mut native = json!({"code": code, "error": error, "message": message, "timestamp": now});
                if message.is_empty() {
                    native["message"] = reply["message"].clone();
                }
                let mut aws = native.clone();
                aws.as_object_mut().unwrap().remove("error");
                (true, [native, aws].map(|body| vec![("update/rejected".to_owned(), body)]))
            }
            What::Change(request) => {
                let made = self.shadows[operation.shadow].version();
                let expected = self.expect_change(operation, request, now, &reply);
                let is_new = self.shadows[operation.shadow].version() != made || reply.get("code").is_some();
                assert!(!is_new || is_now(now), "the time of {reply}");
                expected
            }
        };
        let [native, aws]: [Vec<Event>; 2] =
            expected.map(|events| events.into_iter().map(|event| with_token(event, operation)).collect());
        self.compare_reply(operation, &reply, &ack, if operation.aws { &aws } else { &native });
        if public {
            self.compare_heard(operation, &native, &aws);
        }
    }

    fn expect_get(&mut self, operation: &Operation, now: u64) -> (bool, [Vec<Event>; 2]) {
        self.counts.gets += 1;
        let views = self.views(operation.shadow);
        let exists = self.shadows[operation.shadow].now().exists;
        let name = full_name(operation.shadow);
        (
            true,
            views.map(|view| match exists {
                true => vec![("get/accepted".to_owned(), view.got(now))],
                false => vec![("get/rejected".to_owned(), view.rejected(&Outcome::NotFound, &name, now))],
            }),
        )
    }

    fn views(&self, shadow: usize) -> [View<'_>; 2] {
        [false, true].map(|aws| View { shadow: &self.shadows[shadow], aws })
    }

    /// True if all subscribers receive the messages, and the messages, native and AWS.
    fn expect_change(
        &mut self,
        operation: &Operation,
        request: &Request,
        now: u64,
        reply: &Value,
    ) -> (bool, [Vec<Event>; 2]) {
        let before = self.shadows[operation.shadow].clone();
        let outcome = self.shadows[operation.shadow].apply(request, now);
        let dry = request.body["dryRun"] == json!(true);
        self.counts.add(&outcome, dry);
        let mut expected = self.views(operation.shadow).map(|view| match &outcome {
            Outcome::Accepted { changed, rebased_from } => view.accepted(request, *changed, *rebased_from),
            Outcome::Replayed { .. } => vec![(format!("{}/accepted", operation.verb), view.reply(request, &outcome))],
            refused => {
                let body = view.rejected(refused, &full_name(operation.shadow), now);
                vec![(format!("{}/rejected", operation.verb), body)]
            }
        });
        match &outcome {
            Outcome::Replayed { .. } => {
                if !request.delete {
                    let first = &expected[usize::from(operation.aws)].last().unwrap().1["metadata"];
                    assert!(remembers(first, &reply["metadata"]), "{operation} returned first {first} and now {reply}");
                    expected.iter_mut().for_each(|events| events[0].1["metadata"] = reply["metadata"].clone());
                }
                expected[0][0].1["replayed"] = json!(true);
            }
            Outcome::Conflict { expected: Some(since) } if !operation.aws => {
                let wrong = conflicts::check(&before, request, *since, reply);
                assert!(wrong.is_ok(), "{operation}: {}: {reply}", wrong.unwrap_err());
            }
            Outcome::ExpectationFailed if !operation.aws => failed(&before, request, reply),
            _ => {}
        }
        if dry {
            if matches!(outcome, Outcome::Accepted { .. } | Outcome::Replayed { .. }) {
                let document = self.views(operation.shadow)[0].side(self.shadows[operation.shadow].version());
                expected[0].drain(..expected[0].len() - 1);
                expected[0][0].1["dryRun"] = json!(true);
                expected[0][0].1["document"] = document;
            }
            self.shadows[operation.shadow] = before;
        }
        (!dry && !matches!(outcome, Outcome::Replayed { .. }), expected)
    }

    fn compare_reply(&self, operation: &Operation, reply: &Value, ack: &Ack, expected: &[Event]) {
        let (_, expected) = expected.last().unwrap();
        compare(&format!("the reply to {operation}"), expected, reply);
        let v5 = operation.principal.is_multiple_of(2);
        let right: &[u8] = match (&operation.what, expected.get("code")) {
            (_, None) => &[0],
            _ if operation.aws || !v5 => &[0],
            (What::Invalid(..), _) => &[0x83, 0x99],
            _ => &[0x83],
        };
        assert!(right.contains(&ack.code), "{ack:?} to {operation}, which got {reply}");
    }

    /// The ear hears the events of each dialect, in order.
    fn compare_heard(&mut self, operation: &Operation, native: &[Event], aws: &[Event]) {
        let mut heard = [Vec::new(), Vec::new()];
        for _ in 0..native.len() + aws.len() {
            let message = self.ear.message();
            let dialect = usize::from(message.topic.starts_with("$aws/"));
            let prefix = prefix(operation.shadow, dialect == 1) + "/";
            let name = message.topic.strip_prefix(&prefix);
            let name = name.unwrap_or_else(|| panic!("{message:?} after {operation}"));
            heard[dialect].push((name.to_owned(), message.json()));
        }
        for (expected, heard) in [native, aws].into_iter().zip(&heard) {
            let names = |events: &[Event]| events.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(expected), names(heard), "the events of {operation}: {heard:?}");
            for ((name, expected), (_, heard)) in expected.iter().zip(heard) {
                let mut expected = expected.clone();
                // A get on AWS topics is answered with the time of the reply.
                if heard["timestamp"].as_u64().is_some_and(is_now)
                    && name == "get/accepted"
                    && heard.get("etag").is_none()
                {
                    expected["timestamp"] = heard["timestamp"].clone();
                }
                compare(&format!("{name} of {operation}"), &expected, heard);
            }
        }
    }

    /// Sends an operation and waits for its reply and its PUBACK.
    fn ask(&mut self, operation: &Operation) -> (Value, Ack) {
        let base = format!("{}/{}", prefix(operation.shadow, operation.aws), operation.verb);
        let topics = ["accepted", "rejected"].map(|end| format!("{base}/{end}"));
        let client = &mut self.clients[operation.principal];
        let v4 = client.protocol == V4;
        if v4 {
            client.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), 1)));
        }
        let id = client.next_id();
        self.send(operation, id);
        let client = &mut self.clients[operation.principal];
        let message = client.message();
        let ack = client.puback(id);
        let reply = message.json();
        if v4 {
            assert_eq!(message.topic, topics[usize::from(reply.get("code").is_some())], "{message:?}");
            client.unsubscribe(&topics.each_ref().map(String::as_str));
        }
        (reply, ack)
    }

    fn send(&mut self, operation: &Operation, id: u16) {
        let topic = format!("{}/{}", prefix(operation.shadow, operation.aws), operation.verb);
        let client = &mut self.clients[operation.principal];
        let mut publish = Publish::new(&topic, &operation.payload);
        if client.protocol == V5 {
            publish = publish.property(prop::RESPONSE_TOPIC, wire::Value::Text(reply_topic(operation.principal)));
        }
        for (name, value) in &operation.properties {
            publish = publish.property(prop::USER, wire::Value::Pair(name.clone(), value.clone()));
        }
        client.send(publish.encode(client.protocol, 1, id));
    }
}

fn reply_topic(principal: usize) -> String {
    format!("reply/p{principal}")
}

fn connect(server: &Server) -> (Vec<Client>, Client) {
    let client = |principal: usize| {
        let protocol = if principal.is_multiple_of(2) { V5 } else { V4 };
        let mut client = Client::connect(server, protocol, &format!("p{principal}"));
        if protocol == V5 {
            client.subscribe(&[(&reply_topic(principal), 1)]);
        }
        client
    };
    let mut ear = Client::connect(server, V4, "ear");
    for shadow in 0..SHADOWS.len() {
        for aws in [false, true] {
            let prefix = prefix(shadow, aws);
            let filters = ["update", "get", "delete"].map(|verb| format!("{prefix}/{verb}/+"));
            ear.subscribe(&filters.each_ref().map(|filter| (filter.as_str(), 0)));
        }
    }
    ((0..PRINCIPALS).map(client).collect(), ear)
}

fn with_token((name, mut body): Event, operation: &Operation) -> Event {
    if let Some(token) = &operation.token {
        body["clientToken"] = json!(token);
    }
    (name, body)
}
