//! The state of the broker from the rows of the store, at the start.
//!
//! Every session is disconnected then. One whose connection was open when the server stopped lost it at the last moment
//! that is on disk ([`clock_row`]). Sessions that expired meanwhile end, and their wills are published, as are those that
//! were due. A session whose login was revoked ends without its will. Every device is disconnected, too.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    panic::resume_unwind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    auth::{Access, AuthContext, Operation},
    config::RoleLimits,
    mqtt::{
        broker::{
            Broker,
            durable::{
                clock_row::{self, Stop},
                message_row::Now,
                presence_row,
                queue_row::{self, RestoredDelivery, RestoredQueueMessage},
                received_row::{self, RestoredIdentifier},
                retained_row::{self, RestoredRetained},
                session_row::{self, RestoredSession},
                subscription_row,
            },
            outbox::SessionId,
            presence::Presence,
            replicated::{self, Snapshot},
            sessions::{ClientSession, ClosedSession, LostConnection, SessionKey},
        },
        protocol::{
            message::Delivery,
            packet::{PacketId, Subscription},
            topic::TopicFilter,
        },
        session::inflight::RestoredInflight,
        shadow::topics,
    },
    shadow::{DeviceId, Timestamp},
    store::{RowEdit, StoreError},
};

/// The rows of the sessions and devices, by kind.
#[derive(Default)]
struct SessionRows {
    sessions: Vec<RestoredSession>,
    subscriptions: HashMap<SessionId, Vec<(Subscription, Option<u32>)>>,
    messages: HashMap<u64, RestoredQueueMessage>,
    /// In the order of their messages.
    deliveries: HashMap<SessionId, Vec<RestoredDelivery>>,
    received: HashMap<SessionId, Vec<RestoredIdentifier>>,
    presence: Vec<(DeviceId, Presence)>,
    stop: Option<Stop>,
    /// The removals of expired retained messages.
    expired: Vec<RowEdit>,
}

/// The rights of a session and its login.
type RestoredLogin = (Access, Arc<AuthContext>);

/// The numbers for the log.
#[derive(Default)]
struct Restored {
    retained: usize,
    sessions: usize,
    ended: usize,
    unreadable: usize,
}

/// The messages of one session, oldest first.
#[derive(Default)]
struct SessionQueue {
    inflight: Vec<(PacketId, RestoredInflight)>,
    waiting: Vec<Delivery>,
    /// QoS 2 identifiers of messages from its client.
    received: Vec<RestoredIdentifier>,
}

/// Returns the queue of a session with these rows. The rows of expired messages, and of those that are missing, are removed.
fn queue_of(rows: Vec<RestoredDelivery>, messages: &HashMap<u64, RestoredQueueMessage>) -> SessionQueue {
    let mut queue = SessionQueue::default();
    for row in rows {
        let RestoredDelivery { number, qos, retain, subscription_ids, share, packet_id, is_released, row, .. } = row;
        let delivery = messages.get(&number).map(|restored| {
            let message = restored.message.clone();
            (Delivery { message, qos, retain, subscription_ids, share, row: Some(row.clone()) }, restored.is_expired)
        });
        match (packet_id, delivery) {
            (Some(id), _) if is_released => queue.inflight.push((id, RestoredInflight::Released(row))),
            (Some(id), Some((delivery, _))) => queue.inflight.push((id, RestoredInflight::Published(delivery))),
            (None, Some((delivery, false))) => queue.waiting.push(delivery),
            (_, None) | (None, Some((_, true))) => {}
        }
    }
    queue
}

/// A session that has come to this node with its client.
#[derive(Debug)]
pub(in crate::mqtt::broker) struct MovedSession {
    pub(in crate::mqtt::broker) client: ClientSession,
    /// False if it had ended before: the client has a new one then.
    pub(in crate::mqtt::broker) is_present: bool,
}

/// Returns true for the rows that all nodes of a cluster have: retained messages, named queries, the secret of cursors, rollouts, sessions
/// and presence.
fn is_shared(key: &[u8]) -> bool {
    let is_shared =
        |kind: &u8| *kind == retained_row::KIND || *kind == NAMED_QUERY || *kind == CURSORS || ROLLOUTS.contains(kind);
    key.first().is_some_and(is_shared) || replicated::is_replicated(key)
}

/// The first byte of the keys of named queries.
const NAMED_QUERY: u8 = b'n';
/// The first byte of the key of the secret of cursors.
const CURSORS: u8 = b'k';
/// The first bytes of the keys of rollouts.
const ROLLOUTS: [u8; 4] = *b"ogdu";

