//! The side of who asks.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::protocol::{ANSWER_TIME, Answer, CLIENT_TIME, MAX_ANSWER, MAX_TRACE_LINE, Request};
use super::view::{
    ConnectionFilter, ConnectionList, ReloadReport, RingQuery, RingView, StatsView, StatusView,
    TraceLine, TraceQuery, TraceStart,
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

    /// Has the daemon tell what its filter does with each segment, from now on.
    pub fn trace(self, query: TraceQuery) -> Result<(TraceStart, TraceReader), ClientError> {
        self.begin(&Request::Trace(query))
    }

    fn ask<T: DeserializeOwned>(self, request: &Request) -> Result<T, ClientError> {
        self.begin(request).map(|(answer, _)| answer)
    }

    /// Asks, and reads the answer's first line.
    fn begin<T: DeserializeOwned>(
        self,
        request: &Request,
    ) -> Result<(T, TraceReader), ClientError> {
        let Self { socket, mut stream } = self;
        let mut line = serde_json::to_vec(request).map_err(|error| ClientError::Broken {
            socket: socket.clone(),
            source: error.into(),
        })?;
        line.push(b'\n');
        if let Err(source) = stream.write_all(&line) {
            return Err(ClientError::Broken { socket, source });
        }
        let lines = BufReader::new(stream);
        let mut reader = TraceReader { socket, lines };
        let line = reader.line(MAX_ANSWER)?;
        match serde_json::from_slice(&line) {
            Ok(Answer::Ok(view)) => Ok((view, reader)),
            Ok(Answer::Error(why)) => Err(ClientError::Refused(why)),
            Err(error) => Err(reader.garbled(error.to_string())),
        }
    }
}

/// The lines of a trace. Its function blocks.
#[derive(Debug)]
pub struct TraceReader {
    socket: PathBuf,
    lines: BufReader<UnixStream>,
}

impl TraceReader {
    /// The next line. One comes several times a second.
    ///
    /// # Errors
    ///
    /// When the daemon has gone, is silent, or says what makes no sense.
    pub fn next_line(&mut self) -> Result<TraceLine, ClientError> {
        let line = self.line(MAX_TRACE_LINE)?;
        serde_json::from_slice(&line).map_err(|error| self.garbled(error.to_string()))
    }

    fn line(&mut self, longest: usize) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.lines)
            .take(longest as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| match error.kind() {
                // What a read time-out is called on a blocking socket.
                io::ErrorKind::WouldBlock => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("nothing came within {ANSWER_TIME:?}"),
                ),
                _ => error,
            });
        let ended = || Err(io::ErrorKind::UnexpectedEof.into());
        let read = read.and_then(|count| if count == 0 { ended() } else { Ok(count) });
        if let Err(source) = read {
            let socket = self.socket.clone();
            return Err(ClientError::Broken { socket, source });
        }
        if line.len() > longest {
            return Err(self.garbled(format!("longer than {longest} bytes")));
        }
        Ok(line)
    }

    fn garbled(&self, why: String) -> ClientError {
        let socket = self.socket.clone();
        ClientError::Garbled { socket, why }
    }
}
