//! Clients that don't say what they want: slowly, at length, or in no language that rules are for.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{Family, FileSet, Place};
use dts_node::admin::UndecidedView;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{PATIENCE, Response, connect, connect_here, get, head};
use crate::cluster::{
    APP, CLIENT, Cluster, Method, STRICT, TRACES, WEB, family, scale, vip, wait_for,
};
use crate::servers::Server;

crate::cases![
    a_thousand_slow_senders,
    more_slow_senders_than_the_limit,
    requests_that_rules_cannot_read,
    connections_that_say_too_little_or_too_much,
];

/// The services [`APP`], whose undecided connections go to the default target, n2, and [`STRICT`], whose clients are reset
/// then. A rule names a host, so that whole heads are needed.
fn services(method: &Method, limits: &str) -> String {
    [(APP, 8082, "default"), (STRICT, 8083, "reset")]
        .map(|(port, inspector, fate)| {
            let vip = vip(port).ip();
            format!(
                "[[service]]\nname = \"{fate}\"\nvip = \"{vip}\"\nport = {port}\nmode = \"l7\"\n\
                 handover = \"{}\"\ninspector_port = {inspector}\ndefault = {{ nodes = [\"n2\"] }}\n\
                 on_undecided = \"{fate}\"\n{limits}\n[[service.rule]]\nhost = \"n1.test\"\n\
                 to = {{ nodes = [\"n1\"] }}\n",
                method.handover
            )
        })
        .concat()
}

/// A cluster of two with these services, and servers that report what they were sent until a head ended or their client
/// paused.
fn cluster(method: &Method, limits: &str) -> (Cluster, Vec<[Server<Vec<u8>>; 2]>) {
    let cluster = Cluster::with(method, 2, |spec| {
        spec.cluster.services_toml = Some(services(method, limits));
    });
    let servers = cluster.nodes().map(|node| {
        [APP, STRICT].map(|port| {
            Server::start(&cluster, node, port, |mut stream: TcpStream| {
                let request = read_request(&mut stream);
                // Its client may be gone by now.
                let _ = stream.write_all(ANSWER);
                request
            })
        })
    });
    let servers = servers.collect();
    (cluster, servers)
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let quiet = Duration::from_millis(700);
    stream.set_read_timeout(Some(quiet)).unwrap();
    let mut all = Vec::new();
    let mut part = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut part) {
        all.extend_from_slice(&part[..n]);
        if all.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    all
}

/// What the nodes say of a service's undecided connections, added up.
fn undecided(cluster: &Cluster, service: &str) -> UndecidedView {
    let mut sum = UndecidedView::default();
    for node in cluster.nodes() {
        let services = cluster.status(node).services;
        let one = services.into_iter().find(|s| s.name == service).unwrap();
        let one = one.undecided.unwrap();
        sum.now += one.now;
        sum.most += one.most;
        sum.too_long += one.too_long;
        sum.too_slow += one.too_slow;
        sum.too_many += one.too_many;
        sum.ended += one.ended;
        sum.unreadable += one.unreadable;
    }
    sum
}

/// What a client hears: an answer, or the reset.
#[track_caller]
fn heard(stream: &mut TcpStream, fate: &str) {
    let mut said = [0; ANSWER.len()];
    match (fate, stream.read_exact(&mut said)) {
        ("default", Ok(())) => assert_eq!(said, ANSWER),
        ("reset", Err(error)) if error.kind() == ErrorKind::ConnectionReset => {}
        (_, other) => panic!("{fate}: {other:?}"),
    }
}

