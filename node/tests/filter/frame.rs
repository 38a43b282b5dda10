//! Frames, written from the headers' definitions; checksums are etherparse's.

use etherparse::checksum::Sum16BitWords;

pub(crate) const ETH: usize = 14;

/// Link-layer addresses.
pub(crate) type Mac = [u8; 6];

/// A TCP segment over IPv4 in an Ethernet frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tcp {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) src: ([u8; 4], u16),
    pub(crate) dst: ([u8; 4], u16),
    /// A multiple of four bytes.
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
        let sum = transport_sum(self.src.0, self.dst.0, 6, &tcp);
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

/// Any IPv4 packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) options: Vec<u8>,
    pub(crate) protocol: u8,
    /// Flags and fragment offset.
    pub(crate) fragment: u16,
    pub(crate) payload: Vec<u8>,
}

impl Ip {
    /// The frame's bytes.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        frame.extend(0x0800u16.to_be_bytes());
        frame.extend(self.packet());
        frame
    }

    /// The packet without its Ethernet header.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
        ip.extend(((header_len + self.payload.len()) as u16).to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.src);
        ip.extend(self.dst);
        ip.extend(&self.options);
        let sum = Sum16BitWords::new().add_slice(&ip).ones_complement();
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());
        ip.extend(&self.payload);
        ip
    }
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
    let Some((header, data)) = parts(frame) else {
        return Sums::Unknown;
    };
    if Sum16BitWords::new().add_slice(header).ones_complement() != 0 {
        return Sums::WrongIp;
    }
    match (header[9], transport_checksum(header, data)) {
        (1 | 6, 0) => Sums::Right,
        (1 | 6, _) => Sums::WrongTransport,
        _ => Sums::Unknown,
    }
}

/// Puts right checksums into a frame that has been changed, where there are any.
pub(crate) fn mend(frame: &mut [u8]) {
    let Some((header, data)) = parts(frame) else {
        return;
    };
    let (header_len, at) = (header.len(), if header[9] == 6 { 16 } else { 2 });
    if !matches!(header[9], 1 | 6) || data.len() < at + 2 {
        return;
    }
    frame[ETH + 10..ETH + 12].fill(0);
    frame[ETH + header_len + at..][..2].fill(0);
    let (header, data) = parts(frame).expect("only checksums have changed");
    let ip = Sum16BitWords::new().add_slice(header).ones_complement();
    let sum = transport_checksum(header, data);
    frame[ETH + 10..ETH + 12].copy_from_slice(&ip.to_ne_bytes());
    frame[ETH + header_len + at..][..2].copy_from_slice(&sum.to_ne_bytes());
}

/// The IPv4 header and the data of a frame that has them whole.
fn parts(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let packet = match frame.get(12..14) {
        Some([0x08, 0x00]) => &frame[ETH..],
        _ => return None,
    };
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let header = packet.get(..header_len).filter(|h| h.len() >= 20)?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Some((header, packet.get(header_len..total)?))
}

fn transport_checksum(header: &[u8], data: &[u8]) -> u16 {
    let address = |at: usize| [0, 1, 2, 3].map(|i| header[at + i]);
    match header[9] {
        6 => transport_sum(address(12), address(16), 6, data),
        _ => Sum16BitWords::new().add_slice(data).ones_complement(),
    }
}

/// The checksum of a transport header and its data, in the order of bytes of the wire; 0 over a segment
/// whose checksum is right.
fn transport_sum(src: [u8; 4], dst: [u8; 4], protocol: u8, data: &[u8]) -> u16 {
    Sum16BitWords::new()
        .add_4bytes(src)
        .add_4bytes(dst)
        .add_2bytes([0, protocol])
        .add_2bytes((data.len() as u16).to_be_bytes())
        .add_slice(data)
        .ones_complement()
}
