//! Tests of the sessions of all nodes: by what their broadcasts leave in the rows of each node.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use bytes::BufMut;

use super::*;
use crate::{
    admission::PrincipalQuota,
    auth::Principal,
    mqtt::{
        broker::{
            durable::{clock_row, group_row, queue_row, received_row, session_row, subscription_row},
            peers::message::{self, GroupRoute},
        },
        protocol::{
            message::Message,
            packet::{PacketId, QoS, Reason, RetainHandling, Subscription},
            topic::{TopicFilter, TopicName},
        },
    },
};

const ROOM: u64 = 1 << 20;

/// A node, and what its store has.
struct Node {
    sessions: Arc<ReplicatedSessions>,
    rows: BTreeMap<RowKey, Bytes>,
}

/// Nodes 1 and 2, and the number of the last broadcast.
struct Nodes {
    nodes: [Node; 2],
    last: u64,
}

impl Node {
    fn new(node: u64) -> Self {
        Self { sessions: ReplicatedSessions::new(node, 100), rows: BTreeMap::new() }
    }

    fn apply(&mut self, number: u64, bytes: &Bytes) -> Option<Effect> {
        for edit in self.sessions.apply(number, bytes) {
            match edit {
                RowEdit::Insert(key, value) => {
                    assert!(self.rows.insert(key.clone(), value).is_none(), "{} is inserted twice", key.escape_ascii());
                }
                RowEdit::Put(key, value) => drop(self.rows.insert(key, value)),
                RowEdit::Remove(key) => {
                    assert!(self.rows.remove(&key).is_some(), "{} is not there", key.escape_ascii());
                }
            }
        }
        self.sessions.effects(number).session
    }

    /// The node after a restart.
    fn restarted(&self) -> Self {
        let sessions = ReplicatedSessions::new(self.sessions.node(), 100);
        let mut rows = ReplicatedRows(Arc::clone(&sessions));
        self.rows.iter().for_each(|(key, value)| rows.restore(key, value.clone()));
        Self { sessions, rows: self.rows.clone() }
    }

    fn kinds(&self) -> String {
        self.rows.keys().map(|key| char::from(key[0])).collect()
    }
}

impl Nodes {
    fn new() -> Self {
        Self { nodes: [Node::new(1), Node::new(2)], last: 0 }
    }

    /// Has all nodes receive a broadcast. Returns its effects.
    fn broadcast(&mut self, bytes: impl Into<Bytes>) -> [Option<Effect>; 2] {
        self.last += 1;
        let (number, bytes) = (self.last, bytes.into());
        let effects = self.nodes.each_mut().map(|node| node.apply(number, &bytes));
        assert_eq!(self.nodes[0].rows, self.nodes[1].rows, "after broadcast {number}");
        effects
    }

    fn open(
        &mut self,
        node: u64,
        client: &str,
        current: Option<u64>,
        fresh: u64,
        clean_start: bool,
    ) -> [Option<Effect>; 2] {
        let (is_present, fresh) = (current.is_some(), session(node, fresh));
        let current = current.map_or(fresh, |id| session(node, id));
        let row = Some(row(client, 60));
        let opened = Opened { node, key: key(client), current, is_present, fresh, clean_start, presence: None, row };
        self.broadcast(opened.encode())
    }

    fn edit(&mut self, node: u64, edits: &[RowEdit]) {
        let mut bytes = message::edited(node);
        edits.iter().for_each(|edit| message::put_edit(edit, &mut bytes));
        self.broadcast(bytes);
    }

    fn subscribe(&mut self, id: SessionId, filter: &str) {
        self.edit(numbers::node_of(id), &[subscription_row::put(id, &subscription(filter), None)]);
    }

    fn publish(
        &mut self,
        from: Option<SessionId>,
        topic: &str,
        identifier: Option<PacketId>,
        room: u64,
    ) -> Vec<SessionId> {
        let message = Arc::new(Message::new(
            TopicName::new(topic).unwrap(),
            Bytes::from_static(b"payload"),
            QoS::AtLeastOnce,
            false,
            None,
            Instant::now(),
        ));
        let now = Now { date_ms: 0, instant: Instant::now() };
        let mut bytes =
            Published::encode((1, from), &message, &PrincipalQuota::unlimited("p"), room, now, &GroupRoute::default());
        if let Some(id) = identifier {
            Published::set_identifier(&mut bytes, id, Reason::SUCCESS);
        }
        let kept = |effect| match effect {
            Some(Effect::Published { kept, .. }) => kept.unwrap_or_default(),
            _ => Vec::new(),
        };
        self.broadcast(bytes).map(kept).concat()
    }
}

