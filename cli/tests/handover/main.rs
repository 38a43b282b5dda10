//! Whole clusters on the running kernel: what has to hold of connections that are handed over, whatever
//! the method. Needs root, and says so. docs/testing.md has the numbers that can be made larger.

mod adoption;
mod bytes;
mod client;
mod cluster;
mod daemons;
mod edges;
mod failures;
mod families;
mod files;
mod forged;
mod inspectors;
mod l4;
mod limits;
mod load;
mod members;
mod odd;
mod options;
mod owners;
mod packet;
mod raw;
mod requests;
mod servers;
mod uploads;
mod wire;

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

/// Turn this on when the filter does IPv6: every case is run over IPv6 as well then, and there are those of both families.
const IPV6: bool = true;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They measure times and load the machine: not side by side.
    arguments.test_threads = Some(1);
    let cases = [
        files::CASES,
        uploads::CASES,
        edges::CASES,
        failures::CASES,
        load::CASES,
        requests::CASES,
        options::CASES,
        forged::CASES,
        members::CASES,
        daemons::CASES,
        l4::CASES,
        bytes::CASES,
        limits::CASES,
        odd::CASES,
        inspectors::CASES,
        wire::CASES,
    ];
    let over_ipv6 = METHODS_V6.iter().filter(|_| IPV6);
    let trials = METHODS.iter().chain(over_ipv6).flat_map(|method| {
        let only = if method.adopts() {
            [adoption::CASES, owners::CASES]
        } else {
            [&[][..]; 2]
        };
        let both = match IPV6 && method.family == Family::V4 {
            true => families::CASES,
            false => &[],
        };
        let cases = cases.into_iter().chain(only).chain([both]).flatten();
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
