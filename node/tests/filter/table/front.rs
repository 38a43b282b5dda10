//! Rows of the clients' network.

use dts_core::entry::{flag, role, state};
use dts_core::ring::RingHashSpec;
use dts_core::segment::{ACK, FIN, RST, SYN};
use dts_core::seq::Seq;
use dts_core::verdict::{Action, DropReason};

use super::{
    DELTA, Out, PEER_PORT, REQUEST_END, Row, TS_DELTA, begun, direct, frame, frozen, handing,
    inspected, placed, sack, same_as, to, web,
};
use crate::bench::{
    BACK_MAC, Bench, CLIENT, CLIENT_MAC, DATA, FRONT_MAC, HANDOVER, INSPECTOR, KEY, MAIL, MOST,
    OWN, PEER, PEER_MAC, VIP, VIP_MAC, W, WEB, X, Y, client, flow, peer, released, server, syn,
    timestamps,
};
use crate::frame::{ETH, Ip, Tcp, arp, icmp, mend};

const IN: &str = "front_ingress";
const OUT: &str = "front_egress";

/// The marks that the programs leave for each other.
const FROM_BACK: u32 = 0x4454_5301;
const TO_CLIENT: u32 = 0x4454_5302;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(untouched());
    rows.extend(syns());
    rows.extend(refused());
    rows.extend(from_client());
    rows.extend(from_inspector());
    rows.extend(from_server());
    rows.extend(end_of_handover());
    rows.extend(arp_rows());
    rows.extend(icmp_rows());
    rows
}

fn nothing(_: &Bench) {}

fn not_owner(bench: &Bench) {
    bench.own(false);
}

/// A packet of another protocol, or to somewhere else.
fn packet(dst: [u8; 4], protocol: u8, payload: Vec<u8>) -> Ip {
    Ip {
        to: VIP_MAC,
        from: CLIENT_MAC,
        src: CLIENT,
        dst,
        options: vec![],
        protocol,
        fragment: 0,
        payload,
    }
}

fn untouched() -> Vec<Row> {
    let other = || same_as(Action::Other);
    let to_node = Tcp {
        dst: (OWN, 22),
        ..client(&web(), X, 0, SYN)
    };
    let mut tagged = frame(syn(&web()));
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    let v6 = [&VIP_MAC[..], &CLIENT_MAC, &[0x86, 0xdd, 0x60], &[7; 50]].concat();
    let mut marked = Row::done(
        "a packet that the back program has dealt with",
        IN,
        frame(syn(&web())),
        not_owner,
        same_as(Action::Redirected),
    );
    marked.mark = FROM_BACK;
    let mut copied = Row::done(
        "a copy that goes to the client",
        OUT,
        frame(server(&web(), 1, 1, ACK)),
        nothing,
        same_as(Action::ToClient),
    );
    copied.mark = TO_CLIENT;
    vec![
        Row::done(
            "TCP to the node itself",
            IN,
            frame(to_node),
            nothing,
            other(),
        ),
        Row::done(
            "UDP to the node itself",
            IN,
            packet(OWN, 17, vec![0; 9]).frame(),
            nothing,
            other(),
        ),
        Row::done("a VLAN frame", IN, tagged, nothing, other()),
        Row::done("IPv6", IN, v6, nothing, other()),
        Row::done(
            "a service's port that is none of ours, from the VIP",
            OUT,
            frame(server(&flow(40_000, 443), 1, 1, ACK)),
            nothing,
            other(),
        ),
        marked,
        copied,
    ]
}

