//! Sequence numbers as a person compares them: x+1, y+254.

use std::collections::HashMap;
use std::net::SocketAddr;

use dts_node::admin::{SegmentView, TraceSegment};

/// How many connections' numbers are remembered. Those of a connection that is forgotten are learnt again.
const MOST: usize = 50_000;

/// How far a number may be behind what it is named after.
const NEAR: u32 = 1 << 30;

/// The initial sequence numbers of connections.
#[derive(Default)]
pub(super) struct Numbers(HashMap<(SocketAddr, SocketAddr), Isns>);

/// The initial sequence numbers of a connection, as far as they are known: x, the client's; y, that of its SYN-ACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Isns {
    pub(super) x: Option<u32>,
    pub(super) y: Option<u32>,
}

/// Whose number it is, most likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Client,
    Server,
}

impl Numbers {
    /// Learns what a segment says of its connection; what is known of it then.
    pub(super) fn learn(&mut self, segment: &TraceSegment) -> Isns {
        let (Some(client), Some(vip)) = (segment.client, segment.vip) else {
            return Isns::default();
        };
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let known = self.0.entry((client, vip)).or_default();
        let wire = segment.on_wire();
        let begins = matches!(&*segment.verdict, "to_inspector" | "syn_answered" | "pass");
        if wire.source == client && wire.flags == "S" {
            // One that nobody takes says nothing of the connection that there is.
            if known.x.is_none() || (begins && known.x != Some(wire.seq)) {
                let x = Some(wire.seq);
                *known = Isns { x, y: None };
            }
        } else if wire.destination == client && is_syn_ack(wire) && !segment.dropped {
            let x = Some(wire.ack.wrapping_sub(1));
            let y = Some(wire.seq);
            *known = Isns { x, y };
        }
        if segment.verdict == "syn_answered" {
            known.y = segment.after.as_ref().map(|answer| answer.seq);
        }
        known.x = known.x.or(segment.client_isn);
        known.y = known.y.or(segment.server_isn);
        *known
    }
}

fn is_syn_ack(segment: &SegmentView) -> bool {
    segment.flags.contains('S') && segment.flags.contains('.')
}

impl Isns {
    /// A number by its name, or as it is where that is not known or far from it.
    pub(super) fn name(&self, number: u32, whose: Whose) -> String {
        let (name, isn) = match whose {
            Whose::Client => ('x', self.x),
            Whose::Server => ('y', self.y),
        };
        match isn.map(|isn| number.wrapping_sub(isn)) {
            Some(0) => name.to_string(),
            Some(distance) if distance < NEAR => format!("{name}+{distance}"),
            _ => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::notes::tests::{Sample, sample};
    use super::*;

    #[test]
    fn numbers_are_named_after_their_beginning() {
        let isns = Isns {
            x: Some(u32::MAX),
            y: Some(1 << 31),
        };
        assert_eq!(isns.name(u32::MAX, Whose::Client), "x");
        assert_eq!(isns.name(5, Whose::Client), "x+6");
        assert_eq!(isns.name(5, Whose::Server), "5");
        assert_eq!(isns.name((1 << 31) + 7, Whose::Server), "y+7");
        assert_eq!(isns.name((1 << 31) - 7, Whose::Server), "2147483641");
        assert_eq!(Isns::default().name(9, Whose::Server), "9");
    }

    #[test]
    fn the_handshake_tells_them() {
        let mut numbers = Numbers::default();
        let x = Some(1000);
        assert_eq!(numbers.learn(&sample(Sample::Syn)), Isns { x, y: None });
        let y = Some(5000);
        assert_eq!(numbers.learn(&sample(Sample::SynAck)), Isns { x, y });
        // A forged SYN changes nothing; one that begins a connection does.
        let mut syn = sample(Sample::Syn);
        syn.before.seq = 77;
        syn.verdict = "alive_elsewhere".to_owned();
        assert_eq!(numbers.learn(&syn), Isns { x, y });
        syn.verdict = "to_inspector".to_owned();
        assert_eq!(
            numbers.learn(&syn),
            Isns {
                x: Some(77),
                y: None
            }
        );
    }

    #[test]
    fn a_connection_that_was_there_before_is_known_to_the_node() {
        let mut numbers = Numbers::default();
        let isns = numbers.learn(&sample(Sample::Response));
        assert_eq!((isns.x, isns.y), (Some(1000), Some(5000)));
    }
}
