//! The worker that keeps the shadows in PostgreSQL.
//!
//! Each batch of updates that the broker has ready is one transaction: one statement for the first reports and one for
//! the conditional updates, which are sent as arrays. So one commit, and one sync, serves as many updates as are waiting.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use anyhow::{Context, ensure};
use clap::Args;
use postgres::{Client, Config, NoTls, Statement};
use serde_json::Value;

use super::{
    EngineArgs,
    engine::{Decide, Engine, Outcome},
};
use crate::bench::frame::Message;

/// Arguments of the worker.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Address of PostgreSQL, with a user `bench` that needs no password.
    #[arg(long)]
    postgres: SocketAddr,
}

/// Answers until the broker closes the connection.
///
/// # Errors
///
/// The broker or the database cannot be reached, or a statement failed.
pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    let mut worker = Worker::connect(args.postgres)?;
    Engine::connect(args.engine.broker, args.engine.accepted_bytes, args.engine.qos)?.run(&mut worker)
}

struct Worker {
    client: Client,
    report: Statement,
    update: Statement,
}

/// Updates of a batch as columns.
#[derive(Debug, Default, PartialEq)]
struct Columns {
    devices: Vec<String>,
    versions: Vec<i64>,
    documents: Vec<String>,
}

/// The two statements' parts of a batch.
#[derive(Debug, Default, PartialEq)]
struct Batch {
    /// First reports: the whole document, without a version.
    reports: Columns,
    /// Conditional updates: the members of `reported` to merge.
    updates: Columns,
}

impl Batch {
    /// Forms a batch.
    ///
    /// # Errors
    ///
    /// An update is not one of the generator, or a device occurs twice: a statement would then change only one row.
    fn of(updates: &[Message<'_>]) -> anyhow::Result<Self> {
        let (mut batch, mut seen) = (Self::default(), HashSet::new());
        for message in updates {
            let device = device(message.topic)?;
            ensure!(seen.insert(device), "two updates of {device} in a batch");
            let update: Value = serde_json::from_slice(message.payload).context("an update that is no JSON")?;
            let state = update.get("state").context("an update without a state")?;
            let version = update.get("version").and_then(Value::as_i64);
            let (columns, document) = match version {
                None => (&mut batch.reports, state),
                Some(_) => (&mut batch.updates, state.get("reported").context("an update without reported")?),
            };
            columns.devices.push(device.to_owned());
            columns.versions.push(version.unwrap_or_default());
            columns.documents.push(document.to_string());
        }
        Ok(batch)
    }
}

impl Worker {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.host(&address.ip().to_string()).port(address.port()).user("bench").dbname("postgres");
        let mut client = config.connect(NoTls).with_context(|| format!("connecting to PostgreSQL at {address}"))?;
        client.batch_execute(TABLE)?;
        let (report, update) = (client.prepare(REPORT)?, client.prepare(UPDATE)?);
        Ok(Self { client, report, update })
    }
}

impl Decide for Worker {
    fn decide(&mut self, updates: &[Message<'_>], outcomes: &mut Vec<Outcome>) -> anyhow::Result<()> {
        if updates.is_empty() {
            return Ok(());
        }
        let Batch { reports, updates: changes } = Batch::of(updates)?;
        let mut transaction = self.client.transaction()?;
        let mut rows = Vec::new();
        if !reports.devices.is_empty() {
            rows.extend(transaction.query(&self.report, &[&reports.devices, &reports.documents])?);
        }
        if !changes.devices.is_empty() {
            let columns: [&(dyn postgres::types::ToSql + Sync); 3] =
                [&changes.devices, &changes.versions, &changes.documents];
            rows.extend(transaction.query(&self.update, &columns)?);
        }
        transaction.commit()?;
        let versions: HashMap<&str, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for message in updates {
            let version = versions.get(device(message.topic)?);
            let version = version.and_then(|version| u64::try_from(*version).ok());
            outcomes.push(version.map_or(Outcome::Rejected, Outcome::Accepted));
        }
        Ok(())
    }
}

/// Returns the device of a topic `shadow/<id>/update`.
fn device(topic: &[u8]) -> anyhow::Result<&str> {
    let id = topic.strip_prefix(b"shadow/").and_then(|rest| rest.strip_suffix(b"/update"));
    id.and_then(|id| str::from_utf8(id).ok()).context("a message that is no update")
}

/// The space in the pages keeps an updated row in its page, without a new entry in the index.
const TABLE: &str = "CREATE TABLE shadow (device text PRIMARY KEY, version bigint NOT NULL, document jsonb NOT NULL) \
                     WITH (fillfactor = 50)";

const REPORT: &str = "\
INSERT INTO shadow (device, version, document)
SELECT device, 1, document::jsonb FROM unnest($1::text[], $2::text[]) AS new(device, document)
ON CONFLICT (device) DO UPDATE SET version = shadow.version + 1, document = excluded.document
RETURNING device, version";

const UPDATE: &str = "\
UPDATE shadow SET version = shadow.version + 1,
  document = jsonb_set(shadow.document, '{reported}', shadow.document -> 'reported' || new.reported::jsonb)
FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new(device, version, reported)
WHERE shadow.device = new.device AND shadow.version = new.version
RETURNING shadow.device, shadow.version";

#[cfg(test)]
mod tests {
    use super::*;

    fn update<'a>(topic: &'a str, payload: &'a str) -> Message<'a> {
        Message { topic: topic.as_bytes(), packet_id: None, payload: payload.as_bytes() }
    }

    #[test]
    fn a_batch_has_a_row_per_update() {
        let batch = Batch::of(&[
            update("shadow/a/update", r#"{"state":{"desired":{},"reported":{"x":1}}}"#),
            update("shadow/b/update", r#"{"state":{"reported":{"x":2}},"version":   7}"#),
        ]);
        let column = |device: &str, version, document: &str| Columns {
            devices: vec![device.to_owned()],
            versions: vec![version],
            documents: vec![document.to_owned()],
        };
        let expected = Batch {
            reports: column("a", 0, r#"{"desired":{},"reported":{"x":1}}"#),
            updates: column("b", 7, r#"{"x":2}"#),
        };
        assert_eq!(batch.expect("a batch"), expected);
    }

    #[test]
    fn a_batch_that_would_lose_an_update_is_an_error() {
        let one = update("shadow/a/update", r#"{"state":{"reported":{}},"version":1}"#);
        assert!(Batch::of(&[one, update("shadow/a/update", r#"{"state":{"reported":{}},"version":2}"#)]).is_err());
        assert!(Batch::of(&[update("shadow/a/get", "{}")]).is_err());
        assert!(Batch::of(&[update("shadow/a/update", "{}")]).is_err());
    }
}
