//! Memories of what this node has accepted: see `dts_core::entry::memory`.

use aya_ebpf::maps::Array;
use dts_core::{
    entry::{HANDED_SECONDS, NodeSettings, adoption::SEEN_SECONDS, memory},
    handover::HandoverOption,
};

use crate::{
    facts::now_seconds,
    maps::{HANDED, PLACE_ROOM, SEEN},
};

/// Where a request is to be remembered; `None` when this node's server has had it.
#[inline(never)]
pub fn seen(print: u64) -> Option<&'static mut u64> {
    place(&SEEN, print, SEEN_SECONDS)
}

/// Where a handover is to be remembered, its fingerprint being noted in `print`; `None` when it was accepted before.
#[inline(never)]
pub fn handed(
    option: &HandoverOption,
    print: &mut u64,
    settings: &NodeSettings,
) -> Option<&'static mut u64> {
    fingerprint(option, print, settings);
    place(&HANDED, *print, HANDED_SECONDS)
}

/// A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn fingerprint(option: &HandoverOption, print: &mut u64, settings: &NodeSettings) {
    *print = option.print(&settings.tag_key);
}

/// Remembers a fingerprint at its place.
#[inline(always)]
pub fn remember(print: u64, place: &mut u64) {
    *place = memory::entry(print, now_seconds());
}

#[inline(always)]
fn place(
    map: &'static Array<memory::Bucket>,
    print: u64,
    seconds: u64,
) -> Option<&'static mut u64> {
    let now = now_seconds();
    let [first, second] = memory::buckets(print);
    let first = bucket(map.get_ptr_mut(first))?;
    let second = bucket(map.get_ptr_mut(second))?;
    let one = forgotten(memory::place(first, print, now, seconds)?)?;
    let other = forgotten(memory::place(second, print, now, seconds)?)?;
    let (bucket, place) = if memory::takes_second(one, other) {
        (second, other)
    } else {
        (first, one)
    };
    Some(&mut bucket[place.index as usize & (memory::BUCKET - 1)])
}

/// The same place, of which the verifier has forgotten what it knows. It would go through the rest of the program once for
/// each index and count.
#[inline(always)]
fn forgotten(place: memory::Place) -> Option<memory::Place> {
    let room = PLACE_ROOM.get_ptr_mut(0)?;
    // SAFETY: this CPU's value; one program run at a time uses it, as `frame::options` explains.
    unsafe {
        room.write_volatile(place);
        Some(room.read_volatile())
    }
}

#[inline(always)]
fn bucket(found: Option<*mut memory::Bucket>) -> Option<&'static mut memory::Bucket> {
    // SAFETY: it was found in a map, whose values stay valid; its words are written whole. Of two writers at once one may
    // be lost, which costs no more than a memory.
    found.map(|bucket| unsafe { &mut *bucket })
}
