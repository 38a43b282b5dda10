//! What daemon and inspector process say to each other: messages, and their bytes. No I/O.
//!
//! They talk over a Unix stream socket. Each message is a frame:
//!
//! ```text
//!  0        4      5
//! +--------+------+------------------
//! | length | kind | body ...
//! +--------+------+------------------
//! ```
//!
//! `length` counts what follows it, 1 byte at least. All numbers are big-endian. An address is 16 bytes, IPv4 mapped
//! into IPv6; a text is its length in one byte and so many bytes of UTF-8.
//!
//! | Kind | From | Message | Body |
//! |---|---|---|---|
//! | 0x01 | process | [`Hello`](ToDaemon::Hello) | `u16` version, text service (empty: whatever the socket's is) |
//! | 0x02 | process | [`Handover`](ToDaemon::Handover) | `u64` connection, `u32` length, `u8` target: 0 default, 1 local, 2 and an address |
//! | 0x03 | process | [`Reject`](ToDaemon::Reject) | `u64` connection |
//! | 0x04 | process | [`Leave`](ToDaemon::Leave) | `u64` connection |
//! | 0x81 | daemon | [`Welcome`](ToProcess::Welcome) | `u16` version, text service |
//! | 0x82 | daemon | [`Refused`](ToProcess::Refused) | `u16` version, `u8` reason |
//! | 0x83 | daemon | [`Cluster`](ToProcess::Cluster) | see [`Cluster`] |
//! | 0x84 | daemon | [`Opened`](ToProcess::Opened) | `u64` connection, client's address and `u16` port, the service's |
//! | 0x85 | daemon | [`Bytes`](ToProcess::Bytes) | `u64` connection, `u32` offset, `u8` 1 if no more will come, the bytes |
//! | 0x86 | daemon | [`Ended`](ToProcess::Ended) | `u64` connection, `u8` reason |
//!
//! The process begins with `Hello`; the daemon answers `Welcome` and `Cluster`, or `Refused` and closes. Then
//! connections are opened by the daemon, each under a number of its own that is never used again, counting from 0. A
//! process may decide about a connection until it hears that it has ended; what it says later is ignored, as the two
//! messages may have crossed. Whoever gets what isn't in this table closes the connection.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::Cluster;

pub use read::next_frame;

/// The protocol's version.
pub const VERSION: u16 = 1;

/// The longest frame from a process, its length included, in bytes.
pub const MAX_TO_DAEMON: usize = 128;

/// The longest frame from the daemon, its length included, in bytes: a cluster with as many members and points as there
/// may be.
pub const MAX_TO_PROCESS: usize = 512 * 1024;

/// The most bytes of a request in one [`ToProcess::Bytes`].
pub const MAX_BYTES: usize = 32 * 1024;

/// A process's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToDaemon<'a> {
    /// The first one: which service it wants to inspect.
    Hello {
        /// The process's [`VERSION`].
        version: u16,
        /// The service; empty for whichever the socket is of.
        service: &'a str,
    },
    /// A connection shall go to a node.
    Handover {
        /// The connection.
        id: u64,
        /// How much of the request the process has read, in bytes.
        length: u32,
        /// The node.
        target: WireTarget,
    },
    /// A connection's client shall get a reset.
    Reject {
        /// The connection.
        id: u64,
    },
    /// The process won't decide about a connection.
    Leave {
        /// The connection.
        id: u64,
    },
}

/// Where a connection shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireTarget {
    /// The service's default target.
    Default,
    /// The node that the ring of connections chose.
    Local,
    /// The node with this back address.
    Node(IpAddr),
}

/// The daemon's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToProcess<'a> {
    /// The process is attached.
    Welcome {
        /// The daemon's [`VERSION`].
        version: u16,
        /// The service.
        service: &'a str,
    },
    /// The process isn't attached.
    Refused {
        /// The daemon's [`VERSION`].
        version: u16,
        /// Why.
        reason: Refusal,
    },
    /// The cluster as it is from now on.
    Cluster(Cluster),
    /// A connection to decide about.
    Opened {
        /// Its number.
        id: u64,
        /// The client.
        client: SocketAddr,
        /// The service: VIP and port.
        local: SocketAddr,
    },
    /// What the client has sent.
    Bytes {
        /// The connection.
        id: u64,
        /// The first byte's distance from the connection's first one.
        offset: u32,
        /// Whether nothing more will be shown: the client has closed its side, or may send no more undecided.
        last: bool,
        /// The bytes.
        data: &'a [u8],
    },
    /// Nothing is to be decided any more about a connection.
    Ended {
        /// The connection.
        id: u64,
        /// Why.
        reason: EndReason,
    },
}

/// Why a process isn't attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The daemon speaks another version.
    Version,
    /// The socket is another service's.
    Service,
    /// Too many are attached.
    TooMany,
}

/// Why there is nothing to decide any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The client has closed or reset the connection.
    Client,
    /// It was undecided for as long as it may be.
    Overdue,
    /// The daemon has no more room for it, or has lost it.
    Dropped,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A frame's length is out of range.
    #[error("a frame of {0} bytes")]
    Length(u64),
    /// The body ends too early.
    #[error("a message that is too short")]
    Short,
    /// Something follows the body.
    #[error("a message that is too long")]
    Long,
    /// There is no such kind of message.
    #[error("a message of the unknown kind {0:#04x}")]
    Kind(u8),
    /// A value is not one that it may be.
    #[error("a message with a wrong {0}")]
    Value(&'static str),
    /// It is out of order.
    #[error("{0}")]
    Order(&'static str),
}
