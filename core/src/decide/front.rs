//! Segments on the clients' network, to and from a VIP.

use super::{Facts, Ownership, Port, Socket};
use crate::entry::{ConnEntry, flag, state};
use crate::handover::{AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS};
use crate::segment::{ACK, CWR, ECE, FIN, OptionScan, RST, SCALE_PRESENT, SYN, TcpHeader};
use crate::seq::{Seq, timestamp_is_later};
use crate::verdict::DropReason;

/// What becomes of a client's segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// Drop it.
    Drop(DropReason),
    /// To the server application's sockets as it is.
    Pass,
    /// To the server application's live socket of this flow, which answers a SYN with a challenge ACK.
    Challenge,
    /// A new connection: make an inspecting entry, then to the inspector. Entries that the flow still
    /// has are of a connection that is over.
    Begin,
    /// To the inspector.
    ToInspector,
    /// To the server, shifted by [`to_server`](super::shift::to_server).
    ToServer,
    /// The flow's processing entry is of a connection that is over: delete it and send the SYN on to
    /// the node that inspected it, which may wait for that.
    Release,
    /// The same, but nobody waits for it: delete the entry and drop the SYN, which is another node's.
    Forget,
    /// A TIME_WAIT socket here is in the way of a connection on another node: remove it.
    KillTimeWait,
}

/// Writes what has changed.
///
/// A download's segments and their acknowledgments are often worked at by two processors. A cache line that neither
/// writes can stay with both.
#[inline(always)]
fn note<T: PartialEq>(place: &mut T, value: T) {
    if *place != value {
        *place = value;
    }
}

/// A segment to a service that the ring alone decides (mode `l4`).
///
/// A connection stays on its node when the ring changes: the socket decides, then the ring.
#[inline(always)]
pub fn ingress_l4(header: &TcpHeader, facts: &impl Facts) -> Ingress {
    if header.opens() {
        return match facts.ownership() {
            Ownership::Owner => Ingress::Pass,
            not => match facts.socket(Port::Public) {
                Socket::Alive => Ingress::Challenge,
                Socket::TimeWait => Ingress::KillTimeWait,
                Socket::None => Ingress::Drop(refusal(not)),
            },
        };
    }
    match facts.socket(Port::Public) {
        Socket::Alive | Socket::TimeWait => Ingress::Pass,
        Socket::None if facts.answers_cookie() => Ingress::Pass,
        Socket::None => Ingress::Drop(DropReason::NotMine),
    }
}

/// A segment to an inspected service (mode `l7`).
///
/// The entries decide, not the socket table: a socket of an earlier connection has no entry.
#[inline(always)]
pub fn ingress_l7(
    header: &TcpHeader,
    options: &OptionScan,
    inspecting: Option<&mut ConnEntry>,
    processing: Option<&mut ConnEntry>,
    now: u32,
    facts: &impl Facts,
) -> Ingress {
    if header.opens() {
        return syn_l7(header, options, inspecting, processing.as_deref(), facts);
    }
    let mut early = false;
    if let Some(entry) = processing {
        // While the server's greeting is compared, the request must not get to it: its answer would be taken for a part
        // of the greeting.
        if entry.has(flag::ANSWERED) && (!entry.awaits_greeting() || header.flags & RST != 0) {
            let unconfirmed = entry.is_unconfirmed();
            if unconfirmed && begins(header, entry) {
                return Ingress::Drop(DropReason::TooEarly);
            }
            if entry.state == state::HANDING {
                note_timestamp(header, options, entry);
            }
            // A handover that the inspecting node has given up is not kept by a client who is served elsewhere.
            if !unconfirmed {
                note(&mut entry.used_at, now);
            }
            if header.flags & RST != 0 {
                // It may end the socket's TIME_WAIT, which is looked after again.
                entry.flags &= !flag::ENDED;
            }
            return Ingress::ToServer;
        }
        early = true;
    }
    let Some(entry) = inspecting else {
        return Ingress::Drop(if early {
            DropReason::TooEarly
        } else {
            DropReason::NotMine
        });
    };
    note(&mut entry.used_at, now);
    if entry.state != state::INSPECT {
        return Ingress::Drop(DropReason::HandedOver);
    }
    // The latest, also where segments overtake each other: the server is shown it, and takes what is older for old (PAWS).
    if let Some((value, _)) = options.timestamp_pair() {
        entry.note_client_tsval(value);
    }
    entry.window = header.window;
    Ingress::ToInspector
}

