//! What a service manager is told that started the server (systemd's `sd_notify`): when it serves, that it is alive, when
//! it ends. Without one, nothing is sent.
//!
//! Alive means that the runtime runs tasks, that its blocking threads get to the store's state, and that committed
//! changes are announced. A disk that is full or failed does not count: a restart mends neither.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::task;

use crate::{engine::Service, mqtt::broker::Broker};

/// Sends that the server accepts connections.
pub fn serving() {
    notify(&NotifyState::Ready);
}

/// Sends that the server ends.
pub fn ending() {
    notify(&NotifyState::Stopping);
}

/// Sends that the server is alive, twice as often as the service manager wants it, for as long as that is so; until the
/// broker closes.
pub async fn watch(service: Arc<Service>, broker: Arc<Broker>) {
    let Some(wanted_within) = sd_notify::watchdog_enabled() else { return broker.closed().await };
    tracing::info!(?wanted_within, "the service manager watches whether the server is alive");
    let mut announced = LastAnnounced::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(wanted_within / 2) => {}
            () = broker.closed() => return,
        }
        if is_alive(&service, &broker, &mut announced, wanted_within / 2).await {
            notify(&NotifyState::Watchdog);
        } else {
            tracing::error!("not alive: the service manager is not told otherwise");
        }
    }
}

/// The newest committed change when it was looked at last.
#[derive(Debug, Default)]
struct LastAnnounced(Option<u64>);

impl LastAnnounced {
    /// Returns whether everything was announced that was committed by the last call. `head` is the newest committed
    /// change, `finished` the newest announced one.
    fn goes_on(&mut self, head: u64, finished: u64) -> bool {
        self.0.replace(head).is_none_or(|before| finished >= before)
    }
}

async fn is_alive(service: &Arc<Service>, broker: &Broker, announced: &mut LastAnnounced, within: Duration) -> bool {
    let service = service.clone();
    let health = tokio::time::timeout(within, task::spawn_blocking(move || service.health())).await;
    let Ok(Ok(health)) = health else { return false };
    announced.goes_on(health.head.0, broker.events.fan_out_position().finished())
}

fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, %state, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcer_that_stands_still_is_seen() {
        let mut announced = LastAnnounced::default();
        // head, finished, whether it goes on
        for (row, (head, finished, expected)) in [
            (0, 0, true),
            (0, 0, true),
            (5, 3, true),
            (7, 3, false),
            (9, 3, false),
            (9, 9, true),
            (10, 9, true),
            (10, 10, true),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(announced.goes_on(head, finished), expected, "row {row}");
        }
    }
}
