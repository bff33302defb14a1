//! Handshakes that fail, as an operator sees them: lines of the log and `/metrics`; and what strangers cannot write there.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use crate::{
    certificates::{Authority, Issued},
    client::TlsClient,
    harness::{
        eventually,
        http::Http,
        server::{Server, Setup},
        wire::V5,
    },
};

const WEB: &str = "\n[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"";

fn server(authority: &Authority, issued: &Issued, more: &str, limits: &'static str) -> Server {
    let listener = authority.listener(issued, &format!("{more}{WEB}"));
    Server::with(Setup { listener, limits, ..Setup::default() })
}

/// The value of a sample of `/metrics`.
fn sample(server: &Server, name: &str) -> Option<i64> {
    let page = Http::connect(server.address_of("web")).send("GET /metrics HTTP/1.1", b"").text();
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn failed(server: &Server, cause: &str) -> i64 {
    sample(server, &format!("umbra_tls_handshakes_failed_total{{cause=\"{cause}\"}}")).unwrap()
}

/// Lines at the level `info` about handshakes that failed for `cause`.
fn lines(server: &Server, cause: &str) -> usize {
    let cause = format!("cause=\"{cause}\"");
    let is = |line: &&str| line.contains(" INFO ") && line.contains("a TLS handshake failed") && line.contains(&cause);
    server
        .log()
        .lines()
        .filter(is)
        .filter(|line| line.contains("address=127.0.0.1:") && line.contains("error="))
        .count()
}

fn not_tls(server: &Server) {
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = socket.read_to_end(&mut Vec::new());
}

/// Nothing of it was in the log, whatever was wrong with the certificates of a whole fleet.
#[test]
fn failed_handshakes_are_logged_with_their_cause() {
    let [authority, forger] = ["authority"; 2].map(Authority::new);
    let revoked = authority.client("lamp-2");
    let list = authority.revoke(&[&revoked]);
    let more = format!("tls_client_crl = {list:?}\ntls_client_auth = \"required\"");
    let server = server(&authority, &authority.server(), &more, "");
    let open = |shown: Option<&Issued>| {
        let mut client = TlsClient::open(&server, &authority.file, shown, &[], V5);
        assert_eq!(client.connect("client"), None);
    };
    let causes: [(&str, &dyn Fn()); 8] = [
        ("no-certificate", &|| open(None)),
        ("expired", &|| open(Some(&authority.expired_client("lamp-1")))),
        ("not-yet-valid", &|| open(Some(&authority.future_client("lamp-1")))),
        ("revoked", &|| open(Some(&revoked))),
        ("unknown-authority", &|| open(Some(&forger.client("lamp-1")))),
        ("bad-certificate", &|| open(Some(&authority.misused("lamp-1")))),
        ("not-tls", &|| not_tls(&server)),
        ("incompatible", &|| {
            let mut client = TlsClient::open(&server, &authority.file, None, &["h2"], V5);
            assert_eq!(client.connect("client"), None);
        }),
    ];
    for (cause, fail) in causes {
        assert_eq!(failed(&server, cause), 0, "{cause}");
        fail();
        eventually(cause, || (failed(&server, cause) == 1).then_some(()));
        eventually(cause, || (lines(&server, cause) == 1).then_some(()));
    }
    // A client that does not trust the server's certificate says so.
    let mut client = TlsClient::open(&server, &Authority::new("other").file, None, &[], V5);
    assert!(client.stream.flush().is_err());
    drop(client);
    eventually("refused-by-client", || (failed(&server, "refused-by-client") == 1).then_some(()));
    // One that only looks whether the port is open is counted, and no news.
    TcpStream::connect(server.address).unwrap().shutdown(Shutdown::Both).unwrap();
    eventually("closed", || (failed(&server, "closed") == 1).then_some(()));
    assert_eq!(lines(&server, "closed"), 0);
    // Whoever does it again and again does not fill the log.
    (0..60).for_each(|_| not_tls(&server));
    eventually("all of them", || (failed(&server, "not-tls") == 61).then_some(()));
    assert!(lines(&server, "not-tls") < 60, "{}", server.log());
}

#[test]
fn a_handshake_timeout_is_logged() {
    let authority = Authority::new("authority");
    let server = server(&authority, &authority.server(), "connect_timeout = \"100ms\"", "");
    let _silent = TcpStream::connect(server.address).unwrap();
    eventually("timeout", || (failed(&server, "timeout") == 1 && lines(&server, "timeout") == 1).then_some(()));
}

/// Any scanner filled the log with the TLS library's warnings about its SNI.
#[test]
fn unauthenticated_peers_cause_no_warnings() {
    let authority = Authority::new("authority");
    for (level, warned) in
        [("", false), ("[log]\nlevel = \"warn\"", false), ("[log]\nlevel = \"info,rustls=warn\"", true)]
    {
        let server = server(&authority, &authority.server(), "tls_client_auth = \"optional\"", level);
        let address = server.address.to_string();
        let client = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "127.0.0.1", "-CAfile"])
            .arg(&authority.file)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed: run ./test");
        assert!(String::from_utf8_lossy(&client.stdout).contains("Verify return code: 0"), "{client:?}");
        assert_eq!(server.log().contains("Illegal SNI"), warned, "{level}: {}", server.log());
    }
}

