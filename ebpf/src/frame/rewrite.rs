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
use dts_core::{
    addr::Addr,
    segment::{HeaderWords, MAX_OPTIONS, TCP_HEADER, TcpHeader},
};

use super::{
    ETH, IPV4, IPV6, Ip, TCP, Tcp,
    network::{follow_family, fresh_answer, pair, set_length, write_addresses},
    skb::{FAILED, Rewrite, Skb, csum_diff, csum_diff_from},
};
use crate::maps::Scratch;

pub(super) const TCP_CHECKSUM: u32 = 16;

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
        set_length(skb, ip, ip.header_len + u32::from(new_len))?;
        let old = [0, 0, (old_len >> 8) as u8, old_len as u8];
        let new = [0, 0, (new_len >> 8) as u8, new_len as u8];
        let diff = csum_diff(&old, &new);
        skb.l4_diff(l4 + TCP_CHECKSUM, diff, BPF_F_PSEUDO_HDR.into())?;
    }
    Ok(())
}

/// A segment without data and options, made by the filter out of another segment's frame.
pub struct Bare<'a> {
    /// The source address.
    pub src: &'a Addr,
    /// The destination address, of the same family.
    pub dst: &'a Addr,
    /// The header; its length is set to 20 bytes.
    pub header: TcpHeader,
}

/// Turns the frame into a bare segment.
#[inline(always)]
pub fn make_bare(skb: Skb, ip: &Ip, bare: &Bare<'_>) -> Rewrite {
    bare_tcp(skb, ip, bare)?;
    bare_ip(skb, ip, bare)?;
    follow_family(skb, ip, bare.src, bare.dst)
}

/// The IP part of a bare segment. Two functions, because together they want too much of the stack.
#[inline(never)]
fn bare_ip(skb: Skb, ip: &Ip, bare: &Bare<'_>) -> Rewrite {
    set_length(skb, ip, ip.header_len + TCP_HEADER as u32)?;
    write_addresses(skb, ip, bare.src, bare.dst)
}

/// The TCP part of a bare segment.
///
/// The checksum starts as 0, and both sums are put in as differences from nothing: right for frames
/// whose checksum is complete and for those whose card will complete it.
#[inline(never)]
fn bare_tcp(skb: Skb, ip: &Ip, bare: &Bare<'_>) -> Rewrite {
    let l4 = ip.l4();
    skb.resize(l4 + TCP_HEADER as u32)?;
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
    pseudo_header(skb, l4, [bare.src, bare.dst], TCP_HEADER as u32)
}

/// Puts a pseudo-header's sum into a checksum that has none yet. The sum of an IPv4 pseudo-header is the same with
/// addresses that are mapped: the ones of the prefix are a zero, twice.
#[inline(always)]
fn pseudo_header(skb: Skb, l4: u32, [src, dst]: [&Addr; 2], len: u32) -> Rewrite {
    let pair = pair(src, dst);
    let rest = [((TCP as u32) << 16 | len).to_be()];
    let sum = csum_diff_from(csum_diff(&[0u32], &pair), &[0u32], &rest);
    skb.l4_diff(l4 + TCP_CHECKSUM, sum, BPF_F_PSEUDO_HDR.into())
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
    const LEN: u32 = (TCP_HEADER + SYN_ACK_OPTIONS) as u32;
    let base = if ip.v6 { IPV6 } else { IPV4 };
    if ip.header_len > base {
        skb.adjust_room(base as i32 - ip.header_len as i32)?;
    }
    let l4 = ETH + base;
    skb.resize(l4 + LEN)?;
    fresh_answer(skb, ip, LEN)?;
    let mut tcp: HeaderWords = [0; TCP_HEADER / 4];
    header.emit_words(&mut tcp);
    skb.store(l4, &tcp)?;
    skb.store(l4 + TCP_HEADER as u32, options)?;
    let sum = csum_diff(&[0u32], &tcp);
    skb.l4_diff(l4 + TCP_CHECKSUM, sum, 0)?;
    skb.l4_diff(l4 + TCP_CHECKSUM, csum_diff(&[0u32], options), 0)?;
    pseudo_header(skb, l4, [&ip.dst, &ip.src], LEN)
}
