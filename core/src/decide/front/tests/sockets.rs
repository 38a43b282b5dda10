//! What a segment of the inspector's or the server's socket becomes.

use super::*;

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
        /// Its greeting is waited for.
        Greeted,
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
        Has::Greeted,
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
                Has::Greeted => Some(with(state::HANDING, flag::ANSWERED | GREETED, X)),
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
                    Has::Begun
                    | Has::Greeted
                    | Has::Open
                    | Has::Sending
                    | Has::Acknowledged
                    | Has::Direct,
                    Kind::SynAck,
                ) => FromServer::AnswerPeer,
                // The port is closed: the client still has a live inspector.
                (Has::Begun, Kind::RstAck) => FromServer::RefusePeer,
                // An older connection's.
                (Has::Begun, Kind::Rst) => FromServer::Drop(DropReason::NoEntry),
                // An older connection's, that the client has forgotten.
                (Has::Begun, Kind::Ack | Kind::Data | Kind::Fin) => FromServer::ResetServer,
                // The client has a greeting; whether it is this one, the inspecting node sees. It resets the client, too.
                (Has::Greeted, Kind::Ack | Kind::Data | Kind::Fin | Kind::Rst | Kind::RstAck) => {
                    FromServer::ToPeer
                }
                // The client's, not only the inspecting node's.
                (Has::Sending | Has::Acknowledged, Kind::Rst | Kind::RstAck) => {
                    FromServer::ResetBoth
                }
                (Has::Open | Has::Sending, Kind::Ack) => FromServer::ToPeer,
                // The client may be another node's by now.
                (Has::Open, Kind::Data | Kind::Fin | Kind::Rst | Kind::RstAck) => {
                    FromServer::Drop(DropReason::TooEarly)
                }
                // An answer before the end of the request (an early 413) is the client's.
                (Has::Sending, Kind::Data | Kind::Fin) => FromServer::ToClient,
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
            // All that is left, and no more than this scale makes of it.
            prop_assert!(shown <= offered && taken + shown < most + (1 << scale));
            prop_assert!(shown == offered || taken + shown >= most);
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
