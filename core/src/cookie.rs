//! SYN cookies (RFC 4987 §3.6): a connection's terms in the numbers of the SYN-ACK, so that nothing need be
//! remembered until a request comes.
//!
//! Any node that has the key reads them back from the client's next segments, which repeat both numbers: the
//! acknowledgment is the cookie plus one, and the timestamps' echo is the SYN-ACK's own timestamp.
//!
//! ```text
//! initial sequence number, timestamps agreed:
//!  31   29    26                                            0
//! +----+-----+-----------------------------------------------+
//! |slot| MSS |                hash, 27 bits                  |
//! +----+-----+-----------------------------------------------+
//!
//! initial sequence number, no timestamps:
//!  31   29    26      22  21                                0
//! +----+-----+-------+---+-----------------------------------+
//! |slot| MSS | scale | S |          hash, 22 bits            |
//! +----+-----+-------+---+-----------------------------------+
//!
//! timestamp value:
//!  31                                     5   4  3          0
//! +-----------------------------------------+---+---+-------+
//! |  clock, ms, to the last 64              | E | S | scale |
//! +-----------------------------------------+---+---+-------+
//! ```
//!
//! `slot`: when the SYN came, in units of [`SLOT_SECONDS`], modulo 4. `MSS`: the largest of [`MSS_CLASSES`] that the
//! client takes. `scale`: the client's window scale, 15 when it doesn't scale. `S`, `E`: selective acknowledgment and
//! ECN are agreed; without timestamps there is no room for ECN, so it isn't agreed.
//!
//! The hash is a truncated SipHash-2-4 of the flow, the client's ISN, the slot's full number and all the bits above:
//! terms that the client was not given are not believed. Without timestamps, which a forger can leave out, one of 4.2
//! million blind guesses is right, with them one of 134 million; Linux's own cookies stand at 8 million.

use crate::addr::FlowKey;
use crate::handover::{AGREED, AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS};
use crate::segment::{CWR, ECE, OptionScan, SCALE_PRESENT, TcpHeader};
use crate::seq::Seq;
use crate::siphash::siphash24_words;

/// The unit of a cookie's age, in seconds.
pub const SLOT_SECONDS: u64 = 64;

/// How many slots a cookie stays valid after its own: between two and three minutes in all.
pub const VALID_SLOTS: u64 = 2;

/// How many slots a key is used: about 73 hours. See [`key_number`].
pub const SLOTS_OF_A_KEY: u64 = 1 << 12;

/// The segment sizes, in bytes, that a cookie can tell.
///
/// 536 and 1220 are what a client without the option takes (RFC 9293 §3.7.1; IPv6), and the least that the kernel makes
/// a socket of; 1300 to 1400 fit most tunnels, 1440 and 1460 are Ethernet's, 8940 that of jumbo frames.
pub const MSS_CLASSES: [u16; 8] = [536, 1220, 1300, 1360, 1400, 1440, 1460, 8940];

/// No window scaling, where a scale stands.
const UNSCALED: u32 = 15;

const SLOT_SHIFT: u32 = 30;
const CLASS_SHIFT: u32 = 27;
const SCALE_SHIFT: u32 = 23;
const SACK_BIT: u32 = 1 << 22;
/// The hash's bits where timestamps carry the options.
const HASH_LONG: u32 = (1 << CLASS_SHIFT) - 1;
/// The hash's bits where the sequence number carries them.
const HASH_SHORT: u32 = SACK_BIT - 1;

/// The bits of a timestamp value that are no clock.
const STAMP_BITS: u32 = 0x3f;
const STAMP_SACK: u32 = 1 << 4;
const STAMP_ECN: u32 = 1 << 5;

/// What client and server agree on in a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The largest segment that the client takes, in bytes: one of [`MSS_CLASSES`].
    pub mss: u16,
    /// `AGREED_*` bits.
    pub agreed: u32,
    /// The client's window scale, 0 to 14; 0 where it doesn't scale.
    pub client_scale: u8,
}

