//! boto3's client of fleet indexing, unchanged: AWS's example queries, the aggregates, pages, rights and exceptions.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::{
    harness::{
        client::Client,
        eventually,
        http::Http,
        server::{Server, Setup, UNLIMITED},
        wire::V5,
    },
    sdk::python,
};

/// `back-end` may do everything, and `viewer` sees a part of the things of one name.
const SIGNED: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
connect_timeout = "5m"

[auth]
aws_keys = "aws_keys"

[[grant]]
role = "admin"
principals = ["back-end"]

[[rule]]
role = "viewer"
devices = ["my*"]
read = ["/reported/stats", "/tags/model"]
operations = ["get"]

[[grant]]
role = "viewer"
principals = ["viewer"]
"#;

const ACCESS_KEY: &str = "AKIAUMBRATEST";
const SECRET: &str = "a+secret/of=the-tests";

/// The fleet of the queries, besides fifty devices for pages.
fn write_fleet(server: &Server) {
    let mut client = Http::connect(server.address_of("web"));
    let mut put = |path: &str, state: &Value| {
        let head = format!("PUT /v1/devices/{path} HTTP/1.1\nIf-None-Match: *\nContent-Type: application/json");
        let reply = client.send(&head, state.to_string().as_bytes());
        assert_eq!(reply.status, 201, "{path}: {}", reply.text());
    };
    for (path, state) in [
        (
            "myThingName/shadow",
            json!({
                "desired": {"mode": "eco", "stats": {"battery": 90}},
                "reported": {"mode": "eco", "stats": {"battery": 80}, "location": "here"},
                "tags": {"myAttribute": 75, "serialNumber": "abce", "model": "legacy", "attr1": "abc", "attr2": 4,
                         "attr3": 10, "thingTypeName": "aa", "thingGroupNames": ["a", "berlin"]},
            }),
        ),
        ("myThingName/shadows/cfg", json!({"desired": {"rate": 5}, "reported": {"rate": 5}})),
        (
            "my2/shadow",
            json!({
                "reported": {"myvalues": [1, 2, [3]], "location": {"lat": 1}, "on": true},
                "tags": {"myAttribute": "78", "model": "New Model", "attr1": "ABC", "attr2": "3", "attr3": 11},
            }),
        ),
        ("my2/shadows/cfg", json!({"desired": {"rate": 5}, "reported": {"rate": 6}})),
        ("aba/shadow", json!({"reported": {"stats": {"battery": 70}, "on": false}, "tags": {"myAttribute": 80.5}})),
        ("named-only/shadows/cfg", json!({"reported": {"rate": 7}})),
    ] {
        put(path, &state);
    }
    for n in 0..50 {
        put(&format!("page-{n:02}/shadow"), &json!({"tags": {"n": n}}));
    }
}

#[test]
fn boto3_unmodified() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("aws_keys");
    let keys = [(ACCESS_KEY, "back-end"), ("AKIAVIEWER", "viewer"), ("AKIANOROLE", "nobody")];
    fs::write(&file, keys.map(|(key, principal)| format!("{key} {SECRET} {principal}\n")).concat()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::within(directory, Setup { listener: SIGNED, ..UNLIMITED });
    let server = server.unwrap_or_else(|(exit, _)| panic!("the server did not start: {exit:?}"));
    write_fleet(&server);
    let mut device = Client::connect(&server, V5, "myThingName");
    // Shows that it is the device.
    device.publish("shadow/myThingName/get", "", 1);
    let mut web = Http::connect(server.address_of("web"));
    eventually("the connection to be seen", || {
        let found = web.send("GET /v1/devices/myThingName HTTP/1.1", b"").json();
        (found["connected"] == json!(true)).then_some(())
    });
    let endpoint = format!("http://{}", server.address_of("web"));
    python("fleet_index.py", &[&endpoint, ACCESS_KEY, SECRET]);
}