fn session(node: u64, id: u64) -> SessionId {
    SessionId(numbers::first(node, 0) + id)
}

fn key(client: &str) -> SessionKey {
    SessionKey { principal: Principal::of_known(&"p".into()), client_id: client.into() }
}

fn row(client: &str, expiry: u32) -> Bytes {
    let head = format!(
        r#"{{"client":"{client}","login":{{"principal":"p","listener":"l","client":"{client}","method":"anonymous"}},"expiry":{expiry},"since":0}}"#
    );
    let mut value = Vec::new();
    value.put_u32(u32::try_from(head.len()).unwrap());
    value.extend_from_slice(head.as_bytes());
    value.into()
}

fn subscription(filter: &str) -> Subscription {
    Subscription {
        filter: TopicFilter::new(filter).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
    }
}

fn delivery_key(id: SessionId, number: u64) -> RowKey {
    [&[queue_row::DELIVERY_KIND], id.0.to_be_bytes().as_slice(), &number.to_be_bytes()].concat().into()
}

#[test]
fn a_session_moves_with_its_rows_and_its_former_node_changes_nothing_any_more() {
    let mut nodes = Nodes::new();
    let (first, second) = (session(1, 0), session(2, 0));
    assert!(nodes.open(1, "c", None, 0, false).iter().all(Option::is_none), "there was none");
    nodes.subscribe(first, "a/+");
    assert_eq!(nodes.publish(Some(first), "a/b", PacketId::new(7), ROOM), [first]);
    assert!(nodes.publish(None, "b", None, ROOM).is_empty());
    assert_eq!(nodes.nodes[0].kinds(), "fimqs");

    let [left, moved] = nodes.open(2, "c", None, 0, false);
    assert!(matches!(left, Some(Effect::Left { key: left, id }) if left == key("c") && id == first));
    let Some(Effect::Moved(snapshot)) = moved else { panic!("it moves") };
    assert_eq!((snapshot.id, &snapshot.rows), (second, &nodes.nodes[1].rows.clone().into_iter().collect()));
    assert_eq!(nodes.nodes[0].kinds(), "fimqs");

    let before = nodes.nodes[0].rows.clone();
    let queued = numbers::of_broadcast(3);
    nodes.edit(
        1,
        &[
            subscription_row::put(first, &subscription("late"), None),
            RowEdit::Remove(delivery_key(first, queued)),
            session_row::remove(first),
        ],
    );
    assert_eq!(nodes.nodes[0].rows, before, "the former node");
    assert_eq!(nodes.publish(None, "a/c", None, ROOM), [second]);

    // Back, where the node does not know yet that it left.
    let [moved, _] = nodes.open(1, "c", Some(0), 9, false);
    assert!(matches!(moved, Some(Effect::Moved(snapshot)) if snapshot.id == session(1, 9)));
    assert!(nodes.open(1, "c", Some(9), 10, false).iter().all(Option::is_none), "it is there");
    nodes.edit(1, &[session_row::remove(session(1, 9))]);
    assert_eq!((nodes.nodes[1].kinds(), nodes.nodes[1].sessions.counts()), (String::new(), (0, 0)));
}

/// Returns an encoded message of a session.
fn message_of(from: SessionId, retain: bool, qos: QoS) -> Vec<u8> {
    let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from_static(b"payload"));
    let message = Arc::new(Message::new(topic, payload, qos, retain, None, Instant::now()));
    let now = Now { date_ms: 0, instant: Instant::now() };
    Published::encode((1, Some(from)), &message, &PrincipalQuota::unlimited("p"), ROOM, now, &GroupRoute::default())
}

