//! Builds the ring that the filter looks up; see [`dts_core::ring`] for what is hashed and how.

use std::collections::BTreeMap;
use std::fmt;

use dts_core::addr::Addr;
use dts_core::ring::{
    MAX_POINTS, RingHashSpec, RingPoint, flow_hash, key_hash, owner_index, point_hash,
};

use crate::config::{Config, Member};

/// A node's number: its position in the list of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u32);

impl fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node brings to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// The node's number, which the ring's points carry.
    pub index: NodeIndex,
    /// The node's back address: its identity on the ring.
    pub address: Addr,
    /// Its virtual nodes; 0 for a node that owns nothing.
    pub points: u16,
}

/// The members ask for more points than a ring may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{points} points are too many for a ring, which holds {MAX_POINTS} at most: \
     use fewer virtual nodes"
)]
pub struct TooManyPoints {
    /// The points asked for.
    pub points: u64,
}

/// A version of the ring: sorted points, at most one at a hash.
#[derive(Clone, Debug)]
pub struct Ring {
    epoch: u64,
    hash: RingHashSpec,
    points: Vec<RingPoint>,
}

impl Ring {
    /// Builds version `epoch` of the ring. The order of the members doesn't matter.
    ///
    /// # Errors
    ///
    /// When the members' points together are more than [`MAX_POINTS`].
    pub fn build(
        epoch: u64,
        hash: RingHashSpec,
        members: &[RingMember],
    ) -> Result<Self, TooManyPoints> {
        let wanted = members.iter().map(|member| u64::from(member.points)).sum();
        if wanted > u64::from(MAX_POINTS) {
            return Err(TooManyPoints { points: wanted });
        }
        let candidates = members.iter().flat_map(|member| {
            (0..u32::from(member.points)).map(move |virtual_node| Candidate {
                hash: point_hash(&hash, &member.address, virtual_node),
                address: member.address,
                node: member.index,
            })
        });
        Ok(Self {
            epoch,
            hash,
            points: settle(candidates.collect()),
        })
    }

    /// The ring that says who inspects a connection: points of the members that inspect.
    ///
    /// # Errors
    ///
    /// When there are too many points, which a checked configuration doesn't have.
    pub fn of_flows(
        epoch: u64,
        hash: RingHashSpec,
        config: &Config,
    ) -> Result<Self, TooManyPoints> {
        Self::build(epoch, hash, &ring_members(config, |member| member.inspect))
    }

    /// The ring that request keys are placed on: points of all members (DTS §4.4.1).
    ///
    /// # Errors
    ///
    /// When there are too many points, which a checked configuration doesn't have.
    pub fn of_requests(
        epoch: u64,
        hash: RingHashSpec,
        config: &Config,
    ) -> Result<Self, TooManyPoints> {
        Self::build(epoch, hash, &ring_members(config, |_| true))
    }

    /// The version.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The hash function, in the form that the kernel shares.
    pub fn hash(&self) -> &RingHashSpec {
        &self.hash
    }

    /// The points, strictly ascending by hash: what is published to the kernel.
    pub fn points(&self) -> &[RingPoint] {
        &self.points
    }

    /// The node that inspects connections from this address and port; `None` on an empty ring.
    pub fn owner_of_flow(&self, remote: &Addr, remote_port: u16) -> Option<NodeIndex> {
        self.owner_of_hash(flow_hash(&self.hash, remote, remote_port))
    }

    /// The node that a key, such as a request target, belongs to; `None` on an empty ring.
    pub fn owner_of_key(&self, key: &[u8]) -> Option<NodeIndex> {
        self.owner_of_hash(key_hash(&self.hash, key))
    }

    /// The node that owns a place on the ring; `None` on an empty ring.
    pub fn owner_of_hash(&self, hash: u64) -> Option<NodeIndex> {
        let position = self.position(hash)?;
        self.points.get(position).map(|point| NodeIndex(point.node))
    }

