//! Resync: messages that a connection reads and sends beside those of its outbox. They report the presence of devices,
//! the changes that the session missed, retained messages for its new subscriptions, and the devices of the named queries that
//! it follows ([`queries`]).
//!
//! A session that was absent or too slow has a journal sequence above which it was sent nothing
//! ([`Outbox::resync_since`]). The journal is read from there to its head. An entry that is still the newest of its
//! shadow is sent as delta, documents, accepted and document. Any other entry is skipped, since a later one follows. If
//! retention has removed entries after that sequence, the delta and document of every shadow are sent instead.
//!
//! Most sessions select few devices ([`selects::few`]). If the journal has many entries for them to read, only the newest
//! entry of each shadow of these devices is read, so a device that returns causes no work for the changes of others.
//!
//! Turns: the four sources take turns, and together they have a turn after every few deliveries of the outbox
//! ([`Resync::is_due`]). Thus none of them waits for a queue that never empties. A message that would overtake older
//! queued ones waits for them ([`step`]): missed changes wait for replies, a retained document waits for the events of
//! its shadow. This wait ends, since each lane of the outbox has its turns too.
//!
//! Messages that a connection has not sent stay in its session for the next one. Only the missed changes begin anew, at
//! [`Outbox::resync_since`], which every page moves on.
//!
//! Everything is read at the moment it is sent, a page at a time. So no state older than one already sent follows, and
//! a long resync holds little memory and proceeds as fast as the client reads.
//!
//! [`Outbox::resync_since`]: crate::mqtt::broker::outbox::Outbox::resync_since

mod missed;
mod pending;
mod queries;
mod selects;
mod step;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

pub(in crate::mqtt) use self::queries::QueryPermit;
use self::{
    missed::MissedChanges,
    pending::{PendingQueue, PendingRetained, ResyncStage},
    queries::LiveQueries,
    selects::{Devices, Documents},
    step::{Reader, ResyncStep, RetainedSelection, Skip},
};
use crate::{
    admission::work,
    mqtt::{
        broker::{
            Broker,
            filters::Filters,
            outbox::{ChangedPresence, Outbox},
            presence,
            router::SubscriptionChange,
            sessions::SessionKey,
        },
        protocol::{
            message::Delivery,
            packet::{QoS, Reason, RetainHandling, Subscription},
            topic::TopicFilter,
        },
        shadow::{query_topics, topics::Event},
    },
    search::named::QueryName,
    shadow::Rejection,
    store::Listed,
};

/// Everything that has yet to be read and sent.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Resync {
    /// `None` for most sessions, which have nothing to resync and follow no query.
    work: Option<Box<ResyncWork>>,
    /// Number of SUBSCRIBE packets so far.
    subscribes: u32,
    /// Deliveries of the outbox since the last turn.
    deliveries: u8,
}

#[derive(Debug, Default)]
struct ResyncWork {
    missed: MissedChanges,
    presence: Presence,
    retained: Retained,
    queries: LiveQueries,
    /// The source that is next.
    turn: Source,
    /// The time until which the store is not read after a failure.
    paused: Option<Instant>,
}

/// The devices that connected or disconnected.
#[derive(Debug, Default)]
struct Presence {
    steps: VecDeque<ResyncStep>,
    /// The last change sent, while all changes since some number are sent.
    after: Option<u64>,
}

/// The retained messages for new subscriptions.
#[derive(Debug, Default)]
struct Retained {
    /// The page that is being sent, of one subscription.
    steps: VecDeque<ResyncStep>,
    pending: PendingQueue,
    /// The subscription whose last page this is. Its row still says that messages are due.
    last: Option<Arc<RetainedSelection>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Source {
    #[default]
    Presence,
    MissedChanges,
    Retained,
    Queries,
}

/// The result of [`Resync::next`].
#[derive(Debug)]
pub(in crate::mqtt) enum Next {
    /// A message to send.
    Delivery(Box<Delivery>),
    /// Nothing yet; call again when there is no other work.
    Later,
    /// There is nothing to send, it has to wait for queued messages or the QoS window, or the store cannot be read now:
    /// then the resync pauses.
    Nothing,
}

/// The result of one source.
enum SourceResult {
    Delivery(Box<Delivery>),
    /// A page without a message to send.
    Page,
    /// No message that can be sent now.
    Nothing,
}

impl Resync {
    /// Marks the beginning of the subscriptions of another SUBSCRIBE.
    pub(in crate::mqtt) fn subscribing(&mut self) {
        self.subscribes = self.subscribes.wrapping_add(1);
    }

