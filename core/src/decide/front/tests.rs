//! Every state with every kind of segment and every fact. The expected outcomes are written as matches
//! without a wildcard arm: a new state, fact or kind doesn't compile until its outcomes are written, too.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::segment::scan;

/// The kinds of segments of a connection; the SYN that opens one is a case of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    SynAck,
    Ack,
    Data,
    Fin,
    Rst,
    RstAck,
}

const KINDS: [Kind; 6] = [
    Kind::SynAck,
    Kind::Ack,
    Kind::Data,
    Kind::Fin,
    Kind::Rst,
    Kind::RstAck,
];

const SOCKETS: [Socket; 3] = [Socket::None, Socket::Alive, Socket::TimeWait];

const OWNERSHIPS: [Ownership; 4] = [
    Ownership::Owner,
    Ownership::NotOwner,
    Ownership::LeaseExpired,
    Ownership::NoRing,
];

const X: Seq = Seq(0xffff_fff0);
const Y: Seq = Seq(0x8000_0000);
const W: Seq = Seq(77);
const NOW: u32 = 4242;
/// How many bytes of a request the inspector takes.
const MOST: u32 = 32_768;
/// What our kernel acknowledged last of the old connection's.
const ACKED: Seq = X.plus(1000);
/// Its last timestamp echo.
const ECHOED: u32 = 5000;

fn header(kind: Kind) -> TcpHeader {
    let (flags, payload) = match kind {
        Kind::SynAck => (SYN | ACK, 0),
        Kind::Ack => (ACK, 0),
        Kind::Data => (ACK, 9),
        Kind::Fin => (FIN | ACK, 0),
        Kind::Rst => (RST, 0),
        Kind::RstAck => (RST | ACK, 0),
    };
    TcpHeader {
        seq: X.plus(1),
        ack: Y.plus(1),
        flags,
        payload,
        window: 99,
        header_len: 32,
        ..TcpHeader::default()
    }
}

fn timestamps(value: u32, echo: u32) -> OptionScan {
    let mut b = [0; 64];
    b[..4].copy_from_slice(&[1, 1, 8, 10]);
    b[4..8].copy_from_slice(&value.to_be_bytes());
    b[8..12].copy_from_slice(&echo.to_be_bytes());
    scan(b, 12)
}

fn no_options() -> OptionScan {
    scan([0; 64], 0)
}

struct Known {
    ownership: Ownership,
    public: Socket,
    inspector: Socket,
    cookie: bool,
}

impl Facts for Known {
    fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn socket(&self, port: Port) -> Socket {
        match port {
            Port::Public => self.public,
            Port::Inspector => self.inspector,
        }
    }

    fn answers_cookie(&self) -> bool {
        self.cookie
    }
}

fn every_fact() -> Vec<Known> {
    let mut all = Vec::new();
    for ownership in OWNERSHIPS {
        for public in SOCKETS {
            for inspector in SOCKETS {
                for cookie in [false, true] {
                    all.push(Known {
                        ownership,
                        public,
                        inspector,
                        cookie,
                    });
                }
            }
        }
    }
    all
}

