//! What the maps hold: the layouts that the filter and the daemon share.
//!
//! Every type here is `repr(C)` without padding, and its size is asserted: the kernel compares keys
//! byte by byte, and both sides read the same bytes. Numbers are in host byte order.

pub mod adoption;
pub mod memory;

use crate::addr::{Addr, FlowKey};
use crate::handover::{
    AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS, FRESHNESS_SECONDS, GREETED,
};
use crate::seq::{Seq, timestamp_is_later};

/// The version of all layouts in this file and of the maps that hold them.
///
/// Maps of another version, left by another release's daemon, are not touched: `dts detach` removes them.
pub const LAYOUT_VERSION: u32 = 6;

// `STATS` has a place for each.
const _: () = assert!(
    crate::verdict::COUNTERS == 72,
    "a new counter is a new layout"
);

/// The number of a helper that no kernel has. The loader makes calls of it calls of the kernel's function
/// `bpf_sk_assign_tcp_reqsk`.
pub const ASSIGN_TCP_REQSK: u32 = 0x7fff_0001;

/// The mark of a segment that the daemon sends on at the back.
pub const SEND_ON: u32 = 0x4454_5304;

/// Which part a node plays for a flow. One node can play both.
pub mod role {
    /// The node that accepted the connection and read its request.
    pub const INSPECTING: u32 = 0;
    /// The node whose server has the connection.
    pub const PROCESSING: u32 = 1;
}

/// Key of the map `CONNECTIONS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnKey {
    /// The flow (DTS §2.4).
    pub flow: FlowKey,
    /// [`role`].
    pub role: u32,
}

/// States of a [`ConnEntry`].
pub mod state {
    /// Inspecting: the inspector's socket has the connection.
    pub const INSPECT: u32 = 1;
    /// Inspecting: the processing node has answered; nothing of the inspector's socket passes any more.
    pub const FROZEN: u32 = 2;
    /// Inspecting: the connection is on its processing node.
    pub const PLACED: u32 = 3;
    /// Processing: the inspecting node is sending the request.
    pub const HANDING: u32 = 4;
    /// Processing: server and client talk to each other.
    pub const DIRECT: u32 = 5;

    /// The state's name in the command's output.
    #[must_use]
    pub const fn name(state: u32) -> &'static str {
        match state {
            INSPECT => "inspect",
            FROZEN => "frozen",
            PLACED => "placed",
            HANDING => "handing",
            DIRECT => "direct",
            _ => "unknown",
        }
    }
}

/// Bits of [`ConnEntry::flags`] beyond the `AGREED_*` bits.
pub mod flag {
    /// Inspecting: the inspector's SYN-ACK was seen, `server_isn` is valid. Processing: the server's
    /// SYN-ACK was seen, `seq_delta` is valid.
    pub const ANSWERED: u32 = 1 << 8;
    /// `request_end` is valid.
    pub const REQUEST_END: u32 = 1 << 9;
    /// The handover is from a node to itself.
    pub const SELF: u32 = 1 << 10;
    /// Processing: the flow is over, its socket in TIME_WAIT. The inspecting node is being told.
    pub const ENDED: u32 = 1 << 11;
    /// Processing: the inspecting node has noted that the flow is over, and knows nothing of it any more.
    pub const NOTED: u32 = 1 << 16;
    /// Handover: the port has one.
    pub const USED: u32 = 1 << 17;
    /// Handover: the client has closed its side, and the request ends with its FIN.
    pub const HALF_CLOSED: u32 = 1 << 14;
    /// Inspecting: our own kernel has sent a FIN on the handover connection, so its daemon has died.
    pub const OWN_FIN: u32 = 1 << 15;
    /// Inspecting: a SYN of another connection came for the placed flow. The daemon asks whether the flow
    /// is alive still.
    pub const DOUBTED: u32 = 1 << 13;
    /// Processing: the client scales its window, but the server's kernel does not scale windows.
    pub const UNSCALED: u32 = 1 << 12;
}

