//! One TCP segment as the filter sees it, and its options.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          source port          |       destination port        |
//! +-------------------------------+-------------------------------+
//! |                        sequence number                        |
//! +---------------------------------------------------------------+
//! |                    acknowledgment number                      |
//! +-------+-----+-+-+-+-+-+-+-+-+-+-------------------------------+
//! | offset| res |A|C|E|U|A|P|R|S|F|            window             |
//! +-------+-----+-+-+-+-+-+-+-+-+-+-------------------------------+
//! |           checksum            |        urgent pointer         |
//! +-------------------------------+-------------------------------+
//! ```
//!
//! (RFC 9293 §3.1.) All fields of [`TcpHeader`] are in host byte order.

use crate::seq::Seq;

/// The length of a TCP header without options, in bytes.
pub const TCP_HEADER: usize = 20;
/// The fixed part of a TCP header as it is on the wire, in 32-bit words: a word's first byte in memory is its
/// first on the wire. eBPF reads and writes words where it would have to move single bytes otherwise.
pub type HeaderWords = [u32; TCP_HEADER / 4];
/// The most bytes of options that a TCP header can have.
pub const MAX_OPTIONS: usize = 40;

/// FIN: no more data from the sender.
pub const FIN: u8 = 0x01;
/// SYN: synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// RST: reset the connection.
pub const RST: u8 = 0x04;
/// URG: the urgent pointer is significant.
pub const URG: u8 = 0x20;
/// ACK: the acknowledgment field is significant.
pub const ACK: u8 = 0x10;
/// ECE: ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// CWR: congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// The reserved bit by which the inspecting node marks a handover segment whose acknowledgment field
/// carries the end of the request: bit 1 of the header's thirteenth byte.
pub const REQUEST_END_BIT: u8 = 0x02;

/// The fixed part of a TCP header, with the length of what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgment number; meaningful with [`ACK`] only, and in a handover SYN.
    pub ack: Seq,
    /// The header's length in bytes, 20 to 60.
    pub header_len: u8,
    /// The four bits after the data offset.
    pub reserved: u8,
    /// [`FIN`], [`SYN`], [`RST`], [`ACK`] and the others.
    pub flags: u8,
    /// The window field as it is on the wire: not scaled.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Bytes of data after the header.
    pub payload: u32,
}

impl TcpHeader {
    /// Reads the words of a header; `None` when the data offset is below five words.
    ///
    /// `payload` is left 0: the length is in the IP header.
    #[inline(always)]
    #[must_use]
    pub const fn parse_words(w: &HeaderWords) -> Option<Self> {
        let [ports, seq, ack, control, last] = *w;
        let (ports, control) = (u32::from_be(ports), u32::from_be(control));
        let header_len = (control >> 28) as u8 * 4;
        if header_len < TCP_HEADER as u8 {
            return None;
        }
        Some(Self {
            source: (ports >> 16) as u16,
            destination: ports as u16,
            seq: Seq(u32::from_be(seq)),
            ack: Seq(u32::from_be(ack)),
            header_len,
            reserved: (control >> 24) as u8 & 0x0f,
            flags: (control >> 16) as u8,
            window: control as u16,
            urgent: u32::from_be(last) as u16,
            payload: 0,
        })
    }

    /// Writes the header back; the checksum, in the last word, is left as it is.
    #[inline(always)]
    pub const fn emit_words(&self, w: &mut HeaderWords) {
        let offset = (self.header_len / 4) << 4 | self.reserved & 0x0f;
        let control = (offset as u32) << 24 | (self.flags as u32) << 16 | self.window as u32;
        w[0] = ((self.source as u32) << 16 | self.destination as u32).to_be();
        w[1] = self.seq.0.to_be();
        w[2] = self.ack.0.to_be();
        w[3] = control.to_be();
        w[4] = (u32::from_be(w[4]) & 0xffff_0000 | self.urgent as u32).to_be();
    }