    /// The node that would own a place if the ring held the points of `eligible` nodes only; `None`
    /// when it would hold none.
    pub fn owner_of_hash_among(
        &self,
        hash: u64,
        eligible: impl Fn(NodeIndex) -> bool,
    ) -> Option<NodeIndex> {
        // The arc of a point that is taken away falls to the point before it.
        let (up_to_owner, beyond) = self.points.split_at(self.position(hash)? + 1);
        let backwards = up_to_owner.iter().rev().chain(beyond.iter().rev());
        backwards
            .map(|point| NodeIndex(point.node))
            .find(|node| eligible(*node))
    }

    /// The fraction of the hash space that each node holds, 0 to 1. A node without points is absent.
    pub fn shares(&self) -> BTreeMap<NodeIndex, f64> {
        let mut shares = BTreeMap::new();
        if let [only] = self.points[..] {
            shares.insert(NodeIndex(only.node), 1.0);
            return shares;
        }
        let ends = self.points.iter().cycle().skip(1);
        for (point, next) in self.points.iter().zip(ends) {
            let arc = next.hash.wrapping_sub(point.hash) as f64;
            *shares.entry(NodeIndex(point.node)).or_insert(0.0) += arc / HASH_SPACE;
        }
        shares
    }

    /// Position in `points` of the point that owns `hash`.
    fn position(&self, hash: u64) -> Option<usize> {
        let count = u32::try_from(self.points.len()).ok()?;
        let point = |i| self.points.get(i as usize).copied();
        let owner = owner_index(count, hash, point)?;
        self.points
            .binary_search_by_key(&owner.hash, |point| point.hash)
            .ok()
    }
}

/// All members, with points for those that `has_points` selects.
fn ring_members(config: &Config, has_points: impl Fn(&Member) -> bool) -> Vec<RingMember> {
    let virtual_nodes = config.ring.virtual_nodes;
    (0..)
        .map(NodeIndex)
        .zip(&config.members)
        .map(|(index, member)| RingMember {
            index,
            address: member.address.into(),
            points: if has_points(member) { virtual_nodes } else { 0 },
        })
        .collect()
}

/// How many hash values there are: 2^64.
const HASH_SPACE: f64 = u64::MAX as f64 + 1.0;

/// A point that may have to share its place. The order of the fields is the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    hash: u64,
    address: Addr,
    node: NodeIndex,
}