fn syns() -> Vec<Row> {
    let to_inspector = |segment: Tcp| Tcp {
        dst: (VIP, INSPECTOR),
        ..segment
    };
    let ip_options = Tcp {
        ip_options: vec![1; 8],
        ..syn(&web())
    };
    let new = Tcp {
        seq: X.wrapping_add(90_000),
        ..syn(&web())
    };
    let mail = syn(&flow(40_000, MAIL));
    vec![
        Row::done(
            "an owned SYN begins an inspection",
            IN,
            frame(syn(&web())),
            nothing,
            to(Action::ToInspector, to_inspector(syn(&web()))),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::INSPECTING).expect("an entry");
            assert_eq!(
                (
                    e.state,
                    e.client_isn,
                    e.client_tsval,
                    e.client_mss,
                    e.client_scale
                ),
                (state::INSPECT, Seq(X), 1000, 1460, 7)
            );
        }),
        Row::done(
            "an owned SYN with IP options",
            IN,
            frame(ip_options.clone()),
            nothing,
            to(Action::ToInspector, to_inspector(ip_options)),
        ),
        Row::done(
            "an owned SYN without TCP options",
            IN,
            frame(client(&web(), X, 0, SYN)),
            nothing,
            to(Action::ToInspector, to_inspector(client(&web(), X, 0, SYN))),
        ),
        Row::done(
            "an owned SYN of a service that is not inspected",
            IN,
            frame(mail.clone()),
            nothing,
            same_as(Action::Pass),
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::drop(
            "another's SYN",
            IN,
            frame(syn(&web())),
            not_owner,
            DropReason::NotOwner,
        ),
        Row::drop(
            "another's SYN, not inspected",
            IN,
            frame(mail),
            not_owner,
            DropReason::NotOwner,
        ),
        Row::drop(
            "an owned SYN after the lease",
            IN,
            frame(syn(&web())),
            |bench| bench.lease(false),
            DropReason::LeaseExpired,
        ),
        Row::drop(
            "a SYN without a ring",
            IN,
            frame(syn(&web())),
            |bench| {
                let empty = bench
                    .filter
                    .publish_ring(0, 2, RingHashSpec::default(), &[]);
                empty.expect("published");
            },
            DropReason::NoRing,
        ),
        Row::drop(
            "a SYN for a flow that is being handed over",
            IN,
            frame(new.clone()),
            frozen,
            DropReason::AliveElsewhere,
        ),
        Row::drop(
            "a SYN for a flow that is alive at another node",
            IN,
            frame(new.clone()),
            placed,
            DropReason::AliveElsewhere,
        ),
        Row::drop(
            "the SYN of a connection that was handed over",
            IN,
            frame(syn(&web())),
            placed,
            DropReason::DuplicateSyn,
        ),
        Row::drop(
            "the SYN of a connection that was handed to us",
            IN,
            frame(syn(&web())),
            direct,
            DropReason::DuplicateSyn,
        ),
        Row::drop(
            "a SYN and no room",
            IN,
            frame(syn(&web())),
            |bench| {
                for port in 0..8 {
                    bench.inspecting(flow(50_000 + port, WEB), |_| {});
                }
            },
            DropReason::TableFull,
        ),
        Row::done(
            "the SYN that follows a connection that was handed to us goes to who inspected that",
            IN,
            frame(new.clone()),
            |bench| {
                direct_and_ended(bench);
                bench.own(false);
            },
            (Action::Released, Out::Passes(|out| is_release(out, &[]))),
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::done(
            "such a SYN with IP options",
            IN,
            frame(Tcp {
                ip_options: vec![1; 8],
                ..new
            }),
            |bench| {
                direct_and_ended(bench);
                bench.own(false);
            },
            (
                Action::Released,
                Out::Passes(|out| is_release(out, &[1; 8])),
            ),
        ),
        Row::drop(
            "a SYN after a connection that the inspecting node knows to be over",
            IN,
            frame(Tcp {
                seq: X.wrapping_add(90_000),
                ..syn(&web())
            }),
            |bench| {
                bench.processing(web(), PEER_PORT, |e| {
                    e.state = state::DIRECT;
                    e.flags |= flag::ANSWERED | flag::ENDED | flag::NOTED;
                });
                bench.own(false);
            },
            DropReason::NotOwner,
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::drop(
            "a SYN to be released that has no room for the release",
            IN,
            frame(Tcp {
                ip_options: vec![1; 28],
                seq: X.wrapping_add(90_000),
                ..syn(&web())
            }),
            |bench| {
                direct_and_ended(bench);
                bench.own(false);
            },
            DropReason::RewriteFailed,
        ),
    ]
}

fn direct_and_ended(bench: &Bench) {
    bench.processing(web(), PEER_PORT, |e| {
        e.state = state::DIRECT;
        e.flags |= flag::ANSWERED | flag::ENDED;
    });
}

/// A release, followed by the SYN's own IP options. It has the time in it: this second's or the one's before.
fn is_release(out: &[u8], ip_options: &[u8]) {
    let new = X.wrapping_add(90_000);
    let expected = [0, 1].map(|ago| {
        let mut segment = released(&web(), X, KEY);
        let (flow, at) = (web(), crate::bench::now().wrapping_sub(ago));
        let mut room = dts_core::handover::release::Room::default();
        dts_core::handover::release::emit(&KEY, &flow, [Seq(new), Seq(X)], at, &mut room);
        segment.ip_options = [&room.bytes[..], ip_options].concat();
        segment.seq = new;
        (segment.to, segment.from) = (PEER_MAC, BACK_MAC);
        hex::encode(frame(segment))
    });
    let out = hex::encode(out);
    assert!(expected.contains(&out), "{out}, not one of {expected:?}");
}

fn refused() -> Vec<Row> {
    let mut short_header = frame(client(&web(), 1, 1, ACK));
    short_header[ETH + 20 + 12] = 0x40;
    mend(&mut short_header);
    let mut short_packet = frame(syn(&web()));
    short_packet[ETH + 3] = 39;
    let cut = frame(syn(&web()))[..ETH + 40].to_vec();
    let mut first = frame(syn(&web()));
    first[ETH + 6..ETH + 8].copy_from_slice(&[0x20, 0]);
    let mut later = frame(client(&web(), 1, 1, ACK));
    later[ETH + 6..ETH + 8].copy_from_slice(&[0, 5]);
    let handover_in = Tcp {
        dst: (OWN, HANDOVER),
        ..client(&web(), X, 0, SYN)
    };
    let handover_reply = Tcp {
        src: (CLIENT, HANDOVER),
        dst: (OWN, 33_333),
        ..client(&web(), X, 0, SYN | ACK)
    };
    let drop = |name, frame, reason| Row::drop(name, IN, frame, nothing, reason);
    vec![
        drop(
            "another port",
            frame(syn(&flow(1, 443))),
            DropReason::NoService,
        ),
        drop(
            "UDP to the VIP",
            packet(VIP, 17, vec![0; 9]).frame(),
            DropReason::NoService,
        ),
        drop(
            "the inspector's port",
            frame(syn(&flow(1, INSPECTOR))),
            DropReason::InspectorPort,
        ),
        drop("a first fragment", first, DropReason::Fragment),
        drop("a later fragment", later, DropReason::Fragment),
        drop(
            "a header of sixteen bytes",
            short_header,
            DropReason::Malformed,
        ),
        drop(
            "a packet that ends in its header",
            short_packet,
            DropReason::Malformed,
        ),
        drop(
            "a frame that ends in its header",
            cut,
            DropReason::Malformed,
        ),
        drop(
            "a handover frame at the front",
            frame(handover_in),
            DropReason::HandoverOnFront,
        ),
        drop(
            "a handover's answer at the front",
            frame(handover_reply),
            DropReason::HandoverOnFront,
        ),
        drop(
            "a segment of a flow that we know nothing of",
            frame(client(&web(), 1, 1, ACK)),
            DropReason::NotMine,
        ),
        drop(
            "the same, not inspected",
            frame(client(&flow(1, MAIL), 1, 1, ACK)),
            DropReason::NotMine,
        ),
        Row::drop(
            "a client's segment after the handover",
            IN,
            frame(client(&web(), X.wrapping_add(1), 1, ACK)),
            placed,
            DropReason::HandedOver,
        ),
        Row::drop(
            "a client's segment before the server's answer",
            IN,
            frame(client(&web(), X.wrapping_add(1), 1, ACK)),
            begun,
            DropReason::TooEarly,
        ),
    ]
}

fn from_client() -> Vec<Row> {
    let x1 = X.wrapping_add(1);
    let request = Tcp {
        options: timestamps(1010, 4000),
        payload: b"GET / HTTP/1.1\r\n\r".to_vec(),
        window: 0x0202,
        ..client(&web(), x1, Y.wrapping_add(1), DATA)
    };
    let inspected_request = Tcp {
        dst: (VIP, INSPECTOR),
        ..request.clone()
    };
    let mut rows = vec![
        Row::done(
            "a request of odd length to the inspector",
            IN,
            frame(request),
            inspected,
            to(Action::ToInspector, inspected_request),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::INSPECTING).expect("an entry");
            assert_eq!((e.client_tsval, e.window), (1010, 0x0202));
        }),
    ];
    // To the server: acknowledgment, SACK blocks and timestamp echo shifted back.
    let seen = Y.wrapping_add(5000);
    let own = W.wrapping_add(5000);
    let edges = [seen.wrapping_add(10), seen.wrapping_add(20)];
    let own_edges = edges.map(|edge| edge.wrapping_sub(DELTA));
    let ts = |echo| timestamps(1020, echo);
    let odd = |echo: u32, edges: &[u32]| {
        let mut options = vec![1];
        options.extend(&ts(echo)[2..]);
        options.extend(&sack(edges)[2..]);
        options.extend([1, 1, 1]);
        options
    };
    let echo = 9000;
    let own_echo = 9000u32.wrapping_sub(TS_DELTA);
    let four = [edges, edges, edges].concat();
    let own_four = [own_edges, own_edges, own_edges].concat();
    for (name, before, after) in [
        ("no options", vec![], vec![]),
        ("timestamps", ts(echo), ts(own_echo)),
        ("an echo that is not set", ts(0), ts(0)),
        ("SACK without timestamps", sack(&edges), sack(&own_edges)),
        (
            "timestamps and three SACK blocks",
            [ts(echo), sack(&four)].concat(),
            [ts(own_echo), sack(&own_four)].concat(),
        ),
        (
            "options at odd offsets",
            odd(echo, &edges),
            odd(own_echo, &own_edges),
        ),
    ] {
        for (ip_options, payload) in [(0, 0), (0, 1), (4, 1001), (40, 2)] {
            let segment = |ack, options: &[u8]| Tcp {
                ip_options: vec![1; ip_options],
                options: options.to_vec(),
                payload: vec![0xa5; payload],
                ..client(&web(), x1, ack, DATA)
            };
            rows.push(Row::done(
                name,
                IN,
                frame(segment(seen, &before)),
                direct,
                to(Action::ToServer, segment(own, &after)),
            ));
        }
    }
    let reset = client(&web(), x1, 0, RST);
    rows.push(Row::done(
        "a client's reset, which acknowledges nothing",
        IN,
        frame(reset.clone()),
        handing,
        to(Action::ToServer, reset),
    ));
    rows
}

