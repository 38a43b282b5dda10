//! Rows of servers that speak first (DTS §2.6).

use dts_core::entry::{Handover, flag, role, state};
use dts_core::handover::{GREETED, HandoverOption};
use dts_core::segment::{ACK, FIN, REQUEST_END_BIT, RST};
use dts_core::seq::Seq;
use dts_core::verdict::{Action, DropReason};

use super::{
    OWN_PORT, PEER_PORT, REQUEST_END, Row, TS_DELTA, answered_server, frame, frozen, sack, to, web,
};
use crate::bench::{
    BACK_MAC, Bench, DATA, KEY, PEER, VIP, W, WEB, X, Y, client, handover_syn, option, own, peer,
    server, timestamps,
};
use crate::frame::Tcp;
use crate::world::addr;

const FRONT_IN: &str = "front_ingress";
const FRONT_OUT: &str = "front_egress";
const BACK_IN: &str = "back_ingress";
const BACK_OUT: &str = "back_egress";

/// The greeting's length.
const LEN: u16 = 24;

pub(super) fn rows() -> Vec<Row> {
    [at_the_target(), after_it(), at_the_inspecting_node()]
        .into_iter()
        .flatten()
        .collect()
}

/// The server has answered, and its greeting is waited for.
fn greeted(bench: &Bench) {
    bench.processing(web(), PEER_PORT, |e| {
        answered_server(e);
        e.flags |= GREETED;
        e.flags &= !flag::REQUEST_END;
    });
}

/// The request has come, too, and it may be complete.
fn told(state: u32) -> impl Fn(&Bench) + Copy {
    move |bench| {
        bench.processing(web(), PEER_PORT, |e| {
            answered_server(e);
            e.flags |= GREETED;
            e.greeting = LEN.into();
            e.state = state;
        });
    }
}

fn to_peer(segment: &Tcp, seq: u32) -> Tcp {
    let back = peer(PEER_PORT, PEER, 0, 0, 0).reversed();
    Tcp {
        seq,
        flags: segment.flags,
        ack: segment.ack,
        options: segment.options.clone(),
        payload: segment.payload.clone(),
        window: segment.window,
        ..back
    }
}

fn as_client(segment: &Tcp, ack: u32) -> Tcp {
    let web = web();
    Tcp {
        src: (web.remote.v4_tail(), web.remote_port),
        dst: (VIP, WEB),
        reserved: 0,
        urgent: 0,
        ack,
        ..segment.clone()
    }
}

fn at_the_target() -> Vec<Row> {
    let (x1, y1, w1) = (X.wrapping_add(1), Y.wrapping_add(1), W.wrapping_add(1));
    let said = |seq, flags, payload: usize| Tcp {
        options: timestamps(100, 1001),
        payload: vec![b'2'; payload],
        ..server(&web(), seq, x1, flags)
    };
    let segment = |ack, flags, payload: usize| Tcp {
        options: timestamps(1030, 5000),
        payload: vec![b'E'; payload],
        ..peer(PEER_PORT, PEER, x1, ack, flags)
    };
    let mut rows = vec![
        Row::done(
            "the handover SYN of a service whose servers greet",
            BACK_IN,
            frame(handover_syn(
                &HandoverOption {
                    agreed: GREETED,
                    ..option(&web())
                },
                PEER,
                PEER_PORT,
                KEY,
            )),
            |_| {},
            to(
                Action::HandoverSyn,
                Tcp {
                    to: BACK_MAC,
                    from: crate::bench::PEER_MAC,
                    options: [&[2, 4, 0x05, 0xb4][..], &[1; 36]].concat(),
                    window: 0xfa00,
                    ..client(&web(), X, 0, dts_core::segment::SYN)
                },
            ),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::PROCESSING).expect("an entry");
            assert!(e.awaits_greeting());
        }),
        // The server has to have its connection to greet.
        Row::done(
            "the acknowledgment of the SYN-ACK where a greeting is waited for",
            BACK_IN,
            frame(segment(y1, ACK, 0)),
            greeted,
            to(Action::HandoverIn, as_client(&segment(y1, ACK, 0), w1)),
        ),
        Row::done(
            "the acknowledgment of a greeting",
            BACK_IN,
            frame(segment(y1.wrapping_add(9), ACK, 0)),
            greeted,
            to(
                Action::HandoverIn,
                as_client(&segment(0, ACK, 0), w1.wrapping_add(9)),
            ),
        ),
    ];
    // The inspecting node gets all of it, whatever the server's clock says.
    for (flags, payload) in [
        (DATA, 24),
        (DATA, 1000),
        (FIN | ACK, 9),
        (FIN | ACK, 0),
        (RST | ACK, 0),
    ] {
        let segment = said(w1, flags, payload);
        let shown = Tcp {
            options: timestamps(0, 1001),
            ..to_peer(&segment, y1)
        };
        rows.push(Row::done(
            "what the server says before it has the request",
            FRONT_OUT,
            frame(segment),
            greeted,
            to(Action::ToPeer, shown),
        ));
    }
    let late = Tcp {
        options: timestamps(1030, 5000),
        ..client(&web(), x1, y1.wrapping_add(24), DATA)
    };
    let hole = Tcp {
        options: sack(&[y1.wrapping_add(9), y1.wrapping_add(20)]),
        ..segment(y1, ACK, 0)
    };
    rows.extend([
        Row::done(
            "the acknowledgment of a greeting that misses a part",
            BACK_IN,
            frame(hole.clone()),
            greeted,
            to(
                Action::HandoverIn,
                Tcp {
                    options: sack(&[w1.wrapping_add(9), w1.wrapping_add(20)]),
                    ..as_client(&hole, w1)
                },
            ),
        ),
        Row::drop(
            "a client's data while the greeting is waited for",
            FRONT_IN,
            frame(Tcp {
                payload: vec![b'E'; 9],
                ..late.clone()
            }),
            greeted,
            DropReason::TooEarly,
        ),
        Row::done(
            "a client's reset while the greeting is waited for",
            FRONT_IN,
            frame(Tcp {
                seq: x1.wrapping_add(9),
                flags: RST,
                ack: 0,
                options: vec![],
                ..late.clone()
            }),
            greeted,
            to(
                Action::ToServer,
                Tcp {
                    flags: RST,
                    ack: 0,
                    options: vec![],
                    ..late
                },
            ),
        ),
    ]);
    rows
}

