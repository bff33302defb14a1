//! Rights that are taken away while they are in use: at SIGHUP every session is worth what it is worth now.

use std::fs;

use crate::{
    harness::{
        client::Client,
        eventually,
        http::Http,
        packet::Packet,
        server::{Server, Setup, UNLIMITED},
        users::passwd,
        wire::{self, BOTH, Connect, Properties, Protocol, Publish, V5, Value, prop},
    },
    http::{Events, basic, get},
    site::{client, connect, heard, site, site_again, site_with, topics},
};

const DONE: &str = "users, keys and roles reloaded";

/// How the server ends the connection of one who may not stay.
fn ended(client: &mut Client) {
    let reason = if client.protocol == V5 { Some(0x87) } else { None };
    let mut said = None;
    while let Some(packet) = client.try_recv() {
        if let Packet::Disconnect { code, .. } = packet {
            said = Some(code);
        }
    }
    assert_eq!(said, reason);
}

/// The code of the CONNACK.
fn login(server: &Server, connect: &Connect) -> (u8, bool) {
    let mut client = Client::open(server, connect.protocol);
    client.send(connect.encode());
    let connack = client.connack();
    (connack.code, connack.session_present)
}

fn persistent(user: &str, id: &str, protocol: Protocol) -> Connect {
    let credentials = connect(user, id, protocol);
    Connect { username: credentials.username, password: credentials.password, ..Connect::persistent(protocol, id) }
}

