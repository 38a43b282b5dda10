//! The DTS packet filter: the programs at ingress and egress of a node's front and back interface.
//!
//! Each program fetches what a decision needs, asks `dts_core::decide`, carries the outcome out and
//! counts it. Connection state lives in maps that outlive the daemon.
//!
//! | Module | What |
//! |---|---|
//! | `front` | the clients' network: SYN ownership, inspector's port, translation |
//! | `adopt` | there, too: connections that are handed over without a second one |
//! | `arp`, `ndp`, `icmp` | there, too |
//! | `back` | the handover connections between nodes |
//! | `handover_syn` | the SYN that begins one |
//! | `release` | a SYN that one node sends on to another |
//! | `entries` | a flow's entries, a port's service |
//! | `sweep` | run by the daemon: which entries still have a socket |
//! | `facts` | ring, lease, clocks |
//! | `sockets` | the kernel's sockets |
//! | `frame` | reading and rewriting packets |
//! | `trace` | packets and verdicts told, while somebody asks |
//! | `maps` | the maps |
#![no_std]
#![no_main]

mod adopt;
mod arp;
mod back;
mod entries;
mod facts;
mod frame;
mod front;
mod handover_syn;
mod icmp;
mod maps;
mod memory;
mod ndp;
mod release;
mod sockets;
mod sweep;
mod trace;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use dts_core::{
    trace::program,
    verdict::{Action, DropReason, Verdict},
};

use crate::{frame::Skb, maps::STATS};

/// The mark of a packet that a program lets arrive at the front: it has been dealt with.
const FROM_BACK: u32 = 0x4454_5301;
/// The mark of a copy that the front program sends to the client: it has been dealt with.
const TO_CLIENT: u32 = 0x4454_5302;

/// The mark of a segment that the daemon sends on.
const SEND_ON: u32 = dts_core::entry::SEND_ON;
/// The mark of one of these that is for this node's own server.
const ADOPT_HERE: u32 = 0x4454_5303;
/// The mark of a frame with an adoption's option that takes the way over the front; higher by the number of rounds that
/// it has made.
const ADOPT_FRAME: u32 = 0x4454_5400;

/// What a program did, and what it tells the kernel: the verdict's counter above, the code below.
///
/// One register: a function that is not inlined can return it.
#[derive(Clone, Copy)]
struct Outcome(u64);

impl Outcome {
    #[inline(always)]
    const fn new(verdict: Verdict, code: i32) -> Self {
        Self((verdict.counter() as u64) << 32 | code as u32 as u64)
    }

    /// The packet goes on: to the next program, then to the stack or the wire.
    #[inline(always)]
    const fn pass(action: Action) -> Self {
        Self::new(Verdict::Done(action), TC_ACT_UNSPEC)
    }

    /// The packet has done its part.
    #[inline(always)]
    const fn end(action: Action) -> Self {
        Self::new(Verdict::Done(action), TC_ACT_SHOT)
    }

    /// The packet took another way; `code` is what the redirect helper returned.
    #[inline(always)]
    const fn redirect(action: Action, code: i32) -> Self {
        Self::new(Verdict::Done(action), code)
    }

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self::new(Verdict::Drop(reason), TC_ACT_SHOT)
    }
}

/// A program's steps may end early with a reason to drop.
type Step<T = Outcome> = Result<T, DropReason>;

/// Where the early ends of a part come together.
#[inline(always)]
fn outcome(step: impl FnOnce() -> Step) -> Outcome {
    match step() {
        Ok(outcome) => outcome,
        Err(reason) => Outcome::drop(reason),
    }
}

/// Counts what a program did. Every run of every program comes here once.
#[inline(always)]
fn finish(skb: Skb, program: u32, outcome: Outcome) -> i32 {
    if let Some(counter) = STATS.get_ptr_mut((outcome.0 >> 32) as u32) {
        // SAFETY: this CPU's counter; a program run is not interrupted by another on the same CPU.
        unsafe { *counter += 1 };
    }
    trace::end(skb, program, (outcome.0 >> 32) as u32);
    outcome.0 as i32
}

/// Packets that arrive from the clients' network.
#[classifier]
pub fn front_ingress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    trace::begin(skb, program::FRONT_INGRESS);
    let outcome = outcome(|| front::ingress(skb));
    finish(skb, program::FRONT_INGRESS, outcome)
}

/// Packets that leave for the clients' network.
#[classifier]
pub fn front_egress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    trace::begin(skb, program::FRONT_EGRESS);
    let outcome = outcome(|| front::egress(skb));
    finish(skb, program::FRONT_EGRESS, outcome)
}

/// Packets that arrive from the other nodes.
#[classifier]
pub fn back_ingress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    trace::begin(skb, program::BACK_INGRESS);
    let outcome = outcome(|| back::ingress(skb));
    finish(skb, program::BACK_INGRESS, outcome)
}

/// Packets that leave for the other nodes.
#[classifier]
pub fn back_egress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    trace::begin(skb, program::BACK_EGRESS);
    let outcome = outcome(|| back::egress(skb));
    finish(skb, program::BACK_EGRESS, outcome)
}

/// Run by the daemon, never attached: checks the records in the packet against the socket table.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    sweep::run(Skb(ctx.skb.skb))
}

/// Run by tests, never attached: whose each flow in the packet is, by the published ring.
#[classifier]
pub fn ring_owner(ctx: TcContext) -> i32 {
    sweep::ring_owner(Skb(ctx.skb.skb))
}

/// Run by measurements, never attached: what a program costs that does nothing.
#[classifier]
pub fn nothing(_ctx: TcContext) -> i32 {
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
