//! Segments that ordinary clients seldom send, one by one from a client made by hand: what the server and the client get.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::Place;
use etherparse::{IpFragOffset, IpNumber, TcpHeader};
use socket2::{Socket, TcpKeepalive};

use crate::client::{PATIENCE, Response, connect};
use crate::cluster::{APP, CLIENT, Cluster, Method, wait_for};
use crate::raw::{RawClient, Seen, Ways, syn_options};
use crate::servers::{Server, read_head};
use crate::uploads::body;

crate::cases![
    out_of_order,
    repeated_and_overlapping,
    overlapping_with_other_bytes,
    a_window_of_zero,
    a_server_that_does_not_read,
    urgent_data,
    congestion_is_told,
    both_close_at_once,
    keep_alive_probes,
    fast_open_and_multipath_are_declined,
    small_segments_and_no_scale,
    packets_that_are_too_big,
    a_client_that_reboots,
    fragments,
    frames_of_another_vlan,
];

/// How long closed connections may leave traces.
const TRACES: Duration = Duration::from_secs(12);

/// A cluster of two, with servers on [`APP`] that report all that a connection brought.
struct Odd {
    cluster: Cluster,
    servers: Vec<Server<Result<Vec<u8>, ErrorKind>>>,
}

impl Odd {
    fn up(method: &Method) -> Self {
        let cluster = Cluster::up(method, 2);
        let start = |node| {
            Server::start(&cluster, node, APP, |stream| {
                serve(stream).map_err(|e| e.kind())
            })
        };
        let servers = cluster.nodes().map(start).collect();
        let odd = Self { cluster, servers };
        // At first the nodes don't know each other's link addresses, and requests are repeated.
        for inspecting in odd.cluster.nodes() {
            for target in odd.cluster.nodes() {
                let mut client = odd.client(inspecting);
                client.open(&Ways::default());
                let request = request(target, 10);
                client.say(&request);
                assert_eq!(client.read_response(), body(10));
                client.close();
                odd.assert_server_read(target, &[&request]);
            }
        }
        odd
    }

    fn client(&self, inspecting: u8) -> RawClient {
        RawClient::new(&self.cluster, inspecting, APP)
    }

    /// That the next connection to a node's server brought these bytes and an orderly end.
    #[track_caller]
    fn assert_server_read(&self, node: u8, parts: &[&[u8]]) {
        let read = self.servers[usize::from(node) - 1].result();
        let expected = parts.concat();
        assert!(
            read.as_ref() == Ok(&expected),
            "{read:?}, but it should be {}",
            String::from_utf8_lossy(&expected)
        );
    }

    fn over(self) {
        for server in &self.servers {
            let more = server.result_within(Duration::from_millis(1));
            assert!(more.is_none(), "a connection too many: {more:?}");
        }
        self.cluster.wait_until_clean(TRACES);
    }
}

/// Answers each request with so many bytes as its path asks for; all that was read, in the end.
fn serve(stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let socket = Socket::from(stream);
    // Urgent data is data, for its place to be seen.
    socket.set_out_of_band_inline(true)?;
    let mut stream = TcpStream::from(socket);
    let mut all = Vec::new();
    let mut answered = 0;
    let mut part = [0; 4096];
    loop {
        while let Some(end) = all[answered..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&all[answered..]).into_owned();
            answered += end + 4;
            let path = head.split(' ').nth(1).unwrap_or_default();
            let size = path.rsplit('/').next().and_then(|size| size.parse().ok());
            let body = body(size.unwrap_or(0));
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )?;
            stream.write_all(&body)?;
        }
        match stream.read(&mut part)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&part[..n]),
        }
    }
}

/// A request to a node's server for so many bytes.
fn request(node: u8, size: usize) -> Vec<u8> {
    format!("GET /n{node}/{size} HTTP/1.1\r\nHost: dts.test\r\n\r\n").into_bytes()
}

/// The nodes that inspect and process.
const WAYS: [(u8, u8); 2] = [(1, 2), (1, 1)];

