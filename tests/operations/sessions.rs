//! MQTT sessions and retained messages as an operator sees them, and the end of a session, over HTTP and by `umbrad sessions`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::site::{get, run, url};
use crate::harness::{
    client::{Client, disconnect_with},
    eventually,
    http::{Http, Reply},
    server::{Server, Setup, UNLIMITED},
    wire::{Connect, Properties, Publish, V4, V5, Value as Property, prop},
};

/// A listener for operators with single rights, beside one for administrators and one for viewers.
const LISTENERS: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"

[[listener]]
name = "viewers"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "viewer"

[[listener]]
name = "watchers"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "watcher"

[[listener]]
name = "enders"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "ender"

[[rule]]
role = "watcher"
administer = ["list-sessions", "list-retained"]

[[rule]]
role = "ender"
administer = ["end-sessions"]
"#;

fn start() -> Server {
    Server::with(Setup { listener: LISTENERS, ..UNLIMITED })
}

fn end(server: &Server, listener: &str, client: &str) -> Reply {
    let path = format!("/v1/sessions/anonymous%2F{client}/{client}");
    Http::connect(server.address_of(listener)).send(&format!("DELETE {path} HTTP/1.1"), b"")
}

fn session(server: &Server, client: &str) -> Reply {
    get(server.address_of("web"), &format!("/v1/sessions/anonymous%2F{client}/{client}"))
}

#[test]
fn a_session_shows_who_waits_with_what() {
    let server = start();
    let connect = Connect::persistent(V5, "waits").property(prop::RECEIVE_MAXIMUM, Property::Two(2));
    let (mut waits, _) = Client::connect_as(&server, &connect);
    waits.subscribe(&[("a/+", 2), ("b", 0), ("$share/g/c", 1)]);
    let mut sender = Client::connect(&server, V4, "sender");
    // Two are in flight, which the client does not acknowledge, and three wait.
    for n in 0..5 {
        sender.publish("a/1", format!("message {n}"), 1);
    }
    let shown = eventually("two messages in flight", || {
        let shown = session(&server, "waits").json();
        (shown["inFlight"] == 2 && shown["queued"] == 3).then_some(shown)
    });
    let filters = json!([{"filter": "$share/g/c", "qos": 1}, {"filter": "a/+", "qos": 2}, {"filter": "b", "qos": 0}]);
    let by_name = |filters: &Value| {
        let all = filters.as_array().unwrap().iter().map(ToString::to_string);
        all.collect::<BTreeSet<_>>()
    };
    assert_eq!(by_name(&shown["filters"]), by_name(&filters), "{shown}");
    assert_eq!((&shown["principal"], &shown["client"]), (&json!("anonymous/waits"), &json!("waits")));
    assert_eq!((&shown["address"], &shown["protocol"]), (&json!("127.0.0.1"), &json!("mqtt-5")));
    assert_eq!(shown["connected"], true);
    assert!(shown["queuedBytes"].as_u64().unwrap() >= 3 * 9, "{shown}");
    assert!(shown["connectedSince"].as_u64().unwrap() > 1_700_000_000, "{shown}");
    assert!(shown["sessionExpiry"].as_u64().unwrap() > 0 && shown["expires"].is_null(), "{shown}");
    waits.abandon();
    let away = eventually("the session to be away", || {
        let shown = session(&server, "waits").json();
        (shown["connected"] == false).then_some(shown)
    });
    assert!(away["expires"].as_u64().unwrap() > away["disconnectedSince"].as_u64().unwrap(), "{away}");
    assert_eq!((&away["inFlight"], &away["queued"]), (&json!(2), &json!(3)), "{away}");
    // A session of before a restart shows the same, without the address of its connection.
    let mut server = server;
    server.kill();
    server.restart();
    let restored = session(&server, "waits").json();
    assert_eq!(by_name(&restored["filters"]), by_name(&filters), "{restored}");
    assert_eq!((&restored["connected"], &restored["address"]), (&json!(false), &Value::Null), "{restored}");
    assert_eq!((&restored["inFlight"], &restored["queued"]), (&json!(2), &json!(3)), "{restored}");
    assert_eq!(session(&server, "nobody").status, 404);
}

