//! Requests that this node's servers have had: a late copy of one must not be a second one.

use dts_core::{
    entry::{
        NodeSettings,
        adoption::{SEEN_BUCKET, SEEN_BUCKETS, SEEN_SECONDS, SEEN_TIME, Seen},
    },
    siphash::siphash24_words,
};

use crate::{
    facts::now_ns,
    frame::Segment,
    maps::{AdoptRoom, SEEN},
};

/// Notes the fingerprint of a connection in the room's record.
#[inline(never)]
pub(super) fn fingerprint(segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) {
    let flow = &segment.flow;
    let ([remote, remote_rest], [local, local_rest]) =
        (flow.remote.words_le(), flow.local.words_le());
    let ports = u64::from(flow.remote_port) << 16 | u64::from(flow.local_port);
    let words = [
        remote,
        remote_rest,
        local,
        local_rest,
        ports << 32 | u64::from(room.record.client_isn.0),
    ];
    room.record.print = siphash24_words(&settings.tag_key, words);
}

/// The bucket that a fingerprint belongs into.
#[inline(always)]
fn bucket(print: u64) -> Option<&'static mut Seen> {
    let bucket = SEEN.get_ptr_mut(print as u32 & (SEEN_BUCKETS - 1))?;
    // SAFETY: a map value stays valid; its words are written whole. Two writers at once may lose one of them, which
    // costs no more than a memory of a connection.
    Some(unsafe { &mut *bucket })
}

#[inline(always)]
fn seconds() -> u64 {
    (now_ns() / 1_000_000_000) & SEEN_TIME
}

#[inline(always)]
fn age(entry: u64, now: u64) -> u64 {
    now.wrapping_sub(entry) & SEEN_TIME
}

/// Whether this node's server has had the request with this fingerprint.
#[inline(always)]
pub(super) fn seen(print: u64) -> bool {
    let (Some(bucket), now) = (bucket(print), seconds()) else {
        return false;
    };
    let mut i = 0;
    while i < SEEN_BUCKET {
        let entry = bucket[i];
        let same = (entry ^ print) & !SEEN_TIME == 0;
        if entry != 0 && same && age(entry, now) <= SEEN_SECONDS {
            return true;
        }
        i += 1;
    }
    false
}

/// Remembers a request, in place of the one that is the longest ago.
#[inline(always)]
pub(super) fn remember(print: u64) {
    let (Some(bucket), now) = (bucket(print), seconds()) else {
        return;
    };
    let (mut oldest, mut most) = (0usize, 0);
    let mut i = 0;
    while i < SEEN_BUCKET {
        let age = if bucket[i] == 0 {
            u64::MAX
        } else {
            age(bucket[i], now)
        };
        if age > most {
            (oldest, most) = (i, age);
        }
        i += 1;
    }
    bucket[oldest & (SEEN_BUCKET - 1)] = print & !SEEN_TIME | now;
}