/// Changes the configuration that the server has read.
fn edit(server: &Server, from: &str, to: &str) {
    let path = server.directory().join("broker.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    fs::write(&path, text.replace(from, to)).unwrap();
}

#[test]
fn removing_a_user_ends_its_sessions() {
    let server = site();
    for (count, protocol) in BOTH.into_iter().enumerate() {
        let wrong = if protocol == V5 { 0x86 } else { 4 };
        let (mut removed, mut other) = (client(&server, "lamp-1", protocol), client(&server, "lamp-2", protocol));
        let (away, _) = Client::connect_as(&server, &persistent("lamp-1", "away", protocol));
        away.disconnect();
        passwd(server.directory(), &["remove", "lamp-1"], "");
        // Cached at first use: until a reload, the server uses the file as it was read.
        assert_eq!(login(&server, &connect("lamp-1", "early", protocol)).0, 0);
        server.hangup(2 * count + 1, DONE);
        ended(&mut removed);
        assert_eq!(login(&server, &connect("lamp-1", "late", protocol)).0, wrong);
        other.ping();
        passwd(server.directory(), &["add", "lamp-1", "--stdin"], "lamp-1-password");
        server.hangup(2 * count + 2, DONE);
        assert_eq!(login(&server, &persistent("lamp-1", "away", protocol)), (0, false), "its session ended with it");
    }
}

/// A password is changed when others may know it: whatever was set up with the old one ends.
#[test]
fn a_new_password_ends_the_sessions_of_the_old_one() {
    let server = site();
    let [mut lamp, away] = ["lamp-1", "away"].map(|id| {
        let (mut client, _) = Client::connect_as(&server, &persistent("lamp-1", id, V5));
        client.subscribe(&[("devices/lamp-1/#", 1)]);
        client
    });
    away.disconnect();
    passwd(server.directory(), &["add", "lamp-1", "--stdin"], "another-password");
    server.hangup(1, DONE);
    ended(&mut lamp);
    assert_eq!(login(&server, &connect("lamp-1", "lamp-1", V5)).0, 0x86);
    for id in ["lamp-1", "away"] {
        let renewed = persistent("lamp-1", id, V5).user("lamp-1", "another-password");
        assert_eq!(login(&server, &renewed), (0, false), "{id}");
    }
}

/// A session goes on with the rights that it has now, also for what it subscribed to before.
#[test]
fn a_narrowed_role_applies_at_once() {
    let server = site();
    let mut viewer = client(&server, "viewer-1", V5);
    let mut lamp = client(&server, "lamp-1", V5);
    viewer.subscribe(&[("shadow/+/update/accepted", 1)]);
    lamp.subscribe(&[("devices/lamp-1/#", 1), ("shadow/lamp-1/update/delta", 1)]);
    let narrowed = r#"[[rule]]
role = "device"
devices = ["{principal}"]
read = ["/reported"]
write = ["/reported/a"]
subscribe = ["devices/{principal}/#"]

[[rule]]
role = "viewer"
devices = ["lamp-2"]
read = ["/reported"]

[[rule]]
role = "partial"#;
    edit(&server, "[[rule]]\nrole = \"partial", narrowed);
    server.hangup(1, DONE);
    let mut boss = client(&server, "boss", V5);
    for device in ["lamp-1", "lamp-2"] {
        let update = r#"{"state":{"desired":{"a":1},"reported":{"a":2}}}"#;
        boss.publish(&format!("shadow/{device}/update"), update, 1);
    }
    let received = viewer.message();
    assert_eq!(received.topic, "shadow/lamp-2/update/accepted");
    assert_eq!(received.json()["state"], serde_json::json!({"reported": {"a": 2}}));
    assert!(heard(&server, &mut lamp, "devices/lamp-1/marker").is_empty(), "a delta has `desired` too");
    assert_eq!(lamp.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"a":1}}}"#, 1), 0x87);
    assert_eq!(lamp.publish("shadow/lamp-1/update", r#"{"state":{"reported":{"a":1}}}"#, 1), 0);
    assert_eq!(viewer.subscribe_with(&[("shadow/lamp-1/#", 1)], &Properties::none()), [0x87]);
}

/// Replies are cut to what may be read, and wait for a client that is away like ordinary messages: those to itself,
/// and, where a rule lets it receive `#`, those to others too.
#[test]
fn a_narrowed_role_drops_queued_messages() {
    const WIDE: &str = "read = [\"/desired\", \"/reported\"]\nsubscribe = [\"#\"]";
    let role = format!("[[rule]]\nrole = \"wide\"\ndevices = [\"lamp-1\"]\n{WIDE}\n");
    let server = site_with(&(role + "[[grant]]\nrole = \"wide\"\nprincipals = [\"kiosk\"]"));
    let mut boss = client(&server, "boss", V5);
    boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"secret":1}}}"#, 1);
    let away = |id: &str| persistent("kiosk", id, V5).property(prop::RECEIVE_MAXIMUM, Value::Two(1));
    for (count, narrowed) in
        ["read = [\"/reported\"]\nsubscribe = [\"#\"]", "subscribe = [\"devices/#\"]"].into_iter().enumerate()
    {
        let id = format!("away-{count}");
        let (mut kiosk, _) = Client::connect_as(&server, &away(&id));
        kiosk.subscribe(&[("shadow/lamp-1/get/accepted", 1), ("devices/#", 1), ("elsewhere", 1)]);
        boss.publish("devices/first", "closes the window", 1);
        kiosk.peek_message();
        kiosk.send(Publish::new("shadow/lamp-1/get", "").encode(V5, 1, 77));
        kiosk.ping();
        kiosk.abandon();
        boss.publish("shadow/lamp-1/get", "", 1);
        boss.publish("elsewhere", "x", 1);
        boss.publish("devices/second", "x", 1);
        edit(&server, WIDE, narrowed);
        server.hangup(2 * count + 1, DONE);
        let (mut kiosk, connack) = Client::connect_as(&server, &away(&id));
        assert!(connack.session_present);
        let heard = heard(&server, &mut kiosk, "devices/marker");
        let (first, second) = ("devices/first", "devices/second");
        let kept = if count == 0 { vec![first, "elsewhere", second] } else { vec![first, second] };
        assert_eq!(topics(&heard), kept);
        kiosk.send(wire::DISCONNECT);
        edit(&server, narrowed, WIDE);
        server.hangup(2 * count + 2, DONE);
    }
}

