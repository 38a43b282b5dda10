//! Connections that don't go the usual way: requests in parts, half-closes, resets, early answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{Effect, Impairment, Network, Place, sha256};

use crate::client::{PATIENCE, Response, connect, get, head, reset};
use crate::cluster::{APP, CLIENT, Cluster, Method, TRACES, WEB, wait_for};
use crate::servers::{Server, read_head};
use crate::uploads::body;

crate::cases![
    a_head_in_parts,
    half_close,
    resets_by_the_client,
    a_port_whose_reset_was_lost,
    resets_by_the_server,
    an_answer_before_the_request_is_read,
];

fn slow_back(cluster: &Cluster, delay: Duration) {
    let effect = Effect::Delay {
        delay,
        jitter: Duration::ZERO,
    };
    let impairment = Impairment::of_network(Network::Back, effect);
    cluster.impair(&impairment).unwrap();
}

/// Acceptance: requests over several segments.
fn a_head_in_parts(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    for target in cluster.nodes() {
        let path = format!("/n{target}/absent");
        let head = head("GET", &path, None);
        let parts: [(usize, u64); 2] = [(1, 3), (head.len().div_ceil(3), 150)];
        for (part, pause) in parts {
            let port = cluster.port_inspected_by(1);
            let mut stream = connect(&cluster, Some(port), WEB).unwrap();
            for part in head.as_bytes().chunks(part) {
                stream.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(pause));
            }
            let response = Response::read(&stream).unwrap();
            assert_eq!(response.status, 404);
            assert_eq!(response.node, Some(format!("n{target}")));
        }
    }
}

/// Acceptance: the client closes its side after the request, at any time; the server reads all of it, and
/// its answer comes all the same.
fn half_close(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let servers = cluster.nodes().map(|node| {
        Server::start(&cluster, node, APP, |mut stream: TcpStream| {
            let (_, mut body) = read_head(&mut stream)?;
            stream.read_to_end(&mut body)?;
            let answer = sha256(&body);
            write!(stream, "HTTP/1.1 200 OK\r\n\r\n{answer}")?;
            Ok::<_, io::Error>(answer)
        })
    });
    let servers: Vec<_> = servers.collect();
    for slow in [false, true] {
        if slow {
            slow_back(&cluster, Duration::from_millis(20));
        }
        for target in cluster.nodes() {
            // With the request, in the middle of the handover, after it.
            for pause in [0, 5, 30, 200] {
                for size in [0, 10, 100_000] {
                    let body = body(size);
                    let port = cluster.port_inspected_by(1);
                    let mut stream = connect(&cluster, Some(port), APP).unwrap();
                    let head = format!("PUT /n{target}/x HTTP/1.0\r\n\r\n");
                    stream
                        .write_all(&[head.as_bytes(), &body].concat())
                        .unwrap();
                    thread::sleep(Duration::from_millis(pause));
                    stream.shutdown(Shutdown::Write).unwrap();
                    let response = Response::read(&stream).unwrap_or_else(|error| {
                        panic!("n{target}, {size} bytes, closed {pause} ms later: {error}")
                    });
                    assert_eq!(response.text(), sha256(&body));
                    let server = &servers[usize::from(target) - 1];
                    assert_eq!(server.result().unwrap(), sha256(&body));
                }
            }
        }
    }
    cluster.wait_until_clean(TRACES);
}

/// Acceptance: resets by the client before, during and after the handover reach who has the connection,
/// and leave nothing.
fn resets_by_the_client(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let servers = cluster.nodes().map(|node| {
        Server::start(&cluster, node, APP, |mut stream: TcpStream| {
            let request = read_head(&mut stream).map(|(head, _)| head);
            let request = request.map_err(|error| ("reading the request", error))?;
            stream.write_all(&body(5000)).map_err(|e| ("writing", e))?;
            // Nothing more comes but the client's reset.
            match stream.read_to_end(&mut Vec::new()) {
                Ok(_) => Ok(request),
                Err(error) => Err(("waiting for the reset", error)),
            }
        })
    });
    let servers: Vec<_> = servers.collect();
    slow_back(&cluster, Duration::from_millis(20));
    for target in cluster.nodes() {
        let server = &servers[usize::from(target) - 1];
        let request = head("GET", &format!("/n{target}/"), None);
        let connect = || connect(&cluster, Some(cluster.port_inspected_by(1)), APP).unwrap();

        let mut before = connect();
        before.write_all(&request.as_bytes()[..10]).unwrap();
        thread::sleep(Duration::from_millis(100));
        reset(before);
        let heard = server.result_within(Duration::from_millis(200));
        assert!(heard.is_none(), "the server never heard of this one");

        // The handover's SYN, its answer, the request: 40 ms and more.
        for pause in [0, 5, 10, 25, 45, 60, 80, 200] {
            let mut during = connect();
            during.write_all(request.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(pause));
            reset(during);
            // It need not get to the server at all; if it does, it may not see a clean end.
            let heard = server.result_within(Duration::from_secs(2));
            let is_reset = |error: &io::Error| {
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                )
            };
            match heard {
                None => assert!(pause < 80, "the server must have heard of this one"),
                Some(Err((_, error))) if is_reset(&error) => {}
                Some(other) => panic!("n{target}, reset {pause} ms later: {other:?}"),
            }
        }
    }
    cluster.wait_until_clean(TRACES);
}

