//! Whole clusters on the running kernel: what has to hold of connections that are handed over, whatever
//! the method. Needs root, and says so. docs/testing.md has the numbers that can be made larger.

mod adoption;
mod bytes;
mod client;
mod cluster;
mod daemons;
mod edges;
mod extension;
mod failures;
mod families;
mod files;
mod forged;
mod greetings;
mod inspectors;
mod l4;
mod limits;
mod load;
mod lossy;
mod members;
mod odd;
mod options;
mod owners;
mod packet;
mod raw;
mod replayed;
mod requests;
mod servers;
mod uploads;
mod wire;

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use cluster::{METHODS, METHODS_V6};
use dts_lab::Family;

/// A case's name, and what it does for one way of handing over.
type Case = (&'static str, fn(&'static cluster::Method));

/// Names the cases of a module.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        pub(crate) const CASES: &[crate::Case] =
            &[$((concat!(module_path!(), "::", stringify!($case)), $case)),+];
    };
}
pub(crate) use cases;

/// What runs over IPv4 and over IPv6.
const BOTH: &[&[Case]] = &[
    files::CASES,
    uploads::CASES,
    edges::CASES,
    failures::CASES,
    requests::CASES,
    options::CASES,
    lossy::CASES,
    forged::CASES,
    replayed::CASES,
    members::CASES,
    l4::CASES,
    greetings::CASES,
    odd::CASES,
    wire::CASES,
];
/// What is about something else than packets, or takes long: over IPv6 as well where `DTS_IPV6` is `all`.
const LONG: &[&[Case]] = &[
    load::CASES,
    daemons::CASES,
    bytes::CASES,
    limits::CASES,
    inspectors::CASES,
];
/// What chooses its families for itself.
const IPV4: &[&[Case]] = &[families::CASES];
/// Of adopted connections only.
const ADOPT: &[&[Case]] = &[adoption::CASES, owners::CASES];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They measure times and load the machine: not side by side.
    arguments.test_threads = Some(1);
    let all = env::var("DTS_IPV6").is_ok_and(|which| which == "all");
    let trials = METHODS.iter().chain(METHODS_V6).flat_map(|method| {
        let v4 = method.family == Family::V4;
        let sets = [
            (BOTH, true),
            (LONG, v4 || all),
            (IPV4, v4),
            (ADOPT, method.adopts()),
        ];
        let chosen = sets.into_iter().filter(|(_, chosen)| *chosen);
        let cases = chosen.flat_map(|(cases, _)| cases.iter().copied().flatten());
        cases.map(move |(name, case)| {
            let name = name.trim_start_matches("handover::");
            Trial::test(format!("{}::{name}", method.name), move || {
                require_root()?;
                cluster::run_over(method.family);
                case(method);
                Ok(())
            })
        })
    });
    let trials = trials.collect();
    dts_lab::remove_on_signals().expect("signals can be handled");
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that cannot run fails; one that is skipped silently tests nothing.
fn require_root() -> Result<(), Failed> {
    match fs::metadata("/proc/self").map(|process| process.uid()) {
        Ok(0) => Ok(()),
        _ => Err("clusters need root: run the tests with sudo".into()),
    }
}
