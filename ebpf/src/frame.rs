//! Reading and rewriting frames: the only code that calls the kernel's packet helpers.

mod advertisement;
mod extension;
mod ip_option;
mod network;
mod rewrite;
mod skb;

use aya_ebpf::helpers::generated as helper;
use dts_core::{
    addr::{Addr, FlowKey},
    handover::destination,
    segment::{HeaderWords, MAX_OPTIONS, OptionScan, TCP_HEADER, TcpHeader},
};

pub use self::{
    advertisement::make_advertisement,
    extension::{has_extensions, remove_fragment_header},
    ip_option::{
        insert_ip_option, ip_option, may_have_option, remove_ip_option, replace_ip_option,
    },
    network::set_addresses,
    rewrite::{Bare, SYN_ACK_OPTIONS, make_bare, make_syn_ack, replace_options, rewrite},
    skb::Skb,
};
use crate::maps::{IP_HEADER, SCRATCH, SEGMENT, Scratch};

/// The length of an Ethernet header.
pub const ETH: u32 = 14;
/// The length of an IPv4 header without options.
pub const IPV4: u32 = 20;
/// The length of an IPv6 header without extension headers.
pub const IPV6: u32 = 40;
/// EtherTypes.
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocols, and extension headers of IPv6.
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = destination::NEXT_HEADER;

/// What the filter needs of an IPv4 or IPv6 header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ip {
    /// The source address.
    pub src: Addr,
    /// The destination address.
    pub dst: Addr,
    /// The header's length in bytes; with IPv6, the extension headers counted that were read.
    pub header_len: u32,
    /// Header and data, in bytes; taken from the frame where the field is 0 (BIG TCP).
    pub total_len: u32,
    /// The protocol, or the IPv6 extension header that follows.
    pub protocol: u8,
    /// Whether this is a fragment, the first one included.
    pub fragment: bool,
    /// Whether it is an IPv6 header.
    pub v6: bool,
}

/// A frame by its EtherType.
pub enum Frame {
    /// IPv4 or IPv6, with a whole header.
    Ip(&'static Ip),
    /// ARP.
    Arp,
    /// Anything else: another VLAN's as well, and what is too short to be told.
    Other,
}

impl Frame {
    /// Reads the IP header; EtherType and IPv4 header in one go: it is what every packet costs.
    #[inline(always)]
    pub fn parse(skb: Skb) -> Self {
        if skb.is_tagged() {
            return Self::Other;
        }
        // From the last two bytes of the source address on, so that the IP header is whole words. An ARP
        // packet is longer.
        let Some([link, first, second, third, src, dst]) = skb.load_words::<6>(ETH - 4) else {
            return Self::Other;
        };
        match u32::from_be(link) as u16 {
            ETHERTYPE_IPV4 => {}
            ETHERTYPE_ARP => return Self::Arp,
            ETHERTYPE_IPV6 => {
                return if parse_v6(skb) {
                    Self::read()
                } else {
                    Self::Other
                };
            }
            _ => return Self::Other,
        }
        let (first, second, third) = (
            u32::from_be(first),
            u32::from_be(second),
            u32::from_be(third),
        );
        let header_len = (first >> 24 & 0x0f) * 4;
        if first >> 28 != 4 || header_len < IPV4 {
            return Self::Other;
        }
        let total_len = match first & 0xffff {
            0 => skb.len().wrapping_sub(ETH),
            n => n,
        };
        let Some(ip) = header_room() else {
            return Self::Other;
        };
        *ip = Ip {
            src: Addr::v4(src.to_ne_bytes()),
            dst: Addr::v4(dst.to_ne_bytes()),
            header_len,
            total_len,
            protocol: (third >> 16) as u8,
            fragment: second & 0x3fff != 0,
            v6: false,
        };
        Self::Ip(ip)
    }

    /// The header that was read last.
    #[inline(always)]
    fn read() -> Self {
        match header_room() {
            Some(ip) => Self::Ip(ip),
            None => Self::Other,
        }
    }
}

/// This processor's room for a packet's IP header.
#[inline(always)]
fn header_room() -> Option<&'static mut Ip> {
    let room = IP_HEADER.get_ptr_mut(0)?;
    // SAFETY: this CPU's value. A copy that is sent on to another node has its own header read here (`back::egress`) in the
    // middle of the run that sends it: that run goes by its `Segment`, which has the header, and not by this one any more.
    Some(unsafe { &mut *room })
}

/// How many extension headers are read.
const EXTENSIONS: u32 = 2;

