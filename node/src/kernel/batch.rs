//! Reading a whole hash map with few system calls (BPF_MAP_LOOKUP_BATCH, Linux 5.6).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::shared::Plain;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// How many entries one call asks for. A bucket that doesn't fit makes the kernel say ENOSPC.
const CHUNK: usize = 4096;

/// The part of `union bpf_attr` that the batch commands use.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Every entry of a hash map. Entries that come or go meanwhile may be missing or be there.
pub(super) fn entries<K: Plain, V: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut keys: Vec<K> = Vec::with_capacity(CHUNK);
    let mut values: Vec<V> = Vec::with_capacity(CHUNK);
    let (mut position, mut next) = (0u64, 0u64);
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { (&raw mut position) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute is as the kernel defines it; both buffers have room for `count`
        // elements of the map's key and value size, and the positions for a hash map's u32.
        let r = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        let error = (r < 0).then(io::Error::last_os_error);
        match error.as_ref().and_then(io::Error::raw_os_error) {
            None | Some(libc::ENOENT) => {}
            Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
        }
        let count = (attr.count as usize).min(CHUNK);
        // SAFETY: the kernel has filled `count` elements of each, and plain types take any bytes.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        all.extend(keys.drain(..).zip(values.drain(..)));
        if error.is_some() {
            return Ok(all);
        }
        position = next;
        first = false;
    }
}
