//! The way of rollouts to the log of a cluster, and back.
//!
//! The commands of clients and the reports of the driver are broadcast, and every node applies them in the order of the log
//! ([`super::applying`]). Whoever sent one waits until this node has applied it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    admission::Quotas,
    auth::Authority,
    engine::{self, EncodedRequest, LogRequests, RequestRoom, answered_in_time, nonce},
    fleet::{Rollout, rollout::Head},
    rollouts::{
        NewRollout, Refused, RolloutController, Rollouts, Slot,
        actor::Actor,
        event::{self, Event, Message},
        overlap::Compared,
        restoring::forbidden,
        rows::{self, HeadRow, IDS_PER_ROW, text_of},
    },
    shadow::DeviceId,
    store::RowEdit,
};

/// Random bits in the number of a rollout, behind the time of its creation in milliseconds.
const RANDOM_BITS: u32 = 22;
/// Parts of a rollout that is being created that wait for the log at a time.
const PARTS_UNDER_WAY: usize = 8;
/// The time between two writes of the running time, of which a crash forgets no more than that.
pub(super) const CLOCK_INTERVAL: Duration = Duration::from_secs(10);
/// The longest time without a record of it by which the time of the cluster goes on. Without the log it stands still, since no device can
/// succeed then.
const AHEAD_MAX: Duration = CLOCK_INTERVAL.saturating_mul(2);

/// The log of a cluster, for its rollouts.
pub(super) struct RolloutLog {
    pub(super) authority: Arc<Authority>,
    pub(super) quotas: Arc<Quotas>,
    /// The requests of clients, and the reports of this node.
    requests: LogRequests<Answer>,
    reports: LogRequests<Answer>,
    /// The time for which the cluster has run, as the log had it last, and when this node applied that.
    pub(super) time: Mutex<(u64, Instant)>,
}

/// The answer to an event.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was applied.
    Done,
    /// Nothing was done: the rollout is still to be compared with others, or was given a command that the sender did not know.
    Lacking,
    /// Nothing was done: another node is the driver.
    Void,
    /// It was refused.
    Refused(Refused),
}

/// The answer to an event that was sent.
pub(super) type PendingAnswer = engine::PendingAnswer<Answer>;

impl RolloutLog {
    pub(super) fn new(
        authority: &Arc<Authority>,
        quotas: &Arc<Quotas>,
        room: &Arc<RequestRoom>,
        running_ms: u64,
    ) -> Self {
        Self {
            authority: authority.clone(),
            quotas: quotas.clone(),
            requests: LogRequests::new(room.clone()),
            reports: LogRequests::new(Arc::default()),
            time: Mutex::new((running_ms, Instant::now())),
        }
    }

    /// Returns the requests of this node that have such an event.
    pub(super) fn senders_of(&self, event: &Event) -> &LogRequests<Answer> {
        if event.is_of_client() { &self.requests } else { &self.reports }
    }

    /// Ends all waits, when the server ends.
    pub(super) fn close(&self) {
        self.requests.close();
        self.reports.close();
    }

    /// Returns the time for which the cluster has run.
    pub(super) fn running_ms(&self) -> u64 {
        let (ms, at) = *self.time.lock();
        ms.saturating_add(u64::try_from(at.elapsed().min(AHEAD_MAX).as_millis()).unwrap_or(u64::MAX))
    }
}

/// A rollout that is to be created in a cluster.
pub(super) struct Draft {
    number: u64,
    head: Box<HeadRow>,
    devices: Vec<DeviceId>,
    forbidden: Vec<usize>,
    is_sent: bool,
}

impl Draft {
    /// Returns the draft of a rollout of `actor`, in which the devices that are not `permitted` are skipped.
    pub(super) fn new(
        controller: &RolloutController,
        actor: &Actor,
        new: NewRollout,
        permitted: &HashSet<DeviceId>,
    ) -> Self {
        let NewRollout { id, is_bulk, description, spec, devices } = new;
        let Head { state, reason, wave, planned, .. } = Rollout::new(spec, devices.clone()).head().clone();
        let head = HeadRow {
            id,
            nonce: nonce(),
            bulk: is_bulk,
            created_by: actor.principal().name().clone(),
            created_at: controller.now().0,
            updated_at: controller.now().0,
            login: actor.login().record(),
            restorer: None,
            spec: description,
            state,
            reason,
            wave,
            planned,
            commands: 0,
            rollbacks: 0,
        };
        let forbidden = forbidden(&devices, permitted);
        let random = nonce() >> (u64::BITS - RANDOM_BITS);
        let number = (controller.service().now_milliseconds() << RANDOM_BITS) | random;
        Self { number, head: Box::new(head), devices, forbidden, is_sent: false }
    }

