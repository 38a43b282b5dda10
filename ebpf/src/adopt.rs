//! Connections that are adopted: the client's own segment makes the socket of the node that shall have the connection.
//!
//! | Module | What |
//! |---|---|
//! | `cookies` | SYNs answered, cookies verified |
//! | `rules` | where a request goes, as far as the filter can tell |
//! | `inquiry` | requests for the daemon's inspector |
//! | `requests` | later requests of a connection: each may go to another node |
//! | `arrival` | at the target: other nodes' segments |
//! | `socket` | the making of sockets |
//! | `seen` | requests that servers have had |

mod arrival;
mod cookies;
mod inquiry;
mod requests;
mod rules;
mod seen;
mod socket;

use dts_core::{
    decide::{
        Ownership, Socket,
        adopt::{self, Client},
    },
    entry::{
        NodeSettings, ServiceEntry,
        adoption::{Adoption, rules as rule, ruling, stage, track},
    },
    handover::adoption::{self as option, Covered, Kind},
    segment::{ACK, FIN, RST, TcpHeader},
    seq::Seq,
    verdict::{Action, DropReason},
};

pub use self::arrival::{arrive, arrive_here, egress};
use crate::{
    Outcome, Step, TO_CLIENT,
    facts::{now_ms, ownership, unix_seconds, was_anothers},
    frame::{Bare, Segment, Skb, insert_ip_option, macs, make_bare},
    maps::{ADOPT_ROOM, ADOPTIONS, AdoptRoom, TARGETS},
    outcome, sockets,
};

#[inline(always)]
fn adopt_room() -> Result<&'static mut AdoptRoom, DropReason> {
    let Some(room) = ADOPT_ROOM.get_ptr_mut(0) else {
        return Err(DropReason::RewriteFailed);
    };
    // SAFETY: this CPU's value; one program run at a time uses it, as `frame::options` explains.
    Ok(unsafe { &mut *room })
}

/// What is known of a segment's flow.
#[inline(always)]
fn record(segment: &Segment) -> Option<&'static mut Adoption> {
    let record = ADOPTIONS.get_ptr_mut(&segment.flow)?;
    // SAFETY: a map value stays valid for the program's run; its fields are words that are written whole.
    Some(unsafe { &mut *record })
}

/// What is known of a segment's flow, for one that only makes sense with that, and the room.
#[inline(always)]
fn known(segment: &Segment) -> Result<(&'static mut Adoption, &'static mut AdoptRoom), DropReason> {
    let Some(known) = record(segment) else {
        return Err(DropReason::NoEntry);
    };
    Ok((known, adopt_room()?))
}

/// A client's segment to an adopting service.
#[inline(never)]
pub fn ingress(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        if segment.tcp.header.opens() {
            return Ok(cookies::syn(skb, segment, service, settings));
        }
        let header = &segment.tcp.header;
        let socket = sockets::socket(skb, &segment.flow);
        // Most of what is another node's are bare acknowledgments: they say nothing, whatever is known of the flow.
        let says_something = header.carries() || header.flags & RST != 0;
        let record = match socket {
            Socket::None if says_something => record(segment),
            _ => None,
        };
        match adopt::client(&segment.tcp.header, record.as_deref(), socket) {
            Client::Drop(reason) => Err(reason),
            Client::Pass => {
                let header = &segment.tcp.header;
                if service.rules & rule::EACH != 0 && header.payload != 0 {
                    return Ok(requests::ingress(skb, segment, service, settings));
                }
                skb.accept();
                Ok(Outcome::pass(Action::Pass))
            }
            Client::Unknown => Ok(unknown(skb, segment, service, settings)),
            Client::Again if is_gone(record.as_deref(), settings) => {
                if !record.is_some_and(|known| adopt::is_first(&segment.tcp.header, known)) {
                    return Err(DropReason::HandedOver);
                }
                // Its target is no member any more: as if it had not been decided.
                Ok(unknown(skb, segment, service, settings))
            }
            Client::Again => Ok(again(skb, segment, settings)),
            Client::ToInspector => Ok(inquiry::inquire(skb, segment)),
            Client::GivenUp => {
                let outcome = inquiry::inquire(skb, segment);
                let _ = ADOPTIONS.remove(&segment.flow);
                Ok(outcome)
            }
        }
    })
}

