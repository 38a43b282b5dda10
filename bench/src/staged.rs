//! A node whose filter is loaded but not attached: frames are given to its programs one by one (BPF_PROG_TEST_RUN).
//!
//! Configuration, ring and rules are made by the daemon's own code; the daemon itself does not run, so that nothing but the
//! measurement changes what the filter knows, and counters say exactly what became of the frames. The programs run in the
//! namespace of a lab's node: the sockets that they find are that node's.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use dts_core::addr::{Addr, FlowKey};
use dts_core::cookie;
use dts_core::entry::adoption::Target;
use dts_core::entry::{NodeSettings, SweepRecord, sweep};
use dts_core::ring::RingHash;
use dts_core::verdict::Verdict;
use dts_lab::{Lab, Network, Place, SELF_ADDRESS, VIP};
use dts_node::config::{Config, service_id};
use dts_node::current::{Current, Inspectors};
use dts_node::kernel::Filter;
use dts_node::kernel::filter::{Ran, pin_path};
use dts_node::kernel::host::prepare_bpf;
use dts_node::placement::NodeIndex;
use dts_node::processes::Sockets;
use dts_node::rules::told;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::time::{ClockId, clock_gettime};

use crate::packets::{Mac, flow};

/// The node that the filter is of.
pub(crate) const NODE: Place = Place::Node(1);
/// Ports of the VIP: a service whose connections are adopted, one that is not inspected, one that is spliced.
pub(crate) const ADOPT: u16 = 80;
pub(crate) const L4: u16 = 81;
pub(crate) const SPLICE: u16 = 82;
/// The port of handover connections, as the configuration has it by default.
pub(crate) const HANDOVER: u16 = 7411;
/// The key of handovers' tags.
pub(crate) const TAG_KEY: [u8; 16] = *b"a key of a bench";
/// What a program returns: TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT of the kernel's `pkt_cls.h`.
pub(crate) const UNSPEC: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

const CONNECTIONS: u32 = 65_536;
const COOKIE_KEY: [u8; 16] = *b"a cookies' key..";

/// The filter, and what it was told.
pub(crate) struct Staged {
    pub(crate) filter: Filter,
    current: Current,
    /// Clients of flows that were used: with the same cookie, a second connection of a flow would be the first one.
    seen: Mutex<HashSet<(Addr, u16)>>,
}

impl Staged {
    /// Loads the filter as that of the first of `members` nodes. The pins are where the lab's removal finds them.
    pub(crate) fn new(lab: &Lab, members: u8) -> anyhow::Result<Self> {
        let name = &lab.spec().name;
        let directory = format!("/sys/fs/bpf/dts-lab/{name}-{NODE}");
        let pins = pin_path(Path::new(&directory), name, &NODE.to_string());
        prepare_bpf(&pins)?;
        let staged = Self {
            filter: Filter::load(&pins, CONNECTIONS)?,
            current: current(members)?,
            seen: Mutex::default(),
        };
        staged.tell(lab)?;
        staged.tell_members(members)?;
        Ok(staged)
    }

    /// Makes the node the first of so many. What is known of connections stays.
    pub(crate) fn set_members(&mut self, members: u8) -> anyhow::Result<()> {
        self.current = current(members)?;
        self.tell_members(members)
    }

