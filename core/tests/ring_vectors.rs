//! The ring against vectors made by an independent implementation (`vectors/README.md`).

use std::net::IpAddr;

use dts_core::addr::Addr;
use dts_core::ring::{
    RingHash, RingHashSpec, RingPoint, flow_hash, key_hash, owner_index, point_hash,
};

const VECTORS: &str = include_str!("vectors/ring.tsv");
const VIRTUAL_NODES: u32 = 63;

#[test]
fn the_ring_agrees_with_the_vectors() {
    let mut checked = [0; 4];
    for (number, line) in (1..).zip(VECTORS.lines()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let kind = match fields[..] {
            ["point", hash, addr, index, expected] => {
                let hash = point_hash(&spec(hash), &addr_of(addr), index.parse().unwrap());
                assert_eq!(format!("{hash:016x}"), expected, "line {number}");
                0
            }
            ["flow", hash, addr, port, expected] => {
                let hash = flow_hash(&spec(hash), &addr_of(addr), port.parse().unwrap());
                assert_eq!(format!("{hash:016x}"), expected, "line {number}");
                1
            }
            ["key", hash, key, expected] => {
                let hash = key_hash(&spec(hash), key.as_bytes());
                assert_eq!(format!("{hash:016x}"), expected, "line {number}");
                2
            }
            ["owner", hash, members, addr, port, expected] => {
                let members: Vec<&str> = members.split(',').collect();
                let spec = spec(hash);
                let flow = flow_hash(&spec, &addr_of(addr), port.parse().unwrap());
                assert_eq!(owner(&spec, &members, flow), expected, "line {number}");
                3
            }
            _ => panic!("line {number}: unknown vector {line:?}"),
        };
        checked[kind] += 1;
    }
    assert_eq!(checked, [60, 72, 21, 144], "vectors of each kind");
}

fn owner<'a>(spec: &RingHashSpec, members: &[&'a str], flow: u64) -> &'a str {
    let mut points: Vec<RingPoint> = (0..)
        .zip(members)
        .flat_map(|(node, member)| {
            (0..VIRTUAL_NODES)
                .map(move |i| RingPoint::new(point_hash(spec, &addr_of(member), i), node))
        })
        .collect();
    points.sort_by_key(|point| point.hash);
    let count = points.len().try_into().unwrap();
    let point = owner_index(count, flow, |i| points.get(i as usize).copied()).unwrap();
    members[point.node as usize]
}

fn addr_of(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn spec(name: &str) -> RingHashSpec {
    let hash = match name.strip_prefix("siphash:") {
        Some(hex) => {
            let bytes = u128::from_str_radix(hex, 16).unwrap().to_be_bytes();
            RingHash::SipHash { key: bytes }
        }
        None => {
            assert_eq!(name, "md5");
            RingHash::Md5
        }
    };
    hash.into()
}
