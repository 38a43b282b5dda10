//! At the node that a connection is handed over to.

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [syns(), refused_syns(), to_server(), after()]
        .into_iter()
        .flatten()
        .collect()
}

/// What the server is shown of a handover: the SYN of the client, with what was agreed.
fn shown(options: &[u8], flags: u8) -> Tcp {
    let mut padded = options.to_vec();
    padded.resize(40, 1);
    Tcp {
        to: BACK_MAC,
        from: PEER_MAC,
        options: padded,
        window: 0xfa00,
        ..client(&web(), X, 0, flags)
    }
}

fn syns() -> Vec<Row> {
    let all = [
        &[2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0x03, 0xe9, 0, 0, 0, 0][..],
        &[1, 3, 3, 7],
    ]
    .concat();
    let none = [&[2, 4, 0x05, 0xb4][..], &[1; 16]].concat();
    let agreed = |agreed| HandoverOption {
        agreed,
        ..option(&web())
    };
    let syn = |o: &HandoverOption| handover_syn(o, PEER, PEER_PORT, KEY);
    let ip_options = |segment: Tcp| Tcp {
        ip_options: vec![1; 4],
        ..segment
    };
    let everything = AGREED & !AGREED_ECN;
    assert_eq!(everything, AGREED_SACK | AGREED_SCALE | AGREED_TIMESTAMPS);
    vec![
        Row::done(
            "a handover SYN becomes the client's",
            IN,
            frame(syn(&agreed(everything))),
            nothing,
            to(Action::HandoverSyn, shown(&all, SYN)),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::PROCESSING).expect("an entry");
            assert_eq!(
                (e.state, e.client_isn, e.server_isn, e.peer, e.peer_port),
                (state::HANDING, Seq(X), Seq(Y), addr(PEER), PEER_PORT)
            );
        }),
        Row::done(
            "a handover of a client that offered nothing",
            IN,
            frame(syn(&agreed(0))),
            nothing,
            to(Action::HandoverSyn, shown(&none, SYN)),
        ),
        Row::done(
            "a handover with ECN",
            IN,
            frame(syn(&agreed(AGREED))),
            nothing,
            to(Action::HandoverSyn, shown(&all, SYN | ECE | CWR)),
        ),
        Row::done(
            "a handover with IP options",
            IN,
            frame(ip_options(syn(&agreed(everything)))),
            nothing,
            to(Action::HandoverSyn, ip_options(shown(&all, SYN))),
        ),
        Row::done(
            "a repeated handover SYN",
            IN,
            frame(syn(&agreed(everything))),
            begun,
            to(Action::HandoverSyn, shown(&all, SYN)),
        ),
        Row::done(
            "a handover SYN in place of an older connection",
            IN,
            frame(syn(&agreed(everything))),
            |bench| {
                newer(bench);
                bench.forget(&option(&web()));
            },
            to(Action::HandoverSyn, shown(&all, SYN)),
        )
        .then(|bench| assert_eq!(bench.connections(), 1)),
        Row::done(
            "the handover of the next connection from the same port",
            IN,
            frame(syn(&HandoverOption {
                server_isn: Seq(Y).plus(1),
                ..agreed(everything)
            })),
            over,
            to(Action::HandoverSyn, shown(&all, SYN)),
        )
        .then(|bench| {
            bench.forget(&HandoverOption {
                server_isn: Seq(Y).plus(1),
                ..option(&web())
            });
        }),
    ]
}

/// The flow was handed over to this node, and is over.
fn over(bench: &Bench) {
    direct(bench);
    bench.end_all();
}

/// The flow was handed over to this node, and then another one with the same ends.
fn newer(bench: &Bench) {
    bench.processing(web(), PEER_PORT + 1, |e| {
        e.client_isn = Seq(99);
        e.state = state::DIRECT;
    });
}

