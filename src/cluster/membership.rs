//! A node in its cluster: carries out what the store's member asks for, and passes records, messages and the time to it.
//!
//! One task carries out actions on the log, one follows it, one keeps the time. The member and the broker have a connection each for their
//! messages, with a task that sends, one that receives and one that watches the connection; the seeds of other nodes have one too. All
//! end when the store is closed.

use std::{
    collections::{VecDeque, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        watch,
    },
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    cluster::{
        ClusterError,
        nats::{NatsLog, follow::FollowEnd},
        seeding::{self, NatsSeeds, Notices, SeedReceiver, SeedSource, offer_store},
    },
    config::ClusterSettings,
    store::{
        BroadcastKind, BroadcastRows, Link, LogAction, LogEvent, LogInquiry, LogPlace, MemberHealth, MemberOptions,
        NodeId, StoreError, StoreOptions,
    },
};

/// Bytes of records that were read and are not applied yet: much less than a node keeps, from which a store that was opened again
/// takes them.
const UNAPPLIED_BYTES_MAX: usize = 16 << 20;
/// The interval at which the member receives the time.
const TICK: Duration = Duration::from_millis(100);
/// Removals of old records in their largest age.
const TRIMS_PER_AGE: u32 = 64;
/// The pause before a read of the log is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A node that has joined its cluster; see the module.
pub(crate) struct Membership {
    log: NatsLog,
    node: NodeId,
    orders: Orders,
    /// The bus of the brokers, so that a flood of their messages neither delays the member's nor ends its connection.
    messages: NatsLog,
    seeds: NatsSeeds,
    broker: Option<Outbox>,
    link: Option<NatsLink>,
    log_age_max: Duration,
}

/// The receivers of what the member and the broker ask for.
struct Orders {
    actions: UnboundedReceiver<LogAction>,
    messages: UnboundedReceiver<BusMessage>,
    broker_messages: UnboundedReceiver<BusMessage>,
}

/// A message for one node, or for all.
struct BusMessage {
    to: Option<NodeId>,
    content: Bytes,
    /// Its memory.
    _permit: OwnedSemaphorePermit,
}

/// Bytes of the member's messages that wait for the bus, and of the broker's.
const UNSENT_BYTES_MAX: usize = 32 << 20;
/// The memory of a message besides its content.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The member's connection to the tasks. There is one action at a time.
struct NatsLink {
    actions: UnboundedSender<LogAction>,
    outbox: Outbox,
}

/// A sender of messages, whose waiting ones are bounded.
struct Outbox {
    messages: UnboundedSender<BusMessage>,
    room: Arc<Semaphore>,
}

impl Outbox {
    fn new() -> (Self, UnboundedReceiver<BusMessage>) {
        let (messages, sent) = mpsc::unbounded_channel();
        (Self { messages, room: Arc::new(Semaphore::new(UNSENT_BYTES_MAX)) }, sent)
    }

    /// Returns false if too many messages wait for the bus. The message is lost then.
    fn send(&self, to: Option<NodeId>, content: Bytes) -> bool {
        let bytes = u32::try_from(content.len() + MESSAGE_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(bytes) else { return false };
        let message = BusMessage { to, content, _permit: permit };
        // Nobody listens any more when the server ends.
        self.messages.send(message).is_ok()
    }
}

impl Link for NatsLink {
    fn carry_out(&mut self, action: LogAction) {
        // Nobody listens any more when the server ends.
        let _ = self.actions.send(action);
    }

    fn send(&mut self, node: NodeId, message: Bytes) {
        // It is sent again if it is lost.
        let _ = self.outbox.send(Some(node), message);
    }

