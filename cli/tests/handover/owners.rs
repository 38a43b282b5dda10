//! What becomes of connections that are to be adopted when their inspecting node changes, or has no server itself.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dts_lab::{Direction, Effect, Impairment, Network};

use crate::client::{PATIENCE, Response, connect, head};
use crate::cluster::{APP, CLIENT, Cluster, Method, WEB, services, vip, wait_for};
use crate::requests::introduce;
use crate::servers::{Server, read_head};

crate::cases![
    the_owner_changes_while_an_answer_is_lost,
    a_node_without_its_server,
];

/// The members change while the answers of the node that has the request are lost: the new owner of the connection leaves
/// it there, although it would serve it itself by its rules. Connections that begin after the change are its own.
fn the_owner_changes_while_an_answer_is_lost(method: &'static Method) {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    SERVED.store(0, Ordering::SeqCst);
    let cluster = Cluster::up(method, 3);
    let _servers = serve(&cluster, 1..=3, &SERVED);
    let port = cluster.port_inspected_by(3);
    let before = cluster.port_inspected_by(3);
    let mut stream = connect(&cluster, Some(port), APP).unwrap();
    let lost = Impairment::of_place(Network::Front, CLIENT, Effect::Loss(1.0));
    let lost = lost.one_way(Direction::To);
    cluster.impair(&lost).unwrap();
    // No rule is for this: it is for the inspecting node itself.
    let request = head("GET", "/anything", None);
    stream.write_all(request.as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(50));
    for node in cluster.nodes() {
        cluster.change_member(node, "n3", "inspect = false");
    }
    let left = || cluster.sum(|node| cluster.stats(node).inspector["adoptions.left"]);
    // With one of the client's repetitions, which come at ever longer intervals.
    wait_for("it is left", PATIENCE, || left() == 1);
    assert_eq!(SERVED.load(Ordering::SeqCst), 1);
    cluster.clear_impairments().unwrap();
    let response = Response::read(&stream).unwrap();
    assert_eq!(response.node.as_deref(), Some("n3"));
    assert_eq!(SERVED.load(Ordering::SeqCst), 1);

    let response = ask(&cluster, before, "/anything");
    assert_ne!(response.node.as_deref(), Some("n3"));
    assert_eq!(left(), 1, "nobody knew that one");
}

/// A request for the inspecting node itself, whose server is down: the default target gets it, whether the filter or the
/// daemon has decided.
fn a_node_without_its_server(method: &'static Method) {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    SERVED.store(0, Ordering::SeqCst);
    let cluster = Cluster::with(method, 2, |spec| {
        let fate = "on_unreachable = \"default\"\n";
        let toml = services(method, 2);
        let other = format!("{fate}default = {{ nodes = [\"n2\"] }}\n");
        spec.cluster.services_toml = Some(toml.replacen(fate, &other, 1));
    });
    let _servers = serve(&cluster, 2..=2, &SERVED);
    introduce(&cluster);
    let absolute = format!("http://{}/n1/x", vip(WEB));
    for target in ["/n1/x", &absolute] {
        let port = cluster.port_inspected_by(1);
        let response = ask(&cluster, port, target);
        assert_eq!(response.node.as_deref(), Some("n2"), "{target}");
    }
    assert_eq!(SERVED.load(Ordering::SeqCst), 2);
}

/// Asks for something, from one of the client's ports.
fn ask(cluster: &Cluster, port: u16, target: &str) -> Response {
    let mut stream = connect(cluster, Some(port), APP).unwrap();
    let request = head("GET", target, None);
    stream.write_all(request.as_bytes()).unwrap();
    Response::read(&stream).unwrap()
}

/// Servers that say which node they are on, and count their requests.
pub(crate) fn serve(
    cluster: &Cluster,
    nodes: impl Iterator<Item = u8>,
    served: &'static AtomicUsize,
) -> Vec<Server<()>> {
    let start = |node| {
        Server::start(cluster, node, APP, move |mut stream: TcpStream| {
            read_head(&mut stream).unwrap();
            served.fetch_add(1, Ordering::SeqCst);
            let answer =
                format!("HTTP/1.1 200 OK\r\nX-DTS-Node: n{node}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = stream.read(&mut [0]);
        })
    };
    nodes.map(start).collect()
}
