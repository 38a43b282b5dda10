//! SYNs answered with cookies, and cookies verified.

use dts_core::{
    cookie::{self, Terms},
    decide::{
        Facts, Ownership, Port, Socket,
        adopt::{self, Syn},
    },
    entry::{
        NodeSettings, ServiceEntry,
        adoption::{COOKIE_KEYS as KEYS, track},
    },
    handover::{AGREED_ECN, AGREED_SACK, AGREED_SCALE, destination::announced_v6},
    segment::{ACK, ECE, SYN, TcpHeader, kind},
    seq::{Seq, timestamp_is_later},
    verdict::{Action, DropReason},
};

use super::{adopt_room, make_reset, record, to_client};
use crate::{
    FROM_BACK, Outcome, Step,
    facts::{ownership, unix_ms},
    frame::{SYN_ACK_OPTIONS, Segment, Skb, macs, make_syn_ack, options},
    maps::{AdoptRoom, COOKIE_KEYS, Scratch},
    outcome,
    sockets::{SockRef, socket},
};

struct SynFacts<'a> {
    skb: Skb,
    segment: &'a Segment,
}

impl Facts for SynFacts<'_> {
    #[inline(always)]
    fn ownership(&self) -> Ownership {
        let flow = &self.segment.flow;
        ownership(&flow.remote, flow.remote_port)
    }

    #[inline(always)]
    fn socket(&self, _: Port) -> Socket {
        socket(self.skb, &self.segment.flow)
    }

    #[inline(always)]
    fn answers_cookie(&self) -> bool {
        false
    }
}

/// A SYN to an adopting service.
#[inline(never)]
pub(super) fn syn(
    skb: Skb,
    segment: &mut Segment,
    service: &ServiceEntry,
    settings: &NodeSettings,
) -> Outcome {
    outcome(|| {
        let header_len = segment.tcp.header.header_len;
        let Some(scratch) = options(skb, segment.ip.l4(), header_len.into()) else {
            return Err(DropReason::Malformed);
        };
        let facts = SynFacts { skb, segment };
        match adopt::syn(&facts, || may_follow(skb, segment, scratch)) {
            Syn::Drop(reason) => {
                mark_old(segment);
                Err(reason)
            }
            Syn::Challenge => {
                skb.accept();
                Ok(Outcome::pass(Action::Challenge))
            }
            Syn::KillTimeWait => {
                time_wait_reset(skb, segment)?;
                skb.accept();
                Ok(Outcome::pass(Action::TimeWaitKilled))
            }
            Syn::AnswerAfterTimeWait => {
                let Some((_, from)) = macs(skb) else {
                    return Err(DropReason::Malformed);
                };
                time_wait_reset(skb, segment)?;
                skb.set_mark(FROM_BACK);
                let copied = skb.arrive_copy(skb.ifindex());
                skb.set_mark(0);
                copied?;
                // Of the SYN the answer needs no more than what was read of it.
                answer(skb, segment, scratch, (service.most, &from, settings))
            }
            Syn::Answer => {
                let Some((_, from)) = macs(skb) else {
                    return Err(DropReason::Malformed);
                };
                answer(skb, segment, scratch, (service.most, &from, settings))
            }
        }
    })
}

/// Marks what is known of the flow as an earlier connection's: it would keep the new one's request from being looked at.
/// It goes on serving repeated segments of its own: the SYN may be forged, and a request that has moved has no cookie.
#[inline(always)]
fn mark_old(segment: &Segment) {
    if let Some(known) = record(segment) {
        known.track |= track::STALE;
    }
}

/// Whether the kernel would let a SYN follow the connection that waits in TIME_WAIT: its own rule (RFC 6191).
#[inline(never)]
fn may_follow(skb: Skb, segment: &Segment, scratch: &Scratch) -> bool {
    let Some(sk) = SockRef::lookup(skb, &segment.flow) else {
        return false;
    };
    let Some(expected) = sk.time_wait_rcv_nxt() else {
        return false;
    };
    if segment.tcp.header.seq.is_after(Seq(expected)) {
        return true;
    }
    match (scratch.scan.timestamp_pair(), sk.time_wait_ts_recent()) {
        (Some((value, _)), Some(recent)) => recent != 0 && timestamp_is_later(value, recent),
        _ => false,
    }
}

/// Turns a SYN into the reset that removes this node's TIME_WAIT socket of its flow.
#[inline(never)]
fn time_wait_reset(skb: Skb, segment: &Segment) -> Result<(), DropReason> {
    let expected = match SockRef::lookup(skb, &segment.flow) {
        Some(sk) => sk.time_wait_rcv_nxt(),
        None => None,
    };
    let Some(expected) = expected else {
        return Err(DropReason::NotOwner);
    };
    make_reset(skb, segment, expected)
}