/// Acceptance: a request whose segments come in the wrong order.
fn out_of_order(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        // Within the head, and within what follows it.
        for cut in [[3, 30], [20, 40]] {
            let request = request(target, 3000);
            let mut client = odd.client(inspecting);
            client.open(&Ways::default());
            let [first, second] = cut;
            let parts = [
                &request[..first],
                &request[first..second],
                &request[second..],
            ];
            client.send(client.segment_at(second as u32), parts[2]);
            client.send(client.segment_at(first as u32), parts[1]);
            client.send(client.segment_at(0), parts[0]);
            for part in parts {
                client.note_sent(part);
            }
            assert_eq!(client.read_response(), body(3000));
            client.close();
            odd.assert_server_read(target, &[&request]);
        }
    }
    odd.over();
}

/// Acceptance: segments that come twice, and that overlap.
fn repeated_and_overlapping(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        for pause in [0, 5, 250] {
            let request = request(target, 3000);
            let mut client = odd.client(inspecting);
            client.open(&Ways::default());
            for (from, to) in [
                (0, 10),
                (0, 10),
                (5, 25),
                (0, 30),
                (20, request.len()),
                (0, request.len()),
            ] {
                client.send(client.segment_at(from as u32), &request[from..to]);
                thread::sleep(Duration::from_millis(pause));
            }
            client.note_sent(&request);
            assert_eq!(client.read_response(), body(3000));
            // Once more, now that it is answered.
            client.send(
                client.segment_at((request.len() as u32).wrapping_neg()),
                &request,
            );
            client.send(
                client.segment_at(5u32.wrapping_sub(request.len() as u32)),
                &request[5..],
            );
            client.close();
            odd.assert_server_read(target, &[&request]);
        }
    }
    odd.over();
}

/// What overlaps may say something else: what was first counts, to the rules and to the server.
fn overlapping_with_other_bytes(method: &'static Method) {
    let odd = Odd::up(method);
    let (said, said_later) = (request(2, 3000), request(1, 3000));
    for inspecting in odd.cluster.nodes() {
        for pause in [0, 250] {
            let mut client = odd.client(inspecting);
            client.open(&Ways::default());
            client.send(client.segment_at(0), &said[..10]);
            thread::sleep(Duration::from_millis(pause));
            client.send(client.segment_at(0), &said_later);
            client.note_sent(&said);
            assert_eq!(client.read_response(), body(3000));
            client.send(
                client.segment_at((said.len() as u32).wrapping_neg()),
                &said_later,
            );
            client.close();
            odd.assert_server_read(2, &[&said]);
        }
    }
    odd.over();
}

/// Acceptance: a client whose window is zero when it asks: it gets its answer when there is room.
fn a_window_of_zero(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        let request = request(target, 30_000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        let room = client.window;
        client.window = 0;
        client.say(&request);
        // A byte at the most is tried, or none.
        let mut probes = 0;
        while probes < 2 {
            let seen = client.expect("a probe", |seen| {
                seen.tcp.acknowledgment_number == client.next
            });
            assert!(
                seen.payload.len() <= 1,
                "{} bytes into no window",
                seen.payload.len()
            );
            client.acked = client.next;
            probes += u32::from(
                seen.tcp.sequence_number == client.expected.wrapping_sub(1)
                    || !seen.payload.is_empty(),
            );
            client.send(client.segment(), &[]);
        }
        client.window = room;
        client.send(client.segment(), &[]);
        assert_eq!(client.read_response(), body(30_000));
        client.close();
        odd.assert_server_read(target, &[&request]);
    }
    odd.over();
}

