//! Random requests, of a kind that collide: three shadows, three principals, three keys at three levels.

use std::fmt;

use serde_json::{Map, Value, json};

use super::reference::{self, Outcome, Request, SECTIONS, Shadow, to_pointer};
use crate::harness::Seed;

/// Device and shadow name.
pub(crate) const SHADOWS: [(&str, Option<&str>); 3] = [("m1", None), ("m1", Some("n$1")), ("m2", None)];

/// Odd ones speak MQTT 3.1.1, even ones MQTT 5.
pub(crate) const PRINCIPALS: usize = 3;

const KEYS: [&str; 3] = ["a", "b", "c~/d"];

/// A request to a shadow, with its sender.
#[derive(Clone)]
pub(crate) struct Operation {
    pub(crate) shadow: usize,
    pub(crate) principal: usize,
    pub(crate) aws: bool,
    pub(crate) verb: &'static str,
    pub(crate) payload: String,
    /// MQTT 5 user properties.
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) token: Option<String>,
    pub(crate) what: What,
}

/// The expectation about an operation.
#[derive(Clone)]
pub(crate) enum What {
    Get,
    Change(Request),
    /// Refused with this code, error and message; an empty message is not compared.
    Invalid(u64, &'static str, &'static str),
}

/// The prefix of the topics of a shadow.
pub(crate) fn prefix(shadow: usize, aws: bool) -> String {
    let (device, name) = SHADOWS[shadow];
    let prefix = if aws { format!("$aws/things/{device}/shadow") } else { format!("shadow/{device}") };
    prefix + &name.map_or(String::new(), |name| format!("/name/{name}"))
}

/// Returns the name of the principal of a client without a certificate.
fn principal_name(principal: usize) -> String {
    format!("anonymous/p{principal}")
}

/// Returns the name of a shadow with that of its device: `device~name`, or `device` for the classic one.
pub(crate) fn full_name(shadow: usize) -> String {
    let (device, name) = SHADOWS[shadow];
    device.to_owned() + &name.map_or(String::new(), |name| format!("~{name}"))
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = prefix(self.shadow, self.aws);
        write!(f, "p{} {prefix}/{} {} {:?}", self.principal, self.verb, self.payload, self.properties)
    }
}

/// Draws requests; keeps those with a key, to send them again.
pub(crate) struct Operations {
    pub(crate) seed: Seed,
    keyed: Vec<Operation>,
    tokens: u64,
}

