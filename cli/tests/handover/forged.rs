//! What others forge: segments of a live connection, and handover frames at the front. [`crate::replayed`] has those at the
//! back.

use std::io::{Read, Write};
use std::net::SocketAddr;

use dts_lab::{FileSet, Network, Place, sha256};
use dts_node::admin::{Role, State};
use etherparse::TcpHeader;

use crate::client::{Response, connect, head};
use crate::cluster::{
    CLIENT, Cluster, HANDOVER_PORT, Method, WEB, client_address, node_address, vip,
};
use crate::packet;

crate::cases![
    forged_segments_of_a_live_connection,
    handover_frames_on_front,
];

/// Acceptance: a spoofed SYN, RST or FIN with wrong sequence numbers for a live flow kills nothing.
fn forged_segments_of_a_live_connection(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let mut files = FileSet::new(4);
    for node in cluster.nodes() {
        files.add(format!("n{node}/large"), 20_000_000).unwrap();
    }
    cluster
        .publish(&[Place::Node(1), Place::Node(2)], &files)
        .unwrap();
    for (target, file) in cluster.nodes().zip(files.files()) {
        let port = cluster.port_inspected_by(1);
        let mut stream = connect(&cluster, Some(port), WEB).unwrap();
        let request = head("GET", &format!("/{}", file.path), None);
        stream.write_all(request.as_bytes()).unwrap();
        let mut begin = vec![0; 100_000];
        stream.read_exact(&mut begin).unwrap();

        let entries = cluster.connections(target);
        let live = entries
            .iter()
            .find(|entry| entry.remote.port() == port && entry.role == Role::Processing)
            .unwrap();
        let expected = if method.adopts() {
            State::Adopted
        } else {
            State::Direct
        };
        assert_eq!(live.state, expected);
        let before: Vec<u64> = cluster
            .nodes()
            .map(|node| cluster.stats(node).actions["challenge"])
            .collect();
        let forged = forgeries(port, live.client_isn, live.server_isn.unwrap());
        packet::send(&cluster, CLIENT, &forged);
        let challenged = cluster.stats(target).actions["challenge"];
        assert!(
            challenged > before[usize::from(target) - 1],
            "a forged SYN went to the kernel that has the connection"
        );

        let mut all = begin;
        stream.read_to_end(&mut all).unwrap();
        let response = Response::read(&all[..]).unwrap();
        assert_eq!(response.node, Some(format!("n{target}")));
        assert_eq!(sha256(&response.body), file.sha256);
    }
}

/// Segments with numbers that are half the number space away from the right ones, and in between.
fn forgeries(port: u16, client_isn: u32, server_isn: u32) -> Vec<packet::Packet> {
    let from = SocketAddr::new(client_address(), port);
    let mut segments = Vec::new();
    for number in 0..100u32 {
        let away = (1 << 30) + number * 0x0100_0001;
        let wrong = TcpHeader {
            sequence_number: client_isn.wrapping_add(away),
            acknowledgment_number: server_isn.wrapping_add(away),
            window_size: 1000,
            ..TcpHeader::default()
        };
        let kinds = [
            TcpHeader {
                syn: true,
                acknowledgment_number: 0,
                ..wrong.clone()
            },
            TcpHeader {
                rst: true,
                acknowledgment_number: 0,
                ..wrong.clone()
            },
            TcpHeader {
                rst: true,
                ack: true,
                ..wrong.clone()
            },
            TcpHeader {
                fin: true,
                ack: true,
                ..wrong.clone()
            },
            TcpHeader {
                syn: true,
                ack: true,
                ..wrong
            },
        ];
        segments.extend(kinds.map(|tcp| packet::segment(from, vip(WEB), tcp)));
    }
    segments
}

/// Acceptance: handover frames that arrive on front are dropped and counted.
fn handover_frames_on_front(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let back = node_address(1, Network::Back);
    let front = node_address(1, Network::Front);
    cluster
        .sh(CLIENT, &format!("ip route add {back} via {front}"))
        .unwrap();
    let to = SocketAddr::new(back, HANDOVER_PORT);
    let frames: Vec<_> = (0..100)
        .map(|number| {
            let from = SocketAddr::new(client_address(), 20_000 + number);
            packet::handover_syn(from, to, &packet::option(number, 1, 0), [0; 16])
        })
        .collect();
    let before = cluster.drops(1, "handover_on_front");
    packet::send(&cluster, CLIENT, &frames);
    assert_eq!(cluster.drops(1, "handover_on_front") - before, 100);
    assert_eq!(cluster.connections(1), []);
}
