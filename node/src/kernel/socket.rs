//! The few socket operations that no safe library offers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::connect_unspec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Closes a TCP connection without a FIN or reset, and without leaving anything behind: the kernel
/// forgets a socket in repair mode (TCP_REPAIR, `tcp(7)`). Needs CAP_NET_ADMIN.
///
/// # Errors
///
/// When the socket can't be put into repair mode; it is closed in the ordinary way then.
pub fn close_silently(socket: impl Into<OwnedFd>) -> io::Result<()> {
    let socket = socket.into();
    set_int(&socket, libc::TCP_REPAIR, 1)
}

/// Ends a TCP connection like [`close_silently`], but keeps the socket, which can be connected again.
///
/// # Errors
///
/// When the socket can't be put into repair mode, or not disconnected.
pub fn disconnect_silently(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::TCP_REPAIR, 1)?;
    connect_unspec(socket)?;
    // Unlike 0, never with a window probe.
    set_int(socket, libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
}

/// `linux/tcp.h`
const TCP_REPAIR_OFF_NO_WP: libc::c_int = -1;

/// Lets a listener hand out a connection only when its first data is there (TCP_DEFER_ACCEPT).
///
/// # Errors
///
/// When the socket is no TCP socket.
pub fn defer_accept(listener: &impl AsFd, patience: Duration) -> io::Result<()> {
    let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).max(1);
    set_int(listener, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Says whether the kernel acknowledges data at once, or waits whether something will go the other way
/// (TCP_QUICKACK). Turning it on sends an acknowledgment that is due. A listener's connections inherit it.
///
/// # Errors
///
/// When the socket is no TCP socket.
pub fn acknowledge_at_once(socket: &impl AsFd, at_once: bool) -> io::Result<()> {
    set_int(socket, libc::TCP_QUICKACK, at_once.into())
}

/// How many bytes of what was sent the other end has not acknowledged (SIOCOUTQ, `tcp(7)`).
///
/// # Errors
///
/// When the socket is no TCP socket, or listens.
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open; the request (SIOCOUTQ is TIOCOUTQ) writes one int.
    let r = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

fn set_int(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the value is an int of the length given.
    let r = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether an interface is there and up (IFF_UP); `false` when it can't be asked.
#[must_use]
pub fn interface_is_up(name: &str) -> bool {
    let Ok(socket) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None) else {
        return false;
    };
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than the room there is: the name ends with a zero.
    if name.len() >= request.ifr_name.len() {
        return false;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the descriptor is open and the request is as the kernel wants it.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if r != 0 {
        return false;
    }
    // SAFETY: SIOCGIFFLAGS has filled the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    libc::c_int::from(flags) & libc::IFF_UP != 0
}

/// Registers a socket with the event loop, to wait for what `interest` says.
///
/// # Errors
///
/// When the system's event queue refuses it.
pub fn watch(socket: socket2::Socket, interest: Interest) -> io::Result<AsyncFd<socket2::Socket>> {
    // SAFETY: the socket owns its descriptor, returns the same one always, and keeps it open until it is
    // dropped, which the registration outlives not: `AsyncFd` owns both.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}

/// Registers a descriptor of the kernel's, such as a ring buffer's, with the event loop, to wait until it can be read.
///
/// # Errors
///
/// When the system's event queue refuses it.
pub fn watch_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// A socket that sends whole frames out of interfaces, and receives nothing.
pub struct Packets {
    socket: socket2::Socket,
}

impl Packets {
    /// Opens one whose frames carry `mark`. Needs CAP_NET_RAW.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open(mark: u32) -> io::Result<Self> {
        // Protocol 0: no packet is copied to it.
        let socket = socket2::Socket::new(
            socket2::Domain::PACKET,
            socket2::Type::RAW.nonblocking(),
            None,
        )?;
        socket.set_mark(mark)?;
        Ok(Self { socket })
    }

    /// Sends an Ethernet frame, header included, out of the interface with this index.
    ///
    /// # Errors
    ///
    /// When it can't be sent.
    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        let Some([.., a, b]) = frame.first_chunk::<14>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // In network byte order there and here.
        let protocol = [*a, *b];
        // SAFETY: all-zero is a valid address.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = u16::from_ne_bytes(protocol);
        to.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open; frame and address are of the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
