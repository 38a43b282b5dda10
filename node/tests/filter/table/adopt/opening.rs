//! SYNs, and how a connection ends that has no request.

use std::time::Duration;

use dts_core::cookie::{self, Terms};
use dts_core::handover::{AGREED_ECN, AGREED_SACK, AGREED_SCALE, AGREED_TIMESTAMPS};
use dts_core::ring::RingHashSpec;
use dts_core::segment::{ACK, CWR, ECE, FIN, RST, SYN, TcpHeader};
use dts_core::seq::Seq;

use super::*;

pub(super) fn rows() -> Vec<Row> {
    [answered(), dropped(), without_request()]
        .into_iter()
        .flatten()
        .collect()
}

/// What the SYN-ACK of a SYN must say.
struct Answer {
    terms: Terms,
    flags: u8,
    /// Its options, with zeros for the timestamp value.
    options: Vec<u8>,
}

const ALL: u32 = AGREED_SACK | AGREED_TIMESTAMPS | AGREED_SCALE;

fn answered() -> Vec<Row> {
    let flow = fresh();
    let linux = syn(&flow);
    // The segment size announced: an IPv6 header and its option take 28 bytes more.
    let mss: u16 = if ip_len() == 20 { 1444 } else { 1416 };
    let [high, low] = mss.to_be_bytes();
    let stamps =
        |sack: [u8; 2]| [&[2, 4, high, low][..], &sack, &timestamps(0, 1000)[2..]].concat();
    let scale = [1, 3, 3, 7];
    let full = [stamps([4, 2]), scale.to_vec()].concat();
    let answer = |terms, flags, options: &[u8]| Answer {
        terms,
        flags,
        options: options.to_vec(),
    };
    let terms = |mss, agreed, client_scale| Terms {
        mss,
        agreed,
        client_scale,
    };
    let ip_options = vec![1; 8];
    let no_stamps = [2, 4, 5, 0xa0, 4, 2, 1, 3, 3, 10, 1, 1];
    let only_stamps = [&[2, 4, 0x22, 0xf0][..], &timestamps(1000, 0)].concat();
    let ecn = Tcp {
        flags: SYN | ECE | CWR,
        ..linux.clone()
    };
    let changed = |options: &[u8]| Tcp {
        options: options.to_vec(),
        ..linux.clone()
    };
    let small = [&[2, 4, high, low, 4, 2][..], &[1; 10], &scale].concat();
    let bare = [&[2, 4, high, low][..], &[1; 16]].concat();
    let unscaled = [stamps([1, 1]), vec![1; 4]].concat();
    [
        (
            "a SYN with all that Linux offers",
            linux.clone(),
            answer(TERMS, 0, &full),
        ),
        (
            "a SYN with IP options",
            Tcp {
                ip_options,
                ..linux.clone()
            },
            answer(TERMS, 0, &full),
        ),
        (
            "a SYN that asks for ECN",
            ecn.clone(),
            answer(terms(1460, ALL | AGREED_ECN, 7), ECE, &full),
        ),
        (
            "a SYN without timestamps",
            changed(&no_stamps),
            // 1440 = 0x5a0; the scale is the client's in the cookie, ours in the option.
            answer(terms(1440, AGREED_SACK | AGREED_SCALE, 10), 0, &small),
        ),
        (
            "a SYN without timestamps that asks for ECN",
            Tcp {
                options: no_stamps.to_vec(),
                ..ecn
            },
            answer(terms(1440, AGREED_SACK | AGREED_SCALE, 10), 0, &small),
        ),
        (
            "a SYN with timestamps alone, of a client that takes jumbo frames",
            changed(&only_stamps),
            answer(terms(8940, AGREED_TIMESTAMPS, 0), 0, &unscaled),
        ),
        (
            "a SYN without options",
            changed(&[]),
            // What a client takes that says nothing.
            answer(
                terms(if ip_len() == 20 { 536 } else { 1220 }, 0, 0),
                0,
                &bare,
            ),
        ),
        (
            "a SYN with data",
            Tcp {
                payload: vec![0x5a; 777],
                ..linux
            },
            answer(TERMS, 0, &full),
        ),
    ]
    .map(|(name, segment, answer)| {
        let sent = segment.clone();
        let check = move |out: &[u8]| is_syn_ack(name, out, &sent, &answer);
        let out = Out::Passes(Box::new(check));
        Row::done(
            name,
            IN,
            frame(segment),
            nothing,
            (Action::SynAnswered, out),
        )
    })
    .into()
}

