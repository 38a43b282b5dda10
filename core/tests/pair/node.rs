//! The filter of a node, as the eBPF programs are: it looks up, asks `dts_core::decide`, rewrites.

use std::collections::{HashMap, HashSet};

use dts_core::addr::{Addr, FlowKey};
use dts_core::decide::back::{self, Incoming, IncomingSyn, Outgoing};
use dts_core::decide::front::{self, FromInspector, FromServer, Ingress};
use dts_core::decide::{Facts, Ownership, Port, Socket, shift};
use dts_core::entry::{ConnEntry, ConnKey, Handover, flag, role};
use dts_core::handover::{
    AGREED_SCALE, AGREED_TIMESTAMPS, HandoverEnds, HandoverOption, OptionRoom,
};
use dts_core::segment::{ACK, FIN, OptionBytes, OptionScan, RST, SYN, TCP_HEADER, TcpHeader, scan};
use dts_core::seq::Seq;

use crate::stack::now;

pub(crate) const VIP: [u8; 4] = [198, 18, 0, 100];
pub(crate) const WEB: u16 = 80;
pub(crate) const INSPECTOR: u16 = 8081;
pub(crate) const HANDOVER: u16 = 7084;
const SERVICE: u16 = 7;
/// How many bytes of a request the inspector takes.
const MOST: u32 = 32_768;
const KEY: [u8; 16] = *b"a key for tests.";

/// An IPv4 packet without IP options that carries a TCP segment.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) header: TcpHeader,
    pub(crate) options: OptionScan,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn parse(b: &[u8]) -> Self {
        assert_eq!((b[0], b[9]), (0x45, 6), "TCP over IPv4 without options");
        let tcp = &b[20..];
        let fixed = tcp.first_chunk::<TCP_HEADER>().expect("a TCP header");
        let mut header = TcpHeader::parse(fixed).expect("a valid header");
        let len = usize::from(header.header_len);
        let mut options: OptionBytes = [0; 64];
        options[..len - TCP_HEADER].copy_from_slice(&tcp[TCP_HEADER..len]);
        header.payload = (tcp.len() - len) as u32;
        let address = |at: usize| [b[at], b[at + 1], b[at + 2], b[at + 3]];
        Self {
            src: address(12),
            dst: address(16),
            header,
            options: scan(options, (len - TCP_HEADER) as u32),
            payload: tcp[len..].to_vec(),
        }
    }

    /// The packet's bytes; checksums are 0.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let options = self.options.len as usize;
        let mut tcp = [0; TCP_HEADER];
        let header_len = (TCP_HEADER + options) as u8;
        TcpHeader {
            header_len,
            ..self.header
        }
        .emit(&mut tcp);
        let total = 20 + usize::from(header_len) + self.payload.len();
        let mut b = vec![0x45, 0];
        b.extend((total as u16).to_be_bytes());
        b.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        b.extend(self.src);
        b.extend(self.dst);
        b.extend(tcp);
        b.extend(&self.options.bytes[..options]);
        b.extend(&self.payload);
        b
    }

    fn with_options(self, options: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..options.len()].copy_from_slice(options);
        Self {
            options: scan(bytes, options.len() as u32),
            ..self
        }
    }

    /// A segment without data and options.
    fn bare(src: [u8; 4], dst: [u8; 4], header: TcpHeader) -> Self {
        Self {
            src,
            dst,
            header,
            options: scan([0; 64], 0),
            payload: Vec::new(),
        }
    }
}

/// Where a packet goes.
pub(crate) enum To {
    Client(Packet),
    Peer(Packet),
}

/// A node's filter and its maps.
pub(crate) struct Node {
    pub(crate) address: [u8; 4],
    pub(crate) ownership: Ownership,
    pub(crate) server: Socket,
    pub(crate) connections: HashMap<ConnKey, ConnEntry>,
    pub(crate) handovers: HashMap<u16, Handover>,
    peers: HashMap<(Addr, u16), FlowKey>,
    /// The fingerprints of the handovers that were accepted.
    handed: HashSet<u64>,
}

