//! Requests that this node's servers have had: a late copy of one must not be a second one.

use dts_core::{entry::NodeSettings, siphash::siphash24_words};

use crate::{frame::Segment, maps::AdoptRoom, memory};

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

/// Whether this node's server has had the request with this fingerprint.
#[inline(always)]
pub(super) fn seen(print: u64) -> bool {
    memory::seen(print).is_none()
}

/// Remembers a request.
#[inline(always)]
pub(super) fn remember(print: u64) {
    if let Some(place) = memory::seen(print) {
        memory::remember(print, place);
    }
}
