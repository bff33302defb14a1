//! Numbers of sessions and connections per principal.

use std::collections::HashMap;

use crate::auth::Principal;

/// The session counts of the principals that have sessions.
#[derive(Debug, Default)]
pub(super) struct SessionCounts(HashMap<Principal, SessionCount>);

/// The sessions of one principal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCount {
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Sessions with a connection.
    pub connected: usize,
}

impl SessionCounts {
    /// Returns the sessions of `principal`.
    pub(super) fn of(&self, principal: &Principal) -> SessionCount {
        self.0.get(principal).copied().unwrap_or_default()
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
        let (mut session_counts, principal) = (SessionCounts::default(), Principal::anonymous("a"));
        for (connected, count) in [(false, (1, 0)), (true, (2, 1)), (false, (3, 1))] {
            session_counts.add(&principal, connected);
            let SessionCount { sessions, connected } = session_counts.of(&principal);
            assert_eq!((sessions, connected), count);
        }
        [true, false, false].into_iter().for_each(|connected| session_counts.remove(&principal, connected));
        assert!(session_counts.0.is_empty());
    }
}