fn from_inspector() -> Vec<Row> {
    let x1 = X.wrapping_add(1);
    let at = flow(40_000, INSPECTOR);
    let answer = Tcp {
        options: [
            &[2, 4, 5, 0xb4, 4, 2][..],
            &timestamps(4321, 1000)[2..],
            &[1, 3, 3, 9],
        ]
        .concat(),
        ..server(&at, Y, x1, SYN | ACK)
    };
    let seen = |segment: Tcp| Tcp {
        src: (VIP, WEB),
        ..segment
    };
    let reset = server(&at, 0, x1, RST | ACK);
    let fin = server(&at, Y.wrapping_add(1), x1, FIN | ACK);
    let reset_inspector = Tcp {
        src: fin.dst,
        dst: fin.src,
        seq: x1,
        ack: Y.wrapping_add(2),
        flags: RST | ACK,
        window: 0,
        options: vec![],
        ..fin.clone()
    };
    vec![
        Row::done(
            "the inspector's answer to a SYN",
            OUT,
            frame(answer.clone()),
            |bench| bench.inspecting(web(), |_| {}),
            to(Action::FromInspector, seen(answer)),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::INSPECTING).expect("an entry");
            assert!(e.has(flag::ANSWERED) && e.sack() && e.timestamps() && e.scaling());
            assert_eq!(
                (e.server_isn, e.server_tsval, e.announced_scale),
                (Seq(Y), 4321, 9)
            );
        }),
        Row::done(
            "the reset of a connection that was answered",
            OUT,
            frame(reset.clone()),
            inspected,
            // No window beyond what the inspector takes, in the scale that was announced.
            to(
                Action::FromInspector,
                seen(Tcp {
                    window: (MOST >> 9) as u16,
                    ..reset.clone()
                }),
            ),
        ),
        Row::drop(
            "the reset of a missing inspector",
            OUT,
            frame(reset.clone()),
            |bench| bench.inspecting(web(), |_| {}),
            DropReason::InspectorGone,
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::drop(
            "what the inspector's socket still says after the handover has begun",
            OUT,
            frame(server(&at, Y.wrapping_add(1), x1, ACK)),
            frozen,
            DropReason::Frozen,
        ),
        Row::done(
            "the FIN of an inspector whose daemon died in mid-handover",
            OUT,
            frame(fin.clone()),
            frozen,
            to(Action::OrphanReset, reset_inspector.clone()),
        ),
        Row::done(
            "the same without an entry",
            OUT,
            frame(fin),
            nothing,
            to(Action::OrphanReset, reset_inspector),
        ),
        Row::drop(
            "an inspector's segment without an entry",
            OUT,
            frame(reset),
            nothing,
            DropReason::NoEntry,
        ),
    ]
}

