//! The limits of a connection, principal, shadow and source address, and what happens beyond them.
//!
//! A rate is shown by how much got through in the time it took: on a slow machine more may, and no less has to.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod addresses;
mod connections;
mod http;
mod keep_alive;
mod principals;
mod refusals;

use std::time::Instant;

use harness::server::{Server, Setup};

/// A server with these limits; it is asked for few things.
fn server(limits: &'static str) -> Server {
    Server::with(Setup { limits, ..Setup::default() })
}

/// Returns the requests that a rate with a burst may have admitted since `start`, the present one included.
fn allowance(start: Instant, per_second: u64, burst: u64) -> usize {
    let seconds = start.elapsed().as_secs() + 1;
    usize::try_from(burst + per_second * seconds).unwrap()
}

/// Stops the server; it must have counted these quotas as met, and no others.
fn assert_met(server: &mut Server, quotas: &[&str]) {
    let log = server.stop().log;
    let line = log.lines().rfind(|line| line.contains(": shutdown complete ")).expect("the counters are logged");
    let met =
        line.split("quotas_met=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("with those of the quotas");
    let met: Vec<&str> = met.split(' ').filter_map(|one| Some(one.split_once('=')?.0)).collect();
    assert_eq!(met, quotas, "{line}");
}
