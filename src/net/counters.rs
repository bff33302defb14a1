//! Counters of the listeners.

use crate::{
    net::HandshakeFailure,
    observability::{logging::LineLimit, metrics::Counter},
};

/// The counters of all listeners together.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Failed accepts, mostly for lack of file descriptors.
    pub accepts_failed: Counter,
    /// Connections below the maximum.
    pub connections_accepted: Counter,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Failed TLS handshakes by cause.
    pub tls_handshakes_failed: HandshakeCounters,
    /// The limit of lines about connections without a PROXY header.
    pub proxy_lines: LineLimit,
}

/// One counter per cause of a failed TLS handshake.
#[derive(Debug, Default)]
pub struct HandshakeCounters([Counter; HandshakeFailure::NAMED.len()]);

impl HandshakeCounters {
    /// Counts one more.
    pub fn add(&self, failure: HandshakeFailure) {
        if let Some(counter) = self.0.get(failure as usize) {
            counter.add(1);
        }
    }

    /// Returns the counts by the name of the cause.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HandshakeFailure::NAMED.iter().zip(&self.0).map(|((name, _), counter)| (*name, counter.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handshake_failure_has_a_counter_of_its_own() {
        let counters = HandshakeCounters::default();
        for (number, (_, failure)) in (1..).zip(HandshakeFailure::NAMED) {
            (0..number).for_each(|_| counters.add(failure));
        }
        let names = HandshakeFailure::NAMED.map(|(name, _)| name);
        assert_eq!(counters.counts().collect::<Vec<_>>(), names.into_iter().zip(1..).collect::<Vec<_>>());
    }
}
