//! The head of an HTTP/1.1 response, read byte by byte: as much of it as tells where the response ends.
//!
//! A request may be given to another node only when the response to the one before it is known to be complete. That is
//! known of responses with a `Content-Length`, and of those that have no body (RFC 9112 §6.3). Of all others, such as
//! chunked ones, those that end with the connection, interim ones (1xx) and whatever is malformed, it is not: their
//! connections stay where they are.

use crate::head::{Bytes, HEAD, eight, first};

mod at {
    pub(super) const VERSION: u32 = 0;
    /// Text that doesn't matter, up to the line's end.
    pub(super) const TEXT: u32 = 1;
    pub(super) const LINE: u32 = 2;
    pub(super) const LENGTH: u32 = 3;
    pub(super) const AFTER_LENGTH: u32 = 4;
    pub(super) const DONE: u32 = 5;
    pub(super) const ODD: u32 = 6;
}

const LOWER: u64 = 0x2020_2020_2020_2020;
const HTTP_1_1: u64 = u64::from_le_bytes(*b"HTTP/1.1");
const CONTENT: u64 = u64::from_le_bytes(*b"content-");
const LENGTH: u64 = u64::from_le_bytes(*b"length\0\0");
/// What the names of headers begin with that say that a response ends otherwise, or that something other than HTTP/1.1
/// follows.
const TRANSFER: u64 = u64::from_le_bytes(*b"transfer");
const UPGRADE: u64 = u64::from_le_bytes(*b"upgrade\0");

/// A longer body than this is not known to end: beyond it the numbers of segments could come round.
const MOST: u32 = 1 << 30;

/// A scan of a response's head.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseHead {
    at: u32,
    /// The next byte.
    pub next: u32,
    /// How many digits the length has so far.
    count: u32,
    status: u32,
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

    /// Reads up to eight bytes, or the beginning of a line; `false` when there is nothing more to read.
    #[inline(always)]
    pub fn step(&mut self, bytes: &Bytes) -> bool {
        let left = self.limit.wrapping_sub(self.next);
        if self.next >= self.limit {
            return false;
        }
        let mut word = eight(bytes, self.next);
        if left < 8 {
            // What is behind the data is not theirs.
            word &= (1 << (8 * left)) - 1;
        }
        let byte = word as u8;
        match self.at {
            at::TEXT => {
                let ahead = first(word, b'\n');
                self.next += ahead;
                if ahead < 8 {
                    self.next += 1;
                    self.at = at::LINE;
                }
            }
            at::LINE => self.line(word, bytes),
            at::VERSION => self.status_line(word, bytes),
            at::LENGTH => {
                self.next += 1;
                self.at = self.length(byte);
            }
            _ => {
                self.next += 1;
                self.at = match byte {
                    b'\n' => at::LINE,
                    b' ' | b'\t' | b'\r' => at::AFTER_LENGTH,
                    _ => at::ODD,
                };
            }
        }
        self.at < at::DONE
    }

    #[inline(always)]
    fn status_line(&mut self, word: u64, bytes: &Bytes) {
        let behind = eight(bytes, 8);
        let digits = [
            (behind >> 8) as u8,
            (behind >> 16) as u8,
            (behind >> 24) as u8,
        ];
        let mut i = 0;
        self.at = at::TEXT;
        while i < 3 {
            if !digits[i].is_ascii_digit() {
                self.at = at::ODD;
            }
            self.status = self.status * 10 + (digits[i] & 15) as u32;
            i += 1;
        }
        if word != HTTP_1_1 || behind as u8 != b' ' || self.limit < 12 {
            self.at = at::ODD;
        }
        self.next = 12;
    }

    /// The beginning of a line: the names of few headers matter.
    #[inline(always)]
    fn line(&mut self, word: u64, bytes: &Bytes) {
        let lower = word | LOWER;
        let byte = word as u8;
        if byte == b'\n' || word as u16 == u16::from_le_bytes(*b"\r\n") {
            self.next += if byte == b'\n' { 1 } else { 2 };
            self.at = at::DONE;
        } else if byte == b'\r' || byte == b' ' || byte == b'\t' {
            // Nothing that ends a head; a folded line.
            self.at = at::ODD;
        } else if lower == CONTENT && (word >> 56) as u8 == b'-' {
            self.next += 8;
            let name = eight(bytes, self.next);
            let is_length = (name | LOWER) & 0xffff_ffff_ffff == LENGTH;
            self.at = at::TEXT;
            if is_length && self.limit.wrapping_sub(self.next) > 7 {
                self.next += 7;
                self.lengths += 1;
                // A name that goes on isn't worth a second look.
                let ends = (name >> 48) as u8 == b':';
                self.at = if ends && self.lengths == 1 {
                    at::LENGTH
                } else {
                    at::ODD
                };
            }
        } else if lower == TRANSFER || lower & 0xff_ffff_ffff_ffff == UPGRADE {
            self.at = at::ODD;
        } else {
            self.at = at::TEXT;
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
    use crate::head::bytes;

    fn len(text: &str, no_body: bool) -> Option<u32> {
        scan(&bytes(text.as_bytes()), text.len()).len(no_body)
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
        for end in 0..head.len() {
            // Nor does it matter what is behind the data.
            let mut longer = ResponseHead::new(end as u32);
            while longer.step(&bytes(head.as_bytes())) {}
            assert_eq!(longer.len(false), None, "{end}");
        }
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
