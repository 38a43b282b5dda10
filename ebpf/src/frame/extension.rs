//! IPv6 extension headers that clients' packets may have.

use dts_core::verdict::DropReason;

use super::{
    DESTINATION_OPTIONS, ETH, HOP_BY_HOP, IPV6, Ip, ROUTING, TCP,
    ip_option::V6_NEXT_HEADER,
    network::set_length,
    skb::{Rewrite, Skb},
};

/// The length of a fragment header.
const FRAGMENT_HEADER: u32 = 8;
/// Its field of the fragment's offset, without the reserved bits, and the bit that says that more fragments follow.
const PLACE: u16 = 0xfff9;

/// Whether a packet has IPv6 extension headers, read or not.
#[inline(always)]
pub const fn has_extensions(ip: &Ip) -> bool {
    ip.v6
        && (ip.header_len != IPV6
            || matches!(ip.protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS))
}

/// Takes the fragment header out of an atomic fragment: one that is the first and the last, the whole segment (RFC 6946).
/// Translators of address families make them, and hosts that were told of an MTU below IPv6's least (RFC 2460 §5).
///
/// Any other fragment is an error, and what is not TCP: neighbour discovery, for one, must not come in fragments (RFC
/// 6980).
#[inline(always)]
pub fn remove_fragment_header(skb: Skb, ip: &Ip) -> Rewrite {
    const REASON: DropReason = DropReason::Fragment;
    if !ip.v6 || ip.protocol != TCP || ip.header_len != IPV6 + FRAGMENT_HEADER {
        return Err(REASON);
    }
    let Some([next, _, high, low]) = skb.load::<4>(ETH + IPV6) else {
        return Err(REASON);
    };
    if u16::from_be_bytes([high, low]) & PLACE != 0 {
        return Err(REASON);
    }
    if ip.total_len < ip.header_len {
        return Err(DropReason::Malformed);
    }
    set_length(skb, ip, ip.total_len - FRAGMENT_HEADER)?;
    skb.store_summed(V6_NEXT_HEADER, &[next])?;
    // The kernel takes what goes out of the frame's sum.
    skb.adjust_room(-(FRAGMENT_HEADER as i32))
}
