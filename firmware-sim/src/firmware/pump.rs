//! The firmware of a dosing pump. It runs the command in `desired.command`, such as `{"id": "c7", "litres": 5}`, once.
//!
//! The end of a command, its id and the litres counted are written to flash at the same moment, so a power cut either
//! undoes a command as if it had not begun, or finds it done. The id distinguishes a new command from one that is delivered again.

use rand::rngs::SmallRng;
use serde_json::{Map, Value, json};

use super::{Firmware, Input, Output, Updater, fields, sooner};

/// A pump.
#[derive(Debug)]
pub(super) struct Pump {
    serial: String,
    updater: Updater,
    /// The last command that took effect. In flash.
    done: Option<Value>,
    /// Litres and runs in all. In flash.
    litres: u64,
    runs: u64,
    /// The command that runs, and the seconds that are left.
    running: Option<(Value, f64)>,
}

impl Pump {
    /// Returns a pump that has not run yet.
    pub(super) fn new(number: u32, updater: Updater) -> Self {
        let serial = format!("UP4-{number:06}");
        Self { serial, updater, done: None, litres: 0, runs: 0, running: None }
    }

    fn start(&mut self, command: &Value) {
        let id = |command: &Value| command.get("id").cloned();
        let known = |other: Option<&Value>| other.is_some_and(|other| id(other) == id(command));
        let litres = command.get("litres").and_then(Value::as_u64).filter(|litres| (1..=LITRES_MAX).contains(litres));
        if let (Some(Value::String(_)), Some(litres)) = (id(command), litres)
            && !known(self.done.as_ref())
            && !known(self.running.as_ref().map(|(command, _)| command))
        {
            self.running = Some((command.clone(), litres as f64 * SECONDS_PER_LITRE));
        }
    }

    /// Writes the end of the running command to flash.
    fn end(&mut self) -> Vec<Output> {
        let Some((command, _)) = self.running.take() else { return Vec::new() };
        self.litres += command.get("litres").and_then(Value::as_u64).unwrap_or_default();
        self.runs += 1;
        let id = command.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.done = Some(command);
        vec![Output::Effect(id)]
    }
}

impl Firmware for Pump {
    fn step(&mut self, input: Input<'_>, rng: &mut SmallRng) -> Vec<Output> {
        match input {
            Input::Elapsed(seconds) => {
                self.updater.step(seconds, rng);
                match &mut self.running {
                    Some((_, left)) if *left > seconds => *left -= seconds,
                    _ => return self.end(),
                }
            }
            Input::Desired(desired) => {
                if let Some(command) = desired.get("command") {
                    self.start(command);
                }
                self.updater.want(desired.get("firmware"));
            }
            Input::PowerCut => {
                self.running = None;
                self.updater.power_cut();
            }
            Input::Finish => {
                self.updater.finish();
                return self.end();
            }
        }
        Vec::new()
    }

    fn report(&self) -> Map<String, Value> {
        let mut report = fields(json!({
            "model": "umbra-pump-4",
            "serial": self.serial,
            "firmware": self.updater.running(),
            "update": self.updater.report(),
            "state": if self.running.is_some() { "running" } else { "idle" },
            "litres": self.litres,
            "runs": self.runs,
        }));
        report.extend(self.done.clone().map(|command| ("command".to_owned(), command)));
        report
    }

    fn busy(&self) -> Option<f64> {
        sooner(self.running.as_ref().map(|(_, left)| *left), self.updater.busy())
    }
}

const SECONDS_PER_LITRE: f64 = 6.0;
const LITRES_MAX: u64 = 100;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn command(id: &str) -> Map<String, Value> {
        fields(json!({"command": {"id": id, "litres": 5}}))
    }

    #[test]
    fn a_command_takes_effect_once_however_often_it_is_delivered() {
        let (mut pump, mut rng) = (Pump::new(1, Updater::new("1", 90.0, 0.0)), SmallRng::seed_from_u64(5));
        let mut effects = Vec::new();
        for (desired, seconds) in [("a", 20.0), ("a", 20.0), ("a", 40.0), ("b", 40.0), ("b", 40.0)] {
            effects.extend(pump.step(Input::Desired(&command(desired)), &mut rng));
            effects.extend(pump.step(Input::Elapsed(seconds), &mut rng));
        }
        assert_eq!(effects, [Output::Effect("a".into()), Output::Effect("b".into())]);
        assert_eq!((pump.litres, pump.runs), (10, 2));
    }

    #[test]
    fn a_power_cut_undoes_a_running_command_and_keeps_a_finished_one() {
        let (mut pump, mut rng) = (Pump::new(1, Updater::new("1", 90.0, 0.0)), SmallRng::seed_from_u64(5));
        pump.step(Input::Desired(&command("a")), &mut rng);
        pump.step(Input::Elapsed(20.0), &mut rng);
        pump.step(Input::PowerCut, &mut rng);
        assert!(pump.busy().is_none() && pump.litres == 0, "half a command is none");
        pump.step(Input::Desired(&command("a")), &mut rng);
        assert_eq!(pump.step(Input::Elapsed(30.0), &mut rng), [Output::Effect("a".into())]);
        pump.step(Input::PowerCut, &mut rng);
        pump.step(Input::Desired(&command("a")), &mut rng);
        assert!(pump.busy().is_none() && pump.litres == 5, "it is done");
    }

    #[test]
    fn commands_without_an_id_or_out_of_range_are_ignored() {
        let (mut pump, mut rng) = (Pump::new(1, Updater::new("1", 90.0, 0.0)), SmallRng::seed_from_u64(5));
        for command in
            [json!({"litres": 5}), json!({"id": "a", "litres": 0}), json!({"id": "a", "litres": 1000}), json!(7)]
        {
            pump.step(Input::Desired(&fields(json!({"command": command}))), &mut rng);
            assert!(pump.busy().is_none(), "{command}");
        }
    }
}
