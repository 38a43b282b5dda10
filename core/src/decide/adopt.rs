//! Segments on the clients' network, to a service whose connections are adopted: the processing node's kernel makes its
//! socket from the client's own segment.
//!
//! Until then nobody acknowledges anything to the client but its SYN, so whatever is lost on the way, a node included,
//! the client repeats.

use super::{Facts, Ownership, Port, Socket};
use crate::entry::adoption::{Adoption, stage, track};
use crate::entry::{ConnEntry, flag, state};
use crate::handover::AGREED_SCALE;
use crate::segment::{FIN, RST, SYN, TcpHeader};
use crate::verdict::DropReason;

/// How far beyond a request's first byte a client's segment may begin before its server has answered, in bytes: the
/// largest window that a SYN-ACK can show.
pub const REACH: u32 = 0xffff;

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syn {
    /// Drop it.
    Drop(DropReason),
    /// To the kernel, whose socket of this flow answers with a challenge ACK (RFC 5961 §4).
    Challenge,
    /// Answer it with a cookie.
    Answer,
    /// Remove the TIME_WAIT socket that is in the way, and answer it.
    AnswerAfterTimeWait,
    /// Remove the TIME_WAIT socket that is in the way: another node answers.
    KillTimeWait,
}

/// A SYN. `may_follow` says whether the kernel would let it follow the connection in TIME_WAIT.
#[inline(always)]
pub fn syn(facts: &impl Facts, may_follow: impl FnOnce() -> bool) -> Syn {
    let in_the_way = match facts.socket(Port::Public) {
        Socket::Alive => return Syn::Challenge,
        Socket::TimeWait if !may_follow() => return Syn::Challenge,
        Socket::TimeWait => true,
        Socket::None => false,
    };
    match (facts.ownership(), in_the_way) {
        (Ownership::Owner, true) => Syn::AnswerAfterTimeWait,
        (Ownership::Owner, false) => Syn::Answer,
        (_, true) => Syn::KillTimeWait,
        (Ownership::NotOwner, false) => Syn::Drop(DropReason::NotOwner),
        (Ownership::LeaseExpired, false) => Syn::Drop(DropReason::LeaseExpired),
        (Ownership::NoRing, false) => Syn::Drop(DropReason::NoRing),
    }
}

/// What becomes of any other segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// Drop it.
    Drop(DropReason),
    /// To the server's socket.
    Pass,
    /// Nothing is known of it: see what its cookie says, if the flow is this node's.
    Unknown,
    /// To the daemon's inspector, which has the connection.
    ToInspector,
    /// The connection was given up: tell the daemon's inspector.
    GivenUp,
    /// Once more to the target.
    Again,
}

/// A segment that opens nothing. `record` is what is known of the flow, `socket` what the kernel has for it.
#[inline(always)]
#[must_use]
pub fn client(header: &TcpHeader, record: Option<&Adoption>, socket: Socket) -> Client {
    if !matches!(socket, Socket::None) {
        return Client::Pass;
    }
    if header.flags & SYN != 0 {
        return Client::Drop(DropReason::NotMine);
    }
    let reset = header.flags & RST != 0;
    let stale = |record: &&Adoption| record.track & track::STALE == 0 || belongs(header, record);
    let Some(record) = record.filter(stale) else {
        return if header.carries() && !reset {
            Client::Unknown
        } else {
            // The acknowledgment of a SYN-ACK of ours says nothing that its request will not say.
            Client::Drop(DropReason::NotMine)
        };
    };
    if !belongs(header, record) {
        // Not looked at for a cookie: of very many segments one would have one by chance. The SYN of a new connection
        // marks the record.
        return Client::Drop(DropReason::HandedOver);
    }
    match record.stage {
        stage::UNDECIDED if reset => Client::GivenUp,
        _ if reset || !header.carries() => Client::Drop(DropReason::NotMine),
        stage::UNDECIDED => Client::ToInspector,
        // Of what was left to another node, when that is no member any more.
        stage::SENT | stage::LEFT => Client::Again,
        // The kernel did not take it: its queue was full.
        stage::HERE if is_first(header, record) => Client::Unknown,
        stage::HERE => Client::Drop(DropReason::TooEarly),
        stage::OPEN => Client::Drop(DropReason::DuplicateRequest),
        stage::BY_SOCKET => Client::Drop(DropReason::TooEarly),
        _ => Client::Drop(DropReason::Rejected),
    }
}

