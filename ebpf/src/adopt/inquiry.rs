//! Requests for the daemon's inspector: copies of the client's segments, nothing of which is acknowledged.

use aya_ebpf::{bindings::BPF_RB_FORCE_WAKEUP, helpers::generated as helper};
use dts_core::{
    entry::adoption::{INQUIRY_DATA, Inquiry, asks, stage, track},
    segment::FIN,
    seq::Seq,
    verdict::{Action, DropReason},
};

use super::record;
use crate::{
    Outcome,
    frame::{Segment, Skb, macs, options},
    maps::{INQUIRY_ROOM, InquiryRoom, REQUESTS},
    outcome,
};

const CHUNK: u32 = INQUIRY_DATA as u32;
const HEAD: u32 = size_of::<Inquiry>() as u32;

/// The most records that a segment takes.
const RECORDS: u32 = 65_536 / CHUNK;

struct Rest {
    skb: Skb,
    /// Where the data stands that has not been copied yet.
    at: u32,
    len: u32,
    failed: u32,
}

/// Gives the daemon a copy of a segment whose connection has a record.
#[inline(never)]
pub(super) fn inquire(skb: Skb, segment: &Segment) -> Outcome {
    outcome(|| {
        let Some(room) = INQUIRY_ROOM.get_ptr_mut(0) else {
            return Err(DropReason::RewriteFailed);
        };
        // SAFETY: this CPU's value; one program run at a time uses it, as `frame::options` explains.
        let room = unsafe { &mut *room };
        fill(skb, segment, &mut room.head)?;
        let t = &segment.tcp.header;
        let mut rest = Rest {
            skb,
            at: segment.ip.l4() + u32::from(t.header_len),
            len: t.payload,
            failed: 0,
        };
        // SAFETY: the callback has the signature that bpf_loop calls, and gets a pointer to the rest.
        unsafe {
            helper::bpf_loop(
                RECORDS,
                step as *mut core::ffi::c_void,
                (&raw mut rest).cast(),
                0,
            )
        };
        if rest.failed != 0 {
            return Err(DropReason::InspectorBusy);
        }
        Ok(Outcome::end(Action::Inquired))
    })
}

/// Fills in what all records of a segment say.
#[inline(never)]
fn fill(skb: Skb, segment: &Segment, head: &mut Inquiry) -> Result<(), DropReason> {
    let t = &segment.tcp.header;
    let (Some(known), Some((_, mac))) = (record(segment), macs(skb)) else {
        return Err(DropReason::NoEntry);
    };
    let Some(scratch) = options(skb, segment.ip.l4(), t.header_len.into()) else {
        return Err(DropReason::Malformed);
    };
    let (tsval, tsecr) = scratch.scan.timestamp_pair().unwrap_or((0, 0));
    head.flow = segment.flow;
    head.client_isn = known.client_isn;
    head.server_isn = known.server_isn;
    head.seq = t.seq;
    (head.tsval, head.tsecr) = (tsval, tsecr);
    head.terms = known.terms;
    (head.window, head.flags) = (t.window, t.flags);
    head.asks = if known.stage == stage::SENT {
        asks::SILENT
    } else if known.track & track::ASK != 0 {
        asks::KNOWN
    } else {
        asks::DECIDE
    };
    (head.mac, head.padding) = (mac, [0; 2]);
    Ok(())
}

/// Writes one record: the body of the loop in [`inquire`].
#[inline(never)]
extern "C" fn step(_index: u64, context: *mut core::ffi::c_void) -> i64 {
    // SAFETY: `inquire` passes a pointer to its rest.
    let rest = unsafe { &mut *context.cast::<Rest>() };
    let Some(room) = INQUIRY_ROOM.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: this CPU's value; the caller waits in bpf_loop and doesn't use it meanwhile.
    let room: &mut InquiryRoom = unsafe { &mut *room };
    let len = core::hint::black_box(if rest.len > CHUNK { CHUNK } else { rest.len });
    if len > CHUNK {
        return 1;
    }
    if len != 0 {
        // SAFETY: there is room for CHUNK bytes, which `len` is not above; the helper checks the offset.
        let r = unsafe {
            helper::bpf_skb_load_bytes(
                rest.skb.0.cast_const().cast(),
                rest.at,
                room.data.as_mut_ptr().cast(),
                len,
            )
        };
        if r != 0 {
            rest.failed = 1;
            return 1;
        }
    }
    let flags = room.head.flags;
    let last = rest.len == len;
    if !last {
        room.head.flags = flags & !FIN;
    }
    room.head.len = len;
    // SAFETY: the room has the record's head, and `len` bytes behind it.
    let r = unsafe {
        helper::bpf_ringbuf_output(
            (&raw const REQUESTS).cast_mut().cast(),
            (&raw mut *room).cast(),
            (HEAD + len).into(),
            if last { BPF_RB_FORCE_WAKEUP.into() } else { 0 },
        )
    };
    if r != 0 {
        rest.failed = 1;
        return 1;
    }
    room.head.flags = flags;
    room.head.seq = Seq(room.head.seq.0.wrapping_add(len));
    rest.at += len;
    rest.len -= len;
    i64::from(last)
}
