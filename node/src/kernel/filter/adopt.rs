//! What the daemon tells the filter of adoption: cookies' keys, targets, rules. And what it is told: requests.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, RingBuf};
use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{
    Adoption, COOKIE_KEYS, CookieKey, Inquiry, NodeSet, REQUEST_NODES, RULE_HOST, RULE_PATH,
    RequestRing, RuleHost, RulePath, Target,
};
use dts_core::entry::{ConnKey, NodeSettings, SweepRecord, sweep};
use dts_core::ring::{MAX_POINTS, RingHashSpec, RingPoint};
use dts_core::seq::Seq;

use super::{
    Ebpf, Filter, FilterError, Hash, Mutex, lock, map_error, settings::replace, take, take_map,
};
use crate::kernel::shared::{Raw, read_plain};

/// Reads a record of the filter's: what it says of the segment, and the segment's data. `None` when it is cut.
#[must_use]
pub fn read_inquiry(record: &[u8]) -> Option<(Inquiry, &[u8])> {
    let inquiry: Inquiry = read_plain(record)?;
    let data = record.get(size_of::<Inquiry>()..)?;
    Some((inquiry, data.get(..inquiry.len as usize)?))
}

/// The maps of adoption.
pub(super) struct AdoptMaps {
    adoptions: Mutex<Hash<FlowKey, Adoption>>,
    spliced: Mutex<Array<MapData, u32>>,
    keys: Mutex<Array<MapData, Raw<CookieKey>>>,
    targets: Mutex<Hash<Addr, Target>>,
    sets: Mutex<HashMap<MapData, u32, Raw<NodeSet>>>,
    paths: Mutex<HashMap<MapData, Raw<RulePath>, u32>>,
    prefixes: Mutex<LpmTrie<MapData, Raw<RulePath>, u32>>,
    hosts: Mutex<HashMap<MapData, Raw<RuleHost>, u32>>,
    ring: Mutex<Array<MapData, Raw<RequestRing>>>,
    points: Mutex<Array<MapData, Raw<RingPoint>>>,
    nodes: Mutex<Array<MapData, Raw<Addr>>>,
    requests: Mutex<Option<RingBuf<MapData>>>,
}

impl AdoptMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, FilterError> {
        Ok(Self {
            adoptions: take(ebpf, "ADOPTIONS")?,
            spliced: take(ebpf, "SPLICED")?,
            keys: take(ebpf, "COOKIE_KEYS")?,
            targets: take(ebpf, "TARGETS")?,
            sets: take(ebpf, "NODE_SETS")?,
            paths: take(ebpf, "RULE_PATHS")?,
            prefixes: take(ebpf, "RULE_PREFIXES")?,
            hosts: take(ebpf, "RULE_HOSTS")?,
            ring: take(ebpf, "REQUEST_RING")?,
            points: take(ebpf, "REQUEST_POINTS")?,
            nodes: take(ebpf, "REQUEST_NODES")?,
            requests: Mutex::new(Some(take_map(ebpf, "REQUESTS")?)),
        })
    }
}

/// Compiled rules of all services, as the filter's maps have them.
#[derive(Clone, Debug, Default)]
pub struct RuleTables {
    /// Sets of nodes, by number.
    pub sets: Vec<(u32, NodeSet)>,
    /// Rulings by table and whole path.
    pub paths: Vec<(u32, String, u32)>,
    /// Rulings by table and path's beginning.
    pub prefixes: Vec<(u32, String, u32)>,
    /// Tables by the service's first table and host.
    pub hosts: Vec<(u32, String, u32)>,
}

/// Which values the maps hold that an earlier configuration, or an earlier daemon's, has put there.
#[derive(Debug, Default)]
pub struct OldRules {
    sets: Vec<u32>,
    paths: Vec<RulePath>,
    prefixes: Vec<(u32, RulePath)>,
    hosts: Vec<RuleHost>,
}

impl OldRules {
    /// A number above those of all tables and sets.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        let tables = self.paths.iter().map(|key| key.table);
        let tables = tables.chain(self.prefixes.iter().map(|(_, key)| key.table));
        let tables = tables.chain(self.hosts.iter().map(|key| key.table));
        tables
            .chain(self.sets.iter().copied())
            .max()
            .map_or(1, |n| n + 1)
    }
}

fn rule_path(table: u32, text: &str) -> RulePath {
    let mut path = [0; RULE_PATH];
    path[..text.len()].copy_from_slice(text.as_bytes());
    RulePath { table, path }
}

