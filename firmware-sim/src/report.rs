//! The records of a run: counters, latencies, the oracle's ledger, and their display.
//!
//! All simulated clients share one [`Recorder`]. While the fleet runs it shows a progress line, or, if standard error is
//! not a terminal, prints a line every few seconds; afterwards the report goes to standard output.

use std::{
    fmt::Write as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget};
use umbra_client::DeviceId;

use crate::oracle::{AcceptedUpdate, Convergence, ConvergenceTimes, Oracle, RolledOut, Violation};

/// A counter shared by threads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a number.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of the clients' actions and of the replies.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Clients that connected.
    pub(crate) connected: Counter,
    /// Connections lost.
    pub(crate) lost_connections: Counter,
    /// Update requests sent, retries included.
    pub(crate) updates: Counter,
    /// Updates accepted.
    pub(crate) accepted: Counter,
    /// Accepted updates that changed nothing.
    pub(crate) unchanged: Counter,
    /// Accepted updates that the service rebased.
    pub(crate) rebased: Counter,
    /// Updates rejected with a conflict.
    pub(crate) conflicts: Counter,
    /// Updates asked to be sent again later: a quota, or the service not ready.
    pub(crate) deferred: Counter,
    /// Updates rejected finally.
    pub(crate) refused: Counter,
    /// Updates without a reply, of unknown outcome.
    pub(crate) unanswered: Counter,
    /// Tries of writes after the first one.
    pub(crate) retries: Counter,
    /// Writes that failed after the last try.
    pub(crate) gave_up: Counter,
    /// Deltas that a device applied.
    pub(crate) deltas: Counter,
    /// Devices asked to install firmware by a rollout.
    pub(crate) firmware_asked: Counter,
    /// Devices rolled back after an installation that failed.
    pub(crate) firmware_rolled_back: Counter,
    /// Faults of the simulated network and devices.
    pub(crate) faults: FaultCounters,
}

/// Counts of the faults of a scenario.
#[derive(Debug, Default)]
pub(crate) struct FaultCounters {
    /// Connections reset.
    pub(crate) resets: Counter,
    /// Connections left half-open.
    pub(crate) half_open: Counter,
    /// CONNACKs lost.
    pub(crate) lost_connacks: Counter,
    /// Devices that lost their power.
    pub(crate) power_cuts: Counter,
    /// Requests sent twice on purpose.
    pub(crate) duplicates: Counter,
    /// Publications sent again with DUP.
    pub(crate) resent: Counter,
    /// Kills of the server.
    pub(crate) kills: Counter,
}

impl FaultCounters {
    /// Returns the counts with their labels.
    pub(crate) fn rows(&self) -> [(&'static str, u64); 7] {
        [
            ("connections reset", self.resets.get()),
            ("connections left half-open", self.half_open.get()),
            ("CONNACKs lost", self.lost_connacks.get()),
            ("power cuts of devices", self.power_cuts.get()),
            ("updates sent twice on purpose", self.duplicates.get()),
            ("publications resent with DUP", self.resent.get()),
            ("kills of the server", self.kills.get()),
        ]
    }
}

/// The records of everything that happens to the fleet.
pub(crate) struct Recorder {
    /// The counts.
    pub(crate) counters: Counters,
    oracle: Mutex<Oracle>,
    convergence: Mutex<Convergence>,
    /// Simulated seconds per second.
    speed: f64,
    /// Latencies from sending an update to its `accepted`.
    attempts: Mutex<Histogram<u64>>,
    /// Latencies from the first try of a write to its `accepted`, waits included.
    writes: Mutex<Histogram<u64>>,
    narrates: bool,
    bar: ProgressBar,
    started: Instant,
}

impl Recorder {
    /// Returns empty records, which narrate single events only if `narrates`.
    pub(crate) fn new(narrates: bool) -> Self {
        Self::with(narrates, Oracle::default(), Convergence::default(), 1.0)
    }

    /// Returns the records of a scenario that runs at a speed.
    pub(crate) fn with(narrates: bool, oracle: Oracle, convergence: Convergence, speed: f64) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        Self {
            counters: Counters::default(),
            oracle: Mutex::new(oracle),
            convergence: Mutex::new(convergence),
            speed,
            attempts: Mutex::new(latencies()),
            writes: Mutex::new(latencies()),
            narrates,
            bar,
            started: Instant::now(),
        }
    }

    /// Records an accepted update, `attempt` after it was sent and `write` after its first try.
    pub(crate) fn accepted(&self, device: &DeviceId, update: AcceptedUpdate, attempt: Duration, write: Duration) {
        let now = self.started.elapsed().mul_f64(self.speed);
        lock(&self.convergence).accepted(device, &update, now);
        let AcceptedUpdate { changed, rebased, .. } = update;
        if !lock(&self.oracle).accepted(device, update) {
            return;
        }
        self.counters.accepted.bump();
        if !changed {
            self.counters.unchanged.bump();
        }
        if rebased {
            self.counters.rebased.bump();
        }
        record(&self.attempts, attempt);
        record(&self.writes, write);
    }

