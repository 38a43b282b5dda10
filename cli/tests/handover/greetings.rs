//! Servers that speak first (DTS §2.6): the inspector greets in their stead, their own greeting is swallowed.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use dts_lab::{Effect, Impairment, Network, Signal};
use dts_node::admin::{State, UndecidedView};

use crate::client::{PATIENCE, assert_reset, connect, connect_here};
use crate::cluster::{CLIENT, Cluster, Method, TRACES, vip, wait_for};
use crate::servers::Server;

mod mail;

use mail::mail_goes_where_its_first_command_says;

crate::cases![
    mail_goes_where_its_first_command_says,
    a_greeting_in_any_form,
    a_greeting_that_is_lost,
    a_greeting_that_differs,
    clients_that_say_nothing,
    clients_that_hear_nothing,
    a_greeting_after_a_reload,
    a_daemon_that_dies_while_it_compares,
];

/// SMTP.
const MAIL: u16 = 25;
/// A service whose servers a case starts itself.
const TALK: u16 = 2500;

/// The services [`MAIL`] and [`TALK`]. `EHLO n1...` and `n1...` belong to `n1` and so on; everything else goes by the whole
/// line.
fn cluster(method: &Method, nodes: u8, greeting: &str, limits: &str) -> Cluster {
    let mut toml = String::new();
    for (name, port, inspector, said, prefix) in [
        ("mail", MAIL, 8084, BANNER, "EHLO "),
        ("talk", TALK, 8085, greeting, ""),
    ] {
        let vip = vip(port).ip();
        toml += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nmode = \"l7\"\n\
             handover = \"{}\"\ninspector_port = {inspector}\nprotocol = \"line\"\n\
             greeting = {said:?}\ndefault = {{ hash = \"line\" }}\n{limits}\n",
            method.handover
        );
        for node in 1..=nodes {
            toml += &format!(
                "[[service.rule]]\nline_prefix = \"{prefix}n{node}\"\n\
                 to = {{ nodes = [\"n{node}\"] }}\n"
            );
        }
    }
    Cluster::with(method, nodes, |spec| {
        spec.cluster.services_toml = Some(toml)
    })
}

/// How many of a node's handovers have failed for a reason.
fn failed(cluster: &Cluster, node: u8, reason: &str) -> u64 {
    cluster.status(node).handovers.failed[reason]
}

const BANNER: &str = "220 mail.example ESMTP\r\n";

/// Greets in parts, then answers each line by its length and itself.
fn talk(
    mut stream: TcpStream,
    greeting: &'static [u8],
    part: usize,
    pause: Duration,
) -> io::Result<Vec<u8>> {
    stream.set_nodelay(true)?;
    for part in greeting.chunks(part) {
        stream.write_all(part)?;
        thread::sleep(pause);
    }
    let mut all = Vec::new();
    let mut room = [0; 4096];
    loop {
        match stream.read(&mut room)? {
            0 => return Ok(all),
            n => {
                all.extend_from_slice(&room[..n]);
                stream.write_all(&room[..n])?;
            }
        }
    }
}

fn start_talkers(
    cluster: &Cluster,
    greeting: &'static [u8],
    part: usize,
    pause: Duration,
) -> Vec<Server<io::Result<Vec<u8>>>> {
    let start = |node| Server::start(cluster, node, TALK, move |s| talk(s, greeting, part, pause));
    cluster.nodes().map(start).collect()
}

/// A conversation of lines; the client waits for the greeting if it is polite.
fn converse(stream: &mut TcpStream, greeting: &[u8], polite: bool, first: &str) -> io::Result<()> {
    let lines = [first.as_bytes(), &vec![b'y'; 50_000], b"\n", b"the end\n"];
    let mut heard = vec![0; greeting.len()];
    if polite {
        stream.read_exact(&mut heard)?;
    }
    stream.write_all(lines[0])?;
    if !polite {
        stream.read_exact(&mut heard)?;
    }
    assert_eq!(heard, greeting, "the greeting, once");
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            stream.write_all(line)?;
        }
        let mut answer = vec![0; line.len()];
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, *line, "line {number}");
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut heard)? {
        0 => Ok(()),
        n => Err(io::Error::other(format!(
            "{n} bytes more than were answered"
        ))),
    }
}

