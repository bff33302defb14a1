//! One connection of the simulated fleet, with the devices that it serves: one, or those behind a gateway.
//!
//! The only place of the scenario with sockets. It passes packets to the [`Session`] and events to the [`Device`]s, and
//! carries out the faults of its [`Schedule`]. Order of a turn: faults that are due, ticks that are due, connect or
//! disconnect, output; then it waits for input or for the next thing due.
//!
//! A half-open connection is one that nobody reads or writes any more. Its socket is kept open until the next one is up, so
//! that the service learns of it from its keep-alive or from the takeover of the session, as with a radio out of reach.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rand::{RngExt, rngs::SmallRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use umbra_client::{DeviceId, Document, Rejection, ShadowId};

use super::{
    device::{Action, Device, Event},
    file::Group,
    schedule::{Fault, Schedule, ScheduledFault},
    session::{Incoming, KEEP_ALIVE, Session},
    socket::{Endpoint, Socket},
};
use crate::{oracle::Violation, participant::AnnouncementObserver, report::Recorder};

/// The clock of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// The beginning.
    pub(crate) start: Instant,
    /// Simulated seconds per second.
    pub(crate) speed: f64,
}

impl Clock {
    /// Returns the time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the instant of a time; a far one for a time that never comes.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.start + time.min(FAR)
    }
}

/// A connection and its devices.
pub(crate) struct Connection {
    session: Session,
    link: Link,
    /// Kept open without use.
    half_open: Option<Box<dyn Socket>>,
    devices: Vec<Device>,
    index: HashMap<DeviceId, usize>,
    /// True for a gateway, which stays connected while its devices sleep.
    is_gateway: bool,
    loses_connack: bool,
    failures: u32,
    next_ping: Duration,
    /// The time by which the service must have sent something.
    answer_by: Duration,
    was_up: bool,
    /// The session was resumed, and the devices do not know it yet.
    resumed: bool,
    schedule: Schedule,
    finishing: bool,
    /// Devices whose final shadow is not known yet.
    unfinished: usize,
    announcements: AnnouncementObserver,
    run: Run,
    rng: SmallRng,
}

/// Everything that the connections of a run share.
#[derive(Clone)]
pub(crate) struct Run {
    /// The service.
    pub(crate) endpoint: Arc<Endpoint>,
    /// The records.
    pub(crate) recorder: Arc<Recorder>,
    /// The clock.
    pub(crate) clock: Clock,
    /// The receiver of the final shadows.
    pub(crate) finals: mpsc::UnboundedSender<(DeviceId, Document)>,
}

enum Link {
    /// Until a time.
    Down(Duration),
    Open(Box<dyn Socket>),
    /// Until a time.
    HalfOpen(Duration),
}

impl Connection {
    /// Returns the connection of the client `name`, with its devices.
    pub(crate) fn new(
        name: &DeviceId,
        devices: Vec<Device>,
        group: &Group,
        schedule: Schedule,
        run: Run,
        rng: SmallRng,
    ) -> Self {
        let filters = devices.iter().flat_map(|device| {
            let id = device.id();
            SUFFIXES.map(|suffix| format!("shadow/{id}/{suffix}"))
        });
        let start = devices.iter().map(Device::due).min().unwrap_or_default();
        Self {
            session: Session::new(name.as_str(), run.endpoint.credentials(), filters.collect(), group.persistent),
            link: Link::Down(start),
            half_open: None,
            index: devices.iter().enumerate().map(|(index, device)| (device.id().clone(), index)).collect(),
            is_gateway: devices.len() > 1,
            loses_connack: false,
            failures: 0,
            next_ping: Duration::MAX,
            answer_by: Duration::MAX,
            was_up: false,
            resumed: false,
            schedule,
            finishing: false,
            unfinished: devices.len(),
            devices,
            announcements: AnnouncementObserver::with_session(name.clone(), group.persistent, run.recorder.clone()),
            run,
            rng,
        }
    }

