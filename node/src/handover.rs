//! Carrying a connection over to the node that should have it (DTS §2.2): `request_handover`.
//!
//! # The order of things
//!
//! 1. A TCP connection is opened from this node's back address to the target's handover port. The filter
//!    makes its SYN the client's, so the target's server accepts the client's connection.
//!    (A service whose server greets: the greeting comes by the handover connection and is compared with the one that the
//!    client was given, `greeting.rs`.)
//! 2. The target's SYN-ACK freezes the client's connection here, in the filter: from that packet on the
//!    inspector's socket acknowledges nothing more to the client, whose further segments the target
//!    takes. As long as the handover can fail, the client therefore has a live inspector.
//! 3. What the inspector's socket acknowledged but nobody has read yet is added to the request, and
//!    the socket is closed without a segment leaving the node.
//! 4. The filter is told where the request ends, and the request is sent.
//! 5. When the target's server has it all, the target's filter sends the FIN that ends the handover
//!    connection. It ends here without an answer, and its socket rests for another handover.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dts_core::addr::Addr;
use dts_core::entry::{ConnKey, Handover, SweepRecord, flag, role, state, sweep};
use tokio::io::Interest;
use tokio::time::error::Elapsed;
use tokio::time::{interval, timeout};

use crate::kernel::{Filter, socket};

mod carrier;
mod greeting;
mod outcome;
mod pool;
mod undecided;

use carrier::Carrier;
pub use greeting::GreetingError;
pub use outcome::{HandoverCounters, HandoverError};
use pool::SocketPool;
pub use undecided::{Read, Undecided};

/// How long each attempt to reach a target waits before the next one; after the last one the target
/// counts as gone. An attempt costs one SYN. Where one of fifty frames is lost, one attempt of 25 fails, and
/// a target that lives is taken for one that is gone once in 400,000 handovers. The last waits for the slow.
const ATTEMPTS: [Duration; 4] = [
    Duration::from_millis(75),
    Duration::from_millis(75),
    Duration::from_millis(100),
    Duration::from_millis(500),
];

/// A request that surely fits into one segment.
const ONE_SEGMENT: usize = 1200;

/// How long the target's server may take to acknowledge a whole request before the handover is given up.
const COMPLETION: Duration = Duration::from_secs(30);

/// How often a handover that takes long is looked at: whether its connection is over.
const GLANCE: Duration = Duration::from_secs(2);

/// The longest that a handover takes from the target's answer on, greeting included.
pub(crate) const LONGEST: Duration = COMPLETION.saturating_add(greeting::PATIENCE);

/// How often idle sockets are looked for.
const TIDY: Duration = Duration::from_millis(500);

/// Where a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// This node's own server.
    Own,
    /// The server of the node with this back address.
    Node(IpAddr),
}

/// Hands connections over to their processing nodes.
pub struct Handovers {
    filter: Arc<Filter>,
    pool: SocketPool,
    self_address: IpAddr,
    port: u16,
    counters: HandoverCounters,
}