fn from_server() -> Vec<Row> {
    let segment = |seq, window, tsval, ip_options, flags, payload| Tcp {
        ip_options: vec![1; ip_options],
        window,
        options: timestamps(tsval, 1020),
        payload: vec![0x5a; payload],
        ..server(&web(), seq, X.wrapping_add(50), flags)
    };
    let (own, seen) = (W.wrapping_add(77), Y.wrapping_add(77));
    let mut rows = Vec::new();
    for (name, given, flags, ip_options, payload) in [
        ("an answer", direct as fn(&Bench), DATA, 0, 1447),
        ("an acknowledgment", direct, ACK, 0, 0),
        ("the end", direct, FIN | ACK, 0, 3),
        ("a reset after the handover", direct, RST, 0, 0),
        ("an answer with IP options", direct, DATA, 12, 5),
        (
            "an answer before the end of the request",
            handing,
            DATA,
            0,
            9,
        ),
        ("an early end", handing, FIN | ACK, 0, 0),
    ] {
        rows.push(Row::done(
            name,
            OUT,
            frame(segment(own, 0x1fff, 100, ip_options, flags, payload)),
            given,
            // 2^6 units become 2^9: rounded down.
            to(
                Action::ToClient,
                segment(seen, 0x03ff, 100 + TS_DELTA, ip_options, flags, payload),
            ),
        ));
    }
    rows.extend([
        Row::done(
            "a segment of a service that is not inspected",
            OUT,
            frame(server(&flow(1, MAIL), 1, 1, ACK)),
            nothing,
            same_as(Action::Pass),
        ),
        Row::drop(
            "a server's segment without an entry",
            OUT,
            frame(server(&web(), 1, 1, ACK)),
            nothing,
            DropReason::NoEntry,
        ),
        Row::drop(
            "a server's segment before its SYN-ACK, that acknowledges nothing",
            OUT,
            frame(server(&web(), 1, 1, FIN)),
            begun,
            DropReason::NoEntry,
        ),
    ]);
    let stale = |flags, payload: usize| Tcp {
        payload: vec![0x5a; payload],
        options: timestamps(3, 4),
        ..server(&web(), 1000, 2000, flags)
    };
    for (name, segment, end) in [
        ("an older connection's answer to a SYN", stale(ACK, 0), 1000),
        ("an older connection's data", stale(DATA, 700), 1700),
        ("an older connection's end", stale(FIN | ACK, 0), 1001),
    ] {
        let reset = Tcp {
            src: segment.dst,
            dst: segment.src,
            seq: 2000,
            ack: end,
            flags: RST | ACK,
            window: 0,
            options: vec![],
            payload: vec![],
            ..segment.clone()
        };
        rows.push(Row::done(
            name,
            OUT,
            frame(segment),
            begun,
            to(Action::StaleReset, reset),
        ));
    }
    rows
}

