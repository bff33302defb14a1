//! Tests of what a broker does with the broadcasts of other nodes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::oneshot,
    time::timeout,
};

use super::*;
use crate::{
    auth::{
        Principal,
        authn::certificate::{PeerCertificate, tests::verified},
    },
    config::RoleLimits,
    mqtt::{
        broker::{
            durable::{
                Recorder,
                message_row::{self, Now},
                presence_row, session_row, subscription_row,
            },
            peers::opening::WaitingOpening,
            presence::LoggedPresence,
            replicated::ReplicatedRows,
            rights::tests::access as rights_of,
            router::DeliveryKind,
        },
        connection::tests::{QUEUE_BYTES, broker, connect, connect_with, recording_broker},
        protocol::{
            message::Delivery,
            packet::{RetainHandling, Subscription},
            topic::{TopicFilter, TopicName},
        },
    },
    shadow::DeviceId,
    store::{BroadcastRows, RowEdit},
};

const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: [u8; 2] = [0xd0, 0];
/// A message at QoS 1 on the topic `a`.
const PUBLISH_A: [u8; 8] = [0x32, 6, 0, 1, b'a', 0, 9, b'x'];

fn key() -> SessionKey {
    SessionKey { principal: Principal::of_known(&"anonymous/c".into()), client_id: "c".into() }
}

fn opened_at(broker: &Arc<Broker>, node: u64) {
    let fresh = SessionId(numbers::first(node, 0));
    let (current, is_present, clean_start) = (SessionId(fresh.0 + 1), false, false);
    let opened = Opened { node, key: key(), current, is_present, fresh, clean_start, presence: None, row: None };
    broker.receive_broadcast(&Broadcast { is_own: node == 1, number: 1, bytes: opened.encode() });
}

async fn wait_for_end(client: &mut DuplexStream) {
    let mut rest = Vec::new();
    let end = client.read_to_end(&mut rest);
    timeout(Duration::from_secs(60), end).await.expect("the end of the connection").unwrap();
}

/// Sends a PINGREQ. Returns true if it is answered, false if the connection ends.
async fn is_connected(client: &mut DuplexStream) -> bool {
    let mut answer = [0; 2];
    client.write_all(&PINGREQ).await.is_ok() && client.read_exact(&mut answer).await.is_ok_and(|_| answer == PINGRESP)
}

#[tokio::test]
async fn a_session_ends_by_an_opening_elsewhere_only_if_none_follows_here() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);

    let mut former = connect(&broker, 0).await;
    opened_at(&broker, 2);
    // The former session ends before a later one can be found in its place.
    let mut later = connect(&broker, 0).await;
    wait_for_end(&mut former).await;
    assert!(is_connected(&mut later).await);

    let opening = broker.begin_opening(&key());
    opened_at(&broker, 2);
    assert!(is_connected(&mut later).await, "an opening is under way here");
    opened_at(&broker, 1);
    drop(opening);
    assert!(is_connected(&mut later).await, "the opening here is the later one");

    let refused = broker.begin_opening(&key());
    opened_at(&broker, 2);
    assert!(is_connected(&mut later).await);
    drop(refused);
    // No opening followed here.
    wait_for_end(&mut later).await;
}

/// Has the log, and then the notifier, of this node receive a broadcast.
fn receive(broker: &Arc<Broker>, number: u64, bytes: Bytes) {
    receive_as(broker, false, number, bytes);
}

/// As [`receive`], of this node if `is_own`.
fn receive_as(broker: &Arc<Broker>, is_own: bool, number: u64, bytes: Bytes) {
    let mut rows = ReplicatedRows(broker.peers.get().unwrap().replicated.clone());
    let _rows_of_the_commit = rows.apply(number, &bytes);
    broker.receive_broadcast(&Broadcast { is_own, number, bytes });
}