/// Acceptance: 1,000 slow senders, one byte per second each, beside 200 connections a second of ordinary clients for 30 s:
/// no ordinary request fails, and the median time to its first byte stays under 100 ms.
fn a_thousand_slow_senders(method: &'static Method) {
    let seconds = scale("DTS_SLOW_SECONDS", 30);
    let cluster = Cluster::with(method, 2, |spec| spec.client_extra_addresses = 4);
    let mut files = FileSet::new(31);
    for node in cluster.nodes() {
        files.add(format!("n{node}/1k"), 1000).unwrap();
    }
    let places: Vec<Place> = cluster.spec().node_places().collect();
    cluster.publish(&places, &files).unwrap();
    let before: Vec<u64> = cluster
        .nodes()
        .map(|node| resident(&cluster, node))
        .collect();

    let stop = AtomicBool::new(false);
    let mut most_undecided = 0;
    let (mut times, failures) = thread::scope(|scope| {
        scope.spawn(|| {
            cluster
                .within(CLIENT, || slow_senders(1000, &stop))
                .unwrap();
        });
        let ordinary = scope.spawn(|| {
            cluster
                .within(CLIENT, || ordinary_clients(seconds))
                .unwrap()
        });
        while !ordinary.is_finished() {
            most_undecided = most_undecided.max(undecided(&cluster, "web").now);
            thread::sleep(Duration::from_millis(500));
        }
        stop.store(true, Ordering::Relaxed);
        ordinary.join().unwrap()
    });

    times.sort();
    let median = times[times.len() / 2];
    println!(
        "{} requests, median {median:?}, worst {:?}; at most {most_undecided} undecided",
        times.len(),
        times[times.len() - 1],
    );
    assert_eq!(failures, Vec::<String>::new());
    assert!(
        times.len() as u64 >= 190 * seconds,
        "{} requests",
        times.len()
    );
    assert!(median < Duration::from_millis(100), "{median:?}");
    assert!(
        most_undecided > 500,
        "{most_undecided} slow senders at the most"
    );
    let counted = undecided(&cluster, "web");
    assert!(counted.too_slow > 100, "{counted:?}");
    assert_eq!((counted.too_many, counted.unreadable), (0, 0));
    for (node, before) in cluster.nodes().zip(before) {
        let after = resident(&cluster, node);
        println!("n{node}: {before} kB, then {after} kB");
        assert!(after < before + 16_000, "{before} kB, then {after} kB");
    }
    cluster.wait_until_clean(TRACES);
}

/// The memory that a node's daemon has, in kB.
fn resident(cluster: &Cluster, node: u8) -> u64 {
    let pid = cluster.status(node).pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Asks for a file on a new connection, 200 times a second: times to the first byte, and what failed.
fn ordinary_clients(seconds: u64) -> (Vec<Duration>, Vec<String>) {
    const CLIENTS: u32 = 10;
    const PERIOD: Duration = Duration::from_millis(50);
    let results = Mutex::new((Vec::new(), Vec::new()));
    let begin = Instant::now();
    let client = |number: u32| {
        let mut next = begin + PERIOD * number / CLIENTS;
        while next < begin + Duration::from_secs(seconds) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += PERIOD;
            let result = time_to_first_byte(1 + number % 2);
            let mut results = results.lock().unwrap();
            match result {
                Ok(time) => results.0.push(time),
                Err(error) => results.1.push(format!("{:?}: {error}", begin.elapsed())),
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || client(number));
        }
    });
    results.into_inner().unwrap()
}

