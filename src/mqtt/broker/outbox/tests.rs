#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use crate::mqtt::broker::outbox::*;
use crate::{
    admission::{PrincipalQuota, Quotas},
    auth::Principal,
    config::{Limits, RoleLimits},
    mqtt::protocol::{message::Message, topic::TopicFilter},
};

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Limits that fit about eight of the deliveries below.
const LIMITS: QueueLimits = QueueLimits { bytes: 2_400, offline_bytes: 900 };

pub(super) fn outbox() -> (Outbox, Arc<DropCounters>) {
    let counters = Arc::new(DropCounters::default());
    (outbox_of(PrincipalQuota::unlimited("test"), LIMITS, &counters), counters)
}

fn outbox_of(quota: Arc<PrincipalQuota>, limits: QueueLimits, counters: &Arc<DropCounters>) -> Outbox {
    let access = Access::admin(Principal::anonymous("test"));
    Outbox::new(SessionId(1), limits, Arc::clone(counters), access, Charge::new(quota, 0))
}

/// At the limit of memory of its principal, a queue drops ordinary messages as at its own limit, and events resync.
#[test]
fn a_queue_is_charged_to_its_principal() {
    let principals = Quotas::new(&Limits::default()).principals;
    let role = RoleLimits { memory: 8 << 10, ..RoleLimits::UNLIMITED };
    let quota = principals.of(&"p".into(), &role, Instant::now());
    let counters = Arc::new(DropCounters::default());
    let limits = QueueLimits { bytes: 1 << 20, offline_bytes: 1 << 20 };
    let [first, second] = [(); 2].map(|()| outbox_of(quota.clone(), limits, &counters));
    for _ in 0..20 {
        first.push_ordinary(delivery("aa", 1));
    }
    assert_eq!((first.queued_bytes(), quota.memory_used()), (6_000, 8 << 10));
    for _ in 0..20 {
        second.push_ordinary(delivery("aa", 1));
    }
    assert_eq!(second.queued_bytes(), 3_900, "one always fits while connected, and with it a step of the account");
    assert_eq!(counters.ordinary_guaranteed.get(), 7);
    (1..=20).for_each(|seq| second.push_event(delivery(&format!("{}", 10 + seq), 1), seq));
    assert_eq!(second.resync_since(), Some(0), "the journal has the events");
    drain(&first, true);
    drop(second);
    assert_eq!(quota.memory_used(), 0);
}

/// Returns a delivery that costs 128 + 2 + 170 = 300 bytes if the topic has two.
pub(super) fn delivery(topic: &str, qos: usize) -> Delivery {
    let message =
        Message::new(TopicName::new(topic).unwrap(), vec![b'x'; 170].into(), QOS[qos], false, None, Instant::now());
    Delivery {
        message: Arc::new(message),
        qos: QOS[qos],
        retain: false,
        subscription_ids: Box::default(),
        share: None,
        row: None,
    }
}

fn ack(outbox: &Outbox, request: u32) {
    outbox.push_ack(AckId(request), AckResult::SUCCESS);
}

/// Pushes by a short notation: `r` reply, `e` event, `d` document, `p` ordinary message, `n` notice, each with a topic
/// of two characters and the QoS. Events and documents have their position, from 1, as sequence. `a` is an
/// acknowledgement.
pub(super) fn push(outbox: &Outbox, script: &str) {
    for (at, word) in script.split_whitespace().enumerate() {
        let (seq, digit) = (at as u64 + 1, word.len() - 1);
        let number: usize = word[digit..].parse().unwrap();
        let topic = word.get(1..digit).unwrap_or_default();
        match &word[..1] {
            "r" => outbox.push_reply(delivery(topic, number)),
            "e" => outbox.push_event(delivery(topic, number), seq),
            "d" => outbox.push_document(delivery(topic, number), seq),
            "p" => outbox.push_ordinary(delivery(topic, number)),
            "n" => outbox.push_notice(delivery(topic, number)),
            "a" => ack(outbox, number as u32),
            other => panic!("{other}"),
        }
    }
}

