//! The door: everything between a socket and a typed shadow command.
//!
//! `packet` and `topic` hold the typed vocabulary; `codec` turns bytes into packets and back; `session` is the MQTT
//! state machine without I/O; `router` finds the subscribers of a topic and `outbox` is the bounded queue of one of
//! them; `message` is an application message on its way out; `violation` is what a client can do wrong and `reason` how
//! it is told.

pub mod codec;
pub mod message;
pub mod outbox;
pub mod packet;
pub mod reason;
pub mod router;
pub mod topic;
pub mod violation;
