//! The clusters that the cases run on, and what is asked of their nodes.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{ClusterSpec, Family, LabGuard, LabSpec, Network, Place, Signal};
use dts_node::admin::{
    Client, ConnectionFilter, ConnectionView, Lookup, RingQuery, StatsView, StatusView,
};

use crate::client::PATIENCE;

/// A way to hand connections over, with which every case is run.
#[derive(Debug)]
pub(crate) struct Method {
    /// Part of the test's name.
    pub(crate) name: &'static str,
    /// The services' `handover`.
    pub(crate) handover: &'static str,
    /// That of clients and services, and of the nodes among each other.
    pub(crate) family: Family,
}

impl Method {
    /// Whether connections are adopted.
    pub(crate) fn adopts(&self) -> bool {
        self.handover == "adopt"
    }
}

/// All of them.
pub(crate) const METHODS: &[Method] = &[
    Method {
        name: "splice",
        handover: "splice",
        family: Family::V4,
    },
    Method {
        name: "adopt",
        handover: "adopt",
        family: Family::V4,
    },
];

/// The same over IPv6.
pub(crate) const METHODS_V6: &[Method] = &[
    Method {
        name: "splice6",
        handover: "splice",
        family: Family::V6,
    },
    Method {
        name: "adopt6",
        handover: "adopt",
        family: Family::V6,
    },
];

/// Whether the case that runs is one over IPv6. Cases run one at a time.
static IPV6: AtomicBool = AtomicBool::new(false);

/// Says by which family the next case's clients come.
pub(crate) fn run_over(family: Family) {
    IPV6.store(family == Family::V6, Ordering::Relaxed);
}

/// The family of the case that runs.
pub(crate) fn family() -> Family {
    match IPV6.load(Ordering::Relaxed) {
        false => Family::V4,
        true => Family::V6,
    }
}

/// How long closed connections may leave traces: the housekeeper looks every two seconds, at what has been idle for up to
/// five.
pub(crate) const TRACES: Duration = Duration::from_secs(12);

pub(crate) const CLIENT: Place = Place::Client(1);
pub(crate) const HANDOVER_PORT: u16 = 7411;
/// nginx.
pub(crate) const WEB: u16 = 80;
/// A service whose servers a case starts itself; a target that is gone is replaced by the default.
pub(crate) const APP: u16 = 8000;
/// The same, but the client gets a reset when the target is gone.
pub(crate) const STRICT: u16 = 8200;

/// The first port that cases give to their clients: below those that the kernel chooses.
const FIRST_CLIENT_PORT: u16 = 10_000;

/// A lab with running daemons. Services: [`WEB`], [`APP`] and [`STRICT`]; `/n1/...` belongs to `n1` and
/// so on, everything else stays where it is inspected.
pub(crate) struct Cluster {
    lab: LabGuard,
    next_port: AtomicU16,
}

impl Cluster {
    /// A cluster of some nodes.
    pub(crate) fn up(method: &Method, nodes: u8) -> Self {
        Self::with(method, nodes, |_| {})
    }