/// One connection, seen from one [`role`]. Value of the map `CONNECTIONS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnEntry {
    /// [`state`].
    pub state: u32,
    /// `AGREED_*` and [`flag`] bits.
    pub flags: u32,
    /// x: the client's initial sequence number.
    pub client_isn: Seq,
    /// y: the inspecting node's initial sequence number.
    pub server_isn: Seq,
    /// Processing: y - w, what is added to the server's sequence numbers. Inspecting: what is added to
    /// our own kernel's on the handover connection.
    pub seq_delta: u32,
    /// Processing: what is added to the server's timestamp values. Inspecting: our kernel's last
    /// timestamp value on the handover connection.
    pub ts_delta: u32,
    /// Processing: the sequence number after the request (its FIN counted). Inspecting: the one after
    /// what our kernel has sent of it.
    pub request_end: Seq,
    /// The highest acknowledgment that this node's kernel has sent to the client.
    pub acked: Seq,
    /// The last timestamp value of the client's.
    pub client_tsval: u32,
    /// Inspecting: the last timestamp value sent to the client. Processing: the last echo of the
    /// client's that our kernel sent, i.e. the newest one it has accepted.
    pub server_tsval: u32,
    /// Inspecting: when `server_tsval` was sent, in milliseconds of the monotonic clock. Processing: the
    /// timestamp value of our kernel's SYN-ACK, as it was sent.
    pub server_ts_base: u32,
    /// When the entry was last used, in milliseconds of the monotonic clock.
    pub used_at: u32,
    /// The client's maximum segment size, 0 when it sent none.
    pub client_mss: u16,
    /// The client's last window field, not scaled.
    pub window: u16,
    /// The client's window scale.
    pub client_scale: u8,
    /// The window scale that the client was told.
    pub announced_scale: u8,
    /// Processing: the window scale of this node's own server.
    pub own_scale: u8,
    /// Unused.
    pub reserved: u8,
    /// The service.
    pub service: u16,
    /// The inspecting node's port of this handover, 0 before there is one.
    pub peer_port: u16,
    /// Processing: how many bytes of greeting the client had before its request, once `request_end` is valid.
    pub greeting: u32,
    /// Inspecting: the address of the target. Processing: the inspecting node's back address.
    pub peer: Addr,
    /// Processing: this node's address in the handover connection.
    pub own: Addr,
    /// Processing: the inspecting node's link address on the back network.
    pub peer_mac: [u8; 6],
    /// Processing: this node's link address on the back network.
    pub own_mac: [u8; 6],
}

impl ConnEntry {
    /// Whether all bits of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// Processing: whether the server's greeting is being waited for. All that the server says until the request is
    /// there is for the inspecting node, which compares it with what the client was given (DTS §2.6).
    #[inline(always)]
    #[must_use]
    pub const fn awaits_greeting(&self) -> bool {
        self.is_unconfirmed() && self.has(GREETED)
    }

    /// Processing: whether the inspecting node may still give this handover up. It has sent nothing of the request.
    #[inline(always)]
    #[must_use]
    pub const fn is_unconfirmed(&self) -> bool {
        self.state == state::HANDING && !self.has(flag::REQUEST_END)
    }

    /// Notes a timestamp value of the client's, unless it has had a later one.
    #[inline(always)]
    pub const fn note_client_tsval(&mut self, value: u32) {
        if timestamp_is_later(value, self.client_tsval) {
            self.client_tsval = value;
        }
    }

    /// The sequence number after the greeting, in the client's numbers: the first of what the server says to the client.
    #[inline(always)]
    #[must_use]
    pub const fn first_of_server(&self) -> Seq {
        self.server_isn.plus(1).plus(self.greeting)
    }

    /// Whether selective acknowledgment was agreed with the client.
    #[must_use]
    pub const fn sack(&self) -> bool {
        self.has(AGREED_SACK)
    }

    /// Whether timestamps were agreed with the client.
    #[must_use]
    pub const fn timestamps(&self) -> bool {
        self.has(AGREED_TIMESTAMPS)
    }

    /// Whether window scaling was agreed with the client.
    #[must_use]
    pub const fn scaling(&self) -> bool {
        self.has(AGREED_SCALE)
    }

    /// Whether ECN was agreed with the client.
    #[must_use]
    pub const fn ecn(&self) -> bool {
        self.has(AGREED_ECN)
    }
}

