//! Every session there is: which are connected, which wait for their client, and what falls due while they wait.
//!
//! A session belongs to a principal and client id; the same client id of another principal is another session. Its
//! state is owned by the connection that serves it and parked here in between. A second connection of the same client
//! takes the session over: it asks the first to end, waits until that has parked the session, and takes it from there,
//! so no two tasks ever hold one session.
//!
//! Delayed wills and session expiry are instants in one ordered set; [`Sessions::due`] hands out what has fallen due.

mod holders;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified, oneshot};

use self::holders::Holders;
pub use self::holders::SessionsMax;
use crate::{
    auth::{Access, Authority, Principal, Standing},
    mqtt::{
        catch_up::CatchUp,
        filters::Filters,
        outbox::{Outbox, SessionId},
        packet::{Reason, Will},
        session::Session,
    },
    quota::Cause,
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
    pub(super) catch_up: CatchUp,
}

/// A session in the hands of a connection.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub client: ClientSession,
    /// Whether it was there before.
    pub present: bool,
    /// Resolves when the connection has to end, with the reason.
    pub kicked: oneshot::Receiver<Reason>,
    /// The session this one replaces, if the client asked for a clean start.
    pub replaced: Option<Ended>,
}

/// What is left to do for a session that is no more, or for a will whose time has come.
#[derive(Debug)]
pub struct Ended {
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
    table: Mutex<Table>,
    max: SessionsMax,
    timers_changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<SessionKey, Entry>,
    /// Whose `entries` are, changed with them.
    holders: Holders,
    timers: BTreeMap<(Instant, u64), SessionKey>,
    timers_made: u64,
    /// Set once: no connection is taken any more.
    closing: bool,
}

#[derive(Debug)]
enum Entry {
    /// A connection holds the session. `kick` is taken by the first that wants it to end.
    Connected {
        kick: Option<oneshot::Sender<Reason>>,
        released: Arc<Notify>,
        standing: Box<Standing>,
        outbox: Arc<Outbox>,
    },
    /// Nobody does.
    Parked(Box<Parked>),
}

#[derive(Debug)]
struct Parked {
    standing: Box<Standing>,
    client: ClientSession,
    expires: Instant,
    will: Option<(Instant, Will)>,
    timer: (Instant, u64),
}

/// What came of an attempt to take a session.
enum Attempt {
    Done(Box<Attached>),
    /// A connection holds it, and was told to end. Resolves when it has given the session back.
    Held(OwnedNotified),
}