impl Broker {
    /// Restores the state that the rows of the store have. Called once, before the first connection. Rows that are not the
    /// broker's are passed to `other`, which returns false for one that it cannot read.
    ///
    /// A row that cannot be read is logged and left where it is.
    ///
    /// # Errors
    ///
    /// The rows cannot be read.
    pub fn restore(self: &Arc<Self>, mut other: impl FnMut(&[u8], Bytes) -> bool) -> Result<(), StoreError> {
        let (started, now) = (Instant::now(), self.recorder.now());
        let (mut rows, mut restored) = (SessionRows::default(), Restored::default());
        self.service.each_row(is_shared, |key, value| {
            // This node takes its sessions over when it has started.
            if self.has_peers() && replicated::is_replicated(key) {
                return;
            }
            let is_read = match self.read_row(key, value.clone(), now, &mut rows, &mut restored) {
                Some(is_own) => is_own || other(key, value),
                None => false,
            };
            restored.unreadable += usize::from(!is_read);
        })?;
        self.recorder.write(std::mem::take(&mut rows.expired));
        if let Some(replicated) = self.replicated() {
            rows.stop = replicated.stop_of(replicated.node());
        }
        let stopped = rows.stop.as_ref().map(|stop| Timestamp(stop.date_ms.min(now.date_ms) / 1000));
        match self.replicated() {
            Some(replicated) => self.presence.restore_logged(replicated.presence(), stopped),
            None => self.presence.restore(std::mem::take(&mut rows.presence), stopped),
        }
        self.restore_sessions(rows, &mut restored, now);
        self.publish_due_wills();
        let Restored { retained, sessions, ended, unreadable } = restored;
        if unreadable > 0 {
            tracing::error!(unreadable, "rows of the store cannot be read; they are kept and ignored");
        }
        if retained + sessions + ended > 0 {
            let elapsed = started.elapsed();
            tracing::info!(sessions, ended, retained, ?elapsed, "restored sessions and retained messages");
        }
        Ok(())
    }

    /// Reads a row; false if it is of an unknown kind, `None` if it is damaged.
    fn read_row(
        &self,
        key: &[u8],
        value: Bytes,
        now: Now,
        rows: &mut SessionRows,
        restored: &mut Restored,
    ) -> Option<bool> {
        match *key.first()? {
            retained_row::KIND => {
                let row = retained_row::read(value, now)?;
                if row.message.is_expired {
                    rows.expired.push(RowEdit::Remove(key.into()));
                } else {
                    self.restore_retained(row);
                    restored.retained += 1;
                }
            }
            subscription_row::KIND => {
                let (session, subscription, id) = subscription_row::read(key, value)?;
                rows.subscriptions.entry(session).or_default().push((subscription, id));
            }
            queue_row::MESSAGE_KIND => {
                let message = queue_row::read_message(key, value, &self.recorder, now)?;
                self.recorder.skip_message(message.number);
                rows.messages.insert(message.number, message);
            }
            queue_row::DELIVERY_KIND => {
                // Their messages come before, in the order of the keys.
                let rows_of = |number| rows.messages.get(&number).map(|message| message.rows.clone());
                let delivery = queue_row::read_delivery(key, value, &self.recorder, rows_of)?;
                self.recorder.skip_message(delivery.number);
                rows.deliveries.entry(delivery.session).or_default().push(delivery);
            }
            received_row::KIND => {
                let (session, identifier) = received_row::read(key, value, &self.recorder)?;
                rows.received.entry(session).or_default().push(identifier);
            }
            presence_row::KIND => {
                let (device, _, presence) = presence_row::read(key, value)?;
                rows.presence.push((device, presence));
            }
            session_row::KIND => rows.sessions.push(session_row::read(key, value)?),
            clock_row::KIND => rows.stop = Some(clock_row::read(value)?),
            _ => return Some(false),
        }
        Some(true)
    }

    /// Publishes the wills that were due while the server was down, before a client can come back and publish that it did.
    fn publish_due_wills(self: &Arc<Self>) {
        loop {
            let (due, _) = self.sessions.take_due(Instant::now());
            if due.is_empty() {
                break;
            }
            due.into_iter().for_each(|due| self.dispose(due));
        }
    }

    fn restore_retained(&self, RestoredRetained { message, by }: RestoredRetained) {
        // The limits of its roles are known when it connects.
        let quota = self.service.quotas().principals.of(&by, &RoleLimits::UNLIMITED, Instant::now());
        self.router.restore_retained(Arc::new(message.message), message.date_ms, quota);
    }

