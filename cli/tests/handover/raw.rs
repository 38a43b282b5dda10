//! A client that sends exactly the segments that a case asks for: TCP by hand, on raw sockets.
//!
//! Its address is one that the client's kernel doesn't own but the nodes reach by it, so that nothing else answers.
//! IPv6's would say that it has no route: [`cluster`] has it keep silent.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dts_lab::{Family, Lab};
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, TcpHeader,
    TcpOptionElement,
};
use socket2::Socket;

use crate::client::PATIENCE;
use crate::cluster::{CLIENT, Cluster, Method, family, vip};
use crate::packet::{
    Extension, HOPS, addresses, extended, frame_socket, ipv6, raw_socket, tcp_bytes, timestamps,
    whole_v4,
};

/// The client's address: one of those that nodes reach by the client's own (`dts_lab`'s further addresses).
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 77);
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 77);

/// How long the kernel of a client waits before it repeats something.
const REPEAT: Duration = Duration::from_millis(300);

/// A cluster whose nodes reach the clients made by hand.
pub(crate) fn cluster(method: &Method, nodes: u8) -> Cluster {
    // With one further address there is a route to all of them.
    let cluster = Cluster::with(method, nodes, |spec| spec.client_extra_addresses = 1);
    if family() == Family::V6 {
        let silent = format!("ip -6 route add blackhole {ADDRESS_V6}/128");
        cluster.sh(CLIENT, &silent).unwrap();
    }
    cluster
}

/// What the client's side of a connection is like.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    /// The options of the SYN, as they are on the wire.
    pub(crate) syn_options: Vec<u8>,
    /// What the SYN carries besides.
    pub(crate) syn_data: Vec<u8>,
    /// Whether the SYN asks for ECN.
    pub(crate) ecn: bool,
    /// The window that is shown, in the SYN as well, as it is on the wire.
    pub(crate) window: u16,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            syn_options: syn_options(1460, Some(7), &[]),
            syn_data: Vec::new(),
            ecn: false,
            window: 64_000,
        }
    }
}

/// A SYN's options: MSS, SACK permitted, timestamps, window scale if there is one, and `more`.
pub(crate) fn syn_options(mss: u16, scale: Option<u8>, more: &[u8]) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    let mut options = vec![2, 4, high, low, 4, 2, 8, 10];
    options.extend([1u32.to_be_bytes(), [0; 4]].concat());
    if let Some(scale) = scale {
        options.extend([1, 3, 3, scale]);
    }
    options.extend(more);
    options.resize(options.len().next_multiple_of(4), 1);
    options
}

/// A segment that the client got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) tcp: TcpHeader,
    pub(crate) payload: Vec<u8>,
    /// The packet from its IP header on, as an ICMP error would quote it.
    pub(crate) packet: Vec<u8>,
}

impl Seen {
    /// The sequence number after it.
    fn end(&self) -> u32 {
        let flags = u32::from(self.tcp.syn) + u32::from(self.tcp.fin);
        self.tcp
            .sequence_number
            .wrapping_add(self.payload.len() as u32 + flags)
    }
}

/// A client's side of one connection. Numbers are the wire's.
pub(crate) struct RawClient {
    out: Socket,
    input: Socket,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    begin: Instant,
    pub(crate) isn: u32,
    /// The next sequence number to be sent.
    pub(crate) next: u32,
    /// The next one that is expected.
    pub(crate) expected: u32,
    /// What the server has acknowledged.
    pub(crate) acked: u32,
    pub(crate) window: u16,
    /// What is echoed of the server's timestamps; `None` without timestamps.
    echo: Option<u32>,
    /// The IP header's traffic class, with ECN's bits.
    pub(crate) class: u8,
    /// The IPv6 header's flow label.
    pub(crate) label: Ipv6FlowLabel,
    /// The extension headers of its IPv6 packets.
    pub(crate) extensions: Vec<Extension>,
    /// Data that may have to be repeated.
    sent: VecDeque<(u32, Vec<u8>)>,
    /// What the server has sent, in order.
    pub(crate) received: Vec<u8>,
    /// Whether the server has closed its side.
    pub(crate) ended: bool,
}

