//! An operator's measures against a principal: the list of banned ones, and the end of all connections of one.

use std::fs;

use serde_json::{Value, json};

use crate::{
    harness::{
        client::Client,
        eventually,
        http::{Http, Reply},
        program::umbrad,
        server::Server,
        wire::{BOTH, Connect, Protocol, Publish, V4, V5},
    },
    http::{Events, basic, get},
    logins::token,
    site::{TOKEN_SECRET, client, connect, site, site_of},
};

const DONE: &str = "users, keys and roles reloaded";

fn persistent(user: &str, id: &str, protocol: Protocol) -> Connect {
    let credentials = connect(user, id, protocol);
    Connect { username: credentials.username, password: credentials.password, ..Connect::persistent(protocol, id) }
}

fn code(server: &Server, connect: &Connect) -> u8 {
    let mut client = Client::open(server, connect.protocol);
    client.send(connect.encode());
    client.connack().code
}

fn request(server: &Server, line: &str, authorization: &str, body: &str) -> Reply {
    let head = format!("{line} HTTP/1.1\nAuthorization: {authorization}");
    Http::connect(server.address_of("web")).send(&head, body.as_bytes())
}

/// A banned principal is refused however it logs in, and others are not; without credentials nobody learns who is banned.
#[test]
fn a_banned_principal_is_refused_at_every_way_of_logging_in() {
    let listener = "[[listener]]\nname = \"open\"\nbind = \"127.0.0.1:0\"\nanonymous = true\n";
    let server = site_of(listener, "", &[("banned", "# stolen\nlamp-1\nanonymous/bad-*\n")]);
    let bearer = |name: &str| format!("Bearer {}", token(name, 3600, TOKEN_SECRET));
    for (protocol, banned, wrong) in [(V4, 5, 4), (V5, 0x8A, 0x86)] {
        let by_token = |name: &str| Connect::new(protocol, "t").user("x", token(name, 3600, TOKEN_SECRET));
        for (connect, expected) in [
            (connect("lamp-1", "a", protocol), banned),
            (by_token("lamp-1"), banned),
            (Connect::new(protocol, "a").user("lamp-1", "wrong"), wrong),
            (connect("lamp-2", "b", protocol), 0),
            (by_token("lamp-2"), 0),
        ] {
            assert_eq!(code(&server, &connect), expected, "{connect:?}");
        }
    }
    for (authorization, status) in
        [(basic("lamp-1"), 403), (bearer("lamp-1"), 403), (basic("lamp-2"), 404), (bearer("lamp-2"), 404)]
    {
        assert_eq!(request(&server, "GET /v1/devices/lamp-2/shadow", &authorization, "").status, status);
    }
    let sign_in = |user: &str| {
        let body = json!({"user": user, "password": format!("{user}-password")}).to_string();
        let head = "POST /session HTTP/1.1\nContent-Type: application/json";
        Http::connect(server.address_of("web")).send(head, body.as_bytes()).status
    };
    assert_eq!((sign_in("lamp-1"), sign_in("lamp-2")), (403, 204));
    let metrics = get(&server, "boss", "/metrics").text().to_owned();
    assert!(metrics.contains("umbra_logins_refused_total{cause=\"banned\"} 7\n"), "{metrics}");

    // An unusable file leaves the bans as they are.
    fs::write(server.directory().join("banned"), "{principal}\n").unwrap();
    server.hangup(1, "sessions reviewed; some files were rejected");
    assert_eq!(code(&server, &connect("lamp-1", "a", V5)), 0x8A);
    fs::write(server.directory().join("banned"), "").unwrap();
    server.hangup(1, DONE);
    assert_eq!(code(&server, &connect("lamp-1", "a", V5)), 0);
}

