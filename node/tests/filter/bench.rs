//! A node to run programs on: a loaded filter in a network namespace of its own.
//!
//! The namespace belongs to the test's thread: sockets that the thread makes are those that the filter
//! finds. Front is `lo` there, back an interface that does not exist; redirects are only noted by
//! BPF_PROG_TEST_RUN, and the one clone that is really sent (to the front) ends in the namespace.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::world::addr;
use aya::maps::{Array, Map, MapData, RingBuf};
use dts_core::addr::FlowKey;
use dts_core::entry::{
    ConnEntry, ConnKey, NodeSettings, ServiceEntry, ServiceKey, SweepRecord, memory, role,
    service_kind, sweep,
};
use dts_core::handover::{AGREED, HandoverEnds, HandoverOption, OptionRoom, release};
use dts_core::ring::{RingHashSpec, RingPoint};
use dts_core::segment::{ACK, SYN};
use dts_core::seq::Seq;
use dts_core::verdict::Verdict;
use dts_node::kernel::Filter;
use dts_node::kernel::filter::pin_path;
use dts_node::kernel::host::prepare_bpf;
use nix::sched::{CloneFlags, unshare};
use rustix::time::{ClockId, clock_gettime};

use crate::adopting;
use crate::frame::{Mac, Tcp};

pub(crate) const FRONT: u32 = 1;
pub(crate) const BACK: u32 = 2;

pub(crate) const CLIENT: [u8; 4] = [198, 18, 0, 200];
pub(crate) const VIP: [u8; 4] = [198, 18, 0, 100];
pub(crate) const OWN: [u8; 4] = [198, 18, 1, 11];
pub(crate) const PEER: [u8; 4] = [198, 18, 1, 12];
pub(crate) const STRANGER: [u8; 4] = [198, 18, 1, 99];
pub(crate) const SELF_ADDRESS: [u8; 4] = [169, 254, 68, 84];

pub(crate) const WEB: u16 = 80;
pub(crate) const INSPECTOR: u16 = 8081;
pub(crate) const MAIL: u16 = 25;
pub(crate) const HANDOVER: u16 = 7084;
pub(crate) const WEB_ID: u16 = 7;
/// How many bytes of a request the inspector takes.
pub(crate) const MOST: u32 = 32_768;

pub(crate) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
pub(crate) const FRONT_MAC: Mac = [2, 0, 0, 0, 0, 0x11];
pub(crate) const BACK_MAC: Mac = [2, 0, 0, 0, 1, 0x11];
pub(crate) const PEER_MAC: Mac = [2, 0, 0, 0, 1, 0x12];
/// What the VIP resolves to: 03:bf and its address.
pub(crate) const VIP_MAC: Mac = [0x03, 0xbf, 198, 18, 0, 100];

pub(crate) const KEY: [u8; 16] = *b"a key for tests.";

/// TC_ACT_UNSPEC, TC_ACT_SHOT and TC_ACT_REDIRECT of the kernel's `pkt_cls.h`.
pub(crate) const UNSPEC: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

/// A loaded filter in a namespace of its own; its pins are removed when dropped.
pub(crate) struct Bench {
    pub(crate) filter: Filter,
    requests: RefCell<RingBuf<MapData>>,
    handed: RefCell<Array<MapData, memory::Bucket>>,
    pins: PathBuf,
}

impl Bench {
    /// Moves the calling thread into a new network namespace and loads the filter there, with room for
    /// `connections` entries.
    pub(crate) fn new(connections: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (these tests need root)");
        ip("link set lo up");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", process::id());
        let pins = pin_path(Path::new("/sys/fs/bpf"), "dts-filter", &name);
        prepare_bpf(&pins).expect("a BPF file system");
        let filter = Filter::load(&pins, connections).expect("the kernel takes the filter");
        let requests = RefCell::new(filter.take_requests().expect("taken once"));
        let handed = MapData::from_pin(pins.join("HANDED")).expect("pinned");
        let handed = Array::try_from(Map::Array(handed)).expect("an array of buckets");
        let bench = Self {
            filter,
            requests,
            handed: RefCell::new(handed),
            pins,
        };
        bench.set_up();
        bench
    }

