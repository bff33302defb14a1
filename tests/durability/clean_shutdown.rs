//! Start and end of the server: nothing is lost, nothing is left, and a store that it cannot use is not changed.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::TcpStream,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::harness::{
    Meeting,
    client::Client,
    program::{Running, umbrad},
    server::{Exit, Server, Setup, UNLIMITED, store_path},
    shadow::{Requester, version},
    wire::{BOTH, Connect, Publish, V4, V5},
};
use serde_json::{Value, json};

/// The exit code for a store that cannot be used.
const STORE_UNUSABLE: i32 = 4;

#[test]
fn acknowledged_writes_survive_sigterm() {
    let mut server = Server::with(UNLIMITED);
    let stop = AtomicBool::new(false);
    let started = Meeting::of(5);
    let (promised, exit) = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let client = Client::connect(&server, V5, &format!("writer-{number}"));
                let (started, stop) = (&started, &stop);
                scope.spawn(move || write_until_closed(client, number, started, stop))
            })
            .collect();
        started.wait();
        let exit = server.stop();
        stop.store(true, Ordering::Relaxed);
        (writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>(), exit)
    });
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
    server.restart();
    let mut unanswered = 0;
    for (number, promised) in promised.iter().enumerate() {
        let document = Requester::new(&server, V5, "reader", &format!("shadow/stop-{number}")).get();
        let kept = document["state"]["reported"]["n"].as_u64().unwrap();
        assert!(kept >= *promised, "writer {number} was promised {promised}: {document}");
        assert_eq!(version(&document), kept, "each write was one version");
        unanswered += kept - promised;
    }
    println!("promised {promised:?}, all there; {unanswered} more were decided and their answer did not arrive");
    println!("the server said: {}", exit.log.lines().last().unwrap_or_default());
    assert_nothing_to_replay(&server.log());
}

/// Whoever waits for the first line and leaves, as `grep -m1 listening`, ended the server by a panic at the second one.
#[test]
fn serves_when_standard_output_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nowhere) = io::pipe().unwrap();
    let mut command = umbrad(&["serve", "--bind", "127.0.0.1:0", "--bind", "127.0.0.2:0", "--store"]);
    command.arg(store_path(directory.path())).stdout(nowhere).stderr(Stdio::piped());
    let mut server = Running::start(&mut command);
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let logged = log.by_ref().filter(|line| line.contains("cannot write to standard output")).take(2).count();
    server.terminate();
    assert_eq!((logged, server.end().code()), (2, Some(0)));
}

/// Writes numbers until the server ends the connection; the last that was acknowledged.
fn write_until_closed(mut client: Client, number: usize, started: &Meeting, stop: &AtomicBool) -> u64 {
    let mut promised = 0;
    for value in 1..=60_000u16 {
        let body = json!({"state": {"reported": {"n": value}}}).to_string();
        let publish = Publish::new(&format!("shadow/stop-{number}/update"), body).encode(V5, 1, value);
        if client.try_send(publish).is_err() {
            return promised;
        }
        loop {
            match client.try_recv() {
                Some(crate::harness::packet::Packet::PubAck(ack)) => {
                    assert_eq!((ack.id, ack.code), (value, 0));
                    promised = u64::from(value);
                    break;
                }
                Some(crate::harness::packet::Packet::Disconnect { code, .. }) => {
                    assert_eq!(code, 0x8B, "shutting down")
                }
                Some(other) => panic!("{other:?}"),
                None => return promised,
            }
        }
        if value == 20 {
            started.wait();
        }
    }
    assert!(stop.load(Ordering::Relaxed), "the server ended before the numbers did");
    promised
}

/// Checks that the log of a start reports an empty replay. The crash tests see replays that are not empty.
fn assert_nothing_to_replay(log: &str) {
    assert!(log.contains("nothing to replay"), "{log}");
}

#[test]
fn a_clean_stop_keeps_every_document() {
    let mut server = Server::start();
    let mut before = Vec::new();
    for number in 0..30 {
        let mut client = Requester::private(&server, "writer", &format!("shadow/kept-{number}"));
        client.update(json!({"state": {"desired": {"n": number, "deep": {"list": [1, null_free(number)]}}}}));
        client.update(json!({"state": {"desired": {"n": null}, "reported": {"f": 0.1}, "tags": {"t": "ü"}}}));
        before.push(without_token(client.get()));
    }
    server.stop();
    server.restart();
    assert_nothing_to_replay(&server.log());
    for (number, before) in before.iter().enumerate() {
        let mut client = Requester::private(&server, "reader", &format!("shadow/kept-{number}"));
        assert_eq!(without_token(client.get()), *before, "state, metadata, version, timestamp and etag");
    }
}

