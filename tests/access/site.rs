//! A server with a few users, each of another kind.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use crate::harness::{
    client::Client,
    packet::Message,
    server::{Server, Setup, UNLIMITED},
    users::passwd,
    wire::{Connect, Protocol},
};

/// Everyone's password is the name with this after it.
const PASSWORD: &str = "-password";

/// The secret that signs tokens, at least as long as the digest.
pub(crate) const TOKEN_SECRET: &str = "a secret of more than thirty-two bytes, for tokens";

/// The secret of the access key `AKIDLAMP`.
pub(crate) const AWS_SECRET: &str = "wJalrXUtnFEMI-secret-of-an-access-key";

const USERS: [&str; 8] = ["lamp-1", "lamp-2", "app-1", "viewer-1", "partial", "kiosk", "boss", "ghost"];

/// The roles of the users; `ghost` has none. `partial` may read and write one path of one device, and read what that
/// reports.
const ROLES: &str = r#"anonymous = false

[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
anonymous = false

[auth]
users = "users"
failure_delay = "1ms"
token_keys = "secret"
token_algorithms = "HS256"
token_audience = "umbra"
aws_keys = "aws-keys"

[[grant]]
role = "device"
principals = ["lamp-*"]

[[grant]]
role = "app"
principals = ["app-1"]
devices = ["lamp-*"]

[[grant]]
role = "viewer"
principals = ["viewer-1"]

[[grant]]
role = "admin"
principals = ["boss"]

[[rule]]
role = "partial"
devices = ["lamp-1"]
read = ["/desired/zone/t", "/reported/zone"]
write = ["/desired/zone/t"]

[[grant]]
role = "partial"
principals = ["partial"]

# Rules with {client} are as good as the client ids: good enough for a client without other rights.
[[rule]]
role = "kiosk"
devices = ["{client}"]
read = ["/desired"]
write = ["/desired/{client}"]
publish = ["kiosk/{client}/#"]
subscribe = ["kiosk/{client}/#", "{principal}/+"]

[[grant]]
role = "kiosk"
principals = ["kiosk"]
"#;

/// A server with these users and roles.
pub(crate) fn site() -> Server {
    site_with("")
}

/// The same with more lines in its configuration.
pub(crate) fn site_with(more: &str) -> Server {
    started(more, UNLIMITED.limits)
}

/// The same with other limits, empty being those of the shipped configuration.
pub(crate) fn site_within(limits: &'static str) -> Server {
    started("", limits)
}

/// The same with more lines, other limits and more files, which `[auth]` names.
pub(crate) fn site_of(more: &str, limits: &'static str, files: &[(&str, &str)]) -> Server {
    let auth = files.iter().map(|(name, _)| format!("aws_keys = \"aws-keys\"\n{name} = \"{name}\""));
    let roles = ROLES.replace("aws_keys = \"aws-keys\"", &auth.collect::<String>());
    started_with(&format!("{roles}\n{more}"), limits, files)
}

fn started(more: &str, limits: &'static str) -> Server {
    started_with(&format!("{ROLES}\n{more}"), limits, &[])
}

/// Starts a server of [`site_with`], which has ended, with other lines.
pub(crate) fn site_again(server: Server, more: &str) -> Server {
    start(server.into_directory(), &format!("{ROLES}\n{more}"), UNLIMITED.limits)
}

fn started_with(lines: &str, limits: &'static str, files: &[(&str, &str)]) -> Server {
    let directory = tempfile::tempdir().unwrap();
    add_users(directory.path());
    for (name, text) in [("secret", TOKEN_SECRET.to_owned()), ("aws-keys", format!("AKIDLAMP {AWS_SECRET} lamp-1\n"))] {
        fs::write(directory.path().join(name), text).unwrap();
        fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    start(directory, lines, limits)
}

fn start(directory: TempDir, lines: &str, limits: &'static str) -> Server {
    let setup = Setup { listener: Box::leak(lines.to_owned().into_boxed_str()), limits, store: "" };
    Server::within(directory, setup).unwrap_or_else(|(exit, _)| panic!("the server did not start: {exit:?}"))
}

/// Writes the users file, by the command that does that.
fn add_users(directory: &Path) {
    for name in USERS {
        passwd(directory, &["add", name, "--stdin"], &format!("{name}{PASSWORD}"));
    }
    assert!(!fs::read_to_string(directory.join("users")).unwrap().contains(PASSWORD));
}

/// The CONNECT of a user under this client id.
pub(crate) fn connect(user: &str, client_id: &str, protocol: Protocol) -> Connect {
    Connect::new(protocol, client_id).user(user, format!("{user}{PASSWORD}"))
}

/// A connected user whose client id is its name.
pub(crate) fn client(server: &Server, user: &str, protocol: Protocol) -> Client {
    Client::connect_as(server, &connect(user, user, protocol)).0
}

/// Has `boss` publish on `topic`, which `client` receives; what it got before that.
pub(crate) fn heard(server: &Server, client: &mut Client, topic: &str) -> Vec<Message> {
    let mut boss = Client::connect_as(server, &connect("boss", "marker", client.protocol)).0;
    boss.publish(topic, "marker", 1);
    let mut heard = Vec::new();
    loop {
        let message = client.message();
        if message.topic == topic && message.text() == "marker" {
            return heard;
        }
        heard.push(message);
    }
}

/// The topics of messages.
pub(crate) fn topics(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.topic.as_str()).collect()
}
