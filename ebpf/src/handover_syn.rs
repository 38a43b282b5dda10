//! The SYN of a handover connection: made at the inspecting node, checked at the processing node.

use dts_core::{
    addr::FlowKey,
    decide::back::{self, IncomingSyn},
    entry::{ConnEntry, ConnKey, Handover, NodeSettings, PeerKey, flag, role},
    handover::{
        AGREED_ECN, AGREED_SCALE, AGREED_TIMESTAMPS, HandoverEnds, HandoverOption, OPTION_LEN,
    },
    segment::{ACK, CWR, ECE, SYN},
    seq::Seq,
    verdict::{Action, DropReason},
};

use crate::{
    Outcome,
    back::to_front,
    entries::{count_spliced, entry, forget_peer},
    facts::{now_ms, unix_seconds},
    frame::{Segment, Skb, macs, options, replace_options, set_addresses},
    maps::{CONNECTIONS, PEERS, SERVICE_IDS, SYN_ROOM, SynRoom},
    memory, outcome,
};

/// A handover SYN: the only frame that creates state, and so the one that is authenticated.
#[inline(never)]
pub fn ingress(skb: Skb, segment: &mut Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let room = syn_room()?;
        let now = unix_seconds(settings);
        read_option(skb, segment, room, now)?;
        verify(room, settings, now)?;
        agree(room);
        let answered = note_handover(skb, room, settings, segment.tcp.header.window)?;

        segment.flow = room.flow;
        if answered {
            return Ok(answer_syn(skb, segment, settings));
        }
        let Segment { ip, tcp, flow } = segment;
        tcp.header.source = flow.remote_port;
        tcp.header.destination = flow.local_port;
        tcp.header.ack = Seq(0);
        tcp.header.urgent = 0;
        if room.option.agreed & AGREED_ECN != 0 {
            tcp.header.flags |= ECE | CWR;
        }
        let Some(scratch) = options(skb, ip.l4(), 60) else {
            return Err(DropReason::Malformed);
        };
        replace_options(skb, ip, tcp, scratch, &room.agreed)?;
        Ok(to_front(skb, segment, settings, Action::HandoverSyn))
    })
}

#[inline(always)]
pub fn syn_room() -> Result<&'static mut SynRoom, DropReason> {
    let Some(room) = SYN_ROOM.get_ptr_mut(0) else {
        return Err(DropReason::RewriteFailed);
    };
    // SAFETY: this CPU's value; one program run at a time uses it, as `frame::options` explains.
    Ok(unsafe { &mut *room })
}

/// Reads the DTS option of a handover SYN into the room.
#[inline(never)]
fn read_option(
    skb: Skb,
    segment: &Segment,
    room: &mut SynRoom,
    now: u32,
) -> Result<(), DropReason> {
    let (t, ip) = (&segment.tcp.header, &segment.ip);
    if t.header_len != 60 || t.payload != 0 {
        return Err(DropReason::BadOption);
    }
    let Some(bytes) = skb.load::<OPTION_LEN>(ip.l4() + 20) else {
        return Err(DropReason::BadOption);
    };
    room.option_room.bytes = bytes;
    let Some(option) = HandoverOption::parse(&room.option_room.bytes, t.seq, t.ack, t.urgent, now)
    else {
        return Err(DropReason::BadOption);
    };
    room.option = option;
    room.ends = HandoverEnds {
        from: ip.src,
        from_port: t.source,
        to: ip.dst,
    };
    Ok(())
}

/// Makes the options that take the DTS option's place.
#[inline(never)]
fn agree(room: &mut SynRoom) {
    room.option.agreed_options(&mut room.agreed);
}

/// Checks tag, age and service of the option in the room, and notes the flow.
#[inline(never)]
fn verify(room: &mut SynRoom, settings: &NodeSettings, now: u32) -> Result<(), DropReason> {
    let SynRoom {
        option,
        ends,
        option_room,
        ..
    } = room;
    if !option.tag_is_right(&settings.tag_key, ends, option_room) {
        return Err(DropReason::BadTag);
    }
    if !option.is_fresh(now) {
        return Err(DropReason::StaleHandover);
    }
    let Some(service) = SERVICE_IDS.get_ptr(&u32::from(option.service)) else {
        return Err(DropReason::UnknownService);
    };
    // SAFETY: a map value stays valid for the program's run; only the daemon writes, whole values.
    let service = unsafe { &*service };
    room.flow = FlowKey {
        remote: option.client,
        local: service.vip,
        remote_port: option.client_port,
        local_port: service.port as u16,
    };
    Ok(())
}

