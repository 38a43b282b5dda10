//! What the filter knows of connections before a frame comes: each made by frames as far as possible, and completed by hand
//! where the next frame would be a server's.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use dts_core::addr::{Addr, FlowKey};
use dts_core::cookie::Terms;
use dts_core::entry::{ConnEntry, ConnKey, Handover, flag, role, state};
use dts_core::handover::adoption::{self, Covered, Kind};
use dts_core::handover::{
    AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS, HandoverEnds, HandoverOption, OptionRoom, release,
};
use dts_core::segment::SYN;
use dts_core::seq::Seq;
use dts_core::verdict::{Action, Verdict};
use dts_lab::VIP;
use dts_node::config::service_id;

use super::rows::{LOOPBACK_MAC, handover_end};
use crate::packets::{DATA, Segment, X, Y, read_syn_ack, timestamps};
use crate::staged::{ADOPT, SPLICE, Staged, TAG_KEY, member, member_mac, unix};

/// The processing server's first sequence number.
const W: u32 = 0x1234_5678;
/// The difference of the nodes' clocks for timestamps.
const CLOCKS: u32 = 0x7654_3210;
/// The length of the spliced connections' requests.
const REQUEST: u32 = 100;
/// The first port of handover connections.
const PORTS: u16 = 2000;
const AGREED: u32 = AGREED_SACK | AGREED_TIMESTAMPS | AGREED_SCALE;

/// Requests that the filter hands over: it has answered their SYNs, and its cookies are in them.
pub(super) fn requests(staged: &Staged, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let flows = staged.flows(count, ADOPT, true)?;
    let frames = flows.iter().map(|flow| Ok(request(staged, flow)?.0));
    frames.collect()
}

/// The request of a connection whose SYN the filter answers, and the answer's sequence number and timestamp.
pub(crate) fn request(staged: &Staged, flow: &FlowKey) -> anyhow::Result<(Vec<u8>, (u32, u32))> {
    let answer = staged.once("front_ingress", &Segment::syn(flow).frame())?;
    let (cookie, tsval) = read_syn_ack(&answer.frame).context("the SYN was not answered")?;
    let segment = Segment {
        options: timestamps(1010, tsval),
        payload: b"GET /n2/1k HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ..Segment::of_client(flow, X + 1, cookie.wrapping_add(1), DATA)
    };
    Ok((segment.frame(), (cookie, tsval)))
}

/// Spliced connections of this node's server, in the middle.
pub(super) fn direct(staged: &Staged, count: usize) -> anyhow::Result<Vec<FlowKey>> {
    let flows = staged.flows(count, SPLICE, false)?;
    let syns = handover_syns(&flows, member(2), TAG_KEY);
    let accepted = Verdict::Done(Action::HandoverSyn);
    let ((), grown) = staged.counted(|| {
        for syn in &syns {
            staged.once("back_ingress", syn)?;
        }
        Ok(())
    })?;
    Staged::check("handover SYNs", &grown, (accepted, count as u64))?;
    for flow in &flows {
        change(staged, flow, role::PROCESSING, |entry| {
            entry.state = state::DIRECT;
            entry.flags |= flag::ANSWERED | flag::REQUEST_END;
            entry.seq_delta = Y.wrapping_sub(W);
            entry.ts_delta = CLOCKS;
            entry.own_scale = 6;
            entry.request_end = Seq(X.wrapping_add(REQUEST + 1));
        })?;
    }
    Ok(flows)
}

/// A client's data of a spliced connection, after the request.
pub(super) fn spliced_data(flow: &FlowKey) -> Segment {
    Segment {
        options: timestamps(1020, 5010),
        payload: vec![b'x'; 100],
        ..Segment::of_client(flow, X.wrapping_add(REQUEST + 1), Y + 1, DATA)
    }
}

/// The server's data of a spliced connection, as its kernel sends it.
pub(super) fn server_data(flow: &FlowKey) -> Segment {
    Segment {
        options: timestamps(5010, 1010),
        payload: vec![b'x'; 1000],
        ..Segment::of_client(flow, W + 1, X.wrapping_add(REQUEST + 1), DATA)
    }
    .reversed()
}

/// Connections that this node has inspected and handed over.
pub(super) fn placed(staged: &Staged, count: usize) -> anyhow::Result<Vec<FlowKey>> {
    inspected(staged, count, state::PLACED)
}

