//! Rewriting frames.
//!
//! # Checksums
//!
//! A frame's TCP checksum is complete, or still to be completed by a network card (then the field
//! holds the pseudo-header's sum only), and a program can't see which. `bpf_l4_csum_replace` can: it
//! ignores changes of the segment itself where the card will sum it, and applies changes of the
//! pseudo-header (`BPF_F_PSEUDO_HDR`) in both cases. So every rewrite here goes through it, and no code
//! writes a checksum that it computed itself. One header stands for a whole GSO frame; its
//! segments inherit it.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, helpers::generated as helper};
use dts_core::segment::{HeaderWords, MAX_OPTIONS, TCP_HEADER, TcpHeader};

use super::{
    ETH, IPV4, Ip, TCP, Tcp,
    skb::{FAILED, Rewrite, Skb, csum_diff},
};
use crate::maps::Scratch;

const IP_TOTAL_LEN: u32 = ETH + 2;
const IP_ADDRESSES: u32 = ETH + 12;
const TCP_CHECKSUM: u32 = 16;

/// Writes a changed header back, and changed options where `scratch` is given.
///
/// The header's length must not change: see [`replace_options`].
#[inline(never)]
pub fn rewrite(skb: Skb, l4: u32, tcp: &Tcp, scratch: Option<&mut Scratch>) -> Rewrite {
    let mut new = tcp.old;
    tcp.header.emit_words(&mut new);
    let mut diff = csum_diff(&tcp.old, &new);
    // Without options the room holds another segment's.
    if let Some(s) = scratch
        && s.scan.len != 0
    {
        diff = options_diff(s, diff);
        write_options(skb, l4, s)?;
    }
    skb.store(l4, &new)?;
    skb.l4_diff(l4 + TCP_CHECKSUM, diff, 0)
}

#[inline(always)]
fn options_diff(s: &Scratch, seed: i64) -> i64 {
    // SAFETY: both arrays have 64 bytes, of which 40 are read. What lies beyond the options is the
    // same in both and cancels out.
    unsafe {
        helper::bpf_csum_diff(
            s.old.as_ptr().cast_mut().cast(),
            MAX_OPTIONS as u32,
            s.scan.bytes.as_ptr().cast_mut().cast(),
            MAX_OPTIONS as u32,
            seed as u32,
        )
    }
}

#[inline(always)]
fn write_options(skb: Skb, l4: u32, s: &Scratch) -> Rewrite {
    let len = core::hint::black_box(s.scan.len);
    if len == 0 || len > MAX_OPTIONS as u32 {
        return Ok(());
    }
    // SAFETY: `bytes` holds 64 bytes, `len` is at most 40; the helper checks the offset.
    let r = unsafe {
        helper::bpf_skb_store_bytes(
            skb.0,
            l4 + TCP_HEADER as u32,
            s.scan.bytes.as_ptr().cast(),
            len,
            0,
        )
    };
    if r == 0 { Ok(()) } else { Err(FAILED) }
}

/// Replaces a SYN's options by forty bytes of others, and writes the changed header.
///
/// `scratch` has the SYN's own options. The frame must end with the header.
#[inline(never)]
pub fn replace_options(
    skb: Skb,
    ip: &Ip,
    tcp: &Tcp,
    scratch: &mut Scratch,
    new_options: &[u8; MAX_OPTIONS],
) -> Rewrite {
    let l4 = ip.l4();
    let mut i = scratch.scan.len;
    // The bytes beyond the old options are not in the old checksum.
    while i < MAX_OPTIONS as u32 {
        scratch.old[(i & 63) as usize] = 0;
        i += 1;
    }
    let mut new = tcp.old;
    tcp.header.emit_words(&mut new);
    let diff = csum_diff(&tcp.old, &new);
    // SAFETY: both arrays have at least 40 bytes.
    let diff = unsafe {
        helper::bpf_csum_diff(
            scratch.old.as_ptr().cast_mut().cast(),
            MAX_OPTIONS as u32,
            new_options.as_ptr().cast_mut().cast(),
            MAX_OPTIONS as u32,
            diff as u32,
        )
    };
    let old_len = (TCP_HEADER as u32 + scratch.scan.len) as u16;
    let new_len = (TCP_HEADER + MAX_OPTIONS) as u16;
    if old_len != new_len {
        skb.resize(l4 + new_len as u32)?;
    }
    // Before any correction of the checksum: this writes the old one back.
    skb.store(l4, &new)?;
    skb.store(l4 + TCP_HEADER as u32, new_options)?;
    skb.l4_diff(l4 + TCP_CHECKSUM, diff, 0)?;
    if old_len != new_len {
        let total = (ip.header_len as u16) + new_len;
        set_total_len(skb, ip.total_len as u16, total)?;
        let old = [0, 0, (old_len >> 8) as u8, old_len as u8];
        let new = [0, 0, (new_len >> 8) as u8, new_len as u8];
        let diff = csum_diff(&old, &new);
        skb.l4_diff(l4 + TCP_CHECKSUM, diff, BPF_F_PSEUDO_HDR.into())?;
    }
    Ok(())
}

