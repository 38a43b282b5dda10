//! Nodes that go: their connections are lost, nobody else's.

use std::collections::BTreeMap;
use std::io::Read;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dts_lab::{FileSet, Network, Place, sha256};

use crate::client::{Response, connect, get, head};
use crate::cluster::{Cluster, Method, WEB, client_address, web_service};

crate::cases![a_node_goes];

/// Acceptance: a node's interfaces taken down: connections on other nodes don't notice. After its removal
/// from the list, by a reload without a restart, the ring serves its arc, and only the flows of that arc
/// moved.
fn a_node_goes(method: &'static Method) {
    let cluster = Cluster::with(method, 4, |spec| {
        // No rule names n4: its removal must leave a configuration that is right.
        spec.cluster.services_toml = Some(web_service(method, 3));
    });
    let mut files = FileSet::new(8);
    for node in 1..=3 {
        files.add(format!("n{node}/large"), 20_000_000).unwrap();
    }
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();

    let downloads: Vec<_> = (1..=3)
        .map(|node| Download::begin(&cluster, node))
        .collect();
    for network in Network::ALL {
        cluster.set_link(Place::Node(4), network, false).unwrap();
    }
    let before = owners(&cluster, 1);
    for download in downloads {
        download.finish(&files);
    }

    // Others are under way when the ring changes.
    let downloads: Vec<_> = (1..=3)
        .map(|node| Download::begin(&cluster, node))
        .collect();
    for node in 1..=3 {
        assert_eq!(cluster.remove_member(node, "n4"), ["member n4 left"]);
    }
    let after = owners(&cluster, 1);
    for node in 2..=3 {
        assert_eq!(after, owners(&cluster, node), "n1 and n{node} agree");
    }
    let (mut moved, mut kept) = (Vec::new(), 0);
    for (port, owner) in &before {
        if *owner == 4 {
            assert_ne!(after[port], 4);
            moved.push(*port);
        } else {
            assert_eq!(after[port], *owner, "the flow from {port} stays");
            kept += 1;
        }
    }
    assert!(moved.len() > 10 && kept > 10, "{} and {kept}", moved.len());
    for (target, port) in (1..=3).cycle().zip(moved.iter().take(30)) {
        let path = format!("/n{target}/absent");
        let response = get(&cluster, Some(*port), WEB, &path).unwrap();
        assert_eq!(response.node, Some(format!("n{target}")));
    }
    for download in downloads {
        download.finish(&files);
    }
}

/// Who owns the flows from many of the client's ports, as a node's ring tells.
fn owners(cluster: &Cluster, asked: u8) -> BTreeMap<u16, u8> {
    let owner = |port| cluster.owner(asked, SocketAddr::new(client_address(), port));
    (30_000..30_300).map(|port| (port, owner(port))).collect()
}

/// A download that is under way.
struct Download {
    stream: TcpStream,
    node: u8,
    begin: Vec<u8>,
}

impl Download {
    /// From a node, inspected by the next of the first three.
    fn begin(cluster: &Cluster, node: u8) -> Self {
        let port = cluster.port_inspected_by(1 + node % 3);
        let mut stream = connect(cluster, Some(port), WEB).unwrap();
        let request = head("GET", &format!("/n{node}/large"), None);
        stream.write_all(request.as_bytes()).unwrap();
        let mut begin = vec![0; 1_000_000];
        stream.read_exact(&mut begin).unwrap();
        Self {
            stream,
            node,
            begin,
        }
    }

    #[track_caller]
    fn finish(mut self, files: &FileSet) {
        self.stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        self.stream.read_to_end(&mut self.begin).unwrap();
        let response = Response::read(&self.begin[..]).unwrap();
        let file = &files.files()[usize::from(self.node) - 1];
        assert_eq!(sha256(&response.body), file.sha256, "from n{}", self.node);
    }
}
