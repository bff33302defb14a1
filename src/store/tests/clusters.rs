//! Three stores that are one cluster, over a log and a bus in memory that delay, lose and repeat, while nodes pause, start again
//! and lose what their disks had not synced. What happens follows a seed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Random,
    cluster_barriers::Barriers,
    cluster_node::{Node, Sent},
    cluster_purges::AskedPurges,
    cluster_sessions::Sessions,
    fault_counts::{Fault, FaultCounts},
    indexes, key,
    memory_log::{FaultyLog, MemoryLog, ReplicatedLog},
    model::{random_command, small_options},
    named, queued_by,
    replicas::Dump,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
};
use crate::{
    shadow::{ClientToken, Command, DocumentLimits, Rejection, Scope, Sender, SenderLogin, Update, Version},
    store::{LogAction, LogEvent, Outcome, QueuedCommand, Seq, State, StoreOptions, journal::entry::JournalEntry},
};

pub(super) const NODES: usize = 3;

/// Paths with an index on every node, and searches and fields of them.
const INDEXED: &str = "reported.* tags.nested.* desired.a.in shadow.name.b.reported.a";
const QUERIES: [&str; 6] = [
    "reported.a:>=3",
    "reported.b:text*",
    "reported.nested.a:[0 TO 100]",
    "desired.a.in:array",
    "tags.nested.z:<5",
    "shadow.name.b.reported.a:>1",
];
const FIELDS: [&str; 3] = ["reported.a", "tags.nested.b", "shadow.name.b.reported.a"];

/// A request of a client.
pub(super) struct Request {
    expected: Option<Version>,
    /// The last change that any client had been answered before.
    after: Seq,
    pub(super) answer: Option<Result<Option<Seq>, Rejection>>,
    /// The change that it made, as any node has seen.
    pub(super) made: Option<Seq>,
}

pub(super) struct Cluster {
    pub(super) random: Random,
    pub(super) log: FaultyLog,
    pub(super) nodes: Vec<Node>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) now: Duration,
    pub(super) step: usize,
    pub(super) newest_answer: Seq,
    pub(super) has_faults: bool,
    pub(super) faults: FaultCounts,
    /// The last record of those that the log has lost from its end.
    pub(super) lost: u64,
    /// The appends under way of nodes that do not wait for their answers; `None` for nodes that do.
    pub(super) unanswered: Option<VecDeque<(u64, Bytes)>>,
    /// The node whose messages to others are lost.
    pub(super) cut: Option<usize>,
    pub(super) sessions: Sessions,
    pub(super) purges: AskedPurges,
    pub(super) barriers: Barriers,
}

impl Cluster {
    pub(super) fn open(seed: u64) -> Self {
        let random = Random::new(seed);
        let log = FaultyLog::without_losses(Arc::new(Mutex::new(MemoryLog::default())), seed);
        let options = |node: usize| StoreOptions {
            shadow_names_max: 2,
            indexed: indexes::declared(INDEXED),
            lag_entries_max: 10 + 20 * node as u64,
            document: DocumentLimits { path_tombstones_max: 2 + 3 * node, ..small_options().document },
            // In every fifth history, rows are soon written to their table.
            row_lag_bytes_max: if seed.is_multiple_of(5) { 100 } else { small_options().row_lag_bytes_max },
            // In every other history, all pages are read from the disk, which may fail then.
            page_cache_bytes: if seed % 2 == 1 { 0 } else { small_options().page_cache_bytes },
            // In every other history, old changes leave the journal, in some soon.
            journal_bytes_max: [300, 1 << 20, 3000, 1 << 20][usize::try_from(seed % 4).unwrap()],
            ..small_options()
        };
        // In every third history, not all requests that wait fit into one record, and some fit into none.
        let record_bytes_max = if seed.is_multiple_of(3) { 1200 } else { 1 << 20 };
        let disk = || SimDisk::new(Vec::new(), Stop::Never);
        let open = |node| Node::open(node, disk(), &options(node), record_bytes_max, 1);
        Self {
            random,
            log,
            nodes: (0..NODES).map(open).collect(),
            requests: BTreeMap::new(),
            now: Duration::from_secs(1),
            step: 0,
            newest_answer: Seq(0),
            has_faults: true,
            faults: FaultCounts::default(),
            lost: 0,
            unanswered: None,
            cut: None,
            sessions: Sessions::default(),
            purges: AskedPurges::default(),
            barriers: Barriers::default(),
        }
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.random.below(end as u64) as usize
    }