/// The sessions in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// In the hands of a connection.
    pub connected: usize,
    /// Waiting for their client.
    pub parked: usize,
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
    Quota(Cause),
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

    /// Gives the session of `key` to a new connection that was let in on `standing`, ending the one that holds it;
    /// `make` makes a new session. It has the rights of that moment: while it waited its token may have ended, or
    /// rights may have been read anew. From then on it is in the table, and reviewed there.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]; what there is stays as it is then, but for a connection that was waited for.
    pub async fn attach(
        &self,
        key: &SessionKey,
        standing: &Standing,
        clean_start: bool,
        authority: &Authority,
        make: impl Fn(&Access) -> ClientSession,
    ) -> Result<Attached, Refusal> {
        loop {
            match self.try_attach(key, standing, clean_start, authority, &make)? {
                Attempt::Done(attached) => return Ok(*attached),
                Attempt::Held(released) => released.await,
            }
        }
    }

    /// Takes back the session of a connection that ended, to keep it for `expiry` seconds if its client may come back,
    /// and tells what to do now.
    pub fn release(&self, key: &SessionKey, client: ClientSession, expiry: u32, will: Option<Will>) -> Ended {
        let now = Instant::now();
        let mut table = self.table.lock();
        let Some(Entry::Connected { released, standing, .. }) = table.remove(key) else {
            return Ended::session(key.clone(), client, will);
        };
        released.notify_waiters();
        if expiry == 0 || table.closing || !client.outbox.access().is_any() {
            return Ended::session(key.clone(), client, will);
        }
        let expires = now + Duration::from_secs(expiry.into());
        let (will_now, will_later) = match will {
            Some(will) if will.delay > 0 => (None, Some((now + Duration::from_secs(will.delay.into()), will))),
            will => (will, None),
        };
        let (access, from) = (client.outbox.access(), client.outbox.id());
        let timer = table.set_timer(key, expires, will_later.as_ref().map(|(at, _)| *at));
        let parked = Parked { standing, client, expires, will: will_later, timer };
        table.holders.add(&key.principal, false);
        table.entries.insert(key.clone(), Entry::Parked(Box::new(parked)));
        drop(table);
        self.timers_changed.notify_one();
        Ended { key: key.clone(), access, from, client: None, will: will_now }
    }

    /// Waits until a will or a session falls due, and hands out what has.
    pub async fn due(&self) -> Vec<Ended> {
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
            if let Entry::Connected { kick, .. } = entry
                && let Some(kick) = kick.take()
            {
                let _ = kick.send(reason);
            }
        }
    }

    /// Gives each session the rights that its standing is worth now. One that is worth none ends: a parked one is
    /// handed out, a connected one ends with its connection. That ends with [`Reason::NOT_AUTHORIZED`] also where its
    /// client may come back, but has to be let in anew.
    ///
    /// The table is taken for one session at a time, so that nobody waits for all of them. A client that comes
    /// meanwhile has the rights of now.
    pub fn review(&self, authority: &Authority) -> Vec<Ended> {
        let keys: Vec<_> = self.table.lock().entries.keys().cloned().collect();
        keys.into_iter().filter_map(|key| self.table.lock().review(key, authority)).collect()
    }

    /// Hands out every parked session as ended; for the end of the server, after [`Sessions::close`].
    pub fn drain(&self) -> Vec<Ended> {
        let mut table = self.table.lock();
        table.timers.clear();
        let Table { entries, holders, .. } = &mut *table;
        let parked = entries.extract_if(|_, entry| matches!(entry, Entry::Parked(_)));
        let parked = parked.inspect(|(key, _)| holders.remove(&key.principal, false));
        let ended = |(key, entry)| match entry {
            Entry::Parked(parked) => Some(parked.into_ended(key)),
            Entry::Connected { .. } => None,
        };
        parked.filter_map(ended).collect()
    }

    /// How many sessions there are, and what is queued towards them. Looks at every one, the table free meanwhile.
    #[must_use]
    pub fn load(&self) -> Load {
        let entries: Vec<(bool, Arc<Outbox>)> = {
            let table = self.table.lock();
            let outboxes = table.entries.values().map(|entry| match entry {
                Entry::Connected { outbox, .. } => (true, outbox.clone()),
                Entry::Parked(parked) => (false, parked.client.outbox.clone()),
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
                false => load.parked += 1,
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
        standing: &Standing,
        clean_start: bool,
        authority: &Authority,
        make: impl Fn(&Access) -> ClientSession,
    ) -> Result<Attempt, Refusal> {
        let mut table = self.table.lock();
        if table.closing {
            return Err(Refusal::Closing);
        }
        let access = authority.review(standing).ok_or(Refusal::NoRights)?;
        if let Some(released) = table.take_over(key) {
            return Ok(Attempt::Held(released));
        }
        table.check(key, &self.max).map_err(Refusal::Quota)?;
        let parked = table.unpark(key);
        let (client, present, replaced) = match parked {
            None => (make(&access), false, None),
            // The session ends here, and with it any delay of its will. [MQTT-3.1.2-8]
            Some(parked) if clean_start => (make(&access), false, Some(parked.into_ended(key.clone()))),
            Some(parked) => {
                parked.client.outbox.set_access(access);
                (parked.client, true, None)
            }
        };
        let kicked = table.connect(key, standing, &client);
        Ok(Attempt::Done(Box::new(Attached { client, present, kicked, replaced })))
    }

    fn take_due(&self, now: Instant) -> (Vec<Ended>, Option<Instant>) {
        let mut table = self.table.lock();
        let mut due = Vec::new();
        while let Some(first) = table.timers.first_entry() {
            if first.key().0 > now || due.len() >= DUE_AT_ONCE {
                break;
            }
            let key = first.remove();
            due.extend(table.fall_due(key, now));
        }
        let next = table.timers.first_key_value().map(|((at, _), _)| *at);
        (due, next)
    }
}

impl Table {
    fn remove(&mut self, key: &SessionKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.holders.remove(&key.principal, matches!(entry, Entry::Connected { .. }));
        Some(entry)
    }

    /// Tells a connection that holds the session of `key` to end, if one does: what resolves when it has.
    fn take_over(&mut self, key: &SessionKey) -> Option<OwnedNotified> {
        let Some(Entry::Connected { kick, released, .. }) = self.entries.get_mut(key) else { return None };
        if let Some(kick) = kick.take() {
            let _ = kick.send(Reason::SESSION_TAKEN_OVER); // [MQTT-3.1.4-3]
        }
        Some(released.clone().notified_owned())
    }

    /// Whether there may be one more connection, for the session of `key`, which none holds.
    fn check(&self, key: &SessionKey, max: &SessionsMax) -> Result<(), Cause> {
        let new = !self.entries.contains_key(key);
        if new && self.entries.len() >= max.sessions {
            return Err(Cause::Sessions);
        }
        self.holders.check(&key.principal, new, max)
    }

    /// Takes out the session of `key`, which no connection holds, if there is one.
    fn unpark(&mut self, key: &SessionKey) -> Option<Parked> {
        let Some(Entry::Parked(parked)) = self.remove(key) else { return None };
        self.timers.remove(&parked.timer);
        Some(*parked)
    }

    /// Puts `client` in the hands of a connection; what tells that one to end.
    fn connect(&mut self, key: &SessionKey, standing: &Standing, client: &ClientSession) -> oneshot::Receiver<Reason> {
        let (kick, kicked) = oneshot::channel();
        let entry = Entry::Connected {
            kick: Some(kick),
            released: Arc::default(),
            standing: Box::new(standing.clone()),
            outbox: client.outbox.clone(),
        };
        self.holders.add(&key.principal, true);
        self.entries.insert(key.clone(), entry);
        kicked
    }

    fn set_timer(&mut self, key: &SessionKey, expires: Instant, will: Option<Instant>) -> (Instant, u64) {
        self.timers_made += 1;
        let timer = (will.map_or(expires, |will| will.min(expires)), self.timers_made);
        self.timers.insert(timer, key.clone());
        timer
    }

    /// See [`Sessions::review`].
    fn review(&mut self, key: SessionKey, authority: &Authority) -> Option<Ended> {
        let entry = self.entries.get_mut(&key)?;
        let (standing, outbox, stays) = match &*entry {
            Entry::Connected { standing, outbox, .. } => (standing, outbox, authority.review(standing).is_some()),
            Entry::Parked(parked) => (&parked.standing, &parked.client.outbox, true),
        };
        // A connection that ends leaves the session to who is let in again.
        let access = authority.review_absent(standing);
        let ends = access.is_none();
        outbox.set_access(access.unwrap_or_else(|| Access::none(key.principal.clone())));
        match entry {
            Entry::Connected { kick, .. } if ends || !stays => {
                if let Some(kick) = kick.take() {
                    let _ = kick.send(Reason::NOT_AUTHORIZED);
                }
                None
            }
            Entry::Parked(_) if ends => self.unpark(&key).map(|parked| parked.into_ended(key)),
            Entry::Connected { .. } | Entry::Parked(_) => None,
        }
    }

    fn fall_due(&mut self, key: SessionKey, now: Instant) -> Option<Ended> {
        let Some(Entry::Parked(parked)) = self.entries.get_mut(&key) else {
            return None;
        };
        if parked.expires <= now {
            return self.unpark(&key).map(|parked| parked.into_ended(key));
        }
        let will = parked.will.take_if(|(at, _)| *at <= now).map(|(_, will)| will);
        let (expires, outbox) = (parked.expires, &parked.client.outbox);
        let (access, from) = (outbox.access(), outbox.id());
        let timer = self.set_timer(&key, expires, None);
        if let Some(Entry::Parked(parked)) = self.entries.get_mut(&key) {
            parked.timer = timer;
        }
        Some(Ended { key, access, from, client: None, will })
    }
}

impl Ended {
    /// A session that is over.
    fn session(key: SessionKey, client: ClientSession, will: Option<Will>) -> Self {
        Self { key, access: client.outbox.access(), from: client.outbox.id(), client: Some(client), will }
    }
}

impl Parked {
    fn into_ended(self, key: SessionKey) -> Ended {
        Ended::session(key, self.client, self.will.map(|(_, will)| will))
    }
}

/// How many sessions are handed out at once, so that a mass expiry does not hold the table for long.
const DUE_AT_ONCE: usize = 256;
