//! ARP for a VIP: always the multicast address, never a node's own.

use dts_core::{addr::Addr, entry::NodeSettings, verdict::Action};

use crate::{
    Outcome,
    frame::{ETH, Skb},
    maps::VIPS,
    outcome,
};

/// ARP for IPv4 over Ethernet (RFC 826): the fixed part, then the two pairs of addresses.
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u16 = 1;

struct Arp {
    operation: u16,
    sender_mac: [u8; 6],
    sender: [u8; 4],
    target: [u8; 4],
}

#[inline(always)]
fn read(skb: Skb) -> Option<Arp> {
    let b: [u8; 28] = skb.load(ETH)?;
    if [b[0], b[1], b[2], b[3], b[4], b[5]] != ARP_HEADER {
        return None;
    }
    Some(Arp {
        operation: u16::from_be_bytes([b[6], b[7]]),
        sender_mac: [b[8], b[9], b[10], b[11], b[12], b[13]],
        sender: [b[14], b[15], b[16], b[17]],
        target: [b[24], b[25], b[26], b[27]],
    })
}

/// The multicast address that a VIP resolves to: 03:bf and the address's last four bytes, which is all of an IPv4 address,
/// as in Windows NLB.
pub const fn multicast_mac(vip: [u8; 4]) -> [u8; 6] {
    [0x03, 0xbf, vip[0], vip[1], vip[2], vip[3]]
}

/// Answers a question for a VIP. Every node does, with the same answer, from its own address.
#[inline(never)]
pub fn ingress(skb: Skb, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let Some(arp) = read(skb) else {
            return Ok(Outcome::pass(Action::Other));
        };
        if arp.operation != ARP_REQUEST || VIPS.get_ptr(&Addr::v4(arp.target)).is_none() {
            return Ok(Outcome::pass(Action::Other));
        }
        let (m, s, q) = (multicast_mac(arp.target), arp.sender_mac, arp.sender);
        let t = arp.target;
        let reply = [
            0, 2, m[0], m[1], m[2], m[3], m[4], m[5], t[0], t[1], t[2], t[3], s[0], s[1], s[2],
            s[3], s[4], s[5], q[0], q[1], q[2], q[3],
        ];
        skb.store(ETH + 6, &reply)?;
        skb.set_macs(&arp.sender_mac, &settings.front_mac)?;
        Ok(Outcome::redirect(Action::ArpReply, skb.send(skb.ifindex())))
    })
}

/// Sees to it that no ARP packet of this node's own ties a VIP to the node's address.
#[inline(never)]
pub fn egress(skb: Skb) -> Outcome {
    outcome(|| {
        let Some(arp) = read(skb) else {
            return Ok(Outcome::pass(Action::Other));
        };
        let mac = multicast_mac(arp.sender);
        if VIPS.get_ptr(&Addr::v4(arp.sender)).is_none() || arp.sender_mac == mac {
            return Ok(Outcome::pass(Action::Other));
        }
        skb.store(ETH + 8, &mac)?;
        Ok(Outcome::pass(Action::ArpRewritten))
    })
}
