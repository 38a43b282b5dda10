//! A frame's headers, as a trace shows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dts_core::handover::destination::{self, Header};
use dts_core::handover::release;
use dts_core::segment::{REQUEST_END_BIT, TcpHeader};

use crate::admin::SegmentView;

const ETH: usize = 14;
const IPV6: usize = 40;
const TCP: u8 = 6;

/// A TCP segment in a frame, and the frame's addresses.
pub(super) struct Read {
    pub(super) segment: SegmentView,
    pub(super) source_mac: [u8; 6],
    pub(super) destination_mac: [u8; 6],
}

/// Reads the first bytes of a frame of `len` bytes; `None` when they hold no TCP header.
pub(super) fn read(bytes: &[u8], len: u32) -> Option<Read> {
    let bytes = bytes.get(..bytes.len().min(len as usize))?;
    let ip = Ip::read(bytes, len)?;
    let header = bytes.get(ip.l4..)?.first_chunk()?;
    let tcp = TcpHeader::parse(header)?;
    let end = ip.l4 + usize::from(tcp.header_len);
    let options = bytes.get(ip.l4 + 20..end)?;
    let mut segment = SegmentView {
        source: SocketAddr::new(ip.source, tcp.source),
        destination: SocketAddr::new(ip.destination, tcp.destination),
        flags: flags(tcp.flags),
        seq: tcp.seq.0,
        ack: tcp.ack.0,
        window: tcp.window,
        urgent: tcp.urgent,
        len: (ip.end.saturating_sub(end)) as u32,
        request_end: tcp.reserved & REQUEST_END_BIT != 0,
        mss: None,
        scale: None,
        sack_permitted: false,
        sack: Vec::new(),
        timestamps: None,
        dts_option: false,
        ip_option: ip.option,
    };
    read_options(&mut segment, options);
    Some(Read {
        segment,
        destination_mac: *bytes.first_chunk()?,
        source_mac: *bytes.get(6..)?.first_chunk()?,
    })
}

/// What counts of an IP header.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    /// Where the TCP header begins.
    l4: usize,
    /// Where the packet ends, in a frame that may be longer or, as its beginning, shorter.
    end: usize,
    option: Option<String>,
}

impl Ip {
    fn read(bytes: &[u8], len: u32) -> Option<Self> {
        match bytes.get(12..14)? {
            [8, 0] => Self::v4(bytes, len),
            [0x86, 0xdd] => Self::v6(bytes, len),
            _ => None,
        }
    }

    fn v4(bytes: &[u8], len: u32) -> Option<Self> {
        let header = bytes.get(ETH..ETH + 20)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header[9] != TCP || header_len < 20 {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = *header.get(at..)?.first_chunk()?;
            Some(Ipv4Addr::from(octets).into())
        };
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            l4: ETH + header_len,
            // Of frames too long for the field it is 0.
            end: if total == 0 {
                len as usize
            } else {
                ETH + total
            },
            option: ip_option(bytes.get(ETH + 20..ETH + header_len)?),
        })
    }

    fn v6(bytes: &[u8], len: u32) -> Option<Self> {
        let header = bytes.get(ETH..ETH + IPV6)?;
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = *header.get(at..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).into())
        };
        let (mut next, mut l4, mut option) = (header[6], ETH + IPV6, None);
        if next == destination::NEXT_HEADER {
            let extension: [u8; 2] = *bytes.get(l4..)?.first_chunk()?;
            next = extension[0];
            let end = l4 + 8 * (usize::from(extension[1]) + 1);
            option = ipv6_option(bytes.get(l4..end)?);
            l4 = end;
        }
        if next != TCP {
            return None;
        }
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            l4,
            end: if payload == 0 {
                len as usize
            } else {
                ETH + IPV6 + payload
            },
            option,
        })
    }
}

/// What the option between nodes says, if these options begin with it.
fn ip_option(options: &[u8]) -> Option<String> {
    let [release::IP_OPTION, _, _, fourth, ..] = *options else {
        return None;
    };
    Some(kind(fourth).to_owned())
}

/// The same of a header of IPv6 destination options.
fn ipv6_option(header: &[u8]) -> Option<String> {
    let bytes = *header.first_chunk()?;
    ip_option(&destination::parse(&Header { bytes })?.bytes)
}

/// The kinds of adoption frames, by their letters.
fn kind(letter: u8) -> &'static str {
    match letter {
        b'A' => "first",
        b'B' => "next",
        b'C' => "later",
        b'D' => "refused",
        b'E' => "unable",
        _ => "release",
    }
}

fn flags(bits: u8) -> String {
    let letters = [
        (0x02, 'S'),
        (0x01, 'F'),
        (0x04, 'R'),
        (0x08, 'P'),
        (0x20, 'U'),
        (0x40, 'E'),
        (0x80, 'W'),
        (0x10, '.'),
    ];
    let set = letters.into_iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, letter)| letter).collect()
}

