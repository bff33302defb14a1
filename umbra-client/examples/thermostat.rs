//! A thermostat: obeys its desired state and reports its own.
//!
//!     cargo run --example thermostat -p umbra-client -- --device thermostat-1 --broker 127.0.0.1:1883
//!
//! The lean delta is all that a device needs: the difference arrives on subscribing and whenever it changes, also after a
//! reconnect. `reported` is written by the device alone, so its reports require no version.

use std::time::Duration;

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use umbra_client::{Client, Delta, DeviceId, Event, Options, Topic, Version};

#[derive(Parser)]
pub(crate) struct Args {
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) broker: String,
    #[arg(long, default_value = "thermostat-1")]
    pub(crate) device: String,
    /// Seconds between two readings.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) interval: f64,
}

/// The state of the thermostat, as it reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Thermostat {
    target: f64,
    temperature: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}

/// Runs the thermostat until it is interrupted.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::connect(Options::new(&args.broker, &args.device)?).await?;
    let shadow = client.shadow(DeviceId::new(&args.device)?);
    let mut watch = shadow.watch(&[Topic::LeanDelta], 16).await?;
    let mut thermostat = Thermostat { target: 20.0, temperature: 17.0 };
    let (mut obeyed, mut reported) = (Version::default(), None);
    let mut readings = tokio::time::interval(Duration::try_from_secs_f64(args.interval)?);
    println!("{} is on; end it with Ctrl-C", args.device);
    loop {
        tokio::select! {
            event = watch.recv() => match event {
                // An older delta may arrive after a newer one when both were sent.
                Some(Event::LeanDelta(_, Some(delta))) if delta.version >= obeyed => {
                    obeyed = delta.version;
                    thermostat.obey(&delta);
                }
                Some(_) => {}
                None => return Ok(()),
            },
            _ = readings.tick() => thermostat.heat(),
            _ = tokio::signal::ctrl_c() => break,
        }
        if reported.as_ref() != Some(&thermostat) {
            // A report that fails for now is made again with the next reading.
            match shadow.report(&thermostat).await {
                Ok(accepted) => {
                    println!("reported {thermostat:?}, version {}", accepted.version);
                    reported = Some(thermostat.clone());
                }
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }
    client.close().await;
    Ok(())
}

impl Thermostat {
    fn obey(&mut self, delta: &Delta) {
        let target = delta.state.get("target").and_then(Value::as_f64);
        if let Some(target) = target.filter(|target| (5.0..=30.0).contains(target)) {
            println!("set to {target}");
            self.target = target;
        }
    }

    fn heat(&mut self) {
        let temperature = self.temperature + (self.target - self.temperature) * 0.2;
        self.temperature = (temperature * 10.0).round() / 10.0;
    }
}
