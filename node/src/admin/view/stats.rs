//! Counters.

use std::collections::BTreeMap;

use dts_core::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// Answer to `stats`: counts by name.
///
/// Every name is present, also with a count of 0. The filter's are those of
/// [`Action`](dts_core::verdict::Action) and [`DropReason`](dts_core::verdict::DropReason) and add
/// up to the packets that its programs saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsView {
    /// Packets that the filter let go on, by what it did with them.
    pub actions: BTreeMap<String, u64>,
    /// Packets that the filter dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What the inspector counted since the daemon was started.
    pub inspector: BTreeMap<String, u64>,
}

impl StatsView {
    /// Names the filter's counters; `counters[i]` is the one that [`Verdict::from_counter`] names.
    pub fn new(counters: &[u64], inspector: BTreeMap<String, u64>) -> Self {
        let mut view = Self {
            inspector,
            ..Self::default()
        };
        for (verdict, count) in (0..).map_while(Verdict::from_counter).zip(
            // A filter of an older version may have fewer.
            counters.iter().copied().chain(std::iter::repeat(0)),
        ) {
            let map = match verdict {
                Verdict::Done(_) => &mut view.actions,
                Verdict::Drop(_) => &mut view.drops,
            };
            map.insert(verdict.name().to_owned(), count);
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use dts_core::verdict::{Action, COUNTERS, DropReason};

    use super::*;

    #[test]
    fn every_counter_is_under_its_name() {
        let counters: Vec<u64> = (0..u64::from(COUNTERS)).map(|index| index + 100).collect();
        let view = StatsView::new(&counters, BTreeMap::new());
        assert_eq!(view.actions.len(), Action::ALL.len());
        assert_eq!(view.drops.len(), DropReason::ALL.len());
        for index in 0..COUNTERS {
            let verdict = Verdict::from_counter(index).unwrap();
            let map = match verdict {
                Verdict::Done(_) => &view.actions,
                Verdict::Drop(_) => &view.drops,
            };
            assert_eq!(map[verdict.name()], u64::from(index) + 100);
        }
    }

    #[test]
    fn counters_that_are_missing_are_zero_and_strange_ones_are_left_out() {
        let few = StatsView::new(&[7], BTreeMap::new());
        assert_eq!(few.actions["other"], 7);
        assert_eq!(few.drops["not_owner"], 0);
        let many = StatsView::new(&vec![1; COUNTERS as usize + 5], BTreeMap::new());
        assert_eq!(many.actions.len() + many.drops.len(), COUNTERS as usize);
    }
}
