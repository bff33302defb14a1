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
pub mod connection;
pub mod protocol;
pub mod session;
pub mod shadow;
