//! The table of sessions: connected and disconnected ones, and the timers of the disconnected.
//!
//! A session belongs to a principal and a client id; the same client id of another principal is another session. The
//! connection owns the session's state while it serves it, and returns it to the table when it ends. A second
//! connection of the same client takes the session over. It signals the first one to end, waits until that has
//! released the session, and then attaches it, so no two tasks ever own one session.
//!
//! Delayed wills, session expiry and the expiry of certificates are instants in one ordered set. [`Sessions::due`]
//! returns those that have passed.
//!
//! A session ends with the login that its client used last, if that is revoked ([`Sessions::review`]), and its will is
//! not published then.

mod away;
mod closed;
mod eviction;
mod list;
mod load;
mod lost;
mod moving;
mod revocation;
mod session_counts;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified, oneshot};

pub(in crate::mqtt::broker) use self::lost::LostConnection;
pub use self::lost::PreviousLoss;
use self::{
    away::{AwayNumber, AwaySessions},
    closed::Released,
    session_counts::SessionCounts,
};
pub use self::{
    closed::ClosedSession,
    list::{EndedSessions, ListedSession, SessionFilter},
    load::Load,
    session_counts::SessionCount,
};
use crate::{
    admission::{Charge, PrincipalQuota, QuotaKind},
    auth::{Access, AuthContext, Authority, Principal},
    mqtt::{
        broker::{durable::Recorder, filters::Filters, outbox::Outbox, presence::Announced, session_view::SessionView},
        protocol::packet::{Reason, Will},
        session::Session,
        shadow::resync::Resync,
    },
};

/// The identity of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// The principal.
    pub principal: Principal,
    /// The client id, chosen by the client or by the server.
    pub client_id: Arc<str>,
}

/// The whole state of one session.
#[derive(Debug)]
pub struct ClientSession {
    /// The protocol state.
    pub session: Session,
    /// The queue of deliveries to the client.
    pub outbox: Arc<Outbox>,
    /// The filters of its subscriptions in the router.
    pub filters: Filters,
    /// The state that its connection has yet to read and send.
    pub(in crate::mqtt) resync: Resync,
    /// The memory of all this, apart from the queue.
    pub charge: Charge,
    /// True if rows of the store have the session, which must be removed when it ends.
    pub(in crate::mqtt) is_recorded: bool,
    /// True if they may have it as one that outlives its connection.
    pub(in crate::mqtt) was_kept: bool,
}

/// A new connection that asks for its session.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The identity of the session.
    pub key: &'a SessionKey,
    /// The login of the connection.
    pub auth_context: &'a Arc<AuthContext>,
    /// True if a session of before ends.
    pub clean_start: bool,
    /// The quota of the principal.
    pub quota: &'a PrincipalQuota,
    /// The memory of the will.
    pub will_bytes: usize,
}

/// A session that a connection owns.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub client: ClientSession,
    /// True if the session existed before.
    pub present: bool,
    /// Its absence until now, to which it returns if the connection is refused after all.
    pub previous: Option<Box<PreviousLoss>>,
    /// Resolves with the reason when the connection has to end.
    pub disconnect_signal: oneshot::Receiver<Reason>,
    /// In a cluster, the device that is connected with it.
    pub(in crate::mqtt) announced: Option<Announced>,
    /// The sessions that ended for it: the one that it replaces because of a clean start, and those that made place.
    pub ended: Vec<ClosedSession>,
}

/// The table of sessions.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<SessionTable>,
    /// Most sessions of all principals, connected or not.
    max: usize,
    recorder: Recorder,
    timers_changed: Notify,
}

#[derive(Debug, Default)]
struct SessionTable {
    /// In order, for the list of sessions.
    entries: BTreeMap<SessionKey, SessionSlot>,
    /// Counts of `entries` per principal, updated with them.
    session_counts: SessionCounts,
    away: AwaySessions,
    timers: BTreeMap<(Instant, u64), SessionKey>,
    timers_made: u64,
    /// Set once: new connections are refused from then on.
    closing: bool,
}

#[derive(Debug)]
enum SessionSlot {
    /// A connection owns the session.
    Connected(Box<ConnectedSession>),
    /// No connection owns the session.
    Disconnected(Box<DisconnectedSession>),
}

