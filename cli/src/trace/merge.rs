//! Segments of several nodes in the order of time, and what two nodes tell of one segment put together.
//!
//! A node's segments come in order, but not at the same time as another's. So they wait until every node has said that
//! it is so far, which each does several times a second.

use std::collections::{BTreeMap, HashMap};

use dts_node::admin::{TraceBeat, TraceSegment};

/// How long a segment is waited for that another node has sent, in nanoseconds.
const PAIR: u64 = 20_000_000;

/// A segment to be shown.
#[derive(Clone, Debug)]
pub(super) struct Rung {
    /// What is told of it first.
    pub(super) segment: TraceSegment,
    /// What the node tells that got it.
    pub(super) arrival: Option<TraceSegment>,
}

/// Segments that wait for their turn.
pub(super) struct Merge {
    /// By time, and by the order in which they came.
    waiting: BTreeMap<(u64, u64), TraceSegment>,
    count: u64,
    /// The nodes that tell, and how far they are.
    nodes: HashMap<String, TraceBeat>,
    /// What nodes had missed that tell nothing any more.
    missed_by_gone: u64,
}

impl Merge {
    pub(super) fn new(nodes: impl Iterator<Item = String>) -> Self {
        Self {
            waiting: BTreeMap::new(),
            count: 0,
            nodes: nodes.map(|node| (node, TraceBeat::default())).collect(),
            missed_by_gone: 0,
        }
    }

    pub(super) fn add(&mut self, segment: TraceSegment) {
        self.count += 1;
        self.waiting
            .insert((segment.monotonic_ns, self.count), segment);
    }

    pub(super) fn beat(&mut self, node: &str, beat: &TraceBeat) {
        self.nodes.insert(node.to_owned(), *beat);
    }

    /// A node tells nothing any more; how many still do.
    pub(super) fn leave(&mut self, node: &str) -> usize {
        let gone = self.nodes.remove(node);
        self.missed_by_gone += gone.map_or(0, |beat| beat.missed);
        self.nodes.len()
    }

    /// How many segments the nodes have not told.
    pub(super) fn missed(&self) -> u64 {
        let missed: u64 = self.nodes.values().map(|beat| beat.missed).sum();
        self.missed_by_gone + missed
    }

    /// The next segment whose turn it is, or simply the next one; with `pairs`, together with what its receiver tells.
    pub(super) fn next(&mut self, all: bool, pairs: bool) -> Option<Rung> {
        let all_until = self.nodes.values().map(|beat| beat.until_ns).min();
        let until = match all {
            true => u64::MAX,
            false => all_until.unwrap_or(u64::MAX).saturating_sub(PAIR),
        };
        let first = self.waiting.first_entry()?;
        if first.key().0 > until {
            return None;
        }
        let segment = first.remove();
        let arrival = if pairs {
            self.arrival_of(&segment)
        } else {
            None
        };
        Some(Rung { segment, arrival })
    }

    /// What is told of a segment that leaves a node where it arrives at a node.
    fn arrival_of(&mut self, sent: &TraceSegment) -> Option<TraceSegment> {
        let at_node = sent
            .to
            .as_ref()
            .is_some_and(|to| self.nodes.contains_key(to));
        if !sent.leaves() || sent.dropped || !at_node {
            return None;
        }
        let wire = sent.on_wire();
        let until = (sent.monotonic_ns.saturating_add(PAIR), u64::MAX);
        let found = self.waiting.range(..=until).find(|(_, other)| {
            !other.leaves() && Some(&other.node) == sent.to.as_ref() && other.before == *wire
        });
        let key = *found?.0;
        self.waiting.remove(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::notes::tests::{Sample, sample};
    use super::*;

    fn at(node: &str, time: u64) -> TraceSegment {
        TraceSegment {
            node: node.to_owned(),
            monotonic_ns: time,
            ..sample(Sample::Syn)
        }
    }

    fn beat(until_ns: u64, missed: u64) -> TraceBeat {
        TraceBeat { until_ns, missed }
    }

    fn times(merge: &mut Merge, all: bool) -> Vec<u64> {
        std::iter::from_fn(|| merge.next(all, true))
            .map(|rung| rung.segment.monotonic_ns)
            .collect()
    }

    #[test]
    fn a_segment_waits_until_every_node_is_so_far() {
        let mut merge = Merge::new(["n1", "n2"].map(str::to_owned).into_iter());
        merge.add(at("n1", 3 * PAIR));
        merge.add(at("n1", 5 * PAIR));
        merge.beat("n1", &beat(9 * PAIR, 2));
        assert!(times(&mut merge, false).is_empty());
        merge.add(at("n2", 2 * PAIR));
        merge.beat("n2", &beat(4 * PAIR, 1));
        assert_eq!(times(&mut merge, false), [2 * PAIR, 3 * PAIR]);
        assert_eq!(merge.missed(), 3);
        // One that has gone isn't waited for.
        assert_eq!(merge.leave("n2"), 1);
        assert_eq!(times(&mut merge, false), [5 * PAIR]);
        assert_eq!(merge.missed(), 3);
    }

    #[test]
    fn in_the_end_nothing_is_waited_for() {
        let mut merge = Merge::new(std::iter::once("n1".to_owned()));
        merge.add(at("n1", 2));
        merge.add(at("n1", 1));
        assert!(times(&mut merge, false).is_empty());
        assert_eq!(times(&mut merge, true), [1, 2]);
    }

    #[test]
    fn what_two_nodes_tell_of_a_segment_is_one_rung() {
        let nodes = || ["n1", "n2"].map(str::to_owned).into_iter();
        let sent = sample(Sample::HandoverSynLeaves);
        let arrived = sample(Sample::HandoverSynArrives);
        let mut merge = Merge::new(nodes());
        merge.add(sent.clone());
        merge.add(arrived.clone());
        let rung = merge.next(true, true).unwrap();
        assert_eq!(
            (&rung.segment, &rung.arrival),
            (&sent, &Some(arrived.clone()))
        );
        assert!(merge.next(true, true).is_none());
        // Each by itself, where that is asked for.
        merge.add(sent.clone());
        merge.add(arrived.clone());
        assert!(merge.next(true, false).unwrap().arrival.is_none());
        assert_eq!(merge.next(true, false).unwrap().segment, arrived);
        // Another segment, or one that came too late.
        let mut other = arrived.clone();
        other.before.seq += 1;
        let late = TraceSegment {
            monotonic_ns: sent.monotonic_ns + PAIR + 1,
            ..arrived
        };
        for arrived in [other, late] {
            merge.add(sent.clone());
            merge.add(arrived);
            assert!(merge.next(true, true).unwrap().arrival.is_none());
            assert!(merge.next(true, true).is_some());
        }
    }
}
