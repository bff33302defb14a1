//! The codec from bytes to packets and back: a guard around the decoder of rumqttd, and an encoder.
//!
//! A packet is decoded in four steps:
//!
//! 1. [`split_frame`] splits it off the stream, and refuses errors that the fixed header alone shows.
//! 2. The guard reads the whole packet and checks what rumqttd does not (`guard`, `property`, `connect`).
//! 3. rumqttd decodes the frame. The guard has excluded the frames at which it would panic or read beyond a field.
//! 4. Its packet is converted to one of [`super::packet`]. The fields that rumqttd does not expose (QoS, DUP, packet
//!    identifier, reason codes, a password that is not UTF-8) are those that the guard read.
//!
//! *Invariant:* for any bytes, the result is a packet or a [`Violation`](super::violation::Violation). An error of
//! rumqttd after the guard, "needs more bytes" included, means malformed.
//!
//! Server packets are encoded here without rumqttd, which writes a DISCONNECT with a wrong length and cannot write a
//! 3.1.1 UNSUBACK. Not here: the encoding of PUBLISH ([`super::message`]), and the order of packets
//! ([`crate::mqtt::session`]).

mod connect;
mod decode;
mod encode;
mod frame;
mod guard;
mod property;
pub(crate) mod put;
mod reader;

pub use connect::{ConnectRefusal, bytes_max, decode_connect};
pub use decode::decode;
pub use encode::{TooLarge, encode};
pub use frame::{Frame, FrameLimits, split_frame, whole_packet};
pub use property::USER_PROPERTIES_MAX;

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod tests;