#[derive(Debug)]
struct ConnectedSession {
    /// Taken by the first requester of the end of the connection.
    disconnect: Option<oneshot::Sender<Reason>>,
    released: Released,
    auth_context: Arc<AuthContext>,
    outbox: Arc<Outbox>,
    view: Arc<SessionView>,
    /// True if the session does not outlive the connection.
    ends: bool,
    /// True if its client has opened one at another node: its will is not published.
    has_moved: bool,
    /// The operators who wait for that.
    disposed: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct DisconnectedSession {
    lost: LostConnection,
    timer: (Instant, u64),
    away: AwayNumber,
}

/// The result of one attempt to attach a session.
enum AttachAttempt {
    Attached(Box<Attached>),
    /// Another connection owns the session and was signalled to end. Resolves when it has released the session.
    InUse(OwnedNotified),
}

/// Reason why a connection gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A quota of sessions or connections is reached, of the server or of the principal.
    Quota(QuotaKind),
    /// The client's authentication is no longer valid.
    NoRights,
    /// The server shuts down.
    Closing,
}

/// A connection that gets no session.
#[derive(Debug)]
pub struct NotAttached {
    /// The reason.
    pub refusal: Refusal,
    /// The sessions that ended to make place, which was not enough.
    pub ended: Vec<ClosedSession>,
}

impl From<Refusal> for NotAttached {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, ended: Vec::new() }
    }
}

impl Sessions {
    /// Returns an empty table of at most `max` sessions, whose changes are kept by `recorder`.
    #[must_use]
    pub fn new(max: usize, recorder: Recorder) -> Self {
        Self { table: Mutex::default(), max, recorder, timers_changed: Notify::new() }
    }

    /// Attaches the session of `key` to the new connection that `arrival` describes, or a new session from `make`, and
    /// charges both with the will to the principal.
    ///
    /// A connection that owns the session is ended first. Rights are evaluated when the session is attached, since the
    /// client's token may have expired, or rules may have been reloaded, while it waited. From then on
    /// [`Sessions::review`] updates them.
    ///
    /// # Errors
    ///
    /// [`NotAttached`]. Nothing is changed then, except that a previous connection may have ended, and sessions of others.
    pub async fn attach(
        &self,
        arrival: &Arrival<'_>,
        authority: &Authority,
        make: impl Fn(&Access) -> ClientSession,
    ) -> Result<Attached, NotAttached> {
        loop {
            match self.try_attach(arrival, authority, &make)? {
                AttachAttempt::Attached(attached) => return Ok(*attached),
                AttachAttempt::InUse(released) => released.await,
            }
        }
    }

    /// Takes back the session of a connection that ended, and keeps it for `expiry` seconds. Returns what has to be
    /// disposed of now.
    ///
    /// The session ends at once if `expiry` is 0, or the login is revoked, and then without a will. While the server shuts
    /// down, only its rows are kept.
    pub fn release(
        &self,
        key: &SessionKey,
        mut client: ClientSession,
        expiry: u32,
        will: Option<Will>,
        authority: &Authority,
    ) -> ClosedSession {
        // The login may have expired, or its certificate may have been revoked before the sessions were reviewed.
        let stays = !self.is_revoked(key, authority);
        let now = Instant::now();
        let has_left = client.outbox.has_left();
        let mut table = self.table.lock();
        let Some(SessionSlot::Connected(connected)) = table.remove(key) else {
            return ClosedSession::session(key.clone(), client, will);
        };
        let ConnectedSession { released, auth_context, ends, has_moved, disposed, .. } = *connected;
        let released = Some(released);
        let is_revoked = !stays || !client.outbox.access().is_any();
        let is_elsewhere = has_moved || has_left;
        if is_revoked || expiry == 0 || ends || is_elsewhere {
            let will = will.filter(|_| !is_revoked && !is_elsewhere);
            return ClosedSession { disposed, released, ..ClosedSession::session(key.clone(), client, will) };
        }
        let expires = now + Duration::from_secs(expiry.into());
        let (will_now, will_later) = match will {
            Some(will) if will.delay > 0 => (None, Some((now + Duration::from_secs(will.delay.into()), will))),
            will => (will, None),
        };
        let (access, from) = (client.outbox.access(), client.outbox.id());
        (client.is_recorded, client.was_kept) = (true, true);
        let lost = LostConnection {
            auth_context,
            client,
            expiry,
            expires,
            will: will_later.map(Box::new),
            at_ms: self.recorder.now().date_ms,
        };
        self.recorder.write(vec![lost.row(key, will_now.as_ref(), self.recorder.now())]);
        table.park(key, lost);
        drop(table);
        self.timers_changed.notify_one();
        ClosedSession { released, disposed, ..ClosedSession::will(key.clone(), access, from, will_now) }
    }

