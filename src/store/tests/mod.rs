//! Tests of the store as a whole. The tests step the writer by hand where the order of commits matters; elsewhere it
//! runs on its thread.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod ages;
mod batches;
mod cluster_barriers;
mod cluster_faults;
mod cluster_histories;
mod cluster_node;
mod cluster_purges;
mod cluster_requests;
mod cluster_sessions;
mod clusters;
mod copies;
mod counts;
mod damage;
mod dictionaries;
mod fault_counts;
mod faults;
mod files;
mod flushes;
mod healing;
mod index_faults;
mod index_reads;
mod indexes;
mod keys;
mod lineages;
mod log_schedules;
mod memory_log;
mod model;
mod names;
mod patches;
mod purging;
mod readable;
mod reading;
mod replica_rules;
mod replicas;
mod rows;
mod scans;
pub(crate) mod seeds;
mod sim_disk;
mod starts;
mod stepped;
mod threads;

pub(crate) use self::sim_disk::{Operation, Repaired, SimDisk, Stop};

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
};

use serde_json::{Value, json};

use crate::{
    observability::request_id::RequestId,
    shadow::{
        Command, Delete, Document, Preconditions, SectionPatch, ShadowKey, ShadowName, Update, Version, name::DeviceId,
        selection::Selection, tests::sender,
    },
    store::{
        CommitReport, DeviceSpan, Envelope, Moment, Outcome, PartDecoder, QueuedCommand, Store, StoreError,
        StoreOptions,
    },
};

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn key(name: &str) -> ShadowKey {
    ShadowKey::classic(device(name))
}

fn named(of: &str, name: &str) -> ShadowKey {
    ShadowKey::named(device(of), ShadowName::new(name).unwrap())
}

/// Returns an update of the sections in `state`, with an optional expected version.
fn update(state: &Value, expected: Option<u64>) -> Command {
    let patch = |section: &str| match state.get(section) {
        None => SectionPatch::Keep,
        Some(Value::Object(members)) => SectionPatch::Merge(members.clone()),
        Some(_) => SectionPatch::Clear,
    };
    Command::Update(Update {
        desired: patch("desired"),
        reported: patch("reported"),
        tags: patch("tags"),
        preconditions: Preconditions { version: expected.map(Version), ..Preconditions::default() },
        ..Update::default()
    })
}

fn delete() -> Command {
    Command::Delete(Delete::default())
}

/// Returns an update that sets the reported counter to `n`.
fn count(n: u64) -> Command {
    update(&json!({"reported": {"n": n}}), None)
}

fn queued<C>(key: &ShadowKey, command: Command, context: C) -> QueuedCommand<C> {
    queued_by("app-1", key, command, context)
}

fn queued_by<C>(author: &str, key: &ShadowKey, command: Command, context: C) -> QueuedCommand<C> {
    let (author, id) = (sender(author), RequestId::next());
    QueuedCommand { envelope: Envelope::new(key.clone(), command, author, id, "client-1".into()), context }
}

/// Returns the documents of `keys` by a scan of all shadows; `None` for those that do not exist or are damaged.
fn scanned_documents<C: Send>(store: &Store<C>, keys: &[ShadowKey]) -> Vec<Option<Arc<Document>>> {
    let everything = Selection::everything();
    let (mut found, mut after, mut decoder) = (HashMap::new(), None, PartDecoder::default());
    loop {
        let page = store.scan(&[DeviceSpan::All], after.as_ref(), 100).unwrap();
        for index in 0..page.len() {
            let document = page.document(index, &everything, &mut decoder);
            found.insert(page.key(index).unwrap().clone(), document);
        }
        after = page.next().cloned();
        if after.is_none() {
            return keys.iter().map(|key| found.get(key).cloned().flatten()).collect();
        }
    }
}

/// Returns options for a small store without a file.
fn options() -> StoreOptions {
    StoreOptions {
        page_cache_bytes: 1 << 20,
        document_cache_bytes: 1 << 20,
        dictionary_documents_min: 8,
        free_disk_min: 0,
        ..StoreOptions::new("store.redb")
    }
}

/// A store with a writer thread, and the outcomes it reports.
struct Running {
    store: Store<u64>,
    reported: mpsc::Receiver<Vec<Outcome<u64>>>,
}

impl Running {
    fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let (sender, reported) = mpsc::channel();
        let report = move |report: CommitReport<u64>| drop(sender.send(report.outcomes));
        Ok(Self { store: crate::store::open(options, Moment::default, report)?, reported })
    }

    fn send(&self, queued: QueuedCommand<u64>) {
        self.store.try_reserve(100).expect("the queue has room").send(queued).unwrap();
    }

    /// Sends `queue` and waits for as many outcomes.
    fn apply(&self, queue: impl IntoIterator<Item = QueuedCommand<u64>>) -> Vec<Outcome<u64>> {
        let expected = queue.into_iter().map(|queued| self.send(queued)).count();
        let mut outcomes = Vec::new();
        while outcomes.len() < expected {
            outcomes.extend(
                self.reported.recv_timeout(std::time::Duration::from_secs(60)).expect("every job has an outcome"),
            );
        }
        outcomes
    }
}

/// Returns the number in an environment variable.
fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The xorshift64* generator: sufficient for tests and equal on all machines.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}