/// Mode `l4`: sockets before the ring.
#[test]
fn l4_table_is_exhaustive() {
    let syn = TcpHeader {
        flags: SYN,
        ..TcpHeader::default()
    };
    for facts in every_fact() {
        let expected = match (facts.ownership, facts.public) {
            // Owned: to the application, whose kernel deals with what it has of the flow.
            (Ownership::Owner, Socket::None | Socket::Alive | Socket::TimeWait) => Ingress::Pass,
            // Alive here: the kernel that holds the socket answers (RFC 5961), whoever owns the flow.
            (Ownership::NotOwner | Ownership::LeaseExpired | Ownership::NoRing, Socket::Alive) => {
                Ingress::Challenge
            }
            // Every node sees every SYN: the one with the TIME_WAIT socket gets rid of it.
            (
                Ownership::NotOwner | Ownership::LeaseExpired | Ownership::NoRing,
                Socket::TimeWait,
            ) => Ingress::KillTimeWait,
            (Ownership::NotOwner, Socket::None) => Ingress::Drop(DropReason::NotOwner),
            (Ownership::LeaseExpired, Socket::None) => Ingress::Drop(DropReason::LeaseExpired),
            (Ownership::NoRing, Socket::None) => Ingress::Drop(DropReason::NoRing),
        };
        assert_eq!(ingress_l4(&syn, &facts), expected);
        let expected = match (facts.public, facts.cookie) {
            // A connection stays where its socket is.
            (Socket::Alive | Socket::TimeWait, false | true) => Ingress::Pass,
            // A listener that sent a SYN cookie has no socket yet.
            (Socket::None, true) => Ingress::Pass,
            // Anything else: at the lowest cost.
            (Socket::None, false) => Ingress::Drop(DropReason::NotMine),
        };
        for kind in KINDS {
            assert_eq!(ingress_l4(&header(kind), &facts), expected, "{kind:?}");
        }
    }
}

/// What a node has of a flow as the inspecting one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Inspecting {
    None,
    Inspect,
    Frozen,
    Placed,
    PlacedSelf,
}

const INSPECTING: [Inspecting; 5] = [
    Inspecting::None,
    Inspecting::Inspect,
    Inspecting::Frozen,
    Inspecting::Placed,
    Inspecting::PlacedSelf,
];

impl Inspecting {
    fn entry(self) -> Option<ConnEntry> {
        let (state, flags) = match self {
            Self::None => return None,
            Self::Inspect => (state::INSPECT, 0),
            Self::Frozen => (state::FROZEN, 0),
            Self::Placed => (state::PLACED, 0),
            Self::PlacedSelf => (state::PLACED, flag::SELF),
        };
        Some(ConnEntry {
            state,
            flags,
            client_isn: X,
            ..ConnEntry::default()
        })
    }
}

/// What a node has of a flow as the processing one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Processing {
    None,
    Begun,
    Handing,
    Direct,
    Ended,
    Noted,
    EndedSelf,
}

const PROCESSING: [Processing; 7] = [
    Processing::None,
    Processing::Begun,
    Processing::Handing,
    Processing::Direct,
    Processing::Ended,
    Processing::Noted,
    Processing::EndedSelf,
];

impl Processing {
    fn entry(self) -> Option<ConnEntry> {
        let (state, flags) = match self {
            Self::None => return None,
            Self::Begun => (state::HANDING, 0),
            Self::Handing => (state::HANDING, flag::ANSWERED),
            Self::Direct => (state::DIRECT, flag::ANSWERED),
            Self::Ended => (state::DIRECT, flag::ANSWERED | flag::ENDED),
            Self::Noted => (state::DIRECT, flag::ANSWERED | flag::ENDED | flag::NOTED),
            Self::EndedSelf => (state::DIRECT, flag::ANSWERED | flag::ENDED | flag::SELF),
        };
        Some(ConnEntry {
            state,
            flags: flags | AGREED_TIMESTAMPS,
            client_isn: X,
            server_isn: Y,
            acked: ACKED,
            server_tsval: ECHOED,
            ..ConnEntry::default()
        })
    }
}

/// What a SYN is to the connection that the entries are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Syn {
    Duplicate,
    LaterNumber,
    LaterTimestamp,
    Older,
}

const SYNS: [Syn; 4] = [
    Syn::Duplicate,
    Syn::LaterNumber,
    Syn::LaterTimestamp,
    Syn::Older,
];

impl Syn {
    fn segment(self) -> (TcpHeader, OptionScan) {
        let (seq, options) = match self {
            Self::Duplicate => (X, no_options()),
            Self::LaterNumber => (ACKED.plus(1), no_options()),
            Self::LaterTimestamp => (X.plus(1), timestamps(ECHOED + 1, 0)),
            Self::Older => (X.plus(1), timestamps(ECHOED, 0)),
        };
        let header = TcpHeader {
            seq,
            flags: SYN,
            ..TcpHeader::default()
        };
        (header, options)
    }
}

