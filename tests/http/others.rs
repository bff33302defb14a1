//! Clients that others wrote: curl, boto3, and schemathesis, which asks everything that the description allows and what
//! it does not.

use std::process::{Command, Output};

use serde_json::json;

use crate::site::{ACCESS_KEY, SECRET, Site};

pub(crate) fn python() -> String {
    std::env::var("UMBRA_TEST_PYTHON").unwrap_or_else(|_| {
        panic!("UMBRA_TEST_PYTHON names no interpreter with what tests/requirements.txt lists: run ./test")
    })
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run ./test, which installs it"));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complained}", output.status);
    output
}

/// The path of a file beside this one.
pub(crate) fn beside(name: &str) -> String {
    format!("{}/tests/http/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn schemathesis_finds_nothing() {
    let site = Site::open();
    let directory = tempfile::tempdir().unwrap();
    let location = format!("http://{}/openapi.json", site.address);
    let mut command = Command::new(python());
    command.args(["-m", "schemathesis.cli", "--config-file", &beside("schemathesis.toml"), "run", &location]);
    command.current_dir(directory.path()).env("SCHEMATHESIS_HOOKS", beside("schemathesis_hooks.py"));
    if let Ok(more) = std::env::var("UMBRA_TEST_SCHEMATHESIS") {
        command.args(more.split_whitespace());
    }
    let output = run(&mut command);
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn boto3_unmodified() {
    let site = Site::with_access_key();
    let endpoint = format!("http://{}", site.address);
    let output = run(Command::new(python()).args([&beside("boto3_client.py"), &endpoint, ACCESS_KEY, SECRET]));
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let history = site.get("/v1/devices/lamp:1_a-b/shadow/history").json();
    assert_eq!(history["entries"][0]["by"], json!("back-end"), "who signed it: {history}");
}

/// As the documentation shows it.
#[test]
fn curl() {
    let site = Site::open();
    let url = format!("http://{}/v1/devices/lamp/shadow", site.address);
    let curl = |arguments: &[&str]| {
        let output = run(Command::new("curl").args(["-sS", "-i", "--max-time", "60"]).args(arguments).arg(&url));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let json = ["-H", "Content-Type: application/json"];
    let created =
        curl(&[&["-X", "PUT", "-H", "If-None-Match: *", "-d", r#"{"desired":{"on":true}}"#], &json[..]].concat());
    assert!(created.starts_with("HTTP/1.1 201"), "{created}");
    let etag = created.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_else(|| panic!("{created}"));
    let unchanged = curl(&["-H", &format!("If-None-Match: {etag}")]);
    assert!(unchanged.starts_with("HTTP/1.1 304"), "{unchanged}");
    let merge =
        ["-X", "PATCH", "-H", "Content-Type: application/merge-patch+json", "-d", r#"{"desired":{"on":false}}"#];
    let patched = curl(&[&merge[..], &["-H", &format!("If-Match: {etag}")]].concat());
    assert!(patched.starts_with("HTTP/1.1 200"), "{patched}");
    let stale = curl(&[&merge[..], &["-H", &format!("If-Match: {etag}")]].concat());
    assert!(stale.starts_with("HTTP/1.1 412") && stale.contains("application/problem+json"), "{stale}");
    let head = curl(&["-I"]);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}
