//! AWS's own Python SDKs, unchanged; what they do is in `tests/aws`.

use std::{env, path::Path, process::Command};

use crate::{
    certificates::{Authority, Issued},
    harness::server::{Server, Setup, UNLIMITED},
};

fn run(script: &str, server: &Server, arguments: &[&str], certificates: &[&Path]) {
    let port = server.address.port().to_string();
    let certificates = certificates.iter().map(|path| path.to_str().unwrap());
    let all: Vec<_> = ["127.0.0.1", &port].into_iter().chain(arguments.iter().copied()).chain(certificates).collect();
    python(script, &all);
}

/// Runs a script beside this file.
pub(crate) fn python(script: &str, arguments: &[&str]) {
    let python = env::var("UMBRA_TEST_PYTHON").unwrap_or_else(|_| {
        panic!("UMBRA_TEST_PYTHON names no interpreter with the SDKs: run ./test, which installs them")
    });
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws").join(script))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{python}: {error}: run ./test, which installs it"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

/// A client with a certificate has the rights of a device for the things whose names begin with its own.
const LAMPS: &str = r#"anonymous = false
certificate_role = "lamps"

[[rule]]
role = "lamps"
devices = ["{principal}", "{principal}-*"]
read = ["/desired", "/reported"]
write = ["/desired", "/reported"]
"#;

/// A listener that takes only clients with a certificate.
fn with_certificates() -> (Server, Authority, Issued) {
    let authority = Authority::new("authority");
    let listener = authority.listener(&authority.server(), LAMPS);
    let client = authority.client("lamp");
    (Server::with(Setup { listener, ..UNLIMITED }), authority, client)
}

#[test]
fn awsiotsdk() {
    let plain = Server::with(UNLIMITED);
    let (tls, authority, client) = with_certificates();
    for version in ["3.1.1", "5"] {
        let thing = if version == "5" { "lamp-5" } else { "lamp-3" };
        run("aws_v2.py", &plain, &[version, thing], &[]);
        run("aws_v2.py", &tls, &[version, thing], &[&authority.file, &client.certificate, &client.key]);
    }
}

#[test]
fn aws_iot_python_sdk() {
    let (server, authority, client) = with_certificates();
    run("aws_v1.py", &server, &["lamp"], &[&authority.file, &client.certificate, &client.key]);
}
