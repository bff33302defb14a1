//! The part of a session that operators see. It is shared, since a connection owns the rest of the session while it serves
//! it.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::mqtt::protocol::{
    packet::{Protocol, QoS},
    topic::TopicFilter,
};

/// The observable part of a session. Its connection changes it, or whoever ends or restores the session.
#[derive(Debug, Default)]
pub struct SessionView {
    inner: Mutex<ViewInner>,
    /// Messages that were sent and not acknowledged, as of the last turn of the connection.
    inflight: AtomicUsize,
}

#[derive(Debug, Default)]
struct ViewInner {
    /// Sorted, since one session may have thousands, and a SUBSCRIBE looks up each of its filters. Most have four.
    filters: Vec<GrantedFilter>,
    connection: Option<LastConnection>,
}

/// A filter and the QoS that was granted for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedFilter {
    /// The filter.
    pub filter: TopicFilter,
    /// The maximum QoS.
    pub qos: QoS,
}

/// The connection of a session, or the last one since the start of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastConnection {
    /// The client's address.
    pub address: IpAddr,
    /// The protocol version.
    pub protocol: Protocol,
    /// The date when it began, in milliseconds since 1970.
    pub since_ms: u64,
    /// Seconds that the session outlives it.
    pub session_expiry: u32,
}

impl SessionView {
    /// Returns true if the session has `filter`.
    pub(super) fn contains(&self, filter: &TopicFilter) -> bool {
        self.inner.lock().position(filter).is_ok()
    }

    /// Adds `filter` with QoS 0, unless it is there. Returns true if it was added.
    pub(super) fn insert(&self, filter: &TopicFilter) -> bool {
        let mut inner = self.inner.lock();
        let Err(at) = inner.position(filter) else { return false };
        if inner.filters.is_empty() {
            inner.filters.reserve_exact(1); // most have few
        }
        inner.filters.insert(at, GrantedFilter { filter: filter.clone(), qos: QoS::AtMostOnce });
        true
    }

    /// Sets the QoS that is granted for `filter`.
    pub(super) fn set_qos(&self, filter: &TopicFilter, qos: QoS) {
        let mut inner = self.inner.lock();
        if let Ok(at) = inner.position(filter)
            && let Some(granted) = inner.filters.get_mut(at)
        {
            granted.qos = qos;
        }
    }

    /// Removes `filter`. Returns true if it was there.
    pub(super) fn remove(&self, filter: &TopicFilter) -> bool {
        let mut inner = self.inner.lock();
        let Ok(at) = inner.position(filter) else { return false };
        inner.filters.remove(at);
        true
    }

    /// Returns the filters in order.
    #[must_use]
    pub fn filters(&self) -> Vec<GrantedFilter> {
        self.inner.lock().filters.clone()
    }

    /// Returns the number of filters.
    #[must_use]
    pub fn filter_count(&self) -> usize {
        self.inner.lock().filters.len()
    }

    /// Records a new connection.
    pub(in crate::mqtt) fn set_connection(&self, connection: LastConnection) {
        self.inner.lock().connection = Some(connection);
    }

    /// Returns the present or last connection; `None` if there was none since the start of the server.
    #[must_use]
    pub fn connection(&self) -> Option<LastConnection> {
        self.inner.lock().connection
    }

    /// Records the number of messages in flight.
    pub(super) fn set_inflight(&self, count: usize) {
        self.inflight.store(count, Ordering::Relaxed);
    }

    /// Returns the number of messages in flight.
    #[must_use]
    pub fn inflight(&self) -> usize {
        self.inflight.load(Ordering::Relaxed)
    }
}

impl ViewInner {
    fn position(&self, filter: &TopicFilter) -> Result<usize, usize> {
        self.filters.binary_search_by(|granted| granted.filter.cmp(filter))
    }
}
