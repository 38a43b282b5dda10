//! Frames that another node, or this node's daemon, sends to this one.

use dts_core::entry::adoption::rules;
use dts_core::entry::{role, setting, state};
use dts_core::segment::ACK;
use dts_core::seq::Seq;

use super::*;
use crate::adopting::{SHOP_ID, flow_of, option_to};

pub(super) fn rows() -> Vec<Row> {
    [at_target(), forged(), comes_back(), unable(), by_daemon()]
        .into_iter()
        .flatten()
        .collect()
}

/// The frame goes back to the peer as one of this kind.
fn back(segment: &Tcp, kind: Kind) -> (Action, Out) {
    let segment = segment.clone();
    let check = move |out: &[u8]| is_adoption(out, &segment, kind, (PEER_MAC, LO_MAC));
    (Action::Refused, Out::Passes(Box::new(check)))
}

fn at_target() -> Vec<Row> {
    let first = request(&fresh(), "/");
    let sent = frame(sent_here(&first, Kind::First));
    let optioned = Tcp {
        ip_options: vec![1; 12],
        ..request(&fresh(), "/")
    };
    let spliced = request(&flow(45_000, WEB), "/");
    let not_for_us = Tcp {
        to: BACK_MAC,
        ..sent_here(&first, Kind::First)
    };
    vec![
        Row::done(
            "a request that there is no server for",
            BACK_IN,
            sent.clone(),
            nothing,
            back(&first, Kind::Refused),
        ),
        Row::done(
            "such a request with IP options of its own",
            BACK_IN,
            frame(sent_here(&optioned, Kind::First)),
            nothing,
            back(&optioned, Kind::Refused),
        ),
        Row::done(
            "such a request by way of the front",
            IN,
            sent.clone(),
            nothing,
            back(&first, Kind::Refused),
        )
        .marked(ADOPT_FRAME),
        Row::done(
            "a request to a service that is spliced here",
            BACK_IN,
            frame(sent_here(&spliced, Kind::First)),
            nothing,
            back(&spliced, Kind::Unable),
        ),
        Row::done(
            "a frame that a switch has flooded",
            BACK_IN,
            frame(not_for_us),
            nothing,
            same_as(Action::Other),
        ),
        Row::done(
            "a request while the back's reverse path filter is strict",
            BACK_IN,
            sent,
            |bench| {
                let mut node = bench.filter.node().expect("settings");
                // The programs run at interface 1 here.
                (node.front, node.flags) = (2, setting::DETOUR);
                bench.filter.set_node(&node).expect("settings");
            },
            same_as(Action::Redirected),
        )
        .code(crate::bench::REDIRECT),
        Row::drop(
            "a later segment whose first one has not come",
            BACK_IN,
            frame(sent_here(&rest(&first, b"more"), Kind::Later)),
            nothing,
            DropReason::TooEarly,
        ),
    ]
}

