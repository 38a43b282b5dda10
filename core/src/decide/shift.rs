//! The rewrites that let two TCP connections pass for one (DTS §2.2, lifted limits of §3.2).
//!
//! With y the inspecting node's initial sequence number and w the processing server's own, the server's
//! numbers become the client's by adding y - w; the client's acknowledgments and SACK blocks become the
//! server's by subtracting it. Timestamps are shifted in the same way, so that the client sees one
//! clock that never goes back (RFC 7323 §5.4), and the window field is moved from the scale that the
//! server announced to the scale that the client was told.

use crate::entry::{ConnEntry, flag, state};
use crate::segment::{ACK, OptionScan, RST, TcpHeader, read32, write32};
use crate::seq::timestamp_is_later;

/// What to do to a segment's timestamps and SACK blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OptionShift {
    /// Added to the timestamp value.
    pub tsval: u32,
    /// Added to the timestamp echo, unless it is 0 (not set).
    pub tsecr: u32,
    /// The earliest timestamp echo, once it has been added to.
    pub first_tsecr: Option<u32>,
    /// Added to each SACK edge.
    pub sack: u32,
    /// Replaces the timestamp value.
    pub set_tsval: Option<u32>,
    /// Replaces the timestamp echo.
    pub set_tsecr: Option<u32>,
}

impl OptionShift {
    /// Whether the options stay as they are.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.tsval == 0
            && self.tsecr == 0
            && self.sack == 0
            && self.first_tsecr.is_none()
            && self.set_tsval.is_none()
            && self.set_tsecr.is_none()
    }

    /// Applies the shift to the options of a scanned header, in place.
    #[inline(always)]
    pub fn apply(&self, o: &mut OptionScan) {
        if let Some((value, echo)) = o.timestamp_pair() {
            let value = match self.set_tsval {
                Some(set) => set,
                None => value.wrapping_add(self.tsval),
            };
            let echo = match self.set_tsecr {
                Some(set) => set,
                None if echo != 0 => {
                    let echo = echo.wrapping_add(self.tsecr);
                    match self.first_tsecr {
                        Some(first) if timestamp_is_later(first, echo) => first,
                        _ => echo,
                    }
                }
                None => 0,
            };
            write32(&mut o.bytes, o.timestamps, value);
            write32(&mut o.bytes, o.timestamps + 4, echo);
        }
        if o.sack != 0 && self.sack != 0 {
            let mut edge = 0;
            while edge < 8 {
                if edge < o.sack_edges {
                    let at = o.sack + 4 * edge;
                    let shifted = read32(&o.bytes, at).wrapping_add(self.sack);
                    write32(&mut o.bytes, at, shifted);
                }
                edge += 1;
            }
        }
    }
}

/// A window field of the client's as the processing server takes it.
///
/// Where the server's kernel does not scale windows, it takes the field as bytes.
#[inline(always)]
#[must_use]
pub const fn window_to_server(entry: &ConnEntry, window: u16) -> u16 {
    if entry.has(flag::UNSCALED) {
        rescale(window, entry.client_scale, 0)
    } else {
        window
    }
}

/// Client to server: the acknowledgment, SACK blocks and timestamp echo become the server's.
///
/// During the handover the client still echoes what it last saw of the inspecting node. The server has sent
/// nothing so early, and a half-open connection of Linux's (6.18, for one) refuses such a segment.
#[inline(always)]
pub fn to_server(entry: &ConnEntry, header: &mut TcpHeader) -> OptionShift {
    if header.flags & RST != 0 && entry.awaits_greeting() {
        // The inspecting node has acknowledged a request that the server has nothing of: it takes a reset with the next
        // number it waits for only (RFC 5961 §3.2).
        header.seq = entry.client_isn.plus(1);
    }
    header.window = window_to_server(entry, header.window);
    if header.flags & ACK != 0 {
        header.ack = header.ack.minus(entry.seq_delta);
    }
    OptionShift {
        tsecr: entry.ts_delta.wrapping_neg(),
        first_tsecr: (entry.state == state::HANDING).then_some(entry.server_ts_base),
        sack: entry.seq_delta.wrapping_neg(),
        ..OptionShift::default()
    }
}

