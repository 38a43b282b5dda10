//! The ring, and who owns what on it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use dts_core::addr::Addr;
use dts_core::ring::{RingHash, flow_hash, key_hash};
use serde::{Deserialize, Serialize};

use crate::config::Member;
use crate::placement::{NodeIndex, Ring};

/// What is asked about the ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RingQuery {
    /// Whether all points are wanted.
    pub points: bool,
    /// Whose owner is wanted.
    pub lookup: Option<Lookup>,
}

/// Something that has an owner on the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lookup {
    /// A connection from this address and port: who inspects it.
    Flow(SocketAddr),
    /// A key, such as a request target: whom it belongs to with `hash = "uri"`.
    Key(String),
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flow(remote) => write!(f, "flow from {remote}"),
            Self::Key(key) => write!(f, "key {key}"),
        }
    }
}

/// Answer to `ring`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingView {
    /// The version.
    pub epoch: u64,
    /// The hash function.
    pub hash: RingHashName,
    /// Points of each node that has any.
    pub virtual_nodes: u16,
    /// All nodes of the cluster, those without points included.
    pub members: Vec<RingMemberView>,
    /// The owner of what was looked up; `None` when nothing was, or the ring is empty.
    pub owner: Option<OwnerView>,
    /// All points, ascending by hash, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub points: Option<Vec<PointView>>,
}

/// A hash function, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RingHashName {
    /// The paper's.
    Md5,
    /// SipHash-2-4 with a key that only the cluster knows.
    SipHash,
}

impl RingHashName {
    /// The name in the configuration and in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::SipHash => "siphash",
        }
    }
}

/// A node's part of the ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingMemberView {
    /// Its name.
    pub id: String,
    /// Its back address.
    pub address: IpAddr,
    /// Its points.
    pub points: usize,
    /// The fraction of the hash space that it owns, 0 to 1.
    pub share: f64,
}

/// The owner of what was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerView {
    /// What was looked up.
    pub of: Lookup,
    /// Where on the ring that is: 16 hexadecimal digits.
    pub hash: String,
    /// The owner's name.
    pub id: String,
    /// The owner's back address.
    pub address: IpAddr,
}

/// A point. The hash is text because JSON's numbers need not hold 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// Where it is: 16 hexadecimal digits.
    pub hash: String,
    /// The name of the node that it belongs to.
    pub id: String,
}

impl RingView {
    /// Describes a ring. `members` is the list that the ring was built from: node numbers are positions in it.
    pub fn new(ring: &Ring, members: &[Member], virtual_nodes: u16, query: &RingQuery) -> Self {
        let shares = ring.shares();
        let view_of = |(position, member): (usize, &Member)| {
            let index = NodeIndex(position as u32);
            RingMemberView {
                id: member.id.to_string(),
                address: member.address,
                points: points_of(ring, index),
                share: shares.get(&index).copied().unwrap_or(0.0),
            }
        };
        Self {
            epoch: ring.epoch(),
            hash: match RingHash::from(*ring.hash()) {
                RingHash::Md5 => RingHashName::Md5,
                RingHash::SipHash { .. } => RingHashName::SipHash,
            },
            virtual_nodes,
            members: members.iter().enumerate().map(view_of).collect(),
            owner: query
                .lookup
                .as_ref()
                .and_then(|lookup| owner(ring, members, lookup)),
            points: query.points.then(|| points(ring, members)),
        }
    }
}

fn points_of(ring: &Ring, index: NodeIndex) -> usize {
    let points = ring.points().iter();
    points.filter(|point| point.node == index.0).count()
}

fn owner(ring: &Ring, members: &[Member], lookup: &Lookup) -> Option<OwnerView> {
    let hash = match lookup {
        Lookup::Flow(remote) => flow_hash(ring.hash(), &Addr::from(remote.ip()), remote.port()),
        Lookup::Key(key) => key_hash(ring.hash(), key.as_bytes()),
    };
    let member = members.get(ring.owner_of_hash(hash)?.0 as usize)?;
    Some(OwnerView {
        of: lookup.clone(),
        hash: hex(hash),
        id: member.id.to_string(),
        address: member.address,
    })
}