/// Acceptance: a server that doesn't read for a while: its window closes, and opens again, on nodes with different scales.
fn a_server_that_does_not_read(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| {
        for (node, most) in spec.nodes.iter_mut().zip(["1048576", "33554432"]) {
            let setting = (
                "net.ipv4.tcp_rmem".to_owned(),
                format!("4096 131072 {most}"),
            );
            node.sysctls.push(setting);
        }
    });
    let servers = cluster.nodes().map(|node| {
        Server::start(&cluster, node, APP, |mut stream: TcpStream| {
            let (_, mut body) = read_head(&mut stream)?;
            thread::sleep(Duration::from_secs(2));
            stream.read_to_end(&mut body)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            Ok::<_, std::io::Error>(body)
        })
    });
    let servers: Vec<_> = servers.collect();
    let sent = body(8_000_000);
    for (inspecting, target) in [(1u8, 2u8), (2, 1), (1, 1)] {
        let port = cluster.port_inspected_by(inspecting);
        let mut stream = connect(&cluster, Some(port), APP).unwrap();
        let begin = Instant::now();
        let head = format!("PUT /n{target}/x HTTP/1.1\r\nHost: dts.test\r\n\r\n");
        stream
            .write_all(&[head.as_bytes(), &sent].concat())
            .unwrap();
        // More than the client's own buffers hold: nothing got into the window meanwhile.
        let waited = begin.elapsed();
        assert!(waited > Duration::from_millis(1500), "{waited:?}");
        stream.shutdown(Shutdown::Write).unwrap();
        let read = servers[usize::from(target) - 1].result().unwrap();
        assert!(read == sent, "{} bytes", read.len());
        assert_eq!(Response::read(&stream).unwrap().status, 200);
    }
    cluster.wait_until_clean(TRACES);
}

/// Acceptance: urgent data. (What reaches an inspector is data like any other to the server.)
fn urgent_data(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        // In a request that is whole, in one that comes in parts, and after it.
        for cut in [None, Some(20)] {
            let request = request(target, 3000);
            let mut client = odd.client(inspecting);
            client.open(&Ways::default());
            let urgent = |client: &RawClient, pointer| TcpHeader {
                urg: true,
                urgent_pointer: pointer,
                ..client.segment_at(0)
            };
            let first = cut.unwrap_or(request.len());
            client.send(urgent(&client, 7), &request[..first]);
            client.note_sent(&request[..first]);
            if cut.is_some() {
                thread::sleep(Duration::from_millis(250));
                client.send(urgent(&client, 3), &request[first..]);
                client.note_sent(&request[first..]);
            }
            assert_eq!(client.read_response(), body(3000));
            client.send(urgent(&client, 1), b"!");
            client.note_sent(b"!");
            client.go_on_until("the urgent byte's acknowledgment", |client| {
                client.acked == client.next
            });
            client.close();
            odd.assert_server_read(target, &[&request, b"!"]);
        }
    }
    odd.over();
}

/// Acceptance: ECN is agreed, works between client and server, and ends when the client says so.
fn congestion_is_told(method: &'static Method) {
    /// ECT(0), and CE (RFC 3168).
    const CAPABLE: u8 = 2;
    const EXPERIENCED: u8 = 3;
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        let request = request(target, 10);
        let mut client = odd.client(inspecting);
        let ways = Ways {
            ecn: true,
            ..Ways::default()
        };
        let syn_ack = client.open(&ways);
        assert!(syn_ack.tcp.ece && !syn_ack.tcp.cwr, "{:?}", syn_ack.tcp);
        client.class = CAPABLE;
        client.say(&request);
        assert_eq!(client.read_response(), body(10));
        // A router marks a segment; the server says so until it is told that it was heard.
        client.class = EXPERIENCED;
        client.send(client.segment_at(0), b"GE");
        client.note_sent(b"GE");
        let told = client.expect("an echo", |seen| {
            seen.tcp.acknowledgment_number == client.next
        });
        assert!(told.tcp.ece, "{:?}", told.tcp);
        client.acked = client.next;
        client.class = CAPABLE;
        let heard = TcpHeader {
            cwr: true,
            ..client.segment_at(0)
        };
        client.send(heard, b"T ");
        client.note_sent(b"T ");
        let quiet = client.expect("an acknowledgment", |seen| {
            seen.tcp.acknowledgment_number == client.next
        });
        assert!(!quiet.tcp.ece, "{:?}", quiet.tcp);
        client.acked = client.next;
        client.class = 0;
        client.close();
        odd.assert_server_read(target, &[&request, b"GET "]);
    }
    odd.over();
}