impl Handovers {
    /// Handovers from the node with back address `address`; `self_address`, of its family, stands for the node itself, and
    /// `port` is the cluster's handover port.
    #[must_use]
    pub fn new(filter: Arc<Filter>, address: IpAddr, self_address: IpAddr, port: u16) -> Self {
        Self {
            filter,
            pool: SocketPool::new(address),
            self_address,
            port,
            counters: HandoverCounters::default(),
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &HandoverCounters {
        &self.counters
    }

    /// How many handovers have begun and not ended.
    #[must_use]
    pub fn in_progress(&self) -> u64 {
        let started = self.counters.started.load(Ordering::Relaxed);
        let failed: u64 = self.counters.failures().map(|(_, count)| count).sum();
        started.saturating_sub(self.counters.done.load(Ordering::Relaxed) + failed)
    }

    /// Closes idle sockets until dropped: without it the last handovers' sockets stay for the next ones.
    pub async fn tidy_for_ever(&self) {
        let mut ticks = interval(TIDY);
        loop {
            ticks.tick().await;
            self.pool.tidy(Instant::now());
        }
    }

    /// Hands a connection over to the server of `destination`, with what was read from it as the
    /// beginning of its request (DTS §2.1, Fig. 3). Returns when the server has the whole request.
    ///
    /// # Errors
    ///
    /// With the connection, when no server has seen it and another destination may be tried, or the
    /// client be [reset](Self::reset). Without it when the handover failed later: then the client has
    /// been reset, or is served.
    pub async fn request_handover(
        &self,
        connection: Undecided,
        destination: Destination,
    ) -> Result<(), (HandoverError, Option<Undecided>)> {
        self.counters.started.fetch_add(1, Ordering::Relaxed);
        let result = match self.connect(&connection, destination).await {
            // The earlier ones are known until all is over: the target may answer them late.
            Ok((carrier, _earlier)) => self.go_on(connection, carrier).await.map_err(|e| (e, None)),
            Err(e) if e.allows_another_target() => Err((e, Some(connection))),
            Err(e) => {
                self.reset(connection);
                Err((e, None))
            }
        };
        let counter = match &result {
            Ok(()) => &self.counters.done,
            Err((error, _)) => self.counters.failed(error),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Opens the handover connection: the target's server has accepted the client's connection then. With it those that were
    /// tried before.
    async fn connect(
        &self,
        connection: &Undecided,
        destination: Destination,
    ) -> Result<(Carrier<'_>, Vec<Carrier<'_>>), HandoverError> {
        let (target, own) = match destination {
            Destination::Own => (self.self_address, true),
            Destination::Node(address) => (address, false),
        };
        let mut handover = Handover {
            flow: connection.flow,
            target: Addr::from(target),
            flags: if own { flag::SELF } else { 0 },
            request_len: 0,
            // The configuration's limit is far below 4 GiB.
            greeting: connection.greeting.len() as u32,
        };
        // Right already, unless more arrives until the target has answered.
        set_request_end(&mut handover, connection);
        let to = SocketAddr::new(target, self.port);
        let mut earlier: Vec<Carrier<'_>> = Vec::new();
        for patience in ATTEMPTS {
            let mut carrier =
                Carrier::new(&self.filter, &self.pool, handover).map_err(HandoverError::Local)?;
            let begun = carrier.begin(to);
            // From this attempt's SYN on, the filter hears no answer to an earlier one.
            earlier.iter_mut().for_each(Carrier::give_up);
            let connected = match begun {
                Ok(false) => carrier.connect(patience).await,
                begun => begun,
            };
            match connected {
                Ok(true) => return Ok((carrier, earlier)),
                Ok(false) => earlier.push(carrier),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(HandoverError::Refused);
                }
                Err(e) if is_unreachable(&e) => break,
                Err(e) => return Err(HandoverError::Local(e)),
            }
        }
        // An answer that has just come must not end with a FIN.
        earlier.iter_mut().for_each(Carrier::give_up);
        Err(HandoverError::Unreachable(ATTEMPTS.iter().sum()))
    }

    /// Compares the greeting, where there is one, and completes the handover.
    async fn go_on(
        &self,
        connection: Undecided,
        mut carrier: Carrier<'_>,
    ) -> Result<(), HandoverError> {
        if !connection.greeting.is_empty()
            && let Err(error) = greeting::compare(&mut carrier, &connection.greeting).await
        {
            carrier.abort();
            self.reset(connection);
            return Err(error);
        }
        self.complete(connection, carrier).await
    }

    /// Sends the request and waits until the target's server has all of it.
    async fn complete(
        &self,
        mut connection: Undecided,
        mut carrier: Carrier<'_>,
    ) -> Result<(), HandoverError> {
        let drained = connection.drain();
        let mut handover = *carrier.handover();
        set_request_end(&mut handover, &connection);
        let request = std::mem::take(&mut connection.request);
        let greeted = !connection.greeting.is_empty();
        if drained.is_err() || !greeted {
            // Whatever happens now, the inspector's socket must not speak to the client again.
            let silent = socket::close_silently(connection.socket);
            if drained.is_err() {
                // The target has seen the client's reset, too.
                carrier.abort();
                return Err(HandoverError::ClientGone);
            }
            silent.map_err(HandoverError::Local)?;
            carrier.update(handover);
            return send(carrier, &request, greeted).await;
        }
        // A server that greets may go on with its greeting when the whole has been compared: then the client must be reset.
        carrier.update(handover);
        let outcome = send(carrier, &request, greeted).await;
        match outcome {
            Ok(()) => drop(socket::close_silently(connection.socket)),
            Err(_) => self.reset(connection),
        }
        outcome
    }

    /// Resets a client's connection that has not been handed over.
    pub fn reset(&self, connection: Undecided) {
        let key = ConnKey {
            flow: connection.flow,
            role: role::INSPECTING,
        };
        let entry = self.filter.connection(&key).ok().flatten();
        if entry.is_some_and(|entry| entry.state == state::PLACED) {
            // It has been handed over meanwhile.
            let _ = socket::close_silently(connection.socket);
            return;
        }
        if let Some(mut entry) = entry
            && entry.state == state::FROZEN
        {
            // A target answered, but too late. Without this the reset would not leave the node.
            entry.state = state::INSPECT;
            let _ = self.filter.replace_connection(&key, &entry);
        }
        let _ = connection.socket.set_linger(Some(Duration::ZERO));
        drop(connection);
        if let Some(entry) = entry {
            let mut record = [SweepRecord {
                key,
                client_isn: entry.client_isn,
                value: sweep::DELETE_ALWAYS,
            }];
            // Otherwise the next sweep finds it.
            let _ = self.filter.sweep(&mut record);
        }
    }
}

/// Sends a whole request, to a server that has `greeted` or to one that doesn't.
async fn send(
    mut carrier: Carrier<'_>,
    request: &[u8],
    greeted: bool,
) -> Result<(), HandoverError> {
    if request.len() > ONE_SEGMENT {
        // Otherwise the last segment waits until the others are acknowledged.
        carrier
            .socket()
            .and_then(|socket| socket.set_tcp_nodelay(true))
            .map_err(HandoverError::Local)?;
    }
    let mut rest = request;
    let outcome = match carrier.send(&mut rest) {
        // Most often; a timer for it would only be taken down again.
        Ok(None) => Ok(Ok(())),
        Ok(Some(interest)) => wait_for_the_end(&mut carrier, &mut rest, interest).await,
        Err(e) => Ok(Err(e)),
    };
    let error = match outcome {
        Ok(Ok(())) if !greeted => return carrier.close().map_err(HandoverError::Local),
        // Such a server may say more than its greeting, or close its side: neither is the end of the handover. And if it
        // has ended, the client is served, whatever becomes of this socket.
        _ if greeted && carrier.is_complete() => {
            let _ = carrier.close();
            return Ok(());
        }
        Ok(Ok(())) => HandoverError::Greeting(GreetingError::Closed),
        Ok(Err(e)) if greeted && e.kind() == io::ErrorKind::InvalidData => {
            HandoverError::Greeting(GreetingError::GoesOn)
        }
        Ok(Err(e)) => return Err(HandoverError::ResetByTarget(e)),
        Err(_) => HandoverError::Incomplete(COMPLETION),
    };
    carrier.abort();
    Err(error)
}

/// Sends the rest of a request and waits until the target's server has all of it, for [`COMPLETION`] at the most.
///
/// The segment that would say so may be lost, and the connection over before the request is repeated: then nobody answers
/// any more, but the target's node has told this one's housekeeper.
async fn wait_for_the_end(
    carrier: &mut Carrier<'_>,
    rest: &mut &[u8],
    interest: Interest,
) -> Result<io::Result<()>, Elapsed> {
    let deadline = Instant::now() + COMPLETION;
    loop {
        match timeout(GLANCE, carrier.send_rest(rest, interest)).await {
            Err(_) if carrier.is_over() => return Ok(Ok(())),
            Err(elapsed) if Instant::now() >= deadline => return Err(elapsed),
            Err(_) => {}
            Ok(sent) => return Ok(sent),
        }
    }
}

/// Notes where the request ends, and whether the client's FIN ends it.
fn set_request_end(handover: &mut Handover, connection: &Undecided) {
    handover.flags |= flag::REQUEST_END;
    handover.request_len = connection.request.len() as u32;
    if connection.half_closed {
        handover.flags |= flag::HALF_CLOSED;
        handover.request_len += 1;
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::TimedOut
            | io::ErrorKind::ConnectionReset
    )
}