fn time_to_first_byte(target: u32) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut stream = connect_here(None, vip(WEB))?;
    stream.write_all(head("GET", &format!("/n{target}/1k"), None).as_bytes())?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let time = begin.elapsed();
    let response = Response::read(first.chain(&stream))?;
    match (response.status, response.body.len()) {
        (200, 1000) => Ok(time),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

/// So many connections that say a byte each second, and begin anew after fifteen.
fn slow_senders(count: usize, stop: &AtomicBool) {
    const LIFE: usize = 15;
    let pause = Duration::from_secs(1) / count as u32;
    let address = |host: u8| match family() {
        Family::V4 => SocketAddr::from(([198, 18, 2, host], 0)),
        Family::V6 => SocketAddr::from(([0x2001, 0xdb8, 0, 2, 0, 0, 0, u16::from(host)], 0)),
    };
    let addresses: Vec<SocketAddr> = (1..=4).map(address).collect();
    let open = |number: usize| -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(vip(WEB)),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.bind(&addresses[number % addresses.len()].into())?;
        match socket.connect(&vip(WEB).into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    };
    let says = b"GET / HTTP/1.1\r\nX-Slow: ";
    // What it has said, and how much it will.
    let mut senders: Vec<(Socket, usize, usize)> = Vec::new();
    let mut next = Instant::now();
    for number in (0..count).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        if senders.len() <= number {
            // So that they don't all end in the same second.
            senders.push((open(number).unwrap(), 0, 1 + number % LIFE));
            continue;
        }
        let (socket, said, most) = &mut senders[number];
        let sent = socket.write(&says[*said..=*said]);
        *said += 1;
        if sent.is_err() || said == most {
            senders[number] = (open(number).unwrap(), 0, LIFE);
        }
    }
}

/// `errno.h`
const EINPROGRESS: i32 = 115;

/// Over the limit, who has waited longest makes room, and gets what is configured; ordinary clients are served.
fn more_slow_senders_than_the_limit(method: &'static Method) {
    const MOST: u64 = 20;
    const SENDERS: u64 = 60;
    let limits = format!("undecided_connections = {MOST}\nundecided_ms = 60000");
    let (cluster, _servers) = cluster(method, &limits);
    for (port, fate) in [(APP, "default"), (STRICT, "reset")] {
        let sender = |_| {
            let from = cluster.port_inspected_by(1);
            let mut stream = connect(&cluster, Some(from), port).unwrap();
            stream.write_all(b"GET /slow HTTP/1.1\r\nHos").unwrap();
            stream
        };
        let mut senders: Vec<TcpStream> = (0..SENDERS).map(sender).collect();
        let given_up = SENDERS - MOST;
        wait_for("the limit to be kept", PATIENCE, || {
            let counted = undecided(&cluster, fate);
            (counted.now, counted.too_many) == (MOST, given_up)
        });
        for _ in 0..20 {
            let from = cluster.port_inspected_by(1);
            let response = get(&cluster, Some(from), port, "/ordinary").unwrap();
            assert_eq!(response.text(), "ok");
        }
        // The first ones, and they alone.
        let rest = senders.split_off(given_up as usize);
        for mut sender in senders {
            heard(&mut sender, fate);
        }
        for sender in &rest {
            sender.set_nonblocking(true).unwrap();
            let silent = (&*sender).read(&mut [0]).unwrap_err();
            assert_eq!(silent.kind(), ErrorKind::WouldBlock);
        }
        let counted = undecided(&cluster, fate);
        assert_eq!(counted.too_many, given_up, "{counted:?}");
        // They are as good as any other as soon as they have said what they want.
        for mut sender in rest {
            sender.set_nonblocking(false).unwrap();
            sender.write_all(b"t: n2.test\r\n\r\n").unwrap();
            assert_eq!(Response::read(&sender).unwrap().text(), "ok");
        }
        assert_eq!(undecided(&cluster, fate).now, 0);
    }
    cluster.wait_until_clean(TRACES);
}

