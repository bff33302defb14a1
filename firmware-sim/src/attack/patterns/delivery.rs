//! Deliveries: one message or event that reaches many sessions of the attacker, and receivers that do not take part.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use tokio::task::JoinSet;

use super::{SHADOW_PACE, leave, open, open_lasting, pace, send_at, shadow, subscribers, topic, update};
use crate::attack::{
    client::{Client, PUBREC},
    packet::{self, Connect, Publish},
    stage::Stage,
};

pub(super) async fn fan_out(stage: Arc<Stage>) -> anyhow::Result<()> {
    let clients = subscribers(&stage, stage.parameter("sessions"), topic(&stage, "#"), 0).await;
    let _readers = discard_all(clients);
    stage.ready().await;
    let (rate, payload) = (stage.parameter("rate"), vec![b'x'; stage.parameter("bytes")]);
    let act = move |stage: Arc<Stage>, number| {
        let message = packet::publish(&Publish { topic: &topic(&stage, "t"), payload: &payload, ..Publish::default() });
        async move {
            let mut client = open(&stage, "writer", number).await?;
            send_at(&stage, &mut client, &message, rate).await
        }
    };
    stage.crowd_with_readers(stage.parameter("publishers"), act).await;
    Ok(())
}

pub(super) async fn absent_fan_out(stage: Arc<Stage>) -> anyhow::Result<()> {
    leave(&stage, stage.parameter("sessions"), vec![topic(&stage, "#")], 1).await;
    stage.ready().await;
    let messages = stage.parameter("messages");
    let act = move |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "writer", number).await?;
        let topic = topic(&stage, "t");
        let burst = vec![Publish { topic: &topic, payload: b"0123456789", ..Publish::default() }; messages];
        loop {
            client.publish_all(&burst).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    stage.crowd(1, act).await;
    Ok(())
}

pub(super) async fn event_fan_out(stage: Arc<Stage>) -> anyhow::Result<()> {
    let filter = format!("shadow/{}/#", stage.own());
    let clients = subscribers(&stage, stage.parameter("sessions"), filter, 0).await;
    let _readers = discard_all(clients);
    stage.ready().await;
    let bytes = stage.parameter("bytes");
    let act = move |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "writer", number).await?;
        let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
        for count in 0.. {
            ticks.tick().await;
            let payload = update(bytes, count);
            client.publish(&Publish { topic: &topic, payload: &payload, qos: 1, ..Publish::default() }).await?;
        }
        Ok(())
    };
    stage.crowd_with_readers(stage.parameter("names"), act).await;
    Ok(())
}

pub(super) async fn response_topics(stage: Arc<Stage>) -> anyhow::Result<()> {
    let clients = subscribers(&stage, stage.parameter("sessions"), topic(&stage, "reply"), 0).await;
    let _readers = discard_all(clients);
    let payload = Arc::new(update(stage.parameter("bytes"), 0));
    stage
        .gather(stage.parameter("names"), |stage, number| {
            let payload = payload.clone();
            async move {
                let topic = format!("{}/update", shadow(&stage, number));
                let message = Publish { topic: &topic, payload: &payload, qos: 1, ..Publish::default() };
                let reason = open(&stage, "prepare", number).await?.request(&message).await?;
                ensure!(reason < 0x80, "an update was refused: {reason:#04x}");
                Ok(())
            }
        })
        .await;
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut client = open(&stage, "asker", number).await?;
        let (get, mut ticks) = (format!("{}/get", shadow(&stage, number)), pace(SHADOW_PACE));
        let properties = packet::response_topic(&topic(&stage, "reply"));
        loop {
            ticks.tick().await;
            client.publish(&Publish { topic: &get, qos: 1, properties: &properties, ..Publish::default() }).await?;
        }
    };
    stage.crowd_with_readers(stage.parameter("names"), act).await;
    Ok(())
}

pub(super) async fn slow_readers(stage: Arc<Stage>) -> anyhow::Result<()> {
    // The smallest buffers, and no task that reads.
    let _clients = stage
        .gather(stage.parameter("connections"), |stage, number| async move {
            let id = format!("slow-{number}");
            let connect = packet::connect(&stage.orders.device, &Connect { client_id: &id, ..Connect::default() });
            let mut client = Client::open_as(&stage, &connect, Some(4096)).await?;
            client.subscribe(&[topic(&stage, "slow")], 1).await?;
            Ok(client)
        })
        .await;
    stage.ready().await;
    feed(&stage, "slow").await;
    Ok(())
}

pub(super) async fn unacknowledged(stage: Arc<Stage>) -> anyhow::Result<()> {
    let clients = stage
        .gather(stage.parameter("connections"), |stage, number| async move {
            let mut client = open_lasting(&stage, "silent", number).await?;
            client.acknowledges = false;
            client.subscribe(&[topic(&stage, "unacked")], 1).await?;
            Ok(client)
        })
        .await;
    let mut readers = JoinSet::new();
    clients.into_iter().for_each(|client| drop(readers.spawn(client.receive())));
    stage.ready().await;
    feed(&stage, "unacked").await;
    Ok(())
}

/// Publishes at QoS 1, one message after the other.
async fn feed(stage: &Arc<Stage>, to: &'static str) {
    let payload = vec![b'x'; stage.parameter("bytes")];
    let act = move |stage: Arc<Stage>, number| {
        let payload = payload.clone();
        async move {
            let mut client = open(&stage, "writer", number).await?;
            let topic = topic(&stage, to);
            loop {
                client.publish(&Publish { topic: &topic, payload: &payload, qos: 1, ..Publish::default() }).await?;
            }
        }
    };
    stage.crowd(1, act).await;
}

pub(super) async fn qos2_unreleased(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let (messages, payload) = (stage.parameter("messages"), vec![b'x'; stage.parameter("bytes")]);
    let act = move |stage: Arc<Stage>, number| {
        let payload = payload.clone();
        async move {
            let mut client = open_lasting(&stage, "unreleased", number).await?;
            let topic = topic(&stage, "q");
            for _ in 0..messages {
                let id = client.id();
                let message = Publish { topic: &topic, payload: &payload, qos: 2, id, ..Publish::default() };
                client.send(&packet::publish(&message)).await?;
            }
            for _ in 0..messages {
                let reason = client.answer(PUBREC).await?.reason();
                stage.outcome(reason < 0x80, || format!("a message was refused: {reason:#04x}"));
            }
            client.leave().await
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

/// Reads and discards all that comes to `clients`.
pub(super) fn discard_all(clients: Vec<Client>) -> JoinSet<anyhow::Result<()>> {
    let mut readers = JoinSet::new();
    clients.into_iter().for_each(|client| drop(readers.spawn(client.discard())));
    readers
}
