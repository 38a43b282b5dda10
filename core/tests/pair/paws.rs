//! What a kernel does to old segments and smoltcp does not: PAWS (RFC 7323 §5.3).

use dts_core::segment::{ACK, RST, SYN};
use dts_core::seq::{Seq, timestamp_is_later};

use crate::node::Packet;

/// A server's connection, as far as its clock is concerned.
#[derive(Default)]
pub(crate) struct Paws {
    /// TS.Recent.
    recent: Option<u32>,
    /// Last.ACK.sent.
    acked: Seq,
}

impl Paws {
    /// Whether a segment that arrives is taken, rather than dropped for its old timestamp.
    pub(crate) fn takes(&mut self, packet: &Packet) -> bool {
        let (t, Some((value, _))) = (&packet.header, packet.options.timestamp_pair()) else {
            return true;
        };
        if t.flags & SYN != 0 {
            (self.recent, self.acked) = (Some(value), t.seq.plus(1));
            return true;
        }
        let old = self
            .recent
            .is_some_and(|recent| timestamp_is_later(recent, value));
        if old {
            return t.flags & RST != 0;
        }
        if !t.seq.is_after(self.acked) {
            self.recent = Some(value);
        }
        true
    }

    /// Notes what the server acknowledges.
    pub(crate) fn sends(&mut self, packet: &Packet) {
        if packet.header.flags & ACK != 0 {
            self.acked = packet.header.ack;
        }
    }
}