/// Acceptance: both sides close without knowing of each other's.
fn both_close_at_once(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let servers = cluster.nodes().map(|node| {
        Server::start(&cluster, node, APP, |mut stream: TcpStream| {
            read_head(&mut stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        })
    });
    let servers: Vec<_> = servers.collect();
    for (inspecting, target) in WAYS {
        let mut client = RawClient::new(&cluster, inspecting, APP);
        client.open(&Ways::default());
        client.say(&request(target, 0));
        // The server has closed; the client has the response, but says nothing of that.
        let fin = client.expect("the server's FIN", |seen| seen.tcp.fin);
        assert!(servers[usize::from(target) - 1].result().is_ok());
        let before = TcpHeader {
            fin: true,
            acknowledgment_number: fin
                .tcp
                .sequence_number
                .wrapping_add(fin.payload.len() as u32),
            ..client.segment()
        };
        client.send(before, &[]);
        client.next = client.next.wrapping_add(1);
        let closing = client.expect("the FIN's acknowledgment", |seen| {
            seen.tcp.acknowledgment_number == client.next
        });
        client.acked = client.next;
        client.expected = fin
            .tcp
            .sequence_number
            .wrapping_add(fin.payload.len() as u32 + 1);
        assert!(!closing.tcp.rst);
        client.send(client.segment(), &[]);
        wait_for(
            "the server's socket waits for late segments",
            PATIENCE,
            || {
                let filter = format!("dport = :{}", client.local.port());
                let sockets = cluster
                    .ss(Place::Node(target), &["-Htan", &filter])
                    .unwrap();
                sockets.starts_with("TIME-WAIT") && sockets.lines().count() == 1
            },
        );
    }
    cluster.wait_until_clean(TRACES);
}

/// Acceptance: keep-alive probes of the client's are answered, also while its request is undecided, and the server's
/// reach the client.
fn keep_alive_probes(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let servers = cluster.nodes().map(|node| {
        Server::start(&cluster, node, APP, |stream: TcpStream| {
            let socket = Socket::from(stream);
            let often = TcpKeepalive::new()
                .with_time(Duration::from_secs(1))
                .with_interval(Duration::from_secs(1))
                .with_retries(2);
            socket.set_tcp_keepalive(&often).unwrap();
            serve(socket.into())
        })
    });
    let servers: Vec<_> = servers.collect();
    for (inspecting, target) in WAYS {
        let request = request(target, 100);
        let mut client = RawClient::new(&cluster, inspecting, APP);
        client.open(&Ways::default());
        let (first, rest) = request.split_at(10);
        client.say(first);
        // Where connections are adopted, what comes slowly is acknowledged after a while.
        client.go_on_until("the first part's acknowledgment", |client| {
            client.acked == client.next
        });
        probe(&client);
        client.say(rest);
        assert_eq!(client.read_response(), body(100));
        probe(&client);
        for _ in 0..3 {
            let before = client.expected.wrapping_sub(1);
            let asked = client.expect("a probe", |seen| seen.tcp.sequence_number == before);
            assert!(asked.payload.len() <= 1);
            client.send(client.segment(), &[]);
        }
        client.close();
        let server = &servers[usize::from(target) - 1];
        assert_eq!(server.result().unwrap(), request);
    }
    cluster.wait_until_clean(TRACES);
}

/// Asks whether the other side is there, without a byte and with one, as older kernels do (RFC 9293 §3.8.4).
#[track_caller]
fn probe(client: &RawClient) {
    for payload in [&b""[..], b"\0"] {
        let asks = TcpHeader {
            psh: false,
            ..client.segment_at(u32::MAX)
        };
        client.send(asks, payload);
        let answer = client.expect("an answer to a probe", |seen| seen.payload.is_empty());
        assert_eq!(answer.tcp.acknowledgment_number, client.next);
        assert_eq!(answer.tcp.sequence_number, client.expected);
    }
}

/// Acceptance: TCP Fast Open and MPTCP in a client's SYN are declined, and the connection works.
fn fast_open_and_multipath_are_declined(method: &'static Method) {
    const FAST_OPEN: u8 = 34;
    const MULTIPATH: u8 = 30;
    let odd = Odd::up(method);
    let cookie = [&[1, 1, FAST_OPEN, 10][..], &[7; 8]].concat();
    let offers: [&[u8]; 3] = [
        // The wish for a cookie, a cookie, and MP_CAPABLE of version 1 (RFC 8684 §3.1).
        &[1, 1, FAST_OPEN, 2],
        &cookie,
        &[MULTIPATH, 4, 1, 1],
    ];
    for (inspecting, target) in WAYS {
        for offer in offers {
            for with_data in [false, true] {
                let request = request(target, 3000);
                let mut client = odd.client(inspecting);
                let ways = Ways {
                    syn_options: syn_options(1460, Some(7), offer),
                    syn_data: if with_data {
                        request.clone()
                    } else {
                        Vec::new()
                    },
                    ..Ways::default()
                };
                // Nothing of the SYN's data is acknowledged.
                let syn_ack = client.open(&ways);
                let kinds = kinds(&syn_ack);
                assert!(
                    !kinds.contains(&FAST_OPEN) && !kinds.contains(&MULTIPATH),
                    "{kinds:?}"
                );
                client.say(&request);
                assert_eq!(client.read_response(), body(3000));
                client.close();
                odd.assert_server_read(target, &[&request]);
            }
        }
    }
    odd.over();
}

/// The kinds of a segment's options.
fn kinds(seen: &Seen) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut rest = seen.tcp.options.as_slice();
    while let Some(kind) = rest.first() {
        kinds.push(*kind);
        let len = if *kind < 2 {
            1
        } else {
            usize::from(*rest.get(1).unwrap_or(&1))
        };
        rest = rest.get(len.max(1)..).unwrap_or_default();
    }
    kinds
}

