//! The schedule of faults of one connection, by seed.
//!
//! Pure: the same seed gives the same faults at the same times, whatever happens during the run. It has no end; a run
//! takes the faults of its duration.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    file::{Group, Link, Power},
    span::Span,
};

/// A fault of a connection, or of a device on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is reset.
    Reset,
    /// The connection stays open and carries nothing, until the client gives up.
    HalfOpen,
    /// The connection is reset, and the CONNACK of the next one is lost.
    LostConnack,
    /// Device number `.0` of the connection loses its power.
    PowerCut(usize),
}

/// A fault with its time and length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ScheduledFault {
    /// The time since the beginning, simulated.
    pub(crate) at: Span,
    /// The fault.
    pub(crate) fault: Fault,
    /// The time until it is over, simulated.
    pub(crate) outage: Span,
}

impl fmt::Display for ScheduledFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, fault, outage } = self;
        match fault {
            Fault::Reset => write!(f, "{at}: connection reset, down for {outage}"),
            Fault::HalfOpen => write!(f, "{at}: connection half-open for {outage}"),
            Fault::LostConnack => write!(f, "{at}: connection reset, down for {outage}, next CONNACK lost"),
            Fault::PowerCut(device) => write!(f, "{at}: device {device} without power for {outage}"),
        }
    }
}

/// The faults of one connection, in order.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    sources: Vec<Source>,
}

/// A cause of faults.
#[derive(Debug, Clone)]
struct Source {
    cause: Cause,
    rng: SmallRng,
    next: ScheduledFault,
}

#[derive(Debug, Clone, Copy)]
enum Cause {
    Link(Link),
    Power(Power, usize),
}

impl Schedule {
    /// Returns the schedule of a connection of a group that serves `devices` devices.
    pub(crate) fn new(group: &Group, devices: usize, seed: u64) -> Self {
        let mut seeds = SmallRng::seed_from_u64(seed);
        let link = group.link.map(Cause::Link);
        let power = group.power.into_iter().flat_map(|power| (0..devices).map(move |n| Cause::Power(power, n)));
        let sources = link.into_iter().chain(power).map(|cause| Source::new(cause, seeds.random())).collect();
        Self { sources }
    }

    /// Returns the time of the next fault.
    pub(crate) fn next_at(&self) -> Option<Span> {
        self.earliest().map(|source| source.next.at)
    }

    /// Returns the time of the next fault on the clock.
    pub(crate) fn due(&self, speed: f64) -> Duration {
        self.next_at().map_or(Duration::MAX, |at| at.at_speed(speed))
    }

    fn earliest(&self) -> Option<&Source> {
        self.sources.iter().min_by(|left, right| left.next.at.0.total_cmp(&right.next.at.0))
    }
}

impl Iterator for Schedule {
    type Item = ScheduledFault;

    fn next(&mut self) -> Option<ScheduledFault> {
        let source = self.sources.iter_mut().min_by(|left, right| left.next.at.0.total_cmp(&right.next.at.0))?;
        Some(source.advance())
    }
}

impl Source {
    fn new(cause: Cause, seed: u64) -> Self {
        let nothing = ScheduledFault { at: Span(0.0), fault: Fault::Reset, outage: Span(0.0) };
        let mut source = Self { cause, rng: SmallRng::seed_from_u64(seed), next: nothing };
        source.advance();
        source
    }

    /// Returns the next fault, and plans the one after it.
    fn advance(&mut self) -> ScheduledFault {
        let (up, outage) = match self.cause {
            Cause::Link(link) => (link.up, link.outage),
            Cause::Power(power, _) => (power.up, power.outage),
        };
        let at = self.next.at.0 + self.next.outage.0 + self.around(up);
        let outage = Span(self.around(outage));
        let fault = match self.cause {
            Cause::Power(_, device) => Fault::PowerCut(device),
            Cause::Link(link) if self.rng.random_bool(link.half_open) => Fault::HalfOpen,
            Cause::Link(link) if self.rng.random_bool(link.lost_connack) => Fault::LostConnack,
            Cause::Link(_) => Fault::Reset,
        };
        std::mem::replace(&mut self.next, ScheduledFault { at: Span(at), fault, outage })
    }

    /// Returns an exponentially distributed time, at most five times the mean.
    fn around(&mut self, mean: Span) -> f64 {
        let chance: f64 = self.rng.random();
        mean.0 * (-(1.0 - chance).ln()).min(5.0)
    }
}

/// Returns the progress of the run, from 0 to 1, at each of `count` kills of the server: in its first half, so that in
/// the second one its memory can be measured.
pub(crate) fn kills(count: u32, seed: u64) -> Vec<f64> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let width = (KILLS_UNTIL - KILLS_FROM) / f64::from(count.max(1));
    (0..count).map(|n| KILLS_FROM + width * (f64::from(n) + rng.random::<f64>())).collect()
}

const KILLS_FROM: f64 = 0.05;
const KILLS_UNTIL: f64 = 0.45;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file::Scenario;

    fn schedule(seed: u64) -> Vec<ScheduledFault> {
        let text = r#"
            [[group]]
            name = "pumps"
            kind = "pump"
            count = 4
            every = "1m"
            link = { up = "1h", outage = "2m", half_open = 0.3, lost_connack = 0.3 }
            power = { up = "6h", outage = "5m" }
        "#;
        let scenario = Scenario::parse(text).expect("a scenario");
        Schedule::new(scenario.groups.first().expect("a group"), 4, seed).take(200).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
        assert_eq!(kills(3, 7), kills(3, 7));
        assert_ne!(kills(3, 7), kills(3, 8));
    }

    #[test]
    fn faults_are_in_order_and_of_every_kind() {
        let faults = schedule(7);
        assert!(faults.is_sorted_by(|left, right| left.at <= right.at));
        let count = |kind: fn(&Fault) -> bool| faults.iter().filter(|fault| kind(&fault.fault)).count();
        let kinds: [fn(&Fault) -> bool; 4] = [
            |fault| *fault == Fault::Reset,
            |fault| *fault == Fault::HalfOpen,
            |fault| *fault == Fault::LostConnack,
            |fault| matches!(fault, Fault::PowerCut(0..4)),
        ];
        for kind in kinds {
            assert!(count(kind) > 10, "{faults:?}");
        }
        // 200 faults of a rate of 1/62 m + 4/365 m.
        let last = faults.last().expect("200 faults").at.0 / 3_600.0;
        assert!((90.0..170.0).contains(&last), "{last} h");
    }

    #[test]
    fn kills_are_in_the_first_half() {
        let kills = kills(5, 3);
        assert!(kills.is_sorted() && kills.iter().all(|at| (KILLS_FROM..KILLS_UNTIL).contains(at)), "{kills:?}");
    }
}
