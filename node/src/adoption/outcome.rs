//! What is done about a connection once it is known what shall become of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{Adoption, ruling, stage, track};
use dts_core::head::{bytes, scan};
use dts_core::ring::flow_hash;
use tokio::time::Instant;

use super::frames::Maker;
use super::{Undecided, Work, now_ms};
use crate::config::Fate;
use crate::current::InspectedService;
use crate::inspect::TargetChoice;

impl Work {
    /// The node that a choice means for a flow, or the default target's where the service says so. Not a node that has
    /// just been found to be gone.
    pub(super) fn target(
        &mut self,
        flow: &FlowKey,
        service: &InspectedService,
        choice: &TargetChoice,
    ) -> Option<Addr> {
        let current = Arc::clone(&self.node.current.borrow());
        let place = flow_hash(current.flows.hash(), &flow.remote, flow.remote_port);
        let now = Instant::now();
        self.gone.retain(|_, until| *until > now);
        let resolve = |choice: &TargetChoice| {
            let (_, member) = current.placement.resolve_for(choice, place)?;
            Some(Addr::from(member.address))
        };
        let first = resolve(choice);
        if let Some(target) = first {
            if !self.gone.contains_key(&target) {
                return first;
            }
            self.node
                .counters
                .unreachable
                .fetch_add(1, Ordering::Relaxed);
        }
        match service.service.on_unreachable {
            Fate::Default => resolve(&service.rules.default_choice()).filter(|t| first != Some(*t)),
            Fate::Reset => None,
        }
    }

    /// Sends a connection's segments on. From here on the filter sends what the client repeats after them.
    pub(super) fn send_on(&mut self, flow: &FlowKey, choice: &TargetChoice) {
        let Some(service) = self.undecided.get(flow).map(|u| Arc::clone(&u.service)) else {
            return;
        };
        match self.target(flow, &service, choice) {
            Some(target) => {
                self.node.counters.sent_on.fetch_add(1, Ordering::Relaxed);
                self.give(flow, stage::SENT, target);
            }
            None => self.reject(flow),
        }
    }

    /// Notes where a connection goes, and sends the segments there that have come.
    pub(super) fn give(&mut self, flow: &FlowKey, stage: u32, target: Addr) {
        let Some(connection) = self.remove(flow) else {
            return;
        };
        if let Err(error) = self.note(flow, &connection, stage, target) {
            // The client will repeat its request.
            tracing::error!("cannot hand a connection over: {error}");
            return;
        }
        let pending = &connection.pending;
        self.send_segments(flow, &connection.maker, pending.bytes(), pending.is_ended());
    }

    pub(super) fn send_segments(&self, flow: &FlowKey, maker: &Maker, bytes: &[u8], ended: bool) {
        for frame in maker.segments(bytes, ended) {
            if let Err(error) = self.to_nodes(&frame) {
                tracing::debug!(%flow, %error, "a segment was not sent on: its client will repeat it");
            }
        }
    }

    pub(super) fn to_client(&self, frame: &[u8]) -> io::Result<()> {
        self.node.frames.to_clients.send(self.node.front, frame)
    }

    pub(super) fn to_nodes(&self, frame: &[u8]) -> io::Result<()> {
        self.node.frames.to_nodes.send(self.node.back, frame)
    }

    pub(super) fn send_reset(&self, flow: &FlowKey, maker: &Maker) {
        if let Err(error) = self.to_client(&maker.reset()) {
            tracing::debug!(%flow, %error, "a reset was not sent");
        }
    }

    pub(super) fn note(
        &self,
        flow: &FlowKey,
        connection: &Undecided,
        stage: u32,
        target: Addr,
    ) -> Result<(), crate::kernel::FilterError> {
        let adoption = Adoption {
            client_isn: connection.client_isn,
            server_isn: connection.server_isn,
            stage,
            terms: connection.terms,
            target,
            since: now_ms(),
            ruling: ruling::ASK,
            print: 0,
            mac: connection.maker.client_mac(),
            reserved: 0,
            track: if stage == stage::SENT {
                followed(connection)
            } else {
                0
            },
            ..Adoption::default()
        };
        self.node.filter.set_adoption(flow, &adoption)
    }

    pub(super) fn reject(&mut self, flow: &FlowKey) {
        let Some(connection) = self.remove(flow) else {
            return;
        };
        connection
            .service
            .counters
            .rejected
            .fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.note(flow, &connection, stage::REJECTED, Addr::default()) {
            tracing::error!("cannot note that a connection was rejected: {error}");
        }
        self.send_reset(flow, &connection.maker);
    }

    /// Gives a connection to the inspector's socket, which acknowledges what comes: its client may wait for that before
    /// it sends more. It will be spliced.
    pub(super) fn give_to_socket(&mut self, flow: &FlowKey) {
        self.node.counters.by_socket.fetch_add(1, Ordering::Relaxed);
        if let Some(connection) = self.undecided.get_mut(flow) {
            let service = &connection.service;
            // It is accepted once more.
            service.counters.accepted.fetch_sub(1, Ordering::Relaxed);
            if let Some(processes) = &service.processes {
                let asked = std::mem::take(&mut connection.consultation);
                asked.send(processes, *flow, connection.pending.bytes());
            }
        }
        self.give(flow, stage::BY_SOCKET, Addr::default());
    }
}

/// Whether later requests of a connection may go elsewhere, as [`track`] bits: when the filter could have decided about
/// this one, the node that gets it follows the connection.
fn followed(connection: &Undecided) -> u32 {
    let service = &connection.service;
    if !service.service.each_request || service.compiled.is_none() {
        return 0;
    }
    let data = connection.pending.bytes();
    let head = scan(&bytes(data), data.len(), true);
    let alone = u32::try_from(data.len()).is_ok_and(|len| head.is_alone(len));
    // The target takes the first segment's end for the head's.
    let alone = alone && connection.maker.segments(data, false).nth(1).is_none();
    match (head.is_plain() && alone, head.asks_for_head()) {
        (false, _) => 0,
        (true, false) => track::ON,
        (true, true) => track::ON | track::NO_BODY,
    }
}