    /// Runs until `finish` is set and all devices have converged.
    pub(crate) async fn run(mut self, mut finish: watch::Receiver<bool>) {
        let mut buffer = vec![0; READ_BYTES];
        while self.unfinished > 0 {
            self.advance().await;
            self.flush().await;
            let due = self.run.clock.instant(self.due());
            let (link, finishing) = (&mut self.link, self.finishing);
            tokio::select! {
                _ = finish.wait_for(|finish| *finish), if !finishing => self.finish(),
                read = read(link, &mut buffer) => self.received(read.map(|count| buffer.get(..count).unwrap_or_default())),
                () = sleep_until(due) => {}
            }
        }
        if matches!(self.link, Link::Open(_)) {
            self.session.disconnect();
            self.flush().await;
        }
        self.count_resent();
    }

    /// Returns the time of the next thing to do.
    fn due(&self) -> Duration {
        let devices = self.devices.iter().map(Device::due).min().unwrap_or(Duration::MAX);
        let schedule = if self.finishing { Duration::MAX } else { self.schedule.due(self.run.clock.speed) };
        let link = match self.link {
            Link::Down(until) if self.wants_connection() => until,
            Link::HalfOpen(until) => until,
            Link::Open(_) => self.next_ping.min(self.answer_by),
            Link::Down(_) => Duration::MAX,
        };
        devices.min(schedule).min(link)
    }

    fn wants_connection(&self) -> bool {
        self.is_gateway || self.devices.iter().any(Device::is_awake)
    }

    async fn advance(&mut self) {
        let now = self.run.clock.now();
        while !self.finishing && self.schedule.due(self.run.clock.speed) <= now {
            if let Some(fault) = self.schedule.next() {
                self.inflict(fault, now);
            }
        }
        if matches!(self.link, Link::HalfOpen(until) if until <= now) {
            self.lost(now);
        }
        for index in 0..self.devices.len() {
            if self.devices.get(index).is_some_and(|device| device.due() <= now) {
                self.step(index, Event::Tick);
            }
        }
        match &self.link {
            Link::Down(until) if *until <= now && self.wants_connection() => self.connect().await,
            Link::Open(_) if !self.wants_connection() => {
                self.session.disconnect();
                self.flush().await;
                self.lost(now);
            }
            Link::Open(_) if self.answer_by <= now => {
                self.run.recorder.counters.lost_connections.bump();
                self.retry(now);
            }
            Link::Open(_) if self.next_ping <= now => {
                self.session.ping();
                (self.next_ping, self.answer_by) = (now + Duration::from_secs(KEEP_ALIVE.into()), now + ANSWER);
            }
            _ => {}
        }
        self.notify_devices();
    }

    /// Carries out a fault.
    fn inflict(&mut self, ScheduledFault { fault, outage, .. }: ScheduledFault, now: Duration) {
        let outage = outage.at_speed(self.run.clock.speed);
        let faults = &self.run.recorder.counters.faults;
        match fault {
            Fault::Reset | Fault::LostConnack => {
                faults.resets.bump();
                self.loses_connack |= fault == Fault::LostConnack;
                self.lost(now + outage);
            }
            Fault::HalfOpen => {
                if let Link::Open(socket) = std::mem::replace(&mut self.link, Link::HalfOpen(now + outage)) {
                    faults.half_open.bump();
                    self.half_open = Some(socket);
                }
            }
            Fault::PowerCut(device) => {
                faults.power_cuts.bump();
                if !self.is_gateway {
                    self.lost(now);
                    self.session.forget();
                }
                self.step(device, Event::PowerCut(outage));
            }
        }
    }

    /// Records the end of the connection. The next one is opened at `again`.
    fn lost(&mut self, again: Duration) {
        self.link = Link::Down(again);
        self.session.lost();
        self.announcements.reset();
        self.notify_devices();
    }

    async fn connect(&mut self) {
        let loses_connack = std::mem::take(&mut self.loses_connack);
        self.session.connect();
        let opened = match self.run.endpoint.dial().await {
            Err(_) => None,
            Ok(mut socket) => {
                let connect = self.session.take_output();
                let sent = timeout(WRITE, socket.write_all(&connect)).await;
                matches!(sent, Ok(Ok(()))).then_some(socket)
            }
        };
        let now = self.run.clock.now();
        match opened {
            Some(mut socket) if loses_connack => {
                // The service has accepted the connection, and the device never learns of it.
                let _ = timeout(WRITE, socket.read_u8()).await;
                self.run.recorder.counters.faults.lost_connacks.bump();
                self.lost(self.run.clock.now());
            }
            Some(socket) => {
                self.link = Link::Open(socket);
                (self.next_ping, self.answer_by) = (now + Duration::from_secs(KEEP_ALIVE.into()), now + ANSWER);
            }
            None => self.retry(now),
        }
    }

