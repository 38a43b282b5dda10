//! Server and client on a real socket.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::protocol::{CLIENT_TIME, MAX_REQUEST};
use super::*;

/// A daemon with a counter and nothing else.
struct Sample;

impl AdminSource for Sample {
    fn status(&self) -> StatusView {
        panic!("a bug in the daemon");
    }

    fn ring(&self, query: &RingQuery) -> Result<RingView, String> {
        Err(format!("no ring for {query:?}"))
    }

    fn connections(&self, filter: &ConnectionFilter) -> Result<ConnectionList, String> {
        Ok(ConnectionList {
            total: filter.limit.unwrap_or(0),
            connections: Vec::new(),
        })
    }

    fn stats(&self) -> Result<StatsView, String> {
        Ok(StatsView::new(
            &[5],
            BTreeMap::from([("accepted".to_owned(), 7)]),
        ))
    }

    fn reload(&self) -> Result<ReloadReport, String> {
        std::thread::sleep(Duration::from_millis(300));
        Ok(ReloadReport::default())
    }

    /// Three lines, the second when the first was taken, then the end.
    fn trace(&self, query: &TraceQuery) -> Result<TraceFeed, String> {
        if let Some(service) = &query.service {
            return Err(format!("no service {service}"));
        }
        let (sender, lines) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for missed in 0..3 {
                let until_ns = 7;
                let beat = TraceBeat { until_ns, missed };
                let _ = sender.blocking_send(TraceLine::Beat(beat));
            }
        });
        let start = TraceStart {
            node: "n1".to_owned(),
            members: Vec::new(),
        };
        Ok(TraceFeed { start, lines })
    }
}

/// A socket with [`Sample`] behind it.
struct Daemon {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    _claim: Claim,
    _runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("demo-n1.sock");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let claim = Claim::take(&socket).unwrap();
        let listener = {
            let _entered = runtime.enter();
            claim.listen().unwrap()
        };
        runtime.spawn(serve(listener, Arc::new(Sample)));
        Self {
            _directory: directory,
            socket,
            _claim: claim,
            _runtime: runtime,
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// Sends bytes and nothing more; what comes back.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        // A daemon that has read enough closes the connection in the middle of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}

#[test]
fn questions_get_their_answers() {
    let daemon = Daemon::start();
    let stats = daemon.client().stats().unwrap();
    assert_eq!(
        (stats.actions["other"], stats.inspector["accepted"]),
        (5, 7)
    );
    let filter = ConnectionFilter {
        limit: Some(3),
        ..ConnectionFilter::default()
    };
    assert_eq!(daemon.client().connections(filter).unwrap().total, 3);
    assert_eq!(daemon.client().reload().unwrap(), ReloadReport::default());
}

#[test]
fn a_trace_is_an_answer_and_lines() {
    let daemon = Daemon::start();
    let (start, mut lines) = daemon.client().trace(TraceQuery::default()).unwrap();
    assert_eq!(start.node, "n1");
    for missed in 0..3 {
        let beat = TraceBeat {
            until_ns: 7,
            missed,
        };
        assert_eq!(lines.next_line().unwrap(), TraceLine::Beat(beat));
    }
    let ended = lines.next_line().unwrap_err();
    assert!(matches!(ended, ClientError::Broken { .. }), "{ended}");

    let query = TraceQuery {
        service: Some("x".to_owned()),
        ..TraceQuery::default()
    };
    let refused = daemon.client().trace(query).unwrap_err();
    assert_eq!(refused.to_string(), "the daemon says: no service x");
}

#[test]
fn a_refusal_is_passed_on_in_its_words() {
    let daemon = Daemon::start();
    let error = daemon.client().ring(RingQuery::default()).unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)));
    assert!(
        error
            .to_string()
            .starts_with("the daemon says: no ring for"),
        "{error}"
    );
}

#[test]
fn a_source_that_panics_costs_one_answer() {
    let daemon = Daemon::start();
    let error = daemon.client().status().unwrap_err();
    assert!(error.to_string().contains("its log says more"), "{error}");
    assert!(daemon.client().stats().is_ok());
}

