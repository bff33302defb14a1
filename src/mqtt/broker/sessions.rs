//! Every session there is: which are connected, which wait for their client, and what falls due while they wait.
//!
//! A session belongs to a principal and client id; the same client id of another principal is another session. Its
//! state is owned by the connection that serves it and parked here in between. A second connection of the same client
//! takes the session over: it asks the first to end, waits until that has parked the session, and takes it from there,
//! so no two tasks ever hold one session.
//!
//! Delayed wills and session expiry are instants in one ordered set; [`Sessions::due`] hands out what has fallen due.

mod session_counts;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified, oneshot};

use self::session_counts::SessionCounts;
pub use self::session_counts::SessionsMax;
use crate::{
    admission::QuotaKind,
    auth::{Access, AuthContext, Authority, Principal},
    mqtt::{
        broker::{
            filters::Filters,
            outbox::{Outbox, SessionId},
        },
        protocol::packet::{Reason, Will},
        session::Session,
        shadow::resync::Resync,
    },
};

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The principal.
    pub principal: Principal,
    /// The client id, chosen by the client or by the server.
    pub client_id: Arc<str>,
}

/// All that one session consists of.
#[derive(Debug)]
pub struct ClientSession {
    /// The protocol state.
    pub session: Session,
    /// What waits to be sent.
    pub outbox: Arc<Outbox>,
    /// Its filters, as the router has them.
    pub filters: Filters,
    /// What its connection has yet to look up and send.
    pub(in crate::mqtt) resync: Resync,
}

/// A session in the hands of a connection.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub client: ClientSession,
    /// Whether it was there before.
    pub present: bool,
    /// Resolves when the connection has to end, with the reason.
    pub disconnect_signal: oneshot::Receiver<Reason>,
    /// The session this one replaces, if the client asked for a clean start.
    pub replaced: Option<ClosedSession>,
}

/// What is left to do for a session that is no more, or for a will whose time has come.
#[derive(Debug)]
pub struct ClosedSession {
    /// Whose it was.
    pub key: SessionKey,
    /// What its owner may do.
    pub access: Access,
    /// The session that leaves the will: its No Local subscriptions do not get it.
    pub from: SessionId,
    /// The session, if it is over: its subscriptions are to be removed.
    pub client: Option<ClientSession>,
    /// The will to publish.
    pub will: Option<Will>,
}

/// The table of sessions.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<SessionTable>,
    max: SessionsMax,
    timers_changed: Notify,
}

#[derive(Debug, Default)]
struct SessionTable {
    entries: HashMap<SessionKey, SessionSlot>,
    /// Whose `entries` are, changed with them.
    session_counts: SessionCounts,
    timers: BTreeMap<(Instant, u64), SessionKey>,
    timers_made: u64,
    /// Set once: no connection is taken any more.
    closing: bool,
}

#[derive(Debug)]
enum SessionSlot {
    /// A connection holds the session. `disconnect` is taken by the first that wants it to end.
    Connected {
        disconnect: Option<oneshot::Sender<Reason>>,
        released: Arc<Notify>,
        auth_context: Box<AuthContext>,
        outbox: Arc<Outbox>,
    },
    /// Nobody does.
    DisconnectedSession(Box<DisconnectedSession>),
}

#[derive(Debug)]
struct DisconnectedSession {
    auth_context: Box<AuthContext>,
    client: ClientSession,
    expires: Instant,
    will: Option<(Instant, Will)>,
    timer: (Instant, u64),
}

/// What came of an attempt to take a session.
enum AttachAttempt {
    AcceptedCommand(Box<Attached>),
    /// A connection holds it, and was told to end. Resolves when it has given the session back.
    Held(OwnedNotified),
}

/// The sessions in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// In the hands of a connection.
    pub connected: usize,
    /// Waiting for their client.
    pub disconnected: usize,
    /// Connected ones that have to catch up from the journal.
    pub lagging: usize,
    /// Bytes queued towards all of them.
    pub queued_bytes: usize,
    /// Bytes queued towards that of them with the most.
    pub queued_bytes_largest: usize,
}