    /// Tells the filter of its node, services and members, and that all flows are this node's.
    pub(crate) fn set_up(&self) {
        let filter = &self.filter;
        let settings = NodeSettings {
            address: addr(OWN),
            self_address: addr(SELF_ADDRESS),
            tag_key: KEY,
            // Unix time is the monotonic clock's here: `made` below knows it as well.
            clock_offset: 0,
            front: FRONT,
            back: BACK,
            handover_port: HANDOVER.into(),
            front_mac: FRONT_MAC,
            back_mac: BACK_MAC,
            announced_mss: 1444,
            announced_scale: 7,
            request_bank: 0,
            services_epoch: 0,
            flags: 0,
            reserved: 0,
        };
        filter.set_node(&settings).expect("settings");
        filter.set_vips(&[addr(VIP)]).expect("VIPs");
        filter
            .set_members(&[OWN, PEER, SELF_ADDRESS].map(addr))
            .expect("members");
        let [shop, shop_inspector] = adopting::services();
        filter
            .set_services(&[
                service(WEB, service_kind::L7, WEB_ID, INSPECTOR),
                service(INSPECTOR, service_kind::INSPECTOR, WEB_ID, WEB),
                service(MAIL, service_kind::L4, 9, 0),
                shop,
                shop_inspector,
            ])
            .expect("services");
        adopting::set_up(filter);
        self.lease(true);
        self.own(true);
    }

    /// Makes every flow this node's, or another's.
    pub(crate) fn own(&self, all: bool) {
        self.own_after(all, Duration::ZERO);
    }

    /// The same; for so long the ring before counts as a former one.
    pub(crate) fn own_after(&self, all: bool, former: Duration) {
        let point = RingPoint::new(5, u32::from(!all));
        self.filter
            .publish_ring(0, 1, RingHashSpec::default(), &[point], former)
            .expect("a ring");
    }

    /// Renews the lease for ever, or lets it lapse.
    pub(crate) fn lease(&self, valid: bool) {
        let until = if valid { Duration::MAX } else { Duration::ZERO };
        self.filter.set_lease(until).expect("a lease");
    }

    /// Forgets every connection of the spliced way, and the handover of most rows. What is known of adopted ones stays
    /// until there is no room for it: rows have flows of their own.
    pub(crate) fn clear(&self) {
        self.end_all();
        self.forget(&option(&flow(40_000, WEB)));
    }

    /// Forgets that a handover was accepted.
    pub(crate) fn forget(&self, option: &HandoverOption) {
        let mut handed = self.handed.borrow_mut();
        for index in memory::buckets(option.print(&KEY)) {
            let set = handed.set(index, memory::Bucket::default(), 0);
            set.expect("an element of the array");
        }
    }

    /// Removes the entries, as if all connections were over.
    pub(crate) fn end_all(&self) {
        let all = self.filter.connections().expect("connections");
        let mut records: Vec<_> = all
            .iter()
            .map(|(key, entry)| SweepRecord {
                key: *key,
                client_isn: entry.client_isn,
                value: sweep::DELETE_ALWAYS,
            })
            .collect();
        self.filter.sweep(&mut records).expect("a sweep");
        for (port, handover) in self.filter.handovers() {
            self.filter.remove_handover(port, &handover);
        }
        assert_eq!(self.connections(), 0);
    }

