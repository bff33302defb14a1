//! Requests to the attacker's own shadows that are dear to decide or to store.

use std::sync::Arc;

use anyhow::ensure;

use super::{SHADOW_PACE, open, pace, shadow, update};
use crate::attack::{
    client::Client,
    packet::{self, Connect, Publish},
    stage::Stage,
};

pub(super) async fn conflicts(stage: Arc<Stage>) -> anyhow::Result<()> {
    let versions = stage.parameter("versions");
    write_versions(&stage, versions).await;
    stage.ready().await;
    // Every path changed since version 1, and its value at that version is looked up.
    let fields: Vec<_> = (0..FIELDS).map(|field| format!(r#""f{field}":-1"#)).collect();
    let payload = format!(r#"{{"version":1,"state":{{"reported":{{{}}}}}}}"#, fields.join(",")).into_bytes();
    let act = move |stage: Arc<Stage>, number| {
        let payload = payload.clone();
        async move {
            let mut client = open(&stage, "stale", number).await?;
            let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
            loop {
                ticks.tick().await;
                let message = Publish { topic: &topic, payload: &payload, qos: 1, ..Publish::default() };
                let reason = client.request(&message).await?;
                // 0x83 is a conflict; 0x97 is a quota.
                stage.outcome(reason == 0x83, || format!("PUBACK {reason:#04x} in the place of a conflict"));
            }
        }
    };
    stage.crowd(stage.parameter("names"), act).await;
    Ok(())
}

pub(super) async fn removals(stage: Arc<Stage>) -> anyhow::Result<()> {
    // What was removed has the same long path, so each removal is compared with that.
    let below = |members: &[String]| {
        let path: String = (0..8).map(|level| format!(r#""{level}{}":{{"#, "k".repeat(480))).collect();
        format!("{path}{}{}", members.join(","), "}".repeat(8))
    };
    let members = |count, value: &str| (0..count).map(|number| format!(r#""{number:05}":{value}"#)).collect::<Vec<_>>();
    let writes = ["1", "null"].map(|value| below(&members(REMOVED, value)));
    let writes = Arc::new(writes.map(|members| format!(r#"{{"state":{{"reported":{{{members}}}}}}}"#)));
    stage
        .gather(stage.parameter("names"), move |stage, number| {
            let writes = writes.clone();
            async move {
                let mut client = open(&stage, "prepare", number).await?;
                let topic = format!("{}/update", shadow(&stage, number));
                for write in writes.iter() {
                    write_once(&mut client, &topic, write.as_bytes()).await?;
                }
                Ok(())
            }
        })
        .await;
    stage.ready().await;
    let removals = below(&members(stage.parameter("bytes") / 13, "null"));
    let payload = format!(r#"{{"version":1,"onConflict":"rebase","state":{{"reported":{{{removals}}}}}}}"#);
    let payload = Arc::new(payload.into_bytes());
    let act = move |stage: Arc<Stage>, number| {
        let payload = payload.clone();
        async move {
            let mut client = open(&stage, "removals", number).await?;
            let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
            loop {
                ticks.tick().await;
                let message = Publish { topic: &topic, payload: &payload, qos: 1, ..Publish::default() };
                let reason = client.request(&message).await?;
                stage.outcome(reason >= 0x80, || "an update that must be refused was accepted".to_owned());
            }
        }
    };
    stage.crowd(stage.parameter("names"), act).await;
    Ok(())
}

/// The values that are removed first: as many as one update may, with their paths.
const REMOVED: usize = 60;

/// Writes `versions` versions of each named shadow. The admins help, as each has a rate of its own at a shadow.
pub(super) async fn write_versions(stage: &Arc<Stage>, versions: usize) {
    let names = stage.parameter("names");
    stage
        .gather(names, |stage, number| async move {
            let mut client = open(&stage, "prepare", number).await?;
            let fields: Vec<_> = (0..FIELDS).map(|field| format!(r#""f{field}":0"#)).collect();
            let first = format!(r#"{{"state":{{"reported":{{{}}}}}}}"#, fields.join(","));
            write_once(&mut client, &format!("{}/update", shadow(&stage, number)), first.as_bytes()).await
        })
        .await;
    let writers = 1 + stage.orders.admins.len();
    let each = versions.saturating_sub(1).div_ceil(writers);
    if each > 0 {
        stage.gather(names * writers, |stage, task| write_share(stage, task % names, task / names, each)).await;
    }
}

/// Writes the share of one writer in the versions of a shadow, as fast as the rate of a shadow allows.
async fn write_share(stage: Arc<Stage>, number: usize, writer: usize, versions: usize) -> anyhow::Result<()> {
    let admin = writer.checked_sub(1).and_then(|admin| stage.orders.admins.get(admin));
    let id = format!("prepare-{number}-{writer}");
    let connect =
        packet::connect(admin.unwrap_or(&stage.orders.device), &Connect { client_id: &id, ..Connect::default() });
    let mut client = Client::open_as(&stage, &connect, None).await?;
    let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
    for version in 1..=versions {
        // A burst is free, then comes the rate.
        if version > BURST {
            ticks.tick().await;
        }
        let field = (version + writer * 7) % FIELDS;
        let next = format!(r#"{{"state":{{"reported":{{"f{field}":{version}{writer}}}}}}}"#);
        write_once(&mut client, &topic, next.as_bytes()).await?;
    }
    Ok(())
}

async fn write_once(client: &mut Client, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
    let reason = client.request(&Publish { topic, payload, qos: 1, ..Publish::default() }).await?;
    ensure!(reason < 0x80, "an update was refused: {reason:#04x}");
    Ok(())
}

pub(super) async fn idempotency(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "keys", number).await?;
        let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
        for count in 0_u64.. {
            ticks.tick().await;
            let key = format!("{count:016}-{}", "k".repeat(47));
            let payload = format!(r#"{{"state":{{"reported":{{"count":{count}}}}},"idempotencyKey":"{key}"}}"#);
            let message = Publish { topic: &topic, payload: payload.as_bytes(), qos: 1, ..Publish::default() };
            client.publish(&message).await?;
        }
        Ok(())
    };
    stage.crowd(stage.parameter("names"), act).await;
    Ok(())
}

pub(super) async fn create_delete(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let bytes = stage.parameter("bytes");
    let act = move |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "creator", number).await?;
        let (shadow, mut ticks) = (shadow(&stage, number), pace(SHADOW_PACE));
        let (create, delete) = (format!("{shadow}/update"), format!("{shadow}/delete"));
        for count in 0.. {
            ticks.tick().await;
            let payload = update(bytes, count);
            client.publish(&Publish { topic: &create, payload: &payload, qos: 1, ..Publish::default() }).await?;
            ticks.tick().await;
            client.publish(&Publish { topic: &delete, qos: 1, ..Publish::default() }).await?;
        }
        Ok(())
    };
    stage.crowd(stage.parameter("names"), act).await;
    Ok(())
}

/// Fields of a shadow: as many as a rejection lists.
const FIELDS: usize = 60;
/// The burst of requests to one shadow, with some room.
const BURST: usize = 35;
