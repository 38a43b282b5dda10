//! Targets that are not there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dts_lab::{Network, Place};

use crate::client::{Response, assert_reset, connect, head};
use crate::cluster::{APP, Cluster, Method, STRICT};
use crate::servers::{Server, read_head};

crate::cases![a_closed_port, a_node_that_is_gone];

/// Within which a client must know (issue's "within 1 s"), when the machine doesn't stand still.
const LIMIT: Duration = Duration::from_secs(1);
/// The same when it does.
const LONGEST: Duration = Duration::from_secs(4);

/// Acceptance: the target's port closed: the default target or a reset, as configured, within 1 s.
fn a_closed_port(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let _servers = answering_servers(&cluster);
    assert_clients_know(&cluster, 3);
    if method.adopts() {
        let sent_back = cluster.actions(2, "refused");
        let reset = cluster.actions(1, "reset_client");
        assert_eq!([sent_back, reset], [6, 3], "refused, and reset");
    } else {
        let failed = &cluster.status(1).handovers.failed;
        assert_eq!(failed["refused"], 6, "{failed:?}");
    }
    cluster.wait_until_clean(Duration::from_secs(12));
}

/// Acceptance: the target's node gone: the same.
fn a_node_that_is_gone(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| {
        spec.cluster.log = Some("info,dts_node=debug".into());
    });
    let _servers = answering_servers(&cluster);
    for network in Network::ALL {
        cluster.set_link(Place::Node(2), network, false).unwrap();
    }
    // More than one: later ones find that the kernel has no neighbour.
    assert_clients_know(&cluster, 5);
    let failed = &cluster.status(1).handovers.failed;
    assert_eq!(failed["unreachable"], 10, "{failed:?}");
    cluster.wait_until_clean(Duration::from_secs(12));
}

/// n1 has servers, n2 has none.
fn answering_servers(cluster: &Cluster) -> [Server<()>; 2] {
    [APP, STRICT].map(|port| {
        Server::start(cluster, 1, port, |mut stream: TcpStream| {
            read_head(&mut stream).unwrap();
            let answer = "HTTP/1.1 200 OK\r\nX-DTS-Node: n1\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        })
    })
}

#[track_caller]
fn assert_clients_know(cluster: &Cluster, times: usize) {
    let after: Vec<_> = (0..times)
        .map(|_| (default_answers(cluster), is_reset(cluster)))
        .collect();
    let (answered, reset): (Vec<_>, Vec<_>) = after.into_iter().unzip();
    for mut after in [answered, reset] {
        after.sort();
        assert!(after[times / 2] < LIMIT, "{after:?}");
        assert!(after[times - 1] < LONGEST, "{after:?}");
    }
}

/// How long it takes until the default target answers.
fn default_answers(cluster: &Cluster) -> Duration {
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(cluster, Some(port), APP).unwrap();
    let begin = Instant::now();
    stream
        .write_all(head("GET", "/n2/x", None).as_bytes())
        .unwrap();
    let response = Response::read(&stream).unwrap();
    assert_eq!(response.node.as_deref(), Some("n1"));
    begin.elapsed()
}

/// How long it takes until the client is reset.
fn is_reset(cluster: &Cluster) -> Duration {
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(cluster, Some(port), STRICT).unwrap();
    let begin = Instant::now();
    stream
        .write_all(head("GET", "/n2/x", None).as_bytes())
        .unwrap();
    assert_reset(stream.read(&mut [0]));
    begin.elapsed()
}
