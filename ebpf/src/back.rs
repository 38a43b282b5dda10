//! The network between the nodes: handover connections, and SYNs that another node releases.

use dts_core::{
    decide::{
        back::{self, Incoming, Outgoing},
        shift,
    },
    entry::{ConnEntry, Handover, NodeSettings, PeerKey, flag, role},
    handover::{HandoverEnds, adoption::is_adoption},
    segment::{ACK, FIN, RST, SYN, TcpHeader},
    verdict::{Action, DropReason},
};

use crate::{
    FROM_BACK, Outcome, SEND_ON, Step, adopt,
    entries::entry,
    facts::{now_ms, settings},
    frame::{
        Bare, Frame, Ip, Segment, Skb, TCP, ip_option, macs, make_bare, may_have_option, options,
        replace_options, rewrite, set_addresses,
    },
    front::client_flow,
    handover_syn::{self, make_option, syn_room},
    maps::{HANDOVERS, MEMBERS, PEERS, VIPS},
    outcome, release,
};

/// Everything that arrives at the back.
pub fn ingress(skb: Skb) -> Step {
    let Some(settings) = settings() else {
        return Ok(Outcome::pass(Action::Other));
    };
    let Frame::Ip(ip) = Frame::parse(skb) else {
        return Ok(Outcome::pass(Action::Other));
    };
    if ip.protocol != TCP {
        return Ok(Outcome::pass(Action::Other));
    }
    if ip.dst != settings.address && ip.dst != settings.self_address {
        if may_have_option(ip) && VIPS.get_ptr(&ip.dst).is_some() {
            return Ok(optioned(skb, ip, settings));
        }
        return Ok(Outcome::pass(Action::Other));
    }
    let Some(ports) = skb.load::<4>(ip.l4()) else {
        return Ok(Outcome::pass(Action::Other));
    };
    let port = settings.handover_port as u16;
    let to_port = u16::from_be_bytes([ports[2], ports[3]]) == port;
    let from_port = u16::from_be_bytes([ports[0], ports[1]]) == port;
    if !to_port && !from_port {
        return Ok(Outcome::pass(Action::Other));
    }
    if ip.fragment {
        return Err(DropReason::Fragment);
    }
    if to_port {
        Ok(handover_ingress(skb, ip, settings))
    } else {
        Ok(reply_ingress(skb, ip))
    }
}

/// A frame to a VIP with an option of ours, as it seems.
#[inline(always)]
fn optioned(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Outcome {
    if ip.fragment {
        return Outcome::drop(DropReason::Fragment);
    }
    match ip_option(skb, ip) {
        Some([_, _, _, fourth, ..]) if is_adoption(fourth) => {
            if skb.is_for_us() {
                adopt::arrive(skb, ip, settings)
            } else {
                Outcome::pass(Action::Other)
            }
        }
        _ => release::ingress(skb, ip, settings),
    }
}

/// An answer to a handover connection of this node's.
#[inline(never)]
fn reply_ingress(skb: Skb, ip: &Ip) -> Outcome {
    outcome(|| {
        let Some(Segment { tcp, .. }) = Segment::read(skb, ip) else {
            return Err(DropReason::Malformed);
        };
        let port = tcp.header.destination;
        // Without an entry the connection was given up: the kernel answers with a reset, which takes
        // the processing node's half of it away.
        let Some(h) = handover(port) else {
            return Ok(Outcome::pass(Action::Other));
        };
        if h.target != ip.src {
            return Err(DropReason::UnknownHandover);
        }
        let Some(e) = entry(&h.flow, role::INSPECTING) else {
            return Err(DropReason::UnknownHandover);
        };
        let Some(scratch) = options(skb, ip.l4(), tcp.header.header_len.into()) else {
            return Err(DropReason::Malformed);
        };
        let Some(shift) = back::reply(&mut tcp.header, port, h, e, now_ms()) else {
            return Err(DropReason::UnknownHandover);
        };
        shift.apply(&mut scratch.scan);
        rewrite(skb, ip.l4(), tcp, Some(scratch))?;
        Ok(Outcome::pass(Action::HandoverReply))
    })
}

#[inline(always)]
fn handover(port: u16) -> Option<&'static Handover> {
    let h = HANDOVERS.get(port.into())?;
    (h.flags & flag::USED != 0).then_some(h)
}

