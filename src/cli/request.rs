//! A shadow request and its reply.

use serde_json::Value;
use umbra_client::Rejection;

use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::BrokerArgs,
    output::{complain, print},
};

/// Sends `payload` to `topic`, prints the reply, and returns the exit code.
pub(super) async fn run(broker: &BrokerArgs, topic: &str, payload: String) -> Exit {
    match exchange(broker, topic, payload).await {
        Ok(reply) => match Rejection::from_reply(&reply) {
            None => print(&reply),
            Some(rejection) => complain(&format!("rejected: {rejection}"), Exit::Rejected),
        },
        Err(failure) => complain(&failure, failure.exit),
    }
}

async fn exchange(broker: &BrokerArgs, topic: &str, payload: String) -> Result<Value, CommandFailure> {
    let connection = broker.connect().await?;
    let reply = connection.client.exchange(topic, payload.into()).await;
    let reply = reply.map_err(|error| connection.failure(error))?;
    connection.client.close().await;
    serde_json::from_slice(&reply).map_err(|error| CommandFailure::failed(format!("the reply is not JSON: {error}")))
}
