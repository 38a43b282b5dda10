//! Both address families at once.

use dts_lab::{ClusterSpec, Family, Network, Place, sha256};

use crate::client::get;
use crate::cluster::{Cluster, Method, WEB, run_over, vip, web_service};

crate::cases![
    clients_of_one_family_and_nodes_of_the_other,
    one_service_at_both_addresses,
];

/// Bytes of a file that takes some segments.
const SIZE: u64 = 300_000;

/// Fetches a file of each node's, inspected by each node.
fn fetch_all(cluster: &Cluster, files: &dts_lab::FileSet) {
    for inspecting in cluster.nodes() {
        for (target, file) in cluster.nodes().zip(files.files()) {
            let port = cluster.port_inspected_by(inspecting);
            let response = get(cluster, Some(port), WEB, &format!("/{}", file.path)).unwrap();
            assert_eq!(response.node, Some(format!("n{target}")));
            assert_eq!(sha256(&response.body), file.sha256);
        }
    }
}

fn publish(cluster: &Cluster) -> dts_lab::FileSet {
    let mut files = dts_lab::FileSet::new(31);
    for node in cluster.nodes() {
        files.add(format!("n{node}/some"), SIZE).unwrap();
    }
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();
    files
}

/// The network between the nodes has the one family, the clients have the other.
fn clients_of_one_family_and_nodes_of_the_other(method: &'static Method) {
    for (clients, nodes) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        run_over(clients);
        let cluster = Cluster::with(method, 2, |spec| {
            spec.ipv6 = true;
            spec.cluster.back = nodes;
        });
        fetch_all(&cluster, &publish(&cluster));
        // The nodes know each other by the other family's addresses.
        for node in cluster.nodes() {
            let address = Place::Node(node).address_of(nodes, Network::Back).unwrap();
            assert_eq!(cluster.status(node).address, address);
        }
    }
}

/// A service's clients of both families.
fn one_service_at_both_addresses(method: &'static Method) {
    let vips = [Family::V4, Family::V6].map(|family| {
        run_over(family);
        vip(WEB).ip()
    });
    run_over(Family::V6);
    let cluster = Cluster::with(method, 2, |spec| {
        spec.cluster.services_toml = Some(ClusterSpec::services_at(&vips, 2, method.handover));
    });
    let files = publish(&cluster);
    for family in [Family::V4, Family::V6] {
        run_over(family);
        fetch_all(&cluster, &files);
    }
    let services = cluster.status(1).services;
    let found: Vec<_> = services.iter().map(|s| (&*s.name, s.vip)).collect();
    assert_eq!(found, vips.map(|vip| ("web", vip)));
    // Without one of its addresses the service goes on at the other.
    run_over(Family::V4);
    cluster.restart_daemons(&web_service(method, 2)).unwrap();
    fetch_all(&cluster, &files);
}
