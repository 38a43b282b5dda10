//! What the maps hold for connections that are adopted: handed over without a second connection.
//!
//! Rules are compiled by the daemon. Each service has, for each host that its rules name and for all others, a
//! *table* of its own number; a new configuration has new numbers, so the tables of the old one are found until the
//! service's entry names the new ones, and nobody sees a mixture.

use crate::addr::Addr;
use crate::cookie::Terms;
use crate::ring::RingHashSpec;
use crate::seq::Seq;

/// States of an [`Adoption`].
pub mod stage {
    /// Inspecting: the daemon's inspector has the client's segments.
    pub const UNDECIDED: u32 = 1;
    /// Inspecting: the client's segments go to another node.
    pub const SENT: u32 = 2;
    /// Processing: the client's segment was given to the server's listener.
    pub const HERE: u32 = 3;
    /// Processing: the server's socket has spoken, so the kernel has made it.
    pub const OPEN: u32 = 4;
    /// Inspecting: the inspector has turned the connection away.
    pub const REJECTED: u32 = 5;
    /// Inspecting: the inspector's socket has the connection, which is spliced from there on.
    pub const BY_SOCKET: u32 = 6;
    /// Inspecting, since the members changed: a node that inspected it before, the target in the record, has it.
    pub const LEFT: u32 = 7;

    /// The state's name in the command's output.
    #[must_use]
    pub const fn name(stage: u32) -> &'static str {
        match stage {
            UNDECIDED => "undecided",
            SENT => "sent",
            HERE => "here",
            OPEN => "open",
            REJECTED => "rejected",
            BY_SOCKET => "by socket",
            LEFT => "left",
            _ => "unknown",
        }
    }
}

/// A connection that is being or has been adopted. Value of the map `ADOPTIONS`, whose key is the flow.
///
/// It serves the segments that a client repeats or sends before its server answers. The map is an LRU: what is lost with
/// an old entry is found again by the cookie, or belongs to a connection that nobody waits for; a request that has moved
/// is an exception, and is repeated in vain.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adoption {
    /// The client's initial sequence number.
    pub client_isn: Seq,
    /// The cookie: the initial sequence number that the client was told.
    pub server_isn: Seq,
    /// [`stage`].
    pub stage: u32,
    /// The [`Terms`], as [`Terms::pack`] puts them.
    pub terms: u32,
    /// The back address of the node that has the connection, once that is decided.
    pub target: Addr,
    /// When this stage began, in milliseconds of the monotonic clock.
    pub since: u32,
    /// The rule's [`ruling`] that led to the target.
    pub ruling: u32,
    /// Processing: the request's fingerprint, a hash of the flow and the number before its first byte.
    pub print: u64,
    /// Inspecting: where the client's frames come from.
    pub mac: [u8; 6],
    /// Unused.
    pub reserved: u16,
    /// [`track`] bits.
    pub track: u32,
    /// Processing: where the client's next request begins.
    pub next_request: Seq,
    /// Processing: where the response to the last one begins, and, once [`track::KNOWN`], where it ends.
    pub response: Seq,
    /// Inspecting, with [`track::MOVED`]: what was added to this node's clock for the server's timestamps.
    pub stamp_offset: u32,
}

impl Adoption {
    /// What was agreed with the client.
    #[inline(always)]
    #[must_use]
    pub const fn terms(&self) -> Terms {
        Terms::unpack(self.terms)
    }
}

/// Bits of [`Adoption::track`].
pub mod track {
    /// Later requests of the connection may be given to other nodes: it is known where they begin.
    pub const ON: u32 = 1;
    /// It is known where the response to the last request ends.
    pub const KNOWN: u32 = 2;
    /// The last request's response has no body.
    pub const NO_BODY: u32 = 4;
    /// This node's server had the connection until its present request.
    pub const MOVED: u32 = 8;
    /// A SYN of the flow has come since: other segments may be a new connection's.
    pub const STALE: u32 = 16;
    /// The members have changed lately, and another node would have inspected it before: the others are to be asked first.
    pub const ASK: u32 = 32;
}

/// What a rule says: the kind in the upper eight bits, a number in the others.
pub mod ruling {
    /// The filter can't tell: the daemon's inspector decides.
    pub const ASK: u32 = 0;
    /// To the inspecting node itself.
    pub const LOCAL: u32 = 1 << 24;
    /// To one of the nodes of the set with this number.
    pub const SET: u32 = 2 << 24;
    /// To the node that owns the request target's place on the ring.
    pub const KEY: u32 = 3 << 24;

    /// The kind: [`ASK`], [`LOCAL`], [`SET`] or [`KEY`].
    #[inline(always)]
    #[must_use]
    pub const fn kind(ruling: u32) -> u32 {
        ruling & 0xff00_0000
    }
}

/// The longest path, in bytes, that a rule of the filter's can name.
pub const RULE_PATH: usize = 124;

