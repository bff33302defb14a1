//! Pages whose commands are run from top to bottom, as somebody would who follows them: `docs/operating.md` and
//! `docs/tutorial.md`.
//!
//! Nothing of them is changed but where the server listens: on free ports of loopback.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use umbrad::config::{Arguments, Config};

use crate::harness::{nats::free_port, program::program};

/// The blocks of code in one language, in order.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```\n").next().unwrap()).collect()
}

/// `page`, with free ports of loopback in the place of its own.
fn moved(page: &str, ports: &[&str]) -> String {
    let page = page.replace("0.0.0.0:", "127.0.0.1:");
    // In two steps, as a free port may hold the digits of one that is still to be replaced.
    let mark = |number: usize| format!("\u{1}{number}\u{2}");
    let marked = ports.iter().enumerate().fold(page, |page, (number, port)| page.replace(*port, &mark(number)));
    (0..ports.len()).fold(marked, |page, number| page.replace(&mark(number), &free_port().to_string()))
}

/// Runs the commands of `page` in `directory`; what they said.
fn run(page: &str, directory: &Path) -> String {
    let python = env::var("UMBRA_TEST_PYTHON").unwrap_or_else(|_| {
        panic!("UMBRA_TEST_PYTHON names no interpreter: run ./test, which installs what is needed")
    });
    // A failure in the middle must not leave the server behind.
    let end = "trap 'kill $(jobs -p) 2>/dev/null && sleep 1; kill -9 $(jobs -p) 2>/dev/null || true' EXIT";
    let script = format!("set -euo pipefail\n{end}\nset -x\n{}\necho done\n", blocks(page, "sh").join("\n"));
    fs::write(directory.join("script"), script).unwrap();
    let tools = [&program(), Path::new(&python)].map(|tool| tool.parent().unwrap().display().to_string());
    let path = format!("{}:{}:{}", tools[0], tools[1], env::var("PATH").unwrap());
    let (said, log) = (directory.join("said"), directory.join("errors"));
    // Files, not pipes: a server that is left behind would hold those open.
    let status = Command::new("bash")
        .arg("script")
        .current_dir(directory)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&said).unwrap())
        .stderr(fs::File::create(&log).unwrap())
        .status()
        .unwrap();
    let read = |file: &Path| fs::read_to_string(file).unwrap_or_default();
    let logs = ["umbrad.log", "behind.log", "nginx.log"].map(|log| read(&directory.join(log))).concat();
    let (said, log) = (read(&said), read(&log) + &logs);
    assert!(status.success(), "{said}\n{log}");
    assert!(said.ends_with("done\n"));
    assert!(!log.contains("panicked"), "{log}");
    said
}

#[test]
fn the_commands_of_the_operating_guide_run() {
    let directory = tempfile::tempdir().unwrap();
    let ports = ["18883", "18884", "18080", "18081", "9883", "9884", "9443", "9444", "8883", "8443"];
    let page = moved(include_str!("../../docs/operating.md"), &ports);
    let configuration = blocks(&page, "toml");
    for (name, text) in [
        ("umbra.toml", configuration[0]),
        ("roles.toml", configuration[1]),
        ("behind.toml", configuration[2]),
        ("nginx.conf", blocks(&page, "nginx")[0]),
        ("haproxy.cfg", blocks(&page, "haproxy")[0]),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let limits = Config::load(Some(&directory.path().join("roles.toml")), [], &Arguments::default());
    assert!(limits.is_ok(), "{limits:?}");
    run(&page, directory.path());
}

#[test]
fn the_commands_of_the_tutorial_run() {
    let directory = tempfile::tempdir().unwrap();
    let page = moved(include_str!("../../docs/tutorial.md"), &["1883", "8080"]);
    // The page's server has the shipped addresses, which are moved here as well.
    let after =
        |text: &str| page.split(text).nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect::<String>();
    let (mqtt, http) = (after("MQTT on 127.0.0.1:"), after("http://127.0.0.1:"));
    let binds =
        format!("UMBRA__LISTENER__0__BIND=127.0.0.1:{mqtt} UMBRA__LISTENER__1__BIND=127.0.0.1:{http} umbrad serve");
    assert!(page.contains("\numbrad serve --store"));
    let said = run(&page.replace("\numbrad serve --store", &format!("\n{binds} --store")), directory.path());
    assert!(said.contains("a conflict, as AWS reports it") && said.contains("'color': 'red'"), "{said}");
}