    fn send_to_all(&mut self, message: Bytes) {
        let _ = self.outbox.send(None, message);
    }
}

impl Membership {
    /// Connects to the servers of the cluster, and checks them. The store has `applied` records.
    ///
    /// # Errors
    ///
    /// As [`NatsLog::connect`].
    pub(crate) async fn join(
        settings: &ClusterSettings,
        applied: u64,
        state: &watch::Sender<String>,
    ) -> Result<Self, ClusterError> {
        let log = NatsLog::connect(settings, applied, state).await?;
        let messages = NatsLog::connect_bus(settings, "messages", state).await?;
        let seeds = NatsSeeds { log: log.clone(), seeds: NatsLog::connect_bus(settings, "seeds", state).await? };
        let (actions, actions_of_member) = mpsc::unbounded_channel();
        let (outbox, messages_of_member) = Outbox::new();
        let (broker, broker_messages) = Outbox::new();
        let orders = Orders { actions: actions_of_member, messages: messages_of_member, broker_messages };
        let link = NatsLink { actions, outbox };
        let (node, log_age_max) = (NodeId(settings.node), settings.log_age_max);
        Ok(Self { log, node, orders, messages, seeds, broker: Some(broker), link: Some(link), log_age_max })
    }

    /// Returns true if the store of this node, which is at `place`, cannot go on from the log, which has lost nothing.
    pub(crate) async fn must_reseed(&self, place: &LogPlace) -> bool {
        seeding::must_reseed(&self.seeds, self.node, place).await
    }

    /// Has the members keep the log from the record `needed` on, until the result is dropped.
    pub(crate) fn keep_log(&self, needed: u64) -> Notices {
        Notices::of_log(self.seeds.clone(), self.node, needed)
    }

    /// Makes the store of `options` of that of another node, unless this node may begin with an empty one. It `has_store` that is too
    /// old, or none. Sends sentences about what it does to `state`. The notices are to be kept until the log is applied; there are none
    /// if it begins with an empty store.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub(crate) async fn seed(
        &self,
        options: StoreOptions,
        has_store: bool,
        state: watch::Sender<String>,
    ) -> Result<Option<Notices>, StoreError> {
        SeedReceiver::new(self.seeds.clone(), self.node, options, has_store, state).await.run().await
    }

    /// Returns the options for opening the store; `None` the second time.
    pub(crate) fn member(
        &mut self,
        rows: Box<dyn BroadcastRows>,
        kind_of: fn(&Bytes) -> BroadcastKind,
    ) -> Option<MemberOptions> {
        let link = Box::new(self.link.take()?);
        // A process that starts again must not be taken for the former one.
        let incarnation = RandomState::new().hash_one(std::process::id());
        Some(MemberOptions {
            node: self.node,
            incarnation,
            record_bytes_max: self.record_bytes_max(),
            rows,
            kind_of,
            link,
        })
    }

    /// Returns the most bytes of a record of the log.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.log.record_bytes_max()
    }

    /// Returns the number of this node.
    pub(crate) fn node(&self) -> u64 {
        self.node.0
    }

    /// Returns a function that passes bytes to the brokers of all nodes. It returns false if too many wait. Called once.
    pub(crate) fn messenger(&mut self) -> impl Fn(Bytes) -> bool + Send + Sync + use<> {
        let outbox = self.broker.take();
        move |content| outbox.as_ref().is_some_and(|outbox| outbox.send(None, content))
    }

    /// Starts the tasks for the member with this `health` that has applied the log up to record `applied` and receives `events`. The broker
    /// receives the messages of others by `on_message`. Nodes without a store receive that of `source`.
    pub(crate) fn start(
        self,
        applied: u64,
        events: impl Fn(LogEvent) -> bool + Clone + Send + Sync + 'static,
        on_message: impl Fn(Bytes) + Send + 'static,
        health: impl Fn() -> MemberHealth + Send + 'static,
        source: Arc<dyn SeedSource>,
    ) -> JoinSet<()> {
        let Self { log, orders, messages, seeds, log_age_max, .. } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_out(log.clone(), orders.actions, events.clone()));
        tasks.spawn(send(log.clone(), orders.messages));
        tasks.spawn(send(messages.clone(), orders.broker_messages));
        tasks.spawn(follow(log.clone(), applied + 1, events.clone()));
        let to_member = events.clone();
        tasks.spawn(receive(log.clone(), move |message, permit| to_member(LogEvent::Received(message, Some(permit)))));
        let to_broker = move |message, _permit| {
            on_message(message);
            true
        };
        tasks.spawn(receive(messages.clone(), to_broker));
        tasks.spawn(tick(events));
        for watched in [log.clone(), messages, seeds.seeds.clone()] {
            tasks.spawn(async move { watched.watch().await });
        }
        tasks.spawn(offer_store(seeds, source));
        tasks.spawn(trim(log, log_age_max, health));
        tasks
    }

    /// Returns the log for those who only ask about it.
    pub(crate) fn inquiry(&self) -> Arc<dyn LogInquiry> {
        Arc::new(self.log.clone())
    }

    /// Returns the number of the last record of the log; waits until it is known.
    pub(crate) fn tail(&self) -> impl Future<Output = u64> + Send + use<> {
        let log = self.log.clone();
        async move { retried(|| log.tail()).await }
    }
}