/// A message at QoS 2 that a former node published after the session had moved was published, and again when its client
/// sent it to the new node.
#[test]
fn a_message_whose_identifier_no_session_keeps_is_not_published() {
    let mut nodes = Nodes::new();
    let (first, second) = (session(1, 0), session(2, 0));
    nodes.open(1, "c", None, 0, false);
    nodes.open(1, "d", None, 5, false);
    nodes.subscribe(session(1, 5), "a");
    nodes.open(2, "c", None, 0, false);
    for (from, kinds) in [(first, "fss"), (second, "fimqrss")] {
        let mut bytes = message_of(from, true, QoS::ExactlyOnce);
        Published::set_identifier(&mut bytes, PacketId::new(1).unwrap(), Reason::SUCCESS);
        let [effect, _] = nodes.broadcast(bytes);
        assert_eq!(matches!(effect, Some(Effect::Void)), from == first);
        assert_eq!(nodes.nodes[0].kinds(), kinds);
    }
}

/// Two nodes published the will of a session: its own, which was cut off, and the one that took it over.
#[test]
fn the_will_of_a_session_is_published_by_one_node() {
    let mut nodes = Nodes::new();
    let (first, second) = (session(1, 0), session(2, 0));
    let head = r#"{"client":"c","login":{"principal":"p","listener":"l","client":"c","method":"anonymous"},"expiry":60,"since":0,"will":{"delay":0}}"#;
    let mut row = [&u32::try_from(head.len()).unwrap().to_be_bytes(), head.as_bytes()].concat();
    let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from_static(b"gone"));
    let message = Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, false, None, Instant::now()));
    let now = Now { date_ms: 0, instant: Instant::now() };
    crate::mqtt::broker::durable::message_row::put(&message, now, &mut row);
    let (current, is_present, fresh, clean_start) = (first, false, first, false);
    let opened = Opened {
        node: 1,
        key: key("c"),
        current,
        is_present,
        fresh,
        clean_start,
        presence: None,
        row: Some(row.into()),
    };
    nodes.broadcast(opened.encode());
    nodes.broadcast(message::adopted(2, first, second));
    let has_will = |nodes: &Nodes| {
        let key = nodes.nodes[0].rows.keys().find(|key| key[0] == session_row::KIND).unwrap();
        session_row::read(key, nodes.nodes[0].rows[key].clone()).unwrap().will.is_some()
    };
    for (from, is_void) in [(first, true), (second, false)] {
        assert!(has_will(&nodes), "nobody has published it");
        let mut bytes = message_of(from, false, QoS::AtLeastOnce);
        Published::set_will(&mut bytes);
        let [effect, _] = nodes.broadcast(bytes);
        assert_eq!(matches!(effect, Some(Effect::Void)), is_void);
    }
    assert!(!has_will(&nodes));
}

/// A client was refused, and its opening came into the log later.
#[test]
fn an_edit_for_a_refused_session_does_not_concern_the_one_that_moves() {
    let mut nodes = Nodes::new();
    nodes.open(1, "c", None, 0, false);
    nodes.subscribe(session(1, 0), "a");
    let (current, is_present, fresh) = (session(2, 7), false, session(2, 8));
    let row = Some(row("c", 60));
    let opened = Opened { node: 2, key: key("c"), current, is_present, fresh, clean_start: false, presence: None, row };
    let [_, moved] = nodes.broadcast(opened.encode());
    assert!(matches!(moved, Some(Effect::Moved(snapshot)) if snapshot.id == fresh));
    nodes.edit(2, &[session_row::remove(current)]);
    assert_eq!(nodes.nodes[0].kinds(), "fs");
}

#[test]
fn a_session_whose_row_cannot_be_read_ends_when_it_is_taken_over() {
    let mut nodes = Nodes::new();
    let id = SessionId(3);
    for node in &mut nodes.nodes {
        let RowEdit::Put(key, value) = subscription_row::put(id, &subscription("a"), None) else { panic!("it is put") };
        node.rows.insert(key, value);
        *node = node.restarted();
    }
    assert_eq!(nodes.publish(None, "a", None, ROOM).len(), 0, "it is of no node");
    assert_eq!(nodes.nodes[0].kinds(), "fmq");
    assert!(nodes.broadcast(message::adopted(1, id, session(1, 0))).iter().all(Option::is_none));
    assert_eq!((nodes.nodes[0].kinds(), nodes.nodes[0].sessions.counts()), (String::new(), (0, 0)));
}

