//! A release: the client's own SYN, sent on to the node that inspected the flow's last connection,
//! with this IPv4 option to say that the connection is over.
//!
//! ```text
//! | kind 158 | length 16 | version 1 | 0 | time made (2) | old client ISN (4) | tag (6) |
//! ```

use super::{TAG_MASK, is_fresh, nearest};
use crate::addr::FlowKey;
use crate::seq::Seq;
use crate::siphash::siphash24_words;

/// The IPv4 option's type: experiment 30, copied on fragmentation (RFC 4727).
pub const IP_OPTION: u8 = 158;
/// The option's length in bytes.
pub const LEN: usize = 16;

/// Room for the option's bytes, aligned so that eBPF moves words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// The option.
    pub bytes: [u8; LEN],
}

/// Writes the option's bytes, with their tag; `made` is Unix time in seconds.
#[inline(always)]
pub fn emit(key: &[u8; 16], flow: &FlowKey, [new, old]: [Seq; 2], made: u32, room: &mut Room) {
    let b = &mut room.bytes;
    [b[0], b[1], b[2], b[3]] = [IP_OPTION, LEN as u8, super::VERSION, 0];
    [b[4], b[5]] = (made as u16).to_be_bytes();
    [b[6], b[7], b[8], b[9]] = old.0.to_be_bytes();
    let t = tag(key, flow, new, made, room).to_be_bytes();
    let b = &mut room.bytes;
    [b[10], b[11], b[12], b[13], b[14], b[15]] = [t[0], t[1], t[2], t[3], t[4], t[5]];
}

/// The old connection's client ISN, when the option is well-formed, fresh and rightly tagged.
#[inline(always)]
#[must_use]
pub fn verify(key: &[u8; 16], flow: &FlowKey, new: Seq, now: u32, room: &mut Room) -> Option<Seq> {
    let b = &room.bytes;
    if b[0] != IP_OPTION || b[1] != LEN as u8 || b[2] != super::VERSION || b[3] != 0 {
        return None;
    }
    let made = nearest(u16::from_be_bytes([b[4], b[5]]), now);
    if !is_fresh(made, now) {
        return None;
    }
    let old = Seq(u32::from_be_bytes([b[6], b[7], b[8], b[9]]));
    let given = u64::from_be_bytes([b[10], b[11], b[12], b[13], b[14], b[15], 0, 0]);
    (tag(key, flow, new, made, room) & TAG_MASK == given).then_some(old)
}

/// The tag: SipHash-2-4 over the flow's addresses and ports, the new ISN, the option without its tag, the first 16 bits
/// of the time, and a byte that says "release", so that no tag of another kind of frame can be used for it.
#[inline(always)]
fn tag(key: &[u8; 16], flow: &FlowKey, new: Seq, made: u32, room: &Room) -> u64 {
    let b = &room.bytes;
    let ([remote, remote_rest], [local, local_rest]) =
        (flow.remote.words_le(), flow.local.words_le());
    let (r, l) = (
        flow.remote_port.to_be_bytes(),
        flow.local_port.to_be_bytes(),
    );
    let (x, m) = (new.0.to_be_bytes(), made.to_be_bytes());
    let words = [
        remote,
        remote_rest,
        local,
        local_rest,
        u64::from_le_bytes([r[0], r[1], l[0], l[1], x[0], x[1], x[2], x[3]]),
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        u64::from_le_bytes([b[8], b[9], m[0], m[1], 0, 0, 0, b'R']),
    ];
    siphash24_words(key, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;

    const KEY: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn a_release_names_its_flow_and_both_connections() {
        let flow = FlowKey {
            remote: Addr::v4([198, 18, 0, 1]),
            local: Addr::v4([198, 18, 0, 100]),
            remote_port: 5555,
            local_port: 80,
        };
        let mut room = Room::default();
        emit(&KEY, &flow, [Seq(7), Seq(3)], 100, &mut room);
        let verify =
            |flow: &FlowKey, new, now, mut room: Room| verify(&KEY, flow, Seq(new), now, &mut room);
        assert_eq!(verify(&flow, 7, 110, room), Some(Seq(3)));
        assert_eq!(verify(&flow, 8, 110, room), None);
        assert_eq!(verify(&flow, 7, 200, room), None);
        assert_eq!(
            verify(&flow, 7, 100 + (1 << 16), room),
            None,
            "not again, either"
        );
        let other = FlowKey {
            remote_port: 5556,
            ..flow
        };
        assert_eq!(verify(&other, 7, 110, room), None);
        for bit in 0..128 {
            let mut forged = room;
            forged.bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&flow, 7, 110, forged), None, "bit {bit}");
        }
    }
}