#[test]
fn removing_a_role_ends_the_sessions_without_another() {
    let server = site();
    let (mut viewer, mut app) = (client(&server, "viewer-1", V5), client(&server, "app-1", V5));
    edit(&server, "principals = [\"viewer-1\"]", "principals = [\"app-1\"]");
    server.hangup(1, DONE);
    ended(&mut viewer);
    assert_eq!(login(&server, &connect("viewer-1", "viewer-1", V5)).0, 0x87, "known, and without a role");
    app.ping();
}

/// A configuration that is refused changes nothing of what is in it, and the log says what is wrong with it. Users and
/// keys are read all the same: one who was removed stayed for a mistake that had nothing to do with that.
#[test]
fn an_invalid_configuration_still_ends_removed_users() {
    let server = site();
    let (mut viewer, mut boss) = (client(&server, "viewer-1", V5), client(&server, "boss", V5));
    let mut removed = client(&server, "lamp-1", V5);
    edit(&server, "role = \"viewer\"\nprincipals", "role = \"viewr\"\nprincipals");
    passwd(server.directory(), &["remove", "lamp-1"], "");
    server.hangup(1, "users and keys reloaded, sessions reviewed; roles are unchanged");
    let log = server.log();
    assert!(log.contains("configuration rejected, the previous one stays in use"), "{log}");
    assert!(log.contains("is 'viewr', but must be one of the roles that there are"), "{log}");
    ended(&mut removed);
    viewer.subscribe(&[("shadow/lamp-1/update/accepted", 1)]);
    boss.publish("shadow/lamp-1/update", r#"{"state":{"tags":{"a":1}}}"#, 1);
    assert_eq!(viewer.message().json()["state"], serde_json::json!({"tags": {"a": 1}}));
}

/// Only one of two files with mistakes was logged, followed by a message of success.
#[test]
fn every_invalid_file_is_named() {
    let server = site();
    let mut lamp = client(&server, "lamp-1", V5);
    for file in ["users", "secret", "aws-keys"] {
        fs::write(server.directory().join(file), "oops").unwrap();
    }
    server.hangup(1, "sessions reviewed");
    let log = server.log();
    let named = log.lines().filter(|line| line.contains("rejected, its previous content stays in use"));
    let named: Vec<_> = named.filter_map(|line| line.split("error=").nth(1)).collect();
    assert_eq!(named.len(), 3, "{log}");
    for file in ["users", "secret", "aws-keys"] {
        assert!(named.iter().any(|line| line.contains(file)), "{file}: {log}");
    }
    assert!(!log.contains(DONE), "{log}");
    lamp.ping();
    assert_eq!(login(&server, &connect("lamp-1", "late", V5)).0, 0);
}

/// A limit that was raised seemed to be in force.
#[test]
fn keys_that_need_a_restart_are_named() {
    let waits = "changed configuration keys take effect after a restart";
    let server = site();
    edit(&server, "kind = \"http\"", "kind = \"http\"\ncertificate_role = \"viewer\"");
    server.hangup(1, DONE);
    assert!(!server.log().contains(waits), "{}", server.log());
    edit(&server, "kind = \"http\"", "kind = \"http\"\nconnect_timeout = \"7s\"");
    edit(&server, "users = \"users\"", "users = \"./users\"");
    edit(&server, "burst 1000000", "burst 999999");
    server.hangup(2, DONE);
    let log = server.log();
    let logged = log.lines().find(|line| line.contains(waits)).unwrap();
    assert!(logged.contains("keys=\"auth.users, limits.requests_rate, listener.web.connect_timeout\""), "{logged}");
}

/// An anonymous client is as good as its listener says now. The sessions of those who were away, and their wills, had
/// stayed.
#[test]
fn disabling_anonymous_access_disconnects_anonymous_clients() {
    let setup = Setup { listener: "anonymous = true", ..UNLIMITED };
    let server = Server::with(setup);
    let mut clients = BOTH.map(|protocol| Client::connect(&server, protocol, "somebody"));
    let away = Connect::persistent(V5, "away");
    Client::connect_as(&server, &away).0.disconnect();
    edit(&server, "anonymous = true", "anonymous = false");
    server.hangup(1, DONE);
    clients.iter_mut().for_each(ended);
    assert_eq!(login(&server, &Connect::new(V5, "somebody")).0, 0x87);
    edit(&server, "anonymous = false", "anonymous = true");
    server.hangup(2, DONE);
    assert_eq!(login(&server, &away), (0, false), "its session ended");
}

/// A listener that was to move to loopback and be anonymous there was anonymous at once, where it was.
#[test]
fn a_listener_with_a_new_address_keeps_its_policy_until_a_restart() {
    let server = site();
    let section = "name = \"test\"\nbind = \"127.0.0.1:0\"\nanonymous = false";
    edit(&server, section, "name = \"test\"\nbind = \"127.0.0.2:0\"\nanonymous = true");
    server.hangup(1, DONE);
    assert_eq!(login(&server, &Connect::new(V5, "somebody")).0, 0x87);
    let log = server.log();
    assert!(log.contains("keys=\"listener.test.anonymous, listener.test.bind\""), "{log}");
}

/// Everybody there had to go at once, while the log said that the change waits.
#[test]
fn a_renamed_listener_keeps_its_policy() {
    let server = Server::with(UNLIMITED);
    let mut somebody = Client::connect(&server, V5, "somebody");
    edit(&server, "name = \"test\"", "name = \"other\"");
    server.hangup(1, DONE);
    let log = server.log();
    assert!(log.contains("keys=\"listener.other, listener.test\""), "{log}");
    somebody.ping();
    assert_eq!(login(&server, &Connect::new(V5, "another")).0, 0);
}

const LAMP: &str = "/v1/devices/lamp-1/shadow";

/// Each request on a connection is authenticated again; a stream ends before its next event.
#[test]
fn removing_a_user_ends_its_http_connections() {
    let server = site();
    let mut boss = client(&server, "boss", V5);
    boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"pin":1}}}"#, 1);
    let head = format!("GET {LAMP} HTTP/1.1\nAuthorization: {}", basic("viewer-1"));
    let mut kept = Http::connect(server.address_of("web"));
    assert_eq!(kept.send(&head, b"").status, 200);
    let (stream, mut other) =
        (Events::follow(&server, "viewer-1", "", ""), Events::follow(&server, "app-1", "?device=lamp-1", ""));
    passwd(server.directory(), &["remove", "viewer-1"], "");
    server.hangup(1, DONE);
    assert_eq!(kept.send(&head, b"").status, 401);
    assert_eq!(stream.rest(), None, "a removed user receives nothing");
    boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"pin":2}}}"#, 1);
    assert_eq!(other.next()["version"], 2);
}

