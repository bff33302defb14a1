//! The client commands against a real server: every kind of URL, TLS with a client certificate, stored contexts,
//! ordinary topics, and the texts that the program has in it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    certificates::Authority,
    harness::{
        program::umbrad,
        server::{Server, Setup},
    },
};

/// `umbrad` with a configuration directory of its own, and nothing of the user's.
struct Shell {
    home: TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = umbrad(arguments);
        command.env("XDG_CONFIG_HOME", self.home.path()).current_dir(self.home.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; returns its standard output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with `code` and say `expected`.
    fn fails(&self, arguments: &[&str], code: i32, expected: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// A server with listeners for MQTT and HTTP, each with and without TLS; those with TLS want client certificates.
struct Secure {
    server: Server,
    authority: Authority,
    cert: String,
    key: String,
}

impl Secure {
    fn start() -> Self {
        let authority = Authority::new("authority");
        let (server, client) = (authority.server(), authority.client("operator"));
        let tls = authority.listener(&server, "anonymous = false\ncertificate_role = \"admin\"");
        let listener = format!(
            "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\n{tls}\n\
             [[listener]]\nname = \"tls-web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\n{tls}"
        );
        let setup = Setup { listener: Box::leak(listener.into_boxed_str()), ..Setup::default() };
        let shown = |path: &Path| path.display().to_string();
        let (cert, key) = (shown(&client.certificate), shown(&client.key));
        Self { server: Server::with(setup), authority, cert, key }
    }

    fn url(&self, scheme: &str) -> String {
        let listener = match scheme {
            "mqtt" => return format!("mqtt://{}", self.server.address),
            "mqtts" => "tls",
            "ws" | "http" => "web",
            _ => "tls-web",
        };
        format!("{scheme}://{}", self.server.address_of(listener))
    }

    fn ca(&self) -> String {
        self.authority.file.display().to_string()
    }
}

#[test]
fn every_kind_of_url_reaches_the_shadow() {
    let (shell, secure) = (Shell::new(), Secure::start());
    let (ca, http) = (secure.ca(), secure.url("http"));
    for (version, scheme) in (1..).zip(["mqtt", "mqtts", "ws", "wss", "http", "https"]) {
        let url = secure.url(scheme);
        let mut flags = vec!["--url", &url];
        if matches!(scheme, "mqtts" | "wss" | "https") {
            flags.extend(["--ca", &ca, "--cert", &secure.cert, "--key", &secure.key]);
        }
        let with = |arguments: &[&str]| shell.ok(&[arguments, flags.as_slice()].concat());
        let desired = format!("{{\"url\":\"{scheme}\"}}");
        let accepted: Value = serde_json::from_str(&with(&["update", "lamp-1", "--desired", &desired])).unwrap();
        assert_eq!(accepted["version"], version, "{scheme}");
        let shadow: Value = serde_json::from_str(&with(&["get", "lamp-1"])).unwrap();
        assert_eq!(shadow["state"]["desired"]["url"], scheme);
        if scheme.starts_with("mqtt") {
            flags.extend(["--http-url", &http]);
            if scheme == "mqtts" {
                continue; // one set of certificates, and this HTTP listener has none
            }
        }
        let with = |arguments: &[&str]| shell.ok(&[arguments, flags.as_slice()].concat());
        assert!(with(&["list"]).starts_with("lamp-1 "), "{scheme}");
        assert_eq!(with(&["list", "lamp-1"]), format!("(classic) version {version} differs\n"), "{scheme}");
        let history = with(&["history", "lamp-1", "--limit", "1", "--json"]);
        let newest: Value = serde_json::from_str(&history).unwrap();
        assert_eq!((&newest["version"], history.lines().count()), (&json!(version), 1), "{scheme}");
    }
    assert_eq!(shell.ok(&["history", "lamp-1", "--url", &http]).lines().count(), 6);
    assert_eq!(shell.ok(&["history", "lamp-1", "--url", &http, "--before", "3"]).lines().count(), 2);
}

#[test]
fn connection_errors_are_named() {
    let (shell, secure) = (Shell::new(), Secure::start());
    let (ca, mqtts, wss) = (secure.ca(), secure.url("mqtts"), secure.url("wss"));
    let (mqtt, ws) = (secure.url("mqtt"), secure.url("ws"));
    let authority = Authority::new("other");
    let other = authority.file.display().to_string();
    for (flags, code, expected) in [
        (&["--url", "mqtt//x"][..], 2, "'mqtt//x' is not a broker address"),
        (&["--url", "mqtt://a:b@x"], 2, "credentials are not allowed in it"),
        (&["--url", &mqtt, "--ca", &ca], 2, "is not encrypted; use mqtts:// or wss://"),
        (&["--url", &mqtts, "--ca", "missing.pem"], 1, "missing.pem: No such file"),
        (&["--url", &mqtts, "--ca", &secure.key], 2, "no certificate of an authority in PEM"),
        (&["--url", &mqtts, "--ca", &ca, "--cert", &secure.cert], 2, "--key"),
        (&["--url", &mqtts, "--ca", &ca, "--cert", &secure.cert, "--key", &ca], 2, "the key of the client certificate"),
        (&["--url", &mqtts], 1, "UnknownIssuer"),
        (&["--url", &mqtts, "--ca", &other], 1, "TLS:"),
        (&["--url", &mqtts, "--ca", &ca], 1, "CertificateRequired"),
        (&["--url", &wss, "--ca", &other], 1, "WebSocket: "),
        (&["--url", &format!("{ws}/elsewhere")], 1, "WebSocket: "),
        (&["--url", &mqtt, "--user", "x"], 2, "--password-file FILE, or UMBRA_PASSWORD"),
        (&["--context", "none"], 2, "there is no context 'none'"),
        (&["--context", "../none"], 2, "invalid context name '../none'"),
    ] {
        shell.fails(&[&["get", "lamp-1"], flags].concat(), code, expected);
    }
    shell.fails(&["list", "--url", "mqtt://broker.invalid"], 2, "name the HTTP listener with --http-url URL");
    shell.fails(&["get", "lamp-1", "--url", &mqtt], 3, "rejected: 404 not-found");
}

#[test]
fn a_context_replaces_flags() {
    let (shell, secure) = (Shell::new(), Secure::start());
    fs::copy(secure.ca(), shell.home.path().join("ca.pem")).unwrap();
    let url = secure.url("wss");
    let stored = ["--url", &url, "--ca", "ca.pem", "--cert", &secure.cert, "--key", &secure.key];
    shell.ok(&[&["context", "add", "site"], &stored[..]].concat());
    shell.fails(&["context", "add", "site"], 1, "context 'site' exists; --replace replaces it");
    shell.ok(&["context", "add", "bare", "--url", &secure.url("mqtt")]);
    let file = shell.home.path().join("umbra/contexts/site.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let shown: Value = serde_json::from_str(&shell.ok(&["context", "show", "site"])).unwrap();
    assert_eq!(shown["ca"], json!(shell.home.path().join("ca.pem")), "paths are absolute");

    shell.ok(&["update", "lamp-1", "--desired", "{\"power\":\"on\"}", "--context", "site"]);
    let mut command = shell.command(&["get", "lamp-1"]);
    assert_eq!(command.env("UMBRA_CONTEXT", "site").output().unwrap().status.code(), Some(0));
    assert_eq!(shell.ok(&["context", "list"]), "  bare\n  site\n");
    shell.ok(&["context", "select", "site"]);
    assert_eq!(shell.ok(&["context", "list"]), "  bare\n* site\n");
    assert!(shell.ok(&["list"]).starts_with("lamp-1 "), "the selected context, over HTTP");
    assert!(shell.ok(&["get", "lamp-1", "--context", "bare"]).contains("\"power\":\"on\""));
    // The certificate of the selected context does not go along to another broker.
    let principal = |flags: &[&str]| {
        shell.ok(&[&["update", "lamp-2", "--reported", "{\"n\":1}", "--client-id", "me"], flags].concat());
        let shadow: Value = serde_json::from_str(&shell.ok(&[&["get", "lamp-2"], flags].concat())).unwrap();
        shell.ok(&[&["delete", "lamp-2"], flags].concat());
        shadow["metadata"]["reported"]["n"]["by"].clone()
    };
    assert_eq!(principal(&[]), "operator");
    assert_eq!(principal(&["--url", &secure.url("mqtt")]), "anonymous/me");
    shell.ok(&["context", "remove", "site"]);
    shell.fails(&["context", "show"], 2, "no context is selected");
    shell.fails(&["context", "select", "site"], 2, "there is no context 'site'");
}

#[test]
fn publishes_and_subscribes_to_ordinary_topics() {
    let (shell, server) = (Shell::new(), Server::start());
    let url = format!("mqtt://{}", server.address);
    let kept = ["pub", "plant/kept", "old", "--retain", "--url", &url];
    shell.ok(&kept);
    for qos in ["0", "1", "2"] {
        let arguments = ["sub", "plant/#", "-v", "-q", qos, "--count", "2", "--url", &url];
        let mut reader = shell.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The retained message shows that the subscription is in force.
        assert_eq!(lines.next().as_deref(), Some("plant/kept old"));
        let arguments = ["pub", "plant/new", "-q", qos, "--url", &url];
        let mut writer = shell.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        writer.stdin.take().unwrap().write_all(format!("at {qos}").as_bytes()).unwrap();
        assert_eq!(writer.wait().unwrap().code(), Some(0), "QoS {qos}");
        assert_eq!(lines.next(), Some(format!("plant/new at {qos}")));
        assert_eq!(reader.wait().unwrap().code(), Some(0), "QoS {qos}");
    }
    let line: Value = serde_json::from_str(&shell.ok(&["sub", "plant/+", "--json", "-C", "1", "--url", &url])).unwrap();
    assert_eq!(line, json!({"topic": "plant/kept", "payload": "old", "qos": 1, "retain": true}));
    shell.fails(&["pub", "plant/#", "x", "--url", &url], 2, "'plant/#' is not a valid topic");
    shell.fails(&["sub", "a/#/b", "--url", &url], 2, "'a/#/b' is not a valid topic or filter");
    for qos in ["1", "2"] {
        shell.fails(
            &["pub", "shadow/lamp-1/presence", "x", "-q", qos, "--url", &url],
            3,
            "the broker refused the request",
        );
    }
}

/// Runs `program` on `text`, which it must take.
fn feed(program: &str, arguments: &[&str], text: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} is installed by ./test: {error}"));
    let mut input = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prints_completions_manual_and_configuration() {
    let shell = Shell::new();
    let script = shell.ok(&["completions", "bash"]);
    feed("bash", &["-n"], &script);
    assert!(script.contains("history") && script.contains("--password-file"));
    for shell_name in ["zsh", "fish"] {
        assert!(shell.ok(&["completions", shell_name]).contains("umbrad"));
    }
    let page = feed("groff", &["-man", "-Tascii", "-P-cbou", "-ww"], &shell.ok(&["man", "get"]));
    assert!(page.contains("--password-file <FILE>") && page.contains("<DEVICE>"), "{page}");
    assert!(feed("groff", &["-man", "-Tascii", "-P-cbou"], &shell.ok(&["man"])).contains("Exit codes"));
    shell.ok(&["man", "--to", "pages"]);
    let pages = shell.home.path().join("pages");
    for name in ["umbrad.1", "umbrad-get.1", "umbrad-context-add.1"] {
        assert!(fs::metadata(pages.join(name)).unwrap().len() > 0, "{name}");
    }
    shell.fails(&["man", "nothing"], 2, "there is no command 'nothing'");
    let config = shell.ok(&["default-config"]);
    assert_eq!(config, fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("broker.toml")).unwrap());
}

/// A line of help that is missing is a flag that nobody can use.
#[test]
fn every_argument_of_every_command_has_help() {
    let shell = Shell::new();
    let commands =
        ["get", "update", "delete", "watch", "list", "history", "pub", "sub", "context", "completions", "man"];
    for command in commands {
        let help = shell.ok(&[command, "--help"]);
        assert!(help.contains("Usage: umbrad"), "{help}");
        let mut lines = help.lines().skip_while(|line| !line.ends_with(':')).peekable();
        while let Some(line) = lines.next() {
            let is_argument = line.trim_start().starts_with(['-', '<']) && line.starts_with("  ");
            let described =
                line.trim().contains("  ") || lines.peek().is_some_and(|next| next.starts_with("          "));
            assert!(!is_argument || described, "{command}: {line}");
        }
    }
}
