//! The decision of a node without a store: which offer it takes, if it waits, or if it begins with an empty store.

use tokio::time::Instant;

use crate::{
    cluster::seeding::{LogExtent, failures::Failures},
    store::SeedOffer,
};

/// A node that has no store, or one that is too old, and its log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// True if there is a store, which is too old.
    pub(super) has_store: bool,
    pub(super) extent: LogExtent,
    /// True if the first record of the log is there, and began with an empty store.
    pub(super) begins_empty: bool,
    /// True if the node has asked for some time.
    pub(super) has_waited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Make the store of this one.
    Take(SeedOffer),
    /// Begin with an empty store: there is nothing before, or the log has all of it.
    Empty,
    /// Ask again, for this reason.
    Wait(String),
}

/// Chooses among `offers` at `now`. Sources with `failures` come last, and one that decides before these.
pub(super) fn choose(situation: &Situation, offers: &[SeedOffer], failures: &Failures, now: Instant) -> Choice {
    let Situation { has_store, extent, begins_empty, has_waited } = *situation;
    let fits = |offer: &&SeedOffer| offer.applied > 0 && extent.fits(offer.applied).is_ok();
    let is_ready =
        |offer: &&SeedOffer| offer.can_stream && !offer.is_busy && failures.rest(offer.source, now).is_none();
    let rank = |offer: &&SeedOffer| (!failures.has(offer.source), !offer.is_deciding, offer.applied);
    if let Some(offer) = offers.iter().filter(fits).filter(is_ready).max_by_key(rank) {
        return Choice::Take(*offer);
    }
    let next = offers.iter().filter(fits).max_by_key(|offer| offer.can_stream).or(offers.first());
    if let Some(offer) = next {
        return Choice::Wait(obstacle(offer, extent, failures, now));
    }
    let has_everything = extent.last == 0 || begins_empty;
    match has_everything && !has_store {
        true if has_waited => Choice::Empty,
        true => Choice::Wait("it has no store, and gives other nodes time to offer theirs".to_owned()),
        false => Choice::Wait(format!(
            "no other node offers its store, and the log has only the records from {} to {}",
            extent.first, extent.last
        )),
    }
}

