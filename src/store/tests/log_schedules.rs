//! Schedules of several nodes that claim, decide and follow over a log whose messages are delayed, lost, repeated and
//! answered late, while nodes pause and start again. Each schedule follows its seed.
//!
//! `UMBRA_TEST_LOG_SCHEDULES` is the number of schedules of each kind, `UMBRA_TEST_CLUSTER_SEED` the seed of the first.

use std::{collections::BTreeSet, ops::Range};

use bytes::Bytes;

use super::{
    Random,
    fault_counts::{Fault, FaultCounts},
    memory_log::{MemoryLog, ReplicatedLog},
    number_from,
};
use crate::store::{
    replication::{
        batch_record::BatchRecord,
        chain::{Chain, ReadRecord},
        record::{Claim, Epoch, LogRecord, NodeId, RecordContent, RecordDigest},
        replica::{Action, Appended, KeptRecords, Reaction, Replica},
    },
    schema::JournalPosition,
};

const NODES: usize = 3;
const STEPS: usize = 200;
const SCHEDULES: u64 = 2_000;

/// The faults of a schedule beside those of the network and the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// The log keeps its promise.
    Sound,
    /// It loses acknowledged records from its end, while one node decides and lives.
    LosesUnderOneDecider,
    /// It loses acknowledged records from its end at any time.
    Loses,
}

#[derive(Clone, Copy, Debug)]
struct Faults {
    engine: Engine,
    /// A build that appends a second batch before the first is stored.
    pipelined: bool,
}

const SOUND: Faults = Faults { engine: Engine::Sound, pipelined: false };

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Violation {
    /// An acknowledged batch has no effect.
    Lost,
    /// A batch has an effect in another state than the one it was decided in.
    DecidedElsewhere,
    /// Two followers of the whole log differ.
    Diverged,
    /// A node latched, or nothing can be decided any more.
    Stuck(String),
}

/// The state of a node's store: a digest of the batches applied, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    digest: u64,
    batches: Vec<u64>,
}

struct Node {
    replica: Replica,
    state: State,
    /// The part of the log that its disk has.
    saved: (Chain, KeptRecords, State),
    /// The action under way; replies to earlier ones are ignored.
    attempt: u64,
    incarnation: u64,
    paused_until: usize,
}

/// A message to the log, or its reply.
#[derive(Clone)]
struct Message {
    node: usize,
    attempt: u64,
    action: Action,
    reply: Option<Reply>,
    /// The batch that the build with pipelining acknowledges when this is stored.
    second: Option<u64>,
}

#[derive(Clone)]
enum Reply {
    Appended(Appended),
    Found(Option<Bytes>),
    EndsAt(u64),
}

struct Schedule {
    random: Random,
    faults: Faults,
    log: MemoryLog,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    /// Batches that were acknowledged, with the node.
    acknowledged: Vec<(usize, u64)>,
    next_batch: u64,
    counts: FaultCounts,
}

impl State {
    fn apply(&mut self, batch: u64) {
        self.digest = (self.digest.rotate_left(7) ^ batch).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.batches.push(batch);
    }
}

/// Returns a batch that names itself and the state it was decided in.
pub(super) fn batch(number: u64, decided_in: u64) -> RecordContent {
    let rows = vec![(number, decided_in.to_le_bytes().to_vec())];
    RecordContent::Batch(Box::new(BatchRecord { rows, ..BatchRecord::default() }))
}

fn name_of(batch: &BatchRecord) -> (u64, u64) {
    let (number, decided_in) = &batch.rows[0];
    (*number, u64::from_le_bytes(decided_in.as_slice().try_into().unwrap()))
}

impl Node {
    fn new(number: usize) -> Self {
        let saved = (Chain::default(), KeptRecords::default(), State::default());
        let replica = Replica::new(claim(number, 0), saved.0, saved.1.clone());
        Self { replica, state: State::default(), saved, attempt: 0, incarnation: 0, paused_until: 0 }
    }

