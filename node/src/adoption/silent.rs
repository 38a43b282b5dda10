//! Connections whose target says nothing: its node is asked before another one gets the request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dts_core::addr::FlowKey;
use dts_core::entry::adoption::{Adoption, Inquiry, stage};
use dts_core::segment::FIN;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::frames::Maker;
use super::{Answer, GONE, Work, now_ms};
use crate::config::Fate;
use crate::current::InspectedService;

/// A connection whose target has said nothing: its client has repeated its request.
pub(super) struct Silent {
    service: Arc<InspectedService>,
    maker: Maker,
    first: Vec<u8>,
    ended: bool,
    known: Adoption,
}

impl Work {
    /// Has the target of a connection asked whether it has it: the client has repeated its request.
    pub(super) fn ask_target(
        &mut self,
        inquiry: &Inquiry,
        data: &[u8],
        answering: &UnboundedSender<Answer>,
    ) {
        let flow = inquiry.flow;
        let (Some(service), Ok(settings)) = (self.service(&flow), self.node.filter.node()) else {
            return;
        };
        let known = match self.node.filter.adoption(&flow) {
            Ok(Some(known)) if known.server_isn == inquiry.server_isn => known,
            _ => return,
        };
        if known.stage != stage::SENT || self.silent.contains_key(&flow) {
            return;
        }
        let silent = Silent {
            service,
            maker: Maker::new(inquiry, &settings),
            first: data.to_vec(),
            ended: inquiry.flags & FIN != 0,
            known,
        };
        self.silent.insert(flow, silent);
        let (housekeeper, answering) = (Arc::clone(&self.node.housekeeper), answering.clone());
        self.node.runtime.spawn(async move {
            let here = housekeeper
                .has((flow, known.client_isn), known.target)
                .await;
            // Nobody listens when the daemon ends.
            let _ = answering.send(Answer::Has(flow, here));
        });
    }

    /// Takes note of what a silent target's node says. A node that answers gets the request again with each repetition.
    /// In place of one that doesn't, the default target gets it, or the client is reset.
    pub(super) fn heed(&mut self, flow: &FlowKey, here: Option<bool>) {
        let Some(silent) = self.silent.remove(flow) else {
            return;
        };
        if here.is_some() {
            return;
        }
        let Silent { known, service, .. } = &silent;
        tracing::debug!(%flow, target = %known.target, "the target does not answer");
        self.node
            .counters
            .unreachable
            .fetch_add(1, Ordering::Relaxed);
        self.gone.insert(known.target, Instant::now() + GONE);
        let choice = service.rules.default_choice();
        let second = match service.service.on_unreachable {
            Fate::Default => self.target(flow, service, &choice),
            Fate::Reset => None,
        };
        let second = second.filter(|target| *target != known.target);
        let changed = Adoption {
            stage: match second {
                Some(_) => stage::SENT,
                None => stage::REJECTED,
            },
            target: second.unwrap_or_default(),
            since: now_ms(),
            ..*known
        };
        if let Err(error) = self.node.filter.set_adoption(flow, &changed) {
            tracing::error!("cannot hand a connection over: {error}");
            return;
        }
        if second.is_some() {
            self.send_segments(flow, &silent.maker, &silent.first, silent.ended);
            return;
        }
        service.counters.rejected.fetch_add(1, Ordering::Relaxed);
        self.send_reset(flow, &silent.maker);
    }
}
