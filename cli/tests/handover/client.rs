//! A small HTTP client that does to its connections what a case asks for.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dts_lab::Lab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::{CLIENT, client_address, vip};

/// Longer than anything here may take; shorter than a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Connects from the client to a service, from a port if one is given.
pub(crate) fn connect(lab: &Lab, from: Option<u16>, service: u16) -> io::Result<TcpStream> {
    lab.within(CLIENT, || connect_here(from, vip(service)))
        .expect("the client is there")
}

/// The same from within the client.
pub(crate) fn connect_here(from: Option<u16>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(port) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(client_address(), port).into())?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Closes a connection by a reset.
pub(crate) fn reset(stream: TcpStream) {
    Socket::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// What `X-DTS-Node` says.
    pub(crate) node: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Reads a response with `Content-Length`, or to the end of the connection.
    pub(crate) fn read(stream: impl Read) -> io::Result<Self> {
        Self::read_from(&mut BufReader::with_capacity(1 << 16, stream))
    }

    /// The same, and what follows the response is left in the reader.
    pub(crate) fn read_from(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            match reader.read_line(&mut line)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let first = line()?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| malformed(&first))?;
        let (mut node, mut length) = (None, None);
        loop {
            let header = line()?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(": ").ok_or_else(|| malformed(&header))?;
            match &*name.to_ascii_lowercase() {
                "x-dts-node" => node = Some(value.to_owned()),
                "content-length" => length = value.parse().ok(),
                _ => {}
            }
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                reader.read_exact(&mut body)?;
            }
            None => drop(reader.read_to_end(&mut body)?),
        }
        Ok(Self { status, node, body })
    }

    /// Reads a response and then the server's end of the connection: the server closes first, and the
    /// client's port is free at once.
    pub(crate) fn read_and_close(stream: TcpStream) -> io::Result<Self> {
        let response = Self::read(&stream)?;
        match (&stream).read(&mut [0])? {
            0 => Ok(response),
            _ => Err(io::Error::other("something follows the response")),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request's head, without `Connection: close` if the connection is to stay.
pub(crate) fn head(method: &str, path: &str, body: Option<usize>) -> String {
    let length = body.map_or_else(String::new, |length| {
        format!("Content-Length: {length}\r\n")
    });
    format!("{method} {path} HTTP/1.1\r\nHost: dts.test\r\nConnection: close\r\n{length}\r\n")
}

/// Fetches a path over a connection of its own.
pub(crate) fn get(lab: &Lab, from: Option<u16>, port: u16, path: &str) -> io::Result<Response> {
    let mut stream = connect(lab, from, port)?;
    stream.write_all(head("GET", path, None).as_bytes())?;
    Response::read_and_close(stream)
}

/// That something ended because the other end has reset the connection.
#[track_caller]
pub(crate) fn assert_reset<T: std::fmt::Debug>(end: io::Result<T>) {
    let reset = |error: &io::Error| error.kind() == ErrorKind::ConnectionReset;
    assert!(end.as_ref().is_err_and(reset), "{end:?}");
}
