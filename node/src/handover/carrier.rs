//! One handover connection, from this node to the target.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dts_core::entry::{ConnEntry, ConnKey, Handover, role, state};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::pool::{Port, PortSocket, SocketPool};
use crate::kernel::socket::{close_silently, disconnect_silently, watch};
use crate::kernel::{Filter, FilterError};

/// A handover connection. The filter forgets it when it is dropped.
pub(super) struct Carrier<'a> {
    filter: &'a Filter,
    pool: &'a SocketPool,
    port: Port,
    handover: Handover,
    line: Option<Line>,
}

/// A handover connection's socket. The event loop learns of it only when there is something to wait for: where the
/// target is this node, or as near as one switch, a call often returns with everything done.
enum Line {
    Alone(Socket),
    Watched(AsyncFd<Socket>),
}

impl Line {
    fn socket(&self) -> &Socket {
        match self {
            Self::Alone(socket) => socket,
            Self::Watched(socket) => socket.get_ref(),
        }
    }

    fn into_socket(self) -> Socket {
        match self {
            Self::Alone(socket) => socket,
            Self::Watched(socket) => socket.into_inner(),
        }
    }
}

impl<'a> Carrier<'a> {
    /// Takes a socket with a port of its own, and tells the filter what the port is for.
    pub(super) fn new(
        filter: &'a Filter,
        pool: &'a SocketPool,
        handover: Handover,
    ) -> io::Result<Self> {
        let PortSocket { socket, port } = pool.take(Instant::now())?;
        filter.set_handover(port.number, &handover);
        Ok(Self {
            filter,
            pool,
            port,
            handover,
            line: Some(Line::Alone(socket)),
        })
    }

    /// What the filter knows of it.
    pub(super) const fn handover(&self) -> &Handover {
        &self.handover
    }

    pub(super) fn socket(&self) -> io::Result<&Socket> {
        let line = self.line.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(line.socket())
    }

    /// Waits until the socket may be ready; whoever waits tries again.
    async fn wait(&mut self, interest: Interest) -> io::Result<()> {
        // The line stays where it is while this waits: whoever gives up still has it.
        self.line = match self.line.take() {
            Some(Line::Alone(socket)) => Some(Line::Watched(watch(
                socket,
                Interest::READABLE | Interest::WRITABLE,
            )?)),
            line => line,
        };
        let Some(Line::Watched(line)) = &self.line else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        line.ready(interest).await?.clear_ready();
        Ok(())
    }

    /// Begins to connect; `true` when that is done already.
    pub(super) fn begin(&self, to: SocketAddr) -> io::Result<bool> {
        match self.socket()?.connect(&to.into()) {
            Ok(()) => return Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        Ok(self.socket()?.peer_addr().is_ok())
    }

    /// Goes on connecting; `false` when there is no answer within `patience`.
    pub(super) async fn connect(&mut self, patience: Duration) -> io::Result<bool> {
        match timeout(patience, self.connected()).await {
            Err(_) => Ok(false),
            Ok(connected) => connected.map(|()| true),
        }
    }

    /// Closes the socket without a segment. The filter goes on knowing what the port was for, and so keeps an answer that
    /// comes late from the kernel, which would reset what the target has.
    pub(super) fn give_up(&mut self) {
        if let Some(line) = self.line.take() {
            // Where that fails, the filter keeps what the socket says from the target: another port counts.
            let _ = close_silently(line.into_socket());
        }
    }

    /// Waits until the connection is made.
    async fn connected(&mut self) -> io::Result<()> {
        loop {
            self.wait(Interest::WRITABLE).await?;
            if let Some(error) = self.socket()?.take_error()? {
                return Err(error);
            }
            // Whoever waits may be woken for nothing.
            if self.socket()?.peer_addr().is_ok() {
                return Ok(());
            }
        }
    }

    /// Tells the filter what has changed.
    pub(super) fn update(&mut self, handover: Handover) {
        if handover != self.handover {
            self.handover = handover;
            self.filter.set_handover(self.port.number, &handover);
        }
    }

    /// Reads what the target's server says before it has the request, `most` bytes at the most; nothing at its FIN.
    pub(super) async fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut said = vec![0; most];
        loop {
            match recv(self.socket()?, &mut said, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    said.truncate(length);
                    return Ok(said);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(Interest::READABLE).await?,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends as much of the request as goes now, and looks whether the target's FIN is there. `None` when
    /// it is; otherwise what to wait for.
    pub(super) fn send(&mut self, request: &mut &[u8]) -> io::Result<Option<Interest>> {
        let mut interest = Interest::READABLE;
        while !request.is_empty() {
            match self.socket()?.send(request) {
                Ok(sent) => *request = &request[sent..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    interest |= Interest::WRITABLE;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        // The client may have sent the server the rest of the request itself, which is then complete
        // before all of it is written here.
        loop {
            match recv(self.socket()?, &mut [0; 1], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(None),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Some(interest)),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Goes on sending; the filter adds the client's FIN. Returns at the target's FIN. Who gives up waiting may go on with
    /// what is left of `request`.
    pub(super) async fn send_rest(
        &mut self,
        request: &mut &[u8],
        mut interest: Interest,
    ) -> io::Result<()> {
        loop {
            self.wait(interest).await?;
            match self.send(request)? {
                Some(next) => interest = next,
                None => return Ok(()),
            }
        }
    }

    /// Whether the client's connection is over, or another one by now: the filter has nothing of this handover any more.
    pub(super) fn is_over(&self) -> bool {
        self.entry().is_ok_and(|entry| entry.is_none())
    }

    /// Whether the handover is complete: the filter has seen the target's FIN, or all is over since.
    pub(super) fn is_complete(&self) -> bool {
        let entry = self.entry().ok().flatten();
        entry.is_none_or(|entry| entry.state == state::PLACED)
    }

    /// What the filter has of the client's connection, while it is this handover's.
    fn entry(&self) -> Result<Option<ConnEntry>, FilterError> {
        let key = ConnKey {
            flow: self.handover.flow,
            role: role::INSPECTING,
        };
        let entry = self.filter.connection(&key)?;
        Ok(entry.filter(|entry| entry.peer_port == self.port.number))
    }

    /// Ends the connection without a segment: its target has forgotten it. The socket is kept for another.
    pub(super) fn close(mut self) -> io::Result<()> {
        let Some(line) = self.line.take() else {
            return Ok(());
        };
        let socket = line.into_socket();
        let (pool, port) = (self.pool, self.port);
        // The port must not be another handover's while it still is this one's. No segment needs the entry.
        drop(self);
        disconnect_silently(&socket)?;
        pool.put_back(PortSocket { socket, port }, Instant::now());
        Ok(())
    }

    /// Resets the connection, and with it what the target has of the client's.
    pub(super) fn abort(mut self) {
        if let Some(line) = self.line.take() {
            let _ = line.socket().set_linger(Some(Duration::ZERO));
        }
    }
}

impl Drop for Carrier<'_> {
    fn drop(&mut self) {
        // A reset or FIN of the socket needs the filter's entry: the socket goes first.
        drop(self.line.take());
        self.filter
            .remove_handover(self.port.number, &self.handover);
    }
}