impl Facts for &Node {
    fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn socket(&self, port: Port) -> Socket {
        match port {
            Port::Public => self.server,
            Port::Inspector => Socket::Alive,
        }
    }

    fn answers_cookie(&self) -> bool {
        false
    }
}

impl Node {
    pub(crate) fn new(address: [u8; 4], ownership: Ownership) -> Self {
        Self {
            address,
            ownership,
            server: Socket::None,
            connections: HashMap::new(),
            handovers: HashMap::new(),
            peers: HashMap::new(),
            handed: HashSet::new(),
        }
    }

    pub(crate) fn entry(&mut self, flow: FlowKey, role: u32) -> Option<&mut ConnEntry> {
        self.connections.get_mut(&ConnKey { flow, role })
    }

    /// A packet of the client's; what the node's own stack is shown of it.
    pub(crate) fn front_ingress(&mut self, mut packet: Packet) -> Option<Packet> {
        assert_eq!((packet.dst, packet.header.destination), (VIP, WEB));
        let flow = FlowKey {
            remote: Addr::v4(packet.src),
            local: Addr::v4(VIP),
            remote_port: packet.header.source,
            local_port: WEB,
        };
        let [mut inspecting, mut processing] = [role::INSPECTING, role::PROCESSING]
            .map(|role| self.connections.get(&ConnKey { flow, role }).copied());
        let outcome = front::ingress_l7(
            &packet.header,
            &packet.options,
            inspecting.as_mut(),
            processing.as_mut(),
            now(),
            &&*self,
        );
        for (role, entry) in [
            (role::INSPECTING, inspecting),
            (role::PROCESSING, processing),
        ] {
            if let Some(entry) = entry {
                self.connections.insert(ConnKey { flow, role }, entry);
            }
        }
        match outcome {
            Ingress::Drop(_) => return None,
            Ingress::Challenge | Ingress::Pass => return Some(packet),
            Ingress::Begin => {
                let entry = front::begin(&packet.header, &packet.options, SERVICE, now());
                let role = role::INSPECTING;
                self.connections.insert(ConnKey { flow, role }, entry);
            }
            Ingress::ToInspector => {}
            Ingress::ToServer => {
                let entry = processing.expect("the decision was made of it");
                shift::to_server(&entry, &mut packet.header).apply(&mut packet.options);
                return Some(packet);
            }
            Ingress::Release | Ingress::Forget | Ingress::KillTimeWait => {
                panic!("one client, one connection: {outcome:?}")
            }
        }
        packet.header.destination = INSPECTOR;
        Some(packet)
    }

    /// A packet that the node's stack sends from the VIP.
    pub(crate) fn front_egress(&mut self, mut packet: Packet) -> Vec<To> {
        let flow = FlowKey {
            remote: Addr::v4(packet.dst),
            local: Addr::v4(packet.src),
            remote_port: packet.header.destination,
            local_port: WEB,
        };
        if packet.header.source == INSPECTOR {
            let entry = self.entry(flow, role::INSPECTING);
            let header = &mut packet.header;
            return match front::egress_inspector(header, &packet.options, entry, MOST, now()) {
                FromInspector::Drop(_) => vec![],
                FromInspector::Forget | FromInspector::ResetSocket => {
                    panic!("the inspector lives")
                }
                FromInspector::ToClient => {
                    packet.header.source = WEB;
                    vec![To::Client(packet)]
                }
            };
        }
        let Some(entry) = self.entry(flow, role::PROCESSING) else {
            return vec![];
        };
        let outcome = front::egress_server(&packet.header, &packet.options, Some(entry), now());
        let e = *entry;
        match outcome {
            FromServer::Drop(_) => vec![],
            FromServer::AnswerPeer => {
                packet.header.seq = e.server_isn;
                vec![to_peer(packet, &e)]
            }
            FromServer::ToPeer => {
                shift::to_peer(&e, &mut packet.header).apply(&mut packet.options);
                vec![to_peer(packet, &e)]
            }
            FromServer::ToClient => vec![to_client(packet, &e)],
            FromServer::Direct => {
                let fin = TcpHeader {
                    seq: e.first_of_server(),
                    ack: e.request_end,
                    flags: FIN | ACK,
                    window: packet.header.window,
                    ..TcpHeader::default()
                };
                let fin = Packet::bare(packet.src, packet.dst, fin);
                vec![to_client(packet, &e), to_peer(fin, &e)]
            }
            FromServer::RefusePeer | FromServer::ResetServer | FromServer::ResetBoth => {
                panic!("the server resets nothing: {outcome:?}")
            }
        }
    }