/// A segment of a handover connection to this node.
#[inline(never)]
fn handover_ingress(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        if MEMBERS.get_ptr(&ip.src).is_none() {
            return Err(DropReason::NotMember);
        }
        let Some(segment) = Segment::read(skb, ip) else {
            return Err(DropReason::Malformed);
        };
        let t = &mut segment.tcp.header;
        if t.flags & (SYN | ACK | RST) == SYN {
            return Ok(handover_syn::ingress(skb, segment, settings));
        }
        let Some(e) = processing_entry(segment) else {
            return Ok(answer(
                skb,
                segment,
                back::unknown(&segment.tcp.header),
                None,
            ));
        };
        let t = &mut segment.tcp.header;
        if e.peer != ip.src || !back::is_present(t, e) {
            return Err(DropReason::UnknownHandover);
        }
        match back::incoming(t, e, now_ms()) {
            Incoming::ToServer => {
                t.source = segment.flow.remote_port;
                t.destination = segment.flow.local_port;
                let Some(scratch) = options(skb, ip.l4(), t.header_len.into()) else {
                    return Err(DropReason::Malformed);
                };
                let shift = shift::from_peer(e, &scratch.scan);
                let changed = if shift.is_none() {
                    None
                } else {
                    shift.apply(&mut scratch.scan);
                    Some(scratch)
                };
                rewrite(skb, ip.l4(), &segment.tcp, changed)?;
                Ok(to_front(skb, segment, settings, Action::HandoverIn))
            }
            Incoming::HandshakeAck => Ok(Outcome::end(Action::HandoverAck)),
            Incoming::ResetServer => Ok(reset_server(skb, segment, e, settings)),
            other => Ok(answer(skb, segment, other, Some(e))),
        }
    })
}

/// The processing entry that a handover connection's segment is for; its flow is noted in the segment.
#[inline(always)]
fn processing_entry(segment: &mut Segment) -> Option<&'static mut ConnEntry> {
    let port = segment.tcp.header.source;
    let key = PeerKey {
        peer: segment.ip.src,
        port: port.into(),
    };
    let flow = PEERS.get_ptr(&key)?;
    // SAFETY: a map value stays valid for the program's run.
    segment.flow = unsafe { *flow };
    entry(&segment.flow, role::PROCESSING)
}

/// Gives a rewritten segment to the server's kernel.
#[inline(never)]
pub fn to_front(skb: Skb, segment: &Segment, settings: &NodeSettings, action: Action) -> Outcome {
    outcome(|| {
        let flow = &segment.flow;
        set_addresses(skb, &segment.ip, &flow.remote, &flow.local)?;
        Ok(give(skb, settings, action))
    })
}

/// Lets a client's segment arrive at the front, where a client's segments come from: a strict reverse path
/// filter would drop it here.
#[inline(always)]
fn give(skb: Skb, settings: &NodeSettings, action: Action) -> Outcome {
    skb.set_mark(FROM_BACK);
    Outcome::redirect(action, skb.arrive(settings.front))
}

/// Turns a FIN that nobody meant into a reset for the server.
#[inline(never)]
fn reset_server(skb: Skb, segment: &Segment, e: &ConnEntry, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let (t, flow) = (&segment.tcp.header, &segment.flow);
        let header = TcpHeader {
            source: flow.remote_port,
            destination: flow.local_port,
            seq: t.seq,
            ack: t.ack.minus(e.seq_delta),
            flags: RST | ACK,
            ..TcpHeader::default()
        };
        let reset = Bare {
            src: &flow.remote,
            dst: &flow.local,
            header,
        };
        give_bare(skb, &segment.ip, &reset, settings, Action::HandoverIn)
    })
}

/// Gives a segment that the filter makes out of another's frame to a socket of this node's.
#[inline(always)]
pub fn give_bare(
    skb: Skb,
    ip: &Ip,
    bare: &Bare<'_>,
    settings: &NodeSettings,
    action: Action,
) -> Step {
    make_bare(skb, ip, bare)?;
    Ok(give(skb, settings, action))
}

