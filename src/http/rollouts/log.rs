//! The way of rollouts to the log of a cluster, and back.
//!
//! The commands of clients and the reports of the driver are broadcast, and every node applies them in the order of the log
//! ([`super::applying`]). Whoever sent one waits until this node has applied it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    admission::Quotas,
    auth::Authority,
    fleet::{Rollout, rollout::Head},
    http::{
        api::Api,
        auth::caller::Caller,
        rollouts::{
            DURABLE_TIMEOUT, NewRollout, Refused, Rollouts, Slot,
            event::{self, Event, Message},
            nonce,
            overlap::Compared,
            restoring::forbidden,
            rows::{self, HeadRow, IDS_PER_ROW, text_of},
        },
    },
    shadow::DeviceId,
    store::RowEdit,
};

/// The pause before an event is sent for which there was no room.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Random bits in the number of a rollout, behind the time of its creation in milliseconds.
const RANDOM_BITS: u32 = 22;

/// The log of a cluster, for its rollouts.
pub(super) struct RolloutLog {
    pub(super) authority: Arc<Authority>,
    pub(super) quotas: Arc<Quotas>,
    /// The senders of this node's events that are not applied yet.
    pub(super) waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    /// The time for which the cluster has run, as the log had it last, and when this node applied that.
    pub(super) time: Mutex<(u64, Instant)>,
}

/// The answer to an event.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was applied.
    Done,
    /// Nothing was done: the rollout is still to be compared with others.
    Lacking,
    /// Nothing was done: another node is the driver.
    Void,
    /// It was refused.
    Refused(Refused),
}

/// The answer to an event that was sent.
pub(super) struct PendingAnswer {
    request: u64,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    answer: oneshot::Receiver<Answer>,
}

impl PendingAnswer {
    /// Waits for the answer; `None` if the server ends.
    pub(super) async fn wait(mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.request);
    }
}

impl RolloutLog {
    pub(super) fn new(authority: &Arc<Authority>, quotas: &Arc<Quotas>, running_ms: u64) -> Self {
        Self {
            authority: authority.clone(),
            quotas: quotas.clone(),
            waiting: Arc::default(),
            time: Mutex::new((running_ms, Instant::now())),
        }
    }

