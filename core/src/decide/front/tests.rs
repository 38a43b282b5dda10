//! Every state with every kind of segment and every fact. The expected outcomes are written as matches
//! without a wildcard arm: a new state, fact or kind doesn't compile until its outcomes are written, too.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::handover::GREETED;
use crate::segment::scan;

mod clients;
mod sockets;

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
    /// The server's greeting is waited for.
    Greeted,
    Handing,
    /// The inspecting node has sent of the request.
    Confirmed,
    Direct,
    Ended,
    Noted,
    EndedSelf,
}

const PROCESSING: [Processing; 9] = [
    Processing::None,
    Processing::Begun,
    Processing::Greeted,
    Processing::Handing,
    Processing::Confirmed,
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
            Self::Greeted => (state::HANDING, flag::ANSWERED | GREETED),
            Self::Handing => (state::HANDING, flag::ANSWERED),
            Self::Confirmed => (state::HANDING, flag::ANSWERED | flag::REQUEST_END),
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
