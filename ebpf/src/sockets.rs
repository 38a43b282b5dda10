//! The kernel's sockets: looked up, read, and made.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock_tuple},
    helpers::generated as helper,
};
use dts_core::{addr::FlowKey, decide::Socket, entry::ASSIGN_TCP_REQSK, segment::TCP_HEADER};

use crate::{
    frame::{ETH, IPV4, IPV6, Ip, Skb},
    maps::{Attributes, TUPLE},
};

/// Socket states of the kernel that matter here (`include/net/tcp_states.h`).
const TCP_ESTABLISHED: u32 = 1;
const TCP_TIME_WAIT: u32 = 6;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// How many bytes a `struct bpf_sock_tuple` has of each family.
const V4_TUPLE: u32 = 12;
const V6_TUPLE: u32 = 36;

/// A socket of the kernel, released when dropped.
pub struct SockRef(*mut core::ffi::c_void);

impl SockRef {
    /// The socket that a segment from `remote` to `local` would meet, a listener included.
    #[inline(always)]
    pub fn lookup(skb: Skb, flow: &FlowKey) -> Option<Self> {
        let ports = u32::from(flow.remote_port) << 16 | u32::from(flow.local_port);
        // `struct bpf_sock_tuple`: addresses, then ports, in network order. The kernel tells the family by the length.
        let ([a, b, c, d], [e, f, g, h]) = (flow.remote.words(), flow.local.words());
        let ports = ports.to_be();
        let room = TUPLE.get_ptr_mut(0)?;
        // SAFETY: this CPU's value, which only one program run at a time uses: see `frame::options`.
        let tuple = unsafe { &mut *room };
        let len = if flow.local.is_v4() {
            [tuple[0], tuple[1], tuple[2]] = [d, h, ports];
            V4_TUPLE
        } else {
            *tuple = [a, b, c, d, e, f, g, h, ports];
            V6_TUPLE
        };
        // SAFETY: the tuple holds as many bytes as its length says; -1 is the program's own namespace.
        let sk = unsafe {
            helper::bpf_skc_lookup_tcp(
                skb.0.cast(),
                tuple.as_mut_ptr().cast::<bpf_sock_tuple>(),
                len,
                u64::MAX,
                0,
            )
        };
        if sk.is_null() {
            None
        } else {
            Some(Self(sk.cast()))
        }
    }

    /// The socket's state.
    #[inline(always)]
    pub fn state(&self) -> u32 {
        // SAFETY: a looked-up socket is valid until it is released.
        unsafe { (*self.0.cast::<aya_ebpf::bindings::bpf_sock>()).state }
    }

    /// What the socket is to the filter.
    #[inline(always)]
    pub fn kind(&self) -> Socket {
        match self.state() {
            TCP_LISTEN | TCP_CLOSE => Socket::None,
            TCP_TIME_WAIT => Socket::TimeWait,
            _ => Socket::Alive,
        }
    }

    /// Whether a listener would take the segment as the answer to a SYN cookie of its own.
    #[inline(always)]
    pub fn answers_cookie(&self, skb: Skb, ip: &Ip) -> bool {
        if self.state() != TCP_LISTEN {
            return false;
        }
        let Some(mut th) = skb.load::<TCP_HEADER>(ip.l4()) else {
            return false;
        };
        let mut iph = [0u32; IPV6 as usize / 4];
        let len = if ip.v6 { IPV6 } else { IPV4 };
        // SAFETY: there is room for the longer of the two headers; the helper checks the offset.
        let r = unsafe {
            helper::bpf_skb_load_bytes(skb.0.cast_const().cast(), ETH, iph.as_mut_ptr().cast(), len)
        };
        if r != 0 {
            return false;
        }
        // SAFETY: both headers are whole and of the lengths given.
        let r = unsafe {
            helper::bpf_tcp_check_syncookie(
                self.0,
                iph.as_mut_ptr().cast(),
                len,
                th.as_mut_ptr().cast(),
                TCP_HEADER as u32,
            )
        };
        r == 0
    }

    /// The next sequence number that a socket in TIME_WAIT expects; `None` for other sockets, and
    /// when the loader did not find the field in the kernel's type information.
    #[inline(always)]
    pub fn time_wait_rcv_nxt(&self) -> Option<u32> {
        self.time_wait_field(&raw const TW_RCV_NXT)
    }

    /// The last timestamp value that a socket in TIME_WAIT had from its client; 0 when there was none. `None` as above.
    #[inline(always)]
    pub fn time_wait_ts_recent(&self) -> Option<u32> {
        self.time_wait_field(&raw const TW_TS_RECENT)
    }

