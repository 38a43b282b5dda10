//! Segments of handover connections, on the network between the nodes.

use crate::entry::{ConnEntry, Handover, flag, state};
use crate::handover::{AGREED, GREETED, HandoverOption};
use crate::segment::{ACK, FIN, REQUEST_END_BIT, RST, SYN, TcpHeader};
use crate::seq::Seq;
use crate::verdict::DropReason;

use super::shift::{OptionShift, rescale, window_to_server};

/// How much later than the inspecting node's clock the processing node's timestamps begin, in the clock's ticks, of
/// a millisecond as a rule.
///
/// While the handover SYN is on its way, the inspecting node may send later ones, and the client would take an
/// earlier one for an old duplicate (RFC 7323 §5.3). A SYN that travels for longer than this comes when its
/// handover has been given up.
pub const TIMESTAMP_MARGIN: u32 = 1000;

/// What a handover SYN says, sent at `now` (milliseconds of the monotonic clock) and `made` then (Unix seconds): a
/// repeated SYN is fresh, too.
#[inline(always)]
#[must_use]
pub const fn option(h: &Handover, e: &ConnEntry, now: u32, made: u32) -> HandoverOption {
    let since = now.wrapping_sub(e.server_ts_base);
    let greeted = if h.greeting != 0 { GREETED } else { 0 };
    HandoverOption {
        client: h.flow.remote,
        client_port: h.flow.remote_port,
        client_isn: e.client_isn,
        server_isn: e.server_isn,
        service: e.service,
        agreed: e.flags & AGREED | greeted,
        client_scale: e.client_scale,
        announced_scale: e.announced_scale,
        client_mss: e.client_mss,
        client_tsval: e.client_tsval,
        server_tsval: e
            .server_tsval
            .wrapping_add(since)
            .wrapping_add(TIMESTAMP_MARGIN),
        made,
    }
}

/// What becomes of a segment that the inspecting node's own kernel sends on a handover connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outgoing {
    /// The SYN: its options are replaced by the DTS option.
    Syn,
    /// Any later segment, with this shift of its options.
    Segment(OptionShift),
    /// An acknowledgment of the FIN that ended the handover. Nobody waits for it: the filter that sent
    /// the FIN keeps no state of it.
    Needless,
}

/// The window that the server is shown: the client's. But a greeting must have room: the client has its own already, and
/// may have left no more room behind it.
#[inline(always)]
const fn window_for(h: &Handover, entry: &ConnEntry) -> u16 {
    let greeting = h.greeting.div_ceil(1 << (entry.client_scale & 15)) as u16;
    if entry.window < greeting {
        greeting
    } else {
        entry.window
    }
}

/// Shifts a segment of a handover connection into the client's sequence numbers (Fig. 4, segment 4).
///
/// `port` is our end's; `entry` the flow's inspecting entry. `None` when the entry has moved on to
/// another handover connection.
#[inline(always)]
pub fn outgoing(
    header: &mut TcpHeader,
    own_tsval: Option<u32>,
    port: u16,
    h: &Handover,
    entry: &mut ConnEntry,
) -> Option<Outgoing> {
    let syn = header.flags & (SYN | RST) == SYN;
    if syn {
        entry.peer_port = port;
        entry.seq_delta = entry.client_isn.since(header.seq);
        entry.request_end = entry.client_isn.plus(1);
    } else if entry.peer_port != port {
        return None;
    }
    if entry.state == state::PLACED && header.payload == 0 && header.flags & (SYN | FIN | RST) == 0
    {
        return Some(Outgoing::Needless);
    }
    if let Some(value) = own_tsval {
        entry.ts_delta = value;
    }
    header.seq = header.seq.plus(entry.seq_delta);
    if syn {
        header.ack = entry.server_isn;
        header.urgent = h.flow.remote_port;
        // A SYN's window is never scaled.
        header.window = rescale(window_for(h, entry), entry.client_scale, 0);
        header.header_len = 60;
        return Some(Outgoing::Syn);
    }
    header.window = window_for(h, entry);
    if header.end().is_after(entry.request_end) {
        entry.request_end = header.end();
    }
    if header.flags & FIN != 0 {
        entry.flags |= flag::OWN_FIN;
    }
    let end = entry.client_isn.plus(1).plus(h.request_len);
    let known = h.flags & flag::REQUEST_END != 0;
    // The client's FIN is the filter's: were it our kernel's, the kernel would be left in TIME_WAIT.
    if known
        && h.flags & flag::HALF_CLOSED != 0
        && header.payload != 0
        && header.end().plus(1) == end
    {
        header.flags |= FIN;
    }
    let carries = header.carries();
    let first_ack = entry.server_isn.plus(1).plus(h.greeting);
    if known && carries && header.flags & ACK != 0 && header.ack == first_ack {
        header.ack = end;
        header.reserved |= REQUEST_END_BIT;
        header.urgent = h.greeting as u16;
    }
    Some(Outgoing::Segment(OptionShift {
        set_tsval: Some(entry.client_tsval),
        ..OptionShift::default()
    }))
}

