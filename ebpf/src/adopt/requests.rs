//! Later requests of a connection: each goes to the node that the rules say.
//!
//! The node whose server has the connection follows it. A request may go elsewhere when it is known where it begins (the
//! one before it was a head and nothing else), the response to the one before it is complete by its own framing and
//! acknowledged, and the server's socket agrees. Everything else, such as pipelined requests, bodies, upgrades, chunked
//! responses, stays where it is, for good.

use aya_ebpf::helpers::generated as helper;
use dts_core::{
    decide::adopt::{self, Data},
    entry::{
        NodeSettings, ServiceEntry,
        adoption::{Adoption, ruling, stage, track},
    },
    handover::AGREED_TIMESTAMPS,
    head::HEAD,
    response::ResponseHead,
    segment::{ACK, FIN, RST, TcpHeader, write32},
    seq::Seq,
    verdict::{Action, DropReason},
};

use super::{adopt_room, again, readdress, recall, record, rules};
use crate::{
    FROM_BACK, Outcome,
    facts::{now_ms, now_ns},
    frame::{Bare, ETH, Segment, Skb, macs, make_bare, options, remove_ip_option, rewrite},
    maps::{ADOPT_ROOM, AdoptRoom, TARGETS},
    outcome,
    sockets::SockRef,
};

/// A client's data for a socket of this node's server.
#[inline(never)]
pub(super) fn ingress(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let Some(known) = record(segment) else {
            return Ok(pass(skb));
        };
        match adopt::data(&segment.tcp.header, known) {
            Data::Pass => Ok(pass(skb)),
            Data::Lost => {
                known.track = 0;
                Ok(pass(skb))
            }
            Data::Again => Ok(again(skb, segment, settings)),
            Data::Request => {
                if !goes_elsewhere(skb, segment, known, (service, settings)) {
                    return Ok(pass(skb));
                }
                Ok(move_on(skb, segment, known, settings))
            }
        }
    })
}

#[inline(always)]
fn pass(skb: Skb) -> Outcome {
    skb.accept();
    Outcome::pass(Action::Pass)
}

/// Whether a request belongs to another node's server and may go there; the room's record has the target then. Follows the
/// connection to the request.
#[inline(never)]
fn goes_elsewhere(
    skb: Skb,
    segment: &Segment,
    known: &mut Adoption,
    (service, settings): (&ServiceEntry, &NodeSettings),
) -> bool {
    let Ok(room) = adopt_room() else {
        return false;
    };
    recall(known, room);
    room.record.track = 0;
    let ruled = rules::rule(skb, segment, service, room);
    let track = room.record.track;
    // What can't be followed any further is let go.
    known.track = track;
    if track & track::ON == 0 {
        return false;
    }
    known.next_request = segment.tcp.header.end();
    known.response = segment.tcp.header.ack;
    room.record.ruling = ruled;
    if ruled == ruling::ASK || !rules::resolve(segment, room, settings) {
        return false;
    }
    room.record.target != settings.address
        && TARGETS.get_ptr(&room.record.target).is_some()
        && is_idle(skb, segment, room)
}

/// Whether the server's socket has nothing under way and nothing that its server has not read; its numbers are in the
/// room then.
#[inline(never)]
fn is_idle(skb: Skb, segment: &Segment, room: &mut AdoptRoom) -> bool {
    let Some(sk) = SockRef::lookup(skb, &segment.flow) else {
        return false;
    };
    let Some(tcp) = sk.connection() else {
        return false;
    };
    let header = &segment.tcp.header;
    room.stamp_offset = tcp.stamp_offset();
    room.interval = sk.round_trip_ms();
    tcp.is_drained(header.seq.0, header.ack.0)
}

/// Gives a request to another node, and ends the connection here: the server sees its client close it, the client nothing.
#[inline(never)]
fn move_on(
    skb: Skb,
    segment: &mut Segment,
    known: &mut Adoption,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let room = adopt_room()?;
        note_macs(skb, room)?;
        if !can_reach(room) {
            return Ok(pass(skb));
        }
        note_move(segment, known, room);
        recall(known, room);
        // A copy that is lost is repeated with the client's segment.
        let _ = forward_copy(skb, segment, room, settings);
        skb.set_macs(&room.own_mac, &known.mac)?;
        Ok(end_here(skb, segment, settings))
    })
}

/// Whether the link-layer address of the target in the room is known.
#[inline(always)]
fn can_reach(room: &AdoptRoom) -> bool {
    match TARGETS.get_ptr(&room.record.target) {
        // SAFETY: a map value stays valid for the program's run; only the daemon writes, whole values.
        Some(target) => unsafe { (*target).mac != [0; 6] },
        None => false,
    }
}

/// Notes the frame's link-layer addresses.
#[inline(never)]
fn note_macs(skb: Skb, room: &mut AdoptRoom) -> Result<(), DropReason> {
    let Some((own, client)) = macs(skb) else {
        return Err(DropReason::Malformed);
    };
    (room.own_mac, room.record.mac) = (own, client);
    Ok(())
}

/// Notes that a connection's present request has gone to the target in the room.
#[inline(never)]
fn note_move(segment: &Segment, known: &mut Adoption, room: &AdoptRoom) {
    let t = &segment.tcp.header;
    known.track |= track::MOVED;
    known.stage = stage::SENT;
    known.target = room.record.target;
    known.ruling = room.record.ruling;
    known.client_isn = t.seq.minus(1);
    known.server_isn = t.ack.minus(1);
    known.mac = room.record.mac;
    known.since = now_ms();
    known.stamp_offset = room.stamp_offset;
    known.print = u64::from(room.interval);
}

