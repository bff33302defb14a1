//! The physics and firmware of a thermostat: a room, a radiator valve, a battery, a radio.
//!
//! Pure: the caller supplies the time in seconds, the random numbers and the set points; it knows no broker. Its report is
//! rounded like that of a real sensor, so that a steady room is an unchanged document.

use rand::{Rng, RngExt, rngs::SmallRng};
use serde_json::{Map, Value, json};

use super::{Firmware, Input, Output, Updater};

/// Fields of `desired` that a thermostat applies and reports. It ignores any other field.
pub(crate) const OWNED: [&str; 3] = ["target", "mode", "firmware"];

/// Valid set points, in degrees Celsius.
pub(crate) const TARGETS: std::ops::RangeInclusive<f64> = 5.0..=35.0;

/// Valid modes.
pub(crate) const MODES: [&str; 3] = ["heat", "eco", "off"];

/// The state of one device. Temperatures in degrees Celsius, times in seconds.
#[derive(Debug, Clone)]
pub(crate) struct Thermostat {
    serial: String,
    updater: Updater,
    mode: &'static str,
    target: f64,
    room: f64,
    outside: f64,
    humidity: f64,
    /// Opening of the radiator valve, percent.
    valve: f64,
    /// Charge left, percent.
    battery: f64,
    /// Signal strength, dBm.
    rssi: f64,
    channel: u8,
    uptime: f64,
}

impl Thermostat {
    /// Returns a device that was just switched on, in a random room.
    pub(crate) fn new(number: u32, updater: Updater, rng: &mut impl Rng) -> Self {
        Self {
            serial: format!("UT2-{number:06}-{:04x}", rng.random::<u16>()),
            updater,
            mode: "heat",
            target: 20.0,
            room: rng.random_range(14.0..19.0),
            outside: rng.random_range(-5.0..12.0),
            humidity: rng.random_range(35.0..60.0),
            valve: 0.0,
            battery: rng.random_range(60.0..100.0),
            rssi: rng.random_range(-80.0..-45.0),
            channel: rng.random_range(1..=13),
            uptime: 0.0,
        }
    }

    /// Simulates `seconds`.
    pub(crate) fn simulate(&mut self, seconds: f64, rng: &mut impl Rng) {
        self.uptime += seconds;
        if self.updater.step(seconds, rng) {
            self.uptime = 0.0;
        }
        let moved = self.regulate();
        self.warm(seconds);
        self.humidity = (self.humidity + rng.random_range(-0.4..0.4)).clamp(20.0, 80.0);
        self.rssi = (self.rssi + rng.random_range(-1.5..1.5)).clamp(-92.0, -38.0);
        // A valve motor empties a battery in about a year of use, a sleeping radio in about five.
        self.battery = (self.battery - moved * 2e-4 - seconds * 6e-7).max(0.0);
    }

    /// Applies the valid fields of `desired`; an invalid set point or mode is ignored.
    pub(crate) fn apply(&mut self, desired: &Map<String, Value>) {
        if let Some(target) = desired.get("target").and_then(Value::as_f64).filter(|t| TARGETS.contains(t)) {
            self.target = target;
        }
        if let Some(mode) = desired.get("mode").and_then(Value::as_str) {
            self.mode = MODES.iter().find(|known| **known == mode).copied().unwrap_or(self.mode);
        }
        self.updater.want(desired.get("firmware"));
    }

    /// Ends a running installation at once, for the end of a run.
    pub(crate) fn finish_installing(&mut self) {
        self.updater.finish();
    }

    /// Starts again after a power cut; set point and mode are in flash.
    pub(crate) fn restart(&mut self) {
        self.updater.power_cut();
        self.uptime = 0.0;
    }

    /// Returns all of `reported`: about 500 bytes.
    pub(crate) fn report(&self) -> Map<String, Value> {
        let report = json!({
            "model": "umbra-thermostat-2",
            "serial": self.serial,
            "firmware": self.updater.running(),
            "mode": self.mode,
            "target": self.target,
            "temperature": tenths(self.room),
            "humidity": self.humidity.round(),
            "valve": self.valve.round(),
            "battery": {"percent": tenths(self.battery), "volts": tenths(2.4 + self.battery / 100.0)},
            "network": {"ssid": "building-automation", "channel": self.channel, "rssi": (self.rssi / 3.0).round() * 3.0,
                "address": format!("10.20.{}.{}", self.channel, self.serial.len())},
            "limits": {"min": TARGETS.start(), "max": TARGETS.end()},
            "modes": MODES,
            "features": ["window-open", "child-lock", "frost-guard", "valve-exercise", "summer-mode"],
            "uptime": self.uptime.floor(),
        });
        match report {
            Value::Object(report) => report,
            _ => Map::new(),
        }
    }

