//! Tests of quotas, refusals and permits around the engine.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::mpsc,
    thread::{self, ThreadId},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;
use crate::{
    config::Limits,
    observability::request_id::RequestId,
    shadow::{Command, Delete, DeviceId, Version, tests::sender},
    wire::ClientToken,
};
struct ReportedTime(mpsc::Sender<Timestamp>);

impl Requester for ReportedTime {
    fn session(&self) -> Option<u64> {
        None
    }

    fn client_token(&self) -> Option<&ClientToken> {
        None
    }

    fn on_outcome(self: Box<Self>, _: Result<AcceptedCommand<'_>, &Rejection>, now: Timestamp) {
        self.0.send(now).unwrap();
    }
}

fn deletion(outcomes: &mpsc::Sender<Timestamp>) -> Submission {
    Submission {
        key: ShadowKey::classic(DeviceId::new("d").unwrap()),
        command: Command::Delete(Delete::default()),
        sender: sender("p"),
        id: RequestId::current(),
        client: "c".into(),
        requester: Box::new(ReportedTime(outcomes.clone())),
    }
}

/// One principal that sent more than can be decided stood in the queue before all others. It has a part of the
/// queue, which it gets back when its requests were told.
#[test]
fn a_principal_has_a_part_of_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let queue = options.queue_bytes_max;
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
    let [greedy, other] = ["greedy", "other"].map(|name| quotas.principals.of(&name.into(), Instant::now()));
    let (told, _outcomes) = mpsc::channel();
    let permit = service.try_reserve(&greedy, queue / 2).expect("nothing is queued");
    assert!(service.try_reserve(&greedy, 0).is_none(), "it has no more");
    assert!(service.reserve(&greedy, 0).now_or_never().is_none(), "and waits");
    assert!(service.reserve(&other, 0).now_or_never().is_some(), "for itself alone");
    permit.submit(deletion(&told));
    service.close();
    assert!(greedy.try_queue(1).is_none(), "decided, and not told yet");
    struct IgnoringRequester;
    impl Notifier for IgnoringRequester {
        fn announce(&mut self, _: &Outcome, _: &dyn Requester) {}
    }
    decided.announce(IgnoringRequester);
    assert!(greedy.try_queue(1).is_some());
}

/// What is refused before it reaches the store is told at the time of the service's clock, as what the store
/// decides.
#[test]
fn a_write_above_the_quota_is_refused_at_the_time_of_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = Limits::default();
    limits.quotas.shadow_writes_per_second = 1;
    let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
    let (clock, _hand) = Clock::manual(Duration::from_secs(7));
    let (service, _decided) = Service::open(options, Arc::new(Quotas::new(&limits)), clock).unwrap();
    let (told, refused) = mpsc::channel();
    let principal = service.quotas().principals.of(&"p".into(), Instant::now());
    for _ in 0..100 {
        service.try_reserve(&principal, 0).unwrap().submit(deletion(&told));
    }
    assert_eq!(refused.try_recv(), Ok(Timestamp(7)), "no announcer runs, so this is no answer of the store");
    service.close();
}

/// Tells which thread dropped it.
struct ReadPermit(mpsc::Sender<ThreadId>);

impl Drop for ReadPermit {
    fn drop(&mut self) {
        let _ = self.0.send(thread::current().id());
    }
}

/// A client that hung up gave its turn to the next one, while its own walk went on: there were more than there may
/// be.
#[tokio::test]
async fn a_walk_keeps_its_turn_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(directory.path().join("store"));
    let quotas = Arc::new(Quotas::new(&Limits::default()));
    let (service, _decided) = Service::open(options, quotas, Clock::system()).unwrap();
    let key = ShadowKey::classic(DeviceId::new("lamp").unwrap());
    let (sender, ended) = mpsc::channel();
    // Nobody waits for them, unless they have ended by now.
    let _ = service.history(&key, None, Version(1), 1, ReadPermit(sender.clone())).now_or_never();
    let _ = service.at_version(&key, Version(1), ReadPermit(sender)).now_or_never();
    for by in ended {
        assert_ne!(by, thread::current().id(), "by the walk, and not by who gave up waiting for it");
    }
    service.close();
}
