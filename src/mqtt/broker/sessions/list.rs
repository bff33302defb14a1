//! The list of sessions for operators, and the end of one or of all of a principal.
//!
//! A list is read page by page. The table is locked for a bounded number of sessions at a time, and what a session shows is
//! read without that lock.

use std::{
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    auth::Principal,
    mqtt::{
        broker::{
            outbox::Outbox,
            session_view::SessionView,
            sessions::{ClosedSession, SessionKey, SessionSlot, SessionTable, Sessions},
        },
        protocol::packet::Reason,
    },
};

/// A session as an operator sees it.
#[derive(Clone, Debug)]
pub struct ListedSession {
    /// The identity of the session.
    pub key: SessionKey,
    /// Its filters, connection and messages in flight.
    pub view: Arc<SessionView>,
    /// Its queue.
    pub outbox: Arc<Outbox>,
    /// Without a connection: the date of the loss, in milliseconds since 1970, and the time until the session expires.
    pub lost: Option<(u64, Duration)>,
}

/// The sessions that a list selects.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// The beginning of the principal's name.
    pub prefix: String,
    /// True for sessions with a connection, false for those without one; `None` for all.
    pub connected: Option<bool>,
}

/// Sessions that an operator ends, or whose connections.
#[derive(Debug, Default)]
pub struct EndedSessions {
    /// One for each connection that ends, closed when it has released its session, and what has ended is disposed of.
    pub connected: Vec<oneshot::Receiver<()>>,
    /// Sessions that had no connection and have ended.
    pub disconnected: Vec<ClosedSession>,
}

impl Sessions {
    /// Returns at most `limit` sessions after `after` that `filter` selects, in order, and the key after which the next page
    /// begins if there may be one. It looks at a bounded number of sessions, so a page may be short.
    #[must_use]
    pub fn page(
        &self,
        filter: &SessionFilter,
        after: Option<&SessionKey>,
        limit: usize,
    ) -> (Vec<ListedSession>, Option<SessionKey>) {
        let (mut found, mut last, mut looked_at) = (Vec::new(), after.cloned(), 0);
        while looked_at < LOOKED_AT_MAX {
            let slice = LOCKED_AT_ONCE.min(LOOKED_AT_MAX - looked_at);
            let Some(seen) = self.table.lock().slice(filter, &mut last, slice, limit - found.len(), &mut found) else {
                return (found, None);
            };
            looked_at += seen;
            if found.len() >= limit {
                break;
            }
        }
        (found, last)
    }

    /// Returns the session of `key`.
    #[must_use]
    pub fn find(&self, key: &SessionKey) -> Option<ListedSession> {
        let table = self.table.lock();
        Some(table.entries.get(key)?.listed(key, Instant::now()))
    }

    /// Ends the session of `key`, and its connection with [`Reason::ADMINISTRATIVE_ACTION`]. `None` if there is none.
    pub(in crate::mqtt::broker) fn end(&self, key: &SessionKey) -> Option<EndedSessions> {
        let (mut table, mut ended) = (self.table.lock(), EndedSessions::default());
        table.entries.contains_key(key).then(|| table.end(key, false, &mut ended))?;
        Some(ended)
    }

    /// Ends the connections of `principal` with [`Reason::ADMINISTRATIVE_ACTION`], and its sessions unless `keep_sessions` is set.
    #[must_use]
    pub fn end_of(&self, principal: &str, keep_sessions: bool) -> EndedSessions {
        let (mut table, mut ended) = (self.table.lock(), EndedSessions::default());
        let of_principal = table.entries.keys().filter(|key| **key.principal.name() == *principal);
        for key in of_principal.cloned().collect::<Vec<_>>() {
            table.end(&key, keep_sessions, &mut ended);
        }
        ended
    }
}

impl SessionTable {
    /// Ends the connection of a session, and the session unless it is kept, and adds what is to wait for to `ended`.
    fn end(&mut self, key: &SessionKey, is_kept: bool, ended: &mut EndedSessions) {
        match self.entries.get_mut(key) {
            Some(SessionSlot::Connected(connected)) => {
                let (disposed, wait) = oneshot::channel();
                connected.ends |= !is_kept;
                connected.disposed.push(disposed);
                connected.disconnect(Reason::ADMINISTRATIVE_ACTION);
                ended.connected.push(wait);
            }
            Some(SessionSlot::Disconnected(_)) if !is_kept => {
                let taken = self.take_disconnected(key);
                ended.disconnected.extend(taken.map(|disconnected| disconnected.into_closed(key.clone())));
            }
            Some(SessionSlot::Disconnected(_)) | None => {}
        }
    }

    /// Adds sessions after `last` to `found`, at most `limit`, looks at no more than `slice`, and moves `last`. Returns the
    /// number that it looked at; `None` at the end.
    fn slice(
        &self,
        filter: &SessionFilter,
        last: &mut Option<SessionKey>,
        slice: usize,
        limit: usize,
        found: &mut Vec<ListedSession>,
    ) -> Option<usize> {
        let first = SessionKey { principal: Principal::of_known(&filter.prefix.as_str().into()), client_id: "".into() };
        let from = match last {
            Some(last) if *last >= first => Bound::Excluded(&*last),
            _ => Bound::Included(&first),
        };
        let (now, most, mut looked_at, mut end) = (Instant::now(), found.len() + limit, 0, None);
        for (key, slot) in self.entries.range((from, Bound::Unbounded)) {
            if !key.principal.name().starts_with(&filter.prefix) {
                return None;
            }
            looked_at += 1;
            end = Some(key);
            let connected = matches!(slot, SessionSlot::Connected(_));
            if filter.connected.is_none_or(|wanted| wanted == connected) {
                found.push(slot.listed(key, now));
            }
            if looked_at >= slice || found.len() >= most {
                break;
            }
        }
        *last = Some(end?.clone());
        Some(looked_at)
    }
}

impl SessionSlot {
    fn listed(&self, key: &SessionKey, now: Instant) -> ListedSession {
        let (view, outbox, lost) = match self {
            Self::Connected(connected) => (&connected.view, &connected.outbox, None),
            Self::Disconnected(disconnected) => {
                let lost = &disconnected.lost;
                let expires_in = lost.expires.saturating_duration_since(now);
                (lost.client.filters.view(), &lost.client.outbox, Some((lost.at_ms, expires_in)))
            }
        };
        ListedSession { key: key.clone(), view: view.clone(), outbox: outbox.clone(), lost }
    }
}

/// Sessions that one page looks at.
const LOOKED_AT_MAX: usize = 2_000;

/// Sessions for which the table stays locked.
const LOCKED_AT_ONCE: usize = 100;
