//! Logins by password and token: right, wrong, too many and too long.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::json;

use crate::{
    harness::{
        client::Client,
        http::Http,
        server::Server,
        wire::{BOTH, Connect, Protocol, V4, V5, prop},
    },
    http::basic,
    site::{AWS_SECRET, TOKEN_SECRET, client, connect, site, site_with},
};

/// The code of the CONNACK; the connection ends if that is not 0.
fn login(server: &Server, connect: &Connect) -> u8 {
    let mut client = Client::open(server, connect.protocol);
    client.send(connect.encode());
    let code = client.connack().code;
    if code != 0 {
        client.discard_until_closed();
    }
    code
}

/// The difference to the clock of a token's issuer that the server allows.
const LEEWAY: i64 = 10;

/// A token for `subject` that the server accepts for `seconds`.
pub(crate) fn token(subject: &str, seconds: i64, secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": subject, "aud": "umbra", "exp": now.saturating_add_signed(seconds - LEEWAY)});
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

fn with_token(protocol: Protocol, token: &str) -> Connect {
    Connect::new(protocol, "by-token").user("whatever", token)
}

#[test]
fn every_wrong_login_has_the_same_code() {
    let server = site();
    for (protocol, bad, missing) in [(V4, 4, 5), (V5, 0x86, 0x87)] {
        let as_user = |name: &str, password: &[u8]| Connect::new(protocol, "x").user(name, password);
        for (connect, code) in [
            (as_user("lamp-1", b"lamp-1-password"), 0),
            (as_user("lamp-1", b"wrong"), bad),
            (as_user("lamp-1", b""), bad),
            (as_user("nobody", b"lamp-1-password"), bad),
            (as_user("Lamp-1", b"lamp-1-password"), bad),
            (as_user("anonymous/x", b"x"), bad),
            (as_user("+", b"x"), bad),
            (as_user("viewer-1", &vec![b'x'; 65_535]), bad), // a password of 64 KB
            (Connect { username: Some("viewer-1".into()), ..Connect::new(protocol, "x") }, bad),
            (Connect::new(protocol, "x"), missing),
        ] {
            assert_eq!(login(&server, &connect), code, "{protocol:?} {:?}", connect.username);
        }
    }
}

/// One device behind a router that goes on with a wrong password is refused without a check. Its neighbours, at the same
/// address, are not.
#[test]
fn failed_logins_do_not_stop_others_at_the_same_address() {
    let server = site();
    let wrong = Connect::new(V5, "bad-device").user("lamp-2", "not this one");
    let codes: Vec<u8> = (0..12).map(|_| login(&server, &wrong)).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0x86).count(), 5, "{codes:02x?}");
    assert_eq!(codes.last(), Some(&0x97), "too many");
    assert_eq!(login(&server, &connect("lamp-2", "lamp-2", V5)), 0x97, "nor with the right one, that could be a guess");
    for neighbour in ["lamp-1", "app-1", "viewer-1", "boss"] {
        assert_eq!(login(&server, &connect(neighbour, neighbour, V5)), 0, "{neighbour}, who comes for the first time");
    }
}

