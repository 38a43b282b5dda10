//! At the inspecting node.

use super::*;

/// Nobody closes a dead daemon's socket silently: our kernel's FIN is acknowledged as its own, and the
/// target's becomes a reset, which leaves no socket behind.
#[test]
fn a_dead_daemons_kernel_gets_a_reset() {
    let h = handover(flag::REQUEST_END | flag::HALF_CLOSED);
    let end = X.plus(1).plus(h.request_len);
    let answer = TcpHeader {
        flags: FIN | ACK,
        ack: end,
        ..Kind::Fin.header()
    };

    let mut alive = entry(state::FROZEN);
    alive.request_end = end.minus(1);
    let mut header = answer;
    reply(&mut header, PORT, &h, &mut alive, NOW).unwrap();
    // The FIN that it acknowledges is one that the filter added.
    let own = end.minus(DELTA).minus(1);
    assert_eq!((header.flags, header.ack), (FIN | ACK, own));

    let mut dead = entry(state::FROZEN);
    dead.request_end = end.minus(1);
    let mut fin = TcpHeader {
        seq: end.minus(1).minus(DELTA),
        payload: 0,
        ..Kind::Fin.header()
    };
    outgoing(&mut fin, None, PORT, &h, &mut dead).unwrap();
    let mut header = answer;
    reply(&mut header, PORT, &h, &mut dead, NOW).unwrap();
    assert_eq!((header.flags, header.ack), (RST | ACK, end.minus(DELTA)));
    assert_eq!(header.seq, answer.seq, "the one number that resets");
    assert_eq!(dead.state, state::PLACED);
}

/// The SYN-ACK freezes the entry, the FIN completes the handover (docs/packets.md).
#[test]
fn reply_table_is_exhaustive() {
    #[derive(Clone, Copy, Debug)]
    enum Has {
        Inspect,
        Frozen,
        Placed,
    }
    for has in [Has::Inspect, Has::Frozen, Has::Placed] {
        for kind in KINDS {
            let before = match has {
                Has::Inspect => state::INSPECT,
                Has::Frozen => state::FROZEN,
                Has::Placed => state::PLACED,
            };
            let expected = match (has, kind) {
                (Has::Inspect | Has::Frozen, Kind::SynAck) => Some(state::FROZEN),
                (Has::Frozen, Kind::Fin | Kind::DataFin) => Some(state::PLACED),
                // Our kernel would answer with a reset as long as it waits for the SYN-ACK.
                (Has::Inspect, Kind::Ack | Kind::Data | Kind::Fin | Kind::DataFin) => None,
                // A refusal leaves the client its live inspector.
                (Has::Inspect, Kind::Syn | Kind::Rst | Kind::RstAck) => Some(before),
                (Has::Frozen, Kind::Syn | Kind::Ack | Kind::Data | Kind::Rst | Kind::RstAck) => {
                    Some(before)
                }
                // What is complete stays complete.
                (
                    Has::Placed,
                    Kind::Syn
                    | Kind::SynAck
                    | Kind::Ack
                    | Kind::Data
                    | Kind::Fin
                    | Kind::DataFin
                    | Kind::Rst
                    | Kind::RstAck,
                ) => Some(before),
            };
            reply_case(before, kind, answer(kind), expected);
            if matches!(kind, Kind::SynAck) {
                // It answers a handover that had the same port before.
                for (seq, ack) in [(Y.plus(1), X.plus(1)), (Y, X), (Y, X.plus(2))] {
                    let other = TcpHeader {
                        seq,
                        ack,
                        ..answer(kind)
                    };
                    reply_case(before, kind, other, None);
                }
            }
            // Another connection of the flow's has taken over: this one's are nobody's.
            let (mut header, mut e) = (kind.header(), entry(before));
            assert_eq!(
                reply(&mut header, PORT + 1, &handover(0), &mut e, NOW),
                None
            );
            assert_eq!((header, e), (kind.header(), entry(before)));
        }
    }
}

/// A segment of the target's; its SYN-ACK has the client's and the inspecting node's first numbers.
fn answer(kind: Kind) -> TcpHeader {
    match kind {
        Kind::SynAck => TcpHeader {
            seq: Y,
            ack: X.plus(1),
            ..kind.header()
        },
        Kind::Fin | Kind::DataFin => TcpHeader {
            ack: X.plus(2),
            ..kind.header()
        },
        _ => kind.header(),
    }
}

