//! libdts: the interface for inspectors in C. The header `dts.h` is made of this file's comments.
//!
//! A C program names what it has by numbers, as it does with sockets: an inspector by its descriptor, a connection by a
//! number that is used once. So a wrong or late one is an error (EBADF), not somebody else's memory.

mod address;
mod handles;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use dts_inspector::{Error, Inspector, Member, Target};
use libc::{sockaddr, socklen_t, ssize_t};

use handles::HANDLES;

/// The header's `DTS_LOCAL`.
const LOCAL: &str = "local";

/// The room for a member's name, its final zero included.
pub const DTS_NAME_SIZE: usize = 64;

/// The room for a member's address as text, its final zero included.
pub const DTS_ADDRESS_SIZE: usize = 46;

/// A node of the cluster.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dts_member {
    /// Its name, which can be the target of a connection.
    pub name: [c_char; DTS_NAME_SIZE],
    /// Its back address as text.
    pub address: [c_char; DTS_ADDRESS_SIZE],
    /// Whether it is the node that the program runs on.
    pub own: bool,
}

/// Carries out what a function is for; -1 and `errno` when it can't be done.
fn result<T: TryFrom<i64>>(outcome: Result<i64, c_int>) -> T {
    let value = outcome.unwrap_or_else(|errno| {
        // SAFETY: the location is this thread's own.
        unsafe { *libc::__errno_location() = errno };
        -1
    });
    match T::try_from(value) {
        Ok(value) => value,
        // No count here is larger than what its type holds.
        Err(_) => unreachable!("{value} is out of range"),
    }
}

fn done(outcome: Result<(), Error>) -> Result<i64, c_int> {
    outcome.map(|()| 0).map_err(|error| error.errno())
}

fn inspector(number: c_int) -> Result<Arc<Inspector>, c_int> {
    HANDLES.inspector(number).ok_or(libc::EBADF)
}

/// Attaches to a service of this node, by its name or by the path of its socket (anything with a slash in it).
///
/// Returns the inspector: a descriptor for poll(2) and its kin, which can be read when dts_accept() or dts_ready() has
/// something. Nothing but this library may read or close it: dts_detach() does.
///
/// # Safety
///
/// `service` is a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_attach(service: *const c_char) -> c_int {
    // SAFETY: the caller says so.
    let service = unsafe { text(service) };
    result(service.and_then(|service| {
        let inspector = Inspector::attach(service).map_err(|error| error.errno())?;
        Ok(HANDLES.add_inspector(inspector).into())
    }))
}

/// Ends an attachment. Its connections that are undecided get what the service's `on_undecided` says.
#[unsafe(no_mangle)]
pub extern "C" fn dts_detach(inspector: c_int) -> c_int {
    let removed = HANDLES.remove_inspector(inspector);
    result(removed.map(|()| 0).ok_or(libc::EBADF))
}

/// Says whether dts_accept(), and dts_read() from the inspector's connections, wait until there is something (they do
/// at first) or fail with EAGAIN.
#[unsafe(no_mangle)]
pub extern "C" fn dts_set_nonblocking(inspector: c_int, nonblocking: bool) -> c_int {
    let set = self::inspector(inspector).map(|i| i.set_nonblocking(nonblocking));
    result(set.map(|()| 0))
}

/// Waits for the next connection whose client has sent something, and returns its number. That is not a descriptor;
/// it is used once.
#[unsafe(no_mangle)]
pub extern "C" fn dts_accept(inspector: c_int) -> c_int {
    result(self::inspector(inspector).and_then(|attached| {
        let connection = attached.accept().map_err(|error| error.errno())?;
        let number = HANDLES.add_connection(inspector, connection);
        Ok(number.ok_or(libc::EBADF)?.into())
    }))
}

/// Returns the next of the accepted connections that has something to be read, or is over; EAGAIN when there is none.
/// Never waits. Each is returned once for each time that something came, so read until EAGAIN.
#[unsafe(no_mangle)]
pub extern "C" fn dts_ready(inspector: c_int) -> c_int {
    result(self::inspector(inspector).and_then(|attached| {
        loop {
            let token = attached.ready().map_err(|error| error.errno())?;
            // One that another thread is about to close has no number any more.
            if let Some(number) = HANDLES.number(inspector, token) {
                return Ok(number.into());
            }
        }
    }))
}

/// Reads what the client has sent, from its first byte on; waits for more when all has been read. Returns 0 when nothing
/// more will be shown: the client has closed its side, or has sent as much as it may (`undecided_bytes`).
///
/// # Safety
///
/// `buf` has room for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_read(s: c_int, buf: *mut c_void, len: usize) -> ssize_t {
    result(HANDLES.connection(s).and_then(|connection| {
        if buf.is_null() && len > 0 {
            return Err(libc::EFAULT);
        }
        let buffer: &mut [u8] = if len == 0 {
            &mut []
        } else {
            // SAFETY: the caller says that there is room. It may not be initialised, so it is before it is lent.
            unsafe {
                std::ptr::write_bytes(buf.cast::<u8>(), 0, len);
                std::slice::from_raw_parts_mut(buf.cast(), len)
            }
        };
        let count = connection.receive(buffer).map_err(|error| error.errno())?;
        Ok(count as i64)
    }))
}

