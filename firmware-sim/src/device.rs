//! The firmware of one simulated thermostat: connect, read the shadow, obey it, report.
//!
//! After every connect: read the shadow, apply `desired`, report every difference. From then on: apply deltas, and report
//! the changes of every reading. A reading takes a moment, and the report requires the version known when it began, so
//! any write meanwhile causes a conflict and a retry.
//!
//! `reported` is the device's alone, so after a conflict it sends the same report under the current version. Events wait
//! in a bounded queue while a reading or report is under way.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use umbra_client::{Client, DeviceId, Document, Event, Shadow, Topic, Watch, WriteOptions};

use crate::{
    difference::difference,
    firmware::{
        FIRST_VERSION, Updater,
        thermostat::{OWNED, Thermostat},
    },
    oracle::{Oracle, Violation},
    participant::{self, AnnouncementObserver, Broker},
    report::Recorder,
};

/// The schedule of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DutyCycle {
    /// The time between two readings.
    pub(crate) reading: Duration,
    /// Simulated seconds per second of the clock.
    pub(crate) speedup: f64,
    /// Has the service rebase updates over changes of other fields.
    pub(crate) rebase: bool,
}

/// One simulated device.
pub(crate) struct Device {
    id: DeviceId,
    thermostat: Thermostat,
    client: Client,
    shadow: Shadow,
    announcements: AnnouncementObserver,
    /// The known shadow: `reported` as accepted last, and the version.
    known: Document,
    /// The known `desired`: as read after the connect, with every delta since.
    desired: Map<String, Value>,
    duty_cycle: DutyCycle,
    /// The time up to which the physics is computed.
    simulated_until: Instant,
    recorder: Arc<Recorder>,
    rng: SmallRng,
}

