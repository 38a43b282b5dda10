//! Rewriting IP headers of both families, and from one to the other.
//!
//! A handover connection goes by the nodes' own network, whatever the family of the client: a segment changes its
//! family on the way between the two.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, helpers::generated as helper};
use dts_core::addr::Addr;

use super::{
    ETH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4, IPV6, Ip, TCP,
    rewrite::TCP_CHECKSUM,
    skb::{FAILED, Rewrite, Skb, csum_diff},
};

const V4_TOTAL_LEN: u32 = ETH + 2;
const V4_ADDRESSES: u32 = ETH + 12;
const V6_PAYLOAD_LEN: u32 = ETH + 4;
const V6_ADDRESSES: u32 = ETH + 8;
/// The hop limit of headers that the filter makes: what Linux begins with.
const HOPS: u32 = 64;

/// Two addresses one behind the other, IPv4 ones mapped.
#[inline(always)]
pub(super) const fn pair(a: &Addr, b: &Addr) -> [u32; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (a.words(), b.words());
    [a, b, c, d, e, f, g, h]
}

/// Changes the length that the IP header says; `total` is that of header and data.
#[inline(always)]
pub(super) fn set_length(skb: Skb, ip: &Ip, total: u32) -> Rewrite {
    if ip.v6 {
        return skb.store_summed(V6_PAYLOAD_LEN, &((total - IPV6) as u16).to_be_bytes());
    }
    let (o, n) = (
        (ip.total_len as u16).to_be_bytes(),
        (total as u16).to_be_bytes(),
    );
    skb.l3_diff(csum_diff(&[o[0], o[1], 0, 0], &[n[0], n[1], 0, 0]))?;
    skb.store(V4_TOTAL_LEN, &n)
}

/// Replaces the IP addresses, also by those of the other family, and mends the checksums.
#[inline(always)]
pub fn set_addresses(skb: Skb, ip: &Ip, src: &Addr, dst: &Addr) -> Rewrite {
    replace_addresses(skb, ip, src, dst)?;
    follow_family(skb, ip, src, dst)
}

/// The addresses in the TCP checksum, and in a header that stays of its family.
#[inline(never)]
fn replace_addresses(skb: Skb, ip: &Ip, src: &Addr, dst: &Addr) -> Rewrite {
    // What the mapped addresses have more is the same in both.
    let diff = csum_diff(&pair(&ip.src, &ip.dst), &pair(src, dst));
    skb.l4_diff(ip.l4() + TCP_CHECKSUM, diff, BPF_F_PSEUDO_HDR.into())?;
    write_addresses(skb, ip, src, dst)
}

/// Changes the family of a header that had addresses of the other one.
#[inline(always)]
pub(super) fn follow_family(skb: Skb, ip: &Ip, src: &Addr, dst: &Addr) -> Rewrite {
    if ip.v6 == src.is_v4() {
        return change_family(skb, ip, src, dst);
    }
    Ok(())
}

/// Replaces the IP addresses in a header that stays of its family; [`follow_family`] does the rest.
#[inline(always)]
pub(super) fn write_addresses(skb: Skb, ip: &Ip, src: &Addr, dst: &Addr) -> Rewrite {
    if ip.v6 == src.is_v4() {
        return Ok(());
    }
    let new = pair(src, dst);
    if ip.v6 {
        return skb.store_summed(V6_ADDRESSES, &new);
    }
    let [.., s, _, _, _, d] = new;
    let [.., from, _, _, _, to] = pair(&ip.src, &ip.dst);
    skb.l3_diff(csum_diff(&[from, to], &[s, d]))?;
    skb.store(V4_ADDRESSES, &[s, d])
}

