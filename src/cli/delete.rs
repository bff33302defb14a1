//! `umbrad delete`

use clap::Args;
use serde_json::json;

use super::{Exit, connect_args::BrokerArgs, request, shadow_args::ShadowArgs};

/// Delete the shadow of a device. If it is written again, its versions continue from the deleted one.
#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    shadow: ShadowArgs,
    /// Delete only if this is the current version.
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl Delete {
    pub(super) async fn run(self) -> Exit {
        request::run(&self.broker, &self.shadow.topic("delete"), self.payload()).await
    }

    fn payload(&self) -> String {
        self.version.map(|version| json!({ "version": version }).to_string()).unwrap_or_default()
    }
}