/// Requests that this node's kernel sends on handover connections.
pub(super) fn frozen(staged: &Staged, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let flows = inspected(staged, count, state::FROZEN)?;
    let frames = flows.iter().zip(PORTS..).map(|(flow, port)| {
        let handover = Handover {
            flow: *flow,
            target: Addr::v4(member(2).octets()),
            flags: 0,
            request_len: REQUEST,
            ..Handover::default()
        };
        staged.filter.set_handover(port, &handover);
        Segment {
            to: member_mac(2),
            from: member_mac(1),
            source: (member(1), port),
            destination: (member(2), handover_end().1),
            options: timestamps(9999, 5000),
            payload: vec![b'G'; REQUEST as usize],
            // The kernel's own number is 1000 below the client's.
            ..Segment::of_client(flow, X.wrapping_add(1).wrapping_sub(1000), Y + 1, DATA)
        }
        .frame()
    });
    Ok(frames.collect())
}

/// Connections that the inspector of this node has, changed to be in a state.
fn inspected(staged: &Staged, count: usize, in_state: u32) -> anyhow::Result<Vec<FlowKey>> {
    let flows = staged.flows(count, SPLICE, true)?;
    for (flow, port) in flows.iter().zip(PORTS..) {
        staged.once("front_ingress", &Segment::syn(flow).frame())?;
        change(staged, flow, role::INSPECTING, |entry| {
            entry.state = in_state;
            entry.flags |= flag::ANSWERED;
            entry.server_isn = Seq(Y);
            entry.server_tsval = 4000;
            entry.announced_scale = 9;
            entry.request_end = Seq(X.wrapping_add(REQUEST + 1));
            entry.peer = Addr::v4(member(2).octets());
            entry.peer_port = port;
            entry.seq_delta = 1000;
            entry.ts_delta = 8888;
        })?;
    }
    Ok(flows)
}

fn change(
    staged: &Staged,
    flow: &FlowKey,
    role: u32,
    change: impl FnOnce(&mut ConnEntry),
) -> anyhow::Result<()> {
    let key = ConnKey { flow: *flow, role };
    let entry = staged.filter.connection(&key)?;
    let mut entry = entry.context("the filter has made no entry")?;
    change(&mut entry);
    ensure!(
        staged.filter.replace_connection(&key, &entry)?,
        "the entry has gone"
    );
    Ok(())
}

/// The SYNs that hand connections over to this node, each from a port of its own.
pub(super) fn handover_syns(flows: &[FlowKey], from: Ipv4Addr, key: [u8; 16]) -> Vec<Vec<u8>> {
    let ports = flows.iter().zip(PORTS..);
    ports
        .map(|(flow, port)| handover_syn(flow, (from, port), key))
        .collect()
}

fn handover_syn(flow: &FlowKey, (from, port): (Ipv4Addr, u16), key: [u8; 16]) -> Vec<u8> {
    let option = HandoverOption {
        client: flow.remote,
        client_port: flow.remote_port,
        client_isn: Seq(X),
        server_isn: Seq(Y),
        service: service_id(VIP.into(), SPLICE),
        agreed: AGREED,
        client_scale: 7,
        announced_scale: 9,
        client_mss: 1460,
        client_tsval: 1001,
        server_tsval: 5000,
        made: unix(),
    };
    let (to, to_port) = handover_end();
    let ends = HandoverEnds {
        from: Addr::v4(from.octets()),
        from_port: port,
        to: Addr::v4(to.octets()),
    };
    let mut room = OptionRoom::default();
    option.emit(&key, &ends, &mut room);
    Segment {
        to: member_mac(1),
        from: member_mac(2),
        source: (from, port),
        destination: (to, to_port),
        urgent: flow.remote_port,
        options: room.bytes.to_vec(),
        ..Segment::of_client(flow, X, Y, SYN)
    }
    .frame()
}

/// Requests as another node hands them over by adoption, under another key than the cluster's.
pub(super) fn forged_adoptions(staged: &Staged, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let flows = staged.flows(count, ADOPT, false)?;
    let frames = flows.iter().map(|flow| {
        let option = adoption::Adoption {
            kind: Kind::First,
            terms: Terms {
                mss: 1460,
                agreed: AGREED,
                client_scale: 7,
            },
            announced_scale: 7,
            track: 0,
            interval: 0,
        };
        let numbers = Covered {
            target: Addr::v4(member(1).octets()),
            seq: Seq(X + 1),
            ack: Seq(Y + 1),
        };
        let mut room = release::Room::default();
        adoption::emit(&[0; 16], flow, numbers, (&option, unix()), &mut room);
        Segment {
            to: LOOPBACK_MAC,
            from: member_mac(2),
            ip_options: room.bytes.to_vec(),
            options: timestamps(1010, 5000),
            payload: b"GET /n1/1k HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            ..Segment::of_client(flow, X + 1, Y + 1, DATA)
        }
        .frame()
    });
    Ok(frames.collect())
}
