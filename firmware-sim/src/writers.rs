//! Those who write to the devices' shadows from the other side: apps that change what is desired, monitors that note
//! what they think of a device in `tags`.
//!
//! They race the devices, and each other, on purpose: each reads a shadow, thinks for a moment as people and jobs do,
//! and then writes under the version it had read. Half of their attention goes to a few devices only.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use umbra_client::{Client, DeviceId, Document, News, Scope, Topic, Watch, WriteOptions};

use crate::{
    participant::{self, AnnouncementObserver, Broker},
    report::Witness,
    thermostat::{MODES, TARGETS},
};

/// What a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Set points, modes, firmware: `desired`.
    App,
    /// Opinions: `tags`.
    Monitor,
}

/// How a writer goes about its edits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterProfile {
    /// Between two of them.
    pub(crate) pause: Duration,
    /// Leave changes of other fields to the service.
    pub(crate) rebase: bool,
}

/// A client that writes other people's shadows.
pub(crate) struct Writer {
    kind: Kind,
    devices: Arc<[DeviceId]>,
    client: Client,
    ear: AnnouncementObserver,
    habits: WriterProfile,
    dice: SmallRng,
}

impl Writer {
    /// A writer called `name` that makes edits of `devices`.
    pub(crate) fn new(
        kind: Kind,
        name: DeviceId,
        devices: Arc<[DeviceId]>,
        broker: &Broker,
        habits: WriterProfile,
        witness: Arc<Witness>,
        seed: u64,
    ) -> Self {
        let client = participant::connect(&name, broker, &witness, true);
        Self {
            kind,
            devices,
            client,
            ear: AnnouncementObserver::new(name, witness),
            habits,
            dice: SmallRng::seed_from_u64(seed),
        }
    }

    /// Edits until told to stop; an edit that has begun is brought to its end.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) {
        let Ok(mut news) = self.client.watch(Scope::All, &[Topic::Accepted], NEWS_HELD).await else { return };
        while !*stop.borrow() {
            let pause = self.habits.pause.mul_f64(self.dice.random_range(0.5..1.5));
            self.listen(&mut news, pause).await;
            if let Some(device) = self.pick()
                && !*stop.borrow()
            {
                self.edit(&device).await;
            }
        }
        self.client.close().await;
    }

    /// Hears what others do, for a while.
    async fn listen(&mut self, news: &mut Watch, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(Some(heard)) = timeout_at(until, news.recv()).await {
            match heard {
                News::Accepted(shadow, accepted) => self.ear.hear(&shadow, &accepted),
                News::Resumed => self.ear.reset(),
                _ => {}
            }
        }
    }

    fn pick(&mut self) -> Option<DeviceId> {
        let favourites = self.devices.get(..FAVOURITES.min(self.devices.len())).unwrap_or_default();
        let among = if self.dice.random() { favourites } else { &*self.devices };
        among.choose(&mut self.dice).cloned()
    }

    async fn edit(&mut self, device: &DeviceId) {
        let shadow = self.client.shadow(device.clone());
        let Ok(read) = shadow.get().await else { return };
        sleep(THINKING.mul_f64(self.dice.random())).await;
        let (kind, chance) = (self.kind, self.dice.random());
        let edit = |found: &Document| match kind {
            Kind::App => Some(wish(found, chance)),
            Kind::Monitor => Some(opinion(found)),
        };
        let options = WriteOptions::default().from(read).rebase(self.habits.rebase);
        // However it ended, the witness has been told.
        let _ = shadow.update_with(&options, edit).await;
    }
}

/// What an app wants next, from what it finds: a relative change, which a write on a stale state would get wrong.
fn wish(found: &Document, chance: f64) -> Value {
    let desired = |field: &str| found.desired().and_then(|desired| desired.get(field));
    let wish = match chance {
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
    json!({"desired": wish})
}

/// What a monitor notes about a device.
fn opinion(found: &Document) -> Value {
    let reading = |pointer: &str| found.pointer(pointer).and_then(Value::as_f64);
    let battery =
        reading("/reported/battery/percent").map_or("unknown", |left| if left < 20.0 { "low" } else { "good" });
    let signal = reading("/reported/network/rssi").map_or("unknown", |rssi| if rssi < -75.0 { "weak" } else { "good" });
    let checks = found.pointer("/tags/health/checks").and_then(Value::as_u64).unwrap_or(0);
    json!({"tags": {"health": {"battery": battery, "signal": signal, "checks": checks + 1}}})
}

/// What others did while this one was busy: of each shadow, the newest.
const NEWS_HELD: usize = 1_024;
/// How many devices get half of the attention.
const FAVOURITES: usize = 4;
/// The longest thought between reading and writing.
const THINKING: Duration = Duration::from_millis(1_200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_ones_a_thermostat_can_fulfil_and_differ_from_what_is() {
        let mut found = Document::default();
        let mut dice = SmallRng::seed_from_u64(3);
        for _ in 0..1_000 {
            let wish = wish(&found, dice.random());
            let (field, value) =
                wish.get("desired").and_then(Value::as_object).and_then(|wish| wish.iter().next()).expect("one field");
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
