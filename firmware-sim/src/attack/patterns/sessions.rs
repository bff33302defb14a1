//! Connections and sessions: many of them, and many that come and go.

use std::{sync::Arc, time::Duration};

use super::{DAY, SHADOW_PACE, delivery::discard_all, open, open_lasting, pace, shadow, subscribers, topic, update};
use crate::attack::{
    client::Client,
    packet::{self, Connect, Credentials, Publish, Will},
    stage::Stage,
};

pub(super) async fn wills(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let payload = Arc::new(vec![b'x'; stage.parameter("bytes")]);
    stage
        .gather(stage.parameter("sessions"), |stage, number| {
            let payload = payload.clone();
            async move {
                let (client_id, topic) = (format!("will-{number}"), topic(&stage, "w"));
                let will = Some(Will { topic: &topic, payload: &payload, delay: DAY });
                // Dropped without a DISCONNECT: the will waits.
                Client::open(&stage, &Connect { client_id: &client_id, expiry: DAY, will, ..Connect::default() })
                    .await
                    .map(drop)
            }
        })
        .await;
    stage.attacking().await;
    Ok(())
}

pub(super) async fn will_churn(stage: Arc<Stage>) -> anyhow::Result<()> {
    let clients = subscribers(&stage, stage.parameter("sessions"), topic(&stage, "w"), 0).await;
    let _readers = discard_all(clients);
    stage.ready().await;
    let payload = vec![b'x'; stage.parameter("bytes")];
    let act = move |stage: Arc<Stage>, number| {
        let payload = payload.clone();
        async move {
            let (client_id, topic) = (format!("will-{number}"), topic(&stage, "w"));
            let will = Some(Will { topic: &topic, payload: &payload, delay: 0 });
            Client::open(&stage, &Connect { client_id: &client_id, will, ..Connect::default() }).await?;
            stage.outcome(true, String::new);
            Ok(())
        }
    };
    stage.crowd_with_readers(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn take_over(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, _| async move {
        let connect = Connect { client_id: "same", resume: true, expiry: DAY, ..Connect::default() };
        let mut client = Client::open(&stage, &connect).await?;
        let filters: Vec<_> = (0..20).map(|number| topic(&stage, &format!("t/{number}"))).collect();
        // Either may end with the take-over by the next connection.
        let subscribed = client.subscribe(&filters, 1).await;
        stage.outcome(true, String::new);
        if subscribed.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(1), client.receive()).await;
        }
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn expiry_churn(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        for round in 0_u64.. {
            let client_id = format!("expires-{number}-{round}");
            let mut client =
                Client::open(&stage, &Connect { client_id: &client_id, expiry: 1, ..Connect::default() }).await?;
            let filters: Vec<_> = (0..10).map(|place| topic(&stage, &format!("e/{number}/{round}/{place}"))).collect();
            client.subscribe(&filters, 1).await?;
            client.leave().await?;
        }
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn resync_churn(stage: Arc<Stage>) -> anyhow::Result<()> {
    let names = stage.parameter("names");
    // The filters alone are a load: they match everybody's events.
    stage.ready().await;
    stage
        .gather(stage.parameter("sessions"), |stage, number| async move {
            let mut client = open_lasting(&stage, "returning", number).await?;
            client.subscribe(&["shadow/#"], 1).await?;
            client.leave().await
        })
        .await;
    // The shadows change, so that each return finds something to send.
    let _writers = stage.spawn_crowd(names, |stage, number| async move {
        let mut client = open(&stage, "writer", number).await?;
        let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
        for count in 0.. {
            ticks.tick().await;
            client
                .request(&Publish { topic: &topic, payload: &update(50, count), qos: 1, ..Publish::default() })
                .await?;
        }
        Ok(())
    });
    let act = |stage: Arc<Stage>, number| async move {
        let client_id = format!("returning-{number}");
        let connect = Connect { client_id: &client_id, resume: true, expiry: DAY, ..Connect::default() };
        let client = Client::open(&stage, &connect).await?;
        stage.outcome(true, String::new);
        let _ = tokio::time::timeout(Duration::from_millis(200), client.receive()).await;
        Ok(())
    };
    stage.crowd(stage.parameter("sessions"), act).await;
    Ok(())
}

pub(super) async fn connect_storm(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        open(&stage, "storm", number).await?;
        stage.outcome(true, String::new);
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn wrong_password(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let login = Credentials { name: stage.own().to_owned(), password: "a wrong password".to_owned() };
        let client_id = format!("wrong-{number}");
        let connect = packet::connect(&login, &Connect { client_id: &client_id, ..Connect::default() });
        let answer = Client::open_as(&stage, &connect, None).await;
        stage.outcome(answer.is_err(), || "a wrong password was accepted".to_owned());
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn idle_connections(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage.ready().await;
    let _clients = stage
        .gather(stage.parameter("connections"), |stage, number| async move { open(&stage, "idle", number).await })
        .await;
    stage.attacking().await;
    Ok(())
}
