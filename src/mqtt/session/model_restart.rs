//! Model test: a session whose server is killed at any moment, and continues from the rows that are on disk.
//!
//! Properties under any sequence of steps, with commits that have any number of edits: the client gets a QoS 2 message
//! whose row is on disk exactly once, and a QoS 1 message at least once; messages arrive for the first time in the order
//! of delivery. A QoS 2 message of the client has its effect exactly once. And the rows have the whole session: replayed,
//! they give one that is equal.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::*;
use crate::mqtt::{
    protocol::message::{DeliveryRow, Message},
    session::inflight::RestoredInflight,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// A delivery, by the number of its message.
    Delivery(u16),
    /// A received QoS 2 identifier.
    Received(u16),
    /// The effect of a message of the client, by its number.
    Effect(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Sent(PacketId),
    Released(PacketId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Delivery(QoS, Stage),
    Received(Reason),
    Effect,
}

type Then = Box<dyn FnOnce() + Send>;

/// The log of edits. Each element is committed as a whole.
#[derive(Default)]
struct Log {
    edits: Vec<Vec<(Key, Option<Value>)>>,
    on_disk: usize,
    /// Calls, with the number of elements that have to be on disk before.
    waiting: Vec<(usize, Then)>,
    /// The number of starts. Rows of an earlier one are gone with the process.
    starts: u32,
}

#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Log>>);

impl Disk {
    fn write(&self, edits: Vec<(Key, Option<Value>)>) {
        self.0.lock().edits.push(edits);
    }

    fn after_commit(&self, then: Then) {
        let log = &mut *self.0.lock();
        log.waiting.push((log.edits.len(), then));
    }

    /// Commits `part` of 4 parts of the edits that wait.
    fn commit(&self, part: usize) {
        let due = {
            let log = &mut *self.0.lock();
            log.on_disk += (log.edits.len() - log.on_disk) * part / 4;
            let on_disk = log.on_disk;
            let (due, waiting) = std::mem::take(&mut log.waiting).into_iter().partition(|(at, _)| *at <= on_disk);
            log.waiting = waiting;
            due
        };
        let due: Vec<(usize, Then)> = due;
        due.into_iter().for_each(|(_, then)| then());
    }

    fn kill(&self) {
        let log = &mut *self.0.lock();
        log.edits.truncate(log.on_disk);
        log.waiting.clear();
        log.starts += 1;
    }

    fn rows(&self) -> BTreeMap<Key, Value> {
        let mut rows = BTreeMap::new();
        for (key, value) in self.0.lock().edits.iter().flatten() {
            match value {
                Some(value) => rows.insert(*key, *value),
                None => rows.remove(key),
            };
        }
        rows
    }

    fn effects(&self) -> Vec<u16> {
        let log = self.0.lock();
        let effect = |(key, _): &(Key, Option<Value>)| if let Key::Effect(number) = key { Some(*number) } else { None };
        log.edits.iter().flatten().filter_map(effect).collect()
    }

    fn row(&self, key: Key, qos: QoS, id: Option<PacketId>) -> Arc<TestRow> {
        Arc::new(TestRow {
            disk: self.clone(),
            start: self.0.lock().starts,
            key,
            qos,
            id: Mutex::new(id),
            is_removed: AtomicBool::new(false),
        })
    }
}

struct TestRow {
    disk: Disk,
    start: u32,
    key: Key,
    qos: QoS,
    id: Mutex<Option<PacketId>>,
    is_removed: AtomicBool,
}

impl TestRow {
    fn put(&self, stage: Stage) {
        self.disk.write(vec![(self.key, Some(Value::Delivery(self.qos, stage)))]);
    }
}

impl std::fmt::Debug for TestRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TestRow").field(&self.key).finish()
    }
}

impl Row for TestRow {
    fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::Relaxed) && self.disk.0.lock().starts == self.start {
            self.disk.write(vec![(self.key, None)]);
        }
    }

    fn forget(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }
}

