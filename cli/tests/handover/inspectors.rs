//! Services whose inspector is a program outside the daemon: the paper's Fig. 3 in C, compiled here, and the library.

mod library;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dts_inspector::{Connection, Error, Inspector, Target};
use dts_lab::{Family, LabProcess, Network, Place, Signal};

use crate::client::{PATIENCE, Response, assert_reset, connect, connect_here, get, head};
use crate::cluster::{CLIENT, Cluster, Method, WEB, family, node_address, vip, wait_for};

use library::{Library, log};

crate::cases![
    the_paper_s_program_in_c,
    an_inspector_that_dies,
    an_inspector_that_hangs,
    a_request_shown_in_parts,
    what_an_inspector_may_not,
    every_call_in_c,
];

/// How long a connection may be undecided, where that is waited for; elsewhere it is much longer.
const UNDECIDED: Duration = Duration::from_millis(1500);

/// The address of a service whose rules decide, with the same servers behind it.
fn ruled() -> IpAddr {
    match family() {
        Family::V4 => Ipv4Addr::new(198, 18, 0, 101).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101).into(),
    }
}

/// Two nodes with a service `web` that processes inspect, and one, `ruled`, that they don't.
fn cluster(method: &Method, undecided: Duration) -> Cluster {
    let service = |name: &str, vip: IpAddr| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\nmode = \"l7\"\n\
             handover = \"{}\"\ninspector_port = 8081\nundecided_ms = {}\n",
            method.handover,
            undecided.as_millis()
        )
    };
    let rule = "[[service.rule]]\npath_prefix = \"/n2/\"\nto = { nodes = [\"n2\"] }\n";
    let web = service("web", vip(WEB).ip()) + "inspector = \"process\"\nundecided_bytes = 2048\n";
    let services = web + &service("ruled", ruled()) + rule;
    Cluster::with(method, 2, |spec| {
        spec.cluster.services_toml = Some(services);
    })
}

/// Where a node's daemon listens for inspectors of `web`.
fn socket(cluster: &Cluster, node: u8) -> PathBuf {
    cluster
        .place_dir(Place::Node(node))
        .join("web.inspector.sock")
}

fn counted(cluster: &Cluster, node: u8, counter: &str) -> u64 {
    cluster.stats(node).inspector[&format!("web.{counter}")]
}

/// Fetches a path that node `asked`'s inspector is asked about; the node that answers.
fn answered_by(cluster: &Cluster, asked: u8, path: &str) -> u8 {
    let port = cluster.port_inspected_by(asked);
    let response = get(cluster, Some(port), WEB, path).unwrap();
    let node = response.node.expect("a node's server has answered");
    node.trim_start_matches('n').parse().unwrap()
}

/// Acceptance: Fig. 3's program in C, almost line for line, serves a service.
fn the_paper_s_program_in_c(method: &'static Method) {
    let library = Library::installed();
    let cluster = cluster(method, PATIENCE);
    let programs: Vec<_> = cluster
        .nodes()
        .map(|node| library.start(&cluster, node))
        .collect();
    for node in cluster.nodes() {
        assert_eq!(counted(&cluster, node, "processes"), 1);
        for target in cluster.nodes() {
            for number in 0..20 {
                let path = format!("/n{target}/{number}");
                assert_eq!(answered_by(&cluster, node, &path), target, "{path}");
            }
        }
        // The ring says the same as `to = { hash = "uri" }` does.
        for number in 0..20 {
            let path = format!("/x/{number}?y=z");
            let expected = cluster.key_owner(node, &path);
            assert_eq!(answered_by(&cluster, node, &path), expected, "{path}");
        }
        assert_eq!(counted(&cluster, node, "decided"), 60);
        let reasons = [
            "unattended",
            "orphaned",
            "crowded",
            "no_member",
            "malformed",
        ];
        let others = reasons.map(|reason| counted(&cluster, node, reason));
        assert_eq!(others, [0; 5], "{reasons:?}");
    }
    // A request that comes in parts, by a client that waits in between.
    for (part, pause) in [(7, 5), (20, 250)] {
        let port = cluster.port_inspected_by(1);
        let mut stream = connect(&cluster, Some(port), WEB).unwrap();
        let text = head("GET", "/n2/a-path-of-some-length", None);
        for part in text.as_bytes().chunks(part) {
            stream.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(pause));
        }
        let response = Response::read_and_close(stream).unwrap();
        assert_eq!(response.node.as_deref(), Some("n2"));
    }
    // No request: left to the default target, the inspecting node, at once.
    let begin = Instant::now();
    let port = cluster.port_inspected_by(2);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    stream.write_all(&[b'x'; 2048]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    assert_eq!(counted(&cluster, 2, "passed"), 1);
    assert!(programs.iter().all(LabProcess::is_alive));
    cluster.wait_until_clean(Duration::from_secs(12));
}