    /// Returns the permit for a subscription to the named query `name` of the session of `outbox`.
    ///
    /// # Errors
    ///
    /// The reason that it may not have one.
    pub(in crate::mqtt) fn admit_query(
        &self,
        name: &QueryName,
        broker: &Broker,
        outbox: &Outbox,
    ) -> Result<QueryPermit, Reason> {
        match &self.work {
            Some(work) => work.queries.admit(name, broker, outbox),
            None => LiveQueries::default().admit(name, broker, outbox),
        }
    }

    /// Adds a subscription to the named query `name`, which is followed from now on.
    pub(in crate::mqtt) fn subscribed_to_query(
        &mut self,
        name: QueryName,
        subscription: &Subscription,
        subscribed: SubscriptionChange,
        permit: QueryPermit,
    ) {
        let work = self.work.get_or_insert_default();
        work.queries.subscribed(name, subscription, subscribed, permit);
    }

    /// Adds a subscription from before a restart. If its row says that retained messages are due, they are all sent again.
    pub(in crate::mqtt) fn restored(&mut self, subscription: &Subscription, id: Option<u32>) {
        if let Some(Ok(name)) = query_topics::query_of(&subscription.filter) {
            self.work.get_or_insert_default().queries.restored(name, &subscription.filter);
        } else if subscription.retain_handling == RetainHandling::Send {
            self.add_pending(subscription, id);
        }
    }

    /// Returns the retain handling for the row of a subscription: a start has to send the retained messages that wait now. At QoS 0 they may be
    /// lost.
    pub(in crate::mqtt) fn due_after(&mut self, subscription: &Subscription) -> RetainHandling {
        let is_due = self.work.as_mut().is_some_and(|work| work.retained.is_due(&subscription.filter));
        match is_due && subscription.qos != QoS::AtMostOnce {
            true => RetainHandling::Send,
            false => RetainHandling::DoNotSend,
        }
    }

    /// Queues the retained messages for a subscription if its retain handling asks for them.
    pub(in crate::mqtt) fn subscribed(
        &mut self,
        subscription: &Subscription,
        id: Option<u32>,
        subscribed: SubscriptionChange,
    ) {
        // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
        let send = match subscription.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => subscribed == SubscriptionChange::New,
            RetainHandling::DoNotSend => false,
        };
        let (packet, filter) = (self.subscribes, &subscription.filter);
        let mut due = self.work.as_mut().map(|work| &mut work.retained);
        if !send {
            // What an earlier SUBSCRIBE asked for stays due. [MQTT-3.8.4-4]
            due.into_iter().for_each(|due| due.change_options(subscription, id));
            return;
        }
        match due.as_mut().and_then(|due| due.pending.of(filter)) {
            // A filter that is twice in one SUBSCRIBE counts like one in two of them [MQTT-3.8.4-5].
            Some(same) if same.packet == packet => {
                same.selection = Arc::new(RetainedSelection { subscription: subscription.clone(), id });
                same.times = same.times.saturating_add(1);
            }
            Some(_) | None => {
                self.unsubscribed(filter);
                if filter.share().is_none() {
                    self.add_pending(subscription, id);
                }
            }
        }
    }

    fn add_pending(&mut self, subscription: &Subscription, id: Option<u32>) {
        let selection = Arc::new(RetainedSelection { subscription: subscription.clone(), id });
        let pending = PendingRetained { selection, stage: ResyncStage::default(), packet: self.subscribes, times: 1 };
        self.work.get_or_insert_default().retained.pending.push_back(pending);
    }

    /// Prepares the session to wait for its next connection, which receives the messages not sent yet. The missed
    /// changes are dropped, since they are read anew.
    pub(in crate::mqtt) fn detach(&mut self) {
        if let Some(work) = &mut self.work {
            (work.missed, work.paused) = (MissedChanges::default(), None);
            work.queries.detach();
        }
        self.release();
    }

    /// Drops the messages for `filter`.
    pub(in crate::mqtt) fn unsubscribed(&mut self, filter: &TopicFilter) {
        if let Some(work) = &mut self.work {
            work.queries.unsubscribed(filter);
            work.retained.pending.remove(filter);
            // All steps are for one subscription, since a page is read when there are none.
            if work.retained.steps.front().is_some_and(|step| step.is_for(filter)) {
                work.retained.steps.clear();
            }
            work.retained.last.take_if(|last| last.filter() == filter);
        }
        self.release();
    }

    /// Returns true if there is nothing to send now.
    pub(in crate::mqtt) fn is_idle(&self, outbox: &Outbox) -> bool {
        match &self.work {
            Some(work) if work.paused.is_some() => true,
            Some(work) if !work.is_done() || work.queries.is_ready(outbox) => false,
            _ => !outbox.needs_resync(),
        }
    }

