//! At the target: segments that other nodes, or this one, send on, and the making of sockets.

use dts_core::{
    decide::{Socket, adopt as decide},
    entry::{
        ConnKey, NodeSettings, ServiceEntry,
        adoption::{Adoption, stage, track},
        role, service_kind, setting,
    },
    handover::{
        adoption::{self as option, Covered, Kind, Refusal},
        release::Room,
    },
    seq::Seq,
    verdict::{Action, DropReason},
};

use super::{
    adopt_room, known, make_reset, recall, record, refused, requests, rescue, rules,
    seen::{fingerprint, remember, seen},
    send_on,
    socket::{adopt, adopted, describe, is_no_service, make_socket, try_adopt},
};
use crate::{
    ADOPT_FRAME, Outcome, Step,
    entries::{count_spliced, entry, service},
    facts::{now_ms, unix_seconds},
    frame::{Ip, Segment, Skb, ip_option, macs, remove_ip_option, replace_ip_option, rewrite},
    front::client_flow,
    handover_syn::syn_room,
    maps::{AdoptRoom, CONNECTIONS},
    outcome,
    sockets::{SockRef, socket},
};

/// How often a segment comes round while an old socket of its flow is being removed.
const ROUNDS: u32 = 32;

/// A frame with an adoption's option, from the back.
#[inline(never)]
pub fn arrive(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Outcome {
    // The tag says nothing of a segment's length: half of one would be adopted as if it were all.
    if ip.fragment {
        return Outcome::drop(DropReason::Fragment);
    }
    if settings.flags & setting::DETOUR != 0 && skb.ifindex() != settings.front {
        skb.set_mark(ADOPT_FRAME);
        return Outcome::redirect(Action::Redirected, skb.arrive(settings.front));
    }
    outcome(|| {
        let (segment, room) = (read(skb, ip)?, adopt_room()?);
        find_target(segment, room, settings)?;
        let kind = verified(segment, room, settings);
        match kind {
            FORGED => return Err(DropReason::BadTag),
            STALE => return Err(DropReason::StaleHandover),
            _ => {}
        }
        let (vip, port) = (&segment.flow.local, segment.flow.local_port);
        let Some(service) = service(settings, vip, port) else {
            return Err(DropReason::UnknownService);
        };
        Ok(match kind {
            REFUSED => refused(skb, segment, service, settings),
            UNABLE => unable(skb, segment, service, settings),
            _ if service.kind != service_kind::ADOPT => {
                room.refusal = UNABLE;
                refuse(skb, segment, room, settings)
            }
            FIRST | NEXT => first(skb, segment, room, settings),
            _ => later(skb, segment, room),
        })
    })
}

/// Reads the segment, and its option into the room.
#[inline(never)]
fn read(skb: Skb, ip: &Ip) -> Result<&'static mut Segment, DropReason> {
    let Some(bytes) = ip_option(skb, ip) else {
        return Err(DropReason::BadOption);
    };
    adopt_room()?.option = Room { bytes };
    let Some(segment) = Segment::read(skb, ip) else {
        return Err(DropReason::Malformed);
    };
    segment.flow = client_flow(ip, &segment.tcp.header);
    Ok(segment)
}

/// Notes in the room's record which node a frame's tag must name: this one, or the one that the frame comes back from.
#[inline(never)]
fn find_target(
    segment: &Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    room.record.target = settings.address;
    if option::comes_back(&room.option) {
        let Some(known) = record(segment) else {
            return Err(DropReason::NoEntry);
        };
        if known.stage != stage::SENT {
            return Err(DropReason::UnknownHandover);
        }
        room.record.target = known.target;
    }
    Ok(())
}

/// What a frame is, its terms being in the room then; [`FORGED`] when its option is not one of this cluster's, [`STALE`]
/// when it is one of another time.
///
/// A function of its own, because the hash wants the stack for itself. A number, because the kernel does not take the type
/// information of an `Option` of this.
#[inline(never)]
fn verified(segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) -> u32 {
    let covered = Covered {
        target: room.record.target,
        seq: segment.tcp.header.seq,
        ack: segment.tcp.header.ack,
    };
    let verified = option::verify(
        &settings.tag_key,
        &segment.flow,
        covered,
        unix_seconds(settings),
        &mut room.option,
    );
    match verified {
        Ok(adoption) => {
            room.terms = adoption.terms;
            room.record.track = adoption.track.into();
            room.interval = adoption.interval.into();
            adoption.kind as u32
        }
        Err(Refusal::Forged) => FORGED,
        Err(Refusal::Stale) => STALE,
    }
}

/// No kind of a frame.
const FORGED: u32 = u32::MAX;
/// Another one.
const STALE: u32 = u32::MAX - 1;
const FIRST: u32 = Kind::First as u32;
const NEXT: u32 = Kind::Next as u32;
const REFUSED: u32 = Kind::Refused as u32;
const UNABLE: u32 = Kind::Unable as u32;

