//! TCP's options after a handover: nothing was switched off to make it easier.

use std::io::{Read, Write};

use dts_lab::{Effect, FileSet, Impairment, Network, Place, sha256};

use crate::client::{Response, connect, get, head};
use crate::cluster::{CLIENT, Cluster, Method, WEB};

crate::cases![options_stay_in_use, a_large_download_with_loss];

/// Acceptance: `ss -ti` on client and processing node shows timestamps, SACK and window scale in use
/// after a handover, with different window scales on the two nodes.
fn options_stay_in_use(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| {
        for (node, most) in spec.nodes.iter_mut().zip(["1048576", "33554432"]) {
            let setting = ("net.ipv4.tcp_rmem", format!("4096 131072 {most}"));
            node.sysctls.push((setting.0.to_owned(), setting.1));
        }
    });
    let mut files = FileSet::new(6);
    for node in cluster.nodes() {
        files.add(format!("n{node}/1k"), 1000).unwrap();
        files.add(format!("n{node}/large"), 20_000_000).unwrap();
    }
    cluster
        .publish(&[Place::Node(1), Place::Node(2)], &files)
        .unwrap();
    // From the small window to the large one, and back.
    for (inspecting, target) in [(1, 2), (2, 1), (1, 1)] {
        let port = cluster.port_inspected_by(inspecting);
        let mut stream = connect(&cluster, Some(port), WEB).unwrap();
        let persistent = |path: &str| {
            head("GET", &format!("/n{target}/{path}"), None).replace("Connection: close\r\n", "")
        };
        stream.write_all(persistent("1k").as_bytes()).unwrap();
        assert_eq!(Response::read(&stream).unwrap().body.len(), 1000);

        let at_client = Info::of(&cluster, CLIENT, &format!("sport = :{port}"));
        let at_server = Info::of(&cluster, Place::Node(target), &format!("dport = :{port}"));
        for info in [&at_client, &at_server] {
            for word in ["ts", "sack"] {
                assert!(info.words.iter().any(|w| w == word), "no {word}: {info:?}");
            }
        }
        assert_eq!(at_server.scales.0, at_client.scales.1, "the client's own");
        if method.adopts() {
            // The processing node's socket goes by what the client was told.
            assert_eq!(at_client.scales.0, at_server.scales.1);
        } else if inspecting != target {
            let (told, own) = (at_client.scales.0, at_server.scales.1);
            assert_ne!(told, own, "the nodes announce different scales");
        }
        // Enough for windows to matter: sent and acknowledged under both scales.
        stream.write_all(persistent("large").as_bytes()).unwrap();
        let large = Response::read(&stream).unwrap();
        let path = format!("n{target}/large");
        let file = files.files().iter().find(|file| file.path == path);
        assert_eq!(sha256(&large.body), file.unwrap().sha256);
        // What follows is refused by no window either.
        stream
            .write_all(head("GET", "/x", None).as_bytes())
            .unwrap();
        assert_eq!(Response::read(&stream).unwrap().status, 404);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

/// Acceptance: a 100 MB download under 1 % loss each way has the right checksum.
fn a_large_download_with_loss(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let mut files = FileSet::new(7);
    files.add("n2/huge", 100_000_000).unwrap();
    cluster.publish(&[Place::Node(2)], &files).unwrap();
    let loss = Impairment::of_network(Network::Front, Effect::Loss(0.01));
    cluster.impair(&loss).unwrap();
    let port = cluster.port_inspected_by(1);
    let response = get(&cluster, Some(port), WEB, "/n2/huge").unwrap();
    assert_eq!(response.node.as_deref(), Some("n2"));
    assert_eq!(sha256(&response.body), files.files()[0].sha256);
    assert!(cluster.tcp_counter(Place::Node(2), "RetransSegs") > 100);
}

/// What `ss -ti` says of a connection.
#[derive(Debug)]
struct Info {
    words: Vec<String>,
    /// `wscale:` the peer's, and the socket's own.
    scales: (u8, u8),
}

impl Info {
    fn of(cluster: &Cluster, place: Place, filter: &str) -> Self {
        let said = cluster.ss(place, &["-Htino", filter]).unwrap();
        let words: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
        let scales = words
            .iter()
            .find_map(|word| word.strip_prefix("wscale:")?.split_once(','))
            .unwrap_or_else(|| panic!("no window scale in: {said}"));
        let scales = (scales.0.parse().unwrap(), scales.1.parse().unwrap());
        Self { words, scales }
    }
}
