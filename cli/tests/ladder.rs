//! One handover on the wire, number by number, against the paper's sequence (DTS §2.2, Fig. 4).
//!
//! Needs root; fails without.

use std::net::{IpAddr, SocketAddr};

use dts_core::addr::Addr;
use dts_core::handover::{AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS};
use dts_core::seq::Seq;
use dts_lab::ladder::{Ladder, Party, Rung, Step, was_sent_here};
use dts_lab::{
    Capture, ClusterSpec, Counters, FileSet, LabGuard, LabSpec, Network, Place, Segment, VIP,
    sha256,
};

const CLIENT: Place = Place::Client(1);
/// The only node with points on the ring, so the one that inspects.
const INSPECTING: Place = Place::Node(1);
const OTHER: Place = Place::Node(2);
/// Many segments, also when the wire carries large ones.
const SIZE: u64 = 300_000;

/// A request, and everything that was seen of it.
struct Seen {
    segments: Vec<Segment>,
    ladder: Ladder,
    /// What the client received, head included.
    response: Vec<u8>,
    /// What each node's interfaces sent meanwhile: front and back of n1, front and back of n2.
    sent: [Counters; 4],
}

/// Fetches a file of `owner` in a lab of its own.
fn fetch(lab: &str, owner: Place) -> Seen {
    let name = format!("{lab}{}", std::process::id());
    let mut spec = LabSpec::new(name, 2, env!("CARGO_BIN_EXE_dts"));
    spec.nodes[1].inspect = Some(false);
    spec.cluster.services_toml = Some(ClusterSpec::services(2, "splice"));
    let lab = LabGuard::up(spec).expect("a lab (needs root)");
    let mut files = FileSet::new(1);
    files.add(format!("{owner}/file"), SIZE).unwrap();
    lab.publish(&[owner], &files).unwrap();
    let interfaces = || {
        let networks = [Network::Front, Network::Back];
        [INSPECTING, OTHER].map(|node| networks.map(|network| (node, network.interface())))
    };
    let counters = || -> Vec<Counters> {
        let read = |(node, interface)| lab.counters(node, interface).unwrap();
        interfaces().into_iter().flatten().map(read).collect()
    };
    let captures: Vec<Capture> = [(CLIENT, "eth0")]
        .into_iter()
        .chain(interfaces().into_iter().flatten())
        .map(|(place, interface)| lab.capture(place, interface, "tcp").unwrap())
        .collect();
    let before = counters();
    let file = lab.place_dir(CLIENT).join("response");
    let script = format!(
        "curl -sS --include --max-time 10 -o {} -w '%{{local_port}}' http://{VIP}/{owner}/file",
        file.display()
    );
    let port = lab.sh(CLIENT, &script).unwrap().parse().unwrap();
    let segments: Vec<Segment> = captures
        .into_iter()
        .flat_map(|capture| capture.stop().unwrap())
        .collect();
    let sent = std::array::from_fn(|i| counters()[i] - before[i]);

    let address = CLIENT.address(Network::Front).unwrap();
    let ladder = Ladder::of(&segments, SocketAddr::new(IpAddr::V4(address), port)).unwrap();
    let response = std::fs::read(file).unwrap();
    let body = &response[response.len() - SIZE as usize..];
    assert_eq!(sha256(body), files.files()[0].sha256);
    Seen {
        segments,
        ladder,
        response,
        sent,
    }
}

/// The only rung of a step.
fn only(ladder: &Ladder, step: Step) -> &Rung {
    let rungs: Vec<&Rung> = ladder.all(step).collect();
    assert_eq!(rungs.len(), 1, "{step:?}: {rungs:#?}");
    rungs[0]
}

#[test]
fn a_handover_to_another_node_is_the_papers_sequence() {
    let seen = fetch("ladder", OTHER);
    let ladder = &seen.ladder;
    assert_eq!((ladder.inspecting, ladder.processing), (INSPECTING, OTHER));
    let front = |place: Place| place.mac(Network::Front).unwrap();
    let back = |place: Place| place.mac(Network::Back).unwrap();
    assert_sequence(ladder);
    assert_numbers(ladder, &seen.response);
    assert_option(ladder);

    // Who sends what, by the frames' addresses.
    for rung in &ladder.rungs {
        let segment = &rung.segment;
        let on_back = segment.interface == Network::Back.interface();
        let place = [CLIENT, INSPECTING, OTHER][rung.from as usize];
        let own = if on_back { back(place) } else { front(place) };
        assert_eq!(segment.source_mac, own, "{rung:?}");
    }
    // The client's own segments are the only ones whose source is the client.
    let responses = seen
        .segments
        .iter()
        .filter(|s| s.place == CLIENT && s.source == ladder.service && !s.payload.is_empty());
    for segment in responses {
        assert_eq!(
            segment.source_mac,
            front(OTHER),
            "the answer came by way of another node"
        );
    }
    assert_inspecting_node_is_silent(&seen);
}

