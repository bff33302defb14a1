//! The rights to named queries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::auth::{Access, DeviceRange, Operation};

/// The rights of a client to named queries, as the node knew them that it asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueryRights {
    /// The principal.
    pub(super) principal: Arc<str>,
    /// True if it has all rights.
    pub(super) is_everything: bool,
    /// True if it may read some part of every device.
    pub(super) reads_every_device: bool,
}

impl QueryRights {
    /// Returns the rights of a client with `access`.
    pub(crate) fn of(access: &Access) -> Self {
        Self {
            principal: access.principal().name().clone(),
            is_everything: access.is_everything(),
            reads_every_device: access.devices(Operation::Get, usize::MAX).is_none(),
        }
    }
}

/// Returns true if a client with `access` may store queries: if it may read more than single devices.
pub(crate) fn may_store(access: &Access) -> bool {
    let devices = access.devices(Operation::Get, usize::MAX);
    devices.is_none_or(|ranges| ranges.iter().any(|range| matches!(range, DeviceRange::Prefix(_))))
}