/// A write was let in by the rights that its sender had before its body came, which may take a while.
#[test]
fn a_write_is_authorized_when_its_body_ends() {
    let patient = "[[listener]]\nname = \"patient\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nanonymous = false\n\
                   connect_timeout = \"5m\"\n";
    let only_tags = "[[rule]]\nrole = \"admin\"\ndevices = [\"*\"]\nread = [\"/tags\"]\nwrite = [\"/tags\"]\n";
    let partial = "[[rule]]\nrole = \"partial";
    let remove = |server: &Server| passwd(server.directory(), &["remove", "boss"], "");
    let narrow = |server: &Server| edit(server, partial, &format!("{only_tags}\n{partial}"));
    let put = format!("PUT {LAMP} HTTP/1.1\nContent-Type: application/json\nIf-None-Match: *");
    let requests = [
        (put.as_str(), r#"{"reported":{"a":1}}"#),
        ("POST /things/lamp-1/shadow HTTP/1.1", r#"{"state":{"reported":{"a":1}}}"#),
    ];
    // what happens while the body is waited for, the status of the answer
    let happens: [&dyn Fn(&Server); 2] = [&remove, &narrow];
    for (happens, status) in happens.into_iter().zip([401, 403]) {
        let server = site_with(patient);
        let writers = requests.map(|(head, body)| {
            let mut writer = Http::connect(server.address_of("patient"));
            writer.write_head(&format!("{head}\nAuthorization: {}", basic("boss")), body.len());
            (writer, body)
        });
        happens(&server);
        server.hangup(1, DONE);
        for (mut writer, body) in writers {
            writer.write_bytes(body.as_bytes());
            let reply = writer.reply(false);
            assert_eq!(reply.status, status, "{reply:?}");
        }
        assert_eq!(get(&server, "viewer-1", LAMP).status, 404, "nothing was written");
    }
}

/// A wait was answered by the rights that its sender had when it began to wait: one whose user had been removed, or
/// whose role had been removed, received the next change.
#[test]
fn a_wait_is_authorized_when_it_ends() {
    let only_lamp_2 = "[[rule]]\nrole = \"viewer\"\ndevices = [\"lamp-2\"]\nread = [\"/reported\"]\n";
    let only_reported = "[[rule]]\nrole = \"viewer\"\ndevices = [\"*\"]\nread = [\"/reported\"]\n";
    let partial = "[[rule]]\nrole = \"partial";
    let narrow = |server: &Server, rule: &str| edit(server, partial, &format!("{rule}\n{partial}"));
    let remove = |server: &Server| passwd(server.directory(), &["remove", "viewer-1"], "");
    let take = |server: &Server| edit(server, "principals = [\"viewer-1\"]", "principals = [\"app-1\"]");
    let narrow_to_lamp_2 = |server: &Server| narrow(server, only_lamp_2);
    let narrow_to_reported = |server: &Server| narrow(server, only_reported);
    // what happens while it waits, the status of the answer
    let happens: [&dyn Fn(&Server); 4] = [&remove, &take, &narrow_to_lamp_2, &narrow_to_reported];
    for (index, (happens, status)) in happens.into_iter().zip([401, 401, 404, 200]).enumerate() {
        let server = site();
        let mut boss = client(&server, "boss", V5);
        boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"pin":4711},"reported":{"a":1}}}"#, 1);
        let mut waiters: Vec<_> = (0..8).map(|_| Http::connect(server.address_of("web"))).collect();
        for waiter in &mut waiters {
            let head =
                format!("GET {LAMP}?wait=version%3E1&timeout=300 HTTP/1.1\nAuthorization: {}", basic("viewer-1"));
            waiter.write(&head, b"");
        }
        eventually("all of them to wait", || {
            get(&server, "boss", "/metrics").text().contains("\numbra_streams 8\n").then_some(())
        });
        happens(&server);
        server.hangup(1, DONE);
        // The loss of rights is reported at once, not at the next event.
        if status == 200 {
            boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"pin":4712}}}"#, 1);
        }
        for waiter in &mut waiters {
            let reply = waiter.reply(false);
            assert_eq!(reply.status, status, "case {index}: {reply:?}");
            assert!(!reply.text().contains("471"), "case {index}: {reply:?}");
        }
    }
}