/// Why a connection gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many sessions or connections as there may be, altogether or of its principal.
    Quota(QuotaKind),
    /// Its client is no longer let in.
    NoRights,
    /// The server is about to end.
    Closing,
}

impl Sessions {
    /// A table of at most `max` sessions.
    #[must_use]
    pub fn new(max: SessionsMax) -> Self {
        Self { table: Mutex::default(), max, timers_changed: Notify::new() }
    }

    /// Gives the session of `key` to a new connection that was let in on `auth_context`, ending the one that holds it;
    /// `make` makes a new session. It has the rights of that moment: while it waited its token may have ended, or
    /// rights may have been read anew. From then on it is in the table, and reviewed there.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]; what there is stays as it is then, but for a connection that was waited for.
    pub async fn attach(
        &self,
        key: &SessionKey,
        auth_context: &AuthContext,
        clean_start: bool,
        authority: &Authority,
        make: impl Fn(&Access) -> ClientSession,
    ) -> Result<Attached, Refusal> {
        loop {
            match self.try_attach(key, auth_context, clean_start, authority, &make)? {
                AttachAttempt::AcceptedCommand(attached) => return Ok(*attached),
                AttachAttempt::Held(released) => released.await,
            }
        }
    }

    /// Takes back the session of a connection that ended, to keep it for `expiry` seconds if its client may come back,
    /// and tells what to do now.
    pub fn release(&self, key: &SessionKey, client: ClientSession, expiry: u32, will: Option<Will>) -> ClosedSession {
        let now = Instant::now();
        let mut table = self.table.lock();
        let Some(SessionSlot::Connected { released, auth_context, .. }) = table.remove(key) else {
            return ClosedSession::session(key.clone(), client, will);
        };
        released.notify_waiters();
        if expiry == 0 || table.closing || !client.outbox.access().is_any() {
            return ClosedSession::session(key.clone(), client, will);
        }
        let expires = now + Duration::from_secs(expiry.into());
        let (will_now, will_later) = match will {
            Some(will) if will.delay > 0 => (None, Some((now + Duration::from_secs(will.delay.into()), will))),
            will => (will, None),
        };
        let (access, from) = (client.outbox.access(), client.outbox.id());
        let timer = table.set_timer(key, expires, will_later.as_ref().map(|(at, _)| *at));
        let disconnected = DisconnectedSession { auth_context, client, expires, will: will_later, timer };
        table.session_counts.add(&key.principal, false);
        table.entries.insert(key.clone(), SessionSlot::DisconnectedSession(Box::new(disconnected)));
        drop(table);
        self.timers_changed.notify_one();
        ClosedSession { key: key.clone(), access, from, client: None, will: will_now }
    }

    /// Waits until a will or a session falls due, and hands out what has.
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

    /// Ends every connection with `reason` and takes no more of them.
    pub fn close(&self, reason: Reason) {
        let mut table = self.table.lock();
        table.closing = true;
        for entry in table.entries.values_mut() {
            if let SessionSlot::Connected { disconnect, .. } = entry
                && let Some(disconnect) = disconnect.take()
            {
                let _ = disconnect.send(reason);
            }
        }
    }

    /// Gives each session the rights that its standing is worth now. One that is worth none ends: a parked one is
    /// handed out, a connected one ends with its connection. That ends with [`Reason::NOT_AUTHORIZED`] also where its
    /// client may come back, but has to be let in anew.
    ///
    /// The table is taken for one session at a time, so that nobody waits for all of them. A client that comes
    /// meanwhile has the rights of now.
    pub fn review(&self, authority: &Authority) -> Vec<ClosedSession> {
        let keys: Vec<_> = self.table.lock().entries.keys().cloned().collect();
        keys.into_iter().filter_map(|key| self.table.lock().review(key, authority)).collect()
    }

