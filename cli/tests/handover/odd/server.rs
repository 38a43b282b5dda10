//! The server of the steps, and what it is asked for.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

use crate::uploads::body;

/// The header of a request whose server shall ask after a silent client, as often as it can.
pub(super) const PROBED: &str = "X-Probed: yes";

/// Answers each request with so many bytes as its path asks for, and closes if a request says so; all that was read, in the
/// end.
pub(super) fn serve(stream: TcpStream) -> io::Result<Vec<u8>> {
    let socket = Socket::from(stream);
    // Urgent data is data, for its place to be seen.
    socket.set_out_of_band_inline(true)?;
    let mut stream = TcpStream::from(socket);
    let mut all = Vec::new();
    let mut answered = 0;
    let mut part = [0; 4096];
    loop {
        while let Some(end) = all[answered..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&all[answered..]).into_owned();
            answered += end + 4;
            let path = head.split(' ').nth(1).unwrap_or_default();
            let size = path.rsplit('/').next().and_then(|size| size.parse().ok());
            let body = body(size.unwrap_or(0));
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )?;
            stream.write_all(&body)?;
            if head.contains("Connection: close") {
                return Ok(all);
            }
            if head.contains(PROBED) {
                let often = TcpKeepalive::new()
                    .with_time(Duration::from_secs(1))
                    .with_interval(Duration::from_secs(1))
                    .with_retries(2);
                SockRef::from(&stream).set_tcp_keepalive(&often)?;
            }
        }
        match stream.read(&mut part)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&part[..n]),
        }
    }
}

/// A request to a node's server for so many bytes.
pub(crate) fn request(node: u8, size: usize) -> Vec<u8> {
    request_with(node, size, "Accept: */*")
}

/// The same with a header.
pub(super) fn request_with(node: u8, size: usize, header: &str) -> Vec<u8> {
    format!("GET /n{node}/{size} HTTP/1.1\r\nHost: dts.test\r\n{header}\r\n\r\n").into_bytes()
}
