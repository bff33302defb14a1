//! Entry points for the fuzz targets: the models of a conforming client, driven by bytes.

use super::{Protocol, model_inbound, model_outbound};

/// Runs the model of messages from a client, with one step for each byte.
pub fn inbound(protocol: Protocol, steps: &[u8]) {
    model_inbound::run(protocol, steps.iter().copied().map(model_inbound::Step::of));
}

/// Runs the model of messages to a client, with one step for each byte.
pub fn outbound(steps: &[u8]) {
    model_outbound::run(steps.iter().copied().map(model_outbound::Step::of));
}