/// A segment from this node to the inspecting node, by the entry that [`begun`] makes.
fn to_peer(seq: u32, ack: u32, flags: u8) -> Tcp {
    let back = peer(PEER_PORT, PEER, 0, 0, 0).reversed();
    Tcp {
        seq,
        ack,
        flags,
        ..back
    }
}

fn end_of_handover() -> Vec<Row> {
    let x1 = X.wrapping_add(1);
    let (y1, w1) = (Y.wrapping_add(1), W.wrapping_add(1));
    let answer = |segment: Tcp| Tcp {
        options: [
            &[2, 4, 5, 0xb4, 4, 2][..],
            &timestamps(100, 1001)[2..],
            &[1, 3, 3, 6],
        ]
        .concat(),
        ..segment
    };
    let acknowledges = |ack, options: Vec<u8>, payload| Tcp {
        options,
        payload: vec![7; payload],
        window: 0x1fff,
        ..server(&web(), w1, ack, ACK)
    };
    let bare = |window, segment: Tcp| Tcp { window, ..segment };
    let with_ip_options = |options: usize, segment: Tcp| Tcp {
        ip_options: vec![1; options],
        ..segment
    };
    let mut rows = vec![
        Row::done(
            "the server's SYN-ACK goes to the inspecting node, as its own",
            OUT,
            frame(answer(server(&web(), W, x1, SYN | ACK))),
            begun,
            to(Action::ToPeer, answer(to_peer(Y, x1, SYN | ACK))),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::PROCESSING).expect("an entry");
            assert!(e.has(flag::ANSWERED));
            assert_eq!((e.seq_delta, e.own_scale), (DELTA, 6));
            assert_eq!(e.ts_delta, 5000 - 100);
        }),
        Row::done(
            "an acknowledgment of half the request",
            OUT,
            frame(acknowledges(REQUEST_END - 9, timestamps(7, 8), 0)),
            handing,
            to(
                Action::ToPeer,
                Tcp {
                    options: timestamps(7, 8),
                    ..bare(0x1fff, to_peer(y1, REQUEST_END - 9, ACK))
                },
            ),
        ),
        Row::done(
            "the refusal of a handover",
            OUT,
            frame(server(&web(), 0, x1, RST | ACK)),
            begun,
            to(Action::ToPeer, to_peer(0, x1, RST | ACK)),
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::done(
            "a reset before the end of the request",
            OUT,
            frame(Tcp {
                flags: RST | ACK,
                ..acknowledges(REQUEST_END - 9, vec![], 0)
            }),
            handing,
            to(
                Action::ResetBoth,
                bare(0x03ff, to_peer(y1, REQUEST_END - 9, RST | ACK)),
            ),
        ),
    ];
    // The segment that acknowledges all of the request, whatever it looks like, becomes a FIN.
    for (ip_options, options, payload) in [
        (0, vec![], 0),
        (0, timestamps(7, 8), 0),
        (0, timestamps(7, 8), 333),
        (8, sack(&[1, 2]), 1),
    ] {
        let segment = acknowledges(REQUEST_END, options, payload);
        rows.push(
            Row::done(
                "the acknowledgment of the whole request",
                OUT,
                frame(with_ip_options(ip_options, segment)),
                handing,
                to(
                    Action::Direct,
                    with_ip_options(
                        ip_options,
                        bare(0x03ff, to_peer(y1, REQUEST_END, FIN | ACK)),
                    ),
                ),
            )
            .then(|bench| {
                let e = bench.entry(web(), role::PROCESSING).expect("an entry");
                assert_eq!(e.state, state::DIRECT);
            }),
        );
    }
    rows
}

