//! With real processes' side of it: the library, on real sockets.

mod wire;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use dts_core::addr::Addr;
use dts_core::ring::{RingHash, RingHashSpec};
use dts_inspector::{Error, Inspector, Target};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::config::Config;
use crate::current::Inspectors;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    directory: TempDir,
    sockets: Sockets,
    current: Current,
    runtime: Runtime,
}

fn hash() -> RingHashSpec {
    RingHashSpec::from(RingHash::SipHash { key: [3; 16] })
}

impl Node {
    fn up() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sockets = Sockets::default();
        let current = current(directory.path(), 1, "", &sockets);
        let runtime = Runtime::new().unwrap();
        sockets.listen(&current, runtime.handle()).unwrap();
        Self {
            directory,
            sockets,
            current,
            runtime,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("web.inspector.sock")
    }

    fn attach(&self) -> Inspector {
        let before = self.processes().attached();
        let inspector = Inspector::attach(self.socket().to_str().unwrap()).unwrap();
        wait_for("it to be attached", || {
            self.processes().attached() == before + 1
        });
        inspector
    }

    fn processes(&self) -> Arc<Processes> {
        self.sockets.processes("web")
    }

    fn rules(&self) -> &HttpInspector {
        &self.current.inspected[0].rules
    }

    fn counted(&self, counter: impl Fn(&ProcessCounters) -> &AtomicU64) -> u64 {
        counter(self.processes().counters()).load(Ordering::Relaxed)
    }
}

fn current(run_dir: &Path, epoch: u64, more: &str, sockets: &Sockets) -> Current {
    let text = format!(
        "cluster = {{ name = \"demo\", secret_file = \"secret\" }}\n\
         node = {{ id = \"n1\", front = \"a\", back = \"b\", address = \"198.18.1.11\", run_dir = \"{}\" }}\n\
         membership.members = [\n\
         {{ id = \"n1\", address = \"198.18.1.11\" }}, {{ id = \"n2\", address = \"198.18.1.12\" }} ]\n\
         [[service]]\nname = \"web\"\nvip = \"198.18.0.100\"\nport = 80\nmode = \"l7\"\n\
         inspector_port = 8081\ninspector = \"process\"\non_undecided = \"reset\"\n{more}",
        run_dir.display()
    );
    let (config, _) = Config::parse(Path::new("dts.toml"), &text).unwrap();
    Current::new(config, hash(), epoch, &Inspectors::new(), sockets).unwrap()
}

/// One undecided connection.
struct Client<'a> {
    node: &'a Node,
    flow: FlowKey,
    info: ConnectionInfo,
    consultation: Consultation,
    woken: Option<Receiver<()>>,
}

impl<'a> Client<'a> {
    fn new(node: &'a Node, port: u16) -> Self {
        let remote = SocketAddr::from(([198, 18, 0, 200], port));
        let local = SocketAddr::from(([198, 18, 0, 100], 80));
        Self {
            node,
            flow: FlowKey {
                remote: Addr::from(remote.ip()),
                local: Addr::from(local.ip()),
                remote_port: port,
                local_port: 80,
            },
            info: ConnectionInfo { remote, local },
            consultation: Consultation::default(),
            woken: None,
        }
    }

    fn ask(&mut self, bytes: &[u8], last: bool) -> Decision {
        let subject = Subject {
            flow: &self.flow,
            info: &self.info,
            bytes,
            last,
        };
        let woken = &mut self.woken;
        let wake = || {
            let (tell, told) = channel();
            *woken = Some(told);
            Wake::by(move || tell.send(()).expect("somebody listens"))
        };
        let (processes, rules) = (self.node.processes(), self.node.rules());
        self.consultation.decide(&processes, rules, &subject, wake)
    }

