//! The named queries that a session follows, each a live query ([`crate::search::live`]) with the rights of the session.
//!
//! A query runs in a task of its own while the session has a connection, and passes its events on one by one: the next is made
//! when the connection has taken the one before. So a slow client holds back the task, not the server, and what it misses
//! meanwhile is a difference of sets. Every connection begins with the complete set, and so does a query that was
//! subscribed again, defined anew, or whose reader has other rights.
//!
//! *Invariant:* no message that was made with former rights is sent.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, sync::watch, task::JoinSet, time::sleep};

use super::{
    SourceResult,
    step::{Reader, Skip},
};
use crate::{
    admission::work,
    auth::{Access, Authority},
    mqtt::{
        broker::{Broker, outbox::Outbox, router::SubscriptionChange},
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, Reason, RetainHandling, Subscription},
            topic::TopicFilter,
        },
        shadow::query_topics::{self, COUNT},
    },
    search::{
        self, FleetSearch, StreamPermit,
        live::{LiveChange, LiveEvent, LiveFailure, LiveNext, LiveQuery},
        named::{NamedQuery, QueryName},
    },
};

/// Most queries that one session follows.
const QUERIES_MAX: usize = 16;
/// Messages without a subscription after which other work has its turn.
const SKIPPED_MAX: usize = 64;
/// The time after which a query that ended begins again.
const RETRY_WAIT: Duration = Duration::from_secs(60);
/// The time after which devices that could not be read are read again.
const READ_WAIT: Duration = Duration::from_secs(5);

/// The queries of one session.
#[derive(Debug, Default)]
pub(super) struct LiveQueries(VecDeque<FollowedQuery>);

/// A query that a session follows.
#[derive(Debug)]
struct FollowedQuery {
    name: QueryName,
    filters: Vec<TopicFilter>,
    /// The permit of the principal, which the task shares.
    permit: Option<Arc<StreamPermit>>,
    /// True if the client does not want the first set.
    is_silent: bool,
    /// `None` until the connection begins it.
    running: Option<RunningQuery>,
}

/// The task of a query.
#[derive(Debug)]
struct RunningQuery {
    /// The rights with which it reads.
    rights: Access,
    events: mpsc::Receiver<Vec<QueryMessage>>,
    /// The messages that were taken and not sent yet.
    waiting: VecDeque<QueryMessage>,
    /// Ends the task when dropped.
    _task: JoinSet<()>,
}

/// A message of a query.
#[derive(Debug)]
struct QueryMessage {
    message: Arc<Message>,
    /// True if it is a part of a complete set, which is sent as retained messages are.
    is_state: bool,
}

/// The place of a query among those of its session, for a new subscription.
pub(in crate::mqtt) type QueryPermit = Option<StreamPermit>;

impl LiveQueries {
    /// Returns the permit to follow `name`, if the session of `outbox` does not follow it yet.
    ///
    /// # Errors
    ///
    /// The reason that it may not.
    pub(super) fn admit(&self, name: &QueryName, broker: &Broker, outbox: &Outbox) -> Result<QueryPermit, Reason> {
        if self.0.iter().any(|query| query.name == *name) {
            return Ok(None);
        }
        if self.0.len() >= QUERIES_MAX {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        let search = broker.search().ok_or(Reason::IMPLEMENTATION_SPECIFIC)?;
        search.stream_permit(&outbox.quota()).map(Some).map_err(|_| Reason::QUOTA_EXCEEDED)
    }

    /// Adds a subscription to the query `name`. It begins anew if the client wants the retained messages of the subscription.
    pub(super) fn subscribed(
        &mut self,
        name: QueryName,
        subscription: &Subscription,
        subscribed: SubscriptionChange,
        permit: QueryPermit,
    ) {
        let wants_state = match subscription.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => subscribed == SubscriptionChange::New,
            RetainHandling::DoNotSend => false,
        };
        let query = self.entry(name);
        if query.running.is_none() || wants_state {
            query.is_silent = !wants_state && (query.is_silent || query.filters.is_empty());
            query.running = None;
        }
        query.permit = permit.map(Arc::new).or(query.permit.take());
        query.add(&subscription.filter);
    }

    /// Adds a subscription of a session without a connection.
    pub(super) fn restored(&mut self, name: QueryName, filter: &TopicFilter) {
        self.entry(name).add(filter);
    }

    /// Removes a subscription.
    pub(super) fn unsubscribed(&mut self, filter: &TopicFilter) {
        self.0.iter_mut().for_each(|query| query.filters.retain(|other| other != filter));
        self.0.retain(|query| !query.filters.is_empty());
    }

    /// Ends the tasks. The next connection begins with the complete sets.
    pub(super) fn detach(&mut self) {
        for query in &mut self.0 {
            (query.running, query.permit, query.is_silent) = (None, None, false);
        }
    }