/// Pops everything: acknowledgements as `a<id>`, deliveries as `<topic>`, with `@<seq>` for events and documents.
fn drain(outbox: &Outbox, window_open: bool) -> String {
    let words = std::iter::from_fn(|| outbox.pop(if window_open { u16::MAX } else { 0 })).map(|item| match item {
        Item::Ack { ack_id, .. } => format!("a{}", ack_id.0),
        Item::Delivery { delivery, seq: Some(seq) } => format!("{}@{seq}", delivery.message.topic),
        Item::Delivery { delivery, seq: None } => delivery.message.topic.to_string(),
        Item::Saved(tickets) => format!("{}s", tickets.len()),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn deliveries_leave_in_order_within_the_limit() {
    // name, pushed, popped, start of the resync
    let table = [
        ("one order for all kinds", "eaa1 pbb0 rcc1 edd0", "aa@1 bb cc dd@4", None),
        ("an ack passes events and ordinary messages", "eaa1 pbb1 a7", "a7 aa@1 bb", None),
        ("an ack waits for the replies before it only", "eaa1 rbb1 a7 rcc1", "aa@1 bb a7 cc", None),
        ("a document replaces an older one in place", "dxx1 eaa1 dyy1 dxx1", "xx@4 aa@2 yy@3", None),
        ("an event is not replaced below the limit", "exx1 exx1", "xx@1 xx@2", None),
        ("eight fit", "eaa1 ebb1 ecc1 edd1 eee1 eff1 egg1 ehh1", "aa@1 bb@2 cc@3 dd@4 ee@5 ff@6 gg@7 hh@8", None),
        (
            "superseded events are dropped first, oldest first, down to three quarters",
            "eaa1 ebb1 eaa1 ebb1 eaa1 ebb1 eaa1 ebb1 eaa1",
            "bb@4 aa@5 bb@6 aa@7 bb@8 aa@9",
            None,
        ),
        (
            "the newest of each topic stays",
            "eaa1 ebb1 ebb1 ebb1 ebb1 ebb1 ebb1 ebb1 ebb1",
            "aa@1 bb@5 bb@6 bb@7 bb@8 bb@9",
            None,
        ),
        (
            "without superseded events all events are dropped and a resync begins",
            "eaa1 ebb1 ecc1 edd1 eee1 eff1 egg1 ehh1 eii1",
            "",
            Some(0),
        ),
        ("a resync keeps the replies", "rxx1 pyy1 ecc1 edd1 eee1 eff1 egg1 ehh1 eii1 ejj1", "xx", Some(2)),
        (
            "an event pushes out the oldest ordinary messages, and follows a few others",
            "paa1 pbb1 pcc1 pdd1 pee1 pff1 pgg1 phh1 ezz1 dyy1",
            "cc dd ee zz@9 ff gg hh yy@10",
            None,
        ),
        (
            "superseded events are dropped before ordinary messages",
            "pxx1 eaa1 eaa1 eaa1 eaa1 pyy1 eaa1 eaa1 eaa1",
            "xx aa@5 yy aa@7 aa@8 aa@9",
            None,
        ),
        (
            "ordinary messages take turns with events",
            "eaa1 ebb1 ecc1 edd1 eee1 eff1 egg1 phh1",
            "aa@1 bb@2 cc@3 hh dd@4 ee@5 ff@6 gg@7",
            None,
        ),
        ("a notice keeps the order of its lane", "eaa1 nbb1 ecc1 pdd1", "aa@1 bb cc@3 dd", None),
        (
            "the older of notices and ordinary messages is dropped first",
            "naa1 pbb1 ncc1 pdd1 eee1 eff1 egg1 ehh1 eii1 ejj1",
            "cc dd ee@5 ff@6 gg@7 hh@8 ii@9 jj@10",
            None,
        ),
        ("the start of a resync drops notices", "naa1 ebb1 ecc1 edd1 eee1 eff1 egg1 ehh1 eii1 ejj1 nkk1", "", Some(1)),
        ("a reply makes events drop", "eaa1 ebb1 ecc1 edd1 eee1 eff1 egg1 ehh1 rzz1", "zz", Some(0)),
        (
            "an ordinary message does not",
            "eaa1 ebb1 ecc1 edd1 eee1 eff1 egg1 ehh1 pzz1",
            "aa@1 bb@2 cc@3 dd@4 ee@5 ff@6 gg@7 hh@8",
            None,
        ),
    ];
    for (name, pushed, popped, since) in table {
        let (outbox, _) = outbox();
        push(&outbox, pushed);
        assert_eq!((drain(&outbox, true).as_str(), outbox.resync_since()), (popped, since), "{name}");
    }
}

#[test]
fn a_closed_window_blocks_deliveries_but_not_acks() {
    // name, pushed, popped with the window closed, popped then with it open
    let table = [
        ("QoS 0 passes until the first QoS 1 of its lane", "eaa0 pbb0 rcc1 pdd0 eee0", "aa@1 bb dd", "cc ee@5"),
        ("an ordinary message blocks no event", "paa1 ebb0 dcc0 pdd0", "bb@2 cc@3", "aa dd"),
        ("an ack passes", "eaa1 a3", "a3", "aa@1"),
        ("an ack does not pass a reply that waits", "raa2 a3", "", "aa a3"),
    ];
    for (name, pushed, closed, open) in table {
        let (outbox, _) = outbox();
        push(&outbox, pushed);
        assert_eq!((drain(&outbox, false).as_str(), drain(&outbox, true).as_str()), (closed, open), "{name}");
    }
}

#[test]
fn at_a_closed_window_a_reply_passes_only_ordinary_messages() {
    // pushed, popped at the closed window, popped then with it open
    let table = [
        ("paa1 pbb1 rcc1 rdd1 a3", "cc dd", "a3 aa bb"),
        ("paa1 rbb1 ecc1 rdd1", "bb", "aa cc@3 dd"),
        ("paa1 dbb1 rcc1", "", "aa bb@2 cc"),
        ("paa1 ebb1", "", "aa bb@2"),
    ];
    for (pushed, past, open) in table {
        let (outbox, _) = outbox();
        push(&outbox, pushed);
        let popped: Vec<_> = std::iter::from_fn(|| outbox.pop_reply()).collect();
        let topics = popped.iter().map(|item| match item {
            Item::Delivery { delivery, .. } => delivery.message.topic.as_str(),
            Item::Ack { .. } | Item::Saved(_) => "other",
        });
        assert_eq!(topics.collect::<Vec<_>>().join(" "), past, "{pushed}");
        assert_eq!(drain(&outbox, true), open, "{pushed}");
    }
}

/// When the events of one change did not all fit, those that had been sent were sent again.
#[test]
fn the_first_unsent_event_of_a_change_is_reported() {
    // document pushed at 6, deliveries sent before the overflow, first unsent event of the change at 7
    let unsent = |topic: &str, document_sent| Unsent { seq: 7, topic: TopicName::new(topic).ok(), document_sent };
    let table = [
        ("xx", 0, unsent("e0", false)),
        ("xx", 2, unsent("e2", false)),
        ("xx", 7, unsent("e7", false)),
        ("e7", 3, unsent("e2", true)), // sent in place of an older document of the topic `e7`
    ];
    for (document, sent, expected) in table {
        let (outbox, _) = outbox();
        outbox.push_document(delivery(document, 1), 6);
        if document == "xx" {
            assert!(outbox.pop(u16::MAX).is_some());
        }
        (0..7).for_each(|number| outbox.push_event(delivery(&format!("e{number}"), 1), 7));
        outbox.push_document(delivery("e7", 1), 7);
        (0..sent).for_each(|_| assert!(outbox.pop(u16::MAX).is_some()));
        for seq in 8..30 {
            outbox.push_event(delivery(&format!("{seq:02}"), 1), seq);
        }
        let expected = if sent == 7 { Unsent { topic: None, ..expected } } else { expected };
        assert_eq!((outbox.resync_since(), outbox.unsent()), (Some(6), Some(expected)), "{document} {sent}");
        outbox.detach(&FanOutPosition::new(29));
        assert_eq!(
            (outbox.resync_since(), outbox.unsent()),
            (Some(6), None),
            "sent messages may be lost with the connection"
        );
    }
}

/// A reply that was queued while the consumer waited for the window was not popped until the window opened.
#[tokio::test]
async fn a_reply_wakes_a_consumer_that_waits_for_the_window() {
    let (outbox, _) = outbox();
    push(&outbox, "paa1");
    assert!(outbox.pop(0).is_none() && outbox.pop_reply().is_none());
    push(&outbox, "rbb1");
    let woken = tokio::time::timeout(Duration::from_secs(60), outbox.ready()).await;
    assert!(woken.is_ok() && outbox.pop_reply().is_some());
}

#[test]
fn an_event_larger_than_the_limit_is_delivered() {
    let (outbox, _) = outbox();
    let mut large = delivery("aa", 1);
    large.message = Arc::new(Message { payload: vec![0; 10_000].into(), ..message_of(&large) });
    outbox.push_event(large.clone(), 1);
    assert_eq!((drain(&outbox, true).as_str(), outbox.resync_since()), ("aa@1", None));
    outbox.push_reply(large);
    assert_eq!((outbox.closed(), drain(&outbox, true).as_str()), (None, "aa"));
}

#[test]
fn a_session_that_has_left_acknowledges_nothing_and_keeps_its_messages() {
    let (outbox, _) = outbox();
    push(&outbox, "pxx1 a1");
    outbox.leave();
    push(&outbox, "a2");
    for _ in 0..2 {
        assert_eq!((outbox.closed(), drain(&outbox, true).as_str()), (Some(Reason::SESSION_TAKEN_OVER), ""));
        assert!(outbox.pop_ack().is_none());
        assert_eq!(outbox.queued_count(), 1);
        // Neither does another connection.
        outbox.attach(1);
    }
}

#[test]
fn a_session_that_has_ended_in_the_log_acknowledges_nothing_and_has_not_left() {
    for (end, has_left) in [(Outbox::end_in_log as fn(&Outbox), false), (Outbox::leave, true)] {
        let (outbox, _) = outbox();
        push(&outbox, "a1");
        end(&outbox);
        push(&outbox, "a2");
        assert!(outbox.pop_ack().is_none());
        assert_eq!((outbox.is_void(), outbox.has_left()), (true, has_left));
    }
}

#[test]
fn replies_beyond_the_limit_close_the_connection() {
    let (outbox, counters) = outbox();
    let eight = "raa1 rbb1 rcc1 rdd1 ree1 rff1 rgg1 rhh1";
    push(&outbox, &format!("pxx1 {eight} a1"));
    assert_eq!(outbox.closed(), None);
    push(&outbox, "rii1");
    assert_eq!(outbox.closed(), Some(Reason::QUOTA_EXCEEDED));
    assert_eq!((drain(&outbox, true).as_str(), counters.closed.get()), ("", 1));
    // The next connection of the session continues with everything but the replies.
    outbox.detach(&FanOutPosition::new(0));
    outbox.attach(u16::MAX);
    push(&outbox, "rjj1 a2");
    assert_eq!((outbox.closed(), drain(&outbox, true).as_str()), (None, "a1 xx jj a2"));
}

#[test]
fn ordinary_messages_dropped_at_a_full_queue_are_counted() {
    let (outbox, counters) = outbox();
    push(&outbox, "paa0 pbb1 pcc2 pdd0 pee0 pff0 pgg0 phh0 pii0 pjj1 pkk2");
    assert_eq!(drain(&outbox, true), "dd ee ff gg hh ii jj kk");
    assert_eq!((counters.ordinary_at_most_once.get(), counters.ordinary_guaranteed.get()), (1, 2));
}

#[test]
fn a_session_without_connection_keeps_qos_1_and_2() {
    let (outbox, counters) = outbox();
    push(&outbox, "paa0 pbb1 ecc1 rdd0 a1");
    outbox.detach(&FanOutPosition::new(3));
    assert_eq!(outbox.resync_since(), Some(2), "the event at 3 was not sent");
    push(&outbox, "pee0 pff1 egg1 rhh1 rii0 pjj1 a1");
    outbox.attach(u16::MAX);
    assert_eq!(drain(&outbox, true), "a1 ff hh a1 jj", "the newest three, and every acknowledgement");
    assert_eq!((counters.ordinary_at_most_once.get(), counters.ordinary_guaranteed.get()), (2, 1));
    assert_eq!(counters.replies.get(), 2);
}

#[test]
fn a_resync_ends_only_when_the_notifier_is_not_ahead() {
    let (outbox, _) = outbox();
    let fan_out_position = FanOutPosition::new(10);
    outbox.detach(&fan_out_position);
    outbox.attach(u16::MAX);
    assert_eq!(outbox.resync_since(), Some(10));

    fan_out_position.begin(13);
    outbox.push_event(delivery("aa", 1), 13); // ignored
    assert!(!outbox.finish_resync(12, &fan_out_position), "13 would be lost");
    assert_eq!(outbox.resync_since(), Some(12));

    assert!(outbox.finish_resync(15, &fan_out_position));
    for seq in 13..=17 {
        outbox.push_event(delivery("aa", 1), seq);
    }
    assert_eq!(drain(&outbox, true), "aa@16 aa@17", "the resync covered up to 15");

    // Detached while the notifier is at 18: its remaining pushes of 18 are ignored, so 18 has to be resynced.
    fan_out_position.finish(17);
    fan_out_position.begin(18);
    outbox.push_event(delivery("aa", 1), 18);
    assert_eq!(drain(&outbox, true), "aa@18");
    outbox.detach(&fan_out_position);
    assert_eq!(outbox.resync_since(), Some(17));
}

#[test]
fn no_older_document_follows_one_sent_past_the_queue() {
    let (outbox, _) = outbox();
    let (fan_out_position, topic) = (FanOutPosition::new(4), TopicName::new("xx").unwrap());
    outbox.push_document(delivery("xx", 1), 4);
    outbox.push_document(delivery("yy", 1), 4);
    outbox.document_sent(&topic, 7, &fan_out_position);
    for seq in 5..=8 {
        outbox.push_document(delivery("xx", 1), seq);
        outbox.push_event(delivery("zz", 1), seq);
    }
    assert_eq!(drain(&outbox, true), "yy@4 zz@5 zz@6 zz@7 xx@8 zz@8");
    assert_eq!(drain(&outbox, true), "");
}

#[test]
fn expired_messages_are_not_delivered() {
    let (outbox, counters) = outbox();
    let now = Instant::now();
    for (topic, expires_at) in [("aa", now), ("bb", now + Duration::from_secs(600))] {
        let mut expiring = delivery(topic, 1);
        expiring.message = Arc::new(Message { expires_at: Some(expires_at), ..message_of(&expiring) });
        outbox.push_reply(expiring);
    }
    ack(&outbox, 1);
    assert_eq!((drain(&outbox, true).as_str(), counters.expired.get()), ("bb a1", 1));
}

/// A client requested more than it read and was disconnected. The queued acknowledgements were dropped, and the resends
/// of its next connection waited for them for ever.
#[test]
fn acknowledgements_outlive_a_connection_closed_for_its_replies() {
    let (outbox, _) = outbox();
    push(&outbox, "raa1 a1 rbb1 rcc1 rdd1 ree1 rff1 rgg1 rhh1 a2 rii1 a3");
    assert_eq!((drain(&outbox, true).as_str(), outbox.closed()), ("", Some(Reason::QUOTA_EXCEEDED)));
    outbox.detach(&FanOutPosition::new(0));
    outbox.attach(u16::MAX);
    assert_eq!(drain(&outbox, true), "a1 a2 a3");
}

/// A connection whose client reads nothing pops nothing, and was therefore never woken to end.
#[test]
fn the_close_wakes_a_consumer_that_has_stopped_popping() {
    let (outbox, _) = outbox();
    push(&outbox, "raa1");
    assert!(outbox.pop(u16::MAX).is_some(), "the reply queued first");
    while outbox.closed().is_none() {
        push(&outbox, "rbb1");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let woken = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), outbox.ready()).await });
    assert_eq!(woken, Ok(()));
}

