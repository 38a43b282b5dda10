//! Inspectors: from the first bytes of a connection to the node that should have it (DTS §2.1).
//!
//! An inspector is a pure function. It does no I/O and keeps no time: whoever calls it reads from the
//! connection, asks again when there is more, and carries out the decision. Which member a
//! [`TargetChoice`] means at the moment is for [`Placement`](crate::placement::Placement) to say.

pub mod bytes;
pub mod http;
pub mod line;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{NodeId, Target};

/// What is known of a connection besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The client.
    pub remote: SocketAddr,
    /// The service: VIP and port, not the inspector's port.
    pub local: SocketAddr,
}

/// Decides about connections.
pub trait Inspector: Send + Sync {
    /// Decides by everything that the client has sent so far, from the first byte on.
    ///
    /// Asked again with more bytes after [`Decision::NeedMore`]. A decision must not depend on how the
    /// bytes were cut into segments: with more bytes it is the same.
    fn inspect(&self, connection: &ConnectionInfo, bytes: &[u8]) -> Decision;
}

/// What an inspector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet: the bytes so far could still become anything.
    NeedMore,
    /// The connection goes here.
    Handover(TargetChoice),
    /// The client gets a reset.
    Reject(Reason),
}

/// Why a connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Undecided after as many bytes as the service allows.
    TooLong,
    /// Undecided after as much time as the service allows.
    TooSlow,
    /// Undecided for longer than any other, when there were more than the service allows.
    TooMany,
    /// Undecided when the client closed its side: nothing more will come.
    Ended,
    /// Not a request that the service's rules can be asked about.
    Unreadable,
    /// Not a request that the inspector lets in.
    Refused,
    /// No inspector process that would decide.
    NoInspector,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "undecided after too many bytes",
            Self::TooSlow => "undecided for too long",
            Self::TooMany => "undecided for longer than any other, and there were too many",
            Self::Ended => "undecided when the client closed its side",
            Self::Unreadable => "not a request that rules can be asked about",
            Self::Refused => "refused by the inspector",
            Self::NoInspector => "no inspector process decides",
        })
    }
}

/// Where a connection goes, as far as its request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetChoice {
    /// To the inspecting node itself.
    Local,
    /// To one of these nodes, in turn.
    Nodes(Arc<NodeSet>),
    /// To the node that owns this place on the ring of requests.
    Key(u64),
}

/// A rule's target, with its turns if it has several nodes.
#[derive(Debug)]
enum Destination {
    Fixed(TargetChoice),
    /// The owner of something in the request.
    ByKey,
}

impl From<&Target> for Destination {
    fn from(target: &Target) -> Self {
        match target {
            Target::Local => Self::Fixed(TargetChoice::Local),
            Target::Nodes(nodes) => {
                Self::Fixed(TargetChoice::Nodes(NodeSet::new(nodes.as_slice()).into()))
            }
            Target::HashUri | Target::HashLine => Self::ByKey,
        }
    }
}

impl Destination {
    /// The choice; `place` is where the key lies on the ring of requests.
    fn choose(&self, place: impl FnOnce() -> u64) -> TargetChoice {
        match self {
            Self::Fixed(choice) => choice.clone(),
            Self::ByKey => TargetChoice::Key(place()),
        }
    }

    /// The choice where there is nothing to take a key from: by key means this node.
    fn without_key(&self) -> TargetChoice {
        match self {
            Self::Fixed(choice) => choice.clone(),
            Self::ByKey => TargetChoice::Local,
        }
    }
}

/// Nodes that take turns.
#[derive(Debug)]
pub struct NodeSet {
    nodes: Box<[NodeId]>,
    next: AtomicUsize,
}

impl NodeSet {
    /// The nodes in the order of their turns.
    pub fn new(nodes: impl Into<Box<[NodeId]>>) -> Self {
        Self {
            nodes: nodes.into(),
            next: AtomicUsize::new(0),
        }
    }

    /// All nodes, starting with the one that `place` on the ring leads to: the same on every node.
    pub fn from_place(&self, place: u64) -> impl Iterator<Item = &NodeId> {
        let turn = place % self.nodes.len().max(1) as u64;
        let (later, first) = self.nodes.split_at(turn as usize);
        first.iter().chain(later)
    }

    /// All nodes, starting with the one whose turn it is; the turn passes on.
    pub fn take_turn(&self) -> impl Iterator<Item = &NodeId> {
        // Only the count matters, nothing is published by it.
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let (later, first) = self.nodes.split_at(turn % self.nodes.len().max(1));
        first.iter().chain(later)
    }
}

/// The same nodes in the same order; whose turn it is makes no difference.
impl PartialEq for NodeSet {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes
    }
}

impl Eq for NodeSet {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_turns() {
        let ids = ["a", "b", "c"].map(NodeId::unchecked);
        let set = NodeSet::new(ids);
        let turns: Vec<Vec<_>> = (0..4)
            .map(|_| set.take_turn().map(|id| id.to_string()).collect())
            .collect();
        assert_eq!(
            turns,
            [
                ["a", "b", "c"],
                ["b", "c", "a"],
                ["c", "a", "b"],
                ["a", "b", "c"]
            ]
        );
    }

    #[test]
    fn an_empty_set_has_no_turn() {
        let set = NodeSet::new([]);
        assert_eq!(set.take_turn().count(), 0);
        assert_eq!(set.from_place(5).count(), 0);
    }
}
