//! The processes of this program behind or inside a compared broker: they answer updates like a shadow service.
//!
//! - [`echo`]: without shadows and storage, behind any broker
//! - [`postgres`]: with the shadows in PostgreSQL, behind any broker
//! - [`rumqttd`]: stock rumqttd, with the echo on its `Broker::link`

pub(crate) mod echo;
mod engine;
pub(crate) mod postgres;
pub(crate) mod rumqttd;

use std::net::SocketAddr;

use clap::Args;

/// The line that an engine prints once it is subscribed.
pub(crate) const ENGINE_READY: &str = "engine: subscribed";

/// Arguments of an engine.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Address of the broker.
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: SocketAddr,
    /// Bytes of the payload of an answer.
    #[arg(long, default_value_t = 512)]
    accepted_bytes: usize,
    /// QoS of the answers.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
}
