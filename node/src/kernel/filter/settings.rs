//! What the daemon tells the filter: node, lease, ring, VIPs, members, services.

use std::net::IpAddr;
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use dts_core::addr::Addr;
use dts_core::entry::{
    NodeSettings, RingState, ServiceAddr, ServiceEntry, ServiceKey, service_kind,
};
use dts_core::ring::{MAX_POINTS, RingHashSpec, RingPoint};

use super::{Filter, FilterError, lock, map_error};
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::shared::Raw;

impl Filter {
    /// Tells the filter about its node. The epoch of its services and the bank of the request ring stay what they are.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the update.
    pub fn set_node(&self, settings: &NodeSettings) -> Result<(), FilterError> {
        self.change_node(|old| NodeSettings {
            services_epoch: old.services_epoch,
            request_bank: old.request_bank,
            ..*settings
        })
    }

    /// Replaces the node's settings by what `new` makes of them.
    pub(super) fn change_node(
        &self,
        new: impl FnOnce(NodeSettings) -> NodeSettings,
    ) -> Result<(), FilterError> {
        let mut map = lock(&self.node);
        let old = map.get(&0, 0).map_err(map_error("NODE"))?.0;
        map.set(0, Raw(new(old)), 0).map_err(map_error("NODE"))
    }

    /// What the filter was last told about its node.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn node(&self) -> Result<NodeSettings, FilterError> {
        Ok(lock(&self.node).get(&0, 0).map_err(map_error("NODE"))?.0)
    }

    /// Lets this node accept new connections until `until`, a time of the monotonic clock; zero gives the
    /// lease back.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the update.
    pub fn set_lease(&self, until: Duration) -> Result<(), FilterError> {
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        lock(&self.lease)
            .set(0, until, 0)
            .map_err(map_error("LEASE"))
    }

    /// Until when this node accepts new connections, by the monotonic clock.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn lease(&self) -> Result<Duration, FilterError> {
        Ok(Duration::from_nanos(
            lock(&self.lease).get(&0, 0).map_err(map_error("LEASE"))?,
        ))
    }

    /// Publishes a ring: the filter uses it whole, from one packet to the next.
    ///
    /// `node` is this node's number in the points. For the time of `former`, connections that were another node's by the
    /// ring before are looked for at all nodes, and all connections for as long as such a time has begun before; zero: there
    /// was no ring before. A ring that is published already stays what it is, but for its epoch.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update. The old ring stays in use then.
    ///
    /// # Panics
    ///
    /// When there are more than [`MAX_POINTS`] points, which the configuration excludes.
    pub fn publish_ring(
        &self,
        node: u32,
        epoch: u64,
        hash: RingHashSpec,
        points: &[RingPoint],
        former: Duration,
    ) -> Result<(), FilterError> {
        let count = u32::try_from(points.len()).unwrap_or(u32::MAX);
        assert!(count <= MAX_POINTS, "a ring of {count} points");
        let mut published = lock(&self.ring_bank);
        let used = published.get(&0, 0).map_err(map_error("RING_BANK"))? & 1;
        let Raw(old) = lock(&self.ring).get(&used, 0).map_err(map_error("RING"))?;
        let mut all = lock(&self.ring_points);
        let is_there = |(index, point): (u32, &RingPoint)| {
            all.get(&index, 0).is_ok_and(|Raw(there)| there == *point)
        };
        let same = (old.count, old.node, old.hash) == (count, node, hash)
            && (used * MAX_POINTS..).zip(points).all(is_there);
        if same && !former.is_zero() {
            return lock(&self.ring)
                .set(used, Raw(RingState { epoch, ..old }), 0)
                .map_err(map_error("RING"));
        }
        let bank = 1 - used;
        for (index, point) in (bank * MAX_POINTS..).zip(points) {
            all.set(index, Raw(*point), 0)
                .map_err(map_error("RING_POINTS"))?;
        }
        let state = RingState {
            hash,
            epoch,
            count,
            node,
            former_until: if former.is_zero() {
                0
            } else {
                let until = Duration::from_nanos(monotonic_ns()).saturating_add(former);
                u64::try_from(until.as_nanos()).unwrap_or(u64::MAX)
            },
            // The ring before the old one is overwritten.
            any_until: if former.is_zero() {
                0
            } else {
                old.former_until
            },
        };
        lock(&self.ring)
            .set(bank, Raw(state), 0)
            .map_err(map_error("RING"))?;
        published.set(0, bank, 0).map_err(map_error("RING_BANK"))
    }

    /// The published ring's epoch; 0 when none has been published.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn ring_epoch(&self) -> Result<u64, FilterError> {
        let bank = lock(&self.ring_bank)
            .get(&0, 0)
            .map_err(map_error("RING_BANK"))?
            & 1;
        Ok(lock(&self.ring)
            .get(&bank, 0)
            .map_err(map_error("RING"))?
            .0
            .epoch)
    }

    /// Replaces the set of VIPs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update.
    pub fn set_vips(&self, vips: &[Addr]) -> Result<(), FilterError> {
        let wanted: Vec<_> = vips.iter().map(|vip| (Raw(*vip), 1)).collect();
        replace("VIPS", &mut lock(&self.vips), &wanted, |a, b| a.0 == b.0)
    }

    /// Replaces the set of members' back addresses.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update.
    pub fn set_members(&self, members: &[Addr]) -> Result<(), FilterError> {
        let wanted: Vec<_> = members.iter().map(|member| (Raw(*member), 1)).collect();
        replace("MEMBERS", &mut lock(&self.members), &wanted, |a, b| {
            a.0 == b.0
        })
    }

    /// Replaces the set of services.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update.
    pub fn set_services(&self, services: &[(ServiceKey, ServiceEntry)]) -> Result<(), FilterError> {
        let replaced = self.replace_services(services);
        // Afterwards: whoever sees the new epoch finds the new services. Also when only some were replaced.
        self.change_node(|node| NodeSettings {
            services_epoch: node.services_epoch.wrapping_add(1),
            ..node
        })?;
        replaced
    }

    /// What the filter was last told of a service; `None` when it knows of none there.
    ///
    /// # Errors
    ///
    /// When the map can't be read.
    pub fn service(&self, vip: IpAddr, port: u16) -> Result<Option<ServiceEntry>, FilterError> {
        let key = ServiceKey {
            vip: Addr::from(vip),
            port: port.into(),
        };
        match lock(&self.services).get(&Raw(key), 0) {
            Ok(found) => Ok(Some(found.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error("SERVICES")(error)),
        }
    }

    fn replace_services(&self, services: &[(ServiceKey, ServiceEntry)]) -> Result<(), FilterError> {
        let wanted: Vec<_> = services.iter().map(|(k, v)| (Raw(*k), Raw(*v))).collect();
        replace("SERVICES", &mut lock(&self.services), &wanted, |a, b| {
            a.0 == b.0
        })?;
        let ids: Vec<_> = services
            .iter()
            .filter(|(_, entry)| matches!(entry.kind, service_kind::L7 | service_kind::ADOPT))
            .map(|(key, entry)| {
                (
                    u32::from(entry.id),
                    Raw(ServiceAddr {
                        vip: key.vip,
                        port: key.port,
                    }),
                )
            })
            .collect();
        replace("SERVICE_IDS", &mut lock(&self.service_ids), &ids, |a, b| {
            a == b
        })
    }
}

/// Makes a map hold exactly `wanted`: new values first, then what is no longer wanted is removed.
pub(super) fn replace<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    map: &mut HashMap<MapData, K, V>,
    wanted: &[(K, V)],
    same: impl Fn(&K, &K) -> bool,
) -> Result<(), FilterError> {
    for (key, value) in wanted {
        map.insert(key, value, 0).map_err(map_error(name))?;
    }
    let present: Vec<K> = map
        .keys()
        .collect::<Result<_, _>>()
        .map_err(map_error(name))?;
    for key in present {
        if !wanted.iter().any(|(k, _)| same(k, &key)) {
            map.remove(&key).map_err(map_error(name))?;
        }
    }
    Ok(())
}
