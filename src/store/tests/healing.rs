//! Tests of a disk that stops and works again: the store is reopened in place, and has everything it reported.

use super::{
    Random, count,
    model::{Model, check_outcomes, random_batch, small_options, whole_journal},
    queued,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
};
use crate::{
    shadow::{Rejection, ShadowKey, Version},
    store::{Outcome, Seq, State, StoreError, StoreOptions},
};

/// Batches before and after the stop, at most.
const BATCHES: usize = 10;

/// A run on a disk that stops and is repaired, with all changes that were reported, in order.
struct Run {
    disk: SimDisk,
    stepped: Stepped,
    random: Random,
    model: Model,
    /// The model with the batch whose outcome is unknown.
    unknown: Option<Model>,
    feed: Vec<(Seq, ShadowKey, Version)>,
    about: String,
}

impl Run {
    fn start(seed: u64, stop: Stop, about: String) -> Option<Self> {
        let disk = SimDisk::new(Vec::new(), stop);
        let stepped = Stepped::open(&disk, small_options()).ok()?;
        let random = Random::new(seed);
        Some(Self { disk, stepped, random, model: Model::default(), unknown: None, feed: Vec::new(), about })
    }

    /// Applies random batches until the store fails, at most [`BATCHES`].
    fn work(&mut self) {
        for batch in 0..BATCHES {
            let queue = random_batch(&mut self.random);
            let mut model = self.model.clone();
            let expected = model.apply(&queue, *self.stepped.now.lock(), &small_options().document);
            let outcomes = self.stepped.apply(queue.clone());
            assert_eq!(outcomes.len(), queue.len(), "{}: each is reported once", self.about);
            if let State::Failed(_) = self.stepped.store.health().state {
                self.failed(&outcomes, model);
                return;
            }
            check_outcomes(&outcomes, &expected, &self.about);
            self.model = model;
            self.follow(&outcomes);
            if batch % 3 == 2 && self.stepped.store.health().backlog_documents > 0 {
                let _ = self.stepped.writer.step();
                if self.disk.has_stopped() {
                    return;
                }
            }
            *self.stepped.now.lock() += 1;
        }
    }

    fn failed(&mut self, outcomes: &[Outcome<u64>], unknown: Model) {
        let reason = outcomes[0].result.as_ref().unwrap_err();
        assert!(outcomes.iter().all(|outcome| outcome.result.as_ref() == Err(reason)), "{}", self.about);
        match reason {
            Rejection::OutcomeUnknown => self.unknown = Some(unknown),
            reason => assert_eq!(*reason, Rejection::Internal, "{}", self.about),
        }
    }

    fn follow(&mut self, outcomes: &[Outcome<u64>]) {
        for outcome in outcomes {
            if let Ok(applied) = &outcome.result
                && let Some(seq) = applied.seq
            {
                self.feed.push((seq, outcome.envelope.key.clone(), applied.after.version));
            }
        }
    }

    /// Checks that a store on a stopped disk refuses commands and reads what is in memory.
    fn check_refuses(&mut self) {
        assert!(self.stepped.heal().is_none(), "{}: nothing to open", self.about);
        let queue = random_batch(&mut self.random);
        for outcome in self.stepped.apply(queue) {
            assert!(matches!(&outcome.result, Err(Rejection::Unavailable(_))), "{}", self.about);
        }
        for (key, document) in &self.model.documents {
            if let Some(cached) = self.stepped.store.cached(key) {
                assert_eq!(&*cached.document, document, "{}: {key}", self.about);
            }
        }
    }

    /// Checks the store after it was reopened. Returns true if the batch with the unknown outcome is in it.
    fn healed(&mut self, outcomes: &[Outcome<u64>]) -> bool {
        assert!(outcomes.iter().all(|outcome| outcome.context.is_none()), "{}", self.about);
        self.follow(outcomes);
        let head = self.stepped.store.head().0;
        let landed = |model: &Model| head == model.changes.len() as u64 && model.holds_keys(&self.stepped);
        let unknown = self.unknown.take().filter(landed);
        let has_landed = unknown.is_some();
        self.model = unknown.unwrap_or_else(|| self.model.clone());
        self.check();
        has_landed
    }

    /// Checks that everything reported is on the disk, also where the result of a sync was forgotten.
    fn check_durable(&mut self) {
        let cut = SimDisk::new(self.disk.durable(), Stop::Never);
        let after = Stepped::open(&cut, small_options()).unwrap_or_else(|error| panic!("{}: {error}", self.about));
        let before = std::mem::replace(&mut self.stepped, after);
        self.check();
        self.stepped = before;
    }

    /// Checks documents, journal and the changes that were reported.
    fn check(&self) {
        self.model.check(&self.stepped, &self.about);
        let journal = whole_journal(&self.stepped).into_iter().map(|entry| (entry.seq, entry.key, entry.version));
        assert_eq!(self.feed, journal.collect::<Vec<_>>(), "{}: each change is reported once, in order", self.about);
    }
}