    /// Waits for the answer.
    fn answer(&mut self, bytes: &[u8]) -> Decision {
        let woken = self.woken.take().expect("it has been asked");
        woken.recv_timeout(PATIENCE).expect("an answer");
        self.ask(bytes, false)
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn to_node(decision: &Decision, current: &Current) -> Option<String> {
    let Decision::Handover(choice) = decision else {
        panic!("{decision:?}")
    };
    let (_, member) = current.placement.resolve(choice)?;
    Some(member.id.to_string())
}

const RESET: Decision = Decision::Reject(Reason::NoInspector);

#[test]
fn a_process_decides() {
    let node = Node::up();
    let web = node.attach();
    assert_eq!(web.service(), "web");
    for (target, expected) in [
        (Target::Local, "n1"),
        (Target::Default, "n1"),
        (Target::Node("n2"), "n2"),
        (Target::Node("198.18.1.12"), "n2"),
    ] {
        let mut client = Client::new(&node, 4000);
        assert_eq!(client.ask(b"GET ", false), Decision::NeedMore);
        let mut connection = web.accept().unwrap();
        assert_eq!((connection.client(), connection.local()), {
            let ConnectionInfo { remote, local } = client.info;
            (remote, local)
        });
        let mut buffer = [0; 16];
        assert_eq!(connection.read(&mut buffer).unwrap(), 4);
        assert_eq!(client.ask(b"GET /", true), Decision::NeedMore);
        assert_eq!(connection.read(&mut buffer[4..]).unwrap(), 1);
        assert_eq!(connection.read(&mut buffer[5..]).unwrap(), 0);
        // A request that isn't what was read, and nodes that don't exist: nothing happens.
        for (target, request) in [(target, &b"GET"[..]), (Target::Node("n3"), b"GET /")] {
            let refused = connection.request_handover(target, request).unwrap_err();
            assert!(matches!(refused, Error::OtherRequest | Error::NoNode(_)));
        }
        connection.request_handover(target, b"GET /").unwrap();
        assert!(matches!(connection.reject(), Err(Error::Decided)));
        let decision = client.answer(b"GET /");
        assert_eq!(to_node(&decision, &node.current).as_deref(), Some(expected));
    }
    let mut client = Client::new(&node, 4001);
    client.ask(b"x", false);
    web.accept().unwrap().reject().unwrap();
    assert_eq!(client.answer(b"x"), Decision::Reject(Reason::Refused));
    assert_eq!(node.counted(|c| &c.passed), 0);
    let mut client = Client::new(&node, 4002);
    client.ask(b"x", false);
    drop(web.accept().unwrap());
    assert_eq!(client.answer(b"x"), RESET);
    assert_eq!(node.counted(|c| &c.passed), 1);
}

#[test]
fn without_a_process_connections_get_their_fate_at_once() {
    let node = Node::up();
    assert_eq!(Client::new(&node, 4000).ask(b"x", false), RESET);
    assert_eq!(node.counted(|c| &c.unattended), 1);
    let web = node.attach();
    let mut clients: Vec<_> = (4001..4004).map(|port| Client::new(&node, port)).collect();
    for client in &mut clients {
        assert_eq!(client.ask(b"x", false), Decision::NeedMore);
    }
    let accepted = web.accept().unwrap();
    drop(web);
    for client in &mut clients {
        assert_eq!(client.answer(b"x"), RESET);
    }
    assert_eq!(node.counted(|c| &c.orphaned), 3);
    let mut buffer = [0; 4];
    wait_for("the connection to hear of it", || {
        matches!(accepted.receive(&mut buffer.clone()), Err(Error::Gone))
    });
    assert!(matches!(accepted.receive(&mut buffer), Err(Error::Gone)));
    assert_eq!(Client::new(&node, 4000).ask(b"x", false), RESET);
    assert_eq!(node.counted(|c| &c.unattended), 2);
}

#[test]
fn a_connection_that_ends_is_told_to_its_process() {
    let node = Node::up();
    let web = node.attach();
    let mut gone = Client::new(&node, 4000);
    let mut late = Client::new(&node, 4001);
    gone.ask(b"x", false);
    late.ask(b"x", false);
    let connections = [web.accept().unwrap(), web.accept().unwrap()];
    drop(gone);
    late.consultation.overdue(Reason::TooSlow);
    drop(late);
    let mut buffer = [0; 4];
    let expected = [libc::ECONNRESET, libc::ETIMEDOUT];
    for (connection, expected) in connections.iter().zip(expected) {
        let error = loop {
            match connection.receive(&mut buffer) {
                Ok(count) => assert_eq!(count, 1),
                Err(error) => break error,
            }
        };
        assert_eq!(error.errno(), expected, "{error}");
    }
}

#[test]
fn the_process_with_the_fewest_undecided_connections_is_asked() {
    let node = Node::up();
    let inspectors = [node.attach(), node.attach()];
    let mut clients: Vec<_> = (4000..4010).map(|port| Client::new(&node, port)).collect();
    for client in &mut clients {
        client.ask(b"x", false);
    }
    let accept = |inspector: &Inspector, count| -> Vec<_> {
        let accepted = (0..count).map(|_| inspector.accept().unwrap());
        let accepted: Vec<_> = accepted.collect();
        inspector.set_nonblocking(true);
        assert!(matches!(inspector.accept(), Err(Error::WouldBlock)));
        inspector.set_nonblocking(false);
        accepted
    };
    let [_, second] = inspectors.each_ref().map(|inspector| accept(inspector, 5));
    // One of them decides; all that comes next is its, until it has as many as the other one.
    for connection in second {
        connection.reject().unwrap();
    }
    for client in clients.iter_mut().skip(1).step_by(2) {
        client.answer(b"x");
        client.consultation = Consultation::default();
    }
    let mut more: Vec<_> = (5000..5005).map(|port| Client::new(&node, port)).collect();
    for client in &mut more {
        client.ask(b"x", false);
    }
    accept(&inspectors[1], 5);
}

#[test]
fn a_process_that_does_not_read_is_shown_no_more_than_so_much() {
    let process = Arc::new(Attached::default());
    let info = Client::new(&Node::up(), 1).info;
    let open = || process.open(&info, Wake::by(|| {}));
    let bytes = vec![b'x'; 1 << 20];
    let mut questions = Vec::new();
    for _ in 0..64 {
        let mut question = open().expect("there is room");
        assert_eq!(question.ask(&bytes, false), Ok(None));
        questions.push(question);
    }
    assert!(open().is_err());
    assert_eq!(
        questions[0].ask(&[&bytes[..], b"y"].concat(), false),
        Err(Refused::Crowded)
    );
    drop(questions.pop());
    let mut last = open().expect("there is room again");
    assert_eq!(last.ask(b"x", false), Ok(None));
    // What has ended without having been written is never written.
    drop(questions);
    let mut out = Vec::new();
    process.write(&mut out);
    let opened = 4 + 1 + 8 + 18 + 18;
    assert_eq!(out.len(), opened + 4 + 1 + 8 + 4 + 1 + 1);
    out.clear();
    process.write(&mut out);
    assert!(out.is_empty());
}

#[test]
fn a_long_request_is_shown_in_parts() {
    let node = Node::up();
    let web = node.attach();
    let request: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let mut client = Client::new(&node, 4000);
    for end in [1, 100_000, 199_999, 200_000] {
        assert_eq!(
            client.ask(&request[..end], end == request.len()),
            Decision::NeedMore
        );
    }
    let mut connection = web.accept().unwrap();
    let mut read = Vec::new();
    connection.read_to_end(&mut read).unwrap();
    assert!(read == request, "{} bytes", read.len());
}

#[test]
fn a_connection_keeps_its_consultation_from_one_thread_to_the_next() {
    let node = Node::up();
    let web = node.attach();
    // The next thread may have read less by then, or more.
    for read in [&b"GET /"[..], b"GE"] {
        let mut client = Client::new(&node, 4000);
        client.ask(b"GET", false);
        let connection = web.accept().unwrap();
        let asked = std::mem::take(&mut client.consultation);
        asked.send(&node.processes(), client.flow, b"GET");
        connection.receive(&mut [0; 3]).unwrap();
        connection
            .request_handover(Target::Node("n2"), b"GET")
            .unwrap();
        let mut arrived = Client::new(&node, 4000);
        let decision = match arrived.ask(read, false) {
            Decision::NeedMore => arrived.answer(read),
            decision => decision,
        };
        assert_eq!(to_node(&decision, &node.current).as_deref(), Some("n2"));
    }
    assert_eq!(node.processes().asking(), 0);
}

#[test]
fn an_earlier_connections_consultation_is_not_taken_for_this_ones() {
    let node = Node::up();
    let web = node.attach();
    let mut client = Client::new(&node, 4000);
    client.ask(b"GET /old", false);
    let lost = web.accept().unwrap();
    let asked = std::mem::take(&mut client.consultation);
    asked.send(&node.processes(), client.flow, b"GET /old");
    let mut next = Client::new(&node, 4000);
    assert_eq!(next.ask(b"GET /new", false), Decision::NeedMore);
    let connection = web.accept().unwrap();
    let mut buffer = [0; 16];
    assert_eq!(connection.receive(&mut buffer).unwrap(), 8);
    assert_eq!(buffer[..8], *b"GET /new");
    assert_eq!(node.processes().asking(), 1);
    let ended = loop {
        match lost.receive(&mut buffer) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::Ended(_)), "{ended}");
}

#[test]
fn members_are_told_with_each_change() {
    let node = Node::up();
    let web = node.attach();
    let members = |web: &Inspector| web.cluster().members().len();
    assert_eq!((web.cluster().epoch(), members(&web)), (1, 2));
    for key in ["/", "/downloads/a", "/b?c=d"] {
        let place = dts_core::ring::key_hash(&hash(), key.as_bytes());
        let (_, expected) = node
            .current
            .placement
            .resolve(&TargetChoice::Key(place))
            .unwrap();
        let cluster = web.cluster();
        let found = cluster.ring_lookup(key.as_bytes()).unwrap();
        assert_eq!(found.name, *expected.id);
    }
    let next = current(
        node.directory.path(),
        2,
        "undecided_ms = 50\n",
        &node.sockets,
    );
    node.sockets.listen(&next, node.runtime.handle()).unwrap();
    wait_for("the new epoch", || web.cluster().epoch() == 2);
    assert_eq!(node.processes().attached(), 1);
    // Another socket: those of the old one are detached.
    let other = node.directory.path().join("other");
    let line = format!("inspector_socket = \"{}\"\n", other.display());
    let next = current(node.directory.path(), 3, &line, &node.sockets);
    node.sockets.listen(&next, node.runtime.handle()).unwrap();
    assert!(matches!(web.accept(), Err(Error::Gone)));
    assert!(!node.socket().exists());
    Inspector::attach(other.to_str().unwrap()).unwrap();
    node.sockets.close();
    assert!(!other.exists());
}
