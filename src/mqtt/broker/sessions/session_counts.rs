//! Numbers of sessions and connections per principal.

use std::collections::HashMap;

use crate::{admission::QuotaKind, auth::Principal};

/// Limits on the number of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionsMax {
    /// Sessions of all principals, connected or not.
    pub sessions: usize,
    /// Sessions of one principal, connected or not.
    pub of_principal: usize,
    /// Connected sessions of one principal.
    pub connected_of_principal: usize,
}

/// The session counts of the principals that have sessions.
#[derive(Debug, Default)]
pub(super) struct SessionCounts(HashMap<Principal, SessionCount>);

#[derive(Debug, Default)]
struct SessionCount {
    sessions: usize,
    connected: usize,
}

impl SessionCounts {
    /// Checks that `principal` may have one more connection, and one more session if `new` is set.
    pub(super) fn check(&self, principal: &Principal, new: bool, max: &SessionsMax) -> Result<(), QuotaKind> {
        match self.0.get(principal) {
            Some(count) if count.connected >= max.connected_of_principal => Err(QuotaKind::PrincipalConnections),
            Some(count) if new && count.sessions >= max.of_principal => Err(QuotaKind::PrincipalSessions),
            _ => Ok(()),
        }
    }

    pub(super) fn add(&mut self, principal: &Principal, connected: bool) {
        if !self.0.contains_key(principal) {
            self.0.insert(principal.clone(), SessionCount::default());
        }
        if let Some(count) = self.0.get_mut(principal) {
            count.sessions += 1;
            count.connected += usize::from(connected);
        }
    }

    pub(super) fn remove(&mut self, principal: &Principal, connected: bool) {
        let Some(count) = self.0.get_mut(principal) else { return };
        count.sessions -= 1;
        count.connected -= usize::from(connected);
        if count.sessions == 0 {
            self.0.remove(principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_a_principal_without_sessions() {
        let max = SessionsMax { sessions: 9, of_principal: 2, connected_of_principal: 1 };
        let (mut session_counts, principal) = (SessionCounts::default(), Principal::anonymous("a"));
        // connected, result for one more connection with a new session, and with an existing session
        for (connected, new, known) in [
            (false, Ok(()), Ok(())),
            (false, Err(QuotaKind::PrincipalSessions), Ok(())),
            (true, Err(QuotaKind::PrincipalConnections), Err(QuotaKind::PrincipalConnections)),
        ] {
            session_counts.add(&principal, connected);
            assert_eq!(session_counts.check(&principal, true, &max), new);
            assert_eq!(session_counts.check(&principal, false, &max), known);
        }
        [true, false, false].into_iter().for_each(|connected| session_counts.remove(&principal, connected));
        assert!(session_counts.0.is_empty());
    }
}
