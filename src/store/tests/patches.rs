//! Tests of JSON Patches in one batch: each applies to the result of the one before.

use serde_json::{Value, json};

use super::{
    delete, key, options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    shadow::{
        Command, Disposition, IdempotencyKey, Keyed, Patch, Preconditions, Rejection, Version,
        command::EtagCondition,
        tests::{json_patch::operations, state},
    },
    store::Seq,
};

fn patch(json: Value) -> Patch {
    Patch { operations: operations(json), ..Patch::default() }
}

fn append(n: u64) -> Patch {
    patch(json!([{"op": "add", "path": "/desired/list/-", "value": n}]))
}

fn list(elements: impl IntoIterator<Item = u64>) -> Value {
    json!({"desired": {"list": elements.into_iter().collect::<Vec<_>>()}})
}

fn stepped(start: &Value) -> Stepped {
    let mut store = Stepped::open(&SimDisk::new(Vec::new(), Stop::Never), options()).unwrap();
    store.apply([queued(&key("dev"), update(start, None), 0)]);
    store
}

#[test]
fn appends_of_one_batch_all_land_in_order() {
    let (mut store, count) = (stepped(&list([])), 100);
    let outcomes = store.apply((1..=count).map(|n| queued(&key("dev"), Command::Patch(append(n)), n)));
    assert_eq!(outcomes.len() as u64, count);
    for (n, outcome) in (1..).zip(outcomes) {
        let applied = outcome.result.unwrap();
        assert_eq!((outcome.context, applied.seq, applied.after.version), (Some(n), Some(Seq(n + 1)), Version(n + 1)));
        assert_eq!(state(&applied.after), list(1..=n));
        assert_eq!(outcome.envelope.command, update(&list(1..=n), None), "the outcome holds the resolved update");
    }
    let stored = store.store.read(&key("dev")).unwrap();
    assert_eq!((state(&stored.document), store.store.head()), (list(1..=count), Seq(count + 1)));
}

#[test]
fn a_failing_patch_does_not_affect_the_next() {
    let mut store = stepped(&list([1]));
    let failing = patch(json!([
        {"op": "add", "path": "/desired/list/-", "value": 2},
        {"op": "test", "path": "/desired/list", "value": [1]},
    ]));
    let outcomes = store.apply([
        queued(&key("dev"), Command::Patch(failing), 0),
        queued(&key("dev"), Command::Patch(append(3)), 0),
        queued(&key("dev"), delete(), 0),
        queued(&key("dev"), Command::Patch(append(4)), 0),
    ]);
    let words: Vec<_> = outcomes.iter().map(|outcome| outcome.result.as_ref().map_err(Rejection::error)).collect();
    let versions: Vec<_> = words.iter().map(|result| result.map(|applied| applied.after.version.0)).collect();
    assert_eq!(versions, [Err("expectation-failed"), Ok(2), Ok(3), Err("expectation-failed")]);
    assert!(outcomes.iter().all(|outcome| outcome.against.is_none()));
}

/// Conflicts are listed for a patch that was resolved, and unknown for one that did not apply.
#[test]
fn a_conflict_has_the_document_it_was_decided_against() {
    let mut store = stepped(&list([1]));
    let old = store.store.read(&key("dev")).unwrap().document.etag;
    let stale = Preconditions { etag: Some(EtagCondition::Tag(old)), ..Preconditions::default() };
    let fits = Patch { preconditions: stale.clone(), ..append(2) };
    let misfit = patch(json!([{"op": "remove", "path": "/desired/none"}]));
    let misfit = Patch { preconditions: stale, ..misfit };
    let outcomes = store.apply([
        queued(&key("dev"), Command::Patch(append(9)), 0),
        queued(&key("dev"), Command::Patch(fits), 0),
        queued(&key("dev"), Command::Patch(misfit), 0),
    ]);
    for (outcome, against) in outcomes.iter().zip([None, Some(2), None]) {
        let version = outcome.against.as_ref().map(|stored| stored.document.version.0);
        assert_eq!(version, against, "{:?}", outcome.envelope.command);
        let conflict = matches!(&outcome.result, Err(Rejection::VersionConflict { version: Version(2), .. }));
        assert_eq!(conflict, outcome.context == Some(0) && outcome.result.is_err());
    }
}

#[test]
fn a_patch_repeated_in_the_same_batch_is_replayed() {
    let mut store = stepped(&list([]));
    let edit = json!([{"op": "test", "path": "/desired/list", "value": []}, {"op": "add", "path": "/desired/list/-", "value": 1}]);
    let keyed = Keyed::edits(IdempotencyKey::new("k").unwrap(), &edit, &Preconditions::default());
    let once = Patch { keyed: Some(keyed.clone()), ..patch(edit) };
    let other = Patch { keyed: Some(Keyed { digest: [0; 16], ..keyed }), ..append(2) };
    let outcomes = store.apply([once.clone(), once, other].map(|patch| queued(&key("dev"), Command::Patch(patch), 0)));
    let [first, again, reused] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(first.result.as_ref().unwrap().disposition, Disposition::Applied);
    let applied = again.result.as_ref().unwrap();
    assert!(matches!(applied.disposition, Disposition::Replayed(first) if first.version == Version(2)), "{applied:?}");
    assert_eq!(reused.result, Err(Rejection::IdempotencyKeyReused));
    assert_eq!(state(&store.store.read(&key("dev")).unwrap().document), list([1]));
}
