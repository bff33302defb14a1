//! `umbrad passwd` as a person and a script meet it, and what the server would make of the file.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use umbrad::{
    auth::authn::{
        certificate::PeerCertificate,
        login::{AuthenticationError, Credentials, Login},
    },
    clock::Clock,
    config::{AuthConfig, Config},
};

use crate::harness::program::{ended, program, umbrad};

fn start(arguments: &[&str], input: &str) -> Child {
    let mut command = umbrad(&["passwd"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It need not read it all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child
}

fn passwd(arguments: &[&str], input: &str) -> (i32, String, String) {
    ended(start(arguments, input).wait_with_output().unwrap())
}

/// Returns the principal of a user with this password, for a server with this file.
async fn known(users: &Path, user: &str, password: &str) -> Result<String, AuthenticationError> {
    let config = AuthConfig { users: Some(users.into()), failure_delay: Duration::ZERO, ..Config::default().auth };
    let login = Login::open(&config, Clock::system()).unwrap();
    let credentials = Credentials::Password { user, password: password.as_bytes() };
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    login
        .identify(address, &PeerCertificate::None, credentials, None)
        .await
        .map(|identity| identity.principal.to_string())
}

#[tokio::test]
async fn adds_changes_and_removes_users() {
    let folder = TempDir::new().unwrap();
    let users = folder.path().join("users");
    let file = users.to_str().unwrap();
    let done = |message: &str| (0, String::new(), format!("umbrad: user {message}, in {file}\n"));

    assert_eq!(passwd(&["add", "lamp", "--stdin", "--file", file], "secret\n"), done("lamp added"));
    assert_eq!(passwd(&["add", "a:b", "--stdin", "--file", file], "pässword mit Raum\r\n"), done("a:b added"));
    assert_eq!(passwd(&["list", "--file", file], ""), (0, "[\"lamp\",\"a:b\"]\n".into(), String::new()));
    assert_eq!(fs::metadata(&users).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(known(&users, "lamp", "secret").await, Ok("lamp".into()));
    assert_eq!(known(&users, "a:b", "pässword mit Raum").await, Ok("a:b".into()));
    assert_eq!(known(&users, "lamp", "secret\n").await, Err(AuthenticationError::Bad));

    assert_eq!(passwd(&["add", "lamp", "--stdin", "--file", file], "new"), done("lamp has a new password"));
    assert_eq!(known(&users, "lamp", "secret").await, Err(AuthenticationError::Bad));
    assert_eq!(known(&users, "lamp", "new").await, Ok("lamp".into()));

    assert_eq!(passwd(&["remove", "lamp", "--file", file], ""), done("lamp removed"));
    assert_eq!(known(&users, "lamp", "new").await, Err(AuthenticationError::Bad));
    let absent = (1, String::new(), "umbrad: there is no user lamp\n".to_owned());
    assert_eq!(passwd(&["remove", "lamp", "--file", file], ""), absent);
    let text = fs::read_to_string(&users).unwrap();
    assert!(text.starts_with("a:b:$argon2id$v=19$m=19456,t=2,p=1$") && text.lines().count() == 1, "{text}");
}

#[test]
fn the_configuration_names_the_file() {
    let folder = TempDir::new().unwrap();
    let (users, config) = (folder.path().join("users"), folder.path().join("umbra.toml"));
    fs::write(&config, format!("[auth]\nusers = {users:?}\n")).unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(passwd(&["add", "lamp", "--stdin", "--config", config], "secret").0, 0);
    assert_eq!(passwd(&["list", "--config", config], "").1, "[\"lamp\"]\n");
    let listed = passwd(&["list", "--file", users.to_str().unwrap()], "").1;
    assert_eq!(listed, "[\"lamp\"]\n");
}

#[test]
fn mistakes_change_nothing_and_are_reported() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (sound, broken, absent) = (path("sound"), path("broken"), path("absent"));
    assert_eq!(passwd(&["add", "lamp", "--stdin", "--file", &sound], "secret").0, 0);
    fs::write(&broken, "# ours\nlamp:secret\n").unwrap();
    let kept = fs::read_to_string(&sound).unwrap();
    let long = "x".repeat(2_000);
    // arguments, standard input, exit code, standard error
    let table: [(&[&str], &str, i32, String); 12] = [
        (
            &["add", "a/b", "--stdin", "--file", &sound],
            "x",
            2,
            "\"a/b\" cannot be a name: names are 1 to 128 of A-Z a-z 0-9 . : _ -".into(),
        ),
        (
            &["remove", "", "--file", &sound],
            "",
            2,
            "\"\" cannot be a name: names are 1 to 128 of A-Z a-z 0-9 . : _ -".into(),
        ),
        (&["add", "x", "--stdin", "--file", &sound], "", 2, "the password is empty".into()),
        (&["add", "x", "--stdin", "--file", &sound], "\n", 2, "the password is empty".into()),
        (&["add", "x", "--stdin", "--file", &sound], "one\ntwo\n", 2, "standard input has more than one line".into()),
        (&["add", "x", "--stdin", "--file", &sound], &long, 2, "the password exceeds 1024 bytes: it has 1027".into()),
        (
            &["add", "x", "--stdin", "--file", &broken],
            "x",
            1,
            format!("{broken}:2: is not of the form name:$argon2id$…"),
        ),
        (&["remove", "lamp", "--file", &broken], "", 1, format!("{broken}:2: is not of the form name:$argon2id$…")),
        (&["list", "--file", &broken], "", 1, format!("{broken}:2: is not of the form name:$argon2id$…")),
        (&["list", "--file", &absent], "", 1, format!("{absent}: No such file or directory (os error 2)")),
        (&["remove", "x", "--file", &absent], "", 1, format!("{absent}: No such file or directory (os error 2)")),
        (&["list"], "", 2, "no users file: give --file, or a --config with users set in [auth]".into()),
    ];
    for (arguments, input, code, expected) in table {
        assert_eq!(passwd(arguments, input), (code, String::new(), format!("umbrad: {expected}\n")), "{arguments:?}");
    }
    assert_eq!(passwd(&["add", "lamp", "secret", "--file", &sound], "").0, 2, "no password as an argument");
    assert_eq!(passwd(&["list", "--file", &sound, "--config", &sound], "").0, 2, "one or the other");
    assert_eq!(fs::read_to_string(&sound).unwrap(), kept);
    assert_eq!(fs::read_to_string(&broken).unwrap(), "# ours\nlamp:secret\n");
    assert!(!Path::new(&absent).exists());
}

/// Thousands of devices took thousands of calls, each of which rewrote the file.
#[tokio::test]
async fn imports_a_list_of_users() {
    let folder = TempDir::new().unwrap();
    let users = folder.path().join("users");
    let file = users.to_str().unwrap();
    assert_eq!(passwd(&["add", "lamp-2", "--stdin", "--file", file], "old").0, 0);
    let list = "lamp-1:one:1\r\nlamp-2:two\n\nurn:dev:3\tthree\n";
    let message = format!("umbrad: users added: 2, with a new password: 1, in {file}\n");
    assert_eq!(passwd(&["import", "--file", file], list), (0, String::new(), message));
    for (user, password) in [("lamp-1", "one:1"), ("lamp-2", "two"), ("urn:dev:3", "three")] {
        assert_eq!(known(&users, user, password).await, Ok(user.into()));
    }
    assert_eq!(known(&users, "lamp-2", "old").await, Err(AuthenticationError::Bad));
    assert_eq!(fs::metadata(&users).unwrap().permissions().mode() & 0o777, 0o600);

    // One mistake, and nothing is changed.
    let kept = fs::read_to_string(&users).unwrap();
    let message = "umbrad: line 2: \"a/b\" cannot be a name: names are 1 to 128 of A-Z a-z 0-9 . : _ -\n".to_owned();
    assert_eq!(passwd(&["import", "--file", file], "lamp-1:new\na/b:x\n"), (2, String::new(), message));
    assert_eq!(fs::read_to_string(&users).unwrap(), kept);
}

#[test]
fn concurrent_commands_keep_all_changes() {
    let folder = TempDir::new().unwrap();
    let users = folder.path().join("users");
    let file = users.to_str().unwrap();
    let names = (0..8).map(|n| format!("user-{n}")).collect::<Vec<_>>();
    let running = names.iter().map(|name| start(&["add", name, "--stdin", "--file", file], "secret"));
    for child in running.collect::<Vec<_>>() {
        assert_eq!(ended(child.wait_with_output().unwrap()).0, 0);
    }
    let mut listed: Vec<String> = serde_json::from_str(&passwd(&["list", "--file", file], "").1).unwrap();
    listed.sort();
    assert_eq!(listed, names);
}

/// Types on a terminal of its own. Prints what that terminal shows and whether it echoes in the end, and exits as the
/// program does.
const TYPIST: &str = r#"
import os, pty, signal, sys, termios
signal.alarm(60)
program, file, *typed = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    os.execv(program, [program, "passwd", "add", "lamp", "--file", file])
shown = b""
def until(text):
    global shown
    start = len(shown)
    while text not in shown[start:]:
        try:
            part = os.read(terminal, 1024)
        except OSError:
            part = b""
        if not part:
            return
        shown += part
until(b"Password of lamp: ")
os.write(terminal, "".join(typed).encode())
until(b"umbrad: ")
until(b"\n")
print(shown.decode())
print("echoes:", termios.tcgetattr(terminal)[3] & termios.ECHO != 0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

fn type_on_a_terminal(file: &str, typed: &str) -> (i32, String, String) {
    let output = Command::new("python3").args(["-c", TYPIST]).arg(program()).args([file, typed]).output();
    ended(output.unwrap_or_else(|error| unreachable!("python3: {error}; run ./test, which installs it")))
}

#[tokio::test]
async fn asks_for_the_password_twice_without_echo() {
    let folder = TempDir::new().unwrap();
    let users = folder.path().join("users");
    let file = users.to_str().unwrap();

    // text typed, all at once; exit code, message
    for (typed, code, expected) in [
        ("typed-secret\ntyped-secrex\n", 2, "umbrad: the two passwords differ"),
        ("typed-secret\ntyped\x03", 1, "umbrad: cannot ask for a password: interrupted; --stdin reads it"),
    ] {
        let (ended, shown, _) = type_on_a_terminal(file, typed);
        assert!(ended == code && shown.contains(expected), "{ended} {shown}");
        assert!(!shown.contains("typed") && shown.contains("echoes: True"), "{shown}");
        assert!(!users.exists());
    }
    let (code, shown, _) = type_on_a_terminal(file, "typed-secret\ntyped-secret\n");
    assert_eq!(code, 0, "{shown}");
    for part in ["Password of lamp: ", "Again: ", "umbrad: user lamp added", "echoes: True"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.contains("typed-secret"), "{shown}");
    assert_eq!(known(&users, "lamp", "typed-secret").await, Ok("lamp".into()));
}
