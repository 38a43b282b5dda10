//! What has to hold of connections that are adopted, and of no others.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{Effect, FileSet, Impairment, Network, Place, Signal, sha256};
use dts_node::admin::{Client, Method as Way};
use etherparse::{TcpHeader, TcpOptionElement};
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{PATIENCE, Response, connect, connect_here, get, head};
use crate::cluster::{
    APP, CLIENT, Cluster, Method, WEB, any_address, scale, services, vip, wait_for, web_service,
};
use crate::owners::serve;
use crate::packet;
use crate::servers::{Server, read_head};

crate::cases![
    nothing_is_rewritten,
    the_inspecting_node_goes_before_the_request,
    the_target_goes_before_it_has_the_request,
    a_target_whose_answer_is_lost_is_not_joined,
    a_late_copy_of_a_request,
    an_inspector_of_ones_own,
    an_mptcp_listener,
    a_full_accept_queue,
    a_syn_flood,
];

/// Acceptance: after adoption the filter changes no byte of the flow: what the server's node sends and receives is what
/// the client receives and sends.
fn nothing_is_rewritten(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let mut files = FileSet::new(21);
    files.add("n2/some", 300_000).unwrap();
    cluster.publish(&[Place::Node(2)], &files).unwrap();
    let port = cluster.port_inspected_by(1);
    let filter = format!("tcp port {port}");
    let at_client = cluster.capture(CLIENT, "eth0", &filter).unwrap();
    let at_server = cluster.capture(Place::Node(2), "eth0", &filter).unwrap();
    let response = get(&cluster, Some(port), WEB, "/n2/some").unwrap();
    assert_eq!(sha256(&response.body), files.files()[0].sha256);
    let [client, server] = [at_client, at_server].map(|capture| capture.stop().unwrap());
    // The SYN-ACK is the inspecting node's.
    let numbers = |segments: &[dts_lab::Segment], from_server: bool| -> Vec<_> {
        segments
            .iter()
            .filter(|s| (s.source == vip(WEB)) == from_server && !s.flags.syn)
            .map(|s| {
                (
                    s.seq,
                    s.ack,
                    s.window,
                    s.options.raw.clone(),
                    s.payload.clone(),
                )
            })
            .collect()
    };
    for from_server in [false, true] {
        let (here, there) = (numbers(&client, from_server), numbers(&server, from_server));
        assert!(here.len() > 2, "{} segments", here.len());
        assert!(here == there, "from the server: {from_server}");
    }
}

/// A cluster of three whose rules name n1 and n2 only, so that n3 can leave.
fn three(method: &Method) -> Cluster {
    Cluster::with(method, 3, |spec| {
        spec.cluster.services_toml = Some(services(method, 2));
    })
}

/// Takes a node out of the network and out of the others' lists.
fn take_away(cluster: &Cluster, node: u8) {
    for network in Network::ALL {
        cluster.set_link(Place::Node(node), network, false).unwrap();
    }
    for other in cluster.nodes().filter(|other| *other != node) {
        cluster.remove_member(other, &format!("n{node}"));
    }
}

