//! Filters narrowed to rights, and rights asked once.

use std::{cell::Cell, collections::BTreeMap};

use super::*;
use crate::mqtt::protocol::topic::comparisons;

/// Returns the rights to receive the ordinary topics that match `topics`, as the principal `name`.
pub(super) fn access(name: &str, client: &str, topics: &[&str]) -> Access {
    let rule = RuleConfig {
        role: "r".into(),
        devices: vec!["{principal}".into()],
        names: vec!["*".into()],
        operations: Some(vec!["subscribe".into()]),
        read: vec!["/reported".into()],
        subscribe: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..RuleConfig::default()
    };
    let policy = Policy::read(&[rule], &[]).unwrap();
    policy.access(&Principal::named(name).unwrap(), Method::Certificate, Some("r"), &client.into())
}

fn restricted(id: u64, topics: &[&str]) -> Arc<Outbox> {
    session_with(id, 1 << 20, access("d1", "c", topics))
}

fn subscribe_as(router: &Router, outbox: &Arc<Outbox>, text: &str, id: u32) -> SubscriptionChange {
    router.subscribe(outbox, &subscription(text, 1), Some(id)).unwrap()
}

fn visited(router: &Router, topic: &str) -> usize {
    let mut count = 0;
    let _ = router.filters.read().visit(topic, |subscribers| {
        count += subscribers.own().count();
        ControlFlow::Continue(())
    });
    count
}

fn identifiers(outbox: &Outbox) -> Vec<Vec<u32>> {
    let ids = |delivery: Delivery| {
        let mut ids = delivery.subscription_ids.to_vec();
        ids.sort_unstable();
        ids
    };
    received(outbox).into_iter().map(ids).collect()
}

/// A device that subscribed to everything was found for, and asked about, each message of all others.
#[test]
fn a_filter_is_found_only_for_topics_that_its_session_may_receive() {
    let router = router();
    let outbox = restricted(1, &["chat/{principal}/#", "chat/+/x"]);
    assert_eq!(subscribe_as(&router, &outbox, "#", 1), SubscriptionChange::New);
    assert_eq!(subscribe_as(&router, &outbox, "#", 2), SubscriptionChange::Replaced);
    assert_eq!(subscribe_as(&router, &outbox, "chat/d1/#", 3), SubscriptionChange::New);
    assert_eq!(subscribe_as(&router, &outbox, "+/d1/+", 4), SubscriptionChange::New);
    for (topic, subscribers, ids) in [
        ("other", 0, None),
        ("chat/d2/y", 0, None),
        ("shadow/d2/document", 0, None),
        ("chat/d2/x", 1, Some(vec![2])),
        ("chat/d1", 2, Some(vec![2, 3])),
        ("chat/d1/x", 4, Some(vec![2, 3, 4])), // by both filters of the first subscription
    ] {
        assert_eq!(visited(&router, topic), subscribers, "{topic}");
        assert_eq!(publish(&router, topic), usize::from(ids.is_some()), "{topic}");
        assert_eq!(identifiers(&outbox), ids.clone().into_iter().collect::<Vec<_>>(), "{topic}");
        let selection = router.selection(&outbox, topic).map(|selection| selection.ids);
        assert_eq!(selection.map(BTreeSet::from_iter), ids.map(BTreeSet::from_iter), "{topic}");
    }
    for filter in ["#", "chat/d1/#", "+/d1/+"].map(filter) {
        assert!(router.unsubscribe(outbox.id(), &filter));
        assert!(!router.unsubscribe(outbox.id(), &filter));
    }
    assert!(is_empty(&router));
}

pub(super) fn is_empty(router: &Router) -> bool {
    let filters = router.filters.read();
    filters.wildcard.is_empty() && filters.exact.is_empty() && filters.narrowed.is_empty()
}

/// Its own rejected request is not among the topics that a session may receive.
#[test]
fn a_private_reply_is_delivered_by_the_filter_as_sent() {
    struct PrivateReply(Arc<Message>);
    impl Publication for PrivateReply {
        fn topic(&self) -> &str {
            self.0.topic.as_str()
        }
        fn message_for(&self, _: SessionId, _: &Access) -> Option<Arc<Message>> {
            Some(self.0.clone())
        }
    }
    let (router, outbox, other) = (router(), restricted(1, &[]), session(2));
    subscribe_as(&router, &outbox, "shadow/#", 1);
    subscribe_as(&router, &outbox, "shadow/+/update/+", 2);
    subscribe_as(&router, &other, "#", 3);
    for device in ["d1", "d2"] {
        let reply = PrivateReply(Arc::new(message(&format!("shadow/{device}/update/rejected"), "x")));
        assert_eq!(router.publish(&reply, DeliveryKind::Private { to: outbox.id() }), 1);
        assert_eq!((identifiers(&outbox), received(&other).len()), (vec![vec![1, 2]], 0), "{device}");
    }
}