/// Shifts the processing node's answer back into our kernel's numbers, at the inspecting node, and
/// follows the handover: the SYN-ACK freezes the inspector's socket, the FIN completes the handover.
///
/// `port` is our end's. `None` when the entry has moved on to another handover connection.
#[inline(always)]
pub fn reply(
    header: &mut TcpHeader,
    port: u16,
    h: &Handover,
    entry: &mut ConnEntry,
    now: u32,
) -> Option<OptionShift> {
    if entry.peer_port != port {
        // The target answers an attempt that was given up. Where its server is to greet, nothing but the acknowledgment of
        // that tells it of another attempt: the present one's socket makes it.
        let greets = h.greeting != 0 && entry.state == state::FROZEN;
        if !greets || header.flags & RST != 0 {
            return None;
        }
        header.destination = entry.peer_port;
    }
    // The server may acknowledge what came to it from the client itself before we have its SYN-ACK. Our
    // kernel would answer with a reset (RFC 9293 §3.10.7.3), and that would end the client's connection.
    if entry.state == state::INSPECT && header.flags & (SYN | RST) == 0 {
        return None;
    }
    if header.has(SYN | ACK)
        && (header.seq != entry.server_isn || header.ack != entry.client_isn.plus(1))
    {
        // It answers an earlier handover of the same port.
        return None;
    }
    if header.has(SYN | ACK) && matches!(entry.state, state::INSPECT | state::FROZEN) {
        entry.state = state::FROZEN;
        entry.peer = h.target;
        entry.flags = entry.flags & !flag::SELF | h.flags & flag::SELF;
        entry.used_at = now;
    }
    let own_fin = entry.has(flag::OWN_FIN);
    // A server that closes instead of greeting has acknowledged nothing; the FIN that completes the handover, all.
    let completes = header.ack.is_after(entry.client_isn.plus(1));
    if header.flags & FIN != 0 && completes && entry.state == state::FROZEN {
        entry.state = state::PLACED;
        entry.used_at = now;
    }
    if header.flags & ACK != 0 {
        // Our kernel must not hear of more than it has sent, or it ignores the segment: not of the FIN
        // that the filter has sent for the client, and not of what came from the client itself.
        let sent = entry.request_end;
        let acked = if header.ack.is_after(sent) {
            sent
        } else {
            header.ack
        };
        header.ack = acked.minus(entry.seq_delta);
    }
    // Nobody will close a dead daemon's socket silently: a FIN would leave it in TIME_WAIT.
    if header.flags & FIN != 0 && own_fin {
        header.flags = RST | ACK;
    }
    Some(OptionShift {
        set_tsecr: Some(entry.ts_delta),
        sack: entry.seq_delta.wrapping_neg(),
        ..OptionShift::default()
    })
}