    /// Hands out every parked session as ended; for the end of the server, after [`Sessions::close`].
    pub fn drain(&self) -> Vec<ClosedSession> {
        let mut table = self.table.lock();
        table.timers.clear();
        let SessionTable { entries, session_counts, .. } = &mut *table;
        let disconnected = entries.extract_if(|_, entry| matches!(entry, SessionSlot::DisconnectedSession(_)));
        let disconnected = disconnected.inspect(|(key, _)| session_counts.remove(&key.principal, false));
        let ended = |(key, entry)| match entry {
            SessionSlot::DisconnectedSession(disconnected) => Some(disconnected.into_closed(key)),
            SessionSlot::Connected { .. } => None,
        };
        disconnected.filter_map(ended).collect()
    }

    /// How many sessions there are, and what is queued towards them. Looks at every one, the table free meanwhile.
    #[must_use]
    pub fn load(&self) -> Load {
        let entries: Vec<(bool, Arc<Outbox>)> = {
            let table = self.table.lock();
            let outboxes = table.entries.values().map(|entry| match entry {
                SessionSlot::Connected { outbox, .. } => (true, outbox.clone()),
                SessionSlot::DisconnectedSession(disconnected) => (false, disconnected.client.outbox.clone()),
            });
            outboxes.collect()
        };
        let mut load = Load::default();
        for (connected, outbox) in entries {
            let bytes = outbox.queued_bytes();
            load.queued_bytes += bytes;
            load.queued_bytes_largest = load.queued_bytes_largest.max(bytes);
            match connected {
                true => load.connected += 1,
                false => load.disconnected += 1,
            }
            load.lagging += usize::from(connected && outbox.lag().is_some());
        }
        load
    }