#[test]
fn tokens_authenticate_their_subjects() {
    let server = site();
    for (protocol, bad) in [(V4, 4), (V5, 0x86)] {
        for (label, token, code) in [
            ("right", token("lamp-1", 3600, TOKEN_SECRET), 0),
            ("expired", token("lamp-1", -1, TOKEN_SECRET), bad),
            ("forged", token("lamp-1", 3600, "another secret, just as long as the right one is"), bad),
            ("unsigned", token("lamp-1", 3600, TOKEN_SECRET).rsplit_once('.').unwrap().0.to_owned() + ".", bad),
            ("for a name that is none", token("lamp-1/#", 3600, TOKEN_SECRET), bad),
        ] {
            assert_eq!(login(&server, &with_token(protocol, &token)), code, "{protocol:?} {label}");
        }
    }
    let mut lamp = Client::connect_as(&server, &with_token(V5, &token("lamp-1", 3600, TOKEN_SECRET))).0;
    assert_eq!(lamp.publish("shadow/lamp-1/update", r#"{"state":{"reported":{"a":1}}}"#, 1), 0);
    assert_eq!(lamp.publish("shadow/lamp-2/update", r#"{"state":{"reported":{"a":1}}}"#, 1), 0x87);
}

#[test]
fn a_session_ends_with_its_token() {
    let server = site();
    for protocol in BOTH {
        // On a slow machine the token may be over before it is looked at; then another one is made.
        let mut client = loop {
            let mut client = Client::open(&server, protocol);
            client.send(with_token(protocol, &token("lamp-1", 2, TOKEN_SECRET)).encode());
            if client.connack().code == 0 {
                break client;
            }
        };
        assert_eq!(client.closed(), if protocol == V5 { Some(0x87) } else { None });
    }
}

/// Nothing is read of a body before it is known whose it is; these do not come.
#[test]
fn refuses_an_unauthenticated_request_before_its_body() {
    let server = site();
    let signed = |key: &str| {
        let credential = format!("Credential={key}/20260101/eu-west-1/iotdata/aws4_request");
        format!(
            "\nX-Amz-Date: 20260101T000000Z\nAuthorization: AWS4-HMAC-SHA256 {credential}, SignedHeaders=host;x-amz-date, Signature=00"
        )
    };
    let (put, post) = ("PUT /v1/devices/lamp-1/shadow", "POST /things/lamp-1/shadow");
    for (request, header, status) in [
        (put, String::new(), 401),
        (put, format!("\nAuthorization: {}", basic("lamp-9")), 401),
        (post, String::new(), 403),
        (post, format!("\nAuthorization: {}", basic("lamp-9")), 401),
        (post, signed("AKIDNOBODY"), 403),
        (post, "\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIDLAMP".to_owned(), 403),
        ("POST /session", "\nX-Of: one that is too large".to_owned(), 413),
    ] {
        let mut client = Http::connect(server.address_of("web"));
        client
            .write(&format!("{request} HTTP/1.1\nContent-Type: application/json\nContent-Length: 20000{header}"), b"");
        let reply = client.reply(false);
        assert_eq!(reply.status, status, "{request} {header}: {reply:?}");
    }
}

/// On AWS's paths each of these was a 403 `MissingAuthenticationTokenException`, also without a reason to log in anew or a time to
/// wait.
#[test]
fn a_login_refused_on_the_paths_of_aws_has_its_own_exception() {
    let mut server = site();
    let long = format!("Bearer ey{}.x.y", "x".repeat(8_190));
    let signed = "AWS4-HMAC-SHA256 Credential=AKIDNOBODY/20260101/eu-west-1/iotdata/aws4_request, \
                  SignedHeaders=host;x-amz-date, Signature=00\nX-Amz-Date: 20260101T000000Z";
    for (credentials, status, exception, message) in [
        (String::new(), 403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
        (basic("lamp-9"), 401, "UnauthorizedException", "Unauthorized"),
        ("Bearer x.y.z".to_owned(), 401, "UnauthorizedException", "Unauthorized"),
        (long, 401, "UnauthorizedException", "Unauthorized: the token has 8196 bytes, and at most 8192 are read"),
        (basic("ghost"), 403, "ForbiddenException", "Forbidden: this client has no role assigned"),
        (signed.to_owned(), 403, "UnrecognizedClientException", ""),
        (
            format!("{}\nUmbra-Client: a b", basic("boss")),
            400,
            "InvalidRequestException",
            "Invalid parameter 'Umbra-Client': must be 1 to 128 visible ASCII characters",
        ),
    ] {
        let authorization =
            if credentials.is_empty() { String::new() } else { format!("\nAuthorization: {credentials}") };
        for path in ["/things/lamp-1/shadow", "/retainedMessage"] {
            let head = format!("GET {path} HTTP/1.1{authorization}");
            let reply = Http::connect(server.address_of("web")).send(&head, b"");
            assert_eq!((reply.status, reply.header("x-amzn-errortype")), (status, Some(exception)), "{reply:?}");
            let found = reply.json()["message"].clone();
            assert!(message.is_empty() || found == json!(message), "{found}");
            assert_eq!(reply.header("www-authenticate").is_some(), status == 401, "{reply:?}");
        }
    }
    let guess = format!("GET /things/lamp-1/shadow HTTP/1.1\nAuthorization: {}", basic("viewer-9"));
    let replies = (0..10).map(|_| Http::connect(server.address_of("web")).send(&guess, b""));
    let limited = replies.into_iter().find(|reply| reply.status == 429).expect("more failures than are allowed");
    assert_eq!(limited.header("x-amzn-errortype"), Some("ThrottlingException"), "{limited:?}");
    assert!(limited.header("retry-after").is_some(), "{limited:?}");
    // The missing credentials are not counted, since nothing was tried.
    let log = server.stop().log;
    assert!(log.contains("logins-without-role=2"), "{log}");
}

/// Over HTTP a user without a role was signed in and refused at the next request.
#[test]
fn a_principal_without_a_role_is_refused_with_the_reason() {
    let server = site();
    for (protocol, code) in [(V4, 5), (V5, 0x87)] {
        assert_eq!(login(&server, &connect("ghost", "ghost", protocol)), code);
    }
    let bearer = format!("Bearer {}", token("nobody", 3600, TOKEN_SECRET));
    let sign_in = r#"{"user":"ghost","password":"ghost-password"}"#;
    for (head, body) in [
        (format!("GET /v1/devices HTTP/1.1\nAuthorization: {}", basic("ghost")), ""),
        (format!("GET /v1/devices HTTP/1.1\nAuthorization: {bearer}"), ""),
        (format!("GET /session HTTP/1.1\nAuthorization: {}", basic("ghost")), ""),
        ("POST /session HTTP/1.1".to_owned(), sign_in),
    ] {
        let reply = Http::connect(server.address_of("web")).send(&head, body.as_bytes());
        let received = (reply.status, &reply.json()["error"], &reply.json()["message"]);
        assert_eq!(
            received,
            (403, &json!("forbidden"), &json!("Forbidden: this client has no role assigned")),
            "{head}"
        );
        assert_eq!(reply.header("set-cookie"), None, "{head}");
    }
    assert!(server.log().contains("a login was refused"), "{}", server.log());
    assert!(server.log().contains("principal=ghost"), "{}", server.log());
}

/// Whoever guesses is seen in the log, and does not fill it.
#[test]
fn the_log_samples_refused_logins() {
    let server = site();
    for _ in 0..200 {
        login(&server, &Connect::new(V5, "x").user("lamp-1", "a-guess"));
    }
    let logged = server.log().matches("a login was refused").count();
    assert!((1..200).contains(&logged), "{logged} of 200");
}

/// A token that is too long to be read was refused as any wrong one, and its client tried new ones for ever.
#[test]
fn a_token_that_is_too_long_is_refused_with_its_length() {
    let server = site();
    let long = format!("ey{}.x.y", "x".repeat(8_190));
    let detail = format!("the token has {} bytes, and at most 8192 are read", long.len());
    let head = format!("GET /v1/devices HTTP/1.1\nAuthorization: Bearer {long}");
    let reply = Http::connect(server.address_of("web")).send(&head, b"");
    assert_eq!((reply.status, &reply.json()["message"]), (401, &json!(format!("Unauthorized: {detail}"))));
    assert!(reply.header("www-authenticate").is_some(), "{reply:?}");
    let mut client = Client::open(&server, V5);
    client.send(with_token(V5, &long).encode());
    let connack = client.connack();
    assert_eq!((connack.code, connack.properties.text(prop::REASON_STRING)), (0x86, Some(&*detail)));
}

/// The last line of the log had no refusals in it, however many logins were refused.
#[test]
fn the_last_line_of_the_log_counts_refused_logins() {
    let mut server = site();
    login(&server, &Connect::new(V5, "x").user("lamp-1", "a-guess"));
    login(&server, &connect("ghost", "ghost", V5));
    let log = server.stop().log;
    assert!(log.contains("refused_and_dropped=\"logins-refused=1 logins-without-role=1\""), "{log}");
}

/// Credentials appear in no log, however much is logged.
#[test]
fn secrets_are_not_logged() {
    let server = site_with("[log]\nlevel = \"trace\"");
    let token = token("lamp-1", 3600, TOKEN_SECRET);
    for protocol in BOTH {
        client(&server, "lamp-1", protocol).ping();
        login(&server, &Connect::new(protocol, "x").user("lamp-2", "a-wrong-password"));
        login(&server, &Connect::new(protocol, "x").user("a-mistyped-password-as-user", "x"));
        login(&server, &with_token(protocol, &token));
        login(&server, &with_token(protocol, &token.replace(".", ".x")));
    }
    for authorization in [
        format!("Bearer {token}"),
        "Basic bGFtcC0xOmxhbXAtMS1wYXNzd29yZA==".to_owned(),
        "Basic bGFtcC0xOmEtd3JvbmctcGFzc3dvcmQ=".to_owned(),
        "AWS4-HMAC-SHA256 Credential=AKIDLAMP/20260101/eu-west-1/iotdata/aws4_request, SignedHeaders=host, Signature=00".to_owned(),
    ] {
        for path in ["/v1/devices/lamp-1/shadow", "/things/lamp-1/shadow"] {
            let head = format!("GET {path} HTTP/1.1\nAuthorization: {authorization}");
            Http::connect(server.address_of("web")).send(&head, b"");
        }
    }
    // A URL that is signed for one host was logged where it was refused for another.
    let presigned = "GET http://elsewhere.example/things/lamp-1/shadow?X-Amz-Signature=a-signature-in-a-URL HTTP/1.1";
    assert_eq!(Http::connect(server.address_of("web")).send(presigned, b"").status, 403);
    let users = fs::read_to_string(server.directory().join("users")).unwrap();
    let hash = users.lines().find_map(|line| line.strip_prefix("lamp-1:")).unwrap();
    let log = server.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "nothing was logged that could have held one");
    let signature = token.rsplit_once('.').unwrap().1;
    assert!(log.contains("elsewhere.example"), "the refusal is logged");
    let passwords = ["lamp-1-password", "a-wrong-password", "bGFtcC0xOm"];
    for secret in passwords.into_iter().chain([TOKEN_SECRET, AWS_SECRET, signature, hash, "a-signature-in-a-URL"]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// The delay of a refusal is no time that others wait; fewer fail than make their address wait.
#[test]
fn refused_logins_delay_no_one_else() {
    let server = site();
    let strangers: Vec<Client> = (0..40)
        .map(|number| {
            let mut client = Client::open(&server, V5);
            client.send(Connect::new(V5, "x").user(&format!("stranger-{number}"), "wrong").encode());
            client
        })
        .collect();
    let mut known = client(&server, "lamp-1", V5);
    known.ping();
    for mut stranger in strangers {
        assert_ne!(stranger.connack().code, 0);
    }
}