    /// Waits until a will is due or a session expires, and returns all that are.
    pub async fn due(&self) -> Vec<ClosedSession> {
        loop {
            let changed = self.timers_changed.notified();
            let (due, next) = self.take_due(Instant::now());
            if !due.is_empty() {
                return due;
            }
            match next {
                None => changed.await,
                Some(next) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(next.into()) => {}
                },
            }
        }
    }

    /// Ends every connection with `reason` and refuses new ones.
    pub fn close(&self, reason: Reason) {
        let mut table = self.table.lock();
        table.closing = true;
        for entry in table.entries.values_mut() {
            if let SessionSlot::Connected(connected) = entry {
                connected.disconnect(reason);
            }
        }
    }

    /// Returns the number of sessions of `principal`.
    #[must_use]
    pub fn count_of(&self, principal: &Principal) -> SessionCount {
        self.table.lock().session_counts.of(principal)
    }

    /// Adds a session that lost its connection before the start of the server.
    pub(super) fn restore(&self, key: &SessionKey, lost: LostConnection) {
        self.table.lock().park(key, lost);
        self.timers_changed.notify_one();
    }

    /// Returns the number of sessions, connected or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.lock().entries.len()
    }

    fn try_attach(
        &self,
        arrival: &Arrival<'_>,
        authority: &Authority,
        make: impl Fn(&Access) -> ClientSession,
    ) -> Result<AttachAttempt, NotAttached> {
        let Arrival { key, auth_context, clean_start, will_bytes, .. } = *arrival;
        let mut table = self.table.lock();
        if table.closing {
            return Err(Refusal::Closing.into());
        }
        let access = authority.review(auth_context).ok_or(Refusal::NoRights)?;
        if let Some(released) = table.take_over(key) {
            return Ok(AttachAttempt::InUse(released));
        }
        let mut ended = Vec::new();
        if let Err(cause) = table.make_room(arrival, self.max, &mut ended) {
            return Err(NotAttached { refusal: Refusal::Quota(cause), ended });
        }
        let (mut client, previous) = match table.take_disconnected(key) {
            None => (make(&access), None),
            // The session ends here, and with it any delay of its will. [MQTT-3.1.2-8]
            Some(disconnected) if clean_start => {
                ended.push(disconnected.into_closed(key.clone()));
                (make(&access), None)
            }
            Some(disconnected) => {
                disconnected.lost.client.outbox.set_access(access);
                let (client, previous) = disconnected.lost.split();
                (client, Some(Box::new(previous)))
            }
        };
        client.charge(CONNECTION_BYTES + will_bytes);
        let disconnect_signal = table.connect(key, auth_context, &client);
        let present = previous.is_some();
        let attached = Attached { client, present, previous, disconnect_signal, announced: None, ended };
        Ok(AttachAttempt::Attached(Box::new(attached)))
    }

    pub(super) fn take_due(&self, now: Instant) -> (Vec<ClosedSession>, Option<Instant>) {
        let mut table = self.table.lock();
        let mut due = Vec::new();
        while let Some(first) = table.timers.first_entry() {
            if first.key().0 > now || due.len() >= DUE_AT_ONCE {
                break;
            }
            let key = first.remove();
            due.extend(table.expire(key, now));
        }
        let next = table.timers.first_key_value().map(|((at, _), _)| *at);
        (due, next)
    }
}

impl SessionTable {
    fn remove(&mut self, key: &SessionKey) -> Option<SessionSlot> {
        let entry = self.entries.remove(key)?;
        self.session_counts.remove(&key.principal, matches!(entry, SessionSlot::Connected(_)));
        Some(entry)
    }

    /// Returns the login that the client of a session used last.
    fn auth_context(&self, key: &SessionKey) -> Option<Arc<AuthContext>> {
        Some(match self.entries.get(key)? {
            SessionSlot::Connected(connected) => connected.auth_context.clone(),
            SessionSlot::Disconnected(disconnected) => disconnected.lost.auth_context.clone(),
        })
    }