/// Whether this is the first segment of the client's data.
#[inline(always)]
#[must_use]
pub fn is_first(header: &TcpHeader, record: &Adoption) -> bool {
    header.seq == record.client_isn.plus(1)
}

/// Whether a segment is of the record's connection, and was sent before the client had anything but the SYN-ACK.
#[inline(always)]
fn belongs(header: &TcpHeader, record: &Adoption) -> bool {
    header.ack == record.server_isn.plus(1) && header.seq.since(record.client_isn.plus(1)) <= REACH
}

/// How far behind the expected beginning of a request data is taken for what comes there, in bytes.
const NEAR: u32 = 1 << 20;

/// What a client's data is to a server that has its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// Nothing but data.
    Pass,
    /// What can't be followed: the connection stays where it is.
    Lost,
    /// The beginning of a request, its predecessor's response complete and acknowledged.
    Request,
    /// A segment of a request that was given to another node.
    Again,
}

/// A client's segment that has data, of a connection that this node's server has; `record` is what is known of it.
#[inline(always)]
#[must_use]
pub fn data(header: &TcpHeader, record: &Adoption) -> Data {
    if record.track & track::MOVED != 0 && record.stage == stage::SENT {
        return if belongs(header, record) {
            Data::Again
        } else {
            Data::Pass
        };
    }
    if record.track & track::ON == 0 || record.stage != stage::OPEN {
        return Data::Pass;
    }
    if header.seq.since(record.next_request) > NEAR {
        // Repeated, or forged by somebody who doesn't know the numbers.
        return Data::Pass;
    }
    let complete = record.track & track::KNOWN != 0 && header.ack == record.response;
    if header.seq == record.next_request && complete && header.flags & (FIN | RST | SYN) == 0 {
        Data::Request
    } else {
        Data::Lost
    }
}

/// How long a target may say nothing before it is asked about, in milliseconds: less than any client waits before it
/// repeats its request.
pub const PATIENCE: u32 = 150;

/// Whether this is a repeated request whose target should have answered by now.
#[inline(always)]
#[must_use]
pub fn is_silent(header: &TcpHeader, record: &Adoption, now: u32) -> bool {
    // The daemon, which notes this too, has a clock that is up to a tick ahead of the filter's.
    let waited = now.wrapping_sub(record.since) as i32;
    is_first(header, record) && waited > PATIENCE as i32
}

/// The entry that a connection is spliced by, once the inspector's socket has it: as if that socket had answered its SYN.
#[inline(always)]
#[must_use]
pub fn entry(
    header: &TcpHeader,
    (tsval, tsecr): (u32, u32),
    record: &Adoption,
    (service, announced_scale): (u16, u8),
    now: u32,
) -> ConnEntry {
    let terms = record.terms();
    ConnEntry {
        state: state::INSPECT,
        flags: terms.agreed | flag::ANSWERED,
        client_isn: record.client_isn,
        server_isn: record.server_isn,
        acked: record.client_isn.plus(1),
        client_tsval: tsval,
        server_tsval: tsecr,
        server_ts_base: now,
        used_at: now,
        client_mss: terms.mss,
        window: header.window,
        client_scale: terms.client_scale,
        announced_scale: if terms.agreed & AGREED_SCALE != 0 {
            announced_scale
        } else {
            0
        },
        service,
        ..ConnEntry::default()
    }
}

#[cfg(test)]
mod tests;
