//! Uploads to a real application server, with client data under way during the handover.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use dts_lab::{Effect, Impairment, Network, sha256};

use crate::client::{Response, connect, head};
use crate::cluster::{APP, CLIENT, Cluster, Method};
use crate::servers::start_application;

crate::cases![uploads, uploads_while_the_handover_is_slow];

/// Acceptance: POST of 1 B, 64 KB and 20 MB to a real application server, checksums right on both sides.
fn uploads(method: &'static Method) {
    let cluster = application_cluster(method);
    upload_to_each_node(&cluster);
}

/// Acceptance: the same with the handover slowed by 20 ms on the back network, and no retransmission
/// time-out caused by it.
fn uploads_while_the_handover_is_slow(method: &'static Method) {
    let cluster = application_cluster(method);
    let delay = Effect::Delay {
        delay: Duration::from_millis(20),
        jitter: Duration::ZERO,
    };
    cluster
        .impair(&Impairment::of_network(Network::Back, delay))
        .unwrap();
    upload_to_each_node(&cluster);
    // Data that trickles in while the handover is going on.
    for target in cluster.nodes() {
        let body = body(100 * 700);
        let mut stream = connect(&cluster, Some(cluster.port_inspected_by(1)), APP).unwrap();
        let head = head("POST", &format!("/n{target}/trickle"), Some(body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        for part in body.chunks(700) {
            stream.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        assert_answer(&Response::read(&stream).unwrap(), target, &body);
    }
    for place in cluster.spec().node_places().chain([CLIENT]) {
        let timeouts = cluster.tcp_counter(place, "TCPTimeouts");
        assert_eq!(timeouts, 0, "at {place}");
    }
}

fn application_cluster(method: &'static Method) -> Cluster {
    let cluster = Cluster::up(method, 3);
    for node in cluster.nodes() {
        start_application(&cluster, node, APP);
    }
    cluster
}

fn upload_to_each_node(cluster: &Cluster) {
    for size in [1, 64 << 10, 20_000_000] {
        let body = body(size);
        for inspecting in cluster.nodes() {
            let port = cluster.port_inspected_by(inspecting);
            // To another node and to the inspecting node itself.
            for target in [1 + inspecting % 3, inspecting] {
                let from = (target != inspecting).then_some(port);
                let from = from.unwrap_or_else(|| cluster.port_inspected_by(inspecting));
                let mut stream = connect(cluster, Some(from), APP).unwrap();
                let head = head("POST", &format!("/n{target}/upload"), Some(size));
                // In one go: the body is under way while the head is looked at.
                stream
                    .write_all(&[head.as_bytes(), &body].concat())
                    .unwrap();
                assert_answer(&Response::read(&stream).unwrap(), target, &body);
                let _ = stream.shutdown(Shutdown::Both);
                assert_eq!(
                    cluster.tcp_counter(CLIENT, "TCPTimeouts"),
                    0,
                    "{size} bytes, inspected by n{inspecting}, to n{target}"
                );
            }
        }
    }
}

#[track_caller]
fn assert_answer(response: &Response, node: u8, body: &[u8]) {
    assert_eq!(response.status, 200);
    assert_eq!(response.node, Some(format!("n{node}")));
    assert_eq!(response.text(), sha256(body), "{} bytes", body.len());
}

/// Bytes of which no two parts are alike.
pub(crate) fn body(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}