    /// How many sessions there are, connected or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.lock().entries.len()
    }

    fn try_attach(
        &self,
        key: &SessionKey,
        auth_context: &AuthContext,
        clean_start: bool,
        authority: &Authority,
        make: impl Fn(&Access) -> ClientSession,
    ) -> Result<AttachAttempt, Refusal> {
        let mut table = self.table.lock();
        if table.closing {
            return Err(Refusal::Closing);
        }
        let access = authority.review(auth_context).ok_or(Refusal::NoRights)?;
        if let Some(released) = table.take_over(key) {
            return Ok(AttachAttempt::Held(released));
        }
        table.check(key, &self.max).map_err(Refusal::Quota)?;
        let disconnected = table.take_disconnected(key);
        let (client, present, replaced) = match disconnected {
            None => (make(&access), false, None),
            // The session ends here, and with it any delay of its will. [MQTT-3.1.2-8]
            Some(disconnected) if clean_start => (make(&access), false, Some(disconnected.into_closed(key.clone()))),
            Some(disconnected) => {
                disconnected.client.outbox.set_access(access);
                (disconnected.client, true, None)
            }
        };
        let disconnect_signal = table.connect(key, auth_context, &client);
        Ok(AttachAttempt::AcceptedCommand(Box::new(Attached { client, present, disconnect_signal, replaced })))
    }

    fn take_due(&self, now: Instant) -> (Vec<ClosedSession>, Option<Instant>) {
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
        self.session_counts.remove(&key.principal, matches!(entry, SessionSlot::Connected { .. }));
        Some(entry)
    }

    /// Tells a connection that holds the session of `key` to end, if one does: what resolves when it has.
    fn take_over(&mut self, key: &SessionKey) -> Option<OwnedNotified> {
        let Some(SessionSlot::Connected { disconnect, released, .. }) = self.entries.get_mut(key) else { return None };
        if let Some(disconnect) = disconnect.take() {
            let _ = disconnect.send(Reason::SESSION_TAKEN_OVER); // [MQTT-3.1.4-3]
        }
        Some(released.clone().notified_owned())
    }

    /// Whether there may be one more connection, for the session of `key`, which none holds.
    fn check(&self, key: &SessionKey, max: &SessionsMax) -> Result<(), QuotaKind> {
        let new = !self.entries.contains_key(key);
        if new && self.entries.len() >= max.sessions {
            return Err(QuotaKind::Sessions);
        }
        self.session_counts.check(&key.principal, new, max)
    }

    /// Takes out the session of `key`, which no connection holds, if there is one.
    fn take_disconnected(&mut self, key: &SessionKey) -> Option<DisconnectedSession> {
        let Some(SessionSlot::DisconnectedSession(disconnected)) = self.remove(key) else { return None };
        self.timers.remove(&disconnected.timer);
        Some(*disconnected)
    }

    /// Puts `client` in the hands of a connection; what tells that one to end.
    fn connect(
        &mut self,
        key: &SessionKey,
        auth_context: &AuthContext,
        client: &ClientSession,
    ) -> oneshot::Receiver<Reason> {
        let (disconnect, disconnect_signal) = oneshot::channel();
        let entry = SessionSlot::Connected {
            disconnect: Some(disconnect),
            released: Arc::default(),
            auth_context: Box::new(auth_context.clone()),
            outbox: client.outbox.clone(),
        };
        self.session_counts.add(&key.principal, true);
        self.entries.insert(key.clone(), entry);
        disconnect_signal
    }

    fn set_timer(&mut self, key: &SessionKey, expires: Instant, will: Option<Instant>) -> (Instant, u64) {
        self.timers_made += 1;
        let timer = (will.map_or(expires, |will| will.min(expires)), self.timers_made);
        self.timers.insert(timer, key.clone());
        timer
    }

    /// See [`Sessions::review`].
    fn review(&mut self, key: SessionKey, authority: &Authority) -> Option<ClosedSession> {
        let entry = self.entries.get_mut(&key)?;
        let (auth_context, outbox, stays) = match &*entry {
            SessionSlot::Connected { auth_context, outbox, .. } => {
                (auth_context, outbox, authority.review(auth_context).is_some())
            }
            SessionSlot::DisconnectedSession(disconnected) => {
                (&disconnected.auth_context, &disconnected.client.outbox, true)
            }
        };
        // A connection that ends leaves the session to who is let in again.
        let access = authority.review_absent(auth_context);
        let ends = access.is_none();
        outbox.set_access(access.unwrap_or_else(|| Access::none(key.principal.clone())));
        match entry {
            SessionSlot::Connected { disconnect, .. } if ends || !stays => {
                if let Some(disconnect) = disconnect.take() {
                    let _ = disconnect.send(Reason::NOT_AUTHORIZED);
                }
                None
            }
            SessionSlot::DisconnectedSession(_) if ends => {
                self.take_disconnected(&key).map(|disconnected| disconnected.into_closed(key))
            }
            SessionSlot::Connected { .. } | SessionSlot::DisconnectedSession(_) => None,
        }
    }

    fn expire(&mut self, key: SessionKey, now: Instant) -> Option<ClosedSession> {
        let Some(SessionSlot::DisconnectedSession(disconnected)) = self.entries.get_mut(&key) else {
            return None;
        };
        if disconnected.expires <= now {
            return self.take_disconnected(&key).map(|disconnected| disconnected.into_closed(key));
        }
        let will = disconnected.will.take_if(|(at, _)| *at <= now).map(|(_, will)| will);
        let (expires, outbox) = (disconnected.expires, &disconnected.client.outbox);
        let (access, from) = (outbox.access(), outbox.id());
        let timer = self.set_timer(&key, expires, None);
        if let Some(SessionSlot::DisconnectedSession(disconnected)) = self.entries.get_mut(&key) {
            disconnected.timer = timer;
        }
        Some(ClosedSession { key, access, from, client: None, will })
    }
}

impl ClosedSession {
    /// A session that is over.
    fn session(key: SessionKey, client: ClientSession, will: Option<Will>) -> Self {
        Self { key, access: client.outbox.access(), from: client.outbox.id(), client: Some(client), will }
    }
}

impl DisconnectedSession {
    fn into_closed(self, key: SessionKey) -> ClosedSession {
        ClosedSession::session(key, self.client, self.will.map(|(_, will)| will))
    }
}

/// How many sessions are handed out at once, so that a mass expiry does not hold the table for long.
const DUE_AT_ONCE: usize = 256;
