#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod batches;
mod narrowed;
mod shared;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use crate::mqtt::broker::router::*;
use crate::mqtt::{
    broker::outbox::{FanOutPosition, Item, QueueLimits},
    protocol::{
        packet::{QoS, RetainHandling},
        topic::TopicName,
    },
};
use crate::observability::metrics::DropCounters;
use crate::{
    admission::{Charge, Quotas},
    auth::{Access, Method, Policy, Principal},
    config::{Limits, RoleLimits, RuleConfig},
};

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn publisher() -> Arc<PrincipalQuota> {
    PrincipalQuota::unlimited("publisher")
}

fn router() -> Router {
    Router::default()
}

fn session_with(id: u64, bytes: usize, access: Access) -> Arc<Outbox> {
    let limits = QueueLimits { bytes, offline_bytes: bytes };
    Arc::new(Outbox::new(SessionId(id), limits, Arc::new(DropCounters::default()), access, Charge::new(publisher(), 0)))
}

fn session(id: u64) -> Arc<Outbox> {
    session_with(id, 1 << 20, Access::admin(Principal::anonymous("test")))
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

fn subscription(text: &str, qos: usize) -> Subscription {
    Subscription {
        filter: filter(text),
        qos: QOS[qos],
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

fn subscribe(router: &Router, outbox: &Arc<Outbox>, text: &str) {
    router.subscribe(outbox, &subscription(text, 1), None).unwrap();
}

fn message(topic: &str, payload: &str) -> Message {
    let topic = TopicName::new(topic).unwrap();
    Message::new(topic, payload.to_owned().into(), QoS::AtLeastOnce, false, None, Instant::now())
}

fn publish(router: &Router, topic: &str) -> usize {
    router.publish(&Arc::new(message(topic, "x")), DeliveryKind::Ordinary { from: None })
}

fn received(outbox: &Outbox) -> Vec<Delivery> {
    std::iter::from_fn(|| outbox.pop(u16::MAX))
        .filter_map(|item| match item {
            Item::Delivery { delivery, .. } => Some(delivery),
            Item::Ack { .. } | Item::Saved(_) => None,
        })
        .collect()
}

/// A SplitMix64 generator, to choose filters and topics.
struct Random(u64);

impl Random {
    fn seeded() -> (Self, u64) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = std::env::var("UMBRA_TEST_SEED").map_or(now.as_nanos() as u64, |text| text.parse().unwrap());
        (Self(seed), seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn levels(&mut self, names: &[&str]) -> String {
        let count = 1 + self.below(4);
        (0..count).map(|_| names[self.below(names.len())]).collect::<Vec<_>>().join("/")
    }

    fn topic(&mut self) -> TopicName {
        loop {
            if let Ok(topic) = TopicName::new(&self.levels(&["a", "ab", "b", "", "$s", "\u{1}", "é", "a-"])) {
                return topic;
            }
        }
    }

    fn filter(&mut self) -> TopicFilter {
        let mut text = self.levels(&["a", "ab", "b", "", "$s", "\u{1}", "é", "a-", "+", "+", "+"]);
        if self.below(4) == 0 {
            text.push_str("/#");
        }
        TopicFilter::new(&text).unwrap_or_else(|_| filter("#"))
    }
}

/// Sessions subscribe and unsubscribe at random. Each publish reaches exactly the sessions with a filter that matches.
#[test]
fn routing_agrees_with_matching_one_by_one() {
    let (mut random, seed) = Random::seeded();
    let router = router();
    let sessions: Vec<_> = (1..=8).map(session).collect();
    let mut subscribed: BTreeSet<(usize, TopicFilter)> = BTreeSet::new();
    for step in 0..4_000 {
        let (index, filter) = (random.below(sessions.len()), random.filter());
        if random.below(3) > 0 {
            let result = router.subscribe(&sessions[index], &subscription(filter.as_str(), 1), None).unwrap();
            assert_eq!(
                result == SubscriptionChange::New,
                subscribed.insert((index, filter)),
                "seed {seed} step {step}"
            );
        } else {
            let some = subscribed.iter().nth(random.below(subscribed.len().max(1))).cloned().unwrap_or((index, filter));
            assert_eq!(
                router.unsubscribe(sessions[some.0].id(), &some.1),
                subscribed.remove(&some),
                "seed {seed} step {step}"
            );
        }
        let topic = random.topic();
        let expected: BTreeSet<usize> =
            subscribed.iter().filter(|(_, f)| f.matches(&topic)).map(|(index, _)| *index).collect();
        assert_eq!(publish(&router, topic.as_str()), expected.len(), "seed {seed} {topic}");
        for (index, outbox) in sessions.iter().enumerate() {
            let count = usize::from(expected.contains(&index));
            assert_eq!(received(outbox).len(), count, "seed {seed} step {step} session {index} {topic}");
        }
    }
    for (index, outbox) in sessions.iter().enumerate() {
        router.remove(outbox.id(), subscribed.iter().filter(|(holder, _)| *holder == index).map(|(_, filter)| filter));
    }
    let filters = router.filters.read();
    assert!(filters.wildcard.is_empty() && filters.exact.is_empty(), "seed {seed}: filters remain");
}

/// Random retained messages, some of which expire or are removed: each lookup yields exactly those that match.
#[test]
fn retained_lookups_agree_with_matching_one_by_one() {
    let (mut random, seed) = Random::seeded();
    let mut retained = Retained::default();
    let mut stored: BTreeSet<TopicName> = BTreeSet::new();
    let now = Instant::now();
    for step in 0..2_000 {
        let topic = random.topic();
        let removed = random.below(3) == 0;
        let expires = (random.below(9) == 0).then_some(now);
        let payload = if removed { "" } else { "x" };
        let kept = Arc::new(Message { expires_at: expires, ..message(topic.as_str(), payload) });
        assert_eq!(retained.store(&kept, &publisher(), now), Ok(()));
        if removed || expires.is_some() {
            stored.remove(&topic);
        } else {
            stored.insert(topic);
        }
        let filters: Vec<_> = (0..1 + random.below(3)).map(|_| random.filter()).collect();
        let (mut found, mut from, mut last) = (Vec::new(), Some(Cursor::default()), None);
        while let Some(cursor) = from {
            let page = retained.page(&filters, cursor, now);
            assert!(page.messages.len() <= 64 && page.steps <= 600);
            found.extend(page.messages.iter().map(|message| message.topic.clone()));
            assert!(page.next.is_none() || page.next > last, "seed {seed}: the cursor advances");
            last.clone_from(&page.next);
            from = page.next;
        }
        let in_order = |topic: &TopicName| topic.as_str().replace('/', "\0");
        assert!(found.is_sorted_by_key(in_order), "seed {seed} step {step} {filters:?}");
        found.sort();
        let selected = |topic: &&TopicName| filters.iter().any(|filter| filter.matches(topic));
        let expected: Vec<_> = stored.iter().filter(selected).cloned().collect();
        assert_eq!(found, expected, "seed {seed} step {step} {filters:?}");
    }
}

#[test]
fn overlapping_filters_give_one_delivery() {
    // subscriptions (filter, QoS, identifier), published QoS, delivered QoS, identifiers
    type Row<'a> = (&'a [(&'a str, usize, u32)], usize, usize, &'a [u32]);
    let table: [Row; 5] = [
        (&[("a/b", 1, 0)], 2, 1, &[]),
        (&[("a/b", 2, 7)], 1, 1, &[7]),
        (&[("a/b", 0, 1), ("a/+", 2, 2), ("#", 1, 3)], 2, 2, &[1, 2, 3]),
        (&[("a/b", 0, 0), ("a/#", 0, 9)], 2, 0, &[9]),
        (&[("a/b", 1, 5), ("a/b", 2, 6), ("b", 2, 8)], 2, 2, &[6]),
    ];
    for (row, (subscriptions, published, qos, ids)) in table.into_iter().enumerate() {
        let (router, outbox) = (router(), session(1));
        let (other, bystander) = (session(2), session(3));
        subscribe(&router, &other, "a/#");
        subscribe(&router, &bystander, "b/#");
        for &(text, qos, id) in subscriptions {
            router.subscribe(&outbox, &subscription(text, qos), (id > 0).then_some(id)).unwrap();
        }
        let message = Arc::new(Message { qos: QOS[published], ..message("a/b", "x") });
        assert_eq!(router.publish(&message, DeliveryKind::Ordinary { from: None }), 2, "row {row}");
        let received = received(&outbox);
        assert_eq!(received.len(), 1, "row {row}");
        let mut delivered_ids = received[0].subscription_ids.to_vec();
        delivered_ids.sort_unstable();
        assert_eq!((received[0].qos, delivered_ids.as_slice()), (QOS[qos], ids), "row {row}");
    }
}

#[test]
fn subscription_options_are_respected() {
    // no local, retain as published, own message, delivered, retain flag
    let table = [
        (false, false, true, true, false),
        (true, false, true, false, false),
        (true, false, false, true, false),
        (false, true, false, true, true),
    ];
    for (no_local, retain_as_published, own, delivered, retain) in table {
        let (router, outbox) = (router(), session(1));
        let chosen = Subscription { no_local, retain_as_published, ..subscription("a", 1) };
        router.subscribe(&outbox, &chosen, None).unwrap();
        let message = Arc::new(Message { retain: true, ..message("a", "x") });
        let from = Some(SessionId(if own { 1 } else { 2 }));
        assert_eq!(router.publish(&message, DeliveryKind::Ordinary { from }), usize::from(delivered));
        let flags: Vec<_> = received(&outbox).iter().map(|delivery| delivery.retain).collect();
        assert_eq!(flags, if delivered { vec![retain] } else { vec![] });
    }
    // Only one of two overlapping subscriptions has No Local: the other still selects the session's own message.
    let (router, outbox) = (router(), session(1));
    router.subscribe(&outbox, &Subscription { no_local: true, ..subscription("a", 2) }, Some(1)).unwrap();
    router.subscribe(&outbox, &subscription("+", 0), Some(2)).unwrap();
    router.publish(&Arc::new(message("a", "x")), DeliveryKind::Ordinary { from: Some(SessionId(1)) });
    let received = received(&outbox);
    assert_eq!((received[0].qos, &*received[0].subscription_ids), (QoS::AtMostOnce, &[2][..]));
}

#[test]
fn the_delivery_kind_decides_receivers_and_sequence() {
    // kind, sequence popped by the requesting session (1), and by another (2)
    let table = [
        (DeliveryKind::Ordinary { from: Some(SessionId(1)) }, Some(None), Some(None)),
        (DeliveryKind::Event { seq: 5 }, Some(Some(5)), Some(Some(5))),
        (DeliveryKind::Document { seq: 5 }, Some(Some(5)), Some(Some(5))),
        (DeliveryKind::Reply { to: SessionId(1), seq: Some(5) }, Some(None), Some(Some(5))),
        (DeliveryKind::Reply { to: SessionId(1), seq: None }, Some(None), Some(None)),
        (DeliveryKind::Private { to: SessionId(1) }, Some(None), None),
        (DeliveryKind::Others { than: SessionId(1) }, None, Some(None)),
    ];
    for (kind, requester, other) in table {
        let (router, outboxes) = (router(), [session(1), session(2)]);
        outboxes.iter().for_each(|outbox| subscribe(&router, outbox, "a/b"));
        subscribe(&router, &outboxes[0], "a/+");
        let receivers = router.publish(&Arc::new(message("a/b", "x")), kind);
        let popped = outboxes.each_ref().map(|outbox| {
            outbox.pop(u16::MAX).map(|item| match item {
                Item::Delivery { seq, .. } => seq,
                Item::Ack { .. } | Item::Saved(_) => panic!("no request was made"),
            })
        });
        assert_eq!(popped, [requester, other], "{kind:?}");
        assert_eq!(receivers, [requester, other].iter().flatten().count(), "{kind:?}");
    }
}

#[test]
fn members_of_a_shared_group_take_turns() {
    let (router, members) = (router(), [1, 2, 3].map(session));
    members.iter().for_each(|member| subscribe(&router, member, "$share/g/a/+"));
    let alone = session(9);
    subscribe(&router, &alone, "$share/h/a/b");
    let counts = |times: usize| {
        for _ in 0..times {
            assert_eq!(publish(&router, "a/b"), 2, "one of each group");
        }
        members.each_ref().map(|member| received(member).len())
    };
    assert_eq!(counts(9), [3, 3, 3]);
    members[1].detach(&FanOutPosition::new(0));
    assert_eq!(counts(8), [4, 0, 4], "a member without a connection is skipped");
    members[0].detach(&FanOutPosition::new(0));
    members[2].detach(&FanOutPosition::new(0));
    assert_eq!(counts(3), [1, 1, 1], "if none has a connection, the messages are kept");
    assert!(router.unsubscribe(members[0].id(), &filter("$share/g/a/+")));
    assert!(!router.unsubscribe(members[0].id(), &filter("$share/g/a/+")));
    assert!(!router.unsubscribe(members[1].id(), &filter("a/+")), "a shared subscription is a separate one");
    assert_eq!(counts(4), [0, 2, 2]);
    assert_eq!(received(&alone).len(), 24);
}

#[test]
fn a_shared_group_skips_a_full_member() {
    let (router, full, free) =
        (router(), session_with(1, 300, Access::admin(Principal::anonymous("test"))), session(2));
    [&full, &free].iter().for_each(|member| subscribe(&router, member, "$share/g/a"));
    (0..10).for_each(|_| assert_eq!(publish(&router, "a"), 1));
    assert_eq!((received(&full).len(), received(&free).len()), (2, 8));
}

#[test]
fn every_delivery_requires_the_right_to_read() {
    let open = RuleConfig { role: "r".into(), subscribe: vec!["open/#".into()], ..RuleConfig::default() };
    let policy = Policy::read(&[open], &[]).unwrap();
    let access = policy.access(&Principal::anonymous("x"), Method::Anonymous, Some("r"), &"x".into());
    let (router, barred, free) = (router(), session_with(1, 1 << 20, access), session(2));
    subscribe(&router, &barred, "#");
    subscribe(&router, &barred, "secret");
    [&barred, &free].iter().for_each(|member| subscribe(&router, member, "$share/g/#"));
    for kind in [
        DeliveryKind::Ordinary { from: None },
        DeliveryKind::Event { seq: 1 },
        DeliveryKind::Private { to: SessionId(1) },
    ] {
        router.publish(&Arc::new(message("secret", "x")), kind);
    }
    assert_eq!((received(&barred).len(), received(&free).len()), (0, 2), "only the group's other member");
    assert_eq!(router.retain(&Arc::new(message("secret", "x")), &publisher()), Ok(()));
    assert_eq!(router.retained(&barred, &filter("#"), Cursor::default()).messages.len(), 0);
    assert_eq!(router.retained(&free, &filter("#"), Cursor::default()).messages.len(), 1);
    assert_eq!(router.retained(&free, &filter("$share/g/#"), Cursor::default()).messages.len(), 0);
}

/// The unacknowledged messages of a member that left went to no other member. They must not go to one with fewer
/// rights.
#[test]
fn messages_of_a_member_that_left_go_only_to_members_that_may_read_them() {
    let all = Access::admin(Principal::anonymous("test"));
    let rule = RuleConfig {
        role: "r".into(),
        devices: vec!["d".into()],
        names: vec!["".into()],
        operations: Some(vec!["subscribe".into()]),
        read: vec!["/reported".into()],
        subscribe: vec!["open/#".into()],
        ..RuleConfig::default()
    };
    let policy = Policy::read(&[rule], &[]).unwrap();
    let part = policy.access(&Principal::anonymous("x"), Method::Anonymous, Some("r"), &"x".into());
    // topic, rights of the former member, true if the member with fewer rights gets it
    let table = [
        ("open/t", &all, true),
        ("secret", &all, false),
        ("shadow/d/update/delta", &all, false),
        ("shadow/d/update/delta", &part, true),
        ("shadow/d/document", &part, true),
    ];
    for (topic, former, expected) in table {
        let (router, leaves) = (router(), session(1));
        let (narrow, other) = (session_with(2, 1 << 20, part.clone()), session(3));
        subscribe(&router, &leaves, "$share/g/#");
        router.publish(&Arc::new(message(topic, "x")), DeliveryKind::Ordinary { from: None });
        router.remove(leaves.id(), [&filter("$share/g/#")]);
        subscribe(&router, &narrow, "$share/g/#");
        subscribe(&router, &other, "$share/other/#");
        for delivery in leaves.take_shared() {
            router.hand_over(&delivery, former);
        }
        assert_eq!(received(&narrow).len(), usize::from(expected), "{topic}");
        assert!(received(&other).is_empty(), "another group gets none");
    }
}

/// Ten thousand sessions that nobody comes back for, with filters on everybody's events, once cost each writer as much as
/// if they were connected.
#[test]
fn events_pass_over_sessions_without_a_connection() {
    let router = router();
    let filters = ["shadow/+/update/accepted", "shadow/lamp/update/accepted", "a/#"].map(filter);
    let [away, here] = [1, 2].map(session);
    for outbox in [&away, &here] {
        filters.iter().for_each(|filter| subscribe(&router, outbox, filter.as_str()));
    }
    let event = Arc::new(message("shadow/lamp/update/accepted", "x"));
    let kept = Arc::new(Message { qos: QoS::AtLeastOnce, ..message("a/b", "x") });
    let momentary = Arc::new(Message { qos: QoS::AtMostOnce, ..message("a/b", "x") });
    let (by, ordinary) = (away.id(), DeliveryKind::Ordinary { from: None });
    let receivers = || {
        [
            router.publish(&event, DeliveryKind::Event { seq: 1 }),
            router.publish(&event, DeliveryKind::Change { by, seq: 1 }),
            router.publish(&event, DeliveryKind::Private { to: by }),
            router.publish(&kept, ordinary),
            router.publish(&momentary, ordinary),
            router.publish(&event, DeliveryKind::Presence { number: 1 }),
        ]
    };
    assert_eq!(receivers(), [2, 2, 1, 2, 2, 2]);
    router.set_connected(away.id(), &filters, false);
    assert_eq!(receivers(), [1, 2, 1, 2, 1, 1], "without those that it looks up when it returns");
    assert_eq!(router.selection(&away, "a/b").map(|selection| selection.qos()), Some(QoS::AtLeastOnce));
    router.set_connected(away.id(), &filters, true);
    assert_eq!(receivers(), [2, 2, 1, 2, 2, 2]);
    router.set_connected(away.id(), &filters, false);
    for outbox in [&away, &here] {
        router.remove(outbox.id(), &filters);
    }
    let filters = router.filters.read();
    assert!(filters.wildcard.is_empty() && filters.exact.is_empty());
}

#[test]
fn retained_messages_have_limits() {
    const OWN: Result<(), QuotaKind> = Err(QuotaKind::PrincipalMemory);
    let now = Instant::now();
    let mut retained = Retained::default();
    let limits = RoleLimits { memory: 10_000, ..RoleLimits::UNLIMITED };
    let quotas = Quotas::new(&Limits::default());
    let mut kept = |by: &str, topic: &str, length: usize, expires_at: Option<Instant>, now: Instant| {
        let message = Message { expires_at, ..message(topic, &"x".repeat(length)) };
        let stored = retained.store(&Arc::new(message), &quotas.principals.of(&by.into(), &limits, now), now);
        let page = retained.page(&[filter("#")], Cursor::default(), now);
        let there = page.messages.iter().map(|message| format!("{}{}", message.topic, message.payload.len()));
        (stored, there.collect::<Vec<_>>().join(" "))
    };
    let later = now + Duration::from_secs(60);
    // principal, topic, payload bytes, expiry, time, result, retained afterwards
    let table = [
        ("p", "a", 1, None, now, Ok(()), "a1"),
        ("p", "b", 9_000, Some(later), now, Ok(()), "a1 b9000"),
        ("p", "c", 1_000, None, now, OWN, "a1 b9000"), // too much
        ("q", "c", 1, None, now, Ok(()), "a1 b9000 c1"),
        ("q", "b", 2, Some(later), now, Ok(()), "a1 b2 c1"), // it counts for another principal now
        ("p", "a", 8_000, None, now, Ok(()), "a8000 b2 c1"),
        ("p", "a", 9_800, None, now, OWN, "a8000 b2 c1"), // too large, and the previous one stays
        ("q", "b", 9_000, Some(later), now, Ok(()), "a8000 b9000 c1"),
        ("q", "d", 9_000, None, later, Ok(()), "a8000 c1 d9000"), // an expired message freed its place
        ("q", "e", 0, None, later, Ok(()), "a8000 c1 d9000"),
        ("q", "a", 0, None, later, Ok(()), "c1 d9000"),
        ("p", "b", 8_000, None, later, Ok(()), "b8000 c1 d9000"),
        ("p", "b", 0, None, later, Ok(()), "c1 d9000"),
        ("p", "c", 0, None, later, Ok(()), "d9000"),
        ("p", "d", 0, None, later, Ok(()), ""),
    ];
    for (row, (by, topic, length, expires_at, now, stored, there)) in table.into_iter().enumerate() {
        assert_eq!(kept(by, topic, length, expires_at, now), (stored, there.to_owned()), "row {row}");
    }
    assert!(retained.is_empty() && quotas.principals.memory().used() == 0);
}

#[test]
fn retained_messages_are_read_in_pages() {
    let router = Router::default();
    for number in 0..3_000 {
        let topic = format!("a/{number}/{}", if number % 100 == 0 { "x" } else { "y" });
        assert_eq!(router.retain(&Arc::new(message(&topic, "x")), &publisher()), Ok(()));
    }
    let outbox = session(1);
    for (text, expected) in [("a/#", 3_000), ("a/+/x", 30), ("a/7/y", 1), ("+/+", 0), ("b/#", 0), ("a/+/y", 2_970)] {
        let (mut found, mut from) = (0, Some(Cursor::default()));
        while let Some(cursor) = from {
            let page = router.retained(&outbox, &filter(text), cursor);
            assert!(page.messages.len() <= 64);
            (found, from) = (found + page.messages.len(), page.next);
        }
        assert_eq!(found, expected, "{text}");
    }
}

/// Each lookup of a filter that selects nothing once visited all topics below its leading levels: 64 filters of one
/// SUBSCRIBE took a second among 10,000 messages.
#[test]
fn a_lookup_costs_what_it_returns() {
    const COUNT: usize = 10_000;
    let now = Instant::now();
    let mut retained = Retained::default();
    for number in 0..COUNT {
        let end = if number % 2_000 == 0 { "x/deep/er" } else { "y" };
        let topic = format!("devices/d{}/{number}/{end}", number % 10);
        assert_eq!(retained.store(&Arc::new(message(&topic, "x")), &publisher(), now), Ok(()));
    }
    for (text, expected) in [
        ("devices/+/+/z", 0),
        ("+/+/+/z/#", 0),
        ("+/+/+", 0),
        ("+/+/+/+/+", 0),
        ("+/+/+/+/+/+/+/#", 0),
        ("devices/+/+/x/deep", 0),
        ("devices/d0/+/z", 0),
        ("other/#", 0),
        ("+/d77/#", 0),
        ("+/+/7/y", 1),
        ("devices/+/+/x/#", 5),
        ("+/+/+/+/+/#", 5),
        ("+/+/2000/#", 1),
        ("+/+/+/+/deep/+", 5),
        ("devices/d0/#", COUNT / 10),
        ("#", COUNT),
        ("+/+/+/y", COUNT - 5),
    ] {
        let (mut found, mut steps, mut from) = (0, 0, Some(Cursor::default()));
        while let Some(cursor) = from {
            let page = retained.page(&[filter(text)], cursor, now);
            (found, steps, from) = (found + page.messages.len(), steps + page.steps as usize, page.next);
        }
        assert_eq!(found, expected, "{text}");
        // A topic may take a seek for each level of the filter and for each page, and a lookup a few to begin and end.
        let levels = text.split('/').count();
        assert!(steps <= 16 + 2 * (found + found / 64) * levels, "{text}: {steps} steps for {found} messages");
    }
}

#[test]
fn deep_topics_and_filters_are_bounded() {
    let (router, outbox) = (router(), session(1));
    let deep = "/".repeat(512);
    subscribe(&router, &outbox, &deep);
    subscribe(&router, &outbox, "#");
    for levels in 1..=64 {
        subscribe(&router, &outbox, &vec!["+"; levels].join("/"));
        subscribe(&router, &outbox, &format!("{}#", "+/".repeat(levels - 1)));
    }
    let too_deep = vec!["+"; 65].join("/");
    assert_eq!(router.subscribe(&outbox, &subscription(&too_deep, 1), None), Err(Reason::QUOTA_EXCEEDED));
    assert_eq!(publish(&router, &deep), 1);
    assert_eq!(router.retain(&Arc::new(message(&deep, "x")), &publisher()), Ok(()));
    let page = router.retained(&outbox, &filter(&format!("{too_deep}/#")), Cursor::default());
    assert_eq!((page.messages.len(), received(&outbox).len()), (1, 1));
}
