//! The work that a principal makes the server do, in units of about a microsecond of processor time.
//!
//! The costs are constants, so that a limit means the same on every machine and in every test. Work that was done is
//! charged; a principal above its rate waits before it can cause more. There are two rates:
//!
//! - the rate of its role, with [`BURST_SECONDS`] of it at once;
//! - a rate for short times, at least half a processor, which spreads a burst over time. A packet waits for its own slot
//!   at that rate, so a principal with a thousand connections keeps no more of the processors busy than one with a few.

use std::time::{Duration, Instant};

use crate::rate::{Gcra, Rate};

/// Cost of a received packet.
pub const PACKET: u64 = 2;
/// Received bytes per unit.
pub const BYTES_PER_UNIT: u64 = 128;
/// Rendered bytes of JSON per unit.
pub const RENDERED_BYTES_PER_UNIT: u64 = 512;
/// Cost of a CONNECT: authentication, session, CONNACK.
pub const CONNECT: u64 = 100;
/// Cost of a filter that is added or removed, with the search for what it selects: adding and removing one costs five to
/// seven times as much as routing a message to one receiver (`benches/router.rs`).
pub const FILTER: u64 = 20;
/// Cost of each filter of a session that comes back: it is marked in the router, now and when its client leaves.
pub const FILTER_MARK: u64 = 1;
/// Cost of an ordinary message.
pub const MESSAGE: u64 = 3;
/// Cost of a delivery: of queueing it, charged to the publisher of an ordinary message, and of sending it, charged to
/// the receiver.
pub const DELIVERY: u64 = 1;
/// Cost of writing a delivery to the disk, for a session that outlives its connection.
pub const KEPT_DELIVERY: u64 = 10;
/// The nodes of a cluster that write a message: usually all three of them, and each has rates of its own.
const NODES: u64 = 3;
/// Cost of a command on a shadow, or of reading one.
pub const COMMAND: u64 = 30;
/// Cost of each version that is looked up back: for a conflict, a former version, or a page of history.
pub const VERSION_BACK: u64 = 5;
/// Cost of an HTTP request, without the command in it.
pub const HTTP_REQUEST: u64 = 50;
/// Cost of a page of a list, of history or of a resync.
pub const PAGE: u64 = 100;
/// Cost of each shadow that a search reads, with the evaluation of a short query.
pub const SCANNED_SHADOW: u64 = 8;
/// Predicates of a query that cost another unit for each shadow.
pub const PREDICATES_PER_UNIT: u64 = 4;
/// Steps of a search in an index per unit.
pub const STEPS_PER_UNIT: u64 = 8;

/// Returns the cost of finding `messages` retained messages for a list, with the rights to receive them, in `steps` steps of
/// an index.
#[must_use]
pub fn retained(messages: usize, steps: u32) -> u64 {
    times(messages, DELIVERY).saturating_add(u64::from(steps) / STEPS_PER_UNIT)
}

/// Returns the cost of parsing a payload that takes `weight` bytes of memory once it is parsed. That of small ones is in
/// [`COMMAND`].
#[must_use]
pub fn parsed(weight: usize) -> u64 {
    u64::try_from(weight.saturating_sub(SMALL_WEIGHT)).unwrap_or(u64::MAX) / PARSED_BYTES_PER_UNIT
}

/// The memory of a parsed payload whose cost is in [`COMMAND`].
const SMALL_WEIGHT: usize = 16 << 10;
/// Bytes of memory of a parsed payload per unit.
const PARSED_BYTES_PER_UNIT: u64 = 512;

/// Returns the cost of a journal entry of `bytes`: what one principal writes removes the oldest entries of all. That of
/// small ones is in [`COMMAND`].
#[must_use]
pub fn journaled(bytes: usize) -> u64 {
    beyond(SMALL_ENTRY_BYTES, bytes, JOURNAL_BYTES_PER_UNIT)
}

/// Bytes of a journal entry whose cost is in [`COMMAND`].
const SMALL_ENTRY_BYTES: usize = 512;
/// Bytes of a journal entry per unit beyond that: by 50,000 units a second, 0.8 MB.
const JOURNAL_BYTES_PER_UNIT: u64 = 16;

/// Returns the cost of writing a record of `bytes` for an idempotency key alone. That of small ones is in [`COMMAND`].
#[must_use]
pub fn recorded(bytes: usize) -> u64 {
    beyond(SMALL_RECORD_BYTES, bytes, RECORD_BYTES_PER_UNIT)
}

/// Bytes of a record whose cost is in [`COMMAND`].
const SMALL_RECORD_BYTES: usize = 4 << 10;
/// Bytes of a record that are encoded and written per unit beyond that.
const RECORD_BYTES_PER_UNIT: u64 = 128;

/// Returns one unit for each begun `bytes_per_unit` of what `bytes` have beyond `free`.
fn beyond(free: usize, bytes: usize, bytes_per_unit: u64) -> u64 {
    u64::try_from(bytes.saturating_sub(free)).unwrap_or(u64::MAX).div_ceil(bytes_per_unit)
}

/// Returns the cost of keeping a message of `bytes` for `sessions`, beyond that of a message that nobody keeps.
#[must_use]
pub fn kept(bytes: usize, sessions: usize) -> u64 {
    times(sessions, KEPT_DELIVERY).saturating_add(journaled(bytes))
}