/// One handover connection, seen from the inspecting node. Value of the map `HANDOVERS`, an array whose index is
/// the local port.
///
/// The daemon has the array in its memory: noting a handover and forgetting it take no system call.
///
/// The daemon writes it, the filter only reads it: what the filter learns of the handover is kept in
/// the flow's inspecting [`ConnEntry`], so neither overwrites the other.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handover {
    /// The client's flow.
    pub flow: FlowKey,
    /// Where the connection goes: the target's back address, or the pseudo-address.
    pub target: Addr,
    /// [`flag::USED`], without which the rest means nothing; [`flag::SELF`], [`flag::REQUEST_END`],
    /// [`flag::HALF_CLOSED`].
    pub flags: u32,
    /// The request's length in bytes, its FIN counted, once [`flag::REQUEST_END`] is set.
    pub request_len: u32,
    /// How many bytes of greeting the client has been given, 0 where servers don't greet.
    pub greeting: u32,
}

/// How long a node remembers a handover that it has accepted, in seconds.
///
/// One whose inspecting node's clock is ahead by [`FRESHNESS_SECONDS`] is fresh for twice that. The rest is for what the
/// inspecting node repeated of it, and for a clock that is set back a little.
pub const HANDED_SECONDS: u64 = 2 * FRESHNESS_SECONDS as u64 + 4;

/// How many values the array `HANDOVERS` has: one for each port.
pub const HANDOVER_PORTS: u32 = 1 << 16;

/// Key of the map `PEERS`: a handover connection, seen from the processing node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerKey {
    /// The inspecting node's back address.
    pub peer: Addr,
    /// The inspecting node's port.
    pub port: u32,
}

/// Key of the maps `SERVICES`: an address and a port of this node's that the filter looks after.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Addr,
    /// The public port, or the inspector's.
    pub port: u32,
}

/// Kinds of a [`ServiceEntry`].
pub mod service_kind {
    /// The public port of a service that the ring alone decides.
    pub const L4: u32 = 1;
    /// The public port of a service whose requests are inspected and whose connections are spliced.
    pub const L7: u32 = 2;
    /// The inspector's port of such a service.
    pub const INSPECTOR: u32 = 3;
    /// The public port of a service whose requests are inspected and whose connections are adopted.
    pub const ADOPT: u32 = 4;
}

/// A service, under its public and under its inspector's port. Value of the map `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    /// [`service_kind`].
    pub kind: u32,
    /// The service's id on the wire: a fingerprint of VIP and port.
    pub id: u16,
    /// The inspector's port under the public one, the public port under the inspector's.
    pub other_port: u16,
    /// How many bytes of a request the inspector takes. A client is told of no window beyond them.
    pub most: u32,
    /// Under the public port: [`adoption::rules`] bits.
    pub rules: u32,
    /// The number of the rules' table for hosts that no rule names; with [`adoption::rules::BYTES`], how many bytes.
    pub table: u32,
    /// The default target's [`adoption::ruling`].
    pub default: u32,
}

/// A service's address, under its id. Value of the map `SERVICE_IDS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceAddr {
    /// The VIP.
    pub vip: Addr,
    /// The public port.
    pub port: u32,
}

/// What the filter knows of its node. The one value of the map `NODE`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeSettings {
    /// The node's back address.
    pub address: Addr,
    /// The pseudo-address of handovers to oneself.
    pub self_address: Addr,
    /// The key of handover and release tags.
    pub tag_key: [u8; 16],
    /// Unix time minus monotonic time, in seconds.
    pub clock_offset: i64,
    /// The front interface's index.
    pub front: u32,
    /// The back interface's index.
    pub back: u32,
    /// The TCP port of handover connections.
    pub handover_port: u32,
    /// The front interface's link address.
    pub front_mac: [u8; 6],
    /// The back interface's link address.
    pub back_mac: [u8; 6],
    /// The maximum segment size that answered SYNs announce, in bytes: a segment of it has room for an adoption's
    /// option on the back network.
    pub announced_mss: u16,
    /// The window scale that answered SYNs announce.
    pub announced_scale: u8,
    /// The bank of the published request ring: 0 or 1.
    pub request_bank: u8,
    /// Changes whenever services do: what a processor remembers of them holds for one value only.
    pub services_epoch: u32,
    /// [`setting`] bits.
    pub flags: u32,
    /// Unused.
    pub reserved: u32,
}

