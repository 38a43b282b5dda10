//! At the processing node.

use super::*;

/// What is no client's half-close must not look like one, and after `Direct` the filter alone
/// answers.
#[test]
fn incoming_table_is_exhaustive() {
    #[derive(Clone, Copy, Debug)]
    enum Has {
        /// The request's end is not known.
        Open,
        /// It is known, and it is where this segment ends.
        EndsHere,
        /// It is known, and this segment ends elsewhere.
        EndsElsewhere,
        Direct,
    }
    for has in [Has::Open, Has::EndsHere, Has::EndsElsewhere, Has::Direct] {
        for kind in KINDS {
            let mut header = kind.header();
            let mut e = entry(state::HANDING);
            match has {
                Has::Open => e.request_end = header.end(),
                Has::EndsHere => {
                    e.flags |= flag::REQUEST_END;
                    e.request_end = header.end();
                }
                Has::EndsElsewhere => {
                    e.flags |= flag::REQUEST_END;
                    e.request_end = header.end().plus(1);
                }
                Has::Direct => {
                    e.state = state::DIRECT;
                    e.flags |= flag::REQUEST_END;
                }
            }
            let expected = match (has, kind) {
                (
                    Has::Open | Has::EndsHere | Has::EndsElsewhere,
                    Kind::Syn | Kind::SynAck | Kind::Ack | Kind::Data | Kind::Rst | Kind::RstAck,
                ) => Incoming::ToServer,
                // The client's half-close, as the inspecting node marked it.
                (Has::EndsHere, Kind::Fin | Kind::DataFin) => Incoming::ToServer,
                // A dying daemon's: a truncated request would look complete.
                (Has::Open | Has::EndsElsewhere, Kind::Fin | Kind::DataFin) => {
                    Incoming::ResetServer
                }
                // Our FIN was lost: it says again that all has arrived.
                (Has::Direct, Kind::Data | Kind::DataFin) => Incoming::AnswerFin,
                (Has::Direct, Kind::Fin) => Incoming::AnswerAck,
                (Has::Direct, Kind::Rst | Kind::RstAck | Kind::Syn | Kind::SynAck | Kind::Ack) => {
                    Incoming::Drop(DropReason::AfterHandover)
                }
            };
            let before = header;
            assert_eq!(
                incoming(&mut header, &mut e, NOW),
                expected,
                "{has:?} {kind:?}"
            );
            let shifted = expected == Incoming::ToServer && kind.acknowledges();
            let ack = before.ack.minus(if shifted { DELTA } else { 0 });
            assert_eq!(header, TcpHeader { ack, ..before }, "{has:?} {kind:?}");
        }
    }
}

/// The handshake's acknowledgment ends here, unless the request's end is known: then it may be all that
/// comes. Nothing else does.
#[test]
fn only_the_handshakes_acknowledgment_is_kept_from_the_server() {
    let first = TcpHeader {
        seq: X.plus(1),
        ..Kind::Ack.header()
    };
    let others = [
        TcpHeader {
            seq: X.plus(2),
            ..first
        },
        TcpHeader {
            ack: Y.plus(2),
            ..first
        },
        TcpHeader {
            payload: 1,
            ..first
        },
        TcpHeader {
            flags: RST | ACK,
            ..first
        },
        TcpHeader {
            reserved: REQUEST_END_BIT,
            ack: X.plus(1),
            ..first
        },
    ];
    let mut e = entry(state::HANDING);
    let seen = |header: TcpHeader, e: &mut ConnEntry| incoming(&mut { header }, e, NOW);
    assert_eq!(seen(first, &mut e), Incoming::HandshakeAck);
    assert_eq!(e.used_at, NOW);
    for header in others {
        let mut e = entry(state::HANDING);
        assert_eq!(seen(header, &mut e), Incoming::ToServer, "{header:?}");
    }
    e.flags |= flag::REQUEST_END;
    assert_eq!(seen(first, &mut e), Incoming::ToServer);
    e.state = state::DIRECT;
    let late = Incoming::Drop(DropReason::AfterHandover);
    assert_eq!(seen(first, &mut e), late);
}

/// The end of the request travels in the acknowledgment field of a marked segment.
#[test]
fn a_mark_tells_the_end_and_is_taken_off() {
    for kind in [Kind::Data, Kind::Fin, Kind::DataFin] {
        let mut header = TcpHeader {
            reserved: REQUEST_END_BIT,
            ack: kind.header().end(),
            ..kind.header()
        };
        let end = header.ack;
        let mut e = entry(state::HANDING);
        assert_eq!(
            incoming(&mut header, &mut e, NOW),
            Incoming::ToServer,
            "{kind:?}"
        );
        assert_eq!((header.reserved, e.request_end), (0, end));
        assert!(e.has(flag::REQUEST_END));
        assert_eq!(
            header.ack,
            Y.plus(1).minus(DELTA),
            "the server's own number"
        );
    }
}

