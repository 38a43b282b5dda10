//! At the node that hands a connection over.

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [outgoing_rows(), replies(), releases()]
        .into_iter()
        .flatten()
        .collect()
}

/// The flow is ready to be handed over: the entry of a client that the inspector has answered.
fn ready(bench: &Bench) {
    inspected(bench);
    handover(bench, 0);
}

/// The handover has begun, and the request's end is known.
fn sending(bench: &Bench) {
    frozen(bench);
    handover(bench, flag::REQUEST_END);
}

fn outgoing_rows() -> Vec<Row> {
    let (x1, y1) = (X.wrapping_add(1), Y.wrapping_add(1));
    let own_x1 = x1.wrapping_sub(1000);
    let segment = |seq, ack, flags, options: Vec<u8>, payload| Tcp {
        options,
        payload: vec![b'G'; payload],
        window: 0x7777,
        ..own(OWN_PORT, seq, ack, flags)
    };
    // The client's last window and timestamp take our kernel's place.
    let sent = |segment: Tcp, ack| Tcp {
        seq: segment.seq.wrapping_add(1000),
        window: 0x1f5,
        ack,
        ..segment
    };
    let mine = timestamps(9999, 5000);
    let theirs = timestamps(1000, 5000);
    let linux = syn(&web()).options;
    let syn = |options: &[u8]| frame(segment(4444, 0, SYN, options.to_vec(), 0));
    let acknowledgment = segment(own_x1, y1, ACK, mine.clone(), 0);
    let mut rows = vec![
        Row::done(
            "the handover's SYN",
            OUT,
            syn(&linux),
            ready,
            (Action::HandoverOut, Out::Passes(Box::new(is_handover_syn))),
        ),
        Row::done(
            "the handover's SYN without options",
            OUT,
            syn(&[]),
            ready,
            (Action::HandoverOut, Out::Passes(Box::new(is_handover_syn))),
        ),
        Row::done(
            "an acknowledgment",
            OUT,
            frame(acknowledgment.clone()),
            sending,
            to(
                Action::HandoverOut,
                Tcp {
                    options: theirs.clone(),
                    ..sent(acknowledgment, y1)
                },
            ),
        ),
        Row::done(
            "the reset of a connection that was given up",
            OUT,
            frame(own(OWN_PORT, 7, 0, RST)),
            nothing,
            same_as(Action::HandoverOut),
        ),
        Row::drop(
            "another segment of such a connection",
            OUT,
            frame(own(OWN_PORT, 7, 0, ACK)),
            nothing,
            DropReason::UnknownHandover,
        ),
        Row::drop(
            "a handover without an entry",
            OUT,
            frame(own(OWN_PORT, 7, 0, ACK)),
            |bench| handover(bench, 0),
            DropReason::UnknownHandover,
        ),
        Row::drop(
            "a segment of a handover that gave way to another",
            OUT,
            frame(own(OWN_PORT, 7, 0, ACK)),
            |bench| {
                bench.inspecting(web(), |e| {
                    outgoing(e);
                    e.peer_port = OWN_PORT + 1;
                });
                handover(bench, 0);
            },
            DropReason::UnknownHandover,
        ),
        Row::drop(
            "a handover SYN with data",
            OUT,
            frame(segment(4444, 0, SYN, linux.clone(), 5)),
            ready,
            DropReason::RewriteFailed,
        ),
    ];
    for payload in [1, 99, 1448] {
        for (options, shown) in [(vec![], vec![]), (mine.clone(), theirs.clone())] {
            let data = segment(own_x1, y1, DATA, options, payload);
            let marked = Tcp {
                options: shown,
                reserved: REQUEST_END_BIT,
                ..sent(data.clone(), REQUEST_END)
            };
            let out = to(Action::HandoverOut, marked);
            rows.push(Row::done(
                "data with the request's end",
                OUT,
                frame(data),
                sending,
                out,
            ));
        }
    }
    rows
}