/// Acceptance: the inspecting node gone and removed between its SYN-ACK and the request, and between the request and the
/// handover: the request succeeds through the new owner.
fn the_inspecting_node_goes_before_the_request(method: &'static Method) {
    for between in ["SYN-ACK and request", "request and handover"] {
        let cluster = three(method);
        let port = cluster.port_inspected_by(3);
        let mut stream = connect(&cluster, Some(port), WEB).unwrap();
        let request = head("GET", "/n2/absent", None);
        if between == "request and handover" {
            // The handover frame never leaves n3.
            cluster
                .set_link(Place::Node(3), Network::Back, false)
                .unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
        take_away(&cluster, 3);
        if between == "SYN-ACK and request" {
            stream.write_all(request.as_bytes()).unwrap();
        }
        let response = Response::read(&stream).unwrap();
        assert_eq!(response.node.as_deref(), Some("n2"), "{between}");
    }
}

/// Acceptance: the target gone and removed before it got the frame: the request goes to another allowed target.
fn the_target_goes_before_it_has_the_request(method: &'static Method) {
    let cluster = Cluster::with(method, 3, |spec| {
        let services = web_service(method, 2).replace("[\"n2\"]", "[\"n3\", \"n2\"]");
        spec.cluster.services_toml = Some(services);
    });
    // The flow decides which of the two: find one that n3 would have.
    let port = (0..40)
        .map(|_| cluster.port_inspected_by(1))
        .find(|port| {
            let response = get(&cluster, Some(*port), WEB, "/n2/absent").unwrap();
            response.node.as_deref() == Some("n3")
        })
        .expect("one of the set's two nodes");
    let mut stream = connect(&cluster, Some(port), WEB).unwrap();
    for network in Network::ALL {
        cluster.set_link(Place::Node(3), network, false).unwrap();
    }
    stream
        .write_all(head("GET", "/n2/absent", None).as_bytes())
        .unwrap();
    thread::sleep(Duration::from_millis(50));
    for node in [1, 2] {
        let path = cluster.daemon_config(node);
        let toml = fs::read_to_string(&path).unwrap();
        fs::write(&path, toml.replace("[\"n3\", \"n2\"]", "[\"n2\"]")).unwrap();
        cluster.remove_member(node, "n3");
    }
    let response = Response::read(&stream).unwrap();
    assert_eq!(response.node.as_deref(), Some("n2"));
}

/// Acceptance: a target that has the request, but whose answers are lost, is never joined by a second one: not by the
/// default target, and not when the inspecting node goes.
fn a_target_whose_answer_is_lost_is_not_joined(method: &'static Method) {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    SERVED.store(0, Ordering::SeqCst);
    let cluster = three(method);
    let _servers = serve(&cluster, 1..=3, &SERVED);
    for removed in [false, true] {
        SERVED.store(0, Ordering::SeqCst);
        let port = cluster.port_inspected_by(3);
        let mut stream = connect(&cluster, Some(port), APP).unwrap();
        let lost = Impairment::of_place(Network::Front, Place::Node(2), Effect::Loss(1.0));
        cluster.impair(&lost).unwrap();
        stream
            .write_all(head("GET", "/n2/x", None).as_bytes())
            .unwrap();
        // Several repetitions, and what the daemon does about a silent target.
        thread::sleep(Duration::from_millis(700));
        if removed {
            cluster.end_daemon(3, Signal::KILL);
            take_away(&cluster, 3);
        }
        thread::sleep(Duration::from_millis(800));
        cluster.clear_impairments().unwrap();
        let response = Response::read(&stream).unwrap();
        assert_eq!(response.node.as_deref(), Some("n2"), "n3 away: {removed}");
        assert_eq!(SERVED.load(Ordering::SeqCst), 1, "n3 away: {removed}");
    }
}

/// Acceptance: delayed copies of a finished connection's request: the application sees the request once.
fn a_late_copy_of_a_request(method: &'static Method) {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    SERVED.store(0, Ordering::SeqCst);
    let cluster = Cluster::up(method, 2);
    let _server = Server::start(&cluster, 2, APP, |mut stream: TcpStream| {
        if read_head(&mut stream).is_ok() {
            SERVED.fetch_add(1, Ordering::SeqCst);
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        // The client closes first: no socket is left here that would know its segments.
        let _ = stream.read(&mut [0]);
    });
    let port = cluster.port_inspected_by(1);
    let filter = format!("tcp src port {port}");
    let capture = cluster.capture(CLIENT, "eth0", &filter).unwrap();
    let mut stream = connect(&cluster, Some(port), APP).unwrap();
    stream
        .write_all(head("GET", "/n2/x", None).as_bytes())
        .unwrap();
    assert_eq!(Response::read(&stream).unwrap().status, 200);
    drop(stream);
    let segments = capture.stop().unwrap();
    let request = segments.iter().find(|s| !s.payload.is_empty()).unwrap();
    let mut tcp = TcpHeader {
        sequence_number: request.seq,
        acknowledgment_number: request.ack,
        window_size: request.window,
        ack: true,
        psh: true,
        ..TcpHeader::default()
    };
    tcp.set_options_raw(&request.options.raw).unwrap();
    let copy = packet::segment_with(request.source, request.destination, tcp, &request.payload);
    wait_for("the server's socket to be gone", PATIENCE, || {
        let sockets = format!("ss -Htan dport = :{port}");
        cluster
            .sh(Place::Node(2), &sockets)
            .unwrap()
            .trim()
            .is_empty()
    });
    for _ in 0..3 {
        packet::send(&cluster, CLIENT, std::slice::from_ref(&copy));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(SERVED.load(Ordering::SeqCst), 1, "served once");
    // As the client sent it, and as n1 sent it on.
    assert_eq!(cluster.drops(2, "duplicate_request"), 6);
}

/// The kind of sockets that takes [`any_address`].
fn domain() -> Domain {
    Domain::for_address(SocketAddr::new(any_address(), 0))
}

/// Builds an example of the node's crate beside the program under test, where `cargo test` doesn't by itself.
fn example(name: &str) -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_dts")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "build",
            "--locked",
            "--package",
            "dts-node",
            "--example",
            name,
        ])
        .arg("--target-dir")
        .arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().unwrap();
    assert!(status.success(), "{build:?}: {status}");
    profile.join("examples").join(name)
}

