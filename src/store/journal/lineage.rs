//! The lineages of the journal: each names the run of the store, or the claim of a cluster's node, that made the entries from
//! one on.
//!
//! A store goes back when a backup, or an older copy of its file, takes its place. Then it gives the sequences of the lost entries to other ones.
//! The sequence of an entry does not say which of the two is meant, and its lineage does. So a client keeps both.
//!
//! On a single node a lineage is a random number of each start. In a cluster it follows from the claim of the node that decides,
//! so it is the same at all nodes. It is written in the commit of its first entry. A start without changes writes none, and
//! no entry is on disk without its lineage.
//!
//! *Invariant:* stores that have the same lineage at a sequence have the same entries up to it. Lineages decide nothing else.
//!
//! Entries of programs that knew no lineages have none. The first start of this program goes on after them.

use std::{collections::VecDeque, mem};

use ring::rand::{SecureRandom, SystemRandom};

use crate::store::{
    codec::{DecodeError, put_len, put_u64},
    frame,
    journal::entry::Seq,
    schema::META,
};

/// The key of the lineages in the table `meta`.
pub(in crate::store) const LINEAGES_KEY: &str = "lineages";

/// Most lineages kept. What is below the oldest is forgotten.
const LINEAGES_MAX: usize = 1000;

/// A number that the entries of one run of the store have in common, and no others with their sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage(pub u32);

/// The lineages of the entries of a store; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Lineages {
    /// The lineages below this sequence are forgotten.
    known_from: Seq,
    /// The first sequence of each, in ascending order.
    begun: VecDeque<(Seq, Lineage)>,
    /// True if the file lacks one that has begun.
    is_unwritten: bool,
}

impl Lineage {
    /// Returns a random lineage.
    pub(in crate::store) fn random() -> Self {
        let mut bytes = [0; 4];
        SystemRandom::new().fill(&mut bytes).expect("an operating system that has started a process has random bytes");
        Self(u32::from_ne_bytes(bytes))
    }
}

impl Lineages {
    /// Returns those of a store that begins anew at `head`, with none in common with any other.
    pub(in crate::store) fn anew(head: Seq) -> Self {
        Self { known_from: head, begun: [(head, Lineage::random())].into(), is_unwritten: true }
    }

    /// Begins `lineage` with the entry `first`, unless it is that of the one before.
    pub(in crate::store) fn begin(&mut self, first: Seq, lineage: Lineage) {
        if self.begun.back().is_some_and(|(_, newest)| *newest == lineage) {
            return;
        }
        self.begun.push_back((first, lineage));
        self.is_unwritten = true;
        if self.begun.len() > LINEAGES_MAX {
            self.begun.pop_front();
            self.known_from = self.begun.front().map_or(first, |(oldest, _)| *oldest);
        }
    }

    /// Returns the lineage of the entry at `seq`; `None` if it has none, or it is forgotten.
    pub(in crate::store) fn at(&self, seq: Seq) -> Option<Lineage> {
        let begun = self.begun.partition_point(|(first, _)| *first <= seq);
        self.begun.get(begun.checked_sub(1)?).map(|(_, lineage)| *lineage)
    }

    /// Returns true if the entry at `seq` is known to have `lineage`, or to have none.
    pub(in crate::store) fn has(&self, seq: Seq, lineage: Option<Lineage>) -> bool {
        seq >= self.known_from && self.at(seq) == lineage
    }

    /// Returns the framed value if the file lacks it.
    pub(in crate::store) fn unwritten(&self) -> Option<Vec<u8>> {
        self.is_unwritten.then(|| self.encode())
    }

    /// Notes that the file has all of them. Returns true if it lacked one.
    pub(in crate::store) fn written(&mut self) -> bool {
        mem::take(&mut self.is_unwritten)
    }

    /// Returns the framed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::begin(&mut out);
        put_u64(&mut out, self.known_from.0);
        put_len(&mut out, self.begun.len());
        for (first, lineage) in &self.begun {
            put_u64(&mut out, first.0);
            out.extend_from_slice(&lineage.0.to_le_bytes());
        }
        frame::finish(&mut out, META, LINEAGES_KEY.as_bytes());
        out
    }

    /// Decodes the framed value.
    pub(in crate::store) fn decode(framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, META, LINEAGES_KEY.as_bytes())?;
        let known_from = Seq(payload.u64()?);
        let begun: VecDeque<_> = (0..payload.count()?)
            .map(|_| Ok((Seq(payload.u64()?), Lineage(u32::from_le_bytes(payload.array()?)))))
            .collect::<Result<_, DecodeError>>()?;
        frame::no_extensions(payload)?;
        if !begun.iter().is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err(DecodeError::Invalid("the order of the lineages"));
        }
        Ok(Self { known_from, begun, is_unwritten: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Option<Lineage> = None;
    const ONE: Option<Lineage> = Some(Lineage(1));
    const TWO: Option<Lineage> = Some(Lineage(2));

    #[test]
    fn an_entry_has_the_lineage_that_began_last_before_it() {
        let mut lineages = Lineages::default();
        assert!(lineages.has(Seq(0), NONE) && lineages.has(Seq(u64::MAX), NONE) && !lineages.has(Seq(1), ONE));
        assert_eq!(lineages.unwritten(), None, "a store without changes writes none");
        lineages.begin(Seq(5), Lineage(1));
        assert!(lineages.written() && !lineages.written());
        lineages.begin(Seq(7), Lineage(1));
        assert_eq!(lineages.unwritten(), None, "it goes on");
        lineages.begin(Seq(9), Lineage(2));
        for (seq, lineage) in [(0, NONE), (4, NONE), (5, ONE), (8, ONE), (9, TWO), (1000, TWO)] {
            for other in [NONE, ONE, TWO] {
                assert_eq!(lineages.has(Seq(seq), other), other == lineage, "{seq}, {other:?}");
            }
        }
        let decoded = lineages.unwritten().map(|framed| Lineages::decode(&framed));
        assert!(lineages.written());
        assert_eq!(decoded, Some(Ok(lineages)));
    }

    #[test]
    fn the_oldest_are_forgotten_and_not_taken_for_none() {
        let mut lineages = Lineages::default();
        (1..=1003).for_each(|number| lineages.begin(Seq(10 * number), Lineage(number as u32)));
        assert!(
            !lineages.has(Seq(0), NONE) && !lineages.has(Seq(39), NONE) && !lineages.has(Seq(39), Some(Lineage(3)))
        );
        assert!(lineages.has(Seq(40), Some(Lineage(4))) && lineages.has(Seq(10_030), Some(Lineage(1003))));
        assert_eq!(Lineages::decode(&lineages.encode()).map(|decoded| decoded.known_from), Ok(Seq(40)));
    }

    #[test]
    fn a_value_that_is_not_in_order_is_refused() {
        let begun = VecDeque::from([(Seq(5), Lineage(1)), (Seq(5), Lineage(2))]);
        let wrong = Lineages { begun, ..Lineages::default() };
        assert_eq!(Lineages::decode(&wrong.encode()), Err(DecodeError::Invalid("the order of the lineages")));
    }
}
