//! Rows of the clients' network.

use dts_core::entry::{flag, role, state};
use dts_core::ring::RingHashSpec;
use dts_core::segment::{ACK, FIN, RST, SYN};
use dts_core::seq::Seq;
use dts_core::verdict::{Action, DropReason};

use super::{
    DELTA, Out, PEER_PORT, REQUEST_END, Row, TS_DELTA, begun, direct, frame, frozen, handing,
    inspected, placed, sack, same_as, to, web,
};
use crate::bench::{
    BACK_MAC, Bench, CLIENT, CLIENT_MAC, DATA, FRONT_MAC, HANDOVER, INSPECTOR, KEY, MAIL, MOST,
    OWN, PEER, PEER_MAC, STRANGER, VIP, VIP_MAC, W, WEB, X, Y, client, flow, peer, released,
    server, syn, timestamps,
};
use crate::frame::{ETH, Ip, Tcp, arp, extended, fragment, icmp, mend, neighbour};
use crate::world::{World, addr, ip_len};

mod clients;
mod extensions;
mod neighbours;
mod servers;

const IN: &str = "front_ingress";
const OUT: &str = "front_egress";

/// The marks that the programs leave for each other.
const FROM_BACK: u32 = 0x4454_5301;
const TO_CLIENT: u32 = 0x4454_5302;

pub(super) fn rows() -> Vec<Row> {
    [
        clients::rows(),
        extensions::rows(),
        servers::rows(),
        neighbours::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn nothing(_: &Bench) {}

fn not_owner(bench: &Bench) {
    bench.own(false);
}

/// A packet of another protocol, or to somewhere else.
fn packet(dst: [u8; 4], protocol: u8, payload: Vec<u8>) -> Ip {
    Ip {
        to: VIP_MAC,
        from: CLIENT_MAC,
        src: CLIENT,
        dst,
        options: vec![],
        protocol,
        fragment: 0,
        payload,
    }
}
