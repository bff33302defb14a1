//! The decision of a node without a store: which offer it takes, if it waits, or if it begins with an empty store.

use std::collections::BTreeSet;

use crate::{
    cluster::seeding::LogExtent,
    store::{NodeId, SeedOffer},
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

/// Chooses among `offers`. Sources that have `failed` before come last, and one that decides before these.
pub(super) fn choose(situation: &Situation, offers: &[SeedOffer], failed: &BTreeSet<NodeId>) -> Choice {
    let Situation { has_store, extent, begins_empty, has_waited } = *situation;
    let fits = |offer: &&SeedOffer| offer.applied > 0 && extent.fits(offer.applied).is_ok();
    let rank = |offer: &&SeedOffer| (!failed.contains(&offer.source), !offer.is_deciding, offer.applied);
    if let Some(offer) = offers.iter().filter(fits).filter(|offer| !offer.is_busy).max_by_key(rank) {
        return Choice::Take(*offer);
    }
    if let Some(offer) = offers.iter().find(fits) {
        return Choice::Wait(format!("node {} seeds another node", offer.source.0));
    }
    if let Some(SeedOffer { source, applied, .. }) = offers.first() {
        let node = source.0;
        return Choice::Wait(match extent.fits(*applied) {
            Err(misfit) => format!("the store of node {node} cannot be taken: {misfit}"),
            Ok(()) => format!("node {node} has a store, and has applied no record of the log yet"),
        });
    }
    let is_new = extent.last == 0;
    if !has_store && (is_new || begins_empty && has_waited) {
        return Choice::Empty;
    }
    Choice::Wait(format!(
        "no other node offers its store, and the log has only the records from {} to {}",
        extent.first, extent.last
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(source: u64, applied: u64) -> SeedOffer {
        SeedOffer { source: NodeId(source), applied, file_bytes: 0, is_deciding: false, is_busy: false }
    }

    fn choice(log: (u64, u64), offers: &[SeedOffer]) -> Choice {
        let extent = LogExtent { first: log.0, last: log.1 };
        let situation = Situation { has_store: false, extent, begins_empty: false, has_waited: true };
        choose(&situation, offers, &BTreeSet::new())
    }

    #[test]
    fn an_offer_is_taken_that_the_log_continues() {
        let deciding = |offer| SeedOffer { is_deciding: true, ..offer };
        let busy = |offer| SeedOffer { is_busy: true, ..offer };
        // the log, the offers, and the number of the one that is taken
        type Row<'a> = ((u64, u64), &'a [SeedOffer], Option<u64>);
        let table: [Row<'_>; 8] = [
            ((5, 9), &[offer(1, 8), offer(2, 9)], Some(2)),
            ((5, 9), &[offer(1, 8), deciding(offer(2, 9))], Some(1)),
            ((5, 9), &[deciding(offer(2, 9))], Some(2)),
            ((5, 9), &[offer(1, 4)], Some(1)),
            ((5, 9), &[offer(1, 3)], None),
            ((5, 9), &[offer(1, 10)], None),
            ((5, 9), &[busy(offer(1, 9)), deciding(offer(2, 9))], Some(2)),
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
        let failed = BTreeSet::from([NodeId(2)]);
        assert_eq!(choose(&situation, &[offer(1, 8), offer(2, 9)], &failed), Choice::Take(offer(1, 8)));
        assert_eq!(choose(&situation, &[offer(2, 9)], &failed), Choice::Take(offer(2, 9)));
    }

    #[test]
    fn an_empty_store_is_made_only_if_nothing_is_missing_in_it() {
        // true if there is a store, the log, true if it began empty, true after some time, the offers, the expected result
        type Row<'a> = (bool, (u64, u64), bool, bool, &'a [SeedOffer], bool);
        let table: [Row<'_>; 9] = [
            (false, (1, 0), false, false, &[], true),
            (false, (1, 9), true, true, &[], true),
            (false, (1, 9), true, false, &[], false),
            (false, (1, 9), false, true, &[], false),
            (false, (2, 9), false, true, &[], false),
            // A node that was alone before will begin the log.
            (false, (1, 0), false, true, &[offer(1, 0)], false),
            // The log was lost, and made anew by this node.
            (false, (1, 0), false, true, &[offer(1, 70)], false),
            (true, (1, 0), false, true, &[], false),
            (true, (1, 9), true, true, &[], false),
        ];
        for (number, (has_store, (first, last), begins_empty, has_waited, offers, expected)) in
            table.into_iter().enumerate()
        {
            let situation = Situation { has_store, extent: LogExtent { first, last }, begins_empty, has_waited };
            let choice = choose(&situation, offers, &BTreeSet::new());
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
        assert_eq!(reason((5, 9), &[busy]), "node 2 seeds another node");
        assert_eq!(reason((1, 0), &[offer(1, 0)]), "node 1 has a store, and has applied no record of the log yet");
        let trimmed = "the store of node 1 cannot be taken: the log begins at record 5, and the store has applied 3";
        assert_eq!(reason((5, 9), &[offer(1, 3)]), trimmed);
        let none = "no other node offers its store, and the log has only the records from 5 to 9";
        assert_eq!(reason((5, 9), &[]), none);
    }
}
