//! Signals that end the event streams and waits of a principal when an operator ends its connections.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The signals of the principals that have streams, by the names of the principals.
#[derive(Default)]
pub(in crate::http) struct Kicks(Mutex<Signals>);

#[derive(Default)]
struct Signals {
    by_name: HashMap<Arc<str>, Signal>,
    /// The number of entries at which those without streams are removed.
    sweep_at: usize,
}

/// The signal of one principal.
#[derive(Default)]
struct Signal {
    /// Never sends. Dropping it ends the streams of its receivers.
    sender: watch::Sender<()>,
    /// Held by each stream.
    streams: Arc<()>,
}

/// The signal of one stream.
#[derive(Clone, Debug)]
pub(in crate::http) struct Kick {
    receiver: watch::Receiver<()>,
    _counted: Arc<()>,
}

/// Fewest entries of a sweep.
const SWEEP_MIN: usize = 64;

impl Kicks {
    /// Returns the signal for a stream of `principal`.
    pub(in crate::http) fn of(&self, principal: &Arc<str>) -> Kick {
        let Signals { by_name, sweep_at } = &mut *self.0.lock();
        if by_name.len() >= *sweep_at {
            by_name.retain(|_, signal| signal.streams() > 0);
            *sweep_at = (2 * by_name.len()).max(SWEEP_MIN);
        }
        let signal = by_name.entry(principal.clone()).or_default();
        Kick { receiver: signal.sender.subscribe(), _counted: signal.streams.clone() }
    }

    /// Ends the streams of `principal`. Returns their number.
    pub(in crate::http) fn kick(&self, principal: &str) -> usize {
        self.0.lock().by_name.remove(principal).map_or(0, |signal| signal.streams())
    }
}

impl Signal {
    fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }
}

impl Kick {
    /// Returns true if the stream must end.
    pub(in crate::http) fn is_over(&self) -> bool {
        self.receiver.has_changed().is_err()
    }

    /// Waits until the stream must end.
    pub(in crate::http) async fn ended(&self) {
        let _ = self.receiver.clone().changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_the_streams_of_one_principal() {
        let kicks = Kicks::default();
        let [one, same, other] = ["a", "a", "b"].map(|name| kicks.of(&name.into()));
        assert_eq!((kicks.kick("a"), kicks.kick("a"), kicks.kick("c")), (2, 0, 0));
        assert_eq!([&one, &same, &other].map(Kick::is_over), [true, true, false]);
        one.ended().await;
        assert!(!kicks.of(&"a".into()).is_over(), "a later stream");
    }

    #[test]
    fn forgets_principals_without_streams() {
        let kicks = Kicks::default();
        let kept = kicks.of(&"kept".into());
        for n in 0..10 * SWEEP_MIN {
            let _ended_at_once = kicks.of(&n.to_string().into());
        }
        assert!(kicks.0.lock().by_name.len() <= SWEEP_MIN);
        assert_eq!(kicks.kick("kept"), 1);
        assert!(kept.is_over());
    }
}
