//! MQTT sessions and retained messages of the broker for operators over HTTP.

use futures_util::future::BoxFuture;

use crate::{
    auth::Principal,
    http::{self, MqttConnection, MqttSession, RetainedSummary, SessionEnd, SessionName, SessionPage},
    mqtt::broker::sessions::{ListedSession, SessionFilter, SessionKey},
    server::telemetry::Telemetry,
};

impl http::MqttSessions for Telemetry {
    fn page(&self, page: &SessionPage) -> (Vec<MqttSession>, Option<SessionName>) {
        let filter = SessionFilter { prefix: page.prefix.clone(), connected: page.connected };
        let after = page.after.as_ref().map(key);
        let (sessions, next) = self.broker.sessions.page(&filter, after.as_ref(), page.limit);
        (sessions.iter().map(|session| self.session_of(session)).collect(), next.as_ref().map(name))
    }

    fn session(&self, name: &SessionName) -> Option<(MqttSession, Vec<(String, u8)>)> {
        let session = self.broker.sessions.find(&key(name))?;
        let filters = session.view.filters().into_iter();
        let filters = filters.map(|granted| (granted.filter.to_string(), granted.qos as u8)).collect();
        Some((self.session_of(&session), filters))
    }

    fn end<'a>(&'a self, name: &'a SessionName) -> BoxFuture<'a, SessionEnd> {
        Box::pin(async move {
            match self.broker.end_session(&key(name)).await {
                None => SessionEnd::Unknown,
                Some(true) => SessionEnd::Ended,
                Some(false) => SessionEnd::Unconfirmed,
            }
        })
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
    fn session_of(&self, session: &ListedSession) -> MqttSession {
        let ListedSession { key, view, outbox, lost } = session;
        let connection = view.connection().map(|connection| MqttConnection {
            address: connection.address,
            protocol: connection.protocol.name(),
            since: connection.since_ms / 1000,
            session_expiry: connection.session_expiry,
        });
        let now = self.service.now().0;
        MqttSession {
            name: name(key),
            connection,
            lost: lost.map(|(at_ms, expires_in)| (at_ms / 1000, now.saturating_add(expires_in.as_secs()))),
            filter_count: view.filter_count(),
            queued: (outbox.queued_count(), outbox.queued_bytes()),
            inflight: view.inflight(),
        }
    }
}

fn key(name: &SessionName) -> SessionKey {
    let SessionName { principal, client } = name;
    SessionKey { principal: Principal::of_known(&principal.as_str().into()), client_id: client.as_str().into() }
}

fn name(key: &SessionKey) -> SessionName {
    SessionName { principal: key.principal.name().to_string(), client: key.client_id.to_string() }
}
