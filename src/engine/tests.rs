//! Tests of submission, refusals and permits of the engine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    cell::Cell,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, ThreadId},
};

use futures_util::FutureExt;
use parking_lot::Mutex;

use super::{
    changes::{Changes, FeedFilter, Next, QueueContent},
    *,
};
use crate::{
    auth::Principal,
    config::{Limits, RoleLimits},
    observability::request_id::RequestId,
    shadow::{
        Command, Delete, DeviceId, Disposition, Document, DocumentLimits, IdempotencyKey, Keyed, Revocable,
        SectionPatch, Sender, SenderLogin, Update, Version, tests::sender,
    },
    store::{Applied, CommitReport, QueueReservation},
};

/// A requester that reports the time of its outcome.
struct ReportedTime(mpsc::Sender<Timestamp>);

impl Requester for ReportedTime {
    fn on_outcome(self: Box<Self>, _: Result<AcceptedCommand<'_>, &Rejection>, now: Timestamp) {
        self.0.send(now).unwrap();
    }
}

fn deletion() -> Envelope {
    let (key, command) = (ShadowKey::classic(DeviceId::new("d").unwrap()), Command::Delete(Delete::default()));
    Envelope::new(key, command, sender("p"), RequestId::current(), "c".into())
}

fn requester(outcomes: &mpsc::Sender<Timestamp>) -> Box<dyn Requester> {
    Box::new(ReportedTime(outcomes.clone()))
}

/// A deletion that counts how often it is parsed.
#[derive(Debug)]
struct Deletion<'a> {
    envelope: Box<Envelope>,
    weight: usize,
    is_forbidden: bool,
    parsed: &'a Cell<usize>,
}

impl IncomingRequest for Deletion<'_> {
    type Parsed = (Command, Sender);
    type Refusal = Rejection;

    fn key(&self) -> &ShadowKey {
        &self.envelope.key
    }

    fn weight(&self) -> usize {
        self.weight
    }

    fn parse(&mut self) -> Result<Option<(Command, Sender)>, Rejection> {
        self.parsed.set(self.parsed.get() + 1);
        if self.is_forbidden {
            return Err(Rejection::Forbidden { what: "delete".to_owned() });
        }
        Ok(Some((self.envelope.command.clone(), self.envelope.author.clone())))
    }

    fn into_command(self, (command, author): (Command, Sender), _: Admitted) -> (Envelope, Box<dyn Requester>) {
        (Envelope { command, author, ..*self.envelope }, requester(&mpsc::channel().0))
    }
}

/// A payload is parsed only with memory reserved, a refused request leaves no trace in queue or quotas, and one over a
/// quota is not parsed at all.
#[test]
fn takes_a_request_from_quota_over_reservation_to_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { requests_in_flight_max: 1, ..Limits::default() };
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let queue = options.queue_bytes_max;
    let (service, _outcomes) = Service::open(options, Arc::new(Quotas::new(&limits)), Clock::system()).unwrap();
    let (service, principal) = (Arc::new(service), Principal::named("p").unwrap());
    let quota = service.quotas().principals.of(principal.name(), &RoleLimits::UNLIMITED, Instant::now());
    let parsed = Cell::new(0);
    let request =
        |weight, is_forbidden| Deletion { envelope: Box::new(deletion()), weight, is_forbidden, parsed: &parsed };
    let take = |weight, is_forbidden| service.take(request(weight, is_forbidden), &quota);

    let Err(refused) = take(0, true) else { panic!("submitted without rights") };
    assert!(!refused.is_over_quota && parsed.take() == 1);
    assert_eq!(service.queue_bytes().0, 0, "its memory is released");

    let full = service.try_reserve(&quota, queue / 2).unwrap();
    let Ok(Taken::AwaitingPermit(waiting)) = take(queue / 2, false) else { panic!("the queue is full") };
    let Err(refused) = take(0, false) else { panic!("one is in flight") };
    assert!(refused.is_over_quota && matches!(refused.refusal, Rejection::TooManyRequests { .. }));
    assert_eq!(parsed.get(), 0, "neither is parsed");
    drop(full);
    assert!(waiting.finish().now_or_never().unwrap().is_ok());
    assert_eq!(parsed.take(), 1);
    service.close();
}

