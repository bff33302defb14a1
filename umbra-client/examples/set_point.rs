//! A back end that turns a thermostat up or down, whoever else does at the same time.
//!
//!     cargo run --example set_point -p umbra-client -- --device thermostat-1 --by 0.5
//!
//! The change is relative, so it must be decided on what is there now: that is what the closure is for. It waits until
//! the device has done it, or for ten seconds.

use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::time::timeout;
use umbra_client::{Client, DeviceId, Document, News, Options, Topic, Version, Watch};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: String,
    #[arg(long, default_value = "thermostat-1")]
    device: String,
    /// Degrees.
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true)]
    by: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let name = format!("set-point-{}", std::process::id());
    let client = Client::connect(Options::new(&args.broker, &name)?).await?;
    let shadow = client.shadow(DeviceId::new(&args.device)?);
    let mut news = shadow.watch(&[Topic::Document], 4).await?;

    let accepted = shadow
        .update(|document| {
            let target = document.pointer("/desired/target").and_then(Value::as_f64).unwrap_or(20.0);
            let wanted = (target + args.by).clamp(5.0, 30.0);
            println!("version {}: from {target} to {wanted}", document.version);
            (wanted != target).then(|| json!({"desired": {"target": wanted}}))
        })
        .await?;
    match accepted {
        None => println!("it is as far as it goes"),
        Some(accepted) => match timeout(Duration::from_secs(10), done(&mut news, accepted.version)).await {
            Ok(Some(document)) => println!("done at version {}: {}", document.version, json!(document.reported())),
            Ok(None) | Err(_) => println!("accepted as version {}; the device has not done it yet", accepted.version),
        },
    }
    client.close().await;
    Ok(())
}

/// The document in which the device has what is desired since `version`.
async fn done(news: &mut Watch, version: Version) -> Option<Box<Document>> {
    loop {
        if let News::Document(_, Some(document)) = news.recv().await?
            && document.version >= version
            && document.delta().is_none_or(|delta| !delta.contains_key("target"))
        {
            return Some(document);
        }
    }
}