fn points(ring: &Ring, members: &[Member]) -> Vec<PointView> {
    let points = ring.points().iter();
    points
        .filter_map(|point| {
            let member = members.get(point.node as usize)?;
            Some(PointView {
                hash: hex(point.hash),
                id: member.id.to_string(),
            })
        })
        .collect()
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dts_core::ring::RingHashSpec;

    use super::*;
    use crate::config::Config;
    use crate::placement::RingMember;

    /// Two nodes with points and one without.
    fn members() -> Vec<Member> {
        let text = r#"
            [cluster]
            name = "demo"
            secret_file = "/etc/dts/secret"
            [node]
            id = "n1"
            front = "eth0"
            back = "eth1"
            address = "198.18.1.11"
            [membership]
            source = "static"
            members = [
                { id = "n1", address = "198.18.1.11" },
                { id = "n2", address = "198.18.1.12" },
                { id = "n3", address = "198.18.1.13", inspect = false },
            ]
            [[service]]
            name = "plain"
            vip = "198.18.0.100"
            port = 80
            mode = "l4"
        "#;
        let (config, _) = Config::parse(Path::new("dts.toml"), text).unwrap();
        config.members
    }

    fn view(query: &RingQuery) -> RingView {
        let members = members();
        let parts: Vec<_> = members
            .iter()
            .zip(0..)
            .map(|(member, index)| RingMember {
                index: NodeIndex(index),
                address: member.address.into(),
                points: if member.inspect { 63 } else { 0 },
            })
            .collect();
        let ring = Ring::build(4, RingHashSpec::from(RingHash::Md5), &parts).unwrap();
        RingView::new(&ring, &members, 63, query)
    }

    #[test]
    fn a_member_without_points_is_listed_with_nothing() {
        let view = view(&RingQuery::default());
        assert_eq!(
            (view.epoch, view.hash, view.points),
            (4, RingHashName::Md5, None)
        );
        let points: Vec<_> = view.members.iter().map(|member| member.points).collect();
        assert_eq!(points, [63, 63, 0]);
        assert_eq!(view.members[2].share, 0.0);
        let total: f64 = view.members.iter().map(|member| member.share).sum();
        assert!((total - 1.0).abs() < 1e-9, "{total}");
    }

    #[test]
    fn an_owner_is_the_one_of_the_point_at_or_before() {
        // The hashes are those that `md5sum` gives, see `dts_core::ring`.
        let lookups = [
            (
                Lookup::Flow("198.18.0.200:40000".parse().unwrap()),
                "8aede55bcb71aafb",
            ),
            (
                Lookup::Key("/downloads/a.iso".to_owned()),
                "53e6f86f0feb8041",
            ),
        ];
        for (lookup, hash) in lookups {
            let view = view(&RingQuery {
                points: true,
                lookup: Some(lookup.clone()),
            });
            let points = view.points.unwrap();
            assert_eq!(points.len(), 126);
            // Hexadecimal digits of one length sort like the numbers.
            let before = points.iter().rfind(|point| point.hash.as_str() <= hash);
            let owner = view.owner.unwrap();
            assert_eq!((owner.of, owner.hash.as_str()), (lookup, hash));
            assert_eq!(owner.id, before.unwrap_or(&points[125]).id);
        }
    }

    #[test]
    fn queries_read_as_documented() {
        let query: RingQuery =
            serde_json::from_str(r#"{"lookup":{"flow":"198.18.0.1:4000"}}"#).unwrap();
        assert_eq!(
            query.lookup,
            Some(Lookup::Flow("198.18.0.1:4000".parse().unwrap()))
        );
        assert!(serde_json::from_str::<RingQuery>(r#"{"look":1}"#).is_err());
    }
}
