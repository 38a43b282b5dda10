//! The maps. Their names, keys and values are the contract with the daemon: `dts_core::entry`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use dts_core::{
    addr::{Addr, FlowKey},
    cookie::{SynAck, Terms},
    entry::{
        ConnEntry, ConnKey, HANDOVER_PORTS, Handover, NodeSettings, PeerKey,
        RECENT_SERVICES as RECENT, RecentService, RingState, ServiceAddr, ServiceEntry, ServiceKey,
        SweepRecord,
        adoption::{
            Adoption, COOKIE_KEYS as KEYS, CookieKey, INQUIRY_DATA, Inquiry, NodeSet,
            REQUEST_NODES as NODES, RequestRing, RuleHost, RulePath, Target,
        },
        memory::{BUCKETS, Bucket, Place},
    },
    handover::{HandoverEnds, HandoverOption, OPTION_LEN, OptionRoom, release},
    head::{Bytes, Head},
    response::ResponseHead,
    ring::{MAX_POINTS, RingPoint},
    segment::OptionScan,
    trace::{Ends, HEADERS, TraceRecord, TraceSettings, program},
    verdict::COUNTERS,
};

use crate::frame::{Ip, Segment};

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

/// Room for the IP header of the packet that a program is at.
#[map]
pub static IP_HEADER: PerCpuArray<Ip> = PerCpuArray::with_max_entries(1, 0);

/// Room for what a socket is looked up by: a `struct bpf_sock_tuple`.
#[map]
pub static TUPLE: PerCpuArray<[u32; 9]> = PerCpuArray::with_max_entries(1, 0);

/// Room for the segment that a program is at.
#[map]
pub static SEGMENT: PerCpuArray<Segment> = PerCpuArray::with_max_entries(1, 0);

/// Room for what a handover SYN says, which the stack is too small for.
#[map]
pub static SYN_ROOM: PerCpuArray<SynRoom> = PerCpuArray::with_max_entries(1, 0);

/// Room for the record that a sweep is at.
#[map]
pub static SWEEP_ROOM: PerCpuArray<SweepRecord> = PerCpuArray::with_max_entries(1, 0);

/// Connections that are being or have been adopted: see [`Adoption`].
#[map]
pub static ADOPTIONS: LruHashMap<FlowKey, Adoption> = LruHashMap::with_max_entries(262_144, 0);

/// How often a connection of an adopting service began to be spliced, and how often that was when the daemon last found
/// that none is: see `front::is_mixed`.
#[map]
pub static SPLICED: Array<u32> = Array::with_max_entries(2, 0);

/// Requests that this node's servers have had, by flow and initial sequence number.
#[map]
pub static SEEN: Array<Bucket> = Array::with_max_entries(BUCKETS, 0);

/// Handovers that this node has accepted: [`HandoverOption::print`].
#[map]
pub static HANDED: Array<Bucket> = Array::with_max_entries(BUCKETS, 0);

/// Room for a place in a bucket of `SEEN` or `HANDED`.
#[map]
pub static PLACE_ROOM: PerCpuArray<Place> = PerCpuArray::with_max_entries(1, 0);

/// The cookies' keys.
#[map]
pub static COOKIE_KEYS: Array<CookieKey> = Array::with_max_entries(KEYS, 0);

/// The members by back address.
#[map]
pub static TARGETS: HashMap<Addr, Target> = HashMap::with_max_entries(1024, 0);

/// Sets of nodes.
#[map]
pub static NODE_SETS: HashMap<u32, NodeSet> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Rules that name a whole path: rulings.
#[map]
pub static RULE_PATHS: HashMap<RulePath, u32> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Rules that name a path's beginning: rulings.
#[map]
pub static RULE_PREFIXES: LpmTrie<RulePath, u32> = LpmTrie::with_max_entries(65_536, 0);

/// Hosts that rules name: tables.
#[map]
pub static RULE_HOSTS: HashMap<RuleHost, u32> =
    HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Two rings of requests; the node's settings say which is published.
#[map]
pub static REQUEST_RING: Array<RequestRing> = Array::with_max_entries(2, 0);

/// Two banks of request ring points.
#[map]
pub static REQUEST_POINTS: Array<RingPoint> = Array::with_max_entries(2 * MAX_POINTS, 0);

/// The back addresses of the request rings' nodes.
#[map]
pub static REQUEST_NODES: Array<Addr> = Array::with_max_entries(2 * NODES, 0);

