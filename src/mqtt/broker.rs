//! What all connections share: the router, the sessions, the way to the shadows, the limits.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    auth::{Access, Authority, Principal},
    config::Limits,
    metrics::{Counters, DropCounters},
    mqtt::{
        codec::FrameLimits,
        events::Events,
        filters::Filters,
        message::Message,
        outbox::{Outbox, QueueLimits, SessionId},
        pace::PaceLimits,
        packet::{ConnAckLimits, Reason, Will},
        presence::PresenceTable,
        request::{self, Request},
        router::{Class, Router},
        session::{Session, SessionLimits},
        sessions::{ClientSession, Ended, SessionKey, Sessions, SessionsMax},
        shadow_topic::Destination,
    },
    quota::Cause,
    service::Service,
    shadow::DocumentLimits,
};

/// The broker.
pub struct Broker {
    /// Who subscribed to what.
    pub router: Arc<Router>,
    /// How shadow events reach subscribers.
    pub events: Arc<Events>,
    /// The way to the shadows.
    pub service: Arc<Service>,
    /// Every session.
    pub sessions: Sessions,
    /// Which devices are connected.
    pub presence: PresenceTable,
    /// What a connection may take.
    pub limits: ConnectionLimits,
    /// Who is let in, and may do what.
    pub authority: Arc<Authority>,
    /// What happened so far.
    pub counters: Arc<Counters>,
    /// What was not delivered so far.
    pub drops: Arc<DropCounters>,
    closing: watch::Sender<bool>,
    sessions_made: AtomicU64,
    client_ids: (RandomState, AtomicU64),
}

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Of its packets.
    pub frame: FrameLimits,
    /// Of its session.
    pub session: SessionLimits,
    /// Of its queue.
    pub queue: QueueLimits,
    /// Bytes of output that wait for a client that does not read.
    pub output_bytes_max: usize,
    /// Of what it sends.
    pub pace: PaceLimits,
    /// Bytes of a topic name or filter.
    pub topic_bytes_max: usize,
    /// Filters of its session.
    pub filters_max: usize,
    /// Seconds its session may outlive it.
    pub session_expiry_max: u32,
    /// Seconds; at 65,535 a client may also have none.
    pub keep_alive_max: u16,
    /// Of a shadow.
    pub document: DocumentLimits,
}

