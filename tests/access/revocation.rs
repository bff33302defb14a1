//! Logins that are revoked while they are in use: each way of logging in, in each place where it may still have an
//! effect. After a certificate had been revoked, a will with a delay still wrote the shadow as the revoked device.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    certificates::{Authority, Issued},
    client,
    harness::{
        client::{Client, disconnect_with},
        eventually,
        packet::Packet,
        server::Server,
        users::passwd,
        wire::{self, Connect, Properties, Publish, V5, Value, prop},
    },
    http::{basic, get},
    logins::token,
    site::{self, TOKEN_SECRET, site_of},
    streams::{Link, Mqtt, Stream, presigned},
};

const DONE: &str = "users, keys and roles reloaded";
const LAMP: &str = "/v1/devices/lamp-1/shadow";

/// Commands that a connection may send before it is read more slowly: the others of it are not decided for an hour.
const BURST: usize = 8;
const SENT: usize = 12;
const LIMITS: &str = "requests_rate = \"1000000/s burst 1000000\"\npublishes_rate = \"1/h burst 8\"";

/// How the client logs in.
enum Login {
    Certificate(Issued),
    Password,
    Token(String),
    AccessKey,
    Anonymous,
}

/// A way of logging in and of losing it.
struct Case {
    name: &'static str,
    login: fn(&Authority, Duration) -> Login,
    /// Takes the login away; `None` if it expires by itself.
    revoke: Option<fn(&Site)>,
    /// The reason of the DISCONNECT that the connected client receives.
    reason: Option<u8>,
    /// True if the login is not revoked: only its connection ends.
    session_stays: bool,
}

const CASES: [Case; 11] = [
    Case {
        name: "certificate revoked",
        login: |authority, _| Login::Certificate(authority.client("lamp-1")),
        revoke: Some(|site| drop(site.authority.revoke(&[site.certificate()]))),
        reason: None, // TLS ends
        session_stays: false,
    },
    Case {
        name: "certificate expired",
        login: |authority, lives| Login::Certificate(authority.short_lived_client("lamp-1", lives)),
        revoke: None,
        reason: Some(0x87),
        session_stays: false,
    },
    Case {
        name: "certificate banned",
        login: |authority, _| Login::Certificate(authority.client("lamp-1")),
        revoke: Some(|site| site.ban("lamp-1")),
        reason: Some(0x98),
        session_stays: false,
    },
    Case {
        name: "user removed",
        login: |_, _| Login::Password,
        revoke: Some(|site| passwd(site.server.directory(), &["remove", "lamp-1"], "")),
        reason: Some(0x87),
        session_stays: false,
    },
    Case {
        name: "password changed",
        login: |_, _| Login::Password,
        revoke: Some(|site| passwd(site.server.directory(), &["add", "lamp-1", "--stdin"], "another-password")),
        reason: Some(0x87),
        session_stays: false,
    },
    Case {
        name: "user banned",
        login: |_, _| Login::Password,
        revoke: Some(|site| site.ban("# stolen\nlam*-1")),
        reason: Some(0x98),
        session_stays: false,
    },
    Case {
        name: "token key removed",
        login: |_, _| Login::Token(token("lamp-1", 3600, TOKEN_SECRET)),
        revoke: Some(|site| site.write("secret", "another secret, just as long as the first one was")),
        reason: Some(0x87),
        session_stays: false,
    },
    Case {
        name: "token expired",
        login: |_, lives| Login::Token(token("lamp-1", lives.as_secs() as i64, TOKEN_SECRET)),
        revoke: None,
        reason: Some(0x87),
        session_stays: true,
    },
    Case {
        name: "access key removed",
        login: |_, _| Login::AccessKey,
        revoke: Some(|site| site.write("aws-keys", "AKIDOTHER another-secret lamp-1\n")),
        reason: Some(0x87),
        session_stays: false,
    },
    Case {
        name: "anonymous turned off",
        login: |_, _| Login::Anonymous,
        revoke: Some(|site| {
            let path = site.server.directory().join("broker.toml");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("anonymous = true", "anonymous = false")).unwrap();
        }),
        reason: Some(0x87),
        session_stays: false,
    },
    Case {
        name: "anonymous banned",
        login: |_, _| Login::Anonymous,
        revoke: Some(|site| site.ban("anonymous/*")),
        reason: Some(0x98),
        session_stays: false,
    },
];

/// A server with a listener for each way, and the client's login.
struct Site {
    server: Server,
    authority: Authority,
    login: Login,
}

