//! A device as a query sees it.

use std::sync::Arc;

use crate::shadow::{DeviceId, Document, ShadowName, Timestamp, document::tree::Members};

/// The readable part of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its presence; `None` if the reader may not know it, or no one asks.
    pub presence: Option<Presence>,
    /// The number of its shadows.
    pub shadow_count: usize,
    /// True if one of its shadows has a delta.
    pub drift: bool,
    /// The time of its newest change; `None` if it has no shadow.
    pub updated: Option<Timestamp>,
    /// Its shadows; those that no one asks for may be missing.
    pub shadows: Vec<Shadow>,
}

/// The presence of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// True if it is connected.
    pub connected: bool,
    /// The time of its connection; once it is disconnected, of its last packet. `None` if it never connected.
    pub seen: Option<Timestamp>,
}

/// The readable part of a shadow that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// Its name; `None` for the classic shadow.
    pub name: Option<ShadowName>,
    /// Its document, cut to the readable paths.
    pub document: Arc<Document>,
    /// The readable part of its delta; empty if there is none.
    pub delta: Members,
}

impl Device {
    /// Returns the device before any of its shadows is added.
    #[must_use]
    pub fn new(id: DeviceId) -> Self {
        Self { id, presence: None, shadow_count: 0, drift: false, updated: None, shadows: Vec::new() }
    }

    /// Returns the shadow with this name; `None` is the name of the classic one.
    pub(in crate::fleet) fn shadow(&self, name: Option<&ShadowName>) -> Option<&Shadow> {
        self.shadows.iter().find(|shadow| shadow.name.as_ref() == name)
    }
}