/// It served with an expired certificate and nobody knew why no device connected.
#[test]
fn an_expiring_certificate_is_logged_as_a_warning() {
    const EXPIRES: &str = "the certificate of a listener expires in less than 4 days";
    const EXPIRED: &str = "the certificate of a listener expired less than 3 days ago";
    const SAMPLE: &str = "umbra_tls_certificate_expiry_seconds{listener=\"test\"}";
    const DAY: i64 = 24 * 3600;
    let authority = Authority::new("authority");
    let [soon, late, good] = [3, -2, 100].map(|days| authority.server_until(days));
    let server = server(&authority, &soon, "", "");
    let put = |issued: &Issued, reloads| {
        fs::copy(&issued.certificate, &soon.certificate).unwrap();
        fs::copy(&issued.key, &soon.key).unwrap();
        server.hangup(reloads, "sessions reviewed");
    };
    let log = server.log();
    let warned = log.lines().find(|line| line.contains(EXPIRES)).unwrap_or_else(|| panic!("{log}"));
    assert!(warned.contains(" WARN ") && warned.contains(&soon.certificate.display().to_string()), "{warned}");
    assert!((3 * DAY..4 * DAY).contains(&sample(&server, SAMPLE).unwrap()));
    put(&good, 1);
    assert!((100 * DAY..101 * DAY).contains(&sample(&server, SAMPLE).unwrap()));
    assert_eq!(server.log().matches("the certificate of a listener").count(), 1);
    put(&late, 2);
    assert!((-3 * DAY..-2 * DAY).contains(&sample(&server, SAMPLE).unwrap()));
    assert!(server.log().contains(EXPIRED), "{}", server.log());
}

/// Whoever has an account on the machine could have been the server.
#[test]
fn a_key_that_others_may_read_is_refused() {
    let authority = Authority::new("authority");
    let issued = authority.server();
    for (mode, accepted) in [(0o644, false), (0o604, false), (0o660, false), (0o600, true), (0o400, true)] {
        fs::set_permissions(&issued.key, fs::Permissions::from_mode(mode)).unwrap();
        let listener = authority.listener(&issued, "");
        let started = Server::within(tempfile::tempdir().unwrap(), Setup { listener, ..Setup::default() });
        match started {
            Ok(_) => assert!(accepted, "{mode:o}"),
            Err((exit, _)) => {
                assert!(!accepted, "{mode:o}: {}", exit.log);
                assert_eq!(exit.status.code(), Some(2), "{}", exit.log);
                let message = format!("{}: holds a secret and has mode {mode:03o}", issued.key.display());
                assert!(exit.log.contains(&message) && exit.log.contains("chmod 600"), "{}", exit.log);
            }
        }
    }
}
