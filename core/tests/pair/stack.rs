//! A host's TCP: smoltcp over a pair of queues.
//!
//! smoltcp 0.14 has window scaling, timestamps and SACK, which is what a splice translates. It does not have
//! PAWS (a timestamp that goes back is no error to it: the test looks at the client's by itself, and
//! [`crate::paws`] stands before the server), nor a TIME_WAIT that accepts a later SYN.

use std::cell::Cell;
use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address};

thread_local! {
    /// The fake clock, in milliseconds.
    static NOW: Cell<u32> = const { Cell::new(0) };
}

/// The fake clock, in milliseconds.
pub(crate) fn now() -> u32 {
    NOW.get()
}

/// Moves the fake clock.
pub(crate) fn set_now(now: u32) {
    NOW.set(now);
}

/// The clock as smoltcp takes it.
pub(crate) fn instant() -> Instant {
    Instant::from_millis(i64::from(now()))
}

#[derive(Default)]
struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        // Checksums are the kernel's helpers' business, not the decisions'.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

/// A host.
pub(crate) struct Stack {
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    clock: fn() -> u32,
    buffer: usize,
}

impl Stack {
    /// A host with these addresses, whose timestamps are `clock`'s and whose sockets have buffers of
    /// `buffer` bytes.
    pub(crate) fn new(addresses: &[[u8; 4]], seed: u64, clock: fn() -> u32, buffer: usize) -> Self {
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queues, instant());
        interface.update_ip_addrs(|all| {
            for address in addresses {
                let address = Ipv4Address::from(*address);
                all.push(IpCidr::new(address.into(), 8)).expect("room");
            }
        });
        Self {
            interface,
            queues,
            sockets: SocketSet::new(Vec::new()),
            clock,
            buffer,
        }
    }

    fn add(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; self.buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_tsval_generator(Some(self.clock));
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// A socket that waits for a connection.
    pub(crate) fn listen(&mut self, address: [u8; 4], port: u16) -> SocketHandle {
        let handle = self.add();
        let local = (Ipv4Address::from(address), port);
        self.socket(handle).listen(local).expect("a free port");
        handle
    }

    /// A socket that connects.
    pub(crate) fn connect(&mut self, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> SocketHandle {
        let handle = self.add();
        let end = |(address, port): ([u8; 4], u16)| (Ipv4Address::from(address), port);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket
            .connect(self.interface.context(), end(to), end(from))
            .expect("a fresh socket");
        handle
    }

    /// A socket.
    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Forgets a socket: nothing is sent (the kernel's TCP_REPAIR and close).
    pub(crate) fn forget(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// Takes all bytes that a socket has received in order.
    pub(crate) fn drain(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        let socket = self.socket(handle);
        while socket.can_recv() {
            let taken = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
            all.extend(taken.expect("it can receive"));
        }
        all
    }

    /// A packet arrives.
    pub(crate) fn arrive(&mut self, packet: Vec<u8>) {
        self.queues.incoming.push_back(packet);
    }

    /// Lets the host work; the packets that it sends.
    pub(crate) fn poll(&mut self) -> Vec<Vec<u8>> {
        self.interface
            .poll(instant(), &mut self.queues, &mut self.sockets);
        std::mem::take(&mut self.queues.outgoing)
    }

    /// When the host wants to work next, in milliseconds.
    pub(crate) fn next(&mut self) -> Option<u32> {
        let at = self.interface.poll_at(instant(), &self.sockets)?;
        Some(u32::try_from(at.total_millis()).unwrap_or(0).max(now()))
    }
}
