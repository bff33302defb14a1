//! A back end that changes the set point of a thermostat by some degrees, whatever other clients do at the same time.
//!
//!     cargo run --example set_point -p umbra-client -- --device thermostat-1 --by 0.5
//!
//! The change is relative, so it must be decided on the current document: that is what the closure is for. It then waits
//! until the device has the new set point, or for ten seconds.

use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::time::timeout;
use umbra_client::{Client, DeviceId, Document, Event, Options, Topic, Version, Watch};

#[derive(Parser)]
pub(crate) struct Args {
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) broker: String,
    #[arg(long, default_value = "thermostat-1")]
    pub(crate) device: String,
    /// Degrees.
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true)]
    pub(crate) by: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}

/// Changes the set point and waits for the device.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let name = format!("set-point-{}", std::process::id());
    let client = Client::connect(Options::new(&args.broker, &name)?).await?;
    let shadow = client.shadow(DeviceId::new(&args.device)?);
    let mut watch = shadow.watch(&[Topic::Document], 4).await?;

    let accepted = shadow
        .update(|document| {
            let target = document.pointer("/desired/target").and_then(Value::as_f64).unwrap_or(20.0);
            let changed = (target + args.by).clamp(5.0, 30.0);
            println!("version {}: from {target} to {changed}", document.version);
            (changed != target).then(|| json!({"desired": {"target": changed}}))
        })
        .await?;
    match accepted {
        None => println!("the set point is at its limit"),
        Some(accepted) => match timeout(Duration::from_secs(10), converged(&mut watch, accepted.version)).await {
            Ok(Some(document)) => println!("done at version {}: {}", document.version, json!(document.reported())),
            Ok(None) | Err(_) => println!("accepted at version {}; the device has not followed yet", accepted.version),
        },
    }
    client.close().await;
    Ok(())
}

/// Waits for the document, at `version` or later, in which the device has the set point.
async fn converged(watch: &mut Watch, version: Version) -> Option<Box<Document>> {
    loop {
        if let Event::Document(_, Some(document)) = watch.recv().await?
            && document.version >= version
            && document.delta().is_none_or(|delta| !delta.contains_key("target"))
        {
            return Some(document);
        }
    }
}