/// A client resets a connection that the server has closed, and the reset is lost. To the server the connection
/// only half ended; the client uses the port again, before the cluster has forgotten the connection and after.
fn a_port_whose_reset_was_lost(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let silence = Impairment::of_place(Network::Front, CLIENT, Effect::Loss(1.0));
    for (target, pause) in [(1, 0), (2, 0), (1, 5), (2, 5)] {
        let path = format!("/n{target}/absent");
        let port = cluster.port_inspected_by(1);
        let mut stream = connect(&cluster, Some(port), WEB).unwrap();
        stream
            .write_all(head("GET", &path, None).as_bytes())
            .unwrap();
        Response::read(&stream).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server's end");
        let sockets = format!("ss -Htan dport = :{port}");
        wait_for("the server to have closed", PATIENCE, || {
            let sockets = cluster.sh(Place::Node(target), &sockets).unwrap();
            sockets.contains("FIN-WAIT-2")
        });
        cluster.impair(&silence).unwrap();
        reset(stream);
        cluster.clear_impairments().unwrap();

        thread::sleep(Duration::from_secs(pause));
        let start = Instant::now();
        let response = get(&cluster, Some(port), WEB, &path).unwrap();
        assert_eq!(response.node, Some(format!("n{target}")));
        // The kernel of a client that meets such a server directly tries again after a second.
        let taken = start.elapsed();
        assert!(taken < Duration::from_secs(1), "n{target}: {taken:?}");
    }
    // To the kernel such a socket is in TIME_WAIT. Where SYNs meet the server's sockets, they take it away; the node
    // that answers them itself counts the answer.
    let (how, times) = if method.adopts() {
        ("time_wait_killed", 2)
    } else {
        ("stale_reset", 4)
    };
    assert_eq!(cluster.sum(|node| cluster.actions(node, how)), times);
    cluster.wait_until_clean(TRACES);
}

/// Acceptance: resets by the server reach the client, before and in the middle of an answer.
fn resets_by_the_server(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let _servers: Vec<_> = cluster
        .nodes()
        .map(|node| {
            Server::start(&cluster, node, APP, |mut stream: TcpStream| {
                let (head, _) = read_head(&mut stream).unwrap();
                if head.contains("/partly") {
                    stream.write_all(&body(5000)).unwrap();
                    // Let it be acknowledged: a reset overtakes what is still to be sent.
                    thread::sleep(Duration::from_millis(100));
                }
                reset(stream);
            })
        })
        .collect();
    for target in cluster.nodes() {
        for (path, expected) in [("at-once", 0), ("partly", 5000)] {
            let port = cluster.port_inspected_by(1);
            let mut stream = connect(&cluster, Some(port), APP).unwrap();
            let request = head("GET", &format!("/n{target}/{path}"), None);
            stream.write_all(request.as_bytes()).unwrap();
            let mut received = Vec::new();
            let error = stream.read_to_end(&mut received).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{path}: {error}");
            assert_eq!(received.len(), expected, "{path}");
        }
    }
    cluster.wait_until_clean(TRACES);
}

/// Acceptance: a server that answers before it has read all: 413 to an upload of 20 MB.
fn an_answer_before_the_request_is_read(method: &'static Method) {
    const REFUSAL: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let cluster = Cluster::up(method, 2);
    let _servers: Vec<_> = cluster
        .nodes()
        .map(|node| {
            Server::start(&cluster, node, APP, |mut stream: TcpStream| {
                read_head(&mut stream).unwrap();
                stream.write_all(REFUSAL.as_bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                // As servers do: an immediate close would be a reset, and overtake the answer.
                let deadline = std::time::Instant::now() + Duration::from_millis(500);
                let mut part = vec![0; 1 << 16];
                while std::time::Instant::now() < deadline
                    && stream.read(&mut part).is_ok_and(|n| n > 0)
                {}
            })
        })
        .collect();
    let body = body(20_000_000);
    for slow in [false, true] {
        if slow {
            slow_back(&cluster, Duration::from_millis(20));
        }
        for target in cluster.nodes() {
            let port = cluster.port_inspected_by(1);
            let stream = connect(&cluster, Some(port), APP).unwrap();
            let head = head("POST", &format!("/n{target}/x"), Some(body.len()));
            let status = thread::scope(|scope| {
                let mut writer = stream.try_clone().unwrap();
                let (head, body) = (&head, &body);
                scope.spawn(move || {
                    // Broken off by the server's end.
                    let sent = writer.write_all(head.as_bytes());
                    let _ = sent.and_then(|()| writer.write_all(body));
                });
                let status = Response::read(&stream).map(|response| response.status);
                let _ = stream.shutdown(Shutdown::Both);
                status
            });
            assert_eq!(status.unwrap(), 413, "from n{target}, back slow: {slow}");
        }
    }
    cluster.wait_until_clean(TRACES);
}
