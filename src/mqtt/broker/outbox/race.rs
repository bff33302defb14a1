#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use crate::mqtt::broker::outbox::{
    tests::{delivery, outbox},
    *,
};

const SHADOWS: u64 = 6;
const CHANGES: u64 = 400;

/// One race of four threads.
///
/// A writer commits. The notifier routes an event and a document of each change. Another thread publishes ordinary
/// messages without a pause. A connection reads, reconnects now and then, and alternates between the queue and its
/// resync. Sequence `s` of the journal changes the shadow `s % SHADOWS`.
struct Race {
    outbox: Outbox,
    fan_out_position: FanOutPosition,
    head: AtomicU64,
    /// The highest sequence the connection has seen, which keeps the writer from finishing before the connection
    /// begins. `u64::MAX` when the connection has finished or failed.
    seen: AtomicU64,
    /// Changes that the writer may be ahead of the connection.
    writer_lead: u64,
}

impl Race {
    fn write(&self) {
        for seq in 1..=CHANGES {
            while seq > self.seen.load(SeqCst).saturating_add(self.writer_lead) {
                thread::yield_now();
            }
            self.head.store(seq, SeqCst);
        }
    }

    fn notify(&self) {
        for seq in 1..=CHANGES {
            while self.head.load(SeqCst) < seq {
                thread::yield_now();
            }
            self.fan_out_position.begin(seq);
            self.outbox.push_event(delivery(&format!("e{}", seq % SHADOWS), 1), seq);
            if seq % 3 == 0 {
                thread::yield_now();
            }
            self.outbox.push_document(delivery(&format!("d{}", seq % SHADOWS), 1), seq);
            self.fan_out_position.finish(seq);
        }
    }

    /// Keeps the queue full of ordinary messages, numbered in their topics, until the connection has finished.
    fn flood(&self) {
        for number in 0_u64.. {
            if self.seen.load(SeqCst) == u64::MAX {
                return;
            }
            self.outbox.push_ordinary(delivery(&format!("p{number}"), 1));
            if number % 4 == 0 {
                thread::yield_now();
            }
        }
    }

    /// Returns the next change of the journal above `walked` that is still the newest of its shadow.
    fn resync(&self, walked: &mut Option<u64>) -> Option<u64> {
        let since = self.outbox.resync_since().filter(|_| !self.outbox.has_replies())?;
        let (after, head) = (walked.map_or(since, |walked| walked.max(since)), self.head.load(SeqCst));
        if after >= head {
            *walked = (!self.outbox.finish_resync(after, &self.fan_out_position)).then_some(after);
            return None;
        }
        let next = (after + 1).max((head + 1).saturating_sub(SHADOWS));
        *walked = Some(next);
        Some(next)
    }

    /// Reads until the newest message of every topic has arrived. The versions of a topic must rise, and so must the
    /// numbers of ordinary messages.
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
        let (mut walked, mut ordinary, mut others) = (None, None, 0);
        for turn in 1_u64.. {
            if turn % 97 == 0 {
                self.outbox.detach(&self.fan_out_position);
                self.outbox.attach(u16::MAX);
                walked = None;
            }
            if turn % slowness == 0 {
                thread::yield_now();
            }
            let due = others >= 3 && self.outbox.resync_since().is_some();
            match if due { None } else { self.outbox.pop(u16::MAX) } {
                Some(Item::Delivery { delivery, seq: Some(seq) }) => {
                    others += 1;
                    if saw(delivery.message.topic.to_string(), seq, false) {
                        break;
                    }
                }
                Some(Item::Delivery { delivery, seq: None }) => {
                    others += 1;
                    let number = delivery.message.topic.as_str()[1..].parse::<u64>().unwrap();
                    assert!(ordinary < Some(number), "{number} after {ordinary:?}");
                    ordinary = Some(number);
                }
                Some(Item::Ack { .. } | Item::Saved(_)) => panic!("no request was made"),
                None if self.outbox.resync_since().is_some() => {
                    others = 0;
                    if let Some(seq) = self.resync(&mut walked) {
                        // A state that was partly routed, or sent, when the resync began may arrive again.
                        let topic = |kind: &str| format!("{kind}{}", seq % SHADOWS);
                        if ["e", "d"].map(|kind| saw(topic(kind), seq, true)).contains(&true) {
                            break;
                        }
                    }
                }
                None => {
                    let ready = async { tokio::time::timeout(Duration::from_secs(10), self.outbox.ready()).await };
                    assert!(runtime.block_on(ready).is_ok(), "a change or a wake-up was lost: {newest:?}");
                }
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
fn no_change_is_lost_between_live_events_and_a_resync() {
    let mut resyncs = 0;
    for round in 0..150 {
        let (outbox, counters) = outbox();
        let (head, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        let race =
            Race { outbox, fan_out_position: FanOutPosition::new(0), head, seen, writer_lead: [2, 9, 100][round % 3] };
        thread::scope(|scope| {
            scope.spawn(|| race.write());
            scope.spawn(|| race.notify());
            if round % 5 == 0 {
                scope.spawn(|| race.flood());
            }
            race.connect(1 + round as u64 % 5);
        });
        resyncs += counters.resyncs.get();
    }
    assert!(resyncs > 0, "the queue was never full");
}
