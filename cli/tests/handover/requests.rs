//! Persistent connections: each request where the rules say, and what must stay where it is.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use dts_lab::{FileSet, Place, sha256};

use crate::client::{PATIENCE, Response, connect, get};
use crate::cluster::{APP, Cluster, Method, TRACES, WEB, any_address, scale, wait_for};
use crate::servers::{Server, read_head};

crate::cases![alternating_nodes, switched_off, python_and_node, what_stays,];

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: dts.test\r\n\r\n")
}

/// Has each node hand a connection to each: from then on all know each other's link addresses. Until then a later request
/// stays where it is.
pub(crate) fn introduce(cluster: &Cluster) {
    for inspecting in cluster.nodes() {
        for target in cluster.nodes() {
            let port = cluster.port_inspected_by(inspecting);
            let path = format!("/n{target}/absent");
            assert!(get(cluster, Some(port), WEB, &path).is_ok());
        }
    }
}

/// Acceptance: one connection, paths of four nodes in turn: every answer whole and from the right node, old sockets gone
/// on all nodes, nothing in nginx's error logs. Where connections are spliced, they stay with the first node.
fn alternating_nodes(method: &'static Method) {
    let requests = scale("DTS_REQUESTS", 4000);
    let cluster = Cluster::up(method, 4);
    let mut files = FileSet::new(11);
    for node in cluster.nodes() {
        for size in [1u64, 1000, 70_000] {
            files.add(format!("n{node}/{size}"), size).unwrap();
        }
    }
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();
    introduce(&cluster);
    let logs = |node| cluster.place_dir(Place::Node(node)).join("error.log");
    // The introduction asks for files that are not there.
    for node in cluster.nodes() {
        fs::write(logs(node), "").unwrap();
    }
    let port = cluster.port_inspected_by(1);
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    for number in 0..requests as usize {
        let node = 1 + number % 4;
        let size = [1, 1000, 1000, 70_000, 1][number % 5];
        let path = format!("n{node}/{size}");
        let asks = if number % 7 == 3 { "HEAD" } else { "GET" };
        stream
            .write_all(request(asks, &format!("/{path}")).as_bytes())
            .unwrap();
        let expected = if method.adopts() { node } else { 1 };
        if asks == "HEAD" {
            let (head, rest) = read_head(&mut stream).unwrap();
            assert!(rest.is_empty(), "{number}: a body");
            assert!(head.contains(&format!("n{expected}")), "{number}: {head}");
            continue;
        }
        let response = Response::read(&stream).unwrap();
        assert_eq!(response.node, Some(format!("n{expected}")), "{number}");
        let file = files.files().iter().find(|file| file.path == path);
        assert_eq!(sha256(&response.body), file.unwrap().sha256, "{number}");
    }
    drop(stream);
    if method.adopts() {
        let moved = cluster.sum(|node| cluster.actions(node, "moved_on"));
        assert_eq!(moved, requests - 1, "each request but the first moved");
    }
    cluster.wait_until_clean(TRACES);
    for node in cluster.nodes() {
        let log = fs::read_to_string(logs(node)).unwrap();
        assert_eq!(log, "", "n{node}'s error log");
    }
}

/// With `each_request = false` a connection stays where its first request went.
fn switched_off(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| {
        let services = spec.cluster.services_toml.take().unwrap();
        let off = services.replace("mode = \"l7\"", "mode = \"l7\"\neach_request = false");
        spec.cluster.services_toml = Some(off);
    });
    let mut stream = connect(&cluster, Some(cluster.port_inspected_by(1)), WEB).unwrap();
    for node in [2, 1, 2, 1] {
        let path = format!("/n{node}/absent");
        stream.write_all(request("GET", &path).as_bytes()).unwrap();
        let response = Response::read(&stream).unwrap();
        assert_eq!(response.node.as_deref(), Some("n2"));
    }
}

