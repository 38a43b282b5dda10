//! What leaves at the front: servers' and the inspector's segments to clients.

use dts_core::{
    addr::FlowKey,
    decide::{
        front::{self, FromInspector, FromServer},
        shift,
    },
    entry::{ConnEntry, ConnKey, NodeSettings, flag, role, service_kind},
    segment::{ACK, FIN, RST, TcpHeader},
    verdict::{Action, DropReason},
};

use super::{is_mixed, malformed};
use crate::{
    Outcome, Step, TO_CLIENT, adopt, arp,
    back::give_bare,
    entries::{entry, forget_processing, service},
    facts::{now_ms, settings},
    frame::{Bare, Frame, Segment, Skb, TCP, make_bare, options, rewrite, set_addresses},
    maps::{CONNECTIONS, Scratch},
    outcome,
};

/// Everything that leaves at the front.
pub fn egress(skb: Skb) -> Step {
    let Some(settings) = settings() else {
        return Ok(Outcome::pass(Action::Other));
    };
    if skb.mark() == TO_CLIENT {
        skb.set_mark(0);
        return Ok(Outcome::pass(Action::ToClient));
    }
    let ip = match Frame::parse(skb) {
        Frame::Ip(ip) => ip,
        Frame::Arp => return Ok(arp::egress(skb)),
        Frame::Other => return Ok(Outcome::pass(Action::Other)),
    };
    let vip = ip.src;
    if ip.protocol != TCP || ip.fragment {
        return Ok(Outcome::pass(Action::Other));
    }
    let Some(segment) = Segment::read(skb, ip) else {
        return malformed(&vip);
    };
    let t = &segment.tcp.header;
    let Some(service) = service(settings, &vip, t.source) else {
        return Ok(Outcome::pass(Action::Other));
    };
    let inspector = service.kind == service_kind::INSPECTOR;
    segment.flow = FlowKey {
        remote: ip.dst,
        local: vip,
        remote_port: t.destination,
        local_port: if inspector {
            service.other_port
        } else {
            t.source
        },
    };
    match service.kind {
        service_kind::L4 => Ok(Outcome::pass(Action::Pass)),
        service_kind::L7 | service_kind::ADOPT
            if is_mixed(service) && entry(&segment.flow, role::PROCESSING).is_some() =>
        {
            Ok(server_egress(skb, segment, settings))
        }
        service_kind::ADOPT => Ok(adopt::egress(skb, segment)),
        service_kind::L7 if is_mixed(service) => Ok(adopt::egress(skb, segment)),
        service_kind::L7 => Ok(server_egress(skb, segment, settings)),
        _ => Ok(inspector_egress(skb, segment, service.most, settings)),
    }
}

#[inline(never)]
fn inspector_egress(
    skb: Skb,
    segment: &mut Segment,
    most: u32,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let Segment { ip, tcp, flow } = segment;
        let Some(scratch) = options(skb, ip.l4(), tcp.header.header_len.into()) else {
            return Err(DropReason::Malformed);
        };
        let entry = entry(flow, role::INSPECTING);
        match front::egress_inspector(&mut tcp.header, &scratch.scan, entry, most, now_ms()) {
            FromInspector::Drop(reason) => return Err(reason),
            FromInspector::Forget => {
                let _ = CONNECTIONS.remove(&ConnKey {
                    flow: *flow,
                    role: role::INSPECTING,
                });
                return Err(DropReason::InspectorGone);
            }
            FromInspector::ResetSocket => {
                return Ok(reset_sender(skb, segment, settings, Action::OrphanReset));
            }
            FromInspector::ToClient => {}
        }
        tcp.header.source = flow.local_port;
        rewrite(skb, ip.l4(), tcp, None)?;
        Ok(Outcome::pass(Action::FromInspector))
    })
}

/// Turns a segment of a socket of this node's into a reset for that socket.
#[inline(never)]
fn reset_sender(skb: Skb, segment: &Segment, settings: &NodeSettings, action: Action) -> Outcome {
    outcome(|| {
        let (t, ip) = (&segment.tcp.header, &segment.ip);
        let header = TcpHeader {
            source: t.destination,
            destination: t.source,
            seq: t.ack,
            ack: t.end(),
            flags: RST | ACK,
            ..TcpHeader::default()
        };
        let reset = Bare {
            src: &ip.dst,
            dst: &ip.src,
            header,
        };
        give_bare(skb, ip, &reset, settings, action)
    })
}