    fn save(&mut self) {
        self.saved = (*self.replica.chain(), self.replica.kept().clone(), self.state.clone());
    }

    fn restart(&mut self, number: usize) {
        let (chain, kept, state) = self.saved.clone();
        self.incarnation += 1;
        self.attempt += 1;
        self.replica = Replica::new(claim(number, self.incarnation), chain, kept);
        self.state = state;
    }

    fn is_latched(&self) -> bool {
        self.replica.latched().is_some()
    }
}

pub(super) fn claim(node: usize, incarnation: u64) -> Claim {
    Claim { node: NodeId(node as u64), incarnation }
}

impl Schedule {
    fn new(seed: u64, faults: Faults) -> Self {
        let nodes = (0..NODES).map(Node::new).collect();
        let (log, random) = (MemoryLog::default(), Random::new(seed));
        let (messages, acknowledged, counts) = (Vec::new(), Vec::new(), FaultCounts::default());
        Self { random, faults, log, nodes, messages, acknowledged, next_batch: 0, counts }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.below(end as u64) as usize
    }

    fn step(&mut self, now: usize) {
        let node = self.below(NODES);
        match self.below(16) {
            0..=5 if self.nodes[node].paused_until <= now => self.act(node),
            6..=14 if !self.messages.is_empty() => {
                let message = self.below(self.messages.len());
                self.pass(message);
            }
            15 => self.disturb(node, now),
            _ => {}
        }
    }

    /// Lets a node do something: wait no longer for a reply, decide, follow, claim or compare.
    fn act(&mut self, node: usize) {
        if self.nodes[node].replica.action().is_some() {
            if self.random.chance(3) {
                self.time_out(node);
            }
            return;
        }
        let may_claim = match self.faults.engine {
            Engine::LosesUnderOneDecider => node == 0,
            _ => self.random.chance(4),
        };
        match self.below(6) {
            0 => {
                let action = self.nodes[node].replica.check();
                self.send(node, action);
            }
            1..=4 if self.nodes[node].replica.is_deciding() => self.decide(node),
            5 if may_claim => {
                let action = self.nodes[node].replica.claim(JournalPosition::default());
                self.send(node, action);
            }
            _ => _ = self.follow(node),
        }
    }

    fn time_out(&mut self, node: usize) {
        let replica = &mut self.nodes[node].replica;
        let again = replica.appended(Appended::Unknown).action.or_else(|| replica.action());
        self.send(node, again);
    }

    fn decide(&mut self, node: usize) {
        let number = self.next_batch;
        self.next_batch += 2;
        let decided_in = self.nodes[node].state.clone();
        let action = self.nodes[node].replica.propose(batch(number, decided_in.digest), usize::MAX);
        self.send(node, action.clone());
        if let (true, Some(Action::Append { expected, record })) = (self.faults.pipelined, action) {
            self.send_second(node, number, decided_in, expected, &record);
        }
    }

    /// Sends a second batch, decided in the state with the first, without waiting for that.
    fn send_second(&mut self, node: usize, first: u64, mut decided_in: State, expected: u64, record: &Bytes) {
        decided_in.apply(first);
        let chain = self.nodes[node].replica.chain();
        let second = LogRecord {
            shard: chain.shard,
            epoch: chain.epoch,
            number: expected + 2,
            previous: RecordDigest::of(record),
            content: batch(first + 1, decided_in.digest),
        };
        let action = Action::Append { expected: expected + 1, record: second.encode().into() };
        let attempt = self.nodes[node].attempt;
        self.messages.push(Message { node, attempt, action, reply: None, second: Some(first + 1) });
    }

    /// Reads the next record; false if there is none.
    fn follow(&mut self, node: usize) -> bool {
        let next = self.nodes[node].replica.chain().position.number + 1;
        let record = self.log.follow(next, 1).unwrap();
        let Some(record) = record.first() else { return false };
        let reaction = self.nodes[node].replica.observe(record);
        self.react(node, reaction);
        !self.nodes[node].is_latched()
    }

