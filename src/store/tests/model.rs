//! A naive model of a store: every document in a map, every accepted change in a list.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{Random, delete, key, named, queued_by, stepped::Stepped, update};
use crate::{
    shadow::{
        self, Command, Decision, Delete, Disposition, Document, DocumentLimits, IdempotencyKey, Keyed, Rejection,
        ShadowKey, Stamp, Timestamp, Update, Version,
    },
    store::{Applied, JournalEntry, Outcome, QueuedCommand, Seq, ShadowCounts, StoreOptions},
};

/// The documents by key, without absent ones.
pub(super) type Documents = BTreeMap<ShadowKey, Document>;

#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) documents: Documents,
    /// The key and version of every accepted change.
    pub(super) changes: Vec<(ShadowKey, Version)>,
    /// The accepted commands with an idempotency key, by shadow, principal and key.
    pub(super) keys: BTreeMap<(ShadowKey, String, String), Command>,
}

/// The expected outcome of a job: the document, and true if it was replayed.
pub(super) type Reported = Result<(Document, bool), Rejection>;

impl Model {
    /// Decides `queue` and returns the expected outcomes.
    pub(super) fn apply(&mut self, queue: &[QueuedCommand<u64>], now: u64, limits: &DocumentLimits) -> Vec<Reported> {
        queue.iter().map(|queued| self.decide(queued, now, limits)).collect()
    }

    fn decide(&mut self, queued: &QueuedCommand<u64>, now: u64, limits: &DocumentLimits) -> Reported {
        let current = self.documents.get(&queued.envelope.key).cloned().unwrap_or_else(Document::absent);
        let place = queued.envelope.command.keyed().map(|keyed| {
            let key = keyed.key.as_str().to_owned();
            (queued.envelope.key.clone(), queued.envelope.author.by.to_string(), key)
        });
        if let Some(first) = place.as_ref().and_then(|place| self.keys.get(place)) {
            return if *first == queued.envelope.command {
                Ok((current, true))
            } else {
                Err(Rejection::IdempotencyKeyReused)
            };
        }
        let document = self.decide_anew(queued, current, now, limits)?;
        self.keys.extend(place.map(|place| (place, queued.envelope.command.clone())));
        Ok((document, false))
    }

    fn decide_anew(
        &mut self,
        queued: &QueuedCommand<u64>,
        current: Document,
        now: u64,
        limits: &DocumentLimits,
    ) -> Result<Document, Rejection> {
        match shadow::decide(&current, &queued.envelope.command, &queued.envelope.author, Timestamp(now), limits)? {
            Decision::Unchanged => Ok(current),
            Decision::Changed { document, .. } => {
                self.documents.insert(queued.envelope.key.clone(), document.clone());
                self.changes.push((queued.envelope.key.clone(), document.version));
                Ok(document)
            }
        }
    }

    /// Panics unless `store` equals the model in documents, journal, histories and list.
    pub(super) fn check(&self, stepped: &Stepped, about: &str) {
        let store = &stepped.store;
        for (key, expected) in &self.documents {
            assert_eq!(&*store.read(key).unwrap().document, expected, "{about}: {key}");
        }
        assert!(self.holds_keys(stepped), "{about}: the remembered keys");
        let listed: Vec<_> =
            store.list(None, 1000).unwrap().into_iter().map(|listed| (listed.key, listed.deleted)).collect();
        let expected: Vec<_> = self.documents.iter().map(|(key, document)| (key.clone(), document.deleted)).collect();
        assert_eq!(listed, expected, "{about}: the list");
        let deleted = expected.iter().filter(|(_, deleted)| *deleted).count() as u64;
        let counts = ShadowCounts { live: expected.len() as u64 - deleted, deleted };
        assert_eq!(store.health().shadows, Some(counts), "{about}: the numbers");
        self.check_journal(&whole_journal(stepped), about);
    }

    /// Returns true if `store` has exactly these idempotency keys.
    pub(super) fn holds_keys(&self, stepped: &Stepped) -> bool {
        let known = self.documents.keys().flat_map(|key| {
            let remembered = stepped.store.read(key).unwrap().remembered;
            let places = remembered.keys().iter().map(|known| {
                assert_eq!(known.first.etag.version, known.first.version);
                (key.clone(), known.by.to_string(), known.key.as_str().to_owned())
            });
            places.collect::<Vec<_>>()
        });
        let mut known: Vec<_> = known.collect();
        known.sort();
        known.iter().eq(self.keys.keys())
    }

