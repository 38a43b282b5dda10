//! The inspector at work: accepting connections, reading requests, deciding, handing over (DTS §2.1).
//!
//! A worker is a thread with an event loop of its own. With several workers, each has its own listening
//! socket of every service, and the kernel spreads connections over them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::config::Fate;
use crate::current::{Current, InspectedService};
use crate::handover::{Destination, Handovers, Read, Undecided};
use crate::inspect::{ConnectionInfo, Decision, Reason, TargetChoice};
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::socket::{acknowledge_at_once, defer_accept, watch};
use crate::placement::NodeIndex;
use crate::processes::{Consultation, Subject, Wake};
use crate::waiting::Waiter;

/// The listening sockets' queue of connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// How long the kernel keeps a connection to itself that sends nothing.
const DEFER: Duration = Duration::from_secs(1);

/// How often a worker shows that its loop turns.
const BEAT: Duration = Duration::from_millis(100);

/// How many connections are accepted before those that wait have their turn.
const BATCH: u32 = 16;

/// How long to wait before trying again to listen or to accept, when the system refuses.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a worker could not start.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The listening socket could not be made.
    #[error("cannot listen for service {service} on its inspector's port {address}")]
    Listen {
        /// The service.
        service: String,
        /// The VIP and the inspector's port.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The thread or its event loop could not be made.
    #[error("cannot start an inspector thread")]
    Thread(#[source] io::Error),
}

/// When each worker's event loop last turned.
#[derive(Clone, Debug)]
pub struct Heartbeats(Arc<[AtomicU64]>);

impl Heartbeats {
    /// Those of so many workers, all alive now.
    #[must_use]
    pub fn new(workers: u16) -> Self {
        Self(
            (0..workers)
                .map(|_| AtomicU64::new(monotonic_ns()))
                .collect(),
        )
    }

    /// One worker's.
    #[must_use]
    pub fn of(&self, number: u16) -> Heartbeat {
        Heartbeat {
            all: self.clone(),
            number,
        }
    }

    /// Whether every worker's loop has turned within the last `time`.
    #[must_use]
    pub fn all_within(&self, time: Duration) -> bool {
        let now = monotonic_ns();
        self.0.iter().all(|beat| {
            Duration::from_nanos(now.saturating_sub(beat.load(Ordering::Relaxed))) <= time
        })
    }
}

/// One worker's heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    all: Heartbeats,
    number: u16,
}

impl Heartbeat {
    async fn go_on(self) {
        let mut ticks = interval(BEAT);
        loop {
            ticks.tick().await;
            if let Some(beat) = self.all.0.get(usize::from(self.number)) {
                beat.store(monotonic_ns(), Ordering::Relaxed);
            }
        }
    }
}

/// Starts a worker that follows `current` until the daemon ends.
///
/// # Errors
///
/// When the thread can't be made.
pub fn start(
    heartbeat: Heartbeat,
    current: Receiver<Arc<Current>>,
    handovers: Arc<Handovers>,
) -> Result<(), WorkerError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Thread)?;
    thread::Builder::new()
        .name(format!("inspector-{}", heartbeat.number))
        .spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                tokio::join!(follow(current, handovers), heartbeat.go_on())
            })
        })
        .map_err(WorkerError::Thread)?;
    Ok(())
}

/// Checks that every inspected service of a configuration can be listened for.
///
/// # Errors
///
/// With the first that can't be.
pub fn check(current: &Current) -> Result<(), WorkerError> {
    for service in &current.inspected {
        listen(service).map_err(|source| WorkerError::Listen {
            service: service.service.name.clone(),
            address: address(service),
            source,
        })?;
    }
    Ok(())
}

fn address(service: &InspectedService) -> SocketAddr {
    SocketAddr::new(service.service.vip, service.inspector_port)
}

/// Keeps one listener for each inspected service of the configuration in use.
async fn follow(mut current: Receiver<Arc<Current>>, handovers: Arc<Handovers>) {
    let mut listeners: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
    loop {
        let wanted: Vec<_> = current
            .borrow_and_update()
            .inspected
            .iter()
            .map(|s| address(s))
            .collect();
        listeners.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for address in wanted {
            listeners.entry(address).or_insert_with(|| {
                spawn_local(accept_all(address, current.clone(), Arc::clone(&handovers)))
            });
        }
        if current.changed().await.is_err() {
            return;
        }
    }
}

fn listen(service: &InspectedService) -> io::Result<Socket> {
    let domain = Domain::for_address(address(service));
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address(service).into())?;
    defer_accept(&socket, DEFER)?;
    socket.listen(BACKLOG)?;
    // Most requests are decided on at once, and then acknowledged by the server that has them. After
    // `listen`, which forgets it.
    acknowledge_at_once(&socket, false)?;
    Ok(socket)
}

