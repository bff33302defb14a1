//! The thermostat as a firmware. Its physics and settings are in [`crate::thermostat`].

use rand::rngs::SmallRng;
use serde_json::{Map, Value};

use super::{Firmware, Input, Output};
use crate::thermostat::Thermostat;

impl Firmware for Thermostat {
    fn step(&mut self, input: Input<'_>, rng: &mut SmallRng) -> Vec<Output> {
        match input {
            Input::Elapsed(seconds) => self.simulate(seconds, rng),
            Input::Desired(desired) => self.apply(desired),
            Input::PowerCut => self.restart(),
            Input::Finish => self.finish_installing(),
        }
        Vec::new()
    }

    fn report(&self) -> Map<String, Value> {
        let mut report = self.report();
        report.insert("update".into(), self.updater().report());
        report
    }

    fn busy(&self) -> Option<f64> {
        self.updater().busy()
    }
}