#[test]
fn a_clean_start_removes_the_session_of_any_node() {
    let mut nodes = Nodes::new();
    nodes.open(1, "c", None, 0, false);
    nodes.subscribe(session(1, 0), "a");
    nodes.publish(None, "a", None, ROOM);
    let [ended, none] = nodes.open(2, "c", None, 0, true);
    assert!(matches!(ended, Some(Effect::Ended { key: ended, id }) if ended == key("c") && id == session(1, 0)));
    assert!(none.is_none());
    assert_eq!(nodes.nodes[0].kinds(), "s", "the new one");
    nodes.edit(1, &[subscription_row::put(session(1, 0), &subscription("a"), None)]);
    assert!(nodes.publish(None, "a", None, ROOM).is_empty(), "the subscription ended");
    // The former node resumes what it has in memory: its client has a new session.
    nodes.edit(2, &[session_row::remove(session(2, 0))]);
    let [moved, _] = nodes.open(1, "c", Some(0), 7, false);
    assert!(matches!(moved, Some(Effect::Moved(snapshot)) if snapshot.rows.is_empty()));
    assert_eq!(nodes.nodes[0].sessions.key_of(session(1, 7)), Some(key("c")));
}

/// The row of a session is written by its new node some time after it came there, and the session may move on before.
#[test]
fn a_session_that_moves_on_has_no_progress_of_nodes_that_did_not_write_it() {
    let mut nodes = Nodes::new();
    let clock = |node: u64, date_ms, delivered, behind: &[(SessionId, u64)]| {
        let stop = Stop { date_ms, delivered, behind: behind.iter().copied().collect() };
        let RowEdit::Put(key, value) = clock_row::put(&stop) else { panic!("it is put") };
        [RowEdit::Put([&*key, &node.to_be_bytes()].concat().into(), value)]
    };
    let connection = |nodes: &Nodes, id: SessionId| {
        let rows = nodes.nodes[0].sessions.state.read().rows_of(id);
        let (key, value) = rows.into_iter().find(|(key, _)| key[0] == session_row::KIND).unwrap();
        let row = session_row::read(&key, value).unwrap();
        (row.connection.disconnected_ms, row.connection.since)
    };
    nodes.open(1, "c", None, 0, false);
    nodes.open(1, "d", None, 1, false);
    nodes.edit(1, &clock(1, 500, 90, &[(session(1, 0), 40)]));
    nodes.edit(2, &clock(2, 900, 5_000, &[]));
    nodes.open(2, "c", None, 0, false);
    assert_eq!(connection(&nodes, session(2, 0)), (None, 40), "its client is at node 2");
    nodes.broadcast(message::adopted(1, session(2, 0), session(1, 2)));
    assert_eq!(connection(&nodes, session(1, 2)), (None, 40), "node 2 has not written it");
    nodes.broadcast(message::adopted(2, session(1, 1), session(2, 1)));
    assert_eq!(connection(&nodes, session(2, 1)), (Some(500), 90), "its client went with node 1");
    nodes.open(1, "d", None, 3, false);
    assert_eq!(connection(&nodes, session(1, 3)), (Some(500), 90));
}

#[test]
fn a_message_has_a_row_as_long_as_a_session_waits_for_it() {
    let mut nodes = Nodes::new();
    let (first, second) = (session(1, 0), session(2, 0));
    nodes.open(1, "c", None, 0, false);
    nodes.open(2, "d", None, 0, false);
    nodes.subscribe(first, "a");
    nodes.subscribe(second, "#");
    assert_eq!(nodes.publish(None, "a", None, ROOM), [first, second]);
    let number = numbers::of_broadcast(5);
    nodes.edit(1, &[RowEdit::Remove(delivery_key(first, number))]);
    assert_eq!(nodes.nodes[0].kinds(), "ffmqss");
    nodes.edit(2, &[RowEdit::Remove(delivery_key(second, number))]);
    assert_eq!(nodes.nodes[0].kinds(), "ffss");
    // One that its node did not publish in the log, as for a shared subscription.
    let message = [&[queue_row::MESSAGE_KIND], 5_u64.to_be_bytes().as_slice()].concat();
    let insert = |key: RowKey| RowEdit::Insert(key, Bytes::from_static(b"value"));
    nodes.edit(1, &[insert(delivery_key(first, 5)), insert(message.clone().into())]);
    assert_eq!(nodes.nodes[0].kinds(), "ffmqss");
    nodes.edit(1, &[RowEdit::Remove(delivery_key(first, 5)), RowEdit::Remove(message.into())]);
    assert_eq!(nodes.nodes[0].kinds(), "ffss");
}

