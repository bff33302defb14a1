//! The end of sessions whose login was revoked, and of the connections of a node that leaves.

use crate::{
    auth::{Access, Authority},
    mqtt::{
        broker::sessions::{ClosedSession, SessionKey, SessionSlot, SessionTable, Sessions},
        protocol::packet::Reason,
    },
};

impl Sessions {
    /// Re-evaluates the login of each session. A session whose login is revoked ends without its will: a disconnected
    /// one is returned, a connected one ends with its connection.
    ///
    /// A connection ends with [`Reason::NOT_AUTHORIZED`] also if its token has expired, or with
    /// [`Reason::ADMINISTRATIVE_ACTION`] if its principal is banned. The table is locked for one session at a time, and
    /// certificates are verified before. A client that connects meanwhile gets its present rights. Blocks for as long as
    /// the verification of all certificates takes.
    pub fn review(&self, authority: &Authority) -> Vec<ClosedSession> {
        let keys: Vec<_> = self.table.lock().entries.keys().cloned().collect();
        let reviewed = keys.into_iter().filter_map(|key| {
            let auth_context = self.table.lock().auth_context(&key)?;
            let _result_is_kept = authority.review_absent(&auth_context);
            self.table.lock().review(key, authority)
        });
        reviewed.collect()
    }

    /// Returns true if the login that the client of `key` used last is revoked now.
    pub fn is_revoked(&self, key: &SessionKey, authority: &Authority) -> bool {
        let auth_context = self.table.lock().auth_context(key);
        auth_context.is_none_or(|auth_context| authority.review_absent(&auth_context).is_none())
    }

    /// Ends all connections with `reason`. Their sessions wait for their clients.
    pub(in crate::mqtt::broker) fn end_connections(&self, reason: Reason) {
        for slot in self.table.lock().entries.values_mut() {
            if let SessionSlot::Connected(connected) = slot {
                connected.disconnect(reason);
            }
        }
    }
}

impl SessionTable {
    /// See [`Sessions::review`].
    fn review(&mut self, key: SessionKey, authority: &Authority) -> Option<ClosedSession> {
        match self.entries.get_mut(&key)? {
            SessionSlot::Connected(connected) => {
                let auth_context = &connected.auth_context;
                // The session outlives a connection that ends for an expired token: the client may authenticate again.
                let access = authority.review_absent(auth_context);
                let stays = access.is_some() && !authority.is_over(auth_context);
                connected.outbox.set_access(access.unwrap_or_else(|| Access::none(key.principal.clone())));
                if !stays {
                    // 0x8A, banned, is for CONNACK only. [MQTT-3.14.2-1]
                    let is_banned = authority.is_banned(auth_context);
                    connected.disconnect(if is_banned {
                        Reason::ADMINISTRATIVE_ACTION
                    } else {
                        Reason::NOT_AUTHORIZED
                    });
                }
                None
            }
            SessionSlot::Disconnected(disconnected) => match authority.review_absent(&disconnected.lost.auth_context) {
                Some(access) => {
                    disconnected.lost.client.outbox.set_access(access);
                    None
                }
                None => Some(self.take_disconnected(&key)?.into_closed(key).without_will()),
            },
        }
    }
}
