//! MQTT sessions and retained messages of the broker for operators over HTTP.

use futures_util::future::BoxFuture;

use crate::{
    http::{
        self, FoundSessions, MqttConnection, MqttSession, NoSession, RetainedSummary, SessionName, SessionPage,
        SessionWithFilters,
    },
    mqtt::broker::{
        session_summary::{self, SessionSummary},
        sessions::SessionFilter,
    },
    server::telemetry::Telemetry,
};

impl http::MqttSessions for Telemetry {
    fn page(&self, page: SessionPage) -> BoxFuture<'_, FoundSessions> {
        Box::pin(async move {
            let filter = SessionFilter { prefix: page.prefix, connected: page.connected };
            let after = page.after.as_ref().map(named);
            let found = self.broker.list_sessions(&filter, after, page.limit).await;
            FoundSessions {
                sessions: found.sessions.iter().map(|session| self.session_of(session)).collect(),
                next: found.next.as_ref().map(name),
                unreachable: found.silent,
            }
        })
    }

    fn session<'a>(&'a self, name: &'a SessionName) -> BoxFuture<'a, Result<SessionWithFilters, NoSession>> {
        Box::pin(async move {
            let session = self.broker.find_session(&named(name)).await.map_err(no_session)?;
            Ok((self.session_of(&session), session.filters))
        })
    }

    fn end<'a>(&'a self, name: &'a SessionName) -> BoxFuture<'a, Result<bool, NoSession>> {
        Box::pin(async move { self.broker.end_session_anywhere(&named(name)).await.map_err(no_session) })
    }

    fn retained(&self, topic: Option<&str>, prefix: &str, limit: usize) -> Vec<RetainedSummary> {
        let found = self.broker.router.list_retained(topic, prefix, limit).into_iter();
        let summary = found.map(|listed| RetainedSummary {
            topic: listed.message.topic.as_str().to_owned(),
            bytes: listed.message.payload.len(),
            qos: listed.message.qos as u8,
            by: listed.by,
            since: listed.date_ms / 1000,
        });
        summary.collect()
    }
}

impl Telemetry {
    fn session_of(&self, session: &SessionSummary) -> MqttSession {
        let connection = session.connection.map(|connection| MqttConnection {
            address: connection.address,
            protocol: connection.protocol.name(),
            since: connection.since_ms / 1000,
            session_expiry: connection.session_expiry,
        });
        let now = self.service.now().0;
        MqttSession {
            name: name(&session.name),
            node: session.node,
            connection,
            lost: session.lost.map(|(at_ms, expires_in)| (at_ms / 1000, now.saturating_add(expires_in))),
            filter_count: session.filter_count,
            queued: (session.queued, session.queued_bytes),
            inflight: session.inflight,
        }
    }
}

/// Returns the reason that there is no session, of nodes that have not answered.
fn no_session(silent: Vec<u64>) -> NoSession {
    if silent.is_empty() { NoSession::Unknown } else { NoSession::Unreachable(silent) }
}

fn named(name: &SessionName) -> session_summary::SessionName {
    session_summary::SessionName { principal: name.principal.as_str().into(), client_id: name.client.as_str().into() }
}

fn name(name: &session_summary::SessionName) -> SessionName {
    SessionName { principal: name.principal.to_string(), client: name.client_id.to_string() }
}