/// Random subscriptions under rights that change: a message reaches a session if one of its filters selects the topic and
/// its present rights allow it, once and with the identifiers of these filters.
#[test]
fn narrowed_routing_agrees_with_filters_and_rights() {
    let (mut random, seed) = Random::seeded();
    let router = router();
    let patterns = ["a/#", "+/b", "a/b/+", "b", "a-/#", "+/+/a", "#", "é/+", "$s/#", "{principal}/#", "a*/b", "ab/+/#"];
    let sessions: Vec<_> = (1..=4).map(|id| restricted(id, &["a/#"])).collect();
    let mut subscribed: BTreeMap<(usize, TopicFilter), u32> = BTreeMap::new();
    for step in 1..2_000 {
        let (index, filter) = (random.below(sessions.len()), random.filter());
        match random.below(9) {
            0 => {
                let topics: Vec<_> = (0..random.below(4)).map(|_| patterns[random.below(patterns.len())]).collect();
                sessions[index].set_access(access("d1", "c", &topics));
                router.narrow_session_again(sessions[index].id());
            }
            1..=5 => {
                let known = subscribed.insert((index, filter.clone()), step);
                let change = subscribe_as(&router, &sessions[index], filter.as_str(), step);
                assert_eq!(change == SubscriptionChange::Replaced, known.is_some(), "seed {seed} step {step}");
            }
            _ => {
                let some = subscribed.keys().nth(random.below(subscribed.len().max(1))).cloned();
                let (index, filter) = some.unwrap_or((index, filter));
                let known = subscribed.remove(&(index, filter.clone())).is_some();
                assert_eq!(router.unsubscribe(sessions[index].id(), &filter), known, "seed {seed} step {step}");
            }
        }
        let topic = random.topic();
        publish(&router, topic.as_str());
        for (index, outbox) in sessions.iter().enumerate() {
            let selecting = subscribed.iter().filter(|((of, filter), _)| *of == index && filter.matches(&topic));
            let mut ids: Vec<u32> = selecting.map(|(_, id)| *id).collect();
            ids.sort_unstable();
            let expected = !ids.is_empty() && outbox.access().may_receive(topic.as_str());
            let expected: Vec<_> = expected.then_some(ids).into_iter().collect();
            assert_eq!(identifiers(outbox), expected, "seed {seed} step {step} session {index} {topic}");
        }
    }
    for (index, outbox) in sessions.iter().enumerate() {
        router.remove(outbox.id(), subscribed.keys().filter(|(of, _)| *of == index).map(|(_, filter)| filter));
    }
    assert!(is_empty(&router), "seed {seed}: filters remain");
}

/// Each session of one principal once had its rights evaluated for each message.
#[test]
fn rights_are_evaluated_once_for_sessions_that_have_the_same() {
    struct Counted(Arc<Message>, Cell<usize>);
    impl Publication for Counted {
        fn topic(&self) -> &str {
            self.0.topic.as_str()
        }
        fn message_for(&self, session: SessionId, access: &Access) -> Option<Arc<Message>> {
            self.1.set(self.1.get() + 1);
            self.0.message_for(session, access)
        }
    }
    let by_client = ["a/{client}/#", "a/b"];
    // principals, patterns, evaluations for 100 sessions of each
    for (principals, topics, expected) in
        [(1, &["a/b"][..], 1), (3, &["a/b"], 3), (1, &[], 1), (2, &by_client, 200), (20, &["a/{principal}", "a/b"], 20)]
    {
        let router = router();
        let mut sessions = Vec::new();
        for (principal, number) in (0..principals).flat_map(|principal| (0..100).map(move |number| (principal, number)))
        {
            let access = access(&format!("p{principal}"), &format!("c{number}"), topics);
            let outbox = session_with(principal * 100 + number, 1 << 20, access);
            subscribe_as(&router, &outbox, if number % 2 == 0 { "a/b" } else { "a/+" }, 1);
            sessions.push(outbox);
        }
        let publication = Counted(Arc::new(message("a/b", "x")), Cell::new(0));
        let receivers = router.publish(&publication, DeliveryKind::Ordinary { from: None });
        // A filter narrowed to nothing finds no session.
        let expected = if topics.is_empty() { 1 } else { expected };
        assert_eq!(publication.1.get(), expected, "{topics:?}");
        assert_eq!(receivers, if topics.is_empty() { 0 } else { sessions.len() }, "{topics:?}");
        assert!(sessions.iter().all(|outbox| received(outbox).len() <= 1));
    }
}