    /// Restores a session that this node of a cluster takes over, as if it had lost its connection here.
    pub(in crate::mqtt::broker) fn restore_moved(self: &Arc<Self>, snapshot: Snapshot) {
        let now = self.recorder.now();
        let rows = self.read_snapshot(&snapshot, now);
        self.restore_sessions(rows, &mut Restored::default(), now);
    }

    /// Returns the session of a client that is at this node now and has `access`.
    pub(in crate::mqtt::broker) fn moved_session(&self, snapshot: Snapshot, access: &Access) -> MovedSession {
        let now = self.recorder.now();
        let SessionRows { mut sessions, mut subscriptions, messages, mut deliveries, mut received, .. } =
            self.read_snapshot(&snapshot, now);
        let Snapshot { id, rows, .. } = snapshot;
        let is_over = |row: &RestoredSession| {
            row.connection.disconnected_ms.is_some() && Absence::of(row, now).expires_in.is_none()
        };
        let Some(row) = sessions.pop().filter(|row| !is_over(row)) else {
            // The row of the session is written with its connection.
            let stale = rows.into_iter().filter(|(key, _)| key.first() != Some(&session_row::KIND));
            self.recorder.write(stale.map(|(key, _)| RowEdit::Remove(key)).collect());
            return MovedSession { client: self.restored_session(id, access), is_present: false };
        };
        let mut queue = queue_of(deliveries.remove(&id).unwrap_or_default(), &messages);
        queue.received = received.remove(&id).unwrap_or_default();
        let client = self.revive(&row, access, subscriptions.remove(&id).unwrap_or_default(), queue);
        self.set_absent(&client, &row);
        MovedSession { client, is_present: true }
    }

    fn read_snapshot(&self, snapshot: &Snapshot, now: Now) -> SessionRows {
        let mut rows = SessionRows::default();
        for (key, value) in &snapshot.rows {
            if self.read_row(key, value.clone(), now, &mut rows, &mut Restored::default()).is_none() {
                tracing::error!(client = %snapshot.key.client_id, "a row of a session that came from another node cannot be read");
            }
        }
        rows
    }

    fn restore_sessions(self: &Arc<Self>, rows: SessionRows, restored: &mut Restored, now: Now) {
        let SessionRows { mut sessions, mut subscriptions, messages, mut deliveries, mut received, stop, .. } = rows;
        // Those away for longest end first when memory is short.
        sessions.iter_mut().for_each(|session| session.connection.end(session.id, stop.as_ref()));
        sessions.sort_by_key(|session| session.connection.disconnected_ms.unwrap_or(u64::MAX));
        let (logins, mut over) = (self.restored_logins(&sessions), Vec::new());
        for (session, login) in sessions.into_iter().zip(logins) {
            let subscriptions = subscriptions.remove(&session.id).unwrap_or_default();
            let mut queue = queue_of(deliveries.remove(&session.id).unwrap_or_default(), &messages);
            queue.received = received.remove(&session.id).unwrap_or_default();
            match self.restore_session(session, login, subscriptions, queue, now) {
                Ok(()) => restored.sessions += 1,
                Err(ended) => {
                    over.extend(ended);
                    restored.ended += 1;
                }
            }
        }
        // Their wills, and messages of their groups, are for all sessions that are restored.
        over.into_iter().for_each(|ended| self.dispose_apart(*ended));
        // Their sessions ended when the server stopped in the middle of it.
        for (session, orphans) in subscriptions {
            self.remove_rows_of(session, filters_of(orphans));
        }
    }

