use dts_core::addr::Addr;
use dts_core::handover::{HandoverEnds, OptionRoom};
use dts_core::seq::Seq;

use super::*;
use crate::capture::{TcpFlags, TcpOptions};

const X: u32 = u32::MAX - 10; // wraps within the request
const Y: u32 = 7000;
const W: u32 = 0x9000_0000;
const REQUEST: &[u8] = b"GET /n2/file HTTP/1.1\r\n\r\n";

const CLIENT: Place = Place::Client(1);
const N1: Place = Place::Node(1);
const N2: Place = Place::Node(2);

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client() -> SocketAddr {
    end("198.18.0.201:40000")
}

/// A segment as its sender's capture has it; times count up by themselves in [`capture`].
fn segment(sender: Place, network: Network, ends: [&str; 2], flags: &str) -> Segment {
    Segment {
        time: Duration::ZERO,
        place: sender,
        interface: network.interface().to_owned(),
        source_mac: sender.mac(network).unwrap(),
        destination_mac: [0; 6],
        source: end(ends[0]),
        destination: end(ends[1]),
        flags: TcpFlags {
            syn: flags.contains('S'),
            ack: flags.contains('.'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
            ..TcpFlags::default()
        },
        seq: 0,
        ack: 0,
        window: 0,
        urgent: 0,
        options: TcpOptions::default(),
        payload: Vec::new(),
    }
}

const TO_VIP: [&str; 2] = ["198.18.0.201:40000", "198.18.0.100:80"];
const TO_CLIENT: [&str; 2] = ["198.18.0.100:80", "198.18.0.201:40000"];
const TO_N2: [&str; 2] = ["198.18.1.11:50000", "198.18.1.12:7411"];
const TO_N1: [&str; 2] = ["198.18.1.12:7411", "198.18.1.11:50000"];

fn front(sender: Place, flags: &str, seq: u32, ack: u32, payload: &[u8]) -> Segment {
    let ends = if sender == CLIENT { TO_VIP } else { TO_CLIENT };
    Segment {
        seq,
        ack,
        payload: payload.to_vec(),
        ..segment(sender, Network::Front, ends, flags)
    }
}

fn back(sender: Place, flags: &str, seq: u32, ack: u32, payload: &[u8]) -> Segment {
    let ends = if sender == N1 { TO_N2 } else { TO_N1 };
    Segment {
        seq,
        ack,
        payload: payload.to_vec(),
        ..segment(sender, Network::Back, ends, flags)
    }
}

fn handover_syn_of(port: u16) -> Segment {
    handover_syn(Addr::v4([198, 18, 0, 201]), port)
}

fn handover_syn(client: Addr, port: u16) -> Segment {
    let option = HandoverOption {
        client,
        client_port: port,
        client_isn: Seq(X),
        server_isn: Seq(Y),
        service: 1,
        agreed: 0,
        client_scale: 0,
        announced_scale: 0,
        client_mss: 1460,
        client_tsval: 0,
        server_tsval: 0,
        made: 0,
    };
    let ends = HandoverEnds {
        from: Addr::v4([198, 18, 1, 11]),
        from_port: 50000,
        to: Addr::v4([198, 18, 1, 12]),
    };
    let mut room = OptionRoom::default();
    option.emit(&[0; 16], &ends, &mut room);
    let mut syn = back(N1, "S", X, Y, b"");
    syn.urgent = port;
    syn.options.raw = room.bytes.to_vec();
    syn
}

/// What the filter of `n2` hands to its stack, as the front capture there shows it.
fn handed_to_stack() -> Segment {
    Segment {
        source_mac: N1.mac(Network::Back).unwrap(),
        place: N2,
        ..front(CLIENT, ".", X + 1, W + 1, b"")
    }
}

fn handover() -> Vec<Segment> {
    let (x1, y1) = (X.wrapping_add(1), Y + 1);
    let request_end = x1.wrapping_add(REQUEST.len() as u32);
    let response_end = y1 + 3;
    let mut segments = vec![
        front(CLIENT, "S", X, 0, b""),
        front(N1, "S.", Y, x1, b""),
        front(CLIENT, ".", x1, y1, b""),
        front(CLIENT, ".", x1, y1, REQUEST),
        front(N1, ".", y1, request_end, b""),
        handover_syn_of(40000),
        back(N2, "S.", Y, x1, b""),
        back(N1, ".", x1, y1, b""),
        handed_to_stack(),
        back(N1, ".", x1, request_end, REQUEST),
        back(N2, "F.", y1, request_end, b""),
        front(N2, ".", y1, request_end, b"200"),
        front(CLIENT, ".", request_end, response_end, b""),
        front(CLIENT, "F.", request_end, response_end, b""),
        front(N2, "F.", response_end, request_end.wrapping_add(1), b""),
        front(
            CLIENT,
            ".",
            request_end.wrapping_add(1),
            response_end + 1,
            b"",
        ),
    ];
    for (number, segment) in segments.iter_mut().enumerate() {
        segment.time = Duration::from_millis(number as u64);
    }
    segments
}

#[test]
fn steps_in_order_whatever_the_order_of_the_captures() {
    let mut segments = handover();
    segments.reverse();
    // Received elsewhere: no rung of its own.
    let mut received = front(N2, ".", Y + 1, 0, b"200");
    received.place = CLIENT;
    segments.push(received);

    let ladder = Ladder::of(&segments, client()).unwrap();
    let steps: Vec<Step> = ladder.rungs.iter().map(|rung| rung.step).collect();
    assert_eq!(
        steps,
        [
            Step::Syn,
            Step::SynAck,
            Step::Ack,
            Step::Request,
            Step::RequestAck,
            Step::HandoverSyn,
            Step::HandoverSynAck,
            Step::HandoverAck,
            Step::HandoverRequest,
            Step::HandoverFin,
            Step::Response,
            Step::ResponseAck,
            Step::ClientFin,
            Step::ServerFin,
            Step::FinAck,
        ]
    );
    assert_eq!((ladder.inspecting, ladder.processing), (N1, N2));
    assert_eq!(
        (ladder.client_isn, ladder.server_isn, ladder.own_isn),
        (X, Y, W)
    );
    assert!(ladder.rungs.iter().all(|rung| !rung.again));
    assert_eq!(ladder.first(Step::Request).unwrap().to, Party::Inspecting);
    assert_eq!(ladder.first(Step::ClientFin).unwrap().to, Party::Processing);
}

/// The same address in the lab's IPv6.
fn as_ipv6(end: SocketAddr) -> SocketAddr {
    let place = [CLIENT, N1, N2]
        .into_iter()
        .flat_map(|place| Network::ALL.map(|network| (place, network)))
        .find(|(place, network)| place.address(*network).map(Into::into) == Some(end.ip()));
    let address = place.and_then(|(place, network)| place.address_v6(network));
    SocketAddr::new(address.unwrap_or(crate::spec::VIP_V6).into(), end.port())
}

#[test]
fn ipv6_makes_no_difference() {
    let mut segments = handover();
    let time = segments[5].time;
    segments[5] = Segment {
        time,
        ..handover_syn(Addr::from(as_ipv6(client()).ip()), 40000)
    };
    for segment in &mut segments {
        (segment.source, segment.destination) =
            (as_ipv6(segment.source), as_ipv6(segment.destination));
    }
    let v4 = Ladder::of(&handover(), client()).unwrap();
    let v6 = Ladder::of(&segments, as_ipv6(client())).unwrap();
    let steps = |ladder: &Ladder| -> Vec<_> {
        let rungs = ladder.rungs.iter();
        rungs.map(|rung| (rung.step, rung.from, rung.to)).collect()
    };
    assert_eq!(steps(&v6), steps(&v4));
    assert_eq!(v6.option.client, Addr::from(as_ipv6(client()).ip()));
    assert_eq!(v6.handover_to, end("[2001:db8:1::12]:7411"));
    assert_eq!(v6.service, end("[2001:db8::100]:80"));
}

#[test]
fn numbers_have_their_names() {
    let ladder = Ladder::of(&handover(), client()).unwrap();
    let names = |step| {
        let rung = ladder.first(step).unwrap();
        [
            ladder.seq_name(rung).to_string(),
            ladder.ack_name(rung).to_string(),
        ]
    };
    assert_eq!(names(Step::SynAck), ["y", "x+1"]);
    assert_eq!(names(Step::HandoverSyn), ["x", "y"]);
    assert_eq!(names(Step::HandoverSynAck), ["y", "x+1"]);
    let end = format!("x+{}", 1 + REQUEST.len());
    assert_eq!(names(Step::HandoverRequest), ["x+1", &end]);
    assert_eq!(names(Step::Response), ["y+1", &end]);
}

#[test]
fn what_is_sent_again_is_marked() {
    let mut segments = handover();
    let mut again = segments[11].clone();
    again.time = Duration::from_secs(1);
    segments.push(again);
    let ladder = Ladder::of(&segments, client()).unwrap();
    let marks: Vec<bool> = ladder.all(Step::Response).map(|rung| rung.again).collect();
    assert_eq!(marks, [false, true]);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let error = |change: fn(&mut Vec<Segment>)| {
        let mut segments = handover();
        change(&mut segments);
        Ladder::of(&segments, client()).unwrap_err()
    };
    let client = client();
    assert_eq!(error(|s| s.clear()), LadderError::NoSyn { client });
    let two = error(|s| {
        let mut second = s[1].clone();
        (second.place, second.source_mac) = (N2, N2.mac(Network::Front).unwrap());
        s.push(second);
    });
    let answered = vec![N1, N2];
    assert_eq!(two, LadderError::NotOneInspector { client, answered });
    // Another client's handover is not this one's.
    let other = error(|s| {
        let time = s[5].time;
        s[5] = handover_syn_of(40001);
        s[5].time = time;
    });
    assert_eq!(other, LadderError::NoHandover { client });
    let unanswered = error(|s| drop(s.remove(6)));
    assert_eq!(unanswered, LadderError::HandoverUnanswered { client });
    let processing = N2;
    let hidden = error(|s| drop(s.remove(8)));
    assert_eq!(hidden, LadderError::NoOwnIsn { client, processing });
    let stranger = error(|s| {
        (s[11].place, s[11].source_mac) =
            (Place::Node(3), Place::Node(3).mac(Network::Front).unwrap());
    });
    let place = Place::Node(3);
    assert_eq!(stranger, LadderError::Stranger { client, place });
}