/// What the processing half says to a SYN: an outcome, or whether its connection is known to be over.
fn processing_half(processing: Processing, socket: Socket, syn: Syn) -> Result<bool, Ingress> {
    let live = match processing {
        Processing::None => return Ok(false),
        Processing::Begun | Processing::Handing | Processing::Direct => true,
        // The sweep has found its socket in TIME_WAIT or gone, and tells who inspected it.
        Processing::Ended | Processing::Noted | Processing::EndedSelf => false,
    };
    match (live, socket, syn) {
        // A live flow's kernel sends a challenge ACK; nothing else may happen to the flow.
        (
            true,
            Socket::Alive,
            Syn::Duplicate | Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older,
        ) => Err(Ingress::Challenge),
        // The listener would take it for a connection of its own.
        (true, Socket::TimeWait | Socket::None, Syn::Duplicate)
        | (false, Socket::Alive | Socket::TimeWait | Socket::None, Syn::Duplicate) => {
            Err(Ingress::Drop(DropReason::DuplicateSyn))
        }
        // RFC 6191: only a later number or timestamp ends a TIME_WAIT.
        (true, Socket::TimeWait, Syn::Older) => Err(Ingress::Challenge),
        (true, Socket::TimeWait, Syn::LaterNumber | Syn::LaterTimestamp)
        | (true, Socket::None, Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older)
        | (
            false,
            Socket::Alive | Socket::TimeWait | Socket::None,
            Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older,
        ) => Ok(true),
    }
}

/// The rules (docs/packets.md) for a SYN of an inspected service.
fn syn_rule(inspecting: Inspecting, processing: Processing, syn: Syn, facts: &Known) -> Ingress {
    let over = match processing_half(processing, facts.public, syn) {
        Ok(over) => over,
        Err(outcome) => return outcome,
    };
    match (facts.ownership, over) {
        (Ownership::Owner, false | true) => {}
        (Ownership::NotOwner, true) => {
            return match processing {
                // Whoever inspected the last connection has said that it knows, or was this node itself.
                Processing::Noted | Processing::EndedSelf => Ingress::Forget,
                // He still takes the flow for alive.
                Processing::None
                | Processing::Begun
                | Processing::Handing
                | Processing::Direct
                | Processing::Ended => Ingress::Release,
            };
        }
        (Ownership::NotOwner, false) => return Ingress::Drop(DropReason::NotOwner),
        (Ownership::LeaseExpired, false | true) => {
            return Ingress::Drop(DropReason::LeaseExpired);
        }
        (Ownership::NoRing, false | true) => return Ingress::Drop(DropReason::NoRing),
    }
    let again = match syn {
        Syn::Duplicate => true,
        Syn::LaterNumber | Syn::LaterTimestamp | Syn::Older => false,
    };
    match (inspecting, again) {
        (Inspecting::None, false | true) => Ingress::Begin,
        // A lost SYN-ACK: the inspector's kernel sends it again.
        (Inspecting::Inspect, true) => Ingress::ToInspector,
        (Inspecting::Frozen | Inspecting::Placed | Inspecting::PlacedSelf, true) => {
            Ingress::Drop(DropReason::DuplicateSyn)
        }
        (Inspecting::Inspect, false) => match facts.inspector {
            Socket::Alive => Ingress::ToInspector,
            Socket::TimeWait | Socket::None => Ingress::Begin,
        },
        // "The owner of a flow it knows to be alive elsewhere starts nothing."
        (Inspecting::Frozen, false) => Ingress::Drop(DropReason::AliveElsewhere),
        (Inspecting::Placed, false) => match over {
            true => Ingress::Begin,
            false => Ingress::Drop(DropReason::AliveElsewhere),
        },
        // The other half was here: it is over, or gone.
        (Inspecting::PlacedSelf, false) => match processing {
            Processing::None
            | Processing::Begun
            | Processing::Handing
            | Processing::Direct
            | Processing::Ended
            | Processing::Noted
            | Processing::EndedSelf => Ingress::Begin,
        },
    }
}

