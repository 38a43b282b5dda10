//! What several tests need.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use dts_lab::{Lab, LabSpec, Network, Place};
use libtest_mimic::Failed;

/// A test's name and what it does.
pub(crate) type Test = (&'static str, fn());

/// Names the tests of a module.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[crate::support::Test] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),+];
    };
}
pub(crate) use tests;

pub(crate) const CLIENT: Place = Place::Client(1);
pub(crate) const N1: Place = Place::Node(1);
pub(crate) const N2: Place = Place::Node(2);

#[derive(Debug, Parser)]
enum Dts {
    Lab(dts_lab::cli::LabArgs),
}

/// What `dts lab ...` does.
pub(crate) fn play_lab() -> ExitCode {
    let Dts::Lab(arguments) = Dts::parse();
    match dts_lab::cli::run(arguments, this_program()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn this_program() -> PathBuf {
    std::env::current_exe().expect("the test program's path")
}

/// A test that cannot run fails; one that is skipped silently tests nothing.
pub(crate) fn require_root() -> Result<(), Failed> {
    let owner = fs::metadata("/proc/self").map(|process| process.uid());
    match owner {
        Ok(0) => Ok(()),
        _ => Err("labs need root: run the tests with sudo".into()),
    }
}

/// A lab name that no other test or test run has.
pub(crate) fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "t{}x{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A lab of some nodes without daemons.
pub(crate) fn spec(nodes: u8) -> LabSpec {
    LabSpec::new(fresh_name(), nodes, this_program()).without_daemons()
}

/// Everything in the system that carries a lab's name, and its processes.
pub(crate) fn traces(lab: &str) -> BTreeSet<String> {
    let prefix = format!("{lab}-");
    let mut traces = BTreeSet::new();
    let mut add = |dir: &str, prefix: &str| {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                traces.insert(entry.path().display().to_string());
            }
        }
    };
    add("/run/netns", &format!("dts-{prefix}"));
    add("/run/dts-lab", lab);
    add("/sys/fs/bpf/dts-lab", &prefix);
    for tree in ["cpu/", "memory/", "unified/", ""] {
        add(&format!("/sys/fs/cgroup/{tree}dts-lab"), &prefix);
    }
    traces.extend(pids_of(lab).into_iter().map(|pid| format!("process {pid}")));
    traces
}

/// The processes of which the command line or the working state names a lab's directory.
pub(crate) fn pids_of(lab: &str) -> BTreeSet<i32> {
    let needles = [format!("/run/dts-lab/{lab}/"), format!("--lab-mark={lab}")];
    let namespaces: BTreeSet<(u64, u64)> = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("dts-{lab}-"))
        })
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .map(|file| (file.dev(), file.ino()))
        .collect();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).into_owned();
            let inside = fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|file| namespaces.contains(&(file.dev(), file.ino())));
            inside || needles.iter().any(|needle| command_line.contains(needle))
        })
        .collect()
}

/// Fails when anything of the lab is left.
pub(crate) fn assert_gone(lab: &str) {
    assert_eq!(traces(lab), BTreeSet::new());
}

/// What became of numbered datagrams.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) sent: usize,
    /// Numbers and travel times in the order of arrival.
    pub(crate) received: Vec<(usize, Duration)>,
}

impl Probe {
    /// Sends numbered datagrams from one place to another, in this direction only.
    pub(crate) fn run(lab: &Lab, from: Place, to: Place, network: Network, count: usize) -> Self {
        let address = |place: Place| SocketAddr::from((place.address(network).unwrap(), 0));
        let bind = |place| {
            lab.within(place, || UdpSocket::bind(address(place)))
                .unwrap()
                .unwrap()
        };
        let (sender, receiver) = (bind(from), bind(to));
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        // Neighbours that don't know each other yet would queue, and drop, the first ones. Where
        // nothing arrives at all, that is the result.
        receiver
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let known = |_| {
            let _ = sender.send(&usize::MAX.to_be_bytes());
            receiver.recv(&mut [0; 8]).is_ok()
        };
        (0..60).any(known);
        receiver
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();

        let start = Instant::now();
        let sending = thread::spawn(move || {
            let mut times = Vec::new();
            for number in 0..count {
                times.push(start.elapsed());
                // Lost by its own interface: it does not arrive, as the receiver will notice.
                let _ = sender.send(&number.to_be_bytes());
                thread::sleep(Duration::from_micros(300));
            }
            times
        });
        let mut arrivals = Vec::new();
        let mut buffer = [0; 8];
        while let Ok(8) = receiver.recv(&mut buffer) {
            let number = usize::from_be_bytes(buffer);
            if number != usize::MAX {
                arrivals.push((number, start.elapsed()));
            }
        }
        let times = sending.join().unwrap();
        let travel = |(number, arrival): (usize, Duration)| (number, arrival - times[number]);
        Self {
            sent: count,
            received: arrivals.into_iter().map(travel).collect(),
        }
    }

    /// How many different datagrams arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.received
            .iter()
            .map(|(number, _)| number)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// The part that was lost.
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.arrived() as f64 / self.sent as f64
    }

    /// The part that arrived more than once.
    pub(crate) fn duplicates(&self) -> f64 {
        (self.received.len() - self.arrived()) as f64 / self.sent as f64
    }

    /// The part that arrived after one that was sent later.
    pub(crate) fn overtaken(&self) -> f64 {
        let mut highest = 0;
        let late = self.received.iter().filter(|(number, _)| {
            highest = highest.max(*number);
            *number < highest
        });
        late.count() as f64 / self.sent as f64
    }

    /// The travel time that a part (0 to 1) of the datagrams did not exceed.
    pub(crate) fn travel_time(&self, part: f64) -> Duration {
        let mut times: Vec<Duration> = self.received.iter().map(|(_, time)| *time).collect();
        times.sort();
        times[((times.len() - 1) as f64 * part) as usize]
    }
}

/// Fails unless a measured rate is what it should be, give or take six standard deviations.
#[track_caller]
pub(crate) fn assert_rate(measured: f64, expected: f64, samples: usize) {
    let deviation = (expected * (1.0 - expected) / samples as f64).sqrt();
    let tolerance = 6.0 * deviation + 1e-9;
    assert!(
        (measured - expected).abs() <= tolerance,
        "measured {measured}, expected {expected} ± {tolerance}"
    );
}

/// Bytes of a file below a directory.
pub(crate) fn read(dir: &Path, file: &str) -> Vec<u8> {
    fs::read(dir.join(file)).unwrap()
}

/// Waits for a condition that is about to hold.
#[track_caller]
pub(crate) fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "it did not come about within five seconds"
        );
        thread::sleep(Duration::from_millis(10));
    }
}
