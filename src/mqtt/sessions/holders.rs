//! How many sessions and connections each principal has.

use std::collections::HashMap;

use crate::{auth::Principal, quota::Cause};

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
pub(super) struct Holders(HashMap<Principal, Held>);

#[derive(Debug, Default)]
struct Held {
    sessions: usize,
    connected: usize,
}

impl Holders {
    /// Whether `principal` may have one more connection, and one more session if that is `new`.
    pub(super) fn check(&self, principal: &Principal, new: bool, max: &SessionsMax) -> Result<(), Cause> {
        match self.0.get(principal) {
            Some(held) if held.connected >= max.connected_of_principal => Err(Cause::PrincipalConnections),
            Some(held) if new && held.sessions >= max.of_principal => Err(Cause::PrincipalSessions),
            _ => Ok(()),
        }
    }

    pub(super) fn add(&mut self, principal: &Principal, connected: bool) {
        if !self.0.contains_key(principal) {
            self.0.insert(principal.clone(), Held::default());
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
        let (mut holders, principal) = (Holders::default(), Principal::anonymous("a"));
        // connected, whether one more connection may come for a new session, and for one that is there
        for (connected, new, known) in [
            (false, Ok(()), Ok(())),
            (false, Err(Cause::PrincipalSessions), Ok(())),
            (true, Err(Cause::PrincipalConnections), Err(Cause::PrincipalConnections)),
        ] {
            holders.add(&principal, connected);
            assert_eq!(holders.check(&principal, true, &max), new);
            assert_eq!(holders.check(&principal, false, &max), known);
        }
        [true, false, false].into_iter().for_each(|connected| holders.remove(&principal, connected));
        assert!(holders.0.is_empty());
    }
}
