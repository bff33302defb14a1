//! Writers of the devices' shadows: apps that change `desired`, monitors that write `tags`.
//!
//! They race the devices, and each other, on purpose: each reads a shadow, waits for a moment like a person or a job, and
//! writes under the version read. Half of their edits go to a few devices.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use umbra_client::{Client, DeviceId, Document, Event, Scope, Topic, Watch, WriteOptions};

use crate::{
    participant::{self, AnnouncementObserver, Broker},
    report::Recorder,
    thermostat::{MODES, TARGETS},
};

/// The kind of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Set points, modes, firmware: `desired`.
    App,
    /// Health notes: `tags`.
    Monitor,
}

/// The schedule of a writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterProfile {
    /// The time between two edits.
    pub(crate) pause: Duration,
    /// Has the service rebase updates over changes of other fields.
    pub(crate) rebase: bool,
}

/// A client that writes shadows of devices.
pub(crate) struct Writer {
    kind: Kind,
    devices: Arc<[DeviceId]>,
    client: Client,
    announcements: AnnouncementObserver,
    profile: WriterProfile,
    rng: SmallRng,
}

impl Writer {
    /// Returns the writer `name` of the shadows of `devices`.
    pub(crate) fn new(
        kind: Kind,
        name: DeviceId,
        devices: Arc<[DeviceId]>,
        broker: &Broker,
        profile: WriterProfile,
        recorder: Arc<Recorder>,
        seed: u64,
    ) -> Self {
        let client = participant::connect(&name, broker, &recorder, true);
        Self {
            kind,
            devices,
            client,
            announcements: AnnouncementObserver::new(name, recorder),
            profile,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Edits until `stop` is set; edits are never cancelled.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) {
        let Ok(mut watch) = self.client.watch(Scope::All, &[Topic::Accepted], EVENT_CAPACITY).await else { return };
        while !*stop.borrow() {
            let pause = self.profile.pause.mul_f64(self.rng.random_range(0.5..1.5));
            self.observe_events(&mut watch, pause).await;
            if let Some(device) = self.pick()
                && !*stop.borrow()
            {
                self.edit(&device).await;
            }
        }
        self.client.close().await;
    }

    /// Checks the announcements of other clients' updates for `time`.
    async fn observe_events(&mut self, watch: &mut Watch, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(Some(event)) = timeout_at(until, watch.recv()).await {
            match event {
                Event::Accepted(shadow, accepted) => self.announcements.observe(&shadow, &accepted),
                Event::Resumed => self.announcements.reset(),
                _ => {}
            }
        }
    }

    fn pick(&mut self) -> Option<DeviceId> {
        let hot = self.devices.get(..HOT_DEVICES.min(self.devices.len())).unwrap_or_default();
        let among = if self.rng.random() { hot } else { &*self.devices };
        among.choose(&mut self.rng).cloned()
    }

    async fn edit(&mut self, device: &DeviceId) {
        let shadow = self.client.shadow(device.clone());
        let Ok(read) = shadow.get().await else { return };
        sleep(THINK_TIME_MAX.mul_f64(self.rng.random())).await;
        let (kind, chance) = (self.kind, self.rng.random());
        let edit = |found: &Document| match kind {
            Kind::App => Some(next_desired(found, chance)),
            Kind::Monitor => Some(health_tags(found)),
        };
        let options = WriteOptions::default().based_on(read).rebase(self.profile.rebase);
        // The observer has recorded the outcome.
        let _ = shadow.update_with(&options, edit).await;
    }
}

/// Returns an app's next change: relative to the current state, so that a write based on a stale one would be wrong.
fn next_desired(found: &Document, chance: f64) -> Value {
    let desired = |field: &str| found.desired().and_then(|desired| desired.get(field));
    let change = match chance {
        ..0.7 => {
            let target = desired("target").and_then(Value::as_f64).unwrap_or(20.0);
            let step = if chance < 0.35 { 0.5 } else { -0.5 };
            let turned = if (16.0..=25.0).contains(&(target + step)) { target + step } else { target - step };
            json!({"target": turned.clamp(*TARGETS.start(), *TARGETS.end())})
        }
        ..0.95 => {
            let now = desired("mode").and_then(Value::as_str).unwrap_or("heat");
            let next = MODES.iter().cycle().skip_while(|mode| **mode != now).nth(1);
            json!({"mode": next.unwrap_or(&"heat")})
        }
        _ => {
            let now = desired("firmware").and_then(Value::as_str).unwrap_or("1.4.2");
            json!({"firmware": if now == "1.5.0" { "1.5.1" } else { "1.5.0" }})
        }
    };
    json!({"desired": change})
}

/// Returns a monitor's notes about a device.
fn health_tags(found: &Document) -> Value {
    let reading = |pointer: &str| found.pointer(pointer).and_then(Value::as_f64);
    let battery =
        reading("/reported/battery/percent").map_or("unknown", |left| if left < 20.0 { "low" } else { "good" });
    let signal = reading("/reported/network/rssi").map_or("unknown", |rssi| if rssi < -75.0 { "weak" } else { "good" });
    let checks = found.pointer("/tags/health/checks").and_then(Value::as_u64).unwrap_or(0);
    json!({"tags": {"health": {"battery": battery, "signal": signal, "checks": checks + 1}}})
}

/// Events that may wait while an edit is under way: of each shadow, the newest.
const EVENT_CAPACITY: usize = 1_024;
/// Devices that get half of the edits.
const HOT_DEVICES: usize = 4;
/// The longest time between reading and writing.
const THINK_TIME_MAX: Duration = Duration::from_millis(1_200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_desired_are_valid_and_differ_from_the_current_state() {
        let mut found = Document::default();
        let mut rng = SmallRng::seed_from_u64(3);
        for _ in 0..1_000 {
            let change = next_desired(&found, rng.random());
            let (field, value) = change
                .get("desired")
                .and_then(Value::as_object)
                .and_then(|change| change.iter().next())
                .expect("one field");
            assert_ne!(found.pointer(&format!("/desired/{field}")), Some(value));
            match field.as_str() {
                "target" => assert!(value.as_f64().is_some_and(|target| TARGETS.contains(&target)), "{value}"),
                "mode" => assert!(value.as_str().is_some_and(|mode| MODES.contains(&mode)), "{value}"),
                _ => assert_eq!(field, "firmware"),
            }
            let mut desired = found.desired().cloned().unwrap_or_default();
            desired.insert(field.clone(), value.clone());
            found.state.insert("desired".into(), Value::Object(desired));
        }
    }
}