    /// Checks that the journal has the accepted changes in order, and that they lead to the documents.
    fn check_journal(&self, entries: &[JournalEntry], about: &str) {
        let changes: Vec<_> = entries.iter().map(|entry| (entry.key.clone(), entry.version)).collect();
        assert_eq!(changes, self.changes, "{about}: the journal");
        let mut replayed = Documents::new();
        for (entry, seq) in entries.iter().zip(1..) {
            assert_eq!(entry.seq, Seq(seq), "{about}");
            let stamp = Stamp { version: entry.version, timestamp: entry.timestamp, by: entry.principal.clone() };
            let former = replayed.remove(&entry.key).unwrap_or_else(Document::absent);
            assert_eq!(entry.version.0, former.version.0 + 1, "{about}: versions of {} have no gap", entry.key);
            let max = DocumentLimits::default().path_tombstones_max;
            let document = former.apply(&entry.changes, &stamp.into(), entry.deleted, max);
            assert_eq!(document.etag, entry.etag, "{about}");
            replayed.insert(entry.key.clone(), document);
        }
        assert_eq!(replayed, self.documents, "{about}: the journal makes the documents");
    }
}

/// Returns every entry, page by page.
pub(super) fn whole_journal(stepped: &Stepped) -> Vec<JournalEntry> {
    let mut entries: Vec<JournalEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(Seq(0), |entry| entry.seq);
        let page = stepped.store.journal(after, 7).unwrap();
        assert!(!page.gone);
        if page.entries.is_empty() {
            assert_eq!(after, stepped.store.head());
            return entries;
        }
        entries.extend(page.entries);
    }
}

/// Returns a batch of random commands for a dozen shadows.
pub(super) fn random_batch(random: &mut Random) -> Vec<QueuedCommand<u64>> {
    (0..=random.below(5)).map(|number| random_job(random, number)).collect()
}

fn random_job(random: &mut Random, context: u64) -> QueuedCommand<u64> {
    let device = format!("dev-{}", random.below(8));
    let key = match random.below(3) {
        0 => named(&device, "config"),
        _ => key(&device),
    };
    let command = random_command(random);
    queued_by(["app-1", "dev", "monitor"][random.below(3) as usize], &key, command, context)
}

/// Returns a random command. Every third has a key, and each key belongs to one request, with some exceptions.
pub(super) fn random_command(random: &mut Random) -> Command {
    if !random.chance(3) {
        return if random.chance(9) { delete() } else { random_update(random) };
    }
    let number = random.below(4);
    let asked = if random.chance(8) { random.below(4) } else { number };
    let key = IdempotencyKey::new(&format!("key-{number}")).unwrap();
    let mut fixed = Random::new(asked + 1);
    match if asked == 0 { delete() } else { random_update(&mut fixed) } {
        Command::Update(update) => Command::Update(Update { keyed: Some(Keyed::update(key, &update)), ..update }),
        Command::Delete(delete) => Command::Delete(Delete { keyed: Some(Keyed::delete(key, &delete)), ..delete }),
        Command::Patch(_) => unreachable!("none is made here"),
    }
}

fn random_update(random: &mut Random) -> Command {
    let mut state = json!({});
    for section in ["desired", "reported", "tags"] {
        if random.chance(2) {
            state[section] = if random.chance(12) { Value::Null } else { random_object(random, 2) };
        }
    }
    let expected = random.chance(3).then(|| random.below(6));
    let mut command = update(&state, expected);
    if let Command::Update(update) = &mut command {
        update.bumps = random.chance(4);
    }
    command
}

fn random_object(random: &mut Random, depth: u64) -> Value {
    let mut object = json!({});
    for _ in 0..random.below(4) {
        let name = ["a", "b", "é/~", "nested", "z"][random.below(5) as usize];
        object[name] = match random.below(8) {
            0 => Value::Null,
            1 | 2 if depth > 0 => random_object(random, depth - 1),
            3 => json!([1, 2.5, {"in": "array"}, random.below(3)]),
            4 => json!(random.below(1000) as f64 / 7.0),
            5 => json!("text ".repeat(random.below(30) as usize)),
            _ => json!(random.below(10)),
        };
    }
    object
}

/// Checks that the outcomes equal those of the model, except for the sequence.
pub(super) fn check_outcomes(outcomes: &[Outcome<u64>], expected: &[Reported], about: &str) {
    let summary =
        |applied: &Applied| ((*applied.after).clone(), matches!(applied.disposition, Disposition::Replayed(_)));
    let outcomes: Vec<_> =
        outcomes.iter().map(|outcome| outcome.result.as_ref().map(summary).map_err(Clone::clone)).collect();
    assert_eq!(outcomes, expected, "{about}");
}

/// Returns limits so small that every periodic action happens within a few batches.
pub(super) fn small_options() -> StoreOptions {
    StoreOptions {
        lag_entries_max: 24,
        flush_documents_min: 1,
        flush_documents_idle: 2,
        flush_idle_after: Duration::ZERO,
        document_cache_bytes: 64 * 2000,
        ..super::options()
    }
}
