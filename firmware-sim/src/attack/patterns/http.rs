//! HTTP: lists and histories, streams of events, waits, and patches.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use super::{SHADOW_PACE, create_shadows, open, pace, shadow, shadows::write_versions, update};
use crate::attack::{packet::Publish, stage::Stage, web::Web};

pub(super) async fn json_patch(stage: Arc<Stage>) -> anyhow::Result<()> {
    write_versions(&stage, 1).await;
    stage.ready().await;
    // The last operation fails, so that nothing is stored and every request costs the same.
    let deep = format!(r#"{{"op":"add","path":"/reported/d","value":{}1{}}}"#, r#"{"a":"#.repeat(6), "}".repeat(6));
    let test = r#"{"op":"copy","from":"/reported/d","path":"/reported/e"}"#;
    let fail = r#"{"op":"test","path":"/reported/d","value":0}"#;
    let operations = vec![test; stage.parameter("operations")].join(",");
    let body = format!("[{deep},{operations},{fail}]").into_bytes();
    let act = move |stage: Arc<Stage>, number| {
        let body = body.clone();
        async move {
            let mut web = Web::open(&stage).await?;
            let (path, mut ticks) = (shadow_path(&stage, number), pace(SHADOW_PACE));
            let headers = [("Content-Type", "application/json-patch+json"), ("If-Match", "*")];
            loop {
                ticks.tick().await;
                web.attempt(&[400, 409, 412, 413, 422], "PATCH", &path, &headers, &body).await?;
            }
        }
    };
    stage.crowd(stage.parameter("names"), act).await;
    Ok(())
}

pub(super) async fn history(stage: Arc<Stage>) -> anyhow::Result<()> {
    write_versions(&stage, stage.parameter("versions")).await;
    stage.ready().await;
    let act = |stage: Arc<Stage>, number| async move {
        let mut web = Web::open(&stage).await?;
        let path = format!("{}/history?limit=100", shadow_path(&stage, number));
        let mut ticks = pace(SHADOW_PACE);
        loop {
            ticks.tick().await;
            web.attempt(&[200], "GET", &path, &[], b"").await?;
        }
    };
    stage.crowd(stage.parameter("names"), act).await;
    Ok(())
}

pub(super) async fn lists(stage: Arc<Stage>) -> anyhow::Result<()> {
    create_shadows(&stage, stage.parameter("shadows")).await?;
    stage.ready().await;
    let act = |stage: Arc<Stage>, _| async move {
        let mut web = Web::open(&stage).await?;
        if stage.parameter("hang-up") == 0 {
            loop {
                web.attempt(&[200], "GET", LIST, &[], b"").await?;
            }
        }
        web.send("GET", LIST, &[], b"").await?;
        stage.outcome(true, String::new);
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn event_streams(stage: Arc<Stage>) -> anyhow::Result<()> {
    // The streams alone are a load: all of them wake for each event.
    stage.ready().await;
    let streams = stage
        .gather(stage.parameter("streams"), |stage, _| async move {
            let mut web = Web::open(&stage).await?;
            let response = web.ask("GET", "/v1/events", &[], b"").await?;
            ensure!(response.status == 200 && response.endless, "a stream was refused: {}", response.status);
            Ok(web)
        })
        .await;
    let mut readers = JoinSet::new();
    streams.into_iter().for_each(|stream| drop(readers.spawn(stream.receive())));
    stage.crowd_with_readers(stage.parameter("names"), write_own).await;
    Ok(())
}

pub(super) async fn stream_resume(stage: Arc<Stage>) -> anyhow::Result<()> {
    let mut web = Web::open(&stage).await?;
    let response = web.ask("GET", "/v1/events", &[], b"").await?;
    ensure!(response.status == 200, "a stream was refused: {}", response.status);
    let mut client = open(&stage, "writer", 0).await?;
    let topic = format!("{}/update", shadow(&stage, 0));
    client.request(&Publish { topic: &topic, payload: &update(10, 1), qos: 1, ..Publish::default() }).await?;
    let line = tokio::time::timeout(Duration::from_secs(10), web.until(b"id:")).await.context("no event came")??;
    let id = line.trim_start_matches("id:").trim().to_owned();
    drop(web);
    create_shadows(&stage, stage.parameter("shadows")).await?;
    stage.ready().await;
    let act = move |stage: Arc<Stage>, _| {
        let id = id.clone();
        async move {
            let mut web = Web::open(&stage).await?;
            let response = web.ask("GET", "/v1/events", &[("Last-Event-ID", &id)], b"").await?;
            let status = response.status;
            stage.outcome(status == 200, || format!("a stream was refused: {status}"));
            let _ = tokio::time::timeout(Duration::from_millis(50), web.receive()).await;
            Ok(())
        }
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

pub(super) async fn waits(stage: Arc<Stage>) -> anyhow::Result<()> {
    stage
        .gather(stage.parameter("names"), |stage, number| async move {
            let mut client = open(&stage, "prepare", number).await?;
            let payload = br#"{"state":{"desired":{"a":1},"reported":{"a":2}}}"#;
            let topic = format!("{}/update", shadow(&stage, number));
            let reason = client.request(&Publish { topic: &topic, payload, qos: 1, ..Publish::default() }).await?;
            ensure!(reason < 0x80, "an update was refused: {reason:#04x}");
            Ok(())
        })
        .await;
    stage.ready().await;
    let names = stage.parameter("names");
    let act = move |stage: Arc<Stage>, number: usize| async move {
        let mut web = Web::open(&stage).await?;
        let path = format!("{}?wait=converged&timeout=30", shadow_path(&stage, number % names.max(1)));
        web.send("GET", &path, &[], b"").await?;
        // Given up after a moment; a response before that is a refusal.
        let early = tokio::time::timeout(Duration::from_millis(500), web.response()).await;
        let status = early.ok().and_then(Result::ok).map(|response| response.status);
        stage.outcome(status.is_none(), || format!("a wait was refused: {status:?}"));
        Ok(())
    };
    stage.crowd(stage.parameter("connections"), act).await;
    Ok(())
}

/// Updates one of the attacker's shadows as often as its rate allows.
async fn write_own(stage: Arc<Stage>, number: usize) -> anyhow::Result<()> {
    let mut client = open(&stage, "writer", number).await?;
    let (topic, mut ticks) = (format!("{}/update", shadow(&stage, number)), pace(SHADOW_PACE));
    for count in 0.. {
        ticks.tick().await;
        client.publish(&Publish { topic: &topic, payload: &update(200, count), qos: 1, ..Publish::default() }).await?;
    }
    Ok(())
}

fn shadow_path(stage: &Stage, number: usize) -> String {
    format!("/v1/devices/{}/shadows/n{number}", stage.own())
}

const LIST: &str = "/v1/devices?limit=100";
