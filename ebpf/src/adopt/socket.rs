//! The making of sockets: the kernel makes one of a client's own segment, for the listener of its flow.

use dts_core::{
    entry::{
        NodeSettings,
        adoption::{stage, track},
    },
    handover::{AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS},
    verdict::{Action, DropReason},
};

use super::{
    note,
    seen::{fingerprint, seen},
};
use crate::{
    Outcome, Step,
    facts::now_ms,
    frame::{Segment, Skb, options},
    maps::AdoptRoom,
    outcome,
    sockets::SockRef,
};

/// Gives a client's first segment to the server's listener; the record in the room says what of.
#[inline(always)]
pub(super) fn adopt(
    skb: Skb,
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| adopted(skb, try_adopt(skb, segment, room, settings)))
}

/// What becomes of a segment of which a socket was to be made. Without a listener the kernel answers with a reset.
#[inline(always)]
pub(super) fn adopted(skb: Skb, made: Result<(), DropReason>) -> Step {
    let action = match made {
        Ok(()) => Action::Adopted,
        Err(reason) if is_no_service(reason) => Action::Refused,
        Err(reason) => return Err(reason),
    };
    skb.accept();
    Ok(Outcome::pass(action))
}

/// Whether nothing listens here. By number: comparing the reasons themselves would call the kernel's `memcmp`.
#[inline(always)]
pub(super) fn is_no_service(reason: DropReason) -> bool {
    reason as u32 == DropReason::NoService as u32
}

/// Has the kernel make the server's socket of a client's first segment, and notes that. [`DropReason::NoService`]: nothing
/// listens, and nothing is noted.
#[inline(never)]
pub(super) fn try_adopt(
    skb: Skb,
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    skb.set_mark(0);
    if segment.tcp.header.seq != room.record.client_isn.plus(1) {
        return Err(DropReason::TooEarly);
    }
    fingerprint(segment, room, settings);
    if seen(room.record.print) {
        return Err(DropReason::DuplicateRequest);
    }
    make_socket(skb, segment, room, settings)?;
    (room.record.stage, room.record.since) = (stage::HERE, now_ms());
    // Its own node follows it from here on.
    room.record.track &= track::ON | track::NO_BODY;
    room.record.next_request = segment.tcp.header.end();
    room.record.response = segment.tcp.header.ack;
    note(segment, room)
}

/// Has the kernel make a socket of a segment, for the listener of its flow. [`DropReason::NoService`]: there is none.
#[inline(never)]
pub(super) fn make_socket(
    skb: Skb,
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    describe(skb, segment, room, settings)?;
    let Some(sk) = SockRef::lookup(skb, &segment.flow) else {
        return Err(DropReason::NoService);
    };
    if !sk.listens() {
        return Err(DropReason::NotAdopted);
    }
    let Some(listener) = sk.listener() else {
        return Err(DropReason::NotAdopted);
    };
    if listener.queue_is_full() {
        return Err(DropReason::QueueFull);
    }
    if listener.adopt(skb, &mut room.attributes) {
        Ok(())
    } else {
        Err(DropReason::NotAdopted)
    }
}

/// Says what the kernel must know of the connection. In its callers, or calls would be nested too deeply.
#[inline(always)]
pub(super) fn describe(
    skb: Skb,
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    let header_len = segment.tcp.header.header_len;
    let Some(scratch) = options(skb, segment.ip.l4(), header_len.into()) else {
        return Err(DropReason::Malformed);
    };
    let (tsval, tsecr) = scratch.scan.timestamp_pair().unwrap_or((0, 0));
    let terms = room.record.terms();
    let has = |agreed: u32| u8::from(terms.agreed & agreed != 0);
    let a = &mut room.attributes;
    (a.rcv_tsval, a.rcv_tsecr) = (tsval, tsecr.wrapping_add(room.interval));
    a.mss = terms.mss;
    a.snd_wscale = terms.client_scale;
    a.rcv_wscale = settings.announced_scale;
    a.ecn_ok = has(AGREED_ECN);
    a.wscale_ok = has(AGREED_SCALE);
    a.sack_ok = has(AGREED_SACK);
    a.tstamp_ok = has(AGREED_TIMESTAMPS);
    a.usec_ts_ok = 0;
    a.reserved = [0; 3];
    if a.wscale_ok == 0 {
        a.rcv_wscale = 0;
    }
    Ok(())
}
