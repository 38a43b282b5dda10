//! What single segments of a handover say.

use std::net::SocketAddr;

use dts_core::handover::{HandoverOption, OPTION_LEN};
use dts_core::seq::Seq;

use super::{LadderError, was_sent_here};
use crate::capture::Segment;
use crate::place::{Network, Place};

/// The one SYN-ACK that a node sent to the client.
pub(super) fn the_synack<'a>(
    sent: &[&'a Segment],
    client: SocketAddr,
    service: SocketAddr,
) -> Result<&'a Segment, LadderError> {
    let is_synack = |s: &&&Segment| {
        (s.source, s.destination) == (service, client) && s.flags.syn && s.flags.ack
    };
    let synacks: Vec<&Segment> = sent.iter().filter(is_synack).copied().collect();
    let mut answered: Vec<Place> = synacks.iter().map(|s| s.place).collect();
    answered.sort_unstable();
    answered.dedup();
    match (synacks.first(), answered.len()) {
        (Some(first), 1) => Ok(first),
        _ => Err(LadderError::NotOneInspector { client, answered }),
    }
}

/// The first handover SYN that speaks of the client's connection.
pub(super) fn handover_syn<'a>(
    sent: &[&'a Segment],
    client: SocketAddr,
    client_isn: u32,
) -> Result<(&'a Segment, HandoverOption), LadderError> {
    let of_client = |option: &HandoverOption| {
        let address = match client.ip() {
            std::net::IpAddr::V4(v4) => dts_core::addr::Addr::v4(v4.octets()),
            std::net::IpAddr::V6(v6) => dts_core::addr::Addr::v6(v6.octets()),
        };
        option.client == address
            && option.client_port == client.port()
            && option.client_isn == Seq(client_isn)
    };
    sent.iter()
        .filter(|s| s.flags.syn && !s.flags.ack)
        .find_map(|s| Some((*s, dts_option(s).filter(of_client)?)))
        .ok_or(LadderError::NoHandover { client })
}

/// What a handover SYN says; `None` for a segment without the option.
pub fn dts_option(segment: &Segment) -> Option<HandoverOption> {
    let bytes: &[u8; OPTION_LEN] = segment.options.raw.as_slice().try_into().ok()?;
    let (seq, ack) = (Seq(segment.seq), Seq(segment.ack));
    let now = segment.time.as_secs() as u32;
    HandoverOption::parse(bytes, seq, ack, segment.urgent, now)
}

/// The server's own initial sequence number: what the filter hands to the processing node's stack in
/// the client's name acknowledges it.
pub(super) fn own_isn(segments: &[Segment], client: SocketAddr, processing: Place) -> Option<u32> {
    segments
        .iter()
        .filter(|s| s.place == processing && s.interface == Network::Front.interface())
        // From the back network, so handed on by the filter.
        .filter(|s| s.source == client && Some(s.source_mac) != mac_of_client(segments, client))
        .find(|s| s.flags.ack && !s.flags.syn)
        .map(|s| s.ack.wrapping_sub(1))
}

/// The source address of the client's own frames.
fn mac_of_client(segments: &[Segment], client: SocketAddr) -> Option<[u8; 6]> {
    segments
        .iter()
        .find(|s| s.source == client && was_sent_here(s))
        .map(|s| s.source_mac)
}

/// Whether `number` is `other` or after it, in sequence space (RFC 9293, 3.4).
pub(super) fn reaches(number: u32, other: u32) -> bool {
    number.wrapping_sub(other) < 1 << 31
}