impl DeliveryRow for TestRow {
    fn sent(&self, id: PacketId) {
        *self.id.lock() = Some(id);
        self.put(Stage::Sent(id));
    }

    fn released(&self) {
        let id = *self.id.lock();
        self.put(Stage::Released(id.unwrap()));
    }

    fn after_commit(&self, then: Then) {
        self.disk.after_commit(then);
    }
}

impl Drop for TestRow {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A message of the client at QoS 2, until PUBCOMP.
#[derive(Clone, Copy, Debug)]
struct Sending {
    number: u16,
    has_pubrec: bool,
}

struct World {
    session: Session,
    disk: Disk,
    now: Instant,
    queue: VecDeque<Delivery>,
    queued: u16,
    /// The steps of the session that are on disk.
    saved: Arc<Mutex<Vec<Ticket>>>,
    /// The client's messages whose effects are on disk.
    decided: Arc<Mutex<Vec<AckId>>>,
    /// Bytes on the way to the client.
    wire: Vec<u8>,
    /// Packets on the way to the session.
    answers: VecDeque<ClientPacket>,
    /// QoS 2 identifiers that the client has received, until PUBREL.
    unreleased: BTreeSet<PacketId>,
    /// Messages in the order in which the client accepted them, with their QoS.
    accepted: Vec<(u16, QoS)>,
    sending: BTreeMap<u16, Sending>,
    sent: u16,
    lost: BTreeSet<u16>,
}

fn session() -> Session {
    Session::new(SessionLimits { outbound_window: 3, ..SessionLimits::default() })
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            session: session(),
            disk: Disk::default(),
            now: Instant::now(),
            queue: VecDeque::new(),
            queued: 0,
            saved: Arc::default(),
            decided: Arc::default(),
            wire: Vec::new(),
            answers: VecDeque::new(),
            unreleased: BTreeSet::new(),
            accepted: Vec::new(),
            sending: BTreeMap::new(),
            sent: 0,
            lost: BTreeSet::new(),
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.session.detach();
        self.wire.clear();
        self.answers.clear();
        let connect = Connect { clean_start: false, session_expiry: u32::MAX, ..Connect::minimal(Protocol::V5) };
        self.session.attach(&connect, self.now, &mut self.wire);
        for (id, sending) in self.sending.clone() {
            self.answers.push_back(if sending.has_pubrec {
                ClientPacket::PubRel(PacketId::new(id).unwrap())
            } else {
                publish(id, sending.number, true)
            });
        }
    }

    fn delivery(&self, number: u16, qos: QoS, row: Arc<TestRow>) -> Delivery {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        let message = Message::new(TopicName::new("t").unwrap(), payload, qos, false, None, self.now);
        Delivery { row: Some(row), ..Delivery::new(Arc::new(message), qos) }
    }

    fn step(&mut self, die: u8) {
        match die % 20 {
            kind @ 0..4 => {
                let (number, qos) = (self.queued, if kind % 2 == 1 { QoS::ExactlyOnce } else { QoS::AtLeastOnce });
                self.disk.write(vec![(Key::Delivery(number), Some(Value::Delivery(qos, Stage::Waiting)))]);
                let row = self.disk.row(Key::Delivery(number), qos, None);
                self.queue.push_back(self.delivery(number, qos, row));
                self.queued += 1;
            }
            4..6 => {
                let free = (1..4).find(|id| !self.sending.contains_key(id));
                if let Some(id) = free {
                    self.sending.insert(id, Sending { number: self.sent, has_pubrec: false });
                    self.answers.push_back(publish(id, self.sent, false));
                    self.sent += 1;
                }
            }
            6..10 => self.read(),
            10..14 => self.answer(),
            14..18 => self.disk.commit(usize::from(die / 20 % 4) + 1),
            18 => self.connect(),
            _ => self.restart(),
        }
        self.proceed();
    }

