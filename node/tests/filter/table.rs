//! One row per verdict, at least: what the node has, the frame that comes, the counter that grows, the
//! frame that goes on. Expected frames are written from the headers' definitions, checksums included,
//! and compared byte by byte.

mod adopt;
mod back;
mod front;
mod greeting;
mod sockets;

use std::collections::HashSet;

use dts_core::addr::FlowKey;
use dts_core::entry::{ConnEntry, Handover, flag, state};
use dts_core::seq::Seq;
use dts_core::verdict::{Action, COUNTERS, DropReason, Verdict};

use crate::bench::{Bench, PEER, REDIRECT, SHOT, UNSPEC, W, WEB, X, Y, flow};
use crate::frame::{Sums, Tcp, checksums};
use crate::world::{WORLDS, World};

/// Looks at the frame that goes on.
type Check = Box<dyn Fn(&[u8])>;

/// What has become of the frame.
enum Out {
    /// It was dropped: nobody will look at it.
    Dropped,
    /// It is as it was.
    Same,
    /// It is this one.
    Frame(Vec<u8>),
    /// It passes a test of its own, because there is a time in it.
    Passes(Check),
}

/// One case.
struct Row {
    name: &'static str,
    given: Box<dyn Fn(&Bench)>,
    program: &'static str,
    mark: u32,
    frame: Vec<u8>,
    verdict: Verdict,
    code: i32,
    out: Out,
    then: Box<dyn Fn(&Bench)>,
    /// It is about what IPv6 doesn't have.
    v4_only: bool,
}

impl Row {
    /// A frame that is dropped.
    fn drop(
        name: &'static str,
        program: &'static str,
        frame: Vec<u8>,
        given: impl Fn(&Bench) + 'static,
        reason: DropReason,
    ) -> Self {
        Self {
            name,
            given: Box::new(given),
            program,
            mark: 0,
            frame,
            verdict: Verdict::Drop(reason),
            code: SHOT,
            out: Out::Dropped,
            then: Box::new(|_| {}),
            v4_only: false,
        }
    }

    /// A frame that goes on as `out`.
    fn done(
        name: &'static str,
        program: &'static str,
        frame: Vec<u8>,
        given: impl Fn(&Bench) + 'static,
        (action, out): (Action, Out),
    ) -> Self {
        let code = match action {
            Action::Direct
            | Action::ResetBoth
            | Action::ToPeer
            | Action::HandoverSyn
            | Action::HandoverIn
            | Action::Answered
            | Action::Released
            | Action::ReleaseIn
            | Action::OrphanReset
            | Action::StaleReset
            | Action::SynAnswered
            | Action::FinAnswered
            | Action::SentOn
            | Action::Refused
            | Action::ResetClient
            | Action::NeighbourReply
            | Action::AtomicFragment
            | Action::ArpReply => REDIRECT,
            Action::HandoverAck | Action::Inquired => SHOT,
            _ => UNSPEC,
        };
        Self {
            verdict: Verdict::Done(action),
            code,
            out,
            ..Self::drop(name, program, frame, given, DropReason::NoRing)
        }
    }

    /// What must be so afterwards.
    fn then(self, then: impl Fn(&Bench) + 'static) -> Self {
        let then = Box::new(then);
        Self { then, ..self }
    }

    /// Only where all is IPv4.
    fn v4_only(self) -> Self {
        Self {
            v4_only: true,
            ..self
        }
    }

    /// The mark that the frame carries.
    fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    /// What the program returns, where that is not what it returns for this verdict mostly.
    fn code(self, code: i32) -> Self {
        Self { code, ..self }
    }

    fn check(&self, bench: &Bench) -> Verdict {
        let Self { name, program, .. } = self;
        bench.set_up();
        bench.clear();
        bench.take_requests();
        (self.given)(bench);
        let before = bench.stats();
        let ran = bench.filter.run_marked(program, self.mark, &self.frame);
        let (code, out) = ran.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let verdict = grown(name, &before, &bench.stats());
        assert_eq!(verdict, self.verdict, "{name}: verdict");
        assert_eq!(code, self.code, "{name}: code");
        match &self.out {
            Out::Dropped => {}
            Out::Same => same(name, &out, &self.frame),
            Out::Frame(expected) => same(name, &out, expected),
            Out::Passes(check) => check(&out),
        }
        (self.then)(bench);
        verdict
    }
}

/// The one counter that has grown, by one.
fn grown(name: &str, before: &[(Verdict, u64)], after: &[(Verdict, u64)]) -> Verdict {
    let changed: Vec<_> = before
        .iter()
        .zip(after)
        .filter(|((_, old), (_, new))| old != new)
        .map(|((verdict, old), (_, new))| (*verdict, new - old))
        .collect();
    match changed[..] {
        [(verdict, 1)] => verdict,
        _ => panic!("{name}: counters that grew: {changed:?}"),
    }
}

