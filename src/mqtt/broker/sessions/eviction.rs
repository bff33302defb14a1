//! The end of disconnected sessions for others: when a new session needs a place or memory, or when memory is short.

use crate::{
    admission::QuotaKind,
    auth::Principal,
    mqtt::broker::sessions::{
        Arrival, CONNECTION_BYTES, ClosedSession, SESSION_BYTES, SessionKey, SessionTable, Sessions,
    },
};

impl Sessions {
    /// Ends the disconnected session of `principal` that is away for longest; without a principal, that of an anonymous
    /// client.
    pub fn end_longest_away(&self, principal: Option<&Principal>) -> Option<ClosedSession> {
        let mut table = self.table.lock();
        let longest = match principal {
            Some(principal) => table.away.longest_of(principal),
            None => table.away.longest_anonymous(),
        }?;
        table.evict(longest)
    }
}

impl SessionTable {
    /// Makes place and memory for the session and the will of `arrival`. Sessions that are away end for it and are added
    /// to `ended`. A client that comes back to its session takes up no more place, and it frees what waits for it: it
    /// needs memory for its will only.
    pub(super) fn make_room(
        &mut self,
        arrival: &Arrival<'_>,
        max: usize,
        ended: &mut Vec<ClosedSession>,
    ) -> Result<(), QuotaKind> {
        let Arrival { key, quota, will_bytes, .. } = *arrival;
        if self.entries.contains_key(key) {
            return if will_bytes > 0 { self.make_memory(arrival, will_bytes, ended) } else { Ok(()) };
        }
        if self.session_counts.of(&key.principal).sessions >= quota.limits().sessions {
            let longest = self.away.longest_of(&key.principal).ok_or(QuotaKind::PrincipalSessions)?;
            ended.extend(self.evict(longest));
        }
        if self.entries.len() >= max {
            let longest = self.away.longest_for(&key.principal).ok_or(QuotaKind::Sessions)?;
            ended.extend(self.evict(longest));
        }
        self.make_memory(arrival, SESSION_BYTES + CONNECTION_BYTES + will_bytes, ended)
    }

    /// Makes memory of `bytes`. The session that the client comes back to does not end for it.
    fn make_memory(
        &mut self,
        arrival: &Arrival<'_>,
        bytes: usize,
        ended: &mut Vec<ClosedSession>,
    ) -> Result<(), QuotaKind> {
        let key = arrival.key;
        if bytes > arrival.quota.limits().memory {
            return Err(QuotaKind::PrincipalMemory); // no session needs to end
        }
        while let Err(cause) = arrival.quota.check_memory(bytes) {
            let own = self.away.longest_beside(key);
            let longest = match cause {
                QuotaKind::PrincipalMemory => own,
                _ => self.away.longest_anonymous().filter(|longest| longest != key).or(own),
            };
            let longest = longest.filter(|_| ended.len() < EVICTED_AT_ONCE).ok_or(cause)?;
            ended.extend(self.evict(longest));
        }
        Ok(())
    }

    /// Ends the disconnected session of `key`, and releases its memory to others at once.
    pub(super) fn evict(&mut self, key: SessionKey) -> Option<ClosedSession> {
        let mut disconnected = self.take_disconnected(&key)?;
        disconnected.lost.client.charge.resize(0);
        Some(disconnected.into_closed(key))
    }
}

/// Most sessions that end for one new connection.
const EVICTED_AT_ONCE: usize = 8;
