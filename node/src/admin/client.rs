//! The side of who asks.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::protocol::{ANSWER_TIME, Answer, CLIENT_TIME, MAX_ANSWER, Request};
use super::view::{
    ConnectionFilter, ConnectionList, ReloadReport, RingQuery, RingView, StatsView, StatusView,
};

/// A connection to a daemon, good for one request. Its functions block.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: UnixStream,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no daemon answers at {}: start it with `dts node`", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// This user may not ask.
    #[error("{}: this user may not talk to the daemon: run as root", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon doesn't do what it was asked, and says why.
    #[error("the daemon says: {0}")]
    Refused(String),
    /// The connection broke, or the daemon took too long.
    #[error("{}: the daemon did not answer: {source}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What came is no answer.
    #[error(
        "{}: the daemon's answer makes no sense ({why}): it may be of another version than this program",
        socket.display()
    )]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Client {
    /// Connects to the daemon of a socket.
    ///
    /// # Errors
    ///
    /// When there is none, or this user may not talk to it.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(socket).and_then(|stream| {
            stream.set_write_timeout(Some(CLIENT_TIME))?;
            stream.set_read_timeout(Some(ANSWER_TIME))?;
            Ok(stream)
        });
        let socket = socket.to_owned();
        match connected {
            Ok(stream) => Ok(Self { socket, stream }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { socket }
                }
                io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
                _ => ClientError::Broken {
                    socket,
                    source: error,
                },
            }),
        }
    }

    /// How is it?
    ///
    /// # Errors
    ///
    /// As all the others: when no answer comes, or the daemon refuses.
    pub fn status(self) -> Result<StatusView, ClientError> {
        self.ask(&Request::Status)
    }

    /// What does the ring look like, who owns what?
    pub fn ring(self, query: RingQuery) -> Result<RingView, ClientError> {
        self.ask(&Request::Ring(query))
    }

    /// Which connections are there?
    pub fn connections(self, filter: ConnectionFilter) -> Result<ConnectionList, ClientError> {
        self.ask(&Request::Connections(filter))
    }

    /// What has been counted?
    pub fn stats(self) -> Result<StatsView, ClientError> {
        self.ask(&Request::Stats)
    }

    /// Has the daemon read its configuration again.
    pub fn reload(self) -> Result<ReloadReport, ClientError> {
        self.ask(&Request::Reload)
    }

    fn ask<T: DeserializeOwned>(self, request: &Request) -> Result<T, ClientError> {
        let Self { socket, stream } = self;
        let line = match exchange(stream, request) {
            Ok(line) => line,
            Err(source) => return Err(ClientError::Broken { socket, source }),
        };
        let garbled = |why| ClientError::Garbled { socket, why };
        if line.len() > MAX_ANSWER {
            return Err(garbled(format!("longer than {MAX_ANSWER} bytes")));
        }
        match serde_json::from_slice(&line) {
            Ok(Answer::Ok(view)) => Ok(view),
            Ok(Answer::Error(why)) => Err(ClientError::Refused(why)),
            Err(error) => Err(garbled(error.to_string())),
        }
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER as u64 + 1))
        .read_until(b'\n', &mut answer)
        .map_err(|error| match error.kind() {
            // What a read time-out is called on a blocking socket.
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came within {ANSWER_TIME:?}"),
            ),
            _ => error,
        })?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}
