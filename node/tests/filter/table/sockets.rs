//! Rows that take real sockets: the programs find them, because the client and the VIP are both
//! addresses of the bench's namespace. No program is attached there; connections are made without them.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use dts_core::entry::state;
use dts_core::segment::{ACK, RST};
use dts_core::verdict::{Action, Verdict};
use socket2::{SockAddr, Socket, Type};

use super::{answered_server, grown};
use crate::bench::{Bench, CLIENT, MAIL, UNSPEC, VIP, WEB, client, flow, ip, syn};
use crate::frame::{ETH, Tcp};
use crate::world::{World, addr, ip_len};

/// The client's port of the connection to each service.
pub(super) const PORT: u16 = 41_000;

/// Runs the rows; the verdicts that were met.
pub(super) fn check(bench: &Bench) -> Vec<Verdict> {
    bench.set_up();
    bench.clear();
    let whole = if World::present().clients_v6 {
        "128 nodad"
    } else {
        "32"
    };
    for name in [CLIENT, VIP] {
        let address = IpAddr::from(addr(name));
        ip(&format!("addr add {address}/{whole} dev lo"));
    }
    // The kernel makes an IPv6 address usable, and its route, in a work of its own.
    let end = Instant::now() + Duration::from_secs(10);
    let usable = || {
        let probe = UdpSocket::bind((IpAddr::from(addr(CLIENT)), 0))?;
        probe.connect((IpAddr::from(addr(VIP)), 9))
    };
    while let Err(error) = usable() {
        assert!(Instant::now() < end, "the new addresses: {error}");
        thread::sleep(Duration::from_millis(5));
    }
    let mut met = alive(bench, MAIL, |_| {});
    met.extend(alive(bench, WEB, |bench| {
        bench.processing(flow(PORT, WEB), 30_000, |e| {
            answered_server(e);
            e.state = state::DIRECT;
        });
    }));
    met.push(time_wait(bench));
    met
}

/// A socket's address, of the family that the name has.
pub(super) fn socket_address(name: [u8; 4], port: u16) -> SockAddr {
    SocketAddr::new(addr(name).into(), port).into()
}

/// A connection of the client's to a service, and its other end.
pub(super) fn connect(port: u16) -> (TcpStream, TcpStream) {
    let vip = socket_address(VIP, port);
    let listener = Socket::new(vip.domain(), Type::STREAM, None).expect("a socket");
    listener.set_reuse_address(true).expect("an option");
    listener.bind(&vip).expect("the VIP is here");
    listener.listen(1).expect("a listener");
    let listener = TcpListener::from(listener);
    let ours = Socket::new(vip.domain(), Type::STREAM, None).expect("a socket");
    ours.set_reuse_address(true).expect("an option");
    ours.bind(&socket_address(CLIENT, PORT))
        .expect("the client is here");
    ours.connect(&vip).expect("a listener");
    let (theirs, _) = listener.accept().expect("a connection");
    (ours.into(), theirs)
}

/// Runs a frame from the client, whose verdict is `expected`; the frame that goes on.
fn meet(bench: &Bench, segment: &Tcp, expected: Action) -> (Verdict, Vec<u8>) {
    let before = bench.stats();
    let (code, out) = bench.run("front_ingress", &segment.frame());
    let verdict = grown("a flow with a socket", &before, &bench.stats());
    assert_eq!(
        (verdict, code),
        (Verdict::Done(expected), UNSPEC),
        "{segment:?}"
    );
    (verdict, out)
}

/// A SYN for a live connection goes to its socket, which answers as RFC 5961 says, whoever owns the flow by
/// now; so do the connection's segments of a service that is not inspected.
fn alive(bench: &Bench, port: u16, entry: fn(&Bench)) -> Vec<Verdict> {
    let ends = connect(port);
    let flow = flow(PORT, port);
    entry(bench);
    bench.own(false);
    let mut met = Vec::new();
    for seq in [0, 0x7fff_ffff, 0xffff_fff0] {
        let syn = Tcp { seq, ..syn(&flow) };
        let (verdict, out) = meet(bench, &syn, Action::Challenge);
        assert_eq!(out, syn.frame(), "the socket is shown the SYN as it is");
        met.push(verdict);
    }
    if port == MAIL {
        met.push(meet(bench, &client(&flow, 9, 9, ACK), Action::Pass).0);
        met.push(meet(bench, &client(&flow, 9, 9, RST), Action::Pass).0);
    }
    drop(ends);
    met
}