async fn accept_all(
    address: SocketAddr,
    current: Receiver<Arc<Current>>,
    handovers: Arc<Handovers>,
) {
    loop {
        let service = {
            let current = current.borrow();
            current.inspected_at(address.ip(), address.port()).cloned()
        };
        let Some(service) = service else { return };
        let listener = listen(&service).and_then(|socket| watch(socket, Interest::READABLE));
        match listener {
            Ok(listener) => accept_from(&listener, address, &current, &handovers).await,
            Err(error) => {
                tracing::error!(
                    "cannot listen on {address} for {}: {error}",
                    service.service.name
                );
                sleep(PAUSE).await;
            }
        }
    }
}

/// Accepts until the service is gone or the listener fails.
async fn accept_from(
    listener: &AsyncFd<Socket>,
    address: SocketAddr,
    current: &Receiver<Arc<Current>>,
    handovers: &Arc<Handovers>,
) {
    loop {
        let Ok(mut ready) = listener.readable().await else {
            return;
        };
        let mut batch = 0;
        loop {
            batch += 1;
            if batch == BATCH {
                batch = 0;
                yield_now().await;
            }
            let accepted = match listener.get_ref().accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!("cannot accept on {address}: {error}");
                    sleep(PAUSE).await;
                    break;
                }
            };
            let current = Arc::clone(&current.borrow());
            let Some(service) = current.inspected_at(address.ip(), address.port()) else {
                return;
            };
            let service = Arc::clone(service);
            service.counters.accepted.fetch_add(1, Ordering::Relaxed);
            let (socket, remote) = accepted;
            let Some(remote) = remote.as_socket() else {
                continue;
            };
            let visit = Visit {
                current,
                service,
                handovers: Arc::clone(handovers),
                remote,
            };
            // Most visits end without a wait, and need no task of their own.
            let mut visit = Box::pin(visit.run(socket));
            let over = poll_fn(|context| Poll::Ready(visit.as_mut().poll(context).is_ready()));
            if !over.await {
                spawn_local(visit);
            }
        }
    }
}

/// What a process is asked about a visit's connection, and how its answer is waited for.
#[derive(Default)]
struct Asking {
    consultation: Consultation,
    answered: Arc<Notify>,
}

/// One connection at the inspector.
struct Visit {
    current: Arc<Current>,
    service: Arc<InspectedService>,
    handovers: Arc<Handovers>,
    remote: SocketAddr,
}

impl Visit {
    async fn run(self, socket: Socket) {
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
        let decision = self.decide(&mut connection, &info).await;
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

    /// Reads until the inspector decides, or the service's limits do; `None` when the client left.
    async fn decide(&self, connection: &mut Undecided, info: &ConnectionInfo) -> Option<Decision> {
        let service = &self.service.service;
        let deadline = Instant::now() + service.undecided_time;
        let mut asking = Asking::default();
        let mut waiting = None;
        let mut waiter: Option<Waiter> = None;
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
                asking.consultation.overdue();
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
            let place = waiter.get_or_insert_with(|| {
                // Whoever has to go for it hears of it by itself.
                let (waiter, _) = self.service.waiting.enter(*connection.flow());
                waiter
            });
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
        let (service, bytes) = (&self.service, connection.request());
        let Some(processes) = &service.processes else {
            return service.inspector.inspect(info, bytes);
        };
        let subject = Subject {
            flow: connection.flow(),
            info,
            bytes,
            last,
        };
        let wake = || {
            let answered = Arc::clone(&asking.answered);
            Wake::by(move || answered.notify_one())
        };
        let consultation = &mut asking.consultation;
        consultation.decide(processes, &service.rules, &subject, wake)
    }

    /// Hands the connection over, to the default target where the chosen one is gone and the service
    /// says so.
    async fn hand_over(&self, connection: Undecided, choice: &TargetChoice) {
        let Some((first, destination)) = self.destination(choice) else {
            return self.fall_back(connection, None).await;
        };
        match self
            .handovers
            .request_handover(connection, destination)
            .await
        {
            Ok(()) => {}
            Err((error, None)) => {
                tracing::debug!(remote = %self.remote, %error, "a handover failed");
            }
            Err((error, Some(connection))) => {
                tracing::debug!(remote = %self.remote, %error, "a handover found no server");
                self.fall_back(connection, Some(first)).await;
            }
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
        let Some((_, destination)) = second else {
            return self.reject(connection);
        };
        if let Err((error, connection)) = self
            .handovers
            .request_handover(connection, destination)
            .await
        {
            tracing::debug!(remote = %self.remote, %error, "the default target failed, too");
            if let Some(connection) = connection {
                self.reject(connection);
            }
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