/// Requests to the second service until it is stopped; what each took.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    client: JoinHandle<Vec<Duration>>,
}

impl Traffic {
    fn begin(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let lab = cluster.spec().name.clone();
        let client = thread::spawn(move || {
            let lab = dts_lab::Lab::open(&lab).unwrap();
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let to = SocketAddr::new(ruled(), WEB);
                let connected = lab.within(CLIENT, || connect_here(None, to)).unwrap();
                let mut stream = connected.expect("the other service accepts");
                let request = head("GET", "/n2/x", None);
                stream.write_all(request.as_bytes()).unwrap();
                let response = Response::read_and_close(stream).expect("it answers");
                assert_eq!(response.node.as_deref(), Some("n2"));
                took.push(begin.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
            took
        });
        Self {
            stop,
            answered,
            client,
        }
    }

    /// Goes on until there have been some answers more.
    #[track_caller]
    fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for("the other service answers", PATIENCE, || {
            self.answered.load(Ordering::Relaxed) >= before + 10
        });
    }

    /// Asserts that nobody had to wait for somebody else's inspector.
    #[track_caller]
    fn assert_undelayed(self) {
        self.go_on();
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.client.join().expect("all requests are answered");
        took.sort();
        // Far less than the undecided connections of the other service wait, also when others use the machine.
        let most = took[took.len() * 9 / 10];
        assert!(most < UNDECIDED / 3, "{took:?}");
    }
}

/// Connections to `web`, each with the beginning of a request.
fn undecided(cluster: &Cluster, node: u8, count: usize) -> Vec<TcpStream> {
    let streams = (0..count).map(|_| {
        let port = cluster.port_inspected_by(node);
        let mut stream = connect(cluster, Some(port), WEB).unwrap();
        stream.write_all(b"GET /n2/x HTTP/1.1").unwrap();
        stream
    });
    streams.collect()
}

/// Completes requests, and asserts who answers them.
fn complete(streams: Vec<TcpStream>, node: &str) {
    for mut stream in streams {
        let rest = b"\r\nHost: dts.test\r\nConnection: close\r\n\r\n";
        stream.write_all(rest).unwrap();
        let response = Response::read(&stream).unwrap();
        assert_eq!(response.node.as_deref(), Some(node));
    }
}

/// Acceptance: an inspector that crashes delays nobody else; its connections get their fate, and so do those that come
/// while there is none. Another one may come.
fn an_inspector_that_dies(method: &'static Method) {
    let library = Library::installed();
    let cluster = cluster(method, UNDECIDED);
    let traffic = Traffic::begin(&cluster);
    let program = library.start(&cluster, 1);
    assert_eq!(answered_by(&cluster, 1, "/n2/x"), 2);
    let waiting = undecided(&cluster, 1, 10);
    wait_for("the program is asked about all", PATIENCE, || {
        counted(&cluster, 1, "asking") == 10
    });
    traffic.go_on();
    program.signal(Signal::KILL);
    let begin = Instant::now();
    wait_for("the daemon knows", PATIENCE, || {
        counted(&cluster, 1, "processes") == 0
    });
    // The fate is the default target: the inspecting node.
    complete(waiting, "n1");
    assert!(begin.elapsed() < UNDECIDED, "{:?}", begin.elapsed());
    assert_eq!(counted(&cluster, 1, "orphaned"), 10);
    assert_eq!(counted(&cluster, 1, "too_slow"), 0);
    assert_eq!(answered_by(&cluster, 1, "/n2/x"), 1);
    assert_eq!(counted(&cluster, 1, "unattended"), 1);
    let _again = library.start(&cluster, 1);
    assert_eq!(answered_by(&cluster, 1, "/n2/x"), 2);
    traffic.assert_undelayed();
    cluster.wait_until_clean(Duration::from_secs(12));
}

