//! Where a request goes, as far as the filter can tell by itself.

use aya_ebpf::{bindings::__sk_buff, helpers::generated as helper};
use dts_core::{
    addr::Addr,
    entry::{
        NodeSettings, ServiceEntry,
        adoption::{
            NodeSet, REQUEST_NODES as NODES, RULE_HOST, RULE_PATH, RulePath, SET_NODES, rules,
            ruling, track,
        },
    },
    head::{HEAD, Head, eight},
    ring::{MAX_POINTS, owner_index},
    siphash::Incremental,
};

use crate::{
    facts::place,
    frame::{Segment, Skb},
    maps::{
        ADOPT_ROOM, AdoptRoom, NODE_SETS, REQUEST_NODES, REQUEST_POINTS, REQUEST_RING, RULE_HOSTS,
        RULE_PATHS, RULE_PREFIXES, TARGETS,
    },
};

/// How much of a segment is looked at for its request line.
const LINE: u32 = 512;

/// What the rules say of a request that begins with this segment.
#[inline(always)]
pub(super) fn rule(
    skb: Skb,
    segment: &Segment,
    service: &ServiceEntry,
    room: &mut AdoptRoom,
) -> u32 {
    // SAFETY: three references, and the context.
    unsafe { adopt_rule(skb.0, segment, service, room) }
}

/// [`rule`], a *global* function: the kernel verifies it once, by itself, and not on each way that leads to it.
///
/// # Safety
///
/// The pointers are to what the references of [`rule`] are to, or null.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn adopt_rule(
    skb: *mut __sk_buff,
    segment: *const Segment,
    service: *const ServiceEntry,
    room: *mut AdoptRoom,
) -> u32 {
    if segment.is_null() || service.is_null() || room.is_null() {
        return ruling::ASK;
    }
    // SAFETY: as the caller says; the verifier only knows that they are memory.
    let (segment, service, room) = unsafe { (&*segment, &*service, &mut *room) };
    let skb = Skb(skb);
    // Nobody must take what another packet has left for this one's.
    room.head = Head::new(false, 0);
    if service.rules & rules::BYTES != 0 && segment.tcp.header.payload >= service.table {
        return service.default;
    }
    if service.rules & rules::LINE == 0 {
        return ruling::ASK;
    }
    let with_host = service.rules & rules::HOST != 0;
    let whole = service.rules & (rules::HOST | rules::EACH) != 0;
    let plain = read(skb, segment, whole, room);
    if plain && room.head.is_alone(segment.tcp.header.payload) {
        room.record.track = track::ON;
        if room.head.asks_for_head() {
            room.record.track |= track::NO_BODY;
        }
    }
    if !plain && (with_host || !room.head.has_line()) {
        return ruling::ASK;
    }
    let mut table = service.table;
    if with_host {
        table = table_of_host(skb, data(segment), table, room);
        if table == MISS {
            return ruling::ASK;
        }
    }
    match by_path(skb, data(segment), table, service.rules, room) {
        MISS => service.default,
        ruled => ruled,
    }
}

#[inline(always)]
fn data(segment: &Segment) -> u32 {
    segment.ip.l4() + u32::from(segment.tcp.header.header_len)
}

/// Reads the request line into the room, or the `whole` head; whether all of that is there, and plain.
#[inline(never)]
fn read(skb: Skb, segment: &Segment, whole: bool, room: &mut AdoptRoom) -> bool {
    let most = if whole { HEAD as u32 } else { LINE };
    // Opaque to the compiler, so that the checks below are made on the register that the verifier sees.
    let len = core::hint::black_box(segment.tcp.header.payload);
    let len = if len > most { most } else { len };
    room.head = Head::new(whole, len);
    if len == 0 || len > HEAD as u32 {
        return false;
    }
    // SAFETY: there is room for HEAD bytes, which `len` is not above; the helper checks the offset.
    let r = unsafe {
        helper::bpf_skb_load_bytes(
            skb.0.cast_const().cast(),
            data(segment),
            room.bytes.as_mut_ptr().cast(),
            len,
        )
    };
    if r != 0 {
        return false;
    }
    let mut context = 0u64;
    // SAFETY: the callback has the signature that bpf_loop calls; it ignores the context.
    unsafe {
        helper::bpf_loop(
            len + 1,
            head_step as *mut core::ffi::c_void,
            (&raw mut context).cast(),
            0,
        )
    };
    room.head.is_plain()
}