/// A segment of the server application's, mode `l7`.
#[inline(never)]
fn server_egress(skb: Skb, segment: &mut Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let l4 = segment.ip.l4();
        let Some(scratch) = options(skb, l4, segment.tcp.header.header_len.into()) else {
            return Err(DropReason::Malformed);
        };
        let Some(e) = entry(&segment.flow, role::PROCESSING) else {
            return Err(DropReason::NoEntry);
        };
        let header = &segment.tcp.header;
        let decision = front::egress_server(header, &scratch.scan, Some(&mut *e), now_ms());
        let header = &mut segment.tcp.header;
        match decision {
            FromServer::Drop(reason) => Err(reason),
            FromServer::AnswerPeer => {
                header.seq = e.server_isn;
                Ok(to_peer(skb, segment, None, e, settings))
            }
            FromServer::ToPeer => {
                shift::to_peer(e, header).apply(&mut scratch.scan);
                Ok(to_peer(skb, segment, Some(scratch), e, settings))
            }
            FromServer::RefusePeer => {
                let outcome = to_peer(skb, segment, None, e, settings);
                forget_processing(&segment.flow, e);
                Ok(outcome)
            }
            FromServer::ResetServer => Ok(reset_sender(skb, segment, settings, Action::StaleReset)),
            FromServer::ToClient => {
                shift::to_client(e, header).apply(&mut scratch.scan);
                rewrite(skb, l4, &segment.tcp, Some(scratch))?;
                Ok(Outcome::pass(Action::ToClient))
            }
            FromServer::ResetBoth | FromServer::Direct => {
                shift::to_client(e, header).apply(&mut scratch.scan);
                rewrite(skb, l4, &segment.tcp, Some(scratch))?;
                skb.set_mark(TO_CLIENT);
                let copied = skb.send_copy(skb.ifindex());
                skb.set_mark(0);
                copied?;
                Ok(finish_peer(
                    skb,
                    segment,
                    e,
                    matches!(decision, FromServer::ResetBoth),
                ))
            }
        }
    })
}

/// Sends a segment of the server's to the inspecting node instead of the client.
#[inline(never)]
fn to_peer(
    skb: Skb,
    segment: &mut Segment,
    scratch: Option<&mut Scratch>,
    e: &ConnEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let Segment { ip, tcp, .. } = segment;
        tcp.header.source = settings.handover_port as u16;
        tcp.header.destination = e.peer_port;
        rewrite(skb, ip.l4(), tcp, scratch)?;
        set_addresses(skb, ip, &e.own, &e.peer)?;
        send_to_peer(skb, e, settings, Action::ToPeer)
    })
}

#[inline(always)]
fn send_to_peer(skb: Skb, e: &ConnEntry, settings: &NodeSettings, action: Action) -> Step {
    skb.set_macs(&e.peer_mac, &e.own_mac)?;
    let code = if e.has(flag::SELF) {
        skb.arrive(settings.back)
    } else {
        skb.send(settings.back)
    };
    Ok(Outcome::redirect(action, code))
}

/// Ends the handover connection: a FIN that acknowledges the whole request (DTS §2.2, last paragraph),
/// or a reset.
#[inline(never)]
fn finish_peer(skb: Skb, segment: &Segment, e: &ConnEntry, reset: bool) -> Outcome {
    outcome(|| {
        let Some(settings) = settings() else {
            return Err(DropReason::NoEntry);
        };
        let header = TcpHeader {
            source: settings.handover_port as u16,
            destination: e.peer_port,
            seq: e.first_of_server(),
            ack: if reset {
                segment.tcp.header.ack
            } else {
                e.request_end
            },
            flags: if reset { RST | ACK } else { FIN | ACK },
            window: segment.tcp.header.window,
            ..TcpHeader::default()
        };
        make_bare(
            skb,
            &segment.ip,
            &Bare {
                src: &e.own,
                dst: &e.peer,
                header,
            },
        )?;
        let action = if reset {
            Action::ResetBoth
        } else {
            Action::Direct
        };
        send_to_peer(skb, e, settings, action)
    })
}
