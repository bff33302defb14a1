//! Names of queries.

use std::{fmt, sync::Arc};

use crate::shadow::name::{self, NameError};

/// The name of a query: 1 to 64 bytes of `A-Z a-z 0-9 : _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryName(Arc<str>);

impl QueryName {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// A [`NameError`] with the offending text.
    pub fn new(text: &str) -> Result<Self, NameError> {
        name::check(text, 64, |c| matches!(c, ':' | '_' | '-'), "A-Z a-z 0-9 : _ -").map(Self)
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
