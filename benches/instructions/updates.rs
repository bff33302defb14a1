//! Updates through the store, with its threads: queued, decided, committed, reported, and their share of the write-back.

use std::sync::mpsc;

use serde_json::json;
use tempfile::TempDir;
use umbrad::{
    shadow::{ShadowKey, Update},
    store::{self, CommitReport, Moment, QueuedCommand, Store, StoreOptions},
};

use crate::{
    Case, Pass,
    commands::{key, queued},
    documents::{thermostat, update},
    functions::measurement,
};

pub(crate) const CASES: &[Case] = &[
    Case { name: "update-hot", operations: 1_000, prepare: hot },
    Case { name: "update-cold", operations: 1_000, prepare: cold },
];

/// The updates of one commit.
const BATCH: usize = 250;

/// A store whose writer waits before each batch until the whole batch is queued. Otherwise the size of a batch, which its
/// cost depends on, would be a matter of time.
struct SteppedStore {
    /// Lets the writer return from its report. Dropped first, so that the writer ends.
    resume: mpsc::Sender<()>,
    store: Store<()>,
    reported: mpsc::Receiver<usize>,
    _directory: TempDir,
}

/// Prepares updates of 500 shadows in turn, all in memory.
fn hot(operations: usize) -> Pass {
    let running = SteppedStore::open(|options| options);
    let keys = running.create(500);
    running.pass(operations, (0..2 * operations).map(|n| (at(&keys, n), update(measurement(n)))))
}

/// Prepares updates of shadows that are not in memory: neither the document nor its page. They are spread over the file. The
/// cache has room for some batches, and the dirty set is so small that as many documents are flushed as are
/// updated.
fn cold(operations: usize) -> Pass {
    let running = SteppedStore::open(|options| StoreOptions {
        document_cache_bytes: 8 << 20,
        page_cache_bytes: 512 << 10,
        lag_bytes_max: 256 << 10,
        ..options
    });
    let keys = running.create(8 * operations);
    running.pass(operations, (0..2 * operations).map(|n| (at(&keys, n * 7_919), update(measurement(n)))))
}

fn at(keys: &[ShadowKey], n: usize) -> &ShadowKey {
    keys.get(n % keys.len()).expect("within the keys")
}

impl SteppedStore {
    fn open(options: impl Fn(StoreOptions) -> StoreOptions) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (report, reported) = mpsc::channel();
        let (resume, resumed) = mpsc::channel();
        let deliver = move |delivered: CommitReport<()>| {
            let outcomes = delivered.outcomes;
            assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "an update was refused");
            let _ = report.send(outcomes.len());
            // Fails at the end, when nobody waits any more.
            let _ = resumed.recv();
        };
        let options = options(StoreOptions::new(directory.path().join("store.redb")));
        let store = store::open(options, Moment::default, deliver).expect("a new store opens");
        let stepped = Self { resume, store, reported, _directory: directory };
        // The writer waits in its first report from now on.
        stepped.send(queued(&key("first"), update(json!({"reported": {"a": 1}}))));
        assert_eq!(stepped.reported.recv(), Ok(1));
        stepped
    }

    /// Creates `count` shadows.
    fn create(&self, count: usize) -> Vec<ShadowKey> {
        let keys: Vec<_> = (0..count).map(|n| key(&format!("device-{n:06}"))).collect();
        for keys in keys.chunks(BATCH) {
            self.apply(keys.iter().map(|key| queued(key, update(thermostat()))));
        }
        keys
    }

    /// Returns a pass that applies the next `operations` of `updates`.
    fn pass<'a>(self, operations: usize, updates: impl Iterator<Item = (&'a ShadowKey, Update)>) -> Pass {
        let mut queue = updates.map(|(key, update)| queued(key, update)).collect::<Vec<_>>().into_iter();
        Box::new(move || {
            let batches = operations / BATCH;
            (0..batches).for_each(|_| self.apply(queue.by_ref().take(BATCH)));
        })
    }

    /// Queues `batch`, lets the writer commit it, and waits until the outcomes are reported.
    fn apply(&self, batch: impl Iterator<Item = QueuedCommand<()>>) {
        let mut left = batch.map(|queued| self.send(queued)).count();
        while left > 0 {
            self.resume.send(()).expect("the writer runs");
            left -= self.reported.recv().expect("the writer runs");
        }
    }

    /// Queues a command as the engine does: the thread that submits it loads the document.
    fn send(&self, queued: QueuedCommand<()>) {
        let permit = self.store.try_reserve(100).expect("the queue has room");
        if !permit.is_loaded(&queued.envelope.key) {
            permit.load(&queued.envelope.key);
        }
        assert!(permit.send(queued).is_ok(), "the store is closed");
    }
}
