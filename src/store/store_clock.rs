//! The clock of the store, for whatever is removed by age: journal entries, idempotency keys, and the tombstones that
//! wait for both.
//!
//! The date may be wrong: a machine that starts without a battery is in 1970, a wrong time server is in 2099. So age is
//! *running time*, the time for which a store was open, by the monotonic clock. It is written to the file with later
//! commits. Time while the store is closed does not count, hence whatever is kept for a day is kept for a day of
//! operation. The date only goes into timestamps. When it jumps, the log has both times, and nothing else happens.
//!
//! The age of journal entries is known by [`AgeMark`]s: all entries up to a sequence existed at some running time.

use std::{collections::VecDeque, time::Duration};

use crate::{
    shadow::Timestamp,
    store::{
        codec::{DecodeError, put_len, put_u64},
        frame,
        journal::entry::Seq,
        schema::{AGES_KEY, META},
    },
};

/// Marks in the maximum age. An entry is kept longer than that by one part at most.
const MARKS_PER_AGE: u64 = 64;
/// Most marks; further ones replace the oldest.
const MARKS_MAX: usize = 256;
/// Running time after which it is written with the next commit, in seconds. A crash forgets no more than that.
const RECORD_EVERY: u64 = 60;
/// A difference between the progress of the date and of the monotonic clock that is a jump, in seconds.
const JUMP_MIN: u64 = 60;

/// The source of both clocks.
pub(super) type Source = Box<dyn Fn() -> Moment + Send>;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The date.
    pub date: Timestamp,
    /// The time of the monotonic clock, from an arbitrary start.
    pub running: Duration,
}

/// The present time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Now {
    /// The date, for timestamps.
    pub(super) date: Timestamp,
    /// The running time, as a timestamp that began with the date of the first commit.
    pub(super) running: Timestamp,
}

/// A running time at which all entries up to a sequence existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AgeMark {
    seq: Seq,
    running: Timestamp,
}

/// The running time and the marks, as written to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AgeRecord {
    running: Timestamp,
    /// The date when this was written.
    date: Timestamp,
    marks: VecDeque<AgeMark>,
}

/// The clock; see the module.
pub(super) struct StoreClock {
    source: Source,
    age_max: u64,
    /// The last reading of the source.
    last: Moment,
    /// The running time without the part of a second.
    running: Timestamp,
    /// The part of a second that is not in `running` yet.
    rest: Duration,
    marks: VecDeque<AgeMark>,
    /// A running time at which all entries existed.
    appended: Timestamp,
    /// The running time that was written last.
    recorded: Option<Timestamp>,
}

impl StoreClock {
    /// Continues from `record`, which the file had; `None` for a new file and for one of an older program.
    pub(super) fn open(source: Source, record: Option<AgeRecord>, age_max: Duration) -> Self {
        let now = source();
        let (running, marks, recorded) = match record {
            Some(AgeRecord { running, date, marks }) => {
                if now.date < date {
                    let (now, before) = (now.date.0, date.0);
                    tracing::warn!(
                        now,
                        before,
                        "the date is before that of the last write; nothing is removed by the date"
                    );
                }
                (running, marks, Some(running))
            }
            None => (now.date, VecDeque::new(), None),
        };
        Self {
            source,
            age_max: age_max.as_secs(),
            last: now,
            running,
            rest: Duration::ZERO,
            marks,
            // The last entries may have been written after the record.
            appended: Timestamp(running.0.saturating_add(RECORD_EVERY)),
            recorded,
        }
    }

    /// Reads the clocks, and logs a jump of the date.
    pub(super) fn now(&mut self) -> Now {
        let (last, now) = (self.last, (self.source)());
        let elapsed = now.running.saturating_sub(last.running);
        let expected = Timestamp(last.date.0.saturating_add(elapsed.as_secs()));
        if now.date.0.abs_diff(expected.0) > JUMP_MIN {
            let (expected, now) = (expected.0, now.date.0);
            tracing::warn!(
                expected,
                now,
                "the date has jumped; nothing is removed by the date, but tokens and certificates are judged by it"
            );
        }
        self.rest += elapsed;
        self.running.0 = self.running.0.saturating_add(self.rest.as_secs());
        self.rest = Duration::from_nanos(u64::from(self.rest.subsec_nanos()));
        self.last = Moment { running: now.running.max(last.running), ..now };
        Now { date: now.date, running: self.running }
    }

    /// Moves the running time on to at least `running`, that of the node which decided what this store applies.
    pub(super) fn reach(&mut self, running: Timestamp) {
        self.running = self.running.max(running);
    }

    /// Prepares a commit at `now`; the journal ends at `head` before it. Returns the last entry that is too old.
    pub(super) fn begin_commit(&mut self, now: Now, head: Seq, appends: bool) -> Seq {
        let newest = self.marks.back().copied();
        let is_due = newest.is_none_or(|newest| {
            newest.seq < head && now.running.0.saturating_sub(newest.running.0) >= self.age_max / MARKS_PER_AGE
        });
        if is_due && head > Seq(0) {
            self.marks.push_back(AgeMark { seq: head, running: self.appended });
        }
        if appends {
            self.appended = now.running;
        }
        let is_old = |mark: &AgeMark| now.running.0.saturating_sub(mark.running.0) > self.age_max;
        while self.marks.len() > MARKS_MAX || self.marks.get(1).is_some_and(is_old) {
            self.marks.pop_front();
        }
        self.marks.front().filter(|mark| is_old(mark)).map_or(Seq(0), |mark| mark.seq)
    }

    /// Returns the record for the commit at `now`, if it is time to write it.
    pub(super) fn record(&mut self, now: Now) -> Option<Vec<u8>> {
        if self.recorded.is_some_and(|recorded| now.running.0.saturating_sub(recorded.0) < RECORD_EVERY) {
            return None;
        }
        self.recorded = Some(now.running);
        let record = AgeRecord { running: now.running, date: now.date, marks: self.marks.clone() };
        Some(record.encode())
    }

    /// Writes the record again with the next commit, since the last one failed.
    pub(super) fn commit_failed(&mut self) {
        self.recorded = None;
    }
}

impl AgeRecord {
    /// Returns the running time.
    pub(super) fn running(&self) -> Timestamp {
        self.running
    }

    /// Returns the framed value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::begin(&mut out);
        put_u64(&mut out, self.running.0);
        put_u64(&mut out, self.date.0);
        put_len(&mut out, self.marks.len());
        for mark in &self.marks {
            put_u64(&mut out, mark.seq.0);
            put_u64(&mut out, mark.running.0);
        }
        frame::finish(&mut out, META, AGES_KEY.as_bytes());
        out
    }

    /// Decodes the framed value.
    pub(super) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, META, AGES_KEY.as_bytes())?;
        let (running, date) = (Timestamp(payload.u64()?), Timestamp(payload.u64()?));
        let marks = (0..payload.count()?)
            .map(|_| Ok(AgeMark { seq: Seq(payload.u64()?), running: Timestamp(payload.u64()?) }))
            .collect::<Result<_, DecodeError>>()?;
        frame::no_extensions(payload)?;
        Ok(Self { running, date, marks })
    }
}
