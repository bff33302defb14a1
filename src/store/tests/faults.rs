//! Tests of a disk that stops, at every sync and every write, in each possible way. Everything reported must be on it.

use super::{
    Random,
    model::{Model, check_outcomes, random_batch, small_options},
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
};
use crate::{
    shadow::Rejection,
    store::{Outcome, State},
};

const BATCHES: usize = 10;

/// The result of a run whose disk stops.
struct Run {
    disk: SimDisk,
    /// The model of everything reported as decided.
    reported: Model,
    /// The same model plus the batch with the unknown outcome.
    reported_and_unknown: Model,
}

/// Runs the workload of `seed` on a disk that stops. Returns `None` if the store could not be created.
fn run(seed: u64, stop: Stop, about: &str) -> Option<Run> {
    let mut random = Random::new(seed);
    let disk = SimDisk::new(Vec::new(), stop);
    let options = small_options();
    let mut stepped = Stepped::open(&disk, options.clone()).ok()?;
    let mut reported = Model::default();
    let mut reported_and_unknown = Model::default();
    for batch in 0..BATCHES {
        let queue = random_batch(&mut random);
        let now = *stepped.now.lock();
        reported_and_unknown = reported.clone();
        let expected = reported_and_unknown.apply(&queue, now, &options.document);
        let outcomes = stepped.apply(queue.clone());
        assert_eq!(outcomes.len(), queue.len(), "{about}: each is reported once");
        if all_rejected(&outcomes, &Rejection::OutcomeUnknown) {
            break;
        }
        if all_rejected(&outcomes, &Rejection::Internal) {
            reported_and_unknown = reported.clone();
            break;
        }
        check_outcomes(&outcomes, &expected, about);
        reported = reported_and_unknown.clone();
        if batch % 3 == 2 && stepped.store.health().backlog_documents > 0 {
            let _ = stepped.writer.step();
            if matches!(stepped.store.health().state, State::Failed(_)) {
                break;
            }
        }
        *stepped.now.lock() += 1;
    }
    if disk.has_stopped() {
        check_failed(&mut stepped, &reported, &mut random, about);
    }
    Some(Run { disk, reported, reported_and_unknown })
}

fn all_rejected(outcomes: &[Outcome<u64>], rejection: &Rejection) -> bool {
    outcomes.iter().all(|outcome| outcome.result.as_ref() == Err(rejection))
}

/// Checks that a store with a failed commit accepts nothing and keeps its last published state.
fn check_failed(stepped: &mut Stepped, reported: &Model, random: &mut Random, about: &str) {
    assert!(matches!(stepped.store.health().state, State::Failed(_)), "{about}");
    let outcomes = stepped.apply(random_batch(random));
    for outcome in &outcomes {
        assert!(matches!(&outcome.result, Err(Rejection::Unavailable(text)) if text.contains("reopened")), "{about}");
    }
    for (key, document) in &reported.documents {
        if let Some(cached) = stepped.store.cached(key) {
            assert_eq!(&*cached.document, document, "{about}: {key} as it was before the failed commit");
        }
    }
}

/// Opens the image after a power cut, and checks that it holds the result of `run`.
fn check_image(run: &Run, image: Vec<u8>, about: &str) {
    let options = small_options();
    let disk = SimDisk::new(image, Stop::Never);
    let mut stepped = Stepped::open(&disk, options.clone()).unwrap_or_else(|error| panic!("{about}: {error}"));
    let unknown_is_in = stepped.store.head().0 == run.reported_and_unknown.changes.len() as u64
        && run.reported_and_unknown.holds_keys(&stepped);
    let mut model = if unknown_is_in { run.reported_and_unknown.clone() } else { run.reported.clone() };
    model.check(&stepped, about);

    // The store is usable.
    let queue = random_batch(&mut Random::new(7));
    let expected = model.apply(&queue, *stepped.now.lock(), &options.document);
    check_outcomes(&stepped.apply(queue.clone()), &expected, about);
    stepped.idle();
    model.check(&stepped, about);
    drop(stepped);
    let stepped = Stepped::open(&disk, options).unwrap();
    assert_eq!(stepped.store.health().recovered_entries, 0, "{about}: an idle store leaves nothing to apply again");
    model.check(&stepped, about);
}

fn check_stop(seed: u64, stop: Stop) {
    let about = format!("seed {seed}, {stop:?}");
    let Some(run) = run(seed, stop, &about) else { return };
    assert!(run.disk.has_stopped(), "{about}");
    check_image(&run, run.disk.durable(), &format!("{about}, unsynced lost"));
    for torn in 0..2 {
        let image = run.disk.torn(&mut Random::new(seed ^ torn));
        check_image(&run, image, &format!("{about}, unsynced torn {torn}"));
    }
}

/// Returns the syncs and writes of creating a store, and those of the whole workload.
fn operations(seed: u64) -> ((u64, u64), (u64, u64)) {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    drop(Stepped::open(&disk, small_options()).unwrap());
    let made = disk.operations();
    let run = run(seed, Stop::Never, "counting").unwrap();
    (made, run.disk.operations())
}

#[test]
fn accepted_means_on_disk_whichever_sync_is_the_last() {
    for seed in [1, 2] {
        let ((made, _), (all, _)) = operations(seed);
        assert!(all > made + BATCHES as u64, "a commit syncs");
        for sync in made..all {
            check_stop(seed, Stop::AtSync(sync));
            check_stop(seed, Stop::AfterSync(sync));
        }
    }
}

#[test]
fn accepted_means_on_disk_whichever_write_is_the_last() {
    let seed = 3;
    let ((_, made), (_, all)) = operations(seed);
    for write in made..all {
        check_stop(seed, Stop::AtWrite(write));
    }
}

#[test]
fn the_disk_matches_the_model_after_every_commit() {
    for seed in 10..14 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let options = small_options();
        let mut stepped = Stepped::open(&disk, options.clone()).unwrap();
        let mut reported = Model::default();
        for batch in 0..25 {
            let queue = random_batch(&mut random);
            let expected = reported.apply(&queue, *stepped.now.lock(), &options.document);
            check_outcomes(&stepped.apply(queue.clone()), &expected, &format!("seed {seed}, batch {batch}"));
            let run = Run { disk: disk.clone(), reported: reported.clone(), reported_and_unknown: reported.clone() };
            check_image(&run, disk.durable(), &format!("seed {seed}, cut after batch {batch}"));
        }
    }
}
