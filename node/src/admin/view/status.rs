//! The daemon and its node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Handover, Member, Mode};

/// Answer to `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The daemon's version.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// Its back address.
    pub address: IpAddr,
    /// The daemon's process.
    pub pid: u32,
    /// How long the daemon has been running, in milliseconds.
    pub uptime_ms: u64,
    /// The right to own new connections.
    pub lease: LeaseView,
    /// The published ring's version.
    pub ring_epoch: u64,
    /// How the filter's programs are attached.
    pub attach: Attach,
    /// The interfaces they are attached to.
    pub interfaces: Vec<InterfaceView>,
    /// All nodes of the cluster, this one included.
    pub members: Vec<MemberView>,
    /// The services.
    pub services: Vec<ServiceView>,
    /// The handovers that this node has begun.
    pub handovers: HandoverCounts,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// Whether the filter accepts new connections of this node's arcs: it does as long as the daemon
/// renews the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Whether it is running.
    pub held: bool,
    /// How long it would run without being renewed, in milliseconds; 0 when it has lapsed.
    pub remaining_ms: u64,
}

/// How programs are attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// By a link of the kernel's tcx, Linux 6.6 and later.
    Tcx,
    /// As filters of the queueing discipline clsact.
    Clsact,
}

impl Attach {
    /// The name in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// An interface of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its number in the kernel.
    pub index: u32,
    /// What it is for.
    pub role: InterfaceRole,
    /// Whether it is up.
    pub up: bool,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceRole {
    /// To the clients' network.
    Front,
    /// To the intra-cluster network.
    Back,
    /// One interface for both.
    FrontAndBack,
}

impl InterfaceRole {
    /// The name in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
            Self::FrontAndBack => "front and back",
        }
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub id: String,
    /// Its back address.
    pub address: IpAddr,
    /// Whether it has points on the ring.
    pub inspect: bool,
    /// What is known of its health.
    pub state: MemberState,
}

/// What is known of a member's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Nothing: it is on a static list.
    Configured,
}

impl MemberState {
    /// The name in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
        }
    }
}

impl From<&Member> for MemberView {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id.to_string(),
            address: member.address,
            inspect: member.inspect,
            state: MemberState::Configured,
        }
    }
}

/// A service, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// The shared address.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// Who decides where a connection goes.
    pub mode: ServiceMode,
    /// How connections are to move, as configured.
    pub handover: HandoverMode,
    /// How they do move; `None` in mode `l4`, where they don't.
    pub method: Option<MethodView>,
    /// The inspector's port; `None` in mode `l4`.
    pub inspector_port: Option<u16>,
    /// How many inspector processes are attached; `None` where none is wanted.
    #[serde(default)]
    pub processes: Option<usize>,
    /// Whether a server application listens on this node.
    pub listener_present: bool,
    /// The connections that this node's inspector has not decided about; `None` in mode `l4`.
    #[serde(default)]
    pub undecided: Option<UndecidedView>,
}

/// A service's connections that are undecided, and those that its rules could not decide about, by reason, counted since
/// the configuration was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndecidedView {
    /// At present.
    pub now: u64,
    /// How many there may be.
    pub most: u64,
    /// Undecided after too many bytes.
    pub too_long: u64,
    /// Undecided for too long.
    pub too_slow: u64,
    /// Undecided longest when there were too many.
    pub too_many: u64,
    /// Undecided when the client closed its side.
    pub ended: u64,
    /// Decided without rules: not a request that they can be asked about.
    pub unreadable: u64,
}

/// Who decides where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceMode {
    /// The ring alone.
    L4,
    /// An inspector.
    L7,
}

impl ServiceMode {
    /// The name in the configuration and in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::L7 => "l7",
        }
    }
}

impl From<Mode> for ServiceMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::L4 => Self::L4,
            Mode::L7 => Self::L7,
        }
    }
}

/// How connections are to move, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandoverMode {
    /// The best that listener and kernel allow.
    Auto,
    /// By adoption where listener and kernel allow.
    Adopt,
    /// By splicing.
    Splice,
}

impl HandoverMode {
    /// The name in the configuration and in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Adopt => "adopt",
            Self::Splice => "splice",
        }
    }
}

impl From<Handover> for HandoverMode {
    fn from(handover: Handover) -> Self {
        match handover {
            Handover::Auto => Self::Auto,
            Handover::Adopt => Self::Adopt,
            Handover::Splice => Self::Splice,
        }
    }
}

/// How a service's connections move, and why in this way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodView {
    /// The way.
    pub name: Method,
    /// The reason, e.g. `configured`.
    pub why: String,
}

/// A way of handing a connection over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Two connections joined by rewriting sequence numbers (DTS §2.2).
    Splice,
    /// The processing node's kernel makes the socket of the client's own segment.
    Adopt,
}

impl Method {
    /// The name in the command's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Adopt => "adopt",
        }
    }
}

/// The handovers that a node has begun since its daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverCounts {
    /// Begun and not ended.
    pub in_progress: u64,
    /// Connections that this node's servers were given without a second connection, since the filter was loaded.
    #[serde(default)]
    pub adopted: u64,
    /// Ended with the connection on its processing node.
    pub done: u64,
    /// Ended otherwise, by reason.
    pub failed: BTreeMap<String, u64>,
}

/// Answer to `reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The published ring's version, after.
    pub ring_epoch: u64,
    /// What is different now, a sentence each; empty when nothing is.
    pub changes: Vec<String>,
    /// The configuration's warnings.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, to_value};

    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        let names: [(Value, &str); 8] = [
            (to_value(Attach::Tcx).unwrap(), Attach::Tcx.name()),
            (to_value(Attach::Clsact).unwrap(), Attach::Clsact.name()),
            (
                to_value(MemberState::Configured).unwrap(),
                MemberState::Configured.name(),
            ),
            (to_value(ServiceMode::L4).unwrap(), ServiceMode::L4.name()),
            (to_value(ServiceMode::L7).unwrap(), ServiceMode::L7.name()),
            (
                to_value(HandoverMode::Auto).unwrap(),
                HandoverMode::Auto.name(),
            ),
            (
                to_value(HandoverMode::Splice).unwrap(),
                HandoverMode::Splice.name(),
            ),
            (to_value(Method::Splice).unwrap(), Method::Splice.name()),
        ];
        for (json, name) in names {
            assert_eq!(json, name);
        }
    }

    #[test]
    fn a_client_reads_past_fields_that_a_newer_daemon_adds() {
        let report: ReloadReport = serde_json::from_value(json!({
            "ring_epoch": 4, "changes": [], "warnings": [], "took_ms": 12,
        }))
        .unwrap();
        assert_eq!(report.ring_epoch, 4);
    }
}
