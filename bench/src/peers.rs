//! The sides that are compared: DTS in its three ways, the proxies, netfilter's cluster match, and no one in between.
//!
//! Each measurement has a client of its own kind, and servers of the same kind. What lies between differs, so the
//! sides live in three labs that are up at the same time, all alike: in one are the daemons, with a shared address for
//! each way; in another are neither daemons nor filters, for direct connections and the proxies; and in the third the
//! nodes have netfilter's connection tracking, which each of their packets pays for. A lab in which nothing
//! happens costs next to nothing.

mod cluster;
mod load;
mod moved;
mod proxies;
mod served;
mod table;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context as _;
use dts_lab::{FileSet, Lab, LabGuard, LabProcess, LabSpec, Network, Place};

pub(crate) use load::{Load, Outcome, Requests};
pub(crate) use proxies::Answers;
pub(crate) use table::{CSV, Row, Table, bars};

use crate::run::{Report, Run};

/// Where the load comes from.
pub(crate) const CLIENT: Place = Place::Client(1);
/// Where the proxies run: a machine of their own in the clients' network.
pub(crate) const PROXY: Place = Place::Client(2);
/// The client's further addresses: `xt_cluster` chooses the node by the client's address.
const FURTHER_ADDRESSES: u8 = 63;

/// Who answers at which address, and how the client's packets get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The servers' own addresses.
    Direct,
    /// DTS, by content, by adoption.
    Adopt,
    /// DTS, by content, by splice.
    Splice,
    /// HAProxy, by content.
    Haproxy(ToServers),
    /// nginx as a proxy, by content.
    Nginx(ToServers),
    /// DTS, by the client's address and port.
    L4,
    /// Netfilter's `cluster` match, by the client's address.
    XtCluster,
}

/// A proxy's connections to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToServers {
    /// One for each request.
    Fresh,
    /// Those there are.
    Reused,
}

impl Side {
    /// All of them, in the order in which they take turns.
    pub(crate) const ALL: [Side; 9] = [
        Side::Direct,
        Side::Adopt,
        Side::Splice,
        Side::Haproxy(ToServers::Fresh),
        Side::Haproxy(ToServers::Reused),
        Side::Nginx(ToServers::Fresh),
        Side::Nginx(ToServers::Reused),
        Side::L4,
        Side::XtCluster,
    ];

    /// The name in tables and raw figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Direct => "direct",
            Side::Adopt => "DTS adopt",
            Side::Splice => "DTS splice",
            Side::Haproxy(ToServers::Fresh) => "HAProxy",
            Side::Haproxy(ToServers::Reused) => "HAProxy, reused",
            Side::Nginx(ToServers::Fresh) => "nginx",
            Side::Nginx(ToServers::Reused) => "nginx, reused",
            Side::L4 => "DTS L4",
            Side::XtCluster => "xt_cluster",
        }
    }

    /// The name below a bar.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Side::Direct => "direct",
            Side::Adopt => "adopt",
            Side::Splice => "splice",
            Side::Haproxy(ToServers::Fresh) => "HAProxy",
            Side::Haproxy(ToServers::Reused) => "HAProxy r",
            Side::Nginx(ToServers::Fresh) => "nginx",
            Side::Nginx(ToServers::Reused) => "nginx r",
            Side::L4 => "DTS L4",
            Side::XtCluster => "xt_cluster",
        }
    }

    /// Whether a request's path decides about the node that answers it. Otherwise any of them does.
    pub(crate) fn by_content(self) -> bool {
        !matches!(self, Side::L4 | Side::XtCluster)
    }

    /// Whether each request goes where its path says, or only a connection's first one.
    pub(crate) fn each_request(self) -> bool {
        matches!(self, Side::Adopt) || self.is_proxy()
    }

    /// Whether the servers see a proxy instead of the client.
    pub(crate) fn is_proxy(self) -> bool {
        matches!(self, Side::Haproxy(_) | Side::Nginx(_))
    }

    /// Where a client that wants something of `node` connects to.
    pub(crate) fn server(self, node: Place) -> anyhow::Result<SocketAddrV4> {
        let front = |place: Place| {
            place
                .address(Network::Front)
                .with_context(|| format!("{place} has no address on the front network"))
        };
        Ok(match self {
            Side::Direct => SocketAddrV4::new(front(node)?, 80),
            Side::Adopt => SocketAddrV4::new(cluster::ADOPT, 80),
            Side::Splice => SocketAddrV4::new(cluster::SPLICE, 80),
            Side::L4 => SocketAddrV4::new(cluster::L4, 80),
            Side::XtCluster => SocketAddrV4::new(dts_lab::VIP, 80),
            Side::Haproxy(to) => SocketAddrV4::new(front(PROXY)?, proxies::haproxy_port(to)),
            Side::Nginx(to) => SocketAddrV4::new(front(PROXY)?, proxies::nginx_port(to)),
        })
    }

    /// The path of a file that `node` is to answer with.
    pub(crate) fn path(self, node: Place, file: &str) -> String {
        match self.by_content() {
            true => format!("/{node}/{file}"),
            false => format!("/any/{file}"),
        }
    }
}