/// A SYN of another's flow whose last connection is in TIME_WAIT here becomes the reset that ends that:
/// with the sequence number that the socket expects, whatever the SYN's own.
fn time_wait(bench: &Bench) -> Verdict {
    bench.set_up();
    bench.own(true);
    let port = MAIL;
    let flow = flow(PORT + 1, port);
    let expected = leave_time_wait(PORT + 1, port);
    bench.own(false);
    let mut seen = Vec::new();
    let mut verdict = None;
    // Half of all numbers are later than the expected one: a SYN with one of the others is not taken.
    for quarter in 0..4u32 {
        let segment = Tcp {
            seq: quarter << 30,
            ..syn(&flow)
        };
        let before = bench.stats();
        let (code, out) = bench.run("front_ingress", &segment.frame());
        let counted = grown("a flow in TIME_WAIT", &before, &bench.stats());
        if counted == Verdict::Done(Action::TimeWaitKilled) {
            assert_eq!(code, UNSPEC);
            let seq = u32::from_be_bytes(
                out[ETH + ip_len() + 4..ETH + ip_len() + 8]
                    .try_into()
                    .expect("four"),
            );
            let reset = Tcp {
                options: vec![],
                ..Tcp {
                    seq,
                    ack: 0,
                    flags: RST,
                    ..segment.clone()
                }
            };
            assert_eq!(hex::encode(&out), hex::encode(reset.frame()));
            assert!(
                segment.seq.wrapping_sub(seq) < 1 << 31,
                "{seq} before the SYN"
            );
            seen.push(seq);
            verdict = Some(counted);
        }
    }
    assert_eq!(
        seen.len(),
        2,
        "SYNs that may follow, of four around the circle"
    );
    assert_eq!(seen[0], seen[1], "the number that the socket expects");
    drop(expected);
    // A segment of a connection in TIME_WAIT is still its socket's.
    meet(bench, &client(&flow, 9, 9, ACK), Action::Pass);
    verdict.expect("two of them")
}

/// Leaves the service's end of a connection in TIME_WAIT: it closes first.
pub(super) fn leave_time_wait(client_port: u16, port: u16) -> TcpListener {
    let vip = socket_address(VIP, port);
    let socket = Socket::new(vip.domain(), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&vip).expect("the VIP is here");
    socket.listen(1).expect("a listener");
    let listener = TcpListener::from(socket);
    let ours = Socket::new(vip.domain(), Type::STREAM, None).expect("a socket");
    let from = socket_address(CLIENT, client_port);
    ours.bind(&from).expect("the client is here");
    ours.connect(&vip).expect("a listener");
    let (theirs, _) = listener.accept().expect("a connection");
    drop(theirs);
    let mut ours = TcpStream::from(ours);
    let rest = ours.read(&mut [0; 1]).expect("the end");
    assert_eq!(rest, 0);
    drop(ours);
    wait_for_time_wait(client_port);
    listener
}

fn wait_for_time_wait(client_port: u16) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let (waits, table) = in_time_wait(client_port);
        if waits {
            return;
        }
        assert!(Instant::now() < end, "no TIME_WAIT:\n{table}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether an end of a connection with this port of the client's is in TIME_WAIT, and the kernel's list that says so.
pub(super) fn in_time_wait(client_port: u16) -> (bool, String) {
    let v6 = if World::present().clients_v6 { "6" } else { "" };
    let table = format!("/proc/thread-self/net/tcp{v6}");
    let table = std::fs::read_to_string(table).expect("a table");
    // State 06 with the client's port as the remote end.
    let line = format!(":{client_port:04X} 06");
    (table.contains(&line), table)
}