fn is_handover_syn(out: &[u8]) {
    let bytes: [u8; 40] = out[ETH + back_ip_len() + 20..]
        .try_into()
        .expect("forty bytes of options");
    // The option is compared by its meaning, all else byte by byte.
    let expected = Tcp {
        urgent: web().remote_port,
        options: bytes.to_vec(),
        // The client's window is 0x1f5 at scale 7; a SYN's is not scaled.
        window: 0x1f5 << 7,
        ..own(OWN_PORT, X, Y, SYN)
    };
    assert_eq!(hex::encode(out), hex::encode(frame(expected)));
    let parsed = HandoverOption::parse(&bytes, Seq(X), Seq(Y), web().remote_port, now());
    let parsed = parsed.expect("a DTS option");
    let (made, server_tsval) = (parsed.made, parsed.server_tsval);
    assert_eq!(
        parsed,
        HandoverOption {
            client_tsval: 1000,
            made,
            server_tsval,
            ..option(&web())
        }
    );
    assert!(now().wrapping_sub(made) <= 1, "made at {made}");
    let mut room = OptionRoom { bytes };
    let ends = HandoverEnds {
        from: addr(OWN),
        from_port: OWN_PORT,
        to: addr(PEER),
    };
    assert!(parsed.tag_is_right(&KEY, &ends, &mut room), "the tag");
}

fn replies() -> Vec<Row> {
    let (x1, y1) = (X.wrapping_add(1), Y.wrapping_add(1));
    let reply = |seq, ack, flags, options: Vec<u8>| Tcp {
        options,
        ..own(OWN_PORT, seq, ack, flags).reversed()
    };
    let connecting = |bench: &Bench| {
        bench.inspecting(web(), |e| {
            answered_client(e);
            outgoing(e);
        });
        handover(bench, 0);
    };
    let answer = |ack: u32, echo, edges: &[u32]| {
        let mut options = timestamps(6000, echo);
        options.extend(sack(edges));
        reply(Y, ack, SYN | ACK, options)
    };
    let edges = [x1.wrapping_add(5), x1.wrapping_add(9)];
    let own_edges = edges.map(|edge| edge.wrapping_sub(1000));
    let fin = |ack| reply(y1, ack, FIN | ACK, vec![]);
    vec![
        Row::done(
            "the answer to the handover's SYN",
            IN,
            frame(answer(x1, 1000, &edges)),
            connecting,
            to(
                Action::HandoverReply,
                answer(x1.wrapping_sub(1000), 8888, &own_edges),
            ),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::INSPECTING).expect("an entry");
            assert_eq!((e.state, e.peer), (state::FROZEN, addr(PEER)));
        }),
        Row::done(
            "the FIN that ends the handover",
            IN,
            frame(fin(REQUEST_END)),
            frozen,
            to(Action::HandoverReply, fin(REQUEST_END.wrapping_sub(1000))),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::INSPECTING).expect("an entry");
            assert_eq!(e.state, state::PLACED);
        }),
        Row::drop(
            "an answer from another node than the target",
            IN,
            frame(Tcp {
                src: (STRANGER, crate::bench::HANDOVER),
                ..fin(REQUEST_END)
            }),
            frozen,
            DropReason::UnknownHandover,
        ),
        Row::drop(
            "an answer without an entry",
            IN,
            frame(fin(REQUEST_END)),
            |bench| handover(bench, 0),
            DropReason::UnknownHandover,
        ),
    ]
}

fn releases() -> Vec<Row> {
    let old = X.wrapping_sub(1_000_000);
    let plain = Tcp {
        to: BACK_MAC,
        from: PEER_MAC,
        ..syn(&web())
    };
    let given = |bench: &Bench| {
        bench.inspecting(web(), |e| {
            e.state = state::PLACED;
            e.client_isn = Seq(X.wrapping_sub(1_000_000));
        });
    };
    let more = |segment: Tcp| Tcp {
        ip_options: [segment.ip_options, vec![1; 8]].concat(),
        ..segment
    };
    vec![
        Row::done(
            "a release ends the flow's entry, and the SYN arrives",
            IN,
            frame(released(&web(), old, KEY)),
            given,
            to(Action::ReleaseIn, plain.clone()),
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::done(
            "a release before other IP options",
            IN,
            frame(more(released(&web(), old, KEY))),
            given,
            to(
                Action::ReleaseIn,
                Tcp {
                    ip_options: vec![1; 8],
                    ..plain.clone()
                },
            ),
        ),
        Row::done(
            "a release of an older connection than the entry's",
            IN,
            frame(released(&web(), old, KEY)),
            placed,
            to(Action::ReleaseIn, plain),
        )
        .then(|bench| assert_eq!(bench.connections(), 1)),
        Row::drop(
            "a forged release",
            IN,
            frame(released(&web(), old, [0; 16])),
            given,
            DropReason::BadTag,
        )
        .then(|bench| assert_eq!(bench.connections(), 1)),
    ]
}