    fn send(&mut self, node: usize, action: Option<Action>) {
        let Some(action) = action else { return };
        self.nodes[node].attempt += 1;
        let attempt = self.nodes[node].attempt;
        self.messages.push(Message { node, attempt, action, reply: None, second: None });
    }

    fn react(&mut self, node: usize, reaction: Reaction) {
        let Reaction { action, record, is_own } = reaction;
        if let Some(ReadRecord::Batch(batch)) = &record {
            let (number, _) = name_of(batch);
            self.nodes[node].state.apply(number);
            if is_own {
                self.acknowledged.push((node, number));
            }
        }
        self.send(node, action);
    }

    /// Passes a message on: to the log, or its reply to the node.
    fn pass(&mut self, message: usize) {
        let message = match self.below(10) {
            0 => return self.lose(message),
            1 => self.messages[message].clone(),
            _ => self.messages.swap_remove(message),
        };
        self.deliver(message);
    }

    fn lose(&mut self, message: usize) {
        let message = self.messages.swap_remove(message);
        match (message.action, message.reply) {
            (Action::Append { .. }, None) => self.counts.note(Fault::AppendLost),
            (_, Some(Reply::Appended(Appended::Stored))) => self.counts.note(Fault::AppendUnheard),
            _ => {}
        }
    }

    fn deliver(&mut self, message: Message) {
        match message.reply {
            None => {
                let is_awaited = self.nodes[message.node].attempt == message.attempt;
                let reply = Some(self.answer(&message.action, is_awaited));
                self.messages.push(Message { reply, ..message });
            }
            Some(reply) => self.answered(message.node, message.attempt, message.second, reply),
        }
    }

    fn answer(&mut self, action: &Action, is_awaited: bool) -> Reply {
        match action {
            Action::Append { expected, record } => {
                let outcome = self.log.append(*expected, record);
                match (outcome, is_awaited) {
                    (Appended::Stored, false) => self.counts.note(Fault::LateAppendStored),
                    (Appended::Refused, false) => self.counts.note(Fault::LateAppendRefused),
                    (Appended::Refused, true) => self.counts.note(Fault::AppendRefused),
                    _ => {}
                }
                Reply::Appended(outcome)
            }
            Action::Read(number) => Reply::Found(self.log.get(*number).cloned()),
            Action::Tail => Reply::EndsAt(self.log.last()),
        }
    }

    fn answered(&mut self, node: usize, attempt: u64, second: Option<u64>, reply: Reply) {
        if let Some(second) = second {
            if let Reply::Appended(Appended::Stored) = reply {
                self.acknowledged.push((node, second));
            }
            return;
        }
        if self.nodes[node].attempt != attempt {
            return;
        }
        let replica = &mut self.nodes[node].replica;
        let reaction = match reply {
            Reply::Appended(outcome) => replica.appended(outcome),
            Reply::Found(record) => replica.found(record.as_ref()),
            Reply::EndsAt(tail) => replica.ends_at(tail),
        };
        self.react(node, reaction);
    }

    fn disturb(&mut self, node: usize, now: usize) {
        match self.below(4) {
            0 => {
                let is_deciding = self.nodes[node].replica.is_deciding();
                self.counts.note(if is_deciding { Fault::DeciderPaused } else { Fault::NodePaused });
                self.nodes[node].paused_until = now + self.below(STEPS / 3);
            }
            // A node that loses its memory in addition to the log's loss may be the only one that had the records.
            1 if self.faults.engine == Engine::Sound => {
                let is_deciding = self.nodes[node].replica.is_deciding();
                self.counts.note(if is_deciding { Fault::DeciderKilled } else { Fault::NodeKilled });
                self.nodes[node].restart(node);
            }
            2 => self.nodes[node].save(),
            3 if self.faults.engine != Engine::Sound && self.random.chance(3) => {
                let last = self.log.last();
                self.log.lose_after(last.saturating_sub(self.random.below(4)));
                self.counts.note_many(Fault::EndLost, u64::from(self.log.last() < last));
            }
            _ => {}
        }
    }

