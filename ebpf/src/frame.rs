//! Reading and rewriting frames: the only code that calls the kernel's packet helpers.
//!
//! # Checksums
//!
//! A frame's TCP checksum is complete, or still to be completed by a network card (then the field
//! holds the pseudo-header's sum only), and a program can't see which. `bpf_l4_csum_replace` can: it
//! ignores changes of the segment itself where the card will sum it, and applies changes of the
//! pseudo-header (`BPF_F_PSEUDO_HDR`) in both cases. So every rewrite here goes through it, and no code
//! writes a checksum that it computed itself. One header stands for a whole GSO frame; its
//! segments inherit it.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_PSEUDO_HDR},
    helpers::generated as helper,
};
use dts_core::{
    addr::FlowKey,
    segment::{HeaderWords, MAX_OPTIONS, OptionScan, TCP_HEADER, TcpHeader},
    verdict::DropReason,
};

use crate::maps::{SCRATCH, SEGMENT, Scratch};

/// The length of an Ethernet header.
pub const ETH: u32 = 14;
/// The length of an IPv4 header without options.
pub const IPV4: u32 = 20;
/// EtherTypes.
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
/// IP protocols.
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;

const IP_TOTAL_LEN: u32 = ETH + 2;
const IP_CHECKSUM: u32 = ETH + 10;
const IP_ADDRESSES: u32 = ETH + 12;
const TCP_CHECKSUM: u32 = 16;

/// A packet, as the kernel hands it to a program.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

/// The outcome of a rewrite: an error is a helper call that the kernel refused.
pub type Rewrite = Result<(), DropReason>;

const FAILED: DropReason = DropReason::RewriteFailed;

