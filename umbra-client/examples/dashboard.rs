//! A feed for a dashboard: every shadow as it is now, one line whenever it changes.
//!
//!     cargo run --example dashboard -p umbra-client -- --broker 127.0.0.1:1883
//!
//! Documents come at once for what is there, then as fast as this program reads; one that is superseded before it is
//! read is passed over.

use clap::Parser;
use serde_json::Value;
use umbra_client::{Client, Document, News, Options, Scope, ShadowId, Topic};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: String,
    /// Lines until it ends; without it, until interrupted.
    #[arg(long)]
    lines: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let name = format!("dashboard-{}", std::process::id());
    let client = Client::connect(Options::new(&args.broker, &name)?).await?;
    let mut news = client.watch(Scope::All, &[Topic::Document], 1_024).await?;
    let mut shown = 0;
    while args.lines.is_none_or(|lines| shown < lines) {
        match news.recv().await {
            Some(News::Document(shadow, document)) => {
                println!("{}", line(&shadow, document.as_deref()));
                shown += 1;
            }
            // The documents of all shadows come again by themselves.
            Some(_) => {}
            None => break,
        }
    }
    client.close().await;
    Ok(())
}

fn line(shadow: &ShadowId, document: Option<&Document>) -> String {
    let Some(document) = document else { return format!("{shadow:<20} deleted") };
    let value = |pointer| document.pointer(pointer).map_or_else(|| "-".to_owned(), Value::to_string);
    let differs = document.delta().map_or_else(String::new, |delta| {
        format!("  waiting for {}", delta.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
    });
    let (target, room, version) = (value("/desired/target"), value("/reported/temperature"), document.version);
    format!("{shadow:<20} version {version:<6} wanted {target:<6} is {room:<6}{differs}")
}
