//! One simulated device: its firmware, its copy of the shadow, and its request to the service.
//!
//! Pure: events and the time go in, actions come out. Order after it comes online: read the shadow, obey `desired`, report
//! every difference. At most one report is under way. It carries an idempotency key, and is sent again unchanged, under
//! the same key, until its outcome is known; after a conflict the report is a new request under the current version.
//!
//! A power cut loses the copy of the shadow and the report under way, whose outcome then stays unknown. What the firmware
//! has in flash is kept.

use std::time::Duration;

use rand::{RngExt, rngs::SmallRng};
use serde_json::{Map, Value, json};
use umbra_client::{Accepted, Delta, DeviceId, Document, Rejection, Version, same_value};

use crate::{
    difference::{difference, merge},
    firmware::{Firmware, Input, Output},
    oracle::AcceptedUpdate,
    writers::Writes,
};

/// The schedule and the habits of a device. Times are of the clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    /// The time between two readings.
    pub(crate) every: Duration,
    /// The time for which it stays awake; `None` if it never sleeps.
    pub(crate) awake: Option<Duration>,
    /// The precondition of its reports.
    pub(crate) writes: Writes,
    /// The share of reports that are sent twice.
    pub(crate) duplicates: f64,
    /// The error of its clock in seconds, if it reports the time: its own, in seconds since the epoch at the beginning.
    pub(crate) clock: Option<f64>,
    /// Simulated seconds per second.
    pub(crate) speed: f64,
    /// Distinguishes the idempotency keys of this run from those of others.
    pub(crate) run: u64,
}

/// An event for a device.
#[derive(Debug)]
pub(crate) enum Event {
    /// The connection is up. `resumed`: unacknowledged messages are sent again by the session.
    Online { resumed: bool },
    /// The connection is down, or the device is switched off.
    Offline,
    /// The reply to a read.
    Read(Document),
    /// A read was rejected; the time to wait before the next one.
    ReadRejected(Option<Duration>),
    /// The difference that is left to make up, after an accepted update.
    Delta(Delta),
    /// An update of the shadow was accepted; the token is that of its sender.
    Accepted(Option<String>, Accepted),
    /// An update by the sender of the token was rejected.
    Rejected(Option<String>, Rejection),
    /// The time given as due has come.
    Tick,
    /// The power is lost for a time.
    PowerCut(Duration),
    /// The run ends: converge, and read the shadow a last time.
    Finish,
}

/// An action of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Read the shadow.
    Get,
    /// Publish an update.
    Update(String),
    /// Publish the same update again, as its outcome is not known.
    Again(String),
    /// Publish the same update a second time without a reason.
    Duplicate(String),
    /// Record an accepted update, and the time since it was sent first.
    Accepted(AcceptedUpdate, Duration),
    /// Record a conflict.
    Conflict,
    /// Record a request put off.
    Deferred,
    /// Record a final rejection.
    Refused(String),
    /// Record that the duplicate of the accepted update with a key was rejected.
    DuplicateRejected(String, String),
    /// Record an update whose outcome will never be known.
    Unknown,
    /// Record the effect of a command.
    Effect(String),
    /// Record that the device saw that it is asked to install this firmware.
    FirmwareAsked(String),
    /// Record that the device is about to report that it runs the firmware that it was asked to install.
    Running(String),
    /// Record a delta that the device applied.
    Obeyed(Value),
    /// The shadow at the end.
    Final(Document),
}

/// A simulated device.
pub(crate) struct Device {
    id: DeviceId,
    firmware: Box<dyn Firmware>,
    profile: Profile,
    rng: SmallRng,
    power: Power,
    online: bool,
    finishing: bool,
    finished: bool,
    /// The known shadow; `None` until it was read.
    known: Option<Known>,
    /// Its own changes of `desired` that are not accepted yet.
    desire: Map<String, Value>,
    pending: Option<Pending>,
    /// The firmware that it was asked to install last.
    asked: Option<String>,
    /// True until it has recorded that it runs that firmware.
    is_installing: bool,
    /// The key of the report accepted last, whose duplicate may still be answered.
    answered: Option<AcceptedUpdate>,
    answered_key: String,
    /// Reports so far.
    count: u64,
    next_reading: Duration,
    /// The time at which the shadow is read again, if no reply has come.
    read_again: Duration,
    simulated_until: Duration,
}

/// The power of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    /// Until a time, for a device that sleeps.
    Awake(Duration),
    Asleep,
    /// Until a time.
    Off(Duration),
}