/// Has a connection handed over to `target`: a member's name or back address, `DTS_LOCAL`, or NULL for the service's
/// default target. `buf` has the `len` bytes that were read from it, all of them: a request can't be changed.
///
/// Returns 0 when the daemon has been told; `s` means nothing any more then. EINVAL when the bytes are not those that
/// were read, EHOSTUNREACH when there is no such node: another attempt may be made, or dts_close(). After any other
/// error the connection is over, and `s` means nothing any more.
///
/// # Safety
///
/// `target` is NULL or a string that ends with a zero, and `buf` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_request_handover(
    s: c_int,
    target: *const c_char,
    buf: *const c_void,
    len: usize,
) -> c_int {
    result(HANDLES.connection(s).and_then(|connection| {
        // SAFETY: the caller says so.
        let request = unsafe { bytes(buf, len) }?;
        let target = if target.is_null() {
            Target::Default
        } else {
            // SAFETY: as above.
            match unsafe { text(target) }? {
                LOCAL => Target::Local,
                name => Target::Node(name),
            }
        };
        let outcome = connection.request_handover(target, request);
        if !matches!(outcome, Err(Error::NoNode(_) | Error::OtherRequest)) {
            HANDLES.remove_connection(s);
        }
        done(outcome)
    }))
}

/// Has a connection's client get a reset. `s` means nothing any more afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn dts_reject(s: c_int) -> c_int {
    result(HANDLES.connection(s).and_then(|connection| {
        HANDLES.remove_connection(s);
        done(connection.reject())
    }))
}

/// Leaves a connection to what the service's `on_undecided` says. `s` means nothing any more afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn dts_close(s: c_int) -> c_int {
    result(HANDLES.connection(s).map(|connection| {
        HANDLES.remove_connection(s);
        // It may be over already.
        let _ = connection.leave();
        0
    }))
}

/// The client's address, as getpeername(2) tells it.
///
/// # Safety
///
/// `addr` has room for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_getpeername(
    s: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    result(HANDLES.connection(s).and_then(|connection| {
        // SAFETY: the caller says so.
        unsafe { address::put(connection.client(), addr, len) }
    }))
}

/// The service's address, as getsockname(2) tells it.
///
/// # Safety
///
/// `addr` has room for `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_getsockname(
    s: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    result(HANDLES.connection(s).and_then(|connection| {
        // SAFETY: the caller says so.
        unsafe { address::put(connection.local(), addr, len) }
    }))
}

/// Tells the nodes of the cluster, as many as `count` has room for. Returns how many there are.
///
/// # Safety
///
/// `members` has room for `count` members.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_members(
    inspector: c_int,
    members: *mut dts_member,
    count: usize,
) -> ssize_t {
    result(self::inspector(inspector).map(|attached| {
        let cluster = attached.cluster();
        for (place, member) in cluster.members().iter().take(count).enumerate() {
            let told = dts_member::new(member, member == cluster.own());
            // SAFETY: the caller says that there is room.
            unsafe { members.add(place).write(told) };
        }
        cluster.members().len() as i64
    }))
}

/// Tells the number of the cluster's ring, which is higher after each change of the members.
///
/// # Safety
///
/// `epoch` points to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_epoch(inspector: c_int, epoch: *mut u64) -> c_int {
    result(self::inspector(inspector).map(|attached| {
        // SAFETY: the caller says so.
        unsafe { epoch.write(attached.cluster().epoch()) };
        0
    }))
}

/// Tells the node that a key belongs to on the ring of requests. With a request's target (path and query) as the key,
/// it is the one that `to = { hash = "uri" }` would choose.
///
/// # Safety
///
/// `key` has `len` bytes, and `node` points to a member.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dts_ring_lookup(
    inspector: c_int,
    key: *const c_void,
    len: usize,
    node: *mut dts_member,
) -> c_int {
    result(self::inspector(inspector).and_then(|attached| {
        // SAFETY: the caller says so.
        let key = unsafe { bytes(key, len) }?;
        let cluster = attached.cluster();
        let member = cluster.ring_lookup(key).ok_or(libc::EHOSTUNREACH)?;
        // SAFETY: as above.
        unsafe { node.write(dts_member::new(member, member == cluster.own())) };
        Ok(0)
    }))
}

impl dts_member {
    fn new(member: &Member, own: bool) -> Self {
        Self {
            name: padded(&member.name),
            address: padded(&member.address.to_string()),
            own,
        }
    }
}

/// A text and zeros behind it, one at least.
fn padded<const N: usize>(text: &str) -> [c_char; N] {
    let mut room = [0; N];
    for (place, byte) in room[..N - 1].iter_mut().zip(text.bytes()) {
        *place = byte as c_char;
    }
    room
}

/// A C string's text; EFAULT for NULL, EINVAL for what isn't UTF-8.
///
/// # Safety
///
/// It is NULL, or ends with a zero and stays as it is.
unsafe fn text<'a>(string: *const c_char) -> Result<&'a str, c_int> {
    if string.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller says so.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_str().map_err(|_| libc::EINVAL)
}

/// A buffer's bytes; EFAULT for NULL unless there are none.
///
/// # Safety
///
/// It is NULL, or has `len` bytes and stays as it is.
unsafe fn bytes<'a>(buf: *const c_void, len: usize) -> Result<&'a [u8], c_int> {
    match (buf.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(libc::EFAULT),
        // SAFETY: the caller says so.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(buf.cast(), len) }),
    }
}

#[cfg(test)]
mod tests;