/// The answer came before the disk had the end of the sessions: a kill of the server brought them back.
#[test]
fn what_an_operator_has_ended_does_not_come_back_after_a_kill() {
    let mut server = start();
    let kick = |server: &Server, query: &str| {
        let mut web = Http::connect(server.address_of("web"));
        web.send(&format!("DELETE /v1/principals/anonymous%2Fs/connections{query} HTTP/1.1"), b"")
    };
    for (label, is_connected) in [("away", false), ("connected", true), ("ended by its client", false)] {
        let (mut client, connack) = Client::connect_as(&server, &Connect::persistent(V5, "s"));
        assert!(!connack.session_present, "{label}");
        client.subscribe(&[("t", 1)]);
        let reply = match label {
            "ended by its client" => {
                let ends = Properties::none().with(prop::SESSION_EXPIRY, Property::Four(0));
                client.send(disconnect_with(0, &ends));
                assert_eq!(client.closed(), None);
                let reply = end(&server, "web", "s");
                assert_eq!(reply.status, 404, "{label}: {}", reply.text());
                reply
            }
            _ => {
                // One that is connected ends by this.
                if !is_connected {
                    client.disconnect();
                }
                kick(&server, "")
            }
        };
        server.kill();
        server.restart();
        if reply.status != 404 {
            assert_eq!(reply.status, 200, "{label}: {}", reply.text());
            let connections = usize::from(is_connected);
            let ended = json!({"connections": connections, "sessions": 1, "streams": 0, "signIns": 0});
            assert_eq!(reply.json(), ended, "{label}");
        }
        assert_eq!(session(&server, "s").status, 404, "{label}");
    }
    let (mut client, _) = Client::connect_as(&server, &Connect::persistent(V5, "s"));
    client.subscribe(&[("t", 1)]);
    assert_eq!(kick(&server, "?keep_sessions=true").json()["sessions"], 0);
    assert_eq!(session(&server, "s").json()["connected"], false, "the connection has ended with the answer");
    server.kill();
    server.restart();
    assert_eq!(session(&server, "s").status, 200, "it is kept");
}

