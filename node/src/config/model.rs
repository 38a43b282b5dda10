//! The configuration's types. Values made by [`Config::load`](super::Config::load) are consistent.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_core::addr::Addr;
use dts_core::siphash::siphash24;

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What all nodes of the cluster have in common.
    pub cluster: ClusterConfig,
    /// This node.
    pub node: NodeConfig,
    /// The ring.
    pub ring: RingConfig,
    /// All nodes, this one included. Names and addresses are unique, the addresses of one family.
    pub members: Vec<Member>,
    /// The services. VIP and port together are unique, and so is their [`Service::id`]. A `[[service]]` with several
    /// VIPs is a service for each, all of the same name.
    pub services: Vec<Service>,
}

impl Config {
    /// This node's entry among the members, with its position.
    pub fn this_member(&self) -> (usize, &Member) {
        let mut members = self.members.iter().enumerate();
        members
            .find(|(_, member)| member.id == self.node.id)
            .expect("checked when parsed")
    }

    /// The daemon's admin socket.
    pub fn socket_path(&self) -> PathBuf {
        self.node
            .run_dir
            .join(format!("{}-{}.sock", self.cluster.name, self.node.id))
    }

    /// The socket for a service's inspector processes; `None` where its rules decide.
    pub fn inspector_socket(&self, service: &Service) -> Option<PathBuf> {
        let socket = service.process.as_ref()?;
        Some(inspector_socket(&self.node, &service.name, socket))
    }
}

/// `[cluster]`: must be the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's name.
    pub name: String,
    /// The file with the cluster's [`Secret`](super::Secret).
    pub secret_file: PathBuf,
    /// The port of the back addresses that handovers are opened to; never 0.
    pub handover_port: u16,
}

/// `[node]`: this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name among the members.
    pub id: NodeId,
    /// The interface to the clients' network.
    pub front: String,
    /// The interface to the intra-cluster network; may be the same as `front`.
    pub back: String,
    /// Its back address: its identity on the ring.
    pub address: IpAddr,
    /// Whether it has points on the ring.
    pub inspect: bool,
    /// The address that stands for this node when it hands a connection to itself; of the family of `address`.
    pub self_address: IpAddr,
    /// How long ownership of the ring's arcs outlives the daemon's last sign of life.
    pub lease: Duration,
    /// Where the daemon keeps its socket; absolute.
    pub run_dir: PathBuf,
    /// Where the filter's maps and programs are pinned; absolute.
    pub pin_dir: PathBuf,
    /// How many connections the filter can track.
    pub connections: u32,
    /// Threads of the inspector; never 0.
    pub workers: u16,
}

/// Where a service's inspector processes attach.
pub(super) fn inspector_socket(
    node: &NodeConfig,
    service: &str,
    socket: &ProcessSocket,
) -> PathBuf {
    let name = || node.run_dir.join(format!("{service}.inspector.sock"));
    socket.path.clone().unwrap_or_else(name)
}

/// `[ring]`: must be the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Points of each node; never 0.
    pub virtual_nodes: u16,
    /// What places nodes, flows and keys.
    pub hash: HashKind,
}

/// The ring's hash function, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// MD5, as in the paper.
    Md5,
    /// SipHash-2-4, keyed with the cluster's secret.
    SipHash,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Its back address.
    pub address: IpAddr,
    /// Whether it has points on the ring.
    pub inspect: bool,
}

/// A node's name: letters, digits, `.`, `_` and `-`, 1 to 63 of them. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The caller has checked that it can be a name.
    pub(crate) fn unchecked(name: &str) -> Self {
        Self(name.into())
    }
}

impl Deref for NodeId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for NodeId {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// `[[service]]`: an address and port that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The shared address.
    pub vip: IpAddr,
    /// The port; never 0.
    pub port: u16,
    /// Who decides where a connection goes.
    pub mode: Mode,
    /// How a connection moves.
    pub handover: Handover,
    /// Whether each request of a connection that was adopted goes where the rules say, or only the first.
    pub each_request: bool,
    /// The port that the inspector listens on; `Some` in mode `l7`.
    pub inspector_port: Option<u16>,
    /// Where programs outside the daemon attach that decide in place of the rules; `None` where the rules do.
    pub process: Option<ProcessSocket>,
    /// What the clients speak.
    pub protocol: Protocol,
    /// What the service's servers say first, where they do.
    pub greeting: Option<Greeting>,
    /// Path prefixes whose requests stay on the node that the ring chose: the exception of the
    /// paper's Fig. 9, line B. Goes before the rules.
    pub keep_local: Vec<String>,
    /// The first one that matches decides.
    pub rules: Vec<Rule>,
    /// Where everything else goes.
    pub default: Target,
    /// What becomes of a connection whose target refuses it or is gone.
    pub on_unreachable: Fate,
    /// How long a connection may stay undecided.
    pub undecided_time: Duration,
    /// How many bytes a connection may send and be undecided.
    pub undecided_bytes: usize,
    /// How many connections may be undecided at the same time; never 0.
    pub undecided_connections: usize,
    /// What becomes of a connection that is over one of these limits.
    pub on_undecided: Fate,
    /// The line of the file that it begins in.
    pub line: usize,
}

