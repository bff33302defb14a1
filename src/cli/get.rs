//! `umbrad get`

use clap::Args;
use serde_json::Value;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::BrokerArgs,
    output::{complain, print},
    request,
    shadow_args::ShadowArgs,
};

/// Print the shadow of a device: its state, metadata, version and etag.
#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    shadow: ShadowArgs,
    /// In a cluster: wait until the server has applied every update that any node has accepted. Asks over HTTP.
    #[arg(long)]
    consistent: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl Get {
    pub(super) async fn run(self) -> Exit {
        if !self.consistent {
            return request::run(&self.broker, &self.shadow.topic("get"), String::new()).await;
        }
        match self.read().await {
            Ok(shadow) => print(&shadow),
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    async fn read(&self) -> Result<Value, CommandFailure> {
        let shadow = self.shadow.id().map_err(|error| CommandFailure::usage(error.to_string()))?;
        let read = self.broker.http_client()?.consistent_shadow(&shadow).await;
        read.map_err(|error| CommandFailure::http(&error))
    }
}