    /// A packet of this node's on a handover connection.
    pub(crate) fn back_egress(&mut self, mut packet: Packet) -> Option<Packet> {
        let port = packet.header.source;
        let h = *self.handovers.get(&port)?;
        let address = self.address;
        let entry = self.entry(h.flow, role::INSPECTING)?;
        let tsval = packet.options.timestamp_pair().map(|(value, _)| value);
        match back::outgoing(&mut packet.header, tsval, port, &h, entry)? {
            Outgoing::Needless => None,
            Outgoing::Segment(shift) => {
                shift.apply(&mut packet.options);
                Some(packet)
            }
            Outgoing::Syn => {
                let option = back::option(&h, entry, now(), 0);
                let ends = HandoverEnds {
                    from: Addr::v4(address),
                    from_port: port,
                    to: h.target,
                };
                let mut room = OptionRoom::default();
                option.emit(&KEY, &ends, &mut room);
                Some(packet.with_options(&room.bytes))
            }
        }
    }

    /// A packet from another node: what the own stack is shown, and what is answered.
    pub(crate) fn back_ingress(&mut self, mut packet: Packet) -> (Option<Packet>, Option<Packet>) {
        if packet.header.destination != HANDOVER {
            let port = packet.header.destination;
            let Some(h) = self.handovers.get(&port).copied() else {
                return (None, None);
            };
            let Some(entry) = self.entry(h.flow, role::INSPECTING) else {
                return (None, None);
            };
            let Some(shift) = back::reply(&mut packet.header, port, &h, entry, now()) else {
                return (None, None);
            };
            shift.apply(&mut packet.options);
            return (Some(packet), None);
        }
        if packet.header.flags & (SYN | ACK | RST) == SYN {
            return self.handover_syn(packet);
        }
        let peer = (Addr::v4(packet.src), packet.header.source);
        let flow = self.peers.get(&peer).copied();
        let entry = flow.and_then(|flow| self.entry(flow, role::PROCESSING));
        let (how, entry) = match entry {
            None => (back::unknown(&packet.header), None),
            Some(entry) => {
                if !back::is_present(&packet.header, entry) {
                    return (None, None);
                }
                let how = back::incoming(&mut packet.header, entry, now());
                (how, Some(*entry))
            }
        };
        let (t, y1) = (packet.header, entry.map(|e| e.first_of_server()));
        let (seq, ack, flags) = match (how, entry) {
            (Incoming::ToServer, e) => {
                let e = e.expect("the decision was made of it");
                shift::from_peer(&e, &packet.options).apply(&mut packet.options);
                let flow = flow.expect("it has an entry");
                (packet.src, packet.dst) = (flow.remote.v4_tail(), VIP);
                (packet.header.source, packet.header.destination) = (flow.remote_port, WEB);
                return (Some(packet), None);
            }
            (Incoming::AnswerFin, Some(e)) => (e.first_of_server(), e.request_end, FIN | ACK),
            (Incoming::AnswerAck, Some(_)) if Some(t.ack) == y1 => (t.ack, t.end(), FIN | ACK),
            (Incoming::AnswerAck, _) => (t.ack, t.end(), ACK),
            (Incoming::HandshakeAck | Incoming::Drop(_), _) => return (None, None),
            (Incoming::ResetServer | Incoming::AnswerFin, _) => {
                panic!("no daemon dies here: {how:?} for {t:?}")
            }
        };
        let header = TcpHeader {
            source: t.destination,
            destination: t.source,
            seq,
            ack,
            flags,
            window: u16::MAX,
            ..TcpHeader::default()
        };
        (None, Some(Packet::bare(packet.dst, packet.src, header)))
    }

