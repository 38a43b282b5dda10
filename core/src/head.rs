//! The head of an HTTP/1 request, read byte by byte: as much of it as the filter decides by.
//!
//! Only *plain* heads are read: such that every parser reads in the same way. A head that is anything else, or does not
//! end in the bytes at hand, is left to the daemon's inspector, so the two cannot differ. Plain is:
//!
//! - a method of capital letters, one space, a target that begins with `/` and has no byte but letters, digits and
//!   ``-._~!$&'()*+,;=:@%/?``, one space, `HTTP/1.0` or `HTTP/1.1`, CR LF, and nothing before it;
//! - where a host is asked for: headers whose names are letters, digits, `-` and `_`, whose values are printable ASCII,
//!   spaces and tabs, each line ended by CR LF, not folded, at most [`MAX_HEADERS`]; and at most one `Host`, of letters,
//!   digits, `-` and `.`, with a port or without.
//!
//! Where later requests of the connection may go elsewhere, the whole head is read as well, and [`Head::is_alone`] says
//! whether the next request begins right behind it.
//!
//! The kernel's bounded loops call [`Head::step`], which reads a byte, or up to eight where they need no second look. The
//! kernel's verifier sees to it that nothing is indexed out of bounds: every index is masked.

mod kinds;
mod words;

use self::kinds::{KINDS, is};
pub(crate) use self::words::first;
pub use self::words::{Bytes, bytes, eight};
use self::words::{one, text};

/// How many bytes of a head are looked at: a power of two.
pub const HEAD: usize = 2048;

/// A head with more headers than this is not plain.
pub const MAX_HEADERS: u32 = 100;

/// Where a scan is.
mod at {
    pub(super) const METHOD: u32 = 0;
    pub(super) const SLASH: u32 = 1;
    pub(super) const PATH: u32 = 2;
    pub(super) const QUERY: u32 = 3;
    pub(super) const VERSION: u32 = 4;
    pub(super) const LINE_END: u32 = 5;
    pub(super) const LINE: u32 = 6;
    pub(super) const NAME: u32 = 7;
    pub(super) const BEFORE_VALUE: u32 = 8;
    pub(super) const VALUE: u32 = 9;
    pub(super) const HOST: u32 = 10;
    pub(super) const PORT: u32 = 11;
    pub(super) const AFTER_HOST: u32 = 12;
    pub(super) const VALUE_END: u32 = 13;
    pub(super) const LAST: u32 = 14;
    pub(super) const DONE: u32 = 15;
    pub(super) const ODD: u32 = 16;
}

/// Whose value a header's is.
mod value {
    pub(super) const ANY: u32 = 0;
    pub(super) const HOST: u32 = 1;
    pub(super) const CONNECTION: u32 = 2;
}

/// The name whose value is the host.
const HOST_NAME: u32 = u32::from_be_bytes(*b"host");

/// The method whose answers have no body.
const HEAD_METHOD: u32 = u32::from_be_bytes(*b"HEAD");

/// The next step of a name's fingerprint.
#[inline(always)]
const fn mix(print: u32, byte: u8) -> u32 {
    print.wrapping_mul(31).wrapping_add((byte | 0x20) as u32)
}

/// The fingerprint of a header's name, in lower case. A name that matters is never missed; one with the same fingerprint
/// is only taken for it.
const fn print(name: &[u8]) -> u32 {
    let mut print = 0;
    let mut i = 0;
    while i < name.len() {
        print = mix(print, name[i]);
        i += 1;
    }
    print
}

/// The names of headers after which something other than the next request may follow.
const FRAMING: [u32; 5] = [
    print(b"content-length"),
    print(b"transfer-encoding"),
    print(b"upgrade"),
    print(b"expect"),
    print(b"http2-settings"),
];

/// The name of the header that says whether the connection goes on.
const CONNECTION: u32 = print(b"connection");

/// "GET /".
const GET: u64 = u64::from_le_bytes(*b"GET /\0\0\0");

/// "HTTP/1.1".
const HTTP_1_1: u64 = u64::from_le_bytes(*b"HTTP/1.1");

/// CR LF.
const CR_LF: u64 = 0x0a0d;

/// A scan of a head. All positions are offsets into the data.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    at: u32,
    /// Whether the headers are to be read.
    with_host: u32,
    /// The next byte.
    pub next: u32,
    /// How many bytes there are.
    limit: u32,
    /// Where the target, path and query, begins.
    pub target: u32,
    /// Where the path ends.
    pub path_end: u32,
    /// Where the target ends.
    pub target_end: u32,
    /// Where the host begins; meaningful when it isn't empty.
    pub host: u32,
    /// Where the host ends, a dot at its end not counted.
    pub host_end: u32,
    /// The last four bytes: of the method or the version.
    last: u32,
    /// The fingerprint of a header's name.
    print: u32,
    /// Whether the next request may begin elsewhere than right behind the head, or there may be none.
    framed: u32,
    /// Whether the method is HEAD.
    no_body: u32,
    /// Whether the request line has been read.
    line: u32,
    /// Bytes since the beginning of the version or the name.
    count: u32,
    headers: u32,
    hosts: u32,
}

