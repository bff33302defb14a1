//! `umbrad cluster`

mod check;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    output::{complain, print},
    serve::Source,
};
use crate::{cluster::nats::NatsLog, config::Arguments, server::store_options, store};

/// Show or check the nodes of a cluster, or restore its log.
#[derive(Debug, Args)]
pub(super) struct Cluster {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Box<Status>),
    Check(Box<check::Check>),
    RestoreLog(RestoreLog),
}

/// Print the nodes of the cluster as one of them knows them, over HTTP.
#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    server: ContextArgs,
}

/// Create the log anew after NATS has lost it, from where this node's store is. To be run on the node that has applied the most,
/// while all nodes are stopped. Nodes that have applied less need a copy of this store.
#[derive(Debug, Args)]
struct RestoreLog {
    #[command(flatten)]
    source: Source,
}

impl Cluster {
    pub(super) async fn run(self) -> Exit {
        match self.command {
            Command::Status(status) => match status.get().await {
                Ok(body) => print(&body),
                Err(failure) => complain(&failure, failure.exit),
            },
            Command::Check(check) => check.run().await.unwrap_or_else(|failure| complain(&failure, failure.exit)),
            Command::RestoreLog(restore) => restore.run().await,
        }
    }
}

impl Status {
    async fn get(&self) -> Result<serde_json::Value, CommandFailure> {
        let http = self.server.resolve()?.http_client()?;
        http.cluster().await.map_err(|error| CommandFailure::http(&error))
    }
}

impl RestoreLog {
    async fn run(self) -> Exit {
        let config = match self.source.load(&Arguments::default()) {
            Ok((config, _)) => config,
            Err(error) => return complain(&error, Exit::Usage),
        };
        let Some(settings) = &config.cluster else {
            return complain(&"the configuration has no [cluster] section with servers", Exit::Usage);
        };
        let applied = match store::applied_record(&store_options(&config.store, &config.limits)) {
            Ok(Some(applied)) => applied,
            Ok(None) => {
                return complain(&"the store belongs to no cluster: start its node, which begins a log", Exit::Store);
            }
            Err(error) => return complain(&error, Exit::Store),
        };
        match NatsLog::restore(settings, applied.number).await {
            Ok(()) => print(&json!({ "node": settings.node, "applied": applied.number })),
            Err(error) => complain(&error, Exit::Failed),
        }
    }
}
