//! Segments that ordinary clients seldom send, one by one from a client made by hand: what the server and the client get.

use std::env;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::Place;
use etherparse::TcpHeader;

use crate::client::{PATIENCE, Response, connect};
use crate::cluster::{APP, Cluster, Method, TRACES, wait_for};
use crate::raw::{self, RawClient, Ways};
use crate::servers::{Server, read_head};
use crate::uploads::body;

mod server;

pub(crate) use server::request;
use server::{PROBED, request_with, serve};

crate::cases![segments_in_turn, a_server_that_does_not_read];

/// A part of a case, on a cluster that it shares with others.
pub(crate) type Step = (&'static str, fn(&Odd));

/// Names the steps of a case.
macro_rules! steps {
    ($($step:ident),+ $(,)?) => {
        &[$((stringify!($step), $step as fn(&crate::odd::Odd))),+]
    };
}
pub(crate) use steps;

const STEPS: &[Step] = steps![
    out_of_order,
    repeated_and_overlapping,
    overlapping_with_other_bytes,
    a_window_of_zero,
    urgent_data,
    congestion_is_told,
    both_close_at_once,
    keep_alive_probes,
];

fn segments_in_turn(method: &'static Method) {
    in_turn(method, &[STEPS]);
}

/// A cluster of two, with servers on [`APP`] that report all that a connection brought.
pub(crate) struct Odd {
    pub(crate) adopts: bool,
    pub(crate) cluster: Cluster,
    pub(crate) servers: Vec<Server<Result<Vec<u8>, ErrorKind>>>,
}

impl Odd {
    pub(crate) fn up(method: &Method) -> Self {
        let cluster = raw::cluster(method, 2);
        let start = |node| {
            Server::start(&cluster, node, APP, |stream| {
                serve(stream).map_err(|e| e.kind())
            })
        };
        let servers = cluster.nodes().map(start).collect();
        let odd = Self {
            adopts: method.adopts(),
            cluster,
            servers,
        };
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

    pub(crate) fn client(&self, inspecting: u8) -> RawClient {
        RawClient::new(&self.cluster, inspecting, APP)
    }

    /// That the next connection to a node's server brought these bytes and an orderly end.
    #[track_caller]
    pub(crate) fn assert_server_read(&self, node: u8, parts: &[&[u8]]) {
        let read = self.servers[usize::from(node) - 1].result();
        let expected = parts.concat();
        assert!(
            read.as_ref() == Ok(&expected),
            "{read:?}, but it should be {}",
            String::from_utf8_lossy(&expected)
        );
    }

    fn no_more_connections(&self) {
        for server in &self.servers {
            let more = server.result_within(Duration::from_millis(1));
            assert!(more.is_none(), "a connection too many: {more:?}");
        }
    }
}

/// Runs steps on one cluster, one after the other: to make one takes longer than most of them. `DTS_STEP` selects those
/// whose names contain it.
pub(crate) fn in_turn(method: &Method, steps: &[&[Step]]) {
    /// Says which step it was that failed.
    struct Running(&'static str);
    impl Drop for Running {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("in the step {}", self.0);
            }
        }
    }
    let selected = env::var("DTS_STEP").unwrap_or_default();
    let odd = Odd::up(method);
    for (name, step) in steps.iter().copied().flatten() {
        if name.contains(&selected) {
            let _running = Running(name);
            step(&odd);
            odd.no_more_connections();
        }
    }
    odd.cluster.wait_until_clean(TRACES);
}

/// The nodes that inspect and process.
pub(crate) const WAYS: [(u8, u8); 2] = [(1, 2), (1, 1)];

/// Acceptance: a request whose segments come in the wrong order.
fn out_of_order(odd: &Odd) {
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
}

/// Acceptance: segments that come twice, and that overlap.
fn repeated_and_overlapping(odd: &Odd) {
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
                // The longest makes it one that comes slowly; that is so when its first segments have come.
                if pause < 100 || to <= 10 {
                    thread::sleep(Duration::from_millis(pause));
                }
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
}

/// What overlaps may say something else: what was first counts, to the rules and to the server.
fn overlapping_with_other_bytes(odd: &Odd) {
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
}

/// Acceptance: a client whose window is zero when it asks: it gets its answer when there is room.
fn a_window_of_zero(odd: &Odd) {
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
    let upload = &|(inspecting, target): (u8, u8)| {
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
        assert_eq!(Response::read(&stream).unwrap().status, 200);
    };
    let uploads = [(1u8, 2u8), (2, 1), (1, 1)];
    thread::scope(|scope| {
        for one in uploads {
            scope.spawn(move || upload(one));
        }
    });
    for (_, target) in uploads {
        let read = servers[usize::from(target) - 1].result().unwrap();
        assert!(read == sent, "{} bytes", read.len());
    }
    cluster.wait_until_clean(TRACES);
}

/// Acceptance: urgent data. (What reaches an inspector is data like any other to the server.)
fn urgent_data(odd: &Odd) {
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
}

/// Acceptance: ECN is agreed, works between client and server, and ends when the client says so.
fn congestion_is_told(odd: &Odd) {
    /// ECT(0), and CE (RFC 3168).
    const CAPABLE: u8 = 2;
    const EXPERIENCED: u8 = 3;
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
}

/// Acceptance: both sides close without knowing of each other's.
fn both_close_at_once(odd: &Odd) {
    for (inspecting, target) in WAYS {
        let request = request_with(target, 0, "Connection: close");
        let mut client = odd.client(inspecting);
        client.open(&Ways::default());
        client.say(&request);
        // The server has closed; the client has the response, but says nothing of that.
        let fin = client.expect("the server's FIN", |seen| seen.tcp.fin);
        odd.assert_server_read(target, &[&request]);
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
                let place = Place::Node(target);
                let sockets = odd.cluster.ss(place, &["-Htan", &filter]).unwrap();
                sockets.starts_with("TIME-WAIT") && sockets.lines().count() == 1
            },
        );
    }
}

/// Acceptance: keep-alive probes of the client's are answered, also while its request is undecided, and the server's
/// reach the client.
fn keep_alive_probes(odd: &Odd) {
    let connections = WAYS.map(|(inspecting, target)| {
        let request = request_with(target, 100, PROBED);
        let mut client = odd.client(inspecting);
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
        (client, target, request)
    });
    // A server gives up after two that aren't answered.
    for _ in 0..3 {
        for (client, ..) in &connections {
            let before = client.expected.wrapping_sub(1);
            let asked = client.expect("a probe", |seen| seen.tcp.sequence_number == before);
            assert!(asked.payload.len() <= 1);
            client.send(client.segment(), &[]);
        }
    }
    for (mut client, target, request) in connections {
        client.close();
        odd.assert_server_read(target, &[&request]);
    }
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