#[test]
fn l7_syn_table_is_exhaustive() {
    for inspecting in INSPECTING {
        for processing in PROCESSING {
            for syn in SYNS {
                for facts in every_fact() {
                    let (header, options) = syn.segment();
                    let (mut i, mut p) = (inspecting.entry(), processing.entry());
                    let before = (i, p);
                    let outcome =
                        ingress_l7(&header, &options, i.as_mut(), p.as_mut(), NOW, &facts);
                    assert_eq!(
                        outcome,
                        syn_rule(inspecting, processing, syn, &facts),
                        "{inspecting:?} {processing:?} {syn:?} {:?} public {:?} inspector {:?}",
                        facts.ownership,
                        facts.public,
                        facts.inspector
                    );
                    // Anybody can send a SYN: it must not even keep an entry young. But a flow that may be
                    // alive elsewhere no more is asked about.
                    if outcome == Ingress::Drop(DropReason::AliveElsewhere) {
                        let doubted = i.as_mut().expect("the flow was placed");
                        assert!(doubted.has(flag::DOUBTED));
                        doubted.flags &= !flag::DOUBTED;
                    }
                    assert_eq!((i, p), before, "a SYN changes nothing else of an entry");
                }
            }
        }
    }
}

/// The entries decide, not the socket table.
#[test]
fn l7_segment_table_is_exhaustive() {
    for inspecting in INSPECTING {
        for processing in PROCESSING {
            for kind in KINDS {
                for facts in every_fact() {
                    let (mut i, mut p) = (inspecting.entry(), processing.entry());
                    let outcome = ingress_l7(
                        &header(kind),
                        &timestamps(31, 0),
                        i.as_mut(),
                        p.as_mut(),
                        NOW,
                        &facts,
                    );
                    let expected = match (processing, inspecting) {
                        // From the SYN-ACK on the client's own segments are accepted, also before the
                        // handover is complete.
                        (
                            Processing::Handing
                            | Processing::Direct
                            | Processing::Ended
                            | Processing::Noted
                            | Processing::EndedSelf,
                            Inspecting::None
                            | Inspecting::Inspect
                            | Inspecting::Frozen
                            | Inspecting::Placed
                            | Inspecting::PlacedSelf,
                        ) => Ingress::ToServer,
                        // Before it there are no numbers to translate by.
                        (Processing::Begun, Inspecting::None) => {
                            Ingress::Drop(DropReason::TooEarly)
                        }
                        (Processing::None, Inspecting::None) => Ingress::Drop(DropReason::NotMine),
                        // Until the server has answered, the inspector has the client, also where both are
                        // on one node: a refused connection leaves the client a live inspector.
                        (Processing::None | Processing::Begun, Inspecting::Inspect) => {
                            Ingress::ToInspector
                        }
                        (
                            Processing::None | Processing::Begun,
                            Inspecting::Frozen | Inspecting::Placed | Inspecting::PlacedSelf,
                        ) => Ingress::Drop(DropReason::HandedOver),
                    };
                    assert_eq!(outcome, expected, "{processing:?} {inspecting:?} {kind:?}");
                    let noted = i.is_some_and(|e| (e.client_tsval, e.window) == (31, 99));
                    assert_eq!(
                        noted,
                        outcome == Ingress::ToInspector,
                        "what the client said last"
                    );
                    let used = p.is_some_and(|e| e.used_at == NOW);
                    assert_eq!(used, outcome == Ingress::ToServer, "the entry was of use");
                    let ended = |e: ConnEntry| e.has(flag::ENDED);
                    let was = processing.entry().is_some_and(ended);
                    // A reset may end the socket's TIME_WAIT.
                    let still = was && !matches!(kind, Kind::Rst | Kind::RstAck);
                    assert_eq!(p.is_some_and(ended), still, "{processing:?} {kind:?}");
                }
            }
        }
    }
}