#[test]
fn the_oldest_messages_make_room() {
    let mut nodes = Nodes::new();
    nodes.open(1, "c", None, 0, false);
    nodes.subscribe(session(1, 0), "a");
    let one = {
        nodes.publish(None, "a", None, ROOM);
        nodes.nodes[0].rows.values().map(Bytes::len).sum::<usize>()
    };
    let room = 4 * (one as u64 + 200);
    (0..100).for_each(|_| drop(nodes.publish(None, "a", None, room)));
    let kinds = nodes.nodes[0].kinds();
    let waiting = kinds.matches('q').count();
    assert!((3..50).contains(&waiting), "{kinds}");
    assert_eq!(kinds.matches('m').count(), waiting);
    let last = delivery_key(session(1, 0), numbers::of_broadcast(nodes.last));
    assert!(nodes.nodes[0].rows.contains_key(&last), "the newest one stays");
}

#[test]
fn a_node_takes_over_what_it_had_and_what_others_had() {
    let mut nodes = Nodes::new();
    nodes.open(1, "c", None, 0, false);
    nodes.open(1, "d", None, 1, false);
    let [started, none] = nodes.broadcast(message::started(1, session(1, 50)));
    let Some(Effect::Started(former)) = started else { panic!("it has some") };
    assert!(none.is_none());
    assert_eq!(former, [session(1, 0), session(1, 1)]);
    let [own, _] = nodes.broadcast(message::adopted(1, session(1, 0), session(1, 50)));
    assert!(matches!(own, Some(Effect::Moved(_))));
    let [left, moved] = nodes.broadcast(message::adopted(2, session(1, 1), session(2, 0)));
    assert!(matches!((left, moved), (Some(Effect::Left { .. }), Some(Effect::Moved(_)))));
    assert!(
        nodes.broadcast(message::adopted(1, session(1, 1), session(1, 51))).iter().all(Option::is_none),
        "it has moved"
    );
    let sessions = &nodes.nodes[0].sessions;
    assert_eq!(sessions.nodes().into_iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        (sessions.sessions_of(1, None, 9), sessions.sessions_of(2, None, 9)),
        (vec![session(1, 50)], vec![session(2, 0)])
    );
    assert_eq!(sessions.key_of(session(2, 0)), Some(key("d")));
    assert!(sessions.sessions_of(1, Some(session(1, 50)), 9).is_empty());
    assert_eq!(sessions.first_number(0), session(1, 51).0, "the clock is behind");
}

#[test]
fn a_session_of_before_the_cluster_belongs_to_no_node() {
    let mut node = Node::new(1);
    let id = SessionId(3);
    node.rows.insert([&[session_row::KIND], id.0.to_be_bytes().as_slice()].concat().into(), row("c", 60));
    let node = node.restarted();
    assert_eq!(node.sessions.nodes().into_iter().collect::<Vec<_>>(), [0]);
    assert_eq!(node.sessions.key_of(id), Some(key("c")));
}

