//! Processor time of a kernel thread, by the scheduler's own count (`/proc/PID/task/TID/schedstat`).

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// The name of a process.
pub(crate) fn name(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim_end().to_owned())
}

/// What a thread has used so far.
pub(crate) fn of_thread(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&text).with_context(|| format!("cannot read {path}: {text}"))
}

/// The first number: nanoseconds on a processor.
fn parse(schedstat: &str) -> Option<Duration> {
    let ns = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_counts() {
        assert_eq!(parse("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_thread_has_used_something() {
        let pid = std::process::id();
        assert!(of_thread(pid).is_ok());
        assert!(name(pid).is_some());
    }
}
