//! A million random and mutated frames: whatever arrives, a program returns a known code, counts the
//! packet once, under a verdict that fits the code, and leaves right checksums right.

mod frames;
mod shop;

use dts_core::addr::FlowKey;
use dts_core::entry::{ConnEntry, Handover, SEND_ON, flag, state};
use dts_core::segment::{ACK, FIN, REQUEST_END_BIT, RST, SYN};
use dts_core::seq::Seq;
use dts_core::verdict::{Action, DropReason, Verdict};

use self::frames::any_frame;
use crate::adopting::{ADOPT_FRAME, ADOPT_HERE, SHOP};
use crate::bench::{
    BACK_MAC, Bench, CLIENT, CLIENT_MAC, FRONT_MAC, HANDOVER, INSPECTOR, KEY, MAIL, OWN, PEER,
    PEER_MAC, REDIRECT, SELF_ADDRESS, SHOT, STRANGER, UNSPEC, VIP, VIP_MAC, W, WEB, X, Y, client,
    flow, handover_syn, option, own, peer, released, server, syn, timestamps,
};
use crate::frame::{ETH, Ip, Mac, Sums, Tcp, arp, checksums, fragment, icmp, mend, neighbour};
use crate::world::{WORLDS, World, addr};

const BATCHES: usize = 50;
const BATCH: usize = 20_000;

/// Fewer than a batch's SYNs would fill: the table must be seen full.
const ROOM: u32 = 400;

/// Flows with entries, some in each state.
const FLOWS: u16 = 200;
const FIRST_PORT: u16 = 40_000;
/// The first port of handover connections of this node's, and of the peer's.
const FIRST_OWN: u16 = 20_000;
const FIRST_PEER: u16 = 30_000;

const PROGRAMS: [&str; 4] = [
    "front_ingress",
    "front_egress",
    "back_ingress",
    "back_egress",
];

/// What programs and daemon leave for each other; the last one is somebody else's.
const MARKS: [u32; 7] = [
    FROM_BACK,
    TO_CLIENT,
    SEND_ON,
    ADOPT_HERE,
    ADOPT_FRAME,
    ADOPT_FRAME + 0xff,
    7,
];
const FROM_BACK: u32 = 0x4454_5301;
const TO_CLIENT: u32 = 0x4454_5302;

#[test]
fn a_million_frames_each_meet_one_named_verdict() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let bench = Bench::new(ROOM);
    let mut seen = vec![0; bench.stats().len()];
    for batch in 0..BATCHES {
        WORLDS[batch / 4 % WORLDS.len()].enter();
        bench.set_up();
        populate(&bench);
        shop::populate(&bench);
        bench.own(batch % 4 != 3);
        bench.lease(batch % 8 != 5);
        run_batch(&bench, &mut rng, &mut seen, seed);
        bench.clear();
        // A daemon that is behind: several batches of requests fill the ring buffer.
        if batch % 16 == 15 {
            bench.take_requests();
        }
    }
    let never: Vec<_> = (0..)
        .zip(&seen)
        .filter(|(_, count)| **count == 0)
        .filter_map(|(index, _)| Verdict::from_counter(index))
        .collect();
    // What takes a socket of the kernel, a listener too, or a cleared ring is met in `table`. `Adopted` takes an interface
    // as well, `MovedOn` an adopted socket, and the random records say nothing of one that has moved.
    let unreachable = [
        Verdict::Done(Action::Challenge),
        Verdict::Done(Action::TimeWaitKilled),
        Verdict::Done(Action::Adopted),
        Verdict::Done(Action::MovedOn),
        Verdict::Drop(DropReason::MovedAway),
        Verdict::Drop(DropReason::NoRing),
        Verdict::Drop(DropReason::QueueFull),
        Verdict::Drop(DropReason::NotAdopted),
    ];
    assert_eq!(never, in_counter_order(unreachable), "verdicts never met");
}

fn in_counter_order<const N: usize>(mut verdicts: [Verdict; N]) -> [Verdict; N] {
    verdicts.sort_by_key(|verdict| verdict.counter());
    verdicts
}

