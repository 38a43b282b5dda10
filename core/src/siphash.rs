//! SipHash-2-4 with a 128-bit key (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
//!
//! Message and key are read as little-endian 64-bit words, as the paper defines; the result is the
//! paper's 64-bit output. Nothing is indexed, so nothing can panic, and the eBPF verifier sees only
//! straight-line arithmetic when the length is known at compile time.

/// The initial state before the key is mixed in: "somepseudorandomlygeneratedbytes".
const INITIAL: [u64; 4] = [
    0x736f_6d65_7073_6575,
    0x646f_7261_6e64_6f6d,
    0x6c79_6765_6e65_7261,
    0x7465_6462_7974_6573,
];

/// SipHash-2-4 of `data`, of any length.
pub fn siphash24(key: &[u8; 16], data: &[u8]) -> u64 {
    hash(key, data)
}

/// SipHash-2-4 of an array: the same value as [`siphash24`], unrolled for its length.
#[inline(always)]
pub fn siphash24_array<const N: usize>(key: &[u8; 16], data: &[u8; N]) -> u64 {
    hash(key, data)
}

/// SipHash-2-4 of a message of whole words, each with the message's bytes from its lowest up. For messages that are
/// made of fields: eBPF need not lay their bytes out in memory.
#[inline(always)]
pub fn siphash24_words<const N: usize>(key: &[u8; 16], words: [u64; N]) -> u64 {
    let mut state = State::new(key);
    for word in words {
        state.absorb(word);
    }
    state.absorb((8 * N as u64) << 56);
    state.finish()
}

#[inline(always)]
fn hash(key: &[u8; 16], data: &[u8]) -> u64 {
    let mut state = State::new(key);
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        state.absorb(u64::from_le_bytes(*word));
    }
    // The last word: the bytes left over, and the length modulo 256 in the top byte.
    let mut last = (data.len() as u64) << 56;
    let mut shift = 0;
    for byte in rest {
        last |= u64::from(*byte) << shift;
        shift += 8;
    }
    state.absorb(last);
    state.finish()
}

/// SipHash-2-4 of a message that is at hand eight bytes at a time: for the kernel's bounded loops.
#[derive(Clone, Copy, Debug)]
pub struct Incremental(State);

impl Incremental {
    /// A hash of nothing yet.
    #[inline(always)]
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self(State::new(key))
    }

    /// Mixes in the next eight bytes, the first one lowest. `left` says how many bytes of the message, which has `len`
    /// in all, were not mixed in before: with less than eight of them, none perhaps, this is the last call.
    #[inline(always)]
    pub fn absorb(&mut self, word: u64, left: u32, len: u32) {
        let word = if left < 8 {
            word & ((1 << (8 * left)) - 1) | (len as u64) << 56
        } else {
            word
        };
        self.0.absorb(word);
    }

    /// The hash, after the last call of [`absorb`](Self::absorb).
    #[inline(always)]
    #[must_use]
    pub fn finish(self) -> u64 {
        self.0.finish()
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    fn new(key: &[u8; 16]) -> Self {
        let (k0, k1) = halves(key);
        let [i0, i1, i2, i3] = INITIAL;
        Self {
            v0: i0 ^ k0,
            v1: i1 ^ k1,
            v2: i2 ^ k0,
            v3: i3 ^ k1,
        }
    }

    /// Mixes in one message word: two rounds (the 2 of SipHash-2-4).
    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    /// The output: four rounds (the 4 of SipHash-2-4).
    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

/// The key's two words. Written out so that no 128-bit arithmetic is needed.
#[inline(always)]
const fn halves(key: &[u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *key;
    (
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes([i, j, k, l, m, n, o, p]),
    )
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::hash::Hasher;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The key of the reference vectors: 00 01 .. 0f.
    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    /// `vectors_sip64` of the reference implementation: the hash of the message 00 01 .. (n - 1), for
    /// n from 0 to 15, as the number whose little-endian bytes the reference lists. n = 15 is also
    /// the worked example of the paper's appendix A.
    const REFERENCE: [u64; 16] = [
        0x726f_db47_dd0e_0e31,
        0x74f8_39c5_93dc_67fd,
        0x0d6c_8009_d9a9_4f5a,
        0x8567_6696_d7fb_7e2d,
        0xcf27_94e0_2771_87b7,
        0x1876_5564_cd99_a68d,
        0xcbc9_466e_58fe_e3ce,
        0xab02_00f5_8b01_d137,
        0x93f5_f579_9a93_2462,
        0x9e00_82df_0ba9_e4b0,
        0x7a5d_bbc5_94dd_b9f3,
        0xf4b3_2f46_226b_ada7,
        0x751e_8fbc_860e_e5fb,
        0x14ea_5627_c084_3d90,
        0xf723_ca90_8e7a_f2ee,
        0xa129_ca61_49be_45e5,
    ];

    #[test]
    fn the_reference_vectors() {
        let message: Vec<u8> = (0..16).collect();
        for (length, expected) in REFERENCE.iter().enumerate() {
            assert_eq!(
                siphash24(&KEY, &message[..length]),
                *expected,
                "length {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_siphasher_crate(key: [u8; 16], data: Vec<u8>) {
            let mut other = siphasher::sip::SipHasher24::new_with_key(&key);
            other.write(&data);
            prop_assert_eq!(siphash24(&key, &data), other.finish());
        }

        #[test]
        fn an_array_hashes_like_a_slice(key: [u8; 16], short: [u8; 6], long: [u8; 20]) {
            prop_assert_eq!(siphash24_array(&key, &short), siphash24(&key, &short));
            prop_assert_eq!(siphash24_array(&key, &long), siphash24(&key, &long));
        }
    }
}
