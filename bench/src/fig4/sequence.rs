//! The segments of one handover in their order: who sent what to whom.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use dts_lab::ladder::{Ladder, Party, Rung, Step, was_sent_here};
use dts_lab::{Network, Place, Segment};

/// One handover.
pub(super) struct Sequence {
    pub(super) title: String,
    pub(super) client: Place,
    pub(super) inspecting: Place,
    pub(super) processing: Place,
    /// What the letters in the labels stand for.
    pub(super) legend: Vec<String>,
    pub(super) arrows: Vec<Arrow>,
}

/// A segment.
pub(super) struct Arrow {
    /// Since the first one.
    pub(super) at: Duration,
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) network: Network,
    /// Flags, length, numbers.
    pub(super) label: String,
    /// What it is.
    pub(super) note: String,
}

impl Sequence {
    /// A handover by splice, with the paper's steps.
    pub(super) fn of_splice(segments: &[Segment], client: SocketAddr) -> anyhow::Result<Self> {
        let ladder = Ladder::of(segments, client)?;
        let place = |party| match party {
            Party::Client => Place::Client(1),
            Party::Inspecting => ladder.inspecting,
            Party::Processing => ladder.processing,
        };
        let start = ladder.rungs.first().map(|rung| rung.segment.time);
        let start = start.unwrap_or_default();
        let arrows = ladder.rungs.iter().map(|rung| {
            let segment = &rung.segment;
            Arrow {
                at: segment.time.saturating_sub(start),
                from: place(rung.from),
                to: place(rung.to),
                network: network(segment),
                label: label(segment, ladder.seq_name(rung), ladder.ack_name(rung)),
                note: splice_note(rung),
            }
        });
        let arrows = arrows.collect();
        let (x, y, w) = (ladder.client_isn, ladder.server_isn, ladder.own_isn);
        let (inspecting, processing) = (ladder.inspecting, ladder.processing);
        Ok(Self {
            title: "Handover by splice".to_owned(),
            client: Place::Client(1),
            inspecting,
            processing,
            legend: vec![
                format!("x = {x}: initial sequence number of the client, {client}"),
                format!("y = {y}: that of {inspecting}, in its SYN-ACK"),
                format!("w = {w}: that of {processing}'s server, on no wire"),
                format!(
                    "{} is {inspecting}'s end of the handover connection",
                    ladder.handover_from
                ),
            ],
            arrows,
        })
    }

    /// A handover by adoption: the client's own segment crosses to the other node, and nothing answers it there.
    pub(super) fn of_adoption(segments: &[Segment], client: SocketAddr) -> anyhow::Result<Self> {
        let mut sent: Vec<&Segment> = segments
            .iter()
            .filter(|s| was_sent_here(s) && (s.source == client || s.destination == client))
            .collect();
        sent.sort_by_key(|segment| segment.time);
        let syn = sent.iter().find(|s| s.source == client && s.flags.syn);
        let syn = *syn.context("no SYN was captured")?;
        let syn_acks: Vec<_> = sent.iter().filter(|s| s.flags.syn && s.flags.ack).collect();
        ensure!(syn_acks.len() == 1, "{} SYN-ACKs", syn_acks.len());
        let syn_ack = syn_acks[0];
        let back = sent.iter().find(|s| network(s) == Network::Back);
        let back = *back.context("nothing has crossed between the nodes")?;
        let processing = (1..=dts_lab::MAX_NODES)
            .map(Place::Node)
            .find(|node| node.mac(Network::Back) == Some(back.destination_mac))
            .context("what crosses is for no node")?;
        let (x, y) = (syn.seq, syn_ack.seq);
        let inspecting = syn_ack.place;
        ensure!(
            back.place == inspecting,
            "{} has handed over what {inspecting} inspects",
            back.place
        );
        let mut arrows = Vec::new();
        for segment in &sent {
            let to = match (segment.source == client, network(segment)) {
                (false, _) => Place::Client(1),
                (true, Network::Back) => processing,
                (true, Network::Front) if segment.time > back.time => processing,
                (true, Network::Front) => inspecting,
            };
            ensure!(
                segment.source == client || [inspecting, processing].contains(&segment.place),
                "{} has answered",
                segment.place
            );
            arrows.push(Arrow {
                at: segment.time.saturating_sub(syn.time),
                from: segment.place,
                to,
                network: network(segment),
                label: label(segment, named(segment.seq, x, y), named(segment.ack, x, y)),
                note: adopt_note(segment, client),
            });
        }
        Ok(Self {
            title: "Handover by adoption".to_owned(),
            client: Place::Client(1),
            inspecting,
            processing,
            legend: vec![
                format!("x = {x}: initial sequence number of the client, {client}"),
                format!(
                    "y = {y}: the cookie in {inspecting}'s SYN-ACK, which becomes the number of {processing}'s socket"
                ),
            ],
            arrows,
        })
    }