    #[inline(always)]
    fn time_wait_field(&self, offset: *const u32) -> Option<u32> {
        // SAFETY: a static of ours; volatile, because the loader writes it.
        let offset = unsafe { offset.read_volatile() };
        if offset == 0 {
            return None;
        }
        // SAFETY: plain helper call on a socket that is held.
        let tw = unsafe { helper::bpf_skc_to_tcp_timewait_sock(self.0) };
        if tw.is_null() {
            return None;
        }
        // SAFETY: the verifier checks the access against the kernel's type information.
        Some(unsafe { read_at(tw.cast(), offset) })
    }

    /// The next sequence number that a connection expects; `None` for TIME_WAIT and listeners.
    #[inline(always)]
    pub fn rcv_nxt(&self) -> Option<u32> {
        // SAFETY: plain helper call on a socket that is held.
        let tcp = unsafe { helper::bpf_tcp_sock(self.0.cast()) };
        if tcp.is_null() {
            return None;
        }
        // SAFETY: the helper's result is valid as long as the socket is held.
        Some(unsafe { (*tcp).rcv_nxt })
    }

    /// Whether this is a listener.
    #[inline(always)]
    pub fn listens(&self) -> bool {
        self.state() == TCP_LISTEN
    }

    /// How long a round trip of a connection takes, in whole milliseconds: one at least.
    #[inline(always)]
    pub fn round_trip_ms(&self) -> u32 {
        // SAFETY: plain helper call on a socket that is held.
        let tcp = unsafe { helper::bpf_tcp_sock(self.0.cast()) };
        if tcp.is_null() {
            return 1;
        }
        // SAFETY: the helper's result is valid as long as the socket is held. The kernel keeps it eight times as large.
        let ms = unsafe { (*tcp).srtt_us } / 8000;
        if ms == 0 { 1 } else { ms & 0x7fff }
    }

    /// The kernel's own view of an established connection.
    #[inline(always)]
    pub fn connection(&self) -> Option<Connection> {
        if self.state() != TCP_ESTABLISHED {
            return None;
        }
        self.listener().map(|tcp| Connection(tcp.0))
    }

    /// The kernel's own view of a listener, for what reads or takes it.
    #[inline(always)]
    pub fn listener(&self) -> Option<Listener> {
        // SAFETY: plain helper call on a socket that is held.
        let tcp = unsafe { helper::bpf_skc_to_tcp_sock(self.0) };
        if tcp.is_null() {
            return None;
        }
        Some(Listener(tcp.cast()))
    }
}

/// A listener, as the kernel's `struct tcp_sock`. Valid as long as the [`SockRef`] it is from.
#[derive(Clone, Copy)]
pub struct Listener(*mut core::ffi::c_void);

impl Listener {
    /// Whether as many connections wait to be accepted as may (the kernel's `sk_acceptq_is_full`).
    #[inline(always)]
    pub fn queue_is_full(self) -> bool {
        // SAFETY: statics of ours; volatile, because the loader writes them.
        let (waiting, most) = unsafe {
            (
                (&raw const ACK_BACKLOG).read_volatile(),
                (&raw const MAX_ACK_BACKLOG).read_volatile(),
            )
        };
        if waiting == 0 || most == 0 {
            return false;
        }
        // SAFETY: the verifier checks the accesses against the kernel's type information.
        unsafe { read_at(self.0, waiting) > read_at(self.0, most) }
    }

    /// Whether it speaks MPTCP: the kernel makes no sockets for it of segments.
    #[inline(always)]
    pub fn speaks_mptcp(self) -> bool {
        // SAFETY: a static of ours; volatile, because the loader writes it.
        let offset = unsafe { (&raw const IS_MPTCP).read_volatile() };
        if offset == 0 {
            return false;
        }
        // SAFETY: the verifier checks the access against the kernel's type information.
        unsafe { self.0.cast::<u8>().wrapping_add(offset as usize).read() != 0 }
    }

    /// Has the kernel make the connection's socket of this segment, as if its own SYN cookie were answered.
    #[inline(always)]
    pub fn adopt(self, skb: Skb, attributes: &mut Attributes) -> bool {
        type Assign = unsafe extern "C" fn(
            *mut __sk_buff,
            *mut core::ffi::c_void,
            *mut Attributes,
            u32,
        ) -> i32;
        // SAFETY: no function is at this address. The compiler makes a call of a helper with this number of it, and the
        // loader a call of the kernel's function, whose signature this is.
        let assign: Assign = unsafe { core::mem::transmute(ASSIGN_TCP_REQSK as usize) };
        // SAFETY: the verifier checks the arguments; the socket is held.
        unsafe { assign(skb.0, self.0, attributes, size_of::<Attributes>() as u32) == 0 }
    }
}