    pub(super) fn step(&mut self) {
        self.step += 1;
        let node = self.below(NODES);
        if self.nodes[node].paused_until > self.step {
            return;
        }
        match self.below(25) {
            0..=3 => {
                self.send_barrier(node);
                self.submit(node);
            }
            20 | 21 => self.submit_in_session(),
            22 => self.move_client(node),
            23 => self.submit_deletion_or_purge(node),
            4..=8 => _ = self.pass(node),
            9..=12 => self.read(node),
            13..=16 => self.tick(node),
            17 if self.has_faults && self.random.chance(8) => self.restart(node),
            19 if self.has_faults => self.disturb_disk(node),
            18 if self.has_faults && self.random.chance(2) => self.pause(node),
            18 if self.has_faults && self.random.chance(2) => self.cut_log(node),
            24 if self.has_faults && self.random.chance(4) => self.lose_end(),
            _ => _ = self.pass(node),
        }
    }

    /// Sends a request of a client to `node`.
    pub(super) fn submit(&mut self, node: usize) {
        let queued = self.request(self.requests.len() as u64);
        self.submit_queued(node, queued);
    }

    /// Sends `queued`, whose number is that of the next request, to `node`.
    pub(super) fn submit_queued(&mut self, node: usize, queued: QueuedCommand<u64>) {
        let id = queued.context;
        let expected = match &queued.envelope.command {
            // A key may be used again, and then has its first outcome.
            Command::Update(Update { preconditions, keyed: None, dry_run: false, .. }) => preconditions.version,
            _ => None,
        };
        self.requests.insert(id, Request { expected, after: self.newest_answer, answer: None, made: None });
        self.nodes[node].waiting.insert(id);
        self.nodes[node].stepped.store.try_reserve(100).unwrap().send(queued).unwrap();
        self.run(node);
    }

    pub(super) fn request(&mut self, id: u64) -> QueuedCommand<u64> {
        let random = &mut self.random;
        let device = ["d1", "d2", "d3"][random.below(3) as usize];
        let key = match random.below(3) {
            0 => named(device, ["a", "b", "c"][random.below(3) as usize]),
            _ => key(device),
        };
        let mut queued = queued_by(["app-1", "dev"][random.below(2) as usize], &key, random_command(random), id);
        if let Command::Update(update) = &mut queued.envelope.command {
            update.dry_run = random.chance(12);
        }
        queued.envelope.client = format!("c-{id}").into();
        queued.envelope.client_token = ClientToken::new(&format!("t-{id}"));
        queued.envelope.author =
            Sender { scope: Scope::ALL, login: SenderLogin::default(), ..queued.envelope.author.clone() };
        queued
    }

    /// Passes on something that `node` gave to its link: to the log, or to another node. Returns false if there is nothing.
    pub(super) fn pass(&mut self, node: usize) -> bool {
        self.append_unanswered();
        match self.nodes[node].take_sent(self.nodes[node].log_cut_until <= self.step) {
            None => return false,
            Some(Sent::Action(action)) => {
                let event = match action {
                    LogAction::Append { expected, record } => {
                        LogEvent::Appended { number: expected + 1, outcome: self.append(expected, record) }
                    }
                    LogAction::Read(number) => {
                        LogEvent::Found { number, record: self.log.log.lock().get(number).cloned() }
                    }
                    LogAction::Tail => LogEvent::EndsAt(self.log.log.lock().last()),
                };
                self.event(node, event);
            }
            Some(Sent::Message(to, message)) => {
                let to = to.0 as usize;
                let bytes_max = self.nodes[node].record_bytes_max;
                assert!(message.len() <= bytes_max, "the bus takes no message of {} bytes", message.len());
                let is_lost = self.cut == Some(node) || self.has_faults && self.random.chance(8);
                if !is_lost && self.nodes[to].paused_until <= self.step {
                    self.event(to, LogEvent::Received(message, None));
                } else {
                    self.faults.note(Fault::MessageLost);
                }
            }
        }
        true
    }

    /// Lets every node do all that it can, and some time pass.
    pub(super) fn turn(&mut self) {
        (0..NODES).for_each(|node| self.pass_all(node));
        self.read_all();
    }

    /// Passes on all that `node` gave to its link.
    pub(super) fn pass_all(&mut self, node: usize) {
        while self.pass(node) {}
    }

    /// Lets every node read the log, and some time pass.
    pub(super) fn read_all(&mut self) {
        (0..NODES).for_each(|node| self.read_at(node));
    }

    /// Lets `node` read the log, while its time stands still.
    pub(super) fn read_records(&mut self, node: usize) {
        if self.read_some(node, usize::MAX) {
            self.run(node);
        }
    }

    /// Lets `node` read the log, and some time pass.
    pub(super) fn read_at(&mut self, node: usize) {
        self.read_some(node, usize::MAX);
        self.now += Duration::from_millis(20);
        let now = self.now;
        self.event(node, LogEvent::Tick(now));
    }