    /// Does what the connection does in each turn.
    fn proceed(&mut self) {
        let saved = std::mem::take(&mut *self.saved.lock());
        saved.into_iter().for_each(|ticket| self.session.saved(ticket, self.now, &mut self.wire));
        let decided = std::mem::take(&mut *self.decided.lock());
        decided.into_iter().for_each(|ack_id| self.session.complete(ack_id, AckResult::SUCCESS, &mut self.wire));
        while self.session.window_open() {
            let Some(delivery) = self.queue.pop_front() else { break };
            match self.session.deliver(delivery, self.now, &mut self.wire) {
                Delivered::Sent => {}
                Delivered::Unsaved(unsaved) => self.save(&unsaved),
                other => panic!("{other:?}"),
            }
        }
    }

    fn save(&self, Unsaved { ticket, row }: &Unsaved) {
        let (saved, ticket) = (self.saved.clone(), *ticket);
        row.after_commit(Box::new(move || saved.lock().push(ticket)));
    }

    fn answer(&mut self) {
        let Some(packet) = self.answers.pop_front() else { return };
        match self.session.receive(packet, self.now, &mut self.wire).unwrap() {
            None => {}
            Some(Action::Save(unsaved)) => self.save(&unsaved),
            Some(Action::Release(ticket)) => {
                let saved = self.saved.clone();
                self.disk.after_commit(Box::new(move || saved.lock().push(ticket)));
            }
            Some(Action::Publish(inbound)) => {
                let (ack_id, id) = (inbound.ack_id.unwrap(), inbound.packet_id.unwrap().get());
                let number = u16::from_be_bytes([inbound.payload[0], inbound.payload[1]]);
                let received = (Key::Received(id), Some(Value::Received(Reason::SUCCESS)));
                self.disk.write(vec![(Key::Effect(number), Some(Value::Effect)), received]);
                self.session.keep(ack_id, self.disk.row(Key::Received(id), QoS::ExactlyOnce, None));
                let decided = self.decided.clone();
                self.disk.after_commit(Box::new(move || decided.lock().push(ack_id)));
            }
            Some(other) => panic!("{other:?}"),
        }
    }

    fn read(&mut self) {
        let wire = std::mem::take(&mut self.wire);
        let mut rest = wire.as_slice();
        while let &[first_byte, length, ..] = rest {
            let (packet, after) = rest.split_at(2 + usize::from(length));
            rest = after;
            let id = |at: usize| PacketId::new(u16::from_be_bytes([packet[at], packet[at + 1]])).unwrap();
            match first_byte {
                0x50 => {
                    if let Some(sending) = self.sending.get_mut(&id(2).get()) {
                        sending.has_pubrec = true;
                        self.answers.push_back(ClientPacket::PubRel(id(2)));
                    }
                }
                0x62 => {
                    self.unreleased.remove(&id(2));
                    self.answers.push_back(ClientPacket::PubComp(id(2)));
                }
                0x70 => {
                    let done = self.sending.remove(&id(2).get());
                    assert!(done.is_none_or(|sending| sending.has_pubrec), "PUBCOMP before PUBREL");
                }
                _ => {
                    let (id, number) = (id(5), u16::from_be_bytes([packet[8], packet[9]]));
                    if first_byte & !8 == 0x32 {
                        self.accepted.push((number, QoS::AtLeastOnce));
                        self.answers.push_back(ClientPacket::PubAck(id, Reason::SUCCESS));
                    } else {
                        if self.unreleased.insert(id) {
                            self.accepted.push((number, QoS::ExactlyOnce));
                        }
                        self.answers.push_back(ClientPacket::PubRec(id, Reason::SUCCESS));
                    }
                }
            }
        }
    }

