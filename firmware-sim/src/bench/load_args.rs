//! The settings that all measurements of one command share.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context;
use clap::Args;

use super::{
    frame::Protocol,
    load::{devices::Load, event_loop::Phases, message::UpdateKind},
};

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
        brokers: &[SocketAddr],
        devices: usize,
        seconds: f64,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Load> {
        Ok(Load {
            brokers: brokers.to_vec(),
            devices,
            protocol: self.mqtt,
            event_qos: self.event_qos,
            kind: self.update_kind,
            phases: self.phases(seconds)?,
            login: None,
            stop: stop.clone(),
        })
    }

    /// Returns the times of a measurement.
    ///
    /// # Errors
    ///
    /// A time is out of range.
    pub(crate) fn phases(&self, seconds: f64) -> anyhow::Result<Phases> {
        Ok(Phases {
            warm_up: Duration::try_from_secs_f64(self.warm_up).context("--warm-up")?,
            measured: Duration::try_from_secs_f64(seconds).context("--seconds")?,
        })
    }

    /// Returns the settings by name.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let version = if self.mqtt == Protocol::V5 { "5" } else { "3.1.1" };
        let settings = [
            ("seconds of load before", self.warm_up.to_string()),
            ("MQTT version of the devices", version.to_owned()),
            ("QoS of the devices' subscriptions", self.event_qos.to_string()),
            ("kind of the updates", self.update_kind.name().to_owned()),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
