//! The consistent-hash ring (DTS §2.3, §3.1).
//!
//! The ring is the circle of 64-bit hash values. Every node has points on it, its virtual nodes; a
//! point owns the arc from its own hash up to, but not including, the next point's:
//! `h(n_i) <= h(a, p) < h(n_j)`. The arc of the highest point wraps around zero. When a node leaves,
//! its arcs fall to the points before them; no other flow changes its owner (§2.5).
//!
//! The filter decides with this code whether a new connection is its node's, user space predicts and
//! displays the same, and the inspector places requests by it (§4.4.1). All of them must agree, so
//! the encodings are fixed here and nowhere else.
//!
//! # What is hashed
//!
//! An address is its 4 bytes (IPv4) or 16 bytes (IPv6) in network order. An IPv4-mapped IPv6 address
//! is the IPv4 address. Numbers are big-endian.
//!
//! | Hashed | Bytes | Length |
//! |---|---|---|
//! | point | node's back address, `u32` index of the virtual node, from 0 | 8 or 20 |
//! | flow | remote address, `u16` remote port | 6 or 18 |
//! | key | the key itself, for instance a request target | any |
//!
//! Points and flows never have the same length, so no flow's input is also a point's.
//!
//! # How it is hashed
//!
//! | Hash | 64-bit value |
//! |---|---|
//! | MD5 | the first 8 bytes of the digest, big-endian: the first 16 digits that `md5sum` prints |
//! | SipHash | SipHash-2-4's output with the cluster's 128-bit ring key |
//!
//! With MD5, as in the paper, everybody can compute who will inspect a connection, and a client that
//! picks its ports can send all its connections to one node. SipHash with a secret key takes that away.
//!
//! # Ties
//!
//! Where points of several nodes have the same hash, the node with the lowest address
//! ([`Addr`]'s order) owns the arc. A published ring holds only that point, so hashes on it are
//! strictly ascending and the outcome doesn't depend on the order in which members were listed.
//!
//! # Examples
//!
//! MD5, to be checked by hand with `printf '\xc6\x12\x01\x0b\0\0\0\0' | md5sum` (the point) and
//! `printf '\xc6\x12\0\xc8\x9c\x40' | md5sum` (the flow):
//!
//! ```
//! use dts_core::addr::Addr;
//! use dts_core::ring::{RingHash, RingHashSpec, flow_hash, key_hash, point_hash};
//!
//! let md5 = RingHashSpec::from(RingHash::Md5);
//! assert_eq!(point_hash(&md5, &Addr::v4([198, 18, 1, 11]), 0), 0xf81c_8fd7_8684_e5b1);
//! assert_eq!(flow_hash(&md5, &Addr::v4([198, 18, 0, 200]), 40000), 0x8aed_e55b_cb71_aafb);
//! assert_eq!(key_hash(&md5, b"/downloads/a.iso"), 0x53e6_f86f_0feb_8041);
//! ```
//!
//! More of them, for both hashes and both address families, are in `core/tests/vectors`.

use core::fmt;

use crate::addr::Addr;
use crate::md5;
use crate::siphash::{siphash24, siphash24_array};

/// The most points a ring may hold.
pub const MAX_POINTS: u32 = 16384;

/// Steps in which a binary search over [`MAX_POINTS`] is certain to end.
const SEARCH_STEPS: u32 = 16;

const _: () = assert!(MAX_POINTS < 1 << (SEARCH_STEPS - 1));

/// A point of the published ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RingPoint {
    /// Where on the ring: the point's arc begins here.
    pub hash: u64,
    /// Index of the node that owns the arc.
    pub node: u32,
    /// Always 0: makes the layout free of padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<RingPoint>() == 16);

impl RingPoint {
    /// A point of node number `node` at `hash`.
    pub const fn new(hash: u64, node: u32) -> Self {
        Self { hash, node, pad: 0 }
    }
}

/// The ring's hash function.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RingHash {
    /// MD5, the paper's.
    Md5,
    /// SipHash-2-4 with a key that only the cluster knows.
    SipHash {
        /// The key, derived from the cluster's secret.
        key: [u8; 16],
    },
}

impl fmt::Debug for RingHash {
    /// Leaves out the key: it must not end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "Md5",
            Self::SipHash { .. } => "SipHash { .. }",
        })
    }
}

/// A [`RingHash`] in the layout shared with the kernel: 24 bytes without padding.
///
/// Made from a `RingHash`; all bytes zero mean MD5.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RingHashSpec {
    kind: u32,
    pad: u32,
    key: [u8; 16],
}

