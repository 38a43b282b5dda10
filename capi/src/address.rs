//! Addresses as C has them.

use std::ffi::c_int;
use std::net::SocketAddr;

use libc::{sockaddr, socklen_t};

/// Puts an address where getpeername(2) would; cut if there is no room for all of it, with its whole length in `*len`.
///
/// # Safety
///
/// `addr` has room for `*len` bytes.
pub(crate) unsafe fn put(
    address: SocketAddr,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<i64, c_int> {
    if addr.is_null() || len.is_null() {
        return Err(libc::EFAULT);
    }
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all-zero is a valid address.
            let mut room: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            room.sin_family = libc::AF_INET as libc::sa_family_t;
            room.sin_port = v4.port().to_be();
            room.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            // SAFETY: the caller says so.
            unsafe { copy(&room, addr, len) };
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all-zero is a valid address.
            let mut room: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            room.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            room.sin6_port = v6.port().to_be();
            room.sin6_addr.s6_addr = v6.ip().octets();
            // SAFETY: the caller says so.
            unsafe { copy(&room, addr, len) };
        }
    }
    Ok(0)
}

/// # Safety
///
/// `addr` has room for `*len` bytes, and neither is NULL.
unsafe fn copy<T>(from: &T, addr: *mut sockaddr, len: *mut socklen_t) {
    // SAFETY: no more is written than there is room, and no more read than there is.
    unsafe {
        let count = (*len as usize).min(size_of::<T>());
        std::ptr::copy_nonoverlapping((&raw const *from).cast::<u8>(), addr.cast(), count);
        *len = size_of::<T>() as socklen_t;
    }
}
