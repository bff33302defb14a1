//! Named queries as written, which [`crate::search::named`] parses.

use super::{
    error::{Problem, UnlocatedError},
    raw::RawQuery,
};

/// A section `[[query]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryConfig {
    /// The name.
    pub name: String,
    /// The query.
    pub q: String,
    /// The description; empty for none.
    pub description: String,
}

/// Most queries in the configuration.
const QUERIES_MAX: usize = 100;

/// Returns all named queries.
pub(super) fn queries(raw: &[RawQuery]) -> Result<Vec<QueryConfig>, UnlocatedError> {
    if raw.len() > QUERIES_MAX {
        let detail = format!("is there {} times, but may be at most {QUERIES_MAX} times", raw.len());
        return Err(UnlocatedError::new("query", Problem::Invalid(detail)));
    }
    let query = |RawQuery { name, q, description }: &RawQuery| QueryConfig {
        name: name.0.clone(),
        q: q.0.clone(),
        description: description.0.clone(),
    };
    Ok(raw.iter().map(query).collect())
}