impl Site {
    fn start(case: &Case, lives: Duration) -> Self {
        let authority = Authority::new("authority");
        let list = authority.revoke(&[]);
        let tls = authority
            .listener(&authority.server(), &format!("tls_client_crl = {list:?}\ntls_client_auth = \"required\""));
        let open = "anonymous = true\nanonymous_role = \"admin\"";
        let listeners =
            [("tls", "mqtt", tls), ("webtls", "http", tls), ("open", "mqtt", open), ("webopen", "http", open)];
        let more = listeners.map(|(name, kind, lines)| {
            format!("[[listener]]\nname = \"{name}\"\nkind = \"{kind}\"\nbind = \"127.0.0.1:0\"\n{lines}\n")
        });
        let server = site_of(&more.concat(), LIMITS, &[("banned", "")]);
        let login = (case.login)(&authority, lives);
        Self { server, authority, login }
    }

    fn certificate(&self) -> &Issued {
        match &self.login {
            Login::Certificate(issued) => issued,
            _ => panic!("no certificate"),
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.server.directory().join(file), text).unwrap();
    }

    fn ban(&self, line: &str) {
        self.write("banned", line);
    }

    /// A connection to the listener of this kind for the way of logging in.
    fn link(&self, web: bool) -> Option<Stream> {
        let address = |mqtt, http| self.server.address_of(if web { http } else { mqtt });
        Some(match &self.login {
            Login::Certificate(issued) => {
                let config = Arc::new(client::config(&self.authority.file, Some(issued), &[]));
                Box::new(client::handshake(address("tls", "webtls"), config)) as Box<dyn Link>
            }
            Login::Anonymous => crate::streams::plain(address("open", "webopen")),
            Login::AccessKey if !web => {
                let url = presigned(self.server.address_of("web"), "AKIDLAMP", site::AWS_SECRET);
                crate::streams::web_socket(self.server.address_of("web"), &url)?
            }
            _ => crate::streams::plain(address("test", "web")),
        })
    }

    /// Connects over MQTT; `None` if the login has expired.
    fn mqtt(&self, connect: Connect) -> Option<Mqtt> {
        let connect = match &self.login {
            Login::Password => connect.user("lamp-1", "lamp-1-password"),
            Login::Token(token) => connect.user("whatever", token),
            Login::Certificate(_) | Login::AccessKey | Login::Anonymous => connect,
        };
        let mut mqtt = Mqtt::over(self.link(false)?);
        mqtt.send(connect.encode());
        matches!(mqtt.recv()?, Packet::ConnAck { code: 0, .. }).then_some(mqtt)
    }

    /// Follows the events over HTTP, which clients with access keys cannot.
    fn events(&self) -> Option<Option<Stream>> {
        let authorization = match &self.login {
            Login::Password => format!("Authorization: {}\r\n", basic("lamp-1")),
            Login::Token(token) => format!("Authorization: Bearer {token}\r\n"),
            Login::Certificate(_) | Login::Anonymous => String::new(),
            Login::AccessKey => return Some(None),
        };
        let mut stream = self.link(true)?;
        let request = format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        crate::streams::read_until(&mut *stream, "retry: ").then_some(Some(stream))
    }

    fn metric(&self, line: &str) -> u64 {
        let page = get(&self.server, "boss", "/metrics").text().to_owned();
        let found = page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {page}"))
    }

    fn version(&self) -> u64 {
        get(&self.server, "boss", LAMP).json()["version"].as_u64().unwrap_or_default()
    }
}

/// The places where the login has an effect.
struct Effects {
    connected: Mqtt,
    queued: Mqtt,
    events: Option<Stream>,
}