    /// Takes turns until one node decides.
    pub(super) fn decider(&mut self) -> usize {
        self.has_faults = false;
        loop {
            self.turn();
            if let Some(node) = self.nodes.iter().position(Node::is_deciding) {
                return node;
            }
        }
    }

    /// Passes some records of the log to `node`.
    fn read(&mut self, node: usize) {
        let limit = 1 + self.below(4);
        self.read_some(node, limit);
        self.tick(node);
    }

    /// Passes at most `limit` records of the log to `node`. Returns false if there is none.
    pub(super) fn read_some(&mut self, node: usize, limit: usize) -> bool {
        if self.nodes[node].log_cut_until > self.step {
            return false;
        }
        let records = self.log.log.lock().follow(self.nodes[node].next_record, limit).unwrap();
        let is_any = !records.is_empty();
        for record in records {
            let number = self.nodes[node].next_record;
            self.nodes[node].next_record += 1;
            (self.nodes[node].events)(LogEvent::Record { number, record, permit: None });
        }
        is_any
    }

    fn tick(&mut self, node: usize) {
        // The clocks of the nodes differ.
        *self.nodes[node].stepped.now.lock() += self.random.below(2 + 3 * node as u64);
        self.now += Duration::from_millis(self.random.below(300));
        let now = self.now;
        if self.has_faults && self.random.chance(10) {
            self.nodes[node].stepped.writer.unsynced.hurry();
        }
        self.event(node, LogEvent::Tick(now));
    }

    pub(super) fn event(&mut self, node: usize, event: LogEvent) {
        (self.nodes[node].events)(event);
        self.run(node);
    }

    /// Lets the writer of `node` take its queue, and checks its outcomes.
    pub(super) fn run(&mut self, node: usize) {
        let healer = &mut self.nodes[node].stepped.writer.healer;
        if healer.next_attempt().is_some() {
            // The next attempt is due at once: a history does not depend on the time that it takes.
            healer.commit_failed();
        }
        let outcomes = self.nodes[node].stepped.step();
        outcomes.into_iter().for_each(|outcome| self.check(node, outcome));
        assert_eq!(self.nodes[node].latched(), None, "node {node}");
    }

    fn check(&mut self, node: usize, Outcome { envelope, context, result, .. }: Outcome<u64>) {
        let seq = result.as_ref().ok().and_then(|applied| applied.seq);
        if let (Some(seq), Ok(applied)) = (seq, &result) {
            // Every follower sees every change, in order, once.
            assert_eq!(seq.0, self.nodes[node].published.0 + 1, "node {node}");
            self.nodes[node].published = seq;
            assert_eq!(applied.after.version.0, applied.before.version.0 + 1);
            let token = envelope.client_token.as_ref().map(ClientToken::as_str);
            let id = token.and_then(|token| token.strip_prefix("t-")).expect("the token is on every node");
            let made = &mut self.requests.get_mut(&id.parse().unwrap()).unwrap().made;
            assert!(made.is_none_or(|made| made == seq), "request {id} was applied twice");
            *made = Some(seq);
        }
        let Some(id) = context else { return };
        assert!(self.nodes[node].waiting.remove(&id), "a request is answered once, at its own node");
        let request = self.requests.get_mut(&id).unwrap();
        if let (Some(seq), Ok(applied)) = (seq, &result) {
            assert!(seq > request.after, "a change is later than all that were answered before it was sent");
            if let (Some(expected), Command::Update(update)) = (request.expected, &envelope.command)
                && update.preconditions.on_conflict == crate::shadow::OnConflict::Reject
            {
                let is_absent = expected == Version(0) && !applied.before.exists();
                assert!(is_absent || applied.before.version == expected, "a condition holds where it was decided");
            }
            self.newest_answer = self.newest_answer.max(seq);
        }
        request.answer = Some(result.map(|_| seq));
    }

    /// Lets the faults end, and every request be answered.
    pub(super) fn settle(&mut self) {
        self.has_faults = false;
        for node in 0..NODES {
            (self.nodes[node].paused_until, self.nodes[node].log_cut_until) = (0, 0);
            self.count_failure(node);
            let has_stopped = self.nodes[node].disk.has_stopped();
            self.nodes[node].disk.repair(if has_stopped { Repaired::Lost } else { Repaired::Pending }, Stop::Never);
            while !matches!(self.nodes[node].stepped.store.health().state, State::Writable) {
                self.tick(node);
            }
        }
        for _ in 0..20_000 {
            if self.nodes.iter().all(|node| node.waiting.is_empty())
                && self.log.log.lock().last() >= self.lost
                && self.purges.take_answers() == 0
                && self.barriers.are_over()
                && self.nodes.iter().filter(|node| node.is_deciding()).count() == 1
            {
                break;
            }
            let node = self.below(NODES);
            match self.below(3) {
                0 => _ = self.pass(node),
                1 => self.read(node),
                _ => self.tick(node),
            }
        }
        let waiting: Vec<_> = self.nodes.iter().map(|node| node.waiting.clone()).collect();
        assert!(waiting.iter().all(BTreeSet::is_empty), "not answered: {waiting:?}");
        assert!(self.log.log.lock().last() >= self.lost, "what the log has lost was not appended again");
        assert_eq!(self.purges.take_answers(), 0, "purges are not answered");
        assert!(self.barriers.are_over(), "a barrier waits");
    }