/// A session was restored with the messages that its former rights let it receive, and received them.
#[test]
fn rights_narrowed_while_no_server_runs_concern_what_is_queued() {
    let lines = |subscribe: &str| {
        let rule =
            format!("role = \"wide\"\ndevices = [\"lamp-1\"]\nread = [\"/desired\"]\nsubscribe = [\"{subscribe}\"]");
        format!("[[rule]]\n{rule}\n[[grant]]\nrole = \"wide\"\nprincipals = [\"kiosk\"]")
    };
    for protocol in BOTH {
        let server = site_with(&lines("#"));
        let (mut kiosk, _) = Client::connect_as(&server, &persistent("kiosk", "away", protocol));
        kiosk.subscribe(&[("devices/#", 1), ("elsewhere", 1)]);
        kiosk.disconnect();
        let mut boss = client(&server, "boss", V5);
        for topic in ["elsewhere", "devices/first"] {
            boss.publish(topic, "x", 1);
        }
        let server = site_again(server, &lines("devices/#"));
        let (mut kiosk, connack) = Client::connect_as(&server, &persistent("kiosk", "away", protocol));
        assert!(connack.session_present);
        assert_eq!(topics(&heard(&server, &mut kiosk, "devices/marker")), ["devices/first"], "{protocol:?}");
    }
}
