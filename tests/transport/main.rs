//! The layers below MQTT, over real sockets: HTTP and WebSocket, the PROXY protocol, slow clients, and a process without
//! free file descriptors.
//!
//! Requests and frames are written out byte by byte, so nothing here shares the server's idea of them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../hostile/bystander.rs"]
mod bystander;
#[path = "../tls/certificates.rs"]
mod certificates;
#[path = "../tls/client.rs"]
mod client;

mod exchange;
mod files;
mod frames;
mod framing;
mod handshake;
mod origins;
mod packets;
mod pressure;
mod proxy;
mod requests;
mod slow;
mod socket;