#[test]
fn members_of_a_group_are_ranked() {
    use Readiness::{Later, Never, Now, Waits};
    let (outbox, _) = outbox();
    let some = message_of(&delivery("aa", 1));
    let ranks = |outbox: &Outbox| [QoS::AtMostOnce, QoS::AtLeastOnce].map(|qos| outbox.readiness(&some, qos));
    assert_eq!(ranks(&outbox), [Now, Now]);
    outbox.detach(&FanOutPosition::new(0));
    assert_eq!(ranks(&outbox), [Never, Later]);
    outbox.attach(u16::MAX);
    assert_eq!(ranks(&outbox), [Waits, Waits], "a resync is due");
    assert!(outbox.finish_resync(0, &FanOutPosition::new(0)));
    push(&outbox, "paa1 pbb1");
    assert!(outbox.pop(2).is_some(), "one of the two that the window allows");
    assert_eq!(ranks(&outbox), [Now, Waits], "the queued one fills the window");
    assert!(outbox.pop(1).is_some());
    assert_eq!(ranks(&outbox), [Now, Waits], "the window is full");
    push(&outbox, "paa1 pbb1 pcc1 pdd1 pee1 pff1 pgg1 phh1");
    assert_eq!(ranks(&outbox), [Never, Never]);
}

#[test]
fn an_empty_outbox_is_small_and_a_drained_one_is_small_again() {
    assert!(size_of::<Outbox>() <= 424, "{} bytes", size_of::<Outbox>());
    let counters = Arc::new(DropCounters::default());
    let limits = QueueLimits { bytes: 1 << 20, ..LIMITS };
    let outbox = outbox_of(PrincipalQuota::unlimited("test"), limits, &counters);
    for seq in 1..=1_000 {
        outbox.push_event(delivery("aa", 1), seq);
        ack(&outbox, 1);
    }
    assert_eq!(drain(&outbox, true).split(' ').count(), 2_000);
    let inner = outbox.inner.lock();
    assert!(inner.queue.capacity() <= 8 && inner.acks.capacity() <= 8);
    assert_eq!(inner.queue.bytes(), 0);
}

