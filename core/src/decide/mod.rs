//! The filter's decisions, as functions of a segment, the flow's entries and what the node knows.
//!
//! The filter fetches bytes, looks up entries, calls one of these functions and carries out the
//! outcome; nothing here touches a packet. Facts that cost a lookup in the kernel (who owns the arc,
//! what socket there is) are asked for through [`Facts`], only when they matter.
//!
//! There is one module for each place where packets are met: [`front`] for the clients' network,
//! [`back`] for the handover connections between nodes. [`adopt`] has the
//! clients' segments to services whose connections are adopted. [`shift`] has the rewrites that join the two
//! TCP connections of a splice (DTS §2.2).

pub mod adopt;
pub mod back;
pub mod front;
pub mod shift;

/// Whose a new flow is, as the published ring and this node's lease say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// This node's.
    Owner,
    /// Another node's.
    NotOwner,
    /// This node's, but its lease has run out.
    LeaseExpired,
    /// Nobody's: no ring has been published.
    NoRing,
}

/// What this node's kernel has for a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket {
    /// Nothing, or only a listener.
    None,
    /// A connection: any state from SYN_RECV to the last ACK.
    Alive,
    /// A connection in TIME_WAIT.
    TimeWait,
}

/// Which of a service's ports a socket is looked for on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// The service's own port: the server application's sockets.
    Public,
    /// The inspector's port.
    Inspector,
}

/// What a decision may have to ask of the node.
pub trait Facts {
    /// Whose the flow is.
    fn ownership(&self) -> Ownership;
    /// What the kernel has for the flow.
    fn socket(&self, port: Port) -> Socket;
    /// Whether the segment is the valid answer to a SYN cookie of this node's listener.
    fn answers_cookie(&self) -> bool;
}
