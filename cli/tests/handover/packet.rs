//! Packets that no kernel would send.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use dts_core::cookie::Terms;
use dts_core::handover::adoption::{self, Adoption, Covered, Kind};
use dts_core::handover::{HandoverEnds, HandoverOption, OptionRoom, destination, release};
use dts_core::seq::Seq;
use dts_lab::{Family, Lab, Place};
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader, TcpOptionElement,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::{HANDOVER_PORT, client_address, family, vip};

/// Packets that are sent before the receivers get a moment to take them.
const BURST: usize = 100;

/// IPPROTO_RAW: the packet comes with its IP header.
const RAW: i32 = 255;

/// Hops that a packet may take.
pub(crate) const HOPS: u8 = 64;

/// An IP packet.
#[derive(Clone)]
pub(crate) struct Packet {
    to: IpAddr,
    bytes: Vec<u8>,
}

impl Packet {
    /// One with this payload.
    pub(crate) fn new(from: IpAddr, to: IpAddr, protocol: IpNumber, payload: &[u8]) -> Self {
        let length = payload.len() as u16;
        let header = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let header = Ipv4Header::new(length, HOPS, protocol, from, to);
                header.unwrap().to_bytes().to_vec()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6(from, to, protocol, length).to_bytes().to_vec()
            }
            _ => panic!("{from} and {to}: of two families"),
        };
        Self {
            to,
            bytes: [&header, payload].concat(),
        }
    }

    /// The packet in a frame to this link address, if it is one that makes a connection there, by splice or adopt. Its checksum
    /// may have been left to a network card.
    pub(crate) fn handover(frame: &[u8], to: [u8; 6]) -> Option<Self> {
        let packet = frame.strip_prefix(&to)?.get(8..)?;
        let address = |at: usize, len: usize| packet.get(at..at + len);
        let (to, len): (IpAddr, usize) = match family() {
            Family::V4 if packet.first()? >> 4 == 4 => {
                let octets: [u8; 4] = address(16, 4)?.try_into().ok()?;
                let len = u16::from_be_bytes([packet[2], packet[3]]);
                (octets.into(), len.into())
            }
            Family::V6 if packet.first()? >> 4 == 6 => {
                let octets: [u8; 16] = address(24, 16)?.try_into().ok()?;
                let len = u16::from_be_bytes([packet[4], packet[5]]);
                (octets.into(), usize::from(len) + 40)
            }
            _ => return None,
        };
        let mut packet = Self {
            to,
            bytes: packet.get(..len)?.to_vec(),
        };
        let (option, tcp) = packet.places()?;
        let (ports, flags) = (packet.bytes.get(tcp..tcp + 4)?, packet.bytes[tcp + 13]);
        let syn = flags & 0x12 == 2 && ports[2..] == HANDOVER_PORT.to_be_bytes();
        let adopted = option.is_some() && to == vip(0).ip();
        (syn || adopted).then(|| {
            packet.mend();
            packet
        })
    }

    /// Where an adoption's option is, if there is one, and where the TCP header is.
    fn places(&self) -> Option<(Option<usize>, usize)> {
        let b = &self.bytes;
        Some(match (self.to, b.get(6)?) {
            (IpAddr::V4(_), _) => match b[0] & 0x0f {
                9 if b[9] == 6 && b[20] == release::IP_OPTION => (Some(20), 36),
                5 if b[9] == 6 => (None, 20),
                _ => return None,
            },
            (IpAddr::V6(_), &destination::NEXT_HEADER) => (Some(44), 40 + destination::LEN),
            (IpAddr::V6(_), 6) => (None, 40),
            _ => return None,
        })
    }

    /// A copy with one bit changed of what its tag covers.
    pub(crate) fn changed(&self, random: &mut fastrand::Rng) -> Self {
        let mut copy = self.clone();
        let (option, tcp) = copy.places().expect("a handover");
        // The port it comes from, sequence and acknowledgment number, or what the option says (but not what kind of
        // frame it is) and its tag.
        let places: Vec<usize> = match option {
            Some(option) => [0..2, 4..12]
                .into_iter()
                .flatten()
                .map(|at| tcp + at)
                .chain(option + 4..option + 16)
                .collect(),
            None => [0..2, 4..12, 18..20, 40..60]
                .into_iter()
                .flatten()
                .map(|at| tcp + at)
                .collect(),
        };
        let at = random.choice(&places).expect("some");
        copy.bytes[*at] ^= 1 << random.u8(..8);
        copy.mend();
        copy
    }

    /// A copy of an adoption, to the node with this back address, for another port of the client's, made at this time (Unix
    /// seconds) by who has this key.
    pub(crate) fn sealed(&self, target: IpAddr, port: u16, made: u32, key: &[u8; 16]) -> Self {
        let mut copy = self.clone();
        let (Some(option), tcp) = copy.places().expect("a handover") else {
            panic!("no adoption");
        };
        copy.bytes[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
        let word = |at: usize| {
            let bytes = copy.bytes[tcp + at..].first_chunk();
            Seq(u32::from_be_bytes(*bytes.expect("a TCP header")))
        };
        let covered = Covered {
            target: Addr::from(target),
            seq: word(4),
            ack: word(8),
        };
        let flow = FlowKey {
            remote: Addr::from(client_address()),
            local: Addr::from(self.to),
            remote_port: port,
            local_port: u16::from_be_bytes([copy.bytes[tcp + 2], copy.bytes[tcp + 3]]),
        };
        let says = Adoption {
            kind: Kind::First,
            terms: Terms {
                mss: 1460,
                agreed: dts_core::handover::AGREED_SACK,
                client_scale: 0,
            },
            announced_scale: 7,
            track: 0,
            interval: 0,
        };
        let mut room = release::Room::default();
        adoption::emit(key, &flow, covered, (&says, made), &mut room);
        copy.bytes[option..option + 16].copy_from_slice(&room.bytes);
        copy.mend();
        copy
    }

    /// Puts the right checksum into the TCP header.
    fn mend(&mut self) {
        let (_, at) = self.places().expect("TCP");
        let b = &self.bytes;
        let (tcp, payload) = TcpHeader::from_slice(&b[at..]).expect("a TCP header");
        let checksum = match self.to {
            IpAddr::V4(to) => {
                let from = *b[12..].first_chunk().expect("a header");
                tcp.calc_checksum_ipv4_raw(from, to.octets(), payload)
            }
            IpAddr::V6(to) => {
                let from = *b[8..].first_chunk().expect("a header");
                tcp.calc_checksum_ipv6_raw(from, to.octets(), payload)
            }
        };
        let checksum = checksum.expect("not too long").to_be_bytes();
        self.bytes[at + 16..at + 18].copy_from_slice(&checksum);
    }

    /// Sends it.
    pub(crate) fn send(&self, socket: &Socket) -> io::Result<()> {
        let to = SocketAddr::new(self.to, 0);
        socket.send_to(&self.bytes, &to.into()).map(|_| ())
    }
}