    /// Kills the server, and continues with the rows that are on disk.
    fn restart(&mut self) {
        self.disk.kill();
        (self.session, self.queue) = (session(), VecDeque::new());
        self.saved.lock().clear();
        self.decided.lock().clear();
        let rows = self.disk.rows();
        for (key, value) in &rows {
            match (*key, *value) {
                (Key::Delivery(number), Value::Delivery(qos, stage)) => {
                    let id = if let Stage::Sent(id) | Stage::Released(id) = stage { Some(id) } else { None };
                    let row = self.disk.row(*key, qos, id);
                    let released = RestoredInflight::Released(row.clone());
                    let delivery = self.delivery(number, qos, row);
                    match stage {
                        Stage::Waiting => self.queue.push_back(delivery),
                        Stage::Sent(id) => self.session.restore_inflight(id, RestoredInflight::Published(delivery)),
                        Stage::Released(id) => self.session.restore_inflight(id, released),
                    }
                }
                (Key::Received(id), Value::Received(reason)) => {
                    let row = self.disk.row(*key, QoS::ExactlyOnce, None);
                    self.session.restore_received(PacketId::new(id).unwrap(), reason, row);
                }
                _ => {}
            }
        }
        let inserted = |key: &Key| self.disk.0.lock().edits.iter().flatten().any(|(edited, _)| edited == key);
        self.lost = (0..self.queued).filter(|number| !inserted(&Key::Delivery(*number))).collect();
        self.connect();
    }

    fn finish(&mut self) {
        for _ in 0..20 * (self.queued + self.sent) + 20 {
            self.read();
            self.answer();
            self.disk.commit(4);
            self.proceed();
        }
        assert!(self.queue.is_empty() && self.unreleased.is_empty() && self.sending.is_empty());
        let mut seen: Vec<u16> = Vec::new();
        for (number, qos) in &self.accepted {
            if !seen.contains(number) {
                seen.push(*number);
            } else {
                assert_eq!(*qos, QoS::AtLeastOnce, "message {number} was accepted twice");
            }
        }
        // One that was not on disk at a kill may have been sent at QoS 1, which does not wait.
        assert!(self.accepted.iter().all(|(number, qos)| *qos != QoS::ExactlyOnce || !self.lost.contains(number)));
        seen.retain(|number| !self.lost.contains(number));
        let kept: Vec<_> = (0..self.queued).filter(|number| !self.lost.contains(number)).collect();
        assert_eq!(seen, kept, "each kept message arrives, in order");
        let mut effects = self.disk.effects();
        effects.sort_unstable();
        assert_eq!(effects, (0..self.sent).collect::<Vec<_>>(), "each message of the client has one effect");
        let left: Vec<_> = self.disk.rows().into_keys().filter(|key| !matches!(key, Key::Effect(_))).collect();
        assert_eq!(left, [], "rows stay behind");
    }

    /// Returns the state of the session and its queue that a client can notice.
    fn state(&self) -> String {
        let queue: Vec<_> = self.queue.iter().map(|delivery| delivery.message.payload.clone()).collect();
        format!("{:?} {:?} {queue:?}", self.session.inflight.kept(), self.session.inbound_acks.kept())
    }
}

fn publish(id: u16, number: u16, dup: bool) -> ClientPacket {
    ClientPacket::Publish(Publish {
        topic: Some(TopicName::new("u").unwrap()),
        alias: None,
        payload: Bytes::copy_from_slice(&number.to_be_bytes()),
        qos: QoS::ExactlyOnce,
        id: PacketId::new(id),
        dup,
        retain: false,
        properties: None,
    })
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        failure_persistence: None,
        ..proptest::test_runner::Config::with_cases(600)
    })]

    #[test]
    fn nothing_is_lost_or_repeated_by_a_kill(dice in proptest::collection::vec(0..=u8::MAX, 1..120)) {
        let mut world = World::new();
        dice.into_iter().for_each(|die| world.step(die));
        world.finish();
    }

    #[test]
    fn the_rows_have_the_whole_session(dice in proptest::collection::vec(0..=u8::MAX, 1..120)) {
        let mut world = World::new();
        dice.into_iter().for_each(|die| world.step(die));
        // Requests that are on disk are decided, and removals of rows are known.
        world.disk.commit(4);
        world.proceed();
        world.disk.commit(4);
        world.proceed();
        let before = world.state();
        world.restart();
        proptest::prop_assert_eq!(before, world.state());
    }
}