/// How many bits of a [`RulePath`] count for a path's beginning.
fn bits(text: &str) -> u32 {
    32 + 8 * text.len() as u32
}

impl Filter {
    /// How often a connection of an adopting service began to be spliced.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn spliced(&self) -> Result<u32, FilterError> {
        let map = lock(&self.adopt.spliced);
        map.get(&0, 0).map_err(map_error("SPLICED"))
    }

    /// Tells the filter that no connection is spliced but those that began since `spliced` said so.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the update.
    pub fn forget_spliced(&self, spliced: u32) -> Result<(), FilterError> {
        let mut map = lock(&self.adopt.spliced);
        map.set(1, spliced, 0).map_err(map_error("SPLICED"))
    }

    /// Which of these flows the server has a socket of that is no listener and not in TIME_WAIT.
    ///
    /// # Errors
    ///
    /// When the program can't be run.
    pub fn alive(&self, flows: &[FlowKey]) -> Result<Vec<bool>, FilterError> {
        let mut records: Vec<_> = flows
            .iter()
            .map(|flow| SweepRecord {
                key: ConnKey {
                    flow: *flow,
                    role: sweep::SOCKET,
                },
                client_isn: Seq(0),
                value: 0,
            })
            .collect();
        self.sweep(&mut records)?;
        Ok(records.iter().map(|r| r.value == sweep::ALIVE).collect())
    }

    /// What is known of a flow.
    ///
    /// # Errors
    ///
    /// When the map can't be read; a missing entry is `None`.
    pub fn adoption(&self, flow: &FlowKey) -> Result<Option<Adoption>, FilterError> {
        match lock(&self.adopt.adoptions).get(&Raw(*flow), 0) {
            Ok(found) => Ok(Some(found.0)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error("ADOPTIONS")(error)),
        }
    }

    /// Notes what is known of a flow.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the update.
    pub fn set_adoption(&self, flow: &FlowKey, adoption: &Adoption) -> Result<(), FilterError> {
        lock(&self.adopt.adoptions)
            .insert(Raw(*flow), Raw(*adoption), 0)
            .map_err(map_error("ADOPTIONS"))
    }

    /// Every connection that is being or has been adopted, in no order.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn adoptions(&self) -> Result<Vec<(FlowKey, Adoption)>, FilterError> {
        let map = lock(&self.adopt.adoptions);
        let mut all = Vec::new();
        for key in map.keys() {
            let key = key.map_err(map_error("ADOPTIONS"))?;
            // One that has gone meanwhile is left out.
            if let Ok(value) = map.get(&key, 0) {
                all.push((key.0, value.0));
            }
        }
        Ok(all)
    }

    /// Tells the filter the cookies' keys, by their numbers.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update.
    pub fn set_cookie_keys(&self, keys: &[(u64, [u8; 16])]) -> Result<(), FilterError> {
        let mut map = lock(&self.adopt.keys);
        for (number, key) in keys {
            let value = CookieKey {
                number: number + 1,
                key: *key,
            };
            map.set((number % u64::from(COOKIE_KEYS)) as u32, Raw(value), 0)
                .map_err(map_error("COOKIE_KEYS"))?;
        }
        Ok(())
    }

    /// Replaces the members that connections can be given to.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update.
    pub fn set_targets(&self, targets: &[(Addr, Target)]) -> Result<(), FilterError> {
        let wanted: Vec<_> = targets.iter().map(|(a, t)| (Raw(*a), Raw(*t))).collect();
        let mut map = lock(&self.adopt.targets);
        replace("TARGETS", &mut map, &wanted, |a, b| a.0 == b.0)
    }

    /// The members that connections can be given to.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn targets(&self) -> Result<Vec<(Addr, Target)>, FilterError> {
        let map = lock(&self.adopt.targets);
        let all = map.iter().map(|pair| pair.map(|(a, t)| (a.0, t.0)));
        all.collect::<Result<_, _>>().map_err(map_error("TARGETS"))
    }

    /// The rules that the maps hold at present.
    ///
    /// # Errors
    ///
    /// When a map can't be read.
    pub fn rules(&self) -> Result<OldRules, FilterError> {
        let maps = &self.adopt;
        let sets = lock(&maps.sets).keys().collect::<Result<_, _>>();
        let paths = lock(&maps.paths)
            .keys()
            .map(|key| key.map(|k| k.0))
            .collect::<Result<_, _>>();
        let prefixes = lock(&maps.prefixes)
            .keys()
            .map(|key| key.map(|k| (k.prefix_len(), k.data().0)))
            .collect::<Result<_, _>>();
        let hosts = lock(&maps.hosts)
            .keys()
            .map(|key| key.map(|k| k.0))
            .collect::<Result<_, _>>();
        Ok(OldRules {
            sets: sets.map_err(map_error("NODE_SETS"))?,
            paths: paths.map_err(map_error("RULE_PATHS"))?,
            prefixes: prefixes.map_err(map_error("RULE_PREFIXES"))?,
            hosts: hosts.map_err(map_error("RULE_HOSTS"))?,
        })
    }

    /// Adds rules, under numbers that no service uses yet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update: the maps are full.
    pub fn add_rules(&self, tables: &RuleTables) -> Result<(), FilterError> {
        let maps = &self.adopt;
        for (number, set) in &tables.sets {
            let added = lock(&maps.sets).insert(number, Raw(*set), 0);
            added.map_err(map_error("NODE_SETS"))?;
        }
        for (table, path, ruling) in &tables.paths {
            let added = lock(&maps.paths).insert(Raw(rule_path(*table, path)), ruling, 0);
            added.map_err(map_error("RULE_PATHS"))?;
        }
        for (table, prefix, ruling) in &tables.prefixes {
            let key = Key::new(bits(prefix), Raw(rule_path(*table, prefix)));
            let added = lock(&maps.prefixes).insert(&key, ruling, 0);
            added.map_err(map_error("RULE_PREFIXES"))?;
        }
        for (table, name, of_host) in &tables.hosts {
            let mut host = [0; RULE_HOST];
            host[..name.len()].copy_from_slice(name.as_bytes());
            let key = RuleHost {
                table: *table,
                host,
            };
            let added = lock(&maps.hosts).insert(Raw(key), of_host, 0);
            added.map_err(map_error("RULE_HOSTS"))?;
        }
        Ok(())
    }

    /// Removes rules that no service uses any more. A missing one is fine.
    pub fn remove_rules(&self, old: &OldRules) {
        let maps = &self.adopt;
        for number in &old.sets {
            let _ = lock(&maps.sets).remove(number);
        }
        for key in &old.paths {
            let _ = lock(&maps.paths).remove(&Raw(*key));
        }
        for (bits, key) in &old.prefixes {
            let _ = lock(&maps.prefixes).remove(&Key::new(*bits, Raw(*key)));
        }
        for key in &old.hosts {
            let _ = lock(&maps.hosts).remove(&Raw(*key));
        }
    }

    /// Publishes the ring that request keys are placed on; `nodes` are the back addresses by the points' numbers.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update. The old ring stays in use then.
    pub fn publish_requests(
        &self,
        hash: RingHashSpec,
        points: &[RingPoint],
        nodes: &[Addr],
    ) -> Result<(), FilterError> {
        let bank = 1 - (self.node()?.request_bank & 1);
        let first = u32::from(bank);
        let mut all = lock(&self.adopt.points);
        for (index, point) in (first * MAX_POINTS..).zip(points).take(MAX_POINTS as usize) {
            all.set(index, Raw(*point), 0)
                .map_err(map_error("REQUEST_POINTS"))?;
        }
        let mut addresses = lock(&self.adopt.nodes);
        for (index, node) in (first * REQUEST_NODES..)
            .zip(nodes)
            .take(REQUEST_NODES as usize)
        {
            addresses
                .set(index, Raw(*node), 0)
                .map_err(map_error("REQUEST_NODES"))?;
        }
        let ring = RequestRing {
            hash,
            // A ring of more nodes than the filter knows is the daemon's alone.
            count: if nodes.len() > REQUEST_NODES as usize {
                0
            } else {
                points.len() as u32
            },
            reserved: 0,
        };
        lock(&self.adopt.ring)
            .set(first, Raw(ring), 0)
            .map_err(map_error("REQUEST_RING"))?;
        self.change_node(|node| NodeSettings {
            request_bank: bank,
            ..node
        })
    }

    /// The requests that the filter leaves to the daemon, once.
    #[must_use]
    pub fn take_requests(&self) -> Option<RingBuf<MapData>> {
        lock(&self.adopt.requests).take()
    }

    /// Whether the kernel has what adoption takes: the function that makes a socket of a segment.
    #[must_use]
    pub fn can_adopt(&self) -> bool {
        self.can_adopt
    }
}
