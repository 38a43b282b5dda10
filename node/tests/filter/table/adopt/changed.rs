//! Connections that a change of the members meets.

use std::time::Duration;

use dts_core::entry::adoption::track;
use dts_core::ring::{RingHashSpec, RingPoint};

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [gone(), inherited()].into_iter().flatten().collect()
}

/// Connections whose target is no member any more.
fn gone() -> Vec<Row> {
    let first = fresh_request();
    let later = rest(&first, b"more");
    let decided = first.clone();
    vec![
        Row::done(
            "a request again, whose target is gone",
            IN,
            frame(first.clone()),
            known(&first, stage::SENT, STRANGER),
            sent_on(&first, Kind::First, OTHER_MAC),
        )
        .then(move |bench| {
            let noted = learned(bench, &decided).expect("a record");
            assert_eq!(noted.target, addr(OTHER));
        }),
        Row::drop(
            "a later segment, whose target is gone",
            IN,
            frame(later),
            known(&first, stage::SENT, STRANGER),
            DropReason::HandedOver,
        ),
    ]
}

/// Requests of clients whose SYN, perhaps, another node has answered.
fn inherited() -> Vec<Row> {
    let [inherited, twice, long_ago, left, taken] = [(); 5].map(|()| fresh_request());
    let asked_twice = twice.clone();
    let (asked, sent, second) = (inherited.clone(), long_ago.clone(), taken.clone());
    let changed = |former| {
        move |bench: &Bench| {
            bench.own(false);
            bench.own_after(true, former);
        }
    };
    vec![
        Row::done(
            "a request that another node would have inspected a moment ago",
            IN,
            frame(inherited),
            changed(Duration::from_secs(60)),
            (Action::Inquired, Out::Dropped),
        )
        .then(move |bench| {
            let noted = learned(bench, &asked).expect("a record");
            assert_eq!((noted.stage, noted.track), (stage::UNDECIDED, track::ASK));
            was_inquired(bench, &asked, &asked, asks::KNOWN);
        }),
        Row::done(
            "a request that was this node's by the ring before, of which nobody knows by the one before that",
            IN,
            frame(twice),
            |bench| {
                bench.own(true);
                for place in [7, 9] {
                    let point = RingPoint::new(place, 0);
                    let hash = RingHashSpec::default();
                    let former = Duration::from_secs(60);
                    let published = bench.filter.publish_ring(0, 1, hash, &[point], former);
                    published.expect("a ring");
                }
            },
            (Action::Inquired, Out::Dropped),
        )
        .then(move |bench| was_inquired(bench, &asked_twice, &asked_twice, asks::KNOWN)),
        Row::done(
            "the same, long after the change",
            IN,
            frame(long_ago),
            changed(Duration::ZERO),
            sent_on(&sent, Kind::First, OTHER_MAC),
        ),
        Row::drop(
            "a request that was left to the node that had it",
            IN,
            frame(left.clone()),
            known(&left, stage::LEFT, OTHER),
            DropReason::HandedOver,
        ),
        Row::done(
            "the same, whose node is no member any more",
            IN,
            frame(taken.clone()),
            known(&taken, stage::LEFT, STRANGER),
            sent_on(&second, Kind::First, OTHER_MAC),
        ),
    ]
}