/// Has a place's interfaces send segments of their real size, as they are on a wire.
fn send_as_on_a_wire(cluster: &Cluster) {
    for place in cluster.spec().node_places().chain([CLIENT]) {
        for interface in ["eth0", "eth1"] {
            let off = format!("ethtool -K {interface} tso off gso off gro off");
            if place != CLIENT || interface == "eth0" {
                cluster.sh(place, &off).unwrap();
            }
        }
    }
}

/// Acceptance: a client that takes small segments only, and no window scale, with nodes whose own scales and sizes differ.
fn small_segments_and_no_scale(method: &'static Method) {
    const MSS: u16 = 700;
    const TIMESTAMPS: usize = 12;
    // A cookie knows eight sizes only; the next smaller one is meant.
    let size = if method.adopts() { 536 } else { MSS };
    let odd = Odd::up(method);
    send_as_on_a_wire(&odd.cluster);
    let sysctl = "sysctl -q -w net.ipv4.tcp_rmem='4096 131072 33554432'";
    odd.cluster.sh(Place::Node(2), sysctl).unwrap();
    let route = "ip route change 198.18.2.0/24 via 198.18.0.201 dev eth0 advmss 1000";
    odd.cluster.sh(Place::Node(2), route).unwrap();
    for (inspecting, target) in [(1, 2), (2, 1), (1, 1), (2, 2)] {
        for scale in [None, Some(0), Some(14)] {
            let request = request(target, 200_000);
            let mut client = odd.client(inspecting);
            let ways = Ways {
                syn_options: syn_options(MSS, scale, &[]),
                window: 20_000,
                ..Ways::default()
            };
            client.open(&ways);
            if scale == Some(14) {
                client.window = 2;
            }
            client.say(&request);
            let mut longest = 0;
            while client.received.len() < 200_000 {
                let seen = client.expect("more", |seen| !seen.payload.is_empty());
                longest = longest.max(seen.payload.len());
                let ahead = seen.tcp.sequence_number.wrapping_sub(client.expected) as usize;
                assert!(
                    ahead + seen.payload.len() <= 32_768 || ahead > 1 << 31,
                    "beyond the window: {ahead}"
                );
                client.take(&seen);
            }
            assert_eq!(longest, usize::from(size) - TIMESTAMPS);
            assert_eq!(client.read_response(), body(200_000));
            client.close();
            odd.assert_server_read(target, &[&request]);
        }
    }
    odd.over();
}

