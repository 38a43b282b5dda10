//! Frames, written from the headers' definitions; checksums are etherparse's.
//!
//! Addresses are names, as [`crate::world`] says: a frame is of the family of those that they stand for.

use dts_core::addr::Addr;
use etherparse::checksum::Sum16BitWords;

use crate::world::{World, addr};

pub(crate) const ETH: usize = 14;

/// Link-layer addresses.
pub(crate) type Mac = [u8; 6];

/// A TCP segment in an Ethernet frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tcp {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) src: ([u8; 4], u16),
    pub(crate) dst: ([u8; 4], u16),
    /// A multiple of four bytes. IPv6 has the first sixteen, where there are so many, in a header of their own.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// The four bits after the data offset.
    pub(crate) reserved: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Tcp {
    /// The frame's bytes.
    pub(crate) fn frame(&self) -> Vec<u8> {
        assert_eq!((self.ip_options.len() % 4, self.options.len() % 4), (0, 0));
        let mut tcp = Vec::new();
        tcp.extend(self.src.1.to_be_bytes());
        tcp.extend(self.dst.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push((((20 + self.options.len()) / 4) << 4) as u8 | self.reserved);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 2]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let sum = transport_sum(addr(self.src.0), addr(self.dst.0), 6, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_ne_bytes());
        Ip {
            to: self.to,
            from: self.from,
            src: self.src.0,
            dst: self.dst.0,
            options: self.ip_options.clone(),
            protocol: 6,
            fragment: 0x4000,
            payload: tcp,
        }
        .frame()
    }

    /// The segment that goes the other way.
    pub(crate) fn reversed(&self) -> Self {
        Self {
            to: self.from,
            from: self.to,
            src: self.dst,
            dst: self.src,
            ..self.clone()
        }
    }
}

/// Any IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) options: Vec<u8>,
    pub(crate) protocol: u8,
    /// Flags and fragment offset, of IPv4 only.
    pub(crate) fragment: u16,
    pub(crate) payload: Vec<u8>,
}

impl Ip {
    /// The frame's bytes.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        let v6 = !addr(self.src).is_v4();
        let kind: u16 = if v6 { 0x86dd } else { 0x0800 };
        frame.extend(kind.to_be_bytes());
        frame.extend(if v6 { self.v6_packet() } else { self.packet() });
        frame
    }

    /// The packet without its Ethernet header.
    pub(crate) fn packet(&self) -> Vec<u8> {
        // Ordinary options are looked at where all is IPv4: they don't outlive a change of the family.
        let options = match self.options[..] {
            [158, 16, ..] if World::present() != World::default() => &self.options[..16],
            _ if World::present() != World::default() => &[],
            _ => &self.options[..],
        };
        let header_len = 20 + options.len();
        let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
        ip.extend(((header_len + self.payload.len()) as u16).to_be_bytes());
        ip.extend([0, 0]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.src);
        ip.extend(self.dst);
        ip.extend(options);
        let sum = Sum16BitWords::new().add_slice(&ip).ones_complement();
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());
        ip.extend(&self.payload);
        ip
    }

    fn v6_packet(&self) -> Vec<u8> {
        let options = in_v6(&self.options, self.protocol);
        let protocol = match self.protocol {
            _ if !options.is_empty() => 60,
            1 => 58,
            other => other,
        };
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(((options.len() + self.payload.len()) as u16).to_be_bytes());
        ip.extend([protocol, 64]);
        ip.extend(addr(self.src).bytes16());
        ip.extend(addr(self.dst).bytes16());
        ip.extend(options);
        ip.extend(&self.payload);
        ip
    }
}

/// The header of destination options that says what an IPv4 option of ours says; none for others.
fn in_v6(options: &[u8], next: u8) -> Vec<u8> {
    match options {
        [158, 16, rest @ ..] if rest.len() >= 14 => {
            [&[next, 2, 0x1e, 16, 158, 16], &rest[..14], &[1, 2, 0, 0]].concat()
        }
        _ => vec![],
    }
}

/// Makes a packet a fragment: flags and offset as IPv4 has them.
pub(crate) fn fragment(mut frame: Vec<u8>, flags: u16) -> Vec<u8> {
    if frame[12..14] == [0x08, 0x00] {
        frame[ETH + 6..ETH + 8].copy_from_slice(&flags.to_be_bytes());
        mend(&mut frame);
        return frame;
    }
    let more = u16::from(flags & 0x2000 != 0);
    let [a, b] = (flags << 3 | more).to_be_bytes();
    let next = std::mem::replace(&mut frame[ETH + 6], 44);
    let at = if next == 60 { ETH + 64 } else { ETH + 40 };
    let next = if next == 60 {
        frame[ETH + 6] = 60;
        std::mem::replace(&mut frame[ETH + 40], 44)
    } else {
        next
    };
    frame.splice(at..at, [next, 0, a, b, 0, 0, 0, 1]);
    let len = (frame.len() - ETH - 40) as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&len.to_be_bytes());
    frame
}

/// Puts an IPv6 extension header before all else of a packet: its number, and what follows its first byte, which says
/// what comes next.
pub(crate) fn extended(mut frame: Vec<u8>, kind: u8, rest: &[u8]) -> Vec<u8> {
    let next = std::mem::replace(&mut frame[ETH + 6], kind);
    frame.splice(ETH + 40..ETH + 40, [&[next], rest].concat());
    let len = (frame.len() - ETH - 40) as u16;
    frame[ETH + 4..ETH + 6].copy_from_slice(&len.to_be_bytes());
    frame
}

