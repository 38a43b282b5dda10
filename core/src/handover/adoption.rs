//! An adoption: a client's own segment on its way to the node whose server shall have the connection, with this IPv4
//! option to say what was agreed with the client. In an IPv6 packet a [header](super::destination) carries it.
//!
//! ```text
//! | kind 158 | length 16 | version 1 | 'A' + kind | scales (1) | class 3, time 5 bits (1) | agreed (1) | track (1) |
//! | interval (2) | tag (6) |
//! ```
//!
//! `scales`: the client's window scale, and the one that it was told, four bits each. `class`: the client's segment
//! size, as in [`crate::cookie`]. `track`: the [`track`](crate::entry::adoption::track) bits of the request.
//! `interval`: what is added to the timestamp that the segment echoes to get the server's present one, in milliseconds.
//! `time`: Unix time in units of 8 seconds, modulo 32. The tag is a truncated SipHash-2-4 of the flow, the segment's
//! sequence and acknowledgment numbers, the target, the option and the whole time. The segment's data is not covered:
//! whoever can change frames on the back network can change a server's answers as well.

use super::{AGREED, TAG_MASK, release};
use crate::addr::{Addr, FlowKey};
use crate::cookie::Terms;
use crate::seq::Seq;
use crate::siphash::siphash24_words;

/// What an adoption frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The first segment of the client's data: a socket is to be made of it.
    First,
    /// The same, of a connection whose earlier requests another node's server had.
    Next,
    /// A later segment of the same request.
    Later,
    /// The target's answer to the inspecting node, with the first segment: there is no server for it.
    Refused,
    /// The same: there is one, but the kernel makes no sockets for it of segments.
    Unable,
}

impl Kind {
    const fn byte(self) -> u8 {
        b'A' + match self {
            Self::First => 0,
            Self::Next => 1,
            Self::Later => 2,
            Self::Refused => 3,
            Self::Unable => 4,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        Some(match byte.wrapping_sub(b'A') {
            0 => Self::First,
            1 => Self::Next,
            2 => Self::Later,
            3 => Self::Refused,
            4 => Self::Unable,
            _ => return None,
        })
    }
}

/// What the tag covers besides the flow and the option: the numbers of the segment that carries it, and a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Covered {
    /// The back address of the target: the node that the segment is sent to, or that sends it back. To another node it
    /// says nothing.
    pub target: Addr,
    /// The sequence number.
    pub seq: Seq,
    /// The acknowledgment number.
    pub ack: Seq,
}

/// What the option says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// What the frame is.
    pub kind: Kind,
    /// What was agreed with the client.
    pub terms: Terms,
    /// The window scale that the client was told, 0 to 14.
    pub announced_scale: u8,
    /// [`track`](crate::entry::adoption::track) bits of the request.
    pub track: u8,
    /// What is added to the echoed timestamp to get the server's present one, in milliseconds.
    pub interval: u16,
}

/// How far the time in an option may be from the present, in its units: half a minute, and the clocks' difference.
const FRESH: u32 = 4;

/// The time of an option: `unix` in seconds.
const fn units(unix: u32) -> u32 {
    unix >> 3
}

/// Why an option is not to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is not one of this cluster's, or more than two minutes old.
    Forged,
    /// It was made too long ago, or by a node whose clock is wrong.
    Stale,
}

/// Writes the option's bytes, with their tag; `unix` is Unix time in seconds.
#[inline(always)]
pub fn emit(
    key: &[u8; 16],
    flow: &FlowKey,
    covered: Covered,
    (adoption, unix): (&Adoption, u32),
    room: &mut release::Room,
) {
    let terms = &adoption.terms;
    let b = &mut room.bytes;
    [b[0], b[1], b[2]] = [release::IP_OPTION, release::LEN as u8, super::VERSION];
    b[3] = adoption.kind.byte();
    b[4] = terms.client_scale << 4 | adoption.announced_scale & 0x0f;
    b[5] = terms.class() << 5 | units(unix) as u8 & 31;
    b[6] = terms.agreed as u8;
    b[7] = adoption.track;
    [b[8], b[9]] = adoption.interval.to_be_bytes();
    let t = tag(key, flow, covered, units(unix), room).to_be_bytes();
    let b = &mut room.bytes;
    [b[10], b[11], b[12], b[13], b[14], b[15]] = [t[0], t[1], t[2], t[3], t[4], t[5]];
}

