//! The HTTP/1.1 front end: the native API, the AWS-compatible API, the dashboard and MQTT over WebSocket.
//!
//! - `server` serves a connection of [`crate::net`]. It limits the size of requests and, with `server::body` and
//!   `server::write_timeout`, the time to send a request and read its response. `server::framing` sits between the
//!   network and hyper and refuses requests with ambiguous body framing. `server::websocket` hands a connection to the
//!   MQTT front end as a byte stream; it knows nothing of MQTT connections itself.
//! - `auth::guard` runs before every route and refuses requests that a foreign web page made a browser send.
//!   `auth::caller` authenticates a request and holds its rights. `auth::sessions` are those of browsers.
//! - `operation` is the table of all operations. `router` builds the routes from it, `openapi` the description, and
//!   `api::query` checks parameters against it. `parameter` and `problem` are what declarations and refusals are made of.
//! - `state` is what all handlers share, `broker` the broker as they use it.
//! - `unevaluated` refuses conditions that an operation would pass over, before its handler runs.
//! - `api` has the handlers: `shadows` reads, `writes` changes, the others are named after their resource.
//!   `api::conditional` is pure. Every refusal on the native paths is a `problem`.
//! - `api::rollouts` creates and shows rollouts, which [`crate::rollouts`] carries out.
//! - `starting` answers for a node that has no store yet.
//! - `api::operating`, `api::principals`, `api::sessions` and `api::backup` serve an operator's tools.
//!
//! Commands go through [`crate::engine`], like those over MQTT; the engine also notifies subscribers and followers.

pub mod api;
pub mod auth;
mod broker;
mod cursor;
mod dashboard;
mod hex;
mod openapi;
mod operation;
mod parameter;
mod problem;
mod router;
mod server;
mod sse;
mod starting;
mod state;
mod unevaluated;

pub use crate::http::{
    auth::sessions::Sessions,
    broker::{
        FoundSessions, MessageBroker, Metrics, MqttConnection, MqttSession, MqttSessions, NoSession, NotPublished,
        PrincipalEnded, Principals, PublishedMessage, RetainedBatch, RetainedMessage, RetainedSummary, SessionName,
        SessionPage, SessionWithFilters,
    },
    cursor::Cursors,
    router::router,
    server::{HttpHandler, HttpOptions, PROTOCOLS},
    starting::starting,
    state::{Api, MqttListener},
};

#[cfg(test)]
mod tests;
