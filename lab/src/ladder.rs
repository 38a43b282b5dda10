//! One handover's segments in the order in which they were sent, each with its part in the paper's
//! sequence (DTS §2.2, Fig. 4).
//!
//! A ladder is made from captures at the client's interface and at both interfaces of every node. Of
//! each segment the capture of *its sender* counts: there it is seen once, before any wire. What the
//! filter hands from the back network to a node's own stack shows up in the front capture of that
//! node, but with the source address of the back network; it is no segment on a wire and no rung. It
//! is where the server's own initial sequence number can be seen, though.
//!
//! The names of numbers are the paper's situation in letters: `x` is the client's initial sequence
//! number, `y` the inspecting node's, `w` that of the processing node's server, which never appears on
//! a wire.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use dts_core::handover::{HandoverOption, OPTION_LEN};
use thiserror::Error;

mod clues;

use clues::{handover_syn, own_isn, reaches, the_synack};

pub use clues::dts_option;

use crate::capture::Segment;
use crate::place::{Network, Place};

/// Why there is no ladder.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LadderError {
    /// The captures hold no SYN of the client.
    #[error("no capture shows a SYN from {client}")]
    NoSyn {
        /// The client's end.
        client: SocketAddr,
    },
    /// Not exactly one node answered the SYN.
    #[error(
        "the SYN from {client} was answered by {}, not by one node",
        places(answered)
    )]
    NotOneInspector {
        /// The client's end.
        client: SocketAddr,
        /// Who answered.
        answered: Vec<Place>,
    },
    /// No handover SYN speaks of this connection.
    #[error("no handover SYN for the connection of {client} is in the captures")]
    NoHandover {
        /// The client's end.
        client: SocketAddr,
    },
    /// No node answered the handover SYN.
    #[error("the handover SYN for the connection of {client} was not answered")]
    HandoverUnanswered {
        /// The client's end.
        client: SocketAddr,
    },
    /// The processing node's own initial sequence number was not seen.
    #[error(
        "the front capture of {processing} does not show what the filter hands to its stack for {client}"
    )]
    NoOwnIsn {
        /// The client's end.
        client: SocketAddr,
        /// The processing node.
        processing: Place,
    },
    /// A node that is neither inspecting nor processing took part.
    #[error("{place} sent a segment of the connection of {client}, which is not its business")]
    Stranger {
        /// The client's end.
        client: SocketAddr,
        /// The node.
        place: Place,
    },
}

/// One handover.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The client's end of the connection.
    pub client: SocketAddr,
    /// The cluster's end of the connection.
    pub service: SocketAddr,
    /// The node that answered the client's SYN.
    pub inspecting: Place,
    /// The node that took the handover; the same one when a node hands over to itself.
    pub processing: Place,
    /// `x`: the initial sequence number of the client's SYN.
    pub client_isn: u32,
    /// `y`: the initial sequence number of the inspecting node's SYN-ACK.
    pub server_isn: u32,
    /// `w`: the initial sequence number of the processing node's server.
    pub own_isn: u32,
    /// What the handover SYN says, in the option and in the header fields that belong to it.
    pub option: HandoverOption,
    /// The option's authentication tag.
    pub tag: [u8; 6],
    /// The inspecting node's end of the handover connection.
    pub handover_from: SocketAddr,
    /// The processing node's end of the handover connection.
    pub handover_to: SocketAddr,
    /// The segments, in the order in which they were sent.
    pub rungs: Vec<Rung>,
}

/// A segment of a ladder.
#[derive(Clone, Debug)]
pub struct Rung {
    /// Its part in the sequence.
    pub step: Step,
    /// Who sent it.
    pub from: Party,
    /// Who is to take it. The client's segments reach every node; who takes them is the inspecting
    /// node until the handover connection is answered, from then on the processing node.
    pub to: Party,
    /// Whether everything it carries was sent before.
    pub again: bool,
    /// The segment, as its sender's capture has it.
    pub segment: Segment,
}

/// A column of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The client.
    Client,
    /// The inspecting node.
    Inspecting,
    /// The processing node.
    Processing,
}

/// A segment's part in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client's SYN.
    Syn,
    /// The inspecting node's answer to it.
    SynAck,
    /// The client's acknowledgment, which establishes the connection.
    Ack,
    /// The request, or a part of it.
    Request,
    /// A node acknowledges what it has of the request, to the client.
    RequestAck,
    /// The SYN that hands the connection over.
    HandoverSyn,
    /// Its answer.
    HandoverSynAck,
    /// An acknowledgment without data on the handover connection.
    HandoverAck,
    /// The request, or a part of it, on the handover connection.
    HandoverRequest,
    /// The end of the handover connection.
    HandoverFin,
    /// The response, or a part of it.
    Response,
    /// The client acknowledges what it has of the response.
    ResponseAck,
    /// The client closes its direction.
    ClientFin,
    /// The server closes its direction.
    ServerFin,
    /// The acknowledgment of a FIN.
    FinAck,
    /// A reset.
    Reset,
}

