//! Packets that no kernel would send.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use dts_core::addr::Addr;
use dts_core::handover::{HandoverEnds, HandoverOption, OptionRoom};
use dts_core::seq::Seq;
use dts_lab::{Lab, Place};
use etherparse::{IpNumber, Ipv4Header, TcpHeader};
use socket2::{Domain, Protocol, Socket, Type};

/// Packets that are sent before the receivers get a moment to take them.
const BURST: usize = 100;

/// IPPROTO_RAW: the packet comes with its IP header.
const RAW: i32 = 255;

/// Sends IPv4 packets from a place.
pub(crate) fn send(lab: &Lab, place: Place, packets: &[(Ipv4Header, Vec<u8>)]) {
    let work = || -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        for burst in packets.chunks(BURST) {
            for (ip, payload) in burst {
                let to = SocketAddr::from((Ipv4Addr::from(ip.destination), 0));
                let packet = [&ip.to_bytes()[..], payload].concat();
                socket.send_to(&packet, &to.into())?;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    lab.within(place, work).unwrap().unwrap();
}

/// A TCP segment without payload.
pub(crate) fn segment(from: SocketAddr, to: SocketAddr, tcp: TcpHeader) -> (Ipv4Header, Vec<u8>) {
    segment_with(from, to, tcp, &[])
}

/// A TCP segment with this payload.
pub(crate) fn segment_with(
    from: SocketAddr,
    to: SocketAddr,
    tcp: TcpHeader,
    payload: &[u8],
) -> (Ipv4Header, Vec<u8>) {
    let mut tcp = TcpHeader {
        source_port: from.port(),
        destination_port: to.port(),
        ..tcp
    };
    let ip = ip(from.ip(), to.ip(), tcp.header_len() + payload.len());
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
    (ip, [&tcp.to_bytes()[..], payload].concat())
}

pub(crate) fn ip(from: IpAddr, to: IpAddr, payload: usize) -> Ipv4Header {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        panic!("{from} and {to}: these packets are IPv4");
    };
    let (length, hops) = (payload as u16, 64);
    Ipv4Header::new(length, hops, IpNumber::TCP, from.octets(), to.octets()).unwrap()
}

/// A handover SYN as a node would make it, but under this key.
pub(crate) fn handover_syn(
    from: SocketAddr,
    to: SocketAddr,
    option: &HandoverOption,
    key: [u8; 16],
) -> (Ipv4Header, Vec<u8>) {
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
        client: Addr::v4([198, 18, 0, 250]),
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
