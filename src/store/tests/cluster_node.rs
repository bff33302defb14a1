//! A node of the cluster in memory of [`super::clusters`]: its store, its disk, and what it gave to its link.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    cluster_sessions,
    clusters::NODES,
    fault_counts::Fault,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
};
use crate::store::{
    BroadcastRows, Link, LogAction, LogEvent, MemberOptions, NodeId, RowEdit, RowKey, Seq, StoreOptions,
};

/// Something that a node gave to its link.
pub(super) enum Sent {
    Action(LogAction),
    Message(NodeId, Bytes),
}

/// Rows that the openings of sessions insert, put and remove in turn. Other broadcasts decide whether commands that edit one are accepted:
/// after [`CLOSE`] they are not.
#[derive(Default)]
pub(super) struct Gate {
    is_closed: bool,
    openings: BTreeMap<RowKey, Bytes>,
}

/// The broadcasts that close and open the [`Gate`].
pub(super) const CLOSE: &[u8] = b"close";
pub(super) const OPEN: &[u8] = b"open";

impl BroadcastRows for Gate {
    fn restore(&mut self, key: &[u8], value: Bytes) {
        self.openings.insert(key.into(), value);
    }

    fn apply(&mut self, number: u64, bytes: &Bytes) -> Vec<RowEdit> {
        self.is_closed = (self.is_closed || bytes == CLOSE) && bytes != OPEN;
        if bytes == CLOSE || bytes == OPEN {
            return Vec::new();
        }
        let (key, value) = (RowKey::from(&**bytes), Bytes::from(number.to_string()));
        if number.is_multiple_of(2) && self.openings.remove(&key).is_some() {
            return vec![RowEdit::Remove(key)];
        }
        vec![match self.openings.insert(key.clone(), value.clone()) {
            None => RowEdit::Insert(key, value),
            Some(_) => RowEdit::Put(key, value),
        }]
    }

    fn edit(&mut self, _: RowEdit) -> Vec<RowEdit> {
        Vec::new()
    }

    fn permits(&self, _: &RowEdit, undecided: &[Bytes]) -> bool {
        !self.is_closed && !undecided.iter().any(|bytes| bytes == CLOSE)
    }
}

struct MemoryLink {
    sent: Arc<Mutex<Vec<Sent>>>,
    node: usize,
}

impl Link for MemoryLink {
    fn carry_out(&mut self, action: LogAction) {
        self.sent.lock().push(Sent::Action(action));
    }

    fn send(&mut self, node: NodeId, message: Bytes) {
        self.sent.lock().push(Sent::Message(node, message));
    }

    fn send_to_all(&mut self, message: Bytes) {
        let others = (0..NODES).filter(|node| *node != self.node);
        others.for_each(|node| self.sent.lock().push(Sent::Message(NodeId(node as u64), message.clone())));
    }
}

pub(super) struct Node {
    pub(super) stepped: Stepped,
    pub(super) disk: SimDisk,
    pub(super) options: StoreOptions,
    pub(super) record_bytes_max: usize,
    sent: Arc<Mutex<Vec<Sent>>>,
    pub(super) events: Box<dyn Fn(LogEvent) -> bool>,
    /// The next record that the reader of the log passes on.
    pub(super) next_record: u64,
    pub(super) incarnation: u64,
    pub(super) paused_until: usize,
    /// The step until which it neither reads the log nor appends to it.
    pub(super) log_cut_until: usize,
    /// The first record that it has read since its start, and keeps.
    pub(super) first_kept: u64,
    /// True if its disk has failed or will.
    pub(super) has_failed: bool,
    /// The failure of its disk that is not counted yet.
    pub(super) failure: Option<Fault>,
    /// The last change that this node has published.
    pub(super) published: Seq,
    /// The requests of its clients that were not answered.
    pub(super) waiting: BTreeSet<u64>,
}

impl Node {
    pub(super) fn open(
        number: usize,
        disk: SimDisk,
        options: &StoreOptions,
        record_bytes_max: usize,
        incarnation: u64,
    ) -> Self {
        let mut stepped = Stepped::open(&disk, options.clone()).unwrap();
        let sent = Arc::<Mutex<Vec<Sent>>>::default();
        let link = Box::new(MemoryLink { sent: Arc::clone(&sent), node: number });
        let node = NodeId(number as u64);
        let kind_of = cluster_sessions::kind_of;
        stepped.join(MemberOptions {
            node,
            incarnation,
            record_bytes_max,
            rows: Box::<Gate>::default(),
            kind_of,
            link,
        });
        let events = Box::new(stepped.store.log_events());
        let applied = stepped.writer.applied_position.as_ref().map_or(0, |applied| applied.chain.position.number);
        let published = stepped.store.head();
        Self {
            stepped,
            disk,
            options: options.clone(),
            record_bytes_max,
            sent,
            events,
            next_record: applied + 1,
            incarnation,
            paused_until: 0,
            log_cut_until: 0,
            first_kept: applied + 1,
            has_failed: false,
            failure: None,
            published,
            waiting: BTreeSet::new(),
        }
    }

    /// Starts the node `number` again, with what its disk had.
    pub(super) fn restart(&mut self, number: usize, image: Vec<u8>) {
        let Self { options, incarnation, record_bytes_max, .. } = self;
        let (options, incarnation, record_bytes_max) = (options.clone(), *incarnation + 1, *record_bytes_max);
        *self = Self::open(number, SimDisk::new(image, Stop::Never), &options, record_bytes_max, incarnation);
    }

    /// Takes the first that it gave to its link; of its messages if the log is not there.
    pub(super) fn take_sent(&self, has_log: bool) -> Option<Sent> {
        let mut sent = self.sent.lock();
        let index = sent.iter().position(|sent| has_log || matches!(sent, Sent::Message(..)))?;
        Some(sent.remove(index))
    }

    /// Returns true if it gave its link an append to before the record `last`, which is not passed on.
    pub(super) fn has_late_append(&self, last: u64) -> bool {
        let is_late =
            |sent: &Sent| matches!(sent, Sent::Action(LogAction::Append { expected, .. }) if *expected < last);
        self.sent.lock().iter().any(is_late)
    }

    pub(super) fn is_deciding(&self) -> bool {
        self.stepped.writer.member.as_ref().is_some_and(|member| member.is_deciding())
    }

    pub(super) fn latched(&self) -> Option<String> {
        self.stepped.store.health().member.and_then(|member| member.latched)
    }
}