    /// Returns the time for which the cluster has run.
    pub(super) fn running_ms(&self) -> u64 {
        let (ms, at) = *self.time.lock();
        ms.saturating_add(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
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
    /// Returns the draft of a rollout of `caller`, in which the devices that are not `permitted` are skipped.
    pub(super) fn new(api: &Api, caller: &Caller, new: NewRollout, permitted: &HashSet<DeviceId>) -> Self {
        let NewRollout { id, is_bulk, description, spec, devices } = new;
        let Head { state, reason, wave, planned } = Rollout::new(spec, devices.clone()).head().clone();
        let head = HeadRow {
            id,
            nonce: nonce(),
            bulk: is_bulk,
            created_by: caller.principal().name().clone(),
            created_at: api.now().0,
            updated_at: api.now().0,
            login: caller.login().record(),
            restorer: None,
            spec: description,
            state,
            reason,
            wave,
            planned,
        };
        let forbidden = forbidden(&devices, permitted);
        let random = nonce() >> (u64::BITS - RANDOM_BITS);
        let number = (api.service.now_milliseconds() << RANDOM_BITS) | random;
        Self { number, head: Box::new(head), devices, forbidden, is_sent: false }
    }
}

impl Rollouts {
    /// Sends an event, when there is room for it.
    pub(super) async fn send(&self, api: &Api, number: u64, driver: u64, event: Event) -> Option<PendingAnswer> {
        let log = self.log.as_ref()?;
        let request = nonce();
        let message = Message { number, request, driver, moment: self.moment(&api.service), event };
        let bytes = message.encode();
        let permit = loop {
            match api.service.reserve_broadcast(bytes.len()) {
                Some(permit) => break permit,
                None => sleep(ROOM_PAUSE).await,
            }
        };
        let (answered, answer) = oneshot::channel();
        log.waiting.lock().insert(request, answered);
        let pending = PendingAnswer { request, waiting: log.waiting.clone(), answer };
        api.service.broadcast(bytes, None, permit);
        Some(pending)
    }

    /// Sends an event for whose answer nobody waits, if there is room for it.
    pub(super) fn send_now(&self, api: &Api, number: u64, driver: u64, event: Event) -> bool {
        let message = Message { number, request: nonce(), driver, moment: self.moment(&api.service), event };
        let bytes = message.encode();
        let permit = api.service.reserve_broadcast(bytes.len());
        permit.map(|permit| api.service.broadcast(bytes, None, permit)).is_some()
    }

    /// Sends an event of the driver, and waits for what it came to.
    pub(super) async fn report(&self, api: &Api, number: u64, driver: u64, event: Event) -> Answer {
        match self.send(api, number, driver, event).await {
            Some(pending) => pending.wait().await.unwrap_or(Answer::Void),
            None => Answer::Void,
        }
    }

    /// Sends what a client asks for. Returns true if it was done, and false if the rollout is still to be compared with others.
    ///
    /// # Errors
    ///
    /// [`Refused::Unconfirmed`] if the log does not have it in time, or the reason of the refusal.
    pub(super) async fn request(&self, api: &Api, number: u64, event: Event) -> Result<bool, Refused> {
        let asked = async {
            match self.send(api, number, 0, event).await {
                Some(pending) => pending.wait().await,
                None => None,
            }
        };
        done(timeout(DURABLE_TIMEOUT, asked).await.ok().flatten())
    }

    /// Creates the rollout of a draft in the log, as [`Rollouts::request`] does.
    pub(super) async fn publish(&self, api: &Api, draft: &mut Draft, compared: &Compared) -> Result<bool, Refused> {
        if !std::mem::replace(&mut draft.is_sent, true) {
            timeout(DURABLE_TIMEOUT, self.send_parts(api, draft)).await.unwrap_or(Err(Refused::Unconfirmed))?;
        }
        let (head, count, compared) = (draft.head.clone(), draft.devices.len(), compared.clone());
        self.request(api, draft.number, Event::Created { head, count, compared }).await
    }

    async fn send_parts(&self, api: &Api, draft: &Draft) -> Result<(), Refused> {
        let mut pending = Vec::new();
        for (part, ids) in draft.devices.chunks(IDS_PER_ROW).enumerate() {
            let from = part * IDS_PER_ROW;
            let range = from..from + ids.len();
            let forbidden = draft.forbidden.iter().copied().filter(|index| range.contains(index)).collect();
            let event = Event::Part { from, ids: text_of(ids.iter()), forbidden };
            pending.extend(self.send(api, draft.number, 0, event).await);
        }
        for pending in pending {
            done(pending.wait().await)?;
        }
        Ok(())
    }

    /// Returns the number of the driver.
    pub(super) fn driver(&self) -> u64 {
        self.registry.lock().driver
    }

    /// Returns the numbers of the rollouts that are being created.
    pub(super) fn staged(&self) -> BTreeSet<u64> {
        self.registry.lock().staged.keys().copied().collect()
    }

    /// Returns the created rollout of a draft, once this node has applied it.
    pub(super) fn of_draft(&self, draft: &Draft) -> Option<Arc<Slot>> {
        self.registry.lock().numbered(draft.number).cloned()
    }

    /// Has the devices `found` join the rollout, as far as a record has room for them. Returns false if it is still to be compared with
    /// others. The others are found again.
    pub(super) async fn report_joined(
        &self,
        api: &Api,
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
            match self.report(api, slot.number, driver, event).await {
                Answer::Done => {}
                Answer::Lacking => return false,
                Answer::Void | Answer::Refused(_) => return true,
            }
        }
        true
    }
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

impl Api {
    /// Passes the rollouts of this node to the store. Called once, before it joins the cluster.
    pub fn share_rollouts(&self, with: &RolloutBroadcasts) {
        let _is_the_first = with.0.set(self.rollouts.clone());
    }
}
