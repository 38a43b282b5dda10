//! Packets that no kernel would send.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use dts_core::addr::Addr;
use dts_core::handover::{HandoverEnds, HandoverOption, OptionRoom};
use dts_core::seq::Seq;
use dts_lab::{Family, Lab, Place};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::{client_address, family};

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
pub(crate) fn option(number: u16, service: u16, now: u16) -> HandoverOption {
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
