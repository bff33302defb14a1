//! `umbrad purge`

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::json;
use umbra_client::{HttpClient, PurgeQuery};

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    output::{complain, print},
};
use crate::config;

/// Delete the shadows of junk devices, or drop the tombstones of deleted shadows, over HTTP. Counts them first, and asks
/// before it purges.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// Drop tombstones instead: what is kept of deleted shadows so that their versions go on. Those whose changes are still in
    /// the journal are kept. With --pattern, only those of devices that match.
    #[arg(long, required_unless_present = "pattern", conflicts_with = "not_updated_for")]
    deleted: bool,
    /// Pattern of device ids, such as "junk-*"; * is any run of characters. Without --deleted, all shadows of these devices
    /// are deleted.
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Only shadows without a change for this time, such as 30d, by the dates of this machine and of the server.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    not_updated_for: Option<Duration>,
    /// Count only.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Purge without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    server: ContextArgs,
}

/// The numbers of a purge.
#[derive(Default)]
struct Numbers {
    purged: u64,
    kept: u64,
}

impl Purge {
    pub(super) async fn run(self) -> Exit {
        match self.purge().await {
            Ok(exit) => exit,
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn purge(&self) -> Result<Exit, CommandFailure> {
        let http = self.server.resolve()?.http_client()?;
        if !self.yes {
            let Numbers { purged, kept } = self.all(&http, true).await?;
            if self.dry_run {
                return Ok(print(&json!({ "purged": 0, "matching": purged, "kept": kept })));
            }
            if !io::stdin().is_terminal() {
                return Ok(complain(&format!("{}; nothing was purged: give --yes", self.about(purged)), Exit::Usage));
            }
            if !is_confirmed(&self.about(purged)) {
                return Ok(complain(&"nothing was purged", Exit::Failed));
            }
        }
        let Numbers { purged, kept } = self.all(&http, false).await?;
        Ok(print(&json!({ "purged": purged, "kept": kept })))
    }

    /// Returns a sentence about the `count` of what would be purged.
    fn about(&self, count: u64) -> String {
        let devices = self.pattern.as_deref().unwrap_or("*");
        match self.deleted {
            true => format!("{count} tombstones of devices '{devices}' can be dropped"),
            false => format!("{count} shadows of devices '{devices}' would be deleted"),
        }
    }

    /// Sends requests until there is no further part.
    async fn all(&self, http: &HttpClient, dry_run: bool) -> Result<Numbers, CommandFailure> {
        let mut query = if self.deleted { PurgeQuery::tombstones() } else { PurgeQuery::default() }.dry_run(dry_run);
        query.pattern.clone_from(&self.pattern);
        query.not_updated_since = self.not_updated_for.map(since);
        let mut numbers = Numbers::default();
        loop {
            let step = match http.purge(&query).await {
                Ok(step) => step,
                Err(error) => {
                    // The principal has caused as much work as it may for now.
                    if let Some(wait) = error.rejection().and_then(|rejection| rejection.retry_after()) {
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    let done = &numbers.purged;
                    eprintln!("umbrad: stopped after {done}; repeat the command to go on");
                    return Err(CommandFailure::http(&error));
                }
            };
            numbers.purged += step.purged;
            numbers.kept += step.kept;
            query.cursor = step.next;
            if query.cursor.is_none() {
                return Ok(numbers);
            }
        }
    }
}

fn is_confirmed(about: &str) -> bool {
    eprint!("{about}. Type yes to go on: ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).is_ok() && line.trim() == "yes"
}

/// Returns the time `ago`, in seconds since 1970.
fn since(ago: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(ago).as_secs().max(1)
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| "must be a time such as 30d or 12h".to_owned())
}