/// Acceptance: a router says that packets are too big for its next link: the server's node sends smaller ones.
fn packets_that_are_too_big(method: &'static Method) {
    const MTU: u16 = 1000;
    let odd = Odd::up(method);
    send_as_on_a_wire(&odd.cluster);
    for (inspecting, target) in WAYS {
        let request = request(target, 50_000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        client.say(&request);
        let lost = client.expect("a large segment", |seen| seen.packet.len() > 1400);
        let before = odd.cluster.actions(target, "icmp_error");
        client.send_ip(IpNumber::ICMP, &too_big(&lost, MTU));
        let again = client.expect("the same, smaller", |seen| {
            seen.tcp.sequence_number == lost.tcp.sequence_number
                && seen.packet.len() < lost.packet.len()
        });
        assert_eq!(again.packet.len(), usize::from(MTU));
        assert_eq!(odd.cluster.actions(target, "icmp_error"), before + 1);
        client.take(&again);
        while client.received.len() < 50_000 {
            let seen = client.expect("more", |seen| !seen.payload.is_empty());
            // What was under way already is not that size.
            client.take(&seen);
        }
        assert_eq!(client.read_response(), body(50_000));
        client.close();
        odd.assert_server_read(target, &[&request]);
        odd.cluster
            .sh(Place::Node(target), "ip route flush cache")
            .unwrap();
    }
    odd.over();
}

/// An ICMP error: fragmentation needed, next link's MTU (RFC 1191). It quotes IP header and eight bytes.
fn too_big(packet: &Seen, mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
    message.extend(&packet.packet[..28]);
    let sum = message.chunks(2).fold(0u32, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair[1])
    });
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Acceptance: a client reboots in the middle of a connection and uses the same port again.
fn a_client_that_reboots(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        for next_target in odd.cluster.nodes() {
            let request_before = request(target, 100);
            let mut client = odd.client(inspecting);
            client.open(&Ways::default());
            client.say(&request_before);
            assert_eq!(client.read_response(), body(100));

            let mut client = client.rebooted(&odd.cluster);
            reopen(&mut client);
            let request = request(next_target, 3000);
            client.say(&request);
            assert_eq!(client.read_response(), body(3000));
            // The server that had the first one learns that it is over.
            let old = odd.servers[usize::from(target) - 1].result();
            let reset = Err(ErrorKind::ConnectionReset);
            assert_eq!(old, reset, "n{target}, then n{next_target}");
            client.close();
            odd.assert_server_read(next_target, &[&request]);
        }
    }
    odd.over();
}

/// Opens a connection as a kernel does that knows of none: what acknowledges something else is reset (RFC 9293 §3.10.7.3), and
/// the SYN repeated.
fn reopen(client: &mut RawClient) {
    for _ in 0..5 {
        client.send_syn(&Ways::default());
        while let Some(seen) = client.hear(Duration::from_secs(1)) {
            if seen.tcp.acknowledgment_number != client.next {
                let reset = TcpHeader {
                    sequence_number: seen.tcp.acknowledgment_number,
                    rst: true,
                    ..TcpHeader::default()
                };
                client.send(reset, &[]);
            } else if seen.tcp.syn && seen.tcp.ack {
                client.take_syn_ack(&seen);
                client.send(client.segment(), &[]);
                return;
            }
        }
    }
    panic!("the new connection is not opened");
}

