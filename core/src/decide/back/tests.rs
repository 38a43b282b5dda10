//! Every state with every kind of segment: the expected outcomes are matches without a wildcard arm.

use super::*;
use crate::addr::{Addr, FlowKey};
use crate::verdict::DropReason;

mod inspecting;
mod target;

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
