//! The DTS option: what the processing node must know of a connection before it can take it over
//! (DTS §2.2, "a DTS-specific TCP option at the head of segment 4").
//!
//! It fills the forty bytes that a SYN has for options, in the same layout for both address families;
//! multi-byte fields are in network byte order:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-----+-+-+-+-+-+-------+-------+
//! |   kind 253    |   length 40   |G|ver|6|S|T|W|E| sc. c | sc. i |
//! +---------------+---------------+-----+-+-+-+-+-+-------+-------+
//! |     client address: 16 bytes, or 4 bytes and 12 zeros         |
//! +-------------------------------+-------------------------------+
//! |  client's max. segment size   |          service id           |
//! +-------------------------------+-------------------------------+
//! |             client's last timestamp value                     |
//! +---------------------------------------------------------------+
//! |    timestamp value that the client may see next from us       |
//! +-------------------------------+-------------------------------+
//! |  time made, s mod 65536       |                               |
//! +-------------------------------+   tag, 48 bits                |
//! |                                                               |
//! +---------------------------------------------------------------+
//! ```
//!
//! `G`: the client has the service's greeting (§2.6); `6`: IPv6; `S`, `T`, `W`, `E`: selective
//! acknowledgment, timestamps, window scaling and ECN agreed with the client; `sc. c`: the client's
//! window scale; `sc. i`: the scale that the inspecting node announced. Three more numbers ride in
//! fields of the same SYN that are otherwise unused: the client's ISN is the sequence number, the
//! inspecting node's ISN is the acknowledgment field (without the ACK flag), and the client's port
//! is the urgent pointer (without the URG flag). That is how the option fits for IPv6, too.
//!
//! The tag is a truncated SipHash-2-4 under a key derived from the cluster secret. It covers the
//! option, the three numbers and both ends of the handover connection.

pub mod adoption;
pub mod destination;
pub mod release;

use crate::addr::Addr;
use crate::segment::kind;
use crate::seq::Seq;
use crate::siphash::siphash24_words;

/// The option's length: all that a TCP header has room for.
pub const OPTION_LEN: usize = 40;
/// The version of the layout above.
pub const VERSION: u8 = 1;
/// How far the clocks of two nodes may be apart, and how long a handover SYN stays valid, in seconds.
pub const FRESHNESS_SECONDS: u16 = 30;

/// Selective acknowledgment was agreed with the client.
pub const AGREED_SACK: u32 = 1 << 3;
/// Timestamps were agreed with the client.
pub const AGREED_TIMESTAMPS: u32 = 1 << 2;
/// Window scaling was agreed with the client.
pub const AGREED_SCALE: u32 = 1 << 1;
/// Explicit congestion notification was agreed with the client.
pub const AGREED_ECN: u32 = 1;
/// All of the above.
pub const AGREED: u32 = AGREED_SACK | AGREED_TIMESTAMPS | AGREED_SCALE | AGREED_ECN;
/// The inspector has given the client the service's greeting, and waits for the server's own before it sends the request
/// (DTS §2.6).
pub const GREETED: u32 = 1 << 7;

const FAMILY_V6: u8 = 1 << 4;

/// A handover SYN's meaning: the option, and the three numbers in the header's other fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandoverOption {
    /// The client's address.
    pub client: Addr,
    /// The client's port (the SYN's urgent pointer).
    pub client_port: u16,
    /// The client's initial sequence number (the SYN's sequence number).
    pub client_isn: Seq,
    /// The inspecting node's initial sequence number (the SYN's acknowledgment field).
    pub server_isn: Seq,
    /// The service: a fingerprint of VIP and port that all nodes compute alike, never 0.
    pub service: u16,
    /// `AGREED_*` bits and [`GREETED`].
    pub agreed: u32,
    /// The client's window scale, 0 to 14.
    pub client_scale: u8,
    /// The window scale that the client was told, 0 to 14.
    pub announced_scale: u8,
    /// The client's maximum segment size, in bytes; 0 when it sent none.
    pub client_mss: u16,
    /// The last timestamp value that came from the client.
    pub client_tsval: u32,
    /// A timestamp value later than all that the client has seen from the inspecting node.
    pub server_tsval: u32,
    /// When the SYN was made: Unix time in seconds. The option has its last 16 bits; the tag covers all.
    pub made: u32,
}