impl RawClient {
    /// A client with a port whose connections `inspecting` inspects.
    pub(crate) fn new(cluster: &Cluster, inspecting: u8, service: u16) -> Self {
        static PORT: AtomicU32 = AtomicU32::new(30_000);
        let address = match family() {
            Family::V4 => IpAddr::V4(ADDRESS),
            Family::V6 => IpAddr::V6(ADDRESS_V6),
        };
        let local = loop {
            let port = PORT.fetch_add(1, Ordering::Relaxed) as u16;
            let local = SocketAddr::new(address, port);
            if cluster.owner(1, local) == inspecting {
                break local;
            }
        };
        Self::at(cluster, local, vip(service))
    }

    /// A client at this address and port.
    pub(crate) fn at(lab: &Lab, local: SocketAddr, remote: SocketAddr) -> Self {
        let sockets = || {
            let out = raw_socket()?;
            Ok::<_, std::io::Error>((out, frame_socket()?))
        };
        let (out, input) = lab.within(CLIENT, sockets).unwrap().unwrap();
        let isn = fastrand::u32(..);
        Self {
            out,
            input,
            local,
            remote,
            begin: Instant::now(),
            isn,
            next: isn,
            expected: 0,
            acked: isn,
            window: 0,
            echo: None,
            class: 0,
            label: Ipv6FlowLabel::ZERO,
            extensions: Vec::new(),
            sent: VecDeque::new(),
            received: Vec::new(),
            ended: false,
        }
    }

    /// The same client, rebooted: it knows nothing of its connection, and begins another one on the same port.
    pub(crate) fn rebooted(self, lab: &Lab) -> Self {
        let mut again = Self::at(lab, self.local, self.remote);
        // The clock goes on: a kernel's does not, but most randomize its beginning.
        again.begin = self.begin;
        again
    }

    /// The SYN that these ways mean.
    pub(crate) fn send_syn(&mut self, ways: &Ways) {
        let mut syn = TcpHeader {
            sequence_number: self.isn,
            syn: true,
            ece: ways.ecn,
            cwr: ways.ecn,
            window_size: ways.window,
            ..TcpHeader::default()
        };
        syn.set_options_raw(&ways.syn_options).unwrap();
        self.window = ways.window;
        self.next = self.isn.wrapping_add(1);
        self.send(syn, &ways.syn_data);
    }

    /// Takes a SYN-ACK: what was agreed counts from here on.
    pub(crate) fn take_syn_ack(&mut self, seen: &Seen) {
        let t = &seen.tcp;
        assert_eq!(
            t.acknowledgment_number, self.next,
            "the SYN, and not its data"
        );
        self.expected = seen.end();
        self.acked = self.next;
        self.echo = timestamps(t).map(|(value, _)| value);
    }

    /// Opens the connection; the SYN-ACK.
    pub(crate) fn open(&mut self, ways: &Ways) -> Seen {
        for _ in 0..PATIENCE.as_secs() {
            self.send_syn(ways);
            // As kernels do, which try again after a second.
            while let Some(seen) = self.hear(Duration::from_secs(1)) {
                if seen.tcp.syn && seen.tcp.ack {
                    self.take_syn_ack(&seen);
                    self.send(self.segment(), &[]);
                    return seen;
                }
            }
        }
        panic!("no SYN-ACK within {PATIENCE:?}");
    }

    /// The header of a segment that is due now.
    pub(crate) fn segment(&self) -> TcpHeader {
        let mut tcp = TcpHeader {
            sequence_number: self.next,
            acknowledgment_number: self.expected,
            ack: true,
            window_size: self.window,
            ..TcpHeader::default()
        };
        if let Some(echo) = self.echo {
            let stamps = TcpOptionElement::Timestamp(self.now(), echo);
            tcp.set_options(&[TcpOptionElement::Noop, TcpOptionElement::Noop, stamps])
                .unwrap();
        }
        tcp
    }

    /// Milliseconds, as a client's timestamps count them.
    fn now(&self) -> u32 {
        1000 + self.begin.elapsed().as_millis() as u32
    }

