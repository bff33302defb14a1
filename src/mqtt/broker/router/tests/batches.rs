//! Publications to very many sessions.

use std::{cell::Cell, thread};

use super::*;
use crate::mqtt::broker::router::batches::BATCH;

/// A subscription waited until a message was queued for all sessions, and all other publishers waited behind it.
#[test]
fn a_change_of_subscriptions_waits_for_one_batch_only() {
    struct Slow<'a> {
        message: Arc<Message>,
        visited: Cell<usize>,
        meanwhile: &'a dyn Fn(),
    }
    impl Publication for Slow<'_> {
        fn topic(&self) -> &str {
            self.message.topic.as_str()
        }
        fn message_for(&self, _: SessionId, _: &Access) -> Option<Arc<Message>> {
            if self.visited.replace(self.visited.get() + 1) == 0 {
                (self.meanwhile)();
            }
            Some(self.message.clone())
        }
        fn is_individual(&self, _: SessionId) -> bool {
            true
        }
    }
    let router = router();
    let outboxes: Vec<_> = (0..4 * BATCH as u64).map(session).collect();
    outboxes.iter().for_each(|outbox| subscribe(&router, outbox, "t"));
    let last = &outboxes[4 * BATCH - 1];
    thread::scope(|scope| {
        let meanwhile = || {
            scope.spawn(|| assert!(router.unsubscribe(last.id(), &filter("t"))));
            // While a writer waits, no other reader is let in.
            while router.filters.try_read().is_some() {
                thread::yield_now();
            }
        };
        let publication = Slow { message: Arc::new(message("t", "x")), visited: Cell::new(0), meanwhile: &meanwhile };
        let receivers = router.publish(&publication, DeliveryKind::Ordinary { from: None });
        assert_eq!(receivers, 4 * BATCH - 1, "without the session that unsubscribed meanwhile");
    });
    let counts: Vec<_> = outboxes.iter().map(|outbox| received(outbox).len()).collect();
    assert!(counts[..4 * BATCH - 1].iter().all(|count| *count == 1) && counts[4 * BATCH - 1] == 0, "{counts:?}");
}

/// A session gets a message once, by all of its subscriptions, wherever a batch ends.
#[test]
fn each_session_gets_a_message_once() {
    let (router, mut rng) = (router(), Random(7));
    let texts = ["a/b", "a/+", "+/b", "a/#", "#"];
    let outboxes: Vec<_> = (0..3 * BATCH as u64 + 5).map(session).collect();
    let mut expected = Vec::new();
    for outbox in &outboxes {
        let own: Vec<_> = (1..=5).filter(|_| rng.below(2) == 0).collect();
        for id in &own {
            let subscription = subscription(texts[*id as usize - 1], 1);
            router.subscribe(outbox, &subscription, Some(*id)).unwrap();
        }
        if rng.below(3) == 0 {
            let filters: Vec<_> = own.iter().map(|id| filter(texts[*id as usize - 1])).collect();
            router.set_connected(outbox.id(), &filters, false);
        }
        expected.push(Vec::from_iter((!own.is_empty()).then_some(own)));
    }
    let members = [10_000, 10_001].map(session);
    members.iter().for_each(|member| subscribe(&router, member, "$share/g/a/#"));
    let count = expected.iter().flatten().count();
    assert_eq!(publish(&router, "a/b"), count + 1);
    let ids = |outbox: &Arc<Outbox>| {
        let ids = |delivery: Delivery| {
            let mut ids = delivery.subscription_ids.to_vec();
            ids.sort_unstable();
            ids
        };
        received(outbox).into_iter().map(ids).collect::<Vec<_>>()
    };
    assert_eq!(outboxes.iter().map(ids).collect::<Vec<_>>(), expected);
    assert_eq!(members.iter().map(|member| received(member).len()).sum::<usize>(), 1);
}
