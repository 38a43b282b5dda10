//! The head of an HTTP/1.1 response, read byte by byte: as much of it as tells where the response ends.
//!
//! A request may be given to another node only when the response to the one before it is known to be complete. That is
//! known of responses with a `Content-Length`, and of those that have no body (RFC 9112 §6.3). Of all others, such as
//! chunked ones, those that end with the connection, interim ones (1xx) and whatever is malformed, it is not: their
//! connections stay where they are.

use crate::head::{Bytes, HEAD, eight, first, mix, print};

mod at {
    pub(super) const VERSION: u32 = 0;
    pub(super) const STATUS: u32 = 1;
    pub(super) const REASON: u32 = 2;
    pub(super) const LINE: u32 = 3;
    pub(super) const NAME: u32 = 4;
    pub(super) const VALUE: u32 = 5;
    pub(super) const LENGTH: u32 = 6;
    pub(super) const AFTER_LENGTH: u32 = 7;
    pub(super) const LAST: u32 = 8;
    pub(super) const DONE: u32 = 9;
    pub(super) const ODD: u32 = 10;
}

const LENGTH_NAME: [u8; 14] = *b"content-length";
const CONTENT_LENGTH: u32 = print(&LENGTH_NAME);
/// Headers that say that a response ends otherwise, or that something other than HTTP/1.1 follows.
const OTHERWISE: [u32; 2] = [print(b"transfer-encoding"), print(b"upgrade")];

/// "HTTP/1.1 ".
const VERSION: u64 = u64::from_be_bytes(*b"TTP/1.1 ");

/// A longer body than this is not known to end: beyond it the numbers of segments could come round.
const MOST: u32 = 1 << 30;

/// A scan of a response's head.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseHead {
    last: u64,
    at: u32,
    /// The next byte.
    pub next: u32,
    /// Bytes since the beginning of a part; of the length, its digits.
    count: u32,
    status: u32,
    print: u32,
    length: u32,
    /// How many lengths there are.
    lengths: u32,
    /// How many bytes there are.
    limit: u32,
}

