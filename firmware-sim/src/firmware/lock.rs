//! The firmware of a door lock. Its motor takes a moment, and people turn it by hand.

use rand::{RngExt, rngs::SmallRng};
use serde_json::{Map, Value, json};

use super::{Firmware, Input, Output, Updater, fields, sooner};

/// A door lock.
#[derive(Debug)]
pub(super) struct Lock {
    serial: String,
    updater: Updater,
    /// The position of the bolt.
    locked: bool,
    /// The position that the motor turns to, and the seconds that are left.
    turning: Option<(bool, f64)>,
    /// Turns of the bolt by the motor and by hand. In flash.
    turns: u64,
    /// The cause of the last turn.
    by: &'static str,
    battery: f64,
}

impl Lock {
    /// Returns a locked lock.
    pub(super) fn new(number: u32, updater: Updater) -> Self {
        let serial = format!("UL3-{number:06}");
        Self { serial, updater, locked: true, turning: None, turns: 0, by: "motor", battery: 100.0 }
    }

    fn turn(&mut self, locked: bool, by: &'static str) {
        if self.locked != locked {
            self.turns += 1;
            self.battery = (self.battery - if by == "motor" { 0.01 } else { 0.0 }).max(0.0);
        }
        (self.locked, self.by, self.turning) = (locked, by, None);
    }

    fn elapsed(&mut self, seconds: f64, rng: &mut SmallRng) -> Vec<Output> {
        self.updater.step(seconds, rng);
        match self.turning {
            Some((locked, left)) if left <= seconds => self.turn(locked, "motor"),
            Some((locked, left)) => self.turning = Some((locked, left - seconds)),
            None if rng.random_bool((seconds / BY_HAND_SECONDS).min(1.0)) => {
                self.turn(!self.locked, "hand");
                return vec![Output::Desire(fields(json!({"locked": self.locked})))];
            }
            None => {}
        }
        Vec::new()
    }
}

impl Firmware for Lock {
    fn step(&mut self, input: Input<'_>, rng: &mut SmallRng) -> Vec<Output> {
        match input {
            Input::Elapsed(seconds) => return self.elapsed(seconds, rng),
            Input::Desired(desired) => {
                match desired.get("locked").and_then(Value::as_bool) {
                    Some(locked) if locked == self.locked => self.turning = None,
                    Some(locked) if self.turning.is_none() => self.turning = Some((locked, MOTOR_SECONDS)),
                    _ => {}
                }
                self.updater.want(desired.get("firmware"));
            }
            Input::PowerCut => {
                self.turning = None;
                self.updater.power_cut();
            }
            Input::Finish => {
                if let Some((locked, _)) = self.turning {
                    self.turn(locked, "motor");
                }
                self.updater.finish();
            }
        }
        Vec::new()
    }

    fn report(&self) -> Map<String, Value> {
        fields(json!({
            "model": "umbra-lock-3",
            "serial": self.serial,
            "firmware": self.updater.running(),
            "update": self.updater.report(),
            "locked": self.locked,
            "turned": {"by": self.by, "count": self.turns},
            "battery": {"percent": (self.battery * 10.0).round() / 10.0},
        }))
    }

    fn busy(&self) -> Option<f64> {
        sooner(self.turning.map(|(_, left)| left), self.updater.busy())
    }
}

/// The time that the motor takes.
const MOTOR_SECONDS: f64 = 2.0;
/// The mean time between two turns by hand.
const BY_HAND_SECONDS: f64 = 4.0 * 3_600.0;

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn lock() -> (Lock, SmallRng) {
        (Lock::new(1, Updater::new("1", 90.0, 0.0)), SmallRng::seed_from_u64(5))
    }

    #[test]
    fn the_motor_takes_a_moment() {
        let (mut lock, mut rng) = lock();
        let open = fields(json!({"locked": false}));
        lock.step(Input::Desired(&open), &mut rng);
        lock.step(Input::Elapsed(1.0), &mut rng);
        assert!(lock.locked && lock.busy() == Some(1.0));
        lock.step(Input::Desired(&open), &mut rng);
        lock.step(Input::Elapsed(1.0), &mut rng);
        assert!(!lock.locked && lock.busy().is_none());
        lock.step(Input::Desired(&open), &mut rng);
        assert!(lock.busy().is_none(), "it is open already");
    }

    #[test]
    fn a_power_cut_stops_the_motor_and_keeps_the_bolt() {
        let (mut lock, mut rng) = lock();
        lock.step(Input::Desired(&fields(json!({"locked": false}))), &mut rng);
        lock.step(Input::PowerCut, &mut rng);
        lock.step(Input::Elapsed(5.0), &mut rng);
        assert!(lock.locked);
    }

    #[test]
    fn a_turn_by_hand_changes_desired_too() {
        let (mut lock, mut rng) = lock();
        let turned = (0..10_000).find_map(|_| lock.step(Input::Elapsed(60.0), &mut rng).pop());
        assert_eq!(turned, Some(Output::Desire(fields(json!({"locked": false})))));
        assert_eq!(lock.report()["turned"], json!({"by": "hand", "count": 1}));
    }
}
