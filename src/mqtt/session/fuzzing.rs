//! For the fuzz targets: the models of a client that keeps to the protocol, moved by bytes instead of dice.

use super::{Protocol, model_inbound, model_outbound};

/// What a client publishes, a step for each byte.
pub fn inbound(protocol: Protocol, steps: &[u8]) {
    model_inbound::run(protocol, steps.iter().copied().map(model_inbound::Step::of));
}

/// What is published to a client, a step for each byte.
pub fn outbound(steps: &[u8]) {
    model_outbound::run(steps.iter().copied().map(model_outbound::Step::of));
}
