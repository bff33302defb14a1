//! A store that applies the records which another one decided equals it, whatever happens to it meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use redb::ReadableTable;

use super::{
    Random, delete, indexes, key,
    memory_log::{FaultyLog, MemoryLog, ReplicatedLog},
    model::{random_command, small_options},
    named, purging, queued_by,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
};
use crate::{
    shadow::{Command, IdempotencyKey, Keyed, ShadowKey, Update, command::idempotency::REMEMBERED_SECONDS},
    store::{
        QueuedCommand, RowEdit, ShadowCounts, StoreError, StoreOptions,
        database::CommitFailure,
        replication::{
            batch_log::BatchLog,
            batch_record::BatchRecord,
            chain::Chain,
            record::{Claim, RecordContent},
            replay::NoRequests,
            replica::{Action, KeptRecords, Replica},
        },
        schema::{Checkpoint, FLOORS_TABLE, JOURNAL_TABLE, JournalPosition, RowsCheckpoint, STATE_TABLE},
        state::record::{self, RecordEncoder},
    },
};

/// The number of histories; each has its own seed.
const HISTORIES: u64 = 40;
const STEPS: usize = 60;

/// A node that decides, over a log with faults.
struct DecidingNode {
    replica: Replica,
    log: FaultyLog,
    /// The number of keyed no-ops in its records.
    no_ops: Arc<AtomicUsize>,
}

impl DecidingNode {
    fn claim(log: FaultyLog) -> Self {
        let replica = Replica::new(Claim::default(), Chain::default(), KeptRecords::default());
        let mut node = Self { replica, log, no_ops: Arc::default() };
        let action = node.replica.claim(JournalPosition::default());
        node.carry_out(action);
        assert!(node.replica.is_deciding());
        node
    }

    /// Carries out `action` and those that follow from it.
    fn carry_out(&mut self, mut action: Option<Action>) {
        while let Some(next) = action {
            let reaction = match next {
                Action::Append { expected, record } => self.replica.appended(self.log.append(expected, &record)),
                Action::Read(number) => match self.log.follow(number, 1) {
                    Some(found) => self.replica.found(found.first()),
                    None => Default::default(),
                },
                Action::Tail => self.log.tail().map(|tail| self.replica.ends_at(tail)).unwrap_or_default(),
            };
            action = reaction.action.or_else(|| self.replica.action());
        }
        assert_eq!(self.replica.latched(), None);
    }
}

impl BatchLog for DecidingNode {
    fn append(&mut self, record: &BatchRecord) -> Result<(), CommitFailure> {
        self.no_ops.fetch_add(record.no_ops.len(), Ordering::Relaxed);
        let content = RecordContent::Batch(Box::new(record.clone()));
        let action = self.replica.propose(content, usize::MAX);
        assert!(action.is_some(), "one record at a time");
        self.carry_out(action);
        match self.replica.is_deciding() {
            true => Ok(()),
            false => Err(CommitFailure::NotTried(StoreError::Closed)),
        }
    }
}

/// A store that decides, and one that follows.
struct Pair {
    random: Random,
    decider: Stepped,
    follower: Stepped,
    /// The disk of the follower.
    disk: SimDisk,
    follower_options: StoreOptions,
    log: Arc<Mutex<MemoryLog>>,
    no_ops: Arc<AtomicUsize>,
    next_row: u64,
}

