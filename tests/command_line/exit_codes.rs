//! The command line as a script meets it: exit codes, and what is on which stream. The broker on the other side is a
//! few literal packets, so that each reply can be made up.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Output,
    thread,
};

use crate::{certificates::Authority, harness::program};

/// How the stand-in answers a request: the reply's payload, if it replies, and the reason code of the PUBACK.
type Answer = (Option<&'static str>, u8);

/// A request to the stand-in: topic and payload.
type Received = (String, String);

fn umbrad(arguments: &[&str]) -> Output {
    program::umbrad(arguments).env("UMBRA__LOG__LEVEL", "off").output().unwrap()
}

/// Runs `umbrad ARGUMENTS` against a broker that gives `answer`.
fn ask(arguments: &[&str], answer: Answer) -> (Output, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let broker = thread::spawn(move || serve(listener.accept().unwrap().0, answer));
    let output = umbrad(&[arguments, &["--broker", &address, "--timeout", "5s"]].concat());
    (output, broker.join().unwrap())
}

/// Plays the broker for one request, until the client leaves.
fn serve(mut stream: TcpStream, (reply, reason): Answer) -> Received {
    let mut asked = None;
    while let Some((kind, body)) = read_packet(&mut stream) {
        match kind >> 4 {
            1 => stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap(), // CONNACK
            8 => stream.write_all(&[0x90, 4, body[0], body[1], 0, 1]).unwrap(), // SUBACK, granted QoS 1
            3 => {
                let request = parse_publish(&body);
                if let Some(reply) = reply {
                    stream.write_all(&publish(&request.replies, b"not ours", "{\"version\":1}")).unwrap();
                    stream.write_all(&publish(&request.replies, &request.correlation, reply)).unwrap();
                }
                stream.write_all(&[0x40, 4, request.id[0], request.id[1], reason, 0]).unwrap(); // PUBACK
                asked = Some(request.asked);
            }
            _ => {}
        }
    }
    asked.unwrap_or_default()
}

/// First byte and body of the next packet, all of them shorter than 16,384 bytes; `None` at the end.
fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok().map(|()| byte[0])
    };
    let (kind, low) = (byte()?, byte()?);
    let length = usize::from(low & 0x7f) + if low & 0x80 == 0 { 0 } else { usize::from(byte()?) << 7 };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((kind, body))
}

struct Request {
    id: [u8; 2],
    replies: String,
    correlation: Vec<u8>,
    asked: Received,
}

/// A QoS 1 PUBLISH with Response Topic (0x08) and Correlation Data (0x09).
fn parse_publish(body: &[u8]) -> Request {
    let (topic, rest) = split(body);
    let id = [rest[0], rest[1]];
    let (mut properties, payload) = rest[3..].split_at(usize::from(rest[2]));
    let (mut replies, mut correlation) = (Vec::new(), Vec::new());
    while let [kind, rest @ ..] = properties {
        let (value, rest) = split(rest);
        match kind {
            0x08 => replies = value.to_vec(),
            0x09 => correlation = value.to_vec(),
            other => unreachable!("property {other:#x}"),
        }
        properties = rest;
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Request { id, replies: text(&replies), correlation, asked: (text(topic), text(payload)) }
}

/// Takes off bytes that their length, two bytes, stands before.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[2..].split_at(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

/// A QoS 0 PUBLISH with Correlation Data.
fn publish(topic: &str, correlation: &[u8], payload: &str) -> Vec<u8> {
    let counted = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let properties = [&[0x09], counted(correlation).as_slice()].concat();
    let length = [u8::try_from(properties.len()).unwrap()];
    let body = [&counted(topic.as_bytes()), length.as_slice(), &properties, payload.as_bytes()].concat();
    let length = [u8::try_from(body.len() & 0x7f).unwrap() | 0x80, u8::try_from(body.len() >> 7).unwrap()];
    [&[0x30], length.as_slice(), &body].concat()
}

fn check(output: &Output, code: i32, out: &str, err: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), out.to_owned()), "{}", text(&output.stderr));
    match err {
        "" => assert_eq!(text(&output.stderr), ""),
        _ => assert!(text(&output.stderr).contains(err), "{}", text(&output.stderr)),
    }
}

#[test]
fn a_request_goes_to_its_topic() {
    for (arguments, topic, payload) in [
        (&["get", "d-1"][..], "shadow/d-1/get", ""),
        (&["get", "d-1", "--name", "wifi"], "shadow/d-1/name/wifi/get", ""),
        (
            &["update", "d-1", "--version", "7", "{\"desired\":{}}"],
            "shadow/d-1/update",
            "{\"state\":{\"desired\":{}},\"version\":7}",
        ),
        (&["delete", "d-1"], "shadow/d-1/delete", ""),
        (&["delete", "d-1", "--version", "7"], "shadow/d-1/delete", "{\"version\":7}"),
    ] {
        let (output, asked) = ask(arguments, (Some("{\"version\":8}"), 0));
        assert_eq!(asked, (topic.to_owned(), payload.to_owned()));
        check(&output, 0, "{\"version\":8}\n", "");
    }
}

