//! How many there are at once: connections, requests in flight.

use std::sync::Arc;

/// Counts the [`Place`]s that were taken and not yet dropped.
#[derive(Debug, Default)]
pub(super) struct Tally(Arc<()>);

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _counted: Arc<()>,
}

impl Tally {
    /// How many places are taken. While nobody takes one, it can only become fewer.
    pub(super) fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// One more.
    pub(super) fn take(&self) -> Place {
        Place { _counted: self.0.clone() }
    }
}
