//! Searches and aggregates over HTTP, by `umbrad search` and `umbrad aggregate`: results, pages while others write, rights,
//! refusals and limits. Live queries as server-sent events, and named ones over MQTT.
//!
//! The answers of single queries are tested beside the query language, in `src/fleet/query/tests/`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod aggregates;
mod command;
mod docs;
mod indexes;
mod limits;
mod live;
mod matches;
mod named;
mod paging;
mod results;
mod rights;
mod site;
mod topics;
