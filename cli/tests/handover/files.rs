//! Files of many sizes, each from the node it belongs to, and only from there.

use std::fmt::Write as _;
use std::fs;

use dts_lab::{FileSet, Place, sha256};

use crate::client::get;
use crate::cluster::{CLIENT, Cluster, Method, WEB, vip};

crate::cases![two_hundred_files, only_the_processing_node_sends];

/// Sizes around what TCP cuts at, and some that take many round trips.
const SIZES: [u64; 10] = [
    1, 2, 100, 1447, 1448, 1449, 20_000, 65_536, 300_000, 1_000_000,
];
const LARGE: u64 = 20_000_000;

/// Acceptance: 4 nodes, curl, 200 files of 1 B to 20 MB under 3 prefixes, from the right node, with the
/// right checksum.
fn two_hundred_files(method: &'static Method) {
    let cluster = Cluster::up(method, 4);
    let mut files = FileSet::new(1);
    for number in 0..200 {
        let (node, size) = match number {
            0..3 => (1 + number as u8, LARGE),
            _ => (1 + (number % 3) as u8, SIZES[number / 3 % SIZES.len()]),
        };
        files.add(format!("n{node}/{number}.bin"), size).unwrap();
    }
    // Everywhere: a request at the wrong node must show in the response's header.
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();

    let directory = cluster.place_dir(CLIENT);
    let mut config = String::new();
    for (number, file) in files.files().iter().enumerate() {
        let output = directory.join(format!("{number}.out"));
        let _ = writeln!(
            config,
            "url = \"http://{}/{}\"\nheader = \"Connection: close\"\nsilent\nshow-error\n\
             output = \"{}\"\nwrite-out = \"%{{http_code}} %header{{x-dts-node}}\\n\"\nnext",
            vip(WEB),
            file.path,
            output.display()
        );
    }
    let config_path = directory.join("curl.conf");
    fs::write(&config_path, config.trim_end_matches("next\n")).unwrap();
    let said = cluster
        .sh(CLIENT, &format!("curl -K {}", config_path.display()))
        .unwrap();

    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 200);
    for (number, (line, file)) in lines.iter().zip(files.files()).enumerate() {
        let node = file.path.split('/').next().unwrap();
        assert_eq!(*line, format!("200 {node}"), "{}", file.path);
        let received = fs::read(directory.join(format!("{number}.out"))).unwrap();
        assert_eq!(sha256(&received), file.sha256, "{}", file.path);
    }
    assert_eq!(
        cluster.handed_over(),
        200,
        "each connection was handed over once"
    );
    let inspected = if method.adopts() {
        "syn_answered"
    } else {
        "to_inspector"
    };
    let inspecting = cluster
        .nodes()
        .filter(|node| cluster.actions(*node, inspected) > 0);
    assert_eq!(inspecting.count(), 4, "every node inspected some");
}

/// Acceptance: the answer's bytes leave the processing node's front interface, and the inspecting node,
/// when it is another one, transmits none of them.
fn only_the_processing_node_sends(method: &'static Method) {
    let cluster = Cluster::up(method, 4);
    let mut files = FileSet::new(2);
    files.add("n2/large", LARGE).unwrap();
    cluster.publish(&[Place::Node(2)], &files).unwrap();
    let read = || {
        cluster
            .nodes()
            .map(|node| {
                ["eth0", "eth1"].map(|interface| {
                    let counters = cluster.counters(Place::Node(node), interface);
                    counters.unwrap().tx_bytes
                })
            })
            .collect::<Vec<_>>()
    };
    for inspecting in cluster.nodes() {
        let port = cluster.port_inspected_by(inspecting);
        let before = read();
        let response = get(&cluster, Some(port), WEB, "/n2/large").unwrap();
        assert_eq!(response.node.as_deref(), Some("n2"));
        assert_eq!(sha256(&response.body), files.files()[0].sha256);
        let after = read();
        for node in cluster.nodes() {
            let index = usize::from(node) - 1;
            let [front, back] = [0, 1].map(|i| after[index][i] - before[index][i]);
            if node == 2 {
                assert!(front > LARGE, "n2 sent {front} bytes to the client");
                assert!(back < 10_000, "n2 sent {back} bytes on the back network");
            } else {
                // A handshake, a request, what ends a handover; neighbours asked for.
                assert!(
                    front + back < 10_000,
                    "n{node} sent {front} and {back} bytes, inspected by n{inspecting}"
                );
            }
        }
    }
}
