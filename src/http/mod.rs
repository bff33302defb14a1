//! The door for HTTP/1.1.
//!
//! `server` serves a connection of [`crate::net`]: it bounds what a client may send and how slowly, and has the routes
//! answer it. `guard` stands before all of them and refuses what a web page of somebody else's may have made a browser
//! send. `websocket` turns a connection into a stream of bytes that the door for MQTT serves, of which nothing is known
//! here but that it is one.

mod body;
mod guard;
mod server;
mod websocket;

pub use self::server::{HttpDoor, HttpOptions, PROTOCOLS};
