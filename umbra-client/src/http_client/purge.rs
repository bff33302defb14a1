//! Purges over HTTP: the query, and the result of a part.

use serde::Deserialize;

use super::pages::parameter;

/// The shadows or tombstones that [`crate::HttpClient::purge`] purges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurgeQuery {
    /// Only devices whose id matches; `*` is any run of characters. Needed for shadows.
    pub pattern: Option<String>,
    /// True to drop tombstones of deleted shadows; false to delete shadows.
    pub tombstones: bool,
    /// Only shadows whose last change is before this time, in seconds since the epoch.
    pub not_updated_since: Option<u64>,
    /// True to count only.
    pub dry_run: bool,
    /// The `next` of the result before.
    pub cursor: Option<String>,
}

impl PurgeQuery {
    /// Returns a query that deletes the shadows of devices whose id matches `pattern`.
    #[must_use]
    pub fn shadows(pattern: &str) -> Self {
        Self { pattern: Some(pattern.to_owned()), ..Self::default() }
    }

    /// Returns a query that drops the tombstones of deleted shadows.
    #[must_use]
    pub fn tombstones() -> Self {
        Self { tombstones: true, ..Self::default() }
    }

    /// Sets whether shadows are only counted.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    pub(super) fn parameters(&self) -> String {
        let Self { pattern, tombstones, not_updated_since, dry_run, cursor } = self;
        let pattern = pattern.as_ref().map(|pattern| parameter("pattern", pattern));
        let since = not_updated_since.map(|since| format!("&not_updated_since={since}"));
        let cursor = cursor.as_ref().map(|cursor| parameter("cursor", cursor));
        let optional: String = [pattern, since, cursor].into_iter().flatten().collect();
        format!("deleted={tombstones}&dry_run={dry_run}{optional}")
    }
}

/// The result of [`crate::HttpClient::purge`] for a part of the shadows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PurgeStep {
    /// Shadows that were deleted, or tombstones that were dropped.
    pub purged: u64,
    /// Shadows that changed in between, or tombstones whose changes are still in the journal.
    pub kept: u64,
    /// The cursor of the next part; `None` after the last.
    pub next: Option<String>,
}
