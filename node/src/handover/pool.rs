//! The sockets of handover connections that are over, for those to come.
//!
//! Most handovers take less than a millisecond. Making a socket, finding a free port for it and taking both down
//! again would be a good part of what they cost this node.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a port rests between two handovers: segments of the first that are still on their way between two
/// nodes arrive before the second begins. A segment that is later yet meets other sequence numbers.
const REST: Duration = Duration::from_millis(100);

/// How long a socket may rest before it is closed.
const IDLE: Duration = Duration::from_secs(1);

/// How long a socket may keep its port. A program that wants a port for itself, and finds it taken, finds it free when
/// it tries again.
const TERM: Duration = Duration::from_secs(5);

/// How many sockets may rest. More handovers than this in each [`REST`] find no rested socket and make new ones.
const MOST: usize = 2048;

/// One in so many of the files that this process may open may be a resting socket.
const SHARE: usize = 8;

/// A local port that a socket is bound to.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) number: u16,
    /// Whether the socket keeps it when it is disconnected.
    kept: bool,
    /// Since when the socket is bound to it.
    since: Instant,
}

/// A socket and its port.
pub(super) struct PortSocket {
    pub(super) socket: Socket,
    pub(super) port: Port,
}

/// Sockets of one address that rest, those that rest longest in front.
pub(super) struct SocketPool {
    address: IpAddr,
    /// How many may rest.
    most: usize,
    resting: Mutex<VecDeque<(Instant, PortSocket)>>,
}

impl SocketPool {
    pub(super) fn new(address: IpAddr) -> Self {
        let files = getrlimit(Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Self {
            address,
            most: MOST.min(files / SHARE),
            resting: Mutex::default(),
        }
    }

    fn resting(&self) -> MutexGuard<'_, VecDeque<(Instant, PortSocket)>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket that is bound and not connected.
    pub(super) fn take(&self, now: Instant) -> io::Result<PortSocket> {
        let rested = self
            .resting()
            .pop_front_if(|(since, _)| now.duration_since(*since) >= REST);
        match rested {
            Some((_, socket)) => Ok(socket),
            None => self.make(now),
        }
    }

    fn make(&self, now: Instant) -> io::Result<PortSocket> {
        let socket = Socket::new(
            Domain::for_address(SocketAddr::new(self.address, 0)),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.bind(&self.at(0))?;
        let local = socket.local_addr()?.as_socket();
        let number = local.ok_or(io::ErrorKind::AddrNotAvailable)?.port();
        Ok(PortSocket {
            socket,
            port: Port {
                number,
                kept: false,
                since: now,
            },
        })
    }

    fn at(&self, port: u16) -> socket2::SockAddr {
        SocketAddr::new(self.address, port).into()
    }

    /// Takes back a socket that is disconnected.
    pub(super) fn put_back(&self, mut socket: PortSocket, now: Instant) {
        let port = &mut socket.port;
        if now.duration_since(port.since) >= TERM {
            return;
        }
        if !port.kept {
            // A port that the kernel chose is given up with the connection; one that was asked for is kept.
            // Somebody else may have it by now.
            if socket.socket.bind(&self.at(port.number)).is_err() {
                return;
            }
            port.kept = true;
        }
        let mut resting = self.resting();
        if resting.len() < self.most {
            resting.push_back((now, socket));
        }
    }

    /// Closes the sockets that nobody has wanted for [`IDLE`].
    pub(super) fn tidy(&self, now: Instant) {
        loop {
            // One at a time: to close a socket takes longer than to look.
            let idle = self
                .resting()
                .pop_front_if(|(since, _)| now.duration_since(*since) >= IDLE);
            if idle.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    use rustix::net::connect_unspec;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    /// Connects a socket of the pool to a new listener, and puts it back.
    fn use_once(pool: &SocketPool, now: Instant) -> u16 {
        let taken = pool.take(now).unwrap();
        let listener = TcpListener::bind((pool.address, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let connecting = taken.socket.connect(&to.into());
        assert_eq!(
            connecting.unwrap_err().raw_os_error(),
            Some(libc::EINPROGRESS)
        );
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.port(), taken.port.number);
        assert_eq!(taken.socket.take_error().unwrap().map(|e| e.kind()), None);
        connect_unspec(&taken.socket).unwrap();
        assert!(taken.socket.peer_addr().is_err(), "still connected");
        pool.put_back(taken, now);
        from.port()
    }

    #[test]
    fn a_socket_and_its_port_are_used_again_after_a_rest() {
        for address in [LOOPBACK, LOOPBACK_V6] {
            a_socket_is_used_again(&SocketPool::new(address));
        }
    }

    fn a_socket_is_used_again(pool: &SocketPool) {
        let start = Instant::now();
        let first = use_once(pool, start);
        // Not yet rested: another socket, with another port.
        let second = use_once(pool, start + REST / 2);
        assert_ne!(first, second);
        for round in 1..4 {
            let now = start + 2 * round * REST;
            assert_eq!(use_once(pool, now), first);
            assert_eq!(use_once(pool, now + REST / 2), second);
        }
    }

    #[test]
    fn nothing_stays_for_longer_than_a_second() {
        let pool = SocketPool::new(LOOPBACK);
        let start = Instant::now();
        use_once(&pool, start);
        use_once(&pool, start + REST / 2);
        pool.tidy(start + IDLE);
        assert_eq!(pool.resting().len(), 1);
        pool.tidy(start + IDLE + REST);
        assert_eq!(pool.resting().len(), 0);
    }

    #[test]
    fn no_socket_keeps_its_port_for_long() {
        let pool = SocketPool::new(LOOPBACK);
        let start = Instant::now();
        let first = use_once(&pool, start);
        let last = start + TERM - REST;
        assert_eq!(use_once(&pool, last), first);
        assert_eq!(use_once(&pool, last + REST), first);
        assert_eq!(pool.resting().len(), 0);
    }

    #[test]
    fn a_port_that_somebody_has_taken_is_given_up() {
        let pool = SocketPool::new(LOOPBACK);
        let now = Instant::now();
        let taken = pool.take(now).unwrap();
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let _ = taken.socket.connect(&listener.local_addr().unwrap().into());
        listener.accept().unwrap();
        connect_unspec(&taken.socket).unwrap();
        let _other = TcpListener::bind((LOOPBACK, taken.port.number)).unwrap();
        pool.put_back(taken, now);
        assert_eq!(pool.resting().len(), 0);
    }
}