    /// Returns true if the outbox has had its deliveries and the resync has its turn.
    pub(in crate::mqtt) fn is_due(&self, outbox: &Outbox) -> bool {
        self.deliveries >= TURN && !self.is_idle(outbox)
    }

    /// Counts a delivery of the outbox.
    pub(in crate::mqtt) fn delivered(&mut self) {
        self.deliveries = self.deliveries.saturating_add(1);
    }

    /// Returns the end of the pause, if there is one.
    pub(in crate::mqtt) fn paused(&self) -> Option<Instant> {
        self.work.as_ref()?.paused
    }

    /// Ends the pause if its time has passed.
    pub(in crate::mqtt) fn resume(&mut self, now: Instant) {
        if let Some(work) = &mut self.work {
            work.paused = work.paused.filter(|until| *until > now);
        }
    }

    /// Returns the next message to send. Reads at most [`PAGES_AT_ONCE`] pages, even if they have nothing for the
    /// session.
    pub(in crate::mqtt) async fn next(
        &mut self,
        broker: &Broker,
        own: &SessionKey,
        filters: &Filters,
        outbox: &Arc<Outbox>,
        window_open: bool,
    ) -> Next {
        let reader = Reader { broker, own, filters, outbox, window_open };
        let next = self.work.get_or_insert_default().next(reader).await;
        self.release();
        if !matches!(next, Next::Nothing) {
            self.deliveries = 0; // a source that has to wait keeps its turn
        }
        next
    }

    /// Frees the memory when nothing is left.
    fn release(&mut self) {
        self.work.take_if(|work| work.is_done() && work.paused.is_none() && work.queries.is_empty());
    }
}

impl ResyncWork {
    fn is_done(&self) -> bool {
        self.missed.is_done() && self.presence.is_done() && self.retained.is_done()
    }

    async fn next(&mut self, reader: Reader<'_>) -> Next {
        let (mut pages, mut nothing) = (0, 0);
        while pages < PAGES_AT_ONCE && nothing < SOURCES {
            let source = self.turn;
            self.turn = source.after();
            let found = match source {
                Source::Presence => self.presence.next(reader).await,
                Source::MissedChanges => self.missed.next(reader).await,
                Source::Retained => self.retained.next(reader).await,
                Source::Queries => Ok(self.queries.next(reader)),
            };
            match found {
                Ok(SourceResult::Delivery(delivery)) => return Next::Delivery(delivery),
                Ok(SourceResult::Page) => (pages, nothing) = (pages + 1, 0),
                Ok(SourceResult::Nothing) => nothing += 1,
                // Unread pages are unchanged, and are read again later.
                Err(_) => {
                    (self.turn, self.paused) = (source, Some(Instant::now() + PAUSE));
                    return Next::Nothing;
                }
            }
        }
        if pages < PAGES_AT_ONCE { Next::Nothing } else { Next::Later }
    }
}

/// A failed read of the store.
struct ReadFailed;

impl From<Rejection> for ReadFailed {
    fn from(_: Rejection) -> Self {
        Self
    }
}

/// Returns the first message of `steps`, unless an earlier step has to wait. Removes the steps before it.
async fn first(steps: &mut VecDeque<ResyncStep>, reader: Reader<'_>) -> Result<SourceResult, ReadFailed> {
    while let Some(step) = steps.front() {
        let delivery = match step.deliver(reader).await {
            Ok(delivery) => Some(delivery),
            Err(Skip::Void) => None,
            Err(Skip::Wait) => return Ok(SourceResult::Nothing),
            Err(Skip::ReadFailed) => return Err(ReadFailed),
        };
        steps.pop_front();
        if let Some(delivery) = delivery {
            return Ok(SourceResult::Delivery(Box::new(delivery)));
        }
    }
    Ok(SourceResult::Page)
}

impl Presence {
    fn is_done(&self) -> bool {
        self.steps.is_empty() && self.after.is_none()
    }

    async fn next(&mut self, reader: Reader<'_>) -> Result<SourceResult, ReadFailed> {
        if self.steps.is_empty() && !self.take(reader) {
            return Ok(SourceResult::Nothing);
        }
        first(&mut self.steps, reader).await
    }

