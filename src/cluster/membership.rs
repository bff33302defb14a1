//! A node in its cluster: carries out what the store's member asks for, and passes records, messages and the time to it.
//!
//! One task carries out actions on the log, one sends messages, one follows the log, one receives messages, one keeps the time.
//! All end when the store is closed.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    cluster::{
        ClusterError,
        nats::{NatsLog, follow::FollowEnd},
    },
    config::ClusterSettings,
    store::{Link, LogAction, LogEvent, MemberOptions, NodeId},
};

/// Bytes of records that were read and are not applied yet.
const UNAPPLIED_BYTES_MAX: usize = 64 << 20;
/// The interval at which the member receives the time.
const TICK: Duration = Duration::from_millis(100);
/// The pause before a read of the log is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A node that has joined its cluster; see the module.
pub(crate) struct Membership {
    log: NatsLog,
    node: NodeId,
    orders: Orders,
    link: Option<NatsLink>,
}

/// The receivers of what the member asks for.
struct Orders {
    actions: UnboundedReceiver<LogAction>,
    messages: UnboundedReceiver<(Option<NodeId>, Bytes)>,
}

/// The member's connection to the tasks. There is one action at a time, and messages are bounded by the requests that they have.
struct NatsLink {
    actions: UnboundedSender<LogAction>,
    messages: UnboundedSender<(Option<NodeId>, Bytes)>,
}

impl Link for NatsLink {
    fn carry_out(&mut self, action: LogAction) {
        // Nobody listens any more when the server ends.
        let _ = self.actions.send(action);
    }

    fn send(&mut self, node: NodeId, message: Bytes) {
        let _ = self.messages.send((Some(node), message));
    }

    fn send_to_all(&mut self, message: Bytes) {
        let _ = self.messages.send((None, message));
    }
}

impl Membership {
    /// Connects to the servers of the cluster, and checks them.
    ///
    /// # Errors
    ///
    /// As [`NatsLog::connect`].
    pub(crate) async fn join(settings: &ClusterSettings) -> Result<Self, ClusterError> {
        let log = NatsLog::connect(settings).await?;
        let (actions, actions_of_member) = mpsc::unbounded_channel();
        let (messages, messages_of_member) = mpsc::unbounded_channel();
        let orders = Orders { actions: actions_of_member, messages: messages_of_member };
        Ok(Self { log, node: NodeId(settings.node), orders, link: Some(NatsLink { actions, messages }) })
    }

    /// Returns the options for opening the store; `None` the second time.
    pub(crate) fn member(&mut self) -> Option<MemberOptions> {
        let link = Box::new(self.link.take()?);
        // A process that starts again must not be taken for the former one.
        let incarnation = RandomState::new().hash_one(std::process::id());
        Some(MemberOptions { node: self.node, incarnation, record_bytes_max: self.log.record_bytes_max(), link })
    }

    /// Starts the tasks for the member that has applied the log up to record `applied` and receives `events`.
    pub(crate) fn start(
        self,
        applied: u64,
        events: impl Fn(LogEvent) -> bool + Clone + Send + Sync + 'static,
    ) -> JoinSet<()> {
        let Self { log, orders: Orders { actions, messages }, .. } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_out(log.clone(), actions, events.clone()));
        tasks.spawn(send(log.clone(), messages));
        tasks.spawn(follow(log.clone(), applied + 1, events.clone()));
        tasks.spawn(receive(log, events.clone()));
        tasks.spawn(tick(events));
        tasks
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
async fn retried<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::debug!(%error, "the log cannot be read"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn send(log: NatsLog, mut messages: UnboundedReceiver<(Option<NodeId>, Bytes)>) {
    while let Some((node, message)) = messages.recv().await {
        let sent = match node {
            Some(node) => log.send(node, message).await,
            None => log.send_all(message).await,
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
                let bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
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

async fn receive(log: NatsLog, events: impl Fn(LogEvent) -> bool) {
    let mut received = retried(|| log.received()).await;
    while let Some((message, permit)) = received.next().await {
        if !events(LogEvent::Received(message, Some(permit))) {
            return;
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