    /// Segments between the nodes.
    pub(super) fn between_nodes(&self) -> usize {
        self.count(|arrow| arrow.network == Network::Back)
    }

    /// Segments that the client sent.
    pub(super) fn by_client(&self) -> usize {
        self.count(|arrow| arrow.from == self.client)
    }

    /// Segments to the client.
    pub(super) fn to_client(&self) -> usize {
        self.count(|arrow| arrow.to == self.client)
    }

    fn count(&self, of: impl Fn(&Arrow) -> bool) -> usize {
        self.arrows.iter().filter(|arrow| of(arrow)).count()
    }
}

fn network(segment: &Segment) -> Network {
    match segment.interface == Network::Back.interface() {
        true => Network::Back,
        false => Network::Front,
    }
}

/// Flags, length and numbers as they stand on an arrow.
fn label(segment: &Segment, seq: impl ToString, ack: impl ToString) -> String {
    let flags = [
        (segment.flags.syn, "SYN"),
        (segment.flags.fin, "FIN"),
        (segment.flags.rst, "RST"),
    ];
    let mut parts: Vec<String> = flags
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name.to_owned())
        .collect();
    if !segment.payload.is_empty() {
        parts.push(format!("{} B", segment.payload.len()));
    }
    if parts.is_empty() {
        return format!("ACK {}", ack.to_string());
    }
    parts.push(seq.to_string());
    if segment.flags.ack {
        parts.push(format!("ack {}", ack.to_string()));
    }
    parts.join(" ")
}

/// A number by its distance from `x` or `y`.
fn named(number: u32, x: u32, y: u32) -> String {
    const NEAR: u32 = 1 << 30;
    for (name, base) in [("x", x), ("y", y)] {
        match number.wrapping_sub(base) {
            0 => return name.to_owned(),
            distance if distance < NEAR => return format!("{name}+{distance}"),
            _ => {}
        }
    }
    number.to_string()
}

fn splice_note(rung: &Rung) -> String {
    let meaning = match (rung.step, rung.from) {
        (Step::Syn, _) => "SYN, to all nodes: one takes it",
        (Step::SynAck, _) => "the inspecting node answers",
        (Step::Ack, _) => "connected",
        (Step::Request, _) => "request",
        (Step::RequestAck, _) => "the request was received",
        (Step::HandoverSyn, _) => "handover SYN, in the client's number",
        (Step::HandoverSynAck, _) => "its answer, w made y",
        (Step::HandoverAck, _) => "acknowledgment between the nodes",
        (Step::HandoverRequest, _) => "the request again, to the server",
        (Step::HandoverFin, _) => "end of the handover connection",
        (Step::Response, _) => "response, straight to the client",
        (Step::ResponseAck, _) => "the response was received",
        (Step::ClientFin, _) => "the client closes",
        (Step::ServerFin, _) => "the server closes",
        (Step::FinAck, _) => "closed",
        (Step::Reset, _) => "reset",
    };
    let again = if rung.again { ", again" } else { "" };
    format!("{meaning}{again} ({})", rung.step.paper())
}

fn adopt_note(segment: &Segment, client: SocketAddr) -> String {
    let flags = segment.flags;
    let data = !segment.payload.is_empty();
    let note = match (segment.source == client, network(segment)) {
        (true, Network::Back) => {
            "the client's own segment, with an IP option: the server adopts the connection"
        }
        (true, _) if flags.syn => "SYN, to all nodes: one answers",
        (true, _) if data => "request",
        (true, _) if flags.fin => "the client closes",
        (true, _) => "acknowledgment",
        (false, _) if flags.syn => "answer by the filter: a cookie, nothing is kept",
        (false, _) if data => "response, straight from the server's kernel",
        (false, _) if flags.fin => "the server closes",
        (false, _) => "acknowledgment",
    };
    note.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_named_by_what_they_follow() {
        assert_eq!(named(5, 5, u32::MAX), "x");
        assert_eq!(named(7, 5, 1 << 31), "x+2");
        // Wraps.
        assert_eq!(named(1, 1 << 31, u32::MAX), "y+2");
    }
}
