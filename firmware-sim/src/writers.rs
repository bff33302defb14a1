//! Writers of the devices' shadows: apps that change `desired`, jobs that write `tags`, and senders of commands.
//!
//! They race the devices, and each other, on purpose: each reads a shadow, waits for a moment like a person or a job, and
//! writes under the version read. Half of their edits go to a few devices.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use umbra_client::{Client, DeviceId, Document, Event, Scope, Shadow, Topic, Watch, WriteOptions};

use crate::{
    firmware::{
        DeviceKind, FIRST_VERSION, TARIFFS,
        thermostat::{MODES, TARGETS},
    },
    participant::{self, AnnouncementObserver, Broker},
    report::Recorder,
};

/// The kind of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Set points, modes, tariffs, locks: `desired`.
    App,
    /// Health notes: `tags`.
    Job,
    /// Commands for pumps, one after the other: `desired.command`.
    Commands,
}

impl Kind {
    /// Returns true if it writes shadows of devices of `kind`.
    pub(crate) fn suits(self, kind: DeviceKind) -> bool {
        match self {
            Self::App => kind != DeviceKind::Pump,
            Self::Job => true,
            Self::Commands => kind == DeviceKind::Pump,
        }
    }

    /// Returns its name in scenario files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Job => "job",
            Self::Commands => "commands",
        }
    }
}

/// The precondition of a client's updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Writes {
    /// The version read: any change since is a conflict.
    #[default]
    Conditional,
    /// The version read: only a change of the same field is a conflict.
    Rebase,
    /// None: the last write wins.
    Unconditional,
}

/// A device whose shadow is written.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The device.
    pub(crate) id: DeviceId,
    /// Its kind.
    pub(crate) kind: DeviceKind,
}

/// The schedule of a writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterProfile {
    /// The time between two edits.
    pub(crate) pause: Duration,
    /// The longest time between reading and writing.
    pub(crate) think: Duration,
    /// The precondition of its edits.
    pub(crate) writes: Writes,
    /// Apps also change `desired.firmware`.
    pub(crate) changes_firmware: bool,
    /// Checks the announcements of all updates.
    pub(crate) observes: bool,
}

/// A client that writes shadows of devices.
pub(crate) struct Writer {
    kind: Kind,
    name: DeviceId,
    targets: Arc<[Target]>,
    client: Client,
    announcements: AnnouncementObserver,
    recorder: Arc<Recorder>,
    profile: WriterProfile,
    rng: SmallRng,
    /// Distinguishes the ids of its commands from those of other runs.
    run: u32,
    commands: u64,
}

impl Writer {
    /// Returns the writer `name` of the shadows of `targets`.
    pub(crate) fn new(
        kind: Kind,
        name: DeviceId,
        targets: Arc<[Target]>,
        broker: &Broker,
        profile: WriterProfile,
        recorder: Arc<Recorder>,
        seed: u64,
    ) -> Self {
        Self {
            kind,
            targets,
            client: participant::connect(&name, broker, &recorder, true),
            announcements: AnnouncementObserver::new(name.clone(), recorder.clone()),
            name,
            recorder,
            profile,
            rng: SmallRng::seed_from_u64(seed),
            run: rand::random(),
            commands: 0,
        }
    }