    fn handover_syn(&mut self, mut packet: Packet) -> (Option<Packet>, Option<Packet>) {
        let t = packet.header;
        let bytes = *packet.options.bytes.first_chunk().expect("forty of 64");
        let option =
            HandoverOption::parse(&bytes, t.seq, t.ack, t.urgent, 0).expect("a DTS option");
        let ends = HandoverEnds {
            from: Addr::v4(packet.src),
            from_port: t.source,
            to: Addr::v4(packet.dst),
        };
        let mut room = OptionRoom { bytes };
        assert!(option.tag_is_right(&KEY, &ends, &mut room), "the tag");
        let flow = FlowKey {
            remote: option.client,
            local: Addr::v4(VIP),
            remote_port: option.client_port,
            local_port: WEB,
        };
        let key = ConnKey {
            flow,
            role: role::PROCESSING,
        };
        let print = option.print(&KEY);
        let known = || self.handed.contains(&print);
        match back::incoming_syn(&option, self.connections.get(&key), known) {
            IncomingSyn::Drop(_) => return (None, None),
            IncomingSyn::Again => {
                self.note_port(flow, ends.from, t.source);
                let entry = self.entry(flow, role::PROCESSING).expect("it was found");
                entry.note_client_tsval(option.client_tsval);
            }
            IncomingSyn::Answer => {
                self.note_port(flow, ends.from, t.source);
                return (None, Some(self.repeat_answer(flow, option, packet)));
            }
            IncomingSyn::Accept => {
                let mut entry = back::accept(&option, t.window, now());
                entry.peer = ends.from;
                entry.peer_port = t.source;
                entry.own = ends.to;
                self.connections.insert(key, entry);
                self.handed.insert(print);
                self.peers.insert((ends.from, t.source), flow);
            }
        }
        let mut agreed = [0; 40];
        option.agreed_options(&mut agreed);
        packet.src = flow.remote.v4_tail();
        packet.dst = VIP;
        packet.header = TcpHeader {
            source: flow.remote_port,
            destination: WEB,
            ack: Seq(0),
            urgent: 0,
            ..t
        };
        (Some(packet.with_options(&agreed)), None)
    }

    fn note_port(&mut self, flow: FlowKey, peer: Addr, port: u16) {
        let entry = self.entry(flow, role::PROCESSING).expect("it was found");
        (entry.peer, entry.peer_port) = (peer, port);
        self.peers.insert((peer, port), flow);
    }

    /// The server's SYN-ACK once more, from what the entry says of it.
    fn repeat_answer(&mut self, flow: FlowKey, option: HandoverOption, packet: Packet) -> Packet {
        let e = *self.entry(flow, role::PROCESSING).expect("it was found");
        let unscaled = if e.has(flag::UNSCALED) {
            AGREED_SCALE
        } else {
            0
        };
        let shown = HandoverOption {
            agreed: option.agreed & !(AGREED_TIMESTAMPS | unscaled),
            client_scale: e.own_scale,
            ..option
        };
        let mut agreed = [0; 40];
        shown.agreed_options(&mut agreed);
        let header = TcpHeader {
            source: packet.header.destination,
            destination: packet.header.source,
            seq: e.server_isn,
            ack: e.client_isn.plus(1),
            flags: SYN | ACK,
            window: u16::MAX,
            urgent: 0,
            ..packet.header
        };
        let answer = Packet {
            src: packet.dst,
            dst: packet.src,
            header,
            ..packet
        };
        answer.with_options(&agreed)
    }
}

fn to_client(mut packet: Packet, e: &ConnEntry) -> To {
    shift::to_client(e, &mut packet.header).apply(&mut packet.options);
    To::Client(packet)
}

fn to_peer(mut packet: Packet, e: &ConnEntry) -> To {
    packet.src = e.own.v4_tail();
    packet.dst = e.peer.v4_tail();
    packet.header.source = HANDOVER;
    packet.header.destination = e.peer_port;
    To::Peer(packet)
}
