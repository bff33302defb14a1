//! A process that may open no more files.

use serde_json::json;

use crate::{
    exchange::{ask, server_with},
    harness::{
        client::Client,
        eventually,
        server::{Server, UNLIMITED},
        shadow::{Requester, version},
        wire::{Connect, V5},
    },
    socket::Socket,
};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Whom it can take it serves, whom it cannot it refuses at once, and with files it goes on; no update is lost.
#[test]
fn more_connections_than_file_descriptors() {
    const ROOM: usize = 12;
    let mut server = server_with("", "connect_timeout = \"5m\"", UNLIMITED.limits);
    let web = server.address_of("web");
    let mut writer = Requester::new(&server, V5, "writer", "shadow/kept");
    let mut socket = Socket::connect(web, V5, "socket");
    let mut promised = write(&mut writer, 0);

    server.limit_open_files(server.open_files() + ROOM);
    let mut members = Vec::new();
    let mut refused = 0;
    for _ in 0..100 {
        match join(&server, members.len()) {
            Some(member) => members.push(member),
            None => refused += 1,
        }
        promised = write(&mut writer, promised);
    }
    // The limit is one of numbers: a file that the server was given under a high one, or opens for a moment, is one
    // more or less.
    assert!((ROOM - 4..=ROOM + 4).contains(&members.len()), "{} were taken", members.len());
    assert_eq!(refused, 100 - members.len());
    assert!(ask(web, HEALTH).is_none(), "nor is there room here");
    socket.ping();
    members.iter_mut().for_each(Client::ping);
    let complaints = server.log().matches("cannot accept").count();
    assert!((1..=4).contains(&complaints), "it does not say so for each client: {}", server.log());

    members.pop().unwrap().disconnect();
    eventually("room for one more", || ask(web, HEALTH).filter(|answer| answer.status == 200));
    members.clear();
    let again = || (0..ROOM - 4).map(|number| join(&server, number)).collect::<Option<Vec<_>>>();
    eventually("room for as many as before", again);
    promised = write(&mut writer, promised);

    server.stop();
    server.restart();
    let document = Requester::new(&server, V5, "reader", "shadow/kept").get();
    assert_eq!((version(&document), document["state"]["reported"]["n"].as_u64()), (promised, Some(promised)));
}

/// A member of that number; `None`: it was refused, at once.
fn join(server: &Server, number: usize) -> Option<Client> {
    let mut client = Client::open(server, V5);
    client.try_send(Connect::new(V5, &format!("member-{number}")).encode()).ok()?;
    client.try_recv()?;
    Some(client)
}

/// One more update of the shadow; its version, which it promises.
fn write(writer: &mut Requester, before: u64) -> u64 {
    let accepted = writer.update(json!({"state": {"reported": {"n": before + 1}}, "version": before}));
    assert_eq!(version(&accepted), before + 1);
    before + 1
}
