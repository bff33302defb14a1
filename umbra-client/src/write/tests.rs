//! Writes to a scripted shadow: the requests sent, their times, and the outcome.

use std::{cell::RefCell, collections::VecDeque};

use serde_json::json;

use super::*;
use crate::{DeviceId, Rejection, Version, observer::NoopObserver};

/// The shadow's treatment of one update.
#[derive(Debug, Clone, Copy)]
enum Does {
    Accepts,
    /// Another client writes first.
    Conflicts,
    /// The update is applied, and the reply is lost.
    LosesReply,
    /// The update is lost.
    Loses,
    Refuses(u16, Option<u64>),
}

use Does::{Accepts, Conflicts, Loses, LosesReply, Refuses};

/// A shadow with a counter that honours versions and keys, and treats each update as scripted.
struct Scripted {
    shadow: ShadowId,
    script: RefCell<VecDeque<Does>>,
    document: RefCell<Document>,
    applied_keys: RefCell<Vec<String>>,
    puts: RefCell<Vec<(Update, Instant)>>,
    gets: RefCell<u32>,
}

impl Scripted {
    fn new(script: &[Does]) -> Self {
        let document = Document { version: Version(5), ..Document::default() };
        Self {
            shadow: DeviceId::new("device").expect("a device id").into(),
            script: RefCell::new(script.iter().copied().collect()),
            document: RefCell::new(document),
            applied_keys: RefCell::default(),
            puts: RefCell::default(),
            gets: RefCell::default(),
        }
    }

    fn count(&self) -> u64 {
        count(&self.document.borrow())
    }

    fn apply(&self, update: &Update) -> Result<Accepted, Error> {
        let mut document = self.document.borrow_mut();
        let version = document.version;
        if update.idempotency_key.as_ref().is_some_and(|key| self.applied_keys.borrow().contains(key)) {
            return Ok(Accepted { version, replayed: true, ..Accepted::default() });
        }
        if update.version.is_some_and(|expected| expected != version) {
            return Err(rejected(409, Some(version), None));
        }
        self.applied_keys.borrow_mut().extend(update.idempotency_key.clone());
        let Value::Object(state) = update.state.clone() else { return Err(rejected(400, None, None)) };
        *document = Document { state, version: Version(version.0 + 1), ..Document::default() };
        Ok(Accepted { version: document.version, changed: true, ..Accepted::default() })
    }
}

impl Exchange for Scripted {
    fn shadow(&self) -> &ShadowId {
        &self.shadow
    }

    fn observer(&self) -> &dyn Observer {
        &NoopObserver
    }

    async fn get(&self) -> Result<Document, Error> {
        *self.gets.borrow_mut() += 1;
        Ok(self.document.borrow().clone())
    }

    async fn put(&self, update: &Update) -> Result<Accepted, Error> {
        self.puts.borrow_mut().push((update.clone(), Instant::now()));
        match self.script.borrow_mut().pop_front().unwrap_or(Accepts) {
            Accepts => self.apply(update),
            Conflicts => {
                let others = Update { state: increment(&self.document.borrow()), ..update.clone() };
                self.apply(&Update { idempotency_key: None, ..others })?;
                self.apply(update)
            }
            LosesReply => self.apply(update).and(Err(Error::Unanswered)),
            Loses => Err(Error::Unanswered),
            Refuses(code, wait) => Err(rejected(code, None, wait)),
        }
    }
}

fn rejected(code: u16, version: Option<Version>, retry_after_ms: Option<u64>) -> Error {
    let body = json!({"code": code, "version": version, "retryAfterMs": retry_after_ms});
    Error::Rejected(Box::new(serde_json::from_value::<Rejection>(body).expect("a rejection")))
}

fn count(document: &Document) -> u64 {
    document.pointer("/reported/count").and_then(Value::as_u64).unwrap_or(0)
}

fn increment(document: &Document) -> Value {
    json!({"reported": {"count": count(document) + 1}})
}