/// Reads some bytes of the head: the body of the loop in [`read`]. One step only: the verifier follows each on every way
/// that leads here.
#[inline(never)]
extern "C" fn head_step(_index: u64, _context: *mut core::ffi::c_void) -> i64 {
    let Some(room) = ADOPT_ROOM.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: this CPU's value; the caller waits in bpf_loop and doesn't use it meanwhile.
    let room = unsafe { &mut *room };
    i64::from(!room.head.step(&room.bytes))
}

/// The table of the host that the head names; [`MISS`] when its name is longer than any rule's could be.
#[inline(never)]
fn table_of_host(skb: Skb, data: u32, table: u32, room: &mut AdoptRoom) -> u32 {
    let head = &room.head;
    let len = core::hint::black_box(head.host_end.wrapping_sub(head.host));
    if len == 0 {
        return table;
    }
    if len > RULE_HOST as u32 {
        return MISS;
    }
    room.host.table = table;
    room.host.host = [0; RULE_HOST];
    // SAFETY: there is room for RULE_HOST bytes, which `len` is not above; the helper checks the offset.
    let r = unsafe {
        helper::bpf_skb_load_bytes(
            skb.0.cast_const().cast(),
            data + head.host,
            room.host.host.as_mut_ptr().cast(),
            len,
        )
    };
    if r != 0 {
        return MISS;
    }
    let mut i = 0;
    while i < RULE_HOST {
        room.host.host[i] = room.host.host[i].to_ascii_lowercase();
        i += 1;
    }
    match RULE_HOSTS.get_ptr(&room.host) {
        // SAFETY: a map value stays valid for the program's run.
        Some(of_host) => unsafe { *of_host },
        None => table,
    }
}

/// No table and no ruling: no rule is for the path.
const MISS: u32 = u32::MAX;

/// The ruling of the rule for the path, in this table, or [`MISS`].
#[inline(never)]
fn by_path(skb: Skb, data: u32, table: u32, kinds: u32, room: &mut AdoptRoom) -> u32 {
    if kinds & (rules::PATHS | rules::PREFIXES) == 0 {
        return MISS;
    }
    let head = &room.head;
    let whole = core::hint::black_box(head.path_end.wrapping_sub(head.target));
    let len = if whole > RULE_PATH as u32 {
        RULE_PATH as u32
    } else {
        whole
    };
    if len == 0 || len > RULE_PATH as u32 {
        return MISS;
    }
    room.path.data.table = table;
    if kinds & rules::PATHS != 0 {
        // Whole names are looked up with what is behind them. In words: the key is packed, and byte by byte takes long.
        const { assert!(RULE_PATH.is_multiple_of(4)) };
        const { assert!(core::mem::offset_of!(AdoptRoom, path).is_multiple_of(4)) };
        let words = (&raw mut room.path.data.path).cast::<[u32; RULE_PATH / 4]>();
        // SAFETY: the path stands at a multiple of four, as just asserted: behind two words of the key.
        unsafe { words.write([0; RULE_PATH / 4]) };
    }
    let to = (&raw mut room.path.data.path).cast();
    // SAFETY: there is room for RULE_PATH bytes, which `len` is not above; the helper checks the offset.
    let r = unsafe {
        helper::bpf_skb_load_bytes(skb.0.cast_const().cast(), data + head.target, to, len)
    };
    if r != 0 {
        return ruling::ASK;
    }
    if kinds & rules::PATHS != 0 && whole <= RULE_PATH as u32 {
        let key = &raw const room.path.data;
        // SAFETY: the key stands at a multiple of its alignment, as just asserted.
        let key: &RulePath = unsafe { &*key };
        if let Some(ruled) = RULE_PATHS.get_ptr(key) {
            // SAFETY: a map value stays valid for the program's run.
            return unsafe { *ruled };
        }
    }
    if kinds & rules::PREFIXES == 0 {
        return MISS;
    }
    room.path.prefix_len = 32 + 8 * len;
    match RULE_PREFIXES.get(&room.path) {
        Some(ruled) => *ruled,
        None => MISS,
    }
}

/// Chooses the target that the ruling in the room's record means; `false` when it takes the daemon.
#[inline(always)]
pub(super) fn resolve(segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) -> bool {
    // SAFETY: three references.
    unsafe { adopt_resolve(segment, room, settings) != 0 }
}

/// [`resolve`], a global function as [`adopt_rule`] is.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn adopt_resolve(
    segment: *const Segment,
    room: *mut AdoptRoom,
    settings: *const NodeSettings,
) -> u32 {
    if segment.is_null() || settings.is_null() || room.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let (segment, room, settings) = unsafe { (&*segment, &mut *room, &*settings) };
    choose(segment, room, settings).into()
}