/// Acceptance: a program's own inspector decides about connections that are adopted: the example of a node with one, in
/// place of the daemon.
fn an_inspector_of_ones_own(method: &'static Method) {
    let cluster = Cluster::with(method, 2, |spec| spec.cluster.daemons = false);
    let program = example("round_robin");
    let processes: Vec<_> = cluster
        .nodes()
        .map(|node| {
            let mut command = Command::new(&program);
            command.arg(cluster.daemon_config(node)).args(["web", "4"]);
            let process = cluster.spawn(Place::Node(node), &command).unwrap();
            wait_for("the node to be up", PATIENCE, || {
                assert!(
                    process.is_alive(),
                    "{}",
                    fs::read_to_string(process.log_path()).unwrap_or_default()
                );
                Client::connect(&cluster.daemon_socket(node)).is_ok()
            });
            process
        })
        .collect();
    let mut answered = BTreeSet::new();
    for _ in 0..20 {
        let response = get(&cluster, None, WEB, "/whatever").unwrap();
        assert_eq!(response.status, 404);
        answered.insert(response.node.unwrap());
    }
    assert_eq!(answered.len(), 2, "{answered:?}");
    let sent_on = cluster.sum(|node| cluster.stats(node).inspector["adoptions.sent_on"]);
    assert_eq!(sent_on, 20);
    for process in processes {
        process.signal(Signal::TERM);
        assert!(process.wait(PATIENCE));
    }
}

/// Acceptance: a listener that speaks MPTCP, as a Go program's does by default, works without configuration: by splice.
fn an_mptcp_listener(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let listeners: Vec<TcpListener> = cluster
        .nodes()
        .map(|node| {
            let listen = || {
                let socket = Socket::new(domain(), Type::STREAM, Some(Protocol::MPTCP))?;
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::new(any_address(), APP).into())?;
                socket.listen(64)?;
                Ok::<TcpListener, std::io::Error>(socket.into())
            };
            cluster.within(Place::Node(node), listen).unwrap().unwrap()
        })
        .collect();
    for (node, listener) in cluster.nodes().zip(listeners) {
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let _ = read_head(&mut stream);
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nX-DTS-Node: n{node}\r\nContent-Length: 0\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes());
                });
            }
        });
    }
    // At once: n1 may not have seen what listens, and n2 says that it is unable.
    let port = cluster.port_inspected_by(1);
    let response = get(&cluster, Some(port), APP, "/n2/x").unwrap();
    assert_eq!(response.node.as_deref(), Some("n2"));
    let way = |node| {
        let services = cluster.status(node).services;
        let app = services.iter().find(|s| s.name == "app").unwrap();
        app.method.clone().unwrap()
    };
    wait_for("splice to be chosen", PATIENCE, || {
        cluster.nodes().all(|node| way(node).name == Way::Splice)
    });
    assert!(way(1).why.contains("MPTCP"), "{:?}", way(1));
    for target in cluster.nodes() {
        let port = cluster.port_inspected_by(1);
        let response = get(&cluster, Some(port), APP, &format!("/n{target}/x")).unwrap();
        assert_eq!(response.node, Some(format!("n{target}")));
    }
    assert_eq!(
        cluster.sum(|node| cluster.status(node).handovers.adopted),
        0
    );
}