    /// What the node is.
    fn tell(&self, lab: &Lab) -> anyhow::Result<()> {
        let mac = |network| NODE.mac(network).context("the node's link address");
        let address = NODE.address(Network::Back).context("the node's address")?;
        self.filter.set_node(&NodeSettings {
            address: Addr::v4(address.octets()),
            self_address: Addr::v4(SELF_ADDRESS.octets()),
            tag_key: TAG_KEY,
            // Unix time is the monotonic clock's here: `made` knows it as well.
            clock_offset: 0,
            front: index(lab, Network::Front)?,
            back: index(lab, Network::Back)?,
            handover_port: HANDOVER.into(),
            front_mac: mac(Network::Front)?,
            back_mac: mac(Network::Back)?,
            announced_mss: 1444,
            announced_scale: 7,
            request_bank: 0,
            services_epoch: 0,
            flags: 0,
            reserved: 0,
        })?;
        self.filter.set_vips(&[Addr::v4(VIP.octets())])?;
        self.filter.set_lease(Duration::MAX)?;
        let slot = cookie::slot(u64::from(unix()));
        let number = cookie::key_number(slot);
        self.filter
            .set_cookie_keys(&[(number, COOKIE_KEY), (number + 1, COOKIE_KEY)])?;
        Ok(())
    }

    /// Who the others are, whose each flow is, and the services' rules.
    fn tell_members(&self, members: u8) -> anyhow::Result<()> {
        let addresses = (1..=members).map(member).chain([SELF_ADDRESS]);
        let addresses: Vec<_> = addresses.map(|a| Addr::v4(a.octets())).collect();
        self.filter.set_members(&addresses)?;
        let targets: Vec<_> = (2..=members)
            .map(|node| (Addr::v4(member(node).octets()), target(node)))
            .collect();
        self.filter.set_targets(&targets)?;
        let flows = &self.current.flows;
        self.filter.publish_ring(
            0,
            flows.epoch(),
            *flows.hash(),
            flows.points(),
            Duration::ZERO,
        )?;
        let old = self.filter.rules()?;
        let adopts = service_id(VIP.into(), ADOPT);
        let told = told(&self.current, |id| id == adopts, &old, &[]);
        self.filter.add_rules(&told.tables)?;
        self.filter.set_services(&told.services)?;
        self.filter.remove_rules(&old);
        // No connection of an adopting service has been spliced.
        self.filter.forget_spliced(self.filter.spliced()?)?;
        Ok(())
    }

    /// Whether a flow is this node's.
    pub(crate) fn owns(&self, flow: &FlowKey) -> bool {
        self.current
            .flows
            .owner_of_flow(&flow.remote, flow.remote_port)
            == Some(NodeIndex(0))
    }

    /// Different random flows, which nobody has had before, to a port of the VIP, all of them this node's, or all another's.
    pub(crate) fn flows(&self, count: usize, port: u16, own: bool) -> anyhow::Result<Vec<FlowKey>> {
        let mut random = SmallRng::seed_from_u64(u64::from(rand::random::<u32>()));
        let mut seen = self
            .seen
            .lock()
            .map_err(|_| anyhow!("another thread has failed"))?;
        let mut flows = Vec::new();
        // Of 64 nodes one in 64 is this node's.
        for _ in 0..count.saturating_mul(2000) {
            if flows.len() == count {
                return Ok(flows);
            }
            let remote = Ipv4Addr::from(0xc613_0000 | random.random_range(0..0x1_0000u32));
            let flow = flow(remote, random.random_range(1024..u16::MAX), port);
            if self.owns(&flow) == own && seen.insert((flow.remote, flow.remote_port)) {
                flows.push(flow);
            }
        }
        Err(anyhow!("the ring has not enough flows, own: {own}"))
    }

    /// Runs a program once on a frame.
    pub(crate) fn once(&self, program: &'static str, frame: &[u8]) -> anyhow::Result<Ran> {
        Ok(self.filter.measure(program, 0, frame, 1)?)
    }

