//! A feed for a dashboard: one line for every shadow, and again whenever it changes.
//!
//!     cargo run --example dashboard -p umbra-client -- --broker 127.0.0.1:1883
//!
//! Documents arrive at once for the shadows that exist, then as fast as this program reads; superseded ones are skipped.
//! The watch is a stream, so the combinators of `futures` apply.

use clap::Parser;
use futures_util::StreamExt;
use serde_json::Value;
use umbra_client::{Client, Document, Event, Options, Scope, ShadowId, Topic};

#[derive(Parser)]
pub(crate) struct Args {
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) broker: String,
    /// Lines until it ends; without it, until interrupted.
    #[arg(long)]
    pub(crate) lines: Option<usize>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Args::parse()).await
}

/// Prints lines until there were enough.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let name = format!("dashboard-{}", std::process::id());
    let client = Client::connect(Options::new(&args.broker, &name)?).await?;
    let watch = client.watch(Scope::All, &[Topic::Document, Topic::Presence], 1_024).await?;
    let lines = watch.filter_map(|event| std::future::ready(line(&event)));
    let mut lines = lines.take(args.lines.unwrap_or(usize::MAX));
    while let Some(line) = lines.next().await {
        println!("{line}");
    }
    client.close().await;
    Ok(())
}

fn line(event: &Event) -> Option<String> {
    match event {
        Event::Document(shadow, Some(document)) => Some(document_line(shadow, document)),
        Event::Document(shadow, None) => Some(format!("{shadow:<20} deleted")),
        Event::Presence(device, presence) => {
            Some(format!("{device:<20} {}", if presence.connected { "connected" } else { "disconnected" }))
        }
        // After a reconnect the documents of all shadows are sent again.
        _ => None,
    }
}

fn document_line(shadow: &ShadowId, document: &Document) -> String {
    let value = |pointer| document.pointer(pointer).map_or_else(|| "-".to_owned(), Value::to_string);
    let waiting = document.delta().map_or_else(String::new, |delta| {
        format!("  waiting for {}", delta.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
    });
    let (target, temperature) = (value("/desired/target"), value("/reported/temperature"));
    format!("{shadow:<20} version {:<6} target {target:<6} temperature {temperature:<6}{waiting}", document.version)
}