/// An IPv6 extension header: its number, and what follows its first byte, which says what comes next.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) kind: IpNumber,
    pub(crate) rest: Vec<u8>,
}

/// Puts extension headers before a payload: what the IPv6 header says comes next, and all that follows it.
pub(crate) fn extended(
    extensions: &[Extension],
    protocol: IpNumber,
    payload: &[u8],
) -> (IpNumber, Vec<u8>) {
    let begin = (protocol, payload.to_vec());
    extensions.iter().rev().fold(begin, |(next, rest), header| {
        let bytes = [&[next.0][..], &header.rest, &rest].concat();
        (header.kind, bytes)
    })
}

pub(crate) fn ipv6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    next_header: IpNumber,
    payload_length: u16,
) -> Ipv6Header {
    Ipv6Header {
        payload_length,
        next_header,
        hop_limit: HOPS,
        source: from.octets(),
        destination: to.octets(),
        ..Ipv6Header::default()
    }
}

/// ETH_P_ALL (`linux/if_ether.h`), in network byte order as the kernel wants it.
const EVERYTHING: i32 = 0x0003u16.to_be() as i32;

/// A socket that sees all frames of the place.
pub(crate) fn frame_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(EVERYTHING.into()))?;
    socket.set_recv_buffer_size(8 << 20)?;
    Ok(socket)
}

/// A socket for packets of the family of the case that runs.
pub(crate) fn raw_socket() -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(client_address(), 0));
    Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))
}

/// Sends packets from a place.
pub(crate) fn send(lab: &Lab, place: Place, packets: &[Packet]) {
    let work = || -> io::Result<()> {
        let socket = raw_socket()?;
        for burst in packets.chunks(BURST) {
            burst.iter().try_for_each(|packet| packet.send(&socket))?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    lab.within(place, work).unwrap().unwrap();
}

/// An address that is nobody's, one of 65536.
pub(crate) fn stranger([high, low]: [u8; 2]) -> IpAddr {
    match family() {
        Family::V4 => IpAddr::from([198, 19, high, low]),
        Family::V6 => {
            let last = u16::from_be_bytes([high, low]);
            IpAddr::from([0x2001, 0xdb8, 0, 0xff, 0, 0, 0, last])
        }
    }
}

/// A TCP segment without payload.
pub(crate) fn segment(from: SocketAddr, to: SocketAddr, tcp: TcpHeader) -> Packet {
    segment_with(from, to, tcp, &[])
}

/// A TCP segment with this payload.
pub(crate) fn segment_with(
    from: SocketAddr,
    to: SocketAddr,
    tcp: TcpHeader,
    payload: &[u8],
) -> Packet {
    let bytes = tcp_bytes(from, to, tcp, payload);
    Packet::new(from.ip(), to.ip(), IpNumber::TCP, &bytes)
}

/// A segment's bytes, its ports and checksum among them.
pub(crate) fn tcp_bytes(
    from: SocketAddr,
    to: SocketAddr,
    tcp: TcpHeader,
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = TcpHeader {
        source_port: from.port(),
        destination_port: to.port(),
        ..tcp
    };
    let checksum = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload)
        }
        _ => panic!("{from} and {to}: of two families"),
    };
    tcp.checksum = checksum.unwrap();
    [&tcp.to_bytes()[..], payload].concat()
}