fn after_it() -> Vec<Row> {
    let (x1, y1, w1) = (X.wrapping_add(1), Y.wrapping_add(1), W.wrapping_add(1));
    let after = u32::from(LEN);
    let request = Tcp {
        options: timestamps(1030, 5000),
        payload: vec![b'E'; 100],
        reserved: REQUEST_END_BIT,
        urgent: LEN,
        ..peer(PEER_PORT, PEER, x1, REQUEST_END, DATA)
    };
    let answer = Tcp {
        payload: vec![b'2'; 9],
        window: 0x1fff,
        ..server(&web(), w1.wrapping_add(after), REQUEST_END, DATA)
    };
    let fin = |window| Tcp {
        flags: FIN | ACK,
        payload: vec![],
        window,
        ..to_peer(&answer, y1.wrapping_add(after))
    };
    vec![
        Row::done(
            "the request after a greeting",
            BACK_IN,
            frame(request.clone()),
            greeted,
            to(
                Action::HandoverIn,
                as_client(&request, w1.wrapping_add(after)),
            ),
        )
        .then(|bench| {
            let e = bench.entry(web(), role::PROCESSING).expect("an entry");
            assert!(!e.awaits_greeting());
            assert_eq!((e.greeting, e.request_end), (LEN.into(), Seq(REQUEST_END)));
        }),
        Row::done(
            "the answer to the request after a greeting",
            FRONT_OUT,
            frame(answer.clone()),
            told(state::HANDING),
            to(Action::Direct, fin(0x03ff)),
        ),
        Row::done(
            "the same request once more",
            BACK_IN,
            frame(request),
            told(state::DIRECT),
            to(
                Action::Answered,
                Tcp {
                    ack: REQUEST_END,
                    ..fin(u16::MAX)
                },
            ),
        ),
        Row::done(
            "a greeting that is repeated when the server has the request",
            FRONT_OUT,
            frame(Tcp {
                ack: REQUEST_END - 1,
                options: timestamps(100, 1020),
                window: 0x1fff,
                ..server(&web(), w1, 0, DATA)
            }),
            told(state::DIRECT),
            to(
                Action::ToClient,
                Tcp {
                    ack: REQUEST_END - 1,
                    options: timestamps(100 + TS_DELTA, 1020),
                    window: 0x03ff,
                    ..server(&web(), y1, 0, DATA)
                },
            ),
        ),
    ]
}

fn at_the_inspecting_node() -> Vec<Row> {
    let (x1, y1) = (X.wrapping_add(1), Y.wrapping_add(1));
    let ready = |bench: &Bench| {
        frozen(bench);
        let handover = Handover {
            flow: web(),
            target: addr(PEER),
            flags: flag::REQUEST_END,
            request_len: 100,
            greeting: LEN.into(),
        };
        bench.filter.set_handover(OWN_PORT, &handover);
    };
    let segment = |ack, payload: usize| Tcp {
        payload: vec![b'E'; payload],
        window: 0x7777,
        ..own(OWN_PORT, x1.wrapping_sub(1000), ack, DATA)
    };
    let sent = |segment: Tcp| Tcp {
        seq: x1,
        window: 0x1f5,
        ..segment
    };
    let whole = y1.wrapping_add(LEN.into());
    let mut rows = Vec::new();
    for (name, ack, payload) in [
        (
            "the acknowledgment of a greeting's first half",
            y1.wrapping_add(9),
            0,
        ),
        ("the acknowledgment of a greeting", whole, 0),
        (
            "data before the whole greeting is there",
            y1.wrapping_add(9),
            99,
        ),
    ] {
        let segment = segment(ack, payload);
        let shown = sent(segment.clone());
        let row = Row::done(
            name,
            BACK_OUT,
            frame(segment),
            ready,
            to(Action::HandoverOut, shown),
        );
        rows.push(row);
    }
    let request = segment(whole, 99);
    let marked = Tcp {
        reserved: REQUEST_END_BIT,
        ack: REQUEST_END,
        urgent: LEN,
        ..sent(request.clone())
    };
    rows.push(Row::done(
        "the request after a greeting, at the inspecting node",
        BACK_OUT,
        frame(request),
        ready,
        to(Action::HandoverOut, marked),
    ));
    rows
}