impl ResponseHead {
    /// A scan of `len` bytes.
    #[inline(always)]
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self {
            limit: len,
            ..Self::default()
        }
    }

    /// Reads the next byte, or several at once; `false` when there is nothing more to read.
    #[inline(always)]
    pub fn step(&mut self, bytes: &Bytes) -> bool {
        if self.next >= self.limit {
            return false;
        }
        let skips = self.at == at::VALUE || self.at == at::REASON;
        if skips && self.next + 8 <= self.limit {
            let ahead = first(eight(bytes, self.next), b'\n');
            self.next += ahead;
            if ahead < 8 {
                self.next += 1;
                self.at = at::LINE;
            }
            return true;
        }
        let byte = bytes[(self.next as usize) & (HEAD - 1)];
        self.next += 1;
        self.at = match (self.at, byte) {
            (at::VALUE | at::REASON | at::AFTER_LENGTH, b'\n') => at::LINE,
            (at::VALUE | at::REASON, _) => self.at,
            (at::VERSION, _) => self.version(byte),
            (at::STATUS, _) => self.status(byte),
            (at::LINE, b'\r') => at::LAST,
            (at::LINE, b'\n') => at::DONE,
            // A folded line.
            (at::LINE, b' ' | b'\t') => at::ODD,
            // No other name says anything here.
            (at::LINE, b'C' | b'c' | b'T' | b't' | b'U' | b'u') => {
                self.print = mix(0, byte);
                at::NAME
            }
            (at::LINE, _) => at::VALUE,
            (at::NAME, b':') => self.named(bytes),
            (at::NAME, b'\r' | b'\n' | b' ' | b'\t') => at::ODD,
            (at::NAME, _) => {
                self.print = mix(self.print, byte);
                at::NAME
            }
            (at::LENGTH, _) => self.length(byte),
            (at::AFTER_LENGTH, b' ' | b'\t' | b'\r') => at::AFTER_LENGTH,
            (at::LAST, b'\n') => at::DONE,
            _ => at::ODD,
        };
        self.at < at::DONE
    }

    #[inline(always)]
    fn version(&mut self, byte: u8) -> u32 {
        self.last = self.last << 8 | byte as u64;
        self.count += 1;
        match self.count {
            9 if self.last == VERSION => {
                self.count = 0;
                at::STATUS
            }
            9 => at::ODD,
            _ => at::VERSION,
        }
    }

    #[inline(always)]
    fn status(&mut self, byte: u8) -> u32 {
        if !byte.is_ascii_digit() {
            return at::ODD;
        }
        self.status = self.status * 10 + (byte - b'0') as u32;
        self.count += 1;
        if self.count == 3 {
            at::REASON
        } else {
            at::STATUS
        }
    }

    #[inline(always)]
    fn named(&mut self, bytes: &Bytes) -> u32 {
        if self.print == OTHERWISE[0] || self.print == OTHERWISE[1] {
            return at::ODD;
        }
        if self.print != CONTENT_LENGTH {
            return at::VALUE;
        }
        // Another name with the same fingerprint must not be taken for it.
        let mut i = 0;
        while i < LENGTH_NAME.len() {
            let at = self.next.wrapping_sub(15).wrapping_add(i as u32) as usize & (HEAD - 1);
            if bytes[at] | 0x20 != LENGTH_NAME[i] {
                return at::ODD;
            }
            i += 1;
        }
        self.lengths += 1;
        self.count = 0;
        if self.lengths > 1 {
            at::ODD
        } else {
            at::LENGTH
        }
    }

    #[inline(always)]
    fn length(&mut self, byte: u8) -> u32 {
        match byte {
            b' ' | b'\t' if self.count == 0 => at::LENGTH,
            b'0'..=b'9' if self.length <= MOST / 10 => {
                self.length = self.length * 10 + (byte - b'0') as u32;
                self.count += 1;
                at::LENGTH
            }
            b' ' | b'\t' | b'\r' if self.count != 0 => at::AFTER_LENGTH,
            b'\n' if self.count != 0 => at::LINE,
            _ => at::ODD,
        }
    }

    /// How many bytes the response has, head included; `None` when that is not known. `no_body`: the request was one for
    /// the head only.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self, no_body: bool) -> Option<u32> {
        if self.at != at::DONE || self.status < 200 {
            return None;
        }
        if no_body || self.status == 204 || self.status == 304 {
            return Some(self.next);
        }
        if self.lengths == 1 {
            Some(self.next + self.length)
        } else {
            None
        }
    }
}

/// Reads a head in one go.
#[must_use]
pub fn scan(bytes: &Bytes, len: usize) -> ResponseHead {
    let mut head = ResponseHead::new(len.min(HEAD) as u32);
    while head.step(bytes) {}
    head
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn len(text: &str, no_body: bool) -> Option<u32> {
        let mut bytes = [0; HEAD + 8];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        scan(&bytes, text.len()).len(no_body)
    }

    #[test]
    fn a_length_tells_the_end() {
        let head = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 1024\r\nA: b\r\n\r\n";
        let own = head.len() as u32;
        assert_eq!(len(head, false), Some(own + 1024));
        assert_eq!(len(head, true), Some(own));
        assert_eq!(
            len(&std::format!("{head}and a body"), false),
            Some(own + 1024)
        );
        assert_eq!(len(&head[..head.len() - 1], false), None);
        let bare = "HTTP/1.1 404 \nCONTENT-LENGTH:7\n\n";
        assert_eq!(len(bare, false), Some(bare.len() as u32 + 7));
    }

    #[test]
    fn some_have_no_body() {
        for status in ["204 No Content", "304 Not Modified"] {
            let head = std::format!("HTTP/1.1 {status}\r\nETag: \"1\"\r\n\r\n");
            assert_eq!(len(&head, false), Some(head.len() as u32), "{status}");
        }
    }

    #[test]
    fn the_end_of_others_is_not_known() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
            "HTTP/1.1 20x OK\r\nContent-Length: 1\r\n\r\n",
            "ICY 200 OK\r\nContent-Length: 1\r\n\r\n",
        ] {
            assert_eq!(len(head, false), None, "{head:?}");
        }
    }
}
