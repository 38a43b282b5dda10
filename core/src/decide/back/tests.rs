//! Every state with every kind of segment: the expected outcomes are matches without a wildcard arm.

use super::*;
use crate::addr::{Addr, FlowKey};
use crate::verdict::DropReason;

const X: Seq = Seq(0xffff_fff0);
const Y: Seq = Seq(0x8000_0000);
const NOW: u32 = 4242;
const PORT: u16 = 20_001;
/// What our kernel's number lies behind the client's, or the server's behind the inspecting node's.
const DELTA: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Syn,
    SynAck,
    Ack,
    Data,
    Fin,
    DataFin,
    Rst,
    RstAck,
}

const KINDS: [Kind; 8] = [
    Kind::Syn,
    Kind::SynAck,
    Kind::Ack,
    Kind::Data,
    Kind::Fin,
    Kind::DataFin,
    Kind::Rst,
    Kind::RstAck,
];

impl Kind {
    fn header(self) -> TcpHeader {
        let (flags, payload) = match self {
            Self::Syn => (SYN, 0),
            Self::SynAck => (SYN | ACK, 0),
            Self::Ack => (ACK, 0),
            Self::Data => (ACK, 9),
            Self::Fin => (FIN | ACK, 0),
            Self::DataFin => (FIN | ACK, 9),
            Self::Rst => (RST, 0),
            Self::RstAck => (RST | ACK, 0),
        };
        TcpHeader {
            seq: X.plus(100),
            ack: Y.plus(1),
            flags,
            payload,
            window: 7,
            header_len: 32,
            ..TcpHeader::default()
        }
    }

    fn acknowledges(self) -> bool {
        self.header().flags & ACK != 0
    }
}

fn entry(state: u32) -> ConnEntry {
    ConnEntry {
        state,
        client_isn: X,
        server_isn: Y,
        seq_delta: DELTA,
        peer_port: PORT,
        client_tsval: 555,
        ts_delta: 777,
        window: 99,
        client_scale: 3,
        ..ConnEntry::default()
    }
}

fn handover(flags: u32) -> Handover {
    Handover {
        flow: FlowKey {
            remote: Addr::v4([198, 18, 0, 200]),
            local: Addr::v4([198, 18, 0, 100]),
            remote_port: 40_000,
            local_port: 80,
        },
        target: Addr::v4([198, 18, 1, 12]),
        flags,
        request_len: 321,
        ..Handover::default()
    }
}

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
        /// The server has reset the connection before the request's end was known.
        DirectOpen,
    }
    for has in [
        Has::Open,
        Has::EndsHere,
        Has::EndsElsewhere,
        Has::Direct,
        Has::DirectOpen,
    ] {
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
                Has::DirectOpen => e.state = state::DIRECT,
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
                (Has::Direct | Has::DirectOpen, Kind::Data | Kind::DataFin) => Incoming::AnswerFin,
                (Has::Direct | Has::DirectOpen, Kind::Fin) => Incoming::AnswerAck,
                // Its kernel may still wait for the rest of the handshake.
                (Has::DirectOpen, Kind::Rst | Kind::RstAck) => Incoming::ToServer,
                (Has::Direct, Kind::Rst | Kind::RstAck)
                | (Has::Direct | Has::DirectOpen, Kind::Syn | Kind::SynAck | Kind::Ack) => {
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

#[test]
fn incoming_syn_table_is_exhaustive() {
    #[derive(Clone, Copy, Debug)]
    enum Has {
        Nothing,
        Handing,
        Answered,
        Direct,
    }
    for has in [Has::Nothing, Has::Handing, Has::Answered, Has::Direct] {
        for (same_client, same_server) in
            [(false, false), (false, true), (true, false), (true, true)]
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
                Has::Direct => Some(entry(state::DIRECT)),
            };
            let expected = match (has, same_client, same_server) {
                (Has::Nothing, false | true, false | true) => IncomingSyn::Accept,
                // The inspecting node tries again, or from another port.
                (Has::Handing, true, true) => IncomingSyn::Again,
                // It has lost our answer.
                (Has::Answered, true, true) => IncomingSyn::Answer,
                // A late copy: the server's connection is the client's by now.
                (Has::Direct, true, true) => IncomingSyn::Drop(DropReason::DuplicateHandover),
                // An authenticated handover of another connection: the old one is over.
                (Has::Handing | Has::Answered | Has::Direct, false, false | true)
                | (Has::Handing | Has::Answered | Has::Direct, true, false) => IncomingSyn::Accept,
            };
            assert_eq!(incoming_syn(&option, e.as_ref()), expected, "{has:?}");
        }
    }
}

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

/// What one node marks, the other understands: the end, and the acknowledgment behind it.
#[test]
fn a_marked_segment_survives_the_way() {
    let mut sender = entry(state::FROZEN);
    let mut header = TcpHeader {
        seq: X.plus(1).minus(DELTA),
        ..Kind::Data.header()
    };
    let h = handover(flag::REQUEST_END);
    outgoing(&mut header, None, PORT, &h, &mut sender);
    let mut receiver = ConnEntry {
        seq_delta: 0x0bad_cafe,
        ..entry(state::HANDING)
    };
    assert_eq!(
        incoming(&mut header, &mut receiver, NOW),
        Incoming::ToServer
    );
    assert_eq!(receiver.request_end, X.plus(1).plus(321));
    assert_eq!(header.seq, X.plus(1), "the client's own number");
    assert_eq!(
        header.ack,
        Y.plus(1).minus(0x0bad_cafe),
        "the server's own number"
    );
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
