//! Independent clients, whose sessions are persistent, on a server that is killed under load.
//!
//! A script asks for a kill by a line on its output, and goes on with its load. It gets the new port on its input.
//! `UMBRA_TEST_KILLS` sets the number of kills, and `UMBRA_TEST_SEED` repeats the choices of a run.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write, copy},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::SystemTime,
};

use crate::{
    harness::{
        eventually,
        server::{Server, UNLIMITED},
    },
    tool::Tool,
};

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text}")))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn python(name: &str) -> Command {
    let mut command =
        Command::new(env::var("UMBRA_TEST_PYTHON").expect("UMBRA_TEST_PYTHON: run ./test, which installs paho-mqtt"));
    command.arg(script(name));
    command
}

/// Runs a script to its end, and kills the server whenever it asks for that.
fn run(mut server: Server, command: &mut Command, relay: Option<&Relay>) {
    let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut ports, lines) = (script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()));
    let mut kills = 0;
    for line in lines.lines() {
        match line.unwrap().as_str() {
            "kill" => {
                let set = |address| relay.into_iter().for_each(|relay| relay.set(address));
                set(None);
                server.kill();
                server.restart();
                set(Some(server.address));
                // The script may have failed meanwhile.
                let _ = writeln!(ports, "{}", server.address.port());
                kills += 1;
            }
            line => println!("{line}"),
        }
    }
    assert!(script.wait().unwrap().success(), "{command:?}");
    assert!(kills > 0, "{command:?} asked for no kill");
    server.assert_alive();
}

/// An address that stays while the server's changes with each start, for clients that connect again by themselves.
struct Relay {
    address: SocketAddr,
    /// The server's address, while it runs.
    server: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay =
            Self { address: listener.local_addr().unwrap(), server: Arc::new(Mutex::new(Some(server.address))) };
        let server = relay.server.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // A client that connects meanwhile waits: some forget what they had sent when a connection ends before
                // CONNACK.
                let far = eventually("the server", || TcpStream::connect((*server.lock().unwrap())?).ok());
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    thread::spawn(move || forward(from.unwrap(), to.unwrap()));
                }
            }
        });
        relay
    }

    fn set(&self, server: Option<SocketAddr>) {
        *self.server.lock().unwrap() = server;
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn two_hundred_sessions_of_paho() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("UMBRA_TEST_SEED").unwrap_or_else(|| u64::from(now().subsec_nanos()));
    let kills = number("UMBRA_TEST_KILLS").unwrap_or(4);
    println!("UMBRA_TEST_SEED={seed}");
    let server = Server::with(UNLIMITED);
    let port = server.address.port();
    run(server, python("paho_kills.py").args([port.to_string(), kills.to_string(), seed.to_string()]), None);
}

#[test]
fn home_assistant_and_its_devices() {
    for version in ["3", "5"] {
        let server = Server::with(UNLIMITED);
        let port = server.address.port().to_string();
        let kills = number("UMBRA_TEST_KILLS").unwrap_or(2).to_string();
        run(server, python("home_assistant.py").args([&*port, version, &kills]), None);
    }
}

#[test]
fn mqtt_js_that_connects_again_by_itself() {
    let modules = env::var("UMBRA_TEST_NODE").expect("UMBRA_TEST_NODE: run ./test, which installs MQTT.js");
    for version in ["4", "5"] {
        let server = Server::with(UNLIMITED);
        let relay = Relay::to(&server);
        let url = format!("mqtt://{}", relay.address);
        let kills = number("UMBRA_TEST_KILLS").unwrap_or(3).to_string();
        let mut command = Command::new("node");
        command.arg(script("mqtt_js_kills.js")).args([&*url, version, &kills]).env("NODE_PATH", &modules);
        run(server, &mut command, Some(&relay));
    }
}

fn bridge(version: &str) {
    let server = Server::with(UNLIMITED);
    let relay = Relay::to(&server);
    // Freed for mosquitto, which cannot choose one.
    let edge = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let configuration = server.directory().join("mosquitto.conf");
    let lines = [
        &*format!("listener {edge} 127.0.0.1"),
        "allow_anonymous true",
        "connection edge",
        &format!("address {}", relay.address),
        "topic up/# out 2",
        "topic down/# in 2",
        "cleansession false",
        &format!("bridge_protocol_version {version}"),
        "restart_timeout 1",
    ];
    fs::write(&configuration, lines.join("\n")).unwrap();
    let mut mosquitto = Tool::start("/usr/sbin/mosquitto", &["-v", "-c", configuration.to_str().unwrap()]);
    mosquitto.line("Received SUBACK from local.");
    let (port, kills) = (server.address.port().to_string(), number("UMBRA_TEST_KILLS").unwrap_or(3).to_string());
    run(server, python("bridge_kills.py").args([&*port, &edge, &kills]), Some(&relay));
}

#[test]
fn a_bridge_of_mosquitto_3_1_1() {
    bridge("mqttv311");
}

#[test]
fn a_bridge_of_mosquitto_3_1() {
    bridge("mqttv31");
}