fn null_free(number: u64) -> Value {
    json!({"half": number as f64 / 2.0})
}

fn without_token(mut document: Value) -> Value {
    document.as_object_mut().unwrap().remove("clientToken");
    document
}

/// None of them is waited for: not the one that has not said who it is either, though it would have minutes to do so.
#[test]
fn a_stop_with_every_kind_of_client() {
    let mut server = Server::with(Setup { listener: "connect_timeout = \"5m\"", ..Setup::default() });
    let mut clients: Vec<Client> = Vec::new();
    for protocol in BOTH {
        let connect = Connect::persistent(protocol, &format!("persistent-{protocol:?}"));
        clients.push(Client::connect_as(&server, &connect.will(Publish::new("will", "gone"), 1)).0);
        clients.push(Client::connect(&server, protocol, &format!("clean-{protocol:?}")));
        clients.push(Client::open(&server, protocol));
        let mut half = Client::open(&server, protocol);
        half.send([0x10, 0x20, 0x00]);
        clients.push(half);
        let mut silent = Client::connect(&server, protocol, &format!("unread-{protocol:?}"));
        silent.subscribe(&[("flood", 1)]);
        clients.push(silent);
    }
    let mut writer = Client::connect(&server, V4, "writer");
    for _ in 0..100 {
        writer.publish("flood", vec![b'x'; 100_000], 1);
    }
    server.stop();
    let received = clients.iter_mut().filter_map(Client::closed).collect::<Vec<_>>();
    assert!(received.iter().all(|code| *code == 0x8B), "{received:02x?}");
    println!("{} clients, {} received the shutdown code", clients.len() + 1, received.len());
}

#[test]
fn a_store_has_one_server() {
    let mut server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/one");
    client.update(json!({"state": {"reported": {"a": 1}}}));
    let exit = server.second();
    assert_eq!(exit.status.code(), Some(STORE_UNUSABLE), "{}", exit.log);
    says(&exit, &["umbra.redb"]);
    client.update(json!({"state": {"reported": {"a": 2}}, "version": 1}));
    server.stop();
}

/// The message names what must be in it and is no panic.
fn says(exit: &Exit, words: &[&str]) {
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
    for word in words {
        assert!(exit.log.contains(word), "no {word:?} in: {}", exit.log);
    }
}

#[test]
fn an_unusable_store_is_not_changed() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/file");
    client.update(json!({"state": {"reported": {"a": 1}}}));
    let directory = server.into_directory();
    let path = store_path(directory.path());
    let sound = fs::read(&path).unwrap();
    let damaged = |at: usize, with: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let rows = [
        ("a text file", b"This is not a database.\n".repeat(1_000)),
        ("a few bytes", b"redb".to_vec()),
        ("a wrong magic number", damaged(0, b"XXXX")),
        ("half of it", sound[..sound.len() / 2].to_vec()),
        ("an unknown redb version and zeroes", damaged(64, &[0xFF; 256])),
        ("zeroes", vec![0; 100_000]),
    ];
    let mut directory = directory;
    for (what, bytes) in rows {
        fs::write(&path, &bytes).unwrap();
        let (exit, again) = match Server::within(directory, Setup::default()) {
            Err(failed) => failed,
            Ok(_) => panic!("{what}: the server started"),
        };
        assert_eq!(exit.status.code(), Some(STORE_UNUSABLE), "{what}: {}", exit.log);
        says(&exit, &["umbra.redb"]);
        assert!(fs::read(&path).unwrap() == bytes, "{what}: the file was changed");
        println!("{what}: {}", exit.log.lines().last().unwrap_or_default());
        directory = again;
    }
    // The file as it was still serves.
    fs::write(&path, &sound).unwrap();
    let server = Server::within(directory, Setup::default()).unwrap_or_else(|(exit, _)| panic!("{exit:?}"));
    assert_eq!(version(&Requester::new(&server, V5, "client", "shadow/file").get()), 1);
}

#[test]
fn a_clean_stop_leaves_only_the_store() {
    let mut server = Server::start();
    Requester::new(&server, V5, "client", "shadow/left").update(json!({"state": {"reported": {"a": 1}}}));
    server.stop();
    let mut names: Vec<_> = fs::read_dir(server.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["broker.toml", "stderr", "stdout", "umbra.redb"]);
}