impl Service {
    /// The service's number in the DTS option; see [`service_id`].
    pub fn id(&self) -> u16 {
        service_id(self.vip, self.port)
    }
}

/// The number by which nodes name a service to each other: a fingerprint of VIP and port, never 0.
///
/// SipHash-2-4 of the VIP's 4 or 16 bytes and the port, big-endian, under a fixed public key; its
/// four 16-bit parts xored; 1 in place of 0. It depends on nothing else, so a node whose file lists
/// its services in another order, or has one more, still means the same service.
pub fn service_id(vip: IpAddr, port: u16) -> u16 {
    const KEY: [u8; 16] = *b"DTS service id 1";
    let vip = Addr::from(vip);
    let hash = match vip.v4_octets() {
        Some(octets) => siphash24(&KEY, &[&octets[..], &port.to_be_bytes()].concat()),
        None => siphash24(&KEY, &[&vip.bytes16()[..], &port.to_be_bytes()].concat()),
    };
    let folded = hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48);
    (folded as u16).max(1)
}

/// Who decides where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The ring alone.
    L4,
    /// An inspector, by the request.
    L7,
}

/// How a connection moves from the inspecting to the processing node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// The better one that listener and kernel allow.
    Auto,
    /// Without a second connection: the processing node's kernel makes the socket of the client's own segment. Where
    /// listener or kernel don't allow it, [`Handover::Splice`].
    Adopt,
    /// The paper's: two connections joined by rewriting sequence numbers.
    Splice,
}

/// What the clients of a service speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http,
    /// Anything in which the client speaks first, or after a greeting. The inspector waits for so many bytes and looks at none of them: all
    /// connections go to the default target (the paper's §4.2).
    Bytes(u16),
    /// Anything in which the client's first line is its request: text up to a line feed.
    Line,
}

/// What a server says before its client has said anything (DTS §2.6): the same to each. 1 to [`Greeting::MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting(Arc<[u8]>);

impl Greeting {
    /// The most bytes of one: they fit any network's packet.
    pub const MAX: usize = 1024;

    /// `None` when it is empty or too long.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=Self::MAX)
            .contains(&bytes.len())
            .then(|| Self(bytes.into()))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0
    }
}

/// The socket that a service's inspector processes attach to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSocket {
    /// Its path, absolute; `None`: see [`Config::inspector_socket`].
    pub path: Option<PathBuf>,
    /// The user that may attach besides the daemon's own: a name or a number.
    pub user: Option<String>,
    /// The group whose users may attach: a name or a number.
    pub group: Option<String>,
}

/// What becomes of a connection that can't go where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client gets a reset.
    Reset,
    /// It goes to the service's default target.
    Default,
}

/// `[[service.rule]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which requests.
    pub matcher: Matcher,
    /// Where they go.
    pub to: Target,
    /// The line of the file that it begins in.
    pub line: usize,
}

/// Which requests a rule is for: those that fit everything given. At least one thing is given.
///
/// A path is compared as the client sent it, without the query, percent-encoding untouched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    /// The whole path.
    pub path: Option<String>,
    /// How the path begins.
    pub path_prefix: Option<String>,
    /// The host, in lower case and without a port. Case doesn't matter in the request.
    pub host: Option<String>,
    /// The whole first line, without its end. Case doesn't matter.
    pub line: Option<String>,
    /// How the first line begins. Case doesn't matter.
    pub line_prefix: Option<String>,
}

/// Whether a line begins so, whatever the case of ASCII letters.
pub(crate) fn begins_like(line: &[u8], prefix: &str) -> bool {
    line.get(..prefix.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node that the ring chose: it inspects the request and keeps it.
    Local,
    /// One of these, in turn. Never empty.
    Nodes(Vec<NodeId>),
    /// The node that the request target belongs to on the ring (DTS §4.4.1).
    HashUri,
    /// The node that the client's first line belongs to on the ring.
    HashLine,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_id_is_fixed_by_vip_and_port() {
        let id = |vip: &str, port| service_id(vip.parse().unwrap(), port);
        // Pinned: nodes of different versions must agree.
        assert_eq!(id("198.18.0.100", 80), 3483);
        assert_eq!(id("2001:db8::64", 80), 33865);
        assert_eq!(id("::ffff:198.18.0.100", 80), id("198.18.0.100", 80));
        assert_ne!(id("198.18.0.100", 80), id("198.18.0.100", 81));
    }

    #[test]
    fn a_service_id_is_never_zero() {
        let ids: std::collections::BTreeSet<u16> = (1..=u16::MAX)
            .map(|port| service_id("198.18.0.100".parse().unwrap(), port))
            .collect();
        assert!(!ids.contains(&0));
        // 65535 random draws hit about 1 - 1/e of the values.
        assert!((40_000..43_000).contains(&ids.len()), "{}", ids.len());
    }
}
