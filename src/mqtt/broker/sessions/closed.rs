//! The remains of a session, until the broker has disposed of them.

use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

use crate::{
    auth::Access,
    mqtt::{
        broker::{
            durable::Removal,
            outbox::SessionId,
            sessions::{ClientSession, SessionKey},
        },
        protocol::packet::Will,
    },
};

/// The remains of a session that ended, or a will that is due.
#[derive(Debug)]
pub struct ClosedSession {
    /// The identity of the session.
    pub key: SessionKey,
    /// The rights of its client.
    pub access: Access,
    /// The session that leaves the will: its No Local subscriptions do not get it.
    pub from: SessionId,
    /// The session, if it ended: its subscriptions have to be removed.
    pub client: Option<ClientSession>,
    /// The will to publish.
    pub will: Option<Will>,
    /// The end of the session, until it is on disk, for the next connection of its client.
    pub(in crate::mqtt) removal: Option<Removal>,
    /// Has the connections that wait for the session go on when it is disposed of.
    pub(in crate::mqtt) released: Option<Released>,
    /// Closed when the remains are disposed of, for an operator who waits for it.
    pub(in crate::mqtt) disposed: Vec<oneshot::Sender<()>>,
}

/// Notifies those who wait when it is dropped.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Released(pub(super) Arc<Notify>);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl ClosedSession {
    /// Returns the remains of a session that ended, and is in no table from now on.
    pub(in crate::mqtt::broker) fn session(key: SessionKey, client: ClientSession, will: Option<Will>) -> Self {
        let (access, from) = (client.outbox.access(), client.outbox.id());
        let is_on_disk = client.is_recorded && client.was_kept && !client.outbox.has_left();
        let removal = is_on_disk.then(|| client.outbox.begin_removal(&key)).flatten();
        Self { client: Some(client), removal, ..Self::will(key, access, from, will) }
    }

    /// Returns a will of a session that goes on, or none.
    pub(in crate::mqtt) fn will(key: SessionKey, access: Access, from: SessionId, will: Option<Will>) -> Self {
        let (client, removal, released) = (None, None, None);
        Self { key, access, from, client, will, removal, released, disposed: Vec::new() }
    }

    /// Drops the will, as it is that of a revoked login.
    pub(super) fn without_will(self) -> Self {
        Self { will: None, ..self }
    }
}
