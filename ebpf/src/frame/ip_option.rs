//! The option that travels in an IP header: sixteen bytes, as an IPv4 option or in a header of IPv6 destination options
//! (`dts_core::handover::destination`).

use dts_core::handover::{
    destination::{self, PREFIX},
    release::{LEN, Room},
};

use super::{
    ETH, IPV4, IPV6, Ip,
    network::set_length,
    skb::{FAILED, Rewrite, Skb, csum_diff},
};

const OPTION: u32 = LEN as u32;
/// The length of the header that has it with IPv6.
const HEADER: u32 = destination::LEN as u32;
/// Where an IPv6 header says what follows it.
pub(super) const V6_NEXT_HEADER: u32 = ETH + 6;

impl Ip {
    /// By how many bytes the option makes the header longer.
    #[inline(always)]
    pub const fn option_room(&self) -> u32 {
        if self.v6 { HEADER } else { OPTION }
    }

    #[inline(always)]
    const fn base(&self) -> u32 {
        if self.v6 { IPV6 } else { IPV4 }
    }

    #[inline(always)]
    const fn option_at(&self) -> u32 {
        if self.v6 {
            ETH + IPV6 + destination::OPTION as u32
        } else {
            ETH + IPV4
        }
    }
}

/// The sixteen bytes where the option is; `None` when the header has no room for it.
#[inline(always)]
pub fn ip_option(skb: Skb, ip: &Ip) -> Option<[u8; LEN]> {
    if !may_have_option(ip) {
        return None;
    }
    if ip.v6 {
        let before = skb.load::<{ destination::OPTION }>(ETH + IPV6)?;
        if u32::from_be_bytes(before) != u32::from_be_bytes(PREFIX) {
            return None;
        }
    }
    skb.load::<LEN>(ip.option_at())
}

/// Whether the header is long enough to have the option.
#[inline(always)]
pub const fn may_have_option(ip: &Ip) -> bool {
    ip.header_len >= ip.base() + ip.option_room()
}

/// Replaces the option in the header.
#[inline(never)]
pub fn replace_ip_option(skb: Skb, ip: &Ip, old: &[u8; LEN], new: &[u8; LEN]) -> Rewrite {
    if ip.v6 {
        return skb.store_summed(ip.option_at(), new);
    }
    skb.l3_diff(csum_diff(old, new))?;
    skb.store(ETH + IPV4, new)
}

/// Puts the option into the header, before all others: the kernel makes and takes room right after the header's fixed
/// part.
#[inline(never)]
pub fn insert_ip_option(skb: Skb, ip: &Ip, option: &[u8; LEN]) -> Rewrite {
    if ip.v6 {
        return insert_v6(skb, ip, option);
    }
    if ip.header_len > 60 - OPTION {
        return Err(FAILED);
    }
    skb.adjust_room(OPTION as i32)?;
    skb.store(ETH + IPV4, option)?;
    set_v4_len(
        skb,
        [ip.header_len, ip.header_len + OPTION],
        [ip.total_len, ip.total_len + OPTION],
    )?;
    skb.l3_diff(csum_diff(&[0u8; 4], option))
}

#[inline(never)]
fn insert_v6(skb: Skb, ip: &Ip, option: &[u8; LEN]) -> Rewrite {
    if ip.header_len > IPV6 {
        return Err(FAILED);
    }
    let mut header = destination::Header::default();
    destination::emit(&Room { bytes: *option }, &mut header);
    skb.adjust_room(HEADER as i32)?;
    skb.store(ETH + IPV6, &header.bytes)?;
    skb.add_to_sum(csum_diff(&[0u8; 4], &header.bytes));
    set_length(skb, ip, ip.total_len + HEADER)?;
    skb.store_summed(V6_NEXT_HEADER, &[destination::NEXT_HEADER])
}

/// Takes the option out of the header again, whose first it is.
#[inline(never)]
pub fn remove_ip_option(skb: Skb, ip: &Ip, option: &[u8; LEN]) -> Rewrite {
    if ip.v6 {
        return remove_v6(skb, ip);
    }
    if ip.header_len < IPV4 + OPTION {
        return Err(FAILED);
    }
    skb.l3_diff(csum_diff(option, &[0u8; 4]))?;
    set_v4_len(
        skb,
        [ip.header_len, ip.header_len - OPTION],
        [ip.total_len, ip.total_len - OPTION],
    )?;
    // The kernel takes what goes out of the frame's sum. The header's own must stay zero.
    skb.add_to_sum(csum_diff(&[0u8; 4], option));
    skb.adjust_room(-(OPTION as i32))
}

#[inline(never)]
fn remove_v6(skb: Skb, ip: &Ip) -> Rewrite {
    if ip.header_len != IPV6 + HEADER {
        return Err(FAILED);
    }
    let Some(next) = skb.load::<1>(ETH + IPV6) else {
        return Err(FAILED);
    };
    set_length(skb, ip, ip.total_len - HEADER)?;
    skb.store_summed(V6_NEXT_HEADER, &next)?;
    // The kernel takes what goes out of the frame's sum.
    skb.adjust_room(-(HEADER as i32))
}

#[inline(always)]
fn set_v4_len(skb: Skb, [old_ihl, ihl]: [u32; 2], [old_total, total]: [u32; 2]) -> Rewrite {
    let first: [u8; 4] = skb.load(ETH).ok_or(FAILED)?;
    let (o, n) = (
        (old_total as u16).to_be_bytes(),
        (total as u16).to_be_bytes(),
    );
    let old = [0x40 | (old_ihl / 4) as u8, first[1], o[0], o[1]];
    let new = [0x40 | (ihl / 4) as u8, first[1], n[0], n[1]];
    skb.l3_diff(csum_diff(&old, &new))?;
    skb.store(ETH, &new)
}