/// A connection, as the kernel's `struct tcp_sock`. Valid as long as the [`SockRef`] it is from.
#[derive(Clone, Copy)]
pub struct Connection(*mut core::ffi::c_void);

impl Connection {
    /// Whether the server has read all that came before `seq`, the next that is expected, and all that it has written is
    /// acknowledged by `ack`; `false` when the loader did not find the fields.
    #[inline(always)]
    pub fn is_drained(self, seq: u32, ack: u32) -> bool {
        // SAFETY: statics of ours; volatile, because the loader writes them.
        let (next, copied, written, early) = unsafe {
            (
                (&raw const RCV_NXT).read_volatile(),
                (&raw const COPIED_SEQ).read_volatile(),
                (&raw const WRITE_SEQ).read_volatile(),
                (&raw const OUT_OF_ORDER).read_volatile(),
            )
        };
        if next == 0 || copied == 0 || written == 0 || early == 0 {
            return false;
        }
        // SAFETY: the verifier checks the accesses against the kernel's type information.
        unsafe {
            read_at(self.0, next) == seq
                && read_at(self.0, copied) == seq
                && read_at(self.0, written) == ack
                && self
                    .0
                    .cast::<u8>()
                    .wrapping_add(early as usize)
                    .cast::<u64>()
                    .read()
                    == 0
        }
    }

    /// What the kernel adds to its clock for this connection's timestamps.
    #[inline(always)]
    pub fn stamp_offset(self) -> u32 {
        // SAFETY: a static of ours; volatile, because the loader writes it.
        let offset = unsafe { (&raw const TS_OFFSET).read_volatile() };
        if offset == 0 {
            return 0;
        }
        // SAFETY: the verifier checks the access against the kernel's type information.
        unsafe { read_at(self.0, offset) }
    }
}

/// The word at an offset of a structure of the kernel's.
///
/// # Safety
///
/// The pointer must be one whose accesses the verifier checks.
#[inline(always)]
unsafe fn read_at(of: *mut core::ffi::c_void, offset: u32) -> u32 {
    // SAFETY: as the caller promises.
    unsafe {
        of.cast::<u8>()
            .wrapping_add(offset as usize)
            .cast::<u32>()
            .read()
    }
}

/// The offset of `skc_tw_rcv_nxt` in the part that the kernel's `struct tcp_timewait_sock` begins with, set by
/// the loader; 0: unknown.
///
/// `used`, or the compiler takes its place for that of other constants of four zeros, and what the loader writes
/// here shows up in checksums.
#[used]
#[unsafe(no_mangle)]
static TW_RCV_NXT: u32 = 0;

/// The offset of the part's `tw_ts_recent` of the kernel's `struct tcp_timewait_sock`; 0: unknown.
#[used]
#[unsafe(no_mangle)]
static TW_TS_RECENT: u32 = 0;

/// The offset of `sk_ack_backlog` in the kernel's `struct sock`; 0: unknown.
#[used]
#[unsafe(no_mangle)]
static ACK_BACKLOG: u32 = 0;

/// The offset of `sk_max_ack_backlog` there; 0: unknown.
#[used]
#[unsafe(no_mangle)]
static MAX_ACK_BACKLOG: u32 = 0;

/// The offset of `rcv_nxt` in the kernel's `struct tcp_sock`; 0: unknown. The same of those that follow.
#[used]
#[unsafe(no_mangle)]
static RCV_NXT: u32 = 0;

/// The offset of `copied_seq`.
#[used]
#[unsafe(no_mangle)]
static COPIED_SEQ: u32 = 0;

/// The offset of `write_seq`.
#[used]
#[unsafe(no_mangle)]
static WRITE_SEQ: u32 = 0;

/// The offset of `out_of_order_queue`, whose first word is no null pointer when something is in it.
#[used]
#[unsafe(no_mangle)]
static OUT_OF_ORDER: u32 = 0;

/// The offset of `tsoffset`.
#[used]
#[unsafe(no_mangle)]
static TS_OFFSET: u32 = 0;

/// The offset of `is_mptcp` in the kernel's `struct tcp_sock`; 0: it has none.
#[used]
#[unsafe(no_mangle)]
static IS_MPTCP: u32 = 0;

impl Drop for SockRef {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the reference came from a lookup and is released once.
        unsafe { helper::bpf_sk_release(self.0) };
    }
}

/// What the kernel has for a flow.
#[inline(never)]
pub fn socket(skb: Skb, flow: &FlowKey) -> Socket {
    match SockRef::lookup(skb, flow) {
        Some(sk) => sk.kind(),
        None => Socket::None,
    }
}
