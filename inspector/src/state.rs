//! What the daemon has said, as far as the program hasn't taken note of it. No I/O.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar};

use crate::protocol::{EndReason, Malformed, ToProcess};
use crate::{Cluster, Error};

/// A connection's number: tells which one [`Inspector::ready`](crate::Inspector::ready) means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) u64);

/// A connection that isn't decided.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    /// All that the client has sent.
    bytes: Vec<u8>,
    /// How much of it has been read.
    read: usize,
    /// Nothing will follow.
    last: bool,
    ended: Option<EndReason>,
    accepted: bool,
    /// In the queue of those that have news.
    announced: bool,
    /// Told when there are news.
    news: Arc<Condvar>,
}

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cluster: Arc<Cluster>,
    connections: HashMap<u64, Arrived>,
    arrived: VecDeque<u64>,
    ready: VecDeque<u64>,
    /// The daemon has gone.
    closed: bool,
    /// Whether the inspector's descriptor says that there are news.
    pub(crate) signalled: bool,
}

impl State {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            connections: HashMap::new(),
            arrived: VecDeque::new(),
            ready: VecDeque::new(),
            closed: false,
            signalled: false,
        }
    }

    /// Takes a message. Returns whom to tell, if it concerns a connection that was accepted; `true` when it is a new one.
    pub(crate) fn handle(
        &mut self,
        message: ToProcess<'_>,
    ) -> Result<(bool, Option<Arc<Condvar>>), Malformed> {
        match message {
            ToProcess::Welcome { .. } | ToProcess::Refused { .. } => {
                Err(Malformed::Order("a second answer to the greeting"))
            }
            ToProcess::Cluster(cluster) => {
                self.cluster = Arc::new(cluster);
                Ok((false, None))
            }
            ToProcess::Opened { id, client, local } => {
                let arrived = Arrived {
                    client,
                    local,
                    bytes: Vec::new(),
                    read: 0,
                    last: false,
                    ended: None,
                    accepted: false,
                    announced: false,
                    news: Arc::default(),
                };
                if self.connections.insert(id, arrived).is_some() {
                    return Err(Malformed::Order("a connection that is open already"));
                }
                self.arrived.push_back(id);
                Ok((true, None))
            }
            ToProcess::Bytes {
                id,
                offset,
                last,
                data,
            } => {
                // It may have been decided about meanwhile.
                let Some(connection) = self.connections.get_mut(&id) else {
                    return Ok((false, None));
                };
                if offset as usize != connection.bytes.len() {
                    return Err(Malformed::Order("bytes that don't follow those before"));
                }
                connection.bytes.extend_from_slice(data);
                connection.last |= last;
                Ok((false, self.announce(id)))
            }
            ToProcess::Ended { id, reason } => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return Ok((false, None));
                };
                if !connection.accepted {
                    // Nobody will ever hear of it.
                    self.connections.remove(&id);
                    self.arrived.retain(|waiting| *waiting != id);
                    return Ok((false, None));
                }
                connection.ended = Some(reason);
                Ok((false, self.announce(id)))
            }
        }
    }

    fn announce(&mut self, id: u64) -> Option<Arc<Condvar>> {
        let connection = self.connections.get_mut(&id)?;
        if connection.accepted && !connection.announced {
            connection.announced = true;
            self.ready.push_back(id);
        }
        connection.accepted.then(|| Arc::clone(&connection.news))
    }

    /// Ends everything: the daemon has gone. Returns whom to tell.
    pub(crate) fn close(&mut self) -> Vec<Arc<Condvar>> {
        self.closed = true;
        let connections = self.connections.values();
        connections.map(|c| Arc::clone(&c.news)).collect()
    }

    /// Whether [`accept`](Self::accept) or [`ready`](Self::ready) would return something.
    pub(crate) fn has_news(&self) -> bool {
        self.closed || !self.arrived.is_empty() || !self.ready.is_empty()
    }

    /// The next connection, if there is one.
    pub(crate) fn accept(&mut self) -> Result<u64, Error> {
        let Some(id) = self.arrived.pop_front() else {
            return Err(self.nothing());
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.accepted = true;
            // What came before is news to whoever waits for them.
            if !connection.bytes.is_empty() || connection.last {
                connection.announced = true;
                self.ready.push_back(id);
            }
        }
        Ok(id)
    }

    /// The next connection with something to read, or that is over.
    pub(crate) fn ready(&mut self) -> Result<u64, Error> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.announced = false;
                return Ok(id);
            }
        }
        Err(self.nothing())
    }

    fn nothing(&self) -> Error {
        if self.closed {
            Error::Gone
        } else {
            Error::WouldBlock
        }
    }

    /// A connection that can be decided about.
    pub(crate) fn open(&self, id: u64) -> Result<&Arrived, Error> {
        let connection = self.connections.get(&id).ok_or(Error::Decided)?;
        match connection.ended {
            _ if self.closed => Err(Error::Gone),
            Some(reason) => Err(Error::Ended(reason)),
            None => Ok(connection),
        }
    }

    /// Reads what has come; 0 bytes when nothing will follow.
    pub(crate) fn read(&mut self, id: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.open(id)?;
        let connection = self.connections.get_mut(&id).ok_or(Error::Decided)?;
        let fresh = &connection.bytes[connection.read..];
        if fresh.is_empty() && !connection.last && !buffer.is_empty() {
            return Err(Error::WouldBlock);
        }
        let count = fresh.len().min(buffer.len());
        buffer[..count].copy_from_slice(&fresh[..count]);
        connection.read += count;
        Ok(count)
    }

    /// Whom to wait for.
    pub(crate) fn news(&self, id: u64) -> Option<Arc<Condvar>> {
        self.connections.get(&id).map(|c| Arc::clone(&c.news))
    }

    /// Forgets a connection. Returns whom to tell.
    pub(crate) fn forget(&mut self, id: u64) -> Option<Arc<Condvar>> {
        let gone = self.connections.remove(&id)?;
        if gone.announced {
            self.ready.retain(|ready| *ready != id);
        }
        Some(gone.news)
    }
}