/// What the option says.
///
/// # Errors
///
/// When it is not well-formed, rightly tagged and fresh.
#[inline(always)]
pub fn verify(
    key: &[u8; 16],
    flow: &FlowKey,
    covered: Covered,
    unix: u32,
    room: &mut release::Room,
) -> Result<Adoption, Refusal> {
    let Some(adoption) = parse(room) else {
        return Err(Refusal::Forged);
    };
    let ahead = ahead(room, unix);
    let made = units(unix).wrapping_add(ahead as u32);
    let b = &room.bytes;
    let given = u64::from_be_bytes([b[10], b[11], b[12], b[13], b[14], b[15], 0, 0]);
    if tag(key, flow, covered, made, room) & TAG_MASK != given {
        return Err(Refusal::Forged);
    }
    if ahead.unsigned_abs() > FRESH {
        return Err(Refusal::Stale);
    }
    Ok(adoption)
}

/// How far the option's time is ahead of `unix`, in its units. Of all times that end with the option's bits, it is taken to
/// be the one nearest to that.
#[inline(always)]
const fn ahead(room: &release::Room, unix: u32) -> i32 {
    let ahead = room.bytes[5].wrapping_sub(units(unix) as u8) & 31;
    (ahead as i32 ^ 16) - 16
}

/// Reads the option; its tag is not looked at.
#[inline(always)]
fn parse(room: &release::Room) -> Option<Adoption> {
    let b = &room.bytes;
    if b[0] != release::IP_OPTION || b[1] != release::LEN as u8 || b[2] != super::VERSION {
        return None;
    }
    let kind = Kind::of(b[3])?;
    let (client_scale, announced_scale) = (b[4] >> 4, b[4] & 0x0f);
    if client_scale > 14 || announced_scale > 14 || b[6] & !(AGREED as u8) != 0 {
        return None;
    }
    Some(Adoption {
        kind,
        terms: Terms::of_parts(b[5] >> 5, b[6] as u32, client_scale),
        announced_scale,
        track: b[7],
        interval: u16::from_be_bytes([b[8], b[9]]),
    })
}

/// Whether the option, which is an adoption's, says that a target sends the segment back.
#[inline(always)]
#[must_use]
pub const fn comes_back(room: &release::Room) -> bool {
    matches!(Kind::of(room.bytes[3]), Some(Kind::Refused | Kind::Unable))
}

/// Whether an option of sixteen bytes is an adoption's, as far as its fourth byte tells.
#[inline(always)]
#[must_use]
pub const fn is_adoption(fourth: u8) -> bool {
    Kind::of(fourth).is_some()
}

