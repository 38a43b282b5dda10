use std::net::SocketAddr;

use dts_core::ring::RingHash;
use proptest::prelude::*;

use super::*;
use crate::cluster::tests::sample;

fn written(message: &ToProcess<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.emit(&mut out);
    out
}

fn said(message: &ToDaemon<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.emit(&mut out);
    out
}

fn targets() -> [WireTarget; 4] {
    let node = |text: &str| WireTarget::Node(text.parse().expect("an address"));
    [
        WireTarget::Default,
        WireTarget::Local,
        node("198.18.1.11"),
        node("2001:db8::11"),
    ]
}

#[test]
fn every_message_of_a_process_comes_back() {
    let longest = "s".repeat(63);
    let mut messages: Vec<ToDaemon<'_>> = ["", "web", &longest]
        .map(|service| ToDaemon::Hello {
            version: VERSION,
            service,
        })
        .to_vec();
    for id in [0, 1, u64::MAX] {
        messages.extend([ToDaemon::Reject { id }, ToDaemon::Leave { id }]);
        messages.extend(targets().map(|target| ToDaemon::Handover {
            id,
            length: 17,
            target,
        }));
    }
    for message in messages {
        let bytes = said(&message);
        assert!(bytes.len() <= MAX_TO_DAEMON, "{message:?}");
        let (frame, taken) = next_frame(&bytes, MAX_TO_DAEMON).unwrap().unwrap();
        assert_eq!(taken, bytes.len());
        assert_eq!(ToDaemon::parse(frame), Ok(message));
    }
}

#[test]
fn every_message_of_the_daemon_comes_back() {
    let client: SocketAddr = "198.18.0.200:40000".parse().unwrap();
    let local: SocketAddr = "[2001:db8::64]:80".parse().unwrap();
    let mut messages = vec![
        ToProcess::Welcome {
            version: VERSION,
            service: "web",
        },
        ToProcess::Cluster(sample(RingHash::Md5)),
        ToProcess::Cluster(sample(RingHash::SipHash { key: [7; 16] })),
        ToProcess::Opened {
            id: 3,
            client,
            local,
        },
    ];
    for reason in [Refusal::Version, Refusal::Service, Refusal::TooMany] {
        messages.push(ToProcess::Refused {
            version: VERSION,
            reason,
        });
    }
    for reason in [EndReason::Client, EndReason::Overdue, EndReason::Dropped] {
        messages.push(ToProcess::Ended { id: 9, reason });
    }
    for last in [false, true] {
        messages.push(ToProcess::Bytes {
            id: 4,
            offset: 70_000,
            last,
            data: b"GET /",
        });
    }
    for message in messages {
        let bytes = written(&message);
        let (frame, taken) = next_frame(&bytes, MAX_TO_PROCESS).unwrap().unwrap();
        assert_eq!(taken, bytes.len());
        assert_eq!(ToProcess::parse(frame), Ok(message));
    }
}

#[test]
fn the_bytes_are_these() {
    // Pinned: daemon and library may be of different builds.
    let hello = said(&ToDaemon::Hello {
        version: 1,
        service: "web",
    });
    assert_eq!(hello, b"\0\0\0\x07\x01\0\x01\x03web");
    let handover = said(&ToDaemon::Handover {
        id: 2,
        length: 300,
        target: WireTarget::Node([198, 18, 1, 11].into()),
    });
    assert_eq!(
        handover,
        b"\0\0\0\x1e\x02\0\0\0\0\0\0\0\x02\0\0\x01\x2c\x02\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x12\x01\x0b"
    );
    let bytes = written(&ToProcess::Bytes {
        id: 1,
        offset: 5,
        last: true,
        data: b"ab",
    });
    assert_eq!(bytes, b"\0\0\0\x10\x85\0\0\0\0\0\0\0\x01\0\0\0\x05\x01ab");
}

