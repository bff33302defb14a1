//! `umbrad serve` with nothing but the shipped configuration, on other ports.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use super::site::get;
use crate::harness::program::{Running, umbrad};

/// `umbrad serve` in `directory`, its two shipped listeners at `binds`.
fn serve(directory: &Path, binds: [&str; 2]) -> Command {
    let mut command = umbrad(&["serve"]);
    command.current_dir(directory).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("UMBRA__LISTENER__0__BIND", binds[0]).env("UMBRA__LISTENER__1__BIND", binds[1]);
    command
}

#[test]
fn the_address_of_the_dashboard_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Running::start(serve(directory.path(), ["127.0.0.1:0"; 2]).stderr(Stdio::null()));
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut line = |start: &str| {
        let line = lines.next().unwrap();
        line.strip_prefix(start).unwrap_or_else(|| panic!("{start:?} of {line:?}")).to_owned()
    };
    line("listening local 127.0.0.1:");
    let web = line("listening web ");
    assert_eq!(line("dashboard "), format!("http://{web}/"));
    let page = get(web.parse().unwrap(), "/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{page:?}");
}

/// The error did not say what to do about a port that another program has.
#[test]
fn a_used_port_is_reported_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = directory.path().join("umbra.toml");
    fs::write(&file, format!("[[listener]]\nname = \"a\"\nbind = {address:?}\n")).unwrap();
    let line = format!("change 'listener[0].bind' at {}:3", file.display());
    let (shipped, configured, bound) = (
        serve(directory.path(), ["127.0.0.1:0", &address]),
        {
            let mut command = serve(directory.path(), ["", ""]);
            command.env_remove("UMBRA__LISTENER__0__BIND").env_remove("UMBRA__LISTENER__1__BIND");
            command.arg("--config").arg(&file);
            command
        },
        {
            let mut command = serve(directory.path(), ["", ""]);
            command.env_remove("UMBRA__LISTENER__0__BIND").env_remove("UMBRA__LISTENER__1__BIND");
            command.args(["--bind", &address]);
            command
        },
    );
    for (mut command, key) in
        [(shipped, "; change UMBRA__LISTENER__1__BIND"), (configured, &*line), (bound, "; change --bind")]
    {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot listen on {address}: Address already in use")), "{said}");
        assert!(said.contains(key), "{key}: {said}");
    }
}