/// Has this node receive, as the broadcasts 1 and 2, that the session `c` is at node 2 as `former` and has subscribed to `a`.
fn subscribe_at_other_node(broker: &Arc<Broker>, former: SessionId) {
    let row = row(r#""expiry":60"#, None);
    let (current, is_present, fresh) = (former, false, SessionId(former.0 + 1));
    let opened =
        Opened { node: 2, key: key(), current, is_present, fresh, clean_start: true, presence: None, row: Some(row) };
    let mut subscribed = message::edited(2);
    let subscription = Subscription {
        filter: TopicFilter::new("a").unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
    };
    message::put_edit(&subscription_row::put(former, &subscription, None), &mut subscribed);
    (1..).zip([opened.encode(), subscribed.into()]).for_each(|(number, bytes)| receive(broker, number, bytes));
}

fn message(payload: &'static str) -> Bytes {
    let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from_static(payload.as_bytes()));
    let message = Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, false, None, Instant::now()));
    let now = Now { date_ms: 0, instant: Instant::now() };
    Published::encode((2, None), &message, &PrincipalQuota::unlimited("p"), 1 << 20, now, &GroupRoute::default()).into()
}

#[tokio::test]
async fn a_session_that_is_taken_over_gets_earlier_and_later_messages_once_and_leaves_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let (former, id) = (SessionId(numbers::first(2, 0)), SessionId(numbers::first(1, 0) + 9));
    subscribe_at_other_node(&broker, former);
    let adopted = message::adopted(1, former, id);
    let all = [message("1"), adopted, message("2")];
    (3..).zip(all).for_each(|(number, bytes)| receive(&broker, number, bytes));
    assert_eq!(broker.sessions.id_of(&key()), Some(id));

    let mut client = connect(&broker, 1).await;
    receive(&broker, 6, message("3"));
    for (packet_id, payload) in [(1, b'1'), (2, b'2'), (3, b'3')] {
        let mut publish = [0; 8];
        client.read_exact(&mut publish).await.unwrap();
        assert_eq!(publish, [0x32, 6, 0, 1, b'a', 0, packet_id, payload]);
    }
    let moved = message::adopted(2, id, SessionId(former.0 + 2));
    receive(&broker, 7, moved);
    // What it still sends here has no effect on its session any more, so nothing is acknowledged.
    client.write_all(&[0x32, 6, 0, 1, b'b', 0, 9, b'x']).await.unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(60), client.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"", "no PUBACK");
    assert_eq!(broker.sessions.id_of(&key()), None);
}

/// Returns the value of the row of session `c`, with these members of its head, and the message of its will.
fn row(members: &str, will: Option<(&str, &'static str)>) -> Bytes {
    let head = format!(
        r#"{{"client":"c","login":{{"principal":"anonymous/c","listener":"local","client":"c","method":"anonymous"}},"since":0,{members}}}"#
    );
    let mut row = [&u32::try_from(head.len()).unwrap().to_be_bytes(), head.as_bytes()].concat();
    if let Some((topic, payload)) = will {
        let now = Now { date_ms: 0, instant: Instant::now() };
        let (topic, payload) = (TopicName::new(topic).unwrap(), Bytes::from_static(payload.as_bytes()));
        let message = Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, false, None, now.instant));
        message_row::put(&message, now, &mut row);
    }
    assert!(session_row::read(&[&[session_row::KIND], [0; 8].as_slice()].concat(), row.clone().into()).is_some());
    row.into()
}

/// Has this node take over the session `c` of node 2 with this row. Returns its id.
fn take_over(broker: &Arc<Broker>, row: Bytes) -> SessionId {
    let (former, id) = (SessionId(numbers::first(2, 0)), SessionId(numbers::first(1, 0) + 9));
    let (current, is_present, fresh) = (former, false, SessionId(former.0 + 1));
    let opened =
        Opened { node: 2, key: key(), current, is_present, fresh, clean_start: true, presence: None, row: Some(row) };
    receive(broker, 1, opened.encode());
    receive(broker, 2, message::adopted(1, former, id));
    id
}