impl Pair {
    fn open(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let log = Arc::new(Mutex::new(MemoryLog::default()));
        let journal_bytes_max = [1, 1500, 1 << 20][random.below(3) as usize];
        let options =
            StoreOptions { shadow_names_max: 2, journal_bytes_max, row_lag_bytes_max: 800, ..small_options() };
        // A replica has a pace of its own.
        let follower_options = StoreOptions {
            lag_entries_max: 10 + random.below(60),
            row_lag_bytes_max: 300,
            journal_bytes_max: 1,
            flush_documents_min: random.below(4) as usize,
            indexed: indexes::declared("reported.* tags.nested.* desired.a.in shadow.name.b.reported.a"),
            ..options.clone()
        };
        let mut decider = Stepped::open(&SimDisk::new(Vec::new(), Stop::Never), options).unwrap();
        let node = DecidingNode::claim(FaultyLog::new(Arc::clone(&log), seed));
        let no_ops = Arc::clone(&node.no_ops);
        decider.writer.log = Box::new(node);
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let follower = Stepped::open(&disk, follower_options.clone()).unwrap();
        Self { random, decider, follower, disk, follower_options, log, no_ops, next_row: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn step(&mut self) {
        match self.below(16) {
            0..=5 => self.decide(),
            6 | 7 => self.send_rows(),
            8 => self.pass_time(),
            9 => self.purge(),
            10 => self.decider.idle(),
            11 | 12 => {
                let limit = 1 + self.below(9) as usize;
                self.follow(limit).unwrap();
            }
            13 => self.follower.idle(),
            14 => self.restart(),
            _ => self.fail_once(),
        }
    }

    fn decide(&mut self) {
        let queue: Vec<_> = (0..=self.below(5)).map(|_| self.command()).collect();
        self.decider.apply(queue);
    }

    fn command(&mut self) -> QueuedCommand<u64> {
        let random = &mut self.random;
        let key = some_key(random);
        // Names are often deleted, so that others take their place.
        let command = match random.below(8) {
            0 | 1 => delete(),
            2 => no_op(random.below(9)),
            _ => random_command(random),
        };
        let author = ["app-1", "dev", "monitor"][random.below(3) as usize];
        let mut queued = queued_by(author, &key, command, 0);
        if random.chance(4) {
            let value = Bytes::from(vec![b'c'; random.below(30) as usize]);
            queued.envelope.row = Some(RowEdit::Put(format!("c{}", random.below(3)).into_bytes().into(), value));
        }
        queued
    }

    /// Sends edits of rows: some come and go at once, as queued messages do. Some wait for the next commit.
    fn send_rows(&mut self) {
        let mut edits = Vec::new();
        for _ in 0..=self.below(4) {
            let value = Bytes::from(vec![b'v'; self.below(60) as usize]);
            let key = |number: u64| number.to_be_bytes().into();
            let former = self.below(self.next_row + 1);
            edits.push(match self.below(4) {
                0 | 1 => {
                    self.next_row += 1;
                    RowEdit::Insert(key(self.next_row), value)
                }
                2 => RowEdit::Put(key(former), value),
                _ => RowEdit::Remove(key(former)),
            });
        }
        if self.random.chance(2) {
            self.decider.store.write_rows(edits, None).unwrap();
        } else {
            self.write_row(edits);
        }
    }

    /// Commits edits of rows, which makes a record even if nothing else changed.
    fn write_row(&mut self, edits: Vec<RowEdit>) {
        self.decider.store.write_rows(edits, Some(Box::new(|| ()))).unwrap();
        self.decider.apply([]);
    }

    fn pass_time(&mut self) {
        let seconds = match self.below(4) {
            0 => REMEMBERED_SECONDS / 2 + 1,
            _ => 1 + self.below(90),
        };
        *self.decider.now.lock() += seconds;
        // Its clock is another one.
        *self.follower.now.lock() += self.random.below(100);
    }

    fn purge(&mut self) {
        let keys: Vec<_> = (0..4).map(|_| some_key(&mut self.random)).collect();
        purging::purge(&mut self.decider, &keys, false).unwrap();
    }

    fn chain(&self) -> Chain {
        self.follower.writer.applied_position.as_ref().map(|applied| applied.chain).unwrap_or_default()
    }

    /// Applies at most `limit` records.
    fn follow(&mut self, limit: usize) -> Result<(), StoreError> {
        let mut chain = self.chain();
        let found = self.log.lock().follow(chain.position.number + 1, limit).unwrap();
        let read = |record: &Bytes| {
            let read = chain.read(record).unwrap();
            (chain, read)
        };
        let records: Vec<_> = found.iter().map(read).collect();
        self.follower.writer.follow(records, &mut NoRequests)
    }

    fn restart(&mut self) {
        let image = if self.random.chance(2) { self.disk.durable() } else { self.disk.torn(&mut self.random) };
        self.disk = SimDisk::new(image, Stop::Never);
        self.follower = Stepped::open(&self.disk, self.follower_options.clone()).unwrap();
    }

    /// Lets the disk of the follower fail, and work again.
    fn fail_once(&mut self) {
        let (syncs, writes) = self.disk.operations();
        let stop = match self.below(3) {
            0 => Stop::AtSync(syncs + 1 + self.below(3)),
            1 => Stop::AfterSync(syncs + 1 + self.below(3)),
            _ => Stop::AtWrite(writes + 1 + self.below(12)),
        };
        self.disk.repair(Repaired::Pending, stop);
        let _fails_perhaps = self.follow(4);
        let content = match self.below(3) {
            0 => Repaired::Lost,
            1 => Repaired::Pending,
            _ => Repaired::Torn(self.below(1000)),
        };
        if self.disk.has_stopped() {
            self.disk.repair(content, Stop::Never);
            assert!((0..20).any(|_| self.follower.heal().is_some()), "the store heals");
        } else {
            self.disk.repair(Repaired::Pending, Stop::Never);
        }
    }

    /// Compares the documents as they are read, with their idempotency keys, when both stores have the same records.
    fn compare_documents(&mut self, about: &str) {
        // The decider appends again what the log has lost.
        self.write_row(vec![RowEdit::Put(b"beat".as_slice().into(), Bytes::new())]);
        self.follow(usize::MAX).unwrap();
        for key in all_keys() {
            let (decided, followed) = (self.decider.store.read(&key).unwrap(), self.follower.store.read(&key).unwrap());
            assert_eq!(followed, decided, "{about}: {key}");
        }
        assert_eq!(self.follower.store.head(), self.decider.store.head(), "{about}: the head");
        indexes::check_entries(&self.follower, about);
        if self.random.chance(2) {
            self.log.lock().trim(self.chain().position.number);
        }
    }

    fn end(&mut self, about: &str) {
        self.compare_documents(about);
        self.decider.idle();
        // Retention goes on with each commit, and the record of the next one says how far it went.
        for round in 0..5_u8 {
            self.write_row(vec![RowEdit::Put(b"end".as_slice().into(), Bytes::from(vec![round]))]);
        }
        self.follow(usize::MAX).unwrap();
        self.follower.idle();
        self.write_row(vec![RowEdit::Put(b"end".as_slice().into(), Bytes::new())]);
        self.follow(usize::MAX).unwrap();
        assert_eq!(Dump::of(&self.follower), Dump::of(&self.decider), "{about}");
    }
}

/// Returns an update with an idempotency key that changes nothing.
fn no_op(number: u64) -> Command {
    let update = Update::default();
    let key = IdempotencyKey::new(&format!("no-op-{number}")).unwrap();
    Command::Update(Update { keyed: Some(Keyed::update(key, &update)), ..update })
}

fn all_keys() -> Vec<ShadowKey> {
    let devices = ["d1", "d2", "d3"];
    let keys = |device| [key(device)].into_iter().chain(["a", "b", "c", "d"].map(|name| named(device, name)));
    devices.into_iter().flat_map(keys).collect()
}

fn some_key(random: &mut Random) -> ShadowKey {
    let keys = all_keys();
    keys[random.below(keys.len() as u64) as usize].clone()
}

/// The content of a store whose documents are all flushed.
#[derive(Debug, PartialEq)]
pub(super) struct Dump {
    pub(super) state: Vec<(Vec<u8>, Vec<u8>)>,
    journal: Vec<(u64, Vec<u8>)>,
    floors: Vec<(String, Vec<u8>)>,
    pub(super) rows: Vec<(Vec<u8>, Bytes)>,
    progress: Checkpoint,
    counts: Option<ShadowCounts>,
}

impl Dump {
    pub(super) fn of(stepped: &Stepped) -> Self {
        let (database, dictionaries) = (&stepped.writer.shared.database, &stepped.writer.shared.dictionaries);
        // Each store has dictionaries of its own.
        let plain = |key: &[u8], value: &[u8]| {
            let stored = record::decode(key, value, dictionaries).unwrap();
            RecordEncoder::default().encode(key, &stored, None).to_vec()
        };
        let mut rows = Vec::new();
        stepped.store.each_row(|_| true, |key, value| rows.push((key.to_vec(), value))).unwrap();
        let (state, journal, floors) = database
            .read(|transaction| {
                let (state, journal) = (transaction.open_table(STATE_TABLE)?, transaction.open_table(JOURNAL_TABLE)?);
                let state = state
                    .iter()?
                    .map(|item| item.map(|(key, value)| (key.value().to_vec(), plain(key.value(), value.value()))));
                let journal =
                    journal.iter()?.map(|item| item.map(|(key, value)| (key.value(), value.value().to_vec())));
                let floors = match transaction.open_table(FLOORS_TABLE) {
                    Err(redb::TableError::TableDoesNotExist(_)) => Vec::new(),
                    table => table?
                        .iter()?
                        .map(|item| item.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())))
                        .collect::<Result<_, _>>()?,
                };
                Ok((state.collect::<Result<_, _>>()?, journal.collect::<Result<_, _>>()?, floors))
            })
            .unwrap();
        // The table of rows follows at each store's own pace.
        let mut progress = stepped.writer.progress;
        progress.rows = RowsCheckpoint { head: progress.rows.head, ..RowsCheckpoint::default() };
        progress.dictionaries = 0;
        // Each store has the index that its own configuration declares.
        progress.index = 0;
        Self { state, journal, floors, rows, progress, counts: stepped.store.health().shadows }
    }
}

#[test]
fn a_follower_equals_the_decider() {
    let (mut floors, mut no_ops, mut trimmed) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut pair = Pair::open(seed);
        for step in 0..STEPS {
            pair.step();
            if step % 12 == 11 {
                pair.compare_documents(&format!("seed {seed}, step {step}"));
            }
        }
        pair.end(&format!("seed {seed}"));
        floors += pair.decider.writer.progress.floors;
        trimmed += pair.decider.writer.progress.removed.seq.0;
        no_ops += pair.no_ops.load(Ordering::Relaxed);
    }
    assert!(floors > 10 && no_ops > 60 && trimmed > 200, "{floors} floors, {no_ops} no-ops, {trimmed} entries removed");
}
