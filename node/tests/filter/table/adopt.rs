//! Rows of services whose connections are adopted.
//!
//! Each row has a flow of its own: what the filter knows of a connection, and that a server has had it, is not
//! forgotten between rows.

use std::sync::atomic::{AtomicU16, Ordering};

use dts_core::addr::FlowKey;
use dts_core::entry::adoption::{Adoption, asks, rules, stage};
use dts_core::entry::{ServiceEntry, service_kind};
use dts_core::handover::adoption::Kind;
use dts_core::verdict::{Action, DropReason, Verdict};
use dts_node::kernel::filter::adopt::read_inquiry;

use super::{Out, Row, frame, grown, same, same_as, to};
use crate::adopting::{
    ADOPT_FRAME, ADOPT_HERE, COOKIE_KEY, LO_MAC, LOST, OTHER, OTHER_MAC, SET_PEER, SHOP,
    SHOP_INSPECTOR, TERMS, answering, cookie_of, option_bytes, option_of, read_option, record,
    request, sent_here, services, slot, unix_ms,
};
use crate::bench::{
    BACK_MAC, Bench, CLIENT_MAC, DATA, FRONT_MAC, KEY, OWN, PEER, PEER_MAC, STRANGER, UNSPEC,
    VIP_MAC, WEB, X, client, flow, server, service, syn, timestamps,
};
use crate::frame::{ETH, Mac, Tcp, fragment, mend};
use crate::world::{addr, ip_len, optioned_ip_len};

mod arrivals;
mod changed;
mod clients;
mod opening;
mod real;

pub(super) use real::check as sockets;

const IN: &str = "front_ingress";
const OUT: &str = "front_egress";
const BACK_IN: &str = "back_ingress";
const BACK_OUT: &str = "back_egress";

pub(super) fn rows() -> Vec<Row> {
    [
        opening::rows(),
        clients::rows(),
        changed::rows(),
        arrivals::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn nothing(_: &Bench) {}

/// A flow that no other row has.
fn fresh() -> FlowKey {
    static NEXT: AtomicU16 = AtomicU16::new(45_000);
    flow(NEXT.fetch_add(1, Ordering::Relaxed), SHOP)
}

/// A request of a flow that no other row has, for something that another node has.
fn fresh_request() -> Tcp {
    request(&fresh(), "/other")
}

/// What comes after a request of `first`'s length.
fn rest(first: &Tcp, payload: &[u8]) -> Tcp {
    Tcp {
        seq: first.seq.wrapping_add(first.payload.len() as u32),
        payload: payload.to_vec(),
        ..first.clone()
    }
}

/// The row's node knows of the connection that begins with `first`, which is in this stage.
fn known(first: &Tcp, stage: u32, target: [u8; 4]) -> impl Fn(&Bench) + use<> {
    let flow = crate::adopting::flow_of(first);
    let record = record(first, stage, target);
    move |bench| {
        // Just now: the filter's clock may be a tick behind.
        let since = unix_ms() as u32;
        let record = Adoption { since, ..record };
        bench.filter.set_adoption(&flow, &record).expect("a record");
    }
}

/// Makes the service's entry another one.
fn change_service(bench: &Bench, change: impl Fn(&mut ServiceEntry)) {
    let [(key, mut entry), inspector] = services();
    change(&mut entry);
    let all = [
        (key, entry),
        inspector,
        service(WEB, service_kind::L7, 7, 8081),
    ];
    bench.filter.set_services(&all).expect("services");
}

/// What the filter knows of a segment's flow.
fn learned(bench: &Bench, segment: &Tcp) -> Option<Adoption> {
    let flow = crate::adopting::flow_of(segment);
    bench.filter.adoption(&flow).expect("records")
}

/// The segment goes on to a node, with this option.
fn sent_on(segment: &Tcp, kind: Kind, mac: Mac) -> (Action, Out) {
    let segment = segment.clone();
    let check = move |out: &[u8]| is_adoption(out, &segment, kind, (mac, BACK_MAC));
    (Action::SentOn, Out::Passes(Box::new(check)))
}

/// The frame is the segment with an option of this kind and link-layer addresses to and from.
fn is_adoption(out: &[u8], segment: &Tcp, kind: Kind, (to, from): (Mac, Mac)) {
    let target = match kind {
        Kind::Refused | Kind::Unable => OWN,
        _ if to == OTHER_MAC => OTHER,
        _ => PEER,
    };
    let says = read_option(out, segment, target).expect("an option that is right");
    assert_eq!((says.kind, says.announced_scale), (kind, 7));
    assert_eq!(says.terms, TERMS);
    let expected = Tcp {
        to,
        from,
        ip_options: [
            &option_bytes(out).expect("an option")[..],
            &segment.ip_options,
        ]
        .concat(),
        ..segment.clone()
    };
    same("an adoption", out, &frame(expected));
}

/// A segment of the filter's own to the client of `from`, whose IP header it keeps.
fn to_client(from: &Tcp, seq: u32, ack: u32, flags: u8) -> Tcp {
    Tcp {
        to: CLIENT_MAC,
        from: FRONT_MAC,
        seq,
        ack,
        flags,
        window: 0,
        options: vec![],
        payload: vec![],
        ..from.reversed()
    }
}

/// The daemon was given exactly this segment, in records of 2048 bytes of data.
fn was_inquired(bench: &Bench, segment: &Tcp, first: &Tcp, asks: u8) {
    let (mut data, mut seq) = (Vec::new(), segment.seq);
    let records = bench.take_requests();
    assert_eq!(records.len(), segment.payload.len().div_ceil(2048).max(1));
    for (left, bytes) in (0..records.len()).rev().zip(&records) {
        let (head, part) = read_inquiry(bytes).expect("a whole record");
        let fin = u8::from(left > 0) * dts_core::segment::FIN;
        assert_eq!(head.flow, crate::adopting::flow_of(segment));
        assert_eq!(head.client_isn.0, first.seq.wrapping_sub(1));
        assert_eq!(head.server_isn.0, first.ack.wrapping_sub(1));
        assert_eq!((head.seq.0, head.flags), (seq, segment.flags & !fin));
        assert_eq!((head.window, head.mac), (segment.window, segment.from));
        assert_eq!((head.terms, head.asks), (TERMS.pack(), asks));
        assert_eq!(timestamps(head.tsval, head.tsecr), segment.options);
        assert!(left == 0 || part.len() == 2048, "only the last is short");
        data.extend_from_slice(part);
        seq = seq.wrapping_add(part.len() as u32);
    }
    assert_eq!(data, segment.payload);
}