/// The thread that receives the broadcasts has no runtime: a will that had to wait for the engine ended it, and so the server.
#[tokio::test]
async fn a_will_that_waits_for_the_engine_does_not_hold_what_other_nodes_send() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let full = broker.service.try_reserve(&PrincipalQuota::unlimited("other"), QUEUE_BYTES).expect("nothing is queued");
    let will = ("shadow/d/update", r#"{"state":{"reported":{"n":1}}}"#);
    let row = row(r#""expiry":0,"disconnected":1,"will":{"delay":0}"#, Some(will));
    std::thread::scope(|scope| scope.spawn(|| take_over(&broker, row)).join().unwrap());
    assert_eq!(broker.sessions.id_of(&key()), None, "it has ended");
    while broker.wills.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(full);
    timeout(Duration::from_secs(60), broker.finish()).await.expect("the engine has space");
}

/// A session that came to this node for a connection that did not wait any more was never dropped, so that its rows stay: its memory and
/// its filters counted for its principal until a restart.
#[tokio::test]
async fn a_session_that_nobody_waits_for_is_dropped_without_its_rows() {
    let directory = tempfile::tempdir().unwrap();
    let broker = recording_broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let peers = broker.peers.get().unwrap();
    let access = rights_of(&["none"], &[""], &["a"]);
    let usage = || {
        let usage = broker.quota(&access).usage(Instant::now());
        (usage.filters, usage.memory > 0)
    };
    assert_eq!(usage(), (0, false));
    let (former, fresh) = (SessionId(numbers::first(2, 0)), SessionId(numbers::first(1, 0) + 9));
    subscribe_at_other_node(&broker, former);
    receive(&broker, 3, message("1"));
    let rows = peers.replicated.size_of(&key()).unwrap().1;

    let (moved, _) = oneshot::channel();
    let waiting = WaitingOpening { fresh, access: access.clone(), moved };
    peers.opening.lock().entry(key()).or_default().waiting.push(waiting);
    let (current, is_present, clean_start) = (SessionId(fresh.0 + 1), false, false);
    let opened = Opened { node: 1, key: key(), current, is_present, fresh, clean_start, presence: None, row: None };
    receive_as(&broker, true, 4, opened.encode());
    Broker::drop_unclaimed(peers);
    assert_eq!(usage(), (1, true), "it is there, with its rows");
    assert_eq!(peers.rows.waiting(), [], "which stay");

    let next = SessionId(fresh.0 + 2);
    receive(&broker, 5, message::adopted(1, fresh, next));
    Broker::drop_unclaimed(peers);
    assert_eq!(usage(), (0, false));
    let mut edited = message::edited(1);
    peers.rows.waiting().iter().for_each(|edit| message::put_edit(edit, &mut edited));
    receive(&broker, 6, edited.into());
    assert_eq!(peers.replicated.size_of(&key()), Some((next, rows)), "it has them all under its other id");
}

#[tokio::test]
async fn a_refused_connect_leaves_the_session_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let due = broker.recorder.now().date_ms + 60_000;
    let will = row(&format!(r#""expiry":600,"disconnected":{due},"will":{{"delay":1,"due":{due}}}"#), Some(("w", "x")));
    let id = take_over(&broker, will);
    let all: Vec<_> = std::iter::from_fn(|| broker.service.reserve_broadcast(0)).collect();
    // MQTT 5, without a session expiry interval: the session would end with this connection.
    let connect = b"\x10\x0e\x00\x04MQTT\x05\x00\x00\x00\x00\x00\x01c";
    let (_, answer) = connect_with(&broker, PeerCertificate::None, connect).await;
    assert_eq!((answer[0], answer[3]), (0x20, 0x88), "the log does not answer");
    assert_eq!(broker.sessions.id_of(&key()), Some(id));
    let far = Instant::now() + Duration::from_secs(120);
    let (due, _) = broker.sessions.take_due(far);
    assert!(matches!(due.as_slice(), [closed] if closed.will.is_some() && closed.client.is_none()), "its will stays");
    // A new one leaves nothing.
    drop((all, broker.sessions.take_due(far + Duration::from_secs(3600))));
    assert_eq!(broker.sessions.id_of(&key()), None);
}

/// A message for a member of a group has no row in the log, and that of another session may be gone before its own is there.
#[tokio::test]
async fn a_delivery_that_the_log_does_not_have_takes_its_message_along() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from_static(b"x"));
    let message = Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, false, None, Instant::now()));
    let (logged, other) = (SessionId(numbers::first(1, 0)), SessionId(numbers::first(1, 0) + 1));
    let log = RowLog::new(Arc::clone(&broker.service), 1, 1 << 20);
    let recorder = Recorder::new(Arc::clone(&broker.service));
    recorder.join(Arc::clone(&log), 0);
    let rows = recorder.open_logged(&message, numbers::of_broadcast(7), vec![logged]);
    let delivery = Delivery::new(Arc::clone(&message), QoS::AtLeastOnce);
    let kept = [logged, other].map(|session| recorder.insert(&delivery, session));
    rows.close_logged(|_| true);
    let mut kinds: Vec<_> = log.waiting().iter().map(|edit| (edit.key()[0], edit.key()[1..9].to_vec())).collect();
    kinds.sort_unstable();
    let number = numbers::of_broadcast(7).to_be_bytes().to_vec();
    assert_eq!(kinds, [(b'm', number), (b'q', other.0.to_be_bytes().to_vec())]);
    drop(kept);
}