/// A principal that sends faster than the writer decides once filled the whole queue. It has a share of the queue, which
/// is released when its outcomes are reported.
#[test]
fn a_principal_has_a_share_of_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let queue = options.queue_bytes_max;
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
    let [greedy, other] =
        ["greedy", "other"].map(|name| quotas.principals.of(&name.into(), &RoleLimits::UNLIMITED, Instant::now()));
    let (sender, _outcomes) = mpsc::channel();
    let permit = service.try_reserve(&greedy, queue / 2).expect("nothing is queued");
    assert!(service.try_reserve(&greedy, 0).is_none(), "it has no more");
    assert!(service.reserve(&greedy, 0).now_or_never().is_none(), "and waits");
    assert!(service.reserve(&other, 0).now_or_never().is_some(), "for itself alone");
    permit.send(deletion(), requester(&sender));
    service.close();
    assert!(greedy.try_queue(1).is_none(), "decided, and not reported yet");
    decided.notify(IgnoringNotifier);
    assert!(greedy.try_queue(1).is_some());
}

/// One principal with large updates, or ones that replaced large values, removed the history of all others within minutes at the
/// price of small ones.
#[test]
fn the_bytes_of_journal_entries_are_work() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
    let limits = RoleLimits { work: 1, ..RoleLimits::UNLIMITED }; // ten units at once, then one a second
    let (sender, _outcomes) = mpsc::channel();
    // the principal, the bytes of its value, units
    let updates = [("small", 100, 0), ("large", 7_000, 7_000 / 16), ("replacing", 10, 7_000 / 16), ("idle", 10, 0)];
    let charged = updates.map(|(name, bytes, units)| {
        let quota = quotas.principals.of(&name.into(), &limits, Instant::now());
        let value = serde_json::json!({"value": "x".repeat(bytes)});
        let reported = SectionPatch::Merge(value.as_object().unwrap().clone());
        let command = Command::Update(Update { reported, ..Update::default() });
        let permit = service.try_reserve(&quota, 0).expect("there is space");
        permit.send(Envelope { command, ..deletion() }, requester(&sender));
        (quota, units)
    });
    service.close();
    decided.notify(IgnoringNotifier);
    for (quota, units) in charged {
        let wait = quota.usage(Instant::now()).throttled_for.as_secs();
        // Up to 512 bytes of each entry are free, and some minutes may have passed.
        assert!((units.max(200) - 200..=units).contains(&wait), "{}: {wait} s for {units}", quota.name());
    }
}