impl Broker {
    /// A broker without connections.
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
            router,
            events,
            service,
            sessions: Sessions::new(SessionsMax {
                sessions: limits.sessions_max,
                of_principal: limits.quotas.principal_sessions_max,
                connected_of_principal: limits.quotas.principal_connections_max,
            }),
            limits: ConnectionLimits::of(limits),
            authority,
            counters: Arc::default(),
            drops: Arc::default(),
            closing: watch::Sender::new(false),
            sessions_made: AtomicU64::new(0),
            client_ids: (RandomState::new(), AtomicU64::new(0)),
        }
    }

    /// A new session for a client with `access`.
    #[must_use]
    pub fn new_session(&self, access: &Access) -> ClientSession {
        let id = SessionId(self.sessions_made.fetch_add(1, Ordering::Relaxed));
        let outbox = Outbox::new(id, self.limits.queue, self.drops.clone(), access.clone());
        let allowance = self.service.quotas().principals.of(access.principal().name(), Instant::now());
        let (session, filters) = (Session::new(self.limits.session), Filters::new(allowance));
        ClientSession { session, outbox: Arc::new(outbox), filters }
    }

    /// A client id that no client has and none can guess.
    #[must_use]
    pub fn unique_client_id(&self) -> String {
        let (seed, made) = &self.client_ids;
        let count = made.fetch_add(1, Ordering::Relaxed);
        format!("auto-{:016x}{count:x}", seed.hash_one(count))
    }

    /// Publishes an ordinary message of `by`, and retains it if it says so. Returns how many sessions are to have it.
    ///
    /// # Errors
    ///
    /// The quota of retained messages that it is above, which is counted; it is not published then.
    pub(super) fn publish(&self, message: Message, by: &Principal, from: Option<SessionId>) -> Result<usize, Cause> {
        let message = Arc::new(message);
        if message.retain {
            self.router.retain(&message, by).inspect_err(|cause| self.service.quotas().count(*cause))?;
        }
        Ok(self.router.tell(&message, Class::Plain { from }))
    }

    /// Publishes what ended leaves behind, and takes its subscriptions away.
    pub async fn dispose(&self, ended: Ended) {
        if let Some(client) = &ended.client {
            self.router.remove(client.outbox.id(), client.filters.iter());
        }
        if let Some(will) = ended.will {
            self.publish_will(&ended.key, &ended.access, will).await;
        }
    }

    /// Disposes of sessions and wills as they fall due, until the broker closes: not to be dropped before, since what
    /// has fallen due is in its hands alone.
    pub async fn watch_sessions(&self) {
        loop {
            let due = tokio::select! {
                due = self.sessions.due() => due,
                () = self.closed() => return,
            };
            for ended in due {
                self.dispose(ended).await;
            }
        }
    }

    /// Gives every session the rights that it has now; those that have none end.
    pub async fn review(&self) {
        for ended in self.sessions.review(&self.authority) {
            self.dispose(ended).await;
        }
    }

    /// Turns true when the broker closes.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Waits until the broker closes, or returns at once if it has.
    pub async fn closed(&self) {
        let _ = self.closing().wait_for(|closing| *closing).await;
    }

    /// Ends all connections and takes no more.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.sessions.close(Reason::SERVER_SHUTTING_DOWN);
    }

    /// Publishes the wills of the sessions that have no connection, after all connections ended: the sessions end with
    /// the process. [MQTT-3.1.2-8]
    pub async fn finish(&self) {
        for ended in self.sessions.drain() {
            self.dispose(ended).await;
        }
    }

    /// A will on a shadow's `update` is an update by its owner at this time, with what the owner may do at this time.
    /// PROTOCOL section 2.
    async fn publish_will(&self, owner: &SessionKey, access: &Access, will: Will) {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        match Destination::of(&topic) {
            Destination::Plain if access.may_publish(topic.as_str()) => {
                let message = Message::new(topic, payload, qos, retain, properties, Instant::now());
                if let Err(cause) = self.publish(message, &owner.principal, None) {
                    tracing::debug!(client = %owner.client_id, quota = cause.name(), "a will is refused");
                }
            }
            Destination::Plain | Destination::Reserved(_) => self.counters.publishes_refused.add(1),
            Destination::Request(key, operation, dialect) => {
                let mut request = Request::new(self.events.clone(), key, operation, dialect);
                // A client that connects and dies again and again has no more updates than one that stays.
                let admitted = self.service.admit(&owner.principal, &request.key);
                let allowance = self.service.quotas().principals.of(owner.principal.name(), Instant::now());
                let weight = request::weight(&payload, properties.as_deref());
                let Ok(permit) = self.service.reserve(&allowance, weight).await else {
                    return tracing::warn!(client = %owner.client_id, "a will is lost: the service is ending");
                };
                let prepared = request.prepare(&payload, properties.as_deref(), access, &self.limits.document);
                match prepared.and_then(|command| Ok((admitted?, command))) {
                    Ok((admitted, Some(command))) => {
                        request.admitted = Some(admitted);
                        permit.submit(request.submission(command, &owner.client_id));
                    }
                    Ok((_, None)) => {}
                    Err(rejection) => request.refuse(&self.service, owner, access, &rejection),
                }
            }
        }
    }
}

impl ConnectionLimits {
    fn of(limits: &Limits) -> Self {
        let seconds = |duration: std::time::Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Self {
            frame: FrameLimits { packet_bytes_max: limits.packet_bytes_max },
            session: SessionLimits {
                inbound_window: limits.receive_maximum.get(),
                outbound_window: limits.receive_maximum.get(),
                outbound_bytes: limits.outbox_bytes_max,
                topic_alias_max: limits.topic_alias_max,
                filters_per_subscribe: limits.filters_per_subscribe_max,
            },
            queue: QueueLimits { bytes: limits.outbox_bytes_max, offline_bytes: limits.session_queue_bytes_max },
            output_bytes_max: limits.outbox_bytes_max,
            pace: PaceLimits::of(limits),
            topic_bytes_max: limits.topic_bytes_max,
            filters_max: limits.filters_per_session_max,
            session_expiry_max: seconds(limits.session_expiry_max),
            keep_alive_max: u16::try_from(seconds(limits.keep_alive_max)).unwrap_or(u16::MAX),
            document: limits.document(),
        }
    }

    /// The keep-alive for a client that asks for `wanted` seconds, 0 being none.
    #[must_use]
    pub fn keep_alive(&self, wanted: u16) -> u16 {
        match wanted {
            _ if self.keep_alive_max == u16::MAX => wanted,
            0 => self.keep_alive_max,
            wanted => wanted.min(self.keep_alive_max),
        }
    }

    /// What CONNACK tells of the limits, where they are not what the client asked for.
    #[must_use]
    pub fn connack(&self, session_expiry: u32, keep_alive: u16) -> ConnAckLimits {
        let expiry = session_expiry.min(self.session_expiry_max);
        let server_keep_alive = self.keep_alive(keep_alive);
        ConnAckLimits {
            receive_maximum: NonZeroU16::new(self.session.inbound_window).unwrap_or(NonZeroU16::MIN),
            maximum_packet_size: u32::try_from(self.frame.packet_bytes_max).unwrap_or(u32::MAX),
            topic_alias_maximum: self.session.topic_alias_max,
            session_expiry: (expiry != session_expiry).then_some(expiry),
            server_keep_alive: (server_keep_alive != keep_alive).then_some(server_keep_alive),
        }
    }
}
