//! An adopting service, for all tests: its rules, and the frames that clients and other nodes send.

use crate::world::{World, addr};
use dts_core::addr::FlowKey;
use dts_core::cookie::{self, SynAck, Terms};
use dts_core::entry::adoption::{Adoption, NodeSet, Target, rules, ruling, stage};
use dts_core::entry::{ServiceEntry, ServiceKey, service_kind};
use dts_core::handover::adoption::{self as option, Covered, Kind};
use dts_core::handover::{AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS, release};
use dts_core::ring::{RingHash, RingPoint};
use dts_core::seq::Seq;
use dts_node::kernel::Filter;
use dts_node::kernel::filter::adopt::RuleTables;
use rustix::time::{ClockId, clock_gettime};

use crate::bench::{
    CLIENT_MAC, DATA, KEY, OWN, PEER, PEER_MAC, X, client, now, service, timestamps,
};
use crate::frame::{Mac, Tcp};

/// The adopting service.
pub(crate) const SHOP: u16 = 8443;
pub(crate) const SHOP_INSPECTOR: u16 = 8444;
pub(crate) const SHOP_ID: u16 = 8;

/// A second node that connections can be given to.
pub(crate) const OTHER: [u8; 4] = [198, 18, 1, 13];
pub(crate) const OTHER_MAC: Mac = [2, 0, 0, 0, 1, 0x13];
/// A node whose link address is not known.
pub(crate) const LOST: [u8; 4] = [198, 18, 1, 14];

/// The link address of `lo`: BPF_PROG_TEST_RUN has every frame come from there, and only what is sent to this address
/// is for the host.
pub(crate) const LO_MAC: Mac = [0; 6];

pub(crate) const COOKIE_KEY: [u8; 16] = *b"a cookies' key..";
const REQUEST_KEY: [u8; 16] = *b"a key of places.";

/// The marks that programs leave for each other: of a segment for this node's own server, and of an adoption frame.
pub(crate) const ADOPT_HERE: u32 = 0x4454_5303;
pub(crate) const ADOPT_FRAME: u32 = 0x4454_5400;

const TABLE: u32 = 1;
/// Sets of nodes, by number.
pub(crate) const SET_PEER: u32 = ruling::SET | 1;
pub(crate) const SET_OTHER: u32 = ruling::SET | 2;
const SET_LOST: u32 = ruling::SET | 3;

/// The default target is the peer, also for what has no server elsewhere.
pub(crate) fn services() -> [(ServiceKey, ServiceEntry); 2] {
    let (key, entry) = service(SHOP, service_kind::ADOPT, SHOP_ID, SHOP_INSPECTOR);
    let entry = ServiceEntry {
        rules: rules::LINE | rules::PATHS | rules::PREFIXES | rules::RESCUE,
        table: TABLE,
        default: SET_PEER,
        ..entry
    };
    let inspector = service(SHOP_INSPECTOR, service_kind::INSPECTOR, SHOP_ID, SHOP);
    [(key, entry), inspector]
}

/// Tells the filter all else that adoption takes. Every request's key is the other node's.
pub(crate) fn set_up(filter: &Filter) {
    let number = cookie::key_number(slot());
    filter
        .set_cookie_keys(&[(number, COOKIE_KEY), (number + 1, COOKIE_KEY)])
        .expect("keys");
    let target = |mac, reachable| Target { mac, reachable };
    filter
        .set_targets(&[
            (addr(PEER), target(PEER_MAC, 1)),
            (addr(OTHER), target(OTHER_MAC, 1)),
            (addr(LOST), target([0; 6], 0)),
        ])
        .expect("targets");
    let set = |nodes: &[[u8; 4]]| {
        let mut set = NodeSet {
            count: nodes.len() as u32,
            ..NodeSet::default()
        };
        for (place, node) in set.nodes.iter_mut().zip(nodes) {
            *place = addr(*node);
        }
        set
    };
    let text = |path: &str, ruling| (TABLE, path.to_owned(), ruling);
    filter
        .add_rules(&RuleTables {
            sets: vec![
                (1, set(&[PEER])),
                (2, set(&[OTHER])),
                (3, set(&[LOST, OTHER])),
            ],
            paths: vec![text("/here", ruling::LOCAL), text("/other", SET_OTHER)],
            prefixes: vec![
                text("/lost/", SET_LOST),
                text("/key/", ruling::KEY),
                text("/ask/", ruling::ASK),
            ],
            hosts: vec![],
        })
        .expect("rules");
    let hash = RingHash::SipHash { key: REQUEST_KEY }.into();
    let nodes = [OWN, OTHER].map(addr);
    filter
        .publish_requests(hash, &[RingPoint::new(5, 1)], &nodes)
        .expect("a ring");
    let spliced = filter.spliced().expect("a count");
    filter.forget_spliced(spliced).expect("a count");
}

/// The bench's Unix time in milliseconds: the monotonic clock's.
pub(crate) fn unix_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