impl Device {
    /// Returns device number `number` of the fleet, switched off.
    pub(crate) fn new(
        id: DeviceId,
        number: u32,
        broker: &Broker,
        duty_cycle: DutyCycle,
        recorder: Arc<Recorder>,
        seed: u64,
    ) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let client = participant::connect(&id, broker, &recorder, false);
        Self {
            thermostat: Thermostat::new(number, Updater::new(FIRST_VERSION, INSTALL_SECONDS, 0.0), &mut rng),
            shadow: client.shadow(id.clone()),
            client,
            announcements: AnnouncementObserver::new(id.clone(), recorder.clone()),
            known: Document::default(),
            id,
            desired: Map::new(),
            duty_cycle,
            simulated_until: Instant::now(),
            recorder,
            rng,
        }
    }

    /// Runs from `start` until `rest` is set, then converges. Returns the final shadow, or the reason why there is none.
    ///
    /// # Errors
    ///
    /// The shadow could not be read.
    pub(crate) async fn run(mut self, start: Instant, mut rest: watch::Receiver<bool>) -> Result<Document, String> {
        sleep_until(start).await;
        self.simulated_until = Instant::now();
        let mut watch = self.shadow.watch(&[Topic::Delta, Topic::Accepted], EVENT_CAPACITY).await.map_err(text)?;
        self.read().await?;
        self.report(self.known.clone()).await;
        let mut next = Instant::now() + self.jittered();
        loop {
            tokio::select! {
                // Reports are never cancelled, so that their outcome is known.
                () = set(&mut rest) => break,
                event = watch.recv() => match event {
                    Some(event) => self.handle(event).await?,
                    None => return Err("the client is closed".into()),
                },
                () = sleep_until(next) => {
                    self.take_reading(&mut watch).await?;
                    next = (next + self.jittered()).max(Instant::now());
                }
            }
        }
        let last = self.converge(&mut watch).await;
        self.client.close().await;
        last
    }

    async fn take_reading(&mut self, watch: &mut Watch) -> Result<(), String> {
        while let Some(event) = watch.try_recv() {
            self.handle(event).await?;
        }
        let base = self.known.clone();
        sleep(READING_TIME_MAX.mul_f64(self.rng.random())).await;
        self.step();
        self.report(base).await;
        Ok(())
    }

    async fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Accepted(shadow, accepted) => {
                self.announcements.observe(&shadow, &accepted);
                self.known.version = self.known.version.max(accepted.version);
                return Ok(());
            }
            Event::Delta(_, delta) => {
                self.known.version = self.known.version.max(delta.version);
                // Repeated with every change until converged, also with this device's own reports.
                if delta.state.iter().all(|(field, value)| self.desired.get(field) == Some(value)) {
                    return Ok(());
                }
                self.recorder.counters.deltas.bump();
                let state = Value::Object(delta.state.clone());
                self.recorder.narrate(|| format!("{} got the delta {state} (version {})", self.id, delta.version));
                self.thermostat.apply(&delta.state);
                self.desired.extend(delta.state);
            }
            Event::Resumed => {
                self.announcements.reset();
                self.read().await?;
            }
            _ => return Ok(()),
        }
        self.step();
        self.report(self.known.clone()).await;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), String> {
        self.known = self.shadow.get().await.map_err(text)?;
        if let Some(desired) = self.known.desired() {
            self.thermostat.apply(desired);
            self.desired = desired.clone();
        }
        Ok(())
    }

    /// Reports the differences from the last report, first under the version of `base`.
    async fn report(&mut self, base: Document) {
        let report = self.thermostat.report();
        let changes = |known: &Document| {
            let patch = difference(known.reported(), &report);
            (!patch.is_empty()).then(|| json!({"reported": patch}))
        };
        let options = WriteOptions::default().based_on(base).without_precondition().rebase(self.duty_cycle.rebase);
        // The observer has recorded the failure.
        let Ok(outcome) = self.shadow.update_with(&options, changes).await else { return };
        if let Some(accepted) = outcome {
            self.known.version = self.known.version.max(accepted.version);
        }
        self.known.state.insert("reported".into(), Value::Object(report));
    }

    /// Advances the physics to the current time.
    fn step(&mut self) {
        let now = Instant::now();
        let passed = now.duration_since(self.simulated_until).as_secs_f64() * self.duty_cycle.speedup;
        self.thermostat.simulate(passed, &mut self.rng);
        self.simulated_until = now;
    }

    fn jittered(&mut self) -> Duration {
        self.duty_cycle.reading.mul_f64(self.rng.random_range(0.8..1.2))
    }

    /// Applies and reports until its fields have converged. Terminates: a device without anything left to report will not
    /// converge any further.
    async fn converge(&mut self, watch: &mut Watch) -> Result<Document, String> {
        self.wait_for_deltas(watch).await?;
        loop {
            self.read().await?;
            self.thermostat.finish_installing();
            let left = difference(self.known.reported(), &self.thermostat.report());
            if Oracle::unconverged_fields(&self.known, &OWNED).is_empty() || left.is_empty() {
                return Ok(self.known.clone());
            }
            self.report(self.known.clone()).await;
        }
    }

    /// Waits until deltas have delivered all of `desired`, before the device reads the shadow itself.
    async fn wait_for_deltas(&mut self, watch: &mut Watch) -> Result<(), String> {
        let deadline = Instant::now() + DELTA_DEADLINE;
        self.known = self.shadow.get().await.map_err(text)?;
        // Its node may be behind those of the writers, in a cluster.
        let newest = self.recorder.with_oracle(|oracle| oracle.newest(&self.id));
        while self.known.version < newest && Instant::now() < deadline {
            sleep(BEHIND_PAUSE).await;
            self.known = self.shadow.get().await.map_err(text)?;
        }
        while !self.undelivered().is_empty() {
            let Ok(Some(event)) = timeout_at(deadline, watch.recv()).await else {
                for field in self.undelivered() {
                    let (device, path) = (self.id.clone(), format!("/desired/{field}"));
                    self.recorder.add_violation(Violation::MissingDelta { device, version: self.known.version, path });
                }
                break;
            };
            self.handle(event).await?;
        }
        Ok(())
    }

    /// Returns the device's fields whose desired value no delta delivered.
    fn undelivered(&self) -> Vec<&'static str> {
        let mut fields = Oracle::unconverged_fields(&self.known, &OWNED);
        let desired = self.known.desired();
        fields.retain(|field| desired.and_then(|desired| desired.get(*field)) != self.desired.get(*field));
        fields
    }
}

/// Waits until the flag is set, or its sender is dropped.
async fn set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

fn text(error: umbra_client::Error) -> String {
    format!("{error:#}")
}

/// The duration of a firmware installation, simulated.
const INSTALL_SECONDS: f64 = 90.0;
/// Events that may wait while a report is under way.
const EVENT_CAPACITY: usize = 64;
/// The longest duration of a reading.
const READING_TIME_MAX: Duration = Duration::from_millis(300);
/// The pause before a shadow is read again from a node that is behind.
const BEHIND_PAUSE: Duration = Duration::from_millis(20);
/// The longest delay of a delta after the last write.
const DELTA_DEADLINE: Duration = Duration::from_secs(3);
