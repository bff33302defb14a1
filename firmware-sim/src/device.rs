//! The firmware of one simulated thermostat: connect, read the shadow, obey it, report.
//!
//! The order after every connection: read the shadow, act on what is desired, report everything that differs; from
//! then on act on deltas, and report what changed at every reading. A reading takes a moment, and the report goes out
//! under the version known when it began: whoever writes meanwhile wins, and the report is tried again.
//!
//! `reported` is the device's alone, so on a conflict it takes the current version and sends the same again.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    link::{Broker, Scope},
    oracle::{Oracle, Violation},
    report::Witness,
    shadow_client::{Outcome, Refresh, ShadowClient},
    thermostat::{OWNED, Thermostat},
    wire::{DeviceId, Snapshot, difference},
};

/// How a device spends its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Between two readings.
    pub(crate) reading: Duration,
    /// Seconds of physics in a second of the clock.
    pub(crate) speedup: f64,
}

/// One simulated device.
pub(crate) struct Device {
    id: DeviceId,
    thermostat: Thermostat,
    client: ShadowClient,
    /// The shadow as far as the device knows: `reported` as accepted last, and the version.
    view: Snapshot,
    /// What it was asked for: `desired` as read on connecting, and every delta since.
    asked: Map<String, Value>,
    pace: Pace,
    /// Until when physics has been computed.
    lived: Instant,
    witness: Arc<Witness>,
    dice: SmallRng,
}

impl Device {
    /// Device number `number` of the fleet, switched off.
    pub(crate) fn new(
        id: DeviceId,
        number: u32,
        broker: &Broker,
        pace: Pace,
        witness: Arc<Witness>,
        seed: u64,
    ) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let scope = Scope::Device(id.clone());
        Self {
            thermostat: Thermostat::new(number, &mut dice),
            client: ShadowClient::new(id.clone(), scope, broker, witness.clone(), dice.random()),
            view: Snapshot::default(),
            id,
            asked: Map::new(),
            pace,
            lived: Instant::now(),
            witness,
            dice,
        }
    }

    /// Lives from `start` until told to come to rest, then settles; the shadow in the end, or why there is none.
    ///
    /// # Errors
    ///
    /// The shadow could not be read.
    pub(crate) async fn run(mut self, start: Instant, mut rest: watch::Receiver<bool>) -> Result<Snapshot, String> {
        sleep_until(start).await;
        self.lived = Instant::now();
        self.read().await?;
        self.report(self.view.clone()).await;
        let mut next = Instant::now() + self.jittered();
        loop {
            tokio::select! {
                // A report that has begun is brought to its end, so that its outcome is known.
                () = told_to(&mut rest) => return self.settle().await,
                () = self.client.listen() => self.obey().await?,
                () = sleep_until(next) => {
                    self.take_reading().await;
                    next = (next + self.jittered()).max(Instant::now());
                }
            }
        }
    }

    async fn take_reading(&mut self) {
        self.view.version = self.view.version.max(self.client.announced_version());
        let basis = self.view.clone();
        let moment = READING_TAKES.mul_f64(self.dice.random());
        self.client.idle(moment).await;
        self.step();
        self.report(basis).await;
    }

    /// Acts on what the client heard.
    async fn obey(&mut self) -> Result<(), String> {
        let heard = self.client.inbox();
        self.view.version = self.view.version.max(heard.version);
        if heard.resumed {
            self.read().await?;
        } else if let Some(delta) = heard.delta {
            self.witness.counters.deltas.bump();
            self.witness.say(|| format!("{} is asked for {} (version {})", self.id, json!(delta.state), delta.version));
            self.thermostat.apply(&delta.state);
            self.asked.extend(delta.state);
        }
        self.step();
        self.report(self.view.clone()).await;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), String> {
        self.view = self.client.get(&self.id).await?;
        if let Some(desired) = self.view.section("desired") {
            self.thermostat.apply(desired);
            self.asked = desired.clone();
        }
        Ok(())
    }

    /// Reports what differs from the last report, beginning with the version of `basis`.
    async fn report(&mut self, basis: Snapshot) {
        let report = self.thermostat.report();
        let intent = |known: &Snapshot| {
            let patch = difference(known.section("reported"), &report);
            (!patch.is_empty()).then(|| json!({"reported": patch}))
        };
        let outcome = self.client.write(&self.id, basis, Refresh::Version, intent).await;
        if let Outcome::Accepted(version) = outcome {
            self.view.version = self.view.version.max(version);
        }
        if matches!(outcome, Outcome::Accepted(_) | Outcome::Nothing) {
            if !self.view.state.is_object() {
                self.view.state = json!({});
            }
            if let Some(state) = self.view.state.as_object_mut() {
                state.insert("reported".into(), Value::Object(report));
            }
        }
    }

    /// Lets physics catch up with the clock.
    fn step(&mut self) {
        let now = Instant::now();
        let passed = now.duration_since(self.lived).as_secs_f64() * self.pace.speedup;
        self.thermostat.step(passed, &mut self.dice);
        self.lived = now;
    }

    fn jittered(&mut self) -> Duration {
        self.pace.reading.mul_f64(self.dice.random_range(0.8..1.2))
    }

    /// Obeys and reports until nothing it answers for is left to do. Ends by itself: a device that reports what is
    /// asked of it has converged, and one that finds nothing more to report never will.
    async fn settle(&mut self) -> Result<Snapshot, String> {
        self.wait_to_be_told().await?;
        loop {
            self.read().await?;
            self.thermostat.finish_installing();
            let left = difference(self.view.section("reported"), &self.thermostat.report());
            if Oracle::unconverged_fields(&self.view, &OWNED).is_empty() || left.is_empty() {
                return Ok(self.view.clone());
            }
            self.report(self.view.clone()).await;
        }
    }

    /// Before the device helps itself by reading: whatever is desired of it, a delta has to have told it.
    async fn wait_to_be_told(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + DELTA_DEADLINE;
        self.view = self.client.get(&self.id).await?;
        while !self.untold().is_empty() {
            if timeout_at(deadline, self.client.listen()).await.is_err() {
                for field in self.untold() {
                    let (device, path) = (self.id.clone(), format!("/desired/{field}"));
                    self.witness.violated(Violation::NotTold { device, version: self.view.version, path });
                }
                break;
            }
            self.obey().await?;
        }
        Ok(())
    }

    /// Fields it answers for in which the shadow wants something that the device was never asked for.
    fn untold(&self) -> Vec<&'static str> {
        let mut fields = Oracle::unconverged_fields(&self.view, &OWNED);
        let wanted = self.view.section("desired");
        fields.retain(|field| wanted.and_then(|wanted| wanted.get(*field)) != self.asked.get(*field));
        fields
    }
}

async fn told_to(rest: &mut watch::Receiver<bool>) {
    // The one who tells is gone only when the fleet is: that is rest, too.
    let _ = rest.wait_for(|rest| *rest).await;
}

/// The longest a reading takes, of the clock.
const READING_TAKES: Duration = Duration::from_millis(300);
/// How late a delta may be after everybody stopped writing.
const DELTA_DEADLINE: Duration = Duration::from_secs(3);
