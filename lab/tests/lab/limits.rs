//! A node's share of the machine.

use std::fs;
use std::process::Command;
use std::thread;

use dts_lab::{LabGuard, Network, Place};

use crate::support::{N1, spec, tests, wait_for};

tests![
    a_quota_limits_throughput,
    a_quota_covers_the_receive_path,
    receiving_is_counted_as_the_receivers,
    memory_is_limited
];

/// New connections per second that a node's nginx takes.
fn rate(lab: &LabGuard, client: Place, node: Place) -> f64 {
    let address = node.address(Network::Front).unwrap();
    let report = lab
        .sh(
            client,
            &format!("wrk -t1 -c16 -d4 -H 'Connection: close' http://{address}/whoami"),
        )
        .unwrap();
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("{report}"))
}

fn a_quota_limits_throughput() {
    let mut spec = spec(2);
    spec.clients = 2;
    spec.nodes[0].cpu_quota = Some(0.05);
    spec.nodes[1].cpu_quota = Some(0.15);
    let lab = LabGuard::up(spec).unwrap();
    // Side by side, so that what else the machine does hits both.
    let (small, large) = thread::scope(|scope| {
        let small = scope.spawn(|| rate(&lab, Place::Client(1), Place::Node(1)));
        let large = scope.spawn(|| rate(&lab, Place::Client(2), Place::Node(2)));
        (small.join().unwrap(), large.join().unwrap())
    });
    let ratio = large / small;
    assert!(
        (2.0..4.5).contains(&ratio),
        "{small} and {large} per second: {ratio}, not about 3"
    );
}

fn a_quota_covers_the_receive_path() {
    let mut spec = spec(1);
    spec.nodes[0].cpu_quota = Some(0.2);
    let lab = LabGuard::up(spec).unwrap();
    let group = format!("dts-lab/{}-n1", lab.spec().name);
    let group = ["cpu/", "unified/", ""]
        .iter()
        .map(|tree| format!("/sys/fs/cgroup/{tree}{group}/cgroup.procs"))
        .find(|path| fs::exists(path).unwrap())
        .expect("the node's control group");
    let names = || -> Vec<String> {
        let pids = fs::read_to_string(&group).unwrap();
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let mut names: Vec<String> = pids
            .lines()
            .map(name)
            .map(|name| name.trim().to_owned())
            .collect();
        names.sort();
        names
    };
    let expect = |names: Vec<String>, more: &[&str]| {
        let count = |part: &str| names.iter().filter(|name| name.starts_with(part)).count();
        assert_eq!(
            (count("napi/eth0-"), count("napi/eth1-"), count("nginx")),
            (1, 1, 2),
            "{names:?}"
        );
        assert_eq!(names.len(), 4 + more.len(), "{names:?}");
        more.iter()
            .for_each(|name| assert_eq!(count(name), 1, "{names:?}"));
    };
    // The server answers before it has forked its last process, perhaps.
    wait_for(|| names().len() >= 4);
    expect(names(), &[]);
    // Another thread does it after the interface was down.
    lab.set_link(N1, Network::Front, false).unwrap();
    lab.set_link(N1, Network::Front, true).unwrap();
    expect(names(), &[]);
    // Whatever is started later is in as well, with its children.
    let mut family = Command::new("sh");
    family.args(["-c", "tail -f /dev/null & wait"]);
    let process = lab.spawn(N1, &family).unwrap();
    // The child is a second `sh` until it has become `tail`.
    wait_for(|| names().iter().any(|name| name == "tail"));
    expect(names(), &["sh", "tail"]);
    process.stop();
}

fn receiving_is_counted_as_the_receivers() {
    let mut spec = spec(1);
    spec.nodes[0].cpu_quota = Some(1.0);
    let lab = LabGuard::up(spec).unwrap();
    let client = Place::Client(1);
    assert!(lab.cpu_time(client).is_err(), "it is not counted yet");
    lab.count_cpu(client).unwrap();
    let used = |place| lab.cpu_time(place).unwrap();
    let (node_before, client_before) = (used(N1), used(client));
    let runs_before = receive_runs(&lab, N1);
    // The client's program is not in its group: it was not started in the lab's way. Its receive path is.
    let connect = || {
        let address = N1.address(Network::Front).unwrap();
        let one = |_: &i32| std::net::TcpStream::connect((address, 80)).is_ok();
        let connected = lab.within(client, || (0..300).filter(one).count());
        assert_eq!(connected.unwrap(), 300);
    };
    connect();
    let runs = receive_runs(&lab, N1) - runs_before;
    assert!(
        runs > 100,
        "the thread ran {runs} times for 300 connections"
    );
    assert!(used(N1) > node_before && used(client) > client_before);
    // As long as large segments may come, nothing comes by the thread.
    lab.receive_in_thread(N1, false).unwrap();
    let runs_before = receive_runs(&lab, N1);
    connect();
    let runs = receive_runs(&lab, N1) - runs_before;
    assert!(runs < 100, "the thread ran {runs} times");
}

/// How often the threads that receive for a place have run.
fn receive_runs(lab: &LabGuard, place: Place) -> u64 {
    let group = format!("dts-lab/{}-{place}", lab.spec().name);
    let pids = ["cpu/", "unified/", ""]
        .iter()
        .find_map(|tree| {
            fs::read_to_string(format!("/sys/fs/cgroup/{tree}{group}/cgroup.procs")).ok()
        })
        .expect("the place's control group");
    let runs = |pid: &str| -> Option<u64> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        // proc(5): time on a processor, time waiting for one, number of times it ran.
        let schedule = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
        let runs = schedule.split_whitespace().nth(2)?.parse().ok()?;
        name.starts_with("napi/eth0-").then_some(runs)
    };
    pids.lines().filter_map(runs).sum()
}

fn memory_is_limited() {
    let mut spec = spec(2);
    spec.nodes[0].memory_limit = Some(64 << 20);
    let lab = LabGuard::up(spec).unwrap();
    let take = "head -c 200000000 /dev/zero | tail -c 150000000 | wc -c";
    assert_eq!(lab.sh(Place::Node(2), take).unwrap().trim(), "150000000");
    // The kernel ends the one that takes too much.
    let limited = lab.sh(N1, take).map(|count| count.trim().to_owned());
    assert!(
        limited
            .as_deref()
            .map_or(true, |count| count != "150000000"),
        "{limited:?}"
    );
}