/// From the processing node's answer on, nothing of the inspector's socket leaves.
#[test]
fn inspector_table_is_exhaustive() {
    #[derive(Clone, Copy, Debug)]
    enum Has {
        Nothing,
        Unanswered,
        Answered,
        Frozen,
        Placed,
    }
    for has in [
        Has::Nothing,
        Has::Unanswered,
        Has::Answered,
        Has::Frozen,
        Has::Placed,
    ] {
        for kind in KINDS {
            let with = |state, flags| ConnEntry {
                state,
                flags,
                ..ConnEntry::default()
            };
            let mut entry = match has {
                Has::Nothing => None,
                Has::Unanswered => Some(with(state::INSPECT, 0)),
                Has::Answered => Some(with(state::INSPECT, flag::ANSWERED)),
                Has::Frozen => Some(with(state::FROZEN, flag::ANSWERED)),
                Has::Placed => Some(with(state::PLACED, flag::ANSWERED)),
            };
            let expected = match (has, kind) {
                // A daemon died in mid-handover, and its kernel closes its sockets.
                (Has::Nothing | Has::Frozen | Has::Placed, Kind::Fin) => FromInspector::ResetSocket,
                (
                    Has::Nothing,
                    Kind::SynAck | Kind::Ack | Kind::Data | Kind::Rst | Kind::RstAck,
                ) => FromInspector::Drop(DropReason::NoEntry),
                (
                    Has::Frozen | Has::Placed,
                    Kind::SynAck | Kind::Ack | Kind::Data | Kind::Rst | Kind::RstAck,
                ) => FromInspector::Drop(DropReason::Frozen),
                // No listener: the client tries again and meets a live inspector.
                (Has::Unanswered, Kind::Rst | Kind::RstAck) => FromInspector::Forget,
                (Has::Unanswered, Kind::SynAck | Kind::Ack | Kind::Data | Kind::Fin) => {
                    FromInspector::ToClient
                }
                // A refused request: the client must see the reset.
                (
                    Has::Answered,
                    Kind::SynAck | Kind::Ack | Kind::Data | Kind::Fin | Kind::Rst | Kind::RstAck,
                ) => FromInspector::ToClient,
            };
            let outcome =
                egress_inspector(&mut header(kind), &no_options(), entry.as_mut(), MOST, NOW);
            assert_eq!(outcome, expected, "{has:?} {kind:?}");
        }
    }
}

