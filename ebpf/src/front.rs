//! The clients' network: what arrives. What leaves is in `egress`.

mod egress;

use dts_core::{
    addr::{Addr, FlowKey},
    decide::{
        front::{self, Ingress},
        shift,
    },
    entry::{
        ConnEntry, ConnKey, NodeSettings, ServiceEntry, adoption::rules, flag, role, service_kind,
    },
    segment::{RST, TcpHeader},
    seq::Seq,
    verdict::{Action, DropReason},
};

use crate::{
    ADOPT_FRAME, ADOPT_HERE, FROM_BACK, Outcome, Step, adopt, arp,
    entries::{entry, forget_processing, service},
    facts::{FrontFacts, now_ms, settings},
    frame::{
        Bare, Frame, ICMP, ICMPV6, Ip, Segment, Skb, TCP, has_extensions, make_bare, options,
        remove_fragment_header, rewrite,
    },
    icmp,
    maps::{CONNECTIONS, SPLICED, Scratch, VIPS},
    ndp, outcome, release,
    sockets::SockRef,
};

pub use self::egress::egress;

/// Everything that arrives at the front.
pub fn ingress(skb: Skb) -> Step {
    let Some(settings) = settings() else {
        return Ok(Outcome::pass(Action::Other));
    };
    if skb.mark() == FROM_BACK {
        skb.set_mark(0);
        skb.accept();
        return Ok(Outcome::pass(Action::Redirected));
    }
    let ip = match Frame::parse(skb) {
        Frame::Ip(ip) => ip,
        Frame::Arp => return Ok(arp::ingress(skb, settings)),
        Frame::Other => return Ok(Outcome::pass(Action::Other)),
    };
    if (ADOPT_HERE..=ADOPT_FRAME + 0xff).contains(&skb.mark()) {
        return Ok(marked(skb, ip, settings));
    }
    let vip = ip.dst;
    if ip.protocol == TCP && !ip.fragment && !has_extensions(ip) {
        // Most packets: one look-up says both that it is a VIP and what the port is for.
        let Some(segment) = Segment::read(skb, ip) else {
            return malformed(&vip);
        };
        if let Some(service) = service(settings, &vip, segment.tcp.header.destination) {
            return tcp_ingress(skb, segment, service, settings);
        }
    }
    if VIPS.get_ptr(&vip).is_none() {
        return other_ingress(skb, ip, settings);
    }
    if ip.fragment {
        return Ok(fragment(skb, ip));
    }
    match ip.protocol {
        ICMP if !ip.v6 => Ok(icmp::ingress(skb, ip)),
        ICMPV6 if ip.v6 && ndp::is_solicitation(skb, ip) => Ok(ndp::ingress(skb, ip, settings)),
        ICMPV6 if ip.v6 => Ok(icmp::ingress(skb, ip)),
        _ if has_extensions(ip) => Err(DropReason::ExtensionHeader),
        _ => Err(DropReason::NoService),
    }
}

/// A fragment to a VIP. One that is the whole segment arrives once more, as what it would be without its header: whatever
/// has to do with the connection knows plain segments only.
#[inline(never)]
fn fragment(skb: Skb, ip: &Ip) -> Outcome {
    outcome(|| {
        remove_fragment_header(skb, ip)?;
        let again = skb.arrive(skb.ifindex());
        Ok(Outcome::redirect(Action::AtomicFragment, again))
    })
}