    /// Records an update whose outcome stays unknown.
    pub(crate) fn unknown(&self, device: &DeviceId) {
        lock(&self.oracle).unknown(device);
    }

    /// Records a command that was accepted.
    pub(crate) fn command(&self, device: &DeviceId, id: &str) {
        lock(&self.oracle).command(device, id);
    }

    /// Records that a command took effect.
    pub(crate) fn effect(&self, device: &DeviceId, id: &str) {
        lock(&self.oracle).effect(device, id);
    }

    /// Records that a device saw that it is asked to install `firmware`.
    pub(crate) fn firmware_asked(&self, device: &DeviceId, firmware: &str) {
        lock(&self.oracle).firmware_asked(device, firmware);
    }

    /// Records that a device is about to report that it runs `firmware`.
    pub(crate) fn firmware_running(&self, device: &DeviceId, firmware: &str) {
        lock(&self.oracle).firmware_running(device, firmware);
    }

    /// Records a rollout that has ended, by the client `writer`.
    pub(crate) fn rolled_out(&self, writer: &DeviceId, rollout: RolledOut) {
        self.counters
            .firmware_asked
            .add(rollout.devices.iter().filter(|device| device.version.is_some()).count() as u64);
        lock(&self.oracle).rolled_out(writer, rollout);
    }

    /// Returns the distributions of the convergence times.
    pub(crate) fn convergence(&self) -> Vec<ConvergenceTimes> {
        lock(&self.convergence).times()
    }

    /// Records a violation found while the fleet runs.
    pub(crate) fn add_violation(&self, violation: Violation) {
        self.narrate(|| violation.to_string());
        lock(&self.oracle).add_violation(violation);
    }

    /// Calls `read` with the oracle.
    pub(crate) fn with_oracle<T>(&self, read: impl FnOnce(&Oracle) -> T) -> T {
        read(&lock(&self.oracle))
    }

    /// Prints a single event, if events are narrated.
    pub(crate) fn narrate(&self, line: impl FnOnce() -> String) {
        if self.narrates {
            self.log(&format!("{:>5.1} s  {}", self.started.elapsed().as_secs_f64(), line()));
        }
    }

    /// Prints a line.
    pub(crate) fn log(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Shows the counts until it is cancelled.
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

    /// Removes the progress line.
    pub(crate) fn end_progress(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self) -> String {
        let Counters { connected, accepted, conflicts, retries, gave_up, deltas, .. } = &self.counters;
        format!(
            "{:>5.1} s  {} clients  {} accepted  {} conflicts  {} retries  {} given up  {} deltas applied",
            self.started.elapsed().as_secs_f64(),
            connected.get(),
            accepted.get(),
            conflicts.get(),
            retries.get(),
            gave_up.get(),
            deltas.get(),
        )
    }

    /// Returns the final report.
    pub(crate) fn report(&self, violations: &[Violation]) -> String {
        let c = &self.counters;
        let unaccounted = self.with_oracle(Oracle::unaccounted);
        let rows = [
            ("clients connected", c.connected.get()),
            ("connections lost", c.lost_connections.get()),
            ("updates sent", c.updates.get()),
            ("  accepted", c.accepted.get()),
            ("    that changed nothing", c.unchanged.get()),
            ("    rebased", c.rebased.get()),
            ("  rejected: version conflict", c.conflicts.get()),
            ("  rejected: try again later", c.deferred.get()),
            ("  rejected finally", c.refused.get()),
            ("  without a reply", c.unanswered.get()),
            ("retries", c.retries.get()),
            ("writes given up", c.gave_up.get()),
            ("deltas applied", c.deltas.get()),
            ("versions made by others", unaccounted),
        ];
        let mut text = String::new();
        for (label, count) in rows {
            let _ = writeln!(text, "{label:<32}{count:>12}");
        }
        for (label, histogram) in [("update to accepted", &self.attempts), ("write, retries included", &self.writes)] {
            let histogram = lock(histogram);
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

/// Returns the percentiles of a histogram of microseconds as text.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> String {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(0.999), at(1.0))
}

/// Returns an empty histogram of microseconds, up to ten minutes, with three significant digits.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are valid constants")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn record(histogram: &Mutex<Histogram<u64>>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    lock(histogram).saturating_record(micros);
}

const DRAWN_EVERY: Duration = Duration::from_millis(200);
const PLAIN_EVERY: Duration = Duration::from_secs(5);
const VIOLATIONS_SHOWN: usize = 20;