#[derive(Debug, Clone)]
struct Known {
    version: Version,
    desired: Map<String, Value>,
    reported: Map<String, Value>,
}

/// A report under way.
struct Pending {
    key: String,
    body: String,
    state: Value,
    expected: Option<Version>,
    first_sent: Duration,
    /// The time at which it is sent again.
    again: Duration,
}

impl Device {
    /// Returns a device that is switched on at `start`.
    pub(crate) fn new(
        id: DeviceId,
        firmware: Box<dyn Firmware>,
        profile: Profile,
        start: Duration,
        rng: SmallRng,
    ) -> Self {
        Self {
            id,
            firmware,
            profile,
            rng,
            power: Power::Off(start),
            online: false,
            finishing: false,
            finished: false,
            known: None,
            desire: Map::new(),
            pending: None,
            asked: None,
            is_installing: false,
            answered: None,
            answered_key: String::new(),
            count: 0,
            next_reading: start,
            read_again: Duration::MAX,
            simulated_until: start,
        }
    }

    /// Returns its id.
    pub(crate) fn id(&self) -> &DeviceId {
        &self.id
    }

    /// Returns true if it uses its connection.
    pub(crate) fn is_awake(&self) -> bool {
        matches!(self.power, Power::Awake(_))
    }

    /// Returns true if it knows that it is connected.
    pub(crate) fn is_online(&self) -> bool {
        self.online
    }

    /// Returns the time at which it wants a [`Event::Tick`].
    pub(crate) fn due(&self) -> Duration {
        let sleeps_at = match self.power {
            Power::Off(until) => return until,
            Power::Asleep => return self.next_reading,
            Power::Awake(until) => until,
        };
        let sleeps_at = self.is_idle().then_some(sleeps_at);
        let busy = self.firmware.busy().map(|seconds| self.simulated_until + self.clocked(seconds));
        let again = self.pending.as_ref().filter(|_| self.online).map(|pending| pending.again);
        let read_again = self.online.then_some(self.read_again);
        let next = if self.finishing { Duration::MAX } else { self.next_reading };
        [busy, again, read_again, sleeps_at].into_iter().flatten().fold(next, Duration::min)
    }