    /// Compares the index of `node` with its documents. Returns the number of searches for which it was used.
    pub(super) fn check_index(&self, node: usize, about: &str) -> usize {
        let stepped = &self.nodes[node].stepped;
        let of_device = |device| [key(device), named(device, "a"), named(device, "b"), named(device, "c")];
        let keys: Vec<_> = ["d1", "d2", "d3"].into_iter().flat_map(of_device).collect();
        indexes::check_entries(stepped, about);
        indexes::check_answers(stepped, &keys, (&QUERIES, &FIELDS), about)
    }

    /// Lets all nodes read the log to its end while nobody decides, then flush and build their indexes.
    pub(super) fn finish(&mut self, about: &str) {
        for node in 0..NODES {
            let about = format!("{about}: node {node}");
            loop {
                let last = self.log.log.lock().last();
                if self.nodes[node].next_record > last {
                    break;
                }
                let record = self.log.log.lock().get(self.nodes[node].next_record).cloned().unwrap();
                let number = self.nodes[node].next_record;
                self.nodes[node].next_record += 1;
                self.event(node, LogEvent::Record { number, record, permit: None });
            }
            self.check_index(node, &about);
            self.nodes[node].stepped.idle();
            while self.nodes[node].stepped.writer.index_has_work() {
                self.nodes[node].stepped.step();
            }
            assert_eq!(self.check_index(node, &about), QUERIES.len() + FIELDS.len(), "{about}: its index is used");
        }
    }

    fn entries(&self, node: usize) -> Vec<JournalEntry> {
        let store = &self.nodes[node].stepped.store;
        store.journal(Seq(store.health().oldest.0 - 1), 1000).unwrap().entries
    }

    /// Checks what clients were answered against the stores.
    pub(super) fn compare(&self, about: &str) -> usize {
        let entries = self.entries(0);
        let mut by_client = BTreeMap::new();
        for entry in &entries {
            let of_session = |(_, request): &(&u64, &Request)| request.made == Some(entry.seq);
            let id = match entry.client.strip_prefix("c-") {
                Some(id) => id.parse().unwrap(),
                // No node may have seen it: each that applied it was stopped before it published it.
                None => match self.requests.iter().find(of_session) {
                    Some((id, _)) => *id,
                    None => continue,
                },
            };
            assert!(by_client.insert(id, entry.seq).is_none(), "{about}: request {id} was applied twice");
        }
        let mut changed = 0;
        let oldest = self.nodes[0].stepped.store.health().oldest;
        for (id, request) in &self.requests {
            match &request.answer {
                Some(Ok(Some(seq))) => {
                    let is_kept = *seq >= oldest;
                    assert_eq!(
                        by_client.get(id),
                        Some(seq).filter(|_| is_kept),
                        "{about}: request {id} is in the journal"
                    );
                    changed += 1;
                }
                Some(Ok(None)) => assert_eq!(by_client.get(id), None, "{about}: request {id} changed nothing"),
                Some(Err(Rejection::OutcomeUnknown)) | None => {}
                Some(Err(refusal)) => assert_eq!(by_client.get(id), None, "{about}: request {id}: {refusal:?}"),
            }
        }
        for node in 1..NODES {
            let (one, other) = (&self.nodes[0].stepped, &self.nodes[node].stepped);
            let (of_other, of_one) = (Dump::of(other), Dump::of(one));
            assert_eq!(of_other.state, of_one.state, "{about}: node {node}");
            assert_eq!(of_other.rows, of_one.rows, "{about}: node {node}");
            let lineages = |stepped: &Stepped| stepped.writer.shared.database.get().unwrap().lineages().unwrap();
            assert_eq!(lineages(other), lineages(one), "{about}: node {node}");
            assert_eq!(other.store.head(), one.store.head(), "{about}: node {node}");
            let removed = |stepped: &Stepped| stepped.writer.applied_position.as_ref().unwrap().removed;
            assert_eq!(removed(other), removed(one), "{about}: what node {node} may remove");
        }
        self.check_sessions(about);
        changed
    }
}