impl Arrived {
    /// What has been read.
    pub(crate) fn request(&self) -> &[u8] {
        &self.bytes[..self.read]
    }
}

#[cfg(test)]
mod tests {
    use dts_core::ring::RingHash;

    use super::*;
    use crate::cluster::tests::sample;

    fn state() -> State {
        State::new(sample(RingHash::Md5))
    }

    fn opened(id: u64) -> ToProcess<'static> {
        let end = SocketAddr::from(([198, 18, 0, 200], 40_000));
        ToProcess::Opened {
            id,
            client: end,
            local: end,
        }
    }

    fn bytes(id: u64, offset: u32, data: &[u8]) -> ToProcess<'_> {
        ToProcess::Bytes {
            id,
            offset,
            last: false,
            data,
        }
    }

    fn read(state: &mut State, id: u64, most: usize) -> Result<Vec<u8>, i32> {
        let mut buffer = vec![0; most];
        let count = state.read(id, &mut buffer).map_err(|e| e.errno())?;
        Ok(buffer[..count].to_vec())
    }

    const AGAIN: Result<Vec<u8>, i32> = Err(11);

    #[test]
    fn a_request_is_read_in_parts() {
        let mut state = state();
        assert!(matches!(state.accept(), Err(Error::WouldBlock)));
        assert!(state.handle(opened(0)).unwrap().0);
        state.handle(bytes(0, 0, b"GET ")).unwrap();
        assert_eq!(state.accept().unwrap(), 0);
        assert_eq!(state.ready().unwrap(), 0);
        assert!(!state.has_news());
        assert_eq!(read(&mut state, 0, 3), Ok(b"GET".to_vec()));
        assert_eq!(read(&mut state, 0, 3), Ok(b" ".to_vec()));
        assert_eq!(read(&mut state, 0, 3), AGAIN);
        assert!(state.handle(bytes(0, 4, b"/")).unwrap().1.is_some());
        assert_eq!(state.ready().unwrap(), 0);
        assert_eq!(read(&mut state, 0, 3), Ok(b"/".to_vec()));
        assert_eq!(state.open(0).unwrap().request(), b"GET /");
        let last = ToProcess::Bytes {
            id: 0,
            offset: 5,
            last: true,
            data: b"",
        };
        state.handle(last).unwrap();
        assert_eq!(read(&mut state, 0, 3), Ok(Vec::new()));
        state.forget(0);
        assert_eq!(read(&mut state, 0, 3), Err(Error::Decided.errno()));
        assert!(!state.has_news(), "{state:?}");
    }

    #[test]
    fn what_ends_before_it_is_accepted_is_never_seen() {
        let mut state = state();
        for id in 0..3 {
            state.handle(opened(id)).unwrap();
        }
        let reason = EndReason::Overdue;
        state.handle(ToProcess::Ended { id: 1, reason }).unwrap();
        assert_eq!([state.accept().unwrap(), state.accept().unwrap()], [0, 2]);
        state.handle(ToProcess::Ended { id: 0, reason }).unwrap();
        assert_eq!(state.ready().unwrap(), 0);
        assert!(matches!(
            state.open(0),
            Err(Error::Ended(EndReason::Overdue))
        ));
        // What crosses a decision is no error.
        state.forget(2);
        state.handle(bytes(2, 0, b"late")).unwrap();
        state.handle(ToProcess::Ended { id: 2, reason }).unwrap();
    }

    #[test]
    fn the_daemons_end_is_everybodys() {
        let mut state = state();
        state.handle(opened(0)).unwrap();
        state.handle(opened(1)).unwrap();
        state.accept().unwrap();
        assert_eq!(state.close().len(), 2);
        assert!(state.has_news());
        assert!(matches!(state.open(0), Err(Error::Gone)));
        // The other one is of no use any more, but tells so itself.
        assert_eq!(state.accept().unwrap(), 1);
        assert!(matches!(state.open(1), Err(Error::Gone)));
        assert!(matches!(state.accept(), Err(Error::Gone)));
        assert!(matches!(state.ready(), Err(Error::Gone)));
    }

    #[test]
    fn disorder_is_refused() {
        let mut state = state();
        state.handle(opened(0)).unwrap();
        assert!(state.handle(opened(0)).is_err());
        assert!(state.handle(bytes(0, 1, b"x")).is_err());
        let welcome = ToProcess::Welcome {
            version: 1,
            service: "web",
        };
        assert!(state.handle(welcome).is_err());
    }
}
