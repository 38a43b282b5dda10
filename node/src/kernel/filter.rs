//! The packet filter in the kernel: loading it, and its maps as typed operations.
//!
//! Maps are pinned under the node's own directory. A daemon that starts where an earlier one has run
//! finds its connections there; the layout's version is part of the directory's name, so that maps
//! of another version are left alone.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::{
    ASSIGN_TCP_REQSK, ConnEntry, ConnKey, Handover, LAYOUT_VERSION, NodeSettings, RingState,
    ServiceAddr, ServiceEntry, ServiceKey, SweepRecord, sweep,
};
use dts_core::ring::RingPoint;
use dts_core::seq::Seq;
use dts_core::verdict::{COUNTERS, Verdict};

use super::attach::Attachment;
use super::handovers::Handovers;
use super::shared::{Raw, bytes_of, read_plain};
use super::{batch, btf, kfunc};
use adopt::AdoptMaps;
use trace::TraceMaps;

pub mod adopt;
mod error;
mod settings;
mod test_run;
mod trace;

pub use error::FilterError;
pub use test_run::Ran;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DTS_EBPF_OBJECT"));

/// The programs, in the order of loading.
const PROGRAMS: [&str; 7] = [
    "front_ingress",
    "front_egress",
    "back_ingress",
    "back_egress",
    "sweep",
    "ring_owner",
    "nothing",
];

/// The maps that outlive the daemon.
const PINNED: [&str; 27] = [
    "NODE",
    "LEASE",
    "RING",
    "RING_BANK",
    "RING_POINTS",
    "VIPS",
    "SERVICES",
    "SERVICE_IDS",
    "MEMBERS",
    "CONNECTIONS",
    "HANDOVERS",
    "PEERS",
    "STATS",
    "ADOPTIONS",
    "SPLICED",
    "SEEN",
    "HANDED",
    "COOKIE_KEYS",
    "TARGETS",
    "NODE_SETS",
    "RULE_PATHS",
    "RULE_PREFIXES",
    "RULE_HOSTS",
    "REQUEST_RING",
    "REQUEST_POINTS",
    "REQUEST_NODES",
    "REQUESTS",
];

/// The filter's names for the offsets of what it reads of a connection.
const CONNECTION_FIELDS: [&str; 5] = [
    "RCV_NXT",
    "COPIED_SEQ",
    "WRITE_SEQ",
    "OUT_OF_ORDER",
    "TS_OFFSET",
];

/// What listens on a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// Nothing.
    None,
    /// A TCP socket.
    Tcp,
    /// A socket that speaks MPTCP, too.
    Mptcp,
}

type Hash<K, V> = HashMap<MapData, Raw<K>, Raw<V>>;

/// The loaded filter and its maps.
pub struct Filter {
    ebpf: Mutex<Ebpf>,
    pins: PathBuf,
    node: Mutex<Array<MapData, Raw<NodeSettings>>>,
    lease: Mutex<Array<MapData, u64>>,
    ring: Mutex<Array<MapData, Raw<RingState>>>,
    ring_bank: Mutex<Array<MapData, u32>>,
    ring_points: Mutex<Array<MapData, Raw<RingPoint>>>,
    vips: Mutex<HashMap<MapData, Raw<Addr>, u32>>,
    services: Mutex<Hash<ServiceKey, ServiceEntry>>,
    service_ids: Mutex<HashMap<MapData, u32, Raw<ServiceAddr>>>,
    members: Mutex<HashMap<MapData, Raw<Addr>, u32>>,
    connections: Mutex<Hash<ConnKey, ConnEntry>>,
    /// The same map, to be read as a whole.
    connections_fd: OwnedFd,
    handovers: Handovers,
    adopt: AdoptMaps,
    can_adopt: bool,
    trace: TraceMaps,
    stats: PerCpuArray<MapData, u64>,
}

/// Where a node's pins are: `<pin_dir>/<cluster>-<node>/v<layout>`.
#[must_use]
pub fn pin_path(pin_dir: &Path, cluster: &str, node: &str) -> PathBuf {
    pin_dir
        .join(format!("{cluster}-{node}"))
        .join(format!("v{LAYOUT_VERSION}"))
}