/// Acceptance: fragments are dropped and counted; the connection that they belong to goes on with what isn't fragmented.
fn fragments(method: &'static Method) {
    let odd = Odd::up(method);
    for (inspecting, target) in WAYS {
        let request = request(target, 3000);
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        let dropped = |node| odd.cluster.drops(node, "fragment");
        let before: Vec<u64> = odd.cluster.nodes().map(dropped).collect();
        send_fragmented(&client, &request);
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        for (node, before) in odd.cluster.nodes().zip(before) {
            assert_eq!(dropped(node), before + 2, "n{node}");
        }
        client.say(&request);
        assert_eq!(client.read_response(), body(3000));
        // The same in the middle of the connection.
        send_fragmented(&client, b"and more of it, twenty bytes at the least");
        let heard = client.hear(Duration::from_millis(200));
        assert!(heard.is_none(), "{heard:?}");
        client.close();
        odd.assert_server_read(target, &[&request]);
    }
    odd.over();
}

/// Sends a segment in two fragments, the first with the whole TCP header.
fn send_fragmented(client: &RawClient, data: &[u8]) {
    let segment = client.whole(client.segment_at(0), data);
    let cut = 40;
    for (offset, more, part) in [(0, true, &segment[..cut]), (cut, false, &segment[cut..])] {
        let mut ip = client.ipv4(IpNumber::TCP, part.len() as u16);
        ip.dont_fragment = false;
        ip.more_fragments = more;
        ip.identification = 4711;
        ip.fragment_offset = IpFragOffset::try_new((offset / 8) as u16).unwrap();
        client.send_packet(&[&ip.to_bytes()[..], part].concat());
    }
}

/// Acceptance: frames with the tag of a VLAN that isn't the front's are another network's: nothing answers them.
fn frames_of_another_vlan(method: &'static Method) {
    let odd = Odd::up(method);
    let counted = |node| {
        let stats = odd.cluster.stats(node);
        ["syn_answered", "to_inspector", "not_owner"].map(|name| {
            let found = stats.actions.get(name).or_else(|| stats.drops.get(name));
            *found.unwrap()
        })
    };
    let before: Vec<_> = odd.cluster.nodes().map(counted).collect();
    let client = odd.client(1);
    // Tag 7, and the tag 0 of frames that have a priority only.
    for (tag, answered) in [(7u16, false), (0, true)] {
        let mut syn = TcpHeader {
            sequence_number: client.isn,
            syn: true,
            window_size: 64_000,
            ..TcpHeader::default()
        };
        syn.set_options_raw(&syn_options(1460, Some(7), &[]))
            .unwrap();
        let segment = client.whole(syn, &[]);
        let mut ip = client.ipv4(IpNumber::TCP, segment.len() as u16);
        ip.header_checksum = ip.calc_header_checksum();
        let [high, low] = tag.to_be_bytes();
        let destination = [&[0x03, 0xbf][..], &dts_lab::VIP.octets()].concat();
        let frame = [
            &destination[..],
            &CLIENT.mac(dts_lab::Network::Front).unwrap(),
            &[0x81, 0x00, high, low, 0x08, 0x00],
            &ip.to_bytes(),
            &segment,
        ]
        .concat();
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let script = format!(
            "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
             s.bind(('eth0', 0)); s.send(bytes.fromhex('{hex}'))\""
        );
        odd.cluster.sh(CLIENT, &script).unwrap();
        let heard = client.hear(Duration::from_millis(500));
        assert_eq!(heard.is_some(), answered, "tag {tag}: {heard:?}");
        if !answered {
            let after: Vec<_> = odd.cluster.nodes().map(counted).collect();
            assert_eq!(after, before, "tag {tag}");
        }
    }
    // Its connection is not opened any further.
    let reset = TcpHeader {
        sequence_number: client.isn.wrapping_add(1),
        rst: true,
        ..TcpHeader::default()
    };
    client.send(reset, &[]);
    odd.over();
}
