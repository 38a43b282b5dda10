//! Neighbour discovery for an IPv6 VIP (RFC 4861): always the multicast address, never a node's own.

use dts_core::{addr::Addr, entry::NodeSettings, verdict::Action};

use crate::{
    Outcome,
    arp::multicast_mac,
    frame::{ETH, IPV6, Ip, Skb, macs, make_advertisement},
    maps::VIPS,
    outcome,
};

const SOLICITATION: u8 = 135;
/// What the hop limit must be: the packet comes from this link.
const HOPS: u8 = 255;
/// All nodes of the link, as IP and as link address.
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Whether an ICMPv6 message is a neighbour solicitation.
#[inline(always)]
pub fn is_solicitation(skb: Skb, ip: &Ip) -> bool {
    let Some([kind, code]) = skb.load::<2>(ip.l4()) else {
        return false;
    };
    kind == SOLICITATION && code == 0 && ip.header_len == IPV6
}

/// Answers a question for a VIP. Every node does, with the same answer, from its own link address.
#[inline(never)]
pub fn ingress(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let other = Ok(Outcome::pass(Action::Other));
        let (Some(target), Some([hops])) = (skb.load::<16>(ip.l4() + 8), skb.load::<1>(ETH + 7))
        else {
            return other;
        };
        let target = Addr::v6(target);
        if hops != HOPS || VIPS.get_ptr(&target).is_none() {
            return other;
        }
        let Some((_, asker)) = macs(skb) else {
            return other;
        };
        let mac = multicast_mac(target.v4_tail());
        // Somebody who is about to take the address for its own has none to be answered at.
        if ip.src == Addr::default() {
            make_advertisement(skb, [&target, &Addr::v6(ALL_NODES)], &mac, false)?;
            skb.set_macs(&ALL_NODES_MAC, &settings.front_mac)?;
        } else {
            make_advertisement(skb, [&target, &ip.src], &mac, true)?;
            skb.set_macs(&asker, &settings.front_mac)?;
        }
        Ok(Outcome::redirect(
            Action::NeighbourReply,
            skb.send(skb.ifindex()),
        ))
    })
}
