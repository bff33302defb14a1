//! A broker of mosquitto that is joined to the server by a bridge, which shows itself as one by a bit of the protocol
//! level, or over MQTT 5 by the options of its subscriptions. Without that being understood each message comes back to where it
//! was published. Apart from its topics and address it has the default settings.

use std::{fs, net::TcpListener};

use crate::{
    harness::{
        client::Client,
        server::Server,
        wire::{Publish, V5},
    },
    tool::Tool,
};

fn run(version: &str) {
    let server = Server::start();
    // Freed for mosquitto, which cannot choose one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let configuration = server.directory().join("mosquitto.conf");
    let lines = [
        &*format!("listener {port} 127.0.0.1"),
        "allow_anonymous true",
        "connection edge",
        &format!("address {}", server.address),
        "topic t/# both 1",
        "topic end both 1",
        &format!("bridge_protocol_version {version}"),
        "restart_timeout 1",
    ];
    fs::write(&configuration, lines.join("\n")).unwrap();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("t/#", 1), ("end", 1)]);
    let mut mosquitto = Tool::start("/usr/sbin/mosquitto", &["-v", "-c", configuration.to_str().unwrap()]);
    for _ in 0..2 {
        mosquitto.line("Received SUBACK from local.");
    }

    let there = ["-h", "127.0.0.1", "-p", &port];
    let subscribe = ["-d", "-t", "t/#", "-t", "end", "-q", "1", "-F", "= %r %t %p"];
    let mut edge = Tool::start("mosquitto_sub", &[&there[..], &subscribe].concat());
    edge.line("Subscribed (mid");
    let publish = |topic: &str, payload: &str| {
        let arguments = [&there[..], &["-t", topic, "-q", "1", "-m", payload]].concat();
        Tool::start("mosquitto_pub", &arguments).succeed();
    };
    publish("t/edge", "from the edge");
    assert_eq!(watcher.message().text(), "from the edge");
    // What is retained here is retained there, though it was published while the bridge was there.
    watcher.publish_message(&Publish::new("t/kept", "kept").retain(), 1);
    assert_eq!(watcher.message().text(), "kept");
    watcher.publish("end", "from the server", 1);
    assert_eq!(watcher.message().text(), "from the server");
    for expected in ["= 0 t/edge from the edge", "= 0 t/kept kept", "= 0 end from the server"] {
        assert_eq!(edge.line("= "), expected, "each once");
    }
    let mut late = Tool::start("mosquitto_sub", &[&there[..], &subscribe, &["-C", "1"]].concat());
    assert_eq!(late.line("= "), "= 1 t/kept kept");
    publish("end", "the end");
    assert_eq!(watcher.message().text(), "the end", "and nothing came back");
}

/// Its default settings leave a will on `$SYS/broker/connection/<id>/state`, and publish there. It was refused for the will.
#[test]
fn a_bridge_of_mosquitto_3_1_1() {
    run("mqttv311");
}

#[test]
fn a_bridge_of_mosquitto_3_1() {
    run("mqttv31");
}

#[test]
fn a_bridge_of_mosquitto_5() {
    run("mqttv50");
}