impl Head {
    /// A scan of `len` bytes that reads the request line, or, `with_host`, the whole head.
    #[inline(always)]
    #[must_use]
    pub fn new(with_host: bool, len: u32) -> Self {
        Self {
            with_host: with_host.into(),
            limit: len,
            ..Self::default()
        }
    }

    /// Whether all that was asked for has been read, and is plain.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.at == at::DONE
    }

    /// Whether the request line, at least, has been read and is plain.
    #[inline(always)]
    #[must_use]
    pub const fn has_line(&self) -> bool {
        self.line != 0
    }

    /// Whether a request of `len` bytes is this head and nothing else, so that the next request begins behind it, and the
    /// connection goes on. To be asked only of a whole head that is plain.
    #[inline(always)]
    #[must_use]
    pub const fn is_alone(&self, len: u32) -> bool {
        self.with_host != 0 && self.framed == 0 && self.next == len
    }

    /// Whether the answer to this request has no body, whatever its headers say.
    #[inline(always)]
    #[must_use]
    pub const fn asks_for_head(&self) -> bool {
        self.no_body != 0
    }

    /// Reads the next byte, or several at once; `false` when there is nothing more to read.
    #[inline(always)]
    pub fn step(&mut self, bytes: &Bytes) -> bool {
        if self.next >= self.limit {
            return false;
        }
        if self.next + 8 <= self.limit {
            let skimmed = self.skim(eight(bytes, self.next));
            if skimmed != 0 {
                self.next += skimmed;
                return true;
            }
        }
        let byte = one(bytes, self.next);
        let kind = KINDS[byte as usize];
        let here = self.next;
        self.next = here + 1;
        self.at = match self.at {
            at::METHOD => self.method(byte, kind),
            at::SLASH if byte == b'/' => {
                self.target = here;
                at::PATH
            }
            at::PATH | at::QUERY => self.in_target(byte, kind, here),
            at::VERSION => self.version(byte),
            at::LINE_END => self.line_end(byte),
            at::LINE => self.line(byte, kind),
            at::NAME => self.name(byte, kind),
            at::BEFORE_VALUE => self.before_value(byte, kind, here),
            at::VALUE => Self::value(byte, kind),
            at::HOST | at::PORT | at::AFTER_HOST => self.in_host(byte, kind, here),
            at::VALUE_END if byte == b'\n' => at::LINE,
            at::LAST if byte == b'\n' => at::DONE,
            _ => at::ODD,
        };
        self.at < at::DONE
    }

    /// Reads, of eight bytes, those that need no second look; says how many.
    #[inline(always)]
    fn skim(&mut self, word: u64) -> u32 {
        match self.at {
            at::VALUE => {
                let text = text(word);
                if text < 7 && (word >> (8 * text)) & 0xffff == CR_LF {
                    self.at = at::LINE;
                    return text + 2;
                }
                text
            }
            at::PATH | at::QUERY => {
                let mut n = 0;
                while n < 8 && KINDS[(word >> (8 * n)) as u8 as usize] & is::TARGET != 0 {
                    n += 1;
                }
                n
            }
            at::NAME => {
                let mut n = 0;
                while n < 8 && KINDS[(word >> (8 * n)) as u8 as usize] & is::NAME != 0 {
                    self.in_name((word >> (8 * n)) as u8);
                    n += 1;
                }
                n
            }
            at::METHOD if self.next == 0 && word & 0xff_ffff_ffff == GET => {
                self.target = 4;
                self.at = at::PATH;
                5
            }
            at::VERSION if self.count == 0 && word == HTTP_1_1 => {
                self.count = 8;
                self.at = at::LINE_END;
                8
            }
            _ => 0,
        }
    }

    #[inline(always)]
    fn in_name(&mut self, byte: u8) {
        self.print = mix(self.print, byte);
        self.last = self.last << 8 | (byte | 0x20) as u32;
        self.count += 1;
    }

    #[inline(always)]
    fn method(&mut self, byte: u8, kind: u8) -> u32 {
        if kind & is::CAPITAL != 0 {
            self.last = self.last << 8 | byte as u32;
            self.count += 1;
            at::METHOD
        } else if byte == b' ' && self.count != 0 {
            self.no_body = (self.count == 4 && self.last == HEAD_METHOD).into();
            at::SLASH
        } else {
            at::ODD
        }
    }

    #[inline(always)]
    fn in_target(&mut self, byte: u8, kind: u8, here: u32) -> u32 {
        if kind & is::TARGET != 0 {
            return self.at;
        }
        if byte == b'?' {
            if self.at == at::PATH {
                self.path_end = here;
            }
            return at::QUERY;
        }
        if byte != b' ' {
            return at::ODD;
        }
        if self.at == at::PATH {
            self.path_end = here;
        }
        self.target_end = here;
        self.count = 0;
        at::VERSION
    }

    #[inline(always)]
    fn version(&mut self, byte: u8) -> u32 {
        const HTTP: u32 = u32::from_be_bytes(*b"HTTP");
        const V1: [u32; 2] = [u32::from_be_bytes(*b"/1.0"), u32::from_be_bytes(*b"/1.1")];
        self.last = self.last << 8 | byte as u32;
        self.count += 1;
        match self.count {
            4 if self.last != HTTP => at::ODD,
            8 if self.last == V1[0] || self.last == V1[1] => {
                // What follows an old request is a matter of more than its framing.
                self.framed = (self.last == V1[0]).into();
                at::LINE_END
            }
            8 => at::ODD,
            _ => at::VERSION,
        }
    }

    /// The CR after the version, and the LF that ends the request line.
    #[inline(always)]
    fn line_end(&mut self, byte: u8) -> u32 {
        match (byte, self.count) {
            (b'\r', 8) => {
                self.count = 9;
                at::LINE_END
            }
            (b'\n', 9) => {
                self.line = 1;
                if self.with_host == 0 {
                    at::DONE
                } else {
                    at::LINE
                }
            }
            _ => at::ODD,
        }
    }

    /// The first byte of a line.
    #[inline(always)]
    fn line(&mut self, byte: u8, kind: u8) -> u32 {
        if byte == b'\r' {
            return at::LAST;
        }
        self.headers += 1;
        if kind & is::NAME == 0 || self.headers > MAX_HEADERS {
            return at::ODD;
        }
        self.print = mix(0, byte);
        self.last = (byte | 0x20) as u32;
        self.count = 1;
        at::NAME
    }

    #[inline(always)]
    fn name(&mut self, byte: u8, kind: u8) -> u32 {
        if byte == b':' {
            let is_host = self.count == 4 && self.last == HOST_NAME;
            let mut i = 0;
            while i < FRAMING.len() {
                if FRAMING[i] == self.print {
                    self.framed = 1;
                }
                i += 1;
            }
            if is_host {
                self.hosts += 1;
            }
            // From here on: whose value it is.
            self.count = if is_host {
                value::HOST
            } else if self.print == CONNECTION {
                value::CONNECTION
            } else {
                value::ANY
            };
            return if self.hosts > 1 {
                at::ODD
            } else {
                at::BEFORE_VALUE
            };
        }
        self.in_name(byte);
        if kind & is::NAME == 0 {
            at::ODD
        } else {
            at::NAME
        }
    }

    #[inline(always)]
    fn before_value(&mut self, byte: u8, kind: u8, here: u32) -> u32 {
        if byte == b' ' || byte == b'\t' {
            return at::BEFORE_VALUE;
        }
        if self.count == value::CONNECTION && byte | 0x20 != b'k' {
            // Not "keep-alive".
            self.framed = 1;
        }
        if self.count != value::HOST {
            return Self::value(byte, kind);
        }
        self.host = here;
        self.host_end = here;
        self.at = at::HOST;
        self.in_host(byte, kind, here)
    }

    #[inline(always)]
    fn value(byte: u8, kind: u8) -> u32 {
        if byte == b'\r' {
            at::VALUE_END
        } else if kind & is::VALUE != 0 {
            at::VALUE
        } else {
            at::ODD
        }
    }

    #[inline(always)]
    fn in_host(&mut self, byte: u8, kind: u8, here: u32) -> u32 {
        match byte {
            b'\r' => at::VALUE_END,
            b' ' | b'\t' => at::AFTER_HOST,
            b':' if self.at == at::HOST => at::PORT,
            _ if self.at == at::PORT && kind & is::DIGIT != 0 => at::PORT,
            _ if self.at == at::HOST && kind & is::HOST != 0 => {
                if byte != b'.' {
                    self.host_end = here + 1;
                } else if here != self.host_end {
                    // One dot that ends a name is no part of it; the second one is.
                    return at::ODD;
                }
                at::HOST
            }
            _ => at::ODD,
        }
    }
}

/// Reads a head in one go.
#[must_use]
pub fn scan(bytes: &Bytes, len: usize, with_host: bool) -> Head {
    let mut head = Head::new(with_host, len.min(HEAD) as u32);
    while head.step(bytes) {}
    head
}

#[cfg(test)]
mod tests;