/// Bits of [`NodeSettings::flags`].
pub mod setting {
    /// The back's reverse path filter is strict: clients' segments must arrive at the front.
    pub const DETOUR: u32 = 1;
}

/// A service that a processor has seen lately. Value of the map `RECENT_SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecentService {
    /// VIP and port.
    pub key: ServiceKey,
    /// [`NodeSettings::services_epoch`] when it was looked up.
    pub epoch: u32,
    /// What was found.
    pub entry: ServiceEntry,
}

/// How many services a processor remembers, by the last bits of their ports.
pub const RECENT_SERVICES: u32 = 8;

/// A ring. The map `RING` has two, and `RING_BANK` says which one is published.
///
/// A new ring is written to the bank that is not in use, points first, then the bank's number is
/// replaced: a reader sees the old ring or the new one, whole. Bank b's points are in `RING_POINTS` from
/// b * [`MAX_POINTS`](crate::ring::MAX_POINTS) on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingState {
    /// How flows are hashed.
    pub hash: crate::ring::RingHashSpec,
    /// The ring's epoch: it grows with each published ring.
    pub epoch: u64,
    /// The number of points.
    pub count: u32,
    /// This node's number in the points.
    pub node: u32,
    /// Until when the ring in the other bank counts as the one before a change, in nanoseconds of the monotonic clock: a
    /// connection whose SYN it had answered by another node may be known there.
    pub former_until: u64,
    /// Until when there may have been yet another ring before that one: every connection may be known to another node.
    pub any_until: u64,
}

/// What the daemon asks the filter to look at: one record of a sweep (see [`sweep`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SweepRecord {
    /// The connection. With [`sweep::SOCKET`] and [`sweep::LISTENER`] the flow alone counts.
    pub key: ConnKey,
    /// Only an entry with this client ISN is meant.
    pub client_isn: Seq,
    /// In: [`sweep`] request bits, and the inspector's port in the upper half. Out: [`sweep`] result.
    pub value: u32,
}

/// Roles, requests and results of a [`SweepRecord`].
pub mod sweep {
    /// Result: there is no such entry any more.
    pub const GONE: u32 = 1;
    /// Result: the entry's socket lives.
    pub const ALIVE: u32 = 2;
    /// Result: the entry's socket is in TIME_WAIT.
    pub const TIME_WAIT: u32 = 3;
    /// Result: there was no socket, the entry was deleted.
    pub const DELETED: u32 = 4;
    /// Result: there is no socket; the entry was kept.
    pub const NO_SOCKET: u32 = 5;
    /// Result: the entry was marked as asked.
    pub const MARKED: u32 = 6;
    /// Role: a listener, at the flow's local end.
    pub const LISTENER: u32 = 3;
    /// Role: the socket of the flow, a server's or a handover connection's.
    pub const SOCKET: u32 = 4;
    /// Result: there is a listener.
    pub const LISTENS: u32 = 7;
    /// Result: there is one that speaks MPTCP.
    pub const LISTENS_MPTCP: u32 = 8;
    /// Request: delete the entry when it has no socket.
    pub const DELETE: u32 = 1;
    /// Request: delete the entry whatever its socket does.
    pub const DELETE_ALWAYS: u32 = 2;
    /// Request: mark the entry, a processing one, as [`NOTED`](super::flag::NOTED).
    pub const NOTED: u32 = 4;
    /// How many records one run takes.
    pub const RECORDS: usize = 64;
}

const _: () = {
    assert!(size_of::<ConnKey>() == 40);
    assert!(size_of::<ConnEntry>() == 108);
    assert!(size_of::<Handover>() == 64);
    assert!(size_of::<PeerKey>() == 20);
    assert!(size_of::<ServiceKey>() == 20);
    assert!(size_of::<ServiceEntry>() == 24);
    assert!(size_of::<ServiceAddr>() == 20);
    assert!(size_of::<NodeSettings>() == 96);
    assert!(size_of::<RingState>() == 56);
    assert!(size_of::<SweepRecord>() == 48);
    assert!(size_of::<RecentService>() == 48);
};