impl Filter {
    /// Loads the programs, with the maps that are pinned under `pins` or new ones, which are pinned there.
    ///
    /// `connections` is the capacity of a new connection table.
    ///
    /// # Errors
    ///
    /// When there is no BPF file system at `pins`, or the kernel refuses a map or program.
    pub fn load(pins: &Path, connections: u32) -> Result<Self, FilterError> {
        std::fs::create_dir_all(pins).map_err(|source| FilterError::Pins {
            path: pins.to_owned(),
            source,
        })?;
        refuse_other_layouts(pins)?;
        // What the kernel calls tw_rcv_nxt is a field of the part that all sockets begin with.
        let offset = |of, field| btf::field_offset(of, field).unwrap_or(0);
        let tw_rcv_nxt = offset("sock_common", "skc_tw_rcv_nxt");
        let tw_ts_recent = offset("tcp_timewait_sock", "tw_ts_recent");
        let ack_backlog = offset("sock", "sk_ack_backlog");
        let max_ack_backlog = offset("sock", "sk_max_ack_backlog");
        let is_mptcp = offset("tcp_sock", "is_mptcp");
        let fields = [
            "rcv_nxt",
            "copied_seq",
            "write_seq",
            "out_of_order_queue",
            "tsoffset",
        ]
        .map(|field| offset("tcp_sock", field));
        let adopt = btf::function_id("bpf_sk_assign_tcp_reqsk");
        let object = kfunc::link(OBJECT, ASSIGN_TCP_REQSK, adopt).ok_or(FilterError::Object {
            what: "call of bpf_sk_assign_tcp_reqsk",
        })?;
        let mut loader = EbpfLoader::new();
        loader.override_global("TW_RCV_NXT", &tw_rcv_nxt, true);
        loader.override_global("TW_TS_RECENT", &tw_ts_recent, true);
        loader.override_global("ACK_BACKLOG", &ack_backlog, true);
        loader.override_global("MAX_ACK_BACKLOG", &max_ack_backlog, true);
        loader.override_global("IS_MPTCP", &is_mptcp, true);
        for (name, offset) in CONNECTION_FIELDS.into_iter().zip(&fields) {
            loader.override_global(name, offset, true);
        }
        loader.map_max_entries("ADOPTIONS", connections);
        loader.map_max_entries("CONNECTIONS", connections);
        loader.map_max_entries("PEERS", connections);
        for map in PINNED {
            loader.map_pin_path(map, pins.join(map));
        }
        let mut ebpf = loader.load(&object)?;
        for name in PROGRAMS {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .ok_or(FilterError::Object { what: name })?
                .try_into()?;
            program.load()?;
        }
        let handovers = match ebpf.map("HANDOVERS") {
            Some(Map::Array(map)) => Handovers::map(map.fd().as_fd()),
            _ => return Err(FilterError::Object { what: "HANDOVERS" }),
        }
        .map_err(|source| FilterError::Read {
            map: "HANDOVERS",
            source,
        })?;
        let connections_fd = match ebpf.map("CONNECTIONS") {
            Some(Map::HashMap(map)) => map.fd().as_fd().try_clone_to_owned(),
            _ => {
                return Err(FilterError::Object {
                    what: "CONNECTIONS",
                });
            }
        }
        .map_err(|source| FilterError::Read {
            map: "CONNECTIONS",
            source,
        })?;
        Ok(Self {
            pins: pins.to_owned(),
            connections_fd,
            node: take(&mut ebpf, "NODE")?,
            lease: take(&mut ebpf, "LEASE")?,
            ring: take(&mut ebpf, "RING")?,
            ring_bank: take(&mut ebpf, "RING_BANK")?,
            ring_points: take(&mut ebpf, "RING_POINTS")?,
            vips: take(&mut ebpf, "VIPS")?,
            services: take(&mut ebpf, "SERVICES")?,
            service_ids: take(&mut ebpf, "SERVICE_IDS")?,
            members: take(&mut ebpf, "MEMBERS")?,
            connections: take(&mut ebpf, "CONNECTIONS")?,
            handovers,
            adopt: AdoptMaps::take(&mut ebpf)?,
            can_adopt: adopt.is_some(),
            trace: TraceMaps::take(&mut ebpf)?,
            stats: take_map(&mut ebpf, "STATS")?,
            ebpf: Mutex::new(ebpf),
        })
    }

    /// Attaches the programs.
    ///
    /// # Errors
    ///
    /// When an interface is missing or the kernel refuses.
    pub fn attach(&self, attachment: &Attachment) -> Result<(), FilterError> {
        attachment.attach(&mut lock(&self.ebpf), &self.pins)
    }

