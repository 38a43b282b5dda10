//! Servers of the cases: gunicorn with a small application, and listeners that behave as a case needs.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dts_lab::{Family, Lab, Place};

use crate::client::PATIENCE;
use crate::cluster::{any_address, family, wait_for};

/// Answers with the SHA-256 of the request's body.
const APPLICATION: &str = r#"
import hashlib, os

def application(environ, start_response):
    body, left = hashlib.sha256(), int(environ.get("CONTENT_LENGTH") or 0)
    while left:
        part = environ["wsgi.input"].read(min(left, 1 << 16))
        if not part:
            break
        left -= len(part)
        body.update(part)
    answer = body.hexdigest().encode()
    start_response("200 OK", [("X-DTS-Node", os.environ["NODE"]), ("Content-Length", str(len(answer)))])
    return [answer]
"#;

/// Starts gunicorn on a port of a node. It ends with the lab.
pub(crate) fn start_application(lab: &Lab, node: u8, port: u16) {
    let place = Place::Node(node);
    let directory = lab.place_dir(place);
    fs::write(directory.join("application.py"), APPLICATION).unwrap();
    let mut command = Command::new("/usr/bin/gunicorn");
    command
        .args(["--workers=1", "--threads=8", "--chdir"])
        .arg(&directory)
        .arg(format!("--bind={}", SocketAddr::new(any_address(), port)))
        .arg("application")
        .env("NODE", place.to_string());
    let process = lab.spawn(place, &command).unwrap();
    let own: IpAddr = match family() {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let listens = || {
        let address = SocketAddr::new(own, port);
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
        assert!(
            process.is_alive(),
            "{}",
            fs::read_to_string(process.log_path()).unwrap_or_default()
        );
        lab.within(place, connect).unwrap()
    };
    wait_for("gunicorn listens", PATIENCE, listens);
}

/// A listener on a node that treats each connection as told, one thread each, and reports how that went.
pub(crate) struct Server<T> {
    results: Receiver<T>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Server<T> {
    pub(crate) fn start(
        lab: &Lab,
        node: u8,
        port: u16,
        serve: impl Fn(TcpStream) -> T + Clone + Send + 'static,
    ) -> Self {
        let listen = || TcpListener::bind((any_address(), port));
        let listener = lab.within(Place::Node(node), listen).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (report, results) = channel();
        let accepting = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let (report, serve) = (report.clone(), serve.clone());
                // Nobody listens to a report when the test is over.
                thread::spawn(move || report.send(serve(stream)));
            }
        });
        Self {
            results,
            stop,
            accepting: Some(accepting),
        }
    }

    /// How the next connection went.
    #[track_caller]
    pub(crate) fn result(&self) -> T {
        self.results
            .recv_timeout(PATIENCE)
            .expect("a connection reaches the server")
    }

    /// How the next connection went, if it ends within this time.
    pub(crate) fn result_within(&self, patience: Duration) -> Option<T> {
        self.results.recv_timeout(patience).ok()
    }
}

impl<T> Drop for Server<T> {
    /// The port is free then.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Reads up to the end of a request's head; what came of the body with it.
pub(crate) fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&part[..n]),
        }
    }
}
