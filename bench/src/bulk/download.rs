//! One download after the other, from a blocking socket: as little work for the client as can be.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use socket2::{Domain, SockAddr, Socket, Type};

/// What one `read` takes.
const BUFFER: usize = 256 << 10;
/// A server that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// An answer's head is shorter.
const HEAD: usize = 8192;

/// Who asks whom for what.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) server: SocketAddrV4,
    pub(super) source: Ipv4Addr,
    pub(super) path: String,
}

/// What came.
#[derive(Debug)]
pub(super) struct Download {
    /// Bytes of the body.
    pub(super) bytes: u64,
    /// The node that says it has answered.
    pub(super) node: String,
}

impl Client {
    /// Downloads the file on a connection of its own, and gives what comes to `take`.
    pub(super) fn download(&self, mut take: impl FnMut(&[u8])) -> anyhow::Result<Download> {
        let mut stream = self.connect().context("cannot connect")?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path,
            self.server.ip()
        );
        stream.write_all(request.as_bytes())?;
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        let head = loop {
            let n = stream.read(&mut buffer[filled..])?;
            ensure!(
                n > 0,
                "the server closed before its answer's head was complete"
            );
            filled += n;
            if let Some(head) = Head::parse(&buffer[..filled])? {
                break head;
            }
            ensure!(filled < HEAD, "an answer's head of more than {HEAD} bytes");
        };
        let mut bytes = (filled - head.length) as u64;
        take(&buffer[head.length..filled]);
        while bytes < head.body {
            let n = stream.read(&mut buffer)?;
            ensure!(n > 0, "only {bytes} of {} bytes came", head.body);
            bytes += n as u64;
            take(&buffer[..n]);
        }
        ensure!(bytes == head.body, "{bytes} bytes instead of {}", head.body);
        // The server's end comes before ours, so that it is its socket that waits.
        ensure!(stream.read(&mut buffer)? == 0, "more than was announced");
        Ok(Download {
            bytes,
            node: head.node,
        })
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(self.source, 0)))?;
        socket.connect_timeout(&SockAddr::from(self.server), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket.into())
    }
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Its own bytes.
    length: usize,
    /// Bytes of the body.
    body: u64,
    /// Who has answered.
    node: String,
}

impl Head {
    /// Reads it; `None` while it isn't complete.
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..end]).context("an answer's head")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            bail!("the server says `{status}`");
        }
        let (mut body, mut node) = (None, None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                body = Some(value.trim().parse().context("an answer's length")?);
            } else if name.eq_ignore_ascii_case("x-dts-node") {
                node = Some(value.trim().to_owned());
            }
        }
        Ok(Some(Self {
            length: end + 4,
            body: body.context("an answer without a length")?,
            node: node.context("an answer that names no node")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let text = b"HTTP/1.1 200 OK\r\nContent-length: 3\r\nX-DTS-Node: n2\r\n\r\nabc";
        let head = Head::parse(text).unwrap().unwrap();
        let expected = Head {
            length: text.len() - 3,
            body: 3,
            node: "n2".to_owned(),
        };
        assert_eq!(head, expected);
        assert_eq!(Head::parse(&text[..20]).unwrap(), None);
        assert!(Head::parse(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
