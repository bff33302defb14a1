//! The start of a node of a cluster: it joins, reports its profile, and serves nobody before it has applied the log.
//!
//! A node that has no store, or one that is too old, receives that of another first ([`super::seeding`]).

use std::{sync::Arc, time::Duration};

use futures_util::future::join;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    cluster::membership::Membership,
    config::Written,
    server::{ServerParts, profile::ProfileReporter, seeding::StoreSource},
    store::NodeId,
};

/// The interval at which a node that starts looks how far it is in the log.
const CATCH_UP_CHECK: Duration = Duration::from_millis(20);
/// The time in which a process that has the number of this node has answered the first status of this one.
const NUMBER_TAKEN_WITHIN: Duration = Duration::from_millis(500);

impl ServerParts {
    /// Starts the tasks of the cluster, and waits until this node has applied what the log has now, so that no client reads
    /// what was before; not longer than until `shutdown` resolves. Returns the tasks, and the reporter of reloads.
    pub(super) async fn join(
        &self,
        membership: Membership,
        config: &Written,
        shutdown: impl Future<Output = ()>,
    ) -> (JoinSet<()>, ProfileReporter) {
        let applied = || self.service.health().member.unwrap_or_default().applied;
        let tail = membership.tail();
        let broker = self.broker.clone();
        let on_message = move |message| broker.receive_from_peer(message);
        let service = self.service.clone();
        let health = move || service.health().member.unwrap_or_default();
        self.service.set_log(membership.inquiry());
        let profile = ProfileReporter::new(config, self.authority.clone(), self.service.log_events());
        let source = Arc::new(StoreSource { service: self.service.clone(), node: NodeId(membership.node()) });
        let tasks = membership.start(applied(), self.service.log_events(), on_message, health, source);
        let has_caught_up = async {
            let tail = tail.await;
            while applied() < tail && !self.service.has_left() {
                sleep(CATCH_UP_CHECK).await;
            }
        };
        // As a second process with its number, it would end the connections of the first.
        let is_known = sleep(NUMBER_TAKEN_WITHIN);
        tokio::select! {
            ((), ()) = join(has_caught_up, is_known) => {}
            () = shutdown => {}
        }
        (tasks, profile)
    }
}
