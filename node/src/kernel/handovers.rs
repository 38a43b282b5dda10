//! The array `HANDOVERS` as memory that the daemon shares with the filter.
//!
//! Each handover is noted before its first segment and forgotten after its last one. As system calls, these
//! two would be a noticeable part of what a handover costs.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use dts_core::entry::{HANDOVER_PORTS, Handover, flag};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const LEN: usize = HANDOVER_PORTS as usize * size_of::<Handover>();

/// The mapped array.
pub(super) struct Handovers {
    first: NonNull<Handover>,
}

// SAFETY: the memory is the kernel's and stays mapped as long as the value lives. The filter reads it at any
// time, so every access is volatile, whichever thread makes it; a port's handover is written by the thread
// that owns the port's socket.
unsafe impl Send for Handovers {}
// SAFETY: as above.
unsafe impl Sync for Handovers {}

impl Handovers {
    /// Maps the array.
    pub(super) fn map(array: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping of the array's own length, at a place that the kernel chooses.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                array,
                0,
            )
        }?;
        let first = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first })
    }

    fn slot(&self, port: u16) -> *mut Handover {
        // SAFETY: there is a value for each port.
        unsafe { self.first.as_ptr().add(port.into()) }
    }

    /// Notes or changes the handover connection of a port.
    pub(super) fn set(&self, port: u16, handover: &Handover) {
        let slot = self.slot(port);
        let used = Handover {
            flags: handover.flags | flag::USED,
            ..*handover
        };
        // SAFETY: the slot is inside the mapping and aligned. No segment of this port's is on its way while
        // anything but the request's end changes.
        unsafe { slot.write_volatile(used) };
        // The system call that sends the first segment comes after it.
        fence(Ordering::Release);
    }

    /// Forgets the handover connection of a port, unless the port is another flow's by now.
    pub(super) fn remove(&self, port: u16, handover: &Handover) {
        let slot = self.slot(port);
        // SAFETY: inside the mapping, aligned; any bytes are a value.
        unsafe {
            if (&raw const (*slot).flow).read_volatile() == handover.flow {
                (&raw mut (*slot).flags).write_volatile(0);
            }
        }
    }

    /// Every handover connection.
    pub(super) fn all(&self) -> Vec<(u16, Handover)> {
        (0..=u16::MAX)
            .map(|port| {
                // SAFETY: inside the mapping, aligned; any bytes are a value.
                (port, unsafe { self.slot(port).read_volatile() })
            })
            .filter(|(_, handover)| handover.flags & flag::USED != 0)
            .collect()
    }
}

impl Drop for Handovers {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and nothing refers to it any more. A failure leaves it mapped.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), LEN) };
    }
}