fn refused_syns() -> Vec<Row> {
    let right = || option(&web());
    let good = || handover_syn(&right(), PEER, PEER_PORT, KEY);
    let with = |change: fn(&mut HandoverOption)| {
        let mut o = right();
        change(&mut o);
        frame(handover_syn(&o, PEER, PEER_PORT, KEY))
    };
    let bytes = |at: usize, value: u8| {
        let mut segment = good();
        segment.options[at] = value;
        frame(segment)
    };
    // The tag is another one each second: a bit is changed, whatever it was.
    let flipped = |at: usize| bytes(at, good().options[at] ^ 1);
    let drop = |name, frame, reason| Row::drop(name, IN, frame, nothing, reason);
    let fragment = fragment(frame(good()), 0x2000);
    let mut short = frame(good());
    short[ETH + back_ip_len() + 12] = 0x40;
    vec![
        drop(
            "a stranger's handover",
            frame(handover_syn(&right(), STRANGER, PEER_PORT, KEY)),
            DropReason::NotMember,
        ),
        drop(
            "a SYN without a DTS option",
            frame(Tcp {
                options: vec![],
                ..good()
            }),
            DropReason::BadOption,
        ),
        drop(
            "another option of forty bytes",
            bytes(0, 254),
            DropReason::BadOption,
        ),
        drop("another version", bytes(2, 0x4e), DropReason::BadOption),
        drop("a reserved byte", bytes(8, 1), DropReason::BadOption).v4_only(),
        drop("a scale of fifteen", bytes(3, 0xf9), DropReason::BadOption),
        drop(
            "a handover SYN with data",
            frame(Tcp {
                payload: vec![1],
                ..good()
            }),
            DropReason::BadOption,
        ),
        drop("a changed byte", flipped(30), DropReason::BadTag),
        drop("a changed tag", flipped(39), DropReason::BadTag),
        drop(
            "another's key",
            frame(handover_syn(&right(), PEER, PEER_PORT, [0; 16])),
            DropReason::BadTag,
        ),
        drop(
            "another ISN than the tag's",
            frame(Tcp { seq: 5, ..good() }),
            DropReason::BadTag,
        ),
        drop(
            "another port than the tag's",
            frame(Tcp {
                src: (PEER, 9),
                ..good()
            }),
            DropReason::BadTag,
        ),
        drop(
            "an old handover",
            with(|o| o.made = now().wrapping_sub(100)),
            DropReason::StaleHandover,
        ),
        drop(
            "a handover of eighteen hours ago, whose bits of time are the present ones",
            with(|o| o.made = now().wrapping_sub(1 << 16)),
            DropReason::BadTag,
        ),
        drop(
            "a handover of tomorrow",
            with(|o| o.made = now().wrapping_add(100)),
            DropReason::StaleHandover,
        ),
        drop(
            "a service that is none of ours",
            with(|o| o.service = 4711),
            DropReason::UnknownService,
        ),
        drop("a fragment of a handover", fragment, DropReason::Fragment),
        drop(
            "a handover with a header of sixteen bytes",
            short,
            DropReason::Malformed,
        ),
        Row::drop(
            "the SYN of a handover that is complete",
            IN,
            frame(good()),
            direct,
            DropReason::DuplicateHandover,
        ),
        Row::drop(
            "the SYN of a handover whose connection is over",
            IN,
            frame(good()),
            over,
            DropReason::ReplayedHandover,
        )
        .then(|bench| assert_eq!(bench.connections(), 0)),
        Row::drop(
            "such a SYN that was sent from another port",
            IN,
            frame(handover_syn(&right(), PEER, PEER_PORT + 1, KEY)),
            over,
            DropReason::ReplayedHandover,
        ),
        Row::drop(
            "such a SYN while the next connection is here",
            IN,
            frame(good()),
            newer,
            DropReason::ReplayedHandover,
        )
        .then(|bench| {
            let e = bench.entry(web(), role::PROCESSING).expect("an entry");
            assert_eq!((e.client_isn, e.state), (Seq(99), state::DIRECT));
        }),
        Row::drop(
            "the SYN of a handover that was refused",
            IN,
            frame(good()),
            |bench| {
                begun(bench);
                let refusal = server(&web(), 0, X.wrapping_add(1), RST | ACK);
                bench.run("front_egress", &frame(refusal));
                assert_eq!(bench.connections(), 0);
            },
            DropReason::ReplayedHandover,
        ),
        Row::drop(
            "a handover and no room",
            IN,
            frame(good()),
            |bench| {
                for port in 0..8 {
                    bench.inspecting(flow(50_000 + port, WEB), |_| {});
                }
            },
            DropReason::TableFull,
        )
        .then(|bench| {
            bench.end_all();
            let again = frame(handover_syn(&option(&web()), PEER, PEER_PORT + 1, KEY));
            let (code, _) = bench.run(IN, &again);
            assert_eq!(code, REDIRECT, "the second attempt");
        }),
    ]
}

/// A segment of the flow's handover connection.
fn segment(seq: u32, ack: u32, flags: u8) -> Tcp {
    Tcp {
        options: timestamps(1030, 5000),
        ..peer(PEER_PORT, PEER, seq, ack, flags)
    }
}

/// The same as the server is shown it.
fn as_client(segment: &Tcp, ack: u32) -> Tcp {
    let web = web();
    Tcp {
        src: (web.remote.v4_tail(), web.remote_port),
        dst: (VIP, WEB),
        reserved: 0,
        ack,
        ..segment.clone()
    }
}

