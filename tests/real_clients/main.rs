//! Clients that others wrote: the Mosquitto command line tools and Python's paho, in both versions of MQTT.
//!
//! They must be installed; `./test` does that. `UMBRA_TEST_PYTHON` names the interpreter that has paho.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod mosquitto;
mod paho;
mod tool;