    /// The same, with changes.
    pub(crate) fn with(method: &Method, nodes: u8, change: impl FnOnce(&mut LabSpec)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ht{}x{number}", std::process::id());
        let mut spec = LabSpec::new(name, nodes, env!("CARGO_BIN_EXE_dts"));
        if family() == Family::V6 {
            spec = spec.with_ipv6(Family::V6);
        }
        spec.cluster.services_toml = Some(services(method, nodes));
        change(&mut spec);
        Self {
            lab: LabGuard::up(spec).unwrap(),
            next_port: AtomicU16::new(FIRST_CLIENT_PORT),
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.spec().node_count()
    }

    fn ask(&self, node: u8) -> Client {
        Client::connect(&self.daemon_socket(node)).unwrap_or_else(|error| {
            let log = fs::read_to_string(self.daemon_log(node)).unwrap_or_default();
            panic!("{error}; the daemon's log:\n{log}")
        })
    }

    /// Has a node's daemon end, and waits until its sockets are closed: its last thread, and they, outlive
    /// the one that gives the process its state.
    pub(crate) fn end_daemon(&self, node: u8, signal: Signal) {
        self.stop_daemon(node, signal).unwrap();
        wait_for("the daemon's sockets are closed", PATIENCE, || {
            UnixStream::connect(self.daemon_socket(node)).is_err()
        });
    }

    pub(crate) fn status(&self, node: u8) -> StatusView {
        self.ask(node).status().unwrap()
    }

    pub(crate) fn stats(&self, node: u8) -> StatsView {
        self.ask(node).stats().unwrap()
    }

    /// Takes a member out of a node's list and has its daemon reload, which it does without a restart; what it says has
    /// changed.
    pub(crate) fn remove_member(&self, node: u8, member: &str) -> Vec<String> {
        let path = self.daemon_config(node);
        let toml = fs::read_to_string(&path).unwrap();
        let marker = format!("{{ id = \"{member}\"");
        let kept: Vec<&str> = toml
            .lines()
            .filter(|line| !line.contains(&marker))
            .collect();
        assert_eq!(kept.len() + 1, toml.lines().count());
        fs::write(&path, kept.join("\n") + "\n").unwrap();
        let pid = self.status(node).pid;
        let changes = self.ask(node).reload().unwrap().changes;
        assert!(
            changes.contains(&format!("member {member} left")),
            "{changes:?}"
        );
        assert_eq!(self.status(node).pid, pid, "without a restart");
        changes
    }

    /// Gives a member of a node's list another setting, and has the node's daemon reload.
    pub(crate) fn change_member(&self, node: u8, member: &str, setting: &str) {
        let path = self.daemon_config(node);
        let toml = fs::read_to_string(&path).unwrap();
        let marker = format!("{{ id = \"{member}\",");
        let changed = toml.replacen(&marker, &format!("{marker} {setting},"), 1);
        assert_ne!(changed, toml);
        fs::write(&path, changed).unwrap();
        let changes = self.ask(node).reload().unwrap().changes;
        assert_eq!(changes.len(), 1, "{changes:?}");
    }

    /// Has a node's daemon read its configuration again.
    pub(crate) fn reload(&self, node: u8) {
        self.ask(node).reload().unwrap();
    }

    /// How many connections the cluster's nodes have handed over, in whichever way.
    pub(crate) fn handed_over(&self) -> u64 {
        self.sum(|node| {
            let handovers = self.status(node).handovers;
            handovers.done + handovers.adopted
        })
    }

    pub(crate) fn drops(&self, node: u8, reason: &str) -> u64 {
        self.stats(node).drops[reason]
    }

    pub(crate) fn actions(&self, node: u8, action: &str) -> u64 {
        self.stats(node).actions[action]
    }

    pub(crate) fn connections(&self, node: u8) -> Vec<ConnectionView> {
        let filter = ConnectionFilter::default();
        self.ask(node).connections(filter).unwrap().connections
    }

    /// The node that inspects connections from this address, as a node's ring tells.
    pub(crate) fn owner(&self, asked: u8, remote: SocketAddr) -> u8 {
        self.look_up(asked, Lookup::Flow(remote))
    }

    /// The node that a key belongs to, as a node's ring tells.
    pub(crate) fn key_owner(&self, asked: u8, key: &str) -> u8 {
        self.look_up(asked, Lookup::Key(key.to_owned()))
    }

    fn look_up(&self, asked: u8, lookup: Lookup) -> u8 {
        let query = RingQuery {
            points: false,
            lookup: Some(lookup),
        };
        let owner = self.ask(asked).ring(query).unwrap().owner.unwrap();
        owner.id.trim_start_matches('n').parse().unwrap()
    }

    /// A port of the client's that was not used yet, whose connections a node inspects.
    pub(crate) fn port_inspected_by(&self, node: u8) -> u16 {
        loop {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            let remote = SocketAddr::new(client_address(), port);
            if self.owner(node, remote) == node {
                return port;
            }
        }
    }

    /// Waits until no node has an entry but of connections that wait in TIME_WAIT, and no socket of
    /// handovers or of clients is left in another state.
    #[track_caller]
    pub(crate) fn wait_until_clean(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let left: Vec<String> = self
                .nodes()
                .filter(|node| self.daemon(*node).is_some())
                .flat_map(|node| self.leftovers(node))
                .collect();
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind {patience:?} later, {} in all: {:#?}",
                left.len(),
                &left[..left.len().min(12)]
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// What a node has that it should not have when there is no connection: in words.
    fn leftovers(&self, node: u8) -> Vec<String> {
        let ss = self.ss(Place::Node(node), &["-Htan"]).unwrap();
        let sockets: Vec<Socket> = ss.lines().filter_map(Socket::parse).collect();
        let vip = vip(0).ip();
        let mut left = Vec::new();
        let mut waiting = BTreeSet::new();
        for socket in &sockets {
            let handover = [socket.local.port(), socket.peer.port()].contains(&HANDOVER_PORT);
            if socket.state == "TIME-WAIT" && !handover {
                waiting.insert((socket.peer, socket.local));
            } else if socket.state != "LISTEN" && (handover || socket.local.ip() == vip) {
                left.push(format!("n{node}: {socket:?}"));
            }
        }
        for entry in self.connections(node) {
            if !waiting.contains(&(entry.remote, entry.local)) {
                left.push(format!("n{node}: {entry:?}"));
            }
        }
        left
    }

    /// TCP counters of a place's kernel (`/proc/net/snmp` and `netstat`), such as `TCPTimeouts`.
    pub(crate) fn tcp_counter(&self, place: Place, name: &str) -> u64 {
        let read = || {
            ["snmp", "netstat"]
                .map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
                .concat()
        };
        let tables = self.within(place, read).unwrap();
        let lines: Vec<&str> = tables.lines().collect();
        lines
            .chunks_exact(2)
            .find_map(|pair| {
                let column = pair[0].split(' ').position(|column| column == name)?;
                pair[1].split(' ').nth(column)?.parse().ok()
            })
            .unwrap_or_else(|| panic!("the kernel counts no {name}"))
    }

    /// Adds up the same counter of all nodes.
    pub(crate) fn sum(&self, counter: impl Fn(u8) -> u64) -> u64 {
        self.nodes().map(counter).sum()
    }
}

impl Deref for Cluster {
    type Target = LabGuard;

    fn deref(&self) -> &LabGuard {
        &self.lab
    }
}

impl Drop for Cluster {
    /// Says what the daemons said when a case fails.
    fn drop(&mut self) {
        if thread::panicking() {
            for node in self.nodes() {
                let log = fs::read_to_string(self.daemon_log(node)).unwrap_or_default();
                let from = log.lines().count().saturating_sub(40);
                if let Ok(stats) =
                    Client::connect(&self.daemon_socket(node)).and_then(|c| c.stats())
                {
                    let counted = stats.actions.iter().chain(&stats.drops);
                    let counted: Vec<_> = counted.filter(|(_, count)| **count > 0).collect();
                    eprintln!("n{node} counted: {counted:?}");
                }
                eprintln!("n{node} logged:");
                log.lines()
                    .skip(from)
                    .for_each(|line| eprintln!("  {line}"));
            }
        }
    }
}

/// A line of `ss -Htan`.
#[derive(Debug)]
struct Socket {
    state: String,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let address = |text: &str| text.replace('*', "0").parse().ok();
        Some(Self {
            state: (*columns.first()?).to_owned(),
            local: address(columns.get(3)?)?,
            peer: address(columns.get(4)?)?,
        })
    }
}

/// The client's address, of the family of the case that runs, as all of these.
pub(crate) fn client_address() -> IpAddr {
    CLIENT.address_of(family(), Network::Front).unwrap()
}

/// A node's address.
pub(crate) fn node_address(node: u8, network: Network) -> IpAddr {
    Place::Node(node).address_of(family(), network).unwrap()
}

/// The address at which a server takes connections to all addresses.
pub(crate) fn any_address() -> IpAddr {
    match family() {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A service's address.
pub(crate) fn vip(port: u16) -> SocketAddr {
    let address = match family() {
        Family::V4 => dts_lab::VIP.into(),
        Family::V6 => dts_lab::VIP_V6.into(),
    };
    SocketAddr::new(address, port)
}

/// The service [`WEB`] alone, with rules for the first so many nodes.
pub(crate) fn web_service(method: &Method, nodes: u8) -> String {
    ClusterSpec::services_at(&[vip(WEB).ip()], nodes, method.handover)
}

/// The services that [`Cluster`] tells of, with rules for the first so many nodes.
pub(crate) fn services(method: &Method, nodes: u8) -> String {
    let mut toml = web_service(method, nodes);
    for (name, port, inspector, fate) in [
        ("app", APP, 8082, "default"),
        ("strict", STRICT, 8083, "reset"),
    ] {
        toml += &service(name, port, inspector, method, fate, nodes);
    }
    toml
}

fn service(name: &str, port: u16, inspector: u16, method: &Method, fate: &str, n: u8) -> String {
    let mut toml = format!(
        "\n[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {port}\nmode = \"l7\"\n\
         handover = \"{}\"\ninspector_port = {inspector}\non_unreachable = \"{fate}\"\n",
        vip(port).ip(),
        method.handover
    );
    for node in 1..=n {
        toml += &format!(
            "\n[[service.rule]]\npath_prefix = \"/n{node}/\"\nto = {{ nodes = [\"n{node}\"] }}\n"
        );
    }
    toml
}

/// Waits for something that is about to come about.
#[track_caller]
pub(crate) fn wait_for(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A number that the environment can change, such as `DTS_HANDOVERS`.
pub(crate) fn scale(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: write a number")),
        Err(_) => default,
    }
}
