//! Very many connections.

use std::{io::Write, net::TcpStream, time::Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    bystander::Bystander,
    harness::{
        DEADLINE, eventually,
        server::{Server, Setup},
        wire::{Connect, V5},
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

/// Above the most connections a new one is closed at once, and those that are there go on.
#[test]
fn more_connections_than_there_may_be() {
    let mut server = Server::with(Setup { listener: "connections_max = 20", ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let mut clients: Vec<_> = (0..19)
        .map(|number| crate::harness::client::Client::connect(&server, V5, &format!("member-{number}")))
        .collect();
    for _ in 0..30 {
        crate::harness::client::Client::open(&server, V5).discard_until_closed();
    }
    bystander.check_connection(&mut server);
    for client in &mut clients {
        client.ping();
    }
    // One leaves, one may come.
    clients.pop().unwrap().disconnect();
    eventually("room for one more", || {
        let mut client = crate::harness::client::Client::open(&server, V5);
        client.try_send(Connect::new(V5, "late").encode()).ok()?;
        client.try_recv()
    });
}