    /// The requests that the filter has left to the daemon since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Vec<u8>> {
        let mut requests = self.requests.borrow_mut();
        let mut all = Vec::new();
        while let Some(record) = requests.next() {
            all.push(record.to_vec());
        }
        all
    }

    /// How many entries there are.
    pub(crate) fn connections(&self) -> usize {
        self.filter.connections().expect("connections").len()
    }

    /// The entry of a flow in one role.
    pub(crate) fn entry(&self, flow: FlowKey, role: u32) -> Option<ConnEntry> {
        let key = ConnKey { flow, role };
        self.filter.connection(&key).expect("connections")
    }

    /// Makes the inspecting entry of a flow, as a SYN does, and then what `change` makes of it.
    pub(crate) fn inspecting(&self, flow: FlowKey, change: impl FnOnce(&mut ConnEntry)) {
        self.own(true);
        let (result, _) = self.run("front_ingress", &syn(&flow).frame());
        assert_eq!(result, UNSPEC, "the SYN that makes the entry of {flow}");
        self.change(flow, role::INSPECTING, change);
    }

    /// Makes the processing entry of a flow, as a handover SYN from `port` of the peer does, and then what
    /// `change` makes of it.
    pub(crate) fn processing(&self, flow: FlowKey, port: u16, change: impl FnOnce(&mut ConnEntry)) {
        let option = option(&flow);
        self.forget(&option);
        let frame = handover_syn(&option, PEER, port, KEY).frame();
        let (result, _) = self.run("back_ingress", &frame);
        assert_eq!(
            result, REDIRECT,
            "the handover that makes the entry of {flow}"
        );
        self.change(flow, role::PROCESSING, change);
    }

    fn change(&self, flow: FlowKey, role: u32, change: impl FnOnce(&mut ConnEntry)) {
        let mut entry = self.entry(flow, role).expect("the entry just made");
        change(&mut entry);
        let there = self
            .filter
            .replace_connection(&ConnKey { flow, role }, &entry);
        assert!(there.expect("connections"), "the entry of {flow}");
    }

    /// Runs a program: its result and the frame as it left it.
    pub(crate) fn run(&self, program: &'static str, frame: &[u8]) -> (i32, Vec<u8>) {
        self.filter
            .run(program, frame)
            .unwrap_or_else(|error| panic!("{program} on {frame:02x?}: {error:?}"))
    }

    /// The counters.
    pub(crate) fn stats(&self) -> Vec<(Verdict, u64)> {
        self.filter.stats().expect("counters")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Not `expect`: a panic here would hide the test's own.
        let node = self.pins.parent().unwrap_or(&self.pins);
        let _ = std::fs::remove_dir_all(node);
    }
}

/// A service of the VIP's.
pub(crate) fn service(
    port: u16,
    kind: u32,
    id: u16,
    other_port: u16,
) -> (ServiceKey, ServiceEntry) {
    (
        ServiceKey {
            vip: addr(VIP),
            port: port.into(),
        },
        ServiceEntry {
            kind,
            id,
            other_port,
            most: MOST,
            rules: 0,
            table: 0,
            default: 0,
        },
    )
}

/// Runs `ip` in the thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    let status = command.args(arguments.split_ascii_whitespace()).status();
    assert!(status.expect("ip of iproute2").success(), "{command:?}");
}

/// Seconds of the bench's Unix time.
pub(crate) fn now() -> u32 {
    clock_gettime(ClockId::Monotonic).tv_sec as u32
}

/// The flow of a client's port to a port of the VIP.
pub(crate) fn flow(remote_port: u16, local_port: u16) -> FlowKey {
    FlowKey {
        remote: addr(CLIENT),
        local: addr(VIP),
        remote_port,
        local_port,
    }
}

/// x, the client's first sequence number in every flow's frames made here.
pub(crate) const X: u32 = 0xffff_fff0;
/// y, the inspecting node's.
pub(crate) const Y: u32 = 0x8000_0001;
/// w, the processing server's.
pub(crate) const W: u32 = 0x1234_5678;

