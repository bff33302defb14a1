//! The messages that an outcome makes, in both dialects.

use serde_json::{Map, Value, json};

use super::reference::{
    Outcome, Path, Request, SECTIONS, Shadow, at, is_empty, is_leaf, leaf_towards, plain, sent_leaves,
};

/// The end of a topic and the payload.
pub(crate) type Event = (String, Value);

/// A shadow as one dialect shows it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) shadow: &'a Shadow,
    pub(crate) aws: bool,
}

impl View<'_> {
    fn sections(&self) -> &'static [&'static str] {
        if self.aws { &SECTIONS[..2] } else { &SECTIONS }
    }

    /// The events of an accepted request that was no replay; `after` it the shadow is as it is here.
    pub(crate) fn accepted(&self, request: &Request, changed: bool, rebased_from: Option<u64>) -> Vec<Event> {
        let (version, timestamp) = (self.shadow.version(), self.shadow.now().timestamp);
        if request.delete {
            return vec![event("delete/accepted", json!({"version": version, "timestamp": timestamp}))];
        }
        let mut events = Vec::new();
        if let Some(delta) = self.delta().filter(|_| changed) {
            let metadata = self.mirror(&delta, &mut vec!["desired".to_owned()], version);
            let body = json!({"state": delta, "metadata": metadata, "version": version, "timestamp": timestamp});
            events.push(event("update/delta", body));
        }
        if changed {
            let (previous, current) = (self.side(version - 1), self.side(version));
            let body = json!({"previous": previous, "current": current, "timestamp": timestamp});
            events.push(event("update/documents", body));
        }
        let outcome = Outcome::Replayed { version, changed, rebased_from };
        events.push(event("update/accepted", self.reply(request, &outcome)));
        events
    }

    /// `update/accepted` or `delete/accepted`, with the fields of the new version.
    pub(crate) fn reply(&self, request: &Request, outcome: &Outcome) -> Value {
        let Outcome::Replayed { version, changed, rebased_from } = *outcome else { panic!("{outcome:?}") };
        let timestamp = self.shadow.history[version as usize].timestamp;
        if request.delete {
            return json!({"version": version, "timestamp": timestamp});
        }
        let mut sent = plain(&request.body["state"]);
        if let Some(members) = sent.as_object_mut() {
            members.retain(|name, _| self.sections().contains(&name.as_str()));
        }
        let metadata = if self.aws { self.stamped(&sent, version) } else { self.sent_metadata(&sent, version) };
        let mut body = json!({"state": sent, "metadata": metadata, "version": version, "timestamp": timestamp});
        if !self.aws {
            body["etag"] = json!(self.shadow.etag(version));
            body["changed"] = json!(changed);
            if let Some(rebased_from) = rebased_from {
                body["rebasedFrom"] = json!(rebased_from);
            }
        }
        body
    }

    /// `get/accepted`; in AWS's shape with the time of the reply.
    pub(crate) fn got(&self, now: u64) -> Value {
        let mut body = self.side(self.shadow.version());
        if let Some(delta) = self.delta() {
            body["state"]["delta"] = delta;
        }
        body["timestamp"] = json!(if self.aws { now } else { self.shadow.now().timestamp });
        if !self.aws {
            body["etag"] = json!(self.shadow.etag(self.shadow.version()));
        }
        body
    }

    /// One side of `documents`.
    pub(crate) fn side(&self, version: u64) -> Value {
        let snapshot = &self.shadow.history[version as usize];
        if !snapshot.exists {
            return Value::Null;
        }
        let (mut state, mut metadata) = (Map::new(), Map::new());
        for name in self.sections() {
            let section = &snapshot.state[name];
            if !is_empty(section) {
                state.insert((*name).to_owned(), section.clone());
                metadata.insert((*name).to_owned(), self.mirror(section, &mut vec![(*name).to_owned()], version));
            }
        }
        json!({"state": state, "metadata": metadata, "version": version})
    }

    fn delta(&self) -> Option<Value> {
        let state = &self.shadow.now().state;
        difference(&state["desired"], Some(&state["reported"]))
    }

    /// `value`, which is at `path`, with metadata in the place of its leaves.
    fn mirror(&self, value: &Value, path: &mut Path, version: u64) -> Value {
        match value {
            Value::Object(members) if !is_leaf(value) => {
                let below = members.iter().map(|(key, value)| {
                    path.push(key.clone());
                    let below = self.mirror(value, path, version);
                    path.pop();
                    (key.clone(), below)
                });
                below.collect()
            }
            _ => self.stamp(value, path, version),
        }
    }

    fn stamp(&self, value: &Value, path: &[String], version: u64) -> Value {
        let timestamp = self.shadow.time_of(path, version);
        if self.aws {
            return times(value, timestamp);
        }
        let set = self.shadow.set_at(path, version);
        json!({"timestamp": timestamp, "version": set, "by": self.shadow.history[set as usize].by})
    }

    /// Native: the leaves there are now at what was sent, or above it.
    fn sent_metadata(&self, sent: &Value, version: u64) -> Value {
        let (mut metadata, state) = (json!({}), &self.shadow.history[version as usize].state);
        for (path, _) in sent_leaves(sent) {
            if let Some(path) = leaf_towards(state, &path) {
                let value = at(state, &path).unwrap();
                let place = path.iter().fold(&mut metadata, |place, key| {
                    if place.is_null() {
                        *place = json!({});
                    }
                    place.as_object_mut().unwrap().entry(key).or_insert(Value::Null)
                });
                *place = self.stamp(value, &path, version);
            }
        }
        metadata
    }

    /// AWS: what was sent, with a time in the place of each leaf and of each removal.
    fn stamped(&self, sent: &Value, version: u64) -> Value {
        self.stamped_at(sent, &mut Vec::new(), version)
    }

    fn stamped_at(&self, sent: &Value, path: &mut Path, version: u64) -> Value {
        let snapshot = &self.shadow.history[version as usize];
        match sent {
            Value::Object(members) => {
                let below = members.iter().map(|(key, value)| {
                    path.push(key.clone());
                    let below = self.stamped_at(value, path, version);
                    path.pop();
                    (key.clone(), below)
                });
                below.collect()
            }
            Value::Null => {
                let leaf = leaf_towards(&snapshot.state, path);
                json!({"timestamp": leaf.map_or(snapshot.timestamp, |leaf| self.shadow.time_of(&leaf, version))})
            }
            _ => times(sent, self.shadow.time_of(path, version)),
        }
    }

    /// `rejected`, but for `conflicts`, `clean`, `detail` and what an expectation failed by.
    pub(crate) fn rejected(&self, outcome: &Outcome, name: &str, now: u64) -> Value {
        let (code, error, message) = match outcome {
            Outcome::NotFound => (404, "not-found", format!("No shadow exists with name: '{name}'")),
            Outcome::Conflict { .. } => (409, "version-conflict", "Version conflict".to_owned()),
            Outcome::ExpectationFailed => (409, "expectation-failed", "Version conflict".to_owned()),
            Outcome::KeyReused => {
                (422, "idempotency-key-reused", "Idempotency key was used with another request".to_owned())
            }
            Outcome::Accepted { .. } | Outcome::Replayed { .. } => panic!("{outcome:?}"),
        };
        let mut body = json!({"code": code, "message": message, "timestamp": now});
        if self.aws {
            return body;
        }
        body["error"] = json!(error);
        if code == 409 {
            body["version"] = json!(self.shadow.version());
            if self.shadow.now().exists {
                body["etag"] = json!(self.shadow.etag(self.shadow.version()));
            }
        }
        if let Outcome::Conflict { expected: Some(expected) } = outcome {
            body["expected"] = json!(expected);
        }
        body
    }
}

/// Returns the part of `desired` that `reported` lacks or has with another value. Any object equals an empty one.
fn difference(desired: &Value, reported: Option<&Value>) -> Option<Value> {
    match (desired, reported) {
        (Value::Object(desired), Some(Value::Object(reported))) => {
            let differ = |(key, value): (&String, &Value)| Some((key.clone(), difference(value, reported.get(key))?));
            let found: Map<String, Value> = desired.iter().filter_map(differ).collect();
            (!found.is_empty()).then_some(Value::Object(found))
        }
        _ => (Some(desired) != reported).then(|| desired.clone()),
    }
}

/// The metadata of a leaf in AWS's shape.
fn times(leaf: &Value, timestamp: u64) -> Value {
    match leaf {
        Value::Array(elements) => elements.iter().map(|element| times(element, timestamp)).collect(),
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), times(value, timestamp))).collect(),
        _ => json!({"timestamp": timestamp}),
    }
}

fn event(name: &str, payload: Value) -> Event {
    (name.to_owned(), payload)
}
