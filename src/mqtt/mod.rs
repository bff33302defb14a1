//! The MQTT front end: everything between a socket and a typed shadow command.
//!
//! - [`protocol`]: packets, topics, messages, reason codes and violations, and the codec between them and bytes.
//! - [`session`]: the MQTT state machine of one client, without I/O.
//! - [`connection`]: the task of one connection. It takes a stream from [`crate::net`] or out of a WebSocket, performs
//!   the CONNECT handshake, and moves packets between transport, codec and session within its rate limits. It then
//!   dispatches them.
//! - [`broker`]: the state that all connections share. It has the table of sessions, the router that finds the
//!   subscribers of a topic, the outbox of each session, retained messages, and presence.
//! - [`shadow`]: the shadow topics. It answers requests, fans out the events of accepted changes, and resyncs
//!   subscribers that missed events.

pub mod broker;
pub mod connection;
pub mod protocol;
pub mod session;
pub mod shadow;