#[test]
fn a_refusal_has_its_exit_code_and_reason() {
    const CONFLICT: &str = r#"{"code":409,"error":"version-conflict","message":"Version conflict","version":9}"#;
    for (answer, code, message) in [
        ((Some(CONFLICT), 0x83), 3, "umbrad: rejected: 409 version-conflict: Version conflict; current version 9\n"),
        ((Some(CONFLICT), 0), 3, "current version 9"),
        ((None, 0x87), 1, "umbrad: the broker refused the request: NotAuthorized\n"),
    ] {
        let (output, _) = ask(&["update", "d-1", "{}"], answer);
        check(&output, code, "", message);
    }
}

#[test]
fn without_a_broker_a_command_fails() {
    // Bound but not accepting: the connection opens, nothing is ever said.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for command in ["get", "delete", "watch"] {
        let output = umbrad(&[command, "d-1", "--broker", &address, "--timeout", "100ms"]);
        check(&output, 1, "", "no answer within 100ms");
    }
    drop(silent);
    check(&umbrad(&["get", "d-1", "--broker", &address]), 1, "", "Connection refused");
}

#[test]
fn a_user_logs_in_with_the_password_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let (password, missing) = (directory.path().join("password"), directory.path().join("missing"));
    fs::write(&password, "correct horse\nanother line\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let get = |file: &Path| {
        let login = ["--user", "lamp", "--password-file", file.to_str().unwrap()];
        umbrad(&[&["get", "d-1", "--broker", &address], &login[..]].concat())
    };
    thread::scope(|scope| {
        let broker = scope.spawn(|| read_packet(&mut listener.accept().unwrap().0).unwrap());
        assert_eq!(get(&password).status.code(), Some(1), "the broker hangs up");
        let (kind, connect) = broker.join().unwrap();
        assert_eq!((kind, connect[7] & 0xC0), (0x10, 0xC0), "a CONNECT with user name and password");
        assert!(connect.ends_with(b"\x00\x04lamp\x00\x0dcorrect horse"), "{connect:?}");
    });
    check(&get(&missing), 1, "", "missing: No such file");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for (arguments, message) in [
        (&[][..], "Usage: umbrad"),
        (&["get"], "<DEVICE>"),
        (&["get", "a/b"], "'a/b' holds '/', allowed are"),
        (&["get", "a", "--broker", "a"], "'a' is not a broker address: no port; expected mqtt://HOST"),
        (&["get", "a", "--timeout", "0s"], "must be a duration"),
        (&["get", "a", "--user", "x"], "--password-file"),
        (&["watch", "#"], "'#' holds '#', allowed are"),
        (&["update", "a"], "required arguments were not provided"),
        (&["update", "a", "{"], "umbrad: the state is not JSON: EOF"),
        (&["serve", "--config", "/nonexistent.toml"], "umbrad: /nonexistent.toml: cannot be read: No such file"),
        (&["serve", "--bind", "192.0.2.1:1883"], "umbrad: --bind: 'listener[0].bind' is 192.0.2.1:1883, where anybody"),
        (&["check-config", "--config", "/nonexistent.toml"], "umbrad: /nonexistent.toml: cannot be read"),
    ] {
        check(&umbrad(arguments), 2, "", message);
    }
    check(&umbrad(&["check-config", "--config", "broker.toml"]), 0, "broker.toml: accepted\n", "");
}

/// A topic of a shadow is none of the ordinary ones, so asked about as such it was always denied.
#[test]
fn a_topic_of_a_shadow_is_authorized_as_the_shadow() {
    let limits = "\n  its limits: memory 4 MiB, work 50000 a second, 4 sessions, 64 filters, 200 new shadows a day\n";
    let may =
        |what: &str| format!("lamp-1 may {what}\n  by the rule of the role 'device' at default configuration{limits}");
    let may_not = |what: &str| format!("lamp-1 may not {what}\n  no rule of its roles allows it: device{limits}");
    for (question, code, out, err) in [
        (["publish", "shadow/lamp-1/update"], 0, may("update lamp-1"), ""),
        (["publish", "$aws/things/lamp-1/shadow/name/wifi/get"], 0, may("get lamp-1~wifi"), ""),
        (["publish", "shadow/lamp-2/update"], 3, may_not("update lamp-2"), ""),
        (["receive", "shadow/lamp-1/update/delta"], 0, may("subscribe lamp-1"), ""),
        (["receive", "$aws/things/lamp-1/shadow/get/accepted"], 0, may("subscribe lamp-1"), ""),
        (["receive", "shadow/lamp-2/presence"], 3, may_not("subscribe lamp-2"), ""),
        (["receive", "shadow/$query/old/count"], 0, may("receive shadow/$query/old/count"), ""),
        (["receive", "shadow/$query/old/x"], 2, String::new(), "the service publishes nothing there"),
        (["publish", "log/lamp-1"], 3, may_not("publish to log/lamp-1"), ""),
        (["administer", "end-sessions"], 3, may_not("administer end-sessions"), ""),
        (["administer", "everything"], 2, String::new(), "use list-sessions, end-sessions, list-retained"),
        (["publish", "shadow/lamp-1/updat"], 2, String::new(), "unknown operation 'updat'"),
        (["publish", "shadow/lamp-1/presence"], 2, String::new(), "only the service publishes to this topic"),
        (["receive", "$SYS/x"], 2, String::new(), "the service publishes nothing there"),
        (["receive", "shadow/+/update"], 2, String::new(), "'shadow/+/update' is not a topic name"),
        (["get", "shadow/lamp-1"], 2, String::new(), "a shadow is DEVICE or DEVICE~NAME"),
    ] {
        let arguments = [&["auth", "explain", "lamp-1"][..], &question, &["--by", "certificate"]].concat();
        check(&umbrad(&arguments), code, &out, err);
    }
}

