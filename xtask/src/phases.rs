//! Runs one phase after the other, each with its time, and adds up the tests.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

/// How many tests ended in which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// What has been run so far.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    done: Vec<Phase>,
    tests: Tally,
}

#[derive(Debug)]
struct Phase {
    name: &'static str,
    time: Duration,
    ok: bool,
}

impl Phases {
    /// Runs a phase. A failure is printed and remembered, and does not keep the next from running.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        phase: impl FnOnce(&mut Tally) -> anyhow::Result<()>,
    ) {
        println!("\n=== {name}");
        let start = Instant::now();
        let mut tests = Tally::default();
        let result = phase(&mut tests);
        if let Err(error) = &result {
            eprintln!("error: {name}: {error:#}");
            // A check that fails, or tests that do not compile or crash, count as one.
            tests.failed = tests.failed.max(1);
        }
        self.tests.add(tests);
        self.done.push(Phase {
            name,
            time: start.elapsed(),
            ok: result.is_ok(),
        });
    }

    /// Prints the times and the closing line; the exit code says whether all went well.
    pub(crate) fn finish(self) -> ExitCode {
        println!("\n=== summary");
        for Phase { name, time, ok } in &self.done {
            let outcome = if *ok { "ok" } else { "FAILED" };
            println!("  {name:<32} {:>7.1} s  {outcome}", time.as_secs_f64());
        }
        println!("{}", self.tests.closing_line());
        if self.done.iter().all(|phase| phase.ok) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Tally {
    /// Counts one test.
    pub(crate) fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn closing_line(self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        let mut line = format!("{passed} passed, {failed} failed");
        if skipped > 0 {
            line += &format!(", {skipped} skipped");
        }
        line
    }

    /// Reads the line with which a test program of Rust's own harness ends.
    fn from_line(line: &str) -> Option<Self> {
        // test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished ...
        let (_, counts) = line
            .trim()
            .strip_prefix("test result: ")?
            .split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            match count.split_once(' ')? {
                (number, "passed") => tally.passed = number.parse().ok()?,
                (number, "failed") => tally.failed = number.parse().ok()?,
                (number, "ignored") => tally.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }
}

/// Runs a command that prints nothing to count.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    ensure!(status.success(), "`{}`: {status}", shown(command));
    Ok(())
}

/// Runs `cargo test`, lets its output through and counts.
pub(crate) fn run_tests(command: &mut Command, tests: &mut Tally) -> anyhow::Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    let stdout = child.stdout.take().context("the output was not piped")?;
    // Bytes, not lines of text: what a test prints need not be UTF-8.
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(tally) = Tally::from_line(&line) {
            tests.add(tally);
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    ensure!(status.success(), "`{}`: {status}", shown(command));
    Ok(())
}

fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: usize, failed: usize, skipped: usize) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn closing_lines_of_test_programs_are_read() {
        for (line, expected) in [
            (
                "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; \
                 finished in 0.00s",
                Some(tally(9, 0, 1)),
            ),
            (
                "test result: FAILED. 3 passed; 12 failed; 0 ignored; 0 measured; 0 filtered out; \
                 finished in 1.50s",
                Some(tally(3, 12, 0)),
            ),
            ("test ring::tests::vectors ... ok", None),
            ("running 9 tests", None),
            ("test result: ok", None),
            ("test result: ok. many passed; 0 failed", None),
        ] {
            assert_eq!(Tally::from_line(line), expected, "{line}");
        }
    }

    #[test]
    fn output_is_counted_over_several_test_programs() {
        let mut tests = Tally::default();
        let output = r"printf 'test result: ok. 2 passed; 0 failed; 0 ignored\n'
                       printf '\377\ntest result: ok. 3 passed; 0 failed; 1 ignored'";
        run_tests(Command::new("sh").args(["-c", output]), &mut tests).expect("sh succeeds");
        assert_eq!(tests, tally(5, 0, 1));
        assert_eq!(tests.closing_line(), "5 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_phase_that_fails_without_a_failed_test_counts_as_one() {
        let mut phases = Phases::default();
        phases.run("crash", |tests| {
            run_tests(Command::new("sh").args(["-c", "exit 101"]), tests)
        });
        phases.run("good", |tests| {
            *tests = tally(4, 0, 0);
            Ok(())
        });
        assert_eq!(phases.tests, tally(4, 1, 0));
        assert_eq!(phases.tests.closing_line(), "4 passed, 1 failed");
        assert_ne!(phases.finish(), ExitCode::SUCCESS);
    }

    #[test]
    fn failed_tests_are_counted_as_they_are() {
        let mut phases = Phases::default();
        let output = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        phases.run("tests", |tests| {
            run_tests(Command::new("sh").args(["-c", output]), tests)
        });
        assert_eq!(phases.tests, tally(1, 2, 0));
    }

    #[test]
    fn a_failed_command_is_named() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 3"])).expect_err("it fails");
        assert_eq!(error.to_string(), "`sh -c exit 3`: exit status: 3");
    }
}