/// What the server sends during a handover, and what of it completes the handover (docs/packets.md).
#[test]
fn server_table_is_exhaustive() {
    #[derive(Clone, Copy, Debug)]
    enum Has {
        Nothing,
        Begun,
        /// The request's end is not known yet.
        Open,
        /// It is known, and not acknowledged.
        Sending,
        /// It is acknowledged by the segment.
        Acknowledged,
        Direct,
    }
    for has in [
        Has::Nothing,
        Has::Begun,
        Has::Open,
        Has::Sending,
        Has::Acknowledged,
        Has::Direct,
    ] {
        for kind in KINDS {
            let header = TcpHeader {
                seq: W.plus(1),
                ack: match has {
                    // Of the SYN: nothing else has been sent.
                    Has::Begun => X.plus(1),
                    _ => X.plus(500),
                },
                ..header(kind)
            };
            let with = |state, flags, end| ConnEntry {
                state,
                flags,
                request_end: end,
                client_isn: X,
                server_isn: Y,
                ..ConnEntry::default()
            };
            let handing = |end| with(state::HANDING, flag::ANSWERED | flag::REQUEST_END, end);
            let mut entry = match has {
                Has::Nothing => None,
                Has::Begun => Some(with(state::HANDING, 0, Seq(0))),
                Has::Open => Some(with(state::HANDING, flag::ANSWERED, X)),
                Has::Sending => Some(handing(X.plus(501))),
                Has::Acknowledged => Some(handing(X.plus(500))),
                Has::Direct => Some(with(state::DIRECT, flag::ANSWERED, X)),
            };
            let expected = match (has, kind) {
                (
                    Has::Nothing,
                    Kind::SynAck | Kind::Ack | Kind::Data | Kind::Fin | Kind::Rst | Kind::RstAck,
                ) => FromServer::Drop(DropReason::NoEntry),
                // Also a repeated one: the inspecting node's acknowledgment was lost.
                (
                    Has::Begun | Has::Open | Has::Sending | Has::Acknowledged | Has::Direct,
                    Kind::SynAck,
                ) => FromServer::AnswerPeer,
                // The port is closed: the client still has a live inspector.
                (Has::Begun, Kind::RstAck) => FromServer::RefusePeer,
                // An older connection's.
                (Has::Begun, Kind::Rst) => FromServer::Drop(DropReason::NoEntry),
                // An older connection's, that the client has forgotten.
                (Has::Begun, Kind::Ack | Kind::Data | Kind::Fin) => FromServer::ResetServer,
                // The client's, not only the inspecting node's.
                (Has::Open | Has::Sending | Has::Acknowledged, Kind::Rst | Kind::RstAck) => {
                    FromServer::ResetBoth
                }
                (Has::Open | Has::Sending, Kind::Ack) => FromServer::ToPeer,
                // An answer before the end of the request (an early 413) is the client's.
                (Has::Open | Has::Sending, Kind::Data | Kind::Fin) => FromServer::ToClient,
                (Has::Acknowledged, Kind::Ack | Kind::Data | Kind::Fin) => FromServer::Direct,
                (Has::Direct, Kind::Ack | Kind::Data | Kind::Fin | Kind::Rst | Kind::RstAck) => {
                    FromServer::ToClient
                }
            };
            let outcome = egress_server(&header, &timestamps(7, 8), entry.as_mut(), NOW);
            assert_eq!(outcome, expected, "{has:?} {kind:?}");
            let Some(entry) = entry else { continue };
            let over = matches!(outcome, FromServer::Direct | FromServer::ResetBoth);
            let was_direct = matches!(has, Has::Direct);
            assert_eq!(
                entry.state == state::DIRECT,
                over || was_direct,
                "{has:?} {kind:?}"
            );
            assert_eq!(entry.used_at, NOW);
            if outcome == FromServer::AnswerPeer {
                assert_eq!(entry.seq_delta, Y.since(W.plus(1)));
                assert!(entry.has(flag::ANSWERED));
            }
        }
    }
}

#[test]
fn a_repeated_answer_does_not_move_the_clock() {
    let mut entry = Processing::Begun.entry().unwrap();
    let answer = header(Kind::SynAck);
    egress_server(&answer, &timestamps(100, 31), Some(&mut entry), NOW);
    let delta = entry.ts_delta;
    assert_eq!(delta, ECHOED - 100);
    egress_server(&answer, &timestamps(900, 31), Some(&mut entry), NOW);
    assert_eq!(entry.ts_delta, delta);
}

/// What both sides offered was agreed, nothing else (RFC 7323 §1.3, RFC 2018 §2, RFC 3168 §6.1.1).
#[test]
fn only_what_both_offered_is_agreed() {
    let options = |bits: u8| {
        let mut b = [1; 64];
        if bits & 1 != 0 {
            b[..2].copy_from_slice(&[4, 2]);
        }
        if bits & 2 != 0 {
            b[2..4].copy_from_slice(&[8, 10]);
        }
        if bits & 4 != 0 {
            b[12..15].copy_from_slice(&[3, 3, 7]);
        }
        scan(b, 16)
    };
    for (client, inspector) in (0..16u8).flat_map(|a| (0..16u8).map(move |b| (a, b))) {
        let flags = |bits: u8, ecn| if bits & 8 != 0 { ecn } else { 0 };
        let syn = TcpHeader {
            flags: SYN | flags(client, ECE | CWR),
            seq: X,
            ..TcpHeader::default()
        };
        let mut entry = begin(&syn, &options(client), 1, NOW);
        let mut answer = TcpHeader {
            flags: flags(inspector, ECE) | SYN | ACK,
            seq: Y,
            ..TcpHeader::default()
        };
        // A kernel accepts only what was offered: the answer has no more than the SYN.
        egress_inspector(
            &mut answer,
            &options(inspector & client),
            Some(&mut entry),
            MOST,
            NOW,
        );
        let both = client & inspector;
        let agreed = (
            entry.sack(),
            entry.timestamps(),
            entry.scaling(),
            entry.ecn(),
        );
        let offered = (both & 1 != 0, both & 2 != 0, both & 4 != 0, both & 8 != 0);
        assert_eq!(
            agreed, offered,
            "client {client:04b}, inspector {inspector:04b}"
        );
        let scale = if entry.scaling() { 7 } else { 0 };
        assert_eq!((entry.client_scale, entry.announced_scale), (scale, scale));
        assert_eq!((entry.client_isn, entry.server_isn), (X, Y));
    }
}