fn forged() -> Vec<Row> {
    let first = request(&fresh(), "/");
    let with = |option: Vec<u8>| Tcp {
        ip_options: option,
        ..sent_here(&first, Kind::First)
    };
    let option = option_of(&first, Kind::First, KEY, 0);
    let changed = |at: usize, by: u8| {
        let mut option = option.clone();
        option[at] ^= by;
        with(option)
    };
    let elsewhere = request(&flow(45_000, 443), "/");
    let drop =
        |name, segment: Tcp, reason| Row::drop(name, BACK_IN, frame(segment), nothing, reason);
    let fragment = fragment(frame(with(option.clone())), 0x2000);
    let mut header = frame(with(option.clone()));
    header[ETH + optioned_ip_len() + 12] = 0x40;
    mend(&mut header);
    vec![
        drop(
            "another cluster's key",
            with(option_of(&first, Kind::First, [0; 16], 0)),
            DropReason::BadTag,
        ),
        drop(
            "a frame that is kept for a minute",
            with(option_of(&first, Kind::First, KEY, 60)),
            DropReason::StaleHandover,
        ),
        drop(
            "a frame that is kept until its bits of time are the present ones again",
            with(option_of(&first, Kind::First, KEY, 256)),
            DropReason::BadTag,
        ),
        drop("another kind", changed(3, 1), DropReason::BadTag),
        drop(
            "a request that was sent to another node",
            Tcp {
                ip_options: option_to(OTHER, &first, Kind::First, (KEY, 0)),
                ..sent_here(&first, Kind::First)
            },
            DropReason::BadTag,
        ),
        drop("other terms", changed(4, 0x10), DropReason::BadTag),
        drop("a wrong tag", changed(15, 1), DropReason::BadTag),
        drop(
            "the option of another segment",
            with(option_of(&rest(&first, b"x"), Kind::First, KEY, 0)),
            DropReason::BadTag,
        ),
        drop(
            "a service that is not here",
            sent_here(&elsewhere, Kind::First),
            DropReason::UnknownService,
        ),
        Row::drop(
            "the first fragment of a request that is sent on",
            BACK_IN,
            fragment,
            nothing,
            DropReason::Fragment,
        ),
        Row::drop(
            "an adoption with a TCP header of sixteen bytes",
            BACK_IN,
            header,
            nothing,
            DropReason::Malformed,
        ),
        Row::drop(
            "no option at all, by way of the front",
            IN,
            frame(first.clone()),
            nothing,
            DropReason::BadOption,
        )
        .marked(ADOPT_FRAME),
    ]
}

/// What a node that the request was sent on to sends back.
fn comes_back() -> Vec<Row> {
    let refused = |first: &Tcp| frame(sent_here(first, Kind::Refused));
    let reset = |first: &Tcp| Tcp {
        // Of the IP header only the addresses are new: the option that the frame came with is gone.
        ..to_client(first, first.ack, 0, dts_core::segment::RST)
    };
    let both = |first: &Tcp, and: fn(&Bench)| {
        let given = known(first, stage::SENT, OTHER);
        move |bench: &Bench| {
            given(bench);
            and(bench);
        }
    };
    let [rescued, local, hard, last, twice, late] = [(); 6].map(|()| fresh_request());
    let to_default = known(&last, stage::SENT, PEER);
    let by_default = Tcp {
        ip_options: option_to(PEER, &last, Kind::Refused, (KEY, 0)),
        ..sent_here(&last, Kind::Refused)
    };
    let elsewhere = known(&late, stage::SENT, PEER);
    let (kept, forgotten) = (rescued.clone(), last.clone());
    let undecided = known(&twice, stage::UNDECIDED, [0; 4]);
    let later = Tcp {
        ..rest(&rescued, b"more")
    };
    vec![
        Row::done(
            "a request that its target refuses goes to the default target",
            BACK_IN,
            refused(&rescued),
            both(&rescued, nothing),
            sent_on(&rescued, Kind::First, PEER_MAC),
        )
        .then(move |bench| {
            let noted = learned(bench, &kept).expect("a record");
            let now = (noted.stage, noted.target, noted.ruling);
            assert_eq!(now, (stage::SENT, addr(PEER), SET_PEER));
        }),
        Row::done(
            "such a request whose default target is this node, without a server",
            BACK_IN,
            refused(&local),
            both(&local, |bench| {
                let local = dts_core::entry::adoption::ruling::LOCAL;
                change_service(bench, |entry| entry.default = local);
            }),
            to(
                Action::Refused,
                Tcp {
                    to: LO_MAC,
                    from: PEER_MAC,
                    ..local.clone()
                },
            ),
        )
        .code(UNSPEC),
        Row::done(
            "such a request of a service whose clients are reset then",
            BACK_IN,
            refused(&hard),
            both(&hard, |bench| {
                change_service(bench, |entry| entry.rules &= !rules::RESCUE);
            }),
            to(Action::ResetClient, reset(&hard)),
        ),
        Row::done(
            "a request that the default target refuses",
            BACK_IN,
            frame(by_default),
            to_default,
            to(Action::ResetClient, reset(&last)),
        )
        .then(move |bench| assert_eq!(learned(bench, &forgotten), None)),
        Row::drop(
            "a refusal of another node than the one that has it by now",
            BACK_IN,
            refused(&late),
            elsewhere,
            DropReason::BadTag,
        ),
        Row::drop(
            "a refusal of what nobody knows of",
            BACK_IN,
            refused(&fresh_request()),
            nothing,
            DropReason::NoEntry,
        ),
        Row::drop(
            "a refusal of what was not sent on",
            BACK_IN,
            refused(&twice),
            undecided,
            DropReason::UnknownHandover,
        ),
        Row::drop(
            "a refusal of a later segment",
            BACK_IN,
            frame(sent_here(&later, Kind::Refused)),
            known(&rescued, stage::SENT, OTHER),
            DropReason::UnknownHandover,
        ),
    ]
}

