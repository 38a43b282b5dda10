//! A program's attachment to a service, and the connections that it decides about.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::protocol::{MAX_TO_PROCESS, ToDaemon, ToProcess, VERSION, WireTarget, next_frame};
use crate::state::State;
use crate::{Cluster, Error, Target, Token};

/// Where daemons keep their sockets unless their configuration says otherwise; the environment variable `DTS_RUN_DIR`
/// goes before it.
pub const RUN_DIR: &str = "/run/dts";

/// How long the daemon may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// How much is read from the daemon at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// Where the daemon listens for a service's inspectors: `service` itself when it has a slash in it, else
/// `<run directory>/<service>.inspector.sock`.
#[must_use]
pub fn socket_path(service: &str) -> PathBuf {
    if service.contains('/') {
        return service.into();
    }
    let run_dir = std::env::var_os("DTS_RUN_DIR").unwrap_or_else(|| RUN_DIR.into());
    Path::new(&run_dir).join(format!("{service}.inspector.sock"))
}

/// An attachment to a service of this node's daemon.
///
/// Dropping it ends the attachment; connections that are undecided get the service's fate.
///
/// Its descriptor ([`AsFd`]) is for `poll` and its kin: it can be read when [`accept`](Self::accept) or
/// [`ready`](Self::ready) has something, or when the daemon has gone. Nothing but the library may read from it.
#[derive(Debug)]
pub struct Inspector {
    shared: Arc<Shared>,
    service: String,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when a connection has arrived.
    arrivals: Condvar,
    /// Its count isn't 0 while the state has news.
    event: OwnedFd,
    socket: UnixStream,
    /// Messages leave one by one.
    sending: Mutex<()>,
    nonblocking: AtomicBool,
}

/// What the daemon sends, frame by frame.
struct Incoming {
    socket: UnixStream,
    buffer: VecDeque<u8>,
}

