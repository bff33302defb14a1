//! MQTT on the wire: packets, topics, reason codes, and their encoding.
//!
//! Everything here is a function of bytes. Sequences of packets are [`super::session`]'s.

pub mod codec;
pub mod message;
pub mod packet;
pub mod reason;
pub mod topic;
pub mod violation;