    /// Signals the connection that owns the session of `key` to end, if there is one. Returns a future that resolves
    /// when the session is released.
    fn take_over(&mut self, key: &SessionKey) -> Option<OwnedNotified> {
        let Some(SessionSlot::Connected(connected)) = self.entries.get_mut(key) else { return None };
        connected.disconnect(Reason::SESSION_TAKEN_OVER); // [MQTT-3.1.4-3]
        Some(connected.released.0.clone().notified_owned())
    }

    /// Removes and returns the disconnected session of `key`, if there is one.
    fn take_disconnected(&mut self, key: &SessionKey) -> Option<DisconnectedSession> {
        if !matches!(self.entries.get(key), Some(SessionSlot::Disconnected(_))) {
            return None;
        }
        let Some(SessionSlot::Disconnected(disconnected)) = self.remove(key) else { return None };
        self.timers.remove(&disconnected.timer);
        self.away.remove(key, disconnected.away);
        Some(*disconnected)
    }

    /// Marks the session as connected. Returns the signal for its connection to end.
    fn connect(
        &mut self,
        key: &SessionKey,
        auth_context: &Arc<AuthContext>,
        client: &ClientSession,
    ) -> oneshot::Receiver<Reason> {
        let (disconnect, disconnect_signal) = oneshot::channel();
        let connected = ConnectedSession {
            disconnect: Some(disconnect),
            released: Released::default(),
            auth_context: auth_context.clone(),
            outbox: client.outbox.clone(),
            view: client.filters.view().clone(),
            ends: false,
            has_moved: false,
            disposed: Vec::new(),
        };
        self.session_counts.add(&key.principal, true);
        self.entries.insert(key.clone(), SessionSlot::Connected(Box::new(connected)));
        disconnect_signal
    }

    fn set_timer(&mut self, key: &SessionKey, at: Instant) -> (Instant, u64) {
        self.timers_made += 1;
        let timer = (at, self.timers_made);
        self.timers.insert(timer, key.clone());
        timer
    }

    fn expire(&mut self, key: SessionKey, now: Instant) -> Option<ClosedSession> {
        let Some(SessionSlot::Disconnected(disconnected)) = self.entries.get_mut(&key) else {
            return None;
        };
        if disconnected.lost.auth_context.revoked_at().is_some_and(|at| at <= now) {
            return self.take_disconnected(&key).map(|disconnected| disconnected.into_closed(key).without_will());
        }
        if disconnected.lost.expires <= now {
            return self.take_disconnected(&key).map(|disconnected| disconnected.into_closed(key));
        }
        let will = disconnected.lost.will.take_if(|will| will.0 <= now).map(|will| will.1);
        if will.is_some() {
            disconnected.lost.client.charge(disconnected.lost.auth_context.kept_bytes());
        }
        let next = disconnected
            .lost
            .auth_context
            .revoked_at()
            .map_or(disconnected.lost.expires, |at| at.min(disconnected.lost.expires));
        let outbox = &disconnected.lost.client.outbox;
        let (access, from) = (outbox.access(), outbox.id());
        let timer = self.set_timer(&key, next);
        if let Some(SessionSlot::Disconnected(disconnected)) = self.entries.get_mut(&key) {
            disconnected.timer = timer;
        }
        Some(ClosedSession::will(key, access, from, will))
    }
}

impl ClientSession {
    /// Charges the memory of the session, and `more` bytes for its connection or will, to its principal.
    pub fn charge(&mut self, more: usize) {
        self.filters.view().set_inflight(self.session.inflight_count());
        self.charge.follow(SESSION_BYTES + self.filters.bytes() + self.session.inflight_bytes() + more);
    }
}

impl ConnectedSession {
    /// Requests the end of the connection, unless that was done before.
    fn disconnect(&mut self, reason: Reason) {
        if let Some(disconnect) = self.disconnect.take() {
            let _ = disconnect.send(reason);
        }
    }
}

impl DisconnectedSession {
    fn into_closed(self, key: SessionKey) -> ClosedSession {
        ClosedSession::session(key, self.lost.client, self.lost.will.map(|will| will.1))
    }
}

/// Most sessions that [`Sessions::due`] returns at once, so that a mass expiry does not lock the table for long.
const DUE_AT_ONCE: usize = 256;

/// The memory of a session without its filters, messages and will.
const SESSION_BYTES: usize = 2 << 10;

/// The memory of a connection without its buffers.
pub(in crate::mqtt) const CONNECTION_BYTES: usize = 6 << 10;