/// Acceptance: the same of one that is stuck, but its connections wait for as long as they may; new ones go to one that
/// works, if there is another.
fn an_inspector_that_hangs(method: &'static Method) {
    let library = Library::installed();
    let cluster = cluster(method, UNDECIDED);
    let traffic = Traffic::begin(&cluster);
    let program = library.start(&cluster, 1);
    program.signal(Signal::STOP);
    let begin = Instant::now();
    let waiting = undecided(&cluster, 1, 10);
    traffic.go_on();
    wait_for("their time is up", PATIENCE, || {
        counted(&cluster, 1, "too_slow") == 10
    });
    assert!(begin.elapsed() >= UNDECIDED, "{:?}", begin.elapsed());
    complete(waiting, "n1");
    // One connection more waits at the program that hangs; while it does, others are decided by the second program.
    let waiting = undecided(&cluster, 1, 1);
    wait_for("the program is asked", PATIENCE, || {
        counted(&cluster, 1, "asking") == 1
    });
    let _second = library.start(&cluster, 1);
    for _ in 0..5 {
        assert_eq!(answered_by(&cluster, 1, "/n2/x"), 2);
    }
    complete(waiting, "n1");
    traffic.assert_undelayed();
    // It wakes up to connections that are over, and goes on.
    program.signal(Signal::CONT);
    for _ in 0..5 {
        assert_eq!(answered_by(&cluster, 1, "/n2/x"), 2);
    }
    assert!(program.is_alive());
    assert_eq!(counted(&cluster, 1, "malformed"), 0);
    cluster.wait_until_clean(Duration::from_secs(12));
}

fn attach(cluster: &Cluster, node: u8) -> Inspector {
    let inspector = Inspector::attach(socket(cluster, node).to_str().unwrap()).unwrap();
    wait_for("it is attached", PATIENCE, || {
        counted(cluster, node, "processes") > 0
    });
    inspector
}