/// A segment of a flow that nothing is known of: perhaps the answer to a cookie of this node's.
#[inline(never)]
fn unknown(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        match ownership(&segment.flow.remote, segment.flow.remote_port) {
            Ownership::Owner => {}
            Ownership::LeaseExpired => return Err(DropReason::LeaseExpired),
            Ownership::NotOwner | Ownership::NoRing => return Err(DropReason::NotMine),
        }
        let room = adopt_room()?;
        if !cookies::verify(skb, segment, settings, room) {
            return Err(DropReason::BadCookie);
        }
        if segment.tcp.header.payload == 0 {
            return Ok(answer_fin(skb, segment, settings));
        }
        note_request(skb, segment, room)?;
        if was_anothers(&segment.flow.remote, segment.flow.remote_port) {
            // As if no rule could tell: the daemon asks the others.
            room.record.ruling = ruling::ASK;
            room.record.track = track::ASK;
        } else {
            room.record.ruling = rules::rule(skb, segment, service, room);
        }
        Ok(begin(skb, segment, service, room, settings))
    })
}

/// Makes the record of a connection whose request has come.
#[inline(never)]
fn note_request(skb: Skb, segment: &Segment, room: &mut AdoptRoom) -> Result<(), DropReason> {
    let Some((_, mac)) = macs(skb) else {
        return Err(DropReason::Malformed);
    };
    let t = &segment.tcp.header;
    room.record = Adoption {
        client_isn: t.seq.minus(1),
        server_isn: t.ack.minus(1),
        stage: stage::UNDECIDED,
        terms: room.terms.pack(),
        since: now_ms(),
        mac,
        ..Adoption::default()
    };
    room.interval = 0;
    Ok(())
}

/// Carries out what the rules say of a new connection.
#[inline(never)]
fn begin(
    skb: Skb,
    segment: &Segment,
    service: &ServiceEntry,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let known = room.record.ruling != ruling::ASK && rules::resolve(segment, room, settings);
        if !known {
            note(segment, room)?;
            return Ok(inquiry::inquire(skb, segment));
        }
        if room.record.target == settings.address {
            let made = socket::try_adopt(skb, segment, room, settings);
            let deserted = made.is_err_and(socket::is_no_service);
            if !deserted || !rescue(segment, service, room, settings) {
                return socket::adopted(skb, made);
            }
        }
        room.record.stage = stage::SENT;
        note(segment, room)?;
        Ok(send_on(skb, segment, room, settings))
    })
}

/// Notes what is known of a connection, as the room has it.
///
/// In place of what an older connection of the flow has left, where there is such: a new entry would cost a least recently
/// used one each time that a client comes back to a port. Who reads meanwhile may see both mixed: the daemon, whose checks of
/// the initial sequence numbers tell, or another processor with a rest of the older connection.
#[inline(always)]
fn note(segment: &Segment, room: &AdoptRoom) -> Result<(), DropReason> {
    if let Some(known) = record(segment) {
        *known = room.record;
        return Ok(());
    }
    ADOPTIONS
        .insert(&segment.flow, &room.record, 0)
        .map_err(|_| DropReason::TableFull)
}

/// Whether a connection's target is no member any more.
#[inline(always)]
fn is_gone(known: Option<&Adoption>, settings: &NodeSettings) -> bool {
    known.is_some_and(|known| {
        known.target != settings.address && TARGETS.get_ptr(&known.target).is_none()
    })
}

