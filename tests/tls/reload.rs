//! SIGHUP: new files for new connections, and what becomes of those that are open.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio_rustls::rustls::HandshakeKind;

use crate::{
    certificates::{Authority, Issued},
    client::{self, TlsClient},
    harness::{
        eventually,
        packet::Packet,
        server::{Server, Setup},
        wire::{self, BOTH, Connect, Properties, Publish, V4, V5},
    },
};

const DONE: &str = "TLS files reloaded";
const NOT_TAKEN: &str = "TLS files rejected";

/// Puts the files of `issued` in the place of those of `before`.
fn replace(before: &Issued, issued: &Issued) {
    fs::copy(&issued.certificate, &before.certificate).unwrap();
    fs::copy(&issued.key, &before.key).unwrap();
}

fn ping(client: &mut TlsClient) {
    client.send(wire::PINGREQ);
    assert_eq!(client.recv(), Some(Packet::PingResp));
}

#[test]
fn a_reload_uses_the_new_server_certificate() {
    let [authority, next] = ["authority", "next"].map(Authority::new);
    let issued = authority.server();
    let listener = authority.admins(&issued, "");
    let server = Server::with(Setup { listener, ..Setup::default() });
    let mut open = TlsClient::open(&server, &authority.file, None, &[], V5);
    assert_eq!(open.connect("open"), Some(0));

    replace(&issued, &next.server());
    // It is read at a reload, not before.
    assert_eq!(TlsClient::open(&server, &authority.file, None, &[], V5).connect("early"), Some(0));
    server.hangup(1, DONE);
    assert_eq!(TlsClient::open(&server, &next.file, None, &[], V5).connect("new"), Some(0));
    let mut distrusts = TlsClient::open(&server, &authority.file, None, &[], V5);
    assert!(std::io::Write::flush(&mut distrusts.stream).is_err(), "the old authority's certificate is gone");
    ping(&mut open);
}

/// Whatever is wrong with a file: nothing is taken of the new ones, and the log names it.
#[test]
fn invalid_files_change_nothing() {
    let [authority, next] = ["authority", "next"].map(Authority::new);
    let issued = authority.server();
    let [good, revoked] = ["lamp-1", "lamp-2"].map(|name| authority.client(name));
    let list = authority.revoke(&[&revoked]);
    let listener = authority.admins(&issued, &format!("tls_client_crl = {list:?}"));
    let mut server = Server::with(Setup { listener, ..Setup::default() });
    let mut open = TlsClient::open(&server, &authority.file, Some(&good), &[], V5);
    assert_eq!(open.connect("open"), Some(0));

    let other = next.server();
    let files: [&Path; 4] = [&issued.certificate, &issued.key, &authority.file, &list];
    let mut count = 0;
    for file in files {
        let before = fs::read(file).unwrap();
        for content in [&b"nonsense"[..], b"", &before[..before.len() / 2]] {
            // The others are new, and must not be taken either.
            let saved = [&issued.certificate, &issued.key].map(|file| fs::read(file).unwrap());
            replace(&issued, &other);
            fs::write(file, content).unwrap();
            count += 1;
            server.hangup(count, NOT_TAKEN);
            fs::write(&issued.certificate, &saved[0]).unwrap();
            fs::write(&issued.key, &saved[1]).unwrap();
            fs::write(file, &before).unwrap();
            let log = server.log();
            let logged = log.lines().rfind(|line| line.contains(NOT_TAKEN)).unwrap();
            assert!(logged.contains(&file.display().to_string()), "{log}");
            ping(&mut open);
            let mut client = TlsClient::open(&server, &authority.file, Some(&revoked), &[], V5);
            assert_eq!(client.connect("client"), None, "revoked as before");
            let mut client = TlsClient::open(&server, &authority.file, Some(&good), &[], V5);
            assert_eq!(client.connect("client"), Some(0), "as before");
        }
    }
    server.hangup(1, DONE);
    ping(&mut open);
    server.assert_alive();
}

