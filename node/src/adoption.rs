//! The inspector of connections that are adopted: it reads copies of the client's segments, acknowledges nothing, and
//! sends them on to the node that shall have the connection.
//!
//! The filter leaves to it what it cannot decide by itself: rules that it can't look up, heads in several segments or of
//! an unusual form, services with an inspector of the program's own.

mod frames;
mod known;
mod outcome;
mod pending;
mod silent;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::SEND_ON;
use dts_core::entry::adoption::{Inquiry, asks};
use dts_core::segment::{FIN, RST};
use dts_core::seq::Seq;
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::current::{Current, InspectedService};
use crate::housekeeping::Housekeeper;
use crate::inspect::{ConnectionInfo, Decision, Reason};
use crate::kernel::Filter;
use crate::kernel::filter::adopt::read_inquiry;
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::socket::{Packets, watch_fd};
use crate::processes::{Consultation, Subject, Wake};
use crate::waiting::Waiter;

use frames::Maker;
use pending::{Pending, Progress};
use silent::Silent;

/// How many bytes of undecided requests are held in all. Beyond them new ones wait for their clients to repeat them.
const MOST_HELD: usize = 64 << 20;

/// How often the connections are looked at that are undecided for too long.
const PERIOD: Duration = Duration::from_millis(50);

/// How long a request may take to come without an acknowledgment: less than any client waits before it repeats something.
const SLOW: Duration = Duration::from_millis(150);

/// How long a node that did not answer is taken to be gone.
const GONE: Duration = Duration::from_secs(1);

/// How many records are taken before the limits have their turn.
const BATCH: usize = 256;