fn reply_case(before: u32, kind: Kind, was: TcpHeader, expected: Option<u32>) {
    let (mut header, mut e) = (was, entry(before));
    let shift = reply(&mut header, PORT, &handover(flag::SELF), &mut e, NOW);
    let expected_shift = expected.map(|_| OptionShift {
        set_tsecr: Some(777),
        sack: DELTA.wrapping_neg(),
        ..OptionShift::default()
    });
    assert_eq!(shift, expected_shift, "{} {kind:?}", state::name(before));
    assert_eq!(
        e.state,
        expected.unwrap_or(before),
        "{} {kind:?}",
        state::name(before)
    );
    let shifted = expected.is_some() && kind.acknowledges();
    let ack = was.ack.minus(if shifted { DELTA } else { 0 });
    assert_eq!(header, TcpHeader { ack, ..was });
}

/// A server that closes its side before it has acknowledged anything has not taken the connection over.
#[test]
fn a_server_that_closes_instead_of_greeting_completes_nothing() {
    for (ack, expected) in [(X.plus(1), state::FROZEN), (X.plus(2), state::PLACED)] {
        let mut header = TcpHeader {
            ack,
            ..answer(Kind::Fin)
        };
        let mut e = entry(state::FROZEN);
        reply(&mut header, PORT, &handover(0), &mut e, NOW).unwrap();
        assert_eq!((e.state, header.flags), (expected, FIN | ACK));
    }
}

/// Fig. 4, segment 4, and docs/packets.md: where the request ends travels with its segments.
#[test]
fn outgoing_table_is_exhaustive() {
    for end_known in [false, true] {
        for acknowledges_y in [false, true] {
            for kind in KINDS {
                for port in [PORT, PORT + 1] {
                    outgoing_case(end_known, acknowledges_y, kind, port);
                }
            }
        }
    }
}

/// The end is told by the first segment that follows the whole greeting, and how long that was.
#[test]
fn after_a_greeting_the_end_is_told_with_its_length() {
    let h = Handover {
        greeting: 77,
        ..handover(flag::REQUEST_END)
    };
    for (acknowledged, told) in [(0, false), (76, false), (77, true), (78, false)] {
        let mut header = TcpHeader {
            ack: Y.plus(1 + acknowledged),
            ..Kind::Data.header()
        };
        let before = header.ack;
        outgoing(&mut header, None, PORT, &h, &mut entry(state::FROZEN)).unwrap();
        let end = X.plus(1).plus(h.request_len);
        let expected = if told {
            (end, REQUEST_END_BIT, 77)
        } else {
            (before, 0, 0)
        };
        assert_eq!((header.ack, header.reserved, header.urgent), expected);
    }
    let option = option(&h, &entry(state::INSPECT), NOW, 0);
    assert_eq!(option.agreed, GREETED);
}

/// A server that is to greet waits for the acknowledgment of its SYN-ACK, and may repeat that to an earlier attempt.
#[test]
fn a_repeated_answer_to_an_earlier_attempt_is_acknowledged() {
    let again = answer(Kind::SynAck);
    for (greeting, before, known) in [
        (77, state::FROZEN, true),
        (77, state::INSPECT, false),
        (0, state::FROZEN, false),
    ] {
        let h = Handover {
            greeting,
            ..handover(0)
        };
        let (mut header, mut e) = (again, entry(before));
        let outcome = reply(&mut header, PORT + 1, &h, &mut e, NOW);
        assert_eq!(outcome.is_some(), known);
        let expected = if known { PORT } else { again.destination };
        assert_eq!(header.destination, expected);
    }
    let h = Handover {
        greeting: 77,
        ..handover(0)
    };
    for (kind, known) in [
        (Kind::Data, true),
        (Kind::Fin, true),
        (Kind::Rst, false),
        (Kind::RstAck, false),
    ] {
        let mut e = entry(state::FROZEN);
        let outcome = reply(&mut answer(kind), PORT + 1, &h, &mut e, NOW);
        assert_eq!(outcome.is_some(), known, "{kind:?}");
    }
}

/// The client has its greeting, and may have room for no more.
#[test]
fn a_greeting_always_has_room() {
    for (client, greeting, shown) in [(99, 77, 99), (99, 793, 100), (0, 77, 10), (0, 0, 0)] {
        let h = Handover {
            greeting,
            ..handover(0)
        };
        let mut e = ConnEntry {
            window: client,
            ..entry(state::FROZEN)
        };
        let mut header = Kind::Ack.header();
        outgoing(&mut header, None, PORT, &h, &mut e).unwrap();
        assert_eq!(header.window, shown);
    }
}

