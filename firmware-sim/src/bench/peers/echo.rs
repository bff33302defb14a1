//! The echo engine: it accepts every update, without shadows and storage.

use super::{
    EngineArgs,
    engine::{Decide, Engine, Outcome},
};
use crate::bench::{frame::Message, load::message::quick_version};

/// Answers until the broker closes the connection.
///
/// # Errors
///
/// The broker cannot be reached, or sent something else than an update.
pub(crate) fn run(args: &EngineArgs) -> anyhow::Result<()> {
    Engine::connect(args.broker, args.accepted_bytes, args.qos)?.run(&mut Echo)
}

struct Echo;

impl Decide for Echo {
    fn decide(&mut self, updates: &[Message<'_>], outcomes: &mut Vec<Outcome>) -> anyhow::Result<()> {
        // The first update of a device has no version: any version will do.
        outcomes.extend(updates.iter().map(|update| Outcome::Accepted(quick_version(update.payload).unwrap_or(0) + 1)));
        Ok(())
    }
}