    /// Lets the faults end and every node read the whole log, under one decider that decides once more.
    fn end(&mut self) -> Result<(), Violation> {
        while !self.messages.is_empty() {
            let message = self.below(self.messages.len());
            let message = self.messages.swap_remove(message);
            self.deliver(message);
        }
        let decider = self.end_claims()?;
        let before = self.acknowledged.len();
        self.decide(decider);
        self.deliver_all();
        if self.acknowledged.len() == before {
            return Err(Violation::Stuck("the last batch was not stored".to_owned()));
        }
        for node in 0..NODES {
            while self.follow(node) {}
            let action = self.nodes[node].replica.check();
            self.send(node, action);
            self.deliver_all();
        }
        Ok(())
    }

    /// Returns the node that decides in the end: of those that take part, one that has read the most.
    fn end_claims(&mut self) -> Result<usize, Violation> {
        for _ in 0..3 * NODES {
            for node in 0..NODES {
                while self.follow(node) {}
                self.time_out(node);
                self.deliver_all();
            }
            let able = (0..NODES).filter(|node| !self.nodes[*node].is_latched());
            let Some(node) = able.max_by_key(|node| self.nodes[*node].replica.chain().position.number) else {
                let reasons: Vec<_> = self.nodes.iter().map(|node| node.replica.latched().cloned()).collect();
                return Err(Violation::Stuck(format!("{reasons:?}")));
            };
            let action = self.nodes[node].replica.claim(JournalPosition::default());
            self.send(node, action);
            self.deliver_all();
            if self.nodes[node].replica.is_deciding() && self.nodes[node].replica.action().is_none() {
                return Ok(node);
            }
        }
        Err(Violation::Stuck("nobody can claim".to_owned()))
    }

    fn deliver_all(&mut self) {
        while let Some(message) = self.messages.pop() {
            self.deliver(message);
        }
    }

    /// Checks everything that was promised, by a reading of the log that shares no code with the nodes'.
    fn check(&self) -> Result<(), Violation> {
        let able: Vec<_> = (0..NODES).filter(|node| !self.nodes[*node].is_latched()).collect();
        let Some(first) = able.first().map(|node| &self.nodes[*node]) else {
            return Err(Violation::Stuck("all nodes are latched".to_owned()));
        };
        if able.iter().any(|node| self.nodes[*node].state != first.state) {
            return Err(Violation::Diverged);
        }
        let known: BTreeSet<_> = first.state.batches.iter().collect();
        let is_lost = |(node, batch): &(usize, u64)| !known.contains(batch) && able.contains(node);
        if self.acknowledged.iter().any(is_lost) {
            return Err(Violation::Lost);
        }
        if self.faults.engine == Engine::Loses {
            // Positions may have been used twice. Whoever had read the former records is latched.
            return Ok(());
        }
        let effective = self.effective(true)?;
        if able.len() < NODES || effective != first.state.batches {
            return Err(Violation::Diverged);
        }
        if self.acknowledged.iter().any(|(_, batch)| !effective.contains(batch)) {
            return Err(Violation::Lost);
        }
        Ok(())
    }

    /// Returns the batches of the log that have an effect; of all epochs, unless `heed_claims`.
    fn effective(&self, heed_claims: bool) -> Result<Vec<u64>, Violation> {
        let (mut newest, mut state) = (Epoch(0), State::default());
        for number in 1..=self.log.last() {
            let record = LogRecord::decode(number, self.log.get(number).unwrap()).unwrap();
            match record.content {
                RecordContent::Claim(..) => newest = newest.max(record.epoch),
                RecordContent::Batch(batch) if record.epoch == newest || !heed_claims => {
                    let (batch, decided_in) = name_of(&batch);
                    if decided_in != state.digest {
                        return Err(Violation::DecidedElsewhere);
                    }
                    state.apply(batch);
                }
                _ => {}
            }
        }
        Ok(state.batches)
    }
}