/// The ends of the handover connection, which the tag covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandoverEnds {
    /// The inspecting node's back address.
    pub from: Addr,
    /// The inspecting node's port of this handover.
    pub from_port: u16,
    /// The processing node's back address, or the pseudo-address of a handover to oneself.
    pub to: Addr,
}

/// Room for an option's bytes, aligned so that eBPF moves words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct OptionRoom {
    /// The option.
    pub bytes: [u8; OPTION_LEN],
}

impl Default for OptionRoom {
    fn default() -> Self {
        Self {
            bytes: [0; OPTION_LEN],
        }
    }
}

impl HandoverOption {
    /// Writes the option's bytes, with its tag.
    #[inline(always)]
    pub fn emit(&self, key: &[u8; 16], ends: &HandoverEnds, room: &mut OptionRoom) {
        let b = &mut room.bytes;
        let v6 = !self.client.is_v4();
        b[0] = kind::DTS;
        b[1] = OPTION_LEN as u8;
        b[2] = VERSION << 5
            | (self.agreed & (AGREED | GREETED)) as u8
            | if v6 { FAMILY_V6 } else { 0 };
        b[3] = self.client_scale << 4 | self.announced_scale & 0x0f;
        let address = self.client.bytes16();
        let mut i = 0;
        while i < 16 {
            b[4 + i] = if v6 {
                address[i]
            } else if i < 4 {
                address[12 + i]
            } else {
                0
            };
            i += 1;
        }
        [b[20], b[21]] = self.client_mss.to_be_bytes();
        [b[22], b[23]] = self.service.to_be_bytes();
        [b[24], b[25], b[26], b[27]] = self.client_tsval.to_be_bytes();
        [b[28], b[29], b[30], b[31]] = self.server_tsval.to_be_bytes();
        [b[32], b[33]] = (self.made as u16).to_be_bytes();
        let t = tag(key, room, self, ends).to_be_bytes();
        let b = &mut room.bytes;
        [b[34], b[35], b[36], b[37], b[38], b[39]] = [t[0], t[1], t[2], t[3], t[4], t[5]];
    }

    /// Reads an option; `None` when kind, length, version or a reserved bit is not as above.
    ///
    /// The three numbers come from the header's sequence number, acknowledgment field and urgent
    /// pointer. Of all times that end with the option's bits, it is taken to be made at the one nearest to `now` (Unix
    /// seconds). The tag is not checked here: see [`tag_is_right`](Self::tag_is_right).
    #[inline(always)]
    #[must_use]
    pub fn parse(b: &[u8; OPTION_LEN], seq: Seq, ack: Seq, urgent: u16, now: u32) -> Option<Self> {
        if b[0] != kind::DTS || b[1] != OPTION_LEN as u8 || b[2] >> 5 & 3 != VERSION {
            return None;
        }
        let client = if b[2] & FAMILY_V6 != 0 {
            let mut v6 = [0u8; 16];
            let mut i = 0;
            while i < 16 {
                v6[i] = b[4 + i];
                i += 1;
            }
            Addr::v6(v6)
        } else {
            let mut reserved = 0;
            let mut i = 8;
            while i < 20 {
                reserved |= b[i];
                i += 1;
            }
            if reserved != 0 {
                return None;
            }
            Addr::v4([b[4], b[5], b[6], b[7]])
        };
        let (client_scale, announced_scale) = (b[3] >> 4, b[3] & 0x0f);
        if client_scale > 14 || announced_scale > 14 {
            return None;
        }
        Some(Self {
            client,
            client_port: urgent,
            client_isn: seq,
            server_isn: ack,
            service: u16::from_be_bytes([b[22], b[23]]),
            agreed: b[2] as u32 & (AGREED | GREETED),
            client_scale,
            announced_scale,
            client_mss: u16::from_be_bytes([b[20], b[21]]),
            client_tsval: u32::from_be_bytes([b[24], b[25], b[26], b[27]]),
            server_tsval: u32::from_be_bytes([b[28], b[29], b[30], b[31]]),
            made: nearest(u16::from_be_bytes([b[32], b[33]]), now),
        })
    }

