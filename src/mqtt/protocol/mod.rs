//! MQTT on the wire: packets, topics, reason codes, and their encoding.
//!
//! Everything here is a function of bytes. Not here: sequences of packets ([`super::session`]).

pub mod codec;
pub mod message;
pub mod packet;
pub mod reason;
pub mod topic;
pub mod violation;