/// Key of the map `RULE_PATHS`, and the data of `RULE_PREFIXES`' keys.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RulePath {
    /// The table's number.
    pub table: u32,
    /// The path, zeros behind it: no path that the filter decides by has one.
    pub path: [u8; RULE_PATH],
}

/// The longest host name, in bytes, that a rule of the filter's can name.
pub const RULE_HOST: usize = 60;

/// Key of the map `RULE_HOSTS`, whose values are tables' numbers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RuleHost {
    /// The number of the table for hosts that no rule names.
    pub table: u32,
    /// The host in lower case, zeros behind it.
    pub host: [u8; RULE_HOST],
}

/// Bits of [`ServiceEntry::rules`](super::ServiceEntry::rules).
pub mod rules {
    /// The filter may decide by the request line.
    pub const LINE: u32 = 1;
    /// Some rules name a host: the whole head must be read.
    pub const HOST: u32 = 2;
    /// Some rules name a whole path.
    pub const PATHS: u32 = 4;
    /// Some rules name a path's beginning.
    pub const PREFIXES: u32 = 8;
    /// A connection whose target has no server for it goes to the default target.
    pub const RESCUE: u32 = 16;
    /// The service may have connections that move in the other way: it was changed.
    pub const MIXED: u32 = 32;
    /// Each request of a connection is given to the node that the rules say, not only the first.
    pub const EACH: u32 = 64;
    /// Requests are not read: one that has as many bytes as the service's table number says goes to the default target.
    pub const BYTES: u32 = 128;
}

/// How many nodes a set can have.
pub const SET_NODES: usize = 16;

/// Nodes of which one is chosen by the flow. Value of the map `NODE_SETS`, whose key is the set's number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeSet {
    /// The nodes' back addresses, in the order of the configuration.
    pub nodes: [Addr; SET_NODES],
    /// How many there are.
    pub count: u32,
}

/// A member that connections can be given to. Value of the map `TARGETS`, whose key is the back address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Its link address on the back network.
    pub mac: [u8; 6],
    /// Not 0 when the link address is known and the node answers for it.
    pub reachable: u16,
}

/// The ring that request keys are placed on. The map `REQUEST_RING` has two; see [`super::RingState`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestRing {
    /// How keys are hashed.
    pub hash: RingHashSpec,
    /// The number of points.
    pub count: u32,
    /// Unused.
    pub reserved: u32,
}

/// How many nodes a request ring can have: bank b's addresses are in `REQUEST_NODES` from b times this on.
pub const REQUEST_NODES: u32 = 1024;

/// A key of [`crate::cookie`]'s. The map `COOKIE_KEYS` has four, each at its number modulo four.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CookieKey {
    /// Its number, plus one; 0: no key.
    pub number: u64,
    /// The key.
    pub key: [u8; 16],
}

/// How many keys `COOKIE_KEYS` holds.
pub const COOKIE_KEYS: u32 = 4;

/// The head of a record in the ring buffer `REQUESTS`: a client's segment for the daemon's inspector. The segment's data
/// follows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inquiry {
    /// The flow.
    pub flow: crate::addr::FlowKey,
    /// The client's initial sequence number.
    pub client_isn: Seq,
    /// The cookie.
    pub server_isn: Seq,
    /// The sequence number of the data's first byte.
    pub seq: Seq,
    /// The segment's timestamp value.
    pub tsval: u32,
    /// The segment's timestamp echo.
    pub tsecr: u32,
    /// The [`Terms`], as [`Terms::pack`] puts them.
    pub terms: u32,
    /// How many bytes of data follow.
    pub len: u32,
    /// The segment's window, not scaled.
    pub window: u16,
    /// The segment's flags: FIN only in the record that has the segment's last byte.
    pub flags: u8,
    /// What the daemon is to do: [`asks`].
    pub asks: u8,
    /// Where the frame came from.
    pub mac: [u8; 6],
    /// Unused.
    pub padding: [u8; 2],
}

/// What a record in `REQUESTS` asks the daemon.
pub mod asks {
    /// To decide about an undecided connection.
    pub const DECIDE: u8 = 0;
    /// To ask the target, which has been silent so far.
    pub const SILENT: u8 = 1;
    /// To ask all nodes whether they know the connection, and to decide if none does.
    pub const KNOWN: u8 = 2;
}

/// How many bytes of data a record in `REQUESTS` has at the most. A longer segment takes several.
pub const INQUIRY_DATA: usize = 2048;

/// How long a request is remembered in `SEEN`, in seconds: as long as its cookie is valid.
pub const SEEN_SECONDS: u64 = crate::cookie::SLOT_SECONDS * (crate::cookie::VALID_SLOTS + 1);

const _: () = {
    assert!(size_of::<Adoption>() == 72);
    assert!(size_of::<RulePath>() == 128);
    assert!(size_of::<RuleHost>() == 64);
    assert!(size_of::<NodeSet>() == 260);
    assert!(size_of::<Target>() == 8);
    assert!(size_of::<RequestRing>() == 32);
    assert!(size_of::<CookieKey>() == 24);
    assert!(size_of::<Inquiry>() == 76);
};