    /// Connects again later: after a growing wait.
    fn retry(&mut self, now: Duration) {
        self.failures = (self.failures + 1).min(5);
        let wait = RETRY.mul_f64(f64::from(1_u32 << self.failures) * self.rng.random_range(0.5..1.0));
        self.lost(now + wait);
    }

    fn received(&mut self, read: std::io::Result<&[u8]>) {
        let now = self.run.clock.now();
        let bytes = match read {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => {
                self.run.recorder.counters.lost_connections.bump();
                return self.retry(now);
            }
        };
        match self.session.receive(bytes) {
            Ok(incoming) => incoming.into_iter().for_each(|incoming| self.incoming(incoming)),
            Err(error) => {
                let name = self.devices.first().map(|device| device.id().as_str()).unwrap_or_default();
                self.run.recorder.narrate(|| format!("the connection of {name} ended: {error}"));
                self.run.recorder.counters.lost_connections.bump();
                return self.retry(now);
            }
        }
        if self.session.is_up() {
            self.answer_by = Duration::MAX;
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Up { resumed } => {
                if !std::mem::replace(&mut self.was_up, true) {
                    self.run.recorder.counters.connected.bump();
                }
                (self.failures, self.half_open, self.resumed) = (0, None, resumed);
                self.notify_devices();
                self.resumed = false;
            }
            Incoming::Message { topic, payload } => {
                if let Some((index, event)) = self.event(&topic, &payload) {
                    self.step(index, event);
                }
            }
        }
    }

    /// Returns the event that a message is, and its device.
    fn event(&mut self, topic: &str, payload: &[u8]) -> Option<(usize, Event)> {
        let (id, suffix) = topic.strip_prefix("shadow/")?.split_once('/')?;
        let index = *self.index.get(&DeviceId::new(id).ok()?)?;
        let Ok(message) = serde_json::from_slice::<Value>(payload) else {
            self.run.recorder.log(&format!("a message on {topic} is not JSON"));
            return None;
        };
        let token = message.get("clientToken").and_then(Value::as_str).map(str::to_owned);
        // A read by another client is answered on the same topics.
        let is_own_read = token.as_deref() == Some(READ_TOKEN);
        let event = match suffix {
            "update/delta" => Event::Delta(self.parse(topic, message)?),
            "update/accepted" => Event::Accepted(token, self.parse(topic, message)?),
            "update/rejected" => Event::Rejected(token, Rejection::from_reply(&message)?),
            "get/accepted" if is_own_read => Event::Read(self.parse(topic, message)?),
            "get/rejected" if is_own_read => match Rejection::from_reply(&message)? {
                Rejection { code: 404, .. } => Event::Read(Document::default()),
                rejection => Event::ReadRejected(rejection.retry_after()),
            },
            _ => return None,
        };
        if let (Event::Accepted(_, accepted), Ok(device)) = (&event, DeviceId::new(id)) {
            self.announcements.observe(&ShadowId::classic(device), accepted);
        }
        Some((index, event))
    }

    fn parse<T: DeserializeOwned>(&self, topic: &str, message: Value) -> Option<T> {
        let parsed = serde_json::from_value(message);
        parsed.inspect_err(|error| self.run.recorder.log(&format!("a message on {topic}: {error}"))).ok()
    }

    /// Reports the state of the connection to the devices that do not know it.
    fn notify_devices(&mut self) {
        let (up, resumed) = (self.session.is_up(), self.resumed);
        for index in 0..self.devices.len() {
            let Some(device) = self.devices.get(index) else { return };
            match up && device.is_awake() {
                true if !device.is_online() => self.step(index, Event::Online { resumed }),
                false if device.is_online() => self.step(index, Event::Offline),
                _ => {}
            }
        }
    }