fn to_server() -> Vec<Row> {
    let (x1, y1, w1) = (X.wrapping_add(1), Y.wrapping_add(1), W.wrapping_add(1));
    let first = |payload| Tcp {
        payload: vec![b'G'; payload],
        ..segment(x1, y1, DATA)
    };
    // The last part of the request says where it ends in place of an acknowledgment.
    let last = |ip_options| Tcp {
        ip_options: vec![1; ip_options],
        reserved: REQUEST_END_BIT,
        ack: REQUEST_END,
        ..first(99)
    };
    let unmarked = |bench: &Bench| {
        handing(bench);
        bench.clear();
        bench.processing(web(), PEER_PORT, |e| {
            answered_server(e);
            e.flags &= !flag::REQUEST_END;
        });
    };
    let half_close = Tcp {
        flags: FIN | ACK,
        ..segment(REQUEST_END.wrapping_sub(1), y1, 0)
    };
    let dying = Tcp {
        flags: FIN | ACK,
        ..segment(x1.wrapping_add(5), y1, 0)
    };
    let reset = Tcp {
        options: vec![],
        window: 0,
        flags: RST | ACK,
        ..as_client(&dying, w1)
    };
    let in_ = |segment| to(Action::HandoverIn, segment);
    let mut rows = vec![
        Row::done(
            "the acknowledgment of the SYN-ACK",
            IN,
            frame(segment(x1, y1, ACK)),
            unmarked,
            (Action::HandoverAck, Out::Dropped),
        ),
        Row::done(
            "an acknowledgment where the request's end is known",
            IN,
            frame(segment(x1, y1, ACK)),
            handing,
            in_(as_client(&segment(x1, y1, ACK), w1)),
        ),
        Row::done(
            "a FIN that the inspecting node marked as the client's",
            IN,
            frame(half_close.clone()),
            handing,
            in_(as_client(&half_close, w1)),
        ),
        Row::done(
            "a FIN in the middle of the request is a reset",
            IN,
            frame(dying),
            handing,
            in_(reset),
        ),
        Row::done(
            "a reset",
            IN,
            frame(segment(x1, 0, RST)),
            handing,
            in_(as_client(&segment(x1, 0, RST), 0)),
        ),
    ];
    for payload in [1, 99, 1448] {
        let segment = first(payload);
        let shown = as_client(&segment, w1);
        rows.push(Row::done("data", IN, frame(segment), handing, in_(shown)));
    }
    for ip_options in [0, 8] {
        let segment = last(ip_options);
        let shown = as_client(&segment, w1);
        let row = Row::done("the last data", IN, frame(segment), unmarked, in_(shown));
        rows.push(row.then(|bench| {
            let e = bench.entry(web(), role::PROCESSING).expect("an entry");
            assert!(e.has(flag::REQUEST_END));
            assert_eq!(e.request_end, Seq(REQUEST_END));
        }));
    }
    rows
}

/// What the filter answers the inspecting node by itself.
fn answer(seq: u32, ack: u32, flags: u8) -> (Action, Out) {
    let answer = Tcp {
        seq,
        ack,
        flags,
        window: u16::MAX,
        ..peer(PEER_PORT, PEER, 0, 0, 0).reversed()
    };
    to(Action::Answered, answer)
}

fn after() -> Vec<Row> {
    let (x1, y1) = (X.wrapping_add(1), Y.wrapping_add(1));
    let data = Tcp {
        payload: vec![b'G'; 99],
        ..segment(x1, y1, DATA)
    };
    let fin = segment(REQUEST_END, y1, FIN | ACK);
    let late_fin = segment(REQUEST_END, y1.wrapping_add(1), FIN | ACK);
    let fin_ack = FIN | ACK;
    let after_fin = REQUEST_END.wrapping_add(1);
    let drop = |name, segment, given: fn(&Bench), reason| {
        Row::drop(name, IN, frame(segment), given, reason)
    };
    vec![
        Row::done(
            "data whose acknowledgment was lost",
            IN,
            frame(data.clone()),
            direct,
            answer(y1, REQUEST_END, fin_ack),
        ),
        Row::done(
            "a FIN of who has not seen ours",
            IN,
            frame(fin),
            direct,
            answer(y1, after_fin, fin_ack),
        ),
        Row::done(
            "a FIN of who has seen ours",
            IN,
            frame(late_fin.clone()),
            direct,
            answer(y1.wrapping_add(1), after_fin, ACK),
        ),
        Row::done(
            "a FIN of a connection that is gone here",
            IN,
            frame(late_fin),
            nothing,
            answer(y1.wrapping_add(1), after_fin, ACK),
        ),
        drop(
            "an acknowledgment after the handover",
            segment(x1, y1, ACK),
            direct,
            DropReason::AfterHandover,
        ),
        drop(
            "a reset after the handover",
            segment(x1, 0, RST),
            direct,
            DropReason::AfterHandover,
        ),
        drop(
            "data of a connection that is gone here",
            data.clone(),
            nothing,
            DropReason::UnknownHandover,
        ),
        drop(
            "data from another port",
            Tcp {
                src: (PEER, 9),
                ..data
            },
            handing,
            DropReason::UnknownHandover,
        ),
    ]
}
