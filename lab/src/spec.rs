//! What a lab consists of: its description.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{LabError, Result};
use crate::impair::Impairment;
use crate::place::{Family, Network, Place};

/// The shared address of the lab's cluster.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);

/// The shared address of the lab's cluster in a lab with IPv6.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

/// The pseudo-address by which a node hands over to itself: on the back network, nobody's.
pub const SELF_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 254);

/// The same where the nodes speak IPv6 with each other.
pub const SELF_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x254);

/// The most nodes a lab can have.
pub const MAX_NODES: u8 = 16;

/// The most clients a lab can have.
pub const MAX_CLIENTS: u8 = 8;

/// What a lab consists of. [`LabSpec::new`] gives the usual one; change the fields that differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabSpec {
    /// Lower-case letters and digits, at most 16; part of every name that the lab leaves in the
    /// system.
    pub name: String,
    /// The nodes, `n1` first; 1 to [`MAX_NODES`].
    pub nodes: Vec<NodeSpec>,
    /// How many client namespaces; 1 to [`MAX_CLIENTS`].
    pub clients: u8,
    /// Further addresses of each client, for load from more than one address: client `j` gets
    /// `198.18.(1+j).1` and so on, with IPv6 also `2001:db8:0:(1+j)::1`; at most 254.
    pub client_extra_addresses: u8,
    /// Settings of the clients' namespaces, such as `("net.ipv4.tcp_rmem", "4096 131072 6291456")`.
    pub client_sysctls: Vec<(String, String)>,
    /// MTU of the front network in bytes.
    pub front_mtu: u16,
    /// MTU of the back network in bytes.
    pub back_mtu: u16,
    /// Whether nodes merge received segments (GRO). TSO is on in any case, as it is on a new veth.
    pub gro: bool,
    /// Whether the lab's interfaces have IPv6 addresses too: `2001:db8::11` is `n1` on front,
    /// `2001:db8:1::11` on back, `2001:db8::201` the client. The default services have [`VIP_V6`] too then.
    pub ipv6: bool,
    /// What answers requests on the nodes.
    pub server: ServerKind,
    /// Whether nginx keeps connections open after a response.
    pub keepalive: bool,
    /// What is wrong with the networks from the start.
    pub impairments: Vec<Impairment>,
    /// The daemons' part.
    pub cluster: ClusterSpec,
    /// The `dts` program: it runs the daemons, and the delay line as `dts lab delay-line`.
    pub dts_exe: PathBuf,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Cores that the node's processes and its receive path may use together, such as 0.1.
    pub cpu_quota: Option<f32>,
    /// Microseconds that received frames may wait for more to come before the receive path of a node with a CPU quota runs,
    /// as a network card's interrupts do (`ethtool -C`, `rx-usecs`). 0: it runs for each frame.
    pub rx_usecs: u32,
    /// Bytes of memory, page cache included, that the node's processes may use together.
    pub memory_limit: Option<u64>,
    /// A directory on a disk of its own, with a cache and a speed of its own: see
    /// [`crate::Lab::disk_dir`]. Not together with the two limits above.
    #[serde(default)]
    pub disk: Option<DiskSpec>,
    /// Settings of the node's namespace, such as `("net.ipv4.tcp_rmem", "4096 131072 33554432")`:
    /// the last number decides the window scale that the node announces (unless the machine's
    /// `net.core.rmem_max` is larger).
    pub sysctls: Vec<(String, String)>,
    /// Lines for the `[node]` table of the node's `dts.toml`, such as `inspect = false`.
    pub node_toml: String,
    /// Whether the node holds points on the ring; `None` leaves the key out of the configuration.
    pub inspect: Option<bool>,
}

/// What a node's disk is like, for the programs that [`crate::Lab::spawn_on_disk`] starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Bytes of memory that these programs may use together, with what they have read or written: this
    /// limits the page cache.
    pub memory_limit: Option<u64>,
    /// Bytes per second that they may read, all together.
    pub read_bps: Option<u64>,
}

/// What answers requests on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerKind {
    /// One nginx per node on port 80.
    Nginx,
    /// Nothing: the test starts what it needs with [`crate::Lab::spawn`].
    None,
}

/// The part of the specification that becomes the nodes' `dts.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Whether [`crate::Lab::up`] starts the daemons.
    pub daemons: bool,
    /// Without daemons: put the VIP on `lo` of the nodes (as the daemon does) and let the first
    /// node answer ARP for it, for measurements of a server without DTS.
    pub vip_on_lo: bool,
    /// The family of the addresses by which the nodes know each other.
    #[serde(default)]
    pub back: Family,
    /// Lines for the `[cluster]` table, such as `handover_port = 7411`.
    pub cluster_toml: String,
    /// Lines for the `[ring]` table, such as `hash = "md5"`.
    pub ring_toml: String,
    /// The `[[service]]` tables; `None` is [`LabSpec::default_services`].
    pub services_toml: Option<String>,
    /// What the daemons log, as in `dts node --log`; `None` is their default.
    pub log: Option<String>,
}