impl Terms {
    /// What is agreed with a client that sends this SYN: all that it offers, as far as a cookie can tell.
    ///
    /// A client that takes smaller segments only than any host must (RFC 9293 §3.7.1) is sent such: the kernel makes no
    /// socket of less.
    #[inline(always)]
    #[must_use]
    pub const fn of_syn(header: &TcpHeader, options: &OptionScan, v6: bool) -> Self {
        let least = if v6 { MSS_CLASSES[1] } else { MSS_CLASSES[0] } as u32;
        let mss = if options.mss < least {
            least
        } else {
            options.mss
        };
        let mut agreed = 0;
        if options.sack_permitted != 0 {
            agreed |= AGREED_SACK;
        }
        if options.timestamps != 0 {
            agreed |= AGREED_TIMESTAMPS;
            if header.has(ECE | CWR) {
                agreed |= AGREED_ECN;
            }
        }
        let mut client_scale = 0;
        if options.scale & SCALE_PRESENT != 0 {
            agreed |= AGREED_SCALE;
            client_scale = (options.scale & 0x0f) as u8;
        }
        Self {
            mss: class_size(class(mss)),
            agreed,
            client_scale,
        }
    }

    /// The terms of a segment size's class, the `AGREED_*` bits and the client's window scale.
    #[inline(always)]
    #[must_use]
    pub const fn of_parts(class: u8, agreed: u32, client_scale: u8) -> Self {
        Self {
            mss: class_size(class as u32),
            agreed: agreed & AGREED,
            client_scale,
        }
    }

    /// The number of the segment size's class.
    #[inline(always)]
    #[must_use]
    pub const fn class(&self) -> u8 {
        class(self.mss as u32) as u8
    }

    /// All of it in one number.
    #[inline(always)]
    #[must_use]
    pub const fn pack(&self) -> u32 {
        (self.class() as u32) << 16 | (self.client_scale as u32) << 8 | self.agreed
    }

    /// What [`pack`](Self::pack) packed.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(packed: u32) -> Self {
        Self::of_parts((packed >> 16) as u8, packed, (packed >> 8) as u8)
    }

    #[inline(always)]
    const fn has(&self, agreed: u32) -> bool {
        self.agreed & agreed != 0
    }

    #[inline(always)]
    const fn scale_bits(&self) -> u32 {
        if self.has(AGREED_SCALE) {
            self.client_scale as u32
        } else {
            UNSCALED
        }
    }

    #[inline(always)]
    const fn of_bits(class: u32, scale: u32, mut agreed: u32) -> Self {
        let mut client_scale = 0;
        if scale != UNSCALED {
            agreed |= AGREED_SCALE;
            client_scale = scale as u8;
        }
        Self {
            mss: class_size(class),
            agreed,
            client_scale,
        }
    }
}

/// The number of the largest class that is not larger than `mss`; the first one when all are.
#[inline(always)]
const fn class(mss: u32) -> u32 {
    let mut class = 0;
    let mut i = 1;
    while i < MSS_CLASSES.len() {
        if MSS_CLASSES[i] as u32 <= mss {
            class = i as u32;
        }
        i += 1;
    }
    class
}

#[inline(always)]
const fn class_size(class: u32) -> u16 {
    MSS_CLASSES[(class & 7) as usize]
}

/// The slot of a time in Unix seconds.
#[inline(always)]
#[must_use]
pub const fn slot(unix: u64) -> u64 {
    unix / SLOT_SECONDS
}

/// The number of the key that a slot's cookies are made with. All nodes derive the same key from its number.
#[inline(always)]
#[must_use]
pub const fn key_number(slot: u64) -> u64 {
    slot / SLOTS_OF_A_KEY
}

/// What a SYN-ACK says and a cookie is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynAck {
    /// The initial sequence number.
    pub isn: Seq,
    /// The timestamp value, where timestamps are agreed.
    pub tsval: Option<u32>,
}

