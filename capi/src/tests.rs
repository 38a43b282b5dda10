use std::ffi::{CString, c_int};
use std::ptr::{null, null_mut};

use super::*;

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    for number in [-1, 0, 2, 1 << 30, c_int::MAX] {
        let mut buffer = [0u8; 4];
        let mut epoch = 0;
        // SAFETY: pointers are NULL where nothing is read or written, else to what is said.
        let with_pointers = unsafe {
            [
                dts_epoch(number, &raw mut epoch),
                dts_request_handover(number, null(), null(), 0),
                dts_getpeername(number, null_mut(), null_mut()),
                dts_read(number, buffer.as_mut_ptr().cast(), 4) as c_int,
                dts_members(number, null_mut(), 0) as c_int,
            ]
        };
        let all = [
            dts_detach(number),
            dts_accept(number),
            dts_ready(number),
            dts_set_nonblocking(number, true),
            dts_reject(number),
            dts_close(number),
        ];
        assert_eq!((all, with_pointers), ([-1; 6], [-1; 5]));
        assert_eq!(errno(), libc::EBADF);
    }
}

#[test]
fn a_service_without_a_daemon_is_an_error() {
    let directory = tempfile_path();
    let service = CString::new(directory).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { dts_attach(service.as_ptr()) }, -1);
    assert_eq!(errno(), libc::ENOENT);
    // SAFETY: NULL is refused.
    assert_eq!(unsafe { dts_attach(null()) }, -1);
    assert_eq!(errno(), libc::EFAULT);
}

fn tempfile_path() -> String {
    let name = format!("dts-no-socket-{}/x", std::process::id());
    std::env::temp_dir().join(name).display().to_string()
}

#[test]
fn addresses_are_cut_to_the_room_there_is() {
    let v4 = "198.18.0.200:40000".parse().unwrap();
    // SAFETY: all-zero is a valid address.
    let mut room: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_in>() as socklen_t;
    // SAFETY: there is so much room.
    unsafe { address::put(v4, (&raw mut room).cast(), &raw mut len) }.unwrap();
    assert_eq!(room.sin_port, 40_000u16.to_be());
    assert_eq!(room.sin_addr.s_addr.to_ne_bytes(), [198, 18, 0, 200]);

    let v6 = "[2001:db8::1]:80".parse().unwrap();
    let mut small = [0xffu8; 8];
    let mut len = 4;
    // SAFETY: there are four bytes.
    unsafe { address::put(v6, small.as_mut_ptr().cast(), &raw mut len) }.unwrap();
    assert_eq!(len as usize, size_of::<libc::sockaddr_in6>());
    assert_eq!(small[4..], [0xff; 4]);
    assert_eq!(
        u16::from_ne_bytes([small[0], small[1]]),
        libc::AF_INET6 as u16
    );
}

#[test]
fn texts_are_padded_and_cut() {
    let room: [c_char; 4] = padded("ab");
    assert_eq!(room, [b'a' as c_char, b'b' as c_char, 0, 0]);
    let room: [c_char; 3] = padded("abcd");
    assert_eq!(room, [b'a' as c_char, b'b' as c_char, 0]);
}
