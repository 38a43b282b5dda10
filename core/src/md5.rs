//! MD5 (RFC 1321), for the ring of the paper (DTS §3.1).
//!
//! MD5 is here because the paper uses it and because anybody can check its values with `md5sum`. It
//! spreads points evenly; it does not keep an attacker from aiming at a node. The ring's keyed hash
//! is for that, see [`ring`](crate::ring).
//!
//! MD5 works on little-endian 32-bit words. Everything that the filter hashes fits one block, and one
//! block is 64 steps without a loop or a table: the verifier has nothing to walk.

/// The longest message that fits one block together with its padding, in bytes.
pub const MAX_SHORT: usize = 55;

/// The four state words before the first block (RFC 1321 §3.3).
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The MD5 digest of `data`, of any length.
pub fn digest(data: &[u8]) -> [u8; 16] {
    let mut state = INITIAL;
    let (blocks, rest) = data.as_chunks::<64>();
    for block in blocks {
        state = compress(state, &words(block));
    }
    let mut last = [0; 64];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x80;
    if rest.len() > MAX_SHORT {
        state = compress(state, &words(&last));
        last = [0; 64];
    }
    // RFC 1321 §3.2: the length in bits, modulo 2^64.
    let bits = (data.len() as u64).wrapping_mul(8);
    last[56..].copy_from_slice(&bits.to_le_bytes());
    state_bytes(compress(state, &words(&last)))
}

/// The MD5 digest of an array of at most [`MAX_SHORT`] bytes: the same value as [`digest`].
#[inline(always)]
pub fn digest_short<const N: usize>(data: &[u8; N]) -> [u8; 16] {
    Block::new(data).digest()
}

/// A short message, padded to the one block that MD5 processes.
///
/// Messages of different lengths become values of one type, so code that hashes one of several
/// layouts contains the 64 steps once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block([u32; 16]);

impl Block {
    /// Pads `data` (RFC 1321 §3.1, §3.2). More than [`MAX_SHORT`] bytes do not compile.
    #[inline(always)]
    pub fn new<const N: usize>(data: &[u8; N]) -> Self {
        const { assert!(N <= MAX_SHORT, "longer than one block") };
        let mut block = [0; 64];
        for (to, from) in block.iter_mut().zip(data) {
            *to = *from;
        }
        block[N] = 0x80;
        let mut words = words(&block);
        words[14] = 8 * N as u32;
        Self(words)
    }

    /// The MD5 digest of the message.
    #[inline(always)]
    pub fn digest(&self) -> [u8; 16] {
        state_bytes(compress(INITIAL, &self.0))
    }

    /// The first 8 bytes of the digest as a big-endian number: what the ring uses of it.
    #[inline(always)]
    pub fn digest_prefix(&self) -> u64 {
        let [a, b, ..] = compress(INITIAL, &self.0);
        (u64::from(a.swap_bytes()) << 32) | u64::from(b.swap_bytes())
    }
}

/// The block's sixteen words.
#[inline(always)]
fn words(block: &[u8; 64]) -> [u32; 16] {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[inline(always)]
fn state_bytes(state: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *to = word.to_le_bytes();
    }
    bytes
}

