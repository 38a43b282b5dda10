//! Rows of the network between the nodes.

use dts_core::entry::{flag, role, state};
use dts_core::handover::{
    AGREED, AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS, HandoverEnds, HandoverOption,
    OptionRoom,
};
use dts_core::segment::{ACK, CWR, ECE, FIN, REQUEST_END_BIT, RST, SYN};
use dts_core::seq::Seq;
use dts_core::verdict::{Action, DropReason};

use super::{
    OWN_PORT, Out, PEER_PORT, REQUEST_END, Row, answered_client, answered_server, begun, direct,
    frame, frozen, handing, handover, inspected, outgoing, placed, sack, same_as, to, web,
};
use crate::bench::{
    BACK_MAC, Bench, DATA, KEY, OWN, PEER, PEER_MAC, REDIRECT, STRANGER, VIP, W, WEB, X, Y, client,
    flow, handover_syn, now, option, own, peer, released, server, syn, timestamps,
};
use crate::frame::{ETH, Ip, Tcp, fragment};
use crate::world::{addr, back_ip_len};

mod inspecting;
mod target;

const IN: &str = "back_ingress";
const OUT: &str = "back_egress";

pub(super) fn rows() -> Vec<Row> {
    [untouched(), target::rows(), inspecting::rows()]
        .into_iter()
        .flatten()
        .collect()
}

fn nothing(_: &Bench) {}

fn untouched() -> Vec<Row> {
    let elsewhere = |port| Tcp {
        dst: (OWN, port),
        ..peer(22, PEER, 1, 1, ACK)
    };
    let udp = Ip {
        to: BACK_MAC,
        from: PEER_MAC,
        src: PEER,
        dst: OWN,
        options: vec![],
        protocol: 17,
        fragment: 0,
        payload: vec![0; 20],
    };
    let other = || same_as(Action::Other);
    let to_vip = client(&web(), X, 0, SYN);
    vec![
        Row::done(
            "TCP to another port",
            IN,
            frame(elsewhere(22)),
            nothing,
            other(),
        ),
        Row::done(
            "TCP to another's port",
            OUT,
            frame(elsewhere(22).reversed()),
            nothing,
            other(),
        ),
        Row::done("UDP", IN, udp.frame(), nothing, other()),
        Row::done(
            "a client's SYN that nobody released",
            IN,
            frame(to_vip),
            nothing,
            other(),
        ),
        Row::done(
            "an answer to a handover that was given up",
            IN,
            frame(own(OWN_PORT, 1, 1, ACK).reversed()),
            nothing,
            other(),
        ),
    ]
}
