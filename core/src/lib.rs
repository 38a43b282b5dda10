//! The part of DTS that needs no operating system: wire formats, sequence arithmetic, the
//! consistent-hash ring, connection entries and the filter's decisions.
//!
//! The same code is compiled into the eBPF programs and into user space, so both sides agree by
//! construction. No `std`, no allocation, no `unsafe`, no I/O; time is always an argument.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod cookie;
pub mod decide;
pub mod entry;
pub mod handover;
pub mod head;
pub mod md5;
pub mod notice;
pub mod response;
pub mod ring;
pub mod segment;
pub mod seq;
pub mod siphash;
pub mod trace;
pub mod verdict;