    /// Returns the id.
    pub(super) fn id(&self) -> &Arc<str> {
        &self.head.id
    }
}

impl Rollouts {
    /// Returns the number of the driver.
    pub(super) fn driver(&self) -> u64 {
        self.registry.lock().driver
    }

    /// Returns the created rollout of a draft, once this node has applied it.
    pub(super) fn of_draft(&self, draft: &Draft) -> Option<Arc<Slot>> {
        self.registry.lock().numbered(draft.number).cloned()
    }
}

impl RolloutController {
    /// Sends an event, when there is room for it: one of the driver, or what the principal `by` asks for.
    async fn send(&self, number: u64, driver: u64, event: Event, by: Option<&Arc<str>>) -> Option<PendingAnswer> {
        let log = self.rollouts.log.as_ref()?;
        let message = self.message(number, driver, event);
        let bytes = message.encode();
        Some(log.senders_of(&message.event).send(self.service(), request(&message, &bytes, by)).await)
    }

    /// Sends an event of this node, if there is room for it.
    pub(super) fn send_now(&self, number: u64, driver: u64, event: Event) -> Option<PendingAnswer> {
        let message = self.message(number, driver, event);
        let bytes = message.encode();
        self.rollouts.log.as_ref()?.senders_of(&message.event).try_send(self.service(), request(&message, &bytes, None))
    }

    fn message(&self, number: u64, driver: u64, event: Event) -> Message {
        Message { number, request: nonce(), driver, moment: self.moment(), event }
    }

    /// Sends an event of the driver, and waits for what it came to.
    pub(super) async fn report(&self, number: u64, driver: u64, event: Event) -> Answer {
        match self.send(number, driver, event, None).await {
            Some(pending) => pending.wait().await.unwrap_or(Answer::Void),
            None => Answer::Void,
        }
    }

    /// Sends what `actor` asks for. Returns true if it was done, and false if it is to be asked for again: the rollout is still to be compared
    /// with others, or was given a command that this node did not know.
    ///
    /// # Errors
    ///
    /// [`Refused::Unconfirmed`] if the log does not have it in time, or the reason of the refusal.
    pub(super) async fn request(&self, actor: &Actor, number: u64, event: Event) -> Result<bool, Refused> {
        let log = self.rollouts.log.as_ref().ok_or(Refused::Unconfirmed)?;
        let message = self.message(number, 0, event);
        let (bytes, by) = (message.encode(), actor.principal().name());
        done(log.requests.ask(self.service(), request(&message, &bytes, Some(by))).await)
    }

    /// Sends the command that `event` makes of the number of those before it, again while others came first that this node did not know.
    ///
    /// # Errors
    ///
    /// As of [`RolloutController::request`].
    pub(super) async fn command(
        &self,
        actor: &Actor,
        slot: &Slot,
        event: impl Fn(u64) -> Event + Send,
    ) -> Result<(), Refused> {
        while !self.request(actor, slot.number, event(slot.commands())).await? {}
        Ok(())
    }

    /// Creates the rollout of a draft in the log, as [`RolloutController::request`] does.
    pub(super) async fn publish(&self, actor: &Actor, draft: &mut Draft, compared: &Compared) -> Result<bool, Refused> {
        if !std::mem::replace(&mut draft.is_sent, true) {
            self.send_parts(actor, draft).await?;
        }
        let (head, count, compared) = (draft.head.clone(), draft.devices.len(), compared.clone());
        self.request(actor, draft.number, Event::Created { head, count, compared }).await
    }

