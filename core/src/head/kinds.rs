//! What each byte can be in a plain head.

/// Kinds of bytes.
pub(super) mod is {
    /// A capital letter.
    pub(in super::super) const CAPITAL: u8 = 1;
    /// In a target's path or query.
    pub(in super::super) const TARGET: u8 = 2;
    /// In a header's name.
    pub(in super::super) const NAME: u8 = 4;
    /// In a header's value.
    pub(in super::super) const VALUE: u8 = 8;
    /// In a host's name.
    pub(in super::super) const HOST: u8 = 16;
    /// A digit.
    pub(in super::super) const DIGIT: u8 = 32;
}

/// What each byte is.
pub(super) static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        let mut kind = 0;
        if b.is_ascii_uppercase() {
            kind |= is::CAPITAL;
        }
        if b.is_ascii_alphanumeric() || among(b, b"-._~!$&'()*+,;=:@%/") {
            kind |= is::TARGET;
        }
        if b.is_ascii_alphanumeric() || b == b'-' || b == b'_' {
            kind |= is::NAME;
        }
        if b.is_ascii_graphic() || b == b' ' || b == b'\t' {
            kind |= is::VALUE;
        }
        if b.is_ascii_alphanumeric() || b == b'-' || b == b'.' {
            kind |= is::HOST;
        }
        if b.is_ascii_digit() {
            kind |= is::DIGIT;
        }
        kinds[i] = kind;
        i += 1;
    }
    kinds
}

const fn among(b: u8, set: &[u8]) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == b {
            return true;
        }
        i += 1;
    }
    false
}