/// Targets whose kernel makes no sockets of segments. With an inspector there: see `real`.
fn unable() -> Vec<Row> {
    let [first, undecided] = [(); 2].map(|()| fresh_request());
    let sent = first.clone();
    vec![
        Row::drop(
            "a target that can't, and no inspector here",
            BACK_IN,
            frame(sent_here(&first, Kind::Unable)),
            known(&first, stage::SENT, OTHER),
            DropReason::NoService,
        )
        .then(move |bench| {
            let noted = learned(bench, &sent).expect("a record");
            assert_eq!(noted.stage, stage::BY_SOCKET);
            let flow = flow_of(&sent);
            let e = bench.entry(flow, role::INSPECTING).expect("an entry");
            assert_eq!(
                (e.state, e.client_isn, e.server_isn, e.service),
                (state::INSPECT, Seq(X), noted.server_isn, SHOP_ID)
            );
            assert_eq!(
                (e.client_mss, e.client_scale, e.announced_scale),
                (1460, 7, 7)
            );
        }),
        Row::drop(
            "a target that can't do what was not sent on",
            BACK_IN,
            frame(sent_here(&undecided, Kind::Unable)),
            known(&undecided, stage::UNDECIDED, [0; 4]),
            DropReason::UnknownHandover,
        ),
        Row::drop(
            "a target that can't do what nobody knows of",
            BACK_IN,
            frame(sent_here(&fresh_request(), Kind::Unable)),
            nothing,
            DropReason::NoEntry,
        ),
    ]
}

/// What this node's daemon gives to this node itself.
fn by_daemon() -> Vec<Row> {
    let [first, by_socket, hard] = [(); 3].map(|()| fresh_request());
    let ended = Tcp {
        flags: ACK,
        ..rest(&first, b"x")
    };
    let row = |row: Row| row.marked(ADOPT_HERE);
    vec![
        row(Row::done(
            "a request for this node, without a server",
            IN,
            frame(first.clone()),
            known(&first, stage::SENT, OWN),
            sent_on(&first, Kind::First, PEER_MAC),
        )),
        row(Row::done(
            "the same of a service whose clients are reset then",
            IN,
            frame(hard.clone()),
            {
                let given = known(&hard, stage::SENT, OWN);
                move |bench: &Bench| {
                    given(bench);
                    change_service(bench, |entry| entry.rules &= !rules::RESCUE);
                }
            },
            same_as(Action::Refused),
        ))
        .code(UNSPEC),
        row(Row::drop(
            "a later segment for this node, without a socket",
            IN,
            frame(ended),
            known(&first, stage::SENT, OWN),
            DropReason::TooEarly,
        )),
        row(Row::drop(
            "a request for this node that nobody knows of",
            IN,
            frame(fresh_request()),
            nothing,
            DropReason::NoEntry,
        )),
        row(Row::drop(
            "a request for the inspector's socket, without an inspector",
            IN,
            frame(by_socket.clone()),
            known(&by_socket, stage::BY_SOCKET, OTHER),
            DropReason::NoService,
        )),
    ]
}
