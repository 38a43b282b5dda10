//! Bad networks: frames lost, duplicated and overtaken between clients and nodes and between nodes, and every byte right.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{Effect, FileSet, Impairment, Network, Place};
use fastrand::Rng;
use socket2::SockRef;

use crate::client::{Response, connect_here};
use crate::cluster::{APP, CLIENT, Cluster, Method, WEB, node_address, scale, vip};
use crate::requests::introduce;
use crate::servers::{Server, read_head};

crate::cases![every_byte];

const NODES: u8 = 4;
/// How many clients ask at the same time: most of them wait for a retransmission.
const CLIENTS: usize = 96;
/// Files on each node, of random sizes.
const FILES: u64 = 64;
/// Bodies have up to so many bytes, either way.
const LARGEST: f64 = 120_000.0;
/// Answers have at least so many, or two could look alike.
const SMALLEST: usize = 16;

/// Acceptance: 2 % loss, 1 % duplication and reordering on front and back together, bodies of random size: no wrong
/// byte, no request that two servers see, no connection that is still open a minute after the end. With
/// `DTS_LOSSY_CONTROL=1` the same traffic goes to the nodes' own addresses: what TCP does on these networks by itself.
fn every_byte(method: &'static Method) {
    let connections = scale("DTS_LOSSY_HANDOVERS", 2000);
    let seed = scale("DTS_SEED", fastrand::u64(..));
    let control = scale("DTS_LOSSY_CONTROL", 0) != 0;
    println!("DTS_SEED={seed}");
    let cluster = Cluster::up(method, NODES);
    let files = publish_files(&cluster, seed);
    let traffic = Traffic::new(seed, control, files);
    let _servers: Vec<Server<()>> = cluster
        .nodes()
        .map(|node| serve(&cluster, node, &traffic))
        .collect();
    // Link addresses are learnt: a question for one that is lost is repeated after a second, by whatever TCP.
    introduce(&cluster);
    let before = cluster.handed_over();
    spoil(&cluster);
    let begin = Instant::now();
    cluster
        .within(CLIENT, || ask_everything(&traffic, connections))
        .unwrap();
    let took = begin.elapsed();
    check_logs(&cluster, &traffic);
    traffic.tell(connections, took);
    cluster.wait_until_clean(Duration::from_secs(60));
    assert_client_is_clean(&cluster, begin + took + Duration::from_secs(60));
    let handed_over = cluster.handed_over() - before;
    let failed = |reason| cluster.sum(|node| cluster.status(node).handovers.failed[reason]);
    let (unreachable, incomplete) = (failed("unreachable"), failed("incomplete"));
    println!("{handed_over} handovers, {unreachable} unreachable, {incomplete} incomplete");
    let wrong = traffic.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), first(&wrong));
    let (elsewhere, lost) = (traffic.count("elsewhere"), traffic.failed());
    assert!(elsewhere <= unreachable, "{elsewhere} answers of others");
    assert_eq!(lost, 0, "connections that TCP itself would not lose here");
    assert!(control || handed_over + unreachable >= connections);
    let retransmitted = cluster.tcp_counter(CLIENT, "RetransSegs");
    assert!(retransmitted > connections / 50, "networks are bad");
}

fn first(list: &[String]) -> &[String] {
    &list[..list.len().min(20)]
}

fn publish_files(cluster: &Cluster, seed: u64) -> FileSet {
    let mut rng = Rng::with_seed(seed);
    let mut files = FileSet::new(seed);
    for node in cluster.nodes() {
        for number in 0..FILES {
            let size = SMALLEST + size(&mut rng);
            files.add(format!("n{node}/{number}"), size as u64).unwrap();
        }
    }
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();
    files
}

/// As many sizes between 1 and 10 as between 1000 and 10,000.
fn size(rng: &mut Rng) -> usize {
    LARGEST.powf(rng.f64()) as usize - 1
}

/// Puts the acceptance's weather on both networks.
fn spoil(cluster: &Cluster) {
    let effects = [
        Effect::Loss(0.02),
        Effect::Duplicate(0.01),
        Effect::Reorder(0.05),
    ];
    let both = Network::ALL
        .into_iter()
        .flat_map(|network| effects.map(|effect| Impairment::of_network(network, effect)));
    cluster.set_impairments(&both.collect::<Vec<_>>()).unwrap();
}