/// Whether a segment has the first byte of a request.
///
/// The inspecting node has that byte and will send it. Until then it may still give up, because it hears nothing from here,
/// and give the request to another node: this one's server must not have begun with it.
#[inline(always)]
fn begins(header: &TcpHeader, entry: &ConnEntry) -> bool {
    header.carries() && !header.seq.is_after(entry.client_isn.plus(1))
}

/// How far a client may be beyond its first byte, or the server's, for its timestamp to count during a handover, in bytes.
const NEAR: u32 = 1 << 17;

/// Notes the latest timestamp of the client's that the server is shown: what still comes from the inspecting node must not
/// look older (see [`from_peer`](super::shift::from_peer)). That of somebody who doesn't know the numbers would make all
/// else look old.
#[inline(always)]
fn note_timestamp(header: &TcpHeader, options: &OptionScan, entry: &mut ConnEntry) {
    let near = header.seq.since(entry.client_isn.plus(1)) <= NEAR
        && header.ack.since(entry.server_isn.plus(1)) <= NEAR;
    if let Some((value, _)) = options.timestamp_pair()
        && near
    {
        entry.note_client_tsval(value);
    }
}

#[inline(always)]
fn syn_l7(
    header: &TcpHeader,
    options: &OptionScan,
    inspecting: Option<&mut ConnEntry>,
    processing: Option<&ConnEntry>,
    facts: &impl Facts,
) -> Ingress {
    let mut over = false;
    let mut awaited = false;
    if let Some(entry) = processing {
        let socket = if entry.has(flag::ENDED) {
            Socket::None
        } else {
            facts.socket(Port::Public)
        };
        match socket {
            Socket::Alive => return Ingress::Challenge,
            // Never to the listener: the connection that this SYN would make is not for this node.
            _ if entry.client_isn == header.seq => return Ingress::Drop(DropReason::DuplicateSyn),
            Socket::TimeWait if !may_follow(entry, header.seq, options) => {
                return Ingress::Challenge;
            }
            Socket::TimeWait | Socket::None => over = true,
        }
        awaited = entry.flags & (flag::NOTED | flag::SELF) == 0;
    }
    match facts.ownership() {
        Ownership::Owner => {}
        Ownership::NotOwner if over && awaited => return Ingress::Release,
        Ownership::NotOwner if over => return Ingress::Forget,
        not => return Ingress::Drop(refusal(not)),
    }
    let Some(entry) = inspecting else {
        return Ingress::Begin;
    };
    if entry.client_isn == header.seq {
        return match entry.state {
            state::INSPECT => Ingress::ToInspector,
            _ => Ingress::Drop(DropReason::DuplicateSyn),
        };
    }
    match entry.state {
        state::INSPECT if matches!(facts.socket(Port::Inspector), Socket::Alive) => {
            Ingress::ToInspector
        }
        state::INSPECT => Ingress::Begin,
        // The other half of a handover to oneself was here, and is over or gone.
        state::PLACED if over || (entry.has(flag::SELF) && processing.is_none()) => Ingress::Begin,
        _ => {
            entry.flags |= flag::DOUBTED;
            Ingress::Drop(DropReason::AliveElsewhere)
        }
    }
}

/// Whether a SYN may follow a connection in TIME_WAIT: the kernel's own rule (RFC 6191).
#[inline(always)]
fn may_follow(old: &ConnEntry, isn: Seq, options: &OptionScan) -> bool {
    isn.is_after(old.acked)
        || match options.timestamp_pair() {
            Some((value, _)) if old.has(AGREED_TIMESTAMPS) => {
                timestamp_is_later(value, old.server_tsval)
            }
            _ => false,
        }
}

#[inline(always)]
const fn refusal(ownership: Ownership) -> DropReason {
    match ownership {
        Ownership::LeaseExpired => DropReason::LeaseExpired,
        Ownership::NoRing => DropReason::NoRing,
        Ownership::Owner | Ownership::NotOwner => DropReason::NotOwner,
    }
}