#[test]
fn a_message_for_a_group_is_kept_by_one_member_and_all_nodes_choose_the_same() {
    let mut nodes = Nodes::new();
    nodes.open(1, "c", None, 0, false);
    nodes.open(2, "d", None, 0, false);
    let group = TopicFilter::new("$share/g/a/+").unwrap();
    [session(1, 0), session(2, 0)].into_iter().for_each(|id| nodes.subscribe(id, &group.to_string()));
    let mut counts = BTreeMap::<_, u32>::new();
    for number in 0..40 {
        let kept = nodes.publish(None, "a/b", None, ROOM);
        assert_eq!(kept.len(), 1, "one member");
        *counts.entry(kept[0]).or_default() += 1;
        if number == 20 {
            nodes.nodes[1] = nodes.nodes[1].restarted();
        }
    }
    assert!(counts.len() == 2 && counts.values().all(|count| *count > 5), "{counts:?}");
    assert_eq!(nodes.nodes[0].kinds().matches('q').count(), 40);
    // Many at node 2 that end with their connections, so that messages for it have a row only if its session takes its turn.
    let RowEdit::Put(key, value) = group_row::put(&group, 1_000) else { panic!("it is put") };
    nodes.edit(2, &[RowEdit::Put(group_row::key_at(2, &key), value)]);
    assert_eq!(nodes.nodes[0].kinds().matches('v').count(), 1);
    let routed = |effect: &Option<Effect>| match effect {
        Some(Effect::Published { groups, .. }) => groups.len(),
        other => panic!("{other:?}"),
    };
    let message = message_of(session(1, 0), false, QoS::AtMostOnce);
    assert_eq!(nodes.broadcast(message).each_ref().map(routed), [0, 0], "of another topic");
    // Its node has nobody for it.
    let route = GroupRoute { is_only: true, groups: vec![(0, Arc::new(group.clone()))] };
    let topic = TopicName::new("a/b").unwrap();
    for node in [1, 2] {
        let message = Message::new(topic.clone(), Bytes::new(), QoS::AtLeastOnce, true, None, Instant::now());
        let now = Now { date_ms: 0, instant: Instant::now() };
        let quota = PrincipalQuota::unlimited("");
        let bytes = Published::encode((node, None), &Arc::new(message), &quota, ROOM, now, &route);
        let expected = if node == 1 { [0, 1] } else { [1, 0] };
        assert_eq!(nodes.broadcast(bytes).each_ref().map(routed), expected);
    }
    assert!(!nodes.nodes[0].kinds().contains('r'), "it is not retained again");
    // The node is gone, and its session is taken over.
    nodes.broadcast(message::gone(1, 2));
    nodes.broadcast(message::adopted(1, session(2, 0), session(1, 7)));
    assert_eq!(nodes.nodes[0].kinds().matches('v').count(), 0);
    assert_eq!(nodes.publish(None, "a/b", None, ROOM).len(), 1);
    assert_eq!(nodes.nodes[0].sessions.nodes().into_iter().collect::<Vec<_>>(), [1]);
}

/// The same broadcasts leave the same rows at all nodes, of which some start again; no message is lost or left over.
#[test]
fn nodes_that_start_again_agree_with_the_others() {
    for seed in 1..=60_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut nodes = Nodes::new();
        let mut made = 0;
        for _ in 0..200 {
            let (node, client) = (1 + random(2), ["a", "b", "c"][usize::try_from(random(3)).unwrap()]);
            let present = nodes.nodes[0].sessions.state.read().keys.get(&key(client)).copied();
            match (random(10), present) {
                (0..=2, _) | (_, None) => {
                    made += 1;
                    nodes.open(node, client, None, made, random(6) == 0);
                }
                (3, Some(id)) => nodes.subscribe(id, ["t/+", "t/1", "#"][usize::try_from(random(3)).unwrap()]),
                (4, Some(id)) => nodes.edit(node, &[subscription_row::remove(id, &TopicFilter::new("t/1").unwrap())]),
                (5, Some(id)) => {
                    let queued =
                        nodes.nodes[0].rows.keys().find(|key| key[0] == b'q' && key[1..9] == id.0.to_be_bytes());
                    let removals: Vec<_> = queued.cloned().map(RowEdit::Remove).into_iter().collect();
                    nodes.edit(node, &removals);
                }
                (6, Some(id)) if random(4) == 0 => nodes.edit(node, &[session_row::remove(id)]),
                (7, _) => {
                    let at = usize::try_from(node - 1).unwrap();
                    nodes.nodes[at] = nodes.nodes[at].restarted();
                }
                (_, from) => drop(nodes.publish(from, "t/1", PacketId::new(1), 2_000)),
            }
            let rows = &nodes.nodes[0].rows;
            let numbers = |kind: u8, at: usize| -> BTreeSet<Vec<u8>> {
                rows.keys().filter(|key| key[0] == kind).map(|key| key[at..].to_vec()).collect()
            };
            assert_eq!(numbers(queue_row::MESSAGE_KIND, 1), numbers(queue_row::DELIVERY_KIND, 9), "seed {seed}");
            let of_sessions = numbers(session_row::KIND, 1);
            for kind in [subscription_row::KIND, queue_row::DELIVERY_KIND, received_row::KIND] {
                let all = rows.keys().filter(|key| key[0] == kind);
                assert!(all.map(|key| key[1..9].to_vec()).all(|id| of_sessions.contains(&id)), "seed {seed}");
            }
        }
    }
}