/// Logs in everywhere; `None` if the login expires meanwhile.
fn set_up(site: &Site) -> Option<Effects> {
    let bye = Publish::new("devices/lamp-1/bye", "connected");
    let connected = site.mqtt(Connect::new(V5, "connected").will(bye, 0))?;
    // A device may have four sessions. The wills wait longer than the test.
    for (id, topic, payload) in [
        ("will", "devices/lamp-1/bye", "disconnected"),
        ("writes", "shadow/lamp-1/update", r#"{"state":{"reported":{"bye":true}}}"#),
    ] {
        let will = Publish::new(topic, payload).property(prop::WILL_DELAY, Value::Four(3_000));
        let mut client = site.mqtt(Connect::persistent(V5, id).will(will, 1))?;
        client.send(wire::subscribe(V5, 1, &[("devices/lamp-1/#", 1)], &Properties::none()));
        assert!(matches!(client.recv()?, Packet::SubAck { .. }));
        client.send(disconnect_with(0x04, &Properties::none()));
    }
    let mut queued = site.mqtt(Connect::new(V5, "queued"))?;
    for n in 0..SENT {
        let update = format!(r#"{{"state":{{"reported":{{"n":{n}}}}}}}"#);
        queued.send(Publish::new("shadow/lamp-1/update", update).encode(V5, 0, 0));
    }
    let events = site.events()?;
    eventually("all but the queued commands to be decided", || (site.version() >= BURST as u64).then_some(()));
    eventually("two sessions to be disconnected", || {
        (site.metric("umbra_sessions{state=\"disconnected\"}") == 2).then_some(())
    });
    Some(Effects { connected, queued, events })
}

#[test]
fn a_revoked_login_has_no_effect_any_more() {
    for case in CASES {
        eprintln!("{}", case.name);
        // Too slow a machine repeats with a login that lives longer.
        let mut lives = Duration::from_secs(4);
        loop {
            let begun = Instant::now();
            let site = Site::start(&case, lives);
            let effects = set_up(&site);
            if let Some(effects) = effects.filter(|_| case.revoke.is_some() || begun.elapsed() < lives - lives / 4) {
                check(&case, &site, effects);
                break;
            }
            assert!(case.revoke.is_none() && lives < Duration::from_secs(300), "{}: no login", case.name);
            lives *= 2;
        }
    }
}

/// A session that waits while the server is down is reviewed at the start as at SIGHUP.
#[test]
fn a_login_that_is_revoked_while_the_server_is_down_has_no_session_any_more() {
    // A restart writes the configuration of the test again, so anonymous access is on again.
    let survives = |case: &Case| case.revoke.is_some() && case.name != "anonymous turned off";
    for case in CASES.into_iter().filter(survives) {
        for is_revoked in [false, true] {
            let name = format!("{}, {is_revoked}", case.name);
            let mut site = Site::start(&case, Duration::from_secs(3_600));
            let will = Publish::new("devices/lamp-1/bye", "late").property(prop::WILL_DELAY, Value::Four(3_000));
            let mut client = site.mqtt(Connect::persistent(V5, "away").will(will, 1)).unwrap();
            client.send(wire::subscribe(V5, 1, &[("devices/lamp-1/#", 1)], &Properties::none()));
            assert!(matches!(client.recv(), Some(Packet::SubAck { .. })), "{name}: its session is on disk");
            site.server.kill();
            if let Some(revoke) = case.revoke.filter(|_| is_revoked) {
                revoke(&site);
            }
            site.server.restart();
            let left = site.metric("umbra_sessions{state=\"disconnected\"}");
            assert_eq!(left, u64::from(!is_revoked), "{name}");
        }
    }
}

fn check(case: &Case, site: &Site, Effects { mut connected, mut queued, events }: Effects) {
    let name = case.name;
    let (mut watcher, _) = Client::connect_as(&site.server, &site::connect("boss", "watcher", V5));
    watcher.subscribe(&[("devices/lamp-1/#", 1)]);
    if let Some(revoke) = case.revoke {
        revoke(site);
        site.server.hangup(1, DONE);
    }
    assert_eq!(connected.closed(), case.reason, "{name}: connected");
    queued.closed();
    if let Some(mut events) = events {
        crate::streams::read_until(&mut *events, "\r\n0\r\n\r\n"); // or TLS ends
    }
    let stays = if case.session_stays { 2 } else { 0 };
    eventually(&format!("{name}: {stays} disconnected sessions"), || {
        (site.metric("umbra_sessions{state=\"disconnected\"}") == stays).then_some(())
    });
    eventually("the connections to end", || (site.metric("umbra_sessions{state=\"connected\"}") == 1).then_some(()));

    // A will would come before the marker.
    Client::connect_as(&site.server, &site::connect("boss", "marker", V5)).0.publish("devices/lamp-1/marker", "", 1);
    let mut heard = vec![watcher.message()];
    while heard.last().is_some_and(|message| message.topic != "devices/lamp-1/marker") {
        heard.push(watcher.message());
    }
    let wills: Vec<_> = heard.iter().map(|message| message.text()).filter(|text| !text.is_empty()).collect();
    assert_eq!(wills, if case.session_stays { vec!["connected"] } else { vec![] }, "{name}: wills");
    let shadow = get(&site.server, "boss", LAMP).json();
    assert_eq!(shadow["state"]["reported"].get("bye"), None, "{name}: {shadow}");
    let version = shadow["version"].as_u64().unwrap();
    assert!(version < SENT as u64, "{name}: queued commands were decided: {shadow}");
    assert!(site.mqtt(Connect::new(V5, "again")).is_none(), "{name}: it may log in again");
}
