//! The firmware of one simulated thermostat: connect, read the shadow, obey it, report.
//!
//! The order after every connection: read the shadow, act on what is desired, report everything that differs; from
//! then on act on deltas, and report what changed at every reading. A reading takes a moment, and the report goes out
//! under the version known when it began: whoever writes meanwhile wins, and the report is tried again.
//!
//! `reported` is the device's alone, so on a conflict it takes the current version and sends the same again.
//! News is heard while nothing else is done; what comes meanwhile waits in a bounded queue.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use umbra_client::{Client, DeviceId, Document, News, Shadow, Topic, Watch, WriteOptions};

use crate::{
    difference::difference,
    oracle::{Oracle, Violation},
    participant::{self, AnnouncementObserver, Broker},
    report::Witness,
    thermostat::{OWNED, Thermostat},
};

/// How a device spends its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DutyCycle {
    /// Between two readings.
    pub(crate) reading: Duration,
    /// Seconds of physics in a second of the clock.
    pub(crate) speedup: f64,
    /// Leave changes of other fields to the service.
    pub(crate) rebase: bool,
}

/// One simulated device.
pub(crate) struct Device {
    id: DeviceId,
    thermostat: Thermostat,
    client: Client,
    shadow: Shadow,
    ear: AnnouncementObserver,
    /// The shadow as far as the device knows: `reported` as accepted last, and the version.
    view: Document,
    /// What it was asked for: `desired` as read on connecting, and every delta since.
    asked: Map<String, Value>,
    pace: DutyCycle,
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
        pace: DutyCycle,
        witness: Arc<Witness>,
        seed: u64,
    ) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let client = participant::connect(&id, broker, &witness, false);
        Self {
            thermostat: Thermostat::new(number, &mut dice),
            shadow: client.shadow(id.clone()),
            client,
            ear: AnnouncementObserver::new(id.clone(), witness.clone()),
            view: Document::default(),
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
    pub(crate) async fn run(mut self, start: Instant, mut rest: watch::Receiver<bool>) -> Result<Document, String> {
        sleep_until(start).await;
        self.lived = Instant::now();
        let mut news = self.shadow.watch(&[Topic::Delta, Topic::Accepted], NEWS_HELD).await.map_err(told)?;
        self.read().await?;
        self.report(self.view.clone()).await;
        let mut next = Instant::now() + self.jittered();
        loop {
            tokio::select! {
                // A report that has begun is brought to its end, so that its outcome is known.
                () = told_to(&mut rest) => break,
                heard = news.recv() => match heard {
                    Some(heard) => self.obey(heard).await?,
                    None => return Err("the client ended".into()),
                },
                () = sleep_until(next) => {
                    self.take_reading(&mut news).await?;
                    next = (next + self.jittered()).max(Instant::now());
                }
            }
        }
        let last = self.settle(&mut news).await;
        self.client.close().await;
        last
    }

    async fn take_reading(&mut self, news: &mut Watch) -> Result<(), String> {
        while let Some(heard) = news.try_recv() {
            self.obey(heard).await?;
        }
        let basis = self.view.clone();
        sleep(READING_TAKES.mul_f64(self.dice.random())).await;
        self.step();
        self.report(basis).await;
        Ok(())
    }

    /// Acts on what it heard.
    async fn obey(&mut self, heard: News) -> Result<(), String> {
        match heard {
            News::Accepted(shadow, accepted) => {
                self.ear.hear(&shadow, &accepted);
                self.view.version = self.view.version.max(accepted.version);
                return Ok(());
            }
            News::Delta(_, delta) => {
                self.view.version = self.view.version.max(delta.version);
                // It comes with every change until it is made up for, also with those of our own reports.
                if delta.state.iter().all(|(field, wanted)| self.asked.get(field) == Some(wanted)) {
                    return Ok(());
                }
                self.witness.counters.deltas.bump();
                let state = Value::Object(delta.state.clone());
                self.witness.say(|| format!("{} is to make up for {state} (version {})", self.id, delta.version));
                self.thermostat.apply(&delta.state);
                self.asked.extend(delta.state);
            }
            News::Resumed => {
                self.ear.reset();
                self.read().await?;
            }
            News::Changed(..) | News::Document(..) | News::Difference(..) => return Ok(()),
        }
        self.step();
        self.report(self.view.clone()).await;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), String> {
        self.view = self.shadow.get().await.map_err(told)?;
        if let Some(desired) = self.view.desired() {
            self.thermostat.apply(desired);
            self.asked = desired.clone();
        }
        Ok(())
    }

    /// Reports what differs from the last report, beginning with the version of `basis`.
    async fn report(&mut self, basis: Document) {
        let report = self.thermostat.report();
        let changes = |known: &Document| {
            let patch = difference(known.reported(), &report);
            (!patch.is_empty()).then(|| json!({"reported": patch}))
        };
        let options = WriteOptions::default().from(basis).without_precondition().rebase(self.pace.rebase);
        // How it failed, the witness has been told.
        let Ok(outcome) = self.shadow.update_with(&options, changes).await else { return };
        if let Some(accepted) = outcome {
            self.view.version = self.view.version.max(accepted.version);
        }
        self.view.state.insert("reported".into(), Value::Object(report));
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
    async fn settle(&mut self, news: &mut Watch) -> Result<Document, String> {
        self.wait_to_be_told(news).await?;
        loop {
            self.read().await?;
            self.thermostat.finish_installing();
            let left = difference(self.view.reported(), &self.thermostat.report());
            if Oracle::unconverged_fields(&self.view, &OWNED).is_empty() || left.is_empty() {
                return Ok(self.view.clone());
            }
            self.report(self.view.clone()).await;
        }
    }

    /// Before the device helps itself by reading: whatever is desired of it, a delta has to have told it.
    async fn wait_to_be_told(&mut self, news: &mut Watch) -> Result<(), String> {
        let deadline = Instant::now() + DELTA_DEADLINE;
        self.view = self.shadow.get().await.map_err(told)?;
        while !self.untold().is_empty() {
            let Ok(Some(heard)) = timeout_at(deadline, news.recv()).await else {
                for field in self.untold() {
                    let (device, path) = (self.id.clone(), format!("/desired/{field}"));
                    self.witness.violated(Violation::NotTold { device, version: self.view.version, path });
                }
                break;
            };
            self.obey(heard).await?;
        }
        Ok(())
    }

    /// Fields it answers for in which the shadow wants something that the device was never asked for.
    fn untold(&self) -> Vec<&'static str> {
        let mut fields = Oracle::unconverged_fields(&self.view, &OWNED);
        let wanted = self.view.desired();
        fields.retain(|field| wanted.and_then(|wanted| wanted.get(*field)) != self.asked.get(*field));
        fields
    }
}

async fn told_to(rest: &mut watch::Receiver<bool>) {
    // The one who tells is gone only when the fleet is: that is rest, too.
    let _ = rest.wait_for(|rest| *rest).await;
}

fn told(error: umbra_client::Error) -> String {
    error.to_string()
}

/// News that may wait while a report is under way.
const NEWS_HELD: usize = 64;
/// The longest a reading takes, of the clock.
const READING_TAKES: Duration = Duration::from_millis(300);
/// How late a delta may be after everybody stopped writing.
const DELTA_DEADLINE: Duration = Duration::from_secs(3);