/// What becomes of a verified handover SYN at the processing node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IncomingSyn {
    /// Make the entry (in place of an older connection's), then to the server.
    Accept,
    /// The same handover once more, perhaps from another port: note the port, then to the server.
    Again,
    /// The same once more, although the server has answered: its SYN-ACK was lost. Note the port, and
    /// answer in its stead. The server may not: a segment of the client's own may have completed the
    /// handshake, and then it takes the SYN for a forged one.
    Answer,
    /// Drop it.
    Drop(DropReason),
}

/// Decides about a handover SYN by the entry that the flow has here; where that is none of this handover's, `known` says
/// whether this node has accepted the handover before.
///
/// When it has, its connection is over, or no server took it. There is no honest repetition of it but one: of a handover whose
/// refusal was lost. That one is given up a little later.
#[inline(always)]
#[must_use]
pub fn incoming_syn(
    o: &HandoverOption,
    entry: Option<&ConnEntry>,
    known: impl FnOnce() -> bool,
) -> IncomingSyn {
    match entry {
        Some(e) if e.client_isn == o.client_isn && e.server_isn == o.server_isn => match e.state {
            // An earlier attempt's, overtaken by the request of a later one.
            state::HANDING if e.has(flag::REQUEST_END) => {
                IncomingSyn::Drop(DropReason::DuplicateHandover)
            }
            state::HANDING if e.has(flag::ANSWERED) => IncomingSyn::Answer,
            state::HANDING => IncomingSyn::Again,
            _ => IncomingSyn::Drop(DropReason::DuplicateHandover),
        },
        _ if known() => IncomingSyn::Drop(DropReason::ReplayedHandover),
        _ => IncomingSyn::Accept,
    }
}

/// What becomes of a later segment of a handover connection at the processing node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// To the server, as the header now is.
    ToServer,
    /// It ends here: the handshake's acknowledgment, which the request that follows it carries, too. The
    /// server's kernel then makes the socket and finds its request at once, as with TCP_DEFER_ACCEPT.
    HandshakeAck,
    /// To the server as a reset: the inspecting daemon died in the middle of a request, and its
    /// kernel's FIN would make the truncated request look complete.
    ResetServer,
    /// The handover is over: answer with a FIN that acknowledges the whole request.
    AnswerFin,
    /// The handover is over: acknowledge the inspecting node's own FIN.
    AnswerAck,
    /// Drop it.
    Drop(DropReason),
}

/// More than the bytes of any request that an inspector reads: a configuration allows it 1 MiB.
const LONGEST_REQUEST: u32 = 1 << 21;

/// Whether a segment that says where the request ends lies within the entry's request, rather than in that of a
/// handover that had the same port before and is long over.
#[inline(always)]
fn may_be_of_this_request(header: &TcpHeader, entry: &ConnEntry) -> bool {
    let first = entry.client_isn.plus(1);
    // A FIN is not counted: that of a daemon that died comes behind the end.
    let from = header.seq.since(first);
    let to = header.seq.plus(header.payload).since(first);
    let end = header.ack.since(first);
    from <= to && to <= end && end <= LONGEST_REQUEST
}

/// Whether a segment of a handover connection is of the attempt that the inspecting node goes by.
///
/// That of the latest SYN, as a rule. But SYNs of two attempts may overtake each other, and an answer comes after the next
/// attempt was made: what begins the request tells for sure, and its port counts from then on.
#[inline(always)]
pub fn is_present(header: &TcpHeader, entry: &mut ConnEntry) -> bool {
    if entry.peer_port == header.source {
        return true;
    }
    // Where a greeting is waited for, it comes to the attempt that acknowledges the SYN-ACK.
    let asks = entry.has(GREETED) && header.is_bare_ack() && header.seq == entry.client_isn.plus(1);
    let marked = header.reserved & REQUEST_END_BIT != 0;
    let begins = marked && may_be_of_this_request(header, entry);
    let present = entry.is_unconfirmed() && (asks || begins);
    if present {
        entry.peer_port = header.source;
    }
    present
}