fn run_batch(bench: &Bench, rng: &mut fastrand::Rng, seen: &mut [u64], seed: u64) {
    let before = bench.stats();
    let entries_before = bench.connections();
    let (mut dropped, mut accepted_syns) = (0, 0);
    for _ in 0..BATCH {
        let (program, mark, frame) = any_frame(rng);
        let ran = bench.filter.run_marked(program, mark, &frame);
        let (result, out) = ran.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        match result {
            SHOT => dropped += 1,
            UNSPEC | REDIRECT => {
                if checksums(&frame) == Sums::Right {
                    let sums = checksums(&out);
                    assert_eq!(
                        sums,
                        Sums::Right,
                        "seed {seed}: {program} made of {frame:02x?}, mark {mark:x}: {out:02x?}"
                    );
                }
                accepted_syns += usize::from(program == "front_ingress" && opens(&frame));
            }
            code => {
                panic!("seed {seed}: {program} returned {code} for {frame:02x?}, mark {mark:x}")
            }
        }
    }
    let after = bench.stats();
    let (mut done, mut drops, mut handovers, mut ended) = (0, 0, 0, 0);
    for (index, ((verdict, old), (_, new))) in before.iter().zip(&after).enumerate() {
        seen[index] += new - old;
        match verdict {
            Verdict::Drop(_) => drops += new - old,
            Verdict::Done(action) => {
                done += new - old;
                match action {
                    Action::HandoverSyn => handovers = (new - old) as usize,
                    Action::HandoverAck | Action::Inquired => ended += new - old,
                    _ => {}
                }
            }
        }
    }
    assert_eq!(done + drops, BATCH as u64, "seed {seed}: packets counted");
    let gone = drops + ended;
    assert_eq!(gone, dropped, "seed {seed}: packets that went no further");
    check_entries(bench, entries_before + accepted_syns + handovers, seed);
}

/// There are no more than `most` entries of the spliced service's, and all of them are good.
fn check_entries(bench: &Bench, most: usize, seed: u64) {
    let (entries, of_shop): (Vec<_>, Vec<_>) = bench
        .filter
        .connections()
        .expect("connections")
        .into_iter()
        .partition(|(key, _)| key.flow.local_port == WEB);
    // Of adopted connections only those become entries that had a record, or have one by their cookie.
    assert!(of_shop.len() <= usize::from(FLOWS), "seed {seed}");
    assert!(
        entries.len() <= most,
        "seed {seed}: {} entries instead of {most}",
        entries.len()
    );
    for (key, entry) in entries.into_iter().chain(of_shop) {
        let service = (key.flow.local, key.flow.local_port);
        let services = [WEB, SHOP].map(|port| (addr(VIP), port));
        assert!(services.contains(&service), "seed {seed}: {entry:?}");
        assert_ne!(
            state::name(entry.state),
            "unknown",
            "seed {seed}: {entry:?}"
        );
    }
}

/// Whether a frame is a TCP segment that opens a connection.
fn opens(frame: &[u8]) -> bool {
    let (l4, protocol) = match frame[ETH] >> 4 {
        // Behind whatever extension headers: more than are SYNs.
        6 => return frame.get(12..14) == Some(&[0x86, 0xdd]),
        _ => (ETH + usize::from(frame[ETH] & 0x0f) * 4, frame.get(ETH + 9)),
    };
    let flags = frame.get(l4 + 13).copied().unwrap_or(0);
    protocol == Some(&6) && flags & (SYN | ACK | RST) == SYN
}

/// Gives the flows entries in every state, and the handover connections that go with them.
fn populate(bench: &Bench) {
    for i in 0..FLOWS {
        let flow = nth(i);
        let inspecting = |change: &dyn Fn(&mut ConnEntry)| {
            bench.inspecting(flow, |e| {
                e.server_isn = Seq(Y);
                e.peer = addr(PEER);
                e.peer_port = FIRST_OWN + i;
                e.seq_delta = 77;
                change(e);
            });
            let handover = Handover {
                flow,
                target: addr(if i % 2 == 0 { PEER } else { SELF_ADDRESS }),
                flags: (flag::REQUEST_END * u32::from(i % 3 == 0))
                    | (flag::SELF * u32::from(i % 2)),
                request_len: 100,
                ..Handover::default()
            };
            bench.filter.set_handover(FIRST_OWN + i, &handover);
        };
        let processing = |change: &dyn Fn(&mut ConnEntry)| {
            bench.processing(flow, FIRST_PEER + i, |e| {
                e.seq_delta = Y.wrapping_sub(W);
                e.ts_delta = 0x7654_3210;
                e.own_scale = 6;
                e.request_end = Seq(X).plus(101);
                change(e);
            });
        };
        match i % 10 {
            0 => {}
            1 => inspecting(&|_| {}),
            2 => inspecting(&|e| e.flags |= flag::ANSWERED),
            3 => inspecting(&|e| e.state = state::FROZEN),
            4 => inspecting(&|e| e.state = state::PLACED),
            5 => processing(&|_| {}),
            6 => processing(&|e| e.flags |= flag::ANSWERED | flag::REQUEST_END),
            7 => processing(&|e| {
                e.state = state::DIRECT;
                e.flags |= flag::ANSWERED | flag::REQUEST_END;
            }),
            8 => processing(&|e| {
                e.state = state::DIRECT;
                e.flags |= flag::ANSWERED | flag::ENDED;
            }),
            _ => {
                inspecting(&|e| {
                    e.state = state::PLACED;
                    e.flags |= flag::SELF;
                });
                processing(&|e| {
                    e.state = state::DIRECT;
                    e.flags |= flag::ANSWERED | flag::SELF;
                });
            }
        }
    }
}

fn nth(i: u16) -> FlowKey {
    flow(FIRST_PORT + i, WEB)
}