/// What the labs are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Servers in each lab.
    pub(crate) nodes: u8,
    /// Whether only the first node has points on DTS's ring, so that one knows who inspects.
    pub(crate) one_inspector: bool,
    /// Whether the nodes', the proxies' and the client's receive paths are threads, so that they are counted.
    pub(crate) count_cpu: bool,
    /// What the proxies' buffers are made for.
    pub(crate) answers: Answers,
}

/// The labs with all sides, removed when dropped.
pub(crate) struct Peers {
    dts: LabGuard,
    plain: LabGuard,
    cluster: LabGuard,
    haproxy: LabProcess,
    nginx: LabProcess,
}

impl Peers {
    /// Makes the labs and starts everybody.
    pub(crate) fn up(plan: Plan, run: &Run) -> anyhow::Result<Self> {
        let spec = |name: &str| {
            let mut spec = LabSpec::new(name, plan.nodes, &run.dts);
            spec.clients = 2;
            spec.client_extra_addresses = FURTHER_ADDRESSES;
            for (number, node) in spec.nodes.iter_mut().enumerate() {
                // More than there is: nothing is limited, and everything is counted.
                node.cpu_quota = plan.count_cpu.then(|| cores() as f32);
                node.inspect = plan.one_inspector.then_some(number == 0);
            }
            spec
        };
        let mut with_dts = spec("peersa");
        with_dts.cluster.services_toml = Some(cluster::services(plan.nodes));
        let dts = LabGuard::up(with_dts).context("the lab with DTS")?;
        let plain = LabGuard::up(spec("peersb").without_daemons()).context("the lab without")?;
        let cluster =
            LabGuard::up(spec("peersc").without_daemons()).context("the lab with xt_cluster")?;
        for lab in [&dts, &plain, &cluster] {
            if plan.count_cpu {
                lab.count_cpu(CLIENT)?;
                lab.count_cpu(PROXY)?;
            }
        }
        cluster::xt_cluster(&cluster).context("setting xt_cluster up")?;
        let (haproxy, nginx) = proxies::start(&plain, plan.answers)?;
        Ok(Self {
            dts,
            plain,
            cluster,
            haproxy,
            nginx,
        })
    }

    /// The lab that a side is in.
    pub(crate) fn lab(&self, side: Side) -> &Lab {
        match side {
            Side::Adopt | Side::Splice | Side::L4 => &self.dts,
            Side::Direct | Side::Haproxy(_) | Side::Nginx(_) => &self.plain,
            Side::XtCluster => &self.cluster,
        }
    }

    /// The nodes, the same in all labs.
    pub(crate) fn nodes(&self) -> Vec<Place> {
        self.dts.spec().node_places().collect()
    }

    /// The client's addresses.
    pub(crate) fn sources(&self) -> Vec<Ipv4Addr> {
        (1..=FURTHER_ADDRESSES)
            .map(|host| Ipv4Addr::new(198, 18, 2, host))
            .collect()
    }

    /// Gives every node of every lab a file of this size under each node's path, and one that is any node's. The disk
    /// holds it once.
    pub(crate) fn publish(&self, file: &str, size: u64) -> anyhow::Result<String> {
        let mut files = FileSet::new(1);
        files.add(format!("any/{file}"), size)?;
        let nodes = self.nodes();
        self.dts.publish(&nodes[..1], &files)?;
        let original = self.dts.docroot(nodes[0]).join("any").join(file);
        for lab in [&self.dts, &self.plain, &self.cluster] {
            for node in &nodes {
                let names = nodes.iter().map(Place::to_string);
                for name in names.chain(["any".to_owned()]) {
                    let path = lab.docroot(*node).join(name).join(file);
                    if path == original {
                        continue;
                    }
                    let folder = path.parent().context("a file is in a folder")?;
                    fs::create_dir_all(folder)
                        .and_then(|()| fs::hard_link(&original, &path))
                        .with_context(|| format!("cannot make {}", path.display()))?;
                }
            }
        }
        Ok(files.files()[0].sha256.clone())
    }

    /// Whether each place's receiving is counted as its own: see [`Lab::receive_in_thread`]. The labs must have been made
    /// for it.
    pub(crate) fn count_receiving(&self, counted: bool) -> anyhow::Result<()> {
        for lab in [&self.dts, &self.plain, &self.cluster] {
            for place in lab.spec().client_places().chain(lab.spec().node_places()) {
                lab.receive_in_thread(place, counted)?;
            }
        }
        Ok(())
    }

    /// Fails when a proxy has ended, which its clients' errors would not tell.
    fn check(&self) -> anyhow::Result<()> {
        for (name, process) in [("HAProxy", &self.haproxy), ("nginx", &self.nginx)] {
            anyhow::ensure!(
                process.is_alive(),
                "{name} has ended; its log is {}",
                process.log_path().display()
            );
        }
        Ok(())
    }

    /// Says in a report what the sides are.
    pub(crate) fn describe(&self, report: &mut Report) -> anyhow::Result<()> {
        report.packages(&["nginx-light", "haproxy", "iptables"]);
        report.set_up("nodes", self.nodes().len());
        report.set_up("client's addresses", FURTHER_ADDRESSES);
        for name in ["nginx-proxy.conf", "haproxy.cfg"] {
            let text = fs::read_to_string(self.plain.place_dir(PROXY).join(name))?;
            report.file(name, text);
        }
        report.file(
            "services.toml",
            cluster::services(self.dts.spec().node_count()),
        );
        Ok(())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