    /// Takes the programs off and removes every map: all connections that are being translated end.
    ///
    /// # Errors
    ///
    /// When a pin can't be removed.
    pub fn detach(attachment: &Attachment, pins: &Path) -> Result<(), FilterError> {
        attachment.detach(pins);
        let node = pins.parent().unwrap_or(pins);
        match std::fs::remove_dir_all(node) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FilterError::Pins {
                path: node.to_owned(),
                source: e,
            }),
            _ => Ok(()),
        }
    }

    /// Notes or changes a handover connection of this node's, by its local port.
    pub fn set_handover(&self, port: u16, handover: &Handover) {
        self.handovers.set(port, handover);
    }

    /// Forgets a handover connection of this node's, unless its port has another flow's by now.
    pub fn remove_handover(&self, port: u16, handover: &Handover) {
        self.handovers.remove(port, handover);
    }

    /// Every handover connection of this node's.
    #[must_use]
    pub fn handovers(&self) -> Vec<(u16, Handover)> {
        self.handovers.all()
    }

    /// The entry of a flow in one role.
    ///
    /// # Errors
    ///
    /// When the map can't be read; a missing entry is `None`.
    pub fn connection(&self, key: &ConnKey) -> Result<Option<ConnEntry>, FilterError> {
        match lock(&self.connections).get(&Raw(*key), 0) {
            Ok(entry) => Ok(Some(entry.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(FilterError::Map {
                map: "CONNECTIONS",
                error,
            }),
        }
    }

    /// Replaces an entry that exists; `false` when there is none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the update.
    pub fn replace_connection(
        &self,
        key: &ConnKey,
        entry: &ConnEntry,
    ) -> Result<bool, FilterError> {
        const BPF_EXIST: u64 = 2;
        match lock(&self.connections).insert(Raw(*key), Raw(*entry), BPF_EXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {
                Ok(false)
            }
            Err(error) => Err(FilterError::Map {
                map: "CONNECTIONS",
                error,
            }),
        }
    }

    /// Every entry, in no order.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn connections(&self) -> Result<Vec<(ConnKey, ConnEntry)>, FilterError> {
        batch::entries(self.connections_fd.as_fd()).map_err(|source| FilterError::Read {
            map: "CONNECTIONS",
            source,
        })
    }

    /// The counters, summed over the processors, in the order of [`Verdict::counter`].
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn stats(&self) -> Result<Vec<(Verdict, u64)>, FilterError> {
        (0..COUNTERS)
            .filter_map(|index| Some((index, Verdict::from_counter(index)?)))
            .map(|(index, verdict)| {
                let values = self.stats.get(&index, 0).map_err(map_error("STATS"))?;
                Ok((verdict, values.iter().sum()))
            })
            .collect()
    }

    /// Asks the kernel about entries and their sockets; each record's `value` is the answer.
    ///
    /// # Errors
    ///
    /// When the program can't be run.
    pub fn sweep(&self, records: &mut [SweepRecord]) -> Result<(), FilterError> {
        for chunk in records.chunks_mut(sweep::RECORDS) {
            let mut frame = vec![0u8; 14];
            for record in chunk.iter() {
                frame.extend_from_slice(bytes_of(record));
            }
            let out = self.run("sweep", &frame)?.1;
            for (record, bytes) in chunk
                .iter_mut()
                .zip(out[14..].chunks(size_of::<SweepRecord>()))
            {
                if let Some(answer) = read_plain(bytes) {
                    *record = answer;
                }
            }
        }
        Ok(())
    }

    /// What listens on a service's port, for connections to `vip`.
    ///
    /// # Errors
    ///
    /// When the program can't be run.
    pub fn listener(&self, vip: IpAddr, port: u16) -> Result<Listener, FilterError> {
        let flow = FlowKey {
            local: Addr::from(vip),
            remote: Addr::v4([0; 4]),
            remote_port: 0,
            local_port: port,
        };
        let mut record = [SweepRecord {
            key: ConnKey {
                flow,
                role: sweep::LISTENER,
            },
            client_isn: Seq(0),
            value: 0,
        }];
        self.sweep(&mut record)?;
        Ok(match record[0].value {
            sweep::LISTENS => Listener::Tcp,
            sweep::LISTENS_MPTCP => Listener::Mptcp,
            _ => Listener::None,
        })
    }
}

/// The flow as a sweep names a handover connection: from the target to this node's end.
#[must_use]
pub fn handover_flow(own: Addr, port: u16, target: Addr, handover_port: u16) -> FlowKey {
    FlowKey {
        remote: target,
        local: own,
        remote_port: handover_port,
        local_port: port,
    }
}

/// Two filters must not see the same packets.
fn refuse_other_layouts(pins: &Path) -> Result<(), FilterError> {
    let unreadable = |source| FilterError::Pins {
        path: pins.to_owned(),
        source,
    };
    let Some(node) = pins.parent() else {
        return Ok(());
    };
    for entry in std::fs::read_dir(node).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path != pins && path.is_dir() {
            return Err(FilterError::OtherLayout { path });
        }
    }
    Ok(())
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mutex<M>, FilterError>
where
    M: TryFrom<Map, Error = MapError>,
{
    take_map(ebpf, name).map(Mutex::new)
}

fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, FilterError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or(FilterError::Object { what: name })?;
    M::try_from(map).map_err(map_error(name))
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> FilterError {
    move |error| FilterError::Map { map, error }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
