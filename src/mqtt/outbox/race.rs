#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use super::{
    tests::{delivery, outbox},
    *,
};

const SHADOWS: u64 = 6;
const CHANGES: u64 = 400;

/// One race: a writer commits, the announcer routes an event and a document of each change, a connection reads, loses
/// its connection now and then and catches up. Sequence `s` of the journal changes the shadow `s % SHADOWS`.
struct Race {
    outbox: Outbox,
    routed: Routed,
    head: AtomicU64,
    /// The highest sequence the connection has seen, for the writer not to be done before it has begun; the maximum
    /// when the connection is done or has failed.
    seen: AtomicU64,
    pace: u64,
}

impl Race {
    fn write(&self) {
        for seq in 1..=CHANGES {
            while seq > self.seen.load(SeqCst).saturating_add(self.pace) {
                thread::yield_now();
            }
            self.head.store(seq, SeqCst);
        }
    }

    fn announce(&self) {
        for seq in 1..=CHANGES {
            while self.head.load(SeqCst) < seq {
                thread::yield_now();
            }
            self.routed.begin(seq);
            self.outbox.push_event(delivery(&format!("e{}", seq % SHADOWS), 1), seq);
            if seq % 3 == 0 {
                thread::yield_now();
            }
            self.outbox.push_document(delivery(&format!("d{}", seq % SHADOWS), 1), seq);
            self.routed.finish(seq);
        }
    }

    /// Reads until the newest of every topic has come. Versions of a topic must rise.
    fn connect(&self, slowness: u64) {
        let _over = Over(&self.seen);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut newest: HashMap<String, u64> = HashMap::new();
        let mut saw = |topic: String, seq: u64, again: bool| {
            let before = newest.insert(topic, seq).unwrap_or(0);
            assert!(before < seq || (again && before == seq), "{seq} after {before}");
            self.seen.fetch_max(seq, SeqCst);
            newest.values().sum::<u64>() == 2 * (0..SHADOWS).map(|back| CHANGES - back).sum::<u64>()
        };
        for turn in 1_u64.. {
            if turn % 37 == 0 {
                self.outbox.detach(&self.routed);
                self.outbox.attach();
            }
            if turn % slowness == 0 {
                thread::yield_now();
            }
            match self.outbox.pop(true) {
                Some(Item::Delivery { delivery, seq }) => {
                    if saw(delivery.message.topic.to_string(), seq.unwrap(), false) {
                        break;
                    }
                }
                Some(Item::Ack { .. }) => panic!("nothing was asked"),
                None => match self.outbox.lag() {
                    Some(lag) => {
                        let head = self.head.load(SeqCst);
                        let changed = (0..SHADOWS).map(|back| head.saturating_sub(back)).filter(|&seq| seq > lag);
                        let sent = changed.flat_map(|seq| ["e", "d"].map(|kind| (kind, seq)));
                        // A state that was half routed, or sent, when lag began may come again.
                        let mut done = false;
                        for (kind, seq) in sent {
                            done |= saw(format!("{kind}{}", seq % SHADOWS), seq, true);
                        }
                        if done {
                            break;
                        }
                        self.outbox.leave_lag(head, &self.routed);
                    }
                    None => {
                        let ready = async { tokio::time::timeout(Duration::from_secs(10), self.outbox.ready()).await };
                        assert!(runtime.block_on(ready).is_ok(), "a change or a wake-up was lost: {newest:?}");
                    }
                },
            }
        }
    }
}

struct Over<'a>(&'a AtomicU64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, SeqCst);
    }
}

#[test]
fn nothing_is_lost_between_live_events_and_catching_up() {
    let mut lagged = 0;
    for round in 0..150 {
        let (outbox, counters) = outbox();
        let (head, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        let race = Race { outbox, routed: Routed::new(0), head, seen, pace: [2, 9, 100][round % 3] };
        thread::scope(|scope| {
            scope.spawn(|| race.write());
            scope.spawn(|| race.announce());
            race.connect(1 + round as u64 % 5);
        });
        lagged += counters.lagged.get();
    }
    assert!(lagged > 0, "the queue was never full");
}
