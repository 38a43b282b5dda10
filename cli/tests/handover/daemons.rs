//! Daemons that die, end and come back: connections go on, and nobody is answered twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{Effect, FileSet, Impairment, Network, Place, Segment, Signal, sha256};

use crate::client::{Response, connect, get, head};
use crate::cluster::{APP, CLIENT, Cluster, Method, WEB, vip, wait_for};
use crate::servers::{Server, read_head};
use crate::uploads::body;

crate::cases![
    a_daemon_is_killed,
    a_daemon_ends,
    a_daemon_is_killed_during_handovers,
    detach_leaves_nothing,
];

/// The lease of the lab's nodes, and a bit.
const LEASE: Duration = Duration::from_millis(2200);

/// Acceptance: kill -9 of a daemon during a 100 MB download: it completes; new connections of its arc
/// are not answered twice; the restarted daemon takes over.
fn a_daemon_is_killed(method: &'static Method) {
    daemon_goes(method, Signal::KILL);
}

/// The same of SIGTERM.
fn a_daemon_ends(method: &'static Method) {
    daemon_goes(method, Signal::TERM);
}

fn daemon_goes(method: &'static Method, signal: Signal) {
    let cluster = Cluster::up(method, 3);
    let mut files = FileSet::new(9);
    files.add("n2/huge", 100_000_000).unwrap();
    cluster.publish(&[Place::Node(2)], &files).unwrap();
    // The node that inspected the download, then the one that processes it.
    for gone in [1, 2] {
        let port = cluster.port_inspected_by(1);
        // While it can still be asked.
        let waiting = cluster.port_inspected_by(gone);
        let later = cluster.port_inspected_by(gone);
        let mut download = connect(&cluster, Some(port), WEB).unwrap();
        let request = head("GET", "/n2/huge", None);
        download.write_all(request.as_bytes()).unwrap();
        let mut bytes = vec![0; 5_000_000];
        download.read_exact(&mut bytes).unwrap();

        let filter = format!("tcp port {WEB} and not port {port}");
        let capture = cluster.capture(CLIENT, "eth0", &filter).unwrap();
        cluster.end_daemon(gone, signal);
        if method.adopts() {
            // Until the lease lapses the filter goes on, with rules that need no daemon.
            thread::sleep(LEASE);
        }
        thread::scope(|scope| {
            // Its SYNs are ignored at first: it succeeds when the daemon is back.
            let waits = scope.spawn(|| get(&cluster, Some(waiting), WEB, "/n3/x"));
            // Others' arcs are served meanwhile.
            let other = cluster.port_of_another(gone);
            assert_eq!(
                get(&cluster, Some(other), WEB, "/n3/x").unwrap().status,
                404
            );
            // Longer than the lease.
            thread::sleep(Duration::from_millis(2500));
            if waits.is_finished() {
                panic!("nobody may answer in this arc: {:?}", waits.join());
            }
            cluster.start_daemon(gone).unwrap();
            assert_eq!(waits.join().unwrap().unwrap().status, 404);
            // The map outlived the daemon that is gone.
            let refused = cluster.drops(gone, "lease_expired");
            assert!(
                refused > 0,
                "the filter refused SYNs while the daemon was gone"
            );
        });
        assert_eq!(
            get(&cluster, Some(later), WEB, "/n2/x").unwrap().status,
            404
        );
        download.read_to_end(&mut bytes).unwrap();
        let response = Response::read(&bytes[..]).unwrap();
        assert_eq!(sha256(&response.body), files.files()[0].sha256);

        let segments = capture.stop().unwrap();
        assert_answered_once(&segments);
        let waited = segments
            .iter()
            .any(|s| s.source.port() == waiting && s.flags.syn);
        assert!(waited, "the capture saw the client that waited");
    }
    // Nothing of the dead daemon's is left either.
    cluster.wait_until_clean(Duration::from_secs(45));
}

/// No client saw SYN-ACKs of two nodes, of two initial sequence numbers, or a reset.
#[track_caller]
fn assert_answered_once(segments: &[Segment]) {
    let mut answers: BTreeMap<SocketAddr, BTreeSet<([u8; 6], u32)>> = BTreeMap::new();
    for segment in segments.iter().filter(|s| s.source == vip(WEB)) {
        assert!(!segment.flags.rst, "a reset: {segment:?}");
        if segment.flags.syn {
            let answers = answers.entry(segment.destination).or_default();
            answers.insert((segment.source_mac, segment.seq));
        }
    }
    assert!(answers.len() >= 3, "{answers:?}");
    for (client, answers) in answers {
        assert_eq!(answers.len(), 1, "{client} was answered by {answers:?}");
    }
}

impl Cluster {
    /// A port of the client's whose connections a node inspects that is not this one.
    fn port_of_another(&self, node: u8) -> u16 {
        let asked = 1 + node % 3;
        let remote = |port| SocketAddr::new(crate::cluster::client_address(), port);
        (40_000..)
            .find(|port| self.owner(asked, remote(*port)) != node)
            .expect("there are others")
    }
}

