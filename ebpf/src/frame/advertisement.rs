//! Neighbour advertisements (RFC 4861 §4.4), made out of solicitations.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use dts_core::addr::Addr;

use super::{
    ETH, ICMPV6, IPV6,
    network::pair,
    skb::{Rewrite, Skb, csum_diff, csum_diff_from},
};

/// An advertisement with the sender's link address.
const LEN: u32 = 32;
const CHECKSUM: u32 = 2;
const ADVERTISEMENT: u32 = 136;
/// Flags: it answers a question; it replaces what is known.
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;

/// Turns the frame into an advertisement of `from`'s link address to `to`.
#[inline(never)]
pub fn make_advertisement(
    skb: Skb,
    [from, to]: [&Addr; 2],
    mac: &[u8; 6],
    solicited: bool,
) -> Rewrite {
    let (l4, m) = (ETH + IPV6, mac);
    skb.resize(l4 + LEN)?;
    let head = [
        (6u32 << 28).to_be(),
        (LEN << 16 | (ICMPV6 as u32) << 8 | 255).to_be(),
    ];
    let addresses = pair(from, to);
    skb.store(ETH, &head)?;
    skb.store(ETH + 8, &addresses)?;
    let flags = OVERRIDE | if solicited { SOLICITED } else { 0 };
    let [a, b, c, d] = from.words();
    let message = [
        (ADVERTISEMENT << 24).to_be(),
        flags.to_be(),
        a,
        b,
        c,
        d,
        u32::from_ne_bytes([2, 1, m[0], m[1]]),
        u32::from_ne_bytes([m[2], m[3], m[4], m[5]]),
    ];
    skb.store(l4, &message)?;
    skb.l4_diff(l4 + CHECKSUM, csum_diff(&[0u32], &message), 0)?;
    let rest = [(LEN + ICMPV6 as u32).to_be()];
    let sum = csum_diff_from(csum_diff(&[0u32], &addresses), &[0u32], &rest);
    skb.l4_diff(l4 + CHECKSUM, sum, BPF_F_PSEUDO_HDR.into())
}