const LONG: &str = concat!(
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220-0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    "220 ready\r\n"
);

/// However a server sends its greeting, and whether a client waits for it or not: the client gets it once, and then what
/// the server answers.
fn a_greeting_in_any_form(method: &'static Method) {
    const GREETING: &str = LONG;
    let cluster = cluster(method, 2, GREETING, "");
    for (part, pause) in [(GREETING.len(), 0), (400, 20), (7, 1)] {
        let pause = Duration::from_millis(pause);
        let servers = start_talkers(&cluster, GREETING.as_bytes(), part, pause);
        for target in cluster.nodes() {
            for polite in [true, false] {
                let port = cluster.port_inspected_by(1);
                let mut stream = connect(&cluster, Some(port), TALK).unwrap();
                let first = format!("n{target} please\n");
                converse(&mut stream, GREETING.as_bytes(), polite, &first).unwrap();
                let heard = servers[usize::from(target) - 1].result().unwrap();
                assert!(heard.starts_with(first.as_bytes()));
                assert_eq!(heard.len(), first.len() + 50_000 + 1 + 8);
            }
        }
    }
    assert_eq!(cluster.sum(|node| failed(&cluster, node, "greeting")), 0);
    cluster.wait_until_clean(TRACES);
}

/// Greetings, and the handovers after them, on networks that lose packets.
fn a_greeting_that_is_lost(method: &'static Method) {
    let cluster = cluster(method, 2, BANNER, "");
    let _servers = start_talkers(&cluster, BANNER.as_bytes(), 10, Duration::ZERO);
    for network in [Network::Front, Network::Back] {
        let effect = Effect::Loss(0.03);
        cluster
            .impair(&Impairment::of_network(network, effect))
            .unwrap();
    }
    let broken: Vec<io::Error> = cluster
        .within(CLIENT, || {
            thread::scope(|scope| {
                let threads: Vec<_> = (0..16)
                    .map(|thread| {
                        scope.spawn(move || {
                            let mut broken = Vec::new();
                            for number in 0..6 {
                                let first = format!("n{} {thread}\n", 1 + (thread + number) % 2);
                                let polite = number % 3 != 0;
                                let talk = connect_here(None, vip(TALK)).and_then(|mut stream| {
                                    converse(&mut stream, BANNER.as_bytes(), polite, &first)
                                });
                                broken.extend(talk.err());
                            }
                            broken
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .flat_map(|t| t.join().unwrap())
                    .collect()
            })
        })
        .unwrap();
    cluster.clear_impairments().unwrap();
    // A handover whose four attempts are all lost finds no server; its client is served by another, or reset.
    let unreachable = cluster.sum(|node| failed(&cluster, node, "unreachable"));
    let reset = |error: &io::Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(broken.iter().all(reset), "{broken:?}");
    assert!(
        broken.len() as u64 <= unreachable,
        "{unreachable}: {broken:?}"
    );
    assert_eq!(cluster.sum(|node| failed(&cluster, node, "greeting")), 0);
    cluster.wait_until_clean(Duration::from_secs(60));
}

/// Acceptance: a greeting that differs is reported and the connection reset.
fn a_greeting_that_differs(method: &'static Method) {
    let cluster = cluster(method, 2, BANNER, "");
    let others: [(&'static [u8], &str); 5] = [
        (
            b"220 mail.example ESMTP Postfix\r\n",
            r#"has " Po" from byte 23 on"#,
        ),
        (
            b"220 mail.example ESMTP\r\n250 more\r\n",
            "is longer than the configured one",
        ),
        (b"421 busy\r\n", r#"has "421 busy\r\n" from byte 1 on"#),
        // These close their side without another word.
        (b"220 mail", "closed the connection after 8 bytes"),
        (b"", "closed the connection after 0 bytes"),
    ];
    for (differing, (greeting, reported)) in (1..).zip(others) {
        let closes = BANNER.as_bytes().starts_with(greeting);
        let server = Server::start(&cluster, 2, TALK, move |mut stream: TcpStream| {
            stream.write_all(greeting)?;
            if closes {
                stream.shutdown(Shutdown::Write)?;
            }
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            Ok::<_, io::Error>(heard)
        });
        // The log tells of one a second.
        thread::sleep(Duration::from_millis(1100));
        let mut stream = greeted(&cluster);
        stream.write_all(b"n2 please\n").unwrap();
        assert_reset(stream.read(&mut [0]));
        assert_reset(server.result());
        let counted = || failed(&cluster, 1, "greeting");
        wait_for("it is counted", PATIENCE, || counted() == differing);
        let log = fs::read_to_string(cluster.daemon_log(1)).unwrap();
        let line = log.lines().find(|line| line.contains(reported));
        let line = line.unwrap_or_else(|| panic!("{reported} in {log}"));
        assert!(line.contains("WARN") && line.contains("talk"), "{line}");
    }
    // One that greets as it should and closes its side at once: its FIN meets the request on its way, or it doesn't. The
    // client hears of it in either case.
    for _ in 0..20 {
        let server = Server::start(&cluster, 2, TALK, |mut stream: TcpStream| {
            stream.write_all(BANNER.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())
        });
        let mut stream = greeted(&cluster);
        stream.write_all(b"n2 please\n").unwrap();
        match stream.read(&mut [0]) {
            Ok(0) => {
                drop(stream);
                assert_eq!(server.result().unwrap(), b"n2 please\n".len());
            }
            end => assert_reset(end),
        }
    }
    cluster.wait_until_clean(TRACES);
}

/// A connection that n1 inspects, and whose client has been greeted.
fn greeted(cluster: &Cluster) -> TcpStream {
    let mut stream = connect(cluster, Some(cluster.port_inspected_by(1)), TALK).unwrap();
    let mut heard = [0; BANNER.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, BANNER.as_bytes(), "the inspector's");
    stream
}

/// What n1 says of the undecided connections of [`TALK`].
fn undecided(cluster: &Cluster) -> UndecidedView {
    let services = cluster.status(1).services;
    let talk = services.into_iter().find(|s| s.name == "talk").unwrap();
    talk.undecided.unwrap()
}

/// A client that was greeted and says nothing has nothing that a server could be given: it is reset when its time is over.
/// One that closes is forgotten.
fn clients_that_say_nothing(method: &'static Method) {
    let cluster = cluster(method, 2, BANNER, "undecided_ms = 1000");
    let _servers = start_talkers(&cluster, BANNER.as_bytes(), 100, Duration::ZERO);
    drop(greeted(&cluster));
    let mut silent = greeted(&cluster);
    assert_reset(silent.read(&mut [0]));
    // Half a line is something: it goes to the default target.
    let mut half = greeted(&cluster);
    half.write_all(b"n1").unwrap();
    let mut answer = [0; 2];
    half.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"n1");
    drop(half);
    let counted = undecided(&cluster);
    assert_eq!((counted.too_slow, counted.now), (2, 0));
    cluster.wait_until_clean(TRACES);
}

/// A client that doesn't acknowledge its greeting is undecided, whatever it says: it is counted, makes room for others,
/// and its time ends.
fn clients_that_hear_nothing(method: &'static Method) {
    let limits = "undecided_ms = 1500\nundecided_connections = 2";
    let cluster = cluster(method, 2, BANNER, limits);
    let _servers = start_talkers(&cluster, BANNER.as_bytes(), 100, Duration::ZERO);
    let deaf = "nft add table inet deaf && \
         nft 'add chain inet deaf input { type filter hook input priority 0; }' && \
         nft 'add rule inet deaf input tcp sport 2500 tcp flags & psh == psh drop'";
    cluster.sh(CLIENT, deaf).unwrap();
    let mut clients: Vec<TcpStream> = (0..3)
        .map(|_| {
            let port = cluster.port_inspected_by(1);
            let mut stream = connect(&cluster, Some(port), TALK).unwrap();
            stream.write_all(b"n2 please\n").unwrap();
            thread::sleep(Duration::from_millis(100));
            stream
        })
        .collect();
    let first = clients.remove(0);
    assert_reset((&first).read(&mut [0]));
    let counted = undecided(&cluster);
    assert_eq!((counted.too_many, counted.now), (1, 2));
    for mut client in clients {
        assert_reset(client.read(&mut [0]));
    }
    let counted = undecided(&cluster);
    assert_eq!((counted.too_slow, counted.now), (2, 0));
    assert_eq!(cluster.handed_over(), 0);
    cluster.wait_until_clean(TRACES);
}

/// A service may have its greeting taken away and be given one; the protocol may be any.
fn a_greeting_after_a_reload(method: &'static Method) {
    let cluster = cluster(method, 2, BANNER, "");
    let change = |changes: &[(&str, &str)]| {
        for node in cluster.nodes() {
            let path = cluster.daemon_config(node);
            let toml = fs::read_to_string(&path).unwrap();
            let (before, talk) = toml.split_once("name = \"talk\"").unwrap();
            let mut talk = talk.to_owned();
            for (from, to) in changes {
                assert!(talk.contains(from), "{talk}");
                talk = talk.replacen(from, to, 1);
            }
            fs::write(&path, format!("{before}name = \"talk\"{talk}")).unwrap();
            cluster.reload(node);
        }
    };
    let line = format!("greeting = {BANNER:?}");
    let talk = |greeting: &'static str, first: &str| {
        let _servers = start_talkers(&cluster, greeting.as_bytes(), 9, Duration::ZERO);
        for polite in [true, false] {
            let port = cluster.port_inspected_by(1);
            let mut stream = connect(&cluster, Some(port), TALK).unwrap();
            converse(&mut stream, greeting.as_bytes(), polite, first).unwrap();
        }
    };
    change(&[(&line, "greeting = \"hello\\n\"")]);
    talk("hello\n", "n2 please\n");
    change(&[("greeting = \"hello\\n\"", "")]);
    talk("", "n1 please\n");
    // No rule looks at bytes.
    let toml = fs::read_to_string(cluster.daemon_config(1)).unwrap();
    let (_, talking) = toml.split_once("name = \"talk\"").unwrap();
    let rules = talking[talking.find("[[service.rule]]").unwrap()..].to_owned();
    change(&[
        (&rules, ""),
        (
            "protocol = \"line\"",
            &format!("protocol = {{ bytes = 3 }}\n{line}"),
        ),
        (
            "default = { hash = \"line\" }",
            "default = { nodes = [\"n2\"] }",
        ),
    ]);
    talk(BANNER, "anything\n");
    cluster.wait_until_clean(TRACES);
}

/// A daemon that dies while it waits for a server's greeting leaves a client that hears of it.
fn a_daemon_that_dies_while_it_compares(method: &'static Method) {
    let cluster = cluster(method, 2, BANNER, "");
    let server = Server::start(&cluster, 2, TALK, |mut stream: TcpStream| {
        stream.read_to_end(&mut Vec::new())
    });
    let mut stream = greeted(&cluster);
    stream.write_all(b"n2 please\n").unwrap();
    let handing = || {
        cluster
            .connections(2)
            .iter()
            .any(|c| c.state == State::Handing)
    };
    wait_for("n2 has the connection", PATIENCE, handing);
    cluster.end_daemon(1, Signal::KILL);
    assert_reset(server.result());
    stream.write_all(b"still there?\n").unwrap();
    assert_reset(stream.read(&mut [0]));
    cluster.wait_until_clean(TRACES);
}