/// Makes or refreshes the processing entry of a verified handover; whether the server has answered it
/// before.
#[inline(never)]
fn note_handover(
    skb: Skb,
    room: &mut SynRoom,
    settings: &NodeSettings,
    window: u16,
) -> Result<bool, DropReason> {
    let Some((own_mac, peer_mac)) = macs(skb) else {
        return Err(DropReason::Malformed);
    };
    let found = entry(&room.flow, role::PROCESSING);
    let mut place = None;
    let decision = back::incoming_syn(&room.option, found.as_deref(), || {
        place = memory::handed(&room.option, &mut room.print, settings);
        place.is_none()
    });
    match decision {
        IncomingSyn::Drop(reason) => return Err(reason),
        IncomingSyn::Again | IncomingSyn::Answer => {
            if let Some(e) = found {
                e.peer = room.ends.from;
                e.peer_port = room.ends.from_port;
                e.peer_mac = peer_mac;
                e.own_mac = own_mac;
                if !e.has(flag::ANSWERED) {
                    e.server_tsval = room.option.server_tsval;
                    e.note_client_tsval(room.option.client_tsval);
                }
            }
        }
        IncomingSyn::Accept => {
            if let Some(old) = found {
                forget_peer(&room.flow, old);
            }
            room.entry = back::accept(&room.option, window, now_ms());
            let e = &mut room.entry;
            e.peer = room.ends.from;
            e.own = room.ends.to;
            e.peer_port = room.ends.from_port;
            e.peer_mac = peer_mac;
            e.own_mac = own_mac;
            if room.ends.to == settings.self_address {
                e.flags |= flag::SELF;
            }
            let key = ConnKey {
                flow: room.flow,
                role: role::PROCESSING,
            };
            if CONNECTIONS.insert(&key, &room.entry, 0).is_err() {
                return Err(DropReason::TableFull);
            }
            count_spliced();
            if let Some(place) = place {
                memory::remember(room.print, place);
            }
        }
    }
    let peer = PeerKey {
        peer: room.ends.from,
        port: room.ends.from_port.into(),
    };
    // A new element, also where the port has one: that one may be removed at this moment.
    match PEERS.insert(&peer, &room.flow, 0) {
        Ok(()) => Ok(matches!(decision, IncomingSyn::Answer)),
        Err(_) => Err(DropReason::TableFull),
    }
}

/// Repeats the server's SYN-ACK in its stead, from what the entry says of it. Timestamps are left out:
/// the server's clock is not known here, and both ends do without them on this connection.
#[inline(never)]
fn answer_syn(skb: Skb, segment: &mut Segment, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let (Some(e), Ok(room)) = (entry(&segment.flow, role::PROCESSING), syn_room()) else {
            return Err(DropReason::UnknownHandover);
        };
        let unscaled = if e.has(flag::UNSCALED) {
            AGREED_SCALE
        } else {
            0
        };
        room.option.agreed &= !(AGREED_TIMESTAMPS | unscaled);
        room.option.client_scale = e.own_scale;
        agree(room);
        let Segment { ip, tcp, .. } = segment;
        let t = &mut tcp.header;
        (t.source, t.destination) = (t.destination, t.source);
        t.flags = SYN | ACK;
        (t.seq, t.ack) = (e.server_isn, e.client_isn.plus(1));
        (t.urgent, t.window) = (0, u16::MAX);
        let Some(scratch) = options(skb, ip.l4(), 60) else {
            return Err(DropReason::Malformed);
        };
        replace_options(skb, ip, tcp, scratch, &room.agreed)?;
        set_addresses(skb, ip, &ip.dst, &ip.src)?;
        skb.set_macs(&e.peer_mac, &e.own_mac)?;
        let code = if e.has(flag::SELF) {
            skb.arrive(settings.back)
        } else {
            skb.send(settings.back)
        };
        Ok(Outcome::redirect(Action::Answered, code))
    })
}

/// Makes the DTS option of a handover SYN.
#[inline(never)]
pub fn make_option(h: &Handover, e: &ConnEntry, settings: &NodeSettings, room: &mut SynRoom) {
    room.option = back::option(h, e, now_ms(), unix_seconds(settings));
    seal(room, settings);
}

/// Tags the option: a function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn seal(room: &mut SynRoom, settings: &NodeSettings) {
    let SynRoom {
        option,
        ends,
        option_room,
        ..
    } = room;
    option.emit(&settings.tag_key, ends, option_room);
}
