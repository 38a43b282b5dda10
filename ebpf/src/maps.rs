//! The maps. Their names, keys and values are the contract with the daemon: `dts_core::entry`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use dts_core::{
    addr::{Addr, FlowKey},
    entry::{
        ConnEntry, ConnKey, HANDOVER_PORTS, Handover, NodeSettings, PeerKey,
        RECENT_SERVICES as RECENT, RecentService, RingState, ServiceAddr, ServiceEntry, ServiceKey,
        SweepRecord,
    },
    handover::{HandoverEnds, HandoverOption, OPTION_LEN, OptionRoom, release},
    ring::{MAX_POINTS, RingPoint},
    segment::OptionScan,
    verdict::COUNTERS,
};

use crate::frame::Segment;

/// What the filter knows of its node.
#[map]
pub static NODE: Array<NodeSettings> = Array::with_max_entries(1, 0);

/// Until when this node may accept new connections, in nanoseconds of the monotonic clock.
#[map]
pub static LEASE: Array<u64> = Array::with_max_entries(1, 0);

/// Two rings; `RING_BANK` says which is published.
#[map]
pub static RING: Array<RingState> = Array::with_max_entries(2, 0);

/// The published ring's bank: 0 or 1.
#[map]
pub static RING_BANK: Array<u32> = Array::with_max_entries(1, 0);

/// Two banks of ring points.
#[map]
pub static RING_POINTS: Array<RingPoint> = Array::with_max_entries(2 * MAX_POINTS, 0);

/// The VIPs.
#[map]
pub static VIPS: HashMap<Addr, u32> = HashMap::with_max_entries(1024, 0);

/// Services by VIP and port, under the public and under the inspector's port.
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry> = HashMap::with_max_entries(4096, 0);

/// The services that this processor has seen last: most nodes have few, and each packet asks for one.
#[map]
pub static RECENT_SERVICES: PerCpuArray<RecentService> = PerCpuArray::with_max_entries(RECENT, 0);

/// Services by id.
#[map]
pub static SERVICE_IDS: HashMap<u32, ServiceAddr> = HashMap::with_max_entries(2048, 0);

/// The back addresses of the cluster's members.
#[map]
pub static MEMBERS: HashMap<Addr, u32> = HashMap::with_max_entries(1024, 0);

/// The connections (DTS §2.4). Never an LRU: a live flow's entry must not give way to a new one.
#[map]
pub static CONNECTIONS: HashMap<ConnKey, ConnEntry> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Handover connections by the local port, at the inspecting node. The daemon writes it as memory.
#[map]
pub static HANDOVERS: Array<Handover> = Array::with_max_entries(HANDOVER_PORTS, BPF_F_MMAPABLE);

/// Flows by handover connection, at the processing node.
#[map]
pub static PEERS: HashMap<PeerKey, FlowKey> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// One counter for each verdict.
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Room for a segment's options, which the stack is too small for.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Room for the segment that a program is at.
#[map]
pub static SEGMENT: PerCpuArray<Segment> = PerCpuArray::with_max_entries(1, 0);

/// Room for what a handover SYN says, which the stack is too small for.
#[map]
pub static SYN_ROOM: PerCpuArray<SynRoom> = PerCpuArray::with_max_entries(1, 0);

/// Room for the record that a sweep is at.
#[map]
pub static SWEEP_ROOM: PerCpuArray<SweepRecord> = PerCpuArray::with_max_entries(1, 0);

/// A handover SYN being made or checked.
#[repr(C)]
pub struct SynRoom {
    /// The option's bytes.
    pub option_room: OptionRoom,
    /// A release's bytes.
    pub release_room: release::Room,
    /// The agreed options, which take the option's place.
    pub agreed: [u8; OPTION_LEN],
    /// Its meaning.
    pub option: HandoverOption,
    /// The ends of the handover connection.
    pub ends: HandoverEnds,
    /// The client's flow.
    pub flow: FlowKey,
    /// The entry to be made.
    pub entry: ConnEntry,
}

/// A segment's options as they came, and as they are scanned and rewritten.
#[repr(C)]
pub struct Scratch {
    /// The first forty bytes are the options as they came.
    pub old: [u8; 64],
    /// The options being rewritten.
    pub scan: OptionScan,
}
