//! Signing in, as a program sees it: what the cookie is, what it opens, and when it no longer does.

use std::{fs, path::Path};

use crate::harness::{
    eventually,
    http::{Http, Reply},
    server::{Server, Setup, UNLIMITED},
    users::passwd,
};

/// Listeners that want to know their clients, and a second one for pages.
const KNOWN: &str = r#"anonymous = false

[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
anonymous = false
connect_timeout = "5m"

[[listener]]
name = "other"
kind = "http"
bind = "127.0.0.1:0"
anonymous = false

[auth]
users = "users"
failure_delay = "1ms"
login_failures = "1/d burst 3"

[[grant]]
role = "admin"
principals = ["boss"]

[[grant]]
role = "viewer"
principals = ["viewer-1"]

[[rule]]
role = "contractor"
devices = ["*"]
names = [""]
operations = ["get", "subscribe", "update"]
read = ["/reported/temperature", "/desired/limit"]
write = ["/desired/limit"]

[[grant]]
role = "contractor"
principals = ["contractor"]
"#;

/// A server that knows `boss`, `viewer-1` and `contractor`.
pub(crate) struct Site {
    pub(crate) server: Server,
}

impl Site {
    pub(crate) fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for user in ["boss", "viewer-1", "contractor"] {
            passwd(directory.path(), &["add", user, "--stdin"], &format!("{user}-password"));
        }
        let setup = Setup { listener: KNOWN, ..UNLIMITED };
        let server = Server::within(directory, setup);
        Self { server: server.unwrap_or_else(|(exit, _)| panic!("the server did not start: {exit:?}")) }
    }

    /// A request on a connection of its own, with the cookie if there is one.
    fn send(&self, listener: &str, head: &str, cookie: &str, body: &str) -> Reply {
        let cookie = if cookie.is_empty() { String::new() } else { format!("\nCookie: a=b; {cookie}") };
        Http::connect(self.server.address_of(listener)).send(&format!("{head}{cookie}"), body.as_bytes())
    }

    /// Signs in; the cookie.
    fn sign_in(&self, user: &str) -> String {
        let body = format!(r#"{{"user":"{user}","password":"{user}-password"}}"#);
        let reply = self.send("web", "POST /session HTTP/1.1", "", &body);
        assert_eq!(reply.status, 204, "{reply:?}");
        let cookie = reply.header("set-cookie").unwrap();
        assert!(cookie.ends_with("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    fn who(&self, cookie: &str) -> (u16, String) {
        let reply = self.send("web", "GET /session HTTP/1.1", cookie, "");
        (reply.status, String::from_utf8(reply.body).unwrap())
    }
}

#[test]
fn a_cookie_authenticates_until_sign_out() {
    let site = Site::open();
    let (boss, viewer) = (site.sign_in("boss"), site.sign_in("viewer-1"));
    let response =
        |name: &str, role: &str| format!(r#"{{"principal":"{name}","method":"password","roles":["{role}"]}}"#);
    assert_eq!(site.who(&boss), (200, response("boss", "admin")));
    assert_eq!(site.who(&viewer), (200, response("viewer-1", "viewer")));

    let write = "PUT /v1/devices/lamp/shadow HTTP/1.1\nIf-None-Match: *\nContent-Type: application/json";
    let read = "GET /v1/devices/lamp/shadow HTTP/1.1";
    // listener, request, cookie, status
    for (listener, head, cookie, status) in [
        ("web", write, "", 401),
        ("web", write, &*viewer, 403),
        ("web", write, &boss, 201),
        ("web", read, &viewer, 200),
        ("other", read, &viewer, 401), // made elsewhere
        ("web", read, &viewer[..viewer.len() - 1], 401),
        ("web", read, &format!("{viewer}\nAuthorization: Bearer x"), 401), // what is shown counts
    ] {
        let body = if head == write { r#"{"desired":{"on":true}}"# } else { "" };
        let reply = site.send(listener, head, cookie, body);
        assert_eq!(reply.status, status, "{listener} {head} {cookie}: {reply:?}");
    }

    let reply = site.send("web", "DELETE /session HTTP/1.1", &viewer, "");
    assert_eq!(reply.status, 204);
    assert!(reply.header("set-cookie").unwrap().starts_with("umbra-session=; Path=/; Max-Age=0;"), "{reply:?}");
    assert_eq!((site.who(&viewer).0, site.who(&boss).0), (401, 200));
}

/// Behind a proxy that ends TLS the listener has none, and its cookie was one that plain HTTP could set and read.
#[test]
fn the_cookie_is_secure_behind_a_tls_proxy() {
    let site = Site::open();
    let host = site.server.address_of("web");
    let body = r#"{"user":"boss","password":"boss-password"}"#;
    for (origin, name, secure) in [
        (format!("\nOrigin: https://{host}"), "__Host-umbra-session", true),
        (format!("\nOrigin: http://{host}"), "umbra-session", false),
        (String::new(), "umbra-session", false),
    ] {
        let post = format!("POST /session HTTP/1.1\nContent-Type: application/json{origin}");
        let reply = site.send("web", &post, "", body);
        assert_eq!(reply.status, 204, "{origin}: {reply:?}");
        let cookie = reply.header("set-cookie").unwrap();
        assert!(cookie.starts_with(&format!("{name}=")) && cookie.contains("; Path=/;"), "{origin}: {cookie}");
        assert_eq!(cookie.ends_with("; Secure"), secure, "{origin}: {cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let who = || Http::connect(host).send(&format!("GET /session HTTP/1.1\nCookie: {cookie}"), b"").status;
        assert_eq!(who(), 200, "{origin}");
        let delete = format!("DELETE /session HTTP/1.1\nCookie: {cookie}{origin}");
        let reply = Http::connect(host).send(&delete, b"");
        assert!(reply.header("set-cookie").unwrap().starts_with(&format!("{name}=; Path=/; Max-Age=0;")), "{reply:?}");
        assert_eq!(who(), 401, "{origin}");
    }
}

/// The addresses of MQTT are for signed-in users: the page shows them to connect a first device.
#[test]
fn the_session_names_the_mqtt_listeners() {
    let site = Site::open();
    let read = |cookie: &str| site.send("web", "GET /session/mqtt HTTP/1.1", cookie, "");
    assert_eq!(read("").status, 401);
    let port = site.server.address.port();
    let expected = format!(r#"{{"listeners":[{{"host":"127.0.0.1","port":{port},"tls":false,"anonymous":false}}]}}"#);
    let reply = read(&site.sign_in("viewer-1"));
    assert_eq!((reply.status, reply.text()), (200, expected));
}

#[test]
fn removing_a_user_ends_its_browser_session() {
    let site = Site::open();
    let (boss, viewer) = (site.sign_in("boss"), site.sign_in("viewer-1"));
    passwd(site.server.directory(), &["remove", "viewer-1"], "");
    site.server.hangup(1, "reloaded");
    assert_eq!((site.who(&viewer).0, site.who(&boss).0), (401, 200));
}

/// A browser sends the cookie with the requests of a page from another port of this host, and an old browser with those
/// of any site: only the origin identifies the page.
#[test]
fn a_cookie_is_refused_from_another_origin() {
    const LAMP: &str = "/v1/devices/lamp/shadow";
    let site = Site::open();
    let boss = site.sign_in("boss");
    let update = r#"{"state":{"desired":{"lock":"open"}}}"#;
    let socket = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\
                  Sec-WebSocket-Version: 13\nSec-WebSocket-Protocol: mqtt";
    let own = format!("http://{}", site.server.address_of("web"));
    let state = || {
        [LAMP, "/v1/devices/lamp/shadows/n"]
            .map(|path| site.send("web", &format!("GET {path} HTTP/1.1"), &boss, "").json()["version"].clone())
    };
    // request, its body, the status for a page of one's own
    for (head, body, status) in [
        (
            format!("PUT {LAMP} HTTP/1.1\nIf-None-Match: *\nContent-Type: application/json"),
            r#"{"desired":{"a":1}}"#,
            201,
        ),
        (
            format!("PATCH {LAMP} HTTP/1.1\nIf-Match: *\nContent-Type: application/merge-patch+json"),
            r#"{"desired":{"a":2}}"#,
            200,
        ),
        ("POST /things/lamp/shadow HTTP/1.1\nContent-Type: application/json".to_owned(), update, 200),
        // What a form may send without asking.
        ("POST /things/lamp/shadow?name=n HTTP/1.1\nContent-Type: text/plain".to_owned(), update, 200),
        (format!("DELETE {LAMP} HTTP/1.1\nIf-Match: *"), "", 204),
        ("DELETE /things/lamp/shadow?name=n HTTP/1.1".to_owned(), "", 200),
        ("POST /v1/backup HTTP/1.1".to_owned(), "", 200),
        (format!("GET /mqtt HTTP/1.1\n{socket}"), "", 101),
        ("DELETE /session HTTP/1.1".to_owned(), "", 204),
    ] {
        let before = state();
        for foreign in ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"] {
            let reply = site.send("web", &format!("{head}\nOrigin: {foreign}"), &boss, body);
            assert_eq!(reply.status, 403, "{head} {foreign}: {reply:?}");
            assert_eq!(state(), before, "{head} {foreign}");
        }
        let reply = site.send("web", &format!("{head}\nOrigin: {own}"), &boss, body);
        assert_eq!(reply.status, status, "{head}: {reply:?}");
    }
    assert_eq!(site.who(&boss).0, 401, "it signed out");
}

#[test]
fn wrong_sign_ins_are_refused() {
    let site = Site::open();
    let wrong = r#"{"user":"boss","password":"guess"}"#;
    for (head, body, status) in [
        ("POST /session HTTP/1.1", "", 400),
        ("POST /session HTTP/1.1", r#"{"user":"boss"}"#, 400),
        ("POST /session HTTP/1.1", r#"{"user":"boss","password":"x","more":1}"#, 400),
        ("POST /session HTTP/1.1", r#"{"token":"x"}"#, 401),
        ("POST /session HTTP/1.1\nOrigin: http://evil.example", r#"{"user":"boss","password":"boss-password"}"#, 403),
        // Guesses are counted as those of any other front end.
        ("POST /session HTTP/1.1", wrong, 401),
        ("POST /session HTTP/1.1", wrong, 401),
        ("POST /session HTTP/1.1", wrong, 401),
        ("POST /session HTTP/1.1", wrong, 429),
        ("PUT /session HTTP/1.1", wrong, 405),
    ] {
        let reply = site.send("web", head, "", body);
        assert_eq!(reply.status, status, "{head} {body}: {reply:?}");
        assert_eq!(reply.header("set-cookie"), None);
    }
    // A browser that was asked for a password by this would ask its user over the page.
    for (client, challenge) in [
        ("dashboard-1", r#"Bearer realm="umbra""#),
        ("curl", r#"Bearer realm="umbra", Basic realm="umbra", charset="UTF-8""#),
    ] {
        let reply = site.send("web", &format!("GET /session HTTP/1.1\nUmbra-Client: {client}"), "", "");
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some(challenge)));
    }
}

#[test]
fn the_page_has_a_content_security_policy() {
    let site = Site::open();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard/dist");
    for (path, file, kind) in [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/assets/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/assets/app.css", "app.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "icon.svg", "image/svg+xml"),
    ] {
        let reply = site.send("web", &format!("GET {path} HTTP/1.1"), "", "");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(reply.body, fs::read(root.join(file)).unwrap(), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        let etag = reply.header("etag").unwrap();
        let again = site.send("web", &format!("GET {path} HTTP/1.1\nIf-None-Match: \"x\", {etag}"), "", "");
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag)), "{path}");
    }
}

/// A stream of events and a wait that a page had opened went on when its user had signed out.
#[test]
fn streams_and_waits_end_with_the_browser_session() {
    let site = Site::open();
    let (boss, viewer) = (site.sign_in("boss"), site.sign_in("viewer-1"));
    let write = "PUT /v1/devices/lamp/shadow HTTP/1.1\nIf-None-Match: *\nContent-Type: application/json";
    assert_eq!(site.send("web", write, &boss, r#"{"desired":{"on":true}}"#).status, 201);
    let begin = |path: &str| {
        let mut http = Http::connect(site.server.address_of("web"));
        http.write(&format!("GET {path} HTTP/1.1\nCookie: {viewer}"), b"");
        http
    };
    let mut stream = begin("/v1/events");
    assert_eq!(stream.head().status, 200);
    stream.chunk().expect("a stream begins with the time to come back");
    let mut waiter = begin("/v1/devices/lamp/shadow?wait=version%3E1&timeout=300");
    let both = || site.send("web", "GET /metrics HTTP/1.1", &boss, "").text().contains("\numbra_streams 2\n");
    eventually("the wait to have begun", || both().then_some(()));
    assert_eq!(site.send("web", "DELETE /session HTTP/1.1", &viewer, "").status, 204);
    // Nothing changes meanwhile: it is the end of the session that is noticed.
    assert_eq!(stream.chunk(), None);
    assert_eq!(waiter.reply(false).status, 401);
}

/// A write whose body came after its user had signed out was made all the same.
#[test]
fn an_incomplete_write_ends_with_the_browser_session() {
    let site = Site::open();
    let boss = site.sign_in("boss");
    let body = r#"{"desired":{"on":true}}"#;
    let mut writer = Http::connect(site.server.address_of("web"));
    let head = "PUT /v1/devices/lamp/shadow HTTP/1.1\nIf-None-Match: *\nContent-Type: application/json";
    writer.write_head(&format!("{head}\nUmbra-Client: dashboard\nCookie: {boss}"), body.len());
    assert_eq!(site.send("web", "DELETE /session HTTP/1.1", &boss, "").status, 204);
    writer.write_bytes(body.as_bytes());
    let reply = writer.reply(false);
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer realm=\"umbra\"")), "{reply:?}");
    let read = site.send("web", "GET /v1/devices/lamp/shadow HTTP/1.1", &site.sign_in("boss"), "");
    assert_eq!(read.status, 404, "nothing was written");
}
