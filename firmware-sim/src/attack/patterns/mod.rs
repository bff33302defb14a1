//! The hostile patterns, each with the attacker's one credential.
//!
//! Each function prepares, calls [`Stage::ready`], and then makes its load until it is stopped. Where the preparation
//! itself is the attack, such as sessions that are left behind, it comes after `ready`.

mod delivery;
mod filters;
mod http;
mod packets;
mod sessions;
mod shadows;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    client::Client,
    packet::{self, Connect, Publish},
    stage::{PREPARATION, Stage},
};

/// Runs the attack that the orders name.
///
/// # Errors
///
/// There is no such attack, or it could not begin.
pub(super) async fn run(stage: Arc<Stage>) -> anyhow::Result<()> {
    let name = stage.orders.attack.clone();
    match name.as_str() {
        "retained-scan" => filters::retained_scan(stage).await,
        "store-walk" => filters::store_walk(stage).await,
        "absent-filters" => filters::absent_filters(stage).await,
        "subscribe-churn" => filters::subscribe_churn(stage).await,
        "subscribe-repeat" => filters::subscribe_repeat(stage).await,
        "shared-groups" => filters::shared_groups(stage).await,
        "retained-churn" => filters::retained_churn(stage).await,
        "retained-fill" => filters::retained_fill(stage).await,
        "fan-out" => delivery::fan_out(stage).await,
        "absent-fan-out" => delivery::absent_fan_out(stage).await,
        "event-fan-out" => delivery::event_fan_out(stage).await,
        "response-topics" => delivery::response_topics(stage).await,
        "slow-readers" => delivery::slow_readers(stage).await,
        "unacknowledged" => delivery::unacknowledged(stage).await,
        "qos2-unreleased" => delivery::qos2_unreleased(stage).await,
        "wills" => sessions::wills(stage).await,
        "will-churn" => sessions::will_churn(stage).await,
        "take-over" => sessions::take_over(stage).await,
        "expiry-churn" => sessions::expiry_churn(stage).await,
        "resync-churn" => sessions::resync_churn(stage).await,
        "connect-storm" => sessions::connect_storm(stage).await,
        "wrong-password" => sessions::wrong_password(stage).await,
        "idle-connections" => sessions::idle_connections(stage).await,
        "unfinished-packets" => packets::unfinished(stage).await,
        "ping-flood" => packets::pings(stage).await,
        "websocket-frames" => packets::websocket_frames(stage).await,
        "user-properties" => packets::user_properties(stage).await,
        "alias-churn" => packets::aliases(stage).await,
        "rejected-flood" => packets::rejected(stage).await,
        "json-bombs" => packets::json_bombs(stage).await,
        "large-requests" => packets::large_requests(stage).await,
        "removals" => shadows::removals(stage).await,
        "conflict-lookups" => shadows::conflicts(stage).await,
        "idempotency-churn" => shadows::idempotency(stage).await,
        "create-delete" => shadows::create_delete(stage).await,
        "json-patch" => http::json_patch(stage).await,
        "history-pages" => http::history(stage).await,
        "lists" => http::lists(stage).await,
        "event-streams" => http::event_streams(stage).await,
        "stream-resume" => http::stream_resume(stage).await,
        "waits" => http::waits(stage).await,
        _ => bail!("no attack is named {name}"),
    }
}

/// Connects with a new session that ends with its connection.
async fn open(stage: &Arc<Stage>, label: &str, number: usize) -> anyhow::Result<Client> {
    Client::open(stage, &Connect { client_id: &format!("{label}-{number}"), ..Connect::default() }).await
}

/// Connects with a session that stays for a day.
async fn open_lasting(stage: &Arc<Stage>, label: &str, number: usize) -> anyhow::Result<Client> {
    let client_id = format!("{label}-{number}");
    Client::open(stage, &Connect { client_id: &client_id, expiry: DAY, ..Connect::default() }).await
}

/// Returns an ordinary topic of the attacker.
fn topic(stage: &Stage, rest: &str) -> String {
    format!("devices/{}/{rest}", stage.own())
}

