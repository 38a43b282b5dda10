//! Frames of connections that are adopted, with the marks that programs and daemon leave.

use dts_core::entry::adoption::{Adoption, stage};
use dts_core::handover::adoption::Kind;
use dts_core::segment::{CWR, ECE};

use super::frames::{near, some_flags, some_options, with_ip_options};
use super::*;
use crate::adopting::{
    LO_MAC, LOST, OTHER, TERMS, answering, cookie_of, option_to, record, unix_ms,
};

/// Stages of the flows' connections, and who has them.
const KNOWN: [(u32, [u8; 4]); 9] = [
    (stage::UNDECIDED, [0; 4]),
    (stage::SENT, PEER),
    (stage::SENT, OTHER),
    (stage::SENT, LOST),
    (stage::SENT, STRANGER),
    (stage::HERE, OWN),
    (stage::OPEN, OWN),
    (stage::REJECTED, [0; 4]),
    (stage::BY_SOCKET, PEER),
];

/// Gives the flows records in every stage; one of ten has none.
pub(super) fn populate(bench: &Bench) {
    for i in 0..FLOWS {
        let Some((stage, target)) = KNOWN.get(usize::from(i) % 10) else {
            continue;
        };
        let flow = nth_at_shop(i);
        let first = answering(&flow, &cookie_of(&flow, &TERMS, 0), b"G");
        let age = if i % 3 == 0 { 1000 } else { 0 };
        let known = Adoption {
            since: (unix_ms() as u32).wrapping_sub(age),
            ..record(&first, *stage, *target)
        };
        bench.filter.set_adoption(&flow, &known).expect("a record");
    }
}

fn nth_at_shop(i: u16) -> FlowKey {
    flow(FIRST_PORT + i, SHOP)
}

/// A frame for a program, and its mark.
pub(super) fn any_frame(rng: &mut fastrand::Rng) -> (&'static str, u32, Vec<u8>) {
    let flow = nth_at_shop(rng.u16(..FLOWS));
    match rng.u8(0..16) {
        0 => ("front_ingress", 0, any_syn(rng, &flow).frame()),
        1..6 => ("front_ingress", 0, segment(rng, &flow).frame()),
        6 | 7 => ("front_ingress", ADOPT_HERE, segment(rng, &flow).frame()),
        8 => {
            let isn = cookie_of(&flow, &TERMS, 0).isn.0;
            let (seq, ack) = (near(rng, isn), near(rng, X));
            let flags = some_flags(rng);
            let segment = server(&flow, seq, ack, flags);
            ("front_egress", 0, segment.frame())
        }
        9 => {
            let mark = ADOPT_FRAME + rng.u32(0..40);
            ("front_ingress", mark, adoption(rng, &flow).frame())
        }
        10..14 => ("back_ingress", 0, adoption(rng, &flow).frame()),
        _ => ("back_egress", SEND_ON, segment(rng, &flow).frame()),
    }
}

fn any_syn(rng: &mut fastrand::Rng, flow: &FlowKey) -> Tcp {
    let ecn = if rng.bool() { ECE | CWR } else { 0 };
    let options = if rng.bool() {
        syn(flow).options
    } else {
        some_options(rng)
    };
    let syn = Tcp {
        seq: near(rng, X),
        flags: SYN | ecn,
        options,
        ..syn(flow)
    };
    with_ip_options(rng, syn)
}

/// A client's segment: with a cookie that is right, mostly.
fn segment(rng: &mut fastrand::Rng, flow: &FlowKey) -> Tcp {
    let terms = dts_core::cookie::Terms {
        agreed: *rng.choice(&[TERMS.agreed, 0]).expect("some"),
        ..TERMS
    };
    let terms = if rng.u8(..) < 40 { terms } else { TERMS };
    let cookie = cookie_of(flow, &terms, rng.u64(0..4).saturating_sub(1));
    let mut segment = answering(flow, &cookie, &request(rng));
    match rng.u8(0..12) {
        0 => segment.ack = near(rng, segment.ack),
        1 | 2 => segment.seq = near(rng, X),
        3 => segment.payload.clear(),
        4 => segment.flags = some_flags(rng),
        5 => segment.flags |= FIN,
        6 => {
            segment.payload.clear();
            segment.flags = FIN | ACK;
        }
        _ => {}
    }
    with_ip_options(rng, segment)
}

fn request(rng: &mut fastrand::Rng) -> Vec<u8> {
    let paths = ["/", "/here", "/other", "/lost/a", "/key/a?b=c", "/ask/a"];
    let path = rng.choice(&paths).expect("some");
    let line = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    match rng.u8(0..5) {
        0 => line[..rng.usize(..line.len())].to_vec(),
        1 => vec![rng.u8(..); rng.usize(1..1400)],
        _ => line,
    }
}

/// A segment as another node sends it: with a tag that is right, mostly.
fn adoption(rng: &mut fastrand::Rng, flow: &FlowKey) -> Tcp {
    let segment = segment(rng, flow);
    let kinds = [Kind::First, Kind::Later, Kind::Refused, Kind::Unable];
    let kind = *rng.choice(&kinds).expect("some");
    let (key, ago) = match rng.u8(0..12) {
        0 => ([0; 16], 0),
        1 => (KEY, rng.u32(..256)),
        _ => (KEY, 0),
    };
    let dst = match rng.u8(0..16) {
        0 => (
            VIP,
            *rng.choice(&[WEB, MAIL, INSPECTOR, 443]).expect("some"),
        ),
        _ => segment.dst,
    };
    let segment = Tcp { dst, ..segment };
    let target = match kind {
        Kind::Refused | Kind::Unable => *rng.choice(&[OTHER, PEER]).expect("some"),
        _ if rng.u8(..) < 10 => OTHER,
        _ => OWN,
    };
    let mut ip_options = option_to(target, &segment, kind, (key, ago));
    ip_options.extend(&segment.ip_options);
    ip_options.truncate(40);
    Tcp {
        to: if rng.u8(..) < 20 { BACK_MAC } else { LO_MAC },
        from: PEER_MAC,
        ip_options,
        ..segment
    }
}
