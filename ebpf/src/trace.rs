//! What single packets meet, told to the daemon while somebody traces.
//!
//! A run's beginning notes the frame's headers, its end makes a record of them, of the headers as they are by then and of
//! the verdict. While nobody traces, both look at one word of a map and do nothing.
//!
//! **Verification.** [`trace_begin`] and [`trace_end`] are *global* functions: the kernel verifies each by itself, once.
//! In the programs, whose verification has little to spare, a trace is two calls of which nothing is known.
//!
//! **Runs within runs.** A copy that is sent out meets an egress program before the run that sends it goes on. So each
//! program has a room of its own for what came; and the one program that can meet its own copy, `front_egress`, changes
//! nothing of that copy, which is marked.

use aya_ebpf::{bindings::__sk_buff, helpers::generated as helper};
use dts_core::{
    addr::{Addr, FlowKey},
    decide::Ownership,
    entry::{
        ConnEntry, NodeSettings, PeerKey, ServiceKey, adoption::track, flag, role, service_kind,
    },
    segment::SYN,
    trace::{Ends, HEADERS, TraceRecord, TraceSettings, known, program, wish},
    verdict::{Action, DropReason, Verdict},
};

use crate::{
    TO_CLIENT,
    entries::entry,
    facts::{now_ns, ownership, settings},
    frame::Skb,
    maps::{
        ADOPTIONS, Came, HANDOVERS, PEERS, SERVICES, TRACE, TRACE_ROOM, TRACES, TRACES_LEN,
        TRACES_MISSED, TraceRoom,
    },
};

/// `BPF_RB_NO_WAKEUP`: the daemon looks by itself, so often and at so many records at a time as it can bear.
const NO_WAKEUP: u64 = 1;

/// `BPF_RB_AVAIL_DATA`: how many bytes of the buffer wait for the daemon.
const AVAILABLE: u64 = 0;

/// What a record takes of the buffer, with its head.
const ROOM: u64 = size_of::<TraceRecord>() as u64 + 8;

/// What is no business of any node's.
const OTHER: u32 = Verdict::Done(Action::Other).counter();

/// What is to be traced, if anything.
#[inline(always)]
fn wanted() -> Option<&'static TraceSettings> {
    let settings = TRACE.get(0)?;
    (settings.until != 0).then_some(settings)
}

/// A program's run begins.
#[inline(always)]
pub fn begin(skb: Skb, program: u32) {
    if wanted().is_some() {
        trace_begin(skb.0, program);
    }
}

/// A program's run ends, with the verdict of this counter.
#[inline(always)]
pub fn end(skb: Skb, program: u32, verdict: u32) {
    if wanted().is_some() {
        trace_end(skb.0, program, verdict);
    }
}

#[inline(always)]
fn room() -> Option<&'static mut TraceRoom> {
    let room = TRACE_ROOM.get_ptr_mut(0)?;
    // SAFETY: this CPU's value; runs on one CPU are not at the same time, and the head of this file says what becomes of
    // one within another.
    Some(unsafe { &mut *room })
}

/// What a program's packet was when it came. Masked, because the verifier doesn't see a comparison's result in the number
/// that is multiplied.
#[inline(always)]
fn came_to(room: &mut TraceRoom, program: u32) -> &mut Came {
    const { assert!(program::COUNT == 4) };
    &mut room.came[(core::hint::black_box(program) & 3) as usize]
}

/// Notes a packet as it comes. Always 0: a global function returns a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn trace_begin(skb: *mut __sk_buff, program: u32) -> i32 {
    let skb = Skb(skb);
    let (Some(wanted), Some(room)) = (wanted(), room()) else {
        return 0;
    };
    if now_ns() > wanted.until {
        return 0;
    }
    let mark = skb.mark();
    if program == program::FRONT_EGRESS && mark == TO_CLIENT {
        room.unchanged = 1;
        return 0;
    }
    room.unchanged = 0;
    let came = came_to(room, program);
    came.len = skb.len();
    came.mark = mark;
    came.valid = copy(skb, &mut came.headers).into();
    0
}

