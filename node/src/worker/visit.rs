//! One connection at the inspector: reading its request, having it decided about, handing it over.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use socket2::Socket;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Fate;
use crate::current::{Current, InspectedService};
use crate::handover::{Destination, HandoverError, Handovers, Read, Undecided};
use crate::inspect::{ConnectionInfo, Decision, Reason, TargetChoice};
use crate::kernel::socket::{acknowledge_at_once, watch};
use crate::placement::NodeIndex;
use crate::processes::{Consultation, Subject, Wake};
use crate::waiting::Waiter;

/// How long to wait at the most before looking again whether a client has its greeting.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What a process is asked about a visit's connection, and how its answer is waited for.
#[derive(Default)]
struct Asking {
    consultation: Consultation,
    answered: Arc<Notify>,
}

/// One connection at the inspector.
pub(super) struct Visit {
    pub(super) current: Arc<Current>,
    pub(super) service: Arc<InspectedService>,
    pub(super) handovers: Arc<Handovers>,
    pub(super) remote: SocketAddr,
}

impl Visit {
    pub(super) async fn run(self, socket: Socket) {
        let (vip, port) = (self.service.service.vip, self.service.service.port);
        let flow = FlowKey {
            remote: Addr::from(self.remote.ip()),
            local: Addr::from(vip),
            remote_port: self.remote.port(),
            local_port: port,
        };
        let mut connection = Undecided::new(socket, flow);
        let info = ConnectionInfo {
            remote: self.remote,
            local: SocketAddr::new(vip, port),
        };
        let deadline = Instant::now() + self.service.service.undecided_time;
        let decision = match self.greet(&mut connection) {
            Ok(()) => self.decide_greeted(&mut connection, &info, deadline).await,
            Err(_) => None,
        };
        match decision {
            Some(Decision::Handover(choice)) => {
                self.service
                    .counters
                    .decided
                    .fetch_add(1, Ordering::Relaxed);
                self.hand_over(connection, &choice).await;
            }
            Some(Decision::Reject(reason)) => {
                tracing::debug!(remote = %self.remote, %reason, "resetting a connection");
                self.reject(connection);
            }
            Some(Decision::NeedMore) | None => {
                self.service
                    .counters
                    .abandoned
                    .fetch_add(1, Ordering::Relaxed);
                self.handovers.reset(connection);
            }
        }
    }

    /// Speaks first where the service's servers do (DTS §2.6).
    fn greet(&self, connection: &mut Undecided) -> io::Result<()> {
        match &self.service.service.greeting {
            Some(greeting) => connection.greet(greeting.bytes()),
            None => Ok(()),
        }
    }