fn message_of(delivery: &Delivery) -> Message {
    let message = &delivery.message;
    Message::new(message.topic.clone(), message.payload.clone(), message.qos, false, None, Instant::now())
}

/// A retained message for a new subscription was left out while the same message was queued for any other one: the client received it at a
/// lower QoS, without its subscription identifier, or as a member of a group.
#[test]
fn a_queued_delivery_serves_for_another_with_its_options() {
    let group = || Some(Arc::new(TopicFilter::new("$share/g/aa").unwrap()));
    for (qos, ids, share, serves) in [
        (1, &[7][..], None, true),
        (2, &[7, 8], None, true),
        (0, &[7], None, false),
        (1, &[8], None, false),
        (1, &[], None, false),
        (1, &[7], group(), false),
    ] {
        let (outbox, _) = outbox();
        let other = Delivery { subscription_ids: [7].into(), ..delivery("aa", 1) };
        let queued = Delivery { qos: QOS[qos], subscription_ids: ids.into(), share, ..other.clone() };
        outbox.push_ordinary(queued);
        assert_eq!(outbox.has_ordinary(&other), serves, "QoS {qos}, {ids:?}");
        assert!(!outbox.has_ordinary(&delivery("aa", 1)), "of another message");
    }
}

/// Returns a delivery with a payload of `bytes`.
fn large(topic: &str, bytes: usize) -> Delivery {
    let small = delivery(topic, 1);
    let message = Message { payload: vec![0; bytes].into(), ..message_of(&small) };
    Delivery { message: Arc::new(message), ..small }
}

