//! Where the sixteen bytes of an [adoption](super::adoption) or a [release] ride in an IPv6 packet: in a
//! Destination Options header (RFC 8200 §4.6) between the IPv6 header and the TCP header. The bytes are those of the IPv4
//! option, its type and length included.
//!
//! ```text
//! | next header 6 | length 2 | type 0x1e | length 16 | the sixteen bytes | PadN 1 | length 2 | 0 | 0 |
//! ```
//!
//! The header's own length counts units of eight bytes after the first eight: 24 bytes in all. A node that doesn't know
//! the option skips it. The checksum of TCP doesn't cover it and stays as it is: what it covers of the IPv6 header are the
//! addresses, the length of the segment and its own protocol number (RFC 8200 §8.1).

use super::release::{self, Room};

/// The whole header's length in bytes: what the packet grows by.
pub const LEN: usize = 24;
/// Where in the header the sixteen bytes begin.
pub const OPTION: usize = PREFIX.len();
/// The value of the IPv6 header's next header field: Destination Options.
pub const NEXT_HEADER: u8 = 60;
/// The option's type: skipped by who doesn't know it, doesn't change on the way; an experiment (RFC 4727 §3.2).
pub const OPTION_TYPE: u8 = 0x1e;
/// What every such header begins with: TCP follows, 24 bytes, our option of sixteen.
pub const PREFIX: [u8; 4] = [6, (LEN / 8 - 1) as u8, OPTION_TYPE, release::LEN as u8];
/// What every such header ends with: PadN over four bytes.
pub const SUFFIX: [u8; 4] = [1, 2, 0, 0];

const _: () = assert!(LEN.is_multiple_of(8));
const _: () = assert!(PREFIX.len() + release::LEN + SUFFIX.len() == LEN);

/// The largest segment that IPv6 clients are told of, in bytes, where IPv4 clients are told of `ipv4`: its headers take 20
/// bytes more, and so much more this header than the IPv4 option.
#[inline(always)]
#[must_use]
pub const fn announced_v6(ipv4: u16) -> u16 {
    ipv4.saturating_sub((20 + LEN - release::LEN) as u16)
}

/// Room for the header's bytes, aligned so that eBPF moves words.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// The header.
    pub bytes: [u8; LEN],
}

/// Writes the header that carries `option`.
#[inline(always)]
pub const fn emit(option: &Room, header: &mut Header) {
    let b = &mut header.bytes;
    [b[0], b[1], b[2], b[3]] = PREFIX;
    let mut i = 0;
    while i < release::LEN {
        b[OPTION + i] = option.bytes[i];
        i += 1;
    }
    [b[20], b[21], b[22], b[23]] = SUFFIX;
}

/// The sixteen bytes that a header carries; `None` when it is not exactly as [`emit`] writes it. They are not looked at.
#[inline(always)]
#[must_use]
pub const fn parse(header: &Header) -> Option<Room> {
    let b = &header.bytes;
    let begins = u32::from_be_bytes([b[0], b[1], b[2], b[3]]) == u32::from_be_bytes(PREFIX);
    let ends = u32::from_be_bytes([b[20], b[21], b[22], b[23]]) == u32::from_be_bytes(SUFFIX);
    if !begins || !ends {
        return None;
    }
    let mut room = Room {
        bytes: [0; release::LEN],
    };
    let mut i = 0;
    while i < release::LEN {
        room.bytes[i] = b[OPTION + i];
        i += 1;
    }
    Some(room)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::addr::{Addr, FlowKey};
    use crate::seq::Seq;

    fn emitted(bytes: [u8; release::LEN]) -> Header {
        let mut header = Header::default();
        emit(&Room { bytes }, &mut header);
        header
    }

    /// The header's length and its options without padding, read as RFC 8200 §4.2 and §4.6 say.
    fn read(bytes: &[u8]) -> (usize, Vec<(u8, &[u8])>) {
        let len = 8 * (usize::from(bytes[1]) + 1);
        let mut options = Vec::new();
        let mut rest = &bytes[2..len];
        while let [kind, tail @ ..] = rest {
            rest = match kind {
                0 => tail,
                _ => {
                    let (data, after) = tail[1..].split_at(usize::from(tail[0]));
                    if *kind != 1 {
                        options.push((*kind, data));
                    }
                    after
                }
            };
        }
        (len, options)
    }

    #[test]
    fn a_header_carries_one_option_that_others_skip() {
        let bytes = *b"\x9e\x10\x01A234567890123";
        let header = emitted(bytes);
        assert_eq!(header.bytes[0], 6);
        let (len, options) = read(&header.bytes);
        assert_eq!((len, options), (LEN, [(0x1e, &bytes[..])].to_vec()));
        assert_eq!(OPTION_TYPE >> 6, 0, "skip what is unknown");
        assert_eq!(OPTION_TYPE & 0x20, 0, "unchanged on the way");
    }

    #[test]
    fn a_full_segment_fits_with_its_header() {
        // Ethernet's unit of 1500 bytes: headers without options, and what carries the sixteen bytes.
        let ipv4 = 1500 - 40 - release::LEN;
        let ipv6 = announced_v6(ipv4 as u16);
        assert_eq!(usize::from(ipv6) + 60 + LEN, 1500);
        assert_eq!(announced_v6(0), 0);
    }

    #[test]
    fn a_release_survives_an_ipv6_packet() {
        let flow = FlowKey {
            remote: Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            local: Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
            remote_port: 5555,
            local_port: 80,
        };
        let key = [7; 16];
        let mut room = Room::default();
        release::emit(&key, &flow, [Seq(7), Seq(3)], 100, &mut room);
        let mut arrived = parse(&emitted(room.bytes)).unwrap();
        let old = release::verify(&key, &flow, Seq(7), 101, &mut arrived);
        assert_eq!(old, Some(Seq(3)));
    }

    proptest! {
        #[test]
        fn any_sixteen_bytes_survive(bytes: [u8; release::LEN]) {
            let header = emitted(bytes);
            prop_assert_eq!(parse(&header).map(|room| room.bytes), Some(bytes));
            let (len, options) = read(&header.bytes);
            prop_assert_eq!((len, options), (LEN, [(OPTION_TYPE, &bytes[..])].to_vec()));
        }

        #[test]
        fn a_header_has_one_form(bytes: [u8; release::LEN], bit in 0..8 * LEN) {
            let mut header = emitted(bytes);
            header.bytes[bit / 8] ^= 1 << (bit % 8);
            let carried = OPTION..OPTION + release::LEN;
            prop_assert_eq!(parse(&header).is_some(), carried.contains(&(bit / 8)));
        }

        #[test]
        fn what_is_read_is_written_the_same(bytes: [u8; LEN], frame: bool) {
            let mut header = Header { bytes };
            if frame {
                header.bytes[..OPTION].copy_from_slice(&PREFIX);
                header.bytes[LEN - SUFFIX.len()..].copy_from_slice(&SUFFIX);
            }
            match parse(&header) {
                Some(room) => prop_assert_eq!(emitted(room.bytes), header),
                None => prop_assert!(!frame),
            }
        }
    }
}