/// Takes the option out of the frame.
#[inline(never)]
pub(super) fn strip(skb: Skb, segment: &mut Segment, room: &AdoptRoom) -> Result<(), DropReason> {
    remove_ip_option(skb, &segment.ip, &room.option.bytes)?;
    segment.ip.header_len -= segment.ip.option_room();
    segment.ip.total_len -= segment.ip.option_room();
    Ok(())
}

/// Sends the frame back to the node that it came from, as one that no server here takes.
#[inline(never)]
fn refuse(skb: Skb, segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        room.old_option = room.option;
        seal_refusal(segment, room, settings);
        replace_ip_option(skb, &segment.ip, &room.old_option.bytes, &room.option.bytes)?;
        turn_round(skb)?;
        Ok(Outcome::redirect(Action::Refused, skb.send(settings.back)))
    })
}

/// Sends a frame back to where it came from.
#[inline(never)]
fn turn_round(skb: Skb) -> Result<(), DropReason> {
    let Some((to, from)) = macs(skb) else {
        return Err(DropReason::Malformed);
    };
    skb.set_macs(&from, &to)
}

/// A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn seal_refusal(segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) {
    let t = &segment.tcp.header;
    let covered = Covered {
        target: settings.address,
        seq: t.seq,
        ack: t.ack,
    };
    let adoption = option::Adoption {
        kind: if room.refusal == UNABLE {
            Kind::Unable
        } else {
            Kind::Refused
        },
        track: 0,
        interval: 0,
        terms: room.terms,
        announced_scale: settings.announced_scale,
    };
    option::emit(
        &settings.tag_key,
        &segment.flow,
        covered,
        (&adoption, unix_seconds(settings)),
        &mut room.option,
    );
}

/// The first segment of a connection's data: a socket is to be made of it.
#[inline(never)]
fn first(
    skb: Skb,
    segment: &mut Segment,
    room: &mut AdoptRoom,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let Some(sk) = SockRef::lookup(skb, &segment.flow) else {
            room.refusal = REFUSED;
            return Ok(refuse(skb, segment, room, settings));
        };
        let expected = match sk.kind() {
            Socket::None => None,
            Socket::TimeWait => sk.time_wait_rcv_nxt(),
            Socket::Alive => sk.rcv_nxt(),
        };
        let alive = !matches!(sk.kind(), Socket::None);
        drop(sk);
        if alive && !is_of(segment, record(segment)) {
            // A socket of an older connection, which its client has forgotten. Or this is a copy of an older one's request.
            room.record.client_isn = segment.tcp.header.seq.minus(1);
            fingerprint(segment, room, settings);
            if seen(room.record.print) {
                return Err(DropReason::DuplicateRequest);
            }
            let Some(expected) = expected else {
                return Err(DropReason::NotAdopted);
            };
            return Ok(make_way(skb, segment, expected));
        }
        strip(skb, segment, room)?;
        if alive {
            return pass_new(skb, segment, expected);
        }
        note_numbers(segment, room, settings);
        Ok(adopt(skb, segment, room, settings))
    })
}

/// Makes the record of a connection that another node sends to this one.
#[inline(never)]
fn note_numbers(segment: &Segment, room: &mut AdoptRoom, settings: &NodeSettings) {
    let t = &segment.tcp.header;
    room.record = Adoption {
        client_isn: t.seq.minus(1),
        server_isn: t.ack.minus(1),
        terms: room.terms.pack(),
        target: settings.address,
        track: room.record.track & (track::ON | track::NO_BODY),
        ..Adoption::default()
    };
}

/// Whether a record is of the connection of this segment.
#[inline(always)]
fn is_of(segment: &Segment, record: Option<&mut Adoption>) -> bool {
    record.is_some_and(|r| r.server_isn.plus(1) == segment.tcp.header.ack)
}

/// Gives a socket what it doesn't have yet.
#[inline(always)]
fn pass_new(skb: Skb, segment: &Segment, expected: Option<u32>) -> Step {
    match expected {
        Some(expected) if segment.tcp.header.end().is_after(Seq(expected)) => {
            skb.set_mark(0);
            skb.accept();
            Ok(Outcome::pass(Action::HandoverIn))
        }
        _ => Err(DropReason::DuplicateHandover),
    }
}

/// A later segment of a request whose first one has made a socket.
#[inline(never)]
fn later(skb: Skb, segment: &mut Segment, room: &mut AdoptRoom) -> Outcome {
    outcome(|| {
        let expected = match SockRef::lookup(skb, &segment.flow) {
            Some(sk) if matches!(sk.kind(), Socket::Alive) => sk.rcv_nxt(),
            _ => None,
        };
        if expected.is_none() || !is_of(segment, record(segment)) {
            return Err(DropReason::TooEarly);
        }
        strip(skb, segment, room)?;
        pass_new(skb, segment, expected)
    })
}