impl LabSpec {
    /// A lab of `nodes` nodes, each with nginx and a daemon, and one client.
    pub fn new(name: impl Into<String>, nodes: u8, dts_exe: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            nodes: vec![NodeSpec::default(); usize::from(nodes)],
            clients: 1,
            client_extra_addresses: 0,
            client_sysctls: Vec::new(),
            front_mtu: 1500,
            back_mtu: 1500,
            gro: true,
            ipv6: false,
            server: ServerKind::Nginx,
            keepalive: true,
            impairments: Vec::new(),
            cluster: ClusterSpec::default(),
            dts_exe: dts_exe.into(),
        }
    }

    /// The same lab without daemons.
    pub fn without_daemons(mut self) -> Self {
        self.cluster.daemons = false;
        self
    }

    /// The lab with IPv6, and with `back` as the family of the nodes' addresses for each other.
    pub fn with_ipv6(mut self, back: Family) -> Self {
        self.ipv6 = true;
        self.cluster.back = back;
        self
    }

    /// The shared addresses.
    pub fn vips(&self) -> Vec<IpAddr> {
        let v6 = self.ipv6.then_some(IpAddr::V6(VIP_V6));
        std::iter::once(IpAddr::V4(VIP)).chain(v6).collect()
    }

    /// One web service at each shared address: [`ClusterSpec::services_at`] with connections handed over as is best.
    pub fn default_services(&self) -> String {
        ClusterSpec::services_at(&self.vips(), self.node_count(), "auto")
    }

    /// The number of nodes.
    pub fn node_count(&self) -> u8 {
        self.nodes.len() as u8
    }

    /// The nodes' places, `n1` first.
    pub fn node_places(&self) -> impl Iterator<Item = Place> + use<> {
        (1..=self.node_count()).map(Place::Node)
    }

    /// The clients' places.
    pub fn client_places(&self) -> impl Iterator<Item = Place> + use<> {
        (1..=self.clients).map(Place::Client)
    }

    /// Every namespace, the hub first.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        std::iter::once(Place::Hub)
            .chain(self.client_places())
            .chain(self.node_places())
    }

    /// The places that `network` connects.
    pub fn ports(&self, network: Network) -> Vec<Place> {
        let clients = self.client_places().filter(|_| network == Network::Front);
        clients.chain(self.node_places()).collect()
    }

    /// The MTU of `network` in bytes.
    pub fn mtu(&self, network: Network) -> u16 {
        match network {
            Network::Front => self.front_mtu,
            Network::Back => self.back_mtu,
        }
    }

    /// Whether the lab itself, not a daemon, puts the VIP on the nodes.
    pub(crate) fn vip_without_daemons(&self) -> bool {
        self.cluster.vip_on_lo && !self.cluster.daemons
    }

    /// Fails where the specification cannot be built; says what to change.
    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(LabError::InvalidSpec(message));
        validate_name(&self.name)?;
        if self.nodes.is_empty() || self.nodes.len() > usize::from(MAX_NODES) {
            return invalid(format!(
                "{} nodes; a lab has 1 to {MAX_NODES}",
                self.nodes.len()
            ));
        }
        if self.clients == 0 || self.clients > MAX_CLIENTS {
            return invalid(format!(
                "{} clients; a lab has 1 to {MAX_CLIENTS}",
                self.clients
            ));
        }
        if self.client_extra_addresses > 254 {
            return invalid("more than 254 further addresses of a client".to_owned());
        }
        for network in [Network::Front, Network::Back] {
            // What every host must take (RFC 791, RFC 8200); 65535: the largest IPv4 packet.
            let least = if self.ipv6 { 1280 } else { 576 };
            if self.mtu(network) < least {
                return invalid(format!(
                    "{network} MTU {} is below {least}",
                    self.mtu(network)
                ));
            }
        }
        if self.cluster.back == Family::V6 && !self.ipv6 {
            return invalid("nodes that speak IPv6 with each other in a lab without".to_owned());
        }
        for (place, node) in self.node_places().zip(&self.nodes) {
            if let Some(quota) = node.cpu_quota
                && !(0.01..=1024.0).contains(&quota)
            {
                return invalid(format!(
                    "CPU quota {quota} of {place}; write cores, from 0.01"
                ));
            }
            if node.rx_usecs > 1_000_000 || (node.rx_usecs > 0 && node.cpu_quota.is_none()) {
                return invalid(format!(
                    "rx_usecs = {} of {place}; it goes with a CPU quota, and to a second",
                    node.rx_usecs
                ));
            }
            let of_disk = node.disk.as_ref().and_then(|disk| disk.memory_limit);
            if [node.memory_limit, of_disk]
                .into_iter()
                .flatten()
                .any(|limit| limit < 16 << 20)
            {
                return invalid(format!("memory limit of {place} is below 16 MiB"));
            }
            // A process is in one group of each kind only, and cgroup v2 knows but one kind.
            if node.disk.is_some() && (node.cpu_quota.is_some() || node.memory_limit.is_some()) {
                return invalid(format!(
                    "{place} has a disk and another limit: one of the two only"
                ));
            }
        }
        self.impairments
            .iter()
            .try_for_each(|impairment| impairment.validate(self))
    }

    /// Fails when the lab has no such place.
    pub(crate) fn check_place(&self, place: Place) -> Result<Place> {
        match self.places().any(|known| known == place) {
            true => Ok(place),
            false => Err(LabError::NoSuchPlace {
                lab: self.name.clone(),
                place: place.to_string(),
                nodes: self.node_count(),
                clients: self.clients,
            }),
        }
    }
}

