//! Very many connections.

use std::{io::Write, net::TcpStream, time::Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    bystander::Bystander,
    harness::{
        DEADLINE,
        client::Client,
        eventually,
        server::{Server, Setup},
        wire::{Connect, Publish, V5},
    },
};

/// Raises this process's limit of open files to the hard one; the server inherits it. How many that is.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    limit.maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap_or(usize::MAX))
}

/// Connections that never say who they are: they take no more than their deadline, and stand in nobody's way.
#[test]
fn ten_thousand_half_open_connections() {
    let wanted = 10_000.min(raise_file_limit().saturating_sub(500));
    // Long enough for them all to be there at once; how many were is printed.
    let mut server = Server::with(Setup { listener: "connect_timeout = \"20s\"", ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let (files, memory) = (server.open_files(), server.resident_bytes());
    let started = Instant::now();
    let half = &Connect::new(V5, "half").encode()[..10];
    let mut crowd = Vec::new();
    for number in 0..wanted {
        let Ok(mut stream) = TcpStream::connect_timeout(&server.address, *DEADLINE) else { break };
        if number % 2 == 0 {
            let _ = stream.write_all(half);
        }
        crowd.push(stream);
        if number % 1_000 == 0 {
            bystander.check_connection(&mut server);
        }
    }
    let connected = started.elapsed();
    let most = server.open_files() - files;
    let grown = server.resident_bytes().saturating_sub(memory);
    bystander.check(&mut server);
    // Each is closed by its deadline, while its client still holds its end.
    eventually("the half-open connections to be closed", || (server.open_files() <= files + 8).then_some(()));
    bystander.check(&mut server);
    assert_eq!(crowd.len(), wanted, "all connect");
    assert!(grown < 256 << 20, "grew by {grown} bytes");
    println!(
        "{} half-open connections in {connected:?}, {most} open at once, {} KiB more memory; all closed",
        crowd.len(),
        grown / 1024
    );
}

/// Unauthenticated input has one budget, and clients that need little of it do not wait for those that need all of it.
#[test]
fn three_thousand_connects_that_never_end() {
    let wanted = 3_000.min(raise_file_limit().saturating_sub(500));
    let mut server = Server::with(Setup { listener: "connect_timeout = \"20s\"", ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let (files, memory) = (server.open_files(), server.resident_bytes());
    let will = Publish::new("crowd/will", vec![b'w'; 60_000]);
    let large = |id: &str| Connect { will: Some((will.clone(), 0)), ..Connect::new(V5, id) };
    let encoded = Connect { username: Some("u".repeat(60_000)), ..large("large") }.encode();
    let unfinished = &encoded[..encoded.len() - 1];
    let mut crowd = Vec::new();
    for _ in 0..wanted {
        let mut stream = TcpStream::connect_timeout(&server.address, *DEADLINE).unwrap();
        // What the server does not read stays with the kernels.
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(unfinished);
        crowd.push(stream);
        if crowd.len() % 1_000 == 0 {
            bystander.check(&mut server);
        }
    }
    let grown = server.resident_bytes().saturating_sub(memory);
    assert!(grown < 224 << 20, "grew by {grown} bytes");
    println!("{} strangers with 120 KB each: {} KiB more memory", crowd.len(), grown / 1024);
    drop(crowd);
    eventually("the strangers to be gone", || (server.open_files() <= files + 8).then_some(()));
    let (mut client, _) = Client::connect_as(&server, &large("large"));
    client.ping();
    bystander.check(&mut server);
}

/// As many requests, each with the largest head there may be and most of a body, held 120 KB each.
#[test]
fn three_thousand_requests_that_never_end() {
    let wanted = 3_000.min(raise_file_limit().saturating_sub(500));
    let listener = "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nconnect_timeout = \"5s\"";
    let mut server = Server::with(Setup { listener, ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let (files, memory) = (server.open_files(), server.resident_bytes());
    let head =
        format!("POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16384\r\nX: {:15000}\r\n\r\n", "x");
    let unfinished = [head.as_bytes(), &[b' '; 16_000]].concat();
    let mut crowd = Vec::new();
    for _ in 0..wanted {
        let mut stream = TcpStream::connect_timeout(&server.address_of("web"), *DEADLINE).unwrap();
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(&unfinished);
        crowd.push(stream);
    }
    bystander.check(&mut server);
    let mut grown = 0;
    eventually("the unauthenticated connections to be closed", || {
        grown = grown.max(server.resident_bytes().saturating_sub(memory));
        (server.open_files() <= files + 8).then_some(())
    });
    assert!(grown < 272 << 20, "grew by {grown} bytes");
    println!("{} requests of 31 KB each: {} KiB more memory", crowd.len(), grown / 1024);
    bystander.check(&mut server);
}

/// Each byte of a body that came by itself was held in 8 KB of its own.
#[test]
fn bodies_that_come_byte_by_byte() {
    let listener = "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nconnect_timeout = \"60s\"";
    let mut server = Server::with(Setup { listener, ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let memory = server.resident_bytes();
    let head = b"POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4001\r\n\r\n";
    let mut crowd: Vec<_> = (0..10).map(|_| TcpStream::connect(server.address_of("web")).unwrap()).collect();
    for stream in &mut crowd {
        stream.set_nodelay(true).unwrap();
        stream.write_all(head).unwrap();
    }
    let mut grown = 0;
    for number in 0..4_000 {
        crowd.iter_mut().for_each(|stream| stream.write_all(b" ").unwrap());
        if number % 100 == 0 {
            grown = grown.max(server.resident_bytes().saturating_sub(memory));
        }
    }
    bystander.check(&mut server);
    assert!(grown < 64 << 20, "grew by {grown} bytes");
}

/// Above the most connections a new one is closed at once, and those that are there go on.
#[test]
fn connections_beyond_the_maximum() {
    let mut server = Server::with(Setup { limits: "connections_max = 20", ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let mut clients: Vec<_> = (0..19).map(|number| Client::connect(&server, V5, &format!("member-{number}"))).collect();
    for _ in 0..30 {
        Client::open(&server, V5).discard_until_closed();
    }
    bystander.check_connection(&mut server);
    for client in &mut clients {
        client.ping();
    }
    // One leaves, one may come.
    clients.pop().unwrap().disconnect();
    eventually("room for one more", || {
        let mut client = Client::open(&server, V5);
        client.try_send(Connect::new(V5, "late").encode()).ok()?;
        client.try_recv()
    });
}

/// Requests wait for the engine as text. The parsed command is larger by far, and is made when there is room for it.
#[test]
fn a_crowd_of_requests_that_grow_when_they_are_read() {
    const REQUESTS: usize = 400;
    let mut server = Server::with(Setup::default());
    let mut bystander = Bystander::new(&server);
    let before = server.peak_bytes();
    let grows = [r#"{"":{"":{"":{"":{"":0}}}}}"#; 4_000].join(",");
    let payload = format!(r#"{{"state":{{"desired":{{"a":[{grows}]}}}}}}"#);
    let mut crowd = Vec::new();
    for number in 0..REQUESTS {
        let mut client = Client::connect(&server, V5, &format!("crowd-{number}"));
        client.send(Publish::new(&format!("shadow/crowd-{number}/update"), &payload).encode(V5, 1, 1));
        crowd.push(client);
    }
    for client in &mut crowd {
        assert_eq!(client.puback(1).code, 0x83, "too large");
    }
    let grown = server.peak_bytes() - before;
    bystander.check(&mut server);
    println!("{REQUESTS} requests of {} KiB: at most {} MiB more memory", payload.len() / 1024, grown >> 20);
    // Their texts, those that the engine's queue has room for, and one each that the threads read.
    assert!(grown < 384 << 20, "grew by {grown} bytes");
}