/// Resets a socket of this node's that is in the way, and has the segment come round again.
#[inline(never)]
fn make_way(skb: Skb, segment: &Segment, expected: u32) -> Outcome {
    outcome(|| {
        let mark = skb.mark();
        let round = mark.saturating_sub(ADOPT_FRAME);
        if round >= ROUNDS {
            return Err(DropReason::NotAdopted);
        }
        skb.set_mark(ADOPT_FRAME + round + 1);
        skb.arrive_copy(skb.ifindex())?;
        skb.set_mark(0);
        make_reset(skb, segment, expected)?;
        skb.accept();
        Ok(Outcome::pass(Action::StaleReset))
    })
}

/// A segment that this node's daemon sends on to this node's own server, or to its own socket.
#[inline(never)]
pub fn arrive_here(skb: Skb, segment: &mut Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let (known, room) = known(segment)?;
        skb.set_mark(0);
        recall(known, room);
        let (vip, port) = (&segment.flow.local, segment.flow.local_port);
        let Some(service) = service(settings, vip, port) else {
            return Err(DropReason::UnknownService);
        };
        if known.stage == stage::BY_SOCKET {
            return Ok(to_inspector(skb, segment, service, settings));
        }
        if !matches!(socket(skb, &segment.flow), Socket::None) {
            skb.accept();
            return Ok(Outcome::pass(Action::HandoverIn));
        }
        if known.target != settings.address {
            return Ok(send_on(skb, segment, room, settings));
        }
        match try_adopt(skb, segment, room, settings) {
            Err(reason) if is_no_service(reason) => {}
            made => return adopted(skb, made),
        }
        // For a default target by the URI.
        rules::rule(skb, segment, service, room);
        room.record.track = known.track;
        if !rescue(segment, service, room, settings) {
            return adopted(skb, Err(DropReason::NoService));
        }
        (known.target, known.ruling) = (room.record.target, room.record.ruling);
        Ok(send_on(skb, segment, room, settings))
    })
}

/// A target's kernel makes no sockets of segments: the connection goes by the inspector's socket here, and is spliced.
#[inline(never)]
fn unable(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let (known, room) = known(segment)?;
        if known.stage != stage::SENT || segment.tcp.header.seq != known.client_isn.plus(1) {
            return Err(DropReason::UnknownHandover);
        }
        strip(skb, segment, room)?;
        known.stage = stage::BY_SOCKET;
        recall(known, room);
        Ok(to_inspector(skb, segment, service, settings))
    })
}

/// Gives a segment of the connection in the room to the inspector's socket, whose entry and itself are made when there
/// are none.
#[inline(always)]
fn to_inspector(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        note_spliced(skb, segment, service, settings)?;
        let (room, port) = (adopt_room()?, service.other_port);
        segment.tcp.header.to_inspector(port);
        rewrite(skb, segment.ip.l4(), &segment.tcp, None)?;
        segment.flow.local_port = port;
        if matches!(socket(skb, &segment.flow), Socket::None) {
            make_socket(skb, segment, room, settings)?;
        }
        skb.accept();
        Ok(Outcome::pass(Action::ToInspector))
    })
}

/// Makes the inspecting entry of a connection that is to be spliced.
#[inline(never)]
fn note_spliced(
    skb: Skb,
    segment: &Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Result<(), DropReason> {
    let (room, spliced) = (adopt_room()?, syn_room()?);
    if let Some(e) = entry(&segment.flow, role::INSPECTING)
        && e.client_isn == room.record.client_isn
    {
        return Ok(());
    }
    describe(skb, segment, room, settings)?;
    let stamps = (room.attributes.rcv_tsval, room.attributes.rcv_tsecr);
    let header = &segment.tcp.header;
    let of = (service.id, settings.announced_scale);
    spliced.entry = decide::entry(header, stamps, &room.record, of, now_ms());
    let key = ConnKey {
        flow: segment.flow,
        role: role::INSPECTING,
    };
    if CONNECTIONS.insert(&key, &spliced.entry, 0).is_err() {
        return Err(DropReason::TableFull);
    }
    count_spliced();
    Ok(())
}

/// A server's segment to a client: its kernel has made the socket.
#[inline(never)]
pub fn egress(skb: Skb, segment: &Segment) -> Outcome {
    if let Some(known) = record(segment) {
        if known.stage == stage::HERE {
            known.stage = stage::OPEN;
            remember(known.print);
        }
        if known.track & track::MOVED != 0 && known.stage == stage::SENT {
            // The old socket's last words, which are none to the client.
            return Outcome::drop(DropReason::MovedAway);
        }
        requests::follow_response(skb, segment, known);
    }
    Outcome::pass(Action::Pass)
}
