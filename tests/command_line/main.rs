//! The command line: exit codes and streams, the configuration, the file of users, and the client commands.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../tls/certificates.rs"]
mod certificates;

mod config;
mod config_mistakes;
mod connect;
mod exit_codes;
mod passwd;
