//! Packets: unfinished, empty, large, or made to be refused.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{open, pace, shadow, topic};
use crate::{
    attack::{
        client::PINGRESP,
        packet::{self, Connect, PINGREQ, Publish},
        stage::Stage,
        web::{self, Web},
    },
    bench::frame,
};

pub(super) async fn unfinished(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let bytes = stage.parameter("bytes");
    let act = move |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "unfinished", number).await?;
        let payload = vec![b'x'; bytes];
        let mut message =
            packet::publish(&Publish { topic: &topic(&stage, "u"), payload: &payload, ..Publish::default() });
        message.pop();
        client.send(&message).await?;
        stage.outcome(true, String::new);
        client.receive().await
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn pings(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "ping", number).await?;
        let batch = PINGREQ.repeat(500);
        loop {
            client.send(&batch).await?;
            for _ in 0..500 {
                client.answer(PINGRESP).await?;
                stage.outcome(true, String::new);
            }
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn websocket_frames(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut web = Web::upgrade(&stage).await?;
        let client_id = format!("frames-{number}");
        let connect = packet::connect(&stage.orders.device, &Connect { client_id: &client_id, ..Connect::default() });
        web.stream.write_all(&web::frame(2, &connect)).await?;
        // A frame of the server, with two bytes before it, has its CONNACK.
        let mut connack = [0; 6];
        web.stream.read_exact(&mut connack).await?;
        anyhow::ensure!(connack.get(2) == Some(&0x20) && connack.get(5) == Some(&0), "the CONNECT was refused");
        // A ping and an empty message, alternating.
        let batch = [web::frame(9, b"x"), web::frame(2, b"")].concat().repeat(250);
        let (mut read, mut write) = web.stream.split();
        let sending = async {
            loop {
                write.write_all(&batch).await?;
                stage.count(|counts| {
                    counts.requests += 500;
                    counts.accepted += 500;
                });
            }
        };
        let reading = async {
            let mut buffer = vec![0; 16 * 1024];
            while read.read(&mut buffer).await? > 0 {}
            anyhow::bail!("the server closed the connection")
        };
        tokio::select! {
            outcome = sending => outcome,
            outcome = reading => outcome,
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn user_properties(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let properties = packet::user_property("", "").repeat(stage.parameter("properties"));
    let act = move |stage: Arc<Stage>, number| {
        let properties = properties.clone();
        async move {
            let mut client = open(&stage, "properties", number).await?;
            let topic = topic(&stage, "p");
            loop {
                client
                    .publish(&Publish { topic: &topic, qos: 1, properties: &properties, ..Publish::default() })
                    .await?;
            }
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn aliases(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "alias", number).await?;
        for round in 0_u64.. {
            let padding = "a".repeat(400);
            let topics: Vec<_> = (0..64).map(|place| topic(&stage, &format!("{round}-{place}-{padding}"))).collect();
            let aliases: Vec<_> = (0..64).map(|place| packet::topic_alias(place % 16 + 1)).collect();
            let messages = topics.iter().zip(&aliases).map(|(topic, alias)| Publish {
                topic,
                properties: alias,
                ..Publish::default()
            });
            client.publish_all(&messages.collect::<Vec<_>>()).await?;
        }
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn rejected(stage: Arc<Stage>) -> anyhow::Result<()> {
    let topic = format!("shadow/{}/update", stage.orders.victim);
    refused(stage, move |_, _| topic.clone(), br#"{"state":{"reported":{"a":1}}}"#.to_vec()).await
}

pub(super) async fn json_bombs(stage: Arc<Stage>) -> anyhow::Result<()> {
    let bomb = format!(r#"{{"state":{{"reported":{{"a":{}"#, "[".repeat(stage.parameter("bytes")));
    refused(stage, |stage, number| format!("{}/update", shadow(stage, number)), bomb.into_bytes()).await
}

pub(super) async fn large_requests(stage: Arc<Stage>) -> anyhow::Result<()> {
    // Many small values are the largest once they are read.
    let values: Vec<_> = (0..stage.parameter("bytes") / 12).map(|number| format!(r#""{number:07}":1"#)).collect();
    let request = format!(r#"{{"state":{{"reported":{{{}}}}}}}"#, values.join(","));
    refused(stage, |stage, number| format!("{}/update", shadow(stage, number)), request.into_bytes()).await
}

/// Sends requests that the server must refuse, one after the other.
async fn refused(
    stage: Arc<Stage>,
    to: impl Fn(&Stage, usize) -> String + Clone + Send + Sync + 'static,
    payload: Vec<u8>,
) -> anyhow::Result<()> {
    stage.ready().await;
    let payload = Arc::new(payload);
    let act = move |stage: Arc<Stage>, number| {
        let (payload, topic) = (payload.clone(), to(&stage, number % 90));
        async move {
            let mut client = open(&stage, "refused", number).await?;
            let mut ticks = pace(Duration::from_millis(1));
            loop {
                ticks.tick().await;
                let id = client.id();
                let message = Publish { topic: &topic, payload: &payload, qos: 1, id, ..Publish::default() };
                client.send(&packet::publish(&message)).await?;
                let reason = client.answer(frame::PUBACK).await?.reason();
                stage.outcome(reason >= 0x80, || "a request that must be refused was accepted".to_owned());
            }
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}