/// A connection whose certificate is revoked ends, others go on, and its will is not published: it is that of a thief.
#[test]
fn revoking_a_certificate_disconnects_its_client() {
    let authority = Authority::new("authority");
    let clients = ["lamp-1", "lamp-2"].map(|name| authority.client(name));
    let [good, stolen] = &clients;
    let list = authority.revoke(&[]);
    let listener = authority.admins(&authority.server(), &format!("tls_client_crl = {list:?}"));
    let server = Server::with(Setup { listener, ..Setup::default() });
    let open = |shown: Option<&Issued>, protocol| TlsClient::open(&server, &authority.file, shown, &[], protocol);

    let mut watcher = open(None, V4);
    assert_eq!(watcher.connect("watcher"), Some(0));
    watcher.send(wire::subscribe(V4, 1, &[("will/#", 0)], &Properties::none()));
    assert!(matches!(watcher.recv(), Some(Packet::SubAck { .. })));
    let mut stays = open(Some(good), V5);
    assert_eq!(stays.connect("stays"), Some(0));
    let mut ends = Vec::new();
    for protocol in BOTH {
        let mut client = open(Some(stolen), protocol);
        let connect = Connect::new(protocol, &format!("ends-{protocol:?}"));
        client.send(connect.will(Publish::new(&format!("will/{protocol:?}"), "revoked"), 0).encode());
        assert!(matches!(client.recv(), Some(Packet::ConnAck { code: 0, .. })));
        ends.push(client);
    }

    // Something else is revoked: everybody stays.
    authority.revoke(&[&authority.client("lamp-3")]);
    server.hangup(1, DONE);
    ends.iter_mut().for_each(ping);

    authority.revoke(&[stolen]);
    server.hangup(2, DONE);
    for client in &mut ends {
        assert_eq!(client.recv(), None, "it said nothing, and it is over");
    }
    stays.send(Publish::new("will/marker", "").encode(V5, 0, 0));
    match watcher.recv() {
        Some(Packet::Publish(message)) => assert_eq!(message.topic, "will/marker"),
        other => panic!("{other:?}"),
    }
    ping(&mut stays);
    ping(&mut watcher);
    assert_eq!(open(Some(stolen), V5).connect("again"), None);
}

#[test]
fn removing_an_authority_disconnects_its_clients() {
    let [authority, client_authority, next] = ["authority", "clients", "next"].map(Authority::new);
    let [lamp, newer] = [client_authority.client("lamp-1"), next.client("lamp-1")];
    let file = client_authority.file.clone();
    let issued = authority.server();
    let lines =
        format!("tls_certificate = {:?}\ntls_key = {:?}\ntls_client_ca = {file:?}", issued.certificate, issued.key);
    let server = Server::with(Setup { listener: Box::leak(lines.into_boxed_str()), ..Setup::default() });
    let open = |shown| TlsClient::open(&server, &authority.file, Some(shown), &[], V5);
    let mut client = open(&lamp);
    assert_eq!(client.connect("client"), Some(0));
    assert_eq!(open(&newer).connect("newer"), None);

    // Both for a while, then the new one alone.
    let both = [&file, &next.file].map(|file| fs::read_to_string(file).unwrap()).concat();
    fs::write(&file, both).unwrap();
    server.hangup(1, DONE);
    ping(&mut client);
    let mut second = open(&newer);
    assert_eq!(second.connect("newer"), Some(0));
    fs::copy(&next.file, &file).unwrap();
    server.hangup(2, DONE);
    assert_eq!(client.recv(), None);
    ping(&mut second);
}

/// A session that is resumed skips the certificate, and must not skip what became of it.
#[test]
fn a_session_is_not_resumed_past_a_revocation() {
    let authority = Authority::new("authority");
    let stolen = authority.client("lamp-1");
    let list = authority.revoke(&[]);
    let listener = authority.admins(&authority.server(), &format!("tls_client_crl = {list:?}"));
    let server = Server::with(Setup { listener, ..Setup::default() });
    let config = Arc::new(client::config(&authority.file, Some(&stolen), &[]));
    let connect = || {
        let mut client = TlsClient::with(server.address, config.clone(), V5);
        let code = client.connect("client");
        (code, client.stream.conn.handshake_kind())
    };
    assert_eq!(connect(), (Some(0), Some(HandshakeKind::Full)));
    assert_eq!(connect(), (Some(0), Some(HandshakeKind::Resumed)));
    authority.revoke(&[&stolen]);
    server.hangup(1, DONE);
    assert_eq!(connect().0, None);
}

/// Nor past the end of the certificate's own life, which no reload announces.
#[test]
fn a_session_is_not_resumed_past_its_certificate() {
    let authority = Authority::new("authority");
    // Long enough to connect twice; too slow a machine repeats with more.
    let mut lives = Duration::from_secs(2);
    let (server, config) = loop {
        let listener = authority.admins(&authority.server(), "");
        let server = Server::with(Setup { listener, ..Setup::default() });
        let shown = authority.short_lived_client("lamp-1", lives);
        let config = Arc::new(client::config(&authority.file, Some(&shown), &[]));
        let kinds = [0, 1].map(|_| {
            let mut client = TlsClient::with(server.address, config.clone(), V5);
            (client.connect("client"), client.stream.conn.handshake_kind())
        });
        if kinds == [(Some(0), Some(HandshakeKind::Full)), (Some(0), Some(HandshakeKind::Resumed))] {
            break (server, config);
        }
        assert!(lives < Duration::from_secs(60), "{kinds:?}");
        lives *= 2;
    };
    eventually("the certificate to be refused, resumed or not", || {
        let mut client = TlsClient::with(server.address, config.clone(), V5);
        client.connect("client").is_none().then_some(())
    });
}