/// Sends a copy of the segment to the target, and leaves the segment as it was.
#[inline(never)]
fn forward_copy(
    skb: Skb,
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    readdress(skb, segment, room, settings)?;
    let sent = skb.send_copy(settings.back);
    // In any case: what follows is made of the segment as it was.
    remove_option(skb, segment, room)?;
    sent
}

#[inline(always)]
fn remove_option(skb: Skb, segment: &Segment, room: &AdoptRoom) -> Result<(), DropReason> {
    let mut ip = segment.ip;
    ip.header_len += ip.option_room();
    ip.total_len += ip.option_room();
    remove_ip_option(skb, &ip, &room.option.bytes)
}

/// Has the segment echo a timestamp that is as old as a round trip takes: the new socket measures its first one by it, and
/// what the client echoes may be as old as its last thought.
#[inline(never)]
pub(super) fn restamp(skb: Skb, segment: &Segment, room: &AdoptRoom) -> Result<(), DropReason> {
    if room.record.terms().agreed & AGREED_TIMESTAMPS == 0 {
        return Ok(());
    }
    let l4 = segment.ip.l4();
    let Some(scratch) = options(skb, l4, segment.tcp.header.header_len.into()) else {
        return Err(DropReason::Malformed);
    };
    let at = scratch.scan.timestamps;
    if at == 0 {
        return Ok(());
    }
    let present = ((now_ns() / 1_000_000) as u32).wrapping_add(room.record.stamp_offset);
    let echo = present.wrapping_sub(room.record.print as u32);
    write32(&mut scratch.scan.bytes, at + 4, echo);
    rewrite(skb, l4, &segment.tcp, Some(scratch))
}

/// Ends the server's socket: a FIN, so that the server reads the end of its connection, and behind it a reset, so that
/// nothing of the socket is left.
#[inline(never)]
fn end_here(skb: Skb, segment: &mut Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let (seq, ack) = (segment.tcp.header.seq, segment.tcp.header.ack);
        bare(skb, segment, (seq.plus(1), Seq(0)), RST)?;
        skb.set_mark(FROM_BACK);
        let copied = skb.arrive_copy(settings.front);
        skb.set_mark(0);
        copied?;
        bare(skb, segment, (seq, ack), FIN | ACK)?;
        skb.accept();
        Ok(Outcome::pass(Action::MovedOn))
    })
}

/// Turns the client's segment into one without data.
#[inline(never)]
fn bare(
    skb: Skb,
    segment: &mut Segment,
    (seq, ack): (Seq, Seq),
    flags: u8,
) -> Result<(), DropReason> {
    let header = TcpHeader {
        seq,
        ack,
        flags,
        ..segment.tcp.header
    };
    let (src, dst) = (&segment.ip.src, &segment.ip.dst);
    make_bare(skb, &segment.ip, &Bare { src, dst, header })?;
    segment.ip.total_len = segment.ip.header_len + 20;
    Ok(())
}

/// Looks for the end of the response that begins with this segment of the server's.
#[inline(never)]
pub(super) fn follow_response(skb: Skb, segment: &Segment, known: &mut Adoption) {
    let t = &segment.tcp.header;
    if known.track & (track::ON | track::KNOWN) != track::ON || t.payload == 0 {
        return;
    }
    if t.seq != known.response {
        // Repeated, or what was lost sight of.
        if t.seq.is_after(known.response) {
            known.track = 0;
        }
        return;
    }
    let no_body = known.track & track::NO_BODY != 0;
    match response_len(skb, segment, no_body) {
        0 => known.track = 0,
        len => {
            known.response = known.response.plus(len);
            known.track |= track::KNOWN;
        }
    }
}

/// How many bytes the response has that begins with this segment; 0 when that is not known.
#[inline(never)]
fn response_len(skb: Skb, segment: &Segment, no_body: bool) -> u32 {
    let Ok(room) = adopt_room() else { return 0 };
    let t = &segment.tcp.header;
    // Opaque to the compiler, so that the checks below are made on the register that the verifier sees.
    let len = core::hint::black_box(t.payload);
    let len = if len > HEAD as u32 { HEAD as u32 } else { len };
    if len == 0 || len > HEAD as u32 {
        return 0;
    }
    // SAFETY: there is room for HEAD bytes, which `len` is not above; the helper checks the offset.
    let r = unsafe {
        helper::bpf_skb_load_bytes(
            skb.0.cast_const().cast(),
            ETH + segment.ip.header_len + u32::from(t.header_len),
            room.bytes.as_mut_ptr().cast(),
            len,
        )
    };
    if r != 0 {
        return 0;
    }
    room.response = ResponseHead::new(len);
    let mut context = 0u64;
    // SAFETY: the callback has the signature that bpf_loop calls; it ignores the context.
    unsafe {
        helper::bpf_loop(
            len + 1,
            response_step as *mut core::ffi::c_void,
            (&raw mut context).cast(),
            0,
        )
    };
    room.response.len(no_body).unwrap_or(0)
}

/// Reads some bytes of the response's head: the body of the loop in [`response_len`].
#[inline(never)]
extern "C" fn response_step(_index: u64, _context: *mut core::ffi::c_void) -> i64 {
    let Some(room) = ADOPT_ROOM.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: this CPU's value; the caller waits in bpf_loop and doesn't use it meanwhile.
    let room = unsafe { &mut *room };
    i64::from(!room.response.step(&room.bytes))
}