/// A packet that is not to a VIP. Only handover frames are of interest: none may come from here.
#[inline(always)]
fn other_ingress(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Step {
    let other = Ok(Outcome::pass(Action::Other));
    if ip.protocol == ICMPV6 && ip.v6 && ndp::is_solicitation(skb, ip) {
        return Ok(ndp::ingress(skb, ip, settings));
    }
    if ip.protocol != TCP || settings.front == settings.back {
        return other;
    }
    if ip.dst != settings.address && ip.dst != settings.self_address {
        return other;
    }
    let Some(ports) = skb.load::<4>(ip.l4()) else {
        return other;
    };
    let source = u16::from_be_bytes([ports[0], ports[1]]);
    let destination = u16::from_be_bytes([ports[2], ports[3]]);
    let port = settings.handover_port as u16;
    if source == port || destination == port {
        return Err(DropReason::HandoverOnFront);
    }
    other
}

/// A TCP header that can't be read: nobody's business but a VIP's.
#[inline(always)]
fn malformed(to: &Addr) -> Step {
    if VIPS.get_ptr(to).is_some() {
        return Err(DropReason::Malformed);
    }
    Ok(Outcome::pass(Action::Other))
}

#[inline(always)]
fn tcp_ingress(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Step {
    segment.flow = client_flow(&segment.ip, &segment.tcp.header);
    match service.kind {
        service_kind::L4 => Ok(l4_ingress(skb, segment, service)),
        service_kind::L7 | service_kind::ADOPT if is_mixed(service) => {
            Ok(mixed_ingress(skb, segment, service, settings))
        }
        service_kind::L7 => Ok(l7_ingress(skb, segment, service)),
        service_kind::ADOPT => Ok(adopt::ingress(skb, segment, service, settings)),
        _ => Err(DropReason::InspectorPort),
    }
}

/// A segment to a service that has, perhaps, connections of both ways: entries say which are spliced.
#[inline(always)]
fn mixed_ingress(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    let spliced = is_spliced(&segment.flow);
    let begins = service.kind == service_kind::L7 && segment.tcp.header.opens();
    if spliced || begins {
        l7_ingress(skb, segment, service)
    } else {
        adopt::ingress(skb, segment, service, settings)
    }
}

/// Whether a service may have connections of both ways: its own way was changed, or some of its connections had to go
/// the other way.
#[inline(always)]
fn is_mixed(service: &ServiceEntry) -> bool {
    if service.rules & rules::MIXED != 0 {
        return true;
    }
    // Counted after an entry was made. The daemon notes the count before it looks for entries: a later one differs.
    service.kind == service_kind::ADOPT && SPLICED.get(0) != SPLICED.get(1)
}

/// Whether a flow has entries.
#[inline(always)]
fn is_spliced(flow: &FlowKey) -> bool {
    entry(flow, role::PROCESSING).is_some() || entry(flow, role::INSPECTING).is_some()
}

/// A segment of a connection that is adopted, on its way through this node.
#[inline(never)]
fn marked(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        if skb.mark() != ADOPT_HERE {
            return Ok(adopt::arrive(skb, ip, settings));
        }
        let Some(segment) = Segment::read(skb, ip) else {
            return Err(DropReason::Malformed);
        };
        segment.flow = client_flow(ip, &segment.tcp.header);
        Ok(adopt::arrive_here(skb, segment, settings))
    })
}

/// The flow of a client's segment.
#[inline(always)]
pub fn client_flow(ip: &Ip, header: &TcpHeader) -> FlowKey {
    FlowKey {
        remote: ip.src,
        local: ip.dst,
        remote_port: header.source,
        local_port: header.destination,
    }
}

#[inline(never)]
fn l4_ingress(skb: Skb, segment: &Segment, service: &ServiceEntry) -> Outcome {
    outcome(|| {
        let Segment { ip, tcp, flow } = segment;
        let facts = FrontFacts {
            skb,
            ip,
            flow,
            service,
        };
        match front::ingress_l4(&tcp.header, &facts) {
            Ingress::Drop(reason) => Err(reason),
            Ingress::Challenge => {
                skb.accept();
                Ok(Outcome::pass(Action::Challenge))
            }
            Ingress::KillTimeWait => Ok(kill_time_wait(skb, segment)),
            _ => {
                skb.accept();
                Ok(Outcome::pass(Action::Pass))
            }
        }
    })
}