fn outgoing_case(end_known: bool, acknowledges_y: bool, kind: Kind, port: u16) {
    let flags = if end_known { flag::REQUEST_END } else { 0 };
    let mut e = entry(state::FROZEN);
    let mut header = kind.header();
    if !acknowledges_y {
        header.ack = Y.plus(2);
    }
    let before = header;
    let outcome = outgoing(&mut header, Some(888), port, &handover(flags), &mut e);
    match (kind, port == PORT) {
        // A SYN is the beginning of a handover, whichever was before.
        (Kind::Syn | Kind::SynAck, true | false) => {
            assert_eq!(outcome, Some(Outgoing::Syn));
            let expected = TcpHeader {
                seq: X,
                ack: Y,
                urgent: 40_000,
                window: 99 << 3,
                header_len: 60,
                ..before
            };
            assert_eq!(header, expected);
            assert_eq!((e.peer_port, e.seq_delta), (port, X.since(before.seq)));
        }
        (Kind::Ack | Kind::Data | Kind::Fin | Kind::DataFin | Kind::Rst | Kind::RstAck, false) => {
            assert_eq!(outcome, None, "{kind:?} of a handover that gave way");
            assert_eq!((header, e), (before, entry(state::FROZEN)));
        }
        (Kind::Ack | Kind::Data | Kind::Fin | Kind::DataFin | Kind::Rst | Kind::RstAck, true) => {
            let carries = match kind {
                Kind::Data | Kind::Fin | Kind::DataFin => true,
                Kind::Syn | Kind::SynAck | Kind::Ack | Kind::Rst | Kind::RstAck => false,
            };
            let marked = end_known && acknowledges_y && carries;
            let expected = TcpHeader {
                seq: before.seq.plus(DELTA),
                window: 99,
                ack: if marked { X.plus(1 + 321) } else { before.ack },
                reserved: if marked { REQUEST_END_BIT } else { 0 },
                ..before
            };
            assert_eq!(header, expected, "{kind:?}");
            let shift = OptionShift {
                set_tsval: Some(555),
                ..OptionShift::default()
            };
            assert_eq!(outcome, Some(Outgoing::Segment(shift)));
        }
    }
    if outcome.is_some() {
        assert_eq!(e.ts_delta, 888, "our kernel's clock, for the answers");
    }
}

/// The client's half-close: the filter sends the FIN with the last data, and hides its acknowledgment from a
/// kernel that has sent none.
#[test]
fn the_filter_sends_the_fin_of_a_half_closed_client() {
    let flags = flag::REQUEST_END | flag::HALF_CLOSED;
    for (len, last) in [(100 + 9, true), (100 + 10, false), (100 + 8, false)] {
        let h = Handover {
            request_len: len,
            ..handover(flags)
        };
        let end = X.plus(1).plus(len);
        let mut header = TcpHeader {
            seq: X.plus(100).minus(DELTA),
            ..Kind::Data.header()
        };
        outgoing(&mut header, None, PORT, &h, &mut entry(state::FROZEN));
        assert_eq!(header.flags & FIN != 0, last, "a request of {len} bytes");
        assert_eq!((header.ack, header.reserved), (end, REQUEST_END_BIT));
        if last {
            assert_eq!(header.end(), end, "the FIN is the request's end");
        }
        for (ack, fin) in [(end, 1), (end.minus(1), 0)] {
            let mut header = TcpHeader {
                ack,
                ..Kind::Ack.header()
            };
            let mut e = entry(state::FROZEN);
            e.request_end = end.minus(1);
            reply(&mut header, PORT, &h, &mut e, NOW);
            assert_eq!(
                header.ack,
                ack.minus(DELTA).minus(fin),
                "the kernel's own number"
            );
        }
    }
}

/// After the FIN only a late segment with something in it matters.
#[test]
fn acknowledgments_of_the_last_fin_are_needless() {
    for kind in KINDS {
        let mut header = kind.header();
        let outcome = outgoing(
            &mut header,
            None,
            PORT,
            &handover(0),
            &mut entry(state::PLACED),
        );
        let expected = match kind {
            Kind::Ack => true,
            Kind::Syn
            | Kind::SynAck
            | Kind::Data
            | Kind::Fin
            | Kind::DataFin
            | Kind::Rst
            | Kind::RstAck => false,
        };
        assert_eq!(outcome == Some(Outgoing::Needless), expected, "{kind:?}");
    }
}

/// The client may have sent the server itself what our kernel has still to send: our kernel hears of no
/// more than it has sent.
#[test]
fn a_kernel_hears_of_no_more_than_it_has_sent() {
    let h = handover(flag::REQUEST_END);
    let mut e = entry(state::FROZEN);
    e.request_end = X.plus(1);
    let mut header = TcpHeader {
        seq: X.plus(1).minus(DELTA),
        ..Kind::Data.header()
    };
    let sent = header.end().plus(DELTA);
    outgoing(&mut header, None, PORT, &h, &mut e).unwrap();
    for (acked, heard) in [
        (sent.minus(1), sent.minus(1)),
        (sent, sent),
        (sent.plus(7), sent),
    ] {
        let mut header = TcpHeader {
            ack: acked,
            ..Kind::Ack.header()
        };
        reply(&mut header, PORT, &h, &mut e, NOW).unwrap();
        assert_eq!(header.ack, heard.minus(DELTA));
    }
}
