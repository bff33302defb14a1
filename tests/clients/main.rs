//! Clients, in both versions of MQTT: the client library, the device programs of `examples/devices`, and independent ones: the Mosquitto command line tools and bridge over TCP, Python's and C's paho
//! over TCP and WebSocket, MQTT.js over WebSocket.
//!
//! They must be installed; `./test` does that. `UMBRA_TEST_PYTHON` names the interpreter that has paho,
//! `UMBRA_TEST_NODE` the directory in which Node.js finds MQTT.js.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod bridge;
mod burst;
mod client_library;
mod cutting_proxy;
mod devices;
mod kills;
mod mosquitto;
mod mqtt_js;
mod paho;
mod paho_c;
mod tool;

use harness::server::Setup;

/// A listener for MQTT, and one for HTTP with WebSocket in it.
const WITH_WEB: Setup =
    Setup { listener: "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"", limits: "", store: "" };