    /// Reads the twenty bytes of a header, as [`parse_words`](Self::parse_words) does.
    #[must_use]
    pub fn parse(b: &[u8; TCP_HEADER]) -> Option<Self> {
        Self::parse_words(&words(b))
    }

    /// Writes the header back; the checksum in bytes 16 and 17 is left as it is.
    pub fn emit(&self, b: &mut [u8; TCP_HEADER]) {
        let mut w = words(b);
        self.emit_words(&mut w);
        for (bytes, word) in b.chunks_exact_mut(4).zip(w) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// Addresses a client's segment to the inspector's port.
    ///
    /// Urgent data becomes data like any other: a socket does not hand it out with the rest, so that bytes would be missing
    /// from the request that is handed over.
    #[inline(always)]
    pub const fn to_inspector(&mut self, port: u16) {
        self.destination = port;
        self.flags &= !URG;
        self.urgent = 0;
    }

    /// Whether every flag of `flags` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// A SYN that opens a connection (not a SYN-ACK).
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }

    /// An acknowledgment and nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn is_bare_ack(&self) -> bool {
        self.payload == 0 && self.flags & (SYN | FIN | RST | ACK) == ACK
    }

    /// Whether the segment has data, or its sender's end.
    #[inline(always)]
    #[must_use]
    pub const fn carries(&self) -> bool {
        self.payload != 0 || self.flags & FIN != 0
    }

    /// The sequence number after this segment: data, SYN and FIN counted (RFC 9293 §3.4).
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> Seq {
        let syn = (self.flags & SYN != 0) as u32;
        let fin = (self.flags & FIN != 0) as u32;
        self.seq.plus(self.payload).plus(syn + fin)
    }
}

