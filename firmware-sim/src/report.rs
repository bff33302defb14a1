//! What the fleet went through: counters, latencies, the oracle's ledger, and how they are shown.
//!
//! Every simulated client shares one [`Witness`]. While the fleet runs it shows a line that changes in place, or, where
//! standard error is no terminal, a plain line every few seconds; afterwards the report goes to standard output.

use std::{
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget};
use umbra_client::DeviceId;

use crate::oracle::{AcceptedUpdate, Oracle, Violation};

/// A number that only grows, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of what clients did and were told.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Clients whose subscriptions were granted for the first time.
    pub(crate) arrived: Counter,
    /// Connections that ended without being asked to.
    pub(crate) lost_connections: Counter,
    /// Update requests sent, retries included.
    pub(crate) updates: Counter,
    /// Updates accepted.
    pub(crate) accepted: Counter,
    /// Of those, the ones told that nothing changed.
    pub(crate) unchanged: Counter,
    /// Of those, the ones carried over changes of other fields.
    pub(crate) rebased: Counter,
    /// Updates rejected because the version had moved on.
    pub(crate) conflicts: Counter,
    /// Updates rejected to come back later: a quota, or the service not ready.
    pub(crate) put_off: Counter,
    /// Updates rejected for good.
    pub(crate) refused: Counter,
    /// Updates whose reply never came: accepted or not, nobody here knows.
    pub(crate) unanswered: Counter,
    /// Tries after the first one of a write.
    pub(crate) retries: Counter,
    /// Writes dropped after the last try.
    pub(crate) gave_up: Counter,
    /// Deltas that a device acted on.
    pub(crate) deltas: Counter,
}

/// Sees and remembers everything that happens to the fleet.
pub(crate) struct Witness {
    /// The counts.
    pub(crate) counters: Counters,
    oracle: Mutex<Oracle>,
    /// From sending one update to its `accepted`.
    attempts: Mutex<Histogram<u64>>,
    /// From the first try of a write to its `accepted`, waits included.
    writes: Mutex<Histogram<u64>>,
    narrate: bool,
    bar: ProgressBar,
    started: Instant,
}

impl Witness {
    /// A witness of nothing yet, which tells single events only if `narrate`.
    pub(crate) fn new(narrate: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        Self {
            counters: Counters::default(),
            oracle: Mutex::default(),
            attempts: Mutex::new(latencies()),
            writes: Mutex::new(latencies()),
            narrate,
            bar,
            started: Instant::now(),
        }
    }

    /// An update was accepted, `attempt` after it was sent and `write` after its first try.
    pub(crate) fn accepted(&self, device: &DeviceId, update: AcceptedUpdate, attempt: Duration, write: Duration) {
        self.counters.accepted.bump();
        if !update.changed {
            self.counters.unchanged.bump();
        }
        if update.rebased {
            self.counters.rebased.bump();
        }
        record(&self.attempts, attempt);
        record(&self.writes, write);
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner).accepted(device, update);
    }

    /// Something was wrong on the way already.
    pub(crate) fn violated(&self, violation: Violation) {
        self.say(|| violation.to_string());
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner).violated(violation);
    }

    /// Looks at what was told, once all is over.
    pub(crate) fn with_oracle<T>(&self, look: impl FnOnce(&Oracle) -> T) -> T {
        look(&self.oracle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells a single event, if single events are to be told.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if self.narrate {
            self.tell(&format!("{:>5.1} s  {}", self.started.elapsed().as_secs_f64(), line()));
        }
    }

    /// Tells something whatever the setting.
    pub(crate) fn tell(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Shows the counts until dropped.
    pub(crate) async fn show_progress(&self) {
        let plain = self.bar.is_hidden();
        let mut ticks = tokio::time::interval(if plain { PLAIN_EVERY } else { DRAWN_EVERY });
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if plain {
                eprintln!("{}", self.line());
            } else {
                self.bar.set_message(self.line());
                self.bar.tick();
            }
        }
    }

    /// The line that changes in place goes away.
    pub(crate) fn end_progress(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self) -> String {
        let Counters { arrived, accepted, conflicts, retries, gave_up, deltas, .. } = &self.counters;
        format!(
            "{:>5.1} s  {} clients  {} accepted  {} conflicts  {} retries  {} given up  {} deltas acted on",
            self.started.elapsed().as_secs_f64(),
            arrived.get(),
            accepted.get(),
            conflicts.get(),
            retries.get(),
            gave_up.get(),
            deltas.get(),
        )
    }

    /// The final report.
    pub(crate) fn report(&self, violations: &[Violation]) -> String {
        let c = &self.counters;
        let unaccounted = self.with_oracle(Oracle::unaccounted);
        let rows = [
            ("clients connected", c.arrived.get()),
            ("connections lost", c.lost_connections.get()),
            ("updates sent", c.updates.get()),
            ("  accepted", c.accepted.get()),
            ("    that changed nothing", c.unchanged.get()),
            ("    carried over other changes", c.rebased.get()),
            ("  rejected: version conflict", c.conflicts.get()),
            ("  rejected: come back later", c.put_off.get()),
            ("  rejected for good", c.refused.get()),
            ("  never answered", c.unanswered.get()),
            ("retries", c.retries.get()),
            ("writes given up", c.gave_up.get()),
            ("deltas acted on", c.deltas.get()),
            ("versions made by others", unaccounted),
        ];
        let mut text = String::new();
        for (label, count) in rows {
            let _ = writeln!(text, "{label:<32}{count:>12}");
        }
        for (label, histogram) in [("update to accepted", &self.attempts), ("write, retries included", &self.writes)] {
            let histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(text, "{label:<32}{}", percentiles(&histogram));
        }
        for violation in violations.iter().take(VIOLATIONS_SHOWN) {
            let _ = writeln!(text, "VIOLATION {violation}");
        }
        let _ = match violations.len() {
            0 => {
                writeln!(text, "oracle: every accepted update is accounted for, versions only rose, devices converged")
            }
            n => writeln!(text, "oracle: {n} violations, {} shown", n.min(VIOLATIONS_SHOWN)),
        };
        text
    }
}

/// Percentiles of a histogram of microseconds, for people.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> String {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(0.999), at(1.0))
}

/// An empty histogram of microseconds, up to ten minutes, three digits exact.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants that the histogram takes")
}

fn record(histogram: &Mutex<Histogram<u64>>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    histogram.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
}

const DRAWN_EVERY: Duration = Duration::from_millis(200);
const PLAIN_EVERY: Duration = Duration::from_secs(5);
const VIOLATIONS_SHOWN: usize = 20;