/// A message above the limit dropped all ordinary messages, and then itself.
#[test]
fn a_large_message_neither_empties_a_queue_nor_is_lost() {
    let eight = "paa1 pbb1 pcc1 pdd1 pee1 pff1 pgg1 phh1";
    // pushed before a message of many times the limit, pushed after it, popped, number dropped
    for (before, after, popped, dropped) in [
        ("", "", "LL", 0),
        ("paa1", "pbb1", "aa LL bb", 0),
        (eight, "", "cc dd ee ff gg hh LL", 2),
        (eight, "pii1", "dd ee ff gg hh LL ii", 3),
        ("", eight, "aa bb cc dd ee ff gg hh", 1),
        ("", "eaa1 ebb1", "LL aa@1 bb@2", 0),
        ("eaa1 ebb1 ecc1 edd1 eee1 eff1 egg1 pzz1", "", "aa@1 bb@2 cc@3 zz dd@4 ee@5 ff@6 gg@7", 1),
        ("eaa1 eaa1 eaa1 eaa1 eaa1 pzz1", "eaa1 ebb1", "aa@4 aa@5 zz LL aa@1 bb@2", 0),
    ] {
        let (outbox, counters) = outbox();
        push(&outbox, before);
        outbox.push_ordinary(large("LL", 10_000));
        push(&outbox, after);
        let found = (drain(&outbox, true), counters.ordinary_guaranteed.get());
        assert_eq!((found.0.as_str(), found.1), (popped, dropped), "{before} LL {after}");
    }
    let (outbox, counters) = outbox();
    outbox.push_ordinary(large("L1", 10_000));
    push(&outbox, "paa1");
    outbox.push_ordinary(large("L2", 20_000));
    assert_eq!((drain(&outbox, true).as_str(), counters.ordinary_guaranteed.get()), ("aa L2", 1), "one at a time");
    push(&outbox, "paa1");
    assert_eq!(outbox.readiness(&large("LL", 10_000).message, QoS::AtLeastOnce), Readiness::Now);
}

