//! Frames that make connections, from somebody in the back network: forged, of another time, or recorded and sent again.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dts_core::handover::FRESHNESS_SECONDS;
use dts_lab::{FileSet, Network, Place, Signal};
use dts_node::admin::Role;
use dts_node::config::{Secret, service_id};
use socket2::Socket;

use crate::client::{PATIENCE, Response, connect, connect_here, reset};
use crate::cluster::{
    CLIENT, Cluster, HANDOVER_PORT, Method, WEB, node_address, scale, vip, wait_for,
};
use crate::packet::{self, Packet, frame_socket};

crate::cases![forged_stale_and_replayed_handovers];

/// The node that they are sent to. n1 hands connections to it; the other is where n3 was, without a filter.
const TARGET: u8 = 2;
const ATTACKER: Place = Place::Node(3);

/// How many connections are recorded.
const RECORDED: u32 = 100;

/// How many frames are sent before the target's counter must have grown by them: none is lost on its way.
const BURST: usize = 500;

/// Acceptance: 100,000 forged, replayed and stale handovers: no socket, no entry, each counted as what it is; ordinary
/// requests go on.
fn forged_stale_and_replayed_handovers(method: &'static Method) {
    let hundredth = scale("DTS_FORGED", 100_000) as usize / 100;
    let cluster = cluster(method);
    let attack = Attack::new(&cluster, method);
    let over = AtomicBool::new(false);
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| ordinary_requests(&cluster, &over, &served));
        // Ends the others when a check fails, too.
        let ended = Ended(&over);
        let (recorded, began) = attack.replay(hundredth);
        let late = began.elapsed() >= Duration::from_secs(FRESHNESS_SECONDS.into());
        assert!(!late, "too slow: what was recorded is stale by itself");
        attack.forge(hundredth, &recorded);
        drop(ended);
    });
    assert!(served.load(Ordering::Relaxed) > 10, "requests meanwhile");
    let after = ask(&cluster, cluster.port_inspected_by(1), TARGET);
    reset(after);
    cluster.wait_until_clean(Duration::from_secs(10));
    for node in [1, TARGET] {
        assert_eq!(cluster.connections(node), [], "n{node}: no entry");
        let sockets = cluster.ss(Place::Node(node), &["-Htan"]).unwrap();
        // The lab asks on loopback whether nginx is there.
        let open = sockets
            .lines()
            .filter(|line| !line.starts_with("LISTEN") && !line.contains("127.0.0.1"));
        assert_eq!(open.count(), 0, "n{node}: no socket:\n{sockets}");
    }
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn cluster(method: &Method) -> Cluster {
    let cluster = Cluster::up(method, 3);
    let mut files = FileSet::new(9);
    for node in [1, TARGET] {
        files.add(format!("n{node}/1k"), 1000).unwrap();
    }
    cluster
        .publish(&[Place::Node(1), Place::Node(TARGET)], &files)
        .unwrap();
    cluster.end_daemon(3, Signal::TERM);
    let mut detach = Command::new(env!("CARGO_BIN_EXE_dts"));
    detach
        .args(["detach", "--config"])
        .arg(cluster.daemon_config(3));
    assert!(cluster.exec(ATTACKER, &detach).unwrap().status.success());
    // What goes to the VIP goes to the target, as n1 sends it there.
    let (vip, back) = (vip(WEB).ip(), node_address(TARGET, Network::Back));
    cluster
        .sh(ATTACKER, &format!("ip route add {vip} via {back}"))
        .unwrap();
    cluster
}

/// Asks for a node's file; the connection stays open.
fn ask(cluster: &Cluster, port: u16, node: u8) -> TcpStream {
    let mut stream = connect(cluster, Some(port), WEB).unwrap();
    ask_on(&mut stream, node);
    stream
}