#[inline(always)]
fn choose(segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) -> bool {
    let given = room.record.ruling;
    match ruling::kind(given) {
        ruling::LOCAL => {
            room.record.target = settings.address;
            true
        }
        ruling::SET => of_set(segment, given & 0xff_ffff, room, settings),
        ruling::KEY => of_key(room, settings),
        _ => false,
    }
}

#[inline(always)]
fn may_have(node: &Addr, settings: &NodeSettings) -> bool {
    if *node == settings.address {
        return true;
    }
    match TARGETS.get_ptr(node) {
        // SAFETY: a map value stays valid for the program's run; only the daemon writes, whole values.
        Some(target) => unsafe { (*target).reachable != 0 },
        None => false,
    }
}

/// One node of a set, by the flow: another node that inspects it would choose the same.
#[inline(never)]
fn of_set(segment: &Segment, number: u32, room: &mut AdoptRoom, settings: &NodeSettings) -> bool {
    let Some(set) = NODE_SETS.get_ptr(&number) else {
        return false;
    };
    // SAFETY: a map value stays valid for the program's run; only the daemon writes, whole values.
    let set: &NodeSet = unsafe { &*set };
    let count = set.count;
    if count == 0 || count > SET_NODES as u32 {
        return false;
    }
    let flow = &segment.flow;
    let mut turn = if count == 1 {
        0
    } else {
        let place = place(&flow.remote, flow.remote_port);
        // Not `%`: a check for 0 would come with it, and a panic.
        place.checked_rem(u64::from(count)).unwrap_or(0) as u32
    };
    let mut left = SET_NODES;
    while left > 0 {
        let node = &set.nodes[turn as usize & (SET_NODES - 1)];
        if may_have(node, settings) {
            room.record.target = *node;
            return true;
        }
        turn += 1;
        if turn >= count {
            turn = 0;
        }
        left -= 1;
    }
    false
}

/// The node that the request target belongs to.
#[inline(never)]
fn of_key(room: &mut AdoptRoom, settings: &NodeSettings) -> bool {
    let bank = u32::from(settings.request_bank & 1);
    let Some(ring) = REQUEST_RING.get(bank) else {
        return false;
    };
    let Some(key) = ring.hash.siphash_key() else {
        return false;
    };
    if !hash_target(key, room) {
        return false;
    }
    let first = bank * MAX_POINTS;
    let owner = owner_index(ring.count, room.hash, |i| {
        REQUEST_POINTS.get(first + i).copied()
    });
    let Some(owner) = owner else { return false };
    if owner.node >= NODES {
        return false;
    }
    let Some(node) = REQUEST_NODES.get(bank * NODES + owner.node) else {
        return false;
    };
    room.record.target = *node;
    may_have(node, settings)
}

struct Target {
    state: Incremental,
    at: u32,
    len: u32,
}

/// Hashes the request target in the room.
#[inline(never)]
fn hash_target(key: &[u8; 16], room: &mut AdoptRoom) -> bool {
    let head = &room.head;
    let len = head.target_end.wrapping_sub(head.target);
    if len == 0 || len > HEAD as u32 {
        return false;
    }
    let mut target = Target {
        state: Incremental::new(key),
        at: head.target,
        len,
    };
    // SAFETY: the callback has the signature that bpf_loop calls, and gets a pointer to the target.
    unsafe {
        helper::bpf_loop(
            len / 8 + 1,
            hash_step as *mut core::ffi::c_void,
            (&raw mut target).cast(),
            0,
        )
    };
    room.hash = target.state.finish();
    true
}

/// Mixes eight bytes in, or the last ones: the body of the loop in [`hash_target`].
#[inline(never)]
extern "C" fn hash_step(index: u64, context: *mut core::ffi::c_void) -> i64 {
    // SAFETY: `hash_target` passes a pointer to its target.
    let target = unsafe { &mut *context.cast::<Target>() };
    let Some(room) = ADOPT_ROOM.get_ptr(0) else {
        return 1;
    };
    // SAFETY: this CPU's value, and nobody writes it meanwhile.
    let word = unsafe { eight(&(*room).bytes, target.at.wrapping_add(8 * index as u32)) };
    let left = target.len.wrapping_sub(8 * index as u32);
    target.state.absorb(word, left, target.len);
    0
}