/// Stops the disk at `stop`, then `again`, repairs it both times, and works on. Returns true if the unknown batch was
/// found on the disk; `None` if the store never failed.
fn check(seed: u64, stop: Stop, content: Repaired, again: Option<u64>) -> Option<bool> {
    let about = format!("seed {seed}, {stop:?}, {content:?}, again {again:?}");
    let mut run = Run::start(seed, stop, about)?;
    run.work();
    if !run.disk.has_stopped() {
        return None;
    }
    run.check_refuses();
    if let Some(syncs) = again {
        run.disk.repair(content, Stop::AtSync(run.disk.operations().0 + syncs));
        if let Some(outcomes) = run.stepped.heal() {
            let landed = run.healed(&outcomes);
            return Some(landed);
        }
        run.check_refuses();
    }
    run.disk.repair(content, Stop::Never);
    let outcomes = run.stepped.heal().unwrap_or_else(|| panic!("{}: {:?}", run.about, run.stepped.store.health()));
    let landed = run.healed(&outcomes);
    run.check_durable();
    run.work();
    run.check();
    run.check_durable();
    Some(landed)
}

fn syncs(seed: u64) -> std::ops::Range<u64> {
    let mut run = Run::start(seed, Stop::Never, "counting".to_owned()).unwrap();
    let opened = run.disk.operations().0;
    run.work();
    opened + 1..run.disk.operations().0
}

const CONTENTS: [Repaired; 4] = [Repaired::Pending, Repaired::Forgotten, Repaired::Lost, Repaired::Torn(5)];

#[test]
fn heals_after_a_failure_at_every_sync() {
    let mut seen = [false; 2];
    for (sync, n) in syncs(1).zip(0..) {
        for stop in [Stop::AtSync(sync), Stop::AfterSync(sync)] {
            for content in [Repaired::Forgotten, CONTENTS[n % CONTENTS.len()]] {
                let landed = check(1, stop, content, None).unwrap();
                seen[usize::from(landed)] = true;
            }
        }
    }
    assert_eq!(seen, [true; 2], "the failed commit was found made and not made");
}

#[test]
fn heals_after_a_failure_at_every_write() {
    let seed = 3;
    let mut run = Run::start(seed, Stop::Never, "counting".to_owned()).unwrap();
    let opened = run.disk.operations().1;
    run.work();
    for (write, n) in (opened + 1..run.disk.operations().1).zip(0..).step_by(3) {
        check(seed, Stop::AtWrite(write), CONTENTS[n % CONTENTS.len()], None).unwrap();
    }
}

#[test]
fn heals_after_failures_while_it_is_reopened() {
    let seed = 4;
    for sync in syncs(seed).step_by(4) {
        for again in 1..6 {
            let content = if again % 2 == 0 { Repaired::Forgotten } else { Repaired::Torn(again) };
            check(seed, Stop::AtSync(sync), content, Some(again)).unwrap();
        }
    }
}

/// After one failed read, redb refuses all others. Nothing opened the file again until a commit failed, which an idle server never
/// makes.
#[test]
fn a_failed_read_opens_the_file_again() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let options = StoreOptions { page_cache_bytes: 0, document_cache_bytes: 0, ..small_options() };
    let mut stepped = Stepped::open(&disk, options).unwrap();
    let key = super::key("d1");
    stepped.apply([queued(&key, count(1), 0)]);
    stepped.idle();
    let others: Vec<_> = (0..200).map(|n| queued(&super::key(&format!("other-{n}")), count(1), 0)).collect();
    stepped.apply(others);
    stepped.idle();
    disk.repair(Repaired::Pending, Stop::AtRead(disk.reads() + 1));
    assert!(matches!(stepped.store.read(&key), Err(StoreError::Io { .. })));
    disk.repair(Repaired::Pending, Stop::Never);
    assert!(matches!(stepped.store.read(&key), Err(StoreError::Reopening)));
    stepped.step();
    assert!(matches!(stepped.store.health().state, State::Failed(_)));
    assert!(stepped.heal().is_some());
    assert_eq!(stepped.store.read(&key).unwrap().document.version, Version(1));
    let outcomes = stepped.apply([queued(&key, count(2), 0)]);
    assert!(outcomes[0].result.is_ok());

    // A command that finds the failure first can be sent again.
    stepped.idle();
    disk.repair(Repaired::Pending, Stop::AtRead(disk.reads() + 1));
    let outcomes = stepped.apply([queued(&super::key("other-7"), count(2), 0)]);
    assert!(matches!(outcomes[0].result, Err(Rejection::Unavailable(_))), "{:?}", outcomes[0].result);
    disk.repair(Repaired::Pending, Stop::Never);
    stepped.step();
    assert!(stepped.heal().is_some());
    assert_eq!(stepped.store.read(&super::key("other-7")).unwrap().document.version, Version(1));
}