/// Turns this node's copy of a SYN into the reset that removes its TIME_WAIT socket of the flow, when
/// the kernel would let the SYN follow that connection (RFC 6191, the sequence number's rule).
#[inline(never)]
fn kill_time_wait(skb: Skb, segment: &Segment) -> Outcome {
    outcome(|| {
        let Segment { ip, tcp, flow } = segment;
        let expected = match SockRef::lookup(skb, flow) {
            Some(sk) => sk.time_wait_rcv_nxt(),
            None => None,
        };
        let Some(expected) = expected else {
            return Err(DropReason::NotOwner);
        };
        if !tcp.header.seq.is_after(Seq(expected)) {
            return Err(DropReason::NotOwner);
        }
        let header = TcpHeader {
            seq: Seq(expected),
            ack: Seq(0),
            flags: RST,
            ..tcp.header
        };
        make_bare(
            skb,
            ip,
            &Bare {
                src: &ip.src,
                dst: &ip.dst,
                header,
            },
        )?;
        skb.accept();
        Ok(Outcome::pass(Action::TimeWaitKilled))
    })
}

#[inline(never)]
fn l7_ingress(skb: Skb, segment: &mut Segment, service: &ServiceEntry) -> Outcome {
    outcome(|| {
        let l4 = segment.ip.l4();
        let flow = &segment.flow;
        let mut processing = entry(flow, role::PROCESSING);
        let opens = segment.tcp.header.opens();
        // While a handover to oneself begins, the flow has both entries.
        let answered = processing.as_ref().is_some_and(|e| e.has(flag::ANSWERED));
        let inspecting = if answered && !opens {
            None
        } else {
            entry(flow, role::INSPECTING)
        };
        if processing.is_none() && inspecting.is_none() && !opens {
            return Err(DropReason::NotMine);
        }
        let Some(scratch) = options(skb, l4, segment.tcp.header.header_len.into()) else {
            return Err(DropReason::Malformed);
        };
        let facts = FrontFacts {
            skb,
            ip: &segment.ip,
            flow,
            service,
        };
        let header = &segment.tcp.header;
        let now = now_ms();
        let found = processing.as_deref_mut();
        match front::ingress_l7(header, &scratch.scan, inspecting, found, now, &facts) {
            Ingress::Drop(reason) => return Err(reason),
            Ingress::ToServer => return to_server(skb, segment, scratch, processing),
            Ingress::Challenge | Ingress::Pass => {
                skb.accept();
                return Ok(Outcome::pass(Action::Challenge));
            }
            Ingress::Release => return Ok(release::release(skb, segment)),
            Ingress::Forget => {
                if let Some(entry) = processing {
                    forget_processing(flow, entry);
                }
                return Err(DropReason::NotOwner);
            }
            Ingress::Begin => begin(segment, scratch, service, processing)?,
            Ingress::ToInspector | Ingress::KillTimeWait => {}
        }
        segment.tcp.header.to_inspector(service.other_port);
        rewrite(skb, l4, &segment.tcp, None)?;
        skb.accept();
        Ok(Outcome::pass(Action::ToInspector))
    })
}

#[inline(always)]
fn to_server(
    skb: Skb,
    segment: &mut Segment,
    scratch: &mut Scratch,
    entry: Option<&mut ConnEntry>,
) -> Step {
    let Some(entry) = entry else {
        return Err(DropReason::NotMine);
    };
    shift::to_server(entry, &mut segment.tcp.header).apply(&mut scratch.scan);
    rewrite(skb, segment.ip.l4(), &segment.tcp, Some(scratch))?;
    skb.accept();
    Ok(Outcome::pass(Action::ToServer))
}

/// Makes the entry of a new connection, in place of what an older one of the same flow left.
#[inline(never)]
fn begin(
    segment: &Segment,
    scratch: &Scratch,
    service: &ServiceEntry,
    old: Option<&mut ConnEntry>,
) -> Result<(), DropReason> {
    if let Some(old) = old {
        forget_processing(&segment.flow, old);
    }
    let new = front::begin(&segment.tcp.header, &scratch.scan, service.id, now_ms());
    let key = ConnKey {
        flow: segment.flow,
        role: role::INSPECTING,
    };
    CONNECTIONS
        .insert(&key, &new, 0)
        .map_err(|_| DropReason::TableFull)
}
