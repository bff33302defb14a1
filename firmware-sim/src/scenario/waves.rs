//! A firmware rollout in steps: each asks a larger share of the devices, by `desired.firmware`.
//!
//! After each pause it reads the shadows of the devices asked. One that reports that the installation failed is rolled
//! back: `desired.firmware` becomes the version that it runs.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use umbra_client::{Client, DeviceId, Document};

use super::file::Wave;
use crate::{
    participant::{self, Broker},
    report::Recorder,
};

/// A rollout.
pub(crate) struct Rollout {
    wave: Wave,
    devices: Vec<DeviceId>,
    client: Client,
    recorder: Arc<Recorder>,
    speed: f64,
}

impl Rollout {
    /// Returns the rollout of `wave` on `devices`, by the client `name`.
    pub(crate) fn new(
        name: &DeviceId,
        wave: Wave,
        devices: Vec<DeviceId>,
        broker: &Broker,
        recorder: Arc<Recorder>,
        speed: f64,
    ) -> Self {
        Self { wave, devices, client: participant::connect(name, broker, &recorder, false), recorder, speed }
    }

    /// Runs until `stop` is set; requests are never cancelled.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let (mut asked, mut wait) = (0, self.wave.start.at_speed(self.speed));
        for step in &self.wave.steps {
            if stopped_within(&mut stop, wait).await {
                return self.client.close().await;
            }
            self.roll_back(asked).await;
            let until = share(self.devices.len(), *step);
            self.recorder
                .narrate(|| format!("firmware {}: {until} of {} devices", self.wave.firmware, self.devices.len()));
            self.ask(asked, until).await;
            (asked, wait) = (until, self.wave.pause.at_speed(self.speed));
        }
        while !stopped_within(&mut stop, wait).await {
            self.roll_back(asked).await;
        }
        self.client.close().await;
    }

    async fn ask(&self, from: usize, until: usize) {
        for devices in self.devices.get(from..until).unwrap_or_default().chunks(AT_ONCE) {
            let mut requests = JoinSet::new();
            for device in devices {
                let shadow = self.client.shadow(device.clone());
                let (recorder, firmware) = (self.recorder.clone(), json!({"firmware": self.wave.firmware}));
                requests.spawn(async move {
                    if shadow.desire(firmware).await.is_ok() {
                        recorder.counters.firmware_asked.bump();
                    }
                });
            }
            requests.join_all().await;
        }
    }

    async fn roll_back(&self, until: usize) {
        for devices in self.devices.get(..until).unwrap_or_default().chunks(AT_ONCE) {
            let mut requests = JoinSet::new();
            for device in devices {
                let shadow = self.client.shadow(device.clone());
                let (recorder, firmware) = (self.recorder.clone(), self.wave.firmware.clone());
                requests.spawn(async move {
                    if let Ok(Some(_)) = shadow.update(|found| rollback(found, &firmware)).await {
                        recorder.counters.firmware_rolled_back.bump();
                    }
                });
            }
            requests.join_all().await;
        }
    }
}

/// Returns the update that rolls a device back to the version that it runs; `None` if the installation did not fail.
fn rollback(found: &Document, firmware: &str) -> Option<Value> {
    let at = |pointer: &str| found.pointer(pointer).and_then(Value::as_str);
    let failed = at("/reported/update/version") == Some(firmware) && at("/reported/update/state") == Some("failed");
    let running = at("/reported/firmware").filter(|_| failed && at("/desired/firmware") == Some(firmware))?;
    Some(json!({"desired": {"firmware": running}}))
}

/// Returns the number of devices that a share of them is, at least one.
fn share(devices: usize, step: f64) -> usize {
    ((devices as f64 * step).ceil() as usize).clamp(1.min(devices), devices)
}

/// Returns true if `stop` is set before `time` has passed.
async fn stopped_within(stop: &mut watch::Receiver<bool>, time: Duration) -> bool {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => true,
        () = sleep(time) => false,
    }
}

/// Requests under way at once.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_shares_of_the_devices() {
        for (devices, step, expected) in [(100, 0.1, 10), (100, 1.0, 100), (3, 0.1, 1), (0, 1.0, 0)] {
            assert_eq!(share(devices, step), expected, "{devices} {step}");
        }
    }

    #[test]
    fn only_a_failed_installation_is_rolled_back() {
        for (label, desired, version, state, expected) in [
            ("failed", "2", "2", "failed", Some("1")),
            ("under way", "2", "2", "downloading", None),
            ("another wave failed", "2", "3", "failed", None),
            ("rolled back already", "1", "2", "failed", None),
        ] {
            let found = json!({"version": 1, "state": {"desired": {"firmware": desired},
                "reported": {"firmware": "1", "update": {"version": version, "state": state}}}});
            let found = serde_json::from_value(found).expect("a document");
            let expected = expected.map(|running| json!({"desired": {"firmware": running}}));
            assert_eq!(rollback(&found, "2"), expected, "{label}");
        }
    }
}