/// An ARP packet (RFC 826) for IPv4 over Ethernet.
pub(crate) fn arp(
    to: Mac,
    from: Mac,
    operation: u16,
    sender: (Mac, [u8; 4]),
    target: (Mac, [u8; 4]),
) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(from);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1);
    frame.extend(target.0);
    frame.extend(target.1);
    frame
}

/// A neighbour discovery message of one address about itself or another, with a link address as its option.
pub(crate) fn neighbour(
    (to, from): (Mac, Mac),
    (src, dst): ([u8; 16], [u8; 16]),
    (kind, flags): (u8, u8),
    target: [u8; 16],
    link: (u8, Mac),
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target);
    message.extend([link.0, 1]);
    message.extend(link.1);
    let sum = transport_sum(Addr::v6(src), Addr::v6(dst), 58, &message);
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    let head = [0x60, 0, 0, 0, 0, 32, 58, 255];
    [&to[..], &from, &[0x86, 0xdd], &head, &src, &dst, &message].concat()
}

/// An ICMP message (RFC 792): type, code, the header's second word, and the rest.
pub(crate) fn icmp(kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word);
    message.extend(rest);
    let sum = Sum16BitWords::new().add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    message
}

/// What a frame's checksums are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sums {
    /// Right, all of them.
    Right,
    /// The IP header's is wrong.
    WrongIp,
    /// The TCP or ICMP checksum is wrong.
    WrongTransport,
    /// The frame has none, or is cut off.
    Unknown,
}

/// Verifies a frame's checksums.
pub(crate) fn checksums(frame: &[u8]) -> Sums {
    let Some(parts) = parts(frame) else {
        return Sums::Unknown;
    };
    if !parts.v6
        && Sum16BitWords::new()
            .add_slice(parts.header)
            .ones_complement()
            != 0
    {
        return Sums::WrongIp;
    }
    match (parts.protocol, parts.checksum()) {
        (1 | 6 | 58, 0) => Sums::Right,
        (1 | 6 | 58, _) => Sums::WrongTransport,
        _ => Sums::Unknown,
    }
}

/// Puts right checksums into a frame that has been changed, where there are any.
pub(crate) fn mend(frame: &mut [u8]) {
    let Some(Parts {
        v6,
        header,
        protocol,
        data,
        ..
    }) = parts(frame)
    else {
        return;
    };
    let (header_len, at) = (header.len(), if protocol == 6 { 16 } else { 2 });
    if !matches!(protocol, 1 | 6 | 58) || data.len() < at + 2 {
        return;
    }
    if !v6 {
        frame[ETH + 10..ETH + 12].fill(0);
    }
    frame[ETH + header_len + at..][..2].fill(0);
    let parts = parts(frame).expect("only checksums have changed");
    let ip = Sum16BitWords::new()
        .add_slice(parts.header)
        .ones_complement();
    let sum = parts.checksum();
    if !v6 {
        frame[ETH + 10..ETH + 12].copy_from_slice(&ip.to_ne_bytes());
    }
    frame[ETH + header_len + at..][..2].copy_from_slice(&sum.to_ne_bytes());
}

/// What a frame consists of.
struct Parts<'a> {
    v6: bool,
    /// The IP header; with IPv6, a header of destination options counts.
    header: &'a [u8],
    protocol: u8,
    src: Addr,
    dst: Addr,
    data: &'a [u8],
}

/// The parts of a frame that has them whole.
fn parts(frame: &[u8]) -> Option<Parts<'_>> {
    let packet = frame.get(ETH..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => v4_parts(packet),
        [0x86, 0xdd] => v6_parts(packet),
        _ => None,
    }
}

fn v4_parts(packet: &[u8]) -> Option<Parts<'_>> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet.get(..header_len).filter(|h| h.len() >= 20)?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let address = |at: usize| Addr::v4([0, 1, 2, 3].map(|i| header[at + i]));
    Some(Parts {
        v6: false,
        header,
        protocol: header[9],
        src: address(12),
        dst: address(16),
        data: packet.get(header_len..total)?,
    })
}

fn v6_parts(packet: &[u8]) -> Option<Parts<'_>> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    let total = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let (mut header_len, mut protocol) = (40, fixed[6]);
    if protocol == 60 {
        (protocol, header_len) = (
            *packet.get(40)?,
            40 + (usize::from(*packet.get(41)?) + 1) * 8,
        );
    }
    let address = |at: usize| Addr::v6(std::array::from_fn(|i| fixed[at + i]));
    Some(Parts {
        v6: true,
        header: packet.get(..header_len)?,
        protocol,
        src: address(8),
        dst: address(24),
        data: packet.get(header_len..total)?,
    })
}

impl Parts<'_> {
    fn checksum(&self) -> u16 {
        match self.protocol {
            1 => Sum16BitWords::new().add_slice(self.data).ones_complement(),
            protocol => transport_sum(self.src, self.dst, protocol, self.data),
        }
    }
}

/// The checksum of a transport header and its data, in the order of bytes of the wire; 0 over a segment
/// whose checksum is right.
fn transport_sum(src: Addr, dst: Addr, protocol: u8, data: &[u8]) -> u16 {
    // The prefix of mapped addresses adds nothing: its ones are a zero, twice.
    Sum16BitWords::new()
        .add_16bytes(src.bytes16())
        .add_16bytes(dst.bytes16())
        .add_2bytes([0, protocol])
        .add_2bytes((data.len() as u16).to_be_bytes())
        .add_slice(data)
        .ones_complement()
}
