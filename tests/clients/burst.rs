//! Clients that publish many messages at once, with a short keep-alive; what they do is in `paho_burst.py` and
//! `mqtt_js_burst.js`.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

use crate::{
    WITH_WEB,
    harness::server::{Server, Setup},
};

/// Limits, how many messages, the keep-alive in seconds. Of the second, handling the messages takes four times as long.
/// The subscriber may be slow: on a busy machine it has no time of its own.
const RUNS: [(&str, &str, &str); 2] =
    [("outbox_bytes_max = \"8 MiB\"", "3000", "5"), ("publishes_rate = \"100/s burst 200\"", "1800", "4")];

fn run(client: impl Fn(&Server, &str, &str) -> Output) {
    for (limits, count, keep_alive) in RUNS {
        let server = Server::with(Setup { limits, ..WITH_WEB });
        let output = client(&server, count, keep_alive);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{limits}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn paho() {
    let python = env::var("UMBRA_TEST_PYTHON").expect("UMBRA_TEST_PYTHON: run ./test, which installs paho-mqtt");
    run(|server, count, keep_alive| {
        let port = server.address.port().to_string();
        Command::new(&python).arg(script("paho_burst.py")).args([&*port, count, keep_alive]).output().unwrap()
    });
}

#[test]
fn mqtt_js() {
    let modules = env::var("UMBRA_TEST_NODE").expect("UMBRA_TEST_NODE: run ./test, which installs MQTT.js");
    run(|server, count, keep_alive| {
        let url = format!("ws://{}/mqtt", server.address_of("web"));
        let mut command = Command::new("node");
        command.arg(script("mqtt_js_burst.js")).args([&*url, count, keep_alive]).env("NODE_PATH", &modules);
        command.output().unwrap()
    });
}
