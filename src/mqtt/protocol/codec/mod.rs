//! Bytes to packets and back: a guard around the decoder of rumqttd, and an encoder.
//!
//! A packet passes four stations. [`split_frame`] cuts it off the stream and refuses what its fixed header alone shows
//! to be wrong. The guard walks over the whole packet and checks what rumqttd does not (`guard`, `property`,
//! `connect`). Then rumqttd decodes a frame that is known to be well formed, so that none of its ways to panic or to
//! read on into the next field is left. At last its packet becomes one of [`super::packet`], with the fields that
//! rumqttd keeps to itself (QoS, DUP, packet identifier, reason codes, a password that is no text) taken from what the
//! guard read.
//!
//! *Invariant:* whatever the bytes are, the answer is a packet or a [`Violation`](super::violation::Violation). An
//! error of rumqttd after the guard, "needs more bytes" included, means malformed.
//!
//! Server packets are encoded here by hand: rumqttd writes a DISCONNECT with a wrong length and cannot write a 3.1.1
//! UNSUBACK. PUBLISH is encoded by [`super::message`]. What packets mean in which order is [`crate::mqtt::session`]'s.

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

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod tests;
