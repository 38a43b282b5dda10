//! One request on a connection of its own, without waiting: sent, and its answer read no faster than a client may.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use dts_lab::VIP;
use socket2::{Domain, Protocol, Socket, Type};

use super::model::Download;

/// A response's head is at most so long.
const HEAD: usize = 4096;
/// What an answer may take, and a limited one so many times as long as its limit says besides.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_FACTOR: f64 = 3.0;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Page,
    Image,
    Download(Download),
}

/// A client's limit for a download.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Bytes per second on average. After a stall, a client may catch up.
    pub(super) speed: f64,
    /// Bytes that it takes at once.
    pub(super) chunk: u64,
    /// What its kernel takes before it does.
    pub(super) receive_buffer: usize,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) what: What,
    pub(super) uri: String,
    /// What the answer's body must have.
    pub(super) bytes: u64,
    pub(super) limit: Option<Limit>,
}

/// A request under way.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) wanted: Wanted,
    pub(super) session: usize,
    pub(super) begun: Instant,
    /// When the answer was complete.
    pub(super) complete: Option<Instant>,
    /// The node that answered, from 1.
    pub(super) node: Option<u8>,
    /// Until when to wait for it.
    pub(super) deadline: Instant,
    request: Vec<u8>,
    sent: usize,
    head: Option<Vec<u8>>,
    body: u64,
}

/// How far a connection is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The kernel will say when it goes on.
    Blocked,
    /// The client takes no more before then.
    Paused(Instant),
    /// The server closed the connection after a right answer.
    Done,
    /// There will be no right answer; why.
    Failed(String),
}

