//! The DTS packet filter.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

/// Lets every packet pass to whatever comes next.
#[classifier]
pub fn front_ingress(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The kernel lends the helpers we call to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