const _: () = assert!(size_of::<RingHashSpec>() == 24);

impl RingHashSpec {
    /// `kind` of a keyed ring. Every other value is MD5.
    const SIPHASH: u32 = 1;

    /// The key, where SipHash is used.
    #[inline(always)]
    #[must_use]
    pub const fn siphash_key(&self) -> Option<&[u8; 16]> {
        if self.kind == Self::SIPHASH {
            Some(&self.key)
        } else {
            None
        }
    }
}

impl From<RingHash> for RingHashSpec {
    fn from(hash: RingHash) -> Self {
        match hash {
            RingHash::Md5 => Self::default(),
            RingHash::SipHash { key } => Self {
                kind: Self::SIPHASH,
                pad: 0,
                key,
            },
        }
    }
}

impl From<RingHashSpec> for RingHash {
    fn from(spec: RingHashSpec) -> Self {
        match spec.kind {
            RingHashSpec::SIPHASH => Self::SipHash { key: spec.key },
            _ => Self::Md5,
        }
    }
}

impl fmt::Debug for RingHashSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RingHash::from(*self).fmt(f)
    }
}

/// Where virtual node number `index` of the node with the back address `node` is on the ring.
pub fn point_hash(spec: &RingHashSpec, node: &Addr, index: u32) -> u64 {
    address_hash::<4, 8, 20>(spec, node, &index.to_be_bytes())
}

/// Where a flow from `remote_port` (a number) of `remote` is on the ring.
#[inline]
pub fn flow_hash(spec: &RingHashSpec, remote: &Addr, remote_port: u16) -> u64 {
    address_hash::<2, 6, 18>(spec, remote, &remote_port.to_be_bytes())
}

