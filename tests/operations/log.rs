//! The log: who connects, who is refused what, and how it begins and ends.

use crate::harness::{
    client::Client,
    eventually,
    packet::Packet,
    server::{Server, Setup},
    wire::{BOTH, Connect, Publish, V4, V5},
};

/// Lines of the log at the level `info` with all of `words`.
fn lines(server: &Server, words: &[&str]) -> usize {
    let log = server.log();
    log.lines().filter(|line| line.contains(" INFO ") && words.iter().all(|word| line.contains(word))).count()
}

fn wait_for(server: &Server, words: &[&str]) {
    eventually(&format!("{words:?}"), || (lines(server, words) > 0).then_some(()));
}

#[test]
fn start_and_stop_are_logged() {
    let mut server = Server::start();
    let log = server.log();
    let first = log.lines().find(|line| line.contains(" INFO ")).unwrap();
    let configuration = format!("configuration=\"{}\"", server.directory().join("broker.toml").display());
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    for part in ["umbrad starts", &version, &configuration, "listeners=\"test mqtt 127.0.0.1:0\""] {
        assert!(first.contains(part), "{part}: {first}");
    }
    // The values of "auto" are nowhere else.
    assert_eq!(lines(&server, &["memory in bytes store.memory=", " limits.memory="]), 1, "{log}");
    let exit = server.stop();
    let last = exit.log.lines().last().unwrap();
    assert!(
        last.ends_with(": shutdown complete connections_accepted=0 refused_and_dropped=\"none\" quotas_met=\"none\""),
        "{last}"
    );

    let mut server = Server::with(Setup { listener: "anonymous_role = \"viewer\"", ..Setup::default() });
    Client::connect(&server, V5, "client").publish("not/mine", "", 1);
    let exit = server.stop();
    let last = exit.log.lines().last().unwrap();
    assert!(
        last.ends_with(" connections_accepted=1 refused_and_dropped=\"publishes-refused=1\" quotas_met=\"none\""),
        "{last}"
    );
}

#[test]
fn connections_are_logged_at_begin_and_end() {
    let server = Server::start();
    for protocol in BOTH {
        let (client, name) = match protocol {
            V4 => ("four", "protocol=\"mqtt-3.1.1\""),
            V5 => ("five", "protocol=\"mqtt-5\""),
        };
        let id = format!("client={client} ");
        let whole = ["principal=anonymous/", &id, "address=127.0.0.1", "listener=\"test\"", name];
        let ends = |reason: &str| wait_for(&server, &[&whole[..], &[" disconnected ", reason]].concat());
        let mut open = Client::connect(&server, protocol, client);
        wait_for(&server, &[&whole[..], &[" connected "]].concat());
        let taker = Client::connect(&server, protocol, client);
        ends("reason=session taken over");
        open.discard_until_closed();
        taker.disconnect();
        ends("reason=the client disconnected");
        Client::connect(&server, protocol, client).drop_connection();
        ends("reason=the client closed the connection");
        let mut wrong = Client::connect(&server, protocol, client);
        wrong.send(Connect::new(protocol, client).encode());
        ends("reason=protocol violation: a second CONNECT");
        wrong.discard_until_closed();
    }
}

#[test]
fn connection_logging_can_be_disabled() {
    let server = Server::with(Setup { limits: "[log]\nlevel = \"info,umbrad::connections=off\"", ..Setup::default() });
    Client::connect(&server, V5, "client").disconnect();
    let log = { server }.stop().log;
    assert!(!log.contains("connected"), "{log}");
    assert!(log.contains("umbrad starts"), "{log}");
}

/// A device of MQTT 3.1.1 saw its messages acknowledged and lost, and the log said nothing.
#[test]
fn refusals_without_a_reason_code_are_logged() {
    let server = Server::with(Setup { listener: "anonymous_role = \"viewer\"", ..Setup::default() });
    let mut client = Client::connect(&server, V4, "lamp\u{202e}1");
    let long = format!("other/{}", "x".repeat(300));
    for (topic, shown, reason) in [
        ("not/mine", "topic=not/mine ", "reason=Forbidden: publish not/mine"),
        ("shadow/lamp-2/update", "topic=lamp-2 ", "reason=Forbidden"),
        ("shadow/lamp-2/updat", "topic=shadow/lamp-2/updat ", "reason=unknown operation 'updat'"),
        (&long, "xxx… ", "reason=Forbidden: publish other/x"),
    ] {
        client.publish(topic, "{\"state\":{}}", 1);
        wait_for(&server, &["was refused", r"client=lamp\u{202e}1", "address=127.0.0.1", shown, reason]);
    }
    assert_eq!(client.subscribe_with(&[("not/mine/#", 1)], &crate::harness::wire::Properties::none()), [0x80]);
    wait_for(&server, &["a subscription was refused", "topic=not/mine/# ", "reason=not authorized"]);

    // So is a retained message over a quota.
    let full = Server::with(Setup { limits: "[[role]]\nrole = \"admin\"\nmemory = \"64 KiB\"", ..Setup::default() });
    let mut keeper = Client::connect(&full, V4, "keeper");
    keeper.send(Publish::new("kept", "x".repeat(60_000)).retain().encode(V4, 1, 9));
    wait_for(&full, &["a message was refused", "client=keeper", "topic=kept ", "bytes kept for one principal"]);

    // With MQTT 5 the reason code suffices and nothing is logged; repeated refusals do not fill the log.
    let mut modern = Client::connect(&server, V5, "modern");
    assert_eq!(modern.publish("refused/topic", "", 1), 0x87);
    (0..60).for_each(|_| _ = client.publish("again/and/again", "", 1));
    client.send(crate::harness::wire::PINGREQ);
    assert_eq!(client.recv(), Packet::PingResp);
    assert_eq!(lines(&server, &["was refused", "refused/topic"]), 0);
    assert!(lines(&server, &["was refused", "again/and/again"]) < 60, "{}", server.log());
}