/// Returns the shadow after one increment, and its outcome.
async fn counted(script: &[Does], options: WriteOptions) -> (Scripted, Result<Option<Accepted>, Error>) {
    let shadow = Scripted::new(script);
    let outcome = write(&shadow, &options, |document| Some(increment(document))).await;
    (shadow, outcome)
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_retried() {
    for (label, script, keyed, count, puts, gets) in [
        ("at once", vec![Accepts], true, 1, 1, 1),
        ("two conflicts", vec![Conflicts, Conflicts], true, 3, 3, 3),
        ("the update lost", vec![Loses], true, 1, 2, 1),
        ("the reply lost", vec![LosesReply], true, 1, 2, 1),
        ("the reply lost, then a retry lost", vec![LosesReply, Loses, Refuses(503, None)], true, 1, 4, 1),
        ("the reply lost, without a key: read again", vec![LosesReply], false, 2, 2, 2),
        ("a quota", vec![Refuses(429, Some(50)), Refuses(429, Some(50))], true, 1, 3, 1),
        ("the service failed", vec![Refuses(500, None)], true, 1, 2, 1),
        ("lost, and a conflict meanwhile", vec![Loses, Conflicts], true, 2, 3, 2),
    ] {
        let (shadow, outcome) = counted(&script, WriteOptions::default().keyed(keyed)).await;
        assert!(matches!(outcome, Ok(Some(_))), "{label}: {outcome:?}");
        assert_eq!(shadow.count(), count, "{label}: the count");
        assert_eq!((shadow.puts.borrow().len(), *shadow.gets.borrow()), (puts, gets), "{label}: puts and gets");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_repeat_the_request_and_new_decisions_are_new_requests() {
    let (shadow, _) =
        counted(&[Loses, Refuses(429, Some(10)), Conflicts], WriteOptions::default().keyed(true).rebase(true)).await;
    let puts: Vec<_> = shadow.puts.borrow().iter().map(|(update, _)| update.clone()).collect();
    let [first, second, third, fourth] = puts.as_slice() else { unreachable!("four puts: {puts:?}") };
    assert_eq!(first, second, "repeated without a reply");
    assert_eq!(second, third, "repeated after a wait");
    assert_ne!(third.idempotency_key, fourth.idempotency_key);
    assert_ne!(third.version, fourth.version);
    assert!(puts.iter().all(|update| update.rebase && update.idempotency_key.is_some()));
}

#[tokio::test(start_paused = true)]
async fn tries_are_bounded_and_final_failures_are_not_retried() {
    let three = Backoff { tries_max: 3, ..Backoff::REQUESTS };
    let (shadow, outcome) = counted(&[Conflicts; 9], WriteOptions::default().backoff(three)).await;
    assert!(matches!(outcome, Err(Error::GaveUp { tries: 3, .. })), "{outcome:?}");
    assert_eq!(shadow.puts.borrow().len(), 3);
    for code in [400, 401, 403, 413, 422] {
        let (shadow, outcome) = counted(&[Refuses(code, None)], WriteOptions::default()).await;
        assert!(matches!(outcome, Err(Error::Rejected(_))), "{code}: {outcome:?}");
        assert_eq!(shadow.puts.borrow().len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_tell_whether_the_outcome_is_unknown() {
    let three = Backoff { tries_max: 3, ..Backoff::REQUESTS };
    for (label, script, unknown) in [
        ("no reply at all", [LosesReply, Loses, Loses], true),
        ("asked to wait after a lost reply", [LosesReply, Refuses(503, None), Refuses(429, Some(1))], true),
        ("forbidden after a lost reply", [LosesReply, Refuses(403, None), Accepts], true),
        ("the commit failed", [Refuses(501, None), Refuses(503, None), Refuses(503, None)], true),
        ("never tried", [Refuses(503, None); 3], false),
        ("not allowed", [Refuses(403, None), Accepts, Accepts], false),
        ("a conflict after a loss: not applied", [Loses, Conflicts, Conflicts], false),
    ] {
        let (_, outcome) = counted(&script, WriteOptions::default().backoff(three)).await;
        let error = outcome.expect_err(label);
        assert_eq!(error.is_outcome_unknown(), unknown, "{label}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_are_at_least_those_the_service_asks_for() {
    let (shadow, _) = counted(&[Refuses(429, Some(700)), Refuses(503, Some(900))], WriteOptions::default()).await;
    let times: Vec<_> = shadow.puts.borrow().iter().map(|(_, when)| *when).collect();
    let waits: Vec<_> = times.iter().zip(times.iter().skip(1)).map(|(one, next)| *next - *one).collect();
    for (wait, asked) in waits.iter().zip([700, 900]) {
        assert!(*wait >= Duration::from_millis(asked), "{wait:?} after being asked for {asked} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_document_and_the_version_in_a_rejection_save_reads() {
    let known = Document { version: Version(5), ..Document::default() };
    let options = WriteOptions::default().based_on(known).without_precondition();
    let (shadow, outcome) = counted(&[Conflicts], options).await;
    assert!(matches!(outcome, Ok(Some(Accepted { version: Version(7), .. }))), "{outcome:?}");
    assert_eq!(*shadow.gets.borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_changes_nothing_is_sent() {
    let shadow = Scripted::new(&[]);
    assert!(matches!(write(&shadow, &WriteOptions::default(), |_| None).await, Ok(None)));
    assert!(shadow.puts.borrow().is_empty());
    // The other client may have made the change.
    let shadow = Scripted::new(&[Conflicts]);
    let once = |document: &Document| (count(document) == 0).then(|| increment(document));
    assert!(matches!(write(&shadow, &WriteOptions::default(), once).await, Ok(None)));
    assert_eq!(shadow.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn updates_without_a_version_are_retried_under_one_key() {
    let three = Backoff { tries_max: 3, ..Backoff::REQUESTS };
    for (label, script, expected_puts, succeeds, unknown) in [
        ("at once", vec![], 1, true, false),
        ("the reply lost", vec![LosesReply], 2, true, false),
        ("a quota", vec![Refuses(429, Some(10)), Refuses(503, None)], 3, true, false),
        ("never answered", vec![LosesReply, Loses, Loses], 3, false, true),
        ("forbidden", vec![Refuses(403, None)], 1, false, false),
        ("forbidden after a lost reply", vec![LosesReply, Refuses(403, None)], 2, false, true),
        ("a conflict is final", vec![Refuses(409, None)], 1, false, false),
    ] {
        let shadow = Scripted::new(&script);
        let outcome = send(&shadow, Update::new(json!({"reported": {"count": 1}})), three).await;
        assert_eq!(outcome.is_ok(), succeeds, "{label}: {outcome:?}");
        assert_eq!(outcome.is_err_and(|error| error.is_outcome_unknown()), unknown, "{label}");
        let puts: Vec<_> = shadow.puts.borrow().iter().map(|(update, _)| update.clone()).collect();
        assert_eq!(puts.len(), expected_puts, "{label}");
        assert!(puts.iter().all(|update| Some(update) == puts.first() && update.version.is_none()), "{label}");
        let applied = shadow.applied_keys.borrow().len();
        assert!(applied <= 1 && (applied == 1 || !succeeds), "{label}: applied {applied} times");
    }
}