/// A daemon that dies in the middle of a handover never makes a truncated request look complete: the
/// server gets all of it or a reset.
fn a_daemon_is_killed_during_handovers(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let server = Server::start(&cluster, 2, APP, |mut stream: TcpStream| {
        let (head, mut body) = read_head(&mut stream)?;
        stream.read_to_end(&mut body)?;
        Ok::<_, io::Error>((head, sha256(&body)))
    });
    let delay = Effect::Delay {
        delay: Duration::from_millis(30),
        jitter: Duration::ZERO,
    };
    cluster
        .impair(&Impairment::of_network(Network::Back, delay))
        .unwrap();
    // Sockets of the dead daemon's whose FIN the client has acknowledged: the kernel keeps them that long.
    cluster
        .sh(Place::Node(1), "sysctl -qw net.ipv4.tcp_fin_timeout=5")
        .unwrap();
    // Small enough for the client to be rid of it at once: it ends in the inspector's hands.
    let (first, rest) = (body(40_000), body(20_000));
    let (mut whole, mut reset) = (0, 0);
    // What each request's body was. One that the server does not hear within its own turn may still
    // come when the daemon is back: the client sends it again.
    let mut sent = BTreeMap::new();
    for half_closed in [true, false] {
        // The handover's SYN, its answer, the request in several flights, its acknowledgment.
        for pause in [10, 40, 55, 65, 80, 100, 200] {
            let case = format!("killed {pause} ms later, half-closed: {half_closed}");
            let head = format!("PUT /n2/{pause}/{half_closed} HTTP/1.0\r\n\r\n");
            let mut stream = connect(&cluster, Some(cluster.port_inspected_by(1)), APP).unwrap();
            stream
                .write_all(&[head.as_bytes(), &first].concat())
                .unwrap();
            if half_closed {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            thread::sleep(Duration::from_millis(pause));
            cluster.end_daemon(1, Signal::KILL);
            if !half_closed {
                // It may have been reset by now.
                let _ = stream.write_all(&rest);
                let _ = stream.shutdown(Shutdown::Write);
            }
            let rest = if half_closed { &[] } else { &rest[..] };
            sent.insert(head.clone(), sha256(&[&first[..], rest].concat()));
            let end = Instant::now() + Duration::from_secs(2);
            let mut own = false;
            while !own {
                let left = end.saturating_duration_since(Instant::now());
                let Some(result) = server.result_within(left) else {
                    assert!(pause < 150, "{case}: the server must have heard");
                    break;
                };
                match result {
                    Ok((heard, sum)) => {
                        assert_eq!(sum, sent[&heard], "{case}: {heard:?} truncated");
                        whole += 1;
                        own = heard == head;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{case}");
                        reset += 1;
                        own = true;
                    }
                }
            }
            cluster.start_daemon(1).unwrap();
        }
    }
    assert!(whole > 0, "the last ones were complete");
    println!("killed in mid-handover: {whole} requests whole, {reset} reset");
    cluster.wait_until_clean(Duration::from_secs(20));
}

/// Acceptance: `dts detach` leaves nothing in the kernel.
fn detach_leaves_nothing(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| spec.cluster.daemons = false);
    let before = snapshot(&cluster);
    for node in cluster.nodes() {
        cluster.start_daemon(node).unwrap();
    }
    wait_for("the cluster answers", Duration::from_secs(5), || {
        let port = cluster.port_inspected_by(1);
        get(&cluster, Some(port), WEB, "/n2/x").is_ok()
    });
    assert_ne!(
        snapshot(&cluster),
        before,
        "the snapshot shows the daemon's work"
    );
    cluster.end_daemon(1, Signal::KILL);
    cluster.end_daemon(2, Signal::TERM);
    for node in cluster.nodes() {
        let mut detach = Command::new(env!("CARGO_BIN_EXE_dts"));
        detach
            .args(["detach", "--config"])
            .arg(cluster.daemon_config(node));
        let output = cluster.exec(Place::Node(node), &detach).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(snapshot(&cluster), before);
}

/// What the daemons change on their nodes: addresses, routes, neighbours, settings, filters, pins.
fn snapshot(cluster: &Cluster) -> Vec<String> {
    const SCRIPT: &str = "ip -o addr; ip maddr; ip route show table all; \
        ip neigh show nud permanent; tc qdisc show; \
        tc filter show dev eth0 ingress; tc filter show dev eth0 egress; \
        tc filter show dev eth1 ingress; tc filter show dev eth1 egress; \
        sysctl -a 2>/dev/null | grep -E '^net\\.ipv4\\.(conf|tcp|ip)'";
    let pins = |node: u8| format!("/sys/fs/bpf/dts-lab/{}-n{node}", cluster.spec().name);
    let of_node = |node: u8| {
        let kernel = cluster.sh(Place::Node(node), SCRIPT).unwrap();
        let pins = std::fs::read_dir(pins(node)).map_or(0, Iterator::count);
        // Lifetimes and counters of routes change by themselves.
        format!("{kernel}pins: {pins}")
    };
    cluster.nodes().map(of_node).collect()
}
