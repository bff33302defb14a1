//! The state that all connections share: the router, the sessions, the engine and the limits.
//!
//! Also here: the publication of wills, and of ordinary messages.

pub mod connection_limits;
pub mod durable;
pub mod external;
pub mod filters;
pub(super) mod narrowing;
pub mod outbox;
pub mod peers;
pub mod presence;
pub mod replicated;
pub(super) mod rights;
pub mod router;
pub mod session_summary;
pub mod session_view;
pub mod sessions;
pub(super) mod time_slice;
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    admission::{Charge, Memory, PrincipalQuota, QuotaKind, work},
    auth::{Access, Authority, Principal},
    config::Limits,
    engine::{RefusedRequest, Service, Taken},
    mqtt::{
        broker::{
            connection_limits::ConnectionLimits,
            durable::{Recorder, Removal},
            filters::Filters,
            outbox::{Outbox, SessionId},
            peers::{Peers, SharedMessage},
            presence::PresenceTable,
            router::Router,
            sessions::{ClientSession, ClosedSession, EndedSessions, SessionKey, Sessions},
            time_slice::TimeSlice,
        },
        protocol::{
            message::Message,
            packet::{QoS, Reason, Will},
        },
        session::Session,
        shadow::{
            fan_out::Events,
            request::{ReceivedRequest, Request, RequestOrigin},
            resync::Resync,
            topics::Destination,
        },
    },
    observability::{
        logging::{LineLimit, Shortened, limited},
        metrics::{Counters, DropCounters},
    },
    search::FleetSearch,
};

/// The shared state of all MQTT connections.
pub struct Broker {
    /// Subscriptions and retained messages.
    pub router: Arc<Router>,
    /// Fan-out of shadow events to subscribers.
    pub events: Arc<Events>,
    /// The engine, which decides commands on shadows.
    pub service: Arc<Service>,
    /// All sessions, connected or not.
    pub sessions: Sessions,
    /// Presence of the devices.
    pub presence: PresenceTable,
    /// Limits of each connection.
    pub limits: ConnectionLimits,
    /// Authentication and authorization of clients.
    pub authority: Arc<Authority>,
    /// Counters of connections and messages.
    pub counters: Arc<Counters>,
    /// Counters of undelivered messages.
    pub drops: Arc<DropCounters>,
    /// The way of the state that survives a restart to the store.
    pub(super) recorder: Recorder,
    /// The searches of the fleet, once they are there; owned by the server, since they read presence here.
    search: OnceLock<Weak<FleetSearch>>,
    /// Limit on log lines about refusals that carry no reason to the client.
    pub refusals: LineLimit,
    closing: watch::Sender<bool>,
    /// Wills that wait for a reservation in the engine queue.
    wills: Mutex<JoinSet<()>>,
    sessions_made: AtomicU64,
    client_ids: (RandomState, AtomicU64),
    /// The other nodes of a cluster.
    peers: OnceLock<Peers>,
    disconnect_streams: OnceLock<DisconnectStreams>,
}

/// Ends the streams and the browser sessions of a principal at this node. Returns the numbers of both.
pub type DisconnectStreams = Box<dyn Fn(&str) -> (usize, usize) + Send + Sync>;

/// The result of an ordinary message.
pub(super) struct Published {
    /// True if it is queued for a session, or other nodes may have one.
    pub(super) has_receivers: bool,
    /// True if its acknowledgement waits until it is on disk.
    pub(super) is_kept: bool,
    /// The message, if it is to be shared with the other nodes in the log.
    pub(super) shared: Option<SharedMessage>,
}

