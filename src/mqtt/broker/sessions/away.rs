//! The disconnected sessions in the order in which they lost their connection: those away for longest end first when
//! memory or places are short.

use std::{collections::BTreeMap, sync::Arc};

use crate::{auth::Principal, mqtt::broker::sessions::SessionKey};

/// An index of the disconnected sessions by the time that they are away.
#[derive(Debug, Default)]
pub(super) struct AwaySessions {
    /// The client ids by principal, longest away first.
    by_principal: BTreeMap<(Principal, AwayNumber), Arc<str>>,
    /// The sessions of anonymous clients, then those of others, longest away first.
    by_age: BTreeMap<(IsKnown, AwayNumber), SessionKey>,
    last: u64,
}

/// The position of a session in the order in which sessions lost their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AwayNumber(u64);

/// True for a principal that is not anonymous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct IsKnown(bool);

impl AwaySessions {
    /// Adds a session that lost its connection now.
    pub(super) fn add(&mut self, key: &SessionKey) -> AwayNumber {
        self.last += 1;
        let number = AwayNumber(self.last);
        self.by_principal.insert((key.principal.clone(), number), key.client_id.clone());
        self.by_age.insert((IsKnown::of(&key.principal), number), key.clone());
        number
    }

    /// Removes a session that ends or has a connection again.
    pub(super) fn remove(&mut self, key: &SessionKey, number: AwayNumber) {
        self.by_principal.remove(&(key.principal.clone(), number));
        self.by_age.remove(&(IsKnown::of(&key.principal), number));
    }

    /// Returns the session of `principal` that is away for longest.
    pub(super) fn longest_of(&self, principal: &Principal) -> Option<SessionKey> {
        let all = (principal.clone(), AwayNumber(0))..=(principal.clone(), AwayNumber(u64::MAX));
        let (_, client_id) = self.by_principal.range(all).next()?;
        Some(SessionKey { principal: principal.clone(), client_id: client_id.clone() })
    }

    /// Returns the session that is away for longest among the others of the principal of `key`.
    pub(super) fn longest_beside(&self, key: &SessionKey) -> Option<SessionKey> {
        let SessionKey { principal, client_id } = key;
        let all = (principal.clone(), AwayNumber(0))..=(principal.clone(), AwayNumber(u64::MAX));
        let (_, client_id) = self.by_principal.range(all).find(|(_, other)| *other != client_id)?;
        Some(SessionKey { principal: principal.clone(), client_id: client_id.clone() })
    }

    /// Returns the session of an anonymous client that is away for longest.
    pub(super) fn longest_anonymous(&self) -> Option<SessionKey> {
        let ((known, _), key) = self.by_age.first_key_value()?;
        (!known.0).then(|| key.clone())
    }

    /// Returns the session that makes place for one of `principal`: the one away for longest, anonymous ones first. An
    /// anonymous client ends only sessions of anonymous clients.
    pub(super) fn longest_for(&self, principal: &Principal) -> Option<SessionKey> {
        let ((known, _), key) = self.by_age.first_key_value()?;
        (known <= &IsKnown::of(principal)).then(|| key.clone())
    }
}

impl IsKnown {
    fn of(principal: &Principal) -> Self {
        Self(!principal.is_anonymous())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test")]

    use super::*;

    fn key(principal: &str, client_id: &str) -> SessionKey {
        let principal = match principal {
            "" => Principal::anonymous(client_id),
            name => Principal::named(name).expect("a valid name"),
        };
        SessionKey { principal, client_id: client_id.into() }
    }

    #[test]
    fn those_away_for_longest_come_first_and_anonymous_ones_before_all() {
        let mut away = AwaySessions::default();
        let keys = [key("a", "1"), key("b", "2"), key("", "3"), key("a", "4"), key("", "5")];
        let numbers = keys.each_ref().map(|key| away.add(key));
        assert_eq!(away.longest_of(&keys[0].principal).as_ref(), Some(&keys[0]));
        assert_eq!(away.longest_anonymous().as_ref(), Some(&keys[2]));
        assert_eq!(away.longest_for(&keys[0].principal).as_ref(), Some(&keys[2]));
        for at in [2, 4] {
            away.remove(&keys[at], numbers[at]);
        }
        assert_eq!(away.longest_anonymous(), None);
        assert_eq!(away.longest_for(&keys[4].principal), None, "an anonymous client ends no session of a known one");
        assert_eq!(away.longest_for(&keys[1].principal).as_ref(), Some(&keys[0]));
        away.remove(&keys[0], numbers[0]);
        assert_eq!(away.longest_of(&keys[0].principal).as_ref(), Some(&keys[3]));
        assert_eq!(away.longest_for(&keys[0].principal).as_ref(), Some(&keys[1]));
    }
}