/// Runs a schedule, and returns it with what it broke.
fn run(seed: u64, faults: Faults) -> (Schedule, Result<(), Violation>) {
    let mut schedule = Schedule::new(seed, faults);
    (0..STEPS).for_each(|now| schedule.step(now));
    let result = schedule.end().and_then(|()| schedule.check());
    (schedule, result)
}

fn seeds() -> Range<u64> {
    let first = number_from("UMBRA_TEST_CLUSTER_SEED", 0);
    first..first + number_from("UMBRA_TEST_LOG_SCHEDULES", SCHEDULES)
}

/// The faults of a log that keeps its promise, and of nodes.
const FAULTS: [Fault; 9] = [
    Fault::AppendRefused,
    Fault::AppendLost,
    Fault::AppendUnheard,
    Fault::LateAppendStored,
    Fault::LateAppendRefused,
    Fault::NodePaused,
    Fault::DeciderPaused,
    Fault::NodeKilled,
    Fault::DeciderKilled,
];

#[test]
fn no_schedule_loses_an_acknowledged_batch_or_decides_twice() {
    let (mut batches, mut claims, mut faults) = (0, 0, FaultCounts::default());
    for seed in seeds() {
        let (schedule, result) = run(seed, SOUND);
        assert_eq!(result, Ok(()), "seed {seed}");
        batches += schedule.acknowledged.len();
        claims += schedule.nodes[0].replica.chain().epoch.0;
        faults.add(&schedule.counts);
    }
    let schedules = seeds().count();
    println!("{schedules} schedules: {batches} batches, {claims} claims, {faults:?}");
    if schedules >= 100 {
        assert!(batches > 3 * schedules && claims > 2 * schedules as u64, "{batches} batches, {claims} claims");
    }
    faults.check(&FAULTS, schedules as u64 / 10);
}

#[test]
fn a_lost_end_of_the_log_is_appended_again() {
    let mut faults = FaultCounts::default();
    for seed in seeds() {
        let (schedule, result) = run(seed, Faults { engine: Engine::LosesUnderOneDecider, ..SOUND });
        assert_eq!(result, Ok(()), "seed {seed}");
        faults.add(&schedule.counts);
    }
    println!("{faults:?}");
    faults.check(&[Fault::EndLost], seeds().count() as u64 / 4);
}

#[test]
fn a_log_that_lost_its_end_and_went_on_differently_is_noticed() {
    let mut faults = FaultCounts::default();
    for seed in seeds() {
        let (schedule, result) = run(seed, Faults { engine: Engine::Loses, ..SOUND });
        assert!(matches!(result, Ok(()) | Err(Violation::Stuck(_))), "seed {seed}: {result:?}");
        faults.add(&schedule.counts);
        faults.note_many(Fault::Fork, schedule.nodes.iter().filter(|node| node.is_latched()).count() as u64);
    }
    println!("{faults:?}");
    faults.check(&[Fault::EndLost, Fault::Fork], seeds().count() as u64 / 20);
}

/// The schedules find what they are for: 22 of the first 2,000 do, the first by seed 309.
#[test]
fn a_build_that_appends_two_batches_at_once_is_found_out() {
    let pipelined = Faults { pipelined: true, ..SOUND };
    let mut found = Vec::new();
    for seed in 0..SCHEDULES {
        let (schedule, result) = run(seed, pipelined);
        // The second batch is stored behind another node's claim.
        let is_void = schedule
            .effective(true)
            .is_ok_and(|effective| schedule.acknowledged.iter().any(|(_, batch)| !effective.contains(batch)));
        let is_decided_twice = schedule.effective(false) == Err(Violation::DecidedElsewhere);
        if is_void && is_decided_twice {
            assert!(result.is_err(), "seed {seed}");
            found.push(seed);
        }
    }
    assert!(found.len() > 5, "found by the seeds {found:?} alone");
}