impl Incoming {
    /// Has `take` read the next message; `None` when the daemon has closed.
    fn next<T>(
        &mut self,
        take: impl FnOnce(ToProcess<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        loop {
            let buffered = self.buffer.make_contiguous();
            if let Some((frame, length)) = next_frame(buffered, MAX_TO_PROCESS)? {
                let taken = take(ToProcess::parse(frame)?)?;
                self.buffer.drain(..length);
                return Ok(Some(taken));
            }
            // Only here: most messages came with the one before.
            let mut chunk = [0; CHUNK];
            match self.socket.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self.buffer.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Inspector {
    /// Attaches to a service by its name, or by the path of its socket (anything with a slash in it).
    ///
    /// # Errors
    ///
    /// When no daemon answers there or this user may not ask it ([`Error::Connect`]), or when the daemon refuses.
    pub fn attach(service: &str) -> Result<Self, Error> {
        let path = socket_path(service);
        let socket =
            UnixStream::connect(&path).map_err(|source| Error::Connect { path, source })?;
        let mut hello = Vec::new();
        let message = ToDaemon::Hello {
            version: VERSION,
            service: if service.contains('/') { "" } else { service },
        };
        message.emit(&mut hello);
        send_all(&socket, &hello)?;
        socket.set_read_timeout(Some(GREETING))?;
        let mut incoming = Incoming {
            socket: socket.try_clone()?,
            buffer: VecDeque::new(),
        };
        let service = incoming.next(|message| match message {
            ToProcess::Welcome { service, .. } => Ok(service.to_owned()),
            ToProcess::Refused { reason, .. } => Err(Error::Refused(reason)),
            _ => Err(Error::Gone),
        })?;
        let cluster = incoming.next(|message| match message {
            ToProcess::Cluster(cluster) => Ok(cluster),
            _ => Err(Error::Gone),
        })?;
        let (Some(service), Some(cluster)) = (service, cluster) else {
            return Err(Error::Gone);
        };
        socket.set_read_timeout(None)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(cluster)),
            arrivals: Condvar::new(),
            event: event.map_err(io::Error::from)?,
            socket,
            sending: Mutex::new(()),
            nonblocking: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        thread::Builder::new()
            .name("dts-inspector".to_owned())
            .spawn(move || listening.listen(incoming))?;
        Ok(Self { shared, service })
    }

    /// The service that it is attached to.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The cluster as it is now: members, and the ring of requests.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.shared.state().cluster)
    }

    /// Says whether [`accept`](Self::accept) and reading from connections wait until there is something.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.shared
            .nonblocking
            .store(nonblocking, Ordering::Relaxed);
    }

    /// The next connection whose client has sent something.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when the attachment is over, [`Error::WouldBlock`] when it doesn't block and there is none.
    pub fn accept(&self) -> Result<Connection, Error> {
        let shared = &self.shared;
        let mut state = shared.state();
        loop {
            match state.accept() {
                Ok(id) => {
                    let (client, local) = state.open(id).map(|c| (c.client, c.local))?;
                    shared.signal(&mut state);
                    return Ok(Connection {
                        shared: Arc::clone(shared),
                        id,
                        client,
                        local,
                    });
                }
                Err(Error::WouldBlock) if !shared.nonblocking.load(Ordering::Relaxed) => {
                    state = shared
                        .arrivals
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next of the accepted connections that has something to read, or is over; each is named once for each time
    /// that something came. Never waits.
    ///
    /// # Errors
    ///
    /// As of [`accept`](Self::accept).
    pub fn ready(&self) -> Result<Token, Error> {
        let mut state = self.shared.state();
        let ready = state.ready().map(Token);
        self.shared.signal(&mut state);
        ready
    }

    /// Ends the attachment, as dropping does. Whoever waits for something of it gets [`Error::Gone`].
    pub fn detach(&self) {
        // The thread that listens reads the end, and tells everybody.
        let _ = shutdown(&self.shared.socket, Shutdown::Both);
    }
}

impl AsFd for Inspector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        self.detach();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable while there are news, and not otherwise.
    fn signal(&self, state: &mut State) {
        let news = state.has_news();
        if std::mem::replace(&mut state.signalled, news) == news {
            return;
        }
        // Neither fails: the counter goes from 0 to 1 and back.
        if news {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        } else {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
    }

    /// Takes note of what the daemon says until it ends.
    fn listen(&self, mut incoming: Incoming) {
        loop {
            let next = incoming.next(|message| {
                let mut state = self.state();
                let (arrived, news) = state.handle(message)?;
                self.signal(&mut state);
                drop(state);
                if arrived {
                    self.arrivals.notify_one();
                }
                if let Some(news) = news {
                    news.notify_all();
                }
                Ok(())
            });
            if !matches!(next, Ok(Some(()))) {
                break;
            }
        }
        let _ = shutdown(&self.socket, Shutdown::Both);
        let mut state = self.state();
        let waiting = state.close();
        self.signal(&mut state);
        drop(state);
        self.arrivals.notify_all();
        waiting.iter().for_each(|news| news.notify_all());
    }

    fn tell(&self, message: &ToDaemon<'_>) -> Result<(), Error> {
        let mut frame = Vec::new();
        message.emit(&mut frame);
        let _one = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        send_all(&self.socket, &frame).map_err(|_| Error::Gone)
    }
}

/// Like `write_all`, but without a SIGPIPE: a program in C may not expect one.
fn send_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A client's connection that is undecided.
///
/// Dropping it leaves it undecided at once: see [`leave`](Self::leave).
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    id: u64,
    client: SocketAddr,
    local: SocketAddr,
}

impl Connection {
    /// The client's address.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The service's address: VIP and port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What [`Inspector::ready`] calls it.
    #[must_use]
    pub fn token(&self) -> Token {
        Token(self.id)
    }

    /// Reads what the client has sent, from its first byte on; waits for more when all has been read. 0 when nothing
    /// more will be shown: the client has closed its side, or has sent as much as it may (`undecided_bytes`).
    ///
    /// # Errors
    ///
    /// When the connection is over or has been decided about; [`Error::WouldBlock`] when the inspector doesn't block.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut state = self.shared.state();
        loop {
            match state.read(self.id, buffer) {
                Err(Error::WouldBlock) if !self.shared.nonblocking.load(Ordering::Relaxed) => {
                    let news = state.news(self.id).ok_or(Error::Decided)?;
                    state = news.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                outcome => return outcome,
            }
        }
    }

    /// Has the connection handed over to `target` (DTS §2.1, Fig. 3). `request` is what has been read from it, all of it:
    /// it can't be changed on the way.
    ///
    /// Returns when the daemon has been told. Should the target turn out to be gone, the service's `on_unreachable` says
    /// what happens.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`] and [`Error::OtherRequest`]: nothing has happened, another attempt may be made. Any other: the
    /// connection is over, or has been decided about.
    pub fn request_handover(&self, target: Target<'_>, request: &[u8]) -> Result<(), Error> {
        let (length, target) = {
            let state = self.shared.state();
            let connection = state.open(self.id)?;
            if connection.request() != request {
                return Err(Error::OtherRequest);
            }
            let target = match target {
                Target::Default => WireTarget::Default,
                Target::Local => WireTarget::Local,
                Target::Node(name) => match state.cluster.member(name) {
                    Some(member) => WireTarget::Node(member.address),
                    None => return Err(Error::NoNode(name.to_owned())),
                },
            };
            (request.len() as u32, target)
        };
        let id = self.id;
        self.decide(&ToDaemon::Handover { id, length, target })
    }

    /// Has the client get a reset.
    ///
    /// # Errors
    ///
    /// When the connection is over, or has been decided about.
    pub fn reject(&self) -> Result<(), Error> {
        self.decide(&ToDaemon::Reject { id: self.id })
    }

    /// Leaves the connection to what the service's `on_undecided` says.
    ///
    /// # Errors
    ///
    /// When the connection is over, or has been decided about.
    pub fn leave(&self) -> Result<(), Error> {
        self.decide(&ToDaemon::Leave { id: self.id })
    }

    fn decide(&self, message: &ToDaemon<'_>) -> Result<(), Error> {
        let mut state = self.shared.state();
        state.open(self.id)?;
        let news = state.forget(self.id);
        self.shared.signal(&mut state);
        drop(state);
        if let Some(news) = news {
            // Another thread may be waiting for more.
            news.notify_all();
        }
        self.shared.tell(message)
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer).map_err(Into::into)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.leave().is_err() {
            // Over already; what is known of it goes, too.
            let mut state = self.shared.state();
            state.forget(self.id);
            self.shared.signal(&mut state);
        }
    }
}