/// The entry of a new connection, from the client's SYN.
#[inline(always)]
#[must_use]
pub fn begin(header: &TcpHeader, options: &OptionScan, service: u16, now: u32) -> ConnEntry {
    let mut flags = 0;
    if options.sack_permitted != 0 {
        flags |= AGREED_SACK;
    }
    if options.scale & SCALE_PRESENT != 0 {
        flags |= AGREED_SCALE;
    }
    if header.has(ECE | CWR) {
        flags |= AGREED_ECN;
    }
    let mut client_tsval = 0;
    if let Some((value, _)) = options.timestamp_pair() {
        flags |= AGREED_TIMESTAMPS;
        client_tsval = value;
    }
    ConnEntry {
        state: state::INSPECT,
        flags,
        client_isn: header.seq,
        client_tsval,
        client_mss: options.mss as u16,
        client_scale: (options.scale & 0x0f) as u8,
        window: header.window,
        acked: header.seq,
        service,
        used_at: now,
        ..ConnEntry::default()
    }
}

/// What becomes of a segment that the inspector's socket sends to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromInspector {
    /// To the client, from the service's port.
    ToClient,
    /// Drop it.
    Drop(DropReason),
    /// Drop it and delete the entry: there is no inspector.
    Forget,
    /// Reset the socket that sends it: its daemon died in the middle of a handover.
    ResetSocket,
}

/// A segment from the inspector's socket. The inspector takes `most` bytes of a request, and the client is told of
/// no window beyond them.
#[inline(always)]
pub fn egress_inspector(
    header: &mut TcpHeader,
    options: &OptionScan,
    entry: Option<&mut ConnEntry>,
    most: u32,
    now: u32,
) -> FromInspector {
    let entry = match entry {
        Some(entry) if entry.state == state::INSPECT => entry,
        // A daemon closes such a socket without a segment. This FIN is the kernel's, after the daemon
        // died, and nobody would ever acknowledge it.
        _ if header.flags & (FIN | RST) == FIN => return FromInspector::ResetSocket,
        Some(_) => return FromInspector::Drop(DropReason::Frozen),
        None => return FromInspector::Drop(DropReason::NoEntry),
    };
    if header.flags & RST != 0 && !entry.has(flag::ANSWERED) {
        return FromInspector::Forget;
    }
    if header.has(SYN | ACK) {
        agree(header, options, entry);
    }
    if let Some((value, _)) = options.timestamp_pair()
        && (!entry.has(flag::ANSWERED) || !timestamp_is_later(entry.server_tsval, value))
    {
        entry.server_tsval = value;
        entry.server_ts_base = now;
    }
    if header.flags & SYN != 0 {
        entry.flags |= flag::ANSWERED;
    }
    entry.acked = header.ack;
    entry.used_at = now;
    header.window = limited_window(header, entry, most);
    FromInspector::ToClient
}

/// The window that a client is shown of the inspector's: up to `most` bytes from the client's first on.
///
/// What a client has under way when its connection is handed over reaches the processing node's server, which at
/// first has room for 64 KiB beyond the beginning of the request. With a larger window here, a client with much to
/// send would lose what is beyond that, and perhaps wait for a retransmission time-out. The limit stays where it is.
///
/// Rounded up to what the scale can say: rounded down, the last bytes up to the limit would never be asked for, and a head
/// that is too long would only be found to be too slow. By less than a unit of the scale the window may shrink, into
/// what the kernel takes all the same.
#[inline(always)]
const fn limited_window(header: &TcpHeader, entry: &ConnEntry, most: u32) -> u16 {
    if header.flags & ACK == 0 {
        return header.window;
    }
    // A SYN's window is never scaled.
    let scale = if header.flags & SYN != 0 {
        0
    } else {
        entry.announced_scale
    };
    let taken = header.ack.since(entry.client_isn.plus(1));
    let left = most.saturating_sub(taken).div_ceil(1 << scale);
    if header.window as u32 > left {
        left as u16
    } else {
        header.window
    }
}

/// Notes what a SYN-ACK of ours agreed to of the client's offers.
#[inline(always)]
fn agree(header: &TcpHeader, options: &OptionScan, entry: &mut ConnEntry) {
    entry.server_isn = header.seq;
    if options.sack_permitted == 0 {
        entry.flags &= !AGREED_SACK;
    }
    if options.timestamps == 0 {
        entry.flags &= !AGREED_TIMESTAMPS;
    }
    if header.flags & ECE == 0 {
        entry.flags &= !AGREED_ECN;
    }
    if options.scale & SCALE_PRESENT == 0 {
        entry.flags &= !AGREED_SCALE;
    }
    if entry.has(AGREED_SCALE) {
        entry.announced_scale = (options.scale & 0x0f) as u8;
    } else {
        entry.client_scale = 0;
        entry.announced_scale = 0;
    }
}