/// The fragment that a segment begins with, and one that is from further on in it.
pub(crate) fn fragments(from: SocketAddr, to: SocketAddr, tcp: TcpHeader) -> [Packet; 2] {
    let first = tcp_bytes(from, to, tcp, &[]);
    [(true, 0, &first[..]), (false, 3, &[0; 20])].map(|(more, offset, payload)| {
        let offset = IpFragOffset::try_new(offset).unwrap();
        match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = payload.len() as u16;
                let (source, destination) = (source.octets(), destination.octets());
                let mut ip =
                    Ipv4Header::new(length, HOPS, IpNumber::TCP, source, destination).unwrap();
                (ip.more_fragments, ip.fragment_offset) = (more, offset);
                let bytes = [&ip.to_bytes()[..], payload].concat();
                Packet { to: to.ip(), bytes }
            }
            (source, destination) => {
                let header = Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, 7);
                let payload = [&header.to_bytes()[..], payload].concat();
                let kind = IpNumber::IPV6_FRAGMENTATION_HEADER;
                Packet::new(source, destination, kind, &payload)
            }
        }
    })
}

/// A handover SYN as a node would make it, but under this key.
pub(crate) fn handover_syn(
    from: SocketAddr,
    to: SocketAddr,
    option: &HandoverOption,
    key: [u8; 16],
) -> Packet {
    let mut room = OptionRoom::default();
    let ends = HandoverEnds {
        from: Addr::from(from.ip()),
        from_port: from.port(),
        to: Addr::from(to.ip()),
    };
    option.emit(&key, &ends, &mut room);
    let mut tcp = TcpHeader {
        sequence_number: option.client_isn.0,
        acknowledgment_number: option.server_isn.0,
        urgent_pointer: option.client_port,
        window_size: 64240,
        syn: true,
        ..TcpHeader::default()
    };
    tcp.set_options_raw(&room.bytes).unwrap();
    segment(from, to, tcp)
}

/// A handover's option for a client that isn't there.
pub(crate) fn option(number: u16, service: u16, now: u32) -> HandoverOption {
    HandoverOption {
        client: Addr::from(stranger([0, 250])),
        client_port: number,
        client_isn: Seq(u32::from(number) << 8),
        server_isn: Seq(u32::from(number) << 9),
        service,
        agreed: dts_core::handover::AGREED_SACK,
        client_scale: 0,
        announced_scale: 0,
        client_mss: 1460,
        client_tsval: 0,
        server_tsval: 0,
        made: now,
    }
}

/// An IPv4 packet with a right header.
pub(crate) fn whole_v4(mut ip: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    ip.header_checksum = ip.calc_header_checksum();
    [&ip.to_bytes()[..], payload].concat()
}

/// Source and destination of a frame's TCP packet, the length of its IP header, and the packet without what a frame may
/// have behind it.
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, usize, &[u8])> {
    // Of the other version it is an error.
    if let Ok((ip, _)) = Ipv6Header::from_slice(packet) {
        let whole = packet.get(..Ipv6Header::LEN + usize::from(ip.payload_length))?;
        let tcp = ip.next_header == IpNumber::TCP;
        let (from, to) = (ip.source.into(), ip.destination.into());
        return tcp.then_some((from, to, Ipv6Header::LEN, whole));
    }
    let (ip, _) = Ipv4Header::from_slice(packet).ok()?;
    let whole = packet.get(..usize::from(ip.total_len))?;
    let tcp = ip.protocol == IpNumber::TCP;
    let (from, to) = (ip.source.into(), ip.destination.into());
    tcp.then_some((from, to, ip.header_len(), whole))
}

/// A header's timestamps.
pub(crate) fn timestamps(tcp: &TcpHeader) -> Option<(u32, u32)> {
    tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::Timestamp(value, echo)) => Some((value, echo)),
        _ => None,
    })
}