    /// Returns the logins of `sessions`, in their order; `None` for a revoked one. The verification of a certificate takes a
    /// tenth of a millisecond, so all processors share the work.
    fn restored_logins(&self, sessions: &[RestoredSession]) -> Vec<Option<RestoredLogin>> {
        let restored = |row: &RestoredSession| {
            let auth_context = self.authority.restore(&row.login)?;
            Some((self.authority.review_absent(&auth_context)?, auth_context))
        };
        if let [session] = sessions {
            return vec![restored(session)];
        }
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        thread::scope(|scope| {
            let parts = sessions.chunks(sessions.len().div_ceil(threads).max(1));
            let parts: Vec<_> =
                parts.map(|part| scope.spawn(|| part.iter().map(restored).collect::<Vec<_>>())).collect();
            parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    }

    /// Restores a session.
    ///
    /// # Errors
    ///
    /// The session, to be disposed of, if it has expired meanwhile; nothing of one whose login was revoked.
    fn restore_session(
        self: &Arc<Self>,
        row: RestoredSession,
        login: Option<RestoredLogin>,
        subscriptions: Vec<(Subscription, Option<u32>)>,
        queue: SessionQueue,
        now: Now,
    ) -> Result<(), Option<Box<ClosedSession>>> {
        let Some((access, auth_context)) = login else {
            self.remove_rows_of(row.id, filters_of(subscriptions));
            return Err(None);
        };
        let key = SessionKey { principal: auth_context.identity.principal.clone(), client_id: row.client_id.clone() };
        let client = self.revive(&row, &access, subscriptions, queue);
        let Absence { at_ms, expires_in } = Absence::of(&row, now);
        let will = row.will.clone().map(|(will, due_ms)| {
            let due_ms = due_ms.unwrap_or_else(|| at_ms.saturating_add(u64::from(will.delay) * 1000));
            (now.instant + Duration::from_millis(due_ms.saturating_sub(now.date_ms)), will)
        });
        let Some(expires_in) = expires_in else {
            // A session ends with its will, however long that is delayed. [MQTT-3.1.2-8]
            let will = will.map(|(_, will)| will);
            return Err(Some(Box::new(ClosedSession::session(key, client, will))));
        };
        self.set_absent(&client, &row);
        let expires = now.instant + expires_in;
        let will = will.map(Box::new);
        let lost = LostConnection { auth_context, client, expiry: row.expiry, expires, will, at_ms };
        if self.has_peers() && row.connection.disconnected_ms.is_none() {
            // Nobody knows when its node went.
            self.recorder.write(vec![lost.row(&key, None, now)]);
        }
        self.sessions.restore(&key, lost);
        Ok(())
    }

    /// Returns the session of `row` with its subscriptions and messages.
    fn revive(
        &self,
        row: &RestoredSession,
        access: &Access,
        subscriptions: Vec<(Subscription, Option<u32>)>,
        queue: SessionQueue,
    ) -> ClientSession {
        let mut client = self.restored_session(row.id, access);
        client.outbox.set_kept(true);
        self.restore_subscriptions(&mut client, subscriptions);
        for (id, delivery) in queue.inflight {
            client.session.restore_inflight(id, delivery);
        }
        for RestoredIdentifier { id, reason, row } in queue.received {
            client.session.restore_received(id, reason, row);
        }
        // Its rights may be narrower than before. In a cluster, messages have rows before these are looked at.
        let may_receive = |topic: &str| match topics::shadow_of(topic) {
            Some(key) => access.projection(&key, Operation::Subscribe).is_some(),
            None => topics::is_service(topic) || access.may_receive(topic),
        };
        let waiting = queue.waiting.into_iter().filter(|delivery| may_receive(delivery.message.topic.as_str()));
        waiting.for_each(|delivery| client.outbox.restore_delivery(delivery));
        client
    }

    /// Has a restored session go on from where its client has the state of shadows.
    fn set_absent(&self, client: &ClientSession, row: &RestoredSession) {
        client.outbox.restore(row.connection.since);
        self.router.set_connected(row.id, client.filters.iter(), false);
    }

    fn restore_subscriptions(&self, client: &mut ClientSession, subscriptions: Vec<(Subscription, Option<u32>)>) {
        for (subscription, id) in subscriptions {
            // What was granted stays, also above a limit that was lowered meanwhile.
            client.filters.restore(&subscription);
            client.resync.restored(&subscription, id);
            if let Err(reason) = self.router.subscribe(&client.outbox, &subscription, id) {
                tracing::error!(
                    filter = subscription.filter.as_str(),
                    reason = reason.name(),
                    "cannot restore a subscription"
                );
            }
        }
    }
}

/// The absence of a session's client.
struct Absence {
    /// The date when it lost its connection, in milliseconds.
    at_ms: u64,
    /// The rest of its expiry interval; `None` if it has passed.
    expires_in: Option<Duration>,
}

impl Absence {
    fn of(row: &RestoredSession, now: Now) -> Self {
        let at_ms = row.connection.disconnected_ms.unwrap_or(now.date_ms).min(now.date_ms);
        let away = Duration::from_millis(now.date_ms - at_ms);
        let expires_in = Duration::from_secs(row.expiry.into()).checked_sub(away).filter(|left| !left.is_zero());
        Self { at_ms, expires_in }
    }
}

fn filters_of(subscriptions: Vec<(Subscription, Option<u32>)>) -> impl Iterator<Item = TopicFilter> {
    subscriptions.into_iter().map(|(subscription, _)| subscription.filter)
}