#[test]
fn a_handover_to_the_inspecting_node_is_the_same_sequence() {
    let seen = fetch("ladself", INSPECTING);
    let ladder = &seen.ladder;
    assert_eq!(
        (ladder.inspecting, ladder.processing),
        (INSPECTING, INSPECTING)
    );
    assert_sequence(ladder);
    assert_numbers(ladder, &seen.response);
    assert_option(ladder);
}

/// A line for each rung.
fn brief(ladder: &Ladder) -> String {
    let first = ladder.rungs[0].segment.time;
    let line = |rung: &Rung| {
        format!(
            "\n{:9.3} ms {:?} {} + {} B ack {}{}",
            (rung.segment.time - first).as_secs_f64() * 1e3,
            rung.step,
            ladder.seq_name(rung),
            rung.segment.payload.len(),
            ladder.ack_name(rung),
            if rung.again { ", again" } else { "" }
        )
    };
    ladder.rungs.iter().map(line).collect()
}

/// Every step happens once, in the paper's order; what the paper leaves out happens between them.
fn assert_sequence(ladder: &Ladder) {
    const BEFORE_TAKEOVER: [Step; 8] = [
        Step::Syn,
        Step::SynAck,
        Step::Ack,
        Step::Request,
        Step::HandoverSyn,
        Step::HandoverSynAck,
        Step::HandoverAck,
        Step::HandoverRequest,
    ];
    let steps: Vec<Step> = ladder
        .rungs
        .iter()
        .map(|rung| rung.step)
        .filter(|step| ![Step::RequestAck, Step::ResponseAck, Step::FinAck].contains(step))
        .collect();
    assert_eq!(steps[..8], BEFORE_TAKEOVER, "{steps:?}");
    // The FIN on the handover connection and the response's first segment may be the same segment of
    // the server's, so either is first.
    let after: Vec<Step> = steps[8..]
        .iter()
        .copied()
        .filter(|step| *step != Step::Response)
        .collect();
    assert_eq!(after, [Step::HandoverFin, Step::ClientFin, Step::ServerFin]);
    assert!(steps[8..].contains(&Step::Response));
    // Parts of the response may come again: on a busy machine the client's acknowledgment takes the
    // few milliseconds after which the server sends the tail once more (RFC 8985), and a server that
    // moves to another processor has its segments overtake each other. The handover has no excuse.
    let again = ladder
        .rungs
        .iter()
        .find(|rung| rung.again && rung.step != Step::Response);
    assert!(again.is_none(), "sent again:{}", brief(ladder));
}