/// An update of one value of a large shadow costs its subscribers' messages, which are rendered on the thread that answers
/// everybody. It cost its principal as much as one of a small shadow.
#[test]
fn rendered_messages_are_work() {
    struct Rendering(usize);
    impl Notifier for Rendering {
        fn notify(&mut self, _: Outcome<'_>, _: &dyn Requester) -> usize {
            self.0
        }
    }
    // bytes, units
    for (bytes, units) in [(8 << 10, 0), (400_000, (400_000 - 8192) / 512)] {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
        let quotas = Arc::new(Quotas::new(&Limits::default()));
        let (service, decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
        let limits = RoleLimits { work: 1, ..RoleLimits::UNLIMITED };
        let quota = quotas.principals.of(&"one".into(), &limits, Instant::now());
        let (sender, _outcomes) = mpsc::channel();
        let reported = SectionPatch::Merge(serde_json::json!({"value": 1}).as_object().unwrap().clone());
        let command = Command::Update(Update { reported, ..Update::default() });
        service.try_reserve(&quota, 0).unwrap().send(Envelope { command, ..deletion() }, requester(&sender));
        service.close();
        decided.notify(Rendering(bytes));
        let wait = quota.usage(Instant::now()).throttled_for.as_secs();
        assert!((units.max(200) - 200..=units).contains(&wait), "{wait} s for {units}");
    }
}

/// An update that changes nothing writes the record of its shadow if it has an idempotency key: a client could have a large one written
/// again and again.
#[test]
fn the_bytes_of_a_record_for_an_idempotency_key_alone_are_work() {
    const BYTES: usize = 200_000;
    let directory = tempfile::tempdir().unwrap();
    let document = DocumentLimits { document_bytes_max: 2 * BYTES, ..DocumentLimits::default() };
    let path = directory.path().join("store");
    let options = StoreOptions { free_disk_min: 0, document, ..StoreOptions::new(path) };
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
    let (sender, _outcomes) = mpsc::channel();
    let units = (BYTES as u64 - 4096) / 128;
    // the principal, its rate of work, the key, units
    let updates =
        [("first", u64::MAX, None, 0), ("unkeyed", 1, None, 0), ("keyed", 1, Some("k"), units), ("idle", 1, None, 0)];
    let charged = updates.map(|(name, work, key, units)| {
        let quota = quotas.principals.of(&name.into(), &RoleLimits { work, ..RoleLimits::UNLIMITED }, Instant::now());
        let value = serde_json::json!({"value": "x".repeat(BYTES)});
        let reported = SectionPatch::Merge(value.as_object().unwrap().clone());
        let update = Update { reported, ..Update::default() };
        let keyed = key.map(|key| Keyed::update(IdempotencyKey::new(key).unwrap(), &update));
        let command = Command::Update(Update { keyed, ..update });
        let permit = service.try_reserve(&quota, 0).expect("there is space");
        permit.send(Envelope { command, ..deletion() }, requester(&sender));
        (quota, units)
    });
    service.close();
    decided.notify(IgnoringNotifier);
    for (quota, units) in charged {
        let wait = quota.usage(Instant::now()).throttled_for.as_secs();
        // Ten units at once are free, the record has some more bytes than the value, and some minutes may have passed.
        assert!((units.max(200) - 200..=units + 10).contains(&wait), "{}: {wait} s for {units}", quota.name());
    }
}

/// A change whose outcome was reported as unknown, and that is on the disk after all, once reached
/// nobody until a restart.
#[test]
fn a_change_without_requester_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, decided) = Service::open(options, quotas, Clock::system()).unwrap();
    let changes = Arc::new(Changes::new(Seq(0)));
    let feed = changes.follow(FeedFilter::default(), None, QueueContent::All { bytes_max: usize::MAX });
    let (sender, batches) = mpsc::channel();
    let applied = Applied {
        seq: Some(Seq(1)),
        journal_bytes: 0,
        record_bytes: 0,
        before: Arc::new(Document::absent()),
        after: Arc::new(Document::absent_at(Version(1))),
        changes: Vec::new(),
        rebased_from: None,
        disposition: Disposition::Applied,
    };
    let found = store::Outcome { envelope: deletion(), context: None, result: Ok(applied), against: None };
    let reservation = QueueReservation::none();
    sender
        .send(CommitReport { outcomes: vec![found], durable: Vec::new(), broadcasts: Vec::new(), reservation })
        .unwrap();
    drop(sender);
    let outcomes = decided.outcomes.clone();
    Outcomes { batches, ..decided }.notify(changes.clone());
    changes.close();
    assert_eq!(feed.position(), None, "it is queued");
    assert!(matches!(feed.next().now_or_never(), Some(Next::Change(change)) if change.seq == Seq(1)));
    assert_eq!(outcomes.counts(), [], "its command was counted when its outcome was reported");
    service.close();
}

/// A permit that reports the thread that drops it.
struct ReadPermit(mpsc::Sender<ThreadId>);

impl Drop for ReadPermit {
    fn drop(&mut self) {
        let _ = self.0.send(thread::current().id());
    }
}

