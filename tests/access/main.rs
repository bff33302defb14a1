//! Access without the right to it: each attack over real sockets, in both versions of the protocol.
//!
//! `site` is a server with users and roles; `topics` is about other devices' topics, `paths` about paths that may not
//! be written, `guesses` about paths that may not be read, `http` about both over HTTP, `logins` about who one is,
//! `clients` about client ids and sessions, `reload` about rights that are taken away, `revocation` about logins that are,
//! `administration` about what an operator does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod administration;
#[path = "../tls/certificates.rs"]
mod certificates;
#[path = "../tls/client.rs"]
mod client;
mod clients;
mod guesses;
mod http;
mod logins;
mod paths;
mod reload;
mod revocation;
mod site;
mod streams;
mod topics;
