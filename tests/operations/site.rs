//! A server with a listener for HTTP, and `umbrad` as an operator calls it.

use std::{net::SocketAddr, path::Path};

use crate::harness::{
    http::{Http, Reply},
    program::{ended, umbrad},
    server::{Server, Setup, UNLIMITED},
};

/// Beside the listener for MQTT: one where whoever comes is an admin, one for viewers, and one where all may read
/// metrics.
pub(crate) const LISTENERS: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"

[[listener]]
name = "viewers"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "viewer"

[[listener]]
name = "scraped"
kind = "http"
bind = "127.0.0.1:0"
anonymous = false
metrics = true
"#;

pub(crate) fn start() -> Server {
    Server::with(Setup { listener: LISTENERS, ..UNLIMITED })
}

/// Runs `umbrad`, which must end with `code`. Returns standard output and standard error.
pub(crate) fn run(arguments: &[&str], code: i32) -> (String, String) {
    let (ended_with, out, err) = ended(umbrad(arguments).output().unwrap());
    assert_eq!(ended_with, code, "{arguments:?}: {out} {err}");
    (out, err)
}

pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    Http::connect(address).send(&format!("GET {path} HTTP/1.1"), b"")
}
