//! Stock rumqttd, with an echo engine on its `Broker::link`: the design that a broker in a library suggests.

use std::{collections::HashMap, net::SocketAddr, thread};

use anyhow::{Context, anyhow};
use clap::Args;
use rumqttd::{
    Broker, Config, ConnectionSettings, Notification, RouterConfig, ServerSettings,
    local::{LinkRx, LinkTx},
};

use super::engine::Answer;
use crate::bench::load::message::quick_version;

/// Arguments of the broker.
#[derive(Debug, Args)]
pub(crate) struct RumqttdArgs {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of the payload of an answer.
    #[arg(long)]
    accepted_bytes: usize,
}

/// Runs the broker and the engine.
///
/// # Errors
///
/// The broker ended.
pub(crate) fn run(args: &RumqttdArgs) -> anyhow::Result<()> {
    let answer = Answer::new(args.accepted_bytes)?;
    let mut broker = Broker::new(config(args.listen));
    let (mut out, events) = broker.link("engine").context("linking the engine")?;
    out.subscribe("shadow/+/update").context("subscribing the engine")?;
    let engine = thread::Builder::new().name("engine".to_owned()).spawn(move || echo(out, events, answer))?;
    broker.start().context("rumqttd")?;
    engine.join().map_err(|_| anyhow!("the engine panicked"))?
}

fn echo(mut out: LinkTx, mut events: LinkRx, mut answer: Answer) -> anyhow::Result<()> {
    loop {
        let Some(Notification::Forward(update)) = events.recv().context("receiving from the router")? else { continue };
        let version = quick_version(&update.publish.payload).unwrap_or(0) + 1;
        let topic = [&*update.publish.topic, b"/accepted"].concat();
        let topic = String::from_utf8(topic).context("a topic of text")?;
        out.publish(topic, answer.with_version(version).to_vec()).context("publishing to the router")?;
    }
}

/// Returns the settings of rumqttd's example configuration, with one listener.
fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 20_480,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server =
        ServerSettings { name: "v4-1".to_owned(), listen, tls: None, next_connection_delay_ms: 1, connections };
    Config {
        router: RouterConfig {
            max_connections: 10_010,
            max_outgoing_packet_count: 200,
            max_segment_size: 104_857_600,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("1".to_owned(), server)])),
        ..Config::default()
    }
}