/// Sequence and acknowledgment numbers of every step.
fn assert_numbers(ladder: &Ladder, response: &[u8]) {
    let segment = |step| &only(ladder, step).segment;
    let (x, y) = (segment(Step::Syn).seq, segment(Step::SynAck).seq);
    let (x1, y1) = (x.wrapping_add(1), y.wrapping_add(1));
    let request = segment(Step::Request);
    let request_end = x1.wrapping_add(request.payload.len() as u32);
    let response_end = y1.wrapping_add(response.len() as u32);
    let numbers = |step| (segment(step).seq, segment(step).ack);

    assert_eq!(numbers(Step::SynAck), (y, x1));
    assert_eq!(numbers(Step::Ack), (x1, y1));
    assert_eq!(numbers(Step::Request), (x1, y1));
    // The handover connection's SYN carries the client's number, and y in the field that a SYN
    // doesn't use.
    assert_eq!(numbers(Step::HandoverSyn), (x, y));
    assert!(!segment(Step::HandoverSyn).flags.ack);
    // Its answer carries the inspecting node's number, not the server's own.
    assert_eq!(numbers(Step::HandoverSynAck), (y, x1));
    assert_ne!(ladder.own_isn, y, "the same number twice by chance");
    assert_eq!(numbers(Step::HandoverAck), (x1, y1));
    // The same request, and where it ends.
    assert_eq!(numbers(Step::HandoverRequest), (x1, request_end));
    assert_eq!(segment(Step::HandoverRequest).payload, request.payload);
    // The processing node ends the handover connection when it has the request.
    assert_eq!(only(ladder, Step::HandoverFin).from, Party::Processing);
    assert_eq!(numbers(Step::HandoverFin), (y1, request_end));

    // The response goes on in the numbers that the client knows, without a gap.
    let mut next = y1;
    let mut bytes = Vec::new();
    for rung in ladder.all(Step::Response).filter(|rung| !rung.again) {
        assert_eq!((rung.from, rung.to), (Party::Processing, Party::Client));
        assert_eq!((rung.segment.seq, rung.segment.ack), (next, request_end));
        next = next.wrapping_add(rung.segment.payload.len() as u32);
        bytes.extend_from_slice(&rung.segment.payload);
    }
    assert_eq!(next, response_end);
    assert_eq!(bytes, response);

    // The client closes, then the server, as without DTS.
    assert_eq!(numbers(Step::ClientFin), (request_end, response_end));
    assert_eq!(
        numbers(Step::ServerFin),
        (response_end, request_end.wrapping_add(1))
    );
    assert_eq!(only(ladder, Step::ServerFin).from, Party::Processing);
    let last = ladder.rungs.last().unwrap();
    assert_eq!((last.step, last.from), (Step::FinAck, Party::Client));
    assert_eq!(last.segment.ack, response_end.wrapping_add(1));
}

/// The DTS option says what was agreed with the client, and only its SYN has one.
fn assert_option(ladder: &Ladder) {
    let segment = |step| &only(ladder, step).segment;
    let (syn, synack) = (segment(Step::Syn), segment(Step::SynAck));
    let option = &ladder.option;
    assert_eq!(option.client_isn, Seq(syn.seq));
    assert_eq!(option.server_isn, Seq(synack.seq));
    assert_eq!(option.client_port, ladder.client.port());
    let IpAddr::V4(address) = ladder.client.ip() else {
        panic!("the lab's client has IPv4");
    };
    assert_eq!(option.client, Addr::v4(address.octets()));
    assert_eq!(Some(option.client_mss), syn.options.mss);
    assert_eq!(Some(option.client_scale), syn.options.window_scale);
    assert_eq!(Some(option.announced_scale), synack.options.window_scale);
    let agreed = AGREED_TIMESTAMPS | AGREED_SACK | AGREED_SCALE;
    assert_eq!(option.agreed & agreed, agreed);

    for rung in &ladder.rungs {
        let options = &rung.segment.options;
        let is_handover_syn = rung.step == Step::HandoverSyn;
        assert_eq!(options.dts.is_some(), is_handover_syn, "{rung:?}");
        let to_or_from_client = [rung.from, rung.to].contains(&Party::Client);
        if to_or_from_client {
            assert!(options.timestamps.is_some(), "timestamps stay on: {rung:?}");
        }
    }
}

/// After the takeover, nothing comes from the inspecting node, and never a FIN or a reset; the answer
/// doesn't pass through it.
fn assert_inspecting_node_is_silent(seen: &Seen) {
    let ladder = &seen.ladder;
    let takeover = only(ladder, Step::HandoverFin).segment.time;
    let front = INSPECTING.mac(Network::Front).unwrap();
    let from_inspecting = |s: &&Segment| s.source_mac == front;
    for segment in seen.segments.iter().filter(from_inspecting) {
        assert!(!segment.flags.fin && !segment.flags.rst, "{segment:?}");
        assert!(segment.payload.is_empty(), "{segment:?}");
        assert!(segment.time < takeover, "{segment:?}");
    }
    let sent = |s: &&Segment| s.place == INSPECTING && was_sent_here(s);
    let payload: usize = seen
        .segments
        .iter()
        .filter(sent)
        .map(|s| s.payload.len())
        .sum();
    let request = only(ladder, Step::Request).segment.payload.len();
    assert_eq!(
        payload, request,
        "the inspecting node sends the request, once, and nothing else"
    );

    // The interfaces' own counters say the same.
    let [n1_front, n1_back, n2_front, n2_back] = seen.sent.map(|counters| counters.tx_bytes);
    assert!(n1_front + n1_back < 4096, "{:?}", seen.sent);
    assert!(n2_front > SIZE && n2_back < 4096, "{:?}", seen.sent);
}
