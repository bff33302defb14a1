//! The operations of all clients at a shadow, checked for linearizability ([`crate::harness::linearizability`]).
//!
//! Updates, with an expected version and without, and consistent reads are linearizable. A plain read shows what its node has applied,
//! which is never older than what that process has sent before; so the operations at one process are linearizable by themselves, while
//! updates at others may take effect there at any time after they were sent. So are the events for subscribers, whenever they were
//! sent.

use std::{collections::BTreeSet, time::Instant};

use serde_json::{Map, Value, json};

use super::{
    fleet::{Fleet, Kind, Observation, Process},
    verdict::Leaf,
    writer::{Outcome, Update},
};
use crate::harness::linearizability::{self, Answer, Ask, EMPTY, Operation, Register};

/// A shadow, and what clients did with it and saw of it.
pub struct Shadow<'a> {
    pub fleet: &'a Fleet,
    pub about: &'a str,
    /// The leaf that each version changed, from version 1 on.
    pub leaves: &'a [Leaf],
    pub updates: &'a [&'a Update],
    pub observations: &'a [&'a Observation],
}

impl Shadow<'_> {
    /// Panics if no order explains what clients saw. Returns the number of consistent reads.
    pub fn check(&self) -> usize {
        self.check_documents();
        let values: Vec<u64> = self.leaves.iter().map(|leaf| identify(&leaf.path, leaf.value)).collect();
        let check = |what: &str, operations: Vec<Operation>| {
            let checked = linearizability::check(&operations, &values);
            assert_eq!(checked, Ok(()), "{}: {what}", self.about);
        };
        let reads: Vec<_> = self.reads(|_, is_consistent| is_consistent).collect();
        let consistent = reads.len();
        check("updates and consistent reads", self.updates_at(None).chain(reads).collect());
        for process in self.processes() {
            let at_process = self.updates_at(Some(process));
            let reads = self.reads(|at, _| at == process);
            let events = self.events(process);
            let name = format!("at the process of {}", process.mqtt);
            check(&name, at_process.chain(reads).chain(events).collect());
        }
        consistent
    }

    fn processes(&self) -> BTreeSet<Process> {
        let observed = self.observations.iter().map(|observation| observation.process);
        self.updates.iter().filter_map(|update| update.process).chain(observed).collect()
    }

    /// Every document that was read has exactly the leaves of its version.
    fn check_documents(&self) {
        let mut documents = vec![Map::new()];
        for Leaf { path, value } in self.leaves {
            let mut next = documents.last().unwrap().clone();
            next.insert(path.trim_start_matches("/desired/").to_owned(), json!(value));
            documents.push(next);
        }
        for observation in self.observations {
            let Kind::Read { desired, .. } = &observation.kind else { continue };
            let document = documents.get(observation.version as usize).cloned();
            let expected = if observation.version == 0 { Some(Value::Null) } else { document.map(Value::Object) };
            assert_eq!(Some(desired), expected.as_ref(), "{}: {observation:?}", self.about);
        }
    }

    /// The updates; with a process, those whose answers it sent, and others as if they had none.
    fn updates_at(&self, process: Option<Process>) -> impl Iterator<Item = Operation> {
        self.updates.iter().filter_map(move |update| {
            let value = identify(&update.path, update.value);
            let is_here = process.is_none() || update.process == process;
            let answer = match update.outcome {
                // Its effect would be one that nobody sent.
                Outcome::Refused(_) => return None,
                Outcome::Conflict(_) if !is_here => return None,
                Outcome::Conflict(version) => Answer::Refused(version),
                Outcome::Accepted(version) if is_here => Answer::Written(version),
                Outcome::Accepted(_) | Outcome::Unknown => Answer::Unknown,
            };
            Some(Operation {
                client: (value >> 32) as usize,
                ask: update.expected.map_or(Ask::Put { value }, |expected| Ask::Swap { expected, value }),
                answer,
                invoked: self.nanos(update.sent),
                responded: self.nanos(update.answered),
            })
        })
    }

    fn reads(&self, is_wanted: impl Fn(Process, bool) -> bool) -> impl Iterator<Item = Operation> {
        self.observations.iter().filter_map(move |observation| match observation.kind {
            Kind::Read { sent, is_consistent, .. } if is_wanted(observation.process, is_consistent) => {
                Some(self.get(observation, self.nanos(sent)))
            }
            _ => None,
        })
    }

    fn events(&self, process: Process) -> impl Iterator<Item = Operation> {
        let is_event = move |observation: &&&Observation| {
            observation.process == process && matches!(observation.kind, Kind::Event)
        };
        self.observations.iter().filter(is_event).map(|observation| self.get(observation, 0))
    }

    fn get(&self, observation: &Observation, invoked: u64) -> Operation {
        let Observation { version, received, process, .. } = observation;
        let leaf = version.checked_sub(1).and_then(|index| self.leaves.get(index as usize));
        let register = leaf.map_or(Register { version: *version, ..EMPTY }, |leaf| Register {
            version: *version,
            value: identify(&leaf.path, leaf.value),
        });
        let (client, responded) = (process.mqtt.port().into(), self.nanos(*received));
        Operation { client, ask: Ask::Get, answer: Answer::Got(register), invoked, responded }
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.duration_since(self.fleet.begun).as_nanos() as u64
    }
}

/// One number for a leaf and a value: the writer, which is in the name of the leaf, and what it counts.
fn identify(path: &str, value: u64) -> u64 {
    let writer: u64 = path.trim_start_matches("/desired/w").parse().expect("a leaf of a writer");
    assert!(value < 1 << 32, "{value} of {path}");
    (writer + 1) << 32 | value
}