    /// Returns true if the session follows none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if a message may have to be sent, or a task to be begun.
    pub(super) fn is_ready(&self, outbox: &Outbox) -> bool {
        self.0.iter().any(|query| match &query.running {
            Some(running) => {
                !running.waiting.is_empty() || !running.events.is_empty() || !running.has_rights_of(outbox)
            }
            None => true,
        })
    }

    /// Returns the next message of the queries, which take turns.
    pub(super) fn next(&mut self, reader: Reader<'_>) -> SourceResult {
        for _ in 0..self.0.len() {
            self.0.rotate_left(1);
            match self.0.back_mut().map(|query| query.next(reader)) {
                None | Some(SourceResult::Nothing) => {}
                Some(found) => return found,
            }
        }
        SourceResult::Nothing
    }

    /// Returns the query `name`, which is added if it is not there.
    fn entry(&mut self, name: QueryName) -> &mut FollowedQuery {
        let queries = &mut self.0;
        let at = queries.iter().position(|query| query.name == name).unwrap_or_else(|| {
            queries.push_back(FollowedQuery {
                name,
                filters: Vec::new(),
                permit: None,
                is_silent: false,
                running: None,
            });
            queries.len() - 1
        });
        queries.get_mut(at).expect("it was found or added")
    }
}

impl FollowedQuery {
    fn add(&mut self, filter: &TopicFilter) {
        if !self.filters.contains(filter) {
            self.filters.push(filter.clone());
        }
    }

    /// Returns the next message for which there is a subscription.
    fn next(&mut self, reader: Reader<'_>) -> SourceResult {
        if !self.running.as_ref().is_some_and(|running| running.has_rights_of(reader.outbox)) {
            self.running = self.begin(reader);
            self.is_silent = false;
        }
        let Some(running) = &mut self.running else { return SourceResult::Nothing };
        for _ in 0..SKIPPED_MAX {
            if running.waiting.is_empty() {
                let Ok(messages) = running.events.try_recv() else { return SourceResult::Nothing };
                running.waiting = messages.into();
            }
            let Some(next) = running.waiting.front() else { continue };
            let topic = next.message.topic.as_str();
            let selected = self.filters.iter().any(|filter| filter.selects(topic));
            match if selected { reader.select(topic.to_owned()) } else { Err(Skip::Void) } {
                Ok((_, selection)) => {
                    let Some(QueryMessage { message, is_state }) = running.waiting.pop_front() else { continue };
                    let delivery = selection.deliver(message);
                    return SourceResult::Delivery(Box::new(Delivery { retain: is_state, ..delivery }));
                }
                Err(Skip::Wait) => return SourceResult::Nothing,
                Err(Skip::Void | Skip::ReadFailed) => _ = running.waiting.pop_front(),
            }
        }
        SourceResult::Page
    }

    /// Begins the task with the present rights.
    fn begin(&self, Reader { broker, outbox, .. }: Reader<'_>) -> Option<RunningQuery> {
        let search = broker.search()?;
        let (sender, events) = mpsc::channel(1);
        let rights = outbox.access();
        let sink = MessageSink {
            name: self.name.clone(),
            sender,
            outbox: outbox.clone(),
            is_state: false,
            is_silent: self.is_silent,
            counted: None,
        };
        let follower = Follower { search, access: rights.clone(), sink };
        let mut task = JoinSet::new();
        task.spawn(follower.run(self.permit.clone()));
        Some(RunningQuery { rights, events, waiting: VecDeque::new(), _task: task })
    }
}

impl RunningQuery {
    fn has_rights_of(&self, outbox: &Outbox) -> bool {
        outbox.with_access(|access| access.is_same(&self.rights))
    }
}

/// The work of a task.
struct Follower {
    search: Arc<FleetSearch>,
    access: Access,
    sink: MessageSink,
}

/// The way of the messages of a query to the connection of its session.
struct MessageSink {
    name: QueryName,
    sender: mpsc::Sender<Vec<QueryMessage>>,
    outbox: Arc<Outbox>,
    /// True while a complete set is sent.
    is_state: bool,
    /// True until the first set was passed over.
    is_silent: bool,
    /// The number of devices that was sent last.
    counted: Option<usize>,
}

/// A session as a reader. Its rights do not change: with others, the connection begins another task.
#[derive(Clone)]
struct SessionReader(Access);

impl search::Reader for SessionReader {
    fn access(&self) -> &Access {
        &self.0
    }

    fn renew(&mut self, _: &Authority) -> bool {
        true
    }

    async fn rights_may_change(&self, _: &Authority) {
        std::future::pending().await
    }
}

impl Follower {
    /// Follows the query, whatever it is at each time, for as long as the task is wanted.
    async fn run(mut self, permit: Option<Arc<StreamPermit>>) {
        let _permit = match permit {
            Some(permit) => permit,
            None => self.permit().await,
        };
        let mut changes = self.search.queries.changes();
        loop {
            changes.mark_unchanged();
            let named = self.search.queries.get(&self.sink.name);
            let (search, name) = (self.search.clone(), self.sink.name.clone());
            let replaced = replaced(&search, &name, named.as_ref(), &mut changes);
            tokio::select! {
                () = self.follow(named.as_deref()) => {}
                () = replaced => {}
            }
        }
    }

