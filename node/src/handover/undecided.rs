//! A client's connection as its inspector has it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use dts_core::addr::FlowKey;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

use crate::kernel::socket;

/// A client's connection that an inspector has, and what has been read from it.
#[derive(Debug)]
pub struct Undecided {
    /// The socket. Whether it blocks doesn't matter: each call says that it must not.
    pub(super) socket: Socket,
    /// The client's flow, local port the service's own.
    pub(super) flow: FlowKey,
    /// What has been read.
    pub(super) request: Vec<u8>,
    /// Whether the client has closed its side.
    pub(super) half_closed: bool,
    /// What the client was given in the server's stead; empty where the client speaks first.
    pub(super) greeting: Arc<[u8]>,
}

/// The result of reading from a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// There was something new.
    More,
    /// There is nothing to read at present.
    Nothing,
    /// The client has closed its side; nothing more will come.
    End,
}

impl Undecided {
    /// Takes over an accepted socket of the inspector's port.
    #[must_use]
    pub fn new(socket: Socket, flow: FlowKey) -> Self {
        Self {
            socket,
            flow,
            request: Vec::new(),
            half_closed: false,
            greeting: Arc::default(),
        }
    }

    /// Gives the client the greeting of the service's servers, which speak first (DTS §2.6).
    ///
    /// # Errors
    ///
    /// When it could not be sent as a whole, as can be when the client is gone.
    pub fn greet(&mut self, greeting: &Arc<[u8]>) -> io::Result<()> {
        // The client's request is acknowledged at once: while greetings are compared, nobody else does.
        socket::acknowledge_at_once(&self.socket, true)?;
        // A fresh socket has room for far more.
        match send(&self.socket, greeting, SendFlags::DONTWAIT)? {
            all if all == greeting.len() => {}
            _ => return Err(io::ErrorKind::WriteZero.into()),
        }
        self.greeting = Arc::clone(greeting);
        Ok(())
    }

    /// Whether the client has all that it was given: what is lost of it later, nobody would repeat.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn is_greeted(&self) -> io::Result<bool> {
        if self.greeting.is_empty() {
            return Ok(true);
        }
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        Ok(socket::unacknowledged(&self.socket)? == 0)
    }

    /// The client's flow.
    #[must_use]
    pub fn flow(&self) -> &FlowKey {
        &self.flow
    }

    /// What has been read from the client so far.
    #[must_use]
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// The socket, to wait for.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Reads what is there, up to `most` bytes in all.
    ///
    /// # Errors
    ///
    /// When the client has reset the connection.
    pub fn read(&mut self, most: usize) -> io::Result<Read> {
        let before = self.request.len();
        while self.request.len() < most && !self.half_closed {
            let room = (most - self.request.len()).min(READ_CHUNK);
            let read = ROOM.with_borrow_mut(|buffer| {
                let n = recv(&self.socket, &mut buffer[..room], RecvFlags::DONTWAIT)?.0;
                self.request.extend_from_slice(&buffer[..n]);
                Ok(n)
            });
            match read {
                Ok(0) => self.half_closed = true,
                // Less than asked for: nothing more is there, and a call is saved.
                Ok(n) if n < room => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(match self.request.len() > before {
            true => Read::More,
            false if self.half_closed => Read::End,
            false => Read::Nothing,
        })
    }

    /// Reads everything that the kernel has acknowledged to the client.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        loop {
            match self.read(usize::MAX)? {
                Read::More => {}
                Read::Nothing | Read::End => return Ok(()),
            }
        }
    }
}

/// How much one call reads at the most.
const READ_CHUNK: usize = 16 * 1024;

thread_local! {
    /// What a worker reads into: most requests are short, so they are copied rather than given room.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into());
}
