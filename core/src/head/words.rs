//! A segment's data in words, and questions about eight bytes at once.

use super::HEAD;

/// A segment's data, as it stands in memory, in words: reading eight bytes at any place takes two of them. Longer than
/// [`HEAD`], so that such a read is always inside.
pub type Bytes = [u64; HEAD / 8 + 1];

/// Data for [`scan`](super::scan) and its like: what is beyond [`HEAD`] is left out.
#[must_use]
pub fn bytes(data: &[u8]) -> Bytes {
    let mut bytes = [0; HEAD / 8 + 1];
    for (word, eight) in bytes.iter_mut().zip(data.chunks(8)).take(HEAD / 8) {
        let mut whole = [0; 8];
        whole[..eight.len()].copy_from_slice(eight);
        *word = u64::from_ne_bytes(whole);
    }
    bytes
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Eight bytes from a place on, the first one lowest. The index is masked: it cannot panic.
#[inline(always)]
#[must_use]
pub const fn eight(bytes: &Bytes, at: u32) -> u64 {
    let word = (at as usize & (HEAD - 1)) / 8;
    let shift = at % 8 * 8;
    // Twice, because a shift by 64 is none.
    u64::from_le(bytes[word]) >> shift | u64::from_le(bytes[word + 1]) << 1 << (63 - shift)
}

/// One byte. The index is masked: it cannot panic.
#[inline(always)]
pub(crate) const fn one(bytes: &Bytes, at: u32) -> u8 {
    (u64::from_le(bytes[(at as usize & (HEAD - 1)) / 8]) >> (at % 8 * 8)) as u8
}

/// A mark in each of the eight bytes that is below `n`, which is 128 at the most. There may be more marks behind the first
/// one without reason, but never before it.
#[inline(always)]
const fn below(word: u64, n: u8) -> u64 {
    word.wrapping_sub(ONES * n as u64) & !word & HIGH
}

/// A mark in each of the eight bytes that is `byte`, as [`below`] makes them.
#[inline(always)]
const fn same(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * byte as u64), 1)
}

/// Which byte has the first mark: 0 to 7; 8 when none has.
#[inline(always)]
const fn first_mark(mut marks: u64) -> u32 {
    if marks == 0 {
        return 8;
    }
    // By halves: eBPF has no instruction that counts zeros.
    let mut at = 0;
    if marks as u32 == 0 {
        at += 4;
        marks >>= 32;
    }
    if marks as u16 == 0 {
        at += 2;
        marks >>= 16;
    }
    if marks as u8 == 0 {
        at += 1;
    }
    at
}

/// Which of the eight bytes is the first that is `byte`: 0 to 7; 8 when none is.
#[inline(always)]
pub(crate) const fn first(word: u64, byte: u8) -> u32 {
    first_mark(same(word, byte))
}

/// How many of the eight bytes are printable ASCII or spaces, up to the first that isn't.
#[inline(always)]
pub(super) const fn text(word: u64) -> u32 {
    first_mark(word & HIGH | below(word, b' ') | same(word, 0x7f))
}