async fn carry_out(log: NatsLog, mut actions: UnboundedReceiver<LogAction>, events: impl Fn(LogEvent) -> bool) {
    while let Some(action) = actions.recv().await {
        let event = match action {
            LogAction::Append { expected, record } => {
                LogEvent::Appended { number: expected + 1, outcome: log.append(expected, record).await }
            }
            LogAction::Read(number) => LogEvent::Found { number, record: retried(|| log.read(number)).await },
            LogAction::Tail => LogEvent::EndsAt(retried(|| log.tail()).await),
        };
        if !events(event) {
            return;
        }
    }
}

/// Repeats `ask` until it is answered.
pub(super) async fn retried<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::debug!(%error, "the log cannot be read"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn send(log: NatsLog, mut messages: UnboundedReceiver<BusMessage>) {
    while let Some(BusMessage { to, content, _permit }) = messages.recv().await {
        let sent = match to {
            Some(node) => log.send(node, content).await,
            None => log.send_all(content).await,
        };
        // The member sends again what is not answered.
        if let Err(error) = sent {
            tracing::debug!(%error, "a message to another node is lost");
        }
    }
}

async fn follow(log: NatsLog, from: u64, events: impl Fn(LogEvent) -> bool) {
    let room = Arc::new(Semaphore::new(UNAPPLIED_BYTES_MAX));
    let mut follower = log.follow(from);
    loop {
        let event = match follower.next().await {
            Ok((number, record)) => {
                // More than there is would never be free.
                let bytes = u32::try_from(record.len().min(UNAPPLIED_BYTES_MAX)).unwrap_or(u32::MAX);
                let Ok(permit) = Arc::clone(&room).acquire_many_owned(bytes).await else { return };
                LogEvent::Record { number, record, permit: Some(permit) }
            }
            Err(FollowEnd::Trimmed { first }) => {
                events(LogEvent::Trimmed { first });
                return;
            }
        };
        if !events(event) {
            return;
        }
    }
}

/// Passes messages to `take` until that returns false.
async fn receive(log: NatsLog, take: impl Fn(Bytes, OwnedSemaphorePermit) -> bool) {
    let mut received = retried(|| log.received()).await;
    while let Some((message, permit)) = received.next().await {
        if !take(message, permit) {
            return;
        }
    }
}

/// Removes old records from the log while this node decides, except those that nodes without a store need. After a start it knows no
/// ages, and begins anew.
async fn trim(log: NatsLog, age_max: Duration, health: impl Fn() -> MemberHealth) {
    let pause = (age_max / TRIMS_PER_AGE).max(TICK);
    let mut marks = VecDeque::new();
    loop {
        sleep(pause).await;
        let MemberHealth { is_deciding, applied, log_needed, .. } = health();
        marks.push_back((Instant::now(), applied));
        let is_old = |(at, _): &(Instant, u64)| at.elapsed() > age_max;
        let mut old = None;
        while marks.front().is_some_and(is_old) {
            old = marks.pop_front();
        }
        let Some((_, number)) = old.filter(|_| is_deciding) else { continue };
        let number = log_needed.map_or(number, |needed| number.min(needed.saturating_sub(1)));
        if let Err(error) = log.trim(number).await {
            tracing::warn!(number, %error, "old records of the log cannot be removed");
        }
    }
}

async fn tick(events: impl Fn(LogEvent) -> bool) {
    let (started, mut ticks) = (Instant::now(), interval(TICK));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !events(LogEvent::Tick(started.elapsed())) {
            return;
        }
    }
}