/// Makes the cookie of a flow's SYN that came in `slot`; `now_ms` is Unix time in milliseconds, modulo 2^32, and `key`
/// the slot's.
#[inline(always)]
#[must_use]
pub fn make(
    key: &[u8; 16],
    flow: &FlowKey,
    (client_isn, terms): (Seq, &Terms),
    slot: u64,
    now_ms: u32,
) -> SynAck {
    let high = (slot as u32) << SLOT_SHIFT | class(terms.mss as u32) << CLASS_SHIFT;
    let sack = terms.has(AGREED_SACK);
    if terms.has(AGREED_TIMESTAMPS) {
        let mut bits = terms.scale_bits();
        if sack {
            bits |= STAMP_SACK;
        }
        if terms.has(AGREED_ECN) {
            bits |= STAMP_ECN;
        }
        let hash = hash(key, flow, client_isn, slot, [high, bits]);
        return SynAck {
            isn: Seq(high | hash & HASH_LONG),
            tsval: Some(stamp(now_ms, bits)),
        };
    }
    let mut high = high | terms.scale_bits() << SCALE_SHIFT;
    if sack {
        high |= SACK_BIT;
    }
    let hash = hash(key, flow, client_isn, slot, [high, NO_STAMP]);
    SynAck {
        isn: Seq(high | hash & HASH_SHORT),
        tsval: None,
    }
}

/// A timestamp value that is not later than now and has these bits.
#[inline(always)]
const fn stamp(now_ms: u32, bits: u32) -> u32 {
    let value = now_ms & !STAMP_BITS | bits;
    // A clock that was ahead would go back when the server's own takes over.
    if bits > now_ms & STAMP_BITS {
        value.wrapping_sub(STAMP_BITS + 1)
    } else {
        value
    }
}

/// Reads the terms back from the first segment of a client's data, or its bare acknowledgment.
///
/// `tsecr` is the segment's timestamp echo, `now` the present [`slot`], and `key_of` gives the key of a slot, if
/// there is one. `None`: the segment answers no SYN-ACK of this cluster's, or one that is too old.
#[inline(always)]
pub fn check<'a>(
    header: &TcpHeader,
    tsecr: Option<u32>,
    flow: &FlowKey,
    now: u64,
    key_of: impl FnOnce(u64) -> Option<&'a [u8; 16]>,
) -> Option<Terms> {
    let isn = header.ack.minus(1).0;
    // How many slots ago; -1 when the clock of the node that made it is ahead.
    let age = (now as u32).wrapping_sub(isn >> SLOT_SHIFT) & 3;
    let slot = if age == 3 {
        now.wrapping_add(1)
    } else {
        now.wrapping_sub(age as u64)
    };
    let class = isn >> CLASS_SHIFT & 7;
    let (bits, mask, terms) = match tsecr {
        Some(echo) => {
            let bits = echo & STAMP_BITS;
            let mut agreed = AGREED_TIMESTAMPS;
            if bits & STAMP_SACK != 0 {
                agreed |= AGREED_SACK;
            }
            if bits & STAMP_ECN != 0 {
                agreed |= AGREED_ECN;
            }
            let terms = Terms::of_bits(class, bits & 0x0f, agreed);
            (bits, HASH_LONG, terms)
        }
        None => {
            let agreed = if isn & SACK_BIT != 0 { AGREED_SACK } else { 0 };
            let terms = Terms::of_bits(class, isn >> SCALE_SHIFT & 0x0f, agreed);
            (NO_STAMP, HASH_SHORT, terms)
        }
    };
    let key = key_of(slot)?;
    let client_isn = header.seq.minus(1);
    let expected = hash(key, flow, client_isn, slot, [isn & !mask, bits]);
    (isn & mask == expected & mask).then_some(terms)
}

/// In a timestamp's place where there is none.
const NO_STAMP: u32 = 1 << 31;

/// What a cookie's low bits are.
#[inline(always)]
fn hash(key: &[u8; 16], flow: &FlowKey, client_isn: Seq, slot: u64, [high, bits]: [u32; 2]) -> u32 {
    let ([remote, remote_rest], [local, local_rest]) =
        (flow.remote.words_le(), flow.local.words_le());
    let ports = (flow.remote_port as u64) << 16 | flow.local_port as u64;
    let words = [
        remote,
        remote_rest,
        local,
        local_rest,
        ports << 32 | client_isn.0 as u64,
        slot,
        (high as u64) << 32 | bits as u64,
        u64::from_le_bytes(*b"cookie\0\0"),
    ];
    siphash24_words(key, words) as u32
}

#[cfg(test)]
mod tests;