    /// Whether the SYN was made within [`FRESHNESS_SECONDS`] of `now` (Unix seconds), either way.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh(&self, now: u32) -> bool {
        is_fresh(self.made, now)
    }

    /// The fingerprint of the handover: the same for all SYNs of it, whatever port they come from and whenever. A client's
    /// next connection from the same port is another one, by its numbers.
    #[inline(always)]
    #[must_use]
    pub fn print(&self, key: &[u8; 16]) -> u64 {
        let [client, rest] = self.client.words_le();
        let ends = (self.client_port as u64) << 16 | self.service as u64;
        let isns = (self.client_isn.0 as u64) << 32 | self.server_isn.0 as u64;
        siphash24_words(key, [client, rest, ends, isns])
    }

    /// Whether the tag in the option's bytes is the one that a member would have made.
    #[inline(always)]
    #[must_use]
    pub fn tag_is_right(&self, key: &[u8; 16], ends: &HandoverEnds, room: &mut OptionRoom) -> bool {
        // One comparison of the whole tag: the time taken says nothing about how much of a forged
        // one was right.
        let b = &room.bytes;
        let given = u64::from_be_bytes([b[34], b[35], b[36], b[37], b[38], b[39], 0, 0]);
        tag(key, room, self, ends) & TAG_MASK == given
    }

    /// Writes the options that the processing node's kernel is shown in place of the DTS option: those
    /// that were agreed with the client, padded to the same length.
    #[inline(always)]
    pub fn agreed_options(&self, b: &mut [u8; OPTION_LEN]) {
        *b = [kind::NOP; OPTION_LEN];
        if self.client_mss != 0 {
            let mss = self.client_mss.to_be_bytes();
            [b[0], b[1], b[2], b[3]] = [kind::MSS, 4, mss[0], mss[1]];
        }
        if self.agreed & AGREED_SACK != 0 {
            [b[4], b[5]] = [kind::SACK_PERMITTED, 2];
        }
        if self.agreed & AGREED_TIMESTAMPS != 0 {
            let v = self.client_tsval.to_be_bytes();
            [b[6], b[7]] = [kind::TIMESTAMPS, 10];
            [b[8], b[9], b[10], b[11]] = v;
            [b[12], b[13], b[14], b[15]] = [0; 4];
        }
        if self.agreed & AGREED_SCALE != 0 {
            [b[17], b[18], b[19]] = [kind::WINDOW_SCALE, 3, self.client_scale];
        }
    }
}

/// The bits of a SipHash value that are a tag: the first six bytes in network order.
const TAG_MASK: u64 = !0xffff;

/// The tag: SipHash-2-4 over both ends' addresses, the ends' and the client's ports, both ISNs, the option without its
/// tag, and the first 16 bits of the time. Numbers are in network byte order.
///
/// Without these a frame that was recorded would be fresh once more every 65536 seconds.
#[inline(always)]
fn tag(key: &[u8; 16], room: &OptionRoom, o: &HandoverOption, ends: &HandoverEnds) -> u64 {
    let b = &room.bytes;
    let ([from, from_rest], [to, to_rest]) = (ends.from.words_le(), ends.to.words_le());
    let (p, c) = (ends.from_port.to_be_bytes(), o.client_port.to_be_bytes());
    let (x, y) = (o.client_isn.0.to_be_bytes(), o.server_isn.0.to_be_bytes());
    let m = o.made.to_be_bytes();
    let words = [
        from,
        from_rest,
        to,
        to_rest,
        u64::from_le_bytes([p[0], p[1], c[0], c[1], x[0], x[1], x[2], x[3]]),
        u64::from_le_bytes([y[0], y[1], y[2], y[3], b[0], b[1], b[2], b[3]]),
        u64::from_le_bytes([b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11]]),
        u64::from_le_bytes([b[12], b[13], b[14], b[15], b[16], b[17], b[18], b[19]]),
        u64::from_le_bytes([b[20], b[21], b[22], b[23], b[24], b[25], b[26], b[27]]),
        u64::from_le_bytes([b[28], b[29], b[30], b[31], b[32], b[33], m[0], m[1]]),
    ];
    siphash24_words(key, words)
}

