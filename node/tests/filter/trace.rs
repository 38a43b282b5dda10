//! What the filter tells of packets while somebody traces.

use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::{Handover, flag};
use dts_core::segment::{ACK, SYN};
use dts_core::seq::Seq;
use dts_core::trace::{TraceRecord, TraceSettings, known, program, wish};
use dts_core::verdict::{Action, DropReason, Verdict};
use rustix::time::{ClockId, clock_gettime};

use crate::adopting::{TERMS, answering, cookie_of};
use crate::bench::{
    Bench, CLIENT, INSPECTOR, KEY, OWN, PEER, VIP, WEB, X, Y, client, flow, handover_syn, option,
    own, peer, server, syn,
};

const SHOP: u16 = crate::adopting::SHOP;

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn wanted() -> TraceSettings {
    TraceSettings {
        until: (monotonic() + Duration::from_secs(60)).as_nanos() as u64,
        ..TraceSettings::default()
    }
}

fn taken(bench: &Bench) -> Vec<TraceRecord> {
    let mut all = Vec::new();
    let count = bench.filter.take_traces(10_000, |record| all.push(*record));
    assert_eq!(count, all.len());
    all
}

/// The one record that a frame leads to.
fn one(bench: &Bench, program: &'static str, frame: &[u8]) -> TraceRecord {
    let before = monotonic().as_nanos() as u64;
    let (_, out) = bench.run(program, frame);
    let all = taken(bench);
    let [record] = all[..] else {
        panic!("{} records of a frame", all.len());
    };
    assert!((before..=monotonic().as_nanos() as u64).contains(&record.time));
    assert_eq!(program::name(record.program), Some(program));
    assert_eq!(record.before[..frame.len()], *frame);
    // What was dropped is as it came.
    if let Some(Verdict::Done(_)) = verdict(&record) {
        assert_eq!(record.lengths, [frame.len() as u32, out.len() as u32]);
        assert_eq!(record.after[..out.len()], out);
    }
    record
}

fn verdict(record: &TraceRecord) -> Option<Verdict> {
    Verdict::from_counter(record.verdict)
}

fn done(action: Action) -> Option<Verdict> {
    Some(Verdict::Done(action))
}

fn web() -> FlowKey {
    flow(40_000, WEB)
}

#[test]
fn a_record_has_the_frame_before_and_after_and_whose_it_is() {
    let bench = Bench::new(64);
    bench.filter.set_trace(&wanted()).unwrap();
    let record = one(&bench, "front_ingress", &syn(&web()).frame());
    assert_eq!(verdict(&record), done(Action::ToInspector));
    assert_eq!((record.flow, record.mark), (web(), 0));
    assert_eq!((record.known, record.client_isn), (known::CLIENT_ISN, X));

    // The inspector's port is not the service's.
    let mut answer = server(&flow(40_000, INSPECTOR), Y, X.wrapping_add(1), SYN | ACK);
    answer.options = syn(&web()).options;
    let record = one(&bench, "front_egress", &answer.frame());
    assert_eq!(
        (verdict(&record), record.flow),
        (done(Action::FromInspector), web())
    );
    assert_eq!(record.known, known::CLIENT_ISN | known::SERVER_ISN);
    assert_eq!((record.client_isn, record.server_isn), (X, Y));

    // A handover connection is its client's: at the node that made it ...
    let handover = Handover {
        flow: web(),
        target: Addr::v4(PEER),
        flags: flag::USED,
        ..Handover::default()
    };
    bench.filter.set_handover(20_001, &handover);
    let record = one(&bench, "back_egress", &own(20_001, 7, 0, SYN).frame());
    assert_eq!(
        (verdict(&record), record.flow),
        (done(Action::HandoverOut), web())
    );
    assert_eq!(
        (record.known & known::PEER, record.peer),
        (known::PEER, Addr::v4(PEER))
    );

    // ... and at the one that it was made to, whatever is dropped of it.
    let other = flow(40_001, WEB);
    let frame = handover_syn(&option(&other), PEER, 30_001, KEY).frame();
    let record = one(&bench, "back_ingress", &frame);
    assert_eq!(
        (verdict(&record), record.flow),
        (done(Action::HandoverSyn), other)
    );
    assert_eq!((record.client_isn, record.server_isn), (X, Y));
    assert_eq!(record.peer, Addr::v4(PEER));
    let late = peer(30_001, PEER, X.wrapping_add(1), Y.wrapping_add(1), ACK);
    let record = one(&bench, "back_ingress", &late.frame());
    assert_eq!(record.flow, other, "{:?}", verdict(&record));
}

#[test]
fn nothing_is_told_unasked_and_nothing_after_its_time() {
    let bench = Bench::new(64);
    let frame = syn(&web()).frame();
    bench.run("front_ingress", &frame);
    assert_eq!(taken(&bench).len(), 0);
    let passed = TraceSettings {
        until: 1,
        ..wanted()
    };
    bench.filter.set_trace(&passed).unwrap();
    bench.run("front_ingress", &frame);
    assert_eq!(taken(&bench).len(), 0);
    bench.filter.set_trace(&wanted()).unwrap();
    bench.run("front_ingress", &frame);
    assert_eq!(taken(&bench).len(), 1);
    bench.filter.set_trace(&TraceSettings::default()).unwrap();
    bench.run("front_ingress", &frame);
    assert_eq!(taken(&bench).len(), 0);
}

