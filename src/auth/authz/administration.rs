//! Administrative operations, which a rule allows by name. A rule that allows everything includes them.

/// An operation on the sessions or retained messages of all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Administration {
    /// Lists and shows sessions.
    ListSessions,
    /// Ends a session.
    EndSessions,
    /// Lists retained messages, without their payload.
    ListRetained,
}

/// A set of administrative operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Administrations(u8);

impl Administration {
    /// All operations by their names in rules.
    pub const NAMED: [(&'static str, Self); 3] = [
        ("list-sessions", Self::ListSessions),
        ("end-sessions", Self::EndSessions),
        ("list-retained", Self::ListRetained),
    ];

    /// Returns the operation of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, operation)| operation)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.into_iter().find(|(_, operation)| *operation == self).map_or("", |(name, _)| name)
    }

    /// Returns the names of all operations, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::NAMED.map(|(name, _)| name).join(", ")
    }
}

impl Administrations {
    /// Parses the names of operations.
    ///
    /// # Errors
    ///
    /// The first unknown name, in a sentence.
    pub(super) fn read(names: &[String]) -> Result<Self, String> {
        let mut read = Self::default();
        for name in names {
            let operation = Administration::of(name)
                .ok_or_else(|| format!("has '{name}', but must be of {}", Administration::names()))?;
            read.0 |= 1 << operation as u8;
        }
        Ok(read)
    }

    /// Returns true if `operation` is in the set.
    pub(super) fn has(self, operation: Administration) -> bool {
        self.0 & (1 << operation as u8) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_a_set() {
        let read =
            |names: &[&str]| Administrations::read(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        for (name, operation) in Administration::NAMED {
            let set = read(&[name]);
            for (_, other) in Administration::NAMED {
                assert_eq!(set.as_ref().map(|set| set.has(other)), Ok(other == operation), "{name}");
            }
            assert_eq!(operation.name(), name);
        }
        assert_eq!(read(&[]), Ok(Administrations::default()));
        let error = read(&["list-sessions", "all"]).err().unwrap_or_default();
        assert_eq!(error, "has 'all', but must be of list-sessions, end-sessions, list-retained");
    }
}