/// Why the inspector of adopted connections could not start.
#[derive(Debug, Error)]
pub enum AdoptionError {
    /// The filter's requests are somebody else's.
    #[error("the packet filter's requests are being read already")]
    Taken,
    /// A socket for frames could not be made.
    #[error("cannot open a packet socket")]
    Socket(#[source] io::Error),
    /// The thread or its event loop could not be made.
    #[error("cannot start the inspector of adopted connections")]
    Thread(#[source] io::Error),
}

/// How many connections there are and were.
#[derive(Debug, Default)]
pub struct AdoptionCounters {
    /// Undecided at present.
    pub undecided: AtomicU64,
    /// Decided by the daemon's inspector and sent on.
    pub sent_on: AtomicU64,
    /// Given to the inspector's socket, to be spliced: their requests took too long.
    pub by_socket: AtomicU64,
    /// Left to the node that had it before the members changed.
    pub left: AtomicU64,
    /// Not taken because too much was held.
    pub crowded: AtomicU64,
    /// Not handed over: the target does not answer.
    pub unreachable: AtomicU64,
}

/// The sockets for frames.
///
/// To be opened before all others: when a process dies, the kernel closes what was opened last first, and these keep it
/// waiting. A listener behind them would take connections meanwhile that nobody answers.
pub struct Frames {
    to_clients: Packets,
    to_nodes: Packets,
}

impl Frames {
    /// Opens them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open() -> Result<Self, AdoptionError> {
        let open = |mark| Packets::open(mark).map_err(AdoptionError::Socket);
        Ok(Self {
            to_clients: open(0)?,
            to_nodes: open(SEND_ON)?,
        })
    }
}

/// What the inspector needs of its node.
pub struct Adoptions {
    /// The filter.
    pub filter: Arc<Filter>,
    /// The configuration in use.
    pub current: Receiver<Arc<Current>>,
    /// The counters.
    pub counters: Arc<AdoptionCounters>,
    /// Whom to have ask other nodes.
    pub housekeeper: Arc<Housekeeper>,
    /// Where it does that.
    pub runtime: Handle,
    /// The front interface's index.
    pub front: u32,
    /// The back interface's index.
    pub back: u32,
    /// Where frames leave.
    pub frames: Frames,
}

impl Adoptions {
    /// Starts the inspector, which works until the daemon ends.
    ///
    /// # Errors
    ///
    /// When a socket or the thread can't be made.
    pub fn start(self) -> Result<(), AdoptionError> {
        let requests = self.filter.take_requests().ok_or(AdoptionError::Taken)?;
        let (answering, answers) = unbounded_channel();
        let work = Work {
            node: self,
            answering,
            undecided: HashMap::new(),
            held: 0,
            silent: HashMap::new(),
            gone: HashMap::new(),
            quiet: HashMap::new(),
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdoptionError::Thread)?;
        thread::Builder::new()
            .name("adoptions".to_owned())
            .spawn(move || runtime.block_on(work.go_on(requests, answers)))
            .map_err(AdoptionError::Thread)?;
        Ok(())
    }
}

/// A connection that is undecided.
struct Undecided {
    service: Arc<InspectedService>,
    maker: Maker,
    pending: Pending,
    client_isn: Seq,
    server_isn: Seq,
    terms: u32,
    waiter: Waiter,
    /// What a process is asked about it, where the service has such.
    consultation: Consultation,
    /// How many nodes have not said yet whether they know it.
    asking: usize,
    /// When its request is taken to be one that comes slowly.
    slow: Instant,
    deadline: Instant,
}

impl Undecided {
    /// Asks who decides about the service's connections: its inspector at once, a process that answers later, to
    /// `answering`. `over`: why the connection may not be undecided any longer.
    fn ask(
        &mut self,
        flow: &FlowKey,
        over: Option<Reason>,
        answering: &UnboundedSender<Answer>,
    ) -> Decision {
        let service = &self.service;
        let (bytes, ended) = (self.pending.bytes(), self.pending.is_ended());
        let info = ConnectionInfo {
            remote: SocketAddr::new(flow.remote.into(), flow.remote_port),
            local: SocketAddr::new(flow.local.into(), flow.local_port),
        };
        let full = bytes.len() >= service.service.undecided_bytes;
        let subject = Subject {
            flow,
            info: &info,
            bytes,
            last: full || ended,
        };
        let wake = || {
            let (answering, flow) = (answering.clone(), *flow);
            Wake::by(move || {
                // Nobody listens when the daemon ends.
                let _ = answering.send(Answer::Decided(flow));
            })
        };
        let decision = service.ask(&mut self.consultation, &subject, wake);
        if decision != Decision::NeedMore {
            return decision;
        }
        // A process says later what it makes of the last bytes.
        let at_once = service.processes.is_none();
        let reason = match over {
            _ if full && (at_once || over == Some(Reason::TooSlow)) => Reason::TooLong,
            _ if ended && at_once => Reason::Ended,
            Some(reason) => reason,
            None => return Decision::NeedMore,
        };
        self.consultation.overdue(reason);
        service.counters.count_overdue(reason);
        service.rules.overdue(reason)
    }
}

struct Work {
    node: Adoptions,
    /// Where answers come in.
    answering: UnboundedSender<Answer>,
    undecided: HashMap<FlowKey, Undecided>,
    /// Bytes of all of them.
    held: usize,
    silent: HashMap<FlowKey, Silent>,
    /// Nodes that did not answer, and until when they are taken to be gone.
    gone: HashMap<Addr, Instant>,
    /// Nodes that did not say what they know, and until when they aren't asked again.
    quiet: HashMap<Addr, Instant>,
}

/// What another node says, or an inspector process.
enum Answer {
    /// Whether it has the connection that it was given.
    Has(FlowKey, Option<bool>),
    /// Whether it knows a connection.
    Knows(FlowKey, Seq, Addr, Option<bool>),
    /// A process has decided about a connection.
    Decided(FlowKey),
}

impl Work {
    async fn go_on(
        mut self,
        mut requests: RingBuf<MapData>,
        mut answers: UnboundedReceiver<Answer>,
    ) {
        let ready = requests.as_fd().try_clone_to_owned().and_then(watch_fd);
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!("cannot wait for the filter's requests: {error}");
                return;
            }
        };
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answering = self.answering.clone();
        loop {
            tokio::select! {
                () = wait(&ready) => {}
                _ = ticks.tick() => self.end_overdue(),
                Some(answer) = answers.recv() => match answer {
                    Answer::Has(flow, here) => self.heed(&flow, here),
                    Answer::Knows(flow, isn, peer, known) => {
                        self.heed_known(&flow, isn, (peer, known));
                    }
                    Answer::Decided(flow) => self.decide(&flow, None),
                },
            }
            for _ in 0..BATCH {
                let Some(record) = requests.next() else { break };
                match read_inquiry(&record) {
                    Some((inquiry, data)) if inquiry.asks == asks::SILENT => {
                        self.ask_target(&inquiry, data, &answering);
                    }
                    Some((inquiry, data)) => self.take(&inquiry, data, &answering),
                    None => tracing::error!("a request of {} bytes from the filter", record.len()),
                }
            }
        }
    }

    /// Takes a client's segment.
    fn take(&mut self, inquiry: &Inquiry, data: &[u8], answering: &UnboundedSender<Answer>) {
        let flow = inquiry.flow;
        if inquiry.flags & RST != 0 {
            if let Some(gone) = self.remove(&flow) {
                gone.service
                    .counters
                    .abandoned
                    .fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let known = self.undecided.get(&flow);
        if known.is_none_or(|u| u.server_isn != inquiry.server_isn) {
            if !self.begin(inquiry) {
                return;
            }
            if inquiry.asks == asks::KNOWN {
                self.ask_nodes(inquiry, answering);
            }
        }
        let Some(connection) = self.undecided.get_mut(&flow) else {
            return;
        };
        connection.maker.learn(inquiry);
        let before = connection.pending.held();
        let fin = inquiry.flags & FIN != 0;
        let progress = connection.pending.insert(inquiry.seq, data, fin);
        self.held += connection.pending.held() - before;
        match progress {
            Progress::More => self.decide(&flow, None),
            // The client learns what is missing, as from any receiver; acknowledged is nothing.
            Progress::Gap => self.ask_again(&flow),
            Progress::Nothing => {}
        }
    }

    /// Makes room for a new connection; `false` when there is none for it, or no service.
    fn begin(&mut self, inquiry: &Inquiry) -> bool {
        self.remove(&inquiry.flow);
        if self.held > MOST_HELD {
            self.node.counters.crowded.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let service = self.service(&inquiry.flow);
        let (Some(service), Ok(settings)) = (service, self.node.filter.node()) else {
            return false;
        };
        service.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let first = inquiry.client_isn.plus(1);
        let (waiter, gone) = service.waiting.enter(inquiry.flow);
        let connection = Undecided {
            maker: Maker::new(inquiry, &settings),
            pending: Pending::new(first, service.service.undecided_bytes),
            client_isn: inquiry.client_isn,
            server_isn: inquiry.server_isn,
            terms: inquiry.terms,
            waiter,
            consultation: Consultation::default(),
            asking: 0,
            slow: Instant::now() + SLOW,
            deadline: Instant::now() + service.service.undecided_time,
            service,
        };
        self.undecided.insert(inquiry.flow, connection);
        self.count();
        // Another thread's hears of it by itself.
        let must_go = |flow: &FlowKey| self.undecided.get(flow).is_some_and(|u| u.waiter.must_go());
        if let Some(gone) = gone.filter(must_go) {
            self.give_up(&gone, Reason::TooMany);
        }
        true
    }

    fn service(&self, flow: &FlowKey) -> Option<Arc<InspectedService>> {
        let current = self.node.current.borrow();
        let vip = IpAddr::from(flow.local);
        let mut inspected = current.inspected.iter();
        inspected
            .find(|s| s.service.vip == vip && s.service.port == flow.local_port)
            .cloned()
    }

    fn remove(&mut self, flow: &FlowKey) -> Option<Undecided> {
        let gone = self.undecided.remove(flow)?;
        self.held -= gone.pending.held();
        self.count();
        Some(gone)
    }

    fn count(&self) {
        let undecided = &self.node.counters.undecided;
        undecided.store(self.undecided.len() as u64, Ordering::Relaxed);
    }

    /// Asks the inspector, and carries out what it says. `over`: why the connection may not be undecided any longer.
    fn decide(&mut self, flow: &FlowKey, over: Option<Reason>) {
        let connection = self.undecided.get_mut(flow);
        let Some(connection) = connection.filter(|u| u.asking == 0) else {
            return;
        };
        let service = Arc::clone(&connection.service);
        let decision = connection.ask(flow, over, &self.answering);
        match decision {
            Decision::NeedMore => {}
            Decision::Reject(reason) => {
                tracing::debug!(%flow, %reason, "resetting a connection");
                self.reject(flow);
            }
            Decision::Handover(choice) => {
                service.counters.decided.fetch_add(1, Ordering::Relaxed);
                self.send_on(flow, &choice);
            }
        }
    }

    fn ask_again(&self, flow: &FlowKey) {
        let Some(connection) = self.undecided.get(flow) else {
            return;
        };
        let pending = &connection.pending;
        // Nothing is acknowledged, also of what is there without a gap: its sender must keep it.
        let whole = pending.bytes().len() as u32;
        let first = connection.client_isn.plus(1);
        let beginning = (whole > 0).then(|| (first, first.plus(whole)));
        let blocks = beginning.into_iter().chain(pending.early());
        let frame = connection.maker.duplicate_ack(blocks);
        if let Err(error) = self.to_client(&frame) {
            tracing::debug!(%flow, %error, "an acknowledgment was not sent");
        }
    }

    /// Ends what has been undecided for too long.
    fn end_overdue(&mut self) {
        let now = Instant::now();
        // First: a thread of the inspector's waits for their room.
        let over = |u: &Undecided| match u {
            u if u.waiter.must_go() => Some(Reason::TooMany),
            u if u.deadline <= now => Some(Reason::TooSlow),
            _ => None,
        };
        let all = self.undecided.iter();
        let overdue: Vec<_> = all
            .filter_map(|(flow, u)| Some((*flow, over(u)?)))
            .collect();
        for (flow, reason) in overdue {
            self.give_up(&flow, reason);
        }
        let slow: Vec<FlowKey> = self
            .undecided
            .iter()
            .filter(|(_, u)| u.asking == 0 && u.slow <= now && !u.pending.bytes().is_empty())
            .map(|(flow, _)| *flow)
            .collect();
        for flow in slow {
            self.give_to_socket(&flow);
        }
    }

    /// Does what the service says about a connection that may not be undecided any longer.
    fn give_up(&mut self, flow: &FlowKey, reason: Reason) {
        let Some(connection) = self.undecided.get(flow) else {
            return;
        };
        let counters = &connection.service.counters;
        if connection.asking > 0 {
            // Another node may have it, so it is neither reset nor given to a server: its client repeats its request.
            counters.count_overdue(reason);
            self.remove(flow);
        } else if connection.pending.bytes().is_empty() {
            // What its request begins with is missing: there is nothing that a server could be given.
            counters.count_overdue(reason);
            self.reject(flow);
        } else {
            self.decide(flow, Some(reason));
        }
    }
}

fn now_ms() -> u32 {
    (monotonic_ns() / 1_000_000) as u32
}

/// Waits until the filter has written something.
async fn wait(ready: &AsyncFd<std::os::fd::OwnedFd>) {
    if let Ok(mut guard) = ready.readable().await {
        guard.clear_ready();
    }
}