    /// Takes an event at a time.
    pub(crate) fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Online { resumed } => self.came_online(resumed, now, &mut actions),
            Event::Offline => self.online = false,
            Event::Read(document) => self.read(document, now, &mut actions),
            Event::ReadRejected(wait) => self.read_again = now + wait.unwrap_or(RETRY),
            Event::Delta(delta) => self.obey(delta, now, &mut actions),
            Event::Accepted(token, accepted) => self.accepted(token.as_deref(), &accepted, now, &mut actions),
            Event::Rejected(token, rejection) => self.rejected(token.as_deref(), &rejection, now, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
            Event::PowerCut(outage) => self.power_cut(now + outage, &mut actions),
            Event::Finish => {
                self.finishing = true;
                self.power = Power::Awake(Duration::MAX);
                if self.online {
                    self.get(now, &mut actions);
                }
            }
        }
        actions
    }

    fn came_online(&mut self, resumed: bool, now: Duration, actions: &mut Vec<Action>) {
        self.online = true;
        self.stay_awake(now);
        self.get(now, actions);
        if let Some(pending) = &mut self.pending {
            pending.again = now + REPLY_DEADLINE;
            if !resumed {
                actions.push(Action::Again(pending.body.clone()));
            }
        }
    }

    fn get(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.read_again = now + REPLY_DEADLINE;
        actions.push(Action::Get);
    }

    fn read(&mut self, document: Document, now: Duration, actions: &mut Vec<Action>) {
        self.read_again = Duration::MAX;
        let section = |name: &str| document.section(name).cloned().unwrap_or_default();
        let (desired, reported) = (section("desired"), section("reported"));
        self.known = Some(Known { version: document.version, desired: desired.clone(), reported });
        self.see_firmware(&desired, actions);
        self.input(Input::Desired(&desired), actions);
        if self.finishing {
            self.input(Input::Finish, actions);
        }
        self.report(now, actions);
        // A device without anything left to report will not converge any further.
        if self.finishing && self.pending.is_none() && !std::mem::replace(&mut self.finished, true) {
            actions.push(Action::Final(document));
        }
    }

    fn obey(&mut self, delta: Delta, now: Duration, actions: &mut Vec<Action>) {
        let Some(known) = &mut self.known else { return };
        known.version = known.version.max(delta.version);
        // A delta leaves out the parts of an object that are reported already.
        let mut desired = known.reported.clone();
        desired.retain(|field, _| delta.state.contains_key(field));
        merge(&mut desired, &delta.state);
        let is_known =
            |(field, value): (&String, &Value)| known.desired.get(field).is_some_and(|k| same_value(k, value));
        if desired.iter().all(is_known) {
            return;
        }
        known.desired.extend(desired.clone());
        actions.push(Action::Obeyed(Value::Object(delta.state)));
        self.elapse(now, actions);
        self.see_firmware(&desired, actions);
        self.input(Input::Desired(&desired), actions);
        self.report(now, actions);
    }

    fn accepted(&mut self, token: Option<&str>, accepted: &Accepted, now: Duration, actions: &mut Vec<Action>) {
        if let Some(known) = &mut self.known {
            known.version = known.version.max(accepted.version);
        }
        if let Some(pending) = self.pending.take_if(|pending| token == Some(&pending.key)) {
            let update = AcceptedUpdate {
                writer: self.id.clone(),
                key: Some(pending.key.clone()),
                replayed: accepted.replayed,
                expected: pending.expected,
                rebased: accepted.rebased_from.is_some(),
                version: accepted.version,
                changed: accepted.changed,
                state: pending.state,
            };
            self.merge(&update.state);
            let took = now.saturating_sub(pending.first_sent);
            (self.answered, self.answered_key) = (Some(update.clone()), pending.key);
            actions.push(Action::Accepted(update, took));
            self.report(now, actions);
            if self.finishing && self.pending.is_none() {
                self.get(now, actions);
            }
        } else if let Some(answered) = &self.answered
            && token == Some(&self.answered_key)
        {
            // The duplicate of a report that was answered before.
            let Accepted { version, changed, replayed, .. } = *accepted;
            let update = AcceptedUpdate { version, changed, replayed, ..answered.clone() };
            actions.push(Action::Accepted(update, Duration::ZERO));
        }
    }

    fn rejected(&mut self, token: Option<&str>, rejection: &Rejection, now: Duration, actions: &mut Vec<Action>) {
        if self.answered.is_some() && token == Some(&self.answered_key) && !is_later(rejection) {
            actions.push(Action::DuplicateRejected(self.answered_key.clone(), rejection.to_string()));
            return;
        }
        let Some(pending) = self.pending.as_mut().filter(|pending| token == Some(&pending.key)) else { return };
        if is_later(rejection) {
            pending.again = now + rejection.retry_after().unwrap_or(RETRY);
            actions.push(Action::Deferred);
            return;
        }
        self.pending = None;
        if !rejection.is_conflict() {
            actions.push(Action::Refused(rejection.to_string()));
            if self.finishing {
                self.get(now, actions);
            }
            return;
        }
        actions.push(Action::Conflict);
        match (&mut self.known, rejection.version) {
            // `reported` is the device's alone: the same report under the current version.
            (Some(known), Some(version)) if self.desire.is_empty() => {
                known.version = known.version.max(version);
                self.report(now, actions);
            }
            _ => self.get(now, actions),
        }
    }

    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        match self.power {
            Power::Off(until) if now >= until => self.switch_on(now),
            Power::Asleep if now >= self.next_reading => self.switch_on(now),
            Power::Awake(until) if now >= until && self.is_idle() => self.power = Power::Asleep,
            _ => {}
        }
        if !self.is_awake() {
            return;
        }
        let busy = self.firmware.busy().is_some_and(|seconds| now >= self.simulated_until + self.clocked(seconds));
        let reads = !self.finishing && now >= self.next_reading;
        if reads || busy {
            self.elapse(now, actions);
        }
        if reads {
            self.next_reading = now + self.profile.every.mul_f64(self.rng.random_range(0.8..1.2));
            self.stay_awake(now);
        }
        if let Some(pending) = self.pending.as_mut().filter(|pending| self.online && now >= pending.again) {
            pending.again = now + REPLY_DEADLINE;
            actions.push(Action::Again(pending.body.clone()));
        }
        if self.online && now >= self.read_again {
            self.get(now, actions);
        }
        self.report(now, actions);
    }

    fn switch_on(&mut self, now: Duration) {
        self.stay_awake(now);
        self.next_reading = now;
    }

    /// Stays awake for its time from when it is online; a device that does not come online sleeps again.
    fn stay_awake(&mut self, now: Duration) {
        let until = match self.profile.awake {
            Some(awake) if !self.finishing => now + if self.online { awake } else { awake.max(CONNECTS) },
            _ => Duration::MAX,
        };
        self.power = Power::Awake(until);
    }

    /// Returns true if nothing is under way that keeps it from sleeping.
    fn is_idle(&self) -> bool {
        self.known.is_some() && self.pending.is_none() && self.firmware.busy().is_none()
    }

    fn power_cut(&mut self, until: Duration, actions: &mut Vec<Action>) {
        (self.known, self.online, self.power) = (None, false, Power::Off(until));
        self.desire.clear();
        if self.pending.take().is_some() {
            actions.push(Action::Unknown);
        }
        self.answered = None;
        self.input(Input::PowerCut, actions);
    }

    /// Advances the firmware to the current time.
    fn elapse(&mut self, now: Duration, actions: &mut Vec<Action>) {
        // Rounding up lets something under way end when it is due.
        let passed = (now.saturating_sub(self.simulated_until) + Duration::from_micros(1)).as_secs_f64();
        self.simulated_until = now.max(self.simulated_until);
        self.input(Input::Elapsed(passed * self.profile.speed), actions);
    }

    /// Records the firmware in `desired`, if it is another one than before.
    fn see_firmware(&mut self, desired: &Map<String, Value>, actions: &mut Vec<Action>) {
        let Some(firmware) = desired.get("firmware").and_then(Value::as_str) else { return };
        if self.asked.as_deref() != Some(firmware) {
            (self.asked, self.is_installing) = (Some(firmware.to_owned()), true);
            actions.push(Action::FirmwareAsked(firmware.to_owned()));
        }
    }

    fn input(&mut self, input: Input<'_>, actions: &mut Vec<Action>) {
        for output in self.firmware.step(input, &mut self.rng) {
            match output {
                Output::Effect(command) => actions.push(Action::Effect(command)),
                Output::Desire(fields) => self.desire.extend(fields),
            }
        }
    }

    /// Reports every difference from the known shadow, if there is one and no report is under way.
    fn report(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(known) = self.known.as_ref().filter(|_| self.online && self.pending.is_none()) else { return };
        let report = self.firmware.report();
        if self.is_installing && self.asked.as_deref() == report.get("firmware").and_then(Value::as_str) {
            self.is_installing = false;
            actions.extend(self.asked.clone().map(Action::Running));
        }
        let mut reported = difference(Some(&known.reported), &report);
        let desire = difference(Some(&known.desired), &self.desire);
        if reported.is_empty() && desire.is_empty() {
            return;
        }
        if let Some(clock) = self.profile.clock {
            let time = (clock + now.as_secs_f64() * self.profile.speed).floor();
            reported.insert("measured".into(), json!(time));
        }
        let mut state = json!({"reported": reported});
        if let Some(sections) = state.as_object_mut().filter(|_| !desire.is_empty()) {
            sections.insert("desired".into(), Value::Object(desire));
        }
        self.count += 1;
        let key = format!("{:x}-{}", self.profile.run, self.count);
        let expected = (self.profile.writes != Writes::Unconditional).then_some(known.version);
        let mut body = json!({"state": state, "idempotencyKey": key, "clientToken": key, "metadata": false});
        if let (Some(body), Some(version)) = (body.as_object_mut(), expected) {
            body.insert("version".into(), json!(version));
            // A creation has no version to rebase.
            if self.profile.writes == Writes::Rebase && version > Version(0) {
                body.insert("onConflict".into(), json!("rebase"));
            }
        }
        let body = body.to_string();
        actions.push(Action::Update(body.clone()));
        if self.rng.random_bool(self.profile.duplicates) {
            actions.push(Action::Duplicate(body.clone()));
        }
        self.pending = Some(Pending { key, body, state, expected, first_sent: now, again: now + REPLY_DEADLINE });
    }

    /// Merges an accepted report into the known shadow.
    fn merge(&mut self, state: &Value) {
        let Some(known) = &mut self.known else { return };
        for (section, target) in [("reported", &mut known.reported), ("desired", &mut known.desired)] {
            if let Some(sent) = state.get(section).and_then(Value::as_object) {
                merge(target, sent);
            }
        }
        let accepted = &known.desired;
        self.desire.retain(|field, value| !accepted.get(field).is_some_and(|known| same_value(known, value)));
    }

    /// Returns the time of the clock that simulated seconds take.
    fn clocked(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds / self.profile.speed)
    }
}

/// Returns true if the same request may be sent again.
fn is_later(rejection: &Rejection) -> bool {
    rejection.code == 429 || rejection.code >= 500
}

/// The time without a reply after which a report is sent again.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);
/// The least time that a device tries to come online.
const CONNECTS: Duration = Duration::from_secs(3);
/// The time until a report is sent again that the service asked to send later.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
