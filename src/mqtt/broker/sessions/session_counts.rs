//! How many sessions and connections each principal has.

use std::collections::HashMap;

use crate::{admission::QuotaKind, auth::Principal};

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionsMax {
    /// Altogether, connected or not.
    pub sessions: usize,
    /// Of one principal, connected or not.
    pub of_principal: usize,
    /// Of one principal, connected.
    pub connected_of_principal: usize,
}

/// The principals that have sessions.
#[derive(Debug, Default)]
pub(super) struct SessionCounts(HashMap<Principal, SessionCount>);

#[derive(Debug, Default)]
struct SessionCount {
    sessions: usize,
    connected: usize,
}

impl SessionCounts {
    /// Whether `principal` may have one more connection, and one more session if that is `new`.
    pub(super) fn check(&self, principal: &Principal, new: bool, max: &SessionsMax) -> Result<(), QuotaKind> {
        match self.0.get(principal) {
            Some(held) if held.connected >= max.connected_of_principal => Err(QuotaKind::PrincipalConnections),
            Some(held) if new && held.sessions >= max.of_principal => Err(QuotaKind::PrincipalSessions),
            _ => Ok(()),
        }
    }

    pub(super) fn add(&mut self, principal: &Principal, connected: bool) {
        if !self.0.contains_key(principal) {
            self.0.insert(principal.clone(), SessionCount::default());
        }
        if let Some(held) = self.0.get_mut(principal) {
            held.sessions += 1;
            held.connected += usize::from(connected);
        }
    }

    pub(super) fn remove(&mut self, principal: &Principal, connected: bool) {
        let Some(held) = self.0.get_mut(principal) else { return };
        held.sessions -= 1;
        held.connected -= usize::from(connected);
        if held.sessions == 0 {
            self.0.remove(principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_session_is_not_remembered() {
        let max = SessionsMax { sessions: 9, of_principal: 2, connected_of_principal: 1 };
        let (mut session_counts, principal) = (SessionCounts::default(), Principal::anonymous("a"));
        // connected, whether one more connection may come for a new session, and for one that is there
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