fn ask_on(stream: &mut TcpStream, node: u8) {
    let head = format!("GET /n{node}/1k HTTP/1.1\r\nHost: dts.test\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let response = Response::read(&*stream).unwrap();
    assert_eq!(
        (response.node, response.body.len()),
        (Some(format!("n{node}")), 1000)
    );
}

/// Requests to the node that is not attacked, until `over`.
fn ordinary_requests(cluster: &Cluster, over: &AtomicBool, served: &AtomicU32) {
    while !over.load(Ordering::Relaxed) {
        let inspecting = 1 + (served.fetch_add(1, Ordering::Relaxed) % 2) as u8;
        let port = cluster.port_inspected_by(inspecting);
        let work = || connect_here(Some(port), vip(WEB)).unwrap();
        let mut stream = cluster.within(CLIENT, work).unwrap();
        ask_on(&mut stream, 1);
        // No TIME_WAIT is left anywhere.
        reset(stream);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Somebody in the back network.
struct Attack<'a> {
    cluster: &'a Cluster,
    adopts: bool,
    /// The key of the cluster's tags.
    key: [u8; 16],
    /// What has made connections at the target so far.
    accepted: u64,
}

impl<'a> Attack<'a> {
    fn new(cluster: &'a Cluster, method: &Method) -> Self {
        let config = std::fs::read_to_string(cluster.daemon_config(1)).unwrap();
        let path = config
            .lines()
            .find_map(|line| line.strip_prefix("secret_file = \"")?.strip_suffix('"'))
            .unwrap();
        let secret = Secret::load(path.as_ref()).unwrap();
        let mut attack = Self {
            cluster,
            adopts: method.adopts(),
            key: secret.derive("handover tag"),
            accepted: 0,
        };
        attack.accepted = attack.accepted();
        attack
    }

    /// How many frames the target has taken for those that make a connection.
    fn accepted(&self) -> u64 {
        ["handover_syn", "adopted"]
            .map(|action| self.cluster.actions(TARGET, action))
            .iter()
            .sum()
    }

    /// Records connections being handed over to the target, and sends what was recorded: while they live, when they are
    /// over, and while others with the same ends live. What was recorded, and when that began.
    fn replay(&self, hundredth: usize) -> (Vec<Packet>, Instant) {
        let cluster = self.cluster;
        let began = Instant::now();
        let recorder = Recorder::new(cluster);
        let ports: Vec<u16> = (0..RECORDED)
            .map(|_| cluster.port_inspected_by(1))
            .collect();
        let ask_all = || -> Vec<TcpStream> {
            let of = |port: &u16| ask(cluster, *port, TARGET);
            ports.iter().map(of).collect()
        };
        let streams = ask_all();
        let recorded = recorder.handovers();
        assert!(
            recorded.len() >= ports.len(),
            "recorded: {}",
            recorded.len()
        );
        let accepted = self.accepted();
        assert!(accepted >= self.accepted + u64::from(RECORDED));
        let copies = |hundredths: usize| -> Vec<Packet> {
            let all = recorded.iter().cycle();
            all.take(hundredths * hundredth).cloned().collect()
        };
        let send = |what: &str, hundredths: usize, reason: &str, live: u32| {
            self.send(what, &copies(hundredths), reason);
            assert_eq!(self.accepted(), accepted, "{what}: accepted");
            assert_eq!(self.at_target(), [live as usize; 2], "{what}");
        };
        let known = match self.adopts {
            true => "duplicate_request",
            false => "replayed_handover",
        };
        send("live connections'", 10, "duplicate_handover", RECORDED);
        streams.into_iter().for_each(reset);
        wait_for("the connections are over", PATIENCE, || {
            self.at_target() == [0; 2]
        });
        send("those of connections that are over", 20, known, 0);

        let mut streams = ask_all();
        let accepted = self.accepted();
        let copies = copies(10);
        self.send("those of earlier connections", &copies, known);
        assert_eq!(self.accepted(), accepted);
        assert_eq!(self.at_target(), [RECORDED as usize; 2]);
        for stream in &mut streams {
            ask_on(stream, TARGET);
        }
        streams.into_iter().for_each(reset);
        wait_for("these connections are over", PATIENCE, || {
            self.at_target() == [0; 2]
        });
        (recorded, began)
    }

    /// Sends what no node of the cluster has sent, or not now.
    fn forge(&self, hundredth: usize, recorded: &[Packet]) {
        let accepted = self.accepted();
        let mut random = fastrand::Rng::with_seed(5);
        let member = node_address(1, Network::Back);
        // The address of a tenth node, if there were one.
        let stranger = node_address(10, Network::Back);
        let to = SocketAddr::new(node_address(TARGET, Network::Back), HANDOVER_PORT);
        let service = service_id(vip(WEB).ip(), WEB);
        let syn = |from, number: usize, made, key| {
            let number = number as u16;
            let from = SocketAddr::new(from, 20_000 + number % 20_000);
            let option = packet::option(number, service, made);
            packet::handover_syn(from, to, &option, key)
        };
        // Every second one is an adoption where there are such.
        let some = |number: usize, made, key| match self.adopts && number.is_multiple_of(2) {
            true => recorded[number % recorded.len()].sealed(to.ip(), number as u16, made, &key),
            false => syn(member, number, made, key),
        };
        let changed: Vec<_> = (0..10 * hundredth)
            .map(|number| recorded[number % recorded.len()].changed(&mut random))
            .collect();
        self.send("changed ones", &changed, "bad_tag");
        let forged: Vec<_> = (0..20 * hundredth)
            .map(|number| {
                let mut key = [0; 16];
                random.fill(&mut key);
                some(number, now(), key)
            })
            .collect();
        self.send("forged ones", &forged, "bad_tag");
        let strangers: Vec<_> = (0..10 * hundredth)
            .map(|number| syn(stranger, number, now(), self.key))
            .collect();
        self.send("a stranger's", &strangers, "not_member");
        let stale: Vec<_> = (0..20 * hundredth)
            .map(|number| {
                // No adoption tells of more than two minutes.
                let away = 50 + number as u32 % 60;
                let made = match number / 2 % 2 {
                    0 => now().wrapping_sub(away),
                    _ => now().wrapping_add(away),
                };
                some(number, made, self.key)
            })
            .collect();
        self.send("stale ones", &stale, "stale_handover");
        assert_eq!(self.accepted(), accepted, "accepted");
        assert_eq!(self.at_target(), [0; 2]);
    }

    /// Sends packets to the target, each of which must be dropped for this reason.
    fn send(&self, what: &str, packets: &[Packet], reason: &str) {
        let counted = || self.cluster.drops(TARGET, reason);
        let mut expected = counted();
        for burst in packets.chunks(BURST) {
            packet::send(self.cluster, ATTACKER, burst);
            expected += burst.len() as u64;
            let deadline = Instant::now() + PATIENCE;
            while counted() < expected {
                assert!(
                    Instant::now() < deadline,
                    "{what}: {} of {expected} {reason}; {:?}",
                    counted(),
                    self.cluster.stats(TARGET).drops
                );
            }
        }
        thread::sleep(Duration::from_millis(20));
        assert_eq!(counted(), expected, "{what}: {reason}");
    }

    /// How many connections the target has: by its sockets in whatever state, and by its entries.
    fn at_target(&self) -> [usize; 2] {
        let address = vip(WEB);
        let server = format!(" {address} ");
        let sockets = self.cluster.ss(Place::Node(TARGET), &["-Htan"]).unwrap();
        let sockets = sockets
            .lines()
            .filter(|line| !line.starts_with("LISTEN") && line.contains(&server));
        let entries = self.cluster.connections(TARGET);
        let entries = entries
            .iter()
            .filter(|entry| entry.role == Role::Processing && entry.local == address);
        [sockets.count(), entries.count()]
    }
}

/// Unix time in seconds.
fn now() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs() as u32
}

/// Somebody who sees what arrives at the target.
struct Recorder(Socket);

impl Recorder {
    fn new(cluster: &Cluster) -> Self {
        let open = || {
            let socket = frame_socket()?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        Self(cluster.within(Place::Node(TARGET), open).unwrap().unwrap())
    }

    /// What other nodes have sent to make connections.
    fn handovers(mut self) -> Vec<Packet> {
        let mut handovers = Vec::new();
        let mac = Place::Node(TARGET).mac(Network::Back).unwrap();
        let mut frame = vec![0; 1 << 17];
        loop {
            match self.0.read(&mut frame) {
                Ok(len) => handovers.extend(Packet::handover(&frame[..len], mac)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return handovers,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
