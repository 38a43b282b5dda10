extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::Addr;
use crate::segment::{self, ACK, MAX_OPTIONS, SYN, kind};

const KEY: [u8; 16] = *b"sixteen bytes...";
const NOW: u64 = 1_764_000_000;

fn flow() -> FlowKey {
    FlowKey {
        remote: Addr::v4([198, 18, 0, 201]),
        local: Addr::v4([198, 18, 0, 100]),
        remote_port: 40_000,
        local_port: 80,
    }
}

/// A SYN's options: maximum segment size, SACK permitted, timestamps, window scale.
fn options(mss: Option<u16>, sack: bool, stamps: bool, scale: Option<u8>) -> OptionScan {
    let mut list = Vec::new();
    if let Some(mss) = mss {
        list.extend([kind::MSS, 4]);
        list.extend(mss.to_be_bytes());
    }
    if sack {
        list.extend([kind::SACK_PERMITTED, 2]);
    }
    if stamps {
        list.extend([kind::TIMESTAMPS, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
    }
    if let Some(scale) = scale {
        list.extend([kind::WINDOW_SCALE, 3, scale]);
    }
    assert!(list.len() <= MAX_OPTIONS);
    let len = list.len();
    list.resize(64, 0);
    segment::scan(list.try_into().unwrap(), len as u32)
}

fn syn(isn: u32, flags: u8) -> TcpHeader {
    TcpHeader {
        seq: Seq(isn),
        flags: SYN | flags,
        ..TcpHeader::default()
    }
}

fn offered(flags: u8, options: OptionScan) -> Terms {
    Terms::of_syn(&syn(1, flags), &options, false)
}

/// The segment with which a client answers.
fn answer(client_isn: Seq, to: &SynAck) -> TcpHeader {
    TcpHeader {
        seq: client_isn.plus(1),
        ack: to.isn.plus(1),
        flags: ACK,
        ..TcpHeader::default()
    }
}

fn read(header: &TcpHeader, tsecr: Option<u32>, now: u64) -> Option<Terms> {
    check(header, tsecr, &flow(), now, |_| Some(&KEY))
}

fn terms() -> impl Strategy<Value = Terms> {
    let mss = prop::sample::select(&MSS_CLASSES[..]);
    let scale = prop::option::of(0..=14u8);
    (mss, scale, any::<[bool; 3]>()).prop_map(|(mss, scale, [sack, stamps, ecn])| {
        let mut agreed = 0;
        for (is, bit) in [
            (scale.is_some(), AGREED_SCALE),
            (sack, AGREED_SACK),
            (stamps, AGREED_TIMESTAMPS),
            (stamps && ecn, AGREED_ECN),
        ] {
            agreed |= if is { bit } else { 0 };
        }
        Terms {
            mss,
            agreed,
            client_scale: scale.unwrap_or(0),
        }
    })
}

proptest! {
    #[test]
    fn terms_come_back(terms in terms(), isn: u32, unix in 0..1u64 << 40, ms: u32, age in 0..=2u64) {
        let made = slot(unix);
        let sent = make(&KEY, &flow(), (Seq(isn), &terms), made, ms);
        prop_assert_eq!(sent.tsval.is_some(), terms.has(AGREED_TIMESTAMPS));
        let answer = answer(Seq(isn), &sent);
        prop_assert_eq!(read(&answer, sent.tsval, made + age), Some(terms));
        // The clock of the node that made it is ahead.
        if made > 0 {
            prop_assert_eq!(read(&answer, sent.tsval, made - 1), Some(terms));
        }
        prop_assert_eq!(read(&answer, sent.tsval, made + 3), None);
    }

    #[test]
    fn a_timestamp_is_never_ahead_nor_far_behind(terms in terms(), ms: u32) {
        let sent = make(&KEY, &flow(), (Seq(1), &terms), 1, ms);
        if let Some(value) = sent.tsval {
            prop_assert!(ms.wrapping_sub(value) < 64);
        }
    }

    #[test]
    fn no_bit_can_be_changed(terms in terms(), isn: u32, bit in 0..32u32) {
        let made = slot(NOW);
        let sent = make(&KEY, &flow(), (Seq(isn), &terms), made, 5);
        let right = answer(Seq(isn), &sent);
        let flipped = Seq(sent.isn.0 ^ 1 << bit);
        prop_assert_eq!(read(&TcpHeader { ack: flipped.plus(1), ..right }, sent.tsval, made), None);
        let other = TcpHeader { seq: Seq(right.seq.0 ^ 1 << bit), ..right };
        prop_assert_eq!(read(&other, sent.tsval, made), None);
        if let Some(value) = sent.tsval
            && bit < 6
        {
            prop_assert_eq!(read(&right, Some(value ^ 1 << bit), made), None);
            prop_assert_eq!(read(&right, None, made), None);
        }
        // A client may echo a later timestamp with the same bits.
        if let Some(value) = sent.tsval {
            prop_assert_eq!(read(&right, Some(value.wrapping_add(64)), made), Some(terms));
        }
    }
}

#[test]
fn another_flow_or_key_has_another_cookie() {
    let made = slot(NOW);
    let terms = offered(0, options(Some(1460), true, true, Some(7)));
    let sent = make(&KEY, &flow(), (Seq(7), &terms), made, 0);
    let header = answer(Seq(7), &sent);
    let with = |flow: &FlowKey, key: &[u8; 16]| {
        check(&header, sent.tsval, flow, made, |_| Some(key)).is_some()
    };
    assert!(with(&flow(), &KEY));
    assert!(!with(&flow(), b"another sixteen."));
    let (a, f) = (Addr::v4([198, 18, 0, 202]), flow());
    for other in [
        FlowKey { remote: a, ..f },
        FlowKey { local: a, ..f },
        FlowKey {
            remote_port: 40_001,
            ..f
        },
        FlowKey {
            local_port: 81,
            ..f
        },
        FlowKey {
            remote: f.local,
            local: f.remote,
            ..f
        },
    ] {
        assert!(!with(&other, &KEY), "{other}");
    }
}

#[test]
fn a_key_is_asked_for_by_the_slot_of_the_syn() {
    let made = SLOTS_OF_A_KEY * 3 - 1;
    let terms = offered(0, options(None, false, false, None));
    let sent = make(&KEY, &flow(), (Seq(7), &terms), made, 0);
    let header = answer(Seq(7), &sent);
    let mut asked = Vec::new();
    for now in [made - 1, made, made + 1, made + 2] {
        let found = check(&header, None, &flow(), now, |slot| {
            asked.push(key_number(slot));
            Some(&KEY)
        });
        assert_eq!(found, Some(terms), "{now}");
        assert_eq!(check(&header, None, &flow(), now, |_| None), None);
    }
    assert_eq!(asked, [2; 4]);
}

#[test]
fn what_a_syn_offers_is_agreed() {
    let of = offered;
    assert_eq!(
        of(ECE | CWR, options(Some(1460), true, true, Some(10))),
        Terms {
            mss: 1460,
            agreed: AGREED_SACK | AGREED_TIMESTAMPS | AGREED_SCALE | AGREED_ECN,
            client_scale: 10,
        }
    );
    // No room for ECN without timestamps; a shift above 14 is taken as 14 (RFC 7323 §2.3).
    assert_eq!(
        of(ECE | CWR, options(Some(1452), false, false, Some(15))),
        Terms {
            mss: 1440,
            agreed: AGREED_SCALE,
            client_scale: 14,
        }
    );
    // ECE alone asks for nothing (RFC 3168 §6.1.1).
    assert_eq!(
        of(ECE, options(None, false, true, None)).agreed,
        AGREED_TIMESTAMPS
    );
    // A shift of 0 is not the same as none.
    assert_eq!(
        of(0, options(None, false, false, Some(0))).agreed,
        AGREED_SCALE
    );
}

#[test]
fn sizes_are_rounded_down() {
    let of = |mss, v6| {
        let options = options(mss, false, false, None);
        Terms::of_syn(&syn(1, 0), &options, v6).mss
    };
    for (mss, class) in [
        (536, 536),
        (1219, 536),
        (1220, 1220),
        (1359, 1300),
        (1380, 1360),
        (1412, 1400),
        (1452, 1440),
        (1459, 1440),
        (1460, 1460),
        (8939, 1460),
        (8960, 8940),
        (65_535, 8940),
    ] {
        assert_eq!(of(Some(mss), false), class, "{mss}");
    }
    assert_eq!(of(None, false), 536);
    assert_eq!(of(None, true), 1220);
    assert_eq!(of(Some(1), false), 536);
    assert_eq!(of(Some(1219), true), 1220);
}

/// The layouts, once and for all: nodes of two releases must read each other's. The numbers are from a program of its
/// own, in another language.
#[test]
fn vectors() {
    let all = Terms {
        mss: 1460,
        agreed: AGREED_SACK | AGREED_TIMESTAMPS | AGREED_SCALE | AGREED_ECN,
        client_scale: 7,
    };
    let few = Terms {
        mss: 536,
        agreed: AGREED_SACK,
        client_scale: 0,
    };
    let made = slot(NOW) + 2;
    assert_eq!(made & 3, 2);
    let of = |terms| make(&KEY, &flow(), (Seq(0x1234_5678), terms), made, 1000);
    let (all, few) = (of(&all), of(&few));
    // Slot 2, class 6.
    assert_eq!(all.isn.0 >> 27, 2 << 3 | 6);
    // 1000 is 15 * 64 + 40, and the options make 55: the last value before that has them.
    assert_eq!(all.tsval, Some(14 * 64 + 55));
    // Slot 2, class 0, scale 15, SACK.
    assert_eq!(few.isn.0 >> 22, 2 << 8 | 15 << 1 | 1);
    assert_eq!(few.tsval, None);
    assert_eq!([all.isn.0, few.isn.0], [0xb66d_8e52, 0x87ef_95dc]);
}