/// The frame is the answer to the SYN, whole: only cookie and clock are read from it, and they are right.
fn is_syn_ack(name: &str, out: &[u8], syn: &Tcp, answer: &Answer) {
    let word = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().expect("four"));
    let isn = word(ETH + ip_len() + 4);
    let mut options = answer.options.clone();
    let mut tsval = None;
    if answer.terms.agreed & AGREED_TIMESTAMPS != 0 {
        let value = word(ETH + ip_len() + 28);
        options[8..12].copy_from_slice(&value.to_be_bytes());
        let age = (unix_ms() as u32).wrapping_sub(value);
        assert!(age < 2000, "{name}: the clock is {age} ms behind");
        tsval = Some(value);
    }
    let expected = Tcp {
        to: CLIENT_MAC,
        from: FRONT_MAC,
        ip_options: vec![],
        seq: isn,
        ack: X.wrapping_add(1),
        flags: SYN | ACK | answer.flags,
        // As much as the inspector takes.
        window: 32_768,
        options,
        payload: vec![],
        ..syn.reversed()
    }
    .frame();
    same(name, out, &expected);
    let next = TcpHeader {
        seq: Seq(X).plus(1),
        ack: Seq(isn).plus(1),
        flags: ACK,
        ..TcpHeader::default()
    };
    let flow = crate::adopting::flow_of(syn);
    let read = cookie::check(&next, tsval, &flow, slot(), |_| Some(&COOKIE_KEY));
    assert_eq!(read, Some(answer.terms), "{name}: what the cookie says");
}

fn dropped() -> Vec<Row> {
    let drop =
        |name, given: fn(&Bench), reason| Row::drop(name, IN, frame(syn(&fresh())), given, reason);
    let mut bad_option = frame(syn(&fresh()));
    // The header ends beyond the frame.
    bad_option[ETH + ip_len() + 12] = 0xf0;
    mend(&mut bad_option);
    vec![
        drop(
            "another's SYN, adopting",
            |bench| bench.own(false),
            DropReason::NotOwner,
        ),
        drop(
            "an owned SYN after the lease, adopting",
            |bench| bench.lease(false),
            DropReason::LeaseExpired,
        ),
        drop(
            "a SYN without a ring, adopting",
            |bench| {
                let empty =
                    bench
                        .filter
                        .publish_ring(0, 2, RingHashSpec::default(), &[], Duration::ZERO);
                empty.expect("published");
            },
            DropReason::NoRing,
        ),
        drop(
            "a SYN without a key for cookies",
            |bench| {
                // Keys of another time, in the places of the present ones.
                let number = cookie::key_number(slot()) + 4;
                let keys = [(number, COOKIE_KEY), (number + 1, COOKIE_KEY)];
                bench.filter.set_cookie_keys(&keys).expect("keys");
            },
            DropReason::NoRing,
        ),
        Row::drop(
            "a SYN whose options are not there",
            IN,
            bad_option,
            nothing,
            DropReason::Malformed,
        ),
    ]
}

fn without_request() -> Vec<Row> {
    let opened = || answering(&fresh(), &cookie_of(&fresh(), &TERMS, 0), &[]);
    let bare = |flags| {
        let flow = fresh();
        Tcp {
            flags,
            ..answering(&flow, &cookie_of(&flow, &TERMS, 0), &[])
        }
    };
    let fin = bare(FIN | ACK);
    let answer = Tcp {
        window: u16::MAX,
        ..to_client(&fin, fin.ack, X.wrapping_add(2), FIN | ACK)
    };
    let wrong = Tcp {
        flags: FIN | ACK,
        ..opened()
    };
    let drop = |name, segment, reason| Row::drop(name, IN, frame(segment), nothing, reason);
    vec![
        Row::done(
            "a client that ends before it has sent anything",
            IN,
            frame(fin.clone()),
            nothing,
            to(Action::FinAnswered, answer),
        )
        .then(move |bench| assert_eq!(learned(bench, &fin), None)),
        drop("a FIN without a cookie", wrong, DropReason::BadCookie),
        drop("the handshake's end", bare(ACK), DropReason::NotMine),
        drop("a reset of nothing", bare(RST), DropReason::NotMine),
        drop("a client's SYN-ACK", bare(SYN | ACK), DropReason::NotMine),
        Row::done(
            "a server's segment that nothing is known of",
            OUT,
            frame(server(&fresh(), 1, 1, ACK)),
            nothing,
            same_as(Action::Pass),
        ),
    ]
}