    /// Sends the devices of a draft, some parts at a time, so that they leave room for others.
    async fn send_parts(&self, actor: &Actor, draft: &Draft) -> Result<(), Refused> {
        let (by, mut pending) = (actor.principal().name(), VecDeque::new());
        for (part, ids) in draft.devices.chunks(IDS_PER_ROW).enumerate() {
            if pending.len() == PARTS_UNDER_WAY {
                taken(pending.pop_front()).await?;
            }
            let from = part * IDS_PER_ROW;
            let range = from..from + ids.len();
            let forbidden = draft.forbidden.iter().copied().filter(|index| range.contains(index)).collect();
            let event = Event::Part { by: by.clone(), from, ids: text_of(ids.iter()), forbidden };
            let sent = answered_in_time(self.send(draft.number, 0, event, Some(by))).await;
            pending.push_back(sent.ok_or(Refused::Unconfirmed)?);
        }
        while !pending.is_empty() {
            taken(pending.pop_front()).await?;
        }
        Ok(())
    }

    /// Has the devices of a draft that is not created removed from the log.
    pub(super) fn withdraw(&self, draft: &Draft) {
        if draft.is_sent {
            // If it comes to nothing, they are removed some minutes later.
            let _nobody_waits = self.send_now(draft.number, 0, Event::Withdrawn);
        }
    }

    /// Has the devices `found` join the rollout, as far as a record has room for them. Returns false if it is still to be compared with
    /// others. The others are found again.
    pub(super) async fn report_joined(
        &self,
        slot: &Slot,
        driver: u64,
        found: &[DeviceId],
        compared: &Compared,
    ) -> bool {
        let mut parts: Vec<_> = found.chunks(IDS_PER_ROW).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for part in parts {
            let from = slot.read(|rollout, _| rollout.devices().len());
            let event = Event::Joined { from, ids: text_of(part.iter()), compared: compared.clone() };
            match self.report(slot.number, driver, event).await {
                Answer::Done => {}
                Answer::Lacking => return false,
                Answer::Void | Answer::Refused(_) => return true,
            }
        }
        true
    }
}

/// Returns a message as the log takes it. It is withdrawn if the log is away for long, except for what the driver has to report, which
/// stays true.
fn request<'a>(message: &Message, bytes: &'a Bytes, by: Option<&'a Arc<str>>) -> EncodedRequest<'a> {
    EncodedRequest { number: message.request, bytes, by, may_expire: message.driver == 0 }
}

/// Waits for the answer to a part of a rollout that is being created.
async fn taken(pending: Option<PendingAnswer>) -> Result<(), Refused> {
    let Some(pending) = pending else { return Ok(()) };
    done(answered_in_time(pending.wait()).await).map(|_| ())
}

fn done(answer: Option<Answer>) -> Result<bool, Refused> {
    match answer {
        Some(Answer::Done) => Ok(true),
        Some(Answer::Lacking) => Ok(false),
        Some(Answer::Refused(refused)) => Err(refused),
        Some(Answer::Void) | None => Err(Refused::Unconfirmed),
    }
}

/// The rollouts of a node of a cluster, for the store, which has them apply what the log has.
#[derive(Clone, Default)]
pub struct RolloutBroadcasts(Arc<OnceLock<Arc<Rollouts>>>);

impl RolloutBroadcasts {
    /// Returns true for a broadcast of rollouts.
    #[must_use]
    pub fn is_message(bytes: &[u8]) -> bool {
        event::is_message(bytes)
    }

    /// Returns true for a row of rollouts.
    #[must_use]
    pub fn is_row(key: &[u8]) -> bool {
        rows::is_of_rollouts(key)
    }

    /// Applies a broadcast. Returns the edits that it makes.
    #[must_use]
    pub fn apply(&self, bytes: &Bytes) -> Vec<RowEdit> {
        self.rollouts().apply(bytes)
    }

    /// Returns the edits that an accepted update makes with `edit`, the row of its device.
    #[must_use]
    pub fn edit(&self, edit: RowEdit) -> Vec<RowEdit> {
        self.rollouts().apply_row(edit)
    }

    /// Returns true if an update with this row of a device may be accepted behind the broadcasts `undecided`.
    #[must_use]
    pub fn permits(&self, edit: &RowEdit, undecided: &[Bytes]) -> bool {
        self.rollouts().permits(edit, undecided)
    }

    fn rollouts(&self) -> &Rollouts {
        self.0.get().expect("no record is applied before the server is assembled")
    }
}

impl RolloutController {
    /// Passes the rollouts of this node to the store. Called once, before it joins the cluster.
    pub fn share(&self, with: &RolloutBroadcasts) {
        let _is_the_first = with.0.set(self.rollouts.clone());
    }
}
