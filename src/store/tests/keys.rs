//! Tests of idempotency keys.

use serde_json::json;

use super::{
    key, options, queued, queued_by,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::shadow::{
    Command, Delete, Disposition, IdempotencyKey, Keyed, Rejection, Update, Version,
    command::idempotency::REMEMBERED_SECONDS,
};

fn keyed(text: &str, command: Command) -> Command {
    let key = IdempotencyKey::new(text).unwrap();
    match command {
        Command::Update(update) => Command::Update(Update { keyed: Some(Keyed::update(key, &update)), ..update }),
        Command::Delete(delete) => Command::Delete(Delete { keyed: Some(Keyed::delete(key, &delete)), ..delete }),
        Command::Patch(_) => unreachable!("none is made here"),
    }
}

fn set(n: u64, expected: Option<u64>) -> Command {
    update(&json!({"reported": {"n": n}}), expected)
}

fn stepped() -> Stepped {
    Stepped::open(&SimDisk::new(Vec::new(), Stop::Never), options()).unwrap()
}

/// Returns the outcome of one job in its own batch: the version, and true if it was replayed.
fn ask(store: &mut Stepped, by: &str, command: Command) -> Result<(u64, bool), Rejection> {
    let outcome = store.apply([queued_by(by, &key("dev"), command, 0)]).pop().unwrap();
    outcome.result.map(|applied| match applied.disposition {
        Disposition::Replayed(first) => (first.version.0, true),
        _ => (applied.after.version.0, false),
    })
}

#[test]
fn a_key_is_decided_before_the_preconditions_and_by_principal() {
    let mut store = stepped();
    let reused = Err(Rejection::IdempotencyKeyReused);
    for (by, text, command, expected) in [
        ("a", "k", set(1, Some(0)), Ok((1, false))),
        ("a", "k", set(1, Some(0)), Ok((1, true))),
        ("a", "k", set(2, Some(0)), reused.clone()),
        ("a", "k", set(1, None), reused.clone()),
        ("a", "k", Command::Delete(Delete::default()), reused.clone()),
        ("b", "k", set(2, None), Ok((2, false))),
        // A no-op is stored as well, and its replay has its version.
        ("a", "noop", set(2, None), Ok((2, false))),
        ("a", "other", set(3, None), Ok((3, false))),
        ("a", "noop", set(2, None), Ok((2, true))),
        ("a", "k", set(1, Some(0)), Ok((1, true))),
        ("a", "gone", Command::Delete(Delete::default()), Ok((4, false))),
        ("a", "gone", Command::Delete(Delete::default()), Ok((4, true))),
        ("b", "k", set(2, None), Ok((2, true))),
        ("a", "again", set(2, None), Ok((5, false))),
    ] {
        assert_eq!(ask(&mut store, by, keyed(text, command.clone())), expected, "{by} {text} {command:?}");
    }
    // A rejection is not stored: the same request may be accepted later.
    let stale = || keyed("late", set(9, Some(6)));
    assert!(matches!(ask(&mut store, "a", stale()), Err(Rejection::VersionConflict { .. })));
    ask(&mut store, "a", set(8, None)).unwrap();
    assert_eq!(ask(&mut store, "a", stale()), Ok((7, false)));
}

#[test]
fn a_dry_run_stores_nothing() {
    let mut store = stepped();
    let dry = |command| match keyed("k", command) {
        Command::Update(update) => Command::Update(Update { dry_run: true, ..update }),
        delete => delete,
    };
    let outcomes = store.apply([queued(&key("dev"), dry(set(1, None)), 0), queued(&key("dev"), dry(set(1, None)), 0)]);
    for outcome in outcomes {
        let applied = outcome.result.unwrap();
        assert_eq!((applied.seq, applied.after.version, applied.disposition), (None, Version(1), Disposition::DryRun));
    }
    assert!(!store.store.read(&key("dev")).unwrap().document.exists());
    assert_eq!(store.store.head().0, 0);
    assert_eq!(ask(&mut store, "a", keyed("k", set(1, None))), Ok((1, false)), "the key was not used");
    let outcome = store.apply([queued_by("a", &key("dev"), dry(set(1, None)), 0)]).pop().unwrap();
    assert!(
        matches!(outcome.result.unwrap().disposition, Disposition::Replayed(_)),
        "what would become of it is a replay"
    );
}

#[test]
fn keys_outlive_the_journal_and_a_restart() {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let short = || crate::store::StoreOptions { journal_bytes_max: 1, ..options() };
    let mut store = Stepped::open(&disk, short()).unwrap();
    ask(&mut store, "a", keyed("first", set(1, None))).unwrap();
    for n in 2..40 {
        ask(&mut store, "a", set(n, None)).unwrap();
    }
    ask(&mut store, "a", keyed("noop", set(39, None))).unwrap();
    store.idle();
    assert!(store.store.journal(crate::store::Seq(0), 1).unwrap().gone, "retention has removed the first entry");
    for _ in 0..2 {
        assert_eq!(ask(&mut store, "a", keyed("first", set(1, None))), Ok((1, true)));
        assert_eq!(ask(&mut store, "a", keyed("noop", set(39, None))), Ok((39, true)));
        drop(store);
        store = Stepped::open(&disk, short()).unwrap();
    }
}

#[test]
fn a_key_expires_after_a_day() {
    let mut store = stepped();
    ask(&mut store, "a", keyed("k", set(1, None))).unwrap();
    *store.now.lock() += REMEMBERED_SECONDS;
    assert_eq!(ask(&mut store, "a", keyed("k", set(1, None))), Ok((1, true)));
    *store.now.lock() += 1;
    assert_eq!(ask(&mut store, "a", keyed("k", set(2, None))), Ok((2, false)));
    // A clock that jumps back extends the lifetime.
    *store.now.lock() -= 2 * REMEMBERED_SECONDS;
    assert_eq!(ask(&mut store, "a", keyed("k", set(2, None))), Ok((2, true)));
}