/// A client's segment without options and data.
pub(crate) fn client(flow: &FlowKey, seq: u32, ack: u32, flags: u8) -> Tcp {
    Tcp {
        to: VIP_MAC,
        from: CLIENT_MAC,
        src: (flow.remote.v4_tail(), flow.remote_port),
        dst: (flow.local.v4_tail(), flow.local_port),
        ip_options: vec![],
        seq,
        ack,
        reserved: 0,
        flags,
        window: 0x1f5,
        urgent: 0,
        options: vec![],
        payload: vec![],
    }
}

/// The client's SYN, with what Linux offers.
pub(crate) fn syn(flow: &FlowKey) -> Tcp {
    Tcp {
        options: [
            &[2, 4, 5, 0xb4, 4, 2][..],
            &timestamps(1000, 0)[2..],
            &[1, 3, 3, 7],
        ]
        .concat(),
        ..client(flow, X, 0, SYN)
    }
}

/// A segment of this node's own, from the VIP to the client.
pub(crate) fn server(flow: &FlowKey, seq: u32, ack: u32, flags: u8) -> Tcp {
    Tcp {
        to: CLIENT_MAC,
        from: FRONT_MAC,
        ..client(flow, seq, ack, flags).reversed()
    }
}

/// Two NOPs and timestamps: the layout of nearly every segment.
pub(crate) fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut b = vec![1, 1, 8, 10];
    b.extend(value.to_be_bytes());
    b.extend(echo.to_be_bytes());
    b
}

/// What a handover of the flow says.
pub(crate) fn option(flow: &FlowKey) -> HandoverOption {
    HandoverOption {
        client: flow.remote,
        client_port: flow.remote_port,
        client_isn: Seq(X),
        server_isn: Seq(Y),
        service: WEB_ID,
        agreed: AGREED & !dts_core::handover::AGREED_ECN,
        client_scale: 7,
        announced_scale: 9,
        client_mss: 1460,
        client_tsval: 1001,
        server_tsval: 5000,
        made: now(),
    }
}

/// A handover SYN from a port of `from`, tagged with `key`.
pub(crate) fn handover_syn(o: &HandoverOption, from: [u8; 4], port: u16, key: [u8; 16]) -> Tcp {
    let ends = HandoverEnds {
        from: addr(from),
        from_port: port,
        to: addr(OWN),
    };
    let mut room = OptionRoom::default();
    o.emit(&key, &ends, &mut room);
    Tcp {
        urgent: o.client_port,
        options: room.bytes.to_vec(),
        window: 0xfa00,
        ..peer(port, from, o.client_isn.0, o.server_isn.0, SYN)
    }
}

/// A segment of a handover connection from a port of `from` to this node.
pub(crate) fn peer(port: u16, from: [u8; 4], seq: u32, ack: u32, flags: u8) -> Tcp {
    Tcp {
        to: BACK_MAC,
        from: PEER_MAC,
        src: (from, port),
        dst: (OWN, HANDOVER),
        ..client(&flow(0, 0), seq, ack, flags)
    }
}

/// A segment of a handover connection of this node's, from `port` to the peer.
pub(crate) fn own(port: u16, seq: u32, ack: u32, flags: u8) -> Tcp {
    Tcp {
        to: PEER_MAC,
        from: BACK_MAC,
        src: (OWN, port),
        dst: (PEER, HANDOVER),
        ..client(&flow(0, 0), seq, ack, flags)
    }
}

/// The client's SYN as a node sends it on that had the flow's last connection, whose client began at
/// `old`.
pub(crate) fn released(flow: &FlowKey, old: u32, key: [u8; 16]) -> Tcp {
    let mut room = release::Room::default();
    release::emit(&key, flow, [Seq(X), Seq(old)], now(), &mut room);
    Tcp {
        to: BACK_MAC,
        from: PEER_MAC,
        ip_options: room.bytes.to_vec(),
        ..syn(flow)
    }
}

/// ACK and PSH.
pub(crate) const DATA: u8 = ACK | 0x08;