/// A number as a person compares it: one of `x`, `y`, `w` and a distance, such as `y+1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// `x`, `y` or `w`; `None` when the number is far from all of them.
    pub base: Option<char>,
    /// The distance from the base, or the number itself.
    pub distance: u32,
}

impl Ladder {
    /// Finds the connection of `client` in the segments of all captures, and the handover that
    /// belongs to it.
    pub fn of(segments: &[Segment], client: SocketAddr) -> Result<Self, LadderError> {
        let mut sent: Vec<&Segment> = segments.iter().filter(|s| was_sent_here(s)).collect();
        sent.sort_by_key(|segment| segment.time);

        let syn = sent
            .iter()
            .find(|s| s.source == client && s.flags.syn)
            .ok_or(LadderError::NoSyn { client })?;
        let service = syn.destination;
        let synack = the_synack(&sent, client, service)?;
        let (handover_syn, option) = handover_syn(&sent, client, syn.seq)?;
        let ends = [handover_syn.source, handover_syn.destination];
        let handover_synack = sent
            .iter()
            .find(|s| [s.destination, s.source] == ends && s.flags.syn && s.flags.ack)
            .ok_or(LadderError::HandoverUnanswered { client })?;
        let processing = handover_synack.place;
        let own_isn = own_isn(segments, client, processing)
            .ok_or(LadderError::NoOwnIsn { client, processing })?;

        let mut ladder = Self {
            client,
            service,
            inspecting: synack.place,
            processing,
            client_isn: syn.seq,
            server_isn: synack.seq,
            own_isn,
            option,
            tag: std::array::from_fn(|i| handover_syn.options.raw[OPTION_LEN - 6 + i]),
            handover_from: ends[0],
            handover_to: ends[1],
            rungs: Vec::new(),
        };
        let answered = handover_synack.time;
        for segment in sent {
            ladder.add(segment, answered)?;
        }
        Ok(ladder)
    }

    /// A segment's sequence number in terms of `x` and `y`.
    pub fn seq_name(&self, rung: &Rung) -> Named {
        let own = match rung.segment.source {
            source if source == self.client || source == self.handover_from => self.x(),
            _ => self.y(),
        };
        Named::of(rung.segment.seq, [own, self.x(), self.y()])
    }

    /// The acknowledgment field in terms of `x` and `y`. That of a request on the handover connection
    /// says where the request ends, that of the handover SYN what `y` is.
    pub fn ack_name(&self, rung: &Rung) -> Named {
        let likely = match (rung.step, rung.from) {
            (Step::HandoverRequest, _) => self.x(),
            (Step::HandoverSyn, _) | (_, Party::Client) => self.y(),
            (Step::HandoverAck, Party::Inspecting) => self.y(),
            _ => self.x(),
        };
        Named::of(rung.segment.ack, [likely, self.x(), self.y()])
    }

    /// The first rung of a step.
    pub fn first(&self, step: Step) -> Option<&Rung> {
        self.all(step).next()
    }

    /// The rungs of a step, in order.
    pub fn all(&self, step: Step) -> impl Iterator<Item = &Rung> {
        self.rungs.iter().filter(move |rung| rung.step == step)
    }

    /// Adds a segment if it belongs to the connection or to its handover.
    fn add(&mut self, segment: &Segment, answered: Duration) -> Result<(), LadderError> {
        let Some((from, to)) = self.parties(segment, answered)? else {
            return Ok(());
        };
        let step = self.step(segment, from);
        let takes_room = segment.end_seq() != segment.seq;
        let again = takes_room
            && self.rungs.iter().any(|rung| {
                rung.segment.source == segment.source
                    && rung.segment.destination == segment.destination
                    && reaches(rung.segment.end_seq(), segment.end_seq())
            });
        let segment = segment.clone();
        self.rungs.push(Rung {
            step,
            from,
            to,
            again,
            segment,
        });
        Ok(())
    }

    /// Who sent a segment to whom; `None` for one that belongs to something else.
    fn parties(
        &self,
        segment: &Segment,
        answered: Duration,
    ) -> Result<Option<(Party, Party)>, LadderError> {
        let ends = (segment.source, segment.destination);
        let handed_over = segment.time > answered;
        Ok(Some(if ends == (self.client, self.service) {
            let to = if handed_over {
                Party::Processing
            } else {
                Party::Inspecting
            };
            (Party::Client, to)
        } else if ends == (self.service, self.client) {
            (self.node(segment, handed_over)?, Party::Client)
        } else if ends == (self.handover_from, self.handover_to) {
            (Party::Inspecting, Party::Processing)
        } else if ends == (self.handover_to, self.handover_from) {
            (Party::Processing, Party::Inspecting)
        } else {
            return Ok(None);
        }))
    }

