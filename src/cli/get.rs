//! `umbrad get`

use clap::Args;

use super::{Exit, connect_args::BrokerArgs, request, shadow_args::ShadowArgs};

/// Print the shadow of a device: its state, metadata, version and etag.
#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    shadow: ShadowArgs,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl Get {
    pub(super) async fn run(self) -> Exit {
        request::run(&self.broker, &self.shadow.topic("get"), String::new()).await
    }
}