#[test]
fn a_message_that_is_cut_or_has_more_is_refused() {
    for target in targets() {
        let whole = said(&ToDaemon::Handover {
            id: 1,
            length: 2,
            target,
        });
        for end in 0..whole.len() {
            assert_eq!(next_frame(&whole[..end], MAX_TO_DAEMON), Ok(None));
            if end >= 4 {
                assert_eq!(ToDaemon::parse(&whole[4..end]), Err(Malformed::Short));
            }
        }
        let more = [&whole[4..], &[0]].concat();
        assert_eq!(ToDaemon::parse(&more), Err(Malformed::Long));
    }
}

#[test]
fn lengths_have_bounds() {
    let frame = |length: u32| length.to_be_bytes();
    assert_eq!(next_frame(&frame(0), 100), Err(Malformed::Length(0)));
    assert_eq!(next_frame(&frame(96), 100), Ok(None));
    assert_eq!(next_frame(&frame(97), 100), Err(Malformed::Length(97)));
    let text = u32::from_be_bytes(*b"GET ");
    let error = Malformed::Length(text.into());
    assert_eq!(next_frame(b"GET / HTTP/1.1\r\n", MAX_TO_DAEMON), Err(error));
    assert_eq!(
        next_frame(b"GET / HTTP/1.1\r\n", MAX_TO_PROCESS),
        Err(error)
    );
}

#[test]
fn values_have_bounds() {
    for (frame, error) in [
        (&b"\x01\0\x01\x02\xff\xfe"[..], Malformed::Value("text")),
        (
            b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\x03",
            Malformed::Value("target"),
        ),
        (b"\x05", Malformed::Kind(5)),
        (b"\x81\0\x01\0", Malformed::Kind(0x81)),
        (b"", Malformed::Short),
    ] {
        assert_eq!(ToDaemon::parse(frame), Err(error), "{frame:?}");
    }
    for (frame, error) in [
        (&b"\x82\0\x01\0"[..], Malformed::Value("reason")),
        (b"\x86\0\0\0\0\0\0\0\0\x04", Malformed::Value("reason")),
        (
            b"\x85\0\0\0\0\0\0\0\0\0\0\0\0\x02",
            Malformed::Value("flag"),
        ),
        (b"\x01\0\x01\0", Malformed::Kind(1)),
    ] {
        assert_eq!(ToProcess::parse(frame), Err(error), "{frame:?}");
    }
}

#[test]
fn a_cluster_of_the_largest_size_fits() {
    use dts_core::ring::{MAX_POINTS, RingHashSpec, RingPoint};
    let members = (0..1024u32)
        .map(|n| crate::Member {
            name: format!("{n:063}"),
            address: std::net::Ipv4Addr::from(0xc612_0000 + n).into(),
        })
        .collect();
    let points = (0..MAX_POINTS)
        .map(|n| RingPoint::new(n.into(), n % 1024))
        .collect();
    let cluster = Cluster::new(1, 0, members, RingHashSpec::default(), points);
    let message = ToProcess::Cluster(cluster.expect("consistent"));
    let bytes = written(&message);
    let (frame, _) = next_frame(&bytes, MAX_TO_PROCESS).unwrap().unwrap();
    assert_eq!(ToProcess::parse(frame), Ok(message));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = ToDaemon::parse(&bytes) {
            prop_assert_eq!(&said(&message)[4..], &bytes[..]);
        }
        if let Ok(message) = ToProcess::parse(&bytes) {
            let again = written(&message);
            prop_assert_eq!(ToProcess::parse(&again[4..]), Ok(message));
        }
    }

    #[test]
    fn bytes_of_the_right_kind_are_read_or_refused(
        kind in prop_oneof![1u8..=4, 0x81u8..=0x86],
        rest in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let bytes = [&[kind][..], &rest].concat();
        if let Ok(message) = ToDaemon::parse(&bytes) {
            // An IPv4 address has one form, so what was read is written alike.
            prop_assert_eq!(&said(&message)[4..], &bytes[..]);
        }
        if let Ok(message) = ToProcess::parse(&bytes) {
            prop_assert_eq!(&written(&message)[4..], &bytes[..]);
        }
    }
}