/// Copies the frame's first bytes.
#[inline(always)]
fn copy(skb: Skb, to: &mut [u8; HEADERS]) -> bool {
    let len = skb.len();
    // Opaque, so that the checks are made on the register that the helper gets.
    let len = core::hint::black_box(if len > HEADERS as u32 {
        HEADERS as u32
    } else {
        len
    });
    if len == 0 || len > HEADERS as u32 {
        return false;
    }
    // SAFETY: `to` has room for as many bytes as `len` can be; the helper checks the frame's length.
    let r = unsafe {
        helper::bpf_skb_load_bytes(skb.0.cast_const().cast(), 0, to.as_mut_ptr().cast(), len)
    };
    r == 0
}

/// Makes a record of a packet that has met its verdict, if it is one that somebody wants. Always 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn trace_end(skb: *mut __sk_buff, program: u32, verdict: u32) -> i32 {
    let skb = Skb(skb);
    let (Some(wanted), Some(room), Some(settings)) = (wanted(), room(), settings()) else {
        return 0;
    };
    if !take_came(skb, room, program) || verdict == OTHER || !copy(skb, &mut room.record.after) {
        return 0;
    }
    room.record.lengths[1] = skb.len();
    room.record.verdict = verdict;
    room.record.program = program;
    read_ends(room);
    if room.ends[0].valid == 0 {
        return 0;
    }
    find_flow(room, settings);
    if !wanted.wants(&room.record.flow) {
        return 0;
    }
    if is_extra(room) {
        if wanted.flags & wish::ALL == 0 {
            return 0;
        }
        room.record.known |= known::EXTRA;
    }
    // In a flood this is where most ends: the rest, a lock among it, would be in vain.
    let is_full = TRACES.query(AVAILABLE) + ROOM > TRACES_LEN.into();
    if (is_full || !tell(room))
        && let Some(missed) = TRACES_MISSED.get_ptr_mut(0)
    {
        // SAFETY: this CPU's value.
        unsafe { *missed += 1 };
    }
    0
}

/// Completes the record and puts it into the buffer; `false` when there is no room.
#[inline(always)]
fn tell(room: &mut TraceRoom) -> bool {
    add_known(room);
    room.record.time = now_ns();
    TRACES
        .output::<TraceRecord>(&room.record, NO_WAKEUP)
        .is_ok()
}

/// Puts the packet as it came into the record; `false` when that was not noted.
#[inline(always)]
fn take_came(skb: Skb, room: &mut TraceRoom, program: u32) -> bool {
    if room.unchanged != 0 {
        room.unchanged = 0;
        room.record.mark = TO_CLIENT;
        room.record.lengths[0] = skb.len();
        return copy(skb, &mut room.record.before);
    }
    let came = came_to(room, program);
    if came.valid == 0 {
        return false;
    }
    came.valid = 0;
    let Came { len, mark, .. } = *came;
    room.record.mark = mark;
    room.record.lengths[0] = len;
    room.record.before = came_to(room, program).headers;
    true
}

#[inline(never)]
fn read_ends(room: &mut TraceRoom) {
    let lengths = room.record.lengths;
    room.ends[0].read(&room.record.before, lengths[0]);
    room.ends[1].read(&room.record.after, lengths[1]);
}

/// Finds out whose connection the packet belongs to: by its addresses before or after, or by what is known of the
/// handover connection that it belongs to.
#[inline(never)]
fn find_flow(room: &mut TraceRoom, settings: &NodeSettings) {
    let [came, went] = &room.ends;
    let flow = &mut room.record.flow;
    *flow = FlowKey::default();
    room.record.known = 0;
    if by_service(came, flow) || (went.valid != 0 && by_service(went, flow)) {
        return;
    }
    match room.record.program {
        program::FRONT_INGRESS => {
            *flow = came.from_client();
            return;
        }
        program::FRONT_EGRESS => {
            *flow = came.to_client();
            return;
        }
        _ => {}
    }
    let port = settings.handover_port as u16;
    // Ours is the end with the other port, be it here that it is used (at the inspecting node) or there.
    let (own, peer, peer_port) = if came.destination_port == port {
        (came.source_port, came.source, came.source_port)
    } else if came.source_port == port {
        (
            came.destination_port,
            came.destination,
            came.destination_port,
        )
    } else {
        return;
    };
    let egress = room.record.program == program::BACK_EGRESS;
    if egress == (came.destination_port == port) {
        if let Some(handover) = HANDOVERS.get(own.into())
            && handover.flags & flag::USED != 0
        {
            *flow = handover.flow;
            room.record.peer = handover.target;
            room.record.known = known::PEER;
        }
        return;
    }
    let key = PeerKey {
        peer,
        port: peer_port.into(),
    };
    if let Some(of) = PEERS.get_ptr(&key) {
        // SAFETY: a map value stays valid for the program's run.
        *flow = unsafe { *of };
    }
}