#[inline(always)]
fn set_total_len(skb: Skb, old: u16, new: u16) -> Rewrite {
    let (o, n) = (old.to_be_bytes(), new.to_be_bytes());
    skb.l3_diff(csum_diff(&[o[0], o[1], 0, 0], &[n[0], n[1], 0, 0]))?;
    skb.store(IP_TOTAL_LEN, &n)
}

/// Replaces the IP addresses and mends both checksums.
#[inline(never)]
pub fn set_addresses(skb: Skb, ip: &Ip, src: [u8; 4], dst: [u8; 4]) -> Rewrite {
    let old = pair(ip.src, ip.dst);
    let new = pair(src, dst);
    let diff = csum_diff(&old, &new);
    skb.l3_diff(diff)?;
    skb.l4_diff(ip.l4() + TCP_CHECKSUM, diff, BPF_F_PSEUDO_HDR.into())?;
    skb.store(IP_ADDRESSES, &new)
}

#[inline(always)]
const fn pair(a: [u8; 4], b: [u8; 4]) -> [u32; 2] {
    [u32::from_ne_bytes(a), u32::from_ne_bytes(b)]
}

/// A segment without data and options, made by the filter out of another segment's frame.
pub struct Bare {
    /// The source address.
    pub src: [u8; 4],
    /// The destination address.
    pub dst: [u8; 4],
    /// The header; its length is set to 20 bytes.
    pub header: TcpHeader,
}

/// Turns the frame into a bare segment.
#[inline(always)]
pub fn make_bare(skb: Skb, ip: &Ip, bare: &Bare) -> Rewrite {
    bare_ip(skb, ip, bare)?;
    bare_tcp(skb, ip, bare)
}

/// The IP part of a bare segment. Two functions, because together they want too much of the stack.
#[inline(never)]
fn bare_ip(skb: Skb, ip: &Ip, bare: &Bare) -> Rewrite {
    skb.resize(ip.l4() + TCP_HEADER as u32)?;
    set_total_len(
        skb,
        ip.total_len as u16,
        ip.header_len as u16 + TCP_HEADER as u16,
    )?;
    let (old, new) = (pair(ip.src, ip.dst), pair(bare.src, bare.dst));
    skb.l3_diff(csum_diff(&old, &new))?;
    skb.store(IP_ADDRESSES, &new)
}

/// The TCP part of a bare segment.
///
/// The checksum starts as 0, and both sums are put in as differences from nothing: right for frames
/// whose checksum is complete and for those whose card will complete it.
#[inline(never)]
fn bare_tcp(skb: Skb, ip: &Ip, bare: &Bare) -> Rewrite {
    let l4 = ip.l4();
    let mut tcp: HeaderWords = [0; TCP_HEADER / 4];
    TcpHeader {
        header_len: TCP_HEADER as u8,
        reserved: 0,
        urgent: 0,
        ..bare.header
    }
    .emit_words(&mut tcp);
    skb.store(l4, &tcp)?;
    skb.l4_diff(l4 + TCP_CHECKSUM, csum_diff(&[0u32], &tcp), 0)?;
    let [src, dst] = pair(bare.src, bare.dst);
    let protocol_and_len = (TCP as u32) << 16 | TCP_HEADER as u32;
    let pseudo = [src, dst, protocol_and_len.to_be()];
    skb.l4_diff(
        l4 + TCP_CHECKSUM,
        csum_diff(&[0u32], &pseudo),
        BPF_F_PSEUDO_HDR.into(),
    )
}