/// What is asked, and what has become of it.
struct Traffic {
    seed: u64,
    /// Whether clients go to the nodes' own addresses.
    control: bool,
    /// What nginx serves, by path.
    files: HashMap<String, Vec<u8>>,
    next: AtomicU64,
    /// Which nodes' servers have begun to read a request, by its number.
    begun: Mutex<HashMap<u64, Vec<u8>>>,
    /// What must not be, in words.
    wrong: Mutex<Vec<String>>,
    /// What may be, counted.
    counts: Mutex<BTreeMap<String, u64>>,
    /// How long requests took.
    times: Mutex<Vec<Duration>>,
}

/// One connection's requests are numbered from a thousand times its own number.
const NUMBERS: u64 = 1000;

/// What one request asks for.
enum Ask {
    /// A file of nginx's, by its path.
    File(String),
    /// An answer of so many bytes, to a body of so many.
    Answer { body: Option<usize>, answer: usize },
}

impl Traffic {
    fn new(seed: u64, control: bool, files: FileSet) -> Arc<Self> {
        let files = files.files().iter();
        Arc::new(Self {
            // Seeds that are near each other make the same numbers in another order, if they are only combined with them.
            seed: Rng::with_seed(seed).u64(..),
            control,
            files: files.map(|f| (f.path.clone(), f.bytes())).collect(),
            next: AtomicU64::new(0),
            begun: Mutex::default(),
            wrong: Mutex::default(),
            counts: Mutex::default(),
            times: Mutex::default(),
        })
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn note(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    /// How many connections were reset or timed out.
    fn failed(&self) -> u64 {
        let counts = self.counts.lock().unwrap();
        let failed = counts.iter().filter(|(what, _)| what.starts_with(FAILED));
        failed.map(|(_, count)| count).sum()
    }

    fn count(&self, what: &str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// A request's body, and the answer to it: no two are alike.
    fn bytes(&self, number: u64, way: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.rng(number << 8 ^ way).fill(&mut bytes);
        bytes
    }

    /// Random numbers for one purpose.
    fn rng(&self, purpose: u64) -> Rng {
        // Knuth's multiplicative constant, 2^64 divided by the golden ratio.
        Rng::with_seed(self.seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn tell(&self, connections: u64, took: Duration) {
        let mut times = self.times.lock().unwrap();
        times.sort();
        let at = |part: f64| times.get((times.len() as f64 * part) as usize);
        println!(
            "{connections} connections, {} requests answered in {took:.1?}; p50 {:.1?}, p99 {:.1?}, slowest {:.1?}",
            times.len(),
            at(0.5),
            at(0.99),
            times.last()
        );
        for (what, count) in &*self.counts.lock().unwrap() {
            println!("{count:>8} {what}");
        }
    }
}

/// How a count of connections that were reset or timed out begins.
const FAILED: &str = "failed: ";

/// How the bodies and answers of a number are told apart.
const BODY: u64 = 1;
const ANSWER: u64 = 2;

fn serve(cluster: &Cluster, node: u8, traffic: &Arc<Traffic>) -> Server<()> {
    let traffic = Arc::clone(traffic);
    Server::start(cluster, node, APP, move |stream| {
        let mut stream = stream;
        stream.set_nodelay(true).unwrap();
        while let Some(more) = serve_one(&mut stream, node, &traffic) {
            if !more {
                close(stream, node, &traffic);
                return;
            }
        }
    })
}

/// Reads one request and answers it; whether another may follow. `None` when there is none.
fn serve_one(stream: &mut TcpStream, node: u8, traffic: &Traffic) -> Option<bool> {
    let (head, body) = match read_head(stream) {
        Ok(read) => read,
        Err(error) => {
            // An ordinary end of the connection looks so, too.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                traffic.note(format!("n{node}, between requests: {:?}", error.kind()));
                give_up(stream);
            }
            return None;
        }
    };
    let Some((number, answer)) = asked(&head) else {
        traffic.wrong(format!("n{node} got {head:?}"));
        return None;
    };
    traffic
        .begun
        .lock()
        .unwrap()
        .entry(number)
        .or_default()
        .push(node);
    let length = header(&head, "Content-Length").unwrap_or(0);
    let expected = traffic.bytes(number, BODY, length);
    match read_body(stream, body, length) {
        Ok(body) if body == expected => {}
        Ok(_) => traffic.wrong(format!("{number} at n{node}: another body of {length}")),
        Err(error) => {
            let kind = error.kind();
            if kind == io::ErrorKind::UnexpectedEof {
                traffic.wrong(format!("{number} at n{node}: a body that is cut off"));
            }
            traffic.note(format!("n{node}, in a body: {kind:?}"));
            give_up(stream);
            return None;
        }
    }
    let more = !head.contains("Connection: close");
    let close = if more { "" } else { "Connection: close\r\n" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nX-DTS-Node: n{node}\r\n{close}Content-Length: {answer}\r\n\r\n"
    );
    let answer = traffic.bytes(number, ANSWER, answer);
    if let Err(error) = stream.write_all(&[head.as_bytes(), &answer].concat()) {
        traffic.note(format!("n{node}, answering: {:?}", error.kind()));
        return None;
    }
    Some(more)
}

/// Has the connection end by a reset: a FIN would look like an answer's end.
fn give_up(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn read_body(stream: &mut TcpStream, mut body: Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    let begun = body.len();
    if begun > length {
        return Err(io::Error::other("more than the body"));
    }
    body.resize(length, 0);
    io::Read::read_exact(stream, &mut body[begun..])?;
    Ok(body)
}

/// Closes first, and waits for the client's end: nothing is left unread that would make a reset of it.
fn close(mut stream: TcpStream, node: u8, traffic: &Traffic) {
    let _ = stream.shutdown(Shutdown::Write);
    match io::Read::read(&mut stream, &mut [0]) {
        Ok(0) => {}
        Ok(_) => traffic.wrong(format!("n{node} got something behind the last request")),
        Err(error) => traffic.note(format!("n{node}, closing: {:?}", error.kind())),
    }
}

/// A request's number and the size of the answer, from `/n1/NUMBER/SIZE`.
fn asked(head: &str) -> Option<(u64, usize)> {
    let path = head.split(' ').nth(1)?;
    let mut parts = path.split('/').skip(2);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn header(head: &str, name: &str) -> Option<usize> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok();
    head.lines().find_map(value)
}

/// Runs all connections, with [`CLIENTS`] at the same time.
fn ask_everything(traffic: &Traffic, connections: u64) {
    let client = || loop {
        let number = traffic.next.fetch_add(1, Ordering::Relaxed);
        if number >= connections {
            return;
        }
        if let Err((what, error)) = converse(traffic, number) {
            // These are words of TCP's; whatever else ends an answer is a byte that is missing or wrong.
            match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut => {
                    traffic.note(format!("{FAILED}{:?}", error.kind()));
                    println!("connection {number}, {what}: {error}");
                }
                _ => traffic.wrong(format!("connection {number}, {what}: {error}")),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(client);
        }
    });
}

/// One connection: one request, or some, each for another node; what went wrong, and when.
fn converse(traffic: &Traffic, connection: u64) -> Result<(), (String, io::Error)> {
    let mut rng = traffic.rng(connection << 8);
    let (service, requests) = (
        *rng.choice(&[WEB, APP]).unwrap(),
        if rng.u8(..3) == 0 { rng.u64(2..=5) } else { 1 },
    );
    let server_closes = rng.bool();
    let mut at = rng.u8(1..=NODES);
    let to = match traffic.control {
        true => SocketAddr::new(node_address(at, Network::Front), service),
        false => vip(service),
    };
    let told = |what: String| move |error| (what, error);
    let stream = connect_here(None, to).map_err(told("connecting".to_owned()))?;
    let mut reader = BufReader::with_capacity(1 << 16, &stream);
    for nth in 0..requests {
        let number = connection * NUMBERS + nth;
        let target = if nth == 0 { at } else { rng.u8(1..=NODES) };
        let ask = choose(&mut rng, service, target);
        let close = server_closes && nth + 1 == requests;
        let what = |doing: &str| format!("request {number} of n{target} to {to}, {doing}");
        let begin = Instant::now();
        send(traffic, &stream, (number, target), &ask, close).map_err(told(what("sending")))?;
        let response = Response::read_from(&mut reader).map_err(told(what("answered")))?;
        traffic.times.lock().unwrap().push(begin.elapsed());
        at = check(traffic, (number, target, at), &ask, &response);
    }
    if server_closes
        && !reader
            .fill_buf()
            .map_err(told("closing".to_owned()))?
            .is_empty()
    {
        traffic.wrong(format!("something follows the last answer of {connection}"));
    }
    if !reader.buffer().is_empty() {
        traffic.wrong(format!("more than the answers of {connection}"));
    }
    Ok(())
}

fn choose(rng: &mut Rng, service: u16, target: u8) -> Ask {
    if service == WEB {
        return Ask::File(format!("n{target}/{}", rng.u64(..FILES)));
    }
    Ask::Answer {
        body: (rng.u8(..4) != 0).then(|| size(rng)),
        answer: SMALLEST + size(rng),
    }
}

fn send(
    traffic: &Traffic,
    mut stream: &TcpStream,
    (number, target): (u64, u8),
    ask: &Ask,
    close: bool,
) -> io::Result<()> {
    let close = if close { "Connection: close\r\n" } else { "" };
    let rest = format!("HTTP/1.1\r\nHost: dts.test\r\n{close}");
    match ask {
        Ask::File(path) => stream.write_all(format!("GET /{path}?{number} {rest}\r\n").as_bytes()),
        Ask::Answer { body: None, answer } => {
            stream.write_all(format!("GET /n{target}/{number}/{answer} {rest}\r\n").as_bytes())
        }
        Ask::Answer {
            body: Some(size),
            answer,
        } => {
            let head =
                format!("POST /n{target}/{number}/{answer} {rest}Content-Length: {size}\r\n\r\n");
            let body = traffic.bytes(number, BODY, *size);
            if number % 2 == 0 {
                return stream.write_all(&[head.as_bytes(), &body].concat());
            }
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)
        }
    }
}

/// Looks at an answer; the node that gave it. `at` is the one that gave the one before it, or should give the first.
fn check(
    traffic: &Traffic,
    (number, target, at): (u64, u8, u8),
    ask: &Ask,
    response: &Response,
) -> u8 {
    let right = match ask {
        Ask::File(path) => traffic.files[path] == response.body,
        Ask::Answer { answer, .. } => traffic.bytes(number, ANSWER, *answer) == response.body,
    };
    if !right || response.status != 200 {
        traffic.wrong(format!(
            "{number}: status {}, {} bytes of {:?}",
            response.status,
            response.body.len(),
            response.node
        ));
    }
    let node = response.node.as_deref().and_then(|n| n[1..].parse().ok());
    let node: u8 = node.unwrap_or(0);
    if traffic.control {
        return node;
    }
    // What can't be followed any more stays where it is.
    if node != target && node != at {
        traffic.note("elsewhere");
    }
    node
}

/// No request was seen by two servers, or twice by one.
fn check_logs(cluster: &Cluster, traffic: &Traffic) {
    let mut begun = traffic.begun.lock().unwrap().clone();
    for node in cluster.nodes() {
        for entry in cluster.access_log(Place::Node(node)).unwrap() {
            if let Some((_, number)) = entry.request.split_once('?') {
                begun.entry(number.parse().unwrap()).or_default().push(node);
            }
        }
    }
    let answered = traffic.times.lock().unwrap().len();
    assert!(begun.len() >= answered, "each answered request is in a log");
    for (number, nodes) in begun.iter().filter(|(_, nodes)| nodes.len() > 1) {
        traffic.wrong(format!("request {number} was read by {nodes:?}"));
    }
}

/// The clients' sockets are gone, too, but for those that wait in TIME_WAIT.
fn assert_client_is_clean(cluster: &Cluster, deadline: Instant) {
    loop {
        let ss = cluster.ss(CLIENT, &["-Htan"]).unwrap();
        let left: Vec<&str> = ss
            .lines()
            .filter(|line| !line.starts_with("TIME-WAIT"))
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "clients have left: {left:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}
