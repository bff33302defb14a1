//! A lamp that obeys its shadow, with `umbra-client`: `cargo run --example lamp -- [DEVICE] [URL]`

use serde_json::{Map, Value, json};
use umbra_client::{Client, DeviceId, Error, News, Options, Shadow, Topic, Update};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let device = arguments.next().unwrap_or_else(|| "lamp-1".to_owned());
    let url = arguments.next().unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    run(&device, &url).await
}

/// Runs the lamp until its connection is closed.
pub(crate) async fn run(device: &str, url: &str) -> Result<(), Error> {
    let client = Client::connect(Options::new(url, device)?).await?;
    let shadow = client.shadow(DeviceId::new(device)?);
    // First the subscription, then the read: what changes in between is heard as a delta.
    let mut events = shadow.watch(&[Topic::Delta], 16).await?;
    let mut power = "off".to_owned();
    let document = shadow.get().await?;
    obey(&shadow, &mut power, document.delta()).await?;
    while let Some(event) = events.recv().await {
        match event {
            News::Delta(_, delta) => obey(&shadow, &mut power, Some(&delta.state)).await?,
            News::Resumed => obey(&shadow, &mut power, shadow.get().await?.delta()).await?,
            _ => {}
        }
    }
    Ok(())
}

/// Does what the delta asks for, and reports what the lamp is then.
async fn obey(shadow: &Shadow, power: &mut String, delta: Option<&Map<String, Value>>) -> Result<(), Error> {
    let wanted = delta.and_then(|delta| delta.get("power")).and_then(Value::as_str);
    if let Some(wanted @ ("on" | "off")) = wanted {
        wanted.clone_into(power);
        println!("power {power}");
    }
    // `reported` is this device's alone, so no version is required.
    let report = Update { state: json!({"reported": {"power": power}}), ..Update::default() };
    match shadow.send(&report).await {
        // The next connection reads the shadow and reports again.
        Err(Error::Unanswered | Error::Offline(_)) => Ok(()),
        outcome => outcome.map(drop),
    }
}