/// Returns the cost of keeping a message in the log of a cluster, as [`kept`] does: all nodes write it, and what others have sent
/// waits for that.
#[must_use]
pub fn kept_in_log(bytes: usize, sessions: usize) -> u64 {
    kept(bytes, sessions).saturating_mul(NODES)
}

/// Returns the cost of reading `bytes` of the journal, beyond that of a page or of a version.
#[must_use]
pub fn journal_read(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX) / JOURNAL_BYTES_READ_PER_UNIT
}

/// Bytes of the journal that are read and decoded per unit.
const JOURNAL_BYTES_READ_PER_UNIT: u64 = 512;

/// Returns the cost of received bytes.
#[must_use]
pub fn bytes(received: usize) -> u64 {
    u64::try_from(received).unwrap_or(u64::MAX).div_ceil(BYTES_PER_UNIT)
}

/// Returns the cost of a response that was rendered.
#[must_use]
pub fn rendered(bytes: u64) -> u64 {
    bytes / RENDERED_BYTES_PER_UNIT
}

/// Returns the cost of the messages of a command or get, rendered in `bytes` for all their readers. That of small ones is in
/// [`COMMAND`].
#[must_use]
pub fn rendered_messages(bytes: usize) -> u64 {
    beyond(SMALL_MESSAGES_BYTES, bytes, RENDERED_BYTES_PER_UNIT)
}

/// Bytes of rendered messages whose cost is in [`COMMAND`].
const SMALL_MESSAGES_BYTES: usize = 8 << 10;

/// Returns the cost of `count` things that cost `each`.
#[must_use]
pub fn times(count: usize, each: u64) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(each)
}

/// The work that a principal has caused lately.
#[derive(Debug)]
pub(super) struct WorkMeter {
    lasting: Gcra,
    short: Gcra,
}

impl WorkMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self { lasting: Gcra::new(now), short: Gcra::new(now) }
    }

    /// Charges work that was done, for a principal that may cause `per_second`. Returns the time to wait before more.
    pub(super) fn charge(&mut self, per_second: u64, units: u64, now: Instant) -> Option<Duration> {
        let lasting = self.lasting.charge(lasting(per_second), units, now);
        let short = self.short.charge(short(per_second), units, now);
        lasting.max(short)
    }

    /// Returns the time until the principal is within the rate of its role; `None` if it is.
    pub(super) fn excess(&self, per_second: u64, now: Instant) -> Option<Duration> {
        self.lasting.excess(lasting(per_second), now)
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.lasting.is_idle(now) && self.short.is_idle(now)
    }
}

fn lasting(per_second: u64) -> Rate {
    Rate::within(per_second, Duration::from_secs(1), per_second.saturating_mul(BURST_SECONDS))
}

fn short(per_second: u64) -> Rate {
    let per_second = per_second.max(SHORT_PER_SECOND);
    Rate::within(per_second, Duration::from_secs(1), per_second / SHORT_BURSTS_PER_SECOND)
}

/// Seconds of its work that a principal may cause at once.
const BURST_SECONDS: u64 = 10;
/// The least rate for short times: half a processor.
const SHORT_PER_SECOND: u64 = 500_000;
/// The part of a second whose work may come at once: a fortieth, 25 ms.
const SHORT_BURSTS_PER_SECOND: u64 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst is spread over time at half a processor, and then the rate of the role applies.
    #[test]
    fn a_burst_is_spread_and_then_the_rate_applies() {
        let start = Instant::now();
        let (mut meter, mut now, mut done) = (WorkMeter::new(start), start, 0_u64);
        let mut done_at = |until: Duration| {
            while now < start + until {
                now += meter.charge(50_000, 100, now).unwrap_or_default();
                done += 100;
                now += Duration::from_nanos(1);
            }
            done
        };
        let near = |done: u64, expected: u64| done.abs_diff(expected) <= expected / 20;
        let first = done_at(Duration::from_millis(100));
        assert!(near(first, 12_500 + 50_000), "{first}");
        let burst = done_at(Duration::from_secs(2));
        assert!(near(burst, 500_000 + 100_000), "{burst}");
        let later = done_at(Duration::from_secs(12));
        assert!(near(later - burst, 500_000), "{later}");
    }

    /// Waiters are released one after the other, not all at the same time.
    #[test]
    fn each_waits_for_a_slot_of_its_own() {
        let now = Instant::now();
        let mut meter = WorkMeter::new(now);
        meter.charge(50_000, 12_500, now);
        let waits: Vec<_> = (0..100).map(|_| meter.charge(50_000, 500, now)).collect();
        assert!(waits.is_sorted_by(|a, b| a < b), "{waits:?}");
        assert_eq!(waits.last(), Some(&Some(Duration::from_millis(100))));
    }

    #[test]
    fn costs_of_bytes_round_up() {
        assert_eq!([0, 1, 128, 129].map(bytes), [0, 1, 1, 2]);
        assert_eq!([0, 512, 513, 528, 529].map(journaled), [0, 0, 1, 1, 2]);
        assert_eq!([0, 4_096, 4_097, 4_224, 4_225].map(recorded), [0, 0, 1, 1, 2]);
        assert_eq!(times(64, FILTER), 1_280);
        let costs = [(100, 0), (100, 500), (60 << 10, 0)].map(|(bytes, sessions)| kept(bytes, sessions));
        assert_eq!(costs, [0, 5_000, 3_808]);
        assert_eq!(kept_in_log(60 << 10, 500), 3 * 8_808);
    }
}