    /// Takes the devices whose presence changed. Returns false if there are none.
    fn take(&mut self, reader: Reader<'_>) -> bool {
        let Reader { broker, outbox, .. } = reader;
        if let Some(after) = self.after.take() {
            let devices = selects::few(reader, Devices::of);
            let (devices, next) = selects::changed_presence(&broker.presence, devices, after);
            let steps = work::times(devices.len(), 1) / work::STEPS_PER_UNIT;
            let _pauses_its_connection = outbox.quota().charge_work(steps, Instant::now());
            self.after = next;
            self.steps.extend(devices.into_iter().map(|device| ResyncStep::Presence(device, None)));
            return true;
        }
        if !outbox.has_changed_presence() {
            return false;
        }
        let ChangedPresence { topics, since } = outbox.take_changed_presence();
        self.after = since;
        let devices = topics.iter().filter_map(presence::device_in);
        self.steps.extend(devices.map(|device| ResyncStep::Presence(device, None)));
        true
    }
}

impl Retained {
    fn is_done(&self) -> bool {
        self.steps.is_empty() && self.pending.is_empty() && self.last.is_none()
    }

    /// Returns true if messages for `filter` have yet to be sent.
    fn is_due(&mut self, filter: &TopicFilter) -> bool {
        self.pending.of(filter).is_some() || self.last.as_ref().is_some_and(|last| last.filter() == filter)
    }

    /// Sends what is due for the filter of `subscription`, and was not read yet, with its options.
    fn change_options(&mut self, subscription: &Subscription, id: Option<u32>) {
        let last = self.last.as_mut().filter(|last| *last.filter() == subscription.filter);
        let pending = self.pending.of(&subscription.filter).map(|pending| &mut pending.selection);
        for selection in last.into_iter().chain(pending) {
            *selection = Arc::new(RetainedSelection { subscription: subscription.clone(), id });
        }
    }

    async fn next(&mut self, reader: Reader<'_>) -> Result<SourceResult, ReadFailed> {
        if self.steps.is_empty() {
            self.last.take().iter().for_each(|last| last.note_sent(reader));
            if !self.take(reader).await? {
                return Ok(SourceResult::Nothing);
            }
        }
        first(&mut self.steps, reader).await
    }

    /// Reads the next page of retained messages. Returns false if none is left.
    async fn take(&mut self, reader: Reader<'_>) -> Result<bool, Rejection> {
        let Reader { broker, outbox, .. } = reader;
        let Some(pending) = self.pending.front_mut() else { return Ok(false) };
        let (selection, filter) = (pending.selection.clone(), pending.selection.filter());
        match &mut pending.stage {
            ResyncStage::Ordinary(cursor) => {
                let page = broker.router.retained(outbox, filter, std::mem::take(cursor));
                let steps = u64::from(page.steps) / work::STEPS_PER_UNIT;
                let _pauses_its_connection = outbox.quota().charge_work(steps, Instant::now());
                let retained = |message| ResyncStep::Retained(Arc::downgrade(message), selection.clone());
                self.steps.extend(page.messages.iter().map(retained));
                pending.stage = page.next.map_or(ResyncStage::Documents(None), ResyncStage::Ordinary);
            }
            ResyncStage::Documents(after) => {
                let (page, next) = Documents::of(filter).page(reader, after.clone()).await?;
                match next {
                    Some(next) => *after = Some(next),
                    None => pending.stage = ResyncStage::Presence(None),
                }
                let existing = page.into_iter().filter(|listed| !listed.deleted);
                let steps = |listed: Listed| {
                    let selection = selection.clone();
                    Event::RETAINED.map(|event| ResyncStep::Document(listed.key.clone(), event, selection.clone()))
                };
                self.steps.extend(existing.flat_map(steps));
            }
            ResyncStage::Presence(after) => {
                let (page, next) = Devices::of(filter).page(&broker.presence, reader.devices(), after.take());
                match next {
                    Some(next) => *after = Some(next),
                    None if pending.times > 1 => {
                        (pending.times, pending.stage) = (pending.times - 1, ResyncStage::default())
                    }
                    None => {
                        self.pending.pop_front();
                        self.last = Some(selection.clone());
                    }
                }
                self.steps.extend(page.into_iter().map(|device| ResyncStep::Presence(device, Some(selection.clone()))));
            }
        }
        Ok(true)
    }
}

impl Source {
    fn after(self) -> Self {
        match self {
            Self::Presence => Self::MissedChanges,
            Self::MissedChanges => Self::Retained,
            Self::Retained => Self::Queries,
            Self::Queries => Self::Presence,
        }
    }
}

/// Deliveries of the outbox between two turns.
const TURN: u8 = 3;

/// Number of sources that take turns.
const SOURCES: usize = 4;

/// Pause after a failed read of the store.
const PAUSE: Duration = Duration::from_secs(5);

/// Pages read before the connection's other work has a turn.
const PAGES_AT_ONCE: usize = 8;