/// A segment that a client repeats, or sends before its server has answered: to where the first one went.
#[inline(never)]
fn again(skb: Skb, segment: &Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let Some(known) = record(segment) else {
            return Err(DropReason::NotMine);
        };
        let room = adopt_room()?;
        if known.stage == stage::LEFT {
            return Err(DropReason::HandedOver);
        }
        recall(known, room);
        if is_gone(Some(known), settings) {
            if !rules::resolve(segment, room, settings) {
                return Err(DropReason::NotMember);
            }
            known.target = room.record.target;
        }
        if known.target == settings.address {
            return Ok(socket::adopt(skb, segment, room, settings));
        }
        let now = now_ms();
        if adopt::is_silent(&segment.tcp.header, known, now) {
            known.since = now;
            // The daemon asks the target. Meanwhile it gets another chance.
            inquiry::inquire(skb, segment);
        }
        Ok(send_on(skb, segment, room, settings))
    })
}

/// Sends a client's segment on to the target in the room's record.
#[inline(never)]
fn send_on(skb: Skb, segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        readdress(skb, segment, room, settings)?;
        Ok(Outcome::redirect(Action::SentOn, skb.send(settings.back)))
    })
}

/// Gives a client's segment the option and the link-layer addresses that take it to the target.
#[inline(always)]
fn readdress(
    skb: Skb,
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    let Some(target) = TARGETS.get_ptr(&room.record.target) else {
        return Err(DropReason::NotMember);
    };
    // SAFETY: a map value stays valid for the program's run; only the daemon writes, whole values.
    let mac = unsafe { (*target).mac };
    if mac == [0; 6] {
        return Err(DropReason::NoNeighbour);
    }
    let first = adopt::is_first(&segment.tcp.header, &room.record);
    let kind = match (first, room.record.track & track::MOVED) {
        (false, _) => Kind::Later,
        (true, 0) => Kind::First,
        (true, _) => {
            requests::restamp(skb, segment, room)?;
            Kind::Next
        }
    };
    seal(segment, kind, settings, room);
    insert_ip_option(skb, &segment.ip, &room.option.bytes)?;
    skb.set_macs(&mac, &settings.back_mac)
}

/// A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn seal(segment: &Segment, kind: Kind, settings: &NodeSettings, room: &mut AdoptRoom) {
    let t = &segment.tcp.header;
    let covered = Covered {
        target: room.record.target,
        seq: t.seq,
        ack: t.ack,
    };
    let adoption = option::Adoption {
        kind,
        terms: room.record.terms(),
        announced_scale: settings.announced_scale,
        track: (room.record.track & (track::ON | track::NO_BODY)) as u8,
        interval: if room.record.track & track::MOVED != 0 {
            room.record.print as u16
        } else {
            0
        },
    };
    let unix = unix_seconds(settings);
    option::emit(
        &settings.tag_key,
        &segment.flow,
        covered,
        (&adoption, unix),
        &mut room.option,
    );
}

/// Answers a client that ends its side before it has sent anything: it would wait for this for a minute.
#[inline(never)]
fn answer_fin(skb: Skb, segment: &Segment, settings: &NodeSettings) -> Outcome {
    let t = &segment.tcp.header;
    let answer = TcpHeader {
        source: t.destination,
        destination: t.source,
        seq: t.ack,
        ack: t.end(),
        flags: FIN | ACK,
        window: u16::MAX,
        ..TcpHeader::default()
    };
    answer_bare(skb, segment, &answer, (Action::FinAnswered, settings))
}

/// Turns a client's segment into one to the client.
#[inline(never)]
fn answer_bare(
    skb: Skb,
    segment: &Segment,
    header: &TcpHeader,
    (action, settings): (Action, &NodeSettings),
) -> Outcome {
    outcome(|| {
        let ip = &segment.ip;
        let Some((_, client)) = macs(skb) else {
            return Err(DropReason::Malformed);
        };
        let bare = Bare {
            src: &ip.dst,
            dst: &ip.src,
            header: *header,
        };
        make_bare(skb, ip, &bare)?;
        to_client(skb, &client, action, settings)
    })
}