/// They panicked.
#[test]
fn a_closed_standard_output_is_a_failure() {
    for arguments in [&["check-config"][..], &["auth", "explain", "lamp-1", "get", "lamp-1"]] {
        let (_, nowhere) = io::pipe().unwrap();
        let output = program::umbrad(arguments).stdout(nowhere).output().unwrap();
        check(&output, 1, "", "umbrad: Broken pipe");
    }
}

/// It accepted configurations that the server then ended on.
#[test]
fn check_config_reads_the_named_files() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let tokens = "token_audience = \"umbra\"\n";
    fs::write(at("keys"), "no key").unwrap();
    let nats = "nats = [\"nats://127.0.0.1:1\", \"nats://127.0.0.1:2\", \"nats://127.0.0.1:3\"]";
    let cluster = |file: &str| format!("[cluster]\n{nats}\nnode = 1\ncredentials_file = {:?}", at(file));
    for (lines, message) in [
        (format!("users = {:?}", at("users")), "auth.users names it, `umbrad passwd add` makes it"),
        (format!("aws_keys = {:?}", at("aws")), "No such file"),
        (format!("{tokens}token_keys = {:?}", at("tokens")), "No such file"),
        (format!("{tokens}token_keys = {:?}", at("keys")), "holds neither a public key in PEM nor a JWK set"),
        (cluster("keys"), "holds a secret and has mode"),
        (cluster("none"), "cannot be read: No such file"),
    ] {
        let configuration = at("umbra.toml");
        fs::write(&configuration, format!("[store]\npath = {:?}\n[auth]\n{lines}\n", at("store"))).unwrap();
        check(&umbrad(&["check-config", "--config", &configuration]), 2, "", message);
        let serve = &["serve", "--config", &configuration, "--bind", "127.0.0.1:0"];
        assert_eq!(umbrad(serve).status.code(), Some(2), "{lines}");
        fs::write(&configuration, "").unwrap();
        check(&umbrad(&["check-config", "--config", &configuration]), 0, &format!("{configuration}: accepted\n"), "");
    }
}

/// A device with a certificate for `operator` had all rights.
#[test]
fn check_config_warns_of_roles_that_a_certificate_could_claim() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let authority = Authority::new("authority");
    let tls = authority.listener(&authority.server(), "");
    let grant = |role: &str, more: &str| format!("[[grant]]\nrole = {role:?}\nprincipals = [\"operator\"]\n{more}\n");
    fs::write(at("users"), "").unwrap();
    let users = format!("[auth]\nusers = {:?}\n", at("users"));
    let known = "anonymous = false\n";
    for (listener, rest, warning) in [
        (
            format!("{known}{tls}"),
            grant("admin", ""),
            "grant[0] gives the role 'admin', which may write to every device",
        ),
        (format!("{known}{tls}"), grant("app", "devices = [\"*\"]"), "grant[0] gives the role 'app'"),
        (format!("{known}{tls}"), grant("app", "devices = [\"lamp-*\"]"), ""),
        (format!("{known}{tls}"), grant("viewer", ""), ""),
        (format!("{known}{tls}"), grant("admin", "by = [\"password\"]"), ""),
        (format!("{known}{tls}"), grant("admin", "by = [\"certificate\"]"), ""),
        (
            format!("{known}certificate_role = \"admin\"\n{tls}"),
            String::new(),
            "listener 'test' gives the role 'admin'",
        ),
        (known.to_owned(), grant("admin", ""), ""),
        ("anonymous = true\n".to_owned(), users.clone(), "to clients without credentials"),
        ("anonymous = true\nanonymous_role = \"viewer\"\n".to_owned(), users.clone(), ""),
        (known.to_owned(), users, ""),
    ] {
        let configuration = at("umbra.toml");
        let text = format!(
            "[store]\npath = {:?}\n[[listener]]\nname = \"test\"\nbind = \"127.0.0.1:0\"\n{listener}\n{rest}",
            at("store")
        );
        fs::write(&configuration, &text).unwrap();
        let output = umbrad(&["check-config", "--config", &configuration]);
        let warnings = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}: {warnings}");
        assert!(warnings.contains(warning) && warnings.is_empty() == warning.is_empty(), "{text}: {warnings}");
    }
}