/// The progress of this run is not that of the sessions of an earlier one.
#[tokio::test]
async fn the_clock_of_an_earlier_run_stays_while_its_sessions_are_not_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    let replicated = ReplicatedSessions::new(1, 100);
    let (former, fresh) = (SessionId(numbers::first(1, 0)), SessionId(numbers::first(1, 0) + 1));
    let (current, is_present, row) = (former, false, Some(row(r#""expiry":60"#, None)));
    let opened = Opened { node: 1, key: key(), current, is_present, fresh, clean_start: true, presence: None, row };
    let _rows = ReplicatedRows(replicated.clone()).apply(1, &opened.encode());
    broker.join_cluster(replicated, 1 << 20, |_| true);
    let first = broker.peers.get().unwrap().first;
    assert!(first > former);
    receive(&broker, 2, message::started(1, former));
    assert!(!broker.has_taken_over(), "that was an earlier start");
    receive(&broker, 3, message::started(1, first));
    assert!(!broker.has_taken_over(), "one is left");
    assert_eq!(broker.work_of_move(&key()), work::FILTER, "one row");
    receive(&broker, 4, message::adopted(1, former, first));
    assert!(broker.has_taken_over());
    assert_eq!(broker.work_of_move(&key()), 0, "it is here");
}

/// A message cost one unit for each receiver, however much was written for it, so one principal could keep all nodes busy with writing.
#[tokio::test]
async fn a_kept_message_costs_its_bytes_and_the_sessions_that_keep_it() {
    let limits = RoleLimits { work: 1, ..RoleLimits::UNLIMITED }; // ten units at once, then one a second
    for (is_in_cluster, qos, retain, bytes, units) in [
        (false, QoS::AtMostOnce, false, 7_000, 4),
        (false, QoS::AtLeastOnce, false, 1, 14),
        (false, QoS::AtMostOnce, true, 7_000, 4 + 406),
        (true, QoS::AtMostOnce, true, 7_000, 3 + 3 * 406),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let broker = recording_broker(directory.path());
        let (mut client, answer) =
            connect_with(&broker, PeerCertificate::None, b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c").await;
        assert_eq!(answer[3], 0);
        client.write_all(b"\x82\x06\x00\x01\x00\x01a\x01").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        if is_in_cluster {
            broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
        }
        let quota = broker.service.quotas().principals.of(&"publisher".into(), &limits, Instant::now());
        for _ in 0..100 {
            let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from(vec![b'x'; bytes]));
            let message = Message::new(topic, payload, qos, retain, None, Instant::now());
            broker.publish(message, &quota, None).map_err(|cause| cause.name()).unwrap();
        }
        let wait = quota.usage(Instant::now()).throttled_for.as_secs();
        // Some minutes may have passed.
        assert!((units * 100 - 200..=units * 100).contains(&wait), "{wait} s for {units}, cluster: {is_in_cluster}");
    }
}

#[tokio::test]
async fn a_message_that_may_miss_sessions_is_not_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let mut client = connect(&broker, 0).await;
    let (mut puback, mut rest) = ([0; 4], Vec::new());
    client.write_all(&PUBLISH_A).await.unwrap();
    client.read_exact(&mut puback).await.unwrap();
    assert_eq!(puback, [0x40, 2, 0, 9]);
    broker.peers.get().unwrap().is_cut_off.store(true, Ordering::Relaxed);
    client.write_all(&PUBLISH_A).await.unwrap();
    timeout(Duration::from_secs(60), client.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"", "no PUBACK");
}

#[tokio::test]
async fn a_session_that_ends_elsewhere_leaves_its_messages_to_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let connect = async |client: u8| {
        let packet = [b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01".as_slice(), &[client]].concat();
        let (mut stream, answer) = connect_with(&broker, PeerCertificate::None, &packet).await;
        assert_eq!(answer, [0x20, 2, 0, 0]);
        stream.write_all(b"\x82\x0f\x00\x01\x00\x0a$share/g/a\x01").await.unwrap();
        let mut suback = [0; 5];
        stream.read_exact(&mut suback).await.unwrap();
        assert_eq!(suback, [0x90, 3, 0, 1, 1]);
        stream
    };
    let mut first = connect(b'c').await;
    let mut publish = [0; 8];
    let (topic, payload) = (TopicName::new("a").unwrap(), Bytes::from_static(b"x"));
    let message = Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, false, None, Instant::now()));
    broker.router.publish(&message, DeliveryKind::Ordinary { from: None });
    first.read_exact(&mut publish).await.unwrap();
    let mut second = connect(b'd').await;
    // It had no rows, so it is not at the other node.
    opened_at(&broker, 2);
    wait_for_end(&mut first).await;
    timeout(Duration::from_secs(60), second.read_exact(&mut publish)).await.expect("the message").unwrap();
    assert_eq!(publish[7], b'x');
}