impl Broker {
    /// Returns a broker without connections.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        events: Arc<Events>,
        router: Arc<Router>,
        authority: Arc<Authority>,
        limits: &Limits,
    ) -> Self {
        Self {
            presence: PresenceTable::new(router.clone(), limits.sessions_max),
            recorder: router.recorder().clone(),
            sessions: Sessions::new(limits.sessions_max, router.recorder().clone()),
            router,
            events,
            service,
            limits: ConnectionLimits::of(limits),
            authority,
            counters: Arc::default(),
            drops: Arc::default(),
            search: OnceLock::new(),
            refusals: LineLimit::default(),
            closing: watch::Sender::new(false),
            wills: Mutex::default(),
            sessions_made: AtomicU64::new(0),
            client_ids: (RandomState::new(), AtomicU64::new(0)),
            peers: OnceLock::new(),
            disconnect_streams: OnceLock::new(),
        }
    }

    /// Sets the searches of the fleet, with which sessions follow named queries. Only the first call has an effect.
    pub fn set_search(&self, search: &Arc<FleetSearch>) {
        let _ = self.search.set(Arc::downgrade(search));
    }

    /// Returns the searches of the fleet, while the server has them.
    pub(super) fn search(&self) -> Option<Arc<FleetSearch>> {
        self.search.get()?.upgrade()
    }

    /// Returns a new session for a client with `access`.
    #[must_use]
    pub fn new_session(&self, access: &Access) -> ClientSession {
        self.session_with(self.next_session_id(), access)
    }

    /// Returns an id that no session has.
    fn next_session_id(&self) -> SessionId {
        SessionId(self.sessions_made.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives new sessions ids from `first` on.
    fn number_sessions_from(&self, first: u64) {
        self.sessions_made.fetch_max(first, Ordering::Relaxed);
    }

    /// Returns the session `id`, which a row of the store has, for a client with `access`.
    pub(super) fn restored_session(&self, id: SessionId, access: &Access) -> ClientSession {
        // In a cluster, no start makes the ids of an earlier one.
        if !self.has_peers() {
            self.number_sessions_from(id.0 + 1);
        }
        ClientSession { is_recorded: true, was_kept: true, ..self.session_with(id, access) }
    }

    fn session_with(&self, id: SessionId, access: &Access) -> ClientSession {
        let (quota, charge) = (self.quota(access), |quota: &Arc<_>| Charge::new(Arc::clone(quota), 0));
        let outbox = Outbox::new(id, self.limits.queue, self.drops.clone(), access.clone(), charge(&quota));
        let outbox = outbox.with_recorder(self.recorder.clone());
        let session = Session::new(self.limits.session);
        let charge = charge(&quota);
        let filters = Filters::new(quota);
        let (outbox, resync) = (Arc::new(outbox), Resync::default());
        ClientSession { session, outbox, filters, resync, charge, is_recorded: false, was_kept: false }
    }

    /// Returns the quota of the principal of `access`.
    pub(super) fn quota(&self, access: &Access) -> Arc<PrincipalQuota> {
        let principals = &self.service.quotas().principals;
        principals.of(access.principal().name(), access.limits(), Instant::now())
    }

    /// Returns a client id that no other client has and none can guess.
    #[must_use]
    pub fn unique_client_id(&self) -> String {
        let (seed, made) = &self.client_ids;
        let count = made.fetch_add(1, Ordering::Relaxed);
        format!("auto-{:016x}{count:x}", seed.hash_one(count))
    }

    /// Publishes an ordinary message of the principal with the quota `by`, and retains it if its retain flag is set.
    ///
    /// # Errors
    ///
    /// The quota of retained messages that the message would exceed. It is counted, and nothing is published.
    pub(super) fn publish(
        &self,
        message: Message,
        by: &Arc<PrincipalQuota>,
        from: Option<SessionId>,
    ) -> Result<Published, QuotaKind> {
        let message = Arc::new(message);
        let is_acknowledged = message.qos != QoS::AtMostOnce;
        if is_acknowledged
            && let Err(cause) = self.recorder.check()
            && self.router.has_kept_subscriber(message.topic.as_str())
        {
            self.service.quotas().count_for(cause, by.name());
            return Err(cause);
        }
        let count = |cause: &QuotaKind| self.service.quotas().count_for(*cause, by.name());
        // In a cluster, every node keeps and publishes it when the log has it, in one order.
        let shared = self.prepare(&message, by, from).inspect_err(count)?;
        if message.retain && shared.is_none() {
            self.router.retain(&message, by).inspect_err(count)?;
        }
        let receivers = match &shared {
            None => self.publish_unlogged(&message, by, from),
            Some(shared) => shared.receivers,
        };
        let kept = match (&shared, message.row.get()) {
            (Some(shared), _) => work::kept_in_log(message.payload.len(), shared.receivers),
            (None, Some(rows)) => work::kept(message.payload.len(), rows.deliveries()),
            (None, None) if message.retain => work::kept(message.payload.len(), 0),
            (None, None) => 0,
        };
        let units = work::MESSAGE + work::times(receivers, work::DELIVERY) + kept;
        let _throttles_its_connection = by.charge_work(units, Instant::now());
        let is_kept = is_acknowledged && (message.retain || shared.is_some() || message.row.get().is_some());
        Ok(Published { has_receivers: receivers > 0 || self.has_peers(), is_kept, shared })
    }

    /// Calls `call` when a message is kept: its rows are on disk, and if it is shared, the log has it.
    pub(super) fn after_kept(&self, published: Published, call: impl FnOnce() + Send + 'static) {
        match published.shared {
            Some(shared) => self.share(shared, Some(Box::new(call))),
            None => self.recorder.after_commit(call),
        }
    }

    /// Removes the subscriptions of a closed session and publishes its will.
    ///
    /// Unacknowledged deliveries of shared subscriptions go to other members of their groups, unless the broker closes.
    pub fn dispose(self: &Arc<Self>, mut ended: ClosedSession) {
        if self.has_left() {
            ended.will = None; // whoever takes the session over has it
        }
        if let Some(client) = &mut ended.client {
            self.router.remove(client.outbox.id(), client.filters.iter());
            let unacknowledged = client.session.take_shared().into_iter().chain(client.outbox.take_shared());
            // Those of a session that has moved are there with it.
            if !*self.closing.borrow() && !client.outbox.has_left() && !self.has_left() {
                unacknowledged.for_each(|delivery| self.hand_over(&delivery, &ended.access));
            }
        }
        // Its row has the will until the rows of the message are written.
        let has_will = ended.will.is_some();
        if let Some(will) = ended.will {
            self.publish_will(ended.key.clone(), ended.access, ended.from, will);
        }
        match &ended.client {
            Some(client) if client.outbox.has_left() => ended.removal.into_iter().for_each(Removal::done),
            Some(client) => self.remove_rows(client, ended.removal),
            None if has_will => self.sessions.will_published(&ended.key),
            None => {}
        }
        drop((ended.released, ended.disposed));
    }

    /// Publishes the wills of sessions that end, before the log has that they ended.
    pub(super) fn publish_wills(self: &Arc<Self>, ended: &mut [ClosedSession]) {
        for ended in ended {
            if let Some(will) = ended.will.take() {
                self.publish_will(ended.key.clone(), ended.access.clone(), ended.from, will);
            }
        }
    }

    /// Disposes of a session, in a task of its own if there are other nodes: the thread that receives from them does not wait.
    pub(super) fn dispose_apart(self: &Arc<Self>, ended: ClosedSession) {
        let broker = Arc::clone(self);
        match self.peers.get() {
            Some(peers) => drop(peers.runtime().spawn(async move { broker.dispose(ended) })),
            None => self.dispose(ended),
        }
    }

    /// Disposes of many sessions, and lets other tasks run meanwhile.
    async fn dispose_all(self: &Arc<Self>, ended: Vec<ClosedSession>) {
        let mut slice = TimeSlice::begin();
        for ended in ended {
            self.dispose(ended);
            slice.pause().await;
        }
    }

    /// Disposes of sessions that ended for memory or for a place of the session of `key`.
    pub(super) fn dispose_for(self: &Arc<Self>, key: &SessionKey, ended: Vec<ClosedSession>) {
        for session in ended {
            if session.key != *key {
                self.log_ended(&session, "a new session takes its place");
            }
            self.dispose(session);
        }
    }

    /// Ends disconnected sessions while a principal is at its limit of memory, or memory is short, until the broker
    /// closes.
    pub async fn watch_memory(self: Arc<Self>) {
        let memory = self.service.quotas().principals.memory().clone();
        loop {
            tokio::select! {
                () = memory.shortage() => {}
                () = self.closed() => return,
            }
            for principal in memory.take_full() {
                self.relieve(&principal).await;
            }
            self.end_anonymous(&memory).await;
            if memory.is_short() {
                self.relieve_largest(&memory).await;
            }
            // Each refusal for want of memory asks for this, and the search visits every principal.
            tokio::time::sleep(RELIEF_PAUSE).await;
        }
    }

    /// Ends the sessions of `principal` that are away for longest, until a quarter of its memory is free.
    async fn relieve(self: &Arc<Self>, principal: &Arc<str>) {
        let principals = &self.service.quotas().principals;
        while let Some(usage) = principals.usage(principal, Instant::now()) {
            let enough = usage.memory <= usage.limits.memory / 4 * 3;
            if enough || !self.end_longest_away(Some(principal), "its principal is at its limit of memory") {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Ends sessions of anonymous clients that are away, while memory is short.
    async fn end_anonymous(self: &Arc<Self>, memory: &Memory) {
        while memory.is_short() && self.end_longest_away(None, "memory is short") {
            tokio::task::yield_now().await;
        }
    }

    /// Ends sessions of the principals that use the most memory, down to a fair share, while memory is short.
    async fn relieve_largest(self: &Arc<Self>, memory: &Memory) {
        for usage in self.service.quotas().principals.largest(LARGEST, Instant::now()) {
            let is_above = || {
                let now = self.service.quotas().principals.usage(&usage.name, Instant::now());
                now.is_some_and(|now| now.memory > memory.fair_share())
            };
            while memory.is_short() && is_above() && self.end_longest_away(Some(&usage.name), "memory is short") {
                tokio::task::yield_now().await;
            }
        }
    }

    fn end_longest_away(self: &Arc<Self>, principal: Option<&Arc<str>>, reason: &str) -> bool {
        let principal = principal.map(Principal::of_known);
        let Some(ended) = self.sessions.end_longest_away(principal.as_ref()) else { return false };
        self.log_ended(&ended, reason);
        self.dispose(ended);
        true
    }

    fn log_ended(&self, ended: &ClosedSession, reason: &str) {
        limited!(info,
            self.refusals, principal = %Shortened(ended.key.principal.name()), client = %Shortened(&ended.key.client_id),
            reason, "a disconnected session ended before its expiry"
        );
    }

    /// Disposes of sessions and wills as they expire or become due, until the broker closes.
    pub async fn watch_sessions(self: Arc<Self>) {
        loop {
            let due = tokio::select! {
                due = self.sessions.due() => due,
                () = self.closed() => return,
            };
            self.dispose_all(due).await;
        }
    }

    /// Re-evaluates the login of every session, and ends those whose login is revoked.
    pub async fn review(self: &Arc<Self>) {
        let broker = self.clone();
        // The verification of a certificate takes a tenth of a millisecond.
        let reviewed = tokio::task::spawn_blocking(move || broker.sessions.review(&broker.authority)).await;
        let ended = reviewed.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot review sessions");
            Vec::new()
        });
        self.router.narrow_again().await;
        self.dispose_all(ended).await;
    }

    /// Ends the session of `key` and its connection, with its rows. Its will is published as after any lost connection. Returns
    /// when that is on disk, or false if it takes too long; `None` if there is no such session.
    pub async fn end_session(self: &Arc<Self>, key: &SessionKey) -> Option<bool> {
        let Some(EndedSessions { connected, disconnected }) = self.sessions.end(key) else {
            // It may have ended just before.
            return (!self.recorder.removed(key).await).then_some(false);
        };
        disconnected.into_iter().for_each(|closed| self.dispose(closed));
        Some(self.ended_durably(connected).await)
    }

    /// Waits until the connections that were requested to end have `disposed` of their sessions, and all that has ended before is
    /// on disk. Returns false if it takes too long.
    async fn ended_durably(&self, disposed: Vec<oneshot::Receiver<()>>) -> bool {
        let all = async {
            for disposed in disposed {
                let _it_is_closed_without_a_value = disposed.await;
            }
        };
        tokio::time::timeout(END_TIMEOUT, all).await.is_ok() && self.recorder.durable().await
    }

    /// Returns a receiver whose value turns true when the broker closes.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Waits until the broker closes; returns at once if it has closed.
    pub async fn closed(&self) {
        let _ = self.closing().wait_for(|closing| *closing).await;
    }

    /// Ends all connections and refuses new ones.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.sessions.close(Reason::SERVER_SHUTTING_DOWN);
    }

    /// Waits until the engine has every will that was published. It is called after all connections have ended.
    ///
    /// Disconnected sessions and their delayed wills are in the store, and continue with the next start.
    pub async fn finish(self: &Arc<Self>) {
        let mut waiting = std::mem::take(&mut *self.wills.lock());
        while waiting.join_next().await.is_some() {}
        self.recorder.flush();
    }

    /// Publishes `will`. A will on a shadow's `update` topic is an update by its owner, with the owner's present
    /// rights. PROTOCOL section 2.
    fn publish_will(self: &Arc<Self>, owner: SessionKey, access: Access, from: SessionId, will: Will) {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        match Destination::of(&topic) {
            Destination::Ordinary if access.may_publish(topic.as_str()) => {
                let message = Message::new(topic, payload, qos, retain, properties, Instant::now());
                match self.publish(message, &self.quota(&access), Some(from)) {
                    Ok(published) => published.shared.into_iter().for_each(|shared| self.share(shared.of_will(), None)),
                    Err(cause) => tracing::debug!(client = %owner.client_id, quota = cause.name(), "will refused"),
                }
            }
            Destination::Ordinary | Destination::Reserved(_) => self.counters.publishes_refused.add(1),
            Destination::Request(key, operation, dialect) => {
                let quota = self.quota(&access);
                let origin = RequestOrigin::Will { access, is_adopted: self.is_adopted(from) };
                let request = Request::new(self.events.clone(), origin, key, operation, dialect);
                let (client, limits) = (owner.client_id, self.limits.document);
                self.take_will(ReceivedRequest { request, payload, properties, client, limits }, &quota);
            }
        }
    }

    /// Passes the request of a will to the engine. If the engine's queue is full, the will waits in a task of its own,
    /// so it delays no session. The quotas of its principal limit the number of waiting wills, and the updates of a
    /// client that connects and disappears again and again.
    fn take_will(self: &Arc<Self>, received: ReceivedRequest, quota: &Arc<PrincipalQuota>) {
        let awaiting_permit = match self.service.take(received, quota) {
            Ok(Taken::Submitted) => return,
            Ok(Taken::AwaitingPermit(awaiting_permit)) => awaiting_permit,
            Err(refused) => return refuse_will(refused, &self.service),
        };
        let service = self.service.clone();
        let mut waiting = self.wills.lock();
        while waiting.try_join_next().is_some() {}
        let finish = async move {
            if let Err(refused) = awaiting_permit.finish().await {
                refuse_will(refused, &service);
            }
        };
        match self.peers.get() {
            Some(peers) => waiting.spawn_on(finish, peers.runtime()),
            None => waiting.spawn(finish),
        };
    }
}

fn refuse_will(refused: RefusedRequest<ReceivedRequest>, service: &Service) {
    let (received, rejection) = ReceivedRequest::refused(refused);
    received.refuse(service, &rejection);
}

/// The pause between two searches for sessions to end.
const RELIEF_PAUSE: Duration = Duration::from_millis(100);

/// Principals whose disconnected sessions end while memory is short, at one time.
const LARGEST: usize = 16;

/// The longest time that an operator waits for the end of connections.
const END_TIMEOUT: Duration = Duration::from_secs(10);
