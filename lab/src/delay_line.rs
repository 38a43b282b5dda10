//! A wire with length: holds frames for a while, and lets some be overtaken.
//!
//! A line joins two interfaces of the hub, the wire's end (`place_side`) and one end of a veth pair
//! whose other end is in the bridge (`bridge_side`). Both are packet sockets with
//! `PACKET_VNET_HDR`: every frame comes with a `virtio_net_hdr` that says what is still to be done
//! for it (a checksum to be filled in, a size to segment to), and leaves with the same one. So 64
//! KB frames with partial checksums pass as they are, and a delay does not change what is measured
//! otherwise.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt::SetBool;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use crate::error::{LabError, Result};

/// What a line prints when it forwards.
pub(crate) const READY: &str = "ready";

/// How much later an overtaken frame leaves than it would have.
const OVERTAKEN_BY: Duration = Duration::from_millis(2);

/// The largest frame: a `virtio_net_hdr` (10 bytes), an Ethernet header with a VLAN tag, a GSO
/// packet.
const MAX_FRAME: usize = 10 + 18 + (1 << 19);

/// Bytes that may wait in a socket while the line is busy: two seconds at 1 Gbit/s, so that the
/// line itself loses nothing.
const SOCKET_BUFFER: usize = 256 << 20;

/// Bytes that a line holds at most; more is lost, as in a switch.
const MAX_HELD: usize = 512 << 20;

/// What happens to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// All arrive this much later,
    pub(crate) delay: Duration,
    /// and up to this much more, in order.
    pub(crate) jitter: Duration,
    /// This part (0 to 1) is overtaken by others.
    pub(crate) reorder: f64,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Interface at which the wire to the place ends.
    pub(crate) place_side: String,
    /// Interface that leads to the bridge.
    pub(crate) bridge_side: String,
    /// From the bridge to the place.
    pub(crate) to_place: Shape,
    /// From the place to the bridge.
    pub(crate) from_place: Shape,
}

/// Runs the lines that a file describes, in the network namespace of the caller, until the process
/// is ended.
///
/// This is what the `dts lab delay-line` process does; nobody else needs it.
///
/// # Errors
/// When the file or an interface is missing, or the process may not open packet sockets.
pub fn run(config: &Path) -> Result<()> {
    let json = fs::read(config).map_err(LabError::io("cannot read", config))?;
    let lines: Vec<Line> = serde_json::from_slice(&json).map_err(|error| LabError::Malformed {
        path: config.to_path_buf(),
        message: error.to_string(),
    })?;
    let mut ways = Vec::new();
    for line in &lines {
        let (place, bridge) = (
            Port::open(&line.place_side)?,
            Port::open(&line.bridge_side)?,
        );
        let same = |port: &Port| port.try_clone(&line.place_side);
        ways.push(Way::new(same(&bridge)?, same(&place)?, line.to_place));
        ways.push(Way::new(place, bridge, line.from_place));
    }
    println!("{READY}");
    io::stdout()
        .flush()
        .map_err(LabError::system("cannot write to standard output"))?;
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        wait(&ways)?;
        for way in &mut ways {
            way.receive(&mut buffer)?;
            way.deliver(Instant::now());
        }
    }
}

/// Sleeps until a frame arrives or is due.
fn wait(ways: &[Way]) -> Result<()> {
    let due = ways.iter().filter_map(|way| way.queue.next_due()).min();
    let timeout =
        due.map(|due| TimeSpec::from_duration(due.saturating_duration_since(Instant::now())));
    let mut ports: Vec<PollFd<'_>> = ways
        .iter()
        .map(|way| PollFd::new(way.input.socket.as_fd(), PollFlags::POLLIN))
        .collect();
    match ppoll(&mut ports, timeout, None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(LabError::system("cannot wait for frames")(error)),
    }
}

/// One direction of a line.
struct Way {
    input: Port,
    output: Port,
    queue: Queue,
}

impl Way {
    fn new(input: Port, output: Port, shape: Shape) -> Self {
        Self {
            input,
            output,
            queue: Queue::new(shape),
        }
    }

    /// Takes what has arrived.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        /// Leaves the other ways and the due frames their turn.
        const AT_ONCE: usize = 64;
        for _ in 0..AT_ONCE {
            match self.input.receive(buffer)? {
                Some(frame) => {
                    self.queue
                        .push(frame, Instant::now(), fastrand::f64(), fastrand::f64())
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Sends what is due.
    fn deliver(&mut self, now: Instant) {
        while let Some(frame) = self.queue.pop_due(now) {
            self.output.send(&frame);
        }
    }
}

/// The frames that are on their way.
struct Queue {
    shape: Shape,
    frames: BinaryHeap<Reverse<Held>>,
    arrived: u64,
    /// When the last one that keeps its place leaves.
    last_due: Option<Instant>,
    held: usize,
}

/// A frame on its way; ordered by its time, then by arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    arrival: u64,
    frame: Vec<u8>,
}

impl Queue {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            frames: BinaryHeap::new(),
            arrived: 0,
            last_due: None,
            held: 0,
        }
    }