/// A header's bytes as words.
fn words(b: &[u8; TCP_HEADER]) -> HeaderWords {
    let mut words = [0; TCP_HEADER / 4];
    for (word, bytes) in words.iter_mut().zip(b.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// The bytes of a header's options, padded with zeros (end of options).
///
/// Longer than any header's options, and a power of two, so that a masked index is always inside.
pub type OptionBytes = [u8; 64];

/// Option kinds (RFC 9293 §3.1, RFC 7323, RFC 2018, RFC 4727).
pub mod kind {
    /// End of the option list.
    pub const END: u8 = 0;
    /// One byte of padding.
    pub const NOP: u8 = 1;
    /// Maximum segment size, 4 bytes.
    pub const MSS: u8 = 2;
    /// Window scale, 3 bytes.
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgment permitted, 2 bytes.
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgment blocks, 2 + 8 n bytes.
    pub const SACK: u8 = 5;
    /// Timestamps, 10 bytes.
    pub const TIMESTAMPS: u8 = 8;
    /// Experiment 1: the DTS option.
    pub const DTS: u8 = 253;
}

/// Where the options that DTS cares about stand in a header, found one option at a time.
///
/// One [`step`](Self::step) reads one option, so that the kernel's bounded loops can call it as well as
/// [`scan`]. Positions are offsets of an option's data into the options; 0 means absent (data never
/// stands at 0).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionScan {
    /// The options.
    pub bytes: OptionBytes,
    /// How many bytes of options the header has, at most [`MAX_OPTIONS`].
    pub len: u32,
    /// The offset of the next option.
    pub next: u32,
    /// The offset of the timestamps' eight bytes.
    pub timestamps: u32,
    /// The offset of the first SACK block.
    pub sack: u32,
    /// How many 4-byte edges the SACK option has, 0 to 8.
    pub sack_edges: u32,
    /// The maximum segment size, 0 when absent.
    pub mss: u32,
    /// The window scale plus [`SCALE_PRESENT`], 0 when absent.
    pub scale: u32,
    /// 1 when SACK is permitted.
    pub sack_permitted: u32,
}

/// Set in [`OptionScan::scale`] when the option is there: a shift of 0 is a valid value.
pub const SCALE_PRESENT: u32 = 0x80;

impl OptionScan {
    /// A scan over the first `len` of `bytes`.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: OptionBytes, len: u32) -> Self {
        Self {
            bytes,
            len,
            next: 0,
            timestamps: 0,
            sack: 0,
            sack_edges: 0,
            mss: 0,
            scale: 0,
            sack_permitted: 0,
        }
    }

    #[inline(always)]
    fn at(&self, i: u32) -> u8 {
        self.bytes[(i & 63) as usize]
    }

    /// Reads all options where they stand as in nearly every segment of Linux's: timestamps alone, or what its SYNs
    /// and SYN-ACKs have. Elsewhere it returns `false` and has read none.
    #[inline(always)]
    pub fn usual(&mut self) -> bool {
        let b = &self.bytes;
        let timestamps = [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10];
        if self.len == 12 && [b[0], b[1], b[2], b[3]] == timestamps {
            self.timestamps = 4;
            self.next = 12;
            return true;
        }
        let is_syn = self.len == 20
            && [b[0], b[1], b[4], b[5]] == [kind::MSS, 4, kind::SACK_PERMITTED, 2]
            && [b[6], b[7]] == [kind::TIMESTAMPS, 10]
            && [b[16], b[17], b[18]] == [kind::NOP, kind::WINDOW_SCALE, 3];
        if is_syn {
            self.mss = (b[2] as u32) << 8 | b[3] as u32;
            self.sack_permitted = 1;
            self.timestamps = 8;
            self.scale = present(b[19]);
            self.next = 20;
        }
        is_syn
    }

    /// Reads the next option. `false` at the end of the list or at the first malformed option.
    #[inline(always)]
    pub fn step(&mut self) -> bool {
        let i = self.next;
        if i >= self.len || i >= MAX_OPTIONS as u32 {
            return false;
        }
        match self.at(i) {
            kind::END => return false,
            kind::NOP => {
                self.next = i + 1;
                return true;
            }
            _ => {}
        }
        let len = self.at(i + 1) as u32;
        if len < 2 || i + len > self.len {
            return false;
        }
        match (self.at(i), len) {
            (kind::TIMESTAMPS, 10) => self.timestamps = i + 2,
            (kind::SACK, 10 | 18 | 26 | 34) => {
                self.sack = i + 2;
                self.sack_edges = (len - 2) / 4;
            }
            (kind::MSS, 4) => self.mss = (self.at(i + 2) as u32) << 8 | self.at(i + 3) as u32,
            (kind::WINDOW_SCALE, 3) => self.scale = present(self.at(i + 2)),
            (kind::SACK_PERMITTED, 2) => self.sack_permitted = 1,
            _ => {}
        }
        self.next = i + len;
        true
    }

    /// The timestamps `(value, echo reply)`, when there are any.
    #[inline(always)]
    #[must_use]
    pub fn timestamp_pair(&self) -> Option<(u32, u32)> {
        if self.timestamps == 0 {
            return None;
        }
        Some((
            read32(&self.bytes, self.timestamps),
            read32(&self.bytes, self.timestamps + 4),
        ))
    }
}

/// A window scale as [`OptionScan::scale`] has it. RFC 7323 §2.3: a larger shift is taken as 14.
#[inline(always)]
const fn present(shift: u8) -> u32 {
    SCALE_PRESENT | if shift > 14 { 14 } else { shift as u32 }
}

/// Reads all options of a header.
#[must_use]
pub fn scan(bytes: OptionBytes, len: u32) -> OptionScan {
    let mut scan = OptionScan::new(bytes, len);
    while scan.step() {}
    scan
}

/// The 32-bit number at offset `i`, network byte order. The index is masked: it cannot panic.
#[inline(always)]
#[must_use]
pub fn read32(b: &OptionBytes, i: u32) -> u32 {
    let at = |k: u32| b[((i + k) & 63) as usize];
    u32::from_be_bytes([at(0), at(1), at(2), at(3)])
}