/// A server that accepts nothing: counted, and served when it does.
fn a_full_accept_queue(method: &'static Method) {
    let cluster = Cluster::up(method, 2);
    let listen = || {
        let socket = Socket::new(domain(), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(any_address(), APP).into())?;
        socket.listen(1)?;
        Ok::<TcpListener, std::io::Error>(socket.into())
    };
    let listener = cluster.within(Place::Node(2), listen).unwrap().unwrap();
    thread::sleep(Duration::from_secs(1));
    let streams: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(&cluster, Some(cluster.port_inspected_by(1)), APP).unwrap();
            stream
                .write_all(head("GET", "/n2/x", None).as_bytes())
                .unwrap();
            stream
        })
        .collect();
    wait_for("the queue to be full", PATIENCE, || {
        cluster.drops(2, "queue_full") > 0
    });
    thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let mut stream = stream.unwrap();
            let _ = read_head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for stream in streams {
        assert_eq!(Response::read(&stream).unwrap().status, 200);
    }
}

/// Acceptance: a SYN flood beside legitimate connections: these succeed, and memory stays what it was.
fn a_syn_flood(method: &'static Method) {
    let seconds = scale("DTS_FLOOD_SECONDS", 3);
    let cluster = Cluster::with(method, 2, |spec| spec.clients = 2);
    let resident = |node| {
        let pid = cluster.status(node).pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before: Vec<u64> = cluster.nodes().map(resident).collect();
    let answered = cluster.sum(|node| cluster.actions(node, "syn_answered"));
    let stop = AtomicBool::new(false);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut tried, mut failed) = (0u32, Vec::new());
    let work = || {
        while Instant::now() < until {
            tried += 1;
            if let Err(error) = legitimate() {
                failed.push(error.to_string());
            }
            thread::sleep(Duration::from_millis(10));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let flood = || flood(&stop);
            cluster.within(Place::Client(2), flood).unwrap().unwrap();
        });
        cluster.within(CLIENT, work).unwrap();
        stop.store(true, Ordering::Relaxed);
    });
    let answers = cluster.sum(|node| cluster.actions(node, "syn_answered")) - answered;
    let rate = answers / seconds;
    println!("{rate} SYNs/s were answered; {tried} legitimate connections, failed: {failed:?}");
    assert!(rate > 5_000, "no flood: {rate} SYNs/s");
    assert!(failed.len() * 1000 <= tried as usize, "{tried}: {failed:?}");
    for (node, before) in cluster.nodes().zip(before) {
        let after = resident(node);
        assert!(
            after < before + 8_000,
            "n{node}: {before} kB, then {after} kB"
        );
    }
}

/// Sends SYNs from addresses that are nobody's, as many as the machine can, a hundred each millisecond at the most.
fn flood(stop: &AtomicBool) -> std::io::Result<()> {
    let socket = packet::raw_socket()?;
    let to = vip(WEB);
    let syns: Vec<_> = (0..20_000u32)
        .map(|number| {
            let [.., high, low] = number.to_be_bytes();
            let port = 1024 + (number % 60_000) as u16;
            let from = SocketAddr::new(packet::stranger([high, low]), port);
            let mut tcp = TcpHeader {
                syn: true,
                sequence_number: number.wrapping_mul(0x9e37_79b9),
                window_size: 64_240,
                ..TcpHeader::default()
            };
            tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)])
                .unwrap();
            packet::segment(from, to, tcp)
        })
        .collect();
    let begin = Instant::now();
    let mut sent = 0u128;
    for syn in syns.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        syn.send(&socket)?;
        sent += 1;
        while sent > 100 * begin.elapsed().as_millis() + 100 {
            thread::yield_now();
        }
    }
    Ok(())
}

/// A connection that must succeed within three seconds.
fn legitimate() -> std::io::Result<()> {
    let begin = Instant::now();
    let mut stream = connect_here(None, vip(WEB))?;
    stream.write_all(head("GET", "/n2/x", None).as_bytes())?;
    Response::read(&stream)?;
    if begin.elapsed() > Duration::from_secs(3) {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(())
}
