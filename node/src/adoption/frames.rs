//! Frames that the daemon makes in a client's name, and in its server's.

use dts_core::addr::{Addr, FlowKey};
use dts_core::cookie::Terms;
use dts_core::entry::NodeSettings;
use dts_core::entry::adoption::Inquiry;
use dts_core::handover::destination::announced_v6;
use dts_core::handover::{AGREED_SACK, AGREED_TIMESTAMPS};
use dts_core::seq::Seq;
use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement};

/// What timestamps take of a segment, beyond the headers.
const TIMESTAMPS: usize = 12;

/// How many SACK blocks fit beside timestamps (RFC 2018 §3).
const SACK_BLOCKS: usize = 3;

const TTL: u8 = 64;

/// Makes the frames of one connection.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    flow: FlowKey,
    client_mac: [u8; 6],
    front_mac: [u8; 6],
    back_mac: [u8; 6],
    client_isn: Seq,
    server_isn: Seq,
    terms: Terms,
    /// The largest segment that the client sends.
    mss: usize,
    /// Timestamps of the client's last segment.
    tsval: u32,
    tsecr: u32,
    window: u16,
}

impl Maker {
    /// A maker for the connection of a request.
    pub(super) fn new(inquiry: &Inquiry, settings: &NodeSettings) -> Self {
        Self {
            flow: inquiry.flow,
            client_mac: inquiry.mac,
            front_mac: settings.front_mac,
            back_mac: settings.back_mac,
            client_isn: inquiry.client_isn,
            server_isn: inquiry.server_isn,
            terms: Terms::unpack(inquiry.terms),
            mss: match inquiry.flow.local.is_v4() {
                true => settings.announced_mss.into(),
                false => announced_v6(settings.announced_mss).into(),
            },
            tsval: inquiry.tsval,
            tsecr: inquiry.tsecr,
            window: inquiry.window,
        }
    }

    /// Where the client's frames come from.
    pub(super) fn client_mac(&self) -> [u8; 6] {
        self.client_mac
    }

    /// Takes note of what a segment says of its sender's present state.
    pub(super) fn learn(&mut self, inquiry: &Inquiry) {
        if inquiry.tsval.wrapping_sub(self.tsval) as i32 >= 0 {
            (self.tsval, self.tsecr) = (inquiry.tsval, inquiry.tsecr);
            self.window = inquiry.window;
        }
        self.client_mac = inquiry.mac;
    }

    fn has(&self, agreed: u32) -> bool {
        self.terms.agreed & agreed != 0
    }

    /// The client's segments with these bytes, its request's first ones, and its FIN if it has `ended`.
    pub(super) fn segments<'a>(
        &'a self,
        bytes: &'a [u8],
        ended: bool,
    ) -> impl Iterator<Item = Vec<u8>> + 'a {
        let room = self.mss.saturating_sub(TIMESTAMPS).max(1);
        let count = bytes.len().div_ceil(room).max(1);
        (0..count).map(move |n| {
            let begin = n * room;
            let data = &bytes[begin..bytes.len().min(begin + room)];
            let seq = self.client_isn.plus(1).plus(begin as u32);
            let mut tcp = TcpHeader::new(
                self.flow.remote_port,
                self.flow.local_port,
                seq.0,
                self.window,
            );
            tcp.ack = true;
            tcp.acknowledgment_number = self.server_isn.plus(1).0;
            tcp.psh = true;
            tcp.fin = ended && n + 1 == count;
            let stamps = [
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(self.tsval, self.tsecr),
            ];
            if self.has(AGREED_TIMESTAMPS) {
                tcp.set_options(&stamps)
                    .expect("twelve bytes of options fit");
            }
            // The link-layer destination is the filter's to write.
            let start = ethernet(self.back_mac, [0; 6], self.flow.remote, self.flow.local);
            whole(start.tcp_header(tcp), data)
        })
    }

    /// A header of a segment to the client that acknowledges its SYN and no more.
    fn answer(&self) -> TcpHeader {
        let (from, to) = (self.flow.local_port, self.flow.remote_port);
        TcpHeader::new(from, to, self.server_isn.plus(1).0, u16::MAX)
    }

    fn to_client(&self, tcp: TcpHeader) -> Vec<u8> {
        let (mac, peer) = (self.front_mac, self.client_mac);
        let start = ethernet(mac, peer, self.flow.local, self.flow.remote);
        whole(start.tcp_header(tcp), &[])
    }

    /// A reset of the connection.
    pub(super) fn reset(&self) -> Vec<u8> {
        let mut tcp = self.answer();
        tcp.rst = true;
        self.to_client(tcp)
    }

    /// An acknowledgment that tells which bytes are there (RFC 2018), so that the client sends what is missing.
    pub(super) fn duplicate_ack(&self, blocks: impl Iterator<Item = (Seq, Seq)>) -> Vec<u8> {
        let mut tcp = self.answer();
        tcp.ack = true;
        tcp.acknowledgment_number = self.client_isn.plus(1).0;
        let mut options = Vec::new();
        if self.has(AGREED_TIMESTAMPS) {
            // The cookie's own timestamp: the server's clock goes on from what the client echoes of it.
            let stamps = TcpOptionElement::Timestamp(self.tsecr, self.tsval);
            options.extend([TcpOptionElement::Noop, TcpOptionElement::Noop, stamps]);
        }
        let mut blocks = blocks.take(SACK_BLOCKS).map(|(a, b)| (a.0, b.0));
        if self.has(AGREED_SACK)
            && let Some(first) = blocks.next()
        {
            let rest = [blocks.next(), blocks.next(), None];
            let sack = TcpOptionElement::SelectiveAcknowledgement(first, rest);
            options.extend([TcpOptionElement::Noop, TcpOptionElement::Noop, sack]);
        }
        tcp.set_options(&options)
            .expect("timestamps and three blocks fit into forty bytes");
        self.to_client(tcp)
    }
}

