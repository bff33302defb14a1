//! The door for HTTP/1.1: the native API, the AWS-compatible one, MQTT over WebSocket, and what they share.
//!
//! `server` serves a connection of [`crate::net`]: it bounds what a client may send, and, with `body` and `write_timeout`,
//! how slowly it may send and read, and has the routes answer it. `framing` is between the network and hyper, and refuses
//! requests whose body is framed ambiguously. `guard` stands before all of them and refuses what a
//! web page of somebody else's may have made a browser send. `sign_in` signs people in and out, `dashboard` has the
//! page they do it on. `websocket` turns a connection into a stream of bytes that the door for MQTT serves, of which
//! nothing is known here but that it is one.
//!
//! `operation` has the table of what there is; `router` makes routes of it, `openapi` the description, `query` checks
//! parameters against it. A request passes `caller` (who asks, what they may), then a handler: `shadows` reads,
//! `writes` changes, the rest is named after what it answers. `conditional` is pure. Whatever is refused
//! leaves as a [`problem`].
//!
//! `operating` and `backup` are for an operator's tools.
//!
//! Commands go through [`crate::engine`], as those of MQTT do, and are announced there as well.

pub mod api;
pub mod auth;
mod dashboard;
mod hex;
mod openapi;
mod operation;
mod router;
mod server;
mod sse;

pub use crate::http::{
    api::{
        Api, MessageBroker, MqttListener, NotPublished, Presence, PublishedMessage, RetainedMessage, operating::Metrics,
    },
    auth::sessions::Sessions,
    router::router,
    server::{HttpHandler, HttpOptions, PROTOCOLS},
};

#[cfg(test)]
mod tests;
