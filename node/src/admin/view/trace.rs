//! Segments that the filter has dealt with, while somebody traces.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What is to be traced: what fits everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceQuery {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The client's port.
    pub client_port: Option<u16>,
    /// The service's name.
    pub service: Option<String>,
    /// Also what is dropped because another node has the connection, and second passes of a packet.
    pub all: bool,
}

/// Answer to `trace`. [`TraceLine`]s follow, one a line, until either side closes the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStart {
    /// The node's name.
    pub node: String,
    /// The cluster's members.
    pub members: Vec<String>,
}

/// What follows the answer to `trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceLine {
    /// A segment.
    Segment(Box<TraceSegment>),
    /// How far the trace is. Comes several times a second, also when nothing happens.
    Beat(TraceBeat),
}

/// How far a trace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceBeat {
    /// Everything that was seen until then has been told, in nanoseconds of the machine's monotonic clock.
    pub until_ns: u64,
    /// How many segments were not told since the trace began: there were more than the trace may cost.
    pub missed: u64,
}

/// What the filter did with a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSegment {
    /// When, in microseconds of Unix time.
    pub time_us: u64,
    /// When, in nanoseconds of the machine's monotonic clock.
    pub monotonic_ns: u64,
    /// The node that tells.
    pub node: String,
    /// The filter's program.
    pub program: String,
    /// What became of the segment: the name of a counter.
    pub verdict: String,
    /// Whether it was dropped.
    pub dropped: bool,
    /// The service's name, if the segment belongs to one that is configured.
    pub service: Option<String>,
    /// The client's end of the connection, if known.
    pub client: Option<SocketAddr>,
    /// The service's end of the connection, if known.
    pub vip: Option<SocketAddr>,
    /// Who sent the segment as it was on the wire: a node, or `client`.
    pub from: Option<String>,
    /// Who was to get it.
    pub to: Option<String>,
    /// The other node of the handover, or this one, if known.
    pub peer: Option<String>,
    /// x, if known: the initial sequence number that the client chose.
    pub client_isn: Option<u32>,
    /// y, if known: the one that it was told.
    pub server_isn: Option<u32>,
    /// The segment as it came.
    pub before: SegmentView,
    /// The segment as it went, or what was made of it. Absent when that is the same.
    pub after: Option<SegmentView>,
}

impl TraceSegment {
    /// The segment as it was on the wire: as it came, where it arrived; as it went, where it left.
    #[must_use]
    pub fn on_wire(&self) -> &SegmentView {
        match &self.after {
            Some(after) if self.leaves() => after,
            _ => &self.before,
        }
    }

    /// Whether the segment was on its way out.
    #[must_use]
    pub fn leaves(&self) -> bool {
        self.program.ends_with("_egress")
    }
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentView {
    /// From.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
    /// The flags, as tcpdump writes them: `S`, `S.`, `P.`, `F.`, `R`.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// The acknowledgment field.
    pub ack: u32,
    /// The window field, not scaled.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Bytes of data; of several segments, if the interface would cut it up.
    pub len: u32,
    /// Whether it is marked as one whose acknowledgment field says where the request ends.
    pub request_end: bool,
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub scale: Option<u8>,
    /// Whether selective acknowledgments are permitted.
    pub sack_permitted: bool,
    /// Selective acknowledgments: begin and end of each block.
    pub sack: Vec<(u32, u32)>,
    /// Timestamps: value and echo.
    pub timestamps: Option<(u32, u32)>,
    /// Whether it has the DTS option.
    pub dts_option: bool,
    /// What the IP option between nodes says: `first`, `next`, `later`, `refused`, `unable`, `release`.
    pub ip_option: Option<String>,
}