    /// Which part the node plays that sent this to the client.
    fn node(&self, segment: &Segment, handed_over: bool) -> Result<Party, LadderError> {
        match segment.place {
            // One node in both parts: only the order tells them apart.
            place if place == self.inspecting && place == self.processing => Ok(if handed_over {
                Party::Processing
            } else {
                Party::Inspecting
            }),
            place if place == self.inspecting => Ok(Party::Inspecting),
            place if place == self.processing => Ok(Party::Processing),
            place => Err(LadderError::Stranger {
                client: self.client,
                place,
            }),
        }
    }

    fn step(&self, segment: &Segment, from: Party) -> Step {
        let (flags, data) = (segment.flags, !segment.payload.is_empty());
        if flags.rst {
            return Step::Reset;
        }
        let on_front = [segment.source, segment.destination].contains(&self.client);
        match (on_front, from) {
            (false, Party::Inspecting) if flags.syn => Step::HandoverSyn,
            (false, _) if flags.syn => Step::HandoverSynAck,
            (false, _) if data => Step::HandoverRequest,
            (false, _) if flags.fin => Step::HandoverFin,
            (false, _) => Step::HandoverAck,
            (true, Party::Client) if flags.syn => Step::Syn,
            (true, Party::Client) if data => Step::Request,
            (true, Party::Client) if flags.fin => Step::ClientFin,
            (true, Party::Client) if self.acknowledges(segment, Step::ServerFin) => Step::FinAck,
            (true, Party::Client) if self.first(Step::Ack).is_none() => Step::Ack,
            (true, Party::Client) => Step::ResponseAck,
            (true, _) if flags.syn => Step::SynAck,
            (true, _) if data => Step::Response,
            (true, _) if flags.fin => Step::ServerFin,
            (true, _) if self.acknowledges(segment, Step::ClientFin) => Step::FinAck,
            (true, _) => Step::RequestAck,
        }
    }

    /// Whether a segment acknowledges the FIN of a step that came before it.
    fn acknowledges(&self, segment: &Segment, fin: Step) -> bool {
        self.all(fin)
            .any(|rung| reaches(segment.ack, rung.segment.end_seq()))
    }

    fn x(&self) -> (char, u32) {
        ('x', self.client_isn)
    }

    fn y(&self) -> (char, u32) {
        ('y', self.server_isn)
    }
}

/// Whether the capture is that of the segment's sender.
pub fn was_sent_here(segment: &Segment) -> bool {
    Network::ALL
        .into_iter()
        .find(|network| network.interface() == segment.interface)
        .and_then(|network| segment.place.mac(network))
        == Some(segment.source_mac)
}

impl Step {
    /// Where the paper has this step. Its text numbers four segments of Fig. 4: 1, 2, 4 and 5.
    pub const fn paper(self) -> &'static str {
        match self {
            Self::Syn => "Fig. 4, segment 1",
            Self::SynAck => "Fig. 4, segment 2",
            Self::HandoverSyn => "Fig. 4, segment 4",
            Self::HandoverSynAck => "Fig. 4, segment 5",
            Self::Ack
            | Self::Request
            | Self::HandoverAck
            | Self::HandoverRequest
            | Self::Response => "Fig. 4",
            Self::HandoverFin => "§2.2, at the end",
            Self::ClientFin | Self::ServerFin | Self::FinAck => "TCP's ordinary end",
            Self::RequestAck | Self::ResponseAck | Self::Reset => "not in the paper",
        }
    }
}

impl Named {
    /// The first base that is at most 1 GiB below the number.
    fn of(number: u32, bases: [(char, u32); 3]) -> Self {
        const NEAR: u32 = 1 << 30;
        let near = bases
            .into_iter()
            .map(|(base, isn)| (base, number.wrapping_sub(isn)))
            .find(|(_, distance)| *distance < NEAR);
        match near {
            Some((base, distance)) => Self {
                base: Some(base),
                distance,
            },
            None => Self {
                base: None,
                distance: number,
            },
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.base, self.distance) {
            (Some(base), 0) => write!(f, "{base}"),
            (Some(base), distance) => write!(f, "{base}+{distance}"),
            (None, number) => write!(f, "{number}"),
        }
    }
}

fn places(places: &[Place]) -> String {
    match places {
        [] => "no node".to_owned(),
        places => places
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" and "),
    }
}

#[cfg(test)]
mod tests;
