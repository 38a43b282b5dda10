//! What the filter knows, for `dts_core::decide`: the ring, the lease, the clocks, and what `sockets` says.

use aya_ebpf::helpers::generated as helper;
use dts_core::{
    addr::{Addr, FlowKey},
    decide::{Facts, Ownership, Port, Socket},
    entry::{NodeSettings, RingState, ServiceEntry},
    ring::{MAX_POINTS, RingPoint, flow_hash, owner_index},
};

use crate::{
    frame::{Ip, Skb},
    maps::{LEASE, NODE, RING, RING_BANK, RING_POINTS},
    sockets::{SockRef, socket},
};

/// The node's settings; `None` before the daemon has written them.
#[inline(always)]
pub fn settings() -> Option<&'static NodeSettings> {
    let s = NODE.get(0)?;
    (s.front != 0).then_some(s)
}

/// The monotonic clock, in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: plain helper call.
    unsafe { helper::bpf_ktime_get_ns() }
}

/// The monotonic clock as of the last timer tick, a few milliseconds ago at the most, in milliseconds modulo
/// 2^32. Reading the clock itself costs a visit at the hypervisor's or the processor's counter for each packet.
#[inline(always)]
pub fn now_ms() -> u32 {
    // SAFETY: plain helper call.
    let ns = unsafe { helper::bpf_ktime_get_coarse_ns() };
    (ns / 1_000_000) as u32
}

/// The monotonic clock, in seconds.
#[inline(always)]
pub fn now_seconds() -> u64 {
    now_ns() / 1_000_000_000
}

/// Unix time in seconds.
#[inline(always)]
pub fn unix_seconds(s: &NodeSettings) -> u32 {
    (now_seconds() as i64).wrapping_add(s.clock_offset) as u32
}

/// Unix time in milliseconds.
#[inline(always)]
pub fn unix_ms(s: &NodeSettings) -> u64 {
    let ms = (now_ns() / 1_000_000) as i64;
    ms.wrapping_add(s.clock_offset.wrapping_mul(1000)) as u64
}

/// Where a flow from this remote end is on the ring; 0 when there is none.
#[inline(never)]
pub fn place(remote: &Addr, port: u16) -> u64 {
    let Some(ring) = RING_BANK.get(0).and_then(|bank| RING.get(*bank & 1)) else {
        return 0;
    };
    flow_hash(&ring.hash, remote, port)
}

/// The point that a flow from this remote end belongs to, on the ring in a bank.
#[inline(always)]
fn point_of((bank, ring): (u32, &RingState), remote: &Addr, port: u16) -> Option<RingPoint> {
    let hash = flow_hash(&ring.hash, remote, port);
    let first = bank * MAX_POINTS;
    owner_index(ring.count, hash, |i| RING_POINTS.get(first + i).copied())
}

/// Whose a flow from this remote end is.
#[inline(never)]
pub fn ownership(remote: &Addr, port: u16) -> Ownership {
    let (Some(bank), Some(lease)) = (RING_BANK.get(0), LEASE.get(0)) else {
        return Ownership::NoRing;
    };
    let bank = *bank & 1;
    let Some(ring) = RING.get(bank) else {
        return Ownership::NoRing;
    };
    match point_of((bank, ring), remote, port) {
        None => Ownership::NoRing,
        Some(point) if point.node != ring.node => Ownership::NotOwner,
        Some(_) if now_ns() > *lease => Ownership::LeaseExpired,
        Some(_) => Ownership::Owner,
    }
}

/// Whether the members have changed lately, and the flow was, or may have been, another node's before.
#[inline(never)]
pub fn was_anothers(remote: &Addr, port: u16) -> bool {
    let Some(bank) = RING_BANK.get(0) else {
        return false;
    };
    let (bank, former) = (*bank & 1, *bank & 1 ^ 1);
    let (Some(ring), Some(old)) = (RING.get(bank), RING.get(former)) else {
        return false;
    };
    // SAFETY: plain helper call.
    let now = unsafe { helper::bpf_ktime_get_coarse_ns() };
    if now > ring.former_until {
        return false;
    }
    if now <= ring.any_until {
        return true;
    }
    let point = point_of((former, old), remote, port);
    point.is_some_and(|point| point.node != old.node)
}

/// The facts about one segment at the front.
pub struct FrontFacts<'a> {
    /// The packet.
    pub skb: Skb,
    /// Its IP header.
    pub ip: &'a Ip,
    /// Its flow, local port public.
    pub flow: &'a FlowKey,
    /// Its service.
    pub service: &'a ServiceEntry,
}

impl FrontFacts<'_> {
    #[inline(always)]
    fn flow_at(&self, port: Port) -> FlowKey {
        match port {
            Port::Public => *self.flow,
            Port::Inspector => FlowKey {
                local_port: self.service.other_port,
                ..*self.flow
            },
        }
    }
}

impl Facts for FrontFacts<'_> {
    #[inline(always)]
    fn ownership(&self) -> Ownership {
        ownership(&self.flow.remote, self.flow.remote_port)
    }

    #[inline(always)]
    fn socket(&self, port: Port) -> Socket {
        socket(self.skb, &self.flow_at(port))
    }

    #[inline(always)]
    fn answers_cookie(&self) -> bool {
        match SockRef::lookup(self.skb, self.flow) {
            Some(sk) => sk.answers_cookie(self.skb, self.ip),
            None => false,
        }
    }
}