/// An HTTP/1.1 server in Python that keeps connections.
const PYTHON: &str = r#"
import http.server, os, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        body = self.path.encode() * 20
        self.send_response(200)
        self.send_header("X-DTS-Node", os.environ["NODE"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET

Server((sys.argv[2], int(sys.argv[1])), Handler).serve_forever()
"#;

/// The same in Node.js.
const NODE: &str = r#"
const http = require("http");
http.createServer((request, response) => {
  const body = request.url.repeat(20);
  response.writeHead(200, { "X-DTS-Node": process.env.NODE, "Content-Length": body.length });
  response.end(body);
}).listen(Number(process.argv[2]), process.argv[3]);
process.on("uncaughtException", (error) => console.error(error));
"#;

/// Acceptance: the same with a Python and a Node.js server: no error in either's output.
fn python_and_node(method: &'static Method) {
    let requests = scale("DTS_REQUESTS", 4000) as usize / 4;
    for (program, script, arguments) in [
        ("/usr/bin/python3", PYTHON, ["-u", "server"]),
        ("/usr/bin/node", NODE, ["--no-deprecation", "server"]),
    ] {
        let cluster = Cluster::up(method, 2);
        introduce(&cluster);
        let logs: Vec<_> = cluster
            .nodes()
            .map(|node| {
                let place = Place::Node(node);
                let directory = cluster.place_dir(place);
                fs::write(directory.join("server"), script).unwrap();
                let mut command = Command::new(program);
                command
                    .arg(arguments[0])
                    .arg(directory.join(arguments[1]))
                    .arg(APP.to_string())
                    .arg(any_address().to_string())
                    .env("NODE", place.to_string());
                let process = cluster.spawn(place, &command).unwrap();
                let listening = format!("ss -Htln sport = :{APP}");
                wait_for("the server listens", PATIENCE, || {
                    !cluster.sh(place, &listening).unwrap().is_empty()
                });
                process.log_path().to_owned()
            })
            .collect();
        // The way is chosen again when a listener has come.
        thread::sleep(Duration::from_secs(1));
        let port = cluster.port_inspected_by(1);
        let mut stream = connect(&cluster, Some(port), APP).unwrap();
        for number in 0..requests {
            let node = 1 + number % 2;
            let path = format!("/n{node}/{number}");
            stream.write_all(request("GET", &path).as_bytes()).unwrap();
            let response = Response::read(&stream).unwrap();
            let expected = if method.adopts() { node } else { 1 };
            assert_eq!(
                response.node,
                Some(format!("n{expected}")),
                "{program} {number}"
            );
            assert_eq!(response.text(), path.repeat(20), "{program} {number}");
        }
        drop(stream);
        cluster.wait_until_clean(TRACES);
        for log in logs {
            assert_eq!(
                fs::read_to_string(&log).unwrap_or_default(),
                "",
                "{program}"
            );
        }
    }
}

/// Acceptance: pipelined requests, bodies, 100-continue, chunked responses with pauses, upgrades, HTTP/2's preface and what
/// is no HTTP stay with the server that has the connection.
fn what_stays(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    // Each reports all that it has read when the client ends.
    let servers: Vec<_> = cluster
        .nodes()
        .map(|node| Server::start(&cluster, node, APP, play))
        .collect();
    thread::sleep(Duration::from_secs(1));
    let other = request("GET", "/n2/other");
    let body = |head: &str| format!("{head}Content-Length: {}\r\n\r\n", other.len());
    let put = body("PUT /n1/x HTTP/1.1\r\nHost: dts.test\r\n");
    let get_with_body = body("GET /n1/x HTTP/1.1\r\nHost: dts.test\r\n");
    let expecting = put.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let upgrade =
        "GET /n1/x HTTP/1.1\r\nHost: dts.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let first = request("GET", "/n1/x");
    for (case, said) in [
        ("pipelined", vec![format!("{first}{other}")]),
        (
            "pipelined later",
            vec![first.clone(), format!("{first}{other}")],
        ),
        (
            "before the answer",
            vec![request("GET", "/n1/slow"), format!("!{other}")],
        ),
        ("a body in one segment", vec![format!("{put}{other}")]),
        (
            "a body behind the head",
            vec![put.clone(), format!("!{other}")],
        ),
        (
            "a body behind the answer",
            vec![
                format!("{}", put.replace("/n1/x", "/n1/early")),
                other.clone(),
            ],
        ),
        ("a body of a GET", vec![get_with_body, other.clone()]),
        ("100-continue", vec![expecting, other.clone()]),
        (
            "chunked with pauses",
            vec![request("GET", "/n1/chunked"), format!("!{other}")],
        ),
        (
            "chunked",
            vec![request("GET", "/n1/chunked"), other.clone()],
        ),
        (
            "until it closes",
            vec![request("GET", "/n1/close"), format!("!{other}")],
        ),
        ("an upgrade", vec![upgrade.to_owned(), other.clone()]),
        (
            "HTTP/2",
            vec![
                first.clone(),
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
                other.clone(),
            ],
        ),
        (
            "no HTTP",
            vec![
                first.clone(),
                "\0\x01\x02 what?\r\n\r\n".to_owned(),
                other.clone(),
            ],
        ),
        ("HTTP/1.0", vec![first.replace("1.1", "1.0"), other.clone()]),
        (
            "a line in two parts",
            vec![
                first.clone(),
                "GET /n2/o".to_owned(),
                "!ther HTTP/1.1\r\n\r\n".to_owned(),
            ],
        ),
    ] {
        let port = cluster.port_inspected_by(2);
        let mut stream = connect(&cluster, Some(port), APP).unwrap();
        let mut sent = String::new();
        for text in said {
            // "!": at once, or in the middle of the answer; else when the answer is there.
            let (text, pause) = match text.strip_prefix('!') {
                Some(rest) => (rest.to_owned(), 30),
                None => (text, 150),
            };
            if !sent.is_empty() {
                thread::sleep(Duration::from_millis(pause));
            }
            stream.write_all(text.as_bytes()).unwrap();
            sent += &text;
        }
        thread::sleep(Duration::from_millis(200));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let read = servers[0].result();
        assert_eq!(read.unwrap(), sent.into_bytes(), "{case}");
        let strayed = servers[1].result_within(Duration::from_millis(50));
        assert!(strayed.is_none(), "{case}: at the other node: {strayed:?}");
    }
    let moved = cluster.sum(|node| cluster.actions(node, "moved_on"));
    assert_eq!(moved, 0);
    cluster.wait_until_clean(TRACES);
}

/// Answers the first request as its path asks for, every later read with an empty answer; returns all that was read.
fn play(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        let n = stream.read(&mut part)?;
        if n == 0 {
            return Ok(all);
        }
        let text = String::from_utf8_lossy(&part[..n]).into_owned();
        all.extend_from_slice(&part[..n]);
        if text.contains("/n1/slow") {
            thread::sleep(Duration::from_millis(100));
        }
        if text.contains("100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        } else if text.contains("/n1/chunked") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
            thread::sleep(Duration::from_millis(80));
            stream.write_all(b"0\r\n\r\n")?;
        } else if text.contains("/n1/close") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nand more")?;
        } else if text.contains("websocket") {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")?;
        } else {
            stream.write_all(EMPTY.as_bytes())?;
        }
    }
}