impl Operations {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed: Seed(seed), keyed: Vec::new(), tokens: 0 }
    }

    /// Returns true in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.seed.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.seed.below(from.len() as u64) as usize]
    }

    /// The next request, knowing what the shadows are.
    pub(crate) fn next(&mut self, shadows: &[Shadow]) -> Operation {
        if !self.keyed.is_empty() && self.chance(10) {
            return self.again();
        }
        let (shadow, principal) = (self.seed.below(3) as usize, self.seed.below(3) as usize);
        let aws = self.chance(35);
        let token = self.chance(70).then(|| self.token());
        match self.seed.below(100) {
            0..8 => Operation::new(shadow, principal, aws, "get", json!({}), token, What::Get),
            8..14 => self.invalid(shadow, principal, aws),
            14..19 => {
                let body = self.conditions(&shadows[shadow], aws, true);
                self.change(shadow, principal, aws, "delete", body, token)
            }
            _ => self.update(shadow, principal, aws, &shadows[shadow], token),
        }
    }

    /// Returns an update whose sender will receive no outcome. It has a key of its own, unless it changes nothing: then
    /// nobody could see whether it is remembered.
    pub(crate) fn unanswered(&mut self, shadows: &[Shadow]) -> Operation {
        let (shadow, principal, aws) = (self.seed.below(3) as usize, self.seed.below(3) as usize, self.chance(35));
        let mut body = self.conditions(&shadows[shadow], aws, false);
        body["state"] = self.state(aws);
        let mut request = Request { delete: false, aws, by: principal_name(principal), body };
        if !matches!(shadows[shadow].clone().apply(&request, 0), Outcome::Accepted { changed: false, .. }) {
            request.body["idempotencyKey"] = json!(self.token());
        }
        let body = request.body.clone();
        Operation::new(shadow, principal, aws, "update", body, None, What::Change(request))
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("t{}", self.tokens)
    }

    fn update(
        &mut self,
        shadow: usize,
        principal: usize,
        aws: bool,
        known: &Shadow,
        token: Option<String>,
    ) -> Operation {
        let mut body = self.conditions(known, aws, false);
        body["state"] = self.state(aws);
        if !aws && self.chance(12) {
            body["replace"] = json!(true);
        }
        if !aws && self.chance(8) {
            body["dryRun"] = json!(true);
        }
        // One principal has more than a shadow remembers.
        let keyed = if (shadow, principal) == (2, 0) { 70 } else { 12 };
        if self.chance(keyed) {
            // Few enough to meet again, by chance with another request.
            body["idempotencyKey"] = json!(format!("k{}", self.seed.below(40)));
        }
        self.change(shadow, principal, aws, "update", body, token)
    }

    fn change(
        &mut self,
        shadow: usize,
        principal: usize,
        aws: bool,
        verb: &'static str,
        mut body: Value,
        token: Option<String>,
    ) -> Operation {
        // An SDK's habit: over AWS topics what a deletion says is not looked at.
        let meant = if aws && verb == "delete" { json!({}) } else { body.clone() };
        let request = Request { delete: verb == "delete", aws, by: principal_name(principal), body: meant };
        let v5 = principal.is_multiple_of(2);
        let properties = if v5 && !(aws && verb == "delete") { self.beside(&mut body, aws) } else { Vec::new() };
        let mut operation = Operation::new(shadow, principal, aws, verb, body, token, What::Change(request));
        operation.properties = properties;
        if operation.payload.contains("idempotencyKey")
            || operation.properties.iter().any(|(name, _)| name == "idempotency-key")
        {
            self.keyed.push(operation.clone());
        }
        operation
    }

    /// Takes some of the fields out of `body` and says them as user properties.
    fn beside(&mut self, body: &mut Value, aws: bool) -> Vec<(String, String)> {
        let mut properties = Vec::new();
        for (field, property) in [
            ("version", "if-version"),
            ("etag", "if-match"),
            ("onConflict", "on-conflict"),
            ("idempotencyKey", "idempotency-key"),
        ] {
            let native_only = aws && field == "etag";
            let Some(value) = body.get(field).filter(|_| !native_only).cloned() else { continue };
            if self.chance(20) {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                properties.push((property.to_owned(), text));
                // Said twice is said once.
                if self.chance(80) {
                    body.as_object_mut().unwrap().remove(field);
                }
            }
        }
        properties
    }

    /// A request that was sent before, as it was or with another token or, sometimes, a little altered.
    fn again(&mut self) -> Operation {
        let reach = if self.chance(50) { 30 } else { 250 };
        let newest = self.keyed.len().saturating_sub(reach);
        let place = newest as u64 + self.seed.below((self.keyed.len() - newest) as u64);
        let mut operation = self.keyed[place as usize].clone();
        if self.chance(20) {
            operation = self.altered(operation);
        }
        let token = self.chance(50).then(|| self.token());
        operation.set_token(token);
        operation
    }

    /// The same but for one section, which is left out, cleared or empty.
    fn altered(&mut self, operation: Operation) -> Operation {
        let Operation { shadow, principal, aws, verb, what, .. } = operation;
        let What::Change(mut request) = what else { panic!("no change has a key") };
        let name = SECTIONS[self.seed.below(2) as usize];
        if let Some(state) = request.body["state"].as_object_mut() {
            match self.seed.below(3) {
                0 => _ = state.remove(name),
                1 => _ = state.insert(name.to_owned(), Value::Null),
                _ => _ = state.insert(name.to_owned(), json!({})),
            }
        }
        let body = request.body.clone();
        Operation::new(shadow, principal, aws, verb, body, None, What::Change(request))
    }

    fn conditions(&mut self, known: &Shadow, aws: bool, delete: bool) -> Value {
        let mut body = json!({});
        if self.chance(if delete { 30 } else { 50 }) {
            body["version"] = json!(self.version(known));
            if !delete && self.chance(60) {
                body["onConflict"] = json!(if self.chance(90) { "rebase" } else { "reject" });
            }
        }
        if !aws && self.chance(8) {
            body["etag"] = match self.seed.below(4) {
                0 => json!(format!("\"{}-{}\"", known.version(), "0".repeat(32))),
                1 => json!("\"*\""),
                2 => json!(known.etag(self.version(known).min(known.version()))),
                _ => json!(known.etag(known.version())),
            };
        }
        if !delete && self.chance(12) {
            let count = 1 + self.seed.below(2);
            body["expect"] = (0..count).map(|_| self.expectation(known)).collect();
        }
        body
    }

    /// Most often one of the newest.
    fn version(&mut self, known: &Shadow) -> u64 {
        let current = known.version();
        match self.seed.below(20) {
            0 => 0,
            1 => current + 1 + self.seed.below(3),
            2 => self.seed.below(current + 1),
            3..7 => current,
            _ => current.saturating_sub(1 + self.seed.below(8)),
        }
    }

    fn expectation(&mut self, known: &Shadow) -> Value {
        let mut path = vec![(*self.pick(&SECTIONS)).to_owned()];
        let depth = self.seed.below(4);
        path.extend((0..depth).map(|_| (*self.pick(&KEYS)).to_owned()));
        let mut expectation = json!({"path": to_pointer(&path)});
        match self.seed.below(5) {
            0 | 1 => expectation["version"] = json!(self.version(known)),
            2 => expectation["absent"] = json!(true),
            // Without nulls, which nothing is equal to.
            3 => expectation["value"] = reference::merged(&self.object(2)),
            _ => {
                let there = reference::at(&known.now().state, &path).cloned();
                expectation["value"] = there.unwrap_or(json!(1));
            }
        }
        expectation
    }

    fn state(&mut self, aws: bool) -> Value {
        if self.chance(3) {
            return Value::Null;
        }
        let mut state = Map::new();
        for name in SECTIONS.into_iter().filter(|name| !aws || *name != "tags") {
            if self.chance(45) {
                let section = if self.chance(5) { Value::Null } else { self.object(3) };
                state.insert(name.to_owned(), section);
            }
        }
        Value::Object(state)
    }

    fn object(&mut self, levels: u64) -> Value {
        let mut members = Map::new();
        for key in KEYS {
            if self.chance(40) {
                members.insert(key.to_owned(), self.value(levels - 1));
            }
        }
        Value::Object(members)
    }

    fn value(&mut self, levels: u64) -> Value {
        if levels > 0 && self.chance(40) {
            return self.object(levels);
        }
        let values = [
            json!(0),
            json!(-0.0),
            json!(1),
            json!(1.0),
            json!(2.5),
            json!(true),
            json!("x"),
            json!([]),
            json!([1, {"a": 1.0}, []]),
            json!({}),
        ];
        if self.chance(25) { Value::Null } else { self.pick(&values).clone() }
    }

    fn invalid(&mut self, shadow: usize, principal: usize, aws: bool) -> Operation {
        let common: [(&str, u64, &str, &str); 9] = [
            ("", 400, "invalid-json", "Invalid JSON"),
            ("{\"state\":{}} x", 400, "invalid-json", "Invalid JSON"),
            ("{\"state\":{\"desired\":{\"a\":1,\"a\":1}}}", 400, "invalid-json", "Invalid JSON"),
            ("{}", 400, "missing-state", "Missing required node: state"),
            ("{\"state\":[]}", 400, "invalid-section", "State node must be an object"),
            ("{\"state\":{\"desired\":1}}", 400, "invalid-section", "Desired node must be an object"),
            ("{\"state\":{\"delta\":{}}}", 400, "invalid-node", "State contains an invalid node: 'delta'"),
            ("{\"state\":{},\"version\":-1}", 400, "invalid-version", "Invalid version"),
            ("{\"state\":{\"desired\":{\"b\":[null]}}}", 400, "invalid-node", "State contains an invalid node: 'b'"),
        ];
        let own = match aws {
            true => ("{\"state\":{\"tags\":{}}}", 400, "invalid-node", "State contains an invalid node: 'tags'"),
            false => ("{\"state\":{},\"vresion\":1}", 400, "invalid-field", ""),
        };
        let (payload, code, error, message) = if self.chance(20) { own } else { *self.pick(&common) };
        let what = What::Invalid(code, error, message);
        let mut operation = Operation::new(shadow, principal, aws, "update", json!({}), None, what);
        operation.payload = payload.to_owned();
        operation
    }
}

impl Operation {
    pub(crate) fn new(
        shadow: usize,
        principal: usize,
        aws: bool,
        verb: &'static str,
        body: Value,
        token: Option<String>,
        what: What,
    ) -> Self {
        let payload = body.to_string();
        let mut operation = Self { shadow, principal, aws, verb, payload, properties: Vec::new(), token: None, what };
        operation.set_token(token);
        operation
    }

    fn set_token(&mut self, token: Option<String>) {
        let mut body: Value = serde_json::from_str(&self.payload).unwrap();
        body.as_object_mut().unwrap().remove("clientToken");
        if let Some(token) = &token {
            body["clientToken"] = json!(token);
        }
        self.payload = body.to_string();
        self.token = token;
    }
}