/// A device that subscribed to everything once visited the retained messages of all others.
#[test]
fn retained_lookups_are_narrowed_to_rights() {
    let router = router();
    for device in 0..2_000 {
        for end in ["x", "y"] {
            let topic = format!("chat/d{device}/{end}");
            assert_eq!(router.retain(&Arc::new(message(&topic, "x")), &publisher()), Ok(()));
        }
    }
    let outbox = restricted(1, &["chat/{principal}/#", "chat/+/x", "news"]);
    let own = restricted(2, &["chat/{principal}/#", "news"]);
    for (outbox, text, expected, few) in
        [(&outbox, "#", 2_001, false), (&own, "#", 2, true), (&own, "+/+/x", 1, true), (&own, "+/#", 2, true)]
    {
        let (mut found, mut steps, mut from) = (Vec::new(), 0, Some(Cursor::default()));
        while let Some(cursor) = from {
            let page = router.retained(outbox, &filter(text), cursor);
            found.extend(page.messages.iter().map(|message| message.topic.to_string()));
            (steps, from) = (steps + page.steps, page.next);
        }
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "{text}: each once");
        assert_eq!(found.len(), expected, "{text}");
        assert!(!few || steps < 32, "{text}: {steps} steps");
    }
}

/// AWS's `ListRetainedMessages` once examined the messages of all others for a client that may receive few, at the price of a
/// page.
#[test]
fn a_list_of_retained_messages_visits_those_of_its_client_and_reports_its_work() {
    let router = router();
    for device in 0..2_000 {
        for topic in [format!("chat/d{device}/x"), format!("chat/d{device}/y"), format!("$other/d{device}")] {
            assert_eq!(router.retain(&Arc::new(message(&topic, "x")), &publisher()), Ok(()));
        }
    }
    let many: Vec<String> = (0..17).map(|number| format!("chat/d{number}/x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let restricted = |topics: &[&str]| access("d1", "c", topics);
    let all = Access::admin(Principal::named("a").unwrap());
    for (access, after, expected, work_max) in [
        (restricted(&["chat/{principal}/#", "news"]), None, 2, 4),
        (restricted(&["chat/{principal}/#", "news"]), Some("chat/d1/x"), 1, 4),
        (restricted(&["chat/{principal}/#", "news"]), Some("chat/d1/y"), 0, 4),
        (restricted(&[]), None, 0, 0),
        (restricted(&["chat/+/x"]), None, 2_000, 5_000),
        // Rights without an outline cost what they examine.
        (restricted(&many), None, 17, 7_000),
        (restricted(&["$*/{principal}"]), None, 1, 7_000),
        (all, None, 6_000, 7_000),
    ] {
        let batches: Vec<_> = router.visible_retained(&access, after).collect();
        let topics: Vec<_> =
            batches.iter().flat_map(|batch| &batch.messages).map(|(message, _)| &message.topic).collect();
        assert_eq!(topics.len(), expected, "{topics:?}");
        assert!(topics.iter().all(|topic| access.may_receive(topic.as_str())));
        let work: u64 = batches.iter().map(|batch| batch.work).sum();
        assert!(work <= work_max, "{work} units for {expected}");
        assert!(work_max < 7_000 || work >= 6_000, "{work} units for all messages");
        assert!(batches.iter().all(|batch| batch.work <= 600), "the lock is held for a bounded time");
    }
}

/// Each SUBSCRIBE and UNSUBSCRIBE searched the narrowed filters of its session, and then for a number, once for each.
#[test]
fn a_narrowed_filter_is_not_compared_with_all_of_its_session() {
    let (router, outbox) = (router(), restricted(1, &["chat/{principal}/#"]));
    let filter_of = |number: usize| format!("+/d1/{number}");
    let compared = comparisons::of(|| {
        for _ in 0..3 {
            (0..300).for_each(|number| _ = subscribe_as(&router, &outbox, &filter_of(number), 1));
            router.set_connected(
                outbox.id(),
                (0..300).map(|number| filter(&filter_of(number))).collect::<Vec<_>>().iter(),
                true,
            );
        }
        let narrowed = router.filters.read().narrowed.count(outbox.id());
        assert_eq!(narrowed, 255, "those without a number stay as they are");
        assert_eq!(publish(&router, "chat/d1/299"), 1);
        for number in 0..300 {
            assert!(router.unsubscribe(outbox.id(), &filter(&filter_of(number))));
        }
    });
    assert!(compared <= 20 * 300, "{compared} comparisons");
    assert!(is_empty(&router));
}