    /// Waits for a permit of the principal, which a session that comes back may not have.
    async fn permit(&mut self) -> Arc<StreamPermit> {
        loop {
            match self.search.stream_permit(&self.search.quota(&self.access)) {
                Ok(permit) => return Arc::new(permit),
                Err(rejection) => {
                    let message = "The principal has as many event streams as it may have".to_owned();
                    self.sink.end(rejection.error(), message).await;
                    sleep(RETRY_WAIT).await;
                }
            }
        }
    }

    /// Sends the events of one definition of the query until it has to begin again.
    async fn follow(&mut self, named: Option<&NamedQuery>) {
        let Some(named) = named else {
            let message = format!("There is no query '{}'", self.sink.name);
            self.sink.end("not-found", message).await;
            return std::future::pending().await;
        };
        let wait = self.search.quota(&self.access).charge_work(work::PAGE, Instant::now());
        sleep(wait.unwrap_or_default()).await;
        let reader = SessionReader(self.access.clone());
        let mut live = match LiveQuery::begin(&self.search, reader, named.definition.query.clone()).await {
            Ok(live) => live,
            Err(LiveFailure::Scan(_)) => return sleep(READ_WAIT).await,
            Err(failure) => {
                let (error, message) = failure.reason();
                self.sink.end(error, message).await;
                return sleep(RETRY_WAIT).await;
            }
        };
        live.send_all(None);
        loop {
            match live.next(Instant::now() + RETRY_WAIT).await {
                LiveNext::Event { event, is_last } => {
                    let is_end = matches!(event.change, LiveChange::End { .. });
                    self.sink.send(&event, is_last).await;
                    if is_end {
                        drop(live); // its memory
                        return sleep(RETRY_WAIT).await;
                    }
                }
                LiveNext::TimeOver => {}
                LiveNext::Broken => return sleep(READ_WAIT).await,
            }
        }
    }
}

/// Waits until the query `name` is another one than `named`.
async fn replaced(
    search: &FleetSearch,
    name: &QueryName,
    named: Option<&Arc<NamedQuery>>,
    changes: &mut watch::Receiver<u64>,
) {
    loop {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        let now = search.queries.get(name);
        let is_same = match (&now, named) {
            (Some(now), Some(named)) => Arc::ptr_eq(now, named),
            (now, named) => now.is_none() && named.is_none(),
        };
        if !is_same {
            return;
        }
    }
}

impl MessageSink {
    /// Sends the messages of an event.
    async fn send(&mut self, event: &LiveEvent, is_last: bool) {
        if event.change == LiveChange::Start {
            (self.is_state, self.counted) = (true, None);
        }
        let is_complete = event.change == LiveChange::Complete;
        if self.is_silent {
            self.is_silent = !is_complete;
            self.counted = Some(event.count);
            self.is_state &= !is_complete;
            return;
        }
        let mut data = event.data();
        let is_end = matches!(event.change, LiveChange::End { .. });
        if !is_end {
            data.insert("id".to_owned(), event.id.as_str().into());
        }
        let mut messages = vec![self.message(event.name(), &Value::Object(data))];
        if is_last && !is_end && self.counted != Some(event.count) {
            messages.push(self.message(COUNT, &json!({ "count": event.count, "id": event.id })));
            self.counted = Some(event.count);
        }
        self.is_state &= !is_complete && !is_end;
        let bytes: usize = messages.iter().map(|next| next.message.payload.len()).sum();
        let units = work::rendered(u64::try_from(bytes).unwrap_or(u64::MAX));
        let wait = self.outbox.quota().charge_work(units, Instant::now());
        sleep(wait.unwrap_or_default()).await;
        self.pass(messages).await;
    }

    /// Sends the reason for which the query is not followed.
    async fn end(&mut self, error: &str, message: String) {
        (self.is_state, self.is_silent) = (false, false);
        let message = self.message("end", &json!({ "error": error, "message": message }));
        self.pass(vec![message]).await;
    }

    /// Waits until the connection has taken what was sent before, and wakes it.
    async fn pass(&self, messages: Vec<QueryMessage>) {
        // Without a receiver, the task is about to be ended.
        let _ = self.sender.send(messages).await;
        self.outbox.wake();
    }

    fn message(&self, event: &str, data: &Value) -> QueryMessage {
        let topic = query_topics::topic(&self.name, event);
        let (payload, now) = (data.to_string().into(), Instant::now());
        let message = Message::new(topic, payload, QoS::AtLeastOnce, self.is_state, None, now);
        QueryMessage { message: Arc::new(message), is_state: self.is_state }
    }
}