/// RFC 1321 §3.4, one block. Each step is one operation `[abcd k s i]` of the RFC, with `T[i]` in
/// place of `i`; written out, because neither the verifier nor the optimizer has then anything to
/// prove about indices.
#[inline(always)]
#[rustfmt::skip] // one step a line reads best against the RFC's tables
fn compress(state: [u32; 4], block: &[u32; 16]) -> [u32; 4] {
    macro_rules! step {
        ($function:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:ident, $shift:literal, $t:literal) => {
            $a = $a
                .wrapping_add($function($b, $c, $d))
                .wrapping_add($word)
                .wrapping_add($t)
                .rotate_left($shift)
                .wrapping_add($b);
        };
    }
    let [mut a, mut b, mut c, mut d] = state;
    let [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15] = *block;

        step!(f, a, b, c, d, m0, 7, 0xd76a_a478);
        step!(f, d, a, b, c, m1, 12, 0xe8c7_b756);
        step!(f, c, d, a, b, m2, 17, 0x2420_70db);
        step!(f, b, c, d, a, m3, 22, 0xc1bd_ceee);
        step!(f, a, b, c, d, m4, 7, 0xf57c_0faf);
        step!(f, d, a, b, c, m5, 12, 0x4787_c62a);
        step!(f, c, d, a, b, m6, 17, 0xa830_4613);
        step!(f, b, c, d, a, m7, 22, 0xfd46_9501);
        step!(f, a, b, c, d, m8, 7, 0x6980_98d8);
        step!(f, d, a, b, c, m9, 12, 0x8b44_f7af);
        step!(f, c, d, a, b, m10, 17, 0xffff_5bb1);
        step!(f, b, c, d, a, m11, 22, 0x895c_d7be);
        step!(f, a, b, c, d, m12, 7, 0x6b90_1122);
        step!(f, d, a, b, c, m13, 12, 0xfd98_7193);
        step!(f, c, d, a, b, m14, 17, 0xa679_438e);
        step!(f, b, c, d, a, m15, 22, 0x49b4_0821);
        step!(g, a, b, c, d, m1, 5, 0xf61e_2562);
        step!(g, d, a, b, c, m6, 9, 0xc040_b340);
        step!(g, c, d, a, b, m11, 14, 0x265e_5a51);
        step!(g, b, c, d, a, m0, 20, 0xe9b6_c7aa);
        step!(g, a, b, c, d, m5, 5, 0xd62f_105d);
        step!(g, d, a, b, c, m10, 9, 0x0244_1453);
        step!(g, c, d, a, b, m15, 14, 0xd8a1_e681);
        step!(g, b, c, d, a, m4, 20, 0xe7d3_fbc8);
        step!(g, a, b, c, d, m9, 5, 0x21e1_cde6);
        step!(g, d, a, b, c, m14, 9, 0xc337_07d6);
        step!(g, c, d, a, b, m3, 14, 0xf4d5_0d87);
        step!(g, b, c, d, a, m8, 20, 0x455a_14ed);
        step!(g, a, b, c, d, m13, 5, 0xa9e3_e905);
        step!(g, d, a, b, c, m2, 9, 0xfcef_a3f8);
        step!(g, c, d, a, b, m7, 14, 0x676f_02d9);
        step!(g, b, c, d, a, m12, 20, 0x8d2a_4c8a);
        step!(h, a, b, c, d, m5, 4, 0xfffa_3942);
        step!(h, d, a, b, c, m8, 11, 0x8771_f681);
        step!(h, c, d, a, b, m11, 16, 0x6d9d_6122);
        step!(h, b, c, d, a, m14, 23, 0xfde5_380c);
        step!(h, a, b, c, d, m1, 4, 0xa4be_ea44);
        step!(h, d, a, b, c, m4, 11, 0x4bde_cfa9);
        step!(h, c, d, a, b, m7, 16, 0xf6bb_4b60);
        step!(h, b, c, d, a, m10, 23, 0xbebf_bc70);
        step!(h, a, b, c, d, m13, 4, 0x289b_7ec6);
        step!(h, d, a, b, c, m0, 11, 0xeaa1_27fa);
        step!(h, c, d, a, b, m3, 16, 0xd4ef_3085);
        step!(h, b, c, d, a, m6, 23, 0x0488_1d05);
        step!(h, a, b, c, d, m9, 4, 0xd9d4_d039);
        step!(h, d, a, b, c, m12, 11, 0xe6db_99e5);
        step!(h, c, d, a, b, m15, 16, 0x1fa2_7cf8);
        step!(h, b, c, d, a, m2, 23, 0xc4ac_5665);
        step!(i, a, b, c, d, m0, 6, 0xf429_2244);
        step!(i, d, a, b, c, m7, 10, 0x432a_ff97);
        step!(i, c, d, a, b, m14, 15, 0xab94_23a7);
        step!(i, b, c, d, a, m5, 21, 0xfc93_a039);
        step!(i, a, b, c, d, m12, 6, 0x655b_59c3);
        step!(i, d, a, b, c, m3, 10, 0x8f0c_cc92);
        step!(i, c, d, a, b, m10, 15, 0xffef_f47d);
        step!(i, b, c, d, a, m1, 21, 0x8584_5dd1);
        step!(i, a, b, c, d, m8, 6, 0x6fa8_7e4f);
        step!(i, d, a, b, c, m15, 10, 0xfe2c_e6e0);
        step!(i, c, d, a, b, m6, 15, 0xa301_4314);
        step!(i, b, c, d, a, m13, 21, 0x4e08_11a1);
        step!(i, a, b, c, d, m4, 6, 0xf753_7e82);
        step!(i, d, a, b, c, m11, 10, 0xbd3a_f235);
        step!(i, c, d, a, b, m2, 15, 0x2ad7_d2bb);
        step!(i, b, c, d, a, m9, 21, 0xeb86_d391);

    let [a0, b0, c0, d0] = state;
    [a0.wrapping_add(a), b0.wrapping_add(b), c0.wrapping_add(c), d0.wrapping_add(d)]
}

#[inline(always)]
const fn f(x: u32, y: u32, z: u32) -> u32 {
    (x & y) | (!x & z)
}

#[inline(always)]
const fn g(x: u32, y: u32, z: u32) -> u32 {
    (x & z) | (y & !z)
}

#[inline(always)]
const fn h(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

#[inline(always)]
const fn i(x: u32, y: u32, z: u32) -> u32 {
    y ^ (x | !z)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::String;
    use std::{format, vec};

    use ::md5::{Digest, Md5};
    use proptest::prelude::*;

    use super::*;

    fn hex(digest: [u8; 16]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 1321 appendix A.5, the whole test suite.
    #[test]
    fn the_rfc_test_suite() {
        let suite = [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            (
                "abcdefghijklmnopqrstuvwxyz",
                "c3fcd3d76192e4007dfb496cca67e13b",
            ),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                "d174ab98d277d9f5a5611c2c9f419d9f",
            ),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
        ];
        for (message, expected) in suite {
            assert_eq!(hex(digest(message.as_bytes())), expected, "{message:?}");
        }
        assert_eq!(hex(digest_short(b"")), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(
            hex(digest_short(b"message digest")),
            "f96b697d7cb7938d525a2f31aaf161d0"
        );
    }

    #[test]
    fn every_length_around_the_block_boundaries() {
        for length in 0..200 {
            let data = vec![0xa5; length];
            assert_eq!(
                digest(&data),
                <[u8; 16]>::from(Md5::digest(&data)),
                "length {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_md_5_crate(data in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(digest(&data), <[u8; 16]>::from(Md5::digest(&data)));
        }

        #[test]
        fn a_short_message_digests_the_same(flow: [u8; 6], point: [u8; 20], byte: u8) {
            let full = [byte; MAX_SHORT];
            prop_assert_eq!(digest_short(&flow), digest(&flow));
            prop_assert_eq!(digest_short(&point), digest(&point));
            prop_assert_eq!(digest_short(&full), digest(&full));
        }

        #[test]
        fn the_prefix_is_the_digests_first_half(data: [u8; 18]) {
            let digest = digest(&data);
            let prefix = Block::new(&data).digest_prefix().to_be_bytes();
            prop_assert_eq!(&digest[..8], &prefix[..]);
        }
    }
}
