//! Labs on the running kernel. Needs root, and says so.
//!
//! This program also plays `dts`: labs start it as `lab delay-line` and `node`.

mod daemons;
mod impairments;
mod lifecycle;
mod limits;
mod support;
mod traffic;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A test filter is one word; these are more.
    match words[..] {
        ["lab", _, ..] => return support::play_lab(),
        ["node", "--config", config] => return daemons::play_daemon(config),
        ["detach", "--config", _] => return ExitCode::SUCCESS,
        _ => {}
    }

    let mut arguments = Arguments::from_args();
    // They measure: not side by side.
    arguments.test_threads = Some(1);
    let tests = [
        lifecycle::TESTS,
        traffic::TESTS,
        impairments::TESTS,
        limits::TESTS,
        daemons::TESTS,
    ];
    let trials = tests.into_iter().flatten().map(|(name, test)| {
        Trial::test(*name, move || {
            support::require_root()?;
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