/// Everything of one principal ends, with the reason; nothing of others does.
#[test]
fn a_kick_ends_everything_of_a_principal() {
    for protocol in BOTH {
        for keep in [false, true] {
            let server = site();
            let mut boss = client(&server, "boss", V5);
            boss.subscribe(&[("devices/#", 1)]);
            let will = Publish::new("devices/lamp-1/bye", "");
            let (mut here, _) = Client::connect_as(&server, &persistent("lamp-1", "here", protocol).will(will, 1));
            Client::connect_as(&server, &persistent("lamp-1", "away", protocol)).0.disconnect();
            let mut other = client(&server, "lamp-2", protocol);
            let events = Events::follow(&server, "lamp-1", "", "");
            let mut other_events = Events::follow(&server, "lamp-2", "", "");
            eventually("a session to be disconnected", || {
                get(&server, "boss", "/metrics")
                    .text()
                    .contains("umbra_sessions{state=\"disconnected\"} 1\n")
                    .then_some(())
            });
            let target = format!("DELETE /v1/principals/lamp-1/connections?keep_sessions={keep}");
            let reply = request(&server, &target, &basic("boss"), "");
            let sessions = if keep { 0 } else { 2 };
            let expected = json!({"connections": 1, "sessions": sessions, "streams": 1, "signIns": 0});
            assert_eq!((reply.status, reply.json()), (200, expected.clone()), "{reply:?}");
            assert_eq!(here.closed(), (protocol == V5).then_some(0x98));
            assert_eq!(events.rest(), None);
            assert_eq!(boss.message().topic, "devices/lamp-1/bye", "a kick is no revocation");
            for id in ["here", "away"] {
                let (again, connack) = Client::connect_as(&server, &persistent("lamp-1", id, protocol));
                assert_eq!(connack.session_present, keep, "{id}");
                again.disconnect();
            }
            other.ping();
            boss.publish("shadow/lamp-2/update", r#"{"state":{"desired":{"a":1}}}"#, 1);
            assert_eq!(other_events.next()["version"], 1);
        }
    }
}

#[test]
fn only_an_operator_may_kick() {
    let server = site();
    let kick = |name: &str, query: &str, authorization: &str| {
        request(&server, &format!("DELETE /v1/principals/{name}/connections{query}"), authorization, "").status
    };
    let mut lamp = client(&server, "lamp-1", V5);
    for (name, query, authorization, status) in [
        ("lamp-1", "", basic("lamp-1"), 403),
        ("lamp-1", "", basic("app-1"), 403),
        ("lamp-1", "", "Basic eDp5".to_owned(), 401),
        ("lamp-1", "?keep_sessions=x", basic("boss"), 400),
        ("lamp-1", "?x=1", basic("boss"), 400),
        ("anonymous%2Fx%20y", "", basic("boss"), 200),
        ("lamp", "", basic("boss"), 200),
    ] {
        assert_eq!(kick(name, query, &authorization), status, "{name}{query}");
    }
    lamp.ping();
    assert_eq!(get(&server, "boss", "/v1/principals/lamp-1/connections").status, 405);
}

/// The same by the command, and a browser session with it.
#[test]
fn umbrad_kick_ends_connections() {
    let server = site();
    let mut lamp = client(&server, "lamp-1", V5);
    let body = r#"{"user":"lamp-1","password":"lamp-1-password"}"#;
    let post = "POST /session HTTP/1.1\nContent-Type: application/json";
    let cookie = Http::connect(server.address_of("web")).send(post, body.as_bytes());
    let cookie = cookie.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let session = || {
        let head = format!("GET /session HTTP/1.1\nCookie: {cookie}");
        Http::connect(server.address_of("web")).send(&head, b"").status
    };
    assert_eq!(session(), 200);
    let file = |name: &str, text: &str| {
        let path = server.directory().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let url = format!("http://{}", server.address_of("web"));
    let run = |user: &str| {
        let password = file("password", &format!("{user}-password\n"));
        let mut command = umbrad(&["kick", "lamp-1", "--url", &url, "--user", user, "--password-file"]);
        command.arg(password).output().unwrap()
    };
    let refused = run("lamp-1");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let done = run("boss");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let ended: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(ended, json!({"connections": 1, "sessions": 1, "streams": 0, "signIns": 1}));
    assert_eq!(lamp.closed(), Some(0x98));
    assert_eq!(session(), 401);
    let log = server.log();
    assert!(
        log.lines().any(|line| line.contains("connections of a principal ended") && line.contains("by=boss")),
        "{log}"
    );
}

/// Users and roles are listed as the server uses them, for a client with all rights.
#[test]
fn users_and_roles_are_listed_for_operators() {
    let server = site();
    let list = |path: &str| get(&server, "boss", path).json();
    let users = |page: &Value| -> Vec<String> {
        let users = page["users"].as_array().unwrap();
        users.iter().map(|user| user["user"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["app-1", "boss", "ghost", "kiosk", "lamp-1", "lamp-2", "partial", "viewer-1"];
    let page = list("/v1/users");
    assert_eq!(users(&page), all);
    assert_eq!((&page["users"][4]["roles"], &page["users"][2]["roles"]), (&json!(["device"]), &json!([])));
    assert!(!page.to_string().contains("argon2"), "no hashes");
    let (mut read, mut path) = (Vec::new(), "/v1/users?limit=3".to_owned());
    loop {
        let page = list(&path);
        read.extend(users(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/users?limit=3&cursor={next}");
    }
    assert_eq!(read, all);
    assert_eq!(users(&list("/v1/users?prefix=lamp-")), ["lamp-1", "lamp-2"]);
    assert_eq!(users(&list("/v1/users?prefix=lamp-&limit=1")), ["lamp-1"]);

    let roles = list("/v1/roles");
    let role = |name: &str| roles["roles"].as_array().unwrap().iter().find(|role| role["role"] == name).unwrap();
    let partial = role("partial");
    assert_eq!(partial["grants"], json!([{"principals": ["partial"], "by": [], "devices": []}]));
    assert_eq!(partial["rules"][0]["read"], json!(["/desired/zone/t", "/reported/zone"]));
    assert_eq!(role("app")["grants"][0]["devices"], json!(["lamp-*"]));
    assert!(role("admin")["limits"]["sessions"].is_u64());

    for (path, status) in [
        ("/v1/users?limit=0", 400),
        ("/v1/users?limit=101", 400),
        ("/v1/users?cursor=%20", 400),
        ("/v1/users?prefix=%00", 400),
    ] {
        assert_eq!(get(&server, "boss", path).status, status, "{path}");
    }
    for path in ["/v1/users", "/v1/roles"] {
        assert_eq!(get(&server, "viewer-1", path).status, 403, "{path}");
    }

    let file = server.directory().join("users");
    let fewer: String = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("ghost:"))
        .fold(String::new(), |text, line| text + line + "\n");
    fs::write(&file, fewer).unwrap();
    server.hangup(1, DONE);
    assert!(!users(&list("/v1/users")).contains(&"ghost".to_owned()));
}
