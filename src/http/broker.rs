//! The broker as this front end uses it: ordinary messages, MQTT sessions, the connections of principals, and the metrics page.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{auth::Access, wire::EndedConnections};

/// The metrics page in the Prometheus text format, provided by the server's wiring.
pub trait Metrics: Send + Sync {
    /// Returns the current page.
    fn page(&self) -> String;
}

/// An ordinary message that a client publishes over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedMessage {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// QoS 1, else 0.
    pub at_least_once: bool,
    /// True if the topic retains it.
    pub retain: bool,
    /// The payload format indicator, if sent.
    pub payload_is_utf8: Option<bool>,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// The topic for replies.
    pub response_topic: Option<String>,
    /// The correlation data for replies.
    pub correlation_data: Option<Bytes>,
    /// Seconds until the message expires.
    pub expiry: Option<u32>,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedMessage {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The QoS of the publication.
    pub qos: u8,
    /// The time of the publication, in milliseconds since 1970.
    pub stored_at_ms: u64,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// Retained messages that were found together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedBatch {
    /// The messages; may be empty although more follow.
    pub messages: Vec<RetainedMessage>,
    /// The units of work for finding them.
    pub work: u64,
}

/// The reason that a message was not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPublished {
    /// The topic or response topic is invalid or reserved. The text follows the topic's name in a message.
    Topic(String),
    /// The message has too many user properties. The text has their number and the limit.
    UserProperties(String),
    /// The client may not publish to the topic.
    Forbidden,
    /// The named quota is exceeded.
    Quota(String),
    /// The disk did not take the message in time; it may have been published and retained.
    Unknown,
}

/// The broker, as far as it handles ordinary messages.
pub trait MessageBroker: Send + Sync {
    /// Publishes `message` for a client with `access`. Returns when it would be acknowledged over MQTT.
    ///
    /// # Errors
    ///
    /// A [`NotPublished`].
    fn publish<'a>(&'a self, access: &'a Access, message: PublishedMessage) -> BoxFuture<'a, Result<(), NotPublished>>;

    /// Returns the retained message of `topic`. The caller checks the right to receive it.
    fn retained(&self, topic: &str) -> Option<RetainedMessage>;

    /// Returns the retained messages that a client with `access` may receive, of the topics after `topic` or of all topics, in
    /// batches. Each batch does work, for which its caller pays.
    fn visible_retained<'a>(
        &'a self,
        access: &'a Access,
        topic: Option<&str>,
    ) -> Box<dyn Iterator<Item = RetainedBatch> + Send + 'a>;
}

/// The connections of principals, provided by the broker.
pub trait Principals: Send + Sync {
    /// Returns the number of MQTT sessions of `principal` at this node, and of those with a connection.
    fn sessions_of(&self, principal: &str) -> (usize, usize);

    /// Ends the connections, streams and browser sessions of `principal` at all nodes, and its MQTT sessions unless `keep_sessions` is
    /// set. Returns when that is on disk, or takes too long.
    fn end_connections<'a>(&'a self, principal: &'a str, keep_sessions: bool) -> BoxFuture<'a, PrincipalEnded>;
}

/// The end of all connections of a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalEnded {
    /// The numbers of what ended.
    pub ended: EndedConnections,
    /// True if that survives a restart.
    pub is_durable: bool,
    /// The nodes of the cluster that have not answered.
    pub unreachable: Vec<u64>,
}

/// The identity of an MQTT session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName {
    /// The principal.
    pub principal: String,
    /// The client id.
    pub client: String,
}

/// A page of MQTT sessions to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionPage {
    /// The beginning of the principals' names.
    pub prefix: String,
    /// True for connected sessions, false for others; `None` for all.
    pub connected: Option<bool>,
    /// The session after which the page begins.
    pub after: Option<SessionName>,
    /// Most sessions.
    pub limit: usize,
}

/// The state of an MQTT session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttSession {
    /// The identity.
    pub name: SessionName,
    /// The node of a cluster that has it.
    pub node: Option<u64>,
    /// Its connection, or the last one since the start of its node.
    pub connection: Option<MqttConnection>,
    /// Without a connection: the date of the loss and the date when the session expires, in seconds since 1970.
    pub lost: Option<(u64, u64)>,
    /// The number of its filters.
    pub filter_count: usize,
    /// Messages that wait, and their bytes.
    pub queued: (usize, usize),
    /// Messages that were sent and not acknowledged.
    pub inflight: usize,
}

/// A connection of an MQTT session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MqttConnection {
    /// The client's address.
    pub address: IpAddr,
    /// The name of the protocol version.
    pub protocol: &'static str,
    /// The date when it began, in seconds since 1970.
    pub since: u64,
    /// Seconds that the session outlives it.
    pub session_expiry: u32,
}

/// A retained message without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedSummary {
    /// The topic.
    pub topic: String,
    /// Bytes of the payload.
    pub bytes: usize,
    /// The QoS of the publication.
    pub qos: u8,
    /// The principal that published it.
    pub by: Arc<str>,
    /// The date of the publication, in seconds since 1970.
    pub since: u64,
}

/// Some MQTT sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundSessions {
    /// The sessions, in order.
    pub sessions: Vec<MqttSession>,
    /// The session after which the next page begins, if there may be one.
    pub next: Option<SessionName>,
    /// The nodes of the cluster that have not answered; sessions of these may be missing.
    pub unreachable: Vec<u64>,
}

/// The reason that there is no MQTT session with some name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// There is no such session.
    Unknown,
    /// These nodes of the cluster have not answered, and may have it.
    Unreachable(Vec<u64>),
}

/// A session and its filters with the granted QoS.
pub type SessionWithFilters = (MqttSession, Vec<(String, u8)>);

/// The MQTT sessions and retained messages, provided by the broker.
pub trait MqttSessions: Send + Sync {
    /// Returns the sessions of a page, of all nodes. A page looks at a bounded number of sessions, so it may be short.
    fn page(&self, page: SessionPage) -> BoxFuture<'_, FoundSessions>;

    /// Returns a session, of whichever node.
    fn session<'a>(&'a self, name: &'a SessionName) -> BoxFuture<'a, Result<SessionWithFilters, NoSession>>;

    /// Ends a session, of whichever node, its connection and its rows. Returns true when that is on disk, or false if it takes too
    /// long.
    fn end<'a>(&'a self, name: &'a SessionName) -> BoxFuture<'a, Result<bool, NoSession>>;

    /// Returns at most `limit` retained messages of the topics after `topic` that begin with `prefix`.
    fn retained(&self, topic: Option<&str>, prefix: &str, limit: usize) -> Vec<RetainedSummary>;
}