    fn finish(&mut self) {
        self.finishing = true;
        let now = self.run.clock.now();
        // The network is repaired.
        if let Link::Down(until) | Link::HalfOpen(until) = &mut self.link {
            *until = now.min(*until);
        }
        for index in 0..self.devices.len() {
            self.step(index, Event::Finish);
        }
    }

    /// Passes an event to a device and carries out its actions. A device that is off or asleep hears nothing.
    fn step(&mut self, index: usize, event: Event) {
        let Some(device) = self.devices.get_mut(index) else { return };
        let is_message =
            !matches!(event, Event::Online { .. } | Event::Offline | Event::Tick | Event::PowerCut(_) | Event::Finish);
        if is_message && !device.is_online() {
            return;
        }
        let actions = device.step(event, self.run.clock.now());
        let id = device.id().clone();
        for action in actions {
            self.act(&id, action);
        }
    }

    fn act(&mut self, id: &DeviceId, action: Action) {
        let recorder = &self.run.recorder;
        let counters = &recorder.counters;
        match action {
            Action::Get => {
                let body = json!({"clientToken": READ_TOKEN, "metadata": self.finishing}).to_string();
                self.session.publish(format!("shadow/{id}/get"), body);
            }
            Action::Update(body) => {
                counters.updates.bump();
                self.session.publish(format!("shadow/{id}/update"), body);
            }
            Action::Again(body) => {
                counters.retries.bump();
                self.session.publish(format!("shadow/{id}/update"), body);
            }
            Action::Duplicate(body) => {
                counters.faults.duplicates.bump();
                self.session.publish(format!("shadow/{id}/update"), body);
            }
            Action::Accepted(update, took) => recorder.accepted(id, update, took, took),
            Action::Conflict => counters.conflicts.bump(),
            Action::Deferred => counters.deferred.bump(),
            Action::Refused(rejection) => {
                counters.refused.bump();
                recorder.log(&format!("{id} was refused: {rejection}"));
            }
            Action::DuplicateRejected(key, rejection) => {
                recorder.add_violation(Violation::KeyForgotten { device: id.clone(), key, rejection });
            }
            Action::Unknown => {
                counters.unanswered.bump();
                recorder.unknown(id);
            }
            Action::Effect(command) => recorder.effect(id, &command),
            Action::FirmwareAsked(firmware) => recorder.firmware_asked(id, &firmware),
            Action::Running(firmware) => recorder.firmware_running(id, &firmware),
            Action::Obeyed(state) => {
                counters.deltas.bump();
                recorder.narrate(|| format!("{id} got the delta {state}"));
            }
            Action::Final(document) => {
                self.unfinished -= 1;
                let _ = self.run.finals.send((id.clone(), document));
            }
        }
    }

    async fn flush(&mut self) {
        let output = self.session.take_output();
        if output.is_empty() {
            return;
        }
        // Nobody sends what a half-open connection has taken.
        if let Link::Open(socket) = &mut self.link
            && !matches!(timeout(WRITE, socket.write_all(&output)).await, Ok(Ok(())))
        {
            self.run.recorder.counters.lost_connections.bump();
            self.retry(self.run.clock.now());
        }
    }

    fn count_resent(&self) {
        self.run.recorder.counters.faults.resent.add(self.session.resent());
    }
}

/// Reads from an open link; from no other link anything comes.
async fn read(link: &mut Link, buffer: &mut [u8]) -> std::io::Result<usize> {
    match link {
        Link::Open(socket) => socket.read(buffer).await,
        Link::Down(_) | Link::HalfOpen(_) => std::future::pending().await,
    }
}

/// The topics of each device.
const SUFFIXES: [&str; 5] = ["update/delta", "update/accepted", "update/rejected", "get/accepted", "get/rejected"];
const READ_TOKEN: &str = "read";
const READ_BYTES: usize = 4 * 1024;
const WRITE: Duration = Duration::from_secs(5);
/// The longest wait for CONNACK and PINGRESP.
const ANSWER: Duration = Duration::from_secs(10);
/// The first wait between two attempts to connect is up to twice this; it doubles four times.
const RETRY: Duration = Duration::from_millis(200);
/// Ten years: a time that no run reaches.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