/// Bytes that are no request, at once: binary data, TLS, zeros, too many headers.
fn requests_that_rules_cannot_read(method: &'static Method) {
    let (cluster, servers) = cluster(method, "");
    let headers: String = (0..200).map(|n| format!("X-{n}: endless\r\n")).collect();
    let many_headers = format!("GET /x HTTP/1.1\r\n{headers}");
    let mut random = fastrand::Rng::with_seed(7);
    let binary: Vec<u8> = (0..600).map(|_| random.u8(128..)).collect();
    let client_hello = [
        &[
            0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
        ][..],
        &[0x5a; 501],
    ];
    let said: [&[u8]; 7] = [
        b"what is this?\r\n\r\n",
        &binary,
        &client_hello.concat(),
        &[0; 64],
        b"GET /\0/x HTTP/1.1\r\nHost: n1.test\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: n1.test\r\nHost: n2.test\r\n\r\n",
        many_headers.as_bytes(),
    ];
    for (which, (port, fate)) in [(APP, "default"), (STRICT, "reset")]
        .into_iter()
        .enumerate()
    {
        for (number, said) in said.iter().enumerate() {
            for inspecting in cluster.nodes() {
                let from = cluster.port_inspected_by(inspecting);
                let mut stream = connect(&cluster, Some(from), port).unwrap();
                stream.write_all(said).unwrap();
                heard(&mut stream, fate);
                if fate == "default" {
                    let read = servers[1][which].result();
                    assert!(
                        read == *said,
                        "number {number}: {}",
                        String::from_utf8_lossy(&read)
                    );
                }
            }
        }
        let counted = undecided(&cluster, fate);
        assert_eq!(
            counted.unreadable,
            2 * said.len() as u64,
            "{fate}: {counted:?}"
        );
    }
    assert_servers_heard_nothing(&servers[0]);
    assert_servers_heard_nothing(&servers[1]);
    cluster.wait_until_clean(TRACES);
}

fn assert_servers_heard_nothing(servers: &[Server<Vec<u8>>]) {
    for server in servers {
        let heard = server.result_within(Duration::from_millis(1));
        assert!(heard.is_none(), "{heard:?}");
    }
}

/// Beginnings of requests: too long, not gone on with, closed. And nothing at all.
fn connections_that_say_too_little_or_too_much(method: &'static Method) {
    const MOST: usize = 4096;
    let limits = format!("undecided_ms = 1000\nundecided_bytes = {MOST}");
    let (cluster, servers) = cluster(method, &limits);
    let long_line = format!("GET /{}", "a".repeat(MOST));
    let long_header = format!("GET /x HTTP/1.1\r\nX: {}", "b".repeat(MOST));
    let long_headers: String = (0..100)
        .map(|n| format!("X-{n}: {}\r\n", "c".repeat(60)))
        .collect();
    let long_headers = format!("GET /x HTTP/1.1\r\n{long_headers}");
    let cut = "GET /x HTTP/1.1\r\nHo";
    type Counter = fn(&UndecidedView) -> u64;
    let cases: [(&str, bool, Counter); 5] = [
        (&long_line, false, |counted| counted.too_long),
        (&long_header, false, |counted| counted.too_long),
        (&long_headers, false, |counted| counted.too_long),
        (cut, false, |counted| counted.too_slow),
        (cut, true, |counted| counted.ended),
    ];
    for (which, (port, fate)) in [(APP, "default"), (STRICT, "reset")]
        .into_iter()
        .enumerate()
    {
        for (number, (said, closes, counter)) in cases.into_iter().enumerate() {
            for inspecting in cluster.nodes() {
                let before = counter(&undecided(&cluster, fate));
                let from = cluster.port_inspected_by(inspecting);
                let mut stream = connect(&cluster, Some(from), port).unwrap();
                // A node that has enough doesn't wait for the rest.
                let _ = stream.write_all(said.as_bytes());
                if closes {
                    stream.shutdown(Shutdown::Write).unwrap();
                }
                heard(&mut stream, fate);
                if fate == "default" {
                    let read = servers[1][which].result();
                    assert!(
                        read == said.as_bytes(),
                        "number {number}: {} bytes",
                        read.len()
                    );
                }
                let after = counter(&undecided(&cluster, fate));
                let counted = undecided(&cluster, fate);
                assert_eq!(after, before + 1, "{fate}, number {number}: {counted:?}");
            }
        }
        // Of one that is adopted nothing is known but what its cookie says.
        if !method.adopts() {
            let mut silent = connect(&cluster, None, port).unwrap();
            heard(&mut silent, "reset");
        }
        assert_eq!(undecided(&cluster, fate).now, 0);
    }
    assert_servers_heard_nothing(&servers[0]);
    assert_servers_heard_nothing(&servers[1]);
    cluster.wait_until_clean(TRACES);
}