    /// Edits until `stop` is set; edits are never cancelled.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let topics: &[Topic] = if self.profile.observes { &[Topic::Accepted] } else { &[] };
        let Ok(mut watch) = self.client.watch(Scope::All, topics, EVENT_CAPACITY).await else { return };
        loop {
            let pause = self.profile.pause.mul_f64(self.rng.random_range(0.5..1.5));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.observe_events(&mut watch, pause) => {}
            }
            if let Some(target) = self.pick() {
                self.edit(&target).await;
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

    fn pick(&mut self) -> Option<Target> {
        let hot = self.targets.get(..HOT_DEVICES.min(self.targets.len())).unwrap_or_default();
        let among = if self.rng.random() { hot } else { &*self.targets };
        among.choose(&mut self.rng).cloned()
    }

    // The observer has recorded the outcomes.
    async fn edit(&mut self, target: &Target) {
        let shadow = self.client.shadow(target.id.clone());
        let Ok(read) = shadow.get().await else { return };
        sleep(self.profile.think.mul_f64(self.rng.random())).await;
        if self.kind == Kind::Commands {
            return self.command(&shadow, read).await;
        }
        let (kind, job, mut chance) = (target.kind, self.kind == Kind::Job, self.rng.random());
        if !self.profile.changes_firmware {
            chance *= FIRMWARE_CHANCE;
        }
        let edit = |found: &Document| if job { health_tags(found) } else { next_desired(kind, found, chance) };
        if self.profile.writes == Writes::Unconditional {
            let _ = shadow.desire(edit(&read).get("desired")).await;
            return;
        }
        let _ = shadow.update_with(&self.options(read), |found| Some(edit(found))).await;
    }

    /// Sends a command, if the one before has been run.
    async fn command(&mut self, shadow: &Shadow, read: Document) {
        self.commands += 1;
        let (id, litres) = (format!("{}-{:x}-{}", self.name, self.run, self.commands), self.rng.random_range(1..=9));
        let accepted = shadow.update_with(&self.options(read), |found| next_command(found, &id, litres)).await;
        if let Ok(Some(_)) = accepted {
            self.recorder.command(shadow.id().device(), &id);
        }
    }

    fn options(&self, read: Document) -> WriteOptions {
        WriteOptions::default().based_on(read).rebase(self.profile.writes == Writes::Rebase)
    }
}

/// Returns an app's next change: relative to the current state, so that a write based on a stale one would be wrong.
fn next_desired(kind: DeviceKind, found: &Document, chance: f64) -> Value {
    let desired = |field: &str| found.desired().and_then(|desired| desired.get(field));
    let change = match (kind, chance) {
        (_, FIRMWARE_CHANCE..) | (DeviceKind::Pump, _) => {
            let now = desired("firmware").and_then(Value::as_str).unwrap_or(FIRST_VERSION);
            json!({"firmware": if now == "1.5.0" { "1.5.1" } else { "1.5.0" }})
        }
        (DeviceKind::Lock, _) => json!({"locked": !desired("locked").and_then(Value::as_bool).unwrap_or(true)}),
        (DeviceKind::Meter, _) => json!({"tariff": next(&TARIFFS, desired("tariff"))}),
        (DeviceKind::Thermostat, ..0.7) => {
            let target = desired("target").and_then(Value::as_f64).unwrap_or(20.0);
            let step = if chance < 0.35 { 0.5 } else { -0.5 };
            let turned = if (16.0..=25.0).contains(&(target + step)) { target + step } else { target - step };
            json!({"target": turned.clamp(*TARGETS.start(), *TARGETS.end())})
        }
        (DeviceKind::Thermostat, _) => json!({"mode": next(&MODES, desired("mode"))}),
    };
    json!({"desired": change})
}

/// Returns the value after `now` in a list; without one, the second.
fn next(list: &[&'static str; 3], now: Option<&Value>) -> &'static str {
    let [first, second, third] = *list;
    match now.and_then(Value::as_str).unwrap_or(first) {
        now if now == second => third,
        now if now == third => first,
        _ => second,
    }
}

/// Returns the update with a command; `None` if the device has not run the one before.
fn next_command(found: &Document, id: &str, litres: u32) -> Option<Value> {
    let is_done = found.pointer("/desired/command/id") == found.pointer("/reported/command/id");
    is_done.then(|| json!({"desired": {"command": {"id": id, "litres": litres}}}))
}

/// Returns a job's notes about a device.
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
/// The chance of a change of anything but the firmware.
const FIRMWARE_CHANCE: f64 = 0.95;

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    fn desired(found: &mut Document, change: &Value) {
        let mut desired = found.desired().cloned().unwrap_or_default();
        desired.extend(change["desired"].as_object().cloned().unwrap_or_default());
        found.state.insert("desired".into(), Value::Object(desired));
    }

    #[test]
    fn changes_of_desired_are_valid_and_differ_from_the_current_state() {
        let mut rng = SmallRng::seed_from_u64(3);
        for kind in [DeviceKind::Thermostat, DeviceKind::Meter, DeviceKind::Lock] {
            let mut found = Document::default();
            for _ in 0..1_000 {
                let change = next_desired(kind, &found, rng.random());
                let (field, value) = change
                    .get("desired")
                    .and_then(Value::as_object)
                    .and_then(|change| change.iter().next())
                    .expect("one field");
                assert_ne!(found.pointer(&format!("/desired/{field}")), Some(value));
                match field.as_str() {
                    "target" => assert!(value.as_f64().is_some_and(|target| TARGETS.contains(&target)), "{value}"),
                    "mode" => assert!(value.as_str().is_some_and(|mode| MODES.contains(&mode)), "{value}"),
                    "tariff" => assert!(value.as_str().is_some_and(|tariff| TARIFFS.contains(&tariff)), "{value}"),
                    "locked" => assert!(value.is_boolean(), "{value}"),
                    _ => assert_eq!(field, "firmware"),
                }
                desired(&mut found, &change);
            }
        }
    }

    #[test]
    fn a_command_waits_for_the_one_before() {
        let mut found = Document::default();
        let first = next_command(&found, "c1", 5).expect("nothing runs");
        desired(&mut found, &first);
        assert_eq!(next_command(&found, "c2", 5), None, "c1 has not been run");
        found.state.insert("reported".into(), json!({"command": {"id": "c1", "litres": 5}}));
        assert!(next_command(&found, "c2", 5).is_some());
    }
}