/// Reads TCP options up to the first that is cut off.
fn read_options(segment: &mut SegmentView, mut rest: &[u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    while let [kind, after @ ..] = rest {
        match *kind {
            END => return,
            NO_OPERATION => rest = after,
            kind => {
                let len = after.first().map_or(0, |len| usize::from(*len));
                let Some(value) = rest.get(2..len) else {
                    return;
                };
                read_option(segment, kind, value);
                rest = &rest[len..];
            }
        }
    }
}

fn read_option(segment: &mut SegmentView, kind: u8, value: &[u8]) {
    let words = || {
        let words = value.chunks_exact(4);
        words.map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]))
    };
    match (kind, value) {
        (2, &[high, low]) => segment.mss = Some(u16::from_be_bytes([high, low])),
        (3, &[scale]) => segment.scale = Some(scale),
        (4, []) => segment.sack_permitted = true,
        (5, _) => segment.sack = words().step_by(2).zip(words().skip(1).step_by(2)).collect(),
        (8, _) if value.len() == 8 => segment.timestamps = words().next().zip(words().nth(1)),
        (253, _) => segment.dts_option = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};

    use super::*;

    const OPTIONS: [TcpOptionElement; 5] = [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(7, 9),
        TcpOptionElement::Noop,
        TcpOptionElement::WindowScale(8),
    ];

    fn v4() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([198, 18, 0, 201], [198, 18, 0, 100], 64)
            .tcp(40_000, 80, 5, 500)
            .syn()
            .ack(6)
            .options(&OPTIONS)
            .unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, b"hello").unwrap();
        frame
    }

    #[test]
    fn a_segment_is_read() {
        let frame = v4();
        let read = read(&frame, frame.len() as u32).unwrap();
        assert_eq!((read.source_mac, read.destination_mac), ([1; 6], [2; 6]));
        let segment = read.segment;
        assert_eq!(segment.source, "198.18.0.201:40000".parse().unwrap());
        assert_eq!(segment.destination, "198.18.0.100:80".parse().unwrap());
        assert_eq!((segment.seq, segment.ack, segment.len), (5, 6, 5));
        assert_eq!((&*segment.flags, segment.window), ("S.", 500));
        assert_eq!((segment.mss, segment.scale), (Some(1460), Some(8)));
        assert_eq!(
            (segment.sack_permitted, segment.timestamps),
            (true, Some((7, 9)))
        );
        assert!(!segment.dts_option && segment.ip_option.is_none());
    }

    #[test]
    fn the_beginning_of_a_frame_is_enough() {
        let mut frame = v4();
        let headers = frame.len() - 5;
        frame[16..18].copy_from_slice(&1460u16.to_be_bytes());
        let beginning = read(&frame[..headers], 1474).unwrap().segment;
        assert_eq!(beginning.len, 1400);
        assert!(read(&frame[..headers - 1], 1474).is_none());
        for len in 0..headers {
            let _ = read(&frame[..len], len as u32);
        }
    }

    #[test]
    fn the_option_between_nodes_is_told() {
        let mut frame = v4();
        frame[14] = 0x49;
        frame.splice(
            34..34,
            [158, 16, 1, b'B', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        let segment = read(&frame, frame.len() as u32).unwrap().segment;
        assert_eq!(segment.ip_option.as_deref(), Some("next"));
        frame[37] = 0;
        let segment = read(&frame, frame.len() as u32).unwrap().segment;
        assert_eq!(segment.ip_option.as_deref(), Some("release"));
    }

    #[test]
    fn in_ipv6_it_is_a_destination_option() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv6([1; 16], [2; 16], 64)
            .tcp(40_000, 80, 5, 500);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"hello").unwrap();
        let mut room = release::Room { bytes: [0; 16] };
        room.bytes[..4].copy_from_slice(&[158, 16, 1, b'A']);
        let mut header = Header::default();
        destination::emit(&room, &mut header);
        frame[20] = destination::NEXT_HEADER;
        frame[19] += 24;
        frame.splice(54..54, header.bytes);
        let segment = read(&frame, frame.len() as u32).unwrap().segment;
        assert_eq!(segment.ip_option.as_deref(), Some("first"));
        assert_eq!((segment.seq, segment.len), (5, 5));
        frame[58] = 1;
        let segment = read(&frame, frame.len() as u32).unwrap().segment;
        assert_eq!(segment.ip_option, None);
    }

    #[test]
    fn ipv6_is_read_as_well() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv6([1; 16], [2; 16], 64)
            .tcp(40_000, 80, 5, 500)
            .fin();
        let mut frame = Vec::new();
        builder.write(&mut frame, b"bye").unwrap();
        let segment = read(&frame, frame.len() as u32).unwrap().segment;
        assert_eq!(
            segment.source.to_string(),
            "[101:101:101:101:101:101:101:101]:40000"
        );
        assert_eq!((&*segment.flags, segment.len), ("F", 3));
    }

    #[test]
    fn blocks_of_sack_and_the_dts_option() {
        let mut segment = read(&v4(), 200).unwrap().segment;
        read_options(&mut segment, &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 253, 2]);
        assert_eq!((segment.sack, segment.dts_option), (vec![(1, 2)], true));
    }

    #[test]
    fn what_is_no_tcp_is_none() {
        let frame = v4();
        for (at, byte) in [(12, 9), (14, 0x44), (23, 17), (46, 0x40)] {
            let mut other = frame.clone();
            other[at] = byte;
            assert!(read(&other, other.len() as u32).is_none(), "{at}");
        }
    }
}