#[inline(always)]
fn tag(key: &[u8; 16], flow: &FlowKey, covered: Covered, made: u32, room: &release::Room) -> u64 {
    let b = &room.bytes;
    let ([remote, remote_rest], [local, local_rest]) =
        (flow.remote.words_le(), flow.local.words_le());
    let [target, target_rest] = covered.target.words_le();
    let ports = (flow.remote_port as u64) << 16 | flow.local_port as u64;
    let words = [
        remote,
        remote_rest,
        local,
        local_rest,
        (covered.seq.0 as u64) << 32 | covered.ack.0 as u64,
        target,
        target_rest,
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        u64::from_le_bytes([b[8], b[9], 0, 0, 0, 0, 0, b'A']) ^ ports << 16,
        // A frame that was recorded would be fresh once more every 256 seconds.
        made as u64,
    ];
    siphash24_words(key, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::MSS_CLASSES;
    use proptest::prelude::*;

    const KEY: [u8; 16] = *b"0123456789abcdef";
    const FLOW: FlowKey = FlowKey {
        remote: Addr::v4([198, 18, 0, 1]),
        local: Addr::v4([198, 18, 0, 100]),
        remote_port: 5555,
        local_port: 80,
    };
    const COVERED: Covered = Covered {
        target: Addr::v4([198, 18, 1, 12]),
        seq: Seq(8),
        ack: Seq(1000),
    };

    fn any_adoption() -> impl Strategy<Value = Adoption> {
        (
            prop::sample::select(
                &[
                    Kind::First,
                    Kind::Next,
                    Kind::Later,
                    Kind::Refused,
                    Kind::Unable,
                ][..],
            ),
            0u8..8,
            0u32..16,
            0u8..=14,
            0u8..=14,
            any::<(u8, u16)>(),
        )
            .prop_map(
                |(kind, class, agreed, client_scale, announced_scale, (track, interval))| {
                    Adoption {
                        kind,
                        terms: Terms::of_parts(class, agreed, client_scale),
                        announced_scale,
                        track,
                        interval,
                    }
                },
            )
    }

    fn sealed(adoption: &Adoption, unix: u32) -> release::Room {
        let mut room = release::Room::default();
        emit(&KEY, &FLOW, COVERED, (adoption, unix), &mut room);
        room
    }

    proptest! {
        #[test]
        fn an_adoption_survives_emit_and_verify(a in any_adoption(), unix: u32, later in 0u32..24) {
            let mut room = sealed(&a, unix);
            prop_assert!(is_adoption(room.bytes[3]));
            let found = verify(&KEY, &FLOW, COVERED, unix.wrapping_add(later), &mut room);
            prop_assert_eq!(found, Ok(a));
            let found = verify(&KEY, &FLOW, COVERED, unix.wrapping_sub(later), &mut room);
            prop_assert_eq!(found, Ok(a));
            for away in [48, 100u32, 48u32.wrapping_neg(), 100u32.wrapping_neg()] {
                let found = verify(&KEY, &FLOW, COVERED, unix.wrapping_add(away), &mut room);
                prop_assert_eq!(found, Err(Refusal::Stale));
            }
        }

        /// Its five bits of time are the same again after 256 seconds.
        #[test]
        fn an_adoption_is_fresh_once(a in any_adoption(), unix: u32, rounds in 1u32..1 << 24) {
            let mut room = sealed(&a, unix);
            let found = verify(&KEY, &FLOW, COVERED, unix.wrapping_add(rounds << 8), &mut room);
            prop_assert_eq!(found, Err(Refusal::Forged));
        }

        #[test]
        fn any_changed_bit_is_noticed(a in any_adoption(), unix: u32, bit in 0usize..128) {
            let mut room = sealed(&a, unix);
            room.bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify(&KEY, &FLOW, COVERED, unix, &mut room), Err(Refusal::Forged));
        }

        #[test]
        fn the_segment_is_covered(a in any_adoption(), n in 1u32..) {
            let mut room = sealed(&a, 0);
            let seq = Covered { seq: COVERED.seq.plus(n), ..COVERED };
            prop_assert_eq!(verify(&KEY, &FLOW, seq, 0, &mut room), Err(Refusal::Forged));
            let ack = Covered { ack: COVERED.ack.plus(n), ..COVERED };
            prop_assert_eq!(verify(&KEY, &FLOW, ack, 0, &mut room), Err(Refusal::Forged));
            let target = Covered { target: Addr::v4([198, 18, 1, 13]), ..COVERED };
            prop_assert_eq!(verify(&KEY, &FLOW, target, 0, &mut room), Err(Refusal::Forged));
            let port = FlowKey { remote_port: FLOW.remote_port.wrapping_add(n as u16 | 1), ..FLOW };
            prop_assert_eq!(verify(&KEY, &port, COVERED, 0, &mut room), Err(Refusal::Forged));
        }

        #[test]
        fn any_bytes_are_refused(bytes: [u8; 16]) {
            let mut room = release::Room { bytes };
            prop_assert_eq!(verify(&KEY, &FLOW, COVERED, 0, &mut room), Err(Refusal::Forged));
        }
    }

    #[test]
    fn a_release_is_no_adoption() {
        let mut room = release::Room::default();
        release::emit(&KEY, &FLOW, [Seq(7), Seq(3)], 0, &mut room);
        assert!(!is_adoption(room.bytes[3]));
        assert_eq!(MSS_CLASSES.len(), 8);
    }
}
