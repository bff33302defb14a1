//! The end of disconnected sessions for others: when a new session needs a place or memory, or when memory is short.

use crate::{
    admission::{PrincipalQuota, QuotaKind},
    auth::Principal,
    mqtt::broker::sessions::{CONNECTION_BYTES, ClosedSession, SESSION_BYTES, SessionKey, SessionTable, Sessions},
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
    /// Makes place and memory for a new session of `key`. Sessions that are away end for it and are added to `ended`.
    pub(super) fn make_room(
        &mut self,
        key: &SessionKey,
        quota: &PrincipalQuota,
        max: usize,
        ended: &mut Vec<ClosedSession>,
    ) -> Result<(), QuotaKind> {
        if self.session_counts.of(&key.principal).sessions >= quota.limits().sessions {
            let longest = self.away.longest_of(&key.principal).ok_or(QuotaKind::PrincipalSessions)?;
            ended.extend(self.evict(longest));
        }
        if self.entries.len() >= max {
            let longest = self.away.longest_for(&key.principal).ok_or(QuotaKind::Sessions)?;
            ended.extend(self.evict(longest));
        }
        while let Err(cause) = quota.check_memory(SESSION_BYTES + CONNECTION_BYTES) {
            let own = self.away.longest_of(&key.principal);
            let longest = match cause {
                QuotaKind::PrincipalMemory => own,
                _ => self.away.longest_anonymous().or(own),
            };
            let longest = longest.filter(|_| ended.len() < EVICTED_AT_ONCE).ok_or(cause)?;
            ended.extend(self.evict(longest));
        }
        Ok(())
    }

    /// Ends the disconnected session of `key`, and releases its memory to others at once.
    pub(super) fn evict(&mut self, key: SessionKey) -> Option<ClosedSession> {
        let mut disconnected = self.take_disconnected(&key)?;
        disconnected.client.charge.resize(0);
        Some(disconnected.into_closed(key))
    }
}

/// Most sessions that end for one new connection.
const EVICTED_AT_ONCE: usize = 8;
