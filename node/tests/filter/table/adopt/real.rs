//! Rows that take real sockets, as in `super::super::sockets`.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use dts_core::segment::{ACK, RST};
use socket2::{Socket, Type};

use super::super::sockets::{PORT, connect, in_time_wait, leave_time_wait, socket_address};
use super::*;
use crate::adopting::flow_of;
use crate::bench::{REDIRECT, SHOT, VIP};

/// Runs the rows; the verdicts that were met. Client and VIP are addresses of this namespace.
pub(in super::super) fn check(bench: &Bench) -> Vec<Verdict> {
    let mut met = vec![
        not_adopted(bench, IN, 0, &request(&fresh(), "/here")),
        not_adopted(bench, BACK_IN, 0, &sent_here(&fresh_request(), Kind::First)),
        queue_full(bench),
    ];
    met.extend(alive(bench));
    met.extend(in_the_way(bench));
    met.push(to_inspector(bench));
    met.extend(time_wait(bench));
    met
}

/// Runs a frame, whose verdict must be the one given; the frame that goes on.
fn meet(
    bench: &Bench,
    (program, mark): (&'static str, u32),
    segment: &Tcp,
    (verdict, code): (Verdict, i32),
) -> (Verdict, Vec<u8>) {
    let before = bench.stats();
    let ran = bench.filter.run_marked(program, mark, &segment.frame());
    let (returned, out) = ran.expect("the kernel runs it");
    let counted = grown("a flow with a socket", &before, &bench.stats());
    assert_eq!((counted, returned), (verdict, code), "{segment:?}");
    (verdict, out)
}

fn drops(reason: DropReason) -> (Verdict, i32) {
    (Verdict::Drop(reason), SHOT)
}

fn passes(action: Action) -> (Verdict, i32) {
    (Verdict::Done(action), UNSPEC)
}

fn listen(port: u16, backlog: i32) -> TcpListener {
    let address = socket_address(VIP, port);
    let socket = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address).expect("the VIP is here");
    socket.listen(backlog).expect("a listener");
    socket.into()
}

/// There is a server, but nothing of BPF_PROG_TEST_RUN's is at an interface's ingress, as the kernel wants it.
fn not_adopted(bench: &Bench, program: &'static str, mark: u32, segment: &Tcp) -> Verdict {
    bench.set_up();
    let _server = listen(SHOP, 16);
    let expected = drops(DropReason::NotAdopted);
    meet(bench, (program, mark), segment, expected).0
}

/// A server that accepts nothing, and has as many connections as it lets wait: the client is to try again.
fn queue_full(bench: &Bench) -> Verdict {
    bench.set_up();
    let server = listen(SHOP, 0);
    let address = server.local_addr().expect("its address");
    let waiting = TcpStream::connect(address).expect("there is room for one");
    let expected = drops(DropReason::QueueFull);
    let here = request(&fresh(), "/here");
    meet(bench, (IN, 0), &here, expected);
    let sent = sent_here(&fresh_request(), Kind::First);
    let (verdict, _) = meet(bench, (BACK_IN, 0), &sent, expected);
    drop(waiting);
    verdict
}