/// Answers the inspecting node's leftovers: its FIN, or data whose acknowledgment was lost.
#[inline(never)]
fn answer(skb: Skb, segment: &Segment, how: Incoming, e: Option<&mut ConnEntry>) -> Outcome {
    outcome(|| {
        let (t, ip) = (&segment.tcp.header, &segment.ip);
        let (seq, ack, flags) = match (how, e) {
            (Incoming::AnswerFin, Some(e)) => (e.first_of_server(), e.request_end, FIN | ACK),
            // It may not have seen our FIN yet: then this is one, too.
            (Incoming::AnswerAck, Some(e)) if t.ack == e.first_of_server() => {
                (t.ack, t.end(), FIN | ACK)
            }
            (Incoming::AnswerAck, _) => (t.ack, t.end(), ACK),
            (Incoming::Drop(reason), _) => return Err(reason),
            _ => return Err(DropReason::AfterHandover),
        };
        let (Some((destination, source)), Some(settings)) = (macs(skb), settings()) else {
            return Err(DropReason::Malformed);
        };
        let header = TcpHeader {
            source: t.destination,
            destination: t.source,
            seq,
            ack,
            flags,
            window: u16::MAX,
            ..TcpHeader::default()
        };
        make_bare(
            skb,
            ip,
            &Bare {
                src: &ip.dst,
                dst: &ip.src,
                header,
            },
        )?;
        skb.set_macs(&source, &destination)?;
        let to_self = ip.dst == settings.self_address;
        let code = if to_self {
            skb.arrive(settings.back)
        } else {
            skb.send(settings.back)
        };
        Ok(Outcome::redirect(Action::Answered, code))
    })
}

/// Everything that leaves at the back.
pub fn egress(skb: Skb) -> Step {
    let Some(settings) = settings() else {
        return Ok(Outcome::pass(Action::Other));
    };
    let Frame::Ip(ip) = Frame::parse(skb) else {
        return Ok(Outcome::pass(Action::Other));
    };
    if ip.protocol != TCP || ip.fragment {
        return Ok(Outcome::pass(Action::Other));
    }
    if skb.mark() == SEND_ON {
        return sent_on(skb, ip, settings);
    }
    if ip.src != settings.address {
        return Ok(Outcome::pass(Action::Other));
    }
    let Some(ports) = skb.load::<4>(ip.l4()) else {
        return Ok(Outcome::pass(Action::Other));
    };
    if u16::from_be_bytes([ports[2], ports[3]]) != settings.handover_port as u16 {
        return Ok(Outcome::pass(Action::Other));
    }
    handover_egress(skb, ip, settings)
}

/// A client's segment that the daemon sends on.
#[inline(always)]
fn sent_on(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Step {
    skb.set_mark(0);
    let Some(segment) = Segment::read(skb, ip) else {
        return Err(DropReason::Malformed);
    };
    segment.flow = client_flow(ip, &segment.tcp.header);
    Ok(adopt::back_egress(skb, segment, settings))
}

/// A segment that this node's kernel sends on a handover connection.
#[inline(always)]
fn handover_egress(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Step {
    let Some(Segment { tcp, .. }) = Segment::read(skb, ip) else {
        return Err(DropReason::Malformed);
    };
    let port = tcp.header.source;
    let Some(h) = handover(port) else {
        // The kernel's answer to a segment of a connection that was given up is in the processing
        // node's numbers already. Anything else of ours has no business there.
        if tcp.header.flags & RST != 0 {
            return Ok(Outcome::pass(Action::HandoverOut));
        }
        return Err(DropReason::UnknownHandover);
    };
    let Some(e) = entry(&h.flow, role::INSPECTING) else {
        return Err(DropReason::UnknownHandover);
    };
    let Some(scratch) = options(skb, ip.l4(), tcp.header.header_len.into()) else {
        return Err(DropReason::Malformed);
    };
    let own_tsval = scratch.scan.timestamp_pair().map(|(value, _)| value);
    match back::outgoing(&mut tcp.header, own_tsval, port, h, e) {
        None => return Err(DropReason::UnknownHandover),
        Some(Outgoing::Needless) => return Err(DropReason::AfterHandover),
        Some(Outgoing::Segment(shift)) => {
            shift.apply(&mut scratch.scan);
            rewrite(skb, ip.l4(), tcp, Some(scratch))?;
        }
        Some(Outgoing::Syn) => {
            if tcp.header.payload != 0 {
                return Err(DropReason::RewriteFailed);
            }
            let room = syn_room()?;
            room.ends = HandoverEnds {
                from: settings.address,
                from_port: port,
                to: ip.dst,
            };
            make_option(h, e, settings, room);
            replace_options(skb, ip, tcp, scratch, &room.option_room.bytes)?;
        }
    }
    if h.flags & flag::SELF == 0 {
        return Ok(Outcome::pass(Action::HandoverOut));
    }
    let Some((_, own)) = macs(skb) else {
        return Err(DropReason::Malformed);
    };
    skb.store(0, &own)?;
    Ok(Outcome::redirect(
        Action::HandoverOut,
        skb.arrive(skb.ifindex()),
    ))
}