#[test]
fn others_segments_are_told_only_to_those_who_want_all() {
    let bench = Bench::new(64);
    bench.own(false);
    let frames = [
        (syn(&web()), DropReason::NotOwner),
        (client(&web(), X, Y, ACK), DropReason::NotMine),
        (client(&flow(40_000, SHOP), X, Y, ACK), DropReason::NotMine),
    ];
    for (segment, reason) in &frames {
        bench.filter.set_trace(&wanted()).unwrap();
        bench.run("front_ingress", &segment.frame());
        assert_eq!(taken(&bench).len(), 0, "{reason:?}");
        let all = TraceSettings {
            flags: wish::ALL,
            ..wanted()
        };
        bench.filter.set_trace(&all).unwrap();
        let record = one(&bench, "front_ingress", &segment.frame());
        assert_eq!(verdict(&record), Some(Verdict::Drop(*reason)));
        assert_eq!(record.known & known::EXTRA, known::EXTRA);
    }
    // What isn't DTS's business, and what is no segment.
    let ssh = crate::frame::Tcp {
        dst: (OWN, 22),
        ..client(&web(), X, 0, SYN)
    };
    let mut arp = [0u8; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    for frame in [ssh.frame(), arp.to_vec()] {
        bench.run("front_ingress", &frame);
        assert_eq!(taken(&bench).len(), 0);
    }
}

#[test]
fn the_acknowledgment_of_an_own_cookie_is_told() {
    let bench = Bench::new(64);
    bench.filter.set_trace(&wanted()).unwrap();
    let shop = flow(41_000, SHOP);
    let record = one(&bench, "front_ingress", &syn(&shop).frame());
    assert_eq!(verdict(&record), done(Action::SynAnswered));
    let cookie = cookie_of(&shop, &TERMS, 0);
    let mut acknowledgment = answering(&shop, &cookie, b"");
    acknowledgment.flags = ACK;
    let record = one(&bench, "front_ingress", &acknowledgment.frame());
    assert_eq!(verdict(&record), Some(Verdict::Drop(DropReason::NotMine)));
    // Later ones say nothing: the connection has a record.
    let request = answering(&shop, &cookie, b"GET /other HTTP/1.1\r\n\r\n");
    let record = one(&bench, "front_ingress", &request.frame());
    assert_eq!(verdict(&record), done(Action::SentOn));
    assert_eq!(Seq(record.server_isn), cookie.isn);
    bench.run("front_ingress", &acknowledgment.frame());
    assert_eq!(taken(&bench).len(), 0);
}

#[test]
fn only_what_is_wanted_is_told() {
    let bench = Bench::new(64);
    let frame = syn(&web()).frame();
    let other = Addr::v4([198, 18, 0, 77]);
    let all = wanted();
    for (settings, count) in [
        (all, 1),
        (
            TraceSettings {
                client: Addr::v4(CLIENT),
                ..all
            },
            1,
        ),
        (
            TraceSettings {
                client: other,
                ..all
            },
            0,
        ),
        (
            TraceSettings {
                client_port: 40_000,
                ..all
            },
            1,
        ),
        (
            TraceSettings {
                client_port: 40_001,
                ..all
            },
            0,
        ),
        (
            TraceSettings {
                vip: Addr::v4(VIP),
                port: WEB.into(),
                ..all
            },
            1,
        ),
        (
            TraceSettings {
                vip: Addr::v4(VIP),
                port: 25,
                ..all
            },
            0,
        ),
    ] {
        bench.filter.set_trace(&settings).unwrap();
        bench.run("front_ingress", &frame);
        assert_eq!(taken(&bench).len(), count, "{settings:?}");
    }
}

#[test]
fn a_handover_that_is_refused_is_told_to_everybody() {
    let bench = Bench::new(64);
    let other = Addr::v4([198, 18, 0, 77]);
    let wanted = TraceSettings {
        client: other,
        ..wanted()
    };
    bench.filter.set_trace(&wanted).unwrap();
    let frame = handover_syn(&option(&web()), PEER, 30_001, [0; 16]).frame();
    let record = one(&bench, "back_ingress", &frame);
    assert_eq!(verdict(&record), Some(Verdict::Drop(DropReason::BadTag)));
    assert_eq!(record.flow, FlowKey::default());
    // What comes from a client says whose it is.
    bench.run("front_ingress", &syn(&flow(40_000, 443)).frame());
    assert_eq!(taken(&bench).len(), 0);
}

#[test]
fn what_finds_no_room_is_counted() {
    let bench = Bench::new(64);
    bench.filter.set_trace(&wanted()).unwrap();
    let frame = syn(&web()).frame();
    let runs = 4000;
    bench.filter.time("front_ingress", &frame, runs).unwrap();
    let told = taken(&bench).len() as u64;
    let missed = bench.filter.traces_missed().unwrap();
    assert!(told > 1000 && missed > 1000, "{told} told, {missed} missed");
    assert_eq!(told + missed, u64::from(runs));
}
