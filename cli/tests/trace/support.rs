//! Clusters to be traced, and traces of them.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{ClusterSpec, Family, FileSet, LabGuard, LabSpec, Network, Place, VIP, VIP_V6};
use dts_node::admin::{Client, TraceSegment};

pub(crate) const DTS: &str = env!("CARGO_BIN_EXE_dts");
pub(crate) const CLIENT: Place = Place::Client(1);

/// How long something may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cluster in which n1 inspects, and whose nodes know each other.
pub(crate) fn cluster(name: &str, handover: &str) -> LabGuard {
    cluster_over(Family::V4, name, handover)
}

/// The same with clients, service and nodes of one family.
pub(crate) fn cluster_over(family: Family, name: &str, handover: &str) -> LabGuard {
    let mut spec = LabSpec::new(format!("{name}{}", std::process::id()), 3, DTS);
    for node in &mut spec.nodes[1..] {
        node.inspect = Some(false);
    }
    if family == Family::V6 {
        spec = spec.with_ipv6(family);
    }
    let services = ClusterSpec::services_at(&[vip(family)], 3, handover);
    spec.cluster.services_toml = Some(services);
    let lab = LabGuard::up(spec).expect("a lab (needs root)");
    let nodes: Vec<Place> = lab.spec().node_places().collect();
    let mut files = FileSet::new(1);
    for node in &nodes {
        files.add(format!("{node}/file"), 500).unwrap();
    }
    lab.publish(&nodes, &files).unwrap();
    // At first the nodes don't know each other's link addresses: the daemon decides, and later requests stay.
    let mut ports = 39_000..;
    let mut introduced = |paths: &[&str], node, counter: &str| {
        wait_for(counter, || {
            fetch(&lab, ports.next().unwrap(), paths);
            let stats = Client::connect(&lab.daemon_socket(node)).unwrap().stats();
            stats.unwrap().actions[counter] > 0
        });
    };
    if handover == "adopt" {
        introduced(&["/n2/file"], 1, "sent_on");
        introduced(&["/n2/file", "/n3/file"], 2, "moved_on");
    } else {
        introduced(&["/n2/file"], 2, "direct");
        introduced(&["/n3/file"], 3, "direct");
    }
    lab
}

fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => VIP.into(),
        Family::V6 => VIP_V6.into(),
    }
}

/// Fetches paths on one connection, as far as the servers keep it, from this port.
pub(crate) fn fetch(lab: &LabGuard, port: u16, paths: &[&str]) {
    let family = if lab.spec().ipv6 {
        Family::V6
    } else {
        Family::V4
    };
    let vip = SocketAddr::new(vip(family), 80);
    let urls = paths
        .iter()
        .map(|path| format!(" -o /dev/null http://{vip}{path}"));
    let urls: String = urls.collect();
    // A host that is an IPv6 address would be no plain one, and its later requests stay.
    let script = format!("curl -sSf -H 'Host: dts.test' --max-time 10 --local-port {port}{urls}");
    lab.sh(CLIENT, &script).unwrap();
}

pub(crate) fn client(port: u16) -> SocketAddr {
    client_of(Family::V4, port)
}

pub(crate) fn client_of(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(CLIENT.address_of(family, Network::Front).unwrap(), port)
}

/// A `dts trace` that is running. What it prints is read as it comes.
pub(crate) struct Trace {
    process: Child,
    out: Reader,
    errors: Reader,
}

pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) errors: String,
}

/// What has been read so far, and the thread that reads.
struct Reader {
    text: Arc<Mutex<Vec<u8>>>,
    thread: thread::JoinHandle<()>,
}

impl Reader {
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                shared.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { text, thread }
    }

    fn so_far(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }

    fn all(self) -> String {
        self.thread.join().unwrap();
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

impl Trace {
    /// What it has said so far of itself.
    pub(crate) fn said(&self) -> String {
        self.errors.so_far()
    }

    /// Begins to trace, and waits until it does.
    pub(crate) fn begin(arguments: &[&str]) -> Self {
        let mut process = Command::new(DTS)
            .arg("trace")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let trace = Self {
            out: Reader::of(process.stdout.take().unwrap()),
            errors: Reader::of(process.stderr.take().unwrap()),
            process,
        };
        wait_for("the trace has begun", || {
            trace.errors.so_far().starts_with("Tracing ")
        });
        trace
    }

    pub(crate) fn of_lab(lab: &LabGuard, arguments: &[&str]) -> Self {
        Self::begin(&[&["--lab", &*lab.spec().name], arguments].concat())
    }

    pub(crate) fn kill(&self, signal: &str) {
        // Not waited for yet, so the number is still its own.
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn end(mut self) -> Ended {
        let mut status = None;
        wait_for("the trace ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        Ended {
            code: status.and_then(|status| status.code()),
            out: self.out.all(),
            errors: self.errors.all(),
        }
    }

    /// Lets the last segments come, ends the trace as Ctrl-C does, and checks that it ends well.
    pub(crate) fn stop(self) -> Ended {
        thread::sleep(Duration::from_millis(700));
        self.kill("INT");
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{}", ended.errors);
        assert!(ended.errors.contains(" segments of "), "{}", ended.errors);
        assert!(!ended.errors.contains("not shown"), "{}", ended.errors);
        ended
    }

    /// The same, of one with `--json`.
    pub(crate) fn stop_json(self) -> Vec<TraceSegment> {
        let ended = self.stop();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let segments = ended.out.lines().map(parse);
        // Rests of the introduction, perhaps, of which nobody knows any more whose they were.
        segments
            .filter(|s: &TraceSegment| s.client.is_some())
            .collect()
    }
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a node's daemon has its filter trace.
pub(crate) fn is_traced(lab: &LabGuard, node: u8) -> bool {
    let pid = Client::connect(&lab.daemon_socket(node))
        .unwrap()
        .status()
        .unwrap()
        .pid;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().any(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "trace\n")
    })
}

pub(crate) fn nothing_stays_on(lab: &LabGuard) {
    wait_for("tracing is switched off", || {
        (1..=3).all(|node| !is_traced(lab, node))
    });
}