    /// The header of a segment that begins so far from the next sequence number.
    pub(crate) fn segment_at(&self, distance: u32) -> TcpHeader {
        TcpHeader {
            sequence_number: self.next.wrapping_add(distance),
            psh: true,
            ..self.segment()
        }
    }

    /// Sends a segment as it is; ports and checksum are put in.
    pub(crate) fn send(&self, tcp: TcpHeader, payload: &[u8]) {
        self.send_ip(IpNumber::TCP, &self.whole(tcp, payload));
    }

    /// A segment with ports and checksum.
    pub(crate) fn whole(&self, tcp: TcpHeader, payload: &[u8]) -> Vec<u8> {
        tcp_bytes(self.local, self.remote, tcp, payload)
    }

    /// Sends something in an IP packet to the service's address.
    pub(crate) fn send_ip(&self, protocol: IpNumber, payload: &[u8]) {
        self.send_packet(&self.packet(protocol, payload));
    }

    /// An IP packet to the service's address.
    pub(crate) fn packet(&self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ip = self.ipv4((from, to), protocol, payload.len() as u16);
                whole_v4(ip, payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let (next, payload) = extended(&self.extensions, protocol, payload);
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: self.label,
                    ..ipv6(from, to, next, payload.len() as u16)
                };
                [&header.to_bytes()[..], &payload].concat()
            }
            (from, to) => panic!("{from} and {to}: of two families"),
        }
    }

    fn ipv4(
        &self,
        (from, to): (Ipv4Addr, Ipv4Addr),
        protocol: IpNumber,
        length: u16,
    ) -> Ipv4Header {
        let mut ip = Ipv4Header::new(length, HOPS, protocol, from.octets(), to.octets()).unwrap();
        ip.dscp = (self.class >> 2).try_into().unwrap();
        ip.ecn = (self.class & 3).try_into().unwrap();
        ip.dont_fragment = true;
        ip
    }

    /// Sends a part of a segment, which begins at a multiple of eight, as a fragment.
    pub(crate) fn send_fragment(&self, segment: &[u8], part: Range<usize>) {
        const IDENTIFICATION: u16 = 4711;
        let offset = IpFragOffset::try_new((part.start / 8) as u16).unwrap();
        let more = part.end < segment.len();
        let part = &segment[part];
        match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ip = Ipv4Header {
                    dont_fragment: false,
                    more_fragments: more,
                    identification: IDENTIFICATION,
                    fragment_offset: offset,
                    ..self.ipv4((from, to), IpNumber::TCP, part.len() as u16)
                };
                self.send_packet(&whole_v4(ip, part));
            }
            _ => {
                let header =
                    Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, IDENTIFICATION.into());
                let kind = IpNumber::IPV6_FRAGMENTATION_HEADER;
                self.send_ip(kind, &[&header.to_bytes()[..], part].concat());
            }
        }
    }

    /// Sends a packet as it is.
    pub(crate) fn send_packet(&self, packet: &[u8]) {
        let to = SocketAddr::new(self.remote.ip(), 0);
        self.out.send_to(packet, &to.into()).unwrap();
    }

    /// Sends data that is repeated until it is acknowledged, in one segment.
    pub(crate) fn say(&mut self, data: &[u8]) {
        self.send(self.segment_at(0), data);
        self.note_sent(data);
    }

    /// Notes that the next data was sent, in whatever way: it is repeated until it is acknowledged.
    pub(crate) fn note_sent(&mut self, data: &[u8]) {
        self.sent.push_back((self.next, data.to_vec()));
        self.next = self.next.wrapping_add(data.len() as u32);
    }

    /// The server's next segment to this client.
    pub(crate) fn hear(&self, patience: Duration) -> Option<Seen> {
        let deadline = Instant::now() + patience;
        let mut frame = vec![0; 1 << 17];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.input.set_read_timeout(Some(left)).unwrap();
            match (&self.input).read(&mut frame) {
                Ok(len) => {
                    if let Some(seen) = self.read(&frame[..len]) {
                        return Some(seen);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The segment in a frame, if it is for this client. (Its checksum may be left to a network card that isn't there.)
    fn read(&self, frame: &[u8]) -> Option<Seen> {
        let packet = frame.get(14..)?;
        let (from, to, header, packet) = addresses(packet)?;
        let (tcp, payload) = TcpHeader::from_slice(packet.get(header..)?).ok()?;
        let from = SocketAddr::from((from, tcp.source_port));
        let to = SocketAddr::from((to, tcp.destination_port));
        ((from, to) == (self.remote, self.local)).then(|| Seen {
            tcp,
            payload: payload.to_vec(),
            packet: packet.to_vec(),
        })
    }

    /// Waits for a segment, and repeats what isn't acknowledged; what comes before it is not taken.
    #[track_caller]
    pub(crate) fn expect(&self, what: &str, is: impl Fn(&Seen) -> bool) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        let mut repeat = Instant::now() + REPEAT;
        let mut others = Vec::new();
        while Instant::now() < deadline {
            match self.hear(repeat.saturating_duration_since(Instant::now())) {
                Some(seen) if is(&seen) => return seen,
                Some(seen) => others.push(seen.tcp),
                None => {
                    repeat = Instant::now() + REPEAT;
                    self.repeat();
                }
            }
        }
        panic!("not within {PATIENCE:?}: {what}; but {others:#?}")
    }

    /// Takes a segment as a client's kernel does, and acknowledges what it brings.
    pub(crate) fn take(&mut self, seen: &Seen) {
        let t = &seen.tcp;
        assert!(!t.rst, "reset by {t:?}");
        if t.acknowledgment_number.wrapping_sub(self.acked) as i32 > 0 {
            self.acked = t.acknowledgment_number;
        }
        self.sent
            .retain(|(seq, data)| !is_acked(self.acked, *seq, data));
        let carries = !seen.payload.is_empty() || t.fin;
        let had = self.expected.wrapping_sub(t.sequence_number);
        if carries && had <= seen.payload.len() as u32 && !self.ended {
            if self.echo.is_some() {
                self.echo = timestamps(t).map(|(value, _)| value);
            }
            self.received.extend(&seen.payload[had as usize..]);
            self.expected = seen.end();
            self.ended = t.fin;
        }
        if carries {
            self.send(self.segment(), &[]);
        }
    }

    /// Takes what comes, and repeats what isn't acknowledged, until `done`.
    #[track_caller]
    pub(crate) fn go_on_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut repeat = Instant::now() + REPEAT;
        while !done(self) {
            let now = Instant::now();
            assert!(now < deadline, "not within {PATIENCE:?}: {what}");
            if let Some(seen) = self.hear(repeat.saturating_duration_since(now)) {
                self.take(&seen);
            }
            if Instant::now() >= repeat {
                repeat = Instant::now() + REPEAT;
                self.repeat();
            }
        }
    }

    /// Repeats what isn't acknowledged.
    fn repeat(&self) {
        for (seq, data) in &self.sent {
            if !is_acked(self.acked, *seq, data) {
                self.send(self.segment_at(seq.wrapping_sub(self.next)), data);
            }
        }
    }

    /// Reads a response with `Content-Length`: its body.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Vec<u8> {
        self.go_on_until("a response", |client| response(&client.received).is_some());
        let (length, body) = response(&self.received).unwrap();
        self.received.drain(..length);
        body
    }

    /// Closes its side, and waits until the server has closed its own and knows of this.
    #[track_caller]
    pub(crate) fn close(&mut self) {
        let fin = TcpHeader {
            fin: true,
            ..self.segment()
        };
        self.send(fin, &[]);
        self.next = self.next.wrapping_add(1);
        self.go_on_until("the end of the connection", |client| {
            client.ended && client.acked == client.next
        });
    }
}

/// Whether an acknowledgment covers data that begins at `seq`.
fn is_acked(acked: u32, seq: u32, data: &[u8]) -> bool {
    let end = seq.wrapping_add(data.len() as u32);
    end.wrapping_sub(acked) as i32 <= 0
}

/// The length of the whole response that these bytes begin with, and its body.
fn response(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]);
    let (_, length) = text.split_once("Content-Length: ")?;
    let length: usize = length.split('\r').next()?.parse().ok()?;
    let body = bytes.get(head..head + length)?;
    Some((head + length, body.to_vec()))
}