/// Where a key, such as a request target, is on the ring.
pub fn key_hash(spec: &RingHashSpec, key: &[u8]) -> u64 {
    match spec.kind {
        RingHashSpec::SIPHASH => siphash24(&spec.key, key),
        _ => {
            let [a, b, c, d, e, f, g, h, ..] = md5::digest(key);
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    }
}

/// The point that owns `hash` on a ring of `count` points: the last one at or before it, else the
/// last of all.
///
/// `point(i)` is the ring's point number `i`; points must ascend strictly by hash. The kernel passes
/// a map lookup, user space a slice. `None` when the ring is empty, larger than [`MAX_POINTS`], or
/// when `point` has none at a number below `count`.
#[inline(always)]
pub fn owner_index(
    count: u32,
    hash: u64,
    point: impl Fn(u32) -> Option<RingPoint>,
) -> Option<RingPoint> {
    if count == 0 || count > MAX_POINTS {
        return None;
    }
    // The points below `low` are at or before `hash`, the points from `high` on are after it.
    let mut low = 0;
    let mut high = count;
    // A counted loop: the verifier has to see that it ends.
    for _ in 0..SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        if point(middle)?.hash <= hash {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    point(if low == 0 { count - 1 } else { low - 1 })
}

/// Hashes an address followed by `tail`: `SHORT` bytes with an IPv4 address, `LONG` with IPv6.
#[inline(always)]
fn address_hash<const TAIL: usize, const SHORT: usize, const LONG: usize>(
    spec: &RingHashSpec,
    addr: &Addr,
    tail: &[u8; TAIL],
) -> u64 {
    let v4 = addr.v4_octets();
    let v6 = addr.bytes16();
    match (spec.kind, v4) {
        (RingHashSpec::SIPHASH, Some(v4)) => {
            siphash24_array::<SHORT>(&spec.key, &concat(&v4, tail))
        }
        (RingHashSpec::SIPHASH, None) => siphash24_array::<LONG>(&spec.key, &concat(&v6, tail)),
        // MD5's 64 steps are in the program once, for both families.
        (_, v4) => match v4 {
            Some(v4) => md5::Block::new(&concat::<_, _, SHORT>(&v4, tail)),
            None => md5::Block::new(&concat::<_, _, LONG>(&v6, tail)),
        }
        .digest_prefix(),
    }
}

/// The `A` bytes of `a` followed by the `B` bytes of `b`.
#[inline(always)]
fn concat<const A: usize, const B: usize, const N: usize>(a: &[u8; A], b: &[u8; B]) -> [u8; N] {
    const { assert!(A + B == N, "the result has another length than its parts") };
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(a.iter().chain(b)) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn owner(points: &[RingPoint], hash: u64) -> Option<u32> {
        let count = points.len() as u32;
        owner_index(count, hash, |i| points.get(i as usize).copied()).map(|point| point.node)
    }

    /// A ring of distinct random points; node numbers are positions.
    fn ring(
        sizes: impl Into<prop::collection::SizeRange>,
    ) -> impl Strategy<Value = Vec<RingPoint>> {
        prop::collection::btree_set(any::<u64>(), sizes).prop_map(|hashes| {
            (0..)
                .zip(hashes)
                .map(|(node, hash)| RingPoint::new(hash, node))
                .collect()
        })
    }

    #[test]
    fn an_arc_begins_at_its_point_and_ends_before_the_next() {
        let points = [
            RingPoint::new(100, 0),
            RingPoint::new(200, 1),
            RingPoint::new(300, 2),
        ];
        for (hash, expected) in [
            (100, 0),
            (199, 0),
            (200, 1),
            (299, 1),
            (300, 2),
            (u64::MAX, 2),
            (0, 2),
            (99, 2),
        ] {
            assert_eq!(owner(&points, hash), Some(expected), "hash {hash}");
        }
    }

    #[test]
    fn a_single_point_owns_the_whole_ring() {
        let points = [RingPoint::new(u64::MAX, 7)];
        for hash in [0, 1, u64::MAX - 1, u64::MAX] {
            assert_eq!(owner(&points, hash), Some(7));
        }
    }

    #[test]
    fn an_empty_an_oversized_and_a_truncated_ring_have_no_owner() {
        assert_eq!(owner(&[], 5), None);
        let point = |i| Some(RingPoint::new(u64::from(i), i));
        assert_eq!(owner_index(MAX_POINTS + 1, 5, point), None);
        assert_eq!(owner_index(4, 5, |_| None), None);
    }

    #[test]
    fn the_search_ends_on_the_largest_ring() {
        let point = |i| Some(RingPoint::new(u64::from(i) << 40, i));
        for node in [0, 1, 8191, 8192, MAX_POINTS - 2, MAX_POINTS - 1] {
            let begin = u64::from(node) << 40;
            for hash in [begin, begin + 1, begin + (1 << 40) - 1] {
                assert_eq!(owner_index(MAX_POINTS, hash, point).unwrap().node, node);
            }
        }
    }

    #[test]
    fn a_debug_print_does_not_show_the_key() {
        let hash = RingHash::SipHash { key: [0xab; 16] };
        let printed = std::format!("{hash:?} {:?}", RingHashSpec::from(hash));
        assert_eq!(printed, "SipHash { .. } SipHash { .. }");
    }

    proptest! {
        #[test]
        fn the_search_finds_what_a_scan_finds(
            points in ring(1..200),
            hash: u64,
            near: prop::sample::Index,
        ) {
            let at_point = points[near.index(points.len())].hash;
            for hash in [hash, at_point, at_point.wrapping_sub(1), at_point.wrapping_add(1)] {
                let before = points.iter().rev().find(|point| point.hash <= hash);
                let scanned = before.or(points.last());
                prop_assert_eq!(owner(&points, hash), scanned.map(|point| point.node));
            }
        }

        #[test]
        fn the_shared_layout_keeps_the_hash(key: [u8; 16]) {
            for hash in [RingHash::Md5, RingHash::SipHash { key }] {
                prop_assert_eq!(RingHash::from(RingHashSpec::from(hash)), hash);
            }
        }

        #[test]
        fn hashes_are_those_of_the_documented_bytes(
            key: [u8; 16],
            v4: [u8; 4],
            v6: [u8; 16],
            port: u16,
            index: u32,
        ) {
            for hash in [RingHash::Md5, RingHash::SipHash { key }] {
                let spec = RingHashSpec::from(hash);
                let (port_bytes, index_bytes) = (port.to_be_bytes(), index.to_be_bytes());
                let v6 = Addr::v6(v6);
                prop_assume!(!v6.is_v4());
                for (addr, bytes) in [(Addr::v4(v4), &v4[..]), (v6, &v6.bytes16()[..])] {
                    let flow = [bytes, &port_bytes].concat();
                    prop_assert_eq!(flow_hash(&spec, &addr, port), key_hash(&spec, &flow));
                    let point = [bytes, &index_bytes].concat();
                    prop_assert_eq!(point_hash(&spec, &addr, index), key_hash(&spec, &point));
                }
            }
        }
    }
}
