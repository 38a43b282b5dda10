//! What clients send.

use std::time::Duration;

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [untouched(), syns(), refused(), from_client()]
        .into_iter()
        .flatten()
        .collect()
}

fn untouched() -> Vec<Row> {
    let other = || same_as(Action::Other);
    let to_node = Tcp {
        src: (STRANGER, 40_000),
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
            Ip {
                src: STRANGER,
                ..packet(OWN, 17, vec![0; 9])
            }
            .frame(),
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
                let empty =
                    bench
                        .filter
                        .publish_ring(0, 2, RingHashSpec::default(), &[], Duration::ZERO);
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
            (
                Action::Released,
                Out::Passes(Box::new(|out| is_release(out, &[]))),
            ),
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
                Out::Passes(Box::new(|out| is_release(out, &[1; 8]))),
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
        )
        .v4_only(),
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
    short_header[ETH + ip_len() + 12] = 0x40;
    mend(&mut short_header);
    let mut short_packet = frame(syn(&web()));
    // Header and data of 39 bytes; data of 19.
    let (at, len) = if ip_len() == 20 { (3, 39) } else { (5, 19) };
    short_packet[ETH + at] = len;
    let cut = frame(syn(&web()))[..ETH + ip_len() + 20].to_vec();
    let first = fragment(frame(syn(&web())), 0x2000);
    let later = fragment(frame(client(&web(), 1, 1, ACK)), 5);
    let handover_in = Tcp {
        src: (STRANGER, 40_000),
        dst: (OWN, HANDOVER),
        ..client(&web(), X, 0, SYN)
    };
    let handover_reply = Tcp {
        src: (STRANGER, HANDOVER),
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
