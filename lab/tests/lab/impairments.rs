//! Each impairment is measured, and only it.

use std::time::Duration;

use dts_lab::{Direction, Effect, FileSet, Impairment, LabGuard, Network, sha256};

use crate::support::{CLIENT, N1, N2, Probe, assert_rate, read, spec, tests};

tests![
    loss_of_a_network,
    loss_of_one_way,
    duplication,
    reordering,
    delay_and_jitter,
    partition,
    what_is_lost_is_a_segment,
    a_delay_line_keeps_large_frames,
    links_go_down_and_up,
];

const SAMPLES: usize = 3000;

fn delay(milliseconds: u64, jitter: u64) -> Effect {
    let ms = Duration::from_millis;
    Effect::Delay {
        delay: ms(milliseconds),
        jitter: ms(jitter),
    }
}

fn loss_of_a_network() {
    let mut spec = spec(2);
    spec.impairments = vec![Impairment::of_network(Network::Front, Effect::Loss(0.1))];
    let lab = LabGuard::up(spec).unwrap();
    let loss = |from, to, network| Probe::run(&lab, from, to, network, SAMPLES).loss();
    // Once per frame, whatever it passes.
    assert_rate(loss(CLIENT, N1, Network::Front), 0.1, SAMPLES);
    assert_rate(loss(N1, N2, Network::Front), 0.1, SAMPLES);
    assert_eq!(loss(N1, N2, Network::Back), 0.0);
    lab.clear_impairments().unwrap();
    assert_eq!(loss(N1, N2, Network::Front), 0.0);
}

fn loss_of_one_way() {
    let lab = LabGuard::up(spec(2)).unwrap();
    let set = |direction, rate| {
        let impairment = Impairment::of_place(Network::Back, N1, Effect::Loss(rate));
        lab.impair(&impairment.one_way(direction)).unwrap();
    };
    set(Direction::From, 0.2);
    let loss = |from, to| Probe::run(&lab, from, to, Network::Back, SAMPLES).loss();
    assert_rate(loss(N1, N2), 0.2, SAMPLES);
    assert_eq!(loss(N2, N1), 0.0);
    // The same again, with another rate: it replaces the first.
    set(Direction::From, 0.0);
    set(Direction::To, 0.3);
    assert_eq!(loss(N1, N2), 0.0);
    assert_rate(loss(N2, N1), 0.3, SAMPLES);
}

fn duplication() {
    let lab = LabGuard::up(spec(2)).unwrap();
    lab.impair(
        &Impairment::of_place(Network::Front, N1, Effect::Duplicate(0.1)).one_way(Direction::From),
    )
    .unwrap();
    let from = Probe::run(&lab, N1, N2, Network::Front, SAMPLES);
    let to = Probe::run(&lab, N2, N1, Network::Front, SAMPLES);
    assert_eq!((from.loss(), to.loss()), (0.0, 0.0));
    // A duplicate may be duplicated again: 1/9, not 1/10.
    assert_rate(from.duplicates(), 1.0 / 9.0, SAMPLES);
    assert_eq!(to.duplicates(), 0.0);
    lab.clear_impairments().unwrap();
    lab.impair(&Impairment::of_network(
        Network::Front,
        Effect::Duplicate(0.1),
    ))
    .unwrap();
    let both = Probe::run(&lab, N2, N1, Network::Front, SAMPLES);
    assert_rate(both.duplicates(), 1.0 / 9.0, SAMPLES);
}

fn reordering() {
    let lab = LabGuard::up(spec(2)).unwrap();
    let before = Probe::run(&lab, N1, N2, Network::Back, SAMPLES);
    assert_eq!((before.loss(), before.overtaken()), (0.0, 0.0));
    lab.impair(&Impairment::of_network(Network::Back, Effect::Reorder(0.1)))
        .unwrap();
    let probe = Probe::run(&lab, N1, N2, Network::Back, SAMPLES);
    assert_eq!((probe.loss(), probe.duplicates()), (0.0, 0.0));
    // One that is picked is not overtaken if those right after it are picked as well.
    assert!(
        (0.05..0.12).contains(&probe.overtaken()),
        "{}",
        probe.overtaken()
    );
}