/// The flow, if one of a segment's ends is a service's.
#[inline(always)]
fn by_service(ends: &Ends, flow: &mut FlowKey) -> bool {
    if let Some(port) = service_port(&ends.destination, ends.destination_port) {
        *flow = ends.from_client();
        flow.local_port = port;
        return true;
    }
    if let Some(port) = service_port(&ends.source, ends.source_port) {
        *flow = ends.to_client();
        flow.local_port = port;
        return true;
    }
    false
}

/// The public port of the service that an address and port, the public or the inspector's, belong to.
#[inline(always)]
fn service_port(vip: &Addr, port: u16) -> Option<u16> {
    let key = ServiceKey {
        vip: *vip,
        port: port.into(),
    };
    let service = SERVICES.get_ptr(&key)?;
    // SAFETY: a map value stays valid for the program's run.
    let service = unsafe { &*service };
    Some(if service.kind == service_kind::INSPECTOR {
        service.other_port
    } else {
        port
    })
}

/// Whether a packet is told only to those who want all: what is another node's, and the second pass of what is told of
/// already.
#[inline(never)]
fn is_extra(room: &TraceRoom) -> bool {
    const REDIRECTED: u32 = Verdict::Done(Action::Redirected).counter();
    const NOT_OWNER: u32 = Verdict::Drop(DropReason::NotOwner).counter();
    const NOT_MINE: u32 = Verdict::Drop(DropReason::NotMine).counter();
    const HANDED_OVER: u32 = Verdict::Drop(DropReason::HandedOver).counter();
    match room.record.verdict {
        REDIRECTED | NOT_OWNER | HANDED_OVER => true,
        NOT_MINE => !ends_handshake(room),
        _ => false,
    }
}

/// Whether a segment is, perhaps, the acknowledgment of a SYN-ACK that this node's filter has made: of this node's arc,
/// and of a connection that nothing is known of yet.
#[inline(always)]
fn ends_handshake(room: &TraceRoom) -> bool {
    let flow = &room.record.flow;
    if !room.ends[0].only_acknowledges() || flow.remote_port == 0 {
        return false;
    }
    if let Some(record) = ADOPTIONS.get_ptr(flow) {
        // SAFETY: a map value stays valid for the program's run; its fields are words that are written whole.
        let track = unsafe { (*record).track };
        if track & track::STALE == 0 {
            return false;
        }
    }
    matches!(ownership(&flow.remote, flow.remote_port), Ownership::Owner)
}

/// Adds what the node's maps know of the connection.
#[inline(never)]
fn add_known(room: &mut TraceRoom) {
    let record = &mut room.record;
    record.reserved = 0;
    if let Some(e) = entry(&record.flow, role::PROCESSING) {
        add_entry(record, e, true);
        return;
    }
    if let Some(e) = entry(&record.flow, role::INSPECTING) {
        add_entry(record, e, e.has(flag::ANSWERED));
        return;
    }
    if room.ends[0].flags & SYN != 0 {
        return;
    }
    if let Some(adoption) = ADOPTIONS.get_ptr(&record.flow) {
        // SAFETY: a map value stays valid for the program's run; its fields are words that are written whole.
        let adoption = unsafe { &*adoption };
        if adoption.track & track::STALE == 0 {
            record.known |= known::CLIENT_ISN | known::SERVER_ISN | known::PEER;
            record.client_isn = adoption.client_isn.0;
            record.server_isn = adoption.server_isn.0;
            record.peer = adoption.target;
        }
    }
}

#[inline(always)]
fn add_entry(record: &mut TraceRecord, e: &ConnEntry, answered: bool) {
    record.known |= known::CLIENT_ISN;
    record.client_isn = e.client_isn.0;
    if answered {
        record.known |= known::SERVER_ISN;
        record.server_isn = e.server_isn.0;
    }
    if record.known & known::PEER == 0 && e.peer != Addr::default() {
        record.known |= known::PEER;
        record.peer = e.peer;
    }
}
