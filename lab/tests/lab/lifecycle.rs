//! Labs come and go without a trace, whatever happens to their makers.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dts_lab::{
    Effect, Impairment, Lab, LabError, LabGuard, LabSpec, Network, Place, Signal, down, list,
};

use crate::support::{
    CLIENT, N1, assert_gone, fresh_name, pids_of, spec, tests, this_program, traces,
};

tests![
    everything_goes_down,
    a_guard_cleans_up_after_a_panic,
    another_process_can_open_and_remove_it,
    the_second_of_a_name_is_refused,
    a_failing_lab_removes_itself,
    a_killed_maker_leaves_what_down_removes,
    an_interrupted_maker_leaves_nothing,
    places_that_are_not_there_are_named,
    sixteen_nodes,
];

/// A lab with one of everything that can be left behind.
fn full_spec() -> LabSpec {
    let mut spec = spec(2);
    spec.cluster.daemons = true;
    spec.nodes[0].cpu_quota = Some(0.5);
    spec.nodes[0].memory_limit = Some(128 << 20);
    spec.impairments = vec![
        Impairment::of_network(Network::Front, Effect::Loss(0.01)),
        Impairment::of_network(
            Network::Back,
            Effect::Delay {
                delay: Duration::from_millis(1),
                jitter: Duration::ZERO,
            },
        ),
    ];
    spec
}

fn everything_goes_down() {
    let spec = full_spec();
    let name = spec.name.clone();
    assert_gone(&name);
    let lab = Lab::up(spec).unwrap();
    // Processes that have children, and one that does not want to end.
    let mark = format!("--lab-mark={name}");
    let mut family = Command::new("sh");
    family.args(["-c", "sleep 1000 & sleep 1001 & wait", &mark]);
    let mut stubborn = Command::new("sh");
    stubborn.args(["-c", "trap '' TERM; while :; do sleep 1; done", &mark]);
    lab.spawn(N1, &family).unwrap();
    lab.spawn(CLIENT, &stubborn).unwrap();
    let _capture = lab.capture(N1, "eth0", "tcp").unwrap();

    let up = traces(&name);
    let count = |part: &str| up.iter().filter(|trace| trace.contains(part)).count();
    assert_eq!(count("/run/netns/"), 4, "{up:?}");
    assert_eq!(count("/sys/fs/bpf/"), 2, "{up:?}");
    assert!(count("/sys/fs/cgroup/") >= 1, "{up:?}");
    // Two nginx with a worker each, two daemons, a delay line, tcpdump, the two above and their
    // children.
    assert!(count("process ") >= 12, "{up:?}");

    lab.down().unwrap();
    assert_gone(&name);
    lab.down().unwrap();
}

fn a_guard_cleans_up_after_a_panic() {
    let spec = spec(1);
    let name = spec.name.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _lab = LabGuard::up(spec).unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(result.is_err());
    assert_gone(&name);
}

fn another_process_can_open_and_remove_it() {
    let name = fresh_name();
    let dts_lab = |arguments: &[&str]| {
        let output = Command::new(this_program())
            .arg("lab")
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    dts_lab(&["up", "--name", &name, "--nodes", "1", "--no-daemon"]);
    assert!(
        list()
            .iter()
            .any(|lab| lab.name == name && lab.nodes == Some(1) && lab.processes >= 2)
    );
    let who = dts_lab(&[
        "exec",
        "--name",
        &name,
        "client",
        "--",
        "curl",
        "-s",
        "http://198.18.0.11/whoami",
    ]);
    assert_eq!(who, "n1\n");
    assert!(dts_lab(&["list"]).contains(&name));
    assert_eq!(
        dts_lab(&["impair", "--name", &name, "--loss", "front=1%"]),
        "front loss 1%\n"
    );
    assert_eq!(Lab::open(&name).unwrap().impairments().unwrap().len(), 1);
    assert_eq!(dts_lab(&["impair", "--name", &name, "--clear"]), "");
    dts_lab(&["down", &name]);
    assert_gone(&name);
    assert!(matches!(Lab::open(&name), Err(LabError::NotFound { .. })));
}

fn the_second_of_a_name_is_refused() {
    let spec = spec(1);
    let first = LabGuard::up(spec.clone()).unwrap();
    assert!(matches!(Lab::up(spec), Err(LabError::Exists { .. })));
    assert_eq!(
        first
            .sh(CLIENT, "curl -s http://198.18.0.11/whoami")
            .unwrap(),
        "n1\n"
    );
}

fn a_failing_lab_removes_itself() {
    let mut spec = spec(2);
    spec.nodes[1].sysctls = vec![("net.ipv4.no_such_setting".into(), "1".into())];
    let name = spec.name.clone();
    let error = Lab::up(spec).unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
    assert_gone(&name);
}

fn a_killed_maker_leaves_what_down_removes() {
    for milliseconds in [5, 15, 40, 80, 120, 200, 400] {
        let name = fresh_name();
        let mut maker = start_maker(&name);
        thread::sleep(Duration::from_millis(milliseconds));
        maker.kill().unwrap();
        maker.wait().unwrap();
        down(&name).unwrap();
        assert_gone(&name);
    }
}

fn an_interrupted_maker_leaves_nothing() {
    for milliseconds in [40, 80, 120, 200] {
        let name = fresh_name();
        let mut maker = start_maker(&name);
        thread::sleep(Duration::from_millis(milliseconds));
        let pid = rustix::process::Pid::from_child(&maker);
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        let status = maker.wait().unwrap();
        if status.success() {
            // It was done before.
            down(&name).unwrap();
        }
        assert_gone(&name);
    }
}

/// `dts lab up` in a process of its own.
fn start_maker(name: &str) -> Child {
    Command::new(this_program())
        .args([
            "lab",
            "up",
            "--name",
            name,
            "--nodes",
            "2",
            "--no-daemon",
            "--cpu",
            "0.5",
        ])
        .args(["--delay", "back=1ms"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn places_that_are_not_there_are_named() {
    let lab = LabGuard::up(spec(1)).unwrap();
    let error = lab.sh(Place::Node(2), "true").unwrap_err().to_string();
    assert!(error.contains("has no `n2`: it has 1 nodes"), "{error}");
    assert!(lab.set_link(CLIENT, Network::Back, false).is_err());
    assert!(
        lab.sh(CLIENT, "echo oops >&2; exit 3")
            .unwrap_err()
            .to_string()
            .contains("oops")
    );
}

fn sixteen_nodes() {
    let spec = spec(16);
    let name = spec.name.clone();
    let start = Instant::now();
    let lab = LabGuard::up(spec).unwrap();
    let script = "for i in $(seq 11 26); do curl -s http://198.18.0.$i/whoami; done";
    let answers = lab.sh(CLIENT, script).unwrap();
    let answers: BTreeSet<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 16);
    assert!(!pids_of(&name).is_empty());
    drop(lab);
    assert_gone(&name);
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}
