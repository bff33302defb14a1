//! The members that a publication visits, and those that it reaches.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{narrowed::access, *};
use crate::mqtt::broker::{outbox::Readiness, router::shared::visits};

const BLOCKED: u64 = 1_000;

fn publish_at(router: &Router, topic: &str, qos: usize) -> usize {
    let message = Message { qos: QOS[qos], ..message(topic, "x") };
    router.publish(&Arc::new(message), DeliveryKind::Ordinary { from: None })
}

fn disconnect(router: &Router, outbox: &Outbox, filters: &[&str]) {
    outbox.detach(&FanOutPosition::new(0));
    router.set_connected(outbox.id(), filters.iter().map(|text| filter(text)), false);
}

fn connect(router: &Router, outbox: &Outbox, filters: &[&str]) {
    router.set_connected(outbox.id(), filters.iter().map(|text| filter(text)), true);
    outbox.attach(u16::MAX);
    assert!(outbox.finish_resync(0, &FanOutPosition::new(0)));
}

/// Returns sessions with the ids in `ids` that are blocked by `block` after they became members.
fn blocked(router: &Router, ids: RangeInclusive<u64>, block: fn(&Router, &Outbox)) -> Vec<Arc<Outbox>> {
    let all: Vec<_> = ids.map(|id| session_with(id, 2000, Access::admin(Principal::anonymous("test")))).collect();
    for outbox in &all {
        subscribe(router, outbox, "$share/g/#");
        block(router, outbox);
    }
    all
}

fn fill(outbox: &Outbox) {
    let one = Arc::new(message("a", "x"));
    while outbox.readiness(&one, QOS[1]) != Readiness::Never && outbox.queued_bytes() < 1900 {
        outbox.push_ordinary(Selection { qos: QOS[1], ..Selection::default() }.deliver(Arc::clone(&one)));
    }
}

