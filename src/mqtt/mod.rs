//! The door: everything between a socket and a typed shadow command.
//!
//! In the order of a packet's way in: `door` is given a stream by [`crate::net`] or, out of a WebSocket, by whoever has
//! one, `handshake` takes the CONNECT and finds the session in `sessions`, `connection` moves packets between its
//! `transport`, the `codec` and the `session` (the MQTT state machine, without I/O, over `inflight`) at a bounded
//! `rate_limit, `dispatch` carries out what they ask for, and `request` answers those to a shadow. On the way out: `events`
//! tells what a decided command changed, in the `rendering` of both dialects, `router` finds the subscribers of a topic,
//! `outbox` is the bounded queue towards one of them, and `resync` sends what a subscriber missed. `presence` tells
//! which devices are connected. `broker` is what all connections share.
//!
//! `packet`, `topic`, `shadow_topic` and `message` are the vocabulary; `violation` is what a client can do wrong and
//! `reason` how it is told.

pub mod broker;
pub mod codec;
mod connection;
mod dispatch;
pub mod events;
pub mod external;
pub mod filters;
pub mod handler;
mod handshake;
pub mod inflight;
pub mod message;
pub mod outbox;
pub mod packet;
pub mod presence;
pub mod rate_limit;
pub mod reason;
mod rendering;
mod request;
mod resync;
mod rights;
pub mod router;
pub mod session;
pub mod sessions;
pub mod shadow_topic;
pub mod topic;
mod transport;
pub mod violation;
