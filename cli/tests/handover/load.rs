//! Many connections: ports reused, nothing left, no error.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dts_lab::{FileSet, Place};

use crate::client::{Response, connect_here, head};
use crate::cluster::{CLIENT, Cluster, Method, WEB, scale, vip};

crate::cases![many_handovers, wrk_with_close, wrk_persistent];

/// How many clients ask at the same time.
const CLIENTS: usize = 16;

/// Acceptance: many handovers, a connection per request, from one client address with ports reused: no
/// failed request; 5 s after the end nothing but TIME_WAIT is left on any node.
fn many_handovers(method: &'static Method) {
    let requests = scale("DTS_HANDOVERS", 5000);
    let cluster = Cluster::with(method, 4, |spec| {
        // Each port is used again soon: after a third of the modest number.
        let range = ("net.ipv4.ip_local_port_range", "20000 21499");
        spec.client_sysctls
            .push((range.0.to_owned(), range.1.to_owned()));
    });
    publish_small_files(&cluster);
    let failures = Mutex::new(Vec::new());
    let next = AtomicU64::new(0);
    let client = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= requests {
            return;
        }
        if let Err(error) = one_request(1 + number % 4) {
            failures.lock().unwrap().push(format!("{number}: {error}"));
        }
    };
    let clients = || {
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(client);
            }
        });
    };
    cluster.within(CLIENT, clients).unwrap();
    let failures = failures.into_inner().unwrap();
    let first = &failures[..failures.len().min(10)];
    assert!(failures.is_empty(), "{} failed: {first:#?}", failures.len());
    assert_eq!(
        cluster.handed_over(),
        requests,
        "each connection was handed over once"
    );
    cluster.wait_until_clean(Duration::from_secs(5));
}

fn one_request(target: u64) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{:?}: {error}", error.kind());
    let mut stream = connect_here(None, vip(WEB)).map_err(|e| format!("connect: {e}"))?;
    let head = head("GET", &format!("/n{target}/1k"), None);
    stream.write_all(head.as_bytes()).map_err(text)?;
    let response = Response::read(&stream).map_err(text)?;
    match (response.status, response.node, response.body.len()) {
        (200, Some(node), 1000) if node == format!("n{target}") => Ok(()),
        other => Err(format!("{other:?} of n{target}")),
    }
}

fn publish_small_files(cluster: &Cluster) {
    let mut files = FileSet::new(3);
    for node in cluster.nodes() {
        files.add(format!("n{node}/1k"), 1000).unwrap();
    }
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();
}

/// Acceptance: `wrk -c256` without an error, a connection per request.
fn wrk_with_close(method: &'static Method) {
    wrk(method, "-H 'Connection: close'");
}

/// Acceptance: the same with persistent connections.
fn wrk_persistent(method: &'static Method) {
    wrk(method, "");
}

fn wrk(method: &'static Method, options: &str) {
    let cluster = Cluster::up(method, 4);
    publish_small_files(&cluster);
    let seconds = scale("DTS_WRK_SECONDS", 10);
    let url = format!("http://{}/n2/1k", vip(WEB));
    let command = format!("wrk -c256 -t2 -d{seconds}s --timeout 5s {options} {url}");
    let said = cluster.sh(CLIENT, &command).unwrap();
    println!("{said}");
    assert!(said.contains("Requests/sec"), "{said}");
    assert!(!said.contains("Socket errors"), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");
    // wrk breaks its connections off at its end.
    cluster.wait_until_clean(Duration::from_secs(12));
}