/// A server that greets gets the handshake's acknowledgment, for it has to have its connection; and with the request
/// that of the greeting, which rode elsewhere.
#[test]
fn a_greeting_is_acknowledged_with_the_request() {
    let greeted = ConnEntry {
        flags: GREETED,
        ..entry(state::HANDING)
    };
    let (mut e, mut header) = (greeted, Kind::Ack.header());
    header.seq = X.plus(1);
    assert_eq!(incoming(&mut header, &mut e, NOW), Incoming::ToServer);
    assert!(e.awaits_greeting());

    let mut marked = TcpHeader {
        seq: X.plus(1),
        ack: X.plus(1 + 87),
        payload: 87,
        urgent: 77,
        reserved: REQUEST_END_BIT,
        ..Kind::Data.header()
    };
    assert_eq!(incoming(&mut marked, &mut e, NOW), Incoming::ToServer);
    assert!(!e.awaits_greeting());
    assert_eq!(e.first_of_server(), Y.plus(1 + 77));
    assert_eq!(marked.ack, Y.plus(1 + 77).minus(DELTA));
    assert_eq!((marked.reserved, marked.urgent), (0, 0));
}

/// Where a greeting is waited for, the attempt that acknowledges the SYN-ACK is the one that counts.
#[test]
fn a_greeting_goes_to_the_attempt_that_has_the_answer() {
    let first = TcpHeader {
        source: PORT + 1,
        seq: X.plus(1),
        ..Kind::Ack.header()
    };
    for (flags, header, present) in [
        (GREETED, first, true),
        (0, first, false),
        (GREETED | flag::REQUEST_END, first, false),
        (GREETED, TcpHeader { seq: X, ..first }, false),
        (
            GREETED,
            TcpHeader {
                flags: RST | ACK,
                ..first
            },
            false,
        ),
    ] {
        let mut e = ConnEntry {
            flags,
            ..entry(state::HANDING)
        };
        assert_eq!(is_present(&header, &mut e), present);
        assert_eq!(e.peer_port, if present { PORT + 1 } else { PORT });
    }
}

/// The inspecting node's kernel may have been told more than the greeting. The client hasn't.
#[test]
fn no_more_than_the_greeting_is_acknowledged() {
    let told = ConnEntry {
        flags: GREETED | flag::REQUEST_END,
        greeting: 77,
        request_end: X.plus(88),
        ..entry(state::HANDING)
    };
    for (ack, seen) in [(1, 1), (78, 78), (79, 78), (2000, 78)] {
        let mut header = TcpHeader {
            seq: X.plus(1),
            ack: Y.plus(ack),
            ..Kind::Ack.header()
        };
        let outcome = incoming(&mut header, &mut { told }, NOW);
        assert_eq!(outcome, Incoming::ToServer);
        assert_eq!(header.ack, Y.plus(seen).minus(DELTA));
    }
}

/// A server that was reset before its greeting was compared is not waited for: the client hears of it.
#[test]
fn a_reset_ends_the_wait_for_a_greeting() {
    for (kind, expected) in [
        (Kind::RstAck, Incoming::ToServer),
        (Kind::Fin, Incoming::ResetServer),
        // The answer of a kernel that knows nothing of the connection: others may have the client.
        (Kind::Rst, Incoming::ToServer),
        (Kind::Ack, Incoming::ToServer),
    ] {
        let mut e = ConnEntry {
            flags: GREETED,
            ..entry(state::HANDING)
        };
        assert_eq!(incoming(&mut kind.header(), &mut e, NOW), expected);
        let waits = matches!(kind, Kind::Ack | Kind::Rst);
        assert_eq!(e.awaits_greeting(), waits, "{kind:?}");
    }
}

#[test]
fn incoming_syn_table_is_exhaustive() {
    #[derive(Clone, Copy, Debug)]
    enum Has {
        Nothing,
        Handing,
        Answered,
        /// The inspecting node has sent of the request.
        Confirmed,
        Direct,
    }
    for has in [
        Has::Nothing,
        Has::Handing,
        Has::Answered,
        Has::Confirmed,
        Has::Direct,
    ] {
        for (same_client, same_server, known) in
            (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0))
        {
            let pick = |same, isn: Seq| if same { isn } else { isn.plus(1) };
            let option = HandoverOption {
                client: Addr::v4([198, 18, 0, 200]),
                client_port: 40_000,
                client_isn: pick(same_client, X),
                server_isn: pick(same_server, Y),
                service: 7,
                agreed: 0,
                client_scale: 0,
                announced_scale: 0,
                client_mss: 0,
                client_tsval: 0,
                server_tsval: 0,
                made: 0,
            };
            let e = match has {
                Has::Nothing => None,
                Has::Handing => Some(entry(state::HANDING)),
                Has::Answered => Some(ConnEntry {
                    flags: flag::ANSWERED,
                    ..entry(state::HANDING)
                }),
                Has::Confirmed => Some(ConnEntry {
                    flags: flag::ANSWERED | flag::REQUEST_END,
                    ..entry(state::HANDING)
                }),
                Has::Direct => Some(entry(state::DIRECT)),
            };
            let other = match known {
                // It was accepted, and is over: whoever sends it again recorded it.
                true => IncomingSyn::Drop(DropReason::ReplayedHandover),
                false => IncomingSyn::Accept,
            };
            let expected = match (has, same_client, same_server) {
                (Has::Nothing, false | true, false | true) => other,
                // The inspecting node tries again, or from another port.
                (Has::Handing, true, true) => IncomingSyn::Again,
                // It has lost our answer.
                (Has::Answered, true, true) => IncomingSyn::Answer,
                // A late copy: the server's connection is the client's by now.
                (Has::Confirmed | Has::Direct, true, true) => {
                    IncomingSyn::Drop(DropReason::DuplicateHandover)
                }
                // An authenticated handover of another connection: the old one is over. Or, if it is known, the one
                // that it is of: the connection that is here must not make way for it.
                (
                    Has::Handing | Has::Answered | Has::Confirmed | Has::Direct,
                    false,
                    false | true,
                )
                | (Has::Handing | Has::Answered | Has::Confirmed | Has::Direct, true, false) => {
                    other
                }
            };
            let mut asked = false;
            let decided = incoming_syn(&option, e.as_ref(), || {
                asked = true;
                known
            });
            assert_eq!(decided, expected, "{has:?}");
            assert_eq!(asked, expected == other, "{has:?}: only when it matters");
        }
    }
}

