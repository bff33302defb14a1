//! A session as operators see it, at any node of a cluster.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    auth::Principal,
    mqtt::broker::{
        session_view::LastConnection,
        sessions::{ListedSession, SessionKey},
    },
};

/// The state of a session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// The node of a cluster that has the session; `None` for a single node.
    #[serde(skip)]
    pub node: Option<u64>,
    /// The identity of the session.
    pub name: SessionName,
    /// The present or last connection; `None` if there was none since the start of the node.
    pub connection: Option<LastConnection>,
    /// Without a connection: the date of the loss, in milliseconds since 1970, and the seconds until the session expires.
    pub lost: Option<(u64, u64)>,
    /// The number of filters.
    pub filter_count: usize,
    /// The number of messages that wait.
    pub queued: usize,
    /// Bytes of these messages.
    pub queued_bytes: usize,
    /// Messages that were sent and not acknowledged.
    pub inflight: usize,
    /// The filters with the granted QoS; empty in lists.
    pub filters: Vec<(String, u8)>,
}

/// The identity of a session, in messages between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionName {
    /// The name of the principal.
    pub principal: Arc<str>,
    /// The client id.
    pub client_id: Arc<str>,
}

impl SessionSummary {
    /// Returns the state of a session of this node, without its filters.
    pub(super) fn of(session: &ListedSession) -> Self {
        let ListedSession { key, view, outbox, lost } = session;
        Self {
            node: None,
            name: SessionName::of(key),
            connection: view.connection(),
            lost: lost.map(|(at_ms, expires_in)| (at_ms, expires_in.as_secs())),
            filter_count: view.filter_count(),
            queued: outbox.queued_count(),
            queued_bytes: outbox.queued_bytes(),
            inflight: view.inflight(),
            filters: Vec::new(),
        }
    }

    /// Returns the state of a session of this node, with its filters.
    pub(super) fn in_detail(session: &ListedSession) -> Self {
        let filters = session.view.filters().into_iter();
        let filters = filters.map(|granted| (granted.filter.to_string(), granted.qos as u8)).collect();
        Self { filters, ..Self::of(session) }
    }
}

impl SessionName {
    /// Returns the name of the session of `key`.
    pub(super) fn of(key: &SessionKey) -> Self {
        Self { principal: key.principal.name().clone(), client_id: key.client_id.clone() }
    }

    /// Returns the key of the session.
    pub(super) fn key(&self) -> SessionKey {
        SessionKey { principal: Principal::of_known(&self.principal), client_id: self.client_id.clone() }
    }
}