    /// Takes a frame; `jitter` and `luck` are random numbers from 0 to 1.
    fn push(&mut self, frame: &[u8], now: Instant, jitter: f64, luck: f64) {
        if self.held + frame.len() > MAX_HELD {
            return;
        }
        let mut due = now + self.shape.delay + self.shape.jitter.mul_f64(jitter);
        if luck < self.shape.reorder {
            due += OVERTAKEN_BY;
        } else {
            due = self.last_due.map_or(due, |last| last.max(due));
            self.last_due = Some(due);
        }
        self.arrived += 1;
        self.held += frame.len();
        self.frames.push(Reverse(Held {
            due,
            arrival: self.arrived,
            frame: frame.to_vec(),
        }));
    }

    fn next_due(&self) -> Option<Instant> {
        self.frames.peek().map(|Reverse(held)| held.due)
    }

    fn pop_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(held) = self.frames.pop()?;
        self.held -= held.frame.len();
        Some(held.frame)
    }
}

/// A packet socket bound to one interface.
struct Port {
    socket: OwnedFd,
    index: usize,
}

/// Every frame is preceded by a `virtio_net_hdr` (`packet(7)`).
#[derive(Clone, Debug)]
struct PacketVnetHdr;
nix::setsockopt_impl!(
    PacketVnetHdr,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    bool,
    SetBool
);

/// Frames that this machine sends on the interface are not received (`packet(7)`).
#[derive(Clone, Debug)]
struct PacketIgnoreOutgoing;
nix::setsockopt_impl!(
    PacketIgnoreOutgoing,
    libc::SOL_PACKET,
    libc::PACKET_IGNORE_OUTGOING,
    bool,
    SetBool
);

impl Port {
    fn open(interface: &str) -> Result<Self> {
        let failed = || LabError::system::<io::Error>(format!("cannot open interface {interface}"));
        let address = link_address(interface).ok_or_else(|| {
            failed()(io::Error::new(
                io::ErrorKind::NotFound,
                "there is no such interface",
            ))
        })?;
        let open = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                flags,
                SockProtocol::EthAll,
            )?;
            setsockopt(&socket, PacketVnetHdr, &true)?;
            setsockopt(&socket, PacketIgnoreOutgoing, &true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
            setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
            // The address has no protocol: the socket keeps the one it was made with, all.
            bind(socket.as_raw_fd(), &address)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| failed()(error.into()))?;
        Ok(Self {
            socket,
            index: address.ifindex(),
        })
    }

    fn try_clone(&self, interface: &str) -> Result<Self> {
        let socket = self.socket.try_clone();
        let socket = socket.map_err(LabError::system(format!(
            "cannot open interface {interface} again"
        )))?;
        Ok(Self {
            socket,
            index: self.index,
        })
    }

    /// The next frame that has arrived, header included.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
                // Between its creation and `bind` the socket heard all interfaces.
                Ok((_, Some(from))) if from.ifindex() != self.index => continue,
                Ok((len, _)) => return Ok(Some(&buffer[..len])),
                Err(Errno::EAGAIN) => return Ok(None),
                // The interface is down (and may come up again), or a signal came.
                Err(Errno::ENETDOWN | Errno::EINTR) => continue,
                Err(error) => return Err(LabError::system("cannot receive a frame")(error)),
            }
        }
    }

    /// Sends a frame. One that cannot be sent is lost, as on a wire.
    fn send(&self, frame: &[u8]) {
        let _ = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
    }
}

fn link_address(interface: &str) -> Option<LinkAddr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|address| address.interface_name == interface)
        .find_map(|address| address.address?.as_link_addr().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop_due(now))
            .flatten()
            .collect()
    }

    #[test]
    fn a_frame_leaves_when_it_is_due() {
        let start = Instant::now();
        let mut queue = Queue::new(Shape {
            delay: ms(20),
            ..Shape::default()
        });
        queue.push(&[1], start, 0.0, 0.9);
        assert!(drain(&mut queue, start + ms(19)).is_empty());
        assert_eq!(queue.next_due(), Some(start + ms(20)));
        assert_eq!(drain(&mut queue, start + ms(20)), [1]);
    }

    #[test]
    fn jitter_keeps_the_order() {
        let start = Instant::now();
        let mut queue = Queue::new(Shape {
            delay: ms(5),
            jitter: ms(10),
            reorder: 0.0,
        });
        for (frame, jitter) in [(1, 0.9), (2, 0.0), (3, 0.5)] {
            queue.push(&[frame], start, jitter, 0.0);
        }
        assert!(drain(&mut queue, start + ms(13)).is_empty());
        assert_eq!(drain(&mut queue, start + ms(14)), [1, 2, 3]);
    }

    #[test]
    fn an_unlucky_frame_is_overtaken() {
        let start = Instant::now();
        let mut queue = Queue::new(Shape {
            reorder: 0.5,
            ..Shape::default()
        });
        queue.push(&[1], start, 0.0, 0.4);
        queue.push(&[2], start + ms(1), 0.0, 0.6);
        assert_eq!(drain(&mut queue, start + ms(5)), [2, 1]);
    }

    #[test]
    fn a_full_line_loses() {
        let mut queue = Queue::new(Shape {
            delay: ms(5),
            ..Shape::default()
        });
        let now = Instant::now();
        queue.held = MAX_HELD;
        queue.push(&[1], now, 0.0, 0.9);
        assert!(queue.frames.is_empty());
    }
}
