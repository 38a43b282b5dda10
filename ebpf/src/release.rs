//! A SYN that reuses a port, sent on by the node that had the last connection to the one that inspected it.

use dts_core::{
    entry::{ConnKey, NodeSettings, role},
    handover::release,
    seq::Seq,
    verdict::{Action, DropReason},
};

use crate::{
    Outcome,
    entries::{entry, forget_processing},
    facts::{settings, unix_seconds},
    frame::{Ip, Segment, Skb, insert_ip_option, ip_option, remove_ip_option},
    front::client_flow,
    handover_syn::syn_room,
    maps::{CONNECTIONS, SynRoom},
    outcome,
};

/// Forgets a connection that is over and sends the SYN that follows it to the node that inspected it.
#[inline(never)]
pub fn release(skb: Skb, segment: &Segment) -> Outcome {
    outcome(|| {
        let Segment { ip, flow, .. } = segment;
        let (Some(entry), Some(settings)) = (entry(flow, role::PROCESSING), settings()) else {
            return Err(DropReason::NotOwner);
        };
        let (peer_mac, own_mac) = (entry.peer_mac, entry.own_mac);
        let old = entry.client_isn;
        forget_processing(flow, entry);
        let room = syn_room()?;
        seal_release(segment, old, settings, room);
        insert_ip_option(skb, ip, &room.release_room.bytes)?;
        skb.set_macs(&peer_mac, &own_mac)?;
        Ok(Outcome::redirect(Action::Released, skb.send(settings.back)))
    })
}

/// A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn seal_release(segment: &Segment, old: Seq, settings: &NodeSettings, room: &mut SynRoom) {
    let (new, made) = (segment.tcp.header.seq, unix_seconds(settings));
    release::emit(
        &settings.tag_key,
        &segment.flow,
        [new, old],
        made,
        &mut room.release_room,
    );
}

/// A client's SYN that another node sends on: the flow's last connection is over there.
#[inline(never)]
pub fn ingress(skb: Skb, ip: &Ip, settings: &NodeSettings) -> Outcome {
    outcome(|| {
        let room = syn_room()?;
        let Some(bytes) = ip_option(skb, ip) else {
            return Err(DropReason::BadOption);
        };
        room.release_room.bytes = bytes;
        let Some(segment) = Segment::read(skb, ip) else {
            return Err(DropReason::Malformed);
        };
        segment.flow = client_flow(ip, &segment.tcp.header);
        let Some(old) = verified_release(segment, room, settings) else {
            return Err(DropReason::BadTag);
        };
        if let Some(e) = entry(&segment.flow, role::INSPECTING)
            && e.client_isn == old
        {
            let _ = CONNECTIONS.remove(&ConnKey {
                flow: segment.flow,
                role: role::INSPECTING,
            });
        }
        remove_ip_option(skb, ip, &room.release_room.bytes)?;
        Ok(Outcome::redirect(
            Action::ReleaseIn,
            skb.arrive(settings.front),
        ))
    })
}

/// A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn verified_release(segment: &Segment, room: &mut SynRoom, settings: &NodeSettings) -> Option<Seq> {
    let (new, now) = (segment.tcp.header.seq, unix_seconds(settings));
    release::verify(
        &settings.tag_key,
        &segment.flow,
        new,
        now,
        &mut room.release_room,
    )
}
