//! A packet as the kernel hands it to a program, and what the kernel does with it on request.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::generated as helper,
};
use dts_core::verdict::DropReason;

use super::ETH;

const IP_CHECKSUM: u32 = ETH + 10;

/// A packet, as the kernel hands it to a program.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

/// The outcome of a rewrite: an error is a helper call that the kernel refused.
pub type Rewrite = Result<(), DropReason>;

pub(super) const FAILED: DropReason = DropReason::RewriteFailed;

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

    /// Whether the frame was sent to this interface's own link-layer address. A switch floods frames to addresses that it
    /// doesn't know.
    #[inline(always)]
    pub fn is_for_us(self) -> bool {
        // SAFETY: as in `len`; PACKET_HOST is 0.
        unsafe { (*self.0).pkt_type == 0 }
    }

    /// Whether the frame has the tag of a VLAN that isn't this interface's. (The tag 0 says a priority and no VLAN, IEEE
    /// 802.1Q §9.6; a VLAN's own interface sees no tag.)
    #[inline(always)]
    pub fn is_tagged(self) -> bool {
        // SAFETY: as in `len`.
        unsafe { (*self.0).vlan_present != 0 && (*self.0).vlan_tci & 0x0fff != 0 }
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
    pub fn load_words<const N: usize>(self, offset: u32) -> Option<[u32; N]> {
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

    /// Overwrites bytes that no checksum of the packet's own covers, such as those of an IPv6 header, and has the kernel
    /// mend the sum over the whole frame that a network card may have made.
    #[inline(always)]
    pub(super) fn store_summed<B: Block>(self, offset: u32, block: &B) -> Rewrite {
        let from = (&raw const *block).cast_mut().cast();
        let (len, flags) = (size_of::<B>() as u32, BPF_F_RECOMPUTE_CSUM.into());
        // SAFETY: as in `store`.
        let r = unsafe { helper::bpf_skb_store_bytes(self.0, offset, from, len, flags) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    /// Mends the sum over the whole frame that a network card may have made. There is none for most frames: then this
    /// does nothing.
    #[inline(always)]
    pub(super) fn add_to_sum(self, diff: i64) {
        // SAFETY: plain helper call on the context.
        unsafe { helper::bpf_csum_update(self.0, diff as u32) };
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

    /// Lets a copy of the packet arrive on an interface.
    #[inline(always)]
    pub fn arrive_copy(self, ifindex: u32) -> Rewrite {
        // SAFETY: plain helper call on the context.
        let r = unsafe { helper::bpf_clone_redirect(self.0, ifindex, BPF_F_INGRESS.into()) };
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
    pub(super) fn l3_diff(self, diff: i64) -> Rewrite {
        // SAFETY: plain helper call on the context; size 0 applies a difference.
        let r =
            unsafe { helper::bpf_l3_csum_replace(self.0, IP_CHECKSUM, 0, diff as u32 as u64, 0) };
        if r == 0 { Ok(()) } else { Err(FAILED) }
    }

    #[inline(always)]
    pub(super) fn l4_diff(self, field: u32, diff: i64, flags: u64) -> Rewrite {
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
pub(super) fn csum_diff<A: Block, B: Block>(from: &A, to: &B) -> i64 {
    csum_diff_from(0, from, to)
}

/// The same, added to another difference.
#[inline(always)]
pub(super) fn csum_diff_from<A: Block, B: Block>(seed: i64, from: &A, to: &B) -> i64 {
    const { assert!(size_of::<A>().is_multiple_of(4) && size_of::<B>().is_multiple_of(4)) };
    // SAFETY: the helper reads as many bytes as both have; it needs no alignment beyond the stack's.
    unsafe {
        helper::bpf_csum_diff(
            (&raw const *from).cast_mut().cast(),
            size_of::<A>() as u32,
            (&raw const *to).cast_mut().cast(),
            size_of::<B>() as u32,
            seed as u32,
        )
    }
}