impl Skb {
    /// The frame's length in bytes.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0).len }
    }

    /// The interface that the program runs on.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).ifindex }
    }

    /// The packet's mark.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).mark }
    }

    /// Sets the packet's mark.
    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as in `len`; the field is writable for classifiers.
        unsafe { (*self.0).mark = mark }
    }

    /// The `N` bytes at `offset`; `None` beyond the end.
    #[inline(always)]
    pub fn load<const N: usize>(self, offset: u32) -> Option<[u8; N]> {
        // Not zeroed first: that would be a loop, byte by byte.
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `bytes` has room for N bytes; the helper checks the offset.
        let r = unsafe {
            helper::bpf_skb_load_bytes(
                self.0.cast_const().cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if r != 0 {
            return None;
        }
        // SAFETY: the helper has written all N bytes when it returns 0.
        Some(unsafe { bytes.assume_init() })
    }

    /// The `N` words at `offset`, as they are in the frame; `None` beyond the end.
    #[inline(always)]
    fn load_words<const N: usize>(self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: `words` has room for N words; the helper checks the offset.
        let r = unsafe {
            helper::bpf_skb_load_bytes(
                self.0.cast_const().cast(),
                offset,
                words.as_mut_ptr().cast(),
                size_of::<[u32; N]>() as u32,
            )
        };
        if r != 0 {
            return None;
        }
        // SAFETY: the helper has written all N words when it returns 0.
        Some(unsafe { words.assume_init() })
    }

    /// Overwrites the bytes at `offset` by those of a [`Block`].
    #[inline(always)]
    pub fn store<B: Block>(self, offset: u32, block: &B) -> Rewrite {
        let from = (&raw const *block).cast_mut().cast();
        // SAFETY: a block has as many bytes as its size says; the helper checks the offset.
        let r =
            unsafe { helper::bpf_skb_store_bytes(self.0, offset, from, size_of::<B>() as u32, 0) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    /// Says that the packet is for this host, whatever the link-layer address it was sent to.
    #[inline(always)]
    pub fn accept(self) {
        // SAFETY: plain helper call on the context; PACKET_HOST is 0.
        unsafe { helper::bpf_skb_change_type(self.0, 0) };
    }

    /// Sends the packet out of an interface; the result is the program's return value.
    #[inline(always)]
    pub fn send(self, ifindex: u32) -> i32 {
        // SAFETY: plain helper call.
        unsafe { helper::bpf_redirect(ifindex, 0) as i32 }
    }

    /// Lets the packet arrive on an interface; the result is the program's return value.
    #[inline(always)]
    pub fn arrive(self, ifindex: u32) -> i32 {
        // SAFETY: plain helper call.
        unsafe { helper::bpf_redirect(ifindex, BPF_F_INGRESS.into()) as i32 }
    }

    /// Sends a copy of the packet out of an interface.
    #[inline(always)]
    pub fn send_copy(self, ifindex: u32) -> Rewrite {
        // SAFETY: plain helper call on the context.
        let r = unsafe { helper::bpf_clone_redirect(self.0, ifindex, 0) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    /// Cuts or extends the frame to `len` bytes.
    #[inline(always)]
    pub fn resize(self, len: u32) -> Rewrite {
        // SAFETY: plain helper call on the context.
        let r = unsafe { helper::bpf_skb_change_tail(self.0, len, 0) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    /// Makes room between IP header and TCP header, or takes it out (negative).
    #[inline(always)]
    pub fn adjust_room(self, by: i32) -> Rewrite {
        // SAFETY: plain helper call on the context; mode 0 is BPF_ADJ_ROOM_NET.
        let r = unsafe { helper::bpf_skb_adjust_room(self.0, by, 0, 0) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    /// Sets the link-layer addresses.
    #[inline(always)]
    pub fn set_macs(self, destination: &[u8; 6], source: &[u8; 6]) -> Rewrite {
        let (d, s) = (destination, source);
        let macs = [
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ];
        self.store(0, &macs)
    }

    #[inline(always)]
    fn l3_diff(self, diff: i64) -> Rewrite {
        // SAFETY: plain helper call on the context; size 0 applies a difference.
        let r =
            unsafe { helper::bpf_l3_csum_replace(self.0, IP_CHECKSUM, 0, diff as u32 as u64, 0) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    #[inline(always)]
    fn l4_diff(self, field: u32, diff: i64, flags: u64) -> Rewrite {
        // SAFETY: plain helper call on the context; size 0 applies a difference.
        let r = unsafe { helper::bpf_l4_csum_replace(self.0, field, 0, diff as u32 as u64, flags) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    /// Replaces four bytes of an ICMP message and mends its checksum.
    #[inline(always)]
    pub fn replace_icmp(self, icmp: u32, offset: u32, old: [u8; 4], new: [u8; 4]) -> Rewrite {
        self.l4_diff(icmp + 2, csum_diff(&old, &new), 0)?;
        self.store(offset, &new)
    }
}

/// Bytes or words to be put into a frame as they are in memory.
///
/// # Safety
///
/// The type has no padding.
pub unsafe trait Block {}
// SAFETY: arrays of integers have no padding.
unsafe impl<const N: usize> Block for [u8; N] {}
// SAFETY: the same.
unsafe impl<const N: usize> Block for [u32; N] {}

/// The difference that replacing `from` by `to` makes to a checksum.
#[inline(always)]
fn csum_diff<A: Block, B: Block>(from: &A, to: &B) -> i64 {
    const { assert!(size_of::<A>().is_multiple_of(4) && size_of::<B>().is_multiple_of(4)) };
    // SAFETY: the helper reads as many bytes as both have; it needs no alignment beyond the stack's.
    unsafe {
        helper::bpf_csum_diff(
            (&raw const *from).cast_mut().cast(),
            size_of::<A>() as u32,
            (&raw const *to).cast_mut().cast(),
            size_of::<B>() as u32,
            0,
        )
    }
}

/// What the filter needs of an IPv4 header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ip {
    /// The source address.
    pub src: [u8; 4],
    /// The destination address.
    pub dst: [u8; 4],
    /// The header's length in bytes.
    pub header_len: u32,
    /// Header and data, in bytes; taken from the frame where the field is 0 (BIG TCP).
    pub total_len: u32,
    /// The protocol.
    pub protocol: u8,
    /// Whether this is a fragment, the first one included.
    pub fragment: bool,
}

/// A frame by its EtherType.
pub enum Frame {
    /// IPv4, with a whole header.
    Ipv4(Ip),
    /// ARP.
    Arp,
    /// Anything else, and what is too short to be told.
    Other,
}

impl Frame {
    /// Reads EtherType and IPv4 header, in one go: it is what every packet costs.
    #[inline(always)]
    pub fn parse(skb: Skb) -> Self {
        // From the last two bytes of the source address on, so that the IP header is whole words. An ARP
        // packet is longer.
        let Some([link, first, second, third, src, dst]) = skb.load_words::<6>(ETH - 4) else {
            return Self::Other;
        };
        match u32::from_be(link) as u16 {
            ETHERTYPE_IPV4 => {}
            ETHERTYPE_ARP => return Self::Arp,
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
        Self::Ipv4(Ip {
            src: src.to_ne_bytes(),
            dst: dst.to_ne_bytes(),
            header_len,
            total_len,
            protocol: (third >> 16) as u8,
            fragment: second & 0x3fff != 0,
        })
    }
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
