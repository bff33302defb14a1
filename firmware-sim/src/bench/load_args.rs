//! The settings that all measurements of one command share.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context;
use clap::Args;

use super::{frame::Protocol, generator::Load, message::UpdateKind};

/// The settings of the load.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// MQTT version.
    #[arg(long, value_enum, default_value = "3.1.1")]
    mqtt: Protocol,
    /// QoS of the devices' subscriptions; updates are published at QoS 1 always.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) event_qos: u8,
    /// Kind of the updates: their precondition.
    #[arg(long, value_enum, default_value = "conditional")]
    update_kind: UpdateKind,
}

impl LoadArgs {
    /// Returns the load of a measurement.
    ///
    /// # Errors
    ///
    /// A time is out of range.
    pub(crate) fn load(
        &self,
        broker: SocketAddr,
        devices: usize,
        seconds: f64,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Load> {
        Ok(Load {
            broker,
            devices,
            protocol: self.mqtt,
            event_qos: self.event_qos,
            kind: self.update_kind,
            warm_up: Duration::try_from_secs_f64(self.warm_up).context("--warm-up")?,
            measured: Duration::try_from_secs_f64(seconds).context("--seconds")?,
            login: None,
            stop: stop.clone(),
        })
    }
}
