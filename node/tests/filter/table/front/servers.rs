//! What the inspector and the server send to clients.

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [from_inspector(), from_server(), end_of_handover()]
        .into_iter()
        .flatten()
        .collect()
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