/// Whether two times, in Unix seconds, are no more than [`FRESHNESS_SECONDS`] apart.
#[inline(always)]
const fn is_fresh(made: u32, now: u32) -> bool {
    let most = FRESHNESS_SECONDS as u32;
    now.wrapping_sub(made).wrapping_add(most) <= 2 * most
}

/// The time nearest to `now`, both in Unix seconds, whose last 16 bits are these.
#[inline(always)]
const fn nearest(last: u16, now: u32) -> u32 {
    let ahead = last.wrapping_sub(now as u16) as i16;
    now.wrapping_add(ahead as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{SCALE_PRESENT, scan};
    use proptest::prelude::*;

    const KEY: [u8; 16] = *b"0123456789abcdef";

    fn any_option() -> impl Strategy<Value = HandoverOption> {
        (
            prop_oneof![
                any::<[u8; 4]>().prop_map(Addr::v4),
                any::<[u8; 15]>().prop_map(|b| {
                    let mut v6 = [0x20; 16];
                    v6[1..].copy_from_slice(&b);
                    Addr::v6(v6)
                })
            ],
            any::<(u16, u32, u32, u16, u16, u32, u32, u32)>(),
            (0u32..16, prop_oneof![Just(0), Just(GREETED)]).prop_map(|(a, g)| a | g),
            0u8..=14,
            0u8..=14,
        )
            .prop_map(
                |(client, (port, x, y, service, mss, ctv, stv, made), agreed, cs, as_)| {
                    HandoverOption {
                        client,
                        client_port: port,
                        client_isn: Seq(x),
                        server_isn: Seq(y),
                        service,
                        agreed,
                        client_scale: cs,
                        announced_scale: as_,
                        client_mss: mss,
                        client_tsval: ctv,
                        server_tsval: stv,
                        made,
                    }
                },
            )
    }

    fn ends() -> HandoverEnds {
        HandoverEnds {
            from: Addr::v4([198, 18, 1, 11]),
            from_port: 40000,
            to: Addr::v4([198, 18, 1, 12]),
        }
    }

    fn sealed(o: &HandoverOption) -> OptionRoom {
        let mut room = OptionRoom::default();
        o.emit(&KEY, &ends(), &mut room);
        room
    }

    proptest! {
        #[test]
        fn an_option_survives_emit_and_parse(o in any_option()) {
            let mut room = sealed(&o);
            let back = HandoverOption::parse(&room.bytes, o.client_isn, o.server_isn, o.client_port, o.made);
            prop_assert_eq!(back, Some(o));
            prop_assert!(o.tag_is_right(&KEY, &ends(), &mut room));
        }

        #[test]
        fn any_changed_bit_is_noticed(o in any_option(), bit in 0usize..320) {
            let mut room = sealed(&o);
            room.bytes[bit / 8] ^= 1 << (bit % 8);
            let accepted =
                HandoverOption::parse(&room.bytes, o.client_isn, o.server_isn, o.client_port, o.made)
                    .is_some_and(|o| o.tag_is_right(&KEY, &ends(), &mut room));
            prop_assert!(!accepted);
        }

        #[test]
        fn the_header_fields_and_the_ends_are_covered(o in any_option(), n in 1u32..) {
            let mut room = sealed(&o);
            let other = HandoverOption { client_isn: o.client_isn.plus(n), ..o };
            prop_assert!(!other.tag_is_right(&KEY, &ends(), &mut room));
            let other = HandoverOption { server_isn: o.server_isn.plus(n), ..o };
            prop_assert!(!other.tag_is_right(&KEY, &ends(), &mut room));
            let elsewhere = HandoverEnds { from_port: 40001, ..ends() };
            prop_assert!(!o.tag_is_right(&KEY, &elsewhere, &mut room));
        }

        #[test]
        fn any_bytes_parse_or_are_refused(b: [u8; 40]) {
            let _ = HandoverOption::parse(&b, Seq(0), Seq(0), 0, 0);
        }

        #[test]
        fn a_handover_is_fresh_for_half_a_minute(o in any_option(), away in 0u32..40) {
            for now in [o.made.wrapping_add(away), o.made.wrapping_sub(away)] {
                let mut room = sealed(&o);
                let back = HandoverOption::parse(&room.bytes, o.client_isn, o.server_isn, o.client_port, now);
                let back = back.expect("well-formed");
                prop_assert!(back.tag_is_right(&KEY, &ends(), &mut room));
                prop_assert_eq!(back.is_fresh(now), away <= u32::from(FRESHNESS_SECONDS));
            }
        }

        /// The option's sixteen bits of time are the same again after 65536 seconds.
        #[test]
        fn a_handover_is_fresh_once(o in any_option(), rounds in 1u32..1 << 16) {
            let mut room = sealed(&o);
            let now = o.made.wrapping_add(rounds << 16);
            let back = HandoverOption::parse(&room.bytes, o.client_isn, o.server_isn, o.client_port, now);
            prop_assert!(!back.expect("well-formed").tag_is_right(&KEY, &ends(), &mut room));
        }

        #[test]
        fn all_syns_of_a_handover_have_its_fingerprint(o in any_option(), n in 1u32..) {
            let print = o.print(&KEY);
            let again = HandoverOption {
                made: o.made.wrapping_add(n),
                server_tsval: o.server_tsval.wrapping_add(n),
                ..o
            };
            prop_assert_eq!(again.print(&KEY), print);
            for other in [
                HandoverOption { client_isn: o.client_isn.plus(n), ..o },
                HandoverOption { server_isn: o.server_isn.plus(n), ..o },
                HandoverOption { client_port: o.client_port ^ 1, ..o },
                HandoverOption { service: o.service ^ 1, ..o },
            ] {
                prop_assert_ne!(other.print(&KEY), print);
            }
        }

        #[test]
        fn the_agreed_options_say_what_was_agreed(o in any_option()) {
            let mut bytes = [0; 64];
            let mut agreed = [0; 40];
            o.agreed_options(&mut agreed);
            bytes[..40].copy_from_slice(&agreed);
            let s = scan(bytes, 40);
            prop_assert_eq!(s.mss, u32::from(o.client_mss));
            prop_assert_eq!(s.sack_permitted == 1, o.agreed & AGREED_SACK != 0);
            prop_assert_eq!(s.timestamp_pair().map(|t| t.0), (o.agreed & AGREED_TIMESTAMPS != 0).then_some(o.client_tsval));
            let scale = if o.agreed & AGREED_SCALE != 0 { SCALE_PRESENT | u32::from(o.client_scale) } else { 0 };
            prop_assert_eq!(s.scale, scale);
        }
    }

    #[test]
    fn the_nearest_time_is_taken() {
        let same = [0x1_fffa, 0x1_fffa, 0x1_fffa];
        for [last, now, time] in [
            same,
            [0xfffa, 0x2_0005, 0x1_fffa],
            [5, 0x1_fffa, 0x2_0005],
            [5, u32::MAX, 5],
        ] {
            assert_eq!(nearest(last as u16, now), time);
        }
    }
}
