//! The firmware of the simulated devices: pure state machines.
//!
//! A firmware takes inputs and returns outputs; it knows no broker, no clock and no socket. Its fields are its RAM, unless
//! they are said to be in flash: a power cut clears the former and keeps the latter. The physical world, such as the
//! bolt of a lock, is kept as well.

mod lock;
mod meter;
mod pump;
pub(crate) mod thermostat;
mod updater;

use rand::rngs::SmallRng;
use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) use meter::TARIFFS;
pub(crate) use updater::Updater;

/// The version of new devices.
pub(crate) const FIRST_VERSION: &str = "1.4.2";

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeviceKind {
    /// A room thermostat: always on, set points and modes.
    Thermostat,
    /// An electricity meter on a battery: wakes, reports, sleeps.
    Meter,
    /// A door lock, which people also turn by hand.
    Lock,
    /// A dosing pump that runs commands, each exactly once.
    Pump,
}

/// An input of a firmware.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// Simulated seconds passed.
    Elapsed(f64),
    /// The back end wants this; fields that are not the firmware's are ignored.
    Desired(&'a Map<String, Value>),
    /// The power was cut and is back.
    PowerCut,
    /// The run ends: everything under way is finished at once, without failures.
    Finish,
}

/// An output of a firmware.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// A command took effect. It is in flash from the same moment on.
    Effect(String),
    /// The device wants `desired` changed, as somebody has operated it by hand.
    Desire(Map<String, Value>),
}

/// The firmware of one device.
pub(crate) trait Firmware: Send {
    /// Takes an input.
    fn step(&mut self, input: Input<'_>, rng: &mut SmallRng) -> Vec<Output>;

    /// Returns all of `reported`.
    fn report(&self) -> Map<String, Value>;

    /// Returns the simulated seconds until something under way is finished.
    fn busy(&self) -> Option<f64>;
}

/// Returns the firmware of a new device.
pub(crate) fn new(kind: DeviceKind, number: u32, updater: Updater, rng: &mut SmallRng) -> Box<dyn Firmware> {
    match kind {
        DeviceKind::Thermostat => Box::new(thermostat::Thermostat::new(number, updater, rng)),
        DeviceKind::Meter => Box::new(meter::Meter::new(number, updater, rng)),
        DeviceKind::Lock => Box::new(lock::Lock::new(number, updater)),
        DeviceKind::Pump => Box::new(pump::Pump::new(number, updater)),
    }
}

/// Returns the fields of `desired` that devices of a kind apply and report.
pub(crate) fn owned(kind: DeviceKind) -> &'static [&'static str] {
    match kind {
        DeviceKind::Thermostat => &thermostat::OWNED,
        DeviceKind::Meter => &["tariff", "firmware"],
        DeviceKind::Lock => &["locked", "firmware"],
        DeviceKind::Pump => &["command", "firmware"],
    }
}

/// Returns the smaller of two times.
fn sooner(left: Option<f64>, right: Option<f64>) -> Option<f64> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

/// Returns the fields of a JSON object.
fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