/// What comes for a flow that has a socket goes to that socket.
fn alive(bench: &Bench) -> Vec<Verdict> {
    bench.set_up();
    bench.own(false);
    let _ends = connect(SHOP);
    let flow = flow(PORT, SHOP);
    let mut met = Vec::new();
    let first = request(&flow, "/");
    for segment in [
        first.clone(),
        client(&flow, 9, 9, ACK),
        client(&flow, 9, 9, RST),
    ] {
        let (verdict, out) = meet(bench, (IN, 0), &segment, passes(Action::Pass));
        assert_eq!(out, segment.frame());
        met.push(verdict);
    }
    let (verdict, out) = meet(bench, (IN, 0), &syn(&flow), passes(Action::Challenge));
    assert_eq!(out, syn(&flow).frame());
    met.push(verdict);
    // What the daemon gives to this node, once the server's socket is there.
    known(&first, stage::HERE, OWN)(bench);
    let in_mark = (IN, ADOPT_HERE);
    meet(bench, in_mark, &first, passes(Action::HandoverIn));
    // Another node's segments: what the socket has not had yet. Half of all numbers are beyond what it expects.
    for kind in [Kind::First, Kind::Later] {
        let mut taken = 0;
        for quarter in 0..4u32 {
            let segment = Tcp {
                seq: quarter << 30,
                to: LO_MAC,
                from: PEER_MAC,
                ..first.clone()
            };
            let before = bench.stats();
            let (code, out) = bench.run(BACK_IN, &sent_here(&segment, kind).frame());
            match grown("a later segment", &before, &bench.stats()) {
                Verdict::Done(Action::HandoverIn) => {
                    assert_eq!(code, UNSPEC);
                    same("what the server is shown", &out, &segment.frame());
                    taken += 1;
                }
                other => assert_eq!((other, code), drops(DropReason::DuplicateHandover)),
            }
        }
        assert_eq!(taken, 2, "segments that the socket has not had, of four");
    }
    met.push(Verdict::Done(Action::HandoverIn));
    met
}

/// A socket of an older connection, which its client has forgotten, is in the way of a request.
fn in_the_way(bench: &Bench) -> Vec<Verdict> {
    bench.set_up();
    let _ends = connect(SHOP);
    let older = flow(PORT, SHOP);
    known(&fresh_request(), stage::HERE, OWN)(bench);
    let first = request(&older, "/here");
    let mut other = record(&first, stage::OPEN, OWN);
    other.server_isn = dts_core::seq::Seq(1);
    bench.filter.set_adoption(&older, &other).expect("a record");
    // To the VIP's address, so that the copy, which nobody deals with here, doesn't count for the socket.
    let sent = Tcp {
        to: VIP_MAC,
        ..sent_here(&first, Kind::First)
    };
    let expected = passes(Action::StaleReset);
    let (stale, out) = meet(bench, (IN, ADOPT_FRAME), &sent, expected);
    let expected = u32::from_be_bytes(
        out[ETH + optioned_ip_len() + 4..ETH + optioned_ip_len() + 8]
            .try_into()
            .expect("four"),
    );
    let reset = Tcp {
        seq: expected,
        ack: 0,
        flags: RST,
        options: vec![],
        payload: vec![],
        ..sent.clone()
    };
    same("the reset for the old socket", &out, &reset.frame());
    // The socket doesn't go away: after 32 rounds that is that.
    let rounds = (IN, ADOPT_FRAME + 32);
    let (never, _) = meet(bench, rounds, &sent, drops(DropReason::NotAdopted));
    // The same frame, sent again when its connection is over: for its sake no socket goes.
    let had = Adoption {
        print: super::clients::fingerprint(&older),
        ..record(&first, stage::HERE, OWN)
    };
    bench.filter.set_adoption(&older, &had).expect("a record");
    let spoken = server(&older, first.ack, first.seq, ACK);
    meet(bench, (OUT, 0), &spoken, passes(Action::Pass));
    bench.filter.set_adoption(&older, &other).expect("a record");
    let expected = drops(DropReason::DuplicateRequest);
    meet(bench, (IN, ADOPT_FRAME), &sent, expected);
    vec![stale, never]
}