/// Writes a 32-bit number at offset `i`, network byte order. The index is masked: it cannot panic.
#[inline(always)]
pub fn write32(b: &mut OptionBytes, i: u32, value: u32) {
    let v = value.to_be_bytes();
    b[(i & 63) as usize] = v[0];
    b[((i + 1) & 63) as usize] = v[1];
    b[((i + 2) & 63) as usize] = v[2];
    b[((i + 3) & 63) as usize] = v[3];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(b: &[u8]) -> OptionScan {
        let mut bytes = [0; 64];
        bytes[..b.len()].copy_from_slice(b);
        scan(bytes, b.len() as u32)
    }

    #[test]
    fn a_linux_syn() {
        let o = options(&[
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
        ]);
        assert_eq!(
            (o.mss, o.sack_permitted, o.scale),
            (1460, 1, SCALE_PRESENT | 7)
        );
        assert_eq!(o.timestamp_pair(), Some((9, 0)));
    }

    #[test]
    fn sack_blocks_and_timestamps_at_odd_offsets() {
        let o = options(&[
            1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 5, 10, 0, 0, 0, 3, 0, 0, 0, 4,
        ]);
        assert_eq!(o.timestamp_pair(), Some((1, 2)));
        assert_eq!((o.sack, o.sack_edges), (13, 2));
    }

    #[test]
    fn an_option_beyond_the_end_stops_the_scan() {
        let o = options(&[8, 10, 0, 0]);
        assert_eq!(o.timestamp_pair(), None);
        let o = options(&[2, 0, 8, 10]);
        assert_eq!((o.mss, o.timestamps), (0, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_end_the_scan_inside_the_options(b in prop::collection::vec(any::<u8>(), 0..=40)) {
            let o = options(&b);
            prop_assert!(o.next <= b.len() as u32);
            if o.timestamps != 0 { prop_assert!(o.timestamps as usize + 8 <= b.len()); }
            if o.sack != 0 { prop_assert!((o.sack + 4 * o.sack_edges) as usize <= b.len()); }
        }

        /// The short way reads what the long way reads, or nothing.
        #[test]
        fn usual_options_are_read_as_any_others(
            syn: bool, values: [u8; 20], odd in prop::option::of((0usize..20, any::<u8>())),
        ) {
            const TIMESTAMPS: [u8; 4] = [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10];
            let mut bytes = [0; 64];
            bytes[..20].copy_from_slice(&values);
            let len: u32 = if syn {
                bytes[..2].copy_from_slice(&[kind::MSS, 4]);
                bytes[4..8].copy_from_slice(&[kind::SACK_PERMITTED, 2, kind::TIMESTAMPS, 10]);
                bytes[16..19].copy_from_slice(&[kind::NOP, kind::WINDOW_SCALE, 3]);
                20
            } else {
                bytes[..4].copy_from_slice(&TIMESTAMPS);
                12
            };
            if let Some((at, value)) = odd {
                bytes[at] = value;
            }
            let fresh = OptionScan::new(bytes, len);
            let mut usual = fresh;
            let expected = if usual.usual() { scan(bytes, len) } else { fresh };
            prop_assert_eq!(usual, expected);
            prop_assert!(odd.is_some() || usual != fresh, "the layout itself is usual");
        }

        #[test]
        fn to_the_inspector_nothing_is_urgent(b: [u8; 20], port: u16) {
            if let Some(header) = TcpHeader::parse(&b) {
                let mut changed = header;
                changed.to_inspector(port);
                let flags = header.flags & !URG;
                let expected = TcpHeader { destination: port, flags, urgent: 0, ..header };
                prop_assert_eq!(changed, expected);
            }
        }

        #[test]
        fn a_header_survives_parse_and_emit(b: [u8; 20]) {
            if let Some(header) = TcpHeader::parse(&b) {
                let mut out = b;
                header.emit(&mut out);
                prop_assert_eq!(b, out);
            }
        }
    }
}