/// Replaces the IP header by one of the other family. What it carries stays, and so does what it says of congestion.
#[inline(never)]
fn change_family(skb: Skb, ip: &Ip, src: &Addr, dst: &Addr) -> Rewrite {
    let (base, protocol) = if ip.v6 {
        (IPV6, ETHERTYPE_IPV4)
    } else {
        (IPV4, ETHERTYPE_IPV6)
    };
    if ip.header_len > base {
        skb.adjust_room(base as i32 - ip.header_len as i32)?;
    }
    let Some(old) = skb.load::<8>(ETH) else {
        return Err(FAILED);
    };
    // Of the header as it is now: the length may have been changed since it was read. It counts options, too.
    let (field, class, counted) = if ip.v6 {
        (
            [old[4], old[5]],
            old[0] << 4 | old[1] >> 4,
            ip.header_len - IPV6,
        )
    } else {
        ([old[2], old[3]], old[1], ip.header_len)
    };
    let len = match u16::from_be_bytes(field) {
        // BIG TCP.
        0 => skb.len().wrapping_sub(ETH + base),
        n => u32::from(n).wrapping_sub(counted),
    };
    if ip.v6 {
        forget_v6(skb)?;
    }
    // SAFETY: plain helper call on the context.
    if unsafe { helper::bpf_skb_change_proto(skb.0, protocol.to_be(), 0) } != 0 {
        return Err(FAILED);
    }
    skb.store(ETH - 2, &protocol.to_be_bytes())?;
    if ip.v6 {
        fresh_v4(skb, [src, dst], len, class)
    } else {
        fresh_v6(skb, [src, dst], len, class)
    }
}

/// Writes a header for a segment of `len` bytes in the opposite direction of the one that had this header.
#[inline(never)]
pub(super) fn fresh_answer(skb: Skb, ip: &Ip, len: u32) -> Rewrite {
    if ip.v6 {
        fresh_v6(skb, [&ip.dst, &ip.src], len, 0)
    } else {
        fresh_v4(skb, [&ip.dst, &ip.src], len, 0)
    }
}

/// Writes an IPv4 header without options for a segment of `len` bytes.
#[inline(always)]
fn fresh_v4(skb: Skb, [src, dst]: [&Addr; 2], len: u32, class: u8) -> Rewrite {
    const DONT_FRAGMENT: u32 = 0x4000;
    let ([.., src], [.., dst]) = (src.words(), dst.words());
    let mut words = [
        (0x4500_0000 | u32::from(class) << 16 | (IPV4 + len) & 0xffff).to_be(),
        DONT_FRAGMENT.to_be(),
        (HOPS << 24 | (TCP as u32) << 16).to_be(),
        src,
        dst,
    ];
    let sum = csum_diff(&[0u32], &words) as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // The sum is of words as they are in memory.
    let [first, second] = (!(sum as u16)).to_ne_bytes();
    words[2] |= u32::from_ne_bytes([0, 0, first, second]);
    skb.store(ETH, &words)
}

/// Writes an IPv6 header for a segment of `len` bytes.
#[inline(always)]
fn fresh_v6(skb: Skb, [src, dst]: [&Addr; 2], len: u32, class: u8) -> Rewrite {
    let head = [
        (6 << 28 | u32::from(class) << 20).to_be(),
        ((len & 0xffff) << 16 | (TCP as u32) << 8 | HOPS).to_be(),
    ];
    skb.store(ETH, &head)?;
    skb.store(V6_ADDRESSES, &pair(src, dst))?;
    skb.add_to_sum(csum_diff(&[0u32], &head));
    skb.add_to_sum(csum_diff(&[0u32], &pair(src, dst)));
    Ok(())
}

/// Takes an IPv6 header's second half out of the frame's sum: the kernel does so with the half that it takes out of the
/// frame. An IPv4 header's sum is always zero.
#[inline(always)]
fn forget_v6(skb: Skb) -> Rewrite {
    let Some(words) = skb.load_words::<5>(ETH + IPV6 - IPV4) else {
        return Err(FAILED);
    };
    skb.add_to_sum(csum_diff(&words, &[0u32]));
    Ok(())
}