/// Reads until there is what was expected.
fn read(connection: &Connection, expected: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < expected.len() {
        let mut buffer = [0; 64];
        let count = connection.receive(&mut buffer).unwrap();
        assert_ne!(count, 0, "after {bytes:?}");
        bytes.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(bytes, expected);
    bytes
}

/// A request is shown as it comes, also while its connection changes from the one way of handing over to the other; the
/// target gets all of it.
fn a_request_shown_in_parts(method: &'static Method) {
    let cluster = cluster(method, PATIENCE);
    let web = attach(&cluster, 1);
    for pause in [0, 20, 300] {
        let port = cluster.port_inspected_by(1);
        let mut stream = connect(&cluster, Some(port), WEB).unwrap();
        let text = head("GET", "/whoami", None);
        let (first, rest) = text.as_bytes().split_at(10);
        stream.write_all(first).unwrap();
        let connection = web.accept().unwrap();
        assert_eq!(connection.client().port(), port);
        assert_eq!(connection.local().port(), WEB);
        let mut read_so_far = read(&connection, first);
        thread::sleep(Duration::from_millis(pause));
        stream.write_all(&rest[..10]).unwrap();
        read_so_far.extend(read(&connection, &rest[..10]));
        // What nobody has read goes with it.
        stream.write_all(&rest[10..]).unwrap();
        connection
            .request_handover(Target::Node("n2"), &read_so_far)
            .unwrap();
        let response = Response::read_and_close(stream).unwrap();
        assert_eq!(response.text(), "n2\n", "after a pause of {pause} ms");
    }
    // The client's end is shown, and is no decision.
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    let text = head("GET", "/whoami", None);
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let connection = web.accept().unwrap();
    let request = read(&connection, text.as_bytes());
    assert_eq!(connection.receive(&mut [0; 8]).unwrap(), 0);
    connection
        .request_handover(Target::Node("n2"), &request)
        .unwrap();
    assert_eq!(Response::read(stream).unwrap().text(), "n2\n");
    // A client that goes is told.
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    stream.write_all(b"GET ").unwrap();
    let connection = web.accept().unwrap();
    read(&connection, b"GET ");
    crate::client::reset(stream);
    let error = connection.receive(&mut [0; 8]).unwrap_err();
    assert!(matches!(error, Error::Ended(_)), "{error}");
    cluster.wait_until_clean(Duration::from_secs(12));
}

/// Requests that were not read, targets that don't exist, messages that mean nothing.
fn what_an_inspector_may_not(method: &'static Method) {
    let cluster = cluster(method, PATIENCE);
    let web = attach(&cluster, 1);
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    let text = head("GET", "/whoami", None);
    stream.write_all(text.as_bytes()).unwrap();
    let connection = web.accept().unwrap();
    let request = read(&connection, text.as_bytes());
    let other = text.replace("whoami", "secret");
    for request in [&request[1..], &request[..9], other.as_bytes(), b""] {
        let error = connection.request_handover(Target::Local, request);
        assert!(matches!(error, Err(Error::OtherRequest)), "{error:?}");
    }
    for target in ["n3", "", "198.18.1.99", "n1 "] {
        let error = connection.request_handover(Target::Node(target), &request);
        assert!(matches!(error, Err(Error::NoNode(_))), "{error:?}");
    }
    // Somebody else sends garbage meanwhile.
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    for round in 0..40 {
        let mut garbage: Vec<u8> = Vec::new();
        if round % 2 == 0 {
            garbage.extend(b"\0\0\0\x07\x01\0\x01\x03web");
        }
        for _ in 0..200 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            garbage.push(seed as u8 | 0x80);
        }
        let mut stranger = UnixStream::connect(socket(&cluster, 1)).unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        stranger.write_all(&garbage).unwrap();
        match stranger.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
    wait_for("the strangers are counted", PATIENCE, || {
        counted(&cluster, 1, "malformed") == 40
    });
    assert_eq!(counted(&cluster, 1, "processes"), 1);
    connection
        .request_handover(Target::Node("n2"), &request)
        .unwrap();
    assert_eq!(Response::read_and_close(stream).unwrap().text(), "n2\n");
    // A refused client is reset.
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    stream.write_all(b"x").unwrap();
    let connection = web.accept().unwrap();
    connection.reject().unwrap();
    assert_reset(stream.read(&mut [0]));
    cluster.wait_until_clean(Duration::from_secs(12));
}

/// Every function of libdts, called by a program in C that checks what it gets.
fn every_call_in_c(method: &'static Method) {
    let library = Library::installed();
    let cluster = cluster(method, PATIENCE);
    let port = cluster.port_inspected_by(1);
    let n2 = node_address(2, Network::Back);
    let arguments = ["web", &port.to_string(), &n2.to_string()];
    let calls = library.start_program(&cluster, 1, "calls", &arguments);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    let text = head("GET", "/whoami", None);
    for part in text.as_bytes().chunks(20) {
        stream.write_all(part).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    let served = Response::read_and_close(stream);
    let text = served.map(|response| response.text());
    assert_eq!(
        text.unwrap_or_else(|e| panic!("{e}: {}", log(&calls))),
        "n2\n"
    );
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    stream.write_all(b"x").unwrap();
    assert_reset(stream.read(&mut [0]));
    assert!(calls.wait(PATIENCE));
    assert_eq!(log(&calls), "done\n");
    cluster.wait_until_clean(Duration::from_secs(12));
}