/// Reads an IPv6 header into this processor's room, and the headers of destination options and of a fragment that follow:
/// the DTS option is in one of the former.
#[inline(never)]
fn parse_v6(skb: Skb) -> bool {
    let Some([first, second, a, b, c, d, e, f, g, h]) = skb.load_words::<10>(ETH) else {
        return false;
    };
    if u32::from_be(first) >> 28 != 6 {
        return false;
    }
    let second = u32::from_be(second);
    let total_len = match second >> 16 {
        0 => skb.len().wrapping_sub(ETH),
        n => IPV6 + n,
    };
    let (mut protocol, mut header_len, mut fragment) = ((second >> 8) as u8, IPV6, false);
    let mut left = EXTENSIONS;
    while left > 0 && matches!(protocol, DESTINATION_OPTIONS | FRAGMENT) {
        let Some([next, len]) = skb.load::<2>(ETH + header_len) else {
            return false;
        };
        if protocol == FRAGMENT {
            fragment = true;
            header_len += 8;
        } else {
            header_len += (u32::from(len) + 1) * 8;
        }
        protocol = next;
        left -= 1;
    }
    let (src, dst) = (Addr::of_words([a, b, c, d]), Addr::of_words([e, f, g, h]));
    // No address for the wire (RFC 4291 §2.5.5.2), and one of ours would be an IPv4 flow's.
    if src.is_v4() || dst.is_v4() {
        return false;
    }
    let Some(ip) = header_room() else {
        return false;
    };
    *ip = Ip {
        src,
        dst,
        header_len,
        total_len,
        protocol,
        fragment,
        v6: true,
    };
    true
}

impl Ip {
    /// Where the transport header begins.
    #[inline(always)]
    pub const fn l4(&self) -> u32 {
        ETH + self.header_len
    }
}

/// A frame's link-layer addresses: destination, source.
#[inline(always)]
pub fn macs(skb: Skb) -> Option<([u8; 6], [u8; 6])> {
    let m: [u8; 12] = skb.load(0)?;
    Some((
        [m[0], m[1], m[2], m[3], m[4], m[5]],
        [m[6], m[7], m[8], m[9], m[10], m[11]],
    ))
}

/// A TCP segment in a frame.
#[repr(C)]
pub struct Tcp {
    /// The fixed header as it came.
    pub old: HeaderWords,
    /// The header, to be changed.
    pub header: TcpHeader,
}

/// A segment of a service's or of a handover connection's, with what was read of it.
#[repr(C)]
pub struct Segment {
    /// The IP header.
    pub ip: Ip,
    /// The TCP header.
    pub tcp: Tcp,
    /// The client's flow, its local port the public one; set by whoever knows it.
    pub flow: FlowKey,
}

impl Segment {
    /// Reads a segment's TCP header into this processor's room for it.
    #[inline(never)]
    pub fn read(skb: Skb, ip: &Ip) -> Option<&'static mut Self> {
        let room = SEGMENT.get_ptr_mut(0)?;
        // SAFETY: this CPU's value, which only one program run at a time uses: see `options`.
        let room = unsafe { &mut *room };
        room.ip = *ip;
        room.tcp.old = skb.load_words(ip.l4())?;
        let mut header = TcpHeader::parse_words(&room.tcp.old)?;
        let headers = ip.header_len + u32::from(header.header_len);
        if ip.total_len < headers || ETH + headers > skb.len() {
            return None;
        }
        header.payload = ip.total_len - headers;
        room.tcp.header = header;
        Some(room)
    }
}

/// Reads the segment's options into the scratch room and scans them.
#[inline(never)]
pub fn options(skb: Skb, l4: u32, header_len: u32) -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the pointer is to this CPU's value, which only one program run at a time uses: classifiers
    // run with softirqs off, and a copy that is sent on meets no code that uses the scratch room.
    let scratch = unsafe { &mut *scratch };
    // Opaque, so that these stay eight stores: a call of `memset` goes byte by byte.
    let zero = core::hint::black_box(0);
    scratch.scan.len = zero;
    scratch.scan.next = zero;
    scratch.scan.timestamps = zero;
    scratch.scan.sack = zero;
    scratch.scan.sack_edges = zero;
    scratch.scan.mss = zero;
    scratch.scan.scale = zero;
    scratch.scan.sack_permitted = zero;
    // Opaque to the compiler, so that the checks below are made on the register that the verifier
    // sees passed to the helper.
    let len = core::hint::black_box(header_len.wrapping_sub(TCP_HEADER as u32));
    if len == 0 {
        return Some(scratch);
    }
    if len > MAX_OPTIONS as u32 {
        return None;
    }
    // SAFETY: `bytes` has room for 64 bytes, `len` is at most 40; the helper checks the offset.
    let r = unsafe {
        helper::bpf_skb_load_bytes(
            skb.0.cast_const().cast(),
            l4 + TCP_HEADER as u32,
            scratch.scan.bytes.as_mut_ptr().cast(),
            len,
        )
    };
    if r != 0 {
        return None;
    }
    scratch.old = scratch.scan.bytes;
    scratch.scan.len = len;
    if scratch.scan.usual() {
        return Some(scratch);
    }
    let mut context = 0u64;
    // SAFETY: the callback has the signature that bpf_loop calls; it ignores the context.
    unsafe {
        helper::bpf_loop(
            MAX_OPTIONS as u32,
            scan_step as *mut core::ffi::c_void,
            (&raw mut context).cast(),
            0,
        )
    };
    Some(scratch)
}

/// Reads one option: the body of the loop in [`options`].
#[inline(never)]
extern "C" fn scan_step(_index: u64, _context: *mut core::ffi::c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: this CPU's value; the caller waits in bpf_loop and doesn't use it meanwhile.
    let scan: &mut OptionScan = unsafe { &mut (*scratch).scan };
    if scan.step() { 0 } else { 1 }
}