fn delay_and_jitter() {
    let lab = LabGuard::up(spec(2)).unwrap();
    lab.impair(&Impairment::of_network(Network::Back, delay(20, 0)))
        .unwrap();
    let probe = Probe::run(&lab, N1, N2, Network::Back, 500);
    assert_eq!((probe.loss(), probe.overtaken()), (0.0, 0.0));
    assert!(
        probe.travel_time(0.0) >= Duration::from_millis(20),
        "{:?}",
        probe.travel_time(0.0)
    );
    assert!(
        probe.travel_time(0.5) < Duration::from_millis(24),
        "{:?}",
        probe.travel_time(0.5)
    );

    lab.clear_impairments().unwrap();
    lab.impair(&Impairment::of_place(Network::Back, N2, delay(5, 10)).one_way(Direction::To))
        .unwrap();
    let probe = Probe::run(&lab, N1, N2, Network::Back, 500);
    assert_eq!(
        (probe.loss(), probe.overtaken()),
        (0.0, 0.0),
        "jitter keeps the order"
    );
    assert!(probe.travel_time(0.0) >= Duration::from_millis(5));
    assert!(
        probe.travel_time(0.9) > Duration::from_millis(9),
        "{:?}",
        probe.travel_time(0.9)
    );
    let back = Probe::run(&lab, N2, N1, Network::Back, 500);
    assert!(
        back.travel_time(0.5) < Duration::from_millis(4),
        "{:?}",
        back.travel_time(0.5)
    );

    lab.clear_impairments().unwrap();
    let none = Probe::run(&lab, N1, N2, Network::Back, 500);
    assert!(
        none.travel_time(0.5) < Duration::from_millis(4),
        "{:?}",
        none.travel_time(0.5)
    );
}

fn partition() {
    let lab = LabGuard::up(spec(3)).unwrap();
    lab.impair(&Impairment::of_place(Network::Front, N1, Effect::Partition))
        .unwrap();
    let arrived = |from, to, network| Probe::run(&lab, from, to, network, 100).arrived();
    assert_eq!(arrived(CLIENT, N1, Network::Front), 0);
    assert_eq!(arrived(N1, CLIENT, Network::Front), 0);
    assert_eq!(arrived(CLIENT, N2, Network::Front), 100);
    assert_eq!(arrived(N1, N2, Network::Back), 100);
    lab.clear_impairments().unwrap();
    // A neighbour that was unreachable is asked for again after a while.
    lab.sh(
        CLIENT,
        "timeout 10 sh -c 'until ping -c1 -W1 198.18.0.11; do :; done'",
    )
    .unwrap();
    assert_eq!(arrived(CLIENT, N1, Network::Front), 100);
}

fn what_is_lost_is_a_segment() {
    let lab = LabGuard::up(spec(1)).unwrap();
    lab.impair(&Impairment::of_network(Network::Front, Effect::Loss(0.01)))
        .unwrap();
    let mut files = FileSet::new(1);
    files.add("f", 20_000_000).unwrap();
    lab.publish(&[N1], &files).unwrap();
    let before = lab.counters(N1, "eth0").unwrap();
    lab.sh(CLIENT, "curl -s -o /dev/null http://198.18.0.11/f")
        .unwrap();
    let sent = lab.counters(N1, "eth0").unwrap() - before;
    assert!(sent.tx_bytes / sent.tx_frames <= 1514, "{sent:?}");
}

fn a_delay_line_keeps_large_frames() {
    let lab = LabGuard::up(spec(1)).unwrap();
    lab.impair(&Impairment::of_network(Network::Front, delay(5, 0)))
        .unwrap();
    let mut files = FileSet::new(1);
    files.add("f", 100_000_000).unwrap();
    lab.publish(&[N1], &files).unwrap();
    let counters = || {
        (
            lab.counters(N1, "eth0").unwrap(),
            lab.counters(CLIENT, "eth0").unwrap(),
        )
    };
    let (node_before, client_before) = counters();
    let target = lab.place_dir(CLIENT);
    lab.sh(
        CLIENT,
        &format!("curl -s -o {}/f http://198.18.0.11/f", target.display()),
    )
    .unwrap();
    let (node, client) = counters();
    let (sent, received) = (node - node_before, client - client_before);
    assert_eq!(sha256(&read(&target, "f")), files.files()[0].sha256);
    // Not cut up on the way: the average frame is many segments, at both ends.
    assert!(sent.tx_bytes / sent.tx_frames > 5 * 1514, "{sent:?}");
    assert!(
        received.rx_bytes / received.rx_frames > 5 * 1514,
        "{received:?}"
    );
    let retransmitted = lab
        .sh(N1, "nstat -asz TcpRetransSegs | awk '/Retrans/ {print $2}'")
        .unwrap();
    // A machine that stands still has TCP repeat some; a line that lost or cut frames, thousands of 69,000.
    let retransmitted: u32 = retransmitted.trim().parse().unwrap();
    assert!(
        retransmitted < 690,
        "the line itself loses nothing: {retransmitted}"
    );
}

fn links_go_down_and_up() {
    let lab = LabGuard::up(spec(2)).unwrap();
    lab.set_link(N1, Network::Back, false).unwrap();
    assert_eq!(Probe::run(&lab, N2, N1, Network::Back, 50).arrived(), 0);
    assert_eq!(Probe::run(&lab, N2, N1, Network::Front, 50).arrived(), 50);
    lab.set_link(N1, Network::Back, true).unwrap();
    lab.sh(
        N2,
        "timeout 10 sh -c 'until ping -c1 -W1 198.18.1.11; do :; done'",
    )
    .unwrap();
    assert_eq!(Probe::run(&lab, N2, N1, Network::Back, 50).arrived(), 50);
}
