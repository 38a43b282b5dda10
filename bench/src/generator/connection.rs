//! One connection of a client: its socket, and how far its request is.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Instant;

use socket2::{Domain, SockAddr, Socket, Type};

use super::Exchange;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The answer is complete, and right; so many bytes.
    Answered(u64),
    /// It isn't, for this reason.
    Failed(&'static str),
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Being connected, or with a part of the request still to be sent.
    Sending,
    /// For the answer.
    Receiving,
    /// For the next request.
    Idle,
}

/// A connection with at most one request under way.
pub(super) struct Connection {
    stream: TcpStream,
    stage: Stage,
    request: Vec<u8>,
    sent: usize,
    /// What of an answer has to be kept: its head, or its echo.
    head: Vec<u8>,
    /// Bytes of the body that are still to come.
    body_left: Option<u64>,
    body: u64,
    is_echo: bool,
    /// When the request was due, or begun.
    pub(super) due: Instant,
    /// When the last byte of the request went to the kernel.
    pub(super) sent_at: Instant,
    /// When the first byte of the answer came.
    pub(super) first_byte: Option<Instant>,
    /// Requests that the connection may still have after this one.
    pub(super) left: u64,
}

impl Connection {
    /// Begins to connect from `source`; the request is sent as soon as the connection stands.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` and `AddrInUse` when the port that the kernel chose is not free after all: try again.
    pub(super) fn begin(
        source: Ipv4Addr,
        server: SocketAddrV4,
        exchange: &Exchange,
        turn: u64,
        due: Instant,
        left: u64,
    ) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(source, 0)))?;
        match socket.connect(&SockAddr::from(server)) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let mut connection = Self {
            stream: socket.into(),
            stage: Stage::Sending,
            request: Vec::new(),
            sent: 0,
            head: Vec::new(),
            body_left: None,
            body: 0,
            is_echo: matches!(exchange, Exchange::Echo(_)),
            due,
            sent_at: due,
            first_byte: None,
            left,
        };
        connection.prepare(exchange, turn, server, due);
        Ok(connection)
    }

    /// Prepares the next request on the connection, which must be idle or new.
    pub(super) fn prepare(
        &mut self,
        exchange: &Exchange,
        turn: u64,
        server: SocketAddrV4,
        due: Instant,
    ) {
        self.request.clear();
        self.head.clear();
        (self.sent, self.body, self.body_left, self.first_byte) = (0, 0, None, None);
        self.due = due;
        self.stage = Stage::Sending;
        match exchange {
            Exchange::Echo(bytes) => {
                let pattern = (0..*bytes).map(|i| b'a' + ((i as u64 + turn) % 23) as u8);
                self.request.extend(pattern);
            }
            Exchange::Get { paths } => {
                let path = &paths[(turn % paths.len().max(1) as u64) as usize];
                let close = if self.left == 0 {
                    "Connection: close\r\n"
                } else {
                    ""
                };
                let text = format!(
                    "GET {path} HTTP/1.1\r\nHost: {}\r\n{close}\r\n",
                    server.ip()
                );
                self.request.extend(text.into_bytes());
            }
        }
    }

    /// The socket, to wait for it.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Does what can be done now; `None` when there is nothing more to do before the socket is ready again.
    pub(super) fn advance(&mut self, buffer: &mut [u8], now: Instant) -> Option<Ended> {
        if self.stage == Stage::Sending {
            match self.send(now) {
                Ok(true) => self.stage = Stage::Receiving,
                Ok(false) => return None,
                Err(reason) => return Some(Ended::Failed(reason)),
            }
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Some(Ended::Failed("closed")),
                Ok(_) if self.stage == Stage::Idle => return Some(Ended::Failed("wrong")),
                Ok(n) => {
                    self.first_byte.get_or_insert(now);
                    let ended = self.receive(&buffer[..n]);
                    if ended == Some(Ended::Failed("wrong")) {
                        return ended;
                    }
                    if let Some(ended) = ended {
                        self.stage = Stage::Idle;
                        return Some(ended);
                    }
                    if n < buffer.len() {
                        return None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some(Ended::Failed(reason(&error))),
            }
        }
    }

    /// Sends what is left of the request; whether all of it has gone.
    fn send(&mut self, now: Instant) -> Result<bool, &'static str> {
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => return Ok(false),
                    ErrorKind::Interrupted => {}
                    _ if self.sent == 0 => return Err("connect"),
                    _ => return Err(reason(&error)),
                },
            }
        }
        self.sent_at = now;
        Ok(true)
    }

    /// Takes bytes of the answer.
    fn receive(&mut self, bytes: &[u8]) -> Option<Ended> {
        if self.is_echo {
            let from = self.body as usize;
            self.body += bytes.len() as u64;
            return match self.request.get(from..from + bytes.len()) {
                Some(expected) if expected == bytes => {
                    (self.body == self.request.len() as u64).then_some(Ended::Answered(self.body))
                }
                _ => Some(Ended::Failed("wrong")),
            };
        }
        let new = match self.body_left {
            Some(_) => bytes.len() as u64,
            None => {
                self.head.extend_from_slice(bytes);
                match body(&self.head) {
                    Ok(None) => return None,
                    Ok(Some((begin, length))) => {
                        self.body_left = Some(length);
                        (self.head.len() - begin) as u64
                    }
                    Err(()) => return Some(Ended::Failed("wrong")),
                }
            }
        };
        self.body += new;
        let left = self.body_left?.checked_sub(new);
        self.body_left = left;
        match left {
            None => Some(Ended::Failed("wrong")),
            Some(0) => Some(Ended::Answered(self.body)),
            Some(_) => None,
        }
    }
}

/// Where the body of an answer begins, and how long it is; `None` when the head isn't complete.
fn body(head: &[u8]) -> Result<Option<(usize, u64)>, ()> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = response.parse(head).map_err(drop)? else {
        return Ok(None);
    };
    if response.code != Some(200) {
        return Err(());
    }
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    length.map(|length| Some((begin, length))).ok_or(())
}

fn reason(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
        ErrorKind::TimedOut => "timeout",
        _ => "connect",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_where_bodies_begin_and_end() {
        let head = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 12\r\n\r\n";
        assert_eq!(body(head), Ok(Some((head.len(), 12))));
        assert_eq!(body(&head[..20]), Ok(None));
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n\r\n"), Err(()));
        assert_eq!(
            body(b"HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\n"),
            Err(())
        );
        assert_eq!(body(b"garbage\r\n\r\n"), Err(()));
    }
}
