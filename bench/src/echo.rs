//! The paper's server (§4.2): it reads a number of bytes, sends them back, and closes.
//!
//! One thread and one `epoll`; most connections come with their bytes, so most need no waiting.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use dts_lab::{Lab, Place};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where it listens, on all addresses.
    port: u16,
    /// How many bytes it reads and sends back.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    bytes: u16,
}

/// The event of the listener, which no connection's number is.
const LISTENER: u64 = u64::MAX;
/// How many connections are accepted before others are looked after.
const ACCEPTS: usize = 64;

/// Serves until it is ended.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let address = std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
    socket
        .bind(&address.into())
        .with_context(|| format!("cannot bind to {address}"))?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let mut server = Server {
        listener: socket.into(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        waiting: HashMap::new(),
        next: 0,
        buffer: vec![0; options.bytes.into()],
    };
    epoll::add(
        &server.epoll,
        &server.listener,
        epoll::EventData::new_u64(LISTENER),
        epoll::EventFlags::IN,
    )?;
    let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
    loop {
        match epoll::wait(&server.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for connections"),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => server.accept()?,
                number => server.go_on(number),
            }
        }
    }
}

/// Starts the server in a place of a lab, and waits until it listens.
pub(crate) fn start(lab: &Lab, place: Place, port: u16, bytes: u16) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = std::process::Command::new(own);
    command.args(["echo-server", &port.to_string(), &bytes.to_string()]);
    let process = lab.spawn(place, &command)?;
    for _ in 0..500 {
        ensure!(process.is_alive(), "the echo server of {place} has ended");
        let listening = lab.sh(place, &format!("ss -Htln sport = :{port}"))?;
        if !listening.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("the echo server of {place} does not listen")
}

/// A connection whose bytes have not all come.
struct Waiting {
    stream: TcpStream,
    bytes: Vec<u8>,
}

struct Server {
    listener: TcpListener,
    epoll: rustix::fd::OwnedFd,
    waiting: HashMap<u64, Waiting>,
    next: u64,
    buffer: Vec<u8>,
}

impl Server {
    fn accept(&mut self) -> anyhow::Result<()> {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((stream, _)) => self.begin(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => return Err(error).context("cannot accept"),
                },
            }
        }
        Ok(())
    }

    fn begin(&mut self, stream: TcpStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut waiting = Waiting {
            stream,
            bytes: Vec::new(),
        };
        if serve_now(&mut waiting, &mut self.buffer) {
            return;
        }
        let number = self.next;
        self.next += 1;
        let data = epoll::EventData::new_u64(number);
        if epoll::add(&self.epoll, &waiting.stream, data, epoll::EventFlags::IN).is_ok() {
            self.waiting.insert(number, waiting);
        }
    }

    fn go_on(&mut self, number: u64) {
        if let Some(waiting) = self.waiting.get_mut(&number)
            && serve_now(waiting, &mut self.buffer)
        {
            self.waiting.remove(&number);
        }
    }
}

/// Reads what is there; whether the connection is done with.
fn serve_now(waiting: &mut Waiting, buffer: &mut [u8]) -> bool {
    let wanted = buffer.len();
    while waiting.bytes.len() < wanted {
        let most = wanted - waiting.bytes.len();
        match waiting.stream.read(&mut buffer[..most]) {
            Ok(0) => return true,
            Ok(n) => waiting.bytes.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    // A few bytes always fit into an empty socket buffer.
    let _ = waiting.stream.write_all(&waiting.bytes);
    true
}