proptest! {
    /// The clock that the client has seen of the inspector never goes back, in whatever order segments leave.
    #[test]
    fn the_last_timestamp_is_the_latest(start: u32, steps in prop::collection::vec(0u32..1000, 1..20)) {
        let mut entry = Inspecting::Inspect.entry().unwrap();
        let mut syn_ack = header(Kind::SynAck);
        egress_inspector(&mut syn_ack, &timestamps(start, 1), Some(&mut entry), MOST, NOW);
        for step in &steps {
            let value = start.wrapping_add(*step);
            egress_inspector(&mut header(Kind::Ack), &timestamps(value, 1), Some(&mut entry), MOST, NOW);
        }
        let latest = steps.iter().max().copied().unwrap_or(0);
        prop_assert_eq!(entry.server_tsval, start.wrapping_add(latest));
    }

    /// A client is offered what the kernel offers, but nothing beyond the bytes that the inspector takes.
    #[test]
    fn the_inspectors_window_ends_where_it_takes_no_more(
        most in 64u32..1_048_576,
        scale in 0u8..=14,
        steps in prop::collection::vec((0u32..100_000, any::<u16>()), 1..20),
    ) {
        let first = X.plus(1);
        let mut entry = Inspecting::Inspect.entry().unwrap();
        entry.announced_scale = scale;
        let mut syn_ack = TcpHeader { ack: first, window: 64_240, ..header(Kind::SynAck) };
        egress_inspector(&mut syn_ack, &timestamps(1, 1), Some(&mut entry), most, NOW);
        entry.announced_scale = scale;
        prop_assert_eq!(u32::from(syn_ack.window), most.min(64_240));
        let mut taken = 0;
        for (more, window) in steps {
            taken = (taken + more).min(most);
            let mut segment = TcpHeader { ack: first.plus(taken), window, ..header(Kind::Ack) };
            egress_inspector(&mut segment, &timestamps(1, 1), Some(&mut entry), most, NOW);
            let (offered, shown) = (u32::from(window) << scale, u32::from(segment.window) << scale);
            prop_assert!(shown <= offered && taken + shown <= most);
            // No less than can be said with this scale.
            prop_assert!(shown == offered || most - taken - shown < 1 << scale);
        }
    }
}

/// A server's reset refuses a handover if it acknowledges the handover's SYN.
#[test]
fn a_reset_of_an_older_connection_refuses_nothing() {
    for (ack, expected) in [
        (X, FromServer::Drop(DropReason::NoEntry)),
        (X.plus(1), FromServer::RefusePeer),
        (X.plus(2), FromServer::Drop(DropReason::NoEntry)),
    ] {
        let header = TcpHeader {
            ack,
            ..header(Kind::RstAck)
        };
        let mut entry = ConnEntry {
            state: state::HANDING,
            client_isn: X,
            ..ConnEntry::default()
        };
        let outcome = egress_server(&header, &timestamps(7, 8), Some(&mut entry), NOW);
        assert_eq!(outcome, expected, "{ack:?}");
    }
}