/// A lab's name is part of file names, namespaces and cgroups, and of patterns that clean them up.
pub(crate) fn validate_name(name: &str) -> Result<()> {
    let valid = (1..=16).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    match valid {
        true => Ok(()),
        false => Err(LabError::InvalidSpec(format!(
            "name `{name}`; write 1 to 16 lower-case letters and digits"
        ))),
    }
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            daemons: true,
            vip_on_lo: false,
            back: Family::V4,
            cluster_toml: String::new(),
            ring_toml: String::new(),
            services_toml: None,
            log: None,
        }
    }
}

impl ClusterSpec {
    /// [`ClusterSpec::services_at`] of the IPv4 VIP.
    pub fn services(nodes: u8, handover: &str) -> String {
        Self::services_at(&[IpAddr::V4(VIP)], nodes, handover)
    }

    /// One web service at these addresses: `/n1/...` belongs to `n1` and so on, `/downloads/...` to a node by its URI,
    /// everything else to the node that inspects it. Connections are handed over in this way: `auto`, `adopt` or `splice`.
    pub fn services_at(vips: &[IpAddr], nodes: u8, handover: &str) -> String {
        let mut vips = vips
            .iter()
            .map(|vip| format!("\"{vip}\""))
            .collect::<Vec<_>>();
        let vips = match vips.len() {
            1 => vips.remove(0),
            _ => format!("[{}]", vips.join(", ")),
        };
        let mut toml = format!(
            "[[service]]\nname = \"web\"\nvip = {vips}\nport = 80\nmode = \"l7\"\nhandover = \"{handover}\"\n\
             inspector_port = 8081\nprotocol = \"http\"\ndefault = \"local\"\n"
        );
        for node in 1..=nodes {
            toml += &format!(
                "\n[[service.rule]]\npath_prefix = \"/n{node}/\"\nto = {{ nodes = [\"n{node}\"] }}\n"
            );
        }
        toml += "\n[[service.rule]]\npath_prefix = \"/downloads/\"\nto = { hash = \"uri\" }\n";
        toml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_labs_are_refused() {
        let spec = |change: fn(&mut LabSpec)| {
            let mut spec = LabSpec::new("t", 2, "dts");
            change(&mut spec);
            spec.validate()
        };
        assert!(spec(|_| ()).is_ok());
        assert!(spec(|spec| spec.name = "a-b".into()).is_err());
        assert!(spec(|spec| spec.name = String::new()).is_err());
        assert!(spec(|spec| spec.nodes.clear()).is_err());
        assert!(spec(|spec| spec.nodes.resize(17, NodeSpec::default())).is_err());
        assert!(spec(|spec| spec.clients = 0).is_err());
        assert!(spec(|spec| spec.nodes[0].cpu_quota = Some(f32::NAN)).is_err());
        assert!(spec(|spec| spec.back_mtu = 100).is_err());
        assert!(spec(|spec| (spec.ipv6, spec.back_mtu) = (true, 1279)).is_err());
        assert!(spec(|spec| spec.cluster.back = Family::V6).is_err());
        assert!(spec(|spec| *spec = spec.clone().with_ipv6(Family::V6)).is_ok());
        assert!(spec(|spec| spec.nodes[0].disk = Some(DiskSpec::default())).is_ok());
        assert!(
            spec(|spec| {
                spec.nodes[0].disk = Some(DiskSpec::default());
                spec.nodes[0].cpu_quota = Some(0.1);
            })
            .is_err()
        );
    }

    #[test]
    fn default_services_cover_every_node() {
        let toml = LabSpec::new("t", 3, "dts").default_services();
        assert!(toml.contains("nodes = [\"n3\"]") && !toml.contains("n4"));
    }

    #[test]
    fn default_services_have_the_labs_families() {
        let spec = LabSpec::new("t", 1, "dts");
        let vip = |spec: &LabSpec| spec.default_services().contains(&VIP_V6.to_string());
        assert!(!vip(&spec) && vip(&spec.with_ipv6(Family::V4)));
    }
}