/// Inspecting node to server, during a handover: no timestamp is older than what the server has been shown of the client
/// itself.
///
/// What the inspecting node sends has the client's timestamp of when it was frozen, also when it is repeated. The server
/// takes the client's own segments meanwhile, and drops what seems to be older than these (PAWS, RFC 7323 §5.3): of a lost
/// segment, each repetition.
#[inline(always)]
#[must_use]
pub fn from_peer(entry: &ConnEntry, options: &OptionScan) -> OptionShift {
    let newer = |(value, _)| timestamp_is_later(entry.client_tsval, value);
    OptionShift {
        set_tsval: options
            .timestamp_pair()
            .is_some_and(newer)
            .then_some(entry.client_tsval),
        // Of a greeting, which is all that the inspecting node ever gets of the server.
        sack: if options.sack != 0 {
            entry.seq_delta.wrapping_neg()
        } else {
            0
        },
        ..OptionShift::default()
    }
}

/// Server to client: the sequence number, timestamp value and window become what the client expects.
#[inline(always)]
pub fn to_client(entry: &ConnEntry, header: &mut TcpHeader) -> OptionShift {
    header.seq = header.seq.plus(entry.seq_delta);
    header.window = rescale(header.window, entry.own_scale, entry.announced_scale);
    OptionShift {
        tsval: entry.ts_delta,
        ..OptionShift::default()
    }
}

/// Server to inspecting node, during a handover: the sequence number becomes what the client expects.
///
/// Until the request's end is known, nothing is acknowledged. What the server has may have come from the
/// client itself, and a kernel whose data counts as delivered would not repeat the lost segment that says
/// where the request ends.
///
/// While nothing is acknowledged, the server's clock stands still for the inspecting node: it may be that the
/// server's connection is half-open still, and takes no echo of a later time than its SYN-ACK's.
#[inline(always)]
pub fn to_peer(entry: &ConnEntry, header: &mut TcpHeader) -> OptionShift {
    let first = entry.client_isn.plus(1);
    header.seq = header.seq.plus(entry.seq_delta);
    if !entry.has(flag::REQUEST_END) {
        header.ack = first;
    }
    OptionShift {
        set_tsval: (header.ack == first).then_some(entry.server_ts_base),
        ..OptionShift::default()
    }
}

