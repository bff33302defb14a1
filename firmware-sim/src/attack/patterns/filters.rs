//! Filters and retained messages: SUBSCRIBE packets that cost more than they select, and sessions left behind with them.

use std::sync::Arc;

use anyhow::ensure;

use super::{CHUNK, create_shadows, leave, open, send_at, topic};
use crate::{
    attack::{
        client::UNSUBACK,
        packet::{self, Publish},
        stage::Stage,
    },
    bench::frame,
};

pub(super) async fn retained_scan(stage: Arc<Stage>) -> anyhow::Result<()> {
    let topics: Vec<_> = (0..stage.parameter("retained"))
        .map(|number| topic(&stage, &format!("r/{}/{}", number / 100, number % 100)))
        .collect();
    retain(&stage, &topics).await?;
    stage.ready().await;
    let filters: Vec<_> =
        (0..stage.parameter("filters")).map(|number| topic(&stage, &format!("r/+/+/none-{number}"))).collect();
    repeat_subscribe(&stage, filters).await
}

pub(super) async fn store_walk(stage: Arc<Stage>) -> anyhow::Result<()> {
    create_shadows(&stage, stage.parameter("shadows")).await?;
    stage.ready().await;
    repeat_subscribe(&stage, vec!["shadow/+/document".to_owned()]).await
}

pub(super) async fn subscribe_repeat(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let filters = (0..stage.parameter("filters")).map(|number| topic(&stage, &format!("s/{number}/+/#"))).collect();
    repeat_subscribe(&stage, filters).await
}

/// Repeats one SUBSCRIBE on many connections.
async fn repeat_subscribe(stage: &Arc<Stage>, filters: Vec<String>) -> anyhow::Result<()> {
    let filters = Arc::new(filters);
    let act = move |stage, number| {
        let filters = filters.clone();
        async move {
            let mut client = open(&stage, "scan", number).await?;
            loop {
                client.subscribe(&filters, 0).await?;
            }
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

/// Retains one byte on each topic, and checks that the last one is there.
async fn retain(stage: &Arc<Stage>, topics: &[String]) -> anyhow::Result<()> {
    stage.count(|counts| counts.wanted += topics.len() as u64);
    for (number, chunk) in topics.chunks(CHUNK).enumerate() {
        let mut client = open(stage, "retain", number).await?;
        let messages = chunk.iter().map(|topic| Publish { topic, payload: b"x", retain: true, ..Publish::default() });
        let refused = client.publish_all(&messages.collect::<Vec<_>>()).await?;
        stage.count(|counts| counts.prepared += (chunk.len() - refused.len()) as u64);
        // A principal whose messages were refused may have no memory for a filter either.
        if let Some(last) = chunk.last().filter(|_| refused.is_empty()) {
            client.subscribe(&[last], 0).await?;
            let message = client.answer(frame::PUBLISH).await?;
            ensure!(message.flags & 1 == 1, "a message that is not retained");
        }
    }
    Ok(())
}

pub(super) async fn absent_filters(stage: Arc<Stage>) -> anyhow::Result<()> {
    let filters = [
        "shadow/+/update/accepted",
        "shadow/+/update/documents",
        "shadow/+/update/delta",
        "shadow/+/document",
        "shadow/+/delta",
        "shadow/+/presence",
        "shadow/+/name/+/update/accepted",
        "shadow/+/name/+/update/documents",
        "shadow/+/name/+/update/delta",
        "shadow/#",
    ];
    let filters = filters.iter().take(stage.parameter("filters")).map(|filter| (*filter).to_owned()).collect();
    stage.ready().await;
    leave(&stage, stage.parameter("sessions"), filters, 1).await;
    stage.attacking().await;
    Ok(())
}

pub(super) async fn subscribe_churn(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let (levels, filters) = ("a/".repeat(stage.parameter("depth")), stage.parameter("filters"));
    let act = move |stage: Arc<Stage>, number| {
        let levels = levels.clone();
        async move {
            let mut client = open(&stage, "churn", number).await?;
            for round in 0_u64.. {
                let filters: Vec<_> =
                    (0..filters).map(|place| topic(&stage, &format!("{number}-{round}-{place}/{levels}+"))).collect();
                client.subscribe(&filters, 0).await?;
                let id = client.id();
                client.send(&packet::unsubscribe(id, &filters)).await?;
                client.answer(UNSUBACK).await?;
            }
            Ok(())
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn shared_groups(stage: Arc<Stage>) -> anyhow::Result<()> {
    let groups = stage.parameter("groups");
    let members = stage
        .gather(stage.parameter("sessions"), |stage, number| async move {
            let mut client = open(&stage, "member", number).await?;
            let filters: Vec<_> = (0..groups).map(|group| format!("$share/g{group}/{}", topic(&stage, "s"))).collect();
            for chunk in filters.chunks(500) {
                client.subscribe(chunk, 0).await?;
            }
            Ok(client)
        })
        .await;
    let mut readers = tokio::task::JoinSet::new();
    members.into_iter().for_each(|member| drop(readers.spawn(member.discard())));
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "writer", number).await?;
        let message = packet::publish(&Publish { topic: &topic(&stage, "s"), payload: b"x", ..Publish::default() });
        send_at(&stage, &mut client, &message, 100).await
    };
    stage.crowd_with_readers(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn retained_churn(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "churn", number).await?;
        let topics: Vec<_> = (0..64).map(|place| topic(&stage, &format!("c/{number}/{place}"))).collect();
        for payload in [&b"x"[..], b""].iter().cycle() {
            let messages = topics.iter().map(|topic| Publish { topic, payload, retain: true, ..Publish::default() });
            client.publish_all(&messages.collect::<Vec<_>>()).await?;
        }
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn retained_fill(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let payload = vec![b'x'; stage.parameter("bytes")];
    let act = move |stage: Arc<Stage>, number| {
        let payload = payload.clone();
        async move {
            let mut client = open(&stage, "fill", number).await?;
            for count in 0_u64.. {
                let topic = topic(&stage, &format!("f/{number}/{count}"));
                let message = Publish { topic: &topic, payload: &payload, qos: 1, retain: true, ..Publish::default() };
                client.publish(&message).await?;
            }
            Ok(())
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}
