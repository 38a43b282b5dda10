//! What the daemon asks of the kernel by running a program itself (BPF_PROG_TEST_RUN): which entries
//! still have a socket. Looking and deleting happen in one run, so an entry that a new connection has
//! taken over in the meantime is left alone.

use aya_ebpf::helpers::generated as helper;
use dts_core::{
    addr::{Addr, FlowKey},
    decide::{Ownership, Socket},
    entry::{ConnEntry, ConnKey, SweepRecord, flag, role, sweep as ask},
};

use crate::{
    entries::{entry, forget_processing},
    facts::ownership,
    frame::{ETH, Skb},
    maps::{CONNECTIONS, SWEEP_ROOM},
    sockets::{SockRef, socket},
};

const RECORD: u32 = size_of::<SweepRecord>() as u32;
const VALUE: u32 = RECORD - 4;

struct Context {
    skb: Skb,
}

/// Goes through the records after the frame's Ethernet header; each one's answer takes the place of
/// its question.
pub fn run(skb: Skb) -> i32 {
    let mut context = Context { skb };
    // SAFETY: the callback has the signature that bpf_loop calls, and gets a pointer to the context.
    unsafe {
        helper::bpf_loop(
            ask::RECORDS as u32,
            step as *mut core::ffi::c_void,
            (&raw mut context).cast(),
            0,
        )
    };
    0
}

#[inline(never)]
extern "C" fn step(index: u64, context: *mut core::ffi::c_void) -> i64 {
    // SAFETY: `run` passes a pointer to its context.
    let skb = unsafe { (*context.cast::<Context>()).skb };
    if index >= ask::RECORDS as u64 {
        return 1;
    }
    let at = ETH + index as u32 * RECORD;
    let Some(record) = SWEEP_ROOM.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the room has the record's size; the helper checks the offset.
    let r =
        unsafe { helper::bpf_skb_load_bytes(skb.0.cast_const().cast(), at, record.cast(), RECORD) };
    if r != 0 {
        return 1;
    }
    // SAFETY: this CPU's value, which nothing else uses meanwhile; plain numbers and bytes, of which
    // every pattern is valid.
    let record = unsafe { &*record };
    let result = check(skb, record);
    let _ = skb.store(at + VALUE, &result.to_ne_bytes());
    0
}

#[inline(always)]
fn check(skb: Skb, record: &SweepRecord) -> u32 {
    let flow = &record.key.flow;
    match record.key.role {
        ask::LISTENER => return listener(skb, flow),
        ask::SOCKET => {
            return match socket(skb, flow) {
                Socket::Alive => ask::ALIVE,
                Socket::TimeWait => ask::TIME_WAIT,
                Socket::None => ask::NO_SOCKET,
            };
        }
        _ => {}
    }
    let Some(e) = entry(flow, record.key.role) else {
        return ask::GONE;
    };
    if e.client_isn != record.client_isn {
        return ask::GONE;
    }
    if record.value & ask::NOTED != 0 {
        e.flags |= flag::NOTED;
        return ask::MARKED;
    }
    if record.value & ask::DELETE_ALWAYS != 0 {
        remove(&record.key, e);
        return ask::DELETED;
    }
    // The inspector's sockets are on a port of their own, which the daemon says in the request.
    let inspecting = record.key.role == role::INSPECTING;
    let local_port = if inspecting {
        (record.value >> 16) as u16
    } else {
        flow.local_port
    };
    let at = FlowKey {
        remote: flow.remote,
        local: flow.local,
        remote_port: flow.remote_port,
        local_port,
    };
    match socket(skb, &at) {
        Socket::Alive => ask::ALIVE,
        Socket::TimeWait => {
            if record.key.role == role::PROCESSING {
                e.flags |= flag::ENDED;
            }
            ask::TIME_WAIT
        }
        Socket::None if record.value & ask::DELETE != 0 => {
            remove(&record.key, e);
            ask::DELETED
        }
        Socket::None => ask::NO_SOCKET,
    }
}

/// What listens at the flow's local end.
#[inline(never)]
fn listener(skb: Skb, flow: &FlowKey) -> u32 {
    let Some(sk) = SockRef::lookup(skb, flow) else {
        return ask::NO_SOCKET;
    };
    match sk.listener() {
        Some(listener) if sk.listens() => {
            if listener.speaks_mptcp() {
                ask::LISTENS_MPTCP
            } else {
                ask::LISTENS
            }
        }
        _ => ask::NO_SOCKET,
    }
}

#[inline(always)]
fn remove(key: &ConnKey, entry: &ConnEntry) {
    if key.role == role::PROCESSING {
        forget_processing(&key.flow, entry);
    } else {
        let _ = CONNECTIONS.remove(key);
    }
}

/// For the test that kernel and user space agree: the packet after its Ethernet header is a remote
/// address (16 bytes) and port (2 bytes, network order); the result is 1 for this node's, 0 for another's.
pub fn ring_owner(skb: Skb) -> i32 {
    let Some(b) = skb.load::<18>(ETH) else {
        return -1;
    };
    let mut address = [0u8; 16];
    let mut i = 0;
    while i < 16 {
        address[i] = b[i];
        i += 1;
    }
    match ownership(&Addr::v6(address), u16::from_be_bytes([b[16], b[17]])) {
        Ownership::Owner => 1,
        Ownership::NotOwner => 0,
        Ownership::LeaseExpired => 2,
        Ownership::NoRing => 3,
    }
}

const _: () = assert!(size_of::<FlowKey>() == 36);