/// Moves a window field from one scale to another, rounding down: never more than was offered.
#[inline(always)]
#[must_use]
pub const fn rescale(window: u16, from: u8, to: u8) -> u16 {
    if from == to {
        return window;
    }
    let bytes = (window as u32) << (from & 15);
    let scaled = bytes >> (to & 15);
    if scaled > 0xffff {
        0xffff
    } else {
        scaled as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::scan;
    use crate::seq::Seq;
    use proptest::prelude::*;

    fn entry(seq_delta: u32, ts_delta: u32) -> ConnEntry {
        ConnEntry {
            seq_delta,
            ts_delta,
            own_scale: 7,
            announced_scale: 7,
            ..ConnEntry::default()
        }
    }

    fn with_options(value: u32, echo: u32, edges: [u32; 2]) -> OptionScan {
        let mut b = [0; 64];
        b[..4].copy_from_slice(&[1, 1, 8, 10]);
        write32(&mut b, 4, value);
        write32(&mut b, 8, echo);
        b[12..16].copy_from_slice(&[1, 1, 5, 10]);
        write32(&mut b, 16, edges[0]);
        write32(&mut b, 20, edges[1]);
        scan(b, 24)
    }

    /// The inspecting node's timestamps are the client's, but none older than what the server has seen of the client.
    #[test]
    fn the_clock_of_a_handover_does_not_go_back() {
        for (seen, value, shown) in [
            (100, 90, 100),
            (100, 100, 100),
            (100, 101, 101),
            (3, u32::MAX, 3),
            (u32::MAX, 3, 3),
        ] {
            let e = ConnEntry {
                client_tsval: seen,
                ..entry(5, 6)
            };
            let mut options = with_options(value, 9, [1, 2]);
            from_peer(&e, &options).apply(&mut options);
            assert_eq!(options.timestamp_pair(), Some((shown, 9)));
        }
        let none = scan([0; 64], 0);
        assert!(from_peer(&entry(5, 6), &none).is_none());
        let blocks = with_options(7, 9, [1, 2]);
        assert_eq!(from_peer(&entry(5, 6), &blocks).sack, 5u32.wrapping_neg());
    }

    proptest! {
        /// What the client acknowledges of the server's stream is what the server sent of it.
        #[test]
        fn the_two_directions_are_inverse(seq: u32, seq_delta: u32, ts_delta: u32, ts in 1u32..) {
            let entry = entry(seq_delta, ts_delta);
            let mut down = TcpHeader { seq: Seq(seq), flags: ACK, window: 9, ..TcpHeader::default() };
            let mut options = with_options(ts, 5, [0, 0]);
            to_client(&entry, &mut down).apply(&mut options);
            let shown = options.timestamp_pair().unwrap().0;
            prop_assume!(shown != 0);

            let mut up = TcpHeader { ack: down.seq, flags: ACK, ..TcpHeader::default() };
            let mut options = with_options(77, shown, [down.seq.0, down.seq.plus(3).0]);
            to_server(&entry, &mut up).apply(&mut options);
            prop_assert_eq!(up.ack, Seq(seq));
            prop_assert_eq!(options.timestamp_pair(), Some((77, ts)));
            prop_assert_eq!(read32(&options.bytes, options.sack), seq);
            prop_assert_eq!(read32(&options.bytes, options.sack + 4), seq.wrapping_add(3));
        }

        #[test]
        fn a_window_never_grows(window: u16, from in 0u8..=14, to in 0u8..=14) {
            let offered = u64::from(window) << from;
            let shown = u64::from(rescale(window, from, to)) << to;
            prop_assert!(shown <= offered);
            // Rounding loses less than one unit of the new scale, unless the field is full.
            prop_assert!(offered - shown < 1 << to || shown == 0xffff << to);
        }
    }

    #[test]
    fn an_echo_that_is_not_set_stays_unset() {
        let mut options = with_options(1, 0, [0, 0]);
        OptionShift {
            tsecr: 9,
            ..OptionShift::default()
        }
        .apply(&mut options);
        assert_eq!(options.timestamp_pair(), Some((1, 0)));
    }

    /// A client that has seen nothing of the server's yet echoes the inspector's clock.
    #[test]
    fn during_a_handover_no_echo_is_earlier_than_the_servers_synack() {
        let (synack, shown) = (4_000_000_000, 5_000);
        let mut entry = ConnEntry {
            server_ts_base: synack,
            ..entry(3, u32::wrapping_sub(shown, synack))
        };
        let echoed = |entry: &ConnEntry, echo| {
            let mut options = with_options(1, echo, [0, 0]);
            to_server(entry, &mut TcpHeader::default()).apply(&mut options);
            options.timestamp_pair().unwrap().1
        };
        entry.state = state::HANDING;
        assert_eq!(echoed(&entry, shown - 1000), synack);
        assert_eq!(echoed(&entry, shown + 7), synack + 7);
        assert_eq!(echoed(&entry, 0), 0, "not set");
        entry.state = state::DIRECT;
        assert_eq!(echoed(&entry, shown - 1000), synack - 1000);
    }

    #[test]
    fn a_reset_during_a_greeting_has_the_servers_next_number() {
        for (flags, seq) in [(RST, 1), (RST | ACK, 1), (ACK, 50)] {
            let entry = ConnEntry {
                state: state::HANDING,
                flags: crate::handover::GREETED,
                ..entry(3, 0)
            };
            let mut header = TcpHeader {
                seq: Seq(50),
                flags,
                ..TcpHeader::default()
            };
            to_server(&entry, &mut header);
            assert_eq!(header.seq, Seq(seq));
        }
    }

    /// A half-open server refuses the echo of a later time than that of its SYN-ACK.
    #[test]
    fn the_servers_clock_stands_still_until_it_has_acknowledged_something() {
        let entry = ConnEntry {
            server_ts_base: 100,
            flags: flag::REQUEST_END,
            ..entry(3, 0)
        };
        let seen = |ack| {
            let mut header = TcpHeader {
                ack,
                flags: ACK,
                ..TcpHeader::default()
            };
            let mut options = with_options(108, 5, [0, 0]);
            to_peer(&entry, &mut header).apply(&mut options);
            options.timestamp_pair().unwrap().0
        };
        let first = entry.client_isn.plus(1);
        assert_eq!(seen(first), 100);
        assert_eq!(seen(first.plus(1)), 108);
    }

    #[test]
    fn a_segment_without_ack_keeps_its_field() {
        let mut header = TcpHeader {
            ack: Seq(5),
            ..TcpHeader::default()
        };
        to_server(&entry(3, 3), &mut header);
        assert_eq!(header.ack, Seq(5));
    }
}
