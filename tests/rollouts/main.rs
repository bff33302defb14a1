//! Rollouts and bulk changes over HTTP, and by `umbrad rollout` and `umbrad bulk`: waves, aborts and roll backs with simulated devices and kills, the
//! conditions of a device, rights and revoked logins, refusals and limits.
//!
//! The state machine is tested by seed beside it, in `src/fleet/rollout/tests.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod bulk;
mod command;
mod docs;
mod fleet;
mod rights;
mod site;
mod states;
mod success;
mod waves;