type Block = (&'static str, fn(&Router, &Outbox));

const BLOCKS: [Block; 5] = [
    ("absent", |router, outbox| disconnect(router, outbox, &["$share/g/#"])),
    ("just lost", |_, outbox| outbox.detach(&FanOutPosition::new(0))),
    ("never acknowledges", |_, outbox| assert!(outbox.pop(0).is_none())),
    ("full", |_, outbox| fill(outbox)),
    ("absent and full", |router, outbox| {
        disconnect(router, outbox, &["$share/g/#"]);
        fill(outbox);
    }),
];

/// Each message for a group visited its members one after another until one was ready: a thousand members that do not acknowledge,
/// or that are absent, slowed the publications of everybody.
#[test]
fn a_publication_visits_few_of_the_members_that_are_not_ready() {
    for (name, block) in BLOCKS {
        let router = router();
        let others = blocked(&router, 1..=BLOCKED, block);
        let ready = session(BLOCKED + 1);
        subscribe(&router, &ready, "$share/g/#");
        let first = visits::of(|| _ = publish(&router, "a"));
        assert!(first <= others.len() + 3, "{name}: {first}");
        assert!(name != "absent" || first <= 3, "{name}: {first}");
        for qos in [0, 1, 1, 0, 1] {
            let visited = visits::of(|| assert_eq!(publish_at(&router, "a", qos), 1));
            // A member that does not acknowledge takes a message at QoS 0.
            assert!(visited <= 5, "{name}: {visited}");
        }
        let at_most_once = others.iter().flat_map(|outbox| received(outbox)).filter(|it| it.qos == QOS[0]).count();
        assert!(received(&ready).len() + at_most_once >= 6, "{name}");
    }
}

/// With nobody ready, a message visits few members and waits for one of them.
#[test]
fn a_publication_visits_few_members_if_none_is_ready() {
    for (name, block) in BLOCKS.into_iter().take(3) {
        let router = router();
        let all = blocked(&router, 1..=BLOCKED, block);
        publish(&router, "a");
        for _ in 1..100 {
            let visited = visits::of(|| assert_eq!(publish(&router, "a"), 1));
            assert!(visited <= 70, "{name}: {visited}");
        }
        let counts: Vec<_> = all.iter().map(|outbox| received(outbox).len()).collect();
        assert_eq!((counts.iter().sum::<usize>(), counts.iter().max()), (100, Some(&1)), "{name}: they take turns");
    }
}

/// Where all members would drop a message, it visited each of them.
#[test]
fn a_message_that_nobody_keeps_visits_few_members() {
    for (name, qos, block) in
        [("full", 1, BLOCKS[3].1), ("full, QoS 0", 0, BLOCKS[3].1), ("absent, QoS 0", 0, BLOCKS[0].1)]
    {
        let router = router();
        let all = blocked(&router, 1..=BLOCKED, block);
        let begun = Instant::now();
        let visited = visits::of(|| (0..500).for_each(|_| assert_eq!(publish_at(&router, "a", qos), 1, "{name}")));
        let scans = 2 + begun.elapsed().as_millis() as usize / 100;
        assert!(visited <= 500 * 40 + scans * (all.len() + 40), "{name}: {visited} visits, {scans} scans");
    }
}

/// A message at QoS 0, which absent members drop, is no reason to drop one that they keep. Nor is a long one.
#[test]
fn a_message_is_kept_after_others_were_dropped() {
    let router = router();
    let absent = blocked(&router, 1..=100, BLOCKS[0].1);
    for qos in [0, 1, 0, 0, 1] {
        assert_eq!(publish_at(&router, "a", qos), 1);
    }
    assert_eq!(absent.iter().map(|outbox| received(outbox).len()).sum::<usize>(), 2);

    // Members that have no room for a long message come before absent ones with a small one.
    let connected = blocked(&router, 201..=300, |_, _| {});
    (0..1300).for_each(|_| assert_eq!(publish(&router, "a"), 1));
    let queued = || connected.iter().map(|outbox| outbox.queued_bytes()).sum::<usize>();
    let before = queued();
    let long = Arc::new(message("a", &"x".repeat(200)));
    assert_eq!(router.publish(&long, DeliveryKind::Ordinary { from: None }), 1);
    assert_eq!(queued(), before, "an absent one has it");
    assert_eq!(publish(&router, "a"), 1);
    assert!(queued() > before, "{before}");
    // Now no member is left that has room for a long one.
    absent.iter().for_each(|outbox| assert!(router.unsubscribe(outbox.id(), &filter("$share/g/#"))));
    let is_dropped = |payload: &str| {
        let (message, before) = (Arc::new(message("a", payload)), queued());
        router.publish(&message, DeliveryKind::Ordinary { from: None });
        queued() < before + payload.len()
    };
    assert!(is_dropped(&"x".repeat(200)) && !is_dropped("x"));
}

/// Every member whose rights did not cover the topic was visited and evaluated, for each message of any device.
#[test]
fn members_are_not_visited_for_topics_that_their_rights_do_not_cover() {
    // patterns, visits for a topic that none of them covers, and for one that they do
    for (patterns, denied, allowed) in [
        (&["a/#", "+/b"][..], 0..=0, 1..=3),
        // Narrowed to `+/+`, and to nothing that is smaller.
        (&["a*/b*"], 1..=1, 1..=3),
        (&["a*/{client}"], 0..=0, 1..=3),
        (&["a/{client}"], 0..=0, 1..=3),
    ] {
        let router = router();
        let mut all = Vec::new();
        for id in 0..BLOCKED {
            let outbox = session_with(id, 1 << 20, access("d1", &format!("b{id}"), patterns));
            subscribe(&router, &outbox, "$share/g/#");
            all.push(outbox);
        }
        let visited = visits::of(|| assert_eq!(publish(&router, "x/y"), 0));
        assert!(denied.contains(&visited), "{patterns:?}: {visited}");
        assert_eq!(visits::of(|| assert_eq!(publish(&router, "shadow/d2/document"), 0)), 0, "{patterns:?}");
        let visited = visits::of(|| assert_eq!(publish(&router, "a/b7"), 1));
        assert!(allowed.contains(&visited), "{patterns:?}: {visited}");
        // Another member reads everything.
        let other = session(BLOCKED);
        subscribe(&router, &other, "$share/g/#");
        let visited = visits::of(|| assert_eq!(publish(&router, "x/y"), 1));
        assert!(visited <= 1 + denied.end(), "{patterns:?}: {visited}");
        assert_eq!(received(&other).len(), 1);
        assert_eq!(all.iter().map(|outbox| received(outbox).len()).sum::<usize>(), 1, "{patterns:?}");
        all.iter().chain([&other]).for_each(|outbox| assert!(router.unsubscribe(outbox.id(), &filter("$share/g/#"))));
        assert!(narrowed::is_empty(&router));
    }
}

/// A member that was blocked gets its share again once it takes messages, with no more than a few of them in between.
#[test]
fn a_member_that_has_caught_up_gets_its_share_again() {
    for (name, block, unblock) in [
        ("acknowledges", BLOCKS[2].1, (|_, outbox| _ = received(outbox)) as fn(&Router, &Outbox)),
        ("has room", BLOCKS[3].1, |_, outbox| _ = received(outbox)),
        ("is back", BLOCKS[0].1, |router, outbox| connect(router, outbox, &["$share/g/#"])),
    ] {
        let router = router();
        let mut all = blocked(&router, 1..=3, block);
        all.extend((4..=5).map(session));
        all.iter().skip(3).for_each(|outbox| subscribe(&router, outbox, "$share/g/#"));
        let counts = |times: usize| {
            (0..times).for_each(|_| assert_eq!(publish(&router, "a"), 1));
            all.iter().map(|outbox| received(outbox).len()).collect::<Vec<_>>()
        };
        (0..10).for_each(|_| assert_eq!(publish(&router, "a"), 1));
        let ready = all.iter().skip(3).map(|outbox| received(outbox).len()).collect::<Vec<_>>();
        assert_eq!(ready, [5, 5], "{name}");
        all.iter().take(3).for_each(|outbox| unblock(&router, outbox));
        counts(5);
        assert_eq!(counts(5), [1, 1, 1, 1, 1], "{name}");
    }
}

/// A member whose filter is narrowed to several that select a topic gets its share only. So do those with other rights.
#[test]
fn members_at_several_filters_take_turns() {
    let router = router();
    let rights = [&["a/#", "+/b"][..], &["a/#", "+/b"], &["a/b", "c"], &["#"], &["a*/b"]];
    let members: Vec<_> =
        (1..).zip(rights).map(|(id, topics)| session_with(id, 1 << 20, access("d1", "c", topics))).collect();
    members.iter().for_each(|member| subscribe(&router, member, "$share/g/#"));
    let counts = |topic: &str, times: usize| {
        (0..times).for_each(|_| assert_eq!(publish(&router, topic), 1));
        members.iter().map(|member| received(member).len()).collect::<Vec<_>>()
    };
    counts("a/b", 5);
    assert_eq!(counts("a/b", 20), [4, 4, 4, 4, 4]);
    counts("x/b", 3);
    assert_eq!(counts("x/b", 12), [4, 4, 0, 4, 0]);
    // Those that share few topics with others are not left out of these.
    for _ in 0..10 {
        publish(&router, "c");
        publish(&router, "a/b");
    }
    assert!(members.iter().all(|member| (2..=8).contains(&received(member).len())));
    for member in &members {
        let delivery = Delivery { share: Some(Arc::new(filter("$share/g/#"))), ..orphan("a/b") };
        assert!(router.hand_over(&delivery, &member.access()));
        assert!(router.unsubscribe(member.id(), &filter("$share/g/#")));
    }
    assert!(!router.deliver_to_group(&Arc::new(message("a/b", "x")), &Arc::new(filter("$share/g/#"))));
    assert!(narrowed::is_empty(&router));
}

fn orphan(topic: &str) -> Delivery {
    Selection { qos: QOS[1], ..Selection::default() }.deliver(Arc::new(message(topic, "x")))
}

/// The reply to a request of a member is for it alone, on a topic that its rights do not cover and its filters do not select.
#[test]
fn replies_know_members_by_the_filter_as_sent() {
    struct Reply(Arc<Message>);
    impl Publication for Reply {
        fn topic(&self) -> &str {
            self.0.topic.as_str()
        }
        fn message_for(&self, _: SessionId, _: &Access) -> Option<Arc<Message>> {
            Some(self.0.clone())
        }
    }
    let (router, member, other) = (router(), session_with(1, 1 << 20, access("d1", "c", &["a/#"])), session(2));
    for outbox in [&member, &other] {
        ["$share/g/shadow/#", "$share/h/shadow/#"].iter().for_each(|text| subscribe(&router, outbox, text));
    }
    subscribe(&router, &other, "$share/i/shadow/#");
    let reply = Reply(Arc::new(message("shadow/d2/update/rejected", "x")));
    assert_eq!(router.publish(&reply, DeliveryKind::Private { to: member.id() }), 2);
    assert_eq!((received(&member).len(), received(&other).len()), (2, 0), "one as a member of each group");
    assert_eq!(router.publish(&reply, DeliveryKind::Others { than: member.id() }), 1, "the group without it");
    assert_eq!((received(&member).len(), received(&other).len()), (0, 1));
}

/// After a change of rights, an absent session whose filter was narrowed anew got events as if it were connected.
#[test]
fn an_absent_session_stays_absent_when_its_rights_change() {
    let router = router();
    let (outbox, other) = (session_with(1, 1 << 20, access("d1", "c", &["a/#"])), session(2));
    let filters = ["#", "$share/g/#", "$share/g/b"];
    filters.iter().for_each(|text| subscribe(&router, &outbox, text));
    subscribe(&router, &other, "$share/g/#");
    disconnect(&router, &outbox, &filters);
    outbox.set_access(access("d1", "c", &["a/#", "b"]));
    router.narrow_session_again(outbox.id());
    let event = |topic: &str| router.publish(&Arc::new(message(topic, "x")), DeliveryKind::Event { seq: 1 });
    let visited = visits::of(|| assert_eq!((event("b"), event("a/b")), (2, 1)));
    assert_eq!((visited, received(&other).len()), (3, 2), "the absent member is visited as the only one of a group");
    connect(&router, &outbox, &filters);
    assert_eq!(event("b"), 3);
}

/// A member whose rights have changed is asked by its present ones.
#[test]
fn rights_that_change_move_a_member() {
    let router = router();
    let members: Vec<_> = (1..=4).map(|id| session_with(id, 1 << 20, access("d1", "c", &["a*/x"]))).collect();
    for member in &members {
        ["$share/g/#", "$share/h/b/x"].iter().for_each(|text| subscribe(&router, member, text));
    }
    assert_eq!(publish(&router, "b/x"), 0);
    members[2].set_access(access("d1", "c", &["b*/x"]));
    router.narrow_session_again(members[2].id());
    (0..3).for_each(|_| assert_eq!(publish(&router, "b/x"), 2));
    assert_eq!(received(&members[2]).len(), 6);
    members[2].set_access(Access::admin(Principal::anonymous("test")));
    router.narrow_session_again(members[2].id());
    members[3].set_access(Access::none(Principal::anonymous("test")));
    (0..3).for_each(|_| assert_eq!((publish(&router, "b/x"), publish(&router, "a/x")), (2, 1)));
    assert_eq!(received(&members[3]).len(), 0, "its rights are those of now");
}

/// One session of the model.
struct Member {
    outbox: Arc<Outbox>,
    rights: usize,
    is_connected: bool,
    filters: BTreeMap<usize, usize>,
}

/// Members subscribe, leave, come and go, acknowledge, and get other rights at random. A message reaches exactly one member of each
/// group with one that may read it, and the most ready one of them; with small queues, one that keeps it if there is such.
#[test]
fn groups_agree_with_a_visit_of_all_members() {
    for bytes in [1 << 20, 300] {
        agree_with_a_visit_of_all_members(bytes);
    }
}

fn agree_with_a_visit_of_all_members(bytes: usize) {
    const FILTERS: [&str; 6] =
        ["$share/g/#", "$share/g/a/+", "$share/h/+/b", "$share/h/#", "$share/g/a/b", "$share/i/c"];
    const RIGHTS: [&[&str]; 7] =
        [&["#"], &["a/#", "+/b"], &["a*/b"], &["{client}/b"], &["c"], &[], &["a/b", "c", "b/+"]];
    const TOPICS: [&str; 5] = ["a/b", "b/b", "c", "a/c", "ab/b"];
    let (mut random, seed) = Random::seeded();
    let router = router();
    let access =
        |member: usize, rights: usize| access("d1", ["a", "b", "c", "ab", "x", "y", "z", "u"][member], RIGHTS[rights]);
    let mut members: Vec<_> = (0..8)
        .map(|id| Member {
            outbox: session_with(id as u64, bytes, access(id, 1)),
            rights: 1,
            is_connected: true,
            filters: BTreeMap::new(),
        })
        .collect();
    for step in 0..6_000 {
        let index = random.below(members.len());
        let member = &mut members[index];
        let filter_index = random.below(FILTERS.len());
        let filters: Vec<_> = member.filters.keys().map(|index| FILTERS[*index]).collect();
        match random.below(8) {
            0 | 1 if member.is_connected => {
                let qos = random.below(2);
                router.subscribe(&member.outbox, &subscription(FILTERS[filter_index], qos), None).unwrap();
                member.filters.insert(filter_index, qos);
            }
            2 => {
                let existed = router.unsubscribe(member.outbox.id(), &filter(FILTERS[filter_index]));
                assert_eq!(existed, member.filters.remove(&filter_index).is_some(), "seed {seed} step {step}");
            }
            3 if member.is_connected => {
                disconnect(&router, &member.outbox, &filters);
                member.is_connected = false;
            }
            3 => {
                connect(&router, &member.outbox, &filters);
                member.is_connected = true;
            }
            4 => {
                member.rights = random.below(RIGHTS.len());
                member.outbox.set_access(access(index, member.rights));
                router.narrow_session_again(member.outbox.id());
                // A change of rights begins a resync.
                if member.is_connected {
                    member.outbox.finish_resync(0, &FanOutPosition::new(0));
                }
            }
            5 if member.is_connected => {
                // The client acknowledges some, or stops.
                let window = [0, 1, 100][random.below(3)];
                (0..random.below(20)).for_each(|_| _ = member.outbox.pop(window));
            }
            _ => {}
        }
        publish_in_model(&router, &members, TOPICS[random.below(TOPICS.len())], random.below(2), &FILTERS, bytes > 300)
            .unwrap_or_else(|error| panic!("seed {seed} step {step}: {error}"));
    }
    for member in &members {
        router.remove(member.outbox.id(), member.filters.keys().map(|index| filter(FILTERS[*index])));
    }
    assert!(narrowed::is_empty(&router), "seed {seed}");
}

/// Publishes to one group at a time, and compares the receiver with the member that a visit of all would choose.
fn publish_in_model(
    router: &Router,
    members: &[Member],
    topic: &str,
    qos: usize,
    filters: &[&str],
    is_roomy: bool,
) -> Result<(), String> {
    let message = Arc::new(Message { qos: QOS[qos], ..message(topic, "x") });
    for (index, text) in filters.iter().enumerate() {
        let group = Arc::new(filter(text));
        let may = |member: &&Member| member.filters.contains_key(&index) && member.outbox.access().may_receive(topic);
        let may: Vec<_> = members.iter().filter(may).filter(|_| group.matches(&message.topic)).collect();
        let ranks: Vec<_> = may
            .iter()
            .map(|member| member.outbox.readiness(&message, message.qos.min(QOS[member.filters[&index]])))
            .collect();
        let before: Vec<_> = members.iter().map(|member| member.outbox.queued_bytes()).collect();
        let delivered = router.deliver_to_group(&message, &group);
        let about = || format!("{text} {topic} {ranks:?}");
        if delivered == may.is_empty() {
            return Err(format!("{}: delivered {delivered}", about()));
        }
        let best = ranks.iter().min();
        if best.is_none_or(|best| *best == Readiness::Never) {
            continue;
        }
        let got = members.iter().zip(before).filter(|(member, before)| member.outbox.queued_bytes() != *before);
        let got: Vec<_> = got.map(|(member, _)| member.outbox.id()).collect();
        let rank = may.iter().zip(&ranks).find(|(member, _)| got == [member.outbox.id()]).map(|(_, rank)| *rank);
        let is_right = rank.is_some_and(|rank| if is_roomy { Some(&rank) == best } else { rank != Readiness::Never });
        if !is_right {
            return Err(format!("{}: {got:?} has it, {rank:?}", about()));
        }
    }
    Ok(())
}

/// Publishers on several threads find a ready member, and each message goes to one.
#[test]
fn concurrent_publishers_find_a_ready_member() {
    let router = router();
    let others = blocked(&router, 1..=100, BLOCKS[2].1);
    let ready = session(101);
    subscribe(&router, &ready, "$share/g/#");
    publish(&router, "a");
    std::thread::scope(|scope| {
        (0..4).for_each(|_| _ = scope.spawn(|| (0..200).for_each(|_| assert_eq!(publish(&router, "a"), 1))));
    });
    assert_eq!(received(&ready).len(), 801);
    assert!(others.iter().all(|outbox| received(outbox).is_empty()));
}
