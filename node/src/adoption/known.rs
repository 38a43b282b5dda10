//! Connections of clients whose SYN another node has answered: when the members have changed, that node, or whoever it has
//! given the request to, may have it already, and must not be joined by a second one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{Inquiry, stage};
use dts_core::seq::Seq;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::{Answer, GONE, SLOW, Work};

impl Work {
    /// Asks all other nodes whether they know an undecided connection, which waits for their answers.
    pub(super) fn ask_nodes(&mut self, inquiry: &Inquiry, answering: &UnboundedSender<Answer>) {
        let now = Instant::now();
        self.quiet.retain(|_, until| *until > now);
        let current = Arc::clone(&self.node.current.borrow());
        let own = current.config.node.address;
        let others = current.config.members.iter().map(|member| member.address);
        let peers: Vec<Addr> = others
            .filter(|address| *address != own)
            .map(Addr::from)
            .filter(|peer| !self.quiet.contains_key(peer))
            .collect();
        let Some(connection) = self.undecided.get_mut(&inquiry.flow) else {
            return;
        };
        connection.asking = peers.len();
        for peer in peers {
            let (housekeeper, answering) = (Arc::clone(&self.node.housekeeper), answering.clone());
            let (flow, isn) = (inquiry.flow, inquiry.client_isn);
            self.node.runtime.spawn(async move {
                let known = housekeeper.knows((flow, isn), peer).await;
                // Nobody listens when the daemon ends.
                let _ = answering.send(Answer::Knows(flow, isn, peer, known));
            });
        }
    }

    /// Takes note of what a node says. What it knows is left to it; what nobody knows is decided here.
    pub(super) fn heed_known(
        &mut self,
        flow: &FlowKey,
        isn: Seq,
        (peer, known): (Addr, Option<bool>),
    ) {
        if known.is_none() {
            self.quiet.insert(peer, Instant::now() + GONE);
        }
        let connection = self.undecided.get_mut(flow);
        let Some(connection) = connection.filter(|u| u.client_isn == isn && u.asking > 0) else {
            return;
        };
        if known == Some(true) {
            self.leave(flow, peer);
            return;
        }
        connection.asking -= 1;
        if connection.asking == 0 {
            connection.slow = Instant::now() + SLOW;
            self.decide(flow, None);
        }
    }

    fn leave(&mut self, flow: &FlowKey, peer: Addr) {
        let Some(connection) = self.remove(flow) else {
            return;
        };
        tracing::debug!(%flow, %peer, "left to the node that knows it");
        let accepted = &connection.service.counters.accepted;
        accepted.fetch_sub(1, Ordering::Relaxed);
        self.node.counters.left.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.note(flow, &connection, stage::LEFT, peer) {
            // The client will repeat its request, and the nodes will be asked again.
            tracing::error!("cannot leave a connection to another node: {error}");
        }
    }
}
