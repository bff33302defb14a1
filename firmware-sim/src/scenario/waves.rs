//! A firmware rollout of the server (`PUT /v1/rollouts/{id}`), in waves that go on as the devices run the version.
//!
//! It is created at its time and followed to its end. What has not ended when the run stops is cancelled. Then a device that
//! reports that the installation failed is rolled back: `desired.firmware` becomes the version that it runs. The oracle
//! receives the devices with their waves and versions.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use umbra_client::{Client, DeviceId, Document, Error, HttpClient, RolloutCommand, Version};

use super::file::Wave;
use crate::{
    oracle::{RolledOut, RolledOutDevice},
    participant::{self, Broker},
    report::Recorder,
};

/// A rollout.
pub(crate) struct Rollout {
    name: DeviceId,
    id: String,
    wave: Wave,
    devices: Vec<DeviceId>,
    client: Client,
    http: HttpClient,
    recorder: Arc<Recorder>,
    speed: f64,
}

impl Rollout {
    /// Returns the rollout of `wave` on the share of `devices` that its last step is, by the client `name`. Its id has `run`, which
    /// distinguishes it from those of other runs.
    pub(crate) fn new(
        (name, run): (&DeviceId, u64),
        wave: Wave,
        mut devices: Vec<DeviceId>,
        (broker, http): (&Broker, &HttpClient),
        recorder: Arc<Recorder>,
        speed: f64,
    ) -> Self {
        devices.truncate(wave.steps.last().map_or(0, |last| share(devices.len(), *last)));
        let client = participant::connect(name, broker, &recorder, false);
        let id = format!("{}-{run:x}", name.as_str());
        Self { name: name.clone(), id, wave, devices, client, http: http.clone(), recorder, speed }
    }

    /// Runs until the rollout has ended, or `stop` is set.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        if stopped_within(&mut stop, self.wave.start.at_speed(self.speed)).await {
            return self.client.close().await;
        }
        let state = match self.create(&mut stop).await {
            Ok(()) => self.follow(&mut stop).await,
            Err(reason) => reason,
        };
        let devices = self.reached(&state).await;
        self.roll_back(&devices).await;
        let waves = self.sizes();
        let (id, firmware) = (self.id, self.wave.firmware);
        self.recorder.rolled_out(&self.name, RolledOut { id, firmware, state, waves, devices });
        self.client.close().await;
    }

    /// Creates the rollout. The error is the reason that there is none when the run stops.
    async fn create(&self, stop: &mut watch::Receiver<bool>) -> Result<(), String> {
        let spec = self.spec();
        loop {
            let error = match self.http.create_rollout(&self.id, &spec).await {
                Ok(rollout) => {
                    self.narrate(&format!("created for {} devices", rollout.devices));
                    return Ok(());
                }
                Err(error) => error,
            };
            self.narrate(&format!("not created: {error}"));
            // Another rollout of the same devices has to end first, or the server to start again.
            if stopped_within(stop, LOOK).await {
                return Err(format!("not created: {error}"));
            }
        }
    }

    /// Waits for the end, and returns the state. Cancels a rollout that has not ended when the run stops.
    async fn follow(&self, stop: &mut watch::Receiver<bool>) -> String {
        let mut shown = (usize::MAX, String::new());
        for looks in 1.. {
            if let Ok(rollout) = self.http.rollout(&self.id).await {
                if (rollout.wave, &rollout.state) != (shown.0, &shown.1) {
                    self.narrate(&format!("{} in wave {}", rollout.state, rollout.wave + 1));
                    shown = (rollout.wave, rollout.state.clone());
                }
                if rollout.has_ended() {
                    return rollout.state;
                }
            }
            if stopped_within(stop, LOOK).await {
                match self.http.command_rollout(&self.id, RolloutCommand::Cancel).await {
                    // It has ended meanwhile, or what was under way ends.
                    Ok(_) | Err(Error::Rejected(_)) => {}
                    Err(error) if looks % TRIES == 0 => return format!("unknown: {error}"),
                    Err(_) => {}
                }
                sleep(LOOK).await;
            }
        }
        unreachable!("the range has no end")
    }

    /// Returns the devices as the server has them at the end; none if it cannot be asked.
    async fn reached(&self, state: &str) -> Vec<RolledOutDevice> {
        let mut tries = 0;
        loop {
            match self.listed().await {
                Ok(devices) => return devices,
                Err(Error::Rejected(_)) => return Vec::new(),
                Err(error) if tries == TRIES => {
                    self.recorder.log(&format!("rollout {} ({state}) cannot be read: {error}", self.id));
                    return Vec::new();
                }
                Err(_) => sleep(LOOK).await,
            }
            tries += 1;
        }
    }

    async fn listed(&self) -> Result<Vec<RolledOutDevice>, Error> {
        let mut devices = Vec::new();
        let mut pages = self.http.rollout_devices(&self.id, None);
        while let Some(found) = pages.try_next().await? {
            let (wave, state, version) = (found.wave, found.state, found.version.map(Version));
            devices.push(RolledOutDevice { id: DeviceId::new(&found.device)?, wave, state, version });
        }
        Ok(devices)
    }

    /// Rolls back the devices whose installation failed.
    async fn roll_back(&self, devices: &[RolledOutDevice]) {
        let late: Vec<_> =
            devices.iter().filter(|device| device.state != "converged" && device.version.is_some()).collect();
        for devices in late.chunks(AT_ONCE) {
            let mut requests = JoinSet::new();
            for device in devices {
                let shadow = self.client.shadow(device.id.clone());
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

    /// Returns the numbers of devices reached in all by the end of each wave.
    fn sizes(&self) -> Vec<usize> {
        let all = self.devices.len();
        let last = self.wave.steps.last().copied().unwrap_or(1.0);
        let mut sizes: Vec<_> = self.wave.steps.iter().map(|step| share(all, step / last)).collect();
        sizes.dedup();
        sizes
    }

    fn spec(&self) -> Value {
        let sizes = self.sizes();
        let counts = sizes.iter().take(sizes.len().saturating_sub(1)).map(|size| json!(size));
        let waves: Vec<_> = counts.chain([json!("100%")]).collect();
        let devices: Vec<_> = self.devices.iter().map(DeviceId::as_str).collect();
        json!({
            "devices": devices,
            "patch": {"desired": {"firmware": self.wave.firmware}},
            "waves": waves,
            "deadlineSeconds": (self.wave.deadline.at_speed(self.speed).as_secs_f64().ceil() as u64).max(1),
            "abort": {"percent": self.wave.failures * 100.0},
        })
    }

    fn narrate(&self, what: &str) {
        self.recorder.narrate(|| format!("rollout of firmware {}: {what}", self.wave.firmware));
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

/// The time between two looks at a rollout.
const LOOK: Duration = Duration::from_millis(500);
/// Tries of a request at the end of the run, while the server may be starting.
const TRIES: u32 = 20;
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
            ("another version failed", "2", "3", "failed", None),
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