/// Segments for the daemon's inspector.
#[map]
pub static REQUESTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Room for what is read of a request and decided about it.
#[map]
pub static ADOPT_ROOM: PerCpuArray<AdoptRoom> = PerCpuArray::with_max_entries(1, 0);

/// Room for a record of `REQUESTS`.
#[map]
pub static INQUIRY_ROOM: PerCpuArray<InquiryRoom> = PerCpuArray::with_max_entries(1, 0);

/// What is to be traced; nothing, mostly.
#[map]
pub static TRACE: Array<TraceSettings> = Array::with_max_entries(1, 0);

/// What was traced: [`TraceRecord`]s.
#[map]
pub static TRACES: RingBuf = RingBuf::with_byte_size(TRACES_LEN, 0);

/// The length of `TRACES` in bytes.
pub const TRACES_LEN: u32 = 1 << 20;

/// How many records found no room in `TRACES`.
#[map]
pub static TRACES_MISSED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Room for a record of `TRACES`.
#[map]
pub static TRACE_ROOM: PerCpuArray<TraceRoom> = PerCpuArray::with_max_entries(1, 0);

/// A packet as it came, for when it has met its verdict, and the record of it.
#[repr(C)]
pub struct TraceRoom {
    /// For each program, as one can run in the middle of another: see `trace`.
    pub came: [Came; program::COUNT as usize],
    /// Not 0: the run that has begun last changes nothing.
    pub unchanged: u32,
    /// Addresses and ports before, and after.
    pub ends: [Ends; 2],
    /// The record.
    pub record: TraceRecord,
}

/// A packet as it came.
#[repr(C)]
pub struct Came {
    /// Not 0 from a run's beginning to its end.
    pub valid: u32,
    /// The frame's length.
    pub len: u32,
    /// The packet's mark.
    pub mark: u32,
    /// The first bytes.
    pub headers: [u8; HEADERS],
}

/// A request that the filter decides about.
#[repr(C)]
pub struct AdoptRoom {
    /// The beginning of the segment's data.
    pub bytes: Bytes,
    /// What was read of it.
    pub head: Head,
    /// A path to be looked up, with the length that the trie wants.
    pub path: Key<RulePath>,
    /// A host to be looked up.
    pub host: RuleHost,
    /// The option of an adoption frame.
    pub option: release::Room,
    /// The one that it takes the place of.
    pub old_option: release::Room,
    /// What the kernel is told of the connection.
    pub attributes: Attributes,
    /// What is known of the connection.
    pub record: Adoption,
    /// The terms that the cookie says.
    pub terms: Terms,
    /// What a refusal says: a kind of frame.
    pub refusal: u32,
    /// The SYN-ACK being made.
    pub syn_ack: SynAck,
    /// A hash being made: of a request target.
    pub hash: u64,
    /// What was read of a response's head.
    pub response: ResponseHead,
    /// The link-layer address that a client's frame was sent to.
    pub own_mac: [u8; 6],
    /// What the server's kernel adds to its clock for a connection's timestamps.
    pub stamp_offset: u32,
    /// What is added to the timestamp that a segment echoes to get the server's present one, in milliseconds.
    pub interval: u32,
}

/// A record of `REQUESTS`.
#[repr(C)]
pub struct InquiryRoom {
    /// Its head.
    pub head: Inquiry,
    /// Its data.
    pub data: [u8; INQUIRY_DATA],
}

/// The kernel's `struct bpf_tcp_req_attrs` (`include/linux/tcp.h`).
#[repr(C)]
pub struct Attributes {
    /// The client's last timestamp value.
    pub rcv_tsval: u32,
    /// The timestamp value that it echoed.
    pub rcv_tsecr: u32,
    /// The largest segment that the client takes.
    pub mss: u16,
    /// The window scale that the client was told.
    pub rcv_wscale: u8,
    /// The client's window scale.
    pub snd_wscale: u8,
    /// Whether ECN was agreed.
    pub ecn_ok: u8,
    /// Whether window scaling was.
    pub wscale_ok: u8,
    /// Whether selective acknowledgment was.
    pub sack_ok: u8,
    /// Whether timestamps were.
    pub tstamp_ok: u8,
    /// Whether they count microseconds.
    pub usec_ts_ok: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

const _: () = assert!(size_of::<Attributes>() == 20);

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
    /// The handover's fingerprint.
    pub print: u64,
}

/// A segment's options as they came, and as they are scanned and rewritten.
#[repr(C)]
pub struct Scratch {
    /// The first forty bytes are the options as they came.
    pub old: [u8; 64],
    /// The options being rewritten.
    pub scan: OptionScan,
}
