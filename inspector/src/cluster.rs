//! The cluster's nodes, and the ring of requests.

use std::net::IpAddr;

use dts_core::ring::{MAX_POINTS, RingHashSpec, RingPoint, key_hash, owner_index};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its back address.
    pub address: IpAddr,
}

/// The cluster as the daemon's configuration says at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    epoch: u64,
    own: usize,
    members: Vec<Member>,
    hash: RingHashSpec,
    points: Vec<RingPoint>,
}

impl Cluster {
    /// A cluster; `own` is the place of this node among the members, `points` the ring of requests. `None` when they
    /// don't go together: `own` or a point's node is no member, a name is empty, points don't ascend or are too many.
    #[must_use]
    pub fn new(
        epoch: u64,
        own: usize,
        members: Vec<Member>,
        hash: RingHashSpec,
        points: Vec<RingPoint>,
    ) -> Option<Self> {
        let count = members.len();
        let right = own < count
            && u16::try_from(count).is_ok()
            && members.iter().all(|member| !member.name.is_empty())
            && points.len() <= MAX_POINTS as usize
            && points.iter().all(|point| (point.node as usize) < count)
            && points.is_sorted_by(|a, b| a.hash < b.hash);
        right.then_some(Self {
            epoch,
            own,
            members,
            hash,
            points,
        })
    }

    /// The number of the published ring: higher after each reload.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All nodes, this one included.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> &Member {
        &self.members[self.own]
    }

    /// The node with this name, or with this back address as text.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        let named = self.members.iter().find(|member| member.name == name);
        named.or_else(|| {
            let address: IpAddr = name.parse().ok()?;
            self.members
                .iter()
                .find(|member| member.address == address.to_canonical())
        })
    }

    /// The node that `key` belongs to on the ring of requests: with a request's target (path and query) as the key, the
    /// one that `to = { hash = "uri" }` would choose. `None` when the ring has no points.
    #[must_use]
    pub fn ring_lookup(&self, key: &[u8]) -> Option<&Member> {
        let count = u32::try_from(self.points.len()).ok()?;
        let point = |i: u32| self.points.get(i as usize).copied();
        let owner = owner_index(count, key_hash(&self.hash, key), point)?;
        self.members.get(owner.node as usize)
    }

    pub(crate) fn own_index(&self) -> usize {
        self.own
    }

    pub(crate) fn hash(&self) -> &RingHashSpec {
        &self.hash
    }

    pub(crate) fn points(&self) -> &[RingPoint] {
        &self.points
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use dts_core::addr::Addr;
    use dts_core::ring::{RingHash, point_hash};

    use super::*;

    pub(crate) fn sample(hash: RingHash) -> Cluster {
        let members: Vec<Member> = (1..4u8)
            .map(|n| Member {
                name: format!("n{n}"),
                address: IpAddr::from([198, 18, 1, 10 + n]),
            })
            .collect();
        let spec = RingHashSpec::from(hash);
        let mut points: Vec<RingPoint> = (0..members.len() as u32)
            .flat_map(|node| (0..63).map(move |index| (node, index)))
            .map(|(node, index)| {
                let address = Addr::from(members[node as usize].address);
                RingPoint::new(point_hash(&spec, &address, index), node)
            })
            .collect();
        points.sort_by_key(|point| point.hash);
        Cluster::new(7, 1, members, spec, points).expect("consistent")
    }

    #[test]
    fn keys_are_looked_up_as_the_paper_says() {
        let cluster = sample(RingHash::Md5);
        for key in ["/", "/downloads/a.iso", ""] {
            let place = key_hash(cluster.hash(), key.as_bytes());
            let before = cluster.points().iter().rfind(|point| point.hash <= place);
            let owner = before
                .or(cluster.points().last())
                .expect("there are points");
            let expected = &cluster.members()[owner.node as usize];
            assert_eq!(cluster.ring_lookup(key.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn members_are_found_by_name_and_by_address() {
        let cluster = sample(RingHash::Md5);
        assert_eq!(cluster.own().name, "n2");
        for name in ["n3", "198.18.1.13", "::ffff:198.18.1.13"] {
            assert_eq!(cluster.member(name).expect(name).name, "n3");
        }
        for name in ["", "n4", "198.18.1.14", "198.18.1.13 "] {
            assert_eq!(cluster.member(name), None, "{name}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_no_cluster() {
        let good = sample(RingHash::Md5);
        let made = |own, members: &[Member], points: &[RingPoint]| {
            Cluster::new(1, own, members.to_vec(), *good.hash(), points.to_vec())
        };
        let (members, points) = (good.members(), good.points());
        assert!(made(2, members, points).is_some());
        assert!(made(3, members, points).is_none());
        assert!(made(0, &members[..2], points).is_none());
        assert!(made(0, &[], &[]).is_none());
        let twice = [points[0], points[0]];
        assert!(made(0, members, &twice).is_none());
        assert!(made(0, members, &[points[1], points[0]]).is_none());
        let unnamed = Member {
            name: String::new(),
            ..members[0].clone()
        };
        assert!(made(0, &[unnamed], &[]).is_none());
        let alone = made(0, &members[..1], &[]).expect("a ring may be empty");
        assert_eq!(alone.ring_lookup(b"/"), None);
    }
}