/// Decides about a later segment and shifts its header into the server's numbers.
#[inline(always)]
pub fn incoming(header: &mut TcpHeader, entry: &mut ConnEntry, now: u32) -> Incoming {
    if header.reserved & REQUEST_END_BIT != 0 {
        if !may_be_of_this_request(header, entry) {
            return Incoming::Drop(DropReason::UnknownHandover);
        }
        header.reserved &= !REQUEST_END_BIT;
        entry.request_end = header.ack;
        if entry.has(GREETED) {
            entry.greeting = header.urgent.into();
        }
        entry.flags |= flag::REQUEST_END;
        header.ack = entry.first_of_server();
        header.urgent = 0;
    }
    if entry.state == state::DIRECT {
        return over(header);
    }
    entry.used_at = now;
    let reset = header.flags & FIN != 0
        && !(entry.has(flag::REQUEST_END) && header.end() == entry.request_end);
    if (reset || header.has(RST | ACK)) && entry.awaits_greeting() {
        // The inspecting node's connection has ended: what the client sends from now on meets no socket, and so is answered
        // with a reset. A reset without ACK is its kernel's answer to a SYN-ACK that came too late: the client may be
        // another node's by now.
        entry.state = state::DIRECT;
    }
    if reset {
        return Incoming::ResetServer;
    }
    let first = header.seq == entry.client_isn.plus(1) && header.ack == entry.server_isn.plus(1);
    // Where the request's end is known, this acknowledgment may be all that will come: of an empty one. And a server
    // that greets has to have its connection for that.
    if header.is_bare_ack() && first && entry.flags & (flag::REQUEST_END | GREETED) == 0 {
        return Incoming::HandshakeAck;
    }
    if header.flags & ACK != 0 {
        // A server that goes on with its greeting may have sent more to the inspecting node. The client hasn't got it.
        if entry.has(GREETED | flag::REQUEST_END) && header.ack.is_after(entry.first_of_server()) {
            header.ack = entry.first_of_server();
        }
        header.ack = header.ack.minus(entry.seq_delta);
    }
    header.window = window_to_server(entry, header.window);
    Incoming::ToServer
}

/// A segment of a handover connection that has been completed.
#[inline(always)]
const fn over(header: &TcpHeader) -> Incoming {
    if header.flags & (RST | SYN) != 0 {
        return Incoming::Drop(DropReason::AfterHandover);
    }
    if header.payload != 0 {
        return Incoming::AnswerFin;
    }
    if header.flags & FIN != 0 {
        return Incoming::AnswerAck;
    }
    Incoming::Drop(DropReason::AfterHandover)
}

/// A segment of a handover connection that this node has no entry for: the connection that it handed
/// over is over, or the node was restarted. Only a FIN can be answered without knowing more.
#[inline(always)]
#[must_use]
pub const fn unknown(header: &TcpHeader) -> Incoming {
    if header.flags & (RST | SYN | FIN) == FIN && header.payload == 0 {
        Incoming::AnswerAck
    } else {
        Incoming::Drop(DropReason::UnknownHandover)
    }
}

/// The processing node's entry, from a handover SYN.
#[inline(always)]
#[must_use]
pub fn accept(o: &HandoverOption, window: u16, now: u32) -> ConnEntry {
    ConnEntry {
        state: state::HANDING,
        flags: o.agreed,
        client_isn: o.client_isn,
        server_isn: o.server_isn,
        request_end: Seq(0),
        acked: o.client_isn,
        client_tsval: o.client_tsval,
        server_tsval: o.server_tsval,
        used_at: now,
        client_mss: o.client_mss,
        window,
        client_scale: o.client_scale,
        announced_scale: o.announced_scale,
        service: o.service,
        ..ConnEntry::default()
    }
}

#[cfg(test)]
mod tests;