#[test]
fn garbage_is_refused() {
    let daemon = Daemon::start();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\xff\xfe\x00\n",
        b"\"nonsense\"\n",
        b"{\"ring\":{\"point\":true}}\n",
        b"{\"connections\":{\"remote\":\"here\"}}\n",
        b"\n",
        b"\"status\" \"stats\"\n",
        b"\"sta",
        &[b'['; MAX_REQUEST],
    ] {
        let answer = daemon.raw(garbage);
        assert!(
            answer.starts_with(r#"{"error":"cannot understand the request"#),
            "{}: {answer}",
            garbage.escape_ascii()
        );
    }
    assert!(daemon.client().stats().is_ok());
}

#[test]
fn a_request_without_a_line_end_is_one_all_the_same() {
    let daemon = Daemon::start();
    assert!(daemon.raw(b"\"stats\"").starts_with(r#"{"ok":{"actions""#));
}

#[test]
fn a_probe_gets_no_answer() {
    assert_eq!(Daemon::start().raw(b""), "");
}

#[test]
fn a_request_that_is_too_long_is_refused() {
    let daemon = Daemon::start();
    let key = |length| {
        let frame = r#"{"ring":{"lookup":{"key":""}}}"#.len() + 1;
        format!(
            "{{\"ring\":{{\"lookup\":{{\"key\":\"{}\"}}}}}}\n",
            "k".repeat(length - frame)
        )
    };
    let just_fits = key(MAX_REQUEST);
    assert_eq!(just_fits.len(), MAX_REQUEST);
    assert!(daemon.raw(just_fits.as_bytes()).contains("no ring for"));
    let answer = daemon.raw(key(MAX_REQUEST + 1).as_bytes());
    assert!(answer.contains("longer than 16384 bytes"), "{answer}");
    // Without end: the daemon stops reading.
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    let chunk = [b'x'; 4096];
    let sent = (0..10_000)
        .take_while(|_| stream.write_all(&chunk).is_ok())
        .count();
    assert!(sent < 10_000, "the daemon read 40 MB");
}

#[test]
fn clients_that_dawdle_do_not_hold_up_the_others() {
    let daemon = Daemon::start();
    let started = Instant::now();
    let mut slow: Vec<_> = (0..31)
        .map(|_| UnixStream::connect(&daemon.socket).unwrap())
        .collect();
    slow[0].write_all(b"\"sta").unwrap();
    assert!(daemon.client().stats().is_ok());
    assert!(started.elapsed() < CLIENT_TIME / 2);
    // They are told, and make room.
    let mut answer = String::new();
    slow[0].read_to_string(&mut answer).unwrap();
    assert!(answer.contains("no request came within 5s"), "{answer}");
    assert!(started.elapsed() < CLIENT_TIME * 2);
}

#[test]
fn more_clients_than_are_served_at_once_wait_for_their_turn() {
    let daemon = Daemon::start();
    std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..80)
            .map(|_| scope.spawn(|| daemon.client().reload()))
            .collect();
        for reload in reloads {
            assert!(reload.join().unwrap().is_ok());
        }
    });
}

#[test]
fn a_daemon_that_is_not_there_is_not_running() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("none.sock");
    let dead = directory.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    for socket in [nothing, dead] {
        let error = Client::connect(&socket).unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }));
        assert!(
            error.to_string().contains("start it with `dts node`"),
            "{error}"
        );
    }
}

#[test]
fn an_answer_that_is_none_is_recognized() {
    for (answer, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "makes no sense"),
        (b"{\"ok\":{\"epoch\":1}}\n", "missing field"),
        (b"", "did not answer"),
    ] {
        let error = asked_of(answer).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// Asks a program that is no daemon for the ring.
fn asked_of(answer: &'static [u8]) -> Result<RingView, ClientError> {
    let directory = tempfile::tempdir().unwrap();
    let socket: &Path = &directory.path().join("strange.sock");
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 64];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(answer).unwrap();
    });
    let result = Client::connect(socket).unwrap().ring(RingQuery::default());
    stranger.join().unwrap();
    result
}