/// A large message was lost with its connection, and all before it.
#[test]
fn a_session_without_connection_keeps_a_large_message() {
    let (outbox, _) = outbox();
    push(&outbox, "paa1 pbb1 pcc1");
    outbox.push_ordinary(large("L1", 10_000));
    outbox.detach(&FanOutPosition::new(0));
    assert_eq!(outbox.queued_count(), 3, "the oldest one is dropped");
    push(&outbox, "pdd1");
    assert_eq!(outbox.queued_count(), 3);
    outbox.attach(u16::MAX);
    assert_eq!(drain(&outbox, true), "cc L1 dd");
}

/// A message for which its principal has no memory dropped those for which it has.
#[test]
fn a_message_that_finds_no_memory_drops_no_other() {
    let principals = Quotas::new(&Limits::default()).principals;
    let role = RoleLimits { memory: 8 << 10, ..RoleLimits::UNLIMITED };
    let quota = principals.of(&"p".into(), &role, Instant::now());
    let counters = Arc::new(DropCounters::default());
    let outbox = outbox_of(quota, QueueLimits { bytes: 1 << 20, offline_bytes: 1 << 20 }, &counters);
    push(&outbox, "paa1 pbb1");
    outbox.push_ordinary(large("LL", 10_000));
    assert_eq!((drain(&outbox, true).as_str(), counters.ordinary_guaranteed.get()), ("aa bb", 1));
}
