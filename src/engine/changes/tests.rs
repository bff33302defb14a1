use crate::engine::changes::*;
use crate::{
    engine::AcceptedCommand,
    observability::request_id::RequestId,
    shadow::{Command, Delete, Disposition, Rejection, tests::sender},
};

struct IgnoringRequester;

impl Requester for IgnoringRequester {
    fn on_outcome(self: Box<Self>, _: Result<AcceptedCommand<'_>, &Rejection>, _: Timestamp) {}
}

fn notify(changes: &Arc<Changes>, device: &str, seq: Seq, after: &Arc<Document>) {
    let (key, command) =
        (ShadowKey::classic(DeviceId::new(device).expect("a name")), Command::Delete(Delete::default()));
    let envelope = Envelope::new(key, command, sender("p"), RequestId::next(), "c".into());
    let applied = Applied {
        seq: Some(seq),
        journal_bytes: 0,
        record_bytes: 0,
        before: Arc::new(Document::absent()),
        after: after.clone(),
        changes: Vec::new(),
        rebased_from: None,
        disposition: Disposition::Applied,
    };
    changes.clone().notify(Outcome { envelope: &envelope, result: Ok(&applied) }, &IgnoringRequester);
}

/// A follower of all devices was once woken for each change, also of devices that it may not see.
#[test]
fn a_follower_receives_only_changes_of_devices_that_it_may_see() {
    let changes = Arc::new(Changes::new(Seq(0)));
    let device = |id: &str| DeviceId::new(id).expect("a name");
    let one = |id: &str| DeviceRange::One(device(id));
    let prefix = |id: &str| DeviceRange::Prefix(device(id));
    let of = |id: &str| FeedFilter { device: Some(device(id)), ..FeedFilter::default() };
    // filter, visible devices, devices among a, a1, b and c whose changes are received
    let table = [
        (FeedFilter::default(), None, "a a1 b c"),
        (FeedFilter::default(), Some(vec![]), ""),
        (FeedFilter::default(), Some(vec![one("a"), one("c")]), "a c"),
        (FeedFilter::default(), Some(vec![prefix("a"), one("b")]), "a a1 b"),
        (of("a"), Some(vec![one("a"), one("c")]), "a"),
        (of("b"), Some(vec![one("a")]), ""),
    ];
    for (filter, visible, expected) in table {
        let handle = changes.follow(filter, visible.clone(), QueueContent::All { bytes_max: usize::MAX });
        let mut received = Vec::new();
        for (seq, id) in (1..).map(Seq).zip(["a", "a1", "b", "c"]) {
            notify(&changes, id, seq, &Arc::new(Document::absent()));
            received.extend(handle.position().is_none().then_some(id));
            let _ = handle.follower.take();
        }
        assert_eq!(received.join(" "), expected, "{visible:?}");
        drop(handle);
        let followers = changes.0.lock();
        assert!(followers.of_device.is_empty() && followers.of_all.is_empty());
    }
}

/// Each queued change once held the whole resulting document, which its bytes did not count.
#[test]
fn a_queue_of_changes_holds_no_documents() {
    let changes = Arc::new(Changes::new(Seq(0)));
    let all = changes.follow(FeedFilter::default(), None, QueueContent::All { bytes_max: usize::MAX });
    let newest = changes.follow(FeedFilter::default(), None, QueueContent::Newest);
    let documents = [(); 3].map(|()| Arc::new(Document::absent()));
    for (seq, after) in (1..).map(Seq).zip(&documents) {
        notify(&changes, "d", seq, after);
    }
    assert_eq!(
        (all.position(), newest.position()),
        (None, Some(Seq(3))),
        "three changes are queued for one follower, none for the other"
    );
    assert_eq!(documents.each_ref().map(Arc::strong_count), [1, 1, 2]);
    let next = newest.follower.take();
    assert!(matches!(&next, Some(Next::Newest(document)) if Arc::ptr_eq(document, &documents[2])), "{next:?}");
}
