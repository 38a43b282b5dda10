//! Frames and packets that no kernel here sends: written from the headers' definitions, with right checksums.

use std::net::Ipv4Addr;

use dts_core::addr::{Addr, FlowKey};
use dts_core::segment::{ACK, SYN};
use dts_lab::{Network, Place, VIP};
use etherparse::checksum::Sum16BitWords;

/// A link-layer address.
pub(crate) type Mac = [u8; 6];

/// The multicast address that the VIP resolves to, which the network floods to every node.
pub(crate) const VIP_MAC: Mac = [0x03, 0xbf, 198, 18, 0, 100];

/// The flags of a segment with data.
pub(crate) const DATA: u8 = ACK | 0x08;

/// The sequence number of clients' SYNs made here.
pub(crate) const X: u32 = 0xffff_ff00;
/// That of answers which are made up.
pub(crate) const Y: u32 = 0x8000_0001;

const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: u8 = 6;

/// A TCP segment over IPv4.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) source: (Ipv4Addr, u16),
    pub(crate) destination: (Ipv4Addr, u16),
    /// A multiple of four bytes.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) urgent: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// A client's segment of a flow, without options and data.
    pub(crate) fn of_client(flow: &FlowKey, seq: u32, ack: u32, flags: u8) -> Self {
        Self {
            to: VIP_MAC,
            from: Place::Client(1).mac(Network::Front).unwrap_or_default(),
            source: (flow.remote.v4_tail().into(), flow.remote_port),
            destination: (flow.local.v4_tail().into(), flow.local_port),
            ip_options: Vec::new(),
            seq,
            ack,
            flags,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A client's SYN, with the options of Linux.
    pub(crate) fn syn(flow: &FlowKey) -> Self {
        Self {
            options: [
                &[2, 4, 5, 0xb4, 4, 2][..],
                &timestamps(1000, 0)[2..],
                &[1, 3, 3, 7],
            ]
            .concat(),
            ..Self::of_client(flow, X, 0, SYN)
        }
    }

    /// The addresses turned round.
    pub(crate) fn reversed(self) -> Self {
        Self {
            to: self.from,
            from: self.to,
            source: self.destination,
            destination: self.source,
            ..self
        }
    }

    /// The frame's bytes.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        frame.extend([0x08, 0x00]);
        frame.extend(self.packet());
        frame
    }

    /// The IP packet's bytes.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let tcp = self.tcp();
        ipv4(
            (self.source.0, self.destination.0),
            TCP,
            &self.ip_options,
            &tcp,
        )
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.1.to_be_bytes());
        tcp.extend(self.destination.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push((((20 + self.options.len()) / 4) << 4) as u8);
        tcp.push(self.flags);
        tcp.extend(0x1f5u16.to_be_bytes());
        tcp.extend([0; 2]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let sum = Sum16BitWords::new()
            .add_4bytes(self.source.0.octets())
            .add_4bytes(self.destination.0.octets())
            .add_2bytes([0, TCP])
            .add_2bytes((tcp.len() as u16).to_be_bytes())
            .add_slice(&tcp)
            .ones_complement();
        tcp[16..18].copy_from_slice(&sum.to_ne_bytes());
        tcp
    }
}

/// An IPv4 packet.
pub(crate) fn ipv4(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_len = IP + options.len();
    let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
    ip.extend(((header_len + payload.len()) as u16).to_be_bytes());
    ip.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    ip.extend(options);
    let sum = Sum16BitWords::new().add_slice(&ip).ones_complement();
    ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    ip.extend(payload);
    ip
}

/// Two NOPs and timestamps: the layout of nearly every segment's options.
pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut bytes = vec![1, 1, 8, 10];
    bytes.extend(value.to_be_bytes());
    bytes.extend(echo.to_be_bytes());
    bytes
}

/// The sequence number and the timestamp of a SYN-ACK that the filter has made: its first option is the segment size,
/// then come two bytes and the timestamps.
pub(crate) fn read_syn_ack(frame: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| {
        let bytes = frame.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let tcp = ETHERNET + IP;
    let is_syn_ack = frame.get(tcp + 13)? & (SYN | ACK) == SYN | ACK;
    is_syn_ack.then_some((word(tcp + 4)?, word(tcp + 28)?))
}

/// The flow from a client's end to a port of the VIP.
pub(crate) fn flow(remote: Ipv4Addr, remote_port: u16, local_port: u16) -> FlowKey {
    FlowKey {
        remote: Addr::v4(remote.octets()),
        local: Addr::v4(VIP.octets()),
        remote_port,
        local_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    #[test]
    fn frames_are_read_back_with_right_checksums() {
        let flow = flow(Ipv4Addr::new(198, 19, 1, 2), 4242, 80);
        let segment = Segment {
            payload: b"odd".to_vec(),
            ..Segment::syn(&flow)
        };
        let frame = segment.frame();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else {
            panic!("IPv4");
        };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("TCP");
        };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let sum = tcp.to_header().calc_checksum_ipv4(&header, b"odd").unwrap();
        assert_eq!(tcp.checksum(), sum);
        assert_eq!((tcp.source_port(), tcp.destination_port()), (4242, 80));
        assert!(tcp.syn() && !tcp.ack());
    }

    #[test]
    fn syn_acks_are_read() {
        let flow = flow(Ipv4Addr::new(198, 19, 1, 2), 4242, 80);
        let options = [&[2, 4, 5, 0xb4, 4, 2][..], &timestamps(77, 1000)[2..]].concat();
        let answer = Segment {
            options: [&options[..], &[1, 3, 3, 7]].concat(),
            ..Segment::of_client(&flow, Y, X, SYN | ACK).reversed()
        };
        assert_eq!(read_syn_ack(&answer.frame()), Some((Y, 77)));
        assert_eq!(read_syn_ack(&Segment::syn(&flow).frame()), None);
        assert_eq!(read_syn_ack(&[]), None);
    }
}
