//! MQTT.js over WebSocket, as a dashboard in a browser uses it; what it does is in `mqtt_js_client.js`.

use std::{env, path::Path, process::Command};

use crate::{WITH_WEB, harness::server::Server};

fn run(version: &str) {
    let modules = env::var("UMBRA_TEST_NODE")
        .unwrap_or_else(|_| panic!("UMBRA_TEST_NODE names no directory with MQTT.js: run ./test, which installs it"));
    let server = Server::with(WITH_WEB);
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mqtt_js_client.js"))
        .args([&format!("ws://{}/mqtt", server.address_of("web")), version])
        .env("NODE_PATH", modules)
        .output()
        .unwrap_or_else(|error| panic!("node: {error}: run ./test, which installs it"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

#[test]
fn mqtt_js_3_1_1() {
    run("4");
}

#[test]
fn mqtt_js_5() {
    run("5");
}