#[test]
fn lists_come_in_pages_and_are_filtered() {
    let server = start();
    let web = server.address_of("web");
    let mut held = Vec::new();
    for n in 0..30 {
        let (mut client, _) = Client::connect_as(&server, &Connect::persistent(V5, &format!("s-{n:02}")));
        client.publish_message(&Publish::new(&format!("kept/{n:02}"), "12345").retain(), 1);
        match n % 3 {
            0 => held.push(client),
            _ => client.disconnect(),
        }
    }
    eventually("twenty sessions to be away", || {
        let page = get(web, "/metrics").text();
        page.contains("umbra_sessions{state=\"disconnected\"} 20\n").then_some(())
    });
    let all = |query: &str, path: &str, member: &str| {
        let (mut found, mut next): (Vec<Value>, _) = (Vec::new(), format!("{path}?limit=7{query}"));
        loop {
            let reply = get(web, &next);
            assert_eq!(reply.status, 200, "{next}: {reply:?}");
            found.extend(reply.json()[member].as_array().unwrap().iter().cloned());
            match reply.json()["next"].as_str() {
                None => return found,
                Some(cursor) => next = format!("{path}?limit=7{query}&cursor={cursor}"),
            }
        }
    };
    let clients = |query: &str| {
        let found = all(query, "/v1/sessions", "sessions");
        found.iter().map(|session| session["client"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected = |wanted: fn(&u32) -> bool| (0..30).filter(wanted).map(|n| format!("s-{n:02}")).collect::<Vec<_>>();
    assert_eq!(clients(""), expected(|_| true));
    assert_eq!(clients("&connected=true"), expected(|n| n % 3 == 0));
    assert_eq!(clients("&connected=false&prefix=anonymous%2Fs-1"), expected(|n| n / 10 == 1 && n % 3 != 0));
    assert_eq!(clients("&prefix=x"), expected(|_| false));
    let retained = all("&prefix=kept%2F", "/v1/retained", "retained");
    let topics: Vec<_> = retained.iter().map(|message| message["topic"].as_str().unwrap().to_owned()).collect();
    assert_eq!(topics, (0..30).map(|n| format!("kept/{n:02}")).collect::<Vec<_>>());
    let first = &retained[0];
    assert_eq!((&first["bytes"], &first["qos"], &first["by"]), (&json!(5), &json!(1), &json!("anonymous/s-00")));
    assert!(first["since"].as_u64().unwrap() > 1_700_000_000, "{first}");
    assert!(all("&prefix=other", "/v1/retained", "retained").is_empty());
    for query in ["limit=0", "cursor=", "cursor=%2F", "cursor=A", "prefix=%00", "connected=maybe", "x=1"] {
        assert_eq!(get(web, &format!("/v1/sessions?{query}")).status, 400, "{query}");
        assert_eq!(get(web, &format!("/v1/retained?{query}")).status, 400, "{query}");
    }
}

#[test]
fn a_session_ends_durably_with_its_will() {
    let mut server = start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/+", 1)]);
    let connect = |server: &Server, client: &str| {
        let will = Publish::new(&format!("will/{client}"), client).property(prop::WILL_DELAY, Property::Four(900));
        let (mut client, _) = Client::connect_as(server, &Connect::persistent(V5, client).will(will, 1));
        client.subscribe(&[("t", 1)]);
        client
    };
    let mut held = connect(&server, "held");
    connect(&server, "away").abandon();
    eventually("the session to be away", || (session(&server, "away").json()["connected"] == false).then_some(()));
    for client in ["held", "away"] {
        let reply = end(&server, "enders", client);
        assert_eq!(reply.status, 204, "{client}: {reply:?}");
        assert_eq!(session(&server, client).status, 404, "{client}");
        assert_eq!(watcher.message().topic, format!("will/{client}"));
        assert_eq!(end(&server, "enders", client).status, 404, "{client}");
    }
    assert_eq!(held.closed(), Some(0x98), "administrative action");
    server.kill();
    server.restart();
    for client in ["held", "away"] {
        let (_, connack) = Client::connect_as(&server, &Connect::persistent(V5, client));
        assert!(!connack.session_present, "{client}");
    }
}

#[test]
fn each_operation_needs_its_right() {
    let server = start();
    let client = Client::connect_as(&server, &Connect::persistent(V5, "s")).0;
    for (listener, lists, ends) in [("viewers", 403, 403), ("watchers", 200, 403), ("enders", 403, 204)] {
        for path in ["/v1/sessions", "/v1/retained", "/v1/sessions/anonymous%2Fs/s"] {
            assert_eq!(get(server.address_of(listener), path).status, lists, "{listener}: {path}");
        }
        assert_eq!(end(&server, listener, "s").status, ends, "{listener}");
        // It is no right on shadows or principals.
        for path in ["/v1/devices/lamp/shadow", "/v1/principals/anonymous%2Fs"] {
            let status = get(server.address_of(listener), path).status;
            assert!([403, 404].contains(&status), "{listener}: {path}: {status}");
        }
    }
    drop(client);
}

#[test]
fn sessions_on_the_command_line() {
    let server = start();
    let web = url(server.address_of("web"));
    let (mut client, _) = Client::connect_as(&server, &Connect::persistent(V5, "a/b"));
    client.subscribe(&[("t/#", 1)]);
    let (listed, _) = run(&["sessions", "list", "--url", &web], 0);
    assert!(listed.starts_with("anonymous/a/b a/b connected 127.0.0.1 mqtt-5 filters 1 queued 0 "), "{listed}");
    let (listed, _) = run(&["sessions", "list", "--json", "--connected", "true", "--limit", "1", "--url", &web], 0);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["client"], &listed["filters"]), (&json!("a/b"), &json!(1)));
    assert_eq!(run(&["sessions", "list", "--prefix", "x", "--url", &web], 0).0, "");
    let (shown, _) = run(&["sessions", "show", "anonymous/a/b", "a/b", "--url", &web], 0);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["filters"], json!([{"filter": "t/#", "qos": 1}]));
    let (ended, _) = run(&["sessions", "end", "anonymous/a/b", "a/b", "--url", &web], 0);
    let ended: Value = serde_json::from_str(&ended).unwrap();
    assert_eq!(ended, json!({"principal": "anonymous/a/b", "client": "a/b", "ended": true}));
    for command in ["show", "end"] {
        let (_, err) = run(&["sessions", command, "anonymous/a/b", "a/b", "--url", &web], 3);
        assert!(err.contains("no session with this client id"), "{err}");
    }
    let viewers = url(server.address_of("viewers"));
    let (_, err) = run(&["sessions", "list", "--url", &viewers], 3);
    assert!(err.contains("administer list-sessions"), "{err}");
}