fn arp_rows() -> Vec<Row> {
    let ask = |target| {
        arp(
            [0xff; 6],
            CLIENT_MAC,
            1,
            (CLIENT_MAC, CLIENT),
            ([0; 6], target),
        )
    };
    let answer = arp(
        CLIENT_MAC,
        FRONT_MAC,
        2,
        (VIP_MAC, VIP),
        (CLIENT_MAC, CLIENT),
    );
    let own = |sender: ([u8; 6], [u8; 4])| arp([0xff; 6], FRONT_MAC, 1, sender, ([0; 6], CLIENT));
    vec![
        Row::done(
            "who has the VIP?",
            IN,
            ask(VIP),
            nothing,
            (Action::ArpReply, Out::Frame(answer.clone())),
        ),
        Row::done(
            "who has the node's address?",
            IN,
            ask(OWN),
            nothing,
            same_as(Action::Other),
        ),
        Row::done("an ARP answer", IN, answer, nothing, same_as(Action::Other)),
        Row::done(
            "a question that would tie the VIP to the node",
            OUT,
            own((FRONT_MAC, VIP)),
            nothing,
            (Action::ArpRewritten, Out::Frame(own((VIP_MAC, VIP)))),
        ),
        Row::done(
            "a question in the node's own name",
            OUT,
            own((FRONT_MAC, OWN)),
            nothing,
            same_as(Action::Other),
        ),
        Row::done(
            "a VIP that is tied to its own address",
            OUT,
            own((VIP_MAC, VIP)),
            nothing,
            same_as(Action::Other),
        ),
    ]
}

