//! A thermostat: obeys what is desired, reports what it is.
//!
//!     cargo run --example thermostat -p umbra-client -- --device thermostat-1 --broker 127.0.0.1:1883
//!
//! The order that loses nothing: subscribe to deltas, then read, then act on both. After a lost connection the same.

use std::time::Duration;

use clap::Parser;
use serde_json::{Map, Value, json};
use umbra_client::{Client, DeviceId, Document, Error, News, Options, Shadow, Topic, WriteOptions};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: String,
    #[arg(long, default_value = "thermostat-1")]
    device: String,
}

struct Thermostat {
    target: f64,
    room: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let client = Client::connect(Options::new(&args.broker, &args.device)?).await?;
    let shadow = client.shadow(DeviceId::new(&args.device)?);
    let mut news = shadow.watch(&[Topic::Delta], 16).await?;
    let mut thermostat = Thermostat { target: 20.0, room: 17.0 };

    let mut known = shadow.get().await?;
    thermostat.obey(known.desired());
    let mut readings = tokio::time::interval(Duration::from_secs(2));
    println!("{} is on; end it with Ctrl-C", args.device);
    loop {
        tokio::select! {
            heard = news.recv() => match heard {
                Some(News::Delta(_, delta)) => thermostat.obey(Some(&delta.state)),
                Some(News::Resumed) => {
                    known = shadow.get().await?;
                    thermostat.obey(known.desired());
                }
                Some(_) => {}
                None => return Ok(()),
            },
            _ = readings.tick() => thermostat.room += (thermostat.target - thermostat.room) * 0.2,
            _ = tokio::signal::ctrl_c() => break,
        }
        known = report(&shadow, known, &thermostat).await?;
    }
    client.close().await;
    Ok(())
}

impl Thermostat {
    fn obey(&mut self, wanted: Option<&Map<String, Value>>) {
        let target = wanted.and_then(|wanted| wanted.get("target")).and_then(Value::as_f64);
        if let Some(target) = target.filter(|target| (5.0..=30.0).contains(target) && *target != self.target) {
            println!("set to {target}");
            self.target = target;
        }
    }
}

/// Sends what changed since `known`; what is known then.
///
/// `reported` is this device's alone, so after a conflict the same goes out again under the version that was told.
async fn report(shadow: &Shadow, known: Document, thermostat: &Thermostat) -> Result<Document, Error> {
    let now = json!({"target": thermostat.target, "temperature": (thermostat.room * 10.0).round() / 10.0});
    let options = WriteOptions::default().from(known.clone()).without_precondition();
    let outcome = shadow
        .update_with(&options, |known| {
            let last = known.reported().cloned().map_or(json!({}), Value::Object);
            umbra_client::patch::between(&last, &now).map(|patch| json!({"reported": patch}))
        })
        .await;
    match outcome {
        Ok(None) => Ok(known),
        Ok(Some(accepted)) => {
            println!("reported {now}, version {}", accepted.version);
            let mut known = Document { version: accepted.version, ..known };
            known.state.insert("reported".into(), now);
            Ok(known)
        }
        // The next reading tries again; what was reported by then, only the shadow knows.
        Err(Error::GaveUp { .. }) => shadow.get().await,
        Err(error) => Err(error),
    }
}