    /// Runs something that gives the filter frames: what it yields, and which counters have grown.
    pub(crate) fn counted<T>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Vec<(Verdict, u64)>)> {
        let before = self.filter.stats()?;
        let result = work()?;
        let after = self.filter.stats()?;
        let grown = before.iter().zip(&after);
        let grown = grown.map(|((verdict, old), (_, new))| (*verdict, new - old));
        Ok((result, grown.filter(|(_, count)| *count > 0).collect()))
    }

    /// Fails unless exactly this has become of the frames.
    pub(crate) fn check(
        what: &str,
        grown: &[(Verdict, u64)],
        expected: (Verdict, u64),
    ) -> anyhow::Result<()> {
        let names: Vec<_> = grown
            .iter()
            .map(|(v, n)| format!("{} {n}", v.name()))
            .collect();
        ensure!(
            *grown == [expected],
            "{what}: {} {} were expected, and there were: {}",
            expected.1,
            expected.0.name(),
            names.join(", ")
        );
        Ok(())
    }

    /// Forgets all spliced connections.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        let mut records: Vec<_> = self
            .filter
            .connections()?
            .iter()
            .map(|(key, entry)| SweepRecord {
                key: *key,
                client_isn: entry.client_isn,
                value: sweep::DELETE_ALWAYS,
            })
            .collect();
        self.filter.sweep(&mut records)?;
        for (port, handover) in self.filter.handovers() {
            self.filter.remove_handover(port, &handover);
        }
        Ok(())
    }
}

/// A configuration of so many nodes, as the daemon of the first one would use it.
fn current(members: u8) -> anyhow::Result<Current> {
    let text = configuration(members);
    let (config, _) = Config::parse(Path::new("dts.toml"), &text)?;
    let key = *b"a key of a ring.";
    let hash = RingHash::SipHash { key }.into();
    Current::new(config, hash, 1, &Inspectors::new(), &Sockets::default()).map_err(Into::into)
}

/// The `dts.toml` of the first of so many nodes. The request that another node has is `/n2/...`.
fn configuration(members: u8) -> String {
    let mut text = format!(
        "cluster = {{ name = \"staged\", secret_file = \"/etc/dts/secret\" }}\n\
         node = {{ id = \"n1\", front = \"eth0\", back = \"eth1\", address = \"{}\" }}\n\
         membership.members = [\n",
        member(1)
    );
    for node in 1..=members {
        text += &format!(
            "  {{ id = \"n{node}\", address = \"{}\" }},\n",
            member(node)
        );
    }
    text += "]\n";
    let rule = match members {
        1 => "",
        _ => "[[service.rule]]\npath_prefix = \"/n2/\"\nto = { nodes = [\"n2\"] }\n",
    };
    for (port, mode) in [(ADOPT, "adopt"), (SPLICE, "splice")] {
        text += &format!(
            "[[service]]\nname = \"{mode}\"\nvip = \"{VIP}\"\nport = {port}\nmode = \"l7\"\nhandover = \"{mode}\"\n\
             inspector_port = {}\nprotocol = \"http\"\ndefault = \"local\"\n{rule}",
            port + 8000
        );
    }
    text + &format!("[[service]]\nname = \"l4\"\nvip = \"{VIP}\"\nport = {L4}\nmode = \"l4\"\n")
}

/// The back address of a member.
pub(crate) fn member(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 1, 10 + node)
}

/// The back link address of a member.
pub(crate) fn member_mac(node: u8) -> Mac {
    Place::Node(node).mac(Network::Back).unwrap_or_default()
}

fn target(node: u8) -> Target {
    Target {
        mac: member_mac(node),
        reachable: 1,
    }
}

/// The filter's Unix time here, in seconds: the monotonic clock's.
pub(crate) fn unix() -> u32 {
    clock_gettime(ClockId::Monotonic).tv_sec as u32
}

/// The index of a node's interface.
fn index(lab: &Lab, network: Network) -> anyhow::Result<u32> {
    let interface = network.interface();
    let text = lab.sh(NODE, &format!("ip -o link show {interface}"))?;
    let index = text.split(':').next().and_then(|n| n.trim().parse().ok());
    index.with_context(|| format!("cannot read the index of {interface}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_the_daemons() {
        for members in [1, 2, 64] {
            let current = current(members).unwrap();
            assert_eq!(current.flows.points().len(), usize::from(members) * 63);
            assert_eq!(current.inspected.len(), 2);
        }
    }
}