/// Sorts the points and leaves the one with the lowest address where several have the same hash.
fn settle(mut candidates: Vec<Candidate>) -> Vec<RingPoint> {
    candidates.sort_unstable();
    candidates.dedup_by_key(|candidate| candidate.hash);
    candidates
        .into_iter()
        .map(|kept| RingPoint::new(kept.hash, kept.node.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use dts_core::ring::RingHash;
    use proptest::prelude::*;

    use super::*;

    /// The paper's number (DTS §4.2).
    const VIRTUAL_NODES: u16 = 63;

    fn members(count: u32) -> Vec<RingMember> {
        (0..count)
            .map(|i| RingMember {
                index: NodeIndex(i),
                address: Addr::v4([198, 18, 1, 11 + i as u8]),
                points: VIRTUAL_NODES,
            })
            .collect()
    }

    fn hash() -> impl Strategy<Value = RingHashSpec> {
        prop_oneof![
            Just(RingHash::Md5),
            any::<[u8; 16]>().prop_map(|key| RingHash::SipHash { key })
        ]
        .prop_map(RingHashSpec::from)
    }

    #[test]
    fn a_ring_without_points_owns_nothing() {
        let idle = members(2).into_iter().map(|member| RingMember {
            points: 0,
            ..member
        });
        for members in [vec![], idle.collect()] {
            let ring = Ring::build(1, RingHashSpec::default(), &members).unwrap();
            assert_eq!(ring.owner_of_flow(&Addr::v4([198, 18, 0, 1]), 1), None);
            assert_eq!(ring.owner_of_key(b"/"), None);
            assert_eq!(ring.owner_of_hash_among(0, |_| true), None);
            assert!(ring.shares().is_empty());
        }
    }

    #[test]
    fn a_node_without_points_is_never_an_owner() {
        let mut members = members(3);
        members[1].points = 0;
        let ring = Ring::build(1, RingHashSpec::default(), &members).unwrap();
        let nodes: Vec<_> = ring.shares().into_keys().collect();
        assert_eq!(nodes, [NodeIndex(0), NodeIndex(2)]);
        assert_eq!(ring.points().len(), 126);
    }

    #[test]
    fn one_point_holds_everything() {
        let mut members = members(1);
        members[0].points = 1;
        let ring = Ring::build(1, RingHashSpec::default(), &members).unwrap();
        assert_eq!(ring.shares(), BTreeMap::from([(NodeIndex(0), 1.0)]));
    }

    #[test]
    fn the_lowest_address_wins_a_tie() {
        let at = |hash, last, node| Candidate {
            hash,
            address: Addr::v4([198, 18, 1, last]),
            node: NodeIndex(node),
        };
        let tied = vec![at(7, 13, 0), at(5, 12, 1), at(7, 11, 2), at(7, 12, 1)];
        assert_eq!(settle(tied), [RingPoint::new(5, 1), RingPoint::new(7, 2)]);
    }

    #[test]
    fn more_points_than_a_ring_holds_are_an_error() {
        let mut members = members(2);
        members[0].points = 8192;
        members[1].points = 8192;
        assert!(Ring::build(1, RingHashSpec::default(), &members).is_ok());
        members[1].points = 8193;
        let error = Ring::build(1, RingHashSpec::default(), &members).unwrap_err();
        assert_eq!(error.points, 16385);
    }

    proptest! {
        #[test]
        fn the_number_of_points_of_the_paper_balances(hash in hash()) {
            let ring = Ring::build(1, hash, &members(8)).unwrap();
            let shares = ring.shares();
            prop_assert_eq!(shares.len(), 8);
            prop_assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-9);
            // A share of 63 random points is gamma distributed with a standard deviation of an
            // eighth: it leaves these bounds once in 10^8 rings.
            for share in shares.values().map(|share| share * 8.0) {
                prop_assert!((0.4..2.0).contains(&share), "{share} times the fair share");
            }
        }

        #[test]
        fn flows_fall_to_nodes_as_the_shares_say(hash in hash()) {
            let ring = Ring::build(1, hash, &members(4)).unwrap();
            let mut flows = BTreeMap::<NodeIndex, f64>::new();
            for port in 0..4096 {
                let owner = ring.owner_of_flow(&Addr::v4([198, 18, 0, 200]), port).unwrap();
                *flows.entry(owner).or_default() += 1.0 / 4096.0;
            }
            // The standard deviation of a fraction of 4096 is at most 0.008.
            for (node, share) in ring.shares() {
                let seen = flows.get(&node).copied().unwrap_or(0.0);
                prop_assert!((seen - share).abs() < 0.05, "{node}: {seen} for {share}");
            }
        }

        #[test]
        fn only_the_flows_of_a_leaving_node_move(
            hash in hash(),
            leaves in 0u32..8,
            places: [u64; 64],
        ) {
            let all = members(8);
            let rest: Vec<_> = all.iter().filter(|m| m.index.0 != leaves).copied().collect();
            let before = Ring::build(1, hash, &all).unwrap();
            let after = Ring::build(2, hash, &rest).unwrap();
            for place in places {
                let owner = before.owner_of_hash(place).unwrap();
                let next = after.owner_of_hash(place).unwrap();
                prop_assert!(owner == next || owner.0 == leaves);
                prop_assert_eq!(before.owner_of_hash_among(place, |n| n.0 != leaves), Some(next));
            }
            // Adding is the same in reverse: what moves, moves to the node that joins.
        }

        #[test]
        fn the_order_of_the_members_does_not_matter(
            hash in hash(),
            shuffled in Just(members(6)).prop_shuffle(),
        ) {
            let sorted = Ring::build(1, hash, &members(6)).unwrap();
            let ring = Ring::build(1, hash, &shuffled).unwrap();
            prop_assert_eq!(sorted.points(), ring.points());
        }

        #[test]
        fn points_ascend_strictly(hash in hash(), count in 1u32..20) {
            let ring = Ring::build(1, hash, &members(count)).unwrap();
            prop_assert!(ring.points().windows(2).all(|pair| pair[0].hash < pair[1].hash));
        }
    }
}
