//! The firmware of an electricity meter on a battery. It counts always, and talks rarely.

use rand::{RngExt, rngs::SmallRng};
use serde_json::{Map, Value, json};

use super::{Firmware, Input, Output, Updater, fields};

/// A meter.
#[derive(Debug)]
pub(super) struct Meter {
    serial: String,
    updater: Updater,
    /// In flash: the energy counted, in watt-hours. It never falls.
    energy: f64,
    /// In flash: the tariff.
    tariff: String,
    /// The mean power of the household, in watts.
    base: f64,
    power: f64,
    /// Battery voltage.
    volts: f64,
}

impl Meter {
    /// Returns a meter in a random household.
    pub(super) fn new(number: u32, updater: Updater, rng: &mut SmallRng) -> Self {
        Self {
            serial: format!("UM1-{number:06}"),
            updater,
            energy: rng.random_range(1e6..2e7),
            tariff: "standard".into(),
            base: rng.random_range(150.0..900.0),
            power: 0.0,
            volts: 3.6,
        }
    }
}

impl Firmware for Meter {
    fn step(&mut self, input: Input<'_>, rng: &mut SmallRng) -> Vec<Output> {
        match input {
            Input::Elapsed(seconds) => {
                self.power = self.base * rng.random_range(0.2..2.5);
                self.energy += self.power * seconds / 3_600.0;
                self.volts = (self.volts - seconds * 4e-9).max(2.0);
                self.updater.step(seconds, rng);
            }
            Input::Desired(desired) => {
                if let Some(tariff) = desired.get("tariff").and_then(Value::as_str).filter(|t| TARIFFS.contains(t)) {
                    self.tariff = tariff.to_owned();
                }
                self.updater.want(desired.get("firmware"));
            }
            Input::PowerCut => self.updater.power_cut(),
            Input::Finish => self.updater.finish(),
        }
        Vec::new()
    }

    fn report(&self) -> Map<String, Value> {
        fields(json!({
            "model": "umbra-meter-1",
            "serial": self.serial,
            "firmware": self.updater.running(),
            "update": self.updater.report(),
            "tariff": self.tariff,
            "energy": self.energy.floor(),
            "power": self.power.round(),
            "battery": {"volts": (self.volts * 100.0).round() / 100.0},
        }))
    }

    fn busy(&self) -> Option<f64> {
        self.updater.busy()
    }
}

/// Valid tariffs.
pub(crate) const TARIFFS: [&str; 3] = ["standard", "night", "peak"];

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn energy_never_falls_and_survives_a_power_cut() {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut meter = Meter::new(1, Updater::new("1", 90.0, 0.0), &mut rng);
        let mut before = meter.energy;
        for _ in 0..100 {
            meter.step(Input::Elapsed(900.0), &mut rng);
            meter.step(Input::PowerCut, &mut rng);
            assert!(meter.energy > before);
            before = meter.energy;
        }
    }

    #[test]
    fn only_valid_tariffs_are_applied() {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut meter = Meter::new(1, Updater::new("1", 90.0, 0.0), &mut rng);
        for (desired, expected) in [("night", "night"), ("free", "night"), ("peak", "peak")] {
            meter.step(Input::Desired(&fields(json!({"tariff": desired}))), &mut rng);
            assert_eq!(meter.report()["tariff"], expected);
        }
    }
}