/// Answers a SYN with a cookie.
#[inline(never)]
fn answer(
    skb: Skb,
    segment: &Segment,
    scratch: &Scratch,
    (most, client, settings): (u32, &[u8; 6], &NodeSettings),
) -> Step {
    mark_old(segment);
    let room = adopt_room()?;
    room.terms = Terms::of_syn(&segment.tcp.header, &scratch.scan, segment.ip.v6);
    let tsval = match scratch.scan.timestamp_pair() {
        Some((value, _)) => value,
        None => 0,
    };
    make(segment, settings, room)?;
    let t = &segment.tcp.header;
    let ecn = room.terms.agreed & AGREED_ECN != 0;
    let header = TcpHeader {
        source: t.destination,
        destination: t.source,
        seq: room.syn_ack.isn,
        ack: t.seq.plus(1),
        header_len: (20 + SYN_ACK_OPTIONS) as u8,
        flags: SYN | ACK | if ecn { ECE } else { 0 },
        window: if most > u16::MAX as u32 {
            u16::MAX
        } else {
            most as u16
        },
        ..TcpHeader::default()
    };
    let options = offered(room, tsval, segment.ip.v6, settings);
    make_syn_ack(skb, &segment.ip, &header, &options)?;
    to_client(skb, client, Action::SynAnswered, settings)
}

/// The SYN-ACK's options, in the order that Linux has them.
#[inline(always)]
fn offered(
    room: &AdoptRoom,
    tsval: u32,
    v6: bool,
    settings: &NodeSettings,
) -> [u32; SYN_ACK_OPTIONS / 4] {
    const NOP: u8 = kind::NOP;
    let mss = if v6 {
        announced_v6(settings.announced_mss)
    } else {
        settings.announced_mss
    };
    let mss = mss.to_be_bytes();
    let agreed = room.terms.agreed;
    let sack = if agreed & AGREED_SACK != 0 {
        [kind::SACK_PERMITTED, 2]
    } else {
        [NOP, NOP]
    };
    let scale = if agreed & AGREED_SCALE != 0 {
        [NOP, kind::WINDOW_SCALE, 3, settings.announced_scale]
    } else {
        [NOP; 4]
    };
    let (kinds, value, echo) = match room.syn_ack.tsval {
        Some(value) => ([kind::TIMESTAMPS, 10], value.to_be(), tsval.to_be()),
        None => (
            [NOP, NOP],
            u32::from_ne_bytes([NOP; 4]),
            u32::from_ne_bytes([NOP; 4]),
        ),
    };
    [
        u32::from_ne_bytes([kind::MSS, 4, mss[0], mss[1]]),
        u32::from_ne_bytes([sack[0], sack[1], kinds[0], kinds[1]]),
        value,
        echo,
        u32::from_ne_bytes(scale),
    ]
}

/// The key of a slot's cookies, if the daemon has told it.
#[inline(always)]
fn key(slot: u64) -> Option<&'static [u8; 16]> {
    let number = cookie::key_number(slot);
    let key = COOKIE_KEYS.get((number % KEYS as u64) as u32)?;
    (key.number == number + 1).then_some(&key.key)
}

/// Makes the cookie. A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn make(
    segment: &Segment,
    settings: &NodeSettings,
    room: &mut AdoptRoom,
) -> Result<(), DropReason> {
    let ms = unix_ms(settings);
    let slot = cookie::slot(ms / 1000);
    let Some(key) = key(slot) else {
        return Err(DropReason::NoRing);
    };
    let client = (segment.tcp.header.seq, &room.terms);
    room.syn_ack = cookie::make(key, &segment.flow, client, slot, ms as u32);
    Ok(())
}

/// Whether a segment answers a SYN-ACK of this cluster's; its terms are in the room then.
#[inline(never)]
pub(super) fn verify(
    skb: Skb,
    segment: &Segment,
    settings: &NodeSettings,
    room: &mut AdoptRoom,
) -> bool {
    let header_len = segment.tcp.header.header_len;
    let Some(scratch) = options(skb, segment.ip.l4(), header_len.into()) else {
        return false;
    };
    let (tsval, tsecr) = match scratch.scan.timestamp_pair() {
        Some((value, echo)) => (value, Some(echo)),
        None => (0, None),
    };
    room.attributes.rcv_tsval = tsval;
    room.attributes.rcv_tsecr = tsecr.unwrap_or(0);
    check(segment, tsecr, settings, room)
}

/// A function of its own, because the hash wants the stack for itself.
#[inline(never)]
fn check(
    segment: &Segment,
    tsecr: Option<u32>,
    settings: &NodeSettings,
    room: &mut AdoptRoom,
) -> bool {
    let now = cookie::slot(unix_ms(settings) / 1000);
    match cookie::check(&segment.tcp.header, tsecr, &segment.flow, now, key) {
        Some(terms) => {
            room.terms = terms;
            true
        }
        None => false,
    }
}