/// How many bytes of options a SYN-ACK of the filter's has.
pub const SYN_ACK_OPTIONS: usize = 20;

/// Turns the frame, a client's SYN, into a SYN-ACK to the client, with these header fields and options.
///
/// Nothing of the old frame stays but its room and its link-layer addresses: the client's IP header says what the
/// client, and the way from it, wanted.
#[inline(never)]
pub fn make_syn_ack(
    skb: Skb,
    ip: &Ip,
    header: &TcpHeader,
    options: &[u32; SYN_ACK_OPTIONS / 4],
) -> Rewrite {
    const LEN: usize = TCP_HEADER + SYN_ACK_OPTIONS;
    if ip.header_len > IPV4 {
        skb.adjust_room(IPV4 as i32 - ip.header_len as i32)?;
    }
    skb.resize(ETH + IPV4 + LEN as u32)?;
    fresh_ip(skb, ip, LEN as u16)?;
    let l4 = ETH + IPV4;
    let mut tcp: HeaderWords = [0; TCP_HEADER / 4];
    header.emit_words(&mut tcp);
    skb.store(l4, &tcp)?;
    skb.store(l4 + TCP_HEADER as u32, options)?;
    let sum = csum_diff(&[0u32], &tcp);
    skb.l4_diff(l4 + TCP_CHECKSUM, sum, 0)?;
    skb.l4_diff(l4 + TCP_CHECKSUM, csum_diff(&[0u32], options), 0)?;
    let [src, dst] = pair(ip.dst, ip.src);
    let pseudo = [src, dst, ((TCP as u32) << 16 | LEN as u32).to_be()];
    skb.l4_diff(
        l4 + TCP_CHECKSUM,
        csum_diff(&[0u32], &pseudo),
        BPF_F_PSEUDO_HDR.into(),
    )
}

/// Writes an IPv4 header of its own for a segment of `len` bytes in the opposite direction.
#[inline(never)]
fn fresh_ip(skb: Skb, ip: &Ip, len: u16) -> Rewrite {
    const DONT_FRAGMENT: u32 = 0x4000;
    const TTL: u32 = 64;
    let [src, dst] = pair(ip.dst, ip.src);
    let mut words = [
        (0x4500_0000 | (IPV4 + len as u32)).to_be(),
        DONT_FRAGMENT.to_be(),
        (TTL << 24 | (TCP as u32) << 16).to_be(),
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

/// Replaces the header's first option, one of sixteen bytes.
#[inline(never)]
pub fn replace_ip_option(skb: Skb, old: &[u8; 16], new: &[u8; 16]) -> Rewrite {
    skb.l3_diff(csum_diff(old, new))?;
    skb.store(ETH + IPV4, new)
}

/// Puts an IPv4 option of sixteen bytes into the header, before all others: the kernel makes and takes
/// room right after the header's fixed part.
#[inline(never)]
pub fn insert_ip_option(skb: Skb, ip: &Ip, option: &[u8; 16]) -> Rewrite {
    if ip.header_len > 60 - 16 {
        return Err(FAILED);
    }
    skb.adjust_room(16)?;
    skb.store(ETH + IPV4, option)?;
    set_ip_len(
        skb,
        ip.header_len,
        ip.header_len + 16,
        ip.total_len,
        ip.total_len + 16,
    )?;
    skb.l3_diff(csum_diff(&[0u8; 4], option))
}

/// Takes an IPv4 option of sixteen bytes, the header's first, out again.
#[inline(never)]
pub fn remove_ip_option(skb: Skb, ip: &Ip, option: &[u8; 16]) -> Rewrite {
    if ip.header_len < IPV4 + 16 {
        return Err(FAILED);
    }
    skb.l3_diff(csum_diff(option, &[0u8; 4]))?;
    set_ip_len(
        skb,
        ip.header_len,
        ip.header_len - 16,
        ip.total_len,
        ip.total_len - 16,
    )?;
    skb.adjust_room(-16)
}

#[inline(always)]
fn set_ip_len(skb: Skb, old_ihl: u32, ihl: u32, old_total: u32, total: u32) -> Rewrite {
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
