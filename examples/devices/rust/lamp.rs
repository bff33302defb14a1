//! A lamp that obeys its shadow, with `umbra-client`: `cargo run --example lamp -- [DEVICE] [URL]`

use serde_json::{Value, json};
use umbra_client::{Client, DeviceId, Error, Event, Options, Shadow, Topic, Update, Version};

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
    let mut events = shadow.watch(&[Topic::LeanDelta], 16).await?;
    let mut power = "off".to_owned();
    // The newest version that was obeyed over this connection.
    let mut seen = Version::default();
    report(&shadow, &power).await?; // the first report makes the shadow
    while let Some(event) = events.recv().await {
        match event {
            Event::LeanDelta(_, Some(delta)) if delta.version >= seen => {
                seen = delta.version;
                let wanted = delta.state.get("power").and_then(Value::as_str);
                if let Some(wanted @ ("on" | "off")) = wanted {
                    wanted.clone_into(&mut power);
                    println!("power {power}");
                }
                report(&shadow, &power).await?;
            }
            Event::Resumed => {
                seen = Version::default();
                report(&shadow, &power).await?;
            }
            // Older than what was obeyed already, or nothing is left to do.
            _ => {}
        }
    }
    Ok(())
}

/// Reports the lamp's state. `reported` is this device's alone, so no version is required.
async fn report(shadow: &Shadow, power: &str) -> Result<(), Error> {
    let update = Update::new(json!({"reported": {"power": power}})).without_metadata();
    match shadow.send(&update).await {
        // The next connection reports again.
        Err(Error::Unanswered | Error::Disconnected(_) | Error::Offline(_)) => Ok(()),
        outcome => outcome.map(drop),
    }
}