/// Returns what waits for the log about the device `lamp` at this node: true or false as it is connected, `None` if nothing is known of it.
fn waiting_presence(broker: &Broker) -> Vec<Option<bool>> {
    let key = presence_row::key(&DeviceId::new("lamp").unwrap(), Some(1));
    let waiting = broker.peers.get().unwrap().rows.waiting().into_iter().filter(|edit| *edit.key() == *key);
    let presence = waiting.map(|edit| match edit {
        RowEdit::Put(_, value) => presence_row::read_value(value).map(|presence| presence.connected),
        RowEdit::Insert(..) | RowEdit::Remove(_) => None,
    });
    presence.collect()
}

#[tokio::test]
async fn the_log_has_what_is_connected_here_and_a_refused_device_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let broker = recording_broker(directory.path());
    broker.join_cluster(ReplicatedSessions::new(1, 100), 1 << 20, |_| true);
    let lamp = DeviceId::new("lamp").unwrap();
    let connect = async || {
        let packet = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c";
        let (client, answer) = connect_with(&broker, verified("lamp", &Arc::default()), packet).await;
        (client, answer[3])
    };
    let full: Vec<_> = std::iter::from_fn(|| broker.service.reserve_broadcast(0)).collect();
    assert_eq!(connect().await.1, 3, "the log does not answer");
    assert_eq!(waiting_presence(&broker), [None], "its opening may have come into the log");
    drop(full);

    let (client, accepted) = connect().await;
    assert_eq!((accepted, broker.presence.connected_here()), (0, 1));
    // The store of this test has no log, which refuses the opening.
    let rows = &broker.peers.get().unwrap().rows;
    let forget = || rows.forget(&presence_row::key(&lamp, Some(1)));
    assert_eq!(waiting_presence(&broker), [Some(true)], "no opening says that it is connected");
    forget();
    receive(&broker, 1, message::gone(2, 3));
    assert_eq!(waiting_presence(&broker), [], "another node is gone");
    receive(&broker, 2, message::gone(2, 1));
    assert_eq!(waiting_presence(&broker), [Some(true)], "this one is not");
    forget();
    broker.presence.receive(vec![LoggedPresence { device: lamp.clone(), here: None, elsewhere: None }]);
    assert_eq!(waiting_presence(&broker), [Some(true)], "an edit of a former connection came late");
    drop(client);
    while broker.presence.connected_here() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(waiting_presence(&broker), [Some(false)]);
    assert!(broker.presence.of(&lamp).is_some_and(|presence| !presence.connected));

    // A clean session is accepted without the log, which then learns of the device as of any change.
    let full: Vec<_> = std::iter::from_fn(|| broker.service.reserve_broadcast(0)).collect();
    let packet = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01d";
    let (_client, answer) = connect_with(&broker, verified("lamp", &Arc::default()), packet).await;
    assert_eq!((answer[3], broker.presence.connected_here()), (0, 1));
    assert_eq!(waiting_presence(&broker), [Some(true)]);
    drop(full);
}
