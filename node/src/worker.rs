//! The inspector at work: accepting connections, reading requests, deciding, handing over (DTS §2.1).
//!
//! A worker is a thread with an event loop of its own. With several workers, each has its own listening
//! socket of every service, and the kernel spreads connections over them.

mod visit;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use tokio::sync::watch::Receiver;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{interval, sleep};

use crate::current::{Current, InspectedService};
use crate::handover::Handovers;
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::socket::{acknowledge_at_once, defer_accept, watch};

use visit::Visit;

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

/// Keeps one listener for each inspected service of the configuration in use: another one when it is to speak first, or is
/// no longer.
async fn follow(mut current: Receiver<Arc<Current>>, handovers: Arc<Handovers>) {
    let mut listeners: HashMap<(SocketAddr, bool), JoinHandle<()>> = HashMap::new();
    loop {
        let wanted: Vec<_> = current
            .borrow_and_update()
            .inspected
            .iter()
            .map(|s| (address(s), s.service.greeting.is_some()))
            .collect();
        listeners.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for key in wanted {
            listeners.entry(key).or_insert_with(|| {
                spawn_local(accept_all(key.0, current.clone(), Arc::clone(&handovers)))
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
    if service.service.greeting.is_none() {
        defer_accept(&socket, DEFER)?;
    }
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
