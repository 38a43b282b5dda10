//! Questions about single connections that somebody waits for, and what this node answers to them.

use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{stage, track};
use dts_core::notice::{Kind, Record};
use dts_core::seq::Seq;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Housekeeper, lock};

/// How long each question about a connection that somebody waits for is left unanswered. Four, because a node that is
/// taken to be gone by mistake may have the request, and then another one gets it as well; as with a handover's SYN, one of
/// fifty frames may be lost.
const PATIENCE: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(50),
    Duration::from_millis(50),
    Duration::from_millis(150),
];

impl Housekeeper {
    /// Whether the server of `peer` has this connection; `None` when that node does not answer.
    pub async fn has(&self, record: Record, peer: Addr) -> Option<bool> {
        self.ask(Kind::Question, record, peer).await
    }

    /// Whether `peer` knows this connection in any way; `None` when that node does not answer.
    pub async fn knows(&self, record: Record, peer: Addr) -> Option<bool> {
        self.ask(Kind::Known, record, peer).await
    }

    async fn ask(&self, kind: Kind, record: Record, peer: Addr) -> Option<bool> {
        let (told, mut answer) = oneshot::channel();
        let key = ((record.0, record.1.0), peer);
        lock(&self.asking).insert(key, told);
        for patience in PATIENCE {
            self.send(kind, &[record], peer).await;
            if let Ok(answer) = timeout(patience, &mut answer).await {
                return answer.ok();
            }
        }
        lock(&self.asking).remove(&key);
        None
    }

    /// Tells those who wait for it.
    pub(super) fn tell_waiting(&self, records: &[Record], peer: Addr, here: bool) {
        let mut asking = lock(&self.asking);
        for (flow, isn) in records {
            if let Some(waiting) = asking.remove(&((*flow, isn.0), peer)) {
                // Who asked may have given up.
                let _ = waiting.send(here);
            }
        }
    }

    /// Whether this node inspects a connection that is to be adopted, has given it to a node, or has had its request.
    pub(super) fn is_known(&self, flow: &FlowKey, isn: Seq, peer: Addr) -> bool {
        let known = match self.filter.adoption(flow) {
            Ok(known) => known.filter(|known| known.client_isn == isn),
            // Not known: better to be asked again.
            Err(_) => return true,
        };
        match known.map(|known| (known.stage, known.track & track::ASK)) {
            // Both ask, while not all nodes know the same members: one of them only may go on.
            Some((stage::UNDECIDED, track::ASK)) => {
                Addr::from(self.address).bytes16() < peer.bytes16()
            }
            // Who has it is asked, too: or two nodes could leave it to each other.
            Some((stage::LEFT, _)) => false,
            // Of `HERE` no socket may have been made. Of no record: it may be a later request's, or have made room.
            Some((stage::HERE, _)) | None => {
                let alive = self.filter.alive(&[*flow]);
                alive.is_ok_and(|alive| alive == [true])
            }
            Some(_) => true,
        }
    }
}