    /// Has the inspector decide, and waits until the client has acknowledged the greeting: mostly it has when its request is
    /// here. `None` when the client left. Until both is done the connection is undecided.
    async fn decide_greeted(
        &self,
        connection: &mut Undecided,
        info: &ConnectionInfo,
        deadline: Instant,
    ) -> Option<Decision> {
        let mut waiter = None;
        let decision = self.decide(connection, info, deadline, &mut waiter).await?;
        let mut pause = Duration::from_millis(1);
        while matches!(decision, Decision::Handover(_)) && !connection.is_greeted().ok()? {
            let waiter = waiter.get_or_insert_with(|| self.enter(connection));
            let over = match Instant::now() >= deadline {
                true => Some(Reason::TooSlow),
                false => waiter.must_go().then_some(Reason::TooMany),
            };
            if let Some(reason) = over {
                // No server could be given it either: nobody would repeat the greeting.
                self.service.counters.count_overdue(reason);
                return Some(Decision::Reject(reason));
            }
            tokio::select! {
                () = waiter.dismissed() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Some(decision)
    }

    /// A place for a connection among the undecided ones.
    fn enter(&self, connection: &Undecided) -> Waiter {
        // Whoever has to go for it hears of it by itself.
        let (waiter, _) = self.service.waiting.enter(*connection.flow());
        waiter
    }

    /// Reads until the inspector decides, or the service's limits do; `None` when the client left.
    async fn decide(
        &self,
        connection: &mut Undecided,
        info: &ConnectionInfo,
        deadline: Instant,
        waiter: &mut Option<Waiter>,
    ) -> Option<Decision> {
        let service = &self.service.service;
        let mut asking = Asking::default();
        let mut waiting = None;
        loop {
            let read = connection.read(service.undecided_bytes).ok()?;
            let full = connection.request().len() >= service.undecided_bytes;
            let last = full || read == Read::End;
            if !connection.request().is_empty() {
                match self.inspect(&mut asking, connection, info, last) {
                    Decision::NeedMore => {}
                    decision => return Some(decision),
                }
            }
            let late = Instant::now() >= deadline;
            // A process says later what it makes of the last bytes.
            let at_once = self.service.processes.is_none();
            let empty = connection.request().is_empty();
            let too_many = waiter.as_ref().is_some_and(Waiter::must_go);
            let over = match read {
                _ if full && (at_once || late) => Some(Reason::TooLong),
                Read::End if at_once || empty => Some(Reason::Ended),
                _ if too_many => Some(Reason::TooMany),
                _ if late => Some(Reason::TooSlow),
                _ => None,
            };
            if let Some(reason) = over {
                asking.consultation.overdue(reason);
                return self.overdue(connection, reason);
            }
            // Only a connection whose request comes in parts is waited for: most don't get here. Its
            // client may wait for an acknowledgment before it sends the next part (RFC 1122 §4.2.3.4).
            acknowledge_at_once(connection.socket(), true).ok()?;
            let readable = match waiting.take() {
                Some(readable) => readable,
                None => {
                    let duplicate = connection.socket().try_clone().ok()?;
                    watch(duplicate, Interest::READABLE).ok()?
                }
            };
            let place = waiter.get_or_insert_with(|| self.enter(connection));
            tokio::select! {
                () = place.dismissed() => {}
                // The end of the client's side would be there again at once.
                ready = readable.readable(), if !last => ready.ok()?.clear_ready(),
                () = asking.answered.notified() => {}
                () = sleep_until(deadline) => {}
            }
            waiting = Some(readable);
        }
    }

    /// What becomes of a connection that may not be undecided any longer; `None` when its client left.
    fn overdue(&self, connection: &Undecided, reason: Reason) -> Option<Decision> {
        let empty = connection.request().is_empty();
        if empty && reason == Reason::Ended {
            return None;
        }
        self.service.counters.count_overdue(reason);
        Some(if empty {
            // Without a byte there is no request that a server could be given.
            Decision::Reject(reason)
        } else {
            self.service.rules.overdue(reason)
        })
    }

    /// Asks who decides about this service's connections.
    fn inspect(
        &self,
        asking: &mut Asking,
        connection: &Undecided,
        info: &ConnectionInfo,
        last: bool,
    ) -> Decision {
        let subject = Subject {
            flow: connection.flow(),
            info,
            bytes: connection.request(),
            last,
        };
        let wake = || {
            let answered = Arc::clone(&asking.answered);
            Wake::by(move || answered.notify_one())
        };
        self.service.ask(&mut asking.consultation, &subject, wake)
    }

    /// Hands the connection over, to the default target where the chosen one is gone and the service
    /// says so.
    async fn hand_over(&self, connection: Undecided, choice: &TargetChoice) {
        let Some(first) = self.destination(choice) else {
            return self.fall_back(connection, None).await;
        };
        if let Some(connection) = self.hand_to(connection, first).await {
            self.fall_back(connection, Some(first.0)).await;
        }
    }

    async fn fall_back(&self, connection: Undecided, failed: Option<NodeIndex>) {
        let choice = self.service.rules.default_choice();
        let second = match self.service.service.on_unreachable {
            Fate::Default => self
                .destination(&choice)
                .filter(|(node, _)| Some(*node) != failed),
            Fate::Reset => None,
        };
        let left = match second {
            Some(second) => self.hand_to(connection, second).await,
            None => Some(connection),
        };
        if let Some(connection) = left {
            self.reject(connection);
        }
    }

    /// Hands the connection over to a node; the connection again when no server has seen it.
    async fn hand_to(
        &self,
        connection: Undecided,
        (node, destination): (NodeIndex, Destination),
    ) -> Option<Undecided> {
        let handed = self.handovers.request_handover(connection, destination);
        let (error, connection) = handed.await.err()?;
        match connection {
            None => self.report(&error, node),
            Some(_) => {
                tracing::debug!(remote = %self.remote, %error, "a handover found no server");
            }
        }
        connection
    }

    /// Tells of a handover to a node that ended its client's connection, too.
    fn report(&self, error: &HandoverError, node: NodeIndex) {
        let (remote, service) = (self.remote, &self.service.service.name);
        match (error, self.current.config.members.get(node.0 as usize)) {
            // It is the configuration's fault, and each connection's.
            (HandoverError::Greeting(error), Some(member))
                if self.service.greeting_told.allows() =>
            {
                tracing::warn!(service, node = %member.id, %remote, %error, "a greeting does not fit");
            }
            _ => tracing::debug!(%remote, %error, "a handover failed"),
        }
    }

    fn reject(&self, connection: Undecided) {
        self.service
            .counters
            .rejected
            .fetch_add(1, Ordering::Relaxed);
        self.handovers.reset(connection);
    }

    fn destination(&self, choice: &TargetChoice) -> Option<(NodeIndex, Destination)> {
        let (index, member) = self.current.placement.resolve(choice)?;
        let destination = if index == self.current.node() {
            Destination::Own
        } else {
            Destination::Node(member.address)
        };
        Some((index, destination))
    }
}
