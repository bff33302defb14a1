//! The devices that have not reached their desired state, and the last changes of each, over HTTP.
//!
//!     cargo run --example fleet -p umbra-client -- --url http://127.0.0.1:8080
//!
//! Lists and histories need no MQTT connection. The pages are read as the entries are needed.

use clap::Parser;
use futures_util::{StreamExt, TryStreamExt};
use umbra_client::{DeviceId, DeviceQuery, HistoryQuery, HttpClient};

#[derive(Parser)]
pub(crate) struct Args {
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// Changes of each device.
    #[arg(long, default_value_t = 3)]
    pub(crate) changes: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for line in run(Args::parse()).await? {
        println!("{line}");
    }
    Ok(())
}

/// Returns the lines to print.
pub(crate) async fn run(args: Args) -> anyhow::Result<Vec<String>> {
    let http = HttpClient::new(&args.url)?;
    let mut lines = Vec::new();
    let mut devices = http.devices(&DeviceQuery::new().drift(true));
    while let Some(device) = devices.try_next().await? {
        lines.push(format!("{} {}", device.id, if device.connected == Some(true) { "connected" } else { "away" }));
        let history = http.history(&DeviceId::new(&device.id)?.into(), &HistoryQuery::new());
        let changes: Vec<_> = history.take(args.changes).try_collect().await?;
        for change in changes {
            let paths: Vec<_> = change.changes.iter().map(|change| change.path.as_str()).collect();
            lines.push(format!("  version {} by {}: {}", change.version, change.by, paths.join(", ")));
        }
    }
    Ok(lines)
}