/// What becomes of a segment that the processing server sends to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromServer {
    /// Drop it.
    Drop(DropReason),
    /// The SYN-ACK: to the inspecting node, with its own sequence number in place of ours.
    AnswerPeer,
    /// To the inspecting node, sequence number shifted.
    ToPeer,
    /// The refusal of the handover SYN: to the inspecting node as it is; then delete the entry.
    RefusePeer,
    /// Reset the socket that sends it: it is of an older connection, which the client has forgotten.
    ResetServer,
    /// To the client, shifted by [`to_client`](super::shift::to_client).
    ToClient,
    /// To the client, and a reset to the inspecting node.
    ResetBoth,
    /// To the client, and a FIN to the inspecting node: the handover is complete.
    Direct,
}

/// How a closed port answers a SYN (RFC 9293 §3.10.7.1).
const REFUSAL: u8 = RST | ACK;

/// A segment from the server application's socket, mode `l7`.
#[inline(always)]
pub fn egress_server(
    header: &TcpHeader,
    options: &OptionScan,
    entry: Option<&mut ConnEntry>,
    now: u32,
) -> FromServer {
    let Some(entry) = entry else {
        return FromServer::Drop(DropReason::NoEntry);
    };
    note(&mut entry.used_at, now);
    if header.has(SYN | ACK) {
        answered(header, options, entry);
        return FromServer::AnswerPeer;
    }
    if !entry.has(flag::ANSWERED) {
        // An acknowledgment instead of a SYN-ACK: the server still has an older connection of this flow, whose end
        // never reached it. The client, in SYN-SENT, would answer with a reset (RFC 9293 §3.10.7.3), and so make
        // room for the next SYN.
        return match header.flags & (RST | ACK) {
            ACK => FromServer::ResetServer,
            // The refusal of a SYN acknowledges it. Any other reset is the older connection's own end.
            REFUSAL if header.ack == entry.client_isn.plus(1) => FromServer::RefusePeer,
            _ => FromServer::Drop(DropReason::NoEntry),
        };
    }
    if header.flags & RST == 0 {
        note(&mut entry.acked, header.ack);
        if let Some((_, echo)) = options.timestamp_pair() {
            note(&mut entry.server_tsval, echo);
        }
    }
    if entry.state == state::DIRECT {
        return FromServer::ToClient;
    }
    if entry.awaits_greeting() {
        // Its end as well: the inspecting node resets the client then.
        return FromServer::ToPeer;
    }
    let bare = header.payload == 0 && header.flags & (FIN | RST) == 0;
    if entry.is_unconfirmed() && !bare {
        // The inspecting node may have given up and have the client served by another one: what this server says, such as
        // the kernel's reset for an acknowledgment of that one's bytes, is nothing to the client. Otherwise it is repeated.
        return FromServer::Drop(DropReason::TooEarly);
    }
    if header.flags & RST != 0 {
        entry.state = state::DIRECT;
        return FromServer::ResetBoth;
    }
    if entry.has(flag::REQUEST_END) && header.ack.is_at_or_after(entry.request_end) {
        entry.state = state::DIRECT;
        return FromServer::Direct;
    }
    // An answer that comes before the whole request is the client's (an early 413, for instance).
    if bare {
        FromServer::ToPeer
    } else {
        FromServer::ToClient
    }
}

/// Notes the processing server's own numbers from its SYN-ACK.
#[inline(always)]
fn answered(header: &TcpHeader, options: &OptionScan, entry: &mut ConnEntry) {
    let first = !entry.has(flag::ANSWERED);
    entry.seq_delta = entry.server_isn.since(header.seq);
    if entry.has(AGREED_SCALE) {
        entry.own_scale = (options.scale & 0x0f) as u8;
        if options.scale & SCALE_PRESENT == 0 {
            entry.flags |= flag::UNSCALED;
        }
    }
    if let Some((value, echo)) = options.timestamp_pair() {
        if first {
            entry.ts_delta = entry.server_tsval.wrapping_sub(value);
            entry.server_ts_base = value;
        }
        entry.server_tsval = echo;
    }
    entry.acked = header.ack;
    entry.flags |= flag::ANSWERED;
}

#[cfg(test)]
mod tests;
