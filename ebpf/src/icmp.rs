//! ICMP to a VIP: one echo reply for the whole cluster, and errors about the cluster's segments.

use dts_core::{
    addr::{Addr, FlowKey},
    decide::{Ownership, Socket},
    entry::{role, service_kind, state},
    seq::Seq,
    verdict::{Action, DropReason},
};

use crate::{
    Outcome, Step,
    entries::{entry, service},
    facts::{ownership, settings},
    frame::{ETH, IPV4, IPV6, Ip, Skb, TCP},
    outcome,
    sockets::socket,
};

/// Message types (RFC 792).
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
/// Message types of ICMPv6 (RFC 4443): errors are 1 to 4.
const V6_UNREACHABLE: u8 = 1;
const V6_PARAMETER_PROBLEM: u8 = 4;
const V6_ECHO_REQUEST: u8 = 128;

/// The length of an ICMP header, after which an error quotes the packet it is about.
const HEADER: u32 = 8;

/// An ICMP message to a VIP.
#[inline(never)]
pub fn ingress(skb: Skb, ip: &Ip) -> Outcome {
    outcome(|| {
        let Some([kind, ..]) = skb.load::<8>(ip.l4()) else {
            return Err(DropReason::Malformed);
        };
        let echo = if ip.v6 { V6_ECHO_REQUEST } else { ECHO_REQUEST };
        if kind == echo {
            answers_for(&ip.src)?;
            skb.accept();
            return Ok(Outcome::pass(Action::Echo));
        }
        let is_error = if ip.v6 {
            matches!(kind, V6_UNREACHABLE..=V6_PARAMETER_PROBLEM)
        } else {
            matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
        };
        if is_error {
            error(skb, ip)
        } else {
            Err(DropReason::NoService)
        }
    })
}

/// An error about a segment that the client's network could not deliver. It quotes the segment as the
/// client would have seen it; the kernel that sent it knows other numbers.
#[inline(always)]
fn error(skb: Skb, ip: &Ip) -> Step {
    let quote = ip.l4() + HEADER;
    let mut flow = FlowKey::default();
    let header_len = quoted(skb, quote, ip.v6, &mut flow)?;
    let tcp = quote + header_len;
    // Beyond the packet's end a frame may have padding, which is nobody's header.
    if tcp + 8 > ETH + ip.total_len {
        return Err(DropReason::Malformed);
    }
    let Some(t) = skb.load::<8>(tcp) else {
        return Err(DropReason::Malformed);
    };
    let (source, destination) = ([t[0], t[1], t[2], t[3]], [t[4], t[5], t[6], t[7]]);
    flow.remote_port = u16::from_be_bytes([source[2], source[3]]);
    flow.local_port = u16::from_be_bytes([source[0], source[1]]);
    let found = settings().and_then(|s| service(s, &flow.local, flow.local_port));
    let Some(service) = found else {
        return Err(DropReason::NotMine);
    };
    match service.kind {
        service_kind::L4 => match socket(skb, &flow) {
            Socket::Alive => {}
            _ => return Err(DropReason::NotMine),
        },
        service_kind::L7 | service_kind::ADOPT => {
            let seq = Seq(u32::from_be_bytes(destination));
            if let Some(e) = entry(&flow, role::PROCESSING) {
                let own = seq.minus(e.seq_delta).0.to_be_bytes();
                skb.replace_icmp(ip.l4(), tcp + 4, destination, own)?;
            } else if let Some(e) = entry(&flow, role::INSPECTING)
                && e.state == state::INSPECT
            {
                let port = service.other_port.to_be_bytes();
                let ports = [port[0], port[1], source[2], source[3]];
                skb.replace_icmp(ip.l4(), tcp, source, ports)?;
            } else if !matches!(socket(skb, &flow), Socket::Alive) {
                return Err(DropReason::NotMine);
            }
            // Of an adopted connection nothing is translated.
        }
        _ => return Err(DropReason::NotMine),
    }
    skb.accept();
    Ok(Outcome::pass(Action::IcmpError))
}

/// Reads a quoted IP header's addresses into the flow; the header's length.
#[inline(always)]
fn quoted(skb: Skb, at: u32, v6: bool, flow: &mut FlowKey) -> Result<u32, DropReason> {
    if v6 {
        let Some([first, second, a, b, c, d, e, f, g, h]) = skb.load_words::<10>(at) else {
            return Err(DropReason::Malformed);
        };
        let next = (u32::from_be(second) >> 8) as u8;
        if u32::from_be(first) >> 28 != 6 || next != TCP {
            return Err(DropReason::NotMine);
        }
        flow.local = Addr::of_words([a, b, c, d]);
        flow.remote = Addr::of_words([e, f, g, h]);
        return Ok(IPV6);
    }
    let Some(b) = skb.load::<20>(at) else {
        return Err(DropReason::Malformed);
    };
    let header_len = ((b[0] & 0x0f) as u32) * 4;
    if b[0] >> 4 != 4 || header_len < IPV4 || b[9] != TCP {
        return Err(DropReason::NotMine);
    }
    flow.remote = Addr::v4([b[16], b[17], b[18], b[19]]);
    flow.local = Addr::v4([b[12], b[13], b[14], b[15]]);
    Ok(header_len)
}

/// Whether this node answers for the VIP where a packet has no port: the owner of the remote address.
#[inline(always)]
fn answers_for(remote: &Addr) -> Result<(), DropReason> {
    match ownership(remote, 0) {
        Ownership::Owner => Ok(()),
        Ownership::NotOwner => Err(DropReason::NotOwner),
        Ownership::LeaseExpired => Err(DropReason::LeaseExpired),
        Ownership::NoRing => Err(DropReason::NoRing),
    }
}