/// Sends what the filter has made to a client.
#[inline(always)]
fn to_client(skb: Skb, client: &[u8; 6], action: Action, settings: &NodeSettings) -> Step {
    skb.set_macs(client, &settings.front_mac)?;
    skb.set_mark(TO_CLIENT);
    Ok(Outcome::redirect(action, skb.send(settings.front)))
}

/// A segment that the daemon sends on: it carries the client's addresses, and where it goes is noted.
#[inline(never)]
pub fn back_egress(skb: Skb, segment: &mut Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let (known, room) = known(segment)?;
        recall(known, room);
        if known.target == settings.address || known.stage == stage::BY_SOCKET {
            skb.set_mark(crate::ADOPT_HERE);
            return Ok(Outcome::redirect(
                Action::SentOn,
                skb.arrive(settings.front),
            ));
        }
        readdress(skb, segment, room, settings)?;
        Ok(Outcome::pass(Action::SentOn))
    })
}

/// A request that the target's node has no server for comes back: to the default target, or the client is reset.
#[inline(never)]
fn refused(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let (known, room) = known(segment)?;
        if known.stage != stage::SENT || !adopt::is_first(&segment.tcp.header, known) {
            return Err(DropReason::UnknownHandover);
        }
        arrival::strip(skb, segment, room)?;
        recall(known, room);
        // For a default target by the URI. What it says of later requests is known already.
        rules::rule(skb, segment, service, room);
        room.record.track = known.track;
        if !rescue(segment, service, room, settings) {
            room.record.mac = known.mac;
            let _ = ADOPTIONS.remove(&segment.flow);
            return Ok(reset_client(skb, segment, room, settings));
        }
        known.target = room.record.target;
        known.ruling = room.record.ruling;
        if known.track & track::MOVED != 0 {
            room.interval = known.print as u32;
        }
        Ok(if room.record.target == settings.address {
            socket::adopt(skb, segment, room, settings)
        } else {
            send_on(skb, segment, room, settings)
        })
    })
}

/// Whether a request whose target, in the room, has no server for it may go to the default target; it is the target then.
#[inline(always)]
fn rescue(
    segment: &Segment,
    service: &ServiceEntry,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> bool {
    if service.rules & rule::RESCUE == 0 || room.record.ruling == service.default {
        return false;
    }
    let (ruled, target) = (room.record.ruling, room.record.target);
    room.record.ruling = service.default;
    if rules::resolve(segment, room, settings) && room.record.target != target {
        return true;
    }
    (room.record.ruling, room.record.target) = (ruled, target);
    false
}

/// Puts what is known of a connection into the room.
#[inline(never)]
fn recall(known: &Adoption, room: &mut AdoptRoom) {
    room.record = *known;
    room.interval = 0;
}

/// Turns a client's segment into a reset of its connection, which no server has seen.
#[inline(never)]
fn reset_client(skb: Skb, segment: &Segment, room: &AdoptRoom, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let (t, ip) = (&segment.tcp.header, &segment.ip);
        let header = TcpHeader {
            source: t.destination,
            destination: t.source,
            seq: t.ack,
            flags: RST,
            ..TcpHeader::default()
        };
        let bare = Bare {
            src: &ip.dst,
            dst: &ip.src,
            header,
        };
        make_bare(skb, ip, &bare)?;
        to_client(skb, &room.record.mac, Action::ResetClient, settings)
    })
}

/// Turns a client's segment into a reset of a socket of this node's that expects this next.
#[inline(never)]
fn make_reset(skb: Skb, segment: &Segment, expected: u32) -> Result<(), DropReason> {
    let header = TcpHeader {
        seq: Seq(expected),
        ack: Seq(0),
        flags: RST,
        ..segment.tcp.header
    };
    let (src, dst) = (&segment.ip.src, &segment.ip.dst);
    make_bare(skb, &segment.ip, &Bare { src, dst, header })
}