impl Connection {
    /// Begins a connection from this address.
    pub(super) fn begin(
        from: Ipv4Addr,
        session: usize,
        wanted: Wanted,
        now: Instant,
    ) -> std::io::Result<Self> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        if let Some(limit) = wanted.limit {
            // Before the handshake: it decides about the window.
            socket.set_recv_buffer_size(limit.receive_buffer)?;
        }
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        match socket.connect(&SocketAddr::from((VIP, 80)).into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                return Err(error);
            }
            _ => {}
        }
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: support.example.com\r\nUser-Agent: dts-bench\r\nConnection: close\r\n\r\n",
            wanted.uri
        );
        let least = wanted
            .limit
            .map_or(0.0, |limit| wanted.bytes as f64 / limit.speed);
        Ok(Self {
            socket,
            session,
            begun: now,
            complete: None,
            node: None,
            deadline: now + PATIENCE + Duration::from_secs_f64(least * PATIENCE_FACTOR),
            request: request.into_bytes(),
            sent: 0,
            head: Some(Vec::new()),
            body: 0,
            wanted,
        })
    }

    /// Does what can be done without waiting.
    pub(super) fn advance(&mut self, buffer: &mut [u8]) -> Progress {
        match self.send() {
            Ok(true) => {}
            Ok(false) => return Progress::Blocked,
            Err(error) => return Progress::Failed(format!("request: {}", error.kind())),
        }
        loop {
            let now = Instant::now();
            let most = match self.may_take(now) {
                Ok(bytes) => bytes.min(buffer.len()),
                Err(until) => return Progress::Paused(until),
            };
            match (&self.socket).read(&mut buffer[..most]) {
                Ok(0) if self.complete.is_some() => return Progress::Done,
                Ok(0) => return Progress::Failed("ended early".to_owned()),
                Ok(length) => {
                    if let Err(why) = self.take(&buffer[..length]) {
                        return Progress::Failed(why);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Blocked,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It was complete: how the server ends is no business of the client's.
                Err(_) if self.complete.is_some() => return Progress::Done,
                Err(error) => return Progress::Failed(format!("answer: {}", error.kind())),
            }
        }
    }

    /// Sends the request; whether it is sent.
    fn send(&mut self) -> std::io::Result<bool> {
        while self.sent < self.request.len() {
            match (&self.socket).write(&self.request[self.sent..]) {
                Ok(length) => self.sent += length,
                // Not connected yet is said in this way, too.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// How many bytes the client takes now, or when it takes the next.
    fn may_take(&self, now: Instant) -> Result<usize, Instant> {
        let left = self.wanted.bytes.saturating_sub(self.body);
        match self.wanted.limit {
            Some(limit) if self.head.is_none() && left > 0 => {
                limit.may_take(self.body, left, self.begun, now)
            }
            Some(limit) => Ok((limit.chunk as usize).max(512)),
            None => Ok(usize::MAX),
        }
    }

    /// Takes bytes of the answer.
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(head) = &mut self.head else {
            return self.take_body(bytes.len());
        };
        let before = head.len();
        head.extend_from_slice(bytes);
        let Some(end) = end_of_head(head) else {
            return match head.len() < HEAD {
                true => Ok(()),
                false => Err("no head".to_owned()),
            };
        };
        let parsed = Head::parse(&head[..end]).ok_or("no head")?;
        self.head = None;
        if parsed.status != 200 {
            return Err(format!("status {}", parsed.status));
        }
        if parsed.length != Some(self.wanted.bytes) {
            return Err(format!("length {:?}", parsed.length));
        }
        if parsed.node.is_none() {
            return Err("no node's name".to_owned());
        }
        self.node = parsed.node;
        self.take_body(before + bytes.len() - end)
    }

    fn take_body(&mut self, length: usize) -> Result<(), String> {
        self.body += length as u64;
        match self.body {
            body if body > self.wanted.bytes => Err("more than its length".to_owned()),
            body if body == self.wanted.bytes => {
                self.complete.get_or_insert_with(Instant::now);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Limit {
    /// How many bytes a client takes now that has `taken` some and has `left` some to take; else when it takes the next chunk.
    /// It may take the first chunk at once, and so is ready a chunk's time before its limit would say.
    fn may_take(
        &self,
        taken: u64,
        left: u64,
        begun: Instant,
        now: Instant,
    ) -> Result<usize, Instant> {
        let next = left.min(self.chunk);
        let due = |bytes: u64| {
            let over = bytes.saturating_sub(self.chunk) as f64;
            begun + Duration::from_secs_f64(over / self.speed)
        };
        if now < due(taken + next) {
            return Err(due(taken + next));
        }
        let elapsed = now.saturating_duration_since(begun).as_secs_f64();
        let allowed = self.chunk as f64 + elapsed * self.speed - taken as f64;
        Ok((allowed as u64).max(next) as usize)
    }
}

/// What matters of a response's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<u64>,
    node: Option<u8>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?;
        let status = status.split(' ').nth(1)?.parse().ok()?;
        let mut head = Self {
            status,
            length: None,
            node: None,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("x-dts-node") {
                head.node = value.trim().strip_prefix('n').and_then(|n| n.parse().ok());
            }
        }
        Some(head)
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nX-DTS-Node: n3\r\n\r\nbody";
        assert_eq!(end_of_head(bytes), Some(bytes.len() - 4));
        let head = Head::parse(bytes).unwrap();
        assert_eq!(head.status, 200);
        assert_eq!((head.length, head.node), (Some(12), Some(3)));
        assert_eq!(end_of_head(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(Head::parse(b"nonsense"), None);
    }

    #[test]
    fn a_limited_client_keeps_its_mean_speed() {
        let limit = Limit {
            speed: 1000.0,
            chunk: 100,
            receive_buffer: 0,
        };
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        // The first chunk at once, the next a chunk's time later.
        assert_eq!(limit.may_take(0, 1000, begun, begun), Ok(100));
        assert_eq!(limit.may_take(100, 900, begun, after(50)), Err(after(100)));
        assert_eq!(limit.may_take(100, 900, begun, after(100)), Ok(100));
        // After a stall it catches up.
        assert_eq!(limit.may_take(100, 900, begun, after(500)), Ok(500));
        // The rest is less than a chunk, and comes earlier.
        assert_eq!(limit.may_take(200, 50, begun, after(100)), Err(after(150)));
        assert_eq!(limit.may_take(200, 50, begun, after(150)), Ok(50));
    }
}