/// Returns the reason for which `offer` is not taken.
fn obstacle(offer: &SeedOffer, extent: LogExtent, failures: &Failures, now: Instant) -> String {
    let SeedOffer { source, applied, is_busy, can_stream, .. } = *offer;
    let node = source.0;
    match (extent.fits(applied), failures.rest(source, now)) {
        (Err(misfit), _) => format!("the store of node {node} cannot be taken: {misfit}"),
        _ if !can_stream => {
            format!("node {node} has a store, and cannot stream it now: it has left the cluster, or verifies its pages")
        }
        _ if applied == 0 => format!("node {node} has a store, and has applied no record of the log yet"),
        _ if is_busy => format!("node {node} seeds another node"),
        (Ok(()), reason) => {
            format!("the store of node {node} was not received, and is asked for again: {}", reason.unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::NodeId;

    fn offer(source: u64, applied: u64) -> SeedOffer {
        let source = NodeId(source);
        SeedOffer { source, applied, file_bytes: 0, is_deciding: false, is_busy: false, can_stream: true }
    }

    /// A node that has left its cluster, or verifies its pages.
    fn unsound(offer: SeedOffer) -> SeedOffer {
        SeedOffer { can_stream: false, ..offer }
    }

    fn choice(log: (u64, u64), offers: &[SeedOffer]) -> Choice {
        let extent = LogExtent { first: log.0, last: log.1 };
        let situation = Situation { has_store: false, extent, begins_empty: false, has_waited: true };
        choose(&situation, offers, &Failures::default(), Instant::now())
    }

    #[test]
    fn an_offer_is_taken_that_the_log_continues() {
        let deciding = |offer| SeedOffer { is_deciding: true, ..offer };
        let busy = |offer| SeedOffer { is_busy: true, ..offer };
        // the log, the offers, and the number of the one that is taken
        type Row<'a> = ((u64, u64), &'a [SeedOffer], Option<u64>);
        let table: [Row<'_>; 10] = [
            ((5, 9), &[offer(1, 8), offer(2, 9)], Some(2)),
            ((5, 9), &[offer(1, 8), deciding(offer(2, 9))], Some(1)),
            ((5, 9), &[deciding(offer(2, 9))], Some(2)),
            ((5, 9), &[offer(1, 4)], Some(1)),
            ((5, 9), &[offer(1, 3)], None),
            ((5, 9), &[offer(1, 10)], None),
            ((5, 9), &[busy(offer(1, 9)), deciding(offer(2, 9))], Some(2)),
            ((5, 9), &[unsound(offer(1, 9)), deciding(offer(2, 8))], Some(2)),
            ((5, 9), &[unsound(offer(1, 9))], None),
            // A log that was restored from a store has no record yet.
            ((9, 8), &[offer(1, 8)], Some(1)),
        ];
        for (log, offers, expected) in table {
            let taken = match choice(log, offers) {
                Choice::Take(offer) => Some(offer.source.0),
                Choice::Wait(_) => None,
                Choice::Empty => unreachable!("{log:?} {offers:?}"),
            };
            assert_eq!(taken, expected, "{log:?} {offers:?}");
        }
        let situation = Situation {
            has_store: true,
            extent: LogExtent { first: 5, last: 9 },
            begins_empty: false,
            has_waited: false,
        };
        let (mut failures, now) = (Failures::default(), Instant::now());
        let rest = failures.add(NodeId(2), "a chunk is lost".to_owned(), now);
        let choice = |offers: &[SeedOffer], now| choose(&situation, offers, &failures, now);
        assert_eq!(choice(&[offer(1, 8), offer(2, 9)], now), Choice::Take(offer(1, 8)));
        let reason = "the store of node 2 was not received, and is asked for again: a chunk is lost";
        assert_eq!(choice(&[offer(2, 9)], now + rest / 2), Choice::Wait(reason.to_owned()));
        assert_eq!(choice(&[offer(2, 9)], now + rest), Choice::Take(offer(2, 9)));
        assert_eq!(choice(&[offer(1, 8), offer(2, 9)], now + Duration::from_secs(600)), Choice::Take(offer(1, 8)));
    }

    #[test]
    fn an_empty_store_is_made_only_if_nothing_is_missing_in_it() {
        // true if there is a store, the log, true if it began empty, true after some time, the offers, the expected result
        type Row<'a> = (bool, (u64, u64), bool, bool, &'a [SeedOffer], bool);
        let table: [Row<'_>; 13] = [
            (false, (1, 0), false, true, &[], true),
            // A node with data may still open its store.
            (false, (1, 0), false, false, &[], false),
            (false, (1, 9), true, true, &[], true),
            (false, (1, 9), true, false, &[], false),
            (false, (1, 9), false, true, &[], false),
            (false, (2, 9), false, true, &[], false),
            // A node that was alone before will begin the log.
            (false, (1, 0), false, true, &[offer(1, 0)], false),
            // The log was lost, and made anew by this node.
            (false, (1, 0), false, true, &[offer(1, 70)], false),
            (false, (1, 0), false, true, &[unsound(offer(1, 70))], false),
            (false, (1, 0), false, true, &[unsound(offer(1, 0))], false),
            (false, (1, 9), true, true, &[unsound(offer(1, 0))], false),
            (true, (1, 0), false, true, &[], false),
            (true, (1, 9), true, true, &[], false),
        ];
        for (number, (has_store, (first, last), begins_empty, has_waited, offers, expected)) in
            table.into_iter().enumerate()
        {
            let situation = Situation { has_store, extent: LogExtent { first, last }, begins_empty, has_waited };
            let choice = choose(&situation, offers, &Failures::default(), Instant::now());
            assert_eq!(choice == Choice::Empty, expected, "{number}: {choice:?}");
        }
    }

    #[test]
    fn a_wait_has_a_reason() {
        let reason = |log, offers: &[SeedOffer]| match choice(log, offers) {
            Choice::Wait(reason) => reason,
            other => unreachable!("{other:?}"),
        };
        let busy = SeedOffer { is_busy: true, ..offer(2, 9) };
        assert_eq!(reason((5, 9), &[unsound(offer(1, 9)), busy]), "node 2 seeds another node");
        let unsound_node =
            "node 1 has a store, and cannot stream it now: it has left the cluster, or verifies its pages";
        assert_eq!(reason((5, 9), &[offer(2, 3), unsound(offer(1, 9))]), unsound_node);
        assert_eq!(reason((1, 0), &[offer(1, 0)]), "node 1 has a store, and has applied no record of the log yet");
        let trimmed = "the store of node 1 cannot be taken: the log begins at record 5, and the store has applied 3";
        assert_eq!(reason((5, 9), &[offer(1, 3)]), trimmed);
        let none = "no other node offers its store, and the log has only the records from 5 to 9";
        assert_eq!(reason((5, 9), &[]), none);
    }
}