pub(crate) fn slot() -> u64 {
    cookie::slot(unix_ms() / 1000)
}

/// What is agreed with a client that offers what Linux offers.
pub(crate) const TERMS: Terms = Terms {
    mss: 1460,
    agreed: AGREED_SACK | AGREED_TIMESTAMPS | AGREED_SCALE,
    client_scale: 7,
};

/// The cookie that a flow's SYN was answered with, `ago` slots ago.
pub(crate) fn cookie_of(flow: &FlowKey, terms: &Terms, ago: u64) -> SynAck {
    let client = (Seq(X), terms);
    cookie::make(&COOKIE_KEY, flow, client, slot() - ago, unix_ms() as u32)
}

/// The client's segment that answers a SYN-ACK, with data from the first byte on.
pub(crate) fn answering(flow: &FlowKey, syn_ack: &SynAck, payload: &[u8]) -> Tcp {
    let options = syn_ack.tsval.map(|value| timestamps(1010, value));
    Tcp {
        options: options.unwrap_or_default(),
        payload: payload.to_vec(),
        ..client(flow, X.wrapping_add(1), syn_ack.isn.0.wrapping_add(1), DATA)
    }
}

/// A request whose cookie is right.
pub(crate) fn request(flow: &FlowKey, path: &str) -> Tcp {
    let head = format!("GET {path} HTTP/1.1\r\n\r\n");
    answering(flow, &cookie_of(flow, &TERMS, 0), head.as_bytes())
}

/// The record of the connection that a segment with the first byte belongs to, in one stage.
pub(crate) fn record(first: &Tcp, stage: u32, target: [u8; 4]) -> Adoption {
    Adoption {
        client_isn: Seq(first.seq).minus(1),
        server_isn: Seq(first.ack).minus(1),
        stage,
        terms: TERMS.pack(),
        target: addr(target),
        since: unix_ms() as u32,
        ruling: if stage == stage::SENT { SET_OTHER } else { 0 },
        mac: CLIENT_MAC,
        ..Adoption::default()
    }
}

/// The option of a segment's adoption frame to this node, tagged with `key`, `ago` seconds ago.
pub(crate) fn option_of(segment: &Tcp, kind: Kind, key: [u8; 16], ago: u32) -> Vec<u8> {
    // What comes back is from the node that most records name.
    let target = match kind {
        Kind::Refused | Kind::Unable => OTHER,
        Kind::First | Kind::Next | Kind::Later => OWN,
    };
    option_to(target, segment, kind, (key, ago))
}

/// The option of a frame to another target, or from it.
pub(crate) fn option_to(
    target: [u8; 4],
    segment: &Tcp,
    kind: Kind,
    (key, ago): ([u8; 16], u32),
) -> Vec<u8> {
    let adoption = option::Adoption {
        kind,
        terms: TERMS,
        announced_scale: 7,
        track: 0,
        interval: 0,
    };
    let mut room = release::Room::default();
    let made = now().wrapping_sub(ago);
    option::emit(
        &key,
        &flow_of(segment),
        covered(segment, target),
        (&adoption, made),
        &mut room,
    );
    room.bytes.to_vec()
}

/// A client's segment as the peer sends it to this node.
pub(crate) fn sent_here(segment: &Tcp, kind: Kind) -> Tcp {
    Tcp {
        to: LO_MAC,
        from: PEER_MAC,
        ip_options: [option_of(segment, kind, KEY, 0), segment.ip_options.clone()].concat(),
        ..segment.clone()
    }
}

/// What an adoption frame's option, the first one, says, if it is one to this target, or from it; `segment` is the client's.
pub(crate) fn read_option(
    frame: &[u8],
    segment: &Tcp,
    target: [u8; 4],
) -> Option<option::Adoption> {
    let bytes = option_bytes(frame)?;
    let mut room = release::Room { bytes };
    let covered = covered(segment, target);
    option::verify(&KEY, &flow_of(segment), covered, now(), &mut room).ok()
}

/// A client's frame's first IP option, of sixteen bytes, as IPv4 has it.
pub(crate) fn option_bytes(frame: &[u8]) -> Option<[u8; 16]> {
    if !World::present().clients_v6 {
        return frame.get(34..50)?.try_into().ok();
    }
    if frame.get(54..58)? != [6, 2, 0x1e, 16] {
        return None;
    }
    frame.get(58..74)?.try_into().ok()
}

pub(crate) fn flow_of(segment: &Tcp) -> FlowKey {
    FlowKey {
        remote: addr(segment.src.0),
        local: addr(segment.dst.0),
        remote_port: segment.src.1,
        local_port: segment.dst.1,
    }
}

fn covered(segment: &Tcp, target: [u8; 4]) -> Covered {
    Covered {
        target: addr(target),
        seq: Seq(segment.seq),
        ack: Seq(segment.ack),
    }
}