/// An error from a router that quotes `quoted`, of which it has `len` bytes after the IP header.
fn error(quoted: &Tcp, len: usize) -> Vec<u8> {
    let quoted = frame(quoted.clone());
    let end = ETH + 20 + quoted_options(&quoted) + len;
    let message = icmp(3, 4, [0, 0, 5, 0], &quoted[ETH..end]);
    Ip {
        src: [198, 18, 0, 1],
        ..packet(VIP, 1, message)
    }
    .frame()
}

fn quoted_options(frame: &[u8]) -> usize {
    usize::from(frame[ETH] & 0x0f) * 4 - 20
}

/// The error's frame with four bytes of its quotation's TCP header replaced.
fn requoted(error: &[u8], at: usize, new: [u8; 4]) -> Vec<u8> {
    let mut frame = error.to_vec();
    let quote = ETH + 20 + 8;
    let tcp = quote + usize::from(frame[quote] & 0x0f) * 4;
    frame[tcp + at..tcp + at + 4].copy_from_slice(&new);
    mend(&mut frame);
    frame
}

fn icmp_rows() -> Vec<Row> {
    let echo = packet(VIP, 1, icmp(8, 0, [0, 1, 0, 1], &[9; 57])).frame();
    let sent = server(&web(), Y.wrapping_add(77), 1, ACK);
    let with_options = Tcp {
        ip_options: vec![1; 12],
        ..sent.clone()
    };
    let own_seq = W.wrapping_add(77).to_be_bytes();
    let [p, q] = INSPECTOR.to_be_bytes();
    let [r, s] = 40_000u16.to_be_bytes();
    let mut rows = vec![
        Row::done(
            "an echo request",
            IN,
            echo.clone(),
            nothing,
            same_as(Action::Echo),
        ),
        Row::drop(
            "another's echo request",
            IN,
            echo.clone(),
            not_owner,
            DropReason::NotOwner,
        ),
        Row::drop(
            "an echo request after the lease",
            IN,
            echo,
            |bench| bench.lease(false),
            DropReason::LeaseExpired,
        ),
        Row::drop(
            "a request for the time",
            IN,
            packet(VIP, 1, icmp(13, 0, [0; 4], &[0; 12])).frame(),
            nothing,
            DropReason::NoService,
        ),
        Row::drop(
            "an error about a flow that we know nothing of",
            IN,
            error(&sent, 8),
            nothing,
            DropReason::NotMine,
        ),
        Row::drop(
            "an error about a flow that is at another node",
            IN,
            error(&sent, 8),
            placed,
            DropReason::NotMine,
        ),
        Row::drop(
            "an error that quotes too little",
            IN,
            error(&sent, 7),
            direct,
            DropReason::Malformed,
        ),
    ];
    for quoted in [&sent, &with_options] {
        for len in [8, 20] {
            let error = error(quoted, len);
            let translated = requoted(&error, 4, own_seq);
            rows.push(Row::done(
                "an error about a server's segment",
                IN,
                error.clone(),
                direct,
                (Action::IcmpError, Out::Frame(translated)),
            ));
            let translated = requoted(&error, 0, [p, q, r, s]);
            rows.push(Row::done(
                "an error about an inspector's segment",
                IN,
                error,
                inspected,
                (Action::IcmpError, Out::Frame(translated)),
            ));
        }
    }
    rows
}
