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
//! Commands go through [`crate::service`], as those of MQTT do, and are announced there as well.

pub mod api;
mod aws;
mod aws_topics;
mod backup;
mod body;
mod caller;
mod conditional;
mod cursor;
mod dashboard;
mod device;
mod devices;
mod events;
mod framing;
mod guard;
mod hex;
mod history;
mod openapi;
mod operating;
mod operation;
mod payload;
mod problem;
mod query;
mod router;
mod server;
mod sessions;
mod shadows;
mod sign_in;
pub mod sigv4;
mod submit;
mod target;
mod url_keys;
mod wait;
mod websocket;
mod write_timeout;
mod writes;

pub use self::{
    api::{Api, MessageBroker, MqttListener, NotPublished, Presence, PublishedMessage, RetainedMessage},
    operating::Metrics,
    router::router,
    server::{HttpHandler, HttpOptions, PROTOCOLS},
    sessions::Sessions,
};

#[cfg(test)]
mod tests;
