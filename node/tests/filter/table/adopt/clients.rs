//! Clients' segments with data, and the server's answer.

use dts_core::addr::FlowKey;
use dts_core::cookie::Terms;
use dts_core::entry::adoption::{ruling, track};
use dts_core::segment::{ACK, FIN, RST};
use dts_core::siphash::siphash24_words;

use super::*;
use crate::adopting::flow_of;

pub(super) fn rows() -> Vec<Row> {
    [
        decided(),
        asked(),
        refused(),
        repeated(),
        here(),
        by_daemon(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the rules decide without the daemon.
fn decided() -> Vec<Row> {
    let cases = [
        ("a path's rule", "/other", OTHER, OTHER_MAC),
        ("no rule: the default", "/", PEER, PEER_MAC),
        (
            "a node that is gone is passed over",
            "/lost/x",
            OTHER,
            OTHER_MAC,
        ),
        ("a place on the ring", "/key/a?b", OTHER, OTHER_MAC),
    ];
    let mut rows: Vec<_> = cases
        .into_iter()
        .map(|(name, path, target, mac)| {
            let segment = request(&fresh(), path);
            let out = sent_on(&segment, Kind::First, mac);
            Row::done(name, IN, frame(segment.clone()), nothing, out).then(move |bench| {
                let expected = Adoption {
                    since: 0,
                    ruling: 0,
                    ..record(&segment, stage::SENT, target)
                };
                let noted = learned(bench, &segment).expect("a record");
                let rest = Adoption {
                    since: 0,
                    ruling: 0,
                    ..noted
                };
                assert_eq!(rest, expected);
                assert_ne!(ruling::kind(noted.ruling), ruling::ASK);
            })
        })
        .collect();
    let ip_options = |n| Tcp {
        ip_options: vec![1; n],
        ..fresh_request()
    };
    let optioned = ip_options(24);
    rows.push(Row::done(
        "as many IP options as there is room for",
        IN,
        frame(optioned.clone()),
        nothing,
        sent_on(&optioned, Kind::First, OTHER_MAC),
    ));
    rows.push(
        Row::drop(
            "more IP options than there is room for",
            IN,
            frame(ip_options(28)),
            nothing,
            DropReason::RewriteFailed,
        )
        .v4_only(),
    );
    let half = Tcp {
        flags: DATA | FIN,
        ..fresh_request()
    };
    rows.push(Row::done(
        "a request with the client's FIN, and a cookie of two slots ago",
        IN,
        frame(half.clone()),
        nothing,
        sent_on(&half, Kind::First, OTHER_MAC),
    ));
    rows
}

/// What takes the daemon.
fn asked() -> Vec<Row> {
    let of = |payload: &[u8]| {
        let flow = fresh();
        answering(&flow, &cookie_of(&flow, &TERMS, 0), payload)
    };
    let long = Tcp {
        flags: DATA | FIN,
        ..of(&[b'A'; 3000])
    };
    let whole = of(&[b'A'; 2048]);
    let mut rows: Vec<_> = [
        ("half a request", of(b"GET /oth")),
        ("an odd request", of(b"get /other HTTP/1.1\r\n\r\n")),
        ("a rule that says so", request(&fresh(), "/ask/x")),
        ("more than one record holds, and a FIN", long),
        ("exactly one record", whole),
    ]
    .into_iter()
    .map(|(name, segment)| {
        let row = Row::done(
            name,
            IN,
            frame(segment.clone()),
            nothing,
            (Action::Inquired, Out::Dropped),
        );
        row.then(move |bench| {
            let noted = learned(bench, &segment).expect("a record");
            assert_eq!(noted.stage, stage::UNDECIDED);
            was_inquired(bench, &segment, &segment, asks::DECIDE);
        })
    })
    .collect();
    let first = of(b"GET /oth");
    let (second, again) = (rest(&first, b"er HTTP/1.1\r\n\r\n"), first.clone());
    for (name, segment) in [("the rest of a request", second), ("the same again", first)] {
        let given = known(&again, stage::UNDECIDED, [0; 4]);
        let (first, sent) = (again.clone(), segment.clone());
        let out = (Action::Inquired, Out::Dropped);
        let row = Row::done(name, IN, frame(segment), given, out);
        rows.push(row.then(move |bench| was_inquired(bench, &sent, &first, asks::DECIDE)));
    }
    let first = of(b"GET /oth");
    let reset = Tcp {
        flags: RST | ACK,
        ..rest(&first, b"")
    };
    let given = known(&first, stage::UNDECIDED, [0; 4]);
    let out = (Action::Inquired, Out::Dropped);
    let row = Row::done("a client gives up", IN, frame(reset.clone()), given, out);
    rows.push(row.then(move |bench| {
        was_inquired(bench, &reset, &first, asks::DECIDE);
        assert_eq!(learned(bench, &first), None);
    }));
    let segment = of(b"GET /oth");
    // The last gap is smaller than the row's own record.
    let filling = [of(&[b'A'; 3000]), of(b"GET /ot")];
    rows.push(Row::drop(
        "a daemon that does not read",
        IN,
        frame(segment),
        move |bench| filling.iter().for_each(|segment| fill(bench, segment)),
        DropReason::InspectorBusy,
    ));
    rows
}

/// Fills the ring buffer until it has no room for this segment.
fn fill(bench: &Bench, segment: &Tcp) {
    let frame = segment.frame();
    let busy = |bench: &Bench| {
        let stats = bench.stats();
        let counter = Verdict::Drop(DropReason::InspectorBusy).counter();
        stats[counter as usize].1
    };
    let before = busy(bench);
    // It has four megabytes.
    for _ in 0..2000 {
        bench.run(IN, &frame);
        if busy(bench) > before {
            return;
        }
    }
    panic!("the ring buffer does not fill");
}

/// Segments whose cookie is wrong, or whose flow another node owns.
fn refused() -> Vec<Row> {
    let get = b"GET /other HTTP/1.1\r\n\r\n";
    let flow = fresh();
    let old = answering(&flow, &cookie_of(&flow, &TERMS, 3), get);
    let right = fresh_request();
    let guessed = Tcp {
        ack: right.ack.wrapping_add(1),
        ..right.clone()
    };
    let flow = fresh();
    let others = answering(&flow, &cookie_of(&fresh(), &TERMS, 0), get);
    let flow = fresh();
    let mut better = cookie_of(&flow, &TERMS, 0);
    // Another window scale than the client was told.
    better.tsval = better.tsval.map(|value| value ^ 1);
    let forged = answering(&flow, &better, get);
    let unstamped = Tcp {
        options: vec![],
        ..fresh_request()
    };
    let drop = |name, segment: Tcp, reason| Row::drop(name, IN, frame(segment), nothing, reason);
    let owned = |name, given: fn(&Bench), reason| {
        Row::drop(name, IN, frame(fresh_request()), given, reason)
    };
    let first = fresh_request();
    let stale = Tcp {
        ack: first.ack.wrapping_add(5),
        ..first.clone()
    };
    let flow = fresh();
    let terms = Terms {
        mss: 1220,
        agreed: 0,
        client_scale: 0,
    };
    let short = answering(
        &flow,
        &cookie_of(&flow, &terms, 2),
        b"GET /ask/ HTTP/1.0\r\n\r\n",
    );
    let told = short.clone();
    vec![
        drop("a cookie that is too old", old, DropReason::BadCookie),
        drop("a guessed cookie", guessed, DropReason::BadCookie),
        drop("another flow's cookie", others, DropReason::BadCookie),
        drop("terms that were not given", forged, DropReason::BadCookie),
        drop("timestamps left out", unstamped, DropReason::BadCookie),
        owned(
            "another node's client",
            |bench| bench.own(false),
            DropReason::NotMine,
        ),
        owned(
            "a request after the lease",
            |bench| bench.lease(false),
            DropReason::LeaseExpired,
        ),
        Row::drop(
            "the rest of a connection that is another node's",
            IN,
            frame(stale),
            known(&first, stage::SENT, OTHER),
            DropReason::HandedOver,
        ),
        Row::done(
            "a cookie without timestamps, two slots old",
            IN,
            frame(short),
            nothing,
            (Action::Inquired, Out::Dropped),
        )
        .then(move |bench| {
            let noted = learned(bench, &told).expect("a record");
            assert_eq!(noted.terms(), terms);
        }),
    ]
}

/// Segments of connections that the filter knows.
fn repeated() -> Vec<Row> {
    let first = fresh_request();
    let later = rest(&first, b"more");
    let beyond = Tcp {
        seq: first.seq.wrapping_add(0x2_0000),
        ..first.clone()
    };
    let silent = fresh_request();
    let asked = silent.clone();
    let old = Adoption {
        since: (unix_ms() as u32).wrapping_sub(1000),
        ..record(&silent, stage::SENT, OTHER)
    };
    let lost = fresh_request();
    let of = |name, segment: &Tcp, given, reason| {
        Row::drop(name, IN, frame(segment.clone()), given, reason)
    };
    vec![
        Row::done(
            "a request again",
            IN,
            frame(first.clone()),
            known(&first, stage::SENT, OTHER),
            sent_on(&first, Kind::First, OTHER_MAC),
        )
        .then(|bench| assert!(bench.take_requests().is_empty())),
        Row::done(
            "a later segment of it",
            IN,
            frame(later.clone()),
            known(&first, stage::SENT, OTHER),
            sent_on(&later, Kind::Later, OTHER_MAC),
        ),
        of(
            "a segment that no client could send yet",
            &beyond,
            known(&first, stage::SENT, OTHER),
            DropReason::HandedOver,
        ),
        Row::done(
            "a request again, whose target has been silent",
            IN,
            frame(silent.clone()),
            move |bench| {
                let flow = flow_of(&silent);
                bench.filter.set_adoption(&flow, &old).expect("a record");
            },
            sent_on(&asked, Kind::First, OTHER_MAC),
        )
        .then(move |bench| was_inquired(bench, &asked, &asked, asks::SILENT)),
        of(
            "a request again, for a node whose link address was lost",
            &lost,
            known(&lost, stage::SENT, LOST),
            DropReason::NoNeighbour,
        ),
        of(
            "a reset, of which the target hears by its own means",
            &Tcp {
                flags: RST,
                ..rest(&first, b"")
            },
            known(&first, stage::SENT, OTHER),
            DropReason::NotMine,
        ),
    ]
}

/// Connections of this node's own server, and of none.
fn here() -> Vec<Row> {
    let [first, hard] = [(); 2].map(|()| request(&fresh(), "/here"));
    let later = rest(&first, b"more");
    let of = |name, segment: &Tcp, stage, reason| {
        let given = known(&first, stage, OWN);
        Row::drop(name, IN, frame(segment.clone()), given, reason)
    };
    let spoken = request(&fresh(), "/here");
    let (had, print) = (spoken.clone(), fingerprint(&flow_of(&spoken)));
    let answer = server(&flow_of(&spoken), spoken.ack, first.seq, ACK);
    let moved = spoken.clone();
    let last_words = server(&flow_of(&moved), moved.ack, first.seq, FIN | ACK);
    vec![
        Row::done(
            "a request for this node, whose server is down",
            IN,
            frame(first.clone()),
            nothing,
            sent_on(&first, Kind::First, PEER_MAC),
        ),
        Row::done(
            "the same of a service whose clients are reset then",
            IN,
            frame(hard),
            |bench| change_service(bench, |entry| entry.rules &= !rules::RESCUE),
            same_as(Action::Refused),
        )
        .code(UNSPEC),
        of(
            "a later segment before the server has answered",
            &later,
            stage::HERE,
            DropReason::TooEarly,
        ),
        of(
            "the same of what the inspector's socket shall have",
            &first,
            stage::BY_SOCKET,
            DropReason::TooEarly,
        ),
        of(
            "a request that the server has answered",
            &first,
            stage::OPEN,
            DropReason::DuplicateRequest,
        ),
        of(
            "a request that was turned away",
            &first,
            stage::REJECTED,
            DropReason::Rejected,
        ),
        Row::done(
            "the server's first segment",
            OUT,
            frame(answer),
            {
                let (flow, given) = (flow_of(&spoken), record(&spoken, stage::HERE, OWN));
                let given = Adoption { print, ..given };
                move |bench: &Bench| bench.filter.set_adoption(&flow, &given).expect("a record")
            },
            same_as(Action::Pass),
        )
        .then(move |bench| {
            let noted = learned(bench, &spoken).expect("a record");
            assert_eq!(noted.stage, stage::OPEN);
        }),
        Row::drop(
            "a request that the server has had, of which nothing else is known",
            IN,
            frame(had.clone()),
            {
                // Another connection has the flow meanwhile: its SYN has marked the record, its request taken its place.
                move |bench: &Bench| {
                    let flow = flow_of(&had);
                    bench.run(IN, &syn(&flow).frame());
                    let old = learned(bench, &had).expect("a record");
                    assert_eq!(old.track & track::STALE, track::STALE);
                    let new = Adoption {
                        server_isn: old.server_isn.plus(1),
                        ..old
                    };
                    bench.filter.set_adoption(&flow, &new).expect("a record");
                }
            },
            DropReason::DuplicateRequest,
        ),
        Row::drop(
            "what a server still sends on a connection whose next request another node has",
            OUT,
            frame(last_words.clone()),
            {
                let (flow, given) = (flow_of(&moved), record(&moved, stage::SENT, OTHER));
                let given = Adoption {
                    track: track::MOVED,
                    ..given
                };
                move |bench: &Bench| bench.filter.set_adoption(&flow, &given).expect("a record")
            },
            DropReason::MovedAway,
        ),
    ]
}

/// What a server's having had a flow's request is remembered by.
pub(super) fn fingerprint(flow: &FlowKey) -> u64 {
    let ([remote, remote_rest], [local, local_rest]) =
        (flow.remote.words_le(), flow.local.words_le());
    let ports = u64::from(flow.remote_port) << 16 | u64::from(flow.local_port);
    let last = ports << 32 | u64::from(X);
    siphash24_words(&KEY, [remote, remote_rest, local, local_rest, last])
}

/// Segments that the daemon sends on.
fn by_daemon() -> Vec<Row> {
    let sent = fresh_request();
    let row = |name, given, out| {
        let row = Row::done(name, BACK_OUT, frame(sent.clone()), given, out);
        row.marked(dts_core::entry::SEND_ON)
    };
    let drop = |name, given, reason| {
        let row = Row::drop(name, BACK_OUT, frame(sent.clone()), given, reason);
        row.marked(dts_core::entry::SEND_ON)
    };
    vec![
        row(
            "the daemon sends a request on",
            known(&sent, stage::SENT, PEER),
            sent_on(&sent, Kind::First, PEER_MAC),
        )
        .code(UNSPEC),
        row(
            "the daemon gives a request to this node",
            known(&sent, stage::SENT, OWN),
            same_as(Action::SentOn),
        ),
        row(
            "the daemon gives a request to the inspector's socket",
            known(&sent, stage::BY_SOCKET, PEER),
            same_as(Action::SentOn),
        ),
        drop(
            "the daemon sends on to a node whose link address is not known",
            known(&sent, stage::SENT, LOST),
            DropReason::NoNeighbour,
        ),
        drop(
            "the daemon sends on to a node that is gone",
            known(&sent, stage::SENT, STRANGER),
            DropReason::NotMember,
        ),
        Row::drop(
            "the daemon sends on what nobody knows of",
            BACK_OUT,
            frame(fresh_request()),
            nothing,
            DropReason::NoEntry,
        )
        .marked(dts_core::entry::SEND_ON),
    ]
}
