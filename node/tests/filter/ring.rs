//! Kernel and user space agree on whose a flow is (DTS §2.3).

use dts_core::addr::Addr;
use dts_core::ring::{RingHash, RingHashSpec};
use dts_node::placement::{NodeIndex, Ring, RingMember};
use std::time::Duration;

use crate::bench::Bench;
use crate::frame::ETH;

/// Over all rings and both hashes together.
const FLOWS: usize = 1_000_000;

/// Virtual nodes of each member: one ring per row.
const RINGS: [&[u16]; 7] = [
    &[63],
    &[63, 63],
    &[63, 0],
    &[100, 0, 1, 30],
    &[63; 8],
    &[63; 16],
    &[1023; 16],
];

#[test]
fn kernel_and_user_space_agree_on_a_million_flows() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let bench = Bench::new(64);
    let hashes = [
        RingHash::Md5,
        RingHash::SipHash {
            key: *b"sixteen bytes ok",
        },
    ];
    let mut epoch = 0;
    for hash in hashes {
        for weights in RINGS {
            epoch += 1;
            let ring = ring(epoch, hash, weights);
            agree(
                &bench,
                &ring,
                weights,
                FLOWS.div_ceil(RINGS.len() * hashes.len()),
                &mut rng,
            );
        }
    }
}

fn ring(epoch: u64, hash: RingHash, weights: &[u16]) -> Ring {
    let members: Vec<_> = (0..)
        .zip(weights)
        .map(|(index, points)| RingMember {
            index: NodeIndex(index),
            address: Addr::v4([198, 18, 1, 11 + index as u8]),
            points: *points,
        })
        .collect();
    Ring::build(epoch, hash.into(), &members).expect("few points")
}

/// Asks the kernel about random flows, as each of the nodes in turn.
fn agree(bench: &Bench, ring: &Ring, weights: &[u16], flows: usize, rng: &mut fastrand::Rng) {
    let nodes = weights.len();
    let mut owned = vec![0; nodes];
    for node in 0..nodes as u32 {
        let published = bench.filter.publish_ring(
            node,
            ring.epoch(),
            *ring.hash(),
            ring.points(),
            Duration::ZERO,
        );
        published.expect("published");
        for _ in 0..flows.div_ceil(nodes) {
            let (remote, port) = (address(rng), rng.u16(..));
            let owner = ring
                .owner_of_flow(&remote, port)
                .expect("the ring has points");
            owned[owner.0 as usize] += 1;
            let expected = i32::from(owner == NodeIndex(node));
            let asked = ask(bench, &remote, port);
            assert_eq!(
                asked,
                expected,
                "node {node} of {weights:?}, {:?}: {remote} port {port} is node {owner}'s",
                ring.hash()
            );
        }
    }
    for (points, owned) in weights.iter().zip(owned) {
        // A test that asks about no flow of some node's would prove little.
        assert_eq!(*points == 0, owned == 0, "{owned} flows of {points} points");
    }
}

/// A client's address: mostly IPv4, some IPv6.
fn address(rng: &mut fastrand::Rng) -> Addr {
    if rng.u8(..) < 200 {
        Addr::v4(rng.u32(..).to_be_bytes())
    } else {
        Addr::v6(rng.u128(..).to_be_bytes())
    }
}

fn ask(bench: &Bench, remote: &Addr, port: u16) -> i32 {
    let mut frame = [0; ETH + 18];
    frame[ETH..ETH + 16].copy_from_slice(&remote.bytes16());
    frame[ETH + 16..].copy_from_slice(&port.to_be_bytes());
    bench.run("ring_owner", &frame).0
}

#[test]
fn without_lease_or_ring_no_flow_is_owned() {
    let bench = Bench::new(64);
    let remote = Addr::v4([198, 18, 0, 200]);
    bench.own(true);
    assert_eq!(ask(&bench, &remote, 1), 1);
    bench.lease(false);
    assert_eq!(ask(&bench, &remote, 1), 2);
    // The lease says nothing of what is another's anyway.
    bench.own(false);
    assert_eq!(ask(&bench, &remote, 1), 0);
    let empty = bench
        .filter
        .publish_ring(0, 9, RingHashSpec::default(), &[], Duration::ZERO);
    empty.expect("published");
    assert_eq!(ask(&bench, &remote, 1), 3);
}