/// Returns the topic prefix of a named shadow of the attacker.
fn shadow(stage: &Stage, number: usize) -> String {
    format!("shadow/{}/name/n{number}", stage.own())
}

/// Returns an update with about `bytes` bytes of text; another `count` is another value.
fn update(bytes: usize, count: usize) -> Vec<u8> {
    let text = "x".repeat(bytes);
    format!(r#"{{"state":{{"reported":{{"count":{count},"text":"{text}"}}}}}}"#).into_bytes()
}

/// Connects `count` sessions and subscribes each to one filter.
async fn subscribers(stage: &Arc<Stage>, count: usize, filter: String, qos: u8) -> Vec<Client> {
    stage
        .gather(count, |stage, number| {
            let filter = filter.clone();
            async move {
                let mut client = open(&stage, "reader", number).await?;
                client.subscribe(&[filter], qos).await?;
                Ok(client)
            }
        })
        .await
}

/// Leaves `count` sessions behind, each with the same filters.
async fn leave(stage: &Arc<Stage>, count: usize, filters: Vec<String>, qos: u8) {
    let filters = Arc::new(filters);
    stage
        .gather(count, |stage, number| {
            let filters = filters.clone();
            async move {
                let mut client = open_lasting(&stage, "absent", number).await?;
                client.subscribe(&filters, qos).await?;
                client.leave().await
            }
        })
        .await;
}

/// Creates `count` shadows of other devices with the admins' credentials.
async fn create_shadows(stage: &Arc<Stage>, count: usize) -> anyhow::Result<()> {
    if count > 0 && stage.orders.admins.is_empty() {
        bail!("this attack needs --admin-credentials");
    }
    stage.count(|counts| counts.wanted += count as u64);
    let chunks = stage.each(count.div_ceil(CHUNK), |stage, chunk| create_chunk(stage, chunk, count)).await;
    stage.count(|counts| counts.prepared += chunks.into_iter().sum::<u64>());
    Ok(())
}

async fn create_chunk(stage: Arc<Stage>, chunk: usize, count: usize) -> anyhow::Result<u64> {
    let admin = stage.orders.admins.get(chunk % stage.orders.admins.len()).context("an admin")?;
    let connect = packet::connect(admin, &Connect { client_id: &format!("prepare-{chunk}"), ..Connect::default() });
    let mut client = Client::open_as(&stage, &connect, None).await?;
    let mut left: Vec<_> =
        (chunk * CHUNK..count.min((chunk + 1) * CHUNK)).map(|id| format!("shadow/other-{id:06}/update")).collect();
    let (payload, all, deadline) = (update(50, 0), left.len(), Instant::now() + PREPARATION * 3 / 4);
    while !left.is_empty() && Instant::now() < deadline {
        // A few at a time, so that few are refused when the rate of the admin is used up.
        let batch = left.split_off(left.len().saturating_sub(256));
        let messages = batch.iter().map(|topic| Publish { topic, payload: &payload, ..Publish::default() });
        let refused = client.publish_all(&messages.collect::<Vec<_>>()).await?;
        if !refused.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        left.extend(refused.iter().filter_map(|place| batch.get(*place).cloned()));
    }
    client.leave().await?;
    Ok((all - left.len()) as u64)
}

/// Sends one packet `rate` times a second, in bursts of 10 ms.
async fn send_at(stage: &Stage, client: &mut Client, packet: &[u8], rate: usize) -> anyhow::Result<()> {
    let (mut ticks, mut owed) = (pace(Duration::from_millis(10)), 0);
    loop {
        ticks.tick().await;
        owed += rate;
        let now = owed / 100;
        owed %= 100;
        client.send(&packet.repeat(now)).await?;
        stage.count(|counts| {
            counts.requests += now as u64;
            counts.accepted += now as u64;
        });
    }
}

/// Returns an interval that makes up for no missed tick.
fn pace(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

const DAY: u32 = 24 * 60 * 60;
/// Shadows that one connection creates: its burst of messages is 5,000.
const CHUNK: usize = 4_000;
/// The interval of requests to one shadow, just within its rate.
const SHADOW_PACE: Duration = Duration::from_millis(51);
