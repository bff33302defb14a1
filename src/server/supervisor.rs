//! Notifications to the service manager that started the server (systemd's `sd_notify`): ready, alive, stopping.
//! Without a service manager, nothing is sent.
//!
//! Alive means that the runtime runs tasks, that its blocking threads can read the store's state, and that committed
//! changes are published. A full or failed disk does not count: a restart would not mend it.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::task;

use crate::{engine::Service, mqtt::broker::Broker};

/// Reports that the server accepts connections.
pub fn ready() {
    notify(&NotifyState::Ready);
}

/// Reports that the server shuts down.
pub fn stopping() {
    notify(&NotifyState::Stopping);
}

/// Reports that the server is alive, twice as often as the service manager demands, while that is true. Returns when
/// the broker closes.
pub async fn watch(service: Arc<Service>, broker: Arc<Broker>) {
    let Some(watchdog_interval) = sd_notify::watchdog_enabled() else { return broker.closed().await };
    tracing::info!(?watchdog_interval, "watchdog of the service manager enabled");
    let mut last_head = LastHead::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(watchdog_interval / 2) => {}
            () = broker.closed() => return,
        }
        if is_alive(&service, &broker, &mut last_head, watchdog_interval / 2).await {
            notify(&NotifyState::Watchdog);
        } else {
            tracing::error!("not alive: no watchdog notification is sent");
        }
    }
}

/// The newest committed change at the last check.
#[derive(Debug, Default)]
struct LastHead(Option<u64>);

impl LastHead {
    /// Returns true if every change that was committed at the last call has been published. `head` is the newest
    /// committed change, `finished` the newest published one.
    fn makes_progress(&mut self, head: u64, finished: u64) -> bool {
        self.0.replace(head).is_none_or(|before| finished >= before)
    }
}

async fn is_alive(service: &Arc<Service>, broker: &Broker, last_head: &mut LastHead, within: Duration) -> bool {
    let service = service.clone();
    let health = tokio::time::timeout(within, task::spawn_blocking(move || service.health())).await;
    let Ok(Ok(health)) = health else { return false };
    last_head.makes_progress(health.head.0, broker.events.fan_out_position().finished())
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
    fn detects_a_notifier_that_makes_no_progress() {
        let mut last_head = LastHead::default();
        // head, finished, expected result
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
            assert_eq!(last_head.makes_progress(head, finished), expected, "row {row}");
        }
    }
}