/// A client that disconnected once passed its turn on while its walk still ran, so too many walks ran at once.
#[tokio::test]
async fn a_walk_keeps_its_turn_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(directory.path().join("store"));
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, _decided) = Service::open(options, quotas, Clock::system()).unwrap();
    let key = ShadowKey::classic(DeviceId::new("lamp").unwrap());
    let (sender, ended) = mpsc::channel();
    // The futures are dropped while the walks run.
    let _ = service.history(&key, None, Version(1), 1, ReadPermit(sender.clone())).now_or_never();
    let _ = service.at_version(&key, Version(1), ReadPermit(sender)).now_or_never();
    for by in ended {
        assert_ne!(by, thread::current().id(), "by the walk, not by the dropped future");
    }
    service.close();
}

/// Reads over HTTP took no turns, so one principal could keep all threads that read busy.
#[tokio::test]
async fn reads_of_a_principal_wait_for_its_turn() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { document_cache_bytes: 0, ..StoreOptions::new(directory.path().join("store")) };
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, _decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
    let key = ShadowKey::classic(DeviceId::new("lamp").unwrap());
    let [greedy, other] =
        ["greedy", "other"].map(|name| quotas.principals.of(&name.into(), &RoleLimits::UNLIMITED, Instant::now()));
    let turns: Vec<_> = std::iter::from_fn(|| quotas.principals.reading(&greedy).now_or_never()).collect();
    let mut waits = Box::pin(service.read_for(&key, &greedy));
    assert!((&mut waits).now_or_never().is_none());
    for _ in 0..50 {
        assert!(service.read_for(&key, &other).await.is_ok(), "another principal has its own");
    }
    assert!((&mut waits).now_or_never().is_none(), "{} others of its own read", turns.len());
    drop(turns);
    assert!(waits.await.is_ok());
    service.close();
}

/// A login that is revoked at some time.
#[derive(Default)]
struct Login(AtomicBool);

impl Revocable for Login {
    fn is_revoked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A login at whose review the writer waits: it reports that it has come, and goes on at a signal.
struct WaitingLogin(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>);

impl Revocable for WaitingLogin {
    fn is_revoked(&self) -> bool {
        self.0.send(()).unwrap();
        self.1.lock().recv().unwrap();
        false
    }
}

/// A requester that reports the outcome.
struct ReportedOutcome(mpsc::Sender<Result<(), Rejection>>);

impl Requester for ReportedOutcome {
    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, _: Timestamp) {
        self.0.send(outcome.map(|_| ()).map_err(Clone::clone)).unwrap();
    }
}

/// A command waited for the disk while its sender was revoked, and was decided with the rights of before.
#[test]
fn a_queued_command_of_a_revoked_login_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let (service, decided) =
        Service::open(options, Arc::new(Quotas::new(&Limits::default())), Clock::system()).unwrap();
    let (reported, outcomes) = mpsc::channel();
    let submit = |login: Arc<dyn Revocable>| {
        let author = Sender { login: SenderLogin::new(login), ..sender("p") };
        let quota = service.quotas().principals.of(&"p".into(), &RoleLimits::UNLIMITED, Instant::now());
        let command = Command::Update(Update::default());
        let permit = service.try_reserve(&quota, 64).unwrap();
        permit.send(Envelope { command, author, ..deletion() }, Box::new(ReportedOutcome(reported.clone())));
    };
    let ((came, arrival), (go_on, signal)) = (mpsc::channel(), mpsc::channel());
    let [stays, revoked] = [Arc::<Login>::default(), Arc::default()];
    submit(Arc::new(WaitingLogin(came, Mutex::new(signal))));
    arrival.recv().unwrap();
    submit(revoked.clone());
    submit(stays);
    revoked.0.store(true, Ordering::Relaxed);
    go_on.send(()).unwrap();
    service.close();
    decided.notify(IgnoringNotifier);
    assert_eq!(outcomes.try_iter().collect::<Vec<_>>(), [Ok(()), Err(Rejection::Unauthorized), Ok(())]);
}

struct IgnoringNotifier;

impl Notifier for IgnoringNotifier {
    fn notify(&mut self, _: Outcome<'_>, _: &dyn Requester) -> usize {
        0
    }
}