fn ethernet(
    from: [u8; 6],
    to: [u8; 6],
    source: Addr,
    destination: Addr,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let start = PacketBuilder::ethernet2(from, to);
    match (source.v4_octets(), destination.v4_octets()) {
        (Some(source), Some(destination)) => start.ipv4(source, destination, TTL),
        _ => start.ipv6(source.bytes16(), destination.bytes16(), TTL),
    }
}

fn whole(builder: PacketBuilderStep<TcpHeader>, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(builder.size(data.len()));
    builder
        .write(&mut frame, data)
        .expect("a vector takes everything, and a segment fits into a packet");
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn maker(agreed: u32) -> Maker {
        Maker {
            flow: FlowKey {
                remote: Addr::v4([198, 18, 0, 200]),
                local: Addr::v4([198, 18, 0, 100]),
                remote_port: 4000,
                local_port: 80,
            },
            client_mac: [2, 0, 0, 0, 0, 1],
            front_mac: [2, 0, 0, 0, 0, 2],
            back_mac: [2, 0, 0, 0, 0, 3],
            client_isn: Seq(u32::MAX),
            server_isn: Seq(7000),
            terms: Terms::of_parts(6, agreed, 7),
            mss: 1444,
            tsval: 10,
            tsecr: 20,
            window: 500,
        }
    }

    /// The same for a client with an IPv6 address.
    fn maker_v6(agreed: u32) -> Maker {
        let address = |text: &str| Addr::from(text.parse::<std::net::Ipv6Addr>().unwrap());
        let maker = maker(agreed);
        Maker {
            flow: FlowKey {
                remote: address("2001:db8::200"),
                local: address("2001:db8::100"),
                ..maker.flow
            },
            mss: 1416,
            ..maker
        }
    }

    /// A frame's TCP header and data, its checksums verified.
    fn read(frame: &[u8]) -> (TcpHeader, Vec<u8>) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("{frame:02x?}");
        };
        let header = tcp.to_header();
        let right = match packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
            }
            Some(NetSlice::Ipv6(ip)) => {
                header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
            }
            _ => panic!("{frame:02x?}"),
        };
        assert_eq!(header.checksum, right.unwrap());
        (header, tcp.payload().to_vec())
    }

    #[test]
    fn a_request_is_cut_into_segments() {
        let bytes: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
        let maker = maker(AGREED_TIMESTAMPS);
        let frames: Vec<_> = maker.segments(&bytes, true).map(|f| read(&f)).collect();
        let lens: Vec<_> = frames.iter().map(|(_, data)| data.len()).collect();
        assert_eq!(lens, [1432, 1432, 1136]);
        let seqs: Vec<_> = frames.iter().map(|(tcp, _)| tcp.sequence_number).collect();
        assert_eq!(seqs, [0, 1432, 2864]);
        let fins: Vec<_> = frames.iter().map(|(tcp, _)| tcp.fin).collect();
        assert_eq!(fins, [false, false, true]);
        assert!(
            frames
                .iter()
                .all(|(tcp, _)| tcp.acknowledgment_number == 7001)
        );
        let all: Vec<u8> = frames.into_iter().flat_map(|(_, data)| data).collect();
        assert_eq!(all, bytes);
    }

    #[test]
    fn an_ipv6_clients_frames_are_ipv6() {
        let maker = maker_v6(AGREED_TIMESTAMPS);
        let bytes = [7; 3000];
        let frames: Vec<_> = maker.segments(&bytes, false).collect();
        let lens: Vec<_> = frames.iter().map(|frame| read(frame).1.len()).collect();
        assert_eq!(lens, [1404, 1404, 192]);
        for frame in [
            &frames[0],
            &maker.reset(),
            &maker.duplicate_ack([].into_iter()),
        ] {
            assert_eq!(frame[12..14], [0x86, 0xdd]);
            read(frame);
        }
        let ends = |frame: &[u8]| match SlicedPacket::from_ethernet(frame).unwrap().net {
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                [header.source(), header.destination()].map(Addr::v6)
            }
            _ => panic!("{frame:02x?}"),
        };
        let FlowKey { remote, local, .. } = maker.flow;
        assert_eq!(ends(&frames[0]), [remote, local]);
        assert_eq!(ends(&maker.reset()), [local, remote]);
    }

    #[test]
    fn a_duplicate_acknowledgment_has_three_blocks_at_most() {
        let blocks = (1..6).map(|i| (Seq(100 * i), Seq(100 * i + 50)));
        let frame = maker(AGREED_TIMESTAMPS | AGREED_SACK).duplicate_ack(blocks);
        let (tcp, _) = read(&frame);
        assert_eq!(tcp.acknowledgment_number, 0);
        let options: Vec<_> = tcp.options_iterator().map(Result::unwrap).collect();
        let rest = [Some((200, 250)), Some((300, 350)), None];
        assert!(options.contains(&TcpOptionElement::Timestamp(20, 10)));
        assert!(
            options.contains(&TcpOptionElement::SelectiveAcknowledgement(
                (100, 150),
                rest
            ))
        );
        let none = maker(0).duplicate_ack(std::iter::once((Seq(1), Seq(2))));
        assert_eq!(read(&none).0.options_iterator().count(), 0);
    }

    #[test]
    fn a_reset_is_one() {
        let (tcp, data) = read(&maker(0).reset());
        assert!(tcp.rst && data.is_empty());
        assert_eq!(tcp.sequence_number, 7001);
    }
}