#[test]
fn unknown_table_is_exhaustive() {
    for kind in KINDS {
        let expected = match kind {
            // Its sender waits for nothing else.
            Kind::Fin => Incoming::AnswerAck,
            Kind::Syn
            | Kind::SynAck
            | Kind::Ack
            | Kind::Data
            | Kind::DataFin
            | Kind::Rst
            | Kind::RstAck => Incoming::Drop(DropReason::UnknownHandover),
        };
        assert_eq!(unknown(&kind.header()), expected, "{kind:?}");
    }
}

/// SYNs of two attempts may overtake each other: the request tells which one the inspecting node goes by.
#[test]
fn the_port_that_the_request_comes_from_counts() {
    let first = X.plus(1);
    let marked = TcpHeader {
        source: PORT + 1,
        seq: first,
        ack: first.plus(87),
        payload: 87,
        reserved: REQUEST_END_BIT,
        ..Kind::Data.header()
    };
    let bare = TcpHeader {
        reserved: 0,
        ..marked
    };
    let beyond = TcpHeader {
        seq: first.plus(88),
        ..marked
    };
    for (state, flags, header, present) in [
        (state::HANDING, flag::ANSWERED, marked, true),
        (state::HANDING, flag::ANSWERED, bare, false),
        (state::HANDING, flag::ANSWERED, beyond, false),
        // It has begun: another attempt's can't.
        (
            state::HANDING,
            flag::ANSWERED | flag::REQUEST_END,
            marked,
            false,
        ),
        (state::DIRECT, flag::ANSWERED, marked, false),
    ] {
        let mut e = ConnEntry {
            flags,
            ..entry(state)
        };
        assert_eq!(is_present(&header, &mut e), present, "{state} {flags}");
        assert_eq!(e.peer_port, if present { PORT + 1 } else { PORT });
        let mut e = ConnEntry {
            flags,
            peer_port: PORT + 1,
            ..entry(state)
        };
        assert!(is_present(&header, &mut e), "the port that it has");
    }
}

/// A segment that comes late, when its port serves another handover already, says nothing about that one's request.
#[test]
fn the_end_of_another_request_is_not_believed() {
    let first = X.plus(1);
    let end = first.plus(87);
    for (flags, seq, payload, end, believed) in [
        (ACK, first, 87, end, true),
        (ACK, first.plus(80), 7, end, true),
        (ACK, first, 80, end, true),
        (ACK, first, 0, first, true),
        // The client's FIN, which is the end; a dead daemon's own, with and without data.
        (FIN | ACK, first, 86, end, true),
        (FIN | ACK, end, 0, end, true),
        (FIN | ACK, first, 87, end, true),
        (ACK, first, 87, end.minus(1), false),
        (ACK, first.minus(1), 87, end, false),
        (ACK, end.plus(1), 0, end, false),
        (FIN | ACK, end.plus(1), 0, end, false),
        (ACK, first.plus(1 << 22), 87, end.plus(1 << 22), false),
        (ACK, first.plus(1 << 31), 87, end.plus(1 << 31), false),
    ] {
        let mut header = TcpHeader {
            seq,
            ack: end,
            payload,
            flags,
            reserved: REQUEST_END_BIT,
            ..Kind::Data.header()
        };
        let mut e = entry(state::HANDING);
        e.flags &= !flag::REQUEST_END;
        let before = e;
        let outcome = incoming(&mut header, &mut e, NOW);
        let dropped = outcome == Incoming::Drop(DropReason::UnknownHandover);
        assert_eq!(dropped, !believed, "{seq:?} {payload} {end:?}: {outcome:?}");
        assert_eq!(e.has(flag::REQUEST_END), believed);
        if !believed {
            assert_eq!(e, before);
        }
    }
}