fn same(name: &str, out: &[u8], expected: &[u8]) {
    assert_eq!(
        hex::encode(out),
        hex::encode(expected),
        "{name}: the frame that goes on (left) and the one that should"
    );
}

#[test]
fn every_verdict_is_met_and_does_what_it_says() {
    let mut met = HashSet::new();
    for world in WORLDS {
        println!("{world:?}");
        world.enter();
        // Eight entries: a row can fill the table.
        let bench = Bench::new(8);
        // Made when their turn comes: cookies grow old.
        let rows = [front::rows, back::rows, greeting::rows, adopt::rows];
        for row in rows.into_iter().flat_map(|rows| rows()) {
            if row.v4_only && world != World::default() {
                continue;
            }
            met.insert(row.check(&bench));
        }
        met.extend(sockets::check(&bench));
        met.extend(adopt::sockets(&bench));
    }
    // BPF_PROG_TEST_RUN runs a program beside the interfaces, and `bpf_sk_assign_tcp_reqsk` takes packets that are at an
    // interface's ingress only (else -EINVAL). Sockets are made in `cli/tests/handover`.
    // A request that moves takes a socket that was adopted: `cli/tests/handover/requests.rs`.
    met.insert(Verdict::Done(Action::MovedOn));
    met.insert(Verdict::Done(Action::Adopted));
    let missing: Vec<_> = (0..COUNTERS)
        .filter_map(Verdict::from_counter)
        .filter(|verdict| !met.contains(verdict))
        .collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

/// The flow of most rows.
fn web() -> FlowKey {
    flow(40_000, WEB)
}

/// The peer's port of the flow's handover to this node.
const PEER_PORT: u16 = 30_001;
/// This node's port of the flow's handover to the peer.
const OWN_PORT: u16 = 20_001;

/// y - w.
const DELTA: u32 = Y.wrapping_sub(W);
/// The difference of the clocks.
const TS_DELTA: u32 = 0x7654_3210;
/// The sequence number after the request: 100 bytes.
const REQUEST_END: u32 = X.wrapping_add(101);

/// The inspector has the flow.
fn inspected(bench: &Bench) {
    bench.inspecting(web(), answered_client);
}

fn answered_client(e: &mut ConnEntry) {
    e.flags |= flag::ANSWERED;
    e.server_isn = Seq(Y);
    e.server_tsval = 4000;
    e.announced_scale = 9;
}

/// The flow is being handed over from here, and the peer has answered.
fn frozen(bench: &Bench) {
    bench.inspecting(web(), |e| {
        answered_client(e);
        e.state = state::FROZEN;
        outgoing(e);
    });
    handover(bench, 0);
}

/// The flow is at the peer.
fn placed(bench: &Bench) {
    bench.inspecting(web(), |e| {
        answered_client(e);
        e.state = state::PLACED;
        outgoing(e);
    });
    handover(bench, 0);
}

/// Our kernel's handover connection began 1000 before x.
fn outgoing(e: &mut ConnEntry) {
    // Our kernel has sent the whole request.
    e.request_end = Seq(REQUEST_END);
    e.peer_port = OWN_PORT;
    e.seq_delta = 1000;
    e.ts_delta = 8888;
}

fn handover(bench: &Bench, flags: u32) {
    let handover = Handover {
        flow: web(),
        target: crate::world::addr(PEER),
        flags,
        request_len: 100,
        ..Handover::default()
    };
    bench.filter.set_handover(OWN_PORT, &handover);
}

/// A handover SYN of the flow has come, the server has not answered yet.
fn begun(bench: &Bench) {
    bench.processing(web(), PEER_PORT, |_| {});
}

/// The flow is being handed to this node, whose server has answered.
fn handing(bench: &Bench) {
    bench.processing(web(), PEER_PORT, answered_server);
}

/// The server has the flow for itself.
fn direct(bench: &Bench) {
    bench.processing(web(), PEER_PORT, |e| {
        answered_server(e);
        e.state = state::DIRECT;
    });
}

fn answered_server(e: &mut ConnEntry) {
    e.flags |= flag::ANSWERED | flag::REQUEST_END;
    e.seq_delta = DELTA;
    e.ts_delta = TS_DELTA;
    e.own_scale = 6;
    e.request_end = Seq(REQUEST_END);
}

/// A segment's frame, made sure of its own checksums.
fn frame(segment: Tcp) -> Vec<u8> {
    let frame = segment.frame();
    assert_eq!(checksums(&frame), Sums::Right, "{segment:?}");
    frame
}

fn to(action: Action, segment: Tcp) -> (Action, Out) {
    (action, Out::Frame(frame(segment)))
}

fn same_as(action: Action) -> (Action, Out) {
    (action, Out::Same)
}

/// SACK blocks of the numbers given, aligned by two NOPs.
fn sack(edges: &[u32]) -> Vec<u8> {
    let mut b = vec![1, 1, 5, 2 + 4 * edges.len() as u8];
    b.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
    b
}
