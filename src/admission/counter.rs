//! A counter of concurrent uses, such as connections or requests in flight.

use std::sync::Arc;

/// A counter of the [`Permit`]s taken and not yet dropped.
#[derive(Debug, Default)]
pub(super) struct Counter(Arc<()>);

/// A permit that counts until it is dropped.
#[derive(Debug)]
pub struct Permit {
    _counted: Arc<()>,
}

impl Counter {
    /// Returns the number of permits. It can only decrease while no permit is taken.
    pub(super) fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// Takes one more permit.
    pub(super) fn take(&self) -> Permit {
        Permit { _counted: self.0.clone() }
    }
}