    /// Sets the valve for the set point; returns how many percent it moved.
    fn regulate(&mut self) -> f64 {
        let set_point = match self.mode {
            "heat" => self.target,
            "eco" => self.target - 3.0,
            // Off still keeps the pipes from freezing.
            _ => *TARGETS.start(),
        };
        let opening = ((set_point - self.room) * 40.0 + 20.0).clamp(0.0, 100.0);
        let moved = (opening - self.valve).abs();
        // Small moves would only wear the motor.
        if moved < 3.0 {
            return 0.0;
        }
        self.valve = opening;
        moved
    }

    /// Computes the room temperature: heat lost to the outside and gained from the radiator. Solved for the whole step
    /// (Newton's law of cooling), so that a long step is as stable as many short ones.
    fn warm(&mut self, seconds: f64) {
        let rest = self.outside + Self::RADIATOR_LIFT * self.valve / 100.0;
        self.room = rest + (self.room - rest) * (-seconds / Self::ROOM_SECONDS).exp();
    }

    /// The final difference between room and outside with a fully open valve.
    const RADIATOR_LIFT: f64 = 40.0;
    /// The time constant of the room: 63 % of a change.
    const ROOM_SECONDS: f64 = 3.0 * 3600.0;
}

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
        report.insert("update".into(), self.updater.report());
        report
    }

    fn busy(&self) -> Option<f64> {
        self.updater.busy()
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn after(hours: f64, desired: Value) -> Thermostat {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut device = Thermostat::new(1, Updater::new("1.4.2", 90.0, 0.0), &mut rng);
        device.apply(desired.as_object().unwrap_or(&Map::new()));
        for _ in 0..(hours * 60.0) as u32 {
            device.simulate(60.0, &mut rng);
        }
        device
    }

    #[test]
    fn the_room_settles_near_the_set_point() {
        for (label, desired, low, high) in [
            ("heat", json!({"target": 22.0, "mode": "heat"}), 21.0, 23.0),
            ("eco lowers by three", json!({"target": 22.0, "mode": "eco"}), 18.0, 20.0),
            ("off falls to the outside or the frost guard", json!({"target": 22.0, "mode": "off"}), -5.0, 12.5),
        ] {
            let room = after(48.0, desired).room;
            assert!((low..=high).contains(&room), "{label}: {room}");
        }
    }

    #[test]
    fn a_long_step_is_as_stable_as_short_ones() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut device = Thermostat::new(1, Updater::new("1.4.2", 90.0, 0.0), &mut rng);
        for _ in 0..100 {
            device.simulate(24.0 * 3600.0, &mut rng);
            assert!((-10.0..60.0).contains(&device.room), "{}", device.room);
        }
    }

    #[test]
    fn invalid_fields_are_ignored() {
        for (label, desired) in [
            ("too hot", json!({"target": 99})),
            ("not a number", json!({"target": "warm"})),
            ("no such mode", json!({"mode": "sauna"})),
            ("another's field", json!({"colour": "red"})),
        ] {
            let (before, after) = (after(0.0, json!({})).report(), after(0.0, desired).report());
            assert_eq!(before, after, "{label}");
        }
    }

    #[test]
    fn a_firmware_installation_takes_time_and_restarts_the_device() {
        let mut device = after(1.0, json!({}));
        let desired = json!({"firmware": "1.5.0"});
        let desired = desired.as_object().cloned().unwrap_or_default();
        let mut rng = SmallRng::seed_from_u64(7);
        device.apply(&desired);
        device.simulate(60.0, &mut rng);
        assert_eq!(device.report().get("firmware"), Some(&json!("1.4.2")), "still installing");
        device.apply(&desired);
        device.simulate(60.0, &mut rng);
        assert_eq!(device.report().get("firmware"), Some(&json!("1.5.0")), "asking twice does not restart it");
        assert_eq!(device.report().get("uptime"), Some(&json!(0.0)));
        let downgrade = json!({"firmware": "1.4.2"});
        device.apply(downgrade.as_object().unwrap_or(&Map::new()));
        device.finish_installing();
        assert_eq!(device.report().get("firmware"), Some(&json!("1.4.2")));
    }

    #[test]
    fn the_battery_only_discharges_and_a_report_is_small() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut device = Thermostat::new(1, Updater::new("1.4.2", 90.0, 0.0), &mut rng);
        let mut before = device.battery;
        for _ in 0..10_000 {
            device.simulate(600.0, &mut rng);
            assert!(device.battery <= before && device.battery >= 0.0);
            before = device.battery;
        }
        let bytes = serde_json::to_vec(&device.report()).map_or(0, |bytes| bytes.len());
        assert!((400..700).contains(&bytes), "{bytes} bytes");
    }
}