/// The target's kernel makes no sockets of segments; the inspector's has one for the flow already.
fn to_inspector(bench: &Bench) -> Verdict {
    bench.set_up();
    bench.clear();
    let _ends = connect(SHOP_INSPECTOR);
    let flow = flow(PORT, SHOP);
    let first = request(&flow, "/other");
    known(&first, stage::SENT, OTHER)(bench);
    let came = sent_here(&first, Kind::Unable);
    let expected = passes(Action::ToInspector);
    let (verdict, out) = meet(bench, (BACK_IN, 0), &came, expected);
    let shown = Tcp {
        dst: (VIP, SHOP_INSPECTOR),
        ip_options: vec![],
        ..came
    };
    same("what the inspector is shown", &out, &shown.frame());
    assert_eq!(bench.connections(), 1);
    // From now on the service may have connections of both ways: entries say which.
    let next = rest(&first, b"more");
    let (_, out) = meet(bench, (IN, 0), &next, expected);
    let shown = Tcp {
        dst: (VIP, SHOP_INSPECTOR),
        ..next
    };
    same("what the inspector is shown next", &out, &shown.frame());
    // The daemon sends what it has by its own raw socket.
    let (_, out) = meet(bench, (IN, ADOPT_HERE), &first, expected);
    let again = Tcp {
        dst: (VIP, SHOP_INSPECTOR),
        ..first
    };
    same("what the daemon gives the inspector", &out, &again.frame());
    bench.clear();
    verdict
}

/// A SYN that may follow a connection in TIME_WAIT here.
fn time_wait(bench: &Bench) -> Vec<Verdict> {
    let client_port = PORT + 2;
    let flow = flow(client_port, SHOP);
    // The reset that removes the socket is a copy that arrives at `lo`, with an address of this host's as its source.
    std::fs::write("/proc/sys/net/ipv4/conf/lo/accept_local", "1").expect("a setting");
    std::fs::write("/proc/sys/net/ipv4/conf/all/accept_local", "1").expect("a setting");
    let _server = leave_time_wait(client_port, SHOP);
    // The client's sequence numbers are its kernel's: two of four around the circle may follow. No timestamps, or the
    // clock alone would do.
    let segments = [0, 1, 2, 3].map(|quarter: u32| Tcp {
        to: LO_MAC,
        seq: quarter << 30,
        ..client(&flow, 0, 0, dts_core::segment::SYN)
    });
    bench.set_up();
    bench.own(false);
    let mut may_follow = Vec::new();
    for segment in &segments {
        let before = bench.stats();
        let (code, out) = bench.run(IN, &segment.frame());
        let verdict = grown("another's SYN", &before, &bench.stats());
        if verdict == Verdict::Done(Action::Challenge) {
            assert_eq!((code, out), (UNSPEC, segment.frame()));
            continue;
        }
        assert_eq!((verdict, code), passes(Action::TimeWaitKilled));
        let seq = u32::from_be_bytes(
            out[ETH + ip_len() + 4..ETH + ip_len() + 8]
                .try_into()
                .expect("four"),
        );
        let reset = Tcp {
            seq,
            flags: RST,
            ..segment.clone()
        };
        same("the reset", &out, &reset.frame());
        may_follow.push(segment);
    }
    assert_eq!(may_follow.len(), 2, "SYNs that may follow, of four");
    bench.own(true);
    let (waits, table) = in_time_wait(client_port);
    assert!(waits, "nobody has killed it yet:\n{table}");
    let answered = (Verdict::Done(Action::SynAnswered), REDIRECT);
    let (verdict, out) = meet(bench, (IN, 0), may_follow[0], answered);
    assert_eq!(out[..12], [CLIENT_MAC, FRONT_MAC].concat());
    // The ends of the SYN-ACK, and what it acknowledges. `opening` has the rest.
    let l4 = ETH + ip_len();
    let acknowledged = u32::from_be_bytes(out[l4 + 8..l4 + 12].try_into().expect("four"));
    assert_eq!(acknowledged, may_follow[0].seq.wrapping_add(1));
    assert_eq!(flow_of(may_follow[0]), flow);
    let end = Instant::now() + Duration::from_secs(5);
    while in_time_wait(client_port).0 {
        assert!(Instant::now() < end, "the socket in TIME_WAIT stays");
        thread::sleep(Duration::from_millis(5));
    }
    vec![
        verdict,
        Verdict::Done(Action::Challenge),
        Verdict::Done(Action::TimeWaitKilled),
    ]
}
